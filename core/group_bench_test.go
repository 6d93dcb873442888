package core_test

import (
	"fmt"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// crowd is a Group of n devices, five to a user, of which the first may commit.
func crowd(tb testing.TB, n int) (*house, *device) {
	h := newGroupHouse(tb, domainA)
	al := newDevice(tb, alice, "phone")
	al.create(h, club, policy.Default(string(alice), domainA))
	var all []*device
	for i := range n - 1 {
		all = append(all, newDevice(tb, core.NewUserURI(domainA, fmt.Sprint("user", i/5)), fmt.Sprint(i)))
	}
	h.accept(al.add(club, all...))
	al.merge()
	return h, al
}

// BenchmarkGroupDecide is what one homeserver does for one commit of a big Group:
// validate, apply, write. The device's own work is left out.
func BenchmarkGroupDecide(b *testing.B) {
	for _, n := range []int{100, 1000, 10000} {
		h, al := crowd(b, n)
		late := newDevice(b, core.UserURI("mimi://a.example/u/late"), "x")
		remove := func() *core.Handshake {
			key := must(mls.Parse(late.kp.Message()))(b).KeyPackage.Leaf.SignatureKey
			leaf, _ := al.g.Public().Tree().LeafBySignatureKey(key)
			return al.commit(club, nil, group.Remove(leaf), update(policy.ComponentParticipants, policy.RemoveUsers(al.state(), string(late.user))))
		}
		run := func(name string, timed, other func() *core.Handshake) {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					hs := timed()
					b.StartTimer()
					h.accept(hs)
					b.StopTimer()
					al.merge()
					if other != nil {
						h.accept(other())
						al.merge()
					}
					b.StartTimer()
				}
			})
		}
		add := func() *core.Handshake { return al.add(club, late) }
		run("update", func() *core.Handshake { return al.commit(club, nil) }, nil)
		run("add", add, remove)
		h.accept(add())
		al.merge()
		run("remove", remove, add)
	}
}
