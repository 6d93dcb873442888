package converter

import (
	"strconv"
	"strings"

	"golang.org/x/net/html"
	"golang.org/x/net/html/atom"
)

// maxHTMLDepth bounds open elements; Matrix clients stop at 100 as well
// (specification v1.19, §11.3.1.1).
const maxHTMLDepth = 100

// An htmlReader reads the HTML subset that Matrix allows into a doc. What is
// not on the list loses its tags and keeps its text, except where the text is
// not for people: scripts, styles, reply fallbacks.
type htmlReader struct {
	d     doc
	cur   line
	tail  []byte // what the last span of cur goes on with
	spans int
	open  []element
	state element // what is in force now
	skip  int     // depth of elements whose content is dropped
	gap   bool
	blank bool // a blank is due before the next word, in the style of due
	due   element
	link  func(href string) string
}

// An element is an open tag and the state that its end restores.
type element struct {
	tag    atom.Atom
	style  style
	fg, bg colour
	link   string
	quote  uint8
	list   uint8 // depth of lists
	number uint32
	pre    bool
	head   uint8
	lang   string
	first  bool // in a list item that has no line yet
	inItem bool
}

// parseHTML reads HTML. link translates what a link points to (matrix.to to a
// mimi user URI); nil leaves it.
func parseHTML(s string, link func(string) string) doc {
	r := htmlReader{link: link}
	z := html.NewTokenizer(strings.NewReader(s))
	for len(r.d) < maxDocLines {
		switch z.Next() {
		case html.ErrorToken:
			r.newLine()
			return r.d.normal()
		case html.TextToken:
			if r.skip == 0 {
				r.text(string(z.Text()))
			}
		case html.StartTagToken, html.SelfClosingTagToken:
			r.start(z)
		case html.EndTagToken:
			name, _ := z.TagName()
			r.end(atom.Lookup(name), string(name))
		}
	}
	r.d = append(r.d, line{spans: []span{{text: "…"}}})
	return r.d.normal()
}

func (r *htmlReader) text(s string) {
	if r.state.pre {
		for i, l := range strings.Split(clean(s, false), "\n") {
			if i > 0 {
				r.newLine()
			}
			r.add(l)
		}
		return
	}
	s = clean(s, false)
	for s != "" { // a no-break space is a blank that stays
		word := strings.IndexAny(s, " \t\n\f")
		if word != 0 {
			if word < 0 {
				word = len(s)
			}
			if r.blank && len(r.cur.spans) > 0 {
				now := r.state
				r.state = r.due
				r.add(" ")
				r.state = now
			}
			r.blank = false
			r.add(strings.ReplaceAll(s[:word], "\u00a0", " "))
			s = s[word:]
			continue
		}
		if !r.blank {
			r.blank, r.due = true, r.state
		}
		s = s[1:]
	}
}

// add puts text into the current line in the current style.
func (r *htmlReader) add(s string) {
	if s == "" {
		return
	}
	e := &r.state
	t := span{text: s, style: e.style, fg: e.fg, bg: e.bg, link: e.link}
	if e.pre {
		t = span{text: s}
	}
	n := len(r.cur.spans)
	if n > 0 && r.cur.spans[n-1].same(t) {
		r.tail = append(r.tail, s...)
		return
	}
	if r.spans++; r.spans > maxDocSpans {
		if n > 0 {
			r.tail = append(r.tail, s...)
			return
		}
		t = span{text: s}
	}
	r.endSpan()
	r.cur.spans = append(r.cur.spans, t)
}

// endSpan gives the last span its text, which is gathered first: a paragraph has
// many words.
func (r *htmlReader) endSpan() {
	if n := len(r.cur.spans); n > 0 && len(r.tail) > 0 {
		r.cur.spans[n-1].text += string(r.tail)
	}
	r.tail = r.tail[:0]
}

// newLine ends the current line.
func (r *htmlReader) newLine() {
	r.endSpan()
	e, l := &r.state, r.cur
	r.cur, r.blank = line{}, false
	l.quote, l.gap = e.quote, r.gap
	switch {
	case e.pre:
		l.kind, l.lang = code, e.lang
	case e.head > 0:
		l.kind, l.level = heading, e.head
	case e.inItem:
		l.kind, l.level = itemMore, max(e.list, 1)
		if e.first {
			l.kind, l.number = item, e.number
		}
	}
	if len(l.spans) == 0 && l.kind != code {
		return
	}
	e.first, r.gap = false, false
	for i := range r.open { // the line that an item waited for has come
		r.open[i].first = false
	}
	r.d = append(r.d, l)
}

