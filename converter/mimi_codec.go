package converter

import (
	"bytes"
	"encoding/binary"
	"slices"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/core"
)

const contentFields = 7

// CBOR major types (RFC 8949 §3.1), in the high three bits of an initial byte.
const (
	majorUint   = 0x00
	majorNint   = 0x20
	majorBytes  = 0x40
	majorText   = 0x60
	majorArray  = 0x80
	majorMap    = 0xa0
	majorTag    = 0xc0
	majorSimple = 0xe0
	cborNull    = 0xf6
	cborFalse   = 0xf4
	cborTrue    = 0xf5
)

const (
	keyRef  = "chat.isthmus.ref"
	keyKind = "chat.isthmus.kind"
)

func (c *Content) sizeHint() int {
	return 192 + len(c.SenderURI) + len(c.RoomURI) + len(c.Topic) + len(c.External.ID) + len(c.Part.Body)
}

// Append appends c to b as deterministic CBOR (RFC 8949 §4.2.1).
func (c *Content) Append(b []byte) []byte {
	b = append(b, majorArray|contentFields)
	b = appendBytes(b, c.Salt[:])
	b = appendID(b, c.Replaces)
	b = appendBytes(b, c.Topic)
	if c.Expires.Set {
		b = append(b, majorArray|2, cborFalse)
		if c.Expires.Relative {
			b[len(b)-1] = cborTrue
		}
		b = appendHead(b, majorUint, uint64(c.Expires.Seconds))
	} else {
		b = append(b, cborNull)
	}
	b = appendID(b, c.InReplyTo)
	b = c.appendExtensions(b)
	return c.Part.append(b)
}

// appendExtensions writes the map in the order of the encoded keys: the known
// ones are already in it, the unknown ones are merged in.
func (c *Content) appendExtensions(b []byte) []byte {
	rest := c.Unknown
	if len(rest) > 1 {
		rest = slices.Clone(rest)
		slices.SortFunc(rest, func(x, y Extension) int { return bytes.Compare(x.Key, y.Key) })
	}
	var n int
	for _, set := range [...]bool{c.SenderURI != "", c.RoomURI != "", c.External.ID != nil, !c.Ref.IsZero(), c.Kind != ""} {
		if set {
			n++
		}
	}
	b = appendHead(b, majorMap, uint64(n+len(rest)))
	before := func(key ...byte) { // the unknown ones that sort before a known key
		for len(rest) > 0 && bytes.Compare(rest[0].Key, key) < 0 {
			b = append(append(b, rest[0].Key...), rest[0].Value...)
			rest = rest[1:]
		}
	}
	if c.SenderURI != "" {
		before(1)
		b = appendText(append(b, 1), c.SenderURI)
	}
	if c.RoomURI != "" {
		before(2)
		b = appendText(append(b, 2), c.RoomURI)
	}
	if c.External.ID != nil {
		before(4)
		b = appendBytes(append(b, 4, majorArray|2), c.External.ID)
		b = appendText(b, c.External.Domain)
	}
	if !c.Ref.IsZero() {
		if len(rest) > 0 {
			before(appendText(nil, keyRef)...)
		}
		b = appendBytes(appendText(b, keyRef), c.Ref[:])
	}
	if c.Kind != "" {
		if len(rest) > 0 {
			before(appendText(nil, keyKind)...)
		}
		b = appendText(appendText(b, keyKind), c.Kind)
	}
	for _, x := range rest {
		b = append(append(b, x.Key...), x.Value...)
	}
	return b
}

func (p *Part) append(b []byte) []byte {
	fields := [...]byte{NullPart: 3, SinglePart: 5, ExternalPart: 15, MultiPart: 5}
	b = append(b, majorArray|fields[p.Cardinality&3])
	b = appendHead(b, majorUint, uint64(p.Disposition))
	b = appendText(b, p.Language)
	b = append(b, byte(p.Cardinality))
	switch p.Cardinality {
	case SinglePart:
		b = appendText(b, p.Type)
		b = appendBytes(b, p.Body)
	case ExternalPart:
		b = p.File.append(appendText(b, p.Type))
	case MultiPart:
		b = append(b, byte(p.Semantics))
		b = appendHead(b, majorArray, uint64(len(p.Parts)))
		for i := range p.Parts {
			b = p.Parts[i].append(b)
		}
	}
	return b
}

