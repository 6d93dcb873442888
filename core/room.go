package core

import (
	"crypto/sha256"
	"time"
)

// Kind says whether a room is end-to-end encrypted. It is fixed at creation.
type Kind uint8

const (
	Channel Kind = iota // unencrypted: only Signed bodies
	Group               // end-to-end encrypted by MLS: only Sealed bodies
)

func (k Kind) String() string {
	if k == Group {
		return "group"
	}
	return "channel"
}

// ContentMIMI is the content type of chat rooms (draft-ietf-mimi-content-09).
const ContentMIMI = "application/mimi-content"

// A Room is where people talk.
type Room struct {
	ID          RoomID
	Kind        Kind
	ContentType string // media type of what members say; default ContentMIMI
	Direct      bool   // two people, never listed
	Name        string // as shown, case kept; for a Channel its IRC name
	Topic       string
	TopicBy     string // display name of who set it
	TopicAt     time.Time
	Policy      Policy
	Created     time.Time
	Founder     UserURI
}

// DirectRoom is the conversation of two users at domain: one, whoever begins it and
// by whichever door. No Channel can have that name, so nobody can found one there.
func DirectRoom(domain string, a, b UserURI) RoomID {
	h := sha256.Sum256([]byte(string(min(a, b)) + "\x00" + string(max(a, b))))
	return NewRoomID(domain, "dm,"+Base32.EncodeToString(h[:15]))
}

// A Role is what a participant may do: an index into the room's roles
// (draft-ietf-mimi-room-policy-04 §4). Not being in the list is role 0, being
// banned is role 1.
type Role uint8

const (
	RoleNone   Role = iota
	RoleBanned      // may not join or speak
	RoleMember
	RoleVoice    // IRC +v: speaks in moderated rooms
	RoleHalfop   // IRC +h
	RoleOperator // IRC +o
	RoleAdmin    // IRC +a
	RoleOwner    // IRC +q
	roleEnd
)

var roleNames = [...]string{"none", "banned", "member", "voice", "halfop", "operator", "admin", "owner"}

func (r Role) String() string {
	if r < roleEnd {
		return roleNames[r]
	}
	return "none"
}

// RoleOf is the role of a participant of a Group, for lists: an index that the room
// has given a meaning of its own is shown as that of a member. What a role allows is
// asked of the room's policy.
func RoleOf(index uint32) Role {
	if index < uint32(roleEnd) {
		return Role(index)
	}
	return RoleMember
}

// A Policy is what the room asks of its members; IRC shows it as modes.
// Key, Limit, Registered and InviteOnly gate who joins, never who is heard.
type Policy struct {
	Moderated  bool   `cbor:"1,keyasint,omitempty"` // +m: members need voice to speak
	InviteOnly bool   `cbor:"2,keyasint,omitempty"` // +i
	TopicLock  bool   `cbor:"3,keyasint,omitempty"` // +t: members may not change the topic
	Secret     bool   `cbor:"4,keyasint,omitempty"` // +s: not listed to those outside
	Registered bool   `cbor:"5,keyasint,omitempty"` // +R: only users with an account join
	Key        string `cbor:"7,keyasint,omitempty"` // +k: a join code
	Limit      uint32 `cbor:"8,keyasint,omitempty"` // +l: participants; 0 = no limit
	SinceJoin  bool   `cbor:"9,keyasint,omitempty"` // +H: history from before one joined stays hidden
}

// A Capability is a thing a role may do (draft-ietf-mimi-room-policy-04 §6).
type Capability uint16

const (
	CanAddParticipant    Capability = 0x0000 // invite
	CanOpenJoin          Capability = 0x0004
	CanBan               Capability = 0x000a // and see the ban list
	CanKick              Capability = 0x000c
	CanChangeUserRole    Capability = 0x000f
	CanSendMessage       Capability = 0x0100
	CanDeleteOther       Capability = 0x010b
	CanChangeRoomName    Capability = 0x0300
	CanChangeRoomSubject Capability = 0x0303
	CanChangePolicy      Capability = 0x0505
	CanDestroyRoom       Capability = 0x0501
)

// Can reports whether the policy grants c to r.
func (p Policy) Can(r Role, c Capability) bool {
	switch c {
	case CanOpenJoin:
		return r != RoleBanned && (!p.InviteOnly || r > RoleMember)
	case CanSendMessage:
		return r >= RoleVoice || r == RoleMember && !p.Moderated
	case CanChangeRoomSubject:
		return r >= RoleHalfop || r >= RoleMember && !p.TopicLock
	case CanAddParticipant:
		return r >= RoleHalfop || r >= RoleMember && !p.InviteOnly
	case CanKick, CanBan, CanDeleteOther:
		return r >= RoleHalfop
	case CanChangeUserRole:
		return r >= RoleHalfop
	case CanChangePolicy, CanChangeRoomName:
		return r >= RoleOperator
	case CanDestroyRoom:
		return r >= RoleOwner
	}
	return false
}

// MayAssign reports whether actor may move somebody from role from to role to:
// never above or beside oneself, except that owners are equals; halfops give and
// take voice only.
func MayAssign(actor, from, to Role) bool {
	high := max(from, to)
	switch {
	case actor >= RoleOwner:
		return true
	case actor >= RoleOperator:
		return high < actor || high == RoleOperator && actor == RoleOperator
	case actor == RoleHalfop:
		return high <= RoleVoice
	}
	return false
}

// A Profile is how a member is shown. All of it is the claim of the bridge that
// relays the member; none of it authenticates anybody.
type Profile struct {
	Name    string `cbor:"1,keyasint,omitempty"` // display name; for IRC users their nick
	Ident   string `cbor:"2,keyasint,omitempty"` // IRC user name
	Host    string `cbor:"3,keyasint,omitempty"` // IRC host: a cloak, never an address
	Account string `cbor:"4,keyasint,omitempty"` // account name, "" for guests
	Real    string `cbor:"5,keyasint,omitempty"` // realname
	Avatar  string `cbor:"6,keyasint,omitempty"` // https or mxc URL
	Bot     bool   `cbor:"7,keyasint,omitempty"`
}

// A Member is a participant of a room.
type Member struct {
	User    UserURI
	Via     Network // the network that relays the user; "irc" for our own listener
	Role    Role
	Joined  bool // false: keeps a role, a ban or an invitation while away
	Invited bool // may join once whatever the policy says
	Profile Profile
	Since   uint64 // Seq of the join
}

// A Ban is an IRC-style mask over name!ident@host, or $a:account
// (https://ircv3.net/specs/extensions/account-extban).
type Ban struct {
	Mask string
	List byte // 'b' ban, 'e' exception, 'I' invite exception
	By   string
	At   time.Time
}