// block ends the current line and asks for a blank one before the next.
func (r *htmlReader) block() {
	if len(r.cur.spans) > 0 {
		r.newLine()
	}
	r.gap, r.blank = true, false
}

func (r *htmlReader) start(z *html.Tokenizer) {
	name, more := z.TagName()
	tag, isReply := atom.Lookup(name), string(name) == "mx-reply"
	attr := map[string]string(nil)
	for more && len(attr) < 16 {
		var k, v []byte
		if k, v, more = z.TagAttr(); attr == nil {
			attr = make(map[string]string, 4)
		}
		attr[string(k)] = string(v)
	}
	switch tag {
	case atom.Br:
		if r.skip == 0 {
			r.newLine()
		}
		return
	case atom.Hr:
		if r.skip == 0 {
			r.block()
			r.d = append(r.d, line{kind: rule, quote: r.state.quote})
		}
		return
	case atom.Img:
		if r.skip == 0 {
			r.text(firstOf(attr["alt"], attr["title"]))
		}
		return
	case atom.Wbr, atom.Input, atom.Meta, atom.Link, atom.Base, atom.Col, atom.Source:
		return
	}
	if len(r.open) >= maxHTMLDepth {
		return
	}
	before := r.state
	before.tag = tag
	r.open = append(r.open, before)
	if r.skip > 0 || isReply || hidden(tag) {
		r.skip++
		return
	}
	r.enter(tag, attr)
}

// hidden reports whether the content of an element is not text for people.
func hidden(tag atom.Atom) bool {
	switch tag {
	case atom.Script, atom.Style, atom.Title, atom.Template, atom.Iframe, atom.Object, atom.Noscript, atom.Textarea, atom.Select, atom.Svg, atom.Math:
		return true
	}
	return false
}

func (r *htmlReader) enter(tag atom.Atom, attr map[string]string) {
	e := &r.state
	switch tag {
	case atom.B, atom.Strong:
		e.style |= bold
	case atom.I, atom.Em, atom.Cite:
		e.style |= italic
	case atom.U, atom.Ins:
		e.style |= underline
	case atom.S, atom.Del, atom.Strike:
		e.style |= strike
	case atom.Code, atom.Tt, atom.Kbd, atom.Samp:
		if e.pre {
			e.lang = codeLang(attr["class"])
		} else {
			e.style |= mono
		}
	case atom.Span, atom.Font:
		if _, ok := attr["data-mx-spoiler"]; ok {
			e.style |= spoiler
		}
		e.fg = htmlColour(firstOf(attr["data-mx-color"], attr["color"]), e.fg)
		e.bg = htmlColour(attr["data-mx-bg-color"], e.bg)
	case atom.A:
		href := attr["href"]
		if r.link != nil {
			href = r.link(href)
		}
		e.link = safeLink(href)
	default:
		r.enterBlock(tag, attr)
	}
}

func (r *htmlReader) enterBlock(tag atom.Atom, attr map[string]string) {
	e := &r.state
	switch tag {
	case atom.P, atom.Div, atom.Table, atom.Details, atom.Caption:
		r.block()
		if tag == atom.Div && len(r.d) > 0 {
			r.gap = false
		}
	case atom.Tr, atom.Summary:
		r.newLine()
	case atom.Td, atom.Th:
		if len(r.cur.spans) > 0 {
			r.blank = false
			r.add(" | ")
		}
	case atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6:
		r.block()
		e.head = uint8(tag.String()[1] - '0')
	case atom.Pre:
		r.block()
		e.pre, e.lang = true, ""
	case atom.Blockquote:
		r.block()
		e.quote = min(e.quote+1, maxQuoteDepth)
		e.list, e.inItem = 0, false
	case atom.Ul, atom.Ol:
		r.block()
		e.list, e.number = min(e.list+1, maxListDepth), 0
		if tag == atom.Ol {
			e.number = 1
			if n, err := strconv.ParseUint(attr["start"], 10, 31); err == nil {
				e.number = uint32(n)
			}
		}
	case atom.Li:
		r.block()
		e.inItem, e.first = true, true
	}
}

