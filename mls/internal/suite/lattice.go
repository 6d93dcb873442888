package suite

import (
	"crypto"

	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

// latticeSeed is the length in octets of a private key of ML-DSA: the seed ξ
// of FIPS 204, not the expanded key.
const latticeSeed = 32

// lattice is one parameter set of ML-DSA (FIPS 204). Signing is the
// deterministic variant with the empty context, draft-ietf-tls-mldsa.
type lattice struct {
	public, signature int // octets
	publicOf          func(private []byte) ([]byte, error)
	sign              func(dst, private, message []byte) ([]byte, error)
	verify            func(public, message, signature []byte) bool
}

// lattice returns the parameter set of an ML-DSA scheme.
func (g Signature) lattice() *lattice {
	switch g {
	case MLDSA44:
		return &lattice44
	case MLDSA65:
		return &lattice65
	}
	return &lattice87
}

// hash names the hash function of an ECDSA scheme.
func (g Signature) hash() crypto.Hash {
	switch g {
	case ECDSAP256:
		return crypto.SHA256
	case ECDSAP384:
		return crypto.SHA384
	}
	return crypto.SHA512
}

// seedOf checks the length of a private key and copies it into an array.
func seedOf(private []byte) (seed [latticeSeed]byte, err error) {
	if len(private) != latticeSeed {
		return seed, ErrKey
	}
	copy(seed[:], private)
	return seed, nil
}

var lattice44 = lattice{
	public: mldsa44.PublicKeySize, signature: mldsa44.SignatureSize,
	publicOf: func(private []byte) ([]byte, error) {
		seed, err := seedOf(private)
		if err != nil {
			return nil, err
		}
		key, _ := mldsa44.NewKeyFromSeed(&seed)
		return key.Bytes(), nil
	},
	sign: func(dst, private, message []byte) ([]byte, error) {
		seed, err := seedOf(private)
		if err != nil {
			return nil, err
		}
		_, key := mldsa44.NewKeyFromSeed(&seed)
		var out [mldsa44.SignatureSize]byte
		if err := mldsa44.SignTo(key, message, nil, false, out[:]); err != nil {
			return nil, err
		}
		return append(dst, out[:]...), nil
	},
	verify: func(public, message, signature []byte) bool {
		var key mldsa44.PublicKey
		return len(signature) == mldsa44.SignatureSize &&
			key.UnmarshalBinary(public) == nil && mldsa44.Verify(&key, message, nil, signature)
	},
}

var lattice65 = lattice{
	public: mldsa65.PublicKeySize, signature: mldsa65.SignatureSize,
	publicOf: func(private []byte) ([]byte, error) {
		seed, err := seedOf(private)
		if err != nil {
			return nil, err
		}
		key, _ := mldsa65.NewKeyFromSeed(&seed)
		return key.Bytes(), nil
	},
	sign: func(dst, private, message []byte) ([]byte, error) {
		seed, err := seedOf(private)
		if err != nil {
			return nil, err
		}
		_, key := mldsa65.NewKeyFromSeed(&seed)
		var out [mldsa65.SignatureSize]byte
		if err := mldsa65.SignTo(key, message, nil, false, out[:]); err != nil {
			return nil, err
		}
		return append(dst, out[:]...), nil
	},
	verify: func(public, message, signature []byte) bool {
		var key mldsa65.PublicKey
		return len(signature) == mldsa65.SignatureSize &&
			key.UnmarshalBinary(public) == nil && mldsa65.Verify(&key, message, nil, signature)
	},
}

var lattice87 = lattice{
	public: mldsa87.PublicKeySize, signature: mldsa87.SignatureSize,
	publicOf: func(private []byte) ([]byte, error) {
		seed, err := seedOf(private)
		if err != nil {
			return nil, err
		}
		key, _ := mldsa87.NewKeyFromSeed(&seed)
		return key.Bytes(), nil
	},
	sign: func(dst, private, message []byte) ([]byte, error) {
		seed, err := seedOf(private)
		if err != nil {
			return nil, err
		}
		_, key := mldsa87.NewKeyFromSeed(&seed)
		var out [mldsa87.SignatureSize]byte
		if err := mldsa87.SignTo(key, message, nil, false, out[:]); err != nil {
			return nil, err
		}
		return append(dst, out[:]...), nil
	},
	verify: func(public, message, signature []byte) bool {
		var key mldsa87.PublicKey
		return len(signature) == mldsa87.SignatureSize &&
			key.UnmarshalBinary(public) == nil && mldsa87.Verify(&key, message, nil, signature)
	},
}
