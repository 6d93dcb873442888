package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A chatter is one device at work: what the verbs and the terminal client ask of
// it. Its methods may be called at the same time; errors are *core.Error.
type chatter interface {
	Self() chatSelf
	// Rooms lists the rooms that the user is in, by name. It does not ask the
	// homeserver, nor do Left, History and Read.
	Rooms() ([]chatRoom, error)
	// Left lists the encrypted rooms that the user was in, whose history is here.
	Left() ([]chatRoom, error)
	// History returns at most limit lines before the place before (0 = the end),
	// in rising order.
	History(room core.RoomID, before uint64, limit int) ([]chatLine, error)
	Read(room core.RoomID, upTo uint64) error

	// Sync takes what is new without waiting for more, and does what is due: an
	// *untended if that could not be done.
	Sync(ctx context.Context) error
	// Listen takes what is new, again and again, and tells it, until ctx ends or
	// the homeserver refuses for good. A homeserver that is away is waited for.
	Listen(ctx context.Context, tell func(chatNews)) error

	Create(ctx context.Context, q chatCreate) (chatRoom, error)
	Invite(ctx context.Context, room core.RoomID, users []core.UserURI) ([]chatClaim, error)
	// Consent changes, unless change is nil, and lists who may add the user to rooms.
	Consent(ctx context.Context, change *wire.PutConsent) ([]wire.Consent, error)
	// Letters are the last that were received, the newest last.
	Letters(ctx context.Context, limit int) ([]client.Letter, error)
	Join(ctx context.Context, room core.RoomID, code string) (chatRoom, error)
	Leave(ctx context.Context, room core.RoomID) error
	Remove(ctx context.Context, room core.RoomID, users []core.UserURI) error
	// SetAuthority has these homeservers agree on an encrypted room's changes.
	SetAuthority(ctx context.Context, room core.RoomID, a policy.Authority) error
	// Send sends texts in order, and returns what became of each. With an error the
	// last result is that of the text it is about; those after it were not tried.
	Send(ctx context.Context, room core.RoomID, texts []string, kind string) ([]chatSent, error)
	// Keep is Send without the homeserver: what it takes goes out with the next Sync.
	Keep(room core.RoomID, texts []string) ([]chatSent, error)
	Code(ctx context.Context, room core.RoomID, q chatCode) (chatCode, error)

	Members(ctx context.Context, room core.RoomID) ([]chatMember, error)
	Devices(ctx context.Context, user core.UserURI) ([]chatDevice, error)
	// Words are the safety words of one of our devices and another.
	Words(ctx context.Context, device core.DeviceURI) ([]string, error)
	Verify(ctx context.Context, device core.DeviceURI) error
	Link(ctx context.Context, device core.DeviceURI) error
	// Approve vouches for a new device, given its signed record.
	Approve(ctx context.Context, record []byte) ([]byte, error)
	Revoke(ctx context.Context, device core.DeviceURI) error
}

// An untended is why something that was due was not done, in one room for instance.
// What is new was taken, and the rest goes on.
type untended struct{ error }

func (e *untended) Unwrap() error { return e.error }

// goesOn is err, or nil if only something due was not done.
func goesOn(err error) error {
	if _, ok := errors.AsType[*untended](err); ok {
		return nil
	}
	return err
}

// chatSelf is who we are.
type chatSelf struct {
	User   core.UserURI   `json:"user"`
	Device core.DeviceURI `json:"device"`
	Name   string         `json:"name,omitempty"` // of the device
	Server string         `json:"server"`
}

