package mls

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"math"

	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// ErrEncrypted is returned for a handshake in a PrivateMessage: who has no
// secrets of the group cannot follow it.
var ErrEncrypted = errors.New("mls: an encrypted handshake cannot be followed without the group's secrets")

// PublicGroup is one epoch of a group as it is known without secrets: to a
// delivery service, and to a member beneath what it keeps secret. Only
// Propose, Forget, Handle, SetPolicy and SetConfirmation change it, and the Next
// of a Staged, which a commit makes and from it the next PublicGroup. While none
// of these run it may be read, and commits staged, by several goroutines at once.
type PublicGroup struct {
	context   GroupContext
	encoded   []byte // of the context
	demands   *demands
	tree      *Tree
	interim   []byte // interim transcript hash; nil before SetConfirmation
	tag       []byte // confirmation tag of the commit that began the epoch
	policy    *Policy
	pending   pending
	clients   map[string]uint32 // leaf by Policy.Client; nil without it
	committer uint32            // leaf that began the epoch, or NoLeaf
	reinit    *ReInit           // committed: the group is closed
}

// NewPublicGroup takes up a group from its GroupInfo. The tree is that of the
// GroupInfo's ratchet_tree extension if none is given; it is kept. All that
// RFC 9420 §12.4.3.1 has a joiner check without secrets is checked: the tree
// with all its leaves and signatures, the GroupContext's extensions, and the
// GroupInfo's signature. The confirmation tag is not: only members can.
func NewPublicGroup(info *GroupInfo, tree *Tree, p *Policy) (*PublicGroup, error) {
	d, err := readDemands(&info.Context)
	if err != nil {
		return nil, err
	}
	if tree == nil {
		body, ok := info.Extensions.Find(ExtRatchetTree)
		if !ok {
			return nil, refuse(RuleTreeHash, "there is no ratchet tree, in the GroupInfo or beside it")
		}
		if tree, err = ParseTree(d.params, body); err != nil {
			return nil, err
		}
	}
	g := &PublicGroup{context: info.Context, demands: d, tree: tree, policy: p.orZero(),
		tag: info.ConfirmationTag, committer: NoLeaf}
	if err := g.checkInfoSignature(info); err != nil {
		return nil, err
	}
	if len(info.ConfirmationTag) != d.params.HashSize() {
		return nil, refuse(RuleGroupInfoConfirmation, "a tag of %d octets", len(info.ConfirmationTag))
	}
	if err := checkExternalPub(d.params, info); err != nil {
		return nil, err
	}
	if err := g.checkTree(); err != nil {
		return nil, err
	}
	g.encoded = g.context.AppendTo(nil)
	g.interim = InterimTranscriptHash(d.params, g.context.ConfirmedTranscriptHash, g.tag)
	g.indexClients()
	return g, nil
}

// CreatePublicGroup begins a group: RFC 9420 §11. The context gives version,
// suite, group_id and extensions; the tree holds the creator's leaf alone. The
// epoch is 0. SetConfirmation completes it.
func CreatePublicGroup(ctx GroupContext, tree *Tree, p *Policy) (*PublicGroup, error) {
	d, err := readDemands(&ctx)
	if err != nil {
		return nil, err
	}
	ctx.Epoch, ctx.ConfirmedTranscriptHash = 0, nil
	ctx.TreeHash = tree.Hash()
	g := &PublicGroup{context: ctx, demands: d, tree: tree, policy: p.orZero(), committer: 0}
	if err := g.checkTree(); err != nil {
		return nil, err
	}
	g.encoded = g.context.AppendTo(nil)
	g.indexClients()
	return g, nil
}

// SetConfirmation gives a group that was created its first confirmation tag,
// RFC 9420 §11, and so the interim transcript hash.
func (g *PublicGroup) SetConfirmation(tag []byte) {
	g.tag = tag
	g.interim = InterimTranscriptHash(g.demands.params, g.context.ConfirmedTranscriptHash, tag)
}

