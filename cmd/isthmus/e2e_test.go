package main

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// password is that of every account of these tests.
const password = "correct horse"

// A gateway is a rig with a homeserver: #hello is linked to a room of alice's,
// who uses matrix-bot-sdk.
type gateway struct {
	*rig
	hs    *synapse
	room  string
	alice *peer
	stop  func(os.Signal)
}

// newGateway starts everything; database is a database.url, "" for SQLite.
func newGateway(t *testing.T, database string) *gateway {
	t.Helper()
	g := &gateway{rig: newRig(t), hs: newSynapse(t, "hs.test")}
	g.configure(fmt.Sprintf(`
domain: gw.test
database: {url: %q}
irc:
  listeners: [{name: plain, address: %q}]
  limits: {per_address: 100, connect_burst: 100, command_burst: 1000, command_interval: 1ms}
matrix:
  - {name: hs, server: hs.test, url: %q, listen_url: "http://%s"}
`, database, g.irc, g.hs.url, g.http))
	g.hs.register(g.run("registration", "matrix"))
	g.stop = g.start()
	g.hs.start()
	for _, name := range []string{"bob", "carol"} {
		g.feed(password+"\n", "account", "add", name)
	}
	g.room = g.hs.createRoom("@isthmus:hs.test")
	g.run("room", "create", "#hello")
	g.run("link", "add", "#hello", "--matrix", g.room)
	g.alice = node(t, "alice", "matrix.js", g.hs.url, g.hs.token)
	g.alice.expect(is{"type": "started"})
	return g
}

// member is irc-framework in #hello, logged in to the account of its nick with
// SASL PLAIN.
func (g *gateway) member(nick string) *peer {
	g.t.Helper()
	p := g.ircPeer(nick, map[string]any{"account": map[string]any{"account": nick, "password": password}})
	p.expect(is{"type": "loggedin", "account": nick})
	p.raw("JOIN #hello")
	p.expect(is{"type": "join", "nick": nick, "channel": "#hello"})
	return p
}

// sends makes alice send an event and returns its ID.
func (g *gateway) sends(content map[string]any) string {
	g.t.Helper()
	return g.alice.call("sendMessage", g.room, content).(string)
}

// fromIRC is what alice sees of a message of bob's.
func fromIRC(msgtype, body string) is {
	return is{"type": "event", "kind": "m.room.message", "sender": "@isthmus_bob:hs.test", "content|msgtype": msgtype, "content|body": body}
}

// One conversation between irc-framework and matrix-bot-sdk over a real
// homeserver, on each database.
func TestConversation(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { conversation(t, newGateway(t, "")) })
	t.Run("postgres", func(t *testing.T) { conversation(t, newGateway(t, newPostgres(t).url)) })
}

func conversation(t *testing.T, g *gateway) {
	bob := g.member("bob")
	step := func(name string, f func(t *testing.T, g *gateway, bob *peer)) {
		if !t.Run(name, func(t *testing.T) {
			defer func(r *testing.T, b, a *testing.T) { g.t, bob.t, g.alice.t = r, b, a }(g.t, bob.t, g.alice.t)
			g.t, bob.t, g.alice.t = t, t, t
			f(t, g, bob)
		}) {
			t.FailNow() // what follows builds on it
		}
	}
	step("to Matrix", toMatrix)
	step("to IRC", toIRC)
	step("topic and membership", membership)
	step("late joiner", lateJoiner)
	g.stop(syscall.SIGTERM)
	bob.expect(is{"type": "ERROR"}) // it was told
	g.alice.call("sendText", g.room, "while the gateway is down")
	g.stop = g.start()
	step("restart", afterRestart)
	step("a room that is made for a channel", madeRoom)
}

// madeRoom: the operator links a channel to a Matrix room that is made for it.
func madeRoom(t *testing.T, g *gateway, _ *peer) {
	carol := g.member("carol")
	carol.raw("JOIN #second")
	carol.expect(is{"type": "join", "nick": "carol", "channel": "#second"})
	carol.do(map[string]any{"say": []string{"#second", "before the link"}})
	carol.expect(is{"type": "privmsg", "message": "before the link"})
	g.run("link", "add", "#second", "--matrix", "hs", "--create", "--invite", "@alice:hs.test")
	invite := g.alice.expect(is{"type": "invite"})
	room := g.alice.call("joinRoom", invite["room"]).(string)
	carol.expect(is{"type": "join", "nick": "alice[m]", "channel": "#second"})
	g.alice.call("sendText", room, "thanks for the room")
	carol.expect(is{"type": "privmsg", "nick": "alice[m]", "target": "#second", "message": "thanks for the room"})
	carol.do(map[string]any{"say": []string{"#second", "welcome"}})
	g.alice.expect(is{"kind": "m.room.message", "room": room, "sender": "@isthmus_carol:hs.test", "content|body": "welcome"})
	if texts := g.hs.texts(room); slices.Contains(texts, "before the link") {
		t.Errorf("what was said before the link is not for the room: %q", texts)
	}
}

