package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/isthmus-chat/isthmus/mls"
	"pgregory.net/rapid"
)

// user is the URI of user n; that of every seventh has a length of two octets.
func user(n int) string {
	long := ""
	if n%7 == 3 {
		long = strings.Repeat("x", 60)
	}
	return fmt.Sprintf("mimi://%c.example/u/user%d%s", 'a'+n%5, n, long)
}

// roomOf is the dictionary of a room of n members and an owner, user 0.
func roomOf(n int) mls.AppData {
	list := ParticipantList{{user(0), RoleOwner}}
	for i := 1; i < n; i++ {
		list = append(list, Participant{user(i), RoleMember})
	}
	return Default(user(0), "a.example").With(ComponentParticipants, list.AppendTo(nil))
}

func mustParse(t testing.TB, dict mls.AppData) *State {
	t.Helper()
	s, err := ParseState(dict)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// oracle applies one update in the plainest way: protocol-06 §7.5, roles
// change, then participants go, then others come at the end.
func oracle(list ParticipantList, u ParticipantUpdate) (ParticipantList, bool) {
	out, gone, once := slices.Clone(list), map[uint32]bool{}, map[string]bool{}
	touch := func(i uint32) bool {
		if int(i) >= len(list) || once[list[i].User] {
			return false
		}
		once[list[i].User] = true
		return true
	}
	for _, c := range u.Changed {
		if !touch(c.Index) {
			return nil, false
		}
		out[c.Index].Role = c.Role
	}
	for _, i := range u.Removed {
		if !touch(i) {
			return nil, false
		}
		gone[i] = true
	}
	var left ParticipantList
	for i, p := range out {
		if !gone[uint32(i)] {
			left = append(left, p)
		}
	}
	for _, p := range u.Added {
		in := func(q Participant) bool { return q.User == p.User }
		if slices.ContainsFunc(list, in) || slices.ContainsFunc(left, in) {
			return nil, false
		}
		left = append(left, p)
	}
	return left, true
}

func drawUpdate(t *rapid.T, list ParticipantList) (u ParticipantUpdate) {
	most := len(list) // one beyond the list, at times
	for range rapid.IntRange(0, 3).Draw(t, "changes") {
		u.Changed = append(u.Changed, RoleChange{uint32(rapid.IntRange(0, most).Draw(t, "index")), rapid.Uint32Range(1, 7).Draw(t, "role")})
	}
	for range rapid.IntRange(0, 3).Draw(t, "removals") {
		u.Removed = append(u.Removed, uint32(rapid.IntRange(0, most).Draw(t, "index")))
	}
	for range rapid.IntRange(0, 3).Draw(t, "additions") {
		u.Added = append(u.Added, Participant{user(rapid.IntRange(0, 40).Draw(t, "user")), rapid.Uint32Range(1, 7).Draw(t, "role")})
	}
	return u
}

// The patch, and the state that is corrected by what changed, are those of the
// oracle and of a state that is read anew.
func TestParticipantPatches(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dict := roomOf(rapid.IntRange(1, 20).Draw(t, "users"))
		s, err := ParseState(dict)
		if err != nil {
			t.Fatal(err)
		}
		for range 8 {
			list := ParticipantList(s.Participants())
			u := drawUpdate(t, list)
			want, valid := oracle(list, u)
			current, _ := dict.Find(ComponentParticipants)
			got, err := Component(ComponentParticipants, current, true, [][]byte{u.AppendTo(nil)})
			if (err == nil) != valid {
				t.Fatalf("valid is %v, error %v", valid, err)
			}
			if !valid {
				continue
			}
			if diff := cmp.Diff(want.AppendTo(nil), got); diff != "" {
				t.Fatal(diff)
			}
			next := dict.With(ComponentParticipants, got)
			if s, err = s.Next(next, []mls.ComponentID{ComponentParticipants}); err != nil {
				t.Fatal(err)
			}
			if dict = next; len(want) == 0 {
				return
			}
			same(t, s, mustParse2(t, dict))
		}
	})
}

