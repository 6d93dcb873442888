package core_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// A signer makes records and attestations of one device by hand.
type signer struct {
	t    testing.TB
	key  ed25519.PrivateKey
	user core.UserURI
	last identity.SignedRecord
}

func newSigner(t testing.TB, user core.UserURI, name string) *signer {
	seed := sha256.Sum256([]byte(string(user) + "/" + name))
	return &signer{t: t, key: ed25519.NewKeyFromSeed(seed[:]), user: user}
}

func (s *signer) uri() core.DeviceURI {
	return core.DeviceURI(identity.DeviceURI(s.user.Domain(), s.key.Public().(ed25519.PublicKey)))
}

// record signs the next record, after change has been at it.
func (s *signer) record(change func(*identity.Record)) identity.SignedRecord {
	s.t.Helper()
	r := identity.Record{Version: s.last.Version + 1, User: string(s.user), NotAfter: 1 << 40,
		Inbox: identity.InboxKey{KEM: identity.KEMX25519, Public: bytes.Repeat([]byte{9}, 32)}}
	if s.last.Version > 0 {
		r.Previous = s.last.Hash()
	}
	if change != nil {
		change(&r)
	}
	return must(identity.SignRecord(s.key, r))(s.t)
}

// next is record for the one that follows.
func (s *signer) next(change func(*identity.Record)) identity.SignedRecord {
	s.t.Helper()
	s.last = s.record(change)
	return s.last
}

func (s *signer) attestation(change func(*identity.Attestation)) []byte {
	s.t.Helper()
	a := identity.Attestation{Device: s.key.Public().(ed25519.PublicKey), User: string(s.user), Sponsor: s.user.Domain(), NotBefore: 1, NotAfter: 1 << 40}
	if change != nil {
		change(&a)
	}
	return must(identity.SignAttestation(homeKey(s.user.Domain()), a))(s.t).Encode()
}

// put offers a record, as a registration or an update.
func (h *house) put(rec identity.SignedRecord, att []byte, register bool) error {
	h.t.Helper()
	_, errs := h.apply(core.PutDevice{Proof: core.Identity{Record: rec.Encode(), Attestation: att}, Register: register})
	return errs[0]
}

func (h *house) device(uri core.DeviceURI) (d core.Device) {
	h.t.Helper()
	h.view(func(r core.Reader) {
		var err error
		if d, err = core.DeviceOf(r, uri); err != nil && core.CodeOf(err) != core.NotFound {
			h.t.Fatal(err)
		}
	})
	return d
}

func TestDeviceIsRegisteredAttestedAndAdvanced(t *testing.T) {
	h := newGroupHouse(t, domainA)
	s := newSigner(t, alice, "phone")
	first := s.next(func(r *identity.Record) { r.Name = "phone" })
	wantCode(t, h.put(first, nil, false), core.NotFound)
	over := newSigner(t, alice, "old").record(func(r *identity.Record) { r.NotAfter = h.now.Unix() })
	wantCode(t, h.put(over, nil, true), core.Invalid)
	gone := newSigner(t, alice, "gone").record(func(r *identity.Record) { r.Revoked = true })
	wantCode(t, h.put(gone, nil, true), core.Invalid)
	h.must(h.put(first, nil, true))
	d := h.device(s.uri())
	if d.User != alice || d.Name != "phone" || !d.Local || d.Revoked || d.Refused || !bytes.Equal(d.Proof.Record, first.Encode()) {
		t.Fatalf("%+v", d)
	}
	chain := h.chain(domainA)
	att := must(identity.ParseAttestation(d.Proof.Attestation))(t)
	h.must(identity.Usable(first, att, chain, nil, h.now.Unix()))
	if out := h.do(core.PutDevice{Proof: core.Identity{Record: first.Encode()}, Register: true}); !out.Duplicate {
		t.Fatal("the same record again is no duplicate")
	}
	h.must(h.put(s.next(func(r *identity.Record) { r.Name = "new" }), nil, false))
	if d := h.device(s.uri()); d.Name != "new" {
		t.Fatalf("%+v", d)
	}
	wantCode(t, h.put(first, nil, false), core.Conflict)
	wantCode(t, h.put(s.record(func(r *identity.Record) { r.User = string(bob) }), nil, false), core.Denied)
	broken := s.record(nil)
	broken.Signature = bytes.Clone(broken.Signature)
	broken.Signature[0] ^= 1
	wantCode(t, h.put(broken, nil, false), core.Invalid)
	h.view(func(r core.Reader) {
		if ds := must(core.DevicesOf(r, alice))(t); len(ds) != 1 || ds[0].URI != s.uri() {
			t.Fatalf("%+v", ds)
		}
		if ds := must(core.DevicesOf(r, bob))(t); len(ds) != 0 {
			t.Fatalf("%+v", ds)
		}
	})
}

