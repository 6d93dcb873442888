// Package suite is the table of MLS cipher suites and the symmetric and
// signature operations of one suite: RFC 9420 §5.1, §5.2, §8 and §9.1, and the
// suites of draft-ietf-mls-pq-ciphersuites-06. Public-key encryption is in
// package hpke.
//
// Methods take their destination first and append to it. The operations on
// secrets of the usual sizes work in stack buffers and allocate nothing beyond
// the destination; nothing secret is kept between calls.
package suite

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// MaxHash is the length in octets of the longest hash, and so of the longest
// secret, of any suite.
const MaxHash = 64

// MaxSuites bounds the table: Register refuses more. It leaves room for every
// suite of RFC 9420, every draft suite, and a peer's private numbers.
const MaxSuites = 256

// MaxName is the longest name of a suite in octets.
const MaxName = 128

// FirstPostQuantum is the code point given to TBD1 of
// draft-ietf-mls-pq-ciphersuites-06; TBD2..TBD11 follow it. They are of the
// private range (RFC 9420 §17.1) because IANA has assigned none.
const FirstPostQuantum uint16 = 0xF001

// HPKE KEM ids: RFC 9180 §7.1, draft-ietf-hpke-pq.
const (
	KEMP256           uint16 = 0x0010
	KEMP384           uint16 = 0x0011
	KEMP521           uint16 = 0x0012
	KEMX25519         uint16 = 0x0020
	KEMX448           uint16 = 0x0021
	KEMMLKEM768       uint16 = 0x0041
	KEMMLKEM1024      uint16 = 0x0042
	KEMMLKEM768P256   uint16 = 0x0050
	KEMMLKEM1024P384  uint16 = 0x0051
	KEMMLKEM768X25519 uint16 = 0x647a // X-Wing, with the DeriveKeyPair of draft-ietf-hpke-pq

	// KEMXWing is a number of ours, never sent: the same KEM as 0x647a and,
	// inside HPKE, the same suite_id, but with the older DeriveKeyPair, in
	// which the key seed is the first 32 octets of SHAKE256 of ikm, of any
	// length. Peers built on the X-Wing draft use it, among them the suites 83
	// and 84 of one JavaScript implementation.
	KEMXWing uint16 = 0xff7a
)

// HPKE KDF ids, RFC 9180 §7.2. The single-stage KDFs of draft-ietf-hpke-pq
// have no Extract, which MLS needs, so no suite can have them.
const (
	KDFSHA256 uint16 = 1
	KDFSHA384 uint16 = 2
	KDFSHA512 uint16 = 3
)

// HPKE AEAD ids, RFC 9180 §7.3.
const (
	AEADAES128GCM uint16 = 1
	AEADAES256GCM uint16 = 2
	AEADChaCha20  uint16 = 3
)

// Params are what a suite is made of. Two suites with equal Params produce
// the same octets, except where the code point itself is hashed.
type Params struct {
	Name           string // as in the IANA registry or the draft
	KEM, KDF, AEAD uint16 // HPKE ids, constants of this package
	Signature      Signature
}

// Suite is one cipher suite. It never changes and may be used by several
// goroutines at once.
type Suite struct {
	id     uint16
	params Params
	kdf    *KDF
	key    int // octets of an AEAD key
}

// ErrParams is what Register returns, wrapped, for a suite it cannot make.
var ErrParams = errors.New("suite: parameters not supported")

// table is the registered suites; a new one replaces the whole, so that
// Lookup takes no lock.
type table struct {
	byID map[uint16]*Suite
	ids  []uint16
}

var (
	current  atomic.Pointer[table]
	register sync.Mutex
)

// defaults are the suites of RFC 9420 §17.1, in its order from 1, and then
// those of draft-ietf-mls-pq-ciphersuites-06, in its order from TBD1.
var defaults = [...]Params{
	{"MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519", KEMX25519, KDFSHA256, AEADAES128GCM, Ed25519},
	{"MLS_128_DHKEMP256_AES128GCM_SHA256_P256", KEMP256, KDFSHA256, AEADAES128GCM, ECDSAP256},
	{"MLS_128_DHKEMX25519_CHACHA20POLY1305_SHA256_Ed25519", KEMX25519, KDFSHA256, AEADChaCha20, Ed25519},
	{"MLS_256_DHKEMX448_AES256GCM_SHA512_Ed448", KEMX448, KDFSHA512, AEADAES256GCM, Ed448},
	{"MLS_256_DHKEMP521_AES256GCM_SHA512_P521", KEMP521, KDFSHA512, AEADAES256GCM, ECDSAP521},
	{"MLS_256_DHKEMX448_CHACHA20POLY1305_SHA512_Ed448", KEMX448, KDFSHA512, AEADChaCha20, Ed448},
	{"MLS_256_DHKEMP384_AES256GCM_SHA384_P384", KEMP384, KDFSHA384, AEADAES256GCM, ECDSAP384},

	{"MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519", KEMMLKEM768X25519, KDFSHA256, AEADAES128GCM, Ed25519},
	{"MLS_128_MLKEM768X25519_AES256GCM_SHA384_Ed25519", KEMMLKEM768X25519, KDFSHA384, AEADAES256GCM, Ed25519},
	{"MLS_128_MLKEM768P256_AES128GCM_SHA256_P256", KEMMLKEM768P256, KDFSHA256, AEADAES128GCM, ECDSAP256},
	{"MLS_128_MLKEM768P256_AES256GCM_SHA384_P256", KEMMLKEM768P256, KDFSHA384, AEADAES256GCM, ECDSAP256},
	{"MLS_192_MLKEM1024P384_AES256GCM_SHA384_P384", KEMMLKEM1024P384, KDFSHA384, AEADAES256GCM, ECDSAP384},
	{"MLS_128_MLKEM768_AES256GCM_SHA384_Ed25519", KEMMLKEM768, KDFSHA384, AEADAES256GCM, Ed25519},
	{"MLS_128_MLKEM768_AES256GCM_SHA384_P256", KEMMLKEM768, KDFSHA384, AEADAES256GCM, ECDSAP256},
	{"MLS_192_MLKEM1024_AES256GCM_SHA384_P384", KEMMLKEM1024, KDFSHA384, AEADAES256GCM, ECDSAP384},
	{"MLS_128_MLKEM768X25519_CHACHA20POLY1305_SHA384_MLDSA44", KEMMLKEM768X25519, KDFSHA384, AEADChaCha20, MLDSA44},
	{"MLS_192_MLKEM768_AES256GCM_SHA384_MLDSA65", KEMMLKEM768, KDFSHA384, AEADAES256GCM, MLDSA65},
	{"MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87", KEMMLKEM1024, KDFSHA384, AEADAES256GCM, MLDSA87},
}

