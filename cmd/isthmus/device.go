package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/bridges/irc"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// deviceInfo is a device as the operator sees it: nothing of what it says.
type deviceInfo struct {
	Device core.DeviceURI `json:"device"`
	User   core.UserURI   `json:"user"`
	Name   string         `json:"name,omitempty"`
	State  string         `json:"state"` // "in use", "revoked", "refused": it told two truths, "over"
	Local  bool           `json:"local"`
	Seen   *time.Time     `json:"seen,omitempty"` // last session, to the day
	// Of one device asked for.
	Version  uint64     `json:"version,omitempty"` // of its record
	Links    []string   `json:"links,omitempty"`   // IDs of devices that it says are its user's too
	Linked   []string   `json:"linked,omitempty"`  // those of them that say the same of it
	Until    *time.Time `json:"until,omitempty"`   // when its record or this homeserver's word for it ends
	Packages int        `json:"key_packages,omitempty"`
	Letters  int        `json:"letters,omitempty"` // that wait for it
	Proof    []byte     `json:"proof,omitempty"`   // why it is refused: both records, as identity.ParseEquivocation reads them
}

type deviceList struct {
	Devices []deviceInfo `json:"devices"`
	More    bool         `json:"more,omitempty"`
}

type deviceRef struct {
	Device string `json:"device"` // URI, or the ID of one of this homeserver's
}

// userRef names a user, as an account or a URI; "" = all of this homeserver.
type userRef struct {
	User string `json:"user"`
}

// The states of a device.
const (
	deviceUsed    = "in use"
	deviceRevoked = "revoked"
	deviceRefused = "refused"
	deviceOver    = "over" // its time is
)

// describeDevice says what is known of a device at a time.
func describeDevice(d core.Device, now time.Time) (i deviceInfo, rec identity.SignedRecord, err error) {
	if rec, err = identity.ParseRecord(d.Proof.Record); err != nil {
		return i, rec, core.Errorf(core.Internal, "stored device record: %w", err)
	}
	att, err := identity.ParseAttestation(d.Proof.Attestation)
	if err != nil {
		return i, rec, core.Errorf(core.Internal, "stored attestation: %w", err)
	}
	until := time.Unix(min(rec.NotAfter, att.NotAfter), 0).UTC()
	i = deviceInfo{Device: d.URI, User: d.User, Name: d.Name, State: deviceUsed, Local: d.Local, Version: rec.Version, Links: rec.Links, Until: &until}
	if d.Seen > 0 {
		seen := time.UnixMilli(d.Seen).UTC()
		i.Seen = &seen
	}
	switch {
	case d.Refused:
		i.State = deviceRefused
	case d.Revoked:
		i.State = deviceRevoked
	case !now.Before(until):
		i.State = deviceOver
	}
	return i, rec, nil
}

// deviceList lists the devices of a user, or of every account.
func (a *admin) deviceList(ctx context.Context, req userRef) (out deviceList, err error) {
	out.Devices = []deviceInfo{}
	err = a.gw.View(ctx, func(r core.Reader) error {
		users, err := a.usersOf(r, req.User)
		if err != nil {
			return err
		}
		for _, u := range users {
			devices, err := core.DevicesOf(r, u)
			if err != nil {
				return err
			}
			for _, d := range devices {
				if len(out.Devices) >= maxListed {
					out.More = true
					return nil
				}
				i, _, err := describeDevice(d, a.now())
				if err != nil {
					return err
				}
				i.Version, i.Links, i.Until = 0, nil, nil
				out.Devices = append(out.Devices, i)
			}
		}
		return nil
	})
	return out, err
}

// usersOf reads what people write for a user; "" is everybody with an account.
func (a *admin) usersOf(r core.Reader, name string) ([]core.UserURI, error) {
	if strings.ContainsAny(name, "@/") {
		u, err := parseUser(name, a.domain)
		return []core.UserURI{u}, err
	}
	if name != "" {
		acc, err := r.Account(irc.AccountKey(name))
		if core.CodeOf(err) == core.NotFound {
			err = core.Errorf(core.NotFound, "there is no account %s", name)
		}
		return []core.UserURI{acc.User}, err
	}
	all, err := r.Accounts("", maxListed)
	users := make([]core.UserURI, len(all))
	for i, acc := range all {
		users[i] = acc.User
	}
	return users, err
}

