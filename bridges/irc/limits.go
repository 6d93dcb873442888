package irc

import (
	"math"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// ConnLimits bounds connections. A zero field takes the default.
type ConnLimits struct {
	Total      int            // at once altogether; default 20,000
	PerAddress int            // at once from one address: an IPv4 /32 or an IPv6 /64; default 16
	Burst      int            // new ones from one address without waiting; default 16
	Interval   time.Duration  // then one each Interval; default 2 s
	Exempt     []netip.Prefix // addresses that only Total counts
}

func (l ConnLimits) withDefaults() ConnLimits {
	set := func(p *int, v int) {
		if *p <= 0 {
			*p = v
		}
	}
	set(&l.Total, 20000)
	set(&l.PerAddress, 16)
	set(&l.Burst, 16)
	if l.Interval <= 0 {
		l.Interval = 2 * time.Second
	}
	return l
}

// addressBlock returns what is counted as one address: an IPv4 /32, an IPv6 /64,
// because a single subscriber has that many.
func addressBlock(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits) // only an invalid address errs: all of those are one block
	return p
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// A table is a map with a bound. Entries end; when it is full, an arbitrary one
// of those that may end makes room. Reading is one look-up, inserting looks at
// a bounded number of entries, and no goroutine sweeps. It is not locked.
type table[K comparable, V any] struct {
	max int
	m   map[K]tabled[V]
}

type tabled[V any] struct {
	v   V
	end int64 // Unix nanoseconds; never = stays
}

// never marks an entry that only drop removes; whoever uses it bounds how many.
var never = time.Unix(0, math.MaxInt64)

const (
	sweepSome = 4  // looked at by every insertion, so that what has ended goes
	sweepFull = 64 // looked at when there is no room
)

func (t *table[K, V]) get(k K, now time.Time) (v V, ok bool) {
	e, ok := t.m[k]
	if !ok || e.end <= now.UnixNano() {
		return v, false
	}
	return e.v, true
}

func (t *table[K, V]) put(k K, v V, end, now time.Time) {
	if t.m == nil {
		t.m = make(map[K]tabled[V])
	}
	if _, ok := t.m[k]; !ok {
		t.sweep(now.UnixNano())
	}
	t.m[k] = tabled[V]{v, end.UnixNano()}
}

func (t *table[K, V]) drop(k K) { delete(t.m, k) }

// sweep looks at some entries, in the arbitrary order of a map, drops those
// that have ended, and if there is still no room, one that has not.
func (t *table[K, V]) sweep(now int64) {
	looks := sweepSome
	if len(t.m) >= t.max {
		looks = sweepFull
	}
	var victim K
	found := false
	for k, e := range t.m {
		if e.end <= now {
			delete(t.m, k)
		} else if e.end != math.MaxInt64 && !found {
			victim, found = k, true
		}
		if looks--; looks == 0 {
			break
		}
	}
	if found && len(t.m) >= t.max {
		delete(t.m, victim)
	}
}

// maxIdleAddresses bounds the addresses remembered that have no connection now.
const maxIdleAddresses = 65536

// A limiter admits connections.
type limiter struct {
	now func() time.Time

	mu    sync.Mutex
	max   ConnLimits
	total int
	loads table[netip.Prefix, load]
}

// A load is what one address block has.
type load struct {
	open int
	paid int64 // when its new connections will be paid for at one each Interval, Unix nanoseconds
}

func newLimiter(l ConnLimits, now func() time.Time) *limiter {
	x := &limiter{now: now}
	x.set(l)
	return x
}

// set changes the limits for connections made from now on.
func (l *limiter) set(max ConnLimits) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.max = max.withDefaults()
	l.loads.max = maxIdleAddresses + l.max.Total
}

// The refusals are made once: refusing is the cheap thing.
var (
	errTooManyHere = &core.Error{Code: core.Limited, Text: "too many connections from your address"}
	errTooManyNew  = &core.Error{Code: core.Limited, Text: "your address connects too often; try again later"}
	errFull        = &core.Error{Code: core.Limited, Text: "this server is full; try again later"}
)

// A ticket is a place that a connection holds until release.
type ticket struct {
	l     *limiter
	block netip.Prefix // zero: exempt, only the total counts it
	once  sync.Once
}

// admit counts a connection from a, or refuses it as Limited.
func (l *limiter) admit(a netip.Addr) (*ticket, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.total >= l.max.Total {
		return nil, errFull
	}
	block, err := l.enter(a)
	if err != nil {
		return nil, err
	}
	l.total++
	return &ticket{l: l, block: block}, nil
}

func (l *limiter) enter(a netip.Addr) (netip.Prefix, error) {
	if contains(l.max.Exempt, a) {
		return netip.Prefix{}, nil
	}
	now := l.now()
	block := addressBlock(a)
	x, _ := l.loads.get(block, now)
	paid := max(x.paid, now.UnixNano()) + int64(l.max.Interval)
	switch {
	case x.open >= l.max.PerAddress:
		return block, errTooManyHere
	case paid-now.UnixNano() > int64(l.max.Burst)*int64(l.max.Interval):
		return block, errTooManyNew
	}
	x.open, x.paid = x.open+1, paid
	l.loads.put(block, x, never, now)
	return block, nil
}

func (l *limiter) leave(block netip.Prefix) {
	now := l.now()
	x, ok := l.loads.get(block, now)
	if !ok {
		return // exempt
	}
	end := never
	if x.open--; x.open <= 0 {
		end = time.Unix(0, x.paid)
	}
	l.loads.put(block, x, end, now)
}

// release gives the place back; more than once does nothing.
func (t *ticket) release() {
	if t == nil {
		return // never admitted
	}
	t.once.Do(func() {
		t.l.mu.Lock()
		defer t.l.mu.Unlock()
		t.l.total--
		t.l.leave(t.block)
	})
}

// move counts the connection under another address from now on: a gateway has
// said who is behind it. On refusal it stays where it was.
func (t *ticket) move(a netip.Addr) error {
	t.l.mu.Lock()
	defer t.l.mu.Unlock()
	block, err := t.l.enter(a)
	if err != nil {
		return err
	}
	t.l.leave(t.block)
	t.block = block
	return nil
}

// A cloaker makes the host that others see. It never shows an address, and is
// the same for the same person after a restart, so that bans work.
type cloaker struct {
	key     []byte // lasting secret, 16 octets or more
	network string // last labels of every host
}

// label is 40 bits: enough that nobody shares it by accident.
func (c cloaker) label(parts ...string) string {
	return core.Base32.EncodeToString(mac(c.key, parts...)[:5])
}

// account returns the host of somebody logged in: name.network.user. Characters
// that are unusual in a host become dashes, followed by a label that keeps two
// such names apart.
func (c cloaker) account(name string) string {
	fold := AccountKey(name)
	plain := strings.Map(func(r rune) rune {
		if r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' {
			return r
		}
		return '-'
	}, fold)
	if plain != fold {
		plain += "-" + c.label("account", fold)
	}
	return plain + "." + c.network + ".user"
}

// address returns the host of somebody at a: three labels, for ever wider blocks
// (IPv4 /32, /24, /16; IPv6 /64, /48, /32), so that *.x.y.network.ip bans a
// neighbourhood.
func (c cloaker) address(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	bits := [3]int{64, 48, 32}
	if a.Is4() {
		bits = [3]int{32, 24, 16}
	}
	var b strings.Builder
	for _, n := range bits {
		p, _ := a.Prefix(n)
		b.WriteString(c.label("address", p.String()))
		b.WriteByte('.')
	}
	return b.String() + c.network + ".ip"
}
