package irc

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// A Listener is one socket where clients connect.
type Listener struct {
	Name              string // for the log
	Address           string // host:port
	TLS               bool
	CertFile, KeyFile string // PEM, with TLS
	WebSocket         bool
	Origins           []string       // hosts that browsers may come from; none = the same host
	Proxy             []netip.Prefix // if any: load balancers; each of their connections begins with a PROXY header, and nobody else may connect
}

// Access says how clients come in.
type Access struct {
	Listeners []Listener
	Origins   []string       // as Listener.Origins, for the handler of WebSocket
	Forwarded []netip.Prefix // reverse proxies whose X-Forwarded-For and -Proto that handler believes
	Limits    ConnLimits
	WebIRC    []WebIRC
	STS       time.Duration // how long clients remember to use TLS; 0 = not offered
}

// A WebIRC is a gateway that says who is behind its connections
// (https://ircv3.net/specs/extensions/webirc).
type WebIRC struct {
	From     []netip.Prefix
	Password string
}

// Bounds of what happens before a session begins.
const (
	helloTime  = 10 * time.Second // PROXY header, TLS handshake, or HTTP request
	maxLinger  = 64               // refused connections that are still told why
	lingerTime = time.Second
	maxBackoff = time.Second // between failed accepts: no descriptors left
	maxHTTP    = 8 << 10     // octets of an HTTP request's header
)

// keepAlive finds peers that are gone without a word, within two minutes.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: time.Minute, Interval: 15 * time.Second, Count: 4}

// A transport accepts connections and hands them to serve, which returns when
// the session is over and closes the connection itself.
type transport struct {
	access Access
	log    *slog.Logger
	limits *limiter
	serve  func(context.Context, net.Conn, connInfo)
	linger chan struct{}
	doors  []*door

	ctx atomic.Pointer[context.Context] // of sessions; nil before run

	mu       sync.Mutex     // between begin and stop
	running  sync.WaitGroup // connections
	stopping atomic.Bool
}

// A door is one open listener.
type door struct {
	Listener
	socket net.Listener
	tls    *tls.Config
	cert   atomic.Pointer[tls.Certificate]
	web    *webDoor // with WebSocket
}

func newTransport(a Access, log *slog.Logger, serve func(context.Context, net.Conn, connInfo)) *transport {
	return &transport{access: a, log: log, limits: newLimiter(a.Limits, time.Now), serve: serve,
		linger: make(chan struct{}, maxLinger)}
}

// open opens all listeners, or none.
func (t *transport) open(ctx context.Context) error {
	for _, l := range t.access.Listeners {
		d, err := t.openDoor(ctx, l)
		if err != nil {
			t.close()
			t.doors = nil
			return core.Errorf(core.Unavailable, "IRC listener %s: %w", l.Name, err)
		}
		t.doors = append(t.doors, d)
	}
	return nil
}

func (t *transport) openDoor(ctx context.Context, l Listener) (*door, error) {
	d := &door{Listener: l}
	if l.TLS {
		if err := d.loadCert(); err != nil {
			return nil, err
		}
		protocol := "irc" // as IANA registered it for ALPN
		if l.WebSocket {
			protocol = "http/1.1"
		}
		d.tls = &tls.Config{MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert, NextProtos: []string{protocol},
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return d.cert.Load(), nil }}
	}
	if l.WebSocket {
		d.web = newWebDoor(t, l.Origins)
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	var err error
	d.socket, err = lc.Listen(ctx, "tcp", l.Address)
	return d, err
}

func (t *transport) close() {
	for _, d := range t.doors {
		d.socket.Close()
	}
}

func (d *door) loadCert() error {
	c, err := tls.LoadX509KeyPair(d.CertFile, d.KeyFile)
	if err != nil {
		return err
	}
	d.cert.Store(&c)
	return nil
}

