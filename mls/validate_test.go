package mls

import (
	"errors"
	"testing"
)

// Key packages that are signed and wrong: RFC 9420 §10.1, §7.3.
var badKeyPackages = []struct {
	name   string
	rules  []Rule
	leaf   func(l *LeafNode)
	pack   func(k *KeyPackage)
	forge  func(k *KeyPackage)
	policy *Policy
}{
	{name: "§10.1 version", rules: []Rule{RuleKeyPackageParameters}, pack: func(k *KeyPackage) { k.Version = 2 }},
	{name: "§10.1 suite", rules: []Rule{RuleKeyPackageParameters}, pack: func(k *KeyPackage) { k.Suite = 3 }},
	{name: "§10.1 signature", rules: []Rule{RuleKeyPackageSignature}, forge: func(k *KeyPackage) {
		k.raw[len(k.raw)-1] ^= 1
	}},
	{name: "§10 init key of no curve", rules: []Rule{RuleInitKey}, pack: func(k *KeyPackage) { k.InitKey = k.InitKey[:31] }},
	{name: "§10.1 init key is the leaf's", rules: []Rule{RuleInitKey}, pack: func(k *KeyPackage) { k.InitKey = k.Leaf.EncryptionKey }},
	{name: "§10 extension", rules: []Rule{RuleKeyPackageExtensions}, pack: func(k *KeyPackage) { k.Extensions = Extensions{{0xf777, nil}} }},
	{name: "§10.1 source", rules: []Rule{RuleKeyPackageLeaf, RuleLeafSource}, leaf: func(l *LeafNode) { l.Source = LeafUpdate }},
	{name: "§7.2 leaf signature", rules: []Rule{RuleLeafSignature}, pack: func(k *KeyPackage) {
		forged := *k.Leaf
		forged.raw, forged.Signature = nil, make([]byte, 64)
		k.Leaf = &forged
	}},
	{name: "§5.1.1 encryption key", rules: []Rule{RuleKeyPackageLeaf, RuleLeafKeys}, leaf: func(l *LeafNode) { l.EncryptionKey = l.EncryptionKey[1:] }},
	{name: "§7.3 leaf extension", rules: []Rule{RuleKeyPackageLeaf, RuleLeafExtensions}, leaf: func(l *LeafNode) {
		l.Extensions = Extensions{{0xf777, nil}}
	}},
	{name: "§5.3 no certificate", rules: []Rule{RuleKeyPackageLeaf, RuleX509Key}, leaf: func(l *LeafNode) { l.Credential = X509Credential() }},
	{name: "§7.2 lifetime ended", rules: []Rule{RuleLifetime}, policy: &Policy{CheckReceivedLifetimes: true, Now: func() uint64 { return 2001 }}},
	{name: "§7.2 lifetime to come", rules: []Rule{RuleLifetime}, policy: &Policy{CheckReceivedLifetimes: true, Now: func() uint64 { return 999 }}},
	{name: "§7.2 lifetime too long", rules: []Rule{RuleLifetime}, policy: &Policy{MaxLifetime: 999}},
	{name: "§7.2 lifetime reversed", rules: []Rule{RuleLifetime}, leaf: func(l *LeafNode) { l.Lifetime = Lifetime{2, 1} }},
}

func TestKeyPackageRules(t *testing.T) {
	for _, c := range badKeyPackages {
		t.Run(ruleNames(c.name, c.rules...), func(t *testing.T) {
			k := newKit(t, 2, nil, nil)
			k.g.policy = c.policy.orZero()
			joiner := k.client()
			pack := joiner.keyPackage(t, c.leaf, c.pack)
			if c.forge != nil {
				c.forge(pack)
			}
			before := k.g.AppendTo(nil)
			err := pack.Verify(Version10, testSuite, c.policy)
			k.breaks(err, before, c.rules...)

			// The same in an Add, by value and sent alone: RFC 9420 §12.1.1.
			rules := append([]Rule{RuleAdd}, c.rules...)
			p := &Proposal{Type: ProposalAdd, Add: pack}
			_, err = k.g.Stage(k.signCommit(0, []ProposalOrRef{byValue(p)}, nil))
			k.breaks(err, before, rules...)
			_, err = k.g.Propose(k.proposal(1, p))
			k.breaks(err, before, rules...)
		})
	}
}

