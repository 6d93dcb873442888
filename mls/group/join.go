package group

import (
	"bytes"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// newGroup is a group without an epoch.
func newGroup(c *Config, s *suite.Suite) *Group {
	return &Group{config: c, limits: c.Limits.withDefaults(), params: s}
}

// begin enters the first epoch that this member sees.
func (g *Group) begin(public *mls.PublicGroup, e epoch) error {
	g.epoch = e
	g.describe(public)
	return g.enter(g)
}

// Create makes a group of one, RFC 9420 §11, in epoch 0. The leaf is of a key
// package made for it, so that the identity's keys and capabilities are those
// that others would see.
func Create(c *Config, s mls.Suite, groupID []byte, id Identity, extensions, leafExtensions mls.Extensions) (*Group, error) {
	k, err := NewKeyPackage(c, s, id, KeyPackageOptions{LeafExtensions: leafExtensions})
	if err != nil {
		return nil, err
	}
	defer k.Wipe()
	return CreateFrom(c, groupID, k, extensions)
}

// CreateFrom is Create with the leaf of an existing key package, which must
// not be used again.
func CreateFrom(c *Config, groupID []byte, k *KeyPackage, extensions mls.Extensions) (*Group, error) {
	s, err := k.Package.Suite.Params()
	if err != nil {
		return nil, err
	}
	g := newGroup(c, s)
	tree := mls.NewTree(s)
	self := tree.Add(k.Package.Leaf)
	context := mls.GroupContext{
		Version: mls.Version10, Suite: k.Package.Suite, GroupID: bytes.Clone(groupID), Epoch: 0,
		TreeHash: tree.Hash(), Extensions: extensions,
	}
	public, err := mls.CreatePublicGroup(context, tree, c.policy())
	if err != nil {
		return nil, err
	}
	// A random joiner_secret makes the epoch_secret random, RFC 9420 §11.
	joiner, err := c.random(s.HashSize())
	if err != nil {
		return nil, err
	}
	secrets := secret.Derive(s, joiner, make([]byte, s.HashSize()), public.ContextBytes())
	secret.Wipe(joiner)
	public.SetConfirmation(s.MAC(nil, secrets.Confirmation, public.Context().ConfirmedTranscriptHash))
	return g, g.begin(public, epoch{self: self, signer: k.Identity.Signer, secrets: secrets,
		keys: privateKeys{2 * self: {bytes.Clone(k.encryption), k.Package.Leaf.EncryptionKey}}})
}

// JoinOptions is what a new member may have beside the Welcome.
type JoinOptions struct {
	// RatchetTree is the tree if the Welcome does not contain it, in the form
	// of the ratchet_tree extension.
	RatchetTree []byte
	// From is the group that this one follows, by ReInit or Branch, RFC 9420
	// §11.2 and §11.3: its resumption PSK and its members are checked.
	From *Group
}

// Join enters a group by a Welcome, RFC 9420 §12.4.3.1. The caller erases the
// key package with Wipe once a Snapshot of the group is kept, unless it is a
// last resort.
func Join(c *Config, w *mls.Welcome, k *KeyPackage, o JoinOptions) (*Group, error) {
	s, err := w.Suite.Params()
	if err != nil {
		return nil, err
	}
	if k.Package.Suite != w.Suite {
		return nil, mls.Refuse(mls.RuleWelcomeParameters, "the key package is for another suite than the Welcome")
	}
	secrets, err := openSecrets(s, w, k)
	if err != nil {
		return nil, err
	}
	defer secret.Wipe(secrets.Joiner, secrets.PathSecret)
	psk, err := c.joinerPSK(s, secrets.PSKs, &o)
	if err != nil {
		return nil, err
	}
	info, err := openInfo(s, w, secrets.Joiner, psk)
	if err != nil {
		return nil, err
	}
	if c.Joined != nil && c.Joined(info.Context.GroupID) {
		return nil, mls.Refuse(mls.RuleAlreadyMember, "the Welcome is to a group of this client's")
	}
	g := newGroup(c, s)
	public, self, err := g.joined(info, k, &o, secrets.PSKs)
	if err != nil {
		return nil, err
	}
	tree := public.Tree()
	keys := privateKeys{2 * self: {bytes.Clone(k.encryption), k.Package.Leaf.EncryptionKey}}
	if secrets.PathSecret != nil {
		if err := c.joinPath(s, tree, info.Signer, self, secrets.PathSecret, keys); err != nil {
			return nil, err
		}
	}
	derived := secret.Derive(s, secrets.Joiner, psk, public.ContextBytes())
	if !s.CheckMAC(derived.Confirmation, info.ConfirmationTag, info.Context.ConfirmedTranscriptHash) {
		return nil, mls.Refuse(mls.RuleGroupInfoConfirmation, "the Welcome's secrets are not those of the GroupInfo")
	}
	return g, g.begin(public, epoch{self: self, signer: k.Identity.Signer, keys: keys, secrets: derived})
}

// openSecrets finds and decrypts this member's part of a Welcome.
func openSecrets(s *suite.Suite, w *mls.Welcome, k *KeyPackage) (*groupSecrets, error) {
	ref, err := k.Package.Ref()
	if err != nil {
		return nil, err
	}
	var mine *mls.EncryptedGroupSecrets
	for i := range w.Secrets {
		if bytes.Equal(w.Secrets[i].NewMember, ref) {
			if mine != nil {
				return nil, mls.Refuse(mls.RuleWelcomeSecrets, "two entries are for this key package")
			}
			mine = &w.Secrets[i]
		}
	}
	if mine == nil {
		return nil, mls.Refuse(mls.RuleWelcomeSecrets, "no entry is for this key package")
	}
	plain, err := hpke.OpenWithLabel(s, k.initKey, k.Package.InitKey, "Welcome", w.EncryptedGroupInfo, mine.Secrets.KEMOutput, mine.Secrets.Ciphertext)
	if err != nil {
		return nil, mls.Refuse(mls.RuleWelcomeSecrets, "the group secrets do not open: %v", err)
	}
	return parseGroupSecrets(plain)
}

// joinerPSK is the psk_secret of a Welcome. RFC 9420 §12.4.3.1: at most one
// resumption key of a ReInit or Branch, and all keys known.
func (c *Config) joinerPSK(s *suite.Suite, ids []mls.PreSharedKeyID, o *JoinOptions) ([]byte, error) {
	special := 0
	for _, id := range ids {
		if id.Type == mls.PSKResumption && id.Usage != mls.UsageApplication {
			special++
		}
		if len(id.Nonce) != s.HashSize() {
			return nil, mls.Refuse(mls.RulePreSharedKey, "a nonce of %d octets", len(id.Nonce))
		}
	}
	if special > 1 {
		return nil, mls.Refuse(mls.RuleWelcomePSK, "%d keys of a ReInit or Branch", special)
	}
	return c.pskSecret(s, ids, o.From)
}

// openInfo decrypts the GroupInfo of a Welcome.
func openInfo(s *suite.Suite, w *mls.Welcome, joiner, psk []byte) (*mls.GroupInfo, error) {
	welcomeSecret := secret.Welcome(s, joiner, psk)
	key, nonce := secret.WelcomeKey(s, welcomeSecret)
	defer secret.Wipe(welcomeSecret, key)
	plain, err := s.Open(nil, key, nonce, nil, w.EncryptedGroupInfo)
	if err != nil {
		return nil, mls.Refuse(mls.RuleWelcomeSecrets, "the GroupInfo does not open")
	}
	info, err := mls.ParseGroupInfo(plain)
	if err != nil {
		return nil, err
	}
	if info.Context.Suite != w.Suite {
		return nil, mls.Refuse(mls.RuleWelcomeParameters, "the GroupInfo is of another suite than the Welcome")
	}
	return info, nil
}

// parseTree reads the tree that came beside a Welcome or GroupInfo; nil if none did.
func parseTree(s *suite.Suite, b []byte) (*mls.Tree, error) {
	if len(b) == 0 {
		return nil, nil
	}
	return mls.ParseTree(s, b)
}

// joined checks the group that a GroupInfo describes and finds the own leaf.
func (g *Group) joined(info *mls.GroupInfo, k *KeyPackage, o *JoinOptions, psks []mls.PreSharedKeyID) (*mls.PublicGroup, uint32, error) {
	tree, err := parseTree(g.params, o.RatchetTree)
	if err != nil {
		return nil, 0, err
	}
	public, err := mls.NewPublicGroup(info, tree, g.config.policy())
	if err != nil {
		return nil, 0, err
	}
	self, ok := public.Tree().LeafBySignatureKey(k.Package.Leaf.SignatureKey)
	if !ok || !bytes.Equal(public.Tree().Leaf(self).Raw(), k.Package.Leaf.Raw()) { // RFC 9420 §12.4.3.1
		return nil, 0, mls.Refuse(mls.RuleJoinerLeaf, "the key package's leaf is not in the tree")
	}
	capabilities := k.Package.Leaf.Capabilities
	for _, x := range public.Context().Extensions { // RFC 9420 §13.4
		if !capabilities.SupportsExtension(x.Type) {
			return nil, 0, mls.Refuse(mls.RuleJoinerExtensions, "the group has an extension of type %d", x.Type)
		}
	}
	return public, self, checkOrigin(public, o.From, psks)
}

// joinPath takes the path secret of a Welcome: it is that of the lowest node
// above both the committer and this member, and gives the keys of all nodes
// above which are not blank, RFC 9420 §12.4.3.1.
func (c *Config) joinPath(s *suite.Suite, t *mls.Tree, signer, self uint32, first []byte, keys privateKeys) error {
	if len(first) != s.HashSize() {
		return mls.Refuse(mls.RuleWelcomePathSecret, "a path secret of %d octets", len(first))
	}
	steps := t.FilteredPath(signer)
	at, ok := stepOf(steps, self)
	if !ok {
		return mls.Refuse(mls.RuleWelcomePathSecret, "no node is above both the committer and this member")
	}
	for _, step := range steps[at:] {
		if t.Parent(step.Node) == nil {
			return mls.Refuse(mls.RuleWelcomePathSecret, "node %d is blank", step.Node)
		}
	}
	commitSecret, err := c.learnPath(s, steps[at:], bytes.Clone(first), t, keys)
	if err != nil {
		return mls.Refuse(mls.RuleWelcomePathSecret, "%w", err)
	}
	secret.Wipe(commitSecret)
	return nil
}

// ExternalOptions is what a client that joins by an external commit may say,
// RFC 9420 §12.4.3.2.
type ExternalOptions struct {
	// RatchetTree is the tree if the GroupInfo does not contain it.
	RatchetTree []byte
	// Resync removes the client's old leaf: the one with the same signature
	// key, or the one at Replace.
	Resync  bool
	Replace *uint32
	// PSKs are mixed in; their nonces are filled in.
	PSKs []mls.PreSharedKeyID
	// Pending are proposals of this epoch that the commit takes by reference:
	// SelfRemove only, draft-ietf-mls-extensions-10.
	Pending []*mls.AuthenticatedContent
	// Proposals are further ones by value: AppDataUpdate and AppEphemeral,
	// draft-ietf-mls-extensions-10 §4.7.
	Proposals         []*mls.Proposal
	LeafExtensions    mls.Extensions
	AuthenticatedData []byte
}

// JoinExternal enters a group by its own commit. The group may be used once
// the delivery service has accepted the commit, an MLSMessage; if it refuses,
// both are dropped.
func JoinExternal(c *Config, id Identity, info *mls.GroupInfo, o ExternalOptions) (*Group, []byte, error) {
	s, err := info.Context.Suite.Params()
	if err != nil {
		return nil, nil, err
	}
	tree, err := parseTree(s, o.RatchetTree)
	if err != nil {
		return nil, nil, err
	}
	public, err := mls.NewPublicGroup(info, tree, c.policy())
	if err != nil {
		return nil, nil, err
	}
	g := newGroup(c, s)
	g.describe(public)
	for _, a := range o.Pending {
		if _, err := g.public.Propose(a); err != nil {
			return nil, nil, err
		}
	}
	list, initSecret, err := g.externalList(id, info, &o)
	if err != nil {
		return nil, nil, err
	}
	defer secret.Wipe(initSecret)
	commit, err := g.externalCommit(id, list, initSecret, &o)
	return g, commit, err
}

// externalList is the proposals of an external commit, RFC 9420 §12.2, and the
// init_secret that its ExternalInit gives to all.
func (g *Group) externalList(id Identity, info *mls.GroupInfo, o *ExternalOptions) (list []mls.ProposalOrRef, initSecret []byte, err error) {
	external, err := info.ExternalPub()
	if err != nil {
		return nil, nil, err
	}
	if external == nil {
		return nil, nil, mls.Refuse(mls.RuleExternalPub, "the GroupInfo has no key for external commits")
	}
	seed, err := g.config.random(hpke.SeedSize(g.params))
	if err != nil {
		return nil, nil, err
	}
	kem, initSecret, err := hpke.SendExport(g.params, seed, external, nil, []byte(labelExternalInit), g.params.HashSize())
	secret.Wipe(seed)
	if err != nil {
		return nil, nil, mls.Refuse(mls.RuleExternalPub, "%w", err)
	}
	add := func(p *mls.Proposal) { list = append(list, mls.ProposalOrRef{Proposal: p}) }
	add(&mls.Proposal{Type: mls.ProposalExternalInit, KEMOutput: kem})
	if leaf, ok := g.replaced(id, o); ok {
		add(Remove(leaf))
	}
	for _, id := range o.PSKs {
		p, err := g.PSK(id)
		if err != nil {
			return nil, nil, err
		}
		add(p)
	}
	for _, p := range o.Proposals {
		add(p)
	}
	for _, p := range g.public.Pending() {
		list = append(list, mls.ProposalOrRef{Ref: p.Ref})
	}
	return list, initSecret, nil
}

// replaced is the leaf that a resync removes.
func (g *Group) replaced(id Identity, o *ExternalOptions) (uint32, bool) {
	if o.Replace != nil {
		return *o.Replace, true
	}
	if !o.Resync {
		return 0, false
	}
	return g.tree.LeafBySignatureKey(id.Signer.PublicKey())
}

// externalCommit makes the commit and enters its epoch.
func (g *Group) externalCommit(id Identity, list []mls.ProposalOrRef, initSecret []byte, o *ExternalOptions) ([]byte, error) {
	draft := &mls.LeafNode{SignatureKey: id.Signer.PublicKey(), Credential: id.Credential, Capabilities: g.config.capabilities(), Extensions: o.LeafExtensions}
	sender := mls.Sender{Type: mls.SenderNewMemberCommit}
	st, err := g.public.Plan(sender, list, draft)
	if err != nil {
		return nil, err
	}
	t := &Transition{Staged: st, from: g.number, signer: id.Signer}
	keys := privateKeys{}
	fresh, err := g.makePath(st, id.Signer, st.Committer, draft, keys)
	if err != nil {
		return nil, err
	}
	defer func() { fresh.wipe(); secret.Wipe(fresh.commit) }()
	t.next = epoch{self: st.Committer, signer: id.Signer, keys: keys}
	a := &mls.AuthenticatedContent{WireFormat: mls.WirePublic, Content: mls.FramedContent{
		GroupID: g.ID(), Epoch: g.number, Sender: sender, AuthenticatedData: o.AuthenticatedData,
		ContentType: mls.ContentCommit, Commit: &mls.Commit{Proposals: list, Path: st.Path},
	}}
	joiner, psk, err := g.finish(t, a, id.Signer, initSecret, fresh.commit)
	if err != nil {
		return nil, err
	}
	secret.Wipe(joiner, psk)
	commit, err := g.protect(a)
	if err != nil {
		return nil, err
	}
	return commit, g.begin(st.Next(t.tag), t.next)
}

// ProposeAdd asks from outside to be added, RFC 9420 §12.1.8: the proposal of
// a client with a key package, as an MLSMessage for the group in the given epoch.
func ProposeAdd(k *KeyPackage, groupID []byte, epoch uint64) ([]byte, error) {
	return proposeOutside(k.Identity.Signer, mls.Sender{Type: mls.SenderNewMemberProposal}, Add(k.Package), groupID, epoch, nil)
}

// ProposeExternal signs a proposal of an external sender, whose place in the
// group's external_senders is index, RFC 9420 §12.1.8.
func ProposeExternal(by mls.Signer, index uint32, p *mls.Proposal, groupID []byte, epoch uint64, authenticatedData []byte) ([]byte, error) {
	return proposeOutside(by, mls.Sender{Type: mls.SenderExternal, Index: index}, p, groupID, epoch, authenticatedData)
}

func proposeOutside(by mls.Signer, sender mls.Sender, p *mls.Proposal, groupID []byte, epoch uint64, authenticatedData []byte) ([]byte, error) {
	a := mls.AuthenticatedContent{WireFormat: mls.WirePublic, Content: mls.FramedContent{
		GroupID: groupID, Epoch: epoch, Sender: sender, AuthenticatedData: authenticatedData,
		ContentType: mls.ContentProposal, Proposal: p,
	}}
	if err := a.Sign(by, nil); err != nil {
		return nil, err
	}
	m := mls.Message{WireFormat: mls.WirePublic, Public: &mls.PublicMessage{AuthenticatedContent: a}}
	return m.AppendTo(nil), nil
}

// groupSecrets is what a Welcome gives to one new member, RFC 9420 §12.4.3.1.
type groupSecrets struct {
	Joiner     []byte // joiner_secret
	PathSecret []byte // nil: absent
	PSKs       []mls.PreSharedKeyID
}

// AppendTo appends the encoding.
func (g *groupSecrets) AppendTo(dst []byte) []byte {
	dst = codec.AppendVec(dst, g.Joiner)
	dst = codec.AppendOptional(dst, g.PathSecret != nil)
	if g.PathSecret != nil {
		dst = codec.AppendVec(dst, g.PathSecret)
	}
	dst, mark := codec.Begin(dst)
	for i := range g.PSKs {
		dst = g.PSKs[i].AppendTo(dst)
	}
	return codec.End(dst, mark)
}

// parseGroupSecrets reads a groupSecrets; it aliases b.
func parseGroupSecrets(b []byte) (*groupSecrets, error) {
	r := codec.NewReader(b)
	g := &groupSecrets{Joiner: r.Vec()}
	if r.Optional() {
		g.PathSecret = r.Vec()
	}
	in := r.Sub()
	for in.Len() > 0 {
		if len(g.PSKs) == mls.MaxPSKs {
			in.Fail(int(mls.RuleBounds), "too many pre-shared keys")
		}
		g.PSKs = append(g.PSKs, mls.ReadPreSharedKeyID(&in))
	}
	r.Join(&in)
	if err := r.Finish(); err != nil {
		return nil, mls.WireError(err)
	}
	return g, nil
}
