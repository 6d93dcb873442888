package policy

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/isthmus-chat/isthmus/mls"
)

func TestDefaultRooms(t *testing.T) {
	for name, c := range map[string]struct {
		options []Option
		role    uint32
		can     []Capability
		cannot  []Capability
	}{
		"members":            {nil, RoleMember, []Capability{CanAddParticipant, CanAddOwnClient, CanRemoveOwnClient, CanRemoveSelf, CanSendMessage, CanReceiveMessage}, []Capability{CanKick, CanBan, CanChangeUserRole, CanChangePolicy}},
		"the banned":         {nil, RoleBanned, nil, []Capability{CanAddOwnClient, CanReceiveMessage, CanSendMessage, CanRemoveSelf}},
		"strangers":          {nil, RoleNone, nil, []Capability{CanOpenJoin, CanUseJoinCode, CanReceiveMessage}},
		"strangers, open":    {[]Option{OpenJoin()}, RoleNone, []Capability{CanOpenJoin}, []Capability{CanUseJoinCode}},
		"strangers, codes":   {[]Option{JoinCodes()}, RoleNone, []Capability{CanUseJoinCode}, []Capability{CanOpenJoin}},
		"members, moderated": {[]Option{Moderated()}, RoleMember, []Capability{CanReceiveMessage, CanRemoveSelf}, []Capability{CanSendMessage}},
		"voice, moderated":   {[]Option{Moderated()}, RoleVoice, []Capability{CanSendMessage}, []Capability{CanChangeUserRole}},
		"voice, invite-only": {[]Option{InviteOnly()}, RoleVoice, []Capability{CanSendMessage}, []Capability{CanAddParticipant}},
		"halfops":            {nil, RoleHalfop, []Capability{CanBan, CanUnban, CanRemoveParticipant, CanChangeUserRole, CanDeleteOtherMessage}, []Capability{CanKick, CanChangePolicy}},
		"operators":          {nil, RoleOperator, []Capability{CanKick, CanBan, CanChangePolicy, CanChangeRoomName}, []Capability{CanChangeRoleDefinitions, CanReinit}},
		"owners":             {nil, RoleOwner, []Capability{CanChangeRoleDefinitions, CanReinit, CanDestroyRoom}, nil},
		"equals":             {[]Option{FixedMembership(other)}, RoleOwner, []Capability{CanSendMessage, CanAddOwnClient, CanChangeRoomName}, []Capability{CanRemoveSelf, CanAddParticipant, CanKick, CanBan}},
	} {
		r := mustParse(t, Default(owner, "a.example", c.options...)).Roles().Find(c.role)
		for _, x := range c.can {
			if !r.Has(x) {
				t.Errorf("%s lack %#x", name, x)
			}
		}
		for _, x := range c.cannot {
			if r.Has(x) {
				t.Errorf("%s have %#x", name, x)
			}
		}
		if !slices.IsSorted(r.Capabilities) || len(slices.Compact(slices.Clone(r.Capabilities))) != len(r.Capabilities) {
			t.Errorf("%s have a capability twice, or out of order", name)
		}
	}
}

func TestDefaultOptions(t *testing.T) {
	s := mustParse(t, Default(owner, "a.example",
		WithBase(BaseRoom{MultiDevice: true, MaxUsers: number(2)}),
		WithOperational(Operational{EpochTolerance: 2, ExternalCommit: true}),
		WithMetadata(Metadata{Name: "x"}),
		WithAuthority(Authority{[]string{"a.example", "b.example"}, TwoThirds})))
	if *s.Base().MaxUsers != 2 || s.EpochTolerance() != 2 || s.Metadata().Name != "x" || len(s.Authority().Domains) != 2 {
		t.Errorf("%+v", s)
	}
	if op, ok := s.Operational(); !ok || !op.ExternalCommit {
		t.Error("no operational policy")
	}
	if diff := cmp.Diff([]mls.ComponentID{ComponentOperational, ComponentRoles, ComponentAuthority}, s.Base().Components); diff != "" {
		t.Error(diff)
	}
	if !s.Can(owner, CanReinit) || s.Can(stranger, CanReceiveMessage) || s.Member(stranger) {
		t.Error("capabilities")
	}
}

func TestBuilders(t *testing.T) {
	s := mustParse(t, roomOf(4))
	for name, c := range map[string]struct {
		got  []byte
		want ParticipantUpdate
	}{
		"invite":  {Invite(s, []string{user(1), user(7), user(6)}, 2), ParticipantUpdate{Added: []Participant{{user(7), 2}, {user(6), 2}}}},
		"remove":  {RemoveUsers(s, user(3), user(9), user(1)), ParticipantUpdate{Removed: []uint32{1, 3}}},
		"roles":   {SetRole(s, 3, user(2), user(1)), ParticipantUpdate{Changed: []RoleChange{{1, 3}, {2, 3}}}},
		"banning": {SetRole(s, 1, user(8)), ParticipantUpdate{Added: []Participant{{user(8), 1}}}},
	} {
		got, err := ParseParticipantUpdate(c.got)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
