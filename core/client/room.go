package client

import (
	"cmp"
	"context"
	"slices"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// roomState is what the device remembers of a room, beside the group itself.
type roomState struct {
	N       uint64      `cbor:"1,keyasint"`
	ID      core.RoomID `cbor:"2,keyasint"`
	Kind    core.Kind   `cbor:"3,keyasint"`
	Name    string      `cbor:"4,keyasint,omitempty"`
	Topic   string      `cbor:"5,keyasint,omitempty"`
	Direct  bool        `cbor:"6,keyasint,omitempty"`
	Member  bool        `cbor:"7,keyasint,omitempty"` // the user is in the room, as the homeserver says
	Joined  bool        `cbor:"8,keyasint,omitempty"` // this device is in the Group, or the user in the Channel
	Cursor  uint64      `cbor:"9,keyasint,omitempty"` // place of the last event that was dealt with
	Behind  bool        `cbor:"10,keyasint,omitempty"`
	Entered uint64      `cbor:"11,keyasint,omitempty"` // epoch in which this device came in
	Records uint64      `cbor:"12,keyasint,omitempty"` // change records after the snapshot
	Former  []former    `cbor:"13,keyasint,omitempty"`
	Lost    string      `cbor:"14,keyasint,omitempty"` // why the group is to be entered anew
	Halted  string      `cbor:"15,keyasint,omitempty"` // why nothing is followed any more
	Renewed int64       `cbor:"16,keyasint,omitempty"` // ms of the last own path
	Seen    int64       `cbor:"17,keyasint,omitempty"` // ms when the room was first heard of without its group, or its early Welcome is looked at again
	Tried   int64       `cbor:"18,keyasint,omitempty"` // ms of the last attempt to enter by itself
	Tries   int         `cbor:"19,keyasint,omitempty"`
	Offer   bool        `cbor:"20,keyasint,omitempty"` // there is one in tableOffer
	Joining bool        `cbor:"21,keyasint,omitempty"` // and in tableJoining
	JoinID  []byte      `cbor:"23,keyasint,omitempty"` // SHA-256 of its commit
	Future  int         `cbor:"22,keyasint,omitempty"` // events in tableFuture
	Leaving bool        `cbor:"25,keyasint,omitempty"` // the user wants out
	Gone    bool        `cbor:"24,keyasint,omitempty"` // left with nobody there to commit it: not entered again unasked
	Kept    int64       `cbor:"26,keyasint,omitempty"` // ms since when the group is set aside: out of it, on the homeserver's word alone
}

// A former is whose leaf one was, until an epoch: late messages name leaves of the
// tree of their own epoch.
type former struct {
	_      struct{} `cbor:",toarray"`
	Until  uint64   // last epoch in which it was
	Leaf   uint32
	Device core.DeviceURI
	User   core.UserURI
}

// room is a room in use.
type room struct {
	roomState
	dirty   bool
	g       *group.Group  // nil: not in use, or none
	p       *policy.State // of g's epoch
	stalled bool          // in this round nothing more is followed
	warned  uint64        // place of the event that stalled it, told once
	tendAt  int64         // ms when others' proposals are to be committed; 0: not seen yet
	passed  bool          // a false commit of g's epoch was passed over, and the true one has not come
	aheadAt int64         // ms since when the commits that lead on are waited for (tendAhead); 0: not seen yet
	visited uint64        // epoch in which those messages were looked at last
	own     []byte        // the last commit of this device that was merged
	fresh   bool          // the next write is a snapshot

	heard map[heardKey]bool // its last messages; nil: nothing was said again lately
}

func (c *Client) loadRooms(ctx context.Context) error {
	return c.each(ctx, tableRooms, func(row Row) error {
		r := new(room)
		if err := decode(row.Data, &r.roomState); err != nil {
			return err
		}
		c.rooms[r.ID] = r
		c.order = append(c.order, r)
		return nil
	})
}

// inOrder lists the values of a map by a number that each has once.
func inOrder[K comparable, V any](m map[K]V, by func(V) uint64) []V {
	out := make([]V, 0, len(m))
	for _, v := range m {
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b V) int { return cmp.Compare(by(a), by(b)) })
	return out
}

