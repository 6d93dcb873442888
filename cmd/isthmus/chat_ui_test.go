package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/lipgloss"

	"github.com/isthmus-chat/isthmus/core"
)

// A uiRig drives a model as Bubble Tea would, without a terminal.
type uiRig struct {
	t    *testing.T
	chat *fakeChat
	ui   *chatUI
}

func newUIRig(t *testing.T) *uiRig {
	chat := newFakeChat()
	r := &uiRig{t, chat, newChatUI(t.Context(), chat, newUIStyle(new(bytes.Buffer), nil))}
	r.run(r.ui.loadRooms())
	r.update(uiNews{})
	return r
}

func (r *uiRig) update(m tea.Msg) {
	r.t.Helper()
	_, cmd := r.ui.Update(m)
	r.run(cmd)
	r.check()
}

// run performs commands until none is left.
func (r *uiRig) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	switch m := cmd().(type) {
	case nil:
	case tea.BatchMsg:
		for _, c := range m {
			r.run(c)
		}
	case tea.QuitMsg:
		r.chat.act("quit")
	default:
		if !strings.Contains(fmt.Sprintf("%T", m), "cursor") { // it blinks for ever
			r.update(m)
		}
	}
}

// check holds for every screen: its size, and that nothing in it is obeyed.
func (r *uiRig) check() {
	r.t.Helper()
	v := r.ui.View()
	lines := strings.Split(v, "\n")
	if len(lines) != max(r.ui.height, uiFrame+1) {
		r.t.Errorf("%d lines on a screen of %d:\n%s", len(lines), r.ui.height, v)
	}
	for _, l := range lines {
		if n := lipgloss.Width(l); n > max(r.ui.width, uiMinWidth) {
			r.t.Errorf("%d columns on a screen of %d: %q", n, r.ui.width, l)
		}
	}
	if !harmless(v) {
		r.t.Errorf("a control character on the screen: %q", v)
	}
}

func (r *uiRig) types(text string) {
	r.t.Helper()
	r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(text)})
	r.update(tea.KeyMsg{Type: tea.KeyEnter})
}

func (r *uiRig) key(k tea.KeyType) { r.t.Helper(); r.update(tea.KeyMsg{Type: k}) }

func (r *uiRig) sees(want ...string) {
	r.t.Helper()
	v := r.ui.View()
	for _, w := range want {
		if !strings.Contains(v, w) {
			r.t.Errorf("no %q in\n%s", w, v)
		}
	}
}

func (r *uiRig) seesNot(not ...string) {
	r.t.Helper()
	v := r.ui.View()
	for _, w := range not {
		if strings.Contains(v, w) {
			r.t.Errorf("%q in\n%s", w, v)
		}
	}
}

func (r *uiRig) did(want string) {
	r.t.Helper()
	if !slices.Contains(r.chat.did, want) {
		r.t.Errorf("never did %q; did %q", want, r.chat.did)
	}
}

// The two kinds of rooms differ in words, without any colour, in the list, over
// the history, and before what one types.
func TestChatUIRooms(t *testing.T) {
	r := newUIRig(t)
	r.sees("alice@a.example", "connected", "> OPEN #lobby", "  e2ee garden", "[!] NOT ENCRYPTED", "servers can read", "NOT ENCRYPTED> ", "15:04 alice: one", "-- bob joined", "Wednesday, 2 January 2030")
	r.seesNot("encrypted> e", "END-TO-END")
	r.key(tea.KeyCtrlN)
	r.sees("> e2ee garden", "[#] END-TO-END ENCRYPTED  2 devices unverified", "epoch 5 by 2 homeservers, domain a.example/g/garden", "encrypted> ", "15:04 bob@b.example: hello", "15:06 bob@b.example: two", "        lines")
	r.seesNot("[!]", "NOT ENCRYPTED")
	r.key(tea.KeyCtrlP)
	r.sees("> OPEN #lobby")
	r.types("/room garden")
	r.sees("> e2ee garden")
	r.types("/info")
	r.sees("Security domain: mimi://a.example/g/garden", "Epoch 5", "  b.example")
	r.key(tea.KeyEsc)
	r.key(tea.KeyCtrlP)
	r.types("/info")
	r.sees("NOT encrypted:", "Security domain: none")
	r.types("/room garden")
	r.types("/room nowhere")
	r.sees("! you are in no room nowhere")
	r.update(tea.WindowSizeMsg{Width: 40, Height: 10}) // no place for the list
	r.sees("END-TO-END", "lines")
	r.seesNot("> e2ee garden", "hello")
	for _, size := range [][2]int{{1, 1}, {20, 8}, {59, 24}, {60, 3}, {300, 100}} {
		r.update(tea.WindowSizeMsg{Width: size[0], Height: size[1]})
	}
}

