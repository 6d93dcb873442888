package matrix

import (
	"context"
	"errors"
	"sync"

	"github.com/isthmus-chat/isthmus/core"
)

// ghosts keeps what is known of our ghosts at the homeserver, so that somebody
// who has spoken before costs one request per message. All of it can be asked
// again: forgetting is always safe.
type ghosts struct {
	mu    sync.Mutex
	users map[string]*ghost
	rooms map[string]*ghostRoom
}

// A ghost's lock is held while it is registered, renamed or enters a room: two
// lanes may need it at once.
type ghost struct {
	sync.Mutex
	registered   bool
	name, avatar string
}

type ghostRoom struct {
	loading sync.Mutex
	loaded  bool
	members map[string]bool // ghosts that are joined
	// unsure: a request may have been carried out though we heard no answer, in
	// this process or in one before it.
	unsure bool
}

func newGhosts() *ghosts {
	return &ghosts{users: map[string]*ghost{}, rooms: map[string]*ghostRoom{}}
}

func (g *ghosts) user(mxid string) *ghost {
	g.mu.Lock()
	defer g.mu.Unlock()
	u := g.users[mxid]
	if u == nil {
		if len(g.users) >= maxKnown {
			g.users = map[string]*ghost{}
		}
		u = &ghost{}
		g.users[mxid] = u
	}
	return u
}

func (g *ghosts) room(id string) *ghostRoom {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.rooms[id]
	if r == nil {
		r = &ghostRoom{members: map[string]bool{}, unsure: true}
		g.rooms[id] = r
	}
	return r
}

func (g *ghosts) isJoined(room, mxid string) bool {
	r := g.room(room)
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.members[mxid]
}

func (g *ghosts) setJoined(room, mxid string, joined bool) {
	r := g.room(room)
	g.mu.Lock()
	defer g.mu.Unlock()
	if joined && len(r.members) < core.MaxMembers {
		r.members[mxid] = true
	} else {
		delete(r.members, mxid)
	}
}

// forget drops what is known of a room.
func (g *ghosts) forget(room string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.rooms, room)
}

func (g *ghosts) setUnsure(room string, unsure bool) {
	r := g.room(room)
	g.mu.Lock()
	defer g.mu.Unlock()
	r.unsure = unsure
}

func (g *ghosts) isUnsure(room string) bool {
	r := g.room(room)
	g.mu.Lock()
	defer g.mu.Unlock()
	return r.unsure
}

// loadRoom learns once which ghosts are in the room and what they are called.
func (b *Bridge) loadRoom(ctx context.Context, room string) error {
	r := b.ghosts.room(room)
	r.loading.Lock()
	defer r.loading.Unlock()
	if r.loaded {
		return nil
	}
	joined, err := b.client.joined(ctx, room)
	if err != nil {
		return err
	}
	for mxid, p := range joined {
		if mxid == b.bot || !b.ours(mxid) {
			continue
		}
		b.ghosts.setJoined(room, mxid, true)
		u := b.ghosts.user(mxid)
		u.Lock()
		u.registered, u.name, u.avatar = true, p.Name, p.Avatar
		u.Unlock()
	}
	r.loaded = true
	return nil
}

// ghost returns the Matrix ID of a user's ghost after seeing to it that the
// ghost exists, is called name and is in the link's room. entered reports that
// it was not there before. An avatar of "" is left as it is.
func (b *Bridge) ghost(ctx context.Context, l *core.Link, user core.UserURI, name, avatar string) (mxid string, entered bool, err error) {
	mxid = b.mxid(user)
	if err := b.loadRoom(ctx, l.Place); err != nil {
		return "", false, b.lostRoom(ctx, l, err)
	}
	g := b.ghosts.user(mxid)
	g.Lock()
	defer g.Unlock()
	if !g.registered {
		local, _, _ := splitMXID(mxid)
		if err := b.client.register(ctx, local); err != nil {
			return "", false, err
		}
		g.registered = true
	}
	if err := b.showAs(ctx, g, mxid, name, avatar); err != nil {
		return "", false, err
	}
	if b.ghosts.isJoined(l.Place, mxid) {
		return mxid, false, nil
	}
	if err := b.enter(ctx, l, mxid); err != nil {
		return "", false, err
	}
	b.ghosts.setJoined(l.Place, mxid, true)
	return mxid, true, nil
}

// showAs keeps name and avatar of a ghost in step. A homeserver that does not
// let us (some forbid changes of profiles) does not stop what the ghost says.
func (b *Bridge) showAs(ctx context.Context, g *ghost, mxid, name, avatar string) error {
	if name != "" && g.name != name {
		if err := b.client.setProfile(ctx, mxid, "displayname", name); err != nil && core.Temporary(err) {
			return err
		}
		g.name = name
	}
	if avatar != "" && g.avatar != avatar {
		if err := b.client.setProfile(ctx, mxid, "avatar_url", avatar); err != nil && core.Temporary(err) {
			return err
		}
		g.avatar = avatar
	}
	return nil
}

// enter joins a ghost to the room, by our bot's invitation if need be.
func (b *Bridge) enter(ctx context.Context, l *core.Link, mxid string) error {
	_, err := b.client.join(ctx, mxid, l.Place)
	if core.CodeOf(err) != core.Denied || err == nil {
		return err
	}
	if err := b.client.member(ctx, "", l.Place, "invite", mxid, ""); err != nil && !joinedAlready(err) {
		return b.lostRoom(ctx, l, err)
	}
	_, err = b.client.join(ctx, mxid, l.Place)
	return err
}

// joinedAlready: Matrix answers an invitation of a member with M_FORBIDDEN (403)
// or, from some homeservers, M_BAD_STATE.
func joinedAlready(err error) bool { return hasCode(err, "M_BAD_STATE") }

// lostRoom looks whether a refusal means that our bot is not in the room any
// more. Then the link is paused, and err becomes one that keeps the event.
func (b *Bridge) lostRoom(ctx context.Context, l *core.Link, err error) error {
	if core.CodeOf(err) != core.Denied {
		return err
	}
	var m memberContent
	switch e := b.client.state(ctx, l.Place, "m.room.member", b.bot, &m); {
	case e != nil && core.Temporary(e):
		return e
	case e == nil && m.Membership == "join":
		return err // our bot is there: the refusal was about the ghost
	}
	gw, gone := b.gateway()
	if gone != nil {
		return gone
	}
	b.ghosts.forget(l.Place)
	if e := b.pause(ctx, gw, *l, "the gateway's user is not in the Matrix room"); e != nil {
		return e
	}
	return &core.Error{Code: core.Unavailable, Text: "the gateway's user is not in the Matrix room", Err: err}
}

// leave takes a ghost out of the room if it is there.
func (b *Bridge) leave(ctx context.Context, room, mxid, reason string) error {
	err := b.client.member(ctx, mxid, room, "leave", "", reason)
	if err != nil && core.Temporary(err) {
		return err
	}
	b.ghosts.setJoined(room, mxid, false) // a refusal says that it was not there
	return nil
}

func asCore(err error) *core.Error {
	if e, ok := errors.AsType[*core.Error](err); ok {
		return e
	}
	return &core.Error{}
}
