package native

import (
	"encoding/binary"
	"math"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// The body of POST events is written and read by hand: it is the path of every
// message between homeservers, and messages are not copied when they are read.
// TestEventsAgainstLibrary holds both to the CBOR of wire.Events.

const (
	majorUint  = 0x00
	majorNeg   = 0x20
	majorBytes = 0x40
	majorText  = 0x60
	majorArray = 0x80
	majorMap   = 0xa0

	roomFields  = 3 // of a wire.RoomEvents
	eventFields = 5 // of a core.PeerEvent
)

func appendHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n <= math.MaxUint8:
		return append(b, major|24, byte(n))
	case n <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n <= math.MaxUint32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

// appendEvents writes wire.Events.
func appendEvents(b []byte, rooms []wire.RoomEvents) []byte {
	b = appendText(appendHead(b, majorMap, 1), "rooms")
	b = appendHead(b, majorArray, uint64(len(rooms)))
	for i := range rooms {
		b = appendText(appendHead(b, majorArray, roomFields), string(rooms[i].Room))
		b = appendHead(b, majorUint, rooms[i].Log)
		b = appendHead(b, majorArray, uint64(len(rooms[i].Events)))
		for j := range rooms[i].Events {
			e := &rooms[i].Events[j]
			b = appendHead(b, majorArray, eventFields)
			b = appendHead(b, majorUint, e.Seq)
			b = appendHead(b, majorUint, e.Prev)
			if e.Accepted < 0 {
				b = appendHead(b, majorNeg, uint64(-1-e.Accepted))
			} else {
				b = appendHead(b, majorUint, uint64(e.Accepted))
			}
			b = appendText(b, string(e.Sender))
			b = append(appendHead(b, majorBytes, uint64(len(e.Message))), e.Message...)
		}
	}
	return b
}

// An eventsReader reads what appendEvents writes; the first fault stays.
type eventsReader struct {
	b   []byte
	bad bool
}

// head reads the head of an item of a major type, in the shortest form
// (RFC 8949 §4.2.1), and returns its argument.
func (r *eventsReader) head(major byte) uint64 {
	m, n := r.item()
	if m != major {
		r.bad = true
		return 0
	}
	return n
}

func (r *eventsReader) item() (major byte, n uint64) {
	if r.bad || len(r.b) == 0 {
		r.bad = true
		return 0, 0
	}
	major, info := r.b[0]&0xe0, r.b[0]&0x1f
	r.b = r.b[1:]
	if info < 24 {
		return major, uint64(info)
	}
	size := 1 << (info & 3)
	if info > 27 || len(r.b) < size {
		r.bad = true
		return 0, 0
	}
	for _, c := range r.b[:size] {
		n = n<<8 | uint64(c)
	}
	r.b = r.b[size:]
	if n < 24 || size > 1 && n>>(8*size/2) == 0 {
		r.bad = true
	}
	return major, n
}

// octets reads a string of a major type; it is a part of the body.
func (r *eventsReader) octets(major byte) []byte {
	n := r.head(major)
	if r.bad || n > uint64(len(r.b)) {
		r.bad = true
		return nil
	}
	out := r.b[:n:n]
	r.b = r.b[n:]
	return out
}

func (r *eventsReader) time() int64 {
	m, n := r.item()
	if n > math.MaxInt64 || m != majorUint && m != majorNeg {
		r.bad = true
		return 0
	}
	if m == majorNeg {
		return -1 - int64(n)
	}
	return int64(n)
}

// parseEvents reads wire.Events within the bounds of one request. Messages are
// parts of b.
func parseEvents(b []byte) ([]wire.RoomEvents, error) {
	bad := core.Errorf(core.Invalid, "the body is not the CBOR that belongs here")
	r := &eventsReader{b: b}
	if n := r.head(majorMap); n != 1 || string(r.octets(majorText)) != "rooms" {
		return nil, bad
	}
	n := r.head(majorArray)
	if n > maxBatchLanes {
		return nil, core.Errorf(core.TooLarge, "more than %d rooms at once", maxBatchLanes)
	}
	out := make([]wire.RoomEvents, 0, n)
	for range n {
		room, err := r.room()
		if err != nil {
			return nil, err
		}
		out = append(out, room)
	}
	if r.bad || len(r.b) > 0 {
		return nil, bad
	}
	return out, nil
}

func (r *eventsReader) room() (out wire.RoomEvents, err error) {
	bad := core.Errorf(core.Invalid, "the body is not the CBOR that belongs here")
	if r.head(majorArray) != roomFields {
		return out, bad
	}
	if out.Room, err = core.ParseRoomID(string(r.octets(majorText))); err != nil {
		return out, err
	}
	out.Log = r.head(majorUint)
	n := r.head(majorArray)
	if n > maxLaneEvents {
		return out, core.Errorf(core.TooLarge, "more than %d messages of one room at once", maxLaneEvents)
	}
	if n > uint64(len(r.b)) { // each has an octet at least
		return out, bad
	}
	out.Events = make([]core.PeerEvent, 0, n)
	var sender string
	for range n {
		if r.head(majorArray) != eventFields {
			return out, bad
		}
		e := core.PeerEvent{Seq: r.head(majorUint), Prev: r.head(majorUint), Accepted: r.time()}
		if s := r.octets(majorText); string(s) != sender { // often the same as before: one copy
			if !utf8.Valid(s) || len(s) > core.MaxURI {
				return out, bad
			}
			sender = string(s)
		}
		e.Sender = core.UserURI(sender)
		if e.Message = r.octets(majorBytes); r.bad {
			return out, bad
		}
		out.Events = append(out.Events, e)
	}
	return out, nil
}
