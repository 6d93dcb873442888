package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

func (c *cli) roomCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "room", Short: "List, create and show rooms", Args: cobra.NoArgs, RunE: needsSubcommand}
	cmd.AddCommand(
		&cobra.Command{
			Use: "list", Short: "List the rooms", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return do(c, cmd.Context(), "room.list", nothing{}, printRooms)
			},
		},
		c.roomCreateCommand(),
		&cobra.Command{
			Use: "show ROOM", Short: "Show one room and its links", Args: cobra.ExactArgs(1),
			Example: "  isthmus room show '#lobby'",
			RunE: func(cmd *cobra.Command, args []string) error {
				return do(c, cmd.Context(), "room.show", roomRef{args[0]}, printRoom)
			},
		},
	)
	return cmd
}

func (c *cli) roomCreateCommand() *cobra.Command {
	var req roomCreate
	cmd := &cobra.Command{
		Use: "create ROOM", Short: "Create a Channel: a room that is not end-to-end encrypted", Args: cobra.ExactArgs(1),
		Example: "  isthmus room create '#lobby' --topic 'Say hello'",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Room = args[0]
			return do(c, cmd.Context(), "room.create", req, func(w io.Writer, r roomInfo) {
				fmt.Fprintf(w, "Created %s (%s).\n", r.Name, r.Room)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&req.Topic, "topic", "", "the topic")
	f.StringVar(&req.Owner, "owner", "", "`account` that owns the room")
	f.BoolVar(&req.Policy.Moderated, "moderated", false, "only members with voice speak (+m)")
	f.BoolVar(&req.Policy.InviteOnly, "invite-only", false, "only the invited join (+i)")
	f.BoolVar(&req.Policy.TopicLock, "topic-lock", true, "only operators change the topic (+t)")
	f.BoolVar(&req.Policy.Secret, "secret", false, "not listed to those outside (+s)")
	f.BoolVar(&req.Policy.Registered, "registered", false, "only users with an account join (+R)")
	return cmd
}

func printRooms(w io.Writer, l roomList) {
	if len(l.Rooms) == 0 {
		fmt.Fprintln(w, "No rooms yet: join a channel with an IRC client, or use `isthmus room create`.")
		return
	}
	fmt.Fprintln(w, "ROOM\tKIND\tJOINED\tEVENTS\tLINKS\tADDRESS\tTOPIC")
	for _, r := range l.Rooms {
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%s\t%s\n", clip(r.Name), r.Kind, r.Joined, r.Events, len(r.Links), r.Room, clip(r.Topic))
	}
	if l.More {
		fmt.Fprintf(w, "Only the first %d are listed.\n", len(l.Rooms))
	}
}

func printRoom(w io.Writer, r roomInfo) {
	fmt.Fprintf(w, "Room\t%s\nAddress\t%s\nKind\t%s\nTopic\t%s\nJoined\t%d\nEvents\t%d\nCreated\t%s\n",
		r.Name, r.Room, r.Kind, clip(r.Topic), r.Joined, r.Events, r.Created.UTC().Format("2006-01-02 15:04:05"))
	for _, l := range r.Links {
		fmt.Fprintf(w, "Link\t%s to %s on %s\n", l.ID, l.Place, l.Network)
	}
}

// clip shortens a text for a column of a table and keeps it on its line: it was
// written by a user, and the reader is a terminal.
func clip(s string) string {
	const most = 60
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, s)
	if rs := []rune(s); len(rs) > most {
		return string(rs[:most-1]) + "…"
	}
	return s
}

func (c *cli) linkCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "link", Short: "Link rooms to other networks", Args: cobra.NoArgs, RunE: needsSubcommand}
	cmd.AddCommand(c.linkAddCommand(),
		&cobra.Command{
			Use: "list", Short: "List the links and what they carried", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return do(c, cmd.Context(), "link.list", nothing{}, printLinks)
			},
		},
		&cobra.Command{
			Use: "resume LINK", Short: "Start a paused link again; what waited is delivered", Args: cobra.ExactArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return do(c, cmd.Context(), "link.resume", linkRef{ID: args[0]}, func(w io.Writer, l linkInfo) {
					fmt.Fprintf(w, "Link %s to %s runs.\n", l.ID, l.Place)
				})
			},
		},
		c.linkRemoveCommand())
	return cmd
}

