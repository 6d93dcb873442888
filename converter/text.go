package converter

import (
	"strings"
	"unicode/utf8"
)

// mIRC formatting codes (https://modern.ircdocs.horse/formatting).
const (
	codeBold      = 0x02
	codeColour    = 0x03
	codeHex       = 0x04
	codeReset     = 0x0f
	codeMono      = 0x11
	codeReverse   = 0x16
	codeItalic    = 0x1d
	codeStrike    = 0x1e
	codeUnderline = 0x1f
)

// isCode reports whether c is a formatting code. All of them are single octets
// that no UTF-8 sequence contains.
func isCode(c byte) bool {
	switch c {
	case codeBold, codeColour, codeHex, codeReset, codeMono, codeReverse, codeItalic, codeStrike, codeUnderline:
		return true
	}
	return false
}

// ordinary reports whether s surely needs no cleaning: no octet below a blank,
// no DEL, and none of the lead octets under which the special code points lie
// (C1 under C2, bidirectional controls and line separators under E2, U+FFF9 and
// following under EF).
func ordinary(s string) bool {
	for i := 0; i < len(s); i++ {
		if special[s[i]] {
			return false
		}
	}
	return true
}

var special = func() (t [256]bool) {
	for c := range t {
		t[c] = c < ' ' || c == 0x7f || c == 0xc2 || c == 0xe2 || c == 0xef || c >= 0xf8
	}
	return t
}()

// clean returns text without anything that is neither text nor a line break:
// controls, bidirectional overrides, interlinear anchors, invalid UTF-8 (as
// U+FFFD). CR LF, CR, NEL and the Unicode line separators become LF. Formatting
// codes stay if codes is set. Zero-width characters stay: in Persian, in
// Indic scripts and in emoji they are text.
func clean(s string, codes bool) string {
	if ordinary(s) && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	b.Grow(len(s))
	bidi := false
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == '\r':
			b.WriteByte('\n')
			if i+1 < len(s) && s[i+1] == '\n' {
				i++
			}
		case r == '\n' || r == '\t' || codes && r < ' ' && isCode(byte(r)):
			b.WriteByte(byte(r))
		case r == 0x85 || r == 0x2028 || r == 0x2029:
			b.WriteByte('\n')
		case r < ' ' || r >= 0x7f && r <= 0x9f || r >= 0xfff9 && r <= 0xfffb:
		case r == 0x202d || r == 0x202e: // an override makes text read as what it is not
		case r == utf8.RuneError && n <= 1:
			b.WriteRune(utf8.RuneError)
		default:
			bidi = bidi || isBidi(r)
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	if bidi {
		return balance(b.String())
	}
	return b.String()
}

// isBidi reports whether r opens or closes a bidirectional embedding or isolate.
func isBidi(r rune) bool { return r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 }

// maxBidi bounds open embeddings; the algorithm itself ends at 125 (UAX #9 BD2).
const maxBidi = 16

// balance closes every embedding and isolate at the end of its line and drops
// closers without an opener, so that none reaches beyond the line: into a
// nick, a prefix, the next message.
func balance(s string) string {
	const pdf, pdi = 0x202c, 0x2069
	var b strings.Builder
	var open []rune // the closers owed
	end := func() {
		for ; len(open) > 0; open = open[:len(open)-1] {
			b.WriteRune(open[len(open)-1])
		}
	}
	for _, r := range s {
		switch {
		case r == '\n':
			end()
			b.WriteRune(r)
		case !isBidi(r):
			b.WriteRune(r)
		case r == pdf || r == pdi:
			if len(open) > 0 && open[len(open)-1] == r {
				open = open[:len(open)-1]
				b.WriteRune(r)
			}
		case len(open) < maxBidi:
			closer := rune(pdf)
			if r >= 0x2066 {
				closer = pdi
			}
			open = append(open, closer)
			b.WriteRune(r)
		}
	}
	end()
	return b.String()
}

// oneLine returns s cleaned, with every run of blanks and line breaks as one
// blank: for names, quotes, reasons, topics.
func oneLine(s string) string { return strings.Join(strings.Fields(clean(s, false)), " ") }

// cutRunes returns the first n code points of s, with an ellipsis if more follow.
func cutRunes(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:joined(s, i)] + "…"
		}
		n--
	}
	return s
}

// joined returns i, or where the grapheme cluster that a cut at i would break begins.
func joined(s string, i int) int {
	for j := i; j > 0; {
		if !clusterInside(s, j) {
			return j
		}
		_, n := utf8.DecodeLastRuneInString(s[:j])
		j -= n
	}
	return i
}

// clusterInside reports whether a cut at i would break a grapheme cluster: an
// approximation of UAX #29 without its tables: marks, joiners, variation
// selectors, emoji modifiers, tags, pairs of regional indicators.
func clusterInside(s string, i int) bool {
	if i <= 0 || i >= len(s) {
		return false
	}
	next, _ := utf8.DecodeRuneInString(s[i:])
	if next < 0x300 {
		return false
	}
	prev, _ := utf8.DecodeLastRuneInString(s[:i])
	if prev < ' ' {
		return false // a mark has nothing to stand on after a code
	}
	if isExtend(next) || prev == 0x200d {
		return true
	}
	if isRegional(next) && isRegional(prev) {
		n := 0
		for j := i; j > 0; {
			r, w := utf8.DecodeLastRuneInString(s[:j])
			if !isRegional(r) {
				break
			}
			n, j = n+1, j-w
		}
		return n%2 == 1
	}
	return false
}
