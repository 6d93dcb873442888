package core

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"net/url"
	"strings"

	"github.com/isthmus-chat/isthmus/core/identity"
)

// MaxURI bounds every URI in octets; the longest of all known networks (a
// Matrix user ID) has 255 before it is escaped.
const MaxURI = identity.MaxURI

// A RoomID is a room's URI, mimi://a.example/r/name. The host is lower case, the
// rest is opaque (PROTOCOL §1).
type RoomID string

// A UserURI names a user: mimi://a.example/u/alice, or, for one that a network
// relays, mimi://a.example/u/irc.libera/nick.
type UserURI string

// A Network names something a bridge talks to: "irc" (our own listener),
// "irc:libera", "matrix:example.org", "native".
type Network string

// NewRoomID returns the URI of the room called name at domain. The name is any
// UTF-8 text; it is escaped as one path segment.
func NewRoomID(domain, name string) RoomID {
	return RoomID("mimi://" + strings.ToLower(domain) + "/r/" + url.PathEscape(name))
}

// NewUserURI returns the URI of a user of domain; path has one segment for a
// user of the homeserver itself, two (network, name) for a relayed one.
func NewUserURI(domain string, path ...string) UserURI {
	var b strings.Builder
	b.WriteString("mimi://")
	b.WriteString(strings.ToLower(domain))
	b.WriteString("/u")
	for _, p := range path {
		b.WriteByte('/')
		b.WriteString(url.PathEscape(p))
	}
	return UserURI(b.String())
}

// ParseRoomID checks s and returns it as a RoomID, or an Invalid error.
func ParseRoomID(s string) (RoomID, error) {
	if _, _, err := splitURI(s, "r"); err != nil {
		return "", err
	}
	return RoomID(s), nil
}

// ParseUserURI checks s and returns it as a UserURI, or an Invalid error.
func ParseUserURI(s string) (UserURI, error) {
	if _, _, err := splitURI(s, "u"); err != nil {
		return "", err
	}
	return UserURI(s), nil
}

// Domain returns the homeserver's domain, "" if r is not a room URI.
func (r RoomID) Domain() string { d, _, _ := splitURI(string(r), "r"); return d }

// Local returns the room's name at its homeserver, unescaped.
func (r RoomID) Local() string {
	_, p, _ := splitURI(string(r), "r")
	s, _ := url.PathUnescape(p)
	return s
}

// Domain returns the homeserver's domain, "" if u is not a user URI.
func (u UserURI) Domain() string { d, _, _ := splitURI(string(u), "u"); return d }

// Path returns the unescaped segments after /u/: one for a user of the
// homeserver, two (network, name) for a relayed one.
func (u UserURI) Path() []string {
	_, p, err := splitURI(string(u), "u")
	if err != nil {
		return nil
	}
	parts := strings.Split(p, "/")
	for i, s := range parts {
		parts[i], _ = url.PathUnescape(s)
	}
	return parts
}

// Local returns the last segment of the path: the name the user has where the
// user comes from.
func (u UserURI) Local() string {
	if p := u.Path(); len(p) > 0 {
		return p[len(p)-1]
	}
	return ""
}

// maxRelayedName is how much of a relayed user's name is shown, in characters.
const maxRelayedName = 48

// Relayed returns what a user whom a bridge relays is called, with the network before
// the name: "[irc guest] dave". name is the bridge's claim; nothing in it can be taken
// for an address or for the end of a name, but it may have characters that a terminal
// obeys. false: u is a user of a homeserver, whom the address alone names.
func (u UserURI) Relayed(name string) (string, bool) {
	p := u.Path()
	if len(p) < 2 {
		return "", false
	}
	tame := strings.NewReplacer("@", "_", ":", "_", "\n", " ")
	network := strings.ReplaceAll(tame.Replace(p[0]), "]", "_")
	if network == "guest" { // of our own IRC listener
		network = "irc guest"
	}
	if name = strings.TrimSpace(name); name == "" {
		name = p[len(p)-1]
	}
	shown := []rune(tame.Replace(name))
	return "[" + network + "] " + string(shown[:min(len(shown), maxRelayedName)]), true
}

// HostOf returns a homeserver's domain without its port. Homeservers that differ in the
// port only share a certificate, and who has that can have them all: what is limited is
// limited for the host.
func HostOf(domain string) string {
	if end := strings.IndexByte(domain, ']'); end >= 0 { // an IPv6 address
		return domain[:end+1]
	}
	host, _, _ := strings.Cut(domain, ":")
	return host
}

func splitURI(s, kind string) (domain, path string, err error) {
	domain, path, ok := identity.SplitURI(s, kind)
	if !ok {
		return "", "", Errorf(Invalid, "not a mimi URI of kind /%s/ with a lower-case host", kind)
	}
	return domain, path, nil
}

// An EventID names an event everywhere: eight octets for the log it stands in
// (room, originating homeserver and incarnation), eight for its place there. So the ID leads
// to the row without an index, and is the same after a restart.
type EventID [16]byte

// Base32 is how IDs are written: RFC 4648 §6 in lower case and without padding, so
// that they pass wherever a name may stand.
var Base32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewEventID returns the ID of the event at seq in the log that homeserver
// keeps for room.
func NewEventID(room RoomID, homeserver string, seq uint64) EventID {
	return logID(room, homeserver).at(seq)
}

type logKey [8]byte

func logID(room RoomID, homeserver string) (k logKey) {
	h := sha256.Sum256([]byte("isthmus log\x00" + string(room) + "\x00" + homeserver))
	copy(k[:], h[:8])
	return k
}

// logIDOf is logID for an incarnation of a log; the first one is 0.
func logIDOf(room RoomID, homeserver string, log uint64) logKey {
	if log == 0 {
		return logID(room, homeserver)
	}
	return logID(room, homeserver+"\x00"+numberKey(log))
}

func (k logKey) at(seq uint64) (id EventID) {
	copy(id[:8], k[:])
	binary.BigEndian.PutUint64(id[8:], seq)
	return id
}

// Seq returns the event's place in its log.
func (id EventID) Seq() uint64 { return binary.BigEndian.Uint64(id[8:]) }

// IsZero reports whether id names nothing.
func (id EventID) IsZero() bool { return id == EventID{} }

// String returns 26 characters of lower-case base32: a valid IRC msgid and a
// valid Matrix transaction ID.
func (id EventID) String() string { return string(id.AppendText(nil)) }

// AppendText appends what String returns to b.
func (id EventID) AppendText(b []byte) []byte { return Base32.AppendEncode(b, id[:]) }

// ParseEventID reads what String wrote; anything else is Invalid.
func ParseEventID(s string) (id EventID, err error) {
	if len(s) != 26 {
		return id, Errorf(Invalid, "not an event ID")
	}
	if n, err := Base32.Decode(id[:], []byte(s)); err != nil || n != len(id) || id.String() != s {
		return EventID{}, Errorf(Invalid, "not an event ID")
	}
	return id, nil
}
