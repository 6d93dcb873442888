// Package group is a member of an MLS group (RFC 9420): it holds the secrets
// that package mls does without. It creates and joins groups, makes and
// follows commits, and seals and opens messages.
//
// A Group belongs to one goroutine at a time. Nothing here acts on its own:
// randomness, time, pre-shared keys and parallel work come from the Config,
// and what must survive a crash is handed out by Snapshot and Changes before
// it has any effect outside.
package group

import (
	"bytes"
	"errors"
	"io"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// Config is what a member needs from its application. It is shared by all
// groups of a client and does not change.
type Config struct {
	// Rand is the source of all randomness: crypto/rand.Reader, or a seeded
	// one in a test.
	Rand io.Reader
	// Policy decides what the protocol leaves open; nil is the zero Policy.
	Policy *mls.Policy
	// Joined reports whether the client is a member of a group already, so that
	// a Welcome to it is refused, RFC 9420 §12.4.3.1; nil: never.
	Joined func(groupID []byte) bool
	// PSK finds an external or a component's pre-shared key, or a resumption
	// key of another group. RFC 9420 §8.4.
	PSK func(id *mls.PreSharedKeyID) (key []byte, ok bool)
	// Capabilities of the leaves made here; the zero value is DefaultCapabilities.
	Capabilities mls.Capabilities
	// Limits bound what a group keeps and what one message may cost; zero
	// fields take their defaults.
	Limits Limits
	// Padding rounds the plaintext of a PrivateMessage up to a multiple of
	// this many octets, RFC 9420 §15.1; 0 adds none.
	Padding int
	// SendWhilePending lets application messages be sent while proposals wait
	// for a commit, against RFC 9420 §12.4: for delivery that is not ordered.
	SendWhilePending bool
	// PrivateHandshakes sends proposals and commits as PrivateMessage.
	PrivateHandshakes bool
}

// Limits bound a group's memory and the cost of a message.
type Limits struct {
	PastEpochs  int    // epochs before this one whose application messages are still opened; default 4, negative: none
	Resumptions int    // epochs before this one whose resumption PSK is kept, RFC 9420 §8.6; default 4, negative: none
	Skip        uint32 // generations that one message may be ahead of its sender's last; default 1000
	Stored      uint32 // keys kept for messages that were overtaken, per sender and kind; default 1000
	Messages    uint32 // messages that may be sent in one epoch with this suite's AEAD, RFC 9420 §15.2; default 2^23
}

func (l Limits) withDefaults() Limits {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		} else if *v < 0 {
			*v = 0
		}
	}
	set(&l.PastEpochs, 4)
	set(&l.Resumptions, 4)
	if l.Skip == 0 {
		l.Skip = 1000
	}
	if l.Stored == 0 {
		l.Stored = 1000
	}
	if l.Messages == 0 {
		l.Messages = 1 << 23
	}
	return l
}

// The reasons why a message is not for this state of a group. They are no
// fault of the sender's: a caller keeps, asks again, or drops.
var (
	ErrFutureEpoch = errors.New("mls: the message is of an epoch that this member has not reached")
	ErrPastEpoch   = errors.New("mls: the message is of an epoch that this member no longer keeps")
	ErrOwnMessage  = errors.New("mls: the message is the member's own")
	ErrInactive    = errors.New("mls: the group is closed for this member")
	ErrPending     = errors.New("mls: a commit of this member waits to be merged or discarded")
	ErrStale       = errors.New("mls: the transition begins at another epoch than the group's")
)

// Status says what a member may still do.
type Status uint8

// The states of a membership.
const (
	Active        Status = iota
	Removed              // a commit removed this member: it reads what it kept and sends nothing, RFC 9420 §12.4.2
	Reinitialized        // a ReInit was committed: the group is only left for its successor, RFC 9420 §11.2
)

