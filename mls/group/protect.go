package group

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
)

// labelContent is the signature label of framed contents, RFC 9420 §17.6.
const labelContent = "FramedContentTBS"

const (
	reuseGuard     = 4                  // octets, RFC 9420 §6.3.2
	senderDataSize = 4 + 4 + reuseGuard // leaf_index, generation, reuse_guard
	maxKey         = 32                 // octets of the longest AEAD key
	maxNonce       = 12                 // octets of the longest AEAD nonce
	maxTag         = 16                 // octets of an AEAD tag
)

// Application is a decrypted application message.
type Application struct {
	Sender            uint32 // leaf index in the tree of the message's epoch
	Epoch             uint64
	Generation        uint32
	AuthenticatedData []byte
	Data              []byte
}

// Seal encrypts an application message, RFC 9420 §6.3, as an MLSMessage that
// is appended to dst. The authenticated data is readable by everybody. The
// change record, if Changes has one, is to be kept before the message is sent:
// then no crash makes a key be used twice, RFC 9420 §6.3.1.
func (g *Group) Seal(dst, plaintext, authenticatedData []byte) ([]byte, error) {
	switch {
	case g.status != Active:
		return nil, ErrInactive
	case g.sent >= g.limits.Messages:
		return nil, mls.Refuse(mls.RuleAEADLimit, "%d messages were sent in this epoch; a commit is needed first", g.sent)
	case len(plaintext)+len(authenticatedData) > mls.MaxMessage/2:
		return nil, mls.Refuse(mls.RuleBounds, "a message of %d octets", len(plaintext))
	case g.public.PendingCount() > 0 && !g.config.SendWhilePending:
		// RFC 9420 §12.4: proposals are committed before more is said.
		return nil, mls.Refuse(mls.RulePendingProposals, "proposals wait for a commit")
	}
	if err := g.checkFraming(plaintext, authenticatedData); err != nil {
		return nil, err
	}
	m := mls.PrivateMessage{GroupID: g.ID(), Epoch: g.number, ContentType: mls.ContentApplication, AuthenticatedData: authenticatedData}
	g.scratch = g.epoch.appendTBS(g.scratch[:0], &m, g.self, plaintext)
	signature, err := g.signMessage(g.scratch)
	if err != nil {
		return nil, err
	}
	body := codec.AppendVec(codec.AppendVec(g.body[:0], plaintext), signature)
	g.body = g.pad(body)
	out, err := g.sealPrivate(dst, &m, g.body, secret.Application)
	if err == nil {
		g.sent++
	}
	return out, err
}

// signMessage signs an application message, into scratch memory if the signer
// can: with the signature's own allocation gone there are four left, two for
// each of the message's AES-GCM keys, which the standard library makes.
func (g *Group) signMessage(tbs []byte) ([]byte, error) {
	s, ok := g.signer.(interface {
		AppendSign(dst []byte, label string, content []byte) ([]byte, error)
	})
	if !ok {
		return g.signer.Sign(labelContent, tbs)
	}
	signature, err := s.AppendSign(g.signature[:0], labelContent, tbs)
	if err == nil {
		g.signature = signature
	}
	return signature, err
}

// pad appends zeros up to the configured multiple.
func (g *Group) pad(body []byte) []byte {
	if p := g.config.Padding; p > 0 {
		for len(body)%p != 0 {
			body = append(body, 0)
		}
	}
	return body
}

// sealPrivate encrypts the content of m with the own ratchet's next key and
// appends the MLSMessage, RFC 9420 §6.3.1 and §6.3.2.
func (g *Group) sealPrivate(dst []byte, m *mls.PrivateMessage, body []byte, kind secret.Content) ([]byte, error) {
	data := g.sender[:senderDataSize] // a local array would escape into the cipher
	if _, err := io.ReadFull(g.config.Rand, data[8:]); err != nil {
		return nil, err
	}
	generation, key, nonce, err := g.ratchets.Next(g.self, kind)
	if err != nil {
		return nil, ratchetError(err)
	}
	g.recordSent(kind, generation)
	binary.BigEndian.PutUint32(data[0:], g.self)
	binary.BigEndian.PutUint32(data[4:], generation)
	guard(nonce, data[8:])
	s := g.params
	g.aad = m.AppendAAD(g.aad[:0])
	dst = mls.AppendHeader(dst, mls.WirePrivate)
	dst = append(dst, g.aad...)
	sealed := s.Seal(g.sealed[:0], key, nonce, g.aad, body)
	g.sealed = sealed
	g.ratchets.Forget()
	var k [maxKey + maxNonce]byte
	senderKey, senderNonce := secret.SenderDataKey(k[:0], s, g.secrets.SenderData, sealed)
	g.aad = m.AppendSenderAAD(g.aad[:0])
	dst = codec.AppendLength(dst, senderDataSize+s.TagSize())
	dst = s.Seal(dst, senderKey, senderNonce, g.aad, data)
	clear(k[:])
	return codec.AppendVec(dst, sealed), nil
}

