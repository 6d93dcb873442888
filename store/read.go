package store

import (
	"database/sql"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/isthmus-chat/isthmus/core"
)

// A reader answers from one snapshot: a View's, or the running transaction's.
type reader struct {
	db *DB
	s  *session
	tx *tx // nil in a View
}

var _ core.Reader = (*reader)(nil)

// key returns the numeric key of a room, false if there is no such room. A View
// may find the key of a room younger than its snapshot: no rows have it yet.
func (r *reader) key(room core.RoomID) (int64, bool, error) {
	if r.tx != nil {
		if k, ok := r.tx.created[room]; ok {
			return k, true, nil
		}
	}
	if k, ok := r.db.key(room); ok {
		return k, true, nil
	}
	var k int64
	err := r.s.row(`SELECT room FROM rooms WHERE uri = $1`, []any{string(room)}, &k)
	if core.CodeOf(err) == core.NotFound {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	r.db.learn(room, k) // committed: a room created here is in r.tx.created
	return k, true, nil
}

const roomColumns = `uri, kind, content_type, direct, name, topic, topic_by, topic_at, policy, created, founder`

func scanRoom(r scanner) (v core.Room, err error) {
	var policy []byte
	var topicAt, created int64
	err = r.Scan(&v.ID, &v.Kind, &v.ContentType, &v.Direct, &v.Name, &v.Topic, &v.TopicBy, &topicAt, &policy, &created, &v.Founder)
	if err == nil {
		err = cbor.Unmarshal(policy, &v.Policy)
	}
	v.TopicAt, v.Created = moment(topicAt), moment(created)
	return v, err
}

// one returns the first of a list of at most one, else NotFound.
func one[T any](vs []T, err error) (T, error) {
	if err != nil || len(vs) == 0 {
		var none T
		if err == nil {
			err = errNoRow
		}
		return none, err
	}
	return vs[0], nil
}

// rowLimit keeps a negative limit from meaning "no limit", as it does in SQLite.
func rowLimit(n int) int64 { return int64(max(n, 0)) }

func (r *reader) Room(id core.RoomID) (core.Room, error) {
	return one(list(r.s, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE uri = $1`, string(id)))
}

func (r *reader) Rooms(after core.RoomID, limit int) ([]core.Room, error) {
	return list(r.s, scanRoom, `SELECT `+roomColumns+` FROM rooms WHERE uri > $1 ORDER BY uri LIMIT $2`, string(after), rowLimit(limit))
}

func (r *reader) Members(room core.RoomID) ([]core.Member, error) {
	k, ok, err := r.key(room)
	if !ok {
		return nil, err
	}
	return list(r.s, scanMember, `SELECT member, via, role, joined, invited, profile, since FROM members WHERE room = $1 ORDER BY member`, k)
}

func scanMember(r scanner) (v core.Member, err error) {
	var profile []byte
	var since int64
	err = r.Scan(&v.User, &v.Via, &v.Role, &v.Joined, &v.Invited, &profile, &since)
	if err == nil {
		err = cbor.Unmarshal(profile, &v.Profile)
	}
	v.Since = uint64(since)
	return v, err
}

func (r *reader) Bans(room core.RoomID) ([]core.Ban, error) {
	k, ok, err := r.key(room)
	if !ok {
		return nil, err
	}
	return list(r.s, func(r scanner) (v core.Ban, err error) {
		var at int64
		err = r.Scan(&v.List, &v.Mask, &v.By, &at)
		v.At = moment(at)
		return v, err
	}, `SELECT list, mask, by, at FROM bans WHERE room = $1 ORDER BY list, mask`, k)
}

func (r *reader) RoomsOf(user core.UserURI, after core.RoomID, limit int) ([]core.RoomID, error) {
	return list(r.s, func(r scanner) (id core.RoomID, err error) { return id, r.Scan(&id) },
		`SELECT r.uri FROM members m JOIN rooms r ON r.room = m.room WHERE m.member = $1 AND r.uri > $2 ORDER BY r.uri LIMIT $3`,
		string(user), string(after), rowLimit(limit))
}

func (r *reader) JoinedVia(network core.Network, after core.Presence, limit int) ([]core.Presence, error) {
	return list(r.s, func(r scanner) (p core.Presence, err error) { return p, r.Scan(&p.Room, &p.User) },
		`SELECT r.uri, m.member FROM rooms r JOIN members m ON m.room = r.room
		WHERE m.via = $1 AND m.joined = 1 AND (r.uri, m.member) > ($2, $3) ORDER BY r.uri, m.member LIMIT $4`,
		string(network), string(after.Room), string(after.User), rowLimit(limit))
}

func (r *reader) Head(room core.RoomID) (uint64, time.Time, error) {
	k, ok, err := r.key(room)
	if !ok {
		return 0, time.Time{}, err
	}
	h, err := r.head(k)
	if h.seq == 0 || err != nil {
		return 0, time.Time{}, err
	}
	return h.seq, moment(h.accepted), nil
}

func (r *reader) head(k int64) (head, error) {
	if r.tx != nil { // the writer knows the heads of the rooms it wrote to
		if h, ok := r.tx.heads[k]; ok {
			return h, nil
		}
		if h, ok := r.db.heads[k]; ok {
			return h, nil
		}
	}
	var h head
	err := r.s.row(`SELECT seq, accepted FROM events WHERE room = $1 ORDER BY seq DESC LIMIT 1`, []any{k}, &h.seq, &h.accepted)
	if err != nil && core.CodeOf(err) != core.NotFound {
		return h, err
	}
	if r.tx != nil {
		r.tx.heads[k] = h
	}
	return h, nil
}

// signed clamps a Seq to what a column holds; logs end long before.
func signed(seq uint64) int64 { return int64(min(seq, math.MaxInt64)) }

func (r *reader) Event(room core.RoomID, seq uint64) (core.Event, error) {
	k, ok, err := r.key(room)
	if !ok {
		if err == nil {
			err = errNoRow
		}
		return core.Event{}, err
	}
	return one(r.s.events(r.db.homeserver, 1, `SELECT seq, accepted, record FROM events WHERE room = $1 AND seq = $2`, k, signed(seq)))
}

func (r *reader) Events(room core.RoomID, g core.Range) ([]core.Event, error) {
	k, ok, err := r.key(room)
	if !ok || g.Limit <= 0 {
		return nil, err
	}
	before := int64(math.MaxInt64)
	if g.Before != 0 {
		before = signed(g.Before)
	}
	if g.After >= math.MaxInt64 {
		return nil, nil
	}
	// The cast hides the limit from SQLite's planner, which would otherwise look at
	// its value and prepare the statement anew for every page: a tenth of its cost.
	const from = `SELECT seq, accepted, record FROM events WHERE room = $1 AND seq > $2 AND seq < $3 ORDER BY seq `
	if !g.Newest {
		return r.s.events(r.db.homeserver, g.Limit, from+`LIMIT CAST($4 AS BIGINT)`, k, int64(g.After), before, int64(g.Limit))
	}
	es, err := r.s.events(r.db.homeserver, g.Limit, from+`DESC LIMIT CAST($4 AS BIGINT)`, k, int64(g.After), before, int64(g.Limit))
	slices.Reverse(es)
	return es, err
}

// events reads rows of seq, accepted, record. Pages of history come this way.
func (s *session) events(homeserver string, limit int, q string, args ...any) ([]core.Event, error) {
	st, err := s.stmt(q)
	if err != nil {
		return nil, s.fail(err)
	}
	rows, err := st.QueryContext(s.ctx, args...)
	if err != nil {
		return nil, s.fail(err)
	}
	defer rows.Close()
	out := make([]core.Event, 0, min(limit, 512))
	var seq, accepted int64
	var record sql.RawBytes // the driver's: ReadRecord copies what it keeps
	for rows.Next() {
		if err := rows.Scan(&seq, &accepted, &record); err != nil {
			return nil, s.fail(err)
		}
		e, err := core.ReadRecord(record, uint64(seq), moment(accepted), homeserver)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	if err := rows.Err(); err != nil {
		return nil, s.fail(err)
	}
	return out, nil
}

// SeqAt searches by halves: the log is dense, and Append keeps the times in it
// from falling, so no index over times is needed.
func (r *reader) SeqAt(room core.RoomID, t time.Time) (uint64, error) {
	k, ok, err := r.key(room)
	if !ok {
		return 1, err
	}
	h, err := r.head(k)
	if err != nil {
		return 0, err
	}
	at := micros(t)
	n := sort.Search(int(h.seq), func(i int) bool {
		var accepted int64
		if err == nil {
			err = r.s.row(`SELECT accepted FROM events WHERE room = $1 AND seq = $2`, []any{k, int64(i) + 1}, &accepted)
		}
		return accepted >= at
	})
	return uint64(n) + 1, err
}

func (r *reader) ByOrigin(network core.Network, id string) (room core.RoomID, seq uint64, err error) {
	err = r.s.row(`SELECT r.uri, o.seq FROM origins o JOIN rooms r ON r.room = o.room WHERE o.network = $1 AND o.id = $2`,
		[]any{string(network), id}, &room, &seq)
	return room, seq, err
}

const linkQuery = `SELECT l.id, r.uri, l.network, l.place, l.owner, l.mode, l.created, l.paused, l.holder, l.until
	FROM links l JOIN rooms r ON r.room = l.room WHERE `

func scanLink(r scanner) (v core.Link, err error) {
	var created, until int64
	err = r.Scan(&v.ID, &v.Room, &v.Network, &v.Place, &v.Owner, &v.Mode, &created, &v.Paused, &v.Holder, &until)
	v.Created, v.Until = moment(created), moment(until)
	return v, err
}

func (r *reader) Link(id string) (core.Link, error) {
	return one(list(r.s, scanLink, linkQuery+`l.id = $1`, id))
}

func (r *reader) Links(after string, limit int) ([]core.Link, error) {
	return list(r.s, scanLink, linkQuery+`l.id > $1 ORDER BY l.id LIMIT $2`, after, rowLimit(limit))
}

func (r *reader) Cursor(link string, lane core.Lane) (core.Cursor, error) {
	c := core.Cursor{Link: link, Lane: lane}
	err := r.s.row(`SELECT seq, delivered, refused, expired, skipped FROM cursors WHERE link = $1 AND lane = $2`,
		[]any{link, int64(lane)}, &c.Seq, &c.Delivered, &c.Refused, &c.Expired, &c.Skipped)
	if core.CodeOf(err) == core.NotFound {
		err = nil
	}
	return c, err
}

func scanPlaced(r scanner) (v core.Placed, err error) {
	var event []byte
	err = r.Scan(&v.Link, &event, &v.Part, &v.Foreign)
	copy(v.Event[:], event)
	return v, err
}

func (r *reader) Placed(link string, event core.EventID) ([]core.Placed, error) {
	return list(r.s, scanPlaced, `SELECT link, event, part, foreign_id FROM placed WHERE link = $1 AND event = $2 ORDER BY part`, link, event[:])
}

func (r *reader) PlacedAs(link, foreign string) (core.Placed, error) {
	return one(list(r.s, scanPlaced, `SELECT link, event, part, foreign_id FROM placed WHERE link = $1 AND foreign_id = $2`, link, foreign))
}

func (r *reader) Items(to core.UserURI, after uint64, limit int) ([]core.Item, error) {
	return list(r.s, func(r scanner) (v core.Item, err error) {
		var at int64
		err = r.Scan(&v.ID, &v.To, &v.From, &v.Room, &v.Kind, &v.Text, &at)
		v.At = moment(at)
		return v, err
	}, `SELECT id, recipient, sender, room, kind, body, at FROM items WHERE recipient = $1 AND id > $2 ORDER BY id LIMIT $3`,
		string(to), signed(after), rowLimit(limit))
}

const accountColumns = `fold, name, member, created, argon2id, scram, certs, tokens, disabled`

func scanAccount(r scanner) (v core.Account, err error) {
	var created int64
	var certs, tokens string
	err = r.Scan(&v.Fold, &v.Name, &v.User, &created, &v.Argon2id, &v.SCRAM, &certs, &tokens, &v.Disabled)
	v.Created = moment(created)
	if certs != "" {
		v.Certs = strings.Split(certs, " ")
	}
	if tokens != "" {
		v.Tokens = strings.Split(tokens, " ")
	}
	return v, err
}

func (r *reader) Account(fold string) (core.Account, error) {
	return one(list(r.s, scanAccount, `SELECT `+accountColumns+` FROM accounts WHERE fold = $1`, fold))
}

func (r *reader) Accounts(after string, limit int) ([]core.Account, error) {
	return list(r.s, scanAccount, `SELECT `+accountColumns+` FROM accounts WHERE fold > $1 ORDER BY fold LIMIT $2`, after, rowLimit(limit))
}

func (r *reader) Value(bucket, key string) ([]byte, error) {
	v, err := one(list(r.s, scanValue, `SELECT name, data FROM kv WHERE bucket = $1 AND name = $2`, bucket, key))
	return v.Data, err
}

func (r *reader) Values(bucket, after string, limit int) ([]core.Value, error) {
	return list(r.s, scanValue, `SELECT name, data FROM kv WHERE bucket = $1 AND name > $2 ORDER BY name LIMIT $3`, bucket, after, rowLimit(limit))
}

func scanValue(r scanner) (v core.Value, err error) {
	err = r.Scan(&v.Key, &v.Data)
	if v.Data == nil { // SQLite's driver says nil for no octets
		v.Data = []byte{}
	}
	return v, err
}
