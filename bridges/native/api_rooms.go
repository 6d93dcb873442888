package native

import (
	"slices"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of what is said about rooms.
const (
	maxShown     = 1000 // members of a room that is shown
	maxUserRooms = 4096 // rooms of one user that are listed and read
	roomPage     = 256
)

// createRoom answers POST /v1/rooms.
func (a *api) createRoom(c *call, in *wire.CreateRoom) (*wire.Room, error) {
	var (
		room core.RoomID
		err  error
	)
	switch in.Kind {
	case "group":
		room, err = a.createGroup(c, in)
	case "channel", "":
		room, err = a.createChannel(c, in)
	default:
		err = core.Errorf(core.Invalid, "a room's kind is group or channel")
	}
	if err != nil {
		return nil, err
	}
	a.hub.joined(c.session.User)
	return a.roomFor(c, room)
}

func (a *api) createGroup(c *call, in *wire.CreateRoom) (core.RoomID, error) {
	if c.session.Device == "" {
		return "", core.Errorf(core.Denied, "an end-to-end encrypted room is made by a device")
	}
	room := in.Room
	if room == "" {
		var err error
		if room, err = a.named(in.Name); err != nil {
			return "", err
		}
	}
	g := core.CreateGroup{Room: core.Room{ID: room, Kind: core.Group, Name: in.Name, Direct: in.Direct},
		By: c.session.Device, User: c.session.User, Info: in.Info}
	err := a.gw().View(c.ctx(), func(r core.Reader) error {
		d, err := core.DeviceOf(r, c.session.Device)
		g.Record = d.Proof
		return err
	})
	if err == nil {
		_, err = a.gw().Do(c.ctx(), g)
	}
	return room, err
}

func (a *api) createChannel(c *call, in *wire.CreateRoom) (core.RoomID, error) {
	me := core.Member{User: c.session.User, Via: core.NetworkNative, Role: core.RoleOwner, Joined: true, Profile: a.cfg.API.Profile(c.session.User)}
	room := core.Room{ID: in.Room, Kind: core.Channel, Name: in.Name, Founder: me.User, Policy: core.Policy{TopicLock: true}}
	members := []core.Member{me}
	if in.Direct {
		other, err := core.ParseUserURI(string(in.With))
		if err != nil || other == me.User || !a.home(other.Domain()) {
			return "", core.Errorf(core.Invalid, "a conversation is with one other user of this homeserver")
		}
		room.ID, room.Direct, room.Name, room.Policy = core.DirectRoom(a.cfg.Domain, me.User, other), true, "", core.Policy{}
		members[0].Role = core.RoleMember
		members = append(members, core.Member{User: other, Via: core.NetworkNative, Role: core.RoleMember, Joined: true, Profile: a.cfg.API.Profile(other)})
		defer a.hub.joined(other)
	} else if err := a.nameChannel(&room); err != nil {
		return "", err
	}
	_, err := a.gw().Do(c.ctx(), core.CreateRoom{Room: room, Members: members})
	if in.Direct && core.CodeOf(err) == core.Conflict {
		err = nil // the conversation exists: whoever begins it, it is one
	}
	return room.ID, err
}

// nameChannel makes name and ID fit each other, as IRC needs it: #Lobby is the
// room lobby.
func (a *api) nameChannel(r *core.Room) error {
	if r.Name == "" {
		r.Name = r.ID.Local()
	}
	if strings.ContainsAny(r.Name, " ,\a\x00\r\n") || r.Name == "" {
		return core.Errorf(core.Invalid, "a Channel's name has no blanks and commas, and is not empty")
	}
	if !strings.HasPrefix(r.Name, "#") {
		r.Name = "#" + r.Name
	}
	id, err := a.named(r.Name)
	if err == nil && r.ID != "" && r.ID != id {
		err = core.Errorf(core.Invalid, "that Channel's URI would be %s", id)
	}
	r.ID = id
	return err
}

// profileOf is how a user of ours is shown who has said nothing about it.
func profileOf(u core.UserURI) core.Profile {
	name := u.Local()
	return core.Profile{Name: name, Ident: name, Host: u.Domain(), Account: name}
}

// listRooms answers GET /v1/rooms.
func (a *api) listRooms(c *call) (*wire.Rooms, error) {
	out := &wire.Rooms{Rooms: []wire.Room{}}
	return out, a.view(c.ctx(), func(v *view) error {
		count := func(n int) error { return a.limits.rooms(&c.session, n, a.cfg.Now()) }
		return v.eachRoom(c.session.User, count, func(id core.RoomID, _ presence) error {
			w, err := describe(v, id)
			w.Joined = true
			out.Rooms = append(out.Rooms, w)
			return err
		})
	})
}

// eachRoom calls f for each room that u is in, in the order of their URIs, and before,
// from time to time, count with how many come next.
func (v *view) eachRoom(u core.UserURI, count func(int) error, f func(core.RoomID, presence) error) error {
	after := core.RoomID("")
	for n := 0; n < maxUserRooms; {
		page, err := v.RoomsOf(u, after, roomPage)
		if err != nil {
			return err
		}
		if err := count(len(page)); err != nil {
			return err
		}
		for _, id := range page {
			p, err := v.presence(id, u)
			if err == nil && p.in {
				n++
				err = f(id, p)
			}
			if err != nil {
				return err
			}
		}
		if len(page) < roomPage {
			return nil
		}
		after = page[len(page)-1]
	}
	return nil
}

// describe says what there is to say about a room to who may see it.
func describe(r core.Reader, id core.RoomID) (wire.Room, error) {
	room, err := r.Room(id)
	if err != nil {
		return wire.Room{}, err
	}
	w := wire.Room{Room: id, Kind: room.Kind.String(), Name: room.Name, Topic: room.Topic, ContentType: room.ContentType,
		Direct: room.Direct, Encrypted: room.Kind == core.Group}
	if w.Encrypted {
		head, err := core.GroupOf(r, id)
		if err != nil && core.CodeOf(err) != core.NotFound { // its snapshot may still be on its way here
			return w, err
		}
		w.Domain, w.Epoch, w.Authority = core.GroupID(id), head.Authority.Epoch, head.Authority.Voters
	}
	w.Head, _, err = r.Head(id)
	return w, err
}

// showRoom answers GET /v1/rooms/{room}.
func (a *api) showRoom(c *call) (*wire.Room, error) {
	id, err := a.room(c)
	if err != nil {
		return nil, err
	}
	return a.roomFor(c, id)
}

var errNoRoom = core.Errorf(core.NotFound, "there is no such room, or you are not in it")

// roomFor describes a room to the caller: whole to members; a Channel that is no
// secret without its members to others.
func (a *api) roomFor(c *call, id core.RoomID) (*wire.Room, error) {
	var w wire.Room
	err := a.gw().View(c.ctx(), func(r core.Reader) error {
		room, err := r.Room(id)
		if core.CodeOf(err) == core.NotFound {
			return errNoRoom
		}
		if err != nil {
			return err
		}
		members, err := r.Members(id)
		if err != nil {
			return err
		}
		in := slices.ContainsFunc(members, func(m core.Member) bool { return m.User == c.session.User && m.Joined })
		if !in && (room.Kind == core.Group || room.Direct || room.Policy.Secret) {
			return errNoRoom
		}
		if w, err = describe(r, id); err != nil || !in {
			return err
		}
		w.Joined = true
		for _, m := range members {
			if m.Joined && len(w.Members) < maxShown {
				w.Members = append(w.Members, wire.Participant{User: m.User, Role: m.Role.String(), Name: m.Profile.Name})
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &w, nil
}

// joinRoom answers POST /v1/rooms/{room}/join.
func (a *api) joinRoom(c *call, in *wire.JoinRoom) (*wire.Room, error) {
	id, err := a.channel(c)
	if err != nil {
		return nil, err
	}
	p := a.cfg.API.Profile(c.session.User)
	if err := a.control(c, id, core.Control{Op: core.OpJoin, Text: in.Key, Profile: &p}); err != nil {
		return nil, err
	}
	a.hub.joined(c.session.User)
	return a.roomFor(c, id)
}

// leaveRoom answers POST /v1/rooms/{room}/leave.
func (a *api) leaveRoom(c *call) (*nothing, error) {
	id, err := a.channel(c)
	if err == nil {
		err = a.control(c, id, core.Control{Op: core.OpLeave})
	}
	return nil, err
}

// channel reads a room of the path that is no Group: those are joined and left by
// handshakes.
func (a *api) channel(c *call) (core.RoomID, error) {
	id, err := a.room(c)
	if err != nil {
		return "", err
	}
	return id, a.gw().View(c.ctx(), func(r core.Reader) error {
		room, err := r.Room(id)
		if err == nil && room.Kind == core.Group {
			err = core.Refuse(core.Unsupported, core.IsGroup, "an end-to-end encrypted room is joined and left by handshakes")
		}
		return err
	})
}

func (a *api) control(c *call, room core.RoomID, ctl core.Control) error {
	rs, err := a.gw().Submit(c.ctx(), core.Envelope{Room: room, Sender: c.session.User, Origin: core.Origin{Network: core.NetworkNative},
		Body: ctl.Body(c.session.User.Local())})
	if err == nil {
		err = rs[0].Err
	}
	return err
}

// typing answers POST /v1/rooms/{room}/typing: shown, and never stored.
func (a *api) typing(c *call, in *wire.Typing) (*nothing, error) {
	id, err := a.room(c)
	if err != nil {
		return nil, err
	}
	err = a.view(c.ctx(), func(v *view) error {
		_, err := v.mustBeIn(id, c.session.User)
		return err
	})
	if err != nil {
		return nil, err
	}
	s := core.Signal{Room: id, Sender: c.session.User, Name: c.session.User.Local(), Origin: core.NetworkNative, Typing: "done"}
	if in.Typing {
		s.Typing = "active"
	}
	a.gw().Signal(s)
	return nil, nil
}

// mustBeIn is presence for what only those in the room may do.
func (v *view) mustBeIn(room core.RoomID, u core.UserURI) (presence, error) {
	p, err := v.presence(room, u)
	if core.CodeOf(err) == core.NotFound || err == nil && !p.in {
		err = errNoRoom
	}
	return p, err
}

// history answers GET /v1/rooms/{room}/history.
func (a *api) history(c *call) (*wire.History, error) {
	id, err := a.room(c)
	if err != nil {
		return nil, err
	}
	before, err1 := c.number("before")
	after, err2 := c.number("after")
	limit, err3 := c.number("limit")
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			return nil, err
		}
	}
	rng := core.Range{Before: before, After: after, Limit: pageSize(limit), Newest: after == 0}
	out := &wire.History{Events: []wire.Event{}}
	return out, a.view(c.ctx(), func(v *view) error {
		p, err := v.mustBeIn(id, c.session.User)
		if err != nil {
			return err
		}
		rng.After = max(rng.After, p.from)
		events, err := v.Events(id, rng)
		if err != nil {
			return err
		}
		out.More = len(events) == rng.Limit && (!rng.Newest || events[0].Seq > rng.After+1)
		var size int
		for i := range events {
			w, held, err := given(v, &events[i])
			if err != nil || held {
				return err
			}
			out.Events = append(out.Events, w)
			if size += len(w.Sealed) + len(w.Content) + len(w.Text); size > maxSyncOctets {
				out.More = true
				return nil
			}
		}
		return nil
	})
}

// given is an event as devices are given it. A commit is held back, and everything behind
// it, until the epoch that it opens has a certificate (PROTOCOL §6). Where that is another
// commit's, this homeserver was misled, and devices see by it that this one does not count.
func given(r core.Reader, e *core.Event) (w wire.Event, held bool, err error) {
	w = wireEvent(e)
	sealed, ok := e.Body.(core.Sealed)
	if !ok {
		return w, false, nil
	}
	from, ok := core.EndsEpoch(sealed.Message)
	if !ok {
		return w, false, nil
	}
	w.Certificate, err = epoch.CertificateOf(r, e.Room, from+1)
	if core.CodeOf(err) == core.NotFound {
		return w, true, nil
	}
	return w, false, err
}
