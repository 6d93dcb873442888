package mls

import (
	"bytes"

	"github.com/isthmus-chat/isthmus/mls/internal/hpke"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// demands is what a GroupContext asks of leaves and messages, read once for
// all epochs that have the same extensions.
type demands struct {
	version    Version
	suite      Suite
	params     *suite.Suite
	extensions Extensions
	required   RequiredCapabilities
	senders    []ExternalSender
	formats    List // required wire formats
	safeAAD    bool // authenticated_data is a SafeAAD
}

// readDemands reads the extensions of a GroupContext. RFC 9420 §12.1.7, §13.4:
// those that this package knows have to be well formed.
func readDemands(c *GroupContext) (*demands, error) {
	if c.Version != Version10 {
		return nil, refuse(RuleKeyPackageParameters, "version %d is not known", c.Version)
	}
	params, err := c.Suite.Params()
	if err != nil {
		return nil, err
	}
	// What a caller or a component made is bounded as what is read.
	if len(c.GroupID) > MaxGroupID || len(c.Extensions) > MaxExtensions || c.Extensions.size() > MaxContext {
		return nil, refuse(RuleBounds, "%d extensions of %d octets in the GroupContext", len(c.Extensions), c.Extensions.size())
	}
	// RFC 9420 §13.4.
	for i, x := range c.Extensions {
		if _, twice := c.Extensions[:i].Find(x.Type); twice {
			return nil, refuse(RuleDuplicateExtension, "two extensions of type %d", x.Type)
		}
	}
	d := &demands{version: c.Version, suite: c.Suite, params: params, extensions: c.Extensions}
	if err := d.readExtensions(); err != nil {
		return nil, refuse(RuleGroupContextExtensions, "%w", err)
	}
	return d, nil
}

func (d *demands) readExtensions() (err error) {
	if err = d.extensions.Check(); err != nil {
		return err
	}
	if d.required, err = d.extensions.RequiredCapabilities(); err != nil {
		return err
	}
	if d.senders, err = d.extensions.ExternalSenders(); err != nil {
		return err
	}
	for i := range d.senders {
		if err = d.params.CheckSignatureKey(d.senders[i].SignatureKey); err != nil {
			return err
		}
	}
	if d.formats, err = d.extensions.RequiredWireFormats(); err != nil {
		return err
	}
	_, d.safeAAD = d.extensions.Component(ComponentSafeAAD)
	return nil
}

// with is what the context demands once it has other extensions.
func (d *demands) with(e Extensions) (*demands, error) {
	return readDemands(&GroupContext{Version: d.version, Suite: d.suite, Extensions: e})
}

// checkCapabilities checks what depends on nothing but capabilities: it is
// asked once for all members that have the same.
func (d *demands) checkCapabilities(c Capabilities) error {
	// RFC 9420 §7.3, §11.1.
	if err := d.required.SupportedBy(c); err != nil {
		return err
	}
	// RFC 9420 §13.4: every extension of the GroupContext is mandatory.
	for i := range d.extensions {
		if t := d.extensions[i].Type; !c.SupportsExtension(t) {
			return refuse(RuleGroupExtensionsSupport, "extension %d of the group is not supported", t)
		}
	}
	return nil
}

// CheckCapable refuses a key package that does not list its own version and
// suite among its capabilities, RFC 9420 §11. Who adds a client asks for it; a
// receiver does not: members of the official test vectors do not list theirs.
func (k *KeyPackage) CheckCapable() error {
	c := k.Leaf.Capabilities
	if !c.Versions().Has(uint16(k.Version)) {
		return refuse(RuleCapableParameters, "version %d is not among the capabilities", k.Version)
	}
	if !c.Suites().Has(uint16(k.Suite)) {
		return refuse(RuleCapableParameters, "cipher suite %d is not among the capabilities", k.Suite)
	}
	return nil
}

// checkLeaf checks what a leaf says of itself, whatever group it is for.
func checkLeaf(s *suite.Suite, l *LeafNode) error {
	// RFC 9420 §5.1.1.
	if err := hpke.CheckPublicKey(s, l.EncryptionKey); err != nil {
		return refuse(RuleLeafKeys, "encryption key: %w", err)
	}
	if err := s.CheckSignatureKey(l.SignatureKey); err != nil {
		return refuse(RuleLeafKeys, "signature key: %w", err)
	}
	if err := checkOwnExtensions(l.Capabilities, l.Extensions); err != nil {
		return err
	}
	return CheckX509(Suite(s.ID()), l.Credential, l.SignatureKey)
}

// checkOwnExtensions: RFC 9420 §7.2, §7.3: a leaf's extensions are among its
// own capabilities, and those known here are well formed.
func checkOwnExtensions(c Capabilities, e Extensions) error {
	for i := range e {
		if !c.SupportsExtension(e[i].Type) {
			return refuse(RuleLeafExtensions, "extension %d is not among the leaf's capabilities", e[i].Type)
		}
	}
	if len(e) == 0 {
		return nil
	}
	return e.Check()
}

// checkForGroup checks a new or changed leaf against the group's demands,
// apart from what other members are capable of.
func (d *demands) checkForGroup(l *LeafNode) error {
	if err := checkLeaf(d.params, l); err != nil {
		return err
	}
	return d.checkFit(l)
}

// checkFit is the part of checkForGroup that depends on the GroupContext.
func (d *demands) checkFit(l *LeafNode) error {
	if err := d.checkCapabilities(l.Capabilities); err != nil {
		return err
	}
	return CheckWireFormats(d.formats, l)
}

// checkSource: RFC 9420 §7.3: the source of a leaf is that of its place.
func checkSource(l *LeafNode, want LeafSource) error {
	if l.Source != want {
		return refuse(RuleLeafSource, "leaf_node_source is %d where %d belongs", l.Source, want)
	}
	return nil
}

// checkReplaces: RFC 9420 §7.3, §12.4.2: a leaf brings a new encryption key.
func checkReplaces(old, l *LeafNode) error {
	if bytes.Equal(old.EncryptionKey, l.EncryptionKey) {
		return refuse(RuleLeafKeyUnchanged, "the encryption key is that of the leaf it replaces")
	}
	return nil
}

// checkLifetime: RFC 9420 §7.2, §7.3: both ends are included. The time is asked
// for what is sent; for what is received it need not be, for the message may
// have been on its way for long.
func (p *Policy) checkLifetime(t Lifetime, sending bool) error {
	if t.NotAfter < t.NotBefore {
		return refuse(RuleLifetime, "it ends before it begins")
	}
	if p.MaxLifetime != 0 && t.NotAfter-t.NotBefore > p.MaxLifetime {
		return refuse(RuleLifetime, "%d seconds are longer than the application allows", t.NotAfter-t.NotBefore)
	}
	if p.Now != nil && (sending || p.CheckReceivedLifetimes) {
		if now := p.Now(); now < t.NotBefore || now > t.NotAfter {
			return refuse(RuleLifetime, "%d is not within %d to %d", now, t.NotBefore, t.NotAfter)
		}
	}
	return nil
}

// Verify checks a key package for use with a version and suite: what RFC 9420
// §10.1 demands, its lifetime, and both signatures. Whether the application
// accepts its credential is not asked here. A directory of key packages calls
// it for what clients upload.
func (k *KeyPackage) Verify(v Version, s Suite, p *Policy) error {
	p = p.orZero()
	params, err := s.Params()
	if err != nil {
		return err
	}
	if err := k.check(v, s, params); err != nil {
		return err
	}
	if err := k.CheckCapable(); err != nil {
		return err
	}
	if err := p.checkLifetime(k.Leaf.Lifetime, true); err != nil {
		return err
	}
	var c checks
	c.keyPackage(0, params, k)
	return c.run(p.Parallel)
}

// check is all of RFC 9420 §10.1 that needs neither signatures nor a clock.
func (k *KeyPackage) check(v Version, s Suite, params *suite.Suite) error {
	// RFC 9420 §10, §10.1.
	if k.Version != v || k.Suite != s {
		return refuse(RuleKeyPackageParameters, "version %d and suite %d where %d and %d belong", k.Version, k.Suite, v, s)
	}
	// RFC 9420 §10.1, §10.
	if err := hpke.CheckPublicKey(params, k.InitKey); err != nil {
		return refuse(RuleInitKey, "%w", err)
	}
	if bytes.Equal(k.InitKey, k.Leaf.EncryptionKey) {
		return refuse(RuleInitKey, "it is the leaf's encryption key")
	}
	// RFC 9420 §10: the client supports what it advertises.
	for i := range k.Extensions {
		// RFC 9420 §13.5 has values that nobody supports sent here.
		if !GREASE(uint16(k.Extensions[i].Type)) && !k.Leaf.Capabilities.SupportsExtension(k.Extensions[i].Type) {
			return refuse(RuleKeyPackageExtensions, "extension %d is not among the leaf's capabilities", k.Extensions[i].Type)
		}
	}
	// RFC 9420 §10.1, §7.3.
	if err := checkSource(k.Leaf, LeafKeyPackage); err != nil {
		return refuse(RuleKeyPackageLeaf, "%w", err)
	}
	if err := checkLeaf(params, k.Leaf); err != nil {
		return refuse(RuleKeyPackageLeaf, "%w", err)
	}
	return nil
}
