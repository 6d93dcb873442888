package native

import (
	"crypto/tls"
	"net"
	"net/netip"
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
	return &named{netutil.LimitListener(newGate(l), maxConns), c, namelessTime}
}

// A gate lets in so many connections of one address. Those of the operator's own
// network are not counted: a proxy may stand there for everybody.
type gate struct {
	net.Listener

	mu   sync.Mutex
	from map[netip.Addr]int
}

func newGate(l net.Listener) *gate { return &gate{Listener: l, from: map[netip.Addr]int{}} }

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
	if err != nil || from.IsLoopback() || from.IsPrivate() {
		return func() {}, true
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.from[from] >= maxFrom {
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
