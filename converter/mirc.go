package converter

import (
	"strings"
)

// palette is mIRC's 99 colours as RGB (https://modern.ircdocs.horse/formatting#colors).
var palette = [...]uint32{
	0xffffff, 0x000000, 0x00007f, 0x009300, 0xff0000, 0x7f0000, 0x9c009c, 0xfc7f00,
	0xffff00, 0x00fc00, 0x009393, 0x00ffff, 0x0000fc, 0xff00ff, 0x7f7f7f, 0xd2d2d2,
	0x470000, 0x472100, 0x474700, 0x324700, 0x004700, 0x00472c, 0x004747, 0x002747, 0x000047, 0x2e0047, 0x470047, 0x47002a,
	0x740000, 0x743a00, 0x747400, 0x517400, 0x007400, 0x007449, 0x007474, 0x004074, 0x000074, 0x4b0074, 0x740074, 0x740045,
	0xb50000, 0xb56300, 0xb5b500, 0x7db500, 0x00b500, 0x00b571, 0x00b5b5, 0x0063b5, 0x0000b5, 0x7500b5, 0xb500b5, 0xb5006b,
	0xff0000, 0xff8c00, 0xffff00, 0xb2ff00, 0x00ff00, 0x00ffa0, 0x00ffff, 0x008cff, 0x0000ff, 0xa500ff, 0xff00ff, 0xff0098,
	0xff5959, 0xffb459, 0xffff71, 0xcfff60, 0x6fff6f, 0x65ffc9, 0x6dffff, 0x59b4ff, 0x5959ff, 0xc459ff, 0xff66ff, 0xff59bc,
	0xff9c9c, 0xffd39c, 0xffff9c, 0xe2ff9c, 0x9cff9c, 0x9cffdb, 0x9cffff, 0x9cd3ff, 0x9c9cff, 0xdc9cff, 0xff9cff, 0xff94d3,
	0x000000, 0x131313, 0x282828, 0x363636, 0x4d4d4d, 0x656565, 0x818181, 0x9f9f9f, 0xbcbcbc, 0xe2e2e2, 0xffffff,
}

const noColour = 99 // the reader's own

// nearest returns the index of the palette's colour that is closest to c.
func nearest(c colour) int {
	if c == 0 {
		return noColour
	}
	best, least := 0, 1<<30
	for i, p := range palette {
		d := 0
		for shift := 0; shift < 24; shift += 8 {
			x := int(uint32(c)>>shift&0xff) - int(p>>shift&0xff)
			d += x * x
		}
		if d < least {
			best, least = i, d
		}
	}
	return best
}

// colourLen returns the length of the colour code that s starts with.
func colourLen(s string) int {
	digits, is := 2, isDigit
	if s[0] == codeHex {
		digits, is = 6, isHex
	}
	number := func(i int) int {
		n := 0
		for n < digits && i+n < len(s) && is(s[i+n]) {
			n++
		}
		if s[0] == codeHex && n < digits {
			return 0
		}
		return n
	}
	n := 1 + number(1)
	if n > 1 && n < len(s) && s[n] == ',' {
		if m := number(n + 1); m > 0 {
			n += 1 + m
		}
	}
	return n
}

// format is the formatting in force at one place of a line.
type format struct {
	style   style
	reverse bool
	fg, bg  colour
}

// apply changes f by the code that s starts with and returns its length.
func (f *format) apply(s string) int {
	switch s[0] {
	case codeBold:
		f.style ^= bold
	case codeItalic:
		f.style ^= italic
	case codeUnderline:
		f.style ^= underline
	case codeStrike:
		f.style ^= strike
	case codeMono:
		f.style ^= mono
	case codeReverse:
		f.reverse = !f.reverse
	case codeReset:
		*f = format{}
	default:
		n := colourLen(s)
		f.colour(s[0] == codeHex, s[1:n])
		return n
	}
	return 1
}

func (f *format) colour(hex bool, arg string) {
	fg, bg, both := strings.Cut(arg, ",")
	if fg == "" {
		f.fg, f.bg = 0, 0
		return
	}
	f.fg = colourOf(hex, fg)
	if both {
		f.bg = colourOf(hex, bg)
	}
}

func colourOf(hex bool, digits string) colour {
	var n uint32
	for i := 0; i < len(digits); i++ {
		c := digits[i]
		switch {
		case !hex:
			n = n*10 + uint32(c-'0')
		case isDigit(c):
			n = n<<4 | uint32(c-'0')
		default:
			n = n<<4 | uint32(c|0x20-'a'+10)
		}
	}
	switch {
	case hex:
		return colour(1<<24 | n)
	case int(n) < len(palette):
		return colour(1<<24 | palette[n])
	}
	return 0
}

// scan applies every code in s.
func (f *format) scan(s string) {
	for i := 0; i < len(s); {
		if isCode(s[i]) {
			i += f.apply(s[i:])
		} else {
			i++
		}
	}
}

