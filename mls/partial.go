package mls

import (
	"bytes"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// maxHeight is the height of the highest tree whose nodes have 32-bit indexes:
// a proof may be of a tree that is larger than MaxMembers, as it grows with
// the height alone.
const maxHeight = maxPath - 1

// MembershipProof proves that a leaf is at its place in a tree of which only
// the tree hash is known: the leaf's direct path, and the tree hashes beside
// it, draft-ietf-mls-partial-02 §6.
type MembershipProof struct {
	Leaf    uint32        // leaf index
	Leaves  uint32        // width of the tree, a power of two
	Node    *LeafNode     // the leaf, never nil
	Parents []*ParentNode // from the leaf's parent to the root; nil: blank
	Copath  [][]byte      // tree hashes of the siblings, the leaf's first; as many as Parents
}

// MembershipProof proves the membership of the leaf with this index. It fails
// under rule 125 if the leaf is blank or outside of the tree.
func (t *Tree) MembershipProof(leaf uint32) (*MembershipProof, error) {
	node := t.Leaf(leaf)
	if node == nil {
		return nil, refuse(RuleMembershipProof, "leaf %d is blank or outside of the tree", leaf)
	}
	height := nodeLevel(t.Root())
	m := &MembershipProof{
		Leaf: leaf, Leaves: t.Leaves(), Node: node,
		Parents: make([]*ParentNode, 0, height),
		Copath:  make([][]byte, 0, height),
	}
	for level := range height {
		m.Copath = append(m.Copath, t.NodeHash(siblingNode(nodeAbove(leaf, level))))
		m.Parents = append(m.Parents, t.Parent(nodeAbove(leaf, level+1)))
	}
	return m, nil
}

// ParseMembershipProof reads a MembershipProof; it aliases b. Refusals: rule
// 125 for one that has not the shape of a direct path.
func ParseMembershipProof(b []byte) (*MembershipProof, error) {
	r := codec.NewReader(b)
	m := readMembershipProof(&r)
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return m, nil
}

// readMembershipProof reads a proof of the right shape.
func readMembershipProof(r *codec.Reader) *MembershipProof {
	m := &MembershipProof{Leaf: r.Uint32(), Leaves: r.Uint32()}
	nodes := r.Sub()
	for n := 0; nodes.Len() > 0; n++ {
		if n > maxHeight {
			nodes.Fail(int(RuleBounds), "a direct path is longer than any tree is high")
			break
		}
		m.readNode(&nodes, n)
	}
	r.Join(&nodes)
	hashes := r.Sub()
	for hashes.Len() > 0 {
		if len(m.Copath) == maxHeight {
			hashes.Fail(int(RuleBounds), "a copath is longer than any tree is high")
			break
		}
		m.Copath = append(m.Copath, hashes.Vec())
	}
	r.Join(&hashes)
	if r.Err() == nil {
		if what := m.misshapen(); what != "" {
			r.Fail(int(RuleMembershipProof), what)
		}
	}
	return m
}

// readNode reads node n of the direct path: a leaf, then parents.
func (m *MembershipProof) readNode(r *codec.Reader, n int) {
	if !r.Optional() {
		if n > 0 {
			m.Parents = append(m.Parents, nil)
		}
		return
	}
	kind := r.Uint8()
	switch {
	case r.Err() != nil:
	case n == 0 && kind == nodeLeaf:
		m.Node = readLeafNode(r)
	case n > 0 && kind == nodeParent:
		m.Parents = append(m.Parents, readParentNode(r))
	default:
		r.Fail(int(RuleMembershipProof), "a direct path is one leaf and then parents")
	}
}

// misshapen says what is wrong with the shape of the proof, or nothing.
func (m *MembershipProof) misshapen() string {
	switch {
	case m.Node == nil:
		return "the leaf is blank"
	case m.Leaves == 0 || m.Leaves&(m.Leaves-1) != 0:
		return "the number of leaves is no power of two"
	case m.Leaf >= m.Leaves:
		return "the leaf is outside of the tree"
	case uint32(len(m.Parents)) > maxHeight || m.Leaves != 1<<len(m.Parents):
		return "the direct path is not as long as the tree is high"
	case len(m.Copath) != len(m.Parents):
		return "the copath is not as long as the direct path"
	}
	return ""
}

// AppendTo appends the encoding.
func (m *MembershipProof) AppendTo(dst []byte) []byte {
	dst = codec.Uint32(codec.Uint32(dst, m.Leaf), m.Leaves)
	dst, mark := codec.Begin(dst)
	dst = m.Node.AppendTo(append(dst, 1, nodeLeaf))
	for _, p := range m.Parents {
		if dst = codec.AppendOptional(dst, p != nil); p != nil {
			dst = p.AppendTo(append(dst, nodeParent))
		}
	}
	dst, mark = codec.Begin(codec.End(dst, mark))
	for _, h := range m.Copath {
		dst = codec.AppendVec(dst, h)
	}
	return codec.End(dst, mark)
}

// TreeHash is the hash of the tree that the proof is of, RFC 9420 §7.8, or a
// refusal under rule 125 of a proof that is of no tree.
func (m *MembershipProof) TreeHash(s *suite.Suite) ([]byte, error) {
	if what := m.misshapen(); what != "" {
		return nil, refuse(RuleMembershipProof, "%s", what)
	}
	var room [suite.MaxHash]byte
	buf := appendLeafInput(make([]byte, 0, 512), m.Leaf, m.Node)
	hash := s.Hash(room[:0], buf)
	for level, p := range m.Parents {
		beside := m.Copath[level]
		if len(beside) != s.HashSize() {
			return nil, refuse(RuleMembershipProof, "a tree hash of %d octets", len(beside))
		}
		left, right := hash, beside
		if m.Leaf>>level&1 == 1 {
			left, right = beside, hash
		}
		buf = appendParentInput(buf[:0], p, left, right)
		hash = s.Hash(room[:0], buf)
	}
	return bytes.Clone(hash), nil
}

// Verify refuses under rule 125 a proof that is not of the tree with this
// hash, draft-ietf-mls-partial-02 §6.
func (m *MembershipProof) Verify(s *suite.Suite, treeHash []byte) error {
	got, err := m.TreeHash(s)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, treeHash) {
		return refuse(RuleMembershipProof, "leaf %d is proven for another tree hash", m.Leaf)
	}
	return nil
}

// SameTree refuses under rule 125 two proofs that are not of one tree, and
// returns the tree's hash, draft-ietf-mls-partial-02 §6.
func (m *MembershipProof) SameTree(s *suite.Suite, o *MembershipProof) ([]byte, error) {
	hash, err := m.TreeHash(s)
	if err != nil {
		return nil, err
	}
	if m.Leaves != o.Leaves {
		return nil, refuse(RuleMembershipProof, "proofs are of trees of %d and %d leaves", m.Leaves, o.Leaves)
	}
	if err := o.Verify(s, hash); err != nil {
		return nil, err
	}
	return hash, nil
}

// VerifyLeaf refuses under rule 39 a leaf that is not signed for its place in
// the group, RFC 9420 §7.2. A client that has no tree checks so the leaves
// that it relies on; that they are unique in the tree it cannot check.
func (m *MembershipProof) VerifyLeaf(s *suite.Suite, groupID []byte) error {
	if !m.Node.verifySignature(s, groupID, m.Leaf) {
		return refuse(RuleLeafSignature, "leaf %d", m.Leaf)
	}
	return nil
}
