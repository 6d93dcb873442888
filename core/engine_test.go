package core_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

const (
	home  = "a.example"
	alice = core.UserURI("mimi://a.example/u/alice")
	bob   = core.UserURI("mimi://a.example/u/bob")
	carol = core.UserURI("mimi://a.example/u/matrix.b.example/carol")
)

var room = core.NewRoomID(home, "chan")

// house is an engine over a real SQLite store, one transaction per call.
type house struct {
	t      testing.TB
	domain string
	store  *store.DB
	engine *core.Engine
	now    time.Time
}

func newHouse(t testing.TB) *house { return newHouseAt(t, home) }

func newHouseAt(t testing.TB, domain string) *house {
	db, err := store.Open(context.Background(), store.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "a.db"), Homeserver: domain})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	h := &house{t: t, domain: domain, store: db, now: time.UnixMilli(1_800_000_000_000)}
	h.restart()
	return h
}

var key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))

func (h *house) restart() {
	h.engine = core.NewEngine(core.Config{Homeserver: h.domain, Key: homeKey(h.domain)})
}

func (h *house) apply(ins ...core.Input) (outs []core.Output, errs []error) {
	h.t.Helper()
	h.now = h.now.Add(time.Millisecond)
	err := h.store.Update(context.Background(), func(tx core.Tx) error {
		outs, errs = nil, nil
		for _, in := range ins {
			out, err := h.engine.Apply(tx, h.now, in)
			if core.Broken(err) {
				return err
			}
			outs, errs = append(outs, out), append(errs, err)
		}
		return h.engine.Seal(tx)
	})
	if err != nil {
		h.t.Fatalf("transaction: %v", err)
	}
	return outs, errs
}

// do applies one input that must be accepted.
func (h *house) do(in core.Input) core.Output {
	h.t.Helper()
	outs, errs := h.apply(in)
	if errs[0] != nil {
		h.t.Fatalf("%T refused: %v", in, errs[0])
	}
	return outs[0]
}

// refused applies one input that must be refused for this reason, and must
// leave the room as it was.
func (h *house) refused(in core.Input, code core.Code, reason core.Reason) {
	h.t.Helper()
	before := h.state()
	_, errs := h.apply(in)
	if core.CodeOf(errs[0]) != code || errs[0] == nil || core.ReasonOf(errs[0]) != reason {
		h.t.Fatalf("%T: %v (%q), want %v (%q)", in, errs[0], core.ReasonOf(errs[0]), code, reason)
	}
	if after := h.state(); after != before {
		h.t.Fatalf("a refusal changed the room:\n%s\n%s", before, after)
	}
}

// state is all that the store knows of the room, as text.
func (h *house) state() (s string) {
	h.view(func(r core.Reader) {
		ro, err := r.Room(room)
		if err != nil {
			s = "no room"
			return
		}
		ms, err := r.Members(room)
		h.must(err)
		bs, err := r.Bans(room)
		h.must(err)
		head, _, err := r.Head(room)
		h.must(err)
		s = fmt.Sprintf("%+v %+v %+v %d", ro, ms, bs, head)
	})
	return s
}

func (h *house) view(f func(core.Reader)) {
	h.t.Helper()
	h.must(h.store.View(context.Background(), func(r core.Reader) error { f(r); return nil }))
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *house) events() (es []core.Event) {
	h.view(func(r core.Reader) {
		var err error
		es, err = r.Events(room, core.Range{Limit: 100_000})
		h.must(err)
	})
	return es
}

func say(who core.UserURI, text string) core.Envelope {
	return core.Envelope{Room: room, Sender: who, Origin: core.Origin{Network: core.NetworkIRC},
		Body: core.Signed{Name: who.Local(), ContentType: core.ContentMIMI, Content: []byte(text)}}
}

func control(who core.UserURI, c core.Control) core.Envelope {
	e := say(who, "")
	e.Body = c.Body(who.Local())
	return e
}

func join(who core.UserURI) core.Envelope {
	return control(who, core.Control{Op: core.OpJoin, Profile: &core.Profile{Name: who.Local(), Ident: "u", Host: "h", Account: who.Local()}})
}

