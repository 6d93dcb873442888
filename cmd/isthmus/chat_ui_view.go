package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
	"github.com/muesli/termenv"
)

// The screen, in columns and lines.
const (
	uiList     = 22 // columns of the list of rooms
	uiMinList  = 60 // a narrower screen shows no list
	uiMinWidth = 20
	uiBroad    = 52 // a narrower room is said to be encrypted in fewer words
	uiMessage  = 60 // lines of one message, about; what is longer is cut
	uiFrame    = 7  // lines that are not history: title, two of the room, note, rule, compose, keys
	uiTight    = 16 // lines of a screen on which a panel has the place of the room's header too
	uiNoteMost = 4  // lines of the note, if the history can do without them
)

// A uiStyle is colours, or none. No meaning is in a colour alone: a word or sign
// stands beside it.
type uiStyle struct {
	bar, good, bad, faint, strong lipgloss.Style
}

// newUIStyle returns a style for what out can show. Colours are off with NO_COLOR
// in environ (https://no-color.org), and where out is no terminal.
func newUIStyle(out io.Writer, environ []string) uiStyle {
	r := lipgloss.NewRenderer(out, termenv.WithEnvironment(envList(environ)))
	return uiStyle{
		bar:    r.NewStyle().Reverse(true),
		good:   r.NewStyle().Foreground(lipgloss.Color("2")),
		bad:    r.NewStyle().Foreground(lipgloss.Color("3")).Bold(true),
		faint:  r.NewStyle().Faint(true),
		strong: r.NewStyle().Bold(true),
	}
}

// envList is an environment as termenv reads it.
type envList []string

// Environ implements termenv.Environ.
func (e envList) Environ() []string { return e }

// Getenv implements termenv.Environ.
func (e envList) Getenv(name string) string {
	for _, kv := range e {
		if v, ok := strings.CutPrefix(kv, name+"="); ok {
			return v
		}
	}
	return ""
}

// View implements tea.Model. Everything that others wrote passes screenLine or
// screenLines on its way here.
func (u *chatUI) View() string {
	w, h := max(u.width, uiMinWidth), max(u.height, uiFrame+1)
	lines := make([]string, 0, h)
	lines = append(lines, u.titleBar(w))
	note := u.noteLines(w)
	rows := h - uiFrame + 3 - len(note)
	left := u.listLines(w, rows)
	right := u.middle(u.rightWidth(w))
	if !u.tight() {
		right = append(u.roomHeader(u.rightWidth(w)), right...)
	}
	for i := range rows {
		if left == nil {
			lines = append(lines, fit(lineAt(right, i), w))
			continue
		}
		lines = append(lines, fit(lineAt(left, i), uiList)+u.style.faint.Render("│")+" "+fit(lineAt(right, i), u.rightWidth(w)))
	}
	lines = append(append(lines, u.style.faint.Render(strings.Repeat("─", w))), note...)
	lines = append(lines, u.composeLine(w), u.keysLine(w))
	return strings.Join(lines, "\n")
}

func lineAt(lines []string, i int) string {
	if i < len(lines) {
		return lines[i]
	}
	return ""
}

// fit cuts or fills s to w columns.
func fit(s string, w int) string {
	s = ansi.Truncate(s, w, "…")
	return s + strings.Repeat(" ", max(w-lipgloss.Width(s), 0))
}

// listed reports whether there is place for the list of rooms. A panel is shown
// without it: what stands there is often copied with the mouse.
func (u *chatUI) listed(w int) bool { return w >= uiMinList && u.panel == nil }

func (u *chatUI) tight() bool { return u.panel != nil && u.height < uiTight }

func (u *chatUI) rightWidth(w int) int {
	if !u.listed(w) {
		return w
	}
	return w - uiList - 2
}

func (u *chatUI) historyHeight() int {
	h := max(u.height, uiFrame+1)
	if u.tight() {
		h += 2
	}
	return max(h-uiFrame+1-len(u.noteLines(max(u.width, uiMinWidth))), 1)
}
func (u *chatUI) page() int { return max(u.historyHeight()-1, 1) }

func (u *chatUI) titleBar(w int) string {
	state := "connected"
	if u.status != "" {
		state = "! " + screenLine(u.status)
	}
	who := " isthmus chat  " + shortUser(u.self.User, "")
	if w < uiMinList {
		who = " " + shortUser(u.self.User, "")
	}
	return u.style.bar.Render(fit(fit(who, max(w-lipgloss.Width(state)-2, 0))+" "+state, w))
}

