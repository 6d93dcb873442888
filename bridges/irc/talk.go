package irc

import (
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

func init() {
	addCommands(commandTable{
		"PRIVMSG": {talk: true, cost: 1, run: func(s *session, l *line) { s.talk(l) }},
		"NOTICE":  {talk: true, cost: 1, run: func(s *session, l *line) { s.talk(l) }},
		"TAGMSG":  {talk: true, min: 1, cost: 1, run: func(s *session, l *line) { s.talk(l) }},
	})
}

// talk puts a message in line for the next submission. Whatever has an answer at
// once first lets go what is in line, so answers keep their order.
func (s *session) talk(l *line) {
	label := s.label
	s.label = ""
	s.spoke.Store(time.Now().Unix())
	if number, text := talkFault(l); number != "" {
		s.answer(label, func() { s.num(number, text) })
		return
	}
	targets := list(l.params[0], s.srv.cfg.MaxTargets+1)
	if len(targets) > s.srv.cfg.MaxTargets {
		s.answer(label, func() { s.num("407", l.params[0], "Too many targets") })
		return
	}
	if len(targets) > 1 && label != "" { // several messages, one labelled answer
		s.submitPending()
		s.label = label
		s.beginLabel()
		for _, t := range targets {
			s.talkTo(l, t, "", true)
			s.submitCaptured()
		}
		s.endLabel()
		return
	}
	for _, t := range targets {
		s.talkTo(l, t, label, false)
	}
}

func talkFault(l *line) (number, text string) {
	switch {
	case len(l.params) == 0 || l.params[0] == "":
		return "411", "No recipient given (" + l.command + ")"
	case l.command != "TAGMSG" && (len(l.params) < 2 || l.params[1] == ""):
		return "412", "No text to send"
	}
	return "", ""
}

// answer says something at once, in order and with its label.
func (s *session) answer(label string, f func()) {
	s.submitPending()
	s.label = label
	s.beginLabel()
	f()
	s.endLabel()
}

// submitCaptured submits what is pending as part of the running labelled answer.
func (s *session) submitCaptured() {
	ps := s.pending
	s.pending = nil
	if len(ps) == 0 {
		return
	}
	receipts, err := s.offer(ps)
	for i := range ps {
		if err == nil {
			err = receipts[i].Err
		}
		if err != nil {
			s.refuse(ps[i].command, ps[i].target, err)
		}
	}
}

// talkTo offers one message to one target. With inAnswer a labelled answer is
// open already, and label is "".
func (s *session) talkTo(l *line, target, label string, inAnswer bool) {
	say := func(f func()) {
		if inAnswer {
			f()
		} else {
			s.answer(label, f)
		}
	}
	room, fault := s.place(l.command, target)
	if fault != nil {
		if l.command == "PRIVMSG" || label != "" || inAnswer {
			say(func() { fault(s) })
		}
		return
	}
	m, signal, err := s.messageFor(l, room)
	if err == nil && signal {
		s.submitPending()
		s.signal(l, room)
		if label != "" {
			s.answer(label, func() {})
		}
		return
	}
	if m.Unreact != "" && !inAnswer {
		s.submitPending() // the reaction may be among it
	}
	var env core.Envelope
	if err == nil {
		env, err = s.srv.convert.Inbound(m, storeNames{lockedNames{worldNames{srv: s.srv}}, s, room})
	}
	if err == nil && len(l.tags) > 0 && target[0] != '#' {
		env = s.withContext(env, l)
	}
	if err != nil {
		if l.command == "PRIVMSG" || label != "" || inAnswer {
			say(func() { s.refuse(l.command, target, err) })
		}
		return
	}
	s.pending = append(s.pending, pending{env: env, command: l.command, target: target, label: label, capture: inAnswer})
	if len(s.pending) >= maxPending {
		s.submitPending()
	}
	if away := s.awayOfTarget(l.command, target); away != nil && !inAnswer {
		s.submitPending()
		away()
	}
}

// place finds the room of a target; fault answers if there is none.
func (s *session) place(command, target string) (room core.RoomID, fault func(*session)) {
	w := s.srv.world
	if len(target) > 1 && strings.IndexByte(prefixSigns, target[0]) >= 0 && target[1] == '#' { // STATUSMSG
		return "", func(s *session) { s.num("404", target, "Messages to a part of a channel are not supported") }
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	if target[:min(1, len(target))] == "#" {
		ch := w.channelByName(target)
		if ch == nil {
			return "", func(s *session) { s.noChannel(command, target) }
		}
		return ch.room.ID, nil
	}
	u := w.userByNick(target)
	switch {
	case u == nil || u.gone && u.local:
		return "", func(s *session) { s.num("401", target, "No such nick/channel") }
	case !u.local: // it would be kept and never delivered
		return "", func(s *session) { s.num("531", u.shown(), "Private messages do not reach users of another network") }
	}
	room = s.srv.directRoom(s.user.uri, u.uri)
	if ch := w.rooms[room]; ch == nil || ch.pair == [2]core.UserURI{} {
		w.mu.RUnlock()
		err := s.srv.createDirect(s, u, room)
		w.mu.RLock()
		if err != nil {
			return "", func(s *session) { s.refuse(command, target, err) }
		}
	}
	return room, nil
}

// noChannel says that there is no such channel, or that it is a Group.
func (s *session) noChannel(command, name string) {
	if validChannel(name, s.srv.cfg.ChannelLen) {
		var kind core.Kind
		err := s.srv.gw.View(s.ctx, func(r core.Reader) error {
			room, err := r.Room(s.srv.roomID(name))
			kind = room.Kind
			return err
		})
		if err == nil && kind == core.Group {
			s.refuse(command, name, core.Refuse(core.Unsupported, core.IsGroup, "That room is end-to-end encrypted: IRC cannot take part in it"))
			return
		}
		if err != nil && core.CodeOf(err) != core.NotFound {
			s.refuse(command, name, err)
			return
		}
	}
	s.num("403", name, "No such channel")
}

// directRoom is the conversation of two users: validChannel knows no comma.
func (srv *Server) directRoom(a, b core.UserURI) core.RoomID {
	return core.DirectRoom(srv.cfg.Domain, a, b)
}

func (srv *Server) createDirect(s *session, u *user, room core.RoomID) error {
	w := srv.world
	w.mu.RLock()
	mine, theirs := s.user.profile, u.profile
	w.mu.RUnlock()
	members := []core.Member{
		{User: s.user.uri, Via: core.NetworkIRC, Role: core.RoleMember, Joined: true, Profile: mine},
		{User: u.uri, Via: core.NetworkIRC, Role: core.RoleMember, Joined: true, Profile: theirs},
	}
	if u == s.user {
		return core.Errorf(core.Denied, "a conversation needs two")
	}
	if err := s.mayFound(); err != nil {
		return err
	}
	r := core.Room{ID: room, Kind: core.Channel, ContentType: core.ContentMIMI, Direct: true, Founder: s.user.uri}
	_, err := srv.gw.Do(s.ctx, core.CreateRoom{Room: r, Members: members})
	if err != nil {
		s.foundNothing()
	}
	if err != nil && core.CodeOf(err) != core.Conflict {
		return err
	}
	w.mu.Lock()
	ch := w.addRoom(r)
	ch.pair = [2]core.UserURI{s.user.uri, u.uri}
	w.mu.Unlock()
	return nil
}

// clientTags are the client-only tags with a meaning that lasts.
const (
	tagReply   = "+reply"
	tagReplyD  = "+draft/reply"
	tagReact   = "+draft/react"
	tagUnreact = "+draft/unreact"
)

// messageFor reads a PRIVMSG, NOTICE or TAGMSG. signal says that it is a TAGMSG
// with nothing that lasts.
func (s *session) messageFor(l *line, room core.RoomID) (m converter.IRCMessage, signal bool, err error) {
	m = converter.IRCMessage{Room: room, Sender: s.user.uri, Name: s.user.shown(), Origin: core.Origin{Network: core.NetworkIRC},
		Sent: time.Now(), Notice: l.command == "NOTICE", Seed: s.newSeed()}
	for _, key := range [...]string{tagReplyD, tagReply} {
		if v := l.tag(key); v != "" {
			if id, err := core.ParseEventID(v); err == nil {
				m.ReplyTo = id
			}
		}
	}
	if l.command == "TAGMSG" {
		m.React, m.Unreact = l.tag(tagReact), l.tag(tagUnreact)
		if m.React == "" && m.Unreact == "" {
			return m, true, nil
		}
		if m.ReplyTo.IsZero() {
			return m, false, core.Errorf(core.Invalid, "a reaction needs the msgid that it is about")
		}
		return m, false, nil
	}
	if m.Lines = l.lines; m.Lines == nil {
		m.Lines = []converter.IRCLine{{Text: l.params[1]}}
	}
	return m, false, nil
}

// maxSignalTags bounds the client-only tags of one TAGMSG.
const maxSignalTags = 16

// signal passes on a TAGMSG that is forgotten once shown, if its sender may
// speak there.
func (s *session) signal(l *line, room core.RoomID) {
	w := s.srv.world
	w.mu.RLock()
	ch := w.rooms[room]
	may := ch != nil && (ch.room.Direct || ch.index[s.user] != nil && ch.room.Policy.Can(ch.index[s.user].role, core.CanSendMessage))
	w.mu.RUnlock()
	if !may {
		return
	}
	sig := core.Signal{Room: room, Sender: s.user.uri, Name: s.user.shown(), Origin: core.NetworkIRC, Tags: map[string]string{}}
	for _, t := range l.tags {
		if liveTags[t.key] && len(sig.Tags) < maxSignalTags {
			sig.Tags[t.key] = t.value
		}
	}
	switch v := sig.Tags["+typing"]; v {
	case "active", "paused", "done":
		sig.Typing = v
	default:
		delete(sig.Tags, "+typing")
	}
	if len(sig.Tags) > 0 {
		s.srv.gw.Signal(sig)
	}
}

// awayOfTarget returns what tells the sender that a nick is away, nil if not.
func (s *session) awayOfTarget(command, target string) func() {
	if command != "PRIVMSG" || strings.HasPrefix(target, "#") {
		return nil
	}
	w := s.srv.world
	w.mu.RLock()
	u := w.userByNick(target)
	away := ""
	if u != nil {
		away = u.away
	}
	w.mu.RUnlock()
	if away == "" {
		return nil
	}
	return func() { s.num("301", u.shown(), away) }
}

func (srv *Server) awayOf(u *user) string {
	srv.world.mu.RLock()
	defer srv.world.mu.RUnlock()
	return u.away
}
