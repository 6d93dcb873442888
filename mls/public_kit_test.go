package mls

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// testSuite is the suite of the groups made here: 1.
const testSuite = X25519AES128SHA256Ed25519

// seeded is a source of randomness that gives the same each time.
func seeded(seed uint64) io.Reader {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return rand.NewChaCha8(key)
}

// client signs for one member. It holds no key for decryption: what is checked
// here never opens anything.
type client struct {
	params          *suite.Suite
	private, public []byte
	credential      Credential
	caps            Capabilities
	extensions      Extensions // of its leaves
	rand            io.Reader
}

func (c *client) PublicKey() []byte { return c.public }

func (c *client) Sign(label string, content []byte) ([]byte, error) {
	return c.params.Sign(nil, c.private, label, content)
}

// privateType is a proposal type of the private range that test policies know.
const privateType ProposalType = 0xf123

// wideCapabilities are those of members that know all extensions.
func wideCapabilities() Capabilities {
	return NewCapabilities([]Version{Version10}, []Suite{testSuite},
		[]ExtensionType{ExtAppDataDictionary, ExtSupportedWireFormats, ExtRequiredWireFormats, 0xf001},
		[]ProposalType{ProposalAppDataUpdate, ProposalAppEphemeral, ProposalSelfRemove, privateType},
		[]CredentialType{CredentialBasic})
}

func newClient(t testing.TB, name string, rand io.Reader) *client {
	t.Helper()
	params, err := testSuite.Params()
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := params.GenerateSignatureKey(rand)
	if err != nil {
		t.Fatal(err)
	}
	return &client{params, private, public, BasicCredential([]byte(name)), wideCapabilities(), nil, rand}
}

// key is a new public key for HPKE: of suite 1, any 32 octets are one.
func (c *client) key() []byte {
	b := make([]byte, 32)
	if _, err := io.ReadFull(c.rand, b); err != nil {
		panic(err)
	}
	return b
}

// leaf is a leaf not signed yet.
func (c *client) leaf(source LeafSource) *LeafNode {
	l := &LeafNode{EncryptionKey: c.key(), SignatureKey: c.public, Credential: c.credential, Capabilities: c.caps,
		Source: source, Extensions: c.extensions}
	if source == LeafKeyPackage {
		l.Lifetime = Lifetime{1000, 2000}
	}
	return l
}

