// Package matrix joins rooms to a Matrix homeserver as an application service
// (Matrix specification v1.19): transactions come in through Handler, ghosts
// speak for our users through the client-server API.
//
// A transaction is answered with 200 after everything in it has been committed;
// what leaves carries a transaction ID made of link, event and part, and a mark
// that finds it again, so a crash on either side neither loses nor doubles it.
package matrix

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// A Bridge is an application service of one Matrix homeserver. It implements
// bridges.Bridge, and bridges.Live for typing.
type Bridge struct {
	cfg     Config
	log     *slog.Logger
	network core.Network
	domain  string // cfg.Domain as URIs have it
	bot     string // Matrix ID of our own user
	conv    converter.Matrix
	client  *client
	metrics *metrics

	bodies  chan struct{} // a place per transaction that is being read
	inbound sync.Mutex    // one transaction is taken in at a time: its order is the room's
	known   *known
	recent  *recent
	ghosts  *ghosts
	budget  *rate.Limiter // of joins and leaves that nobody waits for
	outbox  chan func(context.Context)
	prepare chan string // links whose room is to be entered and synchronised

	mu      sync.Mutex
	gw      bridges.Gateway // nil unless Run runs
	links   map[string]core.Link
	byRoom  map[core.RoomID][]core.Link
	read    time.Time // when links were read
	said    map[string]time.Time
	typing  map[string]map[string]bool // Matrix room → who types there
	guest   map[string]time.Time       // rooms where our bot is without a link, and since when
	dead    int                        // next place in the ring of dead letters
	alarmed time.Time
}

var (
	_ bridges.Bridge = (*Bridge)(nil)
	_ bridges.Live   = (*Bridge)(nil)
)

// New returns a bridge to the homeserver in cfg; log and reg may be nil. A
// faulty cfg shows when Run is called.
func New(cfg Config, log *slog.Logger, reg prometheus.Registerer) *Bridge {
	cfg = cfg.withDefaults()
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	b := &Bridge{
		cfg: cfg, log: log,
		network: core.Network("matrix:" + cfg.Server),
		domain:  strings.ToLower(cfg.Domain),
		bot:     "@" + cfg.Bot + ":" + cfg.Server,
		conv:    converter.Matrix{Homeserver: cfg.Domain},
		client:  newClient(cfg),
		metrics: newMetrics(reg),
		bodies:  make(chan struct{}, maxBodies),
		known:   &known{m: newGenerations[memberKey, string](maxKnown)},
		recent:  newRecent(),
		ghosts:  newGhosts(),
		budget:  rate.NewLimiter(rate.Limit(cfg.JoinsPerSecond), int(cfg.JoinsPerSecond)+1),
		outbox:  make(chan func(context.Context), maxNotices),
		prepare: make(chan string, maxNotices),
		said:    map[string]time.Time{},
		typing:  map[string]map[string]bool{},
		guest:   map[string]time.Time{},
	}
	b.client.alarm = b.alarm
	b.client.count = func(r string) { b.metrics.answers.WithLabelValues(r).Inc() }
	return b
}

// Network implements bridges.Bridge.
func (b *Bridge) Network() core.Network { return b.network }

// Caps implements bridges.Bridge. Sealed rooms are not carried yet.
func (b *Bridge) Caps() core.Caps {
	return core.Caps{Edit: true, React: true, Reply: true, Redact: true, Emote: true, Typing: true, Topic: true,
		Membership: true, Formatted: true, MaxText: 32 << 10}
}

