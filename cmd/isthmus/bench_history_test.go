//go:build bench

package main_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	historyMessages = 100_000
	historyPage     = 100
	historyClients  = 20
	historyTime     = 5 * time.Second
	historyCaps     = "message-tags server-time account-tag batch draft/chathistory"
)

// benchHistory: clients page backwards through a long channel. Only ours has
// one; Ergo's published figures are in the goal.
func benchHistory(t *testing.T, ps []peer, r *report) {
	p := ours(t, ps)
	s := start(t, p, setup{})
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	cs, err := l.register(s.port, historyClients, p.parallel, historyCaps)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.join(cs, "#bench"); err != nil {
		t.Fatal(err)
	}
	fill(t, l, cs, historyMessages)
	m := medians{}
	for range rounds() {
		v := pageBack(t, s, l, cs)
		t.Logf("%s", said(v))
		m.add(p.name, v)
	}
	r.compare("CHATHISTORY pages of 100 from disk, 20 clients", "lines/s", m, "rate", atLeast(205_000))
}

// fill has the first client say n lines, a window at a time, which the others
// count.
func fill(t *testing.T, l *loop, cs []*client, n int) {
	t.Helper()
	const inFlight = 256
	l.lines = 0
	others := len(cs) - 1
	for sent := 0; sent < n; {
		if k := min(inFlight-(sent-l.lines/others), n-sent); k >= inFlight/4 || k == n-sent {
			l.send(cs[0], strings.Repeat("PRIVMSG #bench :"+strings.Repeat("chatter ", 5)+"\r\n", k))
			sent += k
		}
		if err := l.poll(time.Second); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.until(time.Minute, "fill the channel", func() bool { return l.lines >= n*others }); err != nil {
		t.Fatalf("%v: %d of %d", err, l.lines, n*others)
	}
}

// pageBack reads pages for a while: each client asks for the page before the
// first message of the one it has, and starts over at the beginning.
func pageBack(t *testing.T, s *server, l *loop, cs []*client) map[string]float64 {
	t.Helper()
	var lines int
	var delays []time.Duration
	var failed error
	began, cpu := time.Now(), s.cpu()
	for _, c := range cs {
		p := pager{ask: func(before string) {
			l.send(c, "CHATHISTORY "+before+" 100\r\n")
		}, done: func(n int, took time.Duration) {
			lines += n
			delays = append(delays, took)
		}, fail: func(err error) { failed = err }}
		c.line = p.line
		p.latest()
	}
	for time.Since(began) < historyTime && failed == nil {
		if err := l.poll(100 * time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	if failed != nil || len(delays) == 0 {
		t.Fatalf("CHATHISTORY: %v", failed)
	}
	took, used := time.Since(began), s.cpu()-cpu
	for _, c := range cs {
		c.line = nil
	}
	if err := l.drain(500*time.Millisecond, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	slices.Sort(delays)
	return map[string]float64{"rate": float64(lines) / took.Seconds(), "cpu": float64(used.Microseconds()) / float64(lines),
		"p50": quantile(delays, 0.5).Seconds() * 1e3, "p99": quantile(delays, 0.99).Seconds() * 1e3}
}

// A pager reads one batch after another.
type pager struct {
	ask   func(before string)
	done  func(lines int, took time.Duration)
	fail  func(error)
	n     int
	first string // msgid of the page's first message
	asked time.Time
}

func (p *pager) next(which string) {
	p.n, p.first, p.asked = 0, "", time.Now()
	p.ask(which)
}

func (p *pager) latest() { p.next("LATEST #bench *") }

func (p *pager) line(_ *client, line []byte) {
	switch string(word(line)) {
	case "PRIVMSG":
		if p.n++; p.first == "" {
			_, id, _ := bytes.Cut(line, []byte("msgid="))
			id = id[:max(bytes.IndexAny(id, "; "), 0)]
			p.first = string(id)
		}
	case "BATCH":
		_, ref, _ := bytes.Cut(line, []byte("BATCH "))
		if len(ref) == 0 || ref[0] != '-' {
			return
		}
		p.done(p.n, time.Since(p.asked))
		if p.n < historyPage || p.first == "" {
			p.latest()
			return
		}
		p.next("BEFORE #bench msgid=" + p.first)
	case "FAIL":
		p.fail(fmt.Errorf("refused: %.200q", line))
	}
}
