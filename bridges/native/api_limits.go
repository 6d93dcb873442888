package native

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of what a stranger may ask.
const (
	strangerRate    = 2 // requests without a session each second from one address: a login takes two
	strangerBurst   = 60
	ipv6PrefixBits  = 64 // what one customer has
	maxForwardedFor = 16 // hops that are looked at
	roomsPerRequest = 64 // that are looked up for the price of a request
)

// limits holds everybody to their share: sessions by token, strangers by address.
type limits struct {
	cfg       *APIConfig
	sessions  *buckets
	messages  *buckets
	strangers *buckets
}

func newLimits(cfg *APIConfig) limits {
	return limits{cfg: cfg,
		sessions:  newBuckets(cfg.Requests, cfg.Requests*maxBurst),
		messages:  newBuckets(cfg.Messages, max(cfg.Messages*maxBurst, MaxSend)),
		strangers: newBuckets(strangerRate, strangerBurst)}
}

// request counts one request of a session.
func (l *limits) request(s *core.Session, now time.Time) error {
	return l.sessions.take(string(s.Hash[:]), 1, now)
}

// rooms counts n rooms that a request has looked up.
func (l *limits) rooms(s *core.Session, n int, now time.Time) error {
	return l.sessions.take(string(s.Hash[:]), min(n/roomsPerRequest, l.sessions.meter.Burst/2), now)
}

// send counts n messages of a session.
func (l *limits) send(s *core.Session, n int, now time.Time) error {
	return l.messages.take(string(s.Hash[:]), n, now)
}

// stranger counts one request from an address that nobody stands behind.
func (l *limits) stranger(from netip.Addr, now time.Time) error {
	return l.strangers.take(customer(from).String(), 1, now)
}

// customer is an address as far as one who has it has no others.
func customer(a netip.Addr) netip.Addr {
	a = a.Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(ipv6PrefixBits)
		a = p.Addr()
	}
	return a
}

// address says who sent r: the last address in X-Forwarded-For that is not one of
// our reverse proxies, as far as those vouch for each other.
func (l *limits) address(r *http.Request) netip.Addr {
	var from netip.Addr
	if ap, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		from = ap.Addr().Unmap().WithZone("")
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= max(0, len(hops)-maxForwardedFor) && l.proxy(from); i-- {
		addr, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		from = addr.Unmap().WithZone("")
	}
	return from
}

func (l *limits) proxy(a netip.Addr) bool {
	for _, p := range l.cfg.Forwarded {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// buckets are a Meter for many at a time.
type buckets struct {
	mu    sync.Mutex
	meter core.Meter
}

func newBuckets(perSecond, burst int) *buckets {
	return &buckets{meter: core.Meter{Burst: burst, Every: time.Second / time.Duration(perSecond)}}
}

// take takes n tokens of key, or answers Limited with the time until they are there.
func (b *buckets) take(key string, n int, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if wait := b.meter.Take(key, n, now); wait > 0 {
		return &core.Error{Code: core.Limited, Text: "too much at once", RetryAfter: wait}
	}
	return nil
}
