package group

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

// spread gives a message to all but its maker, who take it and store that. No
// server follows: handshakes may be encrypted.
func (w *world) spread(from *member, message []byte) {
	w.Helper()
	for _, to := range append([]*member(nil), w.members...) {
		if to == from {
			continue
		}
		event, err := to.Process(w.parse(message))
		if err != nil {
			w.Fatalf("%s refuses: %v", to.name, err)
		}
		to.save()
		if event.Transition == nil {
			continue
		}
		if err := to.Merge(event.Transition); err != nil {
			w.Fatalf("%s merges: %v", to.name, err)
		}
		to.save()
		if event.Transition.Removed {
			w.drop(to)
		}
	}
}

// commits makes a commit that all follow, or has all follow the one that waits.
func (w *world) commits(by *member, o CommitOptions) *Transition {
	w.Helper()
	t := by.Pending()
	if t == nil {
		var err error
		if t, err = by.Commit(o); err != nil {
			w.Fatalf("%s commits: %v", by.name, err)
		}
		by.save()
	}
	w.spread(by, t.Commit)
	if err := by.Merge(t); err != nil {
		w.Fatalf("merge: %v", err)
	}
	by.save()
	w.same()
	return t
}

// same demands that all members are in one state.
func (w *world) same() {
	w.Helper()
	for _, m := range w.members {
		if m.Epoch() != w.members[0].Epoch() || !bytes.Equal(m.EpochAuthenticator(), w.members[0].EpochAuthenticator()) {
			w.Fatalf("%s, in epoch %d, differs from %s, in %d", m.name, m.Epoch(), w.members[0].name, w.members[0].Epoch())
		}
	}
}

// twin is what a restart makes of a member now.
func (w *world) twin(m *member) *Group {
	w.Helper()
	g, err := Restore(m.config, m.snapshot, m.changes, m.find)
	if err != nil {
		w.Fatalf("%s restarts: %v", m.name, err)
	}
	return g
}

// alike demands that a restarted group is the one that went on, but for
// generations of its own that it passes over.
func (w *world) alike(g, twin *Group) {
	w.Helper()
	check := func(what string, ok bool) {
		w.Helper()
		if !ok {
			w.Fatalf("after a restart, another %s", what)
		}
	}
	check("authenticator", bytes.Equal(g.EpochAuthenticator(), twin.EpochAuthenticator()))
	check("public group", bytes.Equal(g.public.AppendTo(nil), twin.public.AppendTo(nil)))
	check("status", g.self == twin.self && g.status == twin.status && (g.reinit == nil) == (twin.reinit == nil))
	check("signer", bytes.Equal(g.signer.PublicKey(), twin.signer.PublicKey()))
	check("exporter", bytes.Equal(g.exporter.AppendTo(nil), twin.exporter.AppendTo(nil)))
	check("number of keys", len(g.keys) == len(twin.keys) && len(g.updates) == len(twin.updates) && len(g.signers) == len(twin.signers))
	for node, pair := range g.keys {
		check("key", bytes.Equal(pair.private, twin.keys[node].private) && bytes.Equal(pair.public, twin.keys[node].public))
	}
	for ref, private := range g.updates {
		check("Update", bytes.Equal(private, twin.updates[ref]))
	}
	check("past", len(g.past) == len(twin.past) && len(g.resumptions) == len(twin.resumptions))
	for i := range g.past {
		check("past epoch", g.past[i].number == twin.past[i].number && bytes.Equal(g.past[i].ratchets.AppendTo(nil), twin.past[i].ratchets.AppendTo(nil)))
	}
	check("pending commit", (g.pending == nil) == (twin.pending == nil))
	if g.pending != nil {
		check("pending message", bytes.Equal(g.pending.Commit, twin.pending.Commit) && bytes.Equal(g.pending.Welcome, twin.pending.Welcome) &&
			bytes.Equal(g.pending.RatchetTree, twin.pending.RatchetTree) && (twin.pending.Welcome == nil) == (g.pending.Welcome == nil))
		check("pending epoch", bytes.Equal(g.pending.next.secrets.Authenticator, twin.pending.next.secrets.Authenticator))
	}
	for leaf := range g.tree.Leaves() {
		for _, kind := range []secret.Content{secret.Handshake, secret.Application} {
			if g.status != Active && leaf == g.self {
				continue
			}
			was, is := g.ratchets.Generation(leaf, kind), twin.ratchets.Generation(leaf, kind)
			check(fmt.Sprintf("generation of leaf %d: %d, not %d", leaf, is, was), is == was || leaf == g.self && is > was && is <= was+reserved)
		}
	}
}

