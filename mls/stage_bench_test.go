package mls

import (
	"fmt"
	"testing"
)

// warmGroup has the first members commit once.
func (k *kit) warmGroup(commits int) {
	k.t.Helper()
	for i := range commits {
		k.apply(k.commit(uint32(i), nil, nil))
	}
}

// BenchmarkStage is what a delivery service does with a commit: check it and
// follow it. RFC 9420 §12.4.2.
func BenchmarkStage(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("update/n=%d", n), func(b *testing.B) {
			k := newKit(b, n, &Policy{Parallel: twoAtOnce}, nil)
			k.warmGroup(min(n, 64))
			a := k.commit(uint32(n/2), nil, nil)
			b.ReportAllocs()
			for b.Loop() {
				st, err := k.g.Stage(a)
				if err != nil {
					b.Fatal(err)
				}
				if st.Next(a.ConfirmationTag).Epoch() != k.g.Epoch()+1 {
					b.Fatal("not the next epoch")
				}
			}
		})
	}
}

// BenchmarkPlanCreate is a commit that adds all members but one at once, in
// all but the verification of their signatures.
func BenchmarkPlanCreate(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			k := newKit(b, 1, nil, nil)
			var list []ProposalOrRef
			for range n - 1 {
				_, entry := k.add(nil, nil)
				list = append(list, entry)
			}
			for b.Loop() {
				p, err := k.g.plan(Sender{SenderMember, 0}, list, nil, true)
				if err != nil || len(p.st.Added) != n-1 {
					b.Fatal(err)
				}
				p.st.Tree.Hash()
			}
		})
	}
}
