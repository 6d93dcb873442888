package core

import (
	"crypto/sha256"
	"encoding/binary"
	"time"
)

// A header says who said what kind of thing where and when; it is what the
// signature covers besides the content. It is CBOR (RFC 8949 §4.2.1), one array:
// [1, room, sender, name, sent ms, content type, network, origin ID, [trail…], homeserver].
const headerFields = 10

// appendHeader writes e's header. It is written by hand because it stands on the
// path of every message; TestHeaderAgainstLibrary holds it to the library's bytes.
func appendHeader(b []byte, e *Event, s *Signed, homeserver string) []byte {
	b = append(b, 0x80|headerFields, 1)
	b = cborText(b, string(e.Room))
	b = cborText(b, string(e.Sender))
	b = cborText(b, s.Name)
	b = cborInt(b, e.Sent.UnixMilli())
	b = cborText(b, s.ContentType)
	b = cborText(b, string(e.Origin.Network))
	b = cborText(b, e.Origin.ID)
	b = cborHead(b, 0x80, uint64(len(e.Origin.Trail)))
	for _, t := range e.Origin.Trail {
		b = cborText(b, string(t))
	}
	return cborText(b, homeserver)
}

func cborInt(b []byte, v int64) []byte {
	if v < 0 {
		return cborHead(b, 0x20, uint64(-1-v))
	}
	return cborHead(b, 0x00, uint64(v))
}

func cborText(b []byte, s string) []byte { return append(cborHead(b, 0x60, uint64(len(s))), s...) }

func cborHead(b []byte, major byte, n uint64) []byte {
	switch {
	case n < 24:
		return append(b, major|byte(n))
	case n < 1<<8:
		return append(b, major|24, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, major|25), uint16(n))
	case n < 1<<32:
		return binary.BigEndian.AppendUint32(append(b, major|26), uint32(n))
	}
	return binary.BigEndian.AppendUint64(append(b, major|27), n)
}

// cborReader reads what appendHeader wrote; the first fault stays.
type cborReader struct {
	b   []byte // what is left of all
	all string
	bad bool
}

func (r *cborReader) head() (major byte, n uint64) {
	if r.bad || len(r.b) == 0 {
		r.bad = true
		return 0, 0
	}
	major, info := r.b[0]&0xe0, r.b[0]&0x1f
	r.b = r.b[1:]
	if info < 24 {
		return major, uint64(info)
	}
	size := 1 << (info - 24)
	if info > 27 || len(r.b) < size {
		r.bad = true
		return 0, 0
	}
	for _, c := range r.b[:size] {
		n = n<<8 | uint64(c)
	}
	r.b = r.b[size:]
	return major, n
}

func (r *cborReader) text() string {
	major, n := r.head()
	if major != 0x60 || n > uint64(len(r.b)) {
		r.bad = true
		return ""
	}
	at := len(r.all) - len(r.b)
	r.b = r.b[n:]
	return r.all[at : at+int(n)]
}

func (r *cborReader) int() int64 {
	major, n := r.head()
	if n > 1<<62 || major > 0x20 {
		r.bad = true
	}
	if major == 0x20 {
		return -1 - int64(n)
	}
	return int64(n)
}

// readHeader fills e and s from h.
func readHeader(h []byte, e *Event, s *Signed) error {
	r := cborReader{b: h, all: string(h)} // one copy: every text is a part of it
	if major, n := r.head(); major != 0x80 || n != headerFields {
		return Errorf(Invalid, "message header is not an array of %d", headerFields)
	}
	if v := r.int(); v != 1 {
		return Errorf(Unsupported, "message header version %d", v)
	}
	e.Room = RoomID(r.text())
	e.Sender = UserURI(r.text())
	s.Name = r.text()
	e.Sent = time.UnixMilli(r.int())
	s.ContentType = r.text()
	if s.ContentType == ContentMIMI {
		s.ContentType = ContentMIMI // one constant instead of a copy per message
	}
	e.Origin.Network = Network(r.text())
	e.Origin.ID = r.text()
	major, n := r.head()
	if major != 0x80 || n > MaxTrail {
		return Errorf(Invalid, "message header with a bad trail")
	}
	for range n {
		e.Origin.Trail = append(e.Origin.Trail, Network(r.text()))
	}
	r.text() // homeserver
	if r.bad || len(r.b) != 0 {
		return Errorf(Invalid, "message header is broken")
	}
	return nil
}

