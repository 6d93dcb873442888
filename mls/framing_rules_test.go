package mls

import (
	"errors"
	"testing"
)

// senders is a GroupContext extension that lets c propose from outside.
func senders(c *client) Extension {
	return Extension{ExtExternalSenders, AppendExternalSenders(nil, ExternalSender{c.public, c.credential})}
}

// Messages that are signed and wrong: RFC 9420 §6.
var badFraming = []struct {
	name string
	rule Rule
	make func(k *kit) *AuthenticatedContent
}{
	{"§6 group", RuleGroupAndEpoch, func(k *kit) *AuthenticatedContent {
		return k.message(k.members[0], Sender{SenderMember, 0}, func(a *AuthenticatedContent) {
			a.Content.GroupID, a.Content.Proposal = []byte("other"), remove(1)
		})
	}},
	{"§6 epoch", RuleGroupAndEpoch, func(k *kit) *AuthenticatedContent {
		return k.message(k.members[0], Sender{SenderMember, 0}, func(a *AuthenticatedContent) {
			a.Content.Epoch, a.Content.Proposal = 0, remove(1)
		})
	}},
	{"§6.1 external sender commits", RuleSenderType, func(k *kit) *AuthenticatedContent {
		return k.message(k.outside, Sender{SenderExternal, 0}, func(a *AuthenticatedContent) { a.Content.Commit = &Commit{} })
	}},
	{"§6.1 new member proposes a Remove", RuleSenderType, func(k *kit) *AuthenticatedContent {
		return k.message(k.outside, Sender{Type: SenderNewMemberProposal}, func(a *AuthenticatedContent) { a.Content.Proposal = remove(1) })
	}},
	{"§6.1 new member commit proposes", RuleSenderType, func(k *kit) *AuthenticatedContent {
		return k.message(k.outside, Sender{Type: SenderNewMemberCommit}, func(a *AuthenticatedContent) { a.Content.Proposal = k.addProposal() })
	}},
	{"§6.1 blank sender", RuleSenderLeaf, func(k *kit) *AuthenticatedContent {
		return k.message(k.members[0], Sender{SenderMember, 3}, func(a *AuthenticatedContent) { a.Content.Proposal = remove(1) })
	}},
	{"§6.1 sender beyond the tree", RuleSenderLeaf, func(k *kit) *AuthenticatedContent {
		return k.message(k.members[0], Sender{SenderMember, 1 << 31}, func(a *AuthenticatedContent) { a.Content.Proposal = remove(1) })
	}},
	{"§12.1.8.1 external sender's index", RuleExternalSenderIndex, func(k *kit) *AuthenticatedContent {
		return k.message(k.outside, Sender{SenderExternal, 1}, func(a *AuthenticatedContent) { a.Content.Proposal = remove(1) })
	}},
	{"§6.1 signature of another member", RuleContentSignature, func(k *kit) *AuthenticatedContent {
		return k.message(k.members[1], Sender{SenderMember, 0}, func(a *AuthenticatedContent) { a.Content.Proposal = remove(1) })
	}},
	{"§6.1 signature of another external sender", RuleContentSignature, func(k *kit) *AuthenticatedContent {
		return k.message(k.members[1], Sender{SenderExternal, 0}, func(a *AuthenticatedContent) { a.Content.Proposal = remove(1) })
	}},
	{"§12.1.8 signature of another than the joiner", RuleContentSignature, func(k *kit) *AuthenticatedContent {
		return k.message(k.outside, Sender{Type: SenderNewMemberProposal}, func(a *AuthenticatedContent) { a.Content.Proposal = k.addProposal() })
	}},
	{"§6.1 tag of a commit", RuleConfirmationTagPresence, func(k *kit) *AuthenticatedContent {
		a := k.commit(0, nil, nil)
		a.ConfirmationTag = nil
		a.Seal()
		return a
	}},
	{"§6.1 tag of a proposal", RuleConfirmationTagPresence, func(k *kit) *AuthenticatedContent {
		a := k.proposal(0, remove(1))
		a.ConfirmationTag = make([]byte, 32)
		return a
	}},
	{"§12.1.8 external sender in private", RuleExternalInPrivate, func(k *kit) *AuthenticatedContent {
		return k.message(k.outside, Sender{SenderExternal, 0}, func(a *AuthenticatedContent) {
			a.WireFormat, a.Content.Proposal = WirePrivate, remove(1)
		})
	}},
	{"§12.4.3.2 external commit in private", RuleExternalInPrivate, func(k *kit) *AuthenticatedContent {
		a := k.joinCommit(k.client(), []ProposalOrRef{externalInit()}, nil)
		a.WireFormat = WirePrivate
		return a
	}},
	{"§6.2 application in public", RuleApplicationInPublic, func(k *kit) *AuthenticatedContent {
		return k.message(k.members[0], Sender{SenderMember, 0}, func(a *AuthenticatedContent) {
			a.Content.ContentType, a.Content.Application = ContentApplication, []byte("x")
		})
	}},
	{"extensions §6.3.1 SelfRemove in private", RuleSelfRemove, func(k *kit) *AuthenticatedContent {
		return k.message(k.members[1], Sender{SenderMember, 1}, func(a *AuthenticatedContent) {
			a.WireFormat, a.Content.Proposal = WirePrivate, &Proposal{Type: ProposalSelfRemove}
		})
	}},
}

