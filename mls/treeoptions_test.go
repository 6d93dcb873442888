package mls

import (
	"bytes"
	"errors"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
)

// TestRatchetTreeOption reads and writes every representation,
// draft-mahy-mls-ratchet-tree-options-03 §3.
func TestRatchetTreeOption(t *testing.T) {
	for _, c := range []struct {
		o    RatchetTreeOption
		want string
	}{
		{RatchetTreeOption{Representation: TreeFull, Tree: []byte{2, 0, 0}}, "\x01\x02\x00\x00"},
		{RatchetTreeOption{Representation: TreeFull, Tree: []byte{0}}, "\x01\x00"},
		{RatchetTreeOption{Representation: TreeHTTPS, URL: "https://a.example/t", Signature: []byte("s")}, "\x02\x13https://a.example/t\x01s"},
		{RatchetTreeOption{Representation: TreeOutOfBand, Signature: []byte("sig")}, "\x03\x03sig"},
		{RatchetTreeOption{Representation: TreeDistributionService}, "\x04"},
	} {
		b := c.o.AppendTo(nil)
		if string(b) != c.want {
			t.Errorf("representation %d is written as %q", c.o.Representation, b)
		}
		got, err := ParseRatchetTreeOption(b)
		if err != nil || got.Representation != c.o.Representation || !bytes.Equal(got.Tree, c.o.Tree) ||
			got.URL != c.o.URL || !bytes.Equal(got.Signature, c.o.Signature) {
			t.Errorf("representation %d is read as %v, %v", c.o.Representation, got, err)
		}
		_, err = ParseRatchetTreeOption(append(b, 0))
		refused(t, "octets after", err, Rule(codec.RuleTrailing))
	}
	if b := (RatchetTreeOption{Representation: TreeFull}).AppendTo(nil); string(b) != "\x01\x00" {
		t.Errorf("a full tree of nothing is written as %x", b)
	}
	long := append([]byte("https://"), bytes.Repeat([]byte{'a'}, MaxTreeURL)...)
	for _, c := range []struct {
		what string
		in   []byte
		rule Rule
	}{
		{"reserved", []byte{0}, RuleReservedValue},
		{"unknown", []byte{5}, RuleReservedValue},
		{"nothing", nil, RuleLength},
		{"tree cut off", []byte{1, 2, 0}, RuleLength},
		{"not https", []byte("\x02\x12http://a.example/t\x00"), RuleReservedValue},
		{"no signature", []byte("\x02\x13https://a.example/t"), RuleLength},
		{"URL too long", codec.AppendVec([]byte{2}, long), RuleBounds},
	} {
		_, err := ParseRatchetTreeOption(c.in)
		refused(t, c.what, err, c.rule)
	}
}

// TestHostOf splits URLs, and refuses those that readers split differently.
func TestHostOf(t *testing.T) {
	for url, want := range map[string]string{
		"https://a.example":            "a.example",
		"HTTPS://A.Example:8443/x?y#z": "a.example",
		"https://a.example?x":          "a.example",
		"https://[2001:db8::1]:443/":   "[2001:db8::1]",
		"https://[2001:db8::1]/":       "[2001:db8::1]",
	} {
		if host, ok := hostOf(url); !ok || host != want {
			t.Errorf("the host of %q is %q, %t", url, host, ok)
		}
	}
	for _, url := range []string{
		"", "https://", "https:///x", "http://a.example", "https://user@a.example", "https://b.example\\@a.example",
		"https://a.example\n", "https://a.ex\x00mple", "https://a.example:port/", "https://:443/", "https://%61.example/", "https://ä.example",
	} {
		if host, ok := hostOf(url); ok {
			t.Errorf("%q has the host %q", url, host)
		}
	}
}

// TestSourceDomains covers draft-mahy-mls-ratchet-tree-options-03 §3.1.
func TestSourceDomains(t *testing.T) {
	d := SourceDomains{"a.example", "b.example"}
	b := d.AppendTo(nil)
	got, err := ParseSourceDomains(b)
	if err != nil || len(got) != 2 || got[0] != d[0] || got[1] != d[1] {
		t.Fatalf("read %v, %v", got, err)
	}
	for url, want := range map[string]bool{
		"https://a.example/tree": true, "https://B.EXAMPLE:1/": true, "http://a.example/": false, "https://c.a.example/": false,
		"https://a.example.evil/": false, "https://a.example@evil/": false, "https://evil/a.example": false,
	} {
		if got.Allow(url) != want {
			t.Errorf("%q is allowed: %t", url, !want)
		}
	}
	many := make(SourceDomains, MaxSourceDomains+1)
	for i := range many {
		many[i] = "x"
	}
	for _, c := range []struct {
		what string
		in   []byte
		rule Rule
	}{
		{"empty list", []byte{0}, RuleReservedValue},
		{"empty domain", []byte{1, 0}, RuleReservedValue},
		{"too many", many.AppendTo(nil), RuleBounds},
		{"too long", SourceDomains{string(make([]byte, MaxDomain+1))}.AppendTo(nil), RuleBounds},
		{"cut off", b[:len(b)-1], RuleLength},
		{"octets after", append(b, 0), Rule(codec.RuleTrailing)},
	} {
		_, err := ParseSourceDomains(c.in)
		refused(t, c.what, err, c.rule)
	}
}

