package mls

import (
	"bytes"
	"slices"
	"sort"
)

// apply applies the list to a clone of the tree: RFC 9420 §12.3. Removes come
// before updates here: they are of other leaves, so the tree is the same, and
// no key is in it twice on the way.
func (p *plan) apply() error {
	st, g := p.st, p.g
	if err := p.checkSize(); err != nil {
		return err
	}
	st.Tree = g.tree.Clone()
	for _, i := range p.removes {
		leaf := st.Entries[i].Proposal.Removed
		if st.Entries[i].Proposal.Type == ProposalSelfRemove {
			leaf = st.Entries[i].Sender.Index
		}
		st.Tree.Remove(leaf)
		st.Removed = append(st.Removed, leaf)
	}
	for _, i := range p.updates {
		leaf := st.Entries[i].Sender.Index
		st.Tree.Update(leaf, st.Entries[i].Proposal.Update)
		st.Updated = append(st.Updated, leaf)
	}
	if err := st.Tree.checkOctets(); err != nil {
		if n := len(p.updates); n > 0 {
			p.at = p.updates[n-1]
		}
		return err
	}
	if err := p.checkOthers(); err != nil {
		return err
	}
	return p.applyAdds()
}

// checkSize: RFC 9420 §16.11: the application's bound of members, before
// anything is added.
func (p *plan) checkSize() error {
	n := p.g.tree.Members() - len(p.removes) + len(p.adds)
	if p.st.external() {
		n++
	}
	if n <= p.g.policy.members() {
		return nil
	}
	if len(p.adds) > 0 {
		p.at = p.adds[len(p.adds)-1]
	}
	return refuse(RuleBounds, "the group would have %d members", n)
}

// checkOthers: RFC 9420 §12.2, §13.2: a type of proposal that not every client
// knows is supported by all that will process the commit: neither those it
// adds nor those it removes need to.
func (p *plan) checkOthers() error {
	for _, t := range p.types {
		if !p.st.Tree.EveryMember(func(c Capabilities) bool { return c.SupportsProposal(t) }) {
			p.at = p.others[t]
			return refuse(RuleCustomProposal, "not all members support proposals of type %d", t)
		}
	}
	return nil
}

// applyAdds adds the new members and, for an external commit, its joiner: RFC
// 9420 §12.1.1, §12.4.3.2: at the leftmost blank leaf.
func (p *plan) applyAdds() error {
	st := p.st
	if len(p.adds) > 0 {
		st.New = new(LeafSet)
		st.Added = make([]uint32, 0, len(p.adds))
		st.AddedPackages = make([]*KeyPackage, 0, len(p.adds))
	}
	for _, i := range p.adds {
		k := st.Entries[i].Proposal.Add
		p.at = i
		leaf := st.Tree.Add(k.Leaf)
		if leaf == NoLeaf {
			return refuse(RuleBounds, "the tree is full")
		}
		if err := st.Tree.checkOctets(); err != nil {
			return err
		}
		st.New.Add(leaf)
		st.Added = append(st.Added, leaf)
		st.AddedPackages = append(st.AddedPackages, k)
	}
	p.at = -1
	// RFC 9420 §12.4.3.1: a joiner would refuse a tree with a key twice.
	for _, k := range p.parent {
		if bytes.Equal(st.Tree.PublicKey(uint32(k.node)), k.key) {
			p.at = k.entry
			return refuse(RuleParentKeysUnique, "the encryption key is that of node %d", k.node)
		}
	}
	if !st.external() {
		return nil
	}
	return p.applyJoiner()
}

