package mls

import (
	"bytes"
	"slices"
)

// maxDrops bounds how often Compose tries a list again without the proposal
// that spoilt it, before it gives up all of a kind.
const maxDrops = 64

// Compose chooses what a commit by this sender holds: the given proposals by
// value, and of the pending ones, by reference, those that go together with
// them and with each other, RFC 9420 §12.2, §12.4. keep leaves out pending
// proposals that the application does not want; nil wants all. Of several
// changes of one leaf, a Remove is taken before an Update and the last Update
// before earlier ones; of several ReInit or GroupContextExtensions, the last.
// A ReInit waits while anything else is there. An external commit only takes
// SelfRemoves. What is refused in the list is left out, and what it displaced
// comes back; if there is no end of it, all proposals of strangers are left
// out, then all but Removes: nobody holds back a Remove by what else they send.
// It also says whether the commit needs a path. That the values are valid
// themselves shows in Plan.
func (g *PublicGroup) Compose(sender Sender, keep func(*PendingProposal) bool, values ...*Proposal) ([]ProposalOrRef, bool) {
	c := composer{g: g, sender: sender}
	for _, n := range g.pending.list {
		if n != nil && (keep == nil || keep(n)) {
			c.waiting = append(c.waiting, n)
		}
	}
	list := c.list(values)
	if sender.Type == SenderMember {
		list = c.settle(list, values)
	}
	return list, g.needsPath(sender, list)
}

// settle plans the list and leaves out, one after the other, pending proposals
// that are refused in it. Each round keeps fewer kinds of them.
func (c *composer) settle(list []ProposalOrRef, values []*Proposal) []ProposalOrRef {
	rounds := [...]func(*PendingProposal) bool{
		func(n *PendingProposal) bool { return n.Sender.Type == SenderNewMemberProposal },
		func(n *PendingProposal) bool { return n.Proposal.Type != ProposalRemove },
		func(*PendingProposal) bool { return true },
	}
	for _, leaveOut := range rounds {
		for range maxDrops {
			if len(list) == len(values) {
				return list
			}
			at, err := c.try(list)
			if err == nil {
				return list
			}
			if at < 0 || list[at].Proposal != nil {
				break // a value is refused, by itself or beside one that waits
			}
			c.drop(list[at].Ref)
			list = c.list(values)
		}
		c.waiting = slices.DeleteFunc(c.waiting, leaveOut)
		list = c.list(values)
	}
	return list
}

// try plans a list, and returns the place of what is refused in it, or -1.
func (c *composer) try(list []ProposalOrRef) (int, error) {
	p, err := c.g.plan(c.sender, list, nil, true)
	if err == nil {
		p.search = true
		err = p.finish()
	}
	return p.at, err
}

// drop takes out a pending proposal that spoils the list, so that those it
// displaced are chosen instead.
func (c *composer) drop(ref []byte) {
	c.waiting = slices.DeleteFunc(c.waiting, func(n *PendingProposal) bool { return bytes.Equal(n.Ref, ref) })
}

// list chooses among those that wait. Those of members come first, then those
// of external senders: of two that exclude each other the later is dropped.
func (c *composer) list(values []*Proposal) []ProposalOrRef {
	c.latest = make(map[uint32]int)
	c.take(values)
	c.prefer()
	refs := c.choose()
	slices.SortStableFunc(refs, func(a, b *PendingProposal) int { return int(a.Sender.Type) - int(b.Sender.Type) })
	list := make([]ProposalOrRef, 0, len(refs)+len(values))
	for _, n := range refs {
		list = append(list, ProposalOrRef{Ref: n.Ref})
	}
	for _, p := range values {
		list = append(list, ProposalOrRef{Proposal: p})
	}
	return list
}

// composer is a list of proposals in the making.
type composer struct {
	g       *PublicGroup
	sender  Sender
	waiting []*PendingProposal

	removed    map[uint32]bool // leaves that values remove
	psks       map[string]bool // that values name
	valued     bool            // there are values
	alone      bool            // a value is a ReInit
	extensions bool            // a value is a GroupContextExtensions

	latest        map[uint32]int // leaf: place of what changes it, in waiting
	lastExtension int            // place of the last GroupContextExtensions, or -1
	lastReInit    int            // place of the last ReInit, or -1
}

