package native

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of sending.
const (
	MaxSend = 1000 // messages of one request
	maxKey  = 255  // octets of an idempotency key
)

// textOf returns the message of a request whose body is nothing but text:
// text/plain, or what curl sends when it was not told what it is, unless that
// looks like JSON.
func textOf(c *call) (string, bool) {
	switch contentType(c.r) {
	case typeText:
	case typeForm:
		if t := bytes.TrimLeft(c.body, " \t\r\n"); len(t) == 0 || t[0] == '{' {
			return "", false
		}
	default:
		return "", false
	}
	return strings.TrimRight(string(c.body), "\r\n"), true
}

// sendMessages answers POST /v1/rooms/{room}/messages: all in one transaction,
// each with a result of its own. The refusal of a single one is the answer.
func (a *api) sendMessages(c *call, in *wire.Send) (*wire.Sent, error) {
	room, err := a.room(c)
	if err != nil {
		return nil, err
	}
	switch n := len(in.Messages); {
	case n == 0:
		return nil, core.Errorf(core.Invalid, "no message")
	case n > MaxSend:
		return nil, core.Errorf(core.TooLarge, "more than %d messages", MaxSend)
	}
	if err := a.limits.send(&c.session, len(in.Messages), a.cfg.Now()); err != nil {
		return nil, err
	}
	out := &wire.Sent{Results: make([]wire.SentResult, len(in.Messages))}
	var es []core.Envelope
	var at []int // of each envelope's message
	for i := range in.Messages {
		e, err := a.envelope(c, room, &in.Messages[i], i)
		if err != nil {
			out.Results[i].Error = wireError(err)
			if len(in.Messages) == 1 {
				return nil, err
			}
			continue
		}
		es, at = append(es, e), append(at, i)
	}
	rs, err := a.gw().Submit(c.ctx(), es...)
	if err != nil {
		return nil, err
	}
	for i, r := range rs {
		out.Results[at[i]] = sentResult(r)
		if r.Err != nil && len(in.Messages) == 1 {
			return nil, r.Err
		}
	}
	return out, nil
}

func sentResult(r core.Receipt) wire.SentResult {
	if r.Err != nil {
		return wire.SentResult{Error: wireError(r.Err)}
	}
	out := wire.SentResult{Duplicate: r.Duplicate}
	if r.Event != nil {
		out.Seq, out.Event, out.Accepted = r.Event.Seq, r.Event.ID.String(), r.Event.Accepted.UnixMilli()
	}
	return out
}

// envelope makes of a message what the core is offered.
func (a *api) envelope(c *call, room core.RoomID, m *wire.Message, i int) (core.Envelope, error) {
	key, err := a.originID(c, room, m.ID, i)
	if err != nil {
		return core.Envelope{}, err
	}
	e := core.Envelope{Room: room, Sender: c.session.User, Origin: core.Origin{Network: core.NetworkNative, ID: key}}
	if m.Sent > 0 {
		e.Sent = time.UnixMilli(m.Sent)
	}
	given := 0
	for _, there := range [...]bool{len(m.Sealed) > 0, m.Text != "", len(m.Content) > 0} {
		if there {
			given++
		}
	}
	if given != 1 {
		return e, core.Errorf(core.Invalid, "a message has one of sealed, text and content")
	}
	name := c.session.User.Local()
	switch {
	case len(m.Sealed) > 0:
		if c.session.Device == "" {
			return e, core.Errorf(core.Denied, "a sealed message comes from a device")
		}
		e.Body = core.Sealed{Message: m.Sealed}
		return e, nil
	case m.Text != "":
		return textEnvelope(e, name, m.Type, m.Text)
	case strings.HasPrefix(m.Type, "text/"):
		return textEnvelope(e, name, m.Type, string(m.Content))
	}
	if m.Type == "" || m.Type == core.ContentMIMI {
		if _, err := converter.ParseContent(m.Content); err != nil {
			return e, err
		}
		m.Type = core.ContentMIMI
	}
	if m.Type == core.ContentControl {
		return e, core.Errorf(core.Denied, "control messages are made by the homeserver")
	}
	e.Body = core.Signed{Name: name, ContentType: m.Type, Content: m.Content}
	return e, nil
}

func textEnvelope(e core.Envelope, name, mediaType, text string) (core.Envelope, error) {
	if !utf8.ValidString(text) {
		return e, core.Errorf(core.Invalid, "text is UTF-8")
	}
	if mediaType != "" && !strings.HasPrefix(mediaType, "text/") {
		return e, core.Errorf(core.Invalid, "text has a media type that begins with text/")
	}
	seed := []byte(e.Origin.ID)
	if len(seed) == 0 { // the same said twice is two messages
		seed = make([]byte, 16)
		rand.Read(seed)
	}
	content := converter.Text(text, mediaType, append(seed, e.Sender...))
	return content.Envelope(e, name), nil
}

