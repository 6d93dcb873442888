package irc

import (
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

func init() {
	offer(capability{bit: capExtendedMonitor, name: "extended-monitor"})
	addCommands(commandTable{
		"MONITOR": {min: 1, cost: 2, run: cmdMonitor},
	})
	addISupport(func(srv *Server) []string { return []string{"MONITOR=" + strconv.Itoa(srv.cfg.Monitor)} })
}

// A watchlist says who wants to know of a nick, by folded nick. It is bounded
// by Config.Monitor nicks for each session.
type watchlist map[string][]*session

// listRoom is what nicks on one MONITOR numeric may take.
const listRoom = 380

// cmdMonitor answers MONITOR (https://ircv3.net/specs/extensions/monitor).
func cmdMonitor(s *session, l *line) {
	w := s.srv.world
	w.mu.Lock()
	defer w.mu.Unlock()
	switch l.params[0] {
	case "+":
		s.monitor(list(l.param(1), maxMonitored))
	case "-":
		for _, nick := range list(l.param(1), maxMonitored) {
			w.forgetWatch(s, w.fold.fold(nick))
		}
	case "c", "C":
		w.unwatch(s)
	case "l", "L":
		s.numList("732", s.watched())
		s.num("733", "End of MONITOR list")
	case "s", "S":
		s.showWatched(s.watched())
	default:
		s.num("461", "MONITOR", "Unknown MONITOR command")
	}
}

// maxMonitored bounds the nicks named in one MONITOR: more do not fit a line.
const maxMonitored = 256

// monitor adds nicks as far as there is room. The world's lock is held.
func (s *session) monitor(nicks []string) {
	w := s.srv.world
	var added []string
	for i, nick := range nicks {
		if !validNick(nick, maxBody) {
			continue
		}
		fold := w.fold.fold(nick)
		if _, known := s.watching[fold]; !known {
			if len(s.watching) >= s.srv.cfg.Monitor {
				s.num("734", strconv.Itoa(s.srv.cfg.Monitor), strings.Join(nicks[i:], ","), "Monitor list is full")
				break
			}
			if s.watching == nil {
				s.watching = map[string]string{}
			}
			if w.watch == nil {
				w.watch = watchlist{}
			}
			s.watching[fold] = nick
			w.watch[fold] = append(w.watch[fold], s)
		}
		added = append(added, nick)
	}
	s.showWatched(added)
}

// watched returns the nicks that s monitors, in order.
func (s *session) watched() []string {
	out := make([]string, 0, len(s.watching))
	for _, nick := range s.watching {
		out = append(out, nick)
	}
	sort.Strings(out)
	return out
}

// showWatched says who of nicks is here. The world's lock is held.
func (s *session) showWatched(nicks []string) {
	var here, gone []string
	for _, nick := range nicks {
		if u := s.srv.world.userByNick(nick); u != nil {
			here = append(here, u.source())
		} else {
			gone = append(gone, nick)
		}
	}
	s.numList("730", here)
	s.numList("731", gone)
	if s.caps().has(capMetadata3) {
		for _, source := range here {
			nick, _, _ := strings.Cut(source, "!")
			s.num("774", nick, "0", "Synchronize metadata when you like")
		}
	}
}

// numList sends words joined by commas on as many numerics as it takes.
func (s *session) numList(number string, words []string) {
	for len(words) > 0 {
		n, size := 0, 0
		for n < len(words) && (n == 0 || size+len(words[n]) < listRoom) {
			size += len(words[n]) + 1
			n++
		}
		s.num(number, strings.Join(words[:n], ","))
		words = words[n:]
	}
}

// unwatch ends everything that s monitors.
func (w *world) unwatch(s *session) {
	for fold := range s.watching {
		w.forgetWatch(s, fold)
	}
}

func (w *world) forgetWatch(s *session, fold string) {
	if _, ok := s.watching[fold]; !ok {
		return
	}
	delete(s.watching, fold)
	ss := w.watch[fold]
	for i, o := range ss {
		if o == s {
			ss[i] = ss[len(ss)-1]
			ss[len(ss)-1] = nil
			ss = ss[:len(ss)-1]
			break
		}
	}
	if len(ss) == 0 {
		delete(w.watch, fold)
	} else {
		w.watch[fold] = ss
	}
}

// arrived tells those who monitor u's nick that it is here. The lock is held.
func (w *world) arrived(u *user) { w.tellWatchers(u.profile.Name, " 730 ", u.source()) }

// departed tells them that it is gone, and remembers who had it.
func (w *world) departed(u *user, was core.Profile) {
	w.tellWatchers(was.Name, " 731 ", was.Name)
	if u.local {
		w.past.add(was)
	}
}

// renamed is departed for the old nick and arrived for the new one.
func (w *world) renamed(u *user, old core.Profile) {
	if w.fold.fold(old.Name) != w.fold.fold(u.profile.Name) {
		w.departed(u, old)
		w.arrived(u)
	}
}

func (w *world) tellWatchers(nick, number, text string) {
	for _, s := range w.watch[w.fold.fold(nick)] {
		b := append([]byte{':'}, s.srv.cfg.ServerName...)
		b = append(append(b, number...), s.shownNick()...)
		b = endLine(appendTrailing(b, text), 0)
		if number == " 730 " && s.caps().has(capMetadata3) {
			b = append(append(append(b, ':'), s.srv.cfg.ServerName...), " 774 "...)
			b = append(b, s.shownNick()...)
			b = append(appendMiddle(b, nick), " 0 :Synchronize metadata when you like\r\n"...)
		}
		s.queue.push(b)
	}
}

// audience returns who is told of a change of u besides those who share a
// channel: sessions with extended-monitor that monitor u's nick
// (https://ircv3.net/specs/extensions/extended-monitor). The lock is held.
func (w *world) audience(u *user) []*session {
	out := w.peers(u)
	watching := w.watch[w.fold.fold(u.profile.Name)]
	if len(watching) == 0 {
		return out
	}
	seen := make(map[*session]struct{}, len(out))
	for _, s := range out {
		seen[s] = struct{}{}
	}
	for _, s := range watching {
		if _, dup := seen[s]; !dup && s.caps().has(capExtendedMonitor) {
			out = append(out, s)
		}
	}
	return out
}

// pastNicks remembers who had a nick, for WHOWAS: a ring, so it is bounded.
type pastNicks struct {
	ring [512]pastNick
	n    uint64
}

type pastNick struct {
	profile core.Profile
	at      time.Time
}

func (p *pastNicks) add(was core.Profile) {
	p.ring[p.n%uint64(len(p.ring))] = pastNick{was, time.Now()}
	p.n++
}

// find returns up to max entries for a nick, the latest first.
func (p *pastNicks) find(fold casemap, nick string, max int) (out []pastNick) {
	nick = fold.fold(nick)
	for i := uint64(1); i <= min(p.n, uint64(len(p.ring))) && len(out) < max; i++ {
		e := p.ring[(p.n-i)%uint64(len(p.ring))]
		if fold.fold(e.profile.Name) == nick {
			out = append(out, e)
		}
	}
	return out
}