// TestTreePresence covers the table of draft-mahy-mls-ratchet-tree-options-03 §4.
func TestTreePresence(t *testing.T) {
	for p, want := range map[TreePresence][2]bool{TreeAbsent: {}, TreePresent: {true, true}, TreeRemoved: {true, false}, TreeAdded: {false, true}} {
		if got := [2]bool{p.Before(), p.Now()}; got != want || PresenceOf(want[0], want[1]) != p {
			t.Errorf("presence %d: before and now are %v, and stand for %d", p, got, PresenceOf(want[0], want[1]))
		}
	}
}

// signedInfo is a GroupInfo with these extensions, and what a server knows of it.
func signedInfo(t testing.TB, by Signer, before bool, e Extensions) (*GroupInfo, GroupInfoParts) {
	t.Helper()
	g := &GroupInfo{
		Context: GroupContext{
			Version: Version10, Suite: X25519AES128SHA256Ed25519, GroupID: []byte("group"), Epoch: 7,
			TreeHash: []byte("tree hash"), ConfirmedTranscriptHash: []byte("transcript"),
			Extensions: Extensions{{ExtRequiredCapabilities, []byte{0, 0, 0}}},
		},
		Extensions:      e,
		ConfirmationTag: []byte("tag"),
		Signer:          3,
	}
	if err := g.Sign(by); err != nil {
		t.Fatal(err)
	}
	context := g.Context
	return g, GroupInfoParts{
		Context: &context, ConfirmationTag: g.ConfirmationTag, Signer: 3, SignatureKey: by.PublicKey(),
		Before: before, Tree: []byte("\x04tree"),
	}
}

// TestPartialGroupInfo covers rule 124: what is taken out of a GroupInfo and
// put together again is the same, octet for octet, wherever the tree stood,
// draft-mahy-mls-ratchet-tree-options-03 §4.
func TestPartialGroupInfo(t *testing.T) {
	by := newSigner(t, X25519AES128SHA256Ed25519)
	tree, pub, other := Extension{ExtRatchetTree, []byte("\x04tree")}, Extension{ExtExternalPub, []byte{1, 9}}, Extension{0x7777, nil}
	for _, e := range []Extensions{
		nil, {pub}, {tree}, {tree, pub}, {pub, tree}, {pub, tree, other}, {tree, pub, other}, {pub, other, tree}, {pub, other},
	} {
		for _, before := range []bool{false, true} {
			g, known := signedInfo(t, by, before, e)
			b := NewPartialGroupInfo(g, before).AppendTo(nil)
			p, err := ParsePartialGroupInfo(b)
			if err != nil || !bytes.Equal(p.AppendTo(nil), b) {
				t.Fatalf("read %v, %v", p, err)
			}
			_, has := e.Find(ExtRatchetTree)
			if _, still := p.Extensions.Find(ExtRatchetTree); p.Presence != PresenceOf(before, has) || still {
				t.Errorf("presence %d, extensions %v", p.Presence, p.Extensions)
			}
			back, err := p.GroupInfo(known)
			if err != nil || !bytes.Equal(back.AppendTo(nil), g.AppendTo(nil)) {
				t.Errorf("%v: put together as %v, %v", e, back, err)
			}
		}
	}
}

