package irc

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/isthmus-chat/isthmus/core"
)

// makeCert returns a self-signed certificate, and writes it as PEM if dir is set.
func makeCert(t testing.TB, name, dir string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if dir != "" {
		k, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		writePEM(t, filepath.Join(dir, "cert.pem"), "CERTIFICATE", der)
		writePEM(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", k)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func writePEM(t testing.TB, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// tlsHouse has a plain listener and one with TLS.
func tlsHouse(t testing.TB, change func(*Config)) (h *house, dir string) {
	t.Helper()
	dir = t.TempDir()
	makeCert(t, "first", dir)
	h = openHouse(t, func(c *Config) {
		c.Access.Listeners = append(c.Access.Listeners, Listener{Name: "tls", Address: "127.0.0.1:0", TLS: true,
			CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")})
		if change != nil {
			change(c)
		}
	})
	return h, dir
}

func (h *house) wrap(c net.Conn, err error) *client {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { c.Close() })
	return &client{t: h.t, conn: c, r: bufio.NewReaderSize(c, 64<<10)}
}

// dialTo connects to the nth listener.
func (h *house) dialTo(n int) *client {
	h.t.Helper()
	return h.wrap(net.Dial("tcp", h.srv.Addrs()[n].String()))
}

func (h *house) dialTLS(certs ...tls.Certificate) *client {
	h.t.Helper()
	return h.wrap(tls.Dial("tcp", h.srv.Addrs()[1].String(), &tls.Config{InsecureSkipVerify: true, Certificates: certs}))
}

// putAccount stores an account as the command line does.
func (h *house) putAccount(a core.Account) {
	h.t.Helper()
	a.User, a.Created = core.NewUserURI(testDomain, a.Fold), time.Now()
	if _, err := h.rt.Do(context.Background(), core.PutAccount{Account: a, Create: true}); err != nil {
		h.t.Fatal(err)
	}
}

func TestTLS(t *testing.T) {
	h, dir := tlsHouse(t, nil)
	c := h.dialTLS()
	c.register("alice")
	c.send("WHOIS alice")
	c.until(" 671 ") // RPL_WHOISSECURE
	c.until(" 318 ")
	subject := func() string {
		c := h.dialTLS()
		defer c.conn.Close()
		return c.conn.(*tls.Conn).ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := subject(); got != "first" {
		t.Errorf("certificate of %s", got)
	}
	makeCert(t, "second", dir)
	if err := h.srv.Reload(h.srv.cfg); err != nil {
		t.Fatal(err)
	}
	if got := subject(); got != "second" {
		t.Errorf("after reload: certificate of %s", got)
	}
	os.WriteFile(filepath.Join(dir, "cert.pem"), []byte("broken"), 0o600)
	if err := h.srv.Reload(h.srv.cfg); err == nil || !strings.Contains(err.Error(), "listener tls") {
		t.Errorf("broken certificate: %v", err)
	}
	if got := subject(); got != "second" {
		t.Errorf("after a broken reload: certificate of %s", got)
	}
	c.silent() // the old connection lives on
	_, err := tls.Dial("tcp", h.srv.Addrs()[1].String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10})
	if err == nil {
		t.Error("TLS 1.1 accepted")
	}
}

func TestTLSStrangers(t *testing.T) {
	h, _ := tlsHouse(t, nil)
	c := h.dialTo(1)
	c.conn.Write([]byte("NICK plain\r\nUSER a 0 * :a\r\n"))
	got, _ := io.ReadAll(c.r)
	if bytes.Contains(got, []byte(" 001 ")) {
		t.Errorf("plain text on a TLS port: %q", got)
	}
	h.dialTLS().register("bob") // and nobody else notices
}

func TestExternal(t *testing.T) {
	h, _ := tlsHouse(t, nil)
	mine, other := makeCert(t, "mine", ""), makeCert(t, "other", "")
	h.putAccount(core.Account{Name: "Carol", Fold: "carol", Certs: []string{hexSHA256(mine.Certificate[0])}})
	login := func(c *client, want string) {
		t.Helper()
		c.send("CAP LS 302", "NICK carol", "USER c 0 * :c", "CAP REQ sasl", "AUTHENTICATE EXTERNAL", "AUTHENTICATE +")
		c.until(want)
	}
	c := h.dialTLS(mine)
	login(c, " 903 ")
	c.send("CAP END")
	c.until(" 001 ")
	login(h.dialTLS(other), " 904 ")
	login(h.dialTLS(), " 908 ")
	c.send("CAP LS 302")
	c.until("sasl=PLAIN,SCRAM-SHA-256,EXTERNAL")
	d := h.dial()
	d.send("CAP LS 302")
	if got := d.until("sasl=PLAIN,SCRAM-SHA-256"); strings.Contains(got, "EXTERNAL") {
		t.Errorf("EXTERNAL offered without certificate: %s", got)
	}
}

// https://ircv3.net/specs/extensions/sts
func TestSTS(t *testing.T) {
	h, _ := tlsHouse(t, func(c *Config) { c.Access.STS = 30 * 24 * time.Hour })
	_, port, _ := net.SplitHostPort(h.srv.Addrs()[1].String())
	c := h.dial()
	c.send("CAP LS 302")
	c.until(" sts=port=" + port)
	c.send("CAP REQ sts") // a client MUST NOT ask for it
	c.until("CAP * NAK")
	c.send("CAP LS")
	c.until("CAP * LS")
	d := h.dialTLS()
	d.send("CAP LS 302")
	d.until(" sts=duration=2592000")
	e := h.dial()
	e.send("CAP LS")
	if got := e.until("CAP * LS"); strings.Contains(got, "sts") {
		t.Errorf("sts without values: %s", got)
	}
}

func TestProxyListener(t *testing.T) {
	dir := t.TempDir()
	makeCert(t, "server", dir)
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}
	h := openHouse(t, func(c *Config) {
		c.Access.Listeners = []Listener{
			{Name: "proxy", Address: "127.0.0.1:0", Proxy: trusted},
			{Name: "proxytls", Address: "127.0.0.1:0", Proxy: trusted, TLS: true, CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem")},
			{Name: "elsewhere", Address: "127.0.0.1:0", Proxy: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}},
			{Name: "proxyws", Address: "127.0.0.1:0", Proxy: trusted, WebSocket: true},
		}
		c.Access.Limits = ConnLimits{PerAddress: 2, Burst: 100}
	})
	hosts := map[string]bool{}
	for i, header := range [][]byte{[]byte("PROXY TCP4 192.0.2.1 198.51.100.1 4660 6667\r\n"), proxyV2(proxyProxy, proxyTCP6, v6Pair)} {
		c := h.dialTo(0)
		c.conn.Write(header)
		c.register("p" + itoa(i))
		c.send("WHOIS p" + itoa(i))
		hosts[strings.Fields(c.until(" 311 "))[5]] = true
	}
	if len(hosts) != 2 || hosts[h.srv.cloak.address(netip.MustParseAddr("127.0.0.1"))] {
		t.Errorf("hosts %v", hosts)
	}
	for i := range 2 { // the person counts, not the proxy: one is here already
		c := h.dialTo(0)
		c.conn.Write([]byte("PROXY TCP4 192.0.2.1 198.51.100.1 4660 6667\r\n"))
		if i == 1 {
			c.until("ERROR :", "too many connections from your address")
		} else {
			c.register("third")
		}
	}
	for _, n := range []int{0, 2} { // no header; not a proxy
		c := h.dialTo(n)
		c.conn.Write([]byte("NICK alice\r\nUSER a 0 * :a\r\n"))
		if got := c.line(); got != "" {
			t.Errorf("listener %d answered %q", n, got)
		}
	}
	tlsFrom := func(header []byte) *client {
		raw, err := net.Dial("tcp", h.srv.Addrs()[1].String())
		if err != nil {
			t.Fatal(err)
		}
		raw.Write(header)
		return h.wrap(tls.Client(raw, &tls.Config{InsecureSkipVerify: true}), nil)
	}
	if got := tlsFrom(proxyV2(proxyProxy, proxyTCP4, v4Pair)).line(); got != "" { // 192.0.2.1 has its two already
		t.Errorf("a third of that address: %q", got)
	}
	c := tlsFrom([]byte("PROXY TCP4 192.0.2.77 198.51.100.1 4660 6697\r\n"))
	c.register("tls")
	c.send("WHOIS tls")
	c.until(" 311 ", h.srv.cloak.address(netip.MustParseAddr("192.0.2.77")))
	c.until(" 671 ")
	behind := func(ctx context.Context, network, addr string) (net.Conn, error) {
		raw, err := new(net.Dialer).DialContext(ctx, network, addr)
		if err == nil {
			_, err = raw.Write([]byte("PROXY TCP4 192.0.2.78 198.51.100.1 4660 80\r\n"))
		}
		return raw, err
	}
	w, err := dialWS(t, "ws://"+h.srv.Addrs()[3].String()+"/", &websocket.DialOptions{Subprotocols: []string{wsText},
		HTTPClient: &http.Client{Transport: &http.Transport{DialContext: behind}}})
	if err != nil {
		t.Fatal(err)
	}
	w.send(websocket.MessageText, "NICK web", "USER w 0 * :w", "WHOIS web")
	if got := w.until(websocket.MessageText, " 311 "); !strings.Contains(got, h.srv.cloak.address(netip.MustParseAddr("192.0.2.78"))) {
		t.Errorf("host in %s", got)
	}
}

// A slow PROXY header or TLS handshake holds up nobody else.
func TestSilentConnectionsHoldUpNobody(t *testing.T) {
	h, _ := tlsHouse(t, nil)
	for range 50 {
		h.dialTo(1)
		h.dialTo(0)
	}
	h.dialTLS().register("alice")
}

func TestWebIRC(t *testing.T) {
	h := openHouse(t, func(c *Config) {
		c.Access.WebIRC = []WebIRC{{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Password: "gateway secret"}, {Password: ""}}
	})
	c := h.dial()
	c.send(":x WEBIRC :gateway secret", "QUIT")
	c.until(" 461 ")
	c = h.dial()
	c.send("WEBIRC gateway_secret kiwi host.example 192.0.2.9")
	c.until("ERROR :", "WEBIRC refused")
	c = h.dial()
	c.conn.Write([]byte("WEBIRC :gateway secret\r\n"))
	c.until(" 461 ")
}

func TestWebIRCMoves(t *testing.T) {
	h := openHouse(t, func(c *Config) {
		c.Access.WebIRC = []WebIRC{{From: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Password: "secret"}}
		c.Access.Limits = ConnLimits{PerAddress: 3, Burst: 1000}
	})
	for i := range 3 {
		c := h.dial()
		c.send("WEBIRC secret kiwi host.example 192.0.2.9 :secure", "NICK w"+itoa(i), "USER w 0 * :w")
		c.until(" 376 ")
		c.send("WHOIS w" + itoa(i))
		if got := c.until(" 311 "); !strings.Contains(got, h.srv.cloak.address(netip.MustParseAddr("192.0.2.9"))) {
			t.Errorf("host in %s", got)
		}
		c.until(" 671 ")
	}
	c := h.dial()
	c.send("WEBIRC secret kiwi host.example 192.0.2.9")
	c.until("ERROR :", "too many connections")
	c = h.dial()
	c.send("CAP LS 302", "WEBIRC secret kiwi host.example 192.0.2.10") // not first
	c.until(" 462 ")
	c = h.dial()
	c.send("WEBIRC wrong kiwi host.example 192.0.2.9")
	c.until("ERROR :", "not a gateway")
	c = h.dial()
	c.send("WEBIRC secret kiwi host.example host.example")
	c.until("ERROR :", "not an address")
}

// 10,000 connections from one address: each is told why, memory stays, and
// somebody else comes in at once.
func TestTenThousandConnections(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.Access.Limits = ConnLimits{PerAddress: 5, Burst: 10, Interval: time.Hour} })
	from := func(ip string) net.Dialer {
		return net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: patience}
	}
	attacker, friend := from("127.0.0.2"), from("127.0.0.3")
	var held []net.Conn
	for range 5 {
		c, err := attacker.Dial("tcp", h.addr)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, c)
	}
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	told, cpu := 0, cpuTime()
	start := time.Now()
	for i := range 10_000 {
		c, err := attacker.Dial("tcp", h.addr)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		if i%100 == 0 {
			c.SetReadDeadline(time.Now().Add(patience))
			b, _ := io.ReadAll(c)
			if strings.HasPrefix(string(b), "ERROR :Closing link: too many connections from your address") {
				told++
			}
		}
		c.Close()
	}
	took := time.Since(start)
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("10,000 refused in %v, %v of CPU with the attacker's; %d of 100 asked were told why", took, cpuTime()-cpu, told)
	if told < 95 {
		t.Errorf("%d of 100 were told why", told)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 2<<20 {
		t.Errorf("the heap grew by %d octets", grown)
	}
	h.wrap(friend.Dial("tcp", h.addr)).register("friend")
	for _, c := range held {
		c.Close()
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// scarce fails as a socket does without descriptors.
type scarce struct {
	net.Listener
	fails atomic.Int32
}

func (s *scarce) Accept() (net.Conn, error) {
	if s.fails.Add(-1) >= 0 {
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return s.Listener.Accept()
}

func TestAcceptWithoutDescriptors(t *testing.T) {
	served := make(chan connInfo, 1)
	var log bytes.Buffer
	tr := newTransport(Access{Listeners: []Listener{{Name: "x", Address: "127.0.0.1:0"}}}, slog.New(slog.NewTextHandler(&log, nil)),
		func(_ context.Context, c net.Conn, info connInfo) { c.Close(); served <- info })
	if err := tr.open(context.Background()); err != nil {
		t.Fatal(err)
	}
	s := &scarce{Listener: tr.doors[0].socket}
	s.fails.Store(5)
	tr.doors[0].socket = s
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- tr.run(ctx, context.Background()) }()
	c, err := net.Dial("tcp", s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	select {
	case info := <-served:
		if info.addr.String() != "127.0.0.1" || info.secure {
			t.Errorf("%+v", info)
		}
	case <-time.After(patience):
		t.Fatal("not served after the descriptors came back")
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if n := strings.Count(log.String(), "accepting IRC connections failed"); n != 1 {
		t.Errorf("logged %d times: %s", n, log.String())
	}
	tr.running.Wait()
	if tr.limits.total != 0 {
		t.Errorf("%d places left", tr.limits.total)
	}
}

func TestListenErrors(t *testing.T) {
	used, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer used.Close()
	for name, ls := range map[string][]Listener{
		"port in use":    {{Name: "free", Address: "127.0.0.1:0"}, {Name: "taken", Address: used.Addr().String()}},
		"no certificate": {{Name: "taken", Address: "127.0.0.1:0", TLS: true, CertFile: "/nonexistent", KeyFile: "/nonexistent"}},
	} {
		tr := newTransport(Access{Listeners: ls}, slog.New(slog.DiscardHandler), nil)
		err := tr.open(context.Background())
		if err == nil || !strings.Contains(err.Error(), "listener taken") || len(tr.doors) != 0 {
			t.Errorf("%s: %v, %d open", name, err, len(tr.doors))
		}
		if name == "no certificate" && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: cause lost: %v", name, err)
		}
	}
}

func TestForwarded(t *testing.T) {
	tr := newTransport(Access{Forwarded: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}}, nil, nil)
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "203.0.113.9", "192.0.2.1"}, // not a proxy of ours: forged
		{"10.0.0.1:5", "203.0.113.9", "203.0.113.9"},
		{"10.0.0.1:5", "1.2.3.4, 203.0.113.9, 10.0.0.2", "203.0.113.9"}, // what the client wrote in front is not believed
		{"10.0.0.1:5", "junk", "10.0.0.1"},
		{"10.0.0.1:5", "", "10.0.0.1"},
	} {
		r := httptest.NewRequest("GET", "/irc", nil)
		r.RemoteAddr = c.remote
		r.Header.Set("X-Forwarded-For", c.forwarded)
		r.Header.Set("X-Forwarded-Proto", "https")
		info := tr.webInfo(r)
		if info.addr.String() != c.want || info.secure != strings.HasPrefix(c.remote, "10.") {
			t.Errorf("%+v: %+v", c, info)
		}
	}
}
