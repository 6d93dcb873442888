package native

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of what we ask of another homeserver.
const (
	dialTime   = 3 * time.Second  // to open a connection, with TLS
	quickTime  = 10 * time.Second // for a short answer
	bulkTime   = 60 * time.Second // for an answer to a batch: 70 KiB a second are enough
	pingAfter  = time.Second      // of silence on a connection that something waits on
	pingTime   = 2 * time.Second  // for its answer: then the connection is given up
	idleTime   = 90 * time.Second
	firstWait  = 100 * time.Millisecond // after a first failure; it doubles
	longestGap = time.Minute            // between two attempts, however long it has been
	maxAfter   = time.Hour              // of a Retry-After
	errorBody  = 64 << 10
	frameSize  = 1 << 20
)

// A peer is another homeserver, as a client of it: its state of health, and what is
// on its way. What is in a hurry has a connection of its own, so that a vote never
// waits behind four megabytes of messages.
type peer struct {
	f       *federation
	domain  string
	quick   *http.Client
	bulk    *http.Client
	agree   *agreement
	lanes   *lanes
	welcome chan struct{} // a Welcome waits in the store
	meeting chan struct{} // its record is wanted
	used    time.Time     // last, for this homeserver's own part; under federation.mu
	stop    func()        // ends its workers

	mu     sync.Mutex
	health health
	again  chan struct{} // poked when there is no reason to wait any more
}

// health is how a peer answers.
type health struct {
	fails int       // in a row
	until time.Time // no attempt before
	since time.Time // of the first of the failures
	last  time.Time // of the last answer
	err   string
}

func newPeer(f *federation, domain string) *peer {
	p := &peer{f: f, domain: domain, welcome: make(chan struct{}, 1), meeting: make(chan struct{}, 1), again: make(chan struct{}, 1)}
	p.quick, p.bulk = p.client(), p.client()
	p.agree = newAgreement(p)
	p.lanes = newLanes(p)
	return p
}

// start runs the peer's workers until ctx ends.
func (p *peer) start(ctx context.Context) {
	ctx, p.stop = context.WithCancel(ctx)
	p.f.running.Go(func() { p.agree.run(ctx) })
	p.f.running.Go(func() { p.lanes.run(ctx) })
	p.f.running.Go(func() { p.deliverWelcomes(ctx) })
	p.f.running.Go(func() { p.getAcquainted(ctx) })
	p.f.running.Go(func() {
		<-ctx.Done()
		p.quick.CloseIdleConnections()
		p.bulk.CloseIdleConnections()
	})
}

func (p *peer) client() *http.Client {
	dialer := &net.Dialer{Timeout: dialTime, KeepAlive: quickTime}
	t := &http.Transport{
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			at, err := p.f.addresses.of(ctx, p.domain)
			if err != nil {
				return nil, err
			}
			ctx, cancel := context.WithTimeout(ctx, dialTime)
			defer cancel()
			raw, err := dialer.DialContext(ctx, "tcp", at.host)
			if err != nil {
				p.f.addresses.doubt(p.domain)
				return nil, err
			}
			c := tls.Client(raw, p.f.keys.client(p.domain))
			if err := c.HandshakeContext(ctx); err != nil {
				raw.Close()
				p.f.addresses.doubt(p.domain)
				return nil, err
			}
			return c, nil
		},
		Protocols:         new(http.Protocols),
		ForceAttemptHTTP2: true,
		IdleConnTimeout:   idleTime,
		HTTP2:             &http.HTTP2Config{MaxReadFrameSize: frameSize, SendPingTimeout: pingAfter, PingTimeout: pingTime, WriteByteTimeout: quickTime},
	}
	t.Protocols.SetHTTP2(true)
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// ask sends in to path and reads the answer, of at most limit octets, into out (nil:
// none is wanted). The error has the peer's code; Unavailable if there was no answer.
func (p *peer) ask(ctx context.Context, path string, in, out any, limit int64) error {
	body, err := cborOut.Marshal(in)
	if err != nil {
		return err
	}
	answer, err := p.post(ctx, p.quick, path, body, limit)
	if err != nil || out == nil {
		return err
	}
	if err := cborIn.Unmarshal(answer, out); err != nil {
		return core.Errorf(core.Unavailable, "that homeserver's answer makes no sense")
	}
	return nil
}

// post is one request. It keeps the books of the peer's health.
func (p *peer) post(ctx context.Context, c *http.Client, path string, body []byte, limit int64) ([]byte, error) {
	answer, err := p.roundTrip(ctx, c, path, body, limit)
	if ctx.Err() == nil || err == nil {
		p.tell(err)
	}
	return answer, err
}

