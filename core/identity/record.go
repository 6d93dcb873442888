package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
	"unicode"
)

// Bounds of a device record. A record with keys for X-Wing (1216 octets) and
// ML-DSA-87 (2592) still fits.
const (
	MaxRecord   = 4096 // octets of the envelope
	MaxLinks    = 64   // devices of one user that one record lists
	MaxMLSKeys  = 8    // further signature keys
	MaxName     = 64   // octets of a device's name
	maxMLSKey   = 2592 // octets: an ML-DSA-87 public key
	maxInboxKey = 2048 // octets, for KEMs that we do not know
)

// The KEMs of inbox keys (RFC 9180 §7.1, draft-ietf-hpke-pq), with the octets of
// a public key: 32 and 1216. Records may name others.
const (
	KEMX25519 uint16 = 0x0020
	KEMXWing  uint16 = 0x647a
)

// An InboxKey is what letters to a device are sealed to (PROTOCOL §10): an HPKE
// KEM and a public key of it.
type InboxKey struct {
	KEM    uint16 `cbor:"1,keyasint"`
	Public []byte `cbor:"2,keyasint"`
}

// An MLSKey is a signature key for MLS suites that do not sign with Ed25519:
// the TLS signature scheme (RFC 9420 §17.1) and the public key as in a leaf.
type MLSKey struct {
	Scheme uint16 `cbor:"1,keyasint"`
	Public []byte `cbor:"2,keyasint"`
}

// A Record is what a device says about itself (PROTOCOL §2).
type Record struct {
	Version   uint64            `cbor:"1,keyasint"` // from 1; the highest wins
	Key       ed25519.PublicKey `cbor:"2,keyasint"` // the device; signs the record
	Inbox     InboxKey          `cbor:"3,keyasint"`
	MLSKeys   []MLSKey          `cbor:"4,keyasint,omitempty"`
	User      string            `cbor:"5,keyasint"`           // URI
	Name      string            `cbor:"6,keyasint,omitempty"` // what people call the device
	Links     []string          `cbor:"7,keyasint,omitempty"` // device IDs of the same user, sorted
	NotBefore int64             `cbor:"8,keyasint"`           // Unix seconds, inclusive
	NotAfter  int64             `cbor:"9,keyasint"`           // Unix seconds, exclusive
	Previous  Hash              `cbor:"10,keyasint,omitzero"` // SignedRecord.Hash of the one before; zero in version 1 only
	Revoked   bool              `cbor:"11,keyasint,omitempty"`
}

// A SignedRecord is a record whose signature has been verified with the key
// inside. It shares no memory with what it was parsed from, and is not changed.
type SignedRecord struct {
	Record
	Bytes     []byte // as received
	Signature []byte // over Bytes
}

// SignRecord signs r with the device's key. It fills in r.Key and sorts r.Links
// (in a copy); all else must be as ParseRecord demands, or it is ErrMalformed.
func SignRecord(key ed25519.PrivateKey, r Record) (SignedRecord, error) {
	pub, err := publicOf(key)
	if err != nil {
		return SignedRecord{}, err
	}
	if r.Key == nil {
		r.Key = pub
	}
	r.Links = slices.Sorted(slices.Values(r.Links))
	b := marshal(r)
	return ParseRecord(seal(b, Sign(key, labelRecord, b)))
}

// ParseRecord reads the envelope of a record of at most MaxRecord octets and
// verifies its signature. The error wraps ErrMalformed or ErrSignature.
func ParseRecord(b []byte) (SignedRecord, error) {
	e, err := open(b, MaxRecord)
	if err != nil {
		return SignedRecord{}, err
	}
	s := SignedRecord{Bytes: e.Bytes, Signature: e.Signature}
	if err := decode(e.Bytes, MaxRecord, &s.Record); err != nil {
		return SignedRecord{}, err
	}
	if err := s.Record.check(); err != nil {
		return SignedRecord{}, err
	}
	if !Verify(s.Key, labelRecord, s.Signature, s.Bytes) {
		return SignedRecord{}, fmt.Errorf("%w: of a device record", ErrSignature)
	}
	return s, nil
}

// Encode returns the envelope: what ParseRecord reads, octet for octet.
func (s SignedRecord) Encode() []byte { return seal(s.Bytes, s.Signature) }

// Hash is what the next record names as Previous: the SHA-256 of Bytes.
func (s SignedRecord) Hash() Hash { return sha256.Sum256(s.Bytes) }

// ID returns the device's ID.
func (r Record) ID() string { return DeviceID(r.Key) }

// Domain returns the domain of the device's user, and so of its homeserver.
func (r Record) Domain() string { return Domain(r.User) }

// URI returns the device's URI at the homeserver of its user.
func (r Record) URI() string { return DeviceURI(r.Domain(), r.Key) }

func (r *Record) check() error {
	if r.Version == 0 || (r.Version == 1) != r.Previous.IsZero() {
		return fmt.Errorf("%w: version 1 is the one without a previous record", ErrMalformed)
	}
	if err := checkKey(r.Key); err != nil {
		return err
	}
	if err := r.Inbox.check(); err != nil {
		return err
	}
	if err := checkUser(r.User); err != nil {
		return err
	}
	if len(r.Name) > MaxName || !printable(r.Name) {
		return fmt.Errorf("%w: a device's name is at most %d printable octets", ErrMalformed, MaxName)
	}
	if err := checkValidity(r.NotBefore, r.NotAfter); err != nil {
		return err
	}
	return r.checkLists()
}

