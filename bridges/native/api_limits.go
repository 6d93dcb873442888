package native

import (
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of what the limits remember, and of what a stranger may ask.
const (
	maxBuckets      = 16384 // sessions or addresses; the idle go first
	strangerRate    = 2     // requests without a session each second from one address: a login takes two
	strangerBurst   = 60
	bucketKeep      = time.Minute
	ipv6PrefixBits  = 64 // what one customer has
	maxForwardedFor = 16 // hops that are looked at
	roomsPerRequest = 64 // that are looked up for the price of a request
)

// limits holds everybody to their share: sessions by token, strangers by address.
type limits struct {
	cfg       *APIConfig
	sessions  *buckets[[32]byte]
	messages  *buckets[[32]byte]
	strangers *buckets[netip.Addr]
}

func newLimits(cfg *APIConfig) limits {
	return limits{cfg: cfg,
		sessions:  newBuckets[[32]byte](cfg.Requests, cfg.Requests*maxBurst),
		messages:  newBuckets[[32]byte](cfg.Messages, max(cfg.Messages*maxBurst, MaxSend)),
		strangers: newBuckets[netip.Addr](strangerRate, strangerBurst)}
}

// request counts one request of a session.
func (l *limits) request(s *core.Session, now time.Time) error {
	return l.sessions.take(s.Hash, 1, now)
}

// rooms counts n rooms that a request has looked up.
func (l *limits) rooms(s *core.Session, n int, now time.Time) error {
	return l.sessions.take(s.Hash, min(n/roomsPerRequest, l.sessions.burst/2), now)
}

// send counts n messages of a session.
func (l *limits) send(s *core.Session, n int, now time.Time) error {
	return l.messages.take(s.Hash, n, now)
}

// stranger counts one request from an address that nobody stands behind.
func (l *limits) stranger(from netip.Addr, now time.Time) error {
	return l.strangers.take(customer(from), 1, now)
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

// buckets are token buckets by key.
type buckets[K comparable] struct {
	rate  rate.Limit
	burst int

	mu    sync.Mutex
	by    map[K]*bucket
	swept time.Time
}

type bucket struct {
	*rate.Limiter
	used time.Time
}

func newBuckets[K comparable](perSecond, burst int) *buckets[K] {
	return &buckets[K]{rate: rate.Limit(perSecond), burst: burst, by: map[K]*bucket{}}
}

// take takes n tokens of k, or answers Limited with the time until they are there.
func (b *buckets[K]) take(k K, n int, now time.Time) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := b.by[k]
	if l == nil {
		b.sweep(now)
		l = &bucket{Limiter: rate.NewLimiter(b.rate, b.burst)}
		b.by[k] = l
	}
	l.used = now
	res := l.ReserveN(now, n)
	if !res.OK() {
		return core.Errorf(core.TooLarge, "more at once than %d", b.burst)
	}
	if wait := res.DelayFrom(now); wait > 0 {
		res.CancelAt(now)
		return &core.Error{Code: core.Limited, Text: "too much at once", RetryAfter: wait}
	}
	return nil
}

// sweep forgets buckets that are full again, and any if there are too many still.
func (b *buckets[K]) sweep(now time.Time) {
	if len(b.by) < maxBuckets/2 || len(b.by) < maxBuckets && now.Sub(b.swept) < bucketKeep {
		return
	}
	b.swept = now
	for k, l := range b.by {
		if now.Sub(l.used) > bucketKeep {
			delete(b.by, k)
		}
	}
	for k := range b.by { // any will do; many at once, so that this is rare
		if len(b.by) < maxBuckets/4*3 {
			break
		}
		delete(b.by, k)
	}
}
