package client

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
)

// keepFrom has a message never come to users, as where their homeserver passed it over.
func (w *world) keepFrom(room core.RoomID, seq uint64, users ...core.UserURI) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range users {
		delete(w.rooms[room].log[seq-1].for_, u)
	}
}

// tellUnheard is the homeserver's letter about messages that somebody passed over.
func (w *world) tellUnheard(room core.RoomID, to []*phone, seqs ...uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := wire.Letter{Kind: "again", Room: room}
	for _, seq := range seqs {
		m, err := mls.Parse(w.rooms[room].log[seq-1].Sealed)
		if err != nil {
			w.Fatal(err)
		}
		l.Unheard = append(l.Unheard, core.Unheard{Seq: seq, Epoch: m.Private.Epoch})
	}
	for _, p := range to {
		w.letter(p.Device(), l)
	}
}

func (p *phone) renew(room core.RoomID, times int) {
	p.w.Helper()
	for range times {
		p.must(p.Renew(ctx, room))
	}
}

// settle does all that is due.
func (p *phone) settle() {
	p.w.Helper()
	for range 3 {
		p.sync()
		p.w.sleep(ctx, 6*time.Second)
		p.must(p.Tend(ctx))
	}
}

// last is the place of the newest event.
func (w *world) last(room core.RoomID) uint64 { return uint64(len(w.rooms[room].log)) }

// warnings are what the device's user was told in so many words.
func (p *phone) warnings() (out []string) {
	for _, u := range p.seen {
		if u.Warning() {
			out = append(out, u.Text)
		}
	}
	return out
}

// party is alice with phone and tablet, bob and carol in a room, in which alice has
// said "one", "two", which carol was not given.
func party(t *testing.T) (w *world, room core.RoomID, alice, tablet, bob, carol *phone, seqs []uint64) {
	w = newWorld(t, 11)
	alice, bob, carol = w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	tablet = w.phone(user("alice"), alice)
	room = alice.create("party")
	alice.invite(room, user("alice"), user("bob"), user("carol"))
	for _, p := range []*phone{alice, tablet, bob, carol} {
		p.settle()
	}
	for _, text := range []string{"one", "two"} {
		alice.say(room, text)
		seqs = append(seqs, w.last(room))
		w.keepFrom(room, w.last(room), user("carol"))
	}
	return w, room, alice, tablet, bob, carol, seqs
}

// What somebody passed over is said again when its epoch has ended here for as long,
// once, and everybody has it once.
func TestSaidAgain(t *testing.T) {
	w, room, alice, tablet, bob, carol, seqs := party(t)
	all := []*phone{alice, tablet, bob, carol}
	w.tellUnheard(room, []*phone{alice, tablet}, seqs...)
	at := w.last(room)
	alice.sync()
	alice.must(alice.Tend(ctx))
	if w.last(room) != at || len(alice.held) != 1 {
		t.Fatal("it is said again in an epoch in which it is passed over again")
	}
	bob.renew(room, 6)
	for range 3 {
		for _, p := range all {
			p.sync()
			p.must(p.Tend(ctx))
		}
		if alice.forget(); w.last(room) != at+8 {
			t.Fatalf("%d events instead of 8", w.last(room)-at)
		}
		w.tellUnheard(room, []*phone{alice, tablet}, seqs...) // as if its homeserver had come back from a backup
	}
	for _, p := range all {
		if got := p.read(room); !slices.Equal(got, []string{"alice: one", "alice: two"}) || len(p.warnings()) > 0 {
			t.Errorf("%s has read %q, and is warned %q", p.name, got, p.warnings())
		}
		if len(p.held) > 0 {
			t.Errorf("%s keeps the letter", p.name)
		}
	}
	bob.renew(room, 6) // what was said again was passed over again
	w.tellUnheard(room, []*phone{alice, tablet}, at+7)
	for _, p := range all {
		p.sync()
		p.must(p.Tend(ctx))
	}
	if w.last(room) != at+8+6+1 {
		t.Fatal("what was said again is not said a third time")
	}
	for _, p := range all {
		if p.sync(); len(p.read(room)) != 2 {
			t.Errorf("%s has read %q", p.name, p.read(room))
		}
	}
}

