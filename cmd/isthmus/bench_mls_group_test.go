//go:build bench

package main

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

const (
	mlsBenchSuite = mls.X25519AES128SHA256Ed25519
	mlsBenchGroup = "bench"
)

// A mlsCrowd is clients with a key package each, by number. Making them costs
// more than some of the measures, so the groups of all sizes are made of the
// same clients.
type mlsCrowd struct {
	config   *group.Config
	clients  []*group.KeyPackage
	packages [][]byte // MLSMessages
}

func newMLSCrowd() *mlsCrowd {
	return &mlsCrowd{config: &group.Config{Rand: rand.Reader, Policy: &mls.Policy{
		Now:      func() uint64 { return uint64(time.Now().Unix()) },
		Parallel: parallel,
	}}}
}

// grow makes clients until there are n.
func (c *mlsCrowd) grow(t *testing.T, n int) {
	t.Helper()
	more := max(0, n-len(c.clients))
	from := len(c.clients)
	c.clients = append(c.clients, make([]*group.KeyPackage, more)...)
	c.packages = append(c.packages, make([][]byte, more)...)
	errs := make([]error, more)
	parallel(more, func(j int) {
		i := from + j
		c.clients[i], errs[j] = c.client(i)
		if errs[j] == nil {
			c.packages[i] = c.clients[i].Message()
		}
	})
	for _, err := range errs {
		must(t, err)
	}
}

