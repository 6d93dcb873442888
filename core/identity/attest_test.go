package identity

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// attestation returns a valid one for device n by a.example.
func attestation(n int, change func(*Attestation)) Attestation {
	a := Attestation{Device: pub(n), User: alice, Sponsor: "a.example", NotBefore: now - day, NotAfter: now + day}
	if change != nil {
		change(&a)
	}
	return a
}

func attest(n int, change func(*Attestation)) SignedAttestation {
	return must(SignAttestation(key(100), attestation(n, change)))
}

func TestAttestationRefusals(t *testing.T) {
	for name, change := range map[string]func(*Attestation){
		"no device":       func(a *Attestation) { a.Device = nil },
		"weak device":     func(a *Attestation) { a.Device = make([]byte, 32) },
		"no user":         func(a *Attestation) { a.User = "" },
		"a device's URI":  func(a *Attestation) { a.User = DeviceURI("a.example", pub(1)) },
		"foreign sponsor": func(a *Attestation) { a.Sponsor = "b.example" },
		"no sponsor":      func(a *Attestation) { a.Sponsor = "" },
		"no validity":     func(a *Attestation) { a.NotAfter = a.NotBefore },
	} {
		if _, err := SignAttestation(key(100), attestation(1, change)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := SignAttestation(nil, attestation(1, nil)); !errors.Is(err, ErrMalformed) {
		t.Errorf("no private key: %v", err)
	}
}

func TestUsable(t *testing.T) {
	blocked := must(ParseBlocklist([]string{"a.example"}))
	pinned := chain(1)
	rotated := chain(2)
	if err := rotated.Extend(must(SignHomeserver(key(101), home(3, rotated.Head().Hash(), 101)))); err != nil {
		t.Fatal(err)
	}
	elsewhere := home(1, Hash{}, 100)
	elsewhere.Domain = "b.example"
	other := must(Pin(must(SignHomeserver(key(100), elsewhere))))
	good, vouched := first(1, nil), attest(1, nil)
	forged := must(SignAttestation(key(7), attestation(1, nil)))
	tampered := vouched
	tampered.Signature = bytes.Clone(vouched.Signature)
	tampered.Signature[5] ^= 1
	for _, c := range []struct {
		name  string
		r     SignedRecord
		a     SignedAttestation
		home  *Chain
		block *Blocklist
		now   int64
		want  error
	}{
		{"all is well", good, vouched, pinned, nil, now, nil},
		{"after a rotation", good, vouched, chain(2), nil, now, nil},
		{"the key was dropped", good, vouched, rotated, nil, now, ErrSignature},
		{"blocked", good, vouched, pinned, blocked, now, ErrBlocked},
		{"revoked by the device", first(1, func(r *Record) { r.Revoked = true }), vouched, pinned, nil, now, ErrRevoked},
		{"revoked by the homeserver", good, attest(1, func(a *Attestation) { a.Revoked = true }), pinned, nil, now, ErrRevoked},
		{"not yet", good, vouched, pinned, nil, now - day - Skew - 1, ErrExpired},
		{"with a slow clock", good, vouched, pinned, nil, now - day - Skew, nil},
		{"the record ran out", first(1, func(r *Record) { r.NotAfter = now }), vouched, pinned, nil, now, ErrExpired},
		{"the attestation ran out", good, attest(1, func(a *Attestation) { a.NotAfter = now }), pinned, nil, now, ErrExpired},
		{"for another device", good, attest(2, nil), pinned, nil, now, ErrMismatch},
		{"for another user", good, attest(1, func(a *Attestation) { a.User = "mimi://a.example/u/bob" }), pinned, nil, now, ErrMismatch},
		{"no attestation", good, SignedAttestation{}, pinned, nil, now, ErrMismatch},
		{"nobody pinned", good, vouched, nil, nil, now, ErrUnknownKey},
		{"another homeserver's chain", good, vouched, other, nil, now, ErrUnknownKey},
		{"signed by a stranger", good, forged, pinned, nil, now, ErrSignature},
		{"tampered with", good, tampered, pinned, nil, now, ErrSignature},
		{"nothing at all", SignedRecord{}, SignedAttestation{}, nil, nil, now, ErrExpired},
	} {
		if err := Usable(c.r, c.a, c.home, c.block, c.now); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, not %v", c.name, err, c.want)
		}
	}
}

// What is taken back stays so, however the clock of the homeserver goes.
func TestRevoke(t *testing.T) {
	given := attest(1, nil)
	for _, at := range []int64{given.NotBefore - day, given.NotBefore, now} {
		gone := must(Revoke(key(100), given.Attestation, at))
		if err := Usable(first(1, nil), gone, chain(1), nil, now); !errors.Is(err, ErrRevoked) {
			t.Errorf("taken back at %d: %v", at, err)
		}
		if stands := must(Renew(gone, given)); !stands.Revoked {
			t.Errorf("taken back at %d, and the old one stands", at)
		}
	}
}

// Whatever arrives in whatever order, everybody keeps the same attestation, and one
// that was withdrawn does not come back.
func TestRenewConverges(t *testing.T) {
	var all []SignedAttestation
	for from := range int64(3) {
		for _, to := range []int64{now + day, now + 2*day} {
			for _, revoked := range []bool{false, true} {
				all = append(all, attest(1, func(a *Attestation) { a.NotBefore, a.NotAfter, a.Revoked = from, to, revoked }))
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.SampledFrom(all), 1, 10).Draw(t, "some")
		stand := func(list []SignedAttestation) (s SignedAttestation) {
			for _, a := range list {
				s = must(Renew(s, a))
			}
			return s
		}
		s := stand(some)
		if o := stand(rapid.Permutation(some).Draw(t, "other order")); !bytes.Equal(s.Bytes, o.Bytes) {
			t.Fatalf("%+v or %+v", s.Attestation, o.Attestation)
		}
		for _, a := range some {
			if a.NotBefore > s.NotBefore || a.NotBefore == s.NotBefore && a.Revoked && !s.Revoked {
				t.Fatalf("%+v stands, in spite of %+v", s.Attestation, a.Attestation)
			}
		}
	})
	one := attest(1, nil)
	if got, err := Renew(one, attest(2, nil)); !errors.Is(err, ErrMismatch) || !bytes.Equal(got.Bytes, one.Bytes) {
		t.Errorf("another device: %v", err)
	}
}

func FuzzParseAttestation(f *testing.F) {
	f.Add(attest(1, nil).Encode())
	f.Add(attest(1, nil).Bytes)
	f.Add(attest(2, func(a *Attestation) { a.Revoked = true }).Encode())
	c := chain(1)
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range [][]byte{b, seal(b, Sign(key(100), labelAttestation, b))} {
			s, err := ParseAttestation(e)
			if err != nil {
				if !errors.Is(err, ErrMalformed) {
					t.Fatalf("an error of its own: %v", err)
				}
				continue
			}
			if !bytes.Equal(s.Encode(), e) || s.Sponsor != Domain(s.User) || len(s.Device) != 32 {
				t.Fatalf("%x is read as %+v", e, s)
			}
			if s.Verify(c, now) == nil && (s.Revoked || s.NotAfter <= now) {
				t.Fatalf("%+v is in force", s.Attestation)
			}
		}
	})
}
