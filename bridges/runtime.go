package bridges

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of the runtime, each with its reason.
const (
	maxGroup   = 1024 // inputs of one transaction: bounds how long the first waits for the last
	maxWaiting = 4096 // submissions in line; then Submit waits for its turn
	maxSubmit  = 4096 // envelopes of one Submit: one Matrix transaction in slices
	maxFailed  = 4    // submissions of a group that fail in a row before the rest fails with them
)

// RuntimeConfig is what a Runtime is made of.
type RuntimeConfig struct {
	Store      core.Store
	Engine     func() Decider // a fresh one; called again after a commit failed
	Bridges    []Bridge
	Log        *slog.Logger
	Registerer prometheus.Registerer
	Holder     string           // who holds leases: the homeserver, so that it goes on with its own after a crash
	Now        func() time.Time // nil = time.Now
	MaxAge     time.Duration    // older messages are not delivered any more; 0 = no limit
}

// A Decider decides inputs inside a transaction, on the terms of core.Engine:
// that engine itself, or one with the agreement of several homeservers around it.
type Decider interface {
	Apply(tx core.Tx, now time.Time, in core.Input) (core.Output, error)
	Seal(tx core.Tx) error
}

// A Runtime feeds the engine from one loop and hands on what it decided. It
// implements Gateway.
//
// Two goroutines form a pipeline: the loop applies and commits one group of
// submissions while the publisher hands the previous group to the live bridges
// and answers its submitters. So the next commit overlaps the fan-out, and
// nobody is answered before receivers have the message.
type Runtime struct {
	cfg     RuntimeConfig
	live    []Live
	in      chan *submission
	out     chan *group
	stopped chan struct{} // closed when the loop has ended
	metrics *metrics
	workers *workers
	engine  Decider // the loop's own
}

// A submission is one Submit or Do: its inputs share a transaction.
type submission struct {
	inputs []core.Input
	outs   []core.Output
	errs   []error
	err    error // the whole submission failed
	done   chan struct{}
	start  time.Time
}

// A group is what one transaction committed.
type group struct {
	subs  []*submission
	batch Batch
}

// NewRuntime returns a runtime that does nothing before Run.
func NewRuntime(cfg RuntimeConfig) *Runtime {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Runtime{
		cfg:     cfg,
		in:      make(chan *submission, maxWaiting),
		out:     make(chan *group, 1), // one group published while one commits
		stopped: make(chan struct{}),
		metrics: newMetrics(cfg.Registerer),
		engine:  cfg.Engine(),
	}
	for _, b := range cfg.Bridges {
		if l, ok := b.(Live); ok {
			r.live = append(r.live, l)
		}
	}
	r.workers = newWorkers(r)
	return r
}

