package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds how long a test waits for what a peer should do at once: it is
// met only when something is wrong, or the machine is very busy.
const patience = 20 * time.Second

// A rig is our binary with a configuration and data of its own.
type rig struct {
	t      *testing.T
	binary string
	dir    string
	config string
	irc    string // addresses, host:port
	http   string
}

// builtDir has our binary once a test has asked for it: to link it takes longer than most
// tests run.
var builtDir string

var build = sync.OnceValues(func() (binary string, err error) {
	if builtDir, err = os.MkdirTemp("", "isthmus-built"); err != nil {
		return "", err
	}
	binary = filepath.Join(builtDir, "isthmus")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return binary, nil
})

// built returns the path of our binary, which all tests share.
func built(t *testing.T) string {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

func TestMain(m *testing.M) {
	code := m.Run()
	os.RemoveAll(builtDir)
	os.Exit(code)
}

// newRig has the binary built; configure writes what it is to serve.
func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, binary: built(t), dir: t.TempDir(), irc: freeAddress(t), http: freeAddress(t)}
	r.config = filepath.Join(r.dir, "isthmus.yaml")
	return r
}

// configure writes the configuration; settings are further YAML at its top level.
func (r *rig) configure(settings string) {
	r.t.Helper()
	text := fmt.Sprintf("data_dir: %s/data\nhttp: {address: %q}\n%s", r.dir, r.http, settings)
	if err := os.WriteFile(r.config, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
}

// run runs one command of ours and returns what it printed.
func (r *rig) run(args ...string) []byte {
	r.t.Helper()
	return r.feed("", args...)
}

func (r *rig) feed(input string, args ...string) []byte {
	r.t.Helper()
	cmd := exec.Command(r.binary, append(args, "--config", r.config)...)
	var errs bytes.Buffer
	cmd.Stdin, cmd.Stderr, cmd.Env = strings.NewReader(input), &errs, withoutSettings()
	out, err := cmd.Output()
	if err != nil {
		r.t.Fatalf("isthmus %v: %v\n%s", args, err, errs.String())
	}
	return out
}

// withoutSettings is the environment without ISTHMUS_ variables: those of the
// tests are no configuration, and a server refuses what it does not know.
func withoutSettings() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "ISTHMUS_") })
}

// start runs the server and waits until it is ready. It ends with the test at
// the latest; stop sends it a signal and waits for its end.
func (r *rig) start() (stop func(os.Signal)) {
	r.t.Helper()
	p, exited := r.serve()
	return func(s os.Signal) { p.Signal(s); <-exited }
}

// serve is start for one who sends other signals too.
func (r *rig) serve() (p *os.Process, exited <-chan struct{}) {
	r.t.Helper()
	cmd := exec.Command(r.binary, "serve", "--config", r.config)
	var errs bytes.Buffer
	cmd.Stderr, cmd.Env = &errs, withoutSettings()
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	end := make(chan struct{})
	go func() { cmd.Wait(); close(end) }()
	r.t.Cleanup(func() { cmd.Process.Kill(); <-end })
	for range 1000 {
		if resp, err := http.Get("http://" + r.http + "/readyz"); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return cmd.Process, end
			}
		}
		select {
		case <-end:
			r.t.Fatalf("the server does not start: %s", errs.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
	r.t.Fatalf("never ready: %s", errs.String())
	return nil, nil
}

// A peer is a client that is not ours, in a process of its own, driven by a
// script of testdata/e2e: what it receives comes as lines of JSON.
type peer struct {
	t     *testing.T
	name  string
	in    io.WriteCloser
	mu    sync.Mutex
	news  *sync.Cond
	got   []map[string]any
	taken []bool // by an expectation, which each event meets once
	errs  bytes.Buffer
	over  bool
}

// node starts a script with the packages that make test installs.
func node(t *testing.T, name, script string, args ...string) *peer {
	t.Helper()
	modules, err := filepath.Abs(filepath.Join(root, ".cache", "npm", "node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("node", append([]string{filepath.Join("testdata", "e2e", script)}, args...)...)
	cmd.Env = append(os.Environ(), "NODE_PATH="+modules)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &peer{t: t, name: name}
	p.news = sync.NewCond(&p.mu)
	cmd.Stderr = &p.errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if p.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%s (make test installs it): %v", script, err)
	}
	done := make(chan struct{})
	go p.read(out, func() { cmd.Wait(); close(done) })
	t.Cleanup(func() { p.leave(); <-done })
	return p
}

func (p *peer) read(out io.Reader, wait func()) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e map[string]any
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			e = map[string]any{"type": "garbage", "text": lines.Text()}
		}
		p.mu.Lock()
		p.got, p.taken = append(p.got, e), append(p.taken, false)
		p.news.Broadcast()
		p.mu.Unlock()
	}
	wait()
	p.mu.Lock()
	p.over = true
	p.news.Broadcast()
	p.mu.Unlock()
}