// What is new comes in, is counted until it was seen, and Tab leads to it.
func TestChatUINews(t *testing.T) {
	r := newUIRig(t)
	rooms, _ := r.chat.Rooms()
	rooms[1].Unread, rooms[1].Last = 12, 9
	r.chat.rooms[1].Unread = 12
	r.update(uiNews{Lines: []chatLine{{Room: chatGarden, Seq: 9, Sender: chatBob, Kind: chatSaid, Text: "news", Verified: true}}, Rooms: rooms, Changed: true, Status: "reconnecting"})
	r.sees("garden     *12", "! reconnecting")
	r.key(tea.KeyTab)
	r.sees("> e2ee garden", "bob@b.example ✓: news", "! reconnecting")
	r.seesNot("*12")
	if r.chat.read[chatGarden] != 9 {
		t.Errorf("read up to %d", r.chat.read[chatGarden])
	}
	r.update(uiNews{Warnings: []string{"first warning"}})
	r.update(uiNews{Warnings: []string{"second warning", "first warning"}})
	r.sees("! first warning (Esc: 1 more)", "connected")
	r.key(tea.KeyEsc)
	r.sees("! second warning")
	r.key(tea.KeyEsc)
	r.seesNot("warning")
	// A room that we were taken out of is shown no more, and what was meant for it is
	// said nowhere else.
	r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("a secret")})
	r.update(uiNews{Rooms: rooms[:1], Changed: true})
	r.sees("! You are no longer in garden.", "  OPEN #lobby")
	r.seesNot("> OPEN #lobby", "a secret", "NOT ENCRYPTED")
	r.key(tea.KeyEnter)
	r.key(tea.KeyCtrlN)
	r.sees("> OPEN #lobby", "NOT ENCRYPTED> ")
	r.seesNot("a secret")
	r.key(tea.KeyEnter)
	for _, did := range r.chat.did {
		if strings.HasPrefix(did, "send") {
			t.Errorf("did %s", did)
		}
	}
}

// What is typed stays with its room, also what failed there.
func TestChatUIDrafts(t *testing.T) {
	r := newUIRig(t)
	text := func(s string) { r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(s)}) }
	text("for the lobby")
	r.key(tea.KeyCtrlN)
	text("for the garden")
	r.sees("encrypted> for the garden")
	r.seesNot("for the lobby")
	r.update(uiDone{typed: "said before", room: chatLobby, err: core.Errorf(core.Denied, "no")}) // an older draft stays
	r.key(tea.KeyCtrlP)
	r.sees("NOT ENCRYPTED> for the lobby")
	r.key(tea.KeyCtrlU)
	r.update(uiDone{typed: "said in the garden", room: chatGarden, err: core.Errorf(core.Denied, "no")})
	r.seesNot("said in the garden", "for the garden")
	r.key(tea.KeyCtrlN)
	r.sees("encrypted> for the garden")
}

// What comes back late takes no line for another room, and no letter for an answer.
func TestChatUIWhileOneWrites(t *testing.T) {
	r := newUIRig(t)
	r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("for the lob")})
	r.update(uiDone{said: "Made it.", open: chatGarden})
	r.update(uiShow{panel: r.ui.wordsPanel(chatPhone, "bob", []string{"apple"})})
	r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("by")})
	r.sees("NOT ENCRYPTED> for the lobby", "You were asked something")
	r.seesNot("Safety words")
	r.key(tea.KeyCtrlU)
	r.update(uiDone{said: "Made it.", open: chatGarden})
	if r.ui.open != chatGarden {
		t.Error("nobody writes, and the new room is not shown")
	}
}

