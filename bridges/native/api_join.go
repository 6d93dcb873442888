package native

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of joining rooms of other homeservers.
const (
	maxHomes  = 3    // homeservers of a room that are asked for one request
	maxJoins  = 4096 // devices that are joining at a time
	leaseKept = time.Minute
	arriving  = 5 * time.Second // that a device waits for the room that it has joined
)

// joins remembers which homeserver lent the state of a room to a device: the
// commit goes the same way, because only that one knows the join code that was
// shown to it. The zero value is ready.
type joins struct {
	mu sync.Mutex
	by map[joining]lender
}

type joining struct {
	room   core.RoomID
	device core.DeviceURI
}

type lender struct {
	domain string
	until  time.Time
}

func (j *joins) lent(who joining, domain string, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.by) >= maxJoins {
		maps.DeleteFunc(j.by, func(_ joining, l lender) bool { return now.After(l.until) })
	}
	if j.by == nil {
		j.by = map[joining]lender{}
	}
	if len(j.by) < maxJoins {
		j.by[who] = lender{domain, now.Add(leaseKept)}
	}
}

// lender returns who lent to who lately; "" if nobody did.
func (j *joins) lender(who joining, now time.Time) string {
	j.mu.Lock()
	defer j.mu.Unlock()
	if l := j.by[who]; !now.After(l.until) {
		return l.domain
	}
	return ""
}

// done forgets a lease that was used.
func (j *joins) done(who joining) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.by, who)
}

// homes lists the homeservers that can change a room, in the order in which they
// are asked: this one if it is part of it, the one that the room is named after,
// others that are known to be part of it.
func (a *api) homes(ctx context.Context, room core.RoomID) (out []string, err error) {
	var head core.GroupHead
	err = a.gw().View(ctx, func(r core.Reader) error {
		head, err = core.GroupOf(r, room)
		return err
	})
	if err != nil && core.CodeOf(err) != core.NotFound {
		return nil, err
	}
	add := func(domain string) {
		if len(out) < maxHomes && !slices.Contains(out, domain) {
			out = append(out, domain)
		}
	}
	if slices.Contains(head.Domains, a.cfg.Domain) {
		add(a.cfg.Domain)
	}
	if !a.home(room.Domain()) {
		add(room.Domain())
	}
	for _, d := range head.Domains {
		add(d)
	}
	if len(out) == 0 {
		return nil, errNoRoom
	}
	return out, nil
}

// handshake answers POST /v1/rooms/{room}/handshakes: it waits for what the
// room's homeservers decide.
func (a *api) handshake(c *call, in *wire.Handshake) (*wire.Decided, error) {
	room, err := a.room(c)
	if err != nil {
		return nil, err
	}
	if len(in.More) > core.MaxProposals || len(in.Records) > core.MaxRecords {
		return nil, core.Errorf(core.TooLarge, "more proposals or records than one handshake has")
	}
	who := joining{room, c.session.Device}
	at := a.joins.lender(who, a.cfg.Now())
	if at == "" {
		homes, err := a.homes(c.ctx(), room)
		if err != nil {
			return nil, err
		}
		at = homes[0]
	}
	if !a.home(at) {
		ctx, cancel := context.WithTimeout(c.ctx(), peerTimeout)
		defer cancel()
		d, err := a.peers.handshake(ctx, at, wire.PeerHandshake{Room: room, By: c.session.Device, Handshake: *in})
		if err != nil {
			return nil, err
		}
		a.joins.done(who)
		if err := a.arrival(ctx, c.session, room); err != nil {
			a.log.Debug("a room that was joined elsewhere is not here yet", "err", err)
		}
		return &wire.Decided{Epoch: d.Epoch}, nil // its place is one in another's log
	}
	d, err := a.offers.offer(c.ctx(), a.gw(), &core.Handshake{Room: room, By: c.session.Device, Home: a.cfg.Domain, Message: in.Message,
		More: in.More, Welcome: in.Welcome, Info: in.Info, Records: in.Records})
	if err != nil {
		return nil, err
	}
	a.joins.done(who)
	a.hub.joined(c.session.User)
	return &wire.Decided{Epoch: d.Epoch, Seq: d.Seq}, nil
}

// arrival waits until a room that a user has joined elsewhere is here with that
// user in it, so that what the device asks next is answered; but not for long.
func (a *api) arrival(ctx context.Context, s core.Session, room core.RoomID) error {
	a.hub.await(room, s.User, a.cfg.Now())
	ctx, cancel := context.WithTimeout(ctx, arriving)
	defer cancel()
	w, err := a.hub.enter(s)
	if err != nil {
		return err
	}
	defer a.hub.leave(w)
	for {
		var p presence
		err := a.view(ctx, func(v *view) (err error) {
			p, err = v.presence(room, s.User)
			return err
		})
		switch {
		case err == nil && p.in:
			a.hub.found(room, s.User)
			a.hub.joined(s.User)
			return nil
		case err != nil && core.CodeOf(err) != core.NotFound:
			return err
		}
		select {
		case <-w.poke:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// groupInfo answers POST /v1/rooms/{room}/group-info. A homeserver that is away,
// or does not know the join code, is not the last that is asked.
func (a *api) groupInfo(c *call, in *wire.GetGroupInfo) (*wire.GroupInfo, error) {
	room, err := a.room(c)
	if err != nil {
		return nil, err
	}
	if _, err := inboxKey(in.Key); err != nil { // before a lease is spent on it
		return nil, err
	}
	homes, err := a.homes(c.ctx(), room)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(c.ctx(), peerTimeout)
	defer cancel()
	var refused error
	for _, at := range homes {
		out, err := a.lend(ctx, c, room, at, in)
		if err == nil {
			a.joins.lent(joining{room, c.session.Device}, at, a.cfg.Now())
			return out, nil
		}
		if refused == nil || core.CodeOf(refused) == core.Unavailable {
			refused = err
		}
		if code := core.CodeOf(err); code != core.Unavailable && code != core.NotFound && core.ReasonOf(err) != core.BadKey {
			break
		}
	}
	return nil, refused
}

// lend takes a lease at one homeserver of a room.
func (a *api) lend(ctx context.Context, c *call, room core.RoomID, at string, in *wire.GetGroupInfo) (*wire.GroupInfo, error) {
	if a.home(at) {
		lease, err := a.codes.lease(ctx, a.gw(), string(c.session.User), core.LeaseGroupInfo{Room: room, User: c.session.User, By: c.session.Device}, in.Code)
		if err != nil {
			return nil, err
		}
		return sealGroupInfo(room, in.Key, lease)
	}
	me, err := a.device(c, c.session.Device)
	if err != nil {
		return nil, err
	}
	info, err := a.peers.groupInfo(ctx, at, wire.PeerGroupInfo{Room: room, User: c.session.User, By: c.session.Device,
		Key: in.Key, Code: in.Code, Proof: me.Proof})
	if err != nil {
		return nil, err
	}
	return &info, nil
}
