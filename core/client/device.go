package client

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"slices"
	"time"

	"github.com/cloudflare/circl/hpke"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// Records are in force for a year and renewed a month before they run out.
const (
	recordLife  = 365 * 24 * time.Hour
	recordRenew = 30 * 24 * time.Hour
	clockSlack  = time.Hour // a homeserver's clock may be behind ours
)

// Labels of signatures (PROTOCOL §2).
const (
	labelSession  = "isthmus session"
	labelApproval = "isthmus device approval"
	labelLetter   = "isthmus letter"
)

// self is who this device is.
type self struct {
	Seed        []byte `cbor:"1,keyasint"` // Ed25519
	Inbox       []byte `cbor:"2,keyasint"` // X25519 private key
	Record      []byte `cbor:"3,keyasint"` // signed
	Attestation []byte `cbor:"4,keyasint,omitempty"`
	Registered  bool   `cbor:"5,keyasint,omitempty"`
	Token       string `cbor:"6,keyasint,omitempty"`

	key    ed25519.PrivateKey
	signer mls.Signer
	record identity.SignedRecord
	device core.DeviceURI
	user   core.UserURI
}

func (c *Client) loadSelf(ctx context.Context) error {
	b, err := c.cfg.Store.Get(ctx, tableSelf, 0)
	if err != nil || b == nil {
		return err
	}
	s := new(self)
	if err := decode(b, s); err != nil {
		return err
	}
	if err := s.complete(c.cfg.Suite); err != nil {
		return err
	}
	c.self = s
	c.cfg.Home.Authorize(s.Token)
	return nil
}

// complete derives what is not stored.
func (s *self) complete(suite mls.Suite) (err error) {
	if len(s.Seed) != ed25519.SeedSize {
		return core.Errorf(core.Internal, "stored key of %d octets", len(s.Seed))
	}
	s.key = ed25519.NewKeyFromSeed(s.Seed)
	if s.signer, err = group.NewSigner(suite, s.Seed); err != nil {
		return err
	}
	if s.record, err = identity.ParseRecord(s.Record); err != nil {
		return core.Errorf(core.Internal, "stored record: %w", err)
	}
	s.device, s.user = core.DeviceURI(s.record.URI()), core.UserURI(s.record.User)
	return nil
}

func (c *Client) keepSelf() { c.putCBOR(tableSelf, 0, c.self) }

// proof is what the device shows of itself.
func (s *self) proof() core.Identity {
	return core.Identity{Record: s.Record, Attestation: s.Attestation}
}

// groupIdentity is the device in its Groups.
func (s *self) groupIdentity() group.Identity {
	return group.Identity{Credential: mls.BasicCredential([]byte(s.device)), Signer: s.signer}
}

// signers finds the device's signature key for group.Restore.
func (c *Client) signers(public []byte) (mls.Signer, bool) {
	return c.self.signer, string(public) == string(c.self.signer.PublicKey())
}

// leafExtensions say who the leaf's user is and what the device understands.
func (s *self) leafExtensions() mls.Extensions {
	dict := mls.AppData{}.With(mls.ComponentAppComponents, mls.ComponentsList(components()...)).
		With(mls.ComponentContentMediaTypes, contentTypes.AppendTo(nil))
	return mls.Extensions{{Type: mls.ExtApplicationID, Data: mls.AppendApplicationID(nil, []byte(s.user))}}.WithAppData(dict)
}

// Device names this device, "" before Prepare.
func (c *Client) Device() core.DeviceURI {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.self == nil {
		return ""
	}
	return c.self.device
}

// User names the device's user, "" before Prepare.
func (c *Client) User() core.UserURI {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.self == nil {
		return ""
	}
	return c.self.user
}

// Registered reports whether the homeserver knows the device.
func (c *Client) Registered() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.self != nil && c.self.Registered
}

