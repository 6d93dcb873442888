package client

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// A Message is something said in a room, as this device has read it.
type Message struct {
	Room      core.RoomID    `cbor:"1,keyasint" json:"room"`
	Seq       uint64         `cbor:"2,keyasint" json:"seq,omitempty"` // place in the homeserver's log; 0 while Waiting
	ID        string         `cbor:"3,keyasint,omitempty" json:"id,omitempty"`
	Sender    core.UserURI   `cbor:"4,keyasint" json:"sender"` // of a Group: by its MLS credential
	Device    core.DeviceURI `cbor:"5,keyasint,omitempty" json:"device,omitempty"`
	Type      string         `cbor:"6,keyasint,omitempty" json:"content_type,omitempty"`
	Content   []byte         `cbor:"7,keyasint,omitempty" json:"content,omitempty"`
	Text      string         `cbor:"8,keyasint,omitempty" json:"text,omitempty"` // of a Channel, as its homeserver renders it
	Sent      int64          `cbor:"9,keyasint,omitempty" json:"sent_ms,omitempty"`
	Accepted  int64          `cbor:"10,keyasint,omitempty" json:"accepted_ms,omitempty"`
	Epoch     uint64         `cbor:"11,keyasint,omitempty" json:"epoch,omitempty"`
	Encrypted bool           `cbor:"12,keyasint,omitempty" json:"encrypted"`
	Own       bool           `cbor:"13,keyasint,omitempty" json:"own,omitempty"` // said by this device
	Deleted   bool           `cbor:"14,keyasint,omitempty" json:"deleted,omitempty"`
	Waiting   bool           `cbor:"15,keyasint,omitempty" json:"waiting,omitempty"` // not accepted yet
	Failed    string         `cbor:"16,keyasint,omitempty" json:"failed,omitempty"`  // why it cannot be read
	Key       []byte         `cbor:"17,keyasint,omitempty" json:"-"`                 // chosen by the device that said it: the same when it is said again
	Late      bool           `cbor:"18,keyasint,omitempty" json:"late,omitempty"`    // said again, because a homeserver was away: what was said later may come first
	Name      string         `cbor:"19,keyasint,omitempty" json:"name,omitempty"`    // of a Channel: what a bridge calls the sender, see core.UserURI.Relayed
}

// outgoing is a message on its way: the same ciphertext is offered until it is
// accepted, so that none is said twice.
type outgoing struct {
	Message
	Sealed []byte `cbor:"20,keyasint,omitempty"`
	Again  uint64 `cbor:"21,keyasint,omitempty"` // place of the first, of a message that is said again
	Times  int    `cbor:"22,keyasint,omitempty"` // it was said before
	n      uint64
}

func (c *Client) loadOutbox(ctx context.Context) error {
	return c.each(ctx, tableOutbox, func(row Row) error {
		o := &outgoing{n: row.N}
		if err := decode(row.Data, o); err != nil {
			return err
		}
		c.outbox = append(c.outbox, o)
		c.next = max(c.next, row.N+1)
		return nil
	})
}

func (c *Client) keepMessage(m *Message) { c.putCBOR(tableMessages+string(m.Room), ^m.Seq, m) }

// Send says something in a room: content of a media type, core.ContentMIMI if "". A
// message that could not be handed over now is kept, and goes out with a later
// Send or Tend: then the error is Unavailable and the message is Waiting.
func (c *Client) Send(ctx context.Context, id core.RoomID, mediaType string, content []byte) (Message, error) {
	if err := c.enter(ctx); err != nil {
		return Message{}, err
	}
	defer c.mu.Unlock()
	o, err := c.accept(ctx, id, mediaType, content)
	if err != nil {
		return Message{}, err
	}
	err = c.deliver(ctx, id, true)
	return o.Message, err
}

// Keep is Send without the homeserver: the message is Waiting, and goes out with a
// later Send or Tend.
func (c *Client) Keep(ctx context.Context, id core.RoomID, mediaType string, content []byte) (Message, error) {
	if err := c.enter(ctx); err != nil {
		return Message{}, err
	}
	defer c.mu.Unlock()
	o, err := c.accept(ctx, id, mediaType, content)
	if err != nil {
		return Message{}, err
	}
	return o.Message, nil
}

