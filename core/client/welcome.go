package client

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// Times of a Welcome that cannot be proven yet, beside proofGrace.
const (
	traceGrace = 5 * time.Second        // for the homeserver that a room is named after to answer: it may be gone
	earlyAgain = 100 * time.Millisecond // at first, before its certificate is asked for again
	earlySoon  = 20 * time.Millisecond  // the same when something new comes before
)

// welcomed enters a room by a Welcome. A nil error means that the letter is dealt
// with, whatever came of it.
func (c *Client) welcomed(ctx context.Context, l *heldLetter) error {
	r, err := c.room(l.Room)
	if err != nil {
		return nil
	}
	if r.Joined {
		if err := c.open(ctx, r); err != nil {
			return err
		}
		if r.g.Epoch() >= l.Epoch {
			return nil
		}
		return errHold // unless a commit takes us out of the group we are in
	}
	if wait := l.again - c.now(); wait > 0 && wait <= c.delay(l, earlySoon).Milliseconds() {
		return errHold
	}
	m, err := mls.Parse(l.Body)
	if err != nil || m.Welcome == nil {
		return nil
	}
	var pack *storedPackage
	for _, s := range m.Welcome.Secrets[:min(len(m.Welcome.Secrets), core.MaxDevices)] {
		if p := c.packages[string(s.NewMember)]; p != nil {
			pack = p
		}
	}
	r.Kind, r.Member = core.Group, true
	c.touch(r)
	if pack == nil {
		r.Lost = "a Welcome for a key package that is gone"
		return nil
	}
	chain, tree, err := c.chainAndTree(ctx, m.Welcome, l)
	if r = c.rooms[l.Room]; r == nil || r.Joined || c.packages[pack.ref] != pack {
		return nil // meanwhile
	}
	if err != nil {
		if core.CodeOf(err) == core.NotFound {
			r.Lost = "the tree of the Welcome is not kept any more"
			return nil
		}
		return c.early(r, l, err)
	}
	return c.join(ctx, r, m.Welcome, pack, chain, tree, l)
}

// chainAndTree asks for what a Welcome comes without: the certificates that lead to its
// epoch, and the tree. NotFound if the tree is gone.
func (c *Client) chainAndTree(ctx context.Context, w *mls.Welcome, l *heldLetter) (chain [][]byte, tree []byte, err error) {
	a, err := ask(ctx, c, func(ctx context.Context) (wire.Certificates, error) {
		return c.cfg.Home.Certificates(ctx, l.Room, l.Epoch)
	})
	if err != nil {
		return nil, nil, core.Errorf(core.Unavailable, "the room's homeservers have not signed the epoch of a Welcome: %w", err)
	}
	t, err := ask(ctx, c, func(ctx context.Context) (wire.Tree, error) { return c.cfg.Home.Tree(ctx, l.Room, l.Epoch) })
	if err == nil {
		err = c.meetTree(ctx, w.Suite, t.Tree)
	}
	return a.Certificates, t.Tree, err
}

// join enters the group if it is proven, and erases the key package in the same write.
func (c *Client) join(ctx context.Context, r *room, w *mls.Welcome, pack *storedPackage, chain [][]byte, tree []byte, l *heldLetter) error {
	k, err := pack.restore(c.self.groupIdentity())
	if err != nil {
		return core.Errorf(core.Internal, "stored key package: %w", err)
	}
	g, err := group.Join(c.groups, w, k, group.JoinOptions{RatchetTree: tree})
	var p *policy.State
	if err == nil && !bytes.Equal(g.ID(), core.GroupID(r.ID)) {
		err = core.Errorf(core.Invalid, "a Welcome to another room")
	}
	if err == nil {
		p, err = stateOf(g.Public().Context().Extensions)
	}
	if err != nil {
		r.Lost = "the Welcome does not open"
		c.touch(r)
		c.tell(Update{Kind: Alarm, Room: r.ID, Text: "a Welcome was refused: " + err.Error()})
		return nil
	}
	vouched, err := c.proveWelcome(ctx, r.ID, chain, g.Public().Context())
	if r = c.rooms[l.Room]; r == nil || r.Joined || c.packages[pack.ref] != pack {
		return errHold
	}
	switch {
	case err == nil:
	case errors.Is(err, errUntraced) && (!core.Temporary(err) || c.age(l) >= traceGrace):
		r.Lost = "the Welcome is not proven: " + err.Error()
		c.touch(r)
		return nil
	case core.Temporary(err):
		return c.early(r, l, err)
	default: // and people are told
		_ = c.unproven(r.ID, "a Welcome to the room", err)
		return nil
	}
	r.Leaving = false // somebody wants the user back
	c.enterGroup(r, g, p, vouched)
	if !pack.LastResort {
		c.dropPackage(pack)
	}
	c.release(l)
	if err := c.flush(ctx); err != nil {
		return err
	}
	return c.locate(ctx, r.ID)
}

// early keeps a Welcome for later that cannot be proven yet: its commit may lose, or not
// be signed by enough of those who decide. For a while nothing else is tried.
func (c *Client) early(r *room, l *heldLetter, why error) error {
	l.again = c.now() + c.delay(l, earlySoon).Milliseconds()
	if r.Kept == 0 && c.age(l) < proofGrace {
		r.Seen = l.again
		c.touch(r)
	}
	return why
}

// patience is how long to wait for something new: not long while a Welcome is early, for
// nobody tells that the room has come to the homeserver, or what its homeservers signed.
func (c *Client) patience(wait time.Duration) time.Duration {
	for _, l := range c.held {
		if l.again > 0 && c.age(l) < proofGrace {
			wait = min(wait, c.delay(l, earlyAgain))
		}
	}
	return wait
}

// delay is how long an early Welcome waits until it is looked at again: the older it is
// the longer.
func (c *Client) delay(l *heldLetter, least time.Duration) time.Duration {
	return max(least, c.age(l)/8)
}