func (r *htmlReader) end(tag atom.Atom, name string) {
	at := len(r.open) - 1
	for at >= 0 && (r.open[at].tag != tag || tag == 0 && name != "mx-reply") {
		at--
	}
	if at < 0 {
		return
	}
	if r.skip > 0 { // nothing was entered since
		r.skip = max(0, r.skip-(len(r.open)-at))
		r.state, r.open = r.open[at], r.open[:at]
		return
	}
	switch tag {
	case atom.P, atom.Blockquote, atom.H1, atom.H2, atom.H3, atom.H4, atom.H5, atom.H6, atom.Ul, atom.Ol, atom.Table, atom.Details:
		r.block()
	case atom.Code, atom.Pre:
		if r.state.pre && len(r.cur.spans) > 0 { // the line break before the end tag makes no line
			r.newLine()
		}
		r.gap = r.gap || tag == atom.Pre
	case atom.Li, atom.Div, atom.Tr, atom.Summary, atom.Caption:
		if len(r.cur.spans) > 0 {
			r.newLine()
		}
	}
	r.state, r.open = r.open[at], r.open[:at]
	if tag == atom.Li && r.state.number > 0 { // the list's own counter
		r.state.number++
		for i := len(r.open) - 1; i >= 0 && r.open[i].tag != atom.Ol; i-- {
			r.open[i].number = r.state.number
		}
	}
}

func firstOf(ss ...string) string {
	for _, s := range ss {
		if s != "" {
			return s
		}
	}
	return ""
}

// codeLang returns the language of class="language-x".
func codeLang(class string) string {
	for _, c := range strings.Fields(class) {
		if lang, ok := strings.CutPrefix(c, "language-"); ok && len(lang) <= 32 && isWord(lang) {
			return lang
		}
	}
	return ""
}

func isWord(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i] | 0x20; (c < 'a' || c > 'z') && !isDigit(s[i]) && s[i] != '-' && s[i] != '+' && s[i] != '#' {
			return false
		}
	}
	return true
}

func htmlColour(s string, old colour) colour {
	if len(s) != 7 || s[0] != '#' {
		return old
	}
	for i := 1; i < 7; i++ {
		if !isHex(s[i]) {
			return old
		}
	}
	return colourOf(true, s[1:])
}

var markTags = [marks][2]string{
	markBold: {"<strong>", "</strong>"}, markItalic: {"<em>", "</em>"}, markUnderline: {"<u>", "</u>"},
	markStrike: {"<del>", "</del>"}, markMono: {"<code>", "</code>"},
	markSpoiler: {"<span data-mx-spoiler>", "</span>"}, markColour: {"", "</span>"}, markLink: {"", "</a>"},
}

// html writes d in the subset that Matrix allows. link translates what a link
// points to; nil leaves it.
func (d doc) html(link func(string) string) string {
	w := htmlWriter{link: link}
	w.b.Grow(len(d) * 64)
	for i := range d {
		l := &d[i]
		w.blocks(d, i)
		w.blank = l.kind != code
		writeSpans(l.spans, w.turn, func(s *span) {
			if l.kind == code {
				w.escape(s.text)
				return
			}
			w.words(s.text, s == &l.spans[len(l.spans)-1])
		})
	}
	w.closeTo(0)
	return w.b.String()
}

type htmlWriter struct {
	b     strings.Builder
	open  []string // end tags of open blocks
	blank bool     // a blank here would not be seen: the line starts, or another is before it
	link  func(string) string
}

func (w *htmlWriter) closeTo(n int) {
	for len(w.open) > n {
		w.b.WriteString(w.open[len(w.open)-1])
		w.open = w.open[:len(w.open)-1]
	}
}

func (w *htmlWriter) push(start, end string) {
	w.b.WriteString(start)
	w.open = append(w.open, end)
}

