// Package hpke is the base mode of HPKE (RFC 9180) for the suites of MLS:
// single-shot encryption, and the exporter that external joins use. The KEMs
// are those of RFC 9180 §7.1 and of draft-ietf-hpke-pq, over primitives of the
// standard library and circl; which of the two is the faster was measured, and
// stands beside each.
//
// The package draws no randomness in Seal: the caller gives the seed, so that
// many seals may run side by side and a test may repeat one.
package hpke

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// Errors of this package. They say nothing about which step failed, for the
// sender of a message must not learn it.
var (
	// ErrKey: not a key of the KEM, or a public key whose shared secret is
	// zero (RFC 9180 §7.1.4).
	ErrKey = errors.New("hpke: not a key of this suite")
	// ErrSeed: the seed has not SeedSize octets, or (with probability 2^-96
	// at most) no key follows from it.
	ErrSeed = errors.New("hpke: seed not usable")
	// ErrOpen: the encapsulation or the ciphertext is not authentic.
	ErrOpen = errors.New("hpke: message does not open")
)

// Info is the part of the HPKE key schedule that depends on neither key:
// mode, psk_id_hash and info_hash (RFC 9180 §5.1). The encryptions of one
// commit have one info, so this is computed once for all of them. It is
// immutable and may be used by several goroutines at once.
type Info struct {
	context [1 + 2*suite.MaxHash]byte
	n       int
	id      suiteID
}

// NewInfo hashes an info string for use with suite s.
func NewInfo(s *suite.Suite, info []byte) *Info {
	i := new(Info)
	i.set(s, info, nil)
	return i
}

// InfoWithLabel is the Info of the EncryptContext of RFC 9420 §5.1.3: label
// with "MLS 1.0 " before it, and context, both vectors.
func InfoWithLabel(s *suite.Suite, label string, context []byte) *Info {
	i := new(Info)
	i.setLabel(s, label, context)
	return i
}

func (i *Info) setLabel(s *suite.Suite, label string, context []byte) {
	var room [128]byte
	// EncryptContext and SignContent have the same form; the context itself
	// is hashed where it lies.
	head := s.ContentHeader(room[:0], label, len(context))
	i.set(s, head, context)
}

func (i *Info) set(s *suite.Suite, first, second []byte) {
	k := suite.LookupKDF(s.KDF())
	i.id = hpkeID(s)
	i.context[0] = modeBase
	b := i.id.extract(k, i.context[:1], nil, "psk_id_hash", nil, nil)
	b = i.id.extract(k, b, nil, "info_hash", first, second)
	i.n = len(b)
}

// modeBase is the mode octet of RFC 9180 §5.
const modeBase = 0

// schedule is what the key schedule gives to one encryption.
type schedule struct {
	secret suite.Digest // RFC 9180 §5.1 "secret"
	kdf    *suite.KDF
}

func (c *schedule) set(s *suite.Suite, info *Info, shared []byte) {
	c.kdf = suite.LookupKDF(s.KDF())
	info.id.extract(c.kdf, c.secret[:0], shared, "secret", nil, nil)
}

// keys derives the AEAD key and the nonce of sequence number 0.
func (c *schedule) keys(s *suite.Suite, info *Info, key *[maxKey]byte, nonce *[maxNonce]byte) {
	prk := c.secret[:c.kdf.Size()]
	info.id.expand(c.kdf, key[:0], prk, "key", info.context[:info.n], s.KeySize())
	info.id.expand(c.kdf, nonce[:0], prk, "base_nonce", info.context[:info.n], s.NonceSize())
}

// export derives n octets bound to an exporter context, RFC 9180 §5.3.
func (c *schedule) export(info *Info, context []byte, n int) []byte {
	var exporter suite.Digest
	nh := c.kdf.Size()
	info.id.expand(c.kdf, exporter[:0], c.secret[:nh], "exp", info.context[:info.n], nh)
	out := info.id.expand(c.kdf, make([]byte, 0, n), exporter[:nh], "sec", context, n)
	clear(exporter[:])
	return out
}

const (
	maxKey   = 32
	maxNonce = 12
)

// Seal encrypts plaintext to a public key. seed is SeedSize octets of fresh
// randomness, never used before. kem is the encapsulated key; both results
// share one allocation.
func Seal(s *suite.Suite, seed, public []byte, info *Info, aad, plaintext []byte) (kem, ciphertext []byte, err error) {
	n := sizesOf(s.KEM()).output
	out := make([]byte, n, n+len(plaintext)+s.TagSize())
	var shared suite.Digest
	size, err := encapsulate(s.KEM(), &shared, out, seed, public)
	if err != nil {
		return nil, nil, err
	}
	var c schedule
	var key [maxKey]byte
	var nonce [maxNonce]byte
	c.set(s, info, shared[:size])
	c.keys(s, info, &key, &nonce)
	ciphertext = s.Seal(out[n:], key[:s.KeySize()], nonce[:], aad, plaintext)
	clear(shared[:])
	clear(c.secret[:])
	clear(key[:])
	return out[:n:n], ciphertext, nil
}

