package group

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

// outside makes an external commit and lets change spoil it before it is
// signed again.
func (w *world) outside(o ExternalOptions, info func(*mls.GroupInfo), change func(*mls.Commit)) *mls.Message {
	w.Helper()
	m := w.client()
	i := w.parse(must(w.members[0].GroupInfo(true, nil))(w.t())).GroupInfo
	if info != nil {
		info(i)
		if err := i.Sign(w.members[0].signer); err != nil {
			w.Fatalf("sign: %v", err)
		}
	}
	id := m.identity(w)
	_, commit, err := JoinExternal(m.config, id, i, o)
	if err != nil {
		w.Fatalf("join: %v", err)
	}
	p := w.parse(commit)
	if change == nil {
		return p
	}
	a := p.Public.AuthenticatedContent
	change(a.Content.Commit)
	if err := a.Sign(id.Signer, w.members[0].context); err != nil {
		w.Fatalf("sign: %v", err)
	}
	return w.parse((&mls.Message{WireFormat: mls.WirePublic, Public: &mls.PublicMessage{AuthenticatedContent: a}}).AppendTo(nil))
}

func (w *world) t() testing.TB { return w.tb.(testing.TB) }

// kem replaces the kem_output of an external commit.
func kem(change func([]byte) []byte) func(*mls.Commit) {
	return func(c *mls.Commit) {
		old := c.Proposals[0].Proposal.KEMOutput
		c.Proposals[0].Proposal = &mls.Proposal{Type: mls.ProposalExternalInit, KEMOutput: change(bytes.Clone(old))}
	}
}

// What a member checks of who joins by itself.
func TestExternalRules(t *testing.T) {
	external := func(change func([]byte) []byte) func(w *world, by, to *member) error {
		return func(w *world, by, to *member) error {
			return w.process(to, w.outside(ExternalOptions{}, nil, kem(change)))
		}
	}
	refuses(t, newAttacked(t, 4), []ruleCase{
		// RFC 9420 §8.3
		{rule: mls.RuleExternalInitSecret, detail: "of zeros", attack: external(func(b []byte) []byte { clear(b); return b })},
		{rule: mls.RuleExternalInitSecret, detail: "short", attack: external(func(b []byte) []byte { return b[1:] })},
		{rule: mls.RuleExternalInitSecret, detail: "empty", attack: external(func([]byte) []byte { return nil })},
		{rule: mls.RuleExternalInitSecret, detail: "changed", want: mls.RuleConfirmationTag, attack: external(flip)},
		// RFC 9420 §12.4.3.2: the joiner was given another key.
		{rule: mls.RuleExternalPub, detail: "another key", want: mls.RuleConfirmationTag, attack: func(w *world, by, to *member) error {
			_, public, err := hpke.GenerateKeyPair(by.params, w.rand)
			if err != nil {
				return err
			}
			return w.process(to, w.outside(ExternalOptions{}, func(i *mls.GroupInfo) {
				i.Extensions = i.Extensions.With(mls.ExtExternalPub, vec(public))
			}, nil))
		}},
		{rule: mls.RuleExternalPub, detail: "another key is offered", attack: func(w *world, by, to *member) error {
			_, public, err := hpke.GenerateKeyPair(by.params, w.rand)
			if err != nil {
				return err
			}
			i := by.public.GroupInfo(mls.Extensions{{Type: mls.ExtExternalPub, Data: vec(public)}}, by.self)
			if err := i.Sign(by.signer); err != nil {
				return err
			}
			return to.CheckGroupInfo(i)
		}},
		{rule: mls.RulePSKUnknown, detail: "of a joiner", attack: func(w *world, by, to *member) error {
			w.psks["lost"] = []byte("secret")
			m := w.outside(ExternalOptions{PSKs: []mls.PreSharedKeyID{{Type: mls.PSKExternal, ID: []byte("lost")}}}, nil, nil)
			delete(w.psks, "lost")
			return w.process(to, m)
		}},
	})
}

