package client

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// copied puts a copy in the room's place, and returns the room as it is.
func (w *world) copied(room core.RoomID) *fakeRoom {
	real := w.rooms[room]
	w.rooms[room] = new(*real)
	w.rooms[room].log, w.rooms[room].certs, w.rooms[room].trees = slices.Clone(real.log), slices.Clone(real.certs), maps.Clone(real.trees)
	return real
}

// fork has a member make a change in a copy of the room that only liar signs, and
// leaves the copy in the room's place. It returns the room as it is.
func (w *world) fork(room core.RoomID, member *phone, liar string) *fakeRoom {
	real := w.copied(room)
	w.signs = func([]string) []string { return []string{liar} }
	if err := member.Renew(ctx, room); core.CodeOf(err) != core.Unavailable || err == nil {
		w.Fatalf("an honest device follows what one homeserver has signed: %v", err)
	}
	return real
}

func unproven(t *testing.T, p *phone, err error) {
	t.Helper()
	if core.CodeOf(err) != core.Invalid || core.ReasonOf(err) != core.Unproven {
		t.Fatalf("%s takes what is not proven: %v", p.name, err)
	}
	if p.sync(); len(p.saw(Alarm)) == 0 || !strings.Contains(p.saw(Alarm)[0].Text, "not proven") {
		t.Fatalf("%s is not told: %+v", p.name, p.seen)
	}
}

// A homeserver that has a member on its side cannot make a device of its own enter a
// group that only it and that member know.
func TestCopyOfARoom(t *testing.T) {
	w := newWorld(t, 40)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"), user("carol"))
	agree(room, alice, bob, carol)
	before := bob.secret(room)
	real := w.fork(room, carol, "b.example")
	unproven(t, bob, bob.Resync(ctx, room))
	w.lend = func(s *wire.GroupState) { // a true one of the same epoch before it changes nothing
		last := len(s.Certificates) - 1
		s.Certificates = [][]byte{w.certify([]string{"a.example", "b.example", "c.example"}, approvalOf(t, s.Certificates[last])), s.Certificates[last]}
	}
	unproven(t, bob, bob.Resync(ctx, room))
	w.lend = nil
	if bob.secret(room) != before {
		t.Fatal("bob is in the copy")
	}
	w.rooms[room], w.signs = real, nil
	bob.must(bob.Resync(ctx, room))
	agree(room, alice, bob)
	if rooms, err := bob.Rooms(ctx); err != nil || rooms[0].Name != "tea" {
		t.Fatalf("bob is in %+v, %v", rooms, err)
	}
}

