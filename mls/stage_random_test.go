package mls

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestStageRandom follows a group through random commits. After each a joiner
// would accept the tree, and a service that takes the group up from a
// GroupInfo or a snapshot goes on as the one that followed it.
func TestStageRandom(t *testing.T) {
	for seed := range uint64(6) {
		k := newKit(t, 3, permissive(), nil)
		r := rand.New(rand.NewPCG(seed, 7))
		for range 40 {
			a, joined := k.randomCommit(r)
			st, err := k.g.Stage(a)
			if err != nil {
				t.Fatalf("seed %d, epoch %d: %v", seed, k.g.Epoch(), err)
			}
			for _, i := range st.Removed {
				delete(k.members, i)
			}
			if st.external() {
				k.members[st.Committer] = joined[0]
			}
			for n, i := range st.Added {
				k.members[i] = joined[n]
			}
			k.g = st.Next(a.ConfirmationTag)
			if len(k.members) != k.g.Tree().Members() {
				t.Fatalf("seed %d: %d members, %d in the tree", seed, len(k.members), k.g.Tree().Members())
			}
			fresh, err := NewPublicGroup(k.info(k.someone(r), nil), nil, k.g.Policy())
			if err != nil {
				t.Fatalf("seed %d, epoch %d: RFC 9420 §12.4.3.1: %v", seed, k.g.Epoch(), err)
			}
			if !bytes.Equal(fresh.InterimTranscriptHash(), k.g.InterimTranscriptHash()) {
				t.Fatalf("seed %d: the transcripts differ", seed)
			}
			switch r.IntN(4) {
			case 0:
				k.g = fresh
			case 1:
				k.g = k.reload()
			}
		}
	}
}

// someone is a member.
func (k *kit) someone(r *rand.Rand) uint32 {
	all := make([]uint32, 0, len(k.members))
	for i := range k.members {
		all = append(all, i)
	}
	slices.Sort(all)
	return all[r.IntN(len(all))]
}

// randomCommit is a commit of a random list, and who it adds.
func (k *kit) randomCommit(r *rand.Rand) (*AuthenticatedContent, []*client) {
	k.t.Helper()
	by := k.someone(r)
	changed := map[uint32]bool{by: true}
	other := func() (uint32, bool) {
		i := k.someone(r)
		free := !changed[i]
		changed[i] = true
		return i, free
	}
	if r.IntN(5) == 0 {
		c := k.client()
		list := []ProposalOrRef{externalInit()}
		if i := k.someone(r); r.IntN(2) == 0 {
			c, list = k.members[i], append(list, byValue(remove(i)))
		}
		return k.joinCommit(c, list, nil), []*client{c}
	}
	var list []ProposalOrRef
	var added []*client
	for range r.IntN(3) {
		if i, ok := other(); ok {
			list = append(list, k.propose(i, k.update(i, nil)))
		}
	}
	for range r.IntN(3) {
		if i, ok := other(); ok && len(k.members) > 2 {
			list = append(list, byValue(remove(i)))
		}
	}
	if i, ok := other(); ok && r.IntN(4) == 0 {
		list = append(list, k.propose(i, &Proposal{Type: ProposalSelfRemove}))
	}
	for range r.IntN(4) {
		c, entry := k.add(nil, nil)
		list, added = append(list, entry), append(added, c)
	}
	if len(added) == len(list) && len(list) > 0 && r.IntN(2) == 0 {
		return k.signCommit(by, list, nil), added
	}
	return k.commit(by, list, nil), added
}
