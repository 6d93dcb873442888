package core

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestURIs(t *testing.T) {
	r := NewRoomID("A.Example", "x/y z#é")
	if got, err := ParseRoomID(string(r)); err != nil || got.Local() != "x/y z#é" || got.Domain() != "a.example" {
		t.Fatalf("%q: %v, %q at %q", r, err, got.Local(), got.Domain())
	}
	u := NewUserURI("a.example", "irc.libera", "ni[ck")
	if got, err := ParseUserURI(string(u)); err != nil || got.Local() != "ni[ck" || len(got.Path()) != 2 {
		t.Fatalf("%q: %v", u, err)
	}
	for _, bad := range []string{"", "mimi://", "mimi://a.example", "mimi://a.example/u/", "mimi://A.example/u/x", "http://a/u/x",
		"mimi://a.example/r/x", "mimi://a.example/u/x y", "mimi://a.example/u/x\ny", "mimi://a.example/u/\xff", "mimi:///u/x",
		"mimi://a..b/u/x", "mimi://-a/u/x", "mimi://a:b:c/u/x", "mimi://a:123456/u/x", "mimi://é.example/u/x", "mimi://a.example/u/é", "mimi://a%/u/x",
		"mimi://a.example/u/" + strings.Repeat("x", MaxURI)} {
		if _, err := ParseUserURI(bad); CodeOf(err) != Invalid {
			t.Errorf("%.40q was taken: %v", bad, err)
		}
	}
}

func TestEventIDText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seq := rapid.Uint64().Draw(t, "seq")
		id := NewEventID("mimi://a.example/r/x", "a.example", seq)
		got, err := ParseEventID(id.String())
		if err != nil || got != id || got.Seq() != seq || len(id.String()) != 26 {
			t.Fatalf("%v: %v", id, err)
		}
	})
	for _, bad := range []string{"", "x", strings.Repeat("A", 26), strings.Repeat("z", 26), strings.Repeat("a", 27)} {
		if _, err := ParseEventID(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestErrorsKeepCodeAndCause(t *testing.T) {
	cause := errors.New("cause")
	err := fmt.Errorf("operation: %w", Errorf(Limited, "slow down: %w", cause))
	if CodeOf(err) != Limited || !errors.Is(err, cause) || !Temporary(err) || Broken(err) {
		t.Fatalf("%v", err)
	}
	if !Broken(cause) || TextOf(cause) != "internal error" {
		t.Fatal("an unknown error must count as broken, and say nothing")
	}
	if r := ReasonOf(Refuse(Denied, Banned, "x")); r != Banned {
		t.Fatal(r)
	}
	for _, c := range Codes() {
		if c.String() == "" {
			t.Errorf("code %d has no name", c)
		}
	}
}

func TestMatchMask(t *testing.T) {
	for _, c := range []struct {
		mask, full, account string
		want                bool
	}{
		{"*!*@*", "a!b@c", "", true},
		{"A*!*@C", "alice!x@c", "", true},
		{"a?!*@*", "ab!x@c", "", true},
		{"a?!*@*", "abc!x@c", "", false},
		{"*!*@evil.*", "a!b@evil.example", "", true},
		{"*!*@evil.*", "a!b@good.example", "", false},
		{"$a:Alice", "a!b@c", "alice", true},
		{"~account:bob", "bob!b@c", "", false},
		{"$a", "a!b@c", "x", true},
		{"$a", "a!b@c", "", false},
		{"", "a!b@c", "", false},
	} {
		if got := MatchMask(c.mask, c.full, c.account); got != c.want {
			t.Errorf("MatchMask(%q, %q, %q) = %v", c.mask, c.full, c.account, got)
		}
	}
	// With backtracking into every star this one would not end before the test does.
	if MatchMask(strings.Repeat("*a", 120), strings.Repeat("a", 2000)+"b", "") {
		t.Error("a hostile mask matched")
	}
}

func TestPolicyAndRoles(t *testing.T) {
	open, strict := Policy{}, Policy{Moderated: true, InviteOnly: true, TopicLock: true}
	for r := RoleNone; r < roleEnd; r++ {
		if open.Can(r, CanSendMessage) != (r >= RoleMember) || strict.Can(r, CanSendMessage) != (r >= RoleVoice) {
			t.Errorf("%v: who may speak is wrong", r)
		}
		if open.Can(r, CanOpenJoin) != (r != RoleBanned) || strict.Can(r, CanOpenJoin) != (r > RoleMember) {
			t.Errorf("%v: who may join is wrong", r)
		}
		if strict.Can(r, CanChangeRoomSubject) != (r >= RoleHalfop) {
			t.Errorf("%v: who may set the topic is wrong", r)
		}
		for to := RoleNone; to < roleEnd; to++ {
			if MayAssign(r, RoleMember, to) && to > r {
				t.Errorf("%v may make somebody %v", r, to)
			}
			if MayAssign(r, to, RoleMember) && to > r {
				t.Errorf("%v may demote %v", r, to)
			}
		}
	}
}

// What a person is told names no file and no host of ours, however often the
// error was wrapped.
func TestErrorTextHidesTheCause(t *testing.T) {
	inner := &Error{Code: Unavailable, Text: "the database is not available now", Err: errors.New("open /srv/secret.db")}
	err := Errorf(Unavailable, "metadata: %w", fmt.Errorf("read: %w", Errorf(Internal, "key %q: %w", "k", inner)))
	if got := TextOf(err); got != `metadata: key "k": the database is not available now` {
		t.Errorf("shown: %q", got)
	}
	if !strings.Contains(err.Error(), "secret.db") || !errors.Is(err, inner) {
		t.Errorf("the log lost the cause: %v", err)
	}
}

func TestHostOf(t *testing.T) {
	for in, want := range map[string]string{"a.example": "a.example", "a.example:1": "a.example", "[::1]": "[::1]", "[::1]:443": "[::1]", "": ""} {
		if got := HostOf(in); got != want {
			t.Errorf("host of %q is %q", in, got)
		}
	}
}

// A relayed user is called as the bridge says, behind the network, and by nothing that
// could be an address.
func TestRelayedNames(t *testing.T) {
	guest := NewUserURI("a.example", "guest", "abcd2345")
	for _, c := range []struct {
		user       UserURI
		name, want string
	}{
		{guest, "dave", "[irc guest] dave"},
		{guest, " ", "[irc guest] abcd2345"},
		{NewUserURI("a.example", "matrix.m.example", "bob"), "alice@a.example: yes", "[matrix.m.example] alice_a.example_ yes"},
		{NewUserURI("a.example", "x] alice@a.example", "bob"), "two\nlines", "[x_ alice_a.example] two lines"},
		{guest, strings.Repeat("ä", 100), "[irc guest] " + strings.Repeat("ä", 48)},
		{NewUserURI("a.example", "alice"), "bob", ""},
		{"", "bob", ""},
	} {
		if got, ok := c.user.Relayed(c.name); got != c.want || ok != (c.want != "") {
			t.Errorf("%s called %q is shown as %q, want %q", c.user, c.name, got, c.want)
		}
	}
}
