package converter

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// drawDoc draws a doc that every parser may return.
func drawDoc(t *rapid.T, rich bool) doc {
	var d doc
	for range rapid.IntRange(1, 5).Draw(t, "lines") {
		l := line{kind: lineKind(rapid.IntRange(0, 4).Draw(t, "kind")), gap: rapid.Bool().Draw(t, "gap"), quote: uint8(rapid.IntRange(0, 2).Draw(t, "quote"))}
		switch l.kind {
		case heading:
			l.level = uint8(rapid.IntRange(1, 6).Draw(t, "level"))
		case item:
			l.level, l.number = 1, uint32(rapid.IntRange(0, 3).Draw(t, "number"))
			if n := len(d); n > 0 && d[n-1].kind == item && d[n-1].quote == l.quote { // lists count
				l.number = min(d[n-1].number, 1) * (d[n-1].number + 1)
			}
		case itemMore:
			l.kind = para
		case code:
			l.lang, l.quote = rapid.SampledFrom([]string{"", "go"}).Draw(t, "lang"), 0
		}
		for range rapid.IntRange(1, 3).Draw(t, "spans") {
			s := span{text: rapid.StringMatching(`[a-z]{1,4}[ *_<&#.~\[\]0-9-]{0,3}[a-z]{1,3}`).Draw(t, "text")}
			if l.kind != code {
				s.style = style(rapid.SampledFrom([]uint8{0, uint8(bold), uint8(italic), uint8(strike), uint8(mono), uint8(bold | italic)}).Draw(t, "style"))
				if rich && rapid.Bool().Draw(t, "rich") {
					s.style |= underline
					s.fg = 1<<24 | 0xff0000
				}
				s.link = rapid.SampledFrom([]string{"", "", "https://x.example/a_b", string(bob)}).Draw(t, "link")
			}
			l.spans = append(l.spans, s)
		}
		d = append(d, l)
	}
	return d.normal()
}

// A doc written as HTML reads back as the same doc.
func TestHTMLRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDoc(t, true)
		html := d.html(nil)
		if got := parseHTML(html, nil); !got.equal(d) {
			t.Fatalf("%s\n%+v\n%+v", html, got, d)
		}
	})
}

// Text that looks like Markdown is not Markdown once it was escaped.
func TestMarkdownEscapes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.StringMatching(`[ a-z0-9.)*_#>~<&;\\\[\]()!|=+`+"`"+`-]{1,30}`).Draw(t, "text")
		d := doc{{spans: []span{{text: text}}}}.normal()
		if got := parseMarkdown(d.markdown()); !got.equal(d) {
			t.Fatalf("%q as %q reads %+v", text, d.markdown(), got)
		}
	})
}

func TestMarkdownGolden(t *testing.T) {
	for md, want := range map[string]string{
		"a **b** *c* _d_ __e__ ~~f~~ `g*h`":       "a <strong>b</strong> <em>c</em> <em>d</em> <strong>e</strong> <del>f</del> <code>g*h</code>",
		"***x*** snake_case_word 2*3*4":           "<em><strong>x</strong></em>",
		"# Head\ntext":                            "<h1>Head</h1><p>text</p>",
		"> q\n> r\n\nb":                           "<blockquote><p>q<br>r</p></blockquote><p>b</p>",
		"- a\n- b\n  1. c\n  2. d":                "<ul><li>a</li><li>b<ol><li>c</li><li>d</li></ol></li></ul>",
		"```go\nx := `1`\n```":                    "<pre><code class=\"language-go\">x := `1`</code></pre>",
		"[t](https://x.example) <b>no</b>":        `<a href="https://x.example">t</a> &lt;b&gt;no&lt;/b&gt;`,
		"[t](javascript:x) <https://y.example>":   `t <a href="https://y.example">https://y.example</a>`,
		"Kudos to [@A](mimi://a.example/u/alice)": `Kudos to <a href="mimi://a.example/u/alice">@A</a>`,
		"&lt;b&gt; &amp; &#65;":                   "&lt;b&gt; &amp; A",
		"a\\\nb  \nc":                             "a<br>b<br>c",
		"---":                                     "<hr>",
	} {
		got := parseMarkdown(md).html(nil)
		if strings.HasPrefix(md, "***") {
			if !strings.HasPrefix(got, "<strong><em>x</em></strong> snake_case_word 2<em>3</em>4") {
				t.Errorf("%q: %s", md, got)
			}
			continue
		}
		if got != want {
			t.Errorf("%q:\n%s\n%s", md, got, want)
		}
	}
}

