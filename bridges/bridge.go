// Package bridges holds the contract between a network and the gateway, and the
// runtime behind it: the loop that feeds the engine, group commit, and the
// workers that carry committed events to links.
package bridges

import (
	"context"

	"github.com/isthmus-chat/isthmus/core"
)

// A Bridge talks to one network.
type Bridge interface {
	Network() core.Network
	Caps() core.Caps

	// Run serves until ctx ends; it returns nil then, and otherwise why it
	// cannot serve. It never acknowledges anything to its network before Submit
	// has returned nil.
	Run(ctx context.Context, gw Gateway) error

	// Deliver carries one event to the link's place. The runtime calls it in
	// order per link and lane, one call at a time, at least once per event: after
	// a crash the same event comes again, and what leaves must carry an ID that
	// depends only on link, event and part. A temporary error (core.Temporary)
	// is tried again with backoff, or after its RetryAfter; any other settles
	// the event as refused.
	Deliver(ctx context.Context, d core.Delivery) (core.Report, error)
}

// Live is a bridge with sessions in this process. Publish hands it every
// committed batch, in commit order, before any receipt of that batch is
// released; it must not block, and must not call the gateway.
type Live interface {
	Publish(b Batch)
	Signal(s core.Signal)
}

// A Batch is what one transaction accepted. Nobody changes it.
type Batch struct {
	Events []core.Event
	Items  []core.Item
	Rooms  []core.Room // created or removed links are not announced
	// Members are whom each of Rooms begins with: no event says that they are in.
	Members [][]core.Member

	Decisions []core.Decision
	Certified []core.Certified
	Sends     []core.Send
	Letters   []core.Letter
	Welcomes  []core.Welcome
	Missing   []string // homeservers whose records are needed
}

// Gateway is what a bridge may ask of the rest of the house.
type Gateway interface {
	// Submit offers envelopes, all in one transaction and in this order. A nil
	// error means that every receipt is final and on disk; an error
	// (Unavailable, or ctx's) means that none was accepted: once they are in
	// line, ctx ends the waiting no more.
	Submit(ctx context.Context, es ...core.Envelope) ([]core.Receipt, error)
	// Do asks for one other decision, under the same terms.
	Do(ctx context.Context, in core.Input) (core.Output, error)
	// DoAll asks for several decisions in one transaction and in this order; each
	// has an error of its own. The last error is that of the whole: none was decided.
	DoAll(ctx context.Context, ins ...core.Input) ([]core.Output, []error, error)
	// View reads one consistent snapshot.
	View(ctx context.Context, f func(core.Reader) error) error
	// Signal passes something ephemeral to the live bridges; never blocks.
	Signal(s core.Signal)
}
