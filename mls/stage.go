package mls

import (
	"bytes"
	"slices"

	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
)

// Entry is a proposal of a commit, with who proposed it.
type Entry struct {
	Proposal *Proposal
	Sender   Sender
	Ref      []byte // nil: by value
}

// Staged is a commit that has been checked and applied to a copy: what the
// next epoch will be. Its fields are to be read only.
type Staged struct {
	Sender    Sender
	Committer uint32  // leaf in the new tree
	Entries   []Entry // in the order of the commit

	Added         []uint32      // leaves, in the order of the Adds
	AddedPackages []*KeyPackage // in the same order
	Removed       []uint32      // leaves of the old tree, those of SelfRemoves among them
	Updated       []uint32      // leaves of members with an Update
	PSKs          []PreSharedKeyID
	KEMOutput     []byte // of the ExternalInit of an external commit
	ReInit        *ReInit
	Components    []ComponentID // whose data in the GroupContext changed, in the order of the commit
	// ExtensionsChanged says that the GroupContext's extensions are others.
	ExtensionsChanged bool
	NeedsPath         bool // RFC 9420 §12.4: the list demands a path

	Path  *UpdatePath // nil: none, or the committer has not set it yet
	Steps []PathNode  // filtered direct path of the committer in the new tree
	New   *LeafSet    // leaves added here: path secrets are not sealed for them
	Tree  *Tree       // the new tree, with the path once there is one

	base       *PublicGroup
	clients    map[string]uint32 // of base, if it has them no more
	resynced   *LeafNode         // the joiner's old leaf that an external commit removes
	context    GroupContext
	demands    *demands
	encoded    []byte // of the context, once it is whole
	transcript []byte // confirmed transcript hash, if it is made already
	confirmed  bool
}

