package matrix

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// An intake turns the events of one transaction into envelopes and submits
// them: all at once, except that what refers to an event of this transaction
// waits until that one has its ID, and that very many go in slices.
type intake struct {
	b       *Bridge
	gw      bridges.Gateway
	max     int
	pending []offer
	ids     map[string]bool // events among pending
	dead    int
	noNames bool // the homeserver did not say a name: it is not asked again for this transaction
}

// An offer is one envelope and what is needed when it is refused.
type offer struct {
	env     core.Envelope
	link    *core.Link
	ev      *roomEvent
	message bool // its sender is told of a refusal
}

// takeEvents accepts events in order. An error means that the homeserver has to
// send all of them again; those accepted already will be duplicates then.
func (b *Bridge) takeEvents(ctx context.Context, gw bridges.Gateway, raws [][]byte) error {
	if len(raws) == 0 {
		return nil
	}
	if err := b.freshLinks(ctx, gw); err != nil {
		return err
	}
	in := &intake{b: b, gw: gw, max: b.cfg.MaxEvents, ids: map[string]bool{}}
	for _, raw := range raws {
		ev, err := parseEvent(raw)
		if err == nil {
			err = in.take(ctx, ev)
		}
		switch core.CodeOf(err) {
		case core.Invalid, core.TooLarge:
			err = in.bury(ctx, raw)
		case core.NotFound, core.Unsupported, core.Denied, core.Conflict:
			b.count("unsupported")
			err = nil
		}
		if err != nil {
			return err
		}
		if len(in.pending) >= in.max {
			if err := in.flush(ctx); err != nil {
				return err
			}
		}
	}
	return in.flush(ctx)
}

func (b *Bridge) count(result string) { b.metrics.events.WithLabelValues(result).Inc() }

// bury keeps an event that makes no sense where an operator can look at it, in a
// ring of bounded length; the transaction goes on.
func (in *intake) bury(ctx context.Context, raw []byte) error {
	b := in.b
	b.count("dead")
	if in.dead++; in.dead > maxDead {
		return nil
	}
	key := fmt.Sprintf("%04d", b.dead%deadRing)
	b.dead++
	_, err := in.gw.Do(ctx, core.PutValue{Bucket: "dead:" + string(b.network), Key: key, Data: raw[:min(len(raw), core.MaxContent)]})
	return err
}

// stateTypes are the types that mean something as the state of a room only, all
// but memberships under the empty key (client-server API v1.19, §room-events).
var stateTypes = map[string]bool{"m.room.member": true, "m.room.encryption": true, "m.room.name": true, "m.room.tombstone": true,
	"m.room.topic": true, "m.room.power_levels": true}

// take looks at one event.
func (in *intake) take(ctx context.Context, ev *roomEvent) error {
	b := in.b
	l, linked := b.link(ev.RoomID)
	if ev.Type == "m.room.member" && ev.StateKey != nil && *ev.StateKey == b.bot && ev.Sender != b.bot {
		return in.aboutBot(ctx, ev, l, linked)
	}
	switch {
	case !linked:
		b.count("unlinked")
		b.declineForGhost(ev)
		return nil
	case b.ours(ev.Sender):
		b.count("own")
		b.echo(ev, &l)
		return nil
	case l.Paused != "":
		b.count("paused")
		return nil
	}
	if keyed := ev.Type == "m.room.member"; stateTypes[ev.Type] && (ev.StateKey == nil || !keyed && *ev.StateKey != "") {
		b.count("unsupported") // anybody may send what has the type of state and is none
		return nil
	}
	switch ev.Type {
	case "m.room.member":
		return in.membership(ev, &l)
	case "m.room.encryption":
		return b.pause(ctx, in.gw, l, "the room was encrypted, and an encrypted room cannot be carried to an unencrypted channel")
	case "m.room.encrypted":
		b.tell(l.Place, "An encrypted message was not carried to the channel: this gateway cannot read it.")
		b.count("refused")
		return nil
	case "m.room.name":
		b.count("unsupported") // a Channel's name is its IRC name, and how people find it there
		return nil
	case "m.room.tombstone":
		return b.pause(ctx, in.gw, l, "the room was replaced by another")
	}
	if _, _, _, marked := converter.MatrixOrigin(ev.Content); marked {
		b.count("gateway") // another gateway's ghost: relaying it would make a loop
		return nil
	}
	return in.convert(ctx, ev, &l)
}