// accept writes down what is to be said, even if the caller has no more time: what is
// Waiting is on disk.
func (c *Client) accept(ctx context.Context, id core.RoomID, mediaType string, content []byte) (*outgoing, error) {
	r := c.rooms[id]
	switch {
	case r == nil || !r.Joined:
		return nil, notIn(r)
	case len(content) > maxContent:
		return nil, core.Errorf(core.TooLarge, "content over %d octets", maxContent)
	case len(c.outbox) >= maxOutbox:
		return nil, core.Errorf(core.Limited, "too many messages wait to be sent")
	}
	key, err := c.bytes(keySize)
	if err != nil {
		return nil, err
	}
	o := &outgoing{Message: Message{Room: id, ID: core.Base32.EncodeToString(key), Key: key, Sender: c.self.user, Device: c.self.device,
		Type: mediaType, Content: content, Sent: c.now(), Own: true, Waiting: true, Encrypted: r.Kind == core.Group}, n: c.next}
	if o.Type == "" {
		o.Type = core.ContentMIMI
	}
	if r.Kind == core.Group {
		if err := c.seal(ctx, r, o); err != nil {
			return nil, err
		}
	}
	c.next++
	c.outbox = append(c.outbox, o)
	c.putCBOR(tableOutbox, o.n, o)
	return o, c.flush(context.WithoutCancel(ctx))
}

// seal encrypts a message for the epoch that the room is in here. The group's
// record of it is written with the message, before either leaves.
func (c *Client) seal(ctx context.Context, r *room, o *outgoing) error {
	if err := c.open(ctx, r); err != nil {
		return err
	}
	framed, err := r.g.Public().Context().AppendApplication(nil, mls.MediaType{Type: []byte(o.Type)}, o.Content)
	if err != nil {
		return core.Errorf(core.Invalid, "content: %w", err)
	}
	if o.Sealed, err = r.g.Seal(nil, framed, labelled(o.Key, o.Again > 0)); err != nil {
		return core.Errorf(core.Unavailable, "the message cannot be sealed now: %w", err)
	}
	o.Epoch = r.g.Epoch()
	c.touch(r)
	return nil
}

// Times that what is refused as too late is offered again though the homeserver shows
// nothing newer. Where one has entered by another homeserver, the own comes after in a
// moment; one that was restored from a backup does not. Tend comes again by itself.
const (
	olderTries = 6  // a second
	stuckTries = 16 // seconds: what it would show has to be found out first
)

// errOlder is what only a homeserver that has forgotten something answers.
var errOlder = core.Errorf(core.Unavailable, "the homeserver knows an older state of this room than this device: was it restored from a backup?")

// deliver offers what waits for a room, in order; patiently, if somebody waits for it.
func (c *Client) deliver(ctx context.Context, id core.RoomID, patiently bool) error {
	stuck := 0
	for n := range maxTries {
		if n > 0 {
			if err := c.pause(ctx, min(n, 6)); err != nil {
				return err
			}
		}
		stale, err := c.deliverOnce(ctx, id)
		if !stale || err != nil {
			return err
		}
		if _, err := c.round(ctx, 0); err != nil {
			return err
		}
		again, err := c.sealAgain(ctx, id)
		if err != nil {
			return err
		}
		if stuck++; again {
			stuck = 0
			continue
		}
		older, err := c.older(ctx, id)
		switch {
		case err != nil:
			return err
		case older && (!patiently || stuck >= olderTries):
			return errOlder
		case !patiently || stuck >= stuckTries:
			return core.Errorf(core.Unavailable, "this device cannot follow the room to its newest state yet")
		}
	}
	return core.Errorf(core.Unavailable, "the room's epoch changed %d times", maxTries)
}

// older reports whether the homeserver is in an earlier epoch of a room than the device.
func (c *Client) older(ctx context.Context, id core.RoomID) (bool, error) {
	w, err := ask(ctx, c, func(ctx context.Context) (wire.Room, error) { return c.cfg.Home.Room(ctx, id) })
	if err != nil {
		return false, err
	}
	r, err := c.able(ctx, id)
	return err == nil && w.Epoch < r.g.Epoch(), err
}

// waiting are the messages that wait for a room.
func (c *Client) waiting(id core.RoomID) (out []*outgoing) {
	for _, o := range c.outbox {
		if o.Room == id {
			out = append(out, o)
		}
	}
	return out
}