// A doc of any form is a part that reads back without loss of text.
func TestDocPart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := drawDoc(t, rapid.Bool().Draw(t, "rich"))
		p := docPart(d)
		b := bodyOf(&p)
		strip := func(s string) string { return strings.Join(strings.Fields(s), " ") }
		if got, want := strip(b.text()), strip(d.text()); got != want {
			t.Fatalf("%s\n%q\n%q", p.Body, got, want)
		}
	})
}

func TestJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.String().Draw(t, "s")
		var back string
		if err := json.Unmarshal(appendJSON(nil, s), &back); err != nil || back != s {
			t.Fatalf("%q %q %v", s, back, err)
		}
		std, _ := json.Marshal(map[string]any{"k": s, "n": []any{1.5, nil, true}})
		v, err := parseJSON(std)
		if err != nil || v.get("k").str() != s {
			t.Fatalf("%q: %q %v", std, v.get("k"), err)
		}
	})
	for _, bad := range []string{"01", "1.", "-", "1e", `"\x"`, `"\u12"`, "{\"a\" 1}", "[1,]", "{,}", "tru", "nul", "\"\n\"", "1 2"} {
		if _, err := parseJSON([]byte(bad)); err == nil || json.Valid([]byte(bad)) {
			t.Errorf("%q was taken", bad)
		}
	}
}

func FuzzJSON(f *testing.F) {
	f.Add(`{"a":[1,2.5e-3,{"b":"\ud83d\ude00\n"}],"c":null}`)
	f.Fuzz(func(t *testing.T, s string) {
		v, err := parseJSON([]byte(s))
		if err == nil && !json.Valid([]byte(s)) {
			t.Fatalf("%q is no JSON", s)
		}
		if err == nil {
			v.each(func(k []byte, v value) bool { _, _ = unquote(k), v.str(); return true })
		}
	})
}

// letters returns the text of d without blanks and without marks of lists and quotes.
func letters(d doc) string {
	var b strings.Builder
	for _, l := range d {
		for _, s := range l.spans {
			for _, w := range strings.Fields(s.text) {
				b.WriteString(w)
			}
		}
	}
	return b.String()
}

func checkDoc(t *testing.T, d doc) {
	t.Helper()
	html := d.html(nil)
	if again := parseHTML(html, nil); letters(again) != letters(d) && len(d) < maxDocLines {
		t.Fatalf("HTML loses text: %q\n%q\n%q", html, letters(again), letters(d))
	}
	for _, bad := range []string{"<script", "<img", "javascript:", "<style"} {
		if strings.Contains(strings.ToLower(html), bad) && !strings.Contains(strings.ToLower(d.text()), bad) {
			t.Fatalf("%q in %q", bad, html)
		}
	}
	for i := range d {
		if l := d[i].mirc(); strings.ContainsAny(l, "\n\r\x00\x01") {
			t.Fatalf("line %q", l)
		}
	}
	parseMarkdown(d.markdown())
}

func FuzzHTML(f *testing.F) {
	for _, s := range []string{"<b>x<i>y</b>z", "<ul><li>a<ol start=7><li>b</ul>", "<pre><code class=language-go>a\n\nb", "<table><tr><td>1<td>2",
		"<mx-reply><b>x</mx-reply>y", "<span data-mx-spoiler='r' data-mx-color='#12AbcD'>s", "a &nbsp; b<br><br><hr>c", "<a href='https://x/\"'>l</a>", "<blockquote><p>q</p></blockquote>r"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkDoc(t, parseHTML(s, nil)) })
}

