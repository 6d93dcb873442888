package client

import (
	"context"
	"errors"
	"slices"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// NewRoom says what Create makes.
type NewRoom struct {
	Room    core.RoomID // "": a random one, that says nothing
	Name    string
	Topic   string
	Channel bool // not encrypted
	Options []policy.Option
}

// Create makes a room at the own homeserver with this user as its owner: a Group,
// unless a Channel is asked for.
func (c *Client) Create(ctx context.Context, n NewRoom) (core.RoomID, error) {
	if err := c.enter(ctx); err != nil {
		return "", err
	}
	defer c.mu.Unlock()
	if c.self == nil {
		return "", core.Errorf(core.Invalid, "prepare the device first")
	}
	if n.Channel {
		w, err := ask(ctx, c, func(ctx context.Context) (wire.Room, error) {
			return c.cfg.Home.CreateRoom(ctx, wire.CreateRoom{Room: n.Room, Kind: core.Channel.String(), Name: n.Name})
		})
		if err != nil {
			return "", err
		}
		if err := c.listed(w); err != nil {
			return "", err
		}
		return w.Room, c.flush(ctx)
	}
	id := n.Room
	if id == "" {
		b, err := c.bytes(16)
		if err != nil {
			return "", err
		}
		id = core.NewRoomID(c.self.user.Domain(), core.Base32.EncodeToString(b))
	}
	return id, c.create(ctx, id, n)
}

// create makes the group, and writes it down before the homeserver hears of it.
func (c *Client) create(ctx context.Context, id core.RoomID, n NewRoom) error {
	if r := c.rooms[id]; r != nil && (r.Joined || r.Joining) {
		return core.Errorf(core.Conflict, "this device has such a room")
	}
	options := append([]policy.Option{policy.WithMetadata(policy.Metadata{Room: string(id), Name: n.Name, Subject: n.Topic})}, n.Options...)
	dict := policy.Default(string(c.self.user), c.self.user.Domain(), options...).
		With(mls.ComponentContentMediaTypes, contentTypes.AppendTo(nil))
	required := mls.RequiredCapabilities{
		Extensions:  mls.NewList(mls.ExtAppDataDictionary),
		Proposals:   mls.NewList(mls.ProposalAppDataUpdate, mls.ProposalSelfRemove),
		Credentials: mls.NewList(mls.CredentialBasic),
	}
	extensions := mls.Extensions{{Type: mls.ExtRequiredCapabilities, Data: required.AppendTo(nil)}}.WithAppData(dict)
	g, err := group.Create(c.groups, c.cfg.Suite, core.GroupID(id), c.self.groupIdentity(), extensions, c.self.leafExtensions())
	if err != nil {
		return core.Errorf(core.Invalid, "group: %w", err)
	}
	info, err := g.GroupInfo(true, nil)
	if err != nil {
		return core.Errorf(core.Internal, "group info: %w", err)
	}
	r, err := c.room(id)
	if err != nil {
		return err
	}
	r.Kind, r.Name = core.Group, n.Name
	c.keepJoining(r, g, joining{Create: &wire.CreateRoom{Room: id, Kind: core.Group.String(), Name: n.Name, Info: info}})
	return c.begin(ctx, id)
}

// An Invited is what an invitation came to for one user.
type Invited struct {
	User    core.UserURI
	Devices int              // that were added
	Status  core.ClaimStatus // why none was, or core.Claimed
}

// Invite adds users with all their devices, in one commit (PROTOCOL §3). Users
// without a usable key package stay outside; the result says who and why.
func (c *Client) Invite(ctx context.Context, id core.RoomID, users ...core.UserURI) ([]Invited, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	if _, err := c.able(ctx, id); err != nil {
		return nil, err
	}
	slices.Sort(users)
	users = slices.Compact(users)
	claims, err := c.claim(ctx, id, users)
	if err != nil {
		return nil, err
	}
	out := make([]Invited, 0, len(users))
	for _, u := range users {
		i := Invited{User: u, Devices: len(claims[u].packages), Status: claims[u].status}
		if i.Devices > 0 {
			i.Status = core.Claimed
		}
		out = append(out, i)
	}
	return out, c.commit(ctx, id, func(r *room) (change, error) { return c.inviting(r, users, claims) })
}

// claimed are the usable key packages of one user's devices.
type claimed struct {
	packages []*mls.KeyPackage
	records  []core.Identity
	status   core.ClaimStatus
}

// claim takes key packages from the users' homeservers and holds each to who its
// device is.
func (c *Client) claim(ctx context.Context, id core.RoomID, users []core.UserURI) (map[core.UserURI]claimed, error) {
	if len(users) > core.MaxClaim {
		return nil, core.Errorf(core.TooLarge, "at most %d users at once", core.MaxClaim)
	}
	request := wire.Claim{Room: id, Users: users, Suites: []uint16{uint16(c.cfg.Suite)}}
	answer, err := ask(ctx, c, func(ctx context.Context) (wire.Claims, error) { return c.cfg.Home.Claim(ctx, request) })
	if err != nil {
		return nil, err
	}
	out := map[core.UserURI]claimed{}
	for _, a := range answer.Claims[:min(len(answer.Claims), core.MaxClaim*core.MaxDevices)] {
		if !slices.Contains(users, a.User) {
			continue
		}
		one := out[a.User]
		if one.status = a.Status; a.Status == core.Claimed {
			k, err := c.usable(ctx, a)
			if core.Temporary(err) && err != nil {
				return nil, err
			}
			if err != nil {
				one.status = core.Incompatible
			} else {
				one.packages, one.records = append(one.packages, k), append(one.records, *a.Proof)
			}
		}
		out[a.User] = one
	}
	return out, nil
}

// usable reads a claimed key package and says why it is not to be used.
func (c *Client) usable(ctx context.Context, a core.Claim) (*mls.KeyPackage, error) {
	if a.Proof == nil {
		return nil, core.Errorf(core.Invalid, "a key package without its device's record")
	}
	m, err := mls.Parse(a.Package)
	if err != nil || m.KeyPackage == nil {
		return nil, core.Errorf(core.Invalid, "not a key package")
	}
	if err := m.KeyPackage.Verify(mls.Version10, c.cfg.Suite, c.groups.Policy); err != nil {
		return nil, core.Errorf(core.Invalid, "key package: %w", err)
	}
	if c.known[a.Device] == nil && len(c.users[a.User]) > 0 {
		c.meet(ctx, a.User) // its other devices say whether it is one; without them there is one warning too many
	}
	known := len(c.users[a.User])
	err = c.learn(ctx, *a.Proof, a.User)
	c.warnOfStrangers(a.User, known)
	if err != nil {
		return nil, err
	}
	device, user := leafOwner(m.KeyPackage.Leaf)
	k := c.known[device]
	if k == nil || user != a.User || !c.fits(m.KeyPackage.Leaf) || k.Refused {
		return nil, refuse(errImpostor)
	}
	r, err := k.record()
	if err != nil {
		return nil, err
	}
	att, err := identity.ParseAttestation(k.Attestation)
	if err != nil {
		return nil, core.Errorf(core.Internal, "stored attestation: %w", err)
	}
	p := c.chains[user.Domain()]
	if p == nil {
		return nil, core.Errorf(core.Unavailable, "the homeserver's record is missing")
	}
	return m.KeyPackage, refuse(identity.Usable(r, att, p.chain, nil, c.cfg.Now().Unix()))
}

// inviting is the commit that brings users in, for the room as it is now.
func (c *Client) inviting(r *room, users []core.UserURI, claims map[core.UserURI]claimed) (change, error) {
	var ch change
	var names []string
	present := map[core.UserURI]bool{}
	for _, l := range r.g.Public().Tree().All() {
		_, u := leafOwner(l)
		present[u] = true
	}
	for _, u := range users {
		one := claims[u]
		if len(one.packages) == 0 || present[u] {
			continue
		}
		if _, in := r.p.Role(string(u)); !in {
			names = append(names, string(u))
			if d := u.Domain(); !slices.Contains(r.p.Domains(), d) {
				ch.coming = append(ch.coming, d)
			}
		}
		for _, k := range one.packages {
			ch.proposals = append(ch.proposals, group.Add(k))
		}
		ch.records = append(ch.records, one.records...)
	}
	if len(ch.proposals) == 0 {
		return ch, errDone
	}
	if len(names) > 0 {
		ch.proposals = append(ch.proposals, update(policy.ComponentParticipants, policy.Invite(r.p, names, policy.RoleMember)))
	}
	return ch, nil
}

func update(id mls.ComponentID, data []byte) *mls.Proposal {
	return &mls.Proposal{Type: mls.ProposalAppDataUpdate, Component: id, Operation: mls.AppDataSet, Data: data}
}

// removeLeaves are Removes of all devices of the users.
func removeLeaves(r *room, users []core.UserURI) (out []*mls.Proposal) {
	for i, l := range r.g.Public().Tree().All() {
		if _, u := leafOwner(l); slices.Contains(users, u) {
			out = append(out, group.Remove(i))
		}
	}
	return out
}

// going lists the participants whose removal waits for a commit: the next one takes
// it up, whatever else it does.
func (r *room) going() (users []string) {
	list := r.p.Participants()
	for _, p := range r.g.Public().Pending() {
		if p.Proposal.Type != mls.ProposalAppDataUpdate || p.Proposal.Component != policy.ComponentParticipants {
			continue
		}
		u, err := policy.ParseParticipantUpdate(p.Proposal.Data)
		if err != nil {
			continue
		}
		for _, i := range u.Removed {
			if int64(i) < int64(len(list)) {
				users = append(users, list[i].User)
			}
		}
	}
	return users
}

// authority is the change of authority that a commit has to make: homeservers leave
// with their last participant, whoever proposed that, and come with their first.
func (r *room) authority(ch change) []*mls.Proposal {
	if slices.ContainsFunc(ch.proposals, func(p *mls.Proposal) bool { return p.Component == policy.ComponentAuthority }) {
		return nil
	}
	a, changed := policy.AuthorityAfter(r.p, append(r.going(), ch.going...)...)
	a.Domains = slices.Clone(a.Domains)
	for _, d := range ch.coming {
		if !slices.Contains(a.Domains, d) && len(a.Domains) < policy.MaxAuthority {
			a.Domains, changed = append(a.Domains, d), true
		}
	}
	if !changed {
		return nil
	}
	slices.Sort(a.Domains)
	return []*mls.Proposal{update(policy.ComponentAuthority, policy.SetAuthority(a))}
}

func texts(users []core.UserURI) []string {
	out := make([]string, len(users))
	for i, u := range users {
		out[i] = string(u)
	}
	return out
}

// do is commit for the exported methods.
func (c *Client) do(ctx context.Context, id core.RoomID, p plan) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	return c.commit(ctx, id, p)
}