// deliverOnce offers what waits, and says whether it was sealed too early. What was
// sealed in one epoch goes out together: what is refused as too late must not be
// overtaken by what is not.
func (c *Client) deliverOnce(ctx context.Context, id core.RoomID) (stale bool, err error) {
	all := c.waiting(id)
	if len(all) == 0 {
		return false, c.flush(ctx)
	}
	left := len(all)
	if i := slices.IndexFunc(all, func(o *outgoing) bool { return o.Epoch != all[0].Epoch }); i > 0 {
		all = all[:i]
	}
	request, size := wire.Send{}, 0
	for i, o := range all {
		if size += len(o.Sealed) + len(o.Content); i == maxOffered || i > 0 && size > offeredBytes {
			all = all[:i]
			break
		}
		w := wire.Message{ID: o.ID, Sealed: o.Sealed, Sent: o.Sent}
		if !o.Encrypted {
			w.Type, w.Content = o.Type, o.Content
		}
		request.Messages = append(request.Messages, w)
	}
	sent, err := ask(ctx, c, func(ctx context.Context) (wire.Sent, error) { return c.cfg.Home.Send(ctx, id, request) })
	if core.CodeOf(err) == core.StaleEpoch && err != nil {
		return true, nil
	}
	if err != nil {
		if !core.Temporary(err) {
			for _, o := range all {
				c.settle(o, nil)
			}
		}
		return false, errors.Join(err, c.flush(ctx))
	}
	for i, res := range sent.Results[:min(len(sent.Results), len(all))] {
		switch {
		case res.Error == nil:
			c.settle(all[i], &res)
		case core.CodeNamed(res.Error.Code) == core.StaleEpoch:
			return true, c.flush(ctx)
		default:
			refused := &core.Error{Code: core.CodeNamed(res.Error.Code), Reason: core.Reason(res.Error.Reason), Text: res.Error.Text}
			if err = refused; !core.Temporary(refused) {
				c.settle(all[i], nil)
			}
		}
	}
	if ferr := c.flush(ctx); ferr != nil {
		return false, ferr
	}
	if rest := len(c.waiting(id)); err == nil && rest > 0 && rest < left {
		return c.deliverOnce(ctx, id)
	}
	return false, err
}

// settle ends the way of a message: accepted at its place, or, with nil, refused.
func (c *Client) settle(o *outgoing, res *wire.SentResult) {
	i := slices.Index(c.outbox, o)
	if i < 0 {
		return // its echo came first
	}
	c.outbox = slices.Delete(c.outbox, i, i+1)
	c.put(tableOutbox, o.n, nil)
	if o.Again > 0 {
		c.settledAgain(o, res)
		return
	}
	if res == nil {
		return
	}
	o.Waiting, o.Seq, o.ID, o.Accepted = false, res.Seq, res.Event, res.Accepted
	if o.Encrypted {
		c.keepMessage(&o.Message)
	}
}

// sealAgain seals what waits for the epoch that the room is in now, if that is a later
// one. The ID stays: if the homeserver did take the earlier one, it knows it by that.
func (c *Client) sealAgain(ctx context.Context, id core.RoomID) (again bool, err error) {
	r, err := c.able(ctx, id)
	if err != nil {
		return false, err
	}
	for _, o := range c.waiting(id) {
		if o.Encrypted && o.Epoch < r.g.Epoch() {
			if err := c.seal(ctx, r, o); err != nil {
				return again, err
			}
			c.putCBOR(tableOutbox, o.n, o)
			again = true
		}
	}
	return again, nil
}

// message opens an application message, once: the key is used up in the same write
// that keeps what it said.
func (c *Client) message(ctx context.Context, r *room, ev *wire.Event, m *mls.Message) error {
	if m.Private.ContentType != mls.ContentApplication {
		c.fail(r, ev, m.Private.Epoch, "a handshake that homeservers cannot follow")
		return nil
	}
	if m.Private.Epoch > r.g.Epoch() {
		c.later(r, ev)
		if r.Lost == "" { // a log has the commit first (PROTOCOL §5), unless it went on from a snapshot
			c.lose(r, "commits before a message are missing")
		}
		return nil
	}
	if _, again := label(m.Private.AuthenticatedData); again { // as it says: that is not verified yet
		if err := c.recall(ctx, r); err != nil {
			return err
		}
	}
	app, err := r.g.Open(m)
	switch {
	case err == nil:
	case errors.Is(err, group.ErrOwnMessage):
		c.echo(r, ev)
		return nil
	case m.Private.Epoch < r.Entered:
		return nil // said before this device came
	default:
		return c.unopened(ctx, r, ev, m, err)
	}
	device, user := r.owner(app.Epoch, app.Sender)
	key, again := label(app.AuthenticatedData)
	out := &Message{Room: r.ID, Seq: ev.Seq, ID: ev.Event, Key: key, Late: again, Sender: user, Device: device, Sent: ev.Sent, Accepted: ev.Accepted,
		Epoch: app.Epoch, Encrypted: true}
	framed, err := r.g.Public().Context().ReadApplication(app.Data)
	if err != nil {
		out.Failed = err.Error()
	} else {
		out.Type, out.Content = string(framed.MediaType.Type), framed.Content
	}
	if r.repeats(out) {
		c.touch(r) // its key is used up
		return nil
	}
	c.keepMessage(out)
	c.tell(Update{Kind: NewMessage, Room: r.ID, User: user, Device: device, Message: out})
	return nil
}

