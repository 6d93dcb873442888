package mls

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// issued is when the certificates of these tests begin to be valid.
var issued = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

// issue makes a certificate; a nil issuer signs with key itself.
func (a *authority) issue(t testing.TB, name string, public crypto.PublicKey, by crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	a.next++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.next),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    issued,
		NotAfter:     issued.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	if change != nil {
		change(template)
	}
	parent := a.cert
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func isCA(c *x509.Certificate) {
	c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
}

// newAuthority makes an authority that a parent vouches for, or a root.
func newAuthority(t testing.TB, name string, parent *authority) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer, by := &authority{}, key
	if parent != nil {
		issuer, by = parent, parent.key
	}
	return &authority{cert: issuer.issue(t, name, &key.PublicKey, by, isCA), key: key}
}

// point is the signature key of RFC 9420 §5.1.1 for an elliptic curve.
func point(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	b, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestCheckX509 covers rule 38 for the schemes that the standard library
// knows, RFC 9420 §5.3.
func TestCheckX509(t *testing.T) {
	root := newAuthority(t, "root", nil)
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	end := root.issue(t, "end", edwards, root.key, nil)
	c := X509Credential(end.Raw, root.cert.Raw)
	for _, id := range []Suite{X25519AES128SHA256Ed25519, X25519ChaCha20SHA256Ed25519} {
		if err := CheckX509(id, c, edwards); err != nil {
			t.Errorf("suite %d: %v", id, err)
		}
	}
	for _, id := range []Suite{P256AES128SHA256P256, P521AES256SHA512P521, X448AES256SHA512Ed448} {
		refused(t, id.Name(), CheckX509(id, c, edwards), RuleX509Key)
	}
	for id, curve := range map[Suite]elliptic.Curve{
		P256AES128SHA256P256: elliptic.P256(), P384AES256SHA384P384: elliptic.P384(), P521AES256SHA512P521: elliptic.P521(),
	} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		c := X509Credential(root.issue(t, "end", &key.PublicKey, root.key, nil).Raw)
		if err := CheckX509(id, c, point(t, key)); err != nil {
			t.Errorf("suite %d: %v", id, err)
		}
		wrong := P256AES128SHA256P256
		if id == wrong {
			wrong = P384AES256SHA384P384
		}
		refused(t, "another curve", CheckX509(wrong, c, point(t, key)), RuleX509Key)
		refused(t, "an elliptic curve for Ed25519", CheckX509(X25519AES128SHA256Ed25519, c, point(t, key)), RuleX509Key)
	}
	id := X25519AES128SHA256Ed25519
	refused(t, "another key", CheckX509(id, c, make([]byte, 32)), RuleX509Key)
	refused(t, "no key", CheckX509(id, c, nil), RuleX509Key)
	refused(t, "empty chain", CheckX509(id, X509Credential(), edwards), RuleX509Key)
	refused(t, "no certificate", CheckX509(id, X509Credential([]byte("certificate")), edwards), RuleX509Key)
	refused(t, "a broken second", CheckX509(id, X509Credential(end.Raw, end.Raw[:50]), edwards), RuleX509Key)
	refused(t, "octets after", CheckX509(id, X509Credential(append(end.Raw[:len(end.Raw):len(end.Raw)], 0)), edwards), RuleX509Key)
	many := make([][]byte, MaxCertificates+1)
	for i := range many {
		many[i] = end.Raw
	}
	refused(t, "too many", CheckX509(id, X509Credential(many...), edwards), RuleBounds)
	refused(t, "too long", CheckX509(id, X509Credential(make([]byte, MaxCertificate+1)), edwards), RuleBounds)
	refused(t, "cut off", CheckX509(id, Credential{CredentialX509, []byte{5, 1}}, edwards), RuleLength)
	refused(t, "unknown suite", CheckX509(0x0909, c, edwards), RuleKeyPackageParameters)
	if err := CheckX509(id, BasicCredential([]byte("name")), nil); err != nil {
		t.Errorf("a basic credential: %v", err)
	}
}

