package mls

import (
	"bytes"
	"testing"
)

// TestRestoreGroupInfo has a public group put GroupInfos together again, rule
// 124, draft-mahy-mls-ratchet-tree-options-03 §4.
func TestRestoreGroupInfo(t *testing.T) {
	k := newKit(t, 6, nil, nil)
	k.apply(k.commit(2, nil, nil))
	bare := func(g *GroupInfo) {
		g.Extensions = Extensions{{ExtExternalPub, AppendExternalPub(nil, bytes.Repeat([]byte{9}, 32))}}
	}
	first := func(g *GroupInfo) {
		g.Extensions = append(g.Extensions, Extension{ExtExternalPub, AppendExternalPub(nil, bytes.Repeat([]byte{9}, 32))})
	}
	for _, change := range []func(*GroupInfo){nil, bare, first} {
		info := k.info(2, change)
		for _, before := range []bool{false, true} {
			p, err := ParsePartialGroupInfo(NewPartialGroupInfo(info, before).AppendTo(nil))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := k.g.RestoreGroupInfo(p, before); err != nil || !bytes.Equal(got.AppendTo(nil), info.AppendTo(nil)) {
				t.Errorf("put together as %v, %v", got, err)
			}
			_, err = k.g.RestoreGroupInfo(p, !before)
			refused(t, "presence", err, RulePartialGroupInfo)
		}
	}
	_, err := k.g.RestoreGroupInfo(NewPartialGroupInfo(k.info(3, nil), true), true)
	refused(t, "another signer", err, RuleGroupInfoSignature)
	broken := func(g *GroupInfo) { g.Extensions = Extensions{{ExtExternalPub, []byte{1, 1}}} }
	_, err = k.g.RestoreGroupInfo(NewPartialGroupInfo(k.info(2, broken), false), false)
	refused(t, "external key", err, RuleGroupInfoUpload)
	taken, err := NewPublicGroup(k.info(2, nil), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = taken.RestoreGroupInfo(NewPartialGroupInfo(k.info(2, nil), true), true)
	refused(t, "taken up in this epoch", err, RulePartialGroupInfo)
}

// framed is a signed content as a PublicMessage.
func framed(a *AuthenticatedContent) *Message {
	m := &PublicMessage{AuthenticatedContent: *a}
	if a.Content.Sender.Type == SenderMember {
		m.MembershipTag = []byte("tag")
	}
	return &Message{WireFormat: WirePublic, Public: m}
}

// TestPublicAnnotations has a public group send its members what they need
// without a tree, rule 125, draft-ietf-mls-partial-02 §7, §8, §10.
func TestPublicAnnotations(t *testing.T) {
	k := newKit(t, 7, nil, nil)
	k.apply(k.commit(5, nil, nil))
	before := k.g
	proposal := framed(k.proposal(3, remove(1)))
	sent, err := before.Authenticate(proposal, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := sent.VerifyPublic(before.Context()); err != nil {
		t.Error(err)
	}
	_, err = before.Authenticate(proposal, 4)
	refused(t, "another sender", err, RuleMembershipProof)
	private := &Message{WireFormat: WirePrivate, Private: &PrivateMessage{}}
	_, err = before.Authenticate(private, 7)
	refused(t, "a blank sender", err, RuleMembershipProof)
	if a, err := before.Authenticate(private, 3); err != nil || a.Sender.Verify(before.Params(), before.Context().TreeHash) != nil {
		t.Errorf("a PrivateMessage: %v", err)
	}

	joiner, add := k.add(nil, nil)
	a := k.commit(2, []ProposalOrRef{add, byValue(remove(1))}, nil)
	st := k.apply(a)
	for i := range k.members {
		made, err := st.Annotate(framed(a), i)
		if i == 2 || i == st.Added[0] {
			refused(t, "the committer", err, RuleMembershipProof)
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseAnnotatedCommit(made.AppendTo(nil))
		if err != nil {
			t.Fatal(err)
		}
		if err := back.Verify(before.Params(), before.Context().TreeHash); err != nil {
			t.Errorf("leaf %d: %v", i, err)
		}
		if _, err := back.Share(st.Path); err != nil || !bytes.Equal(back.TreeHashAfter, k.g.Context().TreeHash) {
			t.Errorf("leaf %d: %v", i, err)
		}
	}
	_, err = st.Annotate(framed(a), 1)
	refused(t, "a member that was removed", err, RuleMembershipProof)
	w, err := k.g.AnnotateWelcome(&Welcome{Suite: testSuite}, st.Added[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Verify(k.info(2, nil), st.AddedPackages[0]); err != nil || !bytes.Equal(w.Joiner.Node.SignatureKey, joiner.public) {
		t.Errorf("the joiner's Welcome: %v", err)
	}
	_, err = k.g.AnnotateWelcome(&Welcome{Suite: testSuite}, 9)
	refused(t, "a joiner outside", err, RuleMembershipProof)
}
