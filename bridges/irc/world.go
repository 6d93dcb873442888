package irc

import (
	"sync"
	"sync/atomic"

	"github.com/isthmus-chat/isthmus/core"
)

// The world is who is here and where. Its maps change under the lock; channels
// change only in Publish, from committed events.
type world struct {
	mu       sync.RWMutex
	fold     casemap
	nicks    map[string]*user // by folded nick; a user may hold two while renaming
	users    map[core.UserURI]*user
	channels map[string]*channel // by folded name
	rooms    map[core.RoomID]*channel
	sessions map[*session]struct{}
	watch    watchlist
	past     pastNicks
}

func newWorld(fold casemap) *world {
	return &world{fold: fold, nicks: map[string]*user{}, users: map[core.UserURI]*user{},
		channels: map[string]*channel{}, rooms: map[core.RoomID]*channel{}, sessions: map[*session]struct{}{}}
}

// A user is somebody visible: a person with sessions here, an account that is in
// a channel by another door of this homeserver, or one that another network
// relays. All but uri and local change under the world's lock.
type user struct {
	uri      core.UserURI
	local    bool
	profile  core.Profile // Name is the nick
	away     string
	sessions []*session
	in       []*member // the channels they are in
	gone     bool      // has said goodbye; memberships are being ended
	at       int64     // Unix seconds when they came
	meta     *metaSet  // under the Server's metaMu; nil until loaded
	markers  *markers  // how far an account, or a guest, has read
	mask     atomic.Pointer[string]
}

// shown returns the nick without the lock.
func (u *user) shown() string {
	s := *u.mask.Load()
	for i := 0; i < len(s); i++ {
		if s[i] == '!' {
			return s[:i]
		}
	}
	return s
}

// source returns nick!ident@host.
func (u *user) source() string { return *u.mask.Load() }

// setProfile changes how u is shown. The world's lock is held.
func (u *user) setProfile(p core.Profile) {
	u.profile = p
	s := sourceOf(p)
	u.mask.Store(&s)
}

func sourceOf(p core.Profile) string {
	return p.Name + "!" + orWord(p.Ident, "~u") + "@" + orWord(p.Host, "unknown")
}

func orWord(s, word string) string {
	if s == "" {
		return word
	}
	return s
}

// A channel is a room as IRC sees it; Direct ones have no name.
type channel struct {
	room      core.Room
	fold      string // key in world.channels, "" for direct ones
	members   []*member
	index     map[*user]*member
	receivers []*session // of all local members
	bans      []core.Ban
	seq       uint64 // last event applied
	pair      [2]core.UserURI
	meta      *metaSet // under the Server's metaMu; nil until loaded
	why       string   // reason of a RENAME that is being stored
}

// A member is one user in one channel.
type member struct {
	user  *user
	ch    *channel
	role  core.Role
	pos   int          // in ch.members
	since uint64       // Seq of the join: with SinceJoin nothing before it is shown
	via   core.Network // the door they came in by
}

func (ch *channel) name() string { return ch.room.Name }

// userByNick finds who has a nick. The lock is held.
func (w *world) userByNick(nick string) *user { return w.nicks[w.fold.fold(nick)] }

// channelByName finds a channel by its IRC name. The lock is held.
func (w *world) channelByName(name string) *channel { return w.channels[w.fold.fold(name)] }

func (w *world) addRoom(r core.Room) *channel {
	if ch := w.rooms[r.ID]; ch != nil {
		return ch
	}
	if r.Kind == core.Group {
		return nil
	}
	ch := &channel{room: r, index: map[*user]*member{}}
	w.rooms[r.ID] = ch
	if !r.Direct {
		w.nameChannel(ch)
	}
	return ch
}

// nameChannel gives ch the name it has on IRC: its own if that can be one, else
// the room's local name.
func (w *world) nameChannel(ch *channel) {
	if !validChannel(ch.room.Name, maxBody) || w.channelByName(ch.room.Name) != nil {
		ch.room.Name = "#" + nickFrom(ch.room.ID.Local(), maxBody/4)
	}
	fold := w.fold.fold(ch.room.Name)
	if w.channels[fold] == nil {
		ch.fold = fold
		w.channels[fold] = ch
	}
}

