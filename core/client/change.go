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

// A change is what a commit of this device is to do, beside taking in what others
// proposed.
type change struct {
	proposals []*mls.Proposal
	records   []core.Identity // of devices that come in
	path      bool            // renew the own keys
	going     []string        // users whom it removes or bans
	coming    []string        // homeservers whose first users it brings in
	alone     []*mls.Proposal // to be proposed, for others to commit
}

// A plan makes the change for the epoch that the room is in now: it is asked again
// whenever another commit came first. errDone: there is nothing to do any more.
type plan func(r *room) (change, error)

// maxUnknown bounds how often a change is offered while nobody answers: it stays
// written down, and Tend goes on with it.
const maxUnknown = 6

// commit makes a change in a room: a commit that loses its race is followed by
// another on the epoch that won, after a wait that grows and is different for
// everybody.
func (c *Client) commit(ctx context.Context, id core.RoomID, p plan) error {
	unknown, older, made := 0, 0, []byte(nil)
	for try := 0; try < maxTries; try++ {
		if try > 0 {
			if err := c.pause(ctx, min(try, 9)); err != nil {
				return err
			}
			// A commit on the epoch of before the pause would be lost as well: of a hundred
			// devices that raced, half had not landed after two minutes, and with this look
			// all after twenty seconds.
			if _, err := c.round(ctx, 0); err != nil && (!c.loaded || !core.Temporary(err)) {
				return err
			}
		}
		r, err := c.able(ctx, id)
		if err != nil {
			return err
		}
		if _, own := r.leaving(c.self.user); own && !r.Offer {
			return core.Errorf(core.Denied, "you are leaving that room")
		}
		if !r.Offer { // else an earlier one comes to its end first
			ch, err := p(r)
			if err == errDone {
				return c.flush(ctx)
			}
			if err == nil {
				made, err = c.prepare(r, ch)
			}
			if err != nil {
				return err
			}
		}
		result, what, err := c.offer(ctx, id)
		switch {
		case result == won && bytes.Equal(what, made):
			return nil
		case result == unknownYet:
			if unknown++; unknown >= maxUnknown {
				return &core.Error{Code: core.CodeOf(err), Err: err, Text: core.TextOf(err) + "; this device tries again by itself"}
			}
			if e, ok := errors.AsType[*core.Error](err); ok && e.RetryAfter > 0 {
				if err := c.wait(ctx, min(e.RetryAfter, time.Minute)); err != nil {
					return err
				}
			}
		case err == errOlder && older < olderTries:
			older++
		case err != nil:
			return err
		default:
			unknown = 0
		}
	}
	return core.Errorf(core.Unavailable, "others' changes of that room came first %d times", maxTries)
}

// able is a room in which this device may change something.
func (c *Client) able(ctx context.Context, id core.RoomID) (*room, error) {
	r, err := c.group(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case r.Halted != "":
		return nil, core.Errorf(core.Denied, "that room is stopped on this device: %s", r.Halted)
	case r.Lost != "":
		return nil, core.Errorf(core.Unavailable, "this device has to enter that room anew first")
	}
	return r, nil
}

// GroupInfoOption of draft-ietf-mimi-protocol-06 §5.3.
const infoPartial = 2

// prepare makes the commit or the proposals, and writes them down with the group
// before anybody is told.
func (c *Client) prepare(r *room, ch change) (made []byte, err error) {
	var h wire.Handshake
	if len(ch.alone) > 0 {
		for _, p := range ch.alone {
			m, err := r.g.Propose(p, nil)
			if err != nil {
				c.retract(r, h)
				return nil, core.Errorf(core.Invalid, "proposal: %w", err)
			}
			if h.Message == nil {
				h.Message = m
			} else {
				h.More = append(h.More, m)
			}
		}
		c.keepOffer(r, h)
		return h.Message, nil
	}
	t, err := r.g.Commit(group.CommitOptions{Proposals: append(ch.proposals, r.authority(ch)...), Path: ch.path, SeparateTree: true, Public: true})
	if err != nil {
		return nil, core.Errorf(core.Invalid, "commit: %w", err)
	}
	h = wire.Handshake{Message: t.Commit, Welcome: t.Welcome, Records: ch.records}
	_, err = judge(r.g.Public(), r.p, t.Staged)
	if err == nil {
		var info *mls.GroupInfo
		if info, err = r.g.PendingInfo(nil); err == nil {
			h.Info = mls.NewPartialGroupInfo(info, false).AppendTo([]byte{infoPartial})
			c.keepOffer(r, h)
			return h.Message, nil
		}
	}
	r.g.Discard()
	c.touch(r)
	return nil, refuse(err)
}

func (c *Client) keepOffer(r *room, h wire.Handshake) {
	r.Offer = true
	c.putCBOR(tableOffer+string(r.ID), 0, h)
	c.touch(r)
}

// outcome is what an offer came to.
type outcome uint8

const (
	lost outcome = iota
	won
	unknownYet
)

