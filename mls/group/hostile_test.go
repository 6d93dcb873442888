package group

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// What a hostile review found, one test each.

// A PSK that nobody else knows is proposed: others commit without it, RFC 9420
// §12.4.1.
func TestHostileUnknownPSK(t *testing.T) {
	w := newAttacked(t, 3)
	evil, victim := w.members[0], w.members[1]
	evil.config.PSK = func(*mls.PreSharedKeyID) ([]byte, bool) { return []byte("x"), true }
	p := must(evil.PSK(mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte("nobody knows")}))(t)
	if _, err := victim.Process(w.parse(must(evil.Propose(p, nil))(t))); err != nil {
		t.Fatal(err)
	}
	c := must(victim.Commit(CommitOptions{}))(t)
	if len(c.Staged.Entries) != 0 {
		t.Fatalf("%d proposals are committed", len(c.Staged.Entries))
	}
}

// A group that is to follow another is tied to it, RFC 9420 §11.3.
func TestHostileUntiedSuccessor(t *testing.T) {
	w := newAttacked(t, 2)
	old, stranger := w.members[1], w.client()
	g := must(Create(stranger.config, w.suite, []byte("not a branch"), stranger.identity(w), nil, nil))(t)
	k := old.keyPackage(w)
	c := must(g.Commit(CommitOptions{Proposals: []*mls.Proposal{Add(k.Package)}}))(t)
	_, err := Join(old.config, w.parse(c.Welcome).Welcome, k, JoinOptions{From: old.Group})
	wantRule(t, err, mls.RuleWelcomePSK)
}

// A removed member's resumption key is gone, and is not one of zeros that
// anybody could use, RFC 9420 §8.6.
func TestHostileResumptionAfterRemoval(t *testing.T) {
	w := newAttacked(t, 3)
	by, gone := w.members[0], w.members[2]
	epoch := gone.Epoch()
	w.commit(by, CommitOptions{Proposals: []*mls.Proposal{Remove(gone.Self())}})
	if psk := gone.ResumptionPSK(); psk != nil {
		t.Fatalf("a removed member has a resumption key: %x", psk)
	}
	if _, err := gone.SafeExport(1); !errors.Is(err, ErrInactive) {
		t.Fatalf("a removed member exports: %v", err)
	}
	stranger := w.client()
	id := stranger.identity(w)
	id.Credential = mls.BasicCredential([]byte(by.name))
	stranger.config.PSK = func(*mls.PreSharedKeyID) ([]byte, bool) { return make([]byte, 32), true }
	g := must(Create(stranger.config, w.suite, []byte("branch"), id, nil, nil))(t)
	k := gone.keyPackage(w)
	p := must(g.PSK(mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.UsageBranch, GroupID: w.group, Epoch: epoch}))(t)
	c := must(g.Commit(CommitOptions{Proposals: []*mls.Proposal{p, Add(k.Package)}}))(t)
	_, err := Join(gone.config, w.parse(c.Welcome).Welcome, k, JoinOptions{From: gone.Group})
	wantRule(t, err, mls.RulePSKUnknown)
}

// A transition of another group is stale, whatever its epoch's number.
func TestHostileForeignTransition(t *testing.T) {
	a, b := newAttacked(t, 2), newWorld(t, testSuite, 9)
	b.add(b.members[0], 1, CommitOptions{})
	c := must(b.members[0].Commit(CommitOptions{}))(t)
	if err := a.members[0].Merge(c); !errors.Is(err, ErrStale) {
		t.Fatalf("a group enters another group's epoch: %v", err)
	}
}

// What is handed out is not erased under the caller.
func TestHostileHandedOut(t *testing.T) {
	w := newAttacked(t, 2)
	authenticator, psk := w.members[0].EpochAuthenticator(), w.members[0].ResumptionPSK()
	was := append(bytes.Clone(authenticator), psk...)
	w.commit(w.members[1], CommitOptions{})
	equal(t, "what was handed out", append(bytes.Clone(authenticator), psk...), was)
}

