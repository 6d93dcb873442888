package client

import (
	"bytes"
	"context"
	"errors"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
)

// A knownDevice is a device that this one has met, with what vouches for it.
type knownDevice struct {
	N           uint64         `cbor:"1,keyasint"`
	Device      core.DeviceURI `cbor:"2,keyasint"`
	User        core.UserURI   `cbor:"3,keyasint"`
	Record      []byte         `cbor:"4,keyasint"`
	Attestation []byte         `cbor:"5,keyasint"`
	Verified    bool           `cbor:"6,keyasint,omitempty"` // the words were compared
	Refused     bool           `cbor:"7,keyasint,omitempty"` // Proof says why
	Proof       []byte         `cbor:"8,keyasint,omitempty"` // identity.Equivocation

	parsed *identity.SignedRecord
}

// pinned is a homeserver's chain as this device has seen it grow.
type pinned struct {
	n     uint64
	chain *identity.Chain
}

func (c *Client) loadChains(ctx context.Context) error {
	return c.each(ctx, tableHomeserver, func(row Row) error {
		chain, err := identity.ParseChain(row.Data)
		if err != nil {
			return core.Errorf(core.Internal, "stored homeserver: %w", err)
		}
		c.chains[chain.Domain()] = &pinned{row.N, chain}
		return nil
	})
}

func (c *Client) loadKnown(ctx context.Context) error {
	return c.each(ctx, tableDevices, func(row Row) error {
		k := new(knownDevice)
		if err := decode(row.Data, k); err != nil {
			return err
		}
		k.N = row.N
		c.known[k.Device] = k
		c.users[k.User] = append(c.users[k.User], k)
		return nil
	})
}

func (c *Client) keepKnown(k *knownDevice) { c.putCBOR(tableDevices, k.N, k) }

// record is parsed, and its signature verified, when it is first asked for.
func (k *knownDevice) record() (identity.SignedRecord, error) {
	if k.parsed == nil {
		r, err := identity.ParseRecord(k.Record)
		if err != nil {
			return r, core.Errorf(core.Internal, "stored record: %w", err)
		}
		k.parsed = &r
	}
	return *k.parsed, nil
}

// errUnknown marks a leaf that cannot be judged yet.
var errUnknown = errors.New("a device that this one has not met")

// errImpostor marks a leaf that is not the device's it names.
var errImpostor = errors.New("a leaf that is not of the device it names")

// authenticate is mls.Policy.Authenticate: a leaf is that of the device and user it
// names, by a record that the device signed and the user's homeserver attested
// (PROTOCOL §2). Records are fetched before; see meetLeaves.
func (c *Client) authenticate(change mls.LeafChange) error {
	device, user, err := identity.LeafNames(change.New)
	if err != nil {
		return errors.Join(errImpostor, err)
	}
	if change.Old != nil {
		if d, u, err := identity.LeafNames(change.Old); err != nil || d != device || u != user {
			return errors.Join(errImpostor, errors.New("a leaf stays with its device and user"))
		}
	}
	if !c.fits(change.New) {
		if c.known[core.DeviceURI(device)] == nil {
			return errUnknown
		}
		return errImpostor
	}
	return nil
}

// fits reports whether the leaf is that of a device we know.
func (c *Client) fits(l *mls.LeafNode) bool {
	device, _, err := identity.LeafNames(l)
	if err != nil {
		return false
	}
	r := identity.SignedRecord{}
	if k := c.known[core.DeviceURI(device)]; k != nil {
		if r, err = k.record(); err != nil {
			return false
		}
	} else if c.self == nil || core.DeviceURI(device) != c.self.device {
		return false
	} else {
		r = c.self.record
	}
	id, _ := l.Extensions.Find(mls.ExtApplicationID)
	user, err := mls.ParseApplicationID(id)
	return err == nil && identity.LeafFits(r, l.Credential.Data, l.SignatureKey, user) == nil
}