// chatRoom is a room as it is shown.
type chatRoom struct {
	Room      core.RoomID `json:"room"`
	Name      string      `json:"name"`
	Encrypted bool        `json:"encrypted"`
	Direct    bool        `json:"direct,omitempty"`
	Domain    string      `json:"security_domain,omitempty"` // "" = none: it is not encrypted
	Epoch     uint64      `json:"epoch,omitempty"`
	Authority []string    `json:"authority,omitempty"`
	TwoThirds bool        `json:"two_thirds,omitempty"` // so many of it have to agree, not only more than half
	Last      uint64      `json:"last"`                 // place of the newest line
	Read      uint64      `json:"read"`                 // and of the newest that was read
	Unread    int         `json:"unread,omitempty"`
	Devices   int         `json:"devices,omitempty"`
	// Unverified counts the devices of others in it whose words nobody compared.
	Unverified int      `json:"unverified,omitempty"`
	Warnings   []string `json:"warnings,omitempty"`
	Entering   bool     `json:"entering,omitempty"` // this device is on the way in: it cannot read or say anything yet
	// Claims are what inviting came to, of a room that was just made.
	Claims []chatClaim `json:"claims,omitempty"`
}

// chatLine is one thing in a room's history.
type chatLine struct {
	Room     core.RoomID    `json:"room"`
	Seq      uint64         `json:"seq"`
	Event    string         `json:"event,omitempty"`
	Sender   core.UserURI   `json:"sender"`
	Name     string         `json:"name,omitempty"` // of a sender whom a bridge relays: its claim
	Device   core.DeviceURI `json:"device,omitempty"`
	At       time.Time      `json:"at"`
	Kind     string         `json:"kind"` // chatSaid, chatEmote, …
	Text     string         `json:"text"`
	Own      bool           `json:"own,omitempty"`
	Verified bool           `json:"verified,omitempty"` // the sender's device, by its safety words
	Epoch    uint64         `json:"epoch,omitempty"`
	Waiting  bool           `json:"waiting,omitempty"` // the homeserver has not accepted it yet
}

// placed reports whether somebody said the line: it has a place in the room's log then.
func (l *chatLine) placed() bool { return l.Kind != chatEvent && l.Kind != chatWarning }

// The kinds of lines.
const (
	chatSaid     = "said"
	chatEmote    = "emote"
	chatNotice   = "notice"
	chatReaction = "reaction"
	chatEvent    = "event"   // who came and went, a new epoch
	chatWarning  = "warning" // something is not as it should be
)

// chatNews is what Listen tells.
type chatNews struct {
	Lines    []chatLine
	Rooms    []chatRoom // all of them, if Changed
	Changed  bool
	Status   string // "" = connected, else what is the matter
	Warnings []string
}

// chatCreate is a room to make.
type chatCreate struct {
	Room    core.RoomID // "": one that says nothing about it
	Name    string
	Channel bool // unencrypted
	Users   []core.UserURI
}

// chatClaim is what inviting a user came to.
type chatClaim struct {
	User    core.UserURI `json:"user"`
	Devices int          `json:"devices"`          // that were let in
	Status  string       `json:"status"`           // core.ClaimStatus, or claimPresent
	Letter  bool         `json:"letter,omitempty"` // was written to instead
}

// claimPresent is the status of who was in the room already.
const claimPresent = "present"

// reached reports whether the user is in, or was written to.
func (c chatClaim) reached() bool {
	return c.Status == string(core.Claimed) || c.Status == claimPresent || c.Letter
}

// why says in words why a user was not let in.
func (c chatClaim) why() string {
	switch core.ClaimStatus(c.Status) {
	case core.Exhausted:
		return "their devices have no keys left there: try again when one was online"
	case core.Incompatible:
		return "their devices cannot be in this room"
	case core.NoConsent:
		return "they want to be asked first"
	case core.UserUnknown, core.UserDeleted:
		return "no such user, or one without a device"
	case core.Unreachable:
		return "their homeserver does not answer"
	case core.AskAgain, "":
		return "their homeserver gave no answer: try again"
	}
	return screenLine(c.Status)
}

