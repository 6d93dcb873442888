package core_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// newCodeHouse has a Group that users join with a code, or alone if open, and
// devices of as many strangers.
func newCodeHouse(t *testing.T, strangers int, option policy.Option) (*house, []*device) {
	h := newGroupHouse(t, domainA)
	al := newDevice(t, alice, "phone")
	h.enrol(al.proof)
	al.create(h, club, policy.Default(string(alice), domainA, option))
	var ds []*device
	for i := range strangers {
		d := newDevice(t, core.NewUserURI(domainA, fmt.Sprint("stranger", i)), "phone")
		h.enrol(d.proof)
		ds = append(ds, d)
	}
	return h, ds
}

func codeHash(room core.RoomID, code string) [32]byte {
	return sha256.Sum256([]byte(string(room) + code))
}

func code(room core.RoomID, by core.UserURI, text string, uses uint32, expires time.Time) core.PutJoinCode {
	return core.PutJoinCode{Code: core.JoinCode{Room: room, Hash: codeHash(room, text), By: by, Uses: uses, Expires: expires}}
}

// ask asks for a lease.
func (d *device) ask(h *house, code string) (*core.GroupInfoLease, error) {
	in := core.LeaseGroupInfo{Room: club, User: d.user, By: d.uri}
	if code != "" {
		in.Code = codeHash(club, code)
	}
	outs, errs := h.apply(in)
	return outs[0].Lease, errs[0]
}

// enter joins by an external commit with a lease.
func (d *device) enter(h *house, l *core.GroupInfoLease) error {
	d.t.Helper()
	info := must(mls.Parse(l.Info))(d.t).GroupInfo
	o := group.ExternalOptions{RatchetTree: l.Tree, LeafExtensions: d.leaf()}
	dict := must(info.Context.Extensions.AppData())(d.t)
	state := must(policy.ParseState(dict))(d.t)
	if _, in := state.Role(string(d.user)); !in {
		o.Proposals = []*mls.Proposal{update(policy.ComponentParticipants, policy.Invite(state, []string{string(d.user)}, policy.RoleMember))}
	}
	var commit []byte
	var err error
	if d.g, commit, err = group.JoinExternal(d.cfg, d.id, info, o); err != nil {
		d.t.Fatal(err)
	}
	next := must(mls.Parse(must(d.g.GroupInfo(false, nil))(d.t)))(d.t).GroupInfo
	_, _, err = h.decide(&core.Handshake{Room: club, By: d.uri, Home: domainA, Message: commit, Info: next.AppendTo([]byte{1}), Records: []core.Identity{d.proof}})
	return err
}

// pass lets the running lease end.
func (h *house) pass() { h.now = h.now.Add(11 * time.Second) }

func TestJoinCodesOpenARoom(t *testing.T) {
	h, ds := newCodeHouse(t, 6, policy.JoinCodes())
	h.do(code(club, alice, "once", 1, time.Time{}))
	h.do(code(club, alice, "many", 0, h.now.Add(time.Hour)))
	if _, err := ds[0].ask(h, ""); core.CodeOf(err) != core.Denied || core.ReasonOf(err) != core.InviteOnly {
		t.Fatal(err)
	}
	if _, err := ds[0].ask(h, "wrong"); core.CodeOf(err) != core.Denied || core.ReasonOf(err) != core.BadKey {
		t.Fatal(err)
	}
	l := must(ds[0].ask(h, "once"))(t)
	if l.Epoch != 0 || len(l.Info) == 0 || len(l.Tree) == 0 || !l.Until.Equal(h.now.Add(10*time.Second)) {
		t.Fatalf("%+v", l)
	}
	h.pass()
	// Who has given a code needs no second use of it to try again; it is used up for others.
	must(ds[0].ask(h, ""))(t)
	h.pass()
	_, err := ds[1].ask(h, "once")
	wantCode(t, err, core.Denied)
	for _, d := range ds[1:4] {
		must(d.ask(h, "many"))(t)
		h.pass()
	}
	h.view(func(r core.Reader) {
		if codes := must(core.JoinCodesOf(r, club))(t); len(codes) != 1 || codes[0].Hash != codeHash(club, "many") || codes[0].By != alice {
			t.Fatalf("%+v", codes)
		}
	})
	h.now = h.now.Add(2 * time.Hour)
	_, err = ds[5].ask(h, "many")
	wantCode(t, err, core.Denied)
	_, err = ds[0].ask(h, "")
	wantCode(t, err, core.Denied)
	if n := h.rows("join code") + h.rows("admitted") + h.rows("due"); n != 0 {
		t.Fatalf("%d rows stay", n)
	}
}