// keyPackage is signed after both changes: of the leaf and of the package.
func (c *client) keyPackage(t testing.TB, leaf func(*LeafNode), pack func(*KeyPackage)) *KeyPackage {
	t.Helper()
	l := c.leaf(LeafKeyPackage)
	if leaf != nil {
		leaf(l)
	}
	signed, err := SignLeaf(c, l, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	k := &KeyPackage{Version: Version10, Suite: testSuite, InitKey: c.key(), Leaf: signed}
	if pack != nil {
		pack(k)
	}
	out, err := SignKeyPackage(c, k)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kit is a group with all its members' signing keys.
type kit struct {
	t       testing.TB
	rand    io.Reader
	g       *PublicGroup
	members map[uint32]*client
	outside *client // an external sender, if the group has one
	next    int
}

func (k *kit) client() *client {
	k.next++
	return newClient(k.t, fmt.Sprintf("client %d", k.next), k.rand)
}

// newKit makes a group of n members: a creator and one commit of adds.
func newKit(t testing.TB, n int, p *Policy, extensions Extensions) *kit {
	t.Helper()
	k := &kit{t: t, rand: seeded(1), members: make(map[uint32]*client)}
	creator := k.client()
	leaf, err := SignLeaf(creator, creator.leaf(LeafKeyPackage), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	tree := NewTree(creator.params)
	tree.Add(leaf)
	k.g, err = CreatePublicGroup(GroupContext{Version: Version10, Suite: testSuite, GroupID: []byte("group"), Extensions: extensions}, tree, p)
	if err != nil {
		t.Fatal(err)
	}
	k.g.SetConfirmation(k.tag())
	k.members[0] = creator
	if n > 1 {
		var list []ProposalOrRef
		var added []*client
		for range n - 1 {
			c := k.client()
			added = append(added, c)
			list = append(list, ProposalOrRef{Proposal: &Proposal{Type: ProposalAdd, Add: c.keyPackage(t, nil, nil)}})
		}
		st := k.apply(k.commit(0, list, nil))
		for i, leaf := range st.Added {
			k.members[leaf] = added[i]
		}
	}
	return k
}

// tag stands in for a confirmation tag: nobody here can tell.
func (k *kit) tag() []byte { return bytes.Repeat([]byte{7}, k.g.Params().HashSize()) }

// message signs a content of this epoch, as it comes off the wire.
func (k *kit) message(by *client, sender Sender, change func(*AuthenticatedContent)) *AuthenticatedContent {
	k.t.Helper()
	a := &AuthenticatedContent{WireFormat: WirePublic, Content: FramedContent{GroupID: k.g.GroupID(), Epoch: k.g.Epoch(), Sender: sender}}
	change(a)
	if a.Content.Proposal != nil {
		a.Content.ContentType = ContentProposal
	}
	if a.Content.Commit != nil {
		a.Content.ContentType = ContentCommit
		a.ConfirmationTag = k.tag()
	}
	if err := a.Sign(by, k.g.ContextBytes()); err != nil {
		k.t.Fatal(err)
	}
	read, err := ParseAuthenticatedContent(a.Raw())
	if err != nil {
		k.t.Fatal(err)
	}
	return read
}

// proposal is a member's proposal.
func (k *kit) proposal(from uint32, p *Proposal) *AuthenticatedContent {
	k.t.Helper()
	return k.message(k.members[from], Sender{SenderMember, from}, func(a *AuthenticatedContent) { a.Content.Proposal = p })
}

// propose has the group take a proposal, and returns its entry in a commit.
func (k *kit) propose(from uint32, p *Proposal) ProposalOrRef {
	k.t.Helper()
	n, err := k.g.Propose(k.proposal(from, p))
	if err != nil {
		k.t.Fatal(err)
	}
	return ProposalOrRef{Ref: n.Ref}
}

// update is an Update proposal of a member, signed after the change.
func (k *kit) update(from uint32, change func(*LeafNode)) *Proposal {
	k.t.Helper()
	l := k.members[from].leaf(LeafUpdate)
	if change != nil {
		change(l)
	}
	signed, err := SignLeaf(k.members[from], l, k.g.GroupID(), from)
	if err != nil {
		k.t.Fatal(err)
	}
	return &Proposal{Type: ProposalUpdate, Update: signed}
}

// pathChange changes a path before its leaf is signed, so that all of it is
// right but what is changed.
type pathChange struct {
	keys   func(st *Staged, keys [][]byte)
	leaf   func(st *Staged, l *LeafNode)
	nodes  func(nodes []UpdatePathNode) []UpdatePathNode
	signed func(l *LeafNode) *LeafNode
}

// path makes the path of a commit that is planned. Its ciphertexts open nowhere.
func (k *kit) path(st *Staged, by *client, change *pathChange) *UpdatePath {
	k.t.Helper()
	if change == nil {
		change = &pathChange{}
	}
	keys := make([][]byte, len(st.Steps))
	for i := range keys {
		keys[i] = by.key()
	}
	if change.keys != nil {
		change.keys(st, keys)
	}
	tree := st.Tree.Clone()
	leaf := by.leaf(LeafCommit)
	leaf.ParentHash = tree.SetPath(st.Committer, keys)
	if change.leaf != nil {
		change.leaf(st, leaf)
	}
	signed, err := SignLeaf(by, leaf, k.g.GroupID(), st.Committer)
	if err != nil {
		k.t.Fatal(err)
	}
	if change.signed != nil {
		signed = change.signed(signed)
	}
	nodes := make([]UpdatePathNode, len(keys))
	for i := range nodes {
		n := st.Tree.ResolutionSize(st.Steps[i].Copath, st.New)
		nodes[i] = NewUpdatePathNode(keys[i], make([]Ciphertext, n))
	}
	if change.nodes != nil {
		nodes = change.nodes(nodes)
	}
	return &UpdatePath{Leaf: signed, Nodes: nodes}
}

// commit is a member's commit of a valid list, with a path.
func (k *kit) commit(from uint32, list []ProposalOrRef, change *pathChange) *AuthenticatedContent {
	k.t.Helper()
	st, err := k.g.Plan(Sender{SenderMember, from}, list, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	return k.signCommit(from, list, k.path(st, k.members[from], change))
}

// anyCommit is a member's commit of any list, with a path that fits no tree
// but one without changes: what is wrong with the list shows before.
func (k *kit) anyCommit(from uint32, list []ProposalOrRef) *AuthenticatedContent {
	k.t.Helper()
	st, err := k.g.Plan(Sender{SenderMember, from}, nil, nil)
	if err != nil {
		k.t.Fatal(err)
	}
	return k.signCommit(from, list, k.path(st, k.members[from], nil))
}

func (k *kit) signCommit(from uint32, list []ProposalOrRef, path *UpdatePath) *AuthenticatedContent {
	k.t.Helper()
	return k.message(k.members[from], Sender{SenderMember, from}, func(a *AuthenticatedContent) {
		a.Content.Commit = &Commit{Proposals: list, Path: path}
	})
}

// joinCommit is an external commit by c of a valid list.
func (k *kit) joinCommit(c *client, list []ProposalOrRef, change *pathChange) *AuthenticatedContent {
	k.t.Helper()
	st, err := k.g.Plan(Sender{Type: SenderNewMemberCommit}, list, c.leaf(LeafCommit))
	if err != nil {
		k.t.Fatal(err)
	}
	return k.signJoin(c, list, k.path(st, c, change))
}

func (k *kit) signJoin(c *client, list []ProposalOrRef, path *UpdatePath) *AuthenticatedContent {
	k.t.Helper()
	return k.message(c, Sender{Type: SenderNewMemberCommit}, func(a *AuthenticatedContent) {
		a.Content.Commit = &Commit{Proposals: list, Path: path}
	})
}

// anyJoin is an external commit by c of any list; see anyCommit.
func (k *kit) anyJoin(c *client, list []ProposalOrRef) *AuthenticatedContent {
	k.t.Helper()
	st, err := k.g.Plan(Sender{Type: SenderNewMemberCommit}, []ProposalOrRef{externalInit()}, c.leaf(LeafCommit))
	if err != nil {
		k.t.Fatal(err)
	}
	return k.signJoin(c, list, k.path(st, c, nil))
}

func externalInit() ProposalOrRef {
	return ProposalOrRef{Proposal: &Proposal{Type: ProposalExternalInit, KEMOutput: make([]byte, 32)}}
}

// apply stages a commit that is right and goes on to the next epoch.
func (k *kit) apply(a *AuthenticatedContent) *Staged {
	k.t.Helper()
	st, err := k.g.Stage(a)
	if err != nil {
		k.t.Fatal(err)
	}
	k.g = st.Next(a.ConfirmationTag)
	for _, i := range st.Removed {
		delete(k.members, i)
	}
	return st
}

// add is an Add of a new client, and who it is.
func (k *kit) add(leaf func(*LeafNode), pack func(*KeyPackage)) (*client, ProposalOrRef) {
	k.t.Helper()
	c := k.client()
	return c, byValue(&Proposal{Type: ProposalAdd, Add: c.keyPackage(k.t, leaf, pack)})
}

// addProposal is an Add of a new client.
func (k *kit) addProposal() *Proposal {
	k.t.Helper()
	_, entry := k.add(nil, nil)
	return entry.Proposal
}

func byValue(p *Proposal) ProposalOrRef { return ProposalOrRef{Proposal: p} }

func remove(i uint32) *Proposal { return &Proposal{Type: ProposalRemove, Removed: i} }

// psk is a proposal of an external PSK.
func psk(name string, nonce int) *Proposal {
	return &Proposal{Type: ProposalPSK, PSK: PreSharedKeyID{Type: PSKExternal, ID: []byte(name), Nonce: make([]byte, nonce)}}
}

// warm has every member commit once, so that no parent is blank.
func (k *kit) warm() {
	k.t.Helper()
	for i := range k.g.Tree().Leaves() {
		if k.members[i] != nil {
			k.apply(k.commit(i, nil, nil))
		}
	}
}

// breaks demands that err breaks all these rules, and that the group is in
// the very state it was in.
func (k *kit) breaks(err error, before []byte, rules ...Rule) {
	k.t.Helper()
	for _, r := range rules {
		if !errors.Is(err, r.Err()) {
			k.t.Errorf("got %v, want rule %d (%s)", err, r, r.Section())
		}
	}
	if !bytes.Equal(k.g.AppendTo(nil), before) {
		k.t.Error("RFC 9420 §14: the refusal changed the group")
	}
}

// permissive is a policy that knows the private proposal type and components.
func permissive() *Policy {
	return &Policy{
		CustomProposals: func(t ProposalType) (known, needsPath bool) { return t == privateType, true },
		Components: func(c ComponentID, current []byte, present bool, updates [][]byte) ([]byte, error) {
			out := bytes.Clone(current)
			for _, u := range updates {
				if len(u) == 0 {
					return nil, errors.New("an empty update")
				}
				out = append(out, u...)
			}
			return out, nil
		},
		Ephemeral: func(c ComponentID, data []byte) error {
			if len(data) == 0 {
				return errors.New("no data")
			}
			return nil
		},
	}
}

// ruleNames is the name of a case: the rules it breaks, and their section.
func ruleNames(name string, rules ...Rule) string {
	out := ""
	for _, r := range rules {
		out += "Rule" + r.String() + " "
	}
	return out + name
}

// RFC 9420 §11.2, §11.3: the first commit of a group that follows another has
// a resumption PSK of that use.
func TestCreatingPSK(t *testing.T) {
	k := newKit(t, 1, nil, nil)
	_, add := k.add(nil, nil)
	branch := PreSharedKeyID{Type: PSKResumption, Usage: UsageBranch, GroupID: []byte("old"), Nonce: make([]byte, 32)}
	list := []ProposalOrRef{add, byValue(&Proposal{Type: ProposalPSK, PSK: branch})}
	if st := k.apply(k.commit(0, list, nil)); len(st.PSKs) != 1 || st.PSKs[0].Usage != UsageBranch {
		t.Errorf("staged: %+v", st.PSKs)
	}
}
