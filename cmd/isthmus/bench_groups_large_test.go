//go:build bench

package main_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	device "github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
)

const (
	largePerUser = 10
	largeBatch   = 1000                   // devices that one commit brings in: with what proves them, 1.5 MB
	largeTries   = 8                      // of such a commit
	largePace    = 220 * time.Millisecond // between two commits: a device may make five a second
)

// largeSizes are the devices of the Groups, the times that each change is made, and
// the goal of its p50.
var largeSizes = []struct {
	devices, times int
	goal           goal
}{{1000, 25, atMost(50)}, {10_000, 7, goal{}}}

// benchLarge: one device comes into a large Group of three homeservers, one renews
// its keys, one goes. Its tree is as the commits that brought everybody in left it:
// nearly no parent has a key, and every commit carries a ciphertext for each device
// or nearly so.
func benchLarge(t *testing.T, ps []peer, r *report) {
	for _, s := range largeSizes {
		hs := homeservers(t, ours(t, ps), 3)
		began := time.Now()
		owner, spares := largeGroup(t, hs, s.devices, s.times)
		t.Logf("%d devices after %v", s.devices, time.Since(began))
		m := map[string]times{}
		for _, spare := range spares {
			for _, step := range []struct {
				name string
				make func() (wire.Handshake, error)
			}{
				{"add", func() (wire.Handshake, error) { return owner.addition(false, spare) }},
				{"update", func() (wire.Handshake, error) { return owner.commit(nil) }},
				{"remove", func() (wire.Handshake, error) { return owner.removal(spare) }},
			} {
				time.Sleep(largePace)
				took, err := owner.offer(step.make())
				if err != nil {
					t.Fatalf("%s: %v\n%s", step.name, err, owner.hs.lastWords())
				}
				m[step.name] = append(m[step.name], took)
			}
		}
		for _, name := range []string{"add", "update", "remove"} {
			t.Logf("%d devices, %s: p50 %.3g, worst %.3g ms", s.devices, name, m[name].ms(0.5), m[name].ms(1))
			r.group(fmt.Sprintf("%s one of %s devices at three homeservers, p50", name, figure(float64(s.devices))), "ms", m[name].ms(0.5), s.goal, none)
		}
		for _, h := range hs {
			h.stop()
		}
	}
}

// largeGroup makes a Group of n devices, and so many that can come in.
func largeGroup(t *testing.T, hs []*homeserver, n, more int) (owner *member, spares []*member) {
	t.Helper()
	all := crowd(t, hs, "many", n, largePerUser, 1)
	spares = crowd(t, hs, "spare", more, 1, 0)
	owner = all[0]
	if err := owner.create("large"); err != nil {
		t.Fatal(err)
	}
	for in := 1; in < n; {
		batch := all[in:min((in/largeBatch+1)*largeBatch, n)] // all devices of a user at once
		h, err := owner.addition(false, batch...)
		for range largeTries {
			if _, err = owner.offer(h, err); err == nil || core.CodeOf(err) != core.Unavailable {
				break
			}
			t.Logf("%d devices are in, the next %d are offered again: %v", in, len(batch), err)
			err = nil
		}
		if err != nil || owner.g.Pending() != nil {
			t.Fatalf("%v\n%s", err, owner.hs.lastWords())
		}
		in += len(batch)
		time.Sleep(largePace)
	}
	return owner, spares
}

const (
	raceDevices = 100
	raceGoal    = 30 * time.Second
	raceEnd     = 2 * time.Minute       // for all of them, or the measure fails
	raceFirst   = 20 * time.Millisecond // wait after a race that was lost; it doubles, with jitter: as in core/client
	raceLast    = 4 * time.Second
)

// benchRace: a hundred devices of one Group renew their keys at once. Of the commits
// for an epoch one wins; the others follow it and make theirs anew, as devices do.
func benchRace(t *testing.T, ps []peer, r *report) {
	hs := homeservers(t, ours(t, ps), 3)
	all := crowd(t, hs, "racer", raceDevices, 1, raceDevices)
	if err := all[0].found("race", all[1:]...); err != nil {
		t.Fatal(err)
	}
	each(t, raceDevices, func(i int) error { return all[i].catchUp() })
	ctx, cancel := context.WithTimeout(t.Context(), raceEnd)
	defer cancel()
	tries, landed, errs := make([]int, raceDevices), make(times, raceDevices), make([]error, raceDevices)
	first := all[0].g.Epoch()
	began := time.Now()
	done := make(chan int)
	for i := range all {
		go func() {
			tries[i], errs[i] = all[i].race(ctx)
			landed[i] = time.Since(began)
			done <- i
		}()
	}
	var last time.Duration
	sum := 0
	for range all {
		i := <-done
		last, sum = max(last, landed[i]), sum+tries[i]
	}
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("%v\n%s", err, hs[0].lastWords())
	}
	for _, m := range all {
		if err := m.reach(ctx, first+raceDevices); err != nil || m.g.Epoch() != first+raceDevices {
			t.Fatalf("%d changes led from epoch %d to %d: %v", raceDevices, first, m.g.Epoch(), err)
		}
	}
	t.Logf("%d devices: half of the changes after %.3g s, the last after %v, %d commits made", raceDevices, landed.ms(0.5)/1e3, last, sum)
	r.group(fmt.Sprintf("%d devices race: until the change of the slowest has landed", raceDevices), "s", last.Seconds(), atMost(raceGoal.Seconds()), none)
	r.group("the same, commits made for each that landed", "commits", float64(sum)/raceDevices, goal{}, none)
}

// race renews the member's keys, however many others come first: what core/client
// does, in memory.
func (m *member) race(ctx context.Context) (tries int, err error) {
	epoch := m.g.Epoch()
	for wait := raceFirst; ; wait = min(2*wait, raceLast) {
		h, err := m.commit(nil)
		if err != nil {
			return tries, err
		}
		tries++
		_, err = m.home.Handshake(ctx, m.room, h)
		stale, lost := errors.AsType[*device.Stale](err)
		full, _ := errors.AsType[*core.Error](err)
		switch {
		case err == nil:
			return tries, m.g.Merge(m.g.Pending())
		case lost:
			m.g.Discard()
			epoch = stale.Epoch
		case full != nil && full.Code == core.Limited:
			m.g.Discard()
			time.Sleep(full.RetryAfter)
		default:
			return tries, fmt.Errorf("%s: %w", m.uri, err)
		}
		time.Sleep(wait/2 + rand.N(wait/2))
		if err := m.reach(ctx, epoch); err != nil {
			return tries, err
		}
	}
}

// reach follows the room as far as there is anything, and waits until it is in an
// epoch.
func (m *member) reach(ctx context.Context, epoch uint64) error {
	for more := true; more || m.g.Epoch() < epoch; {
		wait := time.Duration(0)
		if m.g.Epoch() < epoch {
			wait = appearance
		}
		s, err := m.home.Sync(ctx, wire.GetSync{Since: m.next, Wait: wait.Milliseconds()})
		if err != nil {
			return err
		}
		m.next, more = s.Next, s.More
		for i := range s.Events {
			e := &s.Events[i]
			parsed, err := mls.Parse(e.Sealed)
			if err != nil {
				return err
			}
			if e.Room == m.room && parsed.Public != nil && parsed.Public.Content.Epoch == m.g.Epoch() {
				if err := m.follow(e.Sealed); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
