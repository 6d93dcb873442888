package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/isthmus-chat/isthmus/core"
)

// chatWait is how long a verb waits for another process with the same device.
const chatWait = 10 * time.Second

// A chatApp is isthmus chat: the verbs, and what they have in common.
type chatApp struct {
	*cli
	flags chatFlags
	holds string // what a verb is that has the device for long: holdScreen, holdTail
	// open returns the device; tests put another in its place.
	open func(ctx context.Context) (chatter, func() error, error)
}

func (c *cli) chatCommand() *cobra.Command {
	a := &chatApp{cli: c}
	a.open = a.openProfile
	return a.command()
}

func (a *chatApp) command() *cobra.Command {
	cmd := &cobra.Command{
		Use: "chat", Short: "Talk: a terminal client, and verbs for scripts", Args: cobra.NoArgs,
		Long: `Talk in end-to-end encrypted rooms and in channels.

Alone it is a terminal client; /help in it lists what can be typed. The verbs
do one thing and end, for scripts; with --json they write JSON, where things come one
by one an object a line.
Exit codes: 0 done, 1 refused, 2 wrong command line, 4 try again later.

Keys and messages are kept encrypted below ~/.local/share/isthmus-chat. What opens
them is asked for, or taken from $ISTHMUS_CHAT_PASSPHRASE or a --key-file.
A room is written as its name or as mimi://…, a user as alice@a.example.`,
		Example: `  isthmus chat login alice@a.example
  isthmus chat create garden bob@b.example
  echo hello | isthmus chat send garden
  isthmus chat tail --json`,
		RunE: a.holding(holdScreen, a.terminal),
	}
	a.profileFlags(cmd)
	cmd.AddCommand(a.loginCommand(), a.createCommand(), a.inviteCommand(), a.consentCommand(), a.lettersCommand(), a.joinCommand(), a.leaveCommand(), a.removeCommand(), a.authorityCommand(),
		a.sendCommand(), a.tailCommand(), a.historyCommand(), a.roomsCommand(), a.membersCommand(), a.devicesCommand(), a.verifyCommand(), a.codeCommand())
	return cmd
}

// profileFlags are those that say which device of this machine is meant.
func (a *chatApp) profileFlags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&a.flags.dir, "dir", "", "`directory` of the profiles, instead of ~/.local/share/isthmus-chat")
	f.StringVar(&a.flags.as, "as", "", "`user` whose device is used, if there are several here")
	f.StringVar(&a.flags.keyFile, "key-file", "", "`file` that opens the store, instead of a passphrase; login makes it")
	f.DurationVar(&a.flags.wait, "wait", chatWait, "how long to wait for another process that uses the device")
}

// openProfile opens the device that the flags name.
func (a *chatApp) openProfile(ctx context.Context) (chatter, func() error, error) {
	p, err := a.chatProfile(&a.flags)
	if err != nil {
		return nil, nil, err
	}
	secret, err := a.chatSecret(&a.flags, p, false)
	if err != nil {
		return nil, nil, err
	}
	s, err := openSession(ctx, p, secret, a.flags.wait)
	if err != nil {
		return nil, nil, err
	}
	if !s.device.Registered() {
		s.Close()
		return nil, nil, core.Errorf(core.Unauthenticated, "the homeserver does not know this device yet: finish `isthmus chat login %s`", shortUser(p.User, ""))
	}
	if a.holds == "" {
		return s, s.Close, nil
	}
	release, err := p.hold(a.holds)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	return s, func() error { release(); return s.Close() }, nil
}

// A verb is what a command does with the device.
type verb func(ctx context.Context, chat chatter, args []string) error

// run makes a verb a command's action: SIGINT and SIGTERM end it in order.
func (a *chatApp) run(do verb) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		context.AfterFunc(ctx, stop) // a second one ends it at once
		chat, end, err := a.open(ctx)
		if err != nil {
			return err
		}
		defer func() {
			if cerr := end(); err == nil {
				err = cerr
			}
		}()
		return do(ctx, chat, args)
	}
}

// holding is run for a verb that has the device for long, and says so to others.
func (a *chatApp) holding(what string, do verb) func(*cobra.Command, []string) error {
	run := a.run(do)
	return func(cmd *cobra.Command, args []string) error {
		a.holds = what
		return run(cmd, args)
	}
}

// sync takes what is new. What is due and cannot be done is said, and nothing else
// waits for it: rooms go on when one of them does not.
func (a *chatApp) sync(ctx context.Context, chat chatter) error {
	err := chat.Sync(ctx)
	if err != nil && goesOn(err) == nil {
		fmt.Fprintf(a.err, "isthmus: WARNING: %s\n", screenLine(explain(err)))
	}
	return goesOn(err)
}

// online is run for a verb that begins with what is new.
func (a *chatApp) online(do verb) func(*cobra.Command, []string) error {
	return a.run(func(ctx context.Context, chat chatter, args []string) error {
		if err := a.sync(ctx, chat); err != nil {
			return err
		}
		return do(ctx, chat, args)
	})
}

// offline is online for a verb that does without the homeserver if it must.
func (a *chatApp) offline(do verb) func(*cobra.Command, []string) error {
	return a.run(func(ctx context.Context, chat chatter, args []string) error {
		if err := a.sync(ctx, chat); err != nil {
			if !core.Temporary(err) {
				return err
			}
			fmt.Fprintf(a.err, "isthmus: %s; what follows is what this device knows\n", screenLine(explain(err)))
		}
		return do(ctx, chat, args)
	})
}

// show writes v as JSON, or what text writes, its columns aligned. Either way no
// character is a terminal's command.
func (a *chatApp) show(v any, text func(w io.Writer)) error {
	if !a.json {
		w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
		text(w)
		return w.Flush()
	}
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return core.Errorf(core.Internal, "answer: %w", err)
	}
	_, err = a.out.Write(append(tameJSON(b), '\n'))
	return err
}

// terminal is the terminal client.
func (a *chatApp) terminal(ctx context.Context, chat chatter, _ []string) error {
	in, isFile := a.in.(*os.File)
	out, isOut := a.out.(*os.File)
	if !isFile || !isOut || !term.IsTerminal(int(in.Fd())) || !term.IsTerminal(int(out.Fd())) {
		return &usageError{"isthmus chat needs a terminal; for scripts it has verbs: isthmus chat --help"}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ui := newChatUI(ctx, chat, newUIStyle(out, a.environ))
	p := tea.NewProgram(ui, tea.WithAltScreen(), tea.WithInput(in), tea.WithOutput(out), tea.WithContext(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := chat.Listen(ctx, func(n chatNews) { p.Send(uiNews(n)) }); err != nil {
			p.Send(uiNews{Status: "ended: " + explain(err)})
		}
	}()
	_, err := p.Run()
	stop()
	<-done // the store is closed next
	if ctx.Err() != nil && (err == tea.ErrProgramKilled || err == tea.ErrInterrupted) {
		return nil
	}
	return err
}
