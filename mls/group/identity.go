package group

import (
	"io"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/secret"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// keySigner signs with a key in memory.
type keySigner struct {
	params          *suite.Suite
	private, public []byte
}

// NewSigner makes a signer of a private key in the suite's encoding: the seed
// of Ed25519, Ed448 and ML-DSA, the scalar of ECDSA. Every scheme signs in its
// deterministic form.
func NewSigner(s mls.Suite, private []byte) (mls.Signer, error) {
	params, err := s.Params()
	if err != nil {
		return nil, err
	}
	public, err := params.SignaturePublic(private)
	if err != nil {
		return nil, err
	}
	return &keySigner{params, private, public}, nil
}

// GenerateSigner makes a new signature key. The private key is for keeping.
func GenerateSigner(rand io.Reader, s mls.Suite) (signer mls.Signer, private []byte, err error) {
	params, err := s.Params()
	if err != nil {
		return nil, nil, err
	}
	private, public, err := params.GenerateSignatureKey(rand)
	if err != nil {
		return nil, nil, err
	}
	return &keySigner{params, private, public}, private, nil
}

func (k *keySigner) PublicKey() []byte { return k.public }

func (k *keySigner) Sign(label string, content []byte) ([]byte, error) {
	return k.params.Sign(nil, k.private, label, content)
}

// AppendSign is Sign that appends the signature to dst: what the message path
// asks of a signer if it can, to keep its memory.
func (k *keySigner) AppendSign(dst []byte, label string, content []byte) ([]byte, error) {
	return k.params.Sign(dst, k.private, label, content)
}

// Identity is who a client is in its groups.
type Identity struct {
	Credential mls.Credential
	Signer     mls.Signer
}

// DefaultCapabilities are what this implementation understands: all suites it
// knows, both kinds of credentials, and the extensions and proposals of
// draft-ietf-mls-extensions-10.
func DefaultCapabilities() mls.Capabilities {
	return mls.NewCapabilities(
		[]mls.Version{mls.Version10}, mls.Suites(),
		[]mls.ExtensionType{mls.ExtAppDataDictionary, mls.ExtSupportedWireFormats, mls.ExtRequiredWireFormats, mls.ExtLastResort},
		[]mls.ProposalType{mls.ProposalAppDataUpdate, mls.ProposalAppEphemeral, mls.ProposalSelfRemove},
		[]mls.CredentialType{mls.CredentialBasic, mls.CredentialX509})
}

// capabilities are the config's, or the default ones.
func (c *Config) capabilities() mls.Capabilities {
	if c.Capabilities.IsZero() {
		return DefaultCapabilities()
	}
	return c.Capabilities
}

// KeyPackageOptions is what a key package may say beside its keys.
type KeyPackageOptions struct {
	Lifetime       mls.Lifetime   // seconds since the UNIX epoch; zero: without end
	Extensions     mls.Extensions // of the key package
	LeafExtensions mls.Extensions
	LastResort     bool // may be used again when no other is left
}

// KeyPackage is a key package with its private keys.
type KeyPackage struct {
	Package    *mls.KeyPackage
	Identity   Identity
	initKey    []byte // private
	encryption []byte // private key of the leaf
}

// RestoreKeyPackage puts a key package together with private keys that were
// kept elsewhere, in the suite's encoding.
func RestoreKeyPackage(k *mls.KeyPackage, id Identity, initPrivate, encryptionPrivate []byte) *KeyPackage {
	return &KeyPackage{k, id, initPrivate, encryptionPrivate}
}

// NewKeyPackage makes a key package, RFC 9420 §10, for one suite.
func NewKeyPackage(c *Config, s mls.Suite, id Identity, o KeyPackageOptions) (*KeyPackage, error) {
	params, err := s.Params()
	if err != nil {
		return nil, err
	}
	k := &KeyPackage{Identity: id}
	var initPublic, encPublic []byte
	if k.initKey, initPublic, err = hpke.GenerateKeyPair(params, c.Rand); err != nil {
		return nil, err
	}
	if k.encryption, encPublic, err = hpke.GenerateKeyPair(params, c.Rand); err != nil {
		return nil, err
	}
	if o.Lifetime == (mls.Lifetime{}) {
		o.Lifetime.NotAfter = 1<<64 - 1
	}
	leaf, err := mls.SignLeaf(id.Signer, &mls.LeafNode{
		EncryptionKey: encPublic, Credential: id.Credential, Capabilities: c.capabilities(),
		Source: mls.LeafKeyPackage, Lifetime: o.Lifetime, Extensions: o.LeafExtensions,
	}, nil, 0)
	if err != nil {
		return nil, err
	}
	if o.LastResort {
		o.Extensions = o.Extensions.With(mls.ExtLastResort, nil)
	}
	k.Package, err = mls.SignKeyPackage(id.Signer, &mls.KeyPackage{
		Version: mls.Version10, Suite: s, InitKey: initPublic, Leaf: leaf, Extensions: o.Extensions,
	})
	return k, err
}

// Message is the key package as an MLSMessage.
func (k *KeyPackage) Message() []byte {
	return k.Package.AppendTo(mls.AppendHeader(nil, mls.WireKeyPackage))
}

// Wipe erases the private keys: after joining, unless it is a last resort,
// RFC 9420 §16.8.
func (k *KeyPackage) Wipe() { secret.Wipe(k.initKey, k.encryption) }

// Private is the pair of private keys, to be kept with the key package: the
// init key's and the leaf's.
func (k *KeyPackage) Private() (initKey, encryption []byte) { return k.initKey, k.encryption }
