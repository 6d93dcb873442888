package client

import (
	"cmp"
	"context"
	"crypto/sha256"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
)

// A homeserver that was away takes messages of epochs that others have left behind,
// and those pass them over (PROTOCOL §7). The device that said one seals it again, in
// the epoch of now and with the ID of the first, by which devices that have read the
// first know it.

// componentMessageID is the part of a message's authenticated data, framed as a
// SafeAAD (draft-ietf-mls-extensions-10 §4.9), that names the message: struct { uint8
// again; opaque id[16]; }.
const componentMessageID mls.ComponentID = 0xF002 // private use

// Bounds of saying again.
const (
	keySize      = 16
	maxTimes     = 8       // that a message is said again: who lies about what came too late has no more of it
	maxAgainSent = 256     // that wait in the outbox at once: what the user says now has room beside them
	maxHeard     = 1 << 16 // messages of a room that are known again: of older ones a repeat is shown
	maxHeardIn   = 16      // rooms whose messages are in memory for that
)

// said is what is kept, by its place, of a message of this device that was not the
// first of its kind, or was said again.
type said struct {
	_     struct{} `cbor:",toarray"`
	First uint64   // place of the line in the history
	Again bool     // it was said again for those who passed this one over
	Times int      // it was said before
}

// labelled is the authenticated data of a message.
func labelled(key []byte, again bool) []byte {
	if len(key) != keySize {
		return nil
	}
	item := make([]byte, 1, 1+keySize)
	if again {
		item[0] = 1
	}
	return mls.SafeAAD{}.With(componentMessageID, append(item, key...)).AppendTo(nil)
}

// label reads what labelled wrote; nil if there is no such thing: not every
// application names its messages.
func label(authenticatedData []byte) (key []byte, again bool) {
	if len(authenticatedData) == 0 {
		return nil, false
	}
	aad, err := mls.ParseSafeAAD(authenticatedData)
	if err != nil {
		return nil, false
	}
	item, ok := aad.Find(componentMessageID)
	if !ok || len(item) != 1+keySize || item[0] > 1 {
		return nil, false
	}
	return append([]byte(nil), item[1:]...), item[0] == 1
}

// A heardKey names a message: by whose device, and its ID; and by its ID alone.
type heardKey [16]byte

func heardAs(device core.DeviceURI, key []byte) heardKey {
	h := sha256.Sum256(append([]byte(device+"\x00"), key...))
	return heardKey(h[:16])
}