// Where it cannot be said again, its user is told.
func TestNotSaidAgain(t *testing.T) {
	w, room, alice, tablet, bob, _, seqs := party(t)
	tablet.sync()
	bob.renew(room, 6)
	alice.settle()
	alice.kv.mu.Lock()
	delete(alice.kv.tables[tableMessages+string(room)], ^seqs[0])
	alice.kv.mu.Unlock()
	w.tellUnheard(room, []*phone{alice}, seqs[0])
	if alice.settle(); len(alice.warnings()) > 0 {
		t.Fatal("a device laments what another has")
	}
	alice.must(alice.RemoveDevice(ctx, tablet.Device()))
	w.tellUnheard(room, []*phone{alice}, seqs[0])
	if alice.settle(); len(alice.warnings()) != 1 || !strings.Contains(alice.warnings()[0], "does not have it") {
		t.Fatalf("warned %q", alice.warnings())
	}
	w.mu.Lock()
	w.letter(alice.Device(), wire.Letter{Kind: "again", Room: room})
	w.mu.Unlock()
	if alice.settle(); len(alice.warnings()) != 2 || !strings.Contains(alice.warnings()[1], "more of what was said") {
		t.Fatalf("warned %q", alice.warnings())
	}
	w.keepFrom(room, seqs[1], user("bob"))
	bob.sync()
	alice.must(alice.Leave(ctx, room))
	w.sleep(ctx, time.Minute)
	bob.settle()
	alice.settle()
	w.tellUnheard(room, []*phone{alice}, seqs[1])
	if alice.settle(); len(alice.warnings()) != 3 || !strings.Contains(alice.warnings()[2], "not in that room any more") {
		t.Fatalf("warned %q", alice.warnings())
	}
}

// Somebody who always says that everything came too late has it said a few times more.
func TestSaidAgainAndAgain(t *testing.T) {
	w, room, alice, tablet, bob, _, seqs := party(t)
	place := seqs[0]
	for n := range maxTimes + 1 {
		bob.sync()
		bob.renew(room, 6)
		w.tellUnheard(room, []*phone{alice, tablet}, place)
		at := w.last(room)
		alice.settle()
		if said := w.last(room) - at; (said == 1) != (n < maxTimes) {
			t.Fatalf("said %d times after %d", said, n)
		}
		place = w.last(room)
	}
	if len(alice.warnings()) != 1 || !strings.Contains(alice.warnings()[0], "again and again") {
		t.Fatalf("warned %q", alice.warnings())
	}
	if bob.sync(); len(bob.read(room)) != 2 {
		t.Fatalf("bob has read %q", bob.read(room))
	}
}

// Messages of applications that do not name theirs are read as ever, and the same
// twice is two messages.
func TestMessagesWithoutID(t *testing.T) {
	_, room, alice, _, bob, _, _ := party(t)
	r := alice.rooms[room]
	alice.must(alice.Client.open(ctx, r))
	for _, aad := range [][]byte{nil, []byte("anything"), mls.SafeAAD{}.With(componentMessageID, []byte{1, 2}).AppendTo(nil)} {
		framed, err := r.g.Public().Context().AppendApplication(nil, mls.MediaType{}, []byte("same"))
		alice.must(err)
		sealed, err := r.g.Seal(nil, framed, aad)
		alice.must(err)
		_, err = alice.cfg.Home.Send(ctx, room, wire.Send{Messages: []wire.Message{{ID: fmt.Sprint(len(aad)), Sealed: sealed}}})
		alice.must(err)
	}
	bob.sync()
	if got := bob.read(room); len(got) != 5 || got[4] != "alice: same" {
		t.Fatalf("read %q", got)
	}
	key := bytes.Repeat([]byte{7}, keySize)
	for _, again := range []bool{false, true} {
		if k, a := label(labelled(key, again)); !bytes.Equal(k, key) || a != again {
			t.Fatalf("%x %v", k, a)
		}
	}
}

