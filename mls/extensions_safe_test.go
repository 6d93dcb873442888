package mls

import (
	"bytes"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// safeGroup is a group that demands framed authenticated data.
func safeGroup() *GroupContext {
	d := AppData{{ComponentSafeAAD, ComponentsList()}}
	return &GroupContext{Extensions: Extensions{}.WithAppData(d)}
}

// TestSafeAAD covers rule 120, draft-ietf-mls-extensions-10 §4.9.
func TestSafeAAD(t *testing.T) {
	group, plain := safeGroup(), &GroupContext{}
	a := SafeAAD(nil).With(7, []byte("seven")).With(3, nil)
	b := a.AppendTo(nil)
	got, err := ParseSafeAAD(b)
	if err != nil || len(got) != 2 || got[0].ID != 3 {
		t.Fatalf("read %v, %v", got, err)
	}
	if item, ok := got.Find(7); !ok || string(item) != "seven" {
		t.Errorf("item of 7 is %q, %t", item, ok)
	}
	for _, data := range [][]byte{b, {0}} {
		if err := group.CheckAuthenticatedData(data); err != nil {
			t.Errorf("%x: %v", data, err)
		}
	}
	many, mark := codec.Begin(nil)
	for i := range MaxComponents + 1 {
		many = codec.AppendVec(codec.Uint16(many, uint16(i)), "")
	}
	for what, data := range map[string][]byte{
		"empty":         nil,
		"plain text":    []byte("hello"),
		"descending":    octets(t, "06"+"000700"+"000300"),
		"twice":         octets(t, "06"+"000700"+"000700"),
		"half an item":  octets(t, "020007"),
		"octets after":  append(bytes.Clone(b), 0),
		"too many":      codec.End(many, mark),
		"item cut off":  octets(t, "03000705"),
		"long encoding": octets(t, "4003000700"),
	} {
		refused(t, what, CheckSafeAAD(data), RuleSafeAAD)
		refused(t, what+", in a group", group.CheckAuthenticatedData(data), RuleSafeAAD)
		_, err := ParseSafeAAD(data)
		refused(t, what+", parsed", err, RuleSafeAAD)
		if err := plain.CheckAuthenticatedData(data); err != nil {
			t.Errorf("%s, in a group that does not demand it: %v", what, err)
		}
	}
	if n := testing.AllocsPerRun(100, func() {
		if group.CheckAuthenticatedData(b) != nil {
			t.Fail()
		}
	}); n != 0 {
		t.Errorf("a check takes %v allocations", n)
	}
}

// FuzzSafeAAD checks that both ways of reading agree.
func FuzzSafeAAD(f *testing.F) {
	f.Add([]byte{0})
	f.Add(octets(f, "06000300000700"))
	f.Add(octets(f, "06000700000300"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseSafeAAD(b)
		if check := CheckSafeAAD(b); RuleOf(check) != RuleOf(err) {
			t.Fatalf("parse says %v, check says %v", err, check)
		}
		if err == nil && !bytes.Equal(a.AppendTo(nil), b) {
			t.Fatalf("%x is written as %x", b, a.AppendTo(nil))
		}
	})
}

// TestComponentPSK covers rule 123, draft-ietf-mls-extensions-10 §4.5.
func TestComponentPSK(t *testing.T) {
	p := ComponentPSK(0x8001, []byte("id"), make([]byte, 4))
	b := p.AppendTo(nil)
	if want := octets(t, "03"+"8001"+"026964"+"0400000000"); !bytes.Equal(b, want) {
		t.Fatalf("encoding is %x, want %x", b, want)
	}
	r := codec.NewReader(b)
	back := ReadPreSharedKeyID(&r)
	if r.Finish() != nil || back.Type != PSKComponent || back.Component != 0x8001 || string(back.ID) != "id" {
		t.Fatalf("read %v, %v", back, r.Err())
	}
	if err := back.CheckComponent(4); err != nil {
		t.Error(err)
	}
	refused(t, "nonce of another length", back.CheckComponent(32), RuleComponentPSK)
	none := ComponentPSK(0, []byte("id"), make([]byte, 4))
	refused(t, "reserved component", none.CheckComponent(4), RuleComponentPSK)
	other := PreSharedKeyID{Type: PSKExternal}
	if err := other.CheckComponent(32); err != nil {
		t.Errorf("a key of another type: %v", err)
	}
	for i := range b {
		r := codec.NewReader(b[:i])
		if ReadPreSharedKeyID(&r); r.Finish() == nil {
			t.Errorf("%d octets of %d are read", i, len(b))
		}
	}
}

// TestAppAck reads ranges of messages, draft-ietf-mls-extensions-10 §6.1.
func TestAppAck(t *testing.T) {
	a := AppAck{{1, 0, 5}, {0xffffffff, 7, 7}}
	b := a.AppendTo(nil)
	if want := octets(t, "18"+"000000010000000000000005"+"ffffffff0000000700000007"); !bytes.Equal(b, want) {
		t.Fatalf("encoding is %x, want %x", b, want)
	}
	got, err := ParseAppAck(b)
	if err != nil || len(got) != 2 || got[0] != a[0] || got[1] != a[1] {
		t.Fatalf("read %v, %v", got, err)
	}
	_, err = ParseAppAck(octets(t, "0c"+"000000010000000600000005"))
	refused(t, "ends before it begins", err, RuleReservedValue)
	_, err = ParseAppAck(octets(t, "0b"+"0000000100000006000000"))
	refused(t, "cut off", err, RuleLength)
	_, err = ParseAppAck(append(b, 0))
	refused(t, "octets after", err, Rule(codec.RuleTrailing))
	_, err = ParseAppAck(make(AppAck, MaxRanges+1).AppendTo(nil))
	refused(t, "too many", err, RuleBounds)
}

// FuzzAppAck checks that what is read is written as it was.
func FuzzAppAck(f *testing.F) {
	f.Add([]byte{0})
	f.Add(AppAck{{1, 2, 3}}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAppAck(b)
		if err == nil && !bytes.Equal(a.AppendTo(nil), b) {
			t.Fatalf("%x is written as %x", b, a.AppendTo(nil))
		}
		if err != nil && RuleOf(err) == 0 {
			t.Fatal(err)
		}
	})
}