// checkTree checks a tree that was received whole, RFC 9420 §12.4.3.1.
func (g *PublicGroup) checkTree() error {
	if g.tree.Members() > g.policy.members() {
		return refuse(RuleBounds, "%d members", g.tree.Members())
	}
	if err := g.tree.checkOctets(); err != nil {
		return err
	}
	// RFC 9420 §12.4.3.1: the tree is the one that the context is about.
	if !bytes.Equal(g.tree.HashWith(g.policy.Parallel), g.context.TreeHash) {
		return refuse(RuleTreeHash, "the tree has another hash")
	}
	if err := g.tree.Validate(g.context.GroupID, g.policy.Parallel); err != nil {
		return err
	}
	leaves := g.tree.Leaves()
	err := firstError(g.policy.Parallel, int(leaves), checkPart, func(from, end int) error {
		return g.checkLeavesOf(uint32(from), uint32(end))
	})
	if err != nil {
		return err
	}
	if err := checkMembers(g.tree, g.demands, g.tree.CredentialsInUse()); err != nil {
		return refuse(RuleTreeLeaf, "%w", err)
	}
	for i, l := range g.tree.All() {
		change := LeafChange{New: l, Index: i, Source: ChangeTree}
		if err := g.policy.authenticate(change); err != nil {
			return refuse(RuleTreeLeaf, "%w", err)
		}
	}
	if err := g.policy.authenticateSenders(g.demands.senders, nil); err != nil {
		return err
	}
	g.tree.Settle(g.policy.Parallel)
	return nil
}

// checkPart is how many leaves or key packages one call of Parallel checks.
const checkPart = 32

// checkLeavesOf checks a part of the leaves by themselves: RFC 9420 §12.4.3.1.
func (g *PublicGroup) checkLeavesOf(from, end uint32) error {
	for i := from; i < end; i++ {
		l := g.tree.Leaf(i)
		if l == nil {
			continue
		}
		err := checkLeaf(g.demands.params, l)
		if err == nil {
			err = CheckWireFormats(g.demands.formats, l)
		}
		if err != nil {
			return refuse(RuleTreeLeaf, "leaf %d: %w", i, err)
		}
	}
	return nil
}

// checkMembers asks every distinct set of capabilities for the group's
// demands and, RFC 9420 §7.3, for all these types of credentials.
func checkMembers(t *Tree, d *demands, credentials []uint16) (err error) {
	t.EveryMember(func(c Capabilities) bool {
		if err = d.checkCapabilities(c); err == nil {
			err = checkCredentials(c, credentials)
		}
		return err == nil
	})
	return err
}

// checkCredentials: RFC 9420 §7.3: a member supports every type of credential
// in use.
func checkCredentials(c Capabilities, types []uint16) error {
	supported := c.Credentials()
	for _, t := range types {
		if !supported.Has(t) {
			return refuse(RuleCredentialSupport, "credentials of type %d are in use and not supported", t)
		}
	}
	return nil
}

// checkInfoSignature: RFC 9420 §12.4.3, §12.4.3.1: a GroupInfo is signed with
// the key of its signer's leaf, which is not blank.
func (g *PublicGroup) checkInfoSignature(info *GroupInfo) error {
	leaf := g.tree.Leaf(info.Signer)
	if leaf == nil {
		return refuse(RuleGroupInfoSignature, "the signer's leaf %d is blank", info.Signer)
	}
	return info.Verify(leaf.SignatureKey)
}

// checkExternalPub: RFC 9420 §12.4.3.2: the key of an external_pub extension
// is one of the suite.
func checkExternalPub(s *suite.Suite, info *GroupInfo) error {
	key, err := info.ExternalPub()
	if err != nil || key == nil {
		return err
	}
	if err := hpke.CheckPublicKey(s, key); err != nil {
		return refuse(RuleExternalPub, "%w", err)
	}
	return nil
}

// Context is the GroupContext of the epoch; it is not to be changed.
func (g *PublicGroup) Context() *GroupContext { return &g.context }

// ContextBytes is the encoded GroupContext; it is not to be changed.
func (g *PublicGroup) ContextBytes() []byte { return g.encoded }

// Params are the algorithms of the group's suite.
func (g *PublicGroup) Params() *suite.Suite { return g.demands.params }

// Tree is the ratchet tree of the epoch; it is not to be changed but in a clone.
func (g *PublicGroup) Tree() *Tree { return g.tree }

// Epoch is the number of the epoch.
func (g *PublicGroup) Epoch() uint64 { return g.context.Epoch }

// GroupID is the group_id.
func (g *PublicGroup) GroupID() []byte { return g.context.GroupID }

// InterimTranscriptHash is that of the epoch, RFC 9420 §8.2.
func (g *PublicGroup) InterimTranscriptHash() []byte { return g.interim }

// ConfirmationTag is that of the commit that began the epoch.
func (g *PublicGroup) ConfirmationTag() []byte { return g.tag }

// Policy is what the application decides; never nil.
func (g *PublicGroup) Policy() *Policy { return g.policy }

// Reinitialized is the ReInit that closed the group, or nil. RFC 9420
// §12.4.2: nothing more is sent in such a group.
func (g *PublicGroup) Reinitialized() *ReInit { return g.reinit }

