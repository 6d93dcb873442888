package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// waitFor calls look until it returns text that has all of want.
func waitFor(t *testing.T, who string, look func() string, want ...string) string {
	t.Helper()
	text := ""
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		missing := false
		text = look()
		for _, w := range want {
			missing = missing || !strings.Contains(text, w)
		}
		if !missing {
			return text
		}
	}
	t.Fatalf("%s never shows %q; it shows\n%s", who, want, text)
	return ""
}

// A weechat is WeeChat without its screen. It is told what to do over its fifo,
// and what its user would see is in its logs.
type weechat struct {
	t    *testing.T
	dir  string
	fifo *os.File
}

// newWeechat starts it; commands run at its start.
func newWeechat(t *testing.T, args []string, commands ...string) *weechat {
	t.Helper()
	w := &weechat{t: t, dir: t.TempDir()}
	fifo := filepath.Join(w.dir, "fifo")
	all := []string{"--dir", w.dir}
	for _, c := range append([]string{"/set fifo.file.path " + fifo, "/set logger.file.flush_delay 0", "/set logger.file.path " + w.dir + "/logs"}, commands...) {
		all = append(all, "-r", c)
	}
	cmd := exec.Command("weechat-headless", append(all, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+w.dir, "LANG=C.UTF-8")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("weechat-headless (make test installs it): %v", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for range 200 {
		if f, err := os.OpenFile(fifo, os.O_WRONLY|syscall.O_NONBLOCK, 0); err == nil {
			w.fifo = f
			t.Cleanup(func() { f.Close() })
			return w
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("WeeChat does not start: %s", out.String())
	return nil
}

// types types a line into a buffer, "isthmus.#hello".
func (w *weechat) types(buffer, format string, args ...any) {
	w.t.Helper()
	if _, err := fmt.Fprintf(w.fifo, "irc.%s *%s\n", buffer, fmt.Sprintf(format, args...)); err != nil {
		w.t.Fatal(err)
	}
}

// sees waits until the buffer's log has all of want.
func (w *weechat) sees(buffer string, want ...string) string {
	w.t.Helper()
	file := filepath.Join(w.dir, "logs", "irc."+buffer+".weechatlog")
	return waitFor(w.t, "WeeChat", func() string { b, _ := os.ReadFile(file); return string(b) }, want...)
}

// An irssi is irssi in a terminal of tmux.
type irssi struct {
	t      *testing.T
	socket string
}

func newIrssi(t *testing.T, args ...string) *irssi {
	t.Helper()
	dir := t.TempDir()
	// By default it waits seconds between commands, whatever the server allows.
	settings := `settings = { "irc/core" = { cmd_queue_speed = "10msec"; cmds_max_at_once = "100"; }; };`
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	i := &irssi{t: t, socket: filepath.Join(dir, "tmux")}
	t.Cleanup(func() { exec.Command("tmux", "-S", i.socket, "kill-server").Run() })
	i.tmux(append([]string{"-f", "/dev/null", "new-session", "-d", "-x", "180", "-y", "60",
		"env", "LANG=C.UTF-8", "irssi", "--home=" + dir}, args...)...)
	waitFor(t, "irssi", i.screen, "[(status)]")
	return i
}

func (i *irssi) tmux(args ...string) string {
	i.t.Helper()
	cmd := exec.Command("tmux", append([]string{"-S", i.socket}, args...)...)
	cmd.Env = append(os.Environ(), "LANG=C.UTF-8", "TERM=xterm-256color")
	out, err := cmd.CombinedOutput()
	if err != nil {
		i.t.Fatalf("tmux %v (make test installs it, and irssi): %v\n%s", args, err, out)
	}
	return string(out)
}

func (i *irssi) screen() string { i.t.Helper(); return i.tmux("capture-pane", "-p") }

// types types a line and Enter.
func (i *irssi) types(format string, args ...any) {
	i.t.Helper()
	i.tmux("send-keys", "-l", fmt.Sprintf(format, args...))
	i.tmux("send-keys", "Enter")
}

// sees waits until the screen shows all of want.
func (i *irssi) sees(want ...string) {
	i.t.Helper()
	waitFor(i.t, "irssi", i.screen, want...)
}

// TestTerminalClients: people with WeeChat and irssi talk with each other and with a
// Matrix user, in a channel that their JOIN made and in one that is linked.
func TestTerminalClients(t *testing.T) {
	g := newGateway(t, "")
	host, port, _ := strings.Cut(g.irc, ":")
	w := newWeechat(t, nil,
		"/server add isthmus "+host+"/"+port+" -nossl -nicks=carol -username=carol -realname=Carol",
		"/set irc.server.isthmus.sasl_mechanism scram-sha-256",
		"/set irc.server.isthmus.sasl_username carol",
		"/set irc.server.isthmus.sasl_password "+password,
		"/set irc.server.isthmus.capabilities *", // whatever the server offers
		"/connect isthmus")
	w.sees("server.isthmus", "You are now logged in as carol", "Welcome to Isthmus")
	w.types("server.isthmus", "/join #made")
	w.sees("isthmus.#made", "carol", "has joined #made")

	i := newIrssi(t, "-c", host, "-p", port, "-n", "ivan")
	i.sees("Welcome to Isthmus")
	i.types("/join #made")
	i.sees("[#made]", "synced")
	w.sees("isthmus.#made", "ivan")
	i.types("hello from irssi")
	w.sees("isthmus.#made", "ivan\thello from irssi")
	w.types("isthmus.#made", "hello from WeeChat, grüß dich")
	i.sees("carol> hello from WeeChat, grüß dich")
	i.types("/me waves")
	w.sees("isthmus.#made", "ivan waves")
	w.types("isthmus.#made", "/topic what we talk about") // who made it is its operator
	w.sees("isthmus.#made", "what we talk about")
	i.sees("carol changed the topic of #made to: what we talk about")

	w.types("server.isthmus", "/join #hello")
	w.sees("isthmus.#hello", "carol", "has joined #hello")
	i.types("/join #hello")
	i.sees("[#hello]")
	w.sees("isthmus.#hello", "ivan")
	first := g.alice.call("sendText", g.room, "the weather is find today").(string)
	i.sees("alice[m]> the weather is find today")
	w.sees("isthmus.#hello", "alice[m]\tthe weather is find today")
	i.types("is it?")
	said := g.alice.expect(is{"kind": "m.room.message", "content|body": "is it?"})
	w.types("isthmus.#hello", "/me looks out")
	g.alice.expect(is{"kind": "m.room.message", "content|msgtype": "m.emote", "content|body": "looks out", "sender": "@isthmus_carol:hs.test"})

	// A client that knows no tags is told of an edit and a reply in words.
	g.sends(map[string]any{"msgtype": "m.text", "body": "* the weather is fine today",
		"m.new_content": map[string]string{"msgtype": "m.text", "body": "the weather is fine today"},
		"m.relates_to":  map[string]string{"rel_type": "m.replace", "event_id": first}})
	i.sees("alice[m]> s/find/fine/")
	g.sends(map[string]any{"msgtype": "m.text", "body": "it is", "m.relates_to": map[string]any{"m.in_reply_to": map[string]any{"event_id": said["event_id"]}}})
	i.sees("alice[m]> ivan: it is")
	g.alice.call("sendText", g.room, "first line\nsecond line")
	i.sees("alice[m]> first line", "alice[m]> second line")
	w.sees("isthmus.#hello", "alice[m]\tfirst line", "second line")

	// The account's other client has the same nick; each says what both see.
	phone := g.ircPeer("carol", map[string]any{"account": map[string]any{"account": "carol", "password": password}})
	phone.raw("JOIN #hello")
	phone.expect(is{"type": "join", "nick": "carol", "channel": "#hello"})
	phone.do(map[string]any{"say": []string{"#hello", "from my phone"}})
	i.sees("carol> from my phone")
	w.sees("isthmus.#hello", "from my phone")
	w.types("isthmus.#hello", "from my desk")
	phone.expect(is{"type": "privmsg", "nick": "carol", "message": "from my desk"})
	phone.leave()
	i.types("/quit bye")
	w.sees("isthmus.#hello", "has quit")
}

// TestReadmeWalk: the first conversation of README.md, as it is written there. Only
// the addresses differ, so that it can run beside another server.
func TestReadmeWalk(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"go run ./cmd/isthmus serve\n", "irssi -c 127.0.0.1 -n alice ", "weechat -t irc://alice@127.0.0.1/#hello\n",
		"/join #hello\n", "go run ./cmd/isthmus account add alice "} {
		if !strings.Contains(string(readme), line) {
			t.Errorf("README.md no longer says %q: change this test with it", line)
		}
	}
	r := newRig(t)
	host, port, _ := strings.Cut(r.irc, ":")
	welcome := r.serveIn(t.TempDir())
	waitFor(t, "isthmus serve", welcome, "irssi -c 127.0.0.1", "/join #lobby", "keep a copy")
	alice := newIrssi(t, "-c", host, "-p", port, "-n", "alice")
	alice.sees("Welcome to Isthmus")
	alice.types("/join #hello")
	alice.sees("has joined #hello")
	alice.types("Hello, is anybody here?")
	alice.sees("alice> Hello, is anybody here?")
	bob := newWeechat(t, []string{"irc://bob@" + r.irc + "/#hello"})
	bob.sees(host+".#hello", "has joined #hello")
	alice.sees("-!- bob [")
	bob.types(host+".#hello", "I am")
	alice.sees("bob> I am")
}

// serveIn runs `isthmus serve` in dir, without a configuration, and returns what
// it prints.
func (r *rig) serveIn(dir string) (printed func() string) {
	r.t.Helper()
	out, err := os.Create(filepath.Join(r.dir, "printed"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(r.binary, "serve", "--irc", r.irc, "--http", r.http)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, withoutSettings(), out, out
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { cmd.Process.Signal(syscall.SIGTERM); cmd.Wait() })
	return func() string { b, _ := os.ReadFile(out.Name()); return string(b) }
}
