package native

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// FederationConfig says how this homeserver meets others (PROTOCOL §8).
type FederationConfig struct {
	Address  string // host:port of the listener; "" = no federation
	CertFile string // PEM, for the domain
	KeyFile  string
	CAFile   string                   // who is believed about others; "" = the roots of the system
	Base     string                   // where others reach the listener, an https URL; "" = https, the domain and the listener's port
	Peers    []Peer                   // homeservers whose address is known without asking
	Blocked  func(domain string) bool // nil = nobody
	Awake    func() bool              // whether the agreement wants core.Tick; nil = never
	Limits   FederationLimits
}

// A Peer is a homeserver at a fixed address.
type Peer struct {
	Domain  string
	Address string // host:port
}

// FederationLimits bound what other homeservers may cost.
type FederationLimits struct {
	Requests int   // each second of one homeserver that shares a room with us, in the long run
	Parallel int   // requests of one homeserver that are worked on at a time
	InFlight int   // our own batches of events on their way to one homeserver
	Memory   int64 // octets of all the bodies that are being read or worked on
}

// Bounds of federation that no operator needs to move.
const (
	maxPeers     = 4096    // homeservers with rooms in common
	maxRooms     = 1 << 16 // rooms whose homeservers are remembered; then it starts again
	scanRooms    = 64      // rooms looked up in one snapshot
	strangerPart = 50      // who shares no room with us may ask a fiftieth of the rate
	metFor       = time.Hour
	idleTicks    = 100                    // of the clock, of which the agreement is told one while nobody waits for it: 10 s
	saveEvery    = 250 * time.Millisecond // between two writes of how far peers are
)

// federation talks to other homeservers. With an empty address it is off: it
// still moves the agreement's clock, which a room of one homeserver may need.
type federation struct {
	cfg       *Config
	fc        *FederationConfig
	log       *slog.Logger
	listener  net.Listener // nil = off
	keys      *keyring
	metrics   *fedMetrics
	guests    *guests
	codes     *codes
	addresses *addresses
	offers    offers

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	gw      bridges.Gateway
	peers   map[string]*peer
	rooms   map[core.RoomID][]*peer // who else is in a room, as far as known
	unknown map[core.RoomID]bool    // rooms to be looked up
	met     map[string]time.Time    // hosts who may ask as a peer for a while, though no room is shared yet
	resolve chan struct{}
	dirty   chan struct{} // a peer has more than we have written down
	running sync.WaitGroup
}

var _ peers = (*federation)(nil)

func newFederation(cfg *Config, codes *codes) (*federation, error) {
	fc := &cfg.Federation
	setDefault(&fc.Limits.Requests, 2000)
	setDefault(&fc.Limits.Parallel, 16)
	setDefault(&fc.Limits.InFlight, 4)
	setDefault(&fc.Limits.Memory, 256<<20)
	if fc.Blocked == nil {
		fc.Blocked = func(string) bool { return false }
	}
	f := &federation{cfg: cfg, fc: fc, log: cfg.Log, metrics: newFedMetrics(cfg.Registerer), guests: newGuests(fc.Limits, cfg.Now), codes: codes,
		peers: map[string]*peer{}, rooms: map[core.RoomID][]*peer{}, unknown: map[core.RoomID]bool{}, met: map[string]time.Time{},
		resolve: make(chan struct{}, 1), dirty: make(chan struct{}, 1)}
	if f.log == nil {
		f.log = slog.New(slog.DiscardHandler)
	}
	if fc.Address == "" {
		return f, nil
	}
	var err error
	if f.keys, err = newKeyring(fc.CertFile, fc.KeyFile, fc.CAFile); err != nil {
		return nil, err
	}
	if f.listener, err = net.Listen("tcp", fc.Address); err != nil {
		return nil, &core.Error{Code: core.Unavailable, Text: "federation.address: " + err.Error(), Err: err}
	}
	if fc.Base == "" {
		_, port, _ := net.SplitHostPort(f.listener.Addr().String())
		fc.Base = "https://" + net.JoinHostPort(core.HostOf(cfg.Domain), port)
	}
	f.addresses = newAddresses(f)
	return f, nil
}

func (f *federation) off() bool { return f.listener == nil }

// close gives up a listener that was never served.
func (f *federation) close() {
	if !f.off() {
		f.listener.Close()
	}
}

// run serves until ctx ends.
func (f *federation) run(ctx context.Context, gw bridges.Gateway) error {
	f.mu.Lock()
	f.ctx, f.gw = ctx, gw
	f.mu.Unlock()
	defer f.running.Wait()
	f.running.Go(func() { f.tick(ctx) })
	if f.off() {
		<-ctx.Done()
		return nil
	}
	f.running.Go(func() { f.resolveRooms(ctx) })
	f.running.Go(func() { f.save(ctx) })
	return f.serve(ctx)
}

// gateway returns what Run was given; Unavailable before.
func (f *federation) gateway() (bridges.Gateway, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gw == nil || f.ctx.Err() != nil {
		return nil, core.Errorf(core.Unavailable, "the homeserver is not ready")
	}
	return f.gw, nil
}

