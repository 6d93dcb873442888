package mls

import (
	"bytes"
	"math/bits"
	"slices"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// headerSize is the encoding of an MLSMessage's version and wire format.
const headerSize = 4

// SenderAuthenticated is a message with the proof that its sender is a
// member, for those who have no tree, draft-ietf-mls-partial-02 §7. The
// message is a Welcome, GroupInfo, PublicMessage or PrivateMessage; on the
// wire it stands without version and wire format.
type SenderAuthenticated struct {
	Message *Message
	Sender  *MembershipProof
}

// ParseSenderAuthenticated reads a SenderAuthenticatedMessage that carries a
// message of this wire format, which only the context tells. It aliases b,
// unless the message is a PublicMessage.
func ParseSenderAuthenticated(format WireFormat, b []byte) (*SenderAuthenticated, error) {
	if len(b) > MaxMessage {
		return nil, refuse(RuleBounds, "a message of %d octets", len(b))
	}
	if format < WirePublic || format > WireGroupInfo {
		return nil, refuse(RuleMembershipProof, "messages of wire format %d have no sender", format)
	}
	public := format == WirePublic
	if public { // what is signed begins with the header, and has to be in one piece
		b = append(AppendHeader(make([]byte, 0, headerSize+len(b)), format), b...)
	}
	r := codec.NewReader(b)
	m := newMessage(format)
	if public {
		r.Bytes(headerSize)
	}
	m.readBody(&r)
	if public {
		m.raw = r.Since(0)
	}
	a := &SenderAuthenticated{Message: m, Sender: readMembershipProof(&r)}
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return a, nil
}

// AppendTo appends the encoding.
func (a *SenderAuthenticated) AppendTo(dst []byte) []byte {
	from := len(dst)
	dst = a.Message.AppendTo(dst)
	dst = append(dst[:from], dst[from+headerSize:]...)
	return a.Sender.AppendTo(dst)
}

// VerifyPublic verifies a member's PublicMessage without a tree, RFC 9420
// §6.1 and draft-ietf-mls-partial-02 §7: the proof holds for the epoch's tree
// hash, the sender is at its leaf, and the leaf's key signed the message. The
// context is that of the message's epoch. Refusals: rules 9, 11, 13 and 125.
// The membership tag is left to those who have the key for it.
func (a *SenderAuthenticated) VerifyPublic(c *GroupContext) error {
	if a.Message.WireFormat != WirePublic {
		return refuse(RuleMembershipProof, "a message of wire format %d is not a PublicMessage", a.Message.WireFormat)
	}
	s, err := c.Suite.Params()
	if err != nil {
		return err
	}
	m := a.Message.Public
	if !bytes.Equal(m.Content.GroupID, c.GroupID) || m.Content.Epoch != c.Epoch {
		return refuse(RuleGroupAndEpoch, "epoch %d", m.Content.Epoch)
	}
	if m.Content.Sender.Type != SenderMember {
		return refuse(RuleMembershipProof, "the sender is not a member")
	}
	if err := a.Sender.Verify(s, c.TreeHash); err != nil {
		return err
	}
	if m.Content.Sender.Index != a.Sender.Leaf {
		return refuse(RuleSenderLeaf, "the sender is leaf %d, the proof is of leaf %d", m.Content.Sender.Index, a.Sender.Leaf)
	}
	return m.Verify(s, a.Sender.Node.SignatureKey, c.AppendTo(nil))
}

// VerifyGroupInfo verifies a GroupInfo without a tree: the proof holds for the
// tree hash in it, is of its signer, and the signer's key signed it,
// draft-ietf-mls-partial-02 §7, §8. Refusals: rules 98 and 125.
func (m *MembershipProof) VerifyGroupInfo(g *GroupInfo) error {
	s, err := g.Context.Suite.Params()
	if err != nil {
		return err
	}
	if err := m.Verify(s, g.Context.TreeHash); err != nil {
		return err
	}
	if g.Signer != m.Leaf {
		return refuse(RuleMembershipProof, "the signer is leaf %d, the proof is of leaf %d", g.Signer, m.Leaf)
	}
	return g.Verify(m.Node.SignatureKey)
}

// AnnotatedWelcome is a Welcome for one who takes no tree,
// draft-ietf-mls-partial-02 §8: with proofs for the signer of its GroupInfo
// and for the joiner.
type AnnotatedWelcome struct {
	Welcome *Welcome
	Sender  *MembershipProof
	Joiner  *MembershipProof
}

// AnnotateWelcome makes the AnnotatedWelcome for a joiner of the tree's
// epoch. It needs no secrets: a delivery service makes it. The Welcome may be
// cut down to the joiner with its method For.
func (t *Tree) AnnotateWelcome(w *Welcome, signer, joiner uint32) (*AnnotatedWelcome, error) {
	a := &AnnotatedWelcome{Welcome: w}
	var err error
	if a.Sender, err = t.MembershipProof(signer); err != nil {
		return nil, err
	}
	if a.Joiner, err = t.MembershipProof(joiner); err != nil {
		return nil, err
	}
	return a, nil
}

// ParseAnnotatedWelcome reads an AnnotatedWelcome; it aliases b.
func ParseAnnotatedWelcome(b []byte) (*AnnotatedWelcome, error) {
	if len(b) > MaxMessage {
		return nil, refuse(RuleBounds, "a message of %d octets", len(b))
	}
	r := codec.NewReader(b)
	a := &AnnotatedWelcome{Welcome: readWelcome(&r), Sender: readMembershipProof(&r), Joiner: readMembershipProof(&r)}
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return a, nil
}

// AppendTo appends the encoding.
func (a *AnnotatedWelcome) AppendTo(dst []byte) []byte {
	return a.Joiner.AppendTo(a.Sender.AppendTo(a.Welcome.AppendTo(dst)))
}

// Verify checks what a joiner without a tree checks once it has opened the
// Welcome: both proofs are of the tree in the GroupInfo, its signer signed it,
// and the joiner's leaf is that of its key package, draft-ietf-mls-partial-02
// §8. Refusals: rules 98, 99, 104 and 125.
func (a *AnnotatedWelcome) Verify(g *GroupInfo, k *KeyPackage) error {
	if g.Context.Suite != a.Welcome.Suite || k.Suite != a.Welcome.Suite || g.Context.Version != k.Version {
		return refuse(RuleWelcomeParameters, "version or suite of the GroupInfo, the Welcome and the KeyPackage")
	}
	s, err := g.Context.Suite.Params()
	if err != nil {
		return err
	}
	if _, err := a.Sender.SameTree(s, a.Joiner); err != nil {
		return err
	}
	if err := a.Sender.VerifyGroupInfo(g); err != nil {
		return err
	}
	if !bytes.Equal(a.Joiner.Node.AppendTo(nil), k.Leaf.AppendTo(nil)) {
		return refuse(RuleJoinerLeaf, "leaf %d is not that of the key package", a.Joiner.Leaf)
	}
	return nil
}

// AnnotatedCommit is a commit for one member who has no tree,
// draft-ietf-mls-partial-02 §10.
type AnnotatedCommit struct {
	Commit        *Message         // a PublicMessage or PrivateMessage
	Sender        *MembershipProof // in the tree before the commit; nil if the committer was no member
	TreeHashAfter []byte
	Resolution    uint32 // which ciphertext of the path's node is the receiver's
	HasResolution bool   // the commit has a path
	SenderAfter   *MembershipProof
	ReceiverAfter *MembershipProof
}

// CommitPlace is what a delivery service knows of a commit besides its message.
type CommitPlace struct {
	Committer uint32   // leaf index in the tree after the commit
	Path      bool     // the commit has a path; asked for only if it is a PrivateMessage
	Added     *LeafSet // leaves that it added, which its path was not encrypted to; nil: none
}

// AnnotateCommit makes the AnnotatedCommit for one receiver, a member before
// and after the commit. before and after are the trees of the two epochs. It
// needs no secrets: a delivery service makes it. Refusals: rule 125.
func AnnotateCommit(before, after *Tree, m *Message, at CommitPlace, receiver uint32) (*AnnotatedCommit, error) {
	a := &AnnotatedCommit{Commit: m, HasResolution: at.Path, TreeHashAfter: bytes.Clone(after.Hash())}
	external := false
	if m.WireFormat == WirePublic && m.Public.Content.Commit != nil {
		external = m.Public.Content.Sender.Type == SenderNewMemberCommit
		a.HasResolution = m.Public.Content.Commit.Path != nil
	}
	if before.Leaf(receiver) == nil || receiver == at.Committer || at.Added.Has(receiver) {
		return nil, refuse(RuleMembershipProof, "leaf %d is not of a member who receives the commit", receiver)
	}
	var err error
	if !external {
		if a.Sender, err = before.MembershipProof(at.Committer); err != nil {
			return nil, err
		}
	}
	if a.SenderAfter, err = after.MembershipProof(at.Committer); err != nil {
		return nil, err
	}
	if a.ReceiverAfter, err = after.MembershipProof(receiver); err != nil {
		return nil, err
	}
	if a.HasResolution {
		// The subtree beside the committer's path is the same in the
		// provisional tree, which the path was encrypted for.
		beside := nodeAbove(receiver, uint32(bits.Len32(receiver^at.Committer))-1)
		position, _, ok := after.ResolutionIndex(beside, receiver, at.Added, nil)
		if !ok {
			return nil, refuse(RuleMembershipProof, "the path is not encrypted to leaf %d", receiver)
		}
		a.Resolution = uint32(position)
	}
	if what := a.misplaced(); what != "" {
		return nil, refuse(RuleMembershipProof, "%s", what)
	}
	return a, nil
}

// ParseAnnotatedCommit reads an AnnotatedCommit; it aliases b. Refusals: rule
// 125 for fields that do not go together.
func ParseAnnotatedCommit(b []byte) (*AnnotatedCommit, error) {
	if len(b) > MaxMessage {
		return nil, refuse(RuleBounds, "a message of %d octets", len(b))
	}
	r := codec.NewReader(b)
	if v := Version(r.Uint16()); v != Version10 && r.Err() == nil {
		return nil, refuse(RuleMessage, "version %d is not known", v)
	}
	m := newMessage(WireFormat(r.Uint16()))
	if m.WireFormat != WirePublic && m.WireFormat != WirePrivate {
		r.Fail(int(RuleMembershipProof), "the message is neither public nor private")
	}
	m.readBody(&r)
	m.raw = r.Since(0)
	a := &AnnotatedCommit{Commit: m}
	if r.Optional() {
		a.Sender = readMembershipProof(&r)
	}
	a.TreeHashAfter = r.Vec()
	if a.HasResolution = r.Optional(); a.HasResolution {
		a.Resolution = r.Uint32()
	}
	a.SenderAfter, a.ReceiverAfter = readMembershipProof(&r), readMembershipProof(&r)
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	if what := a.misplaced(); what != "" {
		return nil, refuse(RuleMembershipProof, "%s", what)
	}
	return a, nil
}

// misplaced says which fields do not go together, or nothing.
func (a *AnnotatedCommit) misplaced() string {
	if a.Sender != nil && a.Sender.Leaf != a.SenderAfter.Leaf {
		return "the committer has two places"
	}
	if a.SenderAfter.Leaf == a.ReceiverAfter.Leaf {
		return "the committer receives its own commit"
	}
	if p := a.Commit.Private; p != nil {
		switch {
		case p.ContentType != ContentCommit:
			return "the message is not a commit"
		case a.Sender == nil:
			return "a member's commit has no proof of the committer's leaf"
		}
		return ""
	}
	c := &a.Commit.Public.Content
	switch {
	case c.Commit == nil:
		return "the message is not a commit"
	case c.Sender.Type != SenderMember && c.Sender.Type != SenderNewMemberCommit:
		return "the committer neither is nor becomes a member"
	case (c.Sender.Type == SenderMember) != (a.Sender != nil):
		return "the committer's leaf is proven if and only if it was a member"
	case a.Sender != nil && a.Sender.Leaf != c.Sender.Index:
		return "the proof is of another leaf than the committer's"
	case (c.Commit.Path != nil) != a.HasResolution:
		return "there is a resolution index if and only if there is a path"
	}
	return ""
}

// AppendTo appends the encoding.
func (a *AnnotatedCommit) AppendTo(dst []byte) []byte {
	dst = codec.AppendOptional(a.Commit.AppendTo(dst), a.Sender != nil)
	if a.Sender != nil {
		dst = a.Sender.AppendTo(dst)
	}
	dst = codec.AppendOptional(codec.AppendVec(dst, a.TreeHashAfter), a.HasResolution)
	if a.HasResolution {
		dst = codec.Uint32(dst, a.Resolution)
	}
	return a.ReceiverAfter.AppendTo(a.SenderAfter.AppendTo(dst))
}

// Verify checks the proofs, draft-ietf-mls-partial-02 §10: the committer's for
// the tree hash of the epoch, the other two for the tree hash after. That one
// is authenticated only by the confirmation tag. Refusals: rule 125.
func (a *AnnotatedCommit) Verify(s *suite.Suite, treeHash []byte) error {
	if a.Sender != nil {
		if err := a.Sender.Verify(s, treeHash); err != nil {
			return err
		}
	}
	hash, err := a.SenderAfter.SameTree(s, a.ReceiverAfter)
	if err != nil {
		return err
	}
	if !bytes.Equal(hash, a.TreeHashAfter) {
		return refuse(RuleMembershipProof, "the proofs are of another tree than that after the commit")
	}
	return nil
}

// CommitterKey is the key that signed the commit: that of the proven leaf, or
// of the path's leaf if the committer becomes a member by it, RFC 9420
// §12.4.3.2. The path is nil if there is none.
func (a *AnnotatedCommit) CommitterKey(path *UpdatePath) ([]byte, error) {
	switch {
	case a.Sender != nil:
		return a.Sender.Node.SignatureKey, nil
	case path != nil:
		return path.Leaf.SignatureKey, nil
	}
	return nil, refuse(RuleExternalCommit, "an external commit has no path")
}

// PathNodeKey is a node above the receiver to which a path gives a new key.
type PathNodeKey struct {
	Node      uint32 // node index
	PublicKey []byte
}

// PathShare is what a path holds for one receiver.
type PathShare struct {
	Secret Ciphertext    // the encrypted path secret
	Key    uint32        // index of the node whose private key opens it
	Nodes  []PathNodeKey // from the common ancestor to the root: what the path secrets derive to
}

// Share finds in a path what is for the receiver, draft-ietf-mls-partial-02
// §10. The commit has been verified. Where the receiver is unmerged at the
// next node that is not blank, its own leaf's key opens the secret, RFC 9420
// §4.1.1. Refusals: rules 79, 80 and 125.
func (a *AnnotatedCommit) Share(path *UpdatePath) (*PathShare, error) {
	if !a.HasResolution {
		return nil, refuse(RuleMembershipProof, "there is a path and no resolution index")
	}
	if !bytes.Equal(path.Leaf.AppendTo(nil), a.SenderAfter.Node.AppendTo(nil)) {
		return nil, refuse(RuleMembershipProof, "the committer's leaf is not that of the path")
	}
	receiver := a.ReceiverAfter.Leaf
	ancestor := bits.Len32(receiver^a.SenderAfter.Leaf) - 1 // its place in Parents
	if ancestor < 0 || ancestor >= len(a.SenderAfter.Parents) || ancestor >= len(a.ReceiverAfter.Parents) {
		return nil, refuse(RuleMembershipProof, "committer and receiver have no common ancestor")
	}
	share, next := &PathShare{Key: 2 * receiver}, 0
	for level, p := range a.SenderAfter.Parents {
		if p == nil {
			continue
		}
		if next == len(path.Nodes) || !bytes.Equal(path.Nodes[next].EncryptionKey, p.EncryptionKey) {
			return nil, refuse(RulePathLength, "the path is not the committer's filtered direct path")
		}
		if level == ancestor {
			n := &path.Nodes[next]
			if uint64(a.Resolution) >= uint64(n.Len()) {
				return nil, refuse(RulePathCiphertexts, "ciphertext %d of %d", a.Resolution, n.Len())
			}
			share.Secret = n.At(int(a.Resolution))
		}
		if level >= ancestor {
			share.Nodes = append(share.Nodes, PathNodeKey{nodeAbove(receiver, uint32(level)+1), p.EncryptionKey})
		}
		next++
	}
	if next != len(path.Nodes) || a.SenderAfter.Parents[ancestor] == nil {
		return nil, refuse(RulePathLength, "the path is not the committer's filtered direct path")
	}
	for level := ancestor - 1; level >= 0; level-- {
		if p := a.ReceiverAfter.Parents[level]; p != nil {
			if !slices.Contains(p.UnmergedLeaves, receiver) {
				share.Key = nodeAbove(receiver, uint32(level)+1)
			}
			break
		}
	}
	return share, nil
}
