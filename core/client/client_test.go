package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
)

var ctx = context.Background()

// A phone is a device in a test: a client, its storage, and what it has seen.
type phone struct {
	*Client
	w    *world
	name string
	kv   *memory
	seed byte
	seen []Update
	cfg  Config
}

// open begins or continues a device.
func (p *phone) open() {
	p.w.Helper()
	c, err := Open(ctx, p.cfg)
	if err != nil {
		p.w.Fatalf("%s opens: %v", p.name, err)
	}
	p.Client = c
}

// phone makes a device of a user; by is another of the user's devices, or nil.
func (w *world) phone(user core.UserURI, by *phone) *phone {
	w.Helper()
	p := w.bare(user)
	var links []string
	if by != nil {
		links = []string{by.Device().ID()}
	}
	record, err := p.Prepare(ctx, user, p.name, links...)
	if err != nil {
		w.Fatalf("prepare: %v", err)
	}
	var how Registration
	if by != nil {
		if how.Approval, err = by.Approve(ctx, record); err != nil {
			w.Fatalf("approve: %v", err)
		}
		how.Sponsor = by.Device()
	}
	if err := p.Register(ctx, how); err != nil {
		w.Fatalf("register: %v", err)
	}
	return p
}

func (w *world) bare(user core.UserURI) *phone {
	p := &phone{w: w, name: fmt.Sprintf("%s %d", user.Local(), len(w.devices)), kv: newMemory()}
	var seed [32]byte
	w.mu.Lock()
	for i := range seed {
		seed[i] = byte(w.rand.Uint64())
	}
	w.mu.Unlock()
	p.cfg = Config{Store: p.kv, Home: &link{w: w}, Rand: rand.NewChaCha8(seed), Now: w.now, Wait: w.sleep, Packages: 3}
	p.open()
	return p
}

func user(name string) core.UserURI { return core.UserURI("mimi://" + name[:1] + ".example/u/" + name) }

// sync takes what is new, and returns it.
func (p *phone) sync() []Update {
	p.w.Helper()
	u, err := p.Sync(ctx, 0)
	if err != nil {
		p.w.Fatalf("%s syncs: %v", p.name, err)
	}
	p.seen = append(p.seen, u...)
	return u
}

func (p *phone) must(err error) {
	p.w.Helper()
	if err != nil {
		p.w.Fatalf("%s: %v", p.name, err)
	}
}

func (p *phone) say(room core.RoomID, text string) {
	p.w.Helper()
	m, err := p.Send(ctx, room, "", []byte(text))
	if err != nil || m.Waiting || m.Seq == 0 {
		p.w.Fatalf("%s says %q: %v %+v", p.name, text, err, m)
	}
}

// read are the texts of a room as the device has them.
func (p *phone) read(room core.RoomID) (out []string) {
	p.w.Helper()
	h, err := p.History(ctx, room, 0, 500)
	p.must(err)
	for _, m := range h {
		if m.Failed != "" {
			out = append(out, "! "+m.Failed)
			continue
		}
		out = append(out, m.Sender.Local()+": "+string(m.Content))
	}
	return out
}

func (p *phone) create(name string, o ...policy.Option) core.RoomID {
	p.w.Helper()
	id, err := p.Create(ctx, NewRoom{Name: name, Options: o})
	p.must(err)
	return id
}

func (p *phone) invite(room core.RoomID, users ...core.UserURI) {
	p.w.Helper()
	out, err := p.Invite(ctx, room, users...)
	p.must(err)
	for _, i := range out {
		if i.Status != core.Claimed {
			p.w.Fatalf("%s is not invited: %s", i.User, i.Status)
		}
	}
}

// secret is what only members of an epoch know.
func (p *phone) secret(room core.RoomID) string {
	p.w.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	r, err := p.Client.group(ctx, room)
	p.must(err)
	return fmt.Sprintf("%d %x", r.g.Epoch(), r.g.EpochAuthenticator())
}

// agree checks that devices are in one epoch.
func agree(room core.RoomID, phones ...*phone) {
	first := phones[0]
	first.w.Helper()
	for range 3 {
		for _, p := range phones {
			p.sync()
		}
	}
	for _, p := range phones[1:] {
		if got, want := p.secret(room), first.secret(room); got != want {
			first.w.Fatalf("%s is in %s, %s in %s", p.name, got, first.name, want)
		}
	}
}

