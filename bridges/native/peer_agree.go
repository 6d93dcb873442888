package native

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of what waits for one peer's agreement. It may be lost, so the oldest
// goes first.
const (
	maxAgree      = 4096            // messages that wait, and in one request
	maxAgreeBatch = 4 << 20         // octets of a request, unless one message alone has more
	maxAgreeBytes = 96 << 20        // octets that wait: a snapshot of the largest group fits
	agreeFlights  = 4               // requests at a time: one that waits for a disk stops no other
	agreeTime     = 5 * time.Second // for an answer; a snapshot has bulkTime
	agreeWait     = time.Second
	answerFirst   = 200 * time.Microsecond // that what follows a decision lets who asked for it go first
)

// agreement carries the messages of the agreement of all rooms to one peer: many
// in a request, at once when none is on its way, dropped when the peer is away.
type agreement struct {
	p    *peer
	wake chan struct{}

	mu     sync.Mutex
	queue  []core.PeerMessage
	octets int
	due    bool // a request leaves in a moment
}

func newAgreement(p *peer) *agreement { return &agreement{p: p, wake: make(chan struct{}, 1)} }

// put never blocks. What is said later leaves in a moment: a leader that has decided
// tells all others, and each has its work with that, while a device waits for the
// answer. On two cores it came 0.4 ms earlier, and the certificate no later.
func (a *agreement) put(m core.PeerMessage, later bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue, a.octets = append(a.queue, m), a.octets+len(m.Body)
	drop := 0
	for ; len(a.queue)-drop > maxAgree || a.octets > maxAgreeBytes && len(a.queue)-drop > 1; drop++ {
		a.octets -= len(a.queue[drop].Body)
		a.queue[drop] = core.PeerMessage{}
	}
	if a.queue = a.queue[drop:]; drop > 0 {
		a.p.f.metrics.dropped.WithLabelValues(a.p.domain).Add(float64(drop))
	}
	switch {
	case !later:
		poke(a.wake)
	case !a.due:
		a.due = true
		time.AfterFunc(answerFirst, a.leave)
	}
}

// leave has what waits leave.
func (a *agreement) leave() {
	a.mu.Lock()
	a.due = false
	a.mu.Unlock()
	poke(a.wake)
}

// take returns what goes into one request.
func (a *agreement) take() []core.PeerMessage {
	a.mu.Lock()
	defer a.mu.Unlock()
	n, octets := 0, 0
	for n < len(a.queue) && (n == 0 || octets+len(a.queue[n].Body) <= maxAgreeBatch) {
		octets += len(a.queue[n].Body)
		n++
	}
	out := a.queue[:n:n]
	if a.queue, a.octets = a.queue[n:], a.octets-octets; len(a.queue) == 0 {
		a.queue = nil
	}
	return out
}

func (a *agreement) run(ctx context.Context) {
	slots := make(chan struct{}, agreeFlights)
	var flying sync.WaitGroup
	defer flying.Wait()
	for ctx.Err() == nil {
		ms := a.take()
		if len(ms) == 0 {
			rest(ctx, a.wake, time.Hour)
			continue
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		flying.Go(func() {
			defer func() { <-slots }()
			a.send(ctx, ms)
		})
	}
}

// send is tried once: the agreement says again what it needs. After a failure its
// slot stays taken for a moment, which is the backoff; it is short, because a room
// waits for its quorum.
func (a *agreement) send(ctx context.Context, ms []core.PeerMessage) {
	var answer []byte
	body, err := cborOut.Marshal(wire.Raft{Messages: ms, Answer: true})
	if err == nil {
		by, most := a.p.quick, agreeTime
		if len(body) > maxAgreeBatch {
			by, most = a.p.bulk, bulkTime
		}
		asked, cancel := context.WithTimeout(ctx, most)
		answer, err = a.p.post(asked, by, "raft", body, errorBody)
		cancel()
	}
	if err == nil {
		a.p.f.metrics.sent.WithLabelValues(a.p.domain, "agreement").Add(float64(len(ms)))
		a.hear(ctx, answer)
		return
	}
	wait := agreeWait
	if e, ok := errors.AsType[*core.Error](err); ok && e.RetryAfter > 0 {
		wait = e.RetryAfter
	}
	rest(ctx, a.p.again, wait)
}

// hear takes what the peer's agreement said in an answer. That counts as a request of
// the peer, so that it says no more in answers than it could by asking; what is refused
// or makes no sense is lost, as any message of the agreement may be.
func (a *agreement) hear(ctx context.Context, answer []byte) {
	f, in := a.p.f, new(wire.Raft)
	if len(answer) == 0 || cborIn.Unmarshal(answer, in) != nil || f.fc.Blocked(a.p.domain) {
		return
	}
	done, err := f.guests.admit(a.p.domain, f.known(a.p.domain))
	if err == nil {
		defer done()
		_, err = f.takeRaft(ctx, a.p.domain, &wire.Raft{Messages: in.Messages})
	}
	if err != nil && ctx.Err() == nil {
		f.metrics.refused.WithLabelValues(core.CodeOf(err).String()).Inc()
	}
}
