package native

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A place is a room as the store has it: who else is in it, and how far they are.
type place struct {
	room  core.RoomID
	peers []string
	at    []uint64 // of each peer: our log's place that it has
	log   uint64   // incarnation of our log
}

// resolveRooms reads from the store who is in which room: of all rooms once, after
// the start, and then of those that changed.
func (f *federation) resolveRooms(ctx context.Context) {
	f.resumeWelcomes(ctx)
	f.scanRooms(ctx)
	for ctx.Err() == nil {
		rooms := f.takeUnknown()
		if len(rooms) == 0 {
			rest(ctx, f.resolve, time.Hour)
			continue
		}
		f.readRooms(ctx, rooms)
	}
}

// scanRooms goes through all rooms, and meanwhile through those that changed.
func (f *federation) scanRooms(ctx context.Context) {
	after := core.RoomID("")
	for more := true; more && ctx.Err() == nil; {
		var page []core.Room
		err := f.gw.View(ctx, func(r core.Reader) (err error) {
			page, err = r.Rooms(after, scanRooms)
			return err
		})
		if err != nil {
			f.unreadable(ctx, err)
			continue
		}
		more = len(page) == scanRooms
		rooms := f.takeUnknown()
		for _, r := range page {
			if after = r.ID; r.Kind == core.Group {
				rooms = append(rooms, r.ID)
			}
		}
		f.readRooms(ctx, rooms)
	}
}

// takeUnknown returns rooms that are to be looked up.
func (f *federation) takeUnknown() []core.RoomID {
	f.mu.Lock()
	defer f.mu.Unlock()
	rooms := slices.Sorted(maps.Keys(f.unknown))
	rooms = rooms[:min(len(rooms), scanRooms)]
	for _, r := range rooms {
		delete(f.unknown, r)
	}
	return rooms
}

// readRooms looks rooms up in one snapshot, and does so until it can.
func (f *federation) readRooms(ctx context.Context, rooms []core.RoomID) {
	for ctx.Err() == nil {
		var places []place
		err := f.gw.View(ctx, func(r core.Reader) error {
			places = places[:0]
			for _, room := range rooms {
				p, err := f.place(r, room)
				if err != nil {
					return err
				}
				places = append(places, p)
			}
			return nil
		})
		if err == nil {
			f.adopt(places)
			return
		}
		f.unreadable(ctx, err)
	}
}

func (f *federation) unreadable(ctx context.Context, err error) {
	if ctx.Err() == nil {
		f.log.Error("rooms unreadable", "err", err)
		rest(ctx, nil, time.Second)
	}
}

// rest waits for wake, d or the end of ctx.
func rest(ctx context.Context, wake <-chan struct{}, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
	case <-ctx.Done():
	}
}

// place reads one room; a room that is no Group, or is gone, has no peers.
func (f *federation) place(r core.Reader, room core.RoomID) (p place, err error) {
	p.room = room
	if p.peers, err = core.GroupPeers(r, room, f.cfg.Domain); err != nil {
		if core.CodeOf(err) == core.NotFound {
			err = nil
		}
		return p, err
	}
	if p.log, err = core.LogOf(r, room); err != nil {
		return p, err
	}
	for _, d := range p.peers {
		at, err := core.PeerPosition(r, d, room)
		if err != nil {
			return p, err
		}
		p.at = append(p.at, at)
	}
	return p, nil
}

// adopt takes up what was read. A room that changed again meanwhile is among the
// unknown already, and its events are not lost: a lane that is new begins with what
// the store has, and what is committed after that is offered to it.
func (f *federation) adopt(places []place) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.rooms) >= maxRooms { // the next event of each room looks it up again
		clear(f.rooms)
		for _, p := range f.peers {
			p.lanes.forget()
		}
	}
	for _, pl := range places {
		var now []*peer
		for i, d := range pl.peers {
			p := f.peerOf(d)
			if p == nil {
				continue
			}
			now = append(now, p)
			p.lanes.open(pl.room, pl.at[i], pl.log)
			p.acquaint()
		}
		for _, p := range f.rooms[pl.room] {
			if !slices.Contains(now, p) {
				p.lanes.shut(pl.room)
			}
		}
		f.rooms[pl.room] = now
	}
}

// resumeWelcomes starts the peers that a Welcome of before the start waits for.
func (f *federation) resumeWelcomes(ctx context.Context) {
	var ws []core.Welcome
	err := f.gw.View(ctx, func(r core.Reader) (err error) {
		ws, err = core.WelcomesOf(r, "", maxPeers)
		return err
	})
	if err != nil {
		f.log.Error("waiting Welcomes unreadable", "err", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range ws {
		if p := f.peerOf(ws[i].To); p != nil {
			poke(p.welcome)
		}
	}
}
