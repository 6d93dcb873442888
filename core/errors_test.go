package core

import "testing"

// What one side says of a refusal is what the other understands.
func TestCodeNamed(t *testing.T) {
	for _, c := range Codes() {
		if got := CodeNamed(c.String()); got != c {
			t.Errorf("%s is understood as %s", c, got)
		}
	}
	if got := CodeNamed("of a newer version"); got != Internal {
		t.Errorf("a code that nobody knows is understood as %s", got)
	}
}
