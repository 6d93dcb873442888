package core_test

import (
	"bytes"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// pair is a Group of alice, its owner, and bob, a member, at one homeserver.
func pair(t testing.TB) (h *house, al, bo *device) {
	h = newGroupHouse(t, domainA)
	al, bo = newDevice(t, alice, "phone"), newDevice(t, bob, "phone")
	al.create(h, club, policy.Default(string(alice), domainA))
	out, _ := h.accept(al.add(club, bo))
	al.merge()
	bo.join(h, club, out.Letters[0])
	return h, al, bo
}

// unchanged runs f, which must be refused with code and leave the group as it was.
func (h *house) unchanged(code core.Code, hs *core.Handshake) {
	h.t.Helper()
	before := h.snapshot(club)
	_, _, err := h.decide(hs)
	wantCode(h.t, err, code)
	if !bytes.Equal(before, h.snapshot(club)) {
		h.t.Fatal("a refusal changed the group")
	}
	h.restart()
	if !bytes.Equal(before, h.snapshot(club)) {
		h.t.Fatal("a refusal changed what is stored")
	}
}

// Handshakes that lie are refused with a code, and nothing of them stays.
func TestGroupHostileHandshakes(t *testing.T) {
	h, al, bo := pair(t)
	eve := newDevice(t, core.UserURI("mimi://a.example/u/eve"), "x")
	good := al.commit(club, nil)
	change := func(f func(*core.Handshake)) *core.Handshake {
		hs := *good
		f(&hs)
		return &hs
	}
	for name, c := range map[string]struct {
		code core.Code
		hs   *core.Handshake
	}{
		"another's session": {core.Denied, change(func(h *core.Handshake) { h.By = bo.uri })},
		"no message":        {core.Invalid, change(func(h *core.Handshake) { h.Message = nil })},
		"half a message":    {core.Invalid, change(func(h *core.Handshake) { h.Message = h.Message[:len(h.Message)/2] })},
		"no group info":     {core.Invalid, change(func(h *core.Handshake) { h.Info = nil })},
		"broken group info": {core.Invalid, change(func(h *core.Handshake) {
			h.Info = append(slices.Clone(h.Info[:len(h.Info)-1]), h.Info[len(h.Info)-1]^1)
		})},
		"unknown group info":   {core.Invalid, change(func(h *core.Handshake) { h.Info = []byte{9, 9, 9} })},
		"a Welcome for nobody": {core.Invalid, change(func(h *core.Handshake) { h.Welcome = []byte("x") })},
		"not alone":            {core.Invalid, change(func(h *core.Handshake) { h.More = [][]byte{h.Message} })},
		"an unknown room":      {core.NotFound, change(func(h *core.Handshake) { h.Room = core.NewRoomID(domainA, "other") })},
	} {
		before := h.snapshot(club)
		_, _, err := h.decide(c.hs)
		if err == nil || core.CodeOf(err) != c.code {
			t.Errorf("%s: %v, want %v", name, err, c.code)
		}
		if !bytes.Equal(before, h.snapshot(club)) {
			t.Fatalf("%s changed the group", name)
		}
	}
	al.g.Discard()

	// A device whose user participates, but which no homeserver vouches for.
	hs := al.add(club, eve)
	hs.Records = nil
	h.unchanged(core.Unavailable, hs)
	al.g.Discard()
	hs = al.add(club, eve)
	forged := must(identity.SignAttestation(homeKey("b.example"), identity.Attestation{
		Device: must(identity.ParseRecord(eve.proof.Record))(t).Key, User: string(eve.user), Sponsor: domainA, NotAfter: 1 << 40}))(t)
	hs.Records = []core.Identity{{Record: eve.proof.Record, Attestation: forged.Encode()}}
	h.unchanged(core.Denied, hs)
	al.g.Discard()

	// A device without its user, and a user twice.
	hs = al.commit(club, []core.Identity{eve.proof}, group.Add(eve.keyPackage()))
	h.unchanged(core.Denied, hs)
	al.g.Discard()
}

// A member may not do what its role does not allow; an owner may.
func TestGroupRoles(t *testing.T) {
	h, al, bo := pair(t)
	bo.g.Discard()
	promote := update(policy.ComponentParticipants, policy.SetRole(bo.state(), policy.RoleOwner, string(bob)))
	h.unchanged(core.Denied, bo.commit(club, nil, promote))
	bo.g.Discard()
	kick := bo.commit(club, nil, group.Remove(al.g.Self()), update(policy.ComponentParticipants, policy.RemoveUsers(bo.state(), string(alice))))
	h.unchanged(core.Denied, kick)
	bo.g.Discard()

	// Half a removal: the user goes and the device stays.
	h.unchanged(core.Denied, al.commit(club, nil, update(policy.ComponentParticipants, policy.RemoveUsers(al.state(), string(bob)))))
	al.g.Discard()
	hs := al.commit(club, nil, group.Remove(bo.g.Self()), update(policy.ComponentParticipants, policy.RemoveUsers(al.state(), string(bob))))
	late := must(bo.g.Seal(nil, []byte("still here"), nil))(t)
	h.accept(hs)
	al.merge()
	_, errs := h.apply(core.Envelope{Room: club, Sender: bob, Origin: core.Origin{Network: core.NetworkNative}, Body: core.Sealed{Message: late}})
	wantCode(t, errs[0], core.Denied)
	h.view(func(r core.Reader) {
		if rooms := must(r.RoomsOf(bob, "", 10))(t); len(rooms) != 0 {
			t.Fatalf("who was removed still has %v", rooms)
		}
	})
}

// Who is banned does not speak, and does not come back.
func TestGroupBan(t *testing.T) {
	h, al, bo := pair(t)
	ban := al.commit(club, nil, group.Remove(bo.g.Self()), update(policy.ComponentParticipants, policy.SetRole(al.state(), policy.RoleBanned, string(bob))))
	h.accept(ban)
	al.merge()
	_, err := bo.say(h, "x")
	wantCode(t, err, core.Denied)
	h.unchanged(core.Denied, al.add(club, bo))
	al.g.Discard()
	_, errs := h.apply(core.LeaseGroupInfo{Room: club, User: bob, By: bo.uri})
	wantCode(t, errs[0], core.Denied)
}

// Leaving is proposed by who leaves, counts at once, and the next commit takes it up.
func TestGroupLeave(t *testing.T) {
	h, al, bo := pair(t)
	word := must(bo.g.Seal(nil, []byte("x"), nil))(t)
	first := must(bo.g.Propose(&mls.Proposal{Type: mls.ProposalSelfRemove}, nil))(t)
	second := must(bo.g.Propose(update(policy.ComponentParticipants, policy.RemoveUsers(bo.state(), string(bob))), nil))(t)
	leave := &core.Handshake{Room: club, By: bo.uri, Home: domainA, Message: first, More: [][]byte{second}}
	out, opened := h.accept(leave)
	if opened != nil || len(out.Events) != 2 {
		t.Fatalf("a leave: %v, %d events", opened, len(out.Events))
	}
	_, errs := h.apply(core.Envelope{Room: club, Sender: bob, Origin: core.Origin{Network: core.NetworkNative}, Body: core.Sealed{Message: word}})
	wantCode(t, errs[0], core.Denied)
	hs := al.commit(club, nil)
	h.unchanged(core.Conflict, hs) // it does not take up the leaving
	al.g.Discard()
	al.follow(first)
	al.follow(second)
	h.accept(al.commit(club, nil))
	al.merge()
	if _, in := al.state().Role(string(bob)); in {
		t.Fatal("who left still participates")
	}
}

// One device cannot fill what waits for a commit.
func TestGroupFlood(t *testing.T) {
	h, _, bo := pair(t)
	taken := 0
	for range 200 {
		m := must(bo.g.ProposeUpdate(nil, nil))(t)
		_, _, err := h.decide(&core.Handshake{Room: club, By: bo.uri, Home: domainA, Message: m})
		if err == nil {
			taken++
			continue
		}
		wantCode(t, err, core.Limited)
	}
	if taken == 0 || taken > 64 {
		t.Fatalf("%d proposals of one device were taken", taken)
	}
}

// A second device of a user joins by a commit of its own; a stranger does not.
func TestGroupExternalJoin(t *testing.T) {
	h, al, _ := pair(t)
	laptop, eve := newDevice(t, alice, "laptop"), newDevice(t, core.UserURI("mimi://a.example/u/eve"), "x")
	for _, d := range []*device{laptop, eve} {
		h.do(core.PutDevice{Proof: d.proof, Register: true})
	}
	_, errs := h.apply(core.LeaseGroupInfo{Room: club, User: eve.user, By: eve.uri})
	wantCode(t, errs[0], core.Denied)
	lease := h.do(core.LeaseGroupInfo{Room: club, User: alice, By: laptop.uri}).Lease
	info := must(mls.Parse(lease.Info))(t).GroupInfo
	var commit []byte
	var err error
	laptop.g, commit, err = group.JoinExternal(laptop.cfg, laptop.id, info, group.ExternalOptions{RatchetTree: lease.Tree, LeafExtensions: laptop.leaf()})
	if err != nil {
		t.Fatal(err)
	}
	next := must(mls.Parse(must(laptop.g.GroupInfo(false, nil))(t)))(t).GroupInfo
	h.accept(&core.Handshake{Room: club, By: laptop.uri, Home: domainA, Message: commit, Info: next.AppendTo([]byte{1}), Records: []core.Identity{laptop.proof}})
	al.follow(commit)
	if !bytes.Equal(al.g.EpochAuthenticator(), laptop.g.EpochAuthenticator()) {
		t.Fatal("the devices differ")
	}
}

// A homeserver that never heard of another waits with its approval until it has.
func TestGroupJudge(t *testing.T) {
	h := newHouseAt(t, domainA)
	h.do(core.PutHomeserver{Record: homeRecord(t, domainA)})
	al, bo := newDevice(t, alice, "phone"), newDevice(t, bobB, "phone")
	al.create(h, club, policy.Default(string(alice), domainA))
	hs := al.add(club, bo)
	_, _, err := h.decide(hs)
	wantCode(t, err, core.Unavailable)
	h.do(core.PutHomeserver{Record: homeRecord(t, domainB)})
	h.accept(hs)
}

// A homeserver does not take up a room because another says so: it is to have a
// device of its own, and nobody else begins rooms in its name.
func TestGroupSnapshotsOfLiars(t *testing.T) {
	a, b := newGroupHouse(t, domainA), newGroupHouse(t, domainB)
	al, bo := newDevice(t, alice, "phone"), newDevice(t, bobB, "phone")
	al.create(a, club, policy.Default(string(alice), domainA))
	alone := a.snapshot(club)
	wantCode(t, b.restore(club, alone), core.Denied) // nobody of b.example is in it
	a.accept(al.add(club, bo))
	al.merge()
	two := a.snapshot(club)
	wantCode(t, b.restore(club, two), core.Denied) // one who never registered
	b.enrol(bo.proof)
	b.must(b.restore(club, two))
	wantCode(t, newGroupHouse(t, domainA).restore(club, two), core.Denied) // its own name
}

// A room does not come to depend on a rule that nobody here enforces.
func TestGroupRefusesWhatItWouldNotEnforce(t *testing.T) {
	h := newGroupHouse(t, domainA)
	al := newDevice(t, alice, "phone")
	al.create(h, club, policy.Default(string(alice), domainA))
	base := al.state().Base()
	base.ParentDependent, base.Parent = true, string(core.NewRoomID(domainA, "parent"))
	_, _, err := h.decide(al.commit(club, nil, update(policy.ComponentBaseRoom, base.AppendTo(nil))))
	wantCode(t, err, core.Unsupported)
}
