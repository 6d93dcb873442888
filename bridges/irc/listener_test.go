package irc

import (
	"strings"
	"testing"
)

func TestRegistration(t *testing.T) {
	h := openHouse(t, nil)
	c := h.dial()
	c.send("NICK alice", "USER al 0 * :Alice A.")
	got := c.expect(":irc.example 001 alice :Welcome to the Isthmus network, alice!~al@…")
	if !strings.HasSuffix(got, ".isthmus.ip") {
		t.Errorf("host is not a cloak: %q", got)
	}
	for _, n := range []string{"002", "003", "004", "005", "251", "375", "372", "376"} {
		c.until(" " + n + " alice ")
	}
	c.send("USER x 0 * :again")
	c.expect(":irc.example 462 alice :You may not reregister")
	c.send("WHAT")
	c.expect(":irc.example 421 alice WHAT :Unknown command")

	d := h.dial()
	d.send("JOIN #x", "NICK alice", "NICK 0bad", "NICK evil[m]", "NICK")
	d.expect(":irc.example 451 * :You have not registered")
	d.expect(":irc.example 433 * alice :Nickname is already in use")
	d.expect(":irc.example 432 * 0bad :Erroneous nickname")
	d.expect(":irc.example 432 * evil[m] :Erroneous nickname")
	d.expect(":irc.example 431 * :No nickname given")
}

func TestChannelLife(t *testing.T) {
	h := openHouse(t, nil)
	a, b := h.user("alice"), h.user("bob", "message-tags", "server-time", "extended-join", "account-tag")
	a.send("JOIN #Test")
	a.expect(":alice!~alice@…")
	a.expect(":irc.example 353 alice = #Test :~alice")
	a.expect(":irc.example 366 alice #Test :End of /NAMES list.")
	b.send("JOIN #test")
	b.until("353", "~alice bob")
	b.until(" 366 ")
	if got := a.sync(); len(got) != 1 || !has(got[0], ":bob!~bob@", " JOIN #Test") {
		t.Errorf("alice saw %q", got)
	}

	a.send("PRIVMSG #test :hello there")
	got := b.until("PRIVMSG")
	if !has(got, "@time=", ";msgid=", " :alice!~alice@", " PRIVMSG #Test :hello there") {
		t.Errorf("bob got %q", got)
	}
	a.silent() // no echo without echo-message

	b.send("TOPIC #test :mine", "KICK #test alice", "MODE #test +m")
	b.expect(":irc.example 482 bob #Test :your role…")
	b.until("482")
	b.until("482")
	a.send("TOPIC #test :a topic", "MODE #test +mk-t key", "PRIVMSG #test :still me", "MODE #test +v bob", "MODE #test")
	a.until(" TOPIC #Test :a topic")
	a.until(" MODE #Test -t+mk key")
	a.until(" MODE #Test +v bob")
	a.expect(":irc.example 324 alice #Test +nmk :key")
	b.until(" MODE #Test +v bob")
	b.send("PRIVMSG #test :I have voice", "PART #test :bye")
	b.until(" PART #Test :bye")
	a.until("PRIVMSG #Test :I have voice")
	a.until(":bob!", " PART #Test :bye")
	b.send("JOIN #test", "PRIVMSG #test :from outside", "JOIN #test key")
	b.expect(":irc.example 475 bob #Test :that room needs the right key")
	b.expect(":irc.example 404 bob #test :you are not in that room")
	b.until(" 366 ")
	a.send("KICK #test bob :out")
	b.until(" KICK #Test bob :out")
	a.until(" KICK #Test bob :out")
	a.send("MODE #test +b bob!*@*", "MODE #test +b")
	a.until("MODE #Test +b bob!*@*")
	a.until(" 367 alice #Test bob!*@* alice ")
	a.until(" 368 ")
	b.send("JOIN #test key")
	b.expect(":irc.example 474 bob #Test :you are banned from that room")
	a.send("INVITE bob #test")
	a.expect(":irc.example 341 alice bob :#Test")
	b.until("INVITE bob #Test")
	b.send("JOIN #test")
	b.until(" 366 ")
	b.send("QUIT :gone")
	b.until("ERROR :Closing link: Quit: gone")
	a.until(":bob!", " QUIT :Quit: gone")
}

// What one session pipelines shares a batch; replies keep their order, and the
// receivers have the lines before the next command is answered.
func TestOrder(t *testing.T) {
	h := openHouse(t, nil)
	a := h.user("alice", "echo-message", "labeled-response", "batch")
	b := h.user("bob")
	a.join("#c")
	b.join("#c")
	a.sync()
	a.send("@label=1 PRIVMSG #c :one", "PRIVMSG #c :two", "@label=3 PRIVMSG #nope :three", "@label=4 PRIVMSG #c :four", "@label=5 PING x",
		"@label=6 NAMES #c")
	a.expect("@label=1 :alice!…")
	a.expect(":alice!~alice@…")
	a.expect("@label=3 :irc.example 403 alice #nope :No such channel")
	a.expect("@label=4 :alice!…")
	a.expect("@label=5 :irc.example PONG irc.example :x")
	a.expect("@label=6 :irc.example BATCH +…")
	a.expect("@batch=…")
	a.until("BATCH -")
	b.until("PRIVMSG #c :four")
	for i := range 50 {
		a.send("PRIVMSG #c :sync", "PING x")
		a.until("PONG")
		b.conn.SetReadDeadline(deadlineNow())
		if s, err := b.r.ReadString('\n'); err != nil || !strings.Contains(s, ":sync") {
			t.Fatalf("round %d: receiver has %q, %v after the sender was answered", i, s, err)
		}
	}
}

func TestNickAndProfile(t *testing.T) {
	h := openHouse(t, nil)
	a, b := h.user("alice", "setname", "labeled-response", "batch"), h.user("bob", "setname", "away-notify")
	for _, ch := range []string{"#a", "#b"} {
		a.join(ch)
		b.join(ch)
	}
	a.sync()
	b.sync()
	a.send("NICK bob")
	a.expect(":irc.example 433 alice bob :Nickname is already in use")
	a.send("@label=n NICK Alicia")
	a.expect("@label=n :alice!~alice@…")
	if got := b.sync(); len(got) != 1 || !has(got[0], ":alice!", " NICK :Alicia") {
		t.Errorf("bob saw %q", got)
	}
	a.send("SETNAME :The A", "AWAY :lunch", "PRIVMSG bob :psst")
	a.expect(":Alicia!…")
	a.expect(":irc.example 306 Alicia :You have been marked as being away")
	b.until("SETNAME :The A")
	b.until(" AWAY :lunch")
	b.expect(":Alicia!…")
	b.send("PRIVMSG alicia :re", "PRIVMSG nobody :x", "ISON alicia x", "USERHOST Alicia")
	b.expect(":irc.example 301 bob Alicia :lunch")
	b.expect(":irc.example 401 bob nobody :No such nick/channel")
	b.expect(":irc.example 303 bob :Alicia")
	b.expect(":irc.example 302 bob :Alicia=-~alice@…")
	a.until(":bob!", "PRIVMSG Alicia :re")
	c := h.user("alice") // the old nick is free
	c.send("QUIT")
	a.silent()
}
