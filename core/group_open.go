package core

import (
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
)

// propose takes proposals for the rest of the epoch: all or none.
func (e *Engine) propose(tx Tx, now time.Time, r *roomState, h *Handshake, x *examined) (Output, error) {
	g := r.group
	var refs [][]byte
	for _, m := range x.proposals {
		before := g.public.PendingCount()
		p, err := g.public.Propose(&m.Public.AuthenticatedContent)
		if err != nil {
			for _, ref := range refs {
				g.public.Forget(ref)
			}
			return Output{}, Errorf(Invalid, "proposal: %w", err)
		}
		if g.public.PendingCount() > before {
			refs = append(refs, p.Ref)
		}
	}
	if len(refs) == 0 {
		return Output{Duplicate: true}, nil
	}
	var out Output
	for _, m := range x.proposals {
		out.Events = append(out.Events, e.logHandshake(r, now, h, x, m.Raw()))
	}
	g.markGone()
	g.result = nil // what was examined before must be seen with what waits now, as others see it
	return out, e.keepGroup(tx, r, out.Events)
}

// logHandshake gives a handshake message its place in the room's log.
func (e *Engine) logHandshake(r *roomState, now time.Time, h *Handshake, x *examined, message []byte) *Event {
	sender := UserURI(x.actor.User)
	if sender == "" {
		sender = e.system
	}
	env := Envelope{Room: r.ID, Sender: sender, Origin: Origin{Network: NetworkNative}, Body: Sealed{Message: message}}
	return e.stage(r, now, env, nil)
}

// open begins the next epoch with a commit that was examined.
func (e *Engine) open(tx Tx, now time.Time, r *roomState, h *Handshake, x *examined) (Output, *Opened, error) {
	g, before := r.group, r.group.head.Authority
	ended := g.public.Epoch()
	g.public = x.staged.Next(x.commit.Public.ConfirmationTag)
	g.policy = x.policy
	g.move(x)
	g.result, g.checkedOn, g.gone = nil, nil, nil
	ev := e.logHandshake(r, now, h, x, x.commit.Raw())
	out := Output{Events: []*Event{ev}}
	known := g.head.Domains
	g.head.Authority, g.head.Domains = g.authority()
	g.head.Info, g.head.InfoTree = h.Info, false
	if err := e.welcome(tx, now, r, h, x, known, &out); err != nil {
		return Output{}, nil, err
	}
	if slices.Contains(x.staged.Components, policy.ComponentParticipants) {
		if err := e.keepMembers(tx, r); err != nil {
			return Output{}, nil, err
		}
	}
	id := h.ID()
	if err := putCBOR(tx, groupEpochs, epochKey(r.ID, ended), endedBy{ID: id, Seq: ev.Seq}); err != nil {
		return Output{}, nil, err
	}
	if n := g.newcomers(x, h.Records); len(n) > 0 {
		keep := func() error { return putCBOR(tx, groupJudgements, epochKey(r.ID, ended+1), n) }
		if !slices.Contains(before.Voters, e.cfg.Homeserver) { // nobody asks what it thinks
			keep = func() error { return e.meet(tx, now, n) }
		}
		if err := keep(); err != nil {
			return Output{}, nil, err
		}
	}
	if err := e.startAt(tx, r, known); err != nil {
		return Output{}, nil, err
	}
	if x.staged.Sender.Type == mls.SenderNewMemberCommit {
		e.leaseUsed(r.ID, DeviceURI(x.actor.Device))
	}
	ctx := g.public.Context()
	opened := &Opened{Room: r.ID, Epoch: ctx.Epoch, Seq: ev.Seq, Commit: id, Transcript: ctx.ConfirmedTranscriptHash,
		Tree: ctx.TreeHash, Before: before, After: g.head.Authority}
	return out, opened, e.keepGroup(tx, r, out.Events)
}

// endedBy is what ended an epoch.
type endedBy struct {
	_   struct{} `cbor:",toarray"`
	ID  HandshakeID
	Seq uint64
}