// chatSent is what became of one text.
type chatSent struct {
	Line  int    `json:"line"` // of the input, from 1
	Seq   uint64 `json:"seq,omitempty"`
	Event string `json:"event,omitempty"`
	// Waiting says that it is kept, and goes out as soon as it can: Error says why
	// not now.
	Waiting bool       `json:"waiting,omitempty"`
	Error   *wireError `json:"error,omitempty"`
}

// chatCode is a join code: asked for, made, or dropped.
type chatCode struct {
	Room    core.RoomID `json:"room"`
	Code    string      `json:"code"`
	Uses    uint32      `json:"uses,omitempty"`    // 0 = without limit
	Expires *time.Time  `json:"expires,omitempty"` // nil = never
	Drop    bool        `json:"dropped,omitempty"`
}

type chatMember struct {
	User    core.UserURI `json:"user"`
	Name    string       `json:"name,omitempty"` // of one whom a bridge relays: its claim
	Role    string       `json:"role"`
	Devices []chatDevice `json:"devices,omitempty"`
}

type chatDevice struct {
	Device   core.DeviceURI `json:"device"`
	User     core.UserURI   `json:"user"`
	Name     string         `json:"name,omitempty"`
	Self     bool           `json:"self,omitempty"`
	Verified bool           `json:"verified"`
	Linked   bool           `json:"linked,omitempty"` // it and this device, or another of its user, name each other
	Revoked  bool           `json:"revoked,omitempty"`
	Problem  string         `json:"problem,omitempty"` // why it is not to be trusted
}

// state says in words what a device is.
func (d chatDevice) state() string {
	var words []string
	switch {
	case d.Problem != "":
		words = append(words, "WARNING: "+screenLine(d.Problem))
	case d.Revoked:
		words = append(words, "revoked")
	case d.Self:
		words = append(words, "this device")
	case d.Verified:
		words = append(words, "verified")
	default:
		words = append(words, "NOT verified")
	}
	if !d.Linked && !d.Self && !d.Revoked {
		words = append(words, "not linked to the user's others")
	}
	return strings.Join(words, ", ")
}

// shortUser is a user as people write it: alice@a.example, or alice for one of
// the homeserver home.
func shortUser(u core.UserURI, home string) string {
	path := u.Path()
	if len(path) == 0 {
		return screenLine(string(u))
	}
	name := screenLine(strings.Join(path, "/"))
	if u.Domain() == home && len(path) == 1 {
		return name
	}
	return name + "@" + screenLine(u.Domain())
}

// shownUser is shortUser for one whom a bridge may relay under a name: "[irc guest] dave",
// which no user of a homeserver can be taken for.
func shownUser(u core.UserURI, name, home string) string {
	who, ok := u.Relayed(name)
	switch {
	case !ok:
		return shortUser(u, home)
	case u.Domain() != home:
		who += "@" + u.Domain()
	}
	return screenLine(who)
}

// parseUser reads a user as people write one; home is the domain of a name alone.
func parseUser(s, home string) (core.UserURI, error) {
	if strings.HasPrefix(s, "mimi://") {
		return core.ParseUserURI(s)
	}
	name, domain, ok := strings.Cut(s, "@")
	if !ok {
		domain = home
	}
	if name == "" || domain == "" || strings.ContainsAny(s, " /:#") || strings.Contains(domain, "@") {
		return "", core.Errorf(core.Invalid, "%q is not a user: write alice@a.example or mimi://a.example/u/alice", screenLine(s))
	}
	return core.ParseUserURI(string(core.NewUserURI(domain, strings.ToLower(name))))
}

// maxNamed is how many rooms of one name are listed by their addresses.
const maxNamed = 8

