package matrix

import (
	"context"
	"encoding/json"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// memberContent is the content of m.room.member, as far as we look.
type memberContent struct {
	Membership string `json:"membership"`
	Name       string `json:"displayname"`
	Avatar     string `json:"avatar_url"`
	Reason     string `json:"reason"`
}

// UnmarshalJSON takes fields of a wrong type for absent: clients send null and
// numbers, and a membership counts without its ornaments.
func (m *memberContent) UnmarshalJSON(b []byte) error {
	var raw map[string]json.RawMessage
	if err := json.Unmarshal(b, &raw); err != nil {
		return err
	}
	for key, into := range map[string]*string{"membership": &m.Membership, "displayname": &m.Name, "avatar_url": &m.Avatar, "reason": &m.Reason} {
		var s string
		if json.Unmarshal(raw[key], &s) == nil {
			*into = s
		}
	}
	return nil
}

// aboutBot looks at what others do to our bot: an invitation, or that it is
// thrown out, which ends a link's traffic but loses nothing.
func (in *intake) aboutBot(ctx context.Context, ev *roomEvent, l core.Link, linked bool) error {
	var m memberContent
	if json.Unmarshal(ev.Content, &m) != nil {
		return core.Errorf(core.Invalid, "a membership that is not one")
	}
	b := in.b
	switch {
	case m.Membership == "invite" && linked:
		b.later(func(ctx context.Context) { b.client.join(ctx, "", ev.RoomID) })
	case m.Membership == "invite":
		b.refuseInvite(ev.RoomID)
	case (m.Membership == "leave" || m.Membership == "ban") && linked:
		b.ghosts.forget(ev.RoomID)
		return b.pause(ctx, in.gw, l, "the gateway's user was removed from the Matrix room")
	}
	return nil
}

// refuseInvite says politely that rooms are linked by an operator. To say
// anything there our bot has to enter, and it stays for a grace time: a closed
// room can be linked only while our bot is in it.
func (b *Bridge) refuseInvite(room string) {
	b.mu.Lock()
	if len(b.guest) < maxGuest {
		b.guest[room] = time.Now()
	}
	b.mu.Unlock()
	b.later(func(ctx context.Context) {
		if _, err := b.client.join(ctx, "", room); err != nil {
			return
		}
		if _, linked := b.link(room); linked {
			return
		}
		b.notice(ctx, room, "Thank you for the invitation. This gateway carries only rooms that an operator has linked: "+
			"isthmus link add '#channel' --matrix '"+room+"'. Unless that is done soon, I leave again; then invite me once more.")
	})
}

// declineForGhost answers the invitation of a ghost to a room of its own:
// private conversations are not carried yet, and nobody shall wait for one.
func (b *Bridge) declineForGhost(ev *roomEvent) {
	if ev.Type != "m.room.member" || ev.StateKey == nil || !b.ours(*ev.StateKey) || b.ours(ev.Sender) {
		return
	}
	var m memberContent
	if json.Unmarshal(ev.Content, &m) != nil || m.Membership != "invite" {
		return
	}
	ghost := *ev.StateKey
	b.later(func(ctx context.Context) {
		b.client.member(ctx, ghost, ev.RoomID, "leave", "", "private conversations are not carried by this gateway yet")
	})
}

// leaveStrangers takes our bot out of rooms that nobody has linked within the
// grace time.
func (b *Bridge) leaveStrangers(ctx context.Context) {
	b.mu.Lock()
	var due []string
	for room, since := range b.guest {
		if _, linked := b.links[room]; linked {
			delete(b.guest, room)
		} else if time.Since(since) > b.cfg.InviteGrace {
			delete(b.guest, room)
			due = append(due, room)
		}
	}
	b.mu.Unlock()
	for _, room := range due {
		if err := b.client.member(ctx, "", room, "leave", "", "not linked"); core.Temporary(err) && err != nil {
			b.mu.Lock()
			b.guest[room] = time.Now() // once more, a grace time later
			b.mu.Unlock()
		}
	}
}

// findStrangers lists the rooms in which our bot was left by an earlier process.
func (b *Bridge) findStrangers(ctx context.Context) error {
	var out struct {
		Rooms []string `json:"joined_rooms"`
	}
	if err := b.client.call(ctx, "GET", "v3/joined_rooms", "", nil, &out); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, room := range out.Rooms {
		if _, linked := b.links[room]; !linked && len(b.guest) < maxGuest {
			b.guest[room] = time.Now()
		}
	}
	return nil
}

// A change is one member event of somebody else in a linked room, read.
type change struct {
	in         *intake
	ev         *roomEvent
	link       *core.Link
	now, prev  memberContent
	by, target core.UserURI
	name       string // of by
	ghost      bool   // the target is a ghost of ours
}

// membership offers what a member event of somebody else means here. What
// happened to a Matrix user in their room has happened: if the one who did it
// may not do so here, the homeserver itself says it again.
func (in *intake) membership(ev *roomEvent, l *core.Link) error {
	if ev.StateKey == nil {
		return core.Errorf(core.Invalid, "a membership of nobody")
	}
	b := in.b
	c := change{in: in, ev: ev, link: l, ghost: b.ours(*ev.StateKey)}
	if json.Unmarshal(ev.Content, &c.now) != nil {
		return core.Errorf(core.Invalid, "a membership that is not one")
	}
	if len(ev.Unsigned.PrevContent) > 0 {
		json.Unmarshal(ev.Unsigned.PrevContent, &c.prev) // absent and odd are the same
	}
	var ok, ok2, known bool
	c.target, ok = b.userURI(*ev.StateKey)
	c.by, ok2 = b.userURI(ev.Sender)
	if !ok || !ok2 {
		return core.Errorf(core.Invalid, "a membership of somebody without a name of ours")
	}
	if c.name, known = b.known.get(l.Room, c.by); !known {
		c.name = displayName("", ev.Sender)
	}
	if c.ghost {
		b.ghosts.setJoined(ev.RoomID, *ev.StateKey, c.now.Membership == "join")
	} else if c.now.Membership == "leave" || c.now.Membership == "ban" {
		b.known.drop(l.Room, c.target)
	}
	switch c.now.Membership {
	case "join":
		c.joins()
	case "leave":
		c.leaves()
	case "ban":
		if c.prev.Membership == "join" || c.ghost {
			c.say(c.by, "k", core.Control{Op: core.OpKick, User: c.target, Text: boundText(c.now.Reason)})
		}
		c.decree(core.Control{Op: core.OpRole, User: c.target, Role: core.RoleBanned})
	case "invite":
		c.say(c.by, "", core.Control{Op: core.OpInvite, User: c.target})
	}
	return nil
}

func (c *change) joins() {
	if c.by != c.target {
		return // nobody joins for somebody else
	}
	p := c.in.b.profileOf(*c.ev.StateKey, c.now)
	c.in.b.known.put(c.link.Room, c.target, p.Name)
	c.name = p.Name
	c.say(c.target, "", core.Control{Op: core.OpJoin, Profile: &p})
}

func (c *change) leaves() {
	reason := boundText(c.now.Reason)
	switch {
	case c.by == c.target:
		c.say(c.target, "", core.Control{Op: core.OpLeave, Text: reason})
	case c.prev.Membership == "ban":
		c.decree(core.Control{Op: core.OpRole, User: c.target, Role: core.RoleNone})
	case c.prev.Membership == "invite":
		// an invitation taken back: nothing was promised here
	default:
		c.say(c.by, "", core.Control{Op: core.OpKick, User: c.target, Text: reason})
		if !c.ghost {
			c.say(c.system(), "s", core.Control{Op: core.OpLeave, User: c.target, Text: reason})
		}
	}
}

// decree says it as the one who did it and, of a Matrix user, as the homeserver.
func (c *change) decree(ctl core.Control) {
	c.say(c.by, "", ctl)
	if !c.ghost {
		c.say(c.system(), "s", ctl)
	}
}

func (c *change) system() core.UserURI { return core.SystemUser(c.in.b.cfg.Domain) }

// say offers one envelope; each of an event has its own suffix.
func (c *change) say(sender core.UserURI, suffix string, ctl core.Control) {
	id := c.ev.EventID
	if suffix != "" {
		id = suffixed(id, suffix)
	}
	c.in.offer(c.link, c.ev, false, core.Envelope{Room: c.link.Room, Sender: sender,
		Origin: core.Origin{Network: c.in.b.network, ID: id}, Sent: sentAt(c.ev.SentMS), Body: ctl.Body(c.name)})
}

// boundText cuts what people write as a reason to what a control message holds.
func boundText(s string) string {
	out := make([]rune, 0, len(s))
	n := 0
	for _, r := range s {
		if r < ' ' || r == 0x7f {
			r = ' '
		}
		if n += len(string(r)); n > 400 { // an IRC line
			break
		}
		out = append(out, r)
	}
	return string(out)
}