// Prepare makes the device's keys and its first record, of at most 64 octets of
// name, linked to devices of the same user by their IDs (PROTOCOL §2). It returns
// the signed record, for another device to Approve. Repeated with the same user it
// returns the same, unless the device is not registered yet and another name or
// another link is given: then it signs the record's next version, and an approval of
// the one before counts no more. "" and no links change nothing; Conflict with
// another user.
func (c *Client) Prepare(ctx context.Context, user core.UserURI, name string, links ...string) ([]byte, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	if c.self != nil {
		if c.self.user != user {
			return nil, core.Errorf(core.Conflict, "this store holds a device of somebody else")
		}
		return c.prepareAnew(ctx, name, links)
	}
	keys, err := c.bytes(ed25519.SeedSize + 32)
	if err != nil {
		return nil, err
	}
	s := &self{Seed: keys[:32:32], Inbox: keys[32:]}
	private, err := inboxKEM.Scheme().UnmarshalBinaryPrivateKey(s.Inbox)
	if err != nil {
		return nil, core.Errorf(core.Internal, "inbox key: %w", err)
	}
	public, err := private.Public().MarshalBinary()
	if err != nil {
		return nil, core.Errorf(core.Internal, "inbox key: %w", err)
	}
	key := ed25519.NewKeyFromSeed(s.Seed)
	now := c.cfg.Now()
	r, err := identity.SignRecord(key, identity.Record{
		Version: 1, Key: key.Public().(ed25519.PublicKey), Inbox: identity.InboxKey{KEM: identity.KEMX25519, Public: public},
		User: string(user), Name: name, Links: sorted(links),
		NotBefore: now.Add(-clockSlack).Unix(), NotAfter: now.Add(recordLife).Unix(),
	})
	if err != nil {
		return nil, core.Errorf(core.Invalid, "device record: %w", err)
	}
	s.Record = r.Encode()
	if err := s.complete(c.cfg.Suite); err != nil {
		return nil, err
	}
	c.self = s
	c.keepSelf()
	return s.Record, c.flush(ctx)
}

// prepareAnew is Prepare of a device that is prepared. What changes is another
// version: the homeserver may know the one before, if only its answer was lost.
func (c *Client) prepareAnew(ctx context.Context, name string, links []string) ([]byte, error) {
	now := c.self.record.Record
	if c.self.Registered || (name == "" || name == now.Name) && (len(links) == 0 || slices.Equal(sorted(links), now.Links)) {
		return c.self.Record, nil
	}
	err := c.changeRecord(ctx, func(n *identity.Record) {
		if n.Name = cmp.Or(name, n.Name); len(links) > 0 {
			n.Links = sorted(links)
		}
	})
	return c.self.Record, err
}

// inboxKEM is the KEM of inbox keys and of leases.
const inboxKEM = hpke.KEM_X25519_HKDF_SHA256

func sorted(links []string) []string {
	links = slices.Clone(links)
	slices.Sort(links)
	return slices.Compact(links)
}

// Registration is how a homeserver comes to believe that a device is its user's:
// one of the fields, or none where registration is open.
type Registration struct {
	Token    string // of the operator
	Password string // of the account with the user's name
	Sponsor  core.DeviceURI
	Approval []byte // the sponsor's, see Approve
}

// Register makes the prepared device known to its homeserver, opens a session, and
// leaves key packages.
func (c *Client) Register(ctx context.Context, how Registration) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	if c.self == nil {
		return core.Errorf(core.Invalid, "prepare the device first")
	}
	if !c.self.Registered {
		request := wire.RegisterDevice{Record: c.self.Record, Token: how.Token, Password: how.Password, Sponsor: how.Sponsor, Approval: how.Approval}
		d, err := ask(ctx, c, func(ctx context.Context) (wire.Device, error) { return c.cfg.Home.Register(ctx, request) })
		if err != nil {
			return err
		}
		c.self.Registered, c.self.Attestation = true, d.Proof.Attestation
		c.keepSelf()
	}
	if err := c.login(ctx); err != nil {
		return err
	}
	if err := c.meet(ctx, c.self.user); err != nil {
		return err
	}
	return c.replenish(ctx)
}

// login proves that the device holds its key.
func (c *Client) login(ctx context.Context) error {
	request := wire.OpenSession{Device: c.self.device}
	for range 2 {
		var s wire.Session
		err := c.away(ctx, func() (err error) { s, err = c.cfg.Home.OpenSession(ctx, request); return err })
		if err == nil {
			err = c.ready(ctx)
		}
		if err != nil {
			return err
		}
		if s.Token != "" {
			c.self.Token = s.Token
			c.cfg.Home.Authorize(s.Token)
			c.keepSelf()
			return c.flush(ctx)
		}
		request.Challenge = s.Challenge
		request.Signature = identity.Sign(c.self.key, labelSession, s.Challenge)
	}
	return core.Errorf(core.Unauthenticated, "the homeserver opens no session")
}

// Approve vouches for another device of the same user, given its signed record,
// and links to it. The approval goes into its Registration.
func (c *Client) Approve(ctx context.Context, record []byte) ([]byte, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	r, err := identity.ParseRecord(record)
	if err != nil {
		return nil, core.Errorf(core.Invalid, "device record: %w", err)
	}
	if c.self == nil || r.User != string(c.self.user) {
		return nil, core.Errorf(core.Denied, "that is a device of somebody else")
	}
	if err := c.changeRecord(ctx, func(n *identity.Record) { n.Links = sorted(append(n.Links, r.ID())) }); err != nil {
		return nil, err
	}
	return identity.Sign(c.self.key, labelApproval, record), nil
}

