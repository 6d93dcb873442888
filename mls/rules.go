package mls

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// Rule is the number of a validation rule. docs/MLS.md lists them with their
// sections; the numbers do not change. Zero is no rule.
type Rule uint8

// The rules of RFC 9420, 1 to 116, and of the extensions, from 117 on.
const (
	// Encoding and framing.
	RuleVarint                  Rule = 1
	RuleLength                  Rule = 2
	RuleOptional                Rule = 3
	RuleMessage                 Rule = 4
	RuleReservedValue           Rule = 5
	RuleDuplicateExtension      Rule = 6
	RuleUnknownValue            Rule = 7
	RuleApplicationInPublic     Rule = 8
	RuleGroupAndEpoch           Rule = 9
	RuleSenderType              Rule = 10
	RuleSenderLeaf              Rule = 11
	RuleExternalSenderIndex     Rule = 12
	RuleContentSignature        Rule = 13
	RuleConfirmationTagPresence Rule = 14
	RuleMembershipTag           Rule = 15
	RuleExternalInPrivate       Rule = 16
	RuleSenderDataDecryption    Rule = 17
	RuleSenderDataLeaf          Rule = 18
	RuleContentDecryption       Rule = 19
	RulePadding                 Rule = 20
	RuleContentType             Rule = 21
	RuleAuthenticatedData       Rule = 22
	RuleTranscriptHash          Rule = 23

	// Secret tree.
	RuleKeyReuse            Rule = 24
	RuleReplay              Rule = 25
	RuleRatchetDistance     Rule = 26
	RuleGenerationExhausted Rule = 27
	RuleAEADLimit           Rule = 28
	RuleSecretTreeErasure   Rule = 29
	RuleSecretErasure       Rule = 30

	// KeyPackage.
	RuleKeyPackageParameters Rule = 31
	RuleKeyPackageSignature  Rule = 32
	RuleInitKey              Rule = 33
	RuleKeyPackageExtensions Rule = 34
	RuleKeyPackageLeaf       Rule = 35
	RuleKeyPackageReuse      Rule = 36

	// LeafNode.
	RuleCredential             Rule = 37
	RuleX509Key                Rule = 38
	RuleLeafSignature          Rule = 39
	RuleLeafKeys               Rule = 40
	RuleCapableParameters      Rule = 41
	RuleRequiredCapabilities   Rule = 42
	RuleGroupExtensionsSupport Rule = 43
	RuleCredentialSupport      Rule = 44
	RuleLeafExtensions         Rule = 45
	RuleDefaultCapabilities    Rule = 46
	RuleLifetime               Rule = 47
	RuleLeafSource             Rule = 48
	RuleMemberKeysUnique       Rule = 49
	RuleLeafKeyUnchanged       Rule = 50
	RuleCredentialSuccession   Rule = 51

	// Ratchet tree as received.
	RuleTreeShape        Rule = 52
	RuleTreeWidth        Rule = 53
	RuleTreeHash         Rule = 54
	RuleTreeLeaf         Rule = 55
	RuleParentHash       Rule = 56
	RuleUnmergedLeaves   Rule = 57
	RuleUnmergedBelow    Rule = 58
	RuleParentKeysUnique Rule = 59
	RuleEmptyParentHash  Rule = 60

	// Proposals one by one.
	RuleAdd                    Rule = 61
	RuleUpdate                 Rule = 62
	RuleRemove                 Rule = 63
	RulePreSharedKey           Rule = 64
	RuleReInit                 Rule = 65
	RuleExternalInit           Rule = 66
	RuleGroupContextExtensions Rule = 67
	RuleExternalProposal       Rule = 68
	RuleCustomProposal         Rule = 69

	// Proposal list and commit.
	RuleProposalReference Rule = 70
	RuleCommitterProposal Rule = 71
	RuleLeafChangedTwice  Rule = 72
	RuleDuplicateClient   Rule = 73
	RuleProposalList      Rule = 74
	RuleProposalOrder     Rule = 75
	RuleAddPlacement      Rule = 76
	RulePathRequired      Rule = 77
	RulePathLeaf          Rule = 78
	RulePathLength        Rule = 79
	RulePathCiphertexts   Rule = 80
	RulePathKeysUnique    Rule = 81
	RulePathParentHash    Rule = 82
	RulePathContext       Rule = 83
	RulePathSecret        Rule = 84
	RulePSKUnknown        Rule = 85
	RuleConfirmationTag   Rule = 86
	RuleAtomicity         Rule = 87
	RuleReinitialized     Rule = 88
	RuleRemoved           Rule = 89
	RuleOldPrivateKeys    Rule = 90
	RulePendingCommit     Rule = 91
	RulePendingProposals  Rule = 92

	// External commit.
	RuleExternalCommit     Rule = 93
	RuleExternalProposals  Rule = 94
	RuleExternalLeaf       Rule = 95
	RuleExternalInitSecret Rule = 96
	RuleExternalPolicy     Rule = 97

	// GroupInfo, Welcome and joining.
	RuleGroupInfoSignature    Rule = 98
	RuleWelcomeParameters     Rule = 99
	RuleWelcomeSecrets        Rule = 100
	RuleWelcomePSK            Rule = 101
	RuleAlreadyMember         Rule = 102
	RuleJoinerExtensions      Rule = 103
	RuleJoinerLeaf            Rule = 104
	RuleWelcomePathSecret     Rule = 105
	RuleGroupInfoConfirmation Rule = 106
	RuleReInitJoin            Rule = 107
	RuleBranchJoin            Rule = 108
	RuleExternalPub           Rule = 109
	RuleGroupInfoUpload       Rule = 110

	// PSKs, exporters and the rest.
	RulePSKSecret         Rule = 111
	RuleResumptionPSK     Rule = 112
	RuleExporter          Rule = 113
	RuleDHValidation      Rule = 114
	RuleSignatureEncoding Rule = 115
	RuleBounds            Rule = 116

	// Extensions.
	RuleSelfRemove          Rule = 117
	RuleAppDataUpdate       Rule = 118
	RuleAppDataDictionary   Rule = 119
	RuleSafeAAD             Rule = 120
	RuleRequiredWireFormats Rule = 121
	RuleApplicationFraming  Rule = 122
	RuleComponentPSK        Rule = 123
	RulePartialGroupInfo    Rule = 124
	RuleMembershipProof     Rule = 125
)

