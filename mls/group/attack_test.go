package group

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

const testSuite = mls.X25519AES128SHA256Ed25519

// forgery is what a malicious member does otherwise when it makes a commit. It
// holds all secrets and signs and seals again, so that what it changes is the
// only thing wrong. Fields that are nil are done as they should be.
type forgery struct {
	list    func(list []mls.ProposalOrRef) []mls.ProposalOrRef
	context func(st *mls.Staged) []byte                           // what path secrets are sealed under
	plain   func(step int, node uint32, pathSecret []byte) []byte // what is sealed for a node
	sealed  func(step int, node uint32, c *mls.Ciphertext)        // what was sealed
	init    func(initSecret []byte) []byte                        // of the key schedule
	commit  func(p *path) []byte                                  // commit_secret
	psk     func(psk []byte) []byte                               // psk_secret
	content func(a *mls.AuthenticatedContent)                     // before it is signed
	signed  func(st *mls.Staged) []byte                           // the GroupContext in what is signed
	tag     func(tag []byte) []byte                               // confirmation_tag
	secrets func(added int, s *groupSecrets)                      // of the Welcome
	joiner  func(added int, k *mls.KeyPackage) *mls.KeyPackage    // for whom they are
	info    func(i *mls.GroupInfo)                                // before it is signed
	opened  func(info []byte) []byte                              // the GroupInfo before it is sealed
	welcome func(w *mls.Welcome)                                  // before it is encoded
}

// forged is a commit of a malicious member.
type forged struct {
	commit, welcome []byte
	st              *mls.Staged
	secrets         *secret.Epoch
}

// or calls change unless it is nil.
func or[T any](change func(T) T, v T) T {
	if change == nil {
		return v
	}
	return change(v)
}

// forge makes a commit, and a Welcome if it adds somebody. The committer's own
// group stays as it is.
func (w *world) forge(by *member, o CommitOptions, f forgery) *forged {
	w.Helper()
	g := by.Group
	sender := mls.Sender{Type: mls.SenderMember, Index: g.self}
	list, _ := g.public.Compose(sender, nil, o.Proposals...)
	st, err := g.public.Plan(sender, list, nil)
	if err != nil {
		w.Fatalf("plan: %v", err)
	}
	fresh := &path{commit: g.zeroSecret()}
	if st.NeedsPath || o.Path || o.Leaf != nil || len(list) == 0 {
		fresh = w.forgePath(by, st, o.Leaf, &f)
	}
	a := &mls.AuthenticatedContent{WireFormat: g.wireFormat(o.Public), Content: mls.FramedContent{
		GroupID: g.ID(), Epoch: g.number, Sender: sender, AuthenticatedData: o.AuthenticatedData,
		ContentType: mls.ContentCommit, Commit: &mls.Commit{Proposals: or(f.list, list), Path: st.Path},
	}}
	if f.content != nil {
		f.content(a)
	}
	signed := g.context
	if f.signed != nil {
		signed = f.signed(st)
	}
	if err := a.Sign(g.signer, signed); err != nil {
		w.Fatalf("sign: %v", err)
	}
	st.Confirm(a)
	psk, err := g.config.pskSecret(g.params, st.PSKs, g)
	if err != nil {
		w.Fatalf("psk: %v", err)
	}
	psk = or(f.psk, psk)
	commitSecret := fresh.commit
	if f.commit != nil {
		commitSecret = f.commit(fresh)
	}
	joiner := secret.Joiner(g.params, or(f.init, bytes.Clone(g.secrets.Init)), commitSecret, st.ContextBytes())
	out := &forged{st: st, secrets: secret.Derive(g.params, joiner, psk, st.ContextBytes())}
	a.ConfirmationTag = or(f.tag, g.params.MAC(nil, out.secrets.Confirmation, st.Context().ConfirmedTranscriptHash))
	a.Seal()
	w.forgeWelcome(by, out, a.ConfirmationTag, fresh, joiner, psk, &f)
	if out.commit, err = g.protect(a); err != nil {
		w.Fatalf("protect: %v", err)
	}
	return out
}

// forgePath is Group.makePath, with what a forgery changes.
func (w *world) forgePath(by *member, st *mls.Staged, leaf *LeafOptions, f *forgery) *path {
	w.Helper()
	g := by.Group
	fresh, err := g.makePath(st, leaf.signerOr(g.signer), g.self, leaf.apply(g.tree.Leaf(g.self)), privateKeys{})
	if err != nil {
		w.Fatalf("path: %v", err)
	}
	context := st.Provisional()
	if f.context != nil {
		context = f.context(st)
	}
	for i, step := range st.Steps {
		var list []mls.Ciphertext
		for _, node := range st.Tree.Resolution(nil, step.Copath, st.New) {
			plain := fresh.secrets[i]
			if f.plain != nil {
				plain = f.plain(i, node, plain)
			}
			c := w.sealFor(by, st.Tree.PublicKey(node), "UpdatePathNode", context, plain)
			if f.sealed != nil {
				f.sealed(i, node, &c)
			}
			list = append(list, c)
		}
		st.Path.Nodes[i] = mls.NewUpdatePathNode(fresh.pairs[i].public, list)
	}
	return fresh
}