func (p *phone) saw(k Kind) (out []Update) {
	for _, u := range p.seen {
		if u.Kind == k {
			out = append(out, u)
		}
	}
	return out
}

// calm fails on any warning.
func calm(phones ...*phone) {
	for _, p := range phones {
		p.w.Helper()
		for _, u := range p.seen {
			if u.Warning() {
				p.w.Fatalf("%s is warned: %+v", p.name, u)
			}
		}
	}
}

func TestConversation(t *testing.T) {
	w := newWorld(t, 1)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	tablet := w.phone(user("bob"), bob)
	room := alice.create("tea")
	alice.say(room, "anybody?")
	alice.invite(room, user("bob"))
	agree(room, alice, bob, tablet)
	alice.say(room, "hello")
	bob.say(room, "hello yourself")
	tablet.sync()
	tablet.say(room, "from the tablet")
	agree(room, alice, bob, tablet)
	talk := []string{"alice: hello", "bob: hello yourself", "bob: from the tablet"}
	for _, p := range []*phone{bob, tablet} {
		if got := p.read(room); !slices.Equal(got, talk) {
			t.Errorf("%s reads %q", p.name, got)
		}
	}
	if got := alice.read(room); !slices.Equal(got, append([]string{"alice: anybody?"}, talk...)) {
		t.Errorf("alice reads %q", got)
	}
	rooms, err := bob.Rooms(ctx)
	if err != nil || len(rooms) != 1 || rooms[0].Name != "tea" || !slices.Equal(rooms[0].Authority, []string{"a.example", "b.example"}) ||
		!bytes.Equal(rooms[0].Domain, core.GroupID(room)) || rooms[0].Devices != 3 || !rooms[0].Encrypted {
		t.Errorf("bob's rooms: %v %+v", err, rooms)
	}
	alice.must(alice.Describe(ctx, room, "coffee", "no tea"))
	alice.must(alice.SetRole(ctx, room, core.RoleOperator, user("bob")))
	agree(room, alice, bob, tablet)
	if rooms, _ = tablet.Rooms(ctx); rooms[0].Name != "coffee" || rooms[0].Topic != "no tea" {
		t.Errorf("the room is called %+v", rooms[0])
	}
	if u := bob.saw(RoleChanged); len(u) != 1 || u[0].Text != "operator" {
		t.Errorf("roles changed: %+v", u)
	}
	calm(alice, bob, tablet)
}

func TestGoing(t *testing.T) {
	w := newWorld(t, 2)
	alice, bob, carol, dave := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil), w.phone(user("dave"), nil)
	room := alice.create("in and out")
	alice.invite(room, user("bob"), user("carol"), user("dave"))
	agree(room, alice, bob, carol, dave)
	alice.must(alice.Remove(ctx, room, user("bob")))
	alice.must(alice.Ban(ctx, room, user("carol")))
	agree(room, alice, dave)
	bob.sync()
	carol.sync()
	for _, p := range []*phone{bob, carol} {
		if _, err := p.Send(ctx, room, "", []byte("still here")); core.CodeOf(err) != core.Denied {
			t.Errorf("%s speaks on: %v", p.name, err)
		}
		if len(p.saw(RoomLeft)) != 1 {
			t.Errorf("%s does not know: %+v", p.name, p.seen)
		}
		if left, err := p.Left(ctx); err != nil || len(left) != 1 || left[0].Room != room || left[0].Name != "in and out" {
			t.Errorf("%s left %+v, %v", p.name, left, err)
		}
	}
	if left, err := alice.Left(ctx); err != nil || len(left) != 0 {
		t.Errorf("alice left %+v, %v", left, err)
	}
	if rooms, _ := alice.Rooms(ctx); !slices.Equal(rooms[0].Authority, []string{"a.example", "d.example"}) {
		t.Errorf("authority %v", rooms[0].Authority)
	}
	dave.must(dave.Leave(ctx, room))
	for range 20 {
		alice.sync()
		alice.must(alice.Tend(ctx))
		w.sleep(ctx, time.Second)
	}
	dave.sync()
	if len(dave.saw(RoomLeft)) != 1 || len(alice.saw(MemberOut)) != 2 {
		t.Errorf("dave: %+v, alice: %+v", dave.seen, alice.saw(MemberOut))
	}
	if rooms, _ := alice.Rooms(ctx); !slices.Equal(rooms[0].Authority, []string{"a.example"}) || rooms[0].Devices != 1 {
		t.Errorf("left behind: %+v", rooms[0])
	}
	// Who left comes back by invitation, who is banned does not.
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	if out, err := alice.Invite(ctx, room, user("carol")); core.CodeOf(err) != core.Denied {
		t.Errorf("carol comes back: %v %v", out, err)
	}
	calm(alice, bob, carol, dave)
}

