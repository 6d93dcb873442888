package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
)

// A hungDisk takes a write when release is closed.
type hungDisk struct {
	bridges.Gateway
	release chan struct{}
	writes  atomic.Int32
}

func (d *hungDisk) Do(context.Context, core.Input) (core.Output, error) {
	d.writes.Add(1)
	<-d.release
	return core.Output{}, nil
}

// A disk that hangs does not keep the server looking ready, and is not asked
// again and again.
func TestReadinessSeesAStoreThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, r := &hungDisk{release: make(chan struct{})}, readiness{}
		for range 3 {
			began := time.Now()
			if err := r.askStore(t.Context(), d, began); core.CodeOf(err) != core.Unavailable {
				t.Errorf("a store that hangs: %v", err)
			}
			if waited := time.Since(began); waited > probeEvery {
				t.Errorf("waited %v, longer than until the next probe", waited)
			}
		}
		if n := d.writes.Load(); n != 1 {
			t.Errorf("%d writes wait", n)
		}
		close(d.release)
		for range 2 {
			if err := r.askStore(t.Context(), d, time.Now()); err != nil {
				t.Errorf("a store that is back: %v", err)
			}
		}
	})
}

// Peers that stop in the middle of a request, as when their machine is gone, are
// closed in time and hold up nobody.
func TestHTTPHalfOpen(t *testing.T) {
	cfg := &configs.Config{}
	cfg.HTTP.HeaderTimeout, cfg.HTTP.RequestTimeout, cfg.HTTP.IdleTimeout = configs.Duration(300*time.Millisecond), configs.Duration(600*time.Millisecond), configs.Duration(300*time.Millisecond)
	cfg.HTTP.MaxConnections, cfg.StopTimeout = 8, configs.Duration(time.Second)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	h := &house{cfg: cfg, log: slog.New(slog.DiscardHandler)}
	go func() {
		served <- h.serveHTTP(ctx, l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
		}))
	}()
	var dead []net.Conn
	for _, start := range []string{"", "PUT / HT", "PUT / HTTP/1.1\r\nHost: x\r\n", "PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc", "GET / HTTP/1.1\r\nHost: x\r\n\r\n"} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, start)
		dead = append(dead, c)
	}
	if res, err := http.Get("http://" + l.Addr().String()); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("somebody else was held up: %v", err)
	}
	for i, c := range dead {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("connection %d stays open", i)
		}
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
