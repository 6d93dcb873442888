package mls

import "testing"

// RFC 9420 §12.2: which pending proposals a committer takes.
func TestCompose(t *testing.T) {
	k := newKit(t, 6, permissive(), nil)
	k.warm()
	first := k.propose(1, k.update(1, nil))
	latest := k.propose(1, k.update(1, nil))
	own := k.propose(0, k.update(0, nil))
	mine := k.propose(1, remove(0))
	overtaken := k.propose(2, k.update(2, nil))
	removal := k.propose(3, remove(2))
	leave := k.propose(4, &Proposal{Type: ProposalSelfRemove})
	gone := k.propose(3, remove(4))
	oldExtensions := k.propose(1, gce(nil).Proposal)
	extensions := k.propose(1, gce(wideOnly).Proposal)
	reinit := k.propose(1, &Proposal{Type: ProposalReInit, ReInit: ReInit{Version: 1, Suite: 1}})
	key := k.propose(1, psk("x", 32))
	_, entry := k.add(nil, nil)
	add := k.propose(5, entry.Proposal)
	again := k.propose(3, entry.Proposal)
	_, misfit := k.add(func(l *LeafNode) {
		l.Capabilities = NewCapabilities([]Version{Version10}, []Suite{testSuite}, nil, nil, []CredentialType{CredentialBasic})
	}, nil)
	lacking := k.propose(5, misfit.Proposal)

	list, path := k.g.Compose(Sender{SenderMember, 0}, nil)
	want := map[string]string{
		string(latest.Ref): "the latest Update", string(removal.Ref): "the Remove", string(leave.Ref): "the SelfRemove",
		string(extensions.Ref): "the last extensions", string(key.Ref): "the PSK", string(add.Ref): "the Add",
	}
	for name, e := range map[string]ProposalOrRef{"an Update overtaken": first, "the own Update": own, "a Remove of the committer": mine,
		"an Update of a removed member": overtaken, "a Remove beside a SelfRemove": gone, "overtaken extensions": oldExtensions,
		"a ReInit": reinit, "a second Add": again, "an Add that does not fit": lacking} {
		for _, got := range list {
			if string(got.Ref) == string(e.Ref) {
				t.Errorf("RFC 9420 §12.2: %s was taken", name)
			}
		}
	}
	for _, got := range list {
		delete(want, string(got.Ref))
	}
	for _, name := range want {
		t.Errorf("RFC 9420 §12.2: %s was not taken", name)
	}
	if !path {
		t.Error("RFC 9420 §12.4: no path")
	}
	if _, err := k.g.Stage(k.commit(0, list, nil)); err != nil {
		t.Error(err)
	}
}

// Values come first, and the application may leave pending ones out.
func TestComposeValues(t *testing.T) {
	k := newKit(t, 6, permissive(), nil)
	latest := k.propose(1, k.update(1, nil))
	extensions := k.propose(1, gce(wideOnly).Proposal)
	reinit := k.propose(1, &Proposal{Type: ProposalReInit, ReInit: ReInit{Version: 1, Suite: 1}})
	key := k.propose(1, psk("x", 32))
	list, path := k.g.Compose(Sender{SenderMember, 0}, nil, remove(1), psk("x", 32), gce(nil).Proposal)
	for _, got := range list {
		for _, e := range []ProposalOrRef{latest, key, extensions} {
			if got.Ref != nil && string(got.Ref) == string(e.Ref) {
				t.Error("a value's rival was taken")
			}
		}
	}
	if _, err := k.g.Stage(k.commit(0, list, nil)); err != nil || !path {
		t.Error(err)
	}
	list, _ = k.g.Compose(Sender{SenderMember, 0}, func(n *PendingProposal) bool { return n.Proposal.Type == ProposalReInit })
	if len(list) != 1 || string(list[0].Ref) != string(reinit.Ref) {
		t.Errorf("a ReInit alone: %d", len(list))
	}
	list, path = k.g.Compose(Sender{SenderMember, 0}, func(*PendingProposal) bool { return false }, psk("y", 32))
	if len(list) != 1 || path {
		t.Errorf("a value alone: %d, path %t", len(list), path)
	}
	list, _ = k.g.Compose(Sender{SenderMember, 0}, nil, &Proposal{Type: ProposalReInit, ReInit: ReInit{Version: 1}})
	if len(list) != 1 || list[0].Proposal == nil {
		t.Errorf("a ReInit by value: %d", len(list))
	}
}

// draft-ietf-mls-extensions-10 §4.7: updates that exclude each other.
func TestComposeComponents(t *testing.T) {
	k := newKit(t, 3, permissive(), nil)
	set := k.propose(1, appUpdate(0x8001, "x").Proposal)
	k.propose(2, appRemove(0x8001).Proposal)
	k.propose(2, appUpdate(0x8002, "").Proposal)
	list, path := k.g.Compose(Sender{SenderMember, 0}, nil)
	st, err := k.g.Plan(Sender{SenderMember, 0}, list, nil)
	if err != nil || path {
		t.Fatalf("path %t, %v", path, err)
	}
	if len(list) != 1 || string(list[0].Ref) != string(set.Ref) || len(st.Components) != 1 {
		t.Errorf("composed %d entries", len(list))
	}
}

