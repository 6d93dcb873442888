package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/net/netutil"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/bridges/native"
	"github.com/isthmus-chat/isthmus/core"
)

// maxHeader bounds a request's header in octets: a WebSocket upgrade with
// cookies fits, and 4,096 connections of it fit in memory.
const maxHeader = 16 << 10

// handler is everything the HTTP address serves.
func (h *house) handler(ready *readiness) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "This is Isthmus: encrypted rooms across homeservers, and channels for IRC clients that link to Matrix rooms.\n")
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", ready.serve)
	if h.cfg.HTTP.Metrics {
		mux.Handle("GET /metrics", promhttp.HandlerFor(h.reg, promhttp.HandlerOpts{Registry: h.reg, MaxRequestsInFlight: 4}))
	}
	h.nets.route(mux)
	return mux
}

// serveHTTP serves handler on l until ctx ends, then lets requests finish
// within the stop timeout.
func (h *house) serveHTTP(ctx context.Context, l net.Listener, handler http.Handler) error {
	cfg := h.cfg.HTTP
	s := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: time.Duration(cfg.HeaderTimeout),
		ReadTimeout:       time.Duration(cfg.RequestTimeout),
		WriteTimeout:      time.Duration(cfg.RequestTimeout), // a WebSocket leaves the server and these behind
		IdleTimeout:       time.Duration(cfg.IdleTimeout),
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(h.log.Handler(), slog.LevelDebug), // broken clients are no news
	}
	// Who opens connections and says nothing leaves room for others.
	l = native.LimitAddresses(l, max(cfg.MaxConnections/4, 1), slices.Concat(prefixes(h.cfg.API.Forwarded), prefixes(h.cfg.IRC.Forwarded)))
	return serveUntil(ctx, s, netutil.LimitListener(l, cfg.MaxConnections), time.Duration(h.cfg.StopTimeout))
}

// serveUntil runs s on l until ctx ends, then shuts it down within grace.
func serveUntil(ctx context.Context, s *http.Server, l net.Listener, grace time.Duration) error {
	failed := make(chan error, 1)
	go func() { failed <- s.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if s.Shutdown(stopCtx) != nil {
		s.Close()
	}
	<-failed
	return nil
}

// Readiness is looked at on a schedule, never because somebody asks: an
// unauthenticated request must not write to the disk.
const (
	probeEvery = 5 * time.Second
	probeStart = 50 * time.Millisecond // until everything has started
	probeTime  = 4 * time.Second       // less than probeEvery, so that probes do not overlap
)

// A readiness knows whether the server can do its work: the engine's loop
// answers, the store takes a write, the listeners are up.
type readiness struct {
	last  atomic.Pointer[readyState]
	write chan error // the answer of the store that a probe still waits for; only watch uses it
}

type readyState struct {
	Ready     bool      `json:"ready"`
	Store     string    `json:"store"`     // "ok" or what is wrong
	Listeners string    `json:"listeners"` // "ok" or what is wrong
	Checked   time.Time `json:"checked"`
}

func (r *readiness) serve(w http.ResponseWriter, _ *http.Request) {
	s := r.last.Load()
	if s == nil {
		s = &readyState{Store: "starting", Listeners: "starting"}
	}
	w.Header().Set("Content-Type", "application/json")
	if !s.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(s)
}

// watch probes until ctx ends. The write goes the way every message goes: in
// line, through the engine, into a transaction, onto the disk.
func (r *readiness) watch(ctx context.Context, h *house) {
	t := time.NewTicker(probeStart)
	defer t.Stop()
	for started := false; ; {
		s := r.probe(ctx, h)
		if r.last.Store(s); s.Ready && !started {
			started = true
			t.Reset(probeEvery)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			r.last.Store(&readyState{Store: "stopping", Listeners: "stopping", Checked: time.Now()})
			return
		}
	}
}

func (r *readiness) probe(ctx context.Context, h *house) *readyState {
	s := &readyState{Store: "ok", Listeners: "ok", Checked: time.Now()}
	if err := r.askStore(ctx, h.rt, s.Checked); err != nil {
		s.Store = core.TextOf(err)
	}
	if err := h.nets.listening(); err != nil {
		s.Listeners = core.TextOf(err)
	}
	s.Ready = s.Store == "ok" && s.Listeners == "ok"
	return s
}

// askStore waits for the store to take a write, but no longer than probeTime: a
// disk that hangs must show. The write itself is final and waits on, so there is
// never more than one.
func (r *readiness) askStore(ctx context.Context, gw bridges.Gateway, now time.Time) error {
	if r.write == nil {
		answer := make(chan error, 1)
		r.write = answer
		go func() {
			_, err := gw.Do(ctx, core.PutValue{Bucket: "house", Key: "probe", Data: fmt.Appendf(nil, "%d", now.Unix())})
			answer <- err
		}()
	}
	select {
	case err := <-r.write:
		r.write = nil
		return err
	case <-time.After(probeTime):
		return core.Errorf(core.Unavailable, "the database does not answer in time")
	case <-ctx.Done():
		return core.Errorf(core.Unavailable, "stopping")
	}
}
