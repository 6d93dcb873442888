package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
)

// uiLetters is how many letters are looked through and shown.
const uiLetters = 50

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

// ownDevice does something with a device of one's own, when its name is known.
func (u *chatUI) ownDevice(word string, do func(ctx context.Context, device core.DeviceURI) tea.Msg) tea.Cmd {
	chat := u.chat
	return u.act(func(ctx context.Context) tea.Msg {
		device, err := ownDevice(ctx, chat, word)
		if err != nil {
			return uiShow{err: err}
		}
		return do(ctx, device)
	})
}

func (u *chatUI) cmdLink(args []string) tea.Cmd {
	chat := u.chat
	return u.ownDevice(args[0], func(ctx context.Context, device core.DeviceURI) tea.Msg {
		return uiDone{said: "This device says now that " + device.ID() + " is yours too. Say the same there.", err: chat.Link(ctx, device)}
	})
}

func (u *chatUI) cmdRevoke(args []string) tea.Cmd {
	chat := u.chat
	return u.ownDevice(args[0], func(_ context.Context, device core.DeviceURI) tea.Msg {
		p := &uiPanel{title: "End a device for ever?", lines: []string{"Device " + device.ID(), "", "It reads nothing more, in no room. Nobody can take that back.", ""}}
		if device == chat.Self().Device {
			p.lines = append(p.lines, "WARNING: it is THIS device.", "")
		}
		p.lines = append(p.lines, "[y] end it   [any other key] not now")
		p.yes = func() tea.Cmd {
			return u.act(func(ctx context.Context) tea.Msg {
				return uiDone{said: "Revoked " + device.ID() + ".", err: chat.Revoke(ctx, device)}
			})
		}
		return uiShow{panel: p}
	})
}

func (u *chatUI) cmdApprove(args []string) tea.Cmd {
	chat := u.chat
	return u.act(func(ctx context.Context) tea.Msg {
		said, err := approve(ctx, chat, strings.Join(args, ""))
		return uiShow{&uiPanel{title: "Approved", lines: []string{"On the new device run:", "",
			"isthmus chat login " + shortUser(chat.Self().User, "") + " --approval \\", "'" + said + "'"}}, err}
	})
}

func (u *chatUI) cmdLetters([]string) tea.Cmd {
	chat, home := u.chat, u.home
	return u.act(func(ctx context.Context) tea.Msg {
		letters, err := chat.Letters(ctx, uiLetters)
		p := &uiPanel{title: fmt.Sprintf("Letters: %d", len(letters))}
		for i := range letters {
			p.lines = append(p.lines, time.UnixMilli(letters[i].At).Format("2006-01-02 15:04 ")+letterText(&letters[i], home, false))
		}
		if slices.ContainsFunc(letters, func(l client.Letter) bool { return l.Kind == client.LetterInvitation }) {
			p.lines = append(p.lines, "", "/accept USER enters the room of the last invitation of a user.")
		}
		return uiShow{p, err}
	})
}

// cmdAccept enters the room that somebody, or a certain user, last invited to by letter.
func (u *chatUI) cmdAccept(args []string) tea.Cmd {
	from, ok := u.users(args)
	if !ok {
		return nil
	}
	if strings.HasSuffix(u.note.text, toEnter) {
		u.nextNote()
	}
	chat := u.chat
	return u.act(func(ctx context.Context) tea.Msg {
		letters, err := chat.Letters(ctx, uiLetters)
		if err != nil {
			return uiDone{err: err}
		}
		for _, l := range slices.Backward(letters) {
			if l.Kind != client.LetterInvitation || len(from) > 0 && l.From != from[0] {
				continue
			}
			r, err := chat.Join(ctx, l.Room, l.Code)
			return uiDone{said: "You are in " + screenLine(r.Name) + ".", open: r.Room, err: err}
		}
		return uiDone{err: core.Errorf(core.NotFound, "there is no such invitation: /letters shows what came")}
	})
}

func (u *chatUI) cmdConsent(args []string) tea.Cmd {
	chat, home := u.chat, u.home
	if err := evenArgs(nil, args); err != nil {
		u.warn(err.Error())
		return nil
	}
	change, err := consentArgs(chat, args)
	if err != nil {
		u.fail(err)
		return nil
	}
	return u.act(func(ctx context.Context) tea.Msg {
		said, err := chat.Consent(ctx, change)
		p := &uiPanel{title: "Who may add you to encrypted rooms"}
		p.lines = printed(func(w io.Writer) { printConsents(w, said, home) })
		return uiShow{p, err}
	})
}

// printed is what a verb would show, in lines.
func printed(text func(w io.Writer)) []string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	text(w)
	w.Flush() // into memory
	return screenLines(strings.TrimRight(b.String(), "\n"))
}