// room finds a room, or begins to remember it.
func (c *Client) room(id core.RoomID) (*room, error) {
	if r := c.rooms[id]; r != nil {
		return r, nil
	}
	if _, err := core.ParseRoomID(string(id)); err != nil {
		return nil, err
	}
	if len(c.order) >= maxRooms {
		return nil, core.Errorf(core.TooLarge, "more than %d rooms", maxRooms)
	}
	r := &room{roomState: roomState{N: uint64(len(c.order)), ID: id, Seen: c.now()}}
	c.rooms[id] = r
	c.order = append(c.order, r)
	c.touch(r)
	return r, nil
}

// group loads the Group of a room that this device is in.
func (c *Client) group(ctx context.Context, id core.RoomID) (*room, error) {
	r := c.rooms[id]
	switch {
	case r == nil:
		return nil, core.Errorf(core.NotFound, "this device does not know that room")
	case r.Kind != core.Group:
		return nil, core.Errorf(core.Invalid, "that room is not end-to-end encrypted")
	case !r.Joined:
		return nil, notIn(r)
	}
	return r, c.open(ctx, r)
}

// notIn says why nothing can be done in a room: Denied, or Unavailable while this device
// is on the way in.
func notIn(r *room) error {
	if r != nil && r.Member && r.Lost == "" {
		return core.Errorf(core.Unavailable, "this device is not in that room yet: it enters by itself, which may take some seconds")
	}
	return core.Refuse(core.Denied, core.NotJoined, "this device is not in that room")
}

// open reads the group from its snapshot and the records after it.
func (c *Client) open(ctx context.Context, r *room) error {
	if r.g != nil {
		return nil
	}
	rows, err := c.cfg.Store.Rows(ctx, tableGroup+string(r.ID), 0, maxRecords+2)
	if err != nil {
		return err
	}
	if len(rows) == 0 || rows[0].N != 0 {
		return core.Errorf(core.Internal, "the group of a room is not stored")
	}
	var changes [][]byte
	for _, row := range rows[1:] {
		changes = append(changes, row.Data)
	}
	g, err := group.Restore(c.groups, rows[0].Data, changes, c.signers)
	if err != nil {
		return core.Errorf(core.Internal, "stored group: %w", err)
	}
	p, err := stateOf(g.Public().Context().Extensions)
	if err != nil {
		return err
	}
	r.g, r.p = g, p
	return nil
}

// stateOf reads the room's policy.
func stateOf(e mls.Extensions) (*policy.State, error) {
	dict, err := e.AppData()
	if err == nil {
		var p *policy.State
		if p, err = policy.ParseState(dict); err == nil {
			return p, nil
		}
	}
	return nil, core.Errorf(core.Invalid, "room policy: %w", err)
}

// keep writes what changed in a room's group: records, or a snapshot where there
// is none that they could follow, or too many.
func (c *Client) keep(r *room) {
	if r.g == nil || !r.Joined {
		return
	}
	table := tableGroup + string(r.ID)
	records, ok := r.g.Changes()
	if ok && !r.fresh && r.Records < maxRecords {
		if len(records) > 0 {
			r.Records++
			c.put(table, r.Records, records)
		}
		return
	}
	c.put(table, 0, r.g.Snapshot())
	for ; r.Records > 0; r.Records-- {
		c.put(table, r.Records, nil)
	}
	r.fresh = false
}

// enterGroup makes g the room's group from now on; how says who vouches for it.
func (c *Client) enterGroup(r *room, g *group.Group, p *policy.State, how string) {
	r.g, r.p, r.fresh, r.Kept, r.passed = g, p, true, 0, false
	r.Kind, r.Joined, r.Member, r.Gone, r.Lost, r.Halted = core.Group, true, true, false, "", ""
	r.Entered, r.Former, r.Renewed, r.Tries = g.Epoch(), nil, c.now(), 0
	r.Behind = true // the homeserver does not know from where on this device reads
	c.clearOffer(r)
	r.describe()
	c.touch(r)
	c.tell(Update{Kind: RoomJoined, Room: r.ID, User: c.self.user, Text: how})
	for _, l := range g.Public().Tree().All() {
		d, _ := leafOwner(l)
		c.doubt(r, d)
	}
}

