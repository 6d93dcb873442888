package converter

import (
	"crypto/sha256"
	"encoding/binary"

	"github.com/isthmus-chat/isthmus/core"
)

// Media types of parts (draft-ietf-mimi-content-09 §7.2).
const (
	TypePlain    = "text/plain;charset=utf-8"
	TypeMarkdown = "text/markdown;variant=GFM-MIMI"
	TypeHTML     = "text/html;charset=utf-8"
)

// Bounds on MIMI content (draft-ietf-mimi-content-09 §9.1 and §6).
const (
	maxParts      = 1024
	maxDepth      = 4 // of nested parts, and of a value in the extensions
	maxTopic      = 4096
	maxExtensions = 64   // the draft has no bound; one message needs a handful
	maxKey        = 255  // octets of an extension's text key
	maxExtValue   = 4096 // octets of one extension's value (§4.3)
	maxText       = 4096 // octets of a URL, a media type, a description, a file name
)

// An ID is a MIMI message ID: 0x01 and the first 31 octets of a SHA-256
// (draft-ietf-mimi-content-09 §3.3). The zero ID names nothing.
type ID [32]byte

// IsZero reports whether id names nothing.
func (id ID) IsZero() bool { return id == ID{} }

// Content is one MIMI content (draft-ietf-mimi-content-09 §4).
type Content struct {
	Salt      [16]byte
	Replaces  ID
	Topic     []byte // at most 4096 octets; ours is the root's EventID as text
	Expires   Expiration
	InReplyTo ID

	SenderURI string       // extension 1
	RoomURI   string       // extension 2
	External  ExternalID   // extension 4
	Ref       core.EventID // "chat.isthmus.ref": event that is replaced, or else replied or reacted to
	Kind      string       // "chat.isthmus.kind": "", KindEmote or KindNotice
	Unknown   []Extension  // all others, as they came

	Part Part
}

// Values of Content.Kind.
const (
	KindEmote  = "emote"  // /me
	KindNotice = "notice" // from a bot: nobody answers it automatically
)

// An Expiration says when a message shall vanish; the zero value means never.
type Expiration struct {
	Set      bool
	Relative bool // Seconds count from reading, else from 1970
	Seconds  uint32
}

// An ExternalID is the ID of a message on the network it came from
// (draft-mimi-content-more-extensions-00 §3).
type ExternalID struct {
	ID     []byte
	Domain string
}

// An Extension is a key and a value that this package does not know, each as
// one encoded CBOR item.
type Extension struct{ Key, Value []byte }

// A Disposition says what a part is for (draft-ietf-mimi-content-09 §4.4).
type Disposition uint8

const (
	DispositionUnspecified Disposition = iota
	DispositionRender
	DispositionReaction
	DispositionProfile
	DispositionInline
	DispositionIcon
	DispositionAttachment
	DispositionSession
	DispositionPreview
)

// A Cardinality says which of a Part's fields count.
type Cardinality uint8

const (
	NullPart     Cardinality = iota // nothing
	SinglePart                      // Type, Body
	ExternalPart                    // Type, File
	MultiPart                       // Semantics, Parts
)

// Semantics says how the parts of a MultiPart belong together.
type Semantics uint8

const (
	ChooseOne Semantics = iota
	SingleUnit
	ProcessAll
)

// A Part is a NestedPart.
type Part struct {
	Disposition Disposition
	Cardinality Cardinality
	Semantics   Semantics
	Language    string
	Type        string // media type
	Body        []byte
	File        *File
	Parts       []Part // two or more
}

// A File is what an ExternalPart says besides its media type.
type File struct {
	URL         string
	Expires     uint32 // seconds since 1970; 0 = never
	Size        uint64 // octets; 0 = unknown
	EncAlg      uint16 // IANA AEAD number; 0 = not encrypted
	Key, Nonce  []byte
	AAD         []byte
	HashAlg     uint8 // IANA named information; 0 = none, 1 = SHA-256
	Hash        []byte
	Description string
	Filename    string
}

// NewSalt derives a salt from seed, which must differ from message to message:
// two contents with one salt, sender, room and body are one message.
func NewSalt(seed []byte) (salt [16]byte) {
	var buf [256]byte
	h := sha256.Sum256(append(append(buf[:0], "isthmus salt\x00"...), seed...))
	copy(salt[:], h[:])
	return salt
}

// MessageID returns the ID of a message by
// 0x01 || SHA-256(len(sender) sender len(room) room content salt)[0..30]
// over the octets as received (draft-ietf-mimi-content-09 §3.3). content must
// start like MIMI content; sender and room are URIs of at most 65,535 octets.
func MessageID(sender, room string, content []byte) (ID, error) {
	if len(sender) > 0xffff || len(room) > 0xffff {
		return ID{}, core.Errorf(core.TooLarge, "URI over 65535 octets")
	}
	r := cborReader{b: content}
	if n := r.array(); n != contentFields {
		return ID{}, core.Errorf(core.Invalid, "not MIMI content")
	}
	salt := r.bytes(16)
	if r.err != nil || len(salt) != 16 {
		return ID{}, core.Errorf(core.Invalid, "not MIMI content: no salt")
	}
	var stack [1024]byte
	b := binary.BigEndian.AppendUint16(stack[:0], uint16(len(sender)))
	b = append(b, sender...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(room)))
	b = append(b, room...)
	b = append(b, content...)
	b = append(b, salt...)
	h := sha256.Sum256(b)
	id := ID{0: 0x01}
	copy(id[1:], h[:31])
	return id, nil
}

// MessageIDOf returns the MIMI message ID of an event whose body is MIMI
// content; false for any other, and for one that was deleted.
func MessageIDOf(e *core.Event) (ID, bool) {
	s, ok := e.Signed()
	if !ok || s.ContentType != core.ContentMIMI || e.Deleted {
		return ID{}, false
	}
	id, err := MessageID(string(e.Sender), string(e.Room), s.Content)
	return id, err == nil
}

// ContentOf decodes the MIMI content of an event: Unsupported if its body is
// sealed or something else.
func ContentOf(e *core.Event) (Content, error) {
	s, ok := e.Signed()
	if !ok || s.ContentType != core.ContentMIMI || e.Deleted {
		return Content{}, core.Errorf(core.Unsupported, "event without readable content")
	}
	return parseContent(s.Content, string(e.Sender), string(e.Room))
}

// IsReaction reports whether c says or takes back a reaction.
func (c *Content) IsReaction() bool { return c.Part.Disposition == DispositionReaction }

// Envelope returns c as an envelope for the core, by somebody shown as name.
// The URIs of sender and room go into the content (extensions 1 and 2).
func (c *Content) Envelope(e core.Envelope, name string) core.Envelope {
	c.SenderURI, c.RoomURI = string(e.Sender), string(e.Room)
	e.Body = core.Signed{Name: name, ContentType: core.ContentMIMI, Content: c.Append(make([]byte, 0, c.sizeHint()))}
	return e
}