// crash is something that a member does before it restarts.
type crash struct {
	name string
	do   func(w *world, m, other *member)
}

func add1(w *world) *mls.Proposal { return Add(w.client().keyPackage(w).Package) }

// newSigner is a signature key that the member finds after a restart.
func (m *member) newSigner(w *world) mls.Signer { return m.identity(w).Signer }

var crashes = []crash{
	{"nothing", func(*world, *member, *member) {}},
	{"seal", func(w *world, m, _ *member) { w.say(m, 3) }},
	{"seal without sending", func(w *world, m, _ *member) {
		for range 2*reserved + 1 {
			must(m.Seal(nil, []byte("lost"), nil))(w.t())
		}
	}},
	{"open", func(w *world, m, other *member) { w.say(other, 5) }},
	{"open what was overtaken", func(w *world, m, other *member) {
		first := must(other.Seal(nil, []byte("x"), nil))(w.t())
		w.say(other, 1)
		if err := w.process(m, w.parse(first)); err != nil {
			w.Fatalf("open: %v", err)
		}
	}},
	{"open in a past epoch", func(w *world, m, other *member) {
		late := must(other.Seal(nil, []byte("late"), nil))(w.t())
		w.commits(other, CommitOptions{Proposals: []*mls.Proposal{Remove(w.members[3].self)}})
		if err := w.process(m, w.parse(late)); err != nil {
			w.Fatalf("open: %v", err)
		}
		m.save()
		if err := w.process(&member{Group: w.twin(m)}, w.parse(late)); mls.RuleOf(err) != mls.RuleReplay {
			w.Fatalf("open again: %v", err)
		}
	}},
	{"propose", func(w *world, m, _ *member) { w.spread(m, must(m.Propose(add1(w), nil))(w.t())) }},
	{"propose to leave", func(w *world, m, other *member) {
		w.spread(other, must(other.Propose(&mls.Proposal{Type: mls.ProposalSelfRemove}, nil))(w.t()))
	}},
	{"update", func(w *world, m, _ *member) { w.spread(m, must(m.ProposeUpdate(nil, nil))(w.t())) }},
	{"update twice, with new signers", func(w *world, m, _ *member) {
		for range 2 {
			w.spread(m, must(m.ProposeUpdate(&LeafOptions{Signer: m.newSigner(w)}, nil))(w.t()))
		}
	}},
	{"take an update", func(w *world, m, other *member) { w.spread(other, must(other.ProposeUpdate(nil, nil))(w.t())) }},
	{"commit", func(w *world, m, _ *member) { must(m.Commit(CommitOptions{}))(w.t()) }},
	{"commit with a new signer", func(w *world, m, _ *member) {
		must(m.Commit(CommitOptions{Leaf: &LeafOptions{Signer: m.newSigner(w)}}))(w.t())
	}},
	{"commit an Add", func(w *world, m, _ *member) {
		must(m.Commit(CommitOptions{Proposals: []*mls.Proposal{add1(w), w.external1(m, "key")}, SeparateTree: true}))(w.t())
	}},
	{"commit what was proposed", func(w *world, m, other *member) {
		w.spread(other, must(other.ProposeUpdate(nil, nil))(w.t()))
		w.spread(m, must(m.Propose(add1(w), nil))(w.t()))
		must(m.Commit(CommitOptions{Path: true}))(w.t())
		w.say(other, 1)
	}},
	{"discard", func(w *world, m, _ *member) {
		must(m.Commit(CommitOptions{}))(w.t())
		m.save()
		m.Discard()
	}},
	{"discard and commit", func(w *world, m, _ *member) {
		must(m.Commit(CommitOptions{}))(w.t())
		m.Discard()
		must(m.Commit(CommitOptions{Proposals: []*mls.Proposal{add1(w)}}))(w.t())
	}},
	{"look at a commit", func(w *world, m, other *member) {
		c := must(other.Commit(CommitOptions{}))(w.t())
		if err := w.process(m, w.parse(c.Commit)); err != nil {
			w.Fatalf("process: %v", err)
		}
		other.save()
	}},
	{"merge a commit", func(w *world, m, other *member) { w.commits(other, CommitOptions{}) }},
	{"merge the own commit", func(w *world, m, _ *member) { w.commits(m, CommitOptions{}) }},
	{"merge the own update", func(w *world, m, other *member) {
		w.spread(m, must(m.ProposeUpdate(&LeafOptions{Signer: m.newSigner(w)}, nil))(w.t()))
		w.commits(other, CommitOptions{})
	}},
	{"export", func(w *world, m, _ *member) {
		must(m.SafeExport(0))(w.t())
		m.save()
		must(m.SafeExport(1<<16 - 1))(w.t())
	}},
	{"forget", func(w *world, m, other *member) {
		w.commits(other, CommitOptions{})
		m.ForgetPast(1)
	}},
}