// leaveGroup erases the group; what was read stays.
func (c *Client) leaveGroup(r *room) {
	table := tableGroup + string(r.ID)
	for n := range r.Records + 1 {
		c.put(table, n, nil)
	}
	r.Records, r.g, r.p, r.Joined, r.Lost, r.Halted, r.Kept, r.passed = 0, nil, nil, false, "", "", 0, false
	c.unsent(r)
	c.clearOffer(r)
	c.touch(r)
}

// unsent gives up what waits to be said in a room that was left.
func (c *Client) unsent(r *room) {
	for _, o := range c.waiting(r.ID) {
		if c.settle(o, nil); o.Again > 0 {
			continue
		}
		o.Failed = "the room was left before this was sent"
		c.tell(Update{Kind: NewMessage, Room: r.ID, User: o.Sender, Message: &o.Message})
	}
}

// leaving are the users whose last device's removal waits for a commit: they neither
// speak nor commit any more (draft-ietf-mimi-protocol-06 §5.3). own says whether this
// device is among those that go.
func (r *room) leaving(self core.UserURI) (users map[core.UserURI]bool, own bool) {
	tree := r.g.Public().Tree()
	leaves := map[uint32]bool{}
	for _, p := range r.g.Public().Pending() {
		switch {
		case p.Proposal.Type == mls.ProposalSelfRemove && p.Sender.Type == mls.SenderMember:
			leaves[p.Sender.Index] = true
		case p.Proposal.Type == mls.ProposalRemove:
			leaves[p.Proposal.Removed] = true
		}
	}
	if len(leaves) == 0 {
		return nil, false
	}
	users = map[core.UserURI]bool{}
	for i, l := range tree.All() {
		_, u := leafOwner(l)
		stays, known := users[u]
		users[u] = (stays || !known) && leaves[i]
	}
	return users, leaves[r.g.Self()] || users[self]
}

// others reports whether somebody else is in the room who stays.
func (r *room) others(self core.UserURI) bool {
	gone, _ := r.leaving(self)
	for _, l := range r.g.Public().Tree().All() {
		if _, u := leafOwner(l); u != self && !gone[u] {
			return true
		}
	}
	return false
}

// describe takes the room's name from its policy.
func (r *room) describe() {
	m := r.p.Metadata()
	r.Name, r.Topic = m.Name, m.Subject
	r.Direct = r.p.Fixed()
}

// owner says whose leaf one was in an epoch.
func (r *room) owner(epoch uint64, leaf uint32) (core.DeviceURI, core.UserURI) {
	for _, f := range r.Former { // rising
		if f.Leaf == leaf && f.Until >= epoch {
			return f.Device, f.User
		}
	}
	return leafOwner(r.g.Public().Tree().Leaf(leaf))
}

func leafOwner(l *mls.LeafNode) (core.DeviceURI, core.UserURI) {
	if l == nil {
		return "", ""
	}
	device, user, err := identity.LeafNames(l)
	if err != nil {
		return "", ""
	}
	return core.DeviceURI(device), core.UserURI(user)
}

// A RoomInfo is a room as people see it.
type RoomInfo struct {
	Room      core.RoomID
	Kind      core.Kind
	Name      string
	Topic     string
	Direct    bool
	Joined    bool   // this device can read and write
	Encrypted bool   // end to end
	Domain    []byte // security domain: the MLS group_id, nil if not encrypted (PROTOCOL §13)
	Epoch     uint64
	Authority []string    // homeservers that agree on epochs
	Rule      policy.Rule // how many of them have to
	Devices   int
	Waiting   bool   // something of this device is not accepted yet
	Halted    string // why the room goes no further here, "" if it does
}

