package mls

import (
	"bytes"
	"testing"
)

// wideOnly is a list of extensions that members of a kit support.
var wideOnly = Extensions{{0xf001, []byte("x")}}

// listCase is a list of proposals that is wrong; the commit of it is signed.
type listCase struct {
	name   string
	rules  []Rule
	policy *Policy
	list   func(k *kit) []ProposalOrRef
}

var badLists = []listCase{
	{"§12.1.3 Remove of a blank leaf", []Rule{RuleRemove}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(remove(7))}
	}},
	{"§12.1.3 Remove beyond the tree", []Rule{RuleRemove}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(remove(1 << 31))}
	}},
	{"§8.4 nonce of a PSK", []Rule{RulePreSharedKey}, nil, func(k *kit) []ProposalOrRef { return []ProposalOrRef{byValue(psk("x", 31))} }},
	{"§11.2 reinit PSK", []Rule{RulePreSharedKey}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(&Proposal{Type: ProposalPSK, PSK: PreSharedKeyID{Type: PSKResumption, Usage: UsageReInit, Nonce: make([]byte, 32)}})}
	}},
	{"§11.3 branch PSK", []Rule{RulePreSharedKey}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(&Proposal{Type: ProposalPSK, PSK: PreSharedKeyID{Type: PSKResumption, Usage: UsageBranch, Nonce: make([]byte, 32)}})}
	}},
	{"extensions §4.5 component PSK", []Rule{RuleComponentPSK}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(&Proposal{Type: ProposalPSK, PSK: ComponentPSK(0, nil, make([]byte, 32))})}
	}},
	{"§12.1.5 version of a ReInit", []Rule{RuleReInit}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(&Proposal{Type: ProposalReInit, ReInit: ReInit{Version: 0, Suite: testSuite}})}
	}},
	{"§12.1.6 ExternalInit of a member", []Rule{RuleExternalInit}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{externalInit()}
	}},
	{"§12.1.7 malformed extension", []Rule{RuleGroupContextExtensions}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{gce(Extensions{{ExtRequiredCapabilities, []byte{1}}})}
	}},
	{"§12.1.7 extension not supported", []Rule{RuleGroupContextExtensions, RuleGroupExtensionsSupport}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{gce(Extensions{{0xf777, nil}})}
	}},
	{"§12.1.7 required and not supported", []Rule{RuleGroupContextExtensions, RuleRequiredCapabilities}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{gce(Extensions{{ExtRequiredCapabilities, RequiredCapabilities{Proposals: NewList(ProposalType(0xf777))}.AppendTo(nil)}})}
	}},
	{"§12.1.8.1 malformed external senders", []Rule{RuleGroupContextExtensions}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{gce(Extensions{{ExtExternalSenders, []byte{1}}})}
	}},
	{"extensions §5 wire format not supported", []Rule{RuleGroupContextExtensions, RuleRequiredWireFormats}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{gce(Extensions{{ExtRequiredWireFormats, WireFormats(0xf001)}})}
	}},
	{"§12.2 unknown type", []Rule{RuleCustomProposal}, permissive(), func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(&Proposal{Type: 0xf777})}
	}},
	{"§13.5 GREASE", []Rule{RuleCustomProposal}, &Policy{CustomProposals: func(ProposalType) (bool, bool) { return true, false }},
		func(k *kit) []ProposalOrRef { return []ProposalOrRef{byValue(&Proposal{Type: 0x0a0a})} }},
	{"§13.2 type that not all support", []Rule{RuleCustomProposal}, &Policy{CustomProposals: func(ProposalType) (bool, bool) { return true, false }},
		func(k *kit) []ProposalOrRef { return []ProposalOrRef{byValue(&Proposal{Type: 0xf777})} }},
	{"§12.4 reference to nothing", []Rule{RuleProposalReference}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{{Ref: make([]byte, 32)}}
	}},
	{"§12.4 reference to a proposal forgotten", []Rule{RuleProposalReference}, nil, func(k *kit) []ProposalOrRef {
		e := k.propose(1, remove(2))
		k.g.Forget(e.Ref)
		return []ProposalOrRef{e}
	}},
	{"§12.2 Update of the committer by value", []Rule{RuleCommitterProposal}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(k.update(0, nil))}
	}},
	{"§12.2 Update of the committer by reference", []Rule{RuleCommitterProposal}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{k.propose(0, k.update(0, nil))}
	}},
	{"§12.2 Remove of the committer", []Rule{RuleCommitterProposal}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(remove(0))}
	}},
	{"§12.2 SelfRemove of the committer", []Rule{RuleCommitterProposal}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{k.propose(0, &Proposal{Type: ProposalSelfRemove})}
	}},
	{"§12.2 two Removes of a leaf", []Rule{RuleLeafChangedTwice}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(remove(1)), byValue(remove(1))}
	}},
	{"§12.2 Update and Remove of a leaf", []Rule{RuleLeafChangedTwice}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{k.propose(1, k.update(1, nil)), byValue(remove(1))}
	}},
	{"§12.2 two Updates of a leaf", []Rule{RuleLeafChangedTwice}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{k.propose(1, k.update(1, nil)), k.propose(1, k.update(1, nil))}
	}},
	{"extensions §6.3.1 SelfRemove and Remove of a leaf", []Rule{RuleLeafChangedTwice}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{k.propose(1, &Proposal{Type: ProposalSelfRemove}), byValue(remove(1))}
	}},
	{"§12.2 two Adds of a client", []Rule{RuleDuplicateClient}, nil, func(k *kit) []ProposalOrRef {
		c, entry := k.add(nil, nil)
		return []ProposalOrRef{entry, byValue(&Proposal{Type: ProposalAdd, Add: c.keyPackage(k.t, nil, nil)})}
	}},
	{"§12.2 Add of a member", []Rule{RuleDuplicateClient}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(&Proposal{Type: ProposalAdd, Add: k.members[2].keyPackage(k.t, nil, nil)})}
	}},
	{"§7.3 encryption key of a member", []Rule{RuleMemberKeysUnique}, nil, func(k *kit) []ProposalOrRef {
		_, entry := k.add(func(l *LeafNode) { l.EncryptionKey = k.g.Tree().Leaf(1).EncryptionKey }, nil)
		return []ProposalOrRef{entry}
	}},
	{"§7.3 two leaves with one encryption key", []Rule{RuleMemberKeysUnique}, nil, func(k *kit) []ProposalOrRef {
		c, first := k.add(nil, nil)
		key := c.key()
		_, first = k.add(func(l *LeafNode) { l.EncryptionKey = key }, nil)
		_, second := k.add(func(l *LeafNode) { l.EncryptionKey = key }, nil)
		return []ProposalOrRef{first, second}
	}},
	{"§7.3 signature key of another member", []Rule{RuleMemberKeysUnique}, nil, func(k *kit) []ProposalOrRef {
		l := k.members[2].leaf(LeafUpdate)
		signed, err := SignLeaf(k.members[2], l, k.g.GroupID(), 1)
		if err != nil {
			k.t.Fatal(err)
		}
		return []ProposalOrRef{k.propose(1, &Proposal{Type: ProposalUpdate, Update: signed})}
	}},
	{"§12.4.3.1 encryption key of a parent", []Rule{RuleParentKeysUnique}, nil, func(k *kit) []ProposalOrRef {
		_, entry := k.add(func(l *LeafNode) { l.EncryptionKey = k.g.Tree().PublicKey(1) }, nil)
		return []ProposalOrRef{entry}
	}},
	{"§12.2 a PSK twice", []Rule{RuleProposalList}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(psk("x", 32)), byValue(psk("x", 32))}
	}},
	{"§12.2 two GroupContextExtensions", []Rule{RuleProposalList}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{gce(wideOnly), gce(wideOnly)}
	}},
	{"§12.2 ReInit with another", []Rule{RuleProposalList}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(psk("x", 32)), byValue(&Proposal{Type: ProposalReInit, ReInit: ReInit{Version: 1, Suite: testSuite}})}
	}},
	{"§16.11 too many PSKs", []Rule{RuleBounds}, nil, func(k *kit) []ProposalOrRef {
		var out []ProposalOrRef
		for i := range MaxPSKs + 1 {
			out = append(out, byValue(psk(string(rune(i+1)), 32)))
		}
		return out
	}},
	{"§16.11 too many members", []Rule{RuleBounds}, &Policy{MaxMembers: 4}, func(k *kit) []ProposalOrRef {
		_, entry := k.add(nil, nil)
		return []ProposalOrRef{entry}
	}},
	{"extensions §6.3.1 SelfRemove by value", []Rule{RuleSelfRemove}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(&Proposal{Type: ProposalSelfRemove})}
	}},
	{"extensions §4.7 unknown component", []Rule{RuleAppDataUpdate}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{appUpdate(0x8001, "x")}
	}},
	{"extensions §4.7 component 0", []Rule{RuleAppDataUpdate}, permissive(), func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{appUpdate(0, "x")}
	}},
	{"extensions §4.7 update that the application refuses", []Rule{RuleAppDataUpdate}, permissive(), func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{appUpdate(0x8001, "")}
	}},
	{"extensions §4.7 removal of nothing", []Rule{RuleAppDataUpdate}, permissive(), func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{appRemove(0x8001)}
	}},
	{"extensions §4.7 update and removal", []Rule{RuleAppDataUpdate}, permissive(), func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{appUpdate(0x8001, "x"), appRemove(0x8001)}
	}},
	{"extensions §4.6 dictionary out of order", []Rule{RuleGroupContextExtensions, RuleAppDataDictionary}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{gce(Extensions{{ExtAppDataDictionary, AppData{{2, nil}, {1, nil}}.AppendTo(nil)}})}
	}},
	{"extensions §4.8 ephemeral data that the application refuses", []Rule{RuleCustomProposal}, permissive(), func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(&Proposal{Type: ProposalAppEphemeral, Component: 0x8001})}
	}},
	{"extensions §4.8 ephemeral component 0", []Rule{RuleCustomProposal}, nil, func(k *kit) []ProposalOrRef {
		return []ProposalOrRef{byValue(&Proposal{Type: ProposalAppEphemeral, Data: []byte("x")})}
	}},
}

