package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ends runs a verb of isthmus chat, with SIGTERM after a while unless that is 0, and
// returns its exit code and all that it says.
func (r *rig) ends(who string, after time.Duration, input string, args ...string) (int, string) {
	r.t.Helper()
	args = append([]string{"chat", "--dir", filepath.Join(r.dir, "chat"), "--as", who, "--key-file", r.chatKey(who)}, args...)
	cmd := exec.Command(r.binary, append(args, "--config", r.config)...)
	var said strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.Env = strings.NewReader(input), &said, &said, withoutSettings()
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	if after > 0 {
		defer time.AfterFunc(after, func() { cmd.Process.Signal(syscall.SIGTERM) }).Stop()
	}
	cmd.Wait()
	return cmd.ProcessState.ExitCode(), said.String()
}

// What is said while the homeserver is away, or hangs until one has enough, is kept and
// goes out once; what cannot be kept is refused with another exit code.
func TestChatSendAway(t *testing.T) {
	r := newRig(t)
	r.configure("irc: {listeners: [{name: plain, address: " + r.irc + "}]}\ndomain: a.example\n")
	stop := r.start()
	const alice, bob = "alice@a.example", "bob@a.example"
	for _, who := range []string{alice, bob} {
		r.chat(who, "login", who, "--server", "http://"+r.http)
	}
	r.chat(alice, "create", "garden", "bob")
	r.chat(bob, "rooms")
	stop(os.Interrupt)

	wants := func(code int, want string, after time.Duration, input string, args ...string) {
		t.Helper()
		if got, said := r.ends(alice, after, input, args...); got != code || !strings.Contains(said, want) || strings.Contains(said, "internal") {
			t.Errorf("%v: code %d, want %d and %q in\n%s", args, got, code, want, said)
		}
	}
	wants(exitUnavailable, "the homeserver does not answer; it is kept and goes out with the next command", 0, "", "send", "garden", "one")
	wants(exitUnavailable, "; 2 lines are kept and go out with the next command", 0, "two\nthree\n", "send", "garden")
	wants(exitFailed, "it was not kept", 0, "", "send", "cellar", "nobody hears this")
	wants(exitFailed, "not in that room", 0, "", "send", "mimi://a.example/r/cellar", "nor this")
	wants(exitOK, "one (not sent yet)", 0, "", "history", "garden")

	l, err := net.Listen("tcp", r.http) // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	wants(exitUnavailable, "interrupted; it is kept and goes out with the next command", time.Second, "", "send", "garden", "four")
	l.Close()

	r.start()
	r.chat(alice, "rooms")
	r.chat(alice, "rooms")
	var said []string
	for line := range strings.Lines(r.chat(bob, "history", "garden")) {
		said = append(said, strings.TrimSpace(line[len("2006-01-02 15:04 "):]))
	}
	if got := strings.Join(said, "|"); got != "alice: one|alice: two|alice: three|alice: four" {
		t.Errorf("bob reads %q", got)
	}
	if got := r.chat(alice, "history", "garden"); strings.Contains(got, "not sent yet") {
		t.Errorf("alice reads %s", got)
	}
}

// A homeserver restored from a backup that is older than a room's last change is noticed
// at once: what is said there is kept, and other rooms are not held up.
func TestChatSendRestored(t *testing.T) {
	r := newRig(t)
	r.configure("irc: {listeners: [{name: plain, address: " + r.irc + "}]}\ndomain: a.example\n")
	stop := r.start()
	const alice, bob = "alice@a.example", "bob@a.example"
	for _, who := range []string{alice, bob} {
		r.chat(who, "login", who, "--server", "http://"+r.http)
	}
	r.chat(alice, "create", "garden")
	r.chat(alice, "create", "attic")
	backup, database := filepath.Join(r.dir, "backup.db"), filepath.Join(r.dir, "data", databaseFile)
	r.run("backup", backup)
	r.chat(alice, "invite", "garden", "bob")
	stop(os.Interrupt)
	for _, end := range []string{"-wal", "-shm"} {
		os.Remove(database + end)
	}
	if err := os.Rename(backup, database); err != nil {
		t.Fatal(err)
	}
	r.start()
	for _, one := range []struct {
		code int
		want string
		args []string
	}{
		{exitUnavailable, "the homeserver knows an older state of this room than this device: was it restored from a backup?; it is kept", []string{"send", "garden", "one"}},
		{exitOK, "Sent 1.", []string{"send", "attic", "two"}},
		{exitUnavailable, "an older state of this room", []string{"remove", "garden", "bob"}},
		{exitOK, "one (not sent yet)", []string{"history", "garden"}},
	} {
		start := time.Now()
		code, said := r.ends(alice, 0, "", one.args...)
		if took := time.Since(start); code != one.code || !strings.Contains(said, one.want) || took > chatWait {
			t.Errorf("%v: code %d after %v, want %d and %q in\n%s", one.args, code, took, one.code, one.want, said)
		}
	}
}
