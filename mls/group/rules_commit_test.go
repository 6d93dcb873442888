package group

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// external is a proposal of a pre-shared key that all know.
func (w *world) external1(by *member, name string) *mls.Proposal {
	w.Helper()
	w.psks[name] = []byte("secret of " + name)
	p, err := by.PSK(mls.PreSharedKeyID{Type: mls.PSKExternal, ID: []byte(name)})
	if err != nil {
		w.Fatalf("psk: %v", err)
	}
	return p
}

// forged gives a malicious commit to a member.
func forgedCommit(o func(w *world, by, to *member) CommitOptions, f forgery) func(w *world, by, to *member) error {
	return func(w *world, by, to *member) error {
		options := CommitOptions{}
		if o != nil {
			options = o(w, by, to)
		}
		return w.process(to, w.parse(w.forge(by, options, f).commit))
	}
}

// A malicious committer that does nothing otherwise is accepted: what the
// cases below refuse is what they change.
func TestForgeHonest(t *testing.T) {
	for _, private := range []bool{false, true} {
		w := newAttacked(t, 5)
		by, to := w.members[0], w.members[2]
		by.config.PrivateHandshakes = private
		k := w.client().keyPackage(w)
		f := w.forge(by, CommitOptions{Path: true, Proposals: []*mls.Proposal{Add(k.Package), Remove(4), w.external1(by, "key")}}, forgery{})
		event, err := to.Process(w.parse(f.commit))
		if err != nil {
			t.Fatal(err)
		}
		if err := to.Merge(event.Transition); err != nil {
			t.Fatal(err)
		}
		g, err := Join(to.config, w.parse(f.welcome).Welcome, k, JoinOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(g.EpochAuthenticator(), to.EpochAuthenticator()) || !bytes.Equal(f.secrets.Authenticator, g.EpochAuthenticator()) {
			t.Error("the members differ")
		}
	}
}

// pathCases are wrong path secrets, RFC 9420 §7.5 and §12.4.2.
func pathCases(w *world) []ruleCase {
	return []ruleCase{
		// RFC 9420 §12.4.2: the provisional GroupContext.
		{rule: mls.RulePathContext, detail: "the old context", want: mls.RulePathSecret, attack: forgedCommit(nil, forgery{
			context: func(st *mls.Staged) []byte { return w.members[0].context }})},
		{rule: mls.RulePathContext, detail: "the old epoch", want: mls.RulePathSecret, attack: forgedCommit(nil, provisional(func(c *mls.GroupContext) { c.Epoch-- }))},
		{rule: mls.RulePathContext, detail: "the old tree", want: mls.RulePathSecret, attack: forgedCommit(nil, provisional(func(c *mls.GroupContext) {
			c.TreeHash = w.members[0].tree.Hash()
		}))},
		{rule: mls.RulePathContext, detail: "another transcript", want: mls.RulePathSecret, attack: forgedCommit(nil, provisional(func(c *mls.GroupContext) {
			c.ConfirmedTranscriptHash = flip(c.ConfirmedTranscriptHash)
		}))},
		{rule: mls.RulePathContext, detail: "the old extensions", want: mls.RulePathSecret, attack: forgedCommit(func(w *world, by, to *member) CommitOptions {
			return CommitOptions{Proposals: []*mls.Proposal{requires(mls.ProposalSelfRemove)}}
		}, provisional(func(c *mls.GroupContext) { c.Extensions = nil }))},
		// RFC 9420 §7.5
		{rule: mls.RulePathSecret, detail: "random", attack: forgedCommit(nil, forgery{plain: func(int, uint32, []byte) []byte { return make([]byte, 32) }})},
		{rule: mls.RulePathSecret, detail: "short", attack: forgedCommit(nil, forgery{plain: func(_ int, _ uint32, s []byte) []byte { return s[1:] }})},
		{rule: mls.RulePathSecret, detail: "long", attack: forgedCommit(nil, forgery{plain: func(_ int, _ uint32, s []byte) []byte { return append(bytes.Clone(s), 0) }})},
		{rule: mls.RulePathSecret, detail: "empty", attack: forgedCommit(nil, forgery{plain: func(int, uint32, []byte) []byte { return nil }})},
		{rule: mls.RulePathSecret, detail: "one derivation further", attack: forgedCommit(nil, forgery{plain: func(_ int, _ uint32, s []byte) []byte {
			return w.members[0].params.DeriveSecret(nil, s, "path")
		}})},
		{rule: mls.RulePathSecret, detail: "changed", attack: forgedCommit(nil, forgery{sealed: func(_ int, _ uint32, c *mls.Ciphertext) {
			c.Ciphertext = flip(c.Ciphertext)
		}})},
		{rule: mls.RulePathSecret, detail: "no octets", attack: forgedCommit(nil, forgery{sealed: func(_ int, _ uint32, c *mls.Ciphertext) { *c = mls.Ciphertext{} }})},
		// RFC 9180 §7.1.4
		{rule: mls.RuleDHValidation, detail: "an encapsulated key of zeros", want: mls.RulePathSecret, attack: forgedCommit(nil, forgery{sealed: func(_ int, _ uint32, c *mls.Ciphertext) {
			c.KEMOutput = make([]byte, 32)
		}})},
		{rule: mls.RuleDHValidation, detail: "an encapsulated key too short", want: mls.RulePathSecret, attack: forgedCommit(nil, forgery{sealed: func(_ int, _ uint32, c *mls.Ciphertext) {
			c.KEMOutput = c.KEMOutput[1:]
		}})},
	}
}

// tagCases are commits that confirm something else, RFC 9420 §6.1 and §12.4.2.
func tagCases() []ruleCase {
	return []ruleCase{
		// RFC 9420 §12.4.2
		{rule: mls.RuleConfirmationTag, detail: "changed", attack: forgedCommit(nil, forgery{tag: flip})},
		{rule: mls.RuleConfirmationTag, detail: "another init secret", attack: forgedCommit(nil, forgery{init: flip})},
		{rule: mls.RuleConfirmationTag, detail: "the commit secret one derivation short", attack: forgedCommit(nil, forgery{commit: func(p *path) []byte {
			return p.secrets[len(p.secrets)-1]
		}})},
		{rule: mls.RuleConfirmationTag, detail: "no commit secret", attack: forgedCommit(nil, forgery{commit: func(p *path) []byte { return nil }})},
		{rule: mls.RuleConfirmationTagPresence, detail: "short", attack: forgedCommit(nil, forgery{tag: func(b []byte) []byte { return b[1:] }})},
		// RFC 9420 §8.2: the transcript.
		{rule: mls.RuleTranscriptHash, detail: "the tag of another commit", want: mls.RuleConfirmationTag, attack: func(w *world, by, to *member) error {
			other := w.parse(w.forge(by, CommitOptions{AuthenticatedData: []byte("other"), Public: true}, forgery{}).commit)
			return forgedCommit(nil, forgery{tag: func([]byte) []byte { return other.Public.ConfirmationTag }})(w, by, to)
		}},
		// RFC 9420 §6.1, §12.1.7: a commit is signed in the old context.
		{rule: mls.RuleContentSignature, detail: "in the new context", attack: forgedCommit(func(w *world, by, to *member) CommitOptions {
			return CommitOptions{Proposals: []*mls.Proposal{requires(mls.ProposalSelfRemove)}}
		}, forgery{signed: (*mls.Staged).Provisional})},
	}
}

// keyed is a commit of two pre-shared keys.
func keyed(w *world, by, to *member) CommitOptions {
	return CommitOptions{Proposals: []*mls.Proposal{w.external1(by, "one"), w.external1(by, "two")}}
}

// pskCases are wrong pre-shared keys, RFC 9420 §8.4.
func pskCases() []ruleCase {
	return []ruleCase{
		// RFC 9420 §8.4: the order and number of pre-shared keys.
		{rule: mls.RulePSKSecret, detail: "another order", want: mls.RuleConfirmationTag, attack: func(w *world, by, to *member) error {
			one, two := w.external1(by, "one"), w.external1(by, "two")
			swapped := must(by.config.pskSecret(by.params, []mls.PreSharedKeyID{two.PSK, one.PSK}, by.Group))(w.t())
			f := forgery{psk: func([]byte) []byte { return swapped }}
			return w.process(to, w.parse(w.forge(by, CommitOptions{Proposals: []*mls.Proposal{one, two}}, f).commit))
		}},
		{rule: mls.RulePSKSecret, detail: "zeros for keys", want: mls.RuleConfirmationTag, attack: forgedCommit(keyed, forgery{psk: func(b []byte) []byte { return make([]byte, len(b)) }})},
		// RFC 9420 §8.4, §12.4.2
		{rule: mls.RulePSKUnknown, detail: "not known", attack: func(w *world, by, to *member) error {
			o := keyed(w, by, to)
			c := w.forge(by, o, forgery{}).commit
			delete(w.psks, "two")
			return w.process(to, w.parse(c))
		}},
		{rule: mls.RulePSKUnknown, detail: "of an epoch before the group", attack: func(w *world, by, to *member) error {
			return resumed(w, by, to, to.ID(), 0)
		}},
		{rule: mls.RulePSKUnknown, detail: "of another group", attack: func(w *world, by, to *member) error {
			return resumed(w, by, to, []byte("another"), to.number)
		}},
	}
}

// proposalCases are proposals that no member may send, or nobody sent.
func proposalCases() []ruleCase {
	return []ruleCase{
		// RFC 9420 §12.1.4
		{rule: mls.RulePreSharedKey, detail: "a nonce too short", attack: func(w *world, by, to *member) error {
			p := w.external1(by, "one")
			p.PSK.Nonce = p.PSK.Nonce[1:]
			return w.process(to, w.public(by, w.proposal(by, mls.WirePublic, p), nil))
		}},
		{rule: mls.RulePreSharedKey, detail: "to branch", attack: func(w *world, by, to *member) error {
			p := must(by.PSK(mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.UsageBranch, GroupID: by.ID(), Epoch: by.number}))(w.t())
			return w.process(to, w.public(by, w.proposal(by, mls.WirePublic, p), nil))
		}},
		// RFC 9420 §12.1.6
		{rule: mls.RuleExternalInit, detail: "of a member", attack: func(w *world, by, to *member) error {
			return w.process(to, w.public(by, w.proposal(by, mls.WirePublic, &mls.Proposal{Type: mls.ProposalExternalInit, KEMOutput: make([]byte, 32)}), nil))
		}},
		// RFC 9420 §12.4, §5.2
		{rule: mls.RuleProposalReference, detail: "not received", attack: func(w *world, by, to *member) error {
			a := w.proposal(by, mls.WirePublic, Remove(3))
			ref := must(by.public.Propose(a))(w.t()).Ref
			defer by.public.Forget(ref)
			return w.process(to, w.parse(w.forge(by, CommitOptions{}, forgery{}).commit))
		}},
		{rule: mls.RuleProposalReference, detail: "changed", attack: forgedCommit(nil, forgery{list: func([]mls.ProposalOrRef) []mls.ProposalOrRef {
			return []mls.ProposalOrRef{{Ref: make([]byte, 32)}}
		}})},
	}
}

