package bridges

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of delivery.
const (
	readAhead    = 64              // events a worker reads at once
	lazySkips    = 256             // skipped events after which a cursor is stored anyway
	lazyTime     = 2 * time.Second // quiet after which it is, so that nobody takes what was skipped for what waits
	firstBackoff = 200 * time.Millisecond
	lastBackoff  = time.Minute
	leaseTime    = 10 * time.Minute // how long another homeserver waits before it takes over a link
)

// workers runs one worker per link and lane. A worker follows the room's log
// from its cursor: what it has in hand lies in the store, so a far side that is
// away for an hour costs nothing but the log.
type workers struct {
	rt      *Runtime
	changed chan struct{} // links were made, changed or removed

	mu     sync.Mutex
	byRoom map[core.RoomID][]chan struct{}
}

func newWorkers(rt *Runtime) *workers {
	return &workers{rt: rt, changed: make(chan struct{}, 1), byRoom: map[core.RoomID][]chan struct{}{}}
}

// wake tells the workers of the rooms in g, and the supervisor if g touched links.
func (w *workers) wake(g *group) {
	w.mu.Lock()
	for i := range g.batch.Events {
		for _, c := range w.byRoom[g.batch.Events[i].Room] {
			poke(c)
		}
	}
	w.mu.Unlock()
	for _, s := range g.subs {
		for _, in := range s.inputs {
			switch in.(type) {
			case core.PutLink, core.DropLink:
				poke(w.changed)
			}
		}
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// run keeps one goroutine per link that is not paused, until ctx ends.
func (w *workers) run(ctx context.Context) {
	type running struct {
		link core.Link
		stop context.CancelFunc
		done chan struct{}
	}
	active := map[string]running{}
	end := func(id string) {
		active[id].stop()
		<-active[id].done
		delete(active, id)
	}
	for ctx.Err() == nil {
		links, err := w.links(ctx)
		if err != nil {
			w.rt.cfg.Log.Error("links unreadable", "err", err)
			pause(ctx, nil, lastBackoff)
			continue
		}
		for id, a := range active {
			if l, ok := links[id]; !ok || l.Paused != a.link.Paused || l.Place != a.link.Place || l.Mode != a.link.Mode ||
				l.Room != a.link.Room || !l.Created.Equal(a.link.Created) { // dropped and made anew
				end(id)
			}
		}
		for id, l := range links {
			b := w.bridge(l.Network)
			if _, ok := active[id]; ok || l.Paused != "" || b == nil {
				continue
			}
			linkCtx, stop := context.WithCancel(ctx)
			a := running{link: l, stop: stop, done: make(chan struct{})}
			active[id] = a
			go func() {
				defer close(a.done)
				w.serve(linkCtx, l, b)
			}()
		}
		select {
		case <-w.changed:
		case <-ctx.Done():
		}
	}
	for id := range active {
		end(id)
	}
}

func (w *workers) links(ctx context.Context) (map[string]core.Link, error) {
	links := map[string]core.Link{}
	err := w.rt.View(ctx, func(r core.Reader) error {
		ls, err := r.Links("", core.MaxLinks)
		for _, l := range ls {
			links[l.ID] = l
		}
		return err
	})
	return links, err
}

func (w *workers) bridge(n core.Network) Bridge {
	for _, b := range w.rt.cfg.Bridges {
		if b.Network() == n {
			return b
		}
	}
	return nil
}

// serve carries one link while this homeserver holds its lease.
func (w *workers) serve(ctx context.Context, l core.Link, b Bridge) {
	var lanes sync.WaitGroup
	defer lanes.Wait()
	for carrying := false; ctx.Err() == nil; {
		_, err := w.rt.Do(ctx, core.TakeLease{Link: l.ID, Holder: w.rt.cfg.Holder, Until: w.rt.cfg.Now().Add(leaseTime)})
		switch {
		case err == nil && !carrying:
			carrying = true
			for lane := range core.Lanes {
				lw := &laneWorker{rt: w.rt, bridge: b, link: l, lane: lane, wake: make(chan struct{}, 1)}
				w.watch(l.Room, lw.wake)
				lanes.Go(func() {
					defer w.unwatch(l.Room, lw.wake)
					lw.run(ctx)
				})
			}
		case core.CodeOf(err) == core.NotFound:
			return
		}
		pause(ctx, nil, leaseTime/3)
	}
}

func (w *workers) watch(room core.RoomID, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.byRoom[room] = append(w.byRoom[room], c)
}

func (w *workers) unwatch(room core.RoomID, c chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	cs := w.byRoom[room]
	for i := range cs {
		if cs[i] == c {
			w.byRoom[room] = append(cs[:i:i], cs[i+1:]...)
		}
	}
	if len(w.byRoom[room]) == 0 {
		delete(w.byRoom, room)
	}
}

// pause waits for wake, d or the end of ctx.
func pause(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
	case <-ctx.Done():
	}
}

// A laneWorker delivers one lane of one link, in order.
type laneWorker struct {
	rt     *Runtime
	bridge Bridge
	link   core.Link
	lane   core.Lane
	wake   chan struct{}

	cursor core.Cursor
	stored uint64 // cursor.Seq in the store
}

func (w *laneWorker) run(ctx context.Context) {
	for ctx.Err() == nil {
		if err := w.follow(ctx); err != nil && ctx.Err() == nil {
			w.rt.cfg.Log.Warn("delivery stopped for a while", "network", w.link.Network, "err", err)
			pause(ctx, nil, time.Second)
		}
	}
}

// follow reads the cursor and then the log, for as long as the store answers.
func (w *laneWorker) follow(ctx context.Context) error {
	err := w.rt.View(ctx, func(r core.Reader) (err error) {
		w.cursor, err = r.Cursor(w.link.ID, w.lane)
		return err
	})
	if err != nil {
		return err
	}
	w.cursor.Link, w.cursor.Lane, w.stored = w.link.ID, w.lane, w.cursor.Seq
	for {
		var events []core.Event
		err := w.rt.View(ctx, func(r core.Reader) (err error) {
			events, err = r.Events(w.link.Room, core.Range{After: w.cursor.Seq, Limit: readAhead})
			return err
		})
		if err != nil {
			return err
		}
		for i := range events {
			if err := w.settle(ctx, &events[i]); err != nil {
				return err
			}
		}
		if len(events) > 0 {
			continue
		}
		if err := w.idle(ctx); err != nil {
			return err
		}
	}
}

// idle waits for the next event. Meanwhile it stores a cursor that only skipped.
func (w *laneWorker) idle(ctx context.Context) error {
	var quiet <-chan time.Time
	if w.cursor.Seq > w.stored {
		quiet = time.After(lazyTime)
	}
	select {
	case <-w.wake:
		return nil
	case <-quiet:
		return w.store(ctx, core.Settle{Cursor: w.cursor})
	case <-ctx.Done():
		return ctx.Err()
	}
}

// store settles in, which the end of ctx does not interrupt.
func (w *laneWorker) store(ctx context.Context, in core.Settle) error {
	if _, err := w.rt.Do(context.WithoutCancel(ctx), in); err != nil {
		return err
	}
	w.cursor, w.stored = in.Cursor, in.Cursor.Seq
	return nil
}

// settle delivers ev, or finds out that it is not for this lane, and moves the
// cursor over it. Skips are stored lazily: after a crash they are skipped again.
func (w *laneWorker) settle(ctx context.Context, ev *core.Event) error {
	var in core.Settle
	next := w.cursor
	next.Seq = ev.Seq
	result := ""
	switch {
	case ev.Lane() != w.lane:
	case ev.Origin.Passed(w.link.Network):
		next.Skipped++
		result = "skipped"
	case ev.Deleted: // gone before it could leave
		next.Skipped++
		result = "skipped"
	case w.rt.cfg.MaxAge > 0 && w.lane == core.LaneMessage && w.rt.cfg.Now().Sub(ev.Accepted) > w.rt.cfg.MaxAge:
		next.Expired++
		result = "expired"
		in.Losses = w.lost(ev, core.Loss{Kind: "expired", Text: "A message of yours was not delivered to a linked network: it was away for too long."})
	default:
		report, err := w.deliver(ctx, ev)
		if err != nil && (ctx.Err() != nil || core.Temporary(err)) {
			return err
		}
		result = w.account(ev, report, err, &next, &in)
	}
	if result != "" {
		w.rt.metrics.delivered.WithLabelValues(networkClass(w.link.Network), result).Inc()
	}
	if (result == "" || result == "skipped") && next.Seq-w.stored < lazySkips {
		w.cursor = next
		return nil
	}
	in.Cursor = next
	return w.store(ctx, in)
}

// account writes what a delivery came to into the book.
func (w *laneWorker) account(ev *core.Event, rep core.Report, err error, next *core.Cursor, in *core.Settle) (result string) {
	if err != nil {
		next.Refused++
		w.rt.cfg.Log.Warn("delivery refused", "network", networkClass(w.link.Network), "code", core.CodeOf(err), "err", err)
		in.Losses = w.lost(ev, core.Loss{Kind: "refused", Text: "A message of yours was refused by a linked network: " + core.TextOf(err)})
		return "refused"
	}
	for i, f := range rep.Placed {
		in.Placed = append(in.Placed, core.Placed{Link: w.link.ID, Event: ev.ID, Part: i, Foreign: f})
	}
	in.Losses = w.lost(ev, rep.Loss...)
	if rep.Skipped {
		next.Skipped++
		return "skipped"
	}
	next.Delivered++
	return "delivered"
}

func (w *laneWorker) lost(ev *core.Event, ls ...core.Loss) (out []core.SenderLoss) {
	for _, l := range ls {
		w.rt.metrics.losses.WithLabelValues(l.Kind).Inc()
		out = append(out, core.SenderLoss{Room: ev.Room, Sender: ev.Sender, Loss: l})
	}
	return out
}

// deliver tries until the far side took ev or refused it for good.
func (w *laneWorker) deliver(ctx context.Context, ev *core.Event) (core.Report, error) {
	for wait := firstBackoff; ; wait = min(2*wait, lastBackoff) {
		rep, err := w.try(ctx, ev)
		if err == nil || !core.Temporary(err) || ctx.Err() != nil {
			if wait > firstBackoff {
				w.rt.cfg.Log.Info("delivery goes on", "network", networkClass(w.link.Network))
			}
			return rep, err
		}
		if wait == firstBackoff { // once per outage
			w.rt.cfg.Log.Warn("delivery waits", "network", networkClass(w.link.Network), "code", core.CodeOf(err), "err", err)
		}
		d := wait/2 + rand.N(wait) // jitter: links of one homeserver must not all come back at once
		if e, ok := errors.AsType[*core.Error](err); ok && e.RetryAfter > 0 {
			d = e.RetryAfter
		}
		pause(ctx, nil, d)
		if ctx.Err() != nil {
			return core.Report{}, ctx.Err()
		}
	}
}

// try delivers ev once. A bridge that panics over an event would do so again
// after every restart, so the event is refused.
func (w *laneWorker) try(ctx context.Context, ev *core.Event) (rep core.Report, err error) {
	defer func() {
		if p := recover(); p != nil {
			w.rt.cfg.Log.Error("delivery panicked", "network", networkClass(w.link.Network), "panic", p, "stack", string(debug.Stack()))
			err = core.Errorf(core.Invalid, "it could not be converted")
		}
	}()
	return w.bridge.Deliver(ctx, core.Delivery{Link: w.link, Event: *ev})
}

// networkClass is the part of a network's name that is safe as a label.
func networkClass(n core.Network) string {
	for i := range n {
		if n[i] == ':' {
			return string(n[:i])
		}
	}
	return string(n)
}
