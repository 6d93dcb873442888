package irc

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"
)

// Lines that no client should send get a clear answer and touch nobody else.
func TestHostileLines(t *testing.T) {
	h := openHouse(t, nil)
	c := h.user("mallory", "standard-replies", "message-tags")
	cases := []struct{ send, want string }{
		{"@a \r\n", ":irc.example FAIL * INVALID_LINE :line has no command"},
		{"@\r\n", ":irc.example FAIL * INVALID_LINE :line has no command"},
		{": \r\n", ":irc.example FAIL * INVALID_LINE :line has no command"},
		{"PRIVMSG #x :a\x00b\r\n", ":irc.example FAIL * INVALID_LINE :line has NUL or CR inside"},
		{"@+a=b\rc PRIVMSG #x :x\r\n", ":irc.example FAIL * INVALID_LINE :line has NUL or CR inside"},
		{"PRIVMSG #x :caf\xe9\r\n", ":irc.example FAIL * INVALID_UTF8 :Message rejected, your client must use UTF-8…"},
		{"PRIVMSG #x :" + strings.Repeat("y", 600) + "\r\n", ":irc.example 417 mallory :Input line was too long"},
		{"@+a=" + strings.Repeat("y", 5000) + " PRIVMSG #x :z\r\n", ":irc.example 417 mallory :Input line was too long"},
		{strings.Repeat("z", 1<<20) + "\r\n", ":irc.example 417 mallory :Input line was too long"},
		{"JOIN " + strings.Repeat("#", 400) + "\r\n", ":irc.example 403 mallory #####…"},
		{"MODE\r\n", ":irc.example 461 mallory MODE :Not enough parameters"},
	}
	for _, x := range cases {
		if _, err := c.conn.Write([]byte(x.send)); err != nil {
			t.Fatal(err)
		}
		c.expect(x.want)
	}
	c.send("PING still here")
	c.expect(":irc.example PONG irc.example :still")
}

// Text never becomes a command or a second line.
func TestInjection(t *testing.T) {
	h := openHouse(t, nil)
	a, b := h.user("alice", "message-tags"), h.user("bob", "message-tags")
	a.join("#c")
	b.join("#c")
	a.send(`@+typing=active\r\nQUIT TAGMSG #c`, "PRIVMSG #c ::leading", "PRIVMSG #c :\x01VERSION\x01", "TOPIC #c ::t")
	for _, s := range b.sync() {
		if strings.Contains(s, " QUIT") && !strings.Contains(s, `\r\n`) {
			t.Errorf("injected: %q", s)
		}
	}
	b.send("NAMES #c") // and the connection still makes sense
	b.until(" 366 ")
}

// A client that never reads is closed with a clear ERROR once its queue is over
// the bound, and nobody waits for it meanwhile.
func TestSlowReader(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.SendQueue = 64 << 10 })
	a, b := h.user("alice"), h.user("bob")
	s := h.dial()
	s.conn.(*net.TCPConn).SetReadBuffer(4096)
	s.register("sloth")
	for _, c := range []*client{a, b, s} {
		c.join("#c")
	}
	a.sync()
	text := strings.Repeat("x", 400)
	quit := false
	for i := 0; i < 2000 && !quit; i++ {
		a.send(strings.Repeat("PRIVMSG #c :"+text+"\r\n", 30) + "PING x")
		for {
			l := a.line()
			quit = quit || has(l, ":sloth!", " QUIT :SendQ exceeded")
			if has(l, " PONG ") {
				break
			}
		}
		for range 30 {
			b.until(text)
		}
	}
	if !quit {
		t.Fatal("the slow reader was never closed")
	}
	var tail []byte
	s.conn.SetReadDeadline(time.Now().Add(patience))
	buf := make([]byte, 64<<10)
	for {
		n, err := s.r.Read(buf)
		tail = append(tail, buf[:n]...)
		if err != nil {
			break
		}
	}
	if !bytes.Contains(tail, []byte("SendQ exceeded")) {
		t.Logf("the ERROR did not fit the closed window (best effort): ended with %.80q", tail[max(0, len(tail)-80):])
	}
}

// One that sends too fast is held back; one that does not stop is closed.
func TestFlood(t *testing.T) {
	h := openHouse(t, func(c *Config) {
		c.CommandBurst, c.CommandInterval, c.RecvQueue = 10, 50*time.Millisecond, 8<<10
	})
	c := h.user("alice")
	time.Sleep(600 * time.Millisecond)
	began := time.Now()
	for range 20 {
		c.send("PING x")
	}
	for range 20 {
		c.until("PONG")
	}
	if d := time.Since(began); d < 300*time.Millisecond {
		t.Errorf("20 commands took %v", d)
	}
	c.conn.Write(bytes.Repeat([]byte("PING "+strings.Repeat("x", 400)+"\r\n"), 200))
	c.until("ERROR :Closing link: Excess Flood")
}

// Who does not register in time, or is silent for too long, is closed.
func TestTimeouts(t *testing.T) {
	h := openHouse(t, func(c *Config) {
		c.RegistrationTimeout, c.PingInterval, c.PingTimeout = 2*time.Second, time.Second, time.Second
	})
	c, d := h.dial(), h.user("alice")
	d.until("PING :irc.example")
	d.send("PONG :irc.example")
	d.until("PING :irc.example")
	d.until("ERROR :Closing link: Ping timeout")
	c.until("ERROR :Closing link: Registration timed out")
}