// applyJoiner gives the joiner of an external commit its place.
func (p *plan) applyJoiner() error {
	st := p.st
	if at, found := st.Tree.LeafBySignatureKey(p.joiner.SignatureKey); found {
		return refuse(RuleMemberKeysUnique, "the joiner's signature key is that of leaf %d", at)
	}
	if at, found := st.Tree.NodeByEncryptionKey(p.joiner.EncryptionKey); found {
		return refuse(RulePathKeysUnique, "the joiner's encryption key is that of node %d", at)
	}
	if p.g.policy.Client != nil {
		at, found := st.clientAt(p.g.policy.Client(p.joiner))
		if found && p.unchanged(at) {
			return refuse(RuleDuplicateClient, "the joiner is a member, leaf %d", at)
		}
	}
	if st.Committer = st.Tree.Add(p.joiner); st.Committer == NoLeaf {
		return refuse(RuleBounds, "the tree is full")
	}
	return nil
}

// checkMembers checks what members are capable of after the list: RFC 9420
// §7.3, §12.1.7. The tree before was right, so only what changed is looked at.
// The committer is judged by its old leaf here, and by that of its path when it
// is merged: RFC 9420 §12.2 has the list valid before the path of §12.4.2 is
// applied. Who wants to demand what is new to itself commits its leaf first.
func (p *plan) checkMembers() error {
	st := p.st
	if len(p.extensions) > 0 {
		p.at = p.extensions[0]
		if err := checkMembers(st.Tree, st.demands, nil); err != nil {
			return refuse(RuleGroupContextExtensions, "%w", err)
		}
		if err := st.checkAllFormats(); err != nil {
			return err
		}
	}
	if len(p.updates)+len(p.adds) == 0 {
		return nil
	}
	used := st.Tree.CredentialsInUse()
	before := p.g.tree.CredentialsInUse()
	var last Capabilities
	for _, list := range [...][]int{p.updates, p.adds} {
		for _, i := range list {
			p.at = i
			l, _, wrap := p.leafOf(i)
			if last.raw != nil && bytes.Equal(last.raw, l.Capabilities.raw) {
				continue
			}
			last = l.Capabilities
			if err := checkCredentials(last, used); err != nil {
				return refuse(wrap, "%w", err)
			}
		}
	}
	for _, list := range [...][]int{p.updates, p.adds} {
		for _, i := range list {
			l, _, wrap := p.leafOf(i)
			if p.at = i; slices.Contains(before, uint16(l.Credential.Type)) {
				continue
			}
			if err := checkNewTypes(st.Tree, used, before); err != nil {
				return refuse(wrap, "%w", err)
			}
			before = used
		}
	}
	p.at = -1
	return nil
}

