package native

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/isthmus-chat/isthmus/core"
)

// fromPrefix begins the From header of a homeserver
// (draft-ietf-mimi-protocol-06 §4.1).
const fromPrefix = "mimi@"

// maxDomain bounds a domain in octets (RFC 1035 §2.3.4), with room for a port.
const maxDomain = 253 + 6

// A keyring is this homeserver's certificate and whom it believes about others.
// Its files may change while it is in use.
type keyring struct {
	certFile, keyFile, caFile string
	now                       atomic.Pointer[keys]
}

type keys struct {
	cert  tls.Certificate
	roots *x509.CertPool // nil = those of the system
}

func newKeyring(certFile, keyFile, caFile string) (*keyring, error) {
	k := &keyring{certFile: certFile, keyFile: keyFile, caFile: caFile}
	return k, k.load()
}

// load reads the files; if they do not fit, what was read before stays.
func (k *keyring) load() error {
	pair, err := tls.LoadX509KeyPair(k.certFile, k.keyFile)
	if err != nil {
		return core.Errorf(core.Invalid, "federation.cert_file: %v", err)
	}
	now := &keys{cert: pair}
	if k.caFile != "" {
		text, err := os.ReadFile(k.caFile)
		if err != nil {
			return core.Errorf(core.Invalid, "federation.ca_file: %v", err)
		}
		now.roots = x509.NewCertPool()
		if !now.roots.AppendCertsFromPEM(text) {
			return core.Errorf(core.Invalid, "federation.ca_file: no certificate in it")
		}
	}
	k.now.Store(now)
	return nil
}

// server is how we answer. A certificate is asked for and judged here, not by
// crypto/tls, because one that may serve as a domain may also speak as it: public
// authorities give out certificates for servers only. The directory needs none.
func (k *keyring) server() *tls.Config {
	return &tls.Config{
		MinVersion:       tls.VersionTLS13,
		NextProtos:       []string{"h2", "http/1.1"},
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &k.now.Load().cert, nil },
		ClientAuth:       tls.RequestClientCert,
		VerifyConnection: k.judge,
	}
}

// judge holds the certificate of who connects, if they show one, to the roots.
// Unlike VerifyPeerCertificate it is called for resumed sessions too.
func (k *keyring) judge(s tls.ConnectionState) error {
	if len(s.PeerCertificates) == 0 {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range s.PeerCertificates[1:] {
		between.AddCert(c)
	}
	_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: k.now.Load().roots, Intermediates: between,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	return err
}

// client is how we connect to domain, wherever it answers: the certificate is
// bound to the domain and not to the host of its address. A new one is made for
// each connection, so that new files count at once.
func (k *keyring) client(domain string) *tls.Config {
	now := k.now.Load()
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"h2"},
		RootCAs:    now.roots,
		ServerName: core.HostOf(domain),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &k.now.Load().cert, nil
		},
	}
}

// callerOf says which homeserver speaks: its certificate names the domain, and the
// From header, which it must fit, says which if the certificate names several.
func callerOf(s *tls.ConnectionState, from string) (string, error) {
	if s == nil || len(s.PeerCertificates) == 0 {
		return "", core.Errorf(core.Unauthenticated, "homeservers show a certificate for their domain")
	}
	names := s.PeerCertificates[0].DNSNames
	if from == "" {
		if len(names) != 1 {
			return "", core.Errorf(core.Unauthenticated, "the certificate names %d domains: say in the From header whose request it is", len(names))
		}
		from = fromPrefix + names[0]
	}
	domain, ok := strings.CutPrefix(from, fromPrefix)
	if !ok || checkDomain(domain) != nil {
		return "", core.Errorf(core.Unauthenticated, "the From header of a homeserver is mimi@ and its domain")
	}
	if !slices.ContainsFunc(names, func(n string) bool { return strings.EqualFold(n, core.HostOf(domain)) }) {
		return "", core.Errorf(core.Unauthenticated, "the certificate does not name the domain in the From header")
	}
	return domain, nil
}

// checkDomain holds a homeserver's name to the form of a DNS name in lower case,
// with a port perhaps. An address is no name: nobody can own one.
func checkDomain(domain string) error {
	bad := core.Errorf(core.Invalid, "not the domain of a homeserver")
	host := core.HostOf(domain)
	if len(domain) > maxDomain || host == "" || net.ParseIP(host) != nil {
		return bad
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return bad
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
				return bad
			}
		}
	}
	if port, ok := strings.CutPrefix(domain, host+":"); ok {
		var n uint16
		if _, err := fmt.Sscan(port, &n); err != nil || fmt.Sprint(n) != port {
			return bad
		}
	}
	return nil
}