// Unlink takes back a link to another device of the user: it is no device of the
// user any more for whoever asks this one. RemoveDevice takes it out of Groups.
func (c *Client) Unlink(ctx context.Context, device core.DeviceURI) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	return c.changeRecord(ctx, func(n *identity.Record) {
		n.Links = slices.DeleteFunc(slices.Clone(n.Links), func(id string) bool { return id == device.ID() })
	})
}

// Revoke ends this device for ever: its record says so from now on.
func (c *Client) Revoke(ctx context.Context) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	return c.changeRecord(ctx, func(n *identity.Record) { n.Revoked = true })
}

// changeRecord signs the next version of the own record and publishes it. The new
// version is on disk before it is shown: another with the same number would be a
// proof against the device.
func (c *Client) changeRecord(ctx context.Context, change func(*identity.Record)) error {
	if c.self == nil {
		return core.Errorf(core.Invalid, "prepare the device first")
	}
	next := c.self.record.Record
	next.Links = slices.Clone(next.Links)
	change(&next)
	if next.Revoked != c.self.record.Revoked || next.Name != c.self.record.Name || !slices.Equal(next.Links, c.self.record.Links) || next.NotAfter != c.self.record.NotAfter {
		next.Version, next.Previous = c.self.record.Version+1, c.self.record.Hash()
		r, err := identity.SignRecord(c.self.key, next)
		if err != nil {
			return core.Errorf(core.Invalid, "device record: %w", err)
		}
		c.self.record, c.self.Record = r, r.Encode()
		c.keepSelf()
	}
	if !c.self.Registered {
		return c.flush(ctx)
	}
	d, err := ask(ctx, c, func(ctx context.Context) (wire.Device, error) {
		return c.cfg.Home.PutRecord(ctx, wire.PutRecord{Record: c.self.Record})
	})
	if err != nil {
		return err
	}
	if len(d.Proof.Attestation) > 0 {
		c.self.Attestation = d.Proof.Attestation
		c.keepSelf()
	}
	return c.flush(ctx)
}

// A DeviceInfo is a device as its own and other people see it.
type DeviceInfo struct {
	Device   core.DeviceURI
	User     core.UserURI
	Name     string
	Self     bool // this one
	Linked   bool // to another device known of the user, each naming the other (PROTOCOL §2)
	Verified bool // somebody compared the words here
	Revoked  bool
	Refused  bool // it told two truths
}

// Devices lists the devices of a user, as the homeserver knows them now.
func (c *Client) Devices(ctx context.Context, user core.UserURI) ([]DeviceInfo, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	if err := c.meet(ctx, user); err != nil {
		return nil, err
	}
	var out []DeviceInfo
	for _, k := range c.users[user] {
		r, err := k.record()
		if err != nil {
			return nil, err
		}
		out = append(out, DeviceInfo{Device: k.Device, User: user, Name: r.Name, Self: k.Device == c.self.device,
			Linked: c.linked(k), Verified: k.Verified, Revoked: r.Revoked, Refused: k.Refused})
	}
	return out, c.flush(ctx)
}

// Words are eight words each way that two people compare by voice, equal on both
// devices (PROTOCOL §2).
func (c *Client) Words(ctx context.Context, device core.DeviceURI) ([]string, error) {
	if err := c.enter(ctx); err != nil {
		return nil, err
	}
	defer c.mu.Unlock()
	k, r, err := c.knownRecord(device)
	if err != nil || k == nil {
		return nil, err
	}
	return identity.SafetyWords(c.self.record.Key, r.Key), nil
}

// Verify notes that the words were compared and equal, or with false takes it back.
func (c *Client) Verify(ctx context.Context, device core.DeviceURI, verified bool) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	k, _, err := c.knownRecord(device)
	if err != nil {
		return err
	}
	k.Verified = verified
	c.keepKnown(k)
	return c.flush(ctx)
}

// knownRecord finds a device that was met, and its record; NotFound if it was not.
func (c *Client) knownRecord(device core.DeviceURI) (*knownDevice, identity.SignedRecord, error) {
	k := c.known[device]
	if k == nil || c.self == nil {
		return nil, identity.SignedRecord{}, core.Errorf(core.NotFound, "this device has not met that one")
	}
	r, err := k.record()
	return k, r, err
}
