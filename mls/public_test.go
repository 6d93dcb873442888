package mls

import (
	"bytes"
	"errors"
	"testing"
)

// pair is a group and a second service, which joined late and has to arrive at
// the same state.
type pair struct {
	*kit
	late *PublicGroup
}

// both stages a commit at both.
func (k *pair) both(what string, a *AuthenticatedContent) *Staged {
	t := k.t
	t.Helper()
	st, err := k.late.Stage(a)
	if err != nil {
		t.Fatalf("%s: the late service: %v", what, err)
	}
	k.late = st.Next(a.ConfirmationTag)
	st = k.apply(a)
	if k.g.Epoch() != st.Context().Epoch || !bytes.Equal(k.g.ContextBytes(), st.ContextBytes()) {
		t.Errorf("%s: the next epoch is not the staged one", what)
	}
	if !bytes.Equal(k.g.Tree().Hash(), k.g.Context().TreeHash) || !bytes.Equal(k.g.ConfirmationTag(), a.ConfirmationTag) {
		t.Errorf("%s: tree hash or confirmation tag is another", what)
	}
	if err := k.g.Tree().Validate(k.g.GroupID(), nil); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if !bytes.Equal(k.late.ContextBytes(), k.g.ContextBytes()) || !bytes.Equal(k.late.InterimTranscriptHash(), k.g.InterimTranscriptHash()) {
		t.Fatalf("%s: the services disagree", what)
	}
	return st
}

// shared gives a proposal to both.
func (k *pair) shared(from uint32, p *Proposal) ProposalOrRef {
	k.t.Helper()
	a := k.proposal(from, p)
	if _, err := k.late.Propose(a); err != nil {
		k.t.Fatal(err)
	}
	n, err := k.g.Propose(a)
	if err != nil {
		k.t.Fatal(err)
	}
	return ProposalOrRef{Ref: n.Ref}
}

func newPair(t *testing.T) *pair {
	k := &pair{kit: newKit(t, 9, permissive(), nil)}
	k.warm()
	k.late = k.reload()
	return k
}

// TestPublicGroupMembers follows a group through all changes of members.
func TestPublicGroupMembers(t *testing.T) {
	k := newPair(t)
	st := k.both("update by reference and a remove", k.commit(1, []ProposalOrRef{k.shared(2, k.update(2, nil)), byValue(remove(4))}, nil))
	if len(st.Updated) != 1 || st.Updated[0] != 2 || len(st.Removed) != 1 || st.Removed[0] != 4 || !st.NeedsPath {
		t.Errorf("staged: %+v", st)
	}
	c, entry := k.add(nil, nil)
	st = k.both("add without path", k.signCommit(3, []ProposalOrRef{entry}, nil))
	if st.Added[0] != 4 || st.NeedsPath || st.Path != nil {
		t.Errorf("RFC 9420 §12.1.1: added at %d, path needed %t", st.Added[0], st.NeedsPath)
	}
	k.members[4] = c
	joiner := k.client()
	st = k.both("external join", k.joinCommit(joiner, []ProposalOrRef{externalInit(), byValue(psk("p", 32))}, nil))
	k.members[st.Committer] = joiner
	if st.Committer != 9 || len(st.KEMOutput) != 32 || len(st.PSKs) != 1 {
		t.Errorf("external join: %+v", st)
	}
	st = k.both("resync", k.joinCommit(joiner, []ProposalOrRef{externalInit(), byValue(remove(9))}, nil))
	k.members[st.Committer] = joiner
	st = k.both("self remove", k.commit(0, []ProposalOrRef{k.shared(st.Committer, &Proposal{Type: ProposalSelfRemove})}, nil))
	if len(st.Removed) != 1 || st.Removed[0] != 9 || k.g.Tree().Leaf(9) != nil {
		t.Errorf("self remove: %+v", st)
	}
}

