package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of what verbs read and write.
const (
	maxTailStart = 10000 // lines that tail begins with, of each room
	historyPage  = 500
	enterTries   = 20 // times that a verb looks whether this device has entered a room
	enterPause   = 150 * time.Millisecond
)

// roomArg finds the room that an argument names among those that the user is in.
func roomArg(chat chatter, s string) (core.RoomID, error) {
	rooms, err := chat.Rooms()
	if err != nil {
		return "", err
	}
	return findRoom(s, rooms)
}

// enteredArg is roomArg for a verb that does something in the room: whoever was just
// invited is on the way in, and the room has no name here until then. That is waited for.
func enteredArg(ctx context.Context, chat chatter, s string) (core.RoomID, error) {
	for range enterTries {
		rooms, err := chat.Rooms()
		if err != nil {
			return "", err
		}
		id, err := findRoom(s, rooms)
		if !slices.ContainsFunc(rooms, func(r chatRoom) bool { return r.Entering && (r.Room == id || err != nil) }) {
			return id, err
		}
		if sleepFor(ctx, enterPause) != nil || goesOn(chat.Sync(ctx)) != nil {
			break
		}
	}
	return roomArg(chat, s)
}

// userArgs reads arguments as users.
func userArgs(chat chatter, args []string) ([]core.UserURI, error) {
	users := make([]core.UserURI, len(args))
	for i, s := range args {
		var err error
		if users[i], err = parseUser(s, chat.Self().User.Domain()); err != nil {
			return nil, err
		}
	}
	return users, nil
}

func (a *chatApp) createCommand() *cobra.Command {
	var q chatCreate
	var id string
	cmd := &cobra.Command{
		Use: "create NAME [USER…]", Short: "Make an encrypted room, and invite to it", Args: cobra.MinimumNArgs(1),
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) (err error) {
			q.Name = args[0]
			if q.Users, err = userArgs(chat, args[1:]); err != nil {
				return err
			}
			if id != "" {
				if q.Room, err = core.ParseRoomID(string(core.NewRoomID(chat.Self().User.Domain(), id))); err != nil {
					return err
				}
			}
			r, err := chat.Create(ctx, q)
			if err != nil {
				return err
			}
			if err := a.show(r, func(w io.Writer) {
				fmt.Fprintf(w, "Made %s (%s): %s.\n", screenLine(r.Name), r.Room, roomKind(r))
				if len(r.Claims) > 0 {
					fmt.Fprintln(w, invitedText(r.Claims, chat.Self().User.Domain()))
				}
			}); err != nil {
				return err
			}
			return allReached(r.Claims)
		}),
	}
	cmd.Flags().StringVar(&id, "id", "", "the last part of the room's address (default a random one); servers see it, and NAME")
	cmd.Flags().BoolVar(&q.Channel, "channel", false, "make a channel: NOT encrypted, for IRC clients and links too")
	return cmd
}

func roomKind(r chatRoom) string {
	if r.Encrypted {
		return "end-to-end encrypted"
	}
	return "NOT encrypted"
}

func (a *chatApp) inviteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "invite ROOM USER…", Short: "Let users into a room, with all their devices", Args: cobra.MinimumNArgs(2),
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			room, err := enteredArg(ctx, chat, args[0])
			if err != nil {
				return err
			}
			users, err := userArgs(chat, args[1:])
			if err != nil {
				return err
			}
			claims, err := chat.Invite(ctx, room, users)
			if err != nil {
				return err
			}
			if err := a.show(claims, func(w io.Writer) { fmt.Fprintln(w, invitedText(claims, chat.Self().User.Domain())) }); err != nil {
				return err
			}
			return allReached(claims)
		}),
	}
}

// allReached is errSaid if an invitation did not reach somebody.
func allReached(claims []chatClaim) error {
	if slices.ContainsFunc(claims, func(c chatClaim) bool { return !c.reached() }) {
		return errSaid
	}
	return nil
}