// Run implements bridges.Bridge: it opens Handler, and keeps our bot in the
// linked rooms and their members known, trying again for as long as the
// homeserver is away.
func (b *Bridge) Run(ctx context.Context, gw bridges.Gateway) error {
	if err := b.cfg.check(); err != nil {
		return err
	}
	b.mu.Lock()
	b.gw = gw
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.gw = nil
		b.mu.Unlock()
	}()
	var running sync.WaitGroup
	running.Go(func() { b.background(ctx, gw) })
	running.Go(func() {
		for {
			select {
			case f := <-b.outbox:
				f(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	running.Wait()
	return nil
}

// background prepares the links there are, then each that is made.
func (b *Bridge) background(ctx context.Context, gw bridges.Gateway) {
	b.retry(ctx, func() error { return b.client.register(ctx, b.cfg.Bot) })
	b.retry(ctx, func() error { return b.readLinks(ctx, gw) })
	b.mu.Lock()
	ids := make([]string, 0, len(b.links))
	for _, l := range b.links {
		ids = append(ids, l.ID)
	}
	b.mu.Unlock()
	for _, id := range ids {
		b.prepareLink(ctx, gw, id, true)
	}
	b.retry(ctx, func() error { return b.findStrangers(ctx) })
	sweep := time.NewTicker(b.cfg.InviteGrace/4 + time.Millisecond)
	defer sweep.Stop()
	for {
		select {
		case <-sweep.C:
			b.leaveStrangers(ctx)
		case id := <-b.prepare:
			b.prepareLink(ctx, gw, id, false)
		case <-ctx.Done():
			return
		}
	}
}

// retry calls f until it succeeds, fails for good or ctx ends.
func (b *Bridge) retry(ctx context.Context, f func() error) error {
	for wait := firstRetry; ; wait = min(2*wait, lastRetry) {
		err := f()
		if err == nil || !core.Temporary(err) || ctx.Err() != nil {
			return err
		}
		if e := asCore(err); e.RetryAfter > 0 {
			wait = min(e.RetryAfter, tokenRefused)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gateway returns the way into the house, or Unavailable before and after Run.
func (b *Bridge) gateway() (bridges.Gateway, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.gw == nil {
		return nil, core.Errorf(core.Unavailable, "the gateway is not running")
	}
	return b.gw, nil
}

// readLinks reads the links of this network anew.
func (b *Bridge) readLinks(ctx context.Context, gw bridges.Gateway) error {
	var links []core.Link
	now := time.Now()
	err := gw.View(ctx, func(r core.Reader) (err error) {
		links, err = r.Links("", core.MaxLinks)
		return err
	})
	if err != nil {
		return err
	}
	m, byRoom := map[string]core.Link{}, map[core.RoomID][]core.Link{}
	for _, l := range links {
		if l.Network == b.network {
			m[l.Place] = l
			byRoom[l.Room] = append(byRoom[l.Room], l)
		}
	}
	b.mu.Lock()
	b.links, b.byRoom, b.read = m, byRoom, now
	b.mu.Unlock()
	return nil
}

// freshLinks reads the links anew if what is known of them is old.
func (b *Bridge) freshLinks(ctx context.Context, gw bridges.Gateway) error {
	b.mu.Lock()
	old := time.Since(b.read) > linkCache
	b.mu.Unlock()
	if !old {
		return nil
	}
	return b.readLinks(ctx, gw)
}

func (b *Bridge) link(room string) (core.Link, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	l, ok := b.links[room]
	return l, ok
}

// pause stops a link and says why in its Matrix room. What was not delivered
// stays in the log until somebody starts it again.
func (b *Bridge) pause(ctx context.Context, gw bridges.Gateway, l core.Link, why string) error {
	var now core.Link
	err := gw.View(ctx, func(r core.Reader) (err error) {
		now, err = r.Link(l.ID)
		return err
	})
	if core.CodeOf(err) == core.NotFound && err != nil || now.Paused != "" {
		return nil
	}
	if err != nil {
		return err
	}
	now.Paused = why
	if _, err := gw.Do(ctx, core.PutLink{Link: now, Caps: b.Caps()}); err != nil {
		return err
	}
	b.log.Warn("link paused", "network", "matrix", "why", why)
	b.tell(l.Place, "This room is no longer connected to its channel: "+why+".")
	return b.readLinks(ctx, gw)
}

// later does f in the background; if too much waits already, f is dropped.
func (b *Bridge) later(f func(context.Context)) {
	select {
	case b.outbox <- f:
	default:
		b.metrics.dropped.Inc()
	}
}

// tell says something in a room as our bot, not more often than noticeInterval.
func (b *Bridge) tell(room, text string) {
	b.mu.Lock()
	now := time.Now()
	for k, at := range b.said {
		if now.Sub(at) > noticeInterval {
			delete(b.said, k)
		}
	}
	_, again := b.said[room+" "+text]
	if again || len(b.said) >= maxKnown {
		b.mu.Unlock()
		return
	}
	b.said[room+" "+text] = now
	b.mu.Unlock()
	b.later(func(ctx context.Context) { b.notice(ctx, room, text) })
}

func (b *Bridge) notice(ctx context.Context, room, text string) error {
	content, err := jsonObject("msgtype", "m.notice", "body", text)
	if err != nil {
		return err
	}
	_, err = b.client.send(ctx, "", room, "m.room.message", transactionID("notice", room, text, time.Now().String()), content)
	return err
}

// alarm says once in a while that a person has to look after our token.
func (b *Bridge) alarm(err error) {
	b.mu.Lock()
	again := time.Since(b.alarmed) < tokenRefused
	if !again {
		b.alarmed = time.Now()
	}
	b.mu.Unlock()
	if !again {
		b.log.Error("the Matrix homeserver refuses our as_token: is the registration file installed?", "err", err)
	}
}

// Publish implements bridges.Live; committed events come through Deliver.
func (b *Bridge) Publish(bridges.Batch) {}
