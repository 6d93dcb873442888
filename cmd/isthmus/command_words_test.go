package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

// A refusal comes in the words of a homeserver, anybody's perhaps: they are not
// obeyed by the terminal.
func TestRefusalsDoNotCommandTheTerminal(t *testing.T) {
	var out bytes.Buffer
	c := &cli{err: &out, started: true}
	c.fail(core.Errorf(core.Denied, "no\x1b]52;c;ZXZpbA==\x07\x1b[2J \u202etxt\nisthmus:\tsecond line\u009b1m"))
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "isthmus: no") || !strings.HasPrefix(lines[1], "isthmus: isthmus: second line") {
		t.Errorf("%q", lines)
	}
	if strings.ContainsAny(out.String(), "\x1b\x07\u009b\u202e\t") {
		t.Errorf("%q", out.String())
	}
}
