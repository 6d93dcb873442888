package hpke

import (
	"crypto/ecdh"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/dh/x448"

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

// checkX25519 refuses the points of small order, whatever their encoding.
func checkX25519(public []byte) error {
	var one, pk, dh x25519.Key
	one[0] = 8
	copy(pk[:], public)
	if !x25519.Shared(&dh, &one, &pk) {
		return ErrKey
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

func checkX448(public []byte) error {
	var one, pk, dh x448.Key
	one[0] = 4
	copy(pk[:], public)
	if !x448.Shared(&dh, &one, &pk) {
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