// listLines is the list of rooms, nil where it has no place.
func (u *chatUI) listLines(w, h int) []string {
	if !u.listed(w) {
		return nil
	}
	out := make([]string, 0, h)
	first := 0
	for i, r := range u.rooms {
		if r.Room == u.open && i >= h {
			first = i - h + 1
		}
	}
	for _, r := range u.rooms[first:min(first+h, len(u.rooms))] {
		mark, unread := "  ", ""
		if r.Room == u.open {
			mark = "> "
		}
		if r.Unread > 0 {
			unread = fmt.Sprintf(" *%d", r.Unread)
		}
		name := fit(mark+roomWord(r)+" "+screenLine(r.Name), uiList-len(unread)-1) + unread
		style := u.style.good
		if !r.Encrypted {
			style = u.style.bad
		}
		out = append(out, style.Render(name))
	}
	if len(u.rooms) == 0 {
		out = append(out, " no rooms yet:", " /create NAME")
	}
	return out
}

// roomWord says in four letters whether a room is encrypted.
func roomWord(r chatRoom) string {
	if r.Encrypted {
		return "e2ee"
	}
	return "OPEN"
}

// roomHeader is two lines about the open room: what it is, and who can read it.
func (u *chatUI) roomHeader(w int) []string {
	r := u.room()
	switch {
	case r == nil && len(u.rooms) == 0:
		return []string{"No rooms yet: /create NAME makes one,", "/accept enters where you are invited."}
	case r == nil:
		return []string{"No room is open: Ctrl-N opens one.", ""}
	}
	name := ansi.Truncate(screenLine(r.Name), max(w/3, 8), "…")
	kind := "  [#] END-TO-END ENCRYPTED"
	if w < uiBroad {
		kind = " [#] END-TO-END"
	}
	if !r.Encrypted {
		return []string{
			u.style.strong.Render(name) + "  " + u.style.bad.Render("[!] NOT ENCRYPTED"),
			u.style.bad.Render(fit("no security domain: servers can read all of this", w)),
		}
	}
	return []string{
		u.style.strong.Render(name) + u.style.good.Render(kind) + u.unverifiedText(r),
		u.style.faint.Render(fit(domainText(r, w), w)),
	}
}

// unverifiedText says how many devices in a room nobody has verified.
func (u *chatUI) unverifiedText(r *chatRoom) string {
	switch r.Unverified {
	case 0:
		return "  all verified"
	case 1:
		return "  " + u.style.bad.Render("1 device unverified")
	}
	return "  " + u.style.bad.Render(fmt.Sprintf("%d devices unverified", r.Unverified))
}

// domainText is the room's security domain, what shares its keys (PROTOCOL §13),
// its epoch, and if there is place for it who agreed on that.
func domainText(r *chatRoom, w int) string {
	epoch, domain := fmt.Sprintf("epoch %d", r.Epoch), ", domain "+strings.TrimPrefix(screenLine(r.Domain), "mimi://")
	if by := epoch + " by " + homesText(r) + domain; lipgloss.Width(by) <= w {
		return by
	}
	return epoch + domain
}

// homesText names the homeservers that agree on the room's epochs.
func homesText(r *chatRoom) string {
	if len(r.Authority) > 1 {
		return fmt.Sprintf("%d homeservers", len(r.Authority))
	}
	return screenLine(strings.Join(r.Authority, ", "))
}

// middle is the history, or the panel over it.
func (u *chatUI) middle(w int) []string {
	h := u.historyHeight()
	if p := u.panel; p != nil {
		lines := []string{u.style.strong.Render("── " + p.title + " ──")}
		var body []string
		for _, l := range p.lines {
			body = append(body, wrapped("", l, w, "    ")...)
		}
		h = max(h-2, 1)
		p.up = min(p.up, max(len(body)-h, 0))
		p.more = p.up+h < len(body)
		lines = append(lines, body[p.up:min(p.up+h, len(body))]...)
		if p.more {
			return append(lines, u.style.faint.Render("… PgDn"))
		}
		return lines
	}
	all := u.tail(h + u.up)
	return all[:min(h, len(all))]
}

