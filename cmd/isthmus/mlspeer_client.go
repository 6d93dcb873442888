package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// peerCustomType is the private proposal type that the peer's clients say they
// understand.
const peerCustomType mls.ProposalType = 0xf042

// peerLifetime is for how many seconds a key package is good: some peers take
// none that is longer than three months. It begins earlier by peerSkew, since
// clocks differ.
const peerLifetime, peerSkew = 80 * 24 * 3600, 3600

// A peerClient is one client: its signature keys, its unused key packages, its
// pre-shared keys and its groups.
type peerClient struct {
	config   group.Config
	signers  map[string]mls.Signer // by suite and identity, so that a resync finds its former leaf
	packages []*group.KeyPackage
	psks     map[string][]byte
	groups   map[string]*group.Group
	stored   map[string]*peerStore // by group; only of those that were restarted
	asked    []byte                // the group whose resumption key was last asked for
}

func newPeerClient() *peerClient {
	c := &peerClient{signers: map[string]mls.Signer{}, psks: map[string][]byte{}, groups: map[string]*group.Group{}, stored: map[string]*peerStore{}}
	c.config = group.Config{
		Rand: rand.Reader,
		Policy: &mls.Policy{
			Now:             func() uint64 { return uint64(time.Now().Unix()) },
			Parallel:        parallel,
			CustomProposals: func(t mls.ProposalType) (known, needsPath bool) { return t == peerCustomType, false },
		},
		PSK: c.findPSK,
		Capabilities: mls.NewCapabilities([]mls.Version{mls.Version10}, mls.Suites(),
			[]mls.ExtensionType{mls.ExtAppDataDictionary, mls.ExtSupportedWireFormats, mls.ExtRequiredWireFormats, mls.ExtLastResort},
			[]mls.ProposalType{mls.ProposalAppDataUpdate, mls.ProposalAppEphemeral, mls.ProposalSelfRemove, peerCustomType},
			[]mls.CredentialType{mls.CredentialBasic, mls.CredentialX509}),
	}
	return c
}

// findPSK finds an external key that was given, or the present resumption key
// of a group that the client is in.
func (c *peerClient) findPSK(id *mls.PreSharedKeyID) ([]byte, bool) {
	if id.Type == mls.PSKResumption {
		g := c.groups[string(id.GroupID)]
		c.asked = id.GroupID
		if g == nil || g.Epoch() != id.Epoch {
			return nil, false
		}
		return g.ResumptionPSK(), true
	}
	key, ok := c.psks[string(id.ID)]
	return key, ok && id.Type == mls.PSKExternal
}

// identity is that of a name, with its signature key, which is made when it is
// used first.
func (c *peerClient) identity(s mls.Suite, name string) (group.Identity, error) {
	if name == "" {
		return group.Identity{}, errors.New("a request without an identity")
	}
	key := fmt.Sprintf("%d %s", s, name)
	signer := c.signers[key]
	if signer == nil {
		var err error
		if signer, _, err = group.GenerateSigner(rand.Reader, s); err != nil {
			return group.Identity{}, err
		}
		c.signers[key] = signer
	}
	return group.Identity{Credential: mls.BasicCredential([]byte(name)), Signer: signer}, nil
}

func (c *peerClient) newPackage(s mls.Suite, name string, lastResort bool) (*group.KeyPackage, error) {
	id, err := c.identity(s, name)
	if err != nil {
		return nil, err
	}
	now := uint64(time.Now().Unix())
	return group.NewKeyPackage(&c.config, s, id, group.KeyPackageOptions{
		Lifetime: mls.Lifetime{NotBefore: now - peerSkew, NotAfter: now + peerLifetime}, LastResort: lastResort,
	})
}

func (c *peerClient) keyPackage(q *peerRequest, a *peerAnswer) error {
	k, err := c.newPackage(q.Suite, q.Identity, q.LastResort)
	if err != nil {
		return err
	}
	c.packages = append(c.packages, k)
	a.KeyPackage = k.Message()
	return nil
}

// externalSender gives the content of an external_senders extension that has
// the client alone, for the creator of a group.
func (c *peerClient) externalSender(q *peerRequest, a *peerAnswer) error {
	id, err := c.identity(q.Suite, q.Identity)
	if err != nil {
		return err
	}
	a.ExternalSender = mls.AppendExternalSenders(nil, mls.ExternalSender{SignatureKey: id.Signer.PublicKey(), Credential: id.Credential})
	return nil
}

func (c *peerClient) psk(q *peerRequest, _ *peerAnswer) error {
	if len(q.Secret) == 0 {
		return errors.New("a pre-shared key without a secret")
	}
	c.psks[string(q.PSK)] = q.Secret
	return nil
}

// extensions are those that a request names for a group's context.
func (q *peerRequest) extensions() (mls.Extensions, error) {
	var out mls.Extensions
	for _, x := range q.Extensions {
		out = out.With(x.Type, x.Data)
	}
	if len(q.Senders) > 0 {
		var senders []mls.ExternalSender
		for _, b := range q.Senders {
			s, err := mls.ParseExternalSenders(b)
			if err != nil {
				return nil, err
			}
			senders = append(senders, s...)
		}
		out = out.With(mls.ExtExternalSenders, mls.AppendExternalSenders(nil, senders...))
	}
	return out, nil
}

// vacant refuses a group that the client is in already, RFC 9420 §12.4.3.1.
func (c *peerClient) vacant(id []byte) error {
	if g := c.groups[string(id)]; g != nil && g.Status() == group.Active {
		return mls.Refuse(mls.RuleAlreadyMember, "the client is in the group")
	}
	return nil
}

func (c *peerClient) keep(g *group.Group, a *peerAnswer) {
	c.groups[string(g.ID())] = g
	c.store(g)
	a.Group, a.State = g.ID(), stateOf(g)
}

