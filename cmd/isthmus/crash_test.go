package main

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

const (
	crashes      = 200
	crashSenders = 3
	crashDomain  = "crash.test"
	crashSeed    = 1 // of the moments of the kills
)

// A crashRig is a server that is killed again and again, and all that anybody
// was told it had taken.
type crashRig struct {
	*rig
	hs   *synapse
	room string // the Matrix room that #linked is linked to

	mu    sync.Mutex
	acked []ack
}

// An ack is one message whose sender saw its echo, or its 200.
type ack struct {
	msgid   string // "" if only the text is known
	channel string
	text    string
}

// TestKillNine kills the server 200 times at random moments under load, from IRC
// and from a homeserver's transactions at once. Everything that was
// acknowledged must be in the log exactly once and in its sender's order, and
// what was said in the linked channel must be in the Matrix room once.
//
// Two channels: #crash takes as much as IRC clients can say; #linked takes what a
// homeserver can carry on while it is judged, and the transactions.
func TestKillNine(t *testing.T) {
	hs := newSynapse(t, "hs.test")
	c := newCrashRig(t, hs)
	chance := rand.New(rand.NewPCG(crashSeed, crashSeed))
	seen := 0
	for i := range crashes {
		stop := c.start()
		if i == 0 {
			hs.start()
			c.link()
		}
		var load sync.WaitGroup
		for s := range crashSenders {
			load.Go(func() { c.talk(fmt.Sprintf("s%d", s), "#crash", i, 1<<30) })
		}
		load.Go(func() { c.talk("far", "#linked", i, 8) })
		load.Go(func() { c.push(i) })
		time.Sleep(time.Duration(30+chance.IntN(120)) * time.Millisecond)
		stop(syscall.SIGKILL)
		load.Wait()
		if n := len(c.acked); i%50 == 49 {
			if n == seen {
				t.Fatal("fifty rounds and nothing was acknowledged")
			}
			t.Logf("%d kills, %d messages acknowledged", i+1, n)
			seen = n
		}
	}
	stop := c.start()
	c.checkFarSide()
	stop(syscall.SIGTERM)
	c.checkLog("crash")
	c.checkLog("linked")
}

func newCrashRig(t *testing.T, hs *synapse) *crashRig {
	c := &crashRig{rig: newRig(t), hs: hs}
	c.configure(fmt.Sprintf(`
domain: %s
log: {level: error}
irc:
  listeners: [{name: plain, address: %q}]
  limits: {per_address: 1000, connect_burst: 100000, connect_interval: 1ms, command_burst: 100000, command_interval: 1us}
matrix:
  - {name: hs, server: hs.test, url: %q, listen_url: "http://%s", as_token: %s, hs_token: %s}
`, crashDomain, c.irc, hs.url, c.http, strings.Repeat("a", 32), strings.Repeat("h", 32)))
	hs.register(c.run("registration", "matrix"))
	return c
}

// talk is one IRC client that says most messages, or as many as it can until the
// server is gone.
func (c *crashRig) talk(nick, channel string, round, most int) {
	conn, err := net.Dial("tcp", c.irc)
	if err != nil {
		return // killed before it listened
	}
	defer conn.Close()
	if nick == "far" {
		fmt.Fprintf(conn, "PASS far:password-of-far\r\n")
	}
	fmt.Fprintf(conn, "CAP REQ :echo-message message-tags\r\nNICK %s\r\nUSER u 0 * :u\r\nCAP END\r\nJOIN %s\r\n", nick, channel)
	go func() {
		for n := range most {
			if _, err := fmt.Fprintf(conn, "PRIVMSG %s :%s %d %d\r\n", channel, nick, round, n); err != nil {
				return
			}
			if n%8 == 7 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for in := bufio.NewScanner(conn); in.Scan(); {
		tags, rest, ok := strings.Cut(in.Text(), " :"+nick+"!")
		_, text, said := strings.Cut(rest, " PRIVMSG "+channel+" :")
		if !ok || !said {
			continue
		}
		_, id, _ := strings.Cut(tags, "msgid=")
		id, _, _ = strings.Cut(id, ";")
		c.note(ack{msgid: id, channel: channel, text: text})
	}
}

func (c *crashRig) note(a ack) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = append(c.acked, a)
}

// link joins #linked to a room that a Matrix user made.
func (c *crashRig) link() {
	c.t.Helper()
	c.room = c.hs.createRoom("@isthmus:hs.test")
	c.feed("password-of-far\n", "account", "add", "far") // an account, so that it has one ghost
	c.run("room", "create", "#linked")
	c.run("link", "add", "#linked", "--matrix", c.room)
}

// push is the homeserver once more, as only so the 200 can be seen: it sends a transaction, and until it is answered 200 it
// sends the same one again with more events in it.
func (c *crashRig) push(round int) {
	sent := 0
	for txn := 0; ; txn++ {
		var events []string
		for range 1 + txn%4 {
			events = append(events, c.matrixMessage(round, sent))
			sent++
		}
		body := `{"events":[` + strings.Join(events, ",") + `]}`
		url := fmt.Sprintf("http://%s/_matrix/app/v1/transactions/%d-%d", c.http, round, txn)
		for range 2 { // a repetition must change nothing
			req, err := http.NewRequest(http.MethodPut, url, strings.NewReader(body))
			if err != nil {
				c.t.Error(err)
				return
			}
			req.Header.Set("Authorization", "Bearer "+strings.Repeat("h", 32))
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return
			}
			resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return
			}
		}
		for i := range events {
			c.note(ack{channel: "#linked", text: fmt.Sprintf("mx %d %d", round, sent-len(events)+i)})
		}
	}
}