func (h *house) open() {
	h.t.Helper()
	h.do(core.CreateRoom{Room: core.Room{ID: room, Name: "#chan", Founder: alice}})
	h.do(join(alice))
	h.do(join(bob))
}

func TestMessagesAreDenseSignedAndSurviveRestart(t *testing.T) {
	h := newHouse(t)
	h.open()
	var ins []core.Input
	for i := range 100 {
		ins = append(ins, say([]core.UserURI{alice, bob}[i%2], fmt.Sprint("m", i)))
	}
	_, errs := h.apply(ins...)
	h.must(errors.Join(errs...))
	h.restart()
	h.do(say(alice, "after"))
	for i, e := range h.events() {
		if e.Seq != uint64(i+1) || e.ID != core.NewEventID(room, home, e.Seq) {
			t.Fatalf("event %d has seq %d", i, e.Seq)
		}
		s, _ := e.Signed()
		if !s.Vouch.Verify(key.Public().(ed25519.PublicKey), s.Header, e.ContentHash()) {
			t.Fatalf("event %d is not vouched for", i)
		}
	}
	if n := len(h.events()); n != 103 {
		t.Fatalf("%d events", n)
	}
}

func TestOriginIsAcceptedOnce(t *testing.T) {
	h := newHouse(t)
	h.open()
	m := say(alice, "once")
	m.Origin = core.Origin{Network: "matrix:b.example", ID: "$1"}
	outs, _ := h.apply(m, m) // twice in one transaction
	if outs[0].Duplicate || !outs[1].Duplicate || outs[1].Event.ID != outs[0].Event.ID {
		t.Fatalf("%+v", outs)
	}
	h.restart()
	if out := h.do(m); !out.Duplicate || out.Event.ID != outs[0].Event.ID {
		t.Fatalf("after a restart: %+v", out)
	}
	m.Origin.Network = "matrix:c.example" // the same ID on another network is another message
	if out := h.do(m); out.Duplicate {
		t.Fatal("origins of two networks were mixed up")
	}
}

func TestWhoMaySpeak(t *testing.T) {
	h := newHouse(t)
	h.refused(say(alice, "x"), core.NotFound, "")
	h.open()
	h.refused(say(carol, "x"), core.Denied, core.NotJoined)
	h.refused(say(alice, ""), core.Invalid, "")
	h.refused(say(alice, string(make([]byte, core.MaxContent+1))), core.TooLarge, "")
	h.do(control(alice, core.Control{Op: core.OpPolicy, Policy: &core.Policy{Moderated: true}}))
	h.refused(say(bob, "x"), core.Denied, core.Muted)
	h.refused(control(bob, core.Control{Op: core.OpRole, User: bob, Role: core.RoleVoice}), core.Denied, core.NotOperator)
	h.do(control(alice, core.Control{Op: core.OpRole, User: bob, Role: core.RoleVoice}))
	h.do(say(bob, "now"))
	nul := say(bob, "x")
	nul.Body = core.Signed{Name: "a\x00b", ContentType: core.ContentMIMI, Content: []byte("x")}
	h.refused(nul, core.Invalid, "")
}

func TestWhoMayJoin(t *testing.T) {
	h := newHouse(t)
	h.open()
	policy := func(p core.Policy) { h.do(control(alice, core.Control{Op: core.OpPolicy, Policy: &p})) }
	withKey := func(k string) core.Envelope {
		return control(carol, core.Control{Op: core.OpJoin, Text: k, Profile: &core.Profile{Name: "carol", Ident: "u", Host: "b.example"}})
	}
	policy(core.Policy{InviteOnly: true})
	h.refused(withKey(""), core.Denied, core.InviteOnly)
	policy(core.Policy{Key: "sesame"})
	h.refused(withKey("wrong"), core.Denied, core.BadKey)
	policy(core.Policy{Registered: true})
	h.refused(withKey(""), core.Denied, core.NeedAccount)
	policy(core.Policy{Limit: 2})
	h.refused(withKey(""), core.Denied, core.Full)
	h.do(control(alice, core.Control{Op: core.OpBan, Mask: "*!*@b.example"}))
	policy(core.Policy{})
	h.refused(withKey(""), core.Denied, core.Banned)
	out := h.do(control(alice, core.Control{Op: core.OpInvite, User: carol}))
	if len(out.Items) != 1 || out.Items[0].To != carol {
		t.Fatalf("the invited is not told: %+v", out.Items)
	}
	policy(core.Policy{InviteOnly: true, Key: "sesame"})
	h.do(withKey("")) // an invitation opens every gate, once
	h.do(control(carol, core.Control{Op: core.OpLeave}))
	h.refused(withKey("sesame"), core.Denied, core.Banned)
	h.refused(control(bob, core.Control{Op: core.OpJoin, User: carol}), core.Invalid, "")
}

