package native

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"
)

// knocks are connections from these addresses.
type knocks struct {
	net.Listener
	from []string
}

type knock struct {
	net.Conn
	from net.Addr
}

func (k *knock) RemoteAddr() net.Addr { return k.from }
func (k *knock) Close() error         { return nil }

func (k *knocks) Accept() (net.Conn, error) {
	if len(k.from) == 0 {
		return nil, io.EOF
	}
	a, err := net.ResolveTCPAddr("tcp", k.from[0])
	k.from = k.from[1:]
	return &knock{from: a}, err
}

// One address does not hold all connections, nor does who has many of IPv6; others,
// and a proxy of the operator's, are let in beside it.
func TestGateCountsAddresses(t *testing.T) {
	for name, c := range map[string]struct {
		from string
		want int
	}{
		"IPv4":           {"192.0.2.1:1", maxFrom},
		"IPv6":           {"[2001:db8::%d]:1", maxFrom},
		"IPv4 in IPv6":   {"[::ffff:192.0.2.1]:1", maxFrom},
		"this machine":   {"127.0.0.1:1", 100},
		"a private host": {"10.1.2.3:1", 100},
		"a shared one":   {"100.64.1.2:1", 100},
		"a proxy":        {"203.0.113.4:1", 100},
	} {
		k := &knocks{}
		for i := range 100 {
			k.from = append(k.from, strings.ReplaceAll(c.from, "%d", strconv.Itoa(i)))
		}
		k.from = append(k.from, "198.51.100.7:1")
		g := LimitAddresses(k, maxFrom, []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}).(*gate)
		var in []net.Conn
		for {
			a, err := g.Accept()
			if err != nil {
				break
			}
			in = append(in, a)
		}
		if len(in) != c.want+1 {
			t.Errorf("%s: %d connections", name, len(in))
		}
		for _, a := range in {
			a.Close()
			a.Close() // counts once
		}
		if len(g.from) != 0 {
			t.Errorf("%s: %v are counted when all are gone", name, g.from)
		}
	}
}

// Who shows no certificate is let go soon; who does may stay.
func TestNamelessConnectionsEnd(t *testing.T) {
	h := newFed(t, "a.example")[0]
	raw, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &named{raw, h.bridge.fed.keys.server(), 300 * time.Millisecond}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go io.Copy(io.Discard, c)
		}
	}()
	cert, key := h.ca.issue("visitor", "b.example")
	k, err := newKeyring(cert, key, h.ca.file())
	if err != nil {
		t.Fatal(err)
	}
	for _, nameless := range []bool{true, false} {
		config := k.client("a.example")
		if nameless {
			config.GetClientCertificate = nil
		}
		c, err := tls.Dial("tcp", raw.Addr().String(), config)
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadDeadline(time.Now().Add(time.Second))
		_, err = c.Read(make([]byte, 1))
		var late net.Error
		if stays := errors.As(err, &late) && late.Timeout(); stays == nameless {
			t.Errorf("without a certificate: %v, still open: %v (%v)", nameless, stays, err)
		}
		c.Close()
	}
}
