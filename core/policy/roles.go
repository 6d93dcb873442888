package policy

import (
	"fmt"
	"slices"
)

// bannedName is what role 1 is called, and no other: "The banned role always has
// role_index = 1", draft-ietf-mimi-room-policy-04 §8.1.3.
const bannedName = "banned"

// RoleTargets says to which roles a participant of role From may be moved; role
// 0 stands for who is not in the list.
type RoleTargets struct {
	From    uint32
	Targets []uint32
}

// A Role is what a participant may do and how many may have it,
// draft-ietf-mimi-room-policy-04 §3. A nil maximum means none. Active are the
// participants with a client in the group.
type Role struct {
	Index             uint32
	Name, Description string
	Capabilities      []Capability
	Minimum           uint32
	Maximum           *uint32
	MinimumActive     uint32
	MaximumActive     *uint32
	AuthorizedChanges []RoleTargets
}

// Roles is the data and the update of the component roles_list. Indices need
// not be contiguous, and each is there once.
type Roles []Role

// Has reports whether the role has the capability.
func (r *Role) Has(c Capability) bool { return r != nil && slices.Contains(r.Capabilities, c) }

// MayMove reports whether holders of the role may move somebody else from one
// role to another. It is the actor's role that is asked, never the target's.
func (r *Role) MayMove(from, to uint32) bool {
	return r != nil && slices.ContainsFunc(r.AuthorizedChanges, func(t RoleTargets) bool {
		return t.From == from && slices.Contains(t.Targets, to)
	})
}

func readRole(r *reader) Role {
	return Role{
		Index:         r.u32(),
		Name:          r.text(MaxText),
		Description:   r.text(MaxText),
		Capabilities:  readList(r, MaxCapabilities, func(r *reader) Capability { return Capability(r.u16()) }),
		Minimum:       r.u32(),
		Maximum:       readOptional(r, (*reader).u32),
		MinimumActive: r.u32(),
		MaximumActive: readOptional(r, (*reader).u32),
		AuthorizedChanges: readList(r, MaxRoleChanges, func(r *reader) RoleTargets {
			return RoleTargets{r.u32(), readList(r, MaxRoleChanges, (*reader).u32)}
		}),
	}
}

// appendTo is a function of the value, for roles stand in lists.
func (r Role) appendTo(dst []byte) []byte {
	dst = appendU32(dst, r.Index)
	dst = appendVec(appendVec(dst, r.Name), r.Description)
	dst = appendList(dst, r.Capabilities, func(dst []byte, c Capability) []byte { return appendU16(dst, uint16(c)) })
	dst = appendOptional(appendU32(dst, r.Minimum), r.Maximum, appendU32)
	dst = appendOptional(appendU32(dst, r.MinimumActive), r.MaximumActive, appendU32)
	return appendList(dst, r.AuthorizedChanges, func(dst []byte, t RoleTargets) []byte {
		return appendList(appendU32(dst, t.From), t.Targets, appendU32)
	})
}

// ParseRoles reads a roles list. Errors are ErrMalformed: an index twice, a
// role 1 that is not called banned or another that is, or canOpenJoin on a role
// other than 0 (draft-ietf-mimi-room-policy-04 §8.1.1, §8.1.3).
func ParseRoles(b []byte) (Roles, error) {
	roles, err := parse(b, func(r *reader) Roles { return readList(r, MaxRoles, readRole) })
	if err != nil {
		return nil, err
	}
	seen := make(map[uint32]bool, len(roles))
	for i := range roles {
		r := &roles[i]
		if seen[r.Index] {
			return nil, fmt.Errorf("%w: a role twice", ErrMalformed)
		}
		if (r.Index == RoleBanned) != (r.Name == bannedName) {
			return nil, fmt.Errorf("%w: role 1 is the banned one, and no other is", ErrMalformed)
		}
		if r.Index != RoleNone && r.Has(CanOpenJoin) {
			return nil, fmt.Errorf("%w: canOpenJoin is for role 0 only", ErrMalformed)
		}
		seen[r.Index] = true
	}
	return roles, nil
}

// AppendTo appends the encoding.
func (r Roles) AppendTo(dst []byte) []byte {
	return appendList(dst, r, func(dst []byte, r Role) []byte { return r.appendTo(dst) })
}

// Find returns the role with the index, or nil.
func (r Roles) Find(index uint32) *Role {
	for i := range r {
		if r[i].Index == index {
			return &r[i]
		}
	}
	return nil
}

// A Claim is something that a credential says: an entry of type Type called ID
// (an object identifier, a JWT claim's name, a CWT claim's key) with Value.
type Claim struct {
	Type      uint16
	ID, Value string // octets
}

// A PreauthEntry gives the role to whose credential has all the claims.
type PreauthEntry struct {
	Claims []Claim
	Role   Role
}

// Preauth is the data and the update of the component preauth_list,
// draft-ietf-mimi-room-policy-04 §4.
type Preauth []PreauthEntry

// ParsePreauth reads a list of preauthorized users. Errors are ErrMalformed.
func ParsePreauth(b []byte) (Preauth, error) {
	return parse(b, func(r *reader) Preauth {
		return readList(r, MaxPreauth, func(r *reader) PreauthEntry {
			return PreauthEntry{readList(r, MaxClaims, func(r *reader) Claim {
				return Claim{r.u16(), r.opaque(), r.opaque()}
			}), readRole(r)}
		})
	})
}

// AppendTo appends the encoding.
func (p Preauth) AppendTo(dst []byte) []byte {
	return appendList(dst, p, func(dst []byte, e PreauthEntry) []byte {
		dst = appendList(dst, e.Claims, func(dst []byte, c Claim) []byte {
			return appendVec(appendVec(appendU16(dst, c.Type), c.ID), c.Value)
		})
		return e.Role.appendTo(dst)
	})
}

// Match returns the index of the role of the first entry whose claims are all
// among claims. An entry without claims matches nobody: it would match all.
func (p Preauth) Match(claims []Claim) (role uint32, ok bool) {
	for _, e := range p {
		missing := slices.ContainsFunc(e.Claims, func(c Claim) bool { return !slices.Contains(claims, c) })
		if len(e.Claims) > 0 && !missing {
			return e.Role.Index, true
		}
	}
	return RoleNone, false
}

// opaque reads a vector of at most MaxText octets of any value.
func (r *reader) opaque() string {
	b := r.vec()
	if len(b) > MaxText {
		r.fail("a value that is too long")
		return ""
	}
	return string(b)
}
