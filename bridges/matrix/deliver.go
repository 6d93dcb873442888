package matrix

import (
	"context"
	"strconv"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// lookBack is how many events are searched for one that may have arrived
// though we heard no answer: an hour's delay is no problem, a hundred events in
// between are.
const lookBack = 100

// Deliver implements bridges.Bridge.
func (b *Bridge) Deliver(ctx context.Context, d core.Delivery) (core.Report, error) {
	gw, err := b.gateway()
	if err != nil {
		return core.Report{}, err
	}
	ev, l := &d.Event, &d.Link
	if ev.Origin.Passed(b.network) || ev.Deleted {
		return core.Report{Skipped: true}, nil
	}
	if ev.Control != nil && ev.Control.Op != core.OpDelete && ev.Control.Op != core.OpTopic && ev.Control.Op != core.OpName {
		return b.deliverState(ctx, gw, l, ev)
	}
	n := &names{ctx: ctx, b: b, gw: gw, link: l}
	outs, loss, err := b.conv.Outbound(ev, n)
	if n.err != nil {
		return core.Report{}, n.err
	}
	if err != nil || len(outs) == 0 {
		return core.Report{Loss: loss, Skipped: len(loss) == 0}, err
	}
	if b.ghosts.isUnsure(l.Place) {
		if err := b.lookBack(ctx, l); err != nil {
			return core.Report{}, err
		}
	}
	placed, err := b.send(ctx, gw, l, ev, outs, n)
	if core.CodeOf(err) == core.Unavailable && err != nil {
		b.ghosts.setUnsure(l.Place, true)
	}
	return core.Report{Placed: placed, Loss: loss}, err
}

// lookBack finds what of ours is in the room already. The homeserver keeps our
// transaction IDs in memory only (Synapse: half an hour, for application
// services), so after a crash on both sides they alone do not prevent doubles.
func (b *Bridge) lookBack(ctx context.Context, l *core.Link) error {
	events, err := b.client.latest(ctx, l.Place, lookBack)
	if err != nil {
		return b.lostRoom(ctx, l, err)
	}
	for i := range events {
		if b.ours(events[i].Sender) {
			b.learn(l, events[i].EventID, events[i].Content)
		}
	}
	b.ghosts.setUnsure(l.Place, false)
	return nil
}

// send sends the parts of ev in order, as who said them.
func (b *Bridge) send(ctx context.Context, gw bridges.Gateway, l *core.Link, ev *core.Event, outs []converter.MatrixOut, n *names) ([]string, error) {
	as, entered, err := b.speaksAs(ctx, l, ev, n)
	if err != nil {
		return nil, err
	}
	var placed []string
	for part, out := range outs {
		id, ok := b.recent.foreign(l.ID, ev.ID, part)
		if !ok {
			id, err = b.sendPart(ctx, l, ev, part, as, out)
			if core.CodeOf(err) == core.Denied && err != nil && as != "" {
				// Perhaps it was thrown out and the news is still on its way.
				b.ghosts.setJoined(l.Place, as, false)
				if as, entered, err = b.speaksAs(ctx, l, ev, n); err == nil {
					id, err = b.sendPart(ctx, l, ev, part, as, out)
				}
			}
			if err != nil && as == "" {
				err = b.lostRoom(ctx, l, err)
			}
			if err != nil {
				return placed, err
			}
			b.recent.put(l.ID, ev.ID, part, id)
		}
		placed = append(placed, id)
	}
	if entered && as != "" {
		b.settleIn(ctx, gw, l, as)
	}
	return placed, nil
}

// speaksAs returns whose request it is: the ghost of who said it, or "" for our
// bot. A redaction is its author's, so that the ghost needs no power; one of
// what came from Matrix is our bot's; topic and name are set by our bot too.
func (b *Bridge) speaksAs(ctx context.Context, l *core.Link, ev *core.Event, n *names) (mxid string, entered bool, err error) {
	user, name := ev.Sender, ""
	if s, ok := ev.Signed(); ok {
		name = s.Name
	}
	if c := ev.Control; c != nil {
		if c.Op != core.OpDelete {
			return "", false, nil
		}
		target, ok := n.Event(c.Event)
		if n.err != nil {
			return "", false, n.err
		}
		if !ok || target.Origin.Network == b.network {
			return "", false, nil
		}
		user, name = target.Sender, ""
	}
	if user == core.SystemUser(b.cfg.Domain) {
		return "", false, nil
	}
	return b.ghost(ctx, l, user, name, "")
}

// sendPart does one request. Its transaction ID depends only on link, event and
// part, so the homeserver knows it when it comes again.
func (b *Bridge) sendPart(ctx context.Context, l *core.Link, ev *core.Event, part int, as string, out converter.MatrixOut) (string, error) {
	mark := ev.ID.String() + "/" + strconv.Itoa(part)
	txn := transactionID(l.ID, mark)
	switch {
	case out.Redacts != "":
		return b.client.redact(ctx, as, l.Place, out.Redacts, txn, out.Content)
	case out.StateKey != nil:
		return b.client.setState(ctx, as, l.Place, out.Type, *out.StateKey, out.Content)
	}
	content := out.Content
	if n := len(content) - 1; n > 1 {
		content = append(append([]byte(nil), content[:n]...), `,"`+echoMark+`":"`+mark+`"}`...)
	}
	return b.client.send(ctx, as, l.Place, out.Type, txn, content)
}

// settleIn looks after a ghost that came in just now: it gets its user's avatar,
// or goes again, if its user has left meanwhile: their leave was delivered
// first, in its own lane.
func (b *Bridge) settleIn(ctx context.Context, gw bridges.Gateway, l *core.Link, mxid string) {
	user, ok := b.userURI(mxid)
	if !ok {
		return // a hashed name: the sweep at unlinking takes it out
	}
	joined, avatar := false, ""
	err := gw.View(ctx, func(r core.Reader) error {
		members, err := r.Members(l.Room)
		for _, m := range members {
			if m.User == user && m.Joined {
				joined, avatar = true, mxcOnly(m.Profile.Avatar)
			}
		}
		return err
	})
	switch {
	case err != nil: // what fails here is caught by the next change or the sweep
	case !joined:
		b.leave(ctx, l.Place, mxid, "")
	case avatar != "":
		b.ghost(ctx, l, user, "", avatar)
	}
}

// Signal implements bridges.Live: it shows that somebody types, if their ghost
// is in the room. Nothing waits for it.
func (b *Bridge) Signal(s core.Signal) {
	if s.Typing == "" || s.Origin == b.network {
		return
	}
	b.mu.Lock()
	links := b.byRoom[s.Room]
	b.mu.Unlock()
	mxid := b.mxid(s.Sender)
	for _, l := range links {
		if l.Paused != "" || !b.ghosts.isJoined(l.Place, mxid) {
			continue
		}
		b.later(func(ctx context.Context) {
			in := map[string]any{"typing": s.Typing == "active"}
			if s.Typing == "active" {
				in["timeout"] = 6000 // ms: what IRCv3 typing says
			}
			b.client.call(ctx, "PUT", "v3/rooms/"+path(l.Place, "typing", mxid), mxid, in, nil)
		})
	}
}
