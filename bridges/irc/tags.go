package irc

import (
	"bytes"

	"github.com/fxamacker/cbor/v2"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of looking for the reaction that somebody takes back.
const (
	maxReactionScan = 2000 // events after the target: 8 ms of reading
	reactionPage    = 250
)

// Client-only tags that concern a private message.
const (
	tagContext  = "+channel-context"
	tagContextD = "+draft/channel-context"
)

func init() {
	addISupport(func(*Server) []string {
		return []string{"CLIENTTAGDENY=*,-typing,-reply,-draft/reply,-draft/react,-draft/unreact,-channel-context,-draft/channel-context"}
	})
}

// liveTags are the client-only tags that a TAGMSG without a lasting meaning may
// carry; CLIENTTAGDENY says so. All others are dropped.
var liveTags = map[string]bool{"+typing": true, tagReply: true, tagReplyD: true}

// appendAbout writes the tags that say what a message is about.
func appendAbout(b []byte, from int, caps capSet, m *message) []byte {
	if m.relay != "" && caps&(capMessageTags|capRelaymsg) != 0 {
		b = appendTag(b, from, tagRelay, m.relay)
	}
	if !caps.has(capMessageTags) {
		return b
	}
	b = appendReply(b, from, m.out.ReplyTo)
	if m.about != "" {
		b = appendTag(b, from, tagContext, m.about)
		b = appendTag(b, from, tagContextD, m.about)
	}
	return b
}

// The channel that a private message belongs to travels in an extension of the
// content, as text under this key.
var contextKey = func() []byte {
	b, err := cbor.Marshal("chat.isthmus.context")
	if err != nil {
		panic(err) // a constant: cannot fail
	}
	return b
}()

// withContext puts the channel named by +channel-context into the content of a
// private message (https://ircv3.net/specs/client-tags/channel-context).
func (s *session) withContext(e core.Envelope, l *line) core.Envelope {
	name := l.tag(tagContext)
	if name == "" {
		name = l.tag(tagContextD)
	}
	if name == "" || !validChannel(name, s.srv.cfg.ChannelLen) {
		return e
	}
	body, _ := e.Body.(core.Signed)
	c, err := converter.ParseContent(body.Content)
	if err != nil {
		return e
	}
	value, err := cbor.Marshal(name)
	if err != nil {
		return e
	}
	c.Unknown = append(c.Unknown, converter.Extension{Key: contextKey, Value: value})
	return c.Envelope(e, body.Name)
}

// contextOf returns the channel a private message belongs to, "" if none.
func contextOf(content []byte) (name string) {
	if !bytes.Contains(content, contextKey) {
		return ""
	}
	c, err := converter.ParseContent(content)
	if err != nil {
		return ""
	}
	for _, x := range c.Unknown {
		if string(x.Key) == string(contextKey) && cbor.Unmarshal(x.Value, &name) == nil && validChannel(name, maxBody/4) {
			return name
		}
	}
	return ""
}

// storeNames answers a converter on the way in: from the world, and from the
// room's log where that is not enough.
type storeNames struct {
	lockedNames
	s    *session
	room core.RoomID
}

// Event finds the target of a reply, which must be in the room.
func (n storeNames) Event(id core.EventID) (*core.Event, bool) {
	if e, ok := n.lockedNames.Event(id); ok {
		return e, e.Room == n.room
	}
	seq := id.Seq()
	if seq == 0 || core.NewEventID(n.room, n.srv.cfg.Domain, seq) != id {
		return nil, false
	}
	var e core.Event
	err := n.srv.gw.View(n.s.ctx, func(r core.Reader) (err error) {
		e, err = r.Event(n.room, seq)
		return err
	})
	return &e, err == nil
}

// Reaction finds the latest reaction of user to target with text that was not
// taken back, among the maxReactionScan events after the target.
func (n storeNames) Reaction(target core.EventID, user core.UserURI, text string) (id core.EventID, ok bool) {
	seq := target.Seq()
	if seq == 0 || core.NewEventID(n.room, n.srv.cfg.Domain, seq) != target {
		return id, false
	}
	err := n.srv.gw.View(n.s.ctx, func(r core.Reader) error {
		for end := seq + maxReactionScan; seq < end; {
			es, err := r.Events(n.room, core.Range{After: seq, Limit: reactionPage})
			if err != nil || len(es) == 0 {
				return err
			}
			for i := range es {
				e := &es[i]
				if e.Sender != user || e.Control != nil || e.Deleted {
					continue
				}
				c, err := converter.ContentOf(e)
				if err != nil || !c.IsReaction() {
					continue
				}
				if c.Ref == target && c.Part.Cardinality == converter.SinglePart && string(c.Part.Body) == text {
					id, ok = e.ID, true
				} else if ok && c.Ref == id && c.Part.Cardinality == converter.NullPart {
					ok = false
				}
			}
			seq = es[len(es)-1].Seq
		}
		return nil
	})
	return id, ok && err == nil
}