// TestPublicGroupData follows a group through changes of its context.
func TestPublicGroupData(t *testing.T) {
	k := newPair(t)
	st := k.both("extensions", k.commit(0, []ProposalOrRef{gce(wideOnly)}, nil))
	if !st.ExtensionsChanged || len(k.g.Context().Extensions) != 1 || len(k.g.ExternalSenders()) != 0 {
		t.Errorf("extensions: %+v", st)
	}
	st = k.both("application data", k.signCommit(0, []ProposalOrRef{appUpdate(0x8001, "a"), appUpdate(0x8001, "b")}, nil))
	if data, _ := k.g.Context().Extensions.Component(0x8001); string(data) != "ab" || len(st.Components) != 1 {
		t.Errorf("application data: %q", data)
	}
	k.both("application data removed", k.signCommit(0, []ProposalOrRef{appRemove(0x8001)}, nil))
	if _, found := k.g.Context().Extensions.Component(0x8001); found {
		t.Error("application data is not removed")
	}
	k.both("private type and ephemeral", k.commit(0, []ProposalOrRef{byValue(&Proposal{Type: privateType, Data: []byte("x")}),
		byValue(&Proposal{Type: ProposalAppEphemeral, Component: 0x8001, Data: []byte("x")})}, nil))
	k.both("reinit", k.signCommit(0, []ProposalOrRef{byValue(&Proposal{Type: ProposalReInit,
		ReInit: ReInit{GroupID: []byte("next"), Version: Version10, Suite: testSuite}})}, nil))
	if k.g.Reinitialized() == nil || string(k.reload().Reinitialized().GroupID) != "next" {
		t.Error("the ReInit is lost")
	}
}

func appUpdate(c ComponentID, data string) ProposalOrRef {
	return byValue(&Proposal{Type: ProposalAppDataUpdate, Component: c, Operation: AppDataSet, Data: []byte(data)})
}

// reload is the group from its snapshot.
func (k *kit) reload() *PublicGroup {
	k.t.Helper()
	g, err := ParsePublicGroup(k.g.AppendTo(nil), k.g.Policy())
	if err != nil {
		k.t.Fatal(err)
	}
	return g
}

