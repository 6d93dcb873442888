package irc

import "strings"

// A casemap says which letters are the same in nicks and channel names. It is
// chosen once per server, because it decides which channels are one.
type casemap uint8

const (
	foldASCII   casemap = iota // A-Z only
	foldRFC1459                // and []\^ are the upper case of {}|~
)

func casemapOf(name string) casemap {
	if name == "rfc1459" {
		return foldRFC1459
	}
	return foldASCII
}

// Fold returns the form under which the names of channels and nicks are compared,
// by a Config's CaseMapping (RFC 2812 §2.2 for "rfc1459").
func Fold(caseMapping, name string) string { return casemapOf(caseMapping).fold(name) }

func (m casemap) String() string {
	if m == foldRFC1459 {
		return "rfc1459"
	}
	return "ascii"
}

// fold returns the form under which names are compared. Text outside ASCII
// stays as it is.
func (m casemap) fold(s string) string {
	for i := 0; i < len(s); i++ {
		if m.lower(s[i]) != s[i] {
			b := []byte(s)
			for j := i; j < len(b); j++ {
				b[j] = m.lower(b[j])
			}
			return string(b)
		}
	}
	return s
}

func (m casemap) lower(c byte) byte {
	switch {
	case c >= 'A' && c <= 'Z':
		return c + 'a' - 'A'
	case m == foldRFC1459 && c >= '[' && c <= '^':
		return c + '{' - '['
	}
	return c
}

// validNick reports whether s can be somebody's nick: letters, digits, -[]\`^{}|_
// and no digit or dash in front (RFC 2812 §2.3.1).
func validNick(s string, max int) bool {
	if s == "" || len(s) > max {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !nickByte(s[i], i == 0) {
			return false
		}
	}
	return true
}

func nickByte(c byte, first bool) bool {
	if c >= 'A' && c <= '}' { // letters and []\^_`{|}
		return true
	}
	return !first && (c == '-' || c >= '0' && c <= '9')
}

// nickFrom makes a nick of anybody's name: what a nick cannot hold becomes "_".
// It never returns "".
func nickFrom(name string, max int) string {
	b := make([]byte, 0, min(len(name), max)+1)
	for _, r := range name {
		if len(b) >= max {
			break
		}
		if r < 0x80 && nickByte(byte(r), len(b) == 0) {
			b = append(b, byte(r))
		} else if len(b) == 0 && r < 0x80 && nickByte(byte(r), false) {
			b = append(b, '_', byte(r))
		} else if len(b) > 0 && b[len(b)-1] != '_' {
			b = append(b, '_')
		}
	}
	if s := strings.TrimRight(string(b[:min(len(b), max)]), "_"); s != "" {
		return s
	}
	return "someone"
}

// validChannel reports whether s can be a channel's name: "#" and at least one
// octet, none of them blank, comma or control (RFC 2812 §1.3).
func validChannel(s string, max int) bool {
	if len(s) < 2 || len(s) > max || s[0] != '#' {
		return false
	}
	for i := 1; i < len(s); i++ {
		if s[i] <= ' ' || s[i] == ',' || s[i] == 0x7f {
			return false
		}
	}
	return true
}

// cleanMask completes what people type as a ban to nick!user@host; account
// masks ($a:name, ~account:name) stay.
func cleanMask(s string) string {
	if strings.HasPrefix(s, "$") || strings.HasPrefix(s, "~") {
		return s
	}
	nick, rest, bang := strings.Cut(s, "!")
	if !bang {
		if user, host, at := strings.Cut(s, "@"); at {
			return "*!" + orStar(user) + "@" + orStar(host)
		}
		return orStar(s) + "!*@*"
	}
	user, host, _ := strings.Cut(rest, "@")
	return orStar(nick) + "!" + orStar(user) + "@" + orStar(host)
}

func orStar(s string) string {
	if s == "" {
		return "*"
	}
	return s
}