func gce(e Extensions) ProposalOrRef {
	return byValue(&Proposal{Type: ProposalGroupContextExtensions, Extensions: e})
}

func appRemove(c ComponentID) ProposalOrRef {
	return byValue(&Proposal{Type: ProposalAppDataUpdate, Component: c, Operation: AppDataRemove})
}

// TestListRules has a member commit lists that are wrong. Their paths are
// those of a commit without changes, so removes do not make them longer.
func TestListRules(t *testing.T) {
	for _, c := range badLists {
		t.Run(ruleNames(c.name, c.rules...), func(t *testing.T) {
			k := newKit(t, 4, c.policy, nil)
			k.warm()
			list := c.list(k)
			before := k.g.AppendTo(nil)
			_, err := k.g.Stage(k.anyCommit(0, list))
			k.breaks(err, before, c.rules...)
			_, err = k.g.Plan(Sender{SenderMember, 0}, list, nil)
			k.breaks(err, before, c.rules...)
		})
	}
}

// Proposals that are wrong alone are refused when they arrive.
func TestProposeRules(t *testing.T) {
	outside := newClient(t, "outside", seeded(9))
	external := func(p *Proposal) func(k *kit) *AuthenticatedContent {
		return func(k *kit) *AuthenticatedContent {
			return k.message(outside, Sender{SenderExternal, 0}, func(a *AuthenticatedContent) { a.Content.Proposal = p })
		}
	}
	member := func(p func(k *kit) *Proposal) func(k *kit) *AuthenticatedContent {
		return func(k *kit) *AuthenticatedContent { return k.proposal(1, p(k)) }
	}
	for _, c := range []struct {
		name  string
		rules []Rule
		make  func(k *kit) *AuthenticatedContent
	}{
		{"§12.1.8 external ExternalInit", []Rule{RuleExternalProposal}, external(externalInit().Proposal)},
		{"§12.1.8 external SelfRemove", []Rule{RuleExternalProposal}, external(&Proposal{Type: ProposalSelfRemove})},
		{"§12.1.8 external private type", []Rule{RuleExternalProposal}, external(&Proposal{Type: privateType})},
		{"§12.1.6 ExternalInit", []Rule{RuleExternalInit}, member(func(*kit) *Proposal { return externalInit().Proposal })},
		{"§12.1.3 Remove of a blank leaf", []Rule{RuleRemove}, member(func(*kit) *Proposal { return remove(3) })},
		{"§7.3 source of an Update", []Rule{RuleUpdate, RuleLeafSource}, member(func(k *kit) *Proposal {
			return k.update(1, func(l *LeafNode) { l.Source = LeafCommit })
		})},
		{"§7.3 encryption key of an Update", []Rule{RuleUpdate, RuleLeafKeyUnchanged}, member(func(k *kit) *Proposal {
			return k.update(1, func(l *LeafNode) { l.EncryptionKey = k.g.Tree().Leaf(1).EncryptionKey })
		})},
		{"§5.1.1 malformed key of an Update", []Rule{RuleUpdate, RuleLeafKeys}, member(func(k *kit) *Proposal {
			return k.update(1, func(l *LeafNode) { l.EncryptionKey = nil })
		})},
		{"§7.2 Update for another leaf", []Rule{RuleUpdate, RuleLeafSignature}, member(func(k *kit) *Proposal {
			l, err := SignLeaf(k.members[1], k.members[1].leaf(LeafUpdate), k.g.GroupID(), 2)
			if err != nil {
				k.t.Fatal(err)
			}
			return &Proposal{Type: ProposalUpdate, Update: l}
		})},
		{"§7.2 Update for another group", []Rule{RuleUpdate, RuleLeafSignature}, member(func(k *kit) *Proposal {
			l, err := SignLeaf(k.members[1], k.members[1].leaf(LeafUpdate), []byte("other"), 1)
			if err != nil {
				k.t.Fatal(err)
			}
			return &Proposal{Type: ProposalUpdate, Update: l}
		})},
		{"§12.1.4 nonce", []Rule{RulePreSharedKey}, member(func(*kit) *Proposal { return psk("x", 33) })},
		{"§12.1.5 version", []Rule{RuleReInit}, member(func(*kit) *Proposal { return &Proposal{Type: ProposalReInit} })},
		{"§12.1.7 extensions", []Rule{RuleGroupContextExtensions}, member(func(*kit) *Proposal {
			return gce(Extensions{{ExtExternalSenders, []byte{9}}}).Proposal
		})},
		{"extensions §6.3.1 second SelfRemove", []Rule{RuleSelfRemove}, func(k *kit) *AuthenticatedContent {
			k.propose(1, &Proposal{Type: ProposalSelfRemove})
			return k.message(k.members[1], Sender{SenderMember, 1}, func(a *AuthenticatedContent) {
				a.Content.AuthenticatedData, a.Content.Proposal = []byte("again"), &Proposal{Type: ProposalSelfRemove}
			})
		}},
		{"§6 a commit", []Rule{RuleContentType}, func(k *kit) *AuthenticatedContent { return k.commit(0, nil, nil) }},
	} {
		t.Run(ruleNames(c.name, c.rules...), func(t *testing.T) {
			k := newKit(t, 3, permissive(), Extensions{senders(outside)})
			a := c.make(k)
			before := k.g.AppendTo(nil)
			_, err := k.g.Propose(a)
			k.breaks(err, before, c.rules...)
		})
	}
}

