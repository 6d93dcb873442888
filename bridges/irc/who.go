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
		"WHO":    {cost: 4, run: cmdWho},
		"WHOIS":  {cost: 2, run: cmdWhois},
		"WHOWAS": {min: 1, cost: 2, run: cmdWhowas},
	})
	addISupport(func(*Server) []string { return []string{"WHOX"} })
}

// Bounds of WHO and its kin.
const (
	maxWho    = 2000 // users that a mask shows; a channel is shown whole
	maxWhoX   = 16   // fields of a WHOX request: there are fewer
	maxWhowas = 16   // entries for one nick
)

// A whoQuery is what WHO asks for. fields is "" without WHOX.
type whoQuery struct {
	fields, token string
	opersOnly     bool
}

// whoOrder is the order in which WHOX fields are shown, whatever order they are
// asked in (https://ircv3.net/specs/extensions/whox).
const whoOrder = "tcuihsnfdlaor"

func cmdWho(s *session, l *line) {
	mask := l.param(0)
	var q whoQuery
	flags, fields, x := strings.Cut(l.param(1), "%")
	q.opersOnly = strings.Contains(flags, "o")
	if x {
		fields, q.token, _ = strings.Cut(fields, ",")
		q.fields = fields[:min(len(fields), maxWhoX)]
		if len(q.token) > 3 {
			q.token = q.token[:3]
		}
	}
	w := s.srv.world
	w.mu.RLock()
	switch {
	case q.opersOnly: // nobody is an operator of the server over IRC
	case strings.HasPrefix(mask, "#"):
		if ch := w.channelByName(mask); ch != nil && (!ch.room.Policy.Secret || ch.index[s.user] != nil) {
			for _, m := range ch.members {
				s.who(q, m.user, m)
			}
		}
	case mask == "" || mask == "*" || mask == "0" || strings.ContainsAny(mask, "*?"):
		s.whoMask(q, mask)
	default:
		if u := w.userByNick(mask); u != nil {
			s.who(q, u, s.common(u))
		}
	}
	w.mu.RUnlock()
	s.num("315", orWord(mask, "*"), "End of WHO list")
}

// whoMask shows users whose nick, user name, host, real name or account meets
// mask, in the order of their nicks. The world's lock is held.
func (s *session) whoMask(q whoQuery, mask string) {
	if mask == "" || mask == "0" {
		mask = "*"
	}
	var found []*user
	for _, u := range s.srv.world.users {
		p := &u.profile
		for _, text := range [...]string{p.Name, p.Ident, p.Host, p.Real, p.Account, u.source()} {
			if text != "" && core.MatchMask(mask, text, "") {
				found = append(found, u)
				break
			}
		}
	}
	sort.Slice(found, func(i, j int) bool { return found[i].profile.Name < found[j].profile.Name })
	for _, u := range found[:min(len(found), maxWho)] {
		s.who(q, u, s.common(u))
	}
}

// common returns u's membership of a channel that s may know of, nil if none.
func (s *session) common(u *user) *member {
	var open *member
	for _, m := range u.in {
		if m.ch.index[s.user] != nil {
			return m
		}
		if open == nil && !m.ch.room.Policy.Secret {
			open = m
		}
	}
	return open
}

// who sends one 352, or 354 for WHOX.
func (s *session) who(q whoQuery, u *user, m *member) {
	p := &u.profile
	channel, sign := "*", ""
	if m != nil {
		channel, sign = m.ch.name(), roleSign(m.role)
	}
	flags := "H"
	if u.away != "" {
		flags = "G"
	}
	flags += sign
	if p.Bot {
		flags += "B"
	}
	ident, host := orWord(p.Ident, "~u"), orWord(p.Host, "unknown")
	if q.fields == "" {
		s.num("352", channel, ident, host, s.srv.cfg.ServerName, p.Name, flags, "0 "+p.Real)
		return
	}
	var out []string
	for _, f := range whoOrder {
		if !strings.ContainsRune(q.fields, f) {
			continue
		}
		word := "n/a"
		switch f {
		case 't':
			word = orWord(q.token, "0")
		case 'c':
			word = channel
		case 'u':
			word = ident
		case 'i':
			word = "255.255.255.255" // addresses are nobody's business
		case 'h':
			word = host
		case 's':
			word = s.srv.cfg.ServerName
		case 'n':
			word = p.Name
		case 'f':
			word = flags
		case 'd':
			word = "0"
		case 'l':
			word = strconv.FormatInt(u.idle(s, time.Now()), 10)
		case 'a':
			word = orWord(p.Account, "0")
		case 'r':
			word = p.Real
		}
		out = append(out, word)
	}
	s.num354(out, strings.ContainsRune(q.fields, 'r'))
}

