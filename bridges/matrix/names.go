package matrix

import (
	"context"
	"crypto/sha256"
	"strings"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// reactionScan bounds how far after its target a reaction is looked for.
const reactionScan = 500

// userURI returns the user whom a Matrix ID names: a user of their homeserver,
// or the one behind a ghost.
func (b *Bridge) userURI(mxid string) (core.UserURI, bool) {
	local, server, ok := splitMXID(mxid)
	if !ok {
		return "", false
	}
	if !b.ours(mxid) {
		u, err := core.ParseUserURI(string(core.NewUserURI(b.cfg.Domain, "matrix."+server, local)))
		return u, err == nil
	}
	rest, ok := strings.CutPrefix(local, b.cfg.UserPrefix)
	if !ok {
		return "", false // our bot is nobody
	}
	var parts []string
	for _, s := range strings.Split(rest, "/") {
		p, ok := decodeLocal(s)
		if !ok || p == "" {
			return "", false
		}
		parts = append(parts, p)
	}
	domain := b.cfg.Domain
	if len(parts) > 2 && parts[0] == "mimi" {
		domain, parts = parts[1], parts[2:]
	}
	u, err := core.ParseUserURI(string(core.NewUserURI(domain, parts...)))
	return u, err == nil
}

// mxid returns the Matrix ID of a user: their own, or their ghost's.
func (b *Bridge) mxid(u core.UserURI) string {
	p := u.Path()
	own := u.Domain() == b.domain
	if own && len(p) == 2 {
		if server, ok := strings.CutPrefix(p[0], "matrix."); ok {
			return "@" + p[1] + ":" + server
		}
	}
	if !own {
		p = append([]string{"mimi", u.Domain()}, p...)
	}
	for i, s := range p {
		p[i] = encodeLocal(s)
	}
	id := "@" + b.cfg.UserPrefix + strings.Join(p, "/") + ":" + b.cfg.Server
	if len(id) > maxUserID { // no way back from the hash; such a user is only spoken for
		h := sha256.Sum256([]byte(u))
		id = "@" + b.cfg.UserPrefix + "+" + core.Base32.EncodeToString(h[:16]) + ":" + b.cfg.Server
	}
	return id
}

// isMatrix reports whether u is a Matrix user, of whichever server.
func (b *Bridge) isMatrix(u core.UserURI) bool { return !b.ours(b.mxid(u)) }

// ours reports whether a Matrix ID is our bot or a ghost.
func (b *Bridge) ours(mxid string) bool {
	if mxid == b.bot {
		return true
	}
	local, server, ok := splitMXID(mxid)
	return ok && server == b.cfg.Server && strings.HasPrefix(local, b.cfg.UserPrefix)
}

func splitMXID(mxid string) (local, server string, ok bool) {
	if len(mxid) > maxUserID || !strings.HasPrefix(mxid, "@") {
		return "", "", false
	}
	local, server, ok = strings.Cut(mxid[1:], ":")
	return local, server, ok && server != "" && local != ""
}

const hexDigits = "0123456789abcdef"

// encodeLocal maps any text to the characters of a localpart, reversibly
// (specification v1.19, appendix 4.2.1.1: "_" before a capital, "=" before hex).
func encodeLocal(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '.' || c == '-':
			b.WriteByte(c)
		case c == '_':
			b.WriteString("__")
		case 'A' <= c && c <= 'Z':
			b.WriteByte('_')
			b.WriteByte(c + 'a' - 'A')
		default:
			b.WriteByte('=')
			b.WriteByte(hexDigits[c>>4])
			b.WriteByte(hexDigits[c&15])
		}
	}
	return b.String()
}

// decodeLocal is the inverse of encodeLocal; anything else is refused, so that
// one user has one ghost.
func decodeLocal(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '_' && i+1 < len(s):
			i++
			if s[i] != '_' {
				b.WriteByte(s[i] - 'a' + 'A')
			} else {
				b.WriteByte('_')
			}
		case c == '=' && i+2 < len(s):
			hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			b.WriteByte(c)
		}
	}
	out := b.String()
	return out, encodeLocal(out) == s
}

// names answers the converter's questions about one link. A store that does not
// answer is remembered in err: the conversion is then thrown away.
type names struct {
	ctx  context.Context
	b    *Bridge
	gw   bridges.Gateway
	link *core.Link
	err  error
}

func (n *names) view(f func(core.Reader) error) bool {
	err := n.gw.View(n.ctx, f)
	if err != nil && core.CodeOf(err) != core.NotFound && n.err == nil {
		n.err = core.Errorf(core.Unavailable, "the store does not answer: %w", err)
	}
	return err == nil
}

func (n *names) Event(id core.EventID) (*core.Event, bool) {
	var ev core.Event
	ok := n.view(func(r core.Reader) (err error) {
		ev, err = r.Event(n.link.Room, id.Seq())
		return err
	})
	return &ev, ok && ev.ID == id
}

func (n *names) Reaction(target core.EventID, user core.UserURI, text string) (found core.EventID, ok bool) {
	n.view(func(r core.Reader) error {
		events, err := r.Events(n.link.Room, core.Range{After: target.Seq(), Limit: reactionScan})
		for i := range events {
			ev := &events[i]
			if ev.Sender != user || ev.Control != nil || ev.Deleted {
				continue
			}
			c, err := converter.ContentOf(ev)
			if err == nil && c.IsReaction() && c.Ref == target && string(c.Part.Body) == text {
				found, ok = ev.ID, true
			}
		}
		return err
	})
	return found, ok
}

func (n *names) Foreign(id core.EventID) (string, bool) {
	if f, ok := n.b.recent.foreign(n.link.ID, id, 0); ok {
		return f, true
	}
	var foreign string
	n.view(func(r core.Reader) error {
		placed, err := r.Placed(n.link.ID, id)
		if err == nil && len(placed) > 0 {
			foreign = placed[0].Foreign
		}
		if core.CodeOf(err) == core.NotFound {
			return nil
		}
		return err
	})
	if foreign != "" {
		return foreign, true
	}
	ev, ok := n.Event(id)
	if ok && ev.Origin.Network == n.b.network && strings.HasPrefix(ev.Origin.ID, "$") {
		return ev.Origin.ID, true
	}
	return "", false
}

func (n *names) ByForeign(id string) (found core.EventID, ok bool) {
	if ev, ok := n.b.recent.event(n.link.ID, id); ok {
		return ev, true
	}
	n.view(func(r core.Reader) error {
		if p, err := r.PlacedAs(n.link.ID, id); err == nil {
			found, ok = p.Event, true
			return nil
		} else if core.CodeOf(err) != core.NotFound {
			return err
		}
		room, seq, err := r.ByOrigin(n.b.network, id)
		if err == nil && room == n.link.Room {
			found, ok = core.NewEventID(room, n.b.cfg.Domain, seq), true
		}
		return err
	})
	return found, ok
}

func (n *names) Nick(user core.UserURI) (string, bool) {
	if name, ok := n.b.known.get(n.link.Room, user); ok {
		return name, true
	}
	local := user.Local()
	return local, local != ""
}

func (n *names) Handle(user core.UserURI) (string, bool) {
	if _, err := core.ParseUserURI(string(user)); err != nil {
		return "", false
	}
	return n.b.mxid(user), true
}

func (n *names) User(handle string) (core.UserURI, bool) { return n.b.userURI(handle) }

// Nothing here serves media or texts to those outside of Matrix.
func (n *names) MediaURL(string) (string, bool)       { return "", false }
func (n *names) FullText(core.EventID) (string, bool) { return "", false }
