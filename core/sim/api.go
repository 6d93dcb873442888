package sim

import (
	"context"
	"crypto/ecdh"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
)

var ecdhX25519 = ecdh.X25519()

// patience is how long a device waits for an answer.
const patience = 25 * time.Second

// An api is a homeserver as its device reaches it: client.Home over a network that
// may lose the question or the answer.
type api struct {
	d     *device
	token string
}

var _ client.Home = (*api)(nil)

func asStale(err error) (*client.Stale, bool) { return errors.AsType[*client.Stale](err) }

func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*core.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

var errOffline = core.Errorf(core.Unavailable, "the homeserver cannot be reached")

// call asks the homeserver. serve answers in its time, in the process that heard
// the question.
func call[In, Out any](ctx context.Context, a *api, what string, in In, long time.Duration, serve func(*home, In, func(Out, error))) (out Out, err error) {
	d := a.d
	w, h := d.w, d.home
	in = overWire(w, what, in)
	await(ctx, func(resume func()) {
		settled := false
		end := func(o Out, e error) {
			if !settled {
				settled = true
				out, err = o, e
				if e != nil {
					w.note(d.name, "%s: %v", what, e)
				}
				resume()
			}
		}
		var none Out
		w.after(patience+long, func() { end(none, errOffline) })
		if d.offline || w.chance(w.plan.Drop) {
			w.after(w.between(10*time.Millisecond, time.Second), func() { end(none, errOffline) })
			return
		}
		w.after(w.between(time.Millisecond, 20*time.Millisecond), func() {
			if !h.up {
				end(none, errOffline)
				return
			}
			life := h.life
			serve(h, in, func(o Out, e error) {
				if h.life != life || d.offline || w.chance(w.plan.Drop) {
					w.after(w.between(time.Millisecond, time.Second), func() { end(none, errOffline) })
					return
				}
				o, e = overWire(w, what, o), overWireError(e)
				w.after(w.between(time.Millisecond, 20*time.Millisecond), func() { end(o, e) })
			})
		})
	})
	return out, err
}

// open is call for what needs no session.
func open[In, Out any](ctx context.Context, a *api, what string, in In, serve func(*home, In) (Out, error)) (Out, error) {
	return call(ctx, a, what, in, 0, func(h *home, in In, reply func(Out, error)) { reply(serve(h, in)) })
}

// slow is call with a session, for what may take a while.
func slow[In, Out any](ctx context.Context, a *api, what string, in In, long time.Duration, serve func(*home, In, core.Session, func(Out, error))) (Out, error) {
	token := a.token
	return call(ctx, a, what, in, long, func(h *home, in In, reply func(Out, error)) {
		s, err := h.session(token)
		if err != nil {
			var none Out
			reply(none, err)
			return
		}
		serve(h, in, s, reply)
	})
}

// quick is call with a session, for what is answered at once.
func quick[In, Out any](ctx context.Context, a *api, what string, in In, serve func(*home, In, core.Session) (Out, error)) (Out, error) {
	return slow(ctx, a, what, in, 0, func(h *home, in In, s core.Session, reply func(Out, error)) { reply(serve(h, in, s)) })
}

// Authorize implements client.Home.
func (a *api) Authorize(token string) { a.token = token }

// OpenSession implements client.Home.
func (a *api) OpenSession(ctx context.Context, r wire.OpenSession) (wire.Session, error) {
	return open(ctx, a, "session", r, (*home).openSession)
}

// Register implements client.Home.
func (a *api) Register(ctx context.Context, r wire.RegisterDevice) (wire.Device, error) {
	return open(ctx, a, "register", r, (*home).register)
}

// PutRecord implements client.Home.
func (a *api) PutRecord(ctx context.Context, r wire.PutRecord) (wire.Device, error) {
	return quick(ctx, a, "record", r, (*home).putRecord)
}

// User implements client.Home.
func (a *api) User(ctx context.Context, user core.UserURI) (wire.User, error) {
	return slow(ctx, a, "user", user, 0, func(h *home, u core.UserURI, _ core.Session, reply func(wire.User, error)) { h.user(u, reply) })
}

// Homeserver implements client.Home.
func (a *api) Homeserver(ctx context.Context, domain string) (wire.Homeserver, error) {
	return slow(ctx, a, "homeserver", domain, 0, func(h *home, d string, _ core.Session, reply func(wire.Homeserver, error)) { h.homeserver(d, reply) })
}

// PutKeyPackages implements client.Home.
func (a *api) PutKeyPackages(ctx context.Context, r wire.PutKeyPackages) (wire.KeyPackages, error) {
	return quick(ctx, a, "packages", r, func(h *home, r wire.PutKeyPackages, s core.Session) (wire.KeyPackages, error) {
		out, err := h.do(core.PutKeyPackages{Device: s.Device, Packages: r.Packages})
		return wire.KeyPackages{Left: out.Left}, err
	})
}

