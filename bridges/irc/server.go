package irc

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// Config is what the listener is made of. Defaults returns one that works.
type Config struct {
	Version     string // of this program: what VERSION and 004 say; "" = "isthmus"
	Domain      string // of the homeserver: part of every URI
	Network     string // what clients show as the network's name
	ServerName  string // the source of the server's lines; "" = Domain
	MOTD        string // line by line; "" = none
	Admin       string // who runs this
	Icon        string // https URL of the network's picture
	CaseMapping string // "ascii" or "rfc1459"; fixed once channels exist
	Secret      []byte // at least 16 octets: cloaks and decoy salts; lasting
	Suffix      string // ends the nicks of users that other networks relay

	Guests         bool // people without an account may come in
	CreateChannels bool // JOIN makes a channel that does not exist
	ReserveNicks   bool // an account's name is nobody else's nick
	JoinHistory    int  // messages shown on JOIN to clients without chathistory

	Access   Access
	Accounts Accounts

	RegistrationTimeout time.Duration
	PingInterval        time.Duration // silence before PING
	PingTimeout         time.Duration // time to answer it
	CommandBurst        int           // commands at once
	CommandInterval     time.Duration // then one each; 0 = no flood limit
	SendQueue           int           // octets that wait for a slow reader
	RecvQueue           int           // octets of one that sends too fast

	Channels   int // that one client may be in
	NickLen    int // octets
	ChannelLen int
	TopicLen   int
	KickLen    int
	AwayLen    int
	RealLen    int
	MaxTargets int // of one PRIVMSG, JOIN, …
	Monitor    int
	History    int
	MultiBytes int
	MultiLines int
}

// Defaults returns the configuration of a small open server for domain.
func Defaults(domain string) Config {
	return Config{
		Domain: domain, Network: "Isthmus", ServerName: domain, CaseMapping: "ascii", Suffix: "[m]",
		Guests: true, CreateChannels: true, ReserveNicks: true,
		RegistrationTimeout: 30 * time.Second, PingInterval: 2 * time.Minute, PingTimeout: 30 * time.Second,
		CommandBurst: 40, CommandInterval: 250 * time.Millisecond, SendQueue: 1 << 20, RecvQueue: 16 << 10,
		Channels: 100, NickLen: 32, ChannelLen: 64, TopicLen: 390, KickLen: 390, AwayLen: 390, RealLen: 150,
		MaxTargets: 4, Monitor: 100, History: 100, MultiBytes: 16 << 10, MultiLines: 100,
	}
}

// A Server is the IRC listener. It implements bridges.Bridge and bridges.Live.
type Server struct {
	cfg       Config
	log       *slog.Logger
	world     *world
	gw        bridges.Gateway
	auth      *authenticator
	door      atomic.Pointer[authenticator] // auth, for Login
	cloak     cloaker
	convert   converter.IRC
	registry  registry // of accounts
	founders  registry // of rooms
	transport *transport
	started   time.Time
	refs      atomic.Uint64 // batch references
	running   sync.WaitGroup

	flush     *flusher
	tokens    isupportTokens
	loading   loading
	recent    recentEvents
	parting   departures
	mail      mailbox
	peak      int                    // most users at once; under the world's lock
	metaMu    sync.Mutex             // taken after the world's lock, never before it
	metaStore sync.Mutex             // while metadata is being stored; never taken under the world lock
	live      atomic.Pointer[Config] // cfg with what Reload changed since
}