func TestPublicGroupSnapshot(t *testing.T) {
	k := newKit(t, 5, permissive(), nil)
	k.propose(1, remove(2))
	k.propose(2, &Proposal{Type: ProposalSelfRemove})
	b := k.g.AppendTo(nil)
	again := k.reload()
	if !bytes.Equal(again.AppendTo(nil), b) {
		t.Error("a snapshot of a snapshot differs")
	}
	if len(again.Pending()) != 2 || string(again.Pending()[0].Ref) != string(k.g.Pending()[0].Ref) {
		t.Error("pending proposals are lost")
	}
	for cut := range b {
		if _, err := ParsePublicGroup(b[:cut], nil); err == nil {
			t.Fatalf("a snapshot cut at %d was taken", cut)
		}
	}
	for i := range b {
		damaged := bytes.Clone(b)
		damaged[i] ^= 0x10
		g, err := ParsePublicGroup(damaged, nil)
		if err == nil && bytes.Equal(g.AppendTo(nil), b) {
			t.Fatalf("damage at octet %d went unseen", i)
		}
	}
	fresh, err := CreatePublicGroup(GroupContext{Version: Version10, Suite: testSuite, GroupID: []byte("g")}, oneLeaf(t, k), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ParsePublicGroup(fresh.AppendTo(nil), nil); err != nil {
		t.Errorf("a group without confirmation: %v", err)
	}
}

// oneLeaf is the tree of a new group.
func oneLeaf(t testing.TB, k *kit) *Tree {
	t.Helper()
	c := k.client()
	l, err := SignLeaf(c, c.leaf(LeafKeyPackage), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	tree := NewTree(c.params)
	tree.Add(l)
	return tree
}

// info is a GroupInfo of the epoch, with the tree, signed after the change.
func (k *kit) info(signer uint32, change func(*GroupInfo)) *GroupInfo {
	k.t.Helper()
	i := k.g.GroupInfo(Extensions{{ExtRatchetTree, k.g.Tree().AppendTo(nil)}}, signer)
	i.Context.Extensions = append(Extensions(nil), i.Context.Extensions...)
	by := k.members[signer]
	if change != nil {
		change(i)
	}
	if err := i.Sign(by); err != nil {
		k.t.Fatal(err)
	}
	read, err := ParseGroupInfo(i.AppendTo(nil))
	if err != nil {
		k.t.Fatal(err)
	}
	return read
}

func TestNewPublicGroup(t *testing.T) {
	k := newKit(t, 6, nil, nil)
	k.warm()
	info := k.info(3, nil)
	g, err := NewPublicGroup(info, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(g.ContextBytes(), k.g.ContextBytes()) || !bytes.Equal(g.InterimTranscriptHash(), k.g.InterimTranscriptHash()) {
		t.Error("the group taken up is another")
	}
	tree, err := ParseTree(g.Params(), k.g.Tree().AppendTo(nil))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewPublicGroup(info, tree, &Policy{Parallel: twoAtOnce}); err != nil {
		t.Errorf("with the tree beside it: %v", err)
	}
	a := k.commit(1, nil, nil)
	st, err := g.Stage(a)
	if err != nil {
		t.Fatal(err)
	}
	k.apply(a)
	if next := st.Next(a.ConfirmationTag); !bytes.Equal(next.ContextBytes(), k.g.ContextBytes()) {
		t.Error("RFC 9420 §12.4.2: the follower is elsewhere")
	}
}

// GroupInfos that are signed and wrong.
func TestNewPublicGroupRefusals(t *testing.T) {
	required := NewList(uint16(0xf777))
	for _, c := range []struct {
		name   string
		rules  []Rule
		policy *Policy
		change func(k *kit, i *GroupInfo)
	}{
		{"§10 version", []Rule{RuleKeyPackageParameters}, nil, func(_ *kit, i *GroupInfo) { i.Context.Version = 2 }},
		{"§10 suite", []Rule{RuleKeyPackageParameters}, nil, func(_ *kit, i *GroupInfo) { i.Context.Suite = 0x7777 }},
		{"§12.4.3.1 tree hash", []Rule{RuleTreeHash}, nil, func(_ *kit, i *GroupInfo) { i.Context.TreeHash = make([]byte, 32) }},
		{"§12.4.3.3 no tree", []Rule{RuleTreeHash}, nil, func(_ *kit, i *GroupInfo) { i.Extensions = nil }},
		{"§12.4.3 signer is blank", []Rule{RuleGroupInfoSignature}, nil, func(_ *kit, i *GroupInfo) { i.Signer = 70000 }},
		{"§12.4.3.1 signed by another", []Rule{RuleGroupInfoSignature}, nil, func(_ *kit, i *GroupInfo) { i.Signer = 1 }},
		{"§12.4.3.1 tag", []Rule{RuleGroupInfoConfirmation}, nil, func(_ *kit, i *GroupInfo) { i.ConfirmationTag = nil }},
		{"§12.4.3.2 external_pub", []Rule{RuleExternalPub}, nil, func(_ *kit, i *GroupInfo) {
			i.Extensions = append(i.Extensions, Extension{ExtExternalPub, AppendExternalPub(nil, []byte{1})})
		}},
		{"§11.1 required and lacking", []Rule{RuleTreeLeaf, RuleRequiredCapabilities}, nil, func(_ *kit, i *GroupInfo) {
			i.Context.Extensions = Extensions{{ExtRequiredCapabilities, RequiredCapabilities{Extensions: required}.AppendTo(nil)}}
		}},
		{"§13.4 extension not supported", []Rule{RuleTreeLeaf, RuleGroupExtensionsSupport}, nil, func(_ *kit, i *GroupInfo) {
			i.Context.Extensions = Extensions{{0xf777, nil}}
		}},
		{"extensions §5 wire formats", []Rule{RuleTreeLeaf, RuleRequiredWireFormats}, nil, func(_ *kit, i *GroupInfo) {
			i.Context.Extensions = Extensions{{ExtRequiredWireFormats, WireFormats(0xf001)}}
		}},
		{"§12.1.8.1 external senders", []Rule{RuleGroupContextExtensions}, nil, func(_ *kit, i *GroupInfo) {
			i.Context.Extensions = Extensions{{ExtExternalSenders, []byte{9}}}
		}},
		{"§12.1.8.1 external sender's key", []Rule{RuleGroupContextExtensions}, nil, func(_ *kit, i *GroupInfo) {
			i.Context.Extensions = Extensions{{ExtExternalSenders, AppendExternalSenders(nil, ExternalSender{SignatureKey: []byte{1}})}}
		}},
		{"§5.3.1 credential", []Rule{RuleTreeLeaf, RuleCredential}, &Policy{Authenticate: func(c LeafChange) error {
			if c.Source == ChangeTree && c.Index == 1 {
				return errors.New("unknown")
			}
			return nil
		}}, func(*kit, *GroupInfo) {}},
		{"§16.11 members", []Rule{RuleBounds}, &Policy{MaxMembers: 2}, func(*kit, *GroupInfo) {}},
	} {
		t.Run(ruleNames(c.name, c.rules...), func(t *testing.T) {
			k := newKit(t, 3, nil, nil)
			_, err := NewPublicGroup(k.info(0, func(i *GroupInfo) { c.change(k, i) }), nil, c.policy)
			k.breaks(err, k.g.AppendTo(nil), c.rules...)
		})
	}
}

// Trees whose leaves are signed and wrong: RFC 9420 §12.4.3.1.
func TestNewPublicGroupTreeRefusals(t *testing.T) {
	for _, c := range []struct {
		name  string
		rules []Rule
		leaf  func(k *kit, c *client, l *LeafNode)
	}{
		{"§7.3 extension not its own", []Rule{RuleTreeLeaf, RuleLeafExtensions}, func(_ *kit, _ *client, l *LeafNode) {
			l.Extensions = Extensions{{0xf777, nil}}
		}},
		{"§7.3 credential not supported", []Rule{RuleTreeLeaf, RuleCredentialSupport}, func(_ *kit, _ *client, l *LeafNode) {
			l.Credential = Credential{Type: 0xf001}
		}},
		{"§5.1.1 encryption key", []Rule{RuleTreeLeaf, RuleLeafKeys}, func(_ *kit, _ *client, l *LeafNode) { l.EncryptionKey = []byte{1} }},
		{"§7.3 signature key twice", []Rule{RuleMemberKeysUnique}, func(k *kit, c *client, _ *LeafNode) { *c = *k.members[0] }},
		{"§7.3 encryption key twice", []Rule{RuleMemberKeysUnique}, func(k *kit, _ *client, l *LeafNode) {
			l.EncryptionKey = k.g.Tree().Leaf(0).EncryptionKey
		}},
	} {
		t.Run(ruleNames(c.name, c.rules...), func(t *testing.T) {
			k := newKit(t, 3, nil, nil)
			before := k.g.AppendTo(nil)
			by := k.client()
			l := by.leaf(LeafKeyPackage)
			c.leaf(k, by, l)
			signed, err := SignLeaf(by, l, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			tree := k.g.Tree().Clone()
			tree.Add(signed)
			info := k.info(0, func(i *GroupInfo) {
				i.Context.TreeHash = tree.Hash()
				i.Extensions = Extensions{{ExtRatchetTree, tree.AppendTo(nil)}}
			})
			_, err = NewPublicGroup(info, nil, nil)
			k.breaks(err, before, c.rules...)
		})
	}
}

// RFC 9420 §12.4.3.2: what a service checks of an uploaded GroupInfo.
func TestCheckGroupInfo(t *testing.T) {
	k := newKit(t, 4, nil, nil)
	k.apply(k.commit(2, nil, nil))
	if err := k.g.CheckGroupInfo(k.info(2, nil)); err != nil {
		t.Fatal(err)
	}
	before := k.g.AppendTo(nil)
	for name, change := range map[string]func(*GroupInfo){
		"§12.4.3.2 context":      func(i *GroupInfo) { i.Context.Epoch++ },
		"§12.4.3.2 tag":          func(i *GroupInfo) { i.ConfirmationTag = make([]byte, 32) },
		"§12.4.3.2 signer":       func(i *GroupInfo) { i.Signer = 1 },
		"§12.4.3.2 tree":         func(i *GroupInfo) { i.Extensions = Extensions{{ExtRatchetTree, []byte{0}}} },
		"§12.4.3.2 external_pub": func(i *GroupInfo) { i.Extensions = Extensions{{ExtExternalPub, []byte{0}}} },
	} {
		t.Run(name, func(t *testing.T) {
			k.breaks(k.g.CheckGroupInfo(k.info(2, change)), before, RuleGroupInfoUpload)
		})
	}
	forged := k.info(2, nil)
	forged.Signature = make([]byte, 64)
	forged.raw = nil
	k.breaks(k.g.CheckGroupInfo(forged), before, RuleGroupInfoUpload, RuleGroupInfoSignature)
}
