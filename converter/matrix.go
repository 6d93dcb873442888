package converter

import (
	"encoding/json"

	"github.com/isthmus-chat/isthmus/core"
)

// Matrix converts between normal form and Matrix room events (specification
// v1.19). The zero value is ready.
type Matrix struct {
	// Homeserver is our own domain: it tells our origin mark from another
	// gateway's. May be empty.
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

// MatrixOrigin returns the mark of a gateway in a message's content
// ("chat.isthmus.origin"): whose event it was before it came to Matrix.
// Anybody can write one, so it may only ever stop a relay, never allow one.
func MatrixOrigin(content []byte) (homeserver string, network core.Network, id string, ok bool) {
	return "", "", "", false
}

// Inbound returns the envelopes of an event: one, or for m.room.power_levels
// one per changed role, each with its own origin ID. Encrypted events and
// unknown types without a text are Unsupported, wrong shapes Invalid, more
// than a bound TooLarge; a redaction of what is not known is NotFound. No
// envelopes and no error mean that the event changes nothing here.
func (x Matrix) Inbound(m MatrixEvent, names Names) ([]core.Envelope, error) {
	return nil, core.Errorf(core.Unsupported, "event type %q", m.Type)
}

// Outbound returns what to send for an event, in order, and what is lost by
// it. Membership (join, leave, kick, ban, invite, profile) returns nothing: the
// bridge acts on the Control itself. Sealed events are Unsupported.
func (x Matrix) Outbound(e *core.Event, names Names) ([]MatrixOut, []core.Loss, error) {
	return nil, nil, nil
}
