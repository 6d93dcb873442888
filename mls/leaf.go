package mls

import (
	"slices"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// Capabilities is what a client understands, RFC 9420 §7.2. It holds the
// encoding, which its methods read: a tree keeps one for each distinct
// encoding, however many members share it.
type Capabilities struct{ raw []byte }

// NewCapabilities makes capabilities. Types that every client understands are
// not listed in them, RFC 9420 §7.2.
func NewCapabilities(versions []Version, suites []Suite, extensions []ExtensionType, proposals []ProposalType, credentials []CredentialType) Capabilities {
	var raw []byte
	raw = codec.AppendVec(raw, []byte(NewList(versions...)))
	raw = codec.AppendVec(raw, []byte(NewList(suites...)))
	raw = codec.AppendVec(raw, []byte(NewList(extensions...)))
	raw = codec.AppendVec(raw, []byte(NewList(proposals...)))
	raw = codec.AppendVec(raw, []byte(NewList(credentials...)))
	return Capabilities{raw}
}

// IsZero reports whether these are no capabilities at all, not even empty lists.
func (c Capabilities) IsZero() bool { return c.raw == nil }

func readCapabilities(r *codec.Reader) Capabilities {
	from := r.Offset()
	for range 5 {
		readList(r)
	}
	return Capabilities{r.Since(from)}
}

// list is list number n of the five; the encoding was checked when it was read.
func (c Capabilities) list(n int) List {
	r := codec.NewReader(c.raw)
	for range n {
		r.Vec()
	}
	return List(r.Vec())
}

// Versions are the protocol versions.
func (c Capabilities) Versions() List { return c.list(0) }

// Suites are the cipher suites.
func (c Capabilities) Suites() List { return c.list(1) }

// Extensions are the extension types beside the default ones.
func (c Capabilities) Extensions() List { return c.list(2) }

// Proposals are the proposal types beside the default ones.
func (c Capabilities) Proposals() List { return c.list(3) }

// Credentials are the credential types.
func (c Capabilities) Credentials() List { return c.list(4) }

// SupportsExtension reports whether t is default or listed.
func (c Capabilities) SupportsExtension(t ExtensionType) bool {
	return t.Default() || c.Extensions().Has(uint16(t))
}

// SupportsProposal reports whether t is default or listed.
func (c Capabilities) SupportsProposal(t ProposalType) bool {
	return t.Default() || c.Proposals().Has(uint16(t))
}

// Credential names a client, RFC 9420 §5.3.
type Credential struct {
	Type CredentialType
	Data []byte // the content: the identity of a basic credential, the encoded chain of an X.509 one
}

// BasicCredential is a bare assertion of an identity, RFC 9420 §5.3.
func BasicCredential(identity []byte) Credential {
	return Credential{Type: CredentialBasic, Data: identity}
}

// X509Credential is a chain of DER certificates, the end entity's first, RFC 9420 §5.3.
func X509Credential(chain ...[]byte) Credential {
	var data []byte
	for _, c := range chain {
		data = codec.AppendVec(data, c)
	}
	return Credential{Type: CredentialX509, Data: data}
}

// Certificates are the DER certificates of an X.509 credential, the end entity's first.
func (c Credential) Certificates() ([][]byte, error) {
	r := codec.NewReader(c.Data)
	var out [][]byte
	for r.Len() > 0 {
		if len(out) == MaxCertificates {
			r.Fail(int(RuleBounds), "too many certificates")
		}
		out = append(out, r.Vec())
	}
	return out, WireError(r.Finish())
}

// Equal reports whether both are the same octets.
func (c Credential) Equal(o Credential) bool {
	return c.Type == o.Type && string(c.Data) == string(o.Data)
}

// AppendTo appends the encoding.
func (c Credential) AppendTo(dst []byte) []byte {
	return codec.AppendVec(codec.Uint16(dst, uint16(c.Type)), c.Data)
}

// readCredential reads a credential. One of an unknown type is taken as one
// vector, which is how every registered type is made.
func readCredential(r *codec.Reader) Credential {
	c := Credential{Type: CredentialType(r.Uint16()), Data: r.Vec()}
	if c.Type == CredentialX509 && r.Err() == nil {
		if _, err := c.Certificates(); err != nil {
			r.Fail(int(RuleOf(err)), "the chain of certificates cannot be read")
		}
	}
	return c
}

// Extension is an extension's type and content, RFC 9420 §13.4.
type Extension struct {
	Type ExtensionType
	Data []byte
}

// Extensions is a list of extensions, at most one of a type.
type Extensions []Extension

// Find returns the content of the extension of type t, and whether there is one.
func (e Extensions) Find(t ExtensionType) ([]byte, bool) {
	for i := range e {
		if e[i].Type == t {
			return e[i].Data, true
		}
	}
	return nil, false
}

// With returns a copy in which the extension of type t has this content.
func (e Extensions) With(t ExtensionType, data []byte) Extensions {
	out := make(Extensions, 0, len(e)+1)
	out = append(out, e...)
	for i := range out {
		if out[i].Type == t {
			out[i].Data = data
			return out
		}
	}
	return append(out, Extension{t, data})
}

// Without returns a copy that has no extension of type t.
func (e Extensions) Without(t ExtensionType) Extensions {
	var out Extensions
	for _, x := range e {
		if x.Type != t {
			out = append(out, x)
		}
	}
	return out
}

// AppendTo appends the encoding: a vector of extensions.
func (e Extensions) AppendTo(dst []byte) []byte {
	// Sized first: a tree of megabytes may be among them.
	n := e.size()
	dst = codec.AppendLength(slices.Grow(dst, vectorSize(n)), n)
	for _, x := range e {
		dst = codec.AppendVec(codec.Uint16(dst, uint16(x.Type)), x.Data)
	}
	return dst
}

// size is the number of octets of the encoding without its length.
func (e Extensions) size() (n int) {
	for i := range e {
		n += 2 + vectorSize(len(e[i].Data))
	}
	return n
}

// readExtensions reads a vector of extensions. RFC 9420 §13.4: at most one of a type.
func readExtensions(r *codec.Reader) Extensions {
	in := r.Sub()
	if in.Len() == 0 {
		r.Join(&in)
		return nil
	}
	count := 0
	for scan := in; scan.Len() > 0; count++ {
		scan.Uint16()
		scan.Vec()
	}
	if count > MaxExtensions {
		r.Fail(int(RuleBounds), "too many extensions")
		return nil
	}
	out := make(Extensions, 0, count)
	for in.Len() > 0 {
		x := Extension{Type: ExtensionType(in.Uint16()), Data: in.Vec()}
		if _, twice := out.Find(x.Type); twice {
			r.Fail(int(RuleDuplicateExtension), "two extensions of one type")
		}
		out = append(out, x)
	}
	r.Join(&in)
	return out
}

// Lifetime is when a key package may be used, RFC 9420 §7.2: seconds since the
// UNIX epoch, both ends included.
type Lifetime struct{ NotBefore, NotAfter uint64 }

// LeafNode is a member's node, RFC 9420 §7.2. One that was read or signed
// keeps its octets and is not changed any more.
type LeafNode struct {
	EncryptionKey []byte // of the suite's KEM
	SignatureKey  []byte // of the suite's signature scheme
	Credential    Credential
	Capabilities  Capabilities
	Source        LeafSource
	Lifetime      Lifetime // of a leaf from a key package
	ParentHash    []byte   // of a leaf from a commit
	Extensions    Extensions
	Signature     []byte

	raw []byte
}

// Raw are the octets of a leaf that was read or signed.
func (l *LeafNode) Raw() []byte { return l.raw }

// AppendTo appends the encoding.
func (l *LeafNode) AppendTo(dst []byte) []byte {
	if l.raw != nil {
		return append(dst, l.raw...)
	}
	return codec.AppendVec(l.appendUnsigned(dst), l.Signature)
}

func (l *LeafNode) appendUnsigned(dst []byte) []byte {
	dst = codec.AppendVec(dst, l.EncryptionKey)
	dst = codec.AppendVec(dst, l.SignatureKey)
	dst = l.Credential.AppendTo(dst)
	dst = append(dst, l.Capabilities.raw...)
	dst = append(dst, byte(l.Source))
	switch l.Source {
	case LeafKeyPackage:
		dst = codec.Uint64(codec.Uint64(dst, l.Lifetime.NotBefore), l.Lifetime.NotAfter)
	case LeafCommit:
		dst = codec.AppendVec(dst, l.ParentHash)
	}
	return l.Extensions.AppendTo(dst)
}

func readLeafNode(r *codec.Reader) *LeafNode {
	from := r.Offset()
	l := &LeafNode{
		EncryptionKey: r.Vec(),
		SignatureKey:  r.Vec(),
		Credential:    readCredential(r),
		Capabilities:  readCapabilities(r),
		Source:        LeafSource(r.Uint8()),
	}
	switch l.Source {
	case LeafKeyPackage:
		l.Lifetime = Lifetime{r.Uint64(), r.Uint64()}
	case LeafUpdate:
	case LeafCommit:
		l.ParentHash = r.Vec()
	default:
		r.Fail(int(RuleReservedValue), "leaf_node_source is reserved")
	}
	l.Extensions = readExtensions(r)
	l.Signature = r.Vec()
	if l.raw = r.Since(from); len(l.raw) > MaxLeafNode {
		r.Fail(int(RuleBounds), "a leaf node is too long")
	}
	return l
}

// ParseLeafNode reads a LeafNode; it aliases b.
func ParseLeafNode(b []byte) (*LeafNode, error) {
	r := codec.NewReader(b)
	l := readLeafNode(&r)
	return l, WireError(r.Finish())
}

// appendTBS appends the LeafNodeTBS, RFC 9420 §7.2: what the signature of a
// leaf covers. The group and the leaf's index are part of it for a leaf that
// was made inside a group.
func (l *LeafNode) appendTBS(dst []byte, groupID []byte, index uint32) []byte {
	if l.raw != nil {
		unsigned := len(l.raw) - len(l.Signature) - codec.LengthSize(len(l.Signature))
		dst = append(dst, l.raw[:unsigned]...)
	} else {
		dst = l.appendUnsigned(dst)
	}
	if l.Source == LeafKeyPackage {
		return dst
	}
	return codec.Uint32(codec.AppendVec(dst, groupID), index)
}

// ParentNode is an inner node, RFC 9420 §7.1.
type ParentNode struct {
	EncryptionKey  []byte
	ParentHash     []byte
	UnmergedLeaves []uint32 // leaf indexes, ascending
}

// AppendTo appends the encoding.
func (p *ParentNode) AppendTo(dst []byte) []byte {
	dst = codec.AppendVec(codec.AppendVec(dst, p.EncryptionKey), p.ParentHash)
	dst = codec.AppendLength(dst, 4*len(p.UnmergedLeaves))
	for _, leaf := range p.UnmergedLeaves {
		dst = codec.Uint32(dst, leaf)
	}
	return dst
}

func readParentNode(r *codec.Reader) *ParentNode {
	p := &ParentNode{EncryptionKey: r.Vec(), ParentHash: r.Vec()}
	in := r.Sub()
	if n := in.Len(); n > 0 {
		if n > 4*MaxMembers {
			r.Fail(int(RuleBounds), "too many unmerged leaves")
			return p
		}
		p.UnmergedLeaves = make([]uint32, 0, n/4)
		for in.Len() > 0 {
			p.UnmergedLeaves = append(p.UnmergedLeaves, in.Uint32())
		}
	}
	r.Join(&in)
	return p
}
