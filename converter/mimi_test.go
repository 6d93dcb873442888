package converter

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/core"
)

// vectorDir returns the folder of the draft's examples.
func vectorDir(t testing.TB) string {
	dir := os.Getenv("ISTHMUS_VECTORS")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "vectors")
	}
	return filepath.Join(dir, "mimi-content")
}

var ednID = regexp.MustCompile(`(?s)message ID = h'([0-9a-f]+)\s*#?\s*([0-9a-f]+)'`)

// draft-ietf-mimi-content-09 §3.3 and its examples.
func TestContentVectors(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(vectorDir(t), "*.cbor"))
	if err != nil || len(files) != 15 {
		t.Fatalf("%d vectors, %v; ISTHMUS_VECTORS names their folder", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".cbor")
		t.Run(name, func(t *testing.T) {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			c, err := ParseContent(b)
			if name == "implied-original" {
				if core.CodeOf(err) != core.Invalid {
					t.Fatalf("derived values were taken for content: %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := c.Append(nil); !bytes.Equal(got, b) {
				t.Errorf("re-encoded\n%x\nwant\n%x", got, b)
			}
			edn, err := os.ReadFile(strings.TrimSuffix(f, ".cbor") + ".edn")
			if err != nil {
				t.Fatal(err)
			}
			m := ednID.FindSubmatch(edn)
			id, err := MessageID(c.SenderURI, c.RoomURI, b)
			if m == nil || err != nil || hex.EncodeToString(id[:]) != string(m[1])+string(m[2]) {
				t.Errorf("message ID %x, %v; want %s", id, err, m)
			}
		})
	}
}

func drawContent(t *rapid.T) Content {
	text := rapid.StringN(0, 20, 60)
	var c Content
	copy(c.Salt[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "salt"))
	if rapid.Bool().Draw(t, "edit") {
		c.Replaces = ID{0: 1, 5: 7}
	}
	if rapid.Bool().Draw(t, "reply") {
		c.InReplyTo = ID{0: 1, 31: 9}
		c.Ref = core.NewEventID(testRoom, "a.example", rapid.Uint64().Draw(t, "ref"))
	}
	c.Topic = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "topic")
	c.Expires = Expiration{}
	if rapid.Bool().Draw(t, "expires") {
		c.Expires = Expiration{Set: true, Relative: rapid.Bool().Draw(t, "relative"), Seconds: rapid.Uint32().Draw(t, "seconds")}
	}
	c.SenderURI, c.RoomURI = text.Draw(t, "sender"), text.Draw(t, "room")
	c.Kind = rapid.SampledFrom([]string{"", KindEmote, KindNotice}).Draw(t, "kind")
	if rapid.Bool().Draw(t, "external") {
		c.External = ExternalID{ID: []byte("$id"), Domain: text.Draw(t, "domain")}
	}
	if rapid.Bool().Draw(t, "unknown") {
		c.Unknown = []Extension{{Key: []byte{0x05}, Value: []byte{0x82, 0x01, 0x02}},
			{Key: append([]byte{0x78, 0x1e}, bytes.Repeat([]byte("z"), 30)...), Value: []byte{0xf5}}}
	}
	c.Part = drawPart(t, 1)
	return c
}

func drawPart(t *rapid.T, depth int) Part {
	text := rapid.StringN(0, 20, 60)
	p := Part{Disposition: Disposition(rapid.Byte().Draw(t, "disposition")), Language: text.Draw(t, "language"),
		Cardinality: Cardinality(rapid.IntRange(0, 3).Draw(t, "cardinality"))}
	if p.Cardinality == MultiPart && depth == maxDepth {
		p.Cardinality = NullPart
	}
	switch p.Cardinality {
	case SinglePart:
		p.Type, p.Body = TypePlain, []byte(text.Draw(t, "body"))
	case ExternalPart:
		p.Type = text.Draw(t, "type")
		p.File = &File{URL: text.Draw(t, "url"), Size: rapid.Uint64().Draw(t, "size"), Expires: rapid.Uint32().Draw(t, "until"),
			EncAlg: rapid.Uint16().Draw(t, "alg"), Key: []byte("k"), Nonce: []byte{}, AAD: []byte{}, HashAlg: 1,
			Hash: []byte("h"), Description: text.Draw(t, "description"), Filename: text.Draw(t, "name")}
	case MultiPart:
		p.Semantics = Semantics(rapid.IntRange(0, 2).Draw(t, "semantics"))
		for range rapid.IntRange(2, 3).Draw(t, "parts") {
			p.Parts = append(p.Parts, drawPart(t, depth+1))
		}
	}
	return p
}

