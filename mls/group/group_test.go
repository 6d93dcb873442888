package group

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/mls"
)

// step does one random thing.
func (w *world) step() {
	by := w.members[w.pick(len(w.members))]
	switch op := w.pick(13); {
	case op <= 2 && len(w.members) < 50:
		w.add(by, 1+w.pick(4), CommitOptions{SeparateTree: w.pick(2) == 0, Path: w.pick(2) == 0})
	case op == 3 && len(w.members) > 1:
		w.removeOne(by)
	case op == 4:
		w.commit(by, CommitOptions{})
	case op == 5 && len(w.members) > 1:
		w.proposeAndCommit(by)
	case op == 6 && len(w.members) < 50:
		w.external(w.client(), false)
	case op == 7 && len(w.members) > 1:
		w.external(by, true)
	case op == 8:
		w.preShared(by)
	case op == 9 && len(w.members) > 1:
		w.selfRemove(by)
	case op == 10:
		w.loseCommit(by)
	case op == 11:
		by.restart(w)
		w.agree()
	default:
		w.say(by, 1+w.pick(5))
	}
}

func (w *world) removeOne(by *member) {
	victim := w.members[w.pick(len(w.members))]
	if victim != by {
		w.commit(by, CommitOptions{Proposals: []*mls.Proposal{Remove(victim.Self())}})
	}
}

// proposeAndCommit: several members propose, one commits by reference.
func (w *world) proposeAndCommit(by *member) {
	for _, m := range w.members {
		if m == by || w.pick(3) != 0 {
			continue
		}
		message, err := m.ProposeUpdate(nil, nil)
		if err != nil {
			w.Fatalf("propose: %v", err)
		}
		m.save()
		if w.pick(3) == 0 {
			m.restart(w)
		}
		w.deliver(m, message)
	}
	n := w.client()
	k := n.keyPackage(w)
	message, err := ProposeAdd(k, w.group, by.Epoch())
	if err != nil {
		w.Fatalf("propose from outside: %v", err)
	}
	w.deliver(nil, message)
	w.commit(by, CommitOptions{}, &joiner{n, k})
}

// external joins by an external commit; an old member does so after it lost
// its state.
func (w *world) external(m *member, resync bool) {
	info, err := w.members[w.pick(len(w.members))].GroupInfo(true, nil)
	if err != nil {
		w.Fatalf("group info: %v", err)
	}
	o := ExternalOptions{}
	id := m.identityOr(w, resync)
	if resync {
		old := m.Self()
		o.Replace = &old
		for i, x := range w.members {
			if x == m {
				w.members = append(w.members[:i:i], w.members[i+1:]...)
				break
			}
		}
	}
	g, commit, err := JoinExternal(m.config, id, w.parse(info).GroupInfo, o)
	if err != nil {
		w.Fatalf("%s joins from outside: %v", m.name, err)
	}
	w.follows(m, commit)
	m.Group = g
	m.save()
	w.members = append(w.members, m)
	w.agree()
}

func (m *member) identityOr(w *world, same bool) Identity {
	if same && w.pick(2) == 0 {
		return Identity{mls.BasicCredential([]byte(m.name)), m.signer}
	}
	return m.identity(w)
}

func (w *world) preShared(by *member) {
	id := fmt.Appendf(nil, "key %d", w.pick(5))
	w.psks[string(id)] = append([]byte("secret of "), id...)
	p, err := by.PSK(mls.PreSharedKeyID{Type: mls.PSKExternal, ID: id})
	if err != nil {
		w.Fatalf("psk: %v", err)
	}
	w.commit(by, CommitOptions{Proposals: []*mls.Proposal{p}})
}

// selfRemove: a member leaves, draft-ietf-mls-extensions-10.
func (w *world) selfRemove(by *member) {
	leaver := w.members[w.pick(len(w.members))]
	if leaver == by {
		return
	}
	message, err := leaver.Propose(&mls.Proposal{Type: mls.ProposalSelfRemove}, nil)
	if err != nil {
		w.Fatalf("leave: %v", err)
	}
	leaver.save()
	w.deliver(leaver, message)
	w.commit(by, CommitOptions{})
	for _, m := range w.members {
		if m == leaver {
			w.Fatalf("%s did not leave", leaver.name)
		}
	}
}

