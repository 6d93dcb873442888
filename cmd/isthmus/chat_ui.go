package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/bubbles/cursor"
	"github.com/charmbracelet/bubbles/textinput"
	tea "github.com/charmbracelet/bubbletea"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of what the terminal client holds.
const (
	uiPage   = 200             // lines asked for at a time
	uiKept   = 2000            // lines of one room in memory
	uiAction = 2 * time.Minute // what an action may take: a commit that loses races
	uiNotes  = 8               // warnings that wait to be seen
	uiNoteAt = 5 * time.Second // what an action came to is shown so long, if no key is pressed
)

// A chatUI is the terminal client's state, a Bubble Tea model: every change is an
// answer of Update to a message, so a test needs no terminal. What takes time is
// a tea.Cmd, which comes back as a message.
type chatUI struct {
	chat chatter
	ctx  context.Context
	self chatSelf
	home string // domain of the user

	rooms []chatRoom
	open  core.RoomID // "" = none
	began bool        // one was open
	lines map[core.RoomID][]chatLine
	ended map[core.RoomID]bool // there is nothing older
	up    int                  // screen lines that the end is scrolled away

	input  textinput.Model
	drafts map[core.RoomID]string // what was begun to be written in rooms that are not open
	panel  *uiPanel
	status string // "" = connected
	note   uiNote
	notes  []uiNote // further ones, oldest first
	busy   int      // actions that run
	width  int
	height int
	style  uiStyle
	now    func() time.Time
}

// A uiPanel covers the history until Esc; with yes it asks something.
type uiPanel struct {
	title string
	lines []string
	up    int
	more  bool // there are lines below that were not shown yet
	yes   func() tea.Cmd
}

// A uiNote stands above the compose line. What an action came to goes with the next
// key, or when something comes later; an error with Esc or the next line entered;
// an alarm with Esc alone.
type uiNote struct {
	text       string
	bad, alarm bool
	at         time.Time // zero for an alarm
}

// What comes back from commands.
type (
	uiNews  chatNews
	uiRooms struct {
		rooms []chatRoom
		err   error
	}
	uiHistory struct {
		room   core.RoomID
		before uint64
		lines  []chatLine
		err    error
	}
	// uiDone is what an action came to. typed is put back in its room if it failed.
	uiDone struct {
		said, typed string
		bad         bool        // what is said is no success
		room        core.RoomID // where it was done
		open        core.RoomID // to be opened
		err         error
	}
	uiShow struct {
		panel *uiPanel
		err   error
	}
)

func newChatUI(ctx context.Context, chat chatter, style uiStyle) *chatUI {
	self := chat.Self()
	in := textinput.New()
	in.CharLimit = core.MaxContent / 2
	in.Prompt = ""
	in.Cursor.SetMode(cursor.CursorStatic) // one that blinks draws the screen twice a second
	in.Focus()
	return &chatUI{chat: chat, ctx: ctx, self: self, home: self.User.Domain(), input: in, style: style, status: "connecting",
		lines: map[core.RoomID][]chatLine{}, ended: map[core.RoomID]bool{}, drafts: map[core.RoomID]string{}, width: 80, height: 24, now: time.Now}
}

// Init implements tea.Model.
func (u *chatUI) Init() tea.Cmd { return u.loadRooms() }

// Update implements tea.Model.
func (u *chatUI) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch m := msg.(type) {
	case tea.WindowSizeMsg:
		u.width, u.height = m.Width, m.Height
	case tea.KeyMsg:
		return u, u.key(m)
	case uiNews:
		return u, u.takeNews(chatNews(m))
	case uiRooms:
		if m.err != nil {
			u.fail(m.err)
			return u, nil
		}
		return u, u.takeRooms(m.rooms)
	case uiHistory:
		u.takeHistory(m)
	case uiDone:
		return u, u.takeDone(m)
	case uiShow:
		u.busy--
		switch {
		case m.err != nil:
			u.fail(m.err)
		case m.panel.yes != nil && u.input.Value() != "": // the next letter of what is written is no answer
			u.warn("You were asked something while you wrote: ask again when that is sent.")
		default:
			u.panel = m.panel
		}
	default:
		var cmd tea.Cmd
		u.input, cmd = u.input.Update(msg)
		return u, cmd
	}
	return u, nil
}

