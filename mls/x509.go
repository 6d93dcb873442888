package mls

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"time"

	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// The bounds of a chain of certificates: verifying one costs signatures, and
// trying the orders of many costs more of them.
const (
	MaxCertificates = 10      // of one credential
	MaxCertificate  = 1 << 16 // octets of one certificate
)

// keyAlgorithm is how a certificate names the algorithm of a key: the
// algorithm and, of an elliptic curve, its parameters.
type keyAlgorithm struct{ algorithm, curve asn1.ObjectIdentifier }

// keyAlgorithmOf returns what a certificate has to say for a key of the
// scheme: RFC 5480 §2.1.1, RFC 8410 §3 and RFC 9881 §2.
func keyAlgorithmOf(g suite.Signature) (keyAlgorithm, bool) {
	elliptic := asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}
	switch g {
	case suite.ECDSAP256:
		return keyAlgorithm{elliptic, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}}, true
	case suite.ECDSAP384:
		return keyAlgorithm{elliptic, asn1.ObjectIdentifier{1, 3, 132, 0, 34}}, true
	case suite.ECDSAP521:
		return keyAlgorithm{elliptic, asn1.ObjectIdentifier{1, 3, 132, 0, 35}}, true
	case suite.Ed25519:
		return keyAlgorithm{algorithm: asn1.ObjectIdentifier{1, 3, 101, 112}}, true
	case suite.Ed448:
		return keyAlgorithm{algorithm: asn1.ObjectIdentifier{1, 3, 101, 113}}, true
	case suite.MLDSA44:
		return keyAlgorithm{algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 17}}, true
	case suite.MLDSA65:
		return keyAlgorithm{algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 18}}, true
	case suite.MLDSA87:
		return keyAlgorithm{algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 3, 19}}, true
	}
	return keyAlgorithm{}, false
}

// CheckX509 refuses under rule 38 an X.509 credential whose end-entity
// certificate does not hold this signature key, or holds it for another
// algorithm than the suite's, RFC 9420 §5.3. All the certificates have to be
// readable. Who issued them is left to VerifyX509. Credentials of other types
// pass.
func CheckX509(id Suite, c Credential, signatureKey []byte) error {
	if c.Type != CredentialX509 {
		return nil
	}
	_, err := parseChain(id, c, signatureKey)
	return err
}

// parseChain reads the certificates and checks the first of them.
func parseChain(id Suite, c Credential, signatureKey []byte) ([]*x509.Certificate, error) {
	s, err := id.Params()
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for r := codec.NewReader(c.Data); r.Len() > 0; {
		der := r.Vec()
		switch {
		case r.Err() != nil:
			return nil, WireError(r.Err())
		case len(chain) == MaxCertificates:
			return nil, refuse(RuleBounds, "a chain of more than %d certificates", MaxCertificates)
		case len(der) > MaxCertificate:
			return nil, refuse(RuleBounds, "a certificate of %d octets", len(der))
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, refuse(RuleX509Key, "certificate %d cannot be read: %w", len(chain), err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, refuse(RuleX509Key, "the chain is empty")
	}
	return chain, checkCertificateKey(s.Params().Signature, chain[0], signatureKey)
}

// checkCertificateKey compares the certificate's key, as it is encoded, with
// the leaf's. It reads the encoding itself, as the standard library has no
// types for the keys of some schemes.
func checkCertificateKey(g suite.Signature, cert *x509.Certificate, signatureKey []byte) error {
	var info struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	rest, err := asn1.Unmarshal(cert.RawSubjectPublicKeyInfo, &info)
	if err != nil || len(rest) != 0 {
		return refuse(RuleX509Key, "the key of the certificate cannot be read")
	}
	want, ok := keyAlgorithmOf(g)
	if !ok || !info.Algorithm.Algorithm.Equal(want.algorithm) {
		return refuse(RuleX509Key, "a key of algorithm %v", info.Algorithm.Algorithm)
	}
	parameters := info.Algorithm.Parameters.FullBytes
	if want.curve == nil {
		if len(parameters) != 0 {
			return refuse(RuleX509Key, "the key's algorithm has parameters")
		}
	} else {
		var curve asn1.ObjectIdentifier
		rest, err := asn1.Unmarshal(parameters, &curve)
		if err != nil || len(rest) != 0 || !curve.Equal(want.curve) {
			return refuse(RuleX509Key, "a key on another curve")
		}
	}
	if info.Key.BitLength != 8*len(info.Key.Bytes) || !bytes.Equal(info.Key.Bytes, signatureKey) {
		return refuse(RuleX509Key, "the certificate's key is not the leaf's")
	}
	return nil
}

// VerifyX509 checks as CheckX509 does, and that the chain leads to one of the
// roots at the given time, RFC 5280 §6. It returns the end-entity certificate:
// whether its names are those of a client that the application expects is left
// to the application, RFC 9420 §5.3.1. Refusals: rule 38 for the key, rule 37
// for the rest. The roots and the time have to be given: this package reads no
// system store and no clock. Names of hosts and extended key usages are not
// looked at, for RFC 9420 defines none; a key usage, if there is one, has to
// include digital signatures.
func VerifyX509(id Suite, c Credential, signatureKey []byte, roots *x509.CertPool, at time.Time) (*x509.Certificate, error) {
	if c.Type != CredentialX509 {
		return nil, refuse(RuleCredential, "a credential of type %d, not of X.509", c.Type)
	}
	if roots == nil || at.IsZero() {
		return nil, refuse(RuleCredential, "no roots or no time to verify a chain with")
	}
	chain, err := parseChain(id, c, signatureKey)
	if err != nil {
		return nil, err
	}
	end := chain[0]
	if end.KeyUsage != 0 && end.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
		return nil, refuse(RuleCredential, "the certificate's key is not for signatures")
	}
	options := x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   at,
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, cert := range chain[1:] {
		options.Intermediates.AddCert(cert)
	}
	if _, err := end.Verify(options); err != nil {
		return nil, refuse(RuleCredential, "%w", err)
	}
	return end, nil
}