func (r *Record) checkLists() error {
	if len(r.MLSKeys) > MaxMLSKeys || len(r.Links) > MaxLinks {
		return fmt.Errorf("%w: %d MLS keys and %d links, at most %d and %d", ErrMalformed,
			len(r.MLSKeys), len(r.Links), MaxMLSKeys, MaxLinks)
	}
	for i, k := range r.MLSKeys {
		twice := slices.ContainsFunc(r.MLSKeys[:i], func(o MLSKey) bool { return bytes.Equal(o.Public, k.Public) })
		if len(k.Public) == 0 || len(k.Public) > maxMLSKey || twice || bytes.Equal(k.Public, r.Key) {
			return fmt.Errorf("%w: MLS key %d is empty, too long, or a second one", ErrMalformed, i)
		}
	}
	own := r.ID()
	for i, l := range r.Links {
		if !isDeviceID(l) || l == own || i > 0 && l <= r.Links[i-1] {
			return fmt.Errorf("%w: link %d is no device ID, out of order, or the device itself", ErrMalformed, i)
		}
	}
	return nil
}

func (k InboxKey) check() error {
	n := len(k.Public)
	switch {
	case k.KEM == KEMX25519 && n == 32, k.KEM == KEMXWing && n == 1216:
		return nil
	case k.KEM != KEMX25519 && k.KEM != KEMXWing && n > 0 && n <= maxInboxKey:
		return nil // whoever does not know the KEM cannot write to the device, and can still read its record
	}
	return fmt.Errorf("%w: an inbox key of KEM %#04x with %d octets", ErrMalformed, k.KEM, n)
}

// printable leaves out controls and format characters, which could make one name
// look like another or turn the text around it.
func printable(s string) bool {
	for _, c := range s {
		if !unicode.IsPrint(c) {
			return false
		}
	}
	return true
}

// Advance returns the record that stands once both are known; old may be the zero
// value for a device that is new to us. The highest version wins, and a revoked
// record over any that is not, so that the order in which they arrive does not
// matter. An older or equal record changes nothing, without an error. A record
// that would take back a revocation is refused with ErrRevoked. Records that
// contradict each other are returned as a proof, with old and ErrEquivocation:
// the device is to be refused from then on.
func Advance(old, new SignedRecord) (SignedRecord, *Equivocation, error) {
	switch {
	case len(old.Bytes) == 0:
		return new, nil, nil
	case !bytes.Equal(old.Key, new.Key):
		return old, nil, fmt.Errorf("%w: records of two devices", ErrMismatch)
	case contradict(old, new):
		return old, newEquivocation(old, new), fmt.Errorf("%w: versions %d and %d of a device's record", ErrEquivocation, old.Version, new.Version)
	case old.Revoked && !new.Revoked && new.Version > old.Version:
		return old, nil, fmt.Errorf("%w: and version %d would take it back", ErrRevoked, new.Version)
	case old.Revoked != new.Revoked && new.Revoked, old.Revoked == new.Revoked && new.Version > old.Version:
		return new, nil, nil
	}
	return old, nil, nil
}

// contradict reports whether no honest device signs both a and b: they differ
// under one version, or one is the next version and does not name the other.
func contradict(a, b SignedRecord) bool {
	if a.Version > b.Version {
		a, b = b, a
	}
	switch b.Version - a.Version {
	case 0:
		return !bytes.Equal(a.Bytes, b.Bytes)
	case 1:
		return b.Previous != a.Hash()
	}
	return false
}

// An Equivocation is a proof that anybody can check: the envelopes of two records
// by one device that contradict each other, the smaller octets first.
type Equivocation struct{ A, B []byte }

func newEquivocation(a, b SignedRecord) *Equivocation {
	e := &Equivocation{A: a.Encode(), B: b.Encode()}
	if bytes.Compare(e.A, e.B) > 0 {
		e.A, e.B = e.B, e.A
	}
	return e
}

// maxEquivocation has room for the heads of an array and two strings.
const maxEquivocation = 2*MaxRecord + 16

// ParseEquivocation reads a proof and verifies that it is one.
func ParseEquivocation(b []byte) (*Equivocation, error) {
	var records [][]byte
	if err := decode(b, maxEquivocation, &records); err != nil {
		return nil, err
	}
	if len(records) != 2 {
		return nil, fmt.Errorf("%w: a proof of %d records", ErrMalformed, len(records))
	}
	e := &Equivocation{A: records[0], B: records[1]}
	_, err := e.Device()
	if err != nil {
		return nil, err
	}
	return e, nil
}

// Encode returns what ParseEquivocation reads: the CBOR array [A, B].
func (e *Equivocation) Encode() []byte { return marshal([][]byte{e.A, e.B}) }

// Device verifies the proof and returns the key of the device that it convicts.
func (e *Equivocation) Device() (ed25519.PublicKey, error) {
	a, err := ParseRecord(e.A)
	if err != nil {
		return nil, err
	}
	b, err := ParseRecord(e.B)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(a.Key, b.Key) || !contradict(a, b) || bytes.Compare(e.A, e.B) > 0 {
		return nil, fmt.Errorf("%w: two records that prove nothing", ErrMalformed)
	}
	return a.Key, nil
}
