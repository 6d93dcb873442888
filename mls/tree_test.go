package mls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// countingReader is a source of randomness that is the same every time.
type countingReader struct{ n byte }

func (r *countingReader) Read(b []byte) (int, error) {
	for i := range b {
		r.n += 37
		b[i] = r.n
	}
	return len(b), nil
}

// signedTree is a tree of members who signed their leaves and of whom each
// has committed, so that the tree is valid.
type signedTree struct {
	*Tree
	group   []byte
	private [][]byte
	rand    io.Reader
}

func newSignedTree(t *testing.T, id uint16, members int) *signedTree {
	t.Helper()
	g := &signedTree{Tree: NewTree(suite.Lookup(id)), group: []byte("group"), rand: &countingReader{}}
	for i := range uint32(members) {
		private, public, err := g.suite.GenerateSignatureKey(g.rand)
		if err != nil {
			t.Fatal(err)
		}
		g.private = append(g.private, private)
		l := *testLeaf(i, i, LeafKeyPackage, nil, CredentialBasic)
		l.SignatureKey = public
		g.Add(g.sign(t, i, l))
	}
	for i := range uint32(members) {
		g.commit(t, i)
	}
	return g
}

func (g *signedTree) sign(t *testing.T, i uint32, l LeafNode) *LeafNode {
	t.Helper()
	l.raw = nil
	signature, err := g.suite.Sign(nil, g.private[i], labelLeafNode, l.appendTBS(nil, g.group, i))
	if err != nil {
		t.Fatal(err)
	}
	l.Signature = signature
	return &l
}

func (g *signedTree) commit(t *testing.T, i uint32) {
	t.Helper()
	keys := make([][]byte, len(g.FilteredPath(i)))
	for k := range keys {
		_, public, err := hpke.DeriveKeyPair(g.suite, fmt.Appendf(nil, "key %d of a commit by %d", k, i))
		if err != nil {
			t.Fatal(err)
		}
		keys[k] = public
	}
	l := *g.Leaf(i)
	l.Source, l.ParentHash = LeafCommit, g.SetPath(i, keys)
	l.EncryptionKey = fmt.Appendf(nil, "leaf key of a commit by %d", i)
	g.ReplaceLeaf(i, g.sign(t, i, l))
}

func TestTreeValidateSignatures(t *testing.T) {
	for _, id := range []uint16{1, 2} {
		g := newSignedTree(t, id, 5)
		for _, p := range []Parallel{nil, twoAtOnce} {
			if err := g.Validate(g.group, p); err != nil {
				t.Fatal(err)
			}
		}
		// RFC 9420 §7.2: a leaf from a commit is signed for its group.
		err := g.Validate([]byte("another"), twoAtOnce)
		if RuleOf(err) != RuleTreeLeaf || !errors.Is(err, RuleLeafSignature.Err()) || !strings.Contains(fmt.Sprint(err), "leaf 0") {
			t.Errorf("in another group: %v", err)
		}
		// RFC 9180 §7.1.4: the keys of parents are keys.
		planted := g.Clone()
		commitTest(planted, 1)
		p := *planted.Parent(3)
		p.EncryptionKey = []byte("no key")
		planted.setParent(3, &p)
		if err := planted.eachParent(twoAtOnce, (*treeChecker).key); RuleOf(err) != RuleDHValidation {
			t.Errorf("with a parent whose key is none: %v", err)
		}
		// RFC 9420 §7.3: every leaf's signature is verified.
		bad := *g.Leaf(3)
		bad.Signature = slices.Clone(bad.Signature)
		bad.Signature[len(bad.Signature)-1] ^= 1
		g.ReplaceLeaf(3, &bad)
		g.Update(4, g.Leaf(4))
		if err := g.checkSignatures(g.group, nil); !errors.Is(err, RuleLeafSignature.Err()) || !strings.Contains(fmt.Sprint(err), "leaf 3") {
			t.Errorf("with a wrong signature: %v", err)
		}
	}
}