func TestMembershipIsSaidOnce(t *testing.T) {
	h := newHouse(t)
	h.open()
	if out := h.do(join(bob)); !out.Duplicate {
		t.Fatal("a second join is not an event")
	}
	nick := join(bob)
	nick.Body = core.Control{Op: core.OpJoin, Profile: &core.Profile{Name: "robert", Account: "bob"}}.Body("bob")
	if out := h.do(nick); out.Event == nil || out.Event.Control.Op != core.OpProfile {
		t.Fatalf("a join of somebody shown differently is a change of profile: %+v", out)
	}
	h.do(control(bob, core.Control{Op: core.OpLeave}))
	if out := h.do(control(bob, core.Control{Op: core.OpLeave})); !out.Duplicate {
		t.Fatal("a second leave is not an event")
	}
	h.refused(control(bob, core.Control{Op: core.OpTopic, Text: "t"}), core.Denied, core.NotJoined)
	last := h.events()
	if c := last[1].Control; c.Role != core.RoleMember {
		t.Fatalf("a stored join says the role it gave: %+v", c)
	}
}

func TestRolesAndKicks(t *testing.T) {
	h := newHouse(t)
	h.open()
	h.do(join(carol))
	h.refused(control(bob, core.Control{Op: core.OpKick, User: carol}), core.Denied, core.NotOperator)
	h.do(control(alice, core.Control{Op: core.OpRole, User: bob, Role: core.RoleOperator}))
	h.refused(control(bob, core.Control{Op: core.OpKick, User: alice}), core.Denied, core.NotOperator)
	h.refused(control(bob, core.Control{Op: core.OpRole, User: alice, Role: core.RoleMember}), core.Denied, core.NotOperator)
	h.refused(control(bob, core.Control{Op: core.OpRole, User: bob, Role: core.RoleOwner}), core.Denied, core.NotOperator)
	h.refused(control(bob, core.Control{Op: core.OpKick, User: "mimi://a.example/u/nobody"}), core.NotFound, core.NoSuchUser)
	h.do(control(bob, core.Control{Op: core.OpKick, User: carol, Text: "out"}))
	h.do(join(carol))
	h.do(control(bob, core.Control{Op: core.OpRole, User: carol, Role: core.RoleBanned}))
	h.refused(say(carol, "x"), core.Denied, core.NotJoined)
	h.refused(join(carol), core.Denied, core.Banned)
	h.do(control(bob, core.Control{Op: core.OpRole, User: bob, Role: core.RoleMember})) // down is always allowed
	h.do(control(alice, core.Control{Op: core.OpLeave}))
	h.do(join(alice))
	h.do(control(alice, core.Control{Op: core.OpPolicy, Policy: &core.Policy{Moderated: true}})) // an account keeps its role
}

func TestOrphanedRoomFindsAnOperator(t *testing.T) {
	h := newHouse(t)
	guest := core.NewUserURI(home, "guest", "x1")
	h.do(core.CreateRoom{Room: core.Room{ID: room, Name: "#chan", Founder: guest}})
	in := control(guest, core.Control{Op: core.OpJoin, Profile: &core.Profile{Name: "x"}})
	h.do(in)
	h.do(control(guest, core.Control{Op: core.OpLeave}))
	if out := h.do(join(bob)); out.Event.Control.Role != core.RoleOperator {
		t.Fatalf("%+v", out.Event.Control)
	}
	other := core.NewRoomID(home, "official") // made by the operator: nobody takes it over
	h.do(core.CreateRoom{Room: core.Room{ID: other, Name: "#official"}})
	j := join(bob)
	j.Room = other
	if out := h.do(j); out.Event.Control.Role != core.RoleMember {
		t.Fatalf("%+v", out.Event.Control)
	}
}