// toMatrix: each thing that an IRC user can say, as a Matrix client has it.
func toMatrix(t *testing.T, g *gateway, bob *peer) {
	bob.do(map[string]any{"say": []string{"#hello", "hello from IRC"}})
	said := g.alice.expect(fromIRC("m.text", "hello from IRC"))
	id := bob.expect(is{"type": "privmsg", "nick": "bob", "message": "hello from IRC"})
	msgid, _ := at(id, "tags|msgid").(string)
	if len(msgid) != 26 || at(id, "account") != "bob" {
		t.Errorf("the echo has msgid %q and account %v", msgid, at(id, "account"))
	}
	bob.do(map[string]any{"notice": []string{"#hello", "a notice"}})
	g.alice.expect(fromIRC("m.notice", "a notice"))
	bob.do(map[string]any{"action": []string{"#hello", "waves"}})
	g.alice.expect(fromIRC("m.emote", "waves"))

	bob.do(map[string]any{"say": []string{"#hello", "\x02bold\x02 and \x1ditalic\x1d and \x0304red\x03"}})
	e := g.alice.expect(is{"kind": "m.room.message", "content|format": "org.matrix.custom.html"})
	html, _ := at(e, "content|formatted_body").(string)
	for _, part := range []string{"<strong>bold</strong>", "<em>italic</em>", `data-mx-color="#`, ">red</font>"} {
		if !strings.Contains(strings.ReplaceAll(html, "</span>", "</font>"), part) {
			t.Errorf("formatted text arrives as %q, without %s", html, part)
		}
	}

	bob.raw("@+draft/reply=%s PRIVMSG #hello :a reply", msgid)
	e = g.alice.expect(fromIRC("m.text", "a reply"))
	if got := at(e, "content|m.relates_to|m.in_reply_to|event_id"); got != said["event_id"] {
		t.Errorf("the reply is to %v, want %v", got, said["event_id"])
	}
	bob.raw("@+draft/reply=%s;+draft/react=👍 TAGMSG #hello", msgid)
	e = g.alice.expect(is{"kind": "m.reaction", "sender": "@isthmus_bob:hs.test", "content|m.relates_to|key": "👍", "content|m.relates_to|event_id": said["event_id"]})
	bob.raw("@+draft/reply=%s;+draft/unreact=👍 TAGMSG #hello", msgid)
	g.alice.expect(is{"kind": "m.room.redaction", "redacts": e["event_id"]})
	bob.raw("REDACT #hello %s :a mistake", msgid)
	g.alice.expect(is{"kind": "m.room.redaction", "redacts": said["event_id"]})
}

// toIRC: each thing that a Matrix user can do, as an IRC client has it.
func toIRC(t *testing.T, g *gateway, bob *peer) {
	saw := func(kind, message string) map[string]any {
		t.Helper()
		return bob.expect(is{"type": kind, "nick": "alice[m]", "target": "#hello", "message": message})
	}
	text := g.alice.call("sendText", g.room, "hello from Matrix").(string)
	msgid := at(saw("privmsg", "hello from Matrix"), "tags|msgid")
	g.alice.call("sendNotice", g.room, "a notice")
	saw("notice", "a notice")
	g.sends(map[string]any{"msgtype": "m.emote", "body": "waves"})
	saw("action", "waves")
	g.alice.call("sendHtmlText", g.room, `<b>bold</b> <i>italic</i><script>alert(1)</script>`)
	saw("privmsg", "\x02bold\x02 \x1ditalic\x1d")

	g.sends(map[string]any{"msgtype": "m.text", "body": "a reply", "m.relates_to": map[string]any{"m.in_reply_to": map[string]string{"event_id": text}}})
	if got := at(saw("privmsg", "a reply"), "tags|+draft/reply"); got != msgid {
		t.Errorf("the reply is to %v, want %v", got, msgid)
	}
	g.sends(map[string]any{"msgtype": "m.text", "body": "* hello again from Matrix", "m.new_content": map[string]string{"msgtype": "m.text", "body": "hello again from Matrix"},
		"m.relates_to": map[string]string{"rel_type": "m.replace", "event_id": text}})
	bob.expect(is{"type": "privmsg", "nick": "alice[m]", "message": regexp.MustCompile(`again`)})
	g.alice.call("unstableApis.addReactionToEvent", g.room, text, "🎉")
	bob.expect(is{"type": "tagmsg", "nick": "alice[m]", "tags|+draft/react": "🎉", "tags|+draft/reply": msgid})
	reaction := g.alice.call("unstableApis.addReactionToEvent", g.room, text, "👀").(string)
	bob.expect(is{"type": "tagmsg", "nick": "alice[m]", "tags|+draft/react": "👀"})
	g.alice.call("redactEvent", g.room, reaction, "")
	bob.expect(is{"type": "tagmsg", "nick": "alice[m]", "tags|+draft/unreact": "👀", "tags|+draft/reply": msgid})
	g.alice.call("redactEvent", g.room, text, "a mistake")
	bob.expect(is{"type": "REDACT", "nick": "alice[m]"})
}

