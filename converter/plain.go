package converter

import (
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

// PlainText returns the text of an event for those who read neither formats nor
// threads: a log on a terminal, a device without a screen. Reactions, edits and
// files are said in words; false if there is nothing to say (a tombstone, a
// sealed body, content that cannot be read).
func PlainText(e *core.Event) (text string, ok bool) {
	c, err := ContentOf(e)
	if err != nil {
		return "", false
	}
	if c.IsReaction() {
		text = reactionText(&c.Part)
		return text, text != ""
	}
	b := bodyOf(&c.Part)
	lines := make([]string, 0, 1+len(b.files))
	if text = strings.TrimRight(b.text(), "\n"); text != "" {
		lines = append(lines, text)
	}
	for i := range b.files {
		lines = append(lines, fileText(&b.files[i]))
	}
	text = strings.Join(lines, "\n")
	return text, text != ""
}

// Text returns content that says text, in a media type of the TypePlain and
// TypeMarkdown kind ("" = plain). The salt comes from seed, as NewSalt has it.
func Text(text, mediaType string, seed []byte) Content {
	if mediaType == "" {
		mediaType = TypePlain
	}
	return Content{Salt: NewSalt(seed), Part: Part{Disposition: DispositionRender, Cardinality: SinglePart, Type: mediaType, Body: []byte(text)}}
}
