package mls

import (
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// GroupContext is what all members of an epoch agree on, RFC 9420 §8.1.
type GroupContext struct {
	Version                 Version
	Suite                   Suite
	GroupID                 []byte
	Epoch                   uint64
	TreeHash                []byte
	ConfirmedTranscriptHash []byte
	Extensions              Extensions
}

// AppendTo appends the encoding.
func (c *GroupContext) AppendTo(dst []byte) []byte {
	dst = codec.Uint16(codec.Uint16(dst, uint16(c.Version)), uint16(c.Suite))
	dst = codec.Uint64(codec.AppendVec(dst, c.GroupID), c.Epoch)
	dst = codec.AppendVec(codec.AppendVec(dst, c.TreeHash), c.ConfirmedTranscriptHash)
	return c.Extensions.AppendTo(dst)
}

func readGroupContext(r *codec.Reader) GroupContext {
	c := GroupContext{
		Version:                 Version(r.Uint16()),
		Suite:                   Suite(r.Uint16()),
		GroupID:                 r.Vec(),
		Epoch:                   r.Uint64(),
		TreeHash:                r.Vec(),
		ConfirmedTranscriptHash: r.Vec(),
		Extensions:              readExtensions(r),
	}
	if len(c.GroupID) > MaxGroupID || c.Extensions.size() > MaxContext {
		r.Fail(int(RuleBounds), "a GroupContext is too long")
	}
	return c
}

// ParseGroupContext reads a GroupContext; it aliases b.
func ParseGroupContext(b []byte) (*GroupContext, error) {
	r := codec.NewReader(b)
	c := readGroupContext(&r)
	return &c, WireError(r.Finish())
}

// GroupInfo tells a newcomer the state of a group, RFC 9420 §12.4.3.
type GroupInfo struct {
	Context         GroupContext
	Extensions      Extensions
	ConfirmationTag []byte
	Signer          uint32 // leaf index
	Signature       []byte

	raw []byte
}

func (g *GroupInfo) appendUnsigned(dst []byte) []byte {
	dst = g.Extensions.AppendTo(g.Context.AppendTo(dst))
	return codec.Uint32(codec.AppendVec(dst, g.ConfirmationTag), g.Signer)
}

// AppendTo appends the encoding.
func (g *GroupInfo) AppendTo(dst []byte) []byte {
	if g.raw != nil {
		return append(dst, g.raw...)
	}
	return codec.AppendVec(g.appendUnsigned(dst), g.Signature)
}

// tbs is the GroupInfoTBS.
func (g *GroupInfo) tbs() []byte {
	if g.raw == nil {
		return g.appendUnsigned(nil)
	}
	return g.raw[:len(g.raw)-len(g.Signature)-codec.LengthSize(len(g.Signature))]
}

// Sign signs the GroupInfo in place.
func (g *GroupInfo) Sign(by Signer) error {
	_, err := g.EncodeSigned(by)
	return err
}

// EncodeSigned signs the GroupInfo in place and returns its encoding, with
// room after it for an AEAD's tag: with a tree of megabytes inside, every copy
// that is saved is a tenth of what adding a member takes.
func (g *GroupInfo) EncodeSigned(by Signer) ([]byte, error) {
	g.raw = nil
	b := g.appendUnsigned(make([]byte, 0, g.Extensions.size()+infoRoom))
	var err error
	if g.Signature, err = by.Sign(labelGroupInfo, b); err != nil {
		return nil, err
	}
	return codec.AppendVec(b, g.Signature), nil
}

// infoRoom is for what a GroupInfo has beside its extensions.
const infoRoom = 1 << 13

// Verify checks the signature with the signer's key, RFC 9420 §12.4.3.1.
func (g *GroupInfo) Verify(signatureKey []byte) error {
	s, err := g.Context.Suite.Params()
	if err != nil {
		return err
	}
	if !s.Verify(signatureKey, labelGroupInfo, g.tbs(), g.Signature) {
		return refuse(RuleGroupInfoSignature, "the signer's key does not verify it")
	}
	return nil
}

// ExternalPub is the key for external commits, RFC 9420 §12.4.3.2, or nil.
func (g *GroupInfo) ExternalPub() ([]byte, error) {
	data, ok := g.Extensions.Find(ExtExternalPub)
	if !ok {
		return nil, nil
	}
	return ParseExternalPub(data)
}

func readGroupInfo(r *codec.Reader) *GroupInfo {
	from := r.Offset()
	g := &GroupInfo{
		Context:         readGroupContext(r),
		Extensions:      readExtensions(r),
		ConfirmationTag: r.Vec(),
		Signer:          r.Uint32(),
		Signature:       r.Vec(),
	}
	g.raw = r.Since(from)
	return g
}

// ParseGroupInfo reads a GroupInfo; it aliases b.
func ParseGroupInfo(b []byte) (*GroupInfo, error) {
	r := codec.NewReader(b)
	g := readGroupInfo(&r)
	return g, WireError(r.Finish())
}

// EncryptedGroupSecrets is one new member's part of a Welcome, RFC 9420 §12.4.3.1.
type EncryptedGroupSecrets struct {
	NewMember []byte // KeyPackageRef
	Secrets   Ciphertext
}

// Welcome brings new members into a group, RFC 9420 §12.4.3.1.
type Welcome struct {
	Suite              Suite
	Secrets            []EncryptedGroupSecrets
	EncryptedGroupInfo []byte
}

// AppendTo appends the encoding.
func (w *Welcome) AppendTo(dst []byte) []byte {
	dst, mark := codec.Begin(codec.Uint16(dst, uint16(w.Suite)))
	for i := range w.Secrets {
		dst = w.Secrets[i].Secrets.AppendTo(codec.AppendVec(dst, w.Secrets[i].NewMember))
	}
	return codec.AppendVec(codec.End(dst, mark), w.EncryptedGroupInfo)
}

// For is a Welcome that holds the secrets of one new member alone, so that a
// delivery service need not send all of them to each. It returns nil if the
// member is not in it.
func (w *Welcome) For(ref []byte) *Welcome {
	for _, s := range w.Secrets {
		if string(s.NewMember) == string(ref) {
			return &Welcome{Suite: w.Suite, Secrets: []EncryptedGroupSecrets{s}, EncryptedGroupInfo: w.EncryptedGroupInfo}
		}
	}
	return nil
}

func readWelcome(r *codec.Reader) *Welcome {
	w := &Welcome{Suite: Suite(r.Uint16())}
	in := r.Sub()
	count := 0
	for scan := in; scan.Len() > 0; count++ {
		scan.Vec()
		readCiphertext(&scan)
	}
	if count > MaxMembers {
		r.Fail(int(RuleBounds), "too many new members")
		return w
	}
	w.Secrets = make([]EncryptedGroupSecrets, 0, count)
	for in.Len() > 0 {
		w.Secrets = append(w.Secrets, EncryptedGroupSecrets{NewMember: in.Vec(), Secrets: readCiphertext(&in)})
	}
	r.Join(&in)
	w.EncryptedGroupInfo = r.Vec()
	return w
}
