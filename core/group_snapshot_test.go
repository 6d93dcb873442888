package core_test

import (
	"bytes"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
)

// A snapshot makes no room that nobody here is in, and another history of the
// epoch that is here takes nothing's place.
func TestSnapshotsThatNobodyAskedFor(t *testing.T) {
	a, b := newGroupHouse(t, domainA), newGroupHouse(t, domainB)
	al := newDevice(t, alice, "phone")
	al.create(a, club, policy.Default(string(alice), domainA))
	wantCode(t, b.restore(club, a.snapshot(club)), core.Denied)
	b.view(func(r core.Reader) {
		if _, err := r.Room(club); core.CodeOf(err) != core.NotFound {
			t.Fatalf("a room of strangers is here: %v", err)
		}
	})

	bo, fork := newDevice(t, bobB, "phone"), newGroupHouse(t, domainA)
	forked := newDevice(t, alice, "phone")
	forked.create(fork, club, policy.Default(string(alice), domainA))
	for h, d := range map[*house]*device{a: al, fork: forked} {
		hs := d.add(club, bo)
		h.accept(hs)
		d.merge()
	}
	b.enrol(bo.proof)
	if err := b.restore(club, a.snapshot(club)); err != nil {
		t.Fatal(err)
	}
	before := b.snapshot(club)
	wantCode(t, b.restore(club, fork.snapshot(club)), core.Invalid)
	if b.restart(); !bytes.Equal(before, b.snapshot(club)) {
		t.Fatal("a fork took the room's place")
	}
}
