package core_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
)

// A Welcome may come from anybody who has a key package of a device here. Its tree
// takes nobody's place, does not stay for ever, and there are not too many.
func TestTreesOfForeignWelcomes(t *testing.T) {
	h := newGroupHouse(t, domainA)
	al, bo := newDevice(t, alice, "phone"), newDevice(t, bob, "phone")
	h.enrol(al.proof, bo.proof)
	last := bo.leave(h.now.Add(2*month), true)
	h.do(upload(bo, last))
	al.create(h, club, policy.Default(string(alice), domainA))
	hs := al.addWith(club, bo, must(mls.Parse(last.message))(t).KeyPackage)
	h.accept(hs)
	tree := func(room core.RoomID, epoch uint64) (b []byte) {
		h.view(func(r core.Reader) { b, _ = core.GroupTree(r, room, epoch) })
		return b
	}
	right := tree(club, 1)
	spam := func(room core.RoomID, epoch uint64, size int) error {
		_, errs := h.apply(core.PutWelcome{From: domainB, Welcome: core.Welcome{To: domainA, Room: room, Epoch: epoch, Message: hs.Welcome, Tree: make([]byte, size)}})
		return errs[0]
	}
	elsewhere := core.NewRoomID(domainB, "spam")
	h.must(spam(club, 1, 10))
	h.must(spam(elsewhere, 7, 10))
	if len(right) == 0 || !bytes.Equal(tree(club, 1), right) || len(tree(elsewhere, 7)) != 10 {
		t.Fatal("a stranger's tree took the place of the agreed one, or was not kept")
	}
	n := uint64(0)
	for ; spam(elsewhere, 100+n, 32<<20) == nil; n++ {
		h.do(core.DropLetters{Device: bo.uri, UpTo: 1 << 40})
	}
	if n == 0 || n > 8 {
		t.Fatalf("%d trees of 32 MiB were kept at once", n)
	}
	h.now = h.now.Add(8 * 24 * time.Hour)
	h.do(core.DropLetters{Device: bo.uri, UpTo: 1 << 40})
	if len(tree(elsewhere, 7)) != 0 || !bytes.Equal(tree(club, 1), right) {
		t.Fatal("a stranger's tree stayed, or the agreed one went")
	}
}
