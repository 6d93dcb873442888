package mls

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// keySigner signs with a key of a suite.
type keySigner struct {
	suite           *suite.Suite
	private, public []byte
}

// newSigner makes a signer with a fresh key.
func newSigner(t testing.TB, id Suite) *keySigner {
	t.Helper()
	s, err := id.Params()
	if err != nil {
		t.Fatal(err)
	}
	private, public, err := s.GenerateSignatureKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &keySigner{s, private, public}
}

func (k *keySigner) PublicKey() []byte { return k.public }

func (k *keySigner) Sign(label string, content []byte) ([]byte, error) {
	return k.suite.Sign(nil, k.private, label, content)
}

// TestRequiredCapabilities covers rule 42, RFC 9420 §11.1, §7.2.
func TestRequiredCapabilities(t *testing.T) {
	q := RequiredCapabilities{
		Extensions:  NewList(ExtAppDataDictionary, ExtExternalSenders),
		Proposals:   NewList(ProposalSelfRemove, ProposalAdd),
		Credentials: NewList(CredentialX509),
	}
	b := q.AppendTo(nil)
	if want := octets(t, "0400060005"+"04000a0001"+"020002"); !bytes.Equal(b, want) {
		t.Fatalf("encoding is %x, want %x", b, want)
	}
	got, err := Extensions{{ExtRequiredCapabilities, b}}.RequiredCapabilities()
	if err != nil || !bytes.Equal(got.AppendTo(nil), b) {
		t.Fatalf("read %v, %v", got, err)
	}
	capable := func(e []ExtensionType, p []ProposalType, c []CredentialType) Capabilities {
		return NewCapabilities([]Version{Version10}, nil, e, p, c)
	}
	dict, self, x := []ExtensionType{ExtAppDataDictionary}, []ProposalType{ProposalSelfRemove}, []CredentialType{CredentialX509}
	if err := got.SupportedBy(capable(dict, self, x)); err != nil {
		t.Errorf("supported: %v", err)
	}
	refused(t, "extension", got.SupportedBy(capable(nil, self, x)), RuleRequiredCapabilities)
	refused(t, "proposal", got.SupportedBy(capable(dict, nil, x)), RuleRequiredCapabilities)
	refused(t, "credential", got.SupportedBy(capable(dict, self, []CredentialType{CredentialBasic})), RuleRequiredCapabilities)
	if none, err := (Extensions{}).RequiredCapabilities(); err != nil || none.SupportedBy(capable(nil, nil, nil)) != nil {
		t.Errorf("nothing required: %v", err)
	}
	for what, in := range map[string][]byte{"odd": {1, 0, 0, 0}, "two lists": {0, 0}, "no content": nil} {
		_, err := ParseRequiredCapabilities(in)
		refused(t, what, err, RuleLength)
	}
	_, err = ParseRequiredCapabilities(make([]byte, 4))
	refused(t, "octets after", err, Rule(codec.RuleTrailing))
}

// TestLacking compares the two ways of comparing lists.
func TestLacking(t *testing.T) {
	var long, missing []uint16
	for i := range uint16(40) {
		long = append(long, i*37)
	}
	missing = append(missing, long...)
	missing[20] = 9999
	short := NewList(long[0], long[39])
	is := func(v uint16) bool { return v == 9999 }
	for _, c := range []struct {
		what                string
		required, supported List
		isDefault           func(uint16) bool
		lack                bool
	}{
		{"long in long", NewList(long...), NewList(long...), nil, false},
		{"short in long", short, NewList(long...), nil, false},
		{"long in short", NewList(long...), short, nil, true},
		{"one of many", NewList(missing...), NewList(long...), nil, true},
		{"one of many, default", NewList(missing...), NewList(long...), is, false},
		{"one, default", NewList(uint16(9999)), nil, is, false},
		{"one, not there", NewList(uint16(5)), nil, is, true},
		{"none", nil, nil, nil, false},
	} {
		if _, lack := lacking(c.required, c.supported, c.isDefault); lack != c.lack {
			t.Errorf("%s: lacking is %t", c.what, lack)
		}
	}
}

// TestExternalSenders reads a list of them, RFC 9420 §12.1.8.1.
func TestExternalSenders(t *testing.T) {
	senders := []ExternalSender{
		{[]byte("key one"), BasicCredential([]byte("hub"))},
		{[]byte("key two"), X509Credential([]byte("der"))},
	}
	b := AppendExternalSenders(nil, senders...)
	got, err := Extensions{{ExtExternalSenders, b}}.ExternalSenders()
	if err != nil || len(got) != 2 {
		t.Fatalf("read %v, %v", got, err)
	}
	for i := range got {
		if !bytes.Equal(got[i].SignatureKey, senders[i].SignatureKey) || !got[i].Credential.Equal(senders[i].Credential) {
			t.Errorf("sender %d is %v", i, got[i])
		}
	}
	if none, err := (Extensions{}).ExternalSenders(); err != nil || none != nil {
		t.Errorf("none: %v, %v", none, err)
	}
	_, err = ParseExternalSenders(b[:len(b)-1])
	refused(t, "cut off", err, RuleLength)
	_, err = ParseExternalSenders(append(b, 0))
	refused(t, "octets after", err, Rule(codec.RuleTrailing))
	_, err = ParseExternalSenders(AppendExternalSenders(nil, make([]ExternalSender, MaxExternalSenders+1)...))
	refused(t, "too many", err, RuleBounds)
}

