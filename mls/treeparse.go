package mls

import (
	"math/bits"
	"slices"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// ParseTree reads the body of a ratchet_tree extension, RFC 9420 §12.4.3.3, and
// extends the tree to its full width. Nodes alias b. What it returns has the
// shape of a tree: leaves and parents where they belong, unmerged leaves in
// order and under their nodes, and at most MaxMembers leaves. Whether it is a
// valid tree is for Validate. Hashes and indexes are made when they are asked
// for; see Settle.
func ParseTree(s *suite.Suite, b []byte) (*Tree, error) {
	t := NewTree(s)
	r := codec.NewReader(b)
	in := r.Sub()
	k := t.token()
	var p *page
	node := uint32(0)
	for ; in.Len() > 0; node++ {
		if node >= 2*MaxMembers-1 {
			return nil, refuse(RuleBounds, "the tree has more than %d leaves", MaxMembers)
		}
		if node%pageNodes == 0 {
			p = &page{owner: k}
			t.pages = append(t.pages, p)
		}
		if !in.Optional() {
			continue
		}
		// RFC 9420 §12.4.3.3: leaves stand at even places, parents at odd ones.
		if kind := in.Uint8(); in.Err() == nil && kind != uint8(nodeLeaf+node&1) {
			return nil, refuse(RuleTreeShape, "node %d has type %d", node, kind)
		}
		if node&1 == 0 {
			l := readLeafNode(&in)
			p.leaves[slot(node)] = l
			t.octets += l.octets()
		} else {
			q := readParentNode(&in)
			p.parents[slot(node)] = q
			t.octets += q.octets()
		}
	}
	r.Join(&in)
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	if err := t.checkOctets(); err != nil {
		return nil, err
	}
	if err := t.takeShape(node); err != nil {
		return nil, err
	}
	return t, nil
}

// takeShape makes a tree of the nodes that were read.
func (t *Tree) takeShape(nodes uint32) error {
	// RFC 9420 §12.4.3.3: blank nodes after the last one that is not blank are
	// left out, and no parent of a valid tree stands after the last leaf.
	if nodes%2 == 0 || t.pages[(nodes-1)>>pageShift].leaves[slot(nodes-1)] == nil {
		return refuse(RuleTreeShape, "the last of %d nodes is not a leaf that is not blank", nodes)
	}
	// RFC 9420 §7.7: the least power of two that has room for the last leaf.
	t.width = lastWidth((nodes - 1) / 2)
	t.setPages()
	for w := range t.used {
		for half := range 4 {
			if n := 4*w + half; n < len(t.pages) {
				t.used[w] |= t.pages[n].usedLeaves() << (pageSlots * half)
			}
		}
		t.members += bits.OnesCount64(t.used[w])
	}
	if t.width == 1 {
		return nil
	}
	_, err := t.takeSizes(t.root(), nodes)
	return err
}

// usedLeaves has a bit for each leaf of the page that is not blank.
func (p *page) usedLeaves() uint64 {
	out := uint64(0)
	for s, l := range p.leaves {
		if l != nil {
			out |= 1 << s
		}
	}
	return out
}

// takeSizes sets the sizes of resolutions from node down and returns that of
// node. Nodes from the one with index nodes on are blank.
func (t *Tree) takeSizes(node, nodes uint32) (uint32, error) {
	if node&1 == 0 {
		return t.size(node), nil
	}
	left, err := t.takeSizes(leftChild(node), nodes)
	if err != nil {
		return 0, err
	}
	right := uint32(0)
	if node < nodes {
		if right, err = t.takeSizes(rightChild(node), nodes); err != nil {
			return 0, err
		}
	}
	size := left + right
	if p := t.parentAt(node); p != nil {
		if err := checkUnmergedOrder(node, p.UnmergedLeaves); err != nil {
			return 0, err
		}
		size = 1 + uint32(len(p.UnmergedLeaves))
	}
	if size > 0 {
		t.own(node).sizes[slot(node)] = size
	}
	return size, nil
}

// checkUnmergedOrder refuses a list of unmerged leaves that is not in
// ascending order or has a leaf that is not under node. RFC 9420 §7.1, §12.4.3.1.
func checkUnmergedOrder(node uint32, list []uint32) error {
	first, end := leafRange(node)
	for n, leaf := range list {
		if leaf < first || leaf >= end {
			return refuse(RuleUnmergedLeaves, "leaf %d is unmerged at node %d and not under it", leaf, node)
		}
		if n > 0 && leaf <= list[n-1] {
			return refuse(RuleUnmergedLeaves, "the unmerged leaves of node %d are not in ascending order", node)
		}
	}
	return nil
}

// AppendTo appends the body of a ratchet_tree extension, RFC 9420 §12.4.3.3:
// all nodes up to the last one that is not blank.
func (t *Tree) AppendTo(dst []byte) []byte {
	end := t.serialised()
	size := int(end)
	for node := range end {
		size += t.contentSize(node)
	}
	dst = codec.AppendLength(slices.Grow(dst, 4+size), size)
	for node := range end {
		p := t.page(node)
		switch l, q := p.leaves[slot(node)], p.parents[slot(node)]; {
		case node&1 == 0 && l != nil:
			dst = l.AppendTo(append(dst, 1, nodeLeaf))
		case node&1 == 1 && q != nil:
			dst = q.AppendTo(append(dst, 1, nodeParent))
		default:
			dst = append(dst, 0)
		}
	}
	return dst
}

// contentSize is the number of octets of a node after its presence: its type
// and what it holds.
func (t *Tree) contentSize(node uint32) int {
	if node&1 == 1 {
		p := t.parentAt(node)
		if p == nil {
			return 0
		}
		return 1 + vectorSize(len(p.EncryptionKey)) + vectorSize(len(p.ParentHash)) + vectorSize(4*len(p.UnmergedLeaves))
	}
	switch l := t.leafAt(node); {
	case l == nil:
		return 0
	case l.raw != nil:
		return 1 + len(l.raw)
	default:
		return 1 + len(l.AppendTo(nil))
	}
}

// vectorSize is the number of octets of a vector whose content has n.
func vectorSize(n int) int { return codec.LengthSize(n) + n }

// serialised is the number of nodes up to the last one that is not blank.
func (t *Tree) serialised() uint32 {
	for n := len(t.pages) - 1; n >= 0; n-- {
		p := t.pages[n]
		for s := pageSlots - 1; s >= 0; s-- {
			node := uint32(n*pageNodes + 2*s)
			if p.parents[s] != nil {
				return node + 2
			}
			if p.leaves[s] != nil {
				return node + 1
			}
		}
	}
	return 0
}
