package mls

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
	"pgregory.net/rapid"
)

// twin is a tree and the oracle that had the same done to it.
type twin struct {
	tree  *Tree
	naive *naiveTree
}

// treeMachine does the same to trees and oracles, and to clones of both.
type treeMachine struct {
	twins []twin
	keys  uint32 // so that every key is another one
}

func newTreeMachine() *treeMachine {
	s := suite.Lookup(1)
	return &treeMachine{twins: []twin{{NewTree(s), &naiveTree{s: s, parents: map[uint32]*ParentNode{}}}}}
}

func (m *treeMachine) twin(t *rapid.T) twin {
	return m.twins[rapid.IntRange(0, len(m.twins)-1).Draw(t, "twin")]
}

// leaf makes a leaf with new keys.
func (m *treeMachine) leaf(t *rapid.T, source LeafSource, parentHash []byte) *LeafNode {
	m.keys++
	kind := rapid.SampledFrom([]CredentialType{CredentialBasic, 3, 4}).Draw(t, "credential")
	return testLeaf(m.keys, m.keys, source, parentHash, kind)
}

// member draws the index of a member.
func (w twin) member(t *rapid.T) uint32 {
	var members []uint32
	for i := range w.tree.All() {
		members = append(members, i)
	}
	return rapid.SampledFrom(members).Draw(t, "member")
}

func (m *treeMachine) add(t *rapid.T, w twin, most int) *LeafSet {
	added := NewLeafSet()
	for range rapid.IntRange(1, most).Draw(t, "adds") {
		if w.tree.Members() >= 64 {
			break
		}
		l := m.leaf(t, LeafKeyPackage, nil)
		i := w.tree.Add(l)
		if want := w.naive.add(l); i != want {
			t.Fatalf("added at %d, want %d", i, want)
		}
		added.Add(i)
	}
	return added
}

func (m *treeMachine) update(t *rapid.T, w twin) {
	if w.tree.Members() > 0 {
		i, l := w.member(t), m.leaf(t, LeafUpdate, nil)
		w.tree.Update(i, l)
		w.naive.update(i, l)
	}
}

func (m *treeMachine) remove(t *rapid.T, w twin) {
	if w.tree.Members() > 0 {
		i := w.member(t)
		w.tree.Remove(i)
		w.naive.remove(i)
	}
}

// commit merges an update path of a member after adds, which are left out of
// the resolutions.
func (m *treeMachine) commit(t *rapid.T, w twin) {
	if w.tree.Members() == 0 {
		return
	}
	by, added := w.member(t), (*LeafSet)(nil)
	if rapid.Bool().Draw(t, "with adds") {
		added = m.add(t, w, 4)
	}
	checkResolutions(t, w, added)
	path, copath := w.naive.filtered(by)
	got := w.tree.FilteredPath(by)
	var keys [][]byte
	for n := range path {
		if want := (PathNode{top(path[n][0], path[n][1]), top(copath[n][0], copath[n][1])}); n >= len(got) || got[n] != want {
			t.Fatalf("filtered path of %d: got %v, want %v at %d", by, got, want, n)
		}
		m.keys++
		keys = append(keys, testLeaf(m.keys, 0, LeafUpdate, nil, 1).EncryptionKey)
	}
	hash, want := w.tree.SetPath(by, keys), w.naive.setPath(by, keys)
	if !bytes.Equal(hash, want) {
		t.Fatalf("parent hash: got %x, want %x", hash, want)
	}
	l := m.leaf(t, LeafCommit, hash)
	w.tree.ReplaceLeaf(by, l)
	w.naive.leaves[by] = l
}

func (m *treeMachine) clone(t *rapid.T, w twin) {
	if len(m.twins) < 4 {
		m.twins = append(m.twins, twin{w.tree.Clone(), w.naive.clone()})
	}
}

func (m *treeMachine) discard(t *rapid.T) {
	if n := len(m.twins); n > 1 {
		at := rapid.IntRange(0, n-1).Draw(t, "discard")
		m.twins = slices.Delete(m.twins, at, at+1)
	}
}

// checkResolutions compares resolutions without the leaves in except.
func checkResolutions(t *rapid.T, w twin, except *LeafSet) {
	if w.tree.Leaves() == 0 {
		return
	}
	for node := range 2*w.tree.Leaves() - 1 {
		first, width := w.naive.subtree(node)
		want := slices.DeleteFunc(w.naive.resolution(first, width), func(x uint32) bool { return x%2 == 0 && except.Has(x/2) })
		if got := w.tree.Resolution(nil, node, except); !slices.Equal(got, want) {
			t.Fatalf("resolution of %d: got %v, want %v", node, got, want)
		}
		if got := w.tree.ResolutionSize(node, except); got != len(want) {
			t.Fatalf("resolution size of %d: got %d, want %d", node, got, len(want))
		}
		for leaf := first; leaf < first+width; leaf++ {
			checkResolutionIndex(t, w, node, leaf, except, want)
		}
	}
}

