package mls

import "bytes"

// A tree keeps its nodes in pages of 32, shared between a tree and its clones
// until one of them writes: a write copies the page it touches. The array's
// order puts the five lowest levels under a node of level 4 into one page, so
// a commit copies one page for its leaf and about one for each higher level.
const (
	pageShift = 5
	pageNodes = 1 << pageShift
	pageSlots = pageNodes / 2
)

// token says who may write in place: what carries the token of a tree is that
// tree's alone. Its address is its identity, so it is not of size zero.
type token struct{ _ byte }

// page holds pageNodes nodes: leaves and parents alternate.
type page struct {
	owner   *token
	clean   uint32 // bit per node: its hash is that of what is under it now
	fresh   uint16 // bit per parent: its unmerged leaves end in room that is this tree's
	leaves  [pageSlots]*LeafNode
	parents [pageSlots]*ParentNode
	sizes   [pageSlots]uint32 // entries in the resolutions of the parents
	hashes  []byte            // pageNodes hashes, nil until the first is made
}

// blankPage stands in for every page that nothing was written to.
var blankPage page

// slot is the place of node among the leaves or parents of its page.
func slot(node uint32) uint32 { return node % pageNodes / 2 }

// token is the token under which t owns what it writes.
func (t *Tree) token() *token {
	if k := t.key.Load(); k != nil {
		return k
	}
	k := new(token)
	t.key.Store(k)
	return k
}

// page is the page of node, for reading.
func (t *Tree) page(node uint32) *page { return t.pages[node>>pageShift] }

// own is the page of node, for writing.
func (t *Tree) own(node uint32) *page {
	p, k := t.pages[node>>pageShift], t.token()
	if p.owner == k {
		return p
	}
	q := new(page)
	*q = *p
	q.owner, q.fresh, q.hashes = k, 0, bytes.Clone(p.hashes)
	t.pages[node>>pageShift] = q
	return q
}

// within reports whether node is one of the tree's.
func (t *Tree) within(node uint32) bool { return t.width > 0 && node <= 2*(t.width-1) }

// root is the root of a tree that is not empty.
func (t *Tree) root() uint32 { return t.width - 1 }

// leafAt and parentAt are the content of a node of the tree, nil if it is blank.
func (t *Tree) leafAt(node uint32) *LeafNode     { return t.page(node).leaves[slot(node)] }
func (t *Tree) parentAt(node uint32) *ParentNode { return t.page(node).parents[slot(node)] }

// size is the number of entries in the resolution of a node of the tree.
func (t *Tree) size(node uint32) uint32 {
	p := t.page(node)
	if node&1 == 1 {
		return p.sizes[slot(node)]
	}
	if p.leaves[slot(node)] == nil {
		return 0
	}
	return 1
}

// refresh brings what is cached above leaf i in line with a change to the leaf
// or to nodes above it: the sizes of resolutions, and which hashes are right.
func (t *Tree) refresh(i uint32) {
	t.rootHash = nil
	node, root := 2*i, t.root()
	t.own(node).clean &^= 1 << (node % pageNodes)
	size := t.size(node)
	for node != root {
		below := t.size(siblingNode(node))
		node = parentNode(node)
		p, s := t.own(node), slot(node)
		if size += below; p.parents[s] != nil {
			size = 1 + uint32(len(p.parents[s].UnmergedLeaves))
		}
		p.sizes[s] = size
		p.clean &^= 1 << (node % pageNodes)
	}
}

// extend doubles the width with blank leaves, RFC 9420 §7.7.
func (t *Tree) extend() {
	under := uint32(0)
	if t.width > 0 {
		under = t.size(t.root())
	}
	t.width = max(1, 2*t.width)
	t.setPages()
	if root := t.root(); root > 0 {
		p := t.own(root)
		p.sizes[slot(root)] = under
		p.clean &^= 1 << (root % pageNodes)
	}
	t.rootHash = nil
}

// setPages brings the page table and the set of leaves to the tree's width.
// Nodes beyond the width are blank in a page that the width ends in.
func (t *Tree) setPages() {
	pages := int((2*t.width + pageNodes - 1) / pageNodes)
	for len(t.pages) < pages {
		t.pages = append(t.pages, &blankPage)
	}
	clear(t.pages[pages:])
	t.pages = t.pages[:pages]
	words := int((t.width + 63) / 64)
	for len(t.used) < words {
		t.used = append(t.used, 0)
	}
	t.used = t.used[:words]
}

// truncate halves the width while the right half has no leaf, RFC 9420 §7.7
// and §12.1.3.
func (t *Tree) truncate() {
	width := uint32(0)
	for w := len(t.used) - 1; w >= 0; w-- {
		if t.used[w] != 0 {
			last := uint32(w)*64 + highestBit(t.used[w])
			width = lastWidth(last)
			break
		}
	}
	if width >= t.width {
		return
	}
	// A parent that goes is blank in any tree that is valid; in another it
	// must not stay in the index, nor come back when the tree is extended.
	from, end := uint32(0), 2*t.width-1
	if width > 0 {
		from = 2*width - 1
	}
	for node := from | 1; node < end; node += 2 {
		if t.parentAt(node) != nil {
			t.setParent(node, nil)
		}
	}
	t.width = width
	t.setPages()
	if width > 0 && (2*width)%pageNodes != 0 {
		p := t.own(t.root())
		for node := 2*width - 1; node%pageNodes != 0; node++ {
			p.clean &^= 1 << (node % pageNodes)
			p.sizes[slot(node)] = 0
		}
	}
	t.rootHash = nil
}