// findRoom reads a room as people write one: its URI, or the name of one of rooms.
func findRoom(s string, rooms []chatRoom) (core.RoomID, error) {
	if strings.HasPrefix(s, "mimi://") {
		return core.ParseRoomID(s)
	}
	var found []core.RoomID
	for _, r := range rooms {
		if strings.EqualFold(r.Name, s) || r.Room.Local() == s || strings.TrimPrefix(r.Name, "#") == s {
			found = append(found, r.Room)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", core.Errorf(core.NotFound, "you are in no room %s", screenLine(s))
	}
	var all []string
	for _, r := range found[:min(len(found), maxNamed)] {
		all = append(all, screenLine(string(r)))
	}
	if len(found) > maxNamed {
		all = append(all, "…")
	}
	return "", core.Errorf(core.Conflict, "%d rooms are called %s: write the address of the one you mean: %s", len(found), screenLine(s), strings.Join(all, " or "))
}

// tabWidth is what a tab becomes on the screen: blanks, because a tab's width
// depends on where it stands.
const tabWidth = "    "

// screenLines returns text as lines that a terminal shows and does not obey: no
// control character, nothing that turns the direction of what follows, no byte
// that is not UTF-8.
func screenLines(text string) []string {
	text = strings.NewReplacer("\r\n", "\n", "\r", "\n", "\u0085", "\n", "\u2028", "\n", "\u2029", "\n").Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		lines[i] = strings.Map(onScreen, strings.ReplaceAll(strings.ToValidUTF8(l, "\ufffd"), "\t", tabWidth))
	}
	return lines
}

// screenLine is screenLines for what has one line: names, reasons.
func screenLine(s string) string {
	return strings.Map(onScreen, converter.Line(strings.ToValidUTF8(s, "\ufffd")))
}

// onScreen returns r if it may be shown, and -1 if not. Bidirectional controls
// would reach beyond the message, into the columns beside it.
func onScreen(r rune) rune {
	switch {
	case unicode.IsControl(r), r >= 0x202a && r <= 0x202e, r >= 0x2066 && r <= 0x2069, r == 0x200e, r == 0x200f, r == 0x061c,
		r >= 0xfff9 && r <= 0xfffb, r >= 0xe0000 && r <= 0xe007f, r == 0xfeff, r == 0x2028, r == 0x2029:
		return -1
	}
	return r
}

// lineText says a line without its time: "alice: hello".
func lineText(l chatLine, home string) string {
	who := shownUser(l.Sender, l.Name, home)
	if l.Waiting {
		l.Text += " (not sent yet)"
	}
	switch l.Kind {
	case chatEmote:
		return "* " + who + " " + l.Text
	case chatEvent:
		return "-- " + l.Text
	case chatWarning:
		return "!! " + l.Text
	case chatReaction:
		return "-- " + who + " reacted with " + l.Text
	case chatNotice:
		return who + " (notice): " + l.Text
	}
	return who + ": " + l.Text
}

// writeJSONLine writes v as one line of JSON in which no character is a
// terminal's command: encoding/json escapes those below a blank, this the rest.
func writeJSONLine(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return core.Errorf(core.Internal, "answer: %w", err)
	}
	_, err = w.Write(append(tameJSON(b), '\n'))
	return err
}

// tameJSON escapes DEL, C1 controls and bidirectional controls: all of them stand
// in strings, where \u means the same.
func tameJSON(b []byte) []byte {
	if !bytes.ContainsFunc(b, hidden) {
		return b
	}
	out := make([]byte, 0, len(b)+64)
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if hidden(r) {
			for _, u := range utf16.AppendRune(nil, r) {
				out = fmt.Appendf(out, `\u%04x`, u)
			}
		} else {
			out = append(out, b[:n]...)
		}
		b = b[n:]
	}
	return out
}

func hidden(r rune) bool { return r >= 0x7f && onScreen(r) < 0 }

// sortRooms puts rooms in the order in which they are shown.
func sortRooms(rooms []chatRoom) {
	slices.SortFunc(rooms, func(a, b chatRoom) int {
		if c := strings.Compare(strings.ToLower(a.Name), strings.ToLower(b.Name)); c != 0 {
			return c
		}
		return strings.Compare(string(a.Room), string(b.Room))
	})
}
