package irc

import (
	"strconv"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

func init() {
	offer(capability{bit: capChannelRename, name: "draft/channel-rename"})
	addCommands(commandTable{
		"RENAME": {min: 2, cost: 4, run: cmdRename},
	})
}

// cmdRename answers RENAME (https://ircv3.net/specs/extensions/channel-rename).
// The room keeps its identity, which is its first name: nobody else can found a
// channel of that name, and who joins it is sent to the new one.
func cmdRename(s *session, l *line) {
	from, to := l.params[0], l.params[1]
	w := s.srv.world
	w.mu.RLock()
	ch := w.channelByName(from)
	in := ch != nil && ch.index[s.user] != nil
	op := in && ch.room.Policy.Can(ch.index[s.user].role, core.CanChangeRoomName)
	taken := w.channelByName(to) != nil && w.channelByName(to) != ch
	var room core.RoomID
	if ch != nil {
		room = ch.room.ID
	}
	w.mu.RUnlock()
	switch {
	case ch == nil:
		s.num("403", from, "No such channel")
		return
	case !in:
		s.num("442", from, "You're not on that channel")
		return
	case !op:
		s.num("482", from, "You must be a channel operator")
		return
	case !validChannel(to, s.srv.cfg.ChannelLen):
		s.fail("RENAME", "CANNOT_RENAME", from, orWord(to, "*"), "That is not a name for a channel")
		return
	}
	if id := s.srv.roomID(to); !taken && id != room {
		err := s.srv.gw.View(s.ctx, func(r core.Reader) error { _, err := r.Room(id); return err })
		if err != nil && core.CodeOf(err) != core.NotFound {
			s.refuse("RENAME", from, err)
			return
		}
		taken = err == nil // a room whose channel goes by another name, or a Group
	}
	if taken {
		s.fail("RENAME", "CHANNEL_NAME_IN_USE", from, to, "The channel name is already taken")
		return
	}
	w.mu.Lock()
	ch.why = cut(l.param(2), s.srv.cfg.KickLen)
	w.mu.Unlock()
	s.one("RENAME", from, s.control(room, core.Control{Op: core.OpName, Text: to}))
}

// renamedTo returns the name that the room founded as name has now, "" if that
// is its name still or there is none. The world's lock is held.
func (srv *Server) renamedTo(name string) string {
	w := srv.world
	if ch := w.rooms[srv.roomID(name)]; ch != nil && ch.fold != "" && ch.fold != w.fold.fold(name) {
		return ch.name()
	}
	return ""
}

// in reports whether u is in the channel called name.
func (srv *Server) in(name string, u *user) bool {
	srv.world.mu.RLock()
	defer srv.world.mu.RUnlock()
	ch := srv.world.channelByName(name)
	return ch != nil && ch.index[u] != nil
}

// redirect tells who joins a renamed channel where it is; true if they shall be
// let in there at once (https://ircv3.net/specs/extensions/channel-rename).
func (s *session) redirect(from, to string) bool {
	if s.caps().has(capChannelRename) {
		s.fail("JOIN", "CHANNEL_RENAMED", from, to, "The channel has been renamed")
		return false
	}
	s.num("470", from, to, "The channel has been renamed")
	return true
}

// showRename tells the members of a channel its new name: those without
// channel-rename leave the old one and enter the new one. The world's lock is
// held.
func (srv *Server) showRename(ch *channel, e *core.Event, st *stamp, old string) {
	why := ch.why
	ch.why = ""
	rename := stampedFan(st, srv.sourceOf(e), " RENAME", old, ch.name(), why)
	cased := srv.world.fold.fold(old) == ch.fold
	for _, s := range ch.receivers {
		switch {
		case s.caps().has(capChannelRename):
			srv.toSessions([]*session{s}, e, rename)
		case !cased:
			source := s.user.source()
			part := middleFan(st, source, " PART", old)
			if strings.TrimSpace(why) != "" {
				part = stampedFan(st, source, " PART", old, why)
			}
			part.send(s)
			srv.joinFan(ch, s.user, st).send(s)
			s.queue.push(srv.topicBlock(s, ch))
			s.queue.push(srv.namesBlock(s, ch))
		}
	}
}

// topicBlock is 332 and 333 for a session that did not ask.
func (srv *Server) topicBlock(s *session, ch *channel) []byte {
	if ch.room.Topic == "" {
		return nil
	}
	num := func(b []byte, number string, params ...string) []byte {
		from := len(b)
		b = append(append(append(b, ':'), srv.cfg.ServerName...), ' ')
		b = appendMiddle(append(b, number...), s.shownNick())
		return endLine(appendParams(b, params), from)
	}
	b := num(nil, "332", ch.name(), cut(ch.room.Topic, srv.cfg.TopicLen))
	return num(b, "333", ch.name(), nickFrom(ch.room.TopicBy, srv.cfg.NickLen), strconv.FormatInt(ch.room.TopicAt.Unix(), 10))
}
