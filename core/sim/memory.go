package sim

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A fault is what happens to one commit.
type fault uint8

const (
	sound       fault = iota
	failBefore        // an error, and nothing is kept
	failAfter         // an error, and everything is kept
	crashBefore       // the process ends, and nothing is kept
	crashAfter        // the process ends, and everything is kept
)

// A memory is a core.Store for rooms that are Groups: what the engine asks of one,
// with the same order of lists and the same rounding of times as package store. It
// knows no links, bans and items, which Groups do not have.
type memory struct {
	homeserver string
	rooms      table[core.RoomID, core.Room]
	members    map[core.RoomID]*table[core.UserURI, core.Member]
	userRooms  map[core.UserURI]*table[core.RoomID, struct{}]
	logs       map[core.RoomID][]record
	origins    map[string]place
	accounts   table[string, core.Account]
	values     map[string]*table[string, []byte]

	undo  []func()
	fault func() fault // asked at each commit
	last  fault        // what happened to the last commit
}

type record struct {
	accepted time.Time
	data     []byte
}

type place struct {
	room core.RoomID
	seq  uint64
}

func newMemory(homeserver string) *memory {
	return &memory{homeserver: homeserver, members: map[core.RoomID]*table[core.UserURI, core.Member]{},
		userRooms: map[core.UserURI]*table[core.RoomID, struct{}]{}, logs: map[core.RoomID][]record{},
		origins: map[string]place{}, values: map[string]*table[string, []byte]{}}
}

// A table is a map in the order of its keys.
type table[K cmp.Ordered, V any] struct {
	keys []K
	rows map[K]V
}

func (t *table[K, V]) get(k K) (v V, ok bool) {
	if t != nil {
		v, ok = t.rows[k]
	}
	return v, ok
}

// put returns what takes it back.
func (t *table[K, V]) put(k K, v V) func() {
	if t.rows == nil {
		t.rows = map[K]V{}
	}
	old, had := t.rows[k]
	if !had {
		i, _ := slices.BinarySearch(t.keys, k)
		t.keys = slices.Insert(t.keys, i, k)
	}
	t.rows[k] = v
	return func() {
		if had {
			t.rows[k] = old
		} else {
			t.drop(k)
		}
	}
}

func (t *table[K, V]) drop(k K) func() {
	old, had := t.rows[k]
	if !had {
		return func() {}
	}
	i, _ := slices.BinarySearch(t.keys, k)
	t.keys = slices.Delete(t.keys, i, i+1)
	delete(t.rows, k)
	return func() { t.put(k, old) }
}

// after lists at most limit keys after k.
func (t *table[K, V]) after(k K, limit int) []K {
	if t == nil {
		return nil
	}
	i, found := slices.BinarySearch(t.keys, k)
	if found {
		i++
	}
	return slices.Clone(t.keys[i:min(len(t.keys), i+max(limit, 0))])
}

// under returns the table of k, made if it is not there.
func under[M ~map[K]*table[R, V], K comparable, R cmp.Ordered, V any](m M, k K) *table[R, V] {
	if m[k] == nil {
		m[k] = &table[R, V]{}
	}
	return m[k]
}

var errDisk = core.Errorf(core.Unavailable, "the disk fails")

// Update implements core.Store.
func (m *memory) Update(_ context.Context, f func(core.Tx) error) error {
	m.undo = m.undo[:0]
	m.last = sound
	err := f(&transaction{snapshot{m}})
	if err == nil && m.fault != nil {
		switch m.last = m.fault(); m.last {
		case failBefore, crashBefore:
			err = errDisk
		}
	}
	if err != nil {
		for _, back := range slices.Backward(m.undo) {
			back()
		}
		return err
	}
	if m.last == failAfter || m.last == crashAfter {
		return core.Refuse(core.Unavailable, core.OutcomeUnknown, "the disk answers too late")
	}
	return nil
}

// View implements core.Store.
func (m *memory) View(_ context.Context, f func(core.Reader) error) error { return f(snapshot{m}) }