// What somebody refuses who would join by itself.
func TestExternalJoinRules(t *testing.T) {
	w := newAttacked(t, 3)
	by := w.members[0]
	for _, c := range []struct {
		rule   mls.Rule
		detail string
		change func(i *mls.GroupInfo)
	}{
		// RFC 9420 §12.4.3.2
		{mls.RuleExternalPub, "absent", func(i *mls.GroupInfo) { i.Extensions = i.Extensions.With(mls.ExtExternalPub, nil)[1:] }},
		{mls.RuleExternalPub, "of small order", func(i *mls.GroupInfo) {
			i.Extensions = i.Extensions.With(mls.ExtExternalPub, vec(make([]byte, 32)))
		}},
		{mls.RuleExternalPub, "short", func(i *mls.GroupInfo) {
			i.Extensions = i.Extensions.With(mls.ExtExternalPub, vec(make([]byte, 31)))
		}},
		{mls.RuleGroupInfoSignature, "of another", func(i *mls.GroupInfo) { i.Signer = 1 }},
		{mls.RuleTreeHash, "another", func(i *mls.GroupInfo) { i.Context.TreeHash = flip(i.Context.TreeHash) }},
	} {
		i := w.parse(must(by.GroupInfo(true, nil))(t)).GroupInfo
		c.change(i)
		if err := i.Sign(by.signer); err != nil {
			t.Fatal(err)
		}
		m := w.client()
		g, commit, err := JoinExternal(m.config, m.identity(w), w.parse((&mls.Message{WireFormat: mls.WireGroupInfo, GroupInfo: i}).AppendTo(nil)).GroupInfo, ExternalOptions{})
		if mls.RuleOf(err) != c.rule || commit != nil {
			t.Errorf("%s: got %v (%v), want rule %d", c.detail, err, g != nil, c.rule)
		}
	}
}

// Nothing is said while proposals wait: mls.RulePendingProposals, RFC 9420
// §12.4; nothing after a ReInit: mls.RuleReinitialized, §12.4.2.
func TestSpeechRules(t *testing.T) {
	w := newAttacked(t, 3)
	by, to := w.members[0], w.members[1]
	w.deliver(by, must(by.Propose(w.external1(by, "key"), nil))(t))
	for _, m := range w.members {
		if _, err := m.Seal(nil, []byte("x"), nil); mls.RuleOf(err) != mls.RulePendingProposals {
			t.Errorf("%s speaks: %v", m.name, err)
		}
	}
	to.config.SendWhilePending = true
	if _, err := to.Seal(nil, []byte("x"), nil); err != nil {
		t.Error(err)
	}
	to.config.SendWhilePending = false
	w.commit(to, CommitOptions{})
	w.say(by, 1)

	late := must(by.Seal(nil, []byte("late"), nil))(t)
	by.save()
	next := mls.ReInit{GroupID: []byte("next"), Version: mls.Version10, Suite: testSuite}
	w.commit(by, CommitOptions{Proposals: []*mls.Proposal{{Type: mls.ProposalReInit, ReInit: next}}})
	before := to.Snapshot()
	message := w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{})
	if err := w.process(to, message); mls.RuleOf(err) != mls.RuleReinitialized {
		t.Errorf("application data after a ReInit: %v", err)
	}
	for what, m := range map[string]*mls.Message{
		"a proposal":         w.public(by, w.proposal(by, mls.WirePublic, Remove(2)), nil),
		"a private proposal": w.seal(by, w.proposal(by, mls.WirePrivate, Remove(2)), sealing{}),
	} {
		if err := w.process(to, m); !errors.Is(err, ErrInactive) {
			t.Errorf("%s after a ReInit: %v", what, err)
		}
	}
	if !bytes.Equal(before, to.Snapshot()) {
		t.Error("RFC 9420 §14: the refusals changed the member")
	}
	if err := w.process(to, w.parse(late)); err != nil {
		t.Errorf("a message from before: %v", err)
	}
}

