package client

import (
	"context"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// Key packages live for three months; those that nobody used are dropped a week
// after, for a Welcome may be late. No more than maxPackages are kept.
const (
	packageLife  = 90 * 24 * time.Hour
	packageGrace = 7 * 24 * time.Hour
	maxPackages  = 4 * core.MaxKeyPackages
)

// contentTypes are what members say in a Group.
var contentTypes = mls.MediaTypeList{{Type: []byte(core.ContentMIMI)}}

// components are those of a room's policy that the device knows, beside the
// framing of content.
func components() []mls.ComponentID {
	return append([]mls.ComponentID{mls.ComponentAppComponents, mls.ComponentContentMediaTypes}, policy.Components()...)
}

// A storedPackage is a key package with its private keys.
type storedPackage struct {
	Package    []byte `cbor:"1,keyasint"` // MLSMessage
	Init       []byte `cbor:"2,keyasint"`
	Encryption []byte `cbor:"3,keyasint"`
	LastResort bool   `cbor:"4,keyasint,omitempty"`
	Expires    int64  `cbor:"5,keyasint"` // ms
	Sent       bool   `cbor:"6,keyasint,omitempty"`

	n   uint64
	ref string
}

func (c *Client) loadPackages(ctx context.Context) error {
	return c.each(ctx, tablePackages, func(row Row) error {
		p := &storedPackage{n: row.N}
		if err := decode(row.Data, p); err != nil {
			return err
		}
		k, err := p.parse()
		if err != nil {
			return core.Errorf(core.Internal, "stored key package: %w", err)
		}
		ref, err := k.Ref()
		if err != nil {
			return core.Errorf(core.Internal, "stored key package: %w", err)
		}
		p.ref = string(ref)
		c.packages[p.ref] = p
		c.next = max(c.next, row.N+1)
		return nil
	})
}

func (p *storedPackage) parse() (*mls.KeyPackage, error) {
	m, err := mls.Parse(p.Package)
	if err != nil {
		return nil, err
	}
	if m.KeyPackage == nil {
		return nil, core.Errorf(core.Internal, "not a key package")
	}
	return m.KeyPackage, nil
}

// restore is the key package as package group uses it.
func (p *storedPackage) restore(id group.Identity) (*group.KeyPackage, error) {
	k, err := p.parse()
	if err != nil {
		return nil, err
	}
	return group.RestoreKeyPackage(k, id, p.Init, p.Encryption), nil
}

// replenish brings the key packages at the homeserver up to their number, and the
// last resort; the private keys are on disk before anybody has the public ones.
func (c *Client) replenish(ctx context.Context) error {
	have, err := ask(ctx, c, c.cfg.Home.KeyPackages)
	if err != nil {
		return err
	}
	c.expirePackages()
	now := c.now()
	last, sending := false, []*storedPackage(nil)
	for _, p := range c.packagesInOrder() {
		last = last || p.LastResort && p.Expires-now > packageLife.Milliseconds()/3
		if !p.Sent {
			sending = append(sending, p)
		}
	}
	for i := have.Left + len(sending); i < c.cfg.Packages; i++ {
		p, err := c.makePackage(false)
		if err != nil {
			return err
		}
		sending = append(sending, p)
	}
	if !last {
		p, err := c.makePackage(true)
		if err != nil {
			return err
		}
		sending = append(sending, p)
	}
	if c.low = false; len(sending) == 0 {
		return c.flush(ctx)
	}
	request := wire.PutKeyPackages{}
	for _, p := range sending {
		request.Packages = append(request.Packages, p.Package)
	}
	if _, err := ask(ctx, c, func(ctx context.Context) (wire.KeyPackages, error) { return c.cfg.Home.PutKeyPackages(ctx, request) }); err != nil {
		return err
	}
	for _, p := range sending {
		if c.packages[p.ref] == p { // not used meanwhile
			p.Sent = true
			c.putCBOR(tablePackages, p.n, p)
		}
	}
	return c.flush(ctx)
}

// packagesInOrder lists them as they were made.
func (c *Client) packagesInOrder() []*storedPackage {
	return inOrder(c.packages, func(p *storedPackage) uint64 { return p.n })
}

func (c *Client) makePackage(last bool) (*storedPackage, error) {
	now := c.cfg.Now()
	expires := now.Add(packageLife)
	k, err := group.NewKeyPackage(c.groups, c.cfg.Suite, c.self.groupIdentity(), group.KeyPackageOptions{
		Lifetime:       mls.Lifetime{NotBefore: uint64(now.Add(-clockSlack).Unix()), NotAfter: uint64(expires.Unix())},
		LeafExtensions: c.self.leafExtensions(), LastResort: last,
	})
	if err != nil {
		return nil, core.Errorf(core.Internal, "key package: %w", err)
	}
	ref, err := k.Package.Ref()
	if err != nil {
		return nil, core.Errorf(core.Internal, "key package: %w", err)
	}
	p := &storedPackage{Package: k.Message(), LastResort: last, Expires: expires.UnixMilli(), n: c.next, ref: string(ref)}
	p.Init, p.Encryption = k.Private()
	c.next++
	c.packages[p.ref] = p
	c.putCBOR(tablePackages, p.n, p)
	return p, nil
}

// expirePackages erases the private keys of what can be used no more.
func (c *Client) expirePackages() {
	now := c.now()
	all := c.packagesInOrder()
	for i, p := range all {
		if now > p.Expires+packageGrace.Milliseconds() || len(all)-i > maxPackages {
			c.dropPackage(p)
		}
	}
}

// dropPackage erases a key package's private keys.
func (c *Client) dropPackage(p *storedPackage) {
	clear(p.Init)
	clear(p.Encryption)
	delete(c.packages, p.ref)
	c.put(tablePackages, p.n, nil)
}