func (h *house) chain(domain string) (c *identity.Chain) {
	h.t.Helper()
	h.view(func(r core.Reader) { c = must(core.HomeserverOf(r, domain))(h.t) })
	return c
}

// A device that says two things is refused from then on, with the proof kept, and
// loses what it had here.
func TestDeviceThatContradictsItselfIsRefused(t *testing.T) {
	h := newGroupHouse(t, domainA)
	s := newSigner(t, alice, "phone")
	h.must(h.put(s.next(nil), nil, true))
	one, two := s.record(func(r *identity.Record) { r.Name = "1" }), s.record(func(r *identity.Record) { r.Name = "2" })
	h.must(h.put(one, nil, false))
	session := core.Session{Hash: [32]byte{1}, Device: s.uri(), User: alice, Expires: h.now.Add(time.Hour)}
	h.do(core.PutSession{Session: session})
	h.do(core.PutLetters{From: string(bob), Letters: []core.Letter{{Device: s.uri(), Kind: core.LetterSealed, Body: []byte("x")}}})
	wantCode(t, h.put(two, nil, false), core.Denied)
	if d := h.device(s.uri()); !d.Refused {
		t.Fatalf("%+v", d)
	}
	h.view(func(r core.Reader) {
		proof := must(identity.ParseEquivocation(must(core.EquivocationOf(r, s.uri()))(t)))(t)
		if k := must(proof.Device())(t); core.NewDeviceURI(domainA, identity.DeviceID(k)) != s.uri() {
			t.Fatal("a proof against another device")
		}
		if _, err := core.SessionOf(r, session.Hash); core.CodeOf(err) != core.NotFound {
			t.Fatalf("its session: %v", err)
		}
		if ls := must(core.LettersOf(r, s.uri(), 0, 10))(t); len(ls) != 0 {
			t.Fatalf("%d letters", len(ls))
		}
	})
	for _, rec := range []identity.SignedRecord{one, two, s.record(func(r *identity.Record) { r.Version, r.Previous = 3, two.Hash() })} {
		wantCode(t, h.put(rec, nil, true), core.Denied)
	}
	_, errs := h.apply(core.PutSession{Session: session})
	wantCode(t, errs[0], core.Denied)
}

