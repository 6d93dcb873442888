package mls

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// contextOf is the GroupContext of a tree's epoch.
func contextOf(tree *Tree, epoch uint64) *GroupContext {
	return &GroupContext{
		Version: Version10, Suite: proofSuite, GroupID: proofGroup, Epoch: epoch,
		TreeHash: bytes.Clone(tree.Hash()), ConfirmedTranscriptHash: []byte("transcript"),
	}
}

// publicMessage is a signed PublicMessage, as it is read from the wire.
func publicMessage(t testing.TB, by Signer, c *GroupContext, content FramedContent) *Message {
	t.Helper()
	content.GroupID, content.Epoch = c.GroupID, c.Epoch
	m := &PublicMessage{AuthenticatedContent: AuthenticatedContent{WireFormat: WirePublic, Content: content}}
	if content.Commit != nil {
		m.ConfirmationTag = []byte("confirmation tag")
	}
	if content.Sender.Type == SenderMember {
		m.MembershipTag = []byte("membership tag")
	}
	if err := m.Sign(by, c.AppendTo(nil)); err != nil {
		t.Fatal(err)
	}
	back, err := Parse((&Message{WireFormat: WirePublic, Public: m}).AppendTo(nil))
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// proven is the proof of a leaf that is there.
func proven(t testing.TB, tree *Tree, leaf uint32) *MembershipProof {
	t.Helper()
	m, err := tree.MembershipProof(leaf)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func sentBy(leaf uint32, p *Proposal) FramedContent {
	return FramedContent{Sender: Sender{SenderMember, leaf}, ContentType: ContentProposal, Proposal: p}
}

// TestSenderAuthenticated verifies a member's proposal without a tree, rule
// 125, draft-ietf-mls-partial-02 §7.
func TestSenderAuthenticated(t *testing.T) {
	tree := newProvenTree(t, 9)
	c := contextOf(tree.Tree, 4)
	m := publicMessage(t, tree.by[2], c, sentBy(2, &Proposal{Type: ProposalRemove, Removed: 3}))
	b := (&SenderAuthenticated{m, proven(t, tree.Tree, 2)}).AppendTo([]byte("before"))[len("before"):]
	if !bytes.HasPrefix(b, codec.AppendVec(nil, proofGroup)) {
		t.Errorf("the message begins with %x, not with its group", b[:8])
	}
	a, err := ParseSenderAuthenticated(WirePublic, b)
	if err != nil || !bytes.Equal(a.AppendTo(nil), b) || !bytes.Equal(a.Message.Raw(), m.Raw()) {
		t.Fatalf("read %v, %v", a, err)
	}
	if err := a.VerifyPublic(c); err != nil {
		t.Error(err)
	}
	for _, x := range []struct {
		what   string
		change func(a *SenderAuthenticated, c *GroupContext)
		rule   Rule
	}{
		{"another epoch", func(_ *SenderAuthenticated, c *GroupContext) { c.Epoch++ }, RuleGroupAndEpoch},
		{"another group", func(_ *SenderAuthenticated, c *GroupContext) { c.GroupID = []byte("x") }, RuleGroupAndEpoch},
		{"another tree", func(_ *SenderAuthenticated, c *GroupContext) { c.TreeHash = make([]byte, 32) }, RuleMembershipProof},
		{"another context", func(_ *SenderAuthenticated, c *GroupContext) { c.ConfirmedTranscriptHash = nil }, RuleContentSignature},
		{"another suite", func(_ *SenderAuthenticated, c *GroupContext) { c.Suite = 0x0909 }, RuleKeyPackageParameters},
		{"proof of another leaf", func(a *SenderAuthenticated, _ *GroupContext) { a.Sender = proven(t, tree.Tree, 3) }, RuleSenderLeaf},
		{"another format", func(a *SenderAuthenticated, _ *GroupContext) { a.Message = &Message{WireFormat: WirePrivate} }, RuleMembershipProof},
		{"an external sender", func(a *SenderAuthenticated, c *GroupContext) {
			content := sentBy(2, &Proposal{Type: ProposalRemove})
			content.Sender.Type = SenderExternal
			a.Message = publicMessage(t, tree.by[2], c, content)
		}, RuleMembershipProof},
		{"signed by another", func(a *SenderAuthenticated, c *GroupContext) {
			a.Message = publicMessage(t, tree.by[3], c, sentBy(2, &Proposal{Type: ProposalSelfRemove}))
		}, RuleContentSignature},
	} {
		changed, context := *a, *c
		x.change(&changed, &context)
		refused(t, x.what, changed.VerifyPublic(&context), x.rule)
	}
	for what, in := range map[string][]byte{"octets after": append(bytes.Clone(b), 0), "cut off": b[:len(b)-1], "nothing": nil} {
		if _, err := ParseSenderAuthenticated(WirePublic, in); RuleOf(err) == 0 {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = ParseSenderAuthenticated(WireKeyPackage, b)
	refused(t, "a key package", err, RuleMembershipProof)
	_, err = ParseSenderAuthenticated(WirePublic, make([]byte, MaxMessage+1))
	refused(t, "too long", err, RuleBounds)
}

// TestSenderAuthenticatedFormats reads and writes the other wire formats.
func TestSenderAuthenticatedFormats(t *testing.T) {
	tree := newProvenTree(t, 3)
	g := &GroupInfo{Context: *contextOf(tree.Tree, 1), ConfirmationTag: []byte("tag"), Signer: 2}
	if err := g.Sign(tree.by[2]); err != nil {
		t.Fatal(err)
	}
	for _, m := range []*Message{
		{WireFormat: WirePrivate, Private: &PrivateMessage{GroupID: proofGroup, ContentType: ContentApplication, Ciphertext: []byte("secret")}},
		{WireFormat: WireWelcome, Welcome: &Welcome{Suite: proofSuite, EncryptedGroupInfo: []byte("secret")}},
		{WireFormat: WireGroupInfo, GroupInfo: g},
	} {
		b := (&SenderAuthenticated{m, proven(t, tree.Tree, 2)}).AppendTo(nil)
		a, err := ParseSenderAuthenticated(m.WireFormat, b)
		if err != nil || !bytes.Equal(a.AppendTo(nil), b) || a.Sender.Leaf != 2 {
			t.Errorf("wire format %d: read %v, %v", m.WireFormat, a, err)
		}
		if m.WireFormat == WireGroupInfo {
			if err := a.Sender.VerifyGroupInfo(a.Message.GroupInfo); err != nil {
				t.Error(err)
			}
		}
	}
	refused(t, "proof of another leaf", proven(t, tree.Tree, 0).VerifyGroupInfo(g), RuleMembershipProof)
	other := newProvenTree(t, 3)
	refused(t, "proof of another tree", proven(t, other.Tree, 2).VerifyGroupInfo(g), RuleMembershipProof)
	forged := *g
	forged.ConfirmationTag = []byte("another")
	refused(t, "forged", proven(t, tree.Tree, 2).VerifyGroupInfo(&forged), RuleGroupInfoSignature)
}

// welcomed is a joiner's key package, the GroupInfo of its epoch, and the tree.
func welcomed(t testing.TB) (*provenTree, *KeyPackage, *GroupInfo, uint32) {
	t.Helper()
	tree := newProvenTree(t, 9)
	at := tree.add(t, 77)
	g := &GroupInfo{Context: *contextOf(tree.Tree, 5), ConfirmationTag: []byte("tag"), Signer: 2}
	if err := g.Sign(tree.by[2]); err != nil {
		t.Fatal(err)
	}
	k := &KeyPackage{Version: Version10, Suite: proofSuite, InitKey: []byte("init"), Leaf: tree.Leaf(at)}
	return tree, k, g, at
}

// TestAnnotatedWelcome joins without a tree, rule 125, draft-ietf-mls-partial-02 §8.
func TestAnnotatedWelcome(t *testing.T) {
	tree, k, g, at := welcomed(t)
	w := &Welcome{Suite: proofSuite, Secrets: []EncryptedGroupSecrets{{NewMember: []byte("ref")}}, EncryptedGroupInfo: []byte("secret")}
	made, err := tree.AnnotateWelcome(w, 2, at)
	if err != nil {
		t.Fatal(err)
	}
	b := made.AppendTo(nil)
	a, err := ParseAnnotatedWelcome(b)
	if err != nil || !bytes.Equal(a.AppendTo(nil), b) {
		t.Fatalf("read %v, %v", a, err)
	}
	if err := a.Verify(g, k); err != nil {
		t.Error(err)
	}
	for _, x := range []struct {
		what   string
		change func(a *AnnotatedWelcome, g *GroupInfo, k *KeyPackage)
		rule   Rule
	}{
		{"suite of the Welcome", func(a *AnnotatedWelcome, _ *GroupInfo, _ *KeyPackage) {
			a.Welcome = &Welcome{Suite: P256AES128SHA256P256}
		}, RuleWelcomeParameters},
		{"suite of the GroupInfo", func(_ *AnnotatedWelcome, g *GroupInfo, _ *KeyPackage) { g.Context.Suite++ }, RuleWelcomeParameters},
		{"version of the key package", func(_ *AnnotatedWelcome, _ *GroupInfo, k *KeyPackage) { k.Version++ }, RuleWelcomeParameters},
		{"joiner's leaf", func(a *AnnotatedWelcome, _ *GroupInfo, _ *KeyPackage) { a.Joiner = a.Sender }, RuleJoinerLeaf},
		{"joiner of another tree", func(a *AnnotatedWelcome, _ *GroupInfo, _ *KeyPackage) {
			a.Joiner = proven(t, newProvenTree(t, 9).Tree, 2)
		}, RuleMembershipProof},
		{"another signer", func(a *AnnotatedWelcome, _ *GroupInfo, _ *KeyPackage) { a.Sender = a.Joiner }, RuleMembershipProof},
		{"another tree hash", func(_ *AnnotatedWelcome, g *GroupInfo, _ *KeyPackage) { g.Context.TreeHash = make([]byte, 32) }, RuleMembershipProof},
		{"forged", func(_ *AnnotatedWelcome, g *GroupInfo, _ *KeyPackage) { g.Context.Epoch++ }, RuleGroupInfoSignature},
	} {
		changed, info, kp := *a, *g, *k
		x.change(&changed, &info, &kp)
		refused(t, x.what, changed.Verify(&info, &kp), x.rule)
	}
	both := *a
	both.Welcome = &Welcome{Suite: 0x0909}
	info, kp := *g, *k
	info.Context.Suite, kp.Suite = 0x0909, 0x0909
	refused(t, "unknown suite", both.Verify(&info, &kp), RuleKeyPackageParameters)
	_, err = tree.AnnotateWelcome(w, 6, at)
	refused(t, "blank signer", err, RuleMembershipProof)
	_, err = tree.AnnotateWelcome(w, 2, 1<<20)
	refused(t, "joiner outside", err, RuleMembershipProof)
	for i := range b {
		if _, err := ParseAnnotatedWelcome(b[:i]); RuleOf(err) == 0 {
			t.Fatalf("%d octets of %d are read: %v", i, len(b), err)
		}
	}
	_, err = ParseAnnotatedWelcome(append(b, 0))
	refused(t, "octets after", err, Rule(codec.RuleTrailing))
	_, err = ParseAnnotatedWelcome(make([]byte, MaxMessage+1))
	refused(t, "too long", err, RuleBounds)
}

// committed is a commit and the trees around it.
type committed struct {
	before, after *provenTree
	context       *GroupContext // before the commit
	message       *Message
	at            CommitPlace
}

// commitOf makes a commit by a member, or by a joiner, that adds members,
// removes one, and has a path.
func commitOf(t testing.TB, n int, committer uint32, external bool) *committed {
	t.Helper()
	before := newProvenTree(t, n)
	before.Hash()
	after := before.clone()
	c := &committed{before: before, after: after, context: contextOf(before.Tree, 9)}
	after.Remove(uint32(n - 1))
	c.at.Added = NewLeafSet()
	sender := Sender{Type: SenderMember, Index: committer}
	if external {
		committer = after.add(t, 900)
		sender = Sender{Type: SenderNewMemberCommit}
		c.at.Added.Add(committer)
	} else {
		for i := range 3 {
			c.at.Added.Add(after.add(t, 800+i))
		}
	}
	path := after.path(t, committer, 700, c.at.Added)
	c.at.Committer = committer
	c.message = publicMessage(t, after.by[committer], c.context, FramedContent{
		Sender: sender, ContentType: ContentCommit, Commit: &Commit{Path: path},
	})
	return c
}

// unmergedCommit is a commit by leaf 0 of eight members, of whom leaf 6 is
// unmerged at the node that its part of the path leads to.
func unmergedCommit(t testing.TB) *committed {
	t.Helper()
	before := newProvenTree(t, 1)
	for i := range 7 {
		before.add(t, i+1)
	}
	before.path(t, 5, 501, nil)
	before.Remove(6)
	before.path(t, 4, 502, nil)
	if at := before.add(t, 8); at != 6 || !slices.Contains(before.Parent(11).UnmergedLeaves, 6) {
		t.Fatalf("leaf %d is not unmerged", at)
	}
	c := &committed{before: before, after: before.clone(), context: contextOf(before.Tree, 9)}
	path := c.after.path(t, 0, 503, nil)
	c.message = publicMessage(t, c.after.by[0], c.context, FramedContent{
		Sender: Sender{Type: SenderMember}, ContentType: ContentCommit, Commit: &Commit{Path: path},
	})
	return c
}

// TestAnnotatedCommitUnmerged covers RFC 9420 §4.1.1: who is unmerged at the
// next node that is not blank opens the path with its leaf's key.
func TestAnnotatedCommitUnmerged(t *testing.T) {
	c := unmergedCommit(t)
	for leaf, want := range map[uint32]uint32{4: 11, 5: 11, 6: 12, 7: 11} {
		a, err := AnnotateCommit(c.before.Tree, c.after.Tree, c.message, c.at, leaf)
		if err != nil {
			t.Fatal(err)
		}
		share, err := a.Share(a.Commit.Public.Content.Commit.Path)
		if err != nil || share.Key != want {
			t.Errorf("leaf %d opens with the key of node %v, %v, want %d", leaf, share, err, want)
		}
	}
}

// TestAnnotatedCommit gives every member its part of a commit's path, rule
// 125, draft-ietf-mls-partial-02 §10.
func TestAnnotatedCommit(t *testing.T) {
	s := suite.Lookup(uint16(proofSuite))
	for _, c := range []*committed{
		commitOf(t, 4, 0, false), commitOf(t, 9, 2, false), commitOf(t, 9, 7, false), commitOf(t, 17, 0, false),
		commitOf(t, 30, 14, false), commitOf(t, 5, 0, true), commitOf(t, 21, 0, true), unmergedCommit(t),
	} {
		received := 0
		for i := range c.after.Leaves() {
			made, err := AnnotateCommit(c.before.Tree, c.after.Tree, c.message, c.at, i)
			if c.after.Leaf(i) == nil || i == c.at.Committer || c.at.Added.Has(i) {
				refused(t, fmt.Sprint("leaf ", i), err, RuleMembershipProof)
				continue
			}
			if err != nil {
				t.Fatalf("leaf %d: %v", i, err)
			}
			b := made.AppendTo(nil)
			a, err := ParseAnnotatedCommit(b)
			if err != nil || !bytes.Equal(a.AppendTo(nil), b) {
				t.Fatalf("leaf %d: read %v, %v", i, a, err)
			}
			if err := a.Verify(s, c.context.TreeHash); err != nil {
				t.Fatalf("leaf %d: %v", i, err)
			}
			path := a.Commit.Public.Content.Commit.Path
			key, err := a.CommitterKey(path)
			if err != nil || a.Commit.Public.Verify(s, key, c.context.AppendTo(nil)) != nil {
				t.Errorf("leaf %d: the commit's signature: %v", i, err)
			}
			checkShare(t, c, a, path, i)
			received++
		}
		if received == 0 {
			t.Error("nobody received the commit")
		}
	}
}

// checkShare compares what a receiver finds in a path with what the tree says.
func checkShare(t *testing.T, c *committed, a *AnnotatedCommit, path *UpdatePath, leaf uint32) {
	t.Helper()
	share, err := a.Share(path)
	if err != nil {
		t.Fatalf("leaf %d: %v", leaf, err)
	}
	if want := codec.Uint32(nil, share.Key); !bytes.Equal(share.Secret.Ciphertext, want) {
		t.Errorf("leaf %d: opens with the key of node %d what is encrypted to %x", leaf, share.Key, share.Secret.Ciphertext)
	}
	if !Covers(share.Key, leaf) {
		t.Errorf("leaf %d: the key is of node %d", leaf, share.Key)
	}
	var want []PathNodeKey
	for _, f := range c.after.FilteredPath(c.at.Committer) {
		if Covers(f.Node, leaf) {
			want = append(want, PathNodeKey{f.Node, c.after.PublicKey(f.Node)})
		}
	}
	if !slices.EqualFunc(share.Nodes, want, func(x, y PathNodeKey) bool { return x.Node == y.Node && bytes.Equal(x.PublicKey, y.PublicKey) }) {
		t.Errorf("leaf %d: nodes %v, want %v", leaf, share.Nodes, want)
	}
}

// TestAnnotatedCommitFields covers rule 125: which fields go together,
// draft-ietf-mls-partial-02 §10.
func TestAnnotatedCommitFields(t *testing.T) {
	c, joined := commitOf(t, 9, 2, false), commitOf(t, 9, 2, true)
	proposal := publicMessage(t, c.before.by[2], c.context, sentBy(2, &Proposal{Type: ProposalSelfRemove}))
	outsider := publicMessage(t, c.before.by[2], c.context, FramedContent{
		Sender: Sender{Type: SenderExternal}, ContentType: ContentCommit, Commit: &Commit{},
	})
	private := func(kind ContentType) *Message {
		return &Message{WireFormat: WirePrivate, Private: &PrivateMessage{GroupID: proofGroup, ContentType: kind}}
	}
	for _, x := range []struct {
		what   string
		change func(a *AnnotatedCommit)
		rule   Rule
	}{
		{"nothing changed", func(*AnnotatedCommit) {}, 0},
		{"private commit", func(a *AnnotatedCommit) { a.Commit = private(ContentCommit) }, 0},
		{"private commit, no path", func(a *AnnotatedCommit) { a.Commit = private(ContentCommit); a.HasResolution = false }, 0},
		{"private commit, no proof", func(a *AnnotatedCommit) { a.Commit = private(ContentCommit); a.Sender = nil }, RuleMembershipProof},
		{"private proposal", func(a *AnnotatedCommit) { a.Commit = private(ContentProposal) }, RuleMembershipProof},
		{"proposal", func(a *AnnotatedCommit) { a.Commit = proposal }, RuleMembershipProof},
		{"external sender", func(a *AnnotatedCommit) { a.Commit = outsider; a.HasResolution = false }, RuleMembershipProof},
		{"member without proof", func(a *AnnotatedCommit) { a.Sender = nil }, RuleMembershipProof},
		{"joiner with proof", func(a *AnnotatedCommit) { a.Commit = joined.message }, RuleMembershipProof},
		{"another leaf", func(a *AnnotatedCommit) {
			a.Sender, a.SenderAfter = proven(t, c.before.Tree, 5), proven(t, c.after.Tree, 5)
		}, RuleMembershipProof},
		{"two leaves", func(a *AnnotatedCommit) { a.Sender = proven(t, c.before.Tree, 5) }, RuleMembershipProof},
		{"no resolution", func(a *AnnotatedCommit) { a.HasResolution = false }, RuleMembershipProof},
		{"own commit", func(a *AnnotatedCommit) { a.ReceiverAfter = a.SenderAfter }, RuleMembershipProof},
		{"welcome", func(a *AnnotatedCommit) { a.Commit = &Message{WireFormat: WireWelcome, Welcome: &Welcome{}} }, RuleMembershipProof},
	} {
		a, err := AnnotateCommit(c.before.Tree, c.after.Tree, c.message, c.at, 3)
		if err != nil {
			t.Fatal(err)
		}
		x.change(a)
		_, err = ParseAnnotatedCommit(a.AppendTo(nil))
		refused(t, x.what, err, x.rule)
	}
	_, err := ParseAnnotatedCommit([]byte{0, 2, 0, 1})
	refused(t, "version", err, RuleMessage)
	_, err = ParseAnnotatedCommit(make([]byte, MaxMessage+1))
	refused(t, "too long", err, RuleBounds)
	_, err = AnnotateCommit(c.before.Tree, c.after.Tree, proposal, c.at, 3)
	refused(t, "annotating a proposal", err, RuleMembershipProof)
	at := c.at
	at.Committer = 6
	_, err = AnnotateCommit(c.before.Tree, c.after.Tree, c.message, at, 3)
	refused(t, "a committer that was no member", err, RuleMembershipProof)
	at.Committer = 9
	_, err = AnnotateCommit(c.before.Tree, c.after.Tree, joined.message, at, 3)
	refused(t, "a committer that is no member", err, RuleMembershipProof)
	at = c.at
	at.Path = true
	if a, err := AnnotateCommit(c.before.Tree, c.after.Tree, private(ContentCommit), at, 3); err != nil || !a.HasResolution {
		t.Errorf("annotating a private commit: %v", err)
	}
}

// TestAnnotatedCommitRefusals covers rules 79, 80 and 125: proofs of other
// trees, and paths that are not the committer's, draft-ietf-mls-partial-02 §10.
func TestAnnotatedCommitRefusals(t *testing.T) {
	s := suite.Lookup(uint16(proofSuite))
	c := commitOf(t, 9, 2, false)
	fresh := func() *AnnotatedCommit {
		a, err := AnnotateCommit(c.before.Tree, c.after.Tree, c.message, c.at, 3)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for what, change := range map[string]func(a *AnnotatedCommit){
		"sender after for before": func(a *AnnotatedCommit) { a.Sender = a.SenderAfter },
		"sender before for after": func(a *AnnotatedCommit) { a.SenderAfter = a.Sender },
		"receiver before":         func(a *AnnotatedCommit) { a.ReceiverAfter = proven(t, c.before.Tree, 3) },
		"tree hash after":         func(a *AnnotatedCommit) { a.TreeHashAfter = c.context.TreeHash },
	} {
		a := fresh()
		change(a)
		refused(t, what, a.Verify(s, c.context.TreeHash), RuleMembershipProof)
	}
	refused(t, "tree hash before", fresh().Verify(s, c.after.Hash()), RuleMembershipProof)
	for _, x := range []struct {
		what   string
		change func(a *AnnotatedCommit, p *UpdatePath)
		rule   Rule
	}{
		{"no resolution", func(a *AnnotatedCommit, _ *UpdatePath) { a.HasResolution = false }, RuleMembershipProof},
		{"another leaf", func(_ *AnnotatedCommit, p *UpdatePath) { p.Leaf = c.after.Leaf(3) }, RuleMembershipProof},
		{"its own receiver", func(a *AnnotatedCommit, _ *UpdatePath) { a.ReceiverAfter = a.SenderAfter }, RuleMembershipProof},
		{"short path", func(_ *AnnotatedCommit, p *UpdatePath) { p.Nodes = p.Nodes[:len(p.Nodes)-1] }, RulePathLength},
		{"long path", func(_ *AnnotatedCommit, p *UpdatePath) { p.Nodes = append(p.Nodes, p.Nodes[0]) }, RulePathLength},
		{"another key", func(_ *AnnotatedCommit, p *UpdatePath) { p.Nodes[1].EncryptionKey = []byte("key") }, RulePathLength},
		{"blank ancestor", func(a *AnnotatedCommit, p *UpdatePath) {
			a.SenderAfter.Parents[0] = nil
			p.Nodes = p.Nodes[1:]
		}, RulePathLength},
		{"resolution beyond", func(a *AnnotatedCommit, _ *UpdatePath) { a.Resolution = 1 }, RulePathCiphertexts},
		{"resolution far beyond", func(a *AnnotatedCommit, _ *UpdatePath) { a.Resolution = ^uint32(0) }, RulePathCiphertexts},
	} {
		a := fresh()
		path := *a.Commit.Public.Content.Commit.Path
		path.Nodes = slices.Clone(path.Nodes)
		x.change(a, &path)
		_, err := a.Share(&path)
		refused(t, x.what, err, x.rule)
	}
	a := fresh()
	a.Sender = nil
	_, err := a.CommitterKey(nil)
	refused(t, "external commit without a path", err, RuleExternalCommit)
	if key, err := a.CommitterKey(a.Commit.Public.Content.Commit.Path); err != nil || !bytes.Equal(key, c.after.by[2].public) {
		t.Errorf("the key of an external commit: %v", err)
	}
}

// FuzzAnnotated checks that what is read is written as it was, whichever of
// the structures it is taken for.
func FuzzAnnotated(f *testing.F) {
	c := commitOf(f, 5, 2, false)
	a, err := AnnotateCommit(c.before.Tree, c.after.Tree, c.message, c.at, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(0), a.AppendTo(nil))
	w, err := c.after.AnnotateWelcome(&Welcome{Suite: proofSuite}, 2, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint8(6), w.AppendTo(nil))
	proof := proven(f, c.before.Tree, 2)
	for _, m := range []*Message{
		publicMessage(f, c.before.by[2], c.context, sentBy(2, &Proposal{Type: ProposalSelfRemove})),
		{WireFormat: WirePrivate, Private: &PrivateMessage{GroupID: proofGroup, ContentType: ContentApplication}},
		{WireFormat: WireWelcome, Welcome: &Welcome{Suite: proofSuite}},
	} {
		f.Add(uint8(m.WireFormat), (&SenderAuthenticated{m, proof}).AppendTo(nil))
	}
	s := suite.Lookup(uint16(proofSuite))
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		var out []byte
		var err error
		switch kind % 7 {
		case 0:
			var a *AnnotatedCommit
			if a, err = ParseAnnotatedCommit(b); err == nil {
				out = a.AppendTo(nil)
				if err := a.Verify(s, c.context.TreeHash); err != nil && RuleOf(err) == 0 {
					t.Fatal(err)
				}
				if p := a.Commit.Public; p != nil && p.Content.Commit.Path != nil {
					if _, err := a.Share(p.Content.Commit.Path); err != nil && RuleOf(err) == 0 {
						t.Fatal(err)
					}
				}
			}
		case 6:
			var w *AnnotatedWelcome
			if w, err = ParseAnnotatedWelcome(b); err == nil {
				out = w.AppendTo(nil)
			}
		default:
			var a *SenderAuthenticated
			if a, err = ParseSenderAuthenticated(WireFormat(kind%7), b); err == nil {
				out = a.AppendTo(nil)
				if a.Message.WireFormat == WirePublic && a.VerifyPublic(c.context) != nil && RuleOf(a.VerifyPublic(c.context)) == 0 {
					t.Fatal("a refusal under no rule")
				}
			}
		}
		if err != nil {
			if RuleOf(err) == 0 {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(out, b) {
			t.Fatalf("%x is written as %x", b, out)
		}
	})
}