// Pending proposals are bounded: RFC 9420 §16.11.
func TestPendingBounds(t *testing.T) {
	k := newKit(t, 2, nil, nil)
	for i := range MaxPending {
		a := &AuthenticatedContent{raw: make([]byte, 10)}
		k.g.pending.add(&PendingProposal{Ref: []byte{byte(i), byte(i >> 8), byte(i >> 16)}, Proposal: remove(1), Content: a})
	}
	_, err := k.g.Propose(k.proposal(0, remove(1)))
	refused(t, "one more", err, RuleBounds)
	for _, n := range k.g.Pending()[1:] {
		k.g.Forget(n.Ref)
	}
	k.g.Forget([]byte("unknown"))
	if len(k.g.Pending()) != 1 || k.g.pending.octets != 10 || len(k.g.pending.list) > 2 {
		t.Errorf("%d left in %d, %d octets", len(k.g.Pending()), len(k.g.pending.list), k.g.pending.octets)
	}
	k.g.pending.octets = MaxPendingOctets
	_, err = k.g.Propose(k.proposal(0, remove(1)))
	refused(t, "one octet more", err, RuleBounds)
}

// Paths that are wrong, each with a leaf and a content signed over them.
func TestPathRules(t *testing.T) {
	for _, c := range []struct {
		name   string
		rules  []Rule
		change pathChange
	}{
		{"§7.3 source", []Rule{RulePathLeaf, RuleLeafSource}, pathChange{leaf: func(_ *Staged, l *LeafNode) { l.Source = LeafUpdate }}},
		{"§12.4.2 encryption key of the old leaf", []Rule{RulePathLeaf, RuleLeafKeyUnchanged}, pathChange{leaf: func(st *Staged, l *LeafNode) {
			l.EncryptionKey = st.Tree.Leaf(st.Committer).EncryptionKey
		}}},
		{"§5.1.1 malformed key", []Rule{RulePathLeaf, RuleLeafKeys}, pathChange{leaf: func(_ *Staged, l *LeafNode) { l.EncryptionKey = []byte{1} }}},
		{"§7.2 signature", []Rule{RulePathLeaf, RuleLeafSignature}, pathChange{signed: func(l *LeafNode) *LeafNode {
			forged := *l
			forged.raw, forged.Signature = nil, make([]byte, 64)
			return &forged
		}}},
		{"§7.3 leaf extension", []Rule{RulePathLeaf, RuleLeafExtensions}, pathChange{leaf: func(_ *Staged, l *LeafNode) {
			l.Extensions = Extensions{{0xf777, nil}}
		}}},
		{"§7.6 too short", []Rule{RulePathLength}, pathChange{nodes: func(n []UpdatePathNode) []UpdatePathNode { return n[:1] }}},
		{"§7.6 too long", []Rule{RulePathLength}, pathChange{nodes: func(n []UpdatePathNode) []UpdatePathNode { return append(n, n[0]) }}},
		{"§7.6 a ciphertext more", []Rule{RulePathCiphertexts}, pathChange{nodes: func(n []UpdatePathNode) []UpdatePathNode {
			n[1] = NewUpdatePathNode(n[1].EncryptionKey, make([]Ciphertext, n[1].Len()+1))
			return n
		}}},
		{"§7.6 a ciphertext less", []Rule{RulePathCiphertexts}, pathChange{nodes: func(n []UpdatePathNode) []UpdatePathNode {
			n[0] = NewUpdatePathNode(n[0].EncryptionKey, nil)
			return n
		}}},
		{"§12.4.2 key of a parent", []Rule{RulePathKeysUnique}, pathChange{keys: func(st *Staged, keys [][]byte) { keys[0] = st.Tree.PublicKey(1) }}},
		{"§12.4.2 key of a leaf", []Rule{RulePathKeysUnique}, pathChange{keys: func(st *Staged, keys [][]byte) { keys[1] = st.Tree.PublicKey(4) }}},
		{"§12.4.2 a key twice", []Rule{RulePathKeysUnique}, pathChange{keys: func(st *Staged, keys [][]byte) { keys[1] = keys[0] }}},
		{"§12.4.2 leaf's key of a member", []Rule{RulePathKeysUnique}, pathChange{leaf: func(st *Staged, l *LeafNode) { l.EncryptionKey = st.Tree.PublicKey(2) }}},
		{"§12.4.2 leaf's key of a former parent", []Rule{RulePathKeysUnique}, pathChange{leaf: func(st *Staged, l *LeafNode) { l.EncryptionKey = st.Tree.PublicKey(1) }}},
		{"RFC 9180 §7.1.4 malformed key", []Rule{RuleDHValidation}, pathChange{keys: func(st *Staged, keys [][]byte) { keys[0] = []byte{1} }}},
		{"§7.9.2 parent hash", []Rule{RulePathParentHash}, pathChange{leaf: func(_ *Staged, l *LeafNode) { l.ParentHash = make([]byte, 32) }}},
		{"§7.9.2 no parent hash", []Rule{RulePathParentHash}, pathChange{leaf: func(_ *Staged, l *LeafNode) { l.ParentHash = nil }}},
	} {
		t.Run(ruleNames(c.name, c.rules...), func(t *testing.T) {
			k := newKit(t, 4, nil, nil)
			k.warm()
			before := k.g.AppendTo(nil)
			_, err := k.g.Stage(k.commit(0, nil, &c.change))
			k.breaks(err, before, c.rules...)
		})
	}
	t.Run("§7.3 signature key of another member", func(t *testing.T) {
		k := newKit(t, 4, nil, nil)
		k.members[0] = k.members[1]
		before := k.g.AppendTo(nil)
		_, err := k.g.Stage(k.commit(0, nil, nil))
		k.breaks(err, before, RulePathLeaf, RuleMemberKeysUnique)
	})
}

