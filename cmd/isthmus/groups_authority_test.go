package main

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A homeserver whose first user, of whom nobody here had heard, came by a code is given
// a vote and gives it back; in between nothing changes without its yes.
func TestGroupsAuthority(t *testing.T) {
	c := newCluster(t, false, "a.example", "b.example")
	c.start()
	alice, bob := c.login(c.homes[0], "alice"), c.login(c.homes[1], "bob")
	alice.run("", "create", "garden")
	code := alice.run("", "code", "garden")[0]
	bob.run("", "join", code["room"].(string), "--code", code["code"].(string))
	decide := func(want string, args ...string) {
		t.Helper()
		got := alice.run("", append([]string{"authority", "garden"}, args...)...)[0]
		if said := fmt.Sprint(got["authority"], got["two_thirds"]); said != want {
			t.Fatalf("authority %v says %s, want %s", args, said, want)
		}
	}
	decide("[a.example] false")
	if _, err := bob.try("", "authority", "garden", "a.example", "b.example"); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Errorf("a member gives a vote: %v", err)
	}
	if _, err := alice.try("", "authority", "garden", "a.example", "c.example"); err == nil || !strings.Contains(err.Error(), "denied") {
		t.Errorf("a vote for who has nobody in the room: %v", err)
	}
	decide("[a.example b.example] true", "a.example", "b.example", "--two-thirds")
	decide("[a.example b.example] false", "--two-thirds=false") // with the yes of both
	alice.run("", "send", "garden", "hello")
	bob.hears("alice: hello")
	c.homes[1].down(syscall.SIGKILL)
	alone := make(chan error, 1)
	go func() {
		_, err := alice.try("", "authority", "garden", "a.example")
		alone <- err
	}()
	select {
	case err := <-alone:
		t.Fatalf("decided without a homeserver that has a vote: %v", err)
	case <-time.After(3 * time.Second):
	}
	c.homes[1].up()
	if err := <-alone; err != nil {
		t.Fatal(err)
	}
	decide("[a.example] false")
	bob.run("", "send", "garden", "still here")
	alice.hears("bob: still here")
}