// With a code a stranger joins, and by the code alone.
func TestJoinCodeAdmitsTheCommit(t *testing.T) {
	h, ds := newCodeHouse(t, 2, policy.JoinCodes())
	h.do(code(club, alice, "many", 0, time.Time{}))
	l := must(ds[0].ask(h, "many"))(t)
	if err := ds[1].enter(h, l); core.CodeOf(err) != core.Denied {
		t.Fatalf("somebody without a code joined: %v", err)
	}
	h.must(ds[0].enter(h, l))
	must(ds[1].ask(h, "many"))(t) // the lease ended with the commit
	h.view(func(r core.Reader) {
		if rooms := must(r.RoomsOf(ds[0].user, "", 10))(t); len(rooms) != 1 || rooms[0] != club {
			t.Fatalf("%v", rooms)
		}
	})
}

// What a code opened closes again when its user has waited for too long.
func TestJoinCodeAdmitsForAWhile(t *testing.T) {
	h, ds := newCodeHouse(t, 2, policy.JoinCodes())
	h.do(code(club, alice, "many", 0, time.Time{}))
	for i, wait := range []time.Duration{9 * time.Minute, 10 * time.Minute} {
		l := must(ds[i].ask(h, "many"))(t)
		h.now = h.now.Add(wait)
		err := ds[i].enter(h, l)
		if wait < 10*time.Minute {
			h.must(err)
		} else {
			wantCode(t, err, core.Denied)
		}
	}
}

func TestPutJoinCodeIsForWhoMay(t *testing.T) {
	h, ds := newCodeHouse(t, 1, policy.JoinCodes())
	for name, c := range map[string]struct {
		in   core.PutJoinCode
		code core.Code
	}{
		"by a stranger":  {code(club, ds[0].user, "x", 0, time.Time{}), core.Denied},
		"over already":   {code(club, alice, "x", 0, h.now.Add(-time.Hour)), core.Invalid},
		"of no room":     {code(room, alice, "x", 0, time.Time{}), core.NotFound},
		"not there":      {core.PutJoinCode{Code: code(club, alice, "x", 0, time.Time{}).Code, Drop: true}, core.NotFound},
		"not even a URI": {code("x", alice, "x", 0, time.Time{}), core.Invalid},
	} {
		_, errs := h.apply(c.in)
		if errs[0] == nil || core.CodeOf(errs[0]) != c.code {
			t.Errorf("%s: %v, want %v", name, errs[0], c.code)
		}
	}
	in := code(club, alice, "x", 2, h.now.Add(time.Hour))
	h.do(in)
	_, errs := h.apply(in)
	wantCode(t, errs[0], core.Conflict)
	drop := in
	drop.Drop, drop.Code.By = true, ds[0].user
	_, errs = h.apply(drop)
	wantCode(t, errs[0], core.Denied)
	drop.Code.By = alice
	h.do(drop)
	if n := h.rows("join code") + h.rows("due"); n != 0 {
		t.Fatalf("%d rows stay", n)
	}
	for i := range core.MaxJoinCodes {
		h.do(code(club, alice, fmt.Sprint(i), 0, time.Time{}))
	}
	_, errs = h.apply(code(club, alice, "one more", 0, time.Time{}))
	wantCode(t, errs[0], core.TooLarge)
}

// guess tries wrong join codes until it is told to wait.
func (d *device) guess(h *house) (n int) {
	for ; n < 1000; n++ {
		if _, err := d.ask(h, fmt.Sprint("guess", n)); core.CodeOf(err) == core.Limited {
			break
		}
	}
	return n
}

// visitors are devices of users of another homeserver, or of another of its ports.
func visitors(t *testing.T, h *house, domain string, from, to int) (ds []*device) {
	h.do(core.PutHomeserver{Record: homeRecord(t, domain)})
	for i := from; i < to; i++ {
		d := newDevice(t, core.NewUserURI(domain, fmt.Sprint("visitor", i)), "phone")
		h.do(core.PutDevice{Proof: d.proof})
		ds = append(ds, d)
	}
	return ds
}

// Nobody guesses a passphrase by trying: not one user, and not many, in days.
func TestTriesOfJoinCodesAreLimited(t *testing.T) {
	h, ds := newCodeHouse(t, 30, policy.JoinCodes())
	h.do(code(club, alice, "secret", 0, time.Time{}))
	one, all := 0, 0
	for range 5 {
		one += ds[0].guess(h)
		for _, d := range ds[1:] {
			all += d.guess(h)
		}
		h.now = h.now.Add(24 * time.Hour)
	}
	if one != 5*5 || all > 5*150+100 {
		t.Fatalf("%d tries of one user, %d of many", one, all)
	}
	ds[0].guess(h)
	_, err := ds[0].ask(h, "secret")
	wantCode(t, err, core.Limited)
	h.now = h.now.Add(time.Hour)
	must(ds[0].ask(h, "secret"))(t)
}

