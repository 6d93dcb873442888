package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-chat/isthmus/bridges/irc"
	"github.com/isthmus-chat/isthmus/bridges/matrix"
	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
)

// Every code has an exit code, and survives the control socket and --json.
func TestEveryCode(t *testing.T) {
	for _, code := range core.Codes() {
		err := fmt.Errorf("while doing: %w", &core.Error{Code: code, Text: "because", RetryAfter: time.Second})
		want := exitFailed
		if code == core.Unavailable || code == core.Limited {
			want = exitUnavailable
		}
		if got := (&cli{started: true}).exitCode(err); got != want {
			t.Errorf("%v: exit code %d, want %d", code, got, want)
		}
		text, jerr := json.Marshal(wireErrorOf(err))
		var w wireError
		if jerr = errors.Join(jerr, json.Unmarshal(text, &w)); jerr != nil {
			t.Fatal(jerr)
		}
		back, ok := errors.AsType[*core.Error](w.err())
		if !ok || back.Code != code || back.RetryAfter != time.Second || !strings.Contains(back.Text, "because") {
			t.Errorf("%v came back from %s as %+v", code, text, back)
		}
	}
	for want, c := range map[int]struct {
		started bool
		err     error
	}{
		exitOK: {true, nil}, exitUsage: {false, errors.New("unknown flag")}, exitConfig: {true, &configs.Error{Problems: []string{"x"}}},
		exitFailed: {true, errSaid},
	} {
		if got := (&cli{started: c.started}).exitCode(c.err); got != want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, want)
		}
	}
}

// A running server answers what it does not understand, and reads no more of it
// than it needs.
func TestControlRefuses(t *testing.T) {
	s := httptest.NewServer(controlHandler(&admin{domain: "a.example", key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}))
	defer s.Close()
	r := &remote{&http.Client{Transport: rewrite{s.URL}}}
	var resp statusInfo
	if err := r.call(t.Context(), "status", nothing{}, &resp); err != nil || resp.Domain != "a.example" {
		t.Errorf("status: %+v, %v", resp, err)
	}
	if err := r.call(t.Context(), "no.such", nothing{}, &resp); core.CodeOf(err) != core.Unsupported {
		t.Errorf("an unknown operation: %v", err)
	}
	if err := r.call(t.Context(), "status", []int{1}, &resp); core.CodeOf(err) != core.Invalid {
		t.Errorf("a request of the wrong shape: %v", err)
	}
	if err := r.call(t.Context(), "room.show", roomRef{strings.Repeat("x", controlBody)}, &resp); core.CodeOf(err) != core.TooLarge {
		t.Errorf("a large request: %v", err)
	}
}

// rewrite sends every request to one server.
type rewrite struct{ url string }

func (w rewrite) RoundTrip(q *http.Request) (*http.Response, error) {
	q.URL.Host = strings.TrimPrefix(w.url, "http://")
	return http.DefaultTransport.RoundTrip(q)
}