// Group is one client's membership in one group.
type Group struct {
	config *Config
	limits Limits
	params *suite.Suite

	epoch
	past        []*epoch          // newest first, application messages only
	resumptions []resumption      // newest first, of epochs before this one
	updates     map[string][]byte // own Update proposals by reference: the new leaf's private key
	signers     map[string]mls.Signer
	pending     *Transition
	status      Status
	reinit      *mls.ReInit

	sent    uint32    // application messages sent in this epoch
	ahead   [2]uint32 // by secret.Content: the first generation of the own ratchet that no record covers
	journal bool      // there is a snapshot that change records may follow
	changes []byte    // change records since the last call of Changes
	// Scratch memory of the message path, so that a message costs no garbage.
	scratch, body, aad, sealed, signature []byte
	sender                                [senderDataSize + maxTag]byte
}

// epoch is what a member holds of one epoch.
type epoch struct {
	public   *mls.PublicGroup
	self     uint32 // own leaf
	signer   mls.Signer
	keys     privateKeys
	secrets  *secret.Epoch
	ratchets *secret.Ratchets
	exporter *secret.ExporterTree
	context  []byte // encoded GroupContext
	number   uint64
	tree     *mls.Tree
	framing  *mls.GroupContext // of an epoch whose extensions say how messages are framed, else nil
	others   map[uint32][]byte // of a restored past epoch: signature keys that are not those in tree; empty: blank
}

// signatureKey is that of a leaf in this epoch, nil if it is blank.
func (e *epoch) signatureKey(leaf uint32) []byte {
	if key, ok := e.others[leaf]; ok {
		if len(key) == 0 {
			return nil
		}
		return key
	}
	if l := e.tree.Leaf(leaf); l != nil {
		return l.SignatureKey
	}
	return nil
}

type resumption struct {
	epoch uint64
	psk   []byte
}

// Public is the group as everybody may know it. It is not to be changed.
func (g *Group) Public() *mls.PublicGroup { return g.public }

// ID is the group_id.
func (g *Group) ID() []byte { return g.public.GroupID() }

// Epoch is the number of the current epoch.
func (g *Group) Epoch() uint64 { return g.number }

// Self is the own leaf index.
func (g *Group) Self() uint32 { return g.self }

// Status says what this member may still do.
func (g *Group) Status() Status { return g.status }

// Successor is the ReInit that closed the group, or nil.
func (g *Group) Successor() *mls.ReInit { return g.reinit }

// EpochAuthenticator is equal for all members of an epoch and for nobody
// else, RFC 9420 §8.7: Nh octets.
func (g *Group) EpochAuthenticator() []byte { return bytes.Clone(g.secrets.Authenticator) }

// Export derives a secret of n octets for the application, RFC 9420 §8.5.
// Each label is for one use; n is from 1 to 255·Nh.
func (g *Group) Export(label string, context []byte, n int) ([]byte, error) {
	if g.status == Removed {
		return nil, ErrInactive
	}
	if n < 1 || n > 255*g.params.HashSize() {
		return nil, mls.Refuse(mls.RuleExporter, "a secret of %d octets", n)
	}
	return secret.Export(g.params, g.secrets.Exporter, label, context, n)
}

// SafeExport is SafeExportSecret, draft-ietf-mls-extensions-10 §4.4: the
// secret of one component in this epoch, Nh octets, which can be had once.
func (g *Group) SafeExport(component mls.ComponentID) ([]byte, error) {
	if g.status == Removed {
		return nil, ErrInactive
	}
	if g.status == Removed {
		return nil, ErrInactive
	}
	out, err := g.exporter.Export(nil, uint16(component))
	if err != nil {
		return nil, mls.Refuse(mls.RuleExporter, "the secret of component %d was taken before", component)
	}
	g.recordExport(component)
	return out, nil
}

// ResumptionPSK is the current epoch's resumption secret, RFC 9420 §8.6. It is
// what proves membership to a group that follows this one; nil after a removal.
func (g *Group) ResumptionPSK() []byte {
	if g.status == Removed {
		return nil
	}
	return bytes.Clone(g.secrets.Resumption)
}

// policy is the config's, never nil.
func (c *Config) policy() *mls.Policy {
	if c.Policy == nil {
		return &mls.Policy{}
	}
	return c.Policy
}

