package mls

import "testing"

// What a hostile review found: each case was a failure once.

// A staged commit belongs to one epoch of one group, not to its number.
func TestStagedFrom(t *testing.T) {
	k, other := newKit(t, 2, nil, nil), newKit(t, 2, nil, nil)
	st, err := k.g.Stage(k.commit(0, nil, nil))
	if err != nil {
		t.Fatal(err)
	}
	if !st.From(k.g) || st.From(other.g) || st.From(st.Next([]byte("tag"))) {
		t.Error("the commit is not of the epoch that it was staged in alone")
	}
}
