package identity

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestAddresses(t *testing.T) {
	for address, uri := range map[string]string{
		"alice@a.example":             "mimi://a.example/u/alice",
		"alice@a.example:8448":        "mimi://a.example:8448/u/alice",
		"alice@[2001:db8::1]":         "mimi://[2001:db8::1]/u/alice",
		"åse@a.example":               "mimi://a.example/u/%C3%A5se",
		"a@b@a.example":               "mimi://a.example/u/a@b",
		"irc.libera/nick@a.example":   "mimi://a.example/u/irc.libera/nick",
		"irc.libera/nick[1]@a.test":   "mimi://a.test/u/irc.libera/nick%5B1%5D",
		"a%20b@a.example":             "mimi://a.example/u/a%20b",
		"100%25@a.example":            "mimi://a.example/u/100%25",
		"a%2Fb@a.example":             "mimi://a.example/u/a%2Fb",
		"%E2%80%AEevil@a.example":     "mimi://a.example/u/%E2%80%AEevil",
		"mimi://a.example/u/a;b":      "mimi://a.example/u/a;b",
		"mimi://a.example/u//x":       "mimi://a.example/u//x",
		"mimi://a.example/u/50%":      "mimi://a.example/u/50%",
		"matrix.hs.org/bob@a.example": "mimi://a.example/u/matrix.hs.org/bob",
	} {
		if got, err := ParseAddress(address); got != uri || err != nil {
			t.Errorf("%s is read as %s, %v", address, got, err)
		}
		if got := FormatAddress(uri); got != address {
			t.Errorf("%s is shown as %s", uri, got)
		}
	}
	for address, uri := range map[string]string{
		"Alice@A.Example":    "mimi://a.example/u/Alice",
		"two words@a.b":      "mimi://a.b/u/two%20words",
		"a\u202eb@a.example": "mimi://a.example/u/a%E2%80%AEb",
	} {
		if got, err := ParseAddress(address); got != uri || err != nil {
			t.Errorf("%s is read as %s, %v", address, got, err)
		}
	}
	for _, address := range []string{"", "alice", "@a.example", "alice@", "alice@a/b", "alice@a b", "a//b@a.example", "50%@a.example",
		"alice@bücher.example", "a\xff@a.example", "mimi://a.example/r/room", "mimi://a.example/u/", "mimi://a.example/u/a b",
		"mimi://a.example/u/å", "alice@-a.example", strings.Repeat("a", MaxURI) + "@a.example"} {
		if got, err := ParseAddress(address); got != "" || !errors.Is(err, ErrMalformed) {
			t.Errorf("%q is read as %q, %v", address, got, err)
		}
	}
	for _, other := range []string{"", "x", "mimi://a.example/r/room", "mimi://A/u/x"} {
		if got := FormatAddress(other); got != other {
			t.Errorf("%q is shown as %q", other, got)
		}
	}
}

func TestDomain(t *testing.T) {
	for uri, want := range map[string]string{
		alice: "a.example", DeviceURI("b.example", pub(1)): "b.example", "mimi://a:1/u/x": "a:1", "mimi://[::1]:1/d/x": "[::1]:1",
		"mimi://a.example/r/x": "", "mimi://a.example/u": "", "mimi:///u/x": "", "http://a/u/x": "", "mimi://a_b/u/x": "a_b",
		"mimi://a.example/u/x\x00": "", "mimi://.a/u/x": "", "mimi://a./u/x": "", "mimi://a@b/u/x": "", "mimi://a:/u/x": "",
	} {
		if got := Domain(uri); got != want {
			t.Errorf("%q: %q, not %q", uri, got, want)
		}
	}
}

// Every name that somebody can have survives being shown and typed again.
func TestAddressRapid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[^/%]{1,40}`).Draw(t, "name")
		uri, err := ParseAddress(name + "@a.example")
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if back, err := ParseAddress(FormatAddress(uri)); err != nil || back != uri {
			t.Fatalf("%s is shown as %q, which is %s, %v", uri, FormatAddress(uri), back, err)
		}
	})
}

func FuzzAddress(f *testing.F) {
	for _, s := range []string{"alice@a.example", "å@b", alice, "mimi://a/u/%41", "a/b/c@d:1", "%zz@a", "mimi://x@a.example"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		uri, err := ParseAddress(s)
		if err != nil {
			return
		}
		shown := FormatAddress(uri)
		if back, err := ParseAddress(shown); err != nil || back != uri || Domain(uri) == "" || len(uri) > MaxURI {
			t.Fatalf("%q is %q, shown as %q, which is %q, %v", s, uri, shown, back, err)
		}
	})
}

// domainForm says the same as ValidDomain in another way.
var domainForm = regexp.MustCompile(`^(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*|\[[0-9a-f:.]{2,45}\])(?::[0-9]{1,5})?$`)

func TestValidDomain(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.OneOf(rapid.StringMatching(`[a1_.:\[\]A-]{0,12}`), rapid.StringMatching(`[a-z0-9.-]{1,8}(:[0-9]{0,6})?`),
			rapid.StringMatching(`\[[0-9a-f:.]{0,46}\](:[0-9]{0,6})?`), rapid.StringN(0, 300, 300)).Draw(t, "domain")
		if got, want := ValidDomain(s), len(s) <= 255 && domainForm.MatchString(s); got != want {
			t.Fatalf("%q: %v, want %v", s, got, want)
		}
	})
}

func BenchmarkSplitURI(b *testing.B) {
	for b.Loop() {
		if _, _, ok := SplitURI("mimi://homeserver.example/u/somebody", "u"); !ok {
			b.Fatal("refused")
		}
	}
}
