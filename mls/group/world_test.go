package group

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

// tb is what a test and a property test have in common.
type tb interface {
	Helper()
	Fatalf(format string, args ...any)
	Logf(format string, args ...any)
}

// world is a group with all its members, and a delivery service that follows
// it without secrets.
type world struct {
	tb
	suite   mls.Suite
	rand    *rand.ChaCha8
	group   []byte
	names   int
	members []*member
	server  *mls.PublicGroup
	psks    map[string][]byte
}

// member is a client with its stored state.
type member struct {
	*Group
	name     string
	config   *Config
	signers  map[string]mls.Signer
	snapshot []byte
	changes  [][]byte
}

func newWorld(t tb, suite mls.Suite, seed uint64) *world {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	w := &world{tb: t, suite: suite, rand: rand.NewChaCha8(key), group: []byte("a group"), psks: map[string][]byte{}}
	m := w.client()
	var err error
	if m.Group, err = Create(m.config, suite, w.group, m.identity(w), w.extensions(), nil); err != nil {
		t.Fatalf("create: %v", err)
	}
	m.save()
	w.members = []*member{m}
	w.server = w.follow(m)
	return w
}

// extensions of the group's context: external senders are one of them.
func (w *world) extensions() mls.Extensions { return nil }

func (w *world) pick(n int) int { return int(w.rand.Uint64() % uint64(n)) }

// client is a client that is in no group yet.
func (w *world) client() *member {
	w.names++
	m := &member{name: fmt.Sprintf("client %d", w.names), signers: map[string]mls.Signer{}}
	m.config = &Config{Rand: w.rand, PSK: func(id *mls.PreSharedKeyID) ([]byte, bool) {
		psk, ok := w.psks[string(id.ID)]
		return psk, ok
	}, PrivateHandshakes: w.names%3 == 0 && w.server == nil}
	return m
}

func (m *member) identity(w *world) Identity {
	signer, _, err := GenerateSigner(w.rand, w.suite)
	if err != nil {
		w.Fatalf("signer: %v", err)
	}
	m.signers[string(signer.PublicKey())] = signer
	return Identity{mls.BasicCredential([]byte(m.name)), signer}
}

func (m *member) keyPackage(w *world) *KeyPackage {
	k, err := NewKeyPackage(m.config, w.suite, m.identity(w), KeyPackageOptions{})
	if err != nil {
		w.Fatalf("key package: %v", err)
	}
	return k
}

// save stores the state, as an application would in one transaction.
func (m *member) save() {
	records, ok := m.Changes()
	switch {
	case !ok:
		m.snapshot, m.changes = m.Snapshot(), nil
	case records != nil:
		m.changes = append(m.changes, records)
	}
}

// restart loses the memory and continues from what was stored.
func (m *member) restart(w *world) {
	g, err := Restore(m.config, m.snapshot, m.changes, func(public []byte) (mls.Signer, bool) {
		s, ok := m.signers[string(public)]
		return s, ok
	})
	if err != nil {
		w.Fatalf("%s restarts: %v", m.name, err)
	}
	m.Group = g
}

// follow is a delivery service that learns the group from a GroupInfo.
func (w *world) follow(m *member) *mls.PublicGroup {
	info, err := m.GroupInfo(true, nil)
	if err != nil {
		w.Fatalf("group info: %v", err)
	}
	p, err := mls.NewPublicGroup(w.parse(info).GroupInfo, nil, &mls.Policy{})
	if err != nil {
		w.Fatalf("public group: %v", err)
	}
	return p
}

func (w *world) parse(b []byte) *mls.Message {
	w.Helper()
	m, err := mls.Parse(bytes.Clone(b))
	if err != nil {
		w.Fatalf("parse: %v", err)
	}
	return m
}

// deliver gives a handshake message to everybody but its maker.
func (w *world) deliver(from *member, message []byte) {
	w.Helper()
	m := w.parse(message)
	if m.Public != nil {
		if _, err := w.server.Propose(&m.Public.AuthenticatedContent); err != nil {
			w.Fatalf("the server refuses a proposal: %v", err)
		}
	}
	for _, to := range w.members {
		if to != from {
			if _, err := to.Process(w.parse(message)); err != nil {
				w.Fatalf("%s refuses a proposal: %v", to.name, err)
			}
			to.save()
		}
	}
}

// commit makes a commit, and lets everybody follow it.
func (w *world) commit(by *member, o CommitOptions, joiners ...*joiner) {
	w.Helper()
	t, err := by.Commit(o)
	if err != nil {
		w.Fatalf("%s commits: %v", by.name, err)
	}
	by.save()
	if w.pick(4) == 0 { // between sending and the server's answer
		by.restart(w)
		t = by.Pending()
	}
	info, err := by.PendingInfo(nil)
	if err != nil {
		w.Fatalf("%s says nothing of the next epoch: %v", by.name, err)
	}
	w.follows(by, t.Commit)
	if err := w.server.CheckGroupInfo(info); err != nil {
		w.Fatalf("the server refuses the GroupInfo of the epoch: %v", err)
	}
	event, err := by.Process(w.parse(t.Commit)) // the own commit comes back
	if err != nil || event.Transition != t {
		w.Fatalf("%s does not know its own commit: %v", by.name, err)
	}
	if err := by.Merge(t); err != nil {
		w.Fatalf("merge: %v", err)
	}
	if err := by.CheckGroupInfo(info); err != nil {
		w.Fatalf("the GroupInfo made before is not that of the epoch: %v", err)
	}
	if _, err := by.PendingInfo(nil); !errors.Is(err, ErrStale) {
		w.Fatalf("a GroupInfo of no pending commit: %v", err)
	}
	by.save()
	for _, j := range joiners {
		m := j.member
		if m.Group, err = Join(m.config, w.parse(t.Welcome).Welcome, j.KeyPackage, JoinOptions{RatchetTree: t.RatchetTree}); err != nil {
			w.Fatalf("%s joins: %v", m.name, err)
		}
		m.save()
		w.members = append(w.members, m)
	}
	w.agree()
}

