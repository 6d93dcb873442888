package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A chatScreen is isthmus chat in a terminal of tmux, 80 columns and 24 lines.
type chatScreen struct {
	*irssi // a program in tmux: types, screen
	who    string
}

// chats runs isthmus chat for a user of the rig, who logs in first; env is further
// environment.
func (r *rig) chats(who string, env ...string) *chatScreen {
	r.t.Helper()
	dir := r.t.TempDir()
	s := &chatScreen{&irssi{t: r.t, socket: filepath.Join(dir, "tmux")}, who}
	r.t.Cleanup(func() { exec.Command("tmux", "-S", s.socket, "kill-server").Run() })
	// Where CI is set the terminal library draws without colours.
	args := append([]string{"-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "env", "-u", "CI", "LANG=C.UTF-8"}, env...)
	s.tmux(append(args, r.binary, "chat", "--dir", filepath.Join(r.dir, "chat"), "--as", who, "--key-file", r.chatKey(who))...)
	s.sees("isthmus chat  "+who, "connected")
	return s
}

func (r *rig) chatKey(who string) string { return filepath.Join(r.dir, who+".key") }

// chat runs a verb of isthmus chat.
func (r *rig) chat(who string, args ...string) string {
	r.t.Helper()
	return string(r.run(append([]string{"chat", "--dir", filepath.Join(r.dir, "chat"), "--as", who, "--key-file", r.chatKey(who)}, args...)...))
}

func (s *chatScreen) sees(want ...string) string {
	s.t.Helper()
	return waitFor(s.t, s.who+"'s screen", s.screen, want...)
}

// key presses a key by its name in tmux.
func (s *chatScreen) key(name string) { s.t.Helper(); s.tmux("send-keys", name) }

// ansiColour is an SGR sequence that sets a colour.
var ansiColour = regexp.MustCompile(`\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38)[;m]`)

// Two people talk in their terminals: they see which room is encrypted, verify each
// other, and are told what comes while they look elsewhere.
func TestChatTerminals(t *testing.T) {
	r := newRig(t)
	r.configure("irc: {listeners: [{name: plain, address: " + r.irc + "}]}\ndomain: a.example\n")
	r.start()
	for _, who := range []string{"alice@a.example", "bob@a.example"} {
		r.chat(who, "login", who, "--server", "http://"+r.http, "--name", strings.Split(who, "@")[0]+"'s laptop")
	}
	a, b := r.chats("alice@a.example"), r.chats("bob@a.example", "NO_COLOR=1")
	a.sees("no rooms yet:")
	a.types("/channel plaza")
	a.sees("> OPEN #plaza", "[!] NOT ENCRYPTED", "servers can read all of this", "NOT ENCRYPTED>")
	a.types("/create garden bob")
	a.sees("> e2ee garden", "[#] END-TO-END ENCRYPTED", "1 device unverified", "encrypted>")
	b.sees("> e2ee garden", "[#] END-TO-END ENCRYPTED", "epoch 1")

	a.types("hello bob, grüß dich")
	b.sees("alice: hello bob, grüß dich")
	b.types("hello alice")
	a.sees("alice: hello bob", "bob: hello alice")
	b.types("/me waves")
	a.sees("* bob waves")

	// The words are the same on both sides, and verifying changes what is shown.
	a.types("/verify bob")
	words := regexp.MustCompile(`(?m)^ +([a-z]+(?:  [a-z]+){3})$`)
	mine := words.FindAllString(a.sees("Safety words with bob", "[y] they are the same"), -1)
	b.types("/verify alice")
	theirs := words.FindAllString(b.sees("Safety words with alice", "[y] they are the same"), -1)
	if len(mine) < 2 || strings.Join(mine, "") != strings.Join(theirs, "") {
		t.Errorf("alice sees the words %q, bob %q", mine, theirs)
	}
	a.key("y")
	b.key("n")
	a.sees("Verified bob.", "all verified")
	b.sees("Nothing was changed.", "1 device unverified")
	a.types("/members")
	a.sees("In garden: 2", "[verified] bob's laptop", "[this device] alice's laptop")
	a.key("Escape")

	// What comes elsewhere is counted, and Tab leads to it.
	a.types("/room #plaza")
	a.sees("> OPEN #plaza")
	b.types("are you there?")
	a.sees("e2ee garden      *1")
	a.key("Tab")
	a.sees("> e2ee garden", "bob ✓: are you there?")

	// A script talks to the same room while bob's terminal is closed.
	b.types("/quit")
	waitFor(t, "tmux", func() string {
		out, _ := exec.Command("tmux", "-S", b.socket, "list-sessions").CombinedOutput()
		return string(out)
	}, "no server running")
	r.chat("bob@a.example", "send", "garden", "from a script")
	a.sees("bob ✓: from a script")
	a.types("over and out")
	a.sees("alice: over and out")
	if got := r.chat("bob@a.example", "history", "garden"); !strings.Contains(got, "alice: over and out") {
		t.Errorf("bob's history: %s", got)
	}

	// Colours are for who wants them; a small screen shows what matters.
	b = r.chats("bob@a.example", "NO_COLOR=1")
	b.sees("[#] END-TO-END ENCRYPTED", "alice: over and out")
	if shown := b.tmux("capture-pane", "-p", "-e"); ansiColour.MatchString(shown) {
		t.Errorf("NO_COLOR is set, and yet: %q", shown)
	}
	if shown := a.tmux("capture-pane", "-p", "-e"); !ansiColour.MatchString(shown) {
		t.Errorf("no colours: %q", shown)
	}
	a.tmux("resize-window", "-x", "40", "-y", "12")
	a.sees("[#] END-TO-END", "over and out", "encrypted>")

	// Nothing that was said lies readable on the disk.
	for _, who := range []string{"alice@a.example", "bob@a.example"} {
		file := filepath.Join(r.dir, "chat", who, "chat.db")
		for _, f := range []string{file, file + "-wal"} {
			if text, err := os.ReadFile(f); err == nil && (strings.Contains(string(text), "over and out") || strings.Contains(string(text), "garden")) {
				t.Errorf("%s can be read", f)
			}
		}
	}
}

// A homeserver that goes away and comes back is waited for; nothing said meanwhile
// is lost.
func TestChatReconnect(t *testing.T) {
	r := newRig(t)
	r.configure("irc: {listeners: [{name: plain, address: " + r.irc + "}]}\ndomain: a.example\n")
	stop := r.start()
	for _, who := range []string{"alice@a.example", "bob@a.example"} {
		r.chat(who, "login", who, "--server", "http://"+r.http)
	}
	r.chat("alice@a.example", "create", "garden", "bob")
	r.chat("bob@a.example", "rooms")
	a := r.chats("alice@a.example")
	stop(os.Interrupt)
	a.sees("! reconnecting")
	a.types("said while nobody listens")
	a.sees("alice: said while nobody listens (not sent yet)", "It goes out by itself")
	r.start()
	a.sees("connected", "alice: said while nobody listens")
	waitFor(t, "alice's screen", func() string {
		if text := a.screen(); !strings.Contains(text, "not sent yet") {
			return "sent"
		} else {
			return text
		}
	}, "sent")
	waitFor(t, "bob's history", func() string { return r.chat("bob@a.example", "history", "garden") }, "alice: said while nobody listens")
	if n := strings.Count(r.chat("bob@a.example", "history", "garden"), "nobody listens"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}