// checker says who is able to check a rule.
type checker uint8

const (
	byMember checker = 1 << iota // package group, with the secrets
	byServer                     // PublicGroup, or the delivery service around it
	byPolicy                     // the application is asked, or sets the limit
)

// rules describes each rule at its number; 0 is unused.
var rules = [...]struct {
	name, section, text string
	by                  checker
}{
	RuleVarint: {"Varint", "RFC 9420 §2.1.2",
		"The length of a vector is in the shortest form that holds it.", byMember | byServer},
	RuleLength: {"Length", "RFC 9420 §2.1.2",
		"No length is of the reserved form or reaches beyond the input.", byMember | byServer},
	RuleOptional: {"Optional", "RFC 9420 §2.1.1",
		"The presence octet of an optional value is 0 or 1.", byMember | byServer},
	RuleMessage: {"Message", "RFC 9420 §6",
		"A message is of a known version and wire format, and nothing follows it.", byMember | byServer},
	RuleReservedValue: {"ReservedValue", "RFC 9420 §6, §7",
		"No enumerated field has its reserved value or one that the structure does not know.", byMember | byServer},
	RuleDuplicateExtension: {"DuplicateExtension", "RFC 9420 §13.4",
		"A list of extensions has at most one of each type.", byMember | byServer},
	RuleUnknownValue: {"UnknownValue", "RFC 9420 §13.4, §13.5",
		"Numbers that are unknown, GREASE included, are carried along wherever the RFC lets them stand.", byMember | byServer},
	RuleApplicationInPublic: {"ApplicationInPublic", "RFC 9420 §6, §6.2",
		"Application data comes in a PrivateMessage only.", byMember | byServer},
	RuleGroupAndEpoch: {"GroupAndEpoch", "RFC 9420 §6, §12.4.2",
		"A message is for this group and for the current epoch; application data may be for one still retained.", byMember | byServer},
	RuleSenderType: {"SenderType", "RFC 9420 §6.1",
		"A sender of each type sends only the content that its type allows.", byMember | byServer},
	RuleSenderLeaf: {"SenderLeaf", "RFC 9420 §6.1, §6.3.2",
		"A member that sends has a leaf in the tree of that epoch.", byMember | byServer},
	RuleExternalSenderIndex: {"ExternalSenderIndex", "RFC 9420 §6.1, §12.1.8.1",
		"The index of an external sender is within the group's list of them.", byMember | byServer},
	RuleContentSignature: {"ContentSignature", "RFC 9420 §6.1",
		"The signature over the framed content verifies with the sender's key.", byMember | byServer},
	RuleConfirmationTagPresence: {"ConfirmationTagPresence", "RFC 9420 §6.1",
		"A commit has a confirmation tag, and nothing else has one.", byMember | byServer},
	RuleMembershipTag: {"MembershipTag", "RFC 9420 §6.2",
		"A member's PublicMessage has a membership tag that verifies, and no other has one.", byMember | byServer},
	RuleExternalInPrivate: {"ExternalInPrivate", "RFC 9420 §12.1.8",
		"Who is not a member sends PublicMessages only.", byMember | byServer},
	RuleSenderDataDecryption: {"SenderDataDecryption", "RFC 9420 §6.3.2",
		"Sender data opens with the key and nonce drawn from the ciphertext sample.", byMember},
	RuleSenderDataLeaf: {"SenderDataLeaf", "RFC 9420 §6.3.2",
		"The leaf that decrypted sender data names is in the tree and not blank.", byMember},
	RuleContentDecryption: {"ContentDecryption", "RFC 9420 §6.3.1",
		"Content opens with the sender's key, the guarded nonce and the additional data of the message.", byMember},
	RulePadding: {"Padding", "RFC 9420 §6.3.1",
		"All octets of padding are zero.", byMember},
	RuleContentType: {"ContentType", "RFC 9420 §6.3.1",
		"The content is of the type that the message shows outside, which also selects the ratchet.", byMember},
	RuleAuthenticatedData: {"AuthenticatedData", "RFC 9420 §6.1",
		"Authenticated data is handed out only once the signature has been verified.", byMember},
	RuleTranscriptHash: {"TranscriptHash", "RFC 9420 §8.2",
		"The transcript hashes cover the commit as received and its confirmation tag.", byMember | byServer},
	RuleKeyReuse: {"KeyReuse", "RFC 9420 §6.3.1, §9.1, §9.2",
		"A key of a ratchet encrypts once, and its use is on record before the ciphertext leaves.", byMember},
	RuleReplay: {"Replay", "RFC 9420 §9.2",
		"A generation that has been consumed is refused.", byMember},
	RuleRatchetDistance: {"RatchetDistance", "RFC 9420 §15.3",
		"A message skips no more generations, and leaves no more keys stored, than the limits allow.", byMember | byPolicy},
	RuleGenerationExhausted: {"GenerationExhausted", "RFC 9420 §9.1",
		"The last generation of a ratchet ends sending in its epoch.", byMember},
	RuleAEADLimit: {"AEADLimit", "RFC 9420 §15.2",
		"An epoch encrypts no more than its AEAD allows; then a commit must come first.", byMember},
	RuleSecretTreeErasure: {"SecretTreeErasure", "RFC 9420 §9.2",
		"A secret of the secret tree is erased once what derives from it exists.", byMember},
	RuleSecretErasure: {"SecretErasure", "RFC 9420 §9.2",
		"Secrets of the key schedule and of the path are erased once consumed.", byMember},
	RuleKeyPackageParameters: {"KeyPackageParameters", "RFC 9420 §10, §10.1",
		"Version and cipher suite are known, and those of a KeyPackage are the group's.", byMember | byServer},
	RuleKeyPackageSignature: {"KeyPackageSignature", "RFC 9420 §10.1",
		"A KeyPackage is signed with the signature key of its leaf.", byMember | byServer},
	RuleInitKey: {"InitKey", "RFC 9420 §10, §10.1",
		"The init key is well formed and not the encryption key of the leaf.", byMember | byServer},
	RuleKeyPackageExtensions: {"KeyPackageExtensions", "RFC 9420 §10",
		"Extensions of a KeyPackage are among the capabilities of its leaf.", byMember | byServer},
	RuleKeyPackageLeaf: {"KeyPackageLeaf", "RFC 9420 §10.1",
		"The leaf of a KeyPackage is valid and of source key_package.", byMember | byServer},
	RuleKeyPackageReuse: {"KeyPackageReuse", "RFC 9420 §10, §16.8",
		"A KeyPackage is uploaded once and handed out once, unless it is one of last resort.", byServer},
	RuleCredential: {"Credential", "RFC 9420 §5.3.1, §7.3",
		"The application accepts the credential for the signature key.", byMember | byServer | byPolicy},
	RuleX509Key: {"X509Key", "RFC 9420 §5.3",
		"The end-entity certificate has the leaf's signature key, of the suite's algorithm.", byMember},
	RuleLeafSignature: {"LeafSignature", "RFC 9420 §7.2",
		"A leaf is signed with its own key, for its group and index where its source demands it.", byMember | byServer},
	RuleLeafKeys: {"LeafKeys", "RFC 9420 §5.1.1",
		"Both public keys of a leaf are well formed for the cipher suite.", byMember | byServer},
	RuleCapableParameters: {"CapableParameters", "RFC 9420 §7.2, §11",
		"The capabilities of a leaf include the group's version and cipher suite.", byMember | byServer},
	RuleRequiredCapabilities: {"RequiredCapabilities", "RFC 9420 §7.3, §11.1",
		"A leaf is capable of all that the group requires.", byMember | byServer},
	RuleGroupExtensionsSupport: {"GroupExtensionsSupport", "RFC 9420 §13.4",
		"A leaf is capable of every extension in the GroupContext.", byMember | byServer},
	RuleCredentialSupport: {"CredentialSupport", "RFC 9420 §7.3",
		"Every member supports every credential type in use.", byMember | byServer},
	RuleLeafExtensions: {"LeafExtensions", "RFC 9420 §7.2, §7.3",
		"Extensions of a leaf are among its own capabilities.", byMember | byServer},
	RuleDefaultCapabilities: {"DefaultCapabilities", "RFC 9420 §7.2",
		"Capabilities that we write leave the default types out; those we read may list them.", byMember},
	RuleLifetime: {"Lifetime", "RFC 9420 §7.2, §7.3",
		"A leaf's lifetime covers the present and is no longer than the application's maximum.", byMember | byServer | byPolicy},
	RuleLeafSource: {"LeafSource", "RFC 9420 §7.3",
		"A leaf's source is the one that its place demands.", byMember | byServer},
	RuleMemberKeysUnique: {"MemberKeysUnique", "RFC 9420 §7.3",
		"No two members share a signature key or an encryption key.", byMember | byServer},
	RuleLeafKeyUnchanged: {"LeafKeyUnchanged", "RFC 9420 §7.3, §12.4.2",
		"A leaf that replaces another brings a new encryption key.", byMember | byServer},
	RuleCredentialSuccession: {"CredentialSuccession", "RFC 9420 §5.3.1, §12.2",
		"The application accepts the new credential as successor of the one it replaces.", byMember | byServer | byPolicy},
	RuleTreeShape: {"TreeShape", "RFC 9420 §12.4.3.3",
		"A received tree ends with a node that is not blank, and leaves and parents alternate.", byMember | byServer},
	RuleTreeWidth: {"TreeWidth", "RFC 9420 §7.7, §12.4.3.3",
		"A received tree is extended to its full width before it is hashed.", byMember | byServer},
	RuleTreeHash: {"TreeHash", "RFC 9420 §12.4.3.1, §12.4.3.3",
		"The hash of the tree is the one in the GroupContext.", byMember | byServer},
	RuleTreeLeaf: {"TreeLeaf", "RFC 9420 §12.4.3.1",
		"Every leaf of a received tree is valid at its own index.", byMember | byServer},
	RuleParentHash: {"ParentHash", "RFC 9420 §7.9, §7.9.2",
		"A parent that is not blank is covered by exactly one chain of parent hashes from a leaf.", byMember | byServer},
	RuleUnmergedLeaves: {"UnmergedLeaves", "RFC 9420 §7.1, §12.4.3.1",
		"Unmerged leaves are in ascending order, each once, each a descendant that is not blank.", byMember | byServer},
	RuleUnmergedBelow: {"UnmergedBelow", "RFC 9420 §12.4.3.1",
		"A leaf unmerged at a parent is unmerged at every node between that is not blank.", byMember | byServer},
	RuleParentKeysUnique: {"ParentKeysUnique", "RFC 9420 §12.4.3.1, §16.7",
		"No encryption key occurs twice in the tree.", byMember | byServer},
	RuleEmptyParentHash: {"EmptyParentHash", "RFC 9420 §7.9",
		"A parent hash is empty only where no filtered ancestor is left above.", byMember | byServer},
	RuleAdd: {"Add", "RFC 9420 §12.1.1",
		"An Add brings a valid KeyPackage.", byMember | byServer},
	RuleUpdate: {"Update", "RFC 9420 §12.1.2",
		"An Update is a member's, and its leaf is valid as the next of that member.", byMember | byServer},
	RuleRemove: {"Remove", "RFC 9420 §12.1.3",
		"A Remove names a leaf that is not blank.", byMember | byServer},
	RulePreSharedKey: {"PreSharedKey", "RFC 9420 §12.1.4, §11.2, §11.3",
		"A PSK proposal has a nonce of hash length and a usage that fits the operation.", byMember | byServer},
	RuleReInit: {"ReInit", "RFC 9420 §12.1.5, §12.2",
		"A ReInit does not lower the version.", byMember | byServer},
	RuleExternalInit: {"ExternalInit", "RFC 9420 §12.1.6, §8.3",
		"ExternalInit is in external commits only, and its KEM output decapsulates.", byMember},
	RuleGroupContextExtensions: {"GroupContextExtensions", "RFC 9420 §12.1.7, §13.4",
		"Every member left after the commit supports the new extensions and what they require.", byMember | byServer},
	RuleExternalProposal: {"ExternalProposal", "RFC 9420 §12.1.8",
		"External senders propose only what the RFC lets them.", byMember | byServer},
	RuleCustomProposal: {"CustomProposal", "RFC 9420 §12.2, §13.2, §13.5",
		"A proposal of another type is supported by all members and is no GREASE.", byMember | byServer},
	RuleProposalReference: {"ProposalReference", "RFC 9420 §12.4, §5.2",
		"A reference names a proposal received in this epoch.", byMember | byServer},
	RuleCommitterProposal: {"CommitterProposal", "RFC 9420 §12.2",
		"A commit holds no Update by its committer and no Remove of it.", byMember | byServer},
	RuleLeafChangedTwice: {"LeafChangedTwice", "RFC 9420 §12.2",
		"A list changes or removes each leaf at most once.", byMember | byServer},
	RuleDuplicateClient: {"DuplicateClient", "RFC 9420 §12.2",
		"No client is added twice, nor while it stays a member.", byMember | byServer | byPolicy},
	RuleProposalList: {"ProposalList", "RFC 9420 §12.2",
		"No PSK twice, at most one GroupContextExtensions, a ReInit alone, no ExternalInit.", byMember | byServer},
	RuleProposalOrder: {"ProposalOrder", "RFC 9420 §12.3",
		"Proposals are applied in the order of the RFC, whatever their order in the list.", byMember | byServer},
	RuleAddPlacement: {"AddPlacement", "RFC 9420 §7.7, §12.1.1, §12.1.3",
		"Adds take the leftmost blank leaves in order; the tree grows and shrinks by halves.", byMember | byServer},
	RulePathRequired: {"PathRequired", "RFC 9420 §12.4, §12.4.2",
		"A commit has a path where its list demands one.", byMember | byServer},
	RulePathLeaf: {"PathLeaf", "RFC 9420 §12.4.2",
		"The leaf of a path is valid, of source commit, and signed for group and index.", byMember | byServer},
	RulePathLength: {"PathLength", "RFC 9420 §7.6",
		"A path has one node for each node of the filtered direct path.", byMember | byServer},
	RulePathCiphertexts: {"PathCiphertexts", "RFC 9420 §7.5, §7.6",
		"A path node has one ciphertext for each node of the resolution, new leaves left out.", byMember | byServer},
	RulePathKeysUnique: {"PathKeysUnique", "RFC 9420 §12.4.2",
		"A path brings no public key that is in the new tree already, and none twice.", byMember | byServer},
	RulePathParentHash: {"PathParentHash", "RFC 9420 §7.9.2",
		"The parent hash of the path's leaf is the one computed from the path.", byMember | byServer},
	RulePathContext: {"PathContext", "RFC 9420 §12.4.2",
		"Path secrets are sealed under the provisional GroupContext.", byMember},
	RulePathSecret: {"PathSecret", "RFC 9420 §7.5",
		"Keys derived from the decrypted path secret are the public keys of the path.", byMember},
	RulePSKUnknown: {"PSKUnknown", "RFC 9420 §8.4, §12.4.2",
		"Every PSK that a commit names is known, and they enter in the order of the list.", byMember},
	RuleConfirmationTag: {"ConfirmationTag", "RFC 9420 §12.4.2",
		"The confirmation tag verifies before any state changes.", byMember},
	RuleAtomicity: {"Atomicity", "RFC 9420 §14",
		"A commit that fails leaves the old epoch as it was.", byMember | byServer},
	RuleReinitialized: {"Reinitialized", "RFC 9420 §12.4.2",
		"After a ReInit was committed the group takes nothing more.", byMember | byServer},
	RuleRemoved: {"Removed", "RFC 9420 §12.4.2",
		"A member that was removed holds no secrets and does nothing more in the group.", byMember},
	RuleOldPrivateKeys: {"OldPrivateKeys", "RFC 9420 §7.5, §9.2",
		"Private keys that a path replaced are erased.", byMember},
	RulePendingCommit: {"PendingCommit", "RFC 9420 §14",
		"A commit that we made changes nothing, and its Welcome stays here, until it is accepted.", byMember},
	RulePendingProposals: {"PendingProposals", "RFC 9420 §12.4",
		"No application data is sent while valid proposals wait for a commit.", byMember},
	RuleExternalCommit: {"ExternalCommit", "RFC 9420 §12.4.3.2",
		"An external commit is a new member's PublicMessage, with a path.", byMember | byServer},
	RuleExternalProposals: {"ExternalProposals", "RFC 9420 §12.2",
		"An external commit holds one ExternalInit, at most one Remove, of the joiner's own old leaf, and PSKs.", byMember | byServer},
	RuleExternalLeaf: {"ExternalLeaf", "RFC 9420 §12.4.2, §12.4.3.2",
		"The joiner takes the leftmost leaf that is blank after the Remove, and signs with the key of the path's leaf.", byMember | byServer},
	RuleExternalInitSecret: {"ExternalInitSecret", "RFC 9420 §8.3",
		"The init secret is exported from the KEM context of the group's external key.", byMember},
	RuleExternalPolicy: {"ExternalPolicy", "RFC 9420 §12.4.3.2",
		"The application allows this external commit.", byMember | byPolicy},
	RuleGroupInfoSignature: {"GroupInfoSignature", "RFC 9420 §12.4.3, §12.4.3.1",
		"A GroupInfo is signed with the key of its signer's leaf.", byMember | byServer},
	RuleWelcomeParameters: {"WelcomeParameters", "RFC 9420 §12.4.3.1",
		"Version and suite of GroupInfo, Welcome and KeyPackage are the same.", byMember},
	RuleWelcomeSecrets: {"WelcomeSecrets", "RFC 9420 §12.4.3.1",
		"A Welcome holds exactly one set of secrets for our KeyPackage, and it opens.", byMember},
	RuleWelcomePSK: {"WelcomePSK", "RFC 9420 §12.4.3.1",
		"Every PSK of a Welcome is known, and at most one is of reinitialization or branching.", byMember},
	RuleAlreadyMember: {"AlreadyMember", "RFC 9420 §12.4.3.1",
		"The group is not one that we are in.", byMember},
	RuleJoinerExtensions: {"JoinerExtensions", "RFC 9420 §13.4",
		"The joiner supports every extension in the GroupContext.", byMember},
	RuleJoinerLeaf: {"JoinerLeaf", "RFC 9420 §12.4.3.1",
		"The joiner's leaf in the tree is, octet for octet, the one of its KeyPackage.", byMember},
	RuleWelcomePathSecret: {"WelcomePathSecret", "RFC 9420 §12.4.3.1",
		"The path secret of a Welcome yields the keys of the tree from the common ancestor up.", byMember},
	RuleGroupInfoConfirmation: {"GroupInfoConfirmation", "RFC 9420 §12.4.3.1",
		"The confirmation tag of a GroupInfo verifies with the key derived by the joiner.", byMember},
	RuleReInitJoin: {"ReInitJoin", "RFC 9420 §11.2, §12.4.3.1",
		"A group joined by reinitialization is at epoch 1, as its ReInit said, with all the old members.", byMember | byPolicy},
	RuleBranchJoin: {"BranchJoin", "RFC 9420 §11.3, §12.4.3.1",
		"A group joined by branching is at epoch 1, of the same version and suite, with old members only.", byMember | byPolicy},
	RuleExternalPub: {"ExternalPub", "RFC 9420 §12.4.3.2",
		"The external key in a GroupInfo is the one that the epoch's external secret yields.", byMember},
	RuleGroupInfoUpload: {"GroupInfoUpload", "RFC 9420 §12.4.3.2",
		"A GroupInfo for the server is the committer's and says what the server has computed itself.", byServer},
	RulePSKSecret: {"PSKSecret", "RFC 9420 §8.4",
		"The secret of all PSKs depends on the place of each and on their number.", byMember},
	RuleResumptionPSK: {"ResumptionPSK", "RFC 9420 §8.6",
		"Resumption PSKs are kept for a bounded number of epochs.", byMember | byPolicy},
	RuleExporter: {"Exporter", "RFC 9420 §8.5",
		"An exported secret is of a length that the KDF can give, and each use has a label of its own.", byMember},
	RuleDHValidation: {"DHValidation", "RFC 9180 §7.1.4",
		"A Diffie-Hellman secret of zeros and a point off the curve are refused.", byMember},
	RuleSignatureEncoding: {"SignatureEncoding", "RFC 9420 §5.1",
		"Signatures are in the encoding of their scheme and verify over the suite's hash.", byMember | byServer},
	RuleBounds: {"Bounds", "RFC 9420 §16.11",
		"Counts and sizes are within their limits before anything is allocated for them.", byMember | byServer},
	RuleSelfRemove: {"SelfRemove", "draft-ietf-mls-extensions §6.3.1",
		"A SelfRemove is a member's PublicMessage, committed by reference, one a member and epoch at most.", byMember | byServer},
	RuleAppDataUpdate: {"AppDataUpdate", "draft-ietf-mls-extensions §4.7",
		"Updates of application data are for a known component, and are either one removal of what is there or updates.", byMember | byServer},
	RuleAppDataDictionary: {"AppDataDictionary", "draft-ietf-mls-extensions §4.6",
		"An application data dictionary is in ascending order, with each component once.", byMember | byServer},
	RuleSafeAAD: {"SafeAAD", "draft-ietf-mls-extensions §4.9",
		"Authenticated data is framed by component, in ascending order, where the group demands it.", byMember | byServer},
	RuleRequiredWireFormats: {"RequiredWireFormats", "draft-ietf-mls-extensions §5",
		"Members support the wire formats that the group requires.", byMember | byServer},
	RuleApplicationFraming: {"ApplicationFraming", "draft-ietf-mls-extensions §6.2.4",
		"Application data names its media type where the group demands it.", byMember},
	RuleComponentPSK: {"ComponentPSK", "draft-ietf-mls-extensions §4.5",
		"A component's PSK has a component, an id and a nonce of hash length.", byMember | byServer},
	RulePartialGroupInfo: {"PartialGroupInfo", "draft-mahy-mls-ratchet-tree-options §4",
		"A PartialGroupInfo says truly whether the tree was and is in the GroupInfo.", byMember | byServer},
	RuleMembershipProof: {"MembershipProof", "draft-ietf-mls-partial §6, §8, §10",
		"A membership proof leads from its leaf to the tree hash of the GroupContext.", byMember},
}