// loseCommit: a member's commit loses against another's.
func (w *world) loseCommit(by *member) {
	if _, err := by.Commit(CommitOptions{}); err != nil {
		w.Fatalf("commit: %v", err)
	}
	by.save()
	winner := w.members[w.pick(len(w.members))]
	if winner == by {
		by.Discard()
		by.save()
		by.restart(w)
		if by.Pending() != nil {
			w.Fatalf("a discarded commit is back")
		}
	}
	w.commit(winner, CommitOptions{})
}

// Random groups of up to 50 members: all members, and a server without
// secrets, agree after every step. RFC 9420 as a whole.
func TestGroupRandom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, mls.X25519AES128SHA256Ed25519, rapid.Uint64().Draw(t, "seed"))
		if n := rapid.IntRange(0, 45).Draw(t, "members"); n > 0 {
			w.add(w.members[0], n, CommitOptions{})
		}
		for range rapid.IntRange(5, 40).Draw(t, "steps") {
			w.step()
		}
	})
}

// Mutated messages never crash a member and never change it.
func TestGroupMutated(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, mls.X25519AES128SHA256Ed25519, rapid.Uint64().Draw(t, "seed"))
		w.add(w.members[0], 4, CommitOptions{})
		for range 5 {
			by, to := w.members[w.pick(2)], w.members[2+w.pick(3)]
			c, err := by.Commit(CommitOptions{Proposals: []*mls.Proposal{Add(w.client().keyPackage(w).Package)}, Path: true})
			if err != nil {
				t.Fatal(err)
			}
			w.attack(to, c.Commit)
			by.Discard()
			m, err := by.Seal(nil, []byte("text"), nil)
			if err != nil {
				t.Fatal(err)
			}
			w.attack(to, m)
			p, err := by.ProposeUpdate(nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			w.attack(to, p)
			w.deliver(by, p)
			w.commit(w.members[2], CommitOptions{})
		}
	})
}

// Every suite makes a group that works, RFC 9420 §17.1 and
// draft-ietf-mls-pq-ciphersuites-06.
func TestGroupSuites(t *testing.T) {
	for _, s := range mls.Suites() {
		t.Run(s.Name(), func(t *testing.T) {
			w := newWorld(t, s, 1)
			w.add(w.members[0], 3, CommitOptions{})
			w.commit(w.members[2], CommitOptions{})
			w.external(w.client(), false)
			w.removeOne(w.members[1])
			w.say(w.members[0], 3)
		})
	}
}

// A crash between sending and storing never makes a key be used twice, RFC
// 9420 §6.3.1: the generations after a restart are beyond all before it.
func TestGroupCrashNonce(t *testing.T) {
	w := newWorld(t, mls.X25519AES128SHA256Ed25519, 2)
	w.add(w.members[0], 1, CommitOptions{})
	a, b := w.members[0], w.members[1]
	seen := map[uint32]bool{}
	for round := range 5 {
		for i := range 40 + round {
			m, err := a.Seal(nil, []byte("x"), nil)
			if err != nil {
				t.Fatal(err)
			}
			a.save() // before the message leaves
			app, err := b.Open(w.parse(m))
			if err != nil {
				t.Fatalf("round %d, message %d: %v", round, i, err)
			}
			if seen[app.Generation] {
				t.Fatalf("generation %d is used twice", app.Generation)
			}
			seen[app.Generation] = true
		}
		a.restart(w)
	}
	if len(a.changes) > 20 {
		t.Errorf("%d change records for %d messages", len(a.changes), len(seen))
	}
}

