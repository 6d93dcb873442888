package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
)

// newTUI is isthmus chat itself, in a terminal of tmux.
func newTUI(v *verbs) *irssi {
	v.t.Helper()
	i := &irssi{t: v.t, socket: filepath.Join(v.dir, "tmux")}
	v.t.Cleanup(func() { i.quit() })
	i.tmux(append([]string{"-f", "/dev/null", "new-session", "-d", "-x", "160", "-y", "50", "env", "LANG=C.UTF-8", v.home.binary}, v.args()...)...)
	i.sees("isthmus chat", "connected")
	return i
}

// quit ends the terminal and what runs in it.
func (i *irssi) quit() { runQuietly("tmux", "-S", i.socket, "kill-server") }

func numbered(stem string, n int) (out []string) {
	for k := range n {
		out = append(out, fmt.Sprintf("%s %d", stem, k+1))
	}
	return out
}

// by puts the speaker before each line.
func by(name string, lines []string) (out []string) {
	for _, l := range lines {
		out = append(out, name+": "+l)
	}
	return out
}

// TestGroupsLife: a room of three homeservers, one of them on PostgreSQL, whose devices
// are isthmus chat as verbs and as a screen, and ts-mls. People are invited across
// homeservers, talk, bring a second device, are removed, banned, and leave.
func TestGroupsLife(t *testing.T) {
	c := newCluster(t, true, "a.example", "b.example", "c.example")
	c.start()
	a, b, far := c.homes[0], c.homes[1], c.homes[2]
	alice, bob, carol, dave := c.login(a, "alice"), c.login(b, "bob"), c.login(far, "carol"), c.login(b, "dave")
	ted := c.newForeign(far, "ted")
	made := alice.run("", "create", "garden", bob.name, carol.name)
	room := made[0]["room"].(string)
	in := map[string]any{"room": room}
	screen := newTUI(carol)
	screen.sees("garden")
	alice.run("", "invite", "garden", "ted@c.example", dave.name)
	inTheEnd(t, "ts-mls has joined", func() bool { ted.sync(); return ted.ask("state", in)["joined"] == true })

	// Everybody talks, also in a new epoch that ts-mls begins; everybody hears everything once, in order.
	inTheEnd(t, "bob is in the room", func() bool { rooms := bob.run("", "rooms"); return len(rooms) == 1 && rooms[0]["epoch"] != nil })
	hello := numbered("hello", 20)
	alice.run(strings.Join(hello, "\n"), "send", "garden")
	bob.run(strings.Join(hello, "\n"), "send", "garden")
	for _, l := range hello[:5] {
		ted.ask("send", map[string]any{"room": room, "text": l})
	}
	inTheEnd(t, "ts-mls commits", func() bool { // somebody else may be first
		ted.sync()
		_, err := ted.try("commit", in)
		return err == nil
	})
	inTheEnd(t, "ts-mls is in its own epoch", func() bool {
		ted.sync()
		return ted.ask("state", in)["epoch"].(float64) >= 3
	})
	for _, l := range hello[5:10] {
		ted.ask("send", map[string]any{"room": room, "text": l})
	}
	screen.types("greetings from a screen 1")
	alice.hears(append(append(by("bob", hello), by("ted", hello[:10])...), "carol: greetings from a screen 1")...)
	bob.hears(append(append(by("alice", hello), by("ted", hello[:10])...), "carol: greetings from a screen 1")...)
	screen.sees("hello 20", "hello 10", "greetings from a screen 1")
	inTheEnd(t, "ts-mls has heard it all", func() bool {
		ted.sync()
		return slices.Contains(ted.said, "alice: hello 20") && slices.Contains(ted.said, "bob: hello 20") && slices.Contains(ted.said, "carol: greetings from a screen 1")
	})

	// A second device of bob, for which the first one vouches, comes in by itself.
	device := bob.run("", "devices")[0]["device"].(string)
	tablet := c.login(b, "bob", "--with", device[strings.LastIndexByte(device, '/')+1:], "--name", "tablet")
	request := tablet.run("", "login", tablet.name, "--server", "http://"+b.http, "--with", device[strings.LastIndexByte(device, '/')+1:])[0]["request"].(string)
	approval := bob.run("", "devices", "approve", request)[0]["approval"].(string)
	tablet.run("", "login", tablet.name, "--approval", approval)
	inTheEnd(t, "the second device is in the room", func() bool {
		tablet.listen(4 * time.Second) // time to enter: what is cut off is tried again later and later
		rooms := tablet.run("", "rooms")
		return len(rooms) == 1 && rooms[0]["epoch"] != nil
	})
	tablet.run("", "send", "garden", "from the tablet 1")
	alice.hears("bob: from the tablet 1")
	bob.listen(time.Second)
	ted.sync()

	// Who is removed, or leaves, hears nothing of what comes after.
	alice.run("", "remove", "garden", "ted@c.example")
	inTheEnd(t, "ts-mls knows that it was removed", func() bool { ted.sync(); return ted.ask("state", in)["joined"] == false })
	dave.listen(time.Second)
	dave.run("", "leave", "garden")
	inTheEnd(t, "somebody has let dave go", func() bool { alice.listen(time.Second); return !isMember(alice, "dave") })
	screen.types("/remove bob@b.example") // carol is no operator
	screen.sees("!")
	eve := c.login(far, "eve")
	alice.run("", "invite", "garden", eve.name)
	eve.listen(time.Second)
	alice.session(func(s *chatSession) error { return s.device.Ban(t.Context(), core.RoomID(room), far.user("eve")) })
	if _, err := alice.try("", "invite", "garden", eve.name); err == nil || !strings.Contains(err.Error(), `"denied"`) {
		t.Errorf("who is banned is invited: %v", err)
	}
	alice.run("", "send", "garden", "the last word 1")
	bob.hears("alice: the last word 1")
	tablet.hears("alice: the last word 1")
	screen.sees("the last word 1")
	dave.listen(2 * time.Second)
	eve.listen(time.Second)
	ted.sync()
	for who, said := range map[string][]string{"ted": ted.said, "dave": dave.said, "eve": eve.said} {
		if slices.Contains(said, "alice: the last word 1") {
			t.Errorf("%s, who is out, heard it", who)
		}
	}
	if _, err := ted.try("send", map[string]any{"room": room, "text": "still here"}); err == nil {
		t.Error("who was removed speaks")
	}
	for who, said := range map[string][]string{"alice": alice.said, "bob": bob.said, "tablet": tablet.said, "dave": dave.said, "ted": ted.said} {
		checkOrder(t, who, said)
	}
	for _, h := range c.homes { // each stops as it should
		if m := h.metrics(); strings.Contains(m, "isthmus_agreement_certificates_total 0\n") || !strings.Contains(m, "isthmus_agreement_proofs_total 0\n") {
			t.Errorf("%s does not count what was agreed", h.domain)
		}
		h.down(syscall.SIGTERM)
	}
}

// session is for what no verb does.
func (v *verbs) session(do func(*chatSession) error) {
	v.t.Helper()
	files, err := filepath.Glob(filepath.Join(v.dir, "*", profileName))
	if err != nil || len(files) != 1 {
		v.t.Fatalf("profiles of %s: %v, %v", v.name, files, err)
	}
	p, err := readProfile(files[0])
	if err != nil {
		v.t.Fatal(err)
	}
	key, err := keyFile(filepath.Join(v.dir, "key"), false)
	if err != nil {
		v.t.Fatal(err)
	}
	s, err := openSession(v.t.Context(), p, client.Secret{Key: key}, patience)
	if err != nil {
		v.t.Fatal(err)
	}
	if err := errors.Join(do(s), s.Close()); err != nil {
		v.t.Fatal(err)
	}
}

func isMember(v *verbs, name string) bool {
	v.t.Helper()
	return slices.ContainsFunc(v.run("", "members", "garden"), func(m map[string]any) bool { return sayer(m["user"].(string)) == name })
}
