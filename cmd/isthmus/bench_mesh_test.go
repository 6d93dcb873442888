//go:build bench

package main_test

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"
)

const (
	meshChannels = 25
	meshMembers  = 20
	meshRate     = 500             // messages a second, all together
	meshTime     = 6 * time.Second // per round
)

// benchMesh: small channels at a calm rate; what counts is the delay.
func benchMesh(t *testing.T, ps []peer, r *report) {
	m := interleave(t, ps, mesh)
	r.compare("25 channels × 20 members, 500 messages/s, delivery p50", "ms", m, "p50", atMost(0.4))
	r.compare("25 channels × 20 members, 500 messages/s, delivery p99", "ms", m, "p99", atMost(0.9))
}

func mesh(t *testing.T, p peer) map[string]float64 {
	s := start(t, p, setup{})
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	cs, err := l.register(s.port, meshChannels*meshMembers, p.parallel, "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range meshChannels {
		if err := l.join(cs[i*meshMembers:(i+1)*meshMembers], fmt.Sprintf("#bench%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	base := time.Now()
	total := int(meshRate * meshTime.Seconds())
	delays := make([]time.Duration, 0, total*meshMembers)
	for _, c := range cs {
		c.line = func(_ *client, line []byte) {
			// The text is its own time of sending, in ns since base.
			if _, text, ok := bytes.Cut(line, []byte(" :t")); ok {
				if ns, err := strconv.ParseInt(string(text), 10, 64); err == nil {
					delays = append(delays, time.Since(base)-time.Duration(ns))
				}
			}
		}
	}
	cpu := s.cpu()
	go pace(cs, base, total)
	want := total * (meshMembers - 1)
	if err := l.until(meshTime+10*time.Second, "mesh", func() bool { return len(delays) >= want }); err != nil {
		t.Fatalf("%v: %d of %d delivered", err, len(delays), want)
	}
	used := s.cpu() - cpu
	slices.Sort(delays)
	ms := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
	return map[string]float64{"p50": ms(quantile(delays, 0.5)), "p99": ms(quantile(delays, 0.99)),
		"cpu": float64(used.Microseconds()) / float64(len(delays))}
}

// pace sends total messages at meshRate, each by another member of another
// channel. It writes beside the loop, which only reads these sockets now.
func pace(cs []*client, base time.Time, total int) {
	for i := range total {
		time.Sleep(time.Until(base.Add(time.Duration(i) * time.Second / meshRate)))
		channel, member := i%meshChannels, i/meshChannels%meshMembers
		writeAll(cs[channel*meshMembers+member].fd,
			fmt.Sprintf("PRIVMSG #bench%d :t%016d\r\n", channel, time.Since(base).Nanoseconds()))
	}
}
