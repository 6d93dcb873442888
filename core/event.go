package core

import (
	"time"

	"github.com/isthmus-chat/isthmus/mls"
)

// Bounds on what one envelope may hold, in octets. Content is bounded by what a
// Matrix event may hold (65,536 octets whole), the rest by what networks allow.
const (
	MaxContent  = 48 << 10
	MaxOriginID = 255
	MaxName     = 255
	MaxTrail    = 8
)

// An Envelope is one message offered to the core. It is a value: nobody changes
// one after Submit.
type Envelope struct {
	Room   RoomID
	Sender UserURI
	Origin Origin    // network + that network's own ID; unique: the dedupe key
	Sent   time.Time // the sender's claim: shown, never used for ordering
	Body   Body      // Sealed or Signed, nothing else
}

// An Origin says where an envelope entered. An empty ID means that it was born
// at this homeserver: the event ID it gets is its origin then, and nothing can
// replay it.
type Origin struct {
	Network Network
	ID      string
	Trail   []Network // networks it passed before Network (PROTOCOL §14)
}

// Passed reports whether the event came through n: it never goes back there.
func (o Origin) Passed(n Network) bool {
	if o.Network == n {
		return true
	}
	for _, t := range o.Trail {
		if t == n {
			return true
		}
	}
	return false
}

// Body is a closed sum: Sealed or Signed.
type Body interface{ body() }

// Sealed is an MLSMessage, verbatim (RFC 9420 §6): framing readable, content
// not. Bytes out equal bytes in.
type Sealed struct{ Message []byte }

// Signed is plaintext with its content type, vouched for by the homeserver that
// relays it. The signature lies beside the bytes, never inside, so there is no
// canonical form to disagree about (PROTOCOL §4).
type Signed struct {
	Name        string // what the sender was called when it was said
	ContentType string // ContentMIMI, or ContentControl
	Content     []byte
	Header      []byte // CBOR, as signed; the core fills it
	Vouch       Vouch  // the core fills it
}

func (Sealed) body() {}
func (Signed) body() {}

// An Event is an Envelope the core accepted.
type Event struct {
	Envelope
	ID       EventID
	Seq      uint64 // dense per room on this homeserver, from 1
	Accepted time.Time
	Deleted  bool     // a tombstone: ID, who and when stay, the bytes are gone
	Control  *Control // decoded when Body is a Signed of ContentControl, else nil
	Log      uint64   // incarnation of the log that the ID names, see LogOf
	Home     string   // the homeserver that accepted it from its device, "" = this one; the ID names its log
}

// Signed returns the body if it is a Signed.
func (e *Event) Signed() (Signed, bool) { s, ok := e.Body.(Signed); return s, ok }

// Handshake reports whether s is a handshake message, which homeservers agree on,
// rather than an application message: whether its framing is public (RFC 9420 §6).
func (s Sealed) Handshake() bool {
	return len(s.Message) > 4 && s.Message[2] == 0 && s.Message[3] == byte(mls.WirePublic)
}

// Lane returns the lane the event is delivered in: messages never wait for
// membership and state.
func (e *Event) Lane() Lane {
	if e.Control != nil && e.Control.Op != OpDelete {
		return LaneState
	}
	return LaneMessage
}

// A Lane is one ordered stream of deliveries to a link.
type Lane uint8

const (
	LaneMessage Lane = iota // content, and deletions of content
	LaneState               // membership, roles, topic, policy
	Lanes
)
