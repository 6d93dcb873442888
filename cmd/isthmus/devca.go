package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/core"
)

// How long what a development authority makes is valid. Nobody renews anything on
// a laptop.
const (
	devAuthorityTime   = 10 * 365 * 24 * time.Hour
	devCertificateTime = 2 * 365 * 24 * time.Hour
)

// devCerts is what `isthmus dev ca` made or found.
type devCerts struct {
	CA           string    `json:"ca_file"`
	Certificates []devCert `json:"certificates"`
}

type devCert struct {
	Domain string `json:"domain"`
	Cert   string `json:"cert_file"`
	Key    string `json:"key_file"`
	New    bool   `json:"new"`
}

func (c *cli) devCACommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "ca DOMAIN...", Short: "Make certificates for homeservers on one machine", Args: cobra.MinimumNArgs(1),
		Long: "dev ca makes a certificate authority of your own, if the directory has none yet, and a\n" +
			"certificate for each domain. Homeservers that name its ca.crt as federation.ca_file believe\n" +
			"each other. It is for development: whoever has ca.key can be every homeserver.",
		Example: "  isthmus dev ca a.localhost b.localhost",
		RunE: func(_ *cobra.Command, domains []string) error {
			made, err := makeDevCerts(dir, domains, time.Now())
			if err != nil {
				return err
			}
			return c.show(made, func(w io.Writer) {
				for _, d := range made.Certificates {
					fmt.Fprintf(w, "For %s:\n\n  federation:\n    ca_file: %s\n    cert_file: %s\n    key_file: %s\n\n", d.Domain, made.CA, d.Cert, d.Key)
				}
			})
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "isthmus-ca", "`directory` for authority, certificates and keys")
	return cmd
}

// makeDevCerts makes what is not there yet. Existing files are never written to.
func makeDevCerts(dir string, domains []string, now time.Time) (out devCerts, err error) {
	for _, d := range domains {
		if host, _, _ := strings.Cut(d, ":"); host == "" || host != strings.ToLower(host) || strings.ContainsAny(host, "/\\ *") || strings.HasPrefix(host, ".") {
			return out, core.Errorf(core.Invalid, "%q is not the domain of a homeserver", d)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return out, err
	}
	out.CA = absolute(filepath.Join(dir, "ca.crt"))
	key, cert, err := devAuthority(dir, now)
	if err != nil {
		return out, err
	}
	for _, d := range domains {
		host, _, _ := strings.Cut(d, ":")
		made := devCert{Domain: d, Cert: absolute(filepath.Join(dir, host+".crt")), Key: absolute(filepath.Join(dir, host+".key")), New: true}
		err := issueDevCert(made, host, key, cert, now)
		if errors.Is(err, fs.ErrExist) {
			made.New, err = false, nil
		}
		if err != nil {
			return out, err
		}
		out.Certificates = append(out.Certificates, made)
	}
	return out, nil
}

// devAuthority reads the authority in dir, or makes it.
func devAuthority(dir string, now time.Time) (crypto.Signer, *x509.Certificate, error) {
	certFile, keyFile := filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	if _, err := os.Stat(certFile); errors.Is(err, fs.ErrNotExist) {
		template := &x509.Certificate{Subject: pkix.Name{CommonName: "Isthmus development authority"}, IsCA: true, BasicConstraintsValid: true,
			NotBefore: now.Add(-time.Hour), NotAfter: now.Add(devAuthorityTime), KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
		if err := writeCertificate(certFile, keyFile, template, template, nil); err != nil {
			return nil, nil, err
		}
	}
	c, err := newCertificate(certFile, keyFile)
	if err != nil {
		return nil, nil, core.Errorf(core.Invalid, "%s: %v", certFile, err)
	}
	pair := c.now.Load()
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	key, ok := pair.PrivateKey.(crypto.Signer)
	if err != nil || !ok || !cert.IsCA {
		return nil, nil, core.Errorf(core.Invalid, "%s is not a certificate authority", certFile)
	}
	return key, cert, nil
}

// issueDevCert makes a certificate that names host and nothing else: what it names
// is who it can be.
func issueDevCert(d devCert, host string, key crypto.Signer, ca *x509.Certificate, now time.Time) error {
	return writeCertificate(d.Cert, d.Key, &x509.Certificate{
		Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(devCertificateTime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca, key)
}

// writeCertificate makes a key and a certificate for it, signed by signer: nil is
// the key itself. The key is written first: a certificate without it is no use.
func writeCertificate(certFile, keyFile string, template, parent *x509.Certificate, signer crypto.Signer) error {
	if _, err := os.Stat(certFile); err == nil {
		return fs.ErrExist
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if signer == nil {
		signer = key
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)); err != nil {
		return err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		return err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := writeNew(keyFile, pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: private}), 0o600); err != nil {
		return err
	}
	return writeNew(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644)
}
