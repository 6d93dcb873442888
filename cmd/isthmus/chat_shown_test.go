package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"unicode"

	"github.com/isthmus-chat/isthmus/core"
)

func TestChatNames(t *testing.T) {
	for in, want := range map[string]core.UserURI{
		"alice": "mimi://a.example/u/alice", "Alice@B.example": "mimi://b.example/u/alice", "mimi://c.example/u/carol": "mimi://c.example/u/carol",
		"": "", "@": "", "a@b@c": "", "alice@": "", "a b": "", "mimi://c.example/r/room": "", "alice@a/b": "",
	} {
		got, err := parseUser(in, "a.example")
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", in, got, err, want)
		}
	}
	for in, want := range map[core.UserURI]string{
		"mimi://a.example/u/alice": "alice", "mimi://b.example/u/bob": "bob@b.example",
		"mimi://a.example/u/irc.libera/nick": "irc.libera/nick@a.example", "broken\x1b": "broken", "mimi://a.example/u/%1b[2Jx": "[2Jx",
	} {
		if got := shortUser(in, "a.example"); got != want {
			t.Errorf("%q is shown as %q, want %q", in, got, want)
		}
	}
	rooms := []chatRoom{{Room: "mimi://a.example/r/garden", Name: "Garden"}, {Room: "mimi://a.example/r/one", Name: "same"}, {Room: "mimi://b.example/r/two", Name: "Same"},
		{Room: "mimi://a.example/r/lobby", Name: "#lobby"}}
	for in, want := range map[string]core.RoomID{"garden": rooms[0].Room, "#lobby": rooms[3].Room, "lobby": rooms[3].Room, "two": rooms[2].Room,
		"mimi://x.example/r/y": "mimi://x.example/r/y", "same": "", "none": ""} {
		got, err := findRoom(in, rooms)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q is %q, %v; want %q", in, got, err, want)
		}
		if in == "same" && core.TextOf(err) != "2 rooms are called same: write the address of the one you mean: mimi://a.example/r/one or mimi://b.example/r/two" {
			t.Errorf("two rooms of one name: %v", err)
		}
	}
}

func TestChatDeviceStates(t *testing.T) {
	for want, d := range map[string]chatDevice{
		"this device": {Self: true}, "verified": {Verified: true, Linked: true}, "NOT verified": {Linked: true},
		"NOT verified, not linked to the user's others": {}, "revoked": {Revoked: true, Verified: true},
		"WARNING: two records, not linked to the user's others": {Problem: "two\nrecords", Verified: true},
	} {
		if got := d.state(); got != want {
			t.Errorf("%+v is %q, want %q", d, got, want)
		}
	}
}

// harmless reports whether a terminal obeys nothing in s, line breaks aside.
func harmless(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r != '\n' && unicode.IsControl(r) || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	})
}

// Whatever somebody says, the screen and the JSON are safe, and the JSON is
// still what was said.
func FuzzChatScreen(f *testing.F) {
	f.Add("hello")
	f.Add("\x1b[2J\x1b]0;owned\x07 \u009b31m \u202e \r\n\t\x7f\xff\U000e0041")
	f.Fuzz(func(t *testing.T, s string) {
		for _, l := range screenLines(s) {
			if !harmless(l) || strings.Contains(l, "\n") {
				t.Fatalf("%q is shown as %q", s, l)
			}
		}
		if l := screenLine(s); !harmless(l) || strings.Contains(l, "\n") {
			t.Fatalf("%q is shown as %q", s, l)
		}
		var b bytes.Buffer
		if err := writeJSONLine(&b, chatLine{Text: s}); err != nil {
			t.Fatal(err)
		}
		if !harmless(b.String()) || strings.Count(b.String(), "\n") != 1 {
			t.Fatalf("%q became %q", s, b.String())
		}
		var back chatLine
		if err := json.Unmarshal(b.Bytes(), &back); err != nil || back.Text != strings.ToValidUTF8(back.Text, "") {
			t.Fatalf("%q came back as %q: %v", s, back.Text, err)
		}
		want, _ := json.Marshal(s)
		var plain string
		if json.Unmarshal(want, &plain); plain != back.Text {
			t.Fatalf("%q came back as %q", plain, back.Text)
		}
	})
}
