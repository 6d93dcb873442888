package policy

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// A room of the tests has a user for every role, each of its own homeserver
// but for those of a.example, and each with one client.
const (
	owner    = "mimi://a.example/u/owner"
	admin    = "mimi://a.example/u/admin"
	operator = "mimi://a.example/u/operator"
	halfop   = "mimi://a.example/u/halfop"
	voice    = "mimi://a.example/u/voice"
	member   = "mimi://a.example/u/member"
	other    = "mimi://b.example/u/other" // the only member of b.example
	idle     = "mimi://a.example/u/idle"  // a member without clients
	banned   = "mimi://c.example/u/banned"
	stranger = "mimi://d.example/u/stranger"
)

type world struct {
	t       *testing.T
	dict    mls.AppData
	state   *State
	clients map[string]int
}

func newWorld(t *testing.T, options ...Option) *world {
	t.Helper()
	dict := Default(owner, "a.example", options...)
	dict = dict.With(ComponentParticipants, ParticipantList{
		{owner, RoleOwner}, {admin, RoleAdmin}, {operator, RoleOperator}, {halfop, RoleHalfop}, {voice, RoleVoice},
		{member, RoleMember}, {other, RoleMember}, {idle, RoleMember}, {banned, RoleBanned},
	}.AppendTo(nil))
	w := &world{t: t, dict: dict, clients: map[string]int{owner: 1, admin: 1, operator: 1, halfop: 1, voice: 1, member: 1, other: 1}}
	w.state = mustParse(t, dict)
	return w
}

// with has another component.
func (w *world) with(id mls.ComponentID, data []byte) *world {
	w.t.Helper()
	w.dict = w.dict.With(id, data)
	w.state = mustParse(w.t, w.dict)
	return w
}

// withRoles has other roles.
func (w *world) withRoles(edit func(Roles)) *world {
	w.t.Helper()
	roles, err := ParseRoles(w.state.Roles().AppendTo(nil))
	if err != nil {
		w.t.Fatal(err)
	}
	edit(roles)
	return w.with(ComponentRoles, roles.AppendTo(nil))
}

func device(user string, n int) Client { return Client{User: user, Device: fmt.Sprint(user, "/", n)} }

// devices are the first n of a user, as many as the world has.
func (w *world) devices(users ...string) (out []Client) {
	for _, u := range users {
		for n := range w.clients[u] {
			out = append(out, device(u, n))
		}
	}
	return out
}

// p is what a user proposes; set adds to it.
func p(by string, set ...func(*Proposed)) Proposed {
	out := Proposed{By: by}
	for _, f := range set {
		f(&out)
	}
	return out
}

func list(update []byte) func(*Proposed) { return component(ComponentParticipants, update) }

func component(id mls.ComponentID, update []byte) func(*Proposed) {
	return func(p *Proposed) { p.Components = append(p.Components, ComponentUpdate{ID: id, Update: update}) }
}

func adds(c ...Client) func(*Proposed) { return func(p *Proposed) { p.Added = append(p.Added, c...) } }
func removes(c ...Client) func(*Proposed) {
	return func(p *Proposed) { p.Removed = append(p.Removed, c...) }
}

// change is what a commit of these proposals does.
func (w *world) change(actor string, proposals ...Proposed) *Change {
	w.t.Helper()
	updates := map[mls.ComponentID][][]byte{}
	c := &Change{Before: w.state, Actor: actor, Proposals: proposals}
	after, members := map[string]int{}, 0
	for u, n := range w.clients {
		after[u], members = n, members+n
	}
	dict := w.dict
	for _, p := range proposals {
		c.Added, c.Removed = append(c.Added, p.Added...), append(c.Removed, p.Removed...)
		for _, u := range p.Components {
			if u.Remove {
				dict = dict.Without(u.ID)
			}
			updates[u.ID] = append(updates[u.ID], u.Update)
		}
	}
	for _, x := range c.Added {
		after[x.User]++
	}
	for _, x := range c.Removed {
		after[x.User]--
	}
	changed := []mls.ComponentID{}
	for id, list := range updates {
		changed = append(changed, id)
		if current, present := dict.Find(id); len(list[0]) > 0 {
			next, err := Component(id, current, present, list)
			if err != nil {
				w.t.Fatal(err)
			}
			dict = dict.With(id, next)
		}
	}
	next, err := w.state.Next(dict, changed)
	if err != nil {
		w.t.Fatal(err)
	}
	c.After = next
	c.ClientsAfter = func(u string) int { return after[u] }
	c.Members = func() int { return members + len(c.Added) - len(c.Removed) }
	return c
}

