package main

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"strings"

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
	cmd.Long = fmt.Sprintf("%s.\n\nDEVICE is what `isthmus chat devices` shows, or its first letters: at least %d, and as\nmany as no other device of yours begins with.", short, leastPrefix)
	cmd.RunE = a.online(func(ctx context.Context, chat chatter, args []string) error {
		device, err := ownDevice(ctx, chat, args[0])
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

// leastPrefix is how many letters of a device's ID have to be written where a word
// names a device of one's own: less is too easily a slip.
const leastPrefix = 4

// ownDevice reads what people write for one of their own devices: its URI, its ID, or
// the first letters of it. Conflict: several begin so.
func ownDevice(ctx context.Context, chat chatter, word string) (core.DeviceURI, error) {
	id := strings.ToLower(deviceID(word))
	whole, err := core.ParseDeviceURI(string(core.NewDeviceURI(chat.Self().User.Domain(), id)))
	switch {
	case err != nil || strings.HasPrefix(word, "mimi://") && word != string(whole):
		return "", core.Errorf(core.NotFound, "%s is no device of yours", screenLine(word))
	case len(id) == core.Base32.EncodedLen(deviceIDSize):
		return whole, nil // also one that is not listed any more
	case len(id) < leastPrefix:
		return "", core.Errorf(core.Invalid, "%q is too short: write at least %d letters of the device", screenLine(word), leastPrefix)
	}
	devices, err := chat.Devices(ctx, chat.Self().User)
	if err != nil {
		return "", err
	}
	devices = slices.DeleteFunc(devices, func(d chatDevice) bool { return !strings.HasPrefix(d.Device.ID(), id) })
	if live := slices.DeleteFunc(slices.Clone(devices), func(d chatDevice) bool { return d.Revoked }); len(live) > 0 {
		devices = live
	}
	switch len(devices) {
	case 1:
		return devices[0].Device, nil
	case 0:
		return "", core.Errorf(core.NotFound, "you have no device %s: `isthmus chat devices` lists them", screenLine(word))
	}
	return "", core.Errorf(core.Conflict, "%d devices of yours begin with %s: %s", len(devices), screenLine(word), candidates(devices))
}

// candidates lists devices by as many letters of their IDs as tell them apart.
func candidates(devices []chatDevice) string {
	ids := make([]string, len(devices))
	for i, d := range devices {
		ids[i] = d.Device.ID()
	}
	slices.Sort(ids)
	n := 6
	for i := 1; i < len(ids); i++ {
		same := 0
		for same < min(len(ids[i-1]), len(ids[i])) && ids[i-1][same] == ids[i][same] {
			same++
		}
		n = max(n, same+1)
	}
	words := make([]string, len(devices))
	for i, d := range devices {
		words[i] = screenLine(d.Device.ID()[:min(n, len(d.Device.ID()))] + " (" + d.Name + ")")
	}
	return strings.Join(words, ", ")
}

// approval is the answer of approve.
type approval struct {
	Approval string `json:"approval"`
}

func (a *chatApp) approveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "approve REQUEST", Short: "Vouch for a new device of yours: see isthmus chat login --help", Args: cobra.ExactArgs(1),
		RunE: a.online(func(ctx context.Context, chat chatter, args []string) error {
			said, err := approve(ctx, chat, args[0])
			if err != nil {
				return err
			}
			out := approval{said}
			return a.show(out, func(w io.Writer) {
				fmt.Fprintf(w, "On the new device run:\n\n  isthmus chat login %s --approval %s\n", shortUser(chat.Self().User, ""), out.Approval)
			})
		}),
	}
}

// approve vouches for the device that a request came from, and returns what is to be
// taken to it. Where the request was broken into lines on its way does not matter.
func approve(ctx context.Context, chat chatter, request string) (string, error) {
	record, err := base64.RawURLEncoding.DecodeString(strings.Join(strings.Fields(request), ""))
	if err != nil || len(record) == 0 {
		return "", core.Errorf(core.Invalid, "that is not what `isthmus chat login --with` prints")
	}
	sig, err := chat.Approve(ctx, record)
	if err != nil {
		return "", err
	}
	return formatApproval(chat.Self().Device, sig), nil
}

// findDevice reads what people write for a device: its URI, the first letters of
// its ID, or a user who has only one that is not verified yet.
func findDevice(ctx context.Context, chat chatter, word string) (core.DeviceURI, error) {
	if d, err := core.ParseDeviceURI(word); err == nil {
		return d, nil
	}
	self := chat.Self()
	user, id, ok := strings.Cut(word, "/")
	if strings.HasPrefix(word, "mimi://") {
		user, ok = word, false
	}
	who, err := parseUser(user, self.User.Domain())
	if err != nil {
		return "", err
	}
	devices, err := chat.Devices(ctx, who)
	if err != nil {
		return "", err
	}
	var found []chatDevice
	for _, d := range devices {
		if d.Self || d.Revoked || ok && !strings.HasPrefix(d.Device.ID(), id) || !ok && d.Verified {
			continue
		}
		found = append(found, d)
	}
	switch len(found) {
	case 1:
		return found[0].Device, nil
	case 0:
		return "", core.Errorf(core.NotFound, "%s has no device that waits to be verified", screenLine(word))
	}
	return "", core.Errorf(core.Conflict, "%s has %d devices: write %s/ and the first letters of one: %s", screenLine(word), len(found), screenLine(user), candidates(found))
}
