package store

import (
	"strings"

	"github.com/fxamacker/cbor/v2"
	"github.com/isthmus-chat/isthmus/core"
)

// A tx is the one running Update.
type tx struct {
	reader
	created map[core.RoomID]int64 // rooms made here, unknown to others until the commit
	heads   map[int64]head        // of rooms looked at or written to here
	buf     []byte                // for records
	proof   proof                 // the event appended last
}

// A proof is a row that is in the database if and only if its transaction
// committed.
type proof struct {
	room   int64
	seq    uint64
	record []byte // tx.buf
}

var _ core.Tx = (*tx)(nil)

// known returns the numeric key of a room that must exist.
func (t *tx) known(room core.RoomID) (int64, error) {
	k, ok, err := t.key(room)
	if err == nil && !ok {
		err = core.Errorf(core.NotFound, "no such room")
	}
	return k, err
}

func (t *tx) put(q string, args ...any) error { _, err := t.s.exec(q, args...); return err }

func (t *tx) PutRoom(r core.Room) error {
	if err := storable([]any{r.Policy.Key}); err != nil {
		return err
	}
	policy, err := cbor.Marshal(r.Policy)
	if err != nil {
		return core.Errorf(core.Invalid, "room policy: %w", err)
	}
	k, ok, err := t.key(r.ID)
	if err != nil {
		return err
	}
	if !ok { // the only writer, so nobody takes the number meanwhile
		if err := t.s.row(`SELECT COALESCE(MAX(room), 0) + 1 FROM rooms`, nil, &k); err != nil {
			return err
		}
	}
	err = t.put(`INSERT INTO rooms (room, `+roomColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
		ON CONFLICT (room) DO UPDATE SET kind = excluded.kind, content_type = excluded.content_type, direct = excluded.direct,
		name = excluded.name, topic = excluded.topic, topic_by = excluded.topic_by, topic_at = excluded.topic_at,
		policy = excluded.policy, created = excluded.created, founder = excluded.founder`,
		k, string(r.ID), int64(r.Kind), r.ContentType, flag(r.Direct), r.Name, r.Topic, r.TopicBy, micros(r.TopicAt),
		policy, micros(r.Created), string(r.Founder))
	if err == nil && !ok {
		if t.created == nil {
			t.created = map[core.RoomID]int64{}
		}
		t.created[r.ID] = k
	}
	return err
}

func (t *tx) PutMember(room core.RoomID, m core.Member) error {
	p := m.Profile // CBOR writes broken UTF-8, but does not read it
	if err := storable([]any{p.Name, p.Ident, p.Host, p.Account, p.Real, p.Avatar}); err != nil {
		return err
	}
	profile, err := cbor.Marshal(p)
	if err != nil {
		return core.Errorf(core.Invalid, "profile: %w", err)
	}
	k, err := t.known(room)
	if err != nil {
		return err
	}
	return t.put(`INSERT INTO members (room, member, via, role, joined, invited, profile, since) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
		ON CONFLICT (room, member) DO UPDATE SET via = excluded.via, role = excluded.role, joined = excluded.joined,
		invited = excluded.invited, profile = excluded.profile, since = excluded.since`,
		k, string(m.User), string(m.Via), int64(m.Role), flag(m.Joined), flag(m.Invited), profile, signed(m.Since))
}

func (t *tx) DropMember(room core.RoomID, user core.UserURI) error {
	k, ok, err := t.key(room)
	if !ok {
		return err
	}
	return t.put(`DELETE FROM members WHERE room = $1 AND member = $2`, k, string(user))
}

func (t *tx) PutBan(room core.RoomID, b core.Ban) error {
	k, err := t.known(room)
	if err != nil {
		return err
	}
	return t.put(`INSERT INTO bans (room, list, mask, by, at) VALUES ($1, $2, $3, $4, $5)
		ON CONFLICT (room, list, mask) DO UPDATE SET by = excluded.by, at = excluded.at`,
		k, int64(b.List), b.Mask, b.By, micros(b.At))
}

func (t *tx) DropBan(room core.RoomID, list byte, mask string) error {
	k, ok, err := t.key(room)
	if !ok {
		return err
	}
	return t.put(`DELETE FROM bans WHERE room = $1 AND list = $2 AND mask = $3`, k, int64(list), mask)
}

// Append is the path of every message: one statement for what is born here, two
// for what has a foreign origin. The head comes from memory.
func (t *tx) Append(e core.Event) error {
	k, err := t.known(e.Room)
	if err != nil {
		return err
	}
	h, err := t.head(k)
	if err != nil {
		return err
	}
	if e.Seq != h.seq+1 {
		return core.Errorf(core.Internal, "event %d appended to a log that ends at %d", e.Seq, h.seq)
	}
	if e.Origin.ID != "" {
		n, err := t.s.exec(`INSERT INTO origins (network, id, room, seq) VALUES ($1, $2, $3, $4) ON CONFLICT (network, id) DO NOTHING`,
			string(e.Origin.Network), e.Origin.ID, k, int64(e.Seq))
		if err != nil {
			return err
		}
		if n == 0 {
			return core.Errorf(core.Conflict, "an event with this origin is in the log already")
		}
	}
	// A clock that was set back must not make times fall: SeqAt halves over them.
	accepted := max(micros(e.Accepted), h.accepted)
	if h.seq == 0 {
		accepted = micros(e.Accepted)
	}
	t.buf = core.AppendRecord(t.buf[:0], &e)
	if err := t.put(`INSERT INTO events (room, seq, accepted, record) VALUES ($1, $2, $3, $4)`, k, int64(e.Seq), accepted, t.buf); err != nil {
		return err
	}
	t.heads[k] = head{e.Seq, accepted}
	t.proof = proof{k, e.Seq, t.buf}
	return nil
}

func (t *tx) Replace(e core.Event) error {
	k, err := t.known(e.Room)
	if err != nil {
		return err
	}
	record := core.AppendRecord(nil, &e)
	if t.proof.room == k && t.proof.seq == e.Seq {
		t.proof.record = record
	}
	n, err := t.s.exec(`UPDATE events SET record = $3 WHERE room = $1 AND seq = $2`, k, signed(e.Seq), record)
	if err == nil && n == 0 {
		err = errNoRow
	}
	return err
}

func (t *tx) PutLink(l core.Link) error {
	k, err := t.known(l.Room)
	if err != nil {
		return err
	}
	return t.put(`INSERT INTO links (id, room, network, place, owner, mode, created, paused, holder, until)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (id) DO UPDATE SET room = excluded.room, network = excluded.network, place = excluded.place, owner = excluded.owner,
		mode = excluded.mode, created = excluded.created, paused = excluded.paused, holder = excluded.holder, until = excluded.until`,
		l.ID, k, string(l.Network), l.Place, l.Owner, int64(l.Mode), micros(l.Created), l.Paused, l.Holder, micros(l.Until))
}

func (t *tx) DropLink(id string) error { return t.put(`DELETE FROM links WHERE id = $1`, id) }

// linked refuses what would hang in the air: a cursor left by a worker that
// settles after its link is gone would make a later link of that ID skip events.
func (t *tx) linked(id string) error {
	var one int64
	return t.s.row(`SELECT 1 FROM links WHERE id = $1`, []any{id}, &one)
}

func (t *tx) PutCursor(c core.Cursor) error {
	if err := t.linked(c.Link); err != nil {
		return err
	}
	return t.put(`INSERT INTO cursors (link, lane, seq, delivered, refused, expired, skipped) VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (link, lane) DO UPDATE SET seq = excluded.seq, delivered = excluded.delivered, refused = excluded.refused,
		expired = excluded.expired, skipped = excluded.skipped`,
		c.Link, int64(c.Lane), signed(c.Seq), signed(c.Delivered), signed(c.Refused), signed(c.Expired), signed(c.Skipped))
}

// PutPlaced takes a foreign ID away from whatever had it: the newest report of
// the far side is the one that is true.
func (t *tx) PutPlaced(p core.Placed) error {
	if err := t.linked(p.Link); err != nil {
		return err
	}
	if err := t.put(`DELETE FROM placed WHERE link = $1 AND foreign_id = $2`, p.Link, p.Foreign); err != nil {
		return err
	}
	return t.put(`INSERT INTO placed (link, event, part, foreign_id) VALUES ($1, $2, $3, $4)
		ON CONFLICT (link, event, part) DO UPDATE SET foreign_id = excluded.foreign_id`,
		p.Link, p.Event[:], int64(p.Part), p.Foreign)
}

// PutItem numbers from a counter, not from the rows: a number is never given
// twice, even when the newest item was taken.
func (t *tx) PutItem(i core.Item) (core.Item, error) {
	if err := storable([]any{string(i.To), string(i.From), string(i.Room), i.Kind, i.Text}); err != nil {
		return i, err // before the counter moves
	}
	if err := t.s.row(`UPDATE counters SET value = value + 1 WHERE name = 'item' RETURNING value`, nil, &i.ID); err != nil {
		return i, err
	}
	return i, t.put(`INSERT INTO items (id, recipient, sender, room, kind, body, at) VALUES ($1, $2, $3, $4, $5, $6, $7)`,
		signed(i.ID), string(i.To), string(i.From), string(i.Room), i.Kind, i.Text, micros(i.At))
}

func (t *tx) DropItems(to core.UserURI, upTo uint64) error {
	return t.put(`DELETE FROM items WHERE recipient = $1 AND id <= $2`, string(to), signed(upTo))
}

func (t *tx) PutAccount(a core.Account) error {
	return t.put(`INSERT INTO accounts (`+accountColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
		ON CONFLICT (fold) DO UPDATE SET name = excluded.name, member = excluded.member, created = excluded.created,
		argon2id = excluded.argon2id, scram = excluded.scram, certs = excluded.certs, tokens = excluded.tokens, disabled = excluded.disabled`,
		a.Fold, a.Name, string(a.User), micros(a.Created), a.Argon2id, a.SCRAM,
		strings.Join(a.Certs, " "), strings.Join(a.Tokens, " "), flag(a.Disabled))
}

func (t *tx) PutValue(bucket, key string, data []byte) error {
	if data == nil {
		data = []byte{}
	}
	return t.put(`INSERT INTO kv (bucket, name, data) VALUES ($1, $2, $3) ON CONFLICT (bucket, name) DO UPDATE SET data = excluded.data`, bucket, key, data)
}

func (t *tx) DropValue(bucket, key string) error {
	return t.put(`DELETE FROM kv WHERE bucket = $1 AND name = $2`, bucket, key)
}