func mustParse2(t *rapid.T, dict mls.AppData) *State {
	s, err := ParseState(dict)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type fataler interface{ Fatalf(string, ...any) }

// same fails if a state that was corrected is not the one read anew.
func same(t fataler, got, want *State) {
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(State{}, count[uint32]{}, count[string]{}, Authority{})); diff != "" {
		t.Fatalf("a corrected state is not the one read anew: %s", diff)
	}
	for i, p := range want.list {
		if at, ok := got.IndexOf(p.User); !ok || int(at) != i {
			t.Fatalf("user %d is found at %d, %v", i, at, ok)
		}
	}
}

// Any list may follow any other: names that begin and end alike make what is
// the same in octets differ from what is the same in entries.
func TestAnyListFollowsAnyOther(t *testing.T) {
	names := rapid.SliceOfNDistinct(rapid.StringMatching(`mimi://a/u/[ab]{1,70}|mimi://a/u/(!mimi://a/u/)?0123456789012345678901`), 0, 6, rapid.ID[string])
	lists := rapid.Custom(func(t *rapid.T) mls.AppData {
		list := ParticipantList{{"mimi://a/u/a", RoleOwner}}
		for _, n := range names.Draw(t, "names") {
			if n != list[0].User {
				list = append(list, Participant{n, rapid.Uint32Range(1, 7).Draw(t, "role")})
			}
		}
		return Default("mimi://a/u/a", "a").With(ComponentParticipants, list.AppendTo(nil))
	})
	rapid.Check(t, func(t *rapid.T) {
		s := mustParse2(t, lists.Draw(t, "first"))
		dict := lists.Draw(t, "second")
		got, err := s.Next(dict, []mls.ComponentID{ComponentParticipants})
		if err != nil {
			t.Fatal(err)
		}
		same(t, got, mustParse2(t, dict))
	})
}

// A name that ends like the whole entry before it did: its length, printable,
// its name and then the same role. What is left between is no entry.
func TestSuffixWithinAnEntry(t *testing.T) {
	inner := Participant{"mimi://a/u/0123456789012345678901", RoleMember}
	outer := Participant{"mimi://a/u/!" + inner.User, RoleMember}
	if inner.appendTo(nil)[0] != '!' {
		t.Fatal("the length is not what the other name has in its midst")
	}
	owner, base := Participant{"mimi://a/u/a", RoleOwner}, Default("mimi://a/u/a", "a")
	s := mustParse(t, base.With(ComponentParticipants, ParticipantList{owner, inner}.AppendTo(nil)))
	dict := base.With(ComponentParticipants, ParticipantList{owner, outer}.AppendTo(nil))
	got, err := s.Next(dict, []mls.ComponentID{ComponentParticipants})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Participant{owner, outer}, got.Participants()); diff != "" {
		t.Error(diff)
	}
	if _, in := got.Role(inner.User); in {
		t.Error("who went is still found")
	}
}

