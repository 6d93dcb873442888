package client

import (
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// Until the homeserver knows a device its name and links may be said anew.
func TestPrepareAnew(t *testing.T) {
	w := newWorld(t, 31)
	bob, tablet := w.phone(user("bob"), nil), w.bare(user("bob"))
	prepare := func(name string, links ...string) identity.SignedRecord {
		t.Helper()
		b, err := tablet.Prepare(ctx, user("bob"), name, links...)
		tablet.must(err)
		r, err := identity.ParseRecord(b)
		tablet.must(err)
		return r
	}
	id := bob.Device().ID()
	first, same := prepare("tablet"), prepare("tablet")
	next := prepare("", id)
	if !slices.Equal(first.Encode(), same.Encode()) || next.Version != 2 || next.Name != "tablet" || !slices.Equal(next.Links, []string{id}) || next.Previous != first.Hash() {
		t.Fatalf("prepared anew: %+v", next.Record)
	}
	if _, err := tablet.Prepare(ctx, user("bob"), "", "short"); core.CodeOf(err) != core.Invalid {
		t.Errorf("a link to nothing: %v", err)
	}
	tablet.open()
	last := prepare("")
	if !slices.Equal(last.Encode(), next.Encode()) {
		t.Error("what was prepared anew is forgotten")
	}
	approval, err := bob.Approve(ctx, last.Encode())
	bob.must(err)
	tablet.must(tablet.Register(ctx, Registration{Sponsor: bob.Device(), Approval: approval}))
	if r := prepare("other", strings.Repeat("a", 26)); r.Version != 2 {
		t.Errorf("a registered device's record is changed: %+v", r.Record)
	}
	list, err := bob.Devices(ctx, user("bob"))
	if err != nil || len(list) != 2 || !list[0].Linked || !list[1].Linked {
		t.Errorf("bob's devices: %v %+v", err, list)
	}
}

func TestDevices(t *testing.T) {
	w := newWorld(t, 8)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	tablet := w.phone(user("bob"), bob)
	list, err := alice.Devices(ctx, user("bob"))
	if err != nil || len(list) != 2 || !list[0].Linked || !list[1].Linked || list[0].Verified || list[0].Self {
		t.Fatalf("bob's devices: %v %+v", err, list)
	}
	one, err := alice.Words(ctx, bob.Device())
	alice.must(err)
	if _, err := bob.Devices(ctx, user("alice")); err != nil {
		t.Fatal(err)
	}
	two, err := bob.Words(ctx, alice.Device())
	bob.must(err)
	if len(one) == 0 || !slices.Equal(one, two) {
		t.Errorf("words %v and %v", one, two)
	}
	alice.must(alice.Verify(ctx, bob.Device(), true))
	alice.open()
	if list, _ = alice.Devices(ctx, user("bob")); !list[0].Verified {
		t.Error("a verification was forgotten")
	}
	// A device that nobody links is a warning.
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	bob.must(bob.Unlink(ctx, tablet.Device()))
	if list, _ = alice.Devices(ctx, user("bob")); list[1].Linked {
		t.Errorf("a one-sided link counts: %+v", list)
	}
	carol := w.phone(user("carol"), nil)
	if _, err := carol.Devices(ctx, user("bob")); err != nil {
		t.Fatal(err)
	}
	carol.sync()
	if u := carol.saw(UnlinkedDevice); len(u) != 1 || u[0].Device != tablet.Device() {
		t.Errorf("carol is warned of %+v", u)
	}
	bob.must(bob.Revoke(ctx))
	if list, _ = alice.Devices(ctx, user("bob")); !list[0].Revoked {
		t.Error("a revoked device is not shown as one")
	}
}
