package native

import (
	"context"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of getting acquainted.
const (
	recordKept  = 6 * time.Hour    // a homeserver's record is asked for again: its keys may have changed
	recordRetry = 10 * time.Second // after a failure; it doubles
)

// askPeer asks domain one thing.
func (f *federation) askPeer(ctx context.Context, domain, path string, in, out any) error {
	p, err := f.peer(domain)
	if err != nil {
		return err
	}
	return p.ask(ctx, path, in, out, maxAnswer)
}

// claim implements peers.
func (f *federation) claim(ctx context.Context, domain string, c wire.PeerClaim) ([]core.Claim, error) {
	var out wire.Claims
	if err := f.askPeer(ctx, domain, "key-packages/claim", c, &out); err != nil {
		return nil, err
	}
	asked := map[core.UserURI]bool{}
	for _, u := range c.Users {
		asked[u] = true
	}
	var proofs []core.Identity
	for i := range out.Claims {
		if !asked[out.Claims[i].User] {
			return nil, core.Errorf(core.Unavailable, "that homeserver's answer is about somebody else")
		}
		if p := out.Claims[i].Proof; p != nil {
			proofs = append(proofs, *p)
		}
	}
	f.meet(domain)
	f.acquaint(ctx, domain)
	return out.Claims, f.takeRecords(ctx, proofs, func(d string) bool { return d == domain })
}

// records implements peers. The keys of a homeserver are believed only when it
// says them itself: who is first to say them is pinned.
func (f *federation) records(ctx context.Context, domain string, q wire.PeerRecords) error {
	var out wire.PeerRecordsAnswer
	if err := f.askPeer(ctx, domain, "records", q, &out); err != nil {
		return err
	}
	if len(out.Homeservers) > maxRecordsUsers || len(out.Records) > maxRecordsUsers*core.MaxDevices {
		return core.Errorf(core.Unavailable, "that homeserver answers more than it was asked")
	}
	for _, h := range out.Homeservers {
		if h.Domain != domain {
			continue
		}
		if err := f.takeHomeserver(ctx, &h); err != nil {
			return err
		}
	}
	return f.takeRecords(ctx, out.Records, func(d string) bool { return d == domain || f.known(domain) })
}

// takeHomeserver takes up what is new in a homeserver's chain of records.
func (f *federation) takeHomeserver(ctx context.Context, h *wire.Homeserver) error {
	gw, err := f.gateway()
	if err != nil {
		return err
	}
	var have uint64
	err = gw.View(ctx, func(r core.Reader) error {
		chain, err := core.HomeserverOf(r, h.Domain)
		if err == nil {
			have = chain.Head().Version
		} else if core.CodeOf(err) == core.NotFound {
			err = nil
		}
		return err
	})
	if err != nil {
		return err
	}
	var ins []core.Input
	for i, b := range h.Records {
		rec, err := identity.ParseHomeserver(b)
		if err != nil || rec.Domain != h.Domain {
			return core.Errorf(core.Unavailable, "that homeserver's record is broken")
		}
		if rec.Version > have || i == len(h.Records)-1 { // the last, known or not: it may contradict what is pinned
			ins = append(ins, core.PutHomeserver{Record: b})
		}
	}
	if len(ins) == 0 {
		return nil
	}
	_, errs, err := gw.DoAll(ctx, ins...)
	for _, e := range errs {
		if err == nil && e != nil {
			f.log.Error("the keys of a homeserver changed and do not follow from those known", "peer", h.Domain, "err", e)
			err = e
		}
	}
	return err
}

// inbox implements peers.
func (f *federation) inbox(ctx context.Context, domain string, in wire.PeerInbox) error {
	return f.askPeer(ctx, domain, "inbox", in, nil)
}

// groupInfo implements peers.
func (f *federation) groupInfo(ctx context.Context, domain string, in wire.PeerGroupInfo) (out wire.GroupInfo, err error) {
	if err = f.askPeer(ctx, domain, "group-info", in, &out); err == nil {
		f.meet(domain) // the room comes here by the agreement next
	}
	return out, err
}

// handshake implements peers.
func (f *federation) handshake(ctx context.Context, domain string, in wire.PeerHandshake) (out wire.Decided, err error) {
	f.meet(domain)
	return out, f.askPeer(ctx, domain, "handshakes", in, &out)
}

// fetch takes up what domain says of itself and of users, so that a judgement that
// missed a record can be made. Without users it asks for the homeserver's keys alone.
func (f *federation) fetch(ctx context.Context, domain string, users ...core.UserURI) error {
	if len(users) > maxRecordsUsers {
		users = users[:maxRecordsUsers]
	}
	return f.records(ctx, domain, wire.PeerRecords{Domains: []string{domain}, Users: users})
}

// acquaint makes sure that a homeserver's keys are known before something that it
// signed is judged. Its failure is the judgement's to tell.
func (f *federation) acquaint(ctx context.Context, domain string) {
	gw, err := f.gateway()
	if err != nil {
		return
	}
	err = gw.View(ctx, func(r core.Reader) error {
		_, err := core.HomeserverOf(r, domain)
		return err
	})
	if core.CodeOf(err) == core.NotFound {
		ctx, cancel := context.WithTimeout(ctx, quickTime)
		defer cancel()
		if err := f.fetch(ctx, domain); err != nil {
			f.log.Warn("the record of a homeserver is missing", "peer", domain, "err", err)
		}
	}
}

// acquaint wants the peer's record in the background.
func (p *peer) acquaint() { poke(p.meeting) }

// getAcquainted fetches the peer's record when a room is shared with it, again when
// somebody asks, and now and then, because keys change.
func (p *peer) getAcquainted(ctx context.Context) {
	rest(ctx, p.meeting, recordKept)
	var last time.Time
	wait := recordRetry
	for p.ready(ctx) {
		if since := p.f.cfg.Now().Sub(last); since < recordRetry { // the same question many times is one
			rest(ctx, nil, recordRetry-since)
			continue
		}
		asked, cancel := context.WithTimeout(ctx, quickTime)
		err := p.f.fetch(asked, p.domain)
		cancel()
		last = p.f.cfg.Now()
		if err == nil {
			wait = recordRetry
			rest(ctx, p.meeting, recordKept)
			continue
		}
		rest(ctx, p.again, wait)
		wait = min(2*wait, longestGap)
	}
}

// deliverWelcomes brings the Welcomes that wait for the peer. They lie in the store
// until the peer has them.
func (p *peer) deliverWelcomes(ctx context.Context) {
	rest(ctx, p.welcome, recordKept)
	var refused patience
	for p.ready(ctx) {
		var ws []core.Welcome
		err := p.f.gw.View(ctx, func(r core.Reader) (err error) {
			ws, err = core.WelcomesOf(r, p.domain, 1) // one may be megabytes
			return err
		})
		switch {
		case err != nil:
			if ctx.Err() == nil {
				p.f.log.Error("waiting Welcomes unreadable", "err", err)
			}
			rest(ctx, nil, time.Second)
		case len(ws) == 0:
			rest(ctx, p.welcome, recordKept)
		default:
			rest(ctx, nil, refused.after(p.deliverWelcome(ctx, ws[0])))
		}
	}
}

// deliverWelcome brings one Welcome; an error is one after which it is tried again. A
// peer that refuses it for good does not get it again: its devices can join by an
// external commit.
func (p *peer) deliverWelcome(ctx context.Context, w core.Welcome) error {
	asked, cancel := context.WithTimeout(ctx, bulkTime)
	defer cancel()
	if _, err := p.f.addresses.of(asked, p.domain); err != nil { // no address is no refusal
		return core.Errorf(core.Unavailable, "where that homeserver answers is not known: %v", err)
	}
	body, err := cborOut.Marshal(wire.PeerWelcome{Room: w.Room, Epoch: w.Epoch, Message: w.Message, Tree: w.Tree})
	if err == nil {
		_, err = p.post(asked, p.bulk, "welcome", body, errorBody)
	}
	if err != nil && core.Temporary(err) {
		return err
	}
	if err != nil {
		p.f.log.Warn("a peer refused a Welcome", "peer", p.domain, "code", core.CodeOf(err))
	}
	if _, err = p.f.gw.Do(ctx, core.DropWelcome{Welcome: w}); err != nil && ctx.Err() == nil {
		p.f.log.Error("a delivered Welcome is still in the queue", "err", err)
		rest(ctx, nil, time.Second)
	}
	return nil
}
