package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/cloudflare/circl/hpke"
	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
)

// A world is the homeservers of some domains, as one: they agree at once, and hold
// what devices send to what the room's rules are.
type world struct {
	testing.TB
	mu      sync.Mutex
	rand    *rand.ChaCha8
	clock   time.Time
	keys    map[string]ed25519.PrivateKey
	devices map[core.DeviceURI]*fakeDevice
	users   map[core.UserURI][]core.DeviceURI
	rooms   map[core.RoomID]*fakeRoom
	log     []*fakeEvent // of all rooms

	fault           func() (before, after bool) // of a request
	forge           func(ev *wire.Event)        // changes what devices are shown
	lend            func(s *wire.GroupState)    // and what they enter by
	signs           func(of []string) []string  // who signs a commit of those who decide
	most, mostBytes int                         // messages of one request, and their octets
	lacks           uint64                      // certificates up to that epoch cannot be had
	hide            core.RoomID                 // who syncs is told not to be in it
	perSync         int
}

type fakeDevice struct {
	user     core.UserURI
	proof    core.Identity
	packages [][]byte
	last     []byte
	letters  []wire.Letter
	lastID   uint64
}

type fakeRoom struct {
	public *mls.PublicGroup
	policy *policy.State
	info   []byte // GroupInfo, MLSMessage
	log    []*fakeEvent
	sent   map[string]*wire.SentResult
	trees  map[uint64][]byte
	winner map[uint64][]byte
	certs  [][]byte // of the epochs from 1 on
	codes  map[string]bool
	done   map[core.HandshakeID]wire.Decided
}

type fakeEvent struct {
	wire.Event
	for_ map[core.UserURI]bool
}

func newWorld(t testing.TB, seed uint64) *world {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	return &world{TB: t, rand: rand.NewChaCha8(key), clock: time.Unix(1_800_000_000, 0), keys: map[string]ed25519.PrivateKey{},
		devices: map[core.DeviceURI]*fakeDevice{}, users: map[core.UserURI][]core.DeviceURI{}, rooms: map[core.RoomID]*fakeRoom{}, perSync: 1000}
}

func (w *world) key(domain string) ed25519.PrivateKey {
	if w.keys[domain] == nil {
		seed := sha256.Sum256([]byte(domain))
		w.keys[domain] = ed25519.NewKeyFromSeed(seed[:])
	}
	return w.keys[domain]
}

func (w *world) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.clock
}

func (w *world) sleep(ctx context.Context, d time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.clock = w.clock.Add(d)
	return ctx.Err()
}

// A link is one device's Home.
type link struct {
	w     *world
	token string
}

func (l *link) Authorize(token string) { l.token = token }

// request runs one request, which may fail before or after it took effect.
func request[A any](l *link, f func(d *fakeDevice, me core.DeviceURI) (A, error)) (a A, err error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	before, after := false, false
	if l.w.fault != nil {
		before, after = l.w.fault()
	}
	if before {
		return a, core.Errorf(core.Unavailable, "the request is lost")
	}
	d := l.w.devices[core.DeviceURI(l.token)]
	if d == nil {
		return a, core.Errorf(core.Unauthenticated, "no session")
	}
	if a, err = f(d, core.DeviceURI(l.token)); after {
		var none A
		return none, core.Errorf(core.Unavailable, "the answer is lost")
	}
	return a, err
}

func (l *link) OpenSession(_ context.Context, r wire.OpenSession) (wire.Session, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	d := l.w.devices[r.Device]
	if d == nil {
		return wire.Session{}, core.Errorf(core.NotFound, "no such device")
	}
	record, _ := identity.ParseRecord(d.proof.Record)
	if r.Challenge == nil {
		return wire.Session{Challenge: []byte("challenge " + r.Device)}, nil
	}
	if !identity.Verify(record.Key, labelSession, r.Signature, []byte("challenge "+r.Device)) {
		return wire.Session{}, core.Errorf(core.Unauthenticated, "not the device")
	}
	return wire.Session{Token: string(r.Device), User: d.user}, nil
}

