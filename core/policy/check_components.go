package policy

import (
	"bytes"
	"slices"

	"github.com/isthmus-chat/isthmus/mls"
)

// needed says which capability changing a component takes, where it is one for
// the whole of it. The draft reserves 0x0505 and 0x0600 and does not say what
// for; here they are what their names say.
var needed = map[mls.ComponentID]Capability{
	ComponentOperational:        CanChangeOperational,
	ComponentRoles:              CanChangeRoleDefinitions,
	ComponentPreauth:            CanChangePreauthorizedList,
	ComponentBaseRoom:           CanChangeMembershipStyle,
	ComponentStatusNotification: CanChangePolicy,
	ComponentJoinLinkPolicy:     CanChangePolicy,
	ComponentLinkPreview:        CanChangePolicy,
	ComponentAsset:              CanChangePolicy,
	ComponentLogging:            CanChangePolicy,
	ComponentHistory:            CanChangePolicy,
	ComponentBots:               CanChangePolicy,
	ComponentExpiration:         CanChangePolicy,
}

// changes reports whether any proposal changes the component.
func (c *Change) changes(id mls.ComponentID) bool {
	for i := range c.Proposals {
		for _, u := range c.Proposals[i].Components {
			if u.ID == id {
				return true
			}
		}
	}
	return false
}

// checkComponents says whether an author may change the components that it
// does, the participant list apart, and whether they go together.
func (j *judge) checkComponents(p *Proposed) error {
	for _, u := range p.Components {
		switch u.ID {
		case ComponentRoles:
			if len(j.order) > 0 {
				return refuse(NoCapability, "roles change in a commit of their own") // room-policy §3
			}
		case ComponentPreauth:
			if slices.ContainsFunc(j.order, func(m move) bool { return m.to != RoleNone }) {
				return refuse(NoCapability, "preauthorization changes while participants do") // room-policy §4
			}
		case ComponentAuthority:
			if err := j.mayChangeAuthority(p, u); err != nil {
				return err
			}
			continue
		}
		if err := mayChangeComponent(j.Before, p, u); err != nil {
			return err
		}
	}
	return mayPropose(j.Before, p)
}

// mayChangeComponent judges an update by its author alone.
func mayChangeComponent(s *State, p *Proposed, u ComponentUpdate) error {
	role := p.role(s)
	if p.By != "" && !s.Member(p.By) && u.ID != ComponentParticipants {
		return refuse(NoCapability, "who does not participate changes no policy")
	}
	switch u.ID {
	case ComponentParticipants, ComponentRoles, ComponentAuthority:
		if u.Remove {
			return refuse(NoCapability, "no room is without this component")
		}
	}
	switch u.ID {
	case ComponentParticipants:
		return nil // judged move by move
	case ComponentMetadata:
		return mayChangeMetadata(s.metadata, role, u)
	case ComponentJoinLinks:
		return mayChangeLinks(role, u)
	}
	c, known := needed[u.ID]
	if !known {
		return refuse(NoCapability, "a component that is none of a room's")
	}
	return need(role, c, "the author may not change this part of the policy")
}

// mayChangeMetadata asks for the capability of each field that changes,
// draft-ietf-mimi-room-policy-04 §8.2. The room's URI is never another.
func mayChangeMetadata(old Metadata, role *Role, u ComponentUpdate) error {
	var m Metadata
	if !u.Remove {
		var err error
		if m, err = ParseMetadata(u.Update); err != nil {
			return refuse(NoCapability, "metadata that cannot be read")
		}
	}
	if m.Room != old.Room && old.Room != "" {
		return refuse(NoCapability, "a room keeps its URI")
	}
	for _, f := range []struct {
		changed bool
		need    Capability
	}{
		{m.Room != old.Room, CanChangePolicy},
		{m.Name != old.Name, CanChangeRoomName},
		{!slices.Equal(m.Descriptions, old.Descriptions), CanChangeRoomDescription},
		{m.Avatar != old.Avatar, CanChangeRoomAvatar},
		{m.Subject != old.Subject, CanChangeRoomSubject},
		{m.Mood != old.Mood, CanChangeRoomMood},
	} {
		if f.changed && !role.Has(f.need) {
			return refuse(f.need, "the author may not change this about the room")
		}
	}
	return nil
}

// mayChangeLinks takes the reserved capabilities of join codes at their names.
func mayChangeLinks(role *Role, u ComponentUpdate) error {
	if u.Remove {
		return need(role, CanDeleteJoinCode, "the author may not delete join links")
	}
	update, err := ParseJoinLinksUpdate(u.Update)
	switch {
	case err != nil:
		return refuse(NoCapability, "an update of join links that cannot be read")
	case len(update.Added) > 0 && !role.Has(CanCreateJoinCode):
		return refuse(CanCreateJoinCode, "the author may not make join links")
	case len(update.Removed) > 0 && !role.Has(CanDeleteJoinCode):
		return refuse(CanDeleteJoinCode, "the author may not delete join links")
	}
	return nil
}

