package mls

import (
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// MaxPSKs bounds the pre-shared keys of one commit: each costs two
// derivations, RFC 9420 §8.4.
const MaxPSKs = 256

// PreSharedKeyID names a pre-shared key, RFC 9420 §8.4.
type PreSharedKeyID struct {
	Type      PSKType
	ID        []byte          // of an external or a component's PSK
	Usage     ResumptionUsage // of a resumption PSK, as the next two
	GroupID   []byte
	Epoch     uint64
	Component ComponentID // of a component's PSK, draft-ietf-mls-extensions-10 §4.4
	Nonce     []byte      // Nh octets, fresh for each use
}

// AppendTo appends the encoding.
func (p *PreSharedKeyID) AppendTo(dst []byte) []byte {
	return codec.AppendVec(p.appendName(dst), p.Nonce)
}

// appendName appends all but the nonce: what says which key it is.
func (p *PreSharedKeyID) appendName(dst []byte) []byte {
	dst = append(dst, byte(p.Type))
	switch p.Type {
	case PSKResumption:
		dst = codec.AppendVec(append(dst, byte(p.Usage)), p.GroupID)
		return codec.Uint64(dst, p.Epoch)
	case PSKComponent:
		dst = codec.Uint16(dst, uint16(p.Component))
	}
	return codec.AppendVec(dst, p.ID)
}

// ReadPreSharedKeyID reads a PreSharedKeyID, which is also part of GroupSecrets.
func ReadPreSharedKeyID(r *codec.Reader) PreSharedKeyID {
	p := PreSharedKeyID{Type: PSKType(r.Uint8())}
	switch p.Type {
	case PSKExternal:
		p.ID = r.Vec()
	case PSKResumption:
		p.Usage = ResumptionUsage(r.Uint8())
		if p.Usage < UsageApplication || p.Usage > UsageBranch {
			r.Fail(int(RuleReservedValue), "usage of a resumption key is not known")
		}
		p.GroupID = r.Vec()
		p.Epoch = r.Uint64()
	case PSKComponent:
		p.Component = ComponentID(r.Uint16())
		p.ID = r.Vec()
	default:
		r.Fail(int(RuleReservedValue), "type of a pre-shared key is not known")
	}
	p.Nonce = r.Vec()
	return p
}

// ReInit asks to close the group and open another, RFC 9420 §12.1.5.
type ReInit struct {
	GroupID    []byte
	Version    Version
	Suite      Suite
	Extensions Extensions
}

// Proposal asks for a change of the group, RFC 9420 §12.1. The field of its
// type is set, and no other. Small fields stand next to each other, for a
// commit may have many of a few octets; see maxShort.
type Proposal struct {
	Type       ProposalType
	Component  ComponentID // of an AppDataUpdate or AppEphemeral
	Removed    uint32      // leaf index
	Operation  AppDataOp   // of an AppDataUpdate
	Add        *KeyPackage
	Update     *LeafNode
	PSK        PreSharedKeyID
	ReInit     ReInit
	KEMOutput  []byte     // of an ExternalInit, RFC 9420 §12.1.6
	Extensions Extensions // of a GroupContextExtensions
	Data       []byte     // of an AppDataUpdate, AppEphemeral, or a type not known here

	raw []byte
}

// AppDataOp says what an AppDataUpdate does, draft-ietf-mls-extensions-10 §4.7.
type AppDataOp uint8

// The operations of an AppDataUpdate.
const (
	AppDataSet    AppDataOp = 1 // apply an update in the component's own form
	AppDataRemove AppDataOp = 2
)

// AppendTo appends the encoding. One of a type that is not known is a vector,
// which is how implementations exchange private proposals.
func (p *Proposal) AppendTo(dst []byte) []byte {
	if p.raw != nil {
		return append(dst, p.raw...)
	}
	dst = codec.Uint16(dst, uint16(p.Type))
	switch p.Type {
	case ProposalAdd:
		return p.Add.AppendTo(dst)
	case ProposalUpdate:
		return p.Update.AppendTo(dst)
	case ProposalRemove:
		return codec.Uint32(dst, p.Removed)
	case ProposalPSK:
		return p.PSK.AppendTo(dst)
	case ProposalReInit:
		dst = codec.AppendVec(dst, p.ReInit.GroupID)
		dst = codec.Uint16(codec.Uint16(dst, uint16(p.ReInit.Version)), uint16(p.ReInit.Suite))
		return p.ReInit.Extensions.AppendTo(dst)
	case ProposalExternalInit:
		return codec.AppendVec(dst, p.KEMOutput)
	case ProposalGroupContextExtensions:
		return p.Extensions.AppendTo(dst)
	case ProposalAppDataUpdate:
		dst = append(codec.Uint16(dst, uint16(p.Component)), byte(p.Operation))
		if p.Operation == AppDataSet {
			dst = codec.AppendVec(dst, p.Data)
		}
		return dst
	case ProposalAppEphemeral:
		return codec.AppendVec(codec.Uint16(dst, uint16(p.Component)), p.Data)
	case ProposalSelfRemove:
		return dst
	}
	return codec.AppendVec(dst, p.Data)
}

func readProposal(r *codec.Reader) *Proposal {
	from := r.Offset()
	p := &Proposal{Type: ProposalType(r.Uint16())}
	switch p.Type {
	case 0:
		r.Fail(int(RuleReservedValue), "type of a proposal is reserved")
	case ProposalAdd:
		p.Add = readKeyPackage(r)
	case ProposalUpdate:
		p.Update = readLeafNode(r)
	case ProposalRemove:
		p.Removed = r.Uint32()
	case ProposalPSK:
		p.PSK = ReadPreSharedKeyID(r)
	case ProposalReInit:
		p.ReInit = ReInit{r.Vec(), Version(r.Uint16()), Suite(r.Uint16()), readExtensions(r)}
	case ProposalExternalInit:
		p.KEMOutput = r.Vec()
	case ProposalGroupContextExtensions:
		p.Extensions = readExtensions(r)
	case ProposalAppDataUpdate:
		readAppDataUpdate(r, p)
	case ProposalAppEphemeral:
		p.Component, p.Data = ComponentID(r.Uint16()), r.Vec()
	case ProposalSelfRemove:
	default:
		p.Data = r.Vec()
	}
	p.raw = r.Since(from)
	return p
}

func readAppDataUpdate(r *codec.Reader, p *Proposal) {
	p.Component, p.Operation = ComponentID(r.Uint16()), AppDataOp(r.Uint8())
	switch p.Operation {
	case AppDataSet:
		p.Data = r.Vec()
	case AppDataRemove:
	default:
		r.Fail(int(RuleReservedValue), "operation of an AppDataUpdate is not known")
	}
}

// ParseProposal reads a Proposal; it aliases b.
func ParseProposal(b []byte) (*Proposal, error) {
	r := codec.NewReader(b)
	p := readProposal(&r)
	return p, WireError(r.Finish())
}

// ProposalOrRef is an entry of a commit: a proposal, or the reference of one
// that was sent before, RFC 9420 §12.4.
type ProposalOrRef struct {
	Proposal *Proposal // nil: by reference
	Ref      []byte    // ProposalRef, RFC 9420 §5.2
}

func (p *ProposalOrRef) appendTo(dst []byte) []byte {
	if p.Proposal != nil {
		return p.Proposal.AppendTo(append(dst, 1))
	}
	return codec.AppendVec(append(dst, 2), p.Ref)
}

// Ciphertext is an HPKECiphertext, RFC 9420 §5.1.3.
type Ciphertext struct {
	KEMOutput  []byte
	Ciphertext []byte
}

// AppendTo appends the encoding.
func (c *Ciphertext) AppendTo(dst []byte) []byte {
	return codec.AppendVec(codec.AppendVec(dst, c.KEMOutput), c.Ciphertext)
}

func readCiphertext(r *codec.Reader) Ciphertext { return Ciphertext{r.Vec(), r.Vec()} }

// UpdatePathNode is one node of an update path, RFC 9420 §7.6. Its ciphertexts
// stay encoded: a member opens one of what may be thousands.
type UpdatePathNode struct {
	EncryptionKey []byte
	count         int
	secrets       []byte // the vector's content
}

// NewUpdatePathNode makes a node of these encrypted path secrets.
func NewUpdatePathNode(key []byte, secrets []Ciphertext) UpdatePathNode {
	n := UpdatePathNode{EncryptionKey: key, count: len(secrets)}
	for i := range secrets {
		n.secrets = secrets[i].AppendTo(n.secrets)
	}
	return n
}

// Len is the number of encrypted path secrets.
func (n *UpdatePathNode) Len() int { return n.count }

// At is encrypted path secret i, which must be below Len. It costs O(i).
func (n *UpdatePathNode) At(i int) Ciphertext {
	r := codec.NewReader(n.secrets)
	for range i {
		r.Vec()
		r.Vec()
	}
	return readCiphertext(&r)
}

// UpdatePath carries a committer's new leaf and path, RFC 9420 §7.6.
type UpdatePath struct {
	Leaf  *LeafNode
	Nodes []UpdatePathNode
}

// AppendTo appends the encoding.
func (u *UpdatePath) AppendTo(dst []byte) []byte {
	dst, mark := codec.Begin(u.Leaf.AppendTo(dst))
	for i := range u.Nodes {
		dst = codec.AppendVec(dst, u.Nodes[i].EncryptionKey)
		dst = codec.AppendVec(dst, u.Nodes[i].secrets)
	}
	return codec.End(dst, mark)
}

// maxPath is the longest direct path: of a tree of 2^31 leaves.
const maxPath = 32

func readUpdatePath(r *codec.Reader) *UpdatePath {
	u := &UpdatePath{Leaf: readLeafNode(r)}
	in := r.Sub()
	for in.Len() > 0 {
		if len(u.Nodes) == maxPath {
			in.Fail(int(RuleBounds), "an update path is longer than any tree is high")
			break
		}
		n := UpdatePathNode{EncryptionKey: in.Vec()}
		list := in.Sub()
		from := list.Offset()
		for ; list.Len() > 0; n.count++ {
			list.Vec()
			list.Vec()
		}
		n.secrets = list.Since(from)
		in.Join(&list)
		u.Nodes = append(u.Nodes, n)
	}
	r.Join(&in)
	return u
}

// ParseUpdatePath reads an UpdatePath; it aliases b.
func ParseUpdatePath(b []byte) (*UpdatePath, error) {
	r := codec.NewReader(b)
	u := readUpdatePath(&r)
	return u, WireError(r.Finish())
}

// Commit ends an epoch, RFC 9420 §12.4.
type Commit struct {
	Proposals []ProposalOrRef
	Path      *UpdatePath // nil: none
}

// AppendTo appends the encoding.
func (c *Commit) AppendTo(dst []byte) []byte {
	dst, mark := codec.Begin(dst)
	for i := range c.Proposals {
		dst = c.Proposals[i].appendTo(dst)
	}
	dst = codec.AppendOptional(codec.End(dst, mark), c.Path != nil)
	if c.Path != nil {
		dst = c.Path.AppendTo(dst)
	}
	return dst
}

// maxShort bounds the proposals by value of a commit that are shorter than
// shortProposal octets, type and all: those without content, of which no valid
// commit has many. So an entry takes at most 64 times its octets in memory: 288
// for the Proposal and, as the list grows, 40 on average for its place.
const (
	maxShort      = 256
	shortProposal = 5
)

func readCommit(r *codec.Reader) *Commit {
	c := &Commit{}
	in := r.Sub()
	for short := 0; in.Len() > 0; {
		if len(c.Proposals) == MaxProposals {
			in.Fail(int(RuleBounds), "too many proposals")
			break
		}
		switch in.Uint8() {
		case 1:
			p := readProposal(&in)
			if len(p.raw) < shortProposal {
				short++
			}
			if short > maxShort {
				in.Fail(int(RuleBounds), "too many proposals without content")
			}
			c.Proposals = append(c.Proposals, ProposalOrRef{Proposal: p})
		case 2:
			c.Proposals = append(c.Proposals, ProposalOrRef{Ref: in.Vec()})
		default:
			in.Fail(int(RuleReservedValue), "neither a proposal nor a reference")
		}
	}
	r.Join(&in)
	if r.Optional() {
		c.Path = readUpdatePath(r)
	}
	return c
}

// ParseCommit reads a Commit; it aliases b.
func ParseCommit(b []byte) (*Commit, error) {
	r := codec.NewReader(b)
	c := readCommit(&r)
	return c, WireError(r.Finish())
}
