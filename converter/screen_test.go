package converter

import (
	"strings"
	"testing"
	"unicode"

	"github.com/isthmus-chat/isthmus/core"
)

// What people type comes back as they typed it, less what is no text.
func TestScreenText(t *testing.T) {
	for in, want := range map[string]string{
		"hello":              "hello",
		"two\nlines":         "two\nlines",
		"red\x1b[31m\x07":    "red[31m",
		"csi\u009b31m":       "csi31m",
		"over\u202eride":     "override",
		"open\u2067isolate":  "open\u2067isolate\u2069",
		"family 👨‍👩‍👧 stays": "family 👨‍👩‍👧 stays",
	} {
		c := Text(in, "", []byte(in))
		back, err := ParseContent(c.Append(nil))
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if got := back.Text(); got != want {
			t.Errorf("%q came back as %q, want %q", in, got, want)
		}
	}
}

func TestScreenTextOfOthers(t *testing.T) {
	part := func(typ, body string) Part {
		return Part{Disposition: DispositionRender, Cardinality: SinglePart, Type: typ, Body: []byte(body)}
	}
	file := Part{Disposition: DispositionAttachment, Cardinality: ExternalPart, Type: "image/png",
		File: &File{URL: "https://a.example/f", Size: 2048, Filename: "cat\x1b.png"}}
	for want, p := range map[string]Part{
		"bold":                  part(TypeHTML, "<b>bold</b>"),
		"said":                  part(TypeMarkdown, "**said**"),
		"[application/x-thing]": part("application/x-thing", "\x1b"),
		"cat.png (image/png, 2.0 KiB) https://a.example/f": file,
		"": {},
	} {
		c := Content{Part: p}
		if got := c.Text(); got != want {
			t.Errorf("%+v says %q, want %q", p, got, want)
		}
	}
	r, err := NewReaction(ID{1}, "👍", [16]byte{})
	if err != nil || r.Text() != "👍" || !r.IsReaction() {
		t.Errorf("a reaction: %q, %v", r.Text(), err)
	}
	if _, err := NewReaction(ID{1}, strings.Repeat("x", 1000), [16]byte{}); core.CodeOf(err) != core.Invalid {
		t.Errorf("a long reaction: %v", err)
	}
	if got := Line(" a\x1b[2J\n\tb\u202e "); got != "a[2J b" {
		t.Errorf("Line: %q", got)
	}
}

// Whatever content says, a screen obeys none of it.
func FuzzScreenText(f *testing.F) {
	c := Text("hello\x1b[31m", "", nil)
	f.Add(c.Append(nil))
	c.Part.Type = TypeHTML
	c.Part.Body = []byte("<b>&#27;[2J</b>")
	f.Add(c.Append(nil))
	c.Part.Type, c.Part.Body = TypeMarkdown, []byte("# &#x9b;\n- x\u202e")
	f.Add(c.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseContent(b)
		if err != nil {
			return
		}
		for _, r := range c.Text() {
			if r != '\n' && r != '\t' && unicode.IsControl(r) || r == 0x202d || r == 0x202e {
				t.Fatalf("%q says %q", b, c.Text())
			}
		}
	})
}