// Remove takes users out with all their devices: they read nothing of what is said
// after.
func (c *Client) Remove(ctx context.Context, id core.RoomID, users ...core.UserURI) error {
	return c.do(ctx, id, func(r *room) (change, error) {
		going := r.going()
		users := slices.DeleteFunc(slices.Clone(users), func(u core.UserURI) bool {
			_, in := r.p.Role(string(u))
			return !in || slices.Contains(going, string(u))
		})
		if len(users) == 0 {
			return c.sweep(r) // they leave by themselves
		}
		ch := change{proposals: removeLeaves(r, users), going: texts(users)}
		ch.proposals = append(ch.proposals, update(policy.ComponentParticipants, policy.RemoveUsers(r.p, ch.going...)))
		return ch, nil
	})
}

// Ban is Remove for users who may not come back until they have another role.
func (c *Client) Ban(ctx context.Context, id core.RoomID, users ...core.UserURI) error {
	return c.do(ctx, id, func(r *room) (change, error) {
		users := slices.DeleteFunc(slices.Clone(users), func(u core.UserURI) bool { return r.p.Banned(string(u)) })
		if len(users) == 0 {
			return change{}, errDone
		}
		ch := change{proposals: removeLeaves(r, users), going: texts(users)}
		ch.proposals = append(ch.proposals, update(policy.ComponentParticipants, policy.SetRole(r.p, policy.RoleBanned, ch.going...)))
		return ch, nil
	})
}