// reloadTLS reads all certificates again. One that cannot be read stays as it
// was, and is part of the error; connections that exist keep theirs.
func (t *transport) reloadTLS() error {
	var errs []error
	for _, d := range t.doors {
		if d.tls != nil {
			if err := d.loadCert(); err != nil {
				errs = append(errs, core.Errorf(core.Invalid, "IRC listener %s: %w", d.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

// run accepts until ctx ends, then closes the listeners. Sessions get sessions
// as their context and are not waited for.
func (t *transport) run(ctx, sessions context.Context) error {
	t.ctx.Store(&sessions)
	errs := make(chan error, len(t.doors))
	var accepting sync.WaitGroup
	for _, d := range t.doors {
		if d.web != nil {
			go d.web.server.Serve(d.web.in) // ends when in is closed
		}
		accepting.Go(func() { errs <- t.accept(ctx, d) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-errs:
	}
	t.close()
	for _, d := range t.doors {
		if d.web != nil {
			d.web.server.Close() // sessions are not among its connections any more
			d.web.in.Close()
		}
	}
	accepting.Wait()
	return err
}

// begin counts a connection as running; false when no more may begin.
func (t *transport) begin() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopping.Load() {
		return false
	}
	t.running.Add(1)
	return true
}

// stop lets nothing begin any more; running can be waited for afterwards.
func (t *transport) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopping.Store(true)
}

// accept takes connections from one listener. A failed accept, as when there are
// no descriptors left, is tried again more and more slowly.
func (t *transport) accept(ctx context.Context, d *door) error {
	backoff := time.Duration(0)
	for {
		c, err := d.socket.Accept()
		switch {
		case err == nil:
			backoff = 0
			t.arrive(d, c)
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return core.Errorf(core.Unavailable, "IRC listener %s closed: %w", d.Name, err)
		}
		if backoff == 0 {
			t.log.Warn("accepting IRC connections failed", "listener", d.Name, "err", err)
		}
		backoff = min(max(2*backoff, 5*time.Millisecond), maxBackoff)
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
	}
}

// arrive admits or refuses one connection; it does not block.
func (t *transport) arrive(d *door, c net.Conn) {
	info := connInfo{addr: addrOf(c.RemoteAddr())}
	if len(d.Proxy) > 0 {
		if !contains(d.Proxy, info.addr) {
			c.Close()
			return
		}
	} else {
		place, err := t.limits.admit(info.addr)
		if err != nil {
			t.refuse(d, c, err)
			return
		}
		info.place = place
	}
	if !t.begin() {
		info.place.release()
		c.Close()
		return
	}
	go func() {
		defer t.running.Done()
		t.welcome(d, c, info)
	}()
}

func addrOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// refuse tells a connection why and closes it. A few are given a second to read
// the reason: closed at once, what they have sent already would make the kernel
// throw it away. With TLS or HTTP the reason would cost more than it is worth.
func (t *transport) refuse(d *door, c net.Conn, err error) {
	if d.tls != nil || d.web != nil {
		c.Close()
		return
	}
	c.SetDeadline(time.Now().Add(lingerTime))
	io.WriteString(c, "ERROR :Closing link: "+core.TextOf(err)+"\r\n")
	select {
	case t.linger <- struct{}{}:
		go func() {
			if tc, ok := c.(*net.TCPConn); ok {
				tc.CloseWrite()
			}
			io.CopyN(io.Discard, c, maxLine)
			c.Close()
			<-t.linger
		}()
	default:
		c.Close()
	}
}

// welcome does what comes before the session's first line, then runs it.
func (t *transport) welcome(d *door, c net.Conn, info connInfo) {
	c.SetDeadline(time.Now().Add(helloTime))
	if len(d.Proxy) > 0 {
		if err := t.proxied(c, &info); err != nil {
			if core.CodeOf(err) == core.Limited {
				t.refuse(d, c, err)
			} else {
				c.Close()
			}
			return
		}
	}
	if d.tls != nil {
		tc := tls.Server(c, d.tls)
		if err := tc.Handshake(); err != nil {
			c.Close()
			info.place.release()
			return
		}
		info.secure = true
		if certs := tc.ConnectionState().PeerCertificates; len(certs) > 0 {
			info.certFP = hexSHA256(certs[0].Raw)
		}
		c = tc
	}
	c.SetDeadline(time.Time{})
	if d.web != nil {
		d.web.in.put(&webConn{Conn: c, info: info})
		return
	}
	// A goroutine of its own: its stack stays small for as long as the session
	// lasts, while that of a handshake has grown.
	t.running.Go(func() {
		defer info.place.release()
		t.serve(*t.ctx.Load(), c, info)
	})
}

// proxied reads the PROXY header and admits whom it names.
func (t *transport) proxied(c net.Conn, info *connInfo) error {
	p, err := readProxy(c)
	if err != nil {
		return err
	}
	if p.from.IsValid() {
		info.addr = p.from
		info.secure = p.secure
		if len(p.cert) > 0 {
			info.certFP = hexSHA256(p.cert)
		}
	}
	info.place, err = t.limits.admit(info.addr)
	return err
}

// A webConn is a connection on its way through the HTTP server.
type webConn struct {
	net.Conn
	info connInfo

	mu   sync.Mutex
	held bool
	buf  []byte
}

func (c *webConn) Close() error {
	c.info.place.release()
	return c.Conn.Close()
}

// hold keeps what is written until flush, so that many small frames leave in one
// call.
func (c *webConn) hold() {
	c.mu.Lock()
	c.held = true
	c.mu.Unlock()
}

func (c *webConn) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = false
	if len(c.buf) == 0 {
		return nil
	}
	_, err := c.Conn.Write(c.buf)
	if c.buf = c.buf[:0]; cap(c.buf) > gatherSize {
		c.buf = nil
	}
	return err
}

func (c *webConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held && len(c.buf)+len(b) <= 2*gatherSize {
		c.buf = append(c.buf, b...)
		return len(b), nil
	}
	if len(c.buf) > 0 {
		if _, err := c.Conn.Write(c.buf); err != nil {
			return 0, err
		}
		c.buf = c.buf[:0]
	}
	return c.Conn.Write(b)
}

// A webDoor is the HTTP server behind a WebSocket listener.
type webDoor struct {
	server *http.Server
	in     *webQueue
}

type webConnKey struct{}

func newWebDoor(t *transport, origins []string) *webDoor {
	h := func(w http.ResponseWriter, r *http.Request) {
		c := r.Context().Value(webConnKey{}).(*webConn)
		t.serveWeb(w, r, origins, c.info, c)
	}
	return &webDoor{in: &webQueue{conns: make(chan net.Conn), closed: make(chan struct{})}, server: &http.Server{
		Handler: http.HandlerFunc(h), ReadHeaderTimeout: helloTime, IdleTimeout: helloTime, MaxHeaderBytes: maxHTTP,
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), // what strangers send is no news
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, webConnKey{}, c) },
	}}
}

// A webQueue is the listener of a webDoor: what it accepts has been admitted.
type webQueue struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (q *webQueue) put(c net.Conn) {
	select {
	case q.conns <- c:
	case <-q.closed:
		c.Close()
	}
}

func (q *webQueue) Accept() (net.Conn, error) {
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *webQueue) Close() error   { q.once.Do(func() { close(q.closed) }); return nil }
func (q *webQueue) Addr() net.Addr { return &net.TCPAddr{} }

// ServeHTTP is IRC over WebSocket for somebody else's HTTP server.
func (t *transport) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if t.ctx.Load() == nil || t.stopping.Load() {
		http.Error(w, "not ready", http.StatusServiceUnavailable)
		return
	}
	info := t.webInfo(r)
	place, err := t.limits.admit(info.addr)
	if err != nil {
		w.Header().Set("Retry-After", "60")
		http.Error(w, core.TextOf(err), http.StatusTooManyRequests)
		return
	}
	info.place = place
	defer place.release()
	t.serveWeb(w, r, t.access.Origins, info, nil)
}

// webInfo says who sent r: the last address in X-Forwarded-For that is not one
// of our reverse proxies, as far as those vouch for each other.
func (t *transport) webInfo(r *http.Request) connInfo {
	info := connInfo{secure: r.TLS != nil}
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		info.addr = ap.Addr().Unmap().WithZone("")
	}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		info.certFP = hexSHA256(r.TLS.PeerCertificates[0].Raw)
	}
	if !contains(t.access.Forwarded, info.addr) {
		return info
	}
	info.certFP = "" // it is the proxy's
	info.secure = r.Header.Get("X-Forwarded-Proto") == "https"
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && contains(t.access.Forwarded, info.addr); i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		info.addr = a.Unmap().WithZone("")
	}
	return info
}