// RFC 9420 §7.2: a leaf from a commit or update is signed for its index, one
// from a key package is not.
func TestTreeValidateIndexInSignature(t *testing.T) {
	for _, c := range []struct {
		source LeafSource
		want   Rule
	}{{LeafKeyPackage, 0}, {LeafUpdate, RuleTreeLeaf}} {
		g := newSignedTree(t, 1, 3)
		l := *g.Leaf(1)
		l.Source, l.ParentHash = c.source, nil
		moved := g.sign(t, 1, l)
		tree := NewTree(g.suite)
		tree.Add(moved)
		if err := tree.Validate(g.group, nil); RuleOf(err) != c.want {
			t.Errorf("leaf 1 at 0, source %d: %v", c.source, err)
		}
	}
}

// oracleOf is the oracle of the same nodes, to be changed and written.
func oracleOf(t *Tree) *naiveTree {
	n := &naiveTree{s: t.suite, parents: map[uint32]*ParentNode{}}
	for i := range t.Leaves() {
		n.leaves = append(n.leaves, t.Leaf(i))
	}
	for node := range 2*t.Leaves() - 1 {
		if p := t.Parent(node); p != nil {
			n.parents[node] = p
		}
	}
	return n
}

// with changes a copy of a parent.
func (n *naiveTree) with(node uint32, change func(p *ParentNode)) {
	p := *n.parents[node]
	change(&p)
	n.parents[node] = &p
}

func (n *naiveTree) withLeaf(i uint32, change func(l *LeafNode)) {
	l := *n.leaves[i]
	l.raw = nil
	change(&l)
	n.leaves[i] = &l
}

func unmerged(leaves ...uint32) func(*ParentNode) {
	return func(p *ParentNode) { p.UnmergedLeaves = leaves }
}