// known reports whether r is the number of a rule.
func (r Rule) known() bool { return r > 0 && int(r) < len(rules) }

// String is the rule's name without the prefix of its constant, as "ParentHash".
func (r Rule) String() string {
	if !r.known() {
		return "Rule(" + strconv.Itoa(int(r)) + ")"
	}
	return rules[r].name
}

// Section is where the rule is laid down, as "RFC 9420 §7.9"; empty if r is
// the number of no rule.
func (r Rule) Section() string {
	if !r.known() {
		return ""
	}
	return rules[r].section
}

// Text is the rule in one sentence; empty if r is the number of no rule.
func (r Rule) Text() string {
	if !r.known() {
		return ""
	}
	return rules[r].text
}

// Checkers says who checks the rule: of "member", "server" and "application"
// those that apply, in that order, joined by a comma and a space. The server
// holds no secrets, so it may see less of a rule than a member does.
func (r Rule) Checkers() string {
	if !r.known() {
		return ""
	}
	names := [...]string{"member", "server", "application"}
	var who []string
	for i, name := range names {
		if rules[r].by&(1<<i) != 0 {
			who = append(who, name)
		}
	}
	return strings.Join(who, ", ")
}

// Rules is the number of rules; they are numbered from 1 to Rules.
const Rules = Rule(len(rules) - 1)