// A homeserver that was restored from an old backup may send what was read in another
// place of the log once more: nobody sees it twice, or is told that it is unreadable.
// What was never read is said to be so.
func TestSameMessageTwice(t *testing.T) {
	w, room, alice, _, bob, carol, seqs := party(t)
	all := []*phone{alice, bob}
	for _, p := range all {
		p.sync()
	}
	repeat := func(change func(*mls.PrivateMessage)) {
		w.mu.Lock()
		defer w.mu.Unlock()
		first := w.rooms[room].log[seqs[0]-1]
		m, err := mls.Parse(first.Sealed)
		if err != nil {
			t.Fatal(err)
		}
		change(m.Private)
		w.append(room, wire.Event{Sender: first.Sender, Sealed: m.Private.AppendTo(mls.AppendHeader(nil, mls.WirePrivate))}).for_ = first.for_
	}
	repeat(func(*mls.PrivateMessage) {})
	bob.open() // what it has read is in its store
	for _, p := range all {
		p.sync()
		repeat(func(*mls.PrivateMessage) {})
		p.sync()
		want := []string{"alice: one", "alice: two"}
		if got := p.read(room); !slices.Equal(got, want) || len(p.warnings()) > 0 {
			t.Errorf("%s has read %q, and is warned: %q", p.name, got, p.warnings())
		}
	}
	repeat(func(m *mls.PrivateMessage) { m.AuthenticatedData = labelled(bytes.Repeat([]byte{9}, keySize), false) })
	bob.sync()
	if got := bob.read(room); len(got) != 3 {
		t.Errorf("a message that does not open is kept from bob: %q", got)
	}
	if carol.sync(); len(carol.read(room)) != 0 {
		t.Errorf("carol has read %q", carol.read(room))
	}
}

// FuzzLabel holds what anybody may write into authenticated data to its form.
func FuzzLabel(f *testing.F) {
	f.Add(labelled(make([]byte, keySize), true))
	f.Add([]byte{4, 0xf0, 2, 1, 1})
	f.Add([]byte("anything"))
	f.Fuzz(func(t *testing.T, b []byte) {
		key, again := label(b)
		if key == nil && again || key != nil && len(key) != keySize {
			t.Fatalf("%x %v of %x", key, again, b)
		}
	})
}

// Whatever fails and whenever: what was passed over is heard by all in the end, once.
func TestCrashesSayingAgain(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w, room, alice, tablet, bob, carol, seqs := party(t)
		x := &tumble{t: rt, w: w, odds: rapid.IntRange(4, 30).Draw(rt, "odds")}
		w.perSync = rapid.IntRange(1, 20).Draw(rt, "events at once")
		all := []*phone{alice, tablet, bob, carol}
		bob.renew(room, 6)
		for _, p := range all {
			p.kv.fail = func(int) (bool, bool) { return x.chance() }
		}
		w.fault, x.on = x.chance, true
		for n := range rapid.IntRange(4, 16).Draw(rt, "steps") {
			if n == 2 {
				w.tellUnheard(room, []*phone{alice, tablet}, seqs...)
			}
			p := all[rapid.IntRange(0, 3).Draw(rt, "who")]
			x.try(p, func() error { _, err := p.Sync(ctx, 0); return err })
			x.try(p, func() error { return p.Tend(ctx) })
		}
		x.on = false
		for range 5 {
			for _, p := range all {
				w.sleep(ctx, 10*time.Second)
				if err := x.try(p, func() error { p.sync(); return p.Tend(ctx) }); err != nil {
					rt.Fatalf("%s: in the calm after: %v", p.name, err)
				}
			}
		}
		for _, p := range all {
			if got := p.read(room); !slices.Equal(got, []string{"alice: one", "alice: two"}) {
				rt.Fatalf("%s has read %q", p.name, got)
			}
		}
	})
}