// A snapshot reads; one thing happens at a time, so it never changes meanwhile.
type snapshot struct{ m *memory }

var errNone = core.Errorf(core.NotFound, "not stored")

func found[V any](v V, ok bool) (V, error) {
	if !ok {
		return v, errNone
	}
	return v, nil
}

func (s snapshot) Room(id core.RoomID) (core.Room, error) { return found(s.m.rooms.get(id)) }

func (s snapshot) Rooms(after core.RoomID, limit int) (out []core.Room, err error) {
	for _, k := range s.m.rooms.after(after, limit) {
		out = append(out, s.m.rooms.rows[k])
	}
	return out, nil
}

func (s snapshot) Members(room core.RoomID) (out []core.Member, err error) {
	if t := s.m.members[room]; t != nil {
		for _, k := range t.keys {
			out = append(out, t.rows[k])
		}
	}
	return out, nil
}

func (s snapshot) Bans(core.RoomID) ([]core.Ban, error) { return nil, nil }

func (s snapshot) RoomsOf(user core.UserURI, after core.RoomID, limit int) ([]core.RoomID, error) {
	return s.m.userRooms[user].after(after, limit), nil
}

func (s snapshot) JoinedVia(core.Network, core.Presence, int) ([]core.Presence, error) {
	return nil, nil
}

func (s snapshot) Head(room core.RoomID) (uint64, time.Time, error) {
	l := s.m.logs[room]
	if len(l) == 0 {
		return 0, time.Time{}, nil
	}
	return uint64(len(l)), l[len(l)-1].accepted, nil
}

func (s snapshot) Event(room core.RoomID, seq uint64) (core.Event, error) {
	l := s.m.logs[room]
	if seq == 0 || seq > uint64(len(l)) {
		return core.Event{}, errNone
	}
	return s.read(room, seq)
}

func (s snapshot) read(room core.RoomID, seq uint64) (core.Event, error) {
	r := s.m.logs[room][seq-1]
	ev, err := core.ReadRecord(bytes.Clone(r.data), seq, r.accepted, s.m.homeserver)
	ev.Room = room
	return ev, err
}

func (s snapshot) Events(room core.RoomID, r core.Range) (out []core.Event, err error) {
	low, high := r.After+1, uint64(len(s.m.logs[room]))
	if r.Before > 0 {
		high = min(high, r.Before-1)
	}
	if low > high || r.Limit <= 0 {
		return nil, nil
	}
	if n := uint64(r.Limit); high-low+1 > n {
		if r.Newest {
			low = high - n + 1
		} else {
			high = low + n - 1
		}
	}
	for seq := low; seq <= high; seq++ {
		ev, err := s.read(room, seq)
		if err != nil {
			return nil, err
		}
		out = append(out, ev)
	}
	return out, nil
}

func (s snapshot) SeqAt(room core.RoomID, t time.Time) (uint64, error) {
	for i, r := range s.m.logs[room] {
		if !r.accepted.Before(t) {
			return uint64(i) + 1, nil
		}
	}
	return uint64(len(s.m.logs[room])) + 1, nil
}

func (s snapshot) ByOrigin(network core.Network, id string) (core.RoomID, uint64, error) {
	p, ok := s.m.origins[string(network)+" "+id]
	if !ok {
		return "", 0, errNone
	}
	return p.room, p.seq, nil
}

func (s snapshot) Link(string) (core.Link, error)                     { return core.Link{}, errNone }
func (s snapshot) Links(string, int) ([]core.Link, error)             { return nil, nil }
func (s snapshot) Cursor(string, core.Lane) (core.Cursor, error)      { return core.Cursor{}, nil }
func (s snapshot) Placed(string, core.EventID) ([]core.Placed, error) { return nil, nil }
func (s snapshot) PlacedAs(string, string) (core.Placed, error)       { return core.Placed{}, errNone }

func (s snapshot) Items(core.UserURI, uint64, int) ([]core.Item, error) { return nil, nil }

func (s snapshot) Account(fold string) (core.Account, error) { return found(s.m.accounts.get(fold)) }