// Err is the error that stands for every rejection under r:
// errors.Is(err, RuleParentHash.Err()).
func (r Rule) Err() error { return &Error{Rule: r} }

// Error is a rejection of input. It names the rule that the input breaks.
type Error struct {
	Rule   Rule
	Detail string // what was found, with the words of Err if there is one; may be empty
	Err    error  // the cause, or nil
}

// Error is the rule in words, its number and section, and the detail:
// "mls: parent hash (rule 56, RFC 9420 §7.9, §7.9.2): node 5".
func (e *Error) Error() string {
	number := "rule " + strconv.Itoa(int(e.Rule))
	s := "mls: " + number
	if e.Rule.known() {
		s = "mls: " + words(e.Rule.String()) + " (" + number + ", " + e.Rule.Section() + ")"
	}
	switch {
	case e.Detail != "":
		s += ": " + e.Detail
	case e.Err != nil:
		s += ": " + e.Err.Error()
	}
	return s
}

// Unwrap is the cause, or nil.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is what Rule.Err returns for the same rule.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Rule == e.Rule && t.Detail == "" && t.Err == nil
}

// refuse returns the rejection under r. The format is as of fmt.Errorf; what
// is given to %w becomes the cause.
func refuse(r Rule, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Rule: r, Detail: err.Error(), Err: errors.Unwrap(err)}
}

