package client

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
)

// Bounds and times of following and tending.
const (
	eventsPerRound = 1000
	roomsPerRound  = 256 // whose own positions are asked for at once
	maxRounds      = 1000
	minTend        = 500 * time.Millisecond // others' proposals wait so long at least,
	maxTend        = 5 * time.Second        // and so long at most, if the room does not say
	tendEvery      = time.Hour              // to look at what is seldom due
	aheadGrace     = 10 * time.Second       // for commits to come after messages of the epochs that they open
	keepAside      = 30 * 24 * time.Hour    // a group that one is out of on the homeserver's word
)

// Sync takes what is new from the homeserver, waiting up to wait for something to
// be, and returns what it came to. Everything returned is on disk.
func (c *Client) Sync(ctx context.Context, wait time.Duration) ([]Update, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	if len(c.updates) > 0 {
		wait = 0
	}
	for range maxRounds {
		more, err := c.round(ctx, wait)
		if err != nil {
			return nil, err
		}
		if wait = 0; !more {
			break
		}
	}
	out := c.updates
	c.updates = nil
	return out, nil
}

// round is one request to the homeserver, and all that follows from the answer. An
// answer that another round has overtaken is old: it is asked for again.
func (c *Client) round(ctx context.Context, wait time.Duration) (more bool, err error) {
	request := wire.GetSync{Since: c.at.Next, Wait: c.patience(wait).Milliseconds(), Limit: eventsPerRound}
	asked := map[core.RoomID]bool{}
	for _, r := range c.order {
		r.stalled = false
		if r.Behind && len(asked) < roomsPerRound {
			if request.Rooms == nil {
				request.Rooms = map[core.RoomID]uint64{}
			}
			request.Rooms[r.ID] = r.Cursor
			asked[r.ID] = true
		}
	}
	turn := c.rounds
	s, err := ask(ctx, c, func(ctx context.Context) (wire.Sync, error) { return c.cfg.Home.Sync(ctx, request) })
	if err != nil {
		return false, err
	}
	switch {
	case c.rounds != turn:
		return true, nil
	case c.reading:
		return true, c.wait(ctx, firstBackoff)
	}
	c.rounds++
	c.reading = true
	defer func() { c.reading = false }()
	for _, w := range s.Joined[:min(len(s.Joined), maxRooms)] {
		if err := c.listed(w); err != nil {
			continue // not a room
		}
	}
	c.take(s.Letters)
	for _, t := range s.Typing[:min(len(s.Typing), maxUpdates)] {
		if t.Typing && t.User != c.self.user {
			c.tell(Update{Kind: Typing, Room: t.Room, User: t.User})
		}
	}
	if err := c.read(ctx); err != nil {
		return false, err
	}
	if err := c.events(ctx, s.Events, asked); err != nil {
		return false, err
	}
	for _, id := range s.Left[:min(len(s.Left), maxRooms)] {
		c.leftBy(id)
	}
	more = s.More
	for _, r := range c.order {
		if asked[r.ID] && !r.stalled && !s.More && r.Behind {
			r.Behind = false
			c.touch(r)
		}
		more = more || r.Behind && !r.stalled && !asked[r.ID] // found out in this round
		if err := c.revisit(ctx, r); err != nil {
			return false, err
		}
	}
	if len(c.held) > 0 {
		if err := c.read(ctx); err != nil {
			return false, err
		}
	}
	if s.Next != "" && s.Next != c.at.Next {
		c.at.Next = s.Next
	}
	c.putCBOR(tablePosition, 0, c.at)
	return more, c.flush(ctx)
}

// events takes those of each room in the order of its log.
func (c *Client) events(ctx context.Context, all []wire.Event, asked map[core.RoomID]bool) error {
	all = all[:min(len(all), 10*eventsPerRound)]
	first := map[core.RoomID]int{}
	for i := range all {
		if _, seen := first[all[i].Room]; !seen {
			first[all[i].Room] = i
		}
	}
	slices.SortStableFunc(all, func(a, b wire.Event) int {
		return cmp.Or(cmp.Compare(first[a.Room], first[b.Room]), cmp.Compare(a.Seq, b.Seq))
	})
	for i := range all {
		if err := c.event(ctx, &all[i], asked); err != nil {
			return err
		}
	}
	return nil
}

// leftBy takes note that the user is in a room no more: the homeserver gives nothing
// of it any longer, the commit that says so included.
func (c *Client) leftBy(id core.RoomID) {
	r := c.rooms[id]
	if r == nil || !r.Member && !r.Joined {
		return
	}
	r.Seen, r.Tries = c.now(), 0
	c.out(r)
}

