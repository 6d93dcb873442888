package epoch

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// ApprovalLabel is the label under which homeservers sign approvals (PROTOCOL §6).
const ApprovalLabel = "isthmus approval"

// Bounds of approvals and certificates.
const (
	maxApproval  = 4096 // octets of one, signed
	maxApprovals = 64   // of one certificate; a room has at most 7 voters
	MaxProof     = 2*maxApproval + 64
)

// An Approval is what one homeserver says of the commit that opened an epoch.
// Devices and other homeservers check it against what they have seen of it.
type Approval struct {
	_          struct{} `cbor:",toarray"`
	Room       core.RoomID
	Epoch      uint64   // the one that it opened
	Commit     []byte   // core.HandshakeID
	Transcript []byte   // confirmed_transcript_hash (RFC 9420 §8.2)
	Tree       []byte   // tree_hash (RFC 9420 §7.8)
	Index      uint64   // place in the room's log; 0: one homeserver decided alone
	Voters     []string // who decides from then on,
	Rule       uint8    // and by which rule (core.Authority)
	Domain     string   // who approves
}

// same reports whether two approvals are of the same thing.
func (a *Approval) same(b *Approval) bool {
	return a.Room == b.Room && a.Epoch == b.Epoch && a.Index == b.Index && a.Rule == b.Rule && slices.Equal(a.Voters, b.Voters) && bytes.Equal(a.Commit, b.Commit) &&
		bytes.Equal(a.Transcript, b.Transcript) && bytes.Equal(a.Tree, b.Tree)
}

// A signed approval: the octets as they were signed, never made anew.
type signed struct {
	_         struct{} `cbor:",toarray"`
	Bytes     []byte
	Signature []byte
	a         Approval
}

func sign(key ed25519.PrivateKey, a Approval) signed {
	b, err := cbor.Marshal(&a)
	if err != nil {
		panic(err) // strings and octets: cannot fail
	}
	return signed{Bytes: b, Signature: identity.Sign(key, ApprovalLabel, b), a: a}
}

func (s *signed) encode() []byte {
	b, err := cbor.Marshal(s)
	if err != nil {
		panic(err) // octets
	}
	return b
}

// open reads what was signed.
func (s *signed) open() error {
	if len(s.Bytes) > maxApproval || len(s.Signature) != ed25519.SignatureSize {
		return core.Errorf(core.Invalid, "an approval out of bounds")
	}
	if err := strict.Unmarshal(s.Bytes, &s.a); err != nil {
		return core.Errorf(core.Invalid, "approval: %w", err)
	}
	if a := &s.a; len(a.Commit) != 32 || len(a.Transcript) > 64 || len(a.Tree) > 64 || len(a.Voters) == 0 || len(a.Voters) > maxApprovals || a.Domain == "" || a.Room == "" {
		return core.Errorf(core.Invalid, "an approval without its parts")
	}
	return nil
}

func parseSigned(b []byte) (signed, error) {
	var s signed
	if len(b) > maxApproval {
		return s, core.Errorf(core.TooLarge, "an approval over %d octets", maxApproval)
	}
	if err := strict.Unmarshal(b, &s); err != nil {
		return s, core.Errorf(core.Invalid, "approval: %w", err)
	}
	return s, s.open()
}

// A Certificate is the proof that a room's homeservers agreed on the commit that
// opened an epoch: approvals of the same facts, each by another homeserver.
type Certificate struct {
	given []signed
}

// ParseCertificate reads a certificate; its signatures have not been verified.
// Invalid or TooLarge otherwise.
func ParseCertificate(b []byte) (*Certificate, error) {
	if len(b) > maxApprovals*maxApproval {
		return nil, core.Errorf(core.TooLarge, "certificate")
	}
	c := new(Certificate)
	if err := strict.Unmarshal(b, &c.given); err != nil {
		return nil, core.Errorf(core.Invalid, "certificate: %w", err)
	}
	if len(c.given) == 0 || len(c.given) > maxApprovals {
		return nil, core.Errorf(core.Invalid, "a certificate has 1 to %d approvals", maxApprovals)
	}
	for i := range c.given {
		s := &c.given[i]
		if err := s.open(); err != nil {
			return nil, err
		}
		if !s.a.same(&c.given[0].a) || slices.ContainsFunc(c.given[:i], func(o signed) bool { return o.a.Domain == s.a.Domain }) {
			return nil, core.Errorf(core.Invalid, "a certificate has one approval of the same by each homeserver")
		}
	}
	return c, nil
}

// Encode returns what ParseCertificate reads: a CBOR array with an array of the
// signed octets and the signature for each approval.
func (c *Certificate) Encode() []byte {
	b, err := cbor.Marshal(c.given)
	if err != nil {
		panic(err) // octets
	}
	return b
}