// Who comes for the first time knows nobody in the room: the homeservers that decide
// there have to sign that it came in, and it is told who they are.
func TestFirstEntry(t *testing.T) {
	w := newWorld(t, 41)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	dave, erin := w.phone(user("dave"), nil), w.phone(user("erin"), nil)
	room := alice.create("tea", policy.OpenJoin())
	alice.must(erin.Join(ctx, room, "")) // of epoch 0, which the room's own homeserver keeps alone
	alice.invite(room, user("bob"), user("carol"))
	agree(room, alice, bob, carol, erin)
	if erin.sync(); !strings.Contains(erin.saw(RoomJoined)[0].Text, "a.example") {
		t.Errorf("erin is not told who vouches: %+v", erin.seen)
	}
	for name, lend := range map[string]func(*wire.GroupState){
		"no certificate":          func(s *wire.GroupState) { s.Certificates = nil },
		"one of an earlier epoch": func(s *wire.GroupState) { s.Certificates = s.Certificates[:len(s.Certificates)-1] },
		"none that can be read":   func(s *wire.GroupState) { s.Certificates = [][]byte{{1}} },
		"too many":                func(s *wire.GroupState) { s.Certificates = make([][]byte, maxChain+1) },
	} {
		w.lend = lend
		if err := dave.Join(ctx, room, ""); core.ReasonOf(err) != core.Unproven {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.lend = nil
	real := w.fork(room, carol, "d.example")
	unproven(t, dave, dave.Join(ctx, room, ""))
	if len(dave.saw(RoomJoined)) != 0 {
		t.Fatalf("dave is in the copy: %+v", dave.seen)
	}
	w.rooms[room], w.signs = real, nil
	dave.must(dave.Join(ctx, room, ""))
	agree(room, alice, bob, dave)
	if text := dave.saw(RoomJoined)[0].Text; !strings.HasPrefix(text, "vouched for by ") || !strings.Contains(text, "a.example, b.example") {
		t.Errorf("dave is not told who vouches: %q", text)
	}
}

// Where the certificate of a device's own commit cannot be had, the device is not in the
// room, and enters anew in the end.
func TestEntryWithoutCertificate(t *testing.T) {
	w := newWorld(t, 46)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea", policy.OpenJoin())
	w.lacks = 1
	if err := bob.Join(ctx, room, ""); core.CodeOf(err) != core.Unavailable || err == nil {
		t.Fatalf("bob is in: %v", err)
	}
	if _, err := bob.Send(ctx, room, "", []byte("hello")); err == nil {
		t.Errorf("bob speaks in a room that he is not in: %v", err)
	}
	w.clock = w.clock.Add(proofGrace)
	if err := bob.Tend(ctx); core.CodeOf(err) != core.Unavailable || err == nil {
		t.Fatalf("bob is in: %v", err)
	}
	w.clock = w.clock.Add(enterLatest)
	bob.must(bob.Tend(ctx))
	agree(room, alice, bob)
	if alice.sync(); len(alice.saw(MemberIn)) != 1 {
		t.Errorf("alice saw %+v", alice.seen)
	}
}

// A device that was away while others came to decide follows the certificates of the
// commits that said so, and takes nobody's word for it.
func TestOthersDecide(t *testing.T) {
	w := newWorld(t, 42)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	tablet := w.phone(user("alice"), alice)
	room := alice.create("tea")
	tablet.must(tablet.Join(ctx, room, ""))
	agree(room, alice, tablet)
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	alice.must(alice.SetAuthority(ctx, room, policy.Authority{Domains: []string{"b.example"}}))
	alice.must(alice.Describe(ctx, room, "coffee", ""))
	w.lend = func(s *wire.GroupState) { s.Certificates = s.Certificates[len(s.Certificates)-1:] }
	unproven(t, tablet, tablet.Resync(ctx, room))
	w.lend = nil
	tablet.must(tablet.Resync(ctx, room))
	agree(room, alice, tablet)
	if in := tablet.saw(DeviceIn); len(in) != 1 || in[0].User != user("bob") {
		t.Errorf("the tablet is not told who came in: %+v", in)
	}
}

func approvalOf(t *testing.T, certificate []byte) epoch.Approval {
	cert, err := epoch.ParseCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	a := cert.Facts()
	a.Tree = bytes.Repeat([]byte{1}, 32)
	return a
}

// Who knows the room at an epoch takes none of before for it, nor one that begins anew:
// a homeserver after which the room is named cannot say that nothing has happened yet.
func TestNotTheBeginning(t *testing.T) {
	w := newWorld(t, 47)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	bob.mu.Lock()
	defer bob.mu.Unlock()
	r, err := bob.Client.group(ctx, room)
	bob.must(err)
	shown := *r.g.Public().Context()
	bob.must(bob.prove(ctx, room, nil, &shown)) // its own state needs no certificate
	if shown.Epoch = 0; bob.prove(ctx, room, nil, &shown) == nil {
		t.Fatal("bob takes an empty room for the one that it knows")
	}
}

// A certificate that nobody had the time to verify proves nothing.
func TestInterruptedProof(t *testing.T) {
	w := newWorld(t, 48)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	cert, err := epoch.ParseCertificate(w.certify([]string{"a.example"}, epoch.Approval{Room: room, Epoch: 9, Commit: make([]byte, 32), Voters: []string{"a.example"}}))
	bob.must(err)
	over, cancel := context.WithCancel(ctx)
	cancel()
	bob.mu.Lock()
	defer bob.mu.Unlock()
	by := policy.Authority{Domains: []string{"a.example"}}
	bob.must(bob.signedBy(ctx, cert, by)) // the keys are pinned now
	if err := bob.signedBy(over, cert, by); !core.Temporary(err) || err == nil {
		t.Fatalf("interrupted, and taken: %v", err)
	}
}
