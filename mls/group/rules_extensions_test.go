package group

import (
	"bytes"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// extended is a proposal of a GroupContext with these components.
func extended(data mls.AppData) *mls.Proposal {
	return &mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: mls.Extensions{}.WithAppData(data)}
}

// In a group that demands it, authenticated data is framed, mls.RuleSafeAAD,
// draft-ietf-mls-extensions §4.9, and application data names its media type,
// mls.RuleApplicationFraming, §6.2.4: neither is sent nor taken otherwise.
func TestFramedRules(t *testing.T) {
	w := newAttacked(t, 3)
	by, to := w.members[0], w.members[2]
	late := w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{}) // of an epoch that demands nothing
	list := mls.MediaTypeList{{Type: []byte("text/plain")}}
	w.commit(by, CommitOptions{Proposals: []*mls.Proposal{extended(mls.AppData{
		{ID: mls.ComponentSafeAAD, Data: []byte{0}}, {ID: mls.ComponentContentMediaTypes, Data: list.AppendTo(nil)},
	})}})
	safe := mls.SafeAAD{{ID: 7, Data: []byte("x")}}.AppendTo(nil)
	framed := must(to.public.Context().AppendApplication(nil, mls.MediaType{}, []byte("text")))(t)
	say := func(data, aad []byte) error {
		_, sent := by.Seal(nil, data, aad)
		m := w.seal(by, w.signed(by, mls.WirePrivate, func(c *mls.FramedContent) { c.Application, c.AuthenticatedData = data, aad }), sealing{})
		before := to.Snapshot()
		err := w.process(to, m)
		if mls.RuleOf(err) != mls.RuleOf(sent) {
			t.Errorf("sent: %v; received: %v", sent, err)
		}
		if err != nil && !bytes.Equal(before, to.Snapshot()) {
			t.Error("the refusal changed the member")
		}
		return err
	}
	for _, c := range []struct {
		data, aad []byte
		rule      mls.Rule
	}{
		{framed, safe, 0},
		{framed, []byte{0}, 0},
		{framed, nil, mls.RuleSafeAAD},
		{framed, []byte("text"), mls.RuleSafeAAD},
		{framed, append(bytes.Clone(safe), 0), mls.RuleSafeAAD},
		{[]byte("text, not framed"), safe, mls.RuleApplicationFraming},
		{nil, safe, mls.RuleApplicationFraming},
		{append(bytes.Clone(framed), 0), safe, mls.RuleApplicationFraming},
	} {
		if err := say(c.data, c.aad); mls.RuleOf(err) != c.rule {
			t.Errorf("%q, %q: got %v, want rule %d", c.data, c.aad, err, c.rule)
		}
	}
	to.save()
	if err := w.process(to, late); err != nil {
		t.Errorf("a message of the epoch before: %v", err)
	}
	to.snapshot, to.changes = to.Snapshot(), nil
	to.restart(w)
	for _, bad := range []*mls.Message{
		w.public(by, w.signed(by, mls.WirePublic, func(c *mls.FramedContent) {
			c.ContentType, c.Proposal, c.Application, c.AuthenticatedData = mls.ContentProposal, Remove(1), nil, []byte("text")
		}), nil),
		w.parse(w.forge(by, CommitOptions{AuthenticatedData: []byte("text")}, forgery{}).commit),
		w.seal(by, w.signed(by, mls.WirePrivate, func(c *mls.FramedContent) { c.Application = framed }), sealing{}),
	} {
		if err := w.process(to, bad); mls.RuleOf(err) != mls.RuleSafeAAD {
			t.Errorf("after a restart: got %v, want rule %d", err, mls.RuleSafeAAD)
		}
	}
	w.commit(by, CommitOptions{AuthenticatedData: safe})
}

