package mls

import (
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// Sender is who a message is from, RFC 9420 §6.
type Sender struct {
	Type  SenderType
	Index uint32 // of a member, its leaf; of an external sender, its place in the list
}

// AppendTo appends the encoding.
func (s Sender) AppendTo(dst []byte) []byte {
	dst = append(dst, byte(s.Type))
	if s.Type == SenderMember || s.Type == SenderExternal {
		dst = codec.Uint32(dst, s.Index)
	}
	return dst
}

func readSender(r *codec.Reader) Sender {
	s := Sender{Type: SenderType(r.Uint8())}
	switch s.Type {
	case SenderMember, SenderExternal:
		s.Index = r.Uint32()
	case SenderNewMemberProposal, SenderNewMemberCommit:
	default:
		r.Fail(int(RuleReservedValue), "sender_type is reserved")
	}
	return s
}

// FramedContent is what a sender says to a group, RFC 9420 §6. The field of
// its content type is set.
type FramedContent struct {
	GroupID           []byte
	Epoch             uint64
	Sender            Sender
	AuthenticatedData []byte
	ContentType       ContentType
	Application       []byte
	Proposal          *Proposal
	Commit            *Commit
}

// AppendTo appends the encoding.
func (c *FramedContent) AppendTo(dst []byte) []byte {
	dst = codec.Uint64(codec.AppendVec(dst, c.GroupID), c.Epoch)
	dst = codec.AppendVec(c.Sender.AppendTo(dst), c.AuthenticatedData)
	return c.AppendBody(append(dst, byte(c.ContentType)))
}

// AppendBody appends the content itself, as it also stands in a PrivateMessageContent.
func (c *FramedContent) AppendBody(dst []byte) []byte {
	switch c.ContentType {
	case ContentApplication:
		return codec.AppendVec(dst, c.Application)
	case ContentProposal:
		return c.Proposal.AppendTo(dst)
	default:
		return c.Commit.AppendTo(dst)
	}
}

func (c *FramedContent) readBody(r *codec.Reader) {
	switch c.ContentType {
	case ContentApplication:
		c.Application = r.Vec()
	case ContentProposal:
		c.Proposal = readProposal(r)
	case ContentCommit:
		c.Commit = readCommit(r)
	default:
		r.Fail(int(RuleReservedValue), "content_type is reserved")
	}
}

func readFramedContent(r *codec.Reader) FramedContent {
	c := FramedContent{
		GroupID:           r.Vec(),
		Epoch:             r.Uint64(),
		Sender:            readSender(r),
		AuthenticatedData: r.Vec(),
		ContentType:       ContentType(r.Uint8()),
	}
	c.readBody(r)
	return c
}

// AuthenticatedContent is a content with what vouches for it, RFC 9420 §6.1.
// It is what members agree on, whichever form the message had on its way.
type AuthenticatedContent struct {
	WireFormat      WireFormat
	Content         FramedContent
	Signature       []byte
	ConfirmationTag []byte // of a commit

	framed []byte // version, wire_format and FramedContent: the start of FramedContentTBS
	raw    []byte // the encoding: from wire_format to the end of FramedContentAuthData
}

// appendAuth appends the FramedContentAuthData.
func (a *AuthenticatedContent) appendAuth(dst []byte) []byte {
	dst = codec.AppendVec(dst, a.Signature)
	if a.Content.ContentType == ContentCommit {
		dst = codec.AppendVec(dst, a.ConfirmationTag)
	}
	return dst
}

// Seal fixes the encoding of a content that was put together in fields: after
// signing, and after the confirmation tag is known.
func (a *AuthenticatedContent) Seal() {
	b := codec.Uint16(nil, uint16(Version10))
	b = a.Content.AppendTo(codec.Uint16(b, uint16(a.WireFormat)))
	framed := len(b)
	b = a.appendAuth(b)
	a.framed, a.raw = b[:framed:framed], b[2:]
}

// TBS is the FramedContentTBS, RFC 9420 §6.1. The context is that of the
// group's epoch: it is part of what members and joiners sign.
func (a *AuthenticatedContent) TBS(context []byte) []byte {
	context = a.signedContext(context)
	tbs := make([]byte, 0, len(a.framed)+len(context))
	return append(append(tbs, a.framed...), context...)
}

// signedContext is the end of the FramedContentTBS: the context if the sender
// signs that, too.
func (a *AuthenticatedContent) signedContext(context []byte) []byte {
	if t := a.Content.Sender.Type; t == SenderMember || t == SenderNewMemberCommit {
		return context
	}
	return nil
}

// TBM is the AuthenticatedContentTBM in parts, RFC 9420 §6.2: what the
// membership tag covers.
func (a *AuthenticatedContent) TBM(context []byte) [3][]byte {
	auth := a.raw[len(a.framed)-2:]
	return [3][]byte{a.framed, a.signedContext(context), auth}
}

// Sign signs the content, RFC 9420 §6.1, and fixes its encoding. The context is the epoch's GroupContext.
func (a *AuthenticatedContent) Sign(by Signer, context []byte) error {
	a.Seal()
	sig, err := by.Sign(labelFramedContent, a.TBS(context))
	if err != nil {
		return err
	}
	a.Signature = sig
	a.Seal()
	return nil
}

// Verify checks the signature of a member's message with the key of its leaf,
// RFC 9420 §6.1: for application messages, of this epoch or one before. The
// context is the GroupContext of the message's epoch.
func (a *AuthenticatedContent) Verify(s *suite.Suite, key, context []byte) error {
	if !s.Verify2(key, labelFramedContent, a.framed, a.signedContext(context), a.Signature) {
		return refuse(RuleContentSignature, "the sender's key does not verify it")
	}
	return nil
}

// Ref is the ProposalRef of a proposal, RFC 9420 §5.2.
func (a *AuthenticatedContent) Ref(s *suite.Suite) []byte {
	return s.RefHash(nil, "MLS 1.0 Proposal Reference", a.raw)
}

// Raw is the encoding: it is what transcripts and references are made of.
func (a *AuthenticatedContent) Raw() []byte { return a.raw }

// ConfirmedTranscriptHash is that of the epoch which this commit begins, RFC 9420 §8.2.
func (a *AuthenticatedContent) ConfirmedTranscriptHash(s *suite.Suite, interim []byte) []byte {
	end := len(a.raw) - codec.LengthSize(len(a.ConfirmationTag)) - len(a.ConfirmationTag)
	return s.Hash(nil, interim, a.raw[:end])
}

// InterimTranscriptHash follows from a confirmed one, RFC 9420 §8.2.
func InterimTranscriptHash(s *suite.Suite, confirmed, confirmationTag []byte) []byte {
	return s.Hash(nil, confirmed, codec.AppendVec(nil, confirmationTag))
}

// ParseAuthenticatedContent reads an AuthenticatedContent as it stands in
// transcripts: from wire_format on.
func ParseAuthenticatedContent(b []byte) (*AuthenticatedContent, error) {
	whole := append(codec.Uint16(make([]byte, 0, 2+len(b)), uint16(Version10)), b...)
	r := codec.NewReader(whole)
	r.Uint16()
	a := readAuthenticated(&r, WireFormat(r.Uint16()), 0)
	return a, WireError(r.Finish())
}

// readAuthenticated reads FramedContent and FramedContentAuthData. The reader's
// input has the version at octet start.
func readAuthenticated(r *codec.Reader, format WireFormat, start int) *AuthenticatedContent {
	a := &AuthenticatedContent{WireFormat: format, Content: readFramedContent(r)}
	a.framed = r.Since(start)
	a.Signature = r.Vec()
	if a.Content.ContentType == ContentCommit {
		a.ConfirmationTag = r.Vec()
	}
	if r.Err() == nil {
		a.raw = r.Since(start + 2)
	}
	return a
}

// PublicMessage is a signed message in the clear, RFC 9420 §6.2.
type PublicMessage struct {
	AuthenticatedContent
	MembershipTag []byte // of a member's message
}

func readPublicMessage(r *codec.Reader, start int) *PublicMessage {
	m := &PublicMessage{AuthenticatedContent: *readAuthenticated(r, WirePublic, start)}
	if m.Content.ContentType == ContentApplication {
		r.Fail(int(RuleApplicationInPublic), "application data is only sent encrypted")
	}
	if m.Content.Sender.Type == SenderMember {
		m.MembershipTag = r.Vec()
	}
	return m
}

// PrivateMessage is an encrypted message, RFC 9420 §6.3.
type PrivateMessage struct {
	GroupID             []byte
	Epoch               uint64
	ContentType         ContentType
	AuthenticatedData   []byte
	EncryptedSenderData []byte
	Ciphertext          []byte
}

// AppendTo appends the encoding, without the header of an MLSMessage.
func (m *PrivateMessage) AppendTo(dst []byte) []byte {
	dst = m.AppendAAD(dst)
	return codec.AppendVec(codec.AppendVec(dst, m.EncryptedSenderData), m.Ciphertext)
}

// AppendAAD appends the PrivateContentAAD, RFC 9420 §6.3.1.
func (m *PrivateMessage) AppendAAD(dst []byte) []byte {
	return codec.AppendVec(m.AppendSenderAAD(dst), m.AuthenticatedData)
}

// AppendSenderAAD appends the SenderDataAAD, RFC 9420 §6.3.2.
func (m *PrivateMessage) AppendSenderAAD(dst []byte) []byte {
	dst = codec.Uint64(codec.AppendVec(dst, m.GroupID), m.Epoch)
	return append(dst, byte(m.ContentType))
}

func (m *PrivateMessage) read(r *codec.Reader) {
	*m = PrivateMessage{
		GroupID:             r.Vec(),
		Epoch:               r.Uint64(),
		ContentType:         ContentType(r.Uint8()),
		AuthenticatedData:   r.Vec(),
		EncryptedSenderData: r.Vec(),
		Ciphertext:          r.Vec(),
	}
	if m.ContentType < ContentApplication || m.ContentType > ContentCommit {
		r.Fail(int(RuleReservedValue), "content_type is reserved")
	}
}

// ReadPrivateContent reads a PrivateMessageContent, RFC 9420 §6.3.1, into the
// AuthenticatedContent that the sender signed. The sender comes from the
// decrypted sender data; padding that is not zero is refused.
func ReadPrivateContent(m *PrivateMessage, sender uint32, plaintext []byte) (*AuthenticatedContent, error) {
	a := &AuthenticatedContent{WireFormat: WirePrivate, Content: FramedContent{
		GroupID: m.GroupID, Epoch: m.Epoch, Sender: Sender{SenderMember, sender},
		AuthenticatedData: m.AuthenticatedData, ContentType: m.ContentType,
	}}
	r := codec.NewReader(plaintext)
	a.Content.readBody(&r)
	a.Signature = r.Vec()
	if m.ContentType == ContentCommit {
		a.ConfirmationTag = r.Vec()
	}
	for _, b := range r.Rest() {
		if b != 0 {
			r.Fail(int(RulePadding), "padding is not zero")
			break
		}
	}
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	a.Seal()
	return a, nil
}

// AppendPrivateContent appends the PrivateMessageContent of a, with padding octets of zero.
func (a *AuthenticatedContent) AppendPrivateContent(dst []byte, padding int) []byte {
	dst = a.appendAuth(a.Content.AppendBody(dst))
	return append(dst, make([]byte, padding)...)
}

// Message is an MLSMessage, RFC 9420 §6. The field of its wire format is set.
type Message struct {
	WireFormat WireFormat
	Public     *PublicMessage
	Private    *PrivateMessage
	Welcome    *Welcome
	GroupInfo  *GroupInfo
	KeyPackage *KeyPackage

	raw []byte
}

// Parse reads one MLSMessage and nothing after it. The result aliases b, which
// must not change any more. Refusals: rules 1 to 8 and 116.
func Parse(b []byte) (*Message, error) {
	if len(b) > MaxMessage {
		return nil, refuse(RuleBounds, "a message of %d octets", len(b))
	}
	r := codec.NewReader(b)
	if v := Version(r.Uint16()); v != Version10 && r.Err() == nil {
		return nil, refuse(RuleMessage, "version %d is not known", v)
	}
	m := newMessage(WireFormat(r.Uint16()))
	m.raw = b
	m.readBody(&r)
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return m, nil
}

// newMessage makes room for a message that is read. A PrivateMessage is in one
// allocation with it: every message of a group takes this path.
func newMessage(format WireFormat) *Message {
	if format != WirePrivate {
		return &Message{WireFormat: format}
	}
	room := new(struct {
		m       Message
		private PrivateMessage
	})
	room.m = Message{WireFormat: format, Private: &room.private}
	return &room.m
}

// readBody reads what stands after version and wire format, with which the
// reader's input begins if the message is a PublicMessage.
func (m *Message) readBody(r *codec.Reader) {
	switch m.WireFormat {
	case WirePublic:
		m.Public = readPublicMessage(r, 0)
	case WirePrivate:
		m.Private.read(r)
	case WireWelcome:
		m.Welcome = readWelcome(r)
	case WireGroupInfo:
		m.GroupInfo = readGroupInfo(r)
	case WireKeyPackage:
		m.KeyPackage = readKeyPackage(r)
	default:
		r.Fail(int(RuleMessage), "wire_format is not known")
	}
}

// Raw are the octets that the message was read from.
func (m *Message) Raw() []byte { return m.raw }

// AppendTo appends the encoding, whether or not the message was read.
func (m *Message) AppendTo(dst []byte) []byte {
	if m.raw != nil {
		return append(dst, m.raw...)
	}
	dst = AppendHeader(dst, m.WireFormat)
	switch m.WireFormat {
	case WirePublic:
		dst = append(dst, m.Public.raw[2:]...)
		if m.Public.Content.Sender.Type == SenderMember {
			dst = codec.AppendVec(dst, m.Public.MembershipTag)
		}
		return dst
	case WirePrivate:
		return m.Private.AppendTo(dst)
	case WireWelcome:
		return m.Welcome.AppendTo(dst)
	case WireGroupInfo:
		return m.GroupInfo.AppendTo(dst)
	default:
		return m.KeyPackage.AppendTo(dst)
	}
}

// AppendHeader appends the version and wire format that begin an MLSMessage.
func AppendHeader(dst []byte, format WireFormat) []byte {
	return codec.Uint16(codec.Uint16(dst, uint16(Version10)), uint16(format))
}
