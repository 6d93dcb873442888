package identity

import (
	"crypto/ed25519"
	"fmt"
	"strings"
)

// Bounds of names, in octets.
const (
	MaxURI    = 1024
	maxDomain = 255 // RFC 1035 §2.3.4
)

const scheme = "mimi://"

// ValidDomain reports whether s is a host in lower-case ASCII (other scripts as
// A-labels, RFC 5890; labels may have _ too) or an IPv6 address in brackets, with or
// without a port of at most five digits.
func ValidDomain(s string) bool {
	if len(s) > maxDomain {
		return false
	}
	host, port := s, ""
	if i := strings.LastIndexByte(s, ':'); i >= 0 && !strings.HasSuffix(s, "]") {
		host, port = s[:i], s[i+1:]
		if port == "" || len(port) > 5 || strings.Trim(port, "0123456789") != "" {
			return false
		}
	}
	if strings.HasPrefix(host, "[") {
		inner := strings.TrimSuffix(host[1:], "]")
		return len(inner) == len(host)-2 && len(inner) >= 2 && len(inner) <= 45 && strings.Trim(inner, "0123456789abcdef:.") == ""
	}
	for start, i := 0, 0; i <= len(host); i++ {
		if i < len(host) && host[i] != '.' {
			if !labelByte(host[i]) {
				return false
			}
			continue
		}
		if label := host[start:i]; label == "" || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		start = i + 1
	}
	return true
}

func labelByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

// SplitURI takes a MIMI URI of a kind ("u", "d", "r") apart: the domain, and what
// follows the kind, which is opaque ASCII without blanks and at least one octet
// (PROTOCOL §1; RFC 3986 §2: the rest comes percent-encoded). There is no other
// parser of these.
func SplitURI(uri, kind string) (domain, path string, ok bool) {
	rest, ok := strings.CutPrefix(uri, scheme)
	if !ok || len(uri) > MaxURI {
		return "", "", false
	}
	domain, rest, _ = strings.Cut(rest, "/")
	k, path, ok := strings.Cut(rest, "/")
	if !ok || k != kind || path == "" || !ValidDomain(domain) {
		return "", "", false
	}
	for i := range len(path) {
		if path[i] <= ' ' || path[i] >= 0x7f {
			return "", "", false
		}
	}
	return domain, path, true
}

func checkUser(uri string) error {
	if _, _, ok := SplitURI(uri, "u"); !ok {
		return fmt.Errorf("%w: not the URI of a user", ErrMalformed)
	}
	return nil
}

// Domain returns the domain of a user's or device's URI, "" if it is neither.
func Domain(uri string) string {
	for _, kind := range []string{"u", "d"} {
		if domain, _, ok := SplitURI(uri, kind); ok {
			return domain
		}
	}
	return ""
}

// DeviceURI returns mimi://domain/d/<DeviceID> (PROTOCOL §1).
func DeviceURI(domain string, key ed25519.PublicKey) string {
	return scheme + strings.ToLower(domain) + "/d/" + DeviceID(key)
}
