//go:build bench

package main_test

import (
	"testing"
	"time"
)

const (
	idleClients = 5000
	idleSettle  = 10 * time.Second // for what registration left behind
)

// benchIdle: what a client costs that says nothing, and how fast it gets there.
func benchIdle(t *testing.T, ps []peer, r *report) {
	m := interleave(t, ps, idle)
	r.compare("5,000 idle connections, resident memory each", "KiB", m, "rss", atMost(10))
	r.compare("registrations", "clients/s", m, "rate", atLeast(4300))
}

func idle(t *testing.T, p peer) map[string]float64 {
	s := start(t, p, setup{})
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	before, cpu, began := s.rss(), s.cpu(), time.Now()
	if _, err := l.register(s.port, idleClients, p.parallel, ""); err != nil {
		t.Fatal(err)
	}
	took, used := time.Since(began), s.cpu()-cpu
	if err := l.drain(idleSettle, time.Minute); err != nil {
		t.Fatal(err)
	}
	return map[string]float64{"rss": (s.rss() - before) / idleClients, "rate": idleClients / took.Seconds(),
		"cpu ms": float64(used.Microseconds()) / 1e3 / idleClients}
}