// New returns a server that does nothing before Run.
func New(cfg Config, log *slog.Logger) *Server {
	if cfg.Version == "" {
		cfg.Version = "isthmus"
	}
	if cfg.ServerName == "" {
		cfg.ServerName = cfg.Domain
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if len(cfg.Secret) < 16 {
		cfg.Secret = make([]byte, 32)
		rand.Read(cfg.Secret)
	}
	srv := &Server{cfg: cfg, log: log, world: newWorld(casemapOf(cfg.CaseMapping)), started: time.Now(), flush: newFlusher(),
		cloak: cloaker{key: cfg.Secret, network: strings.ToLower(nickFrom(cfg.Network, 20))}}
	srv.live.Store(&srv.cfg)
	srv.transport = newTransport(cfg.Access, log, srv.serve)
	return srv
}

// Network implements bridges.Bridge.
func (srv *Server) Network() core.Network { return core.NetworkIRC }

// Caps implements bridges.Bridge: what IRC can carry.
func (srv *Server) Caps() core.Caps {
	return core.Caps{Edit: false, React: true, Reply: true, Redact: true, Emote: true, Typing: true, Topic: true, Membership: true, Formatted: true}
}

// Deliver implements bridges.Bridge. The listener is never linked: its users are
// the homeserver's own.
func (srv *Server) Deliver(context.Context, core.Delivery) (core.Report, error) {
	return core.Report{}, core.Errorf(core.Unsupported, "the IRC listener is not a link")
}

// shutdownTime bounds how long goodbyes take when the server stops.
const shutdownTime = 5 * time.Second

// start loads the world and ends what a crash left behind; the listeners may
// accept connections afterwards.
func (srv *Server) start(ctx context.Context, gw bridges.Gateway) error {
	srv.gw = gw
	go srv.flush.run(ctx)
	srv.auth = newAuthenticator(gw, srv.cfg.Secret, srv.cfg.Accounts.Passwords, srv.cfg.Accounts.Hashers, time.Now)
	srv.door.Store(srv.auth)
	if err := srv.load(ctx); err != nil {
		return err
	}
	return srv.reap(ctx)
}

// serve speaks IRC on c until either side ends it. It returns when everybody
// has been told that the user left.
func (srv *Server) serve(ctx context.Context, c net.Conn, info connInfo) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetNoDelay(true)
	}
	now := time.Now()
	s := &session{srv: srv, ctx: ctx, conn: c, info: info, in: newLineReader(c), reg: &registration{}, joined: now.Unix()}
	s.queue.conn, s.queue.max, s.queue.raw, s.queue.flush = c, srv.live.Load().SendQueue, s.in.raw, srv.flush
	s.active.Store(now.Unix())
	rand.Read(s.seed[:8])
	srv.world.mu.Lock()
	srv.world.sessions[s] = struct{}{}
	srv.world.mu.Unlock()
	defer srv.goodbye(s)
	defer func() {
		if r := recover(); r != nil { // one session's fault is nobody else's
			srv.log.Error("session panicked", "panic", r)
			s.why = "Internal error"
		}
	}()
	s.run()
}

// goodbye ends a session: the client is told why, and if it was its user's last,
// so is everybody else.
func (srv *Server) goodbye(s *session) {
	if s.why == "" {
		s.why = "Connection closed"
	}
	s.queue.push(s.out)
	s.queue.end([]byte("ERROR :Closing link: " + strings.Map(printable, s.why) + "\r\n"))
	w := srv.world
	w.mu.Lock()
	delete(w.sessions, s)
	w.unwatch(s)
	u := s.user
	last := u != nil && w.detach(s, u)
	if u != nil && !last {
		w.reckonAway(u, s)
	}
	if last {
		u.gone = true
	}
	w.mu.Unlock()
	if last {
		srv.depart(u, s.why)
	}
}

func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// tick is how often timeouts are looked at.
const tick = 5 * time.Second

// watch pings the silent and closes the dead, for all sessions from one
// goroutine; no session has a timer.
func (srv *Server) watch(ctx context.Context) {
	t := time.NewTicker(min(tick, max(srv.cfg.PingTimeout/4, 10*time.Millisecond), max(srv.cfg.RegistrationTimeout/4, 10*time.Millisecond)))
	defer t.Stop()
	ping := []byte("PING :" + srv.cfg.ServerName + "\r\n")
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			srv.sweep(now, ping)
			srv.retryDepartures(ctx)
			srv.settleItems(ctx)
		}
	}
}

func (srv *Server) sweep(now time.Time, ping []byte) {
	cfg := srv.live.Load()
	var late []*session
	srv.world.mu.RLock()
	for s := range srv.world.sessions {
		silent := now.Sub(time.Unix(s.active.Load(), 0))
		switch {
		case s.user == nil:
			if now.Sub(time.Unix(s.joined, 0)) > cfg.RegistrationTimeout {
				late = append(late, s)
			}
		case silent > cfg.PingInterval+cfg.PingTimeout && s.pinged.Load():
			late = append(late, s)
		case silent > cfg.PingInterval && s.pinged.CompareAndSwap(false, true):
			s.queue.push(ping)
		}
	}
	srv.world.mu.RUnlock()
	for _, s := range late {
		s.conn.SetReadDeadline(time.Unix(1, 0)) // the reader ends the session
	}
}

// batchRef returns a batch reference that no other open batch has.
func (srv *Server) batchRef() string { return strconv.FormatUint(srv.refs.Add(1), 36) }

func itoa(n int) string { return strconv.Itoa(n) }

// Reload applies what may change while the server runs: the texts, who may make
// channels and accounts, and those limits that clients are not told of when they
// connect. Whatever else differs in cfg has no effect. Certificates are read
// again; one that cannot be read stays as it was and is named in the error.
func (srv *Server) Reload(cfg Config) error {
	srv.live.Store(&cfg)
	srv.transport.limits.set(cfg.Access.Limits)
	return srv.transport.reloadTLS()
}
