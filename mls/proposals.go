package mls

import (
	"bytes"
)

// The bounds of the proposals that wait for a commit in one epoch. Members may
// fill them, who is no member a quarter: a service limits its senders besides.
const (
	MaxPending         = 1 << 14
	MaxPendingOctets   = 16 << 20
	MaxPendingProposal = 1 << 20 // octets of one
	outsidePart        = 4
)

// PendingProposal is a proposal that was sent before a commit, RFC 9420
// §12.1.8, §12.4. It is valid alone.
type PendingProposal struct {
	Ref      []byte // ProposalRef, RFC 9420 §5.2
	Proposal *Proposal
	Sender   Sender
	Content  *AuthenticatedContent
}

// pending is the proposals of an epoch, by reference and in order of arrival.
type pending struct {
	byRef  map[string]int // place in list
	list   []*PendingProposal
	gone   int // nil entries of list
	octets int // of all contents
	// outside are those of senders who are no members.
	outside, outsideOctets int

	leaving map[uint32]bool // members of whom a SelfRemove waits, by leaf
}

func (p *pending) find(ref []byte) *PendingProposal {
	if i, ok := p.byRef[string(ref)]; ok {
		return p.list[i]
	}
	return nil
}

func (p *pending) add(n *PendingProposal) {
	if p.byRef == nil {
		p.byRef = make(map[string]int)
	}
	p.byRef[string(n.Ref)] = len(p.list)
	p.list = append(p.list, n)
	p.count(n, 1)
	if n.Proposal.Type == ProposalSelfRemove {
		if p.leaving == nil {
			p.leaving = make(map[uint32]bool)
		}
		p.leaving[n.Sender.Index] = true
	}
}

// count counts a proposal in or out.
func (p *pending) count(n *PendingProposal, sign int) {
	p.octets += sign * len(n.Content.raw)
	if n.Sender.Type != SenderMember {
		p.outside += sign
		p.outsideOctets += sign * len(n.Content.raw)
	}
}

// room refuses a proposal that there is no room for.
func (p *pending) room(a *AuthenticatedContent) error {
	n := len(a.raw)
	switch {
	case n > MaxPendingProposal:
		return refuse(RuleBounds, "a proposal of %d octets", n)
	case len(p.byRef) >= MaxPending || p.octets+n > MaxPendingOctets:
		return refuse(RuleBounds, "too many proposals wait for a commit")
	case a.Content.Sender.Type == SenderMember:
	case p.outside >= MaxPending/outsidePart || p.outsideOctets+n > MaxPendingOctets/outsidePart:
		return refuse(RuleBounds, "too many proposals of others than members wait for a commit")
	}
	return nil
}

func (p *pending) forget(ref []byte) {
	i, ok := p.byRef[string(ref)]
	if !ok {
		return
	}
	if n := p.list[i]; n.Proposal.Type == ProposalSelfRemove {
		delete(p.leaving, n.Sender.Index)
	}
	p.count(p.list[i], -1)
	delete(p.byRef, string(ref))
	p.list[i] = nil
	if p.gone++; p.gone*2 <= len(p.list) {
		return
	}
	kept := make([]*PendingProposal, 0, len(p.byRef))
	for _, n := range p.list {
		if n != nil {
			p.byRef[string(n.Ref)] = len(kept)
			kept = append(kept, n)
		}
	}
	p.list, p.gone = kept, 0
}

// PendingCount is how many proposals of the epoch there are.
func (g *PublicGroup) PendingCount() int { return len(g.pending.byRef) }

// Pending are the proposals of the epoch, in order of arrival.
func (g *PublicGroup) Pending() []*PendingProposal {
	out := make([]*PendingProposal, 0, len(g.pending.byRef))
	for _, n := range g.pending.list {
		if n != nil {
			out = append(out, n)
		}
	}
	return out
}

// Forget drops a pending proposal. A commit that names it is then refused, as
// by whoever has not received it.
func (g *PublicGroup) Forget(ref []byte) { g.pending.forget(ref) }

// Propose takes a proposal that was sent alone. It is checked as RFC 9420
// §12.1 demands of it alone, with its signature, and kept for the rest of the
// epoch. The same again changes nothing. What depends on the list that it is
// committed in (capabilities among them, which extensions committed with it
// may change) is checked then. Membership tags are for members to check before.
func (g *PublicGroup) Propose(a *AuthenticatedContent) (*PendingProposal, error) {
	if err := g.CheckFraming(a); err != nil {
		return nil, err
	}
	if a.Content.ContentType != ContentProposal {
		return nil, refuse(RuleContentType, "a proposal belongs here")
	}
	s := g.demands.params
	ref := a.Ref(s)
	if known := g.pending.find(ref); known != nil {
		return known, nil
	}
	if err := g.pending.room(a); err != nil {
		return nil, err
	}
	p := &PendingProposal{Ref: ref, Proposal: a.Content.Proposal, Sender: a.Content.Sender, Content: a}
	if err := g.checkAlone(p.Proposal, p.Sender, false); err != nil {
		return nil, err
	}
	// draft-ietf-mls-extensions-10 §6.3.1: not more than one an epoch.
	if p.Proposal.Type == ProposalSelfRemove && g.pending.leaving[p.Sender.Index] {
		return nil, refuse(RuleSelfRemove, "leaf %d has sent one in this epoch", p.Sender.Index)
	}
	key, err := g.SenderKey(a)
	if err != nil {
		return nil, err
	}
	var c checks
	c.content(s, a, key, g.encoded)
	g.signatures(&c, p.Proposal, p.Sender)
	if err := c.run(g.policy.Parallel); err != nil {
		return nil, err
	}
	if err := g.authenticateProposal(p.Proposal, p.Sender, 0); err != nil {
		return nil, err
	}
	g.pending.add(p)
	return p, nil
}

