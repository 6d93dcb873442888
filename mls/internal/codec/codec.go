// Package codec reads and writes the presentation language of RFC 9420 §2.1:
// big-endian integers, optional values, and vectors with a variable-size
// length header. A Reader never copies and never allocates; writers append.
package codec

import (
	"encoding/binary"
	"fmt"
)

// MaxVector is the longest vector in octets: 30 bits of length, RFC 9420
// §2.1.2. It bounds every length that comes off the wire.
const MaxVector = 1<<30 - 1

// The rules that a codec can see broken, by their numbers in docs/MLS.md.
const (
	RuleVarint   = 1 // the shortest form of a length, RFC 9420 §2.1.2
	RuleLength   = 2 // a length within the input, and not of the reserved form
	RuleOptional = 3 // presence is 0 or 1, RFC 9420 §2.1.1
	RuleTrailing = 4 // nothing follows the last field
)

// Error says which rule of the encoding an input broke, and where.
type Error struct {
	Rule   int // one of the constants above, or what Fail was given
	Offset int // octets from the start of the reader's input
	What   string
}

func (e *Error) Error() string {
	return fmt.Sprintf("octet %d: %s", e.Offset, e.What)
}

// Reader reads one encoded value. After the first error every method returns
// zero values, so that a caller checks once, with Err or Finish.
type Reader struct {
	b   []byte
	off int
	err error
}

// NewReader returns a reader of b; what it returns aliases b.
func NewReader(b []byte) Reader { return Reader{b: b} }

// Err is the first error, or nil.
func (r *Reader) Err() error { return r.err }

// Fail records an error of the caller's at the current offset, unless there is one.
func (r *Reader) Fail(rule int, what string) {
	if r.err == nil {
		r.err = &Error{Rule: rule, Offset: r.off, What: what}
	}
}

// Finish returns the first error, or one if octets are left.
func (r *Reader) Finish() error {
	if r.err == nil && r.off != len(r.b) {
		r.Fail(RuleTrailing, "octets after the last field")
	}
	return r.err
}

// Len is the number of octets left; it is 0 after an error, so that a loop
// over it ends.
func (r *Reader) Len() int {
	if r.err != nil {
		return 0
	}
	return len(r.b) - r.off
}

// Offset is the number of octets read.
func (r *Reader) Offset() int { return r.off }

// Since returns the octets read since offset from.
func (r *Reader) Since(from int) []byte {
	if r.err != nil {
		return nil
	}
	return r.b[from:r.off:r.off]
}

// Rest returns and consumes all that is left.
func (r *Reader) Rest() []byte { return r.Bytes(r.Len()) }

// Bytes returns the next n octets.
func (r *Reader) Bytes(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.b)-r.off {
		r.Fail(RuleLength, "length beyond the input")
		return nil
	}
	b := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return b
}

// Uint8 reads one octet.
func (r *Reader) Uint8() uint8 {
	if r.err != nil || r.off >= len(r.b) {
		r.Fail(RuleLength, "input ends")
		return 0
	}
	v := r.b[r.off]
	r.off++
	return v
}

// Uint16 reads two octets.
func (r *Reader) Uint16() uint16 {
	if b := r.Bytes(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint32 reads four octets.
func (r *Reader) Uint32() uint32 {
	if b := r.Bytes(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

// Uint64 reads eight octets.
func (r *Reader) Uint64() uint64 {
	if b := r.Bytes(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Optional reads whether a value follows, RFC 9420 §2.1.1.
func (r *Reader) Optional() bool {
	v := r.Uint8()
	if v > 1 {
		r.Fail(RuleOptional, "presence is neither 0 nor 1")
	}
	return v == 1
}

// Length reads the length header of a vector, RFC 9420 §2.1.2: 1, 2 or 4
// octets, the shortest that holds it, never more than what is left.
func (r *Reader) Length() int {
	first := r.Uint8()
	n := int(first & 0x3f)
	switch first >> 6 {
	case 0:
	case 1:
		n = n<<8 | int(r.Uint8())
		if n < 1<<6 {
			r.Fail(RuleVarint, "length in more octets than it needs")
		}
	case 2:
		n = n<<8 | int(r.Uint8())
		n = n<<16 | int(r.Uint16())
		if n < 1<<14 {
			r.Fail(RuleVarint, "length in more octets than it needs")
		}
	default:
		r.Fail(RuleLength, "length of the reserved form")
	}
	if n > len(r.b)-r.off {
		r.Fail(RuleLength, "length beyond the input")
	}
	if r.err != nil {
		return 0
	}
	return n
}

// Vec reads a vector and returns its content, not nil if there was no error.
func (r *Reader) Vec() []byte { return r.Bytes(r.Length()) }

// Sub reads a vector and returns a reader of its content. Its errors are its
// own: the caller ends it with Finish, or passes them on with Join.
func (r *Reader) Sub() Reader {
	return Reader{b: r.Vec(), err: r.err}
}

// Join takes over the error of a reader made by Sub, or one if it is not at its end.
func (r *Reader) Join(sub *Reader) {
	if err := sub.Finish(); err != nil && r.err == nil {
		r.err = err
	}
}

// LengthSize is the number of octets of the length header of a vector of n octets.
func LengthSize(n int) int {
	switch {
	case n < 1<<6:
		return 1
	case n < 1<<14:
		return 2
	default:
		return 4
	}
}

// AppendLength appends the length header of a vector of n octets. A caller
// never makes one beyond MaxVector: it would be a defect, so it panics.
func AppendLength(dst []byte, n int) []byte {
	switch {
	case n < 1<<6:
		return append(dst, byte(n))
	case n < 1<<14:
		return append(dst, byte(n>>8)|0x40, byte(n))
	case n <= MaxVector:
		return append(dst, byte(n>>24)|0x80, byte(n>>16), byte(n>>8), byte(n))
	}
	panic("codec: vector too long")
}

// AppendVec appends b as a vector.
func AppendVec[T []byte | string](dst []byte, b T) []byte {
	return append(AppendLength(dst, len(b)), b...)
}

// AppendOptional appends the presence of a value.
func AppendOptional(dst []byte, present bool) []byte {
	if present {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// Uint16 appends two octets.
func Uint16(dst []byte, v uint16) []byte { return binary.BigEndian.AppendUint16(dst, v) }

// Uint32 appends four octets.
func Uint32(dst []byte, v uint32) []byte { return binary.BigEndian.AppendUint32(dst, v) }

// Uint64 appends eight octets.
func Uint64(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }

// Begin starts a vector whose length is not known yet; End closes it. Between
// the two the caller appends the content.
func Begin(dst []byte) ([]byte, int) { return append(dst, 0), len(dst) + 1 }

// End writes the length header of the vector begun at mark, and moves the
// content if the header is longer than the octet that Begin left for it.
func End(dst []byte, mark int) []byte {
	n := len(dst) - mark
	size := LengthSize(n)
	if size > 1 {
		dst = append(dst, 0, 0, 0)[:len(dst)+size-1]
		copy(dst[mark+size-1:], dst[mark:mark+n])
	}
	AppendLength(dst[:mark-1], n)
	return dst
}