// Records are how events lie in the store: a version octet, flags, then
// length-prefixed parts. The layout is ours alone; peers never see it.
const (
	recordVersion = 1
	flagDeleted   = 1 << 0
	flagSealed    = 1 << 1
)

// AppendRecord writes e as the store keeps it; Seq and Accepted stand in
// columns of their own.
func AppendRecord(b []byte, e *Event) []byte {
	part := func(p []byte) {
		b = binary.AppendUvarint(b, uint64(len(p)))
		b = append(b, p...)
	}
	switch body := e.Body.(type) {
	case Sealed:
		b = append(b, recordVersion, flagSealed)
		h := make([]byte, 0, 256)
		fields := byte(sealedFields)
		if e.Log == 0 {
			fields--
		}
		h = cborText(cborText(append(h, 0x80|fields), string(e.Room)), string(e.Sender))
		h = cborInt(h, e.Sent.UnixMilli())
		h = cborText(cborText(h, string(e.Origin.Network)), e.Origin.ID)
		h = cborHead(cborText(h, e.Home), 0x00, e.ID.Seq())
		if e.Log != 0 {
			h = cborHead(h, 0x00, e.Log)
		}
		part(h)
		part(body.Message)
	case Signed:
		flags := byte(0)
		if e.Deleted {
			flags = flagDeleted
		}
		b = append(b, recordVersion, flags)
		part(body.Header)
		part(body.Content) // of a tombstone: the SHA-256 of what it was
		b = append(b, body.Vouch.Right)
		part(body.Vouch.Path)
		part(body.Vouch.Sig)
	}
	return b
}

// ReadRecord is the inverse of AppendRecord. The event keeps no reference to b.
func ReadRecord(b []byte, seq uint64, accepted time.Time, homeserver string) (Event, error) {
	e := Event{Seq: seq, Accepted: accepted}
	broken := func() error { return Errorf(Internal, "stored event %d is broken", seq) }
	if len(b) < 2 || b[0] != recordVersion {
		return e, broken()
	}
	b = append([]byte(nil), b...) // one copy for all parts
	flags, rest, ok := b[1], b[2:], true
	part := func() []byte {
		n, w := binary.Uvarint(rest)
		if w <= 0 || n > uint64(len(rest)-w) {
			ok = false
			return nil
		}
		p := rest[w : w+int(n) : w+int(n)]
		rest = rest[w+int(n):]
		return p
	}
	if flags&flagSealed != 0 {
		return readSealed(e, part(), part(), homeserver)
	}
	s := Signed{Header: part(), Content: part()}
	if !ok || len(rest) == 0 {
		return e, broken()
	}
	s.Vouch.Right, rest = rest[0], rest[1:]
	s.Vouch.Path, s.Vouch.Sig = part(), part()
	if !ok || readHeader(s.Header, &e, &s) != nil {
		return e, broken()
	}
	e.ID = NewEventID(e.Room, homeserver, seq)
	e.Deleted = flags&flagDeleted != 0
	if s.ContentType == ContentControl && !e.Deleted {
		c, err := ParseControl(s.Content)
		if err != nil {
			return e, broken()
		}
		e.Control = c
	}
	e.Body = s
	return e, nil
}

// sealedFields: [room, sender, sent ms, network, origin ID, home, place in home's log,
// incarnation of that log]; the last one is there when it is not 0.
const sealedFields = 8

func readSealed(e Event, header, message []byte, homeserver string) (Event, error) {
	r := cborReader{b: header, all: string(header)}
	major, n := r.head()
	e.Room, e.Sender, e.Sent = RoomID(r.text()), UserURI(r.text()), time.UnixMilli(r.int())
	e.Origin = Origin{Network: Network(r.text()), ID: r.text()}
	e.Home = r.text()
	_, place := r.head()
	if n == sealedFields {
		_, e.Log = r.head()
	}
	if r.bad || len(r.b) != 0 || major != 0x80 || n != sealedFields && n != sealedFields-1 {
		return e, Errorf(Internal, "stored event %d is broken", e.Seq)
	}
	if e.Home != "" {
		homeserver = e.Home
	}
	e.ID = logIDOf(e.Room, homeserver, e.Log).at(place)
	e.Body = Sealed{Message: message}
	return e, nil
}

// ContentHash returns the SHA-256 of the content, also of a tombstone's.
func (e *Event) ContentHash() [32]byte {
	s, _ := e.Signed()
	if e.Deleted && len(s.Content) == 32 {
		return [32]byte(s.Content)
	}
	return sha256.Sum256(s.Content)
}
