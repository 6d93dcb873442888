package client

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/core"
)

// tumble lets writes and requests of everybody fail, before or after they took
// effect, each time with a chance of one in odds. A device whose write failed is
// started anew.
type tumble struct {
	t     *rapid.T
	w     *world
	odds  int
	on    bool
	draws *rapid.Generator[int]
}

func (x *tumble) chance() (before, after bool) {
	if !x.on {
		return false, false
	}
	switch x.w.rand.Uint64() % uint64(x.odds) {
	case 0:
		return true, false
	case 1:
		return false, true
	}
	return false, false
}

// try repeats an operation through crashes and lost answers, a few times.
func (x *tumble) try(p *phone, f func() error) error {
	for n := 0; ; n++ {
		err := f()
		if err == nil || n > 40 {
			return err
		}
		if strings.Contains(err.Error(), errDisk.Error()) {
			on := x.on
			x.on = x.w.rand.Uint64()%2 == 0 && on
			for {
				c, err := Open(ctx, p.cfg)
				if err == nil {
					p.Client = c
					break
				}
				x.on = false
			}
			x.on = on
			continue
		}
		if !core.Temporary(err) {
			return err
		}
	}
}

// Whatever fails and whenever: in the end all are in one epoch, and each has read
// what was accepted once and in order.
func TestCrashes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t, rapid.Uint64().Draw(rt, "seed"))
		x := &tumble{t: rt, w: w, odds: rapid.IntRange(6, 60).Draw(rt, "odds")}
		alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
		tablet := w.phone(user("bob"), bob)
		phones := []*phone{alice, bob, tablet, carol}
		w.perSync = rapid.IntRange(1, 20).Draw(rt, "events at once")
		room := alice.create("storm")
		alice.invite(room, user("bob"))
		for range 3 {
			for _, p := range phones[:3] {
				p.sync()
			}
		}
		w.fault = x.chance
		for _, p := range phones {
			p.kv.fail = func(int) (bool, bool) { return x.chance() }
		}
		x.on = true
		said := 0
		for range rapid.IntRange(5, 40).Draw(rt, "steps") {
			p := phones[rapid.IntRange(0, 3).Draw(rt, "who")]
			what := rapid.SampledFrom([]string{"say", "say", "renew", "sync", "tend", "come", "go", "restart"}).Draw(rt, "what")
			err := x.try(p, func() error {
				switch what {
				case "say":
					said++
					_, err := p.Send(ctx, room, "", fmt.Appendf(nil, "%d", said))
					if core.CodeOf(err) == core.Unavailable && len(p.waiting(room)) > 0 {
						return nil // it goes out later
					}
					return err
				case "renew":
					return p.Renew(ctx, room)
				case "tend":
					w.sleep(ctx, 3*time.Second)
					return p.Tend(ctx)
				case "come":
					_, err := alice.Invite(ctx, room, user("carol"))
					return err
				case "go":
					return alice.Remove(ctx, room, user("carol"))
				case "restart":
					p.Client.forget()
				}
				_, err := p.Sync(ctx, 0)
				return err
			})
			if err != nil && p != carol && !core.Temporary(err) {
				rt.Fatalf("%s: %s: %v", p.name, what, err)
			}
		}
		x.on = false
		for range 8 {
			for _, p := range phones {
				w.sleep(ctx, 10*time.Second)
				if err := x.try(p, func() error { p.sync(); return p.Tend(ctx) }); err != nil && p != carol {
					rt.Fatalf("%s: in the calm after: %v", p.name, err)
				}
			}
		}
		x.settled(room, []*phone{alice, bob, tablet}, carol)
	})
}

// settled checks what holds when the storm is over.
func (x *tumble) settled(room core.RoomID, in []*phone, other *phone) {
	x.t.Helper()
	server := x.w.rooms[room]
	for _, p := range in {
		if got, want := p.secret(room), in[0].secret(room); got != want {
			x.t.Fatalf("%s is in %s, %s in %s", p.name, got, in[0].name, want)
		}
		calm(p)
	}
	if info, err := in[0].Rooms(ctx); err != nil || info[0].Epoch != server.public.Epoch() || info[0].Waiting {
		x.t.Fatalf("the room is %+v, its epoch %d: %v", info, server.public.Epoch(), err)
	}
	want := in[0].read(room)
	if len(want) != len(server.sent) {
		x.t.Fatalf("%d messages were accepted, %d read: %q", len(server.sent), len(want), want)
	}
	sorted := slices.Clone(want)
	slices.Sort(sorted)
	if n := len(slices.Compact(sorted)); n != len(want) {
		x.t.Fatalf("a message came twice: %q", want)
	}
	for _, p := range in {
		if got := p.read(room); !slices.Equal(got, want) {
			x.t.Fatalf("%s reads %q, not %q", p.name, got, want)
		}
	}
	if other.rooms[room] == nil {
		return
	}
	for _, line := range other.read(room) {
		if !slices.Contains(want, line) {
			x.t.Fatalf("%s reads %q, which nobody said", other.name, line)
		}
	}
}