// An own commit changes nothing before it is merged: mls.RulePendingCommit,
// RFC 9420 §14.
func TestPendingCommit(t *testing.T) {
	w := newAttacked(t, 4)
	by := w.members[1]
	before := by.Group.epoch
	context, secrets := bytes.Clone(by.context), bytes.Clone(by.secrets.Init)
	leaf := bytes.Clone(by.keys[2*by.self].private)
	c := must(by.Commit(CommitOptions{Proposals: []*mls.Proposal{Add(w.client().keyPackage(w).Package), Remove(3)}}))(t)
	if c.Welcome == nil || by.Pending() != c || by.Epoch() != before.number || by.tree != before.tree ||
		!bytes.Equal(context, by.public.ContextBytes()) || !bytes.Equal(secrets, by.secrets.Init) || !bytes.Equal(leaf, by.keys[2*by.self].private) {
		t.Error("the commit has changed the group")
	}
	if _, err := by.Commit(CommitOptions{}); !errors.Is(err, ErrPending) {
		t.Errorf("a second commit: %v", err)
	}
	by.save()
	w.say(by, 1)
	w.say(w.members[0], 1)
	w.commit(w.members[0], CommitOptions{}) // which wins
	if by.Pending() != nil || !errors.Is(by.Merge(c), ErrStale) {
		t.Error("the commit that lost is still there")
	}
	w.commit(by, CommitOptions{})
}

// Counters: mls.RuleAEADLimit, RFC 9420 §15.2; mls.RuleGenerationExhausted,
// §9.1.
func TestSendLimits(t *testing.T) {
	w := newAttacked(t, 2)
	by := w.members[0]
	by.limits.Messages = 3
	w.say(by, 3)
	if _, err := by.Seal(nil, []byte("x"), nil); mls.RuleOf(err) != mls.RuleAEADLimit {
		t.Errorf("a fourth message: %v", err)
	}
	w.commit(by, CommitOptions{})
	w.say(by, 3)
	by.limits.Messages = 1 << 23
	w.commit(by, CommitOptions{})
	w.say(by, 1)
	// The record of the own leaf, 0, comes first: its handshake ratchet and
	// then its application ratchet are set to the last generation.
	record := by.ratchets.AppendTo(nil)
	const head, ratchet = 4 + 4 + 8 + 1 + 1, 4 + 32 + 4
	for _, at := range []int{head, head + ratchet} {
		binary.BigEndian.PutUint32(record[at:], 1<<32-2)
	}
	by.ratchets = must(secret.ParseRatchets(by.params, record))(t)
	by.config.PrivateHandshakes = true
	for range 2 {
		if _, err := by.Seal(nil, []byte("x"), nil); err != nil && mls.RuleOf(err) != mls.RuleGenerationExhausted {
			t.Fatal(err)
		}
	}
	_, err := by.Seal(nil, []byte("x"), nil)
	if mls.RuleOf(err) != mls.RuleGenerationExhausted {
		t.Errorf("a message with generation 2^32-1: %v", err)
	}
	if _, err := by.Propose(Remove(1), nil); err != nil {
		t.Fatal(err)
	}
	before := by.Snapshot()
	for what, f := range map[string]func() error{
		"propose": func() error { return second(by.Propose(w.external1(by, "key"), nil)) },
		"update":  func() error { return second(by.ProposeUpdate(nil, nil)) },
		"commit":  func() error { return second(by.Commit(CommitOptions{LeavePending: true})) },
	} {
		if err := f(); mls.RuleOf(err) != mls.RuleGenerationExhausted {
			t.Errorf("%s with generation 2^32-1: %v", what, err)
		}
	}
	if !bytes.Equal(before, by.Snapshot()) {
		t.Error("RFC 9420 §14: what was not sent changed the member")
	}
	by.config.PrivateHandshakes = false
	by.public.Forget(by.public.Pending()[0].Ref)
	by.Snapshot()
	w.commit(by, CommitOptions{Public: true})
	w.say(by, 1)
}