// out leaves a room on the homeserver's word alone. Where the user did not ask for it
// the group is set aside.
func (c *Client) out(r *room) {
	asked := r.Leaving
	r.Member, r.Leaving = false, false
	if r.Joined {
		switch {
		case r.Kind != core.Group:
			r.Joined = false
		case asked:
			c.leaveGroup(r)
		default:
			c.setAside(r)
		}
		c.tell(Update{Kind: RoomLeft, Room: r.ID, User: c.self.user})
	}
	c.touch(r)
}

// setAside keeps the group of a room that the user is in no more as the homeserver
// says: nobody reads or writes in it, and nothing is erased for a while. If it was not
// true the device goes on where it was; and in another group it is not taken in for
// the room, for it knows who decides there.
func (c *Client) setAside(r *room) {
	c.keep(r)
	r.Joined, r.g, r.p, r.Kept, r.passed = false, nil, nil, max(c.now(), 1), false
	c.unsent(r)
	c.touch(r)
}

// takeUp goes on with a group that was set aside: the homeserver lists the room again.
// If the user was taken out meanwhile, the room's log says so.
func (c *Client) takeUp(ctx context.Context, r *room) error {
	r.Joined, r.Behind, r.Kept = true, true, 0
	c.touch(r)
	c.tell(Update{Kind: RoomJoined, Room: r.ID, User: c.self.user})
	return c.flush(ctx)
}

// Tend does what is due: commits what others proposed, renews keys, key packages
// and the device's record, hands over what waits, and enters rooms that the user is
// in and this device is not. It is called every second or so by an application
// that is online, and returns the first thing that failed after trying all.
func (c *Client) Tend(ctx context.Context) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	if c.self == nil || !c.self.Registered {
		return nil
	}
	var failed []error
	note := func(err error) bool {
		if err != nil {
			failed = append(failed, err)
		}
		return ctx.Err() == nil && c.loaded
	}
	if now := c.now(); now-c.tended >= tendEvery.Milliseconds() || c.low {
		c.tended = now
		if !note(c.seldom(ctx)) {
			return errors.Join(failed...)
		}
	}
	for _, r := range slices.Clone(c.order) { // rooms may be met meanwhile
		if !note(c.tendRoom(ctx, r.ID)) {
			break
		}
	}
	return errors.Join(failed...)
}

// seldom is what an hour may pass between.
func (c *Client) seldom(ctx context.Context) error {
	if c.self.record.NotAfter-c.cfg.Now().Unix() < int64(recordRenew/time.Second) && !c.self.record.Revoked {
		until := c.cfg.Now().Add(recordLife).Unix()
		if err := c.changeRecord(ctx, func(n *identity.Record) { n.NotAfter = until }); err != nil {
			return err
		}
	}
	rooms, err := ask(ctx, c, c.cfg.Home.Rooms)
	if err != nil {
		return err
	}
	for _, w := range rooms.Rooms[:min(len(rooms.Rooms), maxRooms)] {
		if !w.Joined {
			continue
		}
		if err := c.listed(w); err != nil {
			continue // not a room
		}
		r := c.rooms[w.Room]
		if r == nil || !r.Joined || r.Kind != core.Group {
			continue
		}
		if err := c.open(ctx, r); err != nil {
			return err
		}
		if w.Epoch > r.g.Epoch() && w.Head > 0 && w.Head <= r.Cursor && r.Lost == "" {
			c.lose(r, "commits are missing in the homeserver's log")
		}
	}
	return c.replenish(ctx)
}