// classical is how many of defaults are of RFC 9420.
const classical = 7

func init() {
	t := &table{byID: make(map[uint16]*Suite, len(defaults))}
	for i, p := range defaults {
		id := uint16(i + 1)
		if i >= classical {
			id = FirstPostQuantum + uint16(i-classical)
		}
		s, err := newSuite(id, p)
		if err != nil {
			panic(err) // a mistake in the table above
		}
		t.byID[id] = s
		t.ids = append(t.ids, id)
	}
	current.Store(t)
}

func newSuite(id uint16, p Params) (*Suite, error) {
	s := &Suite{id: id, params: p, kdf: LookupKDF(p.KDF)}
	if s.kdf == nil {
		return nil, fmt.Errorf("%w: KDF %#04x", ErrParams, p.KDF)
	}
	if len(p.Name) > MaxName {
		return nil, fmt.Errorf("%w: name of %d octets", ErrParams, len(p.Name))
	}
	if !knownKEM(p.KEM) {
		return nil, fmt.Errorf("%w: KEM %#04x", ErrParams, p.KEM)
	}
	if s.key = keySize(p.AEAD); s.key == 0 {
		return nil, fmt.Errorf("%w: AEAD %#04x", ErrParams, p.AEAD)
	}
	if p.Signature.publicSize() == 0 {
		return nil, fmt.Errorf("%w: signature scheme %#04x", ErrParams, uint16(p.Signature))
	}
	return s, nil
}

func knownKEM(id uint16) bool {
	switch id {
	case KEMP256, KEMP384, KEMP521, KEMX25519, KEMX448, KEMMLKEM768, KEMMLKEM1024,
		KEMMLKEM768P256, KEMMLKEM1024P384, KEMMLKEM768X25519, KEMXWing:
		return true
	}
	return false
}

// Lookup returns the suite with a code point, or nil.
func Lookup(id uint16) *Suite { return current.Load().byID[id] }

// All returns the registered code points, ascending. The slice is the
// caller's.
func All() []uint16 { return slices.Clone(current.Load().ids) }

// Register adds a suite at a code point that RFC 9420 does not define. The
// same parameters again are accepted; other parameters at a registered code
// point are an error, for suites in use must not change under a group.
func Register(id uint16, p Params) error {
	if id <= classical { // 0 is reserved, RFC 9420 §17.1
		return fmt.Errorf("suite: code point %#04x is of RFC 9420", id)
	}
	s, err := newSuite(id, p)
	if err != nil {
		return err
	}
	register.Lock()
	defer register.Unlock()
	old := current.Load()
	if was := old.byID[id]; was != nil {
		if was.params == p {
			return nil
		}
		return fmt.Errorf("suite: code point %#04x is %s already", id, was.params.Name)
	}
	if len(old.ids) >= MaxSuites {
		return fmt.Errorf("suite: more than %d suites", MaxSuites)
	}
	t := &table{byID: make(map[uint16]*Suite, len(old.ids)+1), ids: slices.Clone(old.ids)}
	for _, known := range old.ids {
		t.byID[known] = old.byID[known]
	}
	at, _ := slices.BinarySearch(t.ids, id)
	t.ids = slices.Insert(t.ids, at, id)
	t.byID[id] = s
	current.Store(t)
	return nil
}

// ID is the code point.
func (s *Suite) ID() uint16 { return s.id }

// Name is the registered name.
func (s *Suite) Name() string { return s.params.Name }

// Params are what the suite is made of.
func (s *Suite) Params() Params { return s.params }

// KEM is the id of the key encapsulation mechanism, a constant of this package.
func (s *Suite) KEM() uint16 { return s.params.KEM }

// KDF is the id of the key derivation function, a constant of this package.
func (s *Suite) KDF() uint16 { return s.params.KDF }

// AEAD is the id of the cipher, a constant of this package.
func (s *Suite) AEAD() uint16 { return s.params.AEAD }

// Signature is the signature scheme.
func (s *Suite) Signature() Signature { return s.params.Signature }

// HashSize is Nh: octets of a hash, of a MAC and of every secret.
func (s *Suite) HashSize() int { return s.kdf.size }

// KeySize is Nk: octets of an AEAD key.
func (s *Suite) KeySize() int { return s.key }

// NonceSize is Nn: octets of an AEAD nonce, 12 in every suite.
func (s *Suite) NonceSize() int { return nonceSize }

// TagSize is how many octets longer a ciphertext is than its plaintext, 16 in
// every suite.
func (s *Suite) TagSize() int { return tagSize }