// protocol-06 §7.5 has updates in the order of the commit and does not say to
// which list the indices of the second refer: only where that is the same.
func TestSeveralUpdates(t *testing.T) {
	list := ParticipantList{{user(0), 7}, {user(1), 2}, {user(2), 2}, {user(3), 2}}
	for _, c := range []struct {
		name    string
		updates []ParticipantUpdate
		want    ParticipantList
	}{
		{"before the one removed", []ParticipantUpdate{{Removed: []uint32{3}}, {Changed: []RoleChange{{1, 3}}}}, ParticipantList{{user(0), 7}, {user(1), 3}, {user(2), 2}}},
		{"after the one removed", []ParticipantUpdate{{Removed: []uint32{1}}, {Changed: []RoleChange{{2, 3}}}}, nil},
		{"the one removed", []ParticipantUpdate{{Removed: []uint32{1}}, {Changed: []RoleChange{{1, 3}}}}, nil},
		{"added twice", []ParticipantUpdate{{Added: []Participant{{user(9), 2}}}, {Added: []Participant{{user(9), 2}}}}, nil},
		{"the one added", []ParticipantUpdate{{Added: []Participant{{user(9), 2}}}, {Changed: []RoleChange{{4, 3}}}}, nil},
		{"removed and added", []ParticipantUpdate{{Removed: []uint32{3}}, {Added: []Participant{{user(3), 2}}}}, nil},
		{"in the order of the commit", []ParticipantUpdate{{Added: []Participant{{user(9), 2}}}, {Added: []Participant{{user(8), 2}}}},
			append(slices.Clone(list), Participant{user(9), 2}, Participant{user(8), 2})},
	} {
		var updates [][]byte
		for _, u := range c.updates {
			updates = append(updates, u.AppendTo(nil))
		}
		got, err := Component(ComponentParticipants, list.AppendTo(nil), true, updates)
		if c.want == nil {
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("%s: accepted (%v)", c.name, err)
			}
			continue
		}
		if diff := cmp.Diff(c.want.AppendTo(nil), got); diff != "" || err != nil {
			t.Errorf("%s: %v %s", c.name, err, diff)
		}
	}
}

// What a dictionary has may be nonsense: it came from somebody else.
func TestUpdatesOfNonsense(t *testing.T) {
	update := [][]byte{ParticipantUpdate{Added: []Participant{{user(9), 2}}}.AppendTo(nil)}
	for _, current := range [][]byte{{}, {1}, {1, 5}, {2, 0x40, 1}, {5, 9, 0, 0, 0, 0}, {0, 0}} {
		if _, err := Component(ComponentParticipants, current, true, update); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", current, err)
		}
	}
	dict := roomOf(2)
	s := mustParse(t, dict)
	for _, list := range [][]byte{{}, {1, 5}, {5, 0, 0, 0, 0, 2}, {0, 0}, ParticipantList{{user(0), 7}, {user(1), 2}, {user(1), 2}}.AppendTo(nil)} {
		if _, err := s.Next(dict.With(ComponentParticipants, list), []mls.ComponentID{ComponentParticipants}); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", list, err)
		}
	}
	if got, err := Component(ComponentParticipants, nil, false, update); err != nil || len(got) == 0 {
		t.Errorf("a list that begins with an update: %v", err)
	}
}

func TestParticipantBytes(t *testing.T) {
	// struct { opaque user<V>; uint32 role_index; } UserRolePair, §7.5.
	want := append([]byte{17, 12}, "mimi://a/u/x\x00\x00\x00\x02"...)
	list := ParticipantList{{"mimi://a/u/x", 2}}
	if diff := cmp.Diff(want, list.AppendTo(nil)); diff != "" {
		t.Error(diff)
	}
	u := ParticipantUpdate{[]RoleChange{{1, 3}}, []uint32{4}, nil}
	if diff := cmp.Diff([]byte{8, 0, 0, 0, 1, 0, 0, 0, 3, 4, 0, 0, 0, 4, 0}, u.AppendTo(nil)); diff != "" {
		t.Error(diff)
	}
	for name, bad := range map[string][]byte{
		"a long form of the length": append([]byte{0x40, 17}, want[1:]...),
		"the reserved form":         append([]byte{0xc0, 0, 0, 17}, want[1:]...),
		"octets after the list":     append(slices.Clone(want), 0),
		"an end too early":          want[:len(want)-1],
		"role 0":                    append([]byte{17, 12}, "mimi://a/u/x\x00\x00\x00\x00"...),
		"a room":                    append([]byte{17, 12}, "mimi://a/r/x\x00\x00\x00\x02"...),
		"capitals in the host":      append([]byte{17, 12}, "mimi://A/u/x\x00\x00\x00\x02"...),
		"a user twice":              ParticipantList{list[0], list[0]}.AppendTo(nil),
	} {
		if _, err := ParseParticipantList(bad); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
