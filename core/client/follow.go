package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// keepFormer is for how many epochs the device remembers whose leaf one was: as
// long as package group opens late messages, and one more.
const keepFormer = pastEpochs + 1

// event takes one event of the log of its room. Events that were dealt with are
// passed over, so that the same may come any number of times.
func (c *Client) event(ctx context.Context, ev *wire.Event, asked map[core.RoomID]bool) error {
	r, err := c.room(ev.Room)
	if err != nil {
		return nil // not a room: nothing that could be kept
	}
	if r.stalled || ev.Seq <= r.Cursor || r.Behind && !asked[r.ID] {
		return nil
	}
	if len(ev.Sealed) == 0 {
		return c.said(r, ev)
	}
	if hash := sha256.Sum256(ev.Sealed); r.Joining && bytes.Equal(hash[:], r.JoinID) {
		err := c.admit(ctx, r, ev.Certificate, ev.Seq)
		if err != nil && c.loaded && ctx.Err() == nil && core.CodeOf(err) != core.Internal {
			c.stall(r, ev, "")
			return nil
		}
		return err
	}
	if r.Gone {
		return nil
	}
	if r.Kind, r.Member = core.Group, true; !r.Joined {
		c.touch(r)
		return nil
	}
	if err := c.open(ctx, r); err != nil {
		return err
	}
	m, err := mls.Parse(ev.Sealed)
	switch {
	case err != nil:
		c.fail(r, ev, 0, "not an MLS message")
	case m.Private != nil:
		if err := c.message(ctx, r, ev, m); err != nil {
			return err
		}
	case m.Public != nil:
		if done, err := c.handshake(ctx, r, ev, m); err != nil || !done {
			return err
		}
		if r = c.rooms[ev.Room]; r == nil {
			return nil
		}
	}
	r.Cursor = max(r.Cursor, ev.Seq)
	c.touch(r)
	if len(c.rows) >= maxRows {
		return c.flush(ctx)
	}
	return nil
}

// stall leaves the rest of a room's events for a later round, and tells why if it
// does not pass by itself.
func (c *Client) stall(r *room, ev *wire.Event, why string) {
	r.stalled, r.Behind = true, true
	c.touch(r)
	if why != "" && r.warned != ev.Seq {
		r.warned = ev.Seq
		c.tell(Update{Kind: Alarm, Room: r.ID, Text: why})
	}
}

// halt stops following a room: what the homeservers agreed on is not what this
// device may accept.
func (c *Client) halt(r *room, ev *wire.Event, why error) {
	r.stalled, r.Behind, r.Halted = true, true, why.Error()
	c.touch(r)
	c.tell(Update{Kind: Halted, Room: r.ID, User: ev.Sender, Text: r.Halted})
}

// handshake takes a proposal or a commit; done says that the event is dealt with.
func (c *Client) handshake(ctx context.Context, r *room, ev *wire.Event, m *mls.Message) (done bool, err error) {
	content := &m.Public.Content
	commit := content.ContentType == mls.ContentCommit
	own := content.Sender.Type == mls.SenderMember && content.Sender.Index == r.g.Self()
	switch now := r.g.Epoch(); {
	case content.Epoch < now || r.Lost != "":
		return true, nil
	case content.Epoch > now:
		c.lose(r, "commits before one are missing")
		return true, nil
	case r.Halted != "":
		r.stalled = true
		return false, nil
	case own && !commit:
		return true, nil // it was kept when it was made
	}
	if ready, err := c.equip(ctx, r, ev, m); !ready || err != nil {
		return false, err
	}
	if r = c.rooms[ev.Room]; r == nil || !r.Joined || ev.Seq <= r.Cursor {
		return false, nil
	}
	if err := c.open(ctx, r); err != nil {
		return false, err
	}
	if content.Epoch != r.g.Epoch() {
		return false, nil // another round was faster
	}
	if !commit {
		_, err := r.g.Process(m)
		if errors.Is(err, errUnknown) {
			c.stall(r, ev, "a device that is proposed is not known yet")
			return false, nil
		}
		return true, nil // one that is refused is refused by whoever commits, too
	}
	return c.follow(r, ev, m)
}

// lose notes that the room can only be entered anew.
func (c *Client) lose(r *room, why string) {
	r.Lost = why
	c.touch(r)
}

