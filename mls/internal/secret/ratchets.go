package secret

import (
	"math/bits"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// Content tells the two ratchets of a sender apart, RFC 9420 §9.1.
type Content uint8

// The contents: proposals and commits use Handshake keys.
const (
	Handshake Content = iota
	Application
	contents // how many there are
)

// Limits bound what one sender can cost, for each of its two ratchets.
type Limits struct {
	// Skip is how many generations one message may pass over: it bounds the
	// derivations that a forged message costs.
	Skip uint32
	// Stored is how many keys of skipped generations are kept: Nk + Nn + 4
	// octets each. The oldest go first.
	Stored uint32
}

// The greatest limits; NewRatchets lowers what is above.
const (
	MaxSkip   = 1 << 16
	MaxStored = 1 << 16
)

// MaxForward is how many generations one call of Skip may pass over.
const MaxForward = 1 << 20

// lastGeneration is never used: its successor would not fit, RFC 9420 §9.1.
const lastGeneration = 1<<32 - 1

// ratchet is one hash ratchet, RFC 9420 §9.1.
type ratchet struct {
	slot       uint32 // of the secret of generation; noSlot if retired
	generation uint32 // the next one
	skipped    *skipped
}

// sender is the pair of ratchets of one leaf.
type sender [contents]ratchet

// Ratchets is the secret tree of one epoch, RFC 9420 §9, with the ratchets of
// the leaves that were used. It is lazy: a leaf costs nothing before its first
// message. It is not safe for concurrent use.
//
// Receiving takes two steps, because only a message that opens may use up its
// key: Take derives the key and changes nothing, Consume deletes it. Sending
// takes one, Next.
type Ratchets struct {
	tree    tree
	senders map[uint32]*sender
	limits  Limits
	retired bool   // no handshake ratchets any more
	out     []byte // key and nonce of the last Take or Next
	walk    []byte // scratch, Nh octets, zeros between calls
	next    []byte // scratch, the same
}

// Key is what one message is sealed with. Key and Nonce, Nk and Nn octets,
// alias memory of the Ratchets and hold until its next method call; the caller
// may change them in place, to mix in the reuse guard.
type Key struct {
	Leaf, Generation uint32
	Content          Content
	Key, Nonce       []byte
}

// NewRatchets returns the secret tree over encryptionSecret, Nh octets, for a
// ratchet tree of that many leaves; the width of the tree is the next power of
// two, from 1 to MaxLeaves. The secret is copied, so the caller wipes its own.
func NewRatchets(s *suite.Suite, encryptionSecret []byte, leaves uint32, limits Limits) *Ratchets {
	width := uint32(1) << bits.Len32(min(max(leaves, 1), MaxLeaves)-1)
	limits = Limits{min(limits.Skip, MaxSkip), min(limits.Stored, MaxStored)}
	r := newRatchets(s, width, limits)
	r.tree.put(width-1, encryptionSecret)
	return r
}

func newRatchets(s *suite.Suite, width uint32, limits Limits) *Ratchets {
	n := s.HashSize()
	scratch := make([]byte, s.KeySize()+s.NonceSize()+2*n)
	out, walk := scratch[:len(scratch)-2*n], scratch[len(scratch)-2*n:]
	return &Ratchets{
		tree: newTree(s, width), senders: make(map[uint32]*sender), limits: limits,
		out: out[:len(out):len(out)], walk: walk[:n:n], next: walk[n:],
	}
}

// Leaves is the width of the tree, 0 after Wipe.
func (r *Ratchets) Leaves() uint32 { return r.tree.width }

// check refuses what cannot have a ratchet.
func (r *Ratchets) check(leaf uint32, c Content) error {
	if leaf >= r.tree.width {
		return ErrLeaf
	}
	if c >= contents || c == Handshake && r.retired {
		return ErrRetired
	}
	return nil
}

// look finds where the key of a generation comes from: the skipped keys at
// position at, or, with at < 0, the secret of rt. rt is nil for a leaf without
// ratchets. All refusals of a generation are here.
func (r *Ratchets) look(leaf uint32, c Content, generation uint32) (rt *ratchet, at int, err error) {
	if err := r.check(leaf, c); err != nil {
		return nil, -1, err
	}
	if generation == lastGeneration {
		return nil, -1, ErrExhausted
	}
	var from uint32
	if s := r.senders[leaf]; s != nil {
		rt = &s[c]
		from = rt.generation
	}
	switch {
	case generation < from:
		if at = rt.skipped.find(generation); at < 0 {
			return nil, -1, ErrReplay
		}
		return rt, at, nil
	case generation-from > r.limits.Skip:
		return nil, -1, ErrTooFar
	}
	return rt, -1, nil
}

// Take derives the key of a message from leaf, and changes no state: call
// Consume once the message opened. A generation that is due costs two
// derivations and no allocation; one further ahead one more for each
// generation passed over, Limits.Skip at most; the first of a leaf one more
// for each level of the tree. It fails with ErrReplay, ErrTooFar,
// ErrExhausted, ErrLeaf or ErrRetired.
func (r *Ratchets) Take(leaf uint32, c Content, generation uint32) (Key, error) {
	rt, at, err := r.look(leaf, c, generation)
	if err != nil {
		return Key{}, err
	}
	switch {
	case at >= 0:
		copy(r.out, rt.skipped.key(at, len(r.out)))
	case rt != nil && rt.generation == generation:
		r.derive(r.out, r.tree.slots.at(rt.slot), generation)
	default:
		var from uint32
		if rt != nil {
			from = rt.generation
			copy(r.walk, r.tree.slots.at(rt.slot))
		} else {
			r.tree.leaf(r.walk, leaf, false)
			r.root(r.walk, r.walk, c)
		}
		for g := from; g < generation; g++ {
			r.advance(r.walk, g)
		}
		r.derive(r.out, r.walk, generation)
		Wipe(r.walk, r.next)
	}
	key, nonce := r.parts()
	return Key{leaf, generation, c, key, nonce}, nil
}

// Consume deletes the key of a message that opened, with all that it was
// derived from, RFC 9420 §9.2; keys of generations passed over are kept up to
// Limits.Stored. k is what Take returned; it fails as Take would if the key
// was consumed meanwhile. A generation that is due costs one derivation and no
// allocation.
func (r *Ratchets) Consume(k Key) error {
	r.Forget()
	rt, at, err := r.look(k.Leaf, k.Content, k.Generation)
	if err != nil {
		return err
	}
	if at >= 0 {
		rt.skipped.remove(at, len(r.out))
		if rt.skipped.len() == 0 {
			rt.skipped = nil
		}
		return nil
	}
	if rt == nil {
		rt = &r.start(k.Leaf)[k.Content]
	}
	r.forward(rt, k.Generation, true)
	r.step(rt)
	return nil
}

// Replay repeats, on a state parsed from an older record, that a key was
// consumed, so that the key is deleted here too. Repeating what the state
// already knows changes nothing. With all consumptions since the record
// repeated in order, the state is the one that was lost.
func (r *Ratchets) Replay(leaf uint32, c Content, generation uint32) error {
	err := r.Consume(Key{Leaf: leaf, Content: c, Generation: generation})
	if err == ErrReplay {
		return nil
	}
	return err
}

// Next returns the next key of the own leaf, already deleted from the state
// and never given again. key and nonce alias memory of r and hold until its
// next method call. It fails with ErrExhausted, ErrLeaf or ErrRetired.
func (r *Ratchets) Next(leaf uint32, c Content) (generation uint32, key, nonce []byte, err error) {
	if err := r.check(leaf, c); err != nil {
		return 0, nil, nil, err
	}
	rt := &r.start(leaf)[c]
	if rt.generation == lastGeneration {
		return 0, nil, nil, ErrExhausted
	}
	generation = rt.generation
	r.derive(r.out, r.tree.slots.at(rt.slot), generation)
	r.step(rt)
	key, nonce = r.parts()
	return generation, key, nonce, nil
}

// Generation is the generation that Next would use; 0 for a leaf without
// ratchets.
func (r *Ratchets) Generation(leaf uint32, c Content) uint32 {
	if s := r.senders[leaf]; s != nil && c < contents {
		return s[c].generation
	}
	return 0
}

// Skip moves the own ratchet forward, so that Next never gives a generation
// below to; it keeps no keys. A state that was restored skips to the end of
// the block of generations that was reserved on disk before the crash, so that
// none is used twice. It never moves back, and moves MaxForward generations at
// most, or fails with ErrTooFar and moves none.
func (r *Ratchets) Skip(leaf uint32, c Content, to uint32) error {
	if err := r.check(leaf, c); err != nil {
		return err
	}
	from := r.Generation(leaf, c)
	if to <= from {
		return nil
	}
	if to-from > MaxForward {
		return ErrTooFar
	}
	r.forward(&r.start(leaf)[c], to, false)
	return nil
}

// Forget wipes the key that Take or Next returned last. Consume does the same.
func (r *Ratchets) Forget() { Wipe(r.out) }

// RetireHandshake deletes all handshake keys and ratchets: those of a past
// epoch open nothing any more. ErrRetired answers who asks for one.
func (r *Ratchets) RetireHandshake() {
	r.retired = true
	for _, s := range r.senders {
		rt := &s[Handshake]
		r.tree.slots.release(rt.slot)
		rt.skipped.wipe()
		*rt = ratchet{slot: noSlot}
	}
	r.Forget()
}

// Wipe deletes everything; every call answers ErrLeaf afterwards.
func (r *Ratchets) Wipe() {
	for _, s := range r.senders {
		for c := range s {
			s[c].skipped.wipe()
		}
	}
	r.senders = nil
	r.tree.wipe()
	Wipe(r.out, r.walk, r.next)
}

// start returns the ratchets of a leaf inside the tree, and starts them if it
// has none: the leaf's secret, and those above it, are deleted.
func (r *Ratchets) start(leaf uint32) *sender {
	if s := r.senders[leaf]; s != nil {
		return s
	}
	s := new(sender)
	r.tree.leaf(r.walk, leaf, true)
	for c := range contents {
		s[c].slot = noSlot
		if c == Handshake && r.retired {
			continue
		}
		s[c].slot = r.tree.slots.add()
		r.root(r.tree.slots.at(s[c].slot), r.walk, c)
	}
	Wipe(r.walk, r.next)
	r.senders[leaf] = s
	return s
}

var contentLabels = [contents]string{"handshake", "application"}

// root writes the first ratchet secret of a leaf to dst, RFC 9420 §9. dst may
// be the leaf's secret itself.
func (r *Ratchets) root(dst, leafSecret []byte, c Content) {
	r.next = r.tree.suite.ExpandWithLabel(r.next[:0], leafSecret, contentLabels[c], nil, len(r.next))
	copy(dst, r.next)
}

// derive writes key and nonce of a generation, RFC 9420 §9.1.
func (r *Ratchets) derive(dst, secret []byte, generation uint32) {
	s := r.tree.suite
	n := s.KeySize()
	s.DeriveTreeSecret(dst[:0:n], secret, "key", generation, n)
	s.DeriveTreeSecret(dst[n:n], secret, "nonce", generation, s.NonceSize())
}

// advance replaces the ratchet secret of a generation by the next one. r.next
// keeps a copy, which the caller wipes.
func (r *Ratchets) advance(secret []byte, generation uint32) {
	r.next = r.tree.suite.DeriveTreeSecret(r.next[:0], secret, "secret", generation, len(r.next))
	copy(secret, r.next)
}

// step moves a ratchet past its generation.
func (r *Ratchets) step(rt *ratchet) {
	r.advance(r.tree.slots.at(rt.slot), rt.generation)
	rt.generation++
	Wipe(r.next)
}

// forward moves a ratchet to a generation. With keep, it keeps the keys it
// passes over, the last Limits.Stored of them.
func (r *Ratchets) forward(rt *ratchet, to uint32, keep bool) {
	if rt.generation == to {
		return
	}
	stored := uint32(0)
	if keep {
		stored = min(to-rt.generation, r.limits.Stored)
	}
	if stored > 0 {
		if rt.skipped == nil {
			rt.skipped = new(skipped)
		}
		if n := rt.skipped.len() + int(stored) - int(r.limits.Stored); n > 0 {
			rt.skipped.drop(n, len(r.out))
		}
		rt.skipped.reserve(int(stored), len(r.out))
	}
	secret := r.tree.slots.at(rt.slot)
	for g := rt.generation; g < to; g++ {
		if to-g <= stored {
			r.derive(rt.skipped.add(g, len(r.out)), secret, g)
		}
		r.advance(secret, g)
	}
	rt.generation = to
	Wipe(r.next)
}

// parts are the key and the nonce in r.out.
func (r *Ratchets) parts() (key, nonce []byte) {
	n := r.tree.suite.KeySize()
	return r.out[:n:n], r.out[n:]
}
