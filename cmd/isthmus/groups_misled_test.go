package main

import (
	"context"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A keeper is a device's homeserver that keeps a handshake to itself, once it is asked to.
type keeper struct {
	*httpHome
	asked atomic.Bool
	kept  atomic.Pointer[wire.Handshake]
}

// Handshake implements client.Home.
func (k *keeper) Handshake(ctx context.Context, room core.RoomID, h wire.Handshake) (wire.Decided, error) {
	if k.asked.Load() {
		k.kept.Store(&h)
		return wire.Decided{}, core.Errorf(core.Unavailable, "kept")
	}
	return k.httpHome.Handshake(ctx, room, h)
}

// mislead says to a homeserver that h is agreed on, whatever the end of its log is.
func (f *forger) mislead(to *homeserver, h *core.Handshake) {
	f.t.Helper()
	var raft wire.Raft
	term := uint64(1 << 10)
	for after := range uint64(100) {
		for last := range uint64(20) {
			body, err := proto.Marshal(&pb.Message{Type: pb.MsgApp.Enum(), From: raftID(f.as), To: raftID(to), Term: &term, Index: &after, LogTerm: proto.Uint64(last + 1),
				Commit: proto.Uint64(after + 1), Entries: []*pb.Entry{{Index: proto.Uint64(after + 1), Term: &term, Type: pb.EntryNormal.Enum(), Data: h.Encode()}}})
			if err != nil {
				f.t.Fatal(err)
			}
			raft.Messages = append(raft.Messages, core.PeerMessage{Room: h.Room, Kind: core.PeerRaft, Body: body})
		}
	}
	for part := range slices.Chunk(raft.Messages, 200) {
		f.expect("claims that something is agreed", to, "raft", wire.Raft{Messages: part}, "")
	}
}

// TestGroupsMisled: c.example decides with others, and tells d.example, which follows, that
// a commit is agreed of which nobody else knows. It lets somebody in there. d.example finds
// back when the others go on, its device enters the room anew, and who was let in by the
// false commit was never in the room.
func TestGroupsMisled(t *testing.T) {
	c := newCluster(t, false, "a.example", "b.example", "c.example", "d.example")
	c.start()
	d, ctx := c.homes[3], t.Context()
	alice, bob, dave := c.newPhone(c.homes[0], "alice", nil), c.newPhone(c.homes[1], "bob", nil), c.newPhone(d, "dave", nil)
	k := new(keeper)
	carol := c.newPhone(c.homes[2], "carol", func(h *httpHome) client.Home { k.httpHome = h; return k })
	room, err := alice.Create(ctx, client.NewRoom{Name: "garden"})
	if err == nil {
		_, err = alice.Invite(ctx, room, bob.User(), carol.User(), dave.User())
	}
	if err == nil {
		err = alice.SetAuthority(ctx, room, policy.Authority{Domains: []string{"a.example", "b.example", "c.example"}})
	}
	if err == nil {
		err = alice.SetRole(ctx, room, core.RoleOperator, carol.User())
	}
	if err != nil {
		t.Fatal(err)
	}
	before := converge(t, room, alice, bob, carol, dave)
	erin := c.newPhone(d, "erin", nil)
	k.asked.Store(true)
	inviting, caught := context.WithCancel(ctx)
	go func() {
		defer caught()
		for k.kept.Load() == nil && sleepFor(inviting, 10*time.Millisecond) == nil {
		}
	}()
	if _, err := carol.Invite(inviting, room, erin.User()); err == nil || k.kept.Load() == nil {
		t.Fatalf("carol's commit is not kept: %v", err)
	}
	carol.stop()
	f := c.newForger(c.homes[2])
	in := k.kept.Load()
	f.mislead(d, &core.Handshake{Room: room, By: carol.Device(), Home: "c.example", Message: in.Message, More: in.More, Welcome: in.Welcome, Info: in.Info, Records: in.Records})
	inTheEnd(t, "d.example is misled", func() bool {
		r, err := dave.api.Room(ctx, room)
		return err == nil && r.Epoch == before.Epoch+1
	})
	inTheEnd(t, "erin hears of the room", func() bool { return erin.info(room).Room == room })
	if _, err := erin.say(ctx, room, "hello?"); err == nil {
		t.Error("erin speaks in an epoch that nobody signed")
	}
	for _, p := range []*phone{alice, bob, alice} {
		if _, err := renews(p, room, groupPatience); err != nil {
			t.Fatal(err)
		}
	}
	converge(t, room, alice, bob, dave)
	for _, p := range []*phone{alice, dave} {
		if _, err := p.say(ctx, room, "said by "+p.name); err != nil {
			t.Fatal(err)
		}
	}
	dave.hear(room, []string{"alice: said by alice"})
	alice.hear(room, []string{"dave: said by dave"})
	warned := func(p *phone) (all []string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, u := range p.news {
			if u.Warning() {
				all = append(all, u.Text)
			}
		}
		return all
	}
	t.Logf("dave is warned %q, erin %q", warned(dave), warned(erin))
	if !slices.ContainsFunc(warned(dave), func(s string) bool { return strings.Contains(s, "misled") }) {
		t.Error("dave is not told that the homeserver was misled")
	}
	if erin.info(room).Joined {
		t.Error("erin is in the room")
	}
	if _, err := alice.Invite(ctx, room, erin.User()); err != nil {
		t.Fatal(err)
	}
	converge(t, room, alice, bob, dave, erin)
}
