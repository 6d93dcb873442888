package mls

import (
	"bytes"
	"slices"
)

// indexes are what a tree can be asked for by key, and what its members have
// in common. Equal keys may be held for as long as a list of proposals is
// applied; CheckUnique asks for them when it is done.
type indexes struct {
	encryption index // nodes by encryption key
	signature  index // leaves by signature key; the entries hold node indexes too
	usage      *usage
}

func (x *indexes) clone() *indexes {
	if x == nil {
		return nil
	}
	return &indexes{x.encryption.clone(), x.signature.clone(), x.usage}
}

func (x *indexes) compact(k *token) {
	x.encryption.compact(k)
	x.signature.compact(k)
}

func (x *indexes) ownUsage(k *token) *usage {
	if x.usage.owner != k {
		x.usage = x.usage.clone(k)
	}
	return x.usage
}

// sameUsage reports whether a change of leaf leaves the counters as they are.
func sameUsage(old, l *LeafNode) bool {
	if old == nil || l == nil {
		return old == l
	}
	return old.Credential.Type == l.Credential.Type && bytes.Equal(old.Capabilities.raw, l.Capabilities.raw)
}

// leave takes out what leaf i has, before l takes its place.
func (x *indexes) leave(t *Tree, i uint32, old, l *LeafNode) {
	if old == nil {
		return
	}
	k := t.token()
	x.encryption.remove(k, old.EncryptionKey, 2*i, t.PublicKey)
	if l == nil || !bytes.Equal(old.SignatureKey, l.SignatureKey) {
		x.signature.remove(k, old.SignatureKey, 2*i, t.signatureKey)
	}
	if !sameUsage(old, l) {
		u := x.ownUsage(k)
		u.leave(old.Capabilities)
		u.credential(old.Credential.Type, -1)
	}
}

// enter puts in what leaf i has, after l took the place of old.
func (x *indexes) enter(t *Tree, i uint32, old, l *LeafNode) {
	if l == nil {
		return
	}
	k := t.token()
	x.encryption.insert(k, l.EncryptionKey, 2*i, t.PublicKey)
	if old == nil || !bytes.Equal(old.SignatureKey, l.SignatureKey) {
		x.signature.insert(k, l.SignatureKey, 2*i, t.signatureKey)
	}
	if !sameUsage(old, l) {
		u := x.ownUsage(k)
		u.enter(l.Capabilities)
		u.credential(l.Credential.Type, 1)
	}
}

// signatureKey is the signature key of the leaf with this node index.
func (t *Tree) signatureKey(node uint32) []byte {
	if l := t.Leaf(node / 2); l != nil {
		return l.SignatureKey
	}
	return nil
}

// index returns the indexes and makes them if need be, with the hashes of keys by p.
func (t *Tree) index(p Parallel) *indexes {
	if t.keys != nil {
		return t.keys
	}
	// A part is two pages, so that a part's nodes are looked up together.
	const part = 8
	parts := (len(t.pages) + part - 1) / part
	encryption, signature := make([][]uint64, parts), make([][]uint64, parts)
	p.Run(parts, func(i int) {
		end := min(len(t.pages), (i+1)*part)
		enc := make([]uint64, 0, (end-i*part)*pageNodes)
		sig := make([]uint64, 0, (end-i*part)*pageSlots)
		for n := i * part; n < end; n++ {
			for s := range pageSlots {
				node := uint64(n*pageNodes + 2*s)
				if l := t.pages[n].leaves[s]; l != nil {
					enc = append(enc, keyHash(l.EncryptionKey)|node)
					sig = append(sig, keyHash(l.SignatureKey)|node)
				}
				if q := t.pages[n].parents[s]; q != nil {
					enc = append(enc, keyHash(q.EncryptionKey)|(node+1))
				}
			}
		}
		encryption[i], signature[i] = enc, sig
	})
	k := t.token()
	x := &indexes{usage: &usage{owner: k}}
	x.encryption.fill(k, slices.Concat(encryption...), t.PublicKey)
	x.signature.fill(k, slices.Concat(signature...), t.signatureKey)
	for _, l := range t.All() {
		x.usage.enter(l.Capabilities)
		x.usage.credential(l.Credential.Type, 1)
	}
	t.keys = x
	return x
}

// LeafBySignatureKey is the index of the leaf with a signature key, of the
// first if there are several.
func (t *Tree) LeafBySignatureKey(key []byte) (uint32, bool) {
	node, ok := t.index(nil).signature.lookup(key, t.signatureKey)
	return node / 2, ok
}

// NodeByEncryptionKey is the node index of the leaf or parent with an
// encryption key, of the first if there are several.
func (t *Tree) NodeByEncryptionKey(key []byte) (uint32, bool) {
	return t.index(nil).encryption.lookup(key, t.PublicKey)
}

// EveryMember reports whether f holds for the capabilities of every member. It
// asks once for each distinct encoding, so that its cost does not grow with
// the members.
func (t *Tree) EveryMember(f func(Capabilities) bool) bool {
	for _, b := range t.index(nil).usage.blocks {
		if b.members > 0 && !f(b.caps) {
			return false
		}
	}
	return true
}

// CredentialsInUse are the types of the members' credentials, in order.
func (t *Tree) CredentialsInUse() []uint16 {
	var out []uint16
	for _, c := range t.index(nil).usage.credentials {
		out = append(out, c.kind)
	}
	return out
}

// CheckUnique refuses a tree in which two members have the same signature or
// encryption key, or a parent has the key of another node. Its cost does not
// grow with the tree, so it may be asked after every list of proposals.
func (t *Tree) CheckUnique() error {
	x := t.index(nil)
	if x.signature.twice > 0 {
		a, b, _ := x.signature.duplicate(t.signatureKey)
		// RFC 9420 §7.3
		return refuse(RuleMemberKeysUnique, "leaves %d and %d have the same signature key", a/2, b/2)
	}
	if x.encryption.twice > 0 {
		a, b, _ := x.encryption.duplicate(t.PublicKey)
		if a&1 == 0 && b&1 == 0 {
			// RFC 9420 §7.3
			return refuse(RuleMemberKeysUnique, "leaves %d and %d have the same encryption key", a/2, b/2)
		}
		// RFC 9420 §12.4.3.1
		return refuse(RuleParentKeysUnique, "nodes %d and %d have the same encryption key", a, b)
	}
	return nil
}
