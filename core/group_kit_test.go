package core_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

const groupSuite = mls.X25519AES128SHA256Ed25519

// A device is a client with a record, and its half of one group.
type device struct {
	t     testing.TB
	uri   core.DeviceURI
	user  core.UserURI
	id    group.Identity
	cfg   *group.Config
	proof core.Identity
	g     *group.Group
	kp    *group.KeyPackage
}

// homeKey is the key of a homeserver in these tests.
func homeKey(domain string) ed25519.PrivateKey {
	if domain == home {
		return key
	}
	seed := sha256.Sum256([]byte("homeserver " + domain))
	return ed25519.NewKeyFromSeed(seed[:])
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// homeRecord is the first record of a homeserver.
func homeRecord(t testing.TB, domain string) []byte {
	k := homeKey(domain)
	r := identity.HomeserverRecord{Version: 1, Domain: domain, Keys: []identity.HomeserverKey{
		{Key: k.Public().(ed25519.PublicKey), NotBefore: 0, NotAfter: 1 << 40}}}
	return must(identity.SignHomeserver(k, r))(t).Encode()
}

// newDevice makes a device called name of user, attested by its homeserver.
func newDevice(t testing.TB, user core.UserURI, name string) *device {
	seed := sha256.Sum256([]byte(string(user) + "/" + name))
	key := ed25519.NewKeyFromSeed(seed[:])
	pub := key.Public().(ed25519.PublicKey)
	rec := must(identity.SignRecord(key, identity.Record{Version: 1, Key: pub, User: string(user), Name: name,
		Inbox: identity.InboxKey{KEM: identity.KEMX25519, Public: bytes.Repeat([]byte{9}, 32)}, NotBefore: 0, NotAfter: 1 << 40}))(t)
	att := must(identity.SignAttestation(homeKey(user.Domain()), identity.Attestation{Device: pub, User: string(user), Sponsor: user.Domain(), NotAfter: 1 << 40}))(t)
	d := &device{t: t, user: user, uri: core.DeviceURI(identity.DeviceURI(user.Domain(), pub)),
		proof: core.Identity{Record: rec.Encode(), Attestation: att.Encode()},
		cfg:   &group.Config{Rand: rand.Reader, Policy: &mls.Policy{Components: policy.Component}}}
	d.id = group.Identity{Credential: mls.BasicCredential([]byte(d.uri)), Signer: must(group.NewSigner(groupSuite, seed[:]))(t)}
	return d
}

func (d *device) leaf() mls.Extensions {
	return mls.Extensions{}.With(mls.ExtApplicationID, mls.AppendApplicationID(nil, []byte(d.user)))
}

// create makes the room at its homeserver.
func (d *device) create(h *house, room core.RoomID, dict mls.AppData) {
	d.t.Helper()
	d.g = must(group.Create(d.cfg, groupSuite, core.GroupID(room), d.id, mls.Extensions{}.WithAppData(dict), d.leaf()))(d.t)
	info := must(d.g.GroupInfo(true, nil))(d.t)
	h.do(core.CreateGroup{Room: core.Room{ID: room, Name: "g"}, By: d.uri, User: d.user, Info: info, Record: d.proof})
}

// keyPackage makes one for d to be added with.
func (d *device) keyPackage() *mls.KeyPackage {
	d.kp = must(group.NewKeyPackage(d.cfg, groupSuite, d.id, group.KeyPackageOptions{LeafExtensions: d.leaf(), Lifetime: mls.Lifetime{NotBefore: 1_799_000_000, NotAfter: 1_802_000_000}}))(d.t)
	return must(mls.Parse(d.kp.Message()))(d.t).KeyPackage
}

func update(c mls.ComponentID, data []byte) *mls.Proposal {
	return &mls.Proposal{Type: mls.ProposalAppDataUpdate, Component: c, Operation: mls.AppDataSet, Data: data}
}

// commit makes a handshake of proposals; it is pending until merge or discard.
func (d *device) commit(room core.RoomID, records []core.Identity, proposals ...*mls.Proposal) *core.Handshake {
	d.t.Helper()
	t := must(d.g.Commit(group.CommitOptions{Proposals: proposals, SeparateTree: true, Public: true}))(d.t)
	info := must(d.g.PendingInfo(nil))(d.t)
	return &core.Handshake{Room: room, By: d.uri, Home: d.user.Domain(), Message: t.Commit, Welcome: t.Welcome, Info: info.AppendTo([]byte{1}), Records: records}
}

// add makes a commit that brings in devices and their users, as members.
func (d *device) add(room core.RoomID, who ...*device) *core.Handshake {
	d.t.Helper()
	var proposals []*mls.Proposal
	var records []core.Identity
	var users []string
	state := d.state()
	for _, w := range who {
		proposals = append(proposals, group.Add(w.keyPackage()))
		records = append(records, w.proof)
		if _, in := state.Role(string(w.user)); !in && !slices.Contains(users, string(w.user)) {
			users = append(users, string(w.user))
		}
	}
	if len(users) > 0 {
		proposals = append(proposals, update(policy.ComponentParticipants, policy.Invite(state, users, policy.RoleMember)))
	}
	return d.commit(room, records, proposals...)
}

// state is the room policy as d's group has it.
func (d *device) state() *policy.State {
	d.t.Helper()
	dict := must(d.g.Public().Context().Extensions.AppData())(d.t)
	return must(policy.ParseState(dict))(d.t)
}

// merge takes d's own commit, which was accepted.
func (d *device) merge() {
	d.t.Helper()
	if err := d.g.Merge(d.g.Pending()); err != nil {
		d.t.Fatal(err)
	}
}

// follow takes the commit or proposal of somebody else.
func (d *device) follow(message []byte) {
	d.t.Helper()
	e := must(d.g.Process(must(mls.Parse(message))(d.t)))(d.t)
	if e.Transition != nil {
		if err := d.g.Merge(e.Transition); err != nil {
			d.t.Fatal(err)
		}
	}
}

// join enters by a Welcome, with the tree that the homeserver kept.
func (d *device) join(h *house, room core.RoomID, l core.Letter) {
	d.t.Helper()
	var tree []byte
	h.view(func(r core.Reader) { tree = must(core.GroupTree(r, room, l.Epoch))(d.t) })
	w := must(mls.Parse(l.Body))(d.t).Welcome
	d.g = must(group.Join(d.cfg, w, d.kp, group.JoinOptions{RatchetTree: tree}))(d.t)
}

// enrol registers the devices of this homeserver: only those have letters.
func (h *house) enrol(proofs ...core.Identity) {
	h.t.Helper()
	for _, p := range proofs {
		if rec, err := identity.ParseRecord(p.Record); err == nil && rec.Domain() == h.domain {
			h.apply(core.PutDevice{Proof: p, Register: true})
		}
	}
}

// decide has the engine check and apply one handshake.
func (h *house) decide(hs *core.Handshake) (out core.Output, opened *core.Opened, refused error) {
	h.t.Helper()
	h.enrol(hs.Records...)
	err := h.store.Update(context.Background(), func(tx core.Tx) error {
		if refused = h.engine.CheckHandshake(tx, h.now, hs); refused != nil {
			return nil
		}
		if out, opened, refused = h.engine.Decide(tx, h.now, hs); core.Broken(refused) {
			return refused
		}
		return h.engine.Seal(tx)
	})
	if err != nil {
		h.t.Fatalf("transaction: %v", err)
	}
	return out, opened, refused
}

// accept is decide for what must be accepted.
func (h *house) accept(hs *core.Handshake) (core.Output, *core.Opened) {
	h.t.Helper()
	out, opened, err := h.decide(hs)
	if err != nil {
		h.t.Fatal(err)
	}
	return out, opened
}
