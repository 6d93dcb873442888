package group

import (
	"bytes"

	"github.com/isthmus-chat/isthmus/mls"
)

// successorPSK is the resumption key that ties a new group to this one, RFC
// 9420 §11.2 and §11.3: of the current epoch, which is the last after a ReInit.
func (g *Group) successorPSK(usage mls.ResumptionUsage) mls.PreSharedKeyID {
	return mls.PreSharedKeyID{Type: mls.PSKResumption, Usage: usage, GroupID: g.ID(), Epoch: g.number}
}

// Branch makes a group of some members of this one, RFC 9420 §11.3: the
// others' key packages are of the same suite. The transition, once merged,
// welcomes them; they join with JoinOptions.From.
func (g *Group) Branch(c *Config, groupID []byte, id Identity, packages []*mls.KeyPackage) (*Group, *Transition, error) {
	if g.status != Active {
		return nil, nil, ErrInactive
	}
	// RFC 9420 §11.3: a joiner refuses a branch with a stranger in it.
	if strangers := absent(packages, credentials(g.tree)); strangers > 0 {
		return nil, nil, mls.Refuse(mls.RuleBranchJoin, "%d key packages are of no member", strangers)
	}
	context := g.public.Context()
	return g.succeed(c, context.Suite, groupID, id, context.Extensions, packages, mls.UsageBranch)
}

// ReInit makes the group that a committed ReInit asks for, RFC 9420 §11.2, of
// the other members' key packages for its suite.
func (g *Group) ReInit(c *Config, id Identity, packages []*mls.KeyPackage) (*Group, *Transition, error) {
	if g.status != Reinitialized {
		return nil, nil, mls.Refuse(mls.RuleReInit, "no ReInit was committed")
	}
	// RFC 9420 §11.2: a joiner refuses a successor without all members.
	named := map[string]bool{string(id.Credential.AppendTo(nil)): true}
	for _, k := range packages {
		named[string(k.Leaf.Credential.AppendTo(nil))] = true
	}
	if missing := unlisted(g.tree, named); missing > 0 {
		return nil, nil, mls.Refuse(mls.RuleReInitJoin, "%d members have no key package here", missing)
	}
	r := g.reinit
	return g.succeed(c, r.Suite, r.GroupID, id, r.Extensions, packages, mls.UsageReInit)
}

// succeed makes a group and its first commit, which adds the members and mixes
// in this group's resumption key.
func (g *Group) succeed(c *Config, s mls.Suite, groupID []byte, id Identity, extensions mls.Extensions, packages []*mls.KeyPackage, usage mls.ResumptionUsage) (*Group, *Transition, error) {
	with := *c
	outer := c.PSK
	psk := bytes.Clone(g.secrets.Resumption)
	want := g.successorPSK(usage)
	with.PSK = func(k *mls.PreSharedKeyID) ([]byte, bool) {
		if k.Type == mls.PSKResumption && bytes.Equal(k.GroupID, want.GroupID) && k.Epoch == want.Epoch {
			return psk, true
		}
		if outer == nil {
			return nil, false
		}
		return outer(k)
	}
	next, err := Create(&with, s, groupID, id, extensions, nil)
	if err != nil {
		return nil, nil, err
	}
	proposal, err := next.PSK(want)
	if err != nil {
		return nil, nil, err
	}
	list := []*mls.Proposal{proposal}
	for _, k := range packages {
		list = append(list, Add(k))
	}
	t, err := next.Commit(CommitOptions{Proposals: list})
	next.config = c
	if err != nil {
		return nil, nil, err
	}
	return next, t, nil
}

// checkOrigin checks a group that follows another, RFC 9420 §11.2, §11.3 and
// §12.4.3.1. from is the group that the member knows it follows, or nil.
func checkOrigin(public *mls.PublicGroup, from *Group, psks []mls.PreSharedKeyID) error {
	for _, id := range psks {
		if id.Type != mls.PSKResumption || id.Usage == mls.UsageApplication {
			continue
		}
		rule := mls.RuleBranchJoin
		if id.Usage == mls.UsageReInit {
			rule = mls.RuleReInitJoin
		}
		switch {
		case from == nil || !bytes.Equal(from.ID(), id.GroupID):
			return mls.Refuse(rule, "the group follows one that this member does not name")
		case public.Epoch() != 1:
			return mls.Refuse(rule, "the group is in epoch %d", public.Epoch())
		}
		if id.Usage == mls.UsageReInit {
			return checkReInit(public, from, id.Epoch)
		}
		return checkBranch(public, from)
	}
	if from != nil { // RFC 9420 §11.2, §11.3: the resumption key is what ties the two
		return mls.Refuse(mls.RuleWelcomePSK, "nothing ties the group to the one that it is to follow")
	}
	return nil
}

// checkReInit: RFC 9420 §11.2: what the ReInit said, and every member there.
func checkReInit(public *mls.PublicGroup, from *Group, epoch uint64) error {
	r, c := from.reinit, public.Context()
	switch {
	case from.status != Reinitialized || r == nil || epoch != from.number:
		return mls.Refuse(mls.RuleReInitJoin, "the old group did not end with a ReInit in that epoch")
	case !bytes.Equal(c.GroupID, r.GroupID) || c.Version != r.Version || c.Suite != r.Suite:
		return mls.Refuse(mls.RuleReInitJoin, "group, version or suite is not the ReInit's")
	case !bytes.Equal(c.Extensions.AppendTo(nil), r.Extensions.AppendTo(nil)):
		return mls.Refuse(mls.RuleReInitJoin, "the extensions are not the ReInit's")
	}
	if missing := unlisted(from.tree, credentials(public.Tree())); missing > 0 {
		return mls.Refuse(mls.RuleReInitJoin, "%d members of the old group are missing", missing)
	}
	return nil
}

// checkBranch: RFC 9420 §11.3: version and suite of the old group, and no
// member from outside it.
func checkBranch(public *mls.PublicGroup, from *Group) error {
	old, c := from.public.Context(), public.Context()
	if c.Version != old.Version || c.Suite != old.Suite {
		return mls.Refuse(mls.RuleBranchJoin, "version or suite is not the old group's")
	}
	if strangers := unlisted(public.Tree(), credentials(from.tree)); strangers > 0 {
		return mls.Refuse(mls.RuleBranchJoin, "%d members are not of the old group", strangers)
	}
	return nil
}

// credentials are those of all members.
func credentials(t *mls.Tree) map[string]bool {
	known := make(map[string]bool, t.Members())
	for _, leaf := range t.All() {
		known[string(leaf.Credential.AppendTo(nil))] = true
	}
	return known
}

// unlisted counts the members whose credential is not known.
func unlisted(t *mls.Tree, known map[string]bool) int {
	count := 0
	for _, leaf := range t.All() {
		if !known[string(leaf.Credential.AppendTo(nil))] {
			count++
		}
	}
	return count
}

// absent counts the key packages whose credential is not known.
func absent(packages []*mls.KeyPackage, known map[string]bool) int {
	count := 0
	for _, k := range packages {
		if !known[string(k.Leaf.Credential.AppendTo(nil))] {
			count++
		}
	}
	return count
}
