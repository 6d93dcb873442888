package core_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"

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
	var parts []any // what cannot be stored is refused, and does not fail the transaction of others
	b.must(cbor.Unmarshal(a.snapshot(club), &parts))
	parts[3] = "mimi://a.example/u/x\x00"
	wantCode(t, b.restore(club, must(cbor.Marshal(parts))(t)), core.Invalid)
	if err := b.restore(club, a.snapshot(club)); err != nil {
		t.Fatal(err)
	}
	before := b.snapshot(club)
	wantCode(t, b.restore(club, fork.snapshot(club)), core.Invalid)
	if b.restart(); !bytes.Equal(before, b.snapshot(club)) {
		t.Fatal("a fork took the room's place")
	}
}

// A homeserver that approves of a device knows it from then on, and one that only
// follows does too: the device's own may be away when somebody here asks who it is.
func TestNewcomersAreKnownWhereTheyCame(t *testing.T) {
	const domainC = "c.example"
	a, b, c := newGroupHouse(t, domainA), newGroupHouse(t, domainB), newGroupHouse(t, domainC)
	al, bo, ca := newDevice(t, alice, "phone"), newDevice(t, bobB, "phone"), newDevice(t, core.UserURI("mimi://c.example/u/carol"), "phone")
	for _, h := range []*house{a, b, c} {
		h.do(core.PutHomeserver{Record: homeRecord(t, domainC)})
	}
	al.create(a, club, policy.Default(string(alice), domainA))
	a.accept(al.add(club, bo))
	al.merge()
	b.enrol(bo.proof)
	b.must(b.restore(club, a.snapshot(club))) // b.example follows, a.example decides
	hs := al.add(club, ca)
	for _, h := range []*house{a, b} {
		_, opened := h.accept(hs)
		if h == a {
			h.must(h.store.Update(context.Background(), func(tx core.Tx) error { return h.engine.Judge(tx, h.now, club, opened.Epoch) }))
		}
		h.view(func(r core.Reader) {
			if d, err := core.DeviceOf(r, ca.uri); err != nil || d.User != ca.user || d.Local {
				t.Errorf("%s does not know a device that came: %v", h.domain, err)
			}
		})
		if n := h.rows("group judge"); n != 0 && h == b {
			t.Errorf("%d judgements wait that nobody asks for", n)
		}
	}
}

// A newer state of a room that is here is asked about by the hashes that homeservers
// sign, and has a GroupInfo that a device of it has signed; an older one is none.
func TestSnapshotsAreVouchedFor(t *testing.T) {
	a, b := newGroupHouse(t, domainA), newGroupHouse(t, domainB)
	al, bo := newDevice(t, alice, "phone"), newDevice(t, bobB, "phone")
	al.create(a, club, policy.Default(string(alice), domainA))
	a.accept(al.add(club, bo))
	al.merge()
	b.enrol(bo.proof)
	first := a.snapshot(club)
	b.must(b.restore(club, first))
	a.accept(al.commit(club, nil))
	al.merge()
	second := a.snapshot(club)

	var old, forged []any
	for b, to := range map[*[]any][]byte{&old: first, &forged: second} {
		if err := cbor.Unmarshal(to, b); err != nil {
			t.Fatal(err)
		}
	}
	forged[4] = old[4] // the GroupInfo
	wantCode(t, b.restore(club, must(cbor.Marshal(forged))(t)), core.Invalid)

	err := b.store.Update(context.Background(), func(tx core.Tx) error {
		_, err := b.engine.RestoreGroup(tx, b.now, club, second, func(after core.Authority, transcript, tree []byte) error {
			ctx := al.g.Public().Context()
			if after.Epoch != 2 || !slices.Equal(after.Voters, []string{domainA}) || !bytes.Equal(transcript, ctx.ConfirmedTranscriptHash) || !bytes.Equal(tree, ctx.TreeHash) {
				t.Error("it is asked about another state")
			}
			return core.Errorf(core.Denied, "not certified")
		})
		return err
	})
	wantCode(t, err, core.Denied)
	b.view(func(r core.Reader) {
		if head := must(core.GroupOf(r, club))(t); head.Authority.Epoch != 1 {
			t.Errorf("epoch %d", head.Authority.Epoch)
		}
	})
	b.must(b.restore(club, second))
	wantCode(t, b.restore(club, first), core.Conflict)
}
