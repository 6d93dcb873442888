package main

import (
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/policy"
)

// Every kind of message is a line that says what it is.
func TestChatLines(t *testing.T) {
	content := func(change func(*converter.Content)) []byte {
		c := converter.Text("hello\x1b[2J", "", []byte("seed"))
		change(&c)
		return c.Append(nil)
	}
	mimi := func(change func(*converter.Content)) client.Message {
		return client.Message{Room: chatGarden, Seq: 5, ID: "id", Sender: chatBob, Device: chatPhone, Type: core.ContentMIMI, Content: content(change), Accepted: 1000, Epoch: 3}
	}
	reaction, err := converter.NewReaction(converter.ID{1}, "👍", [16]byte{})
	if err != nil {
		t.Fatal(err)
	}
	for want, m := range map[string]client.Message{
		"said: hello[2J":                         mimi(func(*converter.Content) {}),
		"emote: hello[2J":                        mimi(func(c *converter.Content) { c.Kind = converter.KindEmote }),
		"notice: hello[2J":                       mimi(func(c *converter.Content) { c.Kind = converter.KindNotice }),
		"said: (edited) hello[2J":                mimi(func(c *converter.Content) { c.Replaces = converter.ID{1} }),
		"event: bob@b.example deleted a message": mimi(func(c *converter.Content) { c.Replaces, c.Part = converter.ID{1}, converter.Part{} }),
		"reaction: 👍":                            mimi(func(c *converter.Content) { *c = reaction }),
		"event: (deleted)":                       {Deleted: true, Seq: 5},
		"warning: a message of bob@b.example cannot be read on this device: no key": {Failed: "no key", Seq: 5, Sender: chatBob},
		"said: [application/x]": {Type: "application/x", Content: []byte{1}, Seq: 5},
		"said: plain":           {Type: "text/plain", Content: []byte("plain"), Seq: 5},
		"event: bob joined":     {Type: core.ContentControl, Text: "bob joined", Seq: 5},
		"warning: a message that cannot be understood: MIMI content: not an array of 9": {Type: core.ContentMIMI, Content: []byte{1}, Seq: 5},
	} {
		l, ok := lineOf(&m, func(*client.Message) bool { return true })
		got := l.Kind + ": " + l.Text
		if strings.HasPrefix(want, "warning: a message that cannot be understood") {
			got, want = got[:min(len(got), 44)], want[:44] // the rest is the converter's
		}
		if !ok || got != want || l.Seq != 5 || l.Verified == (l.Kind == chatWarning) {
			t.Errorf("%+v\nis %q, want %q (%+v)", m, got, want, l)
		}
	}
	if _, ok := lineOf(&client.Message{Type: core.ContentControl}, nil); ok {
		t.Error("a change that says nothing is a line")
	}
	l, _ := lineOf(&client.Message{Waiting: true, Text: "x", Sent: 2000}, func(*client.Message) bool { return false })
	if l.Seq != math.MaxUint64 || !l.Waiting || l.At.UnixMilli() != 2000 || !strings.HasSuffix(lineText(l, ""), "x (not sent yet)") {
		t.Errorf("what waits is %+v", l)
	}
}

// Whom a bridge relays is shown as people know them, and never as a user of a homeserver.
func TestChatRelayedLines(t *testing.T) {
	guest := core.NewUserURI("a.example", "guest", "abcd2345")
	for want, m := range map[string]client.Message{
		"[irc guest] dave[2J: hi":                  {Sender: guest, Name: "dave\x1b[2J", Type: "text/plain", Content: []byte("hi")},
		"[irc guest] alice_a.example_ hello _: hi": {Sender: guest, Name: "alice@a.example: hello \u202e:", Type: "text/plain", Content: []byte("hi")},
		"[irc guest] abcd2345: hi":                 {Sender: guest, Type: "text/plain", Content: []byte("hi")},
		"alice: hi":                                {Sender: chatAlice, Name: "bob@b.example", Type: "text/plain", Content: []byte("hi")},
		"[irc] dave@b.example: hi":                 {Sender: core.NewUserURI("b.example", "irc", "dave"), Type: "text/plain", Content: []byte("hi")},
	} {
		l, _ := lineOf(&m, func(*client.Message) bool { return false })
		if got := lineText(l, "a.example"); got != want {
			t.Errorf("%s called %q is %q, want %q", m.Sender, m.Name, got, want)
		}
	}
}

