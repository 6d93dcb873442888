package irc

import (
	"context"
	"crypto/rand"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// tokenFor makes an account and returns what PASS takes.
func (h *house) tokenFor(name string) string {
	h.t.Helper()
	token, stored, err := NewToken(rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	h.putAccount(core.Account{Name: name, Fold: AccountKey(name), Tokens: []string{stored}})
	return name + ":" + token
}

// login connects and registers with an account.
func (h *house) login(pass string, caps ...string) *client {
	h.t.Helper()
	c := h.dial()
	c.send("PASS " + pass)
	nick, _, _ := strings.Cut(pass, ":")
	c.register(nick, caps...)
	return c
}

// https://ircv3.net/specs/extensions/multiline
func TestMultiline(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", "batch", "draft/multiline", "message-tags", "labeled-response", "echo-message")
	b := h.user("bob", "batch", "draft/multiline", "message-tags")
	c := h.user("carol")
	for _, x := range []*client{a, b, c} {
		x.join("#m")
	}
	a.sync()
	b.sync()
	a.send("@label=L BATCH +1 draft/multiline #m", "@batch=1 PRIVMSG #m hello", "@batch=1 PRIVMSG #m :", "PONG x",
		"@batch=1 PRIVMSG #m :how is ", "@batch=1;draft/multiline-concat PRIVMSG #m :everyone?", "BATCH -1")
	start := a.line()
	if !has(start, "label=L", "msgid=", " BATCH +", " draft/multiline #m") {
		t.Errorf("echo: %q", start)
	}
	for i, want := range []string{" PRIVMSG #m :hello", " PRIVMSG #m :", " PRIVMSG #m :how is everyone?"} {
		if s := b.until("PRIVMSG"); !strings.HasSuffix(s, want) || !strings.HasPrefix(s, "@batch=") || tagOf(s, "msgid") != "" {
			t.Errorf("line %d: %q", i, s)
		}
	}
	b.until(" BATCH -")
	c.until("PRIVMSG #m :hello")
	if s := c.line(); !strings.HasSuffix(s, " PRIVMSG #m :how is everyone?") { // no blank line for plain clients
		t.Errorf("fallback: %q", s)
	}
	a.sync()
	a.send("BATCH +2 draft/multiline #m", "@batch=2 NOTICE #m :n1", "@batch=2 NOTICE #m :n2", "BATCH -2")
	c.until("NOTICE #m :n1")
	c.until("NOTICE #m :n2")
}

// Hostile and broken batches: each has its FAIL, nothing is said, and the session
// goes on (https://ircv3.net/specs/extensions/client-batch, "Errors").
func TestMultilineErrors(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.MultiLines, c.MultiBytes = 3, 40 })
	a := h.user("alice", "batch", "draft/multiline", "message-tags", "standard-replies")
	b := h.user("bob")
	a.join("#m")
	b.join("#m")
	a.sync()
	open := "BATCH +r draft/multiline #m"
	for _, c := range []struct {
		want  string
		lines []string
	}{
		{"MULTILINE_MAX_LINES 3 :", []string{open, "@batch=r PRIVMSG #m 1", "@batch=r PRIVMSG #m 2", "@batch=r PRIVMSG #m 3", "@batch=r PRIVMSG #m 4", "@batch=r PRIVMSG #m 5", "BATCH -r"}},
		{"MULTILINE_MAX_BYTES 40 :", []string{open, "@batch=r PRIVMSG #m :" + strings.Repeat("x", 20), "@batch=r PRIVMSG #m :" + strings.Repeat("x", 20), "BATCH -r"}},
		{"MULTILINE_INVALID_TARGET #m #n :", []string{open, "@batch=r PRIVMSG #n 1", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{open, "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{open, "@batch=r PRIVMSG #m :", "@batch=r PRIVMSG #m :", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{open, "@batch=r PRIVMSG #m :a", "@batch=r;draft/multiline-concat PRIVMSG #m :", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{open, "@batch=r;draft/multiline-concat PRIVMSG #m :a", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{open, "@batch=r PRIVMSG #m :a", "@batch=r NOTICE #m :b", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{open, "@batch=r JOIN #x", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{open, "@batch=r BATCH +s draft/multiline #m", "@batch=s PRIVMSG #m :x", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{open, "PRIVMSG #m :outside", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{open, "@batch=q PRIVMSG #m :wrong ref", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{"BATCH -r"}},
		{"MULTILINE_INVALID :", []string{"BATCH +r draft/multiline", "BATCH -r"}},
		{"MULTILINE_INVALID :", []string{"BATCH +r draft/multiline #m,#n", "BATCH -r"}},
		{"UNKNOWN_TYPE r netjoin :", []string{"BATCH +r netjoin #m", "@batch=r PRIVMSG #m :x", "BATCH -r"}},
		{"INVALID_REFTAG", []string{"BATCH +r! draft/multiline #m"}},
		{"INVALID_REFTAG", []string{"BATCH +" + strings.Repeat("r", 65) + " draft/multiline #m"}},
		{"INVALID_REFTAG r :", []string{"BATCH r"}},
	} {
		a.send(c.lines...)
		if got := a.line(); !strings.HasPrefix(got, ":irc.example FAIL BATCH "+c.want) {
			t.Errorf("%q: got %q", c.lines, got)
		}
		if rest := a.sync(); len(rest) > 0 {
			t.Errorf("%q: more than one answer: %q", c.lines, rest)
		}
	}
	b.silent()
	a.send("PRIVMSG #m :still here")
	b.until("PRIVMSG #m :still here")
	b.send("BATCH +1 draft/multiline #m") // without the capability
	b.expect(":irc.example 421 bob BATCH :Unknown command")
}

// A batch that stays open is given up, with all that still comes for it
// (https://ircv3.net/specs/extensions/client-batch, "Errors").
func TestMultilineTimeout(t *testing.T) {
	srv := New(Defaults(testDomain), nil)
	s := &session{srv: srv, reg: &registration{}}
	s.setCaps(capMultiline | capBatch | capStandardReplies)
	s.batch = &openBatch{ref: "r", target: "#m", since: time.Now().Add(-batchTimeout - time.Second)}
	late := &line{tags: []tag{{"batch", "r"}}, command: "PRIVMSG", params: []string{"#m", "late"}}
	if !s.inBatch(late) || !s.inBatch(late) || strings.Count(string(s.out), "FAIL BATCH TIMEOUT r :") != 1 {
		t.Errorf("answer: %q", s.out)
	}
	if s.inBatch(&line{command: "PRIVMSG", params: []string{"#m", "free"}}) || s.batch != nil {
		t.Error("the next message still belongs to the batch")
	}
}

// https://ircv3.net/specs/extensions/message-redaction
func TestRedact(t *testing.T) {
	h := openHouse(t, nil)
	caps := []string{"message-tags", "echo-message", "draft/message-redaction", "standard-replies"}
	a, b := h.user("alice", caps...), h.user("bob", caps...)
	c := h.user("carol")
	for _, x := range []*client{a, b, c} {
		x.join("#r")
	}
	a.sync()
	say := func(x *client, text string) string {
		x.send("PRIVMSG #r :" + text)
		return tagOf(x.until("PRIVMSG #r :"+text), "msgid")
	}
	id := say(b, "oops")
	b.send("REDACT #r " + id + " :typo")
	if s := b.until(" REDACT #r "); !has(s, ":bob!", id+" :typo", "msgid=") {
		t.Errorf("echo: %q", s)
	}
	a.until(" REDACT #r " + id + " :typo")
	for _, s := range c.sync() {
		if strings.Contains(s, "REDACT") {
			t.Errorf("a client without the capability got %q", s)
		}
	}
	b.send("REDACT #r " + id)
	b.until("FAIL REDACT UNKNOWN_MSGID #r " + id)
	mine := say(a, "mine")
	b.until(mine)
	b.send("REDACT #r " + mine)
	b.until("FAIL REDACT REDACT_FORBIDDEN #r " + mine)
	theirs := say(b, "rude")
	a.send("REDACT #r " + theirs) // alice is the owner
	b.until(" REDACT #r " + theirs)
	b.send("REDACT #r nonsense", "REDACT #nope "+mine, "REDACT nobody "+mine, "REDACT #r", "PART #r", "REDACT #r "+mine)
	b.until("FAIL REDACT UNKNOWN_MSGID #r nonsense")
	b.until("FAIL REDACT INVALID_TARGET #nope")
	b.until("FAIL REDACT INVALID_TARGET nobody")
	b.until(" 461 bob REDACT ")
	b.until("FAIL REDACT INVALID_TARGET #r")
	c.send("REDACT #r " + mine)
	c.until(" 421 carol REDACT ")
	a.send("PRIVMSG bob :secret")
	dm := tagOf(b.until("PRIVMSG bob :secret"), "msgid")
	a.until("PRIVMSG bob :secret")
	b.send("REDACT alice " + dm)
	b.until("FAIL REDACT REDACT_FORBIDDEN alice")
	a.send("REDACT bob " + dm)
	b.until(" REDACT bob " + dm)
	var e core.Event
	room := h.srv.roomID("#r")
	eid, _ := core.ParseEventID(id)
	if err := h.rt.View(context.Background(), func(r core.Reader) (err error) { e, err = r.Event(room, eid.Seq()); return err }); err != nil || !e.Deleted {
		t.Errorf("the bytes are still there: %v %v", e.Deleted, err)
	}
}

// https://ircv3.net/specs/extensions/read-marker
func TestReadMarker(t *testing.T) {
	dir := t.TempDir()
	h := openHouseIn(t, dir, nil)
	pass := h.tokenFor("alice")
	caps := []string{"draft/read-marker", "standard-replies"}
	a, a2 := h.login(pass, caps...), h.login(pass, caps...)
	a.send("JOIN #r")
	a.until(" JOIN #r")
	a.expect(":irc.example MARKREAD #r *")
	a.until(" 366 ")
	a2.until(" JOIN #r")
	a2.expect(":irc.example MARKREAD #r *")
	a.send("MARKREAD #r timestamp=2026-01-02T03:04:05.678Z")
	for _, c := range []*client{a, a2} {
		c.expect(":irc.example MARKREAD #r timestamp=2026-01-02T03:04:05.678Z")
	}
	a2.send("MARKREAD #r timestamp=2025-01-01T00:00:00.000Z", "MARKREAD #r")
	a2.expect(":irc.example MARKREAD #r timestamp=2026-01-02T03:04:05.678Z") // it only increases
	a2.expect(":irc.example MARKREAD #r timestamp=2026-01-02T03:04:05.678Z")
	a.silent()
	a.send("MARKREAD #r timestamp=9999-01-01T00:00:00.000Z") // nobody has read the future
	s := a.until("MARKREAD #r timestamp=")
	at, ok := parseTime(s[strings.Index(s, "timestamp=")+10:])
	if !ok || time.Since(at) > time.Minute || time.Until(at) > 0 {
		t.Errorf("clamped to %q", s)
	}
	a.send("MARKREAD", "MARKREAD #nope", "MARKREAD #r *", "MARKREAD #r timestamp=x", "MARKREAD #r "+s[strings.Index(s, "timestamp="):]+" x", "MARKREAD nobody")
	a.expect(":irc.example FAIL MARKREAD NEED_MORE_PARAMS :Missing parameters")
	a.until("FAIL MARKREAD INVALID_PARAMS #nope")
	a.until("FAIL MARKREAD INVALID_PARAMS #r *")
	a.until("FAIL MARKREAD INVALID_PARAMS #r timestamp=x")
	a.until("FAIL MARKREAD INVALID_PARAMS #r ")
	a.expect(":irc.example MARKREAD nobody *")
	b := h.user("bob", caps...) // a guest's are their own, and are not alice's
	b.send("JOIN #r")
	b.until(" JOIN #r")
	b.expect(":irc.example MARKREAD #r *")
	b.until(" 366 ")
	b.send("MARKREAD alice timestamp=2026-01-01T00:00:00.000Z")
	b.expect(":irc.example MARKREAD alice timestamp=2026-01-01T00:00:00.000Z")
	h.close()
	h = openHouseIn(t, dir, nil)
	a = h.login(pass, caps...)
	a.send("JOIN #r")
	a.until(s[strings.Index(s, "MARKREAD"):]) // kept for the account
	c := h.user("carol")
	c.send("MARKREAD #r")
	c.until(" 421 carol MARKREAD ")
}

// https://ircv3.net/specs/extensions/monitor and extended-monitor
func TestMonitor(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.Monitor = 3 })
	a := h.user("alice", "extended-monitor", "away-notify", "setname", "account-notify", "chghost")
	b := h.user("bob")
	a.send("MONITOR + BOB,carol")
	a.expect(":irc.example 730 alice :bob!~bob@…")
	a.expect(":irc.example 731 alice :carol")
	c := h.user("carol")
	a.expect(":irc.example 730 alice :carol!~carol@…")
	b.send("AWAY :lunch", "SETNAME :Bob the Great", "NICK rob")
	a.expect(":bob!…")
	a.until("SETNAME :Bob the Great")
	a.expect(":irc.example 731 alice :bob")
	b.send("NICK bob")
	a.expect(":irc.example 730 alice :bob!…")
	a.send("MONITOR L", "MONITOR S", "MONITOR + dave,erin", "MONITOR - carol", "MONITOR - nobody", "MONITOR + bad!nick,*")
	a.expect(":irc.example 732 alice :BOB,carol")
	a.expect(":irc.example 733 alice :End of MONITOR list")
	a.expect(":irc.example 730 alice :bob!…")
	a.expect(":irc.example 734 alice 3 erin :Monitor list is full")
	a.expect(":irc.example 731 alice :dave")
	c.send("QUIT")
	c.until("ERROR")
	a.silent() // not monitored any more
	b.send("QUIT")
	a.expect(":irc.example 731 alice :bob")
	a.send("MONITOR C", "MONITOR L", "MONITOR X", "MONITOR")
	a.expect(":irc.example 733 alice :End of MONITOR list")
	a.expect(":irc.example 461 alice MONITOR :Unknown MONITOR command")
	a.expect(":irc.example 461 alice MONITOR :Not enough parameters")
	h.user("bob")
	a.silent()
	h.srv.world.mu.RLock()
	left := len(h.srv.world.watch)
	h.srv.world.mu.RUnlock()
	if left != 0 {
		t.Errorf("%d nicks still watched by nobody", left)
	}
}

// RFC 2812 §3.6.1 and https://ircv3.net/specs/extensions/whox
func TestWho(t *testing.T) {
	h := openHouse(t, nil)
	pass := h.tokenFor("alice")
	a, b := h.login(pass), h.user("bob")
	a.join("#w")
	b.join("#w")
	a.send("JOIN #secret", "MODE #secret +s", "AWAY :x")
	a.sync()
	b.send("MODE bob +B", "WHO #w")
	b.until(" MODE bob +B")
	b.until(" 352 bob #w ~alice ", " irc.example alice G~ :0 Real alice")
	b.until(" 352 bob #w ~bob ", " irc.example bob HB :0 Real bob")
	b.expect(":irc.example 315 bob #w :End of WHO list")
	b.send("WHO #w %tcuihsnfdlaor,042")
	b.until(" 354 bob 042 #w ~alice 255.255.255.255 ", " irc.example alice G~ 0 ", " alice ", " :Real alice") // between them: seconds idle
	b.until(" 315 ")
	b.send("WHO alice %na", "WHO ALICE", "WHO ali*", "WHO #secret", "WHO nobody", "WHO * o", "WHO alice %zzz")
	b.expect(":irc.example 354 bob alice alice")
	b.until(" 315 ")
	b.until(" 352 bob #w ~alice ")
	b.until(" 315 bob ALICE ")
	b.until(" 352 ", " alice ")
	b.until(" 315 ")
	for _, mask := range []string{"#secret", "nobody", "*"} {
		b.expect(":irc.example 315 bob " + mask + " :End of WHO list")
	}
	b.expect(":irc.example 354 bob")
	b.until(" 315 ")
	b.send("WHOIS alice", "WHOIS x bob", "WHOIS", "WHOIS nobody")
	b.expect(":irc.example 311 bob alice ~alice alice.isthmus.user * :Real alice")
	b.expect(":irc.example 319 bob alice :~#w")
	b.expect(":irc.example 312 bob alice irc.example :Isthmus")
	b.expect(":irc.example 301 bob alice :x")
	b.expect(":irc.example 330 bob alice alice :is logged in as")
	b.expect(":irc.example 317 bob alice …")
	b.expect(":irc.example 318 bob alice :End of /WHOIS list")
	b.until(" 335 bob bob ")
	b.until(" 318 ")
	b.until(" 431 ")
	b.until(" 401 bob nobody ")
	a.send("WHOIS alice")
	if s := a.until(" 319 "); !has(s, "~#secret", "~#w") {
		t.Errorf("own WHOIS: %q", s)
	}
	b.send("NICK rob", "WHOWAS bob", "WHOWAS nobody")
	b.until(" 314 rob bob ~bob ")
	b.until(" 369 rob bob ")
	b.until(" 406 rob nobody ")
	b.until(" 369 ")
}

// The ring of WHOWAS is bounded, and the latest comes first.
func TestPastNicks(t *testing.T) {
	var p pastNicks
	for i := range 2000 {
		p.add(core.Profile{Name: "Nick", Ident: strconv.Itoa(i)})
	}
	got := p.find(foldASCII, "nICK", 3)
	if len(got) != 3 || got[0].profile.Ident != "1999" || got[2].profile.Ident != "1997" {
		t.Errorf("%+v", got)
	}
	if got := p.find(foldASCII, "nick", 10_000); len(got) != len(p.ring) {
		t.Errorf("%d entries", len(got))
	}
}

// https://github.com/ircv3/ircv3-specifications/pull/417
func TestRelaymsg(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("bot", "message-tags", "echo-message", "draft/relaymsg", "standard-replies")
	b := h.user("bob", "message-tags", "batch", "draft/chathistory", "server-time")
	c := h.user("carol")
	for _, x := range []*client{a, b, c} {
		x.join("#r")
	}
	a.send("RELAYMSG #r smt/discord :hello over there")
	a.until(":smt/discord!~bot@", " PRIVMSG #r :hello over there")
	s := b.until(" PRIVMSG #r ")
	if !has(s, ":smt/discord!~bot@") || tagOf(s, "draft/relaymsg") != "bot" {
		t.Errorf("got %q", s)
	}
	c.until(":smt/discord!~bot@", " PRIVMSG #r :hello over there")
	if page := b.history("LATEST #r * 5"); len(page) != 1 || !has(page[0], ":smt/discord!~bot@") || tagOf(page[0], "draft/relaymsg") != "bot" {
		t.Errorf("history: %q", page)
	}
	for _, x := range [][2]string{{"smt :x", "INVALID_NICK smt"}, {"/d :x", "INVALID_NICK"}, {"a/ :x", "INVALID_NICK"}, {"a!b/d :x", "INVALID_NICK"},
		{"a/d@e :x", "INVALID_NICK"}, {strings.Repeat("a", 40) + "/d :x", "INVALID_NICK"}, {"a/d : ", "BLANK_MSG"}} {
		a.send("RELAYMSG #r " + x[0])
		a.until("FAIL RELAYMSG " + x[1])
	}
	a.send("RELAYMSG #nope a/d :x", "RELAYMSG #r a/d")
	a.until(" 403 bot #nope")
	a.until(" 461 bot RELAYMSG")
	b.send("RELAYMSG #r a/d :x")
	b.until("RELAYMSG PRIVS_NEEDED")
	c.silent()
}

// https://ircv3.net/specs/extensions/channel-rename
func TestRename(t *testing.T) {
	dir := t.TempDir()
	h := openHouseIn(t, dir, nil)
	a := h.user("alice", "draft/channel-rename", "standard-replies")
	b, c := h.user("bob"), h.user("carol", "draft/channel-rename", "standard-replies")
	a.send("JOIN #old", "TOPIC #old :the topic")
	a.until(" TOPIC ")
	b.join("#old")
	h.user("dave").join("#other")
	a.sync()
	b.send("RENAME #old #x")
	b.until(" 482 bob #old")
	a.send("RENAME #old #Old :case")
	a.until(":alice!", " RENAME #old #Old :case")
	b.silent() // only the case changed
	a.send("RENAME #old #new :typo fix")
	a.until(" RENAME #Old #new :typo fix")
	b.until(":bob!", " PART #Old :typo fix")
	b.until(":bob!", " JOIN #new")
	b.until(" 332 bob #new :the topic")
	b.until(" 353 bob = #new :")
	b.until(" 366 bob #new")
	b.send("PRIVMSG #new :works")
	a.until("PRIVMSG #new :works")
	for _, x := range [][2]string{{"#new #other", "CHANNEL_NAME_IN_USE #new #other"}, {"#new new", "CANNOT_RENAME #new new"}, {"#new #" + strings.Repeat("x", 80), "CANNOT_RENAME"}} {
		a.send("RENAME " + x[0])
		a.until("FAIL RENAME " + x[1])
	}
	a.send("RENAME #gone #x", "RENAME #other #x", "RENAME #new")
	a.until(" 403 alice #gone")
	a.until(" 442 alice #other")
	a.until(" 461 alice RENAME")
	c.send("JOIN #old")
	c.until("FAIL JOIN CHANNEL_RENAMED #old #new")
	d := h.user("erin")
	d.send("JOIN #old")
	d.until(" 470 erin #old #new")
	d.until(":erin!", " JOIN #new")
	d.until(" 366 erin #new")
	d.send("RENAME #new #x")
	d.until(" 482 ")
	h.close()
	h = openHouseIn(t, dir, nil) // the name lasts
	b = h.user("bob")
	b.send("JOIN #old")
	b.until(" 470 bob #old #new")
	b.until(" 332 bob #new :the topic")
}

// https://ircv3.net/specs/extensions/pre-away, and several clients of one user
func TestAwayOfSeveralClients(t *testing.T) {
	h := openHouse(t, nil)
	pass := h.tokenFor("alice")
	w := h.user("watcher", "away-notify")
	w.join("#a")
	a := h.login(pass, "draft/pre-away")
	a.join("#a")
	w.until("JOIN #a")
	b := h.dial()
	b.send("PASS "+pass, "CAP LS 302", "CAP REQ draft/pre-away", "AWAY *", "NICK alice", "USER a 0 * :a", "CAP END")
	b.until(" 306 ")
	b.until(" 376 ")
	w.silent()
	a.send("AWAY :lunch")
	a.until(" 306 ")
	w.expect(":alice!~alice@alice.isthmus.user AWAY :lunch")
	b.send("AWAY")
	b.until(" 305 ")
	w.expect(":alice!~alice@alice.isthmus.user AWAY")
	b.send("QUIT")
	b.until("ERROR")
	w.expect(":alice!~alice@alice.isthmus.user AWAY :lunch")
	c := h.dial()
	c.send("AWAY :x")
	c.until(" 451 ")
}

// https://ircv3.net/specs/client-tags/react, reply, typing, channel-context
func TestClientTags(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", "message-tags", "echo-message", "standard-replies")
	b := h.user("bob", "message-tags")
	c := h.user("carol")
	for _, x := range []*client{a, b, c} {
		x.join("#t")
	}
	a.sync()
	b.sync()
	c.sync()
	a.send("PRIVMSG #t :hello")
	id := tagOf(a.until("PRIVMSG"), "msgid")
	b.until("PRIVMSG")
	c.until("PRIVMSG")
	for _, key := range []string{"+reply", "+draft/reply"} {
		a.send("@" + key + "=" + id + " PRIVMSG #t :re")
		s := b.until("PRIVMSG #t :re")
		if tagOf(s, "+reply") != id || tagOf(s, "+draft/reply") != id {
			t.Errorf("reply by %s: %q", key, s)
		}
		c.until("PRIVMSG #t :")
	}
	b.send("@+typing=active TAGMSG #t", "@+typing=bogus TAGMSG #t", "@+other=1 TAGMSG #t", "@+draft/react=ok;+reply="+id+" TAGMSG #t",
		"@+draft/unreact=ok;+reply="+id+" TAGMSG #t")
	a.until("@+typing=active :bob!", " TAGMSG #t")
	if s := a.until("TAGMSG"); tagOf(s, "+draft/react") != "ok" || tagOf(s, "+reply") != id || tagOf(s, "msgid") == "" {
		t.Errorf("react: %q", s)
	}
	if s := a.until("TAGMSG"); tagOf(s, "+draft/unreact") != "ok" || tagOf(s, "+reply") != id {
		t.Errorf("unreact: %q", s)
	}
	b.send("@+draft/unreact=ok;+reply=" + id + " TAGMSG #t") // nothing left to take back
	a.silent()
	c.silent()
	a.send("@+draft/react=x TAGMSG #t", "@+draft/react=x;+reply=laxediizhu74saaaaaaaaamgvu TAGMSG #t", "TAGMSG", "TAGMSG #t")
	b.silent()
	a.send("@+channel-context=#t PRIVMSG bob :help")
	if s := b.until("PRIVMSG bob :help"); tagOf(s, "+channel-context") != "#t" || tagOf(s, "+draft/channel-context") != "#t" {
		t.Errorf("context: %q", s)
	}
	d := h.user("dora", append(historyCaps, "echo-message")...)
	d.send("@+channel-context=#t PRIVMSG bob :later")
	d.until("PRIVMSG bob :later")
	b.until("PRIVMSG bob :later")
	if page := d.history("LATEST bob * 1"); len(page) != 1 || tagOf(page[0], "+channel-context") != "#t" {
		t.Errorf("context in history: %q", page)
	}
	a.send("@+channel-context=bogus\\sname PRIVMSG bob :help")
	if s := b.until("PRIVMSG bob :help"); strings.Contains(s, "channel-context") {
		t.Errorf("a context that is no channel: %q", s)
	}
}

// A reply, a reaction or a redaction cannot reach into another room.
func TestReferencesStayInTheirRoom(t *testing.T) {
	h := openHouse(t, nil)
	caps := []string{"message-tags", "echo-message", "draft/message-redaction", "standard-replies"}
	a, b := h.user("alice", caps...), h.user("bob", caps...)
	a.join("#one")
	a.send("PRIVMSG #one :private to #one")
	id := tagOf(a.until("PRIVMSG"), "msgid")
	b.join("#two")
	b.send("@+reply=" + id + " PRIVMSG #two :quote it")
	if s := b.until("PRIVMSG #two"); strings.Contains(s, id) || strings.Contains(s, "private") {
		t.Errorf("got %q", s)
	}
	b.send("@+reply="+id+";+draft/react=x TAGMSG #two", "REDACT #two "+id)
	b.until("FAIL REDACT UNKNOWN_MSGID #two")
	b.silent()
	a.silent()
}

// Tokens that tell clients what there is (005), and CAP values.
func TestAdvertised(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.Icon = "https://irc.example/icon.png" })
	c := h.dial()
	c.send("CAP LS 302", "CAP REQ :batch draft/extended-isupport")
	var all []string
	for !has(strings.Join(all, " "), " ACK ") {
		all = append(all, c.line())
	}
	ls := strings.Join(all, " ")
	for _, want := range []string{"draft/chathistory", "draft/event-playback", "draft/multiline=max-bytes=16384,max-lines=100", "draft/message-redaction",
		"draft/read-marker", "draft/metadata-2=before-connect,max-subs=32,max-keys=16,max-key-bytes=64,max-value-bytes=300", "draft/metadata-3=before-connect",
		"draft/relaymsg=/", "draft/channel-rename", "extended-monitor", "draft/pre-away", "no-implicit-names", "draft/no-implicit-names"} {
		if !strings.Contains(ls, want) {
			t.Errorf("CAP LS lacks %s", want)
		}
	}
	c.send("ISUPPORT")
	c.until("BATCH +", "draft/isupport")
	var tokens []string
	for {
		s := c.line()
		if strings.Contains(s, "BATCH -") {
			break
		}
		tokens = append(tokens, strings.Fields(s)...)
	}
	for _, want := range []string{"CHATHISTORY=100", "MSGREFTYPES=msgid,timestamp", "MONITOR=100", "WHOX", "BOT=B", "draft/ICON=https://irc.example/icon.png", "UTF8ONLY"} {
		found := false
		for _, tok := range tokens {
			found = found || tok == want
		}
		if !found {
			t.Errorf("ISUPPORT lacks %s", want)
		}
	}
}

func FuzzBatchRef(f *testing.F) {
	for _, s := range []string{"1", "abc-DEF_9", "", "a b", strings.Repeat("r", 65), "r;x=y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if validRef(s) && (string(appendTag(nil, 0, "batch", s)) != "@batch="+s || string(appendMiddle(nil, s)) != " "+s) {
			t.Fatalf("a reference that needs escaping: %q", s)
		}
	})
}

func FuzzRelayNick(f *testing.F) {
	for _, s := range []string{"smt/discord", "/", "a/", "a/b/c", "a b/c", "é/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if validRelayNick(s, 32) && (speakerNick(s, 32) != s || strings.ContainsAny(s, "!@ :\r\n,")) {
			t.Fatalf("%q becomes %q", s, speakerNick(s, 32))
		}
	})
}

// Every capability that is offered has a name of its own and is understood.
func TestCapabilitiesAreDistinct(t *testing.T) {
	names, bits := map[string]bool{}, capSet(0)
	for _, c := range capTable {
		if names[c.name] || bits.has(c.bit) {
			t.Errorf("%s is offered twice", c.name)
		}
		names[c.name], bits = true, bits|c.bit
	}
}
