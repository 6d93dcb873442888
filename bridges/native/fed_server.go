package native

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of what other homeservers may ask.
const (
	maxGuests     = 4096    // homeservers whose requests are counted; more wait
	maxStreams    = 64      // requests of one connection at a time
	maxFedHeader  = 8 << 10 // octets of a request's header
	headerTime    = 10 * time.Second
	requestTime   = 60 * time.Second // to send a request, and to answer it
	stopTime      = 5 * time.Second
	maxAnswer     = 16 << 20 // octets of an answer that we read
	eventsBody    = maxBatch + maxBatchLanes*(core.MaxURI+64) + smallBody
	agreeBody     = 64 << 20 // one message of the agreement may be the state of the largest group
	welcomeBody   = 72 << 20 // a Welcome with the tree of the largest group
	strangersBody = 1 << 20  // of who shares no room with us; a Welcome may be the first we hear of them
)

// DirectoryPath is where homeservers look for how to reach each other
// (draft-ietf-mimi-protocol-06 §5.1).
const DirectoryPath = "/.well-known/mimi-protocol-directory"

// serve answers other homeservers until ctx ends.
func (f *federation) serve(ctx context.Context) error {
	s := &http.Server{
		Handler:           f,
		TLSConfig:         f.keys.server(),
		ReadHeaderTimeout: headerTime,
		ReadTimeout:       requestTime,
		WriteTimeout:      2 * requestTime,
		IdleTimeout:       2 * idleTime,
		MaxHeaderBytes:    maxFedHeader,
		ErrorLog:          slog.NewLogLogger(f.log.Handler(), slog.LevelDebug), // broken clients are no news
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReadFrameSize: frameSize,
			MaxReceiveBufferPerConnection: 2 * maxBatch, MaxReceiveBufferPerStream: maxBatch},
	}
	failed := make(chan error, 1)
	go func() {
		failed <- s.Serve(newListener(f.listener, s.TLSConfig))
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	if s.Shutdown(stop) != nil {
		s.Close()
	}
	<-failed
	return nil
}

// ServeHTTP is the one way of every request of another homeserver: who is it, may
// it ask now, is there room for what it says, what is the answer.
func (f *federation) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == DirectoryPath {
		f.serveDirectory(w, r)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	name := strings.TrimPrefix(r.URL.Path, wire.PeerPath)
	out, from, err := f.answer(w, r, name)
	if err != nil {
		if core.CodeOf(err) == core.Internal && r.Context().Err() == nil {
			f.log.Error("request of a peer failed", "request", strings.SplitN(name, "/", 2)[0], "peer", from, "err", err)
		}
		f.metrics.refused.WithLabelValues(core.CodeOf(err).String()).Inc()
		e := wireError(err)
		if e.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.FormatInt((e.RetryAfter+999)/1000, 10))
		}
		write(w, typeCBOR, statusOf(core.CodeOf(err)), e)
		return
	}
	if out == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	write(w, typeCBOR, http.StatusOK, out)
}

// A question is one request of another homeserver, read.
type question struct {
	from string
	body []byte
	r    *http.Request
}

// A peerRoute is one line of the table in PROTOCOL §8.
type peerRoute struct {
	method string
	limit  int64 // octets of the body
	rooms  bool  // only for who shares a room with us, or was met
	serve  func(f *federation, ctx context.Context, q *question) (any, error)
}

func tell[In any](serve func(*federation, context.Context, string, *In) (any, error)) func(*federation, context.Context, *question) (any, error) {
	return func(f *federation, ctx context.Context, q *question) (any, error) {
		in := new(In)
		if err := cborIn.Unmarshal(q.body, in); err != nil {
			return nil, core.Errorf(core.Invalid, "the body is not the CBOR that belongs here")
		}
		return serve(f, ctx, q.from, in)
	}
}

var peerRoutes map[string]peerRoute

func init() { // handlers refer to the table
	peerRoutes = map[string]peerRoute{
		// A stranger may say it: a room comes here from whoever leads it.
		"raft":               {"POST", agreeBody, false, tell((*federation).takeRaft)},
		"events":             {"POST", eventsBody, true, (*federation).takeEvents},
		"events/{room}":      {"GET", 0, true, (*federation).giveEvents},
		"key-packages/claim": {"POST", smallBody, false, tell((*federation).giveKeyPackages)},
		"records":            {"POST", maxRecordsBody, false, tell((*federation).giveRecords)},
		"welcome":            {"POST", welcomeBody, false, tell((*federation).takeWelcome)},
		"inbox":              {"POST", letterBody, false, tell((*federation).takeLetters)},
		"group-info":         {"POST", smallBody, false, tell((*federation).giveGroupInfo)},
		"handshakes":         {"POST", core.MaxHandshake + smallBody, false, tell((*federation).takeHandshake)},
	}
}

