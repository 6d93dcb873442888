package native

import (
	"context"
	"crypto/subtle"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// registerDevice answers POST /v1/devices.
func (a *api) registerDevice(c *call, in *wire.RegisterDevice) (*wire.Device, error) {
	rec, err := a.ownRecord(in.Record)
	if err != nil {
		return nil, err
	}
	if in.Sponsor == "" && in.Password == "" {
		a.naming.Lock() // two devices of two people must not both find a name free
		defer a.naming.Unlock()
	}
	if err := a.sponsored(c, rec, in); err != nil {
		return nil, err
	}
	// The core attests what it registers here, and does so anew with a session.
	if _, err := a.gw().Do(c.ctx(), core.PutDevice{Proof: core.Identity{Record: in.Record}, Register: true}); err != nil {
		return nil, err
	}
	return a.device(c, core.DeviceURI(rec.URI()))
}

// ownRecord reads a record of a device that wants to be one of ours.
func (a *api) ownRecord(b []byte) (identity.SignedRecord, error) {
	rec, err := identity.ParseRecord(b)
	now := a.cfg.Now().Unix()
	switch {
	case err != nil:
		return rec, core.Errorf(core.Invalid, "the device record is malformed, or not signed by its own key")
	case rec.Domain() != a.cfg.Domain:
		return rec, core.Errorf(core.Denied, "that is a user of another homeserver")
	case now >= rec.NotAfter || now < rec.NotBefore-identity.Skew:
		return rec, core.Errorf(core.Invalid, "the device record is not in force")
	}
	return rec, nil
}

// sponsored says why a device may not be taken for one of its user's: nil if
// another device or the account's password vouches for it, or if the name is
// free and the operator lets people take one.
func (a *api) sponsored(c *call, rec identity.SignedRecord, in *wire.RegisterDevice) error {
	name, err := a.userName(core.UserURI(rec.User))
	if err != nil {
		return err
	}
	switch {
	case rec.Revoked:
		return core.Errorf(core.Invalid, "that record revokes its device")
	case in.Sponsor != "":
		return a.approved(c, rec, in)
	case in.Password != "":
		acc, err := a.login(c, name, in.Password)
		if err == nil && acc.User != core.UserURI(rec.User) {
			err = core.Errorf(core.Denied, "that account is of another user")
		}
		return err
	}
	return a.takeName(c, name, core.UserURI(rec.User), in.Token)
}

// userName returns the name of a user of ours: one segment, as accounts are called.
func (a *api) userName(u core.UserURI) (string, error) {
	path := u.Path()
	if len(path) != 1 {
		return "", core.Errorf(core.Denied, "that user is relayed from another network")
	}
	acc, err := a.cfg.API.Account(path[0])
	switch {
	case err != nil:
		return "", err
	case acc.Fold != path[0] || core.NewUserURI(a.cfg.Domain, acc.Fold) != u:
		return "", core.Errorf(core.Invalid, "a user's name is written in lower case here")
	}
	return path[0], nil
}

func (a *api) approved(c *call, rec identity.SignedRecord, in *wire.RegisterDevice) error {
	sponsor, err := a.ownDevice(c, in.Sponsor)
	if err != nil {
		return err
	}
	if sponsor.User != core.UserURI(rec.User) || !identity.Verify(sponsor.Key, labelApproval, in.Approval, in.Record) {
		return core.Errorf(core.Denied, "that device has not approved this one")
	}
	return nil
}

// takeName takes a name that is free for the user of a first device: an account
// keeps it, so that nobody else takes it by another door.
func (a *api) takeName(c *call, name string, u core.UserURI, token string) error {
	switch {
	case a.cfg.API.Registration == RegistrationOpen:
	case a.cfg.API.Registration != RegistrationToken:
		return core.Errorf(core.Denied, "a new device needs the account's password, or another device that approves it")
	case subtle.ConstantTimeCompare([]byte(token), []byte(a.cfg.API.Token)) != 1 || token == "":
		return core.Errorf(core.Denied, "a new user needs the operator's registration token")
	}
	taken := core.Errorf(core.Conflict, "that name is taken: give the account's password, or let another device approve this one")
	acc, err := a.cfg.API.Account(name)
	if err != nil {
		return err
	}
	found := false
	err = a.gw().View(c.ctx(), func(r core.Reader) error {
		old, err := r.Account(acc.Fold)
		if found = err == nil; found && (old.Argon2id != "" || old.SCRAM != "" || len(old.Certs)+len(old.Tokens) > 0 || old.Disabled) {
			return taken
		}
		if err != nil && core.CodeOf(err) != core.NotFound {
			return err
		}
		devices, err := core.DevicesOf(r, u)
		if err == nil && len(devices) > 0 {
			return taken
		}
		return err
	})
	if err != nil || found { // an account without a device and without a way in was left by a registration that failed
		return err
	}
	acc.User, acc.Created = u, a.cfg.Now()
	_, err = a.gw().Do(c.ctx(), core.PutAccount{Account: acc, Create: true})
	if core.CodeOf(err) == core.Conflict {
		return taken
	}
	return err
}

// putRecord answers PUT /v1/devices/self: a newer record, which may revoke.
func (a *api) putRecord(c *call, in *wire.PutRecord) (*wire.Device, error) {
	rec, err := a.ownRecord(in.Record)
	if err != nil {
		return nil, err
	}
	if core.DeviceURI(rec.URI()) != c.session.Device || core.UserURI(rec.User) != c.session.User {
		return nil, core.Errorf(core.Denied, "that is the record of another device")
	}
	if _, err := a.gw().Do(c.ctx(), core.PutDevice{Proof: core.Identity{Record: in.Record}}); err != nil {
		return nil, err
	}
	if rec.Revoked {
		a.hub.closeDevice(c.session.Device)
	}
	return a.device(c, c.session.Device)
}

func (a *api) device(c *call, uri core.DeviceURI) (*wire.Device, error) {
	var out wire.Device
	err := a.gw().View(c.ctx(), func(r core.Reader) error {
		d, err := core.DeviceOf(r, uri)
		out = wireDevice(d)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &out, nil
}

// revokeDevice answers DELETE /v1/devices/{device}: a user takes back a device that
// was lost. It cannot sign that itself, so the homeserver's word goes.
func (a *api) revokeDevice(c *call) (*wire.Device, error) {
	uri := core.DeviceURI(c.r.PathValue("device"))
	if uri.ID() == "" {
		uri = core.NewDeviceURI(a.cfg.Domain, string(uri))
	}
	var d core.Device
	err := a.gw().View(c.ctx(), func(r core.Reader) (err error) {
		d, err = core.DeviceOf(r, uri)
		return err
	})
	if err == nil && (d.User != c.session.User || !d.Local) {
		err = core.Errorf(core.NotFound, "you have no such device")
	}
	if err != nil {
		return nil, err
	}
	att, err := identity.ParseAttestation(d.Proof.Attestation)
	if err != nil {
		return nil, core.Errorf(core.Internal, "stored attestation: %w", err)
	}
	if att, err = identity.Revoke(a.cfg.Key, att.Attestation, a.cfg.Now().Unix()); err != nil {
		return nil, core.Errorf(core.Internal, "signing an attestation: %w", err)
	}
	proof := core.Identity{Record: d.Proof.Record, Attestation: att.Encode()}
	if _, err := a.gw().Do(c.ctx(), core.PutDevice{Proof: proof}); err != nil {
		return nil, err
	}
	a.hub.closeDevice(uri)
	return a.device(c, uri)
}

// listDevices answers GET /v1/devices: those of the asking user.
func (a *api) listDevices(c *call) (*wire.User, error) { return a.devicesOf(c.ctx(), c.session.User) }

func (a *api) devicesOf(ctx context.Context, u core.UserURI) (*wire.User, error) {
	out := &wire.User{User: u, Devices: []wire.Device{}}
	return out, a.gw().View(ctx, func(r core.Reader) error {
		devices, err := core.DevicesOf(r, u)
		for _, d := range devices {
			out.Devices = append(out.Devices, wireDevice(d))
		}
		return err
	})
}

// showUser answers GET /v1/users/{user}. Somebody of another homeserver is asked
// for there; if it does not answer, what is known counts.
func (a *api) showUser(c *call) (*wire.User, error) {
	u, err := a.user(c)
	if err != nil {
		return nil, err
	}
	if !a.home(u.Domain()) {
		ctx, cancel := context.WithTimeout(c.ctx(), peerTimeout)
		err = a.peers.records(ctx, u.Domain(), wire.PeerRecords{Domains: []string{u.Domain()}, Users: []core.UserURI{u}})
		cancel()
	}
	out, verr := a.devicesOf(c.ctx(), u)
	switch {
	case verr != nil:
		return nil, verr
	case len(out.Devices) > 0:
		return out, nil
	case err == nil:
		err = core.Refuse(core.NotFound, core.NoSuchUser, "no device of that user is known")
	}
	return nil, err
}

// ownHomeserver answers GET /.well-known/isthmus.
func (a *api) ownHomeserver(c *call) (*wire.Homeserver, error) {
	return a.homeserver(c.ctx(), a.cfg.Domain)
}

// showHomeserver answers GET /v1/homeservers/{domain}.
func (a *api) showHomeserver(c *call) (*wire.Homeserver, error) {
	domain := c.r.PathValue("domain")
	out, err := a.homeserver(c.ctx(), domain)
	if core.CodeOf(err) != core.NotFound || a.home(domain) {
		return out, err
	}
	ctx, cancel := context.WithTimeout(c.ctx(), peerTimeout)
	defer cancel()
	if err := a.peers.records(ctx, domain, wire.PeerRecords{Domains: []string{domain}}); err != nil {
		return nil, err
	}
	return a.homeserver(c.ctx(), domain)
}

func (a *api) homeserver(ctx context.Context, domain string) (*wire.Homeserver, error) {
	out := &wire.Homeserver{Domain: domain}
	err := a.gw().View(ctx, func(r core.Reader) error {
		chain, err := core.HomeserverOf(r, domain)
		if err != nil {
			return err
		}
		for _, rec := range chain.Records() {
			out.Records = append(out.Records, rec.Encode())
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}
