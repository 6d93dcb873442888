package irc

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

func openAccounts(c *Config) { c.Accounts.Registration = true }

// https://ircv3.net/specs/extensions/account-registration
func TestRegisterBeforeConnecting(t *testing.T) {
	h := openHouse(t, openAccounts)
	c := h.dial()
	c.send("CAP LS 302")
	c.until("draft/account-registration=before-connect,custom-account-name")
	c.send("CAP REQ :draft/account-registration standard-replies", "REGISTER * * "+"correct-horse")
	c.until("FAIL REGISTER NEED_NICK")
	c.send("NICK Dora", "USER d 0 * :d", "REGISTER * dora@mail.example :correct horse")
	c.until("REGISTER SUCCESS Dora")
	c.until(" 900 ", " Dora ")
	c.send("CAP END")
	c.until(" 376 ")
	c.send("WHOIS Dora")
	if got := c.until(" 311 "); !strings.Contains(got, "dora.isthmus.user") {
		t.Errorf("host in %s", got)
	}
	c.until(" 330 ", "Dora")
	c.send("REGISTER other * :correct horse")
	c.until("FAIL REGISTER ALREADY_AUTHENTICATED")
	d := h.dial()
	d.send("CAP REQ :sasl", "NICK dora", "USER d 0 * :d", "AUTHENTICATE PLAIN", "AUTHENTICATE "+b64("\x00dora\x00correct horse"))
	d.until(" 903 ")
	d.send("CAP END")
	d.until(" 376 ")
	e := h.dial()
	e.send("NICK dora", "USER e 0 * :e")
	e.until(" 433 ")
}

func TestRegisterLater(t *testing.T) {
	h := openHouse(t, openAccounts)
	watcher := h.user("watcher", "account-notify", "chghost")
	watcher.join("#x")
	c := h.user("erin", "standard-replies")
	c.join("#x")
	watcher.until("JOIN #x")
	for _, bad := range [][2]string{
		{"REGISTER 1erin * :correct horse", "BAD_ACCOUNT_NAME"}, {"REGISTER erin * short", "WEAK_PASSWORD"},
		{"REGISTER watcher * :correct horse", "ACCOUNT_EXISTS"}, {"REGISTER erin * :bad\x01control", "UNACCEPTABLE_PASSWORD"},
	} {
		c.send(bad[0])
		c.until("FAIL REGISTER " + bad[1])
	}
	c.send("REGISTER erin *")
	c.until(" 461 ")
	c.send("REGISTER erin * :correct horse")
	c.until("REGISTER SUCCESS erin")
	c.until(" 900 ")
	watcher.until("ACCOUNT erin")
	c.send("VERIFY erin 1234")
	c.until("FAIL VERIFY INVALID_CODE erin")
	other := h.user("frank", "standard-replies")
	other.send("REGISTER ERIN * :correct horse")
	other.until("FAIL REGISTER ACCOUNT_EXISTS")
}

func TestRegisterOff(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.Accounts.Registration = false })
	c := h.dial()
	c.send("CAP LS 302")
	if got := c.until("CAP * LS"); strings.Contains(got, "account-registration") {
		t.Errorf("offered: %s", got)
	}
	c.send("CAP REQ standard-replies", "NICK gina", "REGISTER * * :correct horse")
	c.until("FAIL REGISTER DISALLOWED")
}

func TestRegistryLimits(t *testing.T) {
	var r registry
	now := time.Unix(1e9, 0)
	for range registerBurst {
		if wait := r.take(here, now, registerBurst, registerInterval); wait != 0 {
			t.Fatalf("wait %v", wait)
		}
	}
	if wait := r.take(here, now, registerBurst, registerInterval); wait <= 0 || wait > registerInterval {
		t.Errorf("wait %v", wait)
	}
	if wait := r.take(elsewhere, now, registerBurst, registerInterval); wait != 0 {
		t.Errorf("another address: %v", wait)
	}
	if wait := r.take(here, now.Add(registerInterval), registerBurst, registerInterval); wait != 0 {
		t.Errorf("after the interval: %v", wait)
	}
	for i := range 2 * maxRegisterers {
		r.take(netip.AddrFrom4([4]byte{1, byte(i >> 16), byte(i >> 8), byte(i)}), now, registerBurst, registerInterval)
	}
	if len(r.paid.m) > maxRegisterers {
		t.Errorf("%d addresses remembered", len(r.paid.m))
	}
}

func TestRegisterTooOften(t *testing.T) {
	h := openHouse(t, openAccounts)
	for i := range registerBurst + 1 {
		c := h.user("u"+itoa(i), "standard-replies")
		c.send("REGISTER * * :correct horse")
		if i < registerBurst {
			c.until("REGISTER SUCCESS")
		} else {
			c.until("FAIL REGISTER RATE_LIMITED")
		}
	}
}