// A restart after anything that a member does loses nothing, RFC 9420 §14 and
// §6.3.1, mls.RuleKeyReuse: neither with change records nor with a snapshot.
func TestCrash(t *testing.T) {
	for _, private := range []bool{false, true} {
		for _, snapshot := range []bool{false, true} {
			for _, c := range crashes {
				t.Run(fmt.Sprintf("%s, private %t, snapshot %t", c.name, private, snapshot), func(t *testing.T) {
					w := newAttacked(t, 4)
					for _, m := range w.members {
						m.config.PrivateHandshakes, m.config.SendWhilePending = private, true
					}
					m, other := w.members[2], w.members[1]
					w.commits(other, CommitOptions{})
					c.do(w, m, other)
					m.save()
					if snapshot {
						m.snapshot, m.changes = m.Snapshot(), nil
					}
					twin := w.twin(m)
					w.alike(m.Group, twin)
					m.Group = twin
					w.afterlife(m, other)
				})
			}
		}
	}
}

// afterlife is what a member still has to be able to do after a restart.
func (w *world) afterlife(m, other *member) {
	w.Helper()
	if other.Pending() == nil {
		w.say(m, 2)
		w.say(other, 2)
	}
	switch {
	case m.Pending() != nil:
		w.commits(m, CommitOptions{})
	case other.Pending() != nil:
		w.commits(other, CommitOptions{})
	}
	by := w.members[0]
	w.commits(by, CommitOptions{Proposals: []*mls.Proposal{add1(w)}})
	w.say(m, 2)
	update := must(m.ProposeUpdate(nil, nil))(w.t())
	m.save()
	w.spread(m, update)
	m.restart(w)
	w.commits(by, CommitOptions{})
	w.commits(m, CommitOptions{})
	w.say(m, 1)
	w.say(by, 1)
}