func (l *link) Register(_ context.Context, r wire.RegisterDevice) (wire.Device, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	record, err := identity.ParseRecord(r.Record)
	if err != nil {
		return wire.Device{}, core.Errorf(core.Invalid, "record: %w", err)
	}
	user, uri := core.UserURI(record.User), core.DeviceURI(record.URI())
	if len(l.w.users[user]) > 0 && l.w.devices[uri] == nil {
		sponsor := l.w.devices[r.Sponsor]
		if sponsor == nil {
			return wire.Device{}, core.Errorf(core.Denied, "the user has devices: one of them approves")
		}
		by, _ := identity.ParseRecord(sponsor.proof.Record)
		if by.User != record.User || !identity.Verify(by.Key, labelApproval, r.Approval, r.Record) {
			return wire.Device{}, core.Errorf(core.Denied, "not approved")
		}
	}
	a, err := identity.SignAttestation(l.w.key(user.Domain()), identity.Attestation{Device: record.Key, User: record.User, Sponsor: user.Domain(),
		NotBefore: l.w.clock.Unix() - 60, NotAfter: l.w.clock.Unix() + 90*24*3600})
	if err != nil {
		return wire.Device{}, core.Errorf(core.Internal, "attestation: %w", err)
	}
	if l.w.devices[uri] == nil {
		l.w.devices[uri] = &fakeDevice{user: user, proof: core.Identity{Record: r.Record, Attestation: a.Encode()}}
		l.w.users[user] = append(l.w.users[user], uri)
	}
	return wire.Device{Device: uri, User: user, Proof: l.w.devices[uri].proof}, nil
}

func (l *link) PutRecord(_ context.Context, r wire.PutRecord) (wire.Device, error) {
	return request(l, func(d *fakeDevice, me core.DeviceURI) (wire.Device, error) {
		d.proof.Record = r.Record
		return wire.Device{Device: me, User: d.user, Proof: d.proof}, nil
	})
}

func (l *link) User(_ context.Context, user core.UserURI) (wire.User, error) {
	return request(l, func(*fakeDevice, core.DeviceURI) (wire.User, error) {
		out := wire.User{User: user}
		for _, uri := range l.w.users[user] {
			out.Devices = append(out.Devices, wire.Device{Device: uri, User: user, Proof: l.w.devices[uri].proof})
		}
		if len(out.Devices) == 0 {
			return out, core.Errorf(core.NotFound, "no such user")
		}
		return out, nil
	})
}

func (l *link) Homeserver(_ context.Context, domain string) (wire.Homeserver, error) {
	return request(l, func(*fakeDevice, core.DeviceURI) (wire.Homeserver, error) {
		key := l.w.key(domain)
		r, err := identity.SignHomeserver(key, identity.HomeserverRecord{Version: 1, Domain: domain,
			Keys: []identity.HomeserverKey{{Key: key.Public().(ed25519.PublicKey), NotAfter: 1 << 40}}})
		if err != nil {
			return wire.Homeserver{}, err
		}
		return wire.Homeserver{Domain: domain, Records: [][]byte{r.Encode()}}, nil
	})
}

func (l *link) PutKeyPackages(_ context.Context, r wire.PutKeyPackages) (wire.KeyPackages, error) {
	return request(l, func(d *fakeDevice, me core.DeviceURI) (wire.KeyPackages, error) {
		for _, b := range r.Packages {
			m, err := mls.Parse(b)
			if err != nil || m.KeyPackage == nil {
				return wire.KeyPackages{}, core.Errorf(core.Invalid, "not a key package")
			}
			switch {
			case m.KeyPackage.LastResort():
				d.last = b
			case !slices.ContainsFunc(d.packages, func(o []byte) bool { return bytes.Equal(o, b) }):
				d.packages = append(d.packages, b)
			}
		}
		return wire.KeyPackages{Left: len(d.packages)}, nil
	})
}

