package group

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// The mistakes that other implementations began with, each as a test that
// would find it here.

// ghosts are key packages of clients that take no part.
func (w *world) ghosts(n int) []*mls.Proposal {
	w.Helper()
	m := w.client()
	list := make([]*mls.Proposal, n)
	for i := range list {
		list[i] = Add(m.keyPackage(w).Package)
	}
	return list
}

// all makes a commit that those members follow who take part, and joiners join.
func (w *world) all(by *member, o CommitOptions, joiners ...*joiner) *Transition {
	w.Helper()
	for _, j := range joiners {
		o.Proposals = append(o.Proposals, Add(j.Package))
	}
	t := w.commits(by, o)
	for _, j := range joiners {
		g, err := Join(j.config, w.parse(t.Welcome).Welcome, j.KeyPackage, JoinOptions{RatchetTree: t.RatchetTree})
		if err != nil {
			w.Fatalf("%s joins: %v", j.name, err)
		}
		j.Group = g
		j.save()
		w.members = append(w.members, j.member)
	}
	w.same()
	return t
}

func (w *world) joiner() *joiner {
	m := w.client()
	return &joiner{m, m.keyPackage(w)}
}

func removes(leaves ...uint32) (list []*mls.Proposal) {
	for _, leaf := range leaves {
		list = append(list, Remove(leaf))
	}
	return list
}

// Joins with path secrets into trees with blanks, at the sizes where others
// failed: blank nodes between the committer and the joiner, the last leaf, and
// a tree that grows. RFC 9420 §12.4.3.1.
func TestJoinSizes(t *testing.T) {
	for _, n := range []uint32{10, 16, 100, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			w := newWorld(t, testSuite, uint64(n))
			first, last := w.joiner(), w.joiner()
			list := w.ghosts(int(n) - 3)
			t1, err := w.members[0].Commit(CommitOptions{Proposals: append(append([]*mls.Proposal{Add(first.Package)}, list...), Add(last.Package))})
			if err != nil {
				t.Fatal(err)
			}
			if err := w.members[0].Merge(t1); err != nil {
				t.Fatal(err)
			}
			w.members[0].save()
			for _, j := range []*joiner{first, last} {
				if j.Group, err = Join(j.config, w.parse(t1.Welcome).Welcome, j.KeyPackage, JoinOptions{}); err != nil {
					t.Fatal(err)
				}
				j.save()
				w.members = append(w.members, j.member)
			}
			w.all(last.member, CommitOptions{}) // the last leaf commits
			if n < 1000 {                       // each joiner checks the whole tree
				w.all(first.member, CommitOptions{Path: true}, w.joiner()) // the tree may grow
			}
			w.all(w.members[0], CommitOptions{Proposals: removes(n/2, n/2-1, 2, 3, n-3)}) // blanks
			w.all(last.member, CommitOptions{SeparateTree: true, Path: true}, w.joiner())
			joined := w.members[3]
			if n < 1000 {
				w.all(joined, CommitOptions{}, w.joiner(), w.joiner())                    // into blanks
				w.all(w.members[5], CommitOptions{Proposals: removes(n / 4)}, w.joiner()) // and a new blank
				for _, m := range w.members {
					w.all(m, CommitOptions{})
				}
			}
			w.all(joined, CommitOptions{Proposals: removes(n / 8)})
			w.say(w.members[len(w.members)-1], 1)
		})
	}
}

// A resync of leaf 0, and of others: zero is a leaf like any other. RFC 9420
// §12.4.3.2.
func TestResyncLeafZero(t *testing.T) {
	for _, by := range []string{"key", "leaf"} {
		w := newAttacked(t, 3)
		for i := range uint32(3) {
			m := w.members[0]
			if m.self != i {
				t.Fatalf("leaf %d instead of %d", m.self, i)
			}
			info := w.parse(must(w.members[1].GroupInfo(true, nil))(t)).GroupInfo
			o := ExternalOptions{Resync: true}
			id := Identity{mls.BasicCredential([]byte(m.name)), m.signer}
			if by == "leaf" {
				o, id = ExternalOptions{Replace: &i}, m.identity(w)
			}
			g, commit, err := JoinExternal(m.config, id, info, o)
			if err != nil {
				t.Fatal(err)
			}
			w.members = w.members[1:]
			w.spread(nil, commit)
			m.Group = g
			m.save()
			w.members = append(w.members, m)
			w.same()
			if m.self != i || m.tree.Members() != 3 {
				t.Errorf("leaf %d became %d of %d members", i, m.self, m.tree.Members())
			}
		}
		w.say(w.members[0], 1)
	}
}

// A member is removed and its leaf given to another, or to itself, in one
// commit: RFC 9420 §12.3 has removes come first.
func TestSameLeafAgain(t *testing.T) {
	for _, path := range []bool{false, true} {
		w := newAttacked(t, 5)
		w.all(w.members[4], CommitOptions{}) // with keys above its leaf
		for _, leaf := range []uint32{2, 4} {
			var gone *member
			for _, m := range w.members {
				if m.self == leaf {
					gone = m
				}
			}
			again := &joiner{&member{name: gone.name, signers: gone.signers, config: gone.config}, gone.keyPackage(w)}
			w.all(w.members[0], CommitOptions{Proposals: removes(leaf), Path: path}, again)
			if again.self != leaf || gone.Status() != Removed {
				t.Errorf("leaf %d became %d", leaf, again.self)
			}
			w.all(again.member, CommitOptions{})
		}
		w.say(w.members[1], 1)
	}
}

