package mls

import (
	"bytes"
	"testing"
)

// fuzzGroup is a live group with proposals that wait, and messages for it.
func fuzzGroup(t testing.TB) (*kit, [][]byte) {
	k := newKit(t, 5, permissive(), nil)
	k.warm()
	update := k.propose(1, k.update(1, nil))
	removal := k.propose(2, remove(3))
	leave := k.propose(4, &Proposal{Type: ProposalSelfRemove})
	joiner, add := k.add(nil, nil)
	var seeds [][]byte
	for _, a := range []*AuthenticatedContent{
		k.commit(0, nil, nil),
		k.commit(0, []ProposalOrRef{update, removal, leave}, nil),
		k.commit(1, []ProposalOrRef{add, removal, byValue(psk("x", 32)), gce(wideOnly), appUpdate(0x8001, "x")}, nil),
		k.signCommit(2, []ProposalOrRef{add}, nil),
		k.joinCommit(joiner, []ProposalOrRef{externalInit(), leave}, nil),
		k.joinCommit(k.members[2], []ProposalOrRef{externalInit(), byValue(remove(2))}, nil),
		k.proposal(1, add.Proposal), k.proposal(2, k.update(2, nil)), k.proposal(3, remove(1)), k.proposal(3, gce(wideOnly).Proposal),
	} {
		m := Message{WireFormat: WirePublic, Public: &PublicMessage{AuthenticatedContent: *a, MembershipTag: make([]byte, 32)}}
		seeds = append(seeds, m.AppendTo(nil))
	}
	return k, seeds
}

// resign signs a mutated message again, with the keys of who it says it is
// from, so that what is behind the signatures is reached too.
func (k *kit) resign(a *AuthenticatedContent, joiner *client) *AuthenticatedContent {
	by, index := k.members[a.Content.Sender.Index], a.Content.Sender.Index
	switch {
	case a.Content.Sender.Type == SenderNewMemberCommit || a.Content.Sender.Type == SenderNewMemberProposal:
		by, index = joiner, k.g.Tree().Leaves()
	case by == nil:
		return a
	}
	a.Content.GroupID, a.Content.Epoch = k.g.GroupID(), k.g.Epoch()
	leaf := func(l *LeafNode) *LeafNode {
		fresh := *l
		fresh.raw = nil
		signed, err := SignLeaf(by, &fresh, k.g.GroupID(), index)
		if err != nil {
			return l
		}
		return signed
	}
	if c := a.Content.Commit; c != nil && c.Path != nil {
		path := *c.Path
		path.Leaf = leaf(path.Leaf)
		a.Content.Commit = &Commit{Proposals: c.Proposals, Path: &path}
	}
	if p := a.Content.Proposal; p != nil && p.Type == ProposalUpdate {
		a.Content.Proposal = &Proposal{Type: ProposalUpdate, Update: leaf(p.Update)}
	}
	if err := a.Sign(by, k.g.ContextBytes()); err != nil {
		return a
	}
	if read, err := ParseAuthenticatedContent(a.Raw()); err == nil {
		return read
	}
	return a
}

// FuzzStage gives mutated messages to a live group: nothing panics, no refusal
// and no staging changes the group, and a commit that is accepted leads to a
// tree that a joiner would accept.
func FuzzStage(f *testing.F) {
	k, seeds := fuzzGroup(f)
	joiner := k.client()
	for _, b := range seeds {
		f.Add(b, false)
		f.Add(b, true)
	}
	snapshot := k.g.AppendTo(nil)
	f.Fuzz(func(t *testing.T, b []byte, again bool) {
		m, err := Parse(b)
		if err != nil || m.Public == nil {
			return
		}
		a := &m.Public.AuthenticatedContent
		if again {
			a = k.resign(a, joiner)
		}
		if a.Content.ContentType == ContentProposal {
			g, err := ParsePublicGroup(snapshot, k.g.Policy())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := g.Propose(a); err != nil && (RuleOf(err) == 0 || !bytes.Equal(g.AppendTo(nil), snapshot)) {
				t.Fatalf("RFC 9420 §14: %v", err)
			}
			return
		}
		st, err := k.g.Stage(a)
		if !bytes.Equal(k.g.AppendTo(nil), snapshot) {
			t.Fatalf("RFC 9420 §14: staging changed the group: %v", err)
		}
		if err != nil {
			if RuleOf(err) == 0 {
				t.Fatalf("a refusal without a rule: %v", err)
			}
			return
		}
		if err := st.Tree.Validate(k.g.GroupID(), nil); err != nil {
			t.Fatalf("RFC 9420 §12.2: the tree is not valid after the commit: %v", err)
		}
	})
}

// TestStageMutations turns over each octet of each message in its turn, signs
// again, and demands the same of the group as FuzzStage.
func TestStageMutations(t *testing.T) {
	k, seeds := fuzzGroup(t)
	joiner := k.client()
	snapshot := k.g.AppendTo(nil)
	staged, refusals := 0, make(map[Rule]int)
	for n, seed := range seeds {
		for at := n % 3; at < len(seed); at += 3 {
			b := bytes.Clone(seed)
			b[at] ^= 1 << (at % 7)
			m, err := Parse(b)
			if err != nil {
				continue
			}
			a := k.resign(&m.Public.AuthenticatedContent, joiner)
			if a.Content.ContentType != ContentCommit {
				continue
			}
			st, err := k.g.Stage(a)
			if err != nil {
				refusals[RuleOf(err)]++
				continue
			}
			staged++
			if err := st.Tree.Validate(k.g.GroupID(), nil); err != nil {
				t.Fatalf("message %d, octet %d: RFC 9420 §12.2: %v", n, at, err)
			}
		}
		if !bytes.Equal(k.g.AppendTo(nil), snapshot) {
			t.Fatalf("RFC 9420 §14: message %d changed the group", n)
		}
	}
	if refusals[0] > 0 || len(refusals) < 8 || staged == 0 {
		t.Errorf("%d staged; refused by rule: %v", staged, refusals)
	}
}