func (l *link) KeyPackages(context.Context) (wire.KeyPackages, error) {
	return request(l, func(d *fakeDevice, _ core.DeviceURI) (wire.KeyPackages, error) {
		return wire.KeyPackages{Left: len(d.packages)}, nil
	})
}

func (l *link) Claim(_ context.Context, r wire.Claim) (wire.Claims, error) {
	return request(l, func(_ *fakeDevice, me core.DeviceURI) (wire.Claims, error) {
		var out wire.Claims
		for _, u := range r.Users {
			if len(l.w.users[u]) == 0 {
				out.Claims = append(out.Claims, core.Claim{User: u, Status: core.UserUnknown})
			}
			for _, uri := range l.w.users[u] {
				d := l.w.devices[uri]
				c := core.Claim{User: u, Device: uri, Status: core.Claimed, Package: d.last, Proof: &d.proof}
				if len(d.packages) > 0 {
					c.Package, d.packages = d.packages[0], d.packages[1:]
				}
				if c.Package == nil {
					c.Status = core.Exhausted
				}
				if uri != me {
					out.Claims = append(out.Claims, c)
				}
			}
		}
		return out, nil
	})
}

func (l *link) CreateRoom(_ context.Context, r wire.CreateRoom) (wire.Room, error) {
	return request(l, func(d *fakeDevice, _ core.DeviceURI) (wire.Room, error) {
		if l.w.rooms[r.Room] != nil {
			return wire.Room{}, core.Errorf(core.Conflict, "the room exists")
		}
		m, err := mls.Parse(r.Info)
		if err != nil {
			return wire.Room{}, core.Errorf(core.Invalid, "info: %w", err)
		}
		g, err := mls.NewPublicGroup(m.GroupInfo, nil, &mls.Policy{Components: policy.Component, Client: func(l *mls.LeafNode) string { return string(l.Credential.Data) }})
		if err != nil {
			return wire.Room{}, core.Errorf(core.Invalid, "group: %w", err)
		}
		p, err := stateOf(g.Context().Extensions)
		if err != nil {
			return wire.Room{}, err
		}
		info := m.GroupInfo
		info.Extensions = info.Extensions.Without(mls.ExtRatchetTree)
		l.w.rooms[r.Room] = &fakeRoom{public: g, policy: p, info: info.AppendTo(mls.AppendHeader(nil, mls.WireGroupInfo)), sent: map[string]*wire.SentResult{},
			trees: map[uint64][]byte{}, winner: map[uint64][]byte{}, codes: map[string]bool{}, done: map[core.HandshakeID]wire.Decided{}}
		return l.w.show(r.Room, d.user), nil
	})
}

func (w *world) show(id core.RoomID, user core.UserURI) wire.Room {
	r, head := w.rooms[id], uint64(0)
	for _, e := range r.log {
		if e.for_[user] {
			head = e.Seq
		}
	}
	return wire.Room{Room: id, Kind: "group", Name: r.policy.Metadata().Name, Encrypted: true, Epoch: r.public.Epoch(), Head: head, Joined: r.policy.Member(string(user))}
}

func (l *link) Rooms(context.Context) (wire.Rooms, error) {
	return request(l, func(d *fakeDevice, _ core.DeviceURI) (out wire.Rooms, err error) {
		for id, r := range l.w.rooms {
			if r.policy.Member(string(d.user)) {
				out.Rooms = append(out.Rooms, l.w.show(id, d.user))
			}
		}
		slices.SortFunc(out.Rooms, func(a, b wire.Room) int { return cmp.Compare(a.Room, b.Room) })
		return out, nil
	})
}

func (l *link) Room(_ context.Context, id core.RoomID) (wire.Room, error) {
	return request(l, func(d *fakeDevice, _ core.DeviceURI) (wire.Room, error) {
		if l.w.rooms[id] == nil {
			return wire.Room{}, core.Errorf(core.NotFound, "no such room")
		}
		return l.w.show(id, d.user), nil
	})
}

