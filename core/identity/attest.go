package identity

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
)

// MaxAttestation bounds the envelope of an attestation in octets: two domains,
// a URI, a key and a signature.
const MaxAttestation = 2048

// An Attestation is a homeserver's word that a device is a user's (PROTOCOL §2).
// It is renewed before it runs out; a device that was lost is withdrawn by a
// later one that is Revoked.
type Attestation struct {
	Device    ed25519.PublicKey `cbor:"1,keyasint"`
	User      string            `cbor:"2,keyasint"` // URI
	Sponsor   string            `cbor:"3,keyasint"` // the homeserver's domain, that of the user
	NotBefore int64             `cbor:"4,keyasint"` // Unix seconds, inclusive; the latest counts
	NotAfter  int64             `cbor:"5,keyasint"` // Unix seconds, exclusive
	Revoked   bool              `cbor:"6,keyasint,omitempty"`
}

// A SignedAttestation is well-formed; only Verify and Usable say who signed it.
type SignedAttestation struct {
	Attestation
	Bytes     []byte // as received
	Signature []byte // over Bytes, by a key of the sponsor
}

// SignAttestation signs a with a key of the homeserver. The error wraps ErrMalformed.
func SignAttestation(homeserver ed25519.PrivateKey, a Attestation) (SignedAttestation, error) {
	if _, err := publicOf(homeserver); err != nil {
		return SignedAttestation{}, err
	}
	b := marshal(a)
	return ParseAttestation(seal(b, Sign(homeserver, labelAttestation, b)))
}

// ParseAttestation reads the envelope of an attestation of at most
// MaxAttestation octets. Whose signature it has is for Verify to find out: the
// keys stand in the sponsor's homeserver record. The error wraps ErrMalformed.
func ParseAttestation(b []byte) (SignedAttestation, error) {
	e, err := open(b, MaxAttestation)
	if err != nil {
		return SignedAttestation{}, err
	}
	s := SignedAttestation{Bytes: e.Bytes, Signature: e.Signature}
	if err := decode(e.Bytes, MaxAttestation, &s.Attestation); err != nil {
		return SignedAttestation{}, err
	}
	if err := s.Attestation.check(); err != nil {
		return SignedAttestation{}, err
	}
	return s, nil
}

func (a *Attestation) check() error {
	if err := checkKey(a.Device); err != nil {
		return err
	}
	if err := checkUser(a.User); err != nil {
		return err
	}
	if a.Sponsor != Domain(a.User) {
		return fmt.Errorf("%w: a sponsor of another domain than the user's", ErrMalformed)
	}
	return checkValidity(a.NotBefore, a.NotAfter)
}

// Encode returns the envelope: what ParseAttestation reads, octet for octet.
func (s SignedAttestation) Encode() []byte { return seal(s.Bytes, s.Signature) }

// Verify says why the attestation is not in force at now (Unix seconds) by the
// word of the homeserver that home has pinned; nil if it is. A homeserver that
// drops a key takes back all that it has signed with it.
func (s SignedAttestation) Verify(home *Chain, now int64) error {
	if s.Sponsor != home.Domain() {
		return fmt.Errorf("%w: no homeserver record of the sponsor", ErrUnknownKey)
	}
	if err := home.Verify(labelAttestation, s.Signature, now, s.Bytes); err != nil {
		return err
	}
	if s.Revoked {
		return fmt.Errorf("%w: by the homeserver", ErrRevoked)
	}
	if !inForce(s.NotBefore, s.NotAfter, now) {
		return fmt.Errorf("%w: the attestation", ErrExpired)
	}
	return nil
}

// Revoke signs that the homeserver takes back at now (Unix seconds) what it has
// attested: it begins later than a, so that it is the one that stands, see Renew.
func Revoke(key ed25519.PrivateKey, a Attestation, now int64) (SignedAttestation, error) {
	a.NotBefore, a.Revoked = max(a.NotBefore+1, now), true
	return SignAttestation(key, a)
}

// Renew returns the attestation that stands once both are known and verified:
// the one that begins later; of two that begin together a revoked one, then the
// one with the greater octets, so that everybody keeps the same. old may be the
// zero value. Attestations of two devices are ErrMismatch.
func Renew(old, new SignedAttestation) (SignedAttestation, error) {
	switch {
	case len(old.Bytes) == 0:
		return new, nil
	case !bytes.Equal(old.Device, new.Device) || old.Sponsor != new.Sponsor:
		return old, fmt.Errorf("%w: attestations of two devices", ErrMismatch)
	case old.NotBefore != new.NotBefore:
		if new.NotBefore > old.NotBefore {
			return new, nil
		}
	case old.Revoked != new.Revoked:
		if new.Revoked {
			return new, nil
		}
	case bytes.Compare(new.Bytes, old.Bytes) > 0:
		return new, nil
	}
	return old, nil
}

// Usable is the one place that says why a device may not be used at now (Unix
// seconds), nil if it may: its homeserver is not blocked, the record is neither
// revoked nor out of date, and the attestation is for this device and user, in
// force, and signed by the homeserver whose chain is home (nil if none is
// pinned). Whether it has equivocated, the caller knows from Advance.
func Usable(r SignedRecord, a SignedAttestation, home *Chain, block *Blocklist, now int64) error {
	switch {
	case block.Blocked(r.Domain()):
		return ErrBlocked
	case r.Revoked:
		return fmt.Errorf("%w: by the device", ErrRevoked)
	case !inForce(r.NotBefore, r.NotAfter, now):
		return fmt.Errorf("%w: the device record", ErrExpired)
	case !bytes.Equal(a.Device, r.Key):
		return fmt.Errorf("%w: the attestation is for another device", ErrMismatch)
	case a.User != r.User:
		return fmt.Errorf("%w: the attestation is for another user", ErrMismatch)
	}
	return a.Verify(home, now)
}
