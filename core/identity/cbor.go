package identity

import (
	"bytes"
	"crypto/ed25519"
	"encoding/binary"
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"
)

// Bounds of every document, whatever it is.
const (
	maxDepth = 5   // maps and arrays within each other
	maxPairs = 32  // of one map, unknown keys included
	maxItems = 128 // of one array
)

var (
	encoding = must(cbor.CoreDetEncOptions().EncMode())
	decoding = must(cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		TagsMd: cbor.TagsForbidden, MaxNestedLevels: maxDepth, MaxMapPairs: maxPairs, MaxArrayElements: maxItems}.DecMode())
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err) // the options above are constants: a test run finds this
	}
	return v
}

// An envelope is a document on its way: the CBOR array [bytes, signature].
type envelope struct {
	_         struct{} `cbor:",toarray"`
	Bytes     []byte
	Signature []byte
}

// seal returns the envelope's encoding; what is opened is sealed to the same octets.
func seal(bytes, signature []byte) []byte {
	return marshal(envelope{Bytes: bytes, Signature: signature})
}

// open is the inverse of seal, for at most limit octets.
func open(b []byte, limit int) (e envelope, err error) {
	if err := decode(b, limit, &e); err != nil {
		return e, err
	}
	if len(e.Signature) != ed25519.SignatureSize {
		return e, fmt.Errorf("%w: a signature of %d octets", ErrMalformed, len(e.Signature))
	}
	return e, nil
}

// marshal encodes deterministically (RFC 8949 §4.2.1).
func marshal(v any) []byte {
	b, err := encoding.Marshal(v)
	if err != nil {
		panic(err) // structs of octets, strings and numbers: cannot fail
	}
	return b
}

// decode reads exactly one item of at most limit octets into v, strictly.
// Unknown keys of a map are left for the future.
func decode(b []byte, limit int, v any) error {
	if len(b) > limit {
		return fmt.Errorf("%w: %d octets, at most %d are allowed", ErrMalformed, len(b), limit)
	}
	if err := checkStrict(b); err != nil {
		return err
	}
	if err := decoding.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%w: %v", ErrMalformed, err)
	}
	return nil
}

// checkStrict refuses all but the subset of deterministic CBOR (RFC 8949 §4.2.1)
// that our documents are written in: shortest heads, definite lengths, sorted and
// unique integer keys, valid UTF-8, no tags, floats, null or undefined, no number
// below -2^63 (most readers hold it in no map), and no arrays of numbers (which a
// lenient reader would take for octets).
func checkStrict(b []byte) error {
	rest, err := skipItem(b, maxDepth)
	if err == nil && len(rest) > 0 {
		err = notStrict("octets after the end")
	}
	return err
}

func notStrict(why string) error { return fmt.Errorf("%w: CBOR with %s", ErrMalformed, why) }

// The major types of RFC 8949 §3.1.
const (
	majorUnsigned = iota
	majorNegative
	majorOctets
	majorText
	majorArray
	majorMap
	majorTag
	majorSimple
)

// skipItem checks the item that b begins with, and returns what follows it.
func skipItem(b []byte, depth int) ([]byte, error) {
	major, n, rest, err := readHead(b)
	if err != nil {
		return nil, err
	}
	switch major {
	case majorNegative:
		if n > math.MaxInt64 {
			return nil, notStrict("a number below -2^63, which many readers cannot hold")
		}
		return rest, nil
	case majorUnsigned:
		return rest, nil
	case majorOctets, majorText:
		if n > uint64(len(rest)) {
			return nil, notStrict("a string beyond the end")
		}
		if major == majorText && !utf8.Valid(rest[:n]) {
			return nil, notStrict("text that is not UTF-8")
		}
		return rest[n:], nil
	case majorArray:
		return skipArray(rest, n, depth-1)
	case majorMap:
		return skipMap(rest, n, depth-1)
	case majorSimple:
		if b[0] == 0xf4 || b[0] == 0xf5 {
			return rest, nil
		}
		return nil, notStrict("a simple value other than true and false")
	}
	return nil, notStrict("a tag")
}

func skipArray(b []byte, n uint64, depth int) (_ []byte, err error) {
	if n > maxItems || depth < 0 {
		return nil, notStrict("an array too long or too deep")
	}
	for range n {
		if len(b) > 0 && b[0]>>5 <= majorNegative {
			return nil, notStrict("an array of numbers")
		}
		if b, err = skipItem(b, depth); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func skipMap(b []byte, n uint64, depth int) (_ []byte, err error) {
	if n > maxPairs || depth < 0 {
		return nil, notStrict("a map too large or too deep")
	}
	var last []byte
	for range n {
		if len(b) > 0 && b[0]>>5 > majorNegative {
			return nil, notStrict("a key that is no integer")
		}
		value, err := skipItem(b, depth)
		if err != nil {
			return nil, err
		}
		key := b[:len(b)-len(value)]
		if bytes.Compare(key, last) <= 0 {
			return nil, notStrict("keys out of order or twice")
		}
		if b, err = skipItem(value, depth); err != nil {
			return nil, err
		}
		last = key
	}
	return b, nil
}

// readHead reads an item's first octets: its major type and argument.
func readHead(b []byte) (major byte, arg uint64, rest []byte, err error) {
	if len(b) == 0 {
		return 0, 0, nil, notStrict("an item missing")
	}
	major, arg, rest = b[0]>>5, uint64(b[0]&31), b[1:]
	if arg < 24 {
		return major, arg, rest, nil
	}
	if arg > 27 || major == majorSimple {
		return 0, 0, nil, notStrict("an indefinite length, a float or a reserved value")
	}
	size := 1 << (arg - 24)
	if len(rest) < size {
		return 0, 0, nil, notStrict("a head cut short")
	}
	var wide [8]byte
	copy(wide[8-size:], rest[:size])
	arg = binary.BigEndian.Uint64(wide[:])
	if arg < 24 || size > 1 && arg>>(4*size) == 0 {
		return 0, 0, nil, notStrict("a head that could be shorter")
	}
	return major, arg, rest[size:], nil
}

// A Hash is a SHA-256; any [32]byte may be assigned to one.
type Hash [32]byte

// IsZero reports whether h is the hash of nothing: that of a first record's predecessor.
func (h Hash) IsZero() bool { return h == Hash{} }

// UnmarshalCBOR reads 32 octets, and unlike the decoder's default neither more nor fewer.
func (h *Hash) UnmarshalCBOR(b []byte) error {
	if len(b) != 34 || b[0] != 0x58 || b[1] != 32 {
		return notStrict("a hash that is not 32 octets")
	}
	copy(h[:], b[2:])
	return nil
}
