package mls

import (
	"bytes"
)

// plan is a commit on its way from a list of proposals to a Staged.
type plan struct {
	g      *PublicGroup
	st     *Staged
	joiner *LeafNode
	at     int // place of the entry that is looked at; -1: none
	checks checks
	search bool // whoever composes wants to know which entry is to blame
	sent   bool // the commit is one to be sent, and not received

	// The entries by kind, each as its place in the list, in its order.
	extensions []int // GroupContextExtensions
	updates    []int
	removes    []int // with SelfRemoves
	adds       []int
	inits      []int // ExternalInit
	components []int // AppDataUpdate

	leaves map[uint32]bool      // updated or removed: old leaf index
	names  map[string]bool      // PSKs, encoded
	others map[ProposalType]int // types that not every client knows, at their first place
	types  []ProposalType       // of others, in order
	parent []parentKey
}

// parentKey is a key of a new leaf that a parent of the old tree has: the list
// has to blank that parent.
type parentKey struct {
	node, entry int
	key         []byte
}

// plan checks a list and applies it. The signatures that are left to verify
// are in the plan; finish comes after them.
func (g *PublicGroup) plan(sender Sender, list []ProposalOrRef, joiner *LeafNode, sent bool) (*plan, error) {
	p := &plan{g: g, joiner: joiner, at: -1, sent: sent}
	p.st = &Staged{Sender: sender, base: g, demands: g.demands, Committer: NoLeaf}
	return p, p.make(list)
}

func (p *plan) make(list []ProposalOrRef) (err error) {
	if err = p.checkCommitter(len(list)); err != nil {
		return err
	}
	if p.st.context, err = p.g.nextContext(); err != nil {
		return err
	}
	if err = p.resolve(list); err != nil {
		return err
	}
	packages := p.checkPackages()
	for i := range p.st.Entries {
		p.at = i
		if err = p.checkEntry(i, &p.st.Entries[i], packages); err != nil {
			return err
		}
		if err = p.take(i, &p.st.Entries[i]); err != nil {
			return err
		}
	}
	p.at = -1
	if err = p.checkExternal(); err != nil {
		return err
	}
	if err = p.setExtensions(); err != nil {
		return err
	}
	if err = p.checkLeaves(); err != nil {
		return err
	}
	if err = p.apply(); err != nil {
		return err
	}
	return p.checkMembers()
}

// checkCommitter checks who commits, and the policy for external commits.
func (p *plan) checkCommitter(proposals int) error {
	if proposals > MaxProposals {
		return refuse(RuleBounds, "%d proposals", proposals)
	}
	switch sender := p.st.Sender; sender.Type {
	case SenderMember:
		if p.g.tree.Leaf(sender.Index) == nil {
			return refuse(RuleSenderLeaf, "leaf %d is blank", sender.Index)
		}
		p.st.Committer = sender.Index
		return nil
	case SenderNewMemberCommit:
		// RFC 9420 §12.4.3.2.
		if p.joiner == nil {
			return refuse(RuleExternalCommit, "an external commit has a path")
		}
		// RFC 9420 §12.4.3.2: it is for the application to allow them.
		if p.g.policy.ForbidExternalCommit {
			return refuse(RuleExternalPolicy, "external commits are not allowed")
		}
		return nil
	default:
		return refuse(RuleSenderType, "a sender of type %d does not commit", sender.Type)
	}
}

// resolve finds the proposals that are named by reference. RFC 9420 §12.4,
// §5.2: they are those received in this epoch, with their own senders.
func (p *plan) resolve(list []ProposalOrRef) error {
	p.st.Entries = make([]Entry, len(list))
	for i := range list {
		p.at = i
		if list[i].Proposal != nil {
			p.st.Entries[i] = Entry{Proposal: list[i].Proposal, Sender: p.st.Sender}
			continue
		}
		n := p.g.pending.find(list[i].Ref)
		if n == nil {
			return refuse(RuleProposalReference, "entry %d names no proposal of this epoch", i)
		}
		p.st.Entries[i] = Entry{Proposal: n.Proposal, Sender: n.Sender, Ref: n.Ref}
	}
	return nil
}

