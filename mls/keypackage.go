package mls

import (
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// Signer signs for a client or an external sender. It may live in other
// hardware: SignContent gives the octets that a signature covers.
type Signer interface {
	// PublicKey is the signature key in the suite's encoding, RFC 9420 §5.1.1.
	PublicKey() []byte
	// Sign is SignWithLabel, RFC 9420 §5.1.2.
	Sign(label string, content []byte) ([]byte, error)
}

// The labels of RFC 9420 §17.6.
const (
	labelFramedContent = "FramedContentTBS"
	labelLeafNode      = "LeafNodeTBS"
	labelKeyPackage    = "KeyPackageTBS"
	labelGroupInfo     = "GroupInfoTBS"
)

// KeyPackage is what a client leaves behind so that others can add it to
// groups, RFC 9420 §10.
type KeyPackage struct {
	Version    Version
	Suite      Suite
	InitKey    []byte // HPKE public key for the Welcome
	Leaf       *LeafNode
	Extensions Extensions
	Signature  []byte

	raw []byte
}

func (k *KeyPackage) appendUnsigned(dst []byte) []byte {
	dst = codec.Uint16(codec.Uint16(dst, uint16(k.Version)), uint16(k.Suite))
	dst = codec.AppendVec(dst, k.InitKey)
	dst = k.Leaf.AppendTo(dst)
	return k.Extensions.AppendTo(dst)
}

// AppendTo appends the encoding.
func (k *KeyPackage) AppendTo(dst []byte) []byte {
	if k.raw != nil {
		return append(dst, k.raw...)
	}
	return codec.AppendVec(k.appendUnsigned(dst), k.Signature)
}

// tbs is the KeyPackageTBS.
func (k *KeyPackage) tbs() []byte {
	if k.raw == nil {
		return k.appendUnsigned(nil)
	}
	return k.raw[:len(k.raw)-len(k.Signature)-codec.LengthSize(len(k.Signature))]
}

func readKeyPackage(r *codec.Reader) *KeyPackage {
	from := r.Offset()
	k := &KeyPackage{
		Version:    Version(r.Uint16()),
		Suite:      Suite(r.Uint16()),
		InitKey:    r.Vec(),
		Leaf:       readLeafNode(r),
		Extensions: readExtensions(r),
		Signature:  r.Vec(),
	}
	k.raw = r.Since(from)
	return k
}

// ParseKeyPackage reads a KeyPackage; it aliases b.
func ParseKeyPackage(b []byte) (*KeyPackage, error) {
	r := codec.NewReader(b)
	k := readKeyPackage(&r)
	return k, WireError(r.Finish())
}

// Ref is the KeyPackageRef, RFC 9420 §5.2.
func (k *KeyPackage) Ref() ([]byte, error) {
	s, err := k.Suite.Params()
	if err != nil {
		return nil, err
	}
	return s.RefHash(nil, "MLS 1.0 KeyPackage Reference", k.AppendTo(nil)), nil
}

// LastResort reports whether the client allows the key package to be used
// again when no other is left, draft-ietf-mls-extensions-10 §4.5, in either form.
func (k *KeyPackage) LastResort() bool {
	if _, ok := k.Extensions.Find(ExtLastResort); ok {
		return true
	}
	if data, ok := k.Extensions.Find(ExtAppDataDictionary); ok {
		if d, err := ParseAppData(data); err == nil {
			_, ok := d.Find(ComponentLastResort)
			return ok
		}
	}
	return false
}

// SignLeaf signs a leaf node and returns it as others will read it. The group
// and index are part of what is signed unless the leaf is a key package's.
func SignLeaf(by Signer, l *LeafNode, groupID []byte, index uint32) (*LeafNode, error) {
	unsigned := *l
	unsigned.raw = nil
	unsigned.SignatureKey = by.PublicKey()
	sig, err := by.Sign(labelLeafNode, unsigned.appendTBS(nil, groupID, index))
	if err != nil {
		return nil, err
	}
	unsigned.Signature = sig
	return ParseLeafNode(unsigned.AppendTo(nil))
}

// SignKeyPackage signs a key package whose leaf is signed.
func SignKeyPackage(by Signer, k *KeyPackage) (*KeyPackage, error) {
	unsigned := *k
	unsigned.raw = nil
	sig, err := by.Sign(labelKeyPackage, unsigned.appendUnsigned(nil))
	if err != nil {
		return nil, err
	}
	unsigned.Signature = sig
	return ParseKeyPackage(unsigned.AppendTo(nil))
}

// verifySignature checks a leaf's signature, RFC 9420 §7.2.
func (l *LeafNode) verifySignature(s *suite.Suite, groupID []byte, index uint32) bool {
	return s.Verify(l.SignatureKey, labelLeafNode, l.appendTBS(nil, groupID, index), l.Signature)
}
