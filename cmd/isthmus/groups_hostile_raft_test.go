package main

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// metric returns the value of one line of what Prometheus would be told.
func (h *homeserver) metric(name string) (n int) {
	h.t.Helper()
	_, rest, found := strings.Cut(h.metrics(), "\n"+name+" ")
	if _, err := fmt.Sscan(rest, &n); !found || err != nil {
		h.t.Fatalf("%s does not count %s: %v", h.domain, name, err)
	}
	return n
}

// raftID is a homeserver's name in raft (PROTOCOL §6).
func raftID(h *homeserver) *uint64 {
	sum := sha256.Sum256([]byte(h.domain))
	return proto.Uint64(binary.BigEndian.Uint64(sum[:8]))
}

// lieAboutLeading sends well-formed messages of the agreement in which c.example claims to
// lead, stands for election, votes, and has votes for others, with terms near and far, and
// goes on with it while the others go on.
func (f *forger) lieAboutLeading(t *testing.T, o *honest, to ...*homeserver) {
	t.Helper()
	send := func(h *homeserver, lies ...*pb.Message) {
		raft := wire.Raft{}
		for _, m := range lies {
			body, err := proto.Marshal(m)
			if err != nil {
				t.Error(err)
			}
			raft.Messages = append(raft.Messages, core.PeerMessage{Room: o.g.room, Kind: core.PeerRaft, Body: body})
		}
		f.expect("claims to lead", h, "raft", raft, "")
	}
	before := make([]int, len(to))
	for i, h := range to {
		before[i] = h.metric("isthmus_agreement_ignored_total")
		for _, far := range []uint64{1 << 10, 1 << 40} {
			send(h, f.claims(h, o.b.home, far)...)
		}
	}
	o.goesOn("claims to lead and to be elected")
	stop := make(chan struct{})
	var work sync.WaitGroup
	work.Go(func() {
		for term := uint64(1 << 11); ; term += 64 {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
				send(to[0], &pb.Message{Type: pb.MsgHeartbeat.Enum(), From: raftID(f.as), To: raftID(to[0]), Term: &term})
			}
		}
	})
	func() {
		defer work.Wait() // also when nobody can commit
		defer close(stop)
		for range 3 {
			o.goesOn("one claim after the other, in higher and higher terms")
		}
	}()
	for i, h := range to {
		if n := h.metric("isthmus_agreement_ignored_total") - before[i]; n < 40 {
			t.Errorf("%s has passed over only %d messages", h.domain, n)
		}
		if n := h.metric("isthmus_agreement_faults_total"); n != 0 {
			t.Errorf("%s has loaded the room anew %d times", h.domain, n)
		}
	}
}

// claims are messages to a homeserver in which the forger leads in a term or wants to, and
// votes of its own and of another.
func (f *forger) claims(to, other *homeserver, term uint64) (all []*pb.Message) {
	add := func(typ pb.MessageType, change func(m *pb.Message)) {
		m := &pb.Message{Type: typ.Enum(), From: raftID(f.as), To: raftID(to), Term: &term}
		change(m)
		all = append(all, m)
	}
	add(pb.MsgHeartbeat, func(m *pb.Message) {})
	add(pb.MsgHeartbeat, func(m *pb.Message) { m.Commit = proto.Uint64(1 << 50) })
	for at := range uint64(20) { // one of them fits the end of the log
		add(pb.MsgApp, func(m *pb.Message) {
			m.Index, m.LogTerm, m.Commit = &at, proto.Uint64(1), proto.Uint64(at+1)
			m.Entries = []*pb.Entry{{Index: proto.Uint64(at + 1), Term: &term, Type: pb.EntryNormal.Enum()}}
		})
	}
	add(pb.MsgSnap, func(m *pb.Message) {
		m.Snapshot = &pb.Snapshot{Data: []byte("snapshot"), Metadata: &pb.SnapshotMetadata{Index: proto.Uint64(1 << 20), Term: &term,
			ConfState: &pb.ConfState{Voters: []uint64{*raftID(f.as)}, Learners: []uint64{*raftID(to)}}}}
	})
	add(pb.MsgTimeoutNow, func(m *pb.Message) {})
	for _, typ := range []pb.MessageType{pb.MsgVote, pb.MsgPreVote, pb.MsgVoteResp, pb.MsgPreVoteResp} {
		add(typ, func(m *pb.Message) { m.Index, m.LogTerm = proto.Uint64(1<<30), proto.Uint64(term-1) })
		add(typ, func(m *pb.Message) { m.From = raftID(other) })
	}
	return all
}
