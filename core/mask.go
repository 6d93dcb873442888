package core

import "strings"

// MatchMask reports whether an IRC ban mask meets a user shown as full
// (name!ident@host) who is logged in as account ("" if not). Masks are compared
// without case in ASCII; * stands for any text, ? for one character; $a:NAME and
// ~account:NAME name an account, $a any account
// (https://ircv3.net/specs/extensions/account-extban).
func MatchMask(mask, full, account string) bool {
	for _, prefix := range [...]string{"$a:", "~account:"} {
		if name, ok := strings.CutPrefix(mask, prefix); ok {
			return account != "" && glob(lower(name), lower(account))
		}
	}
	if mask == "$a" {
		return account != ""
	}
	return glob(lower(mask), lower(full))
}

func lower(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, s)
}

// glob matches in time len(p)*len(s) at worst: on a mismatch it goes back to the
// last star only.
func glob(p, s string) bool {
	star, mark, i, j := -1, 0, 0, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == s[j]):
			i++
			j++
		case star >= 0:
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(p[i:], "*") == ""
}