// convert offers what the converter makes of ev, and its sender as a member first.
func (in *intake) convert(ctx context.Context, ev *roomEvent, l *core.Link) error {
	b := in.b
	waits := false
	ev.targets(func(id string) { waits = waits || in.ids[id] })
	if waits {
		if err := in.flush(ctx); err != nil {
			return err
		}
	}
	user, ok := b.userURI(ev.Sender)
	if !ok {
		return core.Errorf(core.Invalid, "a sender without a name of ours")
	}
	name, join, err := in.speaker(ctx, ev.RoomID, ev.Sender, l, user)
	if err != nil {
		return err
	}
	n := &names{ctx: ctx, b: b, gw: in.gw, link: l}
	envs, err := b.conv.Inbound(converter.MatrixEvent{Room: l.Room, User: user, Name: name, Network: b.network,
		Type: ev.Type, EventID: ev.EventID, Sender: ev.Sender, SentMS: ev.SentMS, StateKey: ev.StateKey,
		Content: ev.Content, PrevContent: ev.Unsigned.PrevContent, Redacts: ev.Redacts}, n)
	if n.err != nil {
		return n.err
	}
	if err != nil {
		return err
	}
	if len(envs) > 0 && join != nil {
		in.offer(l, ev, false, *join)
	}
	for _, env := range envs {
		in.offer(l, ev, ev.StateKey == nil, env)
		if fallback, ok := b.decided(env); ok {
			in.offer(l, ev, false, fallback)
		}
	}
	return nil
}

func (in *intake) offer(l *core.Link, ev *roomEvent, message bool, env core.Envelope) {
	in.pending = append(in.pending, offer{env: env, link: l, ev: ev, message: message})
	in.ids[ev.EventID] = true
}

// decided returns env once more with the homeserver as its sender, if it is
// about the role of a Matrix user: what they are in their room is decided
// there, whoever did it. If env itself is accepted, this one changes nothing.
func (b *Bridge) decided(env core.Envelope) (core.Envelope, bool) {
	s, ok := env.Body.(core.Signed)
	if !ok || s.ContentType != core.ContentControl {
		return env, false
	}
	c, err := core.ParseControl(s.Content)
	if err != nil || c.Op != core.OpRole || !b.isMatrix(c.User) {
		return env, false
	}
	env.Sender = core.SystemUser(b.cfg.Domain)
	env.Origin.ID = suffixed(env.Origin.ID, "s")
	return env, true
}

// suffixed makes the origin ID of one more envelope of an event.
func suffixed(id, suffix string) string { return id + "#" + suffix }

// speaker returns what a sender is called in the room and, if they were not
// known as joined, the envelope that joins them.
func (in *intake) speaker(ctx context.Context, room, mxid string, l *core.Link, user core.UserURI) (string, *core.Envelope, error) {
	if name, ok := in.b.known.get(l.Room, user); ok {
		return name, nil, nil
	}
	var m memberContent
	if !in.noNames {
		short, cancel := context.WithTimeout(ctx, nameTimeout)
		err := in.b.client.state(short, room, "m.room.member", mxid, &m)
		cancel()
		if err != nil && ctx.Err() != nil {
			return "", nil, core.Errorf(core.Unavailable, "the homeserver hung up")
		} // else the localpart has to do: a message never waits for its sender's name
		in.noNames = err != nil && core.Temporary(err)
	}
	name := displayName(m.Name, mxid)
	env := in.b.joinEnvelope(l.Room, user, mxid, m)
	in.b.known.put(l.Room, user, name)
	return name, &env, nil
}

// joinEnvelope joins a Matrix user; if they are in the room already, it brings
// how they are shown up to date. It has no origin ID: it can come again.
func (b *Bridge) joinEnvelope(room core.RoomID, user core.UserURI, mxid string, m memberContent) core.Envelope {
	p := b.profileOf(mxid, m)
	return core.Envelope{Room: room, Sender: user, Origin: core.Origin{Network: b.network},
		Body: core.Control{Op: core.OpJoin, Profile: &p}.Body(p.Name)}
}

func (b *Bridge) profileOf(mxid string, m memberContent) core.Profile {
	local, server, _ := splitMXID(mxid)
	p := core.Profile{Name: displayName(m.Name, mxid), Ident: local, Host: server, Account: mxid}
	if strings.HasPrefix(m.Avatar, "mxc://") && len(m.Avatar) <= core.MaxURI && utf8.ValidString(m.Avatar) && strings.IndexByte(m.Avatar, 0) < 0 {
		p.Avatar = m.Avatar
	}
	return p
}

// displayName is a display name as one bounded line of text, or the localpart.
func displayName(name, mxid string) string {
	name = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError || r == '\u2028' || r == '\u2029' || '\u202a' <= r && r <= '\u202e' || '\u2066' <= r && r <= '\u2069' {
			return -1
		}
		return r
	}, name))
	if name == "" {
		name, _, _ = splitMXID(mxid)
	}
	for len(name) > core.MaxName {
		_, w := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-w]
	}
	return name
}

// flush submits what is pending, in one transaction.
func (in *intake) flush(ctx context.Context) error {
	todo := in.pending
	in.pending, in.ids = nil, map[string]bool{}
	for len(todo) > 0 {
		n := min(len(todo), in.max)
		again, err := in.submit(ctx, todo[:n], true)
		if err == nil && len(again) > 0 {
			_, err = in.submit(ctx, again, false)
		}
		if err != nil {
			return err
		}
		todo = todo[n:]
	}
	return nil
}

