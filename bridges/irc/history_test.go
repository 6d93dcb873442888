package irc

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

var historyCaps = []string{"message-tags", "server-time", "batch", "account-tag", "draft/chathistory"}

// fill puts n messages of nick's user into a channel, in large submissions.
func (h *house) fill(channel, nick string, n int) {
	h.t.Helper()
	w := h.srv.world
	w.mu.RLock()
	u, ch := w.userByNick(nick), w.channelByName(channel)
	w.mu.RUnlock()
	for i := 0; i < n; {
		var es []core.Envelope
		for len(es) < 1000 && i < n {
			e, err := h.srv.convert.Inbound(converter.IRCMessage{Room: ch.room.ID, Sender: u.uri, Name: nick,
				Origin: core.Origin{Network: core.NetworkIRC}, Sent: time.Now(), Seed: fmt.Append(nil, i),
				Lines: []converter.IRCLine{{Text: fmt.Sprintf("message %d, about as long as people write in a channel", i)}}}, converter.NoNames{})
			if err != nil {
				h.t.Fatal(err)
			}
			es = append(es, e)
			i++
		}
		if _, err := h.rt.Submit(context.Background(), es...); err != nil {
			h.t.Fatal(err)
		}
	}
}

// BenchmarkHistoryPage asks for pages of 100 from a store on disk with 100,000
// messages, with 20 clients at once; the load generator is included.
func BenchmarkHistoryPage(b *testing.B) {
	const clients, stored, perPage = 20, 100_000, 100
	h := openHouse(b, func(c *Config) { c.SendQueue = 16 << 20 })
	a := h.user("alice")
	a.join("#h")
	go io.Copy(io.Discard, a.conn)
	h.fill("#h", "alice", stored)
	room := h.srv.roomID("#h")
	cs := make([]*client, clients)
	for i := range cs {
		cs[i] = h.user(fmt.Sprint("c", i), historyCaps...)
		cs[i].join("#h")
	}
	for _, c := range cs {
		c.sync()
	}
	b.ReportAllocs()
	b.ResetTimer()
	began := cpuTime()
	var wg sync.WaitGroup
	for i, c := range cs {
		wg.Go(func() {
			seq := uint64(200 + i*4871)
			for range b.N/clients + 1 {
				seq = 200 + (seq*7919+13)%(stored-300)
				fmt.Fprintf(c.conn, "CHATHISTORY BEFORE #h msgid=%s %d\r\n", core.NewEventID(room, testDomain, seq), perPage)
				for n := 0; n < perPage+2; n++ {
					s, err := c.r.ReadSlice('\n')
					if err != nil || n == 1 && !strings.Contains(string(s), " PRIVMSG #h :message ") {
						b.Errorf("line %d: %q, %v", n, s, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
	lines := float64((b.N/clients + 1) * clients * perPage)
	b.ReportMetric(lines/b.Elapsed().Seconds(), "lines/s")
	b.ReportMetric(float64((cpuTime()-began).Microseconds())/lines, "µs-cpu/line") // of both sides
}

// history asks for a page and returns its lines without the batch around it.
func (c *client) history(command string) []string {
	c.t.Helper()
	c.send("CHATHISTORY " + command)
	start := c.until(" BATCH +")
	ref := strings.Fields(start[strings.Index(start, " BATCH +")+8:])[0]
	var out []string
	for {
		s := c.line()
		if strings.HasSuffix(s, " BATCH -"+ref) {
			return out
		}
		if !strings.HasPrefix(s, "@batch="+ref+";") && !strings.HasPrefix(s, "@batch="+ref+" ") {
			c.t.Fatalf("%s: line outside of its batch: %q", c.nick, s)
		}
		out = append(out, s)
	}
}

// spoken returns the last parameters of lines.
func spoken(lines []string) string {
	var out []string
	for _, l := range lines {
		_, text, _ := strings.Cut(l, " :")
		_, text, _ = strings.Cut(text, " :")
		out = append(out, text)
	}
	return strings.Join(out, ",")
}

// tagOf returns the value of a tag of a line.
func tagOf(line, key string) string {
	tags, _, _ := strings.Cut(strings.TrimPrefix(line, "@"), " ")
	for t := range strings.SplitSeq(tags, ";") {
		if k, v, _ := strings.Cut(t, "="); k == key {
			return v
		}
	}
	return ""
}

// https://ircv3.net/specs/extensions/chathistory, "Subcommands"
func TestHistorySubcommands(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", append(historyCaps, "echo-message")...)
	a.join("#h")
	var id, at [10]string
	for i := range id {
		a.send(fmt.Sprintf("PRIVMSG #h :%d", i))
		s := a.until("PRIVMSG #h")
		id[i], at[i] = tagOf(s, "msgid"), tagOf(s, "time")
		time.Sleep(2 * time.Millisecond) // a time of its own
	}
	b := h.user("bob", historyCaps...)
	b.join("#h")
	for _, c := range []struct{ command, want string }{
		{"LATEST #h * 3", "7,8,9"},
		{"LATEST #h * 1000", "0,1,2,3,4,5,6,7,8,9"},
		{"LATEST #h msgid=" + id[7] + " 100", "8,9"},
		{"LATEST #h msgid=" + id[2] + " 2", "8,9"},
		{"LATEST #H timestamp=" + at[7] + " 100", "8,9"},
		{"BEFORE #h msgid=" + id[3] + " 2", "1,2"},
		{"BEFORE #h timestamp=" + at[3] + " 100", "0,1,2"},
		{"BEFORE #h msgid=" + id[0] + " 5", ""},
		{"AFTER #h msgid=" + id[3] + " 2", "4,5"},
		{"AFTER #h timestamp=" + at[7] + " 100", "8,9"},
		{"AFTER #h msgid=" + id[9] + " 5", ""},
		{"AROUND #h msgid=" + id[5] + " 1", "5"},
		{"AROUND #h msgid=" + id[5] + " 3", "4,5,6"},
		{"AROUND #h msgid=" + id[0] + " 4", "0,1,2,3"},
		{"AROUND #h timestamp=" + at[5] + " 3", "4,5,6"},
		{"BETWEEN #h msgid=" + id[2] + " msgid=" + id[6] + " 100", "3,4,5"},
		{"BETWEEN #h msgid=" + id[2] + " msgid=" + id[6] + " 2", "3,4"},
		{"BETWEEN #h msgid=" + id[6] + " msgid=" + id[2] + " 2", "4,5"},
		{"BETWEEN #h timestamp=" + at[2] + " timestamp=" + at[6] + " 100", "3,4,5"},
		{"BETWEEN #h timestamp=" + at[6] + " msgid=" + id[2] + " 2", "4,5"},
		{"latest #h * 2", "8,9"},
	} {
		if got := spoken(b.history(c.command)); got != c.want {
			t.Errorf("%s: got %s, want %s", c.command, got, c.want)
		}
	}
	page := b.history("LATEST #h * 1")
	if tagOf(page[0], "msgid") != id[9] || tagOf(page[0], "time") != at[9] || !has(page[0], " :alice!~alice@", " PRIVMSG #h :9") {
		t.Errorf("history differs from what was sent live: %q", page[0])
	}
}

// https://ircv3.net/specs/extensions/chathistory, "Errors and Warnings"
func TestHistoryErrors(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", "batch", "standard-replies", "draft/chathistory", "message-tags")
	a.join("#h")
	b := h.user("bob")
	b.join("#other")
	foreign := core.NewEventID(h.srv.roomID("#other"), testDomain, 1).String()
	for _, c := range []struct{ command, want string }{
		{"", "INVALID_PARAMS * :"},
		{"NEAR #h * 5", "INVALID_PARAMS NEAR :"},
		{"LATEST #h *", "INVALID_PARAMS LATEST :"},
		{"LATEST #h * 5 6", "INVALID_PARAMS LATEST :"},
		{"LATEST #h * 0", "INVALID_PARAMS LATEST 0 :"},
		{"LATEST #h * -5", "INVALID_PARAMS LATEST -5 :"},
		{"LATEST #h * 99999999999999999999", "INVALID_PARAMS LATEST "},
		{"BEFORE #h * 5", "INVALID_PARAMS BEFORE * :"},
		{"BEFORE #h timestamp=yesterday 5", "INVALID_PARAMS BEFORE timestamp=yesterday :"},
		{"BEFORE #h timestamp=2026-01-01T00:00:00.000+01:00 5", "INVALID_PARAMS BEFORE "},
		{"BEFORE #h seq=5 5", "INVALID_MSGREFTYPE BEFORE #h :"},
		{"BEFORE #h msgid=nonsense 5", "MESSAGE_ERROR BEFORE #h :"},
		{"BEFORE #h msgid=" + foreign + " 5", "MESSAGE_ERROR BEFORE #h :"},
		{"LATEST #nope * 5", "INVALID_TARGET LATEST #nope :"},
		{"LATEST #other * 5", "INVALID_TARGET LATEST #other :"},
		{"LATEST nobody * 5", "INVALID_TARGET LATEST nobody :"},
		{"LATEST alice * 5", "INVALID_TARGET LATEST alice :"},
		{"TARGETS timestamp=2026-01-01T00:00:00.000Z msgid=x 5", "INVALID_PARAMS TARGETS "},
	} {
		a.send("CHATHISTORY " + c.command)
		if got := a.line(); !strings.HasPrefix(got, ":irc.example FAIL CHATHISTORY "+c.want) {
			t.Errorf("%q: got %q", c.command, got)
		}
	}
	a.silent()
	a.send("CHATHISTORY AFTER #h timestamp=9999-12-31T23:59:59.999Z 5", "CHATHISTORY BEFORE #h timestamp=0001-01-01T00:00:00.000Z 5")
	a.until("BATCH -")
	a.until("BATCH -")
}

// Whoever joins later sees what the room's policy lets them see; outsiders and
// those who left see nothing.
func TestHistoryVisibility(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", historyCaps...)
	a.join("#h")
	a.send("PRIVMSG #h :old", "MODE #h +H")
	a.until("MODE #h +H")
	b := h.user("bob", append(historyCaps, "standard-replies")...)
	b.join("#h")
	a.send("PRIVMSG #h :new")
	a.sync()
	if got := spoken(b.history("LATEST #h * 10")); got != "new" {
		t.Errorf("with +H a newcomer saw %q", got)
	}
	first := a.history("LATEST #h * 10")
	if spoken(first) != "old,new" {
		t.Errorf("an old member saw %q", first)
	}
	b.send("CHATHISTORY AFTER #h msgid=" + tagOf(first[0], "msgid") + " 10")
	b.until("FAIL CHATHISTORY MESSAGE_ERROR AFTER #h")
	for _, cmd := range []string{"BEFORE #h msgid=" + tagOf(first[1], "msgid"), "AROUND #h msgid=" + tagOf(first[1], "msgid"),
		"AFTER #h timestamp=2020-01-01T00:00:00.000Z"} {
		if got := spoken(b.history(cmd + " 10")); strings.Contains(got, "old") {
			t.Errorf("%s went around +H: %q", cmd, got)
		}
	}
	b.send("PART #h", "CHATHISTORY LATEST #h * 10")
	b.until("FAIL CHATHISTORY INVALID_TARGET")
}

// Without draft/event-playback only PRIVMSG and NOTICE; with it what happened.
func TestHistoryEventPlayback(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", append(historyCaps, "echo-message", "draft/message-redaction")...)
	a.join("#h")
	b := h.user("bob")
	b.join("#h")
	b.send("PRIVMSG #h :hi", "NOTICE #h :note", "PRIVMSG #h :\x01ACTION waves\x01")
	id := tagOf(a.until("PRIVMSG #h :hi"), "msgid")
	a.send("@+draft/react=👍;+reply="+id+" TAGMSG #h", "PRIVMSG #h :slip")
	slip := tagOf(a.until("PRIVMSG #h :slip"), "msgid")
	a.send("TOPIC #h :about us", "MODE #h +v bob", "MODE #h +b x!*@*", "REDACT #h "+slip, "KICK #h bob :enough")
	a.until("KICK #h bob")
	plain := a.history("LATEST #h * 20")
	if got := spoken(plain); got != "hi,note,\x01ACTION waves\x01" {
		t.Errorf("without event-playback: %q", got)
	}
	c := h.user("carol", append(historyCaps, "draft/event-playback")...)
	c.join("#h")
	got := c.history("LATEST #h * 20")
	want := []string{" JOIN #h", " JOIN #h", "PRIVMSG #h :hi", "NOTICE #h :note", "ACTION waves", "+draft/react=👍", " TOPIC #h :about us",
		" MODE #h +v bob", " MODE #h +b x!*@*", " KICK #h bob :enough", ":carol!"}
	if len(got) != len(want) {
		t.Fatalf("with event-playback: %q", got)
	}
	for i, w := range want {
		if !strings.Contains(got[i], w) || tagOf(got[i], "msgid") == "" {
			t.Errorf("line %d: %q lacks %q", i, got[i], w)
		}
	}
}

// An edit is shown once, under the ID of what it edits, when both are on a page.
func TestHistoryShowsLatestEdit(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", append(historyCaps, "echo-message")...)
	a.join("#h")
	a.send("PRIVMSG #h :frist")
	id := tagOf(a.until("PRIVMSG"), "msgid")
	h.edit("#h", "alice", id, "first")
	h.edit("#h", "alice", id, "first!")
	a.send("PRIVMSG #h :second")
	a.until("PRIVMSG #h :second")
	for _, cmd := range []string{"LATEST #h * 10", "AFTER #h timestamp=2020-01-01T00:00:00.000Z 10"} {
		page := a.history(cmd)
		if spoken(page) != "first!,second" || tagOf(page[0], "msgid") != id {
			t.Errorf("%s: %q", cmd, page)
		}
	}
	if got := spoken(a.history("LATEST #h * 2")); !strings.Contains(got, "second") || strings.Contains(got, "frist") {
		t.Errorf("a page with the edit but not its target: %q", got)
	}
}

// edit replaces the text of a message as another network's user would.
func (h *house) edit(channel, nick, msgid, text string) {
	h.t.Helper()
	id, err := core.ParseEventID(msgid)
	if err != nil {
		h.t.Fatal(err)
	}
	room := h.srv.roomID(channel)
	h.srv.world.mu.RLock()
	sender := h.srv.world.userByNick(nick).uri
	h.srv.world.mu.RUnlock()
	var e core.Event
	if err := h.rt.View(context.Background(), func(r core.Reader) (err error) { e, err = r.Event(room, id.Seq()); return err }); err != nil {
		h.t.Fatal(err)
	}
	target, _ := converter.MessageIDOf(&e)
	c := converter.Content{Salt: converter.NewSalt([]byte(text)), Replaces: target, Ref: id,
		Part: converter.Part{Disposition: converter.DispositionRender, Cardinality: converter.SinglePart, Type: converter.TypePlain, Body: []byte(text)}}
	env := c.Envelope(core.Envelope{Room: room, Sender: sender, Origin: core.Origin{Network: core.NetworkIRC}, Sent: time.Now()}, nick)
	if rs, err := h.rt.Submit(context.Background(), env); err != nil || rs[0].Err != nil {
		h.t.Fatal(err, rs)
	}
}

// Conversations are found by nick from both sides, and by TARGETS.
func TestHistoryOfConversations(t *testing.T) {
	h := openHouse(t, nil)
	a, b := h.user("alice", historyCaps...), h.user("bob", historyCaps...)
	a.send("PRIVMSG bob :psst", "JOIN #h", "PRIVMSG #h :aloud")
	b.until("PRIVMSG bob :psst")
	a.sync()
	time.Sleep(2 * time.Millisecond) // a later millisecond
	b.send("PRIVMSG alice :yes?")
	a.until("PRIVMSG alice :yes?")
	for _, c := range []*client{a, b} {
		other := map[string]string{"alice": "bob", "bob": "alice"}[c.nick]
		page := c.history("LATEST " + other + " * 10")
		if spoken(page) != "psst,yes?" || !has(page[0], ":alice!", " PRIVMSG bob ") || !has(page[1], ":bob!", " PRIVMSG alice ") {
			t.Errorf("%s: %q", c.nick, page)
		}
	}
	c := h.user("carol", append(historyCaps, "standard-replies")...)
	if got := c.history("LATEST bob * 10"); len(got) != 0 {
		t.Errorf("a third person read %q", got)
	}
	all := "TARGETS timestamp=2020-01-01T00:00:00.000Z timestamp=2099-01-01T00:00:00.000Z "
	if got := a.history(all + "10"); len(got) != 2 || !has(got[0]+got[1], "CHATHISTORY TARGETS bob 2", "CHATHISTORY TARGETS #h 2") {
		t.Errorf("targets: %q", got)
	}
	if got := a.history(all + "1"); len(got) != 1 || !has(got[0], "TARGETS #h") {
		t.Errorf("oldest target: %q", got)
	}
	if got := a.history("TARGETS timestamp=2099-01-01T00:00:00.000Z timestamp=2020-01-01T00:00:00.000Z 1"); len(got) != 1 || !has(got[0], "TARGETS bob") {
		t.Errorf("newest target: %q", got)
	}
	if got := a.history("TARGETS timestamp=2020-01-01T00:00:00.000Z timestamp=2020-02-01T00:00:00.000Z 10"); len(got) != 0 {
		t.Errorf("targets of long ago: %q", got)
	}
}

// The label is on the batch (labeled-response), and multiline messages nest.
func TestHistoryLabelAndMultiline(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", append(historyCaps, "labeled-response", "draft/multiline")...)
	a.join("#h")
	a.send("BATCH +1 draft/multiline #h", "@batch=1 PRIVMSG #h :one", "@batch=1 PRIVMSG #h :two", "BATCH -1")
	a.sync()
	a.send("@label=x CHATHISTORY LATEST #h * 5")
	s := a.line()
	if !strings.HasPrefix(s, "@label=x :irc.example BATCH +") {
		t.Errorf("start: %q", s)
	}
	if s = a.line(); !has(s, "@batch=", " BATCH +", "draft/multiline #h") {
		t.Errorf("nested start: %q", s)
	}
	a.until("PRIVMSG #h :one")
	a.until("PRIVMSG #h :two")
	a.until("BATCH -")
	a.until(":irc.example BATCH -")
	plain := h.user("bob", "draft/chathistory") // nothing else: lines without any tag
	plain.join("#h")
	plain.send("CHATHISTORY LATEST #h * 5")
	plain.expect(":alice!…")
	if s := plain.line(); !strings.HasSuffix(s, " PRIVMSG #h :two") || strings.HasPrefix(s, "@") {
		t.Errorf("plain client: %q", s)
	}
}

// Joins and leaves between messages do not make pages short.
func TestHistoryFillsPages(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", historyCaps...)
	b := h.user("bob")
	a.join("#h")
	for i := range 5 {
		a.send(fmt.Sprint("PRIVMSG #h :", i))
		for range 30 {
			b.send("JOIN #h", "PART #h")
		}
		b.sync()
	}
	a.sync()
	if got := spoken(a.history("LATEST #h * 5")); got != "0,1,2,3,4" {
		t.Errorf("backwards: %q", got)
	}
	if got := spoken(a.history("AFTER #h timestamp=2020-01-01T00:00:00.000Z 5")); got != "0,1,2,3,4" {
		t.Errorf("forwards: %q", got)
	}
}

// Plain clients are shown the last messages on JOIN, if the operator wants it.
func TestReplayOnJoin(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.JoinHistory = 2 })
	a := h.user("alice")
	a.join("#h")
	a.send("PRIVMSG #h :1", "PRIVMSG #h :2", "NOTICE #h :3")
	a.sync()
	b := h.user("bob")
	b.send("JOIN #h")
	b.until(" 366 ")
	if s := b.line(); !has(s, ":alice!", " PRIVMSG #h :[", "] 2") {
		t.Errorf("got %q", s)
	}
	if s := b.line(); !has(s, ":alice!", " NOTICE #h :[", "] 3") {
		t.Errorf("got %q", s)
	}
	b.silent()
	c := h.user("carol", historyCaps...)
	c.send("JOIN #h")
	c.until(" 366 ")
	c.silent()
}

func FuzzParseHistory(f *testing.F) {
	for _, s := range []string{"LATEST #c * 5", "BEFORE #c msgid=abc 5", "BETWEEN #c timestamp=2026-01-01T00:00:00.000Z msgid=laxediizhu74saaaaaaaaamgvu 100",
		"TARGETS timestamp=2026-01-01T00:00:00.000Z timestamp=2026-01-01T00:00:00.000Z 5", "AROUND #c timestamp= 1", "latest  *"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q, fault := parseHistory(strings.Split(s, " "), 100)
		if fault == nil && (q.limit < 1 || q.limit > 100) {
			t.Fatalf("limit %d", q.limit)
		}
		if fault != nil && (fault.code == "" || len(fault.rest) < 2) {
			t.Fatalf("a fault without a context: %+v", fault)
		}
		if fault == nil && !q.from.id.IsZero() && !q.from.at.IsZero() {
			t.Fatal("a reference of two kinds")
		}
	})
}

// A conversation with somebody who is gone is found under the name that TARGETS
// gives it.
func TestHistoryOfThoseWhoAreGone(t *testing.T) {
	h := openHouse(t, nil)
	a, b := h.user("alice", append(historyCaps, "draft/read-marker")...), h.user("bob")
	b.send("PRIVMSG alice :remember me", "QUIT")
	b.until("ERROR")
	a.until("PRIVMSG alice :remember me")
	targets := a.history("TARGETS timestamp=2020-01-01T00:00:00.000Z timestamp=2099-01-01T00:00:00.000Z 5")
	if len(targets) != 1 {
		t.Fatalf("targets: %q", targets)
	}
	name := strings.Fields(targets[0])[4]
	if page := a.history("LATEST " + name + " * 5"); spoken(page) != "remember me" {
		t.Errorf("%s: %q", name, page)
	}
	a.send("MARKREAD " + name + " timestamp=2026-01-01T00:00:00.000Z")
	a.expect(":irc.example MARKREAD " + name + " timestamp=2026-01-01T00:00:00.000Z")
}