// What a commit says with secrets, in the clear and encrypted.
func TestCommitRules(t *testing.T) {
	w := newAttacked(t, 5)
	for _, private := range []bool{false, true} {
		t.Run(fmt.Sprintf("private %t", private), func(t *testing.T) {
			w.members[0].config.PrivateHandshakes = private
			list := slices.Concat(pathCases(w), tagCases(), pskCases())
			if !private {
				list = append(list, proposalCases()...)
			}
			refuses(t, w, list)
		})
	}
}

// provisional seals path secrets under a context that is changed.
func provisional(change func(c *mls.GroupContext)) forgery {
	return forgery{context: func(st *mls.Staged) []byte {
		c, err := mls.ParseGroupContext(st.Provisional())
		if err != nil {
			panic(err)
		}
		change(c)
		return c.AppendTo(nil)
	}}
}

// requires is a proposal of extensions that require a type of proposals.
func requires(p mls.ProposalType) *mls.Proposal {
	r := mls.RequiredCapabilities{Proposals: mls.NewList(p)}
	return &mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: mls.Extensions{{Type: mls.ExtRequiredCapabilities, Data: r.AppendTo(nil)}}}
}

// resumed commits a resumption key that the committer pretends to have.
func resumed(w *world, by, to *member, group []byte, epoch uint64) error {
	p, err := by.PSK(mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: mls.UsageApplication, GroupID: group, Epoch: epoch})
	if err != nil {
		return err
	}
	before := by.config.PSK
	by.config.PSK = func(*mls.PreSharedKeyID) ([]byte, bool) { return make([]byte, 32), true }
	defer func() { by.config.PSK = before }()
	return w.process(to, w.parse(w.forge(by, CommitOptions{Proposals: []*mls.Proposal{p}}, forgery{}).commit))
}
