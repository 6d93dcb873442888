package core

import (
	"bytes"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
)

// NetworkNative is where devices and homeservers speak our own protocol.
const NetworkNative Network = "native"

// maxPeerEvents bounds one batch of one room: a megabyte of short messages.
const maxPeerEvents = 4096

// sealed decides one application message of a device here.
func (e *Engine) sealed(tx Tx, now time.Time, env Envelope, body Sealed) (Output, error) {
	r, err := e.group(tx, env.Room)
	if err != nil {
		return Output{}, err
	}
	if env.Sender.Domain() != e.cfg.Homeserver {
		return Output{}, Errorf(Denied, "that user belongs to another homeserver")
	}
	if err := r.group.checkSealed(env.Sender, body); err != nil {
		return Output{}, err
	}
	return Output{Event: e.stage(r, now, env, nil)}, nil
}

// checkSealed holds an application message to its framing (RFC 9420 §6.3), which is
// all of it that a homeserver can read, and its sender to the room's policy.
func (g *groupState) checkSealed(sender UserURI, body Sealed) error {
	m, err := mls.Parse(body.Message)
	if err != nil {
		return Errorf(Invalid, "message: %w", err)
	}
	epoch, u := g.public.Epoch(), string(sender)
	switch {
	case m.Private == nil || m.Private.ContentType != mls.ContentApplication:
		return Errorf(Invalid, "an end-to-end encrypted room carries only encrypted application messages")
	case !bytes.Equal(m.Private.GroupID, g.public.GroupID()):
		return Errorf(Invalid, "a message of another group")
	case m.Private.Epoch > epoch:
		return g.stale("that epoch has not begun")
	case epoch-m.Private.Epoch > uint64(g.policy.EpochTolerance()):
		return g.stale("that epoch ended too long ago")
	}
	if len(g.leaves[u]) == 0 || g.gone[u] {
		return Refuse(Denied, NotJoined, "you are not in that room")
	}
	if !g.policy.Can(u, policy.CanSendMessage) {
		return Refuse(Denied, Muted, "you have no voice in that room")
	}
	return nil
}

// peerEvents takes what another homeserver accepted from its devices. A message
// that is refused here is passed over, so that it stops nobody's, and named in the
// answer if that is because its epoch ended too long ago; one of an epoch that has
// not begun here stops the batch, and comes again.
func (e *Engine) peerEvents(tx Tx, now time.Time, in PeerEvents) (Output, error) {
	r, err := e.group(tx, in.Room)
	if err != nil {
		return Output{}, err
	}
	g := r.group
	if in.From == e.cfg.Homeserver || !slices.Contains(g.head.Domains, in.From) {
		return Output{}, Errorf(Denied, "that homeserver has nobody in that room")
	}
	if len(in.Events) > maxPeerEvents {
		return Output{}, Errorf(TooLarge, "more than %d messages of one room at once", maxPeerEvents)
	}
	was, err := g.heardOf(tx, in.Room, in.From)
	if err != nil {
		return Output{}, err
	}
	var out Output
	is, err := was.follow(&in)
	if err == nil {
		out.Events, err = e.takeEvents(r, now, &in, &is)
	}
	out.Stored, out.Passed, out.Log, out.Mark = is.At, is.Passed, is.Log, is.Mark
	if is.At == was.At && len(is.Passed) == len(was.Passed) && (is.Log == was.Log || err != nil) {
		return out, err
	}
	g.stored[in.From] = is
	if perr := putCBOR(tx, groupStored, RoomKey(in.Room)+"/"+in.From, &is); perr != nil {
		return Output{}, perr
	}
	if err != nil { // what came before it is taken: the answer says how far
		out.Stopped = CodeOf(err)
	}
	return out, nil
}

// takeEvents takes what goes on from is, up to the first that has to wait.
func (e *Engine) takeEvents(r *roomState, now time.Time, in *PeerEvents, is *peerLog) (out []*Event, err error) {
	log := logIDOf(in.Room, in.From, in.Log)
	var last *PeerEvent
	for i := range in.Events {
		p := &in.Events[i]
		if p.Seq <= is.At {
			continue
		}
		if p.Prev > is.At && is.At > 0 {
			err = errGap
			break
		}
		var take bool
		if take, err = r.group.takes(in.From, p, is); err != nil {
			break
		}
		if is.At, last = p.Seq, p; !take {
			continue
		}
		env := Envelope{Room: in.Room, Sender: p.Sender, Origin: Origin{Network: NetworkNative}, Sent: time.UnixMilli(p.Accepted), Body: Sealed{Message: p.Message}}
		ev := e.stage(r, now, env, nil)
		ev.Home, ev.Log, ev.ID = in.From, in.Log, log.at(p.Seq)
		out = append(out, ev)
	}
	if last != nil {
		is.Mark = MarkOf(last.Message)
	}
	return out, err
}

// takes says whether a message is taken or passed over; an error stops before it.
func (g *groupState) takes(from string, p *PeerEvent, l *peerLog) (bool, error) {
	switch err := g.checkPeerEvent(from, p); {
	case err == nil:
		return true, nil
	case CodeOf(err) != StaleEpoch:
		return false, nil
	case g.ahead(p):
		return false, err
	case len(l.Passed) >= MaxPassed:
		return false, Errorf(Limited, "more than %d messages came too late", MaxPassed)
	}
	l.Passed = append(l.Passed, p.Seq)
	return false, nil
}

func (g *groupState) checkPeerEvent(from string, p *PeerEvent) error {
	if len(p.Message) > MaxContent {
		return Errorf(TooLarge, "a message over %d octets", MaxContent)
	}
	if p.Sender.Domain() != from {
		return Errorf(Denied, "a homeserver speaks for its own users")
	}
	return g.checkSealed(p.Sender, Sealed{Message: p.Message})
}

// ahead reports whether a message is of an epoch that has not begun here.
func (g *groupState) ahead(p *PeerEvent) bool {
	m, err := mls.Parse(p.Message)
	return err == nil && m.Private != nil && m.Private.Epoch > g.public.Epoch()
}
