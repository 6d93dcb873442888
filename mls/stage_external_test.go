package mls

import "testing"

// External commits that are signed and wrong: RFC 9420 §12.2, §12.4.3.2.
func TestExternalCommitRules(t *testing.T) {
	for _, c := range []struct {
		name   string
		rules  []Rule
		resync bool // of leaf 3, by somebody else
		policy *Policy
		list   func(k *kit) []ProposalOrRef
	}{
		{"§12.2 no ExternalInit", []Rule{RuleExternalProposals}, false, nil, func(*kit) []ProposalOrRef { return nil }},
		{"§12.2 two ExternalInits", []Rule{RuleExternalProposals}, false, nil, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), externalInit()}
		}},
		{"§12.2 two Removes", []Rule{RuleExternalProposals}, false, nil, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), byValue(remove(1)), byValue(remove(2))}
		}},
		{"§12.2 an Add", []Rule{RuleExternalProposals}, false, nil, func(k *kit) []ProposalOrRef {
			_, entry := k.add(nil, nil)
			return []ProposalOrRef{externalInit(), entry}
		}},
		{"§12.2 GroupContextExtensions", []Rule{RuleExternalProposals}, false, nil, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), gce(nil)}
		}},
		{"§12.2 an Update", []Rule{RuleExternalProposals}, false, nil, func(k *kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), byValue(k.update(1, nil))}
		}},
		{"§12.2 a private type", []Rule{RuleExternalProposals}, false, permissive(), func(k *kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), byValue(&Proposal{Type: privateType})}
		}},
		{"extensions §6.3.1 SelfRemove by value", []Rule{RuleSelfRemove}, false, nil, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), byValue(&Proposal{Type: ProposalSelfRemove})}
		}},
		{"§12.4.3.2 a proposal by reference", []Rule{RuleExternalCommit}, false, nil, func(k *kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), k.propose(1, psk("x", 32))}
		}},
		{"§12.1.3 Remove of a blank leaf", []Rule{RuleRemove}, false, nil, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), byValue(remove(9))}
		}},
		{"§5.3.1 resync of another", []Rule{RuleCredentialSuccession}, true, nil, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), byValue(remove(3))}
		}},
		{"§12.4.3.2 external commits forbidden", []Rule{RuleExternalPolicy}, false, &Policy{ForbidExternalCommit: true}, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit()}
		}},
		{"§12.4.3.2 resync forbidden", []Rule{RuleExternalPolicy}, true, &Policy{ForbidResync: true}, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit(), byValue(remove(3))}
		}},
		{"§12.4.3.2 PSK demanded", []Rule{RuleExternalPolicy}, false, &Policy{RequireExternalPSK: true}, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit()}
		}},
		{"§16.11 group is full", []Rule{RuleBounds}, false, &Policy{MaxMembers: 4}, func(*kit) []ProposalOrRef {
			return []ProposalOrRef{externalInit()}
		}},
	} {
		t.Run(ruleNames(c.name, c.rules...), func(t *testing.T) {
			k := newKit(t, 4, nil, nil)
			k.warm()
			k.g.policy = permissive()
			list := c.list(k)
			a := k.anyJoin(k.client(), list)
			if c.resync {
				a = k.joinAt3(list)
			}
			k.g.policy = c.policy.orZero()
			before := k.g.AppendTo(nil)
			_, err := k.g.Stage(a)
			k.breaks(err, before, c.rules...)
		})
	}
}

// joinAt3 is an external commit that takes the place of leaf 3, whoever that is.
func (k *kit) joinAt3(list []ProposalOrRef) *AuthenticatedContent {
	k.t.Helper()
	k.g.policy = &Policy{Authenticate: func(LeafChange) error { return nil }}
	return k.joinCommit(k.client(), list, nil)
}

// joinList is the list of an external commit that joins and no more.
func joinList() []ProposalOrRef { return []ProposalOrRef{externalInit()} }

