package client

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

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

// As much as can be kept is handed over in pieces that a homeserver takes, in order.
func TestKeepMuch(t *testing.T) {
	w := newWorld(t, 33)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	var want []string
	for n := range maxOutbox {
		text := fmt.Sprint(n)
		if n < 100 {
			text += strings.Repeat(".", core.MaxContent-1<<10)
		}
		if _, err := alice.Keep(ctx, room, "", []byte(text)); err != nil {
			t.Fatal(err)
		}
		want = append(want, "alice: "+text)
	}
	for w.most, w.mostBytes = 0, 0; len(alice.waiting(room)) > 0; {
		alice.sync()
		alice.must(alice.Tend(ctx))
	}
	for range 10 {
		bob.sync()
	}
	if got := bob.read(room); len(got) < 500 || !slices.Equal(got, want[len(want)-len(got):]) {
		t.Errorf("bob reads %d, or not what was said", len(got))
	}
	if n := len(w.rooms[room].sent); n != maxOutbox {
		t.Errorf("%d messages have come", n)
	}
	if w.most > maxOffered || w.mostBytes > offeredBytes || w.most < 2 {
		t.Errorf("%d messages of %d octets in one request", w.most, w.mostBytes)
	}
}

// A homeserver that was restored from a backup knows an older state of a room than its
// devices: what is said there is kept, at once, and other rooms go on.
func TestOlderHomeserver(t *testing.T) {
	w := newWorld(t, 32)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room, other := alice.create("tea"), alice.create("coffee")
	alice.invite(room, user("bob"))
	alice.invite(other, user("bob"))
	agree(room, alice, bob)
	agree(other, alice, bob)
	old := *w.rooms[room]
	alice.must(alice.Renew(ctx, room))
	agree(room, alice, bob)
	now := *w.rooms[room]
	w.rooms[room].public, w.rooms[room].policy, w.rooms[room].info = old.public, old.policy, old.info

	asked := 0
	w.fault = func() (bool, bool) { asked++; return false, false }
	soon := func(what string, f func() error, requests int, length time.Duration) {
		t.Helper()
		start := w.now()
		asked = 0
		if err := f(); err != nil && core.TextOf(err) != core.TextOf(errOlder) || core.CodeOf(err) != core.Unavailable && err != nil {
			t.Errorf("%s: %v", what, err)
		} else if err == nil && what != "in another room" {
			t.Errorf("%s: the homeserver's age is not noticed", what)
		}
		if d := w.now().Sub(start); asked > requests || d > length {
			t.Errorf("%s takes %v and %d requests", what, d, asked)
		}
	}
	soon("a message", func() error {
		m, err := alice.Send(ctx, room, "", []byte("one"))
		if !m.Waiting {
			t.Errorf("not kept: %+v", m)
		}
		return err
	}, 30, 3*time.Second)
	soon("what is due", func() error { return alice.Tend(ctx) }, 5, 100*time.Millisecond)
	soon("in another room", func() error { _, err := alice.Send(ctx, other, "", []byte("two")); return err }, 1, 0)
	soon("a change", func() error { return alice.Renew(ctx, room) }, 30, 3*time.Second)
	w.fault = nil
	bob.sync()
	if got := bob.read(other); !slices.Equal(got, []string{"alice: two"}) {
		t.Errorf("bob reads %q", got)
	}
	w.rooms[room].public, w.rooms[room].policy, w.rooms[room].info = now.public, now.policy, now.info
	alice.must(alice.Tend(ctx))
	agree(room, alice, bob)
	if got := bob.read(room); !slices.Equal(got, []string{"alice: one"}) {
		t.Errorf("bob reads %q", got)
	}
}

// A change that was not agreed on in time says that the device goes on with it, and it
// does.
func TestAgainByItself(t *testing.T) {
	w := newWorld(t, 33)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	w.fault = func() (bool, bool) { return alice.rooms[room].Offer, false }
	_, err := alice.Invite(ctx, room, user("bob"))
	if core.CodeOf(err) != core.Unavailable || core.TextOf(err) != "the request is lost; this device tries again by itself" {
		t.Errorf("an invitation that is not answered: %v", err)
	}
	w.fault = nil
	alice.must(alice.Tend(ctx))
	bob.sync()
	agree(room, alice, bob)
}
