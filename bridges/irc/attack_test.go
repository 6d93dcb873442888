package irc

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// The room of a conversation cannot be taken, or entered, as a channel.
func TestConversationIsNoChannel(t *testing.T) {
	h := openHouse(t, nil)
	a, b, m := h.user("alice"), h.user("bob"), h.user("mallory", "draft/chathistory", "batch")
	uri := func(nick string) core.UserURI {
		h.srv.world.mu.RLock()
		defer h.srv.world.mu.RUnlock()
		return h.srv.world.userByNick(nick).uri
	}
	name := "#" + h.srv.directRoom(uri("alice"), uri("bob")).Local()
	m.send("JOIN " + name)
	m.sync()
	a.send("PRIVMSG bob :in private")
	b.until(" PRIVMSG bob ", "in private")
	for _, l := range m.sync() {
		if strings.Contains(l, "in private") {
			t.Errorf("overheard: %q", l)
		}
	}
	m.send("JOIN "+name, "NAMES "+name, "CHATHISTORY LATEST "+name+" * 10", "LIST")
	for _, l := range m.sync() {
		if strings.Contains(l, "in private") || has(l, " 322 ", "dm.") || has(l, " 353 ", "alice") {
			t.Errorf("overheard: %q", l)
		}
	}
}

// Making rooms costs memory and disk for good, so nobody makes very many.
func TestRoomsOfOneAddressAreBounded(t *testing.T) {
	h := openHouse(t, nil)
	m := h.user("mallory")
	made := 0
	for i := range 1500 {
		name := fmt.Sprintf("#flood%d", i)
		m.send("JOIN "+name, "PART "+name)
	}
	for _, l := range m.sync() {
		if has(l, ":mallory!", " JOIN #flood") {
			made++
		}
	}
	if made > 600 {
		t.Errorf("one guest made %d channels in a second", made)
	}
	if made < 50 {
		t.Errorf("only %d channels were made: a network that moves here needs more", made)
	}
}

