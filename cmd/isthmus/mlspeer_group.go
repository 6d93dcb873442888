package main

import (
	"errors"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// clientOps are those of a client that is known already, beside groupOps.
var clientOps = map[string]peerOp{
	"join":             (*peerClient).join,
	"propose_external": (*peerClient).proposeExternal,
}

// groupOps are those of a client in a group. Their answers get the group's state.
var groupOps = map[string]func(c *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) error{
	"add": committing(func(c *peerClient, g *group.Group, q *peerRequest, o *group.CommitOptions) error {
		o.LeavePending = true
		return byValue(g, &peerRequest{KeyPackages: q.KeyPackages}, o)
	}),
	"remove": committing(func(c *peerClient, g *group.Group, q *peerRequest, o *group.CommitOptions) error {
		o.LeavePending = true
		return byValue(g, &peerRequest{Members: q.Members}, o)
	}),
	"update": committing(func(c *peerClient, g *group.Group, q *peerRequest, o *group.CommitOptions) error {
		o.LeavePending, o.Path = true, true
		return nil
	}),
	"commit": committing(func(c *peerClient, g *group.Group, q *peerRequest, o *group.CommitOptions) error {
		return byValue(g, q, o)
	}),
	"reinit": committing(func(c *peerClient, g *group.Group, q *peerRequest, o *group.CommitOptions) error {
		o.LeavePending = true
		o.Proposals = append(o.Proposals, reInit(g, q))
		return nil
	}),
	"propose_add": proposing(func(g *group.Group, q *peerRequest) (*mls.Proposal, error) {
		k, err := readPackage(q.KeyPackage)
		return group.Add(k), err
	}),
	"propose_remove": proposing(func(g *group.Group, q *peerRequest) (*mls.Proposal, error) {
		if q.Member == nil {
			return nil, errors.New("a removal without a member")
		}
		return group.Remove(*q.Member), nil
	}),
	"propose_update": func(c *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) (err error) {
		a.Proposal, err = g.ProposeUpdate(nil, q.AAD)
		return err
	},
	"propose_psk": proposing(func(g *group.Group, q *peerRequest) (*mls.Proposal, error) {
		return g.PSK(mls.PreSharedKeyID{Type: mls.PSKExternal, ID: q.PSK})
	}),
	"propose_reinit": proposing(func(g *group.Group, q *peerRequest) (*mls.Proposal, error) {
		return reInit(g, q), nil
	}),
	"propose_extensions": proposing(func(g *group.Group, q *peerRequest) (*mls.Proposal, error) {
		extensions, err := q.extensions()
		return &mls.Proposal{Type: mls.ProposalGroupContextExtensions, Extensions: extensions}, err
	}),
	"propose_self_remove": proposing(func(*group.Group, *peerRequest) (*mls.Proposal, error) {
		return &mls.Proposal{Type: mls.ProposalSelfRemove}, nil
	}),
	"propose_custom": proposing(func(_ *group.Group, q *peerRequest) (*mls.Proposal, error) {
		return customProposal(q)
	}),
	"reinit_group": func(c *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) error {
		r := g.Successor()
		if r == nil {
			return mls.Refuse(mls.RuleReInit, "no ReInit was committed")
		}
		return c.succeed(g, r.Suite, r.GroupID, q, a, func(id group.Identity, packages []*mls.KeyPackage) (*group.Group, *group.Transition, error) {
			return g.ReInit(&c.config, id, packages)
		})
	},
	"branch": func(c *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) error {
		suite := g.Public().Context().Suite
		return c.succeed(g, suite, q.NewGroup, q, a, func(id group.Identity, packages []*mls.KeyPackage) (*group.Group, *group.Transition, error) {
			return g.Branch(&c.config, q.NewGroup, id, packages)
		})
	},
	"group_info": peerGroupInfo,
	"process":    peerProcess,
	"seal": func(c *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) (err error) {
		a.Message, err = g.Seal(nil, q.Data, q.AAD)
		return err
	},
	"open":    peerOpen,
	"restart": (*peerClient).restart,
	"export": func(c *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) (err error) {
		a.Secret, err = g.Export(q.Label, q.Context, q.Length)
		return err
	},
	"state": func(*peerClient, *group.Group, *peerRequest, *peerAnswer) error { return nil },
}

// committing is an operation that makes a commit with the options that fill
// sets, and merges it at once.
func committing(fill func(*peerClient, *group.Group, *peerRequest, *group.CommitOptions) error) func(*peerClient, *group.Group, *peerRequest, *peerAnswer) error {
	return func(c *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) error {
		o := group.CommitOptions{AuthenticatedData: q.AAD, SeparateTree: q.separate()}
		if err := fill(c, g, q, &o); err != nil {
			return err
		}
		t, err := g.Commit(o)
		if err != nil {
			return err
		}
		return merge(g, t, a)
	}
}

// merge enters the epoch of an own commit, and answers its messages.
func merge(g *group.Group, t *group.Transition, a *peerAnswer) error {
	a.Commit, a.Welcome, a.RatchetTree = t.Commit, t.Welcome, t.RatchetTree
	if err := g.Merge(t); err != nil {
		g.Discard()
		return err
	}
	return nil
}

// byValue fills in the proposals that a request names by value.
func byValue(g *group.Group, q *peerRequest, o *group.CommitOptions) error {
	for _, message := range q.KeyPackages {
		k, err := readPackage(message)
		if err != nil {
			return err
		}
		o.Proposals = append(o.Proposals, group.Add(k))
	}
	for _, leaf := range q.Members {
		o.Proposals = append(o.Proposals, group.Remove(leaf))
	}
	for _, id := range q.PSKs {
		p, err := g.PSK(mls.PreSharedKeyID{Type: mls.PSKExternal, ID: id})
		if err != nil {
			return err
		}
		o.Proposals = append(o.Proposals, p)
	}
	return nil
}

// proposing is an operation that sends one proposal.
func proposing(proposal func(*group.Group, *peerRequest) (*mls.Proposal, error)) func(*peerClient, *group.Group, *peerRequest, *peerAnswer) error {
	return func(_ *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) error {
		p, err := proposal(g, q)
		if err != nil {
			return err
		}
		a.Proposal, err = g.Propose(p, q.AAD)
		return err
	}
}

// reInit asks for a group of the same extensions.
func reInit(g *group.Group, q *peerRequest) *mls.Proposal {
	return &mls.Proposal{Type: mls.ProposalReInit, ReInit: mls.ReInit{
		GroupID: q.NewGroup, Version: mls.Version10, Suite: q.Suite, Extensions: g.Public().Context().Extensions,
	}}
}

// succeed makes the group that follows g, with the client's identity in g if
// the request names no other.
func (c *peerClient) succeed(g *group.Group, s mls.Suite, groupID []byte, q *peerRequest, a *peerAnswer,
	begin func(group.Identity, []*mls.KeyPackage) (*group.Group, *group.Transition, error)) error {
	if err := c.vacant(groupID); err != nil {
		return err
	}
	name := q.Identity
	if name == "" {
		name = string(g.Public().Tree().Leaf(g.Self()).Credential.Data)
	}
	id, err := c.identity(s, name)
	if err != nil {
		return err
	}
	var packages []*mls.KeyPackage
	for _, message := range q.KeyPackages {
		k, err := readPackage(message)
		if err != nil {
			return err
		}
		packages = append(packages, k)
	}
	next, t, err := begin(id, packages)
	if err != nil {
		return err
	}
	if err := merge(next, t, a); err != nil {
		return err
	}
	a.Commit = nil // nobody was there to get it
	c.keep(next, a)
	return nil
}

func peerGroupInfo(_ *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) (err error) {
	a.GroupInfo, err = g.GroupInfo(!q.separate(), nil)
	if q.separate() {
		a.RatchetTree = g.Public().Tree().AppendTo(nil)
	}
	return err
}

// peerProcess takes a proposal or a commit.
func peerProcess(_ *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) error {
	m, err := mls.Parse(q.Message)
	if err != nil {
		return err
	}
	if m.Private != nil && m.Private.ContentType == mls.ContentApplication {
		return mls.Refuse(mls.RuleContentType, "application data is for open")
	}
	e, err := g.Process(m)
	if err != nil || e.Transition == nil {
		return err
	}
	t := e.Transition
	if err := g.Merge(t); err != nil {
		return err
	}
	a.Removed = t.Removed
	for _, entry := range t.Staged.Entries {
		if p := entry.Proposal; p.Type == peerCustomType {
			a.Custom = append(a.Custom, peerCustom{p.Type, entry.Sender.Index, p.Data})
		}
	}
	return nil
}

func peerOpen(_ *peerClient, g *group.Group, q *peerRequest, a *peerAnswer) error {
	m, err := mls.Parse(q.Message)
	if err != nil {
		return err
	}
	app, err := g.Open(m)
	if err != nil {
		return err
	}
	a.Data, a.AAD, a.Sender = &app.Data, &app.AuthenticatedData, &app.Sender
	return nil
}

func stateOf(g *group.Group) *peerState {
	context := g.Public().Context()
	s := &peerState{Epoch: g.Epoch(), Authenticator: g.EpochAuthenticator(), TreeHash: context.TreeHash}
	for i, leaf := range g.Public().Tree().All() {
		s.Members = append(s.Members, peerMember{i, string(leaf.Credential.Data)})
	}
	return s
}
