package converter

import (
	"unicode"
	"unicode/utf8"
)

// minRoom is the least room for text in a line: formatting that is opened again
// takes up to 21 octets, a code point four.
const minRoom = 32

// SplitLine cuts text into parts of at most room octets, on code point
// boundaries, after the last blank in the final fifth where there is one, and
// inside no grapheme cluster where it can be avoided. Formatting that is open
// at a cut is opened again in the next part. Joined, and without those repeated
// codes, the parts are the text. room below 32 counts as 32.
func SplitLine(text string, room int) []string {
	if room = max(room, minRoom); len(text) <= room {
		return []string{text}
	}
	parts := make([]string, 0, len(text)/(room*3/4)+1)
	var f format
	for reopen := ""; ; {
		if len(reopen)+len(text) <= room {
			return append(parts, reopen+text)
		}
		cut := cutAt(text, room-len(reopen))
		parts = append(parts, reopen+text[:cut])
		f.scan(text[:cut])
		text = text[cut:]
		reopen = f.codes()
		if text != "" && (text[0] == ',' || isHex(text[0])) && f.coloured() {
			reopen += "\x02\x02" // keeps the text out of the colour code
		}
	}
}

// cutAt returns where to cut s, which is longer than room.
func cutAt(s string, room int) int {
	for i := room; i > room-room/5; i-- {
		if s[i-1] == ' ' {
			return i
		}
	}
	hard := room
	for hard > 0 && hard > room-utf8.UTFMax && !utf8.RuneStart(s[hard]) {
		hard--
	}
	if !utf8.RuneStart(s[hard]) {
		hard = room // not UTF-8: any place is as good
	}
	hard = beforeCode(s, hard)
	for i := hard; i > hard/2; i-- { // a cluster longer than half a line is broken
		if utf8.RuneStart(s[i]) && !clusterInside(s, i) {
			return beforeCode(s, i)
		}
	}
	return hard
}

// beforeCode returns i, or the start of the colour code that i lies in.
func beforeCode(s string, i int) int {
	const longest = 14 // 0x04 and two colours of six digits with a comma
	for j := i - 1; j >= 0 && j >= i-longest; j-- {
		if s[j] == codeColour || s[j] == codeHex {
			if j > 0 && j+colourLen(s[j:]) > i {
				return j
			}
			return i
		}
	}
	return i
}

func isExtend(r rune) bool {
	switch {
	case r == 0x200d || r == 0x200c || r >= 0xfe00 && r <= 0xfe0f, // joiners, variation selectors
		r >= 0x1f3fb && r <= 0x1f3ff,                           // skin tones
		r >= 0xe0020 && r <= 0xe007f, r == 0xff9e, r == 0xff9f: // tags, half-width marks
		return true
	}
	return unicode.In(r, unicode.Mn, unicode.Me, unicode.Mc)
}

func isRegional(r rune) bool { return r >= 0x1f1e6 && r <= 0x1f1ff }

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isHex(c byte) bool {
	return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F'
}