// A word that arrives in one go, as over a slow line, is not the key of that name.
func TestChatUIWordsAreNotKeys(t *testing.T) {
	r := newUIRig(t)
	for _, w := range []string{"go", " ", "home", " ", "down", " ", "tab", " ", "enter", " ", "esc"} {
		r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(w)})
	}
	r.sees("> go home down tab enter esc")
}

func TestChatUISend(t *testing.T) {
	r := newUIRig(t)
	r.types("hello all")
	r.did(`send mimi://a.example/r/lobby ["hello all"]`)
	r.sees("alice: hello all")
	r.types("//shrug")
	r.did(`send mimi://a.example/r/lobby ["/shrug"]`)
	r.types("/me waves")
	r.did(`send mimi://a.example/r/lobby emote["waves"]`)
	r.types("refused")
	r.sees("! not that", "NOT ENCRYPTED> refused")
	r.ui.input.Reset()
	r.chat.fail = core.Errorf(core.Unavailable, "the homeserver does not answer")
	r.types("again please")
	r.sees("! the homeserver does not answer", "> again please")
	r.ui.input.Reset()
	r.types("   ")
	r.types("/nonsense")
	r.sees("> /nonsense")
	if n := len(r.chat.did); n != 5 {
		t.Errorf("did %q", r.chat.did)
	}
}

func TestChatUICommands(t *testing.T) {
	r := newUIRig(t)
	for line, want := range map[string]string{
		"/create party bob@b.example":     "create party channel=false [mimi://b.example/u/bob]",
		"/channel plaza":                  "create plaza channel=true []",
		"/join mimi://b.example/r/x code": "join mimi://b.example/r/x code",
		"/join #Market":                   "join mimi://a.example/r/market ",
	} {
		r.types(line)
		r.did(want)
	}
	r.types("/room garden")
	r.types("/invite bob@b.example carol")
	r.did("invite mimi://a.example/r/garden [mimi://b.example/u/bob mimi://a.example/u/carol]")
	r.sees("! Invited bob@b.example. Not let in: carol (their devices have no keys left")
	r.types("/remove carol")
	r.did("remove mimi://a.example/r/garden [mimi://a.example/u/carol]")
	r.types("/code 3")
	r.did("code mimi://a.example/r/garden 3")
	r.sees("opensesame", "Esc closes")
	r.key(tea.KeyEsc)
	r.seesNot("opensesame")
	for line, want := range map[string]string{"/invite": "Write /invite USER…", "/code x": "takes a number", "/invite a@b@c": "is not a user", "/nosuch": "There is no /nosuch", "/verify": "Write /verify"} {
		r.ui.note, r.ui.notes = uiNote{}, nil
		r.types(line)
		r.sees("! ", want)
		r.ui.input.Reset()
	}
	r.types("/members")
	r.sees("In garden: 2", "alice  owner", "[this device] laptop", "bob@b.example  member", "[NOT verified] phone[31m")
	r.key(tea.KeyEsc)
	r.types("/leave")
	r.sees("Leave garden?")
	r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("n")})
	r.sees("Nothing was changed")
	r.types("/leave")
	r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("y")})
	r.did("leave mimi://a.example/r/garden")
	r.types("/help")
	r.sees("/letters", "… PgDn")
	r.seesNot("/quit", "e2ee garden") // a panel has the whole width
	for _, c := range uiCommands() {
		if c.name != "quit" && c.name != "help" && c.help == "" || c.run == nil {
			t.Errorf("/%s does nothing that help tells", c.name)
		}
	}
	r.key(tea.KeyPgDown)
	r.sees("/verify USER|DEVICE", "compare safety words", "/quit")
	r.key(tea.KeyUp)
	r.key(tea.KeyPgUp)
	r.key(tea.KeyDown)
	r.seesNot("/create", "/quit")
	r.key(tea.KeyEsc)
	r.types("/quit")
	r.did("quit")
	r.key(tea.KeyCtrlC)
}

