package mls

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// octets is the value of hexadecimal digits.
func octets(t testing.TB, digits string) []byte {
	t.Helper()
	b, err := hex.DecodeString(digits)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// refused fails the test unless err is a refusal under the rule.
func refused(t testing.TB, what string, err error, rule Rule) {
	t.Helper()
	if RuleOf(err) != rule {
		t.Errorf("%s: %v, want a refusal under rule %d", what, err, rule)
	}
}

// TestAppDataRoundTrip builds a dictionary in any order and reads it again,
// draft-ietf-mls-extensions-10 §4.6.
func TestAppDataRoundTrip(t *testing.T) {
	d := AppData(nil).With(0x0a0a, []byte("grease")).With(1, nil).With(0x8001, []byte{7}).With(1, []byte{2, 0, 1})
	want := octets(t, "13"+"0001"+"03"+"020001"+"0a0a"+"06"+"677265617365"+"8001"+"01"+"07")
	got := d.AppendTo(nil)
	if !bytes.Equal(got, want) {
		t.Fatalf("encoding is %x, want %x", got, want)
	}
	back, err := ParseAppData(got)
	if err != nil || len(back) != 3 {
		t.Fatalf("read %v, %v", back, err)
	}
	if data, ok := back.Find(0x8001); !ok || !bytes.Equal(data, []byte{7}) {
		t.Errorf("component 0x8001 has %x, %t", data, ok)
	}
	if data, ok := back.Find(2); ok || data != nil {
		t.Errorf("component 2 has %x, %t", data, ok)
	}
	less := back.Without(0x0a0a).Without(5)
	if len(less) != 2 || len(back) != 3 || less[1].ID != 0x8001 {
		t.Errorf("without: %v of %v", less, back)
	}
	if empty, err := ParseAppData([]byte{0}); err != nil || len(empty) != 0 {
		t.Errorf("empty dictionary: %v, %v", empty, err)
	}
}

// TestAppDataRefusals covers rule 119 and the encoding, draft-ietf-mls-extensions-10 §4.6.
func TestAppDataRefusals(t *testing.T) {
	many, mark := codec.Begin(nil)
	for i := range MaxComponents + 1 {
		many = codec.AppendVec(codec.Uint16(many, uint16(i)), "")
	}
	for _, c := range []struct {
		what string
		in   []byte
		rule Rule
	}{
		{"descending", octets(t, "06"+"000200"+"000100"), RuleAppDataDictionary},
		{"twice", octets(t, "06"+"000100"+"000100"), RuleAppDataDictionary},
		{"nothing at all", nil, RuleLength},
		{"half a component", octets(t, "020001"), RuleLength},
		{"data beyond the vector", octets(t, "03000101"), RuleLength},
		{"octets after", octets(t, "0300010000"), Rule(codec.RuleTrailing)},
		{"long form of a length", octets(t, "4003000100"), RuleVarint},
		{"too many", codec.End(many, mark), RuleBounds},
	} {
		d, err := ParseAppData(c.in)
		refused(t, c.what, err, c.rule)
		if d != nil {
			t.Errorf("%s: a dictionary in spite of it", c.what)
		}
	}
}

// TestExtensionsComponent looks a component up in encoded extensions.
func TestExtensionsComponent(t *testing.T) {
	d := AppData{{1, []byte("a")}, {2, nil}, {9, []byte("nine")}}
	e := Extensions{{ExtApplicationID, []byte{0}}}.WithAppData(d)
	if len(e) != 2 || e[1].Type != ExtAppDataDictionary {
		t.Fatalf("the dictionary is not the last extension: %v", e)
	}
	for _, c := range d {
		if data, ok := e.Component(c.ID); !ok || !bytes.Equal(data, c.Data) {
			t.Errorf("component %d: %q, %t", c.ID, data, ok)
		}
	}
	if _, ok := e.Component(3); ok {
		t.Error("a component that is not there")
	}
	if _, ok := (Extensions{{ExtAppDataDictionary, []byte{9, 0}}}).Component(0); ok {
		t.Error("a component of a dictionary that cannot be read")
	}
	got, err := e.AppData()
	if err != nil || !slices.EqualFunc(got, d, func(a, b ComponentData) bool { return a.ID == b.ID && bytes.Equal(a.Data, b.Data) }) {
		t.Errorf("dictionary: %v, %v", got, err)
	}
	if none, err := (Extensions{}).AppData(); err != nil || none != nil {
		t.Errorf("no dictionary: %v, %v", none, err)
	}
}

// TestComponentsList reads lists of components, draft-ietf-mls-extensions-10 §5.
func TestComponentsList(t *testing.T) {
	b := ComponentsList(5, 0x0a0a, 1)
	if !bytes.Equal(b, octets(t, "0600050a0a0001")) {
		t.Fatalf("encoding is %x", b)
	}
	l, err := ParseComponentsList(b)
	if err != nil || l.Len() != 3 || !l.Has(0x0a0a) || l.Has(2) {
		t.Errorf("read %v, %v", l, err)
	}
	_, err = ParseComponentsList(octets(t, "03000100"))
	refused(t, "odd length", err, RuleLength)
	_, err = ParseComponentsList(octets(t, "0200"))
	refused(t, "cut off", err, RuleLength)
}

// TestComponentIDs tells private numbers and GREASE, draft-ietf-mls-extensions-10 §8.6.
func TestComponentIDs(t *testing.T) {
	for id, want := range map[ComponentID][2]bool{
		0: {}, 1: {}, 0x0a0a: {false, true}, 0x7a7a: {false, true}, 0x7a8a: {},
		0x7fff: {}, 0x8000: {true, false}, 0x8a8a: {true, false}, 0xffff: {true, false},
	} {
		if got := [2]bool{id.Private(), id.GREASE()}; got != want {
			t.Errorf("component %#04x: private and GREASE are %v, want %v", id, got, want)
		}
	}
}

// TestComponentLabel compares a label with its encoding,
// draft-ietf-mls-extensions-10 §4.1.
func TestComponentLabel(t *testing.T) {
	want := append(append([]byte{13}, "MLS Component"...), 0x12, 0x34, 3, 'a', 'b', 'c')
	if got := ComponentLabel(0x1234, "abc"); got != string(want) {
		t.Errorf("label is %q, want %q", got, want)
	}
	if ComponentLabel(1, "") == ComponentLabel(2, "") {
		t.Error("two components have one label")
	}
}

// FuzzAppData checks that what is read is in order and is written as it was.
func FuzzAppData(f *testing.F) {
	f.Add([]byte{0})
	f.Add(octets(f, "0600010000020000"))
	f.Add(octets(f, "06000100000200"))
	f.Add(octets(f, "060002000001ff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := ParseAppData(b)
		if err != nil {
			if RuleOf(err) == 0 || errors.Is(err, RuleSafeAAD.Err()) {
				t.Fatalf("a refusal under no rule of its own: %v", err)
			}
			return
		}
		if !bytes.Equal(d.AppendTo(nil), b) {
			t.Fatalf("%x is written as %x", b, d.AppendTo(nil))
		}
		e := Extensions{{ExtAppDataDictionary, b}}
		for i, c := range d {
			if i > 0 && d[i-1].ID >= c.ID {
				t.Fatalf("%d before %d", d[i-1].ID, c.ID)
			}
			if data, ok := e.Component(c.ID); !ok || !bytes.Equal(data, c.Data) {
				t.Fatalf("component %d is not found", c.ID)
			}
		}
	})
}