// Run serves until ctx ends or a bridge fails. What was submitted before the end
// is committed and answered; Submit answers Unavailable afterwards.
func (r *Runtime) Run(ctx context.Context) error {
	loopCtx, stopLoop := context.WithCancel(context.WithoutCancel(ctx))
	var loops sync.WaitGroup
	loops.Go(func() { r.loop(loopCtx) })
	loops.Go(r.publish)

	bridgeCtx, stopBridges := context.WithCancel(ctx)
	errs := make(chan error, len(r.cfg.Bridges)+1)
	var running sync.WaitGroup
	for _, b := range r.cfg.Bridges {
		running.Go(func() {
			if err := b.Run(bridgeCtx, r); err != nil {
				errs <- err
				stopBridges()
			}
		})
	}
	running.Go(func() { r.workers.run(bridgeCtx) })
	<-bridgeCtx.Done()
	stopBridges()
	running.Wait() // bridges say goodbye through Submit, so the loop goes last
	stopLoop()
	loops.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// Submit implements Gateway.
func (r *Runtime) Submit(ctx context.Context, es ...core.Envelope) ([]core.Receipt, error) {
	if len(es) > maxSubmit {
		return nil, core.Errorf(core.TooLarge, "more than %d envelopes at once", maxSubmit)
	}
	inputs := make([]core.Input, len(es))
	for i := range es {
		inputs[i] = es[i]
	}
	s, err := r.run(ctx, inputs)
	if err != nil {
		return nil, err
	}
	receipts := make([]core.Receipt, len(es))
	for i, o := range s.outs {
		receipts[i] = core.Receipt{Event: o.Event, Duplicate: o.Duplicate, Err: s.errs[i]}
	}
	return receipts, nil
}

// Do implements Gateway.
func (r *Runtime) Do(ctx context.Context, in core.Input) (core.Output, error) {
	s, err := r.run(ctx, []core.Input{in})
	if err != nil {
		return core.Output{}, err
	}
	return s.outs[0], s.errs[0]
}

// DoAll implements Gateway.
func (r *Runtime) DoAll(ctx context.Context, ins ...core.Input) ([]core.Output, []error, error) {
	if len(ins) > maxSubmit {
		return nil, nil, core.Errorf(core.TooLarge, "more than %d decisions at once", maxSubmit)
	}
	s, err := r.run(ctx, ins)
	if err != nil {
		return nil, nil, err
	}
	return s.outs, s.errs, nil
}

// View implements Gateway.
func (r *Runtime) View(ctx context.Context, f func(core.Reader) error) error {
	return r.cfg.Store.View(ctx, f)
}

// Signal implements Gateway.
func (r *Runtime) Signal(s core.Signal) {
	for _, l := range r.live {
		l.Signal(s)
	}
}

// run puts inputs in line and waits until they are settled. Once in line they
// are decided, so the answer is waited for even if the caller's context ends:
// what is born here has no dedupe key, and an error would invite a second try.
func (r *Runtime) run(ctx context.Context, inputs []core.Input) (*submission, error) {
	if len(inputs) == 0 {
		return &submission{}, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s := &submission{inputs: inputs, done: make(chan struct{}), start: r.cfg.Now()}
	select {
	case r.in <- s:
	case <-r.stopped:
		return nil, errStopping
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	select {
	case <-s.done:
		return s, s.err
	case <-r.stopped:
		select { // it may have been the last one answered
		case <-s.done:
			return s, s.err
		default:
			return nil, errStopping
		}
	}
}

var errStopping = core.Errorf(core.Unavailable, "the homeserver is stopping")

// loop gathers what waits, commits it as one group, and passes it on.
func (r *Runtime) loop(ctx context.Context) {
	defer close(r.out)
	for {
		select {
		case s := <-r.in:
			r.commit(r.gather(s))
		case <-ctx.Done():
			for { // what is in line is still served
				select {
				case s := <-r.in:
					r.commit(r.gather(s))
				default:
					return
				}
			}
		}
	}
}

// gather takes everything that is in line, without waiting for more: a lone
// message commits at once, and while it does the next group forms by itself.
func (r *Runtime) gather(first *submission) []*submission {
	subs, n := []*submission{first}, len(first.inputs)
	for n < maxGroup {
		select {
		case s := <-r.in:
			subs, n = append(subs, s), n+len(s.inputs)
		default:
			return subs
		}
	}
	return subs
}

// commit runs a group in one transaction. If that fails and the group has more
// than one submission, each is tried alone, so that one that the store cannot
// take does not fail its neighbours. When several in a row fail, it is the store
// that fails: the others are not made to wait for as many timeouts.
func (r *Runtime) commit(subs []*submission) {
	err := r.transact(subs)
	if err == nil {
		return
	}
	if len(subs) == 1 || core.ReasonOf(err) == core.OutcomeUnknown { // a second try could double them
		r.fail(err, subs...)
		return
	}
	for i, failed := 0, 0; i < len(subs); i++ {
		if failed == maxFailed {
			r.fail(err, subs[i:]...)
			return
		}
		if err = r.transact(subs[i : i+1]); err != nil {
			failed++
			r.fail(err, subs[i])
		} else {
			failed = 0
		}
	}
}

func (r *Runtime) fail(err error, subs ...*submission) {
	r.cfg.Log.Error("commit failed", "submissions", len(subs), "err", err)
	for _, s := range subs {
		s.err = err
		close(s.done)
	}
}

// transact applies subs in one transaction and hands the result to the publisher.
func (r *Runtime) transact(subs []*submission) error {
	g := &group{subs: subs}
	began := r.cfg.Now()
	err := r.cfg.Store.Update(context.Background(), func(tx core.Tx) error {
		g.batch = Batch{}
		for _, s := range subs {
			s.outs, s.errs = make([]core.Output, len(s.inputs)), make([]error, len(s.inputs))
			for i, in := range s.inputs {
				out, err := r.engine.Apply(tx, began, in)
				if core.Broken(err) {
					return err
				}
				s.outs[i], s.errs[i] = out, err
			}
		}
		return r.engine.Seal(tx)
	})
	if err != nil {
		r.engine = r.cfg.Engine()
		r.metrics.failed.Inc()
		return &core.Error{Code: core.Unavailable, Reason: core.ReasonOf(err), Text: "not stored: " + core.TextOf(err), Err: err}
	}
	r.metrics.commit(r.cfg.Now().Sub(began), subs)
	r.out <- g
	return nil
}

// publish hands groups to the live bridges in commit order, then answers.
func (r *Runtime) publish() {
	defer close(r.stopped)
	for g := range r.out {
		for _, s := range g.subs {
			for i := range s.outs {
				o := &s.outs[i]
				if in, ok := s.inputs[i].(core.PeerMessages); ok {
					in.Answered(o)
				}
				g.batch.add(o)
			}
		}
		for _, l := range r.live {
			l.Publish(g.batch)
		}
		r.workers.wake(g)
		for _, s := range g.subs {
			close(s.done)
		}
	}
}

// add puts what o came to into the batch, in the order of the decisions.
func (b *Batch) add(o *core.Output) {
	if o.Event != nil && !o.Duplicate {
		b.Events = append(b.Events, *o.Event)
	}
	for _, e := range o.Events {
		b.Events = append(b.Events, *e)
	}
	if o.Room != nil {
		b.Rooms, b.Members = append(b.Rooms, *o.Room), append(b.Members, o.Members)
	}
	b.Items = append(b.Items, o.Items...)
	b.Decisions = append(b.Decisions, o.Decisions...)
	b.Certified = append(b.Certified, o.Certified...)
	b.Sends = append(b.Sends, o.Sends...)
	b.Letters = append(b.Letters, o.Letters...)
	b.Welcomes = append(b.Welcomes, o.Welcomes...)
	b.Missing = append(b.Missing, o.Missing...)
}
