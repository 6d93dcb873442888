package main

import (
	"context"
	"fmt"
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
		{"leave", "", "leave this room", 0, 0, true, (*chatUI).cmdLeave},
		{"room", "NAME", "show another room", 1, 1, false, (*chatUI).cmdRoom},
		{"invite", "USER…", "invite to this room", 1, -1, true, (*chatUI).cmdInvite},
		{"remove", "USER…", "put out of this room", 1, -1, true, (*chatUI).cmdRemove},
		{"members", "", "who is here, with which devices", 0, 0, true, (*chatUI).cmdMembers},
		{"info", "", "who can read this room, and why", 0, 0, true, (*chatUI).cmdInfo},
		{"code", "[USES]", "make a join code for this room", 0, 1, true, (*chatUI).cmdCode},
		{"devices", "[USER]", "devices, yours if you name nobody", 0, 1, false, (*chatUI).cmdDevices},
		{"verify", "USER|DEVICE", "compare safety words", 1, 1, false, (*chatUI).cmdVerify},
		{"link", "DEVICE", "say that a device is yours", 1, 1, false, (*chatUI).cmdLink},
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
		return uiDone{said: said, open: r.Room, err: err}
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
			return u.act(func(ctx context.Context) tea.Msg {
				return uiDone{said: "You left " + screenLine(room.Name) + ".", err: chat.Leave(ctx, room.Room)}
			})
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
		return uiDone{said: invitedText(claims, u.home), room: room, err: err}
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
	if len(said) == 0 {
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
			p.lines = append(p.lines, shortUser(m.User, home)+"  "+screenLine(m.Role))
			for _, d := range m.Devices {
				p.lines = append(p.lines, "    "+deviceText(d))
			}
		}
		return uiShow{p, err}
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

func (u *chatUI) cmdDevices(args []string) tea.Cmd {
	users := []core.UserURI{u.self.User}
	if len(args) > 0 {
		var ok bool
		if users, ok = u.users(args); !ok {
			return nil
		}
	}
	chat, home := u.chat, u.home
	return u.act(func(ctx context.Context) tea.Msg {
		devices, err := chat.Devices(ctx, users[0])
		p := &uiPanel{title: "Devices of " + shortUser(users[0], home)}
		for _, d := range devices {
			p.lines = append(p.lines, deviceText(d))
		}
		return uiShow{p, err}
	})
}

func (u *chatUI) cmdVerify(args []string) tea.Cmd {
	chat := u.chat
	return u.act(func(ctx context.Context) tea.Msg {
		device, err := findDevice(ctx, chat, args[0])
		if err != nil {
			return uiShow{err: err}
		}
		words, err := chat.Words(ctx, device)
		if err != nil {
			return uiShow{err: err}
		}
		return uiShow{panel: u.wordsPanel(device, args[0], words)}
	})
}

// wordsPanel shows safety words and asks whether they match.
func (u *chatUI) wordsPanel(device core.DeviceURI, who string, words []string) *uiPanel {
	p := &uiPanel{title: "Safety words with " + screenLine(who), lines: []string{"Device " + device.ID(), ""}}
	for i := 0; i < len(words); i += 4 {
		row := "  "
		for _, w := range words[i:min(i+4, len(words))] {
			row += "  " + screenLine(w)
		}
		p.lines = append(p.lines, row)
	}
	p.lines = append(p.lines, "", "Compare them by another way: in person, on the telephone.",
		"They must be the same on both devices, in the same order.", "", "[y] they are the same   [any other key] not now")
	chat := u.chat
	p.yes = func() tea.Cmd {
		return u.act(func(ctx context.Context) tea.Msg {
			return uiDone{said: "Verified " + screenLine(who) + ".", err: chat.Verify(ctx, device)}
		})
	}
	return p
}

func (u *chatUI) cmdLink(args []string) tea.Cmd {
	chat := u.chat
	return u.act(func(ctx context.Context) tea.Msg {
		device, err := core.ParseDeviceURI(args[0])
		if err != nil {
			device = core.NewDeviceURI(chat.Self().User.Domain(), args[0])
		}
		return uiDone{said: "This device says now that " + screenLine(device.ID()) + " is yours too. Say the same there.", err: chat.Link(ctx, device)}
	})
}

func (u *chatUI) cmdHelp([]string) tea.Cmd {
	p := &uiPanel{title: "Help"}
	for _, c := range uiCommands() {
		p.lines = append(p.lines, fmt.Sprintf("%-22s %s", "/"+strings.TrimSpace(c.name+" "+c.args), c.help))
	}
	p.lines = append(p.lines, "", "Ctrl-N, Ctrl-P: other rooms. Tab: next with something new.",
		"PgUp, PgDn: scroll. Esc: back. Ctrl-C: end.")
	u.panel = p
	return nil
}
