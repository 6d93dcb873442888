package converter

import (
	"encoding/binary"
	"strings"
	"time"
	"unicode/utf8"

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
	// StripFormatting leaves formatting codes out of all lines.
	StripFormatting bool
}

// Bounds of the IRC side.
const (
	defaultLines = 5
	// MaxIRCLines bounds what one message becomes in any case: Ergo's and our
	// draft/multiline limits are below it.
	MaxIRCLines = 100

	// maxIRCOctets and maxPlainOctets bound the same in octets: what one
	// draft/multiline batch of ours may hold, and for plain clients twenty lines.
	maxIRCOctets   = 16 << 10
	maxPlainOctets = 8 << 10
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
	switch {
	case m.React != "":
		return c.react(m.ReplyTo, m.React, names)
	case m.Unreact != "":
		id, ok := names.Reaction(m.ReplyTo, m.Sender, reactionKey(m.Unreact))
		if !ok {
			return core.Errorf(core.NotFound, "no reaction to take back")
		}
		e, ok := names.Event(id)
		if !ok || e.Sender != m.Sender {
			return core.Errorf(core.NotFound, "no reaction to take back")
		}
		return c.unreact(e)
	}
	text, emote, err := ircText(m.Lines)
	if err != nil {
		return err
	}
	switch {
	case emote:
		c.Kind = KindEmote
	case m.Notice:
		c.Kind = KindNotice
	}
	if !m.ReplyTo.IsZero() {
		if target, ok := c.refer(m.ReplyTo, names); ok { // unknown: the text still counts
			if old, err := ContentOf(target); err == nil {
				c.Topic = old.Topic
			}
		}
	}
	c.Part = ircPart(text, names)
	if c.Part.Cardinality == NullPart {
		return core.Errorf(core.Invalid, "no text to send")
	}
	return nil
}

// ircText joins lines and unwraps a CTCP ACTION.
func ircText(lines []IRCLine) (text string, emote bool, err error) {
	if len(lines) == 0 || len(lines) > MaxIRCLines {
		return "", false, core.Errorf(core.Invalid, "a message has one to %d lines", MaxIRCLines)
	}
	const ctcp, action = "\x01", "\x01ACTION "
	size := 0
	for i := range lines {
		t := lines[i].Text
		size += len(t) + 1
		if strings.IndexByte(t, '\n') >= 0 || strings.IndexByte(t, '\r') >= 0 || strings.IndexByte(t, 0) >= 0 {
			return "", false, core.Errorf(core.Invalid, "CR, LF or NUL inside a line")
		}
		if !utf8.ValidString(t) {
			return "", false, core.Errorf(core.Invalid, "text is not UTF-8")
		}
	}
	if size > maxIRCText {
		return "", false, core.Errorf(core.TooLarge, "message over %d octets", maxIRCText)
	}
	first := lines[0].Text
	if strings.HasPrefix(first, ctcp) {
		if !strings.HasPrefix(first, action) {
			return "", false, core.Errorf(core.Unsupported, "CTCP other than ACTION does not cross")
		}
		first, emote = strings.TrimSuffix(first[len(action):], ctcp), true
	}
	if len(lines) == 1 {
		return first, emote, nil
	}
	var b strings.Builder
	b.Grow(size)
	b.WriteString(first)
	for _, l := range lines[1:] {
		if !l.Concat {
			b.WriteByte('\n')
		}
		if emote { // every line of a long ACTION has its own wrapper
			l.Text = strings.TrimSuffix(strings.TrimPrefix(l.Text, action), ctcp)
		}
		b.WriteString(l.Text)
	}
	return b.String(), emote, nil
}

// ircPart returns text with formatting codes as a part; a NullPart if nothing
// is left of it.
func ircPart(text string, names Names) Part {
	codes := false
	if !ordinary(text) {
		text = clean(text, true)
		codes = hasCodes(text)
	}
	to, user, mention := addressee(text, names)
	if !mention && !codes {
		if strings.TrimSpace(text) == "" {
			return Part{}
		}
		return Part{Disposition: DispositionRender, Cardinality: SinglePart, Type: TypePlain, Body: []byte(text)}
	}
	var d doc
	for i, l := range strings.Split(text, "\n") {
		spans := parseMIRC(l)
		if i == 0 && mention && len(spans) > 0 && strings.HasPrefix(spans[0].text, to) {
			first := spans[0]
			first.text = first.text[len(to):]
			spans = append([]span{{text: to, link: safeLink(string(user))}, first}, spans[1:]...)
		}
		d = append(d, line{spans: spans})
	}
	if d = d.normal(); len(d) == 0 || strings.TrimSpace(d.text()) == "" {
		return Part{}
	}
	return docPart(d)
}

// addressee returns the nick that a line is addressed to ("nick: text"), if it
// is somebody's: the only form in which a nick is surely not a word.
func addressee(text string, names Names) (nick string, user core.UserURI, ok bool) {
	i := strings.IndexAny(text[:min(len(text), 64)], ":, \n")
	if i < 1 || i+1 >= len(text) || text[i] != ':' && text[i] != ',' || text[i+1] != ' ' {
		return "", "", false
	}
	user, ok = names.User(text[:i])
	return text[:i], user, ok && safeLink(string(user)) != ""
}

func ircSalt(m *IRCMessage) [16]byte {
	if len(m.Seed) > 0 {
		return NewSalt(m.Seed)
	}
	seed := make([]byte, 0, 256)
	seed = append(append(seed, m.Origin.Network...), 0)
	seed = append(append(seed, m.Origin.ID...), 0)
	seed = append(append(seed, m.Sender...), 0)
	seed = binary.BigEndian.AppendUint64(seed, uint64(m.Sent.UnixNano()))
	for _, l := range m.Lines {
		seed = append(append(seed, l.Text...), 0)
	}
	return NewSalt(seed)
}