// Where several leave at once, those who stay commit it; where nobody stays, the room
// is forgotten.
func TestLeavingTogether(t *testing.T) {
	w := newWorld(t, 9)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	tablet := w.phone(user("bob"), bob)
	room := alice.create("out")
	alice.invite(room, user("bob"), user("carol"))
	agree(room, alice, bob, carol, tablet)
	bob.must(bob.Leave(ctx, room))
	if err := tablet.Renew(ctx, room); err != nil {
		tablet.sync() // then it knows that it is on its way out
	}
	tablet.sync()
	if err := tablet.Renew(ctx, room); core.CodeOf(err) != core.Denied {
		t.Errorf("who leaves commits: %v", err)
	}
	all := []*phone{alice, bob, carol, tablet}
	rest := func() {
		for range 12 {
			for _, p := range all {
				p.sync()
				p.must(p.Tend(ctx))
			}
			w.sleep(ctx, time.Second)
		}
	}
	late := w.phone(user("carol"), carol) // enters while bob's leaving waits, and takes it up
	late.must(late.Join(ctx, room, ""))
	all = append(all, late)
	rest()
	agree(room, alice, carol, late)
	carol.sync()
	alice.must(alice.Leave(ctx, room))
	carol.must(carol.Leave(ctx, room))
	rest()
	for _, p := range all {
		if rooms, err := p.Rooms(ctx); err != nil || len(rooms) != 0 {
			t.Errorf("%s is still in %+v (%v)", p.name, rooms, err)
		}
	}
	alone := carol.create("alone")
	carol.must(carol.Leave(ctx, alone))
	rest()
	if rooms, _ := carol.Rooms(ctx); len(rooms) != 0 {
		t.Errorf("carol is still in %+v", rooms)
	}
}

func TestJoining(t *testing.T) {
	w := newWorld(t, 3)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	room := alice.create("with a code", policy.JoinCodes())
	if err := bob.Join(ctx, room, "guess"); core.CodeOf(err) != core.Denied {
		t.Fatalf("bob guessed: %v", err)
	}
	code, err := alice.JoinCode(ctx, room, "", 1, 0)
	alice.must(err)
	bob.must(bob.Join(ctx, room, code.Code))
	agree(room, alice, bob)
	alice.say(room, "welcome")
	agree(room, alice, bob)
	if got := bob.read(room); !slices.Equal(got, []string{"alice: welcome"}) {
		t.Errorf("bob reads %q", got)
	}
	// A second device enters all the user's rooms by itself.
	tablet := w.phone(user("bob"), bob)
	for range 10 {
		tablet.sync()
		tablet.must(tablet.Tend(ctx))
		w.sleep(ctx, time.Second)
	}
	agree(room, alice, bob, tablet)
	tablet.say(room, "me too")
	agree(room, alice, bob, tablet)
	if got := alice.read(room); !slices.Equal(got, []string{"alice: welcome", "bob: me too"}) {
		t.Errorf("alice reads %q", got)
	}
	open := alice.create("open", policy.OpenJoin())
	carol.must(carol.Join(ctx, open, ""))
	agree(open, alice, carol)
	calm(alice, bob, carol, tablet)
	// A lost device is taken out by another.
	bob.sync()
	bob.must(bob.RemoveDevice(ctx, tablet.Device()))
	agree(room, alice, bob)
	tablet.sync()
	if len(tablet.saw(RoomLeft)) != 1 {
		t.Errorf("the tablet is still in: %+v", tablet.seen)
	}
}