// Rooms lists the rooms that this device knows, in the order in which it came to
// know them.
func (c *Client) Rooms(ctx context.Context) ([]RoomInfo, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	var out []RoomInfo
	for _, r := range c.order {
		if !r.Member && !r.Joined {
			continue
		}
		i := RoomInfo{Room: r.ID, Kind: r.Kind, Name: r.Name, Topic: r.Topic, Direct: r.Direct, Joined: r.Joined,
			Encrypted: r.Kind == core.Group, Waiting: r.Offer || r.Joining, Halted: cmp.Or(r.Halted, r.Lost)}
		if r.Kind == core.Group {
			i.Domain = core.GroupID(r.ID)
		}
		if r.Kind == core.Group && r.Joined {
			if err := c.open(ctx, r); err != nil {
				return nil, err
			}
			a := r.p.Authority()
			i.Epoch, i.Authority, i.Rule, i.Devices = r.g.Epoch(), a.Domains, a.Rule, r.g.Public().Tree().Members()
		}
		out = append(out, i)
	}
	return out, nil
}

// Left lists the Groups that the user is in no more and this device still has the
// history of, in the order in which it came to know them.
func (c *Client) Left(ctx context.Context) ([]RoomInfo, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	var out []RoomInfo
	for _, r := range c.order {
		if r.Kind == core.Group && !r.Member && !r.Joined && (!r.Offer || r.Kept != 0) && !r.Joining {
			out = append(out, RoomInfo{Room: r.ID, Kind: r.Kind, Name: r.Name, Topic: r.Topic, Direct: r.Direct,
				Encrypted: true, Domain: core.GroupID(r.ID)})
		}
	}
	return out, nil
}

// A Member is a participant of a room, with the devices that can read in it.
type Member struct {
	User    core.UserURI
	Role    core.Role
	Devices []DeviceInfo
}

// Members lists the participants of a Group as this device has verified them, in
// the order of the room's list.
func (c *Client) Members(ctx context.Context, id core.RoomID) ([]Member, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	r, err := c.group(ctx, id)
	if err != nil {
		return nil, err
	}
	devices := map[core.UserURI][]DeviceInfo{}
	for _, l := range r.g.Public().Tree().All() {
		d, u := leafOwner(l)
		info := DeviceInfo{Device: d, User: u, Self: d == c.self.device}
		if k := c.known[d]; k != nil {
			record, err := k.record()
			if err != nil {
				return nil, err
			}
			info.Name, info.Linked, info.Verified, info.Refused, info.Revoked = record.Name, c.linked(k), k.Verified, k.Refused, record.Revoked
		}
		devices[u] = append(devices[u], info)
	}
	var out []Member
	for _, p := range r.p.Participants() {
		u := core.UserURI(p.User)
		out = append(out, Member{User: u, Role: core.RoleOf(p.Role), Devices: devices[u]})
	}
	return out, nil
}

// A State is where this device stands in a Group.
type State struct {
	Epoch         uint64
	Entered       uint64 // the epoch in which the device came in: what was said before cannot be read
	Authenticator []byte // epoch_authenticator (RFC 9420 §8.7): equal on all members of one epoch
	Tree          []byte // tree_hash
}

// State says where this device stands in a Group that it is in; NotFound or Denied
// if it is not.
func (c *Client) State(ctx context.Context, id core.RoomID) (State, error) {
	if err := c.enter(ctx); err != nil {
		return State{}, err
	}
	defer c.mu.Unlock()
	r, err := c.group(ctx, id)
	if err != nil {
		return State{}, err
	}
	return State{Epoch: r.g.Epoch(), Entered: r.Entered, Authenticator: r.g.EpochAuthenticator(), Tree: r.g.Public().Context().TreeHash}, nil
}

// listed takes up a room as the homeserver lists it.
func (c *Client) listed(w wire.Room) error {
	r, err := c.room(w.Room)
	if err != nil {
		return err
	}
	if r.Gone {
		return nil
	}
	group := w.Kind == core.Group.String()
	if group {
		r.Kind = core.Group
	}
	if !group || !r.Joined { // in a Group its members say what it is called
		r.Name, r.Topic, r.Direct = w.Name, w.Topic, w.Direct
	}
	if !r.Member && r.Kept != 0 {
		r.Seen = c.now()
	}
	if r.Member = true; !group && !r.Joined {
		r.Joined = true
		c.tell(Update{Kind: RoomJoined, Room: r.ID, User: c.self.user})
	}
	if group && r.Joined && w.Head > r.Cursor { // the homeserver begins after what was not read here
		r.Behind = true
	}
	c.touch(r)
	return nil
}