// A group of one has a path of no nodes, RFC 9420 §7.6: it still makes a
// fresh leaf and a new epoch.
func TestAlone(t *testing.T) {
	w := newWorld(t, testSuite, 5)
	m := w.members[0]
	for range 2 {
		before := bytes.Clone(m.EpochAuthenticator())
		tr := must(m.Commit(CommitOptions{}))(t)
		if tr.Staged.Path == nil || len(tr.Staged.Path.Nodes) != 0 || tr.Welcome != nil {
			t.Errorf("a path %+v", tr.Staged.Path)
		}
		m.save()
		m.restart(w)
		w.commits(m, CommitOptions{})
		if bytes.Equal(before, m.EpochAuthenticator()) {
			t.Error("the epoch is the same")
		}
	}
	w.all(m, CommitOptions{}, w.joiner())
	w.all(w.members[1], CommitOptions{Proposals: removes(0)})
	if m.Status() != Removed || len(w.members) != 1 {
		t.Fatal("the creator is still there")
	}
	w.all(w.members[0], CommitOptions{}) // alone at leaf 1
	w.all(w.members[0], CommitOptions{Path: true}, w.joiner())
	if w.members[1].self != 0 {
		t.Errorf("the joiner has leaf %d", w.members[1].self)
	}
	w.say(w.members[0], 1)
	w.say(w.members[1], 1)
}

// The tree is cut when its right half is blank, RFC 9420 §7.7, and the member
// that is last then goes on.
func TestTruncation(t *testing.T) {
	w := newAttacked(t, 9)
	for _, m := range w.members[:9] {
		w.all(m, CommitOptions{})
	}
	for _, step := range []struct {
		gone []uint32
		last uint32
	}{{[]uint32{8}, 7}, {[]uint32{5, 6, 7}, 4}, {[]uint32{4}, 3}, {[]uint32{2, 3}, 1}} {
		w.all(w.members[0], CommitOptions{Proposals: removes(step.gone...)})
		last := w.members[len(w.members)-1]
		if last.self != step.last || last.tree.Leaves() > 2*(step.last+1) {
			t.Fatalf("the last leaf is %d of %d", last.self, last.tree.Leaves())
		}
		w.all(last, CommitOptions{})
		w.say(last, 1)
	}
	for range 3 { // and the tree grows again
		w.all(w.members[len(w.members)-1], CommitOptions{Path: true}, w.joiner(), w.joiner())
	}
	for i, m := range w.members {
		if m.self != uint32(i) {
			t.Errorf("member %d has leaf %d", i, m.self)
		}
		w.all(m, CommitOptions{})
	}
}

// Two leaves that are unmerged at the same nodes: each gets its own
// ciphertext, until somebody below commits. RFC 9420 §7.5, §7.6.
func TestUnmerged(t *testing.T) {
	w := newAttacked(t, 6)
	for _, m := range w.members[:6] {
		w.all(m, CommitOptions{})
	}
	w.all(w.members[0], CommitOptions{Proposals: removes(2, 5)})
	w.all(w.members[0], CommitOptions{}, w.joiner(), w.joiner()) // without a path: unmerged
	if p := w.members[0].tree.Parent(3); len(p.UnmergedLeaves) != 1 || len(w.members[0].tree.Parent(7).UnmergedLeaves) != 2 {
		t.Fatal("the joiners are not unmerged")
	}
	w.all(w.members[1], CommitOptions{}, w.joiner())
	for _, m := range []*member{w.members[3], w.members[len(w.members)-1], w.members[0]} {
		w.all(m, CommitOptions{})
		w.say(m, 1)
	}
}

// New leaves get no path secret but that of the Welcome: a ciphertext more is
// refused by everybody. RFC 9420 §7.6.
func TestNewLeavesExcluded(t *testing.T) {
	w := newAttacked(t, 3)
	by, to := w.members[0], w.members[2]
	k := w.client().keyPackage(w)
	f := forgery{content: func(a *mls.AuthenticatedContent) {
		nodes := a.Content.Commit.Path.Nodes
		last := &nodes[len(nodes)-1]
		var list []mls.Ciphertext
		for i := range last.Len() {
			list = append(list, last.At(i))
		}
		*last = mls.NewUpdatePathNode(last.EncryptionKey, append(list, w.sealFor(by, k.Package.Leaf.EncryptionKey, "UpdatePathNode", nil, make([]byte, 32))))
	}}
	before := to.Snapshot()
	c := w.forge(by, CommitOptions{Path: true, Proposals: []*mls.Proposal{Add(k.Package)}}, f)
	if err := w.process(to, w.parse(c.commit)); mls.RuleOf(err) != mls.RulePathCiphertexts {
		t.Errorf("got %v, want rule %d", err, mls.RulePathCiphertexts)
	}
	if !bytes.Equal(before, to.Snapshot()) {
		t.Error("the refusal changed the member")
	}
	to.save()
	w.all(by, CommitOptions{Path: true}, w.joiner())
}

// GroupContextExtensions hold for the next epoch: the commit is signed under
// the old ones, and its path is sealed under the new. RFC 9420 §12.1.7.
func TestExtensionsChange(t *testing.T) {
	w := newAttacked(t, 4)
	for i := range 3 {
		p := requires(mls.ProposalSelfRemove)
		if i == 1 {
			p.Extensions = nil
		}
		w.commit(w.members[i], CommitOptions{Proposals: []*mls.Proposal{p}})
		w.deliver(w.members[3], must(w.members[3].Propose(requires(mls.ProposalAppEphemeral), nil))(t))
		w.commit(w.members[2], CommitOptions{})
		w.add(w.members[1], 1, CommitOptions{Path: i == 0})
		w.external(w.client(), false)
	}
	w.say(w.members[0], 1)
}