// A homeserver whose first user came by a code follows without a vote, until
// somebody who may gives it one.
func TestSetAuthority(t *testing.T) {
	w := newWorld(t, 4)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("votes", policy.JoinCodes())
	code, err := alice.JoinCode(ctx, room, "", 1, 0)
	alice.must(err)
	bob.must(bob.Join(ctx, room, code.Code))
	agree(room, alice, bob)
	both := policy.Authority{Domains: []string{"a.example", "b.example"}, Rule: policy.TwoThirds}
	for _, c := range []struct {
		by   *phone
		a    policy.Authority
		want core.Code
	}{
		{bob, both, core.Denied}, // a member may not
		{alice, policy.Authority{Domains: []string{"a.example", "c.example"}}, core.Denied}, // has nobody in the room
		{alice, policy.Authority{}, core.Invalid},
		{alice, policy.Authority{Domains: []string{"a.example", "no domain"}}, core.Invalid},
	} {
		if err := c.by.SetAuthority(ctx, room, c.a); err == nil || core.CodeOf(err) != c.want {
			t.Errorf("%s sets %v: %v", c.by.name, c.a, err)
		}
	}
	for range 2 { // the second time it is so already
		alice.must(alice.SetAuthority(ctx, room, both))
		agree(room, alice, bob)
	}
	if rooms, err := bob.Rooms(ctx); err != nil || !slices.Equal(rooms[0].Authority, both.Domains) || rooms[0].Rule != policy.TwoThirds {
		t.Errorf("bob's rooms: %v %+v", err, rooms)
	}
	alice.say(room, "vote")
	agree(room, alice, bob)
	calm(alice, bob)
}