func TestKeyPackageVerify(t *testing.T) {
	c := newClient(t, "a", seeded(3))
	good := c.keyPackage(t, func(l *LeafNode) {
		l.Capabilities = NewCapabilities([]Version{Version10, 0x0a0a}, []Suite{testSuite, 0x1a1a},
			[]ExtensionType{0x2a2a, 0xf001}, []ProposalType{0x3a3a}, []CredentialType{CredentialBasic, 0x4a4a})
		l.Extensions = Extensions{{0x2a2a, []byte("x")}, {ExtApplicationID, AppendApplicationID(nil, []byte("x"))}}
	}, func(k *KeyPackage) { k.Extensions = Extensions{{0xf001, nil}} })
	for _, now := range []uint64{1000, 1500, 2000} {
		p := &Policy{Now: func() uint64 { return now }, MaxLifetime: 1000, Parallel: twoAtOnce}
		if err := good.Verify(Version10, testSuite, p); err != nil {
			t.Errorf("RFC 9420 §13.5: at %d: %v", now, err)
		}
	}
	// RFC 9420 §7.2, §11: the capabilities list the version and the suite.
	for _, caps := range []Capabilities{
		NewCapabilities(nil, []Suite{testSuite}, nil, nil, []CredentialType{CredentialBasic}),
		NewCapabilities([]Version{Version10}, []Suite{2}, nil, nil, []CredentialType{CredentialBasic}),
	} {
		bad := c.keyPackage(t, func(l *LeafNode) { l.Capabilities = caps }, nil)
		if err := bad.Verify(Version10, testSuite, nil); !errors.Is(err, RuleCapableParameters.Err()) {
			t.Errorf("got %v, want rule 41", err)
		}
	}
	if err := good.Verify(Version10, 0x7777, nil); !errors.Is(err, RuleKeyPackageParameters.Err()) {
		t.Errorf("an unknown suite: %v", err)
	}
}

// Leaves that do not fit a group, in Add and Update proposals: RFC 9420 §7.3.
func TestLeafFitsGroup(t *testing.T) {
	narrow := NewCapabilities([]Version{Version10}, []Suite{testSuite}, nil, nil, []CredentialType{CredentialBasic})
	required := RequiredCapabilities{Extensions: NewList(ExtAppDataDictionary), Proposals: NewList(privateType)}.AppendTo(nil)
	for _, c := range []struct {
		name       string
		rules      []Rule
		extensions Extensions
		leaf       func(k *kit, l *LeafNode)
	}{
		{"§11.1 required capabilities", []Rule{RuleRequiredCapabilities},
			Extensions{{ExtRequiredCapabilities, required}}, func(_ *kit, l *LeafNode) { l.Capabilities = narrow }},
		{"§13.4 group's extension", []Rule{RuleGroupExtensionsSupport},
			Extensions{{0xf001, nil}}, func(_ *kit, l *LeafNode) { l.Capabilities = narrow }},
		{"§7.3 others' credentials", []Rule{RuleCredentialSupport}, nil, func(_ *kit, l *LeafNode) {
			l.Capabilities = NewCapabilities([]Version{Version10}, []Suite{testSuite}, nil, nil, []CredentialType{0xf001})
		}},
		{"§7.3 own credential", []Rule{RuleCredentialSupport}, nil, func(_ *kit, l *LeafNode) { l.Credential = Credential{Type: 0xf001} }},
	} {
		t.Run(ruleNames(c.name, c.rules...), func(t *testing.T) {
			k := newKit(t, 3, nil, c.extensions)
			before := k.g.AppendTo(nil)
			_, entry := k.add(func(l *LeafNode) { c.leaf(k, l) }, nil)
			_, err := k.g.Stage(k.anyCommit(0, []ProposalOrRef{entry}))
			k.breaks(err, before, append(c.rules, RuleAdd)...)
			ref := k.propose(1, k.update(1, func(l *LeafNode) { c.leaf(k, l) }))
			before = k.g.AppendTo(nil)
			_, err = k.g.Stage(k.anyCommit(0, []ProposalOrRef{ref}))
			k.breaks(err, before, append(c.rules, RuleUpdate)...)
			// The path's leaf is judged by the same.
			_, err = k.g.Stage(k.commit(0, nil, &pathChange{leaf: func(_ *Staged, l *LeafNode) { c.leaf(k, l) }}))
			k.breaks(err, before, append(c.rules, RulePathLeaf)...)
		})
	}
}

