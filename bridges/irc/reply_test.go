package irc

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Every code has IRC words, as the table in docs/ARCHITECTURE.md says.
func TestRefusalOfEveryCode(t *testing.T) {
	want := map[core.Code]refusal{
		core.Internal: {"400", "INTERNAL_ERROR"}, core.Invalid: {"461", "INVALID_PARAMS"},
		core.Unauthenticated: {"451", "ACCOUNT_REQUIRED"}, core.Denied: {"404", ""}, core.NotFound: {"403", ""},
		core.Conflict: {"", "CONFLICT"}, core.StaleEpoch: {"", "CONFLICT"}, core.TooLarge: {"417", ""},
		core.Limited: {"263", "RATE_LIMITED"}, core.Unavailable: {"", "TEMPORARILY_UNAVAILABLE"},
		core.Unsupported: {"", "UNSUPPORTED"},
	}
	for _, c := range core.Codes() {
		got := refusalOf(core.Errorf(c, "no"))
		if got != want[c] || got == (refusal{}) {
			t.Errorf("%v is said as %+v, want %+v", c, got, want[c])
		}
	}
	if got := refusalOf(context.Canceled); got.number != "400" {
		t.Errorf("an error without a code is said as %+v", got)
	}
}

func TestRefusalOfReasons(t *testing.T) {
	for reason, number := range map[core.Reason]string{
		core.NotJoined: "404", core.AlreadyJoined: "443", core.NoSuchUser: "441", core.Muted: "404", core.Banned: "474",
		core.InviteOnly: "473", core.BadKey: "475", core.Full: "471", core.NeedAccount: "477", core.NotOperator: "482",
		core.ListFull: "478", core.IsGroup: "403",
	} {
		if got := refusalOf(core.Refuse(core.Denied, reason, "no")); got.number != number {
			t.Errorf("%s is said as %s, want %s", reason, got.number, number)
		}
	}
}

// While the store is away nothing is acknowledged, and the client is told.
func TestStoreAway(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", "standard-replies", "echo-message", "labeled-response", "batch")
	b := h.user("bob")
	a.join("#c")
	b.join("#c")
	a.sync()
	h.gw.away.Store(true)
	a.send("@label=1 PRIVMSG #c :lost", "TOPIC #c :lost", "NICK other")
	a.expect("@label=1 :irc.example FAIL PRIVMSG TEMPORARILY_UNAVAILABLE #c :the store is away")
	a.expect(":irc.example FAIL TOPIC TEMPORARILY_UNAVAILABLE #c :the store is away")
	a.expect(":irc.example FAIL NICK TEMPORARILY_UNAVAILABLE other :the store is away")
	a.send("QUIT")
	a.until("ERROR")
	b.silent() // she is seen until her goodbye is stored
	h.gw.away.Store(false)
	time.Sleep(100 * time.Millisecond)
	h.srv.retryDepartures(context.Background())
	if got := b.sync(); len(got) != 1 || !has(got[0], ":alice!", " QUIT :Client Quit") {
		t.Errorf("bob saw %q", got)
	}
}

// What a room's state says of people of an earlier process is ended at start.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	h := openHouseIn(t, dir, nil)
	a := h.user("alice")
	a.join("#kept")
	a.send("TOPIC #kept :still here", "PRIVMSG #kept :one")
	a.sync()
	// As after kill -9: no goodbye reaches the store.
	h.gw.away.Store(true)
	h.close()

	h = openHouseIn(t, dir, nil)
	b := h.user("bob")
	b.send("JOIN #Kept")
	b.until(" JOIN #kept")
	b.until(" 332 bob #kept :still here")
	if got := b.until(" 353 "); strings.Contains(got, "alice") || !strings.HasSuffix(got, ":@bob") {
		t.Errorf("names after a restart: %q", got)
	}
}

// A Group is invisible to IRC but for a clear refusal.
func TestGroupRefused(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", "standard-replies")
	_, err := h.rt.Do(context.Background(), core.CreateRoom{Room: core.Room{ID: core.NewRoomID(testDomain, "secret"), Kind: core.Group, Name: "#secret"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"JOIN #secret", "PRIVMSG #secret :hi"} {
		a.send(command)
		name, _, _ := strings.Cut(command, " ")
		a.expect(":irc.example 403 alice #secret :That room is end-to-end encrypted: IRC cannot take part in it")
		a.expect(":irc.example FAIL " + name + " UNSUPPORTED_ROOM #secret :That room is end-to-end…")
	}
	a.send("LIST")
	a.expect(":irc.example 321 alice Channel :Users  Name")
	a.expect(":irc.example 323 alice :End of /LIST")
}

// Several sessions of one account share one nick and one membership.
func TestSharedNick(t *testing.T) {
	h := openHouse(t, nil)
	w := h.user("watcher")
	w.join("#c")
	pass := h.tokenFor("alice")
	a := h.login(pass, "echo-message")
	a.join("#c")
	w.until(":alice!", " JOIN #c")
	b := h.dial()
	b.nick = "alice"
	b.send("PASS "+pass, "NICK other", "USER x 0 * :x")
	b.until(" 001 alice ")
	b.until(":alice!", " JOIN #c")
	b.until(" 366 ")
	b.send("PRIVMSG #c :from the phone")
	a.until(":alice!", "PRIVMSG #c :from the phone")
	w.until(":alice!", "PRIVMSG #c :from the phone")
	a.send("PRIVMSG #c :from the desk")
	b.until(":alice!", "PRIVMSG #c :from the desk")
	w.until("from the desk")
	w.send("PRIVMSG alice :both?")
	a.until("PRIVMSG alice :both?")
	b.until("PRIVMSG alice :both?")
	b.send("QUIT")
	b.until("ERROR")
	w.silent()
	a.send("QUIT :bye")
	a.until("ERROR")
	w.until(":alice!", " QUIT :Quit: bye")
}