// joins is an external commit in which a user joins by a first device.
func (w *world) joins(user string, proposals ...Proposed) *Change {
	w.t.Helper()
	c := w.change(user, proposals...)
	before := c.ClientsAfter
	c.External, c.Added = true, append(c.Added, device(user, 90))
	c.ClientsAfter = func(u string) int {
		if u == user {
			return before(u) + 1
		}
		return before(u)
	}
	return c
}

const allowed Capability = 0xfffe

// verdict is the capability that is missing, or allowed.
func verdict(t *testing.T, err error) Capability {
	t.Helper()
	if err == nil {
		return allowed
	}
	var v *Violation
	if !errors.As(err, &v) || v.Error() == "" {
		t.Fatalf("not a violation: %v", err)
	}
	return v.Capability
}

type verdicts []struct {
	name   string
	change *Change
	want   Capability
}

func (list verdicts) check(t *testing.T) {
	t.Helper()
	for _, c := range list {
		if err := c.change.Check(); verdict(t, err) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// room-policy §8.1.1: canAddParticipant needs the target role among the
// targets of 0 in the holder's role, and authorizes the added user's clients.
func TestCanAddParticipant(t *testing.T) {
	w := newWorld(t)
	invite := func(role uint32) func(*Proposed) { return list(Invite(w.state, []string{stranger}, role)) }
	two := adds(device(stranger, 0), device(stranger, 1))
	verdicts{
		{"a member invites", w.change(member, p(member, invite(RoleMember), two)), allowed},
		{"without clients yet", w.change(member, p(member, invite(RoleMember))), allowed},
		{"to a role that members do not give", w.change(member, p(member, invite(RoleVoice), two)), CanAddParticipant},
		{"a halfop invites to voice", w.change(halfop, p(halfop, invite(RoleVoice), two)), allowed},
		{"nobody invites above", w.change(admin, p(admin, invite(RoleAdmin), two)), CanAddParticipant},
		{"an owner invites an owner", w.change(owner, p(owner, invite(RoleOwner), two)), allowed},
		{"clients alone", w.change(owner, p(owner, two)), NoCapability},
		{"list and clients by two authors", w.change(member, p(owner, invite(RoleMember)), p(member, two)), allowed},
		{"clients of a participant who has none", w.change(member, p(member, adds(device(idle, 0)))), allowed},
		{"clients of one who has some", w.change(owner, p(owner, adds(device(member, 1)))), CanAddOwnClient},
		{"a committer is not the author", w.change(owner, p(voice, invite(RoleVoice))), CanAddParticipant},
	}.check(t)
	w = newWorld(t, InviteOnly())
	verdicts{
		{"members of an invite-only room", w.change(member, p(member, list(Invite(w.state, []string{stranger}, RoleMember)))), CanAddParticipant},
		{"halfops of an invite-only room", w.change(halfop, p(halfop, list(Invite(w.state, []string{stranger}, RoleMember)))), allowed},
	}.check(t)
}

// room-policy §8.1.1: canAddOwnClient, by Add or by external commit.
func TestCanAddOwnClient(t *testing.T) {
	w := newWorld(t)
	cannot := newWorld(t).withRoles(func(r Roles) { r[RoleMember].Capabilities = nil })
	resync := w.joins(member, p(member, removes(device(member, 90))))
	resync.Resync = true
	resynced := resync.ClientsAfter
	resync.ClientsAfter = func(u string) int { return resynced(u) } // the old leaf was the only one
	verdicts{
		{"by an Add", w.change(member, p(member, adds(device(member, 1)))), allowed},
		{"from outside", w.joins(member), allowed},
		{"of a participant without clients", w.joins(idle), allowed},
		{"by one who may not", cannot.change(member, p(member, adds(device(member, 1)))), CanAddOwnClient},
		{"from outside, by one who may not", cannot.joins(member), CanAddOwnClient},
		{"the banned", w.joins(banned), NoCapability},
		{"strangers", w.joins(stranger), NoCapability},
		{"a device in its own place", resync, allowed},
	}.check(t)
}

// room-policy §8.1.1: canOpenJoin and canUseJoinCode on role 0,
// canJoinIfPreauthorized on the role that is joined.
func TestJoiningByOneself(t *testing.T) {
	join := func(w *world, role uint32, set ...func(*Proposed)) *Change {
		return w.joins(stranger, p(stranger, append(set, list(Invite(w.state, []string{stranger}, role)))...))
	}
	code := func(w *world, got, role uint32) *Change {
		c := join(w, role)
		c.CodeRole = got
		return c
	}
	closed, open, codes := newWorld(t), newWorld(t, OpenJoin()), newWorld(t, JoinCodes())
	staff := Claim{2, "role", "staff"}
	claims := func(p *Proposed) { p.Claims = []Claim{{2, "name", "x"}, staff} }
	pre := newWorld(t).withRoles(func(r Roles) { r[RoleVoice].Capabilities = append(r[RoleVoice].Capabilities, CanJoinIfPreauthorized) }).
		with(ComponentPreauth, Preauth{{nil, Role{Index: RoleOwner}}, {[]Claim{staff}, Role{Index: RoleVoice}}, {[]Claim{staff}, Role{Index: RoleOperator}}}.AppendTo(nil))
	verdicts{
		{"a closed room", join(closed, RoleMember), CanOpenJoin},
		{"an open room", join(open, RoleMember), allowed},
		{"an open room, too high", join(open, RoleVoice), CanOpenJoin},
		{"a code in an open room", code(open, RoleVoice, RoleVoice), CanOpenJoin},
		{"a code", code(codes, RoleMember, RoleMember), allowed},
		{"a code for another role", code(codes, RoleMember, RoleVoice), CanOpenJoin},
		{"no code", join(codes, RoleMember), CanOpenJoin},
		{"preauthorized", join(pre, RoleVoice, claims), allowed},
		{"preauthorized by a later entry", join(pre, RoleOperator, claims), CanOpenJoin},
		{"an entry that demands nothing", join(pre, RoleOwner, claims), CanOpenJoin},
		{"without the claims", join(pre, RoleVoice), CanOpenJoin},
		{"the banned stay banned", open.joins(banned, p(banned, list(SetRole(open.state, RoleMember, banned)))), NoCapability},
		{"who joins brings nobody", open.joins(stranger, p(stranger, list(Invite(open.state, []string{stranger, "mimi://e.example/u/x"}, RoleMember)))), CanAddParticipant},
	}.check(t)
	closed.with(ComponentOperational, Operational{ExternalProposal: true}.AppendTo(nil))
	verdicts{{"no external commits (§7)", closed.joins(idle), NoCapability}}.check(t)
}

// room-policy §8.1.2: list and clients go as a single action, and the actor's
// changes from the target's role have to contain 0.
func TestCanRemoveParticipant(t *testing.T) {
	w := newWorld(t)
	gone := func(by, who string) Proposed {
		return p(by, list(RemoveUsers(w.state, who)), removes(w.devices(who)...))
	}
	verdicts{
		{"a halfop removes a member", w.change(halfop, gone(halfop, member)), allowed},
		{"a halfop removes an operator", w.change(halfop, gone(halfop, operator)), CanRemoveParticipant},
		{"a member removes a member", w.change(member, gone(member, voice)), CanRemoveParticipant},
		{"an operator removes an admin", w.change(operator, gone(operator, admin)), CanRemoveParticipant},
		{"clients left", w.change(owner, p(owner, list(RemoveUsers(w.state, member)))), NoCapability},
		{"clients removed by another", w.change(member, p(owner, list(RemoveUsers(w.state, voice))), p(member, removes(w.devices(voice)...))), allowed},
		{"without clients", w.change(halfop, gone(halfop, idle)), allowed},
		{"the banned", w.change(operator, gone(operator, banned)), allowed},
	}.check(t)
}

// room-policy §8.1.2: canRemoveSelf, canRemoveOwnClient, canKick.
func TestLeavingAndKicking(t *testing.T) {
	w := newWorld(t)
	w.clients[voice] = 2
	leave := p(member, list(RemoveUsers(w.state, member)), removes(w.devices(member)...))
	half := p(voice, list(RemoveUsers(w.state, voice)), removes(device(voice, 0)))
	silent := w.change(member) // an engine that does not say whose proposal it was
	silent.Removed = []Client{device(voice, 0)}
	never := newWorld(t).withRoles(func(r Roles) {
		r[RoleMember].Capabilities = slices.DeleteFunc(r[RoleMember].Capabilities, func(c Capability) bool { return c == CanRemoveSelf || c == CanRemoveOwnClient })
	})
	verdicts{
		{"a leave that another commits", w.change(owner, leave), allowed},
		{"a leave with a client left", w.change(owner, half), NoCapability},
		{"a leave of one who may not", never.change(owner, leave), CanRemoveSelf},
		{"an own client", w.change(voice, p(voice, removes(device(voice, 0)))), allowed},
		{"the last client, and stays as inactive", w.change(owner, p(member, removes(device(member, 0)))), allowed},
		{"an own client of one who may not", never.change(owner, p(member, removes(device(member, 0)))), CanRemoveOwnClient},
		{"a kick", w.change(operator, p(operator, removes(device(member, 0)))), allowed},
		{"a removal that nobody proposed", silent, CanKick},
		{"a kick by a halfop", w.change(halfop, p(halfop, removes(device(member, 0)))), CanKick},
	}.check(t)
}

// room-policy §8.1.3: canChangeUserRole never concerns the holder, and the
// actor's table decides.
func TestRoleChanges(t *testing.T) {
	w := newWorld(t)
	set := func(by, who string, role uint32) *Change {
		return w.change(by, p(by, list(SetRole(w.state, role, who))))
	}
	verdicts{
		{"an owner makes an owner", set(owner, admin, RoleOwner), allowed},
		{"an admin makes an operator", set(admin, member, RoleOperator), allowed},
		{"an admin makes an admin", set(admin, member, RoleAdmin), CanChangeUserRole},
		{"an operator takes from an admin", set(operator, admin, RoleMember), CanChangeUserRole},
		{"an operator makes a halfop", set(operator, member, RoleHalfop), allowed},
		{"a halfop gives voice", set(halfop, member, RoleVoice), allowed},
		{"a halfop makes a halfop", set(halfop, member, RoleHalfop), CanChangeUserRole},
		{"a member", set(member, voice, RoleMember), CanChangeUserRole},
		{"oneself", set(operator, operator, RoleMember), CanChangeOwnRole},
		{"who is banned", set(banned, member, RoleVoice), NoCapability},
		{"a stranger", set(stranger, member, RoleVoice), NoCapability},
		{"an external sender", w.change(owner, p("", list(SetRole(w.state, RoleVoice, member)))), CanChangeUserRole},
	}.check(t)
	staff := []Claim{{2, "role", "staff"}}
	w.withRoles(func(r Roles) { r[RoleMember].Capabilities = append(r[RoleMember].Capabilities, CanChangeOwnRole) }).
		with(ComponentPreauth, Preauth{{staff, Role{Index: RoleOperator}}}.AppendTo(nil))
	own := func(role uint32, c []Claim) *Change {
		return w.change(member, p(member, list(SetRole(w.state, role, member)), func(p *Proposed) { p.Claims = c }))
	}
	verdicts{
		{"the role that one is preauthorized for", own(RoleOperator, staff), allowed},
		{"another", own(RoleAdmin, staff), CanChangeOwnRole},
		{"without the claims", own(RoleOperator, nil), CanChangeOwnRole},
	}.check(t)
}

// room-policy §8.1.3: a ban changes the role to 1 and removes all clients;
// unbanning authorizes no Add of clients.
func TestBans(t *testing.T) {
	w := newWorld(t)
	ban := func(by, who string) Proposed {
		return p(by, list(SetRole(w.state, RoleBanned, who)), removes(w.devices(who)...))
	}
	unban := list(SetRole(w.state, RoleMember, banned))
	verdicts{
		{"a halfop bans a member", w.change(halfop, ban(halfop, member)), allowed},
		{"a halfop bans an operator", w.change(halfop, ban(halfop, operator)), CanBan},
		{"a member", w.change(member, ban(member, voice)), CanBan},
		{"an owner bans an owner's equal", w.change(owner, ban(owner, admin)), allowed},
		{"before they come", w.change(halfop, ban(halfop, stranger)), allowed},
		{"with clients left", w.change(owner, p(owner, list(SetRole(w.state, RoleBanned, member)))), NoCapability},
		{"an unban", w.change(halfop, p(halfop, unban)), allowed},
		{"an unban by a member", w.change(member, p(member, unban)), CanUnban},
		{"an unban with clients", w.change(owner, p(owner, unban, adds(device(banned, 0)))), NoCapability},
		{"clients of the banned", w.change(owner, p(owner, adds(device(banned, 0)))), NoCapability},
		{"a ban of oneself", w.change(operator, ban(operator, operator)), CanChangeOwnRole},
	}.check(t)
	// A proposal from before the ban is as good as none.
	loose := newWorld(t).withRoles(func(r Roles) {
		r[RoleBanned].Capabilities, r[RoleBanned].AuthorizedChanges = r[RoleOwner].Capabilities, r[RoleOwner].AuthorizedChanges
	})
	verdicts{{"proposals of the banned", loose.change(owner, p(banned, list(SetRole(loose.state, RoleVoice, member)))), NoCapability}}.check(t)
	w.clients[banned] = 1 // as if a hub had been told of the ban and not yet of the commit
	verdicts{
		{"anybody takes out clients of the banned", w.change(member, p(member, removes(device(banned, 0)))), allowed},
		{"and so does the hub", w.change(member, p("", removes(device(banned, 0)))), allowed},
	}.check(t)
	w = newWorld(t).withRoles(func(r Roles) {
		r[RoleVoice].Capabilities = append(r[RoleVoice].Capabilities, CanChangeUserRole, CanKick)
		r[RoleVoice].AuthorizedChanges = append(r[RoleVoice].AuthorizedChanges, RoleTargets{RoleMember, []uint32{RoleBanned}})
	})
	verdicts{{"canChangeUserRole and canKick allow the same", w.change(voice, ban(voice, member)), allowed}}.check(t)
}

// protocol-06 §7.5: a user changes once in a commit. protocol-06 §5.3: who was
// removed or banned commits nothing.
func TestCommits(t *testing.T) {
	w := newWorld(t)
	twice := w.change(owner, p(owner, list(SetRole(w.state, RoleVoice, member))))
	twice.Proposals = append(twice.Proposals, p(admin, list(SetRole(w.state, RoleHalfop, member))))
	unread := w.change(owner)
	unread.Proposals = []Proposed{p(owner, list([]byte{9}))}
	beyond := w.change(owner)
	beyond.Proposals = []Proposed{p(owner, list(ParticipantUpdate{Removed: []uint32{99}}.AppendTo(nil)))}
	again := w.change(owner)
	again.Proposals = []Proposed{p(owner, list(ParticipantUpdate{Added: []Participant{{member, 2}}}.AppendTo(nil)))}
	verdicts{
		{"an update of keys", w.change(member), allowed},
		{"twice in one commit", twice, NoCapability},
		{"nonsense", unread, NoCapability},
		{"beyond the list", beyond, NoCapability},
		{"who is there already", again, NoCapability},
		{"the banned", w.change(banned), NoCapability},
		{"strangers", w.change(stranger), NoCapability},
		{"external senders", w.change(""), NoCapability},
	}.check(t)
}

// room-policy §3: bounds of active participants; §5: multi_device, max_clients.
func TestBounds(t *testing.T) {
	voices := func(least uint32, most *uint32) *world {
		return newWorld(t).withRoles(func(r Roles) { r[RoleVoice].MinimumActive, r[RoleVoice].MaximumActive = least, most })
	}
	one := voices(0, number(1))
	promote := func(w *world, who string) *Change {
		return w.change(owner, p(owner, list(SetRole(w.state, RoleVoice, who))))
	}
	kick := func(w *world) *Change { return w.change(owner, p(owner, removes(device(voice, 0)))) }
	single := newWorld(t).with(ComponentBaseRoom, BaseRoom{}.AppendTo(nil))
	full := newWorld(t).with(ComponentBaseRoom, BaseRoom{MultiDevice: true, MaxClients: number(7)}.AppendTo(nil))
	verdicts{
		{"a second active voice", promote(one, member), NoCapability},
		{"a second voice that is not active", promote(one, idle), allowed},
		{"the last active voice goes", kick(voices(1, nil)), NoCapability},
		{"no minimum", kick(voices(0, nil)), allowed},
		{"a second device where one is allowed", single.change(member, p(member, adds(device(member, 1)))), NoCapability},
		{"a first device where one is allowed", single.joins(idle), allowed},
		{"a client too many", full.change(member, p(member, adds(device(member, 1)))), NoCapability},
		{"one in the place of another", full.change(member, p(member, adds(device(member, 1)), removes(device(member, 0)))), allowed},
	}.check(t)
	roles := voices(0, nil)
	next, _ := ParseRoles(roles.state.Roles().AppendTo(nil))
	next[RoleVoice].MinimumActive = 2
	verdicts{{"new roles that the room does not meet", roles.change(owner, p(owner, component(ComponentRoles, next.AppendTo(nil)))), NoCapability}}.check(t)
}

// room-policy §5: fixed membership.
func TestFixedMembership(t *testing.T) {
	w := &world{t: t, dict: Default(owner, "a.example", FixedMembership(other)), clients: map[string]int{owner: 1}}
	w.state = mustParse(t, w.dict)
	verdicts{
		{"clients of existing participants", w.change(owner, p(owner, adds(device(other, 0)))), allowed},
		{"a participant's first client", w.joins(other), allowed},
		{"all of one's clients", w.change(other, p(other, removes(device(owner, 0)))), CanKick},
		{"nobody leaves", w.change(owner, p(other, list(RemoveUsers(w.state, other)))), NoCapability},
		{"nobody comes", w.change(owner, p(owner, list(Invite(w.state, []string{stranger}, RoleOwner)))), NoCapability},
		{"nobody joins", w.joins(stranger, p(stranger, list(Invite(w.state, []string{stranger}, RoleOwner)))), NoCapability},
		{"nobody is banned", w.change(owner, p(owner, list(SetRole(w.state, RoleBanned, other)))), CanBan},
		{"a new name", w.change(owner, p(owner, component(ComponentMetadata, SetMetadata(Metadata{Name: "us"})))), allowed},
	}.check(t)
}

// room-policy §3, §4: what does not go with changes of participants; §8.2, §8.6
// and §8.7: who changes what.
func TestComponents(t *testing.T) {
	w := newWorld(t, WithMetadata(Metadata{Room: "mimi://a.example/r/x", Name: "x"}))
	roles := component(ComponentRoles, w.state.Roles().AppendTo(nil))
	pre := component(ComponentPreauth, Preauth{}.AppendTo(nil))
	meta := func(f func(*Metadata)) func(*Proposed) {
		m := w.state.Metadata()
		f(&m)
		return component(ComponentMetadata, SetMetadata(m))
	}
	gone := func(id mls.ComponentID) func(*Proposed) {
		return func(p *Proposed) { p.Components = append(p.Components, ComponentUpdate{ID: id, Remove: true}) }
	}
	noRoles := w.change(owner)
	noRoles.Proposals = []Proposed{p(owner, gone(ComponentRoles))}
	noAuthority := w.change(owner)
	noAuthority.Proposals = []Proposed{p(owner, gone(ComponentAuthority))}
	unknown := w.change(owner)
	unknown.Proposals = []Proposed{p(owner, component(0xf0f0, nil))}
	link := component(ComponentJoinLinks, JoinLinksUpdate{Added: []string{"x"}}.AppendTo(nil))
	verdicts{
		{"roles by the owner", w.change(owner, p(owner, roles)), allowed},
		{"roles by an admin", w.change(admin, p(admin, roles)), CanChangeRoleDefinitions},
		{"roles and participants", w.change(owner, p(owner, roles), p(owner, list(Invite(w.state, []string{stranger}, 2)))), NoCapability},
		{"preauthorization and additions", w.change(owner, p(owner, pre, list(Invite(w.state, []string{stranger}, 2)))), NoCapability},
		{"preauthorization and removals", w.change(owner, p(owner, pre, list(RemoveUsers(w.state, idle)))), allowed},
		{"preauthorization by an admin", w.change(admin, p(admin, pre)), CanChangePreauthorizedList},
		{"a subject by a halfop", w.change(halfop, p(halfop, meta(func(m *Metadata) { m.Subject = "y" }))), allowed},
		{"a name by a halfop", w.change(halfop, p(halfop, meta(func(m *Metadata) { m.Name = "y" }))), CanChangeRoomName},
		{"a name by an operator", w.change(operator, p(operator, meta(func(m *Metadata) { m.Name = "y" }))), allowed},
		{"a room's URI", w.change(owner, p(owner, meta(func(m *Metadata) { m.Room = "mimi://a.example/r/y" }))), NoCapability},
		{"base policy by an admin", w.change(admin, p(admin, component(ComponentBaseRoom, w.state.Base().AppendTo(nil)))), CanChangeMembershipStyle},
		{"base policy by the owner", w.change(owner, p(owner, component(ComponentBaseRoom, w.state.Base().AppendTo(nil)))), allowed},
		{"operational policy by a halfop", w.change(halfop, p(halfop, component(ComponentOperational, Operational{}.AppendTo(nil)))), CanChangeOperational},
		{"expiration by an operator", w.change(operator, p(operator, component(ComponentExpiration, Expiration{}.AppendTo(nil)))), allowed},
		{"a join link by a halfop", w.change(halfop, p(halfop, link)), allowed},
		{"a join link by a member", w.change(member, p(member, link)), CanCreateJoinCode},
		{"base policy goes", w.change(owner, p(owner, gone(ComponentBaseRoom))), allowed},
		{"join links go", w.change(member, p(member, gone(ComponentJoinLinks))), CanDeleteJoinCode},
		{"a room without roles", noRoles, NoCapability},
		{"a room without authority", noAuthority, NoCapability},
		{"an unknown component", unknown, NoCapability},
	}.check(t)
}

// Extensions change beside the dictionary only: mls-extensions-10 §4.7.
func TestGroupProposals(t *testing.T) {
	w := newWorld(t)
	extensions := func(by string, d mls.AppData) *Change {
		return w.change(by, Proposed{By: by, Type: mls.ProposalGroupContextExtensions, Extensions: mls.Extensions{}.WithAppData(d)})
	}
	verdicts{
		{"extensions by an operator", extensions(operator, w.dict), allowed},
		{"extensions by a member", extensions(member, w.dict), CanChangeOperational},
		{"the dictionary along with them", extensions(owner, w.dict.Without(ComponentBaseRoom)), NoCapability},
		{"ReInit by the owner", w.change(owner, Proposed{By: owner, Type: mls.ProposalReInit}), allowed},
		{"ReInit by an admin", w.change(admin, Proposed{By: admin, Type: mls.ProposalReInit}), CanReinit},
	}.check(t)
}

// room-policy §7: what the operational policy forbids nobody proposes, in a
// commit or before it, whatever the role.
func TestForbiddenProposals(t *testing.T) {
	forbid := func(types ...uint16) *world {
		return newWorld(t).with(ComponentOperational, Operational{ExternalProposal: true, Forbidden: ClientCapabilities{Proposals: types}}.AppendTo(nil))
	}
	reInit := Proposed{By: owner, Type: mls.ProposalReInit}
	w, other := forbid(uint16(mls.ProposalReInit), uint16(mls.ProposalSelfRemove)), forbid(uint16(mls.ProposalSelfRemove))
	verdicts{
		{"a forbidden proposal", w.change(owner, reInit), NoCapability},
		{"of another type", other.change(owner, reInit), allowed},
	}.check(t)
	if err := CheckProposal(w.state, &reInit); verdict(t, err) != NoCapability {
		t.Errorf("before its commit: %v", err)
	}
	if err := CheckProposal(other.state, &reInit); err != nil {
		t.Errorf("of another type, before its commit: %v", err)
	}
}

// PROTOCOL §6: who is of the authority.
func TestAuthority(t *testing.T) {
	set := func(domains ...string) func(*Proposed) {
		return component(ComponentAuthority, SetAuthority(Authority{Domains: domains}))
	}
	w := newWorld(t, OpenJoin())
	both := newWorld(t, WithAuthority(Authority{Domains: []string{"a.example", "b.example"}}))
	invite := list(Invite(w.state, []string{stranger}, RoleMember))
	ban := p(owner, list(SetRole(both.state, RoleBanned, other)), removes(device(other, 0)))
	leave := p(other, list(RemoveUsers(both.state, other)), removes(device(other, 0)))
	verdicts{
		{"a new user's homeserver follows", w.change(member, p(member, invite)), allowed},
		{"or is added by who adds the user", w.change(member, p(member, invite, set("a.example", "d.example"))), allowed},
		{"not by another", w.change(member, p(owner, invite), p(member, set("a.example", "d.example"))), CanChangePolicy},
		{"not with another", w.change(member, p(member, invite, set("a.example", "b.example", "d.example"))), CanChangePolicy},
		{"not for a second user", w.change(member, p(member, set("a.example", "b.example"))), CanChangePolicy},
		{"an operator extends", w.change(operator, p(operator, set("a.example", "b.example"))), allowed},
		{"not without participants", w.change(owner, p(owner, set("a.example", "x.example"))), NoCapability},
		{"who joins brings no authority", w.joins(stranger, p(stranger, list(Invite(w.state, []string{stranger}, 2)), set("a.example", "d.example"))), CanChangePolicy},
		{"an external sender", w.change(owner, p("", set("a.example", "b.example"))), CanChangePolicy},
		{"an operator takes out", both.change(operator, p(operator, set("a.example"))), allowed},
		{"a member does not", both.change(member, p(member, set("a.example"))), CanChangePolicy},
		{"the last participant's homeserver stays", both.change(owner, ban), NoCapability},
		{"the last participant's homeserver leaves", both.change(owner, ban, p(owner, set("a.example"))), allowed},
		{"after a leave", both.change(member, leave, p(member, set("a.example"))), allowed},
		{"the rule", both.change(member, p(member, component(ComponentAuthority, SetAuthority(Authority{[]string{"a.example", "b.example"}, TwoThirds})))), CanChangePolicy},
	}.check(t)

	last := &world{t: t, dict: Default(other, "b.example"), clients: map[string]int{other: 1}}
	last.dict = last.dict.With(ComponentParticipants, ParticipantList{{other, RoleOwner}, {owner, RoleOwner}}.AppendTo(nil))
	last.state = mustParse(t, last.dict)
	verdicts{{"unless none would be left", last.change(owner, p(other, list(RemoveUsers(last.state, other)), removes(device(other, 0)))), allowed}}.check(t)
	if a, changed := AuthorityAfter(last.state, other); changed || !a.Has("b.example") {
		t.Error("an authority of none")
	}
	if a, changed := AuthorityAfter(both.state, other, other); !changed || a.Has("b.example") || !a.Has("a.example") {
		t.Errorf("%v, %v", a, changed)
	}
	if _, changed := AuthorityAfter(both.state, member, banned); changed {
		t.Error("homeservers that have participants stay")
	}
}

// room-policy §4: external senders act by the role that they are preauthorized
// for; a homeserver always answers for its own users and devices.
func TestExternalSenders(t *testing.T) {
	enforcer := []Claim{{1, "san", "a.example"}}
	w := newWorld(t).with(ComponentPreauth, Preauth{{enforcer, Role{Index: RoleHalfop}}}.AppendTo(nil))
	gone := func(who string, set func(*Proposed)) *Change {
		return w.change(owner, p("", set, list(RemoveUsers(w.state, who)), removes(w.devices(who)...)))
	}
	from := func(domain string) func(*Proposed) { return func(p *Proposed) { p.Domain = domain } }
	by := func(c []Claim) func(*Proposed) { return func(p *Proposed) { p.Claims = c } }
	verdicts{
		{"a user of its own", gone(other, from("b.example")), allowed},
		{"a device of its own", w.change(owner, p("", from("b.example"), removes(device(other, 0)))), allowed},
		{"a user of another", gone(member, from("b.example")), CanRemoveParticipant},
		{"a device of another", w.change(owner, p("", from("b.example"), removes(device(member, 0)))), CanKick},
		{"preauthorized", gone(member, by(enforcer)), allowed},
		{"preauthorized for less", gone(operator, by(enforcer)), CanRemoveParticipant},
		{"nobody", gone(member, by(nil)), CanRemoveParticipant},
	}.check(t)
	w.with(ComponentOperational, Operational{ExternalCommit: true}.AppendTo(nil))
	verdicts{{"no external proposals (§7)", gone(other, from("b.example")), NoCapability}}.check(t)
}

func TestCheckProposal(t *testing.T) {
	w, open := newWorld(t), newWorld(t, OpenJoin())
	dm := &world{t: t, dict: Default(owner, "a.example", FixedMembership(other))}
	dm.state = mustParse(t, dm.dict)
	strict := newWorld(t).with(ComponentOperational, Operational{}.AppendTo(nil))
	for _, c := range []struct {
		name string
		w    *world
		p    Proposed
		want Capability
	}{
		{"an invitation's clients", w, p(member, adds(device(stranger, 0))), allowed},
		{"an own client", w, p(member, adds(device(member, 1))), allowed},
		{"a client of the banned", w, p(owner, adds(device(banned, 0))), NoCapability},
		{"a stranger's own client", w, p(stranger, adds(device(stranger, 0))), CanOpenJoin},
		{"a stranger's own client, open", open, p(stranger, adds(device(stranger, 0))), allowed},
		{"the other's client", dm, p(owner, adds(device(other, 0))), allowed},
		{"a removal", w, p(halfop, removes(device(member, 0))), allowed},
		{"a member's removal of another", w, p(member, removes(device(voice, 0))), CanKick},
		{"a leave", w, p(member, removes(device(member, 0))), allowed},
		{"a homeserver's own device", w, Proposed{Domain: "b.example", Removed: []Client{device(other, 0)}}, allowed},
		{"what is left of the banned", w, p("", removes(device(banned, 0))), allowed},
		{"a ban", w, p(halfop, list(SetRole(w.state, RoleBanned, member))), allowed},
		{"a ban by a member", w, p(member, list(SetRole(w.state, RoleBanned, voice))), CanBan},
		{"nonsense", w, p(owner, list([]byte{1})), NoCapability},
		{"roles by an admin", w, p(admin, component(ComponentRoles, nil)), CanChangeRoleDefinitions},
		{"an authority", w, p(member, component(ComponentAuthority, nil)), allowed},
		{"a stranger's authority", w, p(stranger, component(ComponentAuthority, nil)), NoCapability},
		{"a ReInit", w, Proposed{By: admin, Type: mls.ProposalReInit}, CanReinit},
		{"from outside, where it is forbidden", strict, p(stranger, adds(device(stranger, 0))), NoCapability},
	} {
		if err := CheckProposal(c.w.state, &c.p); verdict(t, err) != c.want {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
