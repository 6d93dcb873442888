package core

import "time"

// A Link is a room bound to a place on a network. Every link has an owner; there
// are no implicit ones (CONVERSION, "Rules learned").
type Link struct {
	ID      string // short, unique on this homeserver
	Room    RoomID
	Network Network
	Place   string // the network's own name for the place: a Matrix room ID
	Owner   string // who asked for it
	Mode    Mode
	Created time.Time
	Paused  string // why it carries nothing now; "" = it runs
	Holder  string // which process carries traffic (PROTOCOL §14)
	Until   time.Time
}

// A Mode says when users of ours appear on the other side.
type Mode uint8

const (
	Lazy   Mode = iota // a ghost joins when it first speaks
	Mirror             // ghosts join and leave with their users
)

func (m Mode) String() string {
	if m == Mirror {
		return "mirror"
	}
	return "lazy"
}

// Caps is what a network can carry, as data.
type Caps struct {
	Sealed                               bool // carries sealed bodies byte for byte
	Edit, React, Reply, Redact, Emote    bool
	Typing, Topic, Membership, Formatted bool
	MaxText                              int // octets of one message's text; 0 = no limit of its own
}

// A Loss is something the far side cannot show.
type Loss struct {
	Kind string // from a small fixed set, safe as a metric label: "reaction", "edit", "colour"
	Text string // one sentence for the sender
}

// A Delivery is an event on its way to a link.
type Delivery struct {
	Link  Link
	Event Event
}

// A Report is what a delivery that succeeded has to say.
type Report struct {
	Placed  []string // the IDs the far side gave the parts, in order
	Loss    []Loss
	Skipped bool // nothing to send: the event came from there, or means nothing there
}

// A Cursor is how far a link's lane has come, and its account book:
// each event of the lane up to Seq was delivered, refused, expired or skipped.
type Cursor struct {
	Link                                 string
	Lane                                 Lane
	Seq                                  uint64 // last event settled
	Delivered, Refused, Expired, Skipped uint64
}

// Placed is where an event went: the ID that part of it has at a link.
type Placed struct {
	Link    string
	Event   EventID
	Part    int
	Foreign string
}

// An Item is something for one recipient, kept until they take it: an
// invitation, a notice that something was lost.
type Item struct {
	ID   uint64 // rising per homeserver; set by the core
	To   UserURI
	From UserURI
	Room RoomID
	Kind string // "invite", "loss", "notice"
	Text string
	At   time.Time
}

// A Signal is gone when it has been shown: typing. It is never stored.
type Signal struct {
	Room   RoomID
	Sender UserURI
	Name   string
	Origin Network
	Typing string            // "active", "paused", "done"
	Tags   map[string]string // client-only tags between IRC clients of this homeserver
}

// An Account is a user of this homeserver who can prove it.
type Account struct {
	Name     string // as chosen; unique under the case mapping of Fold
	Fold     string // key
	User     UserURI
	Created  time.Time
	Argon2id string   // PHC string
	SCRAM    string   // "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey" (RFC 5803)
	Certs    []string // lower-case hex SHA-256 of client certificates
	Tokens   []string // lower-case hex SHA-256 of login tokens
	Disabled bool
}

// String keeps credentials out of logs.
func (a Account) String() string { return "account" }