func (f *format) coloured() bool { return f.fg != 0 || f.bg != 0 }

// codes returns the codes that bring a fresh line into f.
func (f *format) codes() string {
	if *f == (format{}) {
		return ""
	}
	b := make([]byte, 0, minRoom)
	for _, c := range [...]struct {
		style style
		code  byte
	}{{bold, codeBold}, {italic, codeItalic}, {underline, codeUnderline}, {strike, codeStrike}, {mono, codeMono}} {
		if f.style&c.style != 0 {
			b = append(b, c.code)
		}
	}
	if f.reverse {
		b = append(b, codeReverse)
	}
	return string(f.appendColour(b))
}

func (f *format) appendColour(b []byte) []byte {
	if !f.coloured() {
		return b
	}
	fg := nearest(f.fg)
	b = append(b, codeColour, byte('0'+fg/10), byte('0'+fg%10))
	if f.bg != 0 {
		bg := nearest(f.bg)
		b = append(b, ',', byte('0'+bg/10), byte('0'+bg%10))
	}
	return b
}

// hasCodes reports whether s holds formatting.
func hasCodes(s string) bool {
	for i := 0; i < len(s); i++ {
		if isCode(s[i]) {
			return true
		}
	}
	return false
}

// parseMIRC reads one cleaned line. Reverse video has no counterpart elsewhere
// and is dropped; text that has the colour of its own background is a spoiler.
func parseMIRC(s string) []span {
	var f format
	var spans []span
	for i := 0; i < len(s); {
		if isCode(s[i]) {
			i += f.apply(s[i:])
			continue
		}
		j := i + 1
		for j < len(s) && !isCode(s[j]) {
			j++
		}
		t := span{text: s[i:j], style: f.style, fg: f.fg, bg: f.bg}
		if t.fg != 0 && t.fg == t.bg {
			t.fg, t.bg, t.style = 0, 0, t.style|spoiler
		}
		if len(spans) >= maxDocSpans {
			t = span{text: s[i:j]}
		}
		spans = append(spans, t)
		i = j
	}
	return joinSpans(spans)
}

// StripFormatting returns text without mIRC formatting codes.
func StripFormatting(text string) string {
	if !hasCodes(text) {
		return text
	}
	var f format
	b := make([]byte, 0, len(text))
	for i := 0; i < len(text); {
		if isCode(text[i]) {
			i += f.apply(text[i:])
			continue
		}
		b = append(b, text[i])
		i++
	}
	return string(b)
}

// mirc writes l with formatting codes. Toggles are used, not resets, so that a
// style that goes on is not interrupted.
func (l *line) mirc() string {
	if l.quote == 0 && l.kind == para && len(l.spans) == 1 && l.spans[0].same(span{}) {
		return l.spans[0].text
	}
	b := []byte(l.prefix())
	var f format
	for i, s := range l.spans {
		want := format{style: s.style &^ spoiler, fg: s.fg, bg: s.bg}
		if l.kind == heading {
			want.style |= bold
		}
		if l.kind == code {
			want.style |= mono
		}
		if s.style&spoiler != 0 { // black on black
			want.fg, want.bg = 1<<24, 1<<24
		}
		if isMention(s.link) {
			want = format{}
		}
		b = f.turn(b, want)
		if n := len(b); n > 0 && s.text != "" && b[n-1] != ' ' && (isDigit(s.text[0]) || s.text[0] == ',') && f.fgJustSet(b) {
			b = append(b, codeBold, codeBold)
		}
		b = append(b, s.text...)
		if target := linkTarget(l.spans, i); target != "" {
			b = f.turn(b, format{})
			b = append(append(append(b, " ("...), target...), ')')
		}
	}
	return string(f.turn(b, format{}))
}

// fgJustSet reports whether b ends in a colour code that digits or a comma
// would be read into.
func (f *format) fgJustSet(b []byte) bool {
	for i := len(b) - 1; i >= 0 && i >= len(b)-6; i-- {
		if b[i] == codeColour {
			return i+colourLen(string(b[i:])) == len(b)
		}
	}
	return false
}

// turn appends the codes that lead from f to want, and makes f that.
func (f *format) turn(b []byte, want format) []byte {
	for _, c := range [...]struct {
		style style
		code  byte
	}{{bold, codeBold}, {italic, codeItalic}, {underline, codeUnderline}, {strike, codeStrike}, {mono, codeMono}} {
		if (f.style^want.style)&c.style != 0 {
			b = append(b, c.code)
		}
	}
	if f.fg != want.fg || f.bg != want.bg {
		switch {
		case !want.coloured():
			b = append(b, codeColour)
		case want.bg == 0 && f.bg != 0: // 99 takes a background away
			b = append(want.appendColour(b), ",99"...)
		default:
			b = want.appendColour(b)
		}
	}
	*f = want
	return b
}