// checkPackages checks the key packages of a long list in parallel, and
// returns what is wrong with each by its place; nil if it checked none.
func (p *plan) checkPackages() []error {
	entries, parallel := p.st.Entries, p.g.policy.Parallel
	if parallel == nil || len(entries) < checkPart {
		return nil
	}
	errs := make([]error, len(entries))
	parallel.Run((len(entries)+checkPart-1)/checkPart, func(part int) {
		for i := part * checkPart; i < min(len(entries), (part+1)*checkPart); i++ {
			e := &entries[i]
			if e.Ref != nil || e.Proposal.Type != ProposalAdd {
				continue
			}
			if errs[i] = e.Proposal.checkWhole(); errs[i] == nil {
				errs[i] = p.g.checkPackage(e.Proposal.Add)
			}
		}
	})
	return errs
}

// checkEntry checks an entry by itself: RFC 9420 §12.2. What stands there by
// reference was checked when it arrived.
func (p *plan) checkEntry(i int, e *Entry, packages []error) error {
	if p.st.external() {
		if err := checkExternalEntry(e); err != nil {
			return err
		}
	}
	if p.sent {
		if err := p.g.CheckSending(e.Proposal); err != nil {
			return err
		}
	}
	if e.Ref != nil || p.ownUpdate(e) {
		return nil
	}
	var err error
	if packages != nil && e.Proposal.Type == ProposalAdd {
		if err = packages[i]; err == nil {
			err = p.g.checkAddLifetime(e.Proposal.Add, false)
		}
	} else {
		// The commit that makes a group out of another is its creator's first.
		creating := p.g.context.Epoch == 0 && p.g.tree.Members() == 1
		err = p.g.checkAlone(e.Proposal, e.Sender, creating)
	}
	if err != nil {
		return err
	}
	p.g.signatures(&p.checks, e.Proposal, e.Sender)
	return nil
}

// take files an entry by its kind and refuses what RFC 9420 §12.2 does not
// allow beside those before it.
func (p *plan) take(i int, e *Entry) error {
	switch e.Proposal.Type {
	case ProposalAdd:
		p.adds = append(p.adds, i)
	case ProposalUpdate:
		p.st.NeedsPath = true
		p.updates = append(p.updates, i)
		return p.change(e.Sender.Index, p.ownUpdate(e))
	case ProposalRemove:
		p.st.NeedsPath = true
		p.removes = append(p.removes, i)
		return p.change(e.Proposal.Removed, p.isCommitter(e.Proposal.Removed))
	case ProposalSelfRemove:
		p.st.NeedsPath = true
		p.removes = append(p.removes, i)
		// draft-ietf-mls-extensions-10 §6.3.1.
		if e.Ref == nil {
			return refuse(RuleSelfRemove, "a SelfRemove is committed by reference")
		}
		p.other(i, e.Proposal.Type)
		return p.change(e.Sender.Index, p.isCommitter(e.Sender.Index))
	case ProposalPSK:
		return p.takePSK(&e.Proposal.PSK)
	case ProposalReInit:
		// RFC 9420 §12.2.
		if len(p.st.Entries) != 1 {
			return refuse(RuleProposalList, "a ReInit is committed alone")
		}
		p.st.ReInit = &e.Proposal.ReInit
	case ProposalExternalInit:
		p.st.NeedsPath = true
		p.inits = append(p.inits, i)
		p.st.KEMOutput = e.Proposal.KEMOutput
	case ProposalGroupContextExtensions:
		p.st.NeedsPath = true
		// RFC 9420 §12.2.
		if p.extensions = append(p.extensions, i); len(p.extensions) > 1 {
			return refuse(RuleProposalList, "more than one GroupContextExtensions")
		}
	case ProposalAppDataUpdate:
		p.components = append(p.components, i)
		p.other(i, e.Proposal.Type)
	case ProposalAppEphemeral:
		p.other(i, e.Proposal.Type)
	default:
		_, path := p.g.policy.custom(e.Proposal.Type)
		p.st.NeedsPath = p.st.NeedsPath || path
		p.other(i, e.Proposal.Type)
	}
	return nil
}

