package matrix

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// LinkOptions says how EnsureLink gets to a Matrix room.
type LinkOptions struct {
	Create bool     // make a room instead of entering the one at link.Place
	Public bool     // with Create: anybody may join
	Invite []string // with Create: Matrix IDs
}

// EnsureLink enters or makes the Matrix room, checks that it can be carried,
// stores the link and returns it as stored. link.Place is a room ID or an
// alias; an ID is made if link.ID is empty. What is set already stays: it can be called
// again. Errors: Denied if our bot may not enter or the room is encrypted,
// Conflict if the place is linked already.
func (b *Bridge) EnsureLink(ctx context.Context, link core.Link, o LinkOptions) (core.Link, error) {
	gw, err := b.gateway()
	if err != nil {
		return link, err
	}
	var room core.Room
	err = gw.View(ctx, func(r core.Reader) (err error) {
		room, err = r.Room(link.Room)
		return err
	})
	switch {
	case err != nil:
		return link, err
	case room.Kind == core.Group:
		return link, core.Refuse(core.Denied, core.IsGroup, "an end-to-end encrypted room is not linked to Matrix by this gateway yet")
	}
	if err := b.client.register(ctx, b.cfg.Bot); err != nil {
		return link, err
	}
	if o.Create {
		link.Place, err = b.createRoom(ctx, room, o)
	} else {
		link.Place, err = b.enterRoom(ctx, link.Place)
	}
	if err != nil {
		return link, err
	}
	link.Network = b.network
	if link.ID == "" {
		link.ID = "m" + transactionID(string(link.Room), link.Place)[:8]
	}
	if link.Created.IsZero() {
		link.Created = time.Now()
	}
	if _, err := gw.Do(ctx, core.PutLink{Link: link, Caps: b.Caps()}); err != nil {
		return link, err
	}
	if err := b.readLinks(ctx, gw); err != nil {
		return link, err
	}
	b.describe(ctx, room, link)
	if err := b.syncMembers(ctx, gw, &link); err != nil {
		b.log.Warn("members not read yet", "network", "matrix", "code", core.CodeOf(err))
	}
	select {
	case b.prepare <- link.ID:
	default: // so many are waiting that the next start will see to it
	}
	return link, nil
}

// enterRoom lets our bot in and refuses what cannot be carried, saying so there.
func (b *Bridge) enterRoom(ctx context.Context, place string) (string, error) {
	id, err := b.client.join(ctx, "", place)
	switch {
	case err != nil && (core.CodeOf(err) == core.Denied || core.CodeOf(err) == core.NotFound):
		return "", core.Errorf(core.Denied, "the gateway may not enter that Matrix room: invite %s first: %w", b.bot, err)
	case err != nil:
		return "", err
	}
	b.mu.Lock()
	delete(b.guest, id)
	b.mu.Unlock()
	var encryption map[string]any
	err = b.client.state(ctx, id, "m.room.encryption", "", &encryption)
	if core.CodeOf(err) == core.NotFound && err != nil {
		return id, nil
	}
	if err != nil {
		return "", err
	}
	const why = "that Matrix room is encrypted, and an encrypted room cannot be carried to an unencrypted channel"
	b.notice(ctx, id, "This room was not connected: "+why+".")
	b.client.member(ctx, "", id, "leave", "", "encrypted")
	return "", core.Errorf(core.Denied, "%s", why)
}

// createRoom makes the Matrix room of a Channel, or enters the one that has its alias.
func (b *Bridge) createRoom(ctx context.Context, room core.Room, o LinkOptions) (string, error) {
	alias := b.alias(room.ID)
	preset := "private_chat"
	if o.Public {
		preset = "public_chat"
	}
	in := map[string]any{"room_alias_name": alias, "name": room.Name, "preset": preset, "invite": append([]string{}, o.Invite...),
		"initial_state": []any{map[string]any{"type": "m.bridge", "state_key": b.bridgeKey(room), "content": b.bridgeInfo(room)}}}
	if room.Topic != "" {
		in["topic"] = room.Topic
	}
	var out struct {
		RoomID string `json:"room_id"`
	}
	err := b.client.call(ctx, "POST", "v3/createRoom", "", in, &out)
	if hasCode(err, "M_ROOM_IN_USE") {
		return b.client.join(ctx, "", "#"+alias+":"+b.cfg.Server)
	}
	return out.RoomID, err
}

func (b *Bridge) bridgeKey(room core.Room) string {
	return "chat.isthmus://" + b.cfg.Domain + "/" + room.ID.Local()
}

// bridgeInfo is the content of m.bridge (MSC2346): what the room is connected to.
func (b *Bridge) bridgeInfo(room core.Room) map[string]any {
	return map[string]any{"bridgebot": b.bot,
		"protocol": map[string]string{"id": protocolIRC, "displayname": "IRC"},
		"network":  map[string]string{"id": b.cfg.Domain, "displayname": b.cfg.Domain},
		"channel":  map[string]string{"id": room.ID.Local(), "displayname": room.Name}}
}