// ExternalSenders are those that the GroupContext lists, by their index.
func (g *PublicGroup) ExternalSenders() []ExternalSender { return g.demands.senders }

// CheckFraming checks a message against the epoch before its signature is
// looked at: RFC 9420 §6, §6.1.
func (g *PublicGroup) CheckFraming(a *AuthenticatedContent) error {
	c := &a.Content
	// RFC 9420 §6, §12.4.2.
	if !bytes.Equal(c.GroupID, g.context.GroupID) {
		return refuse(RuleGroupAndEpoch, "the message is of another group")
	}
	if c.Epoch != g.context.Epoch {
		return refuse(RuleGroupAndEpoch, "the message is of epoch %d, the group at %d", c.Epoch, g.context.Epoch)
	}
	// RFC 9420 §12.4.2: a group is closed by the commit of a ReInit.
	if g.reinit != nil {
		return refuse(RuleReinitialized, "the group was closed by a ReInit")
	}
	if c.ContentType == ContentProposal && c.Proposal == nil || c.ContentType == ContentCommit && c.Commit == nil {
		return refuse(RuleContentType, "the content is not there")
	}
	if err := g.checkSender(a); err != nil {
		return err
	}
	// RFC 9420 §6.1. A tag is as long as the hash of the suite.
	want := 0
	if c.ContentType == ContentCommit {
		want = g.demands.params.HashSize()
	}
	if len(a.ConfirmationTag) != want {
		return refuse(RuleConfirmationTagPresence, "a confirmation tag of %d octets where %d belong", len(a.ConfirmationTag), want)
	}
	// draft-ietf-mls-extensions-10 §6.3.1: external joiners can read it.
	if c.ContentType == ContentProposal && c.Proposal.Type == ProposalSelfRemove && a.WireFormat != WirePublic {
		return refuse(RuleSelfRemove, "a SelfRemove is sent as PublicMessage")
	}
	// draft-ietf-mls-extensions-10 §4.9.
	if g.demands.safeAAD {
		return CheckSafeAAD(c.AuthenticatedData)
	}
	return nil
}

// checkSender checks that a sender of this type is there and may send this.
func (g *PublicGroup) checkSender(a *AuthenticatedContent) error {
	c := &a.Content
	// RFC 9420 §6, §6.2.
	if c.ContentType == ContentApplication && a.WireFormat != WirePrivate {
		return refuse(RuleApplicationInPublic, "application data is only sent encrypted")
	}
	allowed := true
	switch c.Sender.Type {
	case SenderMember:
		// RFC 9420 §6.1, §6.3.2.
		if g.tree.Leaf(c.Sender.Index) == nil {
			return refuse(RuleSenderLeaf, "leaf %d is blank", c.Sender.Index)
		}
		return nil
	case SenderExternal:
		allowed = c.ContentType == ContentProposal
	case SenderNewMemberProposal:
		allowed = c.ContentType == ContentProposal && c.Proposal.Type == ProposalAdd
	case SenderNewMemberCommit:
		allowed = c.ContentType == ContentCommit
	default:
		allowed = false
	}
	// RFC 9420 §6.1.
	if !allowed {
		return refuse(RuleSenderType, "a sender of type %d does not send this", c.Sender.Type)
	}
	// RFC 9420 §12.1.8, §12.4.3.2.
	if a.WireFormat != WirePublic {
		return refuse(RuleExternalInPrivate, "who is no member sends PublicMessages")
	}
	// RFC 9420 §6.1, §12.1.8.1.
	if c.Sender.Type == SenderExternal && uint64(c.Sender.Index) >= uint64(len(g.demands.senders)) {
		return refuse(RuleExternalSenderIndex, "there is no external sender %d", c.Sender.Index)
	}
	return nil
}

// SenderKey is the signature key that has to verify the message, RFC 9420
// §6.1. CheckFraming comes first.
func (g *PublicGroup) SenderKey(a *AuthenticatedContent) ([]byte, error) {
	c := &a.Content
	switch c.Sender.Type {
	case SenderMember:
		if leaf := g.tree.Leaf(c.Sender.Index); leaf != nil {
			return leaf.SignatureKey, nil
		}
		return nil, refuse(RuleSenderLeaf, "leaf %d is blank", c.Sender.Index)
	case SenderExternal:
		if uint64(c.Sender.Index) < uint64(len(g.demands.senders)) {
			return g.demands.senders[c.Sender.Index].SignatureKey, nil
		}
		return nil, refuse(RuleExternalSenderIndex, "there is no external sender %d", c.Sender.Index)
	case SenderNewMemberProposal:
		if c.Proposal != nil && c.Proposal.Add != nil {
			return c.Proposal.Add.Leaf.SignatureKey, nil
		}
	case SenderNewMemberCommit:
		if c.Commit != nil && c.Commit.Path != nil {
			return c.Commit.Path.Leaf.SignatureKey, nil
		}
		return nil, refuse(RuleExternalCommit, "an external commit has a path")
	}
	return nil, refuse(RuleSenderType, "a sender of type %d does not send this", c.Sender.Type)
}

