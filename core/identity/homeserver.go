package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"slices"
)

// Bounds of homeserver records.
const (
	MaxHomeserver     = 2048 // octets of the envelope
	MaxHomeserverKeys = 8    // of one record
	MaxChain          = 128  // records since the first: ten years of a new key each month
	maxEncodedChain   = MaxChain*(MaxHomeserver+3) + 3
)

// A HomeserverKey is an Ed25519 key that a homeserver signs with while
// NotBefore <= now < NotAfter (Unix seconds).
type HomeserverKey struct {
	Key       ed25519.PublicKey `cbor:"1,keyasint"`
	NotBefore int64             `cbor:"2,keyasint"`
	NotAfter  int64             `cbor:"3,keyasint"`
}

// A HomeserverRecord is what a homeserver says about itself (PROTOCOL §2). Only
// the keys of the newest record count: one that is dropped has signed nothing.
// Any key that is listed, out of date or not, can sign the next record, so a
// homeserver that was away for long can come back; drop what was stolen.
type HomeserverRecord struct {
	Version  uint64          `cbor:"1,keyasint"` // 1, 2, 3… without gaps
	Domain   string          `cbor:"2,keyasint"`
	Keys     []HomeserverKey `cbor:"3,keyasint"`          // in order of preference
	Previous Hash            `cbor:"4,keyasint,omitzero"` // SignedHomeserver.Hash of the one before; zero in version 1 only
}

// A SignedHomeserver is well-formed. Version 1 is signed by its own first key,
// and was verified; any other by a key of the record before, which Chain verifies.
type SignedHomeserver struct {
	HomeserverRecord
	Bytes     []byte // as received
	Signature []byte // over Bytes
}

// SignHomeserver signs r: version 1 with the first of its own keys, any other with
// a key of the record before. The error wraps ErrMalformed or ErrSignature.
func SignHomeserver(key ed25519.PrivateKey, r HomeserverRecord) (SignedHomeserver, error) {
	if _, err := publicOf(key); err != nil {
		return SignedHomeserver{}, err
	}
	b := marshal(r)
	return ParseHomeserver(seal(b, Sign(key, labelHomeserver, b)))
}

// ParseHomeserver reads the envelope of a homeserver record of at most
// MaxHomeserver octets. The error wraps ErrMalformed, or in version 1 ErrSignature.
func ParseHomeserver(b []byte) (SignedHomeserver, error) {
	e, err := open(b, MaxHomeserver)
	if err != nil {
		return SignedHomeserver{}, err
	}
	s := SignedHomeserver{Bytes: e.Bytes, Signature: e.Signature}
	if err := decode(e.Bytes, MaxHomeserver, &s.HomeserverRecord); err != nil {
		return SignedHomeserver{}, err
	}
	if err := s.HomeserverRecord.check(); err != nil {
		return SignedHomeserver{}, err
	}
	if s.Version == 1 && !s.signedBy(s.Keys[:1]) {
		return SignedHomeserver{}, fmt.Errorf("%w: of a first homeserver record", ErrSignature)
	}
	return s, nil
}

func (r *HomeserverRecord) check() error {
	if r.Version == 0 || (r.Version == 1) != r.Previous.IsZero() {
		return fmt.Errorf("%w: version 1 is the one without a previous record", ErrMalformed)
	}
	if !ValidDomain(r.Domain) {
		return fmt.Errorf("%w: not a domain", ErrMalformed)
	}
	if len(r.Keys) == 0 || len(r.Keys) > MaxHomeserverKeys {
		return fmt.Errorf("%w: %d keys, 1 to %d are allowed", ErrMalformed, len(r.Keys), MaxHomeserverKeys)
	}
	for i, k := range r.Keys {
		if err := checkKey(k.Key); err != nil {
			return err
		}
		if err := checkValidity(k.NotBefore, k.NotAfter); err != nil {
			return err
		}
		if slices.ContainsFunc(r.Keys[:i], func(o HomeserverKey) bool { return bytes.Equal(o.Key, k.Key) }) {
			return fmt.Errorf("%w: key %d is there twice", ErrMalformed, i)
		}
	}
	return nil
}

// Encode returns the envelope: what ParseHomeserver reads, octet for octet.
func (s SignedHomeserver) Encode() []byte { return seal(s.Bytes, s.Signature) }

// Hash is what the next record names as Previous: the SHA-256 of Bytes.
func (s SignedHomeserver) Hash() Hash { return sha256.Sum256(s.Bytes) }