// recall has the room's last messages in memory, to know what is said again. It writes
// down what waits, and so comes before a message is opened.
func (c *Client) recall(ctx context.Context, r *room) error {
	if r.heard != nil && len(r.heard) <= 4*maxHeard {
		return nil
	}
	if c.recalled++; c.recalled > maxHeardIn {
		for _, o := range c.order {
			o.heard = nil
		}
		c.recalled = 1
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	heard := map[heardKey]bool{}
	from := uint64(0)
	for n := 0; n < maxHeard; {
		rows, err := c.cfg.Store.Rows(ctx, tableMessages+string(r.ID), from, pageRows)
		if err != nil {
			return err
		}
		for _, row := range rows {
			var m Message
			if err := decode(row.Data, &m); err != nil {
				return err
			}
			if len(m.Key) > 0 {
				heard[heardAs(m.Device, m.Key)], heard[heardAs("", m.Key)] = true, true
			}
			from = row.N + 1
		}
		if n += len(rows); len(rows) < pageRows {
			break
		}
	}
	r.heard = heard
	return nil
}

// repeats reports whether a message is one that was read before, and remembers it.
func (r *room) repeats(m *Message) bool {
	if r.heard == nil || len(m.Key) == 0 {
		return false
	}
	k := heardAs(m.Device, m.Key)
	if m.Late && r.heard[k] {
		return true
	}
	r.heard[k], r.heard[heardAs("", m.Key)] = true, true
	return false
}

// unheard deals with a letter of kind "again"; errHold keeps what cannot be said yet.
func (c *Client) unheard(ctx context.Context, l *heldLetter) error {
	r := c.rooms[l.Room]
	if r == nil {
		return nil
	}
	if len(l.Unheard) == 0 {
		c.tell(Update{Kind: Unheard, Room: r.ID, User: c.self.user, Text: "more of what was said than can be said again did not reach everybody"})
		return nil
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	list := l.Unheard[:min(len(l.Unheard), core.MaxPassed)]
	for i, u := range list {
		hold, err := c.sayAgain(ctx, r, u)
		if err == nil && !hold {
			continue
		}
		if c.age(l) > heldLetterFor {
			c.lament(r, nil, "and could not be said again for too long")
			return nil
		}
		if i > 0 { // the rest in its order
			l.Unheard = list[i:]
			c.putCBOR(tableHeld, l.ID, l)
		}
		return cmp.Or(err, errHold)
	}
	return nil
}

// sayAgain seals one message again, once, if it is this device's. hold: not yet.
func (c *Client) sayAgain(ctx context.Context, r *room, u core.Unheard) (hold bool, err error) {
	row, m, err := c.lineAt(ctx, r, u.Seq)
	if err != nil || row.Again {
		return false, err
	}
	gone := !r.Member && !r.Joined || r.Leaving || r.Gone
	switch {
	case !gone && (!r.Joined || r.Joining || r.Lost != "" || r.Halted != "" || u.Seq > r.Cursor):
		return true, nil // the room is entered anew, or its log not read so far
	case m == nil && len(c.waiting(r.ID)) > 0:
		return true, nil // an answer is on its way that says what it was
	case gone && m != nil && m.Own:
		c.lament(r, m, "and you are not in that room any more")
		return false, nil
	case gone:
		return false, nil
	}
	if err := c.open(ctx, r); err != nil {
		return false, err
	}
	switch {
	case m != nil && m.Own:
	case m != nil && !c.inRoom(r, m.Device):
		c.lament(r, m, "and the device that said it is not in that room any more")
		return false, nil
	case m != nil || c.siblings(r):
		return false, nil // the one that said it says it again
	default:
		c.lament(r, &Message{Seq: u.Seq}, "and this device does not have it any more")
		return false, nil
	}
	if tolerated := uint64(r.p.EpochTolerance()); r.g.Epoch() <= u.Epoch+tolerated || c.repeating() >= maxAgainSent {
		return true, nil
	}
	if row.Times >= maxTimes {
		c.lament(r, m, "although it was said again and again")
		return false, nil
	}
	return false, c.queueAgain(ctx, r, u, row, m)
}

// queueAgain seals a message anew: what goes out and that it did are one write.
func (c *Client) queueAgain(ctx context.Context, r *room, u core.Unheard, row said, m *Message) error {
	id, err := c.bytes(keySize)
	if err != nil {
		return err
	}
	o := &outgoing{Message: *m, Again: m.Seq, Times: row.Times + 1, n: c.next}
	o.ID, o.Waiting = core.Base32.EncodeToString(id), true
	if err := c.seal(ctx, r, o); err != nil {
		return err
	}
	c.next++
	c.outbox = append(c.outbox, o)
	c.putCBOR(tableOutbox, o.n, o)
	c.putCBOR(tableAgain+string(r.ID), u.Seq, said{First: m.Seq, Again: true, Times: row.Times})
	return nil
}

// settledAgain ends the way of a message that was said again: the line of the first
// stays the only one.
func (c *Client) settledAgain(o *outgoing, res *wire.SentResult) {
	if res != nil {
		c.putCBOR(tableAgain+string(o.Room), res.Seq, said{First: o.Again, Times: o.Times})
		return
	}
	if r := c.rooms[o.Room]; r != nil {
		c.lament(r, &o.Message, "and was refused when it was said again")
	}
}

// lineAt finds the line in the history of what this user said at a place; nil if there
// is none.
func (c *Client) lineAt(ctx context.Context, r *room, seq uint64) (row said, m *Message, err error) {
	b, err := c.cfg.Store.Get(ctx, tableAgain+string(r.ID), seq)
	if err == nil && b != nil {
		err = decode(b, &row)
	}
	if err != nil {
		return row, nil, err
	}
	if row.First == 0 {
		row.First = seq
	}
	if b, err = c.cfg.Store.Get(ctx, tableMessages+string(r.ID), ^row.First); err != nil || b == nil {
		return row, nil, err
	}
	m = new(Message)
	return row, m, decode(b, m)
}

// lament tells the user that a message did not reach everybody and will not.
func (c *Client) lament(r *room, m *Message, why string) {
	c.tell(Update{Kind: Unheard, Room: r.ID, User: c.self.user, Message: m, Text: "something you said did not reach everybody in that room, " + why})
}

// inRoom reports whether a device is in the group.
func (c *Client) inRoom(r *room, device core.DeviceURI) bool {
	for _, l := range r.g.Public().Tree().All() {
		if d, _ := leafOwner(l); d == device {
			return true
		}
	}
	return false
}

// siblings reports whether another device of the user is in the group.
func (c *Client) siblings(r *room) bool {
	for _, l := range r.g.Public().Tree().All() {
		if d, u := leafOwner(l); u == c.self.user && d != c.self.device {
			return true
		}
	}
	return false
}

// repeating counts what waits to be said again.
func (c *Client) repeating() (n int) {
	for _, o := range c.outbox {
		if o.Again > 0 {
			n++
		}
	}
	return n
}
