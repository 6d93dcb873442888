//go:build bench

package main_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

const (
	window     = 16              // messages in flight
	fanoutTime = 3 * time.Second // of sending, per round
)

// benchFanout: one sender, a channel of 500 and of 1000 receivers.
func benchFanout(t *testing.T, ps []peer, r *report) {
	for _, n := range []int{500, 1000} {
		m := interleave(t, ps, func(t *testing.T, p peer) map[string]float64 { return fanout(t, p, n, "") })
		r.compare(fmt.Sprintf("fan-out to %d, delivered", n), "lines/s", m, "rate", timesBest(1.3))
		r.compare(fmt.Sprintf("fan-out to %d, server CPU per line", n), "µs", m, "cpu", atMostTimes(1.1))
	}
}

// fanout has one client send as fast as a window of messages allows. A message
// leaves the window when on average all receivers have it, so none is sent
// before those 16 earlier are through.
func fanout(t *testing.T, p peer, receivers int, caps string) map[string]float64 {
	s := start(t, p, setup{})
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	cs, err := l.register(s.port, receivers+1, p.parallel, caps)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.join(cs, "#bench"); err != nil {
		t.Fatal(err)
	}
	line := "PRIVMSG #bench :" + strings.Repeat("chatter ", 5) + "\r\n"
	l.lines = 0
	cpu, began := s.cpu(), time.Now()
	sent, writes, self := 0, 0, ownCPU()
	for time.Since(began) < fanoutTime {
		if k := window - (sent - l.lines/receivers); k > 0 {
			l.send(cs[0], strings.Repeat(line, k))
			sent, writes = sent+k, writes+1
		}
		if err := l.poll(time.Second); err != nil {
			t.Fatal(err)
		}
	}
	err = l.until(10*time.Second, fmt.Sprintf("the last of %d messages", sent), func() bool { return l.lines >= sent*receivers })
	if err != nil {
		t.Fatalf("%v: %d lines of %d", err, l.lines, sent*receivers)
	}
	took, used := time.Since(began), s.cpu()-cpu
	lines := float64(l.lines)
	return map[string]float64{"rate": lines / took.Seconds(), "cpu": float64(used.Microseconds()) / lines,
		"cores": used.Seconds() / took.Seconds(), "generator cores": (ownCPU() - self).Seconds() / took.Seconds(),
		"messages per write": float64(sent) / float64(writes)}
}