// SetRole gives participants another role; of somebody banned, core.RoleNone takes
// the ban back.
func (c *Client) SetRole(ctx context.Context, id core.RoomID, role core.Role, users ...core.UserURI) error {
	if role == core.RoleBanned {
		return c.Ban(ctx, id, users...)
	}
	if role == core.RoleNone {
		return c.Remove(ctx, id, users...)
	}
	return c.do(ctx, id, func(r *room) (change, error) {
		var names []string
		for _, u := range users {
			if now, in := r.p.Role(string(u)); in && now != uint32(role) {
				names = append(names, string(u))
			}
		}
		if len(names) == 0 {
			return change{}, errDone
		}
		return change{proposals: []*mls.Proposal{update(policy.ComponentParticipants, policy.SetRole(r.p, uint32(role), names...))}}, nil
	})
}

// Describe gives a Group another name and topic.
func (c *Client) Describe(ctx context.Context, id core.RoomID, name, topic string) error {
	return c.do(ctx, id, func(r *room) (change, error) {
		m := r.p.Metadata()
		if m.Name == name && m.Subject == topic {
			return change{}, errDone
		}
		m.Name, m.Subject = name, topic
		return change{proposals: []*mls.Proposal{update(policy.ComponentMetadata, policy.SetMetadata(m))}}, nil
	})
}

