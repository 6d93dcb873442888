package mls

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"
)

// An index finds the node that has a key. Its entry is one word: the first 44
// bits of the key's SHA-256 and the node's number; the key itself is read from
// the node. Entries stand in order in buckets, by their leading bits. That
// takes a fifth of the memory of a map of keys and can be shared by bucket
// between a tree and its clones. Whoever chooses keys to fill one bucket makes
// it longer, not slower than a binary search; to give one lookup m keys to
// compare, m keys must agree in 44 bits of SHA-256. And unlike a hash with a
// random key it is the same in every process.
const (
	nodeBits   = 20
	nodeMask   = 1<<nodeBits - 1
	bucketMean = 48 // entries in a bucket at which the directory is doubled
)

// Every node of a tree of MaxMembers leaves has a number of nodeBits.
const _ = uint(nodeMask - 2*MaxMembers)

type bucket struct {
	owner   *token
	entries []uint64
}

type index struct {
	buckets []*bucket // a power of two, or none
	count   int
	twice   int // entries whose key another entry before them has
}

func keyHash(key []byte) uint64 {
	sum := sha256.Sum256(key)
	return binary.BigEndian.Uint64(sum[:]) &^ nodeMask
}

// place is the number of the bucket of a hash.
func (x *index) place(h uint64) uint64 {
	return h >> (65 - uint(bits.Len(uint(len(x.buckets)))))
}

// own is a bucket for writing, with room for one entry more.
func (x *index) own(k *token, place uint64) *bucket {
	b := x.buckets[place]
	if b.owner != k {
		b = &bucket{k, append(make([]uint64, 0, len(b.entries)+4), b.entries...)}
		x.buckets[place] = b
	}
	return b
}

// find returns the first entry of other nodes whose key is key.
func find(entries []uint64, h uint64, key []byte, except uint32, keyOf func(uint32) []byte) (uint32, bool) {
	at, _ := slices.BinarySearch(entries, h)
	for ; at < len(entries) && entries[at]&^nodeMask == h; at++ {
		node := uint32(entries[at] & nodeMask)
		if node != except && bytes.Equal(keyOf(node), key) {
			return node, true
		}
	}
	return 0, false
}

func (x *index) lookup(key []byte, keyOf func(uint32) []byte) (uint32, bool) {
	if x.count == 0 {
		return 0, false
	}
	h := keyHash(key)
	return find(x.buckets[x.place(h)].entries, h, key, nodeMask, keyOf)
}

// insert adds an entry for a node that has the key.
func (x *index) insert(k *token, key []byte, node uint32, keyOf func(uint32) []byte) {
	if x.count >= bucketMean*len(x.buckets) {
		x.double()
	}
	h := keyHash(key)
	b := x.own(k, x.place(h))
	if _, again := find(b.entries, h, key, node, keyOf); again {
		x.twice++
	}
	at, _ := slices.BinarySearch(b.entries, h|uint64(node))
	b.entries = slices.Insert(b.entries, at, h|uint64(node))
	x.count++
}

// remove takes out the entry of a node that still has the key.
func (x *index) remove(k *token, key []byte, node uint32, keyOf func(uint32) []byte) {
	if x.count == 0 {
		return
	}
	h := keyHash(key)
	b := x.own(k, x.place(h))
	at, found := slices.BinarySearch(b.entries, h|uint64(node))
	if !found {
		return
	}
	if _, again := find(b.entries, h, key, node, keyOf); again {
		x.twice--
	}
	b.entries = slices.Delete(b.entries, at, at+1)
	x.count--
}

// double splits every bucket by the next bit of the hash; the halves keep
// their place in memory.
func (x *index) double() {
	if len(x.buckets) == 0 {
		x.buckets = emptyBuckets(1)
		return
	}
	out := emptyBuckets(2 * len(x.buckets))
	shift := 64 - uint(bits.Len(uint(len(x.buckets))))
	for i, b := range x.buckets {
		at, _ := slices.BinarySearch(b.entries, uint64(2*i+1)<<shift)
		*out[2*i] = bucket{b.owner, b.entries[:at:at]}
		*out[2*i+1] = bucket{b.owner, b.entries[at:]}
	}
	x.buckets = out
}

func emptyBuckets(n int) []*bucket {
	all, out := make([]bucket, n), make([]*bucket, n)
	for i := range all {
		out[i] = &all[i]
	}
	return out
}

