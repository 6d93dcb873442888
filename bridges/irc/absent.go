package irc

import (
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// absentText is why an account without a client here is away: what is said to it
// waits in the conversation until it looks there by its own door.
const absentText = "Not on IRC"

// isAccount reports whether uri names an account of this homeserver, and not
// somebody whom a network relays or a user of another homeserver.
func (srv *Server) isAccount(uri core.UserURI) bool {
	return uri == core.NewUserURI(srv.cfg.Domain, uri.Local())
}

// AbsentProfile is how an account of this homeserver is shown that no client here
// speaks for. It follows from the URI alone, whichever door the account came in by
// and whatever that door calls it: so it is the same after a restart. The other
// doors say the same when they put somebody into a Channel, so that a ban on what
// is seen keeps them out there too. It may be called before Run.
func (srv *Server) AbsentProfile(uri core.UserURI) core.Profile {
	name := uri.Local()
	nick := name
	if !validNick(name, srv.cfg.NickLen) { // what is made of it may be the name of another account
		nick = nickFrom(name, srv.cfg.NickLen-len(srv.cfg.Suffix)) + srv.cfg.Suffix
	}
	return core.Profile{Name: nick, Ident: "~" + nickFrom(name, maxIdent), Host: srv.cloak.account(name), Account: name}
}

// absentProfile is AbsentProfile of u with a nick that nobody else has: where the own
// name is taken, one that cannot be another account's. The world's lock is held.
func (srv *Server) absentProfile(u *user) core.Profile {
	p := srv.AbsentProfile(u.uri)
	if o := srv.world.userByNick(p.Name); o != nil && o != u {
		p.Name = srv.world.freeNick(u.uri.Local(), srv.cfg.Suffix, srv.cfg.NickLen, u)
	}
	return p
}

// stranger is how somebody is shown who is in no channel and has no client here,
// and was called name.
func (srv *Server) stranger(uri core.UserURI, name string) core.Profile {
	p := core.Profile{Host: hostOf(uri)}
	if srv.isAccount(uri) {
		p = srv.AbsentProfile(uri)
	}
	p.Name = nickFrom(name, srv.cfg.NickLen)
	return p
}

// outsider returns the user who came into a channel by another door than this
// listener, made on first sight: an account of ours under its own name, everybody
// else as p says with the suffix of those whom networks relay. The world's lock
// is held.
func (srv *Server) outsider(uri core.UserURI, p core.Profile) *user {
	w := srv.world
	if !srv.isAccount(uri) {
		return w.remote(uri, p, srv.cfg.Suffix, srv.cfg.NickLen)
	}
	u := w.users[uri]
	switch {
	case u == nil:
		u = &user{uri: uri, local: true, at: time.Now().Unix(), away: absentText}
		w.users[uri] = u
	case u.gone && w.userByNick(u.profile.Name) != u: // of an earlier process: reap ends what it was in by IRC
		u.gone, u.away = false, absentText
	default:
		return u
	}
	p = srv.absentProfile(u)
	u.setProfile(p)
	w.nicks[w.fold.fold(p.Name)] = u
	w.arrived(u)
	return u
}

// become makes s, the only client of a guest in no channel, the first one of the
// absent user u, who is shown as p from now on. The world's lock is held.
func (s *session) become(u *user, p core.Profile) {
	w, guest := s.srv.world, s.user
	w.detach(s, guest)
	w.forget(guest)
	s.srv.showProfile(u, p, &stamp{at: time.Now()})
	u.at = guest.at
	s.user = u
	w.attach(s, u)
	w.reckonAway(u, s)
}

// elsewhere reports whether u is in a channel by another door than IRC. The
// world's lock is held.
func (u *user) elsewhere() bool {
	for _, m := range u.in {
		if m.via != core.NetworkIRC {
			return true
		}
	}
	return false
}

// stay shows an account whose last client has gone as one without any, in the
// channels that it is in by another door. The world's lock is held.
func (srv *Server) stay(u *user) {
	w, now := srv.world, &stamp{at: time.Now()}
	u.gone = false
	srv.showProfile(u, srv.absentProfile(u), now)
	u.away = absentText
	f := awayFan(u, now)
	for _, s := range w.audience(u) {
		f.send(s)
	}
}
