package native

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of finding out where a homeserver answers.
const (
	protocolVersion = 1
	directoryBody   = 64 << 10
	addressKept     = time.Hour
	addressRetry    = 5 * time.Second // between two questions to a homeserver that has not answered one
	maxAddresses    = 4 * maxPeers
)

// directory is the document at DirectoryPath, as far as it is ours.
type directory struct {
	Isthmus *directoryEntry `json:"isthmus,omitempty"`
}

type directoryEntry struct {
	Version int    `json:"version"`
	Base    string `json:"base"`
}

// An address is where a homeserver answers the requests of PROTOCOL §8.
type address struct {
	host  string // host:port
	path  string // before wire.PeerPath
	fixed bool   // the operator said so
	until time.Time
	err   error
}

// addresses remembers what homeservers said of themselves.
type addresses struct {
	f    *federation
	mu   sync.Mutex
	all  map[string]address
	asks map[string]chan struct{} // closed when who is asking has the answer
}

func newAddresses(f *federation) *addresses {
	a := &addresses{f: f, all: map[string]address{}, asks: map[string]chan struct{}{}}
	for _, p := range f.fc.Peers {
		a.all[p.Domain] = address{host: p.Address, fixed: true}
	}
	return a
}

// of returns where domain answers, and asks it if that is not known.
func (a *addresses) of(ctx context.Context, domain string) (address, error) {
	for {
		a.mu.Lock()
		at, known := a.all[domain]
		if known && (at.fixed || a.f.cfg.Now().Before(at.until)) {
			a.mu.Unlock()
			return at, at.err
		}
		asking := a.asks[domain]
		if asking == nil {
			done := make(chan struct{})
			a.asks[domain] = done
			a.mu.Unlock()
			at = a.look(ctx, domain)
			a.mu.Lock()
			a.keep(domain, at)
			delete(a.asks, domain)
			a.mu.Unlock()
			close(done)
			return at, at.err
		}
		a.mu.Unlock()
		select {
		case <-asking:
		case <-ctx.Done():
			return address{}, away(ctx.Err())
		}
	}
}

// keep remembers an address. The caller holds a.mu.
func (a *addresses) keep(domain string, at address) {
	if len(a.all) >= maxAddresses {
		for d, old := range a.all { // any: they can be asked again
			if !old.fixed {
				delete(a.all, d)
				break
			}
		}
	}
	a.all[domain] = at
}

// doubt has domain asked again soon: nobody answered where it said.
func (a *addresses) doubt(domain string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	soon := a.f.cfg.Now().Add(addressRetry)
	if at, ok := a.all[domain]; ok && !at.fixed && at.until.After(soon) {
		at.until = soon
		a.all[domain] = at
	}
}

// look asks domain for its directory.
func (a *addresses) look(ctx context.Context, domain string) address {
	b, err := a.ask(ctx, domain)
	at := address{until: a.f.cfg.Now().Add(addressKept)}
	if err == nil {
		at.host, at.path, err = parseDirectory(b)
	}
	if err != nil {
		at.err, at.until = err, a.f.cfg.Now().Add(addressRetry)
	}
	return at
}

// ask fetches the document, over TLS that proves the domain.
func (a *addresses) ask(ctx context.Context, domain string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, quickTime)
	defer cancel()
	t := &http.Transport{TLSClientConfig: a.f.keys.client(domain), Proxy: http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: dialTime}).DialContext, DisableKeepAlives: true}
	t.TLSClientConfig.NextProtos = nil
	defer t.CloseIdleConnections()
	c := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+domain+DirectoryPath, nil)
	if err != nil {
		return nil, core.Errorf(core.Invalid, "not the domain of a homeserver")
	}
	r, err := c.Do(q)
	if err != nil {
		return nil, away(err)
	}
	defer r.Body.Close()
	switch {
	case r.StatusCode == http.StatusNotFound:
		return nil, errNoHomeserver
	case r.StatusCode != http.StatusOK:
		return nil, core.Errorf(core.Unavailable, "that homeserver's directory answers %s", http.StatusText(r.StatusCode))
	}
	b, err := io.ReadAll(io.LimitReader(r.Body, directoryBody+1))
	if err != nil {
		return nil, away(err)
	}
	if len(b) > directoryBody {
		return nil, errNoHomeserver
	}
	return b, nil
}

var errNoHomeserver = core.Errorf(core.NotFound, "that domain has no homeserver that speaks to this one")

// parseDirectory reads from a directory document where to connect.
func parseDirectory(b []byte) (host, path string, err error) {
	var d directory
	if err := json.Unmarshal(b, &d); err != nil || d.Isthmus == nil {
		return "", "", errNoHomeserver
	}
	if d.Isthmus.Version != protocolVersion {
		return "", "", core.Errorf(core.Unsupported, "that homeserver speaks version %d of the protocol", d.Isthmus.Version)
	}
	u, err := url.Parse(d.Isthmus.Base)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return "", "", errNoHomeserver
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return net.JoinHostPort(u.Hostname(), port), strings.TrimRight(u.EscapedPath(), "/"), nil
}
