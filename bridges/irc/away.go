package irc

import "time"

func init() {
	addCommands(commandTable{
		"AWAY": {early: true, run: cmdAway},
	})
}

// An absence is what one session says of its user: text "" means that the user
// is there, "*" that nobody looks at this client (draft/pre-away).
type absence struct {
	text string
	at   int64 // Unix nanoseconds
}

// cmdAway sets or ends being away; before registration too
// (https://ircv3.net/specs/extensions/pre-away). A user with several clients is
// away when all of them are.
func cmdAway(s *session, l *line) {
	text := cut(l.param(0), s.srv.cfg.AwayLen)
	if s.reg != nil {
		if !s.caps().has(capPreAway) {
			s.num("451", "You have not registered")
			return
		}
		s.reg.away = text
	} else {
		w := s.srv.world
		w.mu.Lock()
		s.away = absence{text, time.Now().UnixNano()}
		w.reckonAway(s.user, s)
		w.mu.Unlock()
	}
	if text == "" {
		s.num("305", "You are no longer marked as being away")
	} else {
		s.num("306", "You have been marked as being away")
	}
}

// reckonAway makes u away if all of u's sessions are, with the latest text that
// a person wrote, and tells of a change everybody but from. The lock is held.
func (w *world) reckonAway(u *user, from *session) {
	var latest absence
	for _, s := range u.sessions {
		if s.away.text == "" {
			latest = absence{}
			break
		}
		if latest.text == "" || latest.text == "*" || s.away.text != "*" && s.away.at > latest.at {
			latest = s.away
		}
	}
	if u.away == latest.text || len(u.sessions) == 0 {
		return
	}
	u.away = latest.text
	f := awayFan(u, &stamp{at: time.Now()})
	for _, o := range w.audience(u) {
		if o != from {
			f.send(o)
		}
	}
}
