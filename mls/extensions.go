package mls

import (
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// MaxExternalSenders bounds the external senders of a group: each has a key
// that every member keeps.
const MaxExternalSenders = 1 << 10

// RequiredCapabilities is what every member of a group has to support beside
// the default types, RFC 9420 §11.1.
type RequiredCapabilities struct {
	Extensions  List // of ExtensionType
	Proposals   List // of ProposalType
	Credentials List // of CredentialType
}

// ParseRequiredCapabilities reads the content of a required_capabilities
// extension, RFC 9420 §11.1; it aliases b.
func ParseRequiredCapabilities(b []byte) (RequiredCapabilities, error) {
	r := codec.NewReader(b)
	q := RequiredCapabilities{readList(&r), readList(&r), readList(&r)}
	if err := r.Finish(); err != nil {
		return RequiredCapabilities{}, WireError(err)
	}
	return q, nil
}

// AppendTo appends the content of the extension.
func (q RequiredCapabilities) AppendTo(dst []byte) []byte {
	return q.Credentials.AppendTo(q.Proposals.AppendTo(q.Extensions.AppendTo(dst)))
}

// SupportedBy refuses capabilities that lack something required, under rule
// 42. Default types need not be listed, RFC 9420 §7.2, so a group that
// requires one asks for nothing.
func (q RequiredCapabilities) SupportedBy(c Capabilities) error {
	if t, ok := lacking(q.Extensions, c.Extensions(), func(v uint16) bool { return ExtensionType(v).Default() }); ok {
		return refuse(RuleRequiredCapabilities, "extension type %d is required and not supported", t)
	}
	if t, ok := lacking(q.Proposals, c.Proposals(), func(v uint16) bool { return ProposalType(v).Default() }); ok {
		return refuse(RuleRequiredCapabilities, "proposal type %d is required and not supported", t)
	}
	if t, ok := lacking(q.Credentials, c.Credentials(), nil); ok {
		return refuse(RuleRequiredCapabilities, "credential type %d is required and not supported", t)
	}
	return nil
}

// lacking is the first number required that is neither supported nor default.
func lacking(required, supported List, isDefault func(uint16) bool) (uint16, bool) {
	if required.Len() == 0 {
		return 0, false
	}
	// A list may have as many entries as MaxList, and so may the other: a set
	// of all numbers keeps the work linear where both are long.
	if required.Len() > 16 && supported.Len() > 16 {
		var set [1 << 16 / 64]uint64
		for v := range supported.All() {
			set[v/64] |= 1 << (v % 64)
		}
		for v := range required.All() {
			if set[v/64]&(1<<(v%64)) == 0 && (isDefault == nil || !isDefault(v)) {
				return v, true
			}
		}
		return 0, false
	}
	for v := range required.All() {
		if !supported.Has(v) && (isDefault == nil || !isDefault(v)) {
			return v, true
		}
	}
	return 0, false
}

// RequiredCapabilities are those among a group's extensions; empty lists if
// there are none.
func (e Extensions) RequiredCapabilities() (RequiredCapabilities, error) {
	data, ok := e.Find(ExtRequiredCapabilities)
	if !ok {
		return RequiredCapabilities{}, nil
	}
	return ParseRequiredCapabilities(data)
}

// ExternalSender is one who is no member and may send proposals to a group,
// RFC 9420 §12.1.8.1.
type ExternalSender struct {
	SignatureKey []byte
	Credential   Credential
}

// ParseExternalSenders reads the content of an external_senders extension,
// RFC 9420 §12.1.8.1; it aliases b. The index of a sender is its place.
func ParseExternalSenders(b []byte) ([]ExternalSender, error) {
	r := codec.NewReader(b)
	in := r.Sub()
	var out []ExternalSender
	for in.Len() > 0 {
		if len(out) == MaxExternalSenders {
			in.Fail(int(RuleBounds), "too many external senders")
			break
		}
		out = append(out, ExternalSender{in.Vec(), readCredential(&in)})
	}
	r.Join(&in)
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return out, nil
}

// AppendExternalSenders appends the content of an external_senders extension.
func AppendExternalSenders(dst []byte, senders ...ExternalSender) []byte {
	dst, mark := codec.Begin(dst)
	for _, s := range senders {
		dst = s.Credential.AppendTo(codec.AppendVec(dst, s.SignatureKey))
	}
	return codec.End(dst, mark)
}

// ExternalSenders are those among a group's extensions, by their index.
func (e Extensions) ExternalSenders() ([]ExternalSender, error) {
	data, ok := e.Find(ExtExternalSenders)
	if !ok {
		return nil, nil
	}
	return ParseExternalSenders(data)
}

// parseOpaque reads one vector and nothing after it.
func parseOpaque(b []byte) ([]byte, error) {
	r := codec.NewReader(b)
	v := r.Vec()
	if err := r.Finish(); err != nil {
		return nil, WireError(err)
	}
	return v, nil
}

// ParseApplicationID reads the content of an application_id extension, RFC
// 9420 §5.3.3; it aliases b. The id is not authenticated by the credential.
func ParseApplicationID(b []byte) ([]byte, error) { return parseOpaque(b) }

// AppendApplicationID appends the content of an application_id extension.
func AppendApplicationID(dst, id []byte) []byte { return codec.AppendVec(dst, id) }

// ParseExternalPub reads the content of an external_pub extension, RFC 9420
// §12.4.3.2: the HPKE public key for external commits; it aliases b.
func ParseExternalPub(b []byte) ([]byte, error) { return parseOpaque(b) }

// AppendExternalPub appends the content of an external_pub extension.
func AppendExternalPub(dst, key []byte) []byte { return codec.AppendVec(dst, key) }

// Default reports whether every client understands the wire format, so that
// neither list of wire formats names it, draft-ietf-mls-extensions-10 §5.
func (f WireFormat) Default() bool { return f >= WirePublic && f <= WireKeyPackage }

// ParseWireFormats reads the content of a supported_wire_formats or
// required_wire_formats extension, draft-ietf-mls-extensions-10 §5; it aliases b.
func ParseWireFormats(b []byte) (List, error) { return parseList(b) }

// WireFormats is the content of either extension.
func WireFormats(formats ...WireFormat) []byte { return NewList(formats...).AppendTo(nil) }

// RequiredWireFormats are those that a group's extensions demand of all
// members, draft-ietf-mls-extensions-10 §5; an empty list if there are none.
func (e Extensions) RequiredWireFormats() (List, error) {
	data, ok := e.Find(ExtRequiredWireFormats)
	if !ok {
		return nil, nil
	}
	return ParseWireFormats(data)
}

// CheckWireFormats refuses, under rule 121, a leaf that does not support all
// the required wire formats, draft-ietf-mls-extensions-10 §5.
func CheckWireFormats(required List, l *LeafNode) error {
	if required.Len() == 0 {
		return nil
	}
	var supported List
	if data, ok := l.Extensions.Find(ExtSupportedWireFormats); ok {
		var err error
		if supported, err = ParseWireFormats(data); err != nil {
			return refuse(RuleRequiredWireFormats, "supported_wire_formats cannot be read: %w", err)
		}
	}
	if f, ok := lacking(required, supported, func(v uint16) bool { return WireFormat(v).Default() }); ok {
		return refuse(RuleRequiredWireFormats, "wire format %d is required and not supported", f)
	}
	return nil
}

// WithLastResort returns a copy that marks a key package as one of last
// resort in the form of draft-ietf-mls-extensions-10 §6.4: a component without
// data. Clients that know only the older extension see none, so old adds it too.
func (e Extensions) WithLastResort(old bool) (Extensions, error) {
	d, err := e.AppData()
	if err != nil {
		return nil, err
	}
	out := e.WithAppData(d.With(ComponentLastResort, nil))
	if old {
		out = out.With(ExtLastResort, nil)
	}
	return out, nil
}

// Check reads every extension whose content this package knows and refuses
// what cannot be read, under the rule that it breaks; those of other types
// pass. Extensions that were only received as part of a structure have not
// been looked into.
func (e Extensions) Check() error {
	for i := range e {
		if err := e[i].check(); err != nil {
			return err
		}
	}
	return nil
}

func (x *Extension) check() (err error) {
	switch x.Type {
	case ExtApplicationID, ExtExternalPub:
		_, err = parseOpaque(x.Data)
	case ExtRequiredCapabilities:
		_, err = ParseRequiredCapabilities(x.Data)
	case ExtExternalSenders:
		_, err = ParseExternalSenders(x.Data)
	case ExtSupportedWireFormats, ExtRequiredWireFormats:
		_, err = ParseWireFormats(x.Data)
	case ExtLastResort:
		if len(x.Data) != 0 {
			err = refuse(RuleLength, "last_resort has content")
		}
	case ExtAppDataDictionary:
		var d AppData
		if d, err = ParseAppData(x.Data); err == nil {
			err = d.Check()
		}
	}
	return err
}

// Check reads the data of the components that draft-ietf-mls-extensions-10
// defines and refuses what cannot be read; those of other components pass.
func (d AppData) Check() error {
	for _, c := range d {
		var err error
		switch c.ID {
		case ComponentAppComponents, ComponentSafeAAD:
			_, err = ParseComponentsList(c.Data)
		case ComponentContentMediaTypes:
			_, err = ParseMediaTypeList(c.Data)
		case ComponentLastResort:
			if len(c.Data) != 0 {
				err = refuse(RuleAppDataDictionary, "last_resort_key_package has data")
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
