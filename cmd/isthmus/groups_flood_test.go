package main

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
)

func unreadable(line string) bool { return strings.HasPrefix(line, "unreadable: ") }

// codes has the foreign member do something hostile, and counts the answers by their code.
func (f *foreign) codes(op string, with map[string]any) map[string]int {
	f.t.Helper()
	counts := map[string]int{}
	for _, c := range f.ask(op, with)["codes"].([]any) {
		counts[c.(string)]++
	}
	return counts
}

// TestGroupsHostileDevice: mallory is a member of the room, with a device that keeps to no
// rule. Each of its tricks has its answer and its bound, and alice and bob go on.
func TestGroupsHostileDevice(t *testing.T) {
	c := newCluster(t, false, "a.example", "b.example", "c.example")
	c.start()
	g := c.newCrowd(newRegister(), 0, 0)
	alice, bob := g.phones[0], g.phones[1]
	mallory := c.newForeign(c.homes[2], "mallory")
	if _, err := alice.Invite(t.Context(), g.room, c.homes[2].user("mallory")); err != nil {
		t.Fatal(err)
	}
	in := map[string]any{"room": g.room}
	inTheEnd(t, "mallory has joined", func() bool { mallory.sync(); return mallory.ask("state", in)["joined"] == true })
	o := &honest{t: t, g: g, a: alice, b: bob}
	with := func(key string, value any) map[string]any { return map[string]any{"room": g.room, key: value} }

	// No homeserver sees generations. Devices read what came first, and say of the other that
	// it cannot be read.
	if got := mallory.codes("reuse", with("texts", []string{"once 1", "twice 2", "thrice 3"})); got[""] != 3 {
		t.Errorf("one generation, three messages: %v", got)
	}
	for _, p := range g.phones {
		p.hear(g.room, []string{"mallory: once 1"})
		inTheEnd(t, "three lines", func() bool { return len(p.lines(g.room)) == 3 })
		if l := p.lines(g.room); l[0] != "mallory: once 1" || !unreadable(l[1]) || !unreadable(l[2]) {
			t.Errorf("%s has heard %q", p.name, l)
		}
	}
	o.goesOn("a generation used thrice")

	mallory.reaches(bob, g.room)
	for _, by := range []int{1, 6, 1 << 40} {
		if got := mallory.codes("ahead", with("by", by)); got["stale epoch"] != 1 {
			t.Errorf("a message from %d epochs ahead: %v", by, got)
		}
	}
	mallory.propose(o, with("count", 200))
	mallory.hoard(o, alice)
	mallory.holdUp(o)
	checkOrder(t, "bob", slices.DeleteFunc(bob.lines(g.room), unreadable))
	bounded(t, c.homes...)
}

// propose floods the room with proposals.
func (f *foreign) propose(o *honest, with map[string]any) {
	f.t.Helper()
	got := f.codes("propose", with)
	if got[""] == 0 || got[""] > 64 || got[""]+got["limited"]+got["stale epoch"] != 200 { // stale: somebody has committed them
		f.t.Errorf("200 proposals of one device: %v", got)
	}
	f.t.Logf("200 proposals of one device: %v", got)
	o.goesOn("a flood of proposals")
}

// hoard takes all key packages of a user; the user can still be invited.
func (f *foreign) hoard(o *honest, victim *phone) {
	f.t.Helper()
	user := victim.home.user(victim.name)
	claim := map[string]any{"users": []core.UserURI{user}, "suites": []int{1}}
	got := f.codes("repeat", map[string]any{"method": "POST", "path": "/v1/key-packages/claim", "body": claim, "count": 120})
	f.t.Logf("120 claims of one user's key packages: %v", got) // the last resort is given again and again
	next, err := o.b.Create(f.t.Context(), client.NewRoom{Name: "after the claims"})
	if err == nil {
		_, err = o.b.Invite(f.t.Context(), next, user)
	}
	if err != nil {
		f.t.Fatalf("%s cannot be invited any more: %v", victim.name, err)
	}
	inTheEnd(f.t, "the victim is in the new room", func() bool { return victim.info(next).Joined })
	o.goesOn("claims of all key packages")
}

// holdUp takes one lease of the group's state after another and never commits, while bob
// has to enter the room anew.
func (f *foreign) holdUp(o *honest) {
	f.t.Helper()
	lease := map[string]any{"method": "POST", "path": "/v1/rooms/" + url.PathEscape(string(o.g.room)) + "/group-info", "count": 60,
		"body": map[string]any{"key": base64.StdEncoding.EncodeToString(append(make([]byte, 31), 9))}}
	var taking sync.WaitGroup
	taking.Go(func() {
		if got := f.codes("repeat", lease); got["limited"] == 0 || got[""] > 10 {
			f.t.Errorf("60 leases without a commit: %v", got)
		} else {
			f.t.Logf("60 leases without a commit: %v", got)
		}
	})
	if err := o.b.Resync(f.t.Context(), o.g.room); err != nil {
		f.t.Errorf("beside one who takes leases, bob cannot enter anew: %v", err)
	}
	taking.Wait()
	o.goesOn("leases without commits")
}
