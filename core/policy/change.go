package policy

import (
	"fmt"
	"strings"

	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/mls"
)

// ClientOf reads whose a leaf is by what it says of itself (PROTOCOL §2): the error
// wraps one of package identity.
func ClientOf(l *mls.LeafNode, leaf uint32) (Client, error) {
	if l == nil {
		return Client{}, fmt.Errorf("%w: no leaf there", identity.ErrMismatch)
	}
	device, user, err := identity.LeafNames(l)
	if err != nil {
		return Client{}, err
	}
	return Client{User: user, Device: device, Leaf: leaf}, nil
}

// ChangeOf is a commit on g as Check judges it. Homeservers and devices make it here,
// so that none stops at a commit that the others took. before is the policy of g;
// leaves counts those that a user has in g, and may be nil. Whether the joiner has
// shown a join code (CodeRole) is for the caller to say. Errors are those of ClientOf,
// of State.Next, and of extensions that cannot be read.
func ChangeOf(g *mls.PublicGroup, before *State, st *mls.Staged, leaves func(user string) int) (*Change, error) {
	c := &Change{Before: before, External: st.Sender.Type == mls.SenderNewMemberCommit, Members: st.Tree.Members}
	dict, err := st.Context().Extensions.AppData()
	if err != nil {
		return nil, err
	}
	if c.After, err = before.Next(dict, st.Components); err != nil {
		return nil, err
	}
	actor, err := ClientOf(st.Tree.Leaf(st.Committer), st.Committer)
	if err != nil {
		return nil, err
	}
	c.Actor = actor.User
	if c.Removed, err = clientsOf(g.Tree(), st.Removed); err != nil {
		return nil, err
	}
	if c.Added, err = clientsOf(st.Tree, st.Added); err != nil {
		return nil, err
	}
	came := 0
	for _, e := range st.Entries {
		p := ProposedOf(g, e.Proposal, e.Sender)
		if e.Ref == nil { // by value: a newcomer's are its own, too
			p.By = actor.User
		}
		if e.Proposal.Type == mls.ProposalAdd {
			p.Added = c.Added[came : came+1]
			came++
		}
		c.Proposals = append(c.Proposals, p)
	}
	if c.External {
		c.Added = append(c.Added, actor)
		for _, r := range c.Removed {
			c.Resync = c.Resync || r.Device == actor.Device
		}
	}
	c.ClientsAfter = c.counter(g.Tree(), leaves)
	return c, nil
}

func clientsOf(tree *mls.Tree, leaves []uint32) (out []Client, err error) {
	for _, i := range leaves {
		c, err := ClientOf(tree.Leaf(i), i)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

// counter counts the leaves that a user has after c, by those in tree before it.
func (c *Change) counter(tree *mls.Tree, leaves func(string) int) func(string) int {
	moved := map[string]int{}
	for _, a := range c.Added {
		moved[a.User]++
	}
	for _, r := range c.Removed {
		moved[r.User]--
	}
	var had map[string]int
	if leaves == nil {
		leaves = func(user string) int {
			if had == nil { // seldom asked: not each commit takes all leaves
				had = map[string]int{}
				for i, l := range tree.All() {
					if c, err := ClientOf(l, i); err == nil {
						had[c.User]++
					}
				}
			}
			return had[user]
		}
	}
	return func(user string) int { return leaves(user) + moved[user] }
}

// ProposedOf is one proposal by a sender of g. Its author is the one who needs the
// right to it, whoever commits it: a member, a newcomer who asks for a leaf, or a
// homeserver that the group names as external sender.
func ProposedOf(g *mls.PublicGroup, p *mls.Proposal, by mls.Sender) Proposed {
	out := Proposed{Type: p.Type, Extensions: p.Extensions}
	member := func(leaf uint32) Client {
		c, _ := ClientOf(g.Tree().Leaf(leaf), leaf) // one in the tree was read before; of none there nothing is said
		return c
	}
	switch by.Type {
	case mls.SenderMember:
		out.By = member(by.Index).User
	case mls.SenderNewMemberProposal:
		if p.Add != nil {
			c, _ := ClientOf(p.Add.Leaf, 0)
			out.By = c.User
		}
	case mls.SenderExternal:
		if s := g.ExternalSenders(); int(by.Index) < len(s) {
			out.Domain = strings.TrimPrefix(string(s[by.Index].Credential.Data), "mimi://")
		}
	}
	switch p.Type {
	case mls.ProposalAdd:
		c, _ := ClientOf(p.Add.Leaf, 0)
		out.Added = []Client{c}
	case mls.ProposalRemove:
		out.Removed = []Client{member(p.Removed)}
	case mls.ProposalSelfRemove:
		out.Removed = []Client{member(by.Index)}
	case mls.ProposalAppDataUpdate:
		out.Components = []ComponentUpdate{{ID: p.Component, Remove: p.Operation == mls.AppDataRemove, Update: p.Data}}
	}
	return out
}