func (c *cli) linkAddCommand() *cobra.Command {
	var req linkAdd
	var where string
	var create bool
	cmd := &cobra.Command{
		Use: "add ROOM {PLACE | --matrix PLACE | --matrix NAME --create}", Short: "Link a room to a place on a network",
		Long: "link add enters PLACE, a Matrix room ID or alias, and links the room to it; or makes a place\n" +
			"there with --create. The network may be left out if there is one only.",
		Example: "  isthmus link add '#lobby' --matrix '!abcdef:example.org'\n" +
			"  isthmus link add '#lobby' --matrix example --create --invite @alice:example.org",
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Room = args[0]
			if strings.HasPrefix(where, "!") || strings.HasPrefix(where, "#") {
				args = append(args, where)
			} else if where != "" {
				req.Network = where
			}
			switch {
			case len(args) > 2 || len(args) == 2 && create:
				return &usageError{"give one place, or --create"}
			case len(args) == 2:
				req.Place = args[1]
			case !create:
				return &usageError{"give a place, or --create to make one"}
			}
			return do(c, cmd.Context(), "link.add", req, func(w io.Writer, l linkInfo) {
				fmt.Fprintf(w, "Linked %s to %s on %s as %s.\n", req.Room, l.Place, l.Network, l.ID)
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&where, "matrix", "", "Matrix room `ID`, alias, or the name of the homeserver in the configuration")
	f.StringVar(&req.Network, "network", "", "`network` to link to, such as matrix:example.org")
	f.BoolVar(&create, "create", false, "make the place")
	f.BoolVar(&req.Public, "public", false, "everybody may join the place that is made; else the invited")
	f.StringSliceVar(&req.Invite, "invite", nil, "`user` of that network to invite into the place that is made")
	f.BoolVar(&req.Unchecked, "unchecked", false, "do not enter the place first: the network may be away")
	f.BoolVar(&req.Mirror, "mirror", false, "users appear there when they join, not when they first speak")
	f.StringVar(&req.Owner, "owner", "", "who asked for the link")
	return cmd
}

func (c *cli) linkRemoveCommand() *cobra.Command {
	var req linkRef
	cmd := &cobra.Command{
		Use: "remove LINK", Short: "End a link; our users leave the place, and users from there the room", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			req.ID = args[0]
			return do(c, cmd.Context(), "link.remove", req, func(w io.Writer, l linkInfo) {
				fmt.Fprintf(w, "Removed link %s to %s.\n", l.ID, l.Place)
			})
		},
	}
	cmd.Flags().BoolVar(&req.Unchecked, "unchecked", false, "leave our users there: the network may be gone")
	return cmd
}

func printLinks(w io.Writer, l linkList) {
	if len(l.Links) == 0 {
		fmt.Fprintln(w, "No links yet: `isthmus link add` makes one.")
		return
	}
	fmt.Fprintln(w, "LINK\tROOM\tNETWORK\tPLACE\tDELIVERED\tREFUSED\tEXPIRED\tWAITING\tSTATE")
	for _, x := range l.Links {
		state := "running"
		if x.Paused != "" {
			state = "paused: " + clip(x.Paused)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\n", x.ID, "#"+x.Room.Local(), x.Network, x.Place, x.Delivered, x.Refused, x.Expired, x.Waiting, state)
	}
}

// needsSubcommand refuses a command that only groups others.
func needsSubcommand(cmd *cobra.Command, _ []string) error {
	var names []string
	for _, s := range cmd.Commands() {
		names = append(names, s.Name())
	}
	return &usageError{fmt.Sprintf("%s needs one of: %s", cmd.CommandPath(), strings.Join(names, ", "))}
}