// Open decrypts what Seal made for the public key of private. public is that
// public key; nil has it computed, at the price of another multiplication.
func Open(s *suite.Suite, private, public, kem []byte, info *Info, aad, ciphertext []byte) ([]byte, error) {
	if len(ciphertext) < s.TagSize() {
		return nil, ErrOpen
	}
	var shared suite.Digest
	size, err := decapsulate(s.KEM(), &shared, private, public, kem)
	if err != nil {
		return nil, err
	}
	var c schedule
	var key [maxKey]byte
	var nonce [maxNonce]byte
	c.set(s, info, shared[:size])
	c.keys(s, info, &key, &nonce)
	out, err := s.Open(nil, key[:s.KeySize()], nonce[:], aad, ciphertext)
	clear(shared[:])
	clear(c.secret[:])
	clear(key[:])
	if err != nil {
		return nil, ErrOpen
	}
	return out, nil
}

// SealWithLabel is EncryptWithLabel, RFC 9420 §5.1.3.
func SealWithLabel(s *suite.Suite, seed, public []byte, label string, context, plaintext []byte) (kem, ciphertext []byte, err error) {
	var info Info
	info.setLabel(s, label, context)
	return Seal(s, seed, public, &info, nil, plaintext)
}

// OpenWithLabel is DecryptWithLabel, RFC 9420 §5.1.3.
func OpenWithLabel(s *suite.Suite, private, public []byte, label string, context, kem, ciphertext []byte) ([]byte, error) {
	var info Info
	info.setLabel(s, label, context)
	return Open(s, private, public, kem, &info, nil, ciphertext)
}

// SendExport makes a context for a public key and exports n octets from it,
// for the external init secret of RFC 9420 §8.3. n above s.MaxExpand panics.
func SendExport(s *suite.Suite, seed, public, info, exporterContext []byte, n int) (kem, secret []byte, err error) {
	kem = make([]byte, sizesOf(s.KEM()).output)
	var shared suite.Digest
	size, err := encapsulate(s.KEM(), &shared, kem, seed, public)
	if err != nil {
		return nil, nil, err
	}
	return kem, exportOf(s, &shared, size, info, exporterContext, n), nil
}

// ReceiveExport exports what SendExport exported, from its encapsulation.
// public is the public key of private, or nil.
func ReceiveExport(s *suite.Suite, private, public, kem, info, exporterContext []byte, n int) ([]byte, error) {
	var shared suite.Digest
	size, err := decapsulate(s.KEM(), &shared, private, public, kem)
	if err != nil {
		return nil, err
	}
	return exportOf(s, &shared, size, info, exporterContext, n), nil
}

func exportOf(s *suite.Suite, shared *suite.Digest, size int, info, context []byte, n int) []byte {
	var i Info
	i.set(s, info, nil)
	var c schedule
	c.set(s, &i, shared[:size])
	out := c.export(&i, context, n)
	clear(shared[:])
	clear(c.secret[:])
	return out
}

// GenerateKeyPair draws a key pair: Nsk octets of rand for the private key
// (the NIST curves derive theirs from them).
func GenerateKeyPair(s *suite.Suite, rand io.Reader) (private, public []byte, err error) {
	z := sizesOf(s.KEM())
	private = make([]byte, z.private)
	if _, err = io.ReadFull(rand, private); err != nil {
		return nil, nil, err
	}
	if curveOf(s.KEM()) != nil {
		return DeriveKeyPair(s, private)
	}
	public, err = PublicKey(s, private)
	return private, public, err
}

// suiteID is what HPKE puts into every derivation: "KEM" and the KEM, or
// "HPKE" and all three algorithms (RFC 9180 §4.1, §5.1).
type suiteID struct {
	b [10]byte
	n int
}

// wireKEM is the registered number of a KEM: our own second X-Wing is X-Wing.
func wireKEM(kem uint16) uint16 {
	if kem == suite.KEMXWing {
		return suite.KEMMLKEM768X25519
	}
	return kem
}

func kemID(kem uint16) (id suiteID) {
	b := append(id.b[:0], "KEM"...)
	id.n = len(binary.BigEndian.AppendUint16(b, wireKEM(kem)))
	return id
}

func hpkeID(s *suite.Suite) (id suiteID) {
	b := append(id.b[:0], "HPKE"...)
	b = binary.BigEndian.AppendUint16(b, wireKEM(s.KEM()))
	b = binary.BigEndian.AppendUint16(b, s.KDF())
	id.n = len(binary.BigEndian.AppendUint16(b, s.AEAD()))
	return id
}

// protocol is the prefix of every labelled derivation, RFC 9180 §4.
const protocol = "HPKE-v1"

// extract appends LabeledExtract(salt, label, first || second), RFC 9180 §4.
func (id *suiteID) extract(k *suite.KDF, dst, salt []byte, label string, first, second []byte) []byte {
	var room [48]byte
	head := append(room[:0], protocol...)
	head = append(head, id.b[:id.n]...)
	head = append(head, label...)
	return k.Extract(dst, salt, head, first, second)
}

// expand appends LabeledExpand(prk, label, info, n), RFC 9180 §4.
func (id *suiteID) expand(k *suite.KDF, dst, prk []byte, label string, info []byte, n int) []byte {
	return id.expand2(k, dst, prk, label, info, nil, n)
}

// expand2 is expand with an info of two parts.
func (id *suiteID) expand2(k *suite.KDF, dst, prk []byte, label string, first, second []byte, n int) []byte {
	var room [48]byte
	head := binary.BigEndian.AppendUint16(room[:0], uint16(n))
	head = append(head, protocol...)
	head = append(head, id.b[:id.n]...)
	head = append(head, label...)
	return k.Expand(dst, prk, n, head, first, second)
}