// offer gives what is written down to the homeserver, and follows the room until
// what became of it has arrived.
func (c *Client) offer(ctx context.Context, id core.RoomID) (result outcome, message []byte, err error) {
	h, err := c.offered(ctx, id)
	if err != nil {
		return lost, nil, err
	}
	epoch, commit, err := framing(h.Message)
	if err != nil {
		return lost, h.Message, err
	}
	_, err = ask(ctx, c, func(ctx context.Context) (wire.Decided, error) { return c.cfg.Home.Handshake(ctx, id, h) })
	r := c.rooms[id]
	if r == nil {
		return lost, h.Message, core.Errorf(core.Internal, "a room is gone")
	}
	stale, isStale := errors.AsType[*Stale](err)
	switch {
	case err == nil && !commit:
		still, err := c.offers(ctx, r, h)
		if still {
			c.clearOffer(r)
			err = c.flush(ctx)
		}
		return won, h.Message, err
	case err == nil, commit && bytes.Equal(r.own, h.Message), isStale && bytes.Equal(stale.Winner, h.Message):
		if err := c.catchUp(ctx, id, epoch+1); err != nil {
			return lost, h.Message, err
		}
		if r = c.rooms[id]; !bytes.Equal(r.own, h.Message) {
			return lost, h.Message, nil
		}
		return won, h.Message, nil
	case isStale, core.CodeOf(err) == core.StaleEpoch, core.CodeOf(err) == core.Conflict:
		if err := c.withdraw(ctx, id, h); err != nil {
			return lost, h.Message, err
		}
		to := epoch
		if isStale && stale.Epoch < epoch {
			return lost, h.Message, errOlder
		} else if isStale {
			to = stale.Epoch
		} else if _, err := c.round(ctx, 0); err != nil { // a proposal that was not seen here
			return lost, h.Message, err
		}
		return lost, h.Message, c.catchUp(ctx, id, to)
	case core.Temporary(err):
		return unknownYet, h.Message, err
	}
	if werr := c.withdraw(ctx, id, h); werr != nil {
		return lost, h.Message, werr
	}
	return lost, h.Message, err
}

// offered is what is written down to be offered in a room.
func (c *Client) offered(ctx context.Context, id core.RoomID) (h wire.Handshake, err error) {
	if err := c.flush(ctx); err != nil {
		return h, err
	}
	b, err := c.cfg.Store.Get(ctx, tableOffer+string(id), 0)
	if err == nil && b == nil {
		err = core.Errorf(core.Internal, "the offer of a room is not stored")
	}
	if err != nil {
		return h, err
	}
	return h, decode(b, &h)
}

// offers reports whether h is still what the device offers in a room: while it waited
// for an answer, another change may have had one, and have gone on.
func (c *Client) offers(ctx context.Context, r *room, h wire.Handshake) (bool, error) {
	if !r.Offer {
		return false, nil
	}
	now, err := c.offered(ctx, r.ID)
	return err == nil && bytes.Equal(now.Message, h.Message), err
}

// framing reads a handshake's epoch, and whether it is a commit.
func framing(b []byte) (epoch uint64, commit bool, err error) {
	m, err := mls.Parse(b)
	if err != nil || m.Public == nil {
		return 0, false, core.Errorf(core.Internal, "stored handshake cannot be read")
	}
	return m.Public.Content.Epoch, m.Public.Content.ContentType == mls.ContentCommit, nil
}

// withdraw takes back what was refused.
func (c *Client) withdraw(ctx context.Context, id core.RoomID, h wire.Handshake) error {
	r := c.rooms[id]
	if r == nil || !r.Joined {
		return nil
	}
	if still, err := c.offers(ctx, r, h); !still {
		return err
	}
	if err := c.open(ctx, r); err != nil {
		return err
	}
	c.retract(r, h)
	c.clearOffer(r)
	return c.flush(ctx)
}

// retract makes the group forget a commit or proposals that nobody else has.
func (c *Client) retract(r *room, h wire.Handshake) {
	if t := r.g.Pending(); t != nil && bytes.Equal(t.Commit, h.Message) {
		r.g.Discard()
	}
	for _, p := range r.g.Public().Pending() {
		own := p.Sender.Type == mls.SenderMember && p.Sender.Index == r.g.Self()
		if own && (h.Message == nil || p.Content.Content.Epoch == r.g.Epoch()) {
			r.g.Public().Forget(p.Ref)
			r.fresh = true // there is no record for this
		}
	}
	c.touch(r)
}

// clearOffer forgets what is offered in a room.
func (c *Client) clearOffer(r *room) {
	if r.Offer {
		r.Offer = false
		c.put(tableOffer+string(r.ID), 0, nil)
		c.touch(r)
	}
}

// catchUp follows the room until it is in an epoch.
func (c *Client) catchUp(ctx context.Context, id core.RoomID, epoch uint64) error {
	for n := range maxCatchUp {
		r, err := c.able(ctx, id)
		if err != nil || r.g.Epoch() >= epoch {
			return err
		}
		if n > 0 {
			if err := c.pause(ctx, min(n, 6)); err != nil {
				return err
			}
		}
		if _, err := c.round(ctx, 0); err != nil && (!c.loaded || !core.Temporary(err)) {
			return err
		}
	}
	return core.Errorf(core.Unavailable, "the room's homeservers have not signed the epoch yet")
}

// judge says whether the room's policy allows a commit, by the rules that
// homeservers use, and returns the policy after it.
func judge(g *mls.PublicGroup, before *policy.State, st *mls.Staged) (*policy.State, error) {
	ch, err := policy.ChangeOf(g, before, st, nil)
	if err != nil {
		return nil, err
	}
	if ch.External {
		ch.CodeRole, _ = ch.After.Role(ch.Actor) // whether the code was right is for homeservers to say
	}
	return ch.After, ch.Check()
}