// Winner returns the commit that ended epoch: its ID, the MLSMessage, and its
// place in the log here. NotFound if that epoch has not ended, or before this
// homeserver came.
func (e *Engine) Winner(tx Reader, room RoomID, epoch uint64) (id HandshakeID, message []byte, seq uint64, err error) {
	id, seq, err = EpochEnd(tx, room, epoch)
	if err != nil {
		return id, nil, 0, err
	}
	for _, ev := range e.staged { // decided in this transaction
		if ev.Room == room && ev.Seq == seq {
			return id, ev.Body.(Sealed).Message, seq, nil
		}
	}
	ev, err := tx.Event(room, seq)
	if err != nil {
		return id, nil, 0, asBroken(err)
	}
	return id, ev.Body.(Sealed).Message, seq, nil
}

// EpochEnd reads which handshake ended an epoch, and where it stands in the log
// here; NotFound as of Winner.
func EpochEnd(r Reader, room RoomID, epoch uint64) (id HandshakeID, seq uint64, err error) {
	var by endedBy
	err = getCBOR(r, groupEpochs, epochKey(room, epoch), &by)
	return by.ID, by.Seq, err
}

// move brings the index of leaves to the new epoch.
func (g *groupState) move(x *examined) {
	for _, c := range x.removed {
		rest := slices.DeleteFunc(slices.Clone(g.leaves[c.User]), func(i uint32) bool { return i == c.Leaf })
		if g.leaves[c.User] = rest; len(rest) == 0 {
			delete(g.leaves, c.User)
		}
	}
	for _, c := range x.added {
		leaves := append(slices.Clone(g.leaves[c.User]), c.Leaf)
		slices.Sort(leaves)
		g.leaves[c.User] = leaves
	}
}

// keepMembers brings the list of members, by which users find their rooms, in
// step with the participants.
func (e *Engine) keepMembers(tx Tx, r *roomState) error {
	now := r.group.policy.Participants()
	is := make(map[UserURI]bool, len(now))
	for _, p := range now {
		u := UserURI(p.User)
		is[u] = true
		m := Member{User: u, Via: NetworkNative, Role: RoleOf(p.Role), Joined: !r.group.policy.Banned(p.User), Since: r.head}
		if have := r.members[u]; have != nil {
			if have.Role == m.Role && have.Joined == m.Joined {
				continue
			}
			m.Since, m.Profile = have.Since, have.Profile
		}
		r.put(m)
		if err := tx.PutMember(r.ID, m); err != nil {
			return asBroken(err)
		}
	}
	var gone []UserURI
	for u := range r.members {
		if !is[u] {
			gone = append(gone, u)
		}
	}
	slices.Sort(gone)
	for _, u := range gone {
		r.drop(u)
		if err := tx.DropMember(r.ID, u); err != nil {
			return asBroken(err)
		}
	}
	return nil
}

// keepGroup writes the group's head, and a snapshot when the handshakes since the
// last one cost more to load than it does.
func (e *Engine) keepGroup(tx Tx, r *roomState, events []*Event) error {
	g := r.group
	replay, since := slices.Clone(g.head.Replay), g.head.Since
	for _, ev := range events {
		replay, since = append(replay, ev.Seq), since+len(ev.Body.(Sealed).Message)
	}
	if g.head.Replay, g.head.Since = replay, since; since >= g.head.Snapshot || len(replay) > maxReplay {
		return e.snapshot(tx, r)
	}
	return putCBOR(tx, groupHeads, RoomKey(r.ID), &g.head)
}

func (e *Engine) snapshot(tx Tx, r *roomState) error {
	g := r.group
	b := g.public.AppendTo(nil)
	g.head.Replay, g.head.Since, g.head.Snapshot = nil, 0, len(b)
	if err := tx.PutValue(groupSnapshots, RoomKey(r.ID), b); err != nil {
		return asBroken(err)
	}
	return putCBOR(tx, groupHeads, RoomKey(r.ID), &g.head)
}