// Devices that race all get their way, and nobody loses a message.
func TestRace(t *testing.T) {
	w := newWorld(t, 4)
	alice := w.phone(user("alice"), nil)
	room := alice.create("race")
	phones := []*phone{alice}
	var users []core.UserURI
	for i := range 6 {
		p := w.phone(user(fmt.Sprintf("bob%d", i)), nil)
		phones, users = append(phones, p), append(users, p.User())
	}
	alice.invite(room, users...)
	agree(room, phones...)
	done := make(chan error)
	for i, p := range phones {
		go func() {
			for n := range 4 {
				if err := p.Renew(ctx, room); err != nil {
					done <- fmt.Errorf("%s renews: %w", p.name, err)
					return
				}
				if _, err := p.Send(ctx, room, "", fmt.Appendf(nil, "%d %d", i, n)); err != nil {
					done <- fmt.Errorf("%s sends: %w", p.name, err)
					return
				}
			}
			done <- nil
		}()
	}
	for range phones {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	agree(room, phones...)
	want := phones[0].read(room)
	for _, p := range phones {
		if got := p.read(room); !slices.Equal(got, want) || len(got) != 4*len(phones) {
			t.Errorf("%s reads %d messages: %q", p.name, len(got), got)
		}
	}
	if e := w.rooms[room].public.Epoch(); e != 1+uint64(4*len(phones)) {
		t.Errorf("epoch %d", e)
	}
	calm(phones...)
}

// A device that makes several changes at a time takes none back that is under way.
func TestRaceWithOneself(t *testing.T) {
	w := newWorld(t, 44)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("race")
	alice.invite(room, bob.User())
	agree(room, alice, bob)
	done := make(chan error)
	const each, times = 4, 12
	for range each {
		for _, p := range []*phone{alice, bob} {
			go func() {
				var errs []error
				for range times {
					errs = append(errs, p.Renew(ctx, room))
				}
				done <- errors.Join(errs...)
			}()
		}
	}
	for range 2 * each {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	agree(room, alice, bob)
	calm(alice, bob)
}

func TestUnsignedEpoch(t *testing.T) {
	w := newWorld(t, 5)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	for name, forge := range map[string]func(ev *wire.Event){
		"no certificate": func(ev *wire.Event) { ev.Certificate = nil },
		"one signature":  func(ev *wire.Event) { ev.Certificate = oneOf(ev.Certificate) },
	} {
		before := bob.secret(room)
		w.forge = forge
		w.fault = nil
		ok := make(chan error, 1)
		go func() { ok <- alice.Describe(ctx, room, name, "") }()
		if err := <-ok; core.CodeOf(err) != core.Unavailable {
			t.Errorf("%s: alice goes on: %v", name, err)
		}
		bob.sync()
		bob.sync()
		if bob.secret(room) != before {
			t.Errorf("%s: bob goes on", name)
		}
		if n := len(bob.saw(Alarm)); n != 1 {
			t.Errorf("%s: bob is warned %d times", name, n)
		}
		w.forge, bob.seen, alice.seen = nil, nil, nil
		agree(room, alice, bob)
	}
}

// oneOf leaves one approval of two.
func oneOf(cert []byte) []byte {
	if cert == nil {
		return nil
	}
	var list [][][]byte
	if err := decode(cert, &list); err != nil {
		panic(err)
	}
	return encode(list[:1])
}

// A device that was away finds its way back, and one that lost the thread enters anew.
func TestAway(t *testing.T) {
	w := newWorld(t, 6)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	for i := range 10 {
		alice.must(alice.Renew(ctx, room))
		alice.say(room, fmt.Sprint(i))
	}
	w.perSync = 3
	agree(room, alice, bob)
	if got := bob.read(room); len(got) != 10 || got[9] != "alice: 9" {
		t.Errorf("bob reads %q", got)
	}
	calm(alice, bob)
	// Commits that the homeserver no longer has.
	for i := range 10 {
		alice.must(alice.Renew(ctx, room))
		alice.say(room, fmt.Sprint("lost ", i))
	}
	for _, e := range w.rooms[room].log[len(w.rooms[room].log)-18:] {
		delete(e.for_, bob.User())
	}
	alice.must(alice.Renew(ctx, room))
	for range 5 {
		bob.sync()
		bob.must(bob.Tend(ctx))
	}
	agree(room, alice, bob)
	if len(bob.saw(Resynced)) != 1 {
		t.Errorf("bob was not resynced: %+v", bob.seen)
	}
	bob.say(room, "back")
	agree(room, alice, bob)
	if got := alice.read(room); got[len(got)-1] != "bob: back" {
		t.Errorf("alice reads %q", got)
	}
}

// A homeserver that was given a room's state, and not the commits that led to it, has
// nothing by which its devices could follow: they enter anew.
func TestMissingCommits(t *testing.T) {
	w := newWorld(t, 10)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	for _, talk := range []bool{true, false} {
		seen := len(w.rooms[room].log)
		alice.must(alice.Renew(ctx, room))
		delete(w.rooms[room].log[seen].for_, bob.User())
		if talk {
			alice.say(room, "of an epoch that bob knows nothing of")
		} else {
			w.sleep(ctx, 2*time.Hour)
		}
		for range 15 {
			bob.sync()
			bob.must(bob.Tend(ctx))
			w.sleep(ctx, time.Second)
		}
		agree(room, alice, bob)
		if len(bob.saw(Resynced)) != 1 {
			t.Errorf("talk %v: bob was not resynced: %+v", talk, bob.seen)
		}
		bob.seen = nil
	}
	bob.say(room, "back")
	agree(room, alice, bob)
	if got := alice.read(room); got[len(got)-1] != "bob: back" {
		t.Errorf("alice reads %q", got)
	}
}

func TestLetters(t *testing.T) {
	w := newWorld(t, 7)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	tablet := w.phone(user("bob"), bob)
	room := alice.create("tea")
	alice.must(alice.WriteLetter(ctx, user("bob"), Letter{Kind: LetterInvitation, Room: room, Code: "sesame", Text: "come in"}))
	for _, p := range []*phone{bob, tablet} {
		for _, l := range w.devices[p.Device()].letters {
			if bytes.Contains(l.Body, []byte("sesame")) || bytes.Contains(l.Body, []byte("alice")) {
				t.Error("the homeserver can read a letter")
			}
		}
		p.sync()
		got, err := p.Letters(ctx, 10)
		if err != nil || len(got) != 1 || got[0].From != user("alice") || got[0].Code != "sesame" || got[0].Room != room || got[0].Text != "come in" {
			t.Errorf("%s: %v %+v", p.name, err, got)
		}
		p.sync()
		if got, _ = p.Letters(ctx, 10); len(got) != 1 {
			t.Errorf("%s has the letter %d times", p.name, len(got))
		}
	}
	// One that says to be of somebody else is dropped.
	forged := Letter{Kind: LetterText, From: user("alice"), Device: alice.Device(), To: bob.Device(), Text: "send money"}
	record := bob.self.record
	kem, ciphertext, err := tablet.sealLetter(forged, record.Inbox.Public)
	tablet.must(err)
	w.letter(bob.Device(), wire.Letter{Kind: "sealed", Body: encode(wire.SealedLetter{Device: bob.Device(), KEM: kem, Ciphertext: ciphertext})})
	bob.sync()
	if got, _ := bob.Letters(ctx, 10); len(got) != 1 {
		t.Errorf("bob believes %+v", got)
	}
}
