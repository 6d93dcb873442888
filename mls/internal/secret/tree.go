package secret

import (
	"math/bits"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// MaxLeaves is the widest secret tree: node indexes have 32 bits, RFC 9420 App. C.
const MaxLeaves = 1 << 31

// pageSecrets is how many secrets one page of slots holds.
const pageSecrets = 32

// noSlot marks that there is no secret.
const noSlot = ^uint32(0)

var sideLeft, sideRight = []byte("left"), []byte("right")

// slots is a table of secrets of one size. Its pages never move, so that no
// copy of a secret is left behind when it grows.
type slots struct {
	size  int
	pages [][]byte
	free  []uint32
	used  uint32 // slots handed out at least once
}

func (t *slots) at(i uint32) []byte {
	from := int(i%pageSecrets) * t.size
	return t.pages[i/pageSecrets][from : from+t.size : from+t.size]
}

func (t *slots) add() uint32 {
	if n := len(t.free); n > 0 {
		i := t.free[n-1]
		t.free = t.free[:n-1]
		return i
	}
	if t.used%pageSecrets == 0 {
		t.pages = append(t.pages, make([]byte, pageSecrets*t.size))
	}
	t.used++
	return t.used - 1
}

func (t *slots) release(i uint32) {
	if i != noSlot {
		Wipe(t.at(i))
		t.free = append(t.free, i)
	}
}

func (t *slots) wipe() {
	Wipe(t.pages...)
	*t = slots{size: t.size}
}

// tree is the lazy secret tree of RFC 9420 §9. It keeps only the frontier:
// the secrets of nodes of which no leaf below was derived yet. Deriving a leaf
// replaces the one node above it by the siblings along the way down, so k
// leaves leave at most k·log2(width) nodes.
type tree struct {
	suite *suite.Suite
	width uint32 // leaves, a power of two; 0 after wipe
	slots slots
	nodes map[uint32]uint32 // in-order node index to slot
	next  []byte            // scratch, Nh octets, zeros between calls
}

func newTree(s *suite.Suite, width uint32) tree {
	return tree{
		suite: s, width: width, slots: slots{size: s.HashSize()},
		nodes: make(map[uint32]uint32), next: make([]byte, s.HashSize()),
	}
}

// put copies a node's secret into the frontier.
func (t *tree) put(node uint32, secret []byte) {
	slot := t.slots.add()
	copy(t.slots.at(slot), secret)
	t.nodes[node] = slot
}

// nodeAt is the in-order index of the node of a level that covers the leaves
// from first on; first is a multiple of 2^level.
func nodeAt(first uint32, level int) uint32 { return 2*first + (1<<level - 1) }

func nodeLevel(node uint32) int { return bits.TrailingZeros32(^node) }

// above finds the node of the frontier that covers a leaf; false if the leaf
// was derived already.
func (t *tree) above(leaf uint32) (node uint32, ok bool) {
	for level := 0; level <= bits.TrailingZeros32(t.width); level++ {
		node = nodeAt(leaf>>level<<level, level)
		if _, ok = t.nodes[node]; ok {
			return node, true
		}
	}
	return 0, false
}

// down replaces secret, the secret of node, by that of the child towards leaf.
// If keep is set, the other child enters the frontier.
func (t *tree) down(secret []byte, node, leaf uint32, keep bool) (child uint32) {
	half := uint32(1) << (nodeLevel(node) - 1)
	child, other := node-half, node+half
	side, otherSide := sideLeft, sideRight
	if 2*leaf > node {
		child, other, side, otherSide = other, child, otherSide, side
	}
	if keep {
		slot := t.slots.add()
		t.suite.ExpandWithLabel(t.slots.at(slot)[:0], secret, "tree", otherSide, len(secret))
		t.nodes[other] = slot
	}
	t.next = t.suite.ExpandWithLabel(t.next[:0], secret, "tree", side, len(secret))
	copy(secret, t.next)
	return child
}

// leaf writes the secret of a leaf to dst, Nh octets; false if the leaf was
// derived before. With take the leaf leaves the tree: the node above it is
// wiped, its unused siblings stay, RFC 9420 §9.2. Without, nothing changes.
func (t *tree) leaf(dst []byte, leaf uint32, take bool) bool {
	node, ok := t.above(leaf)
	if !ok {
		return false
	}
	slot := t.nodes[node]
	copy(dst, t.slots.at(slot))
	if take {
		t.slots.release(slot)
		delete(t.nodes, node)
	}
	for node != 2*leaf {
		node = t.down(dst, node, leaf, take)
	}
	Wipe(t.next)
	return true
}

func (t *tree) wipe() {
	t.slots.wipe()
	Wipe(t.next)
	t.nodes, t.width = nil, 0
}

// size is the octets of the serialised frontier.
func (t *tree) size() int { return len(t.nodes) * (1 + t.slots.size) }

// frontier finds the node whose leaves start at first.
func (t *tree) frontier(first uint32) (level int, secret []byte, ok bool) {
	most := bits.TrailingZeros32(first | t.width)
	for level = 0; level <= most; level++ {
		if slot, ok := t.nodes[nodeAt(first, level)]; ok {
			return level, t.slots.at(slot), true
		}
	}
	return 0, nil, false
}
