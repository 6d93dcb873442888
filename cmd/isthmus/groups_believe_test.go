package main

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/policy"
)

// TestGroupsNewcomerOfDoubt: d.example lost its key and began anew under the same domain.
// b.example and c.example have pinned the old key, a.example meets it for the first time and
// believes it. Whoever a.example alone believes is refused before anything is agreed, and the
// room goes on; in a room that a.example decides alone it is believed, and in one that
// b.example decides a.example's commit is refused.
func TestGroupsNewcomerOfDoubt(t *testing.T) {
	c := newCluster(t, false, "a.example", "b.example", "c.example", "d.example")
	c.start()
	d := c.homes[3]
	alice, bob, carol := c.newPhone(c.homes[0], "alice", nil), c.newPhone(c.homes[1], "bob", nil), c.newPhone(c.homes[2], "carol", nil)
	dave := c.newPhone(d, "dave", nil)
	invite := func(p *phone, room core.RoomID, users ...core.UserURI) error {
		_, err := p.Invite(t.Context(), room, users...)
		return err
	}
	create := func(p *phone) core.RoomID {
		t.Helper()
		room, err := p.Create(t.Context(), client.NewRoom{Name: "doubt"})
		if err != nil {
			t.Fatal(err)
		}
		return room
	}
	for _, p := range []*phone{bob, carol} { // they meet the first d.example
		if err := invite(p, create(p), d.user("dave")); err != nil {
			t.Fatal(err)
		}
	}
	dave.stop()
	d.down(syscall.SIGKILL)
	if err := os.RemoveAll(filepath.Join(d.dir, "data")); err != nil {
		t.Fatal(err)
	}
	d.up()
	c.newPhone(d, "dave", nil)

	room := create(alice)
	if err := invite(alice, room, bob.home.user("bob"), carol.home.user("carol")); err != nil {
		t.Fatal(err)
	}
	if err := alice.SetAuthority(t.Context(), room, policy.Authority{Domains: []string{"a.example", "b.example", "c.example"}}); err != nil {
		t.Fatal(err)
	}
	before := converge(t, room, alice, bob, carol)
	began := time.Now()
	err := invite(alice, room, d.user("dave"))
	t.Logf("after %v: %v", time.Since(began).Round(time.Millisecond), err)
	if core.CodeOf(err) != core.Denied || err == nil {
		t.Errorf("who is believed by one of three is invited: %v, want denied", err)
	}
	if after := converge(t, room, alice, bob, carol); after.Epoch != before.Epoch {
		t.Errorf("epoch %d follows epoch %d", after.Epoch, before.Epoch)
	}
	(&honest{t: t, g: &crowd{room: room}, a: alice, b: bob}).goesOn("a newcomer of doubt")
	carol.hear(room, []string{"alice: undisturbed 0"})
	if err := invite(alice, create(alice), d.user("dave")); err != nil {
		t.Errorf("where a.example decides alone: %v", err)
	}

	// Where b.example decides, a.example brings it a commit with a leaf whose attestation is
	// signed by a key that b.example has not pinned: to b.example it is forged.
	theirs := create(bob)
	if err := invite(bob, theirs, alice.home.user("alice")); err != nil {
		t.Fatal(err)
	}
	before = converge(t, theirs, alice, bob)
	if err := invite(alice, theirs, d.user("dave")); core.CodeOf(err) != core.Denied || err == nil {
		t.Errorf("where b.example decides, a forged leaf: %v, want denied", err)
	}
	if after := converge(t, theirs, alice, bob); after.Epoch != before.Epoch {
		t.Errorf("epoch %d follows epoch %d", after.Epoch, before.Epoch)
	}
	(&honest{t: t, g: &crowd{room: theirs}, a: bob, b: alice}).goesOn("a forged leaf")
}
