package native

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of those who wait, and of what is remembered for them.
const (
	maxPerUser = 64   // streams and polls of one user at a time
	maxTyping  = 64   // signals that wait for one stream; more of them say nothing new
	maxAwaited = 4096 // rooms that are on their way here; more are found when somebody asks again
	awaitTime  = 10 * time.Minute
)

// A hub wakes those who wait for news. It is told of every committed batch and
// only marks what to look at: the readers go to the log themselves, so a slow one
// costs nobody anything, and ten messages that come while one is being written
// are one reading.
type hub struct {
	max    int
	recent *recent

	mu      sync.Mutex
	waiting int
	users   map[core.UserURI]map[*waiter]bool
	devices map[core.DeviceURI]map[*waiter]bool
	rooms   map[core.RoomID]map[*waiter]bool
	awaited map[core.RoomID]*awaited // rooms that users of ours have joined elsewhere
}

// awaited is a room on its way here, and who waits for it.
type awaited struct {
	users []core.UserURI
	until time.Time
}

// A waiter is one stream, or one poll that waits. All but its channels is under
// the hub's lock.
type waiter struct {
	session core.Session
	poke    chan struct{} // has room for one: something is marked
	closed  chan struct{} // the session has ended

	news
	watched map[core.RoomID]bool
	over    bool // closed is closed
}

// news is what a reader has to look at.
type news struct {
	list    bool // of rooms may have changed
	letters bool
	rooms   map[core.RoomID]bool
	typing  []wire.Typing // the last of each user and room
}

func newHub(max int) *hub {
	return &hub{max: max, users: map[core.UserURI]map[*waiter]bool{}, devices: map[core.DeviceURI]map[*waiter]bool{},
		rooms: map[core.RoomID]map[*waiter]bool{}, awaited: map[core.RoomID]*awaited{}, recent: newRecent()}
}

// enter takes up a waiter, with everything marked as new.
func (h *hub) enter(s core.Session) (*waiter, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.waiting >= h.max || len(h.users[s.User]) >= maxPerUser {
		return nil, core.Errorf(core.Limited, "too many streams are open")
	}
	w := &waiter{session: s, poke: make(chan struct{}, 1), closed: make(chan struct{}),
		news: news{list: true, letters: true, rooms: map[core.RoomID]bool{}}}
	h.waiting++
	put(h.users, s.User, w)
	if s.Device != "" {
		put(h.devices, s.Device, w)
	}
	return w, nil
}

func (h *hub) leave(w *waiter) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.waiting--
	remove(h.users, w.session.User, w)
	remove(h.devices, w.session.Device, w)
	for room := range w.watched {
		remove(h.rooms, room, w)
	}
}

// open returns how many wait.
func (h *hub) open() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return float64(h.waiting)
}

// watch wakes w for these rooms from now on, and marks those that it did not
// watch before: something may have been said while they were being looked up.
func (h *hub) watch(w *waiter, rooms map[core.RoomID]bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for room := range w.watched {
		if !rooms[room] {
			remove(h.rooms, room, w)
		}
	}
	for room := range rooms {
		if !w.watched[room] {
			put(h.rooms, room, w)
			w.rooms[room] = true
			poke(w.poke)
		}
	}
	w.watched = rooms
}

// take returns what is marked, and unmarks it.
func (h *hub) take(w *waiter) news {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := w.news
	w.news = news{rooms: map[core.RoomID]bool{}}
	return n
}

func put[K comparable](m map[K]map[*waiter]bool, k K, w *waiter) {
	if m[k] == nil {
		m[k] = map[*waiter]bool{}
	}
	m[k][w] = true
}

func remove[K comparable](m map[K]map[*waiter]bool, k K, w *waiter) {
	if delete(m[k], w); len(m[k]) == 0 {
		delete(m, k)
	}
}

// changed forgets what a batch makes untrue. That is before anybody is answered, so
// that who asks again is not told what was remembered before.
func (h *hub) changed(b bridges.Batch) {
	for i := range b.Events {
		e := &b.Events[i]
		s, sealed := e.Body.(core.Sealed)
		h.recent.changed(e.Room, e.Control != nil || sealed && s.Handshake())
	}
	for i := range b.Rooms {
		h.recent.changed(b.Rooms[i].ID, true)
	}
}