func (s SignedHomeserver) signedBy(keys []HomeserverKey) bool {
	return slices.ContainsFunc(keys, func(k HomeserverKey) bool { return Verify(k.Key, labelHomeserver, s.Signature, s.Bytes) })
}

// A Chain is all records of one homeserver from the first, each signed by the one
// before. What we have seen once is pinned: a homeserver that later says
// otherwise is refused with ErrChain, and that is an alarm for the operator. A
// nil *Chain is that of a homeserver we know nothing of. Not for concurrent Extend.
type Chain struct{ records []SignedHomeserver }

// Pin begins a chain with version 1, trusted on first use. Anything else is ErrChain.
func Pin(first SignedHomeserver) (*Chain, error) {
	if first.Version != 1 || !first.signedBy(first.Keys[:1]) {
		return nil, fmt.Errorf("%w: it begins with version %d", ErrChain, first.Version)
	}
	return &Chain{records: []SignedHomeserver{first}}, nil
}

// Extend appends the next record. One that the chain has is taken without effect;
// one beyond the next is ErrVersion (fetch those between); one that contradicts
// the chain, or that no key of the last record has signed, is ErrChain.
func (c *Chain) Extend(next SignedHomeserver) error {
	last := c.Head()
	switch {
	case next.Domain != last.Domain:
		return fmt.Errorf("%w: a record of another domain", ErrMismatch)
	case next.Version > last.Version+1:
		return fmt.Errorf("%w: version %d after %d", ErrVersion, next.Version, last.Version)
	case next.Version == 0:
		return fmt.Errorf("%w: a record that was not parsed", ErrMalformed)
	case next.Version <= last.Version:
		if !bytes.Equal(next.Bytes, c.records[next.Version-1].Bytes) {
			return fmt.Errorf("%w: another version %d than the one pinned", ErrChain, next.Version)
		}
		return nil
	case next.Previous != last.Hash():
		return fmt.Errorf("%w: version %d does not follow the one pinned", ErrChain, next.Version)
	case !next.signedBy(last.Keys):
		return fmt.Errorf("%w: version %d is not signed by a key of the one before", ErrChain, next.Version)
	case len(c.records) == MaxChain:
		return fmt.Errorf("%w: more than %d records", ErrMalformed, MaxChain)
	}
	c.records = append(c.records, next)
	return nil
}

// Head returns the newest record, the zero value if c is nil.
func (c *Chain) Head() SignedHomeserver {
	if c == nil || len(c.records) == 0 {
		return SignedHomeserver{}
	}
	return c.records[len(c.records)-1]
}

// Domain returns whose chain it is, "" if c is nil.
func (c *Chain) Domain() string { return c.Head().Domain }

// Records returns all records, oldest first.
func (c *Chain) Records() []SignedHomeserver {
	if c == nil {
		return nil
	}
	return slices.Clone(c.records)
}

// Verify says why sig is not the homeserver's signature (in the form of Sign) by
// a key in force at now: ErrUnknownKey if it has no such key, else ErrSignature.
func (c *Chain) Verify(label string, sig []byte, now int64, parts ...[]byte) error {
	none := true
	for _, k := range c.Head().Keys {
		if inForce(k.NotBefore, k.NotAfter, now) {
			if Verify(k.Key, label, sig, parts...) {
				return nil
			}
			none = false
		}
	}
	if none {
		return fmt.Errorf("%w: the homeserver has none in force", ErrUnknownKey)
	}
	return fmt.Errorf("%w: by none of the homeserver's keys", ErrSignature)
}

// Encode returns what ParseChain reads: a CBOR array of the records' envelopes,
// each an octet string. It is what /.well-known/isthmus serves.
func (c *Chain) Encode() []byte {
	all := [][]byte{}
	for _, r := range c.Records() {
		all = append(all, r.Encode())
	}
	return marshal(all)
}

// ParseChain reads a chain and verifies it from its first record. The error wraps
// ErrMalformed, ErrSignature, or what Extend returns.
func ParseChain(b []byte) (*Chain, error) {
	var all [][]byte
	if err := decode(b, maxEncodedChain, &all); err != nil {
		return nil, err
	}
	var c *Chain
	for i, e := range all {
		r, err := ParseHomeserver(e)
		if err != nil {
			return nil, err
		}
		if i == 0 {
			c, err = Pin(r)
		} else if r.Version != uint64(i)+1 {
			err = fmt.Errorf("%w: version %d in place %d", ErrMalformed, r.Version, i)
		} else {
			err = c.Extend(r)
		}
		if err != nil {
			return nil, err
		}
	}
	if c == nil {
		return nil, fmt.Errorf("%w: an empty chain", ErrMalformed)
	}
	return c, nil
}
