package policy

import (
	"cmp"
	"slices"

	"github.com/isthmus-chat/isthmus/mls"
)

// An Option says how a new room is other than the rest.
type Option func(*blueprint)

// A blueprint is what the options of a new room come to.
type blueprint struct {
	open, codes, inviteOnly, fixed, moderated bool
	users                                     []string
	metadata                                  Metadata
	authority                                 Authority
	operational                               *Operational
	base                                      BaseRoom
}

// OpenJoin lets anybody join as a member.
func OpenJoin() Option { return func(b *blueprint) { b.open = true } }

// JoinCodes lets anybody join who has a join code.
func JoinCodes() Option { return func(b *blueprint) { b.codes = true } }

// InviteOnly leaves inviting to those above members and voiced members.
func InviteOnly() Option { return func(b *blueprint) { b.inviteOnly = true } }

// Moderated leaves speaking to those above members.
func Moderated() Option { return func(b *blueprint) { b.moderated = true } }

// FixedMembership makes a room of the creator and these users, for ever and as
// equals, such as one for direct messages: all are owners, and nobody comes or
// goes, is banned or changes roles. draft-ietf-mimi-room-policy-04 §5.
func FixedMembership(users ...string) Option {
	return func(b *blueprint) { b.fixed, b.users = true, users }
}

// WithMetadata gives the room a URI, a name and the like.
func WithMetadata(m Metadata) Option { return func(b *blueprint) { b.metadata = m } }

// WithAuthority has these homeservers agree on epochs, not the domain alone.
func WithAuthority(a Authority) Option { return func(b *blueprint) { b.authority = a } }

// WithOperational adds an operational policy.
func WithOperational(o Operational) Option { return func(b *blueprint) { b.operational = &o } }

// WithBase has the bounds and properties of another base policy; whether
// membership is fixed and which components there are stays as it is.
func WithBase(p BaseRoom) Option { return func(b *blueprint) { b.base = p } }

// Default is the dictionary of a new room whose creator (a user's URI) is its
// owner and for which the homeserver domain alone is the authority. Its roles
// have the indices of core.Role. ParseState accepts it if creator, users and
// domains are well formed.
func Default(creator, domain string, options ...Option) mls.AppData {
	b := blueprint{
		authority: Authority{Domains: []string{domain}},
		base:      BaseRoom{MultiDevice: true, Persistent: true},
	}
	for _, o := range options {
		o(&b)
	}
	list := ParticipantList{{creator, RoleOwner}}
	for _, u := range b.users {
		list = append(list, Participant{u, RoleOwner})
	}
	b.base.FixedMembership = b.fixed
	b.base.Components = []mls.ComponentID{ComponentRoles, ComponentAuthority}
	dict := mls.AppData{}.
		With(ComponentParticipants, list.AppendTo(nil)).
		With(ComponentMetadata, b.metadata.AppendTo(nil)).
		With(ComponentRoles, b.roles().AppendTo(nil)).
		With(ComponentAuthority, b.authority.AppendTo(nil))
	if b.operational != nil {
		b.base.Components = append(b.base.Components, ComponentOperational)
		dict = dict.With(ComponentOperational, b.operational.AppendTo(nil))
	}
	slices.Sort(b.base.Components)
	return dict.With(ComponentBaseRoom, b.base.AppendTo(nil))
}

// talk are the capabilities of who takes part in the conversation: to read, to
// write, with assets and links, and to call.
func talk() []Capability {
	out := []Capability{CanReceiveMessage, 0x0102, CanReportAbuse}
	for _, span := range [][2]Capability{{0x0205, 0x0207}, {0x020a, 0x020b}} {
		for c := span[0]; c <= span[1]; c++ {
			out = append(out, c)
		}
	}
	return append(out, 0x0204, 0x0401, 0x0403, 0x0405, 0x0407)
}

// speak are those of who is heard.
func speak() []Capability {
	out := []Capability{CanSendMessage, CanReplyToMessage, CanReactToMessage, 0x0106, 0x0107, 0x0109, 0x010a, 0x010c, 0x010d, 0x010e}
	return append(out, 0x0200, 0x0201, 0x0202, 0x0203, 0x0208, 0x0209, 0x0400, 0x0402, 0x0404, 0x0406)
}

