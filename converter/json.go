package converter

import (
	"bytes"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds on a Matrix event's content: a whole event has at most 65,536 octets
// (specification v1.19, "Size limits"); nothing we read is deeper than six.
const (
	maxJSON      = 64 << 10
	maxJSONDepth = 32
)

// A value is one syntactically valid JSON value, empty if absent.
type value []byte

// parseJSON checks the whole of b and returns it as a value. Errors are Invalid
// and TooLarge.
func parseJSON(b []byte) (value, error) {
	if len(b) > maxJSON {
		return nil, core.Errorf(core.TooLarge, "content over %d octets", maxJSON)
	}
	if !utf8.Valid(b) {
		return nil, core.Errorf(core.Invalid, "content is not UTF-8")
	}
	i, ok := jsonValue(b, jsonBlank(b, 0), 0)
	if !ok || jsonBlank(b, i) != len(b) {
		return nil, core.Errorf(core.Invalid, "content is not JSON, or deeper than %d", maxJSONDepth)
	}
	return b[jsonBlank(b, 0):i], nil
}

func jsonBlank(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// jsonValue returns where the value that starts at i ends.
func jsonValue(b []byte, i, depth int) (int, bool) {
	if i >= len(b) || depth > maxJSONDepth {
		return i, false
	}
	switch b[i] {
	case '{', '[':
		return jsonContainer(b, i, depth)
	case '"':
		return jsonString(b, i)
	case 't':
		return i + 4, len(b) >= i+4 && string(b[i:i+4]) == "true"
	case 'f':
		return i + 5, len(b) >= i+5 && string(b[i:i+5]) == "false"
	case 'n':
		return i + 4, len(b) >= i+4 && string(b[i:i+4]) == "null"
	}
	return jsonNumber(b, i)
}

func jsonContainer(b []byte, i, depth int) (int, bool) {
	object, end := b[i] == '{', b[i]+2 // ASCII: '}' is '{'+2, ']' is '['+2
	i = jsonBlank(b, i+1)
	if i < len(b) && b[i] == end {
		return i + 1, true
	}
	for ok := true; ; {
		if object {
			if i >= len(b) || b[i] != '"' {
				return i, false
			}
			if i, ok = jsonString(b, i); !ok {
				return i, false
			}
			if i = jsonBlank(b, i); i >= len(b) || b[i] != ':' {
				return i, false
			}
			i = jsonBlank(b, i+1)
		}
		if i, ok = jsonValue(b, i, depth+1); !ok {
			return i, false
		}
		if i = jsonBlank(b, i); i >= len(b) {
			return i, false
		}
		if b[i] == end {
			return i + 1, true
		}
		if b[i] != ',' {
			return i, false
		}
		i = jsonBlank(b, i+1)
	}
}

func jsonString(b []byte, i int) (int, bool) {
	for i++; i < len(b); i++ {
		if !escaped[b[i]] {
			continue
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1, true
		case c < ' ':
			return i, false
		case c != '\\':
		case i+1 >= len(b):
			return i, false
		case b[i+1] == 'u':
			if i+5 >= len(b) || !isHex(b[i+2]) || !isHex(b[i+3]) || !isHex(b[i+4]) || !isHex(b[i+5]) {
				return i, false
			}
			i += 5
		default:
			switch b[i+1] {
			case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
				i++
			default:
				return i, false
			}
		}
	}
	return i, false
}

// jsonNumber reads a number (RFC 8259 §6).
func jsonNumber(b []byte, i int) (int, bool) {
	digits := func() bool {
		start := i
		for i < len(b) && isDigit(b[i]) {
			i++
		}
		return i > start
	}
	if i < len(b) && b[i] == '-' {
		i++
	}
	if i < len(b) && b[i] == '0' {
		i++
	} else if !digits() {
		return i, false
	}
	if i < len(b) && b[i] == '.' {
		if i++; !digits() {
			return i, false
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !digits() {
			return i, false
		}
	}
	return i, true
}

// each calls f with every key (still escaped, without its quotes) and value of
// an object, with a nil key for those of an array, until f returns false.
func (v value) each(f func(key []byte, v value) bool) {
	if len(v) == 0 || v[0] != '{' && v[0] != '[' {
		return
	}
	object := v[0] == '{'
	for i := jsonBlank(v, 1); i < len(v)-1; {
		var key []byte
		if object {
			end := skipValue(v, i)
			key = v[i+1 : end-1]
			i = jsonBlank(v, jsonBlank(v, end)+1)
		}
		end := skipValue(v, i)
		if !f(key, v[i:end]) {
			return
		}
		if i = jsonBlank(v, end); i < len(v) && v[i] == ',' {
			i = jsonBlank(v, i+1)
		}
	}
}

// skipValue returns where a value that is known to be valid ends: most are
// strings without escapes.
func skipValue(v value, i int) int {
	if v[i] == '"' {
		if n := bytes.IndexByte(v[i+1:], '"'); n == 0 || n > 0 && v[i+n] != '\\' {
			return i + n + 2
		}
	}
	end, _ := jsonValue(v, i, 0)
	return end
}

// get returns the value of a key; of two equal keys the first.
func (v value) get(key string) (found value) {
	v.each(func(k []byte, v value) bool {
		if string(k) == key || len(k) > len(key) && unquote(k) == key {
			found = v
		}
		return found == nil
	})
	return found
}

// isObject reports whether v is an object, and so whether it may have keys.
func (v value) isObject() bool { return len(v) > 0 && v[0] == '{' }

// str returns a string's value, "" for anything else.
func (v value) str() string {
	if len(v) < 2 || v[0] != '"' {
		return ""
	}
	return unquote(v[1 : len(v)-1])
}

// is reports whether v is a string equal to a text that needs no escapes.
func (v value) is(s string) bool {
	return len(v) == len(s)+2 && v[0] == '"' && string(v[1:len(v)-1]) == s
}

// num returns a number as an integer, def if v is none or does not fit. Levels
// written as strings are taken too, as old rooms have them.
func (v value) num(def int64) int64 {
	s := []byte(v)
	if len(s) > 2 && s[0] == '"' {
		s = s[1 : len(s)-1]
	}
	n, err := strconv.ParseInt(string(s), 10, 64)
	if err != nil {
		return def
	}
	return n
}

// unquote decodes the inside of a valid string; half a surrogate pair is U+FFFD.
func unquote(s []byte) string {
	at := 0
	for at < len(s) && s[at] != '\\' {
		at++
	}
	if at == len(s) {
		return string(s)
	}
	b := append(make([]byte, 0, len(s)), s[:at]...)
	for i := at; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		i++
		switch s[i] {
		case 'b':
			b = append(b, '\b')
		case 'f':
			b = append(b, '\f')
		case 'n':
			b = append(b, '\n')
		case 'r':
			b = append(b, '\r')
		case 't':
			b = append(b, '\t')
		case 'u':
			r := hex4(s[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				low := rune(0)
				if i+6 < len(s) && s[i+1] == '\\' && s[i+2] == 'u' {
					low = hex4(s[i+3:])
				}
				if r = utf16.DecodeRune(r, low); r != utf8.RuneError {
					i += 6
				}
			}
			b = utf8.AppendRune(b, r)
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

func hex4(s []byte) (r rune) {
	return rune(colourOf(true, string(s[:4])) &^ (1 << 24))
}

// appendJSON appends s as a JSON string. U+2028 and U+2029 need no escape in
// JSON, and s is UTF-8.
func appendJSON(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !escaped[c] {
			continue
		}
		b = append(b, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		default:
			b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	return append(append(b, s[start:]...), '"')
}

// escaped marks what needs an escape in a JSON string (RFC 8259 §7).
var escaped = func() (t [256]bool) {
	for c := range t {
		t[c] = c < ' ' || c == '"' || c == '\\'
	}
	return t
}()
