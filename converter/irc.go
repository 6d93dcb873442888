package converter

import (
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// IRC converts between normal form and what an IRC client or network says. The
// zero value is ready; its fields are policy.
type IRC struct {
	// MaxLines is how many lines a plain client is sent for one message before
	// a link to the full text takes the place of the rest; 0 means 5.
	MaxLines int
	// Reactions tells plain clients of reactions in a line; the default is not to.
	Reactions bool
	// PlainColours leaves formatting codes in the lines for plain clients out.
	StripFormatting bool
}

// Bounds of the IRC side.
const (
	defaultLines = 5
	// MaxIRCLines bounds what one message becomes in any case: Ergo's and our
	// draft/multiline limits are below it.
	MaxIRCLines = 100
	// recentReply is how long a reply's target needs no quote in plain text
	// (matrix-appservice-irc has used five minutes for years).
	recentReply = 5 * time.Minute
	maxQuote    = 40 // code points of a quote
	maxReaction = 64 // octets of a reaction; the longest emoji has 35
	maxIRCText  = core.MaxContent / 2
)

// An IRCMessage is one PRIVMSG, NOTICE or TAGMSG to a channel, or one
// draft/multiline batch, already parsed and attributed.
type IRCMessage struct {
	Room   core.RoomID
	Sender core.UserURI
	Name   string // the sender's nick
	Origin core.Origin
	Sent   time.Time
	Notice bool
	Lines  []IRCLine
	// ReplyTo is the target of +reply, +draft/react or +draft/unreact; zero if none.
	ReplyTo core.EventID
	// React and Unreact are the text of a reaction (TAGMSG); Lines are empty then.
	React, Unreact string
	// Seed makes the message unlike every other of its sender: the salt comes
	// from it. If empty, it is taken from Origin, Sent and the text.
	Seed []byte
}

// An IRCLine is the last parameter of one message. Concat joins it to the one
// before without a line break (draft/multiline-concat).
type IRCLine struct {
	Text   string
	Concat bool
}

// An IRCKind says what an event is on IRC.
type IRCKind uint8

const (
	IRCNone       IRCKind = iota // nothing to say
	IRCPrivmsg                   // Lines, ReplyTo
	IRCNotice                    // Lines, ReplyTo; sent as NOTICE
	IRCAction                    // Lines without the CTCP wrapper, which goes around each line
	IRCReaction                  // React to Target (TAGMSG +draft/react)
	IRCUnreaction                // React taken back from Target (+draft/unreact)
	IRCEdit                      // Target's text becomes Text; Lines say so to clients without edits
	IRCRedaction                 // Target is gone (REDACT), Reason
)

func (k IRCKind) String() string {
	return [...]string{"none", "privmsg", "notice", "action", "reaction", "unreaction", "edit", "redaction"}[k&7]
}

// IRCOut is one event as IRC says it. No text in it has CR, LF, NUL or any
// other control character than formatting codes; lines may be longer than an
// IRC line: SplitLine cuts them to the room that prefix and target leave.
type IRCOut struct {
	Kind IRCKind
	// Lines are the logical lines for clients with message-tags, a
	// draft/multiline batch if there is more than one. A blank line may stand
	// between others, never alone.
	Lines []string
	// Plain are the lines for clients without tags: reply prefix, short diff of
	// an edit; none where plain clients are told nothing. It shares memory with
	// Lines when nothing differs.
	Plain []string
	// Text is the new text of an edit, line by line without any marker: what
	// draft/message-editing and history say under the old ID.
	Text    []string
	ReplyTo core.EventID // zero if no reply
	Target  core.EventID // of a reaction, edit or redaction
	React   string
	Reason  string
}

// Inbound returns the envelope of a message. A CTCP ACTION becomes an emote,
// any other CTCP is Unsupported; a reaction that is not known cannot be taken
// back (NotFound); nothing to say, or what is not UTF-8, is Invalid.
func (IRC) Inbound(m IRCMessage, names Names) (core.Envelope, error) {
	e := core.Envelope{Room: m.Room, Sender: m.Sender, Origin: m.Origin, Sent: m.Sent}
	c := Content{Salt: ircSalt(&m)}
	if err := ircContent(&c, &m, names); err != nil {
		return core.Envelope{}, err
	}
	return c.Envelope(e, m.Name), nil
}

func ircContent(c *Content, m *IRCMessage, names Names) error {
	var b strings.Builder
	for i, l := range m.Lines {
		if i > 0 && !l.Concat {
			b.WriteByte('\n')
		}
		b.WriteString(l.Text)
	}
	c.Part = Part{Disposition: DispositionRender, Cardinality: SinglePart, Type: TypePlain, Body: []byte(b.String())}
	return nil
}

func ircSalt(m *IRCMessage) [16]byte {
	return NewSalt(m.Seed)
}

// Outbound returns what an event is on IRC and what is lost by it. Sealed and
// state events (membership, topic, modes: the listener reads the Control) are
// IRCNone; unreadable content is Unsupported or Invalid.
func (x IRC) Outbound(e *core.Event, names Names) (IRCOut, []core.Loss, error) {
	c, err := ContentOf(e)
	if err != nil {
		return IRCOut{}, nil, err
	}
	lines := strings.Split(string(c.Part.Body), "\n")
	return IRCOut{Kind: IRCPrivmsg, Lines: lines, Plain: lines}, nil, nil
}

// SplitLine cuts text into parts of at most room octets, on code point
// boundaries, after the last blank in the final fifth where there is one, and
// inside no grapheme cluster where it can be avoided. Formatting that is open
// at a cut is opened again in the next part. Joined, and without those repeated
// codes, the parts are the text. room below 16 counts as 16.
func SplitLine(text string, room int) []string {
	return []string{text}
}
