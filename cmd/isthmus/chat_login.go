package main

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// chatLogin is what login is told.
type chatLogin struct {
	server, ca, name, token string
	password                bool
	with                    string // a device of the user that is to approve this one
	approval                string // what that one said
}

// loginAnswer is what login shows. Request is for the device that approves.
type loginAnswer struct {
	chatSelf
	Registered bool   `json:"registered"`
	Request    string `json:"request,omitempty"`
}

func (a *chatApp) loginCommand() *cobra.Command {
	var l chatLogin
	cmd := &cobra.Command{
		Use: "login USER", Short: "Make this machine a device of a user", Args: cobra.ExactArgs(1),
		Long: `Make this machine a device of a user: keys are made here and never leave.

The homeserver takes a device by what its operator decided: openly, by a
registration token, or by the password of the account with the user's name.
Another device of the user can vouch for this one instead:
  here:   isthmus chat login alice@a.example --with DEVICE     (prints a request)
  there:  isthmus chat devices approve REQUEST                  (prints an approval)
  here:   isthmus chat login alice@a.example --approval APPROVAL`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.login(cmd.Context(), args[0], &l) },
	}
	f := cmd.Flags()
	f.StringVar(&l.server, "server", "", "`URL` of the homeserver (default https://DOMAIN)")
	f.StringVar(&l.ca, "ca", "", "PEM `file` of a further certificate authority to trust")
	f.StringVar(&l.name, "name", "", "what to call this device (default the machine's name)")
	f.StringVar(&l.token, "token", "", "registration `token`, if the homeserver asks for one")
	f.BoolVar(&l.password, "password", false, "register with the account's password: asked for, or the first line of the input")
	f.StringVar(&l.with, "with", "", "`device` of the user that will approve this one")
	f.StringVar(&l.approval, "approval", "", "what that device said")
	return cmd
}

func (a *chatApp) login(ctx context.Context, who string, l *chatLogin) (err error) {
	p, err := a.loginProfile(ctx, who, l)
	if err != nil {
		return err
	}
	links, err := withDevice(p.User, l.with)
	if err != nil {
		return err
	}
	how := client.Registration{Token: l.token}
	if l.approval != "" {
		if how.Sponsor, how.Approval, err = parseApproval(l.approval); err != nil {
			return err
		}
	}
	if l.password {
		if how.Password, err = a.loginPassword(); err != nil {
			return err
		}
	}
	_, serr := os.Stat(filepath.Join(p.dir, profileStore))
	secret, err := a.chatSecret(&a.flags, p, serr != nil)
	if err != nil {
		return err
	}
	s, err := openSession(ctx, p, secret, a.flags.wait)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if s.device.Registered() && l.with != "" && l.approval == "" {
		return core.Errorf(core.Conflict, "this machine is a device of yours already: run `isthmus chat devices link %s` here, and there `isthmus chat devices link %s`",
			links[0], s.Self().Device.ID())
	}
	if l.name == "" && s.device.Device() == "" {
		l.name, _ = os.Hostname()
	}
	record, err := s.device.Prepare(ctx, p.User, cutName(screenLine(l.name)), links...)
	if err == nil {
		err = p.write()
	}
	if err != nil {
		return err
	}
	answer := loginAnswer{chatSelf: s.Self()}
	if l.with != "" && l.approval == "" {
		answer.Request = base64.RawURLEncoding.EncodeToString(record)
	} else if err := s.device.Register(ctx, how); err != nil {
		return refusedLogin(p.Server, how, err)
	}
	answer.Registered = s.device.Registered()
	return a.show(answer, func(w io.Writer) { printLogin(w, answer) })
}

func printLogin(w io.Writer, l loginAnswer) {
	if l.Request != "" {
		fmt.Fprintf(w, "On the other device run:\n\n  isthmus chat devices approve %s\n\n(or /approve and the same in its full-screen client), and then here what it prints.\n", l.Request)
		return
	}
	fmt.Fprintf(w, "This is device %s of %s.\n", l.Device.ID(), shortUser(l.User, ""))
}

// loginProfile makes, or finds, the profile of a login.
func (a *chatApp) loginProfile(ctx context.Context, who string, l *chatLogin) (*chatProfile, error) {
	base, err := a.chatBase(&a.flags)
	if err != nil {
		return nil, err
	}
	domain := ""
	if l.server != "" && !strings.Contains(who, "@") && !strings.HasPrefix(who, "mimi://") {
		if domain, err = askDomain(ctx, l.server, l.ca); err != nil {
			return nil, err
		}
	}
	user, err := parseUser(who, domain)
	if err != nil {
		return nil, err
	}
	p := &chatProfile{User: user, Server: l.server, dir: profileDir(base, user)}
	if old, err := readProfile(filepath.Join(p.dir, profileName)); err == nil {
		p = old
		if l.server != "" {
			p.Server = l.server
		}
	}
	if p.Server == "" {
		p.Server = "https://" + user.Domain()
	}
	if l.ca != "" {
		if p.CA, err = filepath.Abs(l.ca); err != nil {
			return nil, core.Errorf(core.Invalid, "--ca: %w", err)
		}
	}
	return p, nil
}