// What is stored and damaged is refused or taken, and never breaks anything.
func TestRestoreDamaged(t *testing.T) {
	w := newAttacked(t, 3)
	m, other := w.members[1], w.members[0]
	w.say(other, 2)
	m.Snapshot()
	w.deliver(m, must(m.ProposeUpdate(&LeafOptions{Signer: m.newSigner(w)}, nil))(t))
	w.say2(m)
	must(m.Commit(CommitOptions{}))(t)
	m.save()
	message := must(other.Commit(CommitOptions{}))(t).Commit
	snapshot, changes := m.snapshot, bytes.Join(m.changes, nil)
	if len(changes) == 0 {
		t.Fatal("no records")
	}
	try := func(s, c []byte) {
		g, err := Restore(m.config, s, [][]byte{c}, m.find)
		if err == nil {
			exercise(g, message)
		}
	}
	for i := 0; i < len(snapshot); i += 1 + len(snapshot)/300 {
		bad := bytes.Clone(snapshot)
		bad[i] ^= byte(1 << (i % 8))
		try(bad, changes)
		try(bad, nil)
		if _, err := Restore(m.config, snapshot[:i], nil, m.find); err == nil {
			t.Errorf("%d of %d octets are a snapshot", i, len(snapshot))
		}
	}
	for i := 0; i < len(changes); i += 1 + len(changes)/200 {
		bad := bytes.Clone(changes)
		bad[i] ^= byte(1 << (i % 8))
		try(snapshot, bad)
		try(snapshot, changes[:i])
	}
	if _, err := Restore(m.config, append(bytes.Clone(snapshot), 0), nil, m.find); err == nil {
		t.Error("a snapshot and an octet are a snapshot")
	}
	if _, err := Restore(m.config, snapshot, nil, func([]byte) (mls.Signer, bool) { return nil, false }); mls.RuleOf(err) != mls.RuleLeafKeys {
		t.Errorf("without signers: %v", err)
	}
}

// say2 is a message that nobody opens.
func (w *world) say2(m *member) {
	m.config.SendWhilePending = true
	must(m.Seal(nil, []byte("x"), nil))(w.t())
}

// exercise does everything with a group that may be damaged: errors are fine.
func exercise(g *Group, message []byte) {
	_, _ = g.Seal(nil, []byte("x"), nil)
	_, _ = g.Export("label", nil, 32)
	_, _ = g.SafeExport(3)
	_, _ = g.GroupInfo(true, nil)
	_, _ = g.ProposeUpdate(nil, nil)
	if m, err := mls.Parse(bytes.Clone(message)); err == nil {
		if e, err := g.Process(m); err == nil && e.Transition != nil {
			_ = g.Merge(e.Transition)
		}
	}
	if t := g.Pending(); t != nil {
		if err := g.Merge(t); err != nil && !errors.Is(err, ErrStale) {
			panic(err)
		}
	}
	if t, err := g.Commit(CommitOptions{}); err == nil {
		_ = g.Merge(t)
	}
	g.Snapshot()
}

// What was taken in time is there after a restart, however late: a key
// package may have expired meanwhile, or a credential been revoked.
func TestRestoreLater(t *testing.T) {
	w := newWorld(t, testSuite, 8)
	now, revoked := uint64(1000), false
	policy := &mls.Policy{Now: func() uint64 { return now }, CheckReceivedLifetimes: true, Authenticate: func(mls.LeafChange) error {
		if revoked {
			return errors.New("revoked")
		}
		return nil
	}}
	w.add(w.members[0], 2, CommitOptions{})
	m, other := w.members[1], w.members[0]
	m.config.Policy = policy
	m.restart(w)
	k := must(NewKeyPackage(m.config, w.suite, m.identity(w), KeyPackageOptions{Lifetime: mls.Lifetime{NotBefore: 900, NotAfter: 1100}}))(t)
	m.save()
	w.spread(other, must(other.Propose(Add(k.Package), nil))(t))
	must(m.Commit(CommitOptions{}))(t)
	m.save()
	now, revoked = 2000, true
	m.restart(w)
	if err := w.process(m, w.parse(must(other.Propose(Add(k.Package), []byte("again")))(t))); !errors.Is(err, mls.RuleLifetime.Err()) {
		t.Errorf("the key package is added again: %v", err)
	}
	w.spread(m, m.Pending().Commit)
	if err := m.Merge(m.Pending()); err != nil {
		t.Fatal(err)
	}
	w.same()
}