// guard mixes the reuse guard into a nonce, RFC 9420 §6.3.1.
func guard(nonce, reuse []byte) {
	for i := range reuse {
		nonce[i] ^= reuse[i]
	}
}

// openPrivate decrypts a PrivateMessage of epoch e, RFC 9420 §6.3: it returns
// the plaintext of the content, in scratch memory, and the sender. The key is
// not consumed yet: the signature is checked first.
func (g *Group) openPrivate(e *epoch, m *mls.PrivateMessage) (body []byte, sender uint32, key secret.Key, err error) {
	s := g.params
	if len(m.EncryptedSenderData) != senderDataSize+s.TagSize() {
		return nil, 0, key, mls.Refuse(mls.RuleSenderDataDecryption, "sender data of %d octets", len(m.EncryptedSenderData))
	}
	var k [maxKey + maxNonce]byte
	senderKey, senderNonce := secret.SenderDataKey(k[:0], s, e.secrets.SenderData, m.Ciphertext)
	g.aad = m.AppendSenderAAD(g.aad[:0])
	plain, err := s.Open(g.sender[:0], senderKey, senderNonce, g.aad, m.EncryptedSenderData)
	clear(k[:])
	if err != nil {
		return nil, 0, key, mls.Refuse(mls.RuleSenderDataDecryption, "the sender data does not open")
	}
	sender = binary.BigEndian.Uint32(plain[0:])
	generation := binary.BigEndian.Uint32(plain[4:])
	switch {
	case e.signatureKey(sender) == nil: // RFC 9420 §6.3.2
		return nil, 0, key, mls.Refuse(mls.RuleSenderDataLeaf, "leaf %d is blank", sender)
	case sender == e.self:
		return nil, sender, key, ErrOwnMessage
	}
	kind := secret.Handshake
	if m.ContentType == mls.ContentApplication {
		kind = secret.Application
	}
	if key, err = e.ratchets.Take(sender, kind, generation); err != nil {
		return nil, 0, key, ratchetError(err)
	}
	guard(key.Nonce, plain[8:])
	g.aad = m.AppendAAD(g.aad[:0])
	body, err = s.Open(g.body[:0], key.Key, key.Nonce, g.aad, m.Ciphertext)
	if err != nil {
		e.ratchets.Forget()
		return nil, 0, key, mls.Refuse(mls.RuleContentDecryption, "the content does not open")
	}
	g.body = body
	return body, sender, key, nil
}

// Open decrypts an application message of this epoch or of one that is kept,
// RFC 9420 §6.3. The result does not alias the input.
func (g *Group) Open(m *mls.Message) (*Application, error) {
	if m.Private == nil || m.Private.ContentType != mls.ContentApplication {
		return nil, mls.Refuse(mls.RuleContentType, "not an application message")
	}
	p := m.Private
	e, err := g.epochOf(p.GroupID, p.Epoch)
	if err != nil {
		return nil, err
	}
	if g.status == Reinitialized && e == &g.epoch { // RFC 9420 §12.4.2
		return nil, mls.Refuse(mls.RuleReinitialized, "nothing is said after a ReInit")
	}
	body, sender, key, err := g.openPrivate(e, p)
	if err != nil {
		return nil, err
	}
	app, err := g.verifyApplication(e, p, sender, body)
	if err != nil {
		e.ratchets.Forget()
		return nil, err
	}
	app.Generation = key.Generation
	if err := e.ratchets.Consume(key); err != nil {
		return nil, ratchetError(err)
	}
	g.recordOpened(e.number, secret.Application, sender, key.Generation)
	return app, nil
}

// appendTBS appends the FramedContentTBS of an application message, RFC 9420
// §6.1, written out: this is the path that every message takes.
func (e *epoch) appendTBS(dst []byte, m *mls.PrivateMessage, sender uint32, data []byte) []byte {
	dst = codec.Uint16(codec.Uint16(dst, uint16(mls.Version10)), uint16(mls.WirePrivate))
	dst = codec.Uint64(codec.AppendVec(dst, m.GroupID), m.Epoch)
	dst = codec.Uint32(append(dst, byte(mls.SenderMember)), sender)
	dst = append(codec.AppendVec(dst, m.AuthenticatedData), byte(mls.ContentApplication))
	return append(codec.AppendVec(dst, data), e.context...)
}

