package core_test

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
)

// A faultyTx is a store whose nth call about rows of state fails.
type faultyTx struct {
	core.Tx
	n int
}

func (f *faultyTx) fault() error {
	if f.n--; f.n < 0 {
		return core.Errorf(core.Unavailable, "the disk is on fire")
	}
	return nil
}

func (f *faultyTx) Value(bucket, key string) ([]byte, error) {
	if err := f.fault(); err != nil {
		return nil, err
	}
	return f.Tx.Value(bucket, key)
}

func (f *faultyTx) Values(bucket, after string, limit int) ([]core.Value, error) {
	if err := f.fault(); err != nil {
		return nil, err
	}
	return f.Tx.Values(bucket, after, limit)
}

func (f *faultyTx) PutValue(bucket, key string, data []byte) error {
	return errors.Join(f.fault(), f.Tx.PutValue(bucket, key, data))
}

func (f *faultyTx) DropValue(bucket, key string) error {
	return errors.Join(f.fault(), f.Tx.DropValue(bucket, key))
}

// failEverywhere applies an input with each of its calls to the store failing in
// turn, and then without a failure: no failure may be taken for an answer. The last
// answer is returned; nothing was written.
func (h *house) failEverywhere(in core.Input) error {
	h.t.Helper()
	rollback := errors.New("rollback")
	for n := range 2000 {
		tx := &faultyTx{n: n}
		var failed error
		err := h.store.Update(context.Background(), func(inner core.Tx) error {
			tx.Tx = inner
			_, failed = h.engine.Apply(tx, h.now, in)
			return rollback
		})
		h.restart()
		if !errors.Is(err, rollback) {
			h.t.Fatal(err)
		}
		if tx.n >= 0 { // it got by without the call that would have failed
			return failed
		}
		if !core.Broken(failed) {
			h.t.Fatalf("%T, call %d fails: %v", in, n, failed)
		}
	}
	h.t.Fatalf("%T never ends", in)
	return nil
}

// Whatever call to the store fails, the input is broken, not refused or accepted.
func TestDirectoryFailsWithItsStore(t *testing.T) {
	h := newGroupHouse(t, domainA)
	al := newDevice(t, alice, "phone")
	s, other := newSigner(t, bob, "phone"), newSigner(t, bobB, "phone")
	bo := newDevice(t, bob, "phone")
	put := func(s *signer, change func(*identity.Record), att []byte) core.PutDevice {
		return core.PutDevice{Proof: core.Identity{Record: s.next(change).Encode(), Attestation: att}, Register: s.user.Domain() == domainA}
	}
	next := must(identity.SignHomeserver(homeKey(domainB), identity.HomeserverRecord{Version: 2, Domain: domainB,
		Keys: h.chain(domainB).Head().Keys, Previous: h.chain(domainB).Head().Hash()}))(t)
	h.enrol(al.proof)
	al.create(h, club, policy.Default(string(alice), domainA, policy.JoinCodes()))
	last := bo.leave(h.now.Add(month), true)
	joinCode := code(club, alice, "twice", 2, h.now.Add(time.Hour))
	drop := code(club, alice, "gone", 0, h.now.Add(time.Hour))
	session := core.PutSession{Session: core.Session{Hash: [32]byte{1}, Device: s.uri(), User: bob, Expires: h.now.Add(time.Hour)}}
	closed := session
	closed.Session.Expires = h.now.Add(-time.Hour)
	steps := []core.Input{
		put(s, nil, nil), put(other, nil, other.attestation(nil)), core.PutHomeserver{Record: next.Encode()},
		session, closed, session,
		upload(bo, append(bo.leaveMany(core.LowKeyPackages, h.now.Add(24*time.Hour)), bo.leave(h.now.Add(month), true))...),
		upload(bo, last), // in place of the other
		claims(string(alice), bob), core.ClaimKeyPackages{By: "x", Users: []core.UserURI{bob}, Suites: []uint16{77}},
		joinCode, drop, core.PutJoinCode{Code: drop.Code, Drop: true},
		core.PutLetters{From: string(alice), Letters: []core.Letter{letter(bo, "x"), letter(bo, "y")}},
		core.DropLetters{Device: bo.uri, UpTo: 1},
		core.LeaseGroupInfo{Room: club, User: bob, By: s.uri(), Code: codeHash(club, "twice")},
	}
	for _, in := range steps {
		h.must(h.failEverywhere(in))
		h.do(in)
	}
	h.view(func(r core.Reader) {
		if codes := must(core.JoinCodesOf(r, club))(t); len(codes) != 1 || codes[0].Uses != 1 {
			t.Fatalf("%+v", codes)
		}
	})
	h.now = h.now.Add(2 * 24 * time.Hour) // packages, codes and sessions end meanwhile
	session.Session.Expires = h.now.Add(time.Hour)
	for _, in := range []core.Input{core.DropLetters{Device: bo.uri, UpTo: math.MaxInt64}, session,
		put(s, func(r *identity.Record) { r.Revoked = true }, nil)} {
		h.must(h.failEverywhere(in))
		h.do(in)
	}
	if n := h.rows("session") + h.rows("key package queue") + h.rows("key package last") + h.rows("join code"); n != 0 {
		t.Fatalf("%d rows stay", n)
	}
	one, two := other.record(nil), other.record(func(r *identity.Record) { r.Name = "other" })
	h.must(h.put(one, nil, false))
	wantCode(t, h.failEverywhere(core.PutDevice{Proof: core.Identity{Record: two.Encode()}}), core.Denied)
}
