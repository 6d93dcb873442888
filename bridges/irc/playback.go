package irc

import (
	"sort"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// played reports whether a control message is shown by event-playback: what can
// be said in full without knowing how things were before.
func played(e *core.Event) bool {
	switch e.Control.Op {
	case core.OpJoin, core.OpLeave, core.OpKick, core.OpTopic, core.OpBan, core.OpUnban:
		return true
	case core.OpRole:
		return e.Control.Role > core.RoleMember
	case core.OpProfile:
		s, _ := e.Signed()
		return e.Control.Profile != nil && e.Control.Profile.Name != "" && s.Name != "" && e.Control.Profile.Name != s.Name
	}
	return false
}

// appendState writes a control message as it was shown when it happened.
func (p *page) appendState(b []byte, h *historyLine, x extra) []byte {
	c, signed := h.state.Control, core.Signed{}
	signed, _ = h.state.Signed()
	who := p.speakerOf(h.state.Sender, signed.Name)
	source := who.source
	if h.state.Sender == core.SystemUser(p.srv.cfg.Domain) {
		source = p.srv.cfg.ServerName
	}
	st := stamp{id: h.id, at: h.at, account: who.account, bot: who.bot}
	from := len(b)
	b = appendExtra(b, from, x)
	b = appendStamp(b, from, p.caps, &st)
	b, body := endTags(b, from, source)
	switch c.Op {
	case core.OpJoin:
		b = appendMiddle(append(b, " JOIN"...), p.name)
		if p.caps.has(capExtendedJoin) {
			profile := core.Profile{}
			if c.Profile != nil {
				profile = *c.Profile
			}
			b = appendTrailing(appendMiddle(b, profile.Account), profile.Real)
		}
	case core.OpLeave:
		if c.Quit {
			b = appendTrailing(append(b, " QUIT"...), c.Text)
			break
		}
		b = appendMiddle(append(b, " PART"...), p.name)
		if c.Text != "" {
			b = appendTrailing(b, c.Text)
		}
	case core.OpKick:
		b = appendMiddle(append(b, " KICK"...), p.name)
		b = appendTrailing(appendMiddle(b, p.nick(c.User)), c.Text)
	case core.OpTopic:
		b = appendMiddle(append(b, " TOPIC"...), p.name)
		b = appendTrailing(b, cut(c.Text, p.srv.cfg.TopicLen))
	case core.OpRole:
		b = appendMiddle(append(b, " MODE"...), p.name)
		b = appendMiddle(append(b, ' ', '+', roleLetter(c.Role)), p.nick(c.User))
	case core.OpBan, core.OpUnban:
		sign := byte('+')
		if c.Op == core.OpUnban {
			sign = '-'
		}
		b = appendMiddle(append(b, " MODE"...), p.name)
		b = appendMiddle(append(b, ' ', sign, c.List), c.Mask)
	case core.OpProfile:
		b = appendTrailing(append(b, " NICK"...), nickFrom(c.Profile.Name, p.srv.cfg.NickLen))
	}
	return endLine(b, body)
}

func (p *page) nick(u core.UserURI) string {
	p.srv.world.mu.RLock()
	defer p.srv.world.mu.RUnlock()
	return p.srv.nickOf(u)
}

// A target is one line of CHATHISTORY TARGETS.
type historyTarget struct {
	room   core.RoomID
	name   string
	latest time.Time
}

// historyTargets lists the channels and conversations of the user whose latest
// message lies between two times, in the order of those.
func (s *session) historyTargets(q *historyQuery) {
	low, high := q.from.at, q.to.at
	newest := high.Before(low)
	if newest {
		low, high = high, low
	}
	found, err := s.findTargets(low, high)
	if err != nil {
		s.fail("CHATHISTORY", "MESSAGE_ERROR", "TARGETS", "*", "Messages could not be retrieved")
		return
	}
	sort.Slice(found, func(i, j int) bool { return found[i].latest.Before(found[j].latest) })
	if len(found) > q.limit && newest {
		found = found[len(found)-q.limit:]
	}
	found = found[:min(len(found), q.limit)]
	s.pushOut()
	label, ref := s.label, ""
	s.label = ""
	var b []byte
	if s.caps().has(capBatch) {
		ref = s.srv.batchRef()
		b = s.appendBatch(b, label, ref, "draft/chathistory-targets", "")
	}
	for _, t := range found {
		if ref != "" {
			b = append(appendTag(b, len(b), "batch", ref), ' ')
		}
		b = append(append(append(b, ':'), s.srv.cfg.ServerName...), " CHATHISTORY TARGETS"...)
		b = append(appendTime(append(appendMiddle(b, t.name), ' '), t.latest), '\r', '\n')
	}
	if ref != "" {
		b = s.appendBatchEnd(b, ref)
	}
	s.out = b
	s.pushOut()
}

// findTargets looks at the rooms the user is in, and at their conversations.
func (s *session) findTargets(low, high time.Time) (found []historyTarget, err error) {
	srv, w := s.srv, s.srv.world
	err = srv.gw.View(s.ctx, func(r core.Reader) error {
		rooms, err := r.RoomsOf(s.user.uri, "", maxTargetRooms)
		if err != nil {
			return err
		}
		for _, room := range rooms {
			t := historyTarget{room: room}
			floor := uint64(0)
			w.mu.RLock()
			ch := w.rooms[room]
			switch {
			case ch == nil:
			case ch.room.Direct && ch.pair != [2]core.UserURI{}:
				t.name = srv.nickOf(ch.other(s.user.uri))
			case ch.index[s.user] != nil:
				t.name = ch.name()
				if ch.room.Policy.SinceJoin {
					floor = max(ch.index[s.user].since, 1) - 1
				}
			}
			w.mu.RUnlock()
			if t.name == "" {
				continue
			}
			var ok bool
			if t.latest, ok, err = srv.latestMessage(r, room, floor, low); err != nil {
				return err
			}
			if ok && t.latest.After(low) && t.latest.Before(high) {
				found = append(found, t)
			}
		}
		return nil
	})
	return found, err
}

// latestMessage returns when the last message of room was said; false if that
// was not after low.
func (srv *Server) latestMessage(r core.Reader, room core.RoomID, floor uint64, low time.Time) (time.Time, bool, error) {
	before := uint64(0)
	for scanned, size := 0, 8; scanned < maxTargetScan; size = 128 {
		es, err := r.Events(room, core.Range{After: floor, Before: before, Limit: size, Newest: true})
		if err != nil {
			return time.Time{}, false, err
		}
		for i := len(es) - 1; i >= 0; i-- {
			e := &es[i]
			if !e.Accepted.After(low) {
				return time.Time{}, false, nil
			}
			if e.Control == nil && !e.Deleted {
				out, _, err := srv.convert.Outbound(e, converter.NoNames{})
				if err == nil && (out.Kind == converter.IRCPrivmsg || out.Kind == converter.IRCNotice || out.Kind == converter.IRCAction || out.Kind == converter.IRCEdit) {
					return e.Accepted, true, nil
				}
			}
		}
		if len(es) < size {
			break
		}
		scanned += len(es)
		before = es[0].Seq
	}
	return time.Time{}, false, nil
}

// replay shows the last messages of a channel to a client without chathistory,
// as text with the time in front, since it may have no tags either.
func (s *session) replay(name string) {
	n := s.srv.cfg.JoinHistory
	if n <= 0 || s.caps().has(capChatHistory) {
		return
	}
	p := pages.Get().(*page)
	defer p.free()
	if !s.openPage(p, name) {
		return
	}
	q := historyQuery{sub: "LATEST", limit: min(n, s.srv.cfg.History)}
	if err := s.srv.gw.View(s.ctx, func(r core.Reader) error { p.r = r; return p.read(&q) }); err != nil {
		return // the channel is joined all the same
	}
	s.pushOut()
	var b []byte
	for i := range p.lines {
		h := &p.lines[i]
		if h.merged || h.state != nil || h.out.Kind == converter.IRCReaction || h.out.Kind == converter.IRCUnreaction {
			continue
		}
		at := h.at.UTC().Format("[15:04] ")
		lines := h.out.Plain
		h.out.Lines, h.out.ReplyTo = nil, core.EventID{}
		for _, l := range lines {
			if strings.TrimSpace(l) != "" {
				h.out.Lines = append(h.out.Lines, at+l)
			}
		}
		h.out.Plain = h.out.Lines
		b = s.srv.appendMessage(b, p.caps&^capMultiline, &h.message, extra{})
	}
	s.out = append(s.out, b...)
	s.pushOut()
}

// speakerNick is what a local user was called when they said something: a nick,
// or nick/tag of RELAYMSG.
func speakerNick(name string, max int) string {
	if validNick(name, max) || validRelayNick(name, max) {
		return name
	}
	return nickFrom(name, max)
}