// RFC 9420 §7.5: a committer's own path is checked as a received one.
func TestSetPath(t *testing.T) {
	k := newKit(t, 4, nil, nil)
	k.warm()
	sign := func(change func(*LeafNode)) func([]byte) (*LeafNode, error) {
		return func(parentHash []byte) (*LeafNode, error) {
			l := k.members[0].leaf(LeafCommit)
			l.ParentHash = parentHash
			if change != nil {
				change(l)
			}
			return SignLeaf(k.members[0], l, k.g.GroupID(), 0)
		}
	}
	plan := func() (*Staged, [][]byte) {
		st, err := k.g.Plan(Sender{SenderMember, 0}, nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		return st, [][]byte{k.members[0].key(), k.members[0].key()}
	}
	before := k.g.AppendTo(nil)
	st, keys := plan()
	k.breaks(st.SetPath(keys[:1], sign(nil)), before, RulePathLength)
	st, keys = plan()
	keys[1] = keys[0]
	k.breaks(st.SetPath(keys, sign(nil)), before, RulePathKeysUnique)
	st, keys = plan()
	k.breaks(st.SetPath(keys, sign(func(l *LeafNode) { l.EncryptionKey = k.g.Tree().PublicKey(1) })), before, RulePathKeysUnique)
	st, keys = plan()
	k.breaks(st.SetPath(keys, sign(func(l *LeafNode) { l.Source = LeafUpdate })), before, RulePathLeaf, RuleLeafSource)

	st, keys = plan()
	if err := st.SetPath(keys, sign(nil)); err != nil {
		t.Fatal(err)
	}
	provisional, err := ParseGroupContext(st.Provisional())
	if err != nil {
		t.Fatal(err)
	}
	// RFC 9420 §12.4.2: the provisional context has the old transcript.
	if provisional.Epoch != k.g.Epoch()+1 || string(provisional.TreeHash) != string(st.Tree.Hash()) ||
		string(provisional.ConfirmedTranscriptHash) != string(k.g.Context().ConfirmedTranscriptHash) {
		t.Errorf("RulePathContext: %+v", provisional)
	}
	if st.ContextBytes() != nil {
		t.Error("the context is whole before the commit is signed")
	}
	nodes := make([]UpdatePathNode, len(keys))
	for i := range nodes {
		nodes[i] = NewUpdatePathNode(keys[i], make([]Ciphertext, st.Tree.ResolutionSize(st.Steps[i].Copath, st.New)))
	}
	a := k.signCommit(0, nil, &UpdatePath{Leaf: st.Path.Leaf, Nodes: nodes})
	st.Confirm(a)
	followed, err := k.g.Stage(a)
	if err != nil {
		t.Fatal(err)
	}
	if string(followed.ContextBytes()) != string(st.ContextBytes()) || string(followed.Provisional()) != string(st.Provisional()) {
		t.Error("RFC 9420 §12.4.2: committer and follower disagree")
	}
}

// Adds that are too many for the application's bound wait; the rest does not.
func TestComposeBounds(t *testing.T) {
	k := newKit(t, 3, &Policy{MaxMembers: 4}, nil)
	for range 3 {
		_, entry := k.add(nil, nil)
		k.propose(1, entry.Proposal)
	}
	update := k.propose(2, k.update(2, nil))
	list, _ := k.g.Compose(Sender{SenderMember, 0}, nil)
	if len(list) != 2 || string(list[1].Ref) != string(update.Ref) {
		t.Errorf("composed %d entries", len(list))
	}
	// A value that is wrong itself leaves nothing but the values, for Plan to refuse.
	list, _ = k.g.Compose(Sender{SenderMember, 0}, nil, remove(9))
	if len(list) != 1 || list[0].Proposal == nil {
		t.Errorf("composed %d entries", len(list))
	}
	_, err := k.g.Plan(Sender{SenderMember, 0}, list, nil)
	refused(t, "RFC 9420 §12.1.3", err, RuleRemove)
}

// RFC 9420 §7.3: an Add whose type of credential is new to the group and not
// known to all waits.
func TestComposeCredential(t *testing.T) {
	both := NewCapabilities([]Version{Version10}, []Suite{testSuite}, nil, nil, []CredentialType{CredentialBasic, 0xf001})
	k := newKit(t, 3, nil, nil)
	_, entry := k.add(func(l *LeafNode) { l.Credential, l.Capabilities = Credential{Type: 0xf001}, both }, nil)
	k.propose(1, entry.Proposal)
	good := k.propose(1, psk("x", 32))
	list, path := k.g.Compose(Sender{SenderMember, 0}, nil)
	if len(list) != 1 || string(list[0].Ref) != string(good.Ref) || path {
		t.Errorf("composed %d entries, path %t", len(list), path)
	}
}