func (p *plan) isCommitter(leaf uint32) bool { return !p.st.external() && leaf == p.st.Committer }

// ownUpdate reports an Update by the committer, by value or by reference.
func (p *plan) ownUpdate(e *Entry) bool {
	return e.Proposal.Type == ProposalUpdate && e.Sender == p.st.Sender
}

// change notes that an entry updates or removes a leaf.
func (p *plan) change(leaf uint32, own bool) error {
	// RFC 9420 §12.2.
	if own {
		return refuse(RuleCommitterProposal, "it updates or removes the committer")
	}
	if p.leaves == nil {
		p.leaves = make(map[uint32]bool)
	}
	// RFC 9420 §12.2.
	if p.leaves[leaf] {
		return refuse(RuleLeafChangedTwice, "leaf %d is updated or removed twice", leaf)
	}
	p.leaves[leaf] = true
	return nil
}

// other notes a type of proposal that not every client knows.
func (p *plan) other(i int, t ProposalType) {
	if p.others == nil {
		p.others = make(map[ProposalType]int)
	}
	if _, ok := p.others[t]; !ok {
		p.others[t] = i
		p.types = append(p.types, t)
	}
}

func (p *plan) takePSK(id *PreSharedKeyID) error {
	if len(p.st.PSKs) == MaxPSKs {
		return refuse(RuleBounds, "more than %d pre-shared keys", MaxPSKs)
	}
	if p.names == nil {
		p.names = make(map[string]bool)
	}
	// RFC 9420 §12.2.
	name := string(id.AppendTo(nil))
	if p.names[name] {
		return refuse(RuleProposalList, "a pre-shared key is named twice")
	}
	p.names[name] = true
	p.st.PSKs = append(p.st.PSKs, *id)
	return nil
}

// checkExternalEntry: RFC 9420 §12.2, §12.4.3.2: what may stand in an external
// commit; draft-ietf-mls-extensions-10 §4.7, §4.8 and §6.3.1 add to it. Types
// that the application defines are not among them: nothing says that they are.
func checkExternalEntry(e *Entry) error {
	t := e.Proposal.Type
	if e.Ref != nil && t != ProposalSelfRemove {
		return refuse(RuleExternalCommit, "an external commit names proposals by reference")
	}
	switch t {
	case ProposalExternalInit, ProposalRemove, ProposalPSK, ProposalSelfRemove, ProposalAppDataUpdate, ProposalAppEphemeral:
		return nil
	}
	return refuse(RuleExternalProposals, "an external commit has no proposal of type %d", t)
}

// checkExternal checks what the list of an external commit lacks or has too
// much of.
func (p *plan) checkExternal() error {
	if !p.st.external() {
		p.st.NeedsPath = p.st.NeedsPath || len(p.st.Entries) == 0
		return nil
	}
	p.st.NeedsPath = true
	// RFC 9420 §12.2.
	if len(p.inits) != 1 {
		return refuse(RuleExternalProposals, "%d times ExternalInit", len(p.inits))
	}
	for _, i := range p.removes {
		e := &p.st.Entries[i]
		if e.Proposal.Type != ProposalRemove {
			continue
		}
		if p.st.resynced != nil {
			return refuse(RuleExternalProposals, "more than one Remove")
		}
		p.st.resynced = p.g.tree.Leaf(e.Proposal.Removed)
	}
	// RFC 9420 §12.4.3.2.
	if p.st.resynced != nil && p.g.policy.ForbidResync {
		return refuse(RuleExternalPolicy, "a joiner must not remove a leaf")
	}
	if p.g.policy.RequireExternalPSK && len(p.st.PSKs) == 0 {
		return refuse(RuleExternalPolicy, "an external commit without a pre-shared key")
	}
	return nil
}

