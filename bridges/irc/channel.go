package irc

import (
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

func init() {
	addCommands(commandTable{
		"JOIN":   {min: 1, cost: 2, run: cmdJoin},
		"PART":   {min: 1, cost: 2, run: cmdPart},
		"TOPIC":  {min: 1, run: cmdTopic},
		"KICK":   {min: 2, run: cmdKick},
		"INVITE": {run: cmdInvite},
		"NAMES":  {cost: 2, run: cmdNames},
		"LIST":   {cost: 4, run: cmdList},
	})
}

// roomID is the URI of the channel called name.
func (srv *Server) roomID(name string) core.RoomID {
	return core.NewRoomID(srv.cfg.Domain, strings.TrimPrefix(srv.world.fold.fold(name), "#"))
}

// lookup finds a channel by name without the lock.
func (srv *Server) lookup(name string) *channel {
	srv.world.mu.RLock()
	defer srv.world.mu.RUnlock()
	return srv.world.channelByName(name)
}

// A joining is one channel of a JOIN command.
type joining struct {
	name, key string
	room      core.RoomID
}

func cmdJoin(s *session, l *line) {
	if l.params[0] == "0" { // RFC 2812 §3.2.1: leave all
		s.partAll()
		return
	}
	if s.caps().has(capReadMarker) {
		s.loadMarkers()
	}
	names, keys := list(l.params[0], s.srv.cfg.Channels), strings.Split(l.param(1), ",")
	var js []joining
	var es []core.Envelope
	for i, name := range names {
		j := joining{name: name}
		if i < len(keys) {
			j.key = keys[i]
		}
		if p, ok := s.joinable(&j, len(js)); ok {
			js = append(js, j)
			es = append(es, s.control(j.room, core.Control{Op: core.OpJoin, Text: j.key, Profile: &p}))
		}
	}
	receipts, err := s.submit("JOIN", es...)
	if err != nil {
		s.refuse("JOIN", l.params[0], err)
		return
	}
	for i, r := range receipts {
		if r.Err != nil {
			s.refuse("JOIN", js[i].name, r.Err)
			continue
		}
		s.showEntered(js[i].room)
		s.afterJoin(js[i].name)
	}
}

// joinable finds or makes the room of j, and says what stands in the way. It
// returns how the user is to be shown there.
func (s *session) joinable(j *joining, planned int) (p core.Profile, ok bool) {
	name, w := j.name, s.srv.world
	if !validChannel(name, s.srv.cfg.ChannelLen) {
		s.num("403", name, "No such channel")
		return p, false
	}
	w.mu.RLock()
	ch := w.channelByName(name)
	in, full := ch != nil && ch.index[s.user] != nil, len(s.user.in)+planned >= s.srv.cfg.Channels
	p = s.user.profile
	moved := ""
	if ch != nil {
		j.name, j.room = ch.name(), ch.room.ID
	} else {
		moved = s.srv.renamedTo(name)
	}
	w.mu.RUnlock()
	switch {
	case in:
		return p, false
	case full:
		s.num("405", name, "You have joined too many channels")
		return p, false
	case moved != "":
		j.name, j.room = moved, s.srv.roomID(name)
		return p, s.redirect(name, moved) && !s.srv.in(moved, s.user)
	case ch == nil:
		j.room = s.srv.roomID(name)
		return p, s.create(name, j.room, p)
	}
	return p, true
}

// showEntered sends what belongs to a channel that was just entered.
func (s *session) showEntered(room core.RoomID) {
	w := s.srv.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	ch := w.rooms[room]
	if ch == nil || ch.index[s.user] == nil {
		return
	}
	s.showTopic(ch, false)
	s.showMarker(ch)
	if s.caps()&(capNoImplicitNames|capDraftNoImplicitNames) == 0 {
		s.names(ch)
	}
	if s.label == "" {
		s.pushOut() // before anybody else's line about this channel
	}
}

// Rooms that one address may make, channels and conversations: as many as a
// community that moves here brings along, then one in a while. They stay in
// memory and on disk for good.
const (
	foundBurst    = 300
	foundInterval = 30 * time.Second
)

// mayFound counts one new room, or refuses it as Limited.
func (s *session) mayFound() error {
	if wait := s.srv.founders.take(s.info.addr, time.Now(), foundBurst, foundInterval); wait > 0 {
		return &core.Error{Code: core.Limited, Text: "your address has made too many rooms; try again later", RetryAfter: wait}
	}
	return nil
}

// foundNothing takes back what mayFound counted.
func (s *session) foundNothing() {
	s.srv.founders.giveBack(s.info.addr, time.Now(), foundInterval)
}

// create makes the room of a channel that nobody has joined before.
func (s *session) create(name string, room core.RoomID, p core.Profile) bool {
	var kind core.Kind
	err := s.srv.gw.View(s.ctx, func(r core.Reader) error {
		old, err := r.Room(room)
		kind = old.Kind
		return err
	})
	switch {
	case err == nil && kind == core.Group:
		s.refuse("JOIN", name, core.Refuse(core.Unsupported, core.IsGroup, "That room is end-to-end encrypted: IRC cannot take part in it"))
		return false
	case err == nil:
		return true
	case core.CodeOf(err) != core.NotFound:
		s.refuse("JOIN", name, err)
		return false
	case !s.srv.live.Load().CreateChannels:
		s.num("403", name, "No such channel")
		return false
	}
	if err := s.mayFound(); err != nil {
		s.refuse("JOIN", name, err)
		return false
	}
	_, err = s.srv.gw.Do(s.ctx, core.CreateRoom{
		Room: core.Room{ID: room, Kind: core.Channel, ContentType: core.ContentMIMI, Name: name, Founder: s.user.uri,
			Policy: core.Policy{TopicLock: true}},
		Members: []core.Member{{User: s.user.uri, Via: core.NetworkIRC, Role: core.RoleOwner, Profile: p}},
	})
	if err != nil {
		s.foundNothing() // another was faster, or the store is away
	}
	if err != nil && core.CodeOf(err) != core.Conflict {
		s.refuse("JOIN", name, err)
		return false
	}
	return true
}

// showJoined replays to a further session of a user that they are in ch. The
// world's lock is held.
func (s *session) showJoined(ch *channel) {
	u := s.user
	s.out = append(s.out, ':')
	s.out = append(s.out, u.source()...)
	s.out = appendMiddle(append(s.out, " JOIN"...), ch.name())
	if s.caps().has(capExtendedJoin) {
		s.out = appendTrailing(appendMiddle(s.out, u.profile.Account), u.profile.Real)
	}
	s.out = append(s.out, '\r', '\n')
	s.showTopic(ch, false)
	s.showMarker(ch)
	if s.caps()&(capNoImplicitNames|capDraftNoImplicitNames) == 0 {
		s.names(ch)
	}
}

// showTopic sends 332 and 333, or 331 to who asked for a topic that is not.
func (s *session) showTopic(ch *channel, asked bool) {
	if ch.room.Topic == "" {
		if asked {
			s.num("331", ch.name(), "No topic is set")
		}
		return
	}
	s.num("332", ch.name(), cut(ch.room.Topic, s.srv.cfg.TopicLen))
	s.num("333", ch.name(), nickFrom(ch.room.TopicBy, s.srv.cfg.NickLen), strconv.FormatInt(ch.room.TopicAt.Unix(), 10))
}

// names sends the members of ch. The world's lock is held.
func (s *session) names(ch *channel) {
	s.out = s.srv.appendNames(s.out, s, ch)
	s.ended(0)
}

func (srv *Server) namesBlock(s *session, ch *channel) []byte { return srv.appendNames(nil, s, ch) }

// appendNames writes 353 lines, as full as they go, and 366.
func (srv *Server) appendNames(b []byte, s *session, ch *channel) []byte {
	caps, nick := s.caps(), s.shownNick()
	kind := byte('=')
	if ch.room.Policy.Secret {
		kind = '@'
	}
	head := func(b []byte) []byte {
		b = append(b, ':')
		b = append(b, srv.cfg.ServerName...)
		b = append(b, " 353 "...)
		b = append(b, nick...)
		b = append(b, ' ', kind)
		b = appendMiddle(b, ch.name())
		return append(b, ' ', ':')
	}
	from, empty := -1, true
	for _, m := range ch.members {
		word := m.user.shown()
		if caps.has(capUserhostInNames) {
			word = m.user.source()
		}
		if from >= 0 && len(b)-from+len(word)+7 > maxBody-2 {
			b = append(b, '\r', '\n')
			from = -1
		}
		if from < 0 {
			from, empty = len(b), true
			b = head(b)
		}
		if !empty {
			b = append(b, ' ')
		}
		empty = false
		b = append(b, roleSign(m.role)...)
		b = append(b, word...)
	}
	if from >= 0 {
		b = append(b, '\r', '\n')
	}
	b = append(b, ':')
	b = append(b, srv.cfg.ServerName...)
	b = append(b, " 366 "...)
	b = append(b, nick...)
	b = appendMiddle(b, ch.name())
	return append(b, " :End of /NAMES list.\r\n"...)
}

func cmdPart(s *session, l *line) {
	var es []core.Envelope
	w := s.srv.world
	for _, name := range list(l.params[0], s.srv.cfg.Channels) {
		w.mu.RLock()
		ch := w.channelByName(name)
		var room core.RoomID
		in := false
		if ch != nil {
			room, in = ch.room.ID, ch.index[s.user] != nil
		}
		w.mu.RUnlock()
		switch {
		case ch == nil:
			s.num("403", name, "No such channel")
		case !in:
			s.num("442", name, "You're not on that channel")
		default:
			es = append(es, s.control(room, core.Control{Op: core.OpLeave, Text: cut(l.param(1), s.srv.cfg.KickLen)}))
		}
	}
	if _, err := s.submit("PART", es...); err != nil {
		s.refuse("PART", l.params[0], err)
	}
}

func (s *session) partAll() {
	var es []core.Envelope
	s.srv.world.mu.RLock()
	for _, m := range s.user.in {
		es = append(es, s.control(m.ch.room.ID, core.Control{Op: core.OpLeave, Text: "Left all channels"}))
	}
	s.srv.world.mu.RUnlock()
	if _, err := s.submit("JOIN", es...); err != nil {
		s.refuse("JOIN", "0", err)
	}
}

func cmdTopic(s *session, l *line) {
	w := s.srv.world
	name := l.params[0]
	w.mu.RLock()
	ch := w.channelByName(name)
	if ch == nil || ch.room.Policy.Secret && ch.index[s.user] == nil {
		w.mu.RUnlock()
		s.num("403", name, "No such channel")
		return
	}
	room, name := ch.room.ID, ch.name()
	if len(l.params) == 1 {
		s.showTopic(ch, true)
	}
	w.mu.RUnlock()
	if len(l.params) > 1 {
		s.one("TOPIC", name, s.control(room, core.Control{Op: core.OpTopic, Text: cut(l.params[1], s.srv.cfg.TopicLen)}))
	}
}

// one submits a single envelope and says why it was refused, if it was.
func (s *session) one(command, target string, e core.Envelope) bool {
	receipts, err := s.submit(command, e)
	if err == nil {
		err = receipts[0].Err
	}
	if err != nil {
		s.refuse(command, target, err)
		return false
	}
	return true
}

func cmdKick(s *session, l *line) {
	w := s.srv.world
	name := l.params[0]
	ch := s.srv.lookup(name)
	if ch == nil {
		s.num("403", name, "No such channel")
		return
	}
	for _, nick := range list(l.params[1], s.srv.cfg.MaxTargets) {
		w.mu.RLock()
		name = ch.name()
		u := w.userByNick(nick)
		in := u != nil && ch.index[u] != nil
		w.mu.RUnlock()
		switch {
		case u == nil:
			s.num("401", nick, "No such nick/channel")
		case !in:
			s.num("441", nick, name, "They aren't on that channel")
		default:
			s.one("KICK", name, s.control(ch.room.ID, core.Control{Op: core.OpKick, User: u.uri, Text: cut(l.param(2), s.srv.cfg.KickLen)}))
		}
	}
}

func cmdInvite(s *session, l *line) {
	w := s.srv.world
	if len(l.params) < 2 {
		if len(l.params) == 0 { // a list of open invitations: none are kept here
			s.num("337", "End of /INVITE list")
			return
		}
		s.num("461", "INVITE", "Not enough parameters")
		return
	}
	nick, name := l.params[0], l.params[1]
	w.mu.RLock()
	u, ch := w.userByNick(nick), w.channelByName(name)
	in := ch != nil && ch.index[s.user] != nil
	there := ch != nil && u != nil && ch.index[u] != nil
	w.mu.RUnlock()
	switch {
	case u == nil:
		s.num("401", nick, "No such nick/channel")
	case ch == nil:
		s.num("403", name, "No such channel")
	case !in:
		s.num("442", name, "You're not on that channel")
	case there:
		s.num("443", nick, name, "is already on channel")
	default:
		if s.one("INVITE", name, s.control(ch.room.ID, core.Control{Op: core.OpInvite, User: u.uri})) {
			s.num("341", u.shown(), ch.name())
			if away := s.srv.awayOf(u); away != "" {
				s.num("301", u.shown(), away)
			}
		}
	}
}

func cmdNames(s *session, l *line) {
	if len(l.params) == 0 {
		s.num("366", "*", "End of /NAMES list.")
		return
	}
	w := s.srv.world
	for _, name := range list(l.params[0], s.srv.cfg.MaxTargets) {
		w.mu.RLock()
		ch := w.channelByName(name)
		if ch == nil || ch.room.Policy.Secret && ch.index[s.user] == nil {
			w.mu.RUnlock()
			s.num("366", name, "End of /NAMES list.")
			continue
		}
		s.names(ch)
		w.mu.RUnlock()
	}
}

// cmdList lists the channels that are not secret. ELIST=U: "<n" and ">n" bound
// the number of members; masks with * and ? select names.
func cmdList(s *session, l *line) {
	least, most := -1, int(^uint(0)>>1)
	var masks []string
	for _, cond := range list(l.param(0), 16) {
		n, err := strconv.Atoi(strings.TrimLeft(cond, "<>"))
		switch {
		case err == nil && strings.HasPrefix(cond, "<"):
			most = n - 1
		case err == nil && strings.HasPrefix(cond, ">"):
			least = n + 1
		case cond != "":
			masks = append(masks, s.srv.world.fold.fold(cond))
		}
	}
	w := s.srv.world
	w.mu.RLock()
	var found []*channel
	for fold, ch := range w.channels {
		n := len(ch.members)
		if (ch.room.Policy.Secret && ch.index[s.user] == nil) || n < least || n > most || !anyMask(masks, fold) {
			continue
		}
		found = append(found, ch)
	}
	sort.Slice(found, func(i, j int) bool { return found[i].fold < found[j].fold })
	s.num("321", "Channel", "Users  Name")
	for _, ch := range found {
		s.num("322", ch.name(), strconv.Itoa(len(ch.members)), cut(ch.room.Topic, s.srv.cfg.TopicLen))
	}
	w.mu.RUnlock()
	s.num("323", "End of /LIST")
}

func anyMask(masks []string, name string) bool {
	for _, m := range masks {
		if core.MatchMask(m, name, "") {
			return true
		}
	}
	return len(masks) == 0
}
