// Package native is the side of Isthmus that speaks its own protocol: the device
// API (PROTOCOL §9) and federation between homeservers (PROTOCOL §8). It carries
// sealed messages and cannot open them.
package native

import (
	"context"
	"crypto/ed25519"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// Config is what a Bridge is made of.
type Config struct {
	Domain     string
	Key        ed25519.PrivateKey // of the homeserver: signs attestations and its own record
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Now        func() time.Time // nil = time.Now
	API        APIConfig
	Federation FederationConfig
}

// A Bridge serves devices and talks to other homeservers.
type Bridge struct {
	cfg Config
	api *api
	fed *federation
}

var (
	_ bridges.Bridge = (*Bridge)(nil)
	_ bridges.Live   = (*Bridge)(nil)
)

// New prepares a bridge; with federation on, it opens its listener, so that a
// port that is taken stops the start.
func New(cfg Config) (*Bridge, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	b := &Bridge{cfg: cfg}
	codes := newCodes(cfg.Now)
	var err error
	if b.fed, err = newFederation(&b.cfg, codes); err != nil {
		return nil, err
	}
	b.api = newAPI(&b.cfg, b.fed, codes)
	return b, nil
}

// Handler serves devices: /v1/ and /.well-known/isthmus.
func (b *Bridge) Handler() http.Handler { return b.api }

// Ready reports whether the device API answers.
func (b *Bridge) Ready() bool { return b.api.ready() }

// Network implements bridges.Bridge.
func (b *Bridge) Network() core.Network { return core.NetworkNative }

// Caps implements bridges.Bridge.
func (b *Bridge) Caps() core.Caps {
	return core.Caps{Sealed: true, Edit: true, React: true, Reply: true, Redact: true, Emote: true,
		Typing: true, Topic: true, Membership: true, Formatted: true}
}

// Run implements bridges.Bridge.
func (b *Bridge) Run(ctx context.Context, gw bridges.Gateway) error {
	if err := b.introduce(ctx, gw); err != nil {
		b.fed.close()
		if ctx.Err() != nil { // stopped while it started
			return nil
		}
		return err
	}
	b.api.start(ctx, gw)
	return b.fed.run(ctx, gw)
}

// introduce makes the first record of this homeserver, by which devices and
// others know its key, unless there is one.
func (b *Bridge) introduce(ctx context.Context, gw bridges.Gateway) error {
	public := b.cfg.Key.Public().(ed25519.PublicKey)
	var chain *identity.Chain
	err := gw.View(ctx, func(r core.Reader) (err error) {
		chain, err = core.HomeserverOf(r, b.cfg.Domain)
		return err
	})
	if err == nil && !slices.ContainsFunc(chain.Head().Keys, func(k identity.HomeserverKey) bool { return public.Equal(k.Key) }) {
		err = core.Errorf(core.Denied, "the key of this homeserver is not one of its record: put the old key back")
	}
	if err == nil || core.CodeOf(err) != core.NotFound {
		return err
	}
	rec, err := identity.SignHomeserver(b.cfg.Key, identity.HomeserverRecord{Version: 1, Domain: b.cfg.Domain,
		Keys: []identity.HomeserverKey{{Key: public, NotAfter: math.MaxInt64}}})
	if err != nil {
		return core.Errorf(core.Invalid, "the record of this homeserver: %w", err)
	}
	_, err = gw.Do(ctx, core.PutHomeserver{Record: rec.Encode()})
	return err
}

// Deliver implements bridges.Bridge. Devices and peers are not links: they read
// the log with positions of their own.
func (b *Bridge) Deliver(context.Context, core.Delivery) (core.Report, error) {
	return core.Report{}, core.Errorf(core.Unsupported, "rooms are not linked to devices and homeservers: those take part")
}

// Publish implements bridges.Live. Who waits for a decision is told first: of what is
// made ready to run here the first runs first.
func (b *Bridge) Publish(batch bridges.Batch) {
	b.api.hub.changed(batch)
	b.api.offers.publish(batch.Decisions)
	b.fed.publish(batch)
	b.api.hub.publish(batch)
}

// Signal implements bridges.Live.
func (b *Bridge) Signal(s core.Signal) { b.api.signal(s) }
