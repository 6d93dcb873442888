package codec

import (
	"bytes"
	"errors"
	"testing"
)

// The forms of a length that RFC 9420 §2.1.2 forbids, and where a value ends
// too early or too late.
func TestRefusals(t *testing.T) {
	vec := func(r *Reader) { r.Vec() }
	for _, c := range []struct {
		name string
		in   []byte
		read func(r *Reader)
		rule int
	}{
		{"two octets for a length of one", []byte{0x40, 0x3f}, vec, RuleVarint},
		{"four octets for a length of two", append([]byte{0x80, 0, 0x3f, 0xff}, make([]byte, 0x3fff)...), vec, RuleVarint},
		{"the reserved form", []byte{0xc0, 0, 0, 0, 0, 0, 0, 0}, vec, RuleLength},
		{"a length beyond the input", []byte{3, 1, 2}, vec, RuleLength},
		{"a gigabyte that is not there", []byte{0xbf, 0xff, 0xff, 0xff}, vec, RuleLength},
		{"a length that ends", []byte{0x80, 0}, vec, RuleLength},
		{"nothing", nil, vec, RuleLength},
		{"neither present nor absent", []byte{2}, func(r *Reader) { r.Optional() }, RuleOptional},
		{"an integer that ends", []byte{1, 2, 3}, func(r *Reader) { r.Uint32() }, RuleLength},
		{"octets after the end", []byte{0, 0}, vec, RuleTrailing},
		{"octets after the end, within", []byte{2, 1, 1}, func(r *Reader) { in := r.Sub(); in.Uint8(); r.Join(&in) }, RuleTrailing},
		{"a caller's refusal", []byte{0}, func(r *Reader) { r.Uint8(); r.Fail(77, "so"); r.Fail(78, "later") }, 77},
	} {
		r := NewReader(c.in)
		c.read(&r)
		var e *Error
		if err := r.Finish(); !errors.As(err, &e) || e.Rule != c.rule {
			t.Errorf("%s: %v, want rule %d", c.name, err, c.rule)
		}
		if r.Err() != nil && (r.Len() != 0 || r.Uint64() != 0 || r.Vec() != nil || r.Rest() != nil || r.Since(0) != nil) {
			t.Errorf("%s: a reader gives values after its error", c.name)
		}
	}
}

// Vectors of every size of header, written in both ways, are read back.
func TestVectors(t *testing.T) {
	for _, n := range []int{0, 1, 63, 64, 16383, 16384, 100000} {
		content := bytes.Repeat([]byte{7}, n)
		whole := AppendVec([]byte("before"), content)
		begun, mark := Begin([]byte("before"))
		if got := End(append(begun, content...), mark); !bytes.Equal(got, whole) {
			t.Fatalf("%d octets: written in two ways", n)
		}
		if len(whole) != len("before")+LengthSize(n)+n {
			t.Fatalf("%d octets: %d in all", n, len(whole))
		}
		r := NewReader(append(whole, 9))
		if string(r.Bytes(6)) != "before" || !bytes.Equal(r.Vec(), content) || r.Offset() != len(whole) || r.Uint8() != 9 || r.Finish() != nil {
			t.Fatalf("%d octets are not read back", n)
		}
	}
}

// What is read aliases the input and cannot grow into it.
func TestAlias(t *testing.T) {
	in := []byte{2, 1, 2, 3}
	r := NewReader(in)
	v := r.Vec()
	if &v[0] != &in[1] || cap(v) != 2 {
		t.Fatal("a vector is copied, or reaches beyond itself")
	}
	if got := AppendOptional(AppendOptional(nil, true), false); !bytes.Equal(got, []byte{1, 0}) {
		t.Fatalf("optional values: %x", got)
	}
}

func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 2, 0x40, 0x40}, uint8(3))
	f.Add(AppendVec(nil, make([]byte, 70)), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, steps uint8) {
		r := NewReader(in)
		var out []byte
		for i := range steps {
			if i%2 == 0 {
				v := r.Vec()
				if r.Err() == nil {
					out = AppendVec(out, v)
				}
			} else if v := r.Uint16(); r.Err() == nil {
				out = Uint16(out, v)
			}
		}
		if !bytes.HasPrefix(in, out) {
			t.Fatalf("%x is read as %x", in, out)
		}
	})
}
