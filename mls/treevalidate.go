package mls

import (
	"bytes"
	"slices"

	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// validatePart and signaturePart are the nodes and the signatures that are
// checked in one go: some tens of microseconds of either.
const (
	validatePart  = 512
	signaturePart = 4
)

// Validate checks the tree as one that joins the group must, RFC 9420
// §12.4.3.1, with p for the hashes and signatures: the signatures of leaves,
// parent hashes, unmerged leaves, and that keys are unique (rules 39, 49, 55
// to 60). It does not check what needs the group's context or a policy:
// capabilities, credentials, lifetimes, and the tree hash.
func (t *Tree) Validate(groupID []byte, p Parallel) error {
	if err := t.validateShape(p); err != nil {
		return err
	}
	if err := t.eachParent(p, (*treeChecker).key); err != nil {
		return err
	}
	return t.checkSignatures(groupID, p)
}

// validateShape is Validate without what needs the suite's keys to be keys.
func (t *Tree) validateShape(p Parallel) error {
	if err := t.eachParent(p, (*treeChecker).unmerged); err != nil {
		return err
	}
	t.HashWith(p)
	if err := t.eachParent(p, (*treeChecker).parentHash); err != nil {
		return err
	}
	t.index(p)
	return t.CheckUnique()
}

// checkSignatures verifies the leaves' signatures and refuses the first leaf
// whose signature is wrong.
func (t *Tree) checkSignatures(groupID []byte, p Parallel) error {
	leaves := make([]uint32, 0, t.members)
	for i := range t.All() {
		leaves = append(leaves, i)
	}
	return firstError(p, len(leaves), signaturePart, func(from, end int) error {
		var tbs []byte
		for _, i := range leaves[from:end] {
			l := t.leafAt(2 * i)
			tbs = l.appendTBS(tbs[:0], groupID, i)
			if !t.suite.Verify(l.SignatureKey, labelLeafNode, tbs, l.Signature) {
				// RFC 9420 §7.2, §12.4.3.1
				return refuse(RuleTreeLeaf, "leaf %d: %w", i, refuse(RuleLeafSignature, "the signature does not verify"))
			}
		}
		return nil
	})
}

// firstError runs f over n things in parts and returns the error of the first
// part that has one, whatever the order in which p ran them.
func firstError(p Parallel, n, part int, f func(from, end int) error) error {
	errs := make([]error, (n+part-1)/part)
	p.Run(len(errs), func(i int) {
		errs[i] = f(i*part, min(n, (i+1)*part))
	})
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// treeChecker checks parents; the buffer of its hasher is kept between them.
type treeChecker struct {
	hasher
}

// eachParent checks every parent that is not blank.
func (t *Tree) eachParent(p Parallel, check func(c *treeChecker, node uint32, parent *ParentNode) error) error {
	return firstError(p, int(t.serialised()), validatePart, func(from, end int) error {
		c := treeChecker{hasher{t: t}}
		for node := uint32(from) | 1; node < uint32(end); node += 2 {
			if parent := t.parentAt(node); parent != nil {
				if err := check(&c, node, parent); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// key checks that a parent's encryption key is one of the suite: whoever
// commits encrypts to it.
func (c *treeChecker) key(node uint32, parent *ParentNode) error {
	if err := hpke.CheckPublicKey(c.t.suite, parent.EncryptionKey); err != nil {
		// RFC 9180 §7.1.4
		return refuse(RuleDHValidation, "node %d: %w", node, err)
	}
	return nil
}

// unmerged checks the unmerged leaves of a parent against the nodes between.
func (c *treeChecker) unmerged(node uint32, parent *ParentNode) error {
	list := parent.UnmergedLeaves
	if len(list) == 0 {
		return nil
	}
	if err := checkUnmergedOrder(node, list); err != nil {
		return err
	}
	left, right := leftChild(node), rightChild(node)
	if err := c.unmergedBelow(node, left, between(list, left)); err != nil {
		return err
	}
	return c.unmergedBelow(node, right, between(list, right))
}

// unmergedBelow checks that leaves under node, which are unmerged at parent,
// are not blank, and are unmerged at the first node on the way to each that is
// not blank. That node's own list says the same of those below it.
func (c *treeChecker) unmergedBelow(parent, node uint32, list []uint32) error {
	if len(list) == 0 {
		return nil
	}
	if node&1 == 0 {
		if c.t.leafAt(node) == nil {
			// RFC 9420 §12.4.3.1
			return refuse(RuleUnmergedLeaves, "leaf %d is unmerged at node %d and blank", node/2, parent)
		}
		return nil
	}
	if p := c.t.parentAt(node); p != nil {
		if missing := without(list, p.UnmergedLeaves); len(missing) > 0 {
			// RFC 9420 §12.4.3.1
			return refuse(RuleUnmergedBelow, "leaf %d is unmerged at node %d and not at node %d below", missing[0], parent, node)
		}
		return nil
	}
	middle, _ := slices.BinarySearch(list, (node+1)/2)
	if err := c.unmergedBelow(parent, leftChild(node), list[:middle]); err != nil {
		return err
	}
	return c.unmergedBelow(parent, rightChild(node), list[middle:])
}

// parentHash checks that a parent is parent-hash valid: that the parent hash of
// exactly one node below it is its own, RFC 9420 §7.9.2. That node is valid in
// turn, or a leaf, so that the chain ends in a leaf.
func (c *treeChecker) parentHash(node uint32, parent *ParentNode) error {
	left, right := leftChild(node), rightChild(node)
	covered, empty := 0, -1
	for _, side := range [2][2]uint32{{left, right}, {right, left}} {
		child, sibling := side[0], side[1]
		below, ok := c.onlyMerged(child, between(parent.UnmergedLeaves, child))
		if !ok {
			continue
		}
		claimed, ok := c.t.parentHashOf(below)
		if !ok {
			continue
		}
		if len(claimed) == 0 {
			empty = int(below)
			continue
		}
		var room [suite.MaxHash]byte
		gone := between(parent.UnmergedLeaves, sibling)
		want := c.hasher.parentHash(room[:0], parent.EncryptionKey, parent.ParentHash, sibling, gone)
		if bytes.Equal(claimed, want) {
			covered++
		}
	}
	switch {
	case covered == 1:
		return nil
	case covered == 0 && empty >= 0:
		// RFC 9420 §7.9
		return refuse(RuleEmptyParentHash, "node %d has no parent hash though node %d is above it", empty, node)
	case covered == 0:
		// RFC 9420 §7.9.2
		return refuse(RuleParentHash, "no node below node %d has its parent hash", node)
	default:
		// RFC 9420 §7.9.2
		return refuse(RuleParentHash, "two nodes below node %d have its parent hash", node)
	}
}

// onlyMerged is the one entry of the resolution of node that is not in
// unmerged: those leaves under node that are unmerged at the parent above. It
// fails if there is not exactly one. All of unmerged are entries, by the check
// that was made before, so that it is enough to count.
func (c *treeChecker) onlyMerged(node uint32, unmerged []uint32) (uint32, bool) {
	if c.t.size(node) != uint32(len(unmerged))+1 {
		return 0, false
	}
	for node&1 == 1 && c.t.parentAt(node) == nil {
		left, right := leftChild(node), rightChild(node)
		middle, _ := slices.BinarySearch(unmerged, (node+1)/2)
		if c.t.size(left) > uint32(middle) {
			node, unmerged = left, unmerged[:middle]
		} else {
			node, unmerged = right, unmerged[middle:]
		}
	}
	return node, true
}

// parentHashOf is the parent_hash field of a node that is not blank, and
// whether it has one: a leaf has it if it is from a commit.
func (t *Tree) parentHashOf(node uint32) ([]byte, bool) {
	if node&1 == 1 {
		return t.parentAt(node).ParentHash, true
	}
	l := t.leafAt(node)
	return l.ParentHash, l.Source == LeafCommit
}
