package group

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

// The shields of messages: membership tag, sender data, content.
var shields = []ruleCase{
	// RFC 9420 §6.2
	{rule: mls.RuleMembershipTag, detail: "changed", attack: func(w *world, by, to *member) error {
		return w.process(to, w.public(by, w.proposal(by, mls.WirePublic, Remove(3)), flip))
	}},
	{rule: mls.RuleMembershipTag, detail: "absent", attack: func(w *world, by, to *member) error {
		return w.process(to, w.public(by, w.proposal(by, mls.WirePublic, Remove(3)), func([]byte) []byte { return nil }))
	}},
	{rule: mls.RuleMembershipTag, detail: "of the epoch authenticator", attack: func(w *world, by, to *member) error {
		return w.process(to, w.public(by, w.proposal(by, mls.WirePublic, Remove(3)), func([]byte) []byte { return to.EpochAuthenticator() }))
	}},
	{rule: mls.RuleMembershipTag, detail: "of a proposal for a commit", attack: func(w *world, by, to *member) error {
		p := w.public(by, w.proposal(by, mls.WirePublic, Remove(3)), nil)
		c := w.parse(w.forge(by, CommitOptions{}, forgery{}).commit)
		c.Public.MembershipTag = p.Public.MembershipTag
		return w.process(to, c)
	}},
	// RFC 9420 §6.3.2
	{rule: mls.RuleSenderDataDecryption, detail: "changed", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sealed: func(m *mls.PrivateMessage) {
			m.EncryptedSenderData = flip(m.EncryptedSenderData)
		}}))
	}},
	{rule: mls.RuleSenderDataDecryption, detail: "short", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sealed: func(m *mls.PrivateMessage) {
			m.EncryptedSenderData = m.EncryptedSenderData[1:]
		}}))
	}},
	{rule: mls.RuleSenderDataDecryption, detail: "of another sample", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sealed: func(m *mls.PrivateMessage) {
			m.Ciphertext = flip(m.Ciphertext[:2])
		}}))
	}},
	// RFC 9420 §6.3.2
	senderOf("blank", 5), senderOf("outside", 8), senderOf("far outside", 1<<31), senderOf("last", 1<<32-1),
	// RFC 9420 §6.3.1
	{rule: mls.RuleContentDecryption, detail: "changed", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{aad: func(m *mls.PrivateMessage) {
			m.Ciphertext = flip(m.Ciphertext)
		}}))
	}},
	{rule: mls.RuleContentDecryption, detail: "empty", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{aad: func(m *mls.PrivateMessage) {
			m.Ciphertext = nil
		}}))
	}},
	{rule: mls.RuleContentDecryption, detail: "another guard", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sender: func(data []byte) { data[8] ^= 1 }}))
	}},
	{rule: mls.RuleContentDecryption, detail: "another generation", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sender: func(data []byte) { data[7] += 3 }}))
	}},
	{rule: mls.RuleContentDecryption, detail: "another sender", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sender: func(data []byte) { data[3] = 3 }}))
	}},
	{rule: mls.RuleContentDecryption, detail: "other authenticated data", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{aad: func(m *mls.PrivateMessage) {
			m.AuthenticatedData = []byte("other")
		}}))
	}},
	// RFC 9420 §6.3.1: the type outside selects the ratchet.
	{rule: mls.RuleContentType, detail: "application data as a proposal", want: mls.RuleContentDecryption, attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{header: func(m *mls.PrivateMessage) {
			m.ContentType = mls.ContentProposal
		}}))
	}},
	{rule: mls.RuleContentType, detail: "a proposal as a commit", want: mls.RuleOptional, attack: func(w *world, by, to *member) error {
		a := w.proposal(by, mls.WirePrivate, Remove(3))
		return w.process(to, w.seal(by, a, sealing{header: func(m *mls.PrivateMessage) { m.ContentType = mls.ContentCommit }}))
	}},
	{rule: mls.RuleContentType, detail: "to be opened", attack: func(w *world, by, to *member) error {
		_, err := to.Open(w.seal(by, w.proposal(by, mls.WirePrivate, Remove(3)), sealing{}))
		return err
	}},
	// RFC 9420 §6.3.1
	padding("application data", func(w *world, by *member) *mls.AuthenticatedContent { return w.signed(by, mls.WirePrivate, nil) }),
	padding("a proposal", func(w *world, by *member) *mls.AuthenticatedContent {
		return w.proposal(by, mls.WirePrivate, Remove(3))
	}),
	// RFC 9420 §6.1: what is not signed is not handed out.
	{rule: mls.RuleAuthenticatedData, detail: "not signed", want: mls.RuleContentSignature, attack: func(w *world, by, to *member) error {
		a := w.signed(by, mls.WirePrivate, func(c *mls.FramedContent) { c.AuthenticatedData = []byte("signed") })
		m := w.seal(by, a, sealing{header: func(m *mls.PrivateMessage) { m.AuthenticatedData = []byte("not signed") }})
		app, err := to.Open(m)
		if app != nil {
			w.t().Errorf("%q is handed out", app.AuthenticatedData)
		}
		return err
	}},
	{rule: mls.RuleContentSignature, detail: "of another member", attack: func(w *world, by, to *member) error {
		other := w.members[1]
		a := w.signed(other, mls.WirePrivate, func(c *mls.FramedContent) { c.Sender.Index = by.self })
		return w.process(to, w.seal(by, a, sealing{}))
	}},
	{rule: mls.RuleContentSignature, detail: "of another epoch's context", attack: func(w *world, by, to *member) error {
		a := w.signed(by, mls.WirePrivate, nil)
		if err := a.Sign(by.signer, w.server.ContextBytes()[1:]); err != nil {
			return err
		}
		return w.process(to, w.seal(by, a, sealing{}))
	}},
	// RFC 9420 §6: of this group and epoch.
	{rule: mls.RuleGroupAndEpoch, detail: "another group", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, func(c *mls.FramedContent) { c.GroupID = []byte("another") }), sealing{}))
	}},
	{rule: mls.RuleGroupAndEpoch, detail: "a later epoch", is: ErrFutureEpoch, attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, func(c *mls.FramedContent) { c.Epoch++ }), sealing{}))
	}},
	{rule: mls.RuleGroupAndEpoch, detail: "a proposal of an earlier epoch", is: ErrPastEpoch, attack: func(w *world, by, to *member) error {
		a := w.proposal(by, mls.WirePublic, Remove(3))
		a.Content.Epoch--
		a.Seal()
		return w.process(to, w.public(by, a, nil))
	}},
	{rule: mls.RuleSenderLeaf, detail: "the own leaf", is: ErrOwnMessage, attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sender: func(data []byte) {
			binary.BigEndian.PutUint32(data, to.self)
		}}))
	}},
	// RFC 9420 §12.1.8
	{rule: mls.RuleExternalInPrivate, detail: "a proposal", want: mls.RuleContentSignature, attack: func(w *world, by, to *member) error {
		// There is no sender type inside: it is read as a member's.
		k := w.client().keyPackage(w)
		a := w.proposal(by, mls.WirePrivate, Add(k.Package))
		a.Content.Sender = mls.Sender{Type: mls.SenderNewMemberProposal}
		if err := a.Sign(k.Identity.Signer, nil); err != nil {
			return err
		}
		return w.process(to, w.seal(by, a, sealing{}))
	}},
	// draft-ietf-mls-extensions §6.3.1
	{rule: mls.RuleSelfRemove, detail: "in a PrivateMessage", attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.proposal(by, mls.WirePrivate, &mls.Proposal{Type: mls.ProposalSelfRemove}), sealing{}))
	}},
	{rule: mls.RuleMessage, detail: "a key package", attack: func(w *world, by, to *member) error {
		return w.process(to, w.parse(w.client().keyPackage(w).Message()))
	}},
}