// checkResolutionIndex compares with the one entry that leaf can decrypt: its
// own, or that of a node above it at which it is merged.
func checkResolutionIndex(t *rapid.T, w twin, node, leaf uint32, except *LeafSet, resolution []uint32) {
	want := slices.Index(resolution, 2*leaf)
	for n, entry := range resolution {
		if p := w.naive.parents[entry]; want < 0 && p != nil && Covers(entry, leaf) && !except.Has(leaf) && w.naive.leaves[leaf] != nil {
			want = n
		}
	}
	position, at, ok := w.tree.ResolutionIndex(node, leaf, except, func(x uint32) bool { return w.naive.leaves[leaf] != nil && Covers(x, leaf) })
	if ok != (want >= 0) || ok && (position != want || at != resolution[want]) {
		t.Fatalf("leaf %d in the resolution of %d, %v: got %d, %d, %v, want %d", leaf, node, resolution, position, at, ok, want)
	}
}

// check compares all that a tree says with the oracle's definitions.
func (w twin) check(t *rapid.T) {
	n := w.naive
	if int(w.tree.Leaves()) != len(n.leaves) {
		t.Fatalf("%d leaves, want %d", w.tree.Leaves(), len(n.leaves))
	}
	if len(n.leaves) == 0 {
		if w.tree.Members() != 0 || !bytes.Equal(w.tree.AppendTo(nil), []byte{0}) {
			t.Fatal("an empty tree has members")
		}
		return
	}
	if got, want := w.tree.Hash(), n.hash(0, uint32(len(n.leaves)), nil); !bytes.Equal(got, want) {
		t.Fatalf("tree hash: got %x, want %x", got, want)
	}
	checkResolutions(t, w, nil)
	w.checkIndexes(t)
	encoded := n.encode()
	if got := w.tree.AppendTo(nil); !bytes.Equal(got, encoded) {
		t.Fatalf("encoding: got %x, want %x", got, encoded)
	}
	read, err := ParseTree(n.s, encoded)
	if err != nil {
		t.Fatal(err)
	}
	if read.Members() != w.tree.Members() || read.Leaves() != w.tree.Leaves() || !bytes.Equal(read.HashWith(twoAtOnce), w.tree.Hash()) {
		t.Fatal("the tree that was read is another one")
	}
	if err := n.valid(); err != nil {
		t.Fatalf("the oracle: %v", err)
	}
	for _, tree := range []*Tree{w.tree, read} {
		if err := tree.validateShape(nil); err != nil {
			t.Fatal(err)
		}
	}
}

func (w twin) checkIndexes(t *rapid.T) {
	kinds, blocks, members := map[uint16]bool{}, map[string]bool{}, 0
	for node := range 2*w.tree.Leaves() - 1 {
		key := w.tree.PublicKey(node)
		if key == nil {
			continue
		}
		if got, ok := w.tree.NodeByEncryptionKey(key); !ok || got != node {
			t.Fatalf("encryption key of %d is found at %d, %v", node, got, ok)
		}
		if node%2 == 1 {
			continue
		}
		members++
		l := w.tree.Leaf(node / 2)
		if got, ok := w.tree.LeafBySignatureKey(l.SignatureKey); !ok || got != node/2 {
			t.Fatalf("signature key of %d is found at %d, %v", node/2, got, ok)
		}
		kinds[uint16(l.Credential.Type)], blocks[string(l.Capabilities.raw)] = true, true
	}
	var inUse []uint16
	for kind := range uint16(5) {
		if kinds[kind] {
			inUse = append(inUse, kind)
		}
	}
	if got := w.tree.CredentialsInUse(); !slices.Equal(got, inUse) {
		t.Fatalf("credentials: got %v, want %v", got, inUse)
	}
	seen := 0
	if !w.tree.EveryMember(func(c Capabilities) bool { seen++; return blocks[string(c.raw)] }) || seen != len(blocks) {
		t.Fatalf("asked for %d of %d capabilities", seen, len(blocks))
	}
	if keys := w.tree.index(nil); keys.signature.count != members || w.tree.Members() != members {
		t.Fatalf("%d members and %d signature keys, want %d", w.tree.Members(), keys.signature.count, members)
	}
	if err := w.tree.CheckUnique(); err != nil {
		t.Fatal(err)
	}
}

// Whatever is done to a tree and its clones, they are what RFC 9420 says.
func TestTreeStateMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newTreeMachine()
		m.add(t, m.twins[0], 40)
		t.Repeat(map[string]func(*rapid.T){
			"add":     func(t *rapid.T) { m.add(t, m.twin(t), 12) },
			"update":  func(t *rapid.T) { m.update(t, m.twin(t)) },
			"remove":  func(t *rapid.T) { m.remove(t, m.twin(t)) },
			"commit":  func(t *rapid.T) { m.commit(t, m.twin(t)) },
			"clone":   func(t *rapid.T) { m.clone(t, m.twin(t)) },
			"settle":  func(t *rapid.T) { m.twin(t).tree.Settle(twoAtOnce) },
			"discard": m.discard,
			"": func(t *rapid.T) {
				for _, w := range m.twins {
					w.check(t)
				}
			},
		})
	})
}