// validityCases break one rule each in a valid tree of eight leaves. Leaves 5
// and 7 are unmerged at node 11 and at node 7, the root, which leaf 4 set;
// nodes 9 and 13 are blank.
var validityCases = []struct {
	name, section string
	rule          Rule
	change        func(n *naiveTree)
}{
	{"nothing", "", 0, func(n *naiveTree) {}},
	{"same signature key", "RFC 9420 §7.3", RuleMemberKeysUnique, func(n *naiveTree) {
		n.withLeaf(3, func(l *LeafNode) { l.SignatureKey = n.leaves[6].SignatureKey })
		n.parents = map[uint32]*ParentNode{}
	}},
	{"same encryption key", "RFC 9420 §7.3", RuleMemberKeysUnique, func(n *naiveTree) {
		n.withLeaf(3, func(l *LeafNode) { l.EncryptionKey = n.leaves[6].EncryptionKey })
		n.parents = map[uint32]*ParentNode{}
	}},
	{"parent with the key of a leaf", "RFC 9420 §12.4.3.1", RuleParentKeysUnique, func(n *naiveTree) {
		key := n.parents[7].EncryptionKey
		n.parents = map[uint32]*ParentNode{}
		n.withLeaf(6, func(l *LeafNode) { l.EncryptionKey = key })
		setOracle(n, 4, key)
	}},
	{"two parents with one key", "RFC 9420 §12.4.3.1", RuleParentKeysUnique, func(n *naiveTree) {
		n.parents = map[uint32]*ParentNode{}
		setOracle(n, 4, []byte("the same"))
	}},
	{"unmerged leaves not in order", "RFC 9420 §7.1", RuleUnmergedLeaves, func(n *naiveTree) { n.with(11, unmerged(7, 5)) }},
	{"unmerged leaf twice", "RFC 9420 §7.1", RuleUnmergedLeaves, func(n *naiveTree) { n.with(11, unmerged(5, 5, 7)) }},
	{"unmerged leaf not below", "RFC 9420 §12.4.3.1", RuleUnmergedLeaves, func(n *naiveTree) { n.with(11, unmerged(3, 5, 7)) }},
	{"unmerged leaf beyond the tree", "RFC 9420 §12.4.3.1", RuleUnmergedLeaves, func(n *naiveTree) { n.with(7, unmerged(5, 7, 1<<31+5)) }},
	{"unmerged leaf of the greatest index", "RFC 9420 §12.4.3.1", RuleUnmergedLeaves, func(n *naiveTree) { n.with(7, unmerged(5, 7, NoLeaf)) }},
	{"unmerged leaf blank", "RFC 9420 §12.4.3.1", RuleUnmergedLeaves, func(n *naiveTree) { n.leaves[5] = nil }},
	{"unmerged above and not between", "RFC 9420 §12.4.3.1", RuleUnmergedBelow, func(n *naiveTree) { n.with(11, unmerged(7)) }},
	{"unmerged between and not above", "RFC 9420 §7.9.2", RuleParentHash, func(n *naiveTree) { n.with(7, unmerged(7)) }},
	{"merged that was not", "RFC 9420 §7.9.2", RuleParentHash, func(n *naiveTree) {
		n.with(7, unmerged())
		n.with(11, unmerged())
	}},
	{"parent hash of a parent", "RFC 9420 §7.9", RuleParentHash, func(n *naiveTree) {
		n.with(11, func(p *ParentNode) { p.ParentHash = bytes.Repeat([]byte{1}, len(p.ParentHash)) })
	}},
	{"parent hash of a leaf", "RFC 9420 §7.9", RuleParentHash, func(n *naiveTree) {
		n.withLeaf(4, func(l *LeafNode) { l.ParentHash = bytes.Repeat([]byte{1}, len(l.ParentHash)) })
	}},
	{"key of a parent", "RFC 9420 §7.9", RuleParentHash, func(n *naiveTree) {
		n.with(7, func(p *ParentNode) { p.EncryptionKey = []byte("of an outsider") })
	}},
	{"sibling changed", "RFC 9420 §7.9", RuleParentHash, func(n *naiveTree) {
		n.withLeaf(2, func(l *LeafNode) { l.Credential.Data = []byte("another") })
	}},
	{"leaf not of a commit", "RFC 9420 §7.9.2", RuleParentHash, func(n *naiveTree) {
		n.withLeaf(4, func(l *LeafNode) { l.Source = LeafUpdate })
	}},
	{"parent over nobody", "RFC 9420 §7.9.2", RuleParentHash, func(n *naiveTree) {
		n.parents[9] = &ParentNode{EncryptionKey: []byte("planted"), ParentHash: []byte("planted"), UnmergedLeaves: []uint32{5}}
	}},
	{"empty parent hash below a parent", "RFC 9420 §7.9", RuleEmptyParentHash, func(n *naiveTree) {
		n.with(11, func(p *ParentNode) { p.ParentHash = nil })
	}},
	{"empty parent hash of a leaf", "RFC 9420 §7.9", RuleEmptyParentHash, func(n *naiveTree) {
		n.withLeaf(4, func(l *LeafNode) { l.ParentHash = nil })
	}},
}

// setOracle puts one key on the filtered path of a leaf, in a tree whose
// parents are blank, with parent hashes that are right.
func setOracle(n *naiveTree, i uint32, key []byte) {
	path, _ := n.filtered(i)
	keys := make([][]byte, len(path))
	for k := range keys {
		keys[k] = key
	}
	hash := n.setPath(i, keys)
	n.withLeaf(i, func(l *LeafNode) { l.Source, l.ParentHash = LeafCommit, hash })
}