// tendRoom does what is due in one room.
func (c *Client) tendRoom(ctx context.Context, id core.RoomID) error {
	r := c.rooms[id]
	if r == nil {
		return nil
	}
	if len(c.waiting(id)) > 0 && r.Joined && r.Lost == "" { // else it may have to be sealed anew, once the room is entered
		if err := c.deliver(ctx, id, false); err != nil {
			return err
		}
	}
	now := c.now()
	c.tendAhead(r, now)
	switch {
	case r.Kind != core.Group:
		return nil
	case r.Joining:
		return c.begin(ctx, id)
	case r.Kept != 0 && r.Member:
		if now-r.Seen < firstGrace.Milliseconds() { // a Welcome may come
			return nil
		}
		return c.takeUp(ctx, r)
	case r.Kept != 0 && now-r.Kept > keepAside.Milliseconds():
		c.leaveGroup(r)
		return c.flush(ctx)
	case r.Halted != "":
		return nil
	case r.Member && (!r.Joined || r.Lost != ""):
		return c.enterAgain(ctx, r)
	case !r.Joined:
		return nil
	}
	if err := c.open(ctx, r); err != nil {
		return err
	}
	if r.Offer {
		_, _, err := c.offer(ctx, id)
		return err
	}
	if _, own := r.leaving(c.self.user); own {
		if !r.others(c.self.user) {
			return c.abandon(ctx, r)
		}
		return nil // others commit that
	}
	if r.Leaving { // what was proposed went with its epoch: a commit from outside takes up but a part
		return c.depart(ctx, id)
	}
	if c.proposalsDue(r, now) {
		if err := c.commit(ctx, id, c.sweep); err != nil {
			return err
		}
	}
	if r = c.rooms[id]; r == nil || !r.Joined || r.g == nil {
		return nil
	}
	if every := c.cfg.UpdateEvery.Milliseconds(); every > 0 && now-r.Renewed > every {
		start := r.Renewed
		return c.commit(ctx, id, func(r *room) (change, error) {
			if r.Renewed != start {
				return change{}, errDone
			}
			return change{path: true}, nil
		})
	}
	return nil
}

// tendAhead gives up waiting for commits that what is said now lies behind, or for the
// true one after a false one.
func (c *Client) tendAhead(r *room, now int64) {
	switch {
	case r.Future == 0 && !r.passed || r.stalled:
		r.aheadAt = 0
	case r.aheadAt == 0:
		r.aheadAt = now
	case now-r.aheadAt > aheadGrace.Milliseconds() && r.Lost == "":
		c.lose(r, "the commits that lead on are missing")
	}
}

// abandon leaves a room in which nobody stays who could commit it.
func (c *Client) abandon(ctx context.Context, r *room) error {
	c.leaveGroup(r)
	r.Gone, r.Member, r.Leaving = true, false, false
	c.tell(Update{Kind: RoomLeft, Room: r.ID, User: c.self.user})
	return c.flush(ctx)
}

// enterAgain enters a room by an external commit, at first after a grace in which a
// Welcome may come, then less and less often.
func (c *Client) enterAgain(ctx context.Context, r *room) error {
	now := c.now()
	wait := min(enterAgain<<min(r.Tries, 10), enterLatest)
	if r.Tries == 0 {
		wait = 0
	}
	if r.Lost == "" && now-r.Seen < firstGrace.Milliseconds() || now-r.Tried < wait.Milliseconds() {
		return nil
	}
	r.Tried = now
	r.Tries++
	c.touch(r)
	err := c.external(ctx, r.ID, "")
	if code := core.CodeOf(err); err == nil || code != core.Denied && code != core.NotFound {
		return err
	}
	if r = c.rooms[r.ID]; r == nil { // the user is in it no more
		return nil
	}
	c.out(r)
	return c.flush(ctx)
}

// proposalsDue reports whether it is this device's turn to commit what others
// proposed: after a random time, so that not everybody does.
func (c *Client) proposalsDue(r *room, now int64) bool {
	due := false
	for _, p := range r.g.Public().Pending() {
		own := p.Sender.Type == mls.SenderMember && p.Sender.Index == r.g.Self()
		due = due || !own || p.Proposal.Type != mls.ProposalUpdate
	}
	if !due {
		r.tendAt = 0
		return false
	}
	if r.tendAt == 0 {
		low, high := minTend.Milliseconds(), maxTend.Milliseconds()
		if o, ok := r.p.Operational(); ok && o.Pending != policy.StrategyUnspecified {
			low, high = int64(min(o.MinDelay, 1<<32)), int64(min(o.MaxDelay, 1<<32))
		}
		r.tendAt = now + low + c.random()%max(high-low+1, 1)
	}
	return now >= r.tendAt
}

// sweep commits what is pending.
func (c *Client) sweep(r *room) (change, error) {
	if r.g.Public().PendingCount() == 0 {
		return change{}, errDone
	}
	return change{path: true}, nil
}

// Typing says that the user is typing in a room, or has stopped.
func (c *Client) Typing(ctx context.Context, id core.RoomID, typing bool) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	_, err := ask(ctx, c, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.cfg.Home.Typing(ctx, wire.Typing{Room: id, Typing: typing})
	})
	return err
}