// append gives an event its place, for those who take part.
func (w *world) append(id core.RoomID, ev wire.Event, users ...[]policy.Participant) *fakeEvent {
	r := w.rooms[id]
	e := &fakeEvent{Event: ev, for_: map[core.UserURI]bool{}}
	e.Room, e.Seq, e.Accepted = id, uint64(len(r.log)+1), w.clock.UnixMilli()
	e.Event.Event = core.NewEventID(id, "home", e.Seq).String()
	for _, list := range users {
		for _, p := range list {
			e.for_[core.UserURI(p.User)] = true
		}
	}
	r.log, w.log = append(r.log, e), append(w.log, e)
	return e
}

func (l *link) Send(_ context.Context, id core.RoomID, r wire.Send) (wire.Sent, error) {
	return request(l, func(d *fakeDevice, _ core.DeviceURI) (out wire.Sent, err error) {
		room := l.w.rooms[id]
		if room == nil || !room.policy.Member(string(d.user)) {
			return out, core.Refuse(core.Denied, core.NotJoined, "not in the room")
		}
		octets := 0
		for _, m := range r.Messages {
			octets += len(m.Sealed)
		}
		l.w.most, l.w.mostBytes = max(l.w.most, len(r.Messages)), max(l.w.mostBytes, octets)
		for _, m := range r.Messages {
			if res := room.sent[m.ID]; res != nil {
				again := *res
				again.Duplicate = true
				out.Results = append(out.Results, again)
				continue
			}
			p, err := mls.Parse(m.Sealed)
			if err != nil || p.Private == nil {
				return out, core.Errorf(core.Invalid, "not sealed")
			}
			if p.Private.Epoch > room.public.Epoch() || p.Private.Epoch+uint64(room.policy.EpochTolerance()) < room.public.Epoch() {
				out.Results = append(out.Results, wire.SentResult{Error: &wire.Error{Code: core.StaleEpoch.String(), Text: "stale"}})
				continue
			}
			e := l.w.append(id, wire.Event{Sender: d.user, Sent: m.Sent, Sealed: m.Sealed}, room.policy.Participants())
			res := wire.SentResult{Seq: e.Seq, Event: e.Event.Event, Accepted: e.Accepted}
			room.sent[m.ID] = &res
			out.Results = append(out.Results, res)
		}
		return out, nil
	})
}

func (l *link) Handshake(_ context.Context, id core.RoomID, h wire.Handshake) (wire.Decided, error) {
	return request(l, func(d *fakeDevice, me core.DeviceURI) (wire.Decided, error) { return l.w.decide(id, d, h) })
}

// decide is the agreement.
func (w *world) decide(id core.RoomID, d *fakeDevice, h wire.Handshake) (wire.Decided, error) {
	r := w.rooms[id]
	if r == nil {
		return wire.Decided{}, core.Errorf(core.NotFound, "no such room")
	}
	hid := (&core.Handshake{Message: h.Message, More: h.More}).ID()
	if done, ok := r.done[hid]; ok {
		return done, nil
	}
	var parsed []*mls.Message
	for _, b := range append([][]byte{h.Message}, h.More...) {
		m, err := mls.Parse(bytes.Clone(b))
		if err != nil || m.Public == nil {
			return wire.Decided{}, core.Errorf(core.Invalid, "handshake")
		}
		if e := m.Public.Content.Epoch; e != r.public.Epoch() {
			return wire.Decided{}, &Stale{Epoch: r.public.Epoch(), Winner: r.winner[e]}
		}
		parsed = append(parsed, m)
	}
	m := parsed[0]
	if m.Public.Content.ContentType == mls.ContentProposal {
		for _, m := range parsed {
			if _, err := r.public.Propose(&m.Public.AuthenticatedContent); err != nil {
				return wire.Decided{}, core.Errorf(core.Invalid, "proposal: %w", err)
			}
			w.append(id, wire.Event{Sender: d.user, Sealed: m.Raw()}, r.policy.Participants())
		}
		r.done[hid] = wire.Decided{Epoch: r.public.Epoch(), Seq: uint64(len(r.log))}
		return r.done[hid], nil
	}
	st, err := r.public.Stage(&m.Public.AuthenticatedContent)
	if err != nil {
		return wire.Decided{}, core.Errorf(core.Invalid, "commit: %w", err)
	}
	for _, p := range r.public.Pending() {
		if p.Proposal.Type == mls.ProposalSelfRemove && !slices.Contains(st.Removed, p.Sender.Index) {
			return wire.Decided{}, core.Errorf(core.Conflict, "somebody's leaving waits")
		}
	}
	after, err := judge(r.public, r.policy, st)
	if err != nil {
		return wire.Decided{}, core.Errorf(core.Denied, "policy: %w", err)
	}
	if n := len(st.Added); st.Sender.Type != mls.SenderNewMemberCommit && len(h.Records) != n || n > 0 != (len(h.Welcome) > 0) {
		return wire.Decided{}, core.Errorf(core.Invalid, "%d devices come in with %d records", n, len(h.Records))
	}
	return w.open(id, d, h, m, st, after, hid)
}

