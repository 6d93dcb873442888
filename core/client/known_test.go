package client

import (
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

// A device that another of its user names is no reason for a warning, in whatever order
// one hears of the two: from a list, or with a key package.
func TestLinkedDeviceWithoutWarning(t *testing.T) {
	met := map[string]func(p *phone, u core.UserURI){
		"list": func(p *phone, u core.UserURI) { _, err := p.Devices(ctx, u); p.must(err) },
		"room": func(p *phone, u core.UserURI) { p.invite(p.create("tea"), u) },
	}
	for seed := range uint64(2) {
		for how, meet := range met {
			w := newWorld(t, seed)
			alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
			_, err := alice.Devices(ctx, user("bob"))
			alice.must(err)
			w.phone(user("bob"), bob)
			if seed == 0 {
				slices.Reverse(w.users[user("bob")])
			}
			meet(alice, user("bob"))
			alice.sync()
			if u := alice.saw(UnlinkedDevice); len(u) > 0 {
				t.Errorf("%s, seed %d: alice is warned of %+v", how, seed, u)
			}
		}
	}
}
