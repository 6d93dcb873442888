package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
)

func (c *cli) serveCommand() *cobra.Command {
	var ircAddr, httpAddr string
	cmd := &cobra.Command{
		Use: "serve", Short: "Run the server", Args: cobra.NoArgs,
		Long: "serve runs the server until it is told to stop (Ctrl-C). Without a configuration it starts on\n" +
			"the default: SQLite under ./isthmus-data, IRC on 127.0.0.1:6667, HTTP on 127.0.0.1:8480.\n\n" +
			"SIGHUP reads the configuration and certificates again and applies what can be applied.\n" +
			"SIGTERM or SIGINT stops gracefully; a second one stops at once.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.serve(cmd.Context(), func(cfg *configs.Config) {
				if ircAddr != "" {
					cfg.IRC.Listeners = []configs.Listener{{Name: "plain", Address: ircAddr}}
				}
				if httpAddr != "" {
					cfg.HTTP.Address = httpAddr
				}
			})
		},
	}
	cmd.Flags().StringVar(&ircAddr, "irc", "", "IRC `address` (host:port), instead of the configured listeners")
	cmd.Flags().StringVar(&httpAddr, "http", "", "HTTP `address` (host:port), instead of http.address")
	return cmd
}

func (c *cli) serve(ctx context.Context, flags func(*configs.Config)) error {
	cfg, err := c.config(flags)
	if err != nil {
		return err
	}
	level := new(slog.LevelVar)
	log := newLog(c.err, cfg, level)
	made, err := makeSecrets(ctx, cfg)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	events := make(chan os.Signal, 4)
	signal.Notify(events, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	defer func() { signal.Stop(events); close(events) }()
	var running atomic.Pointer[server]
	go c.obey(events, stop, func() {
		if s := running.Load(); s != nil { // else it is only starting, and reads the newest anyway
			s.reload(func() (*configs.Config, error) { return c.config(flags) })
		}
	})
	h, err := openHouse(ctx, cfg, log, true)
	if err != nil {
		return err
	}
	defer h.db.Close()
	go tendMemory(ctx, h.db.Shrink)
	s, err := h.listen()
	if err != nil {
		return err
	}
	defer s.close()
	s.level, s.current = level, cfg
	running.Store(s)
	if !c.json {
		c.welcome(h, made)
	}
	return s.run(ctx)
}

func newLog(w io.Writer, cfg *configs.Config, level *slog.LevelVar) *slog.Logger {
	level.UnmarshalText([]byte(cfg.Log.Level)) // validated: one of four words
	o := &slog.HandlerOptions{Level: level}
	if cfg.Log.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// welcome says how to connect, to a person who has never seen this before.
func (c *cli) welcome(h *house, made []string) {
	w := c.out
	fmt.Fprintf(w, "Isthmus %s serves %s. Stop with Ctrl-C.\n\n", version().Version, h.cfg.Domain)
	for _, l := range h.cfg.IRC.Listeners {
		host, port, _ := net.SplitHostPort(l.Address)
		if host == "" || host == "0.0.0.0" || host == "::" {
			host = "localhost"
		}
		switch {
		case l.WebSocket:
			fmt.Fprintf(w, "  IRC   %s over WebSocket\n", l.Address)
		case l.TLS:
			fmt.Fprintf(w, "  IRC   %s with TLS: irssi --tls -c %s -p %s, then /join #lobby\n", l.Address, host, port)
		default:
			fmt.Fprintf(w, "  IRC   %s: irssi -c %s -p %s, then /join #lobby\n", l.Address, host, port)
		}
	}
	if a := h.cfg.HTTP.Address; a != "" {
		scheme := "http"
		if h.cfg.HTTP.CertFile != "" {
			scheme = "https"
		}
		fmt.Fprintf(w, "  HTTP  %s://%s: /healthz /readyz /metrics\n", scheme, a)
	}
	if a := h.cfg.Federation.Address; a != "" {
		fmt.Fprintf(w, "  Peers %s, as %s: isthmus peer list\n", a, h.cfg.Domain)
	}
	fmt.Fprintf(w, "  Data  %s\n", absolute(h.cfg.DataDir))
	for _, m := range made {
		if filepath.Base(m) == filepath.Base(h.cfg.KeyFile) {
			fmt.Fprintf(w, "\nThis was the first start: keep a copy of %s.\n", absolute(m))
		}
	}
	fmt.Fprintln(w)
}

// A server is a house with its doors open.
type server struct {
	h       *house
	control net.Listener
	http    net.Listener // nil = off
	cert    *certificate // of http; nil = no TLS
	ready   readiness

	level   *slog.LevelVar
	current *configs.Config // as last reloaded; only reload uses it
}

// listen opens the control socket and the HTTP address, so that a port that is
// taken stops the start and not the running server.
func (h *house) listen() (s *server, err error) {
	s = &server{h: h}
	if s.control, err = listenControl(h.cfg.DataDir); err != nil {
		return nil, &core.Error{Code: core.Unavailable, Text: "control socket: " + err.Error(), Err: err}
	}
	if h.cfg.HTTP.Address == "" {
		return s, nil
	}
	if s.http, err = net.Listen("tcp", h.cfg.HTTP.Address); err != nil {
		s.close()
		return nil, &core.Error{Code: core.Unavailable, Text: "http.address: " + err.Error(), Err: err}
	}
	if f := h.cfg.HTTP.CertFile; f != "" {
		if s.cert, err = newCertificate(h.cfg.Path(f), h.cfg.Path(h.cfg.HTTP.KeyFile)); err != nil {
			s.close()
			return nil, &configs.Error{Problems: []string{"http.cert_file: " + err.Error()}}
		}
		s.http = tls.NewListener(s.http, &tls.Config{GetCertificate: s.cert.get, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}})
	}
	return s, nil
}

func (s *server) close() {
	s.control.Close()
	if s.http != nil {
		s.http.Close()
	}
}

// run serves until ctx ends or a part fails, which ends the others.
func (s *server) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var parts sync.WaitGroup
	errs := make(chan error, 3) // one from each part
	part := func(f func() error) {
		parts.Go(func() {
			if err := f(); err != nil {
				errs <- err
			}
			stop()
		})
	}
	grace := time.Duration(s.h.cfg.StopTimeout)
	part(func() error { return s.h.rt.Run(ctx) })
	part(func() error {
		cs := &http.Server{Handler: controlHandler(s.h.admin()), ReadHeaderTimeout: grace, IdleTimeout: time.Minute, MaxHeaderBytes: maxHeader}
		return serveUntil(ctx, cs, s.control, grace)
	})
	if s.http != nil {
		part(func() error { return s.h.serveHTTP(ctx, s.http, s.h.handler(&s.ready)) })
	}
	parts.Go(func() { s.ready.watch(ctx, s.h) })
	<-ctx.Done()
	s.h.log.Info("stopping")
	done := make(chan struct{})
	go func() { parts.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(2 * grace): // each part has a bound of its own: this one should never be met
		return core.Errorf(core.Unavailable, "did not stop within %v", 2*grace)
	}
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// obey ends the server with the first SIGINT or SIGTERM and the process with the
// second; SIGHUP reloads, one at a time. It returns when events is closed.
func (c *cli) obey(events <-chan os.Signal, stop, reload func()) {
	stopping := false
	for sig := range events {
		switch {
		case sig == syscall.SIGHUP:
			reload()
		case stopping:
			fmt.Fprintln(c.err, "isthmus: stopped at once")
			os.Exit(exitFailed)
		default:
			stopping = true
			stop()
		}
	}
}

// reload reads the configuration again, applies what can be applied to a running
// server and says what cannot. A configuration that is wrong changes nothing.
func (s *server) reload(load func() (*configs.Config, error)) {
	log := s.h.log
	now, err := load()
	if err != nil {
		log.Error("configuration not reloaded", "err", strings.ReplaceAll(err.Error(), "\n", "; "))
		return
	}
	for _, ch := range configs.Diff(s.current, now) {
		if ch.Hot {
			log.Info("applied", "key", ch.Key)
		} else {
			log.Warn("needs a restart", "key", ch.Key)
		}
	}
	s.current = configs.Keep(s.current, now)
	s.level.UnmarshalText([]byte(s.current.Log.Level)) // validated: one of four words
	err = s.h.nets.reload(s.current)
	if s.cert != nil {
		err = errors.Join(err, s.cert.load())
	}
	if err != nil {
		log.Error("not all was reloaded", "err", err)
		return
	}
	log.Info("configuration reloaded")
}

// A certificate is a certificate and key from files, which may change.
type certificate struct {
	certFile, keyFile string
	now               atomic.Pointer[tls.Certificate]
}

func newCertificate(certFile, keyFile string) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile}
	return c, c.load()
}

// load reads the files; if they do not fit, the old certificate stays.
func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err == nil {
		c.now.Store(&pair)
	}
	return err
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.now.Load(), nil }