func (a *chatApp) joinCommand() *cobra.Command {
	var code string
	cmd := &cobra.Command{
		Use: "join ROOM", Short: "Enter a room that is open, or to which one has a code", Args: cobra.ExactArgs(1),
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			room, err := joinArg(chat, args[0])
			if err != nil {
				return err
			}
			r, err := chat.Join(ctx, room, code)
			if err != nil {
				return err
			}
			return a.show(r, func(w io.Writer) { fmt.Fprintf(w, "You are in %s: %s.\n", screenLine(r.Name), roomKind(r)) })
		}),
	}
	cmd.Flags().StringVar(&code, "code", "", "join `code`")
	return cmd
}

// joinArg reads a room to join: one that is not known is of the own homeserver.
func joinArg(chat chatter, s string) (core.RoomID, error) {
	room, err := roomArg(chat, s)
	if core.CodeOf(err) == core.NotFound && err != nil && s != "" {
		return core.ParseRoomID(string(core.NewRoomID(chat.Self().User.Domain(), strings.ToLower(strings.TrimPrefix(s, "#")))))
	}
	return room, err
}

// roomDone is the answer of verbs that only do something to a room.
type roomDone struct {
	Room core.RoomID `json:"room"`
	Done string      `json:"done"` // the verb, or "leaving": nobody has done it yet
}

// leaveLook is how often leave looks whether it has come to pass.
const leaveLook = 200 * time.Millisecond

func (a *chatApp) leaveCommand() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use: "leave ROOM", Short: "Leave a room, with all one's devices", Args: cobra.ExactArgs(1),
		Long: `leave asks to be taken out of an encrypted room: another member's device does it when
it is online. Until then leave waits, but not for ever. If nobody did it in time it
says so, and what is run next here sees to it that the wish is not forgotten.`,
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			room, err := enteredArg(ctx, chat, args[0])
			if err == nil {
				err = chat.Leave(ctx, room)
			}
			left := false
			if err == nil {
				left, err = awaitLeft(ctx, chat, room, wait)
			}
			if err != nil {
				return err
			}
			if !left {
				return a.show(roomDone{room, "leaving"}, func(w io.Writer) {
					fmt.Fprintf(w, "You asked to leave %s: another member's device will take you out when it is online.\n", screenLine(args[0]))
				})
			}
			return a.show(roomDone{room, "leave"}, func(w io.Writer) { fmt.Fprintf(w, "You left %s.\n", screenLine(args[0])) })
		}),
	}
	cmd.Flags().DurationVar(&wait, "wait", 10*time.Second, "wait at most so long to be let go")
	return cmd
}

// awaitLeft takes what comes until a room is none of one's own, or for so long. A
// commit of somebody else takes the wish with it: to take it brings the wish again.
func awaitLeft(ctx context.Context, chat chatter, room core.RoomID, wait time.Duration) (bool, error) {
	end := time.Now().Add(wait)
	ctx, cancel := context.WithDeadline(ctx, end)
	defer cancel()
	for {
		rooms, err := chat.Rooms()
		if err != nil || !slices.ContainsFunc(rooms, func(r chatRoom) bool { return r.Room == room }) {
			return err == nil, err
		}
		if !time.Now().Before(end) {
			return false, nil
		}
		if err := sleepFor(ctx, leaveLook); err != nil {
			return false, nil // interrupted: the wish stands
		}
		if err := goesOn(chat.Sync(ctx)); err != nil && !core.Temporary(err) {
			return false, err
		}
	}
}

func (a *chatApp) removeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove ROOM USER…", Short: "Put users out of a room", Args: cobra.MinimumNArgs(2),
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			room, err := enteredArg(ctx, chat, args[0])
			if err != nil {
				return err
			}
			users, err := userArgs(chat, args[1:])
			if err == nil {
				err = chat.Remove(ctx, room, users)
			}
			if err != nil {
				return err
			}
			return a.show(roomDone{room, "remove"}, func(w io.Writer) { fmt.Fprintf(w, "Removed %s.\n", screenLine(strings.Join(args[1:], ", "))) })
		}),
	}
}

