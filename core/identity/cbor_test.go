package identity

import (
	"bytes"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
)

// The examples are written as RFC 8949 appendix A writes them.
func TestStrictSubset(t *testing.T) {
	for _, c := range []struct {
		name, hex string
		ok        bool
	}{
		{"zero", "00", true},
		{"largest short number", "17", true},
		{"two octets", "1818", true},
		{"two octets where one does", "1817", false},
		{"three where two do", "1900ff", false},
		{"five where three do", "1a0000ffff", false},
		{"nine where five do", "1b00000000ffffffff", false},
		{"2^64-1", "1bffffffffffffffff", true},
		{"-2^63", "3b7fffffffffffffff", true},
		{"-2^63 - 1", "3b8000000000000000", false},
		{"a key below -2^63", "a13ba10d200da130a130f5", false},
		{"octets", "4401020304", true},
		{"octets beyond the end", "4501020304", false},
		{"octets whose length would overflow", "5bffffffffffffffff", false},
		{"text", "63e6b0b4", true},
		{"text that is not UTF-8", "62c328", false},
		{"a long head for a short text", "780161", false},
		{"indefinite octets", "5f42010243030405ff", false},
		{"indefinite array", "9fff", false},
		{"indefinite map", "bfff", false},
		{"break alone", "ff", false},
		{"empty array", "80", true},
		{"array of octets", "824100" + "4101", true},
		{"array of numbers", "820102", false},
		{"array of negative numbers", "8120", false},
		{"array cut short", "8241", false},
		{"array of 2^64-1", "9bffffffffffffffff", false},
		{"map", "a201020304", true},
		{"keys negative after positive", "a201022004", true},
		{"keys in the wrong order", "a203040102", false},
		{"a key twice", "a201020102", false},
		{"a text key", "a1616101", false},
		{"a map as key", "a1a001", false},
		{"map without the last value", "a101", false},
		{"true", "f5", true},
		{"null", "f6", false},
		{"undefined", "f7", false},
		{"simple 32", "f820", false},
		{"half float", "f93c00", false},
		{"double", "fb3ff199999999999a", false},
		{"tag", "c11a514b67b0", false},
		{"reserved head", "1c", false},
		{"two items", "0000", false},
		{"nothing", "", false},
		{"deep enough", "a101a101a101a101a101f5", true},
		{"too deep", "a101a101a101a101a101a101f5", false},
		{"too deep arrays", strings.Repeat("81", 1000) + "f5", false},
		{"128 items", "9880" + strings.Repeat("40", 128), true},
		{"129 items", "9881" + strings.Repeat("40", 129), false},
	} {
		b, err := hex.DecodeString(c.hex)
		if err != nil {
			t.Fatal(c.name, err)
		}
		if err := checkStrict(b); (err == nil) != c.ok || err != nil && !errors.Is(err, ErrMalformed) {
			t.Errorf("%s (%s): %v", c.name, c.hex, err)
		}
	}
}

// The decoder's habits that would give one meaning two spellings do not reach us.
func TestDecodeIsStrictAboutKinds(t *testing.T) {
	type target struct {
		Octets []byte `cbor:"1,keyasint"`
		Text   string `cbor:"2,keyasint"`
		Number uint16 `cbor:"3,keyasint"`
		Hash   Hash   `cbor:"4,keyasint"`
		Bool   bool   `cbor:"5,keyasint"`
	}
	for name, h := range map[string]string{
		"text for octets":      "a1016161",
		"array for octets":     "a101820102",
		"octets for text":      "a1024161",
		"number for text":      "a10201",
		"text for a number":    "a1036161",
		"number too large":     "a1031a00010000",
		"negative number":      "a10320",
		"true for a number":    "a103f5",
		"number for true":      "a10501",
		"31 octets for a hash": "a104581f" + strings.Repeat("00", 31),
		"33 octets for a hash": "a1045821" + strings.Repeat("00", 33),
		"array for a hash":     "a10480",
		"array for a struct":   "80",
		"number for a struct":  "01",
	} {
		b, err := hex.DecodeString(h)
		if err != nil {
			t.Fatal(name, err)
		}
		var v target
		if err := decode(b, 100, &v); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v, %+v", name, err, v)
		}
	}
	var v target
	b, _ := hex.DecodeString("a3014101" + "0307" + "1821a1016678797a7a7978")
	if err := decode(b, 100, &v); err != nil || v.Number != 7 || !bytes.Equal(v.Octets, []byte{1}) {
		t.Errorf("an unknown key: %v, %+v", err, v)
	}
	if err := decode(b, len(b)-1, &v); !errors.Is(err, ErrMalformed) {
		t.Errorf("over the limit: %v", err)
	}
}

func TestEnvelope(t *testing.T) {
	body, sig := []byte("body"), bytes.Repeat([]byte{7}, 64)
	b := seal(body, sig)
	e, err := open(b, len(b))
	if err != nil || !bytes.Equal(e.Bytes, body) || !bytes.Equal(e.Signature, sig) {
		t.Fatalf("%+v, %v", e, err)
	}
	for name, b := range map[string][]byte{
		"too long":        append(bytes.Clone(b), 0),
		"short signature": seal(body, sig[:63]),
		"no signature":    marshal([][]byte{body}),
		"three parts":     marshal([][]byte{body, sig, sig}),
		"map":             marshal(map[int][]byte{0: body, 1: sig}),
		"text":            marshal([]any{"body", sig}),
	} {
		if _, err := open(b, 1000); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// reencoded is what a general decoder and deterministic encoder make of b.
func reencoded(b []byte) ([]byte, bool) {
	var v any
	m := must(cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, MaxNestedLevels: 16}.DecMode())
	if m.Unmarshal(b, &v) != nil {
		return nil, false
	}
	out, err := encoding.Marshal(v)
	return out, err == nil
}

// Whatever checkStrict lets pass is well-formed and deterministic in the eyes of
// another implementation.
func FuzzCheckStrict(f *testing.F) {
	for _, h := range []string{"a201020304", "824100f5", "3b7fffffffffffffff", "a13ba10d200da130a130a13020", "a1206161", "9f01ff", "f93c00", "a1a0f5"} {
		b, _ := hex.DecodeString(h)
		f.Add(b)
	}
	f.Add(first(1, nil).Bytes)
	f.Fuzz(func(t *testing.T, b []byte) {
		if checkStrict(b) != nil {
			return
		}
		if out, ok := reencoded(b); !ok || !bytes.Equal(out, b) {
			t.Errorf("%x is let pass; another implementation writes %x", b, out)
		}
	})
}
