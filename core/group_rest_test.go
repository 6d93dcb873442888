package core_test

import (
	"context"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
)

// A loading is a transaction that sees whether a Group is loaded in it.
type loading struct {
	core.Tx
	loaded bool
}

func (l *loading) Value(bucket, key string) ([]byte, error) {
	l.loaded = l.loaded || bucket == "group snapshot"
	return l.Tx.Value(bucket, key)
}

// loads uses a Group, and reports whether it had to be loaded for that.
func (h *house) loads(room core.RoomID) bool {
	l := new(loading)
	h.must(h.store.Update(context.Background(), func(tx core.Tx) error {
		l.Tx = tx
		_, err := h.engine.Authority(l, room)
		return err
	}))
	return l.loaded
}

func (h *house) tick(n int, after time.Duration) {
	for range n {
		h.now = h.now.Add(after)
		h.do(core.Tick{})
	}
}

// A Group in which nothing happens is let go of, and is what it was when it is used
// again; one in use is not loaded anew, nor is a large one after so short a time.
func TestIdleGroupsRest(t *testing.T) {
	h := newGroupHouse(t, domainA)
	al := newDevice(t, alice, "phone")
	al.create(h, club, policy.Default(string(alice), domainA))
	for i := range 3 {
		h.tick(4, 10*time.Second)
		if !h.loads(club) || h.loads(club) {
			t.Fatal("an idle Group stays in memory, or one that is loaded does not")
		}
		h.tick(20, time.Second) // ticks are no measure of time
		for range 4 {
			if h.loads(club) {
				t.Fatal("a Group in use was let go of")
			}
			h.tick(3, 10*time.Second)
		}
		h.tick(4, 10*time.Second)
		hs := al.commit(club, nil)
		if _, opened := h.accept(hs); opened == nil || opened.Epoch != uint64(i+1) {
			t.Fatalf("%+v", opened)
		}
		al.merge()
	}
	big, owner := crowd(t, 150) // 60 KiB
	big.tick(4, 10*time.Second)
	if big.loads(club) {
		t.Error("a large Group was let go of as soon as a small one")
	}
	big.tick(10, 10*time.Second)
	big.accept(owner.commit(club, nil))
}
