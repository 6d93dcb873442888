package irc

import (
	"slices"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

// applyControl changes the world by one committed control message and shows it
// to those who see it. The world's lock is held.
func (srv *Server) applyControl(ch *channel, e *core.Event) {
	c := e.Control
	st := srv.stampOf(e)
	if ch.room.Direct {
		return
	}
	switch c.Op {
	case core.OpJoin:
		srv.applyJoin(ch, e, st)
	case core.OpLeave:
		srv.applyLeave(ch, e, st)
	case core.OpKick:
		if m := srv.memberOf(ch, c.User); m != nil {
			srv.toChannel(ch, e, srv.lineFan(e, st, " KICK", ch.name(), m.user.profile.Name, orWord(c.Text, srv.sourceNick(e))))
			srv.world.leave(m)
		}
	case core.OpRole:
		srv.applyRole(ch, e, st)
	case core.OpBan, core.OpUnban:
		srv.applyBan(ch, e, st)
	case core.OpTopic:
		s, _ := e.Signed()
		ch.room.Topic, ch.room.TopicBy, ch.room.TopicAt = c.Text, s.Name, e.Accepted
		srv.toChannel(ch, e, srv.lineFan(e, st, " TOPIC", ch.name(), cut(c.Text, srv.cfg.TopicLen)))
	case core.OpName:
		srv.applyName(ch, e, st)
	case core.OpPolicy:
		if change := policyChange(ch.room.Policy, *c.Policy); change != "" {
			words := strings.Fields(change)
			srv.toChannel(ch, e, srv.modeFan(e, st, ch, words))
		}
		ch.room.Policy = *c.Policy
	case core.OpInvite:
		srv.applyInvite(ch, e, st)
	case core.OpProfile:
		m := srv.memberOf(ch, c.User)
		if m != nil && c.Profile != nil && !(m.user.local && e.Origin.Network != core.NetworkIRC) { // IRC alone says how its users look
			srv.showProfile(m.user, *c.Profile, st)
		}
	}
}

func (srv *Server) stampOf(e *core.Event) *stamp {
	st := &stamp{id: e.ID, at: e.Accepted}
	if u := srv.world.users[e.Sender]; u != nil {
		st.account, st.bot = u.profile.Account, u.profile.Bot
	}
	return st
}

func (srv *Server) memberOf(ch *channel, uri core.UserURI) *member {
	if u := srv.world.users[uri]; u != nil {
		return ch.index[u]
	}
	return nil
}

// sourceOf is who did e, as the start of a line; the server for its operator.
func (srv *Server) sourceOf(e *core.Event) string {
	if u := srv.world.users[e.Sender]; u != nil {
		return u.source()
	}
	if e.Sender == core.SystemUser(srv.cfg.Domain) {
		return srv.cfg.ServerName
	}
	s, _ := e.Signed()
	return sourceOf(srv.stranger(e.Sender, s.Name))
}

func (srv *Server) sourceNick(e *core.Event) string {
	nick, _, _ := strings.Cut(srv.sourceOf(e), "!")
	return nick
}

// lineFan is one line by e's sender; the last parameter is trailing.
func (srv *Server) lineFan(e *core.Event, st *stamp, command string, params ...string) *fan {
	return stampedFan(st, srv.sourceOf(e), command, params...)
}

func stampedFan(st *stamp, source, command string, params ...string) *fan {
	return &fan{mask: tagCaps, encode: func(b []byte, caps capSet) []byte {
		b = appendStamp(b, 0, caps, st)
		b, body := endTags(b, 0, source)
		return endLine(appendParams(append(b, command...), params), body)
	}}
}

// middleFan is the same with no trailing parameter.
func middleFan(st *stamp, source, command string, params ...string) *fan {
	return &fan{mask: tagCaps, encode: func(b []byte, caps capSet) []byte {
		b = appendStamp(b, 0, caps, st)
		b, body := endTags(b, 0, source)
		b = append(b, command...)
		for _, p := range params {
			b = appendMiddle(b, p)
		}
		return endLine(b, body)
	}}
}

func (srv *Server) modeFan(e *core.Event, st *stamp, ch *channel, words []string) *fan {
	return middleFan(st, srv.sourceOf(e), " MODE", append([]string{ch.name()}, words...)...)
}

// toChannel shows f to every session in ch.
func (srv *Server) toChannel(ch *channel, e *core.Event, f *fan) {
	srv.toSessions(ch.receivers, e, f)
}

// toSessions shows f to each of ss. To the session whose labelled command this
// is the outcome of, it is part of the answer.
func (srv *Server) toSessions(ss []*session, e *core.Event, f *fan) {
	for _, s := range ss {
		if s.user.uri == e.Sender && s.capture(e.Room, f) {
			continue
		}
		f.send(s)
	}
}

// capture keeps f for the labelled answer of the running command, if it is
// about room ("" = about all).
func (s *session) capture(room core.RoomID, f *fan) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.inflight {
		if p := &s.inflight[i]; p.capture && (room == "" || p.env.Room == room) {
			s.captured = append(s.captured, f.bytes(s.caps())...)
			return true
		}
	}
	return false
}