// meetLeaves fetches what is missing to judge these leaves: a user once. What
// cannot be had is left for authenticate to find.
func (c *Client) meetLeaves(ctx context.Context, leaves []*mls.LeafNode) error {
	asked := map[core.UserURI]bool{}
	for _, l := range leaves {
		if c.fits(l) {
			continue
		}
		_, user, err := identity.LeafNames(l)
		u := core.UserURI(user)
		if err != nil || asked[u] {
			continue
		}
		asked[u] = true
		if err := c.meet(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// meet learns all devices of a user from the homeserver.
func (c *Client) meet(ctx context.Context, user core.UserURI) error {
	u, err := ask(ctx, c, func(ctx context.Context) (wire.User, error) { return c.cfg.Home.User(ctx, user) })
	if err != nil {
		return err
	}
	defer c.warnOfStrangers(user, len(c.users[user]))
	for _, d := range u.Devices[:min(len(u.Devices), 4*core.MaxDevices)] {
		if err := c.learn(ctx, d.Proof, user); err != nil && core.CodeOf(err) != core.Denied && core.CodeOf(err) != core.Invalid {
			return err
		}
	}
	return nil
}

// warnOfStrangers tells of devices of a user that came after so many were known, if no
// other of the user names them: once what all of them say now is known.
func (c *Client) warnOfStrangers(user core.UserURI, known int) {
	for i, k := range c.users[user] {
		if i >= max(known, 1) && !c.linked(k) {
			c.tell(Update{Kind: UnlinkedDevice, User: user, Device: k.Device, Text: "a new device that no other device of the user names"})
		}
	}
}

// learn takes up a device: the record is signed by the device, and the attestation
// by the homeserver of its user, whose keys are pinned. That one or the other has
// run out or was revoked is not judged here: who was away follows what was right
// when it happened. Denied and Invalid are about this device alone.
func (c *Client) learn(ctx context.Context, proof core.Identity, user core.UserURI) error {
	r, err := identity.ParseRecord(proof.Record)
	if err != nil {
		return core.Errorf(core.Invalid, "device record: %w", err)
	}
	a, err := identity.ParseAttestation(proof.Attestation)
	if err != nil {
		return core.Errorf(core.Invalid, "attestation: %w", err)
	}
	if r.User != string(user) || a.User != r.User || !bytes.Equal(a.Device, r.Key) {
		return core.Errorf(core.Denied, "a device, its attestation and its user do not belong together")
	}
	if k := c.known[core.DeviceURI(r.URI())]; k != nil && bytes.Equal(k.Record, proof.Record) && bytes.Equal(k.Attestation, proof.Attestation) {
		return nil
	}
	now := c.cfg.Now().Unix()
	chain, err := c.chain(ctx, r.Domain(), func(chain *identity.Chain) bool {
		return !errors.Is(a.Verify(chain, now), identity.ErrUnknownKey)
	})
	if err != nil {
		return err
	}
	if err := a.Verify(chain, now); err != nil && !errors.Is(err, identity.ErrExpired) && !errors.Is(err, identity.ErrRevoked) {
		return refuse(err)
	}
	return c.remember(r, a)
}

// remember keeps the newest of what is known of a device. Two truths are kept as a
// proof, and shown.
func (c *Client) remember(r identity.SignedRecord, a identity.SignedAttestation) error {
	uri := core.DeviceURI(r.URI())
	k := c.known[uri]
	if k == nil {
		if len(c.known) >= maxKnown {
			return core.Errorf(core.TooLarge, "more than %d devices", maxKnown)
		}
		k = &knownDevice{N: uint64(len(c.known)), Device: uri, User: core.UserURI(r.User), Record: r.Encode(), Attestation: a.Encode(), parsed: &r}
		c.known[uri] = k
		c.users[k.User] = append(c.users[k.User], k)
		c.keepKnown(k)
		return nil
	}
	old, err := k.record()
	if err != nil {
		return err
	}
	stands, proof, err := identity.Advance(old, r)
	if proof != nil && !k.Refused {
		k.Refused, k.Proof = true, proof.Encode()
		c.tell(Update{Kind: Equivocation, User: k.User, Device: uri, Text: "the device has signed two records of one version"})
	} else if err != nil && proof == nil && !errors.Is(err, identity.ErrVersion) {
		return refuse(err)
	}
	k.Record, k.parsed = stands.Encode(), &stands
	if before, err := identity.ParseAttestation(k.Attestation); err == nil {
		if a, err = identity.Renew(before, a); err != nil {
			return refuse(err)
		}
	}
	k.Attestation = a.Encode()
	c.keepKnown(k)
	return nil
}

// linked reports whether a device and another of its user name each other.
func (c *Client) linked(k *knownDevice) bool {
	r, err := k.record()
	if err != nil {
		return false
	}
	if c.self != nil && c.self.device != k.Device && identity.Linked(r, c.self.record) {
		return true
	}
	for _, other := range c.users[k.User] {
		if o, err := other.record(); err == nil && other != k && identity.Linked(r, o) {
			return true
		}
	}
	return len(c.users[k.User]) <= 1
}

// chain returns the pinned chain of a homeserver, fetched if there is none or if
// enough says that it does not do. A break in it is an alarm, and nothing of that
// homeserver is believed.
func (c *Client) chain(ctx context.Context, domain string, enough func(*identity.Chain) bool) (*identity.Chain, error) {
	if p := c.chains[domain]; p != nil && enough(p.chain) {
		return p.chain, nil
	}
	h, err := ask(ctx, c, func(ctx context.Context) (wire.Homeserver, error) { return c.cfg.Home.Homeserver(ctx, domain) })
	if err != nil {
		return nil, err
	}
	p := c.chains[domain]
	if len(h.Records) > identity.MaxChain {
		return nil, core.Errorf(core.TooLarge, "a homeserver's chain of %d records", len(h.Records))
	}
	for _, b := range h.Records {
		record, err := identity.ParseHomeserver(b)
		if err == nil && record.Domain != domain {
			err = identity.ErrMismatch
		}
		switch {
		case err != nil:
		case p == nil && len(c.chains) >= maxChains:
			return nil, core.Errorf(core.TooLarge, "more than %d homeservers", maxChains)
		case p == nil:
			p = &pinned{n: uint64(len(c.chains))}
			p.chain, err = identity.Pin(record)
		default:
			err = p.chain.Extend(record)
		}
		if err != nil {
			c.tell(Update{Kind: Alarm, Text: "the keys of homeserver " + domain + " do not follow from those known: " + err.Error()})
			return nil, refuse(err)
		}
	}
	if p == nil {
		return nil, core.Errorf(core.Unavailable, "the record of homeserver %s is not known", domain)
	}
	c.chains[domain] = p
	c.put(tableHomeserver, p.n, p.chain.Encode())
	return p.chain, nil
}