func TestContentRoundTrip(t *testing.T) {
	mode, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		c := drawContent(t)
		b := c.Append(nil)
		got, err := ParseContent(b)
		if err != nil {
			t.Fatalf("%v: %x", err, b)
		}
		if again := got.Append(nil); !bytes.Equal(again, b) {
			t.Fatalf("\n%x\n%x", again, b)
		}
		var any any // the library's deterministic form of the same is the same
		if err := cbor.Unmarshal(b, &any); err != nil {
			t.Fatal(err)
		}
		if lib, err := mode.Marshal(any); err != nil || !bytes.Equal(lib, b) {
			t.Fatalf("library: %v\n%x\n%x", err, lib, b)
		}
	})
}

// draft-ietf-mimi-content-09 §9.1: what a receiver discards.
func TestContentBounds(t *testing.T) {
	good := Content{Part: Part{Cardinality: SinglePart, Type: TypePlain, Body: []byte("x")}}
	nest := func(n int) Part {
		p := Part{Cardinality: SinglePart, Type: TypePlain, Body: []byte("x")}
		for range n {
			p = Part{Cardinality: MultiPart, Parts: []Part{p, {}}}
		}
		return p
	}
	many := Part{Cardinality: MultiPart, Parts: make([]Part, 1100)}
	for name, c := range map[string]Content{
		"five levels":       {Part: nest(4)},
		"eleven hundred":    {Part: many},
		"topic":             {Topic: make([]byte, maxTopic+1)},
		"one part of many":  {Part: Part{Cardinality: MultiPart, Parts: make([]Part, 1)}},
		"semantics":         {Part: Part{Cardinality: MultiPart, Semantics: 3, Parts: make([]Part, 2)}},
		"hash algorithm":    {Replaces: ID{0: 2}},
		"text not UTF-8":    {Part: Part{Cardinality: SinglePart, Type: TypePlain, Body: []byte{0xff}}},
		"language":          {Part: Part{Language: "\xff"}},
		"same key twice":    {SenderURI: "x", Unknown: []Extension{{Key: []byte{1}, Value: []byte{0x61, 'y'}}}},
		"deep extension":    {Unknown: []Extension{{Key: []byte{9}, Value: []byte{0x81, 0x81, 0x81, 0x81, 0x81, 0x81, 0}}}},
		"map of 2^63 pairs": {Unknown: []Extension{{Key: []byte{9}, Value: []byte{0xbb, 0x80, 0, 0, 0, 0, 0, 0, 0}}}},
		"huge":              {Part: Part{Cardinality: SinglePart, Type: "image/png", Body: make([]byte, core.MaxContent)}},
	} {
		if _, err := ParseContent(c.Append(nil)); core.CodeOf(err) != core.Invalid && core.CodeOf(err) != core.TooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
	b := good.Append(nil)
	if _, err := ParseContent(b); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if _, err := ParseContent(b[:i]); core.CodeOf(err) != core.Invalid {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	if _, err := ParseContent(append(b, 0)); err == nil {
		t.Error("an octet too many was taken")
	}
	indefinite := append([]byte{0x9f}, append(b[1:len(b):len(b)], 0xff)...)
	if _, err := ParseContent(indefinite); err == nil {
		t.Error("indefinite length was taken")
	}
}

func FuzzParseContent(f *testing.F) {
	files, _ := filepath.Glob(filepath.Join(vectorDir(f), "*.cbor"))
	for _, name := range files {
		if b, err := os.ReadFile(name); err == nil {
			f.Add(b)
		}
	}
	c := Content{Ref: core.EventID{1}, Kind: KindEmote, Part: Part{Cardinality: SinglePart, Type: TypePlain, Body: []byte("x")}}
	f.Add(c.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseContent(b)
		if err != nil {
			if code := core.CodeOf(err); code != core.Invalid && code != core.TooLarge {
				t.Fatalf("code %v", code)
			}
			return
		}
		again := c.Append(nil)
		d, err := ParseContent(again)
		if err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		if third := d.Append(nil); !bytes.Equal(again, third) {
			t.Fatalf("encoding is not stable")
		}
		n := newRoom()
		e := n.accept(t, core.Envelope{Room: testRoom, Sender: alice, Body: core.Signed{ContentType: core.ContentMIMI, Content: b}}, "$x", 0)
		if o, _, err := (IRC{}).Outbound(e, n); err == nil {
			checkIRC(t, o)
		}
		if out, _, err := (Matrix{}).Outbound(e, n); err == nil {
			checkMatrix(t, out)
		}
	})
}