// sealFor is EncryptWithLabel, RFC 9420 §5.1.3.
func (w *world) sealFor(by *member, public []byte, label string, context, plain []byte) (c mls.Ciphertext) {
	w.Helper()
	seed := make([]byte, hpke.SeedSize(by.params))
	w.rand.Read(seed)
	var err error
	if c.KEMOutput, c.Ciphertext, err = hpke.SealWithLabel(by.params, seed, public, label, context, plain); err != nil {
		w.Fatalf("seal: %v", err)
	}
	return c
}

// forgeWelcome is Group.welcome, with what a forgery changes.
func (w *world) forgeWelcome(by *member, out *forged, tag []byte, fresh *path, joiner, psk []byte, f *forgery) {
	w.Helper()
	g, st := by.Group, out.st
	if len(st.Added) == 0 {
		return
	}
	info := &mls.GroupInfo{Context: *st.Context(), ConfirmationTag: tag, Signer: st.Committer}
	info.Extensions = info.Extensions.With(mls.ExtRatchetTree, st.Tree.AppendTo(nil))
	if f.info != nil {
		f.info(info)
	}
	if err := info.Sign(g.signer); err != nil {
		w.Fatalf("info: %v", err)
	}
	key, nonce := secret.WelcomeKey(g.params, secret.Welcome(g.params, joiner, psk))
	sealed := g.params.Seal(nil, key, nonce, nil, or(f.opened, info.AppendTo(nil)))
	welcome := &mls.Welcome{Suite: g.public.Context().Suite, EncryptedGroupInfo: sealed}
	for i, k := range st.AddedPackages {
		s := groupSecrets{Joiner: joiner, PSKs: st.PSKs}
		if step, ok := stepOf(st.Steps, st.Added[i]); ok && st.Path != nil {
			s.PathSecret = fresh.secrets[step]
		}
		if f.secrets != nil {
			f.secrets(i, &s)
		}
		if f.joiner != nil {
			k = f.joiner(i, k)
		}
		ref, err := k.Ref()
		if err != nil {
			w.Fatalf("ref: %v", err)
		}
		welcome.Secrets = append(welcome.Secrets, mls.EncryptedGroupSecrets{NewMember: ref,
			Secrets: w.sealFor(by, k.InitKey, "Welcome", sealed, s.AppendTo(nil))})
	}
	if f.welcome != nil {
		f.welcome(welcome)
	}
	m := mls.Message{WireFormat: mls.WireWelcome, Welcome: welcome}
	out.welcome = m.AppendTo(nil)
}

// signed is a content of a member's in this epoch, signed.
func (w *world) signed(by *member, format mls.WireFormat, change func(c *mls.FramedContent)) *mls.AuthenticatedContent {
	w.Helper()
	a := &mls.AuthenticatedContent{WireFormat: format, Content: mls.FramedContent{
		GroupID: by.ID(), Epoch: by.number, Sender: mls.Sender{Type: mls.SenderMember, Index: by.self},
		ContentType: mls.ContentApplication, Application: []byte("text"),
	}}
	if change != nil {
		change(&a.Content)
	}
	if err := a.Sign(by.signer, by.context); err != nil {
		w.Fatalf("sign: %v", err)
	}
	return a
}

// proposal is a signed proposal of a member's.
func (w *world) proposal(by *member, format mls.WireFormat, p *mls.Proposal) *mls.AuthenticatedContent {
	w.Helper()
	return w.signed(by, format, func(c *mls.FramedContent) {
		c.ContentType, c.Proposal, c.Application = mls.ContentProposal, p, nil
	})
}

// sealing is what a malicious member does otherwise when it encrypts.
type sealing struct {
	kind   secret.Content              // the ratchet; that of the content type unless other is set
	other  bool                        //
	body   func(body []byte) []byte    // PrivateMessageContent
	header func(m *mls.PrivateMessage) // before the content is sealed
	sender func(data []byte)           // leaf index, generation, reuse guard: before they are sealed
	aad    func(m *mls.PrivateMessage) // between content and sender data
	sealed func(m *mls.PrivateMessage) // all of it
}

