package wire

import "github.com/isthmus-chat/isthmus/core"

// PeerPath is where the requests between homeservers begin (PROTOCOL §8); all are
// POST with a CBOR body over mutual TLS, and Error as the answer that refuses.
const PeerPath = "/isthmus/v1/"

// Raft is POST raft: messages of the agreement of many rooms. With Answer the asked
// homeserver may answer with a Raft of what its agreement says to them; what it sends
// by a request of its own instead is understood as well.
type Raft struct {
	Messages []core.PeerMessage `json:"m"`
	Answer   bool               `json:"answer,omitempty"`
}

// Events is POST events: batches of many rooms.
type Events struct {
	Rooms []RoomEvents `json:"rooms"`
}

// RoomEvents is the batch of one room, in the order of the sender's log. Log is the
// incarnation of that log: 0, and higher after the sender lost the end of it.
type RoomEvents struct {
	_      struct{} `cbor:",toarray"`
	Room   core.RoomID
	Log    uint64
	Events []core.PeerEvent
}

// Stored answers Events, a result per room in the same order.
type Stored struct {
	Rooms []RoomStored `json:"rooms"`
}

// RoomStored says how far the sender's log is stored; with Code it stopped there:
// "stale epoch" means not yet. Passed are places, rising, whose messages were passed
// over because their epoch ended too long ago. They are named until a batch begins
// behind them, which the sender sends when it has written them down. Log is the
// incarnation of what is stored, and Mark names the message at Seq (core.MarkOf; 0 = not
// known): by them a sender sees that it has lost what it said.
type RoomStored struct {
	_      struct{} `cbor:",toarray"`
	Room   core.RoomID
	Seq    uint64
	Code   string
	Passed []uint64 // at most core.MaxPassed
	Log    uint64
	Mark   uint64
}

// PeerClaim is POST key-packages/claim: the users are all of the asked homeserver.
type PeerClaim struct {
	Room   core.RoomID    `json:"room,omitempty"`
	By     core.UserURI   `json:"by"`
	Except core.DeviceURI `json:"except,omitempty"`
	Users  []core.UserURI `json:"users"`
	Suites []uint16       `json:"suites"`
}

// PeerRecords is POST records: the users asked for, and records handed over.
type PeerRecords struct {
	Users   []core.UserURI  `json:"users,omitempty"`
	Records []core.Identity `json:"records,omitempty"`
	Domains []string        `json:"domains,omitempty"` // whose homeserver records are asked for
}

// PeerRecordsAnswer answers PeerRecords.
type PeerRecordsAnswer struct {
	Records     []core.Identity `json:"records,omitempty"`
	Homeservers []Homeserver    `json:"homeservers,omitempty"`
}

// PeerWelcome is POST welcome: a Welcome for devices of a homeserver that the
// room's agreement does not reach yet. It is kept by the receiver before it answers.
type PeerWelcome struct {
	Room    core.RoomID `json:"room"`
	Epoch   uint64      `json:"epoch"`
	Message []byte      `json:"message"`
	Tree    []byte      `json:"tree"`
}

// PeerInbox is POST inbox: sealed letters for devices of the asked homeserver.
type PeerInbox struct {
	From    core.UserURI   `json:"from"`
	Letters []SealedLetter `json:"letters"`
}

// PeerGroupInfo is POST group-info: a user of the asking homeserver wants to join
// by an external commit a room that the asked homeserver is in. The answer is a
// GroupInfo sealed to Key.
type PeerGroupInfo struct {
	Room  core.RoomID    `json:"room"`
	User  core.UserURI   `json:"user"`
	By    core.DeviceURI `json:"by"`
	Key   []byte         `json:"key"`
	Code  string         `json:"code,omitempty"`
	Proof core.Identity  `json:"proof"`
}

// PeerHandshake is POST handshakes: the external commit of a user whose
// homeserver is not part of the room yet.
type PeerHandshake struct {
	Room      core.RoomID    `json:"room"`
	By        core.DeviceURI `json:"by"`
	Handshake Handshake      `json:"handshake"`
}