// tail returns the last n screen lines of the open room's history, or all of
// them if there are fewer. What is not shown is not laid out.
func (u *chatUI) tail(n int) []string {
	w := u.rightWidth(max(u.width, uiMinWidth))
	all := u.lines[u.open]
	var parts [][]string // the newest first
	have := 0
	for i := len(all) - 1; i >= 0 && have < n; i-- {
		at := all[i].At.Local()
		part := u.lineLines(all[i], at.Format("15:04"), w)
		if i == 0 || all[i-1].At.Local().YearDay() != at.YearDay() || at.Sub(all[i-1].At) > 48*time.Hour {
			part = append([]string{u.style.faint.Render("── " + at.Format("Monday, 2 January 2006") + " ──")}, part...)
		}
		parts = append(parts, part)
		have += len(part)
	}
	slices.Reverse(parts)
	out := slices.Concat(parts...)
	return out[max(len(out)-n, 0):]
}

// lineLines are the screen lines of one thing said. Whoever breaks lines cannot
// write what looks like another's: what follows is indented.
func (u *chatUI) lineLines(l chatLine, at string, w int) []string {
	if most := uiMessage * w; len(l.Text) > most {
		l.Text = l.Text[:most] + "…\n[cut here: isthmus chat history shows all of it]"
	}
	said := screenLines(lineText(l, u.home))
	if l.Verified && l.Kind == chatSaid {
		said[0] = strings.Replace(said[0], ": ", " ✓: ", 1)
	}
	indent := strings.Repeat(" ", len(at)+3)
	var out []string
	for i, s := range said {
		prefix := at + " "
		if i > 0 {
			prefix = indent
		}
		out = append(out, wrapped(prefix, s, w, indent)...)
	}
	for i := range out {
		switch l.Kind {
		case chatEvent, chatReaction, chatNotice:
			out[i] = u.style.faint.Render(out[i])
		case chatWarning:
			out[i] = u.style.bad.Render(out[i])
		}
	}
	return out
}

// wrapped breaks s at w columns; the first line begins with prefix, the others
// with indent, which is not shorter.
func wrapped(prefix, s string, w int, indent string) []string {
	if len(prefix)+lipgloss.Width(s) <= w {
		return []string{prefix + s}
	}
	lines := strings.Split(ansi.Wrap(s, max(w-len(indent), 1), ""), "\n")
	for i := range lines {
		if i == 0 {
			lines[i] = prefix + lines[i]
		} else {
			lines[i] = indent + lines[i]
		}
	}
	return lines
}

// noteLines is the note in as many lines as it needs and may have.
func (u *chatUI) noteLines(w int) []string {
	text, style := screenLine(u.note.text), lipgloss.NewStyle()
	switch {
	case text == "" && u.busy > 0:
		text = "…"
	case u.note.bad:
		text, style = "! "+text, u.style.bad
		if u.note.alarm && len(u.notes) > 0 {
			text += fmt.Sprintf(" (Esc: %d more)", len(u.notes))
		} else if u.note.alarm {
			text += " (Esc)"
		}
	}
	lines := wrapped("", text, w, "  ")
	most := min(uiNoteMost, max(u.height, uiFrame+1)-uiFrame)
	if u.panel != nil {
		most = 1
	}
	if len(lines) > most {
		lines = append(lines[:most-1], strings.Join(lines[most-1:], " ")) // fit says that there was more
	}
	for i := range lines {
		lines[i] = style.Render(fit(lines[i], w))
	}
	return lines
}

// composeLine says before the text who will be able to read it.
func (u *chatUI) composeLine(w int) string {
	prompt, style := "> ", u.style.strong
	switch r := u.room(); {
	case r == nil:
	case r.Encrypted:
		prompt, style = "encrypted> ", u.style.good
	default:
		prompt, style = "NOT ENCRYPTED> ", u.style.bad
	}
	u.input.Width = max(w-len(prompt)-1, 1)
	return style.Render(prompt) + u.input.View()
}

func (u *chatUI) keysLine(w int) string {
	keys := "/help  Ctrl-N/P room  Tab unread  PgUp/PgDn scroll  Ctrl-C end"
	switch p := u.panel; {
	case p != nil && p.yes != nil && p.more:
		keys = "PgDn: read all of it"
	case p != nil && p.yes != nil:
		keys = "y: yes   any other key: no"
	case p != nil:
		keys = "Esc closes"
	case w < uiMinList:
		keys = "/help  Ctrl-N/P room  Ctrl-C end"
	}
	if u.up > 0 && u.panel == nil {
		keys = fmt.Sprintf("%d lines below  Esc to the end", u.up)
	}
	return u.style.faint.Render(fit(keys, w))
}