// Every update of package client is said in words, or known to need none.
func TestChatUpdates(t *testing.T) {
	for k := client.NewMessage; k <= client.Typing; k++ {
		u := client.Update{Kind: k, Room: chatGarden, User: chatBob, Device: chatPhone, Text: "because\x1b[2J\n"}
		text := updateText(&u, "b.example")
		silent := k == client.NewMessage || k == client.NewLetter || k == client.Typing
		if (text == "") != silent || !harmless(text) || strings.Contains(text, "\n") {
			t.Errorf("update %d is %q", k, text)
		}
		if u.Warning() && !strings.Contains(text, "because") {
			t.Errorf("warning %d hides why: %q", k, text)
		}
	}
	for kind, want := range map[string]string{client.LetterInvitation: "bob invites you to a room: /accept bob enters it, /letters shows what came",
		client.LetterConsent: "bob: hi there",
		client.LetterKnock:   "bob asks to be let into mimi://a.example/r/garden", client.LetterText: "bob: hi there"} {
		l := &client.Letter{Kind: kind, From: chatBob, Room: chatGarden, Code: "sesame", Text: "hi\nthere"}
		if got := updateText(&client.Update{Kind: client.NewLetter, Letter: l}, "b.example"); got != want {
			t.Errorf("a letter is %q, want %q", got, want)
		}
	}
	l := &client.Letter{Kind: client.LetterInvitation, From: chatBob, Room: "mimi://a.example/r/$(id)", Code: "it's; id"}
	if got, want := letterText(l, "b.example", true), `bob invites you: isthmus chat join 'mimi://a.example/r/$(id)' --code 'it'\''s; id'`; got != want {
		t.Errorf("a letter is %q in a shell, want %q", got, want)
	}
	if got := domainName([]byte{0xff, 0x01}) + domainName([]byte("mimi://a.example/g/x")); got != "ff01mimi://a.example/g/x" {
		t.Errorf("security domains: %s", got)
	}
	asks := &client.Letter{Kind: client.LetterConsent, From: chatBob, Text: "request"}
	if got := updateText(&client.Update{Kind: client.NewLetter, Letter: asks}, "b.example"); got != "bob asks to be let add you to rooms: /consent mimi://b.example/u/bob yes" {
		t.Errorf("who asks for consent is shown as %q", got)
	}
}

// What was read is remembered, sealed, and what comes is counted once.
func TestChatMarks(t *testing.T) {
	p := &chatProfile{User: chatAlice, Server: "http://127.0.0.1:9", dir: filepath.Join(t.TempDir(), "alice")}
	secret := client.Secret{Key: make([]byte, 32)}
	s, err := openSession(t.Context(), p, secret, 0)
	if err != nil {
		t.Fatal(err)
	}
	var n chatNews
	no := func(*client.Message) bool { return false }
	for seq := range uint64(3) {
		s.tell(&n, &client.Update{Kind: client.NewMessage, Room: chatGarden, Message: &client.Message{Room: chatGarden, Seq: seq + 1, Type: "text/plain", Content: []byte("x"), Own: seq == 1}}, no)
	}
	s.tell(&n, &client.Update{Kind: client.MemberIn, Room: chatGarden, User: chatBob}, no)
	s.tell(&n, &client.Update{Kind: client.RoomLeft, Room: chatGarden}, no)
	s.tell(&n, &client.Update{Kind: client.Alarm, Text: "look out"}, no)
	if len(n.Lines) != 5 || !n.Changed || strings.Join(n.Warnings, "|") != "garden: you are in this room no more|look out" {
		t.Errorf("news: %+v", n)
	}
	if l := n.Lines[3]; l.Seq != 3 || l.Kind != chatEvent || l.Text != "bob@b.example came in" || time.Since(l.At) > time.Minute {
		t.Errorf("an event: %+v", l)
	}
	s.tell(&n, &client.Update{Kind: client.MemberIn, Room: chatGarden, User: chatBob, Seq: 9}, no)
	if l := n.Lines[len(n.Lines)-1]; l.Seq != 9 {
		t.Errorf("an event with a place stands elsewhere: %+v", l)
	}
	if m := s.marks[chatGarden]; m.Unread != 2 || m.Last != 3 {
		t.Errorf("mark: %+v", m)
	}
	if err := s.Read(chatGarden, 3); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openSession(t.Context(), p, secret, 0); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if m := s.marks[chatGarden]; m == nil || m.Unread != 0 || m.Read != 3 || m.Last != 3 {
		t.Errorf("mark after opening again: %+v", m)
	}
	if err := s.Sync(t.Context()); core.CodeOf(err) != core.Unavailable {
		t.Errorf("nobody listens there: %v", err)
	}
}

// Whom an invitation did not reach is said with the reason, and a refusal in a
// member's words.
func TestChatInWords(t *testing.T) {
	claims := []chatClaim{{User: chatBob, Status: claimPresent}, {User: chatAlice, Status: string(core.NoConsent), Letter: true}}
	if got := invitedText(claims, "a.example"); got != "In the room already: bob@b.example. Not let in: alice (they want to be asked first; a letter invites them)." || allReached(claims) != nil {
		t.Errorf("it says %q", got)
	}
	for _, status := range []core.ClaimStatus{core.Exhausted, core.Incompatible, core.UserUnknown, core.UserDeleted, core.Unreachable, core.AskAgain, ""} {
		c := chatClaim{User: chatBob, Status: string(status)}
		if why := c.why(); len(why) < 20 || allReached([]chatClaim{c}) != errSaid {
			t.Errorf("%s is said as %q", status, why)
		}
	}
	refused := core.Errorf(core.Denied, "not now: %w", &policy.Violation{Capability: policy.CanRemoveParticipant, Text: "no"})
	err := saidToMember(refused)
	if core.CodeOf(err) != core.Denied || !strings.HasPrefix(explain(err), "only operators of this room may remove others") {
		t.Errorf("a refusal is said as %v", err)
	}
	if other := core.Errorf(core.NotFound, "no room"); saidToMember(other) != other || saidToMember(nil) != nil {
		t.Error("what is no refusal of the policy is changed")
	}
}