// device finds a device by what people write for it: its URI, the ID of one of this
// homeserver's, or the first letters of that.
func (a *admin) device(r core.Reader, s string) (core.Device, error) {
	uri, err := core.ParseDeviceURI(s)
	if err != nil {
		uri = core.NewDeviceURI(a.domain, strings.ToLower(s))
	}
	d, err := core.DeviceOf(r, uri)
	if core.CodeOf(err) != core.NotFound {
		return d, err
	}
	if id := uri.ID(); id == strings.ToLower(s) && len(id) < core.Base32.EncodedLen(deviceIDSize) {
		return a.deviceBegins(r, id)
	}
	return d, core.Errorf(core.NotFound, "no device %s is known", screenLine(s))
}

// deviceBegins finds the one device of this homeserver whose ID begins so. Conflict:
// several do, also where all but one are revoked.
func (a *admin) deviceBegins(r core.Reader, id string) (found core.Device, err error) {
	if len(id) < leastPrefix {
		return found, core.Errorf(core.Invalid, "%q is too short: write at least %d letters of the device", screenLine(id), leastPrefix)
	}
	users, err := a.usersOf(r, "")
	if err == nil && len(users) >= maxListed {
		err = core.Errorf(core.TooLarge, "too many accounts to look for first letters: write all of the device")
	}
	if err != nil {
		return found, err
	}
	for _, u := range users {
		devices, err := core.DevicesOf(r, u)
		if err != nil {
			return found, err
		}
		for _, d := range devices {
			switch {
			case !d.Local || !strings.HasPrefix(d.URI.ID(), id):
			case found.URI != "":
				return found, core.Errorf(core.Conflict, "several devices begin with %s: write more of it, as `isthmus device list` does", id)
			default:
				found = d
			}
		}
	}
	if found.URI == "" {
		err = core.Errorf(core.NotFound, "no device %s is known: `isthmus device list` has them", screenLine(id))
	}
	return found, err
}

func (a *admin) deviceShow(ctx context.Context, req deviceRef) (out deviceInfo, err error) {
	err = a.gw.View(ctx, func(r core.Reader) error {
		d, err := a.device(r, req.Device)
		if err != nil {
			return err
		}
		var rec identity.SignedRecord
		if out, rec, err = describeDevice(d, a.now()); err != nil {
			return err
		}
		others, err := core.DevicesOf(r, d.User)
		if err != nil {
			return err
		}
		for _, o := range others {
			other, err := identity.ParseRecord(o.Proof.Record)
			if err == nil && o.URI != d.URI && identity.Linked(rec, other) {
				out.Linked = append(out.Linked, o.URI.ID())
			}
		}
		if d.Refused {
			if out.Proof, err = core.EquivocationOf(r, d.URI); err != nil {
				return core.Errorf(core.Internal, "stored proof: %w", err)
			}
		}
		if !d.Local {
			return nil
		}
		letters, err := core.LettersOf(r, d.URI, 0, core.MaxLetters)
		if err != nil {
			return err
		}
		out.Letters = len(letters)
		out.Packages, err = core.KeyPackagesLeft(r, d.URI)
		return err
	})
	return out, err
}

// deviceRevoke takes back this homeserver's word for a device: its sessions end, it
// is claimed no more, and other homeservers are told with the next that they ask.
func (a *admin) deviceRevoke(ctx context.Context, req deviceRef) (deviceInfo, error) {
	var d core.Device
	err := a.gw.View(ctx, func(r core.Reader) (err error) {
		d, err = a.device(r, req.Device)
		return err
	})
	if err == nil && !d.Local {
		err = core.Errorf(core.Denied, "%s is a device of another homeserver: only that one can revoke it", d.URI.ID())
	}
	if err != nil {
		return deviceInfo{}, err
	}
	att, err := identity.ParseAttestation(d.Proof.Attestation)
	if err != nil {
		return deviceInfo{}, core.Errorf(core.Internal, "stored attestation: %w", err)
	}
	if !att.Revoked {
		signed, err := identity.Revoke(a.key, att.Attestation, a.now().Unix())
		if err != nil {
			return deviceInfo{}, core.Errorf(core.Internal, "attestation: %w", err)
		}
		if _, err := a.gw.Do(ctx, core.PutDevice{Proof: core.Identity{Record: d.Proof.Record, Attestation: signed.Encode()}}); err != nil {
			return deviceInfo{}, err
		}
	}
	return a.deviceShow(ctx, req)
}

