package policy

import (
	"bytes"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// Whatever is read is written as it was, by every parser.
func FuzzParse(f *testing.F) {
	for _, c := range Components() {
		f.Add(uint16(c), samples()[c])
	}
	f.Fuzz(func(t *testing.T, c uint16, b []byte) {
		if again, err := recode(mls.ComponentID(c), b); err == nil && !bytes.Equal(again, b) {
			t.Errorf("component %#x: %x became %x", c, b, again)
		}
	})
}

func FuzzParticipantUpdate(f *testing.F) {
	f.Add(ParticipantUpdate{[]RoleChange{{1, 3}}, []uint32{2}, []Participant{{user(9), 2}}}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := ParseParticipantUpdate(b); err == nil && !bytes.Equal(u.AppendTo(nil), b) {
			t.Errorf("%x became %x", b, u.AppendTo(nil))
		}
	})
}

func FuzzJoinLinksUpdate(f *testing.F) {
	f.Add(JoinLinksUpdate{[]uint32{1}, []string{"x"}}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := ParseJoinLinksUpdate(b); err == nil && !bytes.Equal(u.AppendTo(nil), b) {
			t.Errorf("%x became %x", b, u.AppendTo(nil))
		}
	})
}

// What Component makes of well-formed data is well formed, and the state that
// follows is the one read anew.
func FuzzComponent(f *testing.F) {
	for c, b := range samples() {
		f.Add(uint16(c), b, b, []byte{})
	}
	list := ParticipantList{{user(0), 7}, {user(1), 2}, {user(2), 2}}.AppendTo(nil)
	f.Add(uint16(ComponentParticipants), list, ParticipantUpdate{nil, []uint32{2}, []Participant{{user(3), 2}}}.AppendTo(nil), ParticipantUpdate{Changed: []RoleChange{{1, 3}}}.AppendTo(nil))
	f.Add(uint16(ComponentJoinLinks), []byte{2, 1, 'x'}, []byte{4, 0, 0, 0, 0, 2, 1, 'y'}, []byte{0, 2, 1, 'z'})
	f.Fuzz(func(t *testing.T, id uint16, current, first, second []byte) {
		c := mls.ComponentID(id)
		if _, err := recode(c, current); err != nil {
			return
		}
		updates := [][]byte{first}
		if len(second) > 0 {
			updates = append(updates, second)
		}
		out, err := Component(c, current, true, updates)
		if err != nil {
			return
		}
		if _, err := recode(c, out); err != nil && c != ComponentParticipants {
			t.Fatalf("component %#x: %x became %x: %v", c, current, out, err)
		}
		before := roomOf(3).With(c, current)
		s, err := ParseState(before)
		if err != nil {
			return
		}
		after := before.With(c, out)
		got, gotErr := s.Next(after, []mls.ComponentID{c})
		want, wantErr := ParseState(after)
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("Next says %v, ParseState says %v", gotErr, wantErr)
		}
		if wantErr == nil {
			same(t, got, want)
		}
	})
}

// Octets that take the place of a list are found to be different where they are.
func FuzzNext(f *testing.F) {
	a := ParticipantList{{user(0), 7}, {user(1), 2}, {user(2), 2}}.AppendTo(nil)
	f.Add(a, ParticipantList{{user(0), 7}, {user(2), 2}}.AppendTo(nil))
	f.Add(a, ParticipantList{{user(0), 7}, {user(4), 2}, {user(1), 3}, {user(2), 2}}.AppendTo(nil))
	f.Add(a, []byte{5, 0, 0, 0, 0, 2}) // a name of no octets
	f.Add(a, ParticipantList{{user(2), 7}, {user(1), 2}, {user(0), 7}, {user(1), 2}}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		dict := roomOf(1)
		s, err := ParseState(dict.With(ComponentParticipants, first))
		if err != nil {
			return
		}
		dict = dict.With(ComponentParticipants, second)
		got, gotErr := s.Next(dict, []mls.ComponentID{ComponentParticipants})
		want, wantErr := ParseState(dict)
		if (gotErr == nil) != (wantErr == nil) {
			t.Fatalf("Next says %v, ParseState says %v", gotErr, wantErr)
		}
		if wantErr == nil {
			same(t, got, want)
		}
	})
}

// Check answers whatever the proposals are, and a proposal that is allowed in a
// commit is allowed alone.
func FuzzCheck(f *testing.F) {
	s, err := ParseState(roomOf(4))
	if err != nil {
		f.Fatal(err)
	}
	for c, b := range samples() {
		f.Add(uint16(c), b, uint8(0), true)
	}
	f.Add(uint16(ComponentParticipants), SetRole(s, RoleVoice, user(2)), uint8(0), false)
	f.Add(uint16(ComponentParticipants), Invite(s, []string{user(9)}, RoleMember), uint8(1), false)
	f.Fuzz(func(t *testing.T, id uint16, update []byte, by uint8, external bool) {
		p := Proposed{By: user(int(by % 6)), Components: []ComponentUpdate{{ID: mls.ComponentID(id), Update: update}}}
		c := Change{Before: s, After: s, Actor: p.By, External: external, Proposals: []Proposed{p}, ClientsAfter: func(string) int { return 0 }, Members: func() int { return 0 }}
		if c.Check() == nil && CheckProposal(s, &p) != nil && p.Components[0].ID != ComponentAuthority {
			t.Error("a commit may have a proposal that its author may not propose")
		}
	})
}
