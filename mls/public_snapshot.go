package mls

import (
	"bytes"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// snapshotVersion is the first octet of a snapshot; another form has another.
const snapshotVersion = 1

// AppendTo appends a snapshot of the group: what ParsePublicGroup needs to go
// on with it. The policy is not part of it.
func (g *PublicGroup) AppendTo(dst []byte) []byte {
	dst = codec.AppendVec(append(dst, snapshotVersion), g.encoded)
	dst, mark := codec.Begin(dst)
	dst = codec.End(g.tree.AppendTo(dst), mark)
	dst = codec.AppendVec(codec.AppendVec(dst, g.interim), g.tag)
	dst = codec.Uint32(dst, g.committer)
	dst = codec.AppendOptional(dst, g.reinit != nil)
	if g.reinit != nil {
		p := Proposal{Type: ProposalReInit, ReInit: *g.reinit}
		dst = codec.AppendVec(dst, p.AppendTo(nil))
	}
	dst, mark = codec.Begin(dst)
	for _, n := range g.pending.list {
		if n != nil {
			dst = codec.AppendVec(dst, n.Content.raw)
		}
	}
	return codec.End(dst, mark)
}

// ParsePublicGroup takes up a group from a snapshot, which is the caller's own
// and trusted: hashes are compared, so that a damaged one is refused, and
// signatures are not verified again. It aliases b.
func ParsePublicGroup(b []byte, p *Policy) (*PublicGroup, error) {
	r := codec.NewReader(b)
	if v := r.Uint8(); v != snapshotVersion && r.Err() == nil {
		return nil, refuse(RuleMessage, "version %d of a snapshot is not known", v)
	}
	g := &PublicGroup{policy: p.orZero(), encoded: r.Vec()}
	body := r.Vec()
	g.interim, g.tag = r.Vec(), r.Vec()
	g.committer = r.Uint32()
	if r.Optional() {
		q, err := ParseProposal(r.Vec())
		if err != nil {
			return nil, err
		}
		if q.Type != ProposalReInit {
			r.Fail(int(RuleReservedValue), "a ReInit belongs here")
		}
		g.reinit = &q.ReInit
	}
	waiting := r.Sub()
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	if err := g.restore(body); err != nil {
		return nil, err
	}
	for waiting.Len() > 0 {
		if err := g.restorePending(waiting.Vec()); err != nil {
			return nil, err
		}
	}
	if err := waiting.Finish(); err != nil {
		return nil, WireError(err)
	}
	g.indexClients()
	return g, nil
}

// SetPolicy replaces what the application decides, from now on: a snapshot
// and what followed it were judged when they came, so that they are taken up
// without asking again, whatever the time is now.
func (g *PublicGroup) SetPolicy(p *Policy) { g.policy = p.orZero() }

// restore takes up context and tree and compares the hashes.
func (g *PublicGroup) restore(body []byte) error {
	c, err := ParseGroupContext(g.encoded)
	if err != nil {
		return err
	}
	g.context = *c
	if g.demands, err = readDemands(c); err != nil {
		return err
	}
	if g.tree, err = ParseTree(g.demands.params, body); err != nil {
		return err
	}
	g.tree.Settle(g.policy.Parallel)
	if !bytes.Equal(g.tree.Hash(), c.TreeHash) {
		return refuse(RuleTreeHash, "the tree of the snapshot has another hash")
	}
	if g.committer != NoLeaf && g.tree.Leaf(g.committer) == nil {
		return refuse(RuleSenderLeaf, "leaf %d of the snapshot's committer is blank", g.committer)
	}
	interim := InterimTranscriptHash(g.demands.params, c.ConfirmedTranscriptHash, g.tag)
	if !bytes.Equal(interim, g.interim) && len(g.tag)+len(g.interim) > 0 {
		return refuse(RuleTranscriptHash, "the snapshot's transcript hash is another")
	}
	return nil
}

// restorePending takes up one pending proposal.
func (g *PublicGroup) restorePending(b []byte) error {
	a, err := ParseAuthenticatedContent(b)
	if err != nil {
		return err
	}
	if a.Content.ContentType != ContentProposal || len(g.pending.byRef) == MaxPending {
		return refuse(RuleBounds, "a snapshot's proposals are none, or too many")
	}
	n := &PendingProposal{Ref: a.Ref(g.demands.params), Proposal: a.Content.Proposal, Sender: a.Content.Sender, Content: a}
	if g.pending.find(n.Ref) == nil {
		g.pending.add(n)
	}
	return nil
}