// A socket file that a crash left behind is no server, and does not stop one.
func TestControlSocketLeftBehind(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("unix", filepath.Join(dir, controlName))
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if c := dialControl(dir); c != nil {
		t.Error("nobody listens, and yet there is a server")
	}
	l, err = listenControl(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := os.Stat(filepath.Join(dir, controlName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}
}

// What the Makefile sets comes before what Go recorded.
func TestVersion(t *testing.T) {
	defer func(was string) { revision = was }(revision)
	revision = "v1.2.3-4-gabcdef0-dirty"
	if got := version(); got.Version != revision || !strings.HasPrefix(got.String(), "isthmus "+revision+" (go1") {
		t.Errorf("%+v says %q", got, got)
	}
	revision = ""
	if got := version(); got.Version == "" {
		t.Errorf("nothing recorded: %+v", got)
	}
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil || !strings.Contains(string(makefile), "-X main.revision=") {
		t.Errorf("the Makefile does not set main.revision: %v", err)
	}
}

func TestChannelFold(t *testing.T) {
	for mapping, want := range map[string]string{"ascii": "abc[]\\^{}|~ä", "rfc1459": "abc{}|~{}|~ä"} {
		cfg := new(configs.Config)
		cfg.IRC.CaseMapping = mapping
		if got := channelFold(cfg)("ABC[]\\^{}|~ä"); got != want {
			t.Errorf("%s: %q, want %q", mapping, got, want)
		}
	}
}

// selfSigned writes a certificate for host and its key into dir.
func selfSigned(t *testing.T, dir, host string, until time.Time) (cert, key string) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host}, NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: keyType, Bytes: pkcs8}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := selfSigned(t, dir, "one.example", time.Now().Add(time.Hour))
	c, err := newCertificate(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	selfSigned(t, dir, "two.example", time.Now().Add(time.Hour))
	if err := c.load(); err != nil {
		t.Fatal(err)
	}
	name := func() string {
		pair, _ := c.get(nil)
		return pair.Leaf.DNSNames[0]
	}
	if name() != "two.example" {
		t.Errorf("after a reload the certificate is for %s", name())
	}
	if err := os.WriteFile(key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.load(); err == nil || name() != "two.example" {
		t.Errorf("a broken key: %v, and the certificate is for %s", err, name())
	}
}

func TestCheckCertificate(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for want, left := range map[string]time.Duration{stateOK: 90 * 24 * time.Hour, stateWarning: 24 * time.Hour, stateFailed: -time.Hour} {
		cert, key := selfSigned(t, t.TempDir(), "a.example", now.Add(left))
		if f := checkCertificate("k", cert, key, now); f.State != want {
			t.Errorf("%v before its end a certificate is %+v, want %s", left, f, want)
		}
	}
}

// What check says of a Matrix homeserver, for each way it can answer.
func TestAskMatrix(t *testing.T) {
	for _, c := range []struct {
		name                string
		versions, ping      int
		errcode             string
		running             bool
		state, text, advice string
	}{
		{"all is well", 200, 200, "", true, stateOK, "there, and it reaches us", ""},
		{"down", 502, 0, "", true, stateFailed, "answers 502", "is url right"},
		{"does not know us", 200, 401, "M_UNKNOWN_TOKEN", true, stateFailed, "answers 401 M_UNKNOWN_TOKEN", "registration matrix"},
		{"does not reach us", 200, 502, "M_CONNECTION_FAILED", true, stateFailed, "answers 502 M_CONNECTION_FAILED", "listen_url"},
		{"we do not run", 200, 502, "M_CONNECTION_FAILED", false, stateWarning, "only while the server runs", "isthmus serve"},
		{"old", 200, 404, "M_UNRECOGNIZED", true, stateWarning, "too old", "v1.7"},
	} {
		hs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			code := c.versions
			if strings.HasSuffix(q.URL.Path, "/appservice/ours/ping") && q.Header.Get("Authorization") == "Bearer secret" {
				code = c.ping
			}
			w.WriteHeader(code)
			fmt.Fprintf(w, `{"errcode": %q}`, c.errcode)
		}))
		state, text, advice := askMatrix(context.Background(), matrix.Config{URL: hs.URL + "/", ID: "ours", ASToken: "secret"}, c.running)
		hs.Close()
		if state != c.state || !strings.Contains(text, c.text) || !strings.Contains(advice, c.advice) || (advice == "") != (c.advice == "") {
			t.Errorf("%s: %s, %q, %q", c.name, state, text, advice)
		}
	}
}

// Everything that the configuration says of IRC reaches the listener.
func TestIRCConfig(t *testing.T) {
	cfg, err := configs.Load("", nil, func(c *configs.Config) { c.DataDir = t.TempDir() })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := makeSecrets(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	c, err := ircConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	want := irc.Defaults("localhost")
	want.Access, want.Accounts = c.Access, c.Accounts // compared below, where the default says more
	want.Version, want.Secret, want.MOTD = c.Version, c.Secret, "Welcome to Isthmus."
	if diff := cmp.Diff(want, c, cmp.Exporter(func(reflect.Type) bool { return true })); diff != "" {
		t.Errorf("default.yaml and irc.Defaults differ: (-irc +yaml)\n%s", diff)
	}
	if len(c.Secret) < 32 || len(c.Access.Listeners) != 1 || c.Access.Listeners[0].Address != "127.0.0.1:6667" || c.Access.Limits.PerAddress != 16 {
		t.Errorf("access: %+v", c.Access)
	}
}

// Two starts do not race for the secrets, and neither replaces what is there.
func TestMakeSecrets(t *testing.T) {
	cfg, err := configs.Load("", nil, func(c *configs.Config) { c.DataDir = filepath.Join(t.TempDir(), "new") })
	if err != nil {
		t.Fatal(err)
	}
	made, err := makeSecrets(t.Context(), cfg)
	if err != nil || len(made) != 2 {
		t.Fatalf("made %v, %v", made, err)
	}
	key, err := readKey(cfg)
	if err != nil {
		t.Fatal(err)
	}
	made, err = makeSecrets(t.Context(), cfg)
	again, rerr := readKey(cfg)
	if err != nil || rerr != nil || len(made) != 0 || !key.Equal(again) {
		t.Errorf("the second time: made %v, %v, %v", made, err, rerr)
	}
	if left, _ := filepath.Glob(filepath.Join(cfg.DataDir, ".isthmus-*")); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	if err := os.WriteFile(cfg.Path(cfg.KeyFile), []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readKey(cfg); err == nil || !strings.HasPrefix(err.Error(), "key_file: ") {
		t.Errorf("a broken key: %v", err)
	}
}
