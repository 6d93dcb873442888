package epoch

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"path/filepath"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// want fails the test on an error.
func want[T any](t testing.TB) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// A client is a device and its half of a group.
type client struct {
	t     *testing.T
	user  core.UserURI
	uri   core.DeviceURI
	id    group.Identity
	cfg   *group.Config
	proof core.Identity
	g     *group.Group
}

func newClient(t *testing.T, user core.UserURI) *client {
	seed := sha256.Sum256([]byte(user))
	key := ed25519.NewKeyFromSeed(seed[:])
	pub := key.Public().(ed25519.PublicKey)
	rec := want[identity.SignedRecord](t)(identity.SignRecord(key, identity.Record{Version: 1, Key: pub, User: string(user), Name: "phone",
		Inbox: identity.InboxKey{KEM: identity.KEMX25519, Public: seed[:]}, NotAfter: 1 << 40}))
	att := want[identity.SignedAttestation](t)(identity.SignAttestation(homeKey(user.Domain()), identity.Attestation{Device: pub, User: string(user), Sponsor: user.Domain(), NotAfter: 1 << 40}))
	c := &client{t: t, user: user, uri: core.DeviceURI(identity.DeviceURI(user.Domain(), pub)),
		proof: core.Identity{Record: rec.Encode(), Attestation: att.Encode()},
		cfg:   &group.Config{Rand: rand.Reader, Policy: &mls.Policy{Components: policy.Component}}}
	c.id = group.Identity{Credential: mls.BasicCredential([]byte(c.uri)), Signer: want[mls.Signer](t)(group.NewSigner(mls.X25519AES128SHA256Ed25519, seed[:]))}
	return c
}

func (c *client) leaf() mls.Extensions {
	return mls.Extensions{}.With(mls.ExtApplicationID, mls.AppendApplicationID(nil, []byte(c.user)))
}

func (c *client) commit(records []core.Identity, proposals ...*mls.Proposal) *core.Handshake {
	c.t.Helper()
	tr := want[*group.Transition](c.t)(c.g.Commit(group.CommitOptions{Proposals: proposals, SeparateTree: true, Public: true}))
	info := want[*mls.GroupInfo](c.t)(c.g.PendingInfo(nil))
	return &core.Handshake{Room: testRoom, By: c.uri, Home: c.user.Domain(), Message: tr.Commit, Welcome: tr.Welcome, Info: info.AppendTo([]byte{1}), Records: records}
}

func (c *client) merge() {
	c.t.Helper()
	if err := c.g.Merge(c.g.Pending()); err != nil {
		c.t.Fatal(err)
	}
}

func setComponent(id mls.ComponentID, data []byte) *mls.Proposal {
	return &mls.Proposal{Type: mls.ProposalAppDataUpdate, Component: id, Operation: mls.AppDataSet, Data: data}
}

