package configs

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func write(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "isthmus.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// problems loads text and returns what was wrong, with the directory cut off.
func problems(t *testing.T, text string, environ ...string) string {
	t.Helper()
	file := write(t, text)
	_, err := Load(file, environ)
	if err == nil {
		return ""
	}
	if _, ok := err.(*Error); !ok {
		t.Fatalf("error is a %T, want *Error", err)
	}
	return strings.ReplaceAll(err.Error(), filepath.Dir(file)+"/", "")
}

func TestDefaultLoads(t *testing.T) {
	c, err := Load("", nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Domain != "localhost" || c.HTTP.Address != "127.0.0.1:8480" || c.IRC.Listeners[0].Address != "127.0.0.1:6667" {
		t.Errorf("default is %+v", c)
	}
	if got := time.Duration(c.IRC.Limits.CommandInterval); got != 250*time.Millisecond {
		t.Errorf("irc.limits.command_interval = %v", got)
	}
	if c.IRC.Limits.SendQueue != 1<<20 {
		t.Errorf("irc.limits.send_queue = %d", c.IRC.Limits.SendQueue)
	}
}

// Every key of Config stands in default.yaml with a comment above it or above
// the group it is in, and nothing else stands there.
func TestDefaultIsTheDocumentation(t *testing.T) {
	if err := Check("default.yaml", Default); err != nil {
		t.Fatal(err)
	}
	text := string(Default)
	var visit func(reflect.Type)
	visit = func(typ reflect.Type) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			key := regexp.MustCompile(`(?m)^[# -]*` + f.Tag.Get("yaml") + `(:|  )`)
			if !key.MatchString(text) {
				t.Errorf("default.yaml does not have %s.%s", typ.Name(), f.Tag.Get("yaml"))
			}
			if ft := f.Type; ft.Kind() == reflect.Struct {
				visit(ft)
			} else if ft.Kind() == reflect.Slice && ft.Elem().Kind() == reflect.Struct {
				visit(ft.Elem())
			}
		}
	}
	visit(reflect.TypeFor[Config]())
}

// The entries that default.yaml shows in comments are themselves right, and the
// values shown there are the defaults of entries.
func TestExampleEntries(t *testing.T) {
	for list, section := range map[string]string{"matrix": "", "listeners": "irc", "webirc": "irc", "peers": "federation"} {
		indent := ""
		if section != "" {
			indent = "  "
		}
		block, _, _ := strings.Cut(string(Default), "\n"+indent+list+":")
		block = block[strings.LastIndex(block, "\n"+indent+"# - name: ")+1:]
		var b strings.Builder
		if section != "" {
			b.WriteString(section + ":\n")
		}
		b.WriteString(indent + list + ":\n")
		for line := range strings.Lines(block) {
			b.WriteString(indent + strings.TrimPrefix(line, indent+"# "))
		}
		if got := problems(t, b.String()); got != "" || strings.Count(b.String(), "\n") < 3 {
			t.Errorf("the example of %s: %s\n%s", list, got, b.String())
		}
	}
	short := "matrix:\n- {name: example, server: example.org, url: 'http://h', listen_url: 'http://g'}\n"
	c, err := Load(write(t, short), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"#   id: " + c.Matrix[0].ID, "#   bot: " + c.Matrix[0].Bot, "#   ghost_prefix: " + c.Matrix[0].GhostPrefix,
		"#   as_token_file: " + c.Matrix[0].ASTokenFile, "#   request_timeout: 30s"} {
		if !strings.Contains(string(Default), "\n"+line) {
			t.Errorf("default.yaml does not show %q", line)
		}
	}
	if c.Matrix[0].RequestTimeout != Duration(30*time.Second) || c.Matrix[0].MaxBody != 16<<20 {
		t.Errorf("defaults of an entry: %+v", c.Matrix[0])
	}
}