// Members support the wire formats that a group requires:
// mls.RuleRequiredWireFormats, draft-ietf-mls-extensions §5.
func TestWireFormatRules(t *testing.T) {
	w := newAttacked(t, 2)
	by, to := w.members[0], w.members[1]
	formats := func(t mls.ExtensionType, list ...mls.WireFormat) mls.Extensions {
		return mls.Extensions{{Type: t, Data: vec([]byte(mls.NewList(list...)))}}
	}
	require := &mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: formats(mls.ExtRequiredWireFormats, 0xf00d)}
	if _, err := by.Commit(CommitOptions{Proposals: []*mls.Proposal{require}}); mls.RuleOf(err) != mls.RuleGroupContextExtensions {
		t.Errorf("nobody supports it: %v", err)
	}
	for _, m := range w.members { // now each says that it does
		e := formats(mls.ExtSupportedWireFormats, 0xf00d)
		w.commit(m, CommitOptions{Leaf: &LeafOptions{Extensions: &e}})
	}
	w.commit(by, CommitOptions{Proposals: []*mls.Proposal{require}})
	before := to.Snapshot()
	a := w.signed(by, mls.WirePublic, func(c *mls.FramedContent) {
		c.ContentType, c.Application = mls.ContentCommit, nil
		c.Commit = &mls.Commit{Proposals: []mls.ProposalOrRef{{Proposal: w.ghosts(1)[0]}}}
	})
	a.ConfirmationTag = make([]byte, 32)
	a.Seal()
	err := w.process(to, w.public(by, a, nil))
	if !bytes.Equal(before, to.Snapshot()) {
		t.Error("the refusal changed the member")
	}
	if r := mls.RuleOf(err); r != mls.RuleAdd {
		t.Errorf("got %v, want rule %d", err, mls.RuleAdd)
	}
	wantRule(t, err, mls.RuleRequiredWireFormats)
	to.save()
	w.commit(to, CommitOptions{})
}

// An own Update that the member does not have the key of, after it lost its
// state, is not followed: mls.RuleProposalReference, RFC 9420 §12.4.
func TestLostUpdate(t *testing.T) {
	w := newAttacked(t, 3)
	by, to := w.members[0], w.members[1]
	w.deliver(to, must(to.ProposeUpdate(nil, nil))(t))
	to.save()
	to.updates = nil
	before := to.Snapshot()
	wantRule(t, w.process(to, w.parse(w.forge(by, CommitOptions{}, forgery{}).commit)), mls.RuleProposalReference)
	if !bytes.Equal(before, to.Snapshot()) {
		t.Error("the refusal changed the member")
	}
}

// A group that follows another is what it was announced to be: RFC 9420 §11.2
// and §11.3.
func TestSuccessorRules(t *testing.T) {
	w := newAttacked(t, 3)
	next := mls.ReInit{GroupID: []byte("next"), Version: mls.Version10, Suite: testSuite, Extensions: requires(mls.ProposalSelfRemove).Extensions}
	branch := func(g *Group) mls.PreSharedKeyID { return g.successorPSK(mls.UsageBranch) }
	a, b, c := w.members[0], w.members[1], w.members[2]
	successor(t, w, a, "branch", testSuite, nil, branch(a.Group), 0, []*member{b}, 0)
	successor(t, w, a, "branch", testSuite, nil, branch(a.Group), 1, []*member{b}, mls.RuleBranchJoin)
	successor(t, w, a, "branch", mls.X25519ChaCha20SHA256Ed25519, nil, branch(a.Group), 0, []*member{b}, mls.RuleBranchJoin)
	successor(t, w, a, "branch", testSuite, nil, branch(a.Group), 0, []*member{b, w.client()}, mls.RuleBranchJoin)
	successor(t, w, a, "next", testSuite, next.Extensions, a.successorPSK(mls.UsageReInit), 0, []*member{b, c}, mls.RuleReInitJoin) // nobody asked for it
	w.commit(a, CommitOptions{Proposals: []*mls.Proposal{{Type: mls.ProposalReInit, ReInit: next}}})
	id := a.successorPSK(mls.UsageReInit)
	successor(t, w, a, "next", testSuite, next.Extensions, id, 0, []*member{b, c}, 0)
	successor(t, w, a, "next", testSuite, next.Extensions, id, 1, []*member{b, c}, mls.RuleReInitJoin)
	successor(t, w, a, "next", testSuite, next.Extensions, id, 0, []*member{b}, mls.RuleReInitJoin)
	successor(t, w, a, "next", testSuite, nil, id, 0, []*member{b, c}, mls.RuleReInitJoin)
	successor(t, w, a, "other", testSuite, next.Extensions, id, 0, []*member{b, c}, mls.RuleReInitJoin)
	successor(t, w, a, "next", mls.X25519ChaCha20SHA256Ed25519, next.Extensions, id, 0, []*member{b, c}, mls.RuleReInitJoin)
	old := id
	old.Epoch--
	successor(t, w, a, "next", testSuite, next.Extensions, old, 0, []*member{b, c}, mls.RuleReInitJoin)
	old.GroupID = []byte("elsewhere")
	successor(t, w, a, "next", testSuite, next.Extensions, old, 0, []*member{b, c}, mls.RulePSKUnknown)
}