func (srv *Server) applyJoin(ch *channel, e *core.Event, st *stamp) {
	c := e.Control
	w := srv.world
	u := w.users[c.User]
	if e.Origin.Network != core.NetworkIRC {
		p := core.Profile{}
		if c.Profile != nil {
			p = *c.Profile
		}
		u = srv.outsider(c.User, p)
	} else if u == nil { // joined and gone before we heard of it: reaped later
		u = &user{uri: c.User, local: true, gone: true}
		p := core.Profile{Name: c.User.Local()}
		if c.Profile != nil {
			p = *c.Profile
		}
		u.setProfile(p)
		w.users[u.uri] = u
	}
	m := w.enter(ch, u, c.Role)
	m.since, m.via = e.Seq, e.Origin.Network
	st.account, st.bot = u.profile.Account, u.profile.Bot
	srv.toChannel(ch, e, srv.joinFan(ch, u, st))
	if letter := roleLetter(m.role); letter != 0 { // shown as given by the server
		g := middleFan(&stamp{at: st.at}, srv.cfg.ServerName, " MODE", ch.name(), "+"+string(letter), u.profile.Name)
		srv.toSessions(except(ch.receivers, u), e, g)
	}
	if u.away != "" {
		srv.toSessions(except(ch.receivers, u), e, awayFan(u, st))
	}
}

// joinFan is the JOIN of u.
func (srv *Server) joinFan(ch *channel, u *user, st *stamp) *fan {
	return &fan{mask: tagCaps | capExtendedJoin, encode: func(b []byte, caps capSet) []byte {
		b = appendStamp(b, 0, caps, st)
		b, body := endTags(b, 0, u.source())
		b = appendMiddle(append(b, " JOIN"...), ch.name())
		if caps.has(capExtendedJoin) {
			b = appendMiddle(b, u.profile.Account)
			b = appendTrailing(b, u.profile.Real)
		}
		return endLine(b, body)
	}}
}

func except(ss []*session, u *user) []*session {
	out := make([]*session, 0, len(ss))
	for _, s := range ss {
		if s.user != u {
			out = append(out, s)
		}
	}
	return out
}

func awayFan(u *user, st *stamp) *fan {
	away, source := u.away, u.source()
	return &fan{mask: tagCaps | capAwayNotify, encode: func(b []byte, caps capSet) []byte {
		if !caps.has(capAwayNotify) {
			return nil
		}
		b = appendStamp(b, 0, caps, &stamp{at: st.at, account: u.profile.Account})
		b, body := endTags(b, 0, source)
		b = append(b, " AWAY"...)
		if away != "" {
			b = appendTrailing(b, away)
		}
		return endLine(b, body)
	}}
}

func (srv *Server) applyLeave(ch *channel, e *core.Event, st *stamp) {
	m := srv.memberOf(ch, e.Control.User)
	if m == nil {
		return
	}
	u := m.user
	if !e.Control.Quit {
		if e.Control.Text == "" {
			srv.toChannel(ch, e, middleFan(st, u.source(), " PART", ch.name()))
		} else {
			srv.toChannel(ch, e, stampedFan(st, u.source(), " PART", ch.name(), e.Control.Text))
		}
		srv.world.leave(m)
		return
	}
	f := stampedFan(st, u.source(), " QUIT", e.Control.Text)
	for _, s := range except(srv.world.peers(u), u) {
		f.send(s)
	}
	for _, o := range slices.Clone(u.in) { // the other rooms' events find nobody any more
		if o.via == m.via {
			srv.world.leave(o)
		}
	}
	if u.gone && len(u.in) == 0 {
		srv.world.forget(u)
	}
}

