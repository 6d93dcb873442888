package policy

import (
	"fmt"

	"github.com/isthmus-chat/isthmus/mls"
)

// A Client is a device in the group, or on the way into or out of it: the URI
// of its user, its own, and its leaf.
type Client struct {
	User, Device string
	Leaf         uint32
}

// A ComponentUpdate is what an AppDataUpdate proposal asks of one component.
type ComponentUpdate struct {
	ID     mls.ComponentID
	Remove bool // the component goes; else Update is in its own form
	Update []byte
}

// Proposed is what one proposal, or all proposals of one author in a commit, ask
// for. It is the author, not the committer, who needs the capabilities.
type Proposed struct {
	By         string  // URI of the author's user; "" for an external sender
	Domain     string  // homeserver that the external sender is, "" if it is none
	Claims     []Claim // of the author's credential, for preauthorization
	Type       mls.ProposalType
	Added      []Client // by Add
	Removed    []Client // by Remove or SelfRemove
	Components []ComponentUpdate
	Extensions mls.Extensions // of a GroupContextExtensions proposal
}

// A Change is what a commit does, as the engine saw it after all checks of MLS.
type Change struct {
	Before, After *State
	Actor         string // URI of the committer's user
	External      bool   // the committer joins by this commit
	Resync        bool   // and removes an old leaf of its own
	CodeRole      uint32 // role that a valid join code gives the joiner; RoleNone without one
	Added         []Client
	Removed       []Client
	Proposals     []Proposed
	ClientsAfter  func(user string) int // leaves of the user after the commit
	Members       func() int            // leaves of all after it
}

// NoCapability is the Capability of a Violation that no capability would mend.
const NoCapability Capability = 0xffff

// A Violation is the error of a change that the room's policy does not allow.
// It names nobody, so that it may be logged.
type Violation struct {
	Capability Capability // that the author lacks, or NoCapability
	Text       string
}

func (v *Violation) Error() string {
	if v.Capability == NoCapability {
		return "policy: " + v.Text
	}
	return fmt.Sprintf("policy: %s (capability %#04x)", v.Text, uint16(v.Capability))
}

func refuse(c Capability, text string) error { return &Violation{c, text} }

// A move is a participant's way from one role to another; RoleNone stands for
// not being in the list.
type move struct {
	user     string
	from, to uint32
	author   *Proposed
}

// A judge knows one change by user and by client.
type judge struct {
	*Change
	moves    map[string]move
	order    []move          // as proposed
	replaced map[string]bool // devices that go and come in the same commit
	touched  []string        // users whose role or clients change, each once
	gained   map[string]int  // clients that users get more than they lose
}

// Check says whether the policy allows the commit: whether each author may do
// what the author proposes, and whether the room is left as it has to be. The
// error is a *Violation. draft-ietf-mimi-room-policy-04 §8,
// draft-ietf-mimi-protocol-06 §5.3, PROTOCOL §3.
func (c *Change) Check() error {
	if err := c.checkCommitter(); err != nil {
		return err
	}
	j := &judge{Change: c, moves: map[string]move{}, replaced: map[string]bool{}, gained: map[string]int{}}
	for i := range c.Proposals {
		moves, err := movesOf(c.Before, &c.Proposals[i])
		if err != nil {
			return err
		}
		for _, m := range moves {
			if _, twice := j.moves[m.user]; twice {
				return refuse(NoCapability, "one participant changes twice")
			}
			j.moves[m.user] = m
			j.order = append(j.order, m)
		}
	}
	for _, m := range j.order {
		if err := c.mayMove(m); err != nil {
			return err
		}
	}
	j.survey()
	if err := j.checkClients(); err != nil {
		return err
	}
	for i := range c.Proposals {
		if err := j.checkComponents(&c.Proposals[i]); err != nil {
			return err
		}
	}
	return j.checkOutcome()
}

// checkCommitter says whether the committer may commit at all. Removal and ban
// are effective at once: who does not participate commits nothing but a join.
func (c *Change) checkCommitter() error {
	op, has := c.Before.Operational()
	switch {
	case c.Actor == "":
		return refuse(NoCapability, "external senders do not commit")
	case c.Before.Banned(c.Actor):
		return refuse(NoCapability, "who is banned commits nothing")
	case c.External && has && !op.ExternalCommit:
		return refuse(NoCapability, "the room takes no external commits")
	case !c.External && !c.Before.Member(c.Actor):
		return refuse(NoCapability, "who does not participate commits nothing")
	}
	for i := range c.Proposals {
		if c.Proposals[i].By == "" && has && !op.ExternalProposal {
			return refuse(NoCapability, "the room takes no external proposals")
		}
	}
	return nil
}

