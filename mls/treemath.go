package mls

import "math/bits"

// The nodes of a tree with 2^d leaves stand in one array, in the order of an
// in-order walk: leaf i at 2i, the parents between, the root at 2^d - 1.
// RFC 9420 App. C. A node's level is its height above the leaves. None of
// these functions overflows for nodes of a tree of MaxMembers leaves; numbers
// from the wire are compared with the tree's width before they come here.

// nodeLevel is the height of node x above the leaves, 0 for a leaf.
func nodeLevel(x uint32) uint32 { return uint32(bits.TrailingZeros32(^x)) }

// leftChild is the left child of parent x.
func leftChild(x uint32) uint32 { return x ^ 1<<(nodeLevel(x)-1) }

// rightChild is the right child of parent x.
func rightChild(x uint32) uint32 { return x ^ 3<<(nodeLevel(x)-1) }

// parentNode is the node above x; x is not the root.
func parentNode(x uint32) uint32 {
	k := nodeLevel(x)
	return (x | 1<<k) &^ (1 << (k + 1))
}

// siblingNode is the other child of the node above x; x is not the root.
func siblingNode(x uint32) uint32 { return x ^ 2<<nodeLevel(x) }

// leafRange are the leaves under node x: from first, before end.
func leafRange(x uint32) (first, end uint32) {
	k := nodeLevel(x)
	first = x >> (k + 1) << k
	return first, first + 1<<k
}

// childTowards is the child of parent x on the way to a leaf under x, and the
// other child.
func childTowards(x, leaf uint32) (towards, other uint32) {
	if 2*leaf < x {
		return leftChild(x), rightChild(x)
	}
	return rightChild(x), leftChild(x)
}

// Covers reports whether the leaf with this index is node or is under it.
// Node is an index of the array of RFC 9420 App. C.
func Covers(node, leaf uint32) bool {
	k := nodeLevel(node)
	return k < 31 && node>>(k+1) == leaf>>k
}

// nodeAbove is the node above a leaf at a level; at level 0 it is the leaf's own.
func nodeAbove(leaf, level uint32) uint32 { return leaf>>level<<(level+1) | (1<<level - 1) }