// mayChangeAuthority, PROTOCOL §6: who may change policy changes it as it
// likes, among homeservers with participants; who adds the first user of a
// homeserver may add that, and anybody takes out one whose last participant
// goes. Who adds itself does not bring its own: else an open room's authority
// would be anybody's who has a few domains.
func (j *judge) mayChangeAuthority(p *Proposed, u ComponentUpdate) error {
	if u.Remove {
		return refuse(NoCapability, "no room is without an authority")
	}
	next, err := ParseAuthority(u.Update)
	if err != nil {
		return refuse(NoCapability, "an authority that cannot be read")
	}
	if p.By == "" || !j.Before.Member(p.By) {
		return refuse(CanChangePolicy, "only participants change the authority")
	}
	may, old := p.role(j.Before).Has(CanChangePolicy), j.Before.authority
	for _, d := range next.Domains {
		switch {
		case old.Has(d):
		case !j.After.hasDomain(d):
			return refuse(NoCapability, "a homeserver without participants joins the authority")
		case !may && !j.bringsFirst(p, d):
			return refuse(CanChangePolicy, "the author may not extend the authority")
		}
	}
	for _, d := range old.Domains {
		if !may && !next.Has(d) && j.After.hasDomain(d) {
			return refuse(CanChangePolicy, "the author may not take a homeserver out of the authority")
		}
	}
	// One of a homeserver that never had participants is the room's founder's
	// choice, not anybody's to undo.
	for _, d := range old.Domains {
		if !may && !next.Has(d) && !j.Before.hasDomain(d) {
			return refuse(CanChangePolicy, "the author may not take a homeserver out of the authority")
		}
	}
	if next.Rule != old.Rule && !may {
		return refuse(CanChangePolicy, "the author may not change the authority's rule")
	}
	return nil
}

// bringsFirst reports whether the author adds the first participant of domain.
func (j *judge) bringsFirst(p *Proposed, domain string) bool {
	if j.Before.hasDomain(domain) {
		return false
	}
	return slices.ContainsFunc(j.order, func(m move) bool {
		d, _ := userDomain(m.user)
		return d == domain && m.from == RoleNone && m.author.By == p.By
	})
}

// mayPropose judges the proposals that change the group as such. A
// GroupContextExtensions proposal leaves the dictionary as it is: that changes
// by AppDataUpdate only, draft-ietf-mls-extensions-10 §4.7.
func mayPropose(s *State, p *Proposed) error {
	role := p.role(s)
	if s.operational != nil && s.operational.Forbids(p.Type) {
		return refuse(NoCapability, "the room forbids proposals of this type") // room-policy §7
	}
	switch p.Type {
	case mls.ProposalReInit:
		return need(role, CanReinit, "the author may not close the group")
	case mls.ProposalGroupContextExtensions:
		dict, err := p.Extensions.AppData()
		same := func(a, b mls.ComponentData) bool { return a.ID == b.ID && bytes.Equal(a.Data, b.Data) }
		if err != nil || !slices.EqualFunc(dict, s.dict, same) {
			return refuse(NoCapability, "extensions with another dictionary")
		}
		return need(role, CanChangeOperational, "the author may not change the group's extensions")
	}
	return nil
}

// CheckProposal judges a proposal that arrives before its commit: whether there
// is a commit in which its author may ask for this. What depends on the rest of
// the commit is left to Change.Check. The error is a *Violation.
func CheckProposal(s *State, p *Proposed) error {
	if op, has := s.Operational(); has && !op.ExternalProposal && (p.By == "" || !s.Member(p.By)) {
		return refuse(NoCapability, "the room takes no external proposals")
	}
	moves, err := movesOf(s, p)
	if err != nil {
		return err
	}
	alone := &Change{Before: s}
	for _, m := range moves {
		if err := alone.mayMove(m); err != nil {
			return err
		}
	}
	for _, u := range p.Components {
		if u.ID == ComponentAuthority && s.Member(p.By) && !u.Remove {
			continue
		}
		if err := mayChangeComponent(s, p, u); err != nil {
			return err
		}
	}
	for _, x := range p.Added {
		if err := mayProposeClient(s, p, x); err != nil {
			return err
		}
	}
	for _, x := range p.Removed {
		if err := mayProposeRemoval(s, p, x); err != nil {
			return err
		}
	}
	return mayPropose(s, p)
}

func mayProposeClient(s *State, p *Proposed, c Client) error {
	switch {
	case s.Banned(c.User):
		return refuse(NoCapability, "a client of a user who is banned")
	case p.By != c.User && !s.Fixed():
		return need(p.role(s), CanAddParticipant, "the author may not add clients of others")
	case s.Member(p.By):
		return need(p.role(s), CanAddOwnClient, "the author may not add clients")
	}
	// A user who is not there yet: the list has to change with it.
	for _, c := range []Capability{CanOpenJoin, CanUseJoinCode} {
		if p.role(s).Has(c) {
			return nil
		}
	}
	if role, ok := s.preauth.Match(p.Claims); ok && s.roles.Find(role).Has(CanJoinIfPreauthorized) {
		return nil
	}
	return refuse(CanOpenJoin, "the room is not open to who adds itself")
}

func mayProposeRemoval(s *State, p *Proposed, c Client) error {
	enough := []Capability{CanKick, CanRemoveParticipant, CanBan}
	if p.By == c.User {
		enough = []Capability{CanRemoveOwnClient, CanRemoveSelf}
	}
	if !s.Member(c.User) || p.byHomeserverOf(c.User) {
		return nil
	}
	role := p.role(s)
	if slices.ContainsFunc(enough, role.Has) {
		return nil
	}
	return refuse(enough[0], "the author may not remove this client")
}