// equip has what is needed to judge a handshake: whose the leaves are that it
// brings, and the keys of the homeservers that sign.
func (c *Client) equip(ctx context.Context, r *room, ev *wire.Event, m *mls.Message) (bool, error) {
	var leaves []*mls.LeafNode
	add := func(p *mls.Proposal) {
		switch {
		case p == nil:
		case p.Add != nil:
			leaves = append(leaves, p.Add.Leaf)
		case p.Update != nil:
			leaves = append(leaves, p.Update)
		}
	}
	add(m.Public.Content.Proposal)
	if commit := m.Public.Content.Commit; commit != nil {
		for _, p := range commit.Proposals {
			add(p.Proposal)
		}
		if commit.Path != nil {
			leaves = append(leaves, commit.Path.Leaf)
		}
	}
	err := c.meetLeaves(ctx, leaves)
	if m.Public.Content.Commit != nil && err == nil {
		err = c.meetHomeservers(ctx, ev)
	}
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		why := "who is behind a change of the room cannot be found out: " + core.TextOf(err)
		if core.Temporary(err) {
			why = ""
		}
		if r = c.rooms[ev.Room]; r != nil {
			c.stall(r, ev, why)
		}
		return false, nil
	}
	return true, nil
}

// meetHomeservers pins the homeservers that sign a room's epochs. One that has a new
// key is asked for it.
func (c *Client) meetHomeservers(ctx context.Context, ev *wire.Event) error {
	r := c.rooms[ev.Room]
	if r == nil || r.p == nil {
		return nil // the room was left while its leaves were met
	}
	domains := slices.Clone(r.p.Authority().Domains)
	known := func(*identity.Chain) bool { return true }
	for _, d := range domains {
		if _, err := c.chain(ctx, d, known); err != nil {
			return err
		}
	}
	if r = c.rooms[ev.Room]; r == nil || r.p == nil {
		return nil
	}
	if _, err := c.certificate(r, ev); !errors.Is(err, identity.ErrUnknownKey) {
		return nil
	}
	for _, d := range domains {
		if _, err := c.chain(ctx, d, func(*identity.Chain) bool { return false }); err != nil {
			return err
		}
	}
	return nil
}

// follow checks a commit and enters its epoch: certificate, identities, what MLS
// demands, and the room's policy, in the order of their cost.
func (c *Client) follow(r *room, ev *wire.Event, m *mls.Message) (done bool, err error) {
	facts, err := c.certificate(r, ev)
	if err != nil {
		c.stall(r, ev, "a change of the room without a valid certificate of its homeservers: "+err.Error())
		return false, nil
	}
	if facts.Room == r.ID && facts.Epoch == r.g.Epoch()+1 && !ofCommit(facts, ev.Sealed) {
		c.passOver(r, ev)
		return true, nil
	}
	pending := r.g.Pending()
	event, err := r.g.Process(m)
	switch {
	case err == nil:
	case errors.Is(err, errUnknown):
		c.stall(r, ev, "a device that comes in is not known yet")
		return false, nil
	case errors.Is(err, errImpostor):
		c.halt(r, ev, err)
		return false, nil
	default:
		// The homeservers have found nothing wrong with it: so it is this device
		// that lacks something, or a committer that made it so.
		c.lose(r, "a commit cannot be followed: "+err.Error())
		return true, nil
	}
	t := event.Transition
	own := pending != nil && t == pending
	refused := func(why error) (bool, error) {
		r.g.Drop(t)
		c.halt(r, ev, why)
		return false, nil
	}
	if err := names(facts, r.ID, ev.Sealed, t.Staged.Context()); err != nil {
		return refused(err)
	}
	after, err := judge(r.g.Public(), r.p, t.Staged)
	if err != nil {
		return refused(fmt.Errorf("the room's policy does not allow a change that its homeservers took: %w", err))
	}
	if err := decides(facts, after.Authority()); err != nil {
		return refused(err)
	}
	return true, c.merge(r, ev, t, after, own)
}

// passOver leaves aside a commit that is shown with the certificate of another one of
// its epoch: a homeserver was led to apply it, and knows better by now. Should the other
// one not come, the room is entered anew.
func (c *Client) passOver(r *room, ev *wire.Event) {
	r.passed = true
	c.touch(r)
	c.tell(Update{Kind: Alarm, Room: r.ID, User: ev.Sender, Text: "the homeserver was misled about a change of the room: the homeservers of the room have agreed on another"})
}

