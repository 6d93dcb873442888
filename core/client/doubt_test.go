package client

import (
	"slices"
	"strings"
	"testing"
)

// A device that signed two truths, or that its user has revoked, is believed by
// homeservers that do not know; who does know is told that it reads along.
func TestDoubt(t *testing.T) {
	for _, c := range []struct {
		name, text string
		fall       func(alice, tablet *phone)
	}{
		{"contradicts itself", "contradict", func(alice, tablet *phone) { alice.known[tablet.Device()].Refused = true }},
		{"revoked", "revoked", func(alice, tablet *phone) {
			tablet.must(tablet.Revoke(ctx))
			alice.must(alice.enter(ctx))
			defer alice.mu.Unlock()
			alice.must(alice.meet(ctx, user("bob")))
		}},
	} {
		w := newWorld(t, 45)
		alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
		tablet := w.phone(user("bob"), bob)
		room := alice.create("tea")
		alice.invite(room, user("bob"))
		agree(room, alice, bob, tablet)
		bob.must(bob.RemoveDevice(ctx, tablet.Device()))
		agree(room, alice, bob)
		calm(alice)
		c.fall(alice, tablet)
		tablet.sync()
		tablet.must(tablet.Join(ctx, room, ""))
		agree(room, alice, bob, tablet)
		if u := alice.saw(Alarm); len(u) != 1 || u[0].Device != tablet.Device() || !strings.Contains(u[0].Text, c.text) {
			t.Errorf("%s: alice is told %+v", c.name, u)
		}
		alice.must(alice.Resync(ctx, room))
		if alice.sync(); len(alice.saw(Alarm)) != 2 {
			t.Errorf("%s: alice entered anew and is told %+v", c.name, alice.saw(Alarm))
		}
		if u := alice.saw(DeviceIn); !slices.ContainsFunc(u, func(u Update) bool { return u.Device == tablet.Device() }) {
			t.Errorf("%s: the device is hidden: %+v", c.name, u)
		}
	}
}