// RFC 9420 §12.4: what demands a path.
func TestPathRequired(t *testing.T) {
	k := newKit(t, 4, permissive(), nil)
	_, add := k.add(nil, nil)
	self := k.propose(3, &Proposal{Type: ProposalSelfRemove})
	update := k.propose(2, k.update(2, nil))
	for name, c := range map[string]struct {
		list   []ProposalOrRef
		demand bool
	}{
		"an empty list":          {nil, true},
		"Update":                 {[]ProposalOrRef{update}, true},
		"Remove":                 {[]ProposalOrRef{byValue(remove(1))}, true},
		"SelfRemove":             {[]ProposalOrRef{self}, true},
		"GroupContextExtensions": {[]ProposalOrRef{gce(wideOnly)}, true},
		"a private type":         {[]ProposalOrRef{byValue(&Proposal{Type: privateType})}, true},
		"Add and Remove":         {[]ProposalOrRef{add, byValue(remove(1))}, true},
		"Add":                    {[]ProposalOrRef{add}, false},
		"PreSharedKey":           {[]ProposalOrRef{byValue(psk("x", 32))}, false},
		"AppDataUpdate":          {[]ProposalOrRef{appUpdate(0x8001, "x")}, false},
		"ReInit":                 {[]ProposalOrRef{byValue(&Proposal{Type: ProposalReInit, ReInit: ReInit{Version: 1, Suite: 1}})}, false},
	} {
		before := k.g.AppendTo(nil)
		st, err := k.g.Stage(k.signCommit(0, c.list, nil))
		if c.demand {
			k.breaks(err, before, RulePathRequired)
		} else if err != nil || st.NeedsPath {
			t.Errorf("%s: %v", name, err)
		}
		if k.g.needsPath(Sender{SenderMember, 0}, c.list) != c.demand {
			t.Errorf("%s: Compose does not agree", name)
		}
		k.apply0(name, c.list)
	}
}