func (s snapshot) Accounts(after string, limit int) (out []core.Account, err error) {
	for _, k := range s.m.accounts.after(after, limit) {
		out = append(out, s.m.accounts.rows[k])
	}
	return out, nil
}

func (s snapshot) Value(bucket, key string) ([]byte, error) {
	v, ok := s.m.values[bucket].get(key)
	if !ok {
		return nil, errNone
	}
	return append([]byte{}, v...), nil
}

func (s snapshot) Values(bucket, after string, limit int) (out []core.Value, err error) {
	t := s.m.values[bucket]
	for _, k := range t.after(after, limit) {
		out = append(out, core.Value{Key: k, Data: append([]byte{}, t.rows[k]...)})
	}
	return out, nil
}

// A transaction writes, and remembers how to take it back.
type transaction struct{ snapshot }

func (t *transaction) done(back func()) error {
	t.m.undo = append(t.m.undo, back)
	return nil
}

func micro(at time.Time) time.Time {
	if at.IsZero() {
		return at
	}
	return time.UnixMicro(at.UnixMicro()).UTC()
}

func (t *transaction) PutRoom(r core.Room) error {
	r.Created, r.TopicAt = micro(r.Created), micro(r.TopicAt)
	return t.done(t.m.rooms.put(r.ID, r))
}

func (t *transaction) PutMember(room core.RoomID, m core.Member) error {
	if err := t.done(under(t.m.members, room).put(m.User, m)); err != nil {
		return err
	}
	return t.done(under(t.m.userRooms, m.User).put(room, struct{}{}))
}

func (t *transaction) DropMember(room core.RoomID, user core.UserURI) error {
	if err := t.done(under(t.m.members, room).drop(user)); err != nil {
		return err
	}
	return t.done(under(t.m.userRooms, user).drop(room))
}

func (t *transaction) Append(e core.Event) error {
	l := t.m.logs[e.Room]
	if e.Seq != uint64(len(l))+1 {
		return core.Errorf(core.Internal, "event %d appended to a log that ends at %d", e.Seq, len(l))
	}
	if e.Origin.ID != "" {
		key := string(e.Origin.Network) + " " + e.Origin.ID
		if _, ok := t.m.origins[key]; ok {
			return core.Errorf(core.Conflict, "an event with this origin is in the log already")
		}
		t.m.origins[key] = place{e.Room, e.Seq}
		t.m.undo = append(t.m.undo, func() { delete(t.m.origins, key) })
	}
	at := micro(e.Accepted)
	if len(l) > 0 && at.Before(l[len(l)-1].accepted) {
		at = l[len(l)-1].accepted
	}
	t.m.logs[e.Room] = append(l, record{at, core.AppendRecord(nil, &e)})
	return t.done(func() { t.m.logs[e.Room] = t.m.logs[e.Room][:len(l)] })
}

func (t *transaction) PutAccount(a core.Account) error { return t.done(t.m.accounts.put(a.Fold, a)) }

func (t *transaction) PutValue(bucket, key string, data []byte) error {
	return t.done(under(t.m.values, bucket).put(key, append([]byte{}, data...)))
}

func (t *transaction) DropValue(bucket, key string) error {
	return t.done(under(t.m.values, bucket).drop(key))
}

// What Groups do not have is refused.
var errChannels = core.Errorf(core.Unsupported, "only rooms that are Groups are simulated")

func (t *transaction) PutBan(core.RoomID, core.Ban) error      { return errChannels }
func (t *transaction) DropBan(core.RoomID, byte, string) error { return errChannels }
func (t *transaction) Replace(core.Event) error                { return errChannels }
func (t *transaction) PutLink(core.Link) error                 { return errChannels }
func (t *transaction) DropLink(string) error                   { return errChannels }
func (t *transaction) PutCursor(core.Cursor) error             { return errChannels }
func (t *transaction) PutPlaced(core.Placed) error             { return errChannels }
func (t *transaction) PutItem(core.Item) (core.Item, error)    { return core.Item{}, errChannels }
func (t *transaction) DropItems(core.UserURI, uint64) error    { return nil }