// TestOpaqueExtensions reads those that are one vector, RFC 9420 §5.3.3, §12.4.3.2.
func TestOpaqueExtensions(t *testing.T) {
	id, err := ParseApplicationID(AppendApplicationID(nil, []byte("id")))
	if err != nil || string(id) != "id" {
		t.Errorf("application_id: %q, %v", id, err)
	}
	key, err := ParseExternalPub(AppendExternalPub(nil, []byte("public")))
	if err != nil || string(key) != "public" {
		t.Errorf("external_pub: %q, %v", key, err)
	}
	_, err = ParseExternalPub([]byte{2, 0})
	refused(t, "cut off", err, RuleLength)
	_, err = ParseApplicationID([]byte{1, 0, 0})
	refused(t, "octets after", err, Rule(codec.RuleTrailing))
}

// TestRequiredWireFormats covers rule 121, draft-ietf-mls-extensions-10 §5.
func TestRequiredWireFormats(t *testing.T) {
	required, err := Extensions{{ExtRequiredWireFormats, WireFormats(WirePrivate, 0x2a2a)}}.RequiredWireFormats()
	if err != nil || required.Len() != 2 {
		t.Fatalf("read %v, %v", required, err)
	}
	leaf := func(data []byte) *LeafNode {
		return &LeafNode{Extensions: Extensions{{ExtSupportedWireFormats, data}}}
	}
	if err := CheckWireFormats(required, leaf(WireFormats(0x3a3a, 0x2a2a))); err != nil {
		t.Errorf("supported: %v", err)
	}
	refused(t, "another format", CheckWireFormats(required, leaf(WireFormats(0x3a3a))), RuleRequiredWireFormats)
	refused(t, "no extension", CheckWireFormats(required, &LeafNode{}), RuleRequiredWireFormats)
	refused(t, "unreadable", CheckWireFormats(required, leaf([]byte{3, 0})), RuleRequiredWireFormats)
	if err := CheckWireFormats(NewList(WirePublic, WireKeyPackage), &LeafNode{}); err != nil {
		t.Errorf("default formats: %v", err)
	}
	if none, err := (Extensions{}).RequiredWireFormats(); err != nil || CheckWireFormats(none, &LeafNode{}) != nil {
		t.Errorf("nothing required: %v", err)
	}
}

// TestLastResort marks key packages in both forms, draft-ietf-mls-extensions-10 §6.4.
func TestLastResort(t *testing.T) {
	if (&KeyPackage{}).LastResort() {
		t.Error("a key package without extensions is of last resort")
	}
	e := Extensions{}.WithAppData(AppData{{9, []byte{1}}})
	for _, old := range []bool{false, true} {
		marked, err := e.WithLastResort(old)
		if err != nil {
			t.Fatal(err)
		}
		if !(&KeyPackage{Extensions: marked}).LastResort() {
			t.Errorf("old %t: not of last resort", old)
		}
		if _, ok := marked.Find(ExtLastResort); ok != old {
			t.Errorf("old %t: the older extension: %t", old, ok)
		}
		if d, err := marked.AppData(); err != nil || len(d) != 2 || marked.Check() != nil {
			t.Errorf("old %t: dictionary %v, %v", old, d, err)
		}
	}
	if !(&KeyPackage{Extensions: Extensions{{ExtLastResort, nil}}}).LastResort() {
		t.Error("the older form alone is not seen")
	}
	_, err := Extensions{{ExtAppDataDictionary, []byte{1}}}.WithLastResort(false)
	refused(t, "unreadable dictionary", err, RuleLength)
}

// TestExtensionsCheck reads the content of every known type, RFC 9420 §13.4.
func TestExtensionsCheck(t *testing.T) {
	dict := func(id ComponentID, data ...byte) []byte { return AppData{{id, data}}.AppendTo(nil) }
	good := Extensions{
		{ExtApplicationID, []byte{0}},
		{ExtRequiredCapabilities, []byte{0, 0, 0}},
		{ExtExternalPub, []byte{1, 1}},
		{ExtExternalSenders, []byte{0}},
		{ExtAppDataDictionary, dict(ComponentContentMediaTypes, 5, 3, 'a', '/', 'b', 0)},
		{ExtSupportedWireFormats, []byte{0}},
		{ExtRequiredWireFormats, []byte{2, 0, 9}},
		{ExtLastResort, nil},
		{0x1a1a, []byte("anything")},
	}
	if err := good.Check(); err != nil {
		t.Errorf("good extensions: %v", err)
	}
	for _, c := range []struct {
		x    Extension
		rule Rule
	}{
		{Extension{ExtApplicationID, nil}, RuleLength},
		{Extension{ExtRequiredCapabilities, []byte{0, 0}}, RuleLength},
		{Extension{ExtExternalPub, []byte{0, 0}}, Rule(codec.RuleTrailing)},
		{Extension{ExtExternalSenders, []byte{1, 0}}, RuleLength},
		{Extension{ExtAppDataDictionary, []byte{6, 0, 2, 0, 0, 1, 0}}, RuleAppDataDictionary},
		{Extension{ExtAppDataDictionary, dict(ComponentLastResort, 0)}, RuleAppDataDictionary},
		{Extension{ExtAppDataDictionary, dict(ComponentAppComponents, 1, 0)}, RuleLength},
		{Extension{ExtAppDataDictionary, dict(ComponentSafeAAD)}, RuleLength},
		{Extension{ExtAppDataDictionary, dict(ComponentContentMediaTypes, 0)}, RuleApplicationFraming},
		{Extension{ExtSupportedWireFormats, []byte{1, 0}}, RuleLength},
		{Extension{ExtRequiredWireFormats, nil}, RuleLength},
		{Extension{ExtLastResort, []byte{0}}, RuleLength},
	} {
		refused(t, fmt.Sprintf("type %d, %x", c.x.Type, c.x.Data), (Extensions{{0x2a2a, nil}, c.x}).Check(), c.rule)
	}
}
