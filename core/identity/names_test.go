package identity

import (
	"regexp"
	"testing"

	"pgregory.net/rapid"
)

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
