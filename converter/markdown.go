package converter

import (
	"html"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Markdown here is GFM-MIMI (draft-ietf-mimi-content-09 §7.2.2): GitHub Flavored
// Markdown 0.29 where HTML tags are text. Read are headings, quotes, lists,
// fenced code, rules, emphasis, strike-through, code, links, autolinks in angle
// brackets, escapes and entities; a table is shown as its source.

// markdown writes d. Line breaks are hard ones; everything that would have a
// meaning is escaped.
func (d doc) markdown() string {
	var b strings.Builder
	fence := "" // of the code block that is open, or was last
	for i := range d {
		l := &d[i]
		quote := strings.Repeat("> ", int(l.quote))
		begins := l.kind == code && (i == 0 || l.gap || d[i-1].kind != code)
		if i > 0 {
			p := &d[i-1]
			if p.kind == code && (l.kind != code || begins) {
				b.WriteString("\n" + strings.Repeat("> ", int(p.quote)) + fence)
			}
			switch {
			case l.gap:
				b.WriteString("\n" + strings.TrimRight(strings.Repeat("> ", int(min(l.quote, p.quote))), " ") + "\n")
			case l.kind == para || l.kind == itemMore:
				b.WriteString("  \n")
			default:
				b.WriteByte('\n')
			}
		}
		b.WriteString(quote)
		if begins {
			fence = fenceFor(d[i:])
			b.WriteString(fence + l.lang + "\n" + quote)
		}
		l.writeMarkdown(&b)
	}
	if n := len(d); n > 0 && d[n-1].kind == code {
		b.WriteString("\n" + strings.Repeat("> ", int(d[n-1].quote)) + fence)
	}
	return b.String()
}

// fenceFor returns a fence longer than every run of backticks in the code block
// that d begins with.
func fenceFor(d doc) string {
	longest := 2
	for i := 0; i < len(d) && d[i].kind == code && (i == 0 || !d[i].gap); i++ {
		for _, s := range d[i].spans {
			longest = max(longest, backticks(s.text))
		}
	}
	return strings.Repeat("`", longest+1)
}

// backticks returns the length of the longest run of backticks in s.
func backticks(s string) int {
	longest, run := 0, 0
	for i := 0; i < len(s); i++ {
		if run++; s[i] != '`' {
			run = 0
		}
		longest = max(longest, run)
	}
	return longest
}

func (l *line) writeMarkdown(b *strings.Builder) {
	switch l.kind {
	case code:
		for _, s := range l.spans {
			b.WriteString(s.text)
		}
		return
	case rule:
		b.WriteString("---")
		return
	case heading:
		b.WriteString(strings.Repeat("#", int(l.level)) + " ")
	case item:
		b.WriteString(strings.Repeat("    ", int(max(l.level, 1))-1))
		if l.number > 0 {
			b.WriteString(strconv.Itoa(int(l.number)) + ". ")
		} else {
			b.WriteString("- ")
		}
	case itemMore:
		b.WriteString(strings.Repeat("    ", int(max(l.level, 1))))
	}
	w := markdownWriter{b: b, start: true}
	if n := len(l.spans); n > 0 {
		w.last = &l.spans[n-1]
	}
	writeSpans(l.spans, w.turn, w.text)
}

type markdownWriter struct {
	b     *strings.Builder
	start bool  // at the start of the line's text
	last  *span // the line's last
}

func (w *markdownWriter) turn(s *span, m mark, open bool) {
	switch m {
	case markBold:
		w.b.WriteString("**")
	case markItalic:
		w.b.WriteString("*")
	case markStrike:
		w.b.WriteString("~~")
	case markLink:
		if open {
			w.b.WriteByte('[')
		} else {
			w.b.WriteString("](" + s.link + ")")
		}
	default:
		return
	}
	w.start = false
}

func (w *markdownWriter) text(s *span) {
	if s.style&mono != 0 {
		fence := strings.Repeat("`", backticks(s.text)+1)
		pad := ""
		if t := s.text; t[0] == '`' || t[len(t)-1] == '`' || t[0] == ' ' && t[len(t)-1] == ' ' {
			pad = " "
		}
		w.b.WriteString(fence + pad + s.text + pad + fence)
		w.start = false
		return
	}
	t := s.text
	if w.start && t != "" {
		t = w.lineStart(t)
	}
	tail := ""
	if s == w.last { // a blank at the end would be dropped
		if cut := strings.TrimRight(t, " \t"); len(cut) < len(t) {
			tail = strings.Repeat("&#32;", len(t)-len(cut))
			t = cut
		}
	}
	for i := 0; i < len(t); i++ {
		switch t[i] {
		case '\\', '`', '*', '_', '[', ']', '~', '|', '<':
			if t[i] == '<' {
				w.b.WriteString("&lt;")
				continue
			}
			w.b.WriteByte('\\')
		case '&':
			w.b.WriteString("&amp;")
			continue
		}
		w.b.WriteByte(t[i])
	}
	w.b.WriteString(tail)
}

// lineStart escapes what would begin a block, and blanks that would be dropped.
func (w *markdownWriter) lineStart(t string) string {
	w.start = false
	for t != "" && (t[0] == ' ' || t[0] == '\t') {
		w.b.WriteString("&#32;")
		t = t[1:]
		w.start = t == ""
	}
	if t == "" {
		return t
	}
	switch t[0] {
	case '#', '>', '-', '+', '=':
		w.b.WriteByte('\\')
		w.b.WriteByte(t[0])
		return t[1:]
	}
	n := 0
	for n < len(t) && n < 9 && isDigit(t[n]) {
		n++
	}
	if n > 0 && n < len(t) && (t[n] == '.' || t[n] == ')') {
		w.b.WriteString(t[:n] + "\\" + t[n:n+1])
		return t[n+1:]
	}
	return t
}

// A markdownReader reads Markdown line by line.
type markdownReader struct {
	d       doc
	gap     bool
	fence   string // of the code block that is open
	lang    string
	fenceIn int   // quote depth it was opened in
	fresh   bool  // the code block has no line yet
	indents []int // of the open list's markers
	number  []uint32
}

// parseMarkdown reads GFM-MIMI.
func parseMarkdown(s string) doc {
	var r markdownReader
	rest := clean(s, false)
	for more := true; more && len(r.d) < maxDocLines; {
		var l string
		if l, rest, more = strings.Cut(rest, "\n"); true {
			r.line(l)
		}
	}
	if rest != "" {
		r.d = append(r.d, line{spans: []span{{text: strings.ReplaceAll(rest, "\n", " ")}}})
	}
	return r.d.normal()
}

func (r *markdownReader) line(s string) {
	quote := 0
	for r.fence == "" && quote < maxQuoteDepth || quote < r.fenceIn {
		t := strings.TrimLeft(s, " ")
		if len(s)-len(t) > 3 || !strings.HasPrefix(t, ">") {
			break
		}
		s = strings.TrimPrefix(t[1:], " ")
		quote++
	}
	if r.fence != "" {
		r.codeLine(s, quote)
		return
	}
	t := strings.Trim(s, " \t")
	indent := len(s) - len(strings.TrimLeft(s, " "))
	l := line{quote: uint8(quote), gap: r.gap}
	switch {
	case t == "":
		r.gap = true
		if len(r.d) > 0 && int(r.d[len(r.d)-1].quote) != quote {
			r.indents = r.indents[:0]
		}
		return
	case r.openFence(t, quote):
		return
	case isRule(t):
		r.indents = r.indents[:0]
		l.kind = rule
	case headingLevel(t) > 0:
		r.indents = r.indents[:0]
		n := headingLevel(t)
		l.kind, l.level = heading, uint8(n)
		l.spans = parseInline(strings.Trim(t[n:], " \t"))
	default:
		r.textLine(&l, t, indent)
	}
	r.gap = false
	r.d = append(r.d, l)
}

// textLine reads a list item or a line of a paragraph.
func (r *markdownReader) textLine(l *line, t string, indent int) {
	if width, number, ok := listMarker(t); ok {
		for len(r.indents) > 0 && indent < r.indents[len(r.indents)-1] {
			r.indents = r.indents[:len(r.indents)-1]
		}
		if n := len(r.indents); n == 0 || indent >= r.indents[n-1]+2 && n < maxListDepth {
			r.indents = append(r.indents, indent)
		}
		l.kind, l.level, l.number = item, uint8(len(r.indents)), number
		l.gap = l.gap && !r.inList(l.quote)
		t = strings.TrimLeft(t[width:], " ")
	} else if r.inList(l.quote) && (indent >= 2 || !l.gap) {
		l.kind, l.level, l.gap = itemMore, uint8(len(r.indents)), false
	} else {
		r.indents = r.indents[:0]
	}
	if strings.HasSuffix(t, "\\") && !strings.HasSuffix(t, "\\\\") {
		t = t[:len(t)-1] // a hard line break, as every one here
	}
	l.spans = parseInline(t)
}

func (r *markdownReader) inList(quote uint8) bool {
	return len(r.indents) > 0 && len(r.d) > 0 && listed(r.d[len(r.d)-1].kind) && r.d[len(r.d)-1].quote == quote
}

func (r *markdownReader) openFence(t string, quote int) bool {
	n := 0
	for n < len(t) && t[n] == t[0] && (t[0] == '`' || t[0] == '~') {
		n++
	}
	if n < 3 || t[0] == '`' && strings.Contains(t[n:], "`") {
		return false
	}
	r.fence, r.fenceIn, r.fresh = t[:n], quote, true
	r.lang = ""
	if f := strings.Fields(t[n:]); len(f) > 0 && len(f[0]) <= 32 && isWord(f[0]) {
		r.lang = f[0]
	}
	r.indents = r.indents[:0]
	return true
}

func (r *markdownReader) codeLine(s string, quote int) {
	t := strings.TrimSpace(s)
	if quote < r.fenceIn || strings.HasPrefix(t, r.fence) && strings.Trim(t, r.fence[:1]) == "" {
		if r.fresh {
			r.d = append(r.d, line{kind: code, quote: uint8(r.fenceIn), lang: r.lang, gap: true})
		}
		again := quote < r.fenceIn // the quote ended, and with it the block
		r.fence, r.fenceIn, r.gap = "", 0, true
		if again {
			r.line(s)
		}
		return
	}
	r.d = append(r.d, line{kind: code, quote: uint8(quote), lang: r.lang, gap: r.fresh, spans: []span{{text: s}}})
	r.fresh = false
}

func isRule(t string) bool {
	marks := 0
	for i := 0; i < len(t); i++ {
		switch {
		case t[i] == ' ':
		case t[i] == t[0] && (t[0] == '-' || t[0] == '*' || t[0] == '_'):
			marks++
		default:
			return false
		}
	}
	return marks >= 3
}

func headingLevel(t string) int {
	n := 0
	for n < len(t) && t[n] == '#' {
		n++
	}
	if n > 6 || n < len(t) && t[n] != ' ' {
		return 0
	}
	return n
}

// listMarker returns the width of the marker that t starts with, and its number.
func listMarker(t string) (width int, number uint32, ok bool) {
	if len(t) > 1 && (t[0] == '-' || t[0] == '*' || t[0] == '+') && t[1] == ' ' {
		return 2, 0, true
	}
	n := 0
	for n < len(t) && n < 9 && isDigit(t[n]) {
		number = number*10 + uint32(t[n]-'0')
		n++
	}
	if n > 0 && n+1 < len(t) && (t[n] == '.' || t[n] == ')') && t[n+1] == ' ' {
		return n + 2, max(number, 1), true
	}
	return 0, 0, false
}

// Inline content.

// A run is a piece of inline content while emphasis is being matched.
type run struct {
	text        string
	style       style
	link        string
	delim       byte // '*', '_' or '~' while text is a delimiter run, else 0
	opens, ends bool
}

const (
	maxRuns      = 2000 // beyond it, the rest of the line is taken as text
	maxLinkDepth = 1    // links do not nest
)

// parseInline reads inline Markdown.
func parseInline(s string) []span {
	runs := inlineRuns(s, 0)
	matchEmphasis(runs)
	spans := make([]span, 0, len(runs))
	for _, r := range runs {
		spans = append(spans, span{text: r.text, style: r.style, link: r.link})
	}
	return joinSpans(spans)
}

// inlineRuns splits s into text, code, links and delimiter runs.
func inlineRuns(s string, depth int) []run {
	var runs []run
	var text []byte
	var ticks unclosed
	flush := func() {
		if len(text) > 0 {
			runs = append(runs, run{text: string(text)})
			text = text[:0]
		}
	}
	for i := 0; i < len(s); {
		c := s[i]
		if len(runs) >= maxRuns {
			text = append(text, s[i:]...)
			break
		}
		switch {
		case c == '\\' && i+1 < len(s) && isPunct(s[i+1]):
			text = append(text, s[i+1])
			i += 2
		case c == '&':
			dec, n := entity(s[i:])
			text = append(text, dec...)
			i += n
		case c == '`':
			body, n := ticks.codeSpan(s[i:])
			if body == "" {
				text = append(text, s[i:i+n]...)
			} else {
				flush()
				runs = append(runs, run{text: body, style: mono})
			}
			i += n
		case c == '[' && depth < maxLinkDepth:
			inner, n := linkRuns(s[i:], depth, &ticks)
			if n == 0 {
				text = append(text, c)
				i++
				break
			}
			flush()
			runs = append(runs, inner...)
			i += n
		case c == '<':
			url, n := autolink(s[i:])
			if n == 0 {
				text = append(text, c)
				i++
				break
			}
			flush()
			runs = append(runs, run{text: url, link: safeLink(url)})
			i += n
		case c == '*' || c == '_' || c == '~':
			n := 1
			for i+n < len(s) && s[i+n] == c {
				n++
			}
			flush()
			runs = append(runs, delimiter(s, i, n))
			i += n
		default:
			text = append(text, c)
			i++
		}
	}
	flush()
	return runs
}

func isPunct(c byte) bool {
	return c > ' ' && c < 0x7f && !isDigit(c) && (c|0x20 < 'a' || c|0x20 > 'z')
}

// entity decodes the entity that s starts with; a lone & is itself. What it
// stands for is text, and cleaned like text.
func entity(s string) (string, int) {
	end := strings.IndexByte(s[:min(len(s), 34)], ';')
	if end < 2 {
		return "&", 1
	}
	dec := html.UnescapeString(s[:end+1])
	if dec == s[:end+1] || strings.HasSuffix(dec, ";") && dec != ";" {
		return "&", 1
	}
	return strings.ReplaceAll(clean(dec, false), "\n", " "), end + 1
}

// unclosed are the lengths of runs of backticks that nothing ends in the rest of
// a text: what was looked for once in vain is not looked for again.
type unclosed map[int]struct{}

// codeSpan returns the content of the code span that s starts with and its
// length; without an end, "" and the length of the run of backticks.
func (u *unclosed) codeSpan(s string) (string, int) {
	n := 0
	for n < len(s) && s[n] == '`' {
		n++
	}
	if _, vain := (*u)[n]; vain {
		return "", n
	}
	for i := n; i < len(s); {
		if s[i] != '`' {
			i++
			continue
		}
		m := 0
		for i+m < len(s) && s[i+m] == '`' {
			m++
		}
		if m == n {
			body := s[n:i]
			if len(body) > 2 && body[0] == ' ' && body[len(body)-1] == ' ' && strings.Trim(body, " ") != "" {
				body = body[1 : len(body)-1]
			}
			return body, i + m
		}
		i += m
	}
	if *u == nil {
		*u = unclosed{}
	}
	(*u)[n] = struct{}{}
	return "", n
}

// linkRuns reads [text](target "title"); 0 if s does not start with one.
func linkRuns(s string, depth int, ticks *unclosed) ([]run, int) {
	level, end := 0, -1
	for i := 0; i < len(s) && end < 0; i++ {
		switch s[i] {
		case '\\':
			i++
		case '`':
			body, n := ticks.codeSpan(s[i:])
			if i += n - 1; body == "" {
				continue // a run that ends nowhere is text as a whole
			}
		case '[':
			if level++; level > 32 {
				return nil, 0
			}
		case ']':
			if level--; level == 0 {
				end = i
			}
		}
	}
	if end < 0 || end+1 >= len(s) || s[end+1] != '(' {
		return nil, 0
	}
	closing := strings.IndexByte(s[end+2:min(len(s), end+2+maxText)], ')')
	if closing < 0 {
		return nil, 0
	}
	target := strings.TrimSpace(s[end+2 : end+2+closing])
	target, _, _ = strings.Cut(target, " ")
	target = html.UnescapeString(strings.TrimSuffix(strings.TrimPrefix(target, "<"), ">"))
	runs := inlineRuns(s[1:end], depth+1)
	matchEmphasis(runs)
	link := safeLink(target)
	for i := range runs {
		runs[i].delim = 0
		if runs[i].link == "" {
			runs[i].link = link
		}
	}
	return runs, end + 2 + closing + 1
}

// autolink reads <https://…>; 0 if s does not start with one.
func autolink(s string) (string, int) {
	end := strings.IndexByte(s[:min(len(s), maxText)], '>')
	if end < 0 || safeLink(s[1:end]) == "" {
		return "", 0
	}
	return s[1:end], end + 1
}

// delimiter judges the run of n delimiters at s[i] (GFM 0.29 §6.4).
func delimiter(s string, i, n int) run {
	before, after := ' ', ' '
	if i > 0 {
		before, _ = utf8.DecodeLastRuneInString(s[:i])
	}
	if i+n < len(s) {
		after, _ = utf8.DecodeRuneInString(s[i+n:])
	}
	blankB, blankA := unicode.IsSpace(before), unicode.IsSpace(after)
	punctB, punctA := isPunctRune(before), isPunctRune(after)
	left := !blankA && (!punctA || blankB || punctB)
	right := !blankB && (!punctB || blankA || punctA)
	r := run{text: s[i : i+n], delim: s[i], opens: left, ends: right}
	if s[i] == '_' {
		r.opens = left && (!right || punctB)
		r.ends = right && (!left || punctA)
	}
	if s[i] == '~' && n > 2 {
		r.delim = 0
	}
	return r
}

func isPunctRune(r rune) bool { return unicode.IsPunct(r) || unicode.IsSymbol(r) }

// matchEmphasis pairs delimiter runs and gives what is between them its style.
// Openers that did not match are not looked at again, as in the algorithm of
// GFM 0.29 §6.5, and the search back is bounded.
func matchEmphasis(runs []run) {
	const window = 64 // openers looked at for one closer
	var stack []int
	for i := 0; i < len(runs); i++ {
		c := &runs[i]
		if c.delim == 0 {
			continue
		}
		for c.ends && c.text != "" {
			at := -1
			for k := len(stack) - 1; k >= max(0, len(stack)-window); k-- {
				o := &runs[stack[k]]
				if o.delim == c.delim && o.text != "" && emphasisFits(o, c) {
					at = k
					break
				}
			}
			if at < 0 {
				break
			}
			pair(runs, stack[at], i)
			keep := at
			if runs[stack[at]].text != "" {
				keep++
			}
			stack = stack[:keep]
		}
		if c.opens && c.text != "" {
			stack = append(stack, i)
		}
	}
}

// emphasisFits is the rule of three (GFM 0.29 §6.4, rules 9 and 10).
func emphasisFits(o, c *run) bool {
	if o.delim == '~' {
		return len(o.text) == len(c.text)
	}
	if o.ends || c.opens {
		return (len(o.text)+len(c.text))%3 != 0 || len(o.text)%3 == 0 && len(c.text)%3 == 0
	}
	return true
}

func pair(runs []run, open, end int) {
	o, c := &runs[open], &runs[end]
	n, st := 1, italic
	switch {
	case o.delim == '~':
		n, st = len(o.text), strike
	case len(o.text) >= 2 && len(c.text) >= 2:
		n, st = 2, bold
	}
	o.text, c.text = o.text[n:], c.text[n:]
	for k := open + 1; k < end; k++ {
		runs[k].style |= st
	}
}