// take notes what the values leave no room for.
func (c *composer) take(values []*Proposal) {
	c.removed, c.psks = make(map[uint32]bool), make(map[string]bool)
	c.valued = len(values) > 0
	for _, p := range values {
		if p == nil {
			continue // Plan refuses it
		}
		switch p.Type {
		case ProposalRemove:
			c.removed[p.Removed] = true
		case ProposalPSK:
			c.psks[string(p.PSK.AppendTo(nil))] = true
		case ProposalReInit:
			c.alone = true
		case ProposalGroupContextExtensions:
			c.extensions = true
		}
	}
}

// rank orders changes of one leaf: draft-ietf-mls-extensions-10 §6.3.1 puts a
// SelfRemove before a Remove, RFC 9420 §12.2 a Remove before an Update.
func rank(p *Proposal) int {
	switch p.Type {
	case ProposalUpdate:
		return 1
	case ProposalRemove:
		return 2
	}
	return 3
}

// changed is the leaf that a pending proposal updates or removes.
func (n *PendingProposal) changed() (uint32, bool) {
	switch n.Proposal.Type {
	case ProposalUpdate, ProposalSelfRemove:
		return n.Sender.Index, true
	case ProposalRemove:
		return n.Proposal.Removed, true
	}
	return 0, false
}

// prefer finds, of proposals that exclude each other, the one to take.
func (c *composer) prefer() {
	c.lastExtension, c.lastReInit = -1, -1
	for i, n := range c.waiting {
		switch n.Proposal.Type {
		case ProposalGroupContextExtensions:
			c.lastExtension = i
		case ProposalReInit:
			c.lastReInit = i
		}
		leaf, changes := n.changed()
		if !changes {
			continue
		}
		at, known := c.latest[leaf]
		if !known || rank(n.Proposal) > rank(c.waiting[at].Proposal) ||
			rank(n.Proposal) == 1 && rank(c.waiting[at].Proposal) == 1 {
			c.latest[leaf] = i
		}
	}
}

// choose picks the pending proposals in order of their arrival.
func (c *composer) choose() []*PendingProposal {
	var out []*PendingProposal
	if c.alone {
		return nil
	}
	for i, n := range c.waiting {
		if c.fits(i, n) {
			out = append(out, n)
		}
	}
	if len(out) == 0 && !c.valued && c.lastReInit >= 0 && c.sender.Type == SenderMember {
		return []*PendingProposal{c.waiting[c.lastReInit]}
	}
	return out
}

// fits reports whether a pending proposal goes with those preferred to it.
func (c *composer) fits(i int, n *PendingProposal) bool {
	if c.sender.Type != SenderMember && (n.Proposal.Type != ProposalSelfRemove || !c.g.allSupport(ProposalSelfRemove)) {
		return false
	}
	if leaf, changes := n.changed(); changes {
		own := c.sender.Type == SenderMember && leaf == c.sender.Index
		return !own && c.latest[leaf] == i && !c.removed[leaf]
	}
	switch n.Proposal.Type {
	case ProposalGroupContextExtensions:
		return !c.extensions && i == c.lastExtension
	case ProposalReInit:
		return false
	case ProposalPSK:
		name := string(n.Proposal.PSK.AppendTo(nil))
		if c.psks[name] || len(c.psks) == MaxPSKs {
			return false
		}
		c.psks[name] = true
	}
	return true
}

// allSupport reports whether every member supports a type of proposal.
func (g *PublicGroup) allSupport(t ProposalType) bool {
	return g.tree.EveryMember(func(c Capabilities) bool { return c.SupportsProposal(t) })
}

// needsPath: RFC 9420 §12.4.
func (g *PublicGroup) needsPath(sender Sender, list []ProposalOrRef) bool {
	if len(list) == 0 || sender.Type == SenderNewMemberCommit {
		return true
	}
	for _, e := range list {
		p := e.Proposal
		if p == nil {
			n := g.pending.find(e.Ref)
			if n == nil {
				continue
			}
			p = n.Proposal
		}
		switch p.Type {
		case ProposalUpdate, ProposalRemove, ProposalExternalInit, ProposalGroupContextExtensions, ProposalSelfRemove:
			return true
		case ProposalAdd, ProposalPSK, ProposalReInit, ProposalAppDataUpdate, ProposalAppEphemeral:
			continue
		}
		if _, path := g.policy.custom(p.Type); path {
			return true
		}
	}
	return false
}
