package irc

import (
	"crypto/rand"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds before registration.
const (
	maxUnregistered = 64 // lines; SASL takes the most
	maxIdent        = 10 // octets of a user name
	departWait      = 5 * time.Second
)

// A registration is what a client has said of itself before it is let in.
type registration struct {
	nick, ident, real, pass string
	negotiating             bool // between CAP LS and CAP END
	lines                   int
	away                    string
}

func init() {
	addCommands(commandTable{
		"PASS": {min: 1, early: true, run: cmdPass},
		"NICK": {early: true, cost: 2, run: cmdNick},
		"USER": {min: 4, early: true, run: cmdUser},
		"QUIT": {early: true, run: cmdQuit},
	})
}

func cmdPass(s *session, l *line) {
	if s.reg == nil {
		s.num("462", "You may not reregister")
		return
	}
	s.reg.pass = l.params[0]
}

func cmdUser(s *session, l *line) {
	if s.reg == nil {
		s.num("462", "You may not reregister")
		return
	}
	s.reg.ident = cut(nickFrom(l.params[0], maxIdent), maxIdent)
	s.reg.real = cut(l.params[3], s.srv.cfg.RealLen)
	s.tryRegister()
}

func cmdQuit(s *session, l *line) {
	s.why = "Quit: " + cut(l.param(0), s.srv.cfg.KickLen)
	if l.param(0) == "" {
		s.why = "Client Quit"
	}
	s.over = true
}

func cmdNick(s *session, l *line) {
	nick := l.param(0)
	switch {
	case nick == "":
		s.num("431", "No nickname given")
	case !s.srv.nickAllowed(nick):
		s.num("432", nick, "Erroneous nickname")
	case s.reg != nil:
		// A client that is about to log in names the nick it has at its other
		// sessions; whether it may is decided when it is let in.
		login := s.reg.negotiating || s.reg.pass != ""
		if !login && (s.reg.nick == "" || s.srv.world.fold.fold(s.reg.nick) != s.srv.world.fold.fold(nick)) {
			if s.srv.nickTaken(nick, s.accountName()) {
				s.num("433", nick, "Nickname is already in use")
				return
			}
		}
		s.reg.nick = nick
		s.tryRegister()
	default:
		s.rename(nick)
	}
}

// nickAllowed reports whether a local user may be called so: the suffix belongs
// to those whom other networks relay.
func (srv *Server) nickAllowed(nick string) bool {
	if !validNick(nick, srv.cfg.NickLen) {
		return false
	}
	suffix := srv.cfg.Suffix
	fold := srv.world.fold
	return suffix == "" || !strings.HasSuffix(fold.fold(nick), fold.fold(suffix))
}

// nickTaken reports whether somebody who is not logged in as account has nick.
func (srv *Server) nickTaken(nick, account string) bool {
	srv.world.mu.RLock()
	defer srv.world.mu.RUnlock()
	u := srv.world.userByNick(nick)
	return u != nil && !(account != "" && AccountKey(u.profile.Account) == AccountKey(account))
}

// accountName is the account the session is logged in to, "" if none.
func (s *session) accountName() string {
	if s.account == nil {
		return ""
	}
	return s.account.Name
}

// tryRegister lets the client in once it has said all that is needed.
func (s *session) tryRegister() {
	r := s.reg
	if r == nil || r.nick == "" || r.ident == "" || r.negotiating || s.over {
		return
	}
	if s.account == nil && r.pass != "" {
		if name, password, ok := strings.Cut(r.pass, ":"); ok {
			acc, err := s.srv.auth.plain(s.ctx, s.info.addr, name, password)
			if err != nil {
				s.num("464", loginText(err))
				s.close("Bad password")
				return
			}
			s.account = &acc
		}
	}
	if s.account == nil && !s.srv.cfg.Guests {
		s.fail("*", "ACCOUNT_REQUIRED", "You need an account to use this server")
		s.close("Account required")
		return
	}
	if s.srv.reserved(s, r.nick) {
		s.num("433", r.nick, "Nickname belongs to an account; log in to use it")
		r.nick = ""
		return
	}
	if s.claim() {
		s.welcome()
	}
}

// reserved reports whether nick is the name of an account other than the
// session's. A store that is away reserves nothing.
func (srv *Server) reserved(s *session, nick string) bool {
	if !srv.cfg.ReserveNicks || AccountKey(nick) == AccountKey(s.accountName()) {
		return false
	}
	_, found, err := srv.auth.find(s.ctx, nick)
	return err == nil && found
}

// claim gives the session its user: a new one, or the one its account has here.
func (s *session) claim() bool {
	w := s.srv.world
	for waited := time.Duration(0); ; waited += 10 * time.Millisecond {
		w.mu.Lock()
		done, ok := s.claimLocked()
		w.mu.Unlock()
		if done {
			return ok
		}
		if waited > departWait { // the account's last goodbye is still being stored
			s.fail("*", "TEMPORARILY_UNAVAILABLE", "Your last session is still being ended")
			s.close("Try again later")
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (s *session) claimLocked() (done, ok bool) {
	srv, w, r := s.srv, s.srv.world, s.reg
	var u *user // of the account, if it is here
	if s.account != nil {
		u = w.users[s.account.User]
	}
	switch o := w.userByNick(r.nick); {
	case u != nil && u.gone:
		return false, false
	case u != nil && len(u.sessions) > 0: // shared as it is
	case o != nil && o != u:
		s.num("433", r.nick, "Nickname is already in use")
		r.nick = ""
		return true, false
	case u != nil: // in channels by another door: shown from now on as this client wishes
		srv.showProfile(u, s.firstProfile(), &stamp{at: time.Now()})
		u.at = time.Now().Unix()
	default:
		u = &user{local: true, at: time.Now().Unix(), away: r.away}
		if s.account != nil {
			u.uri = s.account.User
		} else {
			u.uri = core.NewUserURI(srv.cfg.Domain, "guest", guestID())
		}
		u.setProfile(s.firstProfile())
		w.users[u.uri] = u
		w.nicks[w.fold.fold(r.nick)] = u
		defer w.arrived(u)
		srv.peak = max(srv.peak, len(w.users))
	}
	s.user, s.reg = u, nil
	s.away = absence{r.away, time.Now().UnixNano()}
	w.attach(s, u)
	w.reckonAway(u, s)
	return true, true
}

// firstProfile is how the first client of a user says that they are shown.
func (s *session) firstProfile() core.Profile {
	p := core.Profile{Name: s.reg.nick, Ident: "~" + s.reg.ident, Real: s.reg.real, Host: s.srv.cloak.address(s.info.addr)}
	if s.account != nil {
		p.Account, p.Host = s.account.Name, s.srv.cloak.account(s.account.Name)
	}
	return p
}

// guestID is 80 random bits: no guest is ever taken for an earlier one.
func guestID() string {
	var b [10]byte
	rand.Read(b[:])
	return core.Base32.EncodeToString(b[:])
}

// welcome says hello, and where the account's other sessions are.
func (s *session) welcome() {
	srv := s.srv
	cfg := &srv.cfg
	s.num("001", "Welcome to the "+cfg.Network+" network, "+s.user.source())
	s.num("002", "Your host is "+cfg.ServerName+", running "+cfg.Version)
	s.num("003", "This server was started "+srv.started.UTC().Format(time.RFC1123))
	s.num("004", cfg.ServerName, cfg.Version, "BRioqw", userChanModes, "Ibehklov")
	s.isupport()
	s.lusers()
	if s.caps().has(capReadMarker) {
		s.loadMarkers()
	}
	s.startMetadata()
	s.motd()
	s.showItems()
	s.showChannels()
}

// showChannels says which channels the session's user is in already.
func (s *session) showChannels() {
	w := s.srv.world
	w.mu.RLock()
	in := make([]*channel, 0, len(s.user.in))
	for _, m := range s.user.in {
		in = append(in, m.ch)
	}
	sort.Slice(in, func(i, j int) bool { return in[i].fold < in[j].fold })
	for _, ch := range in {
		s.showJoined(ch)
	}
	s.pushOut()
	w.mu.RUnlock()
}

// rename changes the nick everywhere at once: it is taken first, then told.
func (s *session) rename(nick string) {
	w := s.srv.world
	u := s.user
	if s.srv.reserved(s, nick) {
		s.num("433", nick, "Nickname belongs to an account; log in to use it")
		return
	}
	w.mu.Lock()
	old := u.profile
	fold := w.fold.fold(nick)
	if o := w.nicks[fold]; o != nil && o != u {
		w.mu.Unlock()
		s.num("433", nick, "Nickname is already in use")
		return
	}
	w.nicks[fold] = u
	w.mu.Unlock()
	if old.Name == nick {
		return
	}
	p := old
	p.Name = nick
	if !s.changeProfile("NICK", p) {
		w.mu.Lock()
		if w.fold.fold(u.profile.Name) != fold {
			delete(w.nicks, fold)
		}
		w.mu.Unlock()
	}
}

// changeProfile shows the user as p in every channel, in one transaction.
func (s *session) changeProfile(command string, p core.Profile) bool {
	w := s.srv.world
	w.mu.RLock()
	var es []core.Envelope
	for _, m := range s.user.in {
		es = append(es, s.control(m.ch.room.ID, core.Control{Op: core.OpProfile, Profile: &p}))
	}
	w.mu.RUnlock()
	if len(es) > 0 {
		if _, err := s.submit(command, es...); err != nil {
			s.refuse(command, p.Name, err)
			return false
		}
	}
	s.mu.Lock()
	s.inflight = []pending{{command: command, capture: s.label != ""}}
	s.mu.Unlock()
	w.mu.Lock()
	s.srv.showProfile(s.user, p, &stamp{at: time.Now()}) // nothing if Publish has done it
	w.mu.Unlock()
	s.landed()
	return true
}

// control is a control message of this session's user.
func (s *session) control(room core.RoomID, c core.Control) core.Envelope {
	return core.Envelope{Room: room, Sender: s.user.uri, Origin: core.Origin{Network: core.NetworkIRC},
		Sent: time.Now(), Body: c.Body(s.user.shown())}
}

func sortedKeys(m map[string]string) []string {
	ks := make([]string, 0, len(m))
	for k := range m {
		ks = append(ks, k)
	}
	slices.Sort(ks)
	return ks
}
