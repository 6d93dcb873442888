package group

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// The commit of a cold group is long, and its membership tag is checked beside
// its signatures, RFC 9420 §6.2: a wrong tag is refused as one whatever else is
// wrong, and a right commit is followed.
func TestLongCommit(t *testing.T) {
	w := newWorld(t, mls.X25519AES128SHA256Ed25519, 5)
	together := func(n int, f func(int)) {
		var all sync.WaitGroup
		for i := range n {
			all.Go(func() { f(i) })
		}
		all.Wait()
	}
	a, b := w.members[0], w.client()
	b.config.Policy = &mls.Policy{Parallel: together}
	mine := b.keyPackage(w)
	adds := []*mls.Proposal{Add(mine.Package)}
	for range 250 {
		adds = append(adds, Add(w.client().keyPackage(w).Package))
	}
	made, err := a.Commit(CommitOptions{Proposals: adds, Public: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Merge(made); err != nil {
		t.Fatal(err)
	}
	joined, err := Join(b.config, w.parse(made.Welcome).Welcome, mine, JoinOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made, err = a.Commit(CommitOptions{Path: true, Public: true}); err != nil {
		t.Fatal(err)
	}
	commit := made.Commit
	if !w.parse(commit).Public.Long() {
		t.Fatalf("a commit of %d octets is not long", len(commit))
	}
	// The tag is the end of the message, the confirmation tag stands before it.
	tag, confirmation, early := bytes.Clone(commit), bytes.Clone(commit), bytes.Clone(commit)
	tag[len(tag)-1] ^= 1
	confirmation[len(confirmation)-33-1] ^= 1
	early[len(early)-33-33-10] ^= 1 // in the signature
	for name, bad := range map[string][]byte{"tag": tag, "confirmation tag": confirmation, "signature": early} {
		if _, err := joined.Process(w.parse(bad)); mls.RuleOf(err) != mls.RuleMembershipTag {
			t.Errorf("a commit with another %s: %v", name, err)
		}
		own := *a.Group
		own.pending = nil
		if _, err := own.Process(w.parse(bad)); mls.RuleOf(err) != mls.RuleMembershipTag {
			t.Errorf("an own commit with another %s: %v", name, err)
		}
	}
	own := *a.Group
	own.pending = nil
	if _, err := own.Process(w.parse(commit)); !errors.Is(err, ErrOwnMessage) {
		t.Errorf("an own commit that is not pending: %v", err)
	}
	e, err := joined.Process(w.parse(commit))
	if err != nil {
		t.Fatal(err)
	}
	if err := joined.Merge(e.Transition); err != nil {
		t.Fatal(err)
	}
	if err := a.Merge(made); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(joined.EpochAuthenticator(), a.EpochAuthenticator()) {
		t.Error("the members differ")
	}
	if _, err := joined.Process(w.parse(commit)); !errors.Is(err, ErrPastEpoch) {
		t.Errorf("the commit of a past epoch: %v", err)
	}
}
