package native

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Directory serves the document by which others find this homeserver. The
// listener of federation has it too; where the domain's own port is another one,
// that is where they ask.
func (b *Bridge) Directory() http.Handler { return http.HandlerFunc(b.fed.serveDirectory) }

// Reload reads certificates and authorities again. What does not fit changes nothing.
func (b *Bridge) Reload() error {
	if b.fed.off() {
		return nil
	}
	return b.fed.keys.load()
}

// maxSaved bounds the positions of one transaction.
const maxSaved = 1024

// A PeerState is how it goes with another homeserver, for its operator.
type PeerState struct {
	Domain   string
	Address  string    // host:port, if it is known
	Fixed    bool      // the operator gave the address
	Rooms    int       // shared with it
	Waiting  int       // rooms with messages that it does not have yet
	Octets   int       // of messages for it, in memory
	Failures int       // in a row
	Since    time.Time // of the first of them
	Next     time.Time // the next attempt
	Last     time.Time // of its last answer; zero = none since the start
	Problem  string
	Blocked  bool
}

// Peers says how it goes with every homeserver that this one has to do with, in
// the order of their domains.
func (b *Bridge) Peers() []PeerState {
	f := b.fed
	var out []PeerState
	have := map[string]bool{}
	for _, p := range f.all() {
		have[p.domain] = true
		out = append(out, p.state())
	}
	for _, p := range f.fc.Peers {
		if !have[p.Domain] {
			out = append(out, PeerState{Domain: p.Domain, Address: p.Address, Fixed: true, Blocked: f.fc.Blocked(p.Domain)})
		}
	}
	slices.SortFunc(out, func(a, b PeerState) int { return cmp.Compare(a.Domain, b.Domain) })
	return out
}

// all lists the peers, so that they can be asked without f.mu.
func (f *federation) all() []*peer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.peers))
}

func (p *peer) state() PeerState {
	s := PeerState{Domain: p.domain, Blocked: p.f.fc.Blocked(p.domain)}
	a := p.f.addresses
	a.mu.Lock()
	s.Address, s.Fixed = a.all[p.domain].host, a.all[p.domain].fixed
	a.mu.Unlock()
	p.mu.Lock()
	h := p.health
	p.mu.Unlock()
	s.Failures, s.Since, s.Next, s.Last, s.Problem = h.fails, h.since, h.until, h.last, h.err
	l := p.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Rooms, s.Octets = len(l.byRoom), l.queued
	for _, n := range l.byRoom {
		if n.behind || n.busy || len(n.queue) > 0 {
			s.Waiting++
		}
	}
	return s
}

// RetryPeer tries a homeserver again now instead of when its time has come;
// NotFound if this one has nothing to do with it.
func (b *Bridge) RetryPeer(domain string) error {
	f := b.fed
	f.mu.Lock()
	p := f.peers[domain]
	f.mu.Unlock()
	if p == nil {
		return core.Errorf(core.NotFound, "there is nothing under way to %s", domain)
	}
	f.addresses.doubt(domain)
	p.lanes.hurry()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.health.until = time.Time{}
	poke(p.again)
	return nil
}

// hurry ends the waiting after refusals.
func (l *lanes) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = time.Time{}
	for _, n := range l.later {
		n.due, n.wait = time.Time{}, 0
	}
	poke(l.wake)
}

// save writes down how far peers are: in bulk, because after a crash it costs
// nothing but a repetition.
func (f *federation) save(ctx context.Context) {
	for ctx.Err() == nil {
		rest(ctx, f.dirty, time.Hour)
		rest(ctx, nil, saveEvery)
		f.saveAll(context.WithoutCancel(ctx))
	}
}

func (f *federation) saveAll(ctx context.Context) {
	for _, p := range f.all() {
		for {
			ins, ls := p.lanes.takeUnsaved()
			if len(ins) == 0 {
				break
			}
			_, _, err := f.gw.DoAll(ctx, ins...)
			p.lanes.saved(ls, ins, err == nil)
			if err != nil {
				f.log.Error("positions of a peer not stored", "peer", p.domain, "err", err)
				break
			}
		}
	}
}

// takeUnsaved returns positions to be written down.
func (l *lanes) takeUnsaved() (ins []core.Input, ls []*lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := min(len(l.unsaved), maxSaved)
	ls = slices.Clone(l.unsaved[:n])
	if l.unsaved = l.unsaved[n:]; len(l.unsaved) == 0 {
		l.unsaved = nil
	}
	for _, n := range ls {
		n.dirty = false
		ins = append(ins, core.PeerStored{Peer: l.p.domain, Room: n.room, Seq: n.stored})
	}
	return ins, ls
}

// saved takes down what was written; what was not is tried with the next.
func (l *lanes) saved(ls []*lane, ins []core.Input, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, n := range ls {
		switch {
		case ok:
			n.saved = ins[i].(core.PeerStored).Seq
		case !n.dirty:
			n.dirty = true
			l.unsaved = append(l.unsaved, n)
		}
	}
}
