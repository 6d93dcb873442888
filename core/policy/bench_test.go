package policy

import (
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

const many = 10_000

// BenchmarkCommit is what one commit costs a room of ten thousand participants
// in this package: the component's patch, the next state, and the check.
func BenchmarkCommit(b *testing.B) {
	dict := roomOf(many)
	s := mustParse(b, dict)
	for _, c := range []struct {
		name   string
		update []byte
	}{
		{"role", SetRole(s, RoleVoice, user(many/2))},
		{"add", Invite(s, []string{user(many)}, RoleMember)},
		{"remove", RemoveUsers(s, user(many/2))},
		{"far-apart", SetRole(s, RoleVoice, user(1), user(many-1))},
	} {
		current, _ := dict.Find(ComponentParticipants)
		next, err := Component(ComponentParticipants, current, true, [][]byte{c.update})
		if err != nil {
			b.Fatal(err)
		}
		after := dict.With(ComponentParticipants, next)
		changed := []mls.ComponentID{ComponentParticipants}
		state, err := s.Next(after, changed)
		if err != nil {
			b.Fatal(err)
		}
		b.Run("Component/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Component(ComponentParticipants, current, true, [][]byte{c.update}); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("Next/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Next(after, changed); err != nil {
					b.Fatal(err)
				}
			}
		})
		change := Change{Before: s, After: state, Actor: user(0), ClientsAfter: func(string) int { return 0 }, Members: func() int { return many },
			Proposals: []Proposed{{By: user(0), Components: []ComponentUpdate{{ID: ComponentParticipants, Update: c.update}}}}}
		b.Run("Check/"+c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := change.Check(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkParseState(b *testing.B) {
	dict := roomOf(many)
	b.ReportAllocs()
	for b.Loop() {
		mustParse(b, dict)
	}
}

func BenchmarkRole(b *testing.B) {
	s := mustParse(b, roomOf(many))
	users := make([]string, many)
	for i, p := range s.Participants() {
		users[(i*7919)%many] = p.User
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, ok := s.Role(users[i%many]); !ok {
			b.Fatal("lost")
		}
	}
}

// A commit in a large room neither reads the list anew nor copies its names.
func TestNextSharesTheList(t *testing.T) {
	dict := roomOf(many)
	s := mustParse(t, dict)
	for name, update := range map[string][]byte{"role": SetRole(s, RoleVoice, user(many/2)), "add": Invite(s, []string{user(many)}, 2)} {
		current, _ := dict.Find(ComponentParticipants)
		next, err := Component(ComponentParticipants, current, true, [][]byte{update})
		if err != nil {
			t.Fatal(err)
		}
		after, changed := dict.With(ComponentParticipants, next), []mls.ComponentID{ComponentParticipants}
		allocations := testing.AllocsPerRun(5, func() {
			if _, err := s.Next(after, changed); err != nil {
				t.Fatal(err)
			}
		})
		if allocations > 40 {
			t.Errorf("%s: %v allocations", name, allocations)
		}
	}
	if !slices.IsSorted(s.Domains()) || len(s.Domains()) != 5 {
		t.Error(s.Domains())
	}
}