// unopened deals with a message whose key does not open it. A homeserver that was
// restored from an old backup sends messages twice: what was read is not shown again.
func (c *Client) unopened(ctx context.Context, r *room, ev *wire.Event, m *mls.Message, why error) error {
	key, _ := label(m.Private.AuthenticatedData)
	if key != nil {
		if err := c.recall(ctx, r); err != nil {
			return err
		}
		if r.heard[heardAs("", key)] {
			return nil
		}
	}
	c.fail(r, ev, m.Private.Epoch, why.Error())
	return nil
}

// fail keeps the place of what cannot be read.
func (c *Client) fail(r *room, ev *wire.Event, epoch uint64, why string) {
	m := &Message{Room: r.ID, Seq: ev.Seq, ID: ev.Event, Sender: ev.Sender, Sent: ev.Sent, Accepted: ev.Accepted, Epoch: epoch, Encrypted: true, Failed: why}
	c.keepMessage(m)
	c.tell(Update{Kind: NewMessage, Room: r.ID, User: ev.Sender, Message: m})
}

// echo is a message of this device that comes back.
func (c *Client) echo(r *room, ev *wire.Event) {
	for _, o := range c.waiting(r.ID) {
		if bytes.Equal(o.Sealed, ev.Sealed) {
			c.settle(o, &wire.SentResult{Seq: ev.Seq, Event: ev.Event, Accepted: ev.Accepted})
			return
		}
	}
}

// later keeps a message of an epoch that has not begun here.
func (c *Client) later(r *room, ev *wire.Event) {
	if r.Future >= maxFuture {
		c.fail(r, ev, 0, "too many messages of epochs to come")
		return
	}
	r.Future++
	c.putCBOR(tableFuture+string(r.ID), ev.Seq, ev)
	c.touch(r)
}

// revisit opens what came before its epoch.
func (c *Client) revisit(ctx context.Context, r *room) error {
	if r.Future == 0 || !r.Joined || r.g != nil && r.visited == r.g.Epoch() {
		return nil
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	rows, err := c.cfg.Store.Rows(ctx, tableFuture+string(r.ID), 0, maxFuture)
	if err != nil {
		return err
	}
	if err := c.open(ctx, r); err != nil {
		return err
	}
	r.visited = r.g.Epoch()
	for _, row := range rows {
		var ev wire.Event
		if err := decode(row.Data, &ev); err != nil {
			return err
		}
		m, err := mls.Parse(ev.Sealed)
		if err == nil && m.Private != nil && m.Private.Epoch > r.g.Epoch() {
			continue
		}
		if err == nil && m.Private != nil {
			if err := c.message(ctx, r, &ev, m); err != nil {
				return err
			}
		}
		r.Future--
		c.put(row.Table, row.N, nil)
		c.touch(r)
	}
	return c.flush(ctx)
}

// said takes an event of a Channel: the homeserver keeps its history.
func (c *Client) said(r *room, ev *wire.Event) error {
	if r.Kind == core.Group {
		return nil // nobody speaks in the clear there
	}
	r.Cursor = ev.Seq
	c.touch(r)
	m := plain(ev)
	m.Own = m.Sender == c.self.user
	c.tell(Update{Kind: NewMessage, Room: r.ID, User: m.Sender, Message: &m})
	return nil
}

func plain(ev *wire.Event) Message {
	return Message{Room: ev.Room, Seq: ev.Seq, ID: ev.Event, Sender: ev.Sender, Name: ev.Name, Type: ev.Type, Content: ev.Content, Text: ev.Text,
		Sent: ev.Sent, Accepted: ev.Accepted, Deleted: ev.Deleted}
}

// History returns what was said in a room before a place (0 = up to now), at most
// limit messages, rising; then, without before, what waits to be accepted. A
// Group's is what this device has read, a Channel's is asked of the homeserver.
func (c *Client) History(ctx context.Context, id core.RoomID, before uint64, limit int) ([]Message, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	r := c.rooms[id]
	if r == nil {
		return nil, core.Errorf(core.NotFound, "this device does not know that room")
	}
	limit = min(max(limit, 1), pageRows)
	var out []Message
	if r.Kind != core.Group {
		h, err := ask(ctx, c, func(ctx context.Context) (wire.History, error) { return c.cfg.Home.History(ctx, id, before, limit) })
		if err != nil {
			return nil, err
		}
		for i := range h.Events {
			out = append(out, plain(&h.Events[i]))
		}
	} else {
		if err := c.flush(ctx); err != nil {
			return nil, err
		}
		from := uint64(0)
		if before > 0 {
			from = ^before + 1
		}
		rows, err := c.cfg.Store.Rows(ctx, tableMessages+string(id), from, limit)
		if err != nil {
			return nil, err
		}
		for _, row := range slices.Backward(rows) {
			var m Message
			if err := decode(row.Data, &m); err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	if before == 0 {
		for _, o := range c.waiting(id) {
			if o.Again == 0 {
				out = append(out, o.Message)
			}
		}
	}
	return out, nil
}