// A commit that waits is rebuilt although the key it mixed in is gone, RFC
// 9420 §14; a branch's key was its creator's alone.
func TestHostileRestoreWithoutPSK(t *testing.T) {
	w := newAttacked(t, 2)
	m := w.members[0]
	k := w.members[1].keyPackage(w)
	branch, _, err := m.Branch(m.config, []byte("branch"), m.identity(w), []*mls.KeyPackage{k.Package})
	if err != nil {
		t.Fatal(err)
	}
	restored := must(Restore(m.config, branch.Snapshot(), nil, m.find))(t)
	if err := restored.Merge(restored.Pending()); err != nil {
		t.Fatal(err)
	}
	must(m.Commit(CommitOptions{Proposals: []*mls.Proposal{w.external1(m, "key")}}))(t)
	m.save()
	delete(w.psks, "key")
	m.restart(w)
	if m.Pending() == nil {
		t.Fatal("the commit is lost")
	}
}

// Private keys do not outlive Merge in records that nobody took, and a
// transition that is dropped holds none, RFC 9420 §9.2.
func TestHostileLeftovers(t *testing.T) {
	w := newAttacked(t, 3)
	m, other := w.members[0], w.members[1]
	m.Snapshot()
	c := must(m.Commit(CommitOptions{}))(t)
	records, private := m.Group.changes, bytes.Clone(c.next.keys[0].private)
	if len(records) == 0 {
		t.Fatal("a commit leaves no record")
	}
	received := must(other.Process(w.parse(c.Commit)))(t).Transition
	other.Drop(received)
	if len(received.next.secrets.Init) != 0 && !bytes.Equal(received.next.secrets.Init, make([]byte, 32)) {
		t.Fatal("a dropped transition keeps its secrets")
	}
	if err := other.Merge(received); !errors.Is(err, ErrStale) {
		t.Fatalf("a dropped transition is merged: %v", err)
	}
	if err := m.Merge(c); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(records, private) {
		t.Fatal("the records still hold the leaf's private key")
	}
}

// A leaf is left and taken in one commit, again and again, through restarts:
// late messages still show who sent them, RFC 9420 §6.3.2.
func TestHostileLeafReuse(t *testing.T) {
	w := newWorld(t, testSuite, 20)
	w.add(w.members[0], 4, CommitOptions{})
	by, reader := w.members[0], w.members[1]
	type message struct {
		sealed []byte
		leaf   uint32
		text   string
	}
	var late []message
	for round := range 4 {
		for _, m := range w.members {
			if m != reader {
				text := fmt.Sprintf("%s %d", m.name, round)
				late = append(late, message{must(m.Seal(nil, []byte(text), nil))(t), m.Self(), text})
			}
		}
		n := w.client()
		k := n.keyPackage(w)
		w.commit(by, CommitOptions{Proposals: []*mls.Proposal{Remove(w.members[2].Self()), Add(k.Package)}}, &joiner{n, k})
		reader.restart(w)
	}
	for _, m := range late {
		app, err := reader.Open(w.parse(m.sealed))
		if err != nil || string(app.Data) != m.text || app.Sender != m.leaf {
			t.Fatalf("%q of leaf %d: %v %+v", m.text, m.leaf, err, app)
		}
	}
}

// No generation is used twice through private commits, discards and restarts,
// RFC 9420 §6.3.1.
func TestHostileGenerations(t *testing.T) {
	w := newAttacked(t, 3)
	m, to := w.members[1], w.members[2]
	m.config.PrivateHandshakes = true
	m.snapshot, m.changes = m.Snapshot(), nil
	seen := map[string]bool{}
	for i := range 60 {
		var b []byte
		if i%3 == 0 {
			b = must(m.Commit(CommitOptions{}))(t).Commit
			m.save()
			if i%2 == 1 {
				m.restart(w)
			}
			m.Discard()
		} else {
			b = must(m.Seal(nil, []byte("x"), nil))(t)
		}
		m.save()
		_, _, key, err := to.openPrivate(&to.epoch, w.parse(b).Private)
		if err != nil {
			t.Fatal(err)
		}
		id := fmt.Sprint(key.Content, key.Generation)
		if seen[id] {
			t.Fatalf("generation %s is used twice", id)
		}
		seen[id] = true
		if i%7 == 0 {
			m.restart(w)
		}
	}
}