// answer finds the route and lets it answer.
func (f *federation) answer(w http.ResponseWriter, r *http.Request, name string) (out any, from string, err error) {
	if from, err = callerOf(r.TLS, r.Header.Get("From")); err != nil {
		return nil, "", err
	}
	if from == f.cfg.Domain {
		return nil, from, core.Errorf(core.Invalid, "that is this homeserver")
	}
	if f.fc.Blocked(from) {
		return nil, from, core.Errorf(core.Denied, "your homeserver is blocked here")
	}
	if strings.HasPrefix(name, "events/") {
		name = "events/{room}"
	}
	rt, ok := peerRoutes[name]
	switch {
	case !ok:
		return nil, from, core.Errorf(core.NotFound, "no such request between homeservers")
	case r.Method != rt.method:
		return nil, from, core.Errorf(core.Unsupported, "this is asked with %s", rt.method)
	}
	known := f.known(from)
	if rt.rooms && !known {
		return nil, from, core.Errorf(core.Denied, "your homeserver shares no room with this one")
	}
	if known {
		f.heard(from)
	}
	done, err := f.guests.admit(from, known)
	if err != nil {
		return nil, from, err
	}
	defer done()
	limit := rt.limit
	if !known {
		limit = min(limit, strangersBody)
	}
	body, free, err := f.guests.read(w, r, f.payer(from, known), limit)
	if err != nil {
		return nil, from, err
	}
	defer free()
	ctx, cancel := context.WithTimeout(r.Context(), requestTime)
	defer cancel()
	out, err = rt.serve(f, ctx, &question{from, body, r})
	return out, from, err
}

// payer is whose share of the room for bodies one of domain takes: all strangers have
// one together, since anybody has many hosts, and so have those that were met.
func (f *federation) payer(domain string, known bool) string {
	switch {
	case !known:
		return strangerMark
	case !f.shares(domain):
		return metMark
	}
	return core.HostOf(domain)
}

// heard tells the peer's workers that it is there.
func (f *federation) heard(domain string) {
	f.mu.Lock()
	p := f.peers[domain]
	f.mu.Unlock()
	if p != nil {
		p.heard()
	}
}

// serveDirectory says where the requests of PROTOCOL §8 go. It is no secret.
func (f *federation) serveDirectory(w http.ResponseWriter, r *http.Request) {
	if f.off() {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "GET only", http.StatusMethodNotAllowed)
		return
	}
	w.Header().Set("Content-Type", typeJSON)
	w.Header().Set("Cache-Control", "max-age=3600")
	json.NewEncoder(w).Encode(directory{Isthmus: &directoryEntry{Version: protocolVersion, Base: f.fc.Base}})
}

// guests count what other homeservers ask.
type guests struct {
	limits FederationLimits
	now    func() time.Time
	bodies *loads

	mu  sync.Mutex
	all map[string]*guest
}

type guest struct {
	rate *rate.Limiter
	busy int
	last time.Time
}

// strangerMark is before the names of those who share no room with us; no domain
// begins so.
const strangerMark = "?"

// metMark stands for those who share no room, but may ask as peers for a while.
const metMark = "!"

func newGuests(l FederationLimits, now func() time.Time) *guests {
	return &guests{limits: l, now: now, all: map[string]*guest{}, bodies: newLoads(l.Memory)}
}

// admit counts a request; done is called when it is answered.
func (g *guests) admit(domain string, known bool) (done func(), err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := g.now()
	who := core.HostOf(domain) // the ports of one host share its certificate, and what it may ask
	if !known {
		who = strangerMark + who
	}
	a := g.all[who]
	if a == nil {
		if len(g.all) >= maxGuests && !g.evict(now) {
			return nil, &core.Error{Code: core.Limited, Text: "too many homeservers ask at the moment", RetryAfter: time.Minute}
		}
		n := g.limits.Requests
		if !known {
			n = max(n/strangerPart, 1)
		}
		a = &guest{rate: rate.NewLimiter(rate.Limit(n), 2*n)}
		g.all[who] = a
	}
	most := g.limits.Parallel
	if !known {
		most = min(most, agreeFlights)
	}
	a.last = now
	if a.busy >= most {
		return nil, &core.Error{Code: core.Limited, Text: "more requests at the same time than one homeserver may have", RetryAfter: 50 * time.Millisecond}
	}
	if !a.rate.AllowN(now, 1) {
		return nil, &core.Error{Code: core.Limited, Text: "more requests than one homeserver may make", RetryAfter: time.Second}
	}
	a.busy++
	return func() {
		g.mu.Lock()
		a.busy--
		g.mu.Unlock()
	}, nil
}

// evict forgets homeservers that have been quiet for so long that their rates are
// full again.
func (g *guests) evict(now time.Time) bool {
	for d, a := range g.all {
		if a.busy == 0 && now.Sub(a.last) > 10*time.Second {
			delete(g.all, d)
		}
	}
	return len(g.all) < maxGuests
}

// read reads a body, and nothing of it before there is room for it.
func (g *guests) read(w http.ResponseWriter, r *http.Request, who string, limit int64) (body []byte, free func(), err error) {
	tooLarge := core.Errorf(core.TooLarge, "a body over %d octets", limit)
	n := r.ContentLength
	switch {
	case n > limit:
		return nil, nil, tooLarge
	case n < 0:
		n = limit
	}
	free, ok := g.bodies.take(who, n)
	if !ok {
		return nil, nil, &core.Error{Code: core.Unavailable, Text: "too much is being sent at the moment", RetryAfter: 200 * time.Millisecond}
	}
	if body, err = readAll(http.MaxBytesReader(w, r.Body, limit), r.ContentLength); err != nil {
		free()
		if _, ok := err.(*http.MaxBytesError); ok {
			return nil, nil, tooLarge
		}
		return nil, nil, core.Errorf(core.Invalid, "the body ended early")
	}
	return body, free, nil
}
