package matrix

import (
	"sync"

	"github.com/isthmus-chat/isthmus/core"
)

// A generations map keeps at least its size's half of the newest entries, at
// most its size, and forgets the older ones all at once: no list, no clock.
type generations[K comparable, V any] struct {
	size     int
	new, old map[K]V
}

func newGenerations[K comparable, V any](size int) *generations[K, V] {
	return &generations[K, V]{size: size, new: map[K]V{}}
}

func (g *generations[K, V]) get(k K) (V, bool) {
	v, ok := g.new[k]
	if !ok {
		if v, ok = g.old[k]; ok {
			g.put(k, v)
		}
	}
	return v, ok
}

func (g *generations[K, V]) put(k K, v V) {
	if len(g.new) >= g.size/2 {
		g.old, g.new = g.new, map[K]V{}
	}
	g.new[k] = v
}

func (g *generations[K, V]) drop(k K) {
	delete(g.new, k)
	delete(g.old, k)
}

// known keeps which Matrix users are joined to which rooms of ours, and what
// they are called there. What it has forgotten is asked again.
type known struct {
	mu sync.Mutex
	m  *generations[memberKey, string]
}

type memberKey struct {
	room core.RoomID
	user core.UserURI
}

func (k *known) get(room core.RoomID, user core.UserURI) (string, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.m.get(memberKey{room, user})
}

func (k *known) put(room core.RoomID, user core.UserURI, name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m.put(memberKey{room, user}, name)
}

func (k *known) drop(room core.RoomID, user core.UserURI) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m.drop(memberKey{room, user})
}

// recent keeps where the latest events went, from the answer of the homeserver
// or from the echo of the event, whichever came first: the runtime stores it a
// moment later, and an answer to the event can arrive before that.
type recent struct {
	mu        sync.Mutex
	byEvent   *generations[placeKey, string]
	byForeign *generations[foreignKey, core.EventID]
}

type placeKey struct {
	link  string
	event core.EventID
	part  int
}

type foreignKey struct{ link, id string }

func newRecent() *recent {
	return &recent{byEvent: newGenerations[placeKey, string](maxRecent), byForeign: newGenerations[foreignKey, core.EventID](maxRecent)}
}

func (r *recent) put(link string, ev core.EventID, part int, foreign string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.byEvent.put(placeKey{link, ev, part}, foreign)
	r.byForeign.put(foreignKey{link, foreign}, ev)
}

func (r *recent) foreign(link string, ev core.EventID, part int) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byEvent.get(placeKey{link, ev, part})
}

func (r *recent) event(link, foreign string) (core.EventID, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byForeign.get(foreignKey{link, foreign})
}
