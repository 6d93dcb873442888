package hpke

import (
	"crypto/ecdh"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/math/fp25519"
	"github.com/cloudflare/circl/math/fp448"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// The primitives: X25519 of circl takes 13 µs for a public key and 21 µs for a
// shared secret and allocates nothing, of crypto/ecdh 30 and 30 µs and five
// allocations (AMD EPYC, Go 1.26; BenchmarkPrimitive). X448 is in circl alone,
// 60 and 97 µs. For the NIST curves crypto/ecdh is the faster, by four times
// for a P-384 public key, and in constant time, which circl's P-384 is not.

// kdfOf is the KDF inside a Diffie-Hellman KEM, RFC 9180 §7.1; it need not be
// the KDF of the suite.
func kdfOf(kem uint16) *suite.KDF {
	switch kem {
	case suite.KEMX25519, suite.KEMP256:
		return suite.LookupKDF(suite.KDFSHA256)
	case suite.KEMP384:
		return suite.LookupKDF(suite.KDFSHA384)
	}
	return suite.LookupKDF(suite.KDFSHA512)
}

// extractAndExpand is RFC 9180 §4.1 with kem_context = enc || public.
func extractAndExpand(kem uint16, shared *suite.Digest, dh, enc, public []byte) {
	k := kdfOf(kem)
	id := kemID(kem)
	var prk suite.Digest
	id.extract(k, prk[:0], nil, "eae_prk", dh, nil)
	id.expand2(k, shared[:0], prk[:k.Size()], "shared_secret", enc, public, k.Size())
	clear(prk[:])
}

// deriveScalar is DeriveKeyPair for X25519 and X448, RFC 9180 §7.1.3.
func deriveScalar(kem uint16, dst, ikm []byte) []byte {
	k := kdfOf(kem)
	id := kemID(kem)
	var prk suite.Digest
	id.extract(k, prk[:0], nil, "dkp_prk", ikm, nil)
	dst = id.expand(k, dst, prk[:k.Size()], "sk", nil, cap(dst))
	clear(prk[:])
	return dst
}

func publicX25519(dst, private []byte) []byte {
	var sk, pk x25519.Key
	copy(sk[:], private)
	x25519.KeyGen(&pk, &sk)
	clear(sk[:])
	return append(dst, pk[:]...)
}

// smallX25519 is the u-coordinates of the points of small order, of the curve
// and of its twist: 0, 1, p-1 and two more. A multiplication finds them, too,
// but takes 21 µs, and a commit brings a key for each level of the tree: that
// was a third of the time that following one took.
var smallX25519 = [...]fp25519.Elt{
	{},
	{1},
	{0xec, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
		0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
	{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
		0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
}

// checkX25519 refuses the points of small order, whatever their encoding: RFC
// 7748 §5 ignores the highest bit and allows values beyond the prime.
func checkX25519(public []byte) error {
	var u fp25519.Elt
	copy(u[:], public)
	u[len(u)-1] &= 0x7f
	fp25519.Modp(&u)
	for i := range smallX25519 {
		if u == smallX25519[i] {
			return ErrKey
		}
	}
	return nil
}

func encapX25519(shared *suite.Digest, out, seed, public []byte) error {
	var sk, pk, peer, dh x25519.Key
	copy(sk[:], seed)
	copy(peer[:], public)
	x25519.KeyGen(&pk, &sk)
	if !x25519.Shared(&dh, &sk, &peer) {
		return ErrKey
	}
	copy(out, pk[:])
	extractAndExpand(suite.KEMX25519, shared, dh[:], pk[:], public)
	clear(sk[:])
	clear(dh[:])
	return nil
}

func decapX25519(shared *suite.Digest, private, public, enc []byte) error {
	var sk, pk, peer, dh x25519.Key
	copy(sk[:], private)
	copy(peer[:], enc)
	if public == nil {
		x25519.KeyGen(&pk, &sk)
	} else {
		copy(pk[:], public)
	}
	if !x25519.Shared(&dh, &sk, &peer) {
		return ErrOpen
	}
	extractAndExpand(suite.KEMX25519, shared, dh[:], enc, pk[:])
	clear(sk[:])
	clear(dh[:])
	return nil
}

func publicX448(dst, private []byte) []byte {
	var sk, pk x448.Key
	copy(sk[:], private)
	x448.KeyGen(&pk, &sk)
	clear(sk[:])
	return append(dst, pk[:]...)
}

// checkX448 refuses the points of small order, whose u-coordinates are 0, 1
// and p-1, of the curve and of its twist.
func checkX448(public []byte) error {
	var u, next fp448.Elt
	copy(u[:], public)
	one := fp448.One()
	fp448.Add(&next, &u, &one)
	fp448.Modp(&u)
	fp448.Modp(&next)
	if fp448.IsZero(&u) || u == one || fp448.IsZero(&next) {
		return ErrKey
	}
	return nil
}

func encapX448(shared *suite.Digest, out, seed, public []byte) error {
	var sk, pk, peer, dh x448.Key
	copy(sk[:], seed)
	copy(peer[:], public)
	x448.KeyGen(&pk, &sk)
	if !x448.Shared(&dh, &sk, &peer) {
		return ErrKey
	}
	copy(out, pk[:])
	extractAndExpand(suite.KEMX448, shared, dh[:], pk[:], public)
	clear(sk[:])
	clear(dh[:])
	return nil
}

func decapX448(shared *suite.Digest, private, public, enc []byte) error {
	var sk, pk, peer, dh x448.Key
	copy(sk[:], private)
	copy(peer[:], enc)
	if public == nil {
		x448.KeyGen(&pk, &sk)
	} else {
		copy(pk[:], public)
	}
	if !x448.Shared(&dh, &sk, &peer) {
		return ErrOpen
	}
	extractAndExpand(suite.KEMX448, shared, dh[:], enc, pk[:])
	clear(sk[:])
	clear(dh[:])
	return nil
}

// curveOf is the NIST curve of a KEM that is nothing else, or nil.
func curveOf(kem uint16) ecdh.Curve {
	switch kem {
	case suite.KEMP256:
		return ecdh.P256()
	case suite.KEMP384:
		return ecdh.P384()
	case suite.KEMP521:
		return ecdh.P521()
	}
	return nil
}

// maxCandidates is how many scalars DeriveKeyPair tries, RFC 9180 §7.1.3.
const maxCandidates = 256

// scalarNIST is DeriveKeyPair for the NIST curves, RFC 9180 §7.1.3.
func scalarNIST(kem uint16, ikm []byte) (*ecdh.PrivateKey, error) {
	k := kdfOf(kem)
	id := kemID(kem)
	size := sizesOf(kem).private
	var prk suite.Digest
	id.extract(k, prk[:0], nil, "dkp_prk", ikm, nil)
	defer clear(prk[:])
	var room [66]byte
	for i := range maxCandidates {
		counter := [1]byte{byte(i)}
		candidate := id.expand(k, room[:0], prk[:k.Size()], "candidate", counter[:], size)
		if kem == suite.KEMP521 {
			candidate[0] &= 1
		}
		if key, err := curveOf(kem).NewPrivateKey(candidate); err == nil {
			return key, nil
		}
	}
	return nil, ErrSeed
}

func deriveNIST(kem uint16, ikm []byte) (private, public []byte, err error) {
	key, err := scalarNIST(kem, ikm)
	if err != nil {
		return nil, nil, err
	}
	return key.Bytes(), key.PublicKey().Bytes(), nil
}

// readScalar reads a private key of a NIST curve and puts back the leading
// zeros that it lacks.
func readScalar(kem uint16, private []byte) (*ecdh.PrivateKey, error) {
	var room [66]byte
	whole := room[:sizesOf(kem).private]
	copy(whole[len(whole)-len(private):], private)
	key, err := curveOf(kem).NewPrivateKey(whole)
	clear(whole)
	if err != nil {
		return nil, ErrKey
	}
	return key, nil
}

func publicNIST(kem uint16, dst, private []byte) ([]byte, error) {
	key, err := readScalar(kem, private)
	if err != nil {
		return nil, err
	}
	return append(dst, key.PublicKey().Bytes()...), nil
}

func checkNIST(kem uint16, public []byte) error {
	if _, err := curveOf(kem).NewPublicKey(public); err != nil {
		return ErrKey
	}
	return nil
}

func encapNIST(kem uint16, shared *suite.Digest, out, seed, public []byte) error {
	peer, err := curveOf(kem).NewPublicKey(public)
	if err != nil {
		return ErrKey
	}
	key, err := scalarNIST(kem, seed)
	if err != nil {
		return err
	}
	dh, err := key.ECDH(peer)
	if err != nil {
		return ErrKey
	}
	copy(out, key.PublicKey().Bytes())
	extractAndExpand(kem, shared, dh, out, public)
	clear(dh)
	return nil
}

// decapNIST has no use for a given public key: the standard library computes
// it anyway.
func decapNIST(kem uint16, shared *suite.Digest, private, enc []byte) error {
	peer, err := curveOf(kem).NewPublicKey(enc)
	if err != nil {
		return ErrOpen
	}
	key, err := readScalar(kem, private)
	if err != nil {
		return err
	}
	dh, err := key.ECDH(peer)
	if err != nil {
		return ErrOpen
	}
	extractAndExpand(kem, shared, dh, enc, key.PublicKey().Bytes())
	clear(dh)
	return nil
}
