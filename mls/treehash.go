package mls

import (
	"slices"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// The node types of RFC 9420 §7.8.
const (
	nodeLeaf   = 1
	nodeParent = 2
)

// hashLevel is the height of the subtrees that are hashed in parallel. Two of
// them share no page, so that none writes where another reads.
const hashLevel = 7

// hasher makes the hashes of a tree's nodes; its buffer is kept between them.
type hasher struct {
	t   *Tree
	buf []byte
}

// Hash is the tree hash of the root, RFC 9420 §7.8, of the suite's hash size.
// Only nodes above a change are hashed anew. The hash of an empty tree is that
// of one blank leaf. The caller must not change it.
func (t *Tree) Hash() []byte { return t.HashWith(nil) }

// HashWith is Hash; where much has changed, p hashes subtrees.
func (t *Tree) HashWith(p Parallel) []byte {
	if t.rootHash != nil {
		return t.rootHash
	}
	if t.width == 0 {
		t.rootHash = (&hasher{t: t}).blankLeaf(nil, 0)
		return t.rootHash
	}
	if p != nil {
		t.hashSubtrees(p)
	}
	h := hasher{t: t}
	t.rootHash = slices.Clone(h.node(t.root()))
	return t.rootHash
}

// NodeHash is the tree hash of the node with index node; nil if it is not in
// the tree.
func (t *Tree) NodeHash(node uint32) []byte {
	if !t.within(node) {
		return nil
	}
	h := hasher{t: t}
	return slices.Clone(h.node(node))
}

// hashSubtrees hashes those subtrees of hashLevel that have changed.
func (t *Tree) hashSubtrees(p Parallel) {
	const step = 2 << hashLevel
	var dirty []uint32
	for node := uint32(step/2 - 1); t.within(node); node += step {
		if !t.isClean(node) {
			dirty = append(dirty, node)
		}
	}
	t.token() // made here, and only read by the parts
	p.Run(len(dirty), func(i int) {
		h := hasher{t: t}
		h.node(dirty[i])
	})
}

func (t *Tree) isClean(node uint32) bool { return t.page(node).clean>>(node%pageNodes)&1 == 1 }

// kept is the place of a node's hash in its page.
func (p *page) kept(node uint32, size int) []byte {
	at := int(node%pageNodes) * size
	return p.hashes[at : at+size : at+size]
}

// node is the tree hash of a node of the tree. It stays in the node's page:
// whoever keeps it copies it.
func (h *hasher) node(node uint32) []byte {
	size := h.t.suite.HashSize()
	if h.t.isClean(node) {
		return h.t.page(node).kept(node, size)
	}
	if node&1 == 0 {
		h.buf = appendLeafInput(h.buf[:0], node/2, h.t.leafAt(node))
	} else {
		left, right := h.node(leftChild(node)), h.node(rightChild(node))
		h.buf = appendParentInput(h.buf[:0], h.t.parentAt(node), left, right)
	}
	p := h.t.own(node)
	if p.hashes == nil {
		p.hashes = make([]byte, pageNodes*size)
	}
	out := p.kept(node, size)
	h.t.suite.Hash(out[:0], h.buf)
	p.clean |= 1 << (node % pageNodes)
	return out
}

// appendLeafInput appends the TreeHashInput of a leaf, RFC 9420 §7.8; nil is a
// blank one.
func appendLeafInput(dst []byte, i uint32, l *LeafNode) []byte {
	dst = codec.AppendOptional(codec.Uint32(append(dst, nodeLeaf), i), l != nil)
	if l != nil {
		dst = l.AppendTo(dst)
	}
	return dst
}

// appendParentInput appends the TreeHashInput of a parent, RFC 9420 §7.8, with
// the hashes of its children; nil is a blank one.
func appendParentInput(dst []byte, p *ParentNode, left, right []byte) []byte {
	dst = codec.AppendOptional(append(dst, nodeParent), p != nil)
	if p != nil {
		dst = p.AppendTo(dst)
	}
	return codec.AppendVec(codec.AppendVec(dst, left), right)
}

// blankLeaf appends the tree hash of a blank leaf.
func (h *hasher) blankLeaf(dst []byte, i uint32) []byte {
	h.buf = appendLeafInput(h.buf[:0], i, nil)
	return h.t.suite.Hash(dst, h.buf)
}

// original appends the tree hash of node as it was before the leaves in gone
// were added below it: they are blank, and unmerged nowhere. RFC 9420 §7.9.
// Gone is in ascending order and all under node.
func (h *hasher) original(dst []byte, node uint32, gone []uint32) []byte {
	if len(gone) == 0 {
		return append(dst, h.node(node)...)
	}
	if node&1 == 0 {
		return h.blankLeaf(dst, node/2)
	}
	var left, right [suite.MaxHash]byte
	middle, _ := slices.BinarySearch(gone, (node+1)/2)
	l := h.original(left[:0], leftChild(node), gone[:middle])
	r := h.original(right[:0], rightChild(node), gone[middle:])
	p := h.t.parentAt(node)
	if p != nil {
		p = &ParentNode{EncryptionKey: p.EncryptionKey, ParentHash: p.ParentHash, UnmergedLeaves: without(p.UnmergedLeaves, gone)}
	}
	h.buf = appendParentInput(h.buf[:0], p, l, r)
	return h.t.suite.Hash(dst, h.buf)
}

// without is list less what is in gone; both are in ascending order.
func without(list, gone []uint32) []uint32 {
	var out []uint32
	for _, leaf := range list {
		for len(gone) > 0 && gone[0] < leaf {
			gone = gone[1:]
		}
		if len(gone) == 0 || gone[0] != leaf {
			out = append(out, leaf)
		}
	}
	return out
}

// parentHash appends the parent hash of a parent with this key and parent hash
// and with copath child sibling, as that was without the leaves in gone,
// RFC 9420 §7.9.
func (h *hasher) parentHash(dst, key, parentHash []byte, sibling uint32, gone []uint32) []byte {
	var room [suite.MaxHash]byte
	original := h.original(room[:0], sibling, gone)
	h.buf = codec.AppendVec(h.buf[:0], key)
	h.buf = codec.AppendVec(h.buf, parentHash)
	h.buf = codec.AppendVec(h.buf, original)
	return h.t.suite.Hash(dst, h.buf)
}
