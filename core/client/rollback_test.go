package client

import (
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

// A homeserver cannot take a device back to an epoch that is over: whoever left since
// would read along again.
func TestRollback(t *testing.T) {
	w := newWorld(t, 11)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"), user("carol"))
	agree(room, alice, bob, carol)
	old := *w.rooms[room]
	alice.must(alice.Remove(ctx, room, user("carol")))
	agree(room, alice, bob)
	now, before := *w.rooms[room], bob.secret(room)
	w.rooms[room].public, w.rooms[room].policy, w.rooms[room].info = old.public, old.policy, old.info
	if err := bob.Resync(ctx, room); core.CodeOf(err) != core.Invalid || err == nil {
		t.Fatalf("bob enters an epoch that is over: %v", err)
	}
	if bob.sync(); bob.secret(room) != before || len(bob.saw(Alarm)) != 1 {
		t.Fatalf("bob is taken back, or not warned: %+v", bob.seen)
	}
	w.rooms[room].public, w.rooms[room].policy, w.rooms[room].info = now.public, now.policy, now.info
	bob.must(bob.Resync(ctx, room))
	agree(room, alice, bob)
}