// submit offers and reads the receipts. A message refused because its sender is
// not in the room, whom we thought to be there, is returned behind a join.
func (in *intake) submit(ctx context.Context, offers []offer, first bool) (again []offer, err error) {
	envs := make([]core.Envelope, len(offers))
	for i := range offers {
		envs[i] = offers[i].env
	}
	receipts, err := in.gw.Submit(ctx, envs...)
	if err != nil {
		return nil, err
	}
	b := in.b
	for i, rc := range receipts {
		o := &offers[i]
		switch {
		case rc.Err == nil && rc.Duplicate:
			b.count("duplicate")
		case rc.Err == nil:
			b.count("accepted")
		case core.Temporary(rc.Err):
			return nil, rc.Err
		case first && o.message && core.ReasonOf(rc.Err) == core.NotJoined:
			b.known.drop(o.link.Room, o.env.Sender)
			_, join, err := in.speaker(ctx, o.ev.RoomID, o.ev.Sender, o.link, o.env.Sender)
			if err != nil {
				return nil, err
			}
			if join != nil {
				again = append(again, offer{env: *join, link: o.link, ev: o.ev})
			}
			again = append(again, *o)
		default:
			b.count("refused")
			b.known.drop(o.link.Room, o.env.Sender)
			if o.message {
				b.tell(o.link.Place, "A message was not carried to the channel: "+core.TextOf(rc.Err)+".")
			}
		}
	}
	return again, nil
}

// echoMark is what our own events carry besides the converter's mark: which
// part of which event for which link they are.
const echoMark = "chat.isthmus.part"

// echo learns from an event of our own: where it stands, or who came and went.
func (b *Bridge) echo(ev *roomEvent, l *core.Link) {
	if ev.Type == "m.room.member" && ev.StateKey != nil {
		var m memberContent
		json.Unmarshal(ev.Content, &m) // our own event
		if b.ours(*ev.StateKey) {
			b.ghosts.setJoined(ev.RoomID, *ev.StateKey, m.Membership == "join")
		} else if user, ok := b.userURI(*ev.StateKey); ok && m.Membership != "join" && m.Membership != "invite" {
			b.known.drop(l.Room, user)
		}
		return
	}
	b.learn(l, ev.EventID, ev.Content)
}

// learn remembers the place of an event of ours, if content bears our mark.
func (b *Bridge) learn(l *core.Link, eventID string, content json.RawMessage) {
	var c struct {
		Part string `json:"chat.isthmus.part"`
	}
	if json.Unmarshal(content, &c) != nil {
		return
	}
	var part int
	text, rest, ok := strings.Cut(c.Part, "/")
	id, err := core.ParseEventID(text)
	if _, scan := fmt.Sscanf(rest, "%d", &part); ok && err == nil && scan == nil {
		b.recent.put(l.ID, id, part, eventID)
	}
}

// takeEphemeral passes typing on (§pushing-ephemeral-data): only what changed.
func (b *Bridge) takeEphemeral(gw bridges.Gateway, raws [][]byte) {
	for _, raw := range raws {
		ev, err := parseShape(raw)
		if err != nil || ev.Type != "m.typing" {
			continue
		}
		l, ok := b.link(ev.RoomID)
		var c struct {
			UserIDs []string `json:"user_ids"`
		}
		if !ok || l.Paused != "" || json.Unmarshal(ev.Content, &c) != nil {
			continue
		}
		now := map[string]bool{}
		for _, id := range c.UserIDs[:min(len(c.UserIDs), maxNotices)] {
			if !b.ours(id) {
				now[id] = true
			}
		}
		b.mu.Lock()
		before := b.typing[ev.RoomID]
		if b.typing[ev.RoomID] = now; len(now) == 0 {
			delete(b.typing, ev.RoomID)
		}
		b.mu.Unlock()
		for id := range now {
			b.signal(gw, &l, id, "active")
		}
		for id := range before {
			if !now[id] {
				b.signal(gw, &l, id, "done")
			}
		}
	}
}

func (b *Bridge) signal(gw bridges.Gateway, l *core.Link, mxid, typing string) {
	if user, ok := b.userURI(mxid); ok {
		if name, ok := b.known.get(l.Room, user); ok {
			gw.Signal(core.Signal{Room: l.Room, Sender: user, Name: name, Origin: b.network, Typing: typing})
		}
	}
}

// transactionID is the same for the same parts, and for no others.
func transactionID(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

func sentAt(ms int64) time.Time { return time.UnixMilli(max(ms, 0)) }

// jsonObject returns an object of keys and strings, in their order.
func jsonObject(pairs ...string) ([]byte, error) {
	m := map[string]string{}
	for i := 0; i+1 < len(pairs); i += 2 {
		m[pairs[i]] = pairs[i+1]
	}
	return json.Marshal(m)
}
