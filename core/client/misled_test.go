package client

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// lied has a member make a commit that its homeservers do not agree on, and the room's
// log keep it before what they did agree on: as at a homeserver that somebody misled.
func (w *world) lied(room core.RoomID, by *phone) (seq uint64, commit []byte) {
	w.Helper()
	log := slices.Clone(w.log)
	real := w.fork(room, by, "b.example")
	lie := w.rooms[room].log[len(w.rooms[room].log)-1]
	w.rooms[room], w.signs, w.log = real, nil, log
	e := w.append(room, wire.Event{Sender: lie.Sender, Sealed: lie.Sealed}, real.policy.Participants())
	return e.Seq, lie.Sealed
}

// A homeserver that was misled shows a false commit with the certificate of the one that
// took its place, once it knows that: its devices, which waited for it, pass it over. They
// follow the other one where they are shown it, and else enter the room anew.
func TestFalseCommit(t *testing.T) {
	for _, shown := range []bool{true, false} {
		w := newWorld(t, 60)
		alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
		room := alice.create("tea")
		alice.invite(room, user("bob"), user("carol"))
		agree(room, alice, bob, carol)
		calm(alice, bob, carol)
		seq, _ := w.lied(room, carol)
		var cert []byte // none yet
		w.forge = func(ev *wire.Event) {
			if ev.Seq == seq {
				ev.Certificate = cert
			}
		}
		bob.sync()
		before := bob.secret(room)
		w.forge = nil
		w.log = slices.DeleteFunc(w.log, func(e *fakeEvent) bool { return e.Seq == seq }) // who is not misled has no such thing
		lie := w.rooms[room].log[seq-1]
		delete(lie.for_, alice.User())
		delete(lie.for_, carol.User())
		alice.must(alice.Describe(ctx, room, "coffee", ""))
		alice.say(room, "hello")
		if !shown {
			delete(w.rooms[room].log[seq].for_, bob.User())
		}
		cert = w.rooms[room].log[seq].Certificate
		lie.Certificate = cert
		if bob.sync(); !shown && bob.secret(room) != before {
			t.Fatal("bob is in an epoch that nobody showed him")
		}
		for range 15 {
			bob.sync()
			bob.must(bob.Tend(ctx))
			w.sleep(ctx, time.Second)
		}
		agree(room, alice, bob)
		if n := len(bob.saw(Resynced)); n != 0 == shown {
			t.Errorf("shown %v: bob entered anew %d times", shown, n)
		}
		if got := bob.read(room); shown && !slices.Contains(got, "alice: hello") {
			t.Errorf("bob reads %q", got)
		}
		if warned := bob.saw(Alarm); len(bob.saw(Halted)) != 0 || !slices.ContainsFunc(warned, func(u Update) bool { return strings.Contains(u.Text, "misled") }) {
			t.Errorf("bob is told %+v, and halts: %+v", warned, bob.saw(Halted))
		}
		bob.say(room, "back")
		agree(room, alice, bob)
		if got := alice.read(room); got[len(got)-1] != "bob: back" {
			t.Errorf("alice reads %q", got)
		}
	}
}
