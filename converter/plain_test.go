package converter

import (
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

func TestPlainText(t *testing.T) {
	env := core.Envelope{Room: "mimi://a.example/r/x", Sender: "mimi://a.example/u/ann", Origin: core.Origin{Network: "native"}}
	event := func(c Content) *core.Event { return &core.Event{Envelope: c.Envelope(env, "ann")} }
	file := Content{Part: Part{Cardinality: MultiPart, Semantics: ProcessAll, Parts: []Part{
		{Disposition: DispositionRender, Cardinality: SinglePart, Type: TypePlain, Body: []byte("see")},
		{Disposition: DispositionAttachment, Cardinality: ExternalPart, Type: "image/png", File: &File{URL: "https://a.example/f", Filename: "cat.png"}}}}}
	for name, c := range map[string]struct {
		event *core.Event
		want  string
		ok    bool
	}{
		"plain":     {event(Text("hello\nworld", "", []byte("1"))), "hello\nworld", true},
		"markdown":  {event(Text("**hello**", TypeMarkdown, []byte("2"))), "hello", true},
		"file":      {event(file), "see\n" + fileText(&file.Part.Parts[1]), true},
		"nothing":   {event(Content{}), "", false},
		"sealed":    {&core.Event{Envelope: core.Envelope{Body: core.Sealed{Message: []byte{1}}}}, "", false},
		"tombstone": {&core.Event{Envelope: event(Text("gone", "", nil)).Envelope, Deleted: true}, "", false},
	} {
		got, ok := PlainText(c.event)
		if got != c.want || ok != c.ok {
			t.Errorf("%s: %q, %v; want %q, %v", name, got, ok, c.want, c.ok)
		}
	}
	a, b := Text("x", "", []byte("1")), Text("x", "", []byte("2"))
	if a.Salt == b.Salt {
		t.Error("two seeds, one salt")
	}
}
