package suite

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"io"

	"github.com/cloudflare/circl/ecc/goldilocks"
	"github.com/cloudflare/circl/sign/ed448"
)

// Signature is a signature scheme by its number in the TLS registry.
type Signature uint16

// The schemes: RFC 8446 §4.2.3 and draft-ietf-tls-mldsa. ECDSA signatures are
// DER and hash the content with the hash of the scheme, which in some suites
// of draft-ietf-mls-pq-ciphersuites is not the hash of the suite; Ed25519 and
// Ed448 are the pure forms with no context; ML-DSA has the empty context.
const (
	ECDSAP256 Signature = 0x0403 // ecdsa_secp256r1_sha256
	ECDSAP384 Signature = 0x0503 // ecdsa_secp384r1_sha384
	ECDSAP521 Signature = 0x0603 // ecdsa_secp521r1_sha512
	Ed25519   Signature = 0x0807 // ed25519
	Ed448     Signature = 0x0808 // ed448
	MLDSA44   Signature = 0x0904 // mldsa44
	MLDSA65   Signature = 0x0905 // mldsa65
	MLDSA87   Signature = 0x0906 // mldsa87
)

// Of the two libraries with Ed25519 the standard one signs in 15 µs and
// verifies in 35 µs, circl in 15 and 34 µs (AMD EPYC, Go 1.26;
// BenchmarkEd25519); the standard one allocates nothing and is the more
// reviewed, so it is used. Ed448 and ML-DSA are in circl alone.

// MaxSignature is the longest signature in octets (ML-DSA-87).
const MaxSignature = 4627

// ErrKey is returned for a signature key, private or public, that is not a key
// of the scheme.
var ErrKey = errors.New("suite: not a signature key of this suite")

// curve returns what an ECDSA scheme is over: the curve, and the lengths in
// octets of a scalar and of an uncompressed point.
func (g Signature) curve() (c elliptic.Curve, scalar, point int) {
	switch g {
	case ECDSAP256:
		return elliptic.P256(), 32, 65
	case ECDSAP384:
		return elliptic.P384(), 48, 97
	case ECDSAP521:
		return elliptic.P521(), 66, 133
	}
	return nil, 0, 0
}

// publicSize is the length of a public key in octets, 0 for an unknown scheme.
func (g Signature) publicSize() int {
	switch g {
	case Ed25519:
		return ed25519.PublicKeySize
	case Ed448:
		return ed448.PublicKeySize
	case MLDSA44, MLDSA65, MLDSA87:
		return g.lattice().PublicKeySize()
	}
	_, _, point := g.curve()
	return point
}