// open begins the epoch.
func (w *world) open(id core.RoomID, d *fakeDevice, h wire.Handshake, m *mls.Message, st *mls.Staged, after *policy.State, hid core.HandshakeID) (wire.Decided, error) {
	r := w.rooms[id]
	next := st.Next(m.Public.ConfirmationTag)
	partial, err := mls.ParsePartialGroupInfo(h.Info[1:])
	if err != nil || h.Info[0] != infoPartial {
		return wire.Decided{}, core.Errorf(core.Invalid, "group info: %w", err)
	}
	info, err := next.RestoreGroupInfo(partial, false)
	if err != nil {
		return wire.Decided{}, core.Errorf(core.Invalid, "group info: %w", err)
	}
	by := r.policy.Authority().Domains
	if w.signs != nil {
		by = w.signs(by)
	}
	cert := w.certify(by, epoch.Approval{Room: id, Epoch: next.Epoch(), Commit: hid[:],
		Transcript: next.Context().ConfirmedTranscriptHash, Tree: next.Context().TreeHash, Voters: after.Authority().Domains, Rule: uint8(after.Authority().Rule)})
	e := w.append(id, wire.Event{Sender: d.user, Sealed: m.Raw(), Certificate: cert}, r.policy.Participants(), after.Participants())
	r.winner[r.public.Epoch()], r.certs = m.Raw(), append(r.certs, cert)
	r.public, r.policy, r.info = next, after, info.AppendTo(mls.AppendHeader(nil, mls.WireGroupInfo))
	r.trees[next.Epoch()] = next.Tree().AppendTo(nil)
	if len(h.Welcome) > 0 {
		welcome, err := mls.Parse(h.Welcome)
		if err != nil {
			return wire.Decided{}, core.Errorf(core.Invalid, "welcome: %w", err)
		}
		for i, k := range st.AddedPackages {
			ref, _ := k.Ref()
			to, _ := leafOwner(st.Tree.Leaf(st.Added[i]))
			w.letter(to, wire.Letter{Kind: "welcome", Room: id, Epoch: next.Epoch(), Body: welcome.Welcome.For(ref).AppendTo(mls.AppendHeader(nil, mls.WireWelcome))})
		}
	}
	r.done[hid] = wire.Decided{Epoch: next.Epoch(), Seq: e.Seq}
	return r.done[hid], nil
}

func (w *world) certify(domains []string, a epoch.Approval) []byte {
	type signed struct {
		_         struct{} `cbor:",toarray"`
		Bytes     []byte
		Signature []byte
	}
	var list []signed
	for _, d := range domains {
		a.Domain = d
		b := encode(&a)
		list = append(list, signed{Bytes: b, Signature: identity.Sign(w.key(d), epoch.ApprovalLabel, b)})
	}
	return encode(list)
}

func (w *world) letter(to core.DeviceURI, l wire.Letter) {
	d := w.devices[to]
	d.lastID++
	l.ID, l.At = d.lastID, w.clock.UnixMilli()
	d.letters = append(d.letters, l)
}