// client makes the client with a number. The name has the form that every peer
// accepts, and the lifetime is one that all of them do.
func (c *mlsCrowd) client(i int) (*group.KeyPackage, error) {
	signer, _, err := group.GenerateSigner(rand.Reader, mlsBenchSuite)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("6f1b2c3d-0000-4000-8000-%012x:%x@example.com", i+1, i+1)
	now := uint64(time.Now().Unix())
	return group.NewKeyPackage(c.config, mlsBenchSuite, group.Identity{Credential: mls.BasicCredential([]byte(name)), Signer: signer},
		group.KeyPackageOptions{Lifetime: mls.Lifetime{NotBefore: now - peerSkew, NotAfter: now + peerLifetime}})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// adds reads key packages as a committer gets them.
func (c *mlsCrowd) adds(packages ...[]byte) ([]*mls.Proposal, error) {
	out := make([]*mls.Proposal, len(packages))
	for i, b := range packages {
		m, err := mls.Parse(b)
		if err != nil {
			return nil, err
		}
		out[i] = group.Add(m.KeyPackage)
	}
	return out, nil
}

// join reads a Welcome and joins as client i, with the tree beside it or inside.
func (c *mlsCrowd) join(welcome, tree []byte, i int) (*group.Group, error) {
	m, err := mls.Parse(welcome)
	if err != nil {
		return nil, err
	}
	return group.Join(c.config, m.Welcome, c.clients[i], group.JoinOptions{RatchetTree: tree})
}

// commit makes a commit and enters its epoch: all that a committer does.
func commitMLS(g *group.Group, o group.CommitOptions) (*group.Transition, error) {
	c, err := g.Commit(o)
	if err != nil {
		return nil, err
	}
	return c, g.Merge(c)
}

// process reads a commit and enters its epoch: all that a receiver does.
func processMLS(g *group.Group, commit []byte) error {
	m, err := mls.Parse(commit)
	if err != nil {
		return err
	}
	e, err := g.Process(m)
	if err != nil {
		return err
	}
	return g.Merge(e.Transition)
}

// followMLS is what a delivery service does with a commit.
func followMLS(g *mls.PublicGroup, commit []byte) (*mls.PublicGroup, error) {
	m, err := mls.Parse(commit)
	if err != nil {
		return nil, err
	}
	e, err := g.Handle(m)
	if err != nil {
		return nil, err
	}
	return e.Commit.Next(m.Public.ConfirmationTag), nil
}

// A mlsGroup is a group of n members, of whom members 0 and 1 are live, and a
// delivery service that follows it.
type mlsGroup struct {
	t       *testing.T
	crowd   *mlsCrowd
	n       int
	a, b    *group.Group
	service *mls.PublicGroup
	added   int
}

func (g *mlsGroup) must(err error) { g.t.Helper(); must(g.t, err) }

// serve starts the delivery service from what a member gives it.
func (g *mlsGroup) serve() {
	g.t.Helper()
	b, err := g.a.GroupInfo(true, nil)
	g.must(err)
	m, err := mls.Parse(b)
	g.must(err)
	g.service, err = mls.NewPublicGroup(m.GroupInfo, nil, g.crowd.config.Policy)
	g.must(err)
}

// all gives the service and member b a commit of a's.
func (g *mlsGroup) all(commit []byte) {
	g.t.Helper()
	g.must(processMLS(g.b, commit))
	var err error
	g.service, err = followMLS(g.service, commit)
	g.must(err)
}

// newcomer is the key package of a client that is not in the group.
func (g *mlsGroup) newcomer() []byte {
	g.t.Helper()
	g.added++
	k, err := g.crowd.client(1<<20 + g.added)
	g.must(err)
	return k.Message()
}

// found makes a group with n−1 adds: the tree is cold, with no parent set.
func (c *mlsCrowd) found() (*group.Group, error) {
	id := c.clients[0].Identity
	return group.Create(c.config, mlsBenchSuite, []byte(mlsBenchGroup), id, nil, nil)
}

// warm makes a group in which every member has made a commit. The leaves of
// members 2 and on set their paths in the tree alone, without a message, for
// nobody holds those keys later; the two that are live come in by an external
// commit and by a Welcome, which check the whole tree, and commit once.
func (c *mlsCrowd) warm(t *testing.T, n int) *mlsGroup {
	t.Helper()
	g := &mlsGroup{t: t, crowd: c, n: n}
	info := c.warmInfo(t, n)
	var err error
	g.a, _, err = group.JoinExternal(c.config, c.clients[0].Identity, info, group.ExternalOptions{})
	g.must(err)
	adds, err := c.adds(c.packages[1])
	g.must(err)
	made, err := commitMLS(g.a, group.CommitOptions{Proposals: adds})
	g.must(err)
	g.b, err = c.join(made.Welcome, nil, 1)
	g.must(err)
	made, err = commitMLS(g.b, group.CommitOptions{Path: true})
	g.must(err)
	g.must(processMLS(g.a, made.Commit))
	if members := g.a.Public().Tree().Members(); members != n || g.a.Self() != 0 || g.b.Self() != 1 {
		t.Fatalf("a group of %d members, live are %d and %d", members, g.a.Self(), g.b.Self())
	}
	g.serve()
	return g
}

// warmInfo is the GroupInfo of a group of members 2 to n−1.
func (c *mlsCrowd) warmInfo(t *testing.T, n int) *mls.GroupInfo {
	t.Helper()
	params, err := mlsBenchSuite.Params()
	must(t, err)
	tree := mls.NewTree(params)
	for i := range n {
		tree.Add(c.clients[i].Package.Leaf)
	}
	key := func() []byte {
		k := make([]byte, 32)
		rand.Read(k)
		return k
	}
	for i := 2; i < n; i++ {
		keys := make([][]byte, len(tree.FilteredPath(uint32(i))))
		for j := range keys {
			keys[j] = key()
		}
		id := c.clients[i].Identity
		leaf, err := mls.SignLeaf(id.Signer, &mls.LeafNode{EncryptionKey: key(), Credential: id.Credential, Capabilities: group.DefaultCapabilities(),
			Source: mls.LeafCommit, ParentHash: tree.SetPath(uint32(i), keys)}, []byte(mlsBenchGroup), uint32(i))
		must(t, err)
		tree.ReplaceLeaf(uint32(i), leaf)
	}
	tree.Remove(0)
	tree.Remove(1)
	info := &mls.GroupInfo{
		Context: mls.GroupContext{Version: mls.Version10, Suite: mlsBenchSuite, GroupID: []byte(mlsBenchGroup), Epoch: uint64(n),
			TreeHash: tree.Hash(), ConfirmedTranscriptHash: key()},
		ConfirmationTag: key(), Signer: 2,
	}
	info.Extensions = info.Extensions.With(mls.ExtExternalPub, mls.AppendExternalPub(nil, key())).With(mls.ExtRatchetTree, tree.AppendTo(nil))
	must(t, info.Sign(c.clients[2].Identity.Signer))
	info, err = mls.ParseGroupInfo(info.AppendTo(nil))
	must(t, err)
	return info
}
