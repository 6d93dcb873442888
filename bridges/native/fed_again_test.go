package native

import (
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

// What a peer passed over is written down before the peer is told, by the next batch,
// that it is known: a failure to write it down, or a crash, loses none of it.
func TestFederationPassedOver(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a, b := hs[0], hs[1]
	room := fedRoom("club", hs...)
	b.late = map[uint64]bool{2: true, 3: true}
	a.mu.Lock()
	a.forgetful = core.Errorf(core.Unavailable, "the disk is full")
	a.mu.Unlock()
	a.send(room, "1", "2", "3", "4")
	until(t, "the batch to come again", func() bool { return b.repeats.get() >= 4 })
	if b.mu.Lock(); !slices.Equal(b.passed, []uint64{2, 3}) || len(a.told) > 0 {
		t.Errorf("%v are passed over", b.passed)
	}
	b.mu.Unlock()
	a.stop() // it dies with what it could not write down
	a.mu.Lock()
	a.forgetful = nil
	a.mu.Unlock()
	a.start()
	until(t, "both to be written down", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return slices.Equal(a.told, []uint64{2, 3})
	})
	a.send(room, "5")
	until(t, "the peer to hear that they are known", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.passed) == 0
	})
	until(t, "the rest to arrive", func() bool { return slices.Equal(b.log(room, "a.example"), []string{"1", "4", "5"}) })
}

// A peer that refuses a batch altogether says nothing of how much it has.
func TestFederationRefusalIsNoPosition(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a, b := hs[0], hs[1]
	room := fedRoom("club", hs...)
	a.send(room, "1", "2")
	until(t, "two to arrive", func() bool { return b.stored.get() == 2 })
	b.mu.Lock()
	b.refuseEvents = core.Errorf(core.Denied, "that homeserver has nobody in that room")
	b.mu.Unlock()
	a.send(room, "3")
	until(t, "a refusal", func() bool { return b.refused.get() > 1 })
	b.mu.Lock()
	b.refuseEvents = nil
	b.mu.Unlock()
	until(t, "the third to arrive", func() bool { return b.stored.get() == 3 })
	if n := b.repeats.get(); n > 0 {
		t.Errorf("%d messages came again", n)
	}
}