func (c *cli) deviceCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "device", Short: "See which devices users have, and revoke one", Args: cobra.NoArgs, RunE: needsSubcommand,
		Long: fmt.Sprintf("See which devices users have, and revoke one.\n\nDEVICE is its URI or what `isthmus device list` shows, or of that the first letters:\nat least %d, and as many as no other device of this homeserver begins with.", leastPrefix)}
	app := &chatApp{cli: c}
	app.open = app.openProfile
	link := app.deviceVerb("link DEVICE", "Say on your own device that another is yours: as `isthmus chat devices link`", "This device says now that %s is yours.\n", chatter.Link)
	app.profileFlags(link)
	cmd.AddCommand(
		&cobra.Command{
			Use: "list [USER]", Short: "List devices: of a user, or of all accounts", Args: cobra.MaximumNArgs(1),
			RunE: func(cmd *cobra.Command, args []string) error {
				return do(c, cmd.Context(), "device.list", userRef{strings.Join(args, "")}, printDevices)
			},
		},
		&cobra.Command{
			Use: "show DEVICE", Short: "Show what is known of a device", Args: cobra.ExactArgs(1),
			Long: `Show what is known of a device. One that is refused has signed two records that
contradict each other: with --json both come as the proof, which anybody can check.`,
			RunE: func(cmd *cobra.Command, args []string) error {
				return do(c, cmd.Context(), "device.show", deviceRef{args[0]}, printDevice)
			},
		},
		&cobra.Command{
			Use: "revoke DEVICE", Short: "Take back this homeserver's word for a device", Args: cobra.ExactArgs(1),
			Long: `Take back this homeserver's word for a device, one that was lost for instance. Its
sessions end and nobody lets it into a room any more. The user's other devices
take it out of the rooms that it is in. It cannot be undone.`,
			RunE: func(cmd *cobra.Command, args []string) error {
				return do(c, cmd.Context(), "device.revoke", deviceRef{args[0]}, func(w io.Writer, d deviceInfo) {
					fmt.Fprintf(w, "Revoked %s of %s.\n", d.Device.ID(), shortUser(d.User, ""))
				})
			},
		}, link)
	return cmd
}

func printDevices(w io.Writer, l deviceList) {
	if len(l.Devices) == 0 {
		fmt.Fprintln(w, "No devices yet: `isthmus chat login` makes one.")
		return
	}
	fmt.Fprintln(w, "DEVICE\tUSER\tNAME\tSTATE\tSEEN")
	for _, d := range l.Devices {
		seen := "never"
		if d.Seen != nil {
			seen = d.Seen.Format(time.DateOnly)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", d.Device.ID(), shortUser(d.User, ""), screenLine(d.Name), d.State, seen)
	}
	if l.More {
		fmt.Fprintf(w, "Only the first %d are listed.\n", len(l.Devices))
	}
}

func printDevice(w io.Writer, d deviceInfo) {
	fmt.Fprintf(w, "Device\t%s\nUser\t%s\nName\t%s\nState\t%s\nRecord\tversion %d, good until %s\n",
		d.Device, d.User, screenLine(d.Name), d.State, d.Version, d.Until.Format(time.DateOnly))
	links := "none"
	if len(d.Links) > 0 {
		links = screenLine(strings.Join(d.Links, " "))
	}
	fmt.Fprintf(w, "Names as its user's\t%s\nNamed by them too\t%s\n", links, screenLine(strings.Join(d.Linked, " ")))
	if len(d.Proof) > 0 {
		fmt.Fprintln(w, "Refused\tit signed two records that contradict each other: --json has both")
	}
	if d.Local {
		fmt.Fprintf(w, "Key packages left\t%d\nLetters waiting\t%d\n", d.Packages, d.Letters)
	}
}
