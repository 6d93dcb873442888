package policy

import (
	"encoding/binary"
	"fmt"
	"strings"
	"unicode/utf8"
)

// A reader reads the presentation language of RFC 9420 §2.1. After the first
// error every method returns zero values, so that a caller checks once.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	r.b = nil
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.fail("the input ends early")
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *reader) u8() uint8 {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if b := r.take(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *reader) u64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// choice reads an enumeration of the values 0 to most.
func (r *reader) choice(most uint8) uint8 {
	v := r.u8()
	if v > most {
		r.fail("a value that its enumeration does not have")
		return 0
	}
	return v
}

func (r *reader) bool() bool { return r.choice(1) == 1 }

// vec reads a vector: its length in 1, 2 or 4 octets, the shortest that holds
// it, RFC 9420 §2.1.2.
func (r *reader) vec() []byte {
	first := r.u8()
	n := int(first & 0x3f)
	switch first >> 6 {
	case 1:
		n = n<<8 | int(r.u8())
		if n < 1<<6 {
			r.fail("a length in more octets than it needs")
		}
	case 2:
		n = n<<24 | int(r.u8())<<16 | int(r.u16())
		if n < 1<<14 {
			r.fail("a length in more octets than it needs")
		}
	case 3:
		r.fail("a length of the reserved form")
	}
	if r.err != nil {
		return nil
	}
	return r.take(n)
}

// text reads UTF-8 without NUL of at most most octets.
func (r *reader) text(most int) string {
	b := r.vec()
	if len(b) > most {
		r.fail("a text that is too long")
		return ""
	}
	s := string(b)
	if !utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0 {
		r.fail("a text that is not UTF-8 without NUL")
	}
	return s
}

func (r *reader) uri() string { return r.text(MaxURI) }

func (r *reader) finish() error {
	if r.err == nil && len(r.b) > 0 {
		r.fail("octets after the last field")
	}
	return r.err
}

// readList reads a vector of at most most entries; nil if it is empty.
func readList[T any](r *reader, most int, read func(*reader) T) (out []T) {
	in := reader{b: r.vec()}
	for len(in.b) > 0 {
		v := read(&in)
		if len(out) == most {
			in.fail("a list that is too long")
		}
		if in.err == nil {
			out = append(out, v)
		}
	}
	if in.err != nil {
		r.fail("a list that cannot be read")
		r.err = in.err
		return nil
	}
	return out
}

// readOptional reads an optional value, RFC 9420 §2.1.1.
func readOptional[T any](r *reader, read func(*reader) T) *T {
	if !r.bool() {
		return nil
	}
	v := read(r)
	return &v
}

// parse reads the whole of b.
func parse[T any](b []byte, read func(*reader) T) (T, error) {
	r := reader{b: b}
	v := read(&r)
	if err := r.finish(); err != nil {
		var zero T
		return zero, err
	}
	return v, nil
}

func appendU16(dst []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(dst, v) }
func appendU32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }
func appendU64(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// headerSize is the number of octets of the length of a vector of n octets.
func headerSize(n int) int {
	switch {
	case n < 1<<6:
		return 1
	case n < 1<<14:
		return 2
	}
	return 4
}

func appendHeader(dst []byte, n int) []byte {
	switch headerSize(n) {
	case 1:
		return append(dst, byte(n))
	case 2:
		return appendU16(dst, uint16(n)|1<<14)
	}
	return appendU32(dst, uint32(n)|1<<31)
}

func appendVec[B []byte | string](dst []byte, v B) []byte {
	return append(appendHeader(dst, len(v)), v...)
}

func appendList[T any](dst []byte, list []T, add func([]byte, T) []byte) []byte {
	var in []byte
	for _, v := range list {
		in = add(in, v)
	}
	return appendVec(dst, in)
}

func appendOptional[T any](dst []byte, v *T, add func([]byte, T) []byte) []byte {
	if v == nil {
		return append(dst, 0)
	}
	return add(append(dst, 1), *v)
}
