package native

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Who may register a device that nobody vouches for: the first of a new user.
const (
	RegistrationOpen   = "open"   // everybody
	RegistrationToken  = "token"  // who knows the operator's token
	RegistrationClosed = "closed" // nobody: only users with an account or another device
)

// APIConfig is what the operator decides about the device API.
type APIConfig struct {
	Registration    string // one of the three above; "" = closed
	Token           string // with RegistrationToken
	SessionLifetime time.Duration
	Requests        int            // a session may make each second, in the long run
	Messages        int            // a session may send each second, in the long run
	Streams         int            // open streams and waiting polls, of all sessions together
	Forwarded       []netip.Prefix // reverse proxies whose X-Forwarded-For is believed

	// Login checks an account's name and password; nil = there are no accounts.
	Login func(ctx context.Context, from netip.Addr, name, password string) (core.Account, error)
	// Account returns the account that keeps a name for a user without a
	// password, or why nobody can be called that; nil = every name will do.
	Account func(name string) (core.Account, error)
	// Profile is how a user of this homeserver is shown in Channels, and what the bans
	// there are about; nil = by the name and the domain.
	Profile func(core.UserURI) core.Profile
	// Fold says which names of Channels are the same; nil = lower case.
	Fold func(string) string
}

// Bounds of the device API that no operator needs to move.
const (
	maxBodies   = 512 << 20 // octets of the bodies that are being read or worked on at a time
	smallBody   = 64 << 10
	maxBurst    = 4 // seconds of a session's rate that may come at once
	decideTime  = 15 * time.Second
	peerTimeout = 20 * time.Second // for what another homeserver is asked
)

func (c *APIConfig) fill() {
	setDefault(&c.Registration, RegistrationClosed)
	setDefault(&c.SessionLifetime, 30*24*time.Hour)
	setDefault(&c.Requests, 50)
	setDefault(&c.Messages, 1000)
	setDefault(&c.Streams, 10_000)
	if c.Account == nil {
		c.Account = func(name string) (core.Account, error) { return core.Account{Name: name, Fold: name}, nil }
	}
	if c.Profile == nil {
		c.Profile = profileOf
	}
	if c.Fold == nil {
		c.Fold = strings.ToLower
	}
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// api serves devices. It is an http.Handler, which answers Unavailable before
// start and after the context of start has ended.
type api struct {
	cfg    *Config
	log    *slog.Logger
	peers  peers
	mux    *http.ServeMux
	secret [32]byte // of challenges; a restart voids those that are open
	hub    *hub
	offers offers
	joins  joins
	limits limits
	codes  *codes
	counts *apiMetrics
	bodies *loads
	naming sync.Mutex // while a name is looked up and taken

	running atomic.Pointer[running]
}

// running is what start brings.
type running struct {
	ctx context.Context
	gw  bridges.Gateway
}

func newAPI(cfg *Config, p peers, codes *codes) *api {
	cfg.API.fill()
	a := &api{cfg: cfg, log: cfg.Log, peers: p, mux: http.NewServeMux(), hub: newHub(cfg.API.Streams), limits: newLimits(&cfg.API), codes: codes, bodies: newLoads(maxBodies)}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	a.counts = newAPIMetrics(cfg.Registerer, a.hub.open)
	rand.Read(a.secret[:]) // never fails: it ends the program if the system has no randomness
	a.register()
	return a
}

func (a *api) start(ctx context.Context, gw bridges.Gateway) { a.running.Store(&running{ctx, gw}) }

func (a *api) signal(s core.Signal) { a.hub.signal(s) }

// ready reports whether requests are answered: from start until its context ends.
func (a *api) ready() bool {
	run := a.running.Load()
	return run != nil && run.ctx.Err() == nil
}

func (a *api) gw() bridges.Gateway { return a.running.Load().gw }

func (a *api) register() {
	for _, r := range routes {
		a.mux.HandleFunc(r.method+" "+r.path, func(w http.ResponseWriter, req *http.Request) { a.serve(&r, w, req) })
	}
}

// ServeHTTP answers what no route is for in our own words.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, pattern := a.mux.Handler(r)
	if pattern != "" {
		a.mux.ServeHTTP(w, r)
		return
	}
	said := refused{header: http.Header{}}
	h.ServeHTTP(&said, r)
	if allow := said.header.Get("Allow"); said.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", allow)
		writeError(w, r, core.Errorf(core.Unsupported, "this path knows %s", allow))
		return
	}
	writeError(w, r, core.Errorf(core.NotFound, "no such path: docs/openapi.yaml describes the device API"))
}

// refused takes down what the mux would answer by itself.
type refused struct {
	header http.Header
	status int
}

func (r *refused) Header() http.Header         { return r.header }
func (r *refused) WriteHeader(status int)      { r.status = status }
func (r *refused) Write(b []byte) (int, error) { return len(b), nil }

// A call is one request on its way through its handler.
type call struct {
	w       http.ResponseWriter
	r       *http.Request
	from    netip.Addr
	session core.Session // of who asks; zero where nobody has to be known
	body    []byte
}

func (c *call) ctx() context.Context { return c.r.Context() }