// digest hashes content for an ECDSA scheme.
func (g Signature) digest(out *[MaxHash]byte, content []byte) []byte {
	switch g {
	case ECDSAP256:
		h := sha256.Sum256(content)
		return out[:copy(out[:], h[:])]
	case ECDSAP384:
		h := sha512.Sum384(content)
		return out[:copy(out[:], h[:])]
	}
	*out = sha512.Sum512(content)
	return out[:]
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

// SignContent appends the struct that is signed, RFC 9420 §5.1.2: the label
// with "MLS 1.0 " before it, and the content, both vectors.
func (s *Suite) SignContent(dst []byte, label string, content []byte) []byte {
	return s.signContent(dst, label, content, nil)
}

// signContent is SignContent of a content in two parts. Octets that are long,
// such as a commit with a path for thousands, are copied once and not first
// to each other.
func (s *Suite) signContent(dst []byte, label string, content, tail []byte) []byte {
	n := len(content) + len(tail)
	if need := len(dst) + len(label) + n + signExtra; need > cap(dst) {
		dst = append(make([]byte, 0, need), dst...)
	}
	return append(append(s.ContentHeader(dst, label, n), content...), tail...)
}

// ContentHeader appends SignContent up to the n octets of its content. The
// EncryptContext of §5.1.3 has the same form.
func (s *Suite) ContentHeader(dst []byte, label string, n int) []byte {
	return appendLength(appendLabel(dst, label), n)
}

// signRoom is the size of the stack buffer for SignContent with Ed25519: a
// framed message of a kilobyte or a key package fits. signExtra is the most
// that SignContent adds to label and content.
const (
	signRoom  = 2048
	signExtra = len(version) + 8
)

// GenerateSignatureKey draws a key pair from rand. The private key is: for
// Ed25519 and Ed448 seed || public key, which makes signing twice as fast as
// the seed alone; for ECDSA the scalar; for ML-DSA the 32-octet seed. A source
// that gives the same octets gives the same key.
func (s *Suite) GenerateSignatureKey(rand io.Reader) (private, public []byte, err error) {
	g := s.params.Signature
	switch g {
	case Ed25519:
		seed := make([]byte, ed25519.SeedSize)
		if _, err = io.ReadFull(rand, seed); err != nil {
			return nil, nil, err
		}
		private = ed25519.NewKeyFromSeed(seed)
		clear(seed)
		return private, append([]byte(nil), private[ed25519.SeedSize:]...), nil
	case Ed448:
		seed := make([]byte, ed448.SeedSize)
		if _, err = io.ReadFull(rand, seed); err != nil {
			return nil, nil, err
		}
		private = ed448.NewKeyFromSeed(seed)
		clear(seed)
		return private, append([]byte(nil), private[ed448.SeedSize:]...), nil
	case MLDSA44, MLDSA65, MLDSA87:
		private = make([]byte, latticeSeed)
		if _, err = io.ReadFull(rand, private); err != nil {
			return nil, nil, err
		}
		public, err = s.SignaturePublic(private)
		return private, public, err
	}
	return generateECDSA(g, rand)
}

// maxDraws bounds the search for a scalar below the order of a curve. A draw
// fails with probability below 2^-32 on P-256 and P-384; on P-521 the unused
// bits are cleared first.
const maxDraws = 128

func generateECDSA(g Signature, rand io.Reader) (private, public []byte, err error) {
	c, size, _ := g.curve()
	private = make([]byte, size)
	for range maxDraws {
		if _, err = io.ReadFull(rand, private); err != nil {
			return nil, nil, err
		}
		if g == ECDSAP521 {
			private[0] &= 1
		}
		var key *ecdsa.PrivateKey
		if key, err = ecdsa.ParseRawPrivateKey(c, private); err != nil {
			continue
		}
		public, err = key.PublicKey.Bytes()
		return private, public, err
	}
	return nil, nil, ErrKey
}

// SignaturePublic returns the public key of a private key: a seed, or seed ||
// public key, for Ed25519 and Ed448 (a public half that does not belong to the
// seed is ErrKey), the scalar for ECDSA, with or without its leading zeros,
// the seed for ML-DSA.
func (s *Suite) SignaturePublic(private []byte) ([]byte, error) {
	switch g := s.params.Signature; g {
	case Ed25519:
		key, ok := expandEd25519(private)
		if !ok {
			return nil, ErrKey
		}
		whole := ed25519.NewKeyFromSeed(key[:ed25519.SeedSize])
		if !whole.Equal(key) {
			return nil, ErrKey
		}
		return whole[ed25519.SeedSize:], nil
	case Ed448:
		key, ok := expandEd448(private)
		if !ok {
			return nil, ErrKey
		}
		whole := ed448.NewKeyFromSeed(key[:ed448.SeedSize])
		if !whole.Equal(key) {
			return nil, ErrKey
		}
		return whole[ed448.SeedSize:], nil
	case MLDSA44, MLDSA65, MLDSA87:
		return publicLattice(g.lattice(), private)
	default:
		key, err := g.scalar(private)
		if err != nil {
			return nil, err
		}
		return key.PublicKey.Bytes()
	}
}

// scalar reads a private key of ECDSA. Some libraries, and the published test
// vectors, write it without its leading zeros; these are put back.
func (g Signature) scalar(private []byte) (*ecdsa.PrivateKey, error) {
	c, size, _ := g.curve()
	if len(private) == 0 || len(private) > size {
		return nil, ErrKey
	}
	var room [66]byte
	whole := room[:size]
	copy(whole[size-len(private):], private)
	key, err := ecdsa.ParseRawPrivateKey(c, whole)
	clear(whole)
	if err != nil {
		return nil, ErrKey
	}
	return key, nil
}

func expandEd25519(private []byte) (ed25519.PrivateKey, bool) {
	switch len(private) {
	case ed25519.SeedSize:
		return ed25519.NewKeyFromSeed(private), true
	case ed25519.PrivateKeySize:
		return private, true
	}
	return nil, false
}

func expandEd448(private []byte) (ed448.PrivateKey, bool) {
	switch len(private) {
	case ed448.SeedSize:
		return ed448.NewKeyFromSeed(private), true
	case ed448.PrivateKeySize:
		return private, true
	}
	return nil, false
}

// Sign is SignWithLabel, RFC 9420 §5.1.2; it appends the signature to dst. The
// private key has one of the forms that SignaturePublic takes. Every scheme is
// used in its deterministic form (ECDSA as of RFC 6979), so that the same input
// gives the same signature and a weak source of randomness cannot give a key
// away. With Ed25519, content shorter than signRoom and the long form of the
// private key it allocates nothing beyond dst.
func (s *Suite) Sign(dst, private []byte, label string, content []byte) ([]byte, error) {
	g := s.params.Signature
	if g == Ed25519 {
		return s.signEd25519(dst, private, label, content)
	}
	message := s.SignContent(make([]byte, 0, len(label)+len(content)+signExtra), label, content)
	switch g {
	case Ed448:
		key, ok := expandEd448(private)
		if !ok {
			return nil, ErrKey
		}
		return append(dst, ed448.Sign(key, message, "")...), nil
	case MLDSA44, MLDSA65, MLDSA87:
		return signLattice(g.lattice(), dst, private, message)
	}
	key, err := g.scalar(private)
	if err != nil {
		return nil, err
	}
	var hash [MaxHash]byte
	signature, err := key.Sign(nil, g.digest(&hash, message), g.hash())
	if err != nil {
		return nil, err
	}
	return append(dst, signature...), nil
}

// signEd25519 stands apart so that its buffer stays on the stack.
func (s *Suite) signEd25519(dst, private []byte, label string, content []byte) ([]byte, error) {
	var room [signRoom]byte
	message := s.SignContent(room[:0], label, content)
	if len(private) == ed25519.PrivateKeySize {
		return append(dst, ed25519.Sign(private, message)...), nil
	}
	if len(private) != ed25519.SeedSize {
		return nil, ErrKey
	}
	return append(dst, ed25519.Sign(ed25519.NewKeyFromSeed(private), message)...), nil
}

// Verify is VerifyWithLabel, RFC 9420 §5.1.2. A key or a signature that is
// malformed is a signature that does not verify.
func (s *Suite) Verify(public []byte, label string, content, signature []byte) bool {
	return s.Verify2(public, label, content, nil, signature)
}

// Verify2 is Verify of a content in two parts, which need not be put together
// before.
func (s *Suite) Verify2(public []byte, label string, content, tail, signature []byte) bool {
	g := s.params.Signature
	if len(public) != g.publicSize() || len(signature) > MaxSignature {
		return false
	}
	if g == Ed25519 {
		return s.verifyEd25519(public, label, content, tail, signature)
	}
	message := s.signContent(nil, label, content, tail)
	switch g {
	case Ed448:
		return len(signature) == ed448.SignatureSize && !isSmall448(public) && !isSmall448(signature) &&
			ed448.Verify(public, message, signature, "")
	case MLDSA44, MLDSA65, MLDSA87:
		return verifyLattice(g.lattice(), public, message, signature)
	}
	c, _, _ := g.curve()
	key, err := ecdsa.ParseUncompressedPublicKey(c, public)
	if err != nil {
		return false
	}
	var hash [MaxHash]byte
	return ecdsa.VerifyASN1(key, g.digest(&hash, message), signature)
}

// verifyEd25519 stands apart so that its buffer stays on the stack.
func (s *Suite) verifyEd25519(public []byte, label string, content, tail, signature []byte) bool {
	if len(signature) != ed25519.SignatureSize || isSmall25519(public) || isSmall25519(signature[:32]) {
		return false
	}
	var room [signRoom]byte
	return ed25519.Verify(public, s.signContent(room[:0], label, content, tail), signature)
}

// CheckSignatureKey refuses a public key that is malformed: a wrong length, or
// a point that is not on the curve (NIST curves, Ed448), or one of small order
// (Ed25519, Ed448). Whether a key of Ed25519 is on the curve is not checked
// here, and of ML-DSA the length is all that is; a key that does not decode
// verifies nothing.
func (s *Suite) CheckSignatureKey(public []byte) error {
	g := s.params.Signature
	if len(public) != g.publicSize() {
		return ErrKey
	}
	switch g {
	case Ed25519:
		if isSmall25519(public) {
			return ErrKey
		}
	case Ed448:
		if _, err := goldilocks.FromBytes(public); err != nil || isSmall448(public) {
			return ErrKey
		}
	case ECDSAP256, ECDSAP384, ECDSAP521:
		if _, err := g.exchange().NewPublicKey(public); err != nil {
			return ErrKey
		}
	}
	return nil
}

// exchange is the same curve for key agreement, whose parser is the faster.
func (g Signature) exchange() ecdh.Curve {
	switch g {
	case ECDSAP256:
		return ecdh.P256()
	case ECDSAP384:
		return ecdh.P384()
	}
	return ecdh.P521()
}