// CheckSending checks a proposal before it is encoded: that it has the field of
// its type, and what RFC 9420 §7.3 demands of the sender and not of receivers:
// that now is within the lifetime of a key package.
func (g *PublicGroup) CheckSending(p *Proposal) error {
	if err := p.checkWhole(); err != nil {
		return err
	}
	if p.Type == ProposalAdd {
		return g.checkAddLifetime(p.Add, true)
	}
	return nil
}

// checkWhole refuses a proposal that no encoding gives: one made by a caller
// that lacks what its type has.
func (p *Proposal) checkWhole() error {
	switch {
	case p == nil || p.Type == 0:
		return refuse(RuleReservedValue, "a proposal without type")
	case p.Type == ProposalAdd && (p.Add == nil || p.Add.Leaf == nil):
		return refuse(RuleAdd, "there is no key package")
	case p.Type == ProposalUpdate && p.Update == nil:
		return refuse(RuleUpdate, "there is no leaf")
	case p.Type == ProposalPSK && (p.PSK.Type < PSKExternal || p.PSK.Type > PSKComponent):
		return refuse(RulePreSharedKey, "a key of type %d", p.PSK.Type)
	case p.Type == ProposalPSK && p.PSK.Type == PSKResumption && (p.PSK.Usage < UsageApplication || p.PSK.Usage > UsageBranch):
		return refuse(RulePreSharedKey, "a resumption key for usage %d", p.PSK.Usage)
	case p.Type == ProposalAppDataUpdate && p.Operation != AppDataSet && p.Operation != AppDataRemove:
		return refuse(RuleAppDataUpdate, "operation %d is not known", p.Operation)
	}
	return nil
}

// signatures adds the signatures inside a proposal to what is verified.
func (g *PublicGroup) signatures(c *checks, p *Proposal, sender Sender) {
	switch p.Type {
	case ProposalAdd:
		c.keyPackage(RuleAdd, g.demands.params, p.Add)
	case ProposalUpdate:
		c.leaf(RuleUpdate, g.demands.params, p.Update, g.context.GroupID, sender.Index)
	}
}

// authenticateProposal asks the application about the leaf of a proposal, or
// the external senders that are new in it.
func (g *PublicGroup) authenticateProposal(p *Proposal, sender Sender, index uint32) error {
	switch p.Type {
	case ProposalAdd:
		return g.policy.authenticate(LeafChange{New: p.Add.Leaf, Index: index, Source: ChangeAdd, Committer: sender})
	case ProposalUpdate:
		return g.policy.authenticate(LeafChange{Old: g.tree.Leaf(sender.Index), New: p.Update,
			Index: sender.Index, Source: ChangeUpdate, Committer: sender})
	case ProposalGroupContextExtensions:
		senders, err := p.Extensions.ExternalSenders()
		if err == nil {
			err = g.policy.authenticateSenders(senders, g.demands.senders)
		}
		if err != nil {
			return refuse(RuleGroupContextExtensions, "%w", err)
		}
	}
	return nil
}

// checkAlone checks a proposal by itself, without signatures: RFC 9420 §12.1.
// creating says that it is in the commit that makes a group out of another.
func (g *PublicGroup) checkAlone(p *Proposal, sender Sender, creating bool) error {
	if err := p.checkWhole(); err != nil {
		return err
	}
	// RFC 9420 §12.1.8.
	if sender.Type == SenderExternal && !externalMaySend(p.Type) {
		return refuse(RuleExternalProposal, "an external sender does not propose type %d", p.Type)
	}
	switch p.Type {
	case ProposalAdd:
		return g.checkAdd(p.Add)
	case ProposalUpdate:
		return g.checkUpdate(p.Update, sender)
	case ProposalRemove:
		// RFC 9420 §12.1.3.
		if g.tree.Leaf(p.Removed) == nil {
			return refuse(RuleRemove, "leaf %d is blank", p.Removed)
		}
	case ProposalPSK:
		return g.checkPSK(&p.PSK, creating)
	case ProposalReInit:
		// RFC 9420 §12.1.5.
		if p.ReInit.Version < g.context.Version {
			return refuse(RuleReInit, "version %d is lower than the group's", p.ReInit.Version)
		}
	case ProposalExternalInit:
		// RFC 9420 §12.1.6.
		if sender.Type != SenderNewMemberCommit {
			return refuse(RuleExternalInit, "it belongs into external commits alone")
		}
	case ProposalGroupContextExtensions:
		return g.checkExtensions(p.Extensions)
	case ProposalSelfRemove:
		// draft-ietf-mls-extensions-10 §6.3.1.
		if sender.Type != SenderMember {
			return refuse(RuleSelfRemove, "only members remove themselves")
		}
	default:
		return g.checkExtended(p)
	}
	return nil
}

