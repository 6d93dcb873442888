package mls

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

const proofSuite = X25519AES128SHA256Ed25519

var proofGroup = []byte("a large group")

// keyNamed is an encryption key that stands for its name: nobody encrypts to it.
func keyNamed(name string, n int) []byte {
	h := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(name), uint64(n)))
	return h[:]
}

// namedLeaf is the signed leaf of a member.
func namedLeaf(t testing.TB, by Signer, n int, source LeafSource, parentHash []byte, index uint32) *LeafNode {
	t.Helper()
	l, err := SignLeaf(by, &LeafNode{
		EncryptionKey: keyNamed(fmt.Sprint("leaf ", source, " ", index), n),
		Credential:    BasicCredential([]byte(fmt.Sprint("member ", n))),
		Capabilities:  NewCapabilities([]Version{Version10}, []Suite{proofSuite}, nil, nil, []CredentialType{CredentialBasic}),
		Source:        source,
		ParentHash:    parentHash,
	}, proofGroup, index)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// provenTree is a tree whose members have their leaf's index in by.
type provenTree struct {
	*Tree
	by []*keySigner
}

// newProvenTree has n members, of whom some have committed and some have left.
func newProvenTree(t testing.TB, n int) *provenTree {
	t.Helper()
	s, err := proofSuite.Params()
	if err != nil {
		t.Fatal(err)
	}
	p := &provenTree{Tree: NewTree(s)}
	for i := range n {
		p.add(t, i)
		if i%3 == 2 {
			p.path(t, uint32(i/2), i, nil)
		}
	}
	for i := 1; i < n-1; i += 5 {
		p.Remove(uint32(i))
	}
	return p
}

// add puts member n on the leftmost blank leaf.
func (p *provenTree) add(t testing.TB, n int) uint32 {
	t.Helper()
	by := newSigner(t, proofSuite)
	at := p.Add(namedLeaf(t, by, n, LeafKeyPackage, nil, 0))
	for uint32(len(p.by)) <= at {
		p.by = append(p.by, nil)
	}
	p.by[at] = by
	return at
}

func (p *provenTree) clone() *provenTree {
	return &provenTree{p.Clone(), append([]*keySigner(nil), p.by...)}
}

// path gives leaf i a new path. What it is encrypted to stands in the
// ciphertexts in the clear, as a node index.
func (p *provenTree) path(t testing.TB, i uint32, n int, except *LeafSet) *UpdatePath {
	t.Helper()
	filtered := p.FilteredPath(i)
	var nodes []UpdatePathNode
	var keys [][]byte
	for _, f := range filtered {
		var secrets []Ciphertext
		for _, to := range p.Resolution(nil, f.Copath, except) {
			secrets = append(secrets, Ciphertext{[]byte("kem"), codec.Uint32(nil, to)})
		}
		key := keyNamed("parent", n<<20|int(f.Node))
		keys = append(keys, key)
		nodes = append(nodes, NewUpdatePathNode(key, secrets))
	}
	hash := p.SetPath(i, keys)
	leaf := namedLeaf(t, p.by[i], n, LeafCommit, hash, i)
	p.ReplaceLeaf(i, leaf)
	return &UpdatePath{Leaf: leaf, Nodes: nodes}
}

// TestMembershipProof proves every leaf of trees of many sizes, rule 125,
// draft-ietf-mls-partial-02 §6.
func TestMembershipProof(t *testing.T) {
	for _, n := range []int{1, 2, 3, 4, 5, 8, 9, 16, 21, 33} {
		tree := newProvenTree(t, n)
		var first *MembershipProof
		for i := range tree.Leaves() + 2 {
			m, err := tree.MembershipProof(i)
			if tree.Leaf(i) == nil {
				refused(t, fmt.Sprintf("%d members, blank leaf %d", n, i), err, RuleMembershipProof)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			b := m.AppendTo(nil)
			back, err := ParseMembershipProof(b)
			if err != nil || !bytes.Equal(back.AppendTo(nil), b) {
				t.Fatalf("%d members, leaf %d: read %v, %v", n, i, back, err)
			}
			if err := back.Verify(tree.Suite(), tree.Hash()); err != nil {
				t.Errorf("%d members, leaf %d: %v", n, i, err)
			}
			if err := back.VerifyLeaf(tree.Suite(), proofGroup); err != nil {
				t.Errorf("%d members, leaf %d: %v", n, i, err)
			}
			if first == nil {
				first = back
			}
			if hash, err := first.SameTree(tree.Suite(), back); err != nil || !bytes.Equal(hash, tree.Hash()) {
				t.Errorf("%d members, leaf %d: another tree, %v", n, i, err)
			}
		}
	}
	_, err := NewTree(newProvenTree(t, 1).Suite()).MembershipProof(0)
	refused(t, "empty tree", err, RuleMembershipProof)
}

// TestMembershipProofChanges changes every octet of a proof: it then is no
// proof, or one of another tree, draft-ietf-mls-partial-02 §6.
func TestMembershipProofChanges(t *testing.T) {
	tree := newProvenTree(t, 9)
	m, err := tree.MembershipProof(2)
	if err != nil {
		t.Fatal(err)
	}
	b := m.AppendTo(nil)
	for i := range b {
		changed := bytes.Clone(b)
		changed[i] ^= 0x41
		p, err := ParseMembershipProof(changed)
		if err != nil {
			if RuleOf(err) == 0 {
				t.Errorf("octet %d: %v", i, err)
			}
			continue
		}
		refused(t, fmt.Sprint("octet ", i), p.Verify(tree.Suite(), tree.Hash()), RuleMembershipProof)
	}
	for i := range b {
		if _, err := ParseMembershipProof(b[:i]); RuleOf(err) != RuleLength && RuleOf(err) != RuleMembershipProof {
			t.Errorf("%d octets of %d: %v", i, len(b), err)
		}
	}
}

// TestMembershipProofShape covers rule 125: the shape of a direct path,
// draft-ietf-mls-partial-02 §6.
func TestMembershipProofShape(t *testing.T) {
	tree := newProvenTree(t, 9)
	other := newProvenTree(t, 9)
	for _, c := range []struct {
		what   string
		change func(m *MembershipProof)
		parse  Rule
	}{
		{"leaf outside", func(m *MembershipProof) { m.Leaf = m.Leaves }, RuleMembershipProof},
		{"leaf far outside", func(m *MembershipProof) { m.Leaf = ^uint32(0) }, RuleMembershipProof},
		{"no leaves", func(m *MembershipProof) { m.Leaves = 0 }, RuleMembershipProof},
		{"no power of two", func(m *MembershipProof) { m.Leaves = 9 }, RuleMembershipProof},
		{"wider", func(m *MembershipProof) { m.Leaves *= 2 }, RuleMembershipProof},
		{"widest", func(m *MembershipProof) { m.Leaves = 1 << 31 }, RuleMembershipProof},
		{"short path", func(m *MembershipProof) { m.Parents = m.Parents[1:] }, RuleMembershipProof},
		{"short copath", func(m *MembershipProof) { m.Copath = m.Copath[1:] }, RuleMembershipProof},
		{"long path", func(m *MembershipProof) { m.Parents = make([]*ParentNode, maxHeight+1) }, RuleBounds},
		{"long copath", func(m *MembershipProof) { m.Copath = make([][]byte, maxHeight+1) }, RuleBounds},
		{"another place", func(m *MembershipProof) { m.Leaf ^= 1 }, 0},
		{"short hash", func(m *MembershipProof) { m.Copath[1] = m.Copath[1][1:] }, 0},
		{"blank parent", func(m *MembershipProof) { m.Parents[0] = nil }, 0},
		{"another leaf", func(m *MembershipProof) { m.Node = other.Leaf(2) }, 0},
	} {
		m, err := tree.MembershipProof(2)
		if err != nil || m.Parents[0] == nil {
			t.Fatalf("parents %v, %v", m.Parents, err)
		}
		c.change(m)
		refused(t, c.what+", verified", m.Verify(tree.Suite(), tree.Hash()), RuleMembershipProof)
		_, err = ParseMembershipProof(m.AppendTo(nil))
		refused(t, c.what+", parsed", err, c.parse)
	}
	m, _ := tree.MembershipProof(2)
	m.Node = nil
	refused(t, "no leaf", m.Verify(tree.Suite(), tree.Hash()), RuleMembershipProof)
	_, err := ParseMembershipProof([]byte{0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0})
	refused(t, "blank leaf", err, RuleMembershipProof)
	_, err = ParseMembershipProof([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0})
	refused(t, "no nodes", err, RuleMembershipProof)
	parent := (&ParentNode{}).AppendTo([]byte{1, nodeParent})
	_, err = ParseMembershipProof(append(codec.AppendVec([]byte{0, 0, 0, 0, 0, 0, 0, 1}, parent), 0))
	refused(t, "a parent for a leaf", err, RuleMembershipProof)
	one, err := tree.MembershipProof(2)
	if err != nil {
		t.Fatal(err)
	}
	two, err := other.MembershipProof(2)
	if err != nil {
		t.Fatal(err)
	}
	_, err = one.SameTree(tree.Suite(), two)
	refused(t, "two trees", err, RuleMembershipProof)
	two.Leaves = 32
	_, err = one.SameTree(tree.Suite(), two)
	refused(t, "two widths", err, RuleMembershipProof)
	refused(t, "leaf of another group", one.VerifyLeaf(tree.Suite(), []byte("x")), leafRule(one.Node))
}

// leafRule is what a leaf breaks that is looked at in another group: those of
// key packages belong to no group, RFC 9420 §7.2.
func leafRule(l *LeafNode) Rule {
	if l.Source == LeafKeyPackage {
		return 0
	}
	return RuleLeafSignature
}

// FuzzMembershipProof checks that what is read is written as it was, and that
// only one proof is of the tree.
func FuzzMembershipProof(f *testing.F) {
	tree := newProvenTree(f, 5)
	hash := bytes.Clone(tree.Hash())
	good := make(map[string]bool)
	for i, l := range tree.All() {
		m, err := tree.MembershipProof(i)
		if err != nil || l == nil {
			f.Fatal(err)
		}
		b := m.AppendTo(nil)
		good[string(b)] = true
		f.Add(b)
	}
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0})
	s := suite.Lookup(uint16(proofSuite))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMembershipProof(b)
		if err != nil {
			if RuleOf(err) == 0 {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(m.AppendTo(nil), b) {
			t.Fatalf("%x is written as %x", b, m.AppendTo(nil))
		}
		if err := m.Verify(s, hash); (err == nil) != good[string(b)] {
			t.Fatalf("%x: %v", b, err)
		}
	})
}

// BenchmarkMembershipProof makes and verifies proofs in a tree of 2^12 leaves.
func BenchmarkMembershipProof(b *testing.B) {
	s := suite.Lookup(uint16(proofSuite))
	tree := NewTree(s)
	by := newSigner(b, proofSuite)
	leaf := namedLeaf(b, by, 0, LeafKeyPackage, nil, 0)
	for range 1 << 12 {
		tree.Add(leaf)
	}
	hash := tree.Hash()
	b.Run("make", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := tree.MembershipProof(uint32(i) % (1 << 12)); err != nil {
				b.Fatal(err)
			}
		}
	})
	m, err := tree.MembershipProof(77)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("verify", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := m.Verify(s, hash); err != nil {
				b.Fatal(err)
			}
		}
	})
}