// apply0 stages the list with a path, which is always allowed.
func (k *kit) apply0(name string, list []ProposalOrRef) {
	k.t.Helper()
	if st, err := k.g.Stage(k.commit(0, list, nil)); err != nil || st.Path == nil {
		k.t.Errorf("RFC 9420 §12.4: %s with a path: %v", name, err)
	}
}

// RFC 9420 §12.3: the order of the list does not matter where the RFC sets one.
func TestProposalOrder(t *testing.T) {
	k := newKit(t, 4, nil, nil)
	k.warm()
	required := RequiredCapabilities{Extensions: NewList(ExtensionType(0xf001))}
	_, add := k.add(nil, nil)
	update := k.propose(2, k.update(2, nil))
	extensions := gce(Extensions{{ExtRequiredCapabilities, required.AppendTo(nil)}})
	lists := [][]ProposalOrRef{
		{add, byValue(remove(1)), update, extensions},
		{extensions, update, byValue(remove(1)), add},
	}
	var hashes [][]byte
	for _, list := range lists {
		st, err := k.g.Plan(Sender{SenderMember, 0}, list, nil)
		if err != nil {
			t.Fatal(err)
		}
		// RFC 9420 §12.1.1, §7.7: the leftmost blank leaf is the one removed.
		if st.Added[0] != 1 {
			t.Errorf("RFC 9420 §12.3: added at %d", st.Added[0])
		}
		hashes = append(hashes, st.Tree.Hash())
	}
	if !bytes.Equal(hashes[0], hashes[1]) {
		t.Error("RFC 9420 §12.3: the order changed the tree")
	}
	// The new extensions judge the other proposals.
	_, narrow := k.add(func(l *LeafNode) {
		l.Capabilities = NewCapabilities([]Version{Version10}, []Suite{testSuite}, nil, nil, []CredentialType{CredentialBasic})
	}, nil)
	before := k.g.AppendTo(nil)
	_, err := k.g.Stage(k.anyCommit(0, []ProposalOrRef{narrow, extensions}))
	k.breaks(err, before, RuleRequiredCapabilities, RuleAdd)
	// RFC 9420 §12.1.7: a member that is removed need not support them.
	k.apply(k.commit(0, []ProposalOrRef{narrow}, nil))
	_, err = k.g.Stage(k.anyCommit(0, []ProposalOrRef{extensions}))
	before = k.g.AppendTo(nil)
	k.breaks(err, before, RuleGroupContextExtensions, RuleRequiredCapabilities)
	k.apply(k.commit(0, []ProposalOrRef{extensions, byValue(remove(4))}, nil))
}