// externalMaySend: RFC 9420 §12.1.8, §17.4; draft-ietf-mls-extensions-10 §8.2.
func externalMaySend(t ProposalType) bool {
	switch t {
	case ProposalAdd, ProposalRemove, ProposalPSK, ProposalReInit, ProposalGroupContextExtensions,
		ProposalAppDataUpdate, ProposalAppEphemeral:
		return true
	}
	return false
}

// checkAdd: RFC 9420 §12.1.1.
func (g *PublicGroup) checkAdd(k *KeyPackage) error {
	if err := g.checkPackage(k); err != nil {
		return err
	}
	return g.checkAddLifetime(k, false)
}

func (g *PublicGroup) checkAddLifetime(k *KeyPackage, sending bool) error {
	if err := g.policy.checkLifetime(k.Leaf.Lifetime, sending); err != nil {
		return refuse(RuleAdd, "%w", err)
	}
	return nil
}

// checkPackage is the part of checkAdd that asks nobody: points on curves
// above all, so that many are checked in parallel.
func (g *PublicGroup) checkPackage(k *KeyPackage) error {
	if err := k.check(g.context.Version, g.context.Suite, g.demands.params); err != nil {
		return refuse(RuleAdd, "%w", err)
	}
	return nil
}

// checkUpdate: RFC 9420 §12.1.2.
func (g *PublicGroup) checkUpdate(l *LeafNode, sender Sender) error {
	old := g.tree.Leaf(sender.Index)
	if sender.Type != SenderMember || old == nil {
		return refuse(RuleUpdate, "only members send updates")
	}
	err := checkSource(l, LeafUpdate)
	if err == nil {
		err = checkReplaces(old, l)
	}
	if err == nil {
		err = checkLeaf(g.demands.params, l)
	}
	if err != nil {
		return refuse(RuleUpdate, "%w", err)
	}
	return nil
}

// checkPSK: RFC 9420 §12.1.4, and §11.2, §11.3 for the usages that only the
// commit that makes a group may have.
func (g *PublicGroup) checkPSK(p *PreSharedKeyID, creating bool) error {
	hash := g.demands.params.HashSize()
	if err := p.CheckComponent(hash); err != nil {
		return err
	}
	if len(p.Nonce) != hash {
		return refuse(RulePreSharedKey, "a nonce of %d octets, not %d", len(p.Nonce), hash)
	}
	if p.Type == PSKResumption && p.Usage != UsageApplication && !creating {
		return refuse(RulePreSharedKey, "a resumption key for usage %d", p.Usage)
	}
	return nil
}

// checkExtensions: RFC 9420 §12.1.7: the extensions are well formed. Whether
// all members support them shows when the list is applied.
func (g *PublicGroup) checkExtensions(e Extensions) error {
	if _, err := g.demands.with(e); err != nil {
		return err
	}
	// draft-ietf-mls-extensions-10 §4.7: where all members have to know
	// AppDataUpdate, nothing else changes the dictionary.
	if !g.demands.required.Proposals.Has(uint16(ProposalAppDataUpdate)) {
		return nil
	}
	old, had := g.context.Extensions.Find(ExtAppDataDictionary)
	data, has := e.Find(ExtAppDataDictionary)
	if had != has || !bytes.Equal(old, data) {
		return refuse(RuleAppDataUpdate, "GroupContextExtensions changes the application data dictionary")
	}
	return nil
}

// checkExtended checks a proposal of no type of RFC 9420.
func (g *PublicGroup) checkExtended(p *Proposal) error {
	switch p.Type {
	case ProposalAppDataUpdate:
		// draft-ietf-mls-extensions-10 §4.7.
		if g.policy.Components == nil || p.Component == 0 {
			return refuse(RuleAppDataUpdate, "component %d is not known to the application", p.Component)
		}
		return nil
	case ProposalAppEphemeral:
		// draft-ietf-mls-extensions-10 §4.8.
		if p.Component == 0 {
			return refuse(RuleCustomProposal, "component 0 is reserved")
		}
		if g.policy.Ephemeral != nil {
			if err := g.policy.Ephemeral(p.Component, p.Data); err != nil {
				return refuse(RuleCustomProposal, "data of component %d: %w", p.Component, err)
			}
		}
		return nil
	}
	// RFC 9420 §12.2, §13.2, §13.5.
	if known, _ := g.policy.custom(p.Type); !known {
		return refuse(RuleCustomProposal, "proposals of type %d are not known to the application", p.Type)
	}
	return nil
}