// What an action came to goes with the next key or a later message; an error stays
// until one goes on, an alarm until Esc. None is cut if there is place.
func TestChatUINotes(t *testing.T) {
	r := newUIRig(t)
	now := time.Unix(1000, 0)
	r.ui.now = func() time.Time { return now }
	said := uiNews{Lines: []chatLine{{Room: chatGarden, Seq: 9, Sender: chatBob, Kind: chatSaid, Text: "news"}}}
	r.ui.say("Done.")
	r.update(said)
	r.sees("Done.") // it was not read yet
	now = now.Add(uiNoteAt)
	r.update(said)
	r.seesNot("Done.")
	r.ui.say("Done.")
	now = now.Add(uiNoteAt)
	r.update(uiNews{})
	r.seesNot("Done.")
	r.ui.say("Done.")
	r.key(tea.KeyLeft)
	r.seesNot("Done.")
	r.ui.warn("that did not work " + strings.Repeat("because of this ", 14) + "end")
	r.sees("because of this end")
	r.key(tea.KeyLeft)
	r.update(said)
	r.sees("! that did not work")
	r.types("going on")
	r.seesNot("that did not work")
	r.ui.warn("again")
	r.key(tea.KeyEsc)
	r.seesNot("again")
	r.update(uiNews{Warnings: []string{"look out"}})
	r.types("still here")
	r.key(tea.KeyLeft)
	r.sees("! look out (Esc)")
	r.update(tea.WindowSizeMsg{Width: 30, Height: 9})
	r.ui.warn(strings.Repeat("much ", 100))
	r.types("/rooms")
	r.ui.warn(strings.Repeat("much ", 100))
	r.sees("Your rooms: 2", "#lobby", "… PgDn")
	r.seesNot("no security domain")
	r.key(tea.KeyEsc)
	r.sees("no security domain")
	r.sees("…", "NOT ENCRYPTED>")
	r.key(tea.KeyEsc)
	r.key(tea.KeyEsc)
	r.seesNot("much", "look out")
}

// Lines that are pasted are one message, with its line breaks.
func TestChatUIPaste(t *testing.T) {
	r := newUIRig(t)
	r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("one\r\ntwo\n\tthree"), Paste: true})
	r.sees("> one↵two↵    three")
	r.update(tea.KeyMsg{Type: tea.KeyEnter, Alt: true})
	r.types("four↵")
	r.did(`send mimi://a.example/r/lobby ["one\ntwo\n    three\nfour"]`)
}

// A device is verified by yes to the words, and by nothing else.
func TestChatUIVerify(t *testing.T) {
	r := newUIRig(t)
	r.types("/verify bob@b.example")
	r.sees("Safety words with bob@b.example", "apple  river  stone  lamp", "cloud  paper  night  glove", "[y] they are the same")
	r.key(tea.KeyEnter)
	r.seesNot("Safety words")
	r.types("/devices bob@b.example")
	r.sees("[NOT verified] phone[31m")
	r.key(tea.KeyEsc)
	r.types("/verify " + string(chatPhone))
	r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("y")})
	r.did("verify " + string(chatPhone))
	r.sees("Verified ")
	r.types("/devices bob@b.example")
	r.sees("[verified] phone[31m")
	r.key(tea.KeyEsc)
	r.chat.verified[chatPhone] = false
	r.update(tea.WindowSizeMsg{Width: 40, Height: 10})
	r.types("/verify bob@b.example")
	yes := tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("y")}
	r.sees("PgDn: read all of it") // the words do not all fit
	r.update(yes)
	if r.chat.verified[chatPhone] {
		t.Error("verified by words that were not shown")
	}
	for range 10 {
		r.key(tea.KeyPgDown)
	}
	r.sees("y: yes")
	r.update(yes)
	r.sees("Verified ")
	r.types("/verify bob@b.example")
	r.sees("bob@b.example has no device that", "  waits to be verified")
}