// External commits whose paths are wrong.
var badJoins = []struct {
	name  string
	rules []Rule
	make  func(k *kit) *AuthenticatedContent
}{
	{"§12.4.3.2 no path", []Rule{RuleExternalCommit}, func(k *kit) *AuthenticatedContent {
		return k.signJoin(k.client(), joinList(), nil)
	}},
	{"§12.4.3.2 signed by another than the leaf's key", []Rule{RuleContentSignature}, func(k *kit) *AuthenticatedContent {
		st, err := k.g.Plan(Sender{Type: SenderNewMemberCommit}, joinList(), k.client().leaf(LeafCommit))
		if err != nil {
			k.t.Fatal(err)
		}
		return k.signJoin(k.client(), joinList(), k.path(st, k.client(), nil))
	}},
	{"§12.4.3.2 leaf signed for another place", []Rule{RulePathLeaf, RuleLeafSignature}, func(k *kit) *AuthenticatedContent {
		c := k.client()
		return k.joinCommit(c, joinList(), &pathChange{signed: func(l *LeafNode) *LeafNode {
			l, err := SignLeaf(c, l, k.g.GroupID(), 3)
			if err != nil {
				k.t.Fatal(err)
			}
			return l
		}})
	}},
	{"§12.4.2 signature key of a member", []Rule{RuleMemberKeysUnique}, func(k *kit) *AuthenticatedContent {
		c := k.client()
		st, err := k.g.Plan(Sender{Type: SenderNewMemberCommit}, joinList(), c.leaf(LeafCommit))
		if err != nil {
			k.t.Fatal(err)
		}
		return k.signJoin(k.members[1], joinList(), k.path(st, k.members[1], nil))
	}},
	{"§12.4.2 encryption key of a member", []Rule{RulePathKeysUnique}, func(k *kit) *AuthenticatedContent {
		return k.joinCommit(k.client(), joinList(), &pathChange{leaf: func(st *Staged, l *LeafNode) { l.EncryptionKey = st.Tree.PublicKey(2) }})
	}},
	{"§12.4.2 leaf's key on the path", []Rule{RulePathKeysUnique}, func(k *kit) *AuthenticatedContent {
		var first []byte
		return k.joinCommit(k.client(), joinList(), &pathChange{
			keys: func(_ *Staged, keys [][]byte) { first = keys[0] },
			leaf: func(_ *Staged, l *LeafNode) { l.EncryptionKey = first },
		})
	}},
	{"§7.3 encryption key of the leaf it resyncs", []Rule{RulePathLeaf, RuleLeafKeyUnchanged}, func(k *kit) *AuthenticatedContent {
		key := k.g.Tree().PublicKey(2 * 3)
		list := []ProposalOrRef{externalInit(), byValue(remove(3))}
		return k.joinCommit(k.members[3], list, &pathChange{leaf: func(_ *Staged, l *LeafNode) { l.EncryptionKey = key }})
	}},
	{"§7.9.2 parent hash", []Rule{RulePathParentHash}, func(k *kit) *AuthenticatedContent {
		return k.joinCommit(k.client(), joinList(), &pathChange{leaf: func(_ *Staged, l *LeafNode) { l.ParentHash = nil }})
	}},
	{"§7.6 ciphertexts", []Rule{RulePathCiphertexts}, func(k *kit) *AuthenticatedContent {
		return k.joinCommit(k.client(), joinList(), &pathChange{nodes: func(n []UpdatePathNode) []UpdatePathNode {
			n[0] = NewUpdatePathNode(n[0].EncryptionKey, nil)
			return n
		}})
	}},
	{"§12.1 not a member", []Rule{RuleSenderType}, func(k *kit) *AuthenticatedContent {
		return k.message(k.client(), Sender{Type: SenderNewMemberProposal}, func(a *AuthenticatedContent) { a.Content.Commit = &Commit{} })
	}},
}

func TestExternalPathRules(t *testing.T) {
	for _, c := range badJoins {
		t.Run(ruleNames(c.name, c.rules...), func(t *testing.T) {
			k := newKit(t, 4, nil, nil)
			k.warm()
			a := c.make(k)
			before := k.g.AppendTo(nil)
			_, err := k.g.Stage(a)
			k.breaks(err, before, c.rules...)
		})
	}
}

// RFC 9420 §12.4.3.2: where joiners of external commits stand.
func TestExternalPlace(t *testing.T) {
	k := newKit(t, 4, permissive(), nil)
	k.warm()
	a := k.client()
	if st := k.apply(k.joinCommit(a, []ProposalOrRef{externalInit()}, nil)); st.Committer != 4 || k.g.Tree().Leaves() != 8 {
		t.Errorf("RFC 9420 §7.7: joined at %d", st.Committer)
	}
	k.members[4] = a
	// The leftmost leaf that is blank after the Remove is the removed one's.
	if st := k.apply(k.joinCommit(k.members[2], []ProposalOrRef{externalInit(), byValue(remove(2))}, nil)); st.Committer != 2 {
		t.Errorf("RFC 9420 §12.4.3.2: resynced at %d", st.Committer)
	}
	// draft-ietf-mls-extensions-10 §6.3.1: SelfRemoves go along.
	ref := k.propose(1, &Proposal{Type: ProposalSelfRemove})
	list, path := k.g.Compose(Sender{Type: SenderNewMemberCommit}, nil, externalInit().Proposal)
	if len(list) != 2 || string(list[0].Ref) != string(ref.Ref) || !path {
		t.Fatalf("composed %d entries, path %t", len(list), path)
	}
	b := k.client()
	if st := k.apply(k.joinCommit(b, list, nil)); st.Committer != 1 || st.Removed[0] != 1 {
		t.Errorf("joined at %d", st.Committer)
	}
	k.members[1] = b
	c := k.client()
	st := k.apply(k.joinCommit(c, []ProposalOrRef{externalInit(), appUpdate(0x8001, "x"),
		byValue(&Proposal{Type: ProposalAppEphemeral, Component: 0x8001, Data: []byte("x")})}, nil))
	if st.Committer != 5 || !st.ExtensionsChanged {
		t.Errorf("with application data: %+v", st)
	}
}
