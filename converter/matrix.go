package converter

import (
	"encoding/json"

	"github.com/isthmus-chat/isthmus/core"
)

// Matrix converts between normal form and Matrix room events (specification
// v1.19). The zero value is ready.
type Matrix struct {
	// Homeserver is our own domain: it stands in the origin mark of what we
	// send. May be empty.
	Homeserver string
}

// A MatrixEvent is one room event from a homeserver, with its names resolved.
type MatrixEvent struct {
	Room    core.RoomID  // the room linked to the event's Matrix room
	User    core.UserURI // the sender
	Name    string       // the sender's display name there
	Network core.Network // "matrix:example.org"
	Trail   []core.Network

	Type, EventID string
	Sender        string // Matrix user ID
	SentMS        int64  // origin_server_ts
	StateKey      *string
	Content       json.RawMessage
	PrevContent   json.RawMessage // unsigned.prev_content of a state event, if sent
	Redacts       string          // event ID; also taken from content.redacts (room version 11)
}

// A MatrixOut is one event to be sent into a Matrix room.
type MatrixOut struct {
	Type     string
	StateKey *string // nil for a timeline event
	Content  []byte  // JSON object
	Redacts  string  // event ID, for m.room.redaction only: PUT …/redact
}

// The content key by which gateways recognise each other's events.
const keyOrigin = "chat.isthmus.origin"

// MatrixOrigin returns the mark of a gateway in a message's content
// ("chat.isthmus.origin"): whose event it was before it came to Matrix.
// Anybody can write one, so it may only ever stop a relay, never allow one.
func MatrixOrigin(content []byte) (homeserver string, network core.Network, id string, ok bool) {
	v, err := parseJSON(content)
	if err != nil {
		return "", "", "", false
	}
	return originOf(v)
}

func originOf(v value) (homeserver string, network core.Network, id string, ok bool) {
	o := v.get(keyOrigin)
	homeserver, id = o.get("homeserver").str(), o.get("id").str()
	network = core.Network(o.get("network").str())
	ok = network != "" && id != "" && len(network) <= core.MaxName && len(id) <= core.MaxOriginID &&
		oneLine(string(network)) == string(network)
	return homeserver, network, id, ok
}

// Levels of the roles: Matrix has numbers, we have names. A level between two
// rows has the role of the lower one.
var roleLevels = [...]struct {
	role  core.Role
	level int64
}{
	{core.RoleOwner, 100}, {core.RoleAdmin, 75}, {core.RoleOperator, 50}, {core.RoleHalfop, 25}, {core.RoleVoice, 10},
	{core.RoleMember, 0},
}

// RoleOfLevel returns the role that a power level stands for.
func RoleOfLevel(level int64) core.Role {
	for _, r := range roleLevels {
		if level >= r.level {
			return r.role
		}
	}
	return core.RoleNone
}

// LevelOfRole returns the power level that stands for a role.
func LevelOfRole(role core.Role) int64 {
	for _, r := range roleLevels {
		if role == r.role {
			return r.level
		}
	}
	return 0
}
