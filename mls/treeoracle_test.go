package mls

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// twoAtOnce is a Parallel of two goroutines.
func twoAtOnce(n int, f func(i int)) {
	var wg sync.WaitGroup
	for half := range 2 {
		wg.Go(func() {
			for i := half; i < n; i += 2 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// testLeaf makes a leaf whose keys come from numbers. It has no signature.
func testLeaf(encryption, signature uint32, source LeafSource, parentHash []byte, kind CredentialType) *LeafNode {
	key := func(what string, n uint32) []byte {
		return suite.Lookup(1).RefHash(nil, what, binary.BigEndian.AppendUint32(nil, n))
	}
	l := &LeafNode{
		EncryptionKey: key("encryption", encryption),
		SignatureKey:  key("signature", signature),
		Credential:    Credential{Type: kind, Data: fmt.Appendf(nil, "member %d", signature)},
		Capabilities:  NewCapabilities([]Version{Version10}, []Suite{1}, nil, nil, []CredentialType{CredentialBasic, kind}),
		Source:        source,
		Lifetime:      Lifetime{1, 1 << 40},
		ParentHash:    parentHash,
	}
	read, err := ParseLeafNode(l.AppendTo(nil))
	if err != nil {
		panic(err)
	}
	return read
}

// naiveTree is a ratchet tree that keeps nothing but its nodes and computes
// everything from them by the definitions of RFC 9420. A subtree is given by
// its first leaf and its width.
type naiveTree struct {
	s       *suite.Suite
	leaves  []*LeafNode
	parents map[uint32]*ParentNode
}

func (n *naiveTree) clone() *naiveTree {
	c := &naiveTree{s: n.s, leaves: slices.Clone(n.leaves), parents: map[uint32]*ParentNode{}}
	for node, p := range n.parents {
		c.parents[node] = p
	}
	return c
}

// top is the node index of the subtree's root.
func top(first, width uint32) uint32 { return 2*first + width - 1 }

// subtree is the subtree under node.
func (n *naiveTree) subtree(node uint32) (first, width uint32) {
	first, width = 0, uint32(len(n.leaves))
	for top(first, width) != node {
		width /= 2
		if node > top(first, 2*width) {
			first += width
		}
	}
	return first, width
}

// path are the subtrees above leaf i, from its parent's to the whole tree.
func (n *naiveTree) path(i uint32) [][2]uint32 {
	var out [][2]uint32
	for width := uint32(2); width <= uint32(len(n.leaves)); width *= 2 {
		out = append(out, [2]uint32{i / width * width, width})
	}
	return out
}

// hash is the tree hash of a subtree in which the leaves in gone are blank and
// nowhere unmerged, RFC 9420 §7.8, §7.9.
func (n *naiveTree) hash(first, width uint32, gone []uint32) []byte {
	if width == 1 {
		in := codec.Uint32([]byte{1}, first)
		if l := n.leaves[first]; l != nil && !slices.Contains(gone, first) {
			in = l.AppendTo(append(in, 1))
		} else {
			in = append(in, 0)
		}
		return n.s.Hash(nil, in)
	}
	in := []byte{2}
	if p := n.parents[top(first, width)]; p != nil {
		q := &ParentNode{EncryptionKey: p.EncryptionKey, ParentHash: p.ParentHash}
		for _, leaf := range p.UnmergedLeaves {
			if !slices.Contains(gone, leaf) {
				q.UnmergedLeaves = append(q.UnmergedLeaves, leaf)
			}
		}
		in = q.AppendTo(append(in, 1))
	} else {
		in = append(in, 0)
	}
	in = codec.AppendVec(in, n.hash(first, width/2, gone))
	in = codec.AppendVec(in, n.hash(first+width/2, width/2, gone))
	return n.s.Hash(nil, in)
}

// parentHash is the parent hash of node with the given copath child, RFC 9420 §7.9.
func (n *naiveTree) parentHash(p *ParentNode, first, width uint32) []byte {
	in := codec.AppendVec(codec.AppendVec(nil, p.EncryptionKey), p.ParentHash)
	return n.s.Hash(nil, codec.AppendVec(in, n.hash(first, width, p.UnmergedLeaves)))
}

// resolution is the resolution of a subtree's root, RFC 9420 §4.1.1.
func (n *naiveTree) resolution(first, width uint32) []uint32 {
	if width == 1 {
		if n.leaves[first] == nil {
			return nil
		}
		return []uint32{2 * first}
	}
	if p := n.parents[top(first, width)]; p != nil {
		out := []uint32{top(first, width)}
		for _, leaf := range p.UnmergedLeaves {
			out = append(out, 2*leaf)
		}
		return out
	}
	return append(n.resolution(first, width/2), n.resolution(first+width/2, width/2)...)
}

func (n *naiveTree) add(l *LeafNode) uint32 {
	i := slices.Index(n.leaves, nil)
	if i < 0 {
		i = len(n.leaves)
		n.leaves = append(n.leaves, make([]*LeafNode, max(1, i))...)
	}
	n.leaves[i] = l
	for _, sub := range n.path(uint32(i)) {
		node := top(sub[0], sub[1])
		if p := n.parents[node]; p != nil {
			list := append(slices.Clone(p.UnmergedLeaves), uint32(i))
			slices.Sort(list)
			n.parents[node] = &ParentNode{p.EncryptionKey, p.ParentHash, list}
		}
	}
	return uint32(i)
}

func (n *naiveTree) update(i uint32, l *LeafNode) {
	n.leaves[i] = l
	for _, sub := range n.path(i) {
		delete(n.parents, top(sub[0], sub[1]))
	}
}

func (n *naiveTree) remove(i uint32) {
	n.update(i, nil)
	for len(n.leaves) > 0 {
		half := len(n.leaves) / 2
		if slices.ContainsFunc(n.leaves[half:], func(l *LeafNode) bool { return l != nil }) {
			break
		}
		for node := range n.parents {
			if int(node) >= 2*half-1 {
				delete(n.parents, node)
			}
		}
		n.leaves = n.leaves[:half]
	}
}

// filtered is the filtered direct path of leaf i, RFC 9420 §4.1.2: subtrees,
// and the subtrees of their copath children.
func (n *naiveTree) filtered(i uint32) (path, copath [][2]uint32) {
	for _, sub := range n.path(i) {
		first, width := sub[0], sub[1]/2
		if i < first+width {
			first += width
		}
		if len(n.resolution(first, width)) > 0 {
			path, copath = append(path, sub), append(copath, [2]uint32{first, width})
		}
	}
	return path, copath
}

// setPath merges an update path, RFC 9420 §7.5, and returns the leaf's parent hash.
func (n *naiveTree) setPath(i uint32, keys [][]byte) []byte {
	path, copath := n.filtered(i)
	n.update(i, n.leaves[i])
	var hash []byte
	for k := len(path) - 1; k >= 0; k-- {
		p := &ParentNode{EncryptionKey: keys[k], ParentHash: hash}
		n.parents[top(path[k][0], path[k][1])] = p
		hash = n.parentHash(p, copath[k][0], copath[k][1])
	}
	return hash
}

// encode is the body of a ratchet_tree extension, RFC 9420 §12.4.3.3.
func (n *naiveTree) encode() []byte {
	var out []byte
	end := 0
	for node := range uint32(max(1, 2*len(n.leaves)) - 1) {
		switch {
		case node%2 == 0 && n.leaves[node/2] != nil:
			out = n.leaves[node/2].AppendTo(append(out, 1, 1))
			end = len(out)
		case node%2 == 1 && n.parents[node] != nil:
			out = n.parents[node].AppendTo(append(out, 1, 2))
			end = len(out)
		default:
			out = append(out, 0)
		}
	}
	return codec.AppendVec(nil, out[:end])
}

// parentHashField is the parent_hash of a node, nil if it has none.
func (n *naiveTree) parentHashField(node uint32) []byte {
	if node%2 == 1 {
		return n.parents[node].ParentHash
	}
	if l := n.leaves[node/2]; l.Source == LeafCommit {
		return l.ParentHash
	}
	return nil
}

// valid checks every condition of RFC 9420 §7.9.2 and §12.4.3.1 on parents as
// it stands there, by looking at every pair of nodes.
func (n *naiveTree) valid() error {
	seen := map[string]bool{}
	for i, l := range n.leaves {
		if l == nil {
			continue
		}
		if seen["s"+string(l.SignatureKey)] || seen["e"+string(l.EncryptionKey)] {
			return fmt.Errorf("the keys of leaf %d are not its own", i)
		}
		seen["s"+string(l.SignatureKey)], seen["e"+string(l.EncryptionKey)] = true, true
	}
	for node := range uint32(max(1, 2*len(n.leaves)) - 1) {
		p := n.parents[node]
		if p == nil {
			continue
		}
		if seen["e"+string(p.EncryptionKey)] {
			return fmt.Errorf("the key of node %d is not its own", node)
		}
		seen["e"+string(p.EncryptionKey)] = true
	}
	for node, p := range n.parents {
		if err := n.validUnmerged(node, p); err != nil {
			return err
		}
	}
	for node, p := range n.parents {
		first, width := n.subtree(node)
		children := [2]uint32{first, first + width/2}
		chains := 0
		for side, child := range children {
			want := n.parentHash(p, children[1-side], width/2)
			resolution := n.resolution(child, width/2)
			for _, d := range resolution {
				if !bytes.Equal(n.parentHashField(d), want) {
					continue
				}
				if rest := slices.DeleteFunc(slices.Clone(resolution), func(x uint32) bool { return x == d }); n.sameLeaves(rest, p.UnmergedLeaves, child, width/2) {
					chains++
				}
			}
		}
		if chains != 1 {
			return fmt.Errorf("node %d is in %d chains", node, chains)
		}
	}
	return nil
}

// sameLeaves reports whether nodes are just those leaves of a list which are in a subtree.
func (n *naiveTree) sameLeaves(nodes, list []uint32, first, width uint32) bool {
	var under []uint32
	for _, leaf := range list {
		if leaf >= first && leaf < first+width {
			under = append(under, 2*leaf)
		}
	}
	slices.Sort(nodes)
	return slices.Equal(nodes, under)
}

func (n *naiveTree) validUnmerged(node uint32, p *ParentNode) error {
	first, width := n.subtree(node)
	if !slices.IsSorted(p.UnmergedLeaves) || len(slices.Compact(slices.Clone(p.UnmergedLeaves))) != len(p.UnmergedLeaves) {
		return errors.New("unmerged leaves are not in order")
	}
	for _, leaf := range p.UnmergedLeaves {
		if leaf < first || leaf >= first+width || n.leaves[leaf] == nil {
			return fmt.Errorf("leaf %d is unmerged at node %d", leaf, node)
		}
		for _, sub := range n.path(leaf) {
			between := n.parents[top(sub[0], sub[1])]
			if sub[1] < width && between != nil && !slices.Contains(between.UnmergedLeaves, leaf) {
				return fmt.Errorf("leaf %d is unmerged at node %d, merged below", leaf, node)
			}
		}
	}
	return nil
}