func (f *File) append(b []byte) []byte {
	b = appendText(b, f.URL)
	b = appendHead(b, majorUint, uint64(f.Expires))
	b = appendHead(b, majorUint, f.Size)
	b = appendHead(b, majorUint, uint64(f.EncAlg))
	b = appendBytes(b, f.Key)
	b = appendBytes(b, f.Nonce)
	b = appendBytes(b, f.AAD)
	b = appendHead(b, majorUint, uint64(f.HashAlg))
	b = appendBytes(b, f.Hash)
	b = appendText(b, f.Description)
	return appendText(b, f.Filename)
}

func appendID(b []byte, id ID) []byte {
	if id.IsZero() {
		return append(b, cborNull)
	}
	return appendBytes(b, id[:])
}

func appendBytes(b, s []byte) []byte {
	return append(appendHead(b, majorBytes, uint64(len(s))), s...)
}

func appendText(b []byte, s string) []byte {
	return append(appendHead(b, majorText, uint64(len(s))), s...)
}

func appendHead(b []byte, major byte, n uint64) []byte {
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

// ParseContent decodes MIMI content within the bounds of
// draft-ietf-mimi-content-09 §9.1. It takes any CBOR of definite lengths, not
// only the deterministic one: a message is identified by its octets as
// received, so nothing is re-encoded to be checked. The content refers to b.
// Errors are Invalid and TooLarge.
func ParseContent(b []byte) (Content, error) { return parseContent(b, "", "") }

// parseContent is ParseContent where the sender and the room are known from
// outside: the same URIs in the content are not copied.
func parseContent(b []byte, sender, room string) (Content, error) {
	var c Content
	if len(b) > core.MaxContent {
		return c, core.Errorf(core.TooLarge, "content over %d octets", core.MaxContent)
	}
	r := cborReader{b: b, sender: sender, room: room}
	if r.array() != contentFields {
		r.fail("content is not an array of seven")
	}
	if salt := r.bytes(maxText); len(salt) == 16 {
		c.Salt = [16]byte(salt)
	} else {
		r.fail("salt is not 16 octets")
	}
	c.Replaces = r.id()
	c.Topic = r.bytes(maxTopic)
	if !r.null() {
		if r.array() != 2 {
			r.fail("expiry is not a pair")
		}
		c.Expires = Expiration{Set: true, Relative: r.bool(), Seconds: uint32(r.uint(1<<32 - 1))}
	}
	c.InReplyTo = r.id()
	r.extensions(&c)
	budget := maxParts
	r.part(&c.Part, 1, &budget)
	if r.err == nil && len(r.b) != 0 {
		r.fail("octets after the content")
	}
	if r.err != nil {
		return Content{}, r.err
	}
	return c, nil
}

// A cborReader reads definite-length CBOR; the first fault stays, and every
// read after it returns nothing.
type cborReader struct {
	b            []byte
	err          error
	sender, room string // URIs that need no copy
}

func (r *cborReader) fail(why string) {
	if r.err == nil {
		r.err = core.Errorf(core.Invalid, "MIMI content: %s", why)
	}
	r.b = nil
}

// head reads an initial byte and its argument. Indefinite lengths are refused.
func (r *cborReader) head() (major byte, n uint64) {
	if len(r.b) == 0 {
		r.fail("ends early")
		return 0xff, 0
	}
	major, n = r.b[0]&0xe0, uint64(r.b[0]&0x1f)
	r.b = r.b[1:]
	if n < 24 {
		return major, n
	}
	if n > 27 {
		r.fail("indefinite or reserved length")
		return 0xff, 0
	}
	size := 1 << (n - 24)
	if len(r.b) < size {
		r.fail("ends early")
		return 0xff, 0
	}
	n = 0
	for _, x := range r.b[:size] {
		n = n<<8 | uint64(x)
	}
	r.b = r.b[size:]
	return major, n
}

// array returns the length of an array. Every item has an octet or more, so a
// length beyond the input is a fault before anything is made for it.
func (r *cborReader) array() int {
	major, n := r.head()
	if major != majorArray || n > uint64(len(r.b)) {
		r.fail("no array where one belongs")
		return 0
	}
	return int(n)
}

func (r *cborReader) uint(limit uint64) uint64 {
	major, n := r.head()
	if major != majorUint || n > limit {
		r.fail("no number, or one out of range")
		return 0
	}
	return n
}

func (r *cborReader) bool() bool {
	if len(r.b) == 0 || r.b[0] != cborTrue && r.b[0] != cborFalse {
		r.fail("no boolean where one belongs")
		return false
	}
	v := r.b[0] == cborTrue
	r.b = r.b[1:]
	return v
}

func (r *cborReader) null() bool {
	if len(r.b) > 0 && r.b[0] == cborNull {
		r.b = r.b[1:]
		return true
	}
	return false
}

func (r *cborReader) str(want byte, limit int) []byte {
	major, n := r.head()
	if major != want || n > uint64(len(r.b)) {
		r.fail("no string where one belongs, or one that ends early")
		return nil
	}
	if n > uint64(limit) {
		r.err = core.Errorf(core.TooLarge, "MIMI content: string over %d octets", limit)
		r.b = nil
		return nil
	}
	s := r.b[:n:n]
	r.b = r.b[n:]
	return s
}

func (r *cborReader) bytes(limit int) []byte { return r.str(majorBytes, limit) }

func (r *cborReader) text(limit int) []byte {
	s := r.str(majorText, limit)
	if !utf8.Valid(s) {
		r.fail("text is not UTF-8")
	}
	return s
}

// id reads null or a message ID; one of an unknown hash algorithm is refused
// (draft-ietf-mimi-content-09 §9.1).
func (r *cborReader) id() ID {
	if r.null() {
		return ID{}
	}
	s := r.bytes(maxText)
	if len(s) != 32 || s[0] != 0x01 {
		r.fail("not a message ID")
		return ID{}
	}
	return ID(s)
}

func (r *cborReader) extensions(c *Content) {
	major, n := r.head()
	if major != majorMap || n > maxExtensions {
		r.fail("extensions are not a map within bounds")
		return
	}
	var seen [maxExtensions][]byte // keys as they came; compared as a whole
	for i := range int(n) {
		key := r.key()
		for _, k := range seen[:i] {
			if bytes.Equal(k, key) {
				r.fail("the same extension twice")
			}
		}
		if seen[i] = key; r.err != nil {
			return
		}
		r.extension(c, key)
	}
}

// key reads an integer or text key and returns its encoding.
func (r *cborReader) key() []byte {
	start := r.b
	switch major, n := r.head(); {
	case major == majorUint || major == majorNint:
		if n > 1<<53-1 {
			r.fail("extension key out of range")
		}
	case major == majorText && n >= 1 && n <= maxKey && n <= uint64(len(r.b)) && utf8.Valid(r.b[:n]):
		r.b = r.b[n:]
	default:
		r.fail("extension key is neither integer nor text within bounds")
	}
	return start[:len(start)-len(r.b)]
}

func (r *cborReader) extension(c *Content, key []byte) {
	switch {
	case len(key) == 1 && key[0] == 1:
		c.SenderURI = same(r.text(core.MaxURI), r.sender)
	case len(key) == 1 && key[0] == 2:
		c.RoomURI = same(r.text(core.MaxURI), r.room)
	case string(key) == "\x70"+keyRef:
		if s := r.bytes(maxText); len(s) == 16 && core.EventID(s) != (core.EventID{}) {
			c.Ref = core.EventID(s)
		} else {
			r.fail("reference is not an event ID")
		}
	case string(key) == "\x71"+keyKind:
		start := r.b
		switch s := r.text(maxKey); string(s) {
		case KindEmote:
			c.Kind = KindEmote
		case KindNotice:
			c.Kind = KindNotice
		default: // a later version's: kept, and shown as an ordinary message
			c.Unknown = append(c.Unknown, Extension{Key: key, Value: start[:len(start)-len(r.b)]})
		}
	default:
		r.unknown(c, key)
	}
}

// same returns s as a string, without a copy if it is known.
func same(s []byte, known string) string {
	if string(s) == known {
		return known
	}
	return string(s)
}

// unknown keeps an extension as it came; extension 4 is understood if it has
// the form we write.
func (r *cborReader) unknown(c *Content, key []byte) {
	start := r.b
	r.skip(1)
	value := start[:len(start)-len(r.b)]
	if len(value) > maxExtValue {
		r.fail("extension over its bound")
	}
	if r.err != nil {
		return
	}
	if len(key) == 1 && key[0] == 4 {
		v := cborReader{b: value}
		if n := v.array(); n == 2 {
			id, domain := v.bytes(maxExtValue), v.text(maxExtValue)
			if v.err == nil {
				c.External = ExternalID{ID: id, Domain: string(domain)}
				return
			}
		}
	}
	c.Unknown = append(c.Unknown, Extension{Key: key, Value: value})
}

// skip reads one item of any kind, at most maxDepth deep.
func (r *cborReader) skip(depth int) {
	if depth > maxDepth+1 {
		r.fail("extension too deep")
		return
	}
	start := r.b
	switch major, n := r.head(); major {
	case majorBytes, majorText:
		if n > uint64(len(r.b)) || major == majorText && !utf8.Valid(r.b[:n]) {
			r.fail("string ends early or is not UTF-8")
			return
		}
		r.b = r.b[n:]
	case majorArray, majorMap:
		if n > uint64(len(r.b)) {
			r.fail("ends early")
			return
		}
		if major == majorMap {
			n *= 2
		}
		for i := uint64(0); i < n && r.err == nil; i++ {
			r.skip(depth + 1)
		}
	case majorTag:
		r.skip(depth + 1)
	case majorSimple:
		if start[0] == 0xf8 && n < 32 {
			r.fail("malformed simple value")
		}
	}
}

func (r *cborReader) part(p *Part, depth int, budget *int) {
	*budget--
	if depth > maxDepth || *budget < 0 {
		r.fail("too many parts, or too deep")
	}
	n := r.array()
	p.Disposition = Disposition(r.uint(255))
	p.Language = string(r.text(maxKey))
	p.Cardinality = Cardinality(r.uint(3))
	switch {
	case r.err != nil:
	case p.Cardinality == NullPart && n == 3:
	case p.Cardinality == SinglePart && n == 5:
		p.Type = mediaType(r.text(maxText))
		p.Body = r.bytes(core.MaxContent)
		if isText(p.Type) && !utf8.Valid(p.Body) {
			r.fail("text part is not UTF-8")
		}
	case p.Cardinality == ExternalPart && n == 15:
		p.Type = mediaType(r.text(maxText))
		p.File = r.file()
	case p.Cardinality == MultiPart && n == 5:
		p.Semantics = Semantics(r.uint(uint64(ProcessAll)))
		count := r.array()
		if count < 2 || count > *budget {
			r.fail("a part of many has fewer than two or too many")
			return
		}
		p.Parts = make([]Part, count)
		for i := range p.Parts {
			r.part(&p.Parts[i], depth+1, budget)
		}
	default:
		r.fail("part has the wrong number of fields")
	}
}

func (r *cborReader) file() *File {
	f := &File{URL: string(r.text(maxText))}
	f.Expires = uint32(r.uint(1<<32 - 1))
	f.Size = r.uint(1<<64 - 1)
	f.EncAlg = uint16(r.uint(1<<16 - 1))
	f.Key, f.Nonce, f.AAD = r.bytes(maxText), r.bytes(maxText), r.bytes(maxText)
	f.HashAlg = uint8(r.uint(255))
	f.Hash = r.bytes(maxText)
	f.Description, f.Filename = string(r.text(maxText)), string(r.text(maxText))
	return f
}

// mediaType returns s without copying the types that every message has.
func mediaType(s []byte) string {
	switch string(s) {
	case TypePlain:
		return TypePlain
	case TypeMarkdown:
		return TypeMarkdown
	case TypeHTML:
		return TypeHTML
	}
	return string(s)
}

// isText reports whether a media type is text in UTF-8.
func isText(t string) bool {
	return t == TypePlain || t == TypeMarkdown || t == TypeHTML || len(t) > 5 && t[:5] == "text/"
}