// RFC 9420 §7.3: a new type of credential needs the support of everybody, and
// then may be used.
func TestNewCredentialType(t *testing.T) {
	both := NewCapabilities([]Version{Version10}, []Suite{testSuite}, nil, nil, []CredentialType{CredentialBasic, 0xf001})
	change := func(l *LeafNode) { l.Credential, l.Capabilities = Credential{Type: 0xf001}, both }
	k := newKit(t, 3, nil, nil)
	_, entry := k.add(change, nil)
	before := k.g.AppendTo(nil)
	_, err := k.g.Stage(k.anyCommit(0, []ProposalOrRef{entry}))
	k.breaks(err, before, RuleCredentialSupport)
	_, err = k.g.Stage(k.commit(1, nil, &pathChange{leaf: func(_ *Staged, l *LeafNode) { change(l) }}))
	k.breaks(err, before, RuleCredentialSupport, RulePathLeaf)
	for i := range uint32(3) {
		k.apply(k.commit(i, nil, &pathChange{leaf: func(_ *Staged, l *LeafNode) { l.Capabilities = both }}))
		k.members[i].caps = both
	}
	k.apply(k.commit(1, nil, &pathChange{leaf: func(_ *Staged, l *LeafNode) { change(l) }}))
	k.apply(k.commit(0, []ProposalOrRef{entry}, nil))
}

// RFC 9420 §7.2: default types in capabilities are tolerated.
func TestDefaultCapabilities(t *testing.T) {
	k := newKit(t, 2, nil, nil)
	_, entry := k.add(func(l *LeafNode) {
		l.Capabilities = NewCapabilities([]Version{Version10}, []Suite{testSuite}, []ExtensionType{ExtApplicationID, ExtRatchetTree},
			[]ProposalType{ProposalAdd, ProposalUpdate}, []CredentialType{CredentialBasic})
	}, nil)
	st := k.apply(k.commit(0, []ProposalOrRef{entry}, nil))
	if len(st.Added) != 1 || k.g.Tree().Members() != 3 {
		t.Errorf("RuleDefaultCapabilities, RFC 9420 §7.2: %d members", k.g.Tree().Members())
	}
}

// RFC 9420 §5.3.1: the application sees every new leaf, by every way.
func TestAuthenticate(t *testing.T) {
	refused := errors.New("not this one")
	var seen []LeafChange
	var refuseAt ChangeSource
	p := &Policy{Authenticate: func(c LeafChange) error {
		seen = append(seen, c)
		if c.Source == refuseAt {
			return refused
		}
		return nil
	}}
	k := newKit(t, 3, p, nil)
	last := func() LeafChange { return seen[len(seen)-1] }
	try := func(source ChangeSource, rule Rule, f func() error) {
		t.Helper()
		before := k.g.AppendTo(nil)
		refuseAt = source
		err := f()
		refuseAt = 0
		k.breaks(err, before, rule)
		if !errors.Is(err, refused) || last().Source != source {
			t.Errorf("source %d: %v", source, err)
		}
	}
	_, entry := k.add(nil, nil)
	add := k.commit(0, []ProposalOrRef{entry}, nil)
	try(ChangeAdd, RuleCredential, func() error { _, err := k.g.Stage(add); return err })
	if last().Old != nil || last().Index != 3 || last().Committer != (Sender{SenderMember, 0}) {
		t.Errorf("add: %+v", last())
	}
	try(ChangeAdd, RuleCredential, func() error { _, err := k.g.Propose(k.proposal(1, entry.Proposal)); return err })
	update := k.proposal(1, k.update(1, nil))
	try(ChangeUpdate, RuleCredentialSuccession, func() error { _, err := k.g.Propose(update); return err })
	if last().Old != k.g.Tree().Leaf(1) || last().New != update.Content.Proposal.Update || last().Index != 1 {
		t.Errorf("update: %+v", last())
	}
	path := k.commit(2, nil, nil)
	try(ChangeCommit, RuleCredentialSuccession, func() error { _, err := k.g.Stage(path); return err })
	join := k.joinCommit(k.client(), []ProposalOrRef{externalInit()}, nil)
	try(ChangeExternal, RuleCredential, func() error { _, err := k.g.Stage(join); return err })
	resync := k.joinCommit(k.client(), []ProposalOrRef{externalInit(), byValue(remove(1))}, nil)
	try(ChangeExternal, RuleCredentialSuccession, func() error { _, err := k.g.Stage(resync); return err })
	if last().Old != k.g.Tree().Leaf(1) {
		t.Errorf("resync: %+v", last())
	}
}