// checkNewTypes: RFC 9420 §7.3: a type of credential that comes into use is
// supported by all members. The lists are sorted.
func checkNewTypes(t *Tree, used, before []uint16) (err error) {
	var fresh []uint16
	for _, c := range used {
		for len(before) > 0 && before[0] < c {
			before = before[1:]
		}
		if len(before) == 0 || before[0] != c {
			fresh = append(fresh, c)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	t.EveryMember(func(c Capabilities) bool {
		err = checkCredentials(c, fresh)
		return err == nil
	})
	return err
}

// checkAllFormats: draft-ietf-mls-extensions-10 §5: wire formats that a commit
// makes mandatory are supported by all.
func (st *Staged) checkAllFormats() error {
	if st.demands.formats.Len() == 0 || bytes.Equal(st.demands.formats, st.base.demands.formats) {
		return nil
	}
	for i, l := range st.Tree.All() {
		if err := CheckWireFormats(st.demands.formats, l); err != nil {
			return refuse(RuleGroupContextExtensions, "leaf %d: %w", i, err)
		}
	}
	return nil
}

// finish is what comes after the signatures: it asks the application.
func (p *plan) finish() error {
	st := p.st
	for n, i := range p.updates {
		p.at = i
		if err := p.g.authenticateProposal(st.Entries[i].Proposal, st.Entries[i].Sender, st.Updated[n]); err != nil {
			return refuse(RuleUpdate, "%w", err)
		}
	}
	for n, i := range p.adds {
		p.at = i
		if err := p.g.authenticateProposal(st.Entries[i].Proposal, st.Entries[i].Sender, st.Added[n]); err != nil {
			return refuse(RuleAdd, "%w", err)
		}
	}
	for _, i := range p.extensions {
		p.at = i
		if err := p.g.authenticateProposal(st.Entries[i].Proposal, st.Entries[i].Sender, 0); err != nil {
			return err
		}
	}
	p.at = -1
	return p.applyComponents()
}

// componentUpdate is what a list does to one component's data.
type componentUpdate struct {
	id      ComponentID
	entry   int // the one to leave out if they do not go together: the last, or the last that removes
	removes int
	updates [][]byte
	entries []int // of updates
}

// applyComponents applies AppDataUpdate proposals, after all others:
// draft-ietf-mls-extensions-10 §4.7.
func (p *plan) applyComponents() error {
	if len(p.components) == 0 {
		return nil
	}
	st := p.st
	data, err := st.context.Extensions.AppData()
	if err != nil {
		return err
	}
	values := make(map[ComponentID][]byte, len(data))
	for _, c := range data {
		values[c.ID] = c.Data
	}
	for _, u := range p.componentUpdates() {
		p.at = u.entry
		current, present := values[u.id]
		if u.removes > 0 {
			if !present || u.removes > 1 || len(u.updates) > 0 {
				return refuse(RuleAppDataUpdate, "component %d is removed and is not there, or twice, or also updated", u.id)
			}
			delete(values, u.id)
		} else {
			next, err := p.g.policy.Components(u.id, current, present, u.updates)
			if err != nil {
				p.blame(&u, current, present)
				return refuse(RuleAppDataUpdate, "component %d: %w", u.id, err)
			}
			values[u.id] = next
		}
		st.Components = append(st.Components, u.id)
	}
	return st.setComponents(values)
}

// blame finds, of updates that a component refused, the first that it does not
// take after those before it.
func (p *plan) blame(u *componentUpdate, current []byte, present bool) {
	if !p.search {
		return
	}
	n := sort.Search(len(u.updates)-1, func(n int) bool {
		_, err := p.g.policy.Components(u.id, current, present, u.updates[:n+1])
		return err != nil
	})
	p.at = u.entries[n]
}

// componentUpdates gathers the updates by component, in order of first appearance.
func (p *plan) componentUpdates() []componentUpdate {
	var out []componentUpdate
	place := make(map[ComponentID]int)
	for _, i := range p.components {
		u := p.st.Entries[i].Proposal
		n, ok := place[u.Component]
		if !ok {
			n = len(out)
			place[u.Component] = n
			out = append(out, componentUpdate{id: u.Component})
		}
		if u.Operation == AppDataRemove {
			out[n].entry = i
			out[n].removes++
		} else {
			if out[n].removes == 0 {
				out[n].entry = i
			}
			out[n].updates = append(out[n].updates, u.Data)
			out[n].entries = append(out[n].entries, i)
		}
	}
	return out
}

// setComponents puts the dictionary into the new GroupContext.
func (st *Staged) setComponents(values map[ComponentID][]byte) error {
	if len(values) > MaxComponents {
		return refuse(RuleBounds, "%d components", len(values))
	}
	dictionary := make(AppData, 0, len(values))
	for id, data := range values {
		dictionary = append(dictionary, ComponentData{id, data})
	}
	slices.SortFunc(dictionary, func(a, b ComponentData) int { return int(a.ID) - int(b.ID) })
	_, had := st.context.Extensions.Find(ExtAppDataDictionary)
	next := st.context.Extensions.WithAppData(dictionary)
	d, err := st.base.demands.with(next)
	if err != nil {
		return err
	}
	// RFC 9420 §13.4: the extension is mandatory once it is there.
	supports := func(c Capabilities) bool { return c.SupportsExtension(ExtAppDataDictionary) }
	if !had && !st.Tree.EveryMember(supports) {
		return refuse(RuleGroupExtensionsSupport, "not all members support the application data dictionary")
	}
	st.context.Extensions, st.demands = next, d
	st.ExtensionsChanged = true
	return nil
}