// key does what a key asks for; those that edit go to the compose line.
func (u *chatUI) key(k tea.KeyMsg) tea.Cmd {
	// What arrives in one go is text: a word is not the key that is called like it.
	k.Paste = k.Paste || k.Type == tea.KeyRunes && len(k.Runes) > 1
	if k.String() == "ctrl+c" {
		return tea.Quit
	}
	if !u.note.bad {
		u.nextNote()
	}
	if u.panel != nil && u.panelKey(k.String()) {
		return u.answer(k.String())
	}
	switch k.String() {
	case "enter":
		return u.submit()
	case "alt+enter":
		k = tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(uiBreak)}
	case "ctrl+n", "alt+down":
		return u.step(1)
	case "ctrl+p", "alt+up":
		return u.step(-1)
	case "tab":
		return u.nextUnread()
	case "pgup":
		return u.scroll(u.page())
	case "pgdown":
		return u.scroll(-u.page())
	case "up":
		return u.scroll(1)
	case "down":
		return u.scroll(-1)
	case "esc":
		u.up = 0
		u.nextNote()
		return u.markRead()
	case "ctrl+l":
		return tea.ClearScreen
	}
	if k.Type == tea.KeyRunes && k.Paste {
		k.Runes = []rune(lineBreaks.Replace(string(k.Runes)))
	}
	var cmd tea.Cmd
	u.input, cmd = u.input.Update(k)
	return cmd
}

// uiBreak stands for a line break in the compose line, which has one line.
const uiBreak = "↵"

var lineBreaks = strings.NewReplacer("\r\n", uiBreak, "\r", uiBreak, "\n", uiBreak, "\t", tabWidth)

// panelKey reports whether the open panel takes the key.
func (u *chatUI) panelKey(k string) bool {
	return k == "esc" || panelSteps[k] != 0 || u.panel.yes != nil
}

// panelSteps are the keys that move a panel: down its lines, or up.
var panelSteps = map[string]int{"pgup": -1, "pgdown": 1, "up": -1, "down": 1}

// answer does what a key says to the open panel. A question is answered by y, and
// by everything else with no: nothing is verified by accident.
func (u *chatUI) answer(k string) tea.Cmd {
	p := u.panel
	if n := panelSteps[k]; n != 0 {
		if k == "pgup" || k == "pgdown" {
			n *= u.page()
		}
		p.up = max(p.up+n, 0) // drawing it finds the end
		return nil
	}
	if p.more && k == "y" { // to what one has not read nobody says yes
		p.up += u.page()
		return nil
	}
	u.panel = nil
	if p.yes == nil {
		return nil
	}
	if k == "y" || k == "Y" {
		return p.yes()
	}
	u.say("Nothing was changed.")
	return nil
}

// room returns the open room, nil if there is none.
func (u *chatUI) room() *chatRoom {
	for i := range u.rooms {
		if u.rooms[i].Room == u.open {
			return &u.rooms[i]
		}
	}
	return nil
}

func (u *chatUI) say(format string, args ...any) {
	u.show(uiNote{text: fmt.Sprintf(format, args...)})
}
func (u *chatUI) warn(text string) { u.show(uiNote{text: text, bad: true}) }
func (u *chatUI) fail(err error)   { u.warn(explain(err)) }

// show shows what an action came to. An alarm that it covers comes back.
func (u *chatUI) show(n uiNote) {
	if n.at = u.now(); u.note.alarm {
		u.notes = append([]uiNote{u.note}, u.notes[:min(len(u.notes), uiNotes-1)]...)
	}
	u.note = n
}