// enter puts u into ch.
func (w *world) enter(ch *channel, u *user, role core.Role) *member {
	if m := ch.index[u]; m != nil {
		m.role = role
		return m
	}
	m := &member{user: u, ch: ch, role: role, pos: len(ch.members)}
	ch.members = append(ch.members, m)
	ch.index[u] = m
	u.in = append(u.in, m)
	ch.receivers = append(ch.receivers, u.sessions...)
	return m
}

// leave takes m out of its channel.
func (w *world) leave(m *member) {
	ch := m.ch
	last := ch.members[len(ch.members)-1]
	ch.members[m.pos], last.pos = last, m.pos
	ch.members[len(ch.members)-1] = nil
	ch.members = ch.members[:len(ch.members)-1]
	delete(ch.index, m.user)
	for i, o := range m.user.in {
		if o == m {
			m.user.in = append(m.user.in[:i], m.user.in[i+1:]...)
			break
		}
	}
	for _, s := range m.user.sessions {
		ch.drop(s)
	}
	if u := m.user; len(u.in) == 0 && len(u.sessions) == 0 && !u.gone { // relayed, or an account that was in by another door
		w.forget(u)
	}
}

func (ch *channel) drop(s *session) {
	for i, o := range ch.receivers {
		if o == s {
			last := len(ch.receivers) - 1
			ch.receivers[i], ch.receivers[last] = ch.receivers[last], nil
			ch.receivers = ch.receivers[:last]
			return
		}
	}
}

// forget takes u out of the tables.
func (w *world) forget(u *user) {
	if fold := w.fold.fold(u.profile.Name); w.nicks[fold] == u {
		delete(w.nicks, fold)
		w.departed(u, u.profile)
	}
	if w.users[u.uri] == u {
		delete(w.users, u.uri)
	}
}

// attach adds s to u's sessions and to the channels u is in.
func (w *world) attach(s *session, u *user) {
	u.sessions = append(u.sessions, s)
	for _, m := range u.in {
		m.ch.receivers = append(m.ch.receivers, s)
	}
}

// detach is its inverse; it reports whether u has no session left.
func (w *world) detach(s *session, u *user) bool {
	for i, o := range u.sessions {
		if o == s {
			u.sessions = append(u.sessions[:i:i], u.sessions[i+1:]...)
			break
		}
	}
	for _, m := range u.in {
		m.ch.drop(s)
	}
	return len(u.sessions) == 0
}

// remote returns the user that another network relays, made on first sight.
func (w *world) remote(uri core.UserURI, p core.Profile, suffix string, nickLen int) *user {
	if u := w.users[uri]; u != nil {
		return u
	}
	u := &user{uri: uri}
	p.Name = w.freeNick(orWord(p.Name, uri.Local()), suffix, nickLen, nil)
	p.Ident, p.Host = nickFrom(orWord(p.Ident, uri.Local()), 10), orWord(p.Host, hostOf(uri))
	u.setProfile(p)
	w.users[uri] = u
	w.nicks[w.fold.fold(p.Name)] = u
	w.arrived(u)
	return u
}

// freeNick makes a nick of name that nobody but self has: with the suffix, and a
// number before it if it must be.
func (w *world) freeNick(name, suffix string, nickLen int, self *user) string {
	base := nickFrom(name, nickLen-len(suffix))
	nick := base + suffix
	for n := 2; ; n++ {
		if u := w.userByNick(nick); u == nil || u == self {
			return nick
		}
		tail := itoa(n) + suffix
		nick = base[:min(len(base), nickLen-len(tail))] + tail
	}
}

// hostOf names where a relayed user comes from, in the characters of a host.
func hostOf(uri core.UserURI) string {
	p := uri.Path()
	if len(p) < 2 {
		return uri.Domain()
	}
	b := []byte(p[0])
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '-') {
			b[i] = '-'
		}
	}
	return string(b)
}

// peers returns every session that shares a channel with u, each once, u's own
// among them. The lock is held.
func (w *world) peers(u *user) []*session {
	seen := make(map[*session]struct{}, len(u.sessions))
	out := append([]*session(nil), u.sessions...)
	for _, s := range u.sessions {
		seen[s] = struct{}{}
	}
	for _, m := range u.in {
		for _, s := range m.ch.receivers {
			if _, dup := seen[s]; !dup {
				seen[s] = struct{}{}
				out = append(out, s)
			}
		}
	}
	return out
}
