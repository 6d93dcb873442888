package mls

import (
	"errors"
	"testing"
)

// What a hostile review found: each case was a failure once.

// A staged commit belongs to one epoch of one group, not to its number.
func TestStagedFrom(t *testing.T) {
	k, other := newKit(t, 2, nil, nil), newKit(t, 2, nil, nil)
	st, err := k.g.Stage(k.commit(0, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	if !st.From(k.g) || st.From(other.g) || st.From(st.Next([]byte("tag"))) {
		t.Error("the commit is not of the epoch that it was staged in alone")
	}
}

// narrow is capabilities without any proposal beside the default ones.
func narrow() Capabilities {
	return NewCapabilities([]Version{Version10}, []Suite{testSuite}, nil, nil, []CredentialType{CredentialBasic})
}

// withNarrow is a group of wide members, the last of which knows no SelfRemove.
func withNarrow(t *testing.T) *kit {
	k := newKit(t, 3, permissive(), nil)
	c := k.client()
	c.caps = narrow()
	st := k.apply(k.commit(0, []ProposalOrRef{byValue(&Proposal{Type: ProposalAdd, Add: c.keyPackage(t, nil, nil)})}, nil))
	k.members[st.Added[0]] = c
	return k
}

// composed is what leaf 0 would commit.
func (k *kit) composed() *Staged {
	k.t.Helper()
	list, _ := k.g.Compose(Sender{SenderMember, 0}, nil)
	st, err := k.g.Plan(Sender{SenderMember, 0}, list, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	return st
}

// A SelfRemove that not all support does not save its sender from a Remove,
// and extensions that not all support do not displace those that they do.
func TestComposeDisplaced(t *testing.T) {
	k := withNarrow(t)
	k.propose(1, remove(2))
	k.propose(2, &Proposal{Type: ProposalSelfRemove})
	good := k.propose(1, gce(nil).Proposal)
	k.propose(2, gce(wideOnly).Proposal)
	st := k.composed()
	if len(st.Removed) != 1 || st.Removed[0] != 2 {
		t.Errorf("removed: %v", st.Removed)
	}
	if !st.ExtensionsChanged || len(st.Entries) != 2 || string(st.Entries[1].Ref) != string(good.Ref) {
		t.Errorf("%d entries, extensions changed: %t", len(st.Entries), st.ExtensionsChanged)
	}
	list, _ := k.g.Compose(Sender{Type: SenderNewMemberCommit}, nil, externalInit().Proposal)
	if _, err := k.g.Plan(Sender{Type: SenderNewMemberCommit}, list, k.client().leaf(LeafCommit)); err != nil {
		t.Errorf("a joiner takes a SelfRemove that not all support: %v", err)
	}
}

// proposeFrom has the group take the Add of one who is no member.
func (k *kit) proposeFrom(c *client, change func(*LeafNode)) error {
	k.t.Helper()
	p := &Proposal{Type: ProposalAdd, Add: c.keyPackage(k.t, change, nil)}
	_, err := k.g.Propose(k.message(c, Sender{Type: SenderNewMemberProposal}, func(a *AuthenticatedContent) { a.Content.Proposal = p }))
	return err
}

// However many bad proposals wait, Removes are committed, and those of
// strangers do not hold back those of members.
func TestComposeStarved(t *testing.T) {
	k := newKit(t, 4, nil, nil)
	out := k.client()
	for range maxDrops + 3 {
		if err := k.proposeFrom(out, nil); err != nil {
			t.Fatal(err)
		}
	}
	k.propose(2, k.update(2, nil))
	k.propose(1, remove(3))
	if st := k.composed(); len(st.Removed) != 1 || len(st.Updated) != 1 {
		t.Errorf("removed %v, updated %v", st.Removed, st.Updated)
	}
	// A value that is the same client leaves the Removes as well.
	_, add := k.add(nil, nil)
	add.Proposal.Add = out.keyPackage(t, nil, nil)
	list, _ := k.g.Compose(Sender{SenderMember, 0}, nil, add.Proposal)
	if st, err := k.g.Plan(Sender{SenderMember, 0}, list, nil); err != nil || len(st.Removed) != 1 || len(st.Added) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	// A member that floods keeps Removes no more.
	for range maxDrops + 3 {
		k.propose(2, &Proposal{Type: ProposalAdd, Add: out.keyPackage(t, nil, nil)})
	}
	if st := k.composed(); len(st.Removed) != 1 {
		t.Errorf("removed %v", st.Removed)
	}
}

// Of two that exclude each other, a stranger's is dropped and not a member's.
func TestComposeStrangersLast(t *testing.T) {
	name := func(l *LeafNode) string { return string(l.Credential.Data) }
	k := newKit(t, 3, &Policy{Client: name}, nil)
	out, friend := k.client(), k.client()
	out.credential = friend.credential
	if err := k.proposeFrom(out, nil); err != nil {
		t.Fatal(err)
	}
	k.propose(1, &Proposal{Type: ProposalAdd, Add: friend.keyPackage(t, nil, nil)})
	st := k.composed()
	if len(st.Added) != 1 || string(st.AddedPackages[0].Leaf.SignatureKey) != string(friend.public) {
		t.Errorf("added %v", st.Added)
	}
}

// The update that a component does not take is left out, not the first one.
func TestComposeBadUpdate(t *testing.T) {
	k := newKit(t, 3, permissive(), nil)
	first := k.propose(1, appUpdate(0x8001, "x").Proposal)
	k.propose(2, appUpdate(0x8001, "").Proposal)
	last := k.propose(1, appUpdate(0x8001, "y").Proposal)
	st := k.composed()
	if len(st.Entries) != 2 || string(st.Entries[0].Ref) != string(first.Ref) || string(st.Entries[1].Ref) != string(last.Ref) {
		t.Errorf("%d entries", len(st.Entries))
	}
}

// A client that the application refuses since it was proposed waits.
func TestComposeRevoked(t *testing.T) {
	revoked := ""
	k := newKit(t, 3, &Policy{Authenticate: func(c LeafChange) error {
		if string(c.New.Credential.Data) == revoked {
			return errors.New("revoked")
		}
		return nil
	}}, nil)
	bad, add := k.add(nil, nil)
	k.propose(1, add.Proposal)
	_, add = k.add(nil, nil)
	k.propose(1, add.Proposal)
	k.propose(2, k.update(2, nil))
	revoked = string(bad.credential.Data)
	if st := k.composed(); len(st.Added) != 1 || len(st.Updated) != 1 {
		t.Errorf("added %v, updated %v", st.Added, st.Updated)
	}
	revoked = string(k.members[2].credential.Data)
	if st := k.composed(); len(st.Added) != 2 || len(st.Updated) != 0 {
		t.Errorf("added %v, updated %v", st.Added, st.Updated)
	}
}

// RFC 9420 §7.3: the time is the sender's to check: who was offline follows a
// commit however late, and commits no key package that has expired meanwhile.
func TestLifetimeReceived(t *testing.T) {
	now := uint64(1500)
	k := newKit(t, 2, &Policy{Now: func() uint64 { return now }}, nil)
	pending, entry := k.add(nil, nil)
	a := k.commit(0, []ProposalOrRef{entry}, nil)
	now = 2001
	ref := k.propose(1, &Proposal{Type: ProposalAdd, Add: pending.keyPackage(t, nil, nil)})
	k.breaks(k.g.CheckSending(entry.Proposal), k.g.AppendTo(nil), RuleAdd, RuleLifetime)
	for _, e := range []ProposalOrRef{entry, ref} {
		_, err := k.g.Plan(Sender{SenderMember, 0}, []ProposalOrRef{e}, nil)
		k.breaks(err, k.g.AppendTo(nil), RuleAdd, RuleLifetime)
	}
	if st := k.composed(); len(st.Added) != 0 {
		t.Error("RFC 9420 §7.3: an expired key package is committed")
	}
	strict := *k.g.policy
	strict.CheckReceivedLifetimes = true
	lenient := k.g.policy
	k.g.policy = &strict
	_, err := k.g.Stage(a)
	k.breaks(err, k.g.AppendTo(nil), RuleAdd, RuleLifetime)
	k.g.policy = lenient
	if st := k.apply(a); len(st.Added) != 1 {
		t.Errorf("added %v", st.Added)
	}
}