// num354 sends the fields; only the real name can hold blanks.
func (s *session) num354(fields []string, trailing bool) {
	if trailing {
		s.num("354", fields...)
		return
	}
	from := len(s.out)
	b := append(append(append(s.out, ':'), s.srv.cfg.ServerName...), " 354"...)
	b = appendMiddle(b, s.shownNick())
	for _, f := range fields {
		b = appendMiddle(b, f)
	}
	s.out = endLine(b, from)
	s.ended(from)
}

// idle is how long u has not spoken, in seconds; 0 for those who are not shown.
func (u *user) idle(s *session, now time.Time) int64 {
	if len(u.sessions) == 0 || s.user == nil {
		return 0
	}
	last := u.at
	for _, o := range u.sessions {
		last = max(last, o.spoke.Load())
	}
	return max(now.Unix()-last, 0)
}

func cmdWhois(s *session, l *line) {
	if len(l.params) == 0 || l.params[len(l.params)-1] == "" {
		s.num("431", "No nickname given")
		return
	}
	mask := l.params[len(l.params)-1] // WHOIS [server] nick
	w := s.srv.world
	w.mu.RLock()
	for _, nick := range list(mask, s.srv.cfg.MaxTargets) {
		if u := w.userByNick(nick); u != nil && !(u.local && u.gone) {
			s.whois(u)
		} else {
			s.num("401", nick, "No such nick/channel")
		}
	}
	w.mu.RUnlock()
	s.num("318", mask, "End of /WHOIS list")
}

// whois sends all there is about u. The world's lock is held.
func (s *session) whois(u *user) {
	p, nick := &u.profile, u.profile.Name
	s.num("311", nick, orWord(p.Ident, "~u"), orWord(p.Host, "unknown"), "*", p.Real)
	var in []string
	for _, m := range u.in {
		if u == s.user || m.ch.index[s.user] != nil || !m.ch.room.Policy.Secret {
			in = append(in, roleSign(m.role)+m.ch.name())
		}
	}
	sort.Strings(in)
	for len(in) > 0 {
		n, size := 0, 0
		for n < len(in) && (n == 0 || size+len(in[n]) < listRoom) {
			size += len(in[n]) + 1
			n++
		}
		s.num("319", nick, strings.Join(in[:n], " "))
		in = in[n:]
	}
	info := s.srv.cfg.Network
	if !u.local {
		info = "through " + hostOf(u.uri)
	}
	s.num("312", nick, s.srv.cfg.ServerName, info)
	if u.away != "" {
		s.num("301", nick, u.away)
	}
	if p.Account != "" {
		s.num("330", nick, p.Account, "is logged in as")
	}
	if p.Bot {
		s.num("335", nick, "is a bot")
	}
	if u.secure() {
		s.num("671", nick, "is using a secure connection")
	}
	if len(u.sessions) > 0 {
		s.num("317", nick, strconv.FormatInt(u.idle(s, time.Now()), 10), strconv.FormatInt(u.at, 10), "seconds idle, signon time")
	}
	s.whoisMetadata(u)
}

// secure reports whether all of u's clients are connected by TLS.
func (u *user) secure() bool {
	for _, o := range u.sessions {
		if !o.info.secure {
			return false
		}
	}
	return len(u.sessions) > 0
}

func cmdWhowas(s *session, l *line) {
	most := maxWhowas
	if n, err := strconv.Atoi(l.param(1)); err == nil && n > 0 {
		most = min(n, maxWhowas)
	}
	w := s.srv.world
	for _, nick := range list(l.params[0], s.srv.cfg.MaxTargets) {
		w.mu.RLock()
		found := w.past.find(w.fold, nick, most)
		w.mu.RUnlock()
		if len(found) == 0 {
			s.num("406", nick, "There was no such nickname")
		}
		for _, e := range found {
			s.num("314", e.profile.Name, orWord(e.profile.Ident, "~u"), orWord(e.profile.Host, "unknown"), "*", e.profile.Real)
			s.num("312", e.profile.Name, s.srv.cfg.ServerName, e.at.UTC().Format(time.RFC1123))
		}
		s.num("369", nick, "End of WHOWAS")
	}
}