// Refuse returns the rejection under r, for package group. The format is as
// of fmt.Errorf; what is given to %w becomes the cause.
func Refuse(r Rule, format string, args ...any) error { return refuse(r, format, args...) }

// WireError turns a codec's error into a refusal with its rule.
func WireError(err error) error {
	if e, ok := err.(*codec.Error); ok {
		return &Error{Rule: Rule(e.Rule), Detail: e.Error()}
	}
	return err
}

// RuleOf is the rule that err names, or 0 if it names none. Of several in its
// chain it is the outermost; errors.Is finds the others.
func RuleOf(err error) Rule {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Rule
	}
	if e, ok := errors.AsType[*codec.Error](err); ok && e.Rule > 0 && e.Rule <= int(Rules) {
		return Rule(e.Rule)
	}
	return 0
}

// words writes a name in lower case and parts its words; abbreviations stay
// as they are: "PSKSecret" becomes "PSK secret".
func words(name string) string {
	name = strings.ReplaceAll(name, "ReInit", "Reinit") // one word
	upper := func(i int) bool { return i < len(name) && name[i] >= 'A' && name[i] <= 'Z' }
	b := make([]byte, 0, len(name)+8)
	for i := range len(name) {
		begins := upper(i) && i > 0 && (!upper(i-1) || (i+1 < len(name) && !upper(i+1)))
		if begins {
			b = append(b, ' ')
		}
		c := name[i]
		if upper(i) && !upper(i+1) && i+1 < len(name) {
			c += 'a' - 'A'
		}
		b = append(b, c)
	}
	return string(b)
}
