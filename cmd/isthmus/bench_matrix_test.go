//go:build bench

package main_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	matrixMessages = 1500
	matrixRate     = 100 // messages a second
	matrixRoom     = "!bench:bench.sink"
	maxSinkBody    = 1 << 20
)

// benchMatrix: from the write of an IRC line to the arrival of the request that
// carries it, so the commit lies in between. The sink answers what a homeserver
// would; it exists for this timing only, acceptance tests use a real one.
func benchMatrix(t *testing.T, ps []peer, r *report) {
	p := ours(t, ps)
	k := &sink{base: time.Now()}
	hs := httptest.NewServer(k)
	t.Cleanup(hs.Close) // after the server, which is stopped first
	s := start(t, p, setup{sink: hs.URL})
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	cs, err := l.register(s.port, 1, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.join(cs, "#bench"); err != nil {
		t.Fatal(err)
	}
	operate(t, s, "link", "add", "#bench", matrixRoom, "--network", "matrix:bench.sink", "--owner", "bench")
	m := medians{}
	for range rounds() {
		v := k.round(t, l, cs[0])
		t.Logf("%s", said(v))
		m.add(p.name, v)
	}
	r.compare("IRC line received → request to the Matrix homeserver, p50", "ms", m, "p50", atMost(2))
	r.compare("IRC line received → request to the Matrix homeserver, p99", "ms", m, "p99", atMost(10))
}

// operate runs an operator's command on the server.
func operate(t *testing.T, s *server, args ...string) string {
	t.Helper()
	args = append(args, "--config", s.dir+"/"+s.config)
	out, err := exec.Command(s.binary, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("isthmus %s: %v\n%s\n%s", strings.Join(args[:2], " "), err, out, s.lastWords())
	}
	return string(out)
}

// A sink stands where the homeserver is. It notes when a message arrives whose
// text is its own time of sending.
type sink struct {
	base time.Time

	mu     sync.Mutex
	events int
	delays []time.Duration
}

func (k *sink) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	now := time.Since(k.base)
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxSinkBody))
	if err != nil {
		http.Error(w, `{"errcode":"M_TOO_LARGE"}`, http.StatusRequestEntityTooLarge)
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.events++
	if _, rest, ok := bytes.Cut(body, []byte(`"body":"t`)); ok && len(rest) >= 16 {
		if ns, err := strconv.ParseInt(string(rest[:16]), 10, 64); err == nil {
			k.delays = append(k.delays, now-time.Duration(ns))
		}
	}
	w.Header().Set("Content-Type", "application/json")
	switch {
	case strings.HasSuffix(q.URL.Path, "/state/m.room.power_levels/") && q.Method == http.MethodGet:
		io.WriteString(w, `{"users":{"@isthmus:bench.sink":100}}`)
	case strings.Contains(q.URL.Path, "/state/m.room.encryption"):
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, `{"errcode":"M_NOT_FOUND","error":"not encrypted"}`)
	default:
		fmt.Fprintf(w, `{"event_id":"$bench%d","room_id":%q,"user_id":"@isthmus:bench.sink","versions":["v1.11"],"joined":{}}`, k.events, matrixRoom)
	}
}

func (k *sink) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.delays)
}

// round sends messages at a calm rate and waits until all have arrived. The
// first of a speaker makes their ghost, so one goes ahead uncounted.
func (k *sink) round(t *testing.T, l *loop, c *client) map[string]float64 {
	t.Helper()
	say := func(n int) {
		for i := range n {
			time.Sleep(time.Second / matrixRate)
			writeAll(c.fd, fmt.Sprintf("PRIVMSG #bench :t%016d %d\r\n", time.Since(k.base).Nanoseconds(), i))
		}
	}
	await := func(n int) {
		if err := l.until(time.Minute, "the homeserver's requests", func() bool { return k.count() >= n }); err != nil {
			t.Fatalf("%v: %d of %d", err, k.count(), n)
		}
	}
	k.mu.Lock()
	k.delays = nil
	k.mu.Unlock()
	go say(1)
	await(1)
	k.mu.Lock()
	k.delays = nil
	k.mu.Unlock()
	go say(matrixMessages)
	await(matrixMessages)
	k.mu.Lock()
	defer k.mu.Unlock()
	slices.Sort(k.delays)
	return map[string]float64{"p50": quantile(k.delays, 0.5).Seconds() * 1e3, "p99": quantile(k.delays, 0.99).Seconds() * 1e3}
}