// describe leaves word in the Matrix room and looks whether our bot has enough
// power there. A room that does not let it is linked all the same: only kicks,
// bans and topics then stay on our side, and whoever sets them is told.
func (b *Bridge) describe(ctx context.Context, room core.Room, l core.Link) {
	_, err := b.client.setState(ctx, "", l.Place, "m.bridge", b.bridgeKey(room), b.bridgeInfo(room))
	if core.CodeOf(err) == core.Denied && err != nil {
		b.tell(l.Place, "This room is connected to "+room.Name+". For topics, kicks and roles to be carried over, give "+b.bot+" the power of an administrator.")
	}
}

// prepareLink sees to it, for as long as it takes, that our bot is in a link's
// room (enter), that its members are known here and that ours are there (mirror).
func (b *Bridge) prepareLink(ctx context.Context, gw bridges.Gateway, id string, enter bool) {
	var l core.Link
	current := func() bool {
		err := gw.View(ctx, func(r core.Reader) (err error) {
			l, err = r.Link(id)
			return err
		})
		return err == nil && l.Paused == ""
	}
	err := b.retry(ctx, func() error {
		if !current() {
			return nil
		}
		if enter {
			if _, err := b.client.join(ctx, "", l.Place); err != nil {
				return b.lostRoom(ctx, &l, err)
			}
		}
		if err := b.syncMembers(ctx, gw, &l); err != nil {
			return err
		}
		return b.mirrorAll(ctx, gw, &l, current)
	})
	if err != nil && ctx.Err() == nil {
		b.log.Warn("link not prepared", "network", "matrix", "code", core.CodeOf(err), "err", err)
	}
}

// syncMembers makes the members of the Matrix room members here, and those who
// left while nobody looked leave. No transaction is taken in meanwhile, so that
// a join cannot be overtaken by an older list.
func (b *Bridge) syncMembers(ctx context.Context, gw bridges.Gateway, l *core.Link) error {
	b.inbound.Lock()
	defer b.inbound.Unlock()
	joined, err := b.client.joined(ctx, l.Place)
	if err != nil {
		return b.lostRoom(ctx, l, err)
	}
	here := map[core.UserURI]bool{}
	var envs []core.Envelope
	for mxid, p := range joined {
		user, ok := b.userURI(mxid)
		if b.ours(mxid) || !ok {
			continue
		}
		here[user] = true
		env := b.joinEnvelope(l.Room, user, mxid, memberContent{Name: p.Name, Avatar: p.Avatar})
		b.known.put(l.Room, user, env.Body.(core.Signed).Name)
		envs = append(envs, env)
	}
	levels, err := b.levels(ctx, gw, l)
	if err != nil {
		return err
	}
	envs = append(envs, levels...)
	gone, err := b.goneMembers(ctx, gw, l, here)
	if err != nil {
		return err
	}
	return b.submitPages(ctx, gw, append(envs, gone...))
}

// goneMembers returns leaves for members via this network who are not in here.
func (b *Bridge) goneMembers(ctx context.Context, gw bridges.Gateway, l *core.Link, here map[core.UserURI]bool) (envs []core.Envelope, err error) {
	err = gw.View(ctx, func(r core.Reader) error {
		members, err := r.Members(l.Room)
		for _, m := range members {
			if m.Via == b.network && m.Joined && !here[m.User] {
				b.known.drop(l.Room, m.User)
				envs = append(envs, core.Envelope{Room: l.Room, Sender: m.User, Origin: core.Origin{Network: b.network},
					Body: core.Control{Op: core.OpLeave}.Body(displayName(m.Profile.Name, b.mxid(m.User)))})
			}
		}
		return err
	})
	return envs, err
}

// levels returns the roles of the Matrix users by their power there.
func (b *Bridge) levels(ctx context.Context, gw bridges.Gateway, l *core.Link) (envs []core.Envelope, err error) {
	var content rawObject
	if err := b.client.state(ctx, l.Place, "m.room.power_levels", "", &content); err != nil {
		if core.Temporary(err) {
			return nil, err
		}
		return nil, nil // a room without power levels gives nobody a role
	}
	key := ""
	n := &names{ctx: ctx, b: b, gw: gw, link: l}
	all, err := b.conv.Inbound(converter.MatrixEvent{Room: l.Room, User: core.SystemUser(b.cfg.Domain), Network: b.network, Type: "m.room.power_levels",
		EventID: "$levels", Sender: b.bot, StateKey: &key, Content: []byte(content)}, n)
	if err != nil {
		return nil, nil // levels that make no sense give nobody a role either
	}
	for _, env := range all {
		if env, ok := b.decided(env); ok {
			env.Origin.ID = "" // the same levels may be read again
			envs = append(envs, env)
		}
	}
	creators, err := b.creators(ctx, l)
	return append(envs, creators...), err
}

// creatorsRule is the first room version whose creators have all power, and stand
// in no m.room.power_levels (specification v1.16, room version 12).
const creatorsRule = 12

// maxCreators bounds the creators of a room that get their role here.
const maxCreators = 64

