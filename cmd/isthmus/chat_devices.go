package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/core"
)

func (a *chatApp) devicesCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "devices [USER]", Short: "List devices, and manage one's own", Args: cobra.MaximumNArgs(1),
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			users, err := userArgs(chat, args)
			if err != nil {
				return err
			}
			if users = append(users, chat.Self().User); len(args) > 0 {
				users = users[:1]
			}
			devices, err := chat.Devices(ctx, users[0])
			if err != nil {
				return err
			}
			return a.show(devices, func(w io.Writer) {
				fmt.Fprintln(w, "DEVICE\tNAME\tSTATE")
				for _, d := range devices {
					fmt.Fprintf(w, "%s\t%s\t%s\n", screenLine(d.Device.ID()), screenLine(d.Name), d.state())
				}
			})
		}),
	}
	cmd.AddCommand(
		a.deviceVerb("link DEVICE", "Say that another device is yours; say it there of this one too", "This device says now that %s is yours.\n", chatter.Link),
		a.deviceVerb("revoke DEVICE", "End a device for ever: take it out of all rooms", "Revoked %s.\n", chatter.Revoke),
		a.approveCommand())
	return cmd
}

// deviceDone is the answer of verbs that only do something to a device.
type deviceDone struct {
	Device core.DeviceURI `json:"device"`
	Done   string         `json:"done"`
}

// deviceVerb is a command about one of the user's own devices.
func (a *chatApp) deviceVerb(use, short, said string, do func(chatter, context.Context, core.DeviceURI) error) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.ExactArgs(1)}
	cmd.RunE = a.online(func(ctx context.Context, chat chatter, args []string) error {
		device, err := core.ParseDeviceURI(string(core.NewDeviceURI(chat.Self().User.Domain(), deviceID(args[0]))))
		if err == nil {
			err = do(chat, ctx, device)
		}
		if err != nil {
			return err
		}
		return a.show(deviceDone{device, cmd.Name()}, func(w io.Writer) { fmt.Fprintf(w, said, device.ID()) })
	})
	return cmd
}

// approval is the answer of approve.
type approval struct {
	Approval string `json:"approval"`
}

func (a *chatApp) approveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "approve REQUEST", Short: "Vouch for a new device of yours: see isthmus chat login --help", Args: cobra.ExactArgs(1),
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			record, err := base64.RawURLEncoding.DecodeString(args[0])
			if err != nil {
				return core.Errorf(core.Invalid, "that is not what `isthmus chat login --with` prints")
			}
			sig, err := chat.Approve(ctx, record)
			if err != nil {
				return err
			}
			out := approval{formatApproval(chat.Self().Device, sig)}
			return a.show(out, func(w io.Writer) {
				fmt.Fprintf(w, "On the new device run:\n\n  isthmus chat login %s --approval %s\n", shortUser(chat.Self().User, ""), out.Approval)
			})
		}),
	}
}