type joiner struct {
	*member
	*KeyPackage
}

// follows lets the server and all members but one take a commit.
func (w *world) follows(by *member, commit []byte) {
	w.Helper()
	m := w.parse(commit)
	st, err := w.server.Stage(&m.Public.AuthenticatedContent)
	if err != nil {
		w.Fatalf("the server refuses a commit: %v", err)
	}
	for _, to := range slices.Clone(w.members) {
		if to == by {
			continue
		}
		event, err := to.Process(w.parse(commit))
		if err != nil {
			w.Fatalf("%s refuses a commit: %v", to.name, err)
		}
		if err := to.Merge(event.Transition); err != nil {
			w.Fatalf("%s merges: %v", to.name, err)
		}
		to.save()
		if event.Transition.Removed {
			w.drop(to)
		}
	}
	w.server = st.Next(m.Public.ConfirmationTag)
}

func (w *world) drop(m *member) {
	if m.Status() != Removed {
		w.Fatalf("%s is removed and does not know", m.name)
	}
	w.members = slices.DeleteFunc(w.members, func(o *member) bool { return o == m })
}

// agree checks that all members and the server are in one state.
func (w *world) agree() {
	w.Helper()
	first := w.members[0]
	want, err := first.Export("agree", []byte("x"), 32)
	if err != nil {
		w.Fatalf("export: %v", err)
	}
	if !bytes.Equal(first.Public().ContextBytes(), w.server.ContextBytes()) {
		w.Fatalf("the server has another context in epoch %d", first.Epoch())
	}
	if err := first.Public().Tree().Validate(w.group, nil); err != nil {
		w.Fatalf("the tree of epoch %d is not valid: %v", first.Epoch(), err)
	}
	for _, m := range w.members {
		got, err := m.Export("agree", []byte("x"), 32)
		if err != nil || !bytes.Equal(got, want) || !bytes.Equal(m.EpochAuthenticator(), first.EpochAuthenticator()) {
			w.Fatalf("%s differs from %s in epoch %d: %v", m.name, first.name, first.Epoch(), err)
		}
		if !bytes.Equal(m.Public().ContextBytes(), first.Public().ContextBytes()) {
			w.Fatalf("%s has another context than %s", m.name, first.name)
		}
		if m.Public().Tree().Leaf(m.Self()) == nil || len(m.keys) == 0 {
			w.Fatalf("%s has lost its leaf", m.name)
		}
	}
	if got := w.server.Tree().Members(); got != len(w.members) {
		w.Fatalf("%d members, the server counts %d", len(w.members), got)
	}
}

// say sends messages of one member, which the others open in another order.
func (w *world) say(from *member, n int) {
	w.Helper()
	var sent [][]byte
	for i := range n {
		b, err := from.Seal(nil, fmt.Appendf(nil, "message %d", i), []byte("aad"))
		if err != nil {
			w.Fatalf("seal: %v", err)
		}
		from.save()
		sent = append(sent, b)
	}
	order := rand.New(w.rand).Perm(n)
	for _, to := range w.members {
		if to == from {
			continue
		}
		for _, i := range order {
			app, err := to.Open(w.parse(sent[i]))
			if err != nil || string(app.Data) != fmt.Sprintf("message %d", i) || app.Sender != from.Self() || string(app.AuthenticatedData) != "aad" {
				w.Fatalf("%s opens message %d of %s: %v %+v", to.name, i, from.name, err, app)
			}
			to.save()
			if w.pick(8) == 0 {
				to.restart(w)
			}
			if _, err := to.Open(w.parse(sent[i])); !errors.Is(err, secret.ErrReplay) {
				w.Fatalf("%s opens message %d twice: %v", to.name, i, err)
			}
		}
	}
}

// attack changes octets of a message and gives it to a member: nothing may
// change, and nothing may break.
func (w *world) attack(to *member, message []byte) {
	w.Helper()
	before := to.Snapshot()
	for range 3 {
		bad := bytes.Clone(message)
		bad[w.pick(len(bad))] ^= byte(1 + w.pick(255))
		if w.pick(4) == 0 {
			bad = bad[:w.pick(len(bad))]
		}
		m, err := mls.Parse(bad)
		if err != nil {
			continue
		}
		if event, err := to.Process(m); err == nil {
			w.Fatalf("%s takes a changed message: %+v", to.name, event)
		}
	}
	if !bytes.Equal(before, to.Snapshot()) {
		w.Fatalf("a changed message changed the state of %s", to.name)
	}
	to.snapshot, to.changes = to.Snapshot(), nil
}

// join adds n new clients with one commit.
func (w *world) add(by *member, n int, o CommitOptions) {
	w.Helper()
	var joiners []*joiner
	for range n {
		m := w.client()
		k := m.keyPackage(w)
		joiners = append(joiners, &joiner{m, k})
		o.Proposals = append(o.Proposals, Add(k.Package))
	}
	w.commit(by, o, joiners...)
}
