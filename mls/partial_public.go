package mls

// RestoreGroupInfo puts together the GroupInfo of the epoch from what the
// committer sent with its commit, draft-mahy-mls-ratchet-tree-options-03 §4,
// and checks it as CheckGroupInfo does. before says whether the GroupInfo of
// the epoch before had a ratchet_tree extension. Refusals: rule 124 for a
// presence that is not true, or if the group was taken up in this epoch and so
// does not know who began it; rule 98 for the signature; rule 110 for the rest.
func (g *PublicGroup) RestoreGroupInfo(p *PartialGroupInfo, before bool) (*GroupInfo, error) {
	if g.committer == NoLeaf {
		return nil, refuse(RulePartialGroupInfo, "the committer of this epoch is not known")
	}
	leaf := g.tree.Leaf(g.committer)
	if leaf == nil {
		return nil, refuse(RuleGroupInfoSignature, "the signer's leaf %d is blank", g.committer)
	}
	known := GroupInfoParts{
		Context:         &g.context,
		ConfirmationTag: g.tag,
		Signer:          g.committer,
		SignatureKey:    leaf.SignatureKey,
		Before:          before,
	}
	if p.Presence.Now() {
		known.Tree = g.tree.AppendTo(nil)
	}
	info, err := p.GroupInfo(known)
	if err != nil {
		return nil, err
	}
	if err := g.CheckGroupInfo(info); err != nil {
		return nil, err
	}
	return info, nil
}

// AnnotateWelcome makes the AnnotatedWelcome of the commit that began the
// epoch for one of the joiners, a leaf index, draft-ietf-mls-partial-02 §8.
// Refusals: rule 125.
func (g *PublicGroup) AnnotateWelcome(w *Welcome, joiner uint32) (*AnnotatedWelcome, error) {
	return g.tree.AnnotateWelcome(w, g.committer, joiner)
}

// Authenticate joins to a message of this epoch the proof that the sender, a
// leaf index, is a member, draft-ietf-mls-partial-02 §7. Of a PrivateMessage
// the service has to have been told the sender. Refusals: rule 125.
func (g *PublicGroup) Authenticate(m *Message, sender uint32) (*SenderAuthenticated, error) {
	if m.Public != nil && m.Public.Content.Sender != (Sender{SenderMember, sender}) {
		return nil, refuse(RuleMembershipProof, "leaf %d has not sent this message", sender)
	}
	proof, err := g.tree.MembershipProof(sender)
	if err != nil {
		return nil, err
	}
	return &SenderAuthenticated{Message: m, Sender: proof}, nil
}

// Annotate makes the AnnotatedCommit of a staged commit, whose message is
// given, for one receiver, a leaf index, draft-ietf-mls-partial-02 §10. It
// may be called before and after Next. Refusals: rule 125.
func (st *Staged) Annotate(m *Message, receiver uint32) (*AnnotatedCommit, error) {
	at := CommitPlace{Committer: st.Committer, Path: st.Path != nil, Added: st.New}
	return AnnotateCommit(st.base.tree, st.Tree, m, at, receiver)
}
