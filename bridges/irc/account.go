package irc

import (
	"crypto/rand"
	"net/netip"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Accounts says how people get an account here.
type Accounts struct {
	Registration bool // REGISTER makes one; without it only the operator does
	Passwords    Passwords
	Hashers      int // passwords hashed at once; 0 = half the processors
}

// Registrations from one address: a family at once, then one in a while.
const (
	registerBurst    = 4
	registerInterval = 10 * time.Minute
	maxRegisterers   = 16384 // addresses remembered
)

// A registry says how often an address may have something made that stays: an
// account, a room.
type registry struct {
	mu   sync.Mutex
	paid table[netip.Prefix, int64]
}

// take counts one of them, burst at once and then one each interval, or says how
// long to wait.
func (r *registry) take(a netip.Addr, now time.Time, burst int, interval time.Duration) (wait time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.paid.max = maxRegisterers
	block := addressBlock(a)
	before, _ := r.paid.get(block, now)
	paid := max(before, now.UnixNano()) + int64(interval)
	if over := paid - now.UnixNano() - int64(burst)*int64(interval); over > 0 {
		return time.Duration(over)
	}
	r.paid.put(block, paid, time.Unix(0, paid), now)
	return 0
}

// giveBack takes back one that was not made after all.
func (r *registry) giveBack(a netip.Addr, now time.Time, interval time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	block := addressBlock(a)
	if paid, ok := r.paid.get(block, now); ok {
		r.paid.put(block, paid-int64(interval), time.Unix(0, paid), now)
	}
}

func init() {
	offer(
		capability{bit: capSASL, name: "sasl", info: func(s *session) string { return saslMechanisms(s.info) }},
		capability{bit: capSTS, name: "sts", info: func(s *session) string { return s.srv.transport.stsValue(s.info) },
			ready: func(srv *Server, s *session) bool { return s.cap302 && srv.transport.stsValue(s.info) != "" },
			fixed: true}, // a client MUST NOT ask for it
		capability{bit: capAccountRegistration, name: "draft/account-registration",
			info:  func(*session) string { return "before-connect,custom-account-name" },
			ready: func(srv *Server, _ *session) bool { return srv.live.Load().Accounts.Registration }},
	)
	addCommands(commandTable{
		"AUTHENTICATE": {min: 1, early: true, run: cmdAuthenticate},
		"REGISTER":     {min: 3, early: true, cost: 4, run: cmdRegister},
		"VERIFY":       {min: 2, early: true, run: cmdVerify},
		"WEBIRC":       {min: 4, early: true, run: cmdWebIRC},
	})
}

// cmdAuthenticate answers AUTHENTICATE, also after registration
// (https://ircv3.net/specs/extensions/sasl-3.2).
func cmdAuthenticate(s *session, l *line) {
	if s.sasl == nil {
		s.sasl = new(saslExchange)
	}
	if s.label == "" {
		s.pushOut() // what follows may wait for its turn to hash
	}
	switch r := s.sasl.handle(s.ctx, s.srv.auth, s.info, l.params[0]); r.outcome {
	case saslMore:
		for _, c := range r.challenge {
			s.raw("AUTHENTICATE " + c)
		}
	case saslDone:
		if err := s.login(r.account); err != nil {
			s.num("904", loginText(err))
			return
		}
		s.sasl = nil
		s.num("903", "SASL authentication successful")
	case saslAborted:
		s.num("906", "SASL authentication aborted")
	case saslTooLong:
		s.num("905", "SASL message too long")
	case saslNoMech:
		s.num("908", saslMechanisms(s.info), "are available SASL mechanisms")
		s.num("904", loginText(r.err))
	case saslTooMany:
		s.num("904", loginText(r.err))
		s.close("Too many login attempts")
	case saslFailed:
		if r.err == errDisabled {
			s.num("902", "This account is disabled")
			return
		}
		s.num("904", loginText(r.err))
	}
}

// login makes the session acc's and says so. Before registration that is all.
// Later the guest stays the user they are in the channels they are in, shown
// with the account; outside of channels they become the account's user, unless
// that one has clients already. Nobody goes from one account to another without
// reconnecting.
func (s *session) login(acc core.Account) error {
	if s.reg == nil {
		if s.account != nil && s.account.Fold != acc.Fold {
			return core.Errorf(core.Denied, "you are logged in as somebody else; reconnect first")
		}
		if s.account == nil && !s.showLogin(acc) {
			return core.Errorf(core.Unavailable, "that could not be stored")
		}
	}
	s.account = &acc
	mask := s.shownNick() + "!*@*"
	if s.user != nil {
		mask = s.user.source()
	}
	s.num("900", mask, acc.Name, "You are now logged in as "+acc.Name)
	return nil
}

// showLogin tells everybody who sees the user that they are acc's owner.
func (s *session) showLogin(acc core.Account) bool {
	w := s.srv.world
	w.mu.Lock()
	u := s.user
	p := u.profile
	p.Account, p.Host = acc.Name, s.srv.cloak.account(acc.Name)
	absent := w.users[acc.User]
	alone := len(u.in) == 0 && len(u.sessions) == 1
	switch {
	case alone && absent == nil:
		delete(w.users, u.uri)
		u.uri = acc.User
		w.users[u.uri] = u
	case alone && len(absent.sessions) == 0 && !absent.gone:
		s.become(absent, p)
		w.mu.Unlock()
		s.account = &acc
		if s.caps().has(capReadMarker) {
			s.loadMarkers()
		}
		s.showChannels()
		return true
	}
	w.mu.Unlock()
	return s.changeProfile("AUTHENTICATE", p)
}

// raw sends a line without source.
func (s *session) raw(text string) {
	from := len(s.out)
	s.out = endLine(append(s.out, text...), from)
	s.ended(from)
}

// cmdRegister answers REGISTER account email password
// (https://ircv3.net/specs/extensions/account-registration). Nothing is sent to
// the address, so it is not kept.
func cmdRegister(s *session, l *line) {
	name, password := l.params[0], l.params[2]
	if name == "*" {
		name = s.shownNick()
	}
	no := func(code, text string) { s.fail("REGISTER", code, name, text) }
	switch {
	case !s.srv.live.Load().Accounts.Registration:
		no("DISALLOWED", "Only the operator of this server makes accounts")
		return
	case s.account != nil:
		no("ALREADY_AUTHENTICATED", "You are logged in already")
		return
	case name == "*":
		no("NEED_NICK", "Choose a nick first, or name the account")
		return
	}
	if err := checkAccountName(name); err != nil {
		no("BAD_ACCOUNT_NAME", core.TextOf(err))
		return
	}
	if _, err := preparePassword(password); err != nil {
		no("UNACCEPTABLE_PASSWORD", core.TextOf(err))
		return
	}
	if _, err := s.srv.cfg.Accounts.Passwords.withDefaults().check(name, password); err != nil {
		no("WEAK_PASSWORD", core.TextOf(err))
		return
	}
	if s.nickOfAnother(name) {
		no("ACCOUNT_EXISTS", "That name is in use")
		return
	}
	if wait := s.srv.registry.take(s.info.addr, time.Now(), registerBurst, registerInterval); wait > 0 {
		no("RATE_LIMITED", "Too many accounts from your address; try again in "+wait.Round(time.Second).String())
		return
	}
	if s.label == "" {
		s.pushOut()
	}
	acc, err := s.createAccount(name, password)
	switch core.CodeOf(err) {
	case core.Conflict:
		no("ACCOUNT_EXISTS", "That account exists already")
		return
	case core.Invalid:
		no("UNACCEPTABLE_PASSWORD", core.TextOf(err))
		return
	}
	if err != nil {
		s.srv.log.Warn("account registration failed", "err", err)
		no("TEMPORARILY_UNAVAILABLE", core.TextOf(err))
		return
	}
	s.say("REGISTER", "SUCCESS", acc.Name, "Account registered")
	if err := s.login(acc); err != nil {
		s.warn("REGISTER", "NOT_LOGGED_IN", acc.Name, core.TextOf(err))
	}
}

func (s *session) createAccount(name, password string) (acc core.Account, err error) {
	ctx, srv := s.ctx, s.srv
	if _, found, err := srv.auth.find(ctx, name); found || err != nil { // before paying for the hash
		if err == nil {
			err = core.Errorf(core.Conflict, "account exists")
		}
		return acc, err
	}
	acc = core.Account{Name: name, Fold: AccountKey(name), User: core.NewUserURI(srv.cfg.Domain, AccountKey(name)), Created: time.Now()}
	if qerr := srv.auth.hashes.run(ctx, func() { err = srv.cfg.Accounts.Passwords.Set(&acc, password, rand.Reader) }); qerr != nil {
		return acc, qerr
	}
	if err == nil {
		_, err = srv.gw.Do(ctx, core.PutAccount{Account: acc, Create: true})
	}
	return acc, err
}

// nickOfAnother reports whether somebody else goes by name now.
func (s *session) nickOfAnother(name string) bool {
	w := s.srv.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	u := w.userByNick(name)
	return u != nil && u != s.user
}

// cmdVerify answers VERIFY: nothing here is ever waiting for a code.
func cmdVerify(s *session, l *line) {
	s.fail("VERIFY", "INVALID_CODE", l.params[0], "Accounts need no verification here")
}

// cmdWebIRC answers WEBIRC, which only the first line may be.
func cmdWebIRC(s *session, l *line) {
	if s.reg == nil || s.reg.lines > 0 || s.cap302 {
		s.num("462", "WEBIRC comes first")
		return
	}
	if err := s.srv.transport.webirc(&s.info, l.params); err != nil {
		s.close("WEBIRC refused: " + core.TextOf(err))
	}
}
