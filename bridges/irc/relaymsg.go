package irc

import (
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

func init() {
	offer(capability{bit: capRelaymsg, name: "draft/relaymsg", value: func(*Server) string { return "/" }})
	addCommands(commandTable{
		"RELAYMSG": {min: 3, cost: 1, run: cmdRelaymsg},
	})
}

// tagRelay names who relayed a line, to those who know the tag.
const tagRelay = "draft/relaymsg"

// cmdRelaymsg answers RELAYMSG: an operator of a channel, a relay bot mostly,
// speaks as nick/tag, a name that no user can have. In the room's log the
// relaying user is the sender, so whoever may ban the bot stops its ghosts.
func cmdRelaymsg(s *session, l *line) {
	name, nick, text := l.params[0], l.params[1], l.params[2]
	w := s.srv.world
	w.mu.RLock()
	ch := w.channelByName(name)
	var role core.Role
	var room core.RoomID
	if ch != nil {
		room = ch.room.ID
		if m := ch.index[s.user]; m != nil {
			role = m.role
		}
	}
	w.mu.RUnlock()
	switch {
	case ch == nil:
		s.num("403", name, "No such channel")
		return
	case role < core.RoleHalfop:
		s.fail("RELAYMSG", "PRIVS_NEEDED", name, "Only operators of the channel relay messages")
		return
	case strings.TrimSpace(text) == "":
		s.fail("RELAYMSG", "BLANK_MSG", name, "No text to send")
		return
	case !validRelayNick(nick, s.srv.cfg.NickLen):
		s.fail("RELAYMSG", "INVALID_NICK", nick, "The nick must be of the form nick/network")
		return
	}
	m := converter.IRCMessage{Room: room, Sender: s.user.uri, Name: nick, Origin: core.Origin{Network: core.NetworkIRC},
		Sent: time.Now(), Seed: s.newSeed(), Lines: []converter.IRCLine{{Text: text}}}
	env, err := s.srv.convert.Inbound(m, storeNames{lockedNames{worldNames{srv: s.srv}}, s, room})
	if err != nil {
		s.refuse("RELAYMSG", name, err)
		return
	}
	s.one("RELAYMSG", name, env)
}

// validRelayNick reports whether nick is nick/tag with characters of a nick.
func validRelayNick(nick string, max int) bool {
	left, right, ok := strings.Cut(nick, "/")
	if !ok || len(nick) > max || !validNick(left, max) || right == "" {
		return false
	}
	for i := 0; i < len(right); i++ {
		if !nickByte(right[i], false) {
			return false
		}
	}
	return true
}

// relayedAs returns the source of a line that u relayed under name, false if
// name is a nick of u's own.
func relayedAs(u *user, name string, max int) (source string, ok bool) {
	if !u.local || strings.IndexByte(name, '/') < 0 {
		return "", false
	}
	p := u.profile
	p.Name = speakerNick(name, max)
	return sourceOf(p), true
}