func (t *transport) serveWeb(w http.ResponseWriter, r *http.Request, origins []string, info connInfo, hold *webConn) {
	if !t.begin() {
		http.Error(w, "stopping", http.StatusServiceUnavailable)
		return
	}
	defer t.running.Done()
	c, err := upgrade(w, r, origins, hold)
	if err != nil {
		return // upgrade has answered
	}
	info.websocket = true
	t.serve(*t.ctx.Load(), c, info)
}

var errWebIRC = &core.Error{Code: core.Denied, Text: "not a gateway of this server"}

// webirc obeys WEBIRC password gateway hostname ip [options]: it moves info to
// the address that a gateway vouches for. Errors are Denied, Invalid or Limited.
func (t *transport) webirc(info *connInfo, params []string) error {
	if len(params) < 4 {
		return core.Errorf(core.Invalid, "not enough parameters")
	}
	known := false
	for _, g := range t.access.WebIRC {
		if contains(g.From, info.addr) && subtle.ConstantTimeCompare([]byte(g.Password), []byte(params[0])) == 1 && g.Password != "" {
			known = true
		}
	}
	if !known {
		return errWebIRC
	}
	addr, err := netip.ParseAddr(params[3])
	if err != nil || addr.Zone() != "" {
		return core.Errorf(core.Invalid, "not an address")
	}
	if info.place != nil {
		if err := info.place.move(addr); err != nil {
			return err
		}
	}
	info.addr = addr.Unmap()
	// The client is as safe as its connection to the gateway, if ours to it is.
	// "secure" says that it is; a gateway on this machine needs no TLS.
	secure := false
	if len(params) > 4 {
		for f := range strings.FieldsSeq(params[4]) {
			secure = secure || f == "secure" || strings.HasPrefix(f, "secure=")
		}
	}
	info.secure, info.certFP = secure, ""
	return nil
}