func TestSASLOverTCP(t *testing.T) {
	h := openHouse(t, nil)
	h.putAccount(aliceOnce())
	gone := aliceOnce()
	gone.Name, gone.Fold, gone.Disabled = "gone", "gone", true
	h.putAccount(gone)
	c := h.dial()
	c.send("CAP LS 302")
	c.until("sasl=PLAIN,SCRAM-SHA-256")
	c.send("CAP REQ sasl", "NICK alice", "USER a 0 * :a")
	for _, x := range []struct{ lines, want string }{
		{"AUTHENTICATE FOO", " 904 "}, {"AUTHENTICATE PLAIN\r\nAUTHENTICATE *", " 906 "},
		{"AUTHENTICATE PLAIN\r\nAUTHENTICATE " + strings.Repeat("A", 401), " 905 "},
		{"AUTHENTICATE PLAIN\r\nAUTHENTICATE " + b64("\x00alice\x00wrong horse"), " 904 "},
		{"AUTHENTICATE PLAIN\r\nAUTHENTICATE " + b64("\x00gone\x00"+goodPassword), " 902 "},
		{"AUTHENTICATE PLAIN\r\nAUTHENTICATE " + b64("\x00alice\x00"+goodPassword), " 900 alice alice!*@* Alice :"},
	} {
		c.send(strings.Split(x.lines, "\r\n")...)
		c.until(x.want)
	}
	c.until(" 903 ")
	c.send("CAP END")
	c.until(" 376 ")
	// sasl-3.2: also after registration; nobody becomes somebody else
	c.send("AUTHENTICATE PLAIN")
	c.until("AUTHENTICATE +")
	c.send("AUTHENTICATE " + b64("\x00alice\x00"+goodPassword))
	c.until(" 903 ")
}

func TestLoginAfterRegistration(t *testing.T) {
	h := openHouse(t, nil)
	h.putAccount(aliceOnce())
	c := h.user("guest1")
	c.send("AUTHENTICATE PLAIN", "AUTHENTICATE "+b64("\x00alice\x00"+goodPassword))
	c.until(" 903 ")
	c.send("WHOIS guest1")
	c.until(" 311 ", "alice.isthmus.user")
	c.until(" 330 ", "Alice")
	d := h.user("guest2") // in a channel: stays who they are there, shown with the account
	d.join("#y")
	d.send("AUTHENTICATE PLAIN", "AUTHENTICATE "+b64("\x00alice\x00"+goodPassword))
	d.until(" 903 ")
	d.send("WHO #y %na")
	d.until(" 354 ", "Alice")
}

func TestPassLogin(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.Guests = false })
	token, stored, _ := NewToken(rand.Reader)
	h.putAccount(core.Account{Name: "bot", Fold: "bot", Tokens: []string{stored}})
	c := h.dial()
	c.send("PASS bot:"+token, "NICK bot", "USER b 0 * :b")
	c.until(" 001 ")
	c.until(" 005 ", "ACCOUNTREQUIRED")
	c = h.dial()
	c.send("PASS bot:wrong", "NICK bot", "USER b 0 * :b")
	c.until(" 464 ")
	c.until("ERROR :")
	c = h.dial()
	c.send("NICK guest", "USER g 0 * :g")
	c.until("ERROR :")
}

// While logins wait for their hash, others talk and others log in.
func TestHashingBlocksNobody(t *testing.T) {
	h := openHouse(t, nil)
	token, stored, _ := NewToken(rand.Reader)
	acc := aliceOnce()
	acc.Tokens = []string{stored}
	h.putAccount(acc)
	talker := h.user("talker")
	running := h.srv.auth.hashes.running
	for range cap(running) { // as if every worker were busy
		running <- struct{}{}
	}
	var waiting []*client
	for i := range 10 {
		c := h.dial()
		c.send("CAP REQ sasl", "NICK s"+itoa(i), "USER s 0 * :s", "AUTHENTICATE PLAIN", "AUTHENTICATE "+b64("\x00alice\x00"+goodPassword))
		c.until("AUTHENTICATE +")
		waiting = append(waiting, c)
	}
	talker.silent()
	quick := h.dial()
	quick.send("CAP REQ sasl", "NICK alice", "USER a 0 * :a", "AUTHENTICATE PLAIN", "AUTHENTICATE "+b64("\x00alice\x00"+token), "CAP END")
	quick.until(" 001 ")
	for range cap(running) {
		<-running
	}
	for _, c := range waiting[1:] {
		c.until(" 903 ")
	}
}

// BenchmarkLoginTCP is a whole login over a real socket: connect, CAP, SASL,
// welcome, close; the clients' work is part of the figure.
func BenchmarkLoginTCP(b *testing.B) {
	h := openHouse(b, nil)
	token, stored, _ := NewToken(rand.Reader)
	acc := aliceOnce()
	acc.Tokens = []string{stored}
	h.putAccount(acc)
	keys, err := parseSCRAMKeys(acc.SCRAM)
	if err != nil {
		b.Fatal(err)
	}
	salted, err := pbkdf2.Key(sha256.New, goodPassword, keys.salt, keys.iterations, 32) // a client keeps it
	if err != nil {
		b.Fatal(err)
	}
	plain := func(password string) func(*client) {
		return func(c *client) { c.send("AUTHENTICATE PLAIN", "AUTHENTICATE "+b64("\x00alice\x00"+password)) }
	}
	scram := func(c *client) {
		x := scramClient{salted: salted}
		c.send("AUTHENTICATE SCRAM-SHA-256", "AUTHENTICATE "+b64(x.first("n,,", "alice", rand.Text())))
		c.until("AUTHENTICATE +")
		_, challenge, _ := strings.Cut(c.until("AUTHENTICATE "), " ")
		msg, _ := x.final(string(unbase64(b, challenge)))
		c.send("AUTHENTICATE "+b64(msg), "AUTHENTICATE +")
	}
	for _, way := range []struct {
		name  string
		login func(*client)
	}{{"token", plain(token)}, {"cached", plain(goodPassword)}, {"scram", scram}} {
		b.Run(way.name, func(b *testing.B) {
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					c := h.dial()
					c.send("CAP REQ sasl", "NICK alice", "USER a 0 * :a")
					way.login(c)
					c.send("CAP END")
					c.until(" 001 ")
					c.conn.Close()
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "logins/s")
		})
	}
}