// Strangers who guess, behind as many homeservers and ports as they like, keep out
// nobody of this homeserver and of those that are in the room; and who knows the code
// takes no try from others.
func TestGuessersKeepOutNobodyElse(t *testing.T) {
	h, ds := newCodeHouse(t, 1, policy.JoinCodes())
	h.do(code(club, alice, "secret", 0, time.Time{}))
	bobs := visitors(t, h, domainB, 0, 2)
	h.must(bobs[0].enter(h, must(bobs[0].ask(h, "secret"))(t)))
	hosts := make([]int, 11)
	all := 0
	for host := range hosts {
		for port := range 2 {
			for _, d := range visitors(t, h, fmt.Sprintf("evil%d.example:%d", host, 1+port), 0, 3) {
				hosts[host] += d.guess(h)
			}
		}
		all += hosts[host]
	}
	if hosts[0] != 10 || all != 100 {
		t.Fatalf("%d guesses of strangers: %v", all, hosts)
	}
	must(bobs[1].ask(h, "secret"))(t)
	for range 8 {
		h.now = h.now.Add(11 * time.Minute) // the last use counts no longer
		must(ds[0].ask(h, "secret"))(t)
	}
}

// One at a time; who takes and does not commit is slowed down, then refused, and a
// commit makes it all good.
func TestLeasesGoToOneAtATime(t *testing.T) {
	h, ds := newCodeHouse(t, 3, policy.OpenJoin())
	l := must(ds[0].ask(h, ""))(t)
	_, err := ds[1].ask(h, "")
	wantCode(t, err, core.Limited)
	h.must(ds[0].enter(h, l))
	l = must(ds[1].ask(h, ""))(t) // at once: the one before has committed
	h.pass()
	taken, refused, began := 1, false, h.now
	for !refused {
		if h.now.Sub(began) > 10*time.Hour {
			t.Fatal("never refused")
		}
		switch _, err := ds[1].ask(h, ""); core.CodeOf(err) {
		case core.Denied:
			refused = err != nil
		case core.Limited:
		default:
			h.must(err)
			taken++
		}
		h.pass()
	}
	if waited := h.now.Sub(began); taken != 10 || waited < 20*time.Minute || waited > time.Hour {
		t.Fatalf("%d leases taken in %v", taken, waited)
	}
	must(ds[2].ask(h, ""))(t)
	h.pass()
	h.must(ds[1].enter(h, l)) // what it had is still good
	must(ds[1].ask(h, ""))(t)
}

// A homeserver has as many devices and ports as it likes: it does not keep the others
// out with them, neither for the moment nor for long, nor those of its users who are
// in the room.
func TestLeasesOfOneHomeserverLeaveRoom(t *testing.T) {
	h, ds := newCodeHouse(t, 1, policy.OpenJoin())
	var evil []*device
	for port := range 2 {
		evil = append(evil, visitors(t, h, fmt.Sprint(domainB, ":", 1+port), 0, 6)...)
	}
	bob := visitors(t, h, domainB, 0, 1)[0]
	h.must(bob.enter(h, must(bob.ask(h, ""))(t)))
	wait := func(d *device) time.Duration {
		_, err := d.ask(h, "")
		var e *core.Error
		if errors.As(err, &e) {
			return e.RetryAfter
		}
		h.must(err)
		return 0
	}
	taken := 0
	second := func() {
		for _, d := range evil {
			if wait(d) == 0 {
				taken++
			}
		}
		h.now = h.now.Add(time.Second)
	}
	second()
	began, left := h.now, wait(ds[0])
	for left > 0 {
		if h.now.Sub(began) > 20*time.Second {
			t.Fatal("kept out by one homeserver")
		}
		second()
		if left -= time.Second; left <= 0 { // it comes when it was told to
			left = wait(ds[0])
		}
	}
	for range 240 {
		second()
		h.now = h.now.Add(4 * time.Second)
	}
	if taken < 10 || taken > 20 {
		t.Fatalf("%d leases of strangers in twenty minutes", taken)
	}
	h.pass()
	must(bob.ask(h, ""))(t)
}

func TestLeasesAreForDevicesInUse(t *testing.T) {
	h, ds := newCodeHouse(t, 2, policy.OpenJoin())
	for name, c := range map[string]struct {
		in   core.LeaseGroupInfo
		code core.Code
	}{
		"no device":        {core.LeaseGroupInfo{Room: club, User: bob, By: "mimi://a.example/d/x"}, core.NotFound},
		"another's device": {core.LeaseGroupInfo{Room: club, User: ds[0].user, By: ds[1].uri}, core.Denied},
		"no room":          {core.LeaseGroupInfo{Room: room, User: ds[0].user, By: ds[0].uri}, core.NotFound},
	} {
		_, errs := h.apply(c.in)
		if errs[0] == nil || core.CodeOf(errs[0]) != c.code {
			t.Errorf("%s: %v, want %v", name, errs[0], c.code)
		}
	}
}