// originID makes of an idempotency key what is unique everywhere: nobody can
// spend somebody else's. "" without a key.
func (a *api) originID(c *call, room core.RoomID, key string, i int) (string, error) {
	header := c.r.Header.Get("Idempotency-Key")
	if len(key) > maxKey || len(header) > maxKey {
		return "", core.Errorf(core.TooLarge, "an idempotency key over %d octets", maxKey)
	}
	if key == "" && header == "" {
		return "", nil
	}
	if key == "" {
		key = fmt.Sprintf("%s\x00%d", header, i)
	}
	h := sha256.New()
	for _, part := range [...]string{a.cfg.Domain, string(c.session.User), string(c.session.Device), string(room), key} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(part))))
		h.Write([]byte(part))
	}
	return core.Base32.EncodeToString(h.Sum(nil)[:20]), nil
}

// wireEvent says an event as devices are given it, without its certificate.
func wireEvent(e *core.Event) wire.Event {
	w := wire.Event{Room: e.Room, Seq: e.Seq, Event: e.ID.String(), Sender: e.Sender, Sent: e.Sent.UnixMilli(),
		Accepted: e.Accepted.UnixMilli(), Home: e.Home, Deleted: e.Deleted}
	switch body := e.Body.(type) {
	case core.Sealed:
		w.Sealed = body.Message
	case core.Signed:
		w.Type = body.ContentType
		if body.Name != e.Sender.Local() {
			w.Name = body.Name
		}
		if e.Deleted { // the bytes are the hash of what is gone
			return w
		}
		w.Content = body.Content
		if e.Control != nil {
			w.Text = controlText(e)
		} else {
			w.Text, _ = converter.PlainText(e)
		}
	}
	return w
}

// called is what people read for a user: the name, or what a bridge calls whom it relays.
func called(u core.UserURI, name string) string {
	if who, ok := u.Relayed(name); ok {
		return who
	}
	return u.Local()
}

// controlText says in words what a control message did.
func controlText(e *core.Event) string {
	c := e.Control
	name := ""
	if c.Profile != nil {
		name = c.Profile.Name
	} else if c.User == e.Sender {
		if s, ok := e.Signed(); ok {
			name = s.Name
		}
	}
	who := called(c.User, name)
	why := ""
	if c.Text != "" {
		why = ": " + c.Text
	}
	switch c.Op {
	case core.OpJoin:
		return who + " joined"
	case core.OpLeave:
		return who + " left" + why
	case core.OpKick:
		return who + " was removed" + why
	case core.OpRole:
		return who + " is now " + c.Role.String()
	case core.OpBan:
		return c.Mask + " is banned"
	case core.OpUnban:
		return c.Mask + " is not banned any more"
	case core.OpTopic:
		return "the topic is now" + why
	case core.OpName:
		return "the room is now called" + why
	case core.OpPolicy:
		return "the room's policy changed"
	case core.OpDelete:
		return "a message was deleted" + why
	case core.OpInvite:
		return who + " was invited"
	case core.OpProfile:
		if s, ok := e.Signed(); ok && s.Name != "" {
			if was, ok := c.User.Relayed(s.Name); ok && was != who {
				return was + " is " + who + " now"
			}
		}
		return who + " is shown differently"
	}
	return "something changed"
}

// plainText says an answer in lines for people; false for what has no text.
func plainText(v any) ([]byte, bool) {
	var b bytes.Buffer
	switch v := v.(type) {
	case *wire.History:
		textLines(&b, v.Events)
	case *wire.Sync:
		textLines(&b, v.Events)
	case *wire.Sent:
		for _, r := range v.Results {
			if r.Error != nil {
				fmt.Fprintf(&b, "refused: %s\n", r.Error.Text)
			} else {
				fmt.Fprintf(&b, "%d %s\n", r.Seq, r.Event)
			}
		}
	case *wire.Error:
		fmt.Fprintf(&b, "%s: %s\n", v.Code, v.Text)
	default:
		return nil, false
	}
	return b.Bytes(), true
}

// textLines writes one line or more for each event; what a terminal could obey
// has been taken out of texts by the converter, and is taken out of names here.
func textLines(b *bytes.Buffer, events []wire.Event) {
	for _, e := range events {
		at := time.UnixMilli(e.Accepted).UTC().Format("2006-01-02 15:04:05")
		room, who := printable(e.Room.Local()), printable(called(e.Sender, e.Name))
		switch {
		case e.Sealed != nil:
			fmt.Fprintf(b, "%s %s %s: (encrypted)\n", at, room, who)
		case e.Type == core.ContentControl:
			fmt.Fprintf(b, "%s %s * %s\n", at, room, printable(e.Text))
		default:
			for line := range strings.SplitSeq(e.Text, "\n") {
				fmt.Fprintf(b, "%s %s %s: %s\n", at, room, who, line)
			}
		}
	}
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
}
