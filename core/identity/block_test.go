package identity

import (
	"errors"
	"strings"
	"testing"
)

func TestBlocklist(t *testing.T) {
	b, err := ParseBlocklist([]string{
		"# spam", "", "  Evil.example  ", "*.bad.example # and all of theirs", "dotted.example.",
		"ported.example:8448", "192.0.2.7", "[2001:db8::1]", "xn--bcher-kva.example",
	})
	if err != nil {
		t.Fatal(err)
	}
	for domain, want := range map[string]bool{
		"evil.example": true, "EVIL.example": true, "evil.example.": true, "evil.example:8448": true,
		"sub.evil.example": false, "notevil.example": false, "example": false, "": false,
		"bad.example": false, "a.bad.example": true, "b.a.bad.example": true, "a.bad.example:1": true, "abad.example": false,
		"dotted.example": true, "ported.example": true, "ported.example:1": true,
		"192.0.2.7": true, "192.0.2.7:80": true, "192.0.2.70": false,
		"[2001:db8::1]": true, "[2001:db8::1]:443": true, "[2001:db8::2]": false,
		"xn--bcher-kva.example": true,
	} {
		if b.Blocked(domain) != want {
			t.Errorf("%q: blocked is not %v", domain, want)
		}
	}
	if (*Blocklist)(nil).Blocked("evil.example") {
		t.Error("nobody's list blocks")
	}
}

func TestBlocklistRefusals(t *testing.T) {
	for _, line := range []string{"*", "*.", "a..b", ".a", "http://a.example", "a.example/b", "*a.example", "a.*.example", "bücher.example", "two words", "-a.example", strings.Repeat("a", 256)} {
		if _, err := ParseBlocklist([]string{"ok.example", line}); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "line 2") {
			t.Errorf("%q: %v", line, err)
		}
	}
	if _, err := ParseBlocklist(make([]string, MaxBlocked+1)); !errors.Is(err, ErrMalformed) {
		t.Errorf("too long: %v", err)
	}
}

func FuzzParseBlocklist(f *testing.F) {
	f.Add("a.example\n*.b.example # c", "x.b.example")
	f.Add("[::1]:80", "[::1]")
	f.Fuzz(func(t *testing.T, text, domain string) {
		lines := strings.Split(text, "\n")
		b, err := ParseBlocklist(lines)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if b.Blocked(domain) != b.Blocked(strings.ToLower(domain)) {
			t.Errorf("%q: case matters", domain)
		}
		for _, l := range lines {
			entry, _, _ := strings.Cut(l, "#")
			entry = strings.TrimSpace(entry)
			if entry != "" && !b.Blocked(strings.Replace(entry, "*.", "any.", 1)) {
				t.Errorf("%q does not block what it names", l)
			}
		}
	})
}
