package converter

import (
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

// Text returns what c says as plain text, for a screen: lines separated by LF,
// tabs kept, without any other control character and with bidirectional
// embeddings closed. A reaction is its text, a file one line about it, a deletion
// (a null part) "".
func (c *Content) Text() string {
	if c.IsReaction() {
		return reactionText(&c.Part)
	}
	b := bodyOf(&c.Part)
	lines := make([]string, 0, 1+len(b.files))
	if t := strings.TrimRight(clean(b.text(), false), "\n"); t != "" {
		lines = append(lines, t)
	}
	for i := range b.files {
		lines = append(lines, fileText(&b.files[i]))
	}
	return strings.Join(lines, "\n")
}

// Line returns s as one line that is safe to show anywhere: runs of blanks and
// line breaks are one blank, controls and bidirectional overrides are gone.
func Line(s string) string { return oneLine(s) }

// NewReaction returns content that reacts to the message called target. The salt
// must differ from message to message, see NewSalt. Errors: Invalid if text is
// not one short line.
func NewReaction(target ID, text string, salt [16]byte) (Content, error) {
	key := reactionKey(text)
	if key == "" {
		return Content{}, core.Errorf(core.Invalid, "a reaction is one line of at most %d octets", maxReaction)
	}
	return Content{Salt: salt, InReplyTo: target, Part: Part{
		Disposition: DispositionReaction, Cardinality: SinglePart, Type: TypePlain, Body: []byte(key),
	}}, nil
}