// A ReInit closes the group, and its successor is checked, RFC 9420 §11.2.
func TestGroupReInit(t *testing.T) {
	w := newWorld(t, mls.X25519AES128SHA256Ed25519, 3)
	w.add(w.members[0], 2, CommitOptions{})
	next := mls.ReInit{GroupID: []byte("another"), Version: mls.Version10, Suite: mls.P256AES128SHA256P256}
	w.commit(w.members[0], CommitOptions{Proposals: []*mls.Proposal{{Type: mls.ProposalReInit, ReInit: next}}})
	for _, m := range w.members {
		m.restart(w)
		if _, err := m.Seal(nil, []byte("x"), nil); !errors.Is(err, ErrInactive) {
			t.Fatalf("%s speaks in a closed group: %v", m.name, err)
		}
		if _, err := m.Commit(CommitOptions{}); !errors.Is(err, ErrInactive) {
			t.Fatalf("%s commits in a closed group: %v", m.name, err)
		}
	}
	old := w.members
	w.suite = next.Suite
	packages := []*KeyPackage{old[1].keyPackage(w), old[2].keyPackage(w)}
	g, c, err := old[0].ReInit(old[0].config, old[0].identity(w), []*mls.KeyPackage{packages[0].Package, packages[1].Package})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Merge(c); err != nil {
		t.Fatal(err)
	}
	for i, k := range packages {
		welcome := w.parse(c.Welcome).Welcome
		joined, err := Join(old[i+1].config, welcome, k, JoinOptions{From: old[i+1].Group})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(joined.EpochAuthenticator(), g.EpochAuthenticator()) {
			t.Fatal("the successor's members differ")
		}
		if _, err := Join(old[i+1].config, welcome, k, JoinOptions{}); err == nil {
			t.Fatal("joined without the old group's secret")
		}
	}
	// One member is forgotten: RFC 9420 §11.2.
	_, _, err = old[0].ReInit(old[0].config, old[0].identity(w), []*mls.KeyPackage{packages[0].Package})
	if mls.RuleOf(err) != mls.RuleReInitJoin {
		t.Fatalf("a successor without a member is made: %v", err)
	}
	_, c, err = old[0].succeed(old[0].config, next.Suite, next.GroupID, old[0].identity(w), nil, []*mls.KeyPackage{packages[0].Package}, mls.UsageReInit)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Join(old[1].config, w.parse(c.Welcome).Welcome, packages[0], JoinOptions{From: old[1].Group})
	if mls.RuleOf(err) != mls.RuleReInitJoin {
		t.Fatalf("a successor without a member: %v", err)
	}
}

// A branch has members of the old group only, RFC 9420 §11.3.
func TestGroupBranch(t *testing.T) {
	w := newWorld(t, mls.X25519AES128SHA256Ed25519, 4)
	w.add(w.members[0], 3, CommitOptions{})
	a, b := w.members[0], w.members[2]
	k := b.keyPackage(w)
	g, c, err := a.Branch(a.config, []byte("branch"), a.identity(w), []*mls.KeyPackage{k.Package})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Merge(c); err != nil {
		t.Fatal(err)
	}
	joined, err := Join(b.config, w.parse(c.Welcome).Welcome, k, JoinOptions{From: b.Group})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(joined.EpochAuthenticator(), g.EpochAuthenticator()) {
		t.Fatal("the branch's members differ")
	}
	stranger := w.client().keyPackage(w)
	both := []*mls.KeyPackage{k.Package, stranger.Package}
	_, _, err = a.Branch(a.config, []byte("branch 2"), a.identity(w), both)
	if mls.RuleOf(err) != mls.RuleBranchJoin {
		t.Fatalf("a branch with a stranger is made: %v", err)
	}
	_, c, err = a.succeed(a.config, w.suite, []byte("branch 2"), a.identity(w), nil, both, mls.UsageBranch)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Join(b.config, w.parse(c.Welcome).Welcome, k, JoinOptions{From: b.Group})
	if mls.RuleOf(err) != mls.RuleBranchJoin {
		t.Fatalf("a branch with a stranger: %v", err)
	}
}
