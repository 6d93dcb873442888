package irc

import (
	"context"
	"sync"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of the start.
const (
	loadPage   = 256     // rooms read in one snapshot
	maxBacklog = 1 << 14 // batches that may come in while the world is loaded; past it loading starts again
	reapPage   = 512     // goodbyes in one transaction
	maxRounds  = 10      // times loading starts again before the start fails
)

// A loading holds what is published before the world is loaded.
type loading struct {
	mu      sync.Mutex
	done    bool
	spilled bool
	backlog []bridges.Batch
}

// Publish implements bridges.Live.
func (srv *Server) Publish(b bridges.Batch) {
	srv.loading.mu.Lock()
	if !srv.loading.done {
		if len(srv.loading.backlog) < maxBacklog {
			srv.loading.backlog = append(srv.loading.backlog, b)
		} else {
			srv.loading.backlog, srv.loading.spilled = nil, true
		}
		srv.loading.mu.Unlock()
		return
	}
	srv.loading.mu.Unlock()
	srv.apply(b)
}

func (srv *Server) apply(b bridges.Batch) {
	w := srv.world
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, r := range b.Rooms {
		if w.rooms[r.ID] == nil && w.addRoom(r) != nil { // else it was loaded with whoever is in it now
			srv.populate(w.rooms[r.ID], b.Members[i])
		}
	}
	for i := 0; i < len(b.Events); {
		e := &b.Events[i]
		ch := w.rooms[e.Room]
		if ch == nil || e.Seq <= ch.seq {
			i++
			continue
		}
		if e.Control != nil && e.Control.Op != core.OpDelete {
			ch.seq = e.Seq
			srv.applyControl(ch, e)
			i++
			continue
		}
		n := runLength(b.Events[i:])
		ch.seq = b.Events[i+n-1].Seq
		srv.fanMessages(ch, b.Events[i:i+n])
		i += n
	}
	for i := range b.Items {
		srv.showItem(&b.Items[i])
	}
}

// maxRun bounds how many messages become one chunk.
const maxRun = 64

// runLength returns how many events at the start of es are messages of one
// sender in one room: they are encoded together.
func runLength(es []core.Event) int {
	n := 1
	for n < len(es) && n < maxRun && es[n].Room == es[0].Room && es[n].Sender == es[0].Sender &&
		(es[n].Control == nil || es[n].Control.Op == core.OpDelete) {
		n++
	}
	return n
}

// load reads rooms, members and bans, then catches up with what was published
// meanwhile.
func (srv *Server) load(ctx context.Context) error {
	for range maxRounds {
		for after, more := core.RoomID(""), true; more; {
			err := srv.gw.View(ctx, func(r core.Reader) (err error) {
				after, more, err = srv.loadPage(r, after)
				return err
			})
			if err != nil {
				return err
			}
		}
		if srv.catchUp() {
			return nil
		}
	}
	return core.Errorf(core.Unavailable, "too much is going on to load the rooms")
}

// catchUp applies the backlog; false if some of it was dropped.
func (srv *Server) catchUp() bool {
	for {
		srv.loading.mu.Lock()
		todo, spilled := srv.loading.backlog, srv.loading.spilled
		srv.loading.backlog, srv.loading.spilled = nil, false
		srv.loading.done = len(todo) == 0 && !spilled
		done := srv.loading.done
		srv.loading.mu.Unlock()
		switch {
		case spilled:
			return false
		case done:
			return true
		}
		for _, b := range todo {
			srv.apply(b)
		}
	}
}

func (srv *Server) loadPage(r core.Reader, after core.RoomID) (core.RoomID, bool, error) {
	rooms, err := r.Rooms(after, loadPage)
	if err != nil {
		return after, false, err
	}
	srv.world.mu.Lock()
	defer srv.world.mu.Unlock()
	for _, room := range rooms {
		after = room.ID
		if room.Kind == core.Group {
			continue
		}
		if err := srv.loadRoom(r, room); err != nil {
			return after, false, err
		}
	}
	return after, len(rooms) == loadPage, nil
}

func (srv *Server) loadRoom(r core.Reader, room core.Room) error {
	w := srv.world
	members, err := r.Members(room.ID)
	if err != nil {
		return err
	}
	ch := w.addRoom(room)
	for len(ch.members) > 0 { // read again after a spill
		w.leave(ch.members[0])
	}
	srv.populate(ch, members)
	if ch.bans, err = r.Bans(room.ID); err != nil {
		return err
	}
	ch.seq, _, err = r.Head(room.ID)
	return err
}

// populate puts the members of a room into ch. The world's lock is held.
func (srv *Server) populate(ch *channel, members []core.Member) {
	for i, m := range members {
		switch {
		case ch.room.Direct && i < 2:
			ch.pair[i] = m.User
		case !ch.room.Direct && m.Joined:
			in := srv.world.enter(ch, srv.memberUser(m), m.Role)
			in.since, in.via = m.Since, m.Via
		}
	}
}

// memberUser returns the user of a membership, made on first sight.
func (srv *Server) memberUser(m core.Member) *user {
	if m.Via != core.NetworkIRC {
		return srv.outsider(m.User, m.Profile)
	}
	if u := srv.world.users[m.User]; u != nil {
		return u
	}
	u := &user{uri: m.User, local: true, gone: true} // of an earlier process; reap ends it
	u.setProfile(m.Profile)
	srv.world.users[m.User] = u
	return u
}

// reap makes those leave whom an earlier process did not see off.
func (srv *Server) reap(ctx context.Context) error {
	for after := (core.Presence{}); ; {
		var page []core.Presence
		var es []core.Envelope
		err := srv.gw.View(ctx, func(r core.Reader) (err error) {
			page, err = r.JoinedVia(core.NetworkIRC, after, reapPage)
			return err
		})
		if err != nil || len(page) == 0 {
			return err
		}
		after = page[len(page)-1]
		srv.world.mu.RLock()
		for _, p := range page {
			if ch := srv.world.rooms[p.Room]; ch != nil && !ch.room.Direct {
				es = append(es, leaveEnvelope(p.Room, p.User, "", "Server restarted", true))
			}
		}
		srv.world.mu.RUnlock()
		if len(es) > 0 {
			if _, err := srv.gw.Submit(ctx, es...); err != nil {
				return err
			}
		}
	}
}

// leaveEnvelope makes u leave a room; quit: with all others that u was in by IRC.
func leaveEnvelope(room core.RoomID, u core.UserURI, name, why string, quit bool) core.Envelope {
	return core.Envelope{Room: room, Sender: u, Origin: core.Origin{Network: core.NetworkIRC},
		Body: core.Control{Op: core.OpLeave, Text: why, Quit: quit}.Body(name)}
}

// departures are users whose goodbye could not be stored yet.
type departures struct {
	mu   sync.Mutex
	todo map[*user]string
}

// depart ends what a user without sessions was in by IRC. If the store is away
// it is tried again: others see the user until then. Whoever is in a channel by
// another door stays there, and parts from the rest.
func (srv *Server) depart(u *user, why string) {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	w := srv.world
	w.mu.RLock()
	es := make([]core.Envelope, 0, len(u.in))
	stays := u.elsewhere()
	for _, m := range u.in {
		if m.via == core.NetworkIRC {
			es = append(es, leaveEnvelope(m.ch.room.ID, u.uri, u.profile.Name, cut(why, srv.cfg.KickLen), !stays))
		}
	}
	w.mu.RUnlock()
	if len(es) > 0 {
		if _, err := srv.gw.Submit(ctx, es...); err != nil {
			srv.parting.mu.Lock()
			if srv.parting.todo == nil {
				srv.parting.todo = map[*user]string{}
			}
			srv.parting.todo[u] = why
			srv.parting.mu.Unlock()
			return
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if u.elsewhere() {
		srv.stay(u)
	} else {
		w.forget(u)
	}
}

func (srv *Server) retryDepartures(context.Context) {
	srv.parting.mu.Lock()
	todo := srv.parting.todo
	srv.parting.todo = nil
	srv.parting.mu.Unlock()
	for u, why := range todo {
		srv.depart(u, why)
	}
}