// merge enters the epoch.
func (c *Client) merge(r *room, ev *wire.Event, t *group.Transition, after *policy.State, own bool) error {
	told := len(c.updates)
	defer func() { // nothing is awaited here: these are this change's
		for i := told; i < len(c.updates); i++ {
			c.updates[i].Seq = ev.Seq
		}
	}()
	st, before, ended := t.Staged, r.p, r.g.Epoch()
	tree := r.g.Public().Tree()
	r.Former = slices.DeleteFunc(r.Former, func(f former) bool { return f.Until+keepFormer < ended })
	for _, i := range st.Removed {
		d, u := leafOwner(tree.Leaf(i))
		r.Former = append(r.Former, former{Until: ended, Leaf: i, Device: d, User: u})
		c.tell(Update{Kind: DeviceOut, Room: r.ID, User: u, Device: d})
	}
	if err := r.g.Merge(t); err != nil {
		return core.Errorf(core.Internal, "merge: %w", err)
	}
	c.clearOffer(r)
	r.tendAt, r.passed = 0, false
	c.touch(r)
	if own {
		r.own = ev.Sealed
		if st.Path != nil {
			r.Renewed = c.now()
		}
	}
	if t.Removed {
		c.leaveGroup(r)
		r.Member = after.Member(string(c.self.user))
		r.Leaving = r.Leaving && r.Member
		c.tell(Update{Kind: RoomLeft, Room: r.ID, User: c.self.user})
		return nil
	}
	r.p = after
	came := slices.Clone(st.Added)
	if st.Sender.Type == mls.SenderNewMemberCommit {
		came = append(came, st.Committer)
	}
	for _, i := range came {
		d, u := leafOwner(st.Tree.Leaf(i))
		c.tell(Update{Kind: DeviceIn, Room: r.ID, User: u, Device: d})
		c.doubt(r, d)
	}
	c.compare(r, before, after, st.Components)
	return nil
}

// doubt warns of a device in a room that this device has reason not to believe, though
// homeservers did: they may not know, or not want to.
func (c *Client) doubt(r *room, d core.DeviceURI) {
	k := c.known[d]
	if k == nil {
		return
	}
	why := ""
	if record, err := k.record(); err == nil && record.Revoked {
		why = "has been revoked"
	}
	if k.Refused {
		why = "has signed two records that contradict each other"
	}
	if why != "" {
		c.tell(Update{Kind: Alarm, Room: r.ID, User: k.User, Device: d,
			Text: "device " + d.ID() + " of " + string(k.User) + " is in this room, and " + why + ": remove it unless you know why"})
	}
}

// compare tells what changed in the room's policy.
func (c *Client) compare(r *room, before, after *policy.State, changed []mls.ComponentID) {
	if slices.Contains(changed, policy.ComponentParticipants) {
		for _, p := range before.Participants() {
			if _, in := after.Role(p.User); !in {
				c.tell(Update{Kind: MemberOut, Room: r.ID, User: core.UserURI(p.User)})
			}
		}
		for _, p := range after.Participants() {
			was, in := before.Role(p.User)
			u := Update{Room: r.ID, User: core.UserURI(p.User), Text: core.RoleOf(p.Role).String()}
			if u.Kind = RoleChanged; !in {
				u.Kind = MemberIn
			}
			if !in || was != p.Role {
				c.tell(u)
			}
		}
	}
	if slices.ContainsFunc(changed, func(id mls.ComponentID) bool { return id != policy.ComponentParticipants }) {
		r.describe()
		c.tell(Update{Kind: RoomChanged, Room: r.ID, Text: r.Name})
	}
}

// certificate verifies that enough homeservers of the authority of the epoch before
// signed what comes with the commit that an event holds (PROTOCOL §6), and returns it: it
// may be about another commit.
func (c *Client) certificate(r *room, ev *wire.Event) (epoch.Approval, error) {
	cert, err := epoch.ParseCertificate(ev.Certificate)
	if err != nil {
		return epoch.Approval{}, err
	}
	accepted := ev.Accepted / int64(time.Second/time.Millisecond) // a key may have run out since
	return cert.Facts(), c.signed(cert, r.p.Authority(), c.cfg.Now().Unix(), accepted)
}

// names says whether what was signed is this commit, nil if it is not known, and what
// it makes of the group.
func names(a epoch.Approval, room core.RoomID, message []byte, after *mls.GroupContext) error {
	if a.Room == room && a.Epoch == after.Epoch && (message == nil || ofCommit(a, message)) &&
		bytes.Equal(a.Transcript, after.ConfirmedTranscriptHash) && bytes.Equal(a.Tree, after.TreeHash) {
		return nil
	}
	return errors.New("the homeservers signed another change of the room than they show")
}

// ofCommit reports whether what was signed is this commit.
func ofCommit(a epoch.Approval, message []byte) bool {
	id := (&core.Handshake{Message: message}).ID()
	return bytes.Equal(a.Commit, id[:])
}