// KeyPackages implements client.Home.
func (a *api) KeyPackages(ctx context.Context) (wire.KeyPackages, error) {
	return quick(ctx, a, "packages left", nothing{}, func(h *home, _ nothing, s core.Session) (wire.KeyPackages, error) { return h.keyPackages(s) })
}

// Claim implements client.Home.
func (a *api) Claim(ctx context.Context, r wire.Claim) (wire.Claims, error) {
	return slow(ctx, a, "claim", r, 0, (*home).claim)
}

// CreateRoom implements client.Home.
func (a *api) CreateRoom(ctx context.Context, r wire.CreateRoom) (wire.Room, error) {
	return quick(ctx, a, "create", r, (*home).createRoom)
}

// Rooms implements client.Home.
func (a *api) Rooms(ctx context.Context) (wire.Rooms, error) {
	return quick(ctx, a, "rooms", nothing{}, func(h *home, _ nothing, s core.Session) (wire.Rooms, error) { return h.rooms(s) })
}

// Room implements client.Home.
func (a *api) Room(ctx context.Context, room core.RoomID) (wire.Room, error) {
	return quick(ctx, a, "room", room, (*home).room)
}

// Send implements client.Home.
func (a *api) Send(ctx context.Context, room core.RoomID, r wire.Send) (wire.Sent, error) {
	return quick(ctx, a, "send", r, func(h *home, r wire.Send, s core.Session) (wire.Sent, error) { return h.send(room, r, s) })
}

// Handshake implements client.Home.
func (a *api) Handshake(ctx context.Context, room core.RoomID, r wire.Handshake) (wire.Decided, error) {
	return slow(ctx, a, "handshake", r, 0, func(h *home, r wire.Handshake, s core.Session, reply func(wire.Decided, error)) {
		h.handshake(room, r, s, reply)
	})
}

// GroupInfo implements client.Home.
func (a *api) GroupInfo(ctx context.Context, room core.RoomID, r wire.GetGroupInfo) (wire.GroupInfo, error) {
	return slow(ctx, a, "group info", r, 0, func(h *home, r wire.GetGroupInfo, s core.Session, reply func(wire.GroupInfo, error)) {
		h.groupInfo(room, r, s, reply)
	})
}

// Tree implements client.Home.
func (a *api) Tree(ctx context.Context, room core.RoomID, epoch uint64) (wire.Tree, error) {
	return quick(ctx, a, "tree", epoch, func(h *home, epoch uint64, s core.Session) (wire.Tree, error) { return h.tree(room, epoch, s) })
}

// Certificates implements client.Home.
func (a *api) Certificates(ctx context.Context, room core.RoomID, epoch uint64) (wire.Certificates, error) {
	return quick(ctx, a, "certificates", epoch, func(h *home, epoch uint64, s core.Session) (wire.Certificates, error) {
		return h.certificates(room, epoch, s)
	})
}

// codeHash is a quick one: nobody here has a dictionary.
func codeHash(room core.RoomID, code string) [32]byte {
	return sha256.Sum256([]byte(string(room) + code))
}

// PutJoinCode implements client.Home.
func (a *api) PutJoinCode(ctx context.Context, room core.RoomID, r wire.JoinCode) (wire.JoinCode, error) {
	return quick(ctx, a, "join code", r, func(h *home, r wire.JoinCode, s core.Session) (wire.JoinCode, error) {
		_, err := h.do(core.PutJoinCode{Code: core.JoinCode{Room: room, By: s.User, Uses: r.Uses, Hash: codeHash(room, r.Code)}})
		return r, err
	})
}

// DropJoinCode implements client.Home.
func (a *api) DropJoinCode(ctx context.Context, room core.RoomID, r wire.JoinCode) error {
	_, err := quick(ctx, a, "no join code", r, func(h *home, r wire.JoinCode, s core.Session) (nothing, error) {
		_, err := h.do(core.PutJoinCode{Code: core.JoinCode{Room: room, By: s.User, Hash: codeHash(room, r.Code)}, Drop: true})
		return nothing{}, err
	})
	return err
}

// Sync implements client.Home.
func (a *api) Sync(ctx context.Context, r wire.GetSync) (wire.Sync, error) {
	return slow(ctx, a, "sync", r, time.Duration(r.Wait)*time.Millisecond, (*home).sync)
}

// History implements client.Home.
func (a *api) History(ctx context.Context, room core.RoomID, before uint64, limit int) (wire.History, error) {
	return quick(ctx, a, "history", before, func(h *home, before uint64, s core.Session) (wire.History, error) {
		return h.history(room, before, limit, s)
	})
}

// PutInbox implements client.Home; letters between people are not simulated.
func (a *api) PutInbox(ctx context.Context, user core.UserURI, r wire.PutInbox) error {
	return core.Errorf(core.Unsupported, "letters are not simulated")
}

// Typing implements client.Home; nobody is shown who types.
func (a *api) Typing(context.Context, wire.Typing) error { return nil }
