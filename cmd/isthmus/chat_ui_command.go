package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/isthmus-chat/isthmus/core"
)

// A uiCommand is what can be typed after a slash.
type uiCommand struct {
	name, args, help string
	least, most      int  // words after the name; most < 0 = any
	room             bool // it needs an open room
	run              func(u *chatUI, args []string) tea.Cmd
}

// uiCommands is a function because help shows the table that it is in.
func uiCommands() []uiCommand {
	return []uiCommand{
		{"create", "NAME [USER…]", "make an encrypted room, and invite", 1, -1, false, (*chatUI).cmdCreate},
		{"channel", "NAME", "make a room WITHOUT encryption", 1, 1, false, (*chatUI).cmdChannel},
		{"join", "ROOM [CODE]", "enter a room", 1, 2, false, (*chatUI).cmdJoin},
		{"letters", "", "invitations and other letters that came", 0, 0, false, (*chatUI).cmdLetters},
		{"accept", "[USER]", "enter the room of the last invitation", 0, 1, false, (*chatUI).cmdAccept},
		{"leave", "", "leave this room", 0, 0, true, (*chatUI).cmdLeave},
		{"rooms", "", "your rooms, with their addresses", 0, 0, false, (*chatUI).cmdRooms},
		{"room", "NAME", "show another room", 1, 1, false, (*chatUI).cmdRoom},
		{"invite", "USER…", "invite to this room", 1, -1, true, (*chatUI).cmdInvite},
		{"remove", "USER…", "put out of this room", 1, -1, true, (*chatUI).cmdRemove},
		{"members", "", "who is here, with which devices", 0, 0, true, (*chatUI).cmdMembers},
		{"info", "", "which homeservers agreed on who is here", 0, 0, true, (*chatUI).cmdInfo},
		{"code", "[USES]", "make a join code for this room", 0, 1, true, (*chatUI).cmdCode},
		{"authority", "[DOMAIN…]", "which homeservers decide this room", 0, -1, true, (*chatUI).cmdAuthority},
		{"consent", "[WHO yes|no|forget]", "who may add you to rooms", 0, 2, false, (*chatUI).cmdConsent},
		{"devices", "[USER]", "devices, yours if you name nobody", 0, 1, false, (*chatUI).cmdDevices},
		{"verify", "USER|DEVICE", "compare safety words", 1, 1, false, (*chatUI).cmdVerify},
		{"approve", "REQUEST", "vouch for a new device of yours", 1, -1, false, (*chatUI).cmdApprove},
		{"link", "DEVICE", "say that a device is yours", 1, 1, false, (*chatUI).cmdLink},
		{"revoke", "DEVICE", "end a device of yours for ever", 1, 1, false, (*chatUI).cmdRevoke},
		{"me", "TEXT", "say what you do", 1, -1, true, (*chatUI).cmdMe},
		{"help", "", "this list", 0, 0, false, (*chatUI).cmdHelp},
		{"quit", "", "end", 0, 0, false, func(*chatUI, []string) tea.Cmd { return tea.Quit }},
	}
}

// submit sends the compose line, or does what it asks for. "//" says a slash.
func (u *chatUI) submit() tea.Cmd {
	line := u.input.Value()
	if strings.TrimSpace(line) == "" {
		u.input.Reset()
		return nil
	}
	if !u.note.alarm {
		u.nextNote() // who goes on has read it
	}
	if !strings.HasPrefix(line, "/") || strings.HasPrefix(line, "//") {
		if u.room() == nil {
			u.warn("No room is open: /create NAME makes one, /help lists the commands.")
			return nil
		}
		u.input.Reset()
		return u.send(strings.TrimPrefix(line, "//"), line, "", strings.HasPrefix(line, "//"))
	}
	words := strings.Fields(line[1:])
	if len(words) == 0 {
		return nil
	}
	for _, c := range uiCommands() {
		if c.name != strings.ToLower(words[0]) {
			continue
		}
		n := len(words) - 1
		switch {
		case n < c.least || c.most >= 0 && n > c.most:
			u.warn("Write /" + strings.TrimSpace(c.name+" "+c.args))
			return nil
		case c.room && u.room() == nil:
			u.warn("No room is open.")
			return nil
		}
		u.input.Reset()
		return c.run(u, words[1:])
	}
	u.warn("There is no /" + screenLine(words[0]) + ": /help lists the commands.")
	return nil
}

// send says text in the open room. typed comes back if it fails.
func (u *chatUI) send(text, typed, kind string, slash bool) tea.Cmd {
	if slash {
		text = "/" + text
	}
	text = strings.TrimRight(strings.ReplaceAll(text, uiBreak, "\n"), "\n")
	chat, room := u.chat, u.open
	return u.act(func(ctx context.Context) tea.Msg {
		sent, err := chat.Send(ctx, room, []string{text}, kind)
		switch {
		case len(sent) == 1 && sent[0].Waiting:
			return uiDone{said: "Not sent yet: " + explain(err) + ". It goes out by itself.", room: room}
		case err == nil && len(sent) == 1 && sent[0].Error != nil:
			err = sent[0].Error.err()
		}
		return uiDone{room: room, typed: typed, err: err}
	})
}

