package policy

import "testing"

func TestDefaultParses(t *testing.T) {
	s, err := ParseState(Default("mimi://a.example/u/alice", "a.example"))
	if err != nil || !s.Can("mimi://a.example/u/alice", CanBan) {
		t.Fatal(err)
	}
}
