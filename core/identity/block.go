package identity

import (
	"fmt"
	"strings"
)

// MaxBlocked bounds the lines of a block list.
const MaxBlocked = 1 << 17

// A Blocklist is the operator's list of domains that are not spoken to (PROTOCOL
// §2). The attestations of a blocked domain count as absent. A nil *Blocklist
// blocks nobody. It is not changed after parsing, and safe for concurrent use.
type Blocklist struct {
	exact map[string]struct{}
	under map[string]struct{} // the suffixes, without "*."
}

// ParseBlocklist reads one entry a line: a domain, or *.suffix for every domain
// under suffix, not suffix itself. Case, a trailing dot, blank lines, and what
// follows a # do not matter. A line that is none of these is ErrMalformed with its
// number: a typing error must not leave a domain open.
func ParseBlocklist(lines []string) (*Blocklist, error) {
	if len(lines) > MaxBlocked {
		return nil, fmt.Errorf("%w: %d lines, at most %d", ErrMalformed, len(lines), MaxBlocked)
	}
	b := &Blocklist{exact: map[string]struct{}{}, under: map[string]struct{}{}}
	for i, line := range lines {
		entry, _, _ := strings.Cut(line, "#")
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		suffix, wild := strings.CutPrefix(entry, "*.")
		domain := bareDomain(suffix)
		if !ValidDomain(domain) {
			return nil, fmt.Errorf("%w: line %d of the block list is neither a domain nor *.suffix", ErrMalformed, i+1)
		}
		if wild {
			b.under[domain] = struct{}{}
		} else {
			b.exact[domain] = struct{}{}
		}
	}
	return b, nil
}

// Blocked reports whether domain is on the list. A port is not looked at: the
// whole host is blocked.
func (b *Blocklist) Blocked(domain string) bool {
	if b == nil {
		return false
	}
	domain = bareDomain(domain)
	if _, ok := b.exact[domain]; ok {
		return true
	}
	for _, rest, more := strings.Cut(domain, "."); more; _, rest, more = strings.Cut(rest, ".") {
		if _, ok := b.under[rest]; ok {
			return true
		}
	}
	return false
}

// bareDomain returns domain in lower case, without a port or a trailing dot.
func bareDomain(domain string) string {
	if host := strings.TrimRight(domain, "0123456789"); host != domain && strings.HasSuffix(host, ":") {
		domain = host[:len(host)-1]
	}
	return strings.TrimSuffix(strings.ToLower(domain), ".")
}
