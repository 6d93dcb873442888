package native

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of what is remembered.
const (
	maxMembers = 200_000  // of the rooms whose members are remembered, all together
	maxPages   = 1024     // rooms whose newest events are remembered
	maxRecent  = 64       // events of such a room
	recentSize = 64 << 10 // and their octets
	maxChanges = 100_000  // rooms whose last change is known exactly
)

// recent remembers, between requests, what many ask for at once: who is in a
// room, and its newest events as devices are given them. A message in a room of
// a thousand streams is one reading, not a thousand. What was read in a snapshot
// is remembered only if the room has not changed since before that snapshot.
type recent struct {
	clock atomic.Uint64 // of batches

	mu      sync.Mutex
	members map[core.RoomID]map[core.UserURI]presence
	known   int // entries of members
	pages   map[core.RoomID]page
	joined  changes // of members
	said    changes // of anything
}

// A presence says whether somebody is in a room.
type presence struct {
	since uint64 // the event that brought them in
	from  uint64 // the place in the log after which they may read
	in    bool
}

// A page is all there is to give after a place in a room's log. Nobody changes it.
type page struct {
	after  uint64
	events []wire.Event
	octets int
}

// changes are the batches in which rooms changed last.
type changes struct {
	at    map[core.RoomID]uint64
	floor uint64 // of rooms that are not in at: they changed no later
}

func (c *changes) note(room core.RoomID, clock uint64) {
	if len(c.at) >= maxChanges {
		c.floor, c.at = clock, nil
	}
	if c.at == nil {
		c.at = map[core.RoomID]uint64{}
	}
	c.at[room] = clock
}

func (c *changes) after(room core.RoomID, clock uint64) bool {
	at, ok := c.at[room]
	if !ok {
		at = c.floor
	}
	return at > clock
}

func newRecent() *recent {
	return &recent{members: map[core.RoomID]map[core.UserURI]presence{}, pages: map[core.RoomID]page{}}
}

// changed forgets what is not so any more: the newest events of a room, and with
// members who is in it.
func (m *recent) changed(room core.RoomID, members bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.clock.Add(1)
	m.said.note(room, now)
	delete(m.pages, room)
	if members {
		m.joined.note(room, now)
		m.known -= len(m.members[room])
		delete(m.members, room)
	}
}

// presence returns what is known of u in a room.
func (m *recent) presence(room core.RoomID, u core.UserURI) (p presence, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	members, ok := m.members[room]
	return members[u], ok
}

// keepMembers remembers the members that a snapshot of clock has.
func (m *recent) keepMembers(room core.RoomID, members map[core.UserURI]presence, clock uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.joined.after(room, clock) || m.members[room] != nil || len(members) > maxMembers {
		return
	}
	for r, ms := range m.members { // any will do: it is read again when needed
		if m.known+len(members) <= maxMembers {
			break
		}
		m.known -= len(ms)
		delete(m.members, r)
	}
	m.known += len(members)
	m.members[room] = members
}

// page returns what comes after a place, if it is known and at most limit events.
func (m *recent) page(room core.RoomID, after uint64, limit int) (page, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p, ok := m.pages[room]
	return p, ok && p.after == after && len(p.events) <= limit
}

// keepPage remembers what a snapshot of clock has.
func (m *recent) keepPage(room core.RoomID, p page, clock uint64) {
	if len(p.events) == 0 || len(p.events) > maxRecent || p.octets > recentSize {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.said.after(room, clock) {
		return
	}
	for r := range m.pages {
		if len(m.pages) < maxPages {
			break
		}
		delete(m.pages, r)
	}
	m.pages[room] = p
}

// A view is one snapshot of the store, with what is remembered beside it.
type view struct {
	core.Reader
	recent *recent
	clock  uint64 // before the snapshot
}

// view runs f on one snapshot.
func (a *api) view(ctx context.Context, f func(*view) error) error {
	clock := a.hub.recent.clock.Load()
	return a.gw().View(ctx, func(r core.Reader) error { return f(&view{r, a.hub.recent, clock}) })
}

// presence finds out whether u is in a room.
func (v *view) presence(room core.RoomID, u core.UserURI) (presence, error) {
	if p, ok := v.recent.presence(room, u); ok {
		return p, nil
	}
	r, err := v.Room(room)
	if err != nil {
		return presence{}, err
	}
	members, err := v.Members(room)
	if err != nil {
		return presence{}, err
	}
	known := make(map[core.UserURI]presence, len(members))
	for _, m := range members {
		p := presence{since: m.Since, in: m.Joined}
		if r.Policy.SinceJoin && m.Since > 0 {
			p.from = m.Since - 1
		}
		known[m.User] = p
	}
	v.recent.keepMembers(room, known, v.clock)
	return known[u], nil
}

// after reads at most limit events after a place, as devices are given them; more
// if there are others that can be given now.
func (v *view) after(room core.RoomID, place uint64, limit int) (p page, more bool, err error) {
	if p, ok := v.recent.page(room, place, limit); ok {
		return p, false, nil
	}
	events, err := v.Events(room, core.Range{After: place, Limit: limit})
	if err != nil {
		return p, false, err
	}
	p.after = place
	for i := range events {
		w, held, err := given(v, &events[i])
		if err != nil {
			return p, false, err
		}
		if held {
			return p, false, nil // not remembered: a certificate is no change of the log
		}
		p.events = append(p.events, w)
		if p.octets += size(&w); p.octets > maxSyncOctets {
			return p, i+1 < len(events) || len(events) == limit, nil
		}
	}
	if more = len(events) == limit; !more {
		v.recent.keepPage(room, p, v.clock)
	}
	return p, more, nil
}

func size(e *wire.Event) int {
	return len(e.Sealed) + len(e.Content) + len(e.Text) + len(e.Certificate)
}
