package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
)

// roomAuthority is the answer of authority.
type roomAuthority struct {
	Room      core.RoomID `json:"room"`
	Authority []string    `json:"authority"`
	TwoThirds bool        `json:"two_thirds"` // more than so many have to agree; else more than half
}

func (a *chatApp) authorityCommand() *cobra.Command {
	twoThirds := false
	cmd := &cobra.Command{
		Use: "authority ROOM [DOMAIN…]", Short: "Show which homeservers decide a room, or set them", Args: cobra.MinimumNArgs(1),
		Long: `Show which homeservers agree on who is in an encrypted room, its keys and its
rules; with domains, let it be these: all of them, the old ones that stay too. Each
needs a user in the room. An operator of the room may do it, and those who decide so
far have to agree.`,
	}
	cmd.RunE = a.online(func(ctx context.Context, chat chatter, args []string) error {
		room, err := enteredArg(ctx, chat, args[0])
		if err != nil {
			return err
		}
		now, err := authorityOf(chat, room)
		if err != nil {
			return err
		}
		ruled := cmd.Flags().Changed("two-thirds")
		if len(args) > 1 || ruled {
			if err := chat.SetAuthority(ctx, room, nextAuthority(now, args[1:], ruled, twoThirds)); err != nil {
				return err
			}
			if now, err = authorityOf(chat, room); err != nil {
				return err
			}
		}
		return a.show(now, func(w io.Writer) { printAuthority(w, now) })
	})
	cmd.Flags().BoolVar(&twoThirds, "two-thirds", false, "more than two thirds have to agree; =false: more than half")
	return cmd
}

// authorityOf is the authority of a room as the device knows it.
func authorityOf(chat chatter, room core.RoomID) (roomAuthority, error) {
	rooms, err := chat.Rooms()
	if err != nil {
		return roomAuthority{}, err
	}
	i := slices.IndexFunc(rooms, func(r chatRoom) bool { return r.Room == room })
	switch {
	case i < 0:
		return roomAuthority{}, core.Errorf(core.NotFound, "you are in no such room")
	case !rooms[i].Encrypted:
		return roomAuthority{}, core.Errorf(core.Invalid, "a channel is decided by its own homeserver alone")
	case len(rooms[i].Authority) == 0:
		return roomAuthority{}, core.Errorf(core.Conflict, "this device is not in the room yet")
	}
	return roomAuthority{room, rooms[i].Authority, rooms[i].TwoThirds}, nil
}

// nextAuthority is the one asked for: without domains it is of the same ones, and
// without a rule by the same rule.
func nextAuthority(now roomAuthority, domains []string, ruled, twoThirds bool) policy.Authority {
	next := policy.Authority{Domains: now.Authority}
	if len(domains) > 0 {
		next.Domains = slices.Clone(domains)
		for i, d := range next.Domains {
			next.Domains[i] = strings.ToLower(d)
		}
		slices.Sort(next.Domains)
		next.Domains = slices.Compact(next.Domains)
	}
	if ruled && twoThirds || !ruled && now.TwoThirds {
		next.Rule = policy.TwoThirds
	}
	return next
}

func printAuthority(w io.Writer, r roomAuthority) {
	for _, d := range r.Authority {
		fmt.Fprintln(w, screenLine(d))
	}
	n := len(r.Authority)
	need := n/2 + 1
	if r.TwoThirds {
		need = n*2/3 + 1
	}
	fmt.Fprintf(w, "%d of %d have to agree to a change.\n", need, n)
}