// With the engine and real groups: a room of one homeserver gets a second one, and
// from then on both agree on every commit and certify it.
func TestWithEngine(t *testing.T) {
	nodes := map[string]*realNode{}
	for _, d := range three[:2] {
		n := &realNode{t: t, domain: d, path: filepath.Join(t.TempDir(), d)}
		n.rooms = func() Rooms { return core.NewEngine(core.Config{Homeserver: d, Key: homeKey(d)}) }
		n.open()
		t.Cleanup(func() { n.db.Close() })
		nodes[d] = n
		for _, o := range three[:2] {
			k := homeKey(o)
			n.do(core.PutHomeserver{Record: want[identity.SignedHomeserver](t)(identity.SignHomeserver(k, identity.HomeserverRecord{Version: 1, Domain: o,
				Keys: []identity.HomeserverKey{{Key: k.Public().(ed25519.PublicKey), NotAfter: 1 << 40}}})).Encode()})
		}
	}
	run := network(nodes)
	al, bo := newClient(t, core.UserURI("mimi://a.example/u/al")), newClient(t, core.UserURI("mimi://b.example/u/bo"))
	nodes[three[0]].do(core.PutDevice{Proof: al.proof, Register: true})
	nodes[three[1]].do(core.PutDevice{Proof: bo.proof, Register: true})
	al.g = want[*group.Group](t)(group.Create(al.cfg, mls.X25519AES128SHA256Ed25519, core.GroupID(testRoom), al.id,
		mls.Extensions{}.WithAppData(policy.Default(string(al.user), three[0])), al.leaf()))
	run(three[0], core.CreateGroup{Room: core.Room{ID: testRoom, Name: "g"}, By: al.uri, User: al.user,
		Info: want[[]byte](t)(al.g.GroupInfo(true, nil)), Record: al.proof})

	kp := want[*group.KeyPackage](t)(group.NewKeyPackage(bo.cfg, mls.X25519AES128SHA256Ed25519, bo.id,
		group.KeyPackageOptions{LeafExtensions: bo.leaf(), Lifetime: mls.Lifetime{NotBefore: 1_799_000_000, NotAfter: 1_802_000_000}}))
	state := want[*policy.State](t)(policy.ParseState(want[mls.AppData](t)(al.g.Public().Context().Extensions.AppData())))
	authority := state.Authority()
	authority.Domains = append(authority.Domains, three[1])
	hs := al.commit([]core.Identity{bo.proof}, group.Add(want[*mls.Message](t)(mls.Parse(kp.Message())).KeyPackage),
		setComponent(policy.ComponentParticipants, policy.Invite(state, []string{string(bo.user)}, policy.RoleMember)),
		setComponent(policy.ComponentAuthority, policy.SetAuthority(authority)))
	out := run(three[0], core.Propose{Handshake: hs})
	if len(out.Decisions) != 1 || out.Decisions[0].Err != nil || len(out.Welcomes) != 1 || len(out.Certified) != 1 {
		t.Fatalf("%+v", out)
	}
	al.merge()
	rest(t, nodes, run)
	w := out.Welcomes[0]
	bo.g = want[*group.Group](t)(group.Join(bo.cfg, want[*mls.Message](t)(mls.Parse(w.Message)).Welcome, kp, group.JoinOptions{RatchetTree: w.Tree}))

	for i := range 6 {
		by, other := al, bo
		if i%2 == 0 {
			by, other = bo, al
		}
		hs := by.commit(nil)
		lost := other.commit(nil)
		out := run(by.user.Domain(), core.Propose{Handshake: hs})
		if len(out.Decisions) != 1 || out.Decisions[0].Err != nil {
			t.Fatalf("commit %d: %+v", i, out.Decisions)
		}
		rest(t, nodes, run)
		out = run(lost.Home, core.Propose{Handshake: lost})
		if d := out.Decisions; len(d) != 1 || core.CodeOf(d[0].Err) != core.StaleEpoch || string(d[0].Winner) != string(hs.Message) {
			t.Fatalf("the loser of race %d: %+v", i, d)
		}
		by.merge()
		other.g.Discard()
		e := want[*group.Event](t)(other.g.Process(want[*mls.Message](t)(mls.Parse(hs.Message))))
		if err := other.g.Merge(e.Transition); err != nil {
			t.Fatal(err)
		}
		for _, n := range nodes {
			n.certificate(by.g)
		}
	}
}

// certificate checks that n has one of g's epoch, by both homeservers, with the
// facts that g's device sees.
func (n *realNode) certificate(g *group.Group) {
	n.t.Helper()
	ctx := g.Public().Context()
	err := n.db.View(context.Background(), func(r core.Reader) error {
		b, err := CertificateOf(r, testRoom, ctx.Epoch)
		if err != nil {
			return err
		}
		c, err := ParseCertificate(b)
		if err != nil {
			return err
		}
		f := c.Facts()
		if string(f.Transcript) != string(ctx.ConfirmedTranscriptHash) || string(f.Tree) != string(ctx.TreeHash) || f.Index == 0 {
			n.t.Errorf("%s: the certificate is of something else: %+v", n.domain, f)
		}
		return c.Verify(three[:2], 1, func(d string, signed, sig []byte) error { return checkKey(r, time.Time{}, d, signed, sig) })
	})
	if err != nil {
		n.t.Fatalf("%s: certificate of epoch %d: %v", n.domain, ctx.Epoch, err)
	}
}