// setExtensions applies GroupContextExtensions, which RFC 9420 §12.3 has come
// first: all else is judged by the new extensions.
func (p *plan) setExtensions() error {
	for _, i := range p.extensions {
		p.at = i
		e := p.st.Entries[i].Proposal.Extensions
		d, err := p.g.demands.with(e)
		if err != nil {
			return err
		}
		p.st.demands, p.st.context.Extensions = d, e
		p.st.ExtensionsChanged = true
	}
	p.at = -1
	return nil
}

// leafOf is the new leaf that an entry brings, and the index of the one it
// replaces; NoLeaf for an Add.
func (p *plan) leafOf(i int) (l *LeafNode, index uint32, wrap Rule) {
	e := &p.st.Entries[i]
	if e.Proposal.Type == ProposalAdd {
		return e.Proposal.Add.Leaf, NoLeaf, RuleAdd
	}
	return e.Proposal.Update, e.Sender.Index, RuleUpdate
}

// checkLeaves checks all leaves that updates and adds bring, by themselves and
// against one another.
func (p *plan) checkLeaves() error {
	n := len(p.updates) + len(p.adds)
	if n == 0 {
		return nil
	}
	// Leaves with the same capabilities are mostly next to each other.
	var last Capabilities
	keys := newKeySet(n)
	for _, list := range [...][]int{p.updates, p.adds} {
		for _, i := range list {
			p.at = i
			l, index, wrap := p.leafOf(i)
			if last.raw == nil || !bytes.Equal(last.raw, l.Capabilities.raw) {
				if err := p.st.demands.checkCapabilities(l.Capabilities); err != nil {
					return refuse(wrap, "%w", err)
				}
				last = l.Capabilities
			}
			if err := CheckWireFormats(p.st.demands.formats, l); err != nil {
				return refuse(wrap, "%w", err)
			}
			if err := p.checkUnique(keys, i, l, index); err != nil {
				return err
			}
		}
	}
	p.at = -1
	return nil
}

// keySet is the keys and clients of the leaves that a list brings.
type keySet struct{ signature, encryption, client map[string]bool }

func newKeySet(n int) *keySet {
	return &keySet{make(map[string]bool, n), make(map[string]bool, n), make(map[string]bool)}
}

// unchanged reports whether a leaf of the old tree stays as it is, as far as
// the list goes.
func (p *plan) unchanged(leaf uint32) bool { return !p.leaves[leaf] }

// checkUnique: RFC 9420 §7.3: after the whole list no two members have the
// same keys; §12.2: no client is there twice.
func (p *plan) checkUnique(keys *keySet, entry int, l *LeafNode, index uint32) error {
	duplicate := RuleMemberKeysUnique
	if index == NoLeaf {
		// RFC 9420 §12.2 takes equal signature keys as the sign of one client.
		duplicate = RuleDuplicateClient
	}
	at, found := p.g.tree.LeafBySignatureKey(l.SignatureKey)
	if found && p.unchanged(at) || keys.signature[string(l.SignatureKey)] {
		return refuse(duplicate, "the signature key is another member's")
	}
	keys.signature[string(l.SignatureKey)] = true
	node, found := p.g.tree.NodeByEncryptionKey(l.EncryptionKey)
	switch {
	case found && node%2 == 1:
		p.parent = append(p.parent, parentKey{int(node), entry, l.EncryptionKey})
	case found && p.unchanged(node/2) || keys.encryption[string(l.EncryptionKey)]:
		return refuse(RuleMemberKeysUnique, "the encryption key is another member's")
	}
	keys.encryption[string(l.EncryptionKey)] = true
	return p.checkClient(keys, l, index)
}

// checkClient asks the application whether a client is there already.
func (p *plan) checkClient(keys *keySet, l *LeafNode, index uint32) error {
	if p.g.policy.Client == nil {
		return nil
	}
	name := p.g.policy.Client(l)
	at, found := p.st.clientAt(name)
	// RFC 9420 §12.2.
	if found && p.unchanged(at) || keys.client[name] {
		return refuse(RuleDuplicateClient, "client %q is a member", name)
	}
	keys.client[name] = true
	return nil
}