// RFC 9420 §12.4.2: a group is closed by a ReInit.
func TestReinitialized(t *testing.T) {
	k := newKit(t, 2, nil, nil)
	k.apply(k.signCommit(0, []ProposalOrRef{byValue(&Proposal{Type: ProposalReInit, ReInit: ReInit{Version: 1, Suite: 1}})}, nil))
	before := k.g.AppendTo(nil)
	_, err := k.g.Propose(k.proposal(1, remove(0)))
	k.breaks(err, before, RuleReinitialized)
	_, err = k.g.Stage(k.signCommit(0, nil, nil))
	k.breaks(err, before, RuleReinitialized)
	_, err = k.g.Plan(Sender{SenderMember, 0}, nil, nil)
	k.breaks(err, before, RuleReinitialized)
}

// draft-ietf-mls-extensions-10 §4.7: where AppDataUpdate is required of all,
// nothing else changes the dictionary.
func TestDictionaryByUpdateAlone(t *testing.T) {
	required := RequiredCapabilities{Proposals: NewList(ProposalAppDataUpdate)}
	e := Extensions{{ExtRequiredCapabilities, required.AppendTo(nil)}}
	k := newKit(t, 2, permissive(), e)
	before := k.g.AppendTo(nil)
	_, err := k.g.Stage(k.anyCommit(0, []ProposalOrRef{gce(e.WithAppData(AppData{{0x8001, nil}}))}))
	k.breaks(err, before, RuleAppDataUpdate)
	st := k.apply(k.commit(0, []ProposalOrRef{gce(append(e[:1:1], wideOnly...)), appUpdate(0x8001, "x")}, nil))
	if data, ok := st.Context().Extensions.Component(0x8001); string(data) != "x" || !ok || len(st.Context().Extensions) != 3 {
		t.Errorf("both: %q in %v", data, st.Context().Extensions)
	}
	before = k.g.AppendTo(nil)
	_, err = k.g.Stage(k.anyCommit(0, []ProposalOrRef{gce(e)}))
	k.breaks(err, before, RuleAppDataUpdate)
}