// Exported secrets have a length that can be had: mls.RuleExporter, RFC 9420
// §8.5; and those of components can be had once, draft-ietf-mls-extensions §4.4.
func TestExporterRules(t *testing.T) {
	w := newAttacked(t, 2)
	a, b := w.members[0], w.members[1]
	for _, n := range []int{-1, 0, 255*32 + 1, 1 << 30} {
		if _, err := a.Export("label", nil, n); mls.RuleOf(err) != mls.RuleExporter {
			t.Errorf("%d octets: %v", n, err)
		}
	}
	for _, n := range []int{1, 255 * 32} {
		if out := must(a.Export("label", nil, n))(t); len(out) != n || !bytes.Equal(out, must(b.Export("label", nil, n))(t)) {
			t.Errorf("%d octets: got %d", n, len(out))
		}
	}
	for _, c := range []mls.ComponentID{0, 7, 1<<16 - 1} {
		one := must(a.SafeExport(c))(t)
		if !bytes.Equal(one, must(b.SafeExport(c))(t)) {
			t.Errorf("component %d: the members differ", c)
		}
		if _, err := a.SafeExport(c); mls.RuleOf(err) != mls.RuleExporter {
			t.Errorf("component %d twice: %v", c, err)
		}
		if bytes.Contains(a.Snapshot(), one) {
			t.Errorf("component %d: the secret is stored", c)
		}
	}
	w.commit(a, CommitOptions{})
	if _, err := a.SafeExport(7); err != nil {
		t.Errorf("in the next epoch: %v", err)
	}
}

// What is kept of past epochs is bounded: mls.RuleResumptionPSK, RFC 9420
// §8.6, and §9.2 for messages.
func TestPastBounds(t *testing.T) {
	w := newAttacked(t, 2)
	by, to := w.members[0], w.members[1]
	to.config.Limits = Limits{PastEpochs: 2, Resumptions: 3}
	to.limits = to.config.Limits.withDefaults()
	first := to.number
	var sent []*mls.Message
	for range 5 {
		sent = append(sent, w.parse(must(by.Seal(nil, []byte("late"), nil))(t)))
		by.save()
		w.commit(by, CommitOptions{})
		to.restart(w)
	}
	for i, m := range sent {
		err := w.process(to, m)
		if kept := i >= 3; kept != (err == nil) || !kept && !errors.Is(err, ErrPastEpoch) {
			t.Errorf("a message of %d epochs ago: %v", len(sent)-i, err)
		}
		id := mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.UsageApplication, GroupID: to.ID(), Epoch: first + uint64(i)}
		if _, ok := to.resumption(&id); ok != (i >= 2) {
			t.Errorf("the resumption key of %d epochs ago: %t", len(sent)-i, ok)
		}
	}
	p := must(by.PSK(mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.UsageApplication, GroupID: by.ID(), Epoch: first + 2}))(t)
	w.commit(by, CommitOptions{Proposals: []*mls.Proposal{p}})
	p = must(by.PSK(mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.UsageApplication, GroupID: by.ID(), Epoch: first + 2}))(t)
	if err := w.process(to, w.parse(w.forge(by, CommitOptions{Proposals: []*mls.Proposal{p}}, forgery{}).commit)); mls.RuleOf(err) != mls.RulePSKUnknown {
		t.Errorf("a resumption key that is not kept any more: %v", err)
	}
	to.ForgetPast(0)
	to.save()
	to.restart(w)
	if err := w.process(to, sent[4]); !errors.Is(err, ErrPastEpoch) || len(to.past) != 0 {
		t.Errorf("after all past epochs were forgotten: %v", err)
	}
}