func TestTreeValidateRules(t *testing.T) {
	tree := NewTree(suite.Lookup(1))
	for i := range uint32(8) {
		tree.Add(testLeaf(2*i, i, LeafKeyPackage, nil, CredentialBasic))
	}
	tree.Remove(5)
	tree.Remove(7)
	for _, i := range []uint32{0, 2, 6, 4} {
		commitTest(tree, i)
	}
	for _, i := range []uint32{5, 7} {
		if got := tree.Add(testLeaf(100+i, 100+i, LeafKeyPackage, nil, CredentialBasic)); got != i {
			t.Fatalf("added at %d", got)
		}
	}
	for _, c := range validityCases {
		n := oracleOf(tree)
		c.change(n)
		read, err := ParseTree(n.s, n.encode())
		if err == nil {
			err = read.validateShape(twoAtOnce)
		}
		if RuleOf(err) != c.rule || (c.rule == 0) != (err == nil) {
			t.Errorf("%s (%s): got %v, want %v", c.name, c.section, err, c.rule)
		}
		if c.rule != 0 && !strings.Contains(c.rule.Section(), strings.TrimPrefix(c.section, "RFC 9420 ")) {
			t.Errorf("%s: %v is of %s, not %s", c.name, c.rule, c.rule.Section(), c.section)
		}
	}
}

// parseCases are vectors that are no trees.
var parseCases = []struct {
	name, section string
	rule          Rule
	encoded       func(leaf, parent []byte) []byte
}{
	{"no nodes", "RFC 9420 §12.4.3.3", RuleTreeShape, func(leaf, parent []byte) []byte { return nil }},
	{"a blank node", "RFC 9420 §12.4.3.3", RuleTreeShape, func(leaf, parent []byte) []byte { return []byte{0} }},
	{"ends with a blank node", "RFC 9420 §12.4.3.3", RuleTreeShape, func(leaf, parent []byte) []byte { return slices.Concat(leaf, parent, []byte{0}) }},
	{"ends with two blank nodes", "RFC 9420 §12.4.3.3", RuleTreeShape, func(leaf, parent []byte) []byte { return slices.Concat(leaf, []byte{0, 0}) }},
	{"of even length", "RFC 9420 §12.4.3.3", RuleTreeShape, func(leaf, parent []byte) []byte { return slices.Concat(leaf, parent) }},
	{"leaf at a parent's place", "RFC 9420 §12.4.3.3", RuleTreeShape, func(leaf, parent []byte) []byte { return slices.Concat(leaf, leaf, leaf) }},
	{"parent at a leaf's place", "RFC 9420 §12.4.3.3", RuleTreeShape, func(leaf, parent []byte) []byte { return slices.Concat(parent, parent, leaf) }},
	{"node of type 0", "RFC 9420 §12.4.3.3", RuleTreeShape, func(leaf, parent []byte) []byte { return append([]byte{1, 0}, leaf[2:]...) }},
	{"node of type 3", "RFC 9420 §12.4.3.3", RuleTreeShape, func(leaf, parent []byte) []byte { return append([]byte{1, 3}, leaf[2:]...) }},
	{"presence of 2", "RFC 9420 §2.1.1", RuleOptional, func(leaf, parent []byte) []byte { return append([]byte{2, 1}, leaf[2:]...) }},
	{"ends in a node", "RFC 9420 §2.1.2", RuleLength, func(leaf, parent []byte) []byte { return leaf[:len(leaf)-1] }},
	{"leaves beyond the bound", "RFC 9420 §16", RuleBounds, func(leaf, parent []byte) []byte {
		return append(make([]byte, 2*MaxMembers), leaf...)
	}},
}

func TestParseTreeRefuses(t *testing.T) {
	leaf := testLeaf(1, 1, LeafKeyPackage, nil, CredentialBasic).AppendTo([]byte{1, 1})
	parent := (&ParentNode{EncryptionKey: []byte("key")}).AppendTo([]byte{1, 2})
	for _, c := range parseCases {
		_, err := ParseTree(suite.Lookup(1), codec.AppendVec(nil, c.encoded(leaf, parent)))
		if RuleOf(err) != c.rule {
			t.Errorf("%s (%s): got %v, want %v", c.name, c.section, err, c.rule)
		}
	}
	whole := codec.AppendVec(nil, slices.Concat(leaf, parent, leaf))
	if _, err := ParseTree(suite.Lookup(1), whole); err != nil {
		t.Error(err)
	}
	if _, err := ParseTree(suite.Lookup(1), append(whole, 0)); RuleOf(err) != Rule(codec.RuleTrailing) {
		t.Errorf("with an octet after it: %v", err)
	}
	if _, err := ParseTree(suite.Lookup(1), append(make([]byte, 0, 300), 0x40, 10)); RuleOf(err) != RuleVarint {
		t.Errorf("with a length in two octets: %v", err)
	}
}

