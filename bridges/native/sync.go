package native

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of reading.
const (
	defaultPage   = 200
	maxPage       = 1000
	maxSyncOctets = 4 << 20 // of the bodies of one answer, and one event more
	maxLetters    = 100     // of one answer
	maxWait       = 50 * time.Second
	maxPosition   = 1 << 20 // octets of a position, written
)

func pageSize(n uint64) int {
	if n == 0 {
		return defaultPage
	}
	return int(min(n, maxPage))
}

// A position is how far somebody has read: after which event in each room, and
// after which letter. It is the caller's to keep: the homeserver remembers none.
type position struct {
	rooms   map[core.RoomID]uint64
	letters uint64
}

// String writes p as a token: a version, the letters, and for each room, in the
// order of their URIs, how much of the URI is that of the one before, the rest of
// it, and the place.
func (p *position) String() string {
	b := binary.AppendUvarint([]byte{1}, p.letters)
	last := ""
	for _, room := range slices.Sorted(maps.Keys(p.rooms)) {
		same := 0
		for same < len(last) && same < len(room) && last[same] == room[same] {
			same++
		}
		b = binary.AppendUvarint(b, uint64(same))
		b = binary.AppendUvarint(b, uint64(len(room)-same))
		b = append(b, room[same:]...)
		b = binary.AppendUvarint(b, p.rooms[room])
		last = string(room)
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// parsePosition reads what String wrote; anything else is Invalid.
func parsePosition(s string) (position, error) {
	bad := core.Errorf(core.Invalid, "since is not a position that a sync gave")
	p := position{rooms: map[core.RoomID]uint64{}}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(s) > maxPosition || len(b) < 2 || b[0] != 1 {
		return p, bad
	}
	ok := true
	number := func() uint64 {
		n, w := binary.Uvarint(b)
		if w <= 0 {
			ok = false
			return 0
		}
		b = b[w:]
		return n
	}
	b = b[1:]
	p.letters = number()
	for last := ""; ok && len(b) > 0; {
		same, more := number(), number()
		if !ok || same > uint64(len(last)) || more > uint64(len(b)) || same+more > core.MaxURI || len(p.rooms) >= maxUserRooms {
			return p, bad
		}
		last = last[:same] + string(b[:more])
		b = b[more:]
		if _, err := core.ParseRoomID(last); err != nil {
			return p, bad
		}
		p.rooms[core.RoomID(last)] = number()
	}
	if !ok {
		return p, bad
	}
	return p, nil
}

// getSync answers GET /v1/sync.
func (a *api) getSync(c *call) (*wire.Sync, error) {
	wait, err1 := c.number("wait")
	limit, err2 := c.number("limit")
	if err1 != nil {
		return nil, err1
	}
	if err2 != nil {
		return nil, err2
	}
	return a.postSync(c, &wire.GetSync{Since: c.r.URL.Query().Get("since"), Wait: int64(min(wait, 1<<31)), Limit: int(min(limit, maxPage))})
}

// postSync answers POST /v1/sync.
func (a *api) postSync(c *call, in *wire.GetSync) (*wire.Sync, error) {
	rd, err := a.reader(c.ctx(), c.session, in)
	if err != nil {
		return nil, err
	}
	defer rd.close()
	wait := time.Duration(min(max(in.Wait, 0), maxWait.Milliseconds())) * time.Millisecond
	if wait > 0 { // the server's bounds are for requests that answer at once
		ctl := http.NewResponseController(c.w)
		ctl.SetReadDeadline(time.Time{})
		ctl.SetWriteDeadline(time.Now().Add(wait + writeTime))
	}
	over := time.NewTimer(wait)
	defer over.Stop()
	return rd.next(c.ctx(), over.C)
}

// A reader is somebody on the way through the logs of their rooms.
type reader struct {
	a     *api
	s     core.Session
	w     *waiter
	pos   position
	fresh bool // no position was given: what was before is not shown
	limit int
	todo  map[core.RoomID]bool // rooms with something unread
	news  news                 // what is marked and was not looked at yet

	counted bool // the rooms of this request; what comes by itself costs its reader nothing
}

// count charges the session for n rooms that are looked up.
func (rd *reader) count(n int) error { return rd.a.limits.rooms(&rd.s, n, rd.a.cfg.Now()) }

// reader begins to read where in says. Asking with a position acknowledges the
// letters that led to it.
func (a *api) reader(ctx context.Context, s core.Session, in *wire.GetSync) (*reader, error) {
	rd := &reader{a: a, s: s, fresh: in.Since == "", limit: pageSize(uint64(max(in.Limit, 0))), todo: map[core.RoomID]bool{},
		pos: position{rooms: map[core.RoomID]uint64{}}}
	var err error
	if !rd.fresh {
		if rd.pos, err = parsePosition(in.Since); err != nil {
			return nil, err
		}
	}
	if len(in.Rooms) > maxUserRooms {
		return nil, core.Errorf(core.TooLarge, "positions in more than %d rooms", maxUserRooms)
	}
	for room := range in.Rooms {
		if _, err := core.ParseRoomID(string(room)); err != nil {
			return nil, err
		}
	}
	maps.Copy(rd.pos.rooms, in.Rooms) // those that they are not in are dropped before they are read
	if err := rd.acknowledge(ctx, rd.pos.letters); err != nil {
		return nil, err
	}
	rd.w, err = a.hub.enter(s)
	return rd, err
}

func (rd *reader) close() { rd.a.hub.leave(rd.w) }

// acknowledge drops the letters up to one that has been read.
func (rd *reader) acknowledge(ctx context.Context, upTo uint64) error {
	if rd.s.Device == "" || upTo == 0 {
		return nil
	}
	old := false
	err := rd.a.gw().View(ctx, func(r core.Reader) error {
		first, err := core.LettersOf(r, rd.s.Device, 0, 1)
		old = len(first) > 0 && first[0].ID <= upTo
		return err
	})
	if err == nil && old {
		_, err = rd.a.gw().Do(ctx, core.DropLetters{Device: rd.s.Device, UpTo: upTo})
	}
	return err
}

// next returns what is new as soon as something is, or nothing when the wait is over.
func (rd *reader) next(ctx context.Context, wait <-chan time.Time) (*wire.Sync, error) {
	home := rd.a.running.Load().ctx
	for {
		out, err := rd.read(ctx)
		if err != nil || len(out.Events)+len(out.Letters)+len(out.Typing)+len(out.Joined)+len(out.Left) > 0 {
			return out, err
		}
		select {
		case <-rd.w.poke:
		case <-wait:
			return out, nil
		case <-rd.w.closed:
			return nil, errNoSession
		case <-home.Done():
			return nil, core.Errorf(core.Unavailable, "the homeserver is stopping")
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// read looks at everything that is marked, in one snapshot.
func (rd *reader) read(ctx context.Context) (*wire.Sync, error) {
	n := rd.a.hub.take(rd.w)
	rd.news.list, rd.news.letters = rd.news.list || n.list, rd.news.letters || n.letters
	maps.Copy(rd.todo, n.rooms)
	out := &wire.Sync{Typing: n.typing}
	if rd.quick(out) {
		return out, nil
	}
	err := rd.a.view(ctx, func(v *view) error {
		if rd.news.list {
			if err := rd.listRooms(v, out); err != nil {
				return err
			}
		}
		if err := rd.readRooms(v, out); err != nil {
			return err
		}
		return rd.readLetters(v, out)
	})
	if err != nil {
		return nil, err
	}
	if rd.news.list {
		watched := make(map[core.RoomID]bool, len(rd.pos.rooms))
		for room := range rd.pos.rooms {
			watched[room] = true
		}
		rd.a.hub.watch(rd.w, watched)
		rd.news.list = false
	}
	rd.fresh = false
	out.Next = rd.pos.String()
	return out, nil
}

// listRooms brings the position in step with the rooms that the user is in.
func (rd *reader) listRooms(v *view, out *wire.Sync) error {
	in := map[core.RoomID]bool{}
	count := rd.count
	if rd.counted {
		count = func(int) error { return nil }
	}
	rd.counted = true
	err := v.eachRoom(rd.s.User, count, func(id core.RoomID, p presence) error {
		in[id], rd.todo[id] = true, true
		rd.a.hub.found(id, rd.s.User)
		w, err := describe(v, id)
		if err != nil {
			return err
		}
		at, known := rd.pos.rooms[id]
		switch {
		case known:
			rd.pos.rooms[id] = min(at, w.Head) // a homeserver that lost its last minutes goes on from there
			return nil
		case rd.fresh:
			at = w.Head
		case p.since == 0:
			at = 0 // in it since it was made
		default:
			at = min(p.since-1, w.Head) // with the event that brought them in
		}
		rd.pos.rooms[id], w.Head, w.Joined = at, at, true
		out.Joined = append(out.Joined, w)
		return nil
	})
	if err != nil {
		return err
	}
	var strange []core.RoomID
	for _, id := range slices.Sorted(maps.Keys(rd.pos.rooms)) {
		if !in[id] {
			strange = append(strange, id)
		}
	}
	if err := rd.count(len(strange)); err != nil {
		return err
	}
	for _, id := range strange {
		_, err := v.Room(id)
		switch {
		case err != nil && core.CodeOf(err) != core.NotFound:
			return err
		case err == nil && !rd.a.hub.awaits(id, rd.s.User):
			rd.left(id, out)
		default: // it, or what let them in, is on its way here from where they joined
			delete(rd.pos.rooms, id)
			delete(rd.todo, id)
		}
	}
	return nil
}

func (rd *reader) left(id core.RoomID, out *wire.Sync) {
	delete(rd.pos.rooms, id)
	delete(rd.todo, id)
	out.Left = append(out.Left, id)
}

// readRooms reads the rooms that have something, each the same share, beginning
// with another one each time: one that never stops talking keeps no other away.
func (rd *reader) readRooms(v *view, out *wire.Sync) error {
	rooms := slices.Sorted(maps.Keys(rd.todo))
	if len(rooms) == 0 {
		return nil
	}
	var total uint64
	for _, at := range rd.pos.rooms {
		total += at
	}
	turn := int(total % uint64(len(rooms)))
	octets := 0
	for _, id := range slices.Concat(rooms[turn:], rooms[:turn]) {
		left := rd.limit - len(out.Events)
		if left <= 0 || octets > maxSyncOctets {
			out.More = true
			return nil
		}
		share := min(left, max(rd.limit/len(rooms), rd.limit/8, 1))
		more, err := rd.readRoom(v, id, share, &octets, out)
		if err != nil {
			return err
		}
		if out.More = out.More || more; !more {
			delete(rd.todo, id)
		}
	}
	return nil
}

// readRoom reads at most limit events of one room; more if there are others.
func (rd *reader) readRoom(v *view, id core.RoomID, limit int, octets *int, out *wire.Sync) (more bool, err error) {
	at, known := rd.pos.rooms[id]
	p, err := v.presence(id, rd.s.User)
	if err != nil || !known {
		return false, err
	}
	if !p.in {
		if !rd.a.hub.awaits(id, rd.s.User) {
			rd.left(id, out)
		}
		return false, nil
	}
	page, more, err := v.after(id, max(at, p.from), limit)
	if err != nil {
		return false, err
	}
	rd.give(id, page, out)
	*octets += page.octets
	return more, nil
}

func (rd *reader) give(id core.RoomID, p page, out *wire.Sync) {
	if n := len(p.events); n > 0 {
		out.Events = append(out.Events, p.events...)
		rd.pos.rooms[id] = p.events[n-1].Seq
	}
}

// quick is read without a snapshot, for those who wait at the end of a log: all
// that is marked has been read by another just now.
func (rd *reader) quick(out *wire.Sync) bool {
	if rd.news.list || rd.news.letters || len(rd.todo) == 0 || len(rd.todo) > 4 {
		return false
	}
	var pages [4]page
	rooms := slices.Sorted(maps.Keys(rd.todo))
	total := 0
	for i, id := range rooms {
		p, ok := rd.a.hub.recent.presence(id, rd.s.User)
		if !ok || !p.in {
			return false
		}
		if pages[i], ok = rd.a.hub.recent.page(id, max(rd.pos.rooms[id], p.from), rd.limit); !ok {
			return false
		}
		total += len(pages[i].events)
	}
	if total > rd.limit {
		return false
	}
	for i, id := range rooms {
		rd.give(id, pages[i], out)
	}
	clear(rd.todo)
	out.Next = rd.pos.String()
	return true
}

func (rd *reader) readLetters(v *view, out *wire.Sync) error {
	if !rd.news.letters || rd.s.Device == "" {
		return nil
	}
	letters, err := core.LettersOf(v, rd.s.Device, rd.pos.letters, maxLetters)
	if err != nil {
		return err
	}
	for i := range letters {
		w, err := wire.LetterOf(&letters[i])
		if err != nil {
			return err
		}
		out.Letters = append(out.Letters, w)
		rd.pos.letters = letters[i].ID
	}
	rd.news.letters = len(letters) > 0 // a page may be short because of its octets
	out.More = out.More || rd.news.letters
	return nil
}