// successor makes a group after some epochs of its own, with the given key
// of the old one, and has its second member join: want is the rule that is
// broken, or 0.
func successor(t *testing.T, w *world, by *member, id string, s mls.Suite, extensions mls.Extensions, psk mls.PreSharedKeyID, epochs int, members []*member, want mls.Rule) {
	t.Helper()
	w.suite = s
	defer func() { w.suite = testSuite }()
	config := *by.config
	config.PSK = func(id *mls.PreSharedKeyID) ([]byte, bool) {
		if key, ok := by.Group.resumption(id); ok {
			return key, true
		}
		return make([]byte, 32), true // which is not what the joiner has
	}
	g := must(Create(&config, s, []byte(id), Identity{mls.BasicCredential([]byte(by.name)), by.identity(w).Signer}, extensions, nil))(t)
	for range epochs {
		if err := g.Merge(must(g.Commit(CommitOptions{}))(t)); err != nil {
			t.Fatal(err)
		}
	}
	psk.Nonce = make([]byte, 32)
	list := []*mls.Proposal{{Type: mls.ProposalPSK, PSK: psk}}
	var joins *KeyPackage
	for i, m := range members {
		k := m.keyPackage(w)
		if i == 0 {
			joins = k
		}
		list = append(list, Add(k.Package))
	}
	// Epoch 0 alone may name such a key; a malicious creator does so later.
	maker := &member{Group: g, config: &config}
	welcome := w.tied(maker, list)
	joined, err := Join(members[0].config, w.parse(welcome).Welcome, joins, JoinOptions{From: members[0].Group})
	if mls.RuleOf(err) != want || (joined != nil) != (want == 0) {
		t.Errorf("%s, %d epochs, %d members: got %v, want rule %d", id, epochs, len(members), err, want)
	}
}

// tied is the Welcome of a commit that ties a group to an old one, whether or
// not it may do so now.
func (w *world) tied(by *member, list []*mls.Proposal) []byte {
	w.Helper()
	if by.number == 0 {
		return w.forge(by, CommitOptions{Path: true, Proposals: list}, forgery{}).welcome
	}
	psk := list[0].PSK
	key, err := by.config.pskSecret(by.params, []mls.PreSharedKeyID{psk}, nil)
	if err != nil {
		w.Fatalf("psk: %v", err)
	}
	return w.forge(by, CommitOptions{Path: true, Proposals: list[1:]}, forgery{
		psk:     func([]byte) []byte { return key },
		secrets: func(_ int, s *groupSecrets) { s.PSKs = []mls.PreSharedKeyID{psk} },
	}).welcome
}