// corrupt changes one thing in the oracle's nodes.
func (w twin) corrupt(t *rapid.T) {
	var nodes []uint32
	for node := range 2*w.tree.Leaves() - 1 {
		if w.naive.parents[node] != nil {
			nodes = append(nodes, node)
		}
	}
	kind := rapid.IntRange(0, 6).Draw(t, "kind")
	if len(nodes) == 0 || kind == 0 {
		i := w.member(t)
		l := *w.naive.leaves[i]
		l.raw, l.ParentHash, l.Source = nil, nil, LeafCommit
		w.naive.leaves[i] = &l
		return
	}
	node := rapid.SampledFrom(nodes).Draw(t, "node")
	p := *w.naive.parents[node]
	first, width := w.naive.subtree(node)
	switch kind {
	case 1:
		delete(w.naive.parents, node)
		return
	case 2:
		p.ParentHash = append(slices.Clone(p.ParentHash), 1)
	case 3:
		p.ParentHash = nil
	case 4:
		if n := len(p.UnmergedLeaves); n > 0 {
			at := rapid.IntRange(0, n-1).Draw(t, "unmerged")
			p.UnmergedLeaves = slices.Delete(slices.Clone(p.UnmergedLeaves), at, at+1)
		}
	case 5:
		p.UnmergedLeaves = append(slices.Clone(p.UnmergedLeaves), first+rapid.Uint32Range(0, width).Draw(t, "unmerged"))
		slices.Sort(p.UnmergedLeaves)
	case 6:
		p.EncryptionKey = w.tree.PublicKey(rapid.SampledFrom(nodes).Draw(t, "other"))
	}
	w.naive.parents[node] = &p
}

// A tree in which something is changed is valid for both or for none.
func TestTreeValidateLikeOracle(t *testing.T) {
	refused := map[Rule]int{}
	rapid.Check(t, func(t *rapid.T) {
		m := newTreeMachine()
		w := m.twins[0]
		m.add(t, w, 16)
		for range rapid.IntRange(1, 12).Draw(t, "commits") {
			switch rapid.IntRange(0, 5).Draw(t, "what") {
			case 0:
				m.remove(t, w)
			case 1:
				m.update(t, w)
			default:
				m.commit(t, w)
			}
		}
		if w.tree.Members() == 0 {
			m.add(t, w, 5)
		}
		for range 20 {
			bad := twin{w.tree, w.naive.clone()}
			bad.corrupt(t)
			want := bad.naive.valid()
			tree, err := ParseTree(bad.naive.s, bad.naive.encode())
			if err == nil {
				err = tree.validateShape(nil)
			}
			if (err == nil) != (want == nil) {
				t.Fatalf("got %v, the oracle says %v", err, want)
			}
			refused[RuleOf(err)]++
		}
	})
	t.Logf("refused by rule, of all: %v", refused)
	if refused[0] == 0 || refused[RuleParentHash] == 0 {
		t.Errorf("not both were seen: trees that are refused and that are not: %v", refused)
	}
}

// FuzzParseTree reads whatever there is: what is a tree is written as it was
// read, and neither its validation nor its use can be made to panic.
func FuzzParseTree(f *testing.F) {
	tree := NewTree(suite.Lookup(1))
	f.Add([]byte{0})
	for n := range uint32(11) {
		tree.Add(testLeaf(2*n, n, LeafKeyPackage, nil, 1))
		if n%3 == 1 {
			var keys [][]byte
			for k := range tree.FilteredPath(n) {
				keys = append(keys, binary.BigEndian.AppendUint64(nil, uint64(n)<<32|uint64(k)))
			}
			hash := tree.SetPath(n, keys)
			tree.ReplaceLeaf(n, testLeaf(2*n+1, n, LeafCommit, hash, 1))
		}
		f.Add(tree.AppendTo(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		tree, err := ParseTree(suite.Lookup(1), b)
		if err != nil {
			if !errors.As(err, new(*Error)) {
				t.Fatalf("refused by no rule: %v", err)
			}
			return
		}
		if !bytes.Equal(tree.AppendTo(nil), b) {
			t.Fatal("not written as it was read")
		}
		_ = tree.Validate([]byte("group"), nil)
		_ = tree.Clone().validateShape(twoAtOnce)
		for i := range tree.Leaves() {
			for _, step := range tree.FilteredPath(i) {
				if n := len(tree.Resolution(nil, step.Copath, nil)); n != tree.ResolutionSize(step.Copath, nil) {
					t.Fatalf("resolution of %d has %d entries", step.Copath, n)
				}
			}
		}
		for c := tree.Clone(); c.Members() > 0; {
			c.Remove((c.Leaves() - 1) / 2)
			c.Remove(c.Leaves() - 1)
			c.Remove(0)
			for i := range c.All() {
				c.Remove(i)
				break
			}
			c.Hash()
		}
	})
}