// blocks ends and begins the blocks between line i-1 and line i.
func (w *htmlWriter) blocks(d doc, i int) {
	l := &d[i]
	if i > 0 {
		p := &d[i-1]
		switch {
		case !l.gap && l.kind == p.kind && l.kind == code:
			w.b.WriteByte('\n')
			return
		case !l.gap && (l.kind == para || l.kind == itemMore):
			w.b.WriteString("<br>")
			return
		case l.gap || !listed(l.kind):
			w.closeTo(0)
		default:
			w.items(l)
			return
		}
	}
	for range l.quote {
		w.push("<blockquote>", "</blockquote>")
	}
	switch l.kind {
	case heading:
		h := "h" + string('0'+l.level%10) + ">"
		w.push("<"+h, "</"+h)
	case code:
		if l.lang != "" {
			w.push(`<pre><code class="language-`+l.lang+`">`, "</code></pre>")
		} else {
			w.push("<pre><code>", "</code></pre>")
		}
	case rule:
		w.b.WriteString("<hr>")
	case item, itemMore:
		w.items(l)
	case para:
		if l.quote > 0 || l.gap || i+1 < len(d) && d[i+1].gap && d[i+1].kind == para {
			w.push("<p>", "</p>")
		}
	}
}

// items opens the lists that a list item needs and ends those it does not.
func (w *htmlWriter) items(l *line) {
	depth := 0
	for _, t := range w.open {
		if t == "</ul>" || t == "</ol>" {
			depth++
		}
	}
	want := int(max(l.level, 1))
	for depth > want || depth == want && !strings.HasPrefix(w.open[len(w.open)-1], listEnd(l)) && w.open[len(w.open)-1] != "</li>" {
		if last := w.open[len(w.open)-1]; last != "</li>" {
			depth--
		}
		w.closeTo(len(w.open) - 1)
	}
	if depth == want && w.open[len(w.open)-1] == "</li>" {
		w.closeTo(len(w.open) - 1)
		if w.open[len(w.open)-1] != listEnd(l) {
			w.closeTo(len(w.open) - 1)
			depth--
		}
	}
	for ; depth < want; depth++ {
		if n := len(w.open); n > 0 && (w.open[n-1] == "</ul>" || w.open[n-1] == "</ol>") {
			w.push("<li>", "</li>")
		}
		switch {
		case l.number > 1:
			w.push(`<ol start="`+strconv.Itoa(int(l.number))+`">`, "</ol>")
		case l.number == 1:
			w.push("<ol>", "</ol>")
		default:
			w.push("<ul>", "</ul>")
		}
	}
	w.push("<li>", "</li>")
}

func listEnd(l *line) string {
	if l.number > 0 {
		return "</ol>"
	}
	return "</ul>"
}

func (w *htmlWriter) turn(s *span, m mark, open bool) {
	if !open {
		if m != markLink || w.href(s.link) != "" {
			w.b.WriteString(markTags[m][1])
		}
		return
	}
	switch m {
	case markLink:
		if href := w.href(s.link); href != "" {
			w.b.WriteString(`<a href="`)
			w.escape(href)
			w.b.WriteString(`">`)
		}
	case markColour:
		w.b.WriteString("<span")
		w.colour(` data-mx-color="#`, s.fg)
		w.colour(` data-mx-bg-color="#`, s.bg)
		w.b.WriteByte('>')
	default:
		w.b.WriteString(markTags[m][0])
	}
}

func (w *htmlWriter) href(link string) string {
	if w.link != nil {
		return w.link(link)
	}
	return link
}

func (w *htmlWriter) colour(attr string, c colour) {
	if c != 0 {
		w.b.WriteString(attr)
		w.b.WriteString(strconv.FormatUint(uint64(c)|1<<24, 16)[1:])
		w.b.WriteByte('"')
	}
}

// words writes text outside of code, where HTML makes a run of blanks one and
// drops them at the ends of a line: those become no-break spaces.
func (w *htmlWriter) words(s string, last bool) {
	start := 0
	for i := 0; i < len(s); i++ {
		if s[i] != ' ' {
			w.blank = false
			continue
		}
		if w.blank || last && strings.Trim(s[i:], " ") == "" {
			w.escape(s[start:i])
			w.b.WriteString("&nbsp;")
			start = i + 1
		}
		w.blank = true
	}
	w.escape(s[start:])
}

func (w *htmlWriter) escape(s string) {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '&':
			w.b.WriteString("&amp;")
		case '<':
			w.b.WriteString("&lt;")
		case '>':
			w.b.WriteString("&gt;")
		case '"':
			w.b.WriteString("&quot;")
		default:
			w.b.WriteByte(s[i])
		}
	}
}