func TestDeviceThatWasRevokedStaysSo(t *testing.T) {
	for name, revoke := range map[string]func(h *house, s *signer) error{
		"by itself": func(h *house, s *signer) error {
			return h.put(s.next(func(r *identity.Record) { r.Revoked = true }), nil, false)
		},
		"by its homeserver": func(h *house, s *signer) error {
			return h.put(s.last, s.attestation(func(a *identity.Attestation) { a.NotBefore, a.Revoked = h.now.Unix()+1, true }), false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newGroupHouse(t, domainA)
			s := newSigner(t, alice, "phone")
			h.must(h.put(s.next(nil), nil, true))
			session := core.Session{Hash: [32]byte{1}, Device: s.uri(), User: alice, Expires: h.now.Add(time.Hour)}
			h.do(core.PutSession{Session: session})
			h.must(revoke(h, s))
			h.put(s.next(nil), nil, true) // refused or not: it changes nothing
			if d := h.device(s.uri()); !d.Revoked {
				t.Fatalf("%+v", d)
			}
			_, errs := h.apply(core.PutSession{Session: session},
				core.PutLetters{From: string(bob), Letters: []core.Letter{{Device: s.uri(), Kind: core.LetterSealed, Body: []byte("x")}}})
			wantCode(t, errs[0], core.Denied)
			wantCode(t, errs[1], core.Denied)
			out := h.do(core.ClaimKeyPackages{By: string(bob), Users: []core.UserURI{alice}, Suites: []uint16{1}})
			if len(out.Claims) != 1 || out.Claims[0].Status != core.UserDeleted {
				t.Fatalf("%+v", out.Claims)
			}
		})
	}
}

