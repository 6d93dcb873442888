package group

import (
	"bytes"
	"encoding/asn1"
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

// shownBy are rules that no refusal names, with the test that shows what they
// demand: of what must not be refused, of memory, of the order of things.
var shownBy = map[string]string{
	"RuleUnknownValue":        "TestUnknownValues",
	"RuleKeyReuse":            "TestMessageErased",
	"RuleSecretTreeErasure":   "TestDeletionSchedule",
	"RuleSecretErasure":       "TestEpochErased",
	"RuleOldPrivateKeys":      "TestUpdateErased",
	"RuleTreeWidth":           "TestParseTreeWidth",
	"RuleProposalOrder":       "TestProposalOrder",
	"RuleAddPlacement":        "TestTreeStateMachine",
	"RuleAtomicity":           "TestCommitRules", // and whatever else calls refuses
	"RuleRemoved":             "TestRemoved",
	"RulePendingCommit":       "TestPendingCommit",
	"RuleResumptionPSK":       "TestPastBounds",
	"RuleExternalLeaf":        "TestExternalPlace",
	"RuleSignatureEncoding":   "TestSignatureEncoding",
	"RuleDefaultCapabilities": "TestDefaultCapabilities", // and TestOwnCapabilities
}

// notOurs are rules of those around this package.
var notOurs = map[string]string{
	"RuleKeyPackageReuse": "the directory of key packages hands each out once",
}

// names collects the test functions and the names of rules in test files.
func names(t *testing.T, pattern string, tests, rules map[string]bool) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range parsed.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				tests[f.Name.Name] = true
			}
		}
		if base := filepath.Base(file); base == "rules_every_test.go" || file == filepath.Join("..", "rules_test.go") {
			continue
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if id, ok := n.(*ast.Ident); ok && strings.HasPrefix(id.Name, "Rule") {
				rules[id.Name] = true
			}
			return true
		})
	}
}

// Every rule is asserted by a test of mls or of the packages beneath it.
func TestEveryRuleHasANegativeTest(t *testing.T) {
	tests, rules, all := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, pattern := range []string{"*_test.go", "../*_test.go", "../internal/*/*_test.go"} {
		names(t, filepath.FromSlash(pattern), tests, rules)
	}
	names(t, filepath.Join("..", "rules.go"), map[string]bool{}, all)
	count := 0
	for name := range all {
		if name == "Rule" || name == "Rules" || name == "RuleOf" {
			continue
		}
		count++
		by, shown := shownBy[name]
		_, other := notOurs[name]
		switch {
		case shown && !tests[by]:
			t.Errorf("%s: there is no %s", name, by)
		case !rules[name] && !shown && !other:
			t.Errorf("%s: no test asserts it", name)
		}
	}
	if count != int(mls.Rules) {
		t.Errorf("%d rules, not %d", count, mls.Rules)
	}
	for name := range shownBy {
		if !all[name] {
			t.Errorf("%s is no rule", name)
		}
	}
}

// Numbers that nobody knows are carried along: mls.RuleUnknownValue, RFC 9420
// §13.4 and §13.5.
func TestUnknownValues(t *testing.T) {
	w := newAttacked(t, 2)
	capabilities := mls.NewCapabilities([]mls.Version{mls.Version10, 0x0a0a}, []mls.Suite{testSuite, 0x1a1a},
		[]mls.ExtensionType{0x2a2a, 0xf123}, []mls.ProposalType{0x3a3a, mls.ProposalSelfRemove}, []mls.CredentialType{mls.CredentialBasic, 0x4a4a})
	unknown := func(n mls.ExtensionType) mls.Extensions { return mls.Extensions{{Type: n, Data: []byte("grease")}} }
	for _, path := range []bool{false, true} {
		m := w.client()
		m.config.Capabilities = capabilities
		k := must(NewKeyPackage(m.config, w.suite, m.identity(w), KeyPackageOptions{LeafExtensions: unknown(0x2a2a), Extensions: unknown(0xf123)}))(t)
		w.commit(w.members[0], CommitOptions{Path: path, Proposals: []*mls.Proposal{Add(k.Package)}, InfoExtensions: unknown(0x5a5a)}, &joiner{m, k})
		w.commit(m, CommitOptions{})
	}
	w.say(w.members[2], 2)
}

// A signature of ECDSA is in DER, and of the suite's hash:
// mls.RuleSignatureEncoding, RFC 9420 §5.1.
func TestSignatureEncoding(t *testing.T) {
	w := newWorld(t, mls.P256AES128SHA256P256, 9)
	w.add(w.members[0], 2, CommitOptions{})
	by, to := w.members[0], w.members[1]
	raw := func(der []byte) []byte {
		var s struct{ R, S *big.Int }
		if _, err := asn1.Unmarshal(der, &s); err != nil {
			t.Fatal(err)
		}
		return append(s.R.FillBytes(make([]byte, 32)), s.S.FillBytes(make([]byte, 32))...)
	}
	for name, change := range map[string]func([]byte) []byte{
		"two numbers":           raw,
		"an octet behind it":    func(b []byte) []byte { return append(b, 0) },
		"a length in long form": func(b []byte) []byte { return append([]byte{b[0], 0x81, b[1]}, b[2:]...) },
		"nothing":               func([]byte) []byte { return nil },
	} {
		a := w.proposal(by, mls.WirePublic, w.external1(by, "key"))
		a.Signature = change(bytes.Clone(a.Signature))
		a.Seal()
		before := to.Snapshot()
		if err := w.process(to, w.public(by, a, nil)); mls.RuleOf(err) != mls.RuleContentSignature {
			t.Errorf("%s: %v", name, err)
		}
		if !bytes.Equal(before, to.Snapshot()) {
			t.Errorf("%s changed the member", name)
		}
	}
	to.save()
	w.commit(by, CommitOptions{})
}

// What we say of ourselves names no default types, RFC 9420 §7.2.
func TestOwnCapabilities(t *testing.T) {
	c := DefaultCapabilities()
	for v := range c.Extensions().All() {
		if mls.ExtensionType(v).Default() {
			t.Errorf("extension type %d is listed", v)
		}
	}
	for v := range c.Proposals().All() {
		if mls.ProposalType(v).Default() {
			t.Errorf("proposal type %d is listed", v)
		}
	}
}
