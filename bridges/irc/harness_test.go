package irc

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

const (
	testDomain = "irc.example"
	patience   = 20 * time.Second // for what has to come, on a machine that does much else
)

// A house is a listener with the real runtime, engine and SQLite store.
type house struct {
	t       testing.TB
	srv     *Server
	rt      *bridges.Runtime
	db      *store.DB
	gw      *brokenGateway
	addr    string
	stop    context.CancelFunc
	stopped chan error
}

// A brokenGateway is the runtime, until a test says that the store is away.
type brokenGateway struct {
	bridges.Gateway
	away atomic.Bool
}

func (g *brokenGateway) Submit(ctx context.Context, es ...core.Envelope) ([]core.Receipt, error) {
	if g.away.Load() {
		return nil, core.Errorf(core.Unavailable, "the store is away")
	}
	return g.Gateway.Submit(ctx, es...)
}

// A gated bridge is the listener, run with the test's gateway.
type gated struct {
	*Server
	house *house
}

func (g gated) Run(ctx context.Context, gw bridges.Gateway) error {
	g.house.gw = &brokenGateway{Gateway: gw}
	return g.Server.Run(ctx, g.house.gw)
}

func openHouse(t testing.TB, change func(*Config)) *house {
	t.Helper()
	return openHouseIn(t, t.TempDir(), change)
}

func openHouseIn(t testing.TB, dir string, change func(*Config)) *house {
	t.Helper()
	cfg := Defaults(testDomain)
	cfg.CommandInterval = 0
	cfg.MOTD = "Be kind."
	cfg.Secret = []byte("0123456789abcdef")
	cfg.Access.Listeners = []Listener{{Name: "test", Address: "127.0.0.1:0"}}
	cfg.Access.Limits.PerAddress, cfg.Access.Limits.Burst = 1<<20, 1<<20
	if change != nil {
		change(&cfg)
	}
	db, err := store.Open(context.Background(), store.Options{URL: "sqlite:" + filepath.Join(dir, "isthmus.db"), Homeserver: testDomain})
	if err != nil {
		t.Fatal(err)
	}
	h := &house{t: t, srv: New(cfg, nil), db: db, stopped: make(chan error, 1)}
	seed := sha256.Sum256([]byte("test key"))
	key := ed25519.NewKeyFromSeed(seed[:])
	h.rt = bridges.NewRuntime(bridges.RuntimeConfig{Store: db, Holder: "test",
		Engine:  func() bridges.Decider { return core.NewEngine(core.Config{Homeserver: testDomain, Key: key}) },
		Bridges: []bridges.Bridge{gated{h.srv, h}}})
	ctx, stop := context.WithCancel(context.Background())
	if err := h.srv.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	h.addr = h.srv.Addrs()[0].String()
	h.stop = stop
	go func() { h.stopped <- h.rt.Run(ctx) }()
	t.Cleanup(h.close)
	return h
}

// close stops the house as a signal would; more than once does nothing.
func (h *house) close() {
	if h.stop == nil {
		return
	}
	h.stop()
	h.stop = nil
	select {
	case err := <-h.stopped:
		if err != nil {
			h.t.Errorf("the runtime ended with %v", err)
		}
	case <-time.After(patience):
		h.t.Error("the runtime did not stop")
	}
	h.db.Close()
}

// A client is one IRC connection, line by line.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	nick string
}

// dial connects without registering.
func (h *house) dial() *client {
	h.t.Helper()
	c, err := net.Dial("tcp", h.addr)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return &client{t: h.t, conn: c, r: bufio.NewReaderSize(c, 64<<10)}
}

// user connects and registers as a guest with these capabilities.
func (h *house) user(nick string, caps ...string) *client {
	h.t.Helper()
	c := h.dial()
	c.register(nick, caps...)
	return c
}

func (c *client) register(nick string, caps ...string) {
	c.t.Helper()
	c.nick = nick
	if len(caps) > 0 {
		c.send("CAP LS 302", "CAP REQ :"+strings.Join(caps, " "))
		c.until("CAP", "ACK")
	}
	c.send("NICK "+nick, "USER "+nick+" 0 * :Real "+nick)
	if len(caps) > 0 {
		c.send("CAP END")
	}
	c.until(" 376 ")
}

func (c *client) send(lines ...string) {
	c.t.Helper()
	c.conn.SetWriteDeadline(time.Now().Add(patience))
	if _, err := c.conn.Write([]byte(strings.Join(lines, "\r\n") + "\r\n")); err != nil {
		c.t.Fatalf("%s: send: %v", c.nick, err)
	}
}

// line reads one line; "" at the end of the connection.
func (c *client) line() string {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	s, err := c.r.ReadString('\n')
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("%s: nothing came (have %q)", c.nick, s)
	}
	if err != nil {
		return ""
	}
	if !strings.HasSuffix(s, "\r\n") || strings.ContainsAny(s[:len(s)-2], "\r\n\x00") {
		c.t.Errorf("%s: bad line %q", c.nick, s)
	}
	return strings.TrimSuffix(s, "\r\n")
}

// until reads up to the line that has every word, and returns it.
func (c *client) until(words ...string) string {
	c.t.Helper()
	var seen []string
	for range 5000 {
		s := c.line()
		if s == "" {
			c.t.Fatalf("%s: closed before %q; saw\n%s", c.nick, words, strings.Join(seen, "\n"))
		}
		if has(s, words...) {
			return s
		}
		seen = append(seen, s)
	}
	c.t.Fatalf("%s: no %q", c.nick, words)
	return ""
}

func has(s string, words ...string) bool {
	for _, w := range words {
		if !strings.Contains(s, w) {
			return false
		}
	}
	return true
}

// expect reads one line and compares it; "…" at the end stands for any rest.
func (c *client) expect(want string) string {
	c.t.Helper()
	got := c.line()
	if rest, open := strings.CutSuffix(want, "…"); open && strings.HasPrefix(got, rest) {
		return got
	}
	if got != want {
		c.t.Fatalf("%s: got  %q\nwant %q", c.nick, got, want)
	}
	return got
}

var syncs atomic.Int64

// sync returns what came before the answer to a PING sent now: everything that
// the server had for this client.
func (c *client) sync() []string {
	c.t.Helper()
	token := fmt.Sprintf("sync%d", syncs.Add(1))
	c.send("PING " + token)
	var out []string
	for {
		s := c.line()
		if s == "" {
			c.t.Fatalf("%s: closed; saw\n%s", c.nick, strings.Join(out, "\n"))
		}
		if has(s, " PONG ", token) {
			return out
		}
		out = append(out, s)
	}
}

// silent checks that nothing came.
func (c *client) silent() {
	c.t.Helper()
	if got := c.sync(); len(got) > 0 {
		c.t.Errorf("%s: expected nothing, got %q", c.nick, got)
	}
}

// join joins and drops the answer.
func (c *client) join(channel string) {
	c.t.Helper()
	c.send("JOIN " + channel)
	c.until(" 366 ", channel)
}

// deadlineNow is soon enough that only what has arrived is read, with room for
// the kernel to carry it over loopback.
func deadlineNow() time.Time { return time.Now().Add(50 * time.Millisecond) }