func TestDeviceOfAnotherHomeserverNeedsItsWord(t *testing.T) {
	h := newHouseAt(t, domainA)
	s := newSigner(t, bobB, "phone")
	rec := s.next(nil)
	wantCode(t, h.put(rec, s.attestation(nil), false), core.NotFound) // its homeserver was never met
	h.do(core.PutHomeserver{Record: homeRecord(t, domainB)})
	wantCode(t, h.put(rec, s.attestation(nil), true), core.Denied)
	for name, change := range map[string]func(*identity.Attestation){
		"over":              func(a *identity.Attestation) { a.NotAfter = h.now.Unix() - 1 },
		"of another user":   func(a *identity.Attestation) { a.User = "mimi://b.example/u/eve" },
		"of another device": func(a *identity.Attestation) { a.Device = newSigner(t, bobB, "other").key.Public().(ed25519.PublicKey) },
	} {
		if err := h.put(rec, s.attestation(change), false); core.CodeOf(err) != core.Invalid || err == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	forged := must(identity.SignAttestation(homeKey(domainA), identity.Attestation{Device: rec.Key, User: string(bobB), Sponsor: domainB, NotAfter: 1 << 40}))(t)
	wantCode(t, h.put(rec, forged.Encode(), false), core.Invalid)
	wantCode(t, h.put(rec, nil, false), core.Invalid)
	h.must(h.put(rec, s.attestation(nil), false))
	if d := h.device(s.uri()); d.Local || d.User != bobB {
		t.Fatalf("%+v", d)
	}
	before := h.device(s.uri()).Proof.Attestation
	h.must(h.put(rec, s.attestation(func(a *identity.Attestation) { a.NotBefore = 0 }), false)) // of before: it changes nothing
	if !bytes.Equal(h.device(s.uri()).Proof.Attestation, before) {
		t.Fatal("an older attestation took the place of a newer one")
	}
	h.must(h.put(s.next(nil), nil, false)) // its newer record needs no new word
	_, errs := h.apply(core.PutSession{Session: core.Session{Device: s.uri(), User: bobB, Expires: h.now.Add(time.Hour)}},
		core.PutLetters{From: string(alice), Letters: []core.Letter{{Device: s.uri(), Kind: core.LetterSealed, Body: []byte("x")}}})
	wantCode(t, errs[0], core.Denied)
	wantCode(t, errs[1], core.NotFound)
}

func TestBlockedHomeserversAreNotBelieved(t *testing.T) {
	h := newHouseAt(t, domainA)
	h.engine = core.NewEngine(core.Config{Homeserver: domainA, Key: key, Block: must(identity.ParseBlocklist([]string{"*.example"}))(t)})
	_, errs := h.apply(core.PutHomeserver{Record: homeRecord(t, domainB)})
	wantCode(t, errs[0], core.Denied)
	s := newSigner(t, bobB, "phone")
	wantCode(t, h.put(s.next(nil), s.attestation(nil), false), core.Denied)
}

func TestUserHasSoManyDevices(t *testing.T) {
	h := newHouseAt(t, domainA)
	for i := range core.MaxDevices {
		h.must(h.put(newSigner(t, alice, fmt.Sprint(i)).next(nil), nil, true))
	}
	one := newSigner(t, alice, "one more")
	wantCode(t, h.put(one.next(nil), nil, true), core.TooLarge)
	s := newSigner(t, alice, "0")
	s.next(nil)
	h.must(h.put(s.next(func(r *identity.Record) { r.Revoked = true }), nil, false))
	h.must(h.put(one.last, nil, true)) // a revoked one makes room
	h.view(func(r core.Reader) {
		if ds := must(core.DevicesOf(r, alice))(t); len(ds) != core.MaxDevices+1 {
			t.Fatalf("%d devices", len(ds))
		}
	})
}

// Homeservers are pinned; a break in the chain of keys is kept as an alarm and
// changes nothing.
func TestHomeserverChainIsPinned(t *testing.T) {
	h := newHouseAt(t, domainA)
	k, other := homeKey(domainB), newSigner(t, bob, "x").key
	keys := func(ks ...ed25519.PrivateKey) (out []identity.HomeserverKey) {
		for _, k := range ks {
			out = append(out, identity.HomeserverKey{Key: k.Public().(ed25519.PublicKey), NotAfter: 1 << 40})
		}
		return out
	}
	h.do(core.PutHomeserver{Record: homeRecord(t, domainB)})
	if out := h.do(core.PutHomeserver{Record: homeRecord(t, domainB)}); !out.Duplicate {
		t.Fatal("the same again is no duplicate")
	}
	first := h.chain(domainB).Head()
	stolen := must(identity.SignHomeserver(other, identity.HomeserverRecord{Version: 2, Domain: domainB, Keys: keys(other), Previous: first.Hash()}))(t)
	pinnedAnew := must(identity.SignHomeserver(other, identity.HomeserverRecord{Version: 1, Domain: domainB, Keys: keys(other)}))(t)
	own := must(identity.SignHomeserver(other, identity.HomeserverRecord{Version: 1, Domain: domainA, Keys: keys(other)}))(t)
	for _, rec := range []identity.SignedHomeserver{stolen, pinnedAnew, own} {
		_, errs := h.apply(core.PutHomeserver{Record: rec.Encode()})
		wantCode(t, errs[0], core.Denied)
	}
	h.view(func(r core.Reader) {
		alarms := must(core.AlarmsOf(r, "", 10))(t)
		if len(alarms) != 1 || alarms[0].Key != domainB || !bytes.Equal(alarms[0].Data, pinnedAnew.Encode()) {
			t.Fatalf("%d alarms", len(alarms))
		}
		if _, err := core.HomeserverOf(r, domainA); core.CodeOf(err) != core.NotFound {
			t.Fatalf("a stranger's key for this homeserver: %v", err)
		}
	})
	second := must(identity.SignHomeserver(k, identity.HomeserverRecord{Version: 2, Domain: domainB, Keys: keys(other), Previous: first.Hash()}))(t)
	h.do(core.PutHomeserver{Record: second.Encode()})
	third := must(identity.SignHomeserver(k, identity.HomeserverRecord{Version: 3, Domain: domainB, Keys: keys(k), Previous: second.Hash()}))(t)
	_, errs := h.apply(core.PutHomeserver{Record: third.Encode()}, core.PutHomeserver{Record: []byte("x")})
	wantCode(t, errs[0], core.Denied) // the old key is not of the record before
	wantCode(t, errs[1], core.Invalid)
	if v := h.chain(domainB).Head().Version; v != 2 {
		t.Fatalf("version %d", v)
	}
}

func (h *house) session(hash byte) error {
	var err error
	h.view(func(r core.Reader) { _, err = core.SessionOf(r, [32]byte{hash}) })
	return err
}

func TestSessionsOpenCloseAndEnd(t *testing.T) {
	h := newHouseAt(t, domainA)
	s := newSigner(t, alice, "phone")
	h.must(h.put(s.next(nil), nil, true))
	open := func(hash byte, life time.Duration) core.Input {
		return core.PutSession{Session: core.Session{Hash: [32]byte{hash}, Device: s.uri(), User: alice, Expires: h.now.Add(life)}}
	}
	before := h.device(s.uri())
	h.do(open(1, time.Hour))
	if d := h.device(s.uri()); d.Seen == 0 || d.Seen%(24*time.Hour).Milliseconds() != 0 || !bytes.Equal(d.Proof.Attestation, before.Proof.Attestation) {
		t.Fatalf("seen %d", d.Seen)
	}
	h.must(h.session(1))
	h.do(open(1, -time.Second))
	wantCode(t, h.session(1), core.NotFound)
	for i, in := range []core.PutSession{
		{Session: core.Session{User: bobB, Expires: h.now.Add(time.Hour)}},
		{Session: core.Session{User: "bob", Expires: h.now.Add(time.Hour)}},
		{Session: core.Session{User: bob, Device: s.uri(), Expires: h.now.Add(time.Hour)}},
	} {
		_, errs := h.apply(in)
		if core.CodeOf(errs[0]) != core.Denied {
			t.Errorf("%d: %v", i, errs[0])
		}
	}
	_, errs := h.apply(open(1, 10_000*time.Hour), core.PutSession{Session: core.Session{User: alice, Device: "mimi://a.example/d/x", Expires: h.now.Add(time.Hour)}})
	wantCode(t, errs[0], core.Invalid)
	wantCode(t, errs[1], core.NotFound)
	// The session that ends first makes room for one too many.
	for i := byte(1); i <= 33; i++ {
		h.do(open(i, time.Duration(40-i)*time.Hour))
	}
	wantCode(t, h.session(32), core.NotFound)
	h.must(errors.Join(h.session(1), h.session(33)))
	// What has ended is cleaned up by whatever comes next, whoever it is from.
	h.now = h.now.Add(8 * time.Hour)
	h.do(core.PutSession{Session: core.Session{Hash: [32]byte{99}, User: bob, Expires: h.now.Add(time.Hour)}})
	wantCode(t, h.session(33), core.NotFound)
	h.must(errors.Join(h.session(1), h.session(99)))
	// The homeserver's word for a device that is in use is renewed.
	h.now = h.now.Add(100 * 24 * time.Hour)
	h.do(open(5, time.Hour))
	if d := h.device(s.uri()); bytes.Equal(d.Proof.Attestation, before.Proof.Attestation) {
		t.Fatal("the attestation was not renewed")
	}
}

// One host has one certificate for all of its ports, so it is counted once: it fills
// neither what is kept of homeservers nor what is asked.
func TestPortsOfAHostAreCountedTogether(t *testing.T) {
	h := newGroupHouse(t, domainA)
	pinned := 0
	for port := range 100 {
		_, errs := h.apply(core.PutHomeserver{Record: homeRecord(t, fmt.Sprint("evil.example:", 1+port))})
		if errs[0] == nil {
			pinned++
		} else {
			wantCode(t, errs[0], core.TooLarge)
		}
	}
	if pinned != 64 {
		t.Fatalf("%d homeservers of one host", pinned)
	}
	h.do(core.PutHomeserver{Record: homeRecord(t, "c.example")})
	asked := 0
	for port := range 1100 {
		if _, errs := h.apply(claims(fmt.Sprint("evil.example:", 1+port), slices.Repeat([]core.UserURI{alice}, core.MaxClaim)...)); errs[0] == nil {
			asked++
		}
	}
	if asked == 1100 {
		t.Fatalf("%d claims of one host", asked)
	}
}