// alarm shows that something is not as it should be: once, until Esc says that it
// was seen, after those that came before.
func (u *chatUI) alarm(text string) {
	n := uiNote{text: text, bad: true, alarm: true}
	switch {
	case u.note == n || slices.Contains(u.notes, n):
	case !u.note.alarm:
		u.note = n
	case len(u.notes) < uiNotes:
		u.notes = append(u.notes, n)
	}
}

func (u *chatUI) nextNote() {
	u.note = uiNote{}
	if len(u.notes) > 0 {
		u.note, u.notes = u.notes[0], u.notes[1:]
	}
}

// step opens the room n places further in the list.
func (u *chatUI) step(n int) tea.Cmd {
	if len(u.rooms) == 0 {
		return nil
	}
	i := slices.IndexFunc(u.rooms, func(r chatRoom) bool { return r.Room == u.open })
	return u.openRoom(u.rooms[(i+n+len(u.rooms))%len(u.rooms)].Room)
}

func (u *chatUI) nextUnread() tea.Cmd {
	at := max(slices.IndexFunc(u.rooms, func(r chatRoom) bool { return r.Room == u.open }), 0)
	for i := range u.rooms {
		if r := u.rooms[(at+i)%len(u.rooms)]; r.Unread > 0 && r.Room != u.open {
			return u.openRoom(r.Room)
		}
	}
	return nil
}

// turn turns to a room, or to none. What was begun to be written stays in the room
// for which it was meant: nothing that was typed for one is ever said in another.
func (u *chatUI) turn(room core.RoomID) {
	if u.panel, u.up = nil, 0; room == u.open {
		return
	}
	if u.drafts[u.open] = u.input.Value(); u.drafts[u.open] == "" {
		delete(u.drafts, u.open)
	}
	u.open, u.began = room, u.began || room != ""
	u.input.SetValue(u.drafts[room])
	u.input.CursorEnd()
}

func (u *chatUI) openRoom(room core.RoomID) tea.Cmd {
	if room == "" {
		return nil
	}
	u.turn(room)
	if len(u.lines[room]) == 0 {
		return tea.Batch(u.loadHistory(room, 0), u.markRead())
	}
	return u.markRead()
}

// markRead says that the open room's end was seen.
func (u *chatUI) markRead() tea.Cmd {
	r := u.room()
	if r == nil || u.up > 0 || r.Unread == 0 {
		return nil
	}
	r.Unread = 0
	room, last, chat := r.Room, r.Last, u.chat
	return func() tea.Msg {
		if err := chat.Read(room, last); err != nil {
			return uiDone{err: err}
		}
		return nil
	}
}

// scroll moves up by n screen lines, and asks for older ones at the top.
func (u *chatUI) scroll(n int) tea.Cmd {
	h, to := u.historyHeight(), max(u.up+n, 0)
	most := max(len(u.tail(to+h))-h, 0)
	u.up = min(to, most)
	if have := u.lines[u.open]; u.up < to && !u.ended[u.open] && len(have) > 0 && len(have) < uiKept {
		return u.loadHistory(u.open, have[0].Seq)
	}
	return u.markRead()
}

func (u *chatUI) loadRooms() tea.Cmd {
	chat := u.chat
	return func() tea.Msg {
		rooms, err := chat.Rooms()
		return uiRooms{rooms, err}
	}
}

func (u *chatUI) loadHistory(room core.RoomID, before uint64) tea.Cmd {
	chat := u.chat
	return func() tea.Msg {
		lines, err := chat.History(room, before, uiPage)
		return uiHistory{room, before, lines, err}
	}
}

// act runs an action in the background and shows what it came to.
func (u *chatUI) act(f func(context.Context) tea.Msg) tea.Cmd {
	u.busy++
	parent := u.ctx
	return func() tea.Msg {
		ctx, cancel := context.WithTimeout(parent, uiAction)
		defer cancel()
		return f(ctx)
	}
}