// fill makes the index of all these entries at once.
func (x *index) fill(k *token, entries []uint64, keyOf func(uint32) []byte) {
	buckets := 1
	for buckets*bucketMean < len(entries) {
		buckets *= 2
	}
	*x = index{buckets: emptyBuckets(buckets), count: len(entries)}
	shift := 65 - uint(bits.Len(uint(buckets)))
	ends := make([]int, buckets+1)
	for _, e := range entries {
		ends[e>>shift+1]++
	}
	for i := range buckets {
		ends[i+1] += ends[i]
	}
	all := make([]uint64, len(entries))
	for _, e := range entries {
		all[ends[e>>shift]] = e
		ends[e>>shift]++
	}
	from := 0
	for i := range x.buckets {
		part := all[from:ends[i]:ends[i]]
		from = ends[i]
		slices.Sort(part)
		*x.buckets[i] = bucket{k, part}
		for j := 1; j < len(part); j++ {
			if h := part[j] &^ nodeMask; part[j-1]&^nodeMask == h {
				key := keyOf(uint32(part[j] & nodeMask))
				if _, again := find(part[:j], h, key, nodeMask, keyOf); again {
					x.twice++
				}
			}
		}
	}
}

// duplicate returns two nodes with the same key, if there are any.
func (x *index) duplicate(keyOf func(uint32) []byte) (first, second uint32, found bool) {
	for _, b := range x.buckets {
		for j, e := range b.entries {
			second = uint32(e & nodeMask)
			if first, found = find(b.entries[:j], e&^nodeMask, keyOf(second), nodeMask, keyOf); found {
				return first, second, true
			}
		}
	}
	return 0, 0, false
}

// compact gives back the room of buckets that hold far less than they could.
func (x *index) compact(k *token) {
	for _, b := range x.buckets {
		if b.owner == k && cap(b.entries) > len(b.entries)+len(b.entries)/2+8 {
			b.entries = append(make([]uint64, 0, len(b.entries)), b.entries...)
		}
	}
}

func (x *index) clone() index {
	return index{slices.Clone(x.buckets), x.count, x.twice}
}

// block counts the members whose capabilities have one and the same encoding.
type block struct {
	caps    Capabilities
	members int
}

// usage counts what members are capable of and which credentials they have.
// It is small, and copied as a whole by the first change after a clone.
type usage struct {
	owner       *token
	blocks      []block // those without members may be taken again
	free        []uint32
	last        uint32 // the block last asked for
	lookup      index  // of blocks by encoding
	credentials []credentialUse
}

type credentialUse struct {
	kind    uint16
	members int
}

func (u *usage) clone(k *token) *usage {
	return &usage{
		owner: k, blocks: slices.Clone(u.blocks), free: slices.Clone(u.free), last: u.last,
		lookup: u.lookup.clone(), credentials: slices.Clone(u.credentials),
	}
}

func (u *usage) encoding(block uint32) []byte { return u.blocks[block].caps.raw }

// enter and leave count a member with these capabilities in or out.
func (u *usage) enter(caps Capabilities) {
	b, found := u.block(caps)
	if !found {
		// The copy outlives the message that the leaf is part of.
		fresh := block{caps: Capabilities{bytes.Clone(caps.raw)}}
		if n := len(u.free); n > 0 {
			b, u.free = u.free[n-1], u.free[:n-1]
			u.blocks[b] = fresh
		} else {
			b = uint32(len(u.blocks))
			u.blocks = append(u.blocks, fresh)
		}
		u.lookup.insert(u.owner, caps.raw, b, u.encoding)
		u.last = b
	}
	u.blocks[b].members++
}

func (u *usage) leave(caps Capabilities) {
	b, found := u.block(caps)
	if !found {
		return
	}
	if u.blocks[b].members--; u.blocks[b].members == 0 {
		u.lookup.remove(u.owner, caps.raw, b, u.encoding)
		u.blocks[b] = block{}
		u.free = append(u.free, b)
	}
}

func (u *usage) block(caps Capabilities) (uint32, bool) {
	if int(u.last) < len(u.blocks) && u.blocks[u.last].members > 0 && bytes.Equal(u.encoding(u.last), caps.raw) {
		return u.last, true
	}
	b, found := u.lookup.lookup(caps.raw, u.encoding)
	if found {
		u.last = b
	}
	return b, found
}

// credential counts members with a credential type, by 1 or -1.
func (u *usage) credential(kind CredentialType, by int) {
	at, found := slices.BinarySearchFunc(u.credentials, uint16(kind), func(c credentialUse, k uint16) int { return int(c.kind) - int(k) })
	if !found {
		u.credentials = slices.Insert(u.credentials, at, credentialUse{kind: uint16(kind)})
	}
	if u.credentials[at].members += by; u.credentials[at].members <= 0 {
		u.credentials = slices.Delete(u.credentials, at, at+1)
	}
}