// creators returns the roles of those who made the Matrix room.
func (b *Bridge) creators(ctx context.Context, l *core.Link) (envs []core.Envelope, err error) {
	var create struct {
		Sender  string `json:"sender"`
		Content struct {
			Version  string   `json:"room_version"`
			Creators []string `json:"additional_creators"`
		} `json:"content"`
	}
	path := "v3/rooms/" + path(l.Place, "state", "m.room.create", "") + "?format=event"
	if err := b.client.call(ctx, "GET", path, "", nil, &create); err != nil && core.Temporary(err) {
		return nil, err
	}
	if v, err := strconv.Atoi(create.Content.Version); err != nil || v < creatorsRule {
		return nil, nil // there they are listed like everybody
	}
	all := append([]string{create.Sender}, create.Content.Creators...)
	for _, mxid := range all[:min(len(all), maxCreators)] {
		if user, ok := b.userURI(mxid); ok && !b.ours(mxid) {
			c := core.Control{Op: core.OpRole, User: user, Role: core.RoleOwner}
			envs = append(envs, core.Envelope{Room: l.Room, Sender: core.SystemUser(b.cfg.Domain), Origin: core.Origin{Network: b.network}, Body: c.Body("")})
		}
	}
	return envs, nil
}

// A rawObject is JSON kept as it came.
type rawObject []byte

func (r *rawObject) UnmarshalJSON(b []byte) error { *r = append((*r)[:0], b...); return nil }

func (b *Bridge) submitPages(ctx context.Context, gw bridges.Gateway, envs []core.Envelope) error {
	for len(envs) > 0 {
		n := min(len(envs), syncPage)
		receipts, err := gw.Submit(ctx, envs[:n]...)
		if err != nil {
			return err
		}
		for i, rc := range receipts {
			if rc.Err != nil { // one who may not join stops nobody else
				b.known.drop(envs[i].Room, envs[i].Sender)
				b.count("refused")
			}
		}
		envs = envs[n:]
	}
	return nil
}

// mirrorAll lets the ghosts of all members enter, within the budget, for as
// long as the link is current.
func (b *Bridge) mirrorAll(ctx context.Context, gw bridges.Gateway, l *core.Link, current func() bool) error {
	if l.Mode != core.Mirror {
		return nil
	}
	var members []core.Member
	err := gw.View(ctx, func(r core.Reader) (err error) {
		members, err = r.Members(l.Room)
		return err
	})
	if err != nil {
		return err
	}
	if err := b.loadRoom(ctx, l.Place); err != nil {
		return b.lostRoom(ctx, l, err)
	}
	for _, m := range members {
		if !m.Joined || b.isMatrix(m.User) || b.ghosts.isJoined(l.Place, b.mxid(m.User)) {
			continue
		}
		if !current() {
			return nil
		}
		if err := b.mirror(ctx, gw, l, m.User, &m.Profile); err != nil && core.Temporary(err) {
			return err
		}
	}
	return nil
}

// Unlink stops a link, takes every ghost and our bot out of its room, lets the
// members from there leave ours, and drops the link. If it fails midway the
// link stays, paused, and Unlink can be called again.
func (b *Bridge) Unlink(ctx context.Context, id string) error {
	gw, err := b.gateway()
	if err != nil {
		return err
	}
	var l core.Link
	var room core.Room
	err = gw.View(ctx, func(r core.Reader) (err error) {
		if l, err = r.Link(id); err == nil {
			room, err = r.Room(l.Room)
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case l.Network != b.network:
		return core.Errorf(core.NotFound, "no such link to this network")
	}
	l.Paused = "being unlinked"
	if _, err := gw.Do(ctx, core.PutLink{Link: l, Caps: b.Caps()}); err != nil {
		return err
	}
	if err := b.readLinks(ctx, gw); err != nil {
		return err
	}
	if err := b.sweep(ctx, room, &l); err != nil {
		return err
	}
	gone, err := b.goneMembers(ctx, gw, &l, nil)
	if err == nil {
		err = b.submitPages(ctx, gw, gone)
	}
	if err != nil {
		return err
	}
	if _, err := gw.Do(ctx, core.DropLink{ID: id}); err != nil {
		return err
	}
	return b.readLinks(ctx, gw)
}

// sweep empties the Matrix room of everybody who is ours.
func (b *Bridge) sweep(ctx context.Context, room core.Room, l *core.Link) error {
	joined, err := b.client.joined(ctx, l.Place)
	if err != nil && core.Temporary(err) {
		return err
	} // a room that our bot cannot see any more is empty of it already
	for mxid := range joined {
		if mxid == b.bot || !b.ours(mxid) {
			continue
		}
		if err := b.budget.Wait(ctx); err != nil {
			return err
		}
		if err := b.leave(ctx, l.Place, mxid, "unlinked"); err != nil {
			return err
		}
	}
	if !strings.HasPrefix(l.Place, "!") || err != nil {
		return nil
	}
	b.client.setState(ctx, "", l.Place, "m.bridge", b.bridgeKey(room), struct{}{}) // may need power that our bot never had
	b.ghosts.forget(l.Place)
	return b.leave(ctx, l.Place, b.bot, "unlinked")
}
