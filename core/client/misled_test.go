package client

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// lied has a member make a commit that its homeservers do not agree on, and the room's
// log keep it before what they did agree on, as at a homeserver that somebody misled. It
// returns the place of that commit.
func (w *world) lied(room core.RoomID, by *phone) (seq uint64) {
	w.Helper()
	log := slices.Clone(w.log)
	real := w.fork(room, by, "b.example")
	lie := w.rooms[room].log[len(w.rooms[room].log)-1]
	w.rooms[room], w.signs, w.log = real, nil, log
	return w.append(room, wire.Event{Sender: lie.Sender, Sealed: lie.Sealed}, real.policy.Participants()).Seq
}

// A homeserver that was misled shows a false commit with the certificate of the one that
// took its place, once it knows that: its devices, which waited for it, pass it over. They
// follow the other one where they are shown it, and else enter the room anew.
func TestFalseCommit(t *testing.T) {
	for _, shown := range []bool{true, false} {
		w := newWorld(t, 60)
		alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
		room := alice.create("tea")
		alice.invite(room, user("bob"), user("carol"))
		agree(room, alice, bob, carol)
		calm(alice, bob, carol)
		seq := w.lied(room, carol)
		w.forge = func(ev *wire.Event) {
			if ev.Seq == seq {
				ev.Certificate = nil // not yet
			}
		}
		bob.sync()
		before := bob.secret(room)
		w.forge = nil
		w.log = slices.DeleteFunc(w.log, func(e *fakeEvent) bool { return e.Seq == seq }) // who is not misled has no such thing
		lie := w.rooms[room].log[seq-1]
		delete(lie.for_, alice.User())
		delete(lie.for_, carol.User())
		alice.must(alice.Describe(ctx, room, "coffee", ""))
		alice.say(room, "hello")
		if !shown {
			delete(w.rooms[room].log[seq].for_, bob.User())
		}
		lie.Certificate = w.rooms[room].log[seq].Certificate
		if bob.sync(); !shown && bob.secret(room) != before {
			t.Fatal("bob is in an epoch that nobody showed him")
		}
		for range 15 {
			bob.sync()
			bob.must(bob.Tend(ctx))
			w.sleep(ctx, time.Second)
		}
		agree(room, alice, bob)
		if n := len(bob.saw(Resynced)); n != 0 == shown {
			t.Errorf("shown %v: bob entered anew %d times", shown, n)
		}
		if got := bob.read(room); shown && !slices.Contains(got, "alice: hello") {
			t.Errorf("bob reads %q", got)
		}
		if warned := bob.saw(Alarm); len(bob.saw(Halted)) != 0 || !slices.ContainsFunc(warned, func(u Update) bool { return strings.Contains(u.Text, "misled") }) {
			t.Errorf("bob is told %+v, and halts: %+v", warned, bob.saw(Halted))
		}
		bob.say(room, "back")
		agree(room, alice, bob)
		if got := alice.read(room); got[len(got)-1] != "bob: back" {
			t.Errorf("alice reads %q", got)
		}
	}
}

// invited has somebody be let into the room by a commit that only liar has signed, and
// leaves the room in its place. It returns the tree of that commit's epoch, and what was
// signed of it.
func (w *world) invited(room core.RoomID, by *phone, who core.UserURI, liar string) (tree []byte, facts epoch.Approval) {
	w.Helper()
	log := slices.Clone(w.log)
	real := w.copied(room)
	w.signs = func([]string) []string { return []string{liar} }
	if _, err := by.Invite(ctx, room, who); core.CodeOf(err) != core.Unavailable || err == nil {
		w.Fatalf("an honest device follows what one homeserver has signed: %v", err)
	}
	tree = w.rooms[room].public.Tree().AppendTo(nil)
	facts = factsOf(w, w.rooms[room].certs[len(w.rooms[room].certs)-1])
	w.rooms[room], w.signs, w.log = real, nil, log
	return tree, facts
}

func factsOf(t testing.TB, certificate []byte) epoch.Approval {
	t.Helper()
	cert, err := epoch.ParseCertificate(certificate)
	if err != nil {
		t.Fatal(err)
	}
	return cert.Facts()
}