func TestMessageRules(t *testing.T) { refuses(t, newAttacked(t, 5), shields) }

// senderOf names a leaf that is not there in the sender data, RFC 9420 §6.3.2.
func senderOf(detail string, leaf uint32) ruleCase {
	return ruleCase{rule: mls.RuleSenderDataLeaf, detail: detail, attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sender: func(data []byte) {
			binary.BigEndian.PutUint32(data, leaf)
		}}))
	}}
}

// padding ends with an octet that is not zero, RFC 9420 §6.3.1.
func padding(detail string, content func(w *world, by *member) *mls.AuthenticatedContent) ruleCase {
	return ruleCase{rule: mls.RulePadding, detail: detail, attack: func(w *world, by, to *member) error {
		return w.process(to, w.seal(by, content(w, by), sealing{body: func(b []byte) []byte { return append(b, 0, 0, 1, 0) }}))
	}}
}

// Generations: each opens once, and not too far ahead.
func TestGenerationRules(t *testing.T) {
	w := newAttacked(t, 3)
	at := func(generation uint32) func(w *world, by, to *member) error {
		return func(w *world, by, to *member) error {
			return w.process(to, w.seal(by, w.signed(by, mls.WirePrivate, nil), sealing{sender: func(data []byte) {
				binary.BigEndian.PutUint32(data[4:], generation)
			}}))
		}
	}
	w.say(w.members[0], 3)
	next := w.members[0].ratchets.Generation(0, secret.Application)
	kept := w.seal(w.members[0], w.signed(w.members[0], mls.WirePrivate, nil), sealing{})
	w.members[0].ratchets.Skip(0, secret.Application, next+5)
	w.say(w.members[0], 1)
	refuses(t, w, []ruleCase{
		{rule: mls.RuleReplay, detail: "opened", attack: at(0)}, // RFC 9420 §9.2
		{rule: mls.RuleReplay, detail: "opened later", attack: at(next + 5)},
		{rule: mls.RuleRatchetDistance, detail: "far", attack: at(next + 2000)}, // RFC 9420 §15.3
		{rule: mls.RuleRatchetDistance, detail: "very far", attack: at(1<<32 - 2)},
		{rule: mls.RuleGenerationExhausted, detail: "received", attack: at(1<<32 - 1)}, // RFC 9420 §9.1
	})
	// Two epochs later it still opens, once.
	for _, to := range w.members[1:] {
		if err := w.process(to, kept); err != nil {
			t.Errorf("a message that was overtaken: %v", err)
		}
		opened := to.Snapshot()
		if err := w.process(to, kept); mls.RuleOf(err) != mls.RuleReplay {
			t.Errorf("the same message again: %v", err)
		}
		if !bytes.Equal(opened, to.Snapshot()) {
			t.Error("a replay changed the member")
		}
	}
}
