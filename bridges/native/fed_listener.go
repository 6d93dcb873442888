package native

import (
	"crypto/tls"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

// Bounds of connections between homeservers.
const (
	maxConns     = 1024 // at a time; more wait in the kernel's queue
	maxFrom      = 64   // of one address
	namelessTime = 20 * time.Second
)

// newListener is l with TLS and these bounds, so that who has no certificate, and asks
// for nothing, does not hold all connections.
func newListener(l net.Listener, c *tls.Config) net.Listener {
	return &named{netutil.LimitListener(LimitAddresses(l, maxFrom, nil), maxConns), c, namelessTime}
}

// LimitAddresses is l with at most so many connections of one address at a time; further
// ones are closed at once. Those of the operator's own network, and of proxies, are not
// counted: they may stand for everybody.
func LimitAddresses(l net.Listener, most int, proxies []netip.Prefix) net.Listener {
	return &gate{Listener: l, most: most, proxies: proxies, from: map[netip.Addr]int{}}
}

// shared is for networks of operators too (RFC 6598 §1): balancers and overlays have it.
var shared = netip.MustParsePrefix("100.64.0.0/10")

type gate struct {
	net.Listener
	most    int
	proxies []netip.Prefix

	mu   sync.Mutex
	from map[netip.Addr]int
}

func (g *gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		leave, ok := g.enter(c.RemoteAddr())
		if ok {
			return &entered{c, leave}, nil
		}
		c.Close()
	}
}

// enter counts a connection until leave is called; false if there are too many.
func (g *gate) enter(remote net.Addr) (leave func(), ok bool) {
	at, err := netip.ParseAddrPort(remote.String())
	from := customer(at.Addr())
	proxy := func(p netip.Prefix) bool { return p.Contains(at.Addr().Unmap().WithZone("")) }
	if err != nil || from.IsLoopback() || from.IsPrivate() || shared.Contains(from) || slices.ContainsFunc(g.proxies, proxy) {
		return func() {}, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.from[from] >= g.most {
		return nil, false
	}
	g.from[from]++
	return sync.OnceFunc(func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.from[from]--; g.from[from] == 0 {
			delete(g.from, from)
		}
	}), true
}

// entered is a connection that a gate counts.
type entered struct {
	net.Conn
	leave func()
}

func (e *entered) Close() error {
	e.leave()
	return e.Conn.Close()
}

// named speaks TLS, and closes the connections of who has not shown a certificate
// after a while: it is enough to ask for the directory.
type named struct {
	net.Listener
	config *tls.Config
	within time.Duration
}

func (n *named) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := tls.Server(c, n.config)
	time.AfterFunc(n.within, func() {
		if len(t.ConnectionState().PeerCertificates) == 0 { // it waits for a handshake, whose time is bounded too
			c.Close()
		}
	})
	return t, nil
}