// TestCheckX509Ed448 covers rule 38 for a scheme that the standard library has
// no type for: the certificate is put together by hand, RFC 8410 §3.
func TestCheckX509Ed448(t *testing.T) {
	root := newAuthority(t, "root", nil)
	edwards, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 57)
	key[0] = 9
	withKey := func(public publicInfo) []byte {
		return replaceKey(t, root.issue(t, "end", edwards, root.key, nil).Raw, public)
	}
	ed448 := pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 3, 101, 113}}
	good := withKey(publicInfo{ed448, asn1.BitString{Bytes: key, BitLength: 8 * len(key)}})
	if err := CheckX509(X448AES256SHA512Ed448, X509Credential(good), key); err != nil {
		t.Error(err)
	}
	refused(t, "Ed448 for Ed25519", CheckX509(X25519AES128SHA256Ed25519, X509Credential(good), key), RuleX509Key)
	null := ed448
	null.Parameters = asn1.RawValue{Tag: asn1.TagNull}
	odd := withKey(publicInfo{null, asn1.BitString{Bytes: key, BitLength: 8 * len(key)}})
	refused(t, "parameters", CheckX509(X448AES256SHA512Ed448, X509Credential(odd), key), RuleX509Key)
	short := withKey(publicInfo{ed448, asn1.BitString{Bytes: key, BitLength: 8*len(key) - 3}})
	refused(t, "bits that are no octets", CheckX509(X448AES256SHA512Ed448, X509Credential(short), key), RuleX509Key)
}

// TestCertificateKeySchemes covers rule 38: each scheme has its algorithm, RFC
// 8410 §3, RFC 9881 §2.
func TestCertificateKeySchemes(t *testing.T) {
	key := []byte("any octets")
	schemes := map[suite.Signature]string{
		suite.Ed25519: "1.3.101.112", suite.Ed448: "1.3.101.113", suite.MLDSA44: "2.16.840.1.101.3.4.3.17",
		suite.MLDSA65: "2.16.840.1.101.3.4.3.18", suite.MLDSA87: "2.16.840.1.101.3.4.3.19",
	}
	for g := range schemes {
		want, ok := keyAlgorithmOf(g)
		if !ok || want.curve != nil || want.algorithm.String() != schemes[g] {
			t.Errorf("scheme %#04x has algorithm %v, %t", g, want.algorithm, ok)
		}
		info, err := asn1.Marshal(publicInfo{pkix.AlgorithmIdentifier{Algorithm: want.algorithm}, asn1.BitString{Bytes: key, BitLength: 8 * len(key)}})
		if err != nil {
			t.Fatal(err)
		}
		for other := range schemes {
			rule := RuleX509Key
			if other == g {
				rule = 0
			}
			refused(t, schemes[other], checkCertificateKey(other, &x509.Certificate{RawSubjectPublicKeyInfo: info}, key), rule)
		}
		refused(t, "no scheme", checkCertificateKey(0, &x509.Certificate{RawSubjectPublicKeyInfo: info}, key), RuleX509Key)
		refused(t, "unreadable", checkCertificateKey(g, &x509.Certificate{RawSubjectPublicKeyInfo: info[1:]}, key), RuleX509Key)
	}
}

// publicInfo is a SubjectPublicKeyInfo, RFC 5280 §4.1.
type publicInfo struct {
	Algorithm pkix.AlgorithmIdentifier
	Key       asn1.BitString
}

// replaceKey puts another key into a certificate, whose signature then is wrong.
func replaceKey(t testing.TB, der []byte, public publicInfo) []byte {
	t.Helper()
	var cert struct {
		TBS       asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &cert); err != nil {
		t.Fatal(err)
	}
	var fields []asn1.RawValue
	for rest := cert.TBS.Bytes; len(rest) > 0; {
		var field asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &field); err != nil {
			t.Fatal(err)
		}
		fields = append(fields, field)
	}
	info, err := asn1.Marshal(public)
	if err != nil {
		t.Fatal(err)
	}
	fields[6] = asn1.RawValue{FullBytes: info} // version, serial, algorithm, issuer, validity, subject, key
	var tbs []byte
	for _, field := range fields {
		tbs = append(tbs, field.FullBytes...)
	}
	cert.TBS = asn1.RawValue{Class: asn1.ClassUniversal, Tag: asn1.TagSequence, IsCompound: true, Bytes: tbs}
	out, err := asn1.Marshal(cert)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestVerifyX509 covers rules 37 and 38: a chain leads to a root at a time