// writeLine says one thing said.
func (a *chatApp) writeLine(l chatLine, home, room string) error {
	if a.json {
		return writeJSONLine(a.out, l)
	}
	lines := screenLines(lineText(l, home))
	prefix := l.At.Local().Format("2006-01-02 15:04 ")
	if room != "" {
		prefix += screenLine(room) + " "
	}
	for i, s := range lines {
		if i > 0 {
			prefix = strings.Repeat(" ", 4)
		}
		if _, err := fmt.Fprintln(a.out, prefix+s); err != nil {
			return err
		}
	}
	return nil
}

// historyArg finds a room like roomArg, and if there is none one that was left.
func historyArg(chat chatter, s string) (core.RoomID, error) {
	room, err := roomArg(chat, s)
	if err == nil || core.CodeOf(err) != core.NotFound {
		return room, err
	}
	left, lerr := chat.Left()
	if lerr != nil {
		return "", lerr
	}
	if room, lerr = findRoom(s, left); core.CodeOf(lerr) == core.NotFound && lerr != nil {
		return "", err
	}
	return room, lerr
}

func (a *chatApp) historyCommand() *cobra.Command {
	var limit int
	var before uint64
	cmd := &cobra.Command{
		Use: "history ROOM", Short: "Show what was said in a room", Args: cobra.ExactArgs(1),
		RunE: a.offline(func(ctx context.Context, chat chatter, args []string) error {
			room, err := historyArg(chat, args[0])
			if err != nil {
				return err
			}
			var all []chatLine
			for len(all) < limit {
				page, err := chat.History(room, before, min(limit-len(all), historyPage))
				if err != nil {
					return err
				}
				if len(page) == 0 {
					break
				}
				all = append(page, all...)
				before = page[0].Seq
			}
			for _, l := range all {
				if err := a.writeLine(l, chat.Self().User.Domain(), ""); err != nil {
					return err
				}
			}
			return nil
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many")
	cmd.Flags().Uint64Var(&before, "before", 0, "only what came before this place (seq)")
	return cmd
}

func (a *chatApp) roomsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "rooms", Short: "List the rooms one is in", Args: cobra.NoArgs,
		RunE: a.offline(func(ctx context.Context, chat chatter, _ []string) error {
			rooms, err := chat.Rooms()
			if err != nil {
				return err
			}
			return a.show(rooms, func(w io.Writer) {
				if len(rooms) == 0 {
					fmt.Fprintln(w, "You are in no room yet: `isthmus chat create` makes one.")
					return
				}
				fmt.Fprintln(w, "ROOM\tENCRYPTION\tUNREAD\tEPOCH\tADDRESS\tSECURITY DOMAIN")
				for _, r := range rooms {
					domain := r.Domain
					if domain == "" {
						domain = "none"
					}
					fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%s\t%s\n", screenLine(r.Name), roomKind(r), r.Unread, r.Epoch, screenLine(string(r.Room)), screenLine(domain))
					for _, warning := range r.Warnings {
						fmt.Fprintf(w, "  WARNING: %s\n", screenLine(warning))
					}
				}
			})
		}),
	}
}

func (a *chatApp) membersCommand() *cobra.Command {
	return &cobra.Command{
		Use: "members ROOM", Short: "List who is in a room, with which devices", Args: cobra.ExactArgs(1),
		RunE: a.offline(func(ctx context.Context, chat chatter, args []string) error {
			room, err := enteredArg(ctx, chat, args[0])
			if err != nil {
				return err
			}
			members, err := chat.Members(ctx, room)
			if err != nil {
				return err
			}
			return a.show(members, func(w io.Writer) {
				for _, m := range members {
					fmt.Fprintf(w, "%s\t%s\n", shownUser(m.User, m.Name, ""), screenLine(m.Role))
					for _, d := range m.Devices {
						fmt.Fprintf(w, "  %s\n", deviceText(d))
					}
				}
			})
		}),
	}
}

func (a *chatApp) codeCommand() *cobra.Command {
	var q chatCode
	var lives time.Duration
	var drop string
	cmd := &cobra.Command{
		Use: "code ROOM", Short: "Make a join code for a room", Args: cobra.ExactArgs(1),
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			room, err := enteredArg(ctx, chat, args[0])
			if err != nil {
				return err
			}
			if drop != "" {
				q = chatCode{Code: drop, Drop: true}
			}
			q.Expires = until(lives)
			c, err := chat.Code(ctx, room, q)
			if err != nil {
				return err
			}
			return a.show(c, func(w io.Writer) {
				if c.Drop {
					fmt.Fprintln(w, "That code opens the room no more.")
					return
				}
				fmt.Fprintf(w, "%s\n\nWho has it enters with:\n  isthmus chat join %s --code %s\n", screenLine(c.Code), c.Room, screenLine(c.Code))
			})
		}),
	}
	f := cmd.Flags()
	f.StringVar(&q.Code, "code", "", "this `code` (a passphrase) instead of a random one")
	f.Uint32Var(&q.Uses, "uses", 1, "how often it may be used; 0 = without limit")
	f.DurationVar(&lives, "for", 0, "how long it is good for; 0 = until it is dropped")
	f.StringVar(&drop, "drop", "", "take this `code` back")
	return cmd
}