func (srv *Server) applyRole(ch *channel, e *core.Event, st *stamp) {
	m := srv.memberOf(ch, e.Control.User)
	if m == nil {
		return
	}
	role := e.Control.Role
	if role < core.RoleMember { // banned: the core has removed them
		srv.toChannel(ch, e, srv.lineFan(e, st, " KICK", ch.name(), m.user.profile.Name, orWord(e.Control.Text, "Banned")))
		srv.world.leave(m)
		return
	}
	if words := roleChange(m.role, role, m.user.profile.Name); words != nil {
		srv.toChannel(ch, e, srv.modeFan(e, st, ch, words))
	}
	m.role = role
}

func (srv *Server) applyBan(ch *channel, e *core.Event, st *stamp) {
	c := e.Control
	sign := "-"
	for i, b := range ch.bans {
		if b.List == c.List && b.Mask == c.Mask {
			ch.bans = append(ch.bans[:i:i], ch.bans[i+1:]...)
			break
		}
	}
	if c.Op == core.OpBan {
		s, _ := e.Signed()
		ch.bans = append(ch.bans, core.Ban{Mask: c.Mask, List: c.List, By: s.Name, At: e.Accepted})
		sign = "+"
	}
	srv.toChannel(ch, e, srv.modeFan(e, st, ch, []string{sign + string(rune(c.List)), c.Mask}))
}

// applyName gives the channel another name, if it can be one on IRC and is free:
// for clients without channel-rename it is left and entered again.
func (srv *Server) applyName(ch *channel, e *core.Event, st *stamp) {
	w := srv.world
	name := e.Control.Text
	if !validChannel(name, maxBody/4) || w.channelByName(name) != nil && w.channelByName(name) != ch {
		return
	}
	old := ch.name()
	delete(w.channels, ch.fold)
	ch.room.Name, ch.fold = name, w.fold.fold(name)
	w.channels[ch.fold] = ch
	srv.showRename(ch, e, st, old)
}

func (srv *Server) applyInvite(ch *channel, e *core.Event, st *stamp) {
	u := srv.world.users[e.Control.User]
	nick := srv.nickOf(e.Control.User)
	f := middleFan(st, srv.sourceOf(e), " INVITE", nick, ch.name())
	if u != nil {
		for _, s := range u.sessions {
			f.send(s)
		}
	}
	for _, m := range ch.members {
		if !ch.room.Policy.Can(m.role, core.CanAddParticipant) || m.user == u {
			continue
		}
		for _, s := range m.user.sessions {
			if s.caps().has(capInviteNotify) && m.user.uri != e.Sender {
				f.send(s)
			}
		}
	}
}

// showProfile tells everybody who sees u how u is shown now: a new nick, host,
// account, real name. What did not change is not told.
func (srv *Server) showProfile(u *user, p core.Profile, st *stamp) {
	w := srv.world
	old, from := u.profile, u.source()
	if !u.local {
		p = srv.remoteProfile(u, p)
	}
	if p == old {
		return
	}
	if p.Name != old.Name {
		fold, before := w.fold.fold(p.Name), w.fold.fold(old.Name)
		if w.nicks[before] == u && fold != before {
			delete(w.nicks, before)
		}
		w.nicks[fold] = u
	}
	u.setProfile(p)
	peers, audience := w.peers(u), w.audience(u)
	st = &stamp{id: core.EventID{}, at: st.at, account: p.Account, bot: p.Bot}
	tell := func(need capSet, f *fan) {
		ss := audience
		if need == 0 { // a NICK is for those who know the old one
			ss = peers
		}
		for _, s := range ss {
			if s.caps()&need != need || s.user == u && s.capture("", f) {
				continue
			}
			f.send(s)
		}
	}
	if p.Name != old.Name {
		tell(0, stampedFan(st, from, " NICK", p.Name))
		w.renamed(u, old)
	}
	if p.Ident != old.Ident || p.Host != old.Host {
		tell(capChghost, middleFan(st, p.Name+from[strings.IndexByte(from, '!'):], " CHGHOST", p.Ident, p.Host))
	}
	if p.Account != old.Account {
		tell(capAccountNotify, middleFan(st, u.source(), " ACCOUNT", p.Account))
	}
	if p.Real != old.Real {
		tell(capSetname, stampedFan(st, u.source(), " SETNAME", p.Real))
	}
	srv.showProfileMeta(u, &old)
}

// remoteProfile fits the profile of somebody another network relays to IRC.
func (srv *Server) remoteProfile(u *user, p core.Profile) core.Profile {
	p.Name = srv.world.freeNick(orWord(p.Name, u.uri.Local()), srv.cfg.Suffix, srv.cfg.NickLen, u)
	p.Ident, p.Host = u.profile.Ident, u.profile.Host
	return p
}