// RFC 9420 §13.4: the first data of a component brings an extension into the
// GroupContext, which all members have to support.
func TestDictionarySupport(t *testing.T) {
	k := newKit(t, 1, permissive(), nil)
	_, entry := k.add(func(l *LeafNode) {
		l.Capabilities = NewCapabilities([]Version{Version10}, []Suite{testSuite}, nil, []ProposalType{ProposalAppDataUpdate}, []CredentialType{CredentialBasic})
	}, nil)
	k.apply(k.commit(0, []ProposalOrRef{entry}, nil))
	before := k.g.AppendTo(nil)
	_, err := k.g.Stage(k.anyCommit(0, []ProposalOrRef{appUpdate(0x8001, "x")}))
	k.breaks(err, before, RuleGroupExtensionsSupport)
}

// Who cannot commit at all, and an epoch that has none after it.
func TestPlanRefusals(t *testing.T) {
	k := newKit(t, 2, nil, nil)
	before := k.g.AppendTo(nil)
	_, err := k.g.Plan(Sender{SenderExternal, 0}, nil, nil)
	k.breaks(err, before, RuleSenderType)
	_, err = k.g.Plan(Sender{SenderMember, 2}, nil, nil)
	k.breaks(err, before, RuleSenderLeaf)
	_, err = k.g.Plan(Sender{Type: SenderNewMemberCommit}, []ProposalOrRef{externalInit()}, nil)
	k.breaks(err, before, RuleExternalCommit)
	_, err = k.g.Plan(Sender{SenderMember, 0}, make([]ProposalOrRef, MaxProposals+1), nil)
	k.breaks(err, before, RuleBounds)
	_, err = k.g.Stage(k.proposal(0, remove(1)))
	k.breaks(err, before, RuleContentType)
	k.g.context.Epoch = 1<<64 - 1
	_, err = k.g.Plan(Sender{SenderMember, 0}, nil, nil)
	refused(t, "RFC 9420 §12: the last epoch", err, RuleGroupAndEpoch)
}
