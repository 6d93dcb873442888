package mls

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// benchTree makes a tree of n members in which every second member committed
// once, so that most parents are set; it has no signatures.
func benchTree(n int) *Tree {
	t := NewTree(suite.Lookup(1))
	for i := range uint32(n) {
		t.Add(testLeaf(2*i, i, LeafKeyPackage, nil, CredentialBasic))
	}
	for i := uint32(0); i < uint32(n); i += 2 {
		commitTest(t, i)
	}
	t.Settle(nil)
	return t
}

// commitTest merges an update path of leaf i with keys of its own.
func commitTest(t *Tree, i uint32) {
	var keys [][]byte
	for _, step := range t.FilteredPath(i) {
		keys = append(keys, t.suite.RefHash(nil, "path", fmt.Appendf(nil, "%d %d", i, step.Node)))
	}
	hash := t.SetPath(i, keys)
	t.ReplaceLeaf(i, testLeaf(2*i+1, i, LeafCommit, hash, CredentialBasic))
}

func BenchmarkTree(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			tree := benchTree(n)
			encoded := tree.AppendTo(nil)
			leaves := make([]*LeafNode, 0, n)
			for _, l := range tree.All() {
				leaves = append(leaves, l)
			}
			b.Run("parse", func(b *testing.B) { benchParse(b, encoded) })
			b.Run("validate", func(b *testing.B) { benchValidate(b, encoded, nil) })
			b.Run("validate-by-two", func(b *testing.B) { benchValidate(b, encoded, twoAtOnce) })
			b.Run("write", func(b *testing.B) { benchWrite(b, tree, len(encoded)) })
			b.Run("create", func(b *testing.B) { benchCreate(b, leaves) })
			b.Run("clone", func(b *testing.B) { benchClone(b, tree) })
			b.Run("commit", func(b *testing.B) { benchCommit(b, tree) })
			b.Run("add", func(b *testing.B) { benchAdd(b, tree) })
		})
	}
}

func benchParse(b *testing.B, encoded []byte) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseTree(suite.Lookup(1), encoded); err != nil {
			b.Fatal(err)
		}
	}
}

// benchValidate measures all of Validate but the signatures and the parsing.
func benchValidate(b *testing.B, encoded []byte, p Parallel) {
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		tree, err := ParseTree(suite.Lookup(1), encoded)
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := tree.validateShape(p); err != nil {
			b.Fatal(err)
		}
	}
}

func benchWrite(b *testing.B, tree *Tree, size int) {
	buf := make([]byte, 0, size+8)
	b.ReportAllocs()
	for b.Loop() {
		if got := tree.AppendTo(buf); len(got) != size {
			b.Fatal(len(got))
		}
	}
}

// benchCreate adds all members to an empty tree and hashes it.
func benchCreate(b *testing.B, leaves []*LeafNode) {
	b.ReportAllocs()
	for b.Loop() {
		tree := NewTree(suite.Lookup(1))
		tree.index(nil)
		for _, l := range leaves {
			tree.Add(l)
		}
		tree.Hash()
	}
}

func benchClone(b *testing.B, tree *Tree) {
	b.ReportAllocs()
	for b.Loop() {
		if tree.Clone().Members() == 0 {
			b.Fatal("empty")
		}
	}
}

// benchCommit merges an update path into a clone, which becomes the head.
func benchCommit(b *testing.B, tree *Tree) {
	b.ReportAllocs()
	n := uint32(tree.Members())
	keys := make([][]byte, 32)
	leaf := testLeaf(1<<30, 1<<30, LeafCommit, tree.Hash(), CredentialBasic)
	for k := range keys {
		keys[k] = fmt.Appendf(nil, "thirty-two octets: the key of %2d", k)
	}
	i := uint32(0)
	for b.Loop() {
		i = (i*2654435761 + 12345) % n
		head := tree.Clone()
		head.SetPath(i, keys[:len(head.FilteredPath(i))])
		head.ReplaceLeaf(i, leaf)
		head.Hash()
	}
}

// benchAdd adds one member to a clone.
func benchAdd(b *testing.B, tree *Tree) {
	b.ReportAllocs()
	leaf := testLeaf(1<<30, 1<<30, LeafKeyPackage, nil, CredentialBasic)
	for b.Loop() {
		head := tree.Clone()
		head.Add(leaf)
		head.Hash()
	}
}

// A tree as a member holds it, with hashes and indexes, fits the memory that
// there is for a group of 10,000 members: 12 MB in all.
func TestTreeMemory(t *testing.T) {
	const members, bound = 10_000, 10 << 20
	before := heap()
	tree := benchTree(members)
	encoded := tree.AppendTo(nil)
	tree, err := ParseTree(suite.Lookup(1), encoded)
	if err != nil {
		t.Fatal(err)
	}
	tree.Settle(nil)
	held := heap() - before
	runtime.KeepAlive(tree)
	tree.keys = nil
	indexes := held - (heap() - before)
	runtime.KeepAlive(tree)
	t.Logf("%d octets held: %d of the wire, %d of indexes", held, len(encoded), indexes)
	if held > bound || indexes > bound/20 {
		t.Errorf("%d members hold %d octets, and %d in indexes; at most %d", members, held, indexes, bound)
	}
}

func heap() int {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
