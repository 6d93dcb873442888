package mls

import (
	"bytes"
	"iter"
	"math/bits"
	"slices"
	"sync/atomic"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// Parallel runs f(0) to f(n-1), each once, in any order and on any goroutines,
// and returns when all are done. Nil runs them one after the other.
type Parallel func(n int, f func(i int))

// Run runs f(0) to f(n-1) by p, or here if p is nil or there is but one.
func (p Parallel) Run(n int, f func(i int)) {
	if p != nil && n > 1 {
		p(n, f)
		return
	}
	for i := range n {
		f(i)
	}
}

// NoLeaf is the index of no leaf.
const NoLeaf = ^uint32(0)

// Tree is a ratchet tree, RFC 9420 §4.1, §7 and App. C: the public keys and
// the members of a group. A node's index is its place in the array of App. C,
// a leaf's index counts leaves only. Node contents are never changed in place;
// a tree copies the leaves and keys that it is given, and does not hold the
// messages that they were part of.
//
// A tree whose hashes and indexes are made (after Settle, Validate, or Hash and
// any look-up by key) may be read and cloned by several goroutines at once;
// it is changed by one. A clone and its origin may be changed independently.
type Tree struct {
	suite    *suite.Suite
	key      atomic.Pointer[token] // nil after a clone: nothing is this tree's alone
	pages    []*page
	width    uint32 // leaves, a power of two; 0 if the tree is empty
	members  int
	octets   int      // of all nodes that are not blank, or a little more
	used     []uint64 // bit per leaf: it is not blank
	hint     int      // no word of used before this one has a zero
	rootHash []byte   // nil if it is not known
	keys     *indexes // nil until they are asked for
}

// NewTree returns an empty tree for groups of a cipher suite.
func NewTree(s *suite.Suite) *Tree { return &Tree{suite: s} }

// Suite is the cipher suite of the tree's hashes and signatures.
func (t *Tree) Suite() *suite.Suite { return t.suite }

// Clone returns a copy; both may then be changed. It copies the page table and
// the directories of the indexes, some octets for a member; nodes are shared.
func (t *Tree) Clone() *Tree {
	c := &Tree{
		suite: t.suite, width: t.width, members: t.members, octets: t.octets, hint: t.hint, rootHash: t.rootHash,
		pages: slices.Clone(t.pages),
		used:  slices.Clone(t.used),
		keys:  t.keys.clone(),
	}
	// A tree that owns nothing is not written to, so that goroutines may
	// clone one tree at the same time.
	if t.key.Load() != nil {
		t.key.Store(nil)
	}
	return c
}

// Settle makes all that is otherwise made when it is asked for (hashes by p,
// indexes), so that t may be read and cloned by several goroutines, and gives
// back the room that bulk changes left. A group calls it for its new head.
func (t *Tree) Settle(p Parallel) {
	t.HashWith(p)
	t.index(p).compact(t.token())
}

// Leaves is the tree's width, a power of two, blank leaves included; 0 if it is empty.
func (t *Tree) Leaves() uint32 { return t.width }

// Members is the number of leaves that are not blank.
func (t *Tree) Members() int { return t.members }

// Root is the root's node index, RFC 9420 App. C; 0 if the tree is empty.
func (t *Tree) Root() uint32 {
	if t.width == 0 {
		return 0
	}
	return t.root()
}

// Leaf is the leaf with index i, nil if it is blank or not in the tree.
func (t *Tree) Leaf(i uint32) *LeafNode {
	if i >= t.width {
		return nil
	}
	return t.leafAt(2 * i)
}

// Parent is the parent with node index node, nil if it is blank, not in the
// tree, or a leaf.
func (t *Tree) Parent(node uint32) *ParentNode {
	if node&1 == 0 || !t.within(node) {
		return nil
	}
	return t.parentAt(node)
}

// PublicKey is the encryption key of the node with index node, nil if it is
// blank or not in the tree.
func (t *Tree) PublicKey(node uint32) []byte {
	if node&1 == 0 {
		if l := t.Leaf(node / 2); l != nil {
			return l.EncryptionKey
		}
	} else if p := t.Parent(node); p != nil {
		return p.EncryptionKey
	}
	return nil
}

// All ranges over the members in the order of their leaf indexes.
func (t *Tree) All() iter.Seq2[uint32, *LeafNode] {
	return func(yield func(uint32, *LeafNode) bool) {
		for w, word := range t.used {
			for ; word != 0; word &= word - 1 {
				i := uint32(w*64 + bits.TrailingZeros64(word))
				if !yield(i, t.leafAt(2*i)) {
					return
				}
			}
		}
	}
}

// Add puts l at the leftmost blank leaf, extends the tree if there is none, and
// lists the leaf as unmerged at every node above it that is not blank,
// RFC 9420 §12.1.1. It returns the leaf's index; NoLeaf, and changes nothing,
// if the tree has MaxMembers members.
func (t *Tree) Add(l *LeafNode) uint32 {
	i := t.leftmostBlank()
	if i >= MaxMembers {
		return NoLeaf
	}
	if i >= t.width {
		t.extend()
	}
	t.setLeaf(i, l)
	for node, root := 2*i, t.root(); node != root; {
		node = parentNode(node)
		if p := t.page(node); p.parents[slot(node)] != nil {
			t.octets += t.own(node).addUnmerged(slot(node), i)
		}
	}
	t.refresh(i)
	return i
}

// Update puts l at leaf i and blanks the nodes above it, RFC 9420 §12.1.2. An
// index that is not in the tree changes nothing.
func (t *Tree) Update(i uint32, l *LeafNode) {
	if i >= t.width {
		return
	}
	t.setLeaf(i, l)
	t.blankPath(i)
	t.refresh(i)
}

// Remove blanks leaf i and the nodes above it, and truncates the tree as far
// as its right half has no members, RFC 9420 §12.1.3. An index that is not in
// the tree changes nothing.
func (t *Tree) Remove(i uint32) {
	if i >= t.width {
		return
	}
	t.setLeaf(i, nil)
	t.blankPath(i)
	t.refresh(i)
	t.truncate()
}

// ReplaceLeaf puts l at leaf i and leaves the nodes above it as they are, as
// the last step of merging an update path, RFC 9420 §7.5. An index that is not
// in the tree changes nothing.
func (t *Tree) ReplaceLeaf(i uint32, l *LeafNode) {
	if i >= t.width {
		return
	}
	t.setLeaf(i, l)
	t.refresh(i)
}

// blankPath blanks the nodes above leaf i.
func (t *Tree) blankPath(i uint32) {
	for node, root := 2*i, t.root(); node != root; {
		node = parentNode(node)
		if t.parentAt(node) != nil {
			t.setParent(node, nil)
		}
	}
}

// detached is a copy of a leaf that does not hold the message it was read
// from: a commit to a large group is a thousand times as long as its leaf.
func (l *LeafNode) detached() *LeafNode {
	if l == nil || l.raw == nil {
		return l
	}
	r := codec.NewReader(bytes.Clone(l.raw))
	c := readLeafNode(&r)
	if r.Finish() != nil {
		return l // not so: these octets were read before
	}
	return c
}

// setLeaf sets a leaf of the tree, the set of members and the indexes, and
// nothing above it.
func (t *Tree) setLeaf(i uint32, l *LeafNode) {
	node := 2 * i
	old := t.leafAt(node)
	l = l.detached()
	if t.keys != nil {
		t.keys.leave(t, i, old, l)
	}
	t.own(node).leaves[slot(node)] = l
	t.octets += l.octets() - old.octets()
	if t.keys != nil {
		t.keys.enter(t, i, old, l)
	}
	word, bit := int(i/64), uint64(1)<<(i%64)
	if l != nil {
		t.used[word] |= bit
	} else {
		t.used[word] &^= bit
		t.hint = min(t.hint, word)
	}
	switch {
	case old == nil && l != nil:
		t.members++
	case old != nil && l == nil:
		t.members--
	}
}

// setParent sets a parent of the tree and the index, and nothing above it.
func (t *Tree) setParent(node uint32, n *ParentNode) {
	p, s := t.own(node), slot(node)
	if t.keys != nil && p.parents[s] != nil {
		t.keys.encryption.remove(t.token(), p.parents[s].EncryptionKey, node, t.PublicKey)
	}
	t.octets += n.octets() - p.parents[s].octets()
	p.parents[s] = n
	if t.keys != nil && n != nil {
		t.keys.encryption.insert(t.token(), n.EncryptionKey, node, t.PublicKey)
	}
}

// addUnmerged lists a leaf as unmerged at the parent in slot s. Leaves are
// mostly added in ascending order, so the list is extended where it stands if
// its room is this tree's; whoever holds the former ParentNode still sees the
// former list. It returns by how many octets the parent grew.
func (p *page) addUnmerged(s, leaf uint32) int {
	n := *p.parents[s]
	list := n.UnmergedLeaves
	at, found := len(list), false
	if at > 0 && list[at-1] >= leaf {
		at, found = slices.BinarySearch(list, leaf)
	}
	if found {
		return 0
	}
	if at == len(list) && p.fresh>>s&1 == 1 {
		n.UnmergedLeaves = append(list, leaf)
	} else {
		out := make([]uint32, 0, len(list)+len(list)/4+2)
		out = append(append(out, list[:at]...), leaf)
		n.UnmergedLeaves = append(out, list[at:]...)
	}
	p.fresh |= 1 << s
	p.parents[s] = &n
	return 4
}

// octets is the length of a node's encoding in a tree, or a little more; 0 of
// a blank one.
func (l *LeafNode) octets() int {
	switch {
	case l == nil:
		return 0
	case l.raw == nil:
		return 2 + len(l.AppendTo(nil))
	}
	return 2 + len(l.raw)
}

func (p *ParentNode) octets() int {
	if p == nil {
		return 0
	}
	return 2 + vectorSize(len(p.EncryptionKey)) + vectorSize(len(p.ParentHash)) + 4 + 4*len(p.UnmergedLeaves)
}

// checkOctets refuses a tree that no GroupInfo has room for.
func (t *Tree) checkOctets() error {
	if t.octets > MaxTree {
		return refuse(RuleBounds, "a tree of %d octets", t.octets)
	}
	return nil
}

// leftmostBlank is the index of the first blank leaf, or the width.
func (t *Tree) leftmostBlank() uint32 {
	for t.hint < len(t.used) && t.used[t.hint] == ^uint64(0) {
		t.hint++
	}
	if t.hint == len(t.used) {
		return t.width
	}
	return min(t.width, uint32(t.hint*64+bits.TrailingZeros64(^t.used[t.hint])))
}

// highestBit is the place of the highest bit of a word that is not zero.
func highestBit(word uint64) uint32 { return uint32(bits.Len64(word) - 1) }

// lastWidth is the width of a tree whose last member is at this leaf: the
// smallest power of two beyond it.
func lastWidth(last uint32) uint32 { return 1 << bits.Len32(last) }
