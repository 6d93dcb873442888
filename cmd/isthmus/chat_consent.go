package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// letterCodeFor is how long the join code in an invitation by letter is good.
const letterCodeFor = 7 * 24 * time.Hour

// allOthers is what the command line says for those of whom nothing else is said.
const allOthers = "everybody"

// Consent implements chatter.
func (s *chatSession) Consent(ctx context.Context, change *wire.PutConsent) ([]wire.Consent, error) {
	call := homeCall{method: http.MethodGet, path: "/v1/consent"}
	if change != nil {
		call = put("/v1/consent", *change)
	}
	var out wire.Consents
	err := s.home.call(ctx, call, &out)
	return out.Consents, err
}

// inviteByLetter writes to a user who wants to be asked: with a join code, if one may make
// them in that room, else with the wish to be let add them.
func (s *chatSession) inviteByLetter(ctx context.Context, room core.RoomID, user core.UserURI) error {
	l := client.Letter{Kind: client.LetterInvitation, Room: room}
	code, err := s.device.JoinCode(ctx, room, "", 1, time.Now().Add(letterCodeFor).UnixMilli())
	switch {
	case err == nil:
		l.Code = code.Code
	case core.CodeOf(err) == core.Denied:
		l.Kind, l.Text = client.LetterConsent, "request"
	default:
		return err
	}
	return s.device.WriteLetter(ctx, user, l)
}

// Letters implements chatter.
func (s *chatSession) Letters(ctx context.Context, limit int) ([]client.Letter, error) {
	return s.device.Letters(ctx, limit)
}

func (a *chatApp) lettersCommand() *cobra.Command {
	limit := 20
	cmd := &cobra.Command{
		Use: "letters", Short: "Show invitations and other letters that came", Args: cobra.NoArgs,
		RunE: a.offline(func(ctx context.Context, chat chatter, _ []string) error {
			letters, err := chat.Letters(ctx, limit)
			if err != nil {
				return err
			}
			return a.show(letters, func(w io.Writer) {
				for i := range letters {
					at := time.UnixMilli(letters[i].At).Format("2006-01-02 15:04")
					fmt.Fprintf(w, "%s  %s\n", at, letterText(&letters[i], chat.Self().User.Domain(), true))
				}
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", limit, "at most so many")
	return cmd
}

func (a *chatApp) consentCommand() *cobra.Command {
	return &cobra.Command{
		Use: "consent [USER|everybody yes|no|forget]", Short: "Say who may add you to encrypted rooms", Args: cobra.MatchAll(cobra.MaximumNArgs(2), evenArgs),
		Long: `Without arguments, show what you have said. Everybody may, unless you say
"everybody no": then those whom you named with yes may, and others send you a letter,
from which you enter with "isthmus chat join" if you like. Nobody is told what you say.`,
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			change, err := consentArgs(chat, args)
			if err != nil {
				return err
			}
			said, err := chat.Consent(ctx, change)
			if err != nil {
				return err
			}
			return a.show(said, func(w io.Writer) { printConsents(w, said, chat.Self().User.Domain()) })
		}),
	}
}

func evenArgs(_ *cobra.Command, args []string) error {
	if len(args) == 1 {
		return fmt.Errorf("say yes, no or forget of %q", args[0])
	}
	return nil
}

// consentArgs reads what is to change; nil = nothing.
func consentArgs(chat chatter, args []string) (*wire.PutConsent, error) {
	if len(args) == 0 {
		return nil, nil
	}
	var change wire.PutConsent
	if args[0] != allOthers {
		users, err := userArgs(chat, args[:1])
		if err != nil {
			return nil, err
		}
		change.User = users[0]
	}
	switch args[1] {
	case "yes":
		change.May = true
	case "no":
	case "forget":
		change.Forget = true
	default:
		return nil, core.Errorf(core.Invalid, "say yes, no or forget, not %q", args[1])
	}
	return &change, nil
}

func printConsents(w io.Writer, said []wire.Consent, home string) {
	rest := "yes"
	for _, c := range said {
		answer := map[bool]string{true: "yes", false: "no"}[c.May]
		if c.User == "" {
			rest = answer
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", shortUser(c.User, home), answer)
	}
	fmt.Fprintf(w, "%s else\t%s\n", allOthers, rest)
}
