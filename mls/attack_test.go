package mls

import (
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
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
	// Nor does a member that floods.
	for range 2*maxDrops + 3 {
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

// padding is extensions of about n octets.
func padding(n int) Extensions {
	return Extensions{{ExtApplicationID, AppendApplicationID(nil, make([]byte, n))}}
}

// One leaf is bounded, and so are all together: a GroupInfo stays readable.
func TestBoundsOfLeaves(t *testing.T) {
	k := newKit(t, 2, nil, nil)
	large := k.client().leaf(LeafKeyPackage)
	large.Extensions = padding(MaxLeafNode)
	_, err := SignLeaf(k.members[0], large, nil, 0)
	refused(t, "RFC 9420 §16.11", err, RuleBounds)
	c := k.client()
	signed := c.keyPackage(t, func(l *LeafNode) { l.Extensions = padding(MaxLeafNode - 1024) }, nil)
	var list []ProposalOrRef
	for range MaxTree/MaxLeafNode + 2 {
		c = k.client()
		leaf := *signed.Leaf
		leaf.SignatureKey, leaf.EncryptionKey, leaf.raw = c.public, c.key(), nil
		read, err := ParseLeafNode(leaf.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, byValue(&Proposal{Type: ProposalAdd, Add: &KeyPackage{Version: Version10, Suite: testSuite, InitKey: c.key(), Leaf: read}}))
	}
	before := k.g.AppendTo(nil)
	p, err := k.g.plan(Sender{SenderMember, 0}, list, nil, true)
	k.breaks(err, before, RuleBounds)
	if p.at < len(list)-4 {
		t.Errorf("entry %d is too much", p.at)
	}
	p, err = k.g.plan(Sender{SenderMember, 0}, list[:p.at], nil, true)
	if err != nil {
		t.Fatal(err)
	}
	body := p.st.Tree.AppendTo(nil)
	if len(body) > MaxMessage-2*MaxContext || len(body) < MaxTree-2*MaxLeafNode {
		t.Errorf("a tree of %d octets", len(body))
	}
	if _, err := ParseTree(k.g.Params(), body); err != nil {
		t.Error(err)
	}
	tree := p.st.Tree.Clone()
	tree.Add(signed.Leaf)
	tree.Add(signed.Leaf)
	_, err = ParseTree(k.g.Params(), tree.AppendTo(nil))
	refused(t, "RFC 9420 §16.11", err, RuleBounds)
	_, err = CreatePublicGroup(GroupContext{Version: Version10, Suite: testSuite}, tree, nil)
	refused(t, "RFC 9420 §16.11", err, RuleBounds)
}

// The octets of a tree are counted as it changes.
func TestTreeOctets(t *testing.T) {
	k := newKit(t, 9, nil, nil)
	count := func(tree *Tree) (n int) {
		for node := range 2*tree.Leaves() - 1 {
			n += tree.Leaf(node/2).octets()*int(1-node%2) + tree.Parent(node).octets()
		}
		return n
	}
	check := func() {
		t.Helper()
		tree := k.g.Tree()
		read, err := ParseTree(tree.Suite(), tree.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		if want := count(tree); tree.octets != want || read.octets != want || want+int(2*tree.Leaves())+4 < len(tree.AppendTo(nil)) {
			t.Errorf("%d octets, read %d, want %d", tree.octets, read.octets, want)
		}
	}
	check()
	k.warm()
	check()
	for range 2 {
		_, add := k.add(func(l *LeafNode) { l.Extensions = padding(100) }, nil)
		st := k.apply(k.commit(0, []ProposalOrRef{add, k.propose(1, k.update(1, nil)), k.propose(1, remove(4))}, nil))
		check()
		delete(k.members, st.Added[0])
		k.apply(k.commit(2, []ProposalOrRef{byValue(remove(8))}, nil))
		check()
		k.apply(k.signAdd(t))
		check()
	}
}

// signAdd is a commit of an Add to leaf 8 without a path, by leaf 0.
func (k *kit) signAdd(t *testing.T) *AuthenticatedContent {
	var list []ProposalOrRef
	for range 2 {
		_, add := k.add(nil, nil)
		list = append(list, add)
	}
	if _, err := k.g.Plan(Sender{SenderMember, 0}, list, nil); err != nil {
		t.Fatal(err)
	}
	return k.signCommit(0, list, nil)
}

// Every signature of a group covers its GroupContext, whose length is bounded,
// whoever makes it: a caller, a proposal or a component.
func TestBoundsOfContext(t *testing.T) {
	policy := permissive()
	policy.Components = func(ComponentID, []byte, bool, [][]byte) ([]byte, error) { return make([]byte, MaxContext), nil }
	k := newKit(t, 2, policy, nil)
	before := k.g.AppendTo(nil)
	large := padding(MaxContext)
	_, err := k.g.Plan(Sender{SenderMember, 0}, []ProposalOrRef{gce(large)}, nil)
	k.breaks(err, before, RuleBounds)
	_, err = k.g.Propose(k.proposal(0, gce(large).Proposal))
	k.breaks(err, before, RuleBounds)
	_, err = k.g.Plan(Sender{SenderMember, 0}, []ProposalOrRef{appUpdate(0x8001, "x")}, nil)
	k.breaks(err, before, RuleBounds)
	twice := append(padding(1), padding(2)...)
	_, err = k.g.Plan(Sender{SenderMember, 0}, []ProposalOrRef{gce(twice)}, nil)
	k.breaks(err, before, RuleDuplicateExtension)
	for _, c := range []GroupContext{{Extensions: large}, {GroupID: make([]byte, MaxGroupID+1)}} {
		c.Version, c.Suite = Version10, testSuite
		_, err = ParseGroupContext(c.AppendTo(nil))
		refused(t, "RFC 9420 §16.11", err, RuleBounds)
		_, err = CreatePublicGroup(c, k.g.Tree().Clone(), nil)
		refused(t, "RFC 9420 §16.11", err, RuleBounds)
	}
}

// A dictionary is not the extension that is one too many.
func TestBoundsOfExtensions(t *testing.T) {
	var types []ExtensionType
	var ext Extensions
	for i := range MaxExtensions {
		types = append(types, ExtensionType(0xf100+i))
		ext = append(ext, Extension{Type: types[i]})
	}
	k := newKit(t, 1, permissive(), nil)
	k.members[0].caps = NewCapabilities([]Version{Version10}, []Suite{testSuite}, append(types, ExtAppDataDictionary),
		[]ProposalType{ProposalAppDataUpdate}, []CredentialType{CredentialBasic})
	k.apply(k.commit(0, nil, nil))
	k.apply(k.commit(0, []ProposalOrRef{gce(ext)}, nil))
	before := k.g.AppendTo(nil)
	_, err := k.g.Plan(Sender{SenderMember, 0}, []ProposalOrRef{appUpdate(0x8001, "x")}, nil)
	k.breaks(err, before, RuleBounds)
}

// Proposals of those who are no members leave room for those of members.
func TestPendingOutside(t *testing.T) {
	k := newKit(t, 3, nil, nil)
	long := k.proposal(1, psk(string(make([]byte, MaxPendingProposal)), 32))
	_, err := k.g.Propose(long)
	refused(t, "RFC 9420 §16.11", err, RuleBounds)
	taken := 0
	for ; ; taken++ {
		if err = k.proposeFrom(k.client(), func(l *LeafNode) { l.Extensions = padding(MaxLeafNode - 1024) }); err != nil {
			break
		}
	}
	refused(t, "RFC 9420 §16.11", err, RuleBounds)
	if want := MaxPendingOctets / outsidePart / MaxLeafNode; taken != want || k.g.PendingCount() != want {
		t.Errorf("%d of %d taken, %d wait", taken, want, k.g.PendingCount())
	}
	ref := k.propose(1, remove(2))
	if k.g.PendingCount() != taken+1 || len(k.g.Pending()) != taken+1 {
		t.Errorf("%d wait", k.g.PendingCount())
	}
	first := k.g.Pending()[0].Ref
	k.g.Forget(first)
	k.g.Forget(ref.Ref)
	if err := k.proposeFrom(k.client(), func(l *LeafNode) { l.Extensions = padding(MaxLeafNode - 1024) }); err != nil {
		t.Error(err)
	}
	// By number, as well.
	p := pending{outside: MaxPending / outsidePart}
	a := k.message(k.client(), Sender{Type: SenderNewMemberProposal}, func(a *AuthenticatedContent) { a.Content.Proposal = k.addProposal() })
	refused(t, "RFC 9420 §16.11", p.room(a), RuleBounds)
	if err := p.room(k.proposal(1, remove(2))); err != nil {
		t.Error(err)
	}
}

// RFC 9420 §5.3.1: the application is asked about external senders that are
// new, whichever way they come.
func TestExternalSendersAsked(t *testing.T) {
	var asked []string
	refuseOf := ""
	policy := &Policy{AuthenticateSender: func(s ExternalSender) error {
		asked = append(asked, string(s.Credential.Data))
		if refuseOf == string(s.Credential.Data) {
			return errors.New("not known")
		}
		return nil
	}}
	k := newKit(t, 2, policy, nil)
	sender := func(name string) ExternalSender {
		return ExternalSender{k.client().public, BasicCredential([]byte(name))}
	}
	a, b := sender("a"), sender("b")
	list := func(s ...ExternalSender) Extensions {
		return Extensions{{ExtExternalSenders, AppendExternalSenders(nil, s...)}}
	}
	want := func(names string) {
		t.Helper()
		if got := strings.Join(asked, ""); got != names {
			t.Errorf("asked about %q, want %q", got, names)
		}
		asked = nil
	}
	k.apply(k.commit(0, []ProposalOrRef{gce(list(a))}, nil))
	want("aa") // by Plan and by Stage
	k.apply(k.commit(0, []ProposalOrRef{gce(list(b, a))}, nil))
	want("bb")
	k.apply(k.commit(0, []ProposalOrRef{gce(list(a))}, nil))
	want("")

	before := k.g.AppendTo(nil)
	valid := k.commit(0, []ProposalOrRef{gce(list(b))}, nil)
	info := k.info(0, nil)
	refuseOf, asked = "b", nil
	_, err := k.g.Propose(k.proposal(1, gce(list(a, b)).Proposal))
	k.breaks(err, before, RuleGroupContextExtensions, RuleCredential)
	_, err = k.g.Stage(valid)
	k.breaks(err, before, RuleGroupContextExtensions, RuleCredential)
	_, err = k.g.Plan(Sender{SenderMember, 0}, []ProposalOrRef{gce(list(b))}, nil)
	k.breaks(err, before, RuleGroupContextExtensions, RuleCredential)
	want("bbb")
	refuseOf = "a"
	_, err = NewPublicGroup(info, nil, policy)
	refused(t, "RFC 9420 §5.3.1", err, RuleCredential)
	_, err = CreatePublicGroup(GroupContext{Version: Version10, Suite: testSuite, GroupID: k.g.GroupID(), Extensions: list(a)}, k.g.Tree().Clone(), policy)
	refused(t, "RFC 9420 §5.3.1", err, RuleCredential)
	want("aa")
}

// named is a policy whose clients are told apart by their credentials.
func named() *Policy {
	return &Policy{Client: func(l *LeafNode) string { return string(l.Credential.Data) }}
}

// RFC 9420 §12.2: a path does not make a member another member's client.
func TestPathClient(t *testing.T) {
	k := newKit(t, 4, named(), nil)
	as := func(c *client) *pathChange {
		return &pathChange{leaf: func(_ *Staged, l *LeafNode) { l.Credential = c.credential }}
	}
	before := k.g.AppendTo(nil)
	_, err := k.g.Stage(k.commit(0, nil, as(k.members[1])))
	k.breaks(err, before, RulePathLeaf, RuleDuplicateClient)
	added, add := k.add(nil, nil)
	_, err = k.g.Stage(k.commit(0, []ProposalOrRef{add}, as(added)))
	k.breaks(err, before, RulePathLeaf, RuleDuplicateClient)
	taker := &Proposal{Type: ProposalUpdate, Update: k.update(2, func(l *LeafNode) { l.Credential = added.credential }).Update}
	list := []ProposalOrRef{k.propose(2, taker)}
	before = k.g.AppendTo(nil)
	_, err = k.g.Stage(k.commit(0, list, as(added)))
	k.breaks(err, before, RulePathLeaf, RuleDuplicateClient)
	// Who goes, or takes another name, leaves theirs to be taken.
	k.apply(k.commit(0, list, as(k.members[2])))
	k.apply(k.commit(0, []ProposalOrRef{byValue(remove(1))}, as(k.members[1])))
	if at, found := k.g.clients[string(added.credential.Data)]; !found || at != 2 || len(k.g.clients) != 3 {
		t.Errorf("clients: %v", k.g.clients)
	}
}

// Commits are staged by several goroutines, also on a group that has a next.
func TestStageAtOnce(t *testing.T) {
	k := newKit(t, 3, named(), nil)
	_, add := k.add(nil, nil)
	a := k.commit(0, []ProposalOrRef{add}, nil)
	old := k.g
	k.apply(a)
	var running sync.WaitGroup
	for range 2 {
		running.Go(func() {
			if _, err := old.Stage(a); err != nil {
				t.Error(err)
			}
		})
	}
	running.Wait()
	if old.clients != nil {
		t.Error("staging a commit changed the group")
	}
}

// A caller's proposal without what its type has is refused, not a panic.
func TestProposalsWithoutField(t *testing.T) {
	k := newKit(t, 2, permissive(), nil)
	before := k.g.AppendTo(nil)
	for _, c := range []struct {
		p    *Proposal
		rule Rule
	}{
		{nil, RuleReservedValue},
		{&Proposal{}, RuleReservedValue},
		{&Proposal{Type: ProposalAdd}, RuleAdd},
		{&Proposal{Type: ProposalAdd, Add: &KeyPackage{}}, RuleAdd},
		{&Proposal{Type: ProposalUpdate}, RuleUpdate},
		{&Proposal{Type: ProposalPSK}, RulePreSharedKey},
		{&Proposal{Type: ProposalPSK, PSK: PreSharedKeyID{Type: PSKResumption, Nonce: make([]byte, 32)}}, RulePreSharedKey},
		{&Proposal{Type: ProposalAppDataUpdate, Component: 0x8001}, RuleAppDataUpdate},
	} {
		k.breaks(k.g.CheckSending(c.p), before, c.rule)
		list, _ := k.g.Compose(Sender{SenderMember, 0}, nil, c.p)
		_, err := k.g.Plan(Sender{SenderMember, 0}, list, nil)
		if c.p == nil {
			c.rule = RuleProposalReference
		}
		k.breaks(err, before, c.rule)
		a := k.proposal(0, remove(1))
		a.Content.Proposal = c.p
		if c.p == nil {
			c.rule = RuleContentType
		}
		_, err = k.g.Propose(a)
		k.breaks(err, before, c.rule)
	}
	k.g.policy = &Policy{Parallel: twoAtOnce}
	_, err := k.g.Plan(Sender{SenderMember, 0}, slices.Repeat([]ProposalOrRef{byValue(&Proposal{Type: ProposalAdd})}, checkPart), nil)
	k.breaks(err, before, RuleAdd)
	a := k.commit(0, nil, nil)
	a.Content.Commit = nil
	_, err = k.g.Stage(a)
	k.breaks(err, before, RuleContentType)
}

// What a commit takes in memory is bounded by its length.
func TestCommitMemory(t *testing.T) {
	const most = 64 // octets of memory for one that is read
	for _, c := range []struct {
		name  string
		entry ProposalOrRef
	}{
		{"Remove", byValue(remove(1))},
		{"AppDataUpdate", appRemove(0x8001)},
		{"private", byValue(&Proposal{Type: privateType, Data: []byte{1, 2}})},
		{"reference", ProposalOrRef{}},
	} {
		b := (&Commit{Proposals: slices.Repeat([]ProposalOrRef{c.entry}, MaxProposals)}).AppendTo(nil)
		var read *Commit
		var err error
		start, end := new(runtime.MemStats), new(runtime.MemStats)
		runtime.GC()
		runtime.ReadMemStats(start)
		read, err = ParseCommit(b)
		runtime.GC()
		runtime.ReadMemStats(end)
		if err != nil || len(read.Proposals) != MaxProposals {
			t.Fatalf("%s: %d read: %v", c.name, len(read.Proposals), err)
		}
		if n := int(end.HeapAlloc) - int(start.HeapAlloc); n > most*len(b) {
			t.Errorf("%s: %d octets take %d", c.name, len(b), n)
		}
	}
	for _, p := range []*Proposal{{Type: ProposalSelfRemove}, {Type: ProposalExternalInit}, {Type: ProposalGroupContextExtensions}, {Type: privateType}} {
		list := slices.Repeat([]ProposalOrRef{byValue(p)}, maxShort+1)
		_, err := ParseCommit((&Commit{Proposals: list}).AppendTo(nil))
		refused(t, "RFC 9420 §16.11", err, RuleBounds)
		if _, err = ParseCommit((&Commit{Proposals: list[1:]}).AppendTo(nil)); err != nil {
			t.Error(err)
		}
	}
}