// movesOf reads the participant updates of one author.
func movesOf(s *State, p *Proposed) (out []move, err error) {
	for _, u := range p.Components {
		if u.ID != ComponentParticipants || u.Remove {
			continue
		}
		update, err := ParseParticipantUpdate(u.Update)
		if err != nil {
			return nil, refuse(NoCapability, "a participant update that cannot be read")
		}
		at := func(i uint32) (Participant, error) {
			if int64(i) >= int64(len(s.list)) {
				return Participant{}, refuse(NoCapability, "an index beyond the participant list")
			}
			return s.list[i], nil
		}
		for _, c := range update.Changed {
			q, err := at(c.Index)
			if err != nil {
				return nil, err
			}
			out = append(out, move{q.User, q.Role, c.Role, p})
		}
		for _, i := range update.Removed {
			q, err := at(i)
			if err != nil {
				return nil, err
			}
			out = append(out, move{q.User, q.Role, RoleNone, p})
		}
		for _, q := range update.Added {
			if _, in := s.Role(q.User); in {
				return nil, refuse(NoCapability, "who is added is in the list already")
			}
			out = append(out, move{q.User, RoleNone, q.Role, p})
		}
	}
	return out, nil
}

// role is the role by which an author acts: that of its user in the list, and
// of an external sender the one that it is preauthorized for
// (draft-ietf-mimi-room-policy-04 §4).
func (p *Proposed) role(s *State) *Role {
	if p.By != "" {
		return s.RoleOf(p.By)
	}
	if index, ok := s.preauth.Match(p.Claims); ok {
		return s.roles.Find(index)
	}
	return nil
}

// mayMove says whether the author may give the user the role.
func (c *Change) mayMove(m move) error {
	s, role := c.Before, m.author.role(c.Before)
	own := m.user == m.author.By
	switch {
	case m.author.By != "" && s.Banned(m.author.By):
		return refuse(NoCapability, "who is banned proposes nothing")
	case s.Fixed() && (m.from == RoleNone || m.to == RoleNone):
		return refuse(NoCapability, "membership is fixed")
	case own && m.from == RoleNone:
		return c.mayJoin(m)
	case own && m.to != RoleNone:
		return mayChangeOwnRole(s, role, m)
	case m.author.byHomeserverOf(m.user) && m.to == RoleNone:
		return nil // of a user that its homeserver does not have any more
	}
	need := capabilityFor(m)
	if need == CanBan || need == CanUnban {
		// Who may change roles and kick may do the same, and more.
		if role.Has(CanChangeUserRole) && (need == CanUnban || role.Has(CanKick)) {
			need = CanChangeUserRole
		}
	}
	if own {
		need = CanRemoveSelf
	}
	switch {
	case !role.Has(need):
		return refuse(need, "the author may not change the participant list so")
	case !role.MayMove(m.from, m.to):
		return refuse(need, "the author's role has no such change of roles")
	}
	return nil
}

// capabilityFor is what changing another participant so takes,
// draft-ietf-mimi-room-policy-04 §8.1.
func capabilityFor(m move) Capability {
	switch {
	case m.to == RoleBanned:
		return CanBan
	case m.from == RoleNone:
		return CanAddParticipant
	case m.to == RoleNone:
		return CanRemoveParticipant
	case m.from == RoleBanned:
		return CanUnban
	}
	return CanChangeUserRole
}

// mayJoin says whether a user may add itself, draft-ietf-mimi-room-policy-04
// §8.1.1: because the room is open, by a join code, or preauthorized.
func (c *Change) mayJoin(m move) error {
	s := c.Before
	outside := s.roles.Find(RoleNone)
	if outside.Has(CanOpenJoin) && outside.MayMove(RoleNone, m.to) {
		return nil
	}
	if outside.Has(CanUseJoinCode) && m.user == c.Actor && c.CodeRole != RoleNone && c.CodeRole == m.to {
		return nil
	}
	if role, ok := s.preauth.Match(m.author.Claims); ok && role == m.to && s.roles.Find(role).Has(CanJoinIfPreauthorized) {
		return nil
	}
	return refuse(CanOpenJoin, "the room is not open to who adds itself")
}

// mayChangeOwnRole asks preauthorization and not the role's own changes,
// draft-ietf-mimi-room-policy-04 §8.1.3.
func mayChangeOwnRole(s *State, role *Role, m move) error {
	if !role.Has(CanChangeOwnRole) {
		return refuse(CanChangeOwnRole, "nobody gives themselves a role")
	}
	if to, ok := s.preauth.Match(m.author.Claims); !ok || to != m.to {
		return refuse(CanChangeOwnRole, "the author is not preauthorized for the role")
	}
	return nil
}

// byHomeserverOf reports whether the author is the homeserver that the user is of.
func (p *Proposed) byHomeserverOf(user string) bool {
	domain, ok := userDomain(user)
	return ok && p.By == "" && p.Domain == domain
}