// verifyApplication reads a PrivateMessageContent of application data and
// checks its signature, RFC 9420 §6.1 and §6.3.1. It is written out because
// every message takes this path: one pass, one copy.
func (g *Group) verifyApplication(e *epoch, p *mls.PrivateMessage, sender uint32, body []byte) (*Application, error) {
	r := codec.NewReader(body)
	data, signature := r.Vec(), r.Vec()
	for _, b := range r.Rest() {
		if b != 0 {
			return nil, mls.Refuse(mls.RulePadding, "padding is not zero")
		}
	}
	if err := r.Finish(); err != nil {
		return nil, mls.WireError(err)
	}
	g.scratch = e.appendTBS(g.scratch[:0], p, sender, data)
	if !g.params.Verify(e.signatureKey(sender), labelContent, g.scratch, signature) {
		return nil, mls.Refuse(mls.RuleContentSignature, "the key of leaf %d does not verify it", sender)
	}
	if err := e.checkFraming(data, p.AuthenticatedData); err != nil {
		return nil, err
	}
	// One allocation for both parts: the plaintext lies in scratch memory.
	out := make([]byte, 0, len(data)+len(p.AuthenticatedData))
	out = append(append(out, data...), p.AuthenticatedData...)
	return &Application{Sender: sender, Epoch: p.Epoch, Data: out[:len(data):len(data)], AuthenticatedData: out[len(data):]}, nil
}

// epochOf finds the epoch of a message, RFC 9420 §6.
func (g *Group) epochOf(groupID []byte, number uint64) (*epoch, error) {
	switch {
	case string(groupID) != string(g.ID()):
		return nil, mls.Refuse(mls.RuleGroupAndEpoch, "the message is of another group")
	case number > g.number:
		return nil, ErrFutureEpoch
	case number == g.number:
		return &g.epoch, nil
	}
	for _, e := range g.past {
		if e.number == number {
			return e, nil
		}
	}
	return nil, ErrPastEpoch
}

// protect frames a signed content as an MLSMessage of its wire format.
func (g *Group) protect(a *mls.AuthenticatedContent) ([]byte, error) {
	if a.WireFormat == mls.WirePrivate {
		m := mls.PrivateMessage{
			GroupID: a.Content.GroupID, Epoch: a.Content.Epoch, ContentType: a.Content.ContentType,
			AuthenticatedData: a.Content.AuthenticatedData,
		}
		return g.sealPrivate(nil, &m, g.pad(a.AppendPrivateContent(nil, 0)), secret.Handshake)
	}
	p := &mls.PublicMessage{AuthenticatedContent: *a}
	if a.Content.Sender.Type == mls.SenderMember {
		tbm := a.TBM(g.context)
		p.MembershipTag = g.params.MAC(nil, g.secrets.Membership, tbm[:]...)
	}
	m := mls.Message{WireFormat: mls.WirePublic, Public: p}
	return m.AppendTo(nil), nil
}

// membership checks the membership tag of a public message, RFC 9420 §6.2.
func (g *Group) membership(m *mls.PublicMessage) error {
	if m.Content.Sender.Type != mls.SenderMember {
		return nil
	}
	tbm := m.TBM(g.context)
	if !g.params.CheckMAC(g.secrets.Membership, m.MembershipTag, tbm[:]...) {
		return mls.Refuse(mls.RuleMembershipTag, "it is not that of a member")
	}
	return nil
}

// unprotect checks what shields a handshake message, its membership tag or its
// encryption, and returns what the sender signed. A private message's key is
// returned to be consumed once the signature is verified.
func (g *Group) unprotect(m *mls.Message) (*mls.AuthenticatedContent, *secret.Key, error) {
	if m.Public != nil {
		if _, err := g.currentEpoch(m.Public.Content.GroupID, m.Public.Content.Epoch); err != nil {
			return nil, nil, err
		}
		if err := g.membership(m.Public); err != nil {
			return nil, nil, err
		}
		return &m.Public.AuthenticatedContent, nil, nil
	}
	e, err := g.currentEpoch(m.Private.GroupID, m.Private.Epoch)
	if err != nil {
		return nil, nil, err
	}
	body, sender, key, err := g.openPrivate(e, m.Private)
	if err != nil {
		return nil, nil, err
	}
	// The content outlives the scratch memory: proposals are kept.
	a, err := mls.ReadPrivateContent(m.Private, sender, append([]byte(nil), body...))
	if err != nil {
		e.ratchets.Forget()
		return nil, nil, err
	}
	return a, &key, nil
}

// currentEpoch is epochOf for handshakes, which are only of the current epoch.
func (g *Group) currentEpoch(groupID []byte, number uint64) (*epoch, error) {
	e, err := g.epochOf(groupID, number)
	if err == nil && number < g.number {
		return nil, ErrPastEpoch
	}
	return e, err
}

// ratchetError gives a ratchet's refusal its rule.
func ratchetError(err error) error {
	if e, ok := errors.AsType[*secret.Error](err); ok && e.Rule != 0 {
		return mls.Refuse(mls.Rule(e.Rule), "%w", err)
	}
	return err
}