// Plan checks a list of proposals as a commit by this sender and applies it to
// a copy of the tree: RFC 9420 §12.2, §12.3. The references are to pending
// proposals. For an external commit, joiner is the leaf that its sender means
// to have: keys, credential and capabilities, signed or not; else it is nil.
// Nothing in g changes.
func (g *PublicGroup) Plan(sender Sender, list []ProposalOrRef, joiner *LeafNode) (*Staged, error) {
	if g.reinit != nil {
		return nil, refuse(RuleReinitialized, "the group was closed by a ReInit")
	}
	p, err := g.plan(sender, list, joiner, true)
	if err != nil {
		return nil, err
	}
	if err := p.checks.run(g.policy.Parallel); err != nil {
		return nil, err
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	p.st.Steps = p.st.Tree.FilteredPath(p.st.Committer)
	return p.st, nil
}

// Stage checks a commit that was received, all but what needs secrets: RFC
// 9420 §12.4.2. Members check the membership tag before and decrypt, derive
// and compare the confirmation tag after. Nothing in g changes.
func (g *PublicGroup) Stage(a *AuthenticatedContent) (*Staged, error) {
	return g.StageBeside(a)
}

// Long reports whether the content is so long that hashing it takes as long as
// a signature: the commit of a cold group has a ciphertext for every member.
func (a *AuthenticatedContent) Long() bool { return len(a.raw) >= longContent }

// longContent is in octets: SHA-256 takes 10 µs for as many.
const longContent = 1 << 14

// StageBeside is Stage with other work of the caller's, which is done at the
// same time as the signatures are verified if the policy has a Parallel. It is
// not done if the commit was refused before.
func (g *PublicGroup) StageBeside(a *AuthenticatedContent, beside ...func()) (*Staged, error) {
	if err := g.CheckFraming(a); err != nil {
		return nil, err
	}
	c := &a.Content
	if c.ContentType != ContentCommit {
		return nil, refuse(RuleContentType, "a commit belongs here")
	}
	var joiner *LeafNode
	if c.Sender.Type == SenderNewMemberCommit && c.Commit.Path != nil {
		joiner = c.Commit.Path.Leaf
	}
	p, err := g.plan(c.Sender, c.Commit.Proposals, joiner, false)
	if err != nil {
		return nil, err
	}
	key, err := g.SenderKey(a)
	if err != nil {
		return nil, err
	}
	p.checks.content(g.demands.params, a, key, g.encoded)
	// RFC 9420 §12.4, §12.4.2.
	if p.st.NeedsPath && c.Commit.Path == nil {
		return nil, refuse(RulePathRequired, "the list demands a path")
	}
	if err := p.receivePath(c.Commit.Path); err != nil {
		return nil, err
	}
	if a.Long() {
		// 0.45 ms for the commit of a cold group of 10,000, of which the
		// signature's hash takes twice that.
		beside = append(beside, func() { p.st.transcript = a.ConfirmedTranscriptHash(g.demands.params, g.interim) })
	}
	if err := p.checks.run(g.policy.Parallel, beside...); err != nil {
		return nil, err
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	if p.st.Path != nil {
		if err := p.st.authenticatePath(p.st.Path.Leaf); err != nil {
			return nil, err
		}
	}
	p.st.Confirm(a)
	return p.st, nil
}

// receivePath checks a received path and merges it: RFC 9420 §12.4.2.
func (p *plan) receivePath(path *UpdatePath) error {
	if path == nil {
		return nil
	}
	st := p.st
	st.Steps = st.Tree.FilteredPath(st.Committer)
	// RFC 9420 §7.6.
	if len(path.Nodes) != len(st.Steps) {
		return refuse(RulePathLength, "%d nodes for a path of %d", len(path.Nodes), len(st.Steps))
	}
	for i := range path.Nodes {
		// RFC 9420 §7.5, §7.6.
		want := st.Tree.ResolutionSize(st.Steps[i].Copath, st.New)
		if path.Nodes[i].Len() != want {
			return refuse(RulePathCiphertexts, "%d ciphertexts at node %d for %d keys", path.Nodes[i].Len(), i, want)
		}
	}
	keys := make([][]byte, len(path.Nodes))
	for i := range path.Nodes {
		keys[i] = path.Nodes[i].EncryptionKey
	}
	if err := st.checkPathLeaf(path.Leaf); err != nil {
		return refuse(RulePathLeaf, "%w", err)
	}
	if err := st.checkPathKeys(keys); err != nil {
		return err
	}
	if err := st.checkLeafKey(path.Leaf, keys); err != nil {
		return err
	}
	p.checks.leaf(RulePathLeaf, st.demands.params, path.Leaf, st.context.GroupID, st.Committer)
	// RFC 9420 §7.9.2.
	if !bytes.Equal(st.Tree.SetPath(st.Committer, keys), path.Leaf.ParentHash) {
		return refuse(RulePathParentHash, "the leaf's parent hash is not that of the path")
	}
	st.Path = path
	return st.mergeLeaf(path.Leaf)
}

// checkPathKeys checks the keys of a path against one another and against the
// new tree, in which they are not yet.
func (st *Staged) checkPathKeys(keys [][]byte) error {
	s := st.demands.params
	for i, key := range keys {
		// RFC 9180 §7.1.4.
		if err := hpke.CheckPublicKey(s, key); err != nil {
			return refuse(RuleDHValidation, "key %d of the path: %w", i, err)
		}
		// RFC 9420 §12.4.2: no key of the path is in the new tree.
		if at, found := st.Tree.NodeByEncryptionKey(key); found {
			return refuse(RulePathKeysUnique, "key %d of the path is that of node %d", i, at)
		}
		for _, other := range keys[:i] {
			if bytes.Equal(key, other) {
				return refuse(RulePathKeysUnique, "key %d of the path is there twice", i)
			}
		}
	}
	return nil
}

// checkLeafKey: RFC 9420 §12.4.2: the key of the path's leaf is in no node
// either: of the tree, in which the joiner of an external commit stands
// already, nor among those of the path, old and new.
func (st *Staged) checkLeafKey(leaf *LeafNode, keys [][]byte) error {
	at, found := st.Tree.NodeByEncryptionKey(leaf.EncryptionKey)
	if found && !(st.external() && at == 2*st.Committer) {
		return refuse(RulePathKeysUnique, "the leaf's encryption key is that of node %d", at)
	}
	for i := range keys {
		if bytes.Equal(keys[i], leaf.EncryptionKey) {
			return refuse(RulePathKeysUnique, "the leaf's encryption key is one of the path")
		}
	}
	return nil
}

// checkPathLeaf checks the leaf of a path: RFC 9420 §7.3, §12.4.2.
func (st *Staged) checkPathLeaf(leaf *LeafNode) error {
	if err := checkSource(leaf, LeafCommit); err != nil {
		return err
	}
	if err := st.demands.checkForGroup(leaf); err != nil {
		return err
	}
	if old := st.replaced(); old != nil {
		if err := checkReplaces(old, leaf); err != nil {
			return err
		}
	}
	if at, found := st.Tree.LeafBySignatureKey(leaf.SignatureKey); found && at != st.Committer {
		return refuse(RuleMemberKeysUnique, "the signature key is that of leaf %d", at)
	}
	return st.checkPathClient(leaf)
}

// checkPathClient: RFC 9420 §12.2: no client is in a group twice, and so a path
// does not make the committer another member's client. Of a joiner it was
// checked with the list.
func (st *Staged) checkPathClient(leaf *LeafNode) error {
	client := st.base.policy.Client
	if client == nil || st.external() {
		return nil
	}
	name := client(leaf)
	if old := st.base.tree.Leaf(st.Committer); old != nil && client(old) == name {
		return nil
	}
	at, found := st.clientAt(name)
	if found && at != st.Committer && !slices.Contains(st.Removed, at) && !slices.Contains(st.Updated, at) {
		return refuse(RuleDuplicateClient, "client %q is leaf %d", name, at)
	}
	for _, list := range [...][]uint32{st.Updated, st.Added} {
		for _, i := range list {
			if client(st.Tree.Leaf(i)) == name {
				return refuse(RuleDuplicateClient, "client %q is leaf %d", name, i)
			}
		}
	}
	return nil
}

// clientAt is the leaf of a client in the epoch before. A group that has a
// next one has given its index away: it is not written to any more, for
// others may read it.
func (st *Staged) clientAt(name string) (uint32, bool) {
	index := st.base.clients
	if index == nil {
		if st.clients == nil {
			st.clients = st.base.clientIndex()
		}
		index = st.clients
	}
	at, found := index[name]
	return at, found
}

// mergeLeaf puts the leaf of the path into the tree, after the path's keys.
// RFC 9420 §7.3: then its type of credential has to be supported by all
// members, and it has to support theirs.
func (st *Staged) mergeLeaf(leaf *LeafNode) error {
	st.Tree.ReplaceLeaf(st.Committer, leaf)
	used := st.Tree.CredentialsInUse()
	err := st.Tree.checkOctets()
	if err == nil {
		err = checkCredentials(leaf.Capabilities, used)
	}
	if err == nil {
		err = checkNewTypes(st.Tree, used, st.base.tree.CredentialsInUse())
	}
	if err != nil {
		return refuse(RulePathLeaf, "%w", err)
	}
	return nil
}

// external reports whether the commit is a joiner's.
func (st *Staged) external() bool { return st.Sender.Type == SenderNewMemberCommit }

// replaced is the leaf that the path's leaf replaces, or nil.
func (st *Staged) replaced() *LeafNode {
	if st.external() {
		return st.resynced
	}
	return st.base.tree.Leaf(st.Committer)
}

// authenticatePath asks the application about the leaf of a path.
func (st *Staged) authenticatePath(leaf *LeafNode) error {
	change := LeafChange{Old: st.replaced(), New: leaf, Index: st.Committer, Source: ChangeCommit, Committer: st.Sender}
	if st.external() {
		change.Source = ChangeExternal
	}
	return st.base.policy.authenticate(change)
}

// SetPath sets a committer's own path, RFC 9420 §7.5: keys are those for
// Steps, from the leaf to the root. The callback makes and signs the leaf, of
// source commit, with this parent hash. After an error the Staged is of no use.
func (st *Staged) SetPath(keys [][]byte, leaf func(parentHash []byte) (*LeafNode, error)) error {
	if len(keys) != len(st.Steps) {
		return refuse(RulePathLength, "%d keys for a path of %d", len(keys), len(st.Steps))
	}
	if err := st.checkPathKeys(keys); err != nil {
		return err
	}
	former := make([][]byte, 0, len(st.Steps))
	for _, step := range st.Steps {
		if key := st.Tree.PublicKey(step.Node); key != nil {
			former = append(former, key)
		}
	}
	l, err := leaf(st.Tree.SetPath(st.Committer, keys))
	if err != nil {
		return err
	}
	if err := st.checkPathLeaf(l); err != nil {
		return refuse(RulePathLeaf, "%w", err)
	}
	if err := st.checkLeafKey(l, former); err != nil {
		return err
	}
	if err := st.mergeLeaf(l); err != nil {
		return err
	}
	st.Path = &UpdatePath{Leaf: l}
	return st.authenticatePath(l)
}

// Provisional is the encoded provisional GroupContext, RFC 9420 §12.4.2: of
// the new epoch, tree and extensions with the old confirmed transcript hash.
// Path secrets are sealed under it. The path has to be set before.
func (st *Staged) Provisional() []byte {
	c := st.context
	c.TreeHash = st.Tree.HashWith(st.base.policy.Parallel)
	c.ConfirmedTranscriptHash = st.base.context.ConfirmedTranscriptHash
	return c.AppendTo(nil)
}

// Confirm completes the new GroupContext with the transcript of the signed
// commit, RFC 9420 §8.2. Stage has done so; a committer does it for its own
// commit, whose confirmation tag is not needed yet.
func (st *Staged) Confirm(a *AuthenticatedContent) {
	st.context.TreeHash = st.Tree.HashWith(st.base.policy.Parallel)
	if st.context.ConfirmedTranscriptHash = st.transcript; st.transcript == nil {
		st.context.ConfirmedTranscriptHash = a.ConfirmedTranscriptHash(st.demands.params, st.base.interim)
	}
	st.encoded = st.context.AppendTo(make([]byte, 0, len(st.base.encoded)+16))
	st.confirmed = true
}

// From reports whether the commit is one of this epoch of this group: one of
// another is not to be merged into it, whatever its number.
func (st *Staged) From(g *PublicGroup) bool { return st.base == g }

// ContextBytes is the encoded GroupContext of the new epoch, for its key
// schedule: after Stage or Confirm, else nil.
func (st *Staged) ContextBytes() []byte { return st.encoded }

// Context is the GroupContext of the new epoch, whole after Stage or Confirm.
// It is not to be changed.
func (st *Staged) Context() *GroupContext { return &st.context }

// Next is the epoch that the commit begins, after Stage or Confirm, with the
// confirmation tag of the commit. The group before it is from then on only to
// be read.
func (st *Staged) Next(confirmationTag []byte) *PublicGroup {
	g := st.base
	n := &PublicGroup{
		context: st.context, encoded: st.encoded, demands: st.demands, tree: st.Tree,
		interim: InterimTranscriptHash(st.demands.params, st.context.ConfirmedTranscriptHash, confirmationTag),
		tag:     confirmationTag, policy: g.policy, committer: st.Committer, reinit: st.ReInit,
	}
	n.tree.Settle(g.policy.Parallel)
	n.clients, g.clients = g.clients, nil
	st.followClients(n)
	return n
}

// followClients brings the index of clients in line with the new tree.
func (st *Staged) followClients(n *PublicGroup) {
	client := n.policy.Client
	if client == nil {
		return
	}
	if n.clients == nil {
		n.indexClients()
		return
	}
	drop := func(i uint32) {
		if l := st.base.tree.Leaf(i); l != nil {
			if name := client(l); n.clients[name] == i {
				delete(n.clients, name)
			}
		}
	}
	changed := append(append([]uint32{}, st.Updated...), st.Added...)
	if st.Path != nil {
		changed = append(changed, st.Committer)
	}
	for _, i := range st.Removed {
		drop(i)
	}
	for _, i := range changed {
		drop(i)
	}
	for _, i := range changed {
		n.clients[client(n.tree.Leaf(i))] = i
	}
}
