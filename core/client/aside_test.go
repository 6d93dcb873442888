package client

import (
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
)

// On the homeserver's word alone a device erases nothing: where it lied the device goes
// on, and where the user was taken out the room's log says so in the end.
func TestSetAside(t *testing.T) {
	w := newWorld(t, 43)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"), user("carol"))
	agree(room, alice, bob, carol)
	before := bob.secret(room)
	w.hide = room // bob is in it no more, says the homeserver
	bob.sync()
	if left, err := bob.Left(ctx); err != nil || len(left) != 1 || len(bob.saw(RoomLeft)) != 1 {
		t.Fatalf("bob is told %+v, left %+v, %v", bob.seen, left, err)
	}
	if _, err := bob.Send(ctx, room, "", []byte("hello?")); core.CodeOf(err) != core.Denied {
		t.Errorf("bob speaks in a room that was left: %v", err)
	}
	alice.say(room, "where is bob?")
	bob.open() // what is set aside is on disk
	w.hide = ""
	for range 3 {
		bob.sync()
		w.clock = w.clock.Add(2 * firstGrace)
		bob.must(bob.Tend(ctx))
	}
	if got := bob.read(room); bob.secret(room) != before || !slices.Contains(got, "alice: where is bob?") {
		t.Fatalf("bob does not go on where he was: %q", got)
	}
	for range 2 { // taken out, and erased in the end
		alice.must(alice.Remove(ctx, room, user("bob")))
		bob.sync()
		w.clock = w.clock.Add(keepAside / 2)
		bob.must(bob.Tend(ctx))
		if len(bob.kv.tables[tableGroup+string(room)]) == 0 {
			t.Fatal("the group is erased on the homeserver's word")
		}
		alice.invite(room, user("bob"))
		agree(room, alice, bob)
	}
	alice.must(alice.Remove(ctx, room, user("bob")))
	bob.sync()
	w.clock = w.clock.Add(keepAside + 1e9)
	bob.must(bob.Tend(ctx))
	if n := len(bob.kv.tables[tableGroup+string(room)]); n != 0 {
		t.Fatalf("%d rows of the group are kept for ever", n)
	}
}

// While a group is set aside a Welcome leads to the same room or nowhere: its
// homeserver cannot say "left" and then have a member of its own welcome the device to
// a copy.
func TestWelcomeToACopy(t *testing.T) {
	w := newWorld(t, 44)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"), user("carol"))
	alice.must(alice.SetRole(ctx, room, core.RoleOperator, user("carol")))
	agree(room, alice, bob, carol)
	before := bob.secret(room)
	w.hide = room
	bob.sync()
	w.hide = ""
	real := w.copied(room)
	log := slices.Clone(w.log)
	carol.must(carol.Remove(ctx, room, user("bob")))
	carol.invite(room, user("bob"))
	w.log = log
	for i, copied := len(real.certs), w.rooms[room].certs; i < len(copied); i++ { // carol took others' word, or did not ask
		cert, err := epoch.ParseCertificate(copied[i])
		if err != nil {
			t.Fatal(err)
		}
		copied[i] = w.certify([]string{"b.example"}, cert.Facts())
	}
	bob.sync()
	if len(bob.saw(Alarm)) == 0 {
		t.Fatalf("bob is not warned: %+v", bob.seen)
	}
	w.rooms[room] = real
	for range 2 {
		bob.sync()
		w.clock = w.clock.Add(2 * firstGrace)
		bob.must(bob.Tend(ctx))
	}
	if bob.secret(room) != before {
		t.Fatal("bob is in the copy")
	}
}