// SetAuthority changes which homeservers agree on the room's epochs. Invalid: that
// is no authority. Denied: one of them has no participant, or the user may not.
func (c *Client) SetAuthority(ctx context.Context, id core.RoomID, a policy.Authority) error {
	if _, err := policy.ParseAuthority(policy.SetAuthority(a)); err != nil {
		return core.Errorf(core.Invalid, "between 1 and %d homeservers decide, each a domain", policy.MaxAuthority)
	}
	return c.do(ctx, id, func(r *room) (change, error) {
		if now := r.p.Authority(); slices.Equal(now.Domains, a.Domains) && now.Rule == a.Rule {
			return change{}, errDone
		}
		return change{proposals: []*mls.Proposal{update(policy.ComponentAuthority, policy.SetAuthority(a))}}, nil
	})
}

// Renew replaces the device's keys in a Group: who learned the old ones reads
// nothing of what is said after (RFC 9420 §16.6).
func (c *Client) Renew(ctx context.Context, id core.RoomID) error {
	return c.do(ctx, id, func(*room) (change, error) { return change{path: true}, nil })
}

// RemoveDevice takes a device of the own user out of all Groups, one that was lost
// for instance, and takes back the link to it.
func (c *Client) RemoveDevice(ctx context.Context, device core.DeviceURI) error {
	if err := c.Unlink(ctx, device); err != nil {
		return err
	}
	rooms, err := c.Rooms(ctx)
	if err != nil {
		return err
	}
	var failed error
	for _, i := range rooms {
		if !i.Joined || !i.Encrypted {
			continue
		}
		err := c.do(ctx, i.Room, func(r *room) (change, error) {
			for leaf, l := range r.g.Public().Tree().All() {
				if d, u := leafOwner(l); d == device && u == c.self.user {
					return change{proposals: []*mls.Proposal{group.Remove(leaf)}}, nil
				}
			}
			return change{}, errDone
		})
		failed = errors.Join(failed, err)
	}
	return failed
}

// Leave asks to be taken out with all devices: proposals that another member
// commits (draft-ietf-mls-extensions-10 §6.2). From then on nothing is sent; the
// room is left for this device when the commit arrives. Where nobody else stays,
// nobody could: the device only forgets the room.
func (c *Client) Leave(ctx context.Context, id core.RoomID) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	r, err := c.group(ctx, id)
	if err != nil {
		return err
	}
	if !r.others(c.self.user) {
		return c.abandon(ctx, r)
	}
	r.Leaving = true
	c.touch(r)
	if _, own := r.leaving(c.self.user); own {
		return c.flush(ctx) // it waits for its commit
	}
	return c.depart(ctx, id)
}

// depart proposes that the user is taken out with all devices.
func (c *Client) depart(ctx context.Context, id core.RoomID) error {
	return c.commit(ctx, id, func(r *room) (change, error) {
		self := r.g.Self()
		ch := change{alone: []*mls.Proposal{{Type: mls.ProposalSelfRemove}}}
		for i, l := range r.g.Public().Tree().All() {
			if _, u := leafOwner(l); u == c.self.user && i != self {
				ch.alone = append(ch.alone, group.Remove(i))
			}
		}
		if _, in := r.p.Role(string(c.self.user)); in {
			ch.alone = append(ch.alone, update(policy.ComponentParticipants, policy.RemoveUsers(r.p, string(c.self.user))))
		}
		return ch, nil
	})
}

// JoinCode makes a code that lets others into a Group: for so many uses (0 =
// without limit) until expires (ms, 0 = for ever); "" has one made.
func (c *Client) JoinCode(ctx context.Context, id core.RoomID, code string, uses uint32, expires int64) (wire.JoinCode, error) {
	if err := c.enter(ctx); err != nil {
		return wire.JoinCode{}, err
	}
	defer c.mu.Unlock()
	request := wire.JoinCode{Code: code, Uses: uses, Expires: expires}
	return ask(ctx, c, func(ctx context.Context) (wire.JoinCode, error) { return c.cfg.Home.PutJoinCode(ctx, id, request) })
}
