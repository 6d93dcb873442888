package secret

import (
	"math/bits"
	"slices"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// A record is: the version, the kind, the suite (2 octets); for Ratchets the
// width, both limits (4 octets each) and whether handshakes are retired (1);
// then the tree from left to right, without gap or overlap, as items of
//
//	level 0..31, secret              a node of the frontier, Nh octets
//	itemSender, ratchet, ratchet     a leaf in use; the handshake ratchet is absent once retired
//	itemConsumed                     a leaf of an exporter tree that was exported
//
// and a ratchet is: generation (4), secret (Nh), number of skipped keys (4),
// and for each of them generation (4), key (Nk), nonce (Nn), ascending. So the
// positions need not be written, and equal states have equal records.
const (
	recordVersion  = 1
	recordRatchets = 1
	recordExporter = 2

	itemSender   = 0x80
	itemConsumed = 0x81
)

// AppendTo appends the state, which ParseRatchets reads back. The record holds
// secrets: the caller encrypts it where it is stored and wipes its copies.
func (r *Ratchets) AppendTo(dst []byte) []byte {
	dst = slices.Grow(dst, r.size()) // once, so that no half-written copy is left behind
	dst = codec.Uint16(append(dst, recordVersion, recordRatchets), r.tree.suite.ID())
	dst = codec.Uint32(dst, r.tree.width)
	dst = codec.Uint32(dst, r.limits.Skip)
	dst = codec.Uint32(dst, r.limits.Stored)
	dst = codec.AppendOptional(dst, r.retired)
	for leaf := uint32(0); leaf < r.tree.width; {
		if s := r.senders[leaf]; s != nil {
			dst = r.appendSender(append(dst, itemSender), s)
			leaf++
			continue
		}
		level, secret, _ := r.tree.frontier(leaf) // a leaf is in use or below the frontier
		dst = append(append(dst, byte(level)), secret...)
		leaf += 1 << level
	}
	return dst
}

func (r *Ratchets) size() int {
	n := 4 + 3*4 + 1 + r.tree.size()
	for _, s := range r.senders {
		n++
		for c := range s {
			n += 8 + r.tree.slots.size + s[c].skipped.len()*(4+len(r.out))
		}
	}
	return n
}

func (r *Ratchets) appendSender(dst []byte, s *sender) []byte {
	for c := range s {
		rt := &s[c]
		if rt.slot == noSlot {
			continue
		}
		dst = codec.Uint32(dst, rt.generation)
		dst = append(dst, r.tree.slots.at(rt.slot)...)
		dst = codec.Uint32(dst, uint32(rt.skipped.len()))
		for i := range rt.skipped.len() {
			dst = codec.Uint32(dst, rt.skipped.generations[i])
			dst = append(dst, rt.skipped.key(i, len(r.out))...)
		}
	}
	return dst
}

// header reads the start of a record.
func header(in *codec.Reader, s *suite.Suite, kind uint8) bool {
	version, k, id := in.Uint8(), in.Uint8(), in.Uint16()
	return version == recordVersion && k == kind && id == s.ID()
}

// ParseRatchets reads what AppendTo wrote with the same suite, and copies all
// of it. It fails with ErrRecord for anything else; it never allocates more
// than in proportion to b.
func ParseRatchets(s *suite.Suite, b []byte) (*Ratchets, error) {
	in := codec.NewReader(b)
	ok := header(&in, s, recordRatchets)
	width, limits := in.Uint32(), Limits{Skip: in.Uint32(), Stored: in.Uint32()}
	retired := in.Optional()
	if !ok || in.Err() != nil || width > MaxLeaves || bits.OnesCount32(width) != 1 ||
		limits.Skip > MaxSkip || limits.Stored > MaxStored {
		return nil, ErrRecord
	}
	r := newRatchets(s, width, limits)
	r.retired = retired
	for leaf := uint32(0); leaf < width && in.Err() == nil; {
		if tag := in.Uint8(); tag == itemSender {
			r.senders[leaf] = r.parseSender(&in)
			leaf++
		} else {
			leaf += r.tree.parseNode(&in, tag, leaf)
		}
	}
	if in.Finish() != nil {
		r.Wipe()
		return nil, ErrRecord
	}
	return r, nil
}

// parseNode reads a node of the frontier that covers the leaves from first on,
// and returns how many it covers.
func (t *tree) parseNode(in *codec.Reader, level uint8, first uint32) uint32 {
	if int(level) > bits.TrailingZeros32(first|t.width) {
		in.Fail(0, "node out of place")
	}
	secret := in.Bytes(t.slots.size)
	if in.Err() != nil {
		return 0
	}
	t.put(nodeAt(first, int(level)), secret)
	return 1 << level
}

// parseSender reads the ratchets of a leaf; the caller looks at in.Err.
func (r *Ratchets) parseSender(in *codec.Reader) *sender {
	s := new(sender)
	for c := range contents {
		s[c].slot = noSlot
		if c == Handshake && r.retired {
			continue
		}
		rt := &s[c]
		rt.generation = in.Uint32()
		secret := in.Bytes(r.tree.slots.size)
		count := in.Uint32()
		size := len(r.out)
		if count > r.limits.Stored || int(count) > in.Len()/(4+size) {
			in.Fail(0, "too many skipped keys")
		}
		if in.Err() != nil {
			return s
		}
		rt.slot = r.tree.slots.add()
		copy(r.tree.slots.at(rt.slot), secret)
		if count == 0 {
			continue
		}
		rt.skipped = new(skipped)
		rt.skipped.reserve(int(count), size)
		least := uint32(0)
		for range count {
			g := in.Uint32()
			if g < least || g >= rt.generation {
				in.Fail(0, "skipped generation out of order")
			}
			least = g + 1 // g is below generation, so this fits
			copy(rt.skipped.add(g, size), in.Bytes(size))
		}
	}
	return s
}

// AppendTo appends the state, which ParseExporterTree reads back; see
// Ratchets.AppendTo.
func (t *ExporterTree) AppendTo(dst []byte) []byte {
	dst = slices.Grow(dst, t.size())
	dst = codec.Uint16(append(dst, recordVersion, recordExporter), t.tree.suite.ID())
	for leaf := uint32(0); leaf < t.tree.width; {
		level, secret, ok := t.tree.frontier(leaf)
		if !ok {
			dst = append(dst, itemConsumed)
			leaf++
			continue
		}
		dst = append(append(dst, byte(level)), secret...)
		leaf += 1 << level
	}
	return dst
}

func (t *ExporterTree) size() int {
	consumed := t.tree.width
	for node := range t.tree.nodes {
		consumed -= 1 << nodeLevel(node)
	}
	return 4 + t.tree.size() + int(consumed)
}

// ParseExporterTree reads what ExporterTree.AppendTo wrote with the same suite,
// and copies all of it. It fails with ErrRecord for anything else.
func ParseExporterTree(s *suite.Suite, b []byte) (*ExporterTree, error) {
	in := codec.NewReader(b)
	if !header(&in, s, recordExporter) || in.Err() != nil {
		return nil, ErrRecord
	}
	t := &ExporterTree{newTree(s, Components)}
	for leaf := uint32(0); leaf < Components && in.Err() == nil; {
		if tag := in.Uint8(); tag == itemConsumed {
			leaf++
		} else {
			leaf += t.tree.parseNode(&in, tag, leaf)
		}
	}
	if in.Finish() != nil {
		t.Wipe()
		return nil, ErrRecord
	}
	return t, nil
}