// that the caller gives, RFC 9420 §5.3.1, RFC 5280 §6.
func TestVerifyX509(t *testing.T) {
	root := newAuthority(t, "root", nil)
	middle := newAuthority(t, "middle", root)
	key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	const id = X25519AES128SHA256Ed25519
	end := middle.issue(t, "end", key, middle.key, nil)
	roots, others := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(root.cert)
	others.AddCert(newAuthority(t, "another root", nil).cert)
	at := issued.AddDate(0, 6, 0)
	c := X509Credential(end.Raw, middle.cert.Raw)
	got, err := VerifyX509(id, c, key, roots, at)
	if err != nil || got.Subject.CommonName != "end" {
		t.Fatalf("verified as %v, %v", got, err)
	}
	if _, err := VerifyX509(id, X509Credential(end.Raw, middle.cert.Raw, root.cert.Raw), key, roots, at); err != nil {
		t.Errorf("with the root in the chain: %v", err)
	}
	usage := middle.issue(t, "end", key, middle.key, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })
	noUsage := middle.issue(t, "end", key, middle.key, func(c *x509.Certificate) { c.KeyUsage = 0 })
	if _, err := VerifyX509(id, X509Credential(noUsage.Raw, middle.cert.Raw), key, roots, at); err != nil {
		t.Errorf("without key usage: %v", err)
	}
	forged := append([]byte(nil), end.Raw...)
	forged[len(forged)-1] ^= 1
	for _, x := range []struct {
		what  string
		c     Credential
		key   []byte
		roots *x509.CertPool
		at    time.Time
		rule  Rule
	}{
		{"too early", c, key, roots, issued.Add(-time.Second), RuleCredential},
		{"too late", c, key, roots, issued.AddDate(1, 0, 1), RuleCredential},
		{"another root", c, key, others, at, RuleCredential},
		{"no roots", c, key, nil, at, RuleCredential},
		{"no time", c, key, roots, time.Time{}, RuleCredential},
		{"no intermediate", X509Credential(end.Raw), key, roots, at, RuleCredential},
		{"forged", X509Credential(forged, middle.cert.Raw), key, roots, at, RuleCredential},
		{"key usage", X509Credential(usage.Raw, middle.cert.Raw), key, roots, at, RuleCredential},
		{"another key", c, make([]byte, 32), roots, at, RuleX509Key},
		{"basic", BasicCredential(nil), key, roots, at, RuleCredential},
		{"end entity that issues", X509Credential(end.Raw, end.Raw), key, others, at, RuleCredential},
	} {
		got, err := VerifyX509(id, x.c, x.key, x.roots, x.at)
		refused(t, x.what, err, x.rule)
		if got != nil {
			t.Errorf("%s: a certificate in spite of it", x.what)
		}
	}
}

// FuzzCheckX509 checks that no chain is taken for a key that it does not hold.
func FuzzCheckX509(f *testing.F) {
	root := newAuthority(f, "root", nil)
	key, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	end := root.issue(f, "end", key, root.key, nil)
	f.Add(X509Credential(end.Raw).Data, []byte(key))
	f.Add(X509Credential(end.Raw, root.cert.Raw).Data, []byte(key))
	f.Add([]byte{1, 0}, []byte{})
	f.Fuzz(func(t *testing.T, chain, key []byte) {
		c := Credential{CredentialX509, chain}
		err := CheckX509(X25519AES128SHA256Ed25519, c, key)
		if err != nil {
			if RuleOf(err) == 0 {
				t.Fatal(err)
			}
			return
		}
		all, err := c.Certificates()
		if err != nil || len(all) == 0 {
			t.Fatalf("a chain that cannot be read: %v", err)
		}
		cert, err := x509.ParseCertificate(all[0])
		if err != nil {
			t.Fatal(err)
		}
		if public, ok := cert.PublicKey.(ed25519.PublicKey); !ok || string(public) != string(key) {
			t.Fatalf("key %x, certificate %v", key, cert.PublicKey)
		}
	})
}
