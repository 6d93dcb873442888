package mls

import (
	"fmt"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// Version is the protocol's version, RFC 9420 §6; there is one.
type Version uint16

// Version10 is mls10.
const Version10 Version = 1

// Suite is the number of a cipher suite, RFC 9420 §17.1.
type Suite uint16

// The cipher suites of RFC 9420 §17.1, by their numbers there.
const (
	X25519AES128SHA256Ed25519   Suite = 1
	P256AES128SHA256P256        Suite = 2
	X25519ChaCha20SHA256Ed25519 Suite = 3
	X448AES256SHA512Ed448       Suite = 4
	P521AES256SHA512P521        Suite = 5
	X448ChaCha20SHA512Ed448     Suite = 6
	P384AES256SHA384P384        Suite = 7
)

// Suites are the numbers of all known suites, in order.
func Suites() []Suite {
	var out []Suite
	for _, id := range suite.All() {
		out = append(out, Suite(id))
	}
	return out
}

// SuiteParams are what a cipher suite is made of: the HPKE numbers of KEM, KDF
// and AEAD (RFC 9180 §7), and the TLS number of the signature scheme.
type SuiteParams = suite.Params

// SignatureScheme is a signature scheme by its TLS number, RFC 9420 §17.1.
type SignatureScheme = suite.Signature

// RegisterSuite gives a number to a suite beside those that are known: draft
// suites have none of their own yet, and implementations chose different ones.
// It refuses parameters that are not supported, and a number that has others.
func RegisterSuite(number Suite, p SuiteParams) error { return suite.Register(uint16(number), p) }

// Name is the suite's name in the registry, or its number if it is not known.
func (s Suite) Name() string {
	if p := suite.Lookup(uint16(s)); p != nil {
		return p.Name()
	}
	return fmt.Sprintf("0x%04x", uint16(s))
}

// Params are the algorithms of the suite for the packages beneath mls, or a
// refusal if it is not known.
func (s Suite) Params() (*suite.Suite, error) {
	if p := suite.Lookup(uint16(s)); p != nil {
		return p, nil
	}
	return nil, Refuse(RuleKeyPackageParameters, "cipher suite %d is not known", uint16(s))
}

// WireFormat is the form of an MLSMessage, RFC 9420 §6.
type WireFormat uint16

// The wire formats of RFC 9420 §17.2.
const (
	WirePublic     WireFormat = 1
	WirePrivate    WireFormat = 2
	WireWelcome    WireFormat = 3
	WireGroupInfo  WireFormat = 4
	WireKeyPackage WireFormat = 5
)

// ContentType is what a framed message holds, RFC 9420 §6.
type ContentType uint8

// The content types of RFC 9420 §6.
const (
	ContentApplication ContentType = 1
	ContentProposal    ContentType = 2
	ContentCommit      ContentType = 3
)

// SenderType is the role of a message's sender, RFC 9420 §6.
type SenderType uint8

// The sender types of RFC 9420 §6.
const (
	SenderMember            SenderType = 1
	SenderExternal          SenderType = 2
	SenderNewMemberProposal SenderType = 3
	SenderNewMemberCommit   SenderType = 4
)

// ProposalType is the kind of a proposal, RFC 9420 §17.4 and
// draft-ietf-mls-extensions-10.
type ProposalType uint16

// The proposal types.
const (
	ProposalAdd                    ProposalType = 1
	ProposalUpdate                 ProposalType = 2
	ProposalRemove                 ProposalType = 3
	ProposalPSK                    ProposalType = 4
	ProposalReInit                 ProposalType = 5
	ProposalExternalInit           ProposalType = 6
	ProposalGroupContextExtensions ProposalType = 7
	ProposalAppDataUpdate          ProposalType = 8
	ProposalAppEphemeral           ProposalType = 9
	ProposalSelfRemove             ProposalType = 10
)

// Default reports whether every client understands the type, so that
// capabilities do not list it, RFC 9420 §7.2.
func (t ProposalType) Default() bool { return t >= ProposalAdd && t <= ProposalGroupContextExtensions }

// ExtensionType is the kind of an extension, RFC 9420 §17.3 and
// draft-ietf-mls-extensions-10.
type ExtensionType uint16

// The extension types.
const (
	ExtApplicationID        ExtensionType = 1
	ExtRatchetTree          ExtensionType = 2
	ExtRequiredCapabilities ExtensionType = 3
	ExtExternalPub          ExtensionType = 4
	ExtExternalSenders      ExtensionType = 5
	ExtAppDataDictionary    ExtensionType = 6
	ExtSupportedWireFormats ExtensionType = 7
	ExtRequiredWireFormats  ExtensionType = 8
	ExtLastResort           ExtensionType = 10
)

// Default reports whether every client understands the type, so that
// capabilities do not list it, RFC 9420 §7.2.
func (t ExtensionType) Default() bool { return t >= ExtApplicationID && t <= ExtExternalSenders }

// CredentialType is the kind of a credential, RFC 9420 §17.5.
type CredentialType uint16

// The credential types of RFC 9420 §17.5.
const (
	CredentialBasic CredentialType = 1
	CredentialX509  CredentialType = 2
)

// LeafSource is where a leaf node comes from, RFC 9420 §7.2.
type LeafSource uint8

// The sources of RFC 9420 §7.2.
const (
	LeafKeyPackage LeafSource = 1
	LeafUpdate     LeafSource = 2
	LeafCommit     LeafSource = 3
)

// PSKType is the kind of a pre-shared key, RFC 9420 §8.4 and
// draft-ietf-mls-extensions-10.
type PSKType uint8

// The kinds of pre-shared keys.
const (
	PSKExternal   PSKType = 1
	PSKResumption PSKType = 2
	PSKComponent  PSKType = 3
)

// ResumptionUsage is what a resumption PSK is used for, RFC 9420 §8.4.
type ResumptionUsage uint8

// The usages of RFC 9420 §8.4.
const (
	UsageApplication ResumptionUsage = 1
	UsageReInit      ResumptionUsage = 2
	UsageBranch      ResumptionUsage = 3
)

// GREASE reports whether v is one of the values that are reserved so that
// nobody forgets to ignore what it does not know, RFC 9420 §13.5.
func GREASE(v uint16) bool { return v&0x0f0f == 0x0a0a && v>>8 == v&0xff && v != 0xfafa }

// The bounds of what is read, checked before memory is taken for it. RFC 9420
// §16 leaves them to the application; they are far beyond any group in use.
const (
	MaxMessage    = 64 << 20 // octets of one MLSMessage: the tree of 2^17 members and some
	MaxMembers    = 1 << 17  // leaves of a tree; a blank leaf is one octet on the wire and a hundred in memory
	MaxProposals  = 1 << 17  // proposals in a commit: a group may be created with all its members
	MaxExtensions = 256      // extensions in one list
	MaxLeafNode   = 1 << 18  // octets of one leaf: a chain of certificates, some extensions
	MaxContext    = 1 << 20  // octets of a GroupContext's extensions: every signature of the group covers them
	MaxGroupID    = 1 << 16  // octets of a group_id, for the same reason
	// MaxTree is the octets of all nodes of a tree that are not blank. A
	// GroupInfo that has the tree in it stays below MaxMessage.
	MaxTree = MaxMessage - 4*MaxContext
	MaxList = 1 << 12 // entries in one list of numbers
)