// RFC 9420 §7.7, §12.4.3.3: a tree is read with as few blank leaves as make
// its width a power of two; that is what it hashes to.
func TestParseTreeWidth(t *testing.T) {
	for members, width := range map[uint32]uint32{1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 9: 16, 17: 32, 33: 64, 65: 128} {
		tree := NewTree(suite.Lookup(1))
		for i := range members {
			tree.Add(testLeaf(i, i, LeafKeyPackage, nil, CredentialBasic))
		}
		read, err := ParseTree(tree.suite, tree.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		n := oracleOf(read)
		if read.Leaves() != width || tree.Leaves() != width || !bytes.Equal(read.Hash(), n.hash(0, width, nil)) {
			t.Errorf("%d members: %d leaves, want %d", members, read.Leaves(), width)
		}
		for read.Members() > 1 {
			read.Remove(uint32(read.Members() - 1))
		}
		if read.Leaves() != 1 || read.Root() != 0 {
			t.Errorf("%d leaves for one member", read.Leaves())
		}
	}
}

// Indexes that come off the wire are looked up as they are.
func TestTreeOutside(t *testing.T) {
	tree := benchTree(6)
	before := tree.AppendTo(nil)
	leaf := tree.Leaf(0)
	for _, i := range []uint32{8, 9, 1 << 30, 1 << 31, 1<<31 + 1, NoLeaf - 1, NoLeaf} {
		if tree.Leaf(i) != nil || tree.Parent(i) != nil && i > 14 || tree.FilteredPath(i) != nil || tree.SetPath(i, nil) != nil {
			t.Errorf("there is a leaf %d", i)
		}
		tree.Update(i, leaf)
		tree.Remove(i)
		tree.ReplaceLeaf(i, leaf)
		for node := range uint32(15) {
			if _, _, ok := tree.ResolutionIndex(node, i, nil, nil); ok || Covers(node, i) {
				t.Errorf("leaf %d is in the resolution of %d", i, node)
			}
		}
	}
	for _, node := range []uint32{15, 16, 1<<31 - 1, 1 << 31, NoLeaf - 1, NoLeaf} {
		if tree.PublicKey(node) != nil || tree.Parent(node) != nil || tree.NodeHash(node) != nil ||
			tree.Resolution(nil, node, nil) != nil || tree.ResolutionSize(node, nil) != 0 {
			t.Errorf("there is a node %d", node)
		}
	}
	if !bytes.Equal(tree.AppendTo(nil), before) {
		t.Error("a change outside of the tree has changed it")
	}
	empty := NewTree(tree.suite)
	if empty.Leaf(0) != nil || empty.PublicKey(0) != nil || len(empty.Hash()) != 32 || empty.Validate(nil, nil) != nil || empty.Root() != 0 {
		t.Error("an empty tree is not empty")
	}
}

// Equal keys are told for as long as they are there, and no longer: a list of
// proposals may remove a member and add it again.
func TestTreeCheckUnique(t *testing.T) {
	tree := NewTree(suite.Lookup(1))
	add := func(encryption, signature uint32) uint32 {
		return tree.Add(testLeaf(encryption, signature, LeafKeyPackage, nil, CredentialBasic))
	}
	want := func(what string, r Rule) {
		t.Helper()
		if err := tree.CheckUnique(); RuleOf(err) != r {
			t.Errorf("%s: %v, want %v", what, err, r)
		}
	}
	for i := range uint32(200) {
		add(i, i)
	}
	want("all different", 0)
	again := add(1000, 7)
	want("signature key of 7", RuleMemberKeysUnique)
	if i, ok := tree.LeafBySignatureKey(tree.Leaf(7).SignatureKey); !ok || i != 7 {
		t.Errorf("found at %d", i)
	}
	third := add(1001, 7)
	tree.Remove(7)
	want("still two", RuleMemberKeysUnique)
	tree.Remove(third)
	want("one left", 0)
	if i, ok := tree.LeafBySignatureKey(tree.Leaf(again).SignatureKey); !ok || i != again {
		t.Errorf("found at %d", i)
	}
	head := tree
	tree = head.Clone()
	tree.ReplaceLeaf(3, testLeaf(4, 3, LeafUpdate, nil, CredentialBasic))
	want("encryption key of 4", RuleMemberKeysUnique)
	tree.Update(4, testLeaf(3, 4, LeafUpdate, nil, CredentialBasic))
	want("exchanged", 0)
	path := tree.FilteredPath(0)
	keys := make([][]byte, len(path))
	for k := range keys {
		keys[k] = []byte{byte(k)}
	}
	keys[1] = tree.Leaf(9).EncryptionKey
	tree.SetPath(0, keys)
	want("key of a leaf on the path", RuleParentKeysUnique)
	keys[1] = keys[2]
	tree.SetPath(0, keys)
	want("key twice on the path", RuleParentKeysUnique)
	tree.Remove(1)
	want("path is blank", 0)
	tree = head
	want("the head", 0)
}

// A member without the key of a node above it finds no entry of the resolution.
func TestTreeResolutionIndexHas(t *testing.T) {
	tree := benchTree(8)
	root, nobody := tree.Root(), func(uint32) bool { return false }
	for i := range uint32(8) {
		if _, _, ok := tree.ResolutionIndex(root, i, nil, nobody); ok {
			t.Errorf("leaf %d without private keys is found", i)
		}
		if position, at, ok := tree.ResolutionIndex(root, i, nil, nil); !ok || position != 0 || at != root {
			t.Errorf("leaf %d: entry %d, node %d, %v", i, position, at, ok)
		}
		if _, _, ok := tree.ResolutionIndex(root, i, NewLeafSet(i), nil); ok {
			t.Errorf("leaf %d was added by the commit itself", i)
		}
	}
}

func TestLeafSet(t *testing.T) {
	s := NewLeafSet(9, 3, 9, 1)
	for _, i := range []uint32{7, 3, 12, 7} {
		s.Add(i)
	}
	if want := []uint32{1, 3, 7, 9, 12}; !slices.Equal(s.leaves, want) || s.Len() != len(want) {
		t.Errorf("got %v, want %v", s.leaves, want)
	}
	var empty *LeafSet
	if !s.Has(7) || s.Has(8) || empty.Has(0) || empty.Len() != 0 {
		t.Error("the set holds what it does not")
	}
	if got := s.under(3); !slices.Equal(got, []uint32{1, 3}) {
		t.Errorf("under 3: %v", got)
	}
}

// What a tree was given may be overwritten: it keeps copies.
func TestTreeCopies(t *testing.T) {
	tree := benchTree(4)
	message := testLeaf(100, 100, LeafCommit, nil, CredentialBasic).AppendTo(nil)
	leaf, err := ParseLeafNode(message)
	if err != nil {
		t.Fatal(err)
	}
	keys := make([][]byte, len(tree.FilteredPath(1)))
	for k := range keys {
		keys[k] = fmt.Appendf(nil, "key %d", k)
	}
	tree.SetPath(1, keys)
	tree.ReplaceLeaf(1, leaf)
	tree.Update(2, leaf)
	tree.Add(leaf)
	want := tree.AppendTo(nil)
	clear(message)
	for _, key := range keys {
		clear(key)
	}
	if !bytes.Equal(tree.AppendTo(nil), want) {
		t.Error("the tree changed with what it was given")
	}
}

func TestTreeFull(t *testing.T) {
	tree := NewTree(suite.Lookup(1))
	leaf := testLeaf(1, 1, LeafKeyPackage, nil, CredentialBasic)
	for range MaxMembers {
		tree.Add(leaf)
	}
	if i := tree.Add(leaf); i != NoLeaf || tree.Members() != MaxMembers || tree.Leaves() != MaxMembers {
		t.Errorf("%d members, one more at %d", tree.Members(), i)
	}
	tree.Remove(77)
	if i := tree.Add(leaf); i != 77 {
		t.Errorf("added at %d", i)
	}
	if err := tree.CheckUnique(); RuleOf(err) != RuleMemberKeysUnique {
		t.Error(err)
	}
}

// Many goroutines may clone and read a settled tree, and change their clones.
func TestTreeConcurrentClones(t *testing.T) {
	head := benchTree(100)
	want := head.AppendTo(nil)
	var wg sync.WaitGroup
	for g := range uint32(8) {
		wg.Go(func() {
			for round := range uint32(20) {
				c := head.Clone()
				c.Remove(g)
				c.Add(testLeaf(1000*g+round+1000, 1000*g+round+1000, LeafKeyPackage, nil, 3))
				commitTest(c, g+round)
				if err := c.validateShape(nil); err != nil {
					t.Error(err)
				}
				if i, ok := head.LeafBySignatureKey(head.Leaf(g).SignatureKey); !ok || i != g {
					t.Errorf("leaf %d is at %d", g, i)
				}
			}
		})
	}
	wg.Wait()
	if !bytes.Equal(head.AppendTo(nil), want) || !slices.Equal(head.CredentialsInUse(), []uint16{uint16(CredentialBasic)}) {
		t.Error("a clone has changed its origin")
	}
}

// What is done in parallel gives the same as one after the other, and leaves
// a tree that shares its pages as it was.
func TestTreeParallel(t *testing.T) {
	head := benchTree(700)
	encoded := head.AppendTo(nil)
	read, err := ParseTree(head.suite, encoded)
	if err != nil {
		t.Fatal(err)
	}
	if err := read.validateShape(twoAtOnce); err != nil || !bytes.Equal(read.Hash(), head.Hash()) {
		t.Errorf("read and validated: %v", err)
	}
	one, two := head.Clone(), head.Clone()
	for _, c := range []*Tree{one, two} {
		for i := uint32(0); i < 700; i += 3 {
			c.Update(i, testLeaf(5000+i, i, LeafUpdate, nil, CredentialBasic))
		}
	}
	one.Settle(nil)
	two.Settle(twoAtOnce)
	if !bytes.Equal(one.Hash(), two.Hash()) || !bytes.Equal(one.AppendTo(nil), two.AppendTo(nil)) {
		t.Error("the hashes differ")
	}
	again, err := ParseTree(head.suite, encoded)
	if err != nil || !bytes.Equal(head.Hash(), again.Hash()) || !bytes.Equal(head.AppendTo(nil), encoded) {
		t.Error("the head has changed")
	}
}

// Members with capabilities of their own, as with random reserved values, are
// each asked for, and forgotten when they leave.
func TestTreeEveryMember(t *testing.T) {
	tree := NewTree(suite.Lookup(1))
	tree.index(nil)
	for i := range uint32(600) {
		l := *testLeaf(i, i, LeafKeyPackage, nil, CredentialBasic)
		l.raw, l.Capabilities = nil, NewCapabilities([]Version{1}, []Suite{1}, []ExtensionType{ExtensionType(i % 300)}, nil, nil)
		tree.Add(&l)
	}
	count := func(t *Tree) (n int) {
		t.EveryMember(func(Capabilities) bool { n++; return true })
		return n
	}
	c := tree.Clone()
	for i := range uint32(600) {
		if i%300 >= 10 {
			c.Remove(i)
		}
	}
	if count(tree) != 300 || count(c) != 10 {
		t.Errorf("%d and %d distinct capabilities, want 300 and 10", count(tree), count(c))
	}
	c.Add(tree.Leaf(20))
	if c.EveryMember(func(c Capabilities) bool { return c.Extensions().At(0) != 20 }) || count(c) != 11 {
		t.Error("a member added after others left is not asked for")
	}
	if !c.Clone().EveryMember(func(c Capabilities) bool { return c.Versions().Has(1) }) {
		t.Error("not every member has the version")
	}
}