func TestDeletionLeavesATombstone(t *testing.T) {
	h := newHouse(t)
	h.open()
	id := h.do(say(alice, "secret")).Event.ID
	h.refused(control(bob, core.Control{Op: core.OpDelete, Event: id}), core.Denied, core.NotOperator)
	h.refused(control(alice, core.Control{Op: core.OpDelete, Event: core.NewEventID("mimi://a.example/r/x", home, id.Seq())}), core.NotFound, "")
	h.refused(control(alice, core.Control{Op: core.OpDelete, Event: core.NewEventID(room, home, 1)}), core.Invalid, "")
	// said and deleted in one transaction
	next := core.NewEventID(room, home, id.Seq()+1)
	_, errs := h.apply(say(alice, "slip"), control(alice, core.Control{Op: core.OpDelete, Event: next}), say(alice, "more"))
	h.must(errors.Join(errs...))
	h.do(control(alice, core.Control{Op: core.OpDelete, Event: id}))
	if out := h.do(control(alice, core.Control{Op: core.OpDelete, Event: id})); !out.Duplicate {
		t.Fatal("deleted twice")
	}
	for _, e := range h.events() {
		if e.ID != id && e.ID != next {
			continue
		}
		s, _ := e.Signed()
		if !e.Deleted || bytes.Contains(s.Content, []byte("s")) && len(s.Content) != 32 || e.Sender != alice {
			t.Fatalf("not a tombstone: %+v", e)
		}
		if !s.Vouch.Verify(key.Public().(ed25519.PublicKey), s.Header, e.ContentHash()) {
			t.Fatal("the signature of a tombstone no longer verifies")
		}
	}
}

func TestGroupsAreRefusedBeforeAnythingIsOpened(t *testing.T) {
	h := newHouse(t)
	h.do(core.CreateRoom{Room: core.Room{ID: room, Name: "g", Kind: core.Group}})
	h.refused(say(alice, "plain"), core.Denied, core.IsGroup)
	h.refused(join(alice), core.Denied, core.IsGroup)
	link := core.Link{ID: "l1", Room: room, Network: "irc:libera", Place: "#x", Owner: "op"}
	h.refused(core.PutLink{Link: link}, core.Denied, core.IsGroup)
	h.do(core.PutLink{Link: link, Caps: core.Caps{Sealed: true}})
}

func TestLinks(t *testing.T) {
	h := newHouse(t)
	h.open()
	id := h.do(say(alice, "before")).Event.Seq
	link := core.Link{ID: "l1", Room: room, Network: "matrix:b.example", Place: "!r:b.example", Owner: "op"}
	h.do(core.PutLink{Link: link})
	h.view(func(r core.Reader) {
		c, err := r.Cursor("l1", core.LaneMessage)
		h.must(err)
		if c.Seq != id {
			t.Fatalf("a link begins at %d, not at the present %d", c.Seq, id)
		}
	})
	again := link
	again.ID = "l2"
	h.refused(core.PutLink{Link: again}, core.Conflict, "")
	h.do(core.TakeLease{Link: "l1", Holder: "p1", Until: h.now.Add(time.Minute)})
	h.refused(core.TakeLease{Link: "l1", Holder: "p2", Until: h.now.Add(time.Minute)}, core.Conflict, "")
	h.now = h.now.Add(2 * time.Minute)
	h.do(core.TakeLease{Link: "l1", Holder: "p2", Until: h.now.Add(time.Minute)})
	loss := core.SenderLoss{Room: room, Sender: alice, Loss: core.Loss{Kind: "edit", Text: "not shown"}}
	in := core.Settle{Cursor: core.Cursor{Link: "l1", Seq: id + 1, Delivered: 1}, Losses: []core.SenderLoss{loss, loss},
		Placed: []core.Placed{{Link: "l1", Event: core.NewEventID(room, home, id), Foreign: "$x"}}}
	if out := h.do(in); len(out.Items) != 1 {
		t.Fatalf("a loss is told once: %+v", out.Items)
	}
	if out := h.do(in); len(out.Items) != 0 {
		t.Fatalf("a loss is told once: %+v", out.Items)
	}
	h.do(core.DropLink{ID: "l1"})
	h.refused(in, core.NotFound, "")
}