// publish marks what a batch brings. It never waits for a reader.
func (h *hub) publish(b bridges.Batch) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range b.Events {
		e := &b.Events[i]
		if e.Control != nil {
			h.relist(e.Sender)
			h.relist(e.Control.User)
		}
		h.mark(e.Room)
		h.arrived(e.Room)
	}
	for _, c := range b.Certified {
		h.mark(c.Room)
	}
	for i := range b.Rooms {
		h.mark(b.Rooms[i].ID)
		h.arrived(b.Rooms[i].ID)
	}
	for i := range b.Letters {
		for w := range h.devices[b.Letters[i].Device] {
			w.letters, w.list = true, true // a Welcome comes with a room
			poke(w.poke)
		}
	}
}

func (h *hub) mark(room core.RoomID) {
	for w := range h.rooms[room] {
		w.rooms[room] = true
		poke(w.poke)
	}
}

// await says that a user has joined a room whose homeservers send it here by and
// by: first its state, then the commit that let them in.
func (h *hub) await(room core.RoomID, u core.UserURI, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.awaited) >= maxAwaited {
		maps.DeleteFunc(h.awaited, func(_ core.RoomID, w *awaited) bool { return now.After(w.until) })
	}
	w := h.awaited[room]
	if w == nil && len(h.awaited) < maxAwaited {
		w = new(awaited)
		h.awaited[room] = w
	}
	if w != nil && len(w.users) < maxPerUser && !slices.Contains(w.users, u) {
		w.users, w.until = append(w.users, u), now.Add(awaitTime)
	}
	h.relist(u) // it may be here already
}

// arrived lets those who wait for a room look again.
func (h *hub) arrived(room core.RoomID) {
	if w := h.awaited[room]; w != nil {
		for _, u := range w.users {
			h.relist(u)
		}
	}
}

// awaits reports whether a user waits for a room.
func (h *hub) awaits(room core.RoomID, u core.UserURI) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.awaited[room]
	return w != nil && slices.Contains(w.users, u)
}

// found ends a user's waiting for a room.
func (h *hub) found(room core.RoomID, u core.UserURI) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w := h.awaited[room]
	if w == nil {
		return
	}
	if w.users = slices.DeleteFunc(w.users, func(o core.UserURI) bool { return o == u }); len(w.users) == 0 {
		delete(h.awaited, room)
	}
}

func (h *hub) relist(u core.UserURI) {
	for w := range h.users[u] {
		w.list = true
		poke(w.poke)
	}
}

// joined says that a user may be in a room that no event has told of.
func (h *hub) joined(u core.UserURI) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.relist(u)
}

// signal shows who types to those in the room; never to the one who does.
func (h *hub) signal(s core.Signal) {
	if s.Typing == "" {
		return
	}
	t := wire.Typing{Room: s.Room, User: s.Sender, Typing: s.Typing == "active"}
	h.mu.Lock()
	defer h.mu.Unlock()
	for w := range h.rooms[s.Room] {
		if w.session.User == s.Sender {
			continue
		}
		w.typing = slices.DeleteFunc(w.typing, func(o wire.Typing) bool { return o.Room == t.Room && o.User == t.User })
		if len(w.typing) < maxTyping {
			w.typing = append(w.typing, t)
			poke(w.poke)
		}
	}
}

// closeSession ends the streams of a session.
func (h *hub) closeSession(hash [32]byte) {
	h.end(func(s core.Session) bool { return s.Hash == hash })
}

// closeDevice ends the streams of a device.
func (h *hub) closeDevice(d core.DeviceURI) {
	h.end(func(s core.Session) bool { return s.Device == d })
}

func (h *hub) end(whose func(core.Session) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ws := range h.users {
		for w := range ws {
			if whose(w.session) && !w.over {
				w.over = true
				close(w.closed)
			}
		}
	}
}