// A Welcome may belong to a commit that lost: of a homeserver that was misled, or that
// lies. Who is welcomed waits until the room's homeservers have signed that epoch, and is
// in no other one; the key package is there for the next Welcome.
func TestWelcomeThatLost(t *testing.T) {
	w := newWorld(t, 61)
	alice, bob, carol, dave := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil), w.phone(user("dave"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"), user("carol"))
	alice.must(alice.SetRole(ctx, room, core.RoleOperator, user("carol")))
	agree(room, alice, bob, carol)
	for name, proof := range map[string]func(true []byte, lie epoch.Approval) []byte{
		"another commit":          func(true []byte, _ epoch.Approval) []byte { return true },
		"by dave's homeserver":    func(_ []byte, lie epoch.Approval) []byte { return w.certify([]string{"d.example"}, lie) },
		"by too few":              func(_ []byte, lie epoch.Approval) []byte { return w.certify([]string{"b.example", "d.example"}, lie) },
		"one that cannot be read": func([]byte, epoch.Approval) []byte { return []byte{1} },
	} {
		packages := len(dave.packages)
		tree, lie := w.invited(room, carol, user("dave"), "b.example")
		dave.sync()
		if _, err := dave.Send(ctx, room, "", []byte("hello?")); err == nil || len(dave.saw(RoomJoined)) != 0 {
			t.Fatalf("%s: dave is in an epoch that nobody signed: %v, %+v", name, err, dave.seen)
		}
		alice.must(alice.Renew(ctx, room))
		real := w.rooms[room]
		last := len(real.certs) - 1
		signed := real.certs[last]
		real.trees[real.public.Epoch()] = tree
		real.certs[last] = proof(signed, lie)
		w.sleep(ctx, time.Second)
		dave.sync()
		if told := len(dave.saw(Alarm)) == 1 && strings.Contains(dave.saw(Alarm)[0].Text, "not proven"); len(dave.saw(RoomJoined)) != 0 || !told && dave.rooms[room].Lost == "" {
			t.Fatalf("%s: dave is told %+v", name, dave.seen)
		}
		if dave.seen, real.certs[last] = nil, signed; len(dave.packages) != packages || len(dave.held) != 0 {
			t.Fatalf("%s: %d of %d key packages are left, and %d letters", name, len(dave.packages), packages, len(dave.held))
		}
		dave.rooms[room].Lost = ""
		agree(room, alice, bob, carol)
	}
	alice.invite(room, user("dave"))
	agree(room, alice, bob, carol, dave)
	calm(dave)
	if in := dave.saw(RoomJoined); len(in) != 1 || in[0].Text != "" {
		t.Errorf("dave is told %+v", in)
	}
	dave.say(room, "hello")
	agree(room, alice, dave)
}

// A Welcome whose certificate does not come for long is given up for an external commit;
// until then nothing is said or tried.
func TestWelcomeWithoutCertificate(t *testing.T) {
	w := newWorld(t, 62)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	w.lacks = 1
	alice.invite(room, user("bob"))
	for since := w.clock; w.clock.Sub(since) < proofGrace; w.sleep(ctx, firstGrace) {
		bob.sync()
		bob.must(bob.Tend(ctx))
		if bob.rooms[room].Joined || bob.rooms[room].Joining {
			t.Fatalf("bob is in an epoch that nobody signed after %v", w.clock.Sub(since))
		}
		if p := bob.patience(time.Minute); p < earlyAgain || p > proofGrace/8 {
			t.Fatalf("bob waits for %v", p)
		}
	}
	if p := bob.patience(time.Minute); p != time.Minute {
		t.Errorf("bob waits for %v", p)
	}
	for range 3 {
		bob.sync()
		w.sleep(ctx, 2*firstGrace)
		bob.must(bob.Tend(ctx))
	}
	agree(room, alice, bob)
	if bob.sync(); len(bob.held) != 0 {
		t.Errorf("%d letters wait for ever", len(bob.held))
	}
}

// A clock that is put back holds up no Welcome.
func TestWelcomeAndClock(t *testing.T) {
	w := newWorld(t, 65)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	w.lacks = 1
	alice.invite(room, user("bob"))
	bob.sync()
	bob.must(bob.Tend(ctx))
	if _, err := bob.Send(ctx, room, "", []byte("hello?")); err == nil || !core.Temporary(err) {
		t.Errorf("bob, who is on the way in, is told %v", err)
	}
	w.clock = w.clock.Add(-24 * time.Hour)
	w.lacks = 0
	for begin := w.clock; !bob.rooms[room].Joined; w.sleep(ctx, firstGrace) {
		if w.clock.Sub(begin) > 2*proofGrace {
			t.Fatal("bob waits for yesterday's clock")
		}
		bob.sync()
		bob.must(bob.Tend(ctx))
	}
	agree(room, alice, bob)
}

// Where the certificates do not reach back to the room's beginning, those who decide now
// have to have signed the Welcome's commit, or else the own commit by which the device
// enters: who is let in is told who did.
func TestWelcomeToAnOldRoom(t *testing.T) {
	w := newWorld(t, 63)
	alice, bob, bert, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("bert"), nil), w.phone(user("carol"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	alice.must(alice.SetAuthority(ctx, room, policy.Authority{Domains: []string{"b.example"}}))
	for i, cert := range w.rooms[room].certs { // as good as not known any more
		w.rooms[room].certs[i] = w.certify([]string{"z.example"}, factsOf(t, cert))
	}
	for _, p := range []*phone{bert, carol} { // with carol another homeserver comes to decide, which has not signed that
		alice.invite(room, p.User())
		p.sync()
		p.must(p.Tend(ctx))
		agree(room, alice, bob, p)
		calm(p)
		if in := p.saw(RoomJoined); len(in) != 1 || !strings.HasPrefix(in[0].Text, "vouched for by b.example") {
			t.Errorf("%s is told %+v", p.name, in)
		}
	}
}

// Who is let in is told of those alone that have signed, whoever else stands in the
// certificate: one who does not decide, or whose signature is none.
func TestWelcomeNamesSigners(t *testing.T) {
	w := newWorld(t, 64)
	alice, bob, carol, dave, bert := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil), w.phone(user("dave"), nil), w.phone(user("bert"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"), user("carol"), user("dave"))
	agree(room, alice, bob, carol, dave)
	alice.must(alice.SetAuthority(ctx, room, policy.Authority{Domains: []string{"b.example", "c.example", "d.example"}}))
	for i, cert := range w.rooms[room].certs { // as good as not known any more
		w.rooms[room].certs[i] = w.certify([]string{"z.example"}, factsOf(t, cert))
	}
	alice.invite(room, bert.User())
	last := &w.rooms[room].certs[len(w.rooms[room].certs)-1]
	*last = w.certify([]string{"b.example", "c.example", "d.example", "y.example"}, factsOf(t, *last))
	var list []cbor.RawMessage
	if err := cbor.Unmarshal(*last, &list); err != nil {
		t.Fatal(err)
	}
	list[2][len(list[2])-1] ^= 1 // the signature of d.example
	*last = encode(list)
	bert.sync()
	bert.must(bert.Tend(ctx))
	agree(room, alice, bert)
	if in := bert.saw(RoomJoined); len(in) != 1 || in[0].Text != "vouched for by b.example, c.example" {
		t.Errorf("bert is told %+v", in)
	}
}

// goneHome is a homeserver that does not reach another one any more.
type goneHome struct {
	Home
	domain string
}

func (g goneHome) Homeserver(ctx context.Context, domain string) (wire.Homeserver, error) {
	if domain == g.domain {
		return wire.Homeserver{}, core.Errorf(core.Unavailable, "that homeserver does not answer")
	}
	return g.Home.Homeserver(ctx, domain)
}

// A room may outlive the homeserver that it is named after: who is let in then waits for
// a moment, and not for minutes.
func TestWelcomeWithoutTheFounder(t *testing.T) {
	w := newWorld(t, 91)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	alice.must(alice.SetRole(ctx, room, core.RoleOwner, user("bob")))
	agree(room, alice, bob)
	alice.must(alice.Leave(ctx, room))
	for range 8 {
		bob.sync()
		w.sleep(ctx, 3*time.Second)
		bob.must(bob.Tend(ctx))
	}
	bob.must(bob.Renew(ctx, room))
	bob.sync()
	if a := bob.rooms[room].p.Authority().Domains; len(a) != 1 || a[0] != "b.example" {
		t.Fatalf("decided by %v", a)
	}
	carol.cfg.Home = goneHome{carol.cfg.Home, "a.example"}
	bob.invite(room, user("carol"))
	for since := w.clock; carol.rooms[room] == nil || !carol.rooms[room].Joined; w.sleep(ctx, 250*time.Millisecond) {
		carol.sync()
		carol.must(carol.Tend(ctx))
		if took := w.clock.Sub(since); took > 2*traceGrace {
			t.Fatalf("not in after %v", took)
		}
	}
	agree(room, bob, carol)
}