// GroupInfo is that of the epoch, RFC 9420 §12.4.3, without signature: the
// signer is a leaf index. It holds no tree unless the extensions do.
func (g *PublicGroup) GroupInfo(ext Extensions, signerLeaf uint32) *GroupInfo {
	return &GroupInfo{Context: g.context, Extensions: ext, ConfirmationTag: g.tag, Signer: signerLeaf}
}

// CheckGroupInfo checks a GroupInfo that a member gives to a delivery service
// for external joiners, RFC 9420 §12.4.3.2: it says what the service has
// computed itself and is signed by the member that began the epoch. A group
// that was taken up in this epoch does not know which; then any may sign.
func (g *PublicGroup) CheckGroupInfo(info *GroupInfo) error {
	if !bytes.Equal(info.Context.AppendTo(nil), g.encoded) {
		return refuse(RuleGroupInfoUpload, "the GroupContext is another")
	}
	if subtle.ConstantTimeCompare(info.ConfirmationTag, g.tag) != 1 {
		return refuse(RuleGroupInfoUpload, "the confirmation tag is another")
	}
	if g.committer != NoLeaf && info.Signer != g.committer {
		return refuse(RuleGroupInfoUpload, "leaf %d signed, leaf %d began the epoch", info.Signer, g.committer)
	}
	if err := g.checkInfoSignature(info); err != nil {
		return refuse(RuleGroupInfoUpload, "%w", err)
	}
	if body, ok := info.Extensions.Find(ExtRatchetTree); ok && !bytes.Equal(body, g.tree.AppendTo(nil)) {
		return refuse(RuleGroupInfoUpload, "the ratchet tree is another")
	}
	if err := checkExternalPub(g.demands.params, info); err != nil {
		return refuse(RuleGroupInfoUpload, "%w", err)
	}
	return nil
}

// Event is what a message did to a group: one of the fields is set, none for
// an application message.
type Event struct {
	Proposal *PendingProposal
	Commit   *Staged
}

// Handle takes a message as a delivery service sees it. A proposal is kept
// until the epoch ends. A commit is checked and staged: its Next, with the
// message's confirmation tag, is the group once the service has accepted it.
// An application message is only checked for group and epoch. Membership tags
// are for members to check.
func (g *PublicGroup) Handle(m *Message) (Event, error) {
	switch {
	case m.Public != nil && m.Public.Content.ContentType == ContentProposal:
		p, err := g.Propose(&m.Public.AuthenticatedContent)
		return Event{Proposal: p}, err
	case m.Public != nil:
		st, err := g.Stage(&m.Public.AuthenticatedContent)
		return Event{Commit: st}, err
	case m.Private == nil:
		return Event{}, refuse(RuleMessage, "wire format %d is not for a group", m.WireFormat)
	case m.Private.ContentType != ContentApplication:
		return Event{}, ErrEncrypted
	case !bytes.Equal(m.Private.GroupID, g.context.GroupID) || m.Private.Epoch != g.context.Epoch:
		return Event{}, refuse(RuleGroupAndEpoch, "the message is of another group or epoch")
	case g.reinit != nil:
		return Event{}, refuse(RuleReinitialized, "the group was closed by a ReInit")
	}
	return Event{}, nil
}

// nextContext is the GroupContext that a commit begins with: of the next
// epoch, with the tree hash and the transcript still to come.
func (g *PublicGroup) nextContext() (GroupContext, error) {
	c := g.context
	if c.Epoch == math.MaxUint64 {
		return c, refuse(RuleGroupAndEpoch, "there is no epoch after this one")
	}
	c.Epoch++
	return c, nil
}

// indexClients names the clients of all leaves, if the application does.
func (g *PublicGroup) indexClients() { g.clients = g.clientIndex() }

func (g *PublicGroup) clientIndex() map[string]uint32 {
	if g.policy.Client == nil {
		return nil
	}
	out := make(map[string]uint32, g.tree.Members())
	for i, l := range g.tree.All() {
		out[g.policy.Client(l)] = i
	}
	return out
}