func (u *chatUI) cmdMe(args []string) tea.Cmd {
	text := strings.Join(args, " ")
	return u.send(text, "/me "+text, chatEmote, false)
}

// users reads words as users.
func (u *chatUI) users(words []string) ([]core.UserURI, bool) {
	users := make([]core.UserURI, len(words))
	for i, w := range words {
		var err error
		if users[i], err = parseUser(w, u.home); err != nil {
			u.fail(err)
			return nil, false
		}
	}
	return users, true
}

func (u *chatUI) create(q chatCreate, said string) tea.Cmd {
	chat := u.chat
	return u.act(func(ctx context.Context) tea.Msg {
		r, err := chat.Create(ctx, q)
		if len(r.Claims) > 0 {
			said += " " + invitedText(r.Claims, chat.Self().User.Domain())
		}
		return uiDone{said: said, bad: allReached(r.Claims) != nil, open: r.Room, err: err}
	})
}

func (u *chatUI) cmdCreate(args []string) tea.Cmd {
	users, ok := u.users(args[1:])
	if !ok {
		return nil
	}
	return u.create(chatCreate{Name: args[0], Users: users}, "Made "+screenLine(args[0])+": it is end-to-end encrypted.")
}

func (u *chatUI) cmdChannel(args []string) tea.Cmd {
	return u.create(chatCreate{Name: args[0], Channel: true}, "Made "+screenLine(args[0])+": it is NOT encrypted.")
}

func (u *chatUI) cmdJoin(args []string) tea.Cmd {
	room, err := findRoom(args[0], u.rooms)
	if core.CodeOf(err) == core.NotFound {
		room, err = core.NewRoomID(u.home, strings.TrimPrefix(args[0], "#")), nil
		if strings.HasPrefix(args[0], "#") {
			room = core.NewRoomID(u.home, strings.ToLower(args[0][1:]))
		}
	}
	if err != nil {
		u.fail(err)
		return nil
	}
	code := strings.Join(args[1:], "")
	chat := u.chat
	return u.act(func(ctx context.Context) tea.Msg {
		r, err := chat.Join(ctx, room, code)
		return uiDone{said: "You are in " + screenLine(r.Name) + ".", open: r.Room, err: err}
	})
}

func (u *chatUI) cmdLeave([]string) tea.Cmd {
	chat, room := u.chat, *u.room()
	u.panel = &uiPanel{title: "Leave " + screenLine(room.Name) + "?", lines: []string{"You will read nothing more of it.", "", "[y] leave   [any other key] stay"},
		yes: func() tea.Cmd {
			u.turn("")
			said := "You left " + screenLine(room.Name) + "."
			if room.Encrypted {
				said = "You asked to leave " + screenLine(room.Name) + ": another member's device will take you out when it is online."
			}
			return u.act(func(ctx context.Context) tea.Msg { return uiDone{said: said, err: chat.Leave(ctx, room.Room)} })
		}}
	return nil
}

func (u *chatUI) cmdRoom(args []string) tea.Cmd {
	room, err := findRoom(args[0], u.rooms)
	if err != nil {
		u.fail(err)
		return nil
	}
	return u.openRoom(room)
}

func (u *chatUI) cmdInvite(args []string) tea.Cmd {
	users, ok := u.users(args)
	if !ok {
		return nil
	}
	chat, room := u.chat, u.open
	return u.act(func(ctx context.Context) tea.Msg {
		claims, err := chat.Invite(ctx, room, users)
		return uiDone{said: invitedText(claims, u.home), bad: allReached(claims) != nil, room: room, err: err}
	})
}

// invitedText says whom an invitation reached.
func invitedText(claims []chatClaim, home string) string {
	var in, there, out []string
	for _, c := range claims {
		switch who := shortUser(c.User, home); {
		case c.Status == string(core.Claimed):
			in = appendNew(in, who)
		case c.Status == claimPresent:
			there = appendNew(there, who)
		case c.Letter:
			out = appendNew(out, who+" ("+c.why()+"; a letter invites them)")
		default:
			out = appendNew(out, who+" ("+c.why()+")")
		}
	}
	var said []string
	if len(in) > 0 {
		said = append(said, "Invited "+strings.Join(in, ", ")+".")
	}
	if len(there) > 0 {
		said = append(said, "In the room already: "+strings.Join(there, ", ")+".")
	}
	if len(said) == 0 && len(out) == 0 {
		said = append(said, "Nobody was invited.")
	}
	if len(out) > 0 {
		said = append(said, "Not let in: "+strings.Join(out, ", ")+".")
	}
	return strings.Join(said, " ")
}

