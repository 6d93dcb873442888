package group

import (
	"bytes"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

// LeafOptions change a member's own leaf with its next Update or path. What is
// nil stays as it is.
type LeafOptions struct {
	Credential   *mls.Credential
	Capabilities *mls.Capabilities
	Extensions   *mls.Extensions
	Signer       mls.Signer // a new signature key
}

// apply changes a copy of leaf; the signature key is set when it is signed.
func (o *LeafOptions) apply(leaf *mls.LeafNode) *mls.LeafNode {
	next := &mls.LeafNode{Credential: leaf.Credential, Capabilities: leaf.Capabilities, Extensions: leaf.Extensions}
	if o == nil {
		return next
	}
	if o.Credential != nil {
		next.Credential = *o.Credential
	}
	if o.Capabilities != nil {
		next.Capabilities = *o.Capabilities
	}
	if o.Extensions != nil {
		next.Extensions = *o.Extensions
	}
	return next
}

// signerOr is the new signer, or s.
func (o *LeafOptions) signerOr(s mls.Signer) mls.Signer {
	if o != nil && o.Signer != nil {
		return o.Signer
	}
	return s
}

// CommitOptions say what a commit holds beside the pending proposals.
type CommitOptions struct {
	// Proposals are committed by value, in this order, after the pending ones.
	Proposals []*mls.Proposal
	// LeavePending commits none of the pending proposals.
	LeavePending bool
	// Path makes a path even where the proposals do not demand one.
	Path bool
	// Leaf changes the own leaf; it makes a path.
	Leaf *LeafOptions
	// AuthenticatedData goes with the commit, readable by everybody.
	AuthenticatedData []byte
	// SeparateTree leaves the ratchet tree out of the Welcome: the new
	// members get it beside it, RFC 9420 §12.4.3.3. In a large group it is
	// most of the Welcome, and the same octets for each.
	SeparateTree bool
	// InfoExtensions go into the Welcome's GroupInfo.
	InfoExtensions mls.Extensions
	// Public sends the commit as PublicMessage in any case.
	Public bool
}

// Add is a proposal to add a client.
func Add(k *mls.KeyPackage) *mls.Proposal { return &mls.Proposal{Type: mls.ProposalAdd, Add: k} }

// Remove is a proposal to remove a member.
func Remove(leaf uint32) *mls.Proposal {
	return &mls.Proposal{Type: mls.ProposalRemove, Removed: leaf}
}

// PSK is a proposal to mix in a pre-shared key, with a fresh nonce.
func (g *Group) PSK(id mls.PreSharedKeyID) (*mls.Proposal, error) {
	nonce, err := g.config.random(g.params.HashSize())
	if err != nil {
		return nil, err
	}
	id.Nonce = nonce
	return &mls.Proposal{Type: mls.ProposalPSK, PSK: id}, nil
}

// wireFormat is the form that this group's handshakes take.
func (g *Group) wireFormat(public bool) mls.WireFormat {
	if g.config.PrivateHandshakes && !public {
		return mls.WirePrivate
	}
	return mls.WirePublic
}

// Propose signs a proposal and keeps it for the epoch; the result is the
// MLSMessage. RFC 9420 §12.1.
func (g *Group) Propose(proposal *mls.Proposal, authenticatedData []byte) ([]byte, error) {
	if g.status != Active {
		return nil, ErrInactive
	}
	if err := g.public.CheckSending(proposal); err != nil {
		return nil, err
	}
	// A SelfRemove is always public: also who has no secrets must see it,
	// draft-ietf-mls-extensions-10.
	a := &mls.AuthenticatedContent{WireFormat: g.wireFormat(proposal.Type == mls.ProposalSelfRemove), Content: mls.FramedContent{
		GroupID: g.ID(), Epoch: g.number, Sender: mls.Sender{Type: mls.SenderMember, Index: g.self},
		AuthenticatedData: authenticatedData, ContentType: mls.ContentProposal, Proposal: proposal,
	}}
	if err := a.Sign(g.signer, g.context); err != nil {
		return nil, err
	}
	before := len(g.public.Pending())
	p, err := g.public.Propose(a)
	if err != nil {
		return nil, err
	}
	message, err := g.protect(a)
	if err != nil {
		if len(g.public.Pending()) > before { // not one that was there
			g.public.Forget(p.Ref)
		}
		return nil, err
	}
	g.recordProposal(a)
	return message, nil
}

// ProposeUpdate proposes a fresh leaf of the own, RFC 9420 §12.1.2.
func (g *Group) ProposeUpdate(o *LeafOptions, authenticatedData []byte) ([]byte, error) {
	if g.status != Active {
		return nil, ErrInactive
	}
	private, public, err := hpke.GenerateKeyPair(g.params, g.config.Rand)
	if err != nil {
		return nil, err
	}
	leaf := o.apply(g.tree.Leaf(g.self))
	leaf.Source, leaf.EncryptionKey = mls.LeafUpdate, public
	signer := o.signerOr(g.signer)
	if leaf, err = mls.SignLeaf(signer, leaf, g.ID(), g.self); err != nil {
		return nil, err
	}
	message, err := g.Propose(&mls.Proposal{Type: mls.ProposalUpdate, Update: leaf}, authenticatedData)
	if err != nil {
		return nil, err
	}
	pending := g.public.Pending()
	ref := string(pending[len(pending)-1].Ref)
	if signer == g.signer {
		signer = nil
	}
	g.keepUpdate(ref, private, signer)
	g.recordUpdate(ref, private)
	return message, nil
}

// Commit makes a commit, RFC 9420 §12.4.1, of the pending proposals and the
// given ones. Nothing changes until Merge: the transition waits in Pending and
// goes into snapshots, so that a restart between sending and the delivery
// service's answer loses nothing.
func (g *Group) Commit(o CommitOptions) (*Transition, error) {
	switch {
	case g.status != Active:
		return nil, ErrInactive
	case g.pending != nil:
		return nil, ErrPending
	}
	sender := mls.Sender{Type: mls.SenderMember, Index: g.self}
	list, _ := g.public.Compose(sender, func(p *mls.PendingProposal) bool {
		// RFC 9420 §12.4.1: who lacks a key leaves its proposal to others.
		return !o.LeavePending && (p.Proposal.Type != mls.ProposalPSK || g.config.hasPSK(g, &p.Proposal.PSK))
	}, o.Proposals...)
	st, err := g.public.Plan(sender, list, nil)
	if err != nil {
		return nil, err
	}
	for _, p := range o.Proposals {
		if p.Type != mls.ProposalAdd {
			continue
		}
		if err := p.Add.CheckCapable(); err != nil {
			return nil, err
		}
	}
	for _, p := range st.PSKs { // RFC 9420 §12.4.1: known before anything is made
		if _, err := g.config.pskSecret(g.params, []mls.PreSharedKeyID{p}, g); err != nil {
			return nil, err
		}
	}
	t := &Transition{Staged: st, from: g.number, signer: o.Leaf.signerOr(g.signer)}
	commit := &mls.Commit{Proposals: list}
	fresh := &path{commit: g.zeroSecret()}
	keys := g.keys.retain(st.Tree)
	if st.NeedsPath || o.Path || o.Leaf != nil || len(list) == 0 {
		if fresh, err = g.makePath(st, t.signer, g.self, o.Leaf.apply(g.tree.Leaf(g.self)), keys); err != nil {
			return nil, err
		}
		commit.Path = st.Path
	}
	t.next = epoch{self: g.self, signer: t.signer, keys: keys}
	a := &mls.AuthenticatedContent{WireFormat: g.wireFormat(o.Public), Content: mls.FramedContent{
		GroupID: g.ID(), Epoch: g.number, Sender: sender,
		AuthenticatedData: o.AuthenticatedData, ContentType: mls.ContentCommit, Commit: commit,
	}}
	joiner, psk, err := g.finish(t, a, g.signer, g.secrets.Init, fresh.commit)
	if err != nil {
		return nil, err
	}
	if err := g.welcome(t, &o, fresh, joiner, psk); err != nil {
		return nil, err
	}
	if t.Commit, err = g.protect(a); err != nil {
		return nil, err
	}
	t.restore(a, fresh, psk)
	fresh.wipe()
	secret.Wipe(joiner, psk, fresh.commit)
	g.pending = t
	g.recordPending(t)
	return t, nil
}

// makePath gives the committer a fresh leaf and path, RFC 9420 §7.5, in
// st.Tree and st.Path; the private keys go into keys.
func (g *Group) makePath(st *mls.Staged, signer mls.Signer, self uint32, leaf *mls.LeafNode, keys privateKeys) (*path, error) {
	private, public, err := hpke.GenerateKeyPair(g.params, g.config.Rand)
	if err != nil {
		return nil, err
	}
	first, err := g.config.random(g.params.HashSize())
	if err != nil {
		return nil, err
	}
	fresh, err := g.config.derivePath(g.params, first, len(st.Steps))
	if err != nil {
		return nil, err
	}
	leaf.Source, leaf.EncryptionKey = mls.LeafCommit, public
	groupID := g.public.GroupID()
	err = st.SetPath(fresh.publicKeys(), func(parentHash []byte) (*mls.LeafNode, error) {
		leaf.ParentHash = parentHash
		return mls.SignLeaf(signer, leaf, groupID, self)
	})
	if err != nil {
		return nil, err
	}
	nodes, err := g.config.sealPath(g.params, st, fresh)
	if err != nil {
		return nil, err
	}
	st.Path = &mls.UpdatePath{Leaf: st.Tree.Leaf(self), Nodes: nodes}
	keys[2*self] = keyPair{private, public}
	for i, step := range st.Steps {
		keys[step.Node] = fresh.pairs[i]
	}
	return fresh, nil
}

// finish signs the commit, derives the next epoch's secrets and confirms them.
func (g *Group) finish(t *Transition, a *mls.AuthenticatedContent, signer mls.Signer, initSecret, commitSecret []byte) (joiner, psk []byte, err error) {
	if err := a.Sign(signer, g.context); err != nil {
		return nil, nil, err
	}
	t.Staged.Confirm(a)
	if psk, err = g.config.pskSecret(g.params, t.Staged.PSKs, g); err != nil {
		return nil, nil, err
	}
	t.next.secrets, joiner = g.schedule(t.Staged, initSecret, commitSecret, psk)
	t.tag = g.params.MAC(nil, t.next.secrets.Confirmation, t.Staged.Context().ConfirmedTranscriptHash)
	a.ConfirmationTag = t.tag
	a.Seal()
	return joiner, psk, nil
}

// welcome makes the Welcome of a commit that adds members, RFC 9420 §12.4.3.1.
func (g *Group) welcome(t *Transition, o *CommitOptions, fresh *path, joiner, psk []byte) error {
	st := t.Staged
	if len(st.Added) == 0 {
		return nil
	}
	info, err := g.stagedInfo(t, o)
	if err != nil {
		return err
	}
	welcomeSecret := secret.Welcome(g.params, joiner, psk)
	key, nonce := secret.WelcomeKey(g.params, welcomeSecret)
	sealedInfo := g.params.Seal(info[:0], key, nonce, nil, info) // in place: it may be megabytes
	secret.Wipe(welcomeSecret, key)
	size := hpke.SeedSize(g.params)
	seeds, err := g.config.random(size * len(st.Added))
	if err != nil {
		return err
	}
	shared := hpke.InfoWithLabel(g.params, "Welcome", sealedInfo)
	out := make([]mls.EncryptedGroupSecrets, len(st.Added))
	err = g.config.parallel(len(out), func(i int) (err error) {
		k := st.AddedPackages[i]
		secrets := groupSecrets{Joiner: joiner, PSKs: st.PSKs}
		if step, ok := stepOf(st.Steps, st.Added[i]); ok && st.Path != nil {
			secrets.PathSecret = fresh.secrets[step]
		}
		plain := secrets.AppendTo(nil)
		if out[i].NewMember, err = k.Ref(); err == nil {
			c := &out[i].Secrets
			c.KEMOutput, c.Ciphertext, err = hpke.Seal(g.params, seeds[i*size:(i+1)*size], k.InitKey, shared, nil, plain)
		}
		secret.Wipe(plain)
		return err
	})
	secret.Wipe(seeds)
	if err != nil {
		return err
	}
	w := mls.Message{WireFormat: mls.WireWelcome, Welcome: &mls.Welcome{Suite: g.public.Context().Suite, Secrets: out, EncryptedGroupInfo: sealedInfo}}
	t.Welcome = w.AppendTo(nil)
	return nil
}

// stagedInfo is the encoded and signed GroupInfo of the epoch that t begins.
func (g *Group) stagedInfo(t *Transition, o *CommitOptions) ([]byte, error) {
	info := &mls.GroupInfo{Context: *t.Staged.Context(), Extensions: o.InfoExtensions, ConfirmationTag: t.tag, Signer: t.Staged.Committer}
	tree := t.Staged.Tree.AppendTo(nil)
	if o.SeparateTree {
		t.RatchetTree = tree
	} else {
		info.Extensions = info.Extensions.With(mls.ExtRatchetTree, tree)
	}
	return info.EncodeSigned(t.signer)
}

// GroupInfo is the current epoch's GroupInfo as an MLSMessage, for external
// commits, RFC 9420 §12.4.3.2: with the key for them, and with the tree inside
// if asked for.
func (g *Group) GroupInfo(tree bool, extensions mls.Extensions) ([]byte, error) {
	if g.status != Active {
		return nil, ErrInactive
	}
	private, public, err := g.externalKeys(g.params)
	if err != nil {
		return nil, err
	}
	secret.Wipe(private)
	extensions = extensions.With(mls.ExtExternalPub, codec.AppendVec(nil, public))
	if tree {
		extensions = extensions.With(mls.ExtRatchetTree, g.tree.AppendTo(nil))
	}
	info := g.public.GroupInfo(extensions, g.self)
	if err := info.Sign(g.signer); err != nil {
		return nil, err
	}
	return info.AppendTo(mls.AppendHeader(nil, mls.WireGroupInfo)), nil
}

// PendingInfo is the GroupInfo of the epoch that the own commit which waits
// begins, signed, with the key for external commits and without the tree: what a
// delivery service asks for beside the commit, RFC 9420 §12.4.3.2. ErrStale if
// none waits.
func (g *Group) PendingInfo(extensions mls.Extensions) (*mls.GroupInfo, error) {
	t := g.pending
	if t == nil {
		return nil, ErrStale
	}
	private, public, err := t.next.externalKeys(g.params)
	if err != nil {
		return nil, err
	}
	secret.Wipe(private)
	info := &mls.GroupInfo{Context: *t.Staged.Context(), ConfirmationTag: t.tag, Signer: t.Staged.Committer,
		Extensions: extensions.With(mls.ExtExternalPub, codec.AppendVec(nil, public))}
	return info, info.Sign(t.signer)
}

// CheckGroupInfo checks a GroupInfo of the current epoch that somebody else
// offers to newcomers: all that mls.PublicGroup.CheckGroupInfo checks, and
// that its key for external commits is the epoch's, RFC 9420 §12.4.3.2.
func (g *Group) CheckGroupInfo(info *mls.GroupInfo) error {
	if err := g.public.CheckGroupInfo(info); err != nil {
		return err
	}
	offered, err := info.ExternalPub()
	if err != nil || offered == nil {
		return err
	}
	private, public, err := g.externalKeys(g.params)
	if err != nil {
		return err
	}
	secret.Wipe(private)
	if !bytes.Equal(public, offered) {
		return mls.Refuse(mls.RuleExternalPub, "the key for external commits is not the epoch's")
	}
	return nil
}
