package irc

import (
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

func init() {
	offer(capability{bit: capRedaction, name: "draft/message-redaction"})
	addCommands(commandTable{
		"REDACT": {min: 2, cost: 2, run: cmdRedact},
	})
}

// cmdRedact answers REDACT (https://ircv3.net/specs/extensions/message-redaction):
// authors take back what they said, operators what anybody said. The bytes are
// gone from the store as well.
func cmdRedact(s *session, l *line) {
	if !s.caps().has(capRedaction) {
		s.num("421", "REDACT", "Unknown command")
		return
	}
	target, msgid := l.params[0], l.params[1]
	room, ok := s.knownRoom(target)
	if !ok {
		s.fail("REDACT", "INVALID_TARGET", target, "You cannot delete messages from there")
		return
	}
	id, err := core.ParseEventID(msgid)
	if err != nil {
		s.fail("REDACT", "UNKNOWN_MSGID", target, msgid, "This message does not exist or is too old")
		return
	}
	receipts, err := s.submit("REDACT", s.control(room, core.Control{Op: core.OpDelete, Event: id, Text: cut(l.param(2), s.srv.cfg.KickLen)}))
	if err == nil {
		err = receipts[0].Err
	}
	switch {
	case err == nil && receipts[0].Duplicate:
		s.fail("REDACT", "UNKNOWN_MSGID", target, msgid, "This message was deleted already")
	case err == nil:
	case core.ReasonOf(err) == core.NotJoined:
		s.fail("REDACT", "INVALID_TARGET", target, "You cannot delete messages from there")
	case core.CodeOf(err) == core.Denied:
		s.fail("REDACT", "REDACT_FORBIDDEN", target, msgid, "You are not authorised to delete this message")
	case core.CodeOf(err) == core.NotFound || core.CodeOf(err) == core.Invalid:
		s.fail("REDACT", "UNKNOWN_MSGID", target, msgid, "This message does not exist or is too old")
	default:
		s.refuse("REDACT", target, err)
	}
}

// knownRoom finds the room of a channel that the user is in, or of a
// conversation that exists, without making either.
func (s *session) knownRoom(target string) (core.RoomID, bool) {
	w := s.srv.world
	w.mu.RLock()
	if strings.HasPrefix(target, "#") {
		defer w.mu.RUnlock()
		ch := w.channelByName(target)
		if ch == nil || ch.index[s.user] == nil {
			return "", false
		}
		return ch.room.ID, true
	}
	u := w.userByNick(target)
	w.mu.RUnlock()
	if u != nil {
		return s.srv.directRoom(s.user.uri, u.uri), u != s.user
	}
	acc, found, err := s.srv.auth.find(s.ctx, target)
	return s.srv.directRoom(s.user.uri, acc.User), err == nil && found && acc.User != s.user.uri
}