// serve is the one way of every request: who is it, may they ask now, what do
// they say, what is the answer.
func (a *api) serve(rt *route, w http.ResponseWriter, r *http.Request) {
	defer func() {
		if p := recover(); p != nil { // one request's fault is nobody else's
			a.log.Error("request panicked", "route", rt.method+" "+rt.path, "panic", fmt.Sprint(p))
			writeError(w, r, core.Errorf(core.Internal, "panic"))
		}
	}()
	w.Header().Set("Cache-Control", "no-store")
	c := &call{w: w, r: r, from: a.limits.address(r)}
	began, code := a.cfg.Now(), "ok"
	out, err := a.answer(rt, c)
	switch {
	case r.Context().Err() != nil:
		code = "gone"
	case err != nil:
		code = core.CodeOf(err).String()
	}
	a.counts.requests.WithLabelValues(rt.method+" "+rt.path, code).Inc()
	if !rt.waits {
		a.counts.seconds.Observe(a.cfg.Now().Sub(began).Seconds())
	}
	switch {
	case err != nil:
		if core.CodeOf(err) == core.Internal && r.Context().Err() == nil {
			a.log.Error("request failed", "route", rt.method+" "+rt.path, "err", err)
		}
		writeError(w, r, err)
	case out != answered:
		writeAnswer(w, r, out)
	}
}

// answered is what a handler returns that has written its answer itself.
var answered = any(new(nothing))

func (a *api) answer(rt *route, c *call) (any, error) {
	if !a.ready() {
		return nil, core.Errorf(core.Unavailable, "the homeserver is not ready")
	}
	err := a.admit(rt, c)
	if err != nil {
		return nil, err
	}
	done, err := a.readBody(rt, c)
	if err != nil {
		return nil, err
	}
	defer done()
	return rt.serve(a, c)
}

// admit finds out whose request this is, and counts it.
func (a *api) admit(rt *route, c *call) (err error) {
	if rt.who == anybody {
		return a.limits.stranger(c.from, a.cfg.Now())
	}
	if c.session, err = a.sessionOf(c); err != nil {
		if core.CodeOf(err) == core.Unauthenticated {
			c.w.Header().Set("WWW-Authenticate", `Bearer realm="isthmus", Basic realm="isthmus", charset="UTF-8"`)
		}
		return err
	}
	if rt.who == device && c.session.Device == "" {
		return core.Errorf(core.Denied, "this is for devices: an account's password opens Channels only")
	}
	return a.limits.request(&c.session, a.cfg.Now())
}

var errBusy = &core.Error{Code: core.Unavailable, Text: "too much is being sent at the moment", RetryAfter: time.Second}

// readBody reads what rt may be told, and nothing before it is known to fit. What
// it returns is called when the body is not needed any more.
func (a *api) readBody(rt *route, c *call) (done func(), err error) {
	tooLarge := core.Errorf(core.TooLarge, "a body over %d octets", rt.max)
	n := c.r.ContentLength
	switch {
	case n > rt.max:
		return nil, tooLarge
	case n < 0:
		n = rt.max
	}
	who := string(c.session.User)
	if who == "" {
		who = customer(c.from).String()
	}
	done, ok := a.bodies.take(who, n)
	if !ok {
		return nil, errBusy
	}
	if c.body, err = readAll(http.MaxBytesReader(c.w, c.r.Body, rt.max), c.r.ContentLength); err != nil {
		done()
		if _, ok := err.(*http.MaxBytesError); ok {
			return nil, tooLarge
		}
		return nil, core.Errorf(core.Invalid, "the body ended early")
	}
	return done, nil
}

// number reads a query parameter that counts something; 0 if it is not there.
func (c *call) number(name string) (uint64, error) {
	s := c.r.URL.Query().Get(name)
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 10, 63)
	if err != nil {
		return 0, core.Errorf(core.Invalid, "%s is not a number", name)
	}
	return n, nil
}

// room reads the room of the path: its URI, or the name of one of this homeserver.
func (a *api) room(c *call) (core.RoomID, error) {
	s := c.r.PathValue("room")
	if strings.HasPrefix(s, "mimi://") {
		return core.ParseRoomID(s)
	}
	return a.named(s)
}

// named returns the room called name here, as IRC has it: #lobby and lobby are one.
func (a *api) named(name string) (core.RoomID, error) {
	local := strings.TrimPrefix(a.cfg.API.Fold(name), "#")
	if local == "" || len(local) > core.MaxName {
		return "", core.Errorf(core.Invalid, "not a room's name")
	}
	return core.ParseRoomID(string(core.NewRoomID(a.cfg.Domain, local)))
}

// user reads the user of the path: a URI, or the name of a user of this homeserver.
func (a *api) user(c *call) (core.UserURI, error) {
	s := c.r.PathValue("user")
	if !strings.HasPrefix(s, "mimi://") {
		s = string(core.NewUserURI(a.cfg.Domain, s))
	}
	return core.ParseUserURI(s)
}

func (a *api) home(domain string) bool { return domain == a.cfg.Domain }

// wireDevice is a device as its homeserver shows it.
func wireDevice(d core.Device) wire.Device {
	return wire.Device{Device: d.URI, User: d.User, Name: d.Name, Revoked: d.Revoked, Refused: d.Refused, Proof: d.Proof}
}
