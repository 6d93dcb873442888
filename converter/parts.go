package converter

import (
	"strconv"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

// lossOf returns a loss of a kind with a sentence for the sender.
func lossOf(kind, text string) core.Loss { return core.Loss{Kind: kind, Text: text} }

// A body is what a part comes to on a far side: text, and files.
type body struct {
	plain string // set if the text is one plain part; doc is unset then
	doc   doc
	files []Part // ExternalParts
	loss  []core.Loss
}

// text returns the text without formatting.
func (b *body) text() string {
	if b.doc == nil {
		return b.plain
	}
	return b.doc.text()
}

// bodyOf reads a part: of parts to choose from, the first that it understands
// best (HTML, then Markdown, then plain text, then files).
func bodyOf(p *Part) body {
	if p.Cardinality == SinglePart && isPlain(p.Type) {
		return body{plain: clean(string(p.Body), false)}
	}
	var b body
	b.add(p)
	if b.doc == nil {
		b.doc = doc{}
	}
	return b
}

func isPlain(t string) bool { return t == TypePlain || strings.HasPrefix(t, "text/plain") }

func (b *body) add(p *Part) {
	switch p.Cardinality {
	case SinglePart:
		var d doc
		switch {
		case strings.HasPrefix(p.Type, "text/html"):
			d = parseHTML(string(p.Body), nil)
		case strings.HasPrefix(p.Type, "text/markdown"):
			d = parseMarkdown(string(p.Body))
		case isText(p.Type):
			d = parsePlain(string(p.Body))
		default:
			d = doc{{spans: []span{{text: "[" + cutRunes(oneLine(p.Type), maxQuote) + "]"}}}}
			b.loss = append(b.loss, lossOf(LossType, "a part of an unknown type was shown by its name only"))
		}
		b.join(d)
	case ExternalPart:
		b.files = append(b.files, *p)
	case MultiPart:
		if p.Semantics == ChooseOne {
			b.add(choose(p.Parts))
			return
		}
		for i := range p.Parts {
			b.add(&p.Parts[i])
		}
	}
}

func (b *body) join(d doc) {
	if len(b.doc) > 0 && len(d) > 0 {
		d[0].gap = true
	}
	b.doc = append(b.doc, d...)
}

// choose returns the best of parts to choose from; among equals the first.
func choose(parts []Part) *Part {
	best, rank := &parts[0], -1
	for i := range parts {
		if r := rankOf(&parts[i]); r > rank {
			best, rank = &parts[i], r
		}
	}
	return best
}

func rankOf(p *Part) int {
	switch {
	case p.Cardinality == MultiPart:
		r := 0
		for i := range p.Parts {
			r = max(r, rankOf(&p.Parts[i]))
		}
		return r
	case p.Cardinality == ExternalPart:
		return 2
	case p.Cardinality != SinglePart:
		return 0
	case strings.HasPrefix(p.Type, "text/html"):
		return 5
	case strings.HasPrefix(p.Type, "text/markdown"):
		return 4
	case isText(p.Type):
		return 3
	}
	return 1
}

// fileText describes a file in one line: name, type, size, address. The
// address is left out if the file is encrypted: its key is for devices.
func fileText(p *Part) string {
	f := p.File
	words := make([]string, 0, 4)
	if name := firstOf(oneLine(f.Description), oneLine(f.Filename)); name != "" {
		words = append(words, cutRunes(name, 200))
	}
	about := cutRunes(oneLine(p.Type), maxQuote)
	if f.Size > 0 {
		about = strings.TrimPrefix(about+", "+sizeText(f.Size), ", ")
	}
	if about != "" {
		words = append(words, "("+about+")")
	}
	if url := safeLink(f.URL); url != "" && f.EncAlg == 0 {
		words = append(words, url)
	} else if f.EncAlg != 0 {
		words = append(words, "[encrypted]")
	}
	return strings.Join(words, " ")
}

func sizeText(n uint64) string {
	for _, u := range [...]struct {
		name string
		size uint64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if n >= u.size {
			return strconv.FormatFloat(float64(n)/float64(u.size), 'f', 1, 64) + " " + u.name
		}
	}
	return strconv.FormatUint(n, 10) + " B"
}

// reactionText returns what a reaction says: of several, all.
func reactionText(p *Part) string {
	return strings.Join(reactionTexts(p, nil), " ")
}

func reactionTexts(p *Part, out []string) []string {
	switch p.Cardinality {
	case SinglePart:
		if t := reactionKey(string(p.Body)); t != "" && isText(p.Type) {
			out = append(out, t)
		}
	case MultiPart:
		for i := range p.Parts {
			out = reactionTexts(&p.Parts[i], out)
			if p.Semantics == ChooseOne && len(out) > 0 {
				break
			}
		}
	}
	return out
}

// reactionKey returns s as a reaction, "" if it is none: one short line.
func reactionKey(s string) string {
	if len(s) > 4*maxReaction {
		return ""
	}
	if s = oneLine(s); len(s) > maxReaction {
		return ""
	}
	return s
}

// refer makes c refer to an earlier event, as reply, reaction or edit.
func (c *Content) refer(id core.EventID, names Names) (*core.Event, bool) {
	e, ok := names.Event(id)
	if !ok {
		return nil, false
	}
	c.Ref = id
	c.InReplyTo, _ = MessageIDOf(e)
	return e, true
}

// react makes c a reaction to target.
func (c *Content) react(target core.EventID, text string, names Names) error {
	key := reactionKey(text)
	if key == "" {
		return core.Errorf(core.Invalid, "a reaction is one line of at most %d octets", maxReaction)
	}
	if _, ok := c.refer(target, names); !ok {
		return core.Errorf(core.NotFound, "no message to react to")
	}
	c.Part = Part{Disposition: DispositionReaction, Cardinality: SinglePart, Type: TypePlain, Body: []byte(key)}
	return nil
}

// unreact makes c take back the reaction that reaction is
// (draft-ietf-mimi-content-09 §5.4): it replaces it by nothing.
func (c *Content) unreact(reaction *core.Event) error {
	old, err := ContentOf(reaction)
	if err != nil || !old.IsReaction() {
		return core.Errorf(core.NotFound, "no reaction to take back")
	}
	c.Replaces, _ = MessageIDOf(reaction)
	c.InReplyTo, c.Ref = old.InReplyTo, reaction.ID
	c.Part = Part{Disposition: DispositionReaction, Cardinality: NullPart}
	return nil
}

// edit makes c replace target, or the first version if target is an edit
// itself; sender must have written it.
func (c *Content) edit(target core.EventID, sender core.UserURI, names Names) error {
	for range 2 { // our own edits all point to the first version
		e, ok := names.Event(target)
		if !ok {
			break
		}
		if e.Sender != sender {
			return core.Errorf(core.Denied, "only its sender may edit a message")
		}
		old, err := ContentOf(e)
		if err != nil {
			break
		}
		if !old.Replaces.IsZero() && !old.Ref.IsZero() {
			target = old.Ref
			continue
		}
		c.Replaces, _ = MessageIDOf(e)
		c.InReplyTo, c.Topic, c.Ref = old.InReplyTo, old.Topic, target
		return nil
	}
	return core.Errorf(core.NotFound, "no message to edit")
}
