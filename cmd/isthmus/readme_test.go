package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestReadmeTrial runs what README.md says to type for an encrypted room across two
// homeservers, and for a channel with curl. Only the build and the ports are the test's,
// a password stands where one would be asked for, and the stream ends.
func TestReadmeTrial(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(built(t), filepath.Join(dir, "isthmus")); err != nil {
		t.Fatal(err)
	}
	script := readmeCommands(t, "## Five minutes", "## A channel on IRC")
	for _, change := range [][2]string{
		{"make build && ", ""},
		{"127.0.0.1:848", "127.0.0.1:" + tenPorts(t)},
		{"127.0.0.1:666", "127.0.0.1:" + tenPorts(t)},
		{"127.0.0.1:844", "127.0.0.1:" + tenPorts(t)},
		{"../isthmus account", "echo correct-horse | ../isthmus account"},
		{"curl -u carol -N", "! timeout 2 curl -u carol -N"},
		{"curl -u carol", "curl -sS -u carol:correct-horse"},
	} {
		if !strings.Contains(script, change[0]) {
			t.Errorf("README.md no longer says %q: change this test with it", change[0])
		}
		script = strings.ReplaceAll(script, change[0], change[1])
	}
	cmd := exec.Command("bash", "-euc", "trap 'kill $(jobs -p); wait' EXIT\n"+script)
	cmd.Dir, cmd.Env = dir, withoutSettings()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"This is device", "end-to-end encrypted", "garden alice@h1.localhost: Hello, neighbour",
		"bob@h2.localhost: Hello, alice", "Added account carol", "plaza carol: Hello from curl"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the commands of README.md do not say %q:\n%s", want, out)
		}
	}
}

// readmeCommands are the shell blocks of README.md between two headings.
func readmeCommands(t *testing.T, from, to string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(b), from)
	text, _, ends := strings.Cut(text, to)
	if !found || !ends {
		t.Fatalf("README.md has no part from %q to %q", from, to)
	}
	var script strings.Builder
	for i, part := range strings.Split(text, "```") {
		if code, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			script.WriteString(code)
		}
	}
	return script.String()
}

// tenPorts returns all but the last digit of ten ports at which nothing listens.
func tenPorts(t *testing.T) string {
	t.Helper()
	return strconv.Itoa(freePorts(t, 10) / 10)
}
