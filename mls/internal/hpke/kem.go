package hpke

import (
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// sizes are the lengths of one KEM in octets.
type sizes struct {
	public, private int
	output          int // encapsulated key, Nenc
	secret          int // shared secret, Nsecret
	seed            int // randomness of one encapsulation
}

// sizesOf returns the lengths of a KEM: RFC 9180 §7.1, draft-ietf-hpke-pq. The
// seeds of the hybrids are the 32 octets of ML-KEM and what the random scalar
// of their curve takes; for P-256 that is three tries at 2^-32 each, as in the
// vectors of draft-ietf-hpke-pq.
func sizesOf(kem uint16) sizes {
	switch kem {
	case suite.KEMX25519:
		return sizes{32, 32, 32, 32, 32}
	case suite.KEMX448:
		return sizes{56, 56, 56, 64, 56}
	case suite.KEMP256:
		return sizes{65, 32, 65, 32, 32}
	case suite.KEMP384:
		return sizes{97, 48, 97, 48, 48}
	case suite.KEMP521:
		return sizes{133, 66, 133, 64, 66}
	case suite.KEMMLKEM768:
		return sizes{1184, 64, 1088, 32, 32}
	case suite.KEMMLKEM1024:
		return sizes{1568, 64, 1568, 32, 32}
	case suite.KEMMLKEM768P256:
		return sizes{1249, 32, 1153, 32, 32 + 96}
	case suite.KEMMLKEM1024P384:
		return sizes{1665, 32, 1665, 32, 32 + 48}
	}
	return sizes{1216, 32, 1120, 32, 32 + 32} // both X-Wings
}

// SeedSize is how many octets of randomness one encapsulation takes. The same
// number is right for the ikm of DeriveKeyPair.
func SeedSize(s *suite.Suite) int { return sizesOf(s.KEM()).seed }

// DeriveKeyPair derives a key pair from ikm of any length: RFC 9180 §7.1.3,
// draft-ietf-hpke-pq, and for suite.KEMXWing the X-Wing draft. RFC 9420 §7.4
// calls it with Nh octets.
func DeriveKeyPair(s *suite.Suite, ikm []byte) (private, public []byte, err error) {
	kem := s.KEM()
	z := sizesOf(kem)
	private = make([]byte, 0, z.private)
	switch kem {
	case suite.KEMX25519, suite.KEMX448:
		private = deriveScalar(kem, private, ikm)
	case suite.KEMP256, suite.KEMP384, suite.KEMP521:
		return deriveNIST(kem, ikm)
	case suite.KEMXWing:
		private = shakeOf(private, z.private, ikm)
	default:
		private = shakeLabeled(kem, private, z.private, ikm)
	}
	public, err = PublicKey(s, private)
	return private, public, err
}

// PublicKey returns the serialised public key of a private key of Nsk octets; a
// scalar of a NIST curve may lack its leading zeros.
func PublicKey(s *suite.Suite, private []byte) ([]byte, error) {
	kem := s.KEM()
	z := sizesOf(kem)
	if !privateLength(kem, len(private), z.private) {
		return nil, ErrKey
	}
	return publicKey(kem, make([]byte, 0, z.public), private)
}

// privateLength tells whether a private key may have n octets where size is
// the registered length: the scalars of the NIST curves come from some
// libraries, and in the published test vectors, without their leading zeros.
func privateLength(kem uint16, n, size int) bool {
	return n == size || n > 0 && n < size && curveOf(kem) != nil
}

// publicKey appends the public key of a private key of the right length.
func publicKey(kem uint16, dst, private []byte) ([]byte, error) {
	switch kem {
	case suite.KEMX25519:
		return publicX25519(dst, private), nil
	case suite.KEMX448:
		return publicX448(dst, private), nil
	case suite.KEMP256, suite.KEMP384, suite.KEMP521:
		return publicNIST(kem, dst, private)
	case suite.KEMMLKEM768, suite.KEMMLKEM1024:
		return publicMLKEM(levelOf(kem), dst, private), nil
	}
	return publicHybrid(kem, dst, private)
}

// CheckPublicKey refuses a public key of a wrong length, one that is a point
// off its curve, one of ML-KEM with a coefficient out of range (FIPS 203
// §7.2), and one of X25519 or X448 that gives everybody the secret zero.
func CheckPublicKey(s *suite.Suite, public []byte) error {
	kem := s.KEM()
	if len(public) != sizesOf(kem).public {
		return ErrKey
	}
	switch kem {
	case suite.KEMX25519:
		return checkX25519(public)
	case suite.KEMX448:
		return checkX448(public)
	case suite.KEMP256, suite.KEMP384, suite.KEMP521:
		return checkNIST(kem, public)
	case suite.KEMMLKEM768, suite.KEMMLKEM1024:
		return checkMLKEM(levelOf(kem), public)
	}
	return checkHybrid(kem, public)
}

// encapsulate writes the encapsulated key into out, which has its length, and
// returns the length of the shared secret.
func encapsulate(kem uint16, shared *suite.Digest, out, seed, public []byte) (int, error) {
	z := sizesOf(kem)
	if len(seed) != z.seed {
		return 0, ErrSeed
	}
	if len(public) != z.public {
		return 0, ErrKey
	}
	switch kem {
	case suite.KEMX25519:
		return z.secret, encapX25519(shared, out, seed, public)
	case suite.KEMX448:
		return z.secret, encapX448(shared, out, seed, public)
	case suite.KEMP256, suite.KEMP384, suite.KEMP521:
		return z.secret, encapNIST(kem, shared, out, seed, public)
	case suite.KEMMLKEM768, suite.KEMMLKEM1024:
		return z.secret, encapMLKEM(levelOf(kem), shared[:z.secret], out, seed, public)
	}
	return z.secret, encapHybrid(kem, shared, out, seed, public)
}

// decapsulate returns the length of the shared secret.
func decapsulate(kem uint16, shared *suite.Digest, private, public, enc []byte) (int, error) {
	z := sizesOf(kem)
	if !privateLength(kem, len(private), z.private) || (public != nil && len(public) != z.public) {
		return 0, ErrKey
	}
	if len(enc) != z.output {
		return 0, ErrOpen
	}
	switch kem {
	case suite.KEMX25519:
		return z.secret, decapX25519(shared, private, public, enc)
	case suite.KEMX448:
		return z.secret, decapX448(shared, private, public, enc)
	case suite.KEMP256, suite.KEMP384, suite.KEMP521:
		return z.secret, decapNIST(kem, shared, private, enc)
	case suite.KEMMLKEM768, suite.KEMMLKEM1024:
		decapMLKEM(levelOf(kem), shared[:z.secret], private, enc)
		return z.secret, nil
	}
	return z.secret, decapHybrid(kem, shared, private, enc)
}
