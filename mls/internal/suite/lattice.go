package suite

import (
	"github.com/cloudflare/circl/sign"
	"github.com/cloudflare/circl/sign/mldsa/mldsa44"
	"github.com/cloudflare/circl/sign/mldsa/mldsa65"
	"github.com/cloudflare/circl/sign/mldsa/mldsa87"
)

// latticeSeed is the length in octets of a private key of ML-DSA: the seed ξ
// of FIPS 204, not the expanded key.
const latticeSeed = 32

// lattice is the parameter set of an ML-DSA scheme, FIPS 204. Without options
// it signs as draft-ietf-tls-mldsa has it: in the deterministic variant, with
// the empty context.
func (g Signature) lattice() sign.Scheme {
	switch g {
	case MLDSA44:
		return mldsa44.Scheme()
	case MLDSA65:
		return mldsa65.Scheme()
	}
	return mldsa87.Scheme()
}

func publicLattice(l sign.Scheme, private []byte) ([]byte, error) {
	if len(private) != latticeSeed {
		return nil, ErrKey
	}
	key, _ := l.DeriveKey(private)
	return key.MarshalBinary()
}

func signLattice(l sign.Scheme, dst, private, message []byte) ([]byte, error) {
	if len(private) != latticeSeed {
		return nil, ErrKey
	}
	_, key := l.DeriveKey(private)
	return append(dst, l.Sign(key, message, nil)...), nil
}

// verifyLattice checks the length of the signature itself, as circl looks at
// its first octets only.
func verifyLattice(l sign.Scheme, public, message, signature []byte) bool {
	if len(signature) != l.SignatureSize() {
		return false
	}
	key, err := l.UnmarshalBinaryPublicKey(public)
	return err == nil && l.Verify(key, message, signature, nil)
}