// A client whose machine is gone without a word, while there was something to
// write to it, is seen off like one that does not answer.
func TestHalfOpenConnection(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.PingInterval, c.PingTimeout, c.SendQueue = time.Second, time.Second, 64<<20 })
	a, b := h.user("alice"), h.dial()
	b.conn.(*net.TCPConn).SetReadBuffer(4096)
	b.register("bob")
	a.join("#c")
	b.join("#c")
	stop := make(chan struct{})
	defer close(stop)
	go func() { // the kernel's buffers fill, and writes to bob wait
		line := "PRIVMSG #c :" + strings.Repeat("x", 400) + "\r\n"
		for {
			select {
			case <-stop:
				return
			default:
				a.conn.Write([]byte(strings.Repeat(line, 20) + "PONG :irc.example\r\n"))
				time.Sleep(time.Millisecond)
			}
		}
	}()
	a.until(":bob!", " QUIT ", "Ping timeout")
	deadline := time.Now().Add(patience)
	for {
		h.srv.world.mu.RLock()
		n := len(h.srv.world.sessions)
		h.srv.world.mu.RUnlock()
		if n == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d sessions", n)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// An account's name is its owner's under every spelling that is the same nick,
// whoever else was called so before.
func TestReservedNickUnderEverySpelling(t *testing.T) {
	for _, mapping := range []string{"ascii", "rfc1459"} {
		h := openHouse(t, func(c *Config) { c.CaseMapping = mapping; c.Accounts.Registration = true })
		o := h.dial()
		o.nick = "owner[x]"
		o.send("CAP REQ :draft/account-registration", "NICK owner[x]", "USER o 0 * :o", "REGISTER * * correct-horse-battery", "CAP END")
		o.until(" 376 ")
		o.send("QUIT")
		o.until("ERROR")
		m := h.user("mallory")
		for _, nick := range []string{"owner[x]", "OWNER[X]", "owner{x}", "Owner[x}"} {
			m.send("NICK " + nick)
			if l := m.line(); !has(l, " 433 ") {
				t.Errorf("%s: %s was given away: %q", mapping, nick, l)
				m.send("NICK mallory")
				m.line()
			}
		}
	}
}

var everyCap = []string{"message-tags", "server-time", "batch", "labeled-response", "draft/chathistory", "draft/event-playback", "standard-replies",
	"echo-message", "away-notify", "account-notify", "extended-join", "chghost", "setname", "invite-notify", "multi-prefix", "draft/read-marker",
	"draft/message-redaction", "draft/metadata-2", "extended-monitor", "account-tag", "userhost-in-names"}

// What an outsider, one who was banned and one who has left are told of a secret
// channel is what they are told of one that does not exist, or nothing of it.
func TestSecretChannelTellsOutsidersNothing(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", everyCap...)
	gone, banned, never := h.user("gone", everyCap...), h.user("banned", everyCap...), h.user("never", everyCap...)
	a.join("#hidden")
	for _, c := range []*client{gone, banned} {
		c.join("#hidden")
	}
	gone.send("PART #hidden")
	gone.until(" PART ")
	a.send("MODE #hidden +b banned!*@*", "KICK #hidden banned :out", "MODE #hidden +s", "TOPIC #hidden :tell-tale topic", "PRIVMSG #hidden :tell-tale text",
		"METADATA #hidden SET url :tell-tale-value", "MARKREAD #hidden timestamp=2024-01-01T00:00:00.000Z")
	var id string
	for _, l := range a.sync() {
		if has(l, " PRIVMSG ", "tell-tale") {
			_, id, _ = strings.Cut(l, "msgid=")
			id, _, _ = strings.Cut(strings.FieldsFunc(id, func(r rune) bool { return r == ';' || r == ' ' })[0], ";")
		}
	}
	if len(id) != 26 {
		t.Fatalf("no msgid: %q", id)
	}
	probes := []string{"CHATHISTORY TARGETS timestamp=1970-01-01T00:00:00.000Z timestamp=2100-01-01T00:00:00.000Z 50", "NAMES CH", "TOPIC CH", "TOPIC CH :mine", "MODE CH", "MODE CH +b", "MODE CH b", "MODE CH +k x", "WHO CH", "WHO CH %tcuhnfdlar,1", "WHO alice", "WHOIS alice", "WHOIS alice alice",
		"LIST", "LIST CH", "LIST *hid*", "LIST >0", "KICK CH alice", "INVITE never CH", "PART CH", "CHATHISTORY LATEST CH * 50",
		"CHATHISTORY AROUND CH msgid=ID 10",
		"METADATA CH LIST", "METADATA CH GET url", "METADATA CH SYNC", "METADATA CH SET url x", "MARKREAD CH", "MARKREAD CH timestamp=2024-01-01T00:00:00.000Z",
		"REDACT CH ID :mine", "RENAME CH #other", "@+typing=active TAGMSG CH", "@+draft/react=x;+draft/reply=ID TAGMSG CH", "@+draft/reply=ID PRIVMSG never :hello",
		"CHATHISTORY AROUND alice msgid=ID 10", "CHATHISTORY BETWEEN CH msgid=ID msgid=ID 10", "USERHOST alice", "WHOWAS alice", "MONITOR + alice", "RELAYMSG CH x/y :hi"}
	// That the name is taken shows in these: nobody can found the channel either.
	differs := map[string]bool{"KICK CH alice": true, "INVITE never CH": true, "PART CH": true, "RENAME CH #other": true, "RELAYMSG CH x/y :hi": true}
	for _, c := range []*client{never, gone, banned} {
		c.sync()
		for _, p := range probes {
			ask := func(ch string) string {
				words := strings.Split(strings.ReplaceAll(p, "=ID", "="+id), " ")
				for i, w := range words {
					switch w {
					case "CH":
						words[i] = ch
					case "ID":
						words[i] = id
					}
				}
				c.send(strings.Join(words, " "))
				answer := strings.ReplaceAll(strings.Join(c.sync(), "\n"), ch, "CH")
				return batchRefs.ReplaceAllString(answer, "BATCH")
			}
			got, none := ask("#hidden"), ask("#absent")
			if strings.Contains(got, "tell-tale") || strings.Contains(got, "#hidden") {
				t.Errorf("%s: %s leaks\n%s", c.nick, p, got)
			}
			if got != none && !differs[p] && strings.Contains(p, "CH") {
				t.Errorf("%s: %s tells a secret channel from none:\n%s\n%s", c.nick, p, got, none)
			}
		}
	}
}

var batchRefs = regexp.MustCompile(`BATCH [+-][0-9a-z]+`)

// What only the server may say about a line is not taken from a client.
func TestForgedTags(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", everyCap...)
	m, old := h.user("mallory", everyCap...), h.user("plain")
	for _, c := range []*client{a, m, old} {
		c.join("#c")
	}
	a.sync()
	old.sync()
	m.send("@msgid=forged;time=2001-01-01T00:00:00.000Z;account=alice;bot;batch=1;draft/relaymsg=alice;chat.isthmus.origin=irc;+typing=done PRIVMSG #c :tags")
	got := a.until(" PRIVMSG #c :tags")
	for _, bad := range []string{"forged", "2001-", "account=", "bot", "batch=", "relaymsg", "origin"} {
		if tags, _, _ := strings.Cut(got, " "); strings.Contains(tags, bad) {
			t.Errorf("%s was passed on: %q", bad, got)
		}
	}
	if got := old.until(" PRIVMSG #c :tags"); !strings.HasPrefix(got, ":mallory!") {
		t.Errorf("a client without tags got %q", got)
	}
	m.send(":alice!a@h PRIVMSG #c :prefix")
	if got := a.until("PRIVMSG #c :prefix"); !strings.Contains(got, " :mallory!") {
		t.Errorf("a forged source: %q", got)
	}
}

// With the disk full, whoever says something is told so and may say it again;
// who only reads goes on, and nobody sees what was not stored.
func TestDiskFull(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m,mode=700"); err != nil {
		t.Fatalf("mounting a small disk (it needs root): %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	h := openHouseIn(t, dir, nil)
	a, b := h.user("alice", "standard-replies", "labeled-response", "batch", "echo-message"), h.user("bob")
	a.join("#c")
	b.join("#c")
	a.sync()
	fill := filepath.Join(dir, "fill")
	if err := os.WriteFile(fill, make([]byte, 32<<20), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("filling the disk: %v", err)
	}
	var kept []string
	for refused := 0; refused < 3; { // the database has room of its own, at first
		text := fmt.Sprintf("%d.", len(kept))
		a.send("@label=full PRIVMSG #c :" + text)
		switch got := a.line(); {
		case got == "@label=full :irc.example FAIL PRIVMSG TEMPORARILY_UNAVAILABLE #c :not stored: the database is not available now":
			refused++
		case refused > 0 || len(kept) > 20_000 || !has(got, "@label=full :alice!", "PRIVMSG #c :"+text):
			t.Fatalf("after %d lines and %d refusals: %q", len(kept), refused, got)
		default:
			kept = append(kept, text)
			if got := b.line(); !strings.HasSuffix(got, "PRIVMSG #c :"+text) {
				t.Fatalf("bob saw %q", got)
			}
		}
	}
	b.send("NAMES #c", "PRIVMSG #c :lost too")
	b.until(" 366 ")
	b.expect(":irc.example NOTICE bob :FAIL PRIVMSG TEMPORARILY_UNAVAILABLE…")
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	a.send("PRIVMSG #c :kept")
	a.until("PRIVMSG #c :kept")
	if got := b.line(); !strings.HasSuffix(got, "PRIVMSG #c :kept") {
		t.Errorf("bob saw %q", got)
	}
}

// What was taken back is not quoted to those who came later.
func TestDeletedIsNotQuoted(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", everyCap...)
	a.join("#c")
	a.sync()
	a.send("PRIVMSG #c :regretted")
	id := tagOf(a.until("PRIVMSG #c :regretted"), "msgid")
	a.send("REDACT #c " + id)
	a.until(" REDACT #c " + id)
	b := h.user("bob")
	b.join("#c")
	b.sync()
	a.send("@+draft/react=x;+draft/reply="+id+" TAGMSG #c", "@+draft/reply="+id+" PRIVMSG #c :on second thought")
	a.until("on second thought")
	for _, l := range b.sync() {
		if strings.Contains(l, "regretted") {
			t.Errorf("quoted: %q", l)
		}
	}
	h.srv.world.mu.RLock()
	defer h.srv.world.mu.RUnlock()
	for _, e := range h.srv.recent.by {
		if s, _ := e.Signed(); strings.Contains(string(s.Content), "regretted") {
			t.Error("its text is still in memory, for quotations")
		}
	}
}