// parallel runs f for 0 to n-1 by the injected means, and returns the error of
// the first of them that has one.
func (c *Config) parallel(n int, f func(i int) error) error {
	errs := make([]error, n)
	c.policy().Parallel.Run(n, func(i int) { errs[i] = f(i) })
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) random(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(c.Rand, b)
	return b, err
}

// pskSecret is the psk_secret of these keys, RFC 9420 §8.4; all must be known.
// within is the group whose own past epochs may be named, or nil.
func (c *Config) pskSecret(s *suite.Suite, ids []mls.PreSharedKeyID, within *Group) ([]byte, error) {
	if len(ids) > mls.MaxPSKs {
		return nil, mls.Refuse(mls.RuleBounds, "%d pre-shared keys", len(ids))
	}
	names, values := make([][]byte, len(ids)), make([][]byte, len(ids))
	for i := range ids {
		names[i] = ids[i].AppendTo(nil)
		value, ok := within.resumption(&ids[i])
		if !ok && c.PSK != nil {
			value, ok = c.PSK(&ids[i])
		}
		if !ok {
			return nil, mls.Refuse(mls.RulePSKUnknown, "pre-shared key %d of %d", i+1, len(ids))
		}
		values[i] = value
	}
	return secret.PSK(s, names, values)
}

// hasPSK reports whether a pre-shared key is known.
func (c *Config) hasPSK(within *Group, id *mls.PreSharedKeyID) bool {
	_, ok := within.resumption(id)
	if !ok && c.PSK != nil {
		_, ok = c.PSK(id)
	}
	return ok
}

// resumption finds the resumption PSK of an epoch of this group, which is nil
// or without secrets for who is not a member yet.
func (g *Group) resumption(id *mls.PreSharedKeyID) ([]byte, bool) {
	switch {
	case g == nil || g.secrets == nil || g.status == Removed || id.Type != mls.PSKResumption || string(id.GroupID) != string(g.ID()):
		return nil, false
	case id.Epoch == g.number:
		return g.secrets.Resumption, true
	}
	for _, r := range g.resumptions {
		if r.epoch == id.Epoch {
			return r.psk, true
		}
	}
	return nil, false
}

// externalKeys is the key pair for external commits, RFC 9420 §8.
func (e *epoch) externalKeys(s *suite.Suite) (private, public []byte, err error) {
	return hpke.DeriveKeyPair(s, e.secrets.External)
}

// readFraming notes what the GroupContext demands of application messages,
// draft-ietf-mls-extensions-10 §4.9 and §6.2.4.
func (e *epoch) readFraming() error {
	context, err := mls.ParseGroupContext(e.context)
	if err != nil {
		return err
	}
	_, safe := context.Extensions.Component(mls.ComponentSafeAAD)
	_, media := context.Extensions.Component(mls.ComponentContentMediaTypes)
	if safe || media {
		e.framing = context
	}
	return nil
}

// checkFraming refuses an application message that is not framed as its epoch
// demands.
func (e *epoch) checkFraming(data, authenticatedData []byte) error {
	if e.framing == nil {
		return nil
	}
	if err := e.framing.CheckAuthenticatedData(authenticatedData); err != nil {
		return err
	}
	_, err := e.framing.ReadApplication(data)
	return err
}

// describe fills in what everybody knows of an epoch.
func (e *epoch) describe(public *mls.PublicGroup) {
	e.public, e.context, e.number, e.tree = public, public.ContextBytes(), public.Epoch(), public.Tree()
}

// enter fills in what follows from the secrets of an epoch.
func (e *epoch) enter(g *Group) error {
	e.ratchets = secret.NewRatchets(g.params, e.secrets.Encryption, e.tree.Leaves(), secret.Limits{Skip: g.limits.Skip, Stored: g.limits.Stored})
	e.exporter = secret.NewExporterTree(g.params, e.secrets.AppExport)
	secret.Wipe(e.secrets.Encryption, e.secrets.AppExport)
	return e.readFraming()
}