func (l *link) GroupInfo(_ context.Context, id core.RoomID, q wire.GetGroupInfo) (wire.GroupInfo, error) {
	return request(l, func(d *fakeDevice, _ core.DeviceURI) (out wire.GroupInfo, err error) {
		r := l.w.rooms[id]
		if r == nil || !r.policy.Member(string(d.user)) && !r.codes[q.Code] && !r.policy.Can(string(d.user), policy.CanOpenJoin) {
			return out, core.Errorf(core.Denied, "not a room for you")
		}
		s := wire.GroupState{Epoch: r.public.Epoch(), Info: r.info, Tree: r.public.Tree().AppendTo(nil), Certificates: r.certs[:r.public.Epoch()]}
		if l.w.lend != nil {
			l.w.lend(&s)
		}
		for _, p := range r.public.Pending() {
			s.Pending = append(s.Pending, p.Content.Raw())
		}
		key, err := inboxKEM.Scheme().UnmarshalBinaryPublicKey(q.Key)
		if err != nil {
			return out, core.Errorf(core.Invalid, "key: %w", err)
		}
		suite := hpke.NewSuite(hpke.KEM_X25519_HKDF_SHA256, hpke.KDF_HKDF_SHA256, hpke.AEAD_AES128GCM)
		sender, err := suite.NewSender(key, []byte("isthmus group info\x00"+string(id)))
		if err != nil {
			return out, err
		}
		kem, sealer, err := sender.Setup(l.w.rand)
		if err != nil {
			return out, err
		}
		plain, err := cbor.Marshal(s)
		if err != nil {
			return out, err
		}
		ciphertext, err := sealer.Seal(plain, nil)
		return wire.GroupInfo{KEM: kem, Ciphertext: ciphertext}, err
	})
}

func (l *link) Tree(_ context.Context, id core.RoomID, epoch uint64) (wire.Tree, error) {
	return request(l, func(*fakeDevice, core.DeviceURI) (wire.Tree, error) {
		if r := l.w.rooms[id]; r != nil && r.trees[epoch] != nil {
			return wire.Tree{Epoch: epoch, Tree: r.trees[epoch]}, nil
		}
		return wire.Tree{}, core.Errorf(core.NotFound, "no such tree")
	})
}

func (l *link) Certificates(_ context.Context, id core.RoomID, epoch uint64) (wire.Certificates, error) {
	return request(l, func(*fakeDevice, core.DeviceURI) (wire.Certificates, error) {
		if r := l.w.rooms[id]; r != nil && epoch <= uint64(len(r.certs)) && epoch > l.w.lacks {
			return wire.Certificates{Epoch: epoch, Certificates: r.certs[:epoch]}, nil
		}
		return wire.Certificates{}, core.Errorf(core.Unavailable, "not certified yet")
	})
}

func (l *link) PutJoinCode(_ context.Context, id core.RoomID, q wire.JoinCode) (wire.JoinCode, error) {
	return request(l, func(*fakeDevice, core.DeviceURI) (wire.JoinCode, error) {
		q.Code = cmp.Or(q.Code, "a code")
		l.w.rooms[id].codes[q.Code] = true
		return q, nil
	})
}

func (l *link) DropJoinCode(_ context.Context, id core.RoomID, q wire.JoinCode) error {
	_, err := request(l, func(*fakeDevice, core.DeviceURI) (int, error) { delete(l.w.rooms[id].codes, q.Code); return 0, nil })
	return err
}