func TestFramingRules(t *testing.T) {
	for _, c := range badFraming {
		t.Run(ruleNames(c.name, c.rule), func(t *testing.T) {
			outside := newClient(t, "outside", seeded(9))
			k := newKit(t, 3, nil, Extensions{senders(outside)})
			k.outside = outside
			before := k.g.AppendTo(nil)
			a := c.make(k)
			var err error
			if a.Content.ContentType == ContentCommit {
				_, err = k.g.Stage(a)
			} else {
				_, err = k.g.Propose(a)
			}
			k.breaks(err, before, c.rule)
		})
	}
}

// Messages of all senders that are as they should be.
func TestFramingAccepted(t *testing.T) {
	outside := newClient(t, "outside", seeded(9))
	k := newKit(t, 3, nil, Extensions{senders(outside)})
	joiner, entry := k.add(nil, nil)
	for name, a := range map[string]*AuthenticatedContent{
		"external sender": k.message(outside, Sender{SenderExternal, 0}, func(a *AuthenticatedContent) { a.Content.Proposal = remove(1) }),
		"joiner": k.message(joiner, Sender{Type: SenderNewMemberProposal}, func(a *AuthenticatedContent) {
			a.Content.Proposal = entry.Proposal
		}),
		"member in private": k.message(k.members[2], Sender{SenderMember, 2}, func(a *AuthenticatedContent) {
			a.WireFormat, a.Content.Proposal = WirePrivate, k.update(2, nil)
		}),
	} {
		n, err := k.g.Propose(a)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		// An equal one is the same.
		if again, err := k.g.Propose(a); err != nil || again != n {
			t.Errorf("%s again: %v", name, err)
		}
	}
	if len(k.g.Pending()) != 3 {
		t.Fatalf("%d pending", len(k.g.Pending()))
	}
	list, path := k.g.Compose(Sender{SenderMember, 0}, nil)
	if len(list) != 3 || !path {
		t.Fatalf("composed %d, path %t", len(list), path)
	}
	st := k.apply(k.commit(0, list, nil))
	if len(st.Added) != 1 || len(st.Updated) != 1 || len(st.Removed) != 1 || len(k.g.Pending()) != 0 {
		t.Errorf("staged: %+v", st)
	}
}

// draft-ietf-mls-extensions-10 §4.9: where the group has the safe_aad
// component, authenticated data is framed.
func TestSafeAADDemanded(t *testing.T) {
	dictionary := AppData{{ComponentSafeAAD, ComponentsList()}}
	k := newKit(t, 1, nil, Extensions{{ExtAppDataDictionary, dictionary.AppendTo(nil)}})
	before := k.g.AppendTo(nil)
	for _, data := range [][]byte{nil, {1}, SafeAAD{{2, nil}, {1, nil}}.AppendTo(nil)} {
		_, err := k.g.Propose(k.withAAD(data))
		k.breaks(err, before, RuleSafeAAD)
	}
	if _, err := k.g.Propose(k.withAAD(SafeAAD{{1, []byte("x")}}.AppendTo(nil))); err != nil {
		t.Errorf("framed as it should be: %v", err)
	}
}

func (k *kit) withAAD(data []byte) *AuthenticatedContent {
	k.t.Helper()
	return k.message(k.members[0], Sender{SenderMember, 0}, func(a *AuthenticatedContent) {
		a.Content.AuthenticatedData, a.Content.Proposal = data, psk("x", 32)
	})
}

// A delivery service's one call.
func TestHandle(t *testing.T) {
	k := newKit(t, 3, nil, nil)
	public := func(a *AuthenticatedContent) *Message {
		m := &Message{WireFormat: WirePublic, Public: &PublicMessage{AuthenticatedContent: *a, MembershipTag: make([]byte, 32)}}
		read, err := Parse(m.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		return read
	}
	e, err := k.g.Handle(public(k.proposal(1, remove(2))))
	if err != nil || e.Proposal == nil || e.Commit != nil {
		t.Fatalf("proposal: %+v, %v", e, err)
	}
	e, err = k.g.Handle(public(k.commit(0, []ProposalOrRef{{Ref: e.Proposal.Ref}}, nil)))
	if err != nil || e.Commit == nil || len(e.Commit.Removed) != 1 {
		t.Fatalf("commit: %+v, %v", e, err)
	}
	private := PrivateMessage{GroupID: k.g.GroupID(), Epoch: k.g.Epoch(), ContentType: ContentApplication}
	if e, err := k.g.Handle(&Message{WireFormat: WirePrivate, Private: &private}); err != nil || e != (Event{}) {
		t.Errorf("application: %+v, %v", e, err)
	}
	before := k.g.AppendTo(nil)
	private.Epoch++
	_, err = k.g.Handle(&Message{WireFormat: WirePrivate, Private: &private})
	k.breaks(err, before, RuleGroupAndEpoch)
	private.ContentType = ContentCommit
	if _, err = k.g.Handle(&Message{WireFormat: WirePrivate, Private: &private}); !errors.Is(err, ErrEncrypted) {
		t.Errorf("encrypted commit: %v", err)
	}
	_, err = k.g.Handle(&Message{WireFormat: WireWelcome, Welcome: &Welcome{}})
	k.breaks(err, before, RuleMessage)
}
