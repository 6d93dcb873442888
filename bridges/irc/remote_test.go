package irc

import (
	"context"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// Somebody whom another network relays has a nick with the network's suffix, is
// in NAMES, and speaks as that nick; no local user may look like one.
func TestRelayedUser(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", "message-tags", "setname")
	a.join("#c")
	room, ctx := core.NewRoomID(testDomain, "c"), context.Background()
	matrix := func(id string) core.Origin { return core.Origin{Network: "matrix:example.org", ID: id} }
	bob := core.NewUserURI(testDomain, "matrix.example.org", "bob")
	submit := func(e core.Envelope) {
		t.Helper()
		rs, err := h.rt.Submit(ctx, e)
		if err != nil || rs[0].Err != nil {
			t.Fatal(err, rs)
		}
	}
	control := func(id string, c core.Control) core.Envelope {
		return core.Envelope{Room: room, Sender: bob, Origin: matrix(id), Sent: time.Now(), Body: c.Body("Bob B.")}
	}
	submit(control("$1", core.Control{Op: core.OpJoin, Profile: &core.Profile{Name: "Bob B."}}))
	a.expect("@msgid=…")
	a.send("NAMES #c")
	a.expect(":irc.example 353 alice = #c :~alice Bob_B[m]")
	a.until(" 366 ")

	m := converter.IRCMessage{Room: room, Sender: bob, Name: "Bob B.", Origin: matrix("$2"), Sent: time.Now(),
		Lines: []converter.IRCLine{{Text: "hello from Matrix"}}}
	env, err := converter.IRC{}.Inbound(m, converter.NoNames{})
	if err != nil {
		t.Fatal(err)
	}
	submit(env)
	if got := a.until("PRIVMSG"); !has(got, " :Bob_B[m]!bob@matrix.example.org PRIVMSG #c :hello from Matrix") {
		t.Errorf("alice got %q", got)
	}
	a.send("PRIVMSG Bob_B[m] :psst") // no place carries it there: it must not seem to have gone
	a.expect(":irc.example 531 alice Bob_B[m] :Private messages do not reach users of another network")
	submit(control("$3", core.Control{Op: core.OpProfile, Profile: &core.Profile{Name: "Robert"}}))
	a.expect(":Bob_B[m]!bob@matrix.example.org NICK :Robert[m]")
	submit(control("$4", core.Control{Op: core.OpLeave, Text: "bye"}))
	if got := a.line(); !has(got, " :Robert[m]!bob@matrix.example.org PART #c :bye") {
		t.Errorf("alice got %q", got)
	}
	a.send("NICK Robert[m]", "PRIVMSG Robert[m] :gone?")
	a.expect(":irc.example 432 alice Robert[m] :Erroneous nickname")
	a.expect(":irc.example 401 alice Robert[m] :No such nick/channel")
}
