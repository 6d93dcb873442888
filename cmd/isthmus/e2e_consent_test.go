package main

import (
	"regexp"
	"strings"
	"testing"
)

// Who wants to be asked is written to, and comes in by what the letter says; the way
// out is shown too.
func TestChatConsent(t *testing.T) {
	r := newRig(t)
	r.configure("irc: {listeners: [{name: plain, address: " + r.irc + "}]}\ndomain: a.example\n")
	r.start()
	for _, who := range []string{"alice@a.example", "bob@a.example"} {
		r.chat(who, "login", who, "--server", "http://"+r.http)
	}
	r.chat("bob@a.example", "consent", "everybody", "no")
	r.chat("alice@a.example", "create", "garden")
	if got := r.chat("alice@a.example", "invite", "garden", "bob"); !strings.Contains(got, "bob (they want to be asked first; a letter invites them)") {
		t.Fatalf("alice is told: %s", got)
	}
	r.chat("bob@a.example", "rooms") // takes the letter, and does not lose it
	letters := r.chat("bob@a.example", "letters")
	join := regexp.MustCompile(`alice invites you: isthmus chat join (mimi://a\.example/r/\S+) --code (\S+)`).FindStringSubmatch(letters)
	if join == nil {
		t.Fatalf("bob's letters: %s", letters)
	}
	b := r.chats("bob@a.example")
	r.chat("alice@a.example", "invite", "garden", "bob")
	b.sees("alice invites you to a room: /accept alice")
	b.types("/join %s %s", join[1], join[2])
	b.sees("> e2ee garden")
	r.chat("alice@a.example", "send", "garden", "you came")
	b.sees("alice: you came")
	if got := r.chat("alice@a.example", "leave", "garden"); !strings.Contains(got, "You left garden.") {
		t.Errorf("bob lets alice go: %s", got)
	}

	// The operator sees both devices, and takes back the homeserver's word for one.
	device := regexp.MustCompile(`(?m)^([a-z2-7]{26}) +alice@a\.example .*in use`).FindStringSubmatch(string(r.run("device", "list")))
	if device == nil {
		t.Fatal("alice's device is not listed")
	}
	r.run("device", "revoke", device[1])
	if got := string(r.run("device", "show", device[1])); !strings.Contains(got, "revoked") {
		t.Errorf("the device is shown as %s", got)
	}
}