// membership: topics and who is there, both ways.
func membership(t *testing.T, g *gateway, bob *peer) {
	g.alice.call("sendStateEvent", g.room, "m.room.topic", "", map[string]string{"topic": "from Matrix"})
	bob.expect(is{"type": "topic", "nick": "alice[m]", "channel": "#hello", "topic": "from Matrix"})
	bob.raw("TOPIC #hello :not allowed")
	bob.expect(is{"type": "482"})
	levels := g.alice.call("getRoomStateEvent", g.room, "m.room.power_levels", "").(map[string]any)
	levels["users"].(map[string]any)["@isthmus_bob:hs.test"] = 50
	g.alice.call("sendStateEvent", g.room, "m.room.power_levels", "", levels)
	bob.expect(is{"type": "mode", "nick": "alice[m]", "target": "#hello"})
	bob.raw("TOPIC #hello :from IRC")
	bob.expect(is{"type": "topic", "nick": "bob", "topic": "from IRC"})
	g.alice.expect(is{"kind": "m.room.topic", "content|topic": "from IRC"})
	carol := g.member("carol")
	bob.expect(is{"type": "join", "nick": "carol", "channel": "#hello"})
	carol.do(map[string]any{"say": []string{"#hello", "it is carol"}}) // a ghost joins when its user first speaks, at the latest
	g.alice.expect(is{"kind": "m.room.member", "state_key": "@isthmus_carol:hs.test", "content|membership": "join"})
	g.alice.expect(is{"kind": "m.room.message", "sender": "@isthmus_carol:hs.test", "content|body": "it is carol"})
	bob.expect(is{"type": "privmsg", "nick": "carol", "message": "it is carol"})
	carol.raw("PART #hello :bye")
	bob.expect(is{"type": "part", "nick": "carol"})
	g.alice.expect(is{"kind": "m.room.member", "state_key": "@isthmus_carol:hs.test", "content|membership": "leave"})
	carol.leave()

	dave := g.hs.newUser("dave")
	g.hs.call("POST", "/_matrix/client/v3/join/"+g.room, dave, map[string]any{})
	bob.expect(is{"type": "join", "nick": "dave[m]", "channel": "#hello"})
	g.hs.call("POST", "/_matrix/client/v3/rooms/"+g.room+"/leave", dave, map[string]any{})
	bob.expect(is{"type": "part", "nick": "dave[m]"})
	g.hs.call("POST", "/_matrix/client/v3/join/"+g.room, dave, map[string]any{})
	bob.expect(is{"type": "join", "nick": "dave[m]", "channel": "#hello"})
	bob.raw("KICK #hello dave[m] :enough")
	bob.expect(is{"type": "kick", "nick": "bob", "kicked": "dave[m]"})
	g.alice.expect(is{"kind": "m.room.member", "state_key": "@dave:hs.test", "content|membership": "leave", "content|reason": regexp.MustCompile("enough")})
}

// history is what a client that has just come is given on asking, as
// "nick: text", oldest first.
func history(p *peer) (out []string) {
	p.t.Helper()
	p.raw("CHATHISTORY LATEST #hello * 100")
	e := p.expect(is{"type": "chathistory", "target": "#hello"})
	for _, l := range e["lines"].([]any) {
		line := l.(map[string]any)
		if line["command"] == "PRIVMSG" {
			out = append(out, fmt.Sprintf("%v: %v", line["nick"], line["text"]))
		}
	}
	return out
}

func hasAll(t *testing.T, got []string, want ...string) {
	t.Helper()
	n := 0
	for _, line := range got {
		if n < len(want) && line == want[n] {
			n++
		}
	}
	if n < len(want) {
		t.Errorf("history lacks %q, or in that order:\n%s", want[n], strings.Join(got, "\n"))
	}
}

// lateJoiner: a client that was not there asks for what was said.
func lateJoiner(t *testing.T, g *gateway, _ *peer) {
	erin := g.ircPeer("erin", nil) // a guest
	erin.raw("JOIN #hello")
	erin.expect(is{"type": "join", "nick": "erin"})
	erin.expect(is{"type": "topic", "topic": "from IRC"})
	hasAll(t, history(erin), "bob: \x01ACTION waves\x01", "bob: a reply", "alice[m]: \x01ACTION waves\x01", "alice[m]: a reply", "carol: it is carol")
	erin.leave()
}