// Facts returns what was approved; its Domain is empty.
func (c *Certificate) Facts() Approval {
	a := c.given[0].a
	a.Domain = ""
	return a
}

// Domains lists who approved, in the order of the approvals.
func (c *Certificate) Domains() []string {
	var out []string
	for _, s := range c.given {
		out = append(out, s.a.Domain)
	}
	return out
}

// Verify says why the certificate does not bind: Denied if too few of voters
// approved, by rule (core.Authority.Rule). check verifies one signature, label
// ApprovalLabel, by domain over signed; approvals that it refuses do not count.
// That the facts are those of the commit is the caller's to compare.
func (c *Certificate) Verify(voters []string, rule uint8, check func(domain string, signed, sig []byte) error) error {
	n := 0
	var why error
	for _, s := range c.given {
		if !slices.Contains(voters, s.a.Domain) {
			continue
		}
		if err := check(s.a.Domain, s.Bytes, s.Signature); err != nil {
			why = err
			continue
		}
		n++
	}
	if need := Quorum(len(voters), rule); n < need {
		if why != nil {
			return core.Errorf(core.Denied, "%d of %d approvals: %w", n, need, why)
		}
		return core.Errorf(core.Denied, "%d of %d approvals", n, need)
	}
	return nil
}

// Quorum is how many of n homeservers must approve: rule 0, a majority, which raft
// needs as well, so that the loss of any minority stops nobody; rule 1, more than
// two thirds, so that no two certificates of one epoch stand on one liar in three.
func Quorum(n int, rule uint8) int {
	if rule == 1 {
		return n*2/3 + 1
	}
	return n/2 + 1
}

// A Proof shows that a homeserver approved two different commits for one epoch of
// one room. Two certificates for one epoch hold such a pair: any two have a
// homeserver in common.
type Proof struct {
	A, B signed
}

// ParseProof reads a proof and checks that the two approvals contradict each
// other; the signatures are checked by Verify.
func ParseProof(b []byte) (*Proof, error) {
	var pair []signed
	if len(b) > MaxProof {
		return nil, core.Errorf(core.TooLarge, "proof")
	}
	if err := strict.Unmarshal(b, &pair); err != nil || len(pair) != 2 {
		return nil, core.Errorf(core.Invalid, "a proof has two approvals")
	}
	p := &Proof{A: pair[0], B: pair[1]}
	for _, s := range []*signed{&p.A, &p.B} {
		if err := s.open(); err != nil {
			return nil, err
		}
	}
	if a, b := &p.A.a, &p.B.a; a.Domain != b.Domain || a.Room != b.Room || a.Epoch != b.Epoch || a.same(b) {
		return nil, core.Errorf(core.Invalid, "two approvals that do not contradict each other")
	}
	return p, nil
}

// Encode returns what ParseProof reads.
func (p *Proof) Encode() []byte {
	b, err := cbor.Marshal([]signed{p.A, p.B})
	if err != nil {
		panic(err) // octets
	}
	return b
}

// Approvals returns the two that contradict each other.
func (p *Proof) Approvals() (a, b Approval) { return p.A.a, p.B.a }

// Verify checks both signatures, see Certificate.Verify.
func (p *Proof) Verify(check func(domain string, signed, sig []byte) error) error {
	for _, s := range []*signed{&p.A, &p.B} {
		if err := check(s.a.Domain, s.Bytes, s.Signature); err != nil {
			return fmt.Errorf("proof: %w", err)
		}
	}
	return nil
}

// ProofsOf lists the proofs of a room that are kept here, at most limit after key
// after, as ParseProof reads them.
func ProofsOf(r core.Reader, room core.RoomID, after string, limit int) ([]core.Value, error) {
	prefix := core.RoomKey(room) + "/"
	vs, err := r.Values(bucketProofs, max(after, prefix), limit)
	if err != nil {
		return nil, err
	}
	if end := slices.IndexFunc(vs, func(v core.Value) bool { return !strings.HasPrefix(v.Key, prefix) }); end >= 0 {
		vs = vs[:end]
	}
	return vs, nil
}

// Proofs lists the proofs that are kept here, of all rooms, at most limit after key
// after, as ParseProof reads them.
func Proofs(r core.Reader, after string, limit int) ([]core.Value, error) {
	return r.Values(bucketProofs, after, limit)
}

// CertificateOf returns the certificate of the commit that opened epoch, as
// ParseCertificate reads it. NotFound while too few approvals are there.
func CertificateOf(r core.Reader, room core.RoomID, epoch uint64) ([]byte, error) {
	c, err := readCert(r, numbered(core.RoomKey(room), epoch))
	if err != nil {
		return nil, err
	}
	if !c.complete() {
		return nil, core.Errorf(core.NotFound, "that epoch is not certified yet")
	}
	return c.certificate().Encode(), nil
}
