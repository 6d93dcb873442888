package native

import (
	"context"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A peer may have more of our log than we have: this homeserver was restored from an old
// backup then, and gives places anew that the peer has. What it says of the last place
// that it has shows that. The log begins a new incarnation, in which the peer takes what
// follows on the position that our store has of it.

// vet looks at the first answer of each lane since it was opened. One of a peer that has
// more than we do becomes a refusal that says nothing of how much the peer has. A lane is
// vetted once, so that a peer that lies has no more of it.
func (l *lanes) vet(ctx context.Context, b *batch, answer []wire.RoomStored) error {
	var fresh, lost []int
	for i, n := range b.lanes {
		if a := &answer[i]; !n.vetted && (a.Code == "" || a.Seq > 0) {
			fresh = append(fresh, i)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	err := l.p.f.gw.View(ctx, func(r core.Reader) error {
		lost = lost[:0]
		for _, i := range fresh {
			a, log, had := &answer[i], b.rooms[i].Log, true
			if a.Log == log && a.Mark != 0 {
				var err error
				if had, err = core.HoldsMark(r, a.Room, a.Seq, a.Mark); err != nil {
					return err
				}
			}
			if !had || a.Log > log {
				lost = append(lost, i)
			}
		}
		return nil
	})
	if err == nil && len(lost) > 0 {
		err = l.beginAnew(ctx, b, answer, lost)
	}
	if err != nil {
		if ctx.Err() == nil {
			l.p.f.log.Error("what a peer has cannot be compared with the log", "peer", l.p.domain, "err", err)
			rest(ctx, nil, time.Second)
		}
		return err
	}
	for _, i := range fresh { // a lane that is busy is its batch's alone
		b.lanes[i].vetted = true
	}
	return nil
}

// beginAnew begins new incarnations of the logs of rooms.
func (l *lanes) beginAnew(ctx context.Context, b *batch, answer []wire.RoomStored, lost []int) error {
	ins := make([]core.Input, len(lost))
	for k, i := range lost {
		ins[k] = core.NewLog{Room: b.rooms[i].Room, Was: b.rooms[i].Log}
	}
	outs, errs, err := l.p.f.gw.DoAll(context.WithoutCancel(ctx), ins...)
	if err != nil {
		return err
	}
	for k, i := range lost {
		if errs[k] != nil {
			return errs[k]
		}
		l.p.f.renew(b.rooms[i].Room, outs[k].Log)
		l.renew(b.rooms[i].Room, outs[k].Log)
		answer[i] = wire.RoomStored{Room: answer[i].Room, Code: core.Unavailable.String()}
	}
	l.p.f.log.Error("a peer has messages of users here that this homeserver has not: was it restored from an old backup? It says again what that peer may lack", "peer", l.p.domain, "rooms", len(lost))
	return nil
}

// renew has every lane of a room go on in an incarnation of our log.
func (f *federation) renew(room core.RoomID, log uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.rooms[room] {
		p.lanes.renew(room, log)
	}
}

func (l *lanes) renew(room core.RoomID, log uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.byRoom[room]; n != nil {
		n.log = max(n.log, log)
	}
}