// afterRestart: nothing is forgotten when the server stops, and both sides go on.
func afterRestart(t *testing.T, g *gateway, _ *peer) {
	again := g.member("bob")
	want := []string{"bob: a reply", "alice[m]: a reply", "carol: it is carol", "alice[m]: while the gateway is down"}
	waitFor(t, "history", func() string { return strings.Join(history(again), "\n") }, want[len(want)-1]) // the homeserver tries again in seconds
	got := history(again)
	hasAll(t, got, want...)
	if all := slices.Sorted(slices.Values(got)); len(slices.Compact(all)) != len(got) {
		t.Errorf("something is there twice:\n%s", strings.Join(got, "\n"))
	}
	g.alice.call("sendText", g.room, "after the restart")
	again.expect(is{"type": "privmsg", "nick": "alice[m]", "message": "after the restart"})
	again.do(map[string]any{"say": []string{"#hello", "yes, after"}})
	g.alice.expect(fromIRC("m.text", "yes, after"))
}

// TestHomeserverAway: IRC users talk while the homeserver is down. When it is back everything
// arrives, once and in order, and so does what Matrix users say then.
func TestHomeserverAway(t *testing.T) {
	const said = 40
	g := newGateway(t, "")
	bob := g.member("bob")
	bob.do(map[string]any{"say": []string{"#hello", "before"}})
	g.alice.expect(fromIRC("m.text", "before"))
	g.hs.stop()
	for n := range said {
		bob.do(map[string]any{"say": []string{"#hello", fmt.Sprintf("while away %d", n)}})
		bob.expect(is{"type": "privmsg", "nick": "bob", "message": fmt.Sprintf("while away %d", n)})
	}
	g.hs.start()
	var got []string
	for end := time.Now().Add(3 * patience); time.Now().Before(end) && len(got) < said; time.Sleep(200 * time.Millisecond) {
		got = slices.DeleteFunc(g.hs.texts(g.room), func(s string) bool { return !strings.HasPrefix(s, "while away") })
	}
	var want []string
	for n := range said {
		want = append(want, fmt.Sprintf("while away %d", n))
	}
	if !slices.Equal(got, want) {
		t.Fatalf("in the Matrix room: %q", got)
	}
	g.hs.say(g.room, "back")
	bob.expect(is{"type": "privmsg", "nick": "alice[m]", "message": "back"})
}

// TestDatabaseAway: PostgreSQL stops and starts under a running server. What is
// said meanwhile is refused clearly; what was acknowledged is there, once; and it
// goes on without anybody's help.
func TestDatabaseAway(t *testing.T) {
	pg := newPostgres(t)
	r := newRig(t)
	r.configure(fmt.Sprintf("database: {url: %q}\nirc:\n  listeners: [{name: plain, address: %q}]\n"+
		"  limits: {command_burst: 1000, command_interval: 1ms}\n", pg.url, r.irc))
	r.start()
	bob := r.ircPeer("bob", nil)
	bob.raw("JOIN #hello")
	bob.expect(is{"type": "join", "nick": "bob"})
	acked, refused, n := map[string]bool{}, 0, 0
	say := func() (accepted bool) {
		text := fmt.Sprintf("line %d", n)
		n++
		bob.do(map[string]any{"say": []string{"#hello", text}})
		for end := time.Now().Add(patience); ; {
			if _, ok := bob.await(is{"type": "privmsg", "nick": "bob", "message": text}, 50*time.Millisecond); ok {
				acked[text] = true
				return true
			}
			if e, ok := bob.await(is{"type": "FAIL"}, time.Millisecond); ok {
				if !slices.Contains(e["params"].([]any), any("TEMPORARILY_UNAVAILABLE")) {
					t.Fatalf("refused with %v", e["params"])
				}
				refused++
				return false
			}
			if time.Now().After(end) {
				t.Fatalf("%q was neither taken nor refused", text)
			}
		}
	}
	for range 5 {
		if !say() {
			t.Fatal("refused while the database is there")
		}
	}
	pg.stop()
	for range 3 {
		if say() {
			t.Fatal("acknowledged while there is no database")
		}
	}
	pg.start()
	back := false
	for end := time.Now().Add(patience); !back && time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		back = say()
	}
	if !back || refused < 3 {
		t.Fatalf("the database is back and the server is not (%d refused)", refused)
	}
	late := r.ircPeer("late", nil)
	late.raw("JOIN #hello")
	late.expect(is{"type": "join", "nick": "late"})
	seen := map[string]int{}
	for _, line := range history(late) {
		seen[strings.TrimPrefix(line, "bob: ")]++
	}
	for _, text := range slices.Sorted(maps.Keys(acked)) {
		if seen[text] != 1 {
			t.Errorf("%q was acknowledged and is in the history %d times", text, seen[text])
		}
	}
}
