package main

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// refused runs a verb of isthmus chat that is refused, and returns all that it says.
func (r *rig) refused(who string, args ...string) string {
	r.t.Helper()
	args = append([]string{"chat", "--dir", filepath.Join(r.dir, "chat"), "--as", who, "--key-file", r.chatKey(who)}, args...)
	cmd := exec.Command(r.binary, append(args, "--config", r.config)...)
	cmd.Env = withoutSettings()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != exitFailed {
		r.t.Errorf("isthmus %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// What a verb says it did is what came of it.
func TestChatVerbsTellTheTruth(t *testing.T) {
	r := newRig(t)
	r.configure("irc: {listeners: [{name: plain, address: " + r.irc + "}]}\ndomain: a.example\n")
	r.start()
	const alice, bob = "alice@a.example", "bob@a.example"
	for _, who := range []string{alice, bob} {
		r.chat(who, "login", who, "--server", "http://"+r.http)
	}
	says := func(got string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(got, w) {
				t.Errorf("no %q in %s", w, got)
			}
		}
	}
	says(r.refused(alice, "create", "garden", "bob", "ghost"), "Made garden", "Invited bob.", "Not let in: ghost (no such user")
	says(r.chat(alice, "invite", "garden", "bob"), "In the room already: bob.")
	says(r.chat(alice, "invite", "garden", "bob", "--json"), `"status": "present"`)
	says(r.refused(alice, "invite", "garden", "ghost", "bob"), "In the room already: bob. Not let in: ghost")
	says(r.refused(alice, "remove", "garden", "ghost"), "isthmus: ghost is not in the room\n")
	says(r.refused(bob, "remove", "garden", "alice"), "isthmus: only operators of this room may remove others")
	r.chat(alice, "send", "garden", "so long")
	says(r.chat(bob, "history", "garden"), "alice: so long")
	says(r.chat(alice, "remove", "garden", "bob"), "Removed bob.")
	says(r.chat(bob, "history", "garden"), "alice: so long") // what was said stays his
	says(r.refused(bob, "send", "garden", "wait"), "you are in no room garden")
	says(r.refused(alice, "remove", "garden", "bob"), "bob is not in the room")

	// Another device of bob's says only later who is to approve it.
	phone := filepath.Join(r.dir, "phone")
	as := func(args ...string) []string {
		return append([]string{"--dir", phone, "--key-file", filepath.Join(r.dir, "phone.key"), "login", bob}, args...)
	}
	own := regexp.MustCompile(`(?m)^([a-z2-7]{26}) .*this device`).FindStringSubmatch(r.chat(bob, "devices"))
	if own == nil {
		t.Fatal("bob has no device")
	}
	r.refused(bob, as("--server", "http://"+r.http)...)
	says(r.refused(bob, as("--with", own[1][:8])...), "is no device of yours: write the whole DEVICE")
	request := regexp.MustCompile(`approve (\S+)`).FindStringSubmatch(r.chat(bob, as("--with", own[1])...))
	approved := regexp.MustCompile(`--approval (\S+)`).FindStringSubmatch(r.chat(bob, "devices", "approve", request[1]))
	says(r.chat(bob, as("--approval", approved[1])...), "This is device")
	says(r.refused(bob, as("--with", own[1])...), "is a device of yours already: run `isthmus chat devices link")
	if got := r.chat(alice, "devices", "bob"); strings.Contains(got, "not linked") {
		t.Errorf("bob's devices: %s", got)
	}
}