// roles are those of a new room. As core.MayAssign has it, owners move anybody,
// admins and operators those up to operator, halfops those up to voice.
// draft-ietf-mimi-room-policy-04 has one table for others and for oneself, so
// everybody's includes the way out.
func (b *blueprint) roles() Roles {
	zero := uint32(0)
	member := append(talk(), CanAddOwnClient, CanRemoveOwnClient, CanRemoveSelf)
	voice := append(slices.Clone(member), speak()...)
	if !b.moderated {
		member = slices.Clone(voice)
	}
	halfop := append(slices.Clone(voice), CanRemoveParticipant, CanBan, CanUnban, CanChangeUserRole, CanAddParticipant,
		CanDeleteOtherMessage, 0x0108, CanEditOtherTopic, CanChangeRoomSubject, CanCreateJoinCode, CanDeleteJoinCode)
	operator := append(slices.Clone(halfop), CanKick, CanChangeRoomName, CanChangeRoomDescription, CanChangeRoomAvatar,
		CanChangeRoomMood, CanChangePolicy, CanChangeOperational)
	owner := append(slices.Clone(operator), CanChangeMembershipStyle, CanChangeRoleDefinitions,
		CanChangePreauthorizedList, CanDestroyRoom, CanReinit)
	if !b.inviteOnly {
		member, voice = append(member, CanAddParticipant), append(voice, CanAddParticipant)
	}
	var outside []Capability
	if b.open {
		outside = append(outside, CanOpenJoin)
	}
	if b.codes {
		outside = append(outside, CanUseJoinCode)
	}
	all := Roles{
		{Index: RoleNone, Name: "none", Capabilities: outside, AuthorizedChanges: invite(RoleMember)},
		{Index: RoleBanned, Name: bannedName, MaximumActive: &zero},
		{Index: RoleMember, Name: "member", Capabilities: member, AuthorizedChanges: append(invite(RoleMember), leave(RoleMember))},
		{Index: RoleVoice, Name: "voice", Capabilities: voice, AuthorizedChanges: append(invite(RoleMember), leave(RoleVoice))},
		{Index: RoleHalfop, Name: "halfop", Capabilities: halfop, AuthorizedChanges: append(among(RoleVoice), leave(RoleHalfop))},
		{Index: RoleOperator, Name: "operator", Capabilities: operator, AuthorizedChanges: among(RoleOperator)},
		{Index: RoleAdmin, Name: "admin", Capabilities: slices.Clone(operator), AuthorizedChanges: append(among(RoleOperator), leave(RoleAdmin))},
		{Index: RoleOwner, Name: "owner", Capabilities: owner, AuthorizedChanges: among(RoleOwner)},
	}
	if b.fixed {
		for i := range all {
			all[i].Capabilities = slices.DeleteFunc(all[i].Capabilities, func(c Capability) bool {
				return slices.Contains(ofMembership, c)
			})
			all[i].AuthorizedChanges = nil
		}
	}
	for i := range all {
		slices.Sort(all[i].Capabilities)
	}
	return all
}

// ofMembership are the capabilities that nobody has where it is fixed.
var ofMembership = []Capability{
	CanAddParticipant, CanRemoveParticipant, CanOpenJoin, CanUseJoinCode, CanRemoveSelf, CanBan, CanUnban, CanKick,
	CanChangeUserRole, CanCreateJoinCode, CanDeleteJoinCode, CanChangeMembershipStyle, CanChangeRoleDefinitions,
}

func invite(to uint32) []RoleTargets { return []RoleTargets{{RoleNone, []uint32{to}}} }

func leave(from uint32) RoleTargets { return RoleTargets{from, []uint32{RoleNone}} }

// among are all changes between roles up to highest.
func among(highest uint32) (out []RoleTargets) {
	for from := RoleNone; from <= highest; from++ {
		t := RoleTargets{From: from}
		for to := RoleNone; to <= highest; to++ {
			if to != from {
				t.Targets = append(t.Targets, to)
			}
		}
		out = append(out, t)
	}
	return out
}

// Invite is the participant update that adds the users with the role, in their
// order; those who are in the list already are left out.
func Invite(s *State, users []string, role uint32) []byte {
	var u ParticipantUpdate
	for _, user := range users {
		if _, in := s.Role(user); !in {
			u.Added = append(u.Added, Participant{user, role})
		}
	}
	return u.AppendTo(nil)
}

// RemoveUsers is the participant update that removes the users; those who are
// not in the list are left out.
func RemoveUsers(s *State, users ...string) []byte {
	var u ParticipantUpdate
	for _, user := range users {
		if i, in := s.IndexOf(user); in {
			u.Removed = append(u.Removed, i)
		}
	}
	slices.Sort(u.Removed)
	return u.AppendTo(nil)
}

// SetRole is the participant update that gives users another role; it adds the
// one who is not in the list, as a ban beforehand does.
func SetRole(s *State, role uint32, users ...string) []byte {
	var u ParticipantUpdate
	for _, user := range users {
		if i, in := s.IndexOf(user); in {
			u.Changed = append(u.Changed, RoleChange{i, role})
		} else {
			u.Added = append(u.Added, Participant{user, role})
		}
	}
	slices.SortFunc(u.Changed, func(a, b RoleChange) int { return cmp.Compare(a.Index, b.Index) })
	return u.AppendTo(nil)
}

// SetAuthority is the update that makes a the authority.
func SetAuthority(a Authority) []byte { return a.AppendTo(nil) }

// SetMetadata is the update that replaces the metadata. What is to stay has to
// be in m: begin with that of the State.
func SetMetadata(m Metadata) []byte { return m.AppendTo(nil) }

// AuthorityAfter is the authority that a commit has to set if it removes or
// bans the users, and whether it is another: homeservers leave with their last
// participant, unless none would be left. Users who join add theirs by
// SetAuthority if they are to be of it.
func AuthorityAfter(s *State, removed ...string) (a Authority, changed bool) {
	going, seen := map[string]int{}, map[string]bool{}
	for _, user := range removed {
		if d, ok := userDomain(user); ok && s.Member(user) && !seen[user] {
			going[d]--
			seen[user] = true
		}
	}
	after := tally(s.perDomain, going)
	a.Rule = s.authority.Rule
	left := 0
	for _, d := range s.authority.Domains {
		stays := slices.ContainsFunc(after, func(c count[string]) bool { return c.key == d })
		if stays {
			left++
		}
		if stays || !s.hasDomain(d) {
			a.Domains = append(a.Domains, d)
		}
	}
	if left == 0 {
		return s.authority, false
	}
	return a, len(a.Domains) != len(s.authority.Domains)
}
