package mls

// ChangeSource says by which way a leaf came to stand in a tree.
type ChangeSource uint8

// The ways of a leaf into a tree.
const (
	ChangeAdd      ChangeSource = 1 // an Add proposal
	ChangeUpdate   ChangeSource = 2 // an Update proposal
	ChangeCommit   ChangeSource = 3 // the path of a member's commit
	ChangeExternal ChangeSource = 4 // the path of an external commit: a joiner, or a resync if there is an old leaf
	ChangeTree     ChangeSource = 5 // a tree that was received whole
)

// LeafChange is a new or changed leaf that the application is to authenticate,
// RFC 9420 §5.3.1. Its signature has been verified.
type LeafChange struct {
	Old       *LeafNode // the leaf that it replaces; nil if it replaces none
	New       *LeafNode
	Index     uint32 // leaf index; of an Add that is only proposed so far, 0
	Source    ChangeSource
	Committer Sender // who proposes or commits it; the zero Sender for ChangeTree
}

// Policy is what the application decides. The zero value checks what RFC 9420
// demands of everybody and allows the rest. It is shared by all epochs of a
// group and does not change; its functions may be called by several goroutines
// if groups are used by several.
type Policy struct {
	// Authenticate accepts a credential for a signature key, and as the
	// successor of the credential that it replaces, RFC 9420 §5.3.1. It is
	// called for every leaf that comes in by any way: of a proposal that is
	// sent before its commit, when it arrives and again in the commit; who
	// composes a commit asks first, and leaves out what is refused then.
	// Without it all credentials are accepted, but the one of a resync has to
	// be equal to that of the leaf it removes.
	Authenticate func(LeafChange) error
	// AuthenticateSender accepts an external sender, RFC 9420 §5.3.1: its
	// credential for its signature key. It is called for every one that a
	// group comes to list, as Authenticate is for leaves, and for all of a
	// group that is created or taken up. Without it all are accepted.
	AuthenticateSender func(ExternalSender) error
	// Client names the client that a leaf stands for, so that none is in a
	// group twice, RFC 9420 §12.2. Without it only signature keys tell clients
	// apart.
	Client func(*LeafNode) string
	// Now is the time in seconds since the UNIX epoch against which lifetimes
	// of key packages are checked by who proposes or commits their Add, RFC
	// 9420 §7.3; without it they are not.
	Now func() uint64
	// CheckReceivedLifetimes has Now also judge what is received. A delivery
	// service may ask for it, before it hands out a commit. Members do not: who
	// was offline would refuse a commit that all others have followed.
	CheckReceivedLifetimes bool
	// MaxLifetime is the longest lifetime of a key package in seconds, RFC
	// 9420 §7.2; 0 allows any.
	MaxLifetime uint64

	// RFC 9420 §12.4.3.2 lets the application refuse external commits, those
	// that remove the joiner's former leaf, and those without a PSK.
	ForbidExternalCommit bool
	ForbidResync         bool
	RequireExternalPSK   bool

	// MaxMembers bounds the group; 0 is the constant MaxMembers.
	MaxMembers uint32
	// CustomProposals says of a proposal type that this package does not know
	// whether the application does, and whether a commit of it needs a path.
	// Without it no such type is known.
	CustomProposals func(t ProposalType) (known, needsPath bool)
	// Components applies the updates of one component, in the order of their
	// commit, to its data in the GroupContext, draft-ietf-mls-extensions-10
	// §4.7: present says whether there is any. The new data is returned.
	// Without it no AppDataUpdate is accepted.
	Components func(c ComponentID, current []byte, present bool, updates [][]byte) ([]byte, error)
	// Ephemeral accepts the data of an AppEphemeral proposal,
	// draft-ietf-mls-extensions-10 §4.8. Without it all are accepted and left
	// to whoever reads the entries of the commit.
	Ephemeral func(c ComponentID, data []byte) error
	// Parallel runs the verification of signatures; without it they are
	// verified one after the other.
	Parallel Parallel
}

// orZero is p, or a policy that decides nothing.
func (p *Policy) orZero() *Policy {
	if p == nil {
		return &Policy{}
	}
	return p
}

// members is the bound of a group's members.
func (p *Policy) members() int {
	if p.MaxMembers == 0 || p.MaxMembers > MaxMembers {
		return MaxMembers
	}
	return int(p.MaxMembers)
}

// custom says what the application knows of a proposal type.
func (p *Policy) custom(t ProposalType) (known, needsPath bool) {
	if p.CustomProposals == nil || GREASE(uint16(t)) {
		return false, false
	}
	return p.CustomProposals(t)
}

// authenticateSenders asks the application about the external senders that are
// not known already. RFC 9420 §5.3.1.
func (p *Policy) authenticateSenders(senders, known []ExternalSender) error {
	if p.AuthenticateSender == nil || len(senders) == 0 {
		return nil
	}
	// A set, for both lists may be long.
	old := make(map[string]bool, len(known))
	for i := range known {
		old[string(AppendExternalSenders(nil, known[i]))] = true
	}
	for i, s := range senders {
		if old[string(AppendExternalSenders(nil, s))] {
			continue
		}
		if err := p.AuthenticateSender(s); err != nil {
			return refuse(RuleCredential, "external sender %d: %w", i, err)
		}
	}
	return nil
}

// authenticate asks the application about a leaf. RFC 9420 §5.3.1, §7.3:
// rule 51 where it replaces another, else rule 37.
func (p *Policy) authenticate(c LeafChange) error {
	if p.Authenticate == nil {
		// RFC 9420 §12.2: who resyncs removes an old version of themselves.
		if c.Source == ChangeExternal && c.Old != nil && !c.Old.Credential.Equal(c.New.Credential) {
			return refuse(RuleCredentialSuccession, "the joiner's credential is not the removed leaf's")
		}
		return nil
	}
	err := p.Authenticate(c)
	switch {
	case err == nil:
		return nil
	case c.Old != nil:
		return refuse(RuleCredentialSuccession, "leaf %d: %w", c.Index, err)
	}
	return refuse(RuleCredential, "leaf %d: %w", c.Index, err)
}