// askDomain asks a homeserver what it is called (PROTOCOL §2).
func askDomain(ctx context.Context, server, ca string) (string, error) {
	h, err := newHTTPHome(server, ca)
	if err != nil {
		return "", err
	}
	w, err := ask[wire.Homeserver](ctx, h, get("/.well-known/isthmus"))
	return w.Domain, refusedLogin(server, client.Registration{Password: "-"}, err)
}

// refusedLogin says which homeserver did not answer and why, for its address may be
// mistyped; or what one may add to the command where it refuses.
func refusedLogin(server string, how client.Registration, err error) error {
	code := core.CodeOf(err)
	if u, ok := errors.AsType[*url.Error](err); ok && (code == core.Unavailable || code == core.Denied) {
		return &core.Error{Code: code, Err: err, Text: server + ": " + core.TextOf(err) + noAnswer(u.Err)}
	}
	if how.Password == "" && how.Sponsor == "" && how.Token == "" && (code == core.Denied || code == core.Conflict) && err != nil {
		return &core.Error{Code: code, Err: err, Text: core.TextOf(err) + ". --password gives the account's password, --with DEVICE lets another device approve, --token gives a registration token"}
	}
	return err
}

// noAnswer is why a homeserver does not answer, if that is not said yet.
func noAnswer(err error) string {
	var bad *tls.CertificateVerificationError
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() || errors.As(err, &bad) {
		return ""
	}
	if e, ok := errors.AsType[*net.DNSError](err); ok {
		return ": its name cannot be found (DNS): " + e.Name
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		return ": the connection is refused, nothing listens there"
	}
	return ": " + err.Error()
}

// loginPassword asks for an account's password.
func (a *chatApp) loginPassword() (string, error) {
	if in, ok := a.in.(*os.File); ok && term.IsTerminal(int(in.Fd())) {
		fmt.Fprint(a.err, "Password of the account: ")
		b, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.err)
		return string(b), err
	}
	line, err := bufio.NewReader(io.LimitReader(a.in, maxPasswordLine)).ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", core.Errorf(core.Invalid, "no password on the input")
	}
	if err == io.EOF {
		err = nil
	}
	return line, err
}

// deviceIDSize is what a device's ID says, in octets (PROTOCOL §2).
const deviceIDSize = 16

// withDevice reads which device of the user is to approve: none if with is "".
func withDevice(user core.UserURI, with string) ([]string, error) {
	if with == "" {
		return nil, nil
	}
	id := deviceID(with)
	d, err := core.ParseDeviceURI(string(core.NewDeviceURI(user.Domain(), id)))
	b, nerr := core.Base32.DecodeString(id)
	if err != nil || nerr != nil || len(b) != deviceIDSize || id != with && string(d) != with {
		return nil, core.Errorf(core.Invalid, "--with %s is no device of yours: write the whole DEVICE that `isthmus chat devices` shows there", screenLine(with))
	}
	return []string{id}, nil
}

// deviceID reads a device's URI or ID as its ID.
func deviceID(s string) string {
	if d, err := core.ParseDeviceURI(s); err == nil {
		return d.ID()
	}
	return s
}

// cutName keeps of a device's name what fits into its record.
func cutName(s string) string {
	const most = 64
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

// An approval as people carry it: the device that approves, and its signature.
func formatApproval(by core.DeviceURI, approval []byte) string {
	return by.ID() + "." + by.Domain() + "/" + base64.RawURLEncoding.EncodeToString(approval)
}

func parseApproval(s string) (core.DeviceURI, []byte, error) {
	who, sig, ok := strings.Cut(strings.Join(strings.Fields(s), ""), "/") // it may have been broken into lines
	id, domain, ok2 := strings.Cut(who, ".")
	b, err := base64.RawURLEncoding.DecodeString(sig)
	raw, ierr := core.Base32.DecodeString(id)
	if !ok || !ok2 || errors.Join(err, ierr) != nil || len(raw) != deviceIDSize || len(b) != ed25519.SignatureSize {
		return "", nil, core.Errorf(core.Invalid, "that is not what `isthmus chat devices approve` prints: copy all of it, from DEVICE to the end")
	}
	d, err := core.ParseDeviceURI(string(core.NewDeviceURI(domain, id)))
	return d, b, err
}
