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
// conversation, without making either.
func (s *session) knownRoom(target string) (core.RoomID, bool) {
	if strings.HasPrefix(target, "#") {
		w := s.srv.world
		w.mu.RLock()
		defer w.mu.RUnlock()
		ch := w.channelByName(target)
		if ch == nil || ch.index[s.user] == nil {
			return "", false
		}
		return ch.room.ID, true
	}
	other, _, ok := s.partner(target)
	return s.srv.directRoom(s.user.uri, other), ok
}

// partner finds the other side of a conversation by nick: somebody who is here,
// an account that is not, or whoever the user has talked to under that nick.
func (s *session) partner(nick string) (other core.UserURI, name string, ok bool) {
	srv, w := s.srv, s.srv.world
	w.mu.RLock()
	if u := w.userByNick(nick); u != nil {
		defer w.mu.RUnlock()
		return u.uri, u.profile.Name, u != s.user
	}
	w.mu.RUnlock()
	acc, found, err := srv.auth.find(s.ctx, nick)
	if err == nil && found {
		return acc.User, acc.Name, acc.User != s.user.uri
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	fold := w.fold.fold(nick)
	for _, ch := range w.rooms {
		if !ch.room.Direct || ch.pair[0] != s.user.uri && ch.pair[1] != s.user.uri {
			continue
		}
		other = ch.other(s.user.uri)
		if name = srv.nickOf(other); w.fold.fold(name) == fold {
			return other, name, true
		}
	}
	return "", "", false
}