func FuzzMarkdown(f *testing.F) {
	for _, s := range []string{"# h\n> q\n- a\n  - b\n1. c", "**a*b*c** __d__ ~~e~~ `` ` ``", "[a [b](c)](https://d) <https://e> &lt;", "```x\n```\n~~~\ny", "> ```\n> a\nb", "\\* \\\n***"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { checkDoc(t, parseMarkdown(s)) })
}

func FuzzMIRC(f *testing.F) {
	for _, s := range []string{"\x02b\x1di\x1fu\x0f", "\x0304,05x\x03\x0399y\x03,3", "\x04ff00aa,00ff00x\x16r\x11m", "\x031,1spoiler"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		s = strings.ReplaceAll(clean(s, true), "\n", " ")
		d := doc{{spans: parseMIRC(s)}}.normal()
		checkDoc(t, d)
		if got := d.text(); got != StripFormatting(s) {
			t.Fatalf("%q: %q", s, got)
		}
		if len(d) == 1 {
			again := doc{{spans: parseMIRC(d[0].mirc())}}.normal()
			if again.text() != d.text() {
				t.Fatalf("%q became %q", s, d[0].mirc())
			}
		}
	})
}

// least is the time of the fastest of three: a machine that does much else is no
// reason to fail.
func least(f func()) time.Duration {
	took := time.Duration(math.MaxInt64)
	for range 3 {
		start := time.Now()
		f()
		took = min(took, time.Since(start))
	}
	return took
}

// Hostile text costs bounded time: every one of these was quadratic in some
// Markdown parser.
// Nothing that fits a message takes long: conversion stands on the path of all
// messages of a room, and on IRC under the lock of all sessions.
func TestPathologicalInput(t *testing.T) {
	runs := "" // of backticks, none as long as another
	for i := 1; len(runs) < 47<<10; i++ {
		runs += strings.Repeat("`", i) + "a"
	}
	repeat := func(unit string) string { return strings.Repeat(unit, 48<<10/len(unit)) }
	within := func(what string, f func()) {
		t.Helper()
		if took := least(f); took > time.Second { // it is milliseconds, but for the race detector
			t.Errorf("%.40q took %v", what, took)
		}
	}
	write := func(d doc) {
		d.markdown()
		d.html(nil)
		for i := range d {
			d[i].mirc()
		}
	}
	for _, s := range []string{runs, strings.Repeat("[", 32) + runs, strings.Repeat("[a", 32) + runs, repeat("[`"), repeat("<"), repeat("```\n"),
		"```\n" + repeat("a\n"), repeat("*") + "a" + repeat("*"), repeat("> > > a\n"), repeat("[x](")} {
		within(s, func() { write(parseMarkdown(s)) })
	}
	for _, s := range []string{repeat("a "), "<pre>" + repeat("a\n"), "<pre>" + repeat("`\n"), repeat("a<x>"), repeat("<td>a"), repeat("<ul><li>a"), repeat("<b>a</b> "),
		repeat("<div>"), repeat("</div>"), repeat("<!--"), repeat("<a href=https://x.y>a</a>"), repeat("&lt;"), "<a " + repeat("a=b ") + ">x", "<code>" + runs + "</code>"} {
		within(s, func() { write(parseMarkdown(parseHTML(s, nil).markdown())) })
	}
}

func TestMarkdownPathological(t *testing.T) {
	for _, unit := range []string{"*a ", "**a_", "[", "[a](", "`a``b", "<a:", "<https://", "&#", "> ", "- a\n", "~~a~", "*_", "![](<", "[`", "\\[", "a**b"} {
		s := strings.Repeat(unit, 48<<10/len(unit))
		took := least(func() {
			d := parseMarkdown(s)
			d.markdown()
			d.html(nil)
		})
		if took > 2*time.Second {
			t.Errorf("%q: %v", unit, took)
		}
	}
}
