package mls

import (
	"bytes"
	"slices"
)

// LeafSet is a small set of leaf indexes, such as those of the members that a
// commit adds. A nil LeafSet is empty.
type LeafSet struct{ leaves []uint32 }

// NewLeafSet returns the set of these leaf indexes.
func NewLeafSet(leaves ...uint32) *LeafSet {
	s := &LeafSet{slices.Clone(leaves)}
	slices.Sort(s.leaves)
	s.leaves = slices.Compact(s.leaves)
	return s
}

// Add puts leaf index i into the set.
func (s *LeafSet) Add(i uint32) {
	if n := len(s.leaves); n == 0 || s.leaves[n-1] < i {
		s.leaves = append(s.leaves, i)
		return
	}
	if at, found := slices.BinarySearch(s.leaves, i); !found {
		s.leaves = slices.Insert(s.leaves, at, i)
	}
}

// Has reports whether leaf index i is in the set.
func (s *LeafSet) Has(i uint32) bool {
	if s == nil {
		return false
	}
	_, found := slices.BinarySearch(s.leaves, i)
	return found
}

// Len is the number of leaf indexes in the set.
func (s *LeafSet) Len() int {
	if s == nil {
		return 0
	}
	return len(s.leaves)
}

// under are the leaf indexes of the set that are under node, in order.
func (s *LeafSet) under(node uint32) []uint32 {
	if s == nil || len(s.leaves) == 0 {
		return nil
	}
	return between(s.leaves, node)
}

// between are the entries of a list in ascending order that are under node.
func between(list []uint32, node uint32) []uint32 {
	first, end := leafRange(node)
	from, _ := slices.BinarySearch(list, first)
	to, _ := slices.BinarySearch(list[from:], end)
	return list[from : from+to]
}

// PathNode is a node of a filtered direct path and its child on the copath:
// node indexes.
type PathNode struct{ Node, Copath uint32 }

// FilteredPath are the nodes above leaf i, from the leaf's parent to the root,
// less those below which the copath's resolution is empty, RFC 9420 §4.1.2.
func (t *Tree) FilteredPath(i uint32) []PathNode {
	if i >= t.width {
		return nil
	}
	out := make([]PathNode, 0, nodeLevel(t.root()))
	for node, root := 2*i, t.root(); node != root; {
		copath := siblingNode(node)
		node = parentNode(node)
		if t.size(copath) > 0 {
			out = append(out, PathNode{node, copath})
		}
	}
	return out
}

// Resolution appends the node indexes of the resolution of node, RFC 9420
// §4.1.1, and leaves out the leaves in except, §7.6.
func (t *Tree) Resolution(dst []uint32, node uint32, except *LeafSet) []uint32 {
	if !t.within(node) || t.size(node) == 0 {
		return dst
	}
	if node&1 == 0 {
		if except.Has(node / 2) {
			return dst
		}
		return append(dst, node)
	}
	p := t.parentAt(node)
	if p == nil {
		return t.Resolution(t.Resolution(dst, leftChild(node), except), rightChild(node), except)
	}
	dst = append(dst, node)
	for _, leaf := range p.UnmergedLeaves {
		if !except.Has(leaf) {
			dst = append(dst, 2*leaf)
		}
	}
	return dst
}

// ResolutionSize is the number of entries that Resolution would append. It
// looks at the nodes above the leaves in except, and at no others.
func (t *Tree) ResolutionSize(node uint32, except *LeafSet) int {
	if !t.within(node) {
		return 0
	}
	size := int(t.size(node))
	for _, leaf := range except.under(node) {
		if t.resolves(node, leaf) {
			size--
		}
	}
	return size
}

// resolves reports whether a leaf under node is an entry of its resolution.
func (t *Tree) resolves(node, leaf uint32) bool {
	for node&1 == 1 {
		if p := t.parentAt(node); p != nil {
			_, found := slices.BinarySearch(p.UnmergedLeaves, leaf)
			return found
		}
		node, _ = childTowards(node, leaf)
	}
	return t.leafAt(node) != nil
}

// ResolutionIndex finds the entry of the resolution of node, without the leaves
// in except, by which a member decrypts: the entry that is above leaf or is
// the leaf, and for which has says that the private key is held. Has is asked
// with node indexes; nil stands for the nodes that the member would know,
// which are those at which the leaf is merged. Position counts the entries
// before it, and at is its node index.
func (t *Tree) ResolutionIndex(node, leaf uint32, except *LeafSet, has func(node uint32) bool) (position int, at uint32, ok bool) {
	if !t.within(node) || !Covers(node, leaf) || except.Has(leaf) {
		return 0, 0, false
	}
	for node&1 == 1 {
		p := t.parentAt(node)
		if p == nil {
			next, other := childTowards(node, leaf)
			if other < next {
				position += t.ResolutionSize(other, except)
			}
			node = next
			continue
		}
		rank, unmerged := slices.BinarySearch(p.UnmergedLeaves, leaf)
		if !unmerged {
			return position, node, has == nil || has(node)
		}
		for _, out := range except.under(node) {
			if _, found := slices.BinarySearch(p.UnmergedLeaves[:rank], out); found {
				rank--
			}
		}
		position, node = position+1+rank, 2*leaf
	}
	return position, node, t.leafAt(node) != nil && (has == nil || has(node))
}

// SetPath blanks the nodes above leaf i and puts these encryption keys on its
// filtered direct path, from the leaf up, with parent hashes and without
// unmerged leaves, RFC 9420 §7.5 and §7.9. It returns the parent hash for the
// leaf, which is empty if the filtered direct path is; the leaf is set by
// ReplaceLeaf. There is one key for each node of FilteredPath (rule 79): of
// another number SetPath panics, so a caller checks that first.
func (t *Tree) SetPath(i uint32, keys [][]byte) (parentHash []byte) {
	path := t.FilteredPath(i)
	if len(path) != len(keys) {
		panic("mls: the keys do not fit the filtered direct path")
	}
	if i >= t.width {
		return nil
	}
	t.blankPath(i)
	t.refresh(i)
	h := hasher{t: t}
	parentHash = []byte{}
	for n := len(path) - 1; n >= 0; n-- {
		key := bytes.Clone(keys[n])
		t.setParent(path[n].Node, &ParentNode{EncryptionKey: key, ParentHash: parentHash})
		// The node has no unmerged leaves, so its copath child is as it was.
		parentHash = h.parentHash(nil, key, parentHash, path[n].Copath, nil)
	}
	t.refresh(i)
	return parentHash
}