func (l *link) Sync(_ context.Context, q wire.GetSync) (wire.Sync, error) {
	return request(l, func(d *fakeDevice, _ core.DeviceURI) (out wire.Sync, err error) {
		var at, letter, rooms int
		if q.Since != "" {
			if _, err := fmt.Sscanf(q.Since, "%d %d %d", &at, &letter, &rooms); err != nil {
				return out, core.Errorf(core.Invalid, "since")
			}
		}
		d.letters = slices.DeleteFunc(d.letters, func(l wire.Letter) bool { return l.ID <= uint64(letter) })
		for _, l := range d.letters {
			out.Letters = append(out.Letters, l)
			letter = int(l.ID)
		}
		give := func(e *fakeEvent) {
			ev := e.Event
			if l.w.forge != nil {
				l.w.forge(&ev)
			}
			out.Events = append(out.Events, ev)
		}
		for id, seq := range q.Rooms {
			for _, e := range l.w.rooms[id].log {
				if e.Seq > seq && e.for_[d.user] && slices.Index(l.w.log, e) < at {
					give(e)
				}
			}
		}
		for ; at < len(l.w.log); at++ {
			if len(out.Events) >= l.w.perSync {
				out.More = true
				break
			}
			if e := l.w.log[at]; e.for_[d.user] && e.Room != l.w.hide && l.w.rooms[e.Room].policy.Member(string(d.user)) {
				give(e)
			}
		}
		for id, r := range l.w.rooms {
			if r.policy.Member(string(d.user)) && id != l.w.hide {
				out.Joined = append(out.Joined, l.w.show(id, d.user))
			} else {
				out.Left = append(out.Left, id)
			}
		}
		slices.Sort(out.Left)
		slices.SortFunc(out.Joined, func(a, b wire.Room) int { return cmp.Compare(a.Room, b.Room) })
		out.Next = fmt.Sprintf("%d %d %d", at, letter, rooms)
		return out, nil
	})
}

func (l *link) History(_ context.Context, id core.RoomID, before uint64, limit int) (wire.History, error) {
	return request(l, func(d *fakeDevice, _ core.DeviceURI) (out wire.History, err error) {
		r := l.w.rooms[id]
		if r == nil {
			return out, core.Errorf(core.NotFound, "no such room")
		}
		for _, e := range r.log {
			if (before == 0 || e.Seq < before) && e.for_[d.user] {
				out.Events = append(out.Events, e.Event)
			}
		}
		if n := len(out.Events); n > limit {
			out.Events, out.More = out.Events[n-limit:], true
		}
		return out, nil
	})
}

func (l *link) PutInbox(_ context.Context, user core.UserURI, q wire.PutInbox) error {
	_, err := request(l, func(*fakeDevice, core.DeviceURI) (int, error) {
		for _, s := range q.Letters {
			l.w.letter(s.Device, wire.Letter{Kind: "sealed", Body: encode(s)})
		}
		return 0, nil
	})
	return err
}

func (l *link) Typing(context.Context, wire.Typing) error { return nil }

// memory is a KV whose writes fail when asked to, before or after they took effect.
type memory struct {
	mu     sync.Mutex
	tables map[string]map[uint64][]byte
	writes int
	fail   func(write int) (before, after bool)
}

var errDisk = errors.New("the disk is gone")

func newMemory() *memory { return &memory{tables: map[string]map[uint64][]byte{}} }

func (m *memory) Get(_ context.Context, table string, n uint64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tables[table][n], nil
}

func (m *memory) Rows(_ context.Context, table string, from uint64, limit int) (out []Row, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for n, data := range m.tables[table] {
		if n >= from {
			out = append(out, Row{table, n, data})
		}
	}
	slices.SortFunc(out, func(a, b Row) int { return cmp.Compare(a.N, b.N) })
	return out[:min(len(out), limit)], nil
}

func (m *memory) Write(_ context.Context, rows []Row) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.writes++
	before, after := false, false
	if m.fail != nil {
		before, after = m.fail(m.writes)
	}
	if before {
		return errDisk
	}
	for _, r := range rows {
		if m.tables[r.Table] == nil {
			m.tables[r.Table] = map[uint64][]byte{}
		}
		if r.Data == nil {
			delete(m.tables[r.Table], r.N)
		} else {
			m.tables[r.Table][r.N] = bytes.Clone(r.Data)
		}
	}
	if after {
		return errDisk
	}
	return nil
}
