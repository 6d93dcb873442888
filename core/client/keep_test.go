package client

import (
	"context"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

// What is kept without the homeserver, or while one has no more time, is on disk and
// goes out once.
func TestKeep(t *testing.T) {
	w := newWorld(t, 31)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	w.fault = func() (bool, bool) { t.Error("something is asked of the homeserver"); return false, false }
	m, err := alice.Keep(ctx, room, "", []byte("one"))
	if err != nil || !m.Waiting {
		t.Fatalf("kept as %+v: %v", m, err)
	}
	if _, err := alice.Keep(ctx, "mimi://a.example/r/none", "", []byte("lost")); core.CodeOf(err) != core.Denied {
		t.Errorf("a room that is not known: %v", err)
	}
	enough, stop := context.WithCancel(ctx)
	w.fault = func() (bool, bool) { stop(); return true, false }
	stop()
	if m, err = alice.Send(enough, room, "", []byte("two")); err == nil || !m.Waiting {
		t.Fatalf("said as %+v: %v", m, err)
	}
	w.fault = nil
	alice.open()
	if got := alice.read(room); !slices.Equal(got, []string{"alice: one", "alice: two"}) {
		t.Errorf("alice has %q", got)
	}
	for range 2 {
		alice.sync()
		alice.must(alice.Tend(ctx))
	}
	bob.sync()
	if got := bob.read(room); !slices.Equal(got, []string{"alice: one", "alice: two"}) {
		t.Errorf("bob reads %q", got)
	}
}
