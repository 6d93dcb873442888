package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-chat/isthmus/mls"
)

// A State is the policy of a room in one epoch, read and found to fit together.
// It does not change and may be read by several goroutines.
type State struct {
	dict      mls.AppData
	raw       []byte // the participant list as encoded, to find what changed
	list      ParticipantList
	index     []uint32 // places in list, in the order of the users
	perRole   []count[uint32]
	perDomain []count[string] // of participants that are not banned

	roles       Roles
	base        *BaseRoom
	operational *Operational
	metadata    Metadata
	authority   Authority
	preauth     Preauth
	links       JoinLinks
	linkPolicy  *JoinLinkPolicy
}

// A count says how many there are of a kind; those of a state are in order.
type count[K uint32 | string] struct {
	key K
	n   int
}

// tally returns the counts with those of more added, which may be negative; it
// takes as long as both are, for a hostile list has many domains.
func tally[K uint32 | string](counts []count[K], more map[K]int) []count[K] {
	keys := make([]K, 0, len(more))
	for k := range more {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	out := make([]count[K], 0, len(counts)+len(keys))
	for _, k := range keys {
		n := more[k]
		for len(counts) > 0 && counts[0].key < k {
			out, counts = append(out, counts[0]), counts[1:]
		}
		if len(counts) > 0 && counts[0].key == k {
			n += counts[0].n
			counts = counts[1:]
		}
		if n != 0 {
			out = append(out, count[K]{k, n})
		}
	}
	return append(out, counts...)
}

// ParseState reads the dictionary of an epoch: participant_list, roles_list and
// authority have to be there, and all components that this package knows have
// to be well formed and fit each other. Others are not looked at. Errors are
// ErrMalformed or ErrUnsupported.
func ParseState(dict mls.AppData) (*State, error) {
	ids := make([]mls.ComponentID, len(dict))
	for i := range dict {
		ids[i] = dict[i].ID
	}
	return new(State).next(dict, append(ids, ComponentParticipants, ComponentRoles, ComponentAuthority))
}

// Next is the state of the epoch that a commit opens: dict is its dictionary,
// and changed are the components whose data is not that of s. It takes as long
// as what changed. Errors are those of ParseState; s stays as it is.
func (s *State) Next(dict mls.AppData, changed []mls.ComponentID) (*State, error) {
	if len(changed) == 0 {
		return s, nil
	}
	return s.next(dict, changed)
}

func (s *State) next(dict mls.AppData, changed []mls.ComponentID) (*State, error) {
	n := *s
	n.dict = dict
	for _, id := range changed {
		data, ok := dict.Find(id)
		if err := n.read(id, data, ok); err != nil {
			return nil, fmt.Errorf("component %#04x: %w", uint16(id), err)
		}
	}
	if err := n.fit(); err != nil {
		return nil, err
	}
	return &n, nil
}

// read takes in the data of one component.
func (s *State) read(id mls.ComponentID, data []byte, present bool) (err error) {
	switch id {
	case ComponentParticipants:
		return s.readParticipants(data)
	case ComponentRoles:
		s.roles, err = ParseRoles(data)
	case ComponentAuthority:
		s.authority, err = ParseAuthority(data)
	case ComponentBaseRoom:
		s.base, err = whenPresent(data, present, ParseBaseRoom)
	case ComponentOperational:
		s.operational, err = whenPresent(data, present, ParseOperational)
	case ComponentJoinLinkPolicy:
		s.linkPolicy, err = whenPresent(data, present, ParseJoinLinkPolicy)
	case ComponentMetadata:
		s.metadata, err = orEmpty(data, present, ParseMetadata)
	case ComponentPreauth:
		s.preauth, err = orEmpty(data, present, ParsePreauth)
	case ComponentJoinLinks:
		s.links, err = orEmpty(data, present, ParseJoinLinks)
	default:
		if check, ok := replaced[id]; ok && present {
			err = check(data)
		}
	}
	return err
}

func whenPresent[T any](data []byte, present bool, parse func([]byte) (T, error)) (*T, error) {
	if !present {
		return nil, nil
	}
	v, err := parse(data)
	return &v, err
}

func orEmpty[T any](data []byte, present bool, parse func([]byte) (T, error)) (v T, err error) {
	if present {
		v, err = parse(data)
	}
	return v, err
}

// fit says whether the components fit each other.
func (s *State) fit() error {
	for _, c := range s.perRole {
		if s.roles.Find(c.key) == nil {
			return fmt.Errorf("%w: a participant with a role that the room does not have", ErrMalformed)
		}
	}
	for i := range s.roles {
		r := &s.roles[i]
		n := s.holders(r.Index)
		if r.Index != RoleNone && (n < int64(r.Minimum) || r.Maximum != nil && n > int64(*r.Maximum)) {
			return fmt.Errorf("%w: too few or too many participants have a role", ErrMalformed)
		}
		// draft-ietf-mimi-room-policy-04 §5.
		if s.Fixed() && r.Index > RoleBanned && r.Has(CanAddParticipant) {
			return fmt.Errorf("%w: membership is fixed, and a role may add participants", ErrMalformed)
		}
	}
	switch base := s.Base(); { // draft-ietf-mimi-room-policy-04 §5
	case base.ParentDependent:
		return fmt.Errorf("%w: a room whose participants are those of another", ErrUnsupported)
	case base.Pseudonyms:
		return fmt.Errorf("%w: a room of pseudonyms", ErrUnsupported)
	}
	if s.operational != nil {
		if err := s.operational.check(); err != nil {
			return err
		}
	}
	if s.base != nil && s.base.MaxUsers != nil {
		users := int64(len(s.list)) - s.holders(RoleBanned)
		if users > int64(*s.base.MaxUsers) {
			return fmt.Errorf("%w: more users than the room has places", ErrMalformed)
		}
	}
	return nil
}

// holders is the number of participants that have the role.
func (s *State) holders(role uint32) int64 {
	for _, c := range s.perRole {
		if c.key == role {
			return int64(c.n)
		}
	}
	return 0
}

// IndexOf is the user's place in the participant list, by which updates name it.
func (s *State) IndexOf(user string) (place uint32, ok bool) {
	i, ok := slices.BinarySearchFunc(s.index, user, func(i uint32, u string) int { return strings.Compare(s.list[i].User, u) })
	if !ok {
		return 0, false
	}
	return s.index[i], true
}

// Role is the index of the user's role; RoleNone and false if the user is not
// in the list.
func (s *State) Role(user string) (role uint32, ok bool) {
	i, ok := s.IndexOf(user)
	if !ok {
		return RoleNone, false
	}
	return s.list[i].Role, true
}

// RoleOf is the definition of the user's role, nil if there is none.
func (s *State) RoleOf(user string) *Role {
	role, _ := s.Role(user)
	return s.roles.Find(role)
}

// Can reports whether the user's role has the capability; that of users who are
// not in the list is role 0.
func (s *State) Can(user string, c Capability) bool { return s.RoleOf(user).Has(c) }

// Banned reports whether the user is in the list as banned.
func (s *State) Banned(user string) bool {
	role, ok := s.Role(user)
	return ok && role == RoleBanned
}

// Member reports whether the user participates: is in the list and not banned.
func (s *State) Member(user string) bool {
	_, ok := s.Role(user)
	return ok && !s.Banned(user)
}

// Participants is the list, in its order; it is to be read only.
func (s *State) Participants() []Participant { return s.list }

// Domains are the homeservers of participants that are not banned, in order.
func (s *State) Domains() []string {
	out := make([]string, len(s.perDomain))
	for i, c := range s.perDomain {
		out[i] = c.key
	}
	return out
}

// hasDomain reports whether a participant that is not banned is of the domain.
func (s *State) hasDomain(domain string) bool {
	_, ok := slices.BinarySearchFunc(s.perDomain, domain, func(c count[string], d string) int { return strings.Compare(c.key, d) })
	return ok
}

// Authority is who agrees on the room's epochs; it is to be read only.
func (s *State) Authority() Authority { return s.authority }

// Roles are the roles of the room; they are to be read only.
func (s *State) Roles() Roles { return s.roles }

// Metadata is the room's name and the like; zero if the room has none.
func (s *State) Metadata() Metadata { return s.metadata }

// Base is the base policy. A room without one has open membership and allows
// several devices (draft-ietf-mimi-room-policy-04 §5).
func (s *State) Base() BaseRoom {
	if s.base == nil {
		return BaseRoom{MultiDevice: true}
	}
	return *s.base
}

// Operational is the operational policy, and whether the room has one.
func (s *State) Operational() (Operational, bool) {
	if s.operational == nil {
		return Operational{}, false
	}
	return *s.operational, true
}

// JoinLinks are the room's join links, and the policy about them; nil if the
// room has none.
func (s *State) JoinLinks() (JoinLinks, *JoinLinkPolicy) { return s.links, s.linkPolicy }

// Preauth are the preauthorized users; they are to be read only.
func (s *State) Preauth() Preauth { return s.preauth }

// Fixed reports whether the set of users never changes.
func (s *State) Fixed() bool { return s.base != nil && s.base.FixedMembership }

// EpochTolerance is how many epochs late a message is still taken in.
func (s *State) EpochTolerance() int {
	if s.operational == nil {
		return DefaultEpochTolerance
	}
	return int(s.operational.EpochTolerance)
}