func (u *chatUI) takeRooms(rooms []chatRoom) tea.Cmd {
	sortRooms(rooms)
	was := u.room()
	u.rooms = rooms
	if was != nil && u.room() == nil {
		u.alarm("You are no longer in " + screenLine(was.Name) + ".")
		u.turn("")
	}
	for _, r := range rooms {
		for _, w := range r.Warnings {
			u.alarm(screenLine(r.Name) + ": " + w)
		}
	}
	if !u.began && len(rooms) > 0 { // later rooms change only when the user says so
		return u.openRoom(rooms[0].Room)
	}
	return u.markRead()
}

func (u *chatUI) takeNews(n chatNews) tea.Cmd {
	u.status = n.Status
	for _, w := range n.Warnings {
		u.alarm(w)
	}
	for _, l := range n.Lines {
		if u.up > 0 && l.Room == u.open { // who reads further up goes on reading there
			u.up += len(u.lineLines(l, "15:04", u.rightWidth(max(u.width, uiMinWidth))))
		}
		u.merge(l.Room, []chatLine{l})
	}
	if !u.note.bad && u.now().Sub(u.note.at) >= uiNoteAt {
		u.nextNote()
	}
	next := u.markRead
	if n.Changed {
		next = func() tea.Cmd { return u.takeRooms(n.Rooms) }
	}
	if slices.ContainsFunc(u.lines[u.open], func(l chatLine) bool { return l.Waiting }) {
		return tea.Batch(next(), u.loadHistory(u.open, 0)) // it may have a place now
	}
	return next()
}

func (u *chatUI) takeHistory(m uiHistory) {
	if m.err != nil {
		u.fail(m.err)
		return
	}
	if len(m.lines) < uiPage {
		u.ended[m.room] = true
	}
	if m.before == 0 { // what waited has a place now, or comes again
		u.lines[m.room] = slices.DeleteFunc(u.lines[m.room], func(l chatLine) bool { return l.Waiting })
	}
	u.merge(m.room, m.lines)
}

// merge puts lines in their places; one that is there already is replaced. Of
// more than uiKept the oldest go, which scrolling can ask for again.
func (u *chatUI) merge(room core.RoomID, lines []chatLine) {
	have := u.lines[room]
	for _, l := range lines {
		i, found := slices.BinarySearchFunc(have, l, orderLines)
		if found {
			have[i] = l
		} else {
			have = slices.Insert(have, i, l)
		}
	}
	if len(have) > uiKept {
		have = slices.Clone(have[len(have)-uiKept:])
		u.ended[room] = false
	}
	u.lines[room] = have
}

// orderLines puts lines in the order of their places; what has no place of its own
// comes after the message that it came after.
func orderLines(a, b chatLine) int {
	ownPlace := func(l chatLine) int {
		if strings.HasPrefix(l.Event, "~") {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(ownPlace(a), ownPlace(b)), cmp.Compare(a.Event, b.Event))
}

func (u *chatUI) takeDone(m uiDone) tea.Cmd {
	u.busy = max(u.busy-1, 0)
	if m.err != nil {
		u.fail(m.err)
		switch {
		case m.typed == "" || m.room != u.open && u.drafts[m.room] != "":
		case m.room != u.open:
			u.drafts[m.room] = m.typed
		case u.input.Value() == "":
			u.input.SetValue(m.typed)
			u.input.CursorEnd()
		}
		return nil
	}
	switch {
	case m.bad:
		u.warn(m.said)
	case m.said != "":
		u.say("%s", m.said)
	}
	switch {
	case m.open != "":
		if u.input.Value() == "" { // what is being written is for the room that is open
			u.turn(m.open)
		}
		return tea.Batch(u.loadRooms(), u.loadHistory(m.open, 0))
	case m.room != "":
		if m.room == u.open {
			u.up = 0
		}
		return tea.Batch(u.loadRooms(), u.loadHistory(m.room, 0))
	}
	return u.loadRooms()
}
