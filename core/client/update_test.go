package client

import "testing"

// What a change of the room did has the change's place in the log, after what was said
// before it.
func TestUpdatePlaces(t *testing.T) {
	w := newWorld(t, 34)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	alice.seen = nil
	alice.say(room, "before")
	bob.invite(room, user("carol"))
	bob.say(room, "after")
	agree(room, alice, bob, carol)
	in := append(alice.saw(DeviceIn), alice.saw(MemberIn)...)
	h, err := alice.History(ctx, room, 0, 10)
	if err != nil || len(in) != 2 || len(h) != 2 {
		t.Fatalf("alice has %+v, %+v: %v", in, h, err)
	}
	for _, u := range in {
		if u.Seq <= h[0].Seq || u.Seq >= h[1].Seq {
			t.Errorf("%+v is not between %d and %d", u, h[0].Seq, h[1].Seq)
		}
	}
}
