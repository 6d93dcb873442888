package mls

import (
	"bytes"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

func media(name string, parameters ...string) MediaType {
	m := MediaType{Type: []byte(name)}
	for i := 0; i+1 < len(parameters); i += 2 {
		m.Parameters = append(m.Parameters, Parameter{[]byte(parameters[i]), []byte(parameters[i+1])})
	}
	return m
}

// mediaGroup is a group whose members have to receive these types.
func mediaGroup(types ...MediaType) *GroupContext {
	d := AppData{{ComponentContentMediaTypes, MediaTypeList(types).AppendTo(nil)}}
	return &GroupContext{Extensions: Extensions{}.WithAppData(d)}
}

// TestMediaTypes reads lists of them, draft-ietf-mls-extensions-10 §6.2.2.
func TestMediaTypes(t *testing.T) {
	list := MediaTypeList{media("image/png"), media("text/plain", "charset", "UTF-8")}
	b := list.AppendTo(nil)
	want := append([]byte{9 + 2 + 11 + 15, 9}, "image/png\x00\x0atext/plain\x0e\x07charset\x05UTF-8"...)
	want[0] = byte(len(want) - 1)
	if !bytes.Equal(b, want) {
		t.Fatalf("encoding is %q, want %q", b, want)
	}
	got, err := mediaGroup(list...).Extensions.MediaTypes()
	if err != nil || len(got) != 2 || !got[1].Equal(list[1]) {
		t.Fatalf("read %q, %v", got, err)
	}
	if !got.Has(media("image/png")) || got.Has(media("text/plain")) || got.Has(media("text/plain", "charset", "x")) {
		t.Error("the list has not what it has")
	}
	if none, err := (Extensions{}).MediaTypes(); err != nil || none != nil {
		t.Errorf("no component: %v, %v", none, err)
	}
	manyTypes := make(MediaTypeList, MaxMediaTypes+1)
	for i := range manyTypes {
		manyTypes[i] = media("a/b")
	}
	manyParameters := MediaTypeList{{Type: []byte("a/b"), Parameters: make([]Parameter, MaxParameters+1)}}
	for _, c := range []struct {
		what string
		in   []byte
		rule Rule
	}{
		{"empty list", []byte{0}, RuleApplicationFraming},
		{"empty type", MediaTypeList{{}}.AppendTo(nil), RuleApplicationFraming},
		{"no subtype", MediaTypeList{media("text/")}.AppendTo(nil), RuleApplicationFraming},
		{"no slash", MediaTypeList{media("text")}.AppendTo(nil), RuleApplicationFraming},
		{"too many types", manyTypes.AppendTo(nil), RuleBounds},
		{"too many parameters", manyParameters.AppendTo(nil), RuleBounds},
		{"cut off", b[:len(b)-1], RuleLength},
		{"octets after", append(bytes.Clone(b), 0), Rule(codec.RuleTrailing)},
		{"a name without a value", octets(t, "07"+"03612f62"+"02"+"0161"), RuleLength},
	} {
		_, err := ParseMediaTypeList(c.in)
		refused(t, c.what, err, c.rule)
	}
}

// TestApplicationFraming covers rule 122, draft-ietf-mls-extensions-10 §6.2.4.
func TestApplicationFraming(t *testing.T) {
	png, text := media("image/png"), media("text/plain", "charset", "UTF-8")
	group := mediaGroup(png, text)
	for _, c := range []struct {
		sent, got MediaType
		encoded   string
	}{
		{png, png, "\x00\x00\x02hi"},
		{MediaType{}, png, "\x00\x00\x02hi"},
		{text, text, "\x0atext/plain\x0e\x07charset\x05UTF-8\x02hi"},
		{media("a/b"), media("a/b"), "\x03a/b\x00\x02hi"},
	} {
		b, err := group.AppendApplication(nil, c.sent, []byte("hi"))
		if err != nil || string(b) != c.encoded {
			t.Errorf("%s is framed as %q, %v", c.sent.Type, b, err)
		}
		f, err := group.ReadApplication(b)
		if err != nil || !f.MediaType.Equal(c.got) || string(f.Content) != "hi" {
			t.Errorf("%s is read as %q, %v", c.sent.Type, f, err)
		}
	}
	_, err := group.AppendApplication(nil, media("text"), nil)
	refused(t, "sending without a subtype", err, RuleApplicationFraming)
	for what, in := range map[string]string{
		"empty": "", "plain text": "hello", "no subtype": "\x04text\x00\x00",
		"cut off": "\x00\x00\x03hi", "octets after": "\x00\x00\x02hi\x00",
	} {
		_, err := group.ReadApplication([]byte(in))
		refused(t, what, err, RuleApplicationFraming)
		_, err = ParseApplicationFraming([]byte(in))
		refused(t, what, err, RuleApplicationFraming)
	}
	broken := &GroupContext{Extensions: Extensions{}.WithAppData(AppData{{ComponentContentMediaTypes, nil}})}
	_, err = broken.ReadApplication([]byte("\x00\x00\x02hi"))
	refused(t, "a group without a first type", err, RuleApplicationFraming)
	plain := &GroupContext{}
	f, err := plain.ReadApplication([]byte("hello"))
	if err != nil || string(f.Content) != "hello" || f.MediaType.Type != nil {
		t.Errorf("a group without framing: %q, %v", f, err)
	}
	if b, err := plain.AppendApplication([]byte("he"), png, []byte("llo")); err != nil || string(b) != "hello" {
		t.Errorf("a group without framing: %q, %v", b, err)
	}
}

// FuzzMediaTypeList checks that what is read is written as it was, as a list
// and as the start of framed application data.
func FuzzMediaTypeList(f *testing.F) {
	f.Add(MediaTypeList{media("image/png"), media("text/plain", "charset", "UTF-8")}.AppendTo(nil))
	f.Add([]byte("\x00\x00\x02hi"))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if l, err := ParseMediaTypeList(b); err == nil {
			if len(l) == 0 || !bytes.Equal(l.AppendTo(nil), b) {
				t.Fatalf("%x is written as %x", b, l.AppendTo(nil))
			}
		} else if RuleOf(err) == 0 {
			t.Fatal(err)
		}
		frame, err := ParseApplicationFraming(b)
		if err == nil && !bytes.Equal(frame.AppendTo(nil), b) {
			t.Fatalf("%x is written as %x", b, frame.AppendTo(nil))
		}
		if err != nil && RuleOf(err) != RuleApplicationFraming {
			t.Fatal(err)
		}
	})
}