func TestProblems(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"unknown key", "domain: a.example\nlog:\n  levle: info\n", `isthmus.yaml:3: unknown key "levle"`},
		{"unknown section", "\nxmpp:\n  address: x\n", `isthmus.yaml:2: unknown key "xmpp"`},
		{"unknown key in a list", "matrix:\n  - name: a\n    sever: b\n", `isthmus.yaml:3: unknown key "sever"`},
		{"two", "a: 1\nb: 2\n", "isthmus.yaml:1: unknown key \"a\"\nisthmus.yaml:2: unknown key \"b\""},
		{"repeated key", "domain: a\ndomain: b\n", `isthmus.yaml:2: mapping key "domain" already defined at line 1`},
		{"bare duration", "stop_timeout: 5\n", `isthmus.yaml:1: "5" is not a duration: write it with a unit, such as 5s, 2m or 1h`},
		{"bare zero", "irc: {sts: 0}\n", `isthmus.yaml:1: "0" is not a duration: write it with a unit, such as 5s, 2m or 1h`},
		{"negative duration", "stop_timeout: -5s\n", `isthmus.yaml:1: "-5s" is a negative duration`},
		{"bare size", "irc:\n  limits:\n    send_queue: 65536\n", `isthmus.yaml:3: "65536" is not a size: write it with a unit, such as 512B, 64KiB or 16MiB`},
		{"word for number", "http: {max_connections: many}\n", `isthmus.yaml:1: "many" is not a whole number`},
		{"map for list", "matrix:\n  example:\n    server: x\n", `isthmus.yaml:2: "" is not a list`},
		{"two documents", "domain: a\n---\ndomain: b\n", "isthmus.yaml: more than one YAML document"},
		{"not YAML", "domain: [\n", "isthmus.yaml:1: did not find expected node content"},
		{"domain", "domain: A.Example\n", `domain: "A.Example" is not a lower-case DNS name`},
		{"level", "log: {level: loud}\n", `log.level: "loud" is not one of debug, info, warn, error`},
		{"address", "irc: {listeners: [{name: a, address: '6667'}]}\n", `irc.listeners[0].address: "6667" is not host:port`},
		{"certificate", "irc: {listeners: [{name: a, address: ':6697', tls: true}]}\n", `irc.listeners[0].cert_file: a tls listener needs cert_file and key_file`},
		{"same name", "irc: {listeners: [{name: a, address: ':1'}, {name: a, address: ':2'}]}\n", `irc.listeners[1].name: "a" is there twice`},
		{"network", "irc: {forwarded: [10.0.0.1]}\n", `irc.forwarded: "10.0.0.1" is not a network such as 10.0.0.0/8`},
		{"database", "database: {url: mysql://x}\n", `database.url: must be empty for SQLite, or begin with postgres://`},
		{"federation", "federation: {address: ':8448', base: 'http://x', block: [a.example, '*.', 'b c'], limits: {memory: 1MiB}}\n",
			`federation.cert_file: federation needs cert_file and key_file
federation.base: must be an https URL
federation.block[1]: "*." is neither a domain nor *.suffix
federation.block[2]: "b c" is neither a domain nor *.suffix
federation.limits.memory: must be at least 80MiB, which one request may need`},
		{"peers", "federation: {peers: [{name: B.example, address: x}, {name: b.example, address: ':1'}, {name: b.example, address: ':1'}]}\n",
			`federation.peers[0].name: "B.example" is not the domain of a homeserver
federation.peers[0].address: "x" is not host:port
federation.peers[2].name: "b.example" is there twice`},
		{"sts", "irc: {sts: 1h}\n", `irc.sts: needs a listener with tls`},
	} {
		if diff := cmp.Diff(c.want, problems(t, c.text)); diff != "" {
			t.Errorf("%s: (-want +got)\n%s", c.name, diff)
		}
	}
}