// leave ends the peer's process.
func (p *peer) leave() { p.in.Close() }

// do gives the script one thing to do.
func (p *peer) do(what map[string]any) {
	p.t.Helper()
	text, err := json.Marshal(what)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(p.in, "%s\n", text); err != nil {
		p.t.Fatalf("%s is gone: %v\n%s", p.name, err, p.errs.String())
	}
}

// raw makes an IRC peer send a line.
func (p *peer) raw(format string, args ...any) {
	p.t.Helper()
	p.do(map[string]any{"raw": fmt.Sprintf(format, args...)})
}

// call makes a Matrix peer call a method of its library, and returns the result.
func (p *peer) call(method string, args ...any) any {
	p.t.Helper()
	p.do(map[string]any{"call": method, "args": args})
	e := p.expect(is{"call": method})
	if e["type"] != "done" {
		p.t.Fatalf("%s: %s: %v", p.name, method, e["error"])
	}
	return e["result"]
}

// is describes an event: each value at its path ("tags|msgid") equals this one,
// or matches it if it is a regular expression. nil means that nothing is there.
type is map[string]any

func (want is) met(e map[string]any) bool {
	for path, w := range want {
		v := at(e, path)
		if re, ok := w.(*regexp.Regexp); ok {
			if s, ok := v.(string); !ok || !re.MatchString(s) {
				return false
			}
		} else if !reflect.DeepEqual(v, w) {
			return false
		}
	}
	return true
}

// at returns the value at a path of e: "tags|msgid".
func at(e map[string]any, path string) any {
	var v any = e
	for step := range strings.SplitSeq(path, "|") {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[step]
	}
	return v
}

// expect waits for an event that meets want and that no expectation had before.
func (p *peer) expect(want is) map[string]any {
	p.t.Helper()
	e, ok := p.await(want, patience)
	if !ok {
		p.mu.Lock()
		defer p.mu.Unlock()
		text := new(strings.Builder)
		for i, e := range p.got {
			if !p.taken[i] {
				line, _ := json.Marshal(e)
				fmt.Fprintf(text, "%s\n", line)
			}
		}
		p.t.Fatalf("%s never saw %v; it saw\n%s%s", p.name, want, text, p.errs.String())
	}
	return e
}

// await is expect with its own patience, and without a verdict.
func (p *peer) await(want is, patience time.Duration) (map[string]any, bool) {
	end := time.Now().Add(patience)
	wake := time.AfterFunc(patience, func() { p.mu.Lock(); p.news.Broadcast(); p.mu.Unlock() })
	defer wake.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := 0; ; {
		for ; i < len(p.got); i++ {
			if !p.taken[i] && want.met(p.got[i]) {
				p.taken[i] = true
				return p.got[i], true
			}
		}
		if p.over || !time.Now().Before(end) {
			return nil, false
		}
		p.news.Wait()
	}
}

// ircPeer is irc-framework, connected and registered.
func (r *rig) ircPeer(nick string, options map[string]any) *peer {
	r.t.Helper()
	host, port, _ := strings.Cut(r.irc, ":")
	all := map[string]any{
		"host": host, "port": port, "nick": nick, "username": nick, "enable_echomessage": true,
		"caps": []string{"draft/message-redaction", "draft/chathistory", "draft/event-playback", "labeled-response", "standard-replies"},
	}
	for k, v := range options {
		all[k] = v
	}
	text, err := json.Marshal(all)
	if err != nil {
		r.t.Fatal(err)
	}
	p := node(r.t, nick, "irc.js", string(text))
	p.expect(is{"type": "registered", "nick": nick})
	return p
}