func TestAccountsAreUnique(t *testing.T) {
	h := newHouse(t)
	a := core.Account{Name: "Alice", Fold: "alice", User: alice}
	h.refused(core.PutAccount{Account: a}, core.NotFound, "")
	h.do(core.PutAccount{Account: a, Create: true})
	h.refused(core.PutAccount{Account: a, Create: true}, core.Conflict, "")
	h.do(core.PutAccount{Account: a})
}

// What the engine keeps in memory must equal what the store holds: a run with an
// engine dropped before every input decides exactly as one that lives on.
func TestEngineHasNoStateOfItsOwn(t *testing.T) {
	kept, fresh := newHouse(t), newHouse(t)
	defer func(first core.RoomID) { room = first }(room)
	runs := 0
	rapid.Check(t, func(rt *rapid.T) {
		runs++
		room = core.NewRoomID(home, fmt.Sprint("run", runs)) // instead of a store of its own, which takes long to open
		kept.open()
		fresh.open()
		users := []core.UserURI{alice, bob, carol}
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			in := drawInput(rt, users)
			fresh.restart()
			a, aerr := kept.apply(in)
			b, berr := fresh.apply(in)
			if fmt.Sprint(aerr) != fmt.Sprint(berr) || a[0].Duplicate != b[0].Duplicate {
				rt.Fatalf("%+v: %v / %v", in, aerr, berr)
			}
			if kept.state() != fresh.state() {
				rt.Fatalf("%+v:\n%s\n%s", in, kept.state(), fresh.state())
			}
		}
	})
}

func drawInput(rt *rapid.T, users []core.UserURI) core.Input {
	who := rapid.SampledFrom(users).Draw(rt, "who")
	whom := rapid.SampledFrom(users).Draw(rt, "whom")
	switch op := core.Op(rapid.IntRange(0, int(core.OpProfile)).Draw(rt, "op")); op {
	case 0:
		return say(who, "hello")
	case core.OpJoin:
		return join(who)
	case core.OpLeave:
		return control(who, core.Control{Op: op})
	case core.OpBan, core.OpUnban:
		return control(who, core.Control{Op: op, Mask: rapid.SampledFrom([]string{"*!*@h", "$a:carol", "x!*@*"}).Draw(rt, "mask")})
	case core.OpPolicy:
		return control(who, core.Control{Op: op, Policy: &core.Policy{Moderated: rapid.Bool().Draw(rt, "m"), InviteOnly: rapid.Bool().Draw(rt, "i")}})
	case core.OpProfile:
		return control(who, core.Control{Op: op, Profile: &core.Profile{Name: rapid.SampledFrom([]string{"n1", "n2"}).Draw(rt, "name")}})
	case core.OpDelete:
		return control(who, core.Control{Op: op, Event: core.NewEventID(room, home, rapid.Uint64Range(0, 30).Draw(rt, "seq"))})
	case core.OpTopic, core.OpName:
		return control(who, core.Control{Op: op, Text: rapid.SampledFrom([]string{"t1", "t2"}).Draw(rt, "text")})
	default:
		return control(who, core.Control{Op: op, User: whom, Role: core.Role(rapid.IntRange(0, 8).Draw(rt, "role"))})
	}
}

func TestItemsOfOneRecipientAreBounded(t *testing.T) {
	h := newHouse(t)
	for i := range core.MaxItems + 5 {
		h.do(core.PutItem{Item: core.Item{To: alice, Kind: "notice", Text: fmt.Sprint(i)}})
	}
	h.view(func(r core.Reader) {
		items, err := r.Items(alice, 0, 10*core.MaxItems)
		h.must(err)
		if len(items) != core.MaxItems || items[0].Text != "5" {
			t.Fatalf("%d items, the first is %q", len(items), items[0].Text)
		}
	})
}
