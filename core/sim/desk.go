package sim

import (
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Labels of what devices sign for their homeserver (PROTOCOL §9).
const (
	labelSession  = "isthmus session"
	labelApproval = "isthmus device approval"
	sessionLife   = 24 * time.Hour
)

var (
	errSession = core.Errorf(core.Unauthenticated, "a session is needed")
	errNoRoom  = core.Errorf(core.NotFound, "there is no such room, or you are not in it")
)

// session finds who asks.
func (h *home) session(token string) (s core.Session, err error) {
	err = h.view(func(r core.Reader) error {
		s, err = core.SessionOf(r, sha256.Sum256([]byte(token)))
		return err
	})
	if err != nil || !h.clock().Before(s.Expires) {
		return s, errSession
	}
	return s, nil
}

// openSession answers POST /v1/sessions. The challenge is one that needs no memory:
// that it is fresh is package native's business.
func (h *home) openSession(in wire.OpenSession) (out wire.Session, err error) {
	if len(in.Challenge) == 0 {
		out.Challenge = make([]byte, 32)
		rand.Read(out.Challenge)
		return out, nil
	}
	var d core.Device
	if err := h.view(func(r core.Reader) (err error) { d, err = core.DeviceOf(r, in.Device); return err }); err != nil {
		return out, errSession
	}
	if !d.Local || d.Revoked || d.Refused || !identity.Verify(d.Key, labelSession, in.Signature, in.Challenge) {
		return out, errSession
	}
	var b [32]byte
	rand.Read(b[:])
	out.Token = base64.RawURLEncoding.EncodeToString(b[:])
	s := core.Session{User: d.User, Device: d.URI, Hash: sha256.Sum256([]byte(out.Token)), Expires: h.clock().Add(sessionLife)}
	out.User, out.Expires = s.User, s.Expires.UnixMilli()
	_, err = h.do(core.PutSession{Session: s})
	return out, err
}

// register answers POST /v1/devices: whoever comes first has a name, and further
// devices are approved by one of the same user.
func (h *home) register(in wire.RegisterDevice) (wire.Device, error) {
	rec, err := identity.ParseRecord(in.Record)
	if err != nil {
		return wire.Device{}, core.Errorf(core.Invalid, "device record: %w", err)
	}
	if in.Sponsor != "" {
		var d core.Device
		if err := h.view(func(r core.Reader) (err error) { d, err = core.DeviceOf(r, in.Sponsor); return err }); err != nil {
			return wire.Device{}, err
		}
		if string(d.User) != rec.User || !identity.Verify(d.Key, labelApproval, in.Approval, in.Record) {
			return wire.Device{}, core.Errorf(core.Denied, "that device has not approved this one")
		}
	}
	if _, err := h.do(core.PutDevice{Proof: core.Identity{Record: in.Record}, Register: true}); err != nil {
		return wire.Device{}, err
	}
	return h.device(core.DeviceURI(rec.URI()))
}

func (h *home) device(uri core.DeviceURI) (out wire.Device, err error) {
	err = h.view(func(r core.Reader) error {
		d, err := core.DeviceOf(r, uri)
		out = wireDevice(d)
		return err
	})
	return out, err
}

func wireDevice(d core.Device) wire.Device {
	return wire.Device{Device: d.URI, User: d.User, Name: d.Name, Revoked: d.Revoked, Refused: d.Refused, Proof: d.Proof}
}

func (h *home) putRecord(in wire.PutRecord, s core.Session) (wire.Device, error) {
	if _, err := h.do(core.PutDevice{Proof: core.Identity{Record: in.Record}}); err != nil {
		return wire.Device{}, err
	}
	return h.device(s.Device)
}

// user answers GET /v1/users/{user}: somebody of another homeserver is asked for
// there; if it does not answer, what is known counts.
func (h *home) user(u core.UserURI, reply func(wire.User, error)) {
	known := func(err error) {
		out := wire.User{User: u}
		verr := h.view(func(r core.Reader) error {
			ds, err := core.DevicesOf(r, u)
			for _, d := range ds {
				out.Devices = append(out.Devices, wireDevice(d))
			}
			return err
		})
		switch {
		case verr != nil:
			err = verr
		case len(out.Devices) > 0:
			err = nil
		case err == nil:
			err = core.Refuse(core.NotFound, core.NoSuchUser, "no device of that user is known")
		}
		reply(out, err)
	}
	if u.Domain() == h.domain {
		known(nil)
		return
	}
	h.fetch(u.Domain(), wire.PeerRecords{Domains: []string{u.Domain()}, Users: []core.UserURI{u}}, known)
}

// homeserver answers GET /v1/homeservers/{domain}.
func (h *home) homeserver(domain string, reply func(wire.Homeserver, error)) {
	known := func() (out wire.Homeserver, err error) {
		out.Domain = domain
		err = h.view(func(r core.Reader) error {
			chain, err := core.HomeserverOf(r, domain)
			if err != nil {
				return err
			}
			for _, rec := range chain.Records() {
				out.Records = append(out.Records, rec.Encode())
			}
			return nil
		})
		return out, err
	}
	out, err := known()
	if err == nil || core.CodeOf(err) != core.NotFound || domain == h.domain {
		reply(out, err)
		return
	}
	h.fetch(domain, wire.PeerRecords{Domains: []string{domain}}, func(err error) {
		if err != nil {
			reply(out, err)
			return
		}
		reply(known())
	})
}

func (h *home) keyPackages(s core.Session) (out wire.KeyPackages, err error) {
	err = h.view(func(r core.Reader) error { out.Left, err = core.KeyPackagesLeft(r, s.Device); return err })
	return out, err
}

// claim answers POST /v1/key-packages/claim: each homeserver for its own users.
func (h *home) claim(in wire.Claim, s core.Session, reply func(wire.Claims, error)) {
	var domains []string
	by := map[string][]core.UserURI{}
	for _, u := range in.Users {
		if by[u.Domain()] == nil {
			domains = append(domains, u.Domain())
		}
		by[u.Domain()] = append(by[u.Domain()], u)
	}
	var out wire.Claims
	left := len(domains)
	one := func(claims []core.Claim) {
		out.Claims = append(out.Claims, claims...)
		if left--; left == 0 {
			reply(out, nil)
		}
	}
	for _, d := range domains {
		if d == h.domain {
			o, err := h.do(core.ClaimKeyPackages{By: string(s.User), Users: by[d], Suites: in.Suites, Except: s.Device})
			if err != nil {
				left = -1 // nobody else answers
				reply(wire.Claims{}, err)
				return
			}
			one(o.Claims)
			continue
		}
		q := wire.PeerClaim{Room: in.Room, By: s.User, Except: s.Device, Users: by[d], Suites: in.Suites}
		ask(h, d, "claim", q, func(to *home, from string, q wire.PeerClaim, reply func(wire.Claims, error)) {
			o, err := to.do(core.ClaimKeyPackages{By: from, Users: q.Users, Suites: q.Suites, Except: q.Except})
			reply(wire.Claims{Claims: o.Claims}, err)
		}, func(a wire.Claims, err error) {
			if err != nil {
				for _, u := range by[d] {
					a.Claims = append(a.Claims, core.Claim{User: u, Status: core.Unreachable})
				}
			}
			one(a.Claims)
		})
	}
}

// createRoom answers POST /v1/rooms, of a Group.
func (h *home) createRoom(in wire.CreateRoom, s core.Session) (wire.Room, error) {
	g := core.CreateGroup{Room: core.Room{ID: in.Room, Kind: core.Group, Name: in.Name, Direct: in.Direct}, By: s.Device, User: s.User, Info: in.Info}
	err := h.view(func(r core.Reader) error {
		d, err := core.DeviceOf(r, s.Device)
		g.Record = d.Proof
		return err
	})
	if err == nil {
		_, err = h.do(g)
	}
	if err != nil {
		return wire.Room{}, err
	}
	return h.room(in.Room, s)
}

// room answers GET /v1/rooms/{room}.
func (h *home) room(id core.RoomID, s core.Session) (out wire.Room, err error) {
	err = h.view(func(r core.Reader) error {
		if _, in, err := presence(r, id, s.User); err != nil || !in {
			return errNoRoom
		}
		out, err = describe(r, id)
		out.Joined = true
		return err
	})
	return out, err
}

func (h *home) rooms(s core.Session) (out wire.Rooms, err error) {
	err = h.view(func(r core.Reader) error {
		return eachRoom(r, s.User, func(id core.RoomID, _ uint64) error {
			w, err := describe(r, id)
			w.Joined = true
			out.Rooms = append(out.Rooms, w)
			return err
		})
	})
	return out, err
}

// send answers POST /v1/rooms/{room}/messages.
func (h *home) send(room core.RoomID, in wire.Send, s core.Session) (out wire.Sent, err error) {
	if h.does(Losing) {
		out = h.pretend(room, in)
	} else {
		out, err = h.take(room, in, s)
	}
	if err == nil {
		h.w.acknowledge(h, room, s.User, in, out)
	}
	return out, err
}

func (h *home) take(room core.RoomID, in wire.Send, s core.Session) (out wire.Sent, err error) {
	var ins []core.Input
	for _, m := range in.Messages {
		id := sha256.Sum256([]byte(string(s.Device) + "\x00" + string(room) + "\x00" + m.ID))
		ins = append(ins, core.Envelope{Room: room, Sender: s.User, Origin: core.Origin{Network: core.NetworkNative, ID: core.Base32.EncodeToString(id[:20])},
			Sent: time.UnixMilli(m.Sent), Body: core.Sealed{Message: m.Sealed}})
	}
	if len(ins) == 0 {
		return out, core.Errorf(core.Invalid, "no message")
	}
	outs, errs, err := h.commit(ins...)
	if err != nil {
		return out, err
	}
	for i := range outs {
		r := wire.SentResult{Duplicate: outs[i].Duplicate}
		if e := errs[i]; e != nil {
			if len(ins) == 1 {
				return out, e
			}
			r.Error = &wire.Error{Code: core.CodeOf(e).String(), Reason: string(core.ReasonOf(e)), Text: core.TextOf(e)}
		} else if ev := outs[i].Event; ev != nil {
			r.Seq, r.Event, r.Accepted = ev.Seq, ev.ID.String(), ev.Accepted.UnixMilli()
		}
		out.Results = append(out.Results, r)
	}
	return out, nil
}

// here reports whether a room's log is kept here.
func (h *home) here(room core.RoomID) (bool, error) {
	err := h.view(func(r core.Reader) error { _, err := core.GroupOf(r, room); return err })
	if err == nil || core.CodeOf(err) != core.NotFound {
		return err == nil, err
	}
	if room.Domain() == h.domain {
		return false, errNoRoom
	}
	return false, nil
}

func (h *home) handshakeOf(room core.RoomID, by core.DeviceURI, in *wire.Handshake) *core.Handshake {
	return &core.Handshake{Room: room, By: by, Home: h.domain, Message: in.Message, More: in.More, Welcome: in.Welcome, Info: in.Info, Records: in.Records}
}

func answer(reply func(wire.Decided, error)) func(core.Decision, error) {
	return func(d core.Decision, err error) {
		if err != nil && core.CodeOf(err) == core.StaleEpoch {
			err = &client.Stale{Epoch: d.Epoch, Winner: d.Winner}
		}
		reply(wire.Decided{Epoch: d.Epoch, Seq: d.Seq}, err)
	}
}

// handshake answers POST /v1/rooms/{room}/handshakes.
func (h *home) handshake(room core.RoomID, in wire.Handshake, s core.Session, reply func(wire.Decided, error)) {
	here, err := h.here(room)
	switch {
	case err != nil:
		reply(wire.Decided{}, err)
	case here:
		h.propose(h.handshakeOf(room, s.Device, &in), answer(reply))
	default:
		q := wire.PeerHandshake{Room: room, By: s.Device, Handshake: in}
		ask(h, room.Domain(), "handshakes", q, func(to *home, from string, q wire.PeerHandshake, reply func(wire.Decided, error)) {
			to.acquaint(from)
			to.propose(to.handshakeOf(q.Room, q.By, &q.Handshake), answer(reply))
		}, func(d wire.Decided, err error) {
			d.Seq = 0 // a place in another log
			reply(d, err)
		})
	}
}

// groupInfo answers POST /v1/rooms/{room}/group-info.
func (h *home) groupInfo(room core.RoomID, in wire.GetGroupInfo, s core.Session, reply func(wire.GroupInfo, error)) {
	here, err := h.here(room)
	switch {
	case err != nil:
		reply(wire.GroupInfo{}, err)
	case here:
		reply(h.lease(room, s.User, s.Device, in.Code, in.Key))
	default:
		me, err := h.device(s.Device)
		if err != nil {
			reply(wire.GroupInfo{}, err)
			return
		}
		q := wire.PeerGroupInfo{Room: room, User: s.User, By: s.Device, Key: in.Key, Code: in.Code, Proof: me.Proof}
		ask(h, room.Domain(), "group-info", q, func(to *home, from string, q wire.PeerGroupInfo, reply func(wire.GroupInfo, error)) {
			to.acquaint(from)
			if _, _, err := to.commit(core.PutDevice{Proof: q.Proof}); err != nil {
				reply(wire.GroupInfo{}, err)
				return
			}
			reply(to.lease(q.Room, q.User, q.By, q.Code, q.Key))
		}, reply)
	}
}

// lease seals what an external commit needs to the key of who asks.
func (h *home) lease(room core.RoomID, user core.UserURI, by core.DeviceURI, code string, key []byte) (out wire.GroupInfo, err error) {
	q := core.LeaseGroupInfo{Room: room, User: user, By: by}
	if code != "" {
		q.Code = codeHash(room, code)
	}
	o, err := h.do(q)
	if err != nil {
		return out, err
	}
	plain, err := encoding.Marshal(wire.GroupState{Epoch: o.Lease.Epoch, Info: o.Lease.Info, Tree: o.Lease.Tree, Pending: o.Lease.Pending,
		Certificates: o.Lease.Certificates})
	if err != nil {
		return out, core.Errorf(core.Internal, "lease: %w", err)
	}
	pub, err := hpke.DHKEM(ecdhX25519).NewPublicKey(key)
	if err != nil {
		return out, core.Errorf(core.Invalid, "key: %w", err)
	}
	kem, sender, err := hpke.NewSender(pub, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte("isthmus group info\x00"+string(room)))
	if err != nil {
		return out, core.Errorf(core.Invalid, "key: %w", err)
	}
	out.KEM, out.Until = kem, o.Lease.Until.UnixMilli()
	out.Ciphertext, err = sender.Seal(nil, plain)
	return out, err
}

// tree answers GET /v1/rooms/{room}/tree?epoch=.
func (h *home) tree(room core.RoomID, number uint64, s core.Session) (out wire.Tree, err error) {
	out.Epoch = number
	err = h.view(func(r core.Reader) error {
		if _, in, err := presence(r, room, s.User); err != nil || !in {
			return errNoRoom
		}
		out.Tree, err = core.GroupTree(r, room, number)
		return err
	})
	return out, err
}

// certificates answers GET /v1/rooms/{room}/certificates?epoch=.
func (h *home) certificates(room core.RoomID, number uint64, s core.Session) (out wire.Certificates, err error) {
	out.Epoch = number
	err = h.view(func(r core.Reader) error {
		if _, in, err := presence(r, room, s.User); err != nil || !in {
			return errNoRoom
		}
		if out.Certificates, err = epoch.Chain(r, room, number); core.CodeOf(err) == core.NotFound {
			err = core.Errorf(core.Unavailable, "that epoch is not certified yet")
		}
		return err
	})
	return out, err
}

// presence says since when somebody is in a room, and whether they are.
func presence(r core.Reader, room core.RoomID, u core.UserURI) (since uint64, in bool, err error) {
	members, err := r.Members(room)
	i := slices.IndexFunc(members, func(m core.Member) bool { return m.User == u })
	if i < 0 {
		return 0, false, err
	}
	return members[i].Since, members[i].Joined, err
}

func eachRoom(r core.Reader, u core.UserURI, f func(core.RoomID, uint64) error) error {
	ids, err := r.RoomsOf(u, "", 1000)
	for _, id := range ids {
		since, in, perr := presence(r, id, u)
		if err == nil {
			err = perr
		}
		if err == nil && in {
			err = f(id, since)
		}
	}
	return err
}

func describe(r core.Reader, id core.RoomID) (wire.Room, error) {
	room, err := r.Room(id)
	if err != nil {
		return wire.Room{}, err
	}
	head, err := core.GroupOf(r, id)
	if err != nil {
		return wire.Room{}, err
	}
	w := wire.Room{Room: id, Kind: room.Kind.String(), Name: room.Name, Direct: room.Direct, ContentType: room.ContentType, Encrypted: true,
		Domain: core.GroupID(id), Epoch: head.Authority.Epoch, Authority: head.Authority.Voters}
	w.Head, _, err = r.Head(id)
	return w, err
}
