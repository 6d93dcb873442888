package converter

import (
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

// A style is a set of inline styles.
type style uint8

const (
	bold style = 1 << iota
	italic
	underline
	strike
	spoiler
	mono
)

// A colour is 1<<24 | RGB; 0 is the reader's own.
type colour uint32

// A span is text in one style, without line breaks.
type span struct {
	text   string
	style  style
	fg, bg colour
	link   string // as safeLink leaves it; "" = none. A mimi user URI is a mention.
}

func (s span) same(t span) bool {
	return s.style == t.style && s.fg == t.fg && s.bg == t.bg && s.link == t.link
}

// A lineKind says what block a line belongs to.
type lineKind uint8

const (
	para     lineKind = iota
	heading           // level 1 to 6
	item              // starts a list item; level is the depth, number 0 a bullet
	itemMore          // goes on in the item before it
	code              // one line of a code block, lang
	rule              // a horizontal rule, no text
)

// A line is one line as a reader sees it.
type line struct {
	spans  []span
	kind   lineKind
	level  uint8
	quote  uint8 // depth of quotation
	gap    bool  // begins a new paragraph or block: a blank line before it
	number uint32
	lang   string
}

// A doc is formatted text: the form that mIRC codes, HTML and Markdown are
// read into and written from.
type doc []line

// Bounds of a doc.
const (
	maxDocLines   = 2000
	maxDocSpans   = 8000
	maxQuoteDepth = 4
	maxListDepth  = 4
)

// normal brings a doc into the form that every parser agrees on: empty lines
// become gaps, blocks of different kinds are parted, equal spans are one.
func (d doc) normal() doc {
	out := d[:0]
	gap := false
	for _, l := range d {
		l.spans = joinSpans(l.spans)
		if len(l.spans) == 0 && l.kind != code && l.kind != rule {
			gap = true
			continue
		}
		l.gap = l.gap || gap
		gap = false
		switch {
		case len(out) == 0:
			l.gap = false
		case l.quote != out[len(out)-1].quote, l.kind == heading, l.kind == rule:
			l.gap = true
		case listed(l.kind) && listed(out[len(out)-1].kind):
			l.gap = false
		case l.kind != out[len(out)-1].kind, l.lang != out[len(out)-1].lang:
			l.gap = true
		}
		out = append(out, l)
	}
	return out
}

func listed(k lineKind) bool { return k == item || k == itemMore }

func joinSpans(spans []span) []span {
	out := spans[:0]
	for _, s := range spans {
		switch n := len(out); {
		case s.text == "":
		case n > 0 && out[n-1].same(s):
			out[n-1].text += s.text
		default:
			out = append(out, s)
		}
	}
	return out
}

// plain reports whether d is text and nothing else.
func (d doc) plain() bool {
	for _, l := range d {
		if l.kind != para || l.quote > 0 || len(l.spans) > 1 || len(l.spans) == 1 && !l.spans[0].same(span{}) {
			return false
		}
	}
	return true
}

// inMarkdown reports whether Markdown has all the styles of d.
func (d doc) inMarkdown() bool {
	for _, l := range d {
		for _, s := range l.spans {
			if s.style&(underline|spoiler) != 0 || s.fg != 0 || s.bg != 0 {
				return false
			}
		}
	}
	return true
}

// equal reports whether d and e read the same.
func (d doc) equal(e doc) bool {
	return slices.EqualFunc(d, e, func(a, b line) bool {
		return a.kind == b.kind && a.level == b.level && a.quote == b.quote && a.gap == b.gap &&
			a.number == b.number && a.lang == b.lang && slices.Equal(a.spans, b.spans)
	})
}

// text writes d without formatting: quotes and lists keep their marks, a link
// is followed by its target where the text does not show it.
func (d doc) text() string {
	var b strings.Builder
	for i, l := range d {
		if i > 0 {
			b.WriteByte('\n')
			if l.gap {
				b.WriteByte('\n')
			}
		}
		b.WriteString(l.prefix())
		for j, s := range l.spans {
			b.WriteString(s.text)
			if target := linkTarget(l.spans, j); target != "" {
				b.WriteString(" (" + target + ")")
			}
		}
	}
	return b.String()
}

// linkTarget returns what is to be shown after span i: the target of the link
// that ends there, unless it is a mention or the text shows it.
func linkTarget(spans []span, i int) string {
	s := spans[i]
	if s.link == "" || isMention(s.link) || i+1 < len(spans) && spans[i+1].link == s.link {
		return ""
	}
	text := s.text
	for j := i - 1; j >= 0 && spans[j].link == s.link; j-- {
		text = spans[j].text + text
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(strings.TrimPrefix(s.link, "https://"), "http://"), "/")
	if strings.Contains(text, bare) || s.link == "mailto:"+text {
		return ""
	}
	return s.link
}

// prefix returns the marks before a line in plain text.
func (l *line) prefix() string {
	if l.quote == 0 && l.kind != item && l.kind != itemMore && l.kind != rule {
		return ""
	}
	p := strings.Repeat("> ", int(l.quote))
	switch l.kind {
	case item, itemMore:
		p += strings.Repeat("  ", int(max(l.level, 1))-1)
		switch {
		case l.kind == itemMore:
			p += "  "
		case l.number > 0:
			p += strconv.Itoa(int(l.number)) + ". "
		default:
			p += "- "
		}
	case rule:
		p += "---"
	}
	return p
}

// docPart returns d as a part: plain text if it is no more, Markdown if that
// reads back as the same, else HTML with Markdown beside it. What would be over
// half of what content may hold is plain text: formatting never costs words.
func docPart(d doc) Part {
	single := func(t, body string) Part {
		return Part{Disposition: DispositionRender, Cardinality: SinglePart, Type: t, Body: []byte(body)}
	}
	if d.plain() {
		return single(TypePlain, d.text())
	}
	md := d.markdown()
	if d.inMarkdown() && len(md) <= core.MaxContent/2 && parseMarkdown(md).equal(d) {
		return single(TypeMarkdown, md)
	}
	html := d.html(nil)
	if len(md)+len(html) > core.MaxContent/2 {
		return single(TypePlain, d.text())
	}
	return Part{Disposition: DispositionRender, Cardinality: MultiPart, Semantics: ChooseOne,
		Parts: []Part{single(TypeHTML, html), single(TypeMarkdown, md)}}
}

// parsePlain reads plain text; every line stays a line.
func parsePlain(s string) doc {
	lines := strings.SplitN(clean(s, false), "\n", maxDocLines)
	d := make(doc, len(lines))
	for i, l := range lines {
		d[i].spans = []span{{text: strings.ReplaceAll(l, "\n", " ")}}
	}
	return d.normal()
}

// safeLink returns url as it may stand in any form, "" if it may not: only
// web and mail addresses and mimi users, no blanks or controls, and the
// characters that end a link somewhere percent-encoded.
func safeLink(url string) string {
	if len(url) > maxText {
		return ""
	}
	colon := strings.IndexByte(url, ':')
	if colon < 0 {
		return ""
	}
	switch scheme := strings.ToLower(url[:colon]); scheme {
	case "http", "https":
		if !strings.HasPrefix(url[colon:], "://") || len(url) == colon+3 {
			return ""
		}
	case "mailto":
	case "mimi":
		if _, err := core.ParseUserURI(url); err != nil {
			return ""
		}
	default:
		return ""
	}
	if clean(url, false) != url || strings.ContainsAny(url, " \n\t") {
		return ""
	}
	if !strings.ContainsAny(url, "()<>[]\"'\\`*_~|") {
		return url
	}
	var b strings.Builder
	for i := 0; i < len(url); i++ {
		if c := url[i]; strings.IndexByte("()<>\"'\\`|", c) >= 0 {
			const hex = "0123456789ABCDEF"
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// isMention reports whether a link names a user.
func isMention(link string) bool { return strings.HasPrefix(link, "mimi://") }

// A mark is one thing that is opened before text and closed after it, in the
// order of nesting: a link is outermost, monospace innermost.
type mark uint8

const (
	markLink mark = iota
	markColour
	markSpoiler
	markBold
	markItalic
	markUnderline
	markStrike
	markMono
	marks
)

func (s *span) has(m mark) bool {
	switch m {
	case markLink:
		return s.link != ""
	case markColour:
		return s.fg != 0 || s.bg != 0
	case markBold:
		return s.style&bold != 0
	case markItalic:
		return s.style&italic != 0
	case markUnderline:
		return s.style&underline != 0
	case markStrike:
		return s.style&strike != 0
	case markSpoiler:
		return s.style&spoiler != 0
	}
	return s.style&mono != 0
}

// keeps reports whether a mark that is open for s stays open for t.
func (s *span) keeps(t *span, m mark) bool {
	switch m {
	case markLink:
		return s.link == t.link
	case markColour:
		return s.fg == t.fg && s.bg == t.bg
	}
	return t.has(m)
}

// writeSpans writes spans with properly nested marks.
func writeSpans(spans []span, turn func(s *span, m mark, open bool), text func(s *span)) {
	var stack [marks]mark
	open := stack[:0]
	var prev *span
	closeTo := func(n int) {
		for len(open) > n {
			turn(prev, open[len(open)-1], false)
			open = open[:len(open)-1]
		}
	}
	for i := range spans {
		s := &spans[i]
		keep := 0
		for keep < len(open) && prev.keeps(s, open[keep]) {
			keep++
		}
		if i > 0 {
			closeTo(keep)
		}
		for m := mark(0); m < marks; m++ {
			if s.has(m) && !slices.Contains(open, m) {
				turn(s, m, true)
				open = append(open, m)
			}
		}
		text(s)
		prev = s
	}
	if prev != nil {
		closeTo(0)
	}
}