// Long histories scroll, and what is older is asked for at the top.
func TestChatUIScroll(t *testing.T) {
	r := newUIRig(t)
	r.chat.lines[chatGarden] = nil
	for i := range 3 * uiPage {
		r.chat.lines[chatGarden] = append(r.chat.lines[chatGarden], chatLine{Room: chatGarden, Seq: uint64(i + 1), Sender: chatBob, Kind: chatSaid, Text: fmt.Sprint("line ", i+1, "."), At: time.Unix(int64(i), 0)})
	}
	r.types("/room garden")
	r.sees("line 600.")
	r.key(tea.KeyPgUp)
	r.seesNot("line 600.")
	r.sees("lines below")
	for range 60 {
		r.key(tea.KeyPgUp)
	}
	r.sees("line 1.")
	r.key(tea.KeyEsc)
	r.sees("line 600.")
	r.key(tea.KeyPgUp)
	above := strings.Split(r.ui.View(), "\n")[3:8]
	r.update(uiNews{Lines: []chatLine{{Room: chatGarden, Seq: 601, Sender: chatBob, Kind: chatSaid, Text: "one\nmore", At: time.Unix(600, 0)}}})
	if now := strings.Split(r.ui.View(), "\n")[3:8]; !slices.Equal(now, above) {
		t.Errorf("what comes moves what is read:\n%s\n\n%s", strings.Join(above, "\n"), strings.Join(now, "\n"))
	}
	r.key(tea.KeyEsc)
	r.sees("        more")
	var many []chatLine
	for i := range 2 * uiKept {
		many = append(many, chatLine{Room: chatGarden, Seq: uint64(1000 + i), Sender: chatBob, Kind: chatSaid, Text: "x"})
	}
	r.update(uiNews{Lines: many})
	if n := len(r.ui.lines[chatGarden]); n != uiKept {
		t.Errorf("%d lines are kept", n)
	}
	r.ui.merge(chatGarden, r.ui.lines[chatGarden][:10])
	if n := len(r.ui.lines[chatGarden]); n != uiKept {
		t.Errorf("what comes twice is there twice: %d", n)
	}
}

// NO_COLOR is obeyed; a terminal otherwise gets colours.
func TestChatUIColours(t *testing.T) {
	for env, colours := range map[string]bool{"NO_COLOR=1": false, "CLICOLOR_FORCE=1": true} {
		u := newChatUI(t.Context(), newFakeChat(), newUIStyle(new(bytes.Buffer), []string{"TERM=xterm-256color", env}))
		u.rooms, u.open = u.chat.(*fakeChat).rooms, chatGarden
		if got := strings.Contains(u.View(), "\x1b[32m"); got != colours {
			t.Errorf("%s: colours %v\n%q", env, got, u.View())
		}
	}
}

// Whatever others say and are called, the screen keeps its size and obeys none
// of it.
func FuzzChatUI(f *testing.F) {
	f.Add("hello", "room", 80, 24)
	f.Add("0", "0", 61, -71)
	f.Add("\x1b[2J\x1b]0;x\x07 \u009b31m \u202e\r\n\t\xff", "na\x1bme", 30, 9)
	f.Add(strings.Repeat("👨‍👩‍👧 wide 漢字 ", 40), "漢字漢字漢字漢字漢字漢字", 61, 12)
	f.Fuzz(func(t *testing.T, text, name string, w, h int) {
		chat := newFakeChat()
		u := newChatUI(t.Context(), chat, newUIStyle(new(bytes.Buffer), nil))
		r := &uiRig{t, chat, u}
		r.update(tea.WindowSizeMsg{Width: min(max(w, 0), 400), Height: min(max(h, 0), 100)})
		rooms := []chatRoom{{Room: chatGarden, Name: name, Encrypted: true, Domain: text, Authority: []string{name, text}, Warnings: []string{text}}}
		r.update(uiNews{Rooms: rooms, Changed: true, Status: name, Lines: []chatLine{
			{Room: chatGarden, Seq: 10, Sender: core.UserURI(name), Kind: chatSaid, Text: text, Verified: true}, {Room: chatGarden, Seq: 11, Sender: chatBob, Kind: chatWarning, Text: name}}})
		r.update(uiShow{panel: &uiPanel{title: screenLine(name), lines: screenLines(text)}})
		r.update(uiShow{panel: u.wordsPanel(core.DeviceURI(name), text, []string{text})})
	})
}