// seal encrypts a signed content, RFC 9420 §6.3, with what the sealing changes.
func (w *world) seal(by *member, a *mls.AuthenticatedContent, s sealing) *mls.Message {
	w.Helper()
	call := func(f func(*mls.PrivateMessage), m *mls.PrivateMessage) {
		if f != nil {
			f(m)
		}
	}
	kind := secret.Handshake
	if a.Content.ContentType == mls.ContentApplication {
		kind = secret.Application
	}
	if s.other {
		kind = s.kind
	}
	m := &mls.PrivateMessage{GroupID: a.Content.GroupID, Epoch: a.Content.Epoch, ContentType: a.Content.ContentType, AuthenticatedData: a.Content.AuthenticatedData}
	call(s.header, m)
	generation, key, nonce, err := by.ratchets.Next(by.self, kind)
	if err != nil {
		w.Fatalf("ratchet: %v", err)
	}
	data := make([]byte, senderDataSize)
	binary.BigEndian.PutUint32(data, by.self)
	binary.BigEndian.PutUint32(data[4:], generation)
	copy(data[8:], "salt")
	guard(nonce, data[8:])
	m.Ciphertext = by.params.Seal(nil, key, nonce, m.AppendAAD(nil), or(s.body, a.AppendPrivateContent(nil, 0)))
	call(s.aad, m)
	if s.sender != nil {
		s.sender(data)
	}
	key, nonce = secret.SenderDataKey(nil, by.params, by.secrets.SenderData, m.Ciphertext)
	m.EncryptedSenderData = by.params.Seal(nil, key, nonce, m.AppendSenderAAD(nil), data)
	call(s.sealed, m)
	return w.parse(m.AppendTo(mls.AppendHeader(nil, mls.WirePrivate)))
}

// public frames a signed content as a PublicMessage, RFC 9420 §6.2.
func (w *world) public(by *member, a *mls.AuthenticatedContent, tag func([]byte) []byte) *mls.Message {
	w.Helper()
	tbm := a.TBM(by.context)
	p := &mls.PublicMessage{AuthenticatedContent: *a}
	p.MembershipTag = or(tag, by.params.MAC(nil, by.secrets.Membership, tbm[:]...))
	m := mls.Message{WireFormat: mls.WirePublic, Public: p}
	return w.parse(m.AppendTo(nil))
}

// flip changes an octet of a copy.
func flip(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

// case of a rule that is checked with secrets.
type ruleCase struct {
	rule   mls.Rule // what is tested
	detail string
	want   mls.Rule // what the refusal names, if it is another
	is     error    // or the error that it is
	attack func(w *world, by, to *member) error
}

// process gives a message to a member.
func (w *world) process(to *member, m *mls.Message) error {
	_, err := to.Process(m)
	return err
}

// refuses runs the cases one after the other in one group: each is refused by
// its rule, changes nothing, and leaves a group that works. RFC 9420 §14.
func refuses(t *testing.T, w *world, cases []ruleCase) {
	t.Helper()
	by, to := w.members[0], w.members[2]
	for _, c := range cases {
		t.Run(c.rule.String()+"/"+c.detail, func(t *testing.T) {
			w.tb = t
			before := to.Snapshot()
			err := c.attack(w, by, to)
			switch {
			case c.is != nil && !errors.Is(err, c.is):
				t.Errorf("got %v, want %v", err, c.is)
			case c.is == nil && c.want == 0 && mls.RuleOf(err) != c.rule:
				t.Errorf("got %v, want rule %d (%s)", err, c.rule, c.rule.Section())
			case c.is == nil && c.want != 0 && !errors.Is(err, c.want.Err()):
				t.Errorf("got %v, want rule %d (%s)", err, c.want, c.want.Section())
			}
			if !bytes.Equal(before, to.Snapshot()) { // mls.RuleAtomicity
				t.Error("RFC 9420 §14: the refusal changed the member")
			}
			to.snapshot, to.changes = to.Snapshot(), nil
			w.say(by, 1)
		})
	}
	w.tb, by.config.PrivateHandshakes = t, false // the server follows
	w.commit(by, CommitOptions{})
	w.commit(to, CommitOptions{})
}

// newAttacked is a group of n members with whatever extensions.
func newAttacked(t *testing.T, n int) *world {
	t.Helper()
	w := newWorld(t, testSuite, 7)
	w.add(w.members[0], n-1, CommitOptions{})
	return w
}

// vec is an opaque vector.
func vec(b []byte) []byte { return codec.AppendVec(nil, b) }

// find is how a member finds its signers after a restart.
func (m *member) find(public []byte) (mls.Signer, bool) {
	s, ok := m.signers[string(public)]
	return s, ok
}

// wantRule demands that err is, or wraps, a refusal by a rule.
func wantRule(t *testing.T, err error, rule mls.Rule) {
	t.Helper()
	if !errors.Is(err, rule.Err()) {
		t.Errorf("got %v, want rule %d (%s)", err, rule, rule.Section())
	}
}