// tick moves the agreement's clock while somebody waits for it, and otherwise now and
// then, so that what is idle can be let go of.
func (f *federation) tick(ctx context.Context) {
	if f.fc.Awake == nil {
		return
	}
	t := time.NewTicker(core.TickEvery)
	defer t.Stop()
	for idle := 0; ; {
		select {
		case <-t.C:
			if idle++; !f.fc.Awake() && idle < idleTicks {
				continue
			}
			idle = 0
			if _, err := f.gw.Do(ctx, core.Tick{}); err != nil && ctx.Err() == nil {
				f.log.Warn("the agreement's clock stands", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// publish takes what a transaction decided for other homeservers. It never
// blocks: what finds no room here is read from the store later, or said again.
func (f *federation) publish(b bridges.Batch) {
	f.offers.publish(b.Decisions)
	if f.off() {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ctx == nil {
		return // the scan after the start finds the rest
	}
	for i := range b.Events {
		f.publishEvent(&b.Events[i])
	}
	for _, r := range b.Rooms {
		if r.Kind == core.Group {
			f.lookUp(r.ID)
		}
	}
	for _, s := range b.Sends {
		if p := f.peerOf(s.To); p != nil {
			p.agree.put(s.Message, len(b.Decisions) > 0)
		}
	}
	for _, domain := range b.Missing {
		if p := f.peerOf(domain); p != nil {
			p.acquaint()
		}
	}
	for i := range b.Welcomes {
		if p := f.peerOf(b.Welcomes[i].To); p != nil {
			poke(p.welcome)
		}
	}
}

// publishEvent offers one event to the homeservers of its room. A handshake may
// change who they are.
func (f *federation) publishEvent(e *core.Event) {
	s, sealed := e.Body.(core.Sealed)
	if !sealed {
		return
	}
	if s.Handshake() {
		f.lookUp(e.Room)
		return
	}
	if e.Home != "" {
		return
	}
	ps, known := f.rooms[e.Room]
	if !known {
		f.lookUp(e.Room)
		return
	}
	for _, p := range ps {
		if !p.lanes.offer(e, s.Message) {
			f.lookUp(e.Room)
		}
	}
}

// lookUp has the homeservers of a room read from the store.
func (f *federation) lookUp(room core.RoomID) {
	f.unknown[room] = true
	poke(f.resolve)
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// peerOf returns the peer called domain, made on first use; nil for ourselves,
// one that is blocked, what is no domain, and beyond maxPeers. The caller holds f.mu.
func (f *federation) peerOf(domain string) *peer {
	if p := f.peers[domain]; p != nil {
		p.used = f.cfg.Now()
		return p
	}
	if domain == f.cfg.Domain || f.ctx == nil || f.off() || f.fc.Blocked(domain) || checkDomain(domain) != nil || !f.room() {
		return nil
	}
	p := newPeer(f, domain)
	p.used = f.cfg.Now()
	f.peers[domain] = p
	f.metrics.peers.Set(float64(len(f.peers)))
	p.start(f.ctx)
	return p
}

// room makes room for one peer more: of those that share no room with us the one that
// was not needed for longest goes. Strangers only have to ask to be answered. The
// caller holds f.mu.
func (f *federation) room() bool {
	if len(f.peers) < maxPeers {
		return true
	}
	var idle *peer
	for _, p := range f.peers {
		if (idle == nil || p.used.Before(idle.used)) && !p.lanes.shared() {
			idle = p
		}
	}
	if idle == nil {
		return false
	}
	idle.stop()
	delete(f.peers, idle.domain)
	f.metrics.forget(idle.domain)
	return true
}

// peer is peerOf for who does not hold f.mu, with the reason for nil.
func (f *federation) peer(domain string) (*peer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.peerOf(domain); p != nil {
		return p, nil
	}
	switch {
	case f.off():
		return nil, core.Errorf(core.Unavailable, "this homeserver does not federate")
	case f.ctx == nil:
		return nil, core.Errorf(core.Unavailable, "the homeserver is not ready")
	case f.fc.Blocked(domain):
		return nil, core.Errorf(core.Denied, "that homeserver is blocked here")
	case checkDomain(domain) == nil && domain != f.cfg.Domain:
		return nil, core.Errorf(core.Unavailable, "too many homeservers")
	}
	return nil, core.Errorf(core.NotFound, "there is no such homeserver")
}

// known reports whether domain may ask as a peer: it shares a room with us, an
// operator named it, or it was met a short while ago.
func (f *federation) known(domain string) bool {
	if f.shares(domain) {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cfg.Now().Before(f.met[core.HostOf(domain)])
}

// shares reports whether domain shares a room with us, or an operator named it: it is
// not one of which anybody can make up more.
func (f *federation) shares(domain string) bool {
	if slices.ContainsFunc(f.fc.Peers, func(p Peer) bool { return p.Domain == domain }) {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.peers[domain]
	return p != nil && p.lanes.shared()
}

// meet lets domain ask as a peer for a while: somebody here has to do with it.
func (f *federation) meet(domain string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.cfg.Now()
	if len(f.met) >= maxPeers {
		for d, until := range f.met {
			if now.After(until) {
				delete(f.met, d)
			}
		}
	}
	if len(f.met) < maxPeers {
		f.met[core.HostOf(domain)] = now.Add(metFor) // who has its certificate has all of its ports
	}
}