func (p *peer) roundTrip(ctx context.Context, c *http.Client, path string, body []byte, limit int64) ([]byte, error) {
	at, err := p.f.addresses.of(ctx, p.domain)
	if err != nil {
		return nil, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+p.domain+at.path+wire.PeerPath+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	q.Header.Set("Content-Type", typeCBOR)
	q.Header.Set("Accept", typeCBOR)
	q.Header.Set("From", fromPrefix+p.f.cfg.Domain)
	a, err := c.Do(q)
	if err != nil {
		return nil, away(err)
	}
	defer a.Body.Close()
	if a.StatusCode/100 != 2 {
		text, err := io.ReadAll(io.LimitReader(a.Body, errorBody))
		if err != nil {
			return nil, away(err)
		}
		return nil, refusalOf(a, text)
	}
	if a.ContentLength > limit {
		return nil, core.Errorf(core.Unavailable, "that homeserver's answer is over %d octets", limit)
	}
	answer, err := readAll(io.LimitReader(a.Body, limit+1), min(a.ContentLength, limit))
	if err != nil {
		return nil, away(err)
	}
	if int64(len(answer)) > limit {
		return nil, core.Errorf(core.Unavailable, "that homeserver's answer is over %d octets", limit)
	}
	return answer, nil
}

// away is the failure of a connection in our words; those of ours stay.
func away(err error) error {
	if e, ok := errors.AsType[*core.Error](err); ok {
		return e
	}
	return &core.Error{Code: core.Unavailable, Text: "that homeserver does not answer", Err: err}
}

// refusalOf reads an answer that refuses.
func refusalOf(a *http.Response, text []byte) error {
	var e wire.Error
	if err := cborIn.Unmarshal(text, &e); err != nil {
		return core.Errorf(core.Unavailable, "that homeserver answered %s", http.StatusText(a.StatusCode))
	}
	out := &core.Error{Code: core.CodeNamed(e.Code), Reason: core.Reason(e.Reason), Text: e.Text, RetryAfter: time.Duration(e.RetryAfter) * time.Millisecond}
	if s, err := strconv.Atoi(a.Header.Get("Retry-After")); err == nil && out.RetryAfter <= 0 {
		out.RetryAfter = time.Duration(s) * time.Second
	}
	out.RetryAfter = min(max(out.RetryAfter, 0), maxAfter)
	if out.Code == core.StaleEpoch {
		return &stale{error: out, epoch: e.Epoch, winner: e.Winner}
	}
	return out
}

// tell takes down how a request went. A refusal is an answer: only what may be
// otherwise later makes us wait.
func (p *peer) tell(err error) {
	now := p.f.cfg.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	h := &p.health
	if err == nil || !core.Temporary(err) {
		if h.fails > 0 {
			p.f.log.Info("peer answers again", "peer", p.domain)
			poke(p.again)
		}
		*h = health{last: now}
		return
	}
	p.f.metrics.failures.WithLabelValues(p.domain).Inc()
	if h.fails++; h.fails == 1 {
		h.since = now
		p.f.log.Warn("peer does not answer", "peer", p.domain, "code", core.CodeOf(err), "err", err)
	}
	h.err = core.TextOf(err)
	wait := firstWait << min(h.fails-1, 10)
	wait = min(wait, longestGap)
	wait = wait/2 + rand.N(wait/2) // peers of one outage must not all come back at once
	if e, ok := errors.AsType[*core.Error](err); ok && e.RetryAfter > 0 {
		wait = e.RetryAfter
	}
	if until := now.Add(wait); until.After(h.until) {
		h.until = until
	}
}

// A patience is how long one kind of request waits after answers that refuse it: the
// peer is there, so its health says nothing. It is for one goroutine, or under a lock.
type patience struct{ wait time.Duration }

// after returns how long to wait after err: what the answer asks for, or longer each
// time. No answer at all is what ready waits for.
func (p *patience) after(err error) time.Duration {
	e, ok := errors.AsType[*core.Error](err)
	switch {
	case err == nil:
		p.wait = 0
	case ok && e.Err != nil && e.RetryAfter == 0:
	default:
		if p.wait = min(max(2*p.wait, firstWait), longestGap); ok && e.RetryAfter > 0 {
			return e.RetryAfter
		}
	}
	return p.wait
}

// heard is called when the peer asks us something: it is there.
func (p *peer) heard() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.health.fails > 0 && p.health.until.After(p.f.cfg.Now()) {
		p.health.until = time.Time{}
		poke(p.again)
	}
}

// ready waits until an attempt makes sense; false when ctx has ended.
func (p *peer) ready(ctx context.Context) bool {
	for ctx.Err() == nil {
		p.mu.Lock()
		wait := p.health.until.Sub(p.f.cfg.Now())
		p.mu.Unlock()
		if wait <= 0 {
			return true
		}
		rest(ctx, p.again, min(wait, time.Second)) // others are poked through the same channel
	}
	return false
}