// stsValue returns the value of the sts capability for a session
// (https://ircv3.net/specs/extensions/sts), "" if there is none: where to find
// TLS for a client without it, for how long to insist for one with it.
func (t *transport) stsValue(info connInfo) string {
	if t.access.STS <= 0 || info.websocket {
		return ""
	}
	if info.secure {
		return "duration=" + strconv.FormatInt(int64(t.access.STS/time.Second), 10)
	}
	for _, d := range t.doors {
		if d.tls != nil && d.web == nil {
			return "port=" + strconv.Itoa(int(d.socket.Addr().(*net.TCPAddr).Port))
		}
	}
	return ""
}

// Listen opens the listeners of the configuration, so that a port in use is
// known before anything else starts. Nobody is served before Run.
func (srv *Server) Listen(ctx context.Context) error { return srv.transport.open(ctx) }

// Addrs returns where the server listens, in the order of the configuration.
func (srv *Server) Addrs() []net.Addr {
	var as []net.Addr
	for _, d := range srv.transport.doors {
		as = append(as, d.socket.Addr())
	}
	return as
}

// WebSocket is the handler of IRC over WebSocket, for another HTTP server.
func (srv *Server) WebSocket() http.Handler { return srv.transport }

// Run implements bridges.Bridge. It opens the listeners if Listen has not.
func (srv *Server) Run(ctx context.Context, gw bridges.Gateway) error {
	if len(srv.transport.doors) == 0 {
		if err := srv.Listen(ctx); err != nil {
			return err
		}
	}
	defer srv.transport.close()
	// Sessions end after ctx has: their goodbyes have to be stored.
	sessions, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if err := srv.start(sessions, gw); err != nil {
		return err
	}
	go srv.watch(ctx)
	err := srv.transport.run(ctx, sessions)
	srv.transport.stop()
	gone := make(chan struct{})
	go func() {
		srv.transport.running.Wait()
		close(gone)
	}()
	limit := time.After(shutdownTime)
	for {
		srv.world.mu.RLock()
		for s := range srv.world.sessions {
			s.conn.SetReadDeadline(time.Unix(1, 0)) // the reader ends the session
		}
		srv.world.mu.RUnlock()
		select {
		case <-gone:
			return err
		case <-limit:
			srv.log.Warn("IRC sessions did not end in time")
			return err
		case <-time.After(tick / 50): // one that was just beginning
		}
	}
}
