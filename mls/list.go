package mls

import (
	"iter"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// List is a list of 16-bit numbers, as it stands on the wire.
type List []byte

// NewList makes a list.
func NewList[T ~uint16](values ...T) List {
	out := make(List, 0, 2*len(values))
	for _, v := range values {
		out = codec.Uint16(out, uint16(v))
	}
	return out
}

// Len is the number of entries.
func (l List) Len() int { return len(l) / 2 }

// At is entry i.
func (l List) At(i int) uint16 { return uint16(l[2*i])<<8 | uint16(l[2*i+1]) }

// Has reports whether v is an entry.
func (l List) Has(v uint16) bool {
	for i := 0; i+1 < len(l); i += 2 {
		if l[i] == byte(v>>8) && l[i+1] == byte(v) {
			return true
		}
	}
	return false
}

// All ranges over the entries.
func (l List) All() iter.Seq[uint16] {
	return func(yield func(uint16) bool) {
		for i := range l.Len() {
			if !yield(l.At(i)) {
				return
			}
		}
	}
}

// readList reads a vector of 16-bit numbers.
func readList(r *codec.Reader) List {
	b := r.Vec()
	if len(b)%2 != 0 {
		r.Fail(int(RuleLength), "a list of 16-bit numbers has an odd length")
	}
	if len(b) > 2*MaxList {
		r.Fail(int(RuleBounds), "a list of numbers is too long")
	}
	return List(b)
}

// AppendTo appends the encoding: a vector of 16-bit numbers.
func (l List) AppendTo(dst []byte) []byte { return codec.AppendVec(dst, []byte(l)) }

// parseList reads a vector of 16-bit numbers and nothing after it.
func parseList(b []byte) (List, error) {
	r := codec.NewReader(b)
	l := readList(&r)
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return l, nil
}