// TestPartialGroupInfoRefusals covers rule 124 and rule 98,
// draft-mahy-mls-ratchet-tree-options-03 §4, RFC 9420 §12.4.3.1.
func TestPartialGroupInfoRefusals(t *testing.T) {
	by, other := newSigner(t, X25519AES128SHA256Ed25519), newSigner(t, X25519AES128SHA256Ed25519)
	tree, pub := Extension{ExtRatchetTree, []byte("\x04tree")}, Extension{ExtExternalPub, []byte{1, 9}}
	for _, c := range []struct {
		what   string
		change func(p *PartialGroupInfo, known *GroupInfoParts)
		rule   Rule
	}{
		{"there was no tree before", func(_ *PartialGroupInfo, k *GroupInfoParts) { k.Before = false }, RulePartialGroupInfo},
		{"presence removed", func(p *PartialGroupInfo, _ *GroupInfoParts) { p.Presence = TreeRemoved }, RuleGroupInfoSignature},
		{"presence added", func(p *PartialGroupInfo, _ *GroupInfoParts) { p.Presence = TreeAdded }, RulePartialGroupInfo},
		{"presence unknown", func(p *PartialGroupInfo, _ *GroupInfoParts) { p.Presence = 4 }, RuleReservedValue},
		{"tree among the extensions", func(p *PartialGroupInfo, _ *GroupInfoParts) { p.Extensions = Extensions{tree, pub} }, RulePartialGroupInfo},
		{"no tree", func(_ *PartialGroupInfo, k *GroupInfoParts) { k.Tree = nil }, RulePartialGroupInfo},
		{"another tree", func(_ *PartialGroupInfo, k *GroupInfoParts) { k.Tree = []byte("\x04shed") }, RuleGroupInfoSignature},
		{"another epoch", func(_ *PartialGroupInfo, k *GroupInfoParts) { k.Context.Epoch++ }, RuleGroupInfoSignature},
		{"another tag", func(_ *PartialGroupInfo, k *GroupInfoParts) { k.ConfirmationTag = nil }, RuleGroupInfoSignature},
		{"another signer", func(_ *PartialGroupInfo, k *GroupInfoParts) { k.Signer++ }, RuleGroupInfoSignature},
		{"another key", func(_ *PartialGroupInfo, k *GroupInfoParts) { k.SignatureKey = other.public }, RuleGroupInfoSignature},
		{"another signature", func(p *PartialGroupInfo, _ *GroupInfoParts) { p.Signature = []byte{1} }, RuleGroupInfoSignature},
		{"fewer extensions", func(p *PartialGroupInfo, _ *GroupInfoParts) { p.Extensions = nil }, RuleGroupInfoSignature},
		{"unknown suite", func(_ *PartialGroupInfo, k *GroupInfoParts) { k.Context.Suite = 0x0909 }, RuleKeyPackageParameters},
	} {
		g, known := signedInfo(t, by, true, Extensions{pub, tree})
		p := NewPartialGroupInfo(g, true)
		c.change(p, &known)
		_, err := p.GroupInfo(known)
		refused(t, c.what, err, c.rule)
	}
	for _, c := range []struct {
		what string
		in   []byte
		rule Rule
	}{
		{"presence unknown", []byte{4, 0, 0}, RuleReservedValue},
		{"tree among the extensions", []byte{1, 3, 0, 2, 0, 0}, RulePartialGroupInfo},
		{"an extension twice", []byte{1, 6, 0, 4, 0, 0, 4, 0, 0}, RuleDuplicateExtension},
		{"no signature", []byte{1, 0}, RuleLength},
		{"octets after", []byte{1, 0, 0, 0}, Rule(codec.RuleTrailing)},
	} {
		_, err := ParsePartialGroupInfo(c.in)
		refused(t, "parsing, "+c.what, err, c.rule)
	}
}

// FuzzRatchetTreeOption checks that what is read is written as it was.
func FuzzRatchetTreeOption(f *testing.F) {
	f.Add([]byte{1, 2, 0, 0})
	f.Add([]byte("\x02\x13https://a.example/t\x01s"))
	f.Add([]byte{3, 0})
	f.Add([]byte{4})
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := ParseRatchetTreeOption(b)
		if err == nil && !bytes.Equal(o.AppendTo(nil), b) {
			t.Fatalf("%x is written as %x", b, o.AppendTo(nil))
		}
		if err != nil && RuleOf(err) == 0 {
			t.Fatal(err)
		}
		if o.Representation == TreeHTTPS && err == nil {
			if host, ok := hostOf(o.URL); !ok || !(SourceDomains{host}).Allow(o.URL) {
				t.Fatalf("URL %q, host %q", o.URL, host)
			}
		}
	})
}

// FuzzPartialGroupInfo checks that what is read is written as it was, and that
// no signature of chance verifies.
func FuzzPartialGroupInfo(f *testing.F) {
	by := newSigner(f, X25519AES128SHA256Ed25519)
	g, known := signedInfo(f, by, true, Extensions{{ExtRatchetTree, []byte("\x04tree")}})
	good := NewPartialGroupInfo(g, true).AppendTo(nil)
	f.Add(good)
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{3, 3, 0, 4, 0, 1, 9})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ParsePartialGroupInfo(b)
		if err != nil {
			if RuleOf(err) == 0 {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(p.AppendTo(nil), b) {
			t.Fatalf("%x is written as %x", b, p.AppendTo(nil))
		}
		if _, err := p.GroupInfo(known); (err == nil) != bytes.Equal(b, good) {
			t.Fatalf("%x: %v", b, errors.Unwrap(err))
		}
	})
}