// Two certificates of one key pair are not tried here: TestCheckX509 does. A
// client under a name that the application gives is in a group once.
func TestClientNames(t *testing.T) {
	p := &Policy{Client: func(l *LeafNode) string { return string(l.Credential.Data) }}
	k := newKit(t, 4, p, nil)
	twin := k.client()
	twin.credential = k.members[2].credential
	entry := byValue(&Proposal{Type: ProposalAdd, Add: twin.keyPackage(t, nil, nil)})
	before := k.g.AppendTo(nil)
	_, err := k.g.Stage(k.anyCommit(0, []ProposalOrRef{entry}))
	k.breaks(err, before, RuleDuplicateClient)
	_, err = k.g.Plan(Sender{Type: SenderNewMemberCommit}, []ProposalOrRef{externalInit()}, twin.leaf(LeafCommit))
	k.breaks(err, before, RuleDuplicateClient)
	k.apply(k.commit(0, []ProposalOrRef{entry, byValue(remove(2))}, nil))
	k.members[2] = twin
	joiner := k.client()
	st := k.apply(k.joinCommit(joiner, []ProposalOrRef{externalInit()}, nil))
	joiner.private, joiner.public = twin.private, twin.public
	k.members[st.Committer] = joiner
	other := k.client()
	other.credential = joiner.credential
	entry = byValue(&Proposal{Type: ProposalAdd, Add: other.keyPackage(t, nil, nil)})
	before = k.g.AppendTo(nil)
	_, err = k.g.Stage(k.anyCommit(0, []ProposalOrRef{entry}))
	k.breaks(err, before, RuleDuplicateClient)
}

// Key packages of a long list are checked in parallel, with the same result.
func TestManyKeyPackages(t *testing.T) {
	k := newKit(t, 1, &Policy{Parallel: twoAtOnce}, nil)
	var list []ProposalOrRef
	for range 3 * checkPart {
		_, entry := k.add(nil, nil)
		list = append(list, entry)
	}
	before := k.g.AppendTo(nil)
	for _, c := range badKeyPackages {
		_, entry := k.add(c.leaf, c.pack)
		if c.forge != nil {
			c.forge(entry.Proposal.Add)
		}
		k.g.policy = &Policy{Parallel: twoAtOnce}
		if c.policy != nil {
			k.g.policy = &Policy{Parallel: twoAtOnce, Now: c.policy.Now, MaxLifetime: c.policy.MaxLifetime, CheckReceivedLifetimes: true}
		}
		_, err := k.g.Stage(k.signCommit(0, append(list[:len(list):len(list)], entry), nil))
		k.breaks(err, before, append([]Rule{RuleAdd}, c.rules...)...)
	}
	k.g.policy = &Policy{Parallel: twoAtOnce}
	st := k.apply(k.signCommit(0, list, nil))
	if len(st.Added) != len(list) || k.g.Tree().Members() != len(list)+1 {
		t.Errorf("%d added of %d", len(st.Added), len(list))
	}
}

// draft-ietf-mls-extensions-10 §5: wire formats that a group requires.
func TestRequiredWireFormatsOfLeaves(t *testing.T) {
	supported := Extensions{{ExtSupportedWireFormats, WireFormats(0xf001, 0xf002)}}
	k := newKit(t, 2, nil, nil)
	for i := range uint32(2) {
		k.members[i].extensions = supported
		k.apply(k.commit(i, nil, nil))
	}
	k.apply(k.commit(0, []ProposalOrRef{gce(Extensions{{ExtRequiredWireFormats, WireFormats(0xf001)}})}, nil))
	_, entry := k.add(nil, nil)
	before := k.g.AppendTo(nil)
	_, err := k.g.Stage(k.anyCommit(0, []ProposalOrRef{entry}))
	k.breaks(err, before, RuleAdd, RuleRequiredWireFormats)
	_, err = k.g.Stage(k.commit(1, nil, &pathChange{leaf: func(_ *Staged, l *LeafNode) { l.Extensions = nil }}))
	k.breaks(err, before, RulePathLeaf, RuleRequiredWireFormats)
	_, entry = k.add(func(l *LeafNode) { l.Extensions = supported }, nil)
	k.apply(k.commit(0, []ProposalOrRef{entry}, nil))
	_, err = NewPublicGroup(k.info(0, nil), nil, nil)
	if err != nil {
		t.Error(err)
	}
}