func TestEnvironment(t *testing.T) {
	c, err := Load(write(t, "log: {level: warn, format: json}\n"),
		[]string{"ISTHMUS_LOG_LEVEL=debug", "ISTHMUS_IRC_LIMITS_SEND_QUEUE=64KiB", "ISTHMUS_STOP_TIMEOUT=3s", "ISTHMUS_HTTP_METRICS=false", "HOME=/x", "ISTHMUS_CONFIG=x"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Log.Level != "debug" || c.Log.Format != "json" || c.IRC.Limits.SendQueue != 64<<10 || c.StopTimeout != Duration(3*time.Second) || c.HTTP.Metrics {
		t.Errorf("loaded %+v", c)
	}
	for variable, want := range map[string]string{
		"ISTHMUS_LOG_LEVLE=x":    "ISTHMUS_LOG_LEVLE: no key has this name",
		"ISTHMUS_MATRIX=x":       "ISTHMUS_MATRIX: matrix is a list; it is set in the file",
		"ISTHMUS_STOP_TIMEOUT=5": `environment: 'stop_timeout' "5" is not a duration: write it with a unit, such as 5s, 2m or 1h`,
	} {
		if got := problems(t, "", variable); got != want {
			t.Errorf("%s:\n got %s\nwant %s", variable, got, want)
		}
	}
}

func TestSetWins(t *testing.T) {
	c, err := Load("", []string{"ISTHMUS_DATA_DIR=/env"}, func(c *Config) { c.DataDir = "/flag" })
	if err != nil || c.DataDir != "/flag" {
		t.Errorf("data_dir = %v, %v", c, err)
	}
	if _, err := Load("/nowhere/isthmus.yaml", nil); err == nil || err.Error() != "/nowhere/isthmus.yaml: no such file or directory" {
		t.Errorf("a missing file: %v", err)
	}
}

func TestSecrets(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte(" letmein\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &Config{DataDir: dir}
	if s, err := c.ReadSecret("", "token"); err != nil || s.Reveal() != "letmein" {
		t.Errorf("from a file: %q, %v", s.Reveal(), err)
	}
	if s, err := c.ReadSecret("direct", "token"); err != nil || s.Reveal() != "direct" {
		t.Errorf("direct: %q, %v", s.Reveal(), err)
	}
	if _, err := c.ReadSecret("", "absent"); err == nil || !strings.HasSuffix(err.Error(), "absent: no such file or directory") {
		t.Errorf("absent: %v", err)
	}
	var log strings.Builder
	s := Secret("letmein")
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "s", s, "in", []Secret{s})
	fmt.Fprintf(&log, "%v %s %+v %#v %q", s, s, struct{ S Secret }{s}, s, s)
	if strings.Contains(log.String(), "letmein") {
		t.Errorf("a secret was shown: %s", log.String())
	}
}

func TestDiff(t *testing.T) {
	load := func(text string) *Config {
		c, err := Load(write(t, text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	old := load("domain: a.example\n")
	now := load("domain: a.example\nnetwork: Other\nlog: {level: debug, format: json}\n" +
		"irc: {motd: hello, limits: {history: 50}, listeners: [{name: plain, address: ':7000'}]}\n")
	want := []Change{{"network", false}, {"log.level", true}, {"log.format", false}, {"irc.listeners", false}, {"irc.motd", true},
		{"irc.limits.history", false}}
	if diff := cmp.Diff(want, Diff(old, now)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	kept := Keep(old, now)
	if kept.Network != "Isthmus" || kept.Log != (Log{"debug", "text"}) || kept.IRC.MOTD != "hello" || kept.IRC.Limits.History != 100 ||
		kept.IRC.Listeners[0].Address != "127.0.0.1:6667" {
		t.Errorf("kept %+v", kept)
	}
	if now.Network != "Other" {
		t.Error("Keep changed its argument")
	}
}

// What default.yaml calls hot is hot, and nothing else.
func TestHot(t *testing.T) {
	var marked, section []string
	comment, isHot := false, false
	for line := range strings.Lines(string(Default)) {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "#") {
			isHot = comment && isHot || regexp.MustCompile(`\bhot\b`).MatchString(text)
			comment = true
			continue
		}
		comment = false
		name, value, ok := strings.Cut(text, ":")
		depth := (len(line) - len(strings.TrimLeft(line, " "))) / 2
		if !ok || strings.HasPrefix(text, "-") || depth > len(section) {
			continue // a list's entry, a text's line
		}
		section = append(section[:depth], name)
		if isHot && value != "" {
			marked = append(marked, strings.Join(section, "."))
		}
	}
	slices.Sort(marked)
	if diff := cmp.Diff(slices.Sorted(slices.Values(hot)), marked); diff != "" {
		t.Errorf("default.yaml does not mark what is hot: (-hot +marked)\n%s", diff)
	}
}

func FuzzCheck(f *testing.F) {
	f.Add([]byte("domain: a\n"))
	f.Add([]byte("stop_timeout: 5\nmatrix: [{name: a}]\n"))
	f.Add([]byte("a: &a [*a]\n---\n"))
	f.Add(Default)
	f.Fuzz(func(t *testing.T, text []byte) {
		err := Check("f", text)
		if e, ok := err.(*Error); err != nil && (!ok || len(e.Problems) == 0) {
			t.Fatalf("Check answered %T %v", err, err)
		}
	})
}