func (a *chatApp) verifyCommand() *cobra.Command {
	yes := false
	cmd := &cobra.Command{
		Use: "verify USER|DEVICE", Short: "Compare safety words, and note that they are the same", Args: cobra.ExactArgs(1),
		Long: `Show the safety words of this device and another. Compare them with its owner by
another way: in person, on the telephone. If they are the same in the same order,
nobody stands between you. Of a user with several devices: USER/first-letters.`,
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			device, err := findDevice(ctx, chat, args[0])
			if err != nil {
				return err
			}
			v := verification{Device: device, Verified: yes}
			if v.Words, err = chat.Words(ctx, device); err != nil {
				return err
			}
			if !yes && !a.json {
				v.Verified = a.asked(v.Words)
			}
			if v.Verified {
				err = chat.Verify(ctx, device)
			}
			if err != nil {
				return err
			}
			return a.show(v, func(w io.Writer) {
				if v.Verified {
					fmt.Fprintf(w, "Verified %s.\n", device.ID())
				} else {
					fmt.Fprintf(w, "Not verified. Once they were compared: isthmus chat verify %s --yes\n", screenLine(args[0]))
				}
			})
		}),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "the words were compared and are the same")
	return cmd
}

// verification is the answer of verify.
type verification struct {
	Device   core.DeviceURI `json:"device"`
	Words    []string       `json:"words"`
	Verified bool           `json:"verified"`
}

// asked shows safety words; on a terminal it asks whether they are the same.
func (a *chatApp) asked(words []string) bool {
	for i := 0; i < len(words); i += 4 {
		fmt.Fprintf(a.out, "  %s\n", screenLine(strings.Join(words[i:min(i+4, len(words))], " ")))
	}
	in, ok := a.in.(*os.File)
	if !ok || !term.IsTerminal(int(in.Fd())) {
		return false
	}
	fmt.Fprint(a.err, "Are they the same on both devices? [y/N] ")
	line, _ := bufio.NewReader(io.LimitReader(in, 16)).ReadString('\n') // what cannot be read is no yes
	return strings.EqualFold(strings.TrimSpace(line), "y")
}

func (a *chatApp) tailCommand() *cobra.Command {
	var t tailer
	cmd := &cobra.Command{
		Use: "tail [ROOM]", Short: "Show what was not read yet, and what comes, as it comes", Args: cobra.MaximumNArgs(1),
		Long: `Show what was not read yet, then what comes, until it is interrupted; what was shown
counts as read. Of one room, or of all.`,
	}
	cmd.RunE = a.holding(holdTail, func(ctx context.Context, chat chatter, args []string) error {
		t.all = cmd.Flags().Changed("since")
		return a.tail(ctx, chat, args, &t)
	})
	f := cmd.Flags()
	f.IntVar(&t.limit, "limit", math.MaxInt, "end after so many messages (default never)")
	f.Lookup("limit").DefValue = "0" // which help does not show
	f.DurationVar(&t.lasts, "for", 0, "end after so long; 0 = never")
	f.Uint64Var(&t.since, "since", 0, "begin after this place (seq), read or not, with what one said oneself")
	return cmd
}