func (c *peerClient) group(id []byte) (*group.Group, error) {
	if g := c.groups[string(id)]; g != nil {
		return g, nil
	}
	return nil, errors.New("unknown group")
}

func (c *peerClient) create(q *peerRequest, a *peerAnswer) error {
	if err := c.vacant(q.Group); err != nil {
		return err
	}
	extensions, err := q.extensions()
	if err != nil {
		return err
	}
	k, err := c.newPackage(q.Suite, q.Identity, false)
	if err != nil {
		return err
	}
	g, err := group.CreateFrom(&c.config, q.Group, k, extensions)
	if err != nil {
		return err
	}
	c.keep(g, a)
	return nil
}

// join enters a group with the key package that the Welcome is for. What group
// it follows, if any, is seen only in its secrets: when a first attempt asked
// for a group's resumption key and failed, that group is named to a second.
func (c *peerClient) join(q *peerRequest, a *peerAnswer) error {
	m, err := mls.Parse(q.Welcome)
	if err != nil {
		return err
	}
	if m.Welcome == nil {
		return mls.Refuse(mls.RuleMessage, "not a Welcome")
	}
	at, err := c.packageFor(m.Welcome)
	if err != nil {
		return err
	}
	k := c.packages[at]
	c.asked = nil
	g, err := group.Join(&c.config, m.Welcome, k, group.JoinOptions{RatchetTree: q.RatchetTree})
	if from := c.groups[string(c.asked)]; err != nil && from != nil {
		g, err = group.Join(&c.config, m.Welcome, k, group.JoinOptions{RatchetTree: q.RatchetTree, From: from})
	}
	if err != nil {
		return err
	}
	if err := c.vacant(g.ID()); err != nil {
		return err
	}
	if !k.Package.LastResort() {
		k.Wipe()
		c.packages = slices.Delete(c.packages, at, at+1)
	}
	c.keep(g, a)
	return nil
}

// packageFor finds the key package of this client's that a Welcome is for.
func (c *peerClient) packageFor(w *mls.Welcome) (int, error) {
	for i, k := range c.packages {
		ref, err := k.Package.Ref()
		if err != nil {
			return 0, err
		}
		if slices.ContainsFunc(w.Secrets, func(s mls.EncryptedGroupSecrets) bool { return bytes.Equal(s.NewMember, ref) }) {
			return i, nil
		}
	}
	return 0, mls.Refuse(mls.RuleWelcomeSecrets, "the Welcome is for no key package of this client's")
}

func (c *peerClient) externalJoin(q *peerRequest, a *peerAnswer) error {
	m, err := mls.Parse(q.GroupInfo)
	if err != nil {
		return err
	}
	if m.GroupInfo == nil {
		return mls.Refuse(mls.RuleMessage, "not a GroupInfo")
	}
	context := &m.GroupInfo.Context
	if q.Suite != 0 && q.Suite != context.Suite {
		return mls.Refuse(mls.RuleWelcomeParameters, "the group is of suite %d", context.Suite)
	}
	if !q.Resync {
		if err := c.vacant(context.GroupID); err != nil {
			return err
		}
	}
	id, err := c.identity(context.Suite, q.Identity)
	if err != nil {
		return err
	}
	o := group.ExternalOptions{RatchetTree: q.RatchetTree, Resync: q.Resync, AuthenticatedData: q.AAD}
	for _, psk := range q.PSKs {
		o.PSKs = append(o.PSKs, mls.PreSharedKeyID{Type: mls.PSKExternal, ID: psk})
	}
	g, commit, err := group.JoinExternal(&c.config, id, m.GroupInfo, o)
	if err != nil {
		return err
	}
	a.Commit = commit
	c.keep(g, a)
	return nil
}

// proposeJoin asks from outside to be added, RFC 9420 §12.1.8.
func (c *peerClient) proposeJoin(q *peerRequest, a *peerAnswer) (err error) {
	k, err := c.newPackage(q.Suite, q.Identity, false)
	if err != nil {
		return err
	}
	if a.Proposal, err = group.ProposeAdd(k, q.Group, q.Epoch); err != nil {
		return err
	}
	c.packages = append(c.packages, k)
	return nil
}

// proposeExternal proposes as external sender number index of a group.
func (c *peerClient) proposeExternal(q *peerRequest, a *peerAnswer) error {
	id, err := c.identity(q.Suite, q.Identity)
	if err != nil {
		return err
	}
	var p *mls.Proposal
	switch {
	case q.KeyPackage != nil:
		k, err := readPackage(q.KeyPackage)
		if err != nil {
			return err
		}
		p = group.Add(k)
	case q.Member != nil:
		p = group.Remove(*q.Member)
	case q.Type != 0:
		if p, err = customProposal(q); err != nil {
			return err
		}
	default:
		return errors.New("an external proposal without key_package, member or type")
	}
	a.Proposal, err = group.ProposeExternal(id.Signer, q.Index, p, q.Group, q.Epoch, q.AAD)
	return err
}

// customProposal is one of a type that has no fields but data.
func customProposal(q *peerRequest) (*mls.Proposal, error) {
	t := mls.ProposalType(q.Type)
	if t.Default() || t == 0 {
		return nil, fmt.Errorf("a proposal of type %d is not a custom one", t)
	}
	return &mls.Proposal{Type: t, Data: q.Data}, nil
}

func readPackage(message []byte) (*mls.KeyPackage, error) {
	m, err := mls.Parse(message)
	if err != nil {
		return nil, err
	}
	if m.KeyPackage == nil {
		return nil, mls.Refuse(mls.RuleMessage, "not a KeyPackage")
	}
	return m.KeyPackage, nil
}
