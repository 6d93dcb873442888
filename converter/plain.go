package converter

import "github.com/isthmus-chat/isthmus/core"

// PlainText returns the text of an event for those who read neither formats nor
// threads: a log on a terminal, a device without a screen. Reactions, edits and
// files are said in words; false if there is nothing to say (a tombstone, a
// sealed body, content that cannot be read).
func PlainText(e *core.Event) (text string, ok bool) {
	c, err := ContentOf(e)
	if err != nil {
		return "", false
	}
	text = c.Text()
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