func appendNew(list []string, s string) []string {
	for _, have := range list {
		if have == s {
			return list
		}
	}
	return append(list, s)
}

func (u *chatUI) cmdRemove(args []string) tea.Cmd {
	users, ok := u.users(args)
	if !ok {
		return nil
	}
	chat, room := u.chat, u.open
	return u.act(func(ctx context.Context) tea.Msg {
		return uiDone{said: "Removed " + strings.Join(args, ", ") + ".", room: room, err: chat.Remove(ctx, room, users)}
	})
}

func (u *chatUI) cmdCode(args []string) tea.Cmd {
	q := chatCode{Uses: 1}
	if len(args) == 1 {
		n, err := strconv.ParseUint(args[0], 10, 32)
		if err != nil {
			u.warn("/code takes a number: how often the code may be used, 0 = without limit")
			return nil
		}
		q.Uses = uint32(n)
	}
	chat, room := u.chat, u.open
	return u.act(func(ctx context.Context) tea.Msg {
		c, err := chat.Code(ctx, room, q)
		return uiShow{&uiPanel{title: "Join code", lines: []string{screenLine(c.Code), "", "Who has it enters with:", "  /join " + string(room) + " " + screenLine(c.Code)}}, err}
	})
}

func (u *chatUI) cmdMembers([]string) tea.Cmd {
	chat, room, home := u.chat, *u.room(), u.home
	return u.act(func(ctx context.Context) tea.Msg {
		members, err := chat.Members(ctx, room.Room)
		p := &uiPanel{title: fmt.Sprintf("In %s: %d", screenLine(room.Name), len(members))}
		for _, m := range members {
			p.lines = append(p.lines, shownUser(m.User, m.Name, home)+"  "+screenLine(m.Role))
			for _, d := range m.Devices {
				p.lines = append(p.lines, "    "+deviceText(d))
			}
		}
		return uiShow{p, err}
	})
}

func (u *chatUI) cmdRooms([]string) tea.Cmd {
	u.panel = &uiPanel{title: fmt.Sprintf("Your rooms: %d", len(u.rooms))}
	for _, r := range u.rooms {
		u.panel.lines = append(u.panel.lines, screenLine(r.Name)+"  "+roomKind(r), screenLine(string(r.Room)), "")
	}
	return nil
}

// cmdAuthority shows who decides this room, or lets others: all that are named.
func (u *chatUI) cmdAuthority(args []string) tea.Cmd {
	chat, room := u.chat, u.open
	return u.act(func(ctx context.Context) tea.Msg {
		now, err := authorityOf(chat, room)
		if err == nil && len(args) > 0 {
			if err = chat.SetAuthority(ctx, room, nextAuthority(now, args, false, false)); err == nil {
				now, err = authorityOf(chat, room)
			}
		}
		return uiShow{&uiPanel{title: "Who decides this room", lines: printed(func(w io.Writer) { printAuthority(w, now) })}, err}
	})
}

func (u *chatUI) cmdInfo([]string) tea.Cmd {
	r := u.room()
	p := &uiPanel{title: screenLine(r.Name), lines: []string{screenLine(string(r.Room)), ""}}
	if r.Encrypted {
		p.lines = append(p.lines, "End-to-end encrypted: only the devices in /members can read it.",
			"Security domain: "+screenLine(r.Domain), fmt.Sprintf("Epoch %d, agreed by:", r.Epoch))
		for _, home := range r.Authority {
			p.lines = append(p.lines, "  "+screenLine(home))
		}
	} else {
		p.lines = append(p.lines, "NOT encrypted: the servers of everybody here, and of networks", "that it is linked to, read and keep what is said.", "Security domain: none")
	}
	for _, w := range r.Warnings {
		p.lines = append(p.lines, "", "WARNING: "+screenLine(w))
	}
	u.panel = p
	return nil
}

// deviceText is a device in one line: what it is comes first.
func deviceText(d chatDevice) string {
	return screenLine("[" + d.state() + "] " + d.Name + " " + d.Device.ID())
}

func (u *chatUI) cmdHelp([]string) tea.Cmd {
	p := &uiPanel{title: "Help"}
	for _, c := range uiCommands() {
		p.lines = append(p.lines, fmt.Sprintf("%-29s %s", "/"+strings.TrimSpace(c.name+" "+c.args), c.help))
	}
	p.lines = append(p.lines, "", "Ctrl-N, Ctrl-P: other rooms. Tab: next with something new.",
		"PgUp, PgDn, Up, Down: scroll. Esc: back. Alt-Enter: a line break. Ctrl-C: end.")
	u.panel = p
	return nil
}
