package native

import (
	"context"
	"slices"
	"sync"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// offers are handshakes that wait for what the agreement of their room makes of
// them. The zero value is ready.
type offers struct {
	mu      sync.Mutex
	waiting map[core.HandshakeID][]chan core.Decision
}

// offer proposes h and waits until it is decided, at most decideTime. The error
// of a refusal wraps a *stale where another commit ended the epoch.
func (o *offers) offer(ctx context.Context, gw bridges.Gateway, h *core.Handshake) (core.Decision, error) {
	id := h.ID()
	decided := o.wait(id)
	defer o.forget(id, decided)
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	out, err := gw.Do(ctx, core.Propose{Handshake: h})
	if err != nil {
		return core.Decision{}, lost(ctx, gw, h, err)
	}
	for _, d := range out.Decisions {
		if d.ID == id {
			return d, refusal(d)
		}
	}
	select {
	case d := <-decided:
		return d, refusal(d)
	case <-ctx.Done():
		return core.Decision{}, core.Refuse(core.Unavailable, core.OutcomeUnknown, "the homeservers of the room have not decided in time; offer the same again")
	}
}

func (o *offers) wait(id core.HandshakeID) chan core.Decision {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == nil {
		o.waiting = map[core.HandshakeID][]chan core.Decision{}
	}
	ch := make(chan core.Decision, 1) // publish never waits
	o.waiting[id] = append(o.waiting[id], ch)
	return ch
}

func (o *offers) forget(id core.HandshakeID, ch chan core.Decision) {
	o.mu.Lock()
	defer o.mu.Unlock()
	rest := slices.DeleteFunc(o.waiting[id], func(c chan core.Decision) bool { return c == ch })
	if o.waiting[id] = rest; len(rest) == 0 {
		delete(o.waiting, id)
	}
}

func (o *offers) publish(ds []core.Decision) {
	if len(ds) == 0 {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, d := range ds {
		for _, ch := range o.waiting[d.ID] {
			select {
			case ch <- d:
			default: // it has heard one decision already
			}
		}
	}
}

func refusal(d core.Decision) error {
	if d.Err != nil && core.CodeOf(d.Err) == core.StaleEpoch {
		return &stale{d.Err, d.Epoch, d.Winner}
	}
	return d.Err
}

// lost adds to a refusal at once, if it is one of an epoch that has ended, which
// commit ended it.
func lost(ctx context.Context, gw bridges.Gateway, h *core.Handshake, err error) error {
	if core.CodeOf(err) != core.StaleEpoch {
		return err
	}
	s := &stale{error: err}
	verr := gw.View(ctx, func(r core.Reader) error {
		head, err := core.GroupOf(r, h.Room)
		if err != nil {
			return err
		}
		s.epoch = head.Authority.Epoch
		from, ok := core.EndsEpoch(h.Message)
		if !ok {
			return nil
		}
		_, seq, err := core.EpochEnd(r, h.Room, from)
		if err != nil {
			return err
		}
		ev, err := r.Event(h.Room, seq)
		if sealed, ok := ev.Body.(core.Sealed); ok && err == nil {
			s.winner = sealed.Message
		}
		return err
	})
	if verr != nil && core.CodeOf(verr) != core.NotFound {
		return verr
	}
	return s
}
