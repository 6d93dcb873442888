package irc

import (
	"context"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of read markers.
const (
	maxMarkers   = 1000 // of one user: more rooms than one reads
	markerBucket = "irc.read"
)

func init() {
	offer(capability{bit: capReadMarker, name: "draft/read-marker", on: func(s *session, on bool) {
		if on && s.user != nil {
			s.loadMarkers()
		}
	}})
	addCommands(commandTable{
		"MARKREAD": {cost: 2, run: cmdMarkread},
	})
}

// markers are how far one user has read in each room, in Unix milliseconds. An
// account's are in the store as well; a guest's go with the guest.
type markers struct {
	store  sync.Mutex // while the store reads or keeps one; never taken under the world's lock
	loaded bool       // under store

	mu sync.Mutex
	at map[core.RoomID]int64
}

// markersOf returns u's markers, made on first sight.
func (srv *Server) markersOf(u *user) *markers {
	srv.metaMu.Lock()
	defer srv.metaMu.Unlock()
	if u.markers == nil {
		u.markers = &markers{at: map[core.RoomID]int64{}}
	}
	return u.markers
}

// loadMarkers reads an account's markers, once: a JOIN shows them under the
// world's lock, where nothing waits for the store.
func (s *session) loadMarkers() {
	if s.account == nil {
		return
	}
	m := s.srv.markersOf(s.user)
	m.store.Lock()
	defer m.store.Unlock()
	if m.loaded {
		return
	}
	prefix := string(s.account.User) + " "
	err := s.srv.gw.View(s.ctx, func(r core.Reader) error {
		vs, err := r.Values(markerBucket, prefix, maxMarkers)
		for _, v := range vs {
			room, ours := strings.CutPrefix(v.Key, prefix)
			if !ours {
				break
			}
			if at, err := strconv.ParseInt(string(v.Data), 10, 64); err == nil {
				m.set(core.RoomID(room), at)
			}
		}
		return err
	})
	m.loaded = err == nil
}

func (m *markers) set(room core.RoomID, at int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.at[room] = max(at, m.at[room])
}

// get returns how far the user has read in room, 0 if nowhere.
func (m *markers) get(room core.RoomID) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.at[room]
}

// raise moves the marker of room forward, and keeps it if it did: put stores it
// before anybody is told. It returns where the marker is now.
func (m *markers) raise(room core.RoomID, at int64, put func() error) (now int64, changed bool, err error) {
	m.store.Lock()
	defer m.store.Unlock()
	m.mu.Lock()
	old, known := m.at[room]
	full := !known && len(m.at) >= maxMarkers
	m.mu.Unlock()
	switch {
	case at <= old:
		return old, false, nil
	case full:
		return old, false, core.Errorf(core.TooLarge, "more than %d read markers", maxMarkers)
	}
	if err := put(); err != nil {
		return old, false, err
	}
	m.set(room, at)
	return at, true, nil
}

// cmdMarkread answers MARKREAD (https://ircv3.net/specs/extensions/read-marker).
func cmdMarkread(s *session, l *line) {
	if !s.caps().has(capReadMarker) {
		s.num("421", "MARKREAD", "Unknown command")
		return
	}
	if len(l.params) == 0 || l.params[0] == "" {
		s.fail("MARKREAD", "NEED_MORE_PARAMS", "Missing parameters")
		return
	}
	target := l.params[0]
	room, ok := s.knownRoom(target)
	if !ok && (len(l.params) > 1 || strings.HasPrefix(target, "#")) {
		s.fail("MARKREAD", "INVALID_PARAMS", target, "There is nothing to read there")
		return
	}
	s.loadMarkers()
	m := s.srv.markersOf(s.user)
	if len(l.params) == 1 {
		s.out = s.appendMarker(s.out, target, m.get(room))
		s.ended(0)
		return
	}
	value, named := strings.CutPrefix(l.params[1], "timestamp=")
	at, valid := parseTime(value)
	if !named || !valid || len(l.params) > 2 {
		s.fail("MARKREAD", "INVALID_PARAMS", target, l.params[1], "Not a timestamp")
		return
	}
	if now := time.Now(); at.After(now) { // nobody has read the future
		at = now
	}
	now, changed, err := m.raise(room, at.UnixMilli(), func() error { return s.keepMarker(room, at.UnixMilli()) })
	if err != nil {
		s.fail("MARKREAD", "INTERNAL_ERROR", target, core.TextOf(err))
		return
	}
	s.out = s.appendMarker(s.out, target, now)
	s.ended(0)
	if changed {
		s.srv.tellMarker(s, target, now)
	}
}

// keepMarker stores an account's marker.
func (s *session) keepMarker(room core.RoomID, at int64) error {
	if s.account == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, shutdownTime)
	defer cancel()
	_, err := s.srv.gw.Do(ctx, core.PutValue{Bucket: markerBucket, Key: string(s.account.User) + " " + string(room),
		Data: strconv.AppendInt(nil, at, 10)})
	return err
}

// tellMarker shows a marker to the user's other sessions.
func (srv *Server) tellMarker(from *session, target string, at int64) {
	srv.world.mu.RLock()
	defer srv.world.mu.RUnlock()
	for _, s := range from.user.sessions {
		if s != from && s.caps().has(capReadMarker) {
			s.queue.push(s.appendMarker(nil, target, at))
		}
	}
}

func (s *session) appendMarker(b []byte, target string, at int64) []byte {
	b = append(append(append(b, ':'), s.srv.cfg.ServerName...), " MARKREAD"...)
	b = appendMiddle(b, target)
	if at == 0 {
		return append(b, " *\r\n"...)
	}
	b = appendTime(append(b, " timestamp="...), time.UnixMilli(at))
	return append(b, '\r', '\n')
}

// showMarker follows a JOIN, before the end of the names. The world's lock is
// held.
func (s *session) showMarker(ch *channel) {
	if s.caps().has(capReadMarker) {
		s.out = s.appendMarker(s.out, ch.name(), s.srv.markersOf(s.user).get(ch.room.ID))
	}
}

// afterJoin is what follows the names of a channel: how far the user's other
// sessions have read, the metadata, and for plain clients what was said last.
func (s *session) afterJoin(name string) {
	w := s.srv.world
	w.mu.RLock()
	ch := w.channelByName(name)
	if ch == nil || ch.index[s.user] == nil {
		w.mu.RUnlock()
		return
	}
	if len(s.user.sessions) > 1 {
		at := s.srv.markersOf(s.user).get(ch.room.ID)
		for _, o := range s.user.sessions {
			if o != s && o.caps().has(capReadMarker) {
				o.queue.push(o.appendMarker(nil, ch.name(), at))
			}
		}
	}
	w.mu.RUnlock()
	s.joinMetadata(ch)
	s.replay(name)
}
