package irc

import (
	"bytes"
	"errors"
	"strings"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/converter"
)

// Bounds of a line (https://modern.ircdocs.horse and
// https://ircv3.net/specs/extensions/message-tags#size-limit).
const (
	maxBody       = 512  // octets after the tags, with CR LF
	maxTags       = 8191 // octets of all tags with "@" and the blank
	maxClientTags = 4096 // of them, what a client may send: 4094 octets of data
	maxLine       = maxTags + maxBody
	maxParams     = 15
)

// Why a line is not parsed. Each has an answer of its own (session.badLine).
var (
	errEmptyLine = errors.New("nothing on the line")
	errLongLine  = errors.New("line too long")
	errUTF8      = errors.New("line is not UTF-8")
	errByte      = errors.New("line has NUL or CR inside")
	errNoCommand = errors.New("line has no command")
)

// A tag is one message tag with its value unescaped.
type tag struct{ key, value string }

// A line is one parsed message of a client. It is used again for the next; its
// strings are not.
type line struct {
	tags    []tag
	command string // upper case
	params  []string
	lines   []converter.IRCLine // of a multiline batch; the reader never sets it
}

// tag returns the value of the last tag called key.
func (l *line) tag(key string) string {
	for i := len(l.tags) - 1; i >= 0; i-- {
		if l.tags[i].key == key {
			return l.tags[i].value
		}
	}
	return ""
}

func (l *line) param(i int) string {
	if i < len(l.params) {
		return l.params[i]
	}
	return ""
}

// parse reads one line without its line end into l. It keeps no reference to b.
func (l *line) parse(b []byte) error {
	l.tags, l.params, l.command = l.tags[:0], l.params[:0], ""
	b = bytes.TrimSuffix(b, []byte{'\r'})
	if len(b) == 0 {
		return errEmptyLine
	}
	if bytes.IndexByte(b, 0) >= 0 || bytes.IndexByte(b, '\r') >= 0 || bytes.IndexByte(b, '\n') >= 0 {
		return errByte
	}
	if !utf8.Valid(b) {
		return errUTF8
	}
	s := string(b) // the one allocation: everything else are parts of it
	if s[0] == '@' {
		i := strings.IndexByte(s, ' ')
		if i < 0 {
			return errNoCommand
		}
		if i+1 > maxClientTags {
			return errLongLine
		}
		l.parseTags(s[1:i])
		s = s[i+1:]
	}
	if len(s) > maxBody-2 {
		return errLongLine
	}
	s = strings.TrimLeft(s, " ")
	if s != "" && s[0] == ':' { // a source: clients have no say in it
		_, s, _ = strings.Cut(s, " ")
		s = strings.TrimLeft(s, " ")
	}
	l.command, s, _ = strings.Cut(s, " ")
	if !isCommand(l.command) {
		l.command = ""
		return errNoCommand
	}
	l.command = upper(l.command)
	l.parseParams(s)
	return nil
}

// isCommand reports whether s can be a command: letters and digits (RFC 2812
// §2.3.1).
func isCommand(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; !(c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9') {
			return false
		}
	}
	return s != ""
}

func (l *line) parseParams(s string) {
	for len(l.params) < maxParams {
		s = strings.TrimLeft(s, " ")
		if s == "" {
			return
		}
		if s[0] == ':' {
			l.params = append(l.params, s[1:])
			return
		}
		if len(l.params) == maxParams-1 { // RFC 2812 §2.3.1: the last takes the rest
			l.params = append(l.params, s)
			return
		}
		var p string
		p, s, _ = strings.Cut(s, " ")
		l.params = append(l.params, p)
	}
}

func (l *line) parseTags(s string) {
	for s != "" {
		var t string
		t, s, _ = strings.Cut(s, ";")
		key, value, _ := strings.Cut(t, "=")
		if key != "" {
			l.tags = append(l.tags, tag{key, unescapeTag(value)})
		}
	}
}

func upper(s string) string {
	for i := 0; i < len(s); i++ {
		if s[i] >= 'a' && s[i] <= 'z' {
			return strings.ToUpper(s)
		}
	}
	return s
}

func unescapeTag(s string) string {
	if strings.IndexByte(s, '\\') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' {
			b = append(b, s[i])
			continue
		}
		if i++; i == len(s) {
			break // a lone backslash at the end is dropped
		}
		switch s[i] {
		case ':':
			b = append(b, ';')
		case 's':
			b = append(b, ' ')
		case 'r':
			b = append(b, '\r')
		case 'n':
			b = append(b, '\n')
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

// appendTag writes key=value with the value escaped, and a separator before it
// if it is not the first on the line that starts at from.
func appendTag(b []byte, from int, key, value string) []byte {
	if len(b) == from {
		b = append(b, '@')
	} else {
		b = append(b, ';')
	}
	b = append(b, key...)
	if value == "" {
		return b
	}
	b = append(b, '=')
	return appendTagValue(b, value)
}

func appendTagValue(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ';':
			b = append(b, '\\', ':')
		case ' ':
			b = append(b, '\\', 's')
		case '\r':
			b = append(b, '\\', 'r')
		case '\n':
			b = append(b, '\\', 'n')
		case '\\':
			b = append(b, '\\', '\\')
		case 0:
		default:
			b = append(b, s[i])
		}
	}
	return b
}

// appendMiddle writes a parameter that is not the last. Whatever would end it
// or make it the last is replaced: text never becomes another parameter.
func appendMiddle(b []byte, s string) []byte {
	b = append(b, ' ')
	if s == "" {
		return append(b, '*')
	}
	if s[0] == ':' {
		b = append(b, '_')
		s = s[1:]
	}
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case ' ', '\r', '\n', 0:
			b = append(b, '_')
		default:
			b = append(b, s[i])
		}
	}
	return b
}

// appendTrailing writes the last parameter. A line end in it becomes a blank:
// text never becomes another line.
func appendTrailing(b []byte, s string) []byte {
	b = append(b, ' ', ':')
	from := len(b)
	b = append(b, s...)
	for i := from; i < len(b); i++ {
		if c := b[i]; c == '\r' || c == '\n' || c == 0 {
			b[i] = ' '
		}
	}
	return b
}

// endLine ends the line whose part after the tags begins at from, cut at the
// line limit on a rune boundary.
func endLine(b []byte, from int) []byte {
	if len(b)-from > maxBody-2 {
		end := from + maxBody - 2
		for end > from && !utf8.RuneStart(b[end]) {
			end--
		}
		b = b[:end]
	}
	return append(b, '\r', '\n')
}