func (c *crashRig) matrixMessage(round, n int) string {
	return fmt.Sprintf(`{"type":"m.room.message","event_id":"$%d-%d","room_id":%q,"sender":"@mx:hs.test",`+
		`"origin_server_ts":1800000000000,"content":{"msgtype":"m.text","body":"mx %d %d"}}`, round, n, c.room, round, n)
}

// checkFarSide waits until the Matrix room has everything that was acknowledged
// in the linked channel, and looks for anything that is there twice.
func (c *crashRig) checkFarSide() {
	c.t.Helper()
	var got []string
	missing := ""
	for still := 0; still < 60; still++ { // half a minute without a new one is an end
		before := len(got)
		got = c.hs.texts(c.room)
		if missing = firstMissing(c.acked, got); missing == "" {
			break
		}
		if len(got) > before {
			still = 0
		}
		time.Sleep(500 * time.Millisecond)
	}
	if missing != "" {
		c.t.Fatalf("%q was acknowledged and never reached the Matrix room, which has %d messages", missing, len(got))
	}
	seen, lastRound, lastN := map[string]bool{}, -1, -1
	for _, text := range got {
		var from string
		var round, n int
		fmt.Sscan(text, &from, &round, &n)
		if from != "far" {
			continue
		}
		if seen[text] || round < lastRound || round == lastRound && n < lastN {
			c.t.Fatalf("%q is in the Matrix room twice, or out of order", text)
		}
		seen[text], lastRound, lastN = true, round, n
	}
	if len(seen) == 0 {
		c.t.Fatal("nothing was said in the linked channel")
	}
	c.t.Logf("%d messages in the Matrix room, each once and in order", len(seen))
}

// firstMissing returns a message from IRC that was acknowledged and is not in got.
func firstMissing(acked []ack, got []string) string {
	have := map[string]bool{}
	for _, t := range got {
		have[t] = true
	}
	for _, a := range acked {
		if strings.HasPrefix(a.text, "far ") && !have[a.text] {
			return a.text
		}
	}
	return ""
}

// checkLog opens the database that 200 crashes left behind.
func (c *crashRig) checkLog(name string) {
	c.t.Helper()
	ctx := context.Background()
	file := filepath.Join(c.dir, "data", "isthmus.db")
	db, err := store.Open(ctx, store.Options{URL: "sqlite:" + file, Homeserver: crashDomain})
	if err != nil {
		c.t.Fatal(err)
	}
	byText, last := map[string]core.EventID{}, map[string]string{}
	err = db.View(ctx, func(r core.Reader) error {
		for after := uint64(0); ; {
			events, err := r.Events(core.NewRoomID(crashDomain, name), core.Range{After: after, Limit: 1000})
			if err != nil || len(events) == 0 {
				return err
			}
			for i := range events {
				after++
				c.checkEvent(&events[i], after, byText, last)
			}
		}
	})
	if err != nil {
		c.t.Fatal(err)
	}
	for _, a := range c.acked {
		if a.channel != "#"+name {
			continue
		}
		id, ok := byText[a.text]
		if !ok || a.msgid != "" && id.String() != a.msgid {
			c.t.Errorf("acknowledged and not in the log: %+v", a)
		}
	}
	c.t.Logf("#%s: %d messages in the log; all that were acknowledged are among them", name, len(byText))
	if err := db.Close(); err != nil {
		c.t.Error(err)
	}
	if err := store.Check(ctx, file); err != nil {
		c.t.Error(err)
	}
}

// checkEvent holds one event to what is true of every log: dense, each text
// once, each sender's in the order said.
func (c *crashRig) checkEvent(e *core.Event, seq uint64, byText map[string]core.EventID, last map[string]string) {
	c.t.Helper()
	if e.Seq != seq {
		c.t.Fatalf("the log has a gap at %d", seq)
	}
	s, ok := e.Signed()
	if !ok || s.ContentType != core.ContentMIMI {
		return
	}
	content, err := converter.ParseContent(s.Content)
	if err != nil {
		c.t.Fatal(err)
	}
	text := string(content.Part.Body)
	if _, twice := byText[text]; twice {
		c.t.Fatalf("%q is in the log twice", text)
	}
	byText[text] = e.ID
	var from string
	var round, n, lastRound, lastN int
	fmt.Sscan(text, &from, &round, &n)
	fmt.Sscan(last[from], &from, &lastRound, &lastN)
	if _, before := last[from]; before && (round < lastRound || round == lastRound && n <= lastN) {
		c.t.Fatalf("%q came after %q", text, last[from])
	}
	last[from] = text
}
