package irc

import (
	"context"
	"sync"

	"github.com/isthmus-chat/isthmus/core"
)

// maxShownItems bounds what is shown at one login; the rest comes at the next.
const maxShownItems = 100

// A mailbox remembers which items users have seen, until that is stored. Publish
// may not ask the gateway for anything, so watch does it. If the server stops
// before that, the items are shown once more at the next login.
type mailbox struct {
	mu   sync.Mutex
	seen map[core.UserURI]uint64
}

func (m *mailbox) saw(u core.UserURI, id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen == nil {
		m.seen = map[core.UserURI]uint64{}
	}
	m.seen[u] = max(m.seen[u], id)
}

// settleItems takes what was seen out of the store; what fails waits for the next time.
func (srv *Server) settleItems(ctx context.Context) {
	m := &srv.mail
	m.mu.Lock()
	seen := m.seen
	m.seen = nil
	m.mu.Unlock()
	for u, id := range seen {
		if _, err := srv.gw.Do(ctx, core.DropItems{To: u, UpTo: id}); err != nil {
			m.saw(u, id)
		}
	}
}

// showItem tells a user who is here what the homeserver has to say to them. The
// world's lock is held.
func (srv *Server) showItem(it *core.Item) {
	u := srv.world.users[it.To]
	if u == nil || len(u.sessions) == 0 {
		return
	}
	if it.Kind != "invite" { // INVITE itself was the event
		line := srv.itemLine(it, u.profile.Name)
		for _, s := range u.sessions {
			s.queue.push(line)
		}
	}
	srv.mail.saw(it.To, it.ID)
}

// showItems shows what came while nobody was here: invitations, and what a
// linked network could not show.
func (s *session) showItems() {
	srv, u := s.srv, s.user
	var items []core.Item
	err := srv.gw.View(s.ctx, func(r core.Reader) (err error) {
		items, err = r.Items(u.uri, 0, maxShownItems)
		return err
	})
	if err != nil || len(items) == 0 {
		return // they stay where they are
	}
	srv.world.mu.RLock()
	for i := range items {
		s.out = append(s.out, srv.itemLine(&items[i], u.profile.Name)...)
	}
	srv.world.mu.RUnlock()
	srv.mail.saw(u.uri, items[len(items)-1].ID)
}

// itemLine writes an item as a notice. The world's lock is held.
func (srv *Server) itemLine(it *core.Item, nick string) []byte {
	text, where := it.Text, ""
	if ch := srv.world.rooms[it.Room]; ch != nil && ch.fold != "" {
		where = ch.name()
	}
	switch {
	case it.Kind == "invite":
		text = it.Text + " invited you to " + orWord(where, "a room")
	case where != "":
		text = where + ": " + text
	}
	b := append([]byte(":"), srv.cfg.ServerName...)
	b = append(b, " NOTICE"...)
	b = appendMiddle(b, nick)
	return endLine(appendTrailing(b, text), 0)
}
