package core_test

import (
	"bytes"
	"context"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

const (
	domainA = "a.example"
	domainB = "b.example"
	bobB    = core.UserURI("mimi://b.example/u/bob")
)

var club = core.NewRoomID(domainA, "club")

// newGroupHouse is a homeserver that knows those of a.example and b.example.
func newGroupHouse(t testing.TB, domain string) *house {
	h := newHouseAt(t, domain)
	h.do(core.PutHomeserver{Record: homeRecord(t, domainA)})
	h.do(core.PutHomeserver{Record: homeRecord(t, domainB)})
	return h
}

func (h *house) snapshot(room core.RoomID) (b []byte) {
	h.t.Helper()
	h.must(h.store.Update(context.Background(), func(tx core.Tx) (err error) {
		b, err = h.engine.SnapshotGroup(tx, room)
		return err
	}))
	return b
}

func (h *house) restore(room core.RoomID, snapshot []byte) error {
	return h.store.Update(context.Background(), func(tx core.Tx) error {
		_, err := h.engine.RestoreGroup(tx, h.now, room, snapshot, func(core.Authority, []byte, []byte) error { return nil })
		if err != nil {
			return err
		}
		return h.engine.Seal(tx)
	})
}

// say seals text by d and offers it to h.
func (d *device) say(h *house, text string) (core.Output, error) {
	d.t.Helper()
	m := must(d.g.Seal(nil, []byte(text), nil))(d.t)
	outs, errs := h.apply(core.Envelope{Room: club, Sender: d.user, Origin: core.Origin{Network: core.NetworkNative}, Body: core.Sealed{Message: m}})
	return outs[0], errs[0]
}

func wantCode(t testing.TB, err error, c core.Code) {
	t.Helper()
	if err == nil || core.CodeOf(err) != c {
		t.Fatalf("got %v, want %v", err, c)
	}
}

// A Group of one homeserver: users participate and devices are members, changed in
// one commit; messages are kept as they are, within the room's tolerance of epochs.
func TestGroupLife(t *testing.T) {
	h := newGroupHouse(t, domainA)
	al, bo := newDevice(t, alice, "phone"), newDevice(t, bob, "phone")
	al.create(h, club, policy.Default(string(alice), domainA))
	if _, err := al.say(h, "alone"); err != nil {
		t.Fatal(err)
	}
	hs := al.add(club, bo)
	out, opened := h.accept(hs)
	al.merge()
	if opened == nil || opened.Epoch != 1 || len(out.Letters) != 1 || out.Letters[0].Device != bo.uri || len(out.Welcomes) != 0 {
		t.Fatalf("opened %+v, letters %v", opened, out.Letters)
	}
	if !bytes.Equal(opened.Tree, al.g.Public().Context().TreeHash) || !bytes.Equal(opened.Transcript, al.g.Public().Context().ConfirmedTranscriptHash) {
		t.Fatal("the homeserver vouches for another epoch than its members are in")
	}
	bo.join(h, club, out.Letters[0])
	o, err := bo.say(h, "hello")
	if err != nil {
		t.Fatal(err)
	}
	got := must(al.g.Open(must(mls.Parse(o.Event.Body.(core.Sealed).Message))(t)))(t)
	if string(got.Data) != "hello" || o.Event.Sender != bob {
		t.Fatalf("%q by %s", got.Data, o.Event.Sender)
	}
	h.view(func(r core.Reader) {
		rooms := must(r.RoomsOf(bob, "", 10))(t)
		if len(rooms) != 1 || rooms[0] != club {
			t.Fatalf("bob's rooms: %v", rooms)
		}
		ev := must(r.Event(club, o.Event.Seq))(t)
		if ev.ID != o.Event.ID || !bytes.Equal(ev.Body.(core.Sealed).Message, o.Event.Body.(core.Sealed).Message) {
			t.Fatal("the log does not hold what was accepted")
		}
	})
	// A stranger says nothing, and nobody says anything in the clear.
	eve := newDevice(t, core.UserURI("mimi://a.example/u/eve"), "x")
	m := must(al.g.Seal(nil, []byte("x"), nil))(t)
	_, errs := h.apply(core.Envelope{Room: club, Sender: eve.user, Origin: core.Origin{Network: core.NetworkNative}, Body: core.Sealed{Message: m}},
		core.Envelope{Room: club, Sender: alice, Origin: core.Origin{Network: core.NetworkNative}, Body: core.Signed{ContentType: core.ContentMIMI, Content: []byte("x")}})
	wantCode(t, errs[0], core.Denied)
	wantCode(t, errs[1], core.Denied)
}

// Messages of late epochs are taken within the room's tolerance, of early ones never.
func TestGroupEpochTolerance(t *testing.T) {
	h := newGroupHouse(t, domainA)
	al := newDevice(t, alice, "phone")
	al.create(h, club, policy.Default(string(alice), domainA))
	late := must(al.g.Seal(nil, []byte("late"), nil))(t)
	tolerance := policy.DefaultEpochTolerance
	offer := func(b []byte) error {
		_, errs := h.apply(core.Envelope{Room: club, Sender: alice, Origin: core.Origin{Network: core.NetworkNative}, Body: core.Sealed{Message: b}})
		return errs[0]
	}
	for i := range tolerance + 1 {
		hs := al.commit(club, nil)
		ahead := must(group.Restore(al.cfg, al.g.Snapshot(), nil, func([]byte) (mls.Signer, bool) { return al.id.Signer, true }))(t)
		if err := ahead.Merge(ahead.Pending()); err != nil {
			t.Fatal(err)
		}
		future := must(ahead.Seal(nil, []byte("early"), nil))(t)
		err := offer(future)
		wantCode(t, err, core.StaleEpoch)
		h.accept(hs)
		al.merge()
		if err := offer(late); (err == nil) != (i < tolerance) {
			t.Fatalf("%d epochs later: %v", i+1, err)
		}
	}
}

// Whoever comes second hears who came first, and an engine that starts anew knows it.
func TestGroupRace(t *testing.T) {
	h := newGroupHouse(t, domainA)
	al, bo := newDevice(t, alice, "phone"), newDevice(t, bob, "phone")
	al.create(h, club, policy.Default(string(alice), domainA))
	out, _ := h.accept(al.add(club, bo))
	al.merge()
	bo.join(h, club, out.Letters[0])
	first, second := al.commit(club, nil), bo.commit(club, nil)
	h.accept(first)
	_, _, err := h.decide(second)
	wantCode(t, err, core.StaleEpoch)
	for range 2 {
		h.must(h.store.Update(context.Background(), func(tx core.Tx) error {
			id, message, _, err := h.engine.Winner(tx, club, 1)
			if err != nil || id != first.ID() || !bytes.Equal(message, first.Message) {
				t.Errorf("winner %x, %v", id, err)
			}
			return nil
		}))
		h.restart()
	}
	al.merge()
	bo.g.Discard()
	bo.follow(first.Message)
	h.accept(bo.commit(club, nil))
}

// Two homeservers that are given the same handshakes come to the same state, and so
// does one that starts anew; the second was handed the state when it came.
func TestGroupTwoHomeservers(t *testing.T) {
	a, b := newGroupHouse(t, domainA), newGroupHouse(t, domainB)
	al, bo := newDevice(t, alice, "phone"), newDevice(t, bobB, "phone")
	al.create(a, club, policy.Default(string(alice), domainA))
	state := al.state()
	authority := state.Authority()
	authority.Domains = append(authority.Domains, domainB)
	b.do(core.PutDevice{Proof: bo.proof, Register: true})
	b.do(core.PutKeyPackages{Device: bo.uri, Packages: [][]byte{bo.keyPackage().AppendTo(mls.AppendHeader(nil, mls.WireKeyPackage))}})
	kp := bo.kp
	claims := b.do(core.ClaimKeyPackages{By: domainA, Users: []core.UserURI{bobB}, Suites: []uint16{1}}).Claims
	if len(claims) != 1 || claims[0].Status != core.Claimed || claims[0].Device != bo.uri {
		t.Fatalf("claims %+v", claims)
	}
	hs := al.commit(club, []core.Identity{*claims[0].Proof}, group.Add(must(mls.Parse(claims[0].Package))(t).KeyPackage),
		update(policy.ComponentParticipants, policy.Invite(state, []string{string(bobB)}, policy.RoleMember)),
		update(policy.ComponentAuthority, policy.SetAuthority(authority)))
	out, opened := a.accept(hs)
	al.merge()
	if len(out.Welcomes) != 1 || out.Welcomes[0].To != domainB || len(out.Letters) != 0 {
		t.Fatalf("welcomes %v", out.Welcomes)
	}
	if len(opened.Before.Voters) != 1 || len(opened.After.Voters) != 2 {
		t.Fatalf("authority %v to %v", opened.Before, opened.After)
	}
	letters := b.do(core.PutWelcome{From: domainA, Welcome: out.Welcomes[0]}).Letters
	if len(letters) != 1 || letters[0].Device != bo.uri {
		t.Fatalf("letters %v", letters)
	}
	a.do(core.DropWelcome{Welcome: out.Welcomes[0]})
	a.view(func(r core.Reader) {
		if w := must(core.WelcomesOf(r, "", 10))(t); len(w) != 0 {
			t.Fatal("a Welcome that arrived is sent again")
		}
	})
	if err := b.restore(club, a.snapshot(club)); err != nil {
		t.Fatal(err)
	}
	bo.kp = kp
	bo.join(b, club, letters[0])
	for i := range 70 { // past maxReplay
		by, other := al, bo
		if i%2 == 1 {
			by, other = bo, al
		}
		hs := by.commit(club, nil)
		a.accept(hs)
		b.accept(hs)
		by.merge()
		other.follow(hs.Message)
		if i%7 == 0 {
			b.restart()
		}
		if i%10 == 0 && !bytes.Equal(a.snapshot(club), b.snapshot(club)) {
			t.Fatalf("after %d commits the homeservers differ", i+1)
		}
	}
	a.restart()
	if !bytes.Equal(a.snapshot(club), b.snapshot(club)) {
		t.Fatal("a homeserver that starts anew differs")
	}
	if !bytes.Equal(al.g.EpochAuthenticator(), bo.g.EpochAuthenticator()) {
		t.Fatal("the devices differ")
	}
}

// What another homeserver accepted is taken once, in order, for its own users only;
// a message of an epoch that has not begun here comes again later.
func TestGroupPeerEvents(t *testing.T) {
	a := newGroupHouse(t, domainA)
	al, bo := newDevice(t, alice, "phone"), newDevice(t, bobB, "phone")
	al.create(a, club, policy.Default(string(alice), domainA))
	out, _ := a.accept(al.add(club, bo))
	al.merge()
	w := must(mls.Parse(out.Welcomes[0].Message))(t).Welcome
	bo.g = must(group.Join(bo.cfg, w, bo.kp, group.JoinOptions{RatchetTree: out.Welcomes[0].Tree}))(t)
	seal := func(text string) []byte { return must(bo.g.Seal(nil, []byte(text), nil))(t) }
	ev := func(seq, prev uint64, m []byte) core.PeerEvent {
		return core.PeerEvent{Seq: seq, Prev: prev, Accepted: 1_700_000_000_000, Sender: bobB, Message: m}
	}
	m1, m2, m3 := seal("1"), seal("2"), seal("3")
	batch := core.PeerEvents{From: domainB, Room: club, Events: []core.PeerEvent{ev(5, 0, m1), ev(9, 5, m2)}}
	o := a.do(batch)
	if o.Stored != 9 || len(o.Events) != 2 || o.Events[0].ID != core.NewEventID(club, domainB, 5) || o.Events[1].Home != domainB {
		t.Fatalf("%+v", o)
	}
	if o := a.do(batch); o.Stored != 9 || len(o.Events) != 0 {
		t.Fatal("a repeated batch was taken twice")
	}
	a.restart()
	if o := a.do(batch); o.Stored != 9 || len(o.Events) != 0 {
		t.Fatal("after a restart a repeated batch was taken twice")
	}
	outs, errs := a.apply(core.PeerEvents{From: domainB, Room: club, Events: []core.PeerEvent{ev(20, 12, m3)}})
	wantCode(t, errs[0], core.Conflict)
	if outs[0].Stored != 9 {
		t.Fatalf("a gap: stored %d", outs[0].Stored)
	}
	forged := ev(12, 9, m3)
	forged.Sender = alice
	if o := a.do(core.PeerEvents{From: domainB, Room: club, Events: []core.PeerEvent{forged, ev(13, 12, seal("4"))}}); len(o.Events) != 1 || o.Stored != 13 {
		t.Fatalf("a message in somebody else's name: %+v", o)
	}
	hs := bo.commit(club, nil)
	bo.merge()
	early := ev(14, 13, seal("early"))
	_, errs = a.apply(core.PeerEvents{From: domainB, Room: club, Events: []core.PeerEvent{early}})
	wantCode(t, errs[0], core.StaleEpoch)
	hs.Home = domainB
	a.accept(hs)
	if o := a.do(core.PeerEvents{From: domainB, Room: club, Events: []core.PeerEvent{early}}); len(o.Events) != 1 {
		t.Fatal("it was not taken when its epoch had begun")
	}
	_, errs = a.apply(core.PeerEvents{From: "c.example", Room: club, Events: []core.PeerEvent{early}})
	wantCode(t, errs[0], core.Denied)
}
