package matrix

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/id"
	"maunium.net/go/mautrix/synapseadmin"
)

// The real homeserver of this package's tests: Synapse from PyPI, run by the
// Python interpreter that ISTHMUS_SYNAPSE names, on loopback, with our
// registration. One serves all tests of the binary; it starts with the first
// test that asks, after our side listens, because Synapse waits minutes before
// it tries an application service again that was not there.

const (
	hsName       = "hs.test"
	ourDomain    = "gw.test"
	sharedSecret = "shared secret of the tests"
	asToken      = "as-token-of-the-tests-0123456789"
	hsToken      = "hs-token-of-the-tests-0123456789"
)

type synapse struct {
	python, dir string
	port        int
	cmd         *exec.Cmd
	exited      chan error

	front    *httptestServer // where Synapse reaches whichever bridge a test runs
	handler  atomic.Pointer[http.Handler]
	proxy    *httptestServer                    // where our bridge reaches Synapse
	meddle   atomic.Pointer[func(*meddle) bool] // a test's hand in that traffic
	toBridge atomic.Int64
	users    atomic.Int64
}

// A meddle is one request of the bridge on its way to Synapse.
type meddle struct {
	w    http.ResponseWriter
	r    *http.Request
	pass func() *http.Response // lets Synapse answer, to nobody
}

type httptestServer struct {
	*http.Server
	url string
}

var (
	hsOnce sync.Once
	hs     *synapse
	hsErr  error
)

func TestMain(m *testing.M) {
	code := m.Run()
	if hs != nil {
		hs.stop()
		os.RemoveAll(hs.dir)
	}
	os.Exit(code)
}

// homeserver returns the running Synapse. Without one the test fails: there is
// no other peer to prove this package with.
func homeserver(t testing.TB) *synapse {
	t.Helper()
	hsOnce.Do(func() { hs, hsErr = newSynapse() })
	if hsErr != nil {
		t.Fatalf("no Synapse (ISTHMUS_SYNAPSE names its Python interpreter): %v", hsErr)
	}
	return hs
}

func newSynapse() (*synapse, error) {
	python := os.Getenv("ISTHMUS_SYNAPSE")
	if python == "" {
		python = filepath.Join("..", "..", ".cache", "synapse", "bin", "python")
	}
	if _, err := os.Stat(python); err != nil {
		return nil, err
	}
	python, _ = filepath.Abs(python)
	dir, err := os.MkdirTemp("", "isthmus-synapse")
	if err != nil {
		return nil, err
	}
	s := &synapse{python: python, dir: dir}
	if s.port, err = freePort(); err != nil {
		return nil, err
	}
	s.front, err = listen(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.toBridge.Add(1)
		if h := s.handler.Load(); h != nil {
			(*h).ServeHTTP(w, r)
			return
		}
		http.Error(w, "nobody home", http.StatusServiceUnavailable)
	}))
	if err != nil {
		return nil, err
	}
	if err := s.startProxy(); err != nil {
		return nil, err
	}
	if err := s.configure(); err != nil {
		return nil, err
	}
	return s, s.start()
}

func listen(h http.Handler) (*httptestServer, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	srv := &httptestServer{Server: &http.Server{Handler: h}, url: "http://" + l.Addr().String()}
	go srv.Serve(l)
	return srv, nil
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// startProxy puts a reverse proxy between bridge and Synapse, in which tests
// can lose answers. While no test meddles it only passes on.
func (s *synapse) startProxy() (err error) {
	target := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", s.port)}
	rp := httputil.NewSingleHostReverseProxy(target)
	rp.Transport = &http.Transport{MaxIdleConnsPerHost: 64}
	rp.ErrorHandler = func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) }
	s.proxy, err = listen(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.meddle.Load(); f != nil {
			m := &meddle{w: w, r: r, pass: func() *http.Response {
				rec := &recorder{header: http.Header{}, code: 200}
				rp.ServeHTTP(rec, r)
				return &http.Response{StatusCode: rec.code, Header: rec.header}
			}}
			if (*f)(m) {
				return
			}
		}
		rp.ServeHTTP(w, r)
	}))
	return err
}

type recorder struct {
	header http.Header
	code   int
	bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(c int)   { r.code = c }

func (s *synapse) config() Config {
	return Config{URL: s.proxy.url, Server: hsName, Domain: ourDomain, ListenURL: s.front.url, ASToken: asToken, HSToken: hsToken,
		UserPrefix: "_isthmus_", Bot: "isthmusbot", RequestTimeout: 20 * time.Second}
}

func (s *synapse) configure() error {
	reg, err := Registration(s.config())
	if err != nil {
		return err
	}
	var seed [32]byte
	rand.Read(seed[:])
	generous := `{per_second: 100000, burst_count: 100000}`
	yaml := fmt.Sprintf(`
server_name: %s
pid_file: %[2]s/pid
listeners: [{port: %[3]d, bind_addresses: ["127.0.0.1"], type: http, tls: false, resources: [{names: [client], compress: false}]}]
database: {name: sqlite3, args: {database: %[2]s/hs.db}}
log_config: %[2]s/log.yaml
media_store_path: %[2]s/media
signing_key_path: %[2]s/signing.key
registration_shared_secret: "%[4]s"
macaroon_secret_key: "macaroon"
form_secret: "form"
report_stats: false
trusted_key_servers: []
suppress_key_server_warning: true
federation_domain_whitelist: []
enable_registration: false
presence: {enabled: false}
bcrypt_rounds: 4
app_service_config_files: ["%[2]s/registration.yaml"]
rc_message: %[5]s
rc_registration: %[5]s
rc_login: {address: %[5]s, account: %[5]s, failed_attempts: %[5]s}
rc_joins: {local: %[5]s, remote: %[5]s}
rc_joins_per_room: %[5]s
rc_invites: {per_room: %[5]s, per_user: %[5]s, per_issuer: %[5]s}
rc_admin_redaction: %[5]s
rc_room_creation: %[5]s
`, hsName, s.dir, s.port, sharedSecret, generous)
	log := fmt.Sprintf("version: 1\nformatters: {f: {format: '%%(asctime)s %%(name)s %%(levelname)s %%(message)s'}}\nhandlers: {file: {class: logging.FileHandler, formatter: f, filename: '%s/hs.log'}}\nroot: {level: INFO, handlers: [file]}\ndisable_existing_loggers: false\n", s.dir)
	for name, data := range map[string]string{"homeserver.yaml": yaml, "registration.yaml": string(reg), "log.yaml": log,
		"signing.key": "ed25519 a_test " + base64.RawStdEncoding.EncodeToString(seed[:]) + "\n"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(data), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// start runs Synapse and waits until it answers.
func (s *synapse) start() error {
	out, err := os.Create(filepath.Join(s.dir, "out"))
	if err != nil {
		return err
	}
	defer out.Close()
	s.cmd = exec.Command(s.python, "-m", "synapse.app.homeserver", "-c", filepath.Join(s.dir, "homeserver.yaml"))
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = s.dir, out, out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // no orphan if the tests are killed
	if err := s.cmd.Start(); err != nil {
		return err
	}
	s.exited = make(chan error, 1)
	go func(c *exec.Cmd) { s.exited <- c.Wait() }(s.cmd)
	deadline := time.Now().Add(2 * time.Minute)
	for time.Now().Before(deadline) {
		select {
		case err := <-s.exited:
			b, _ := os.ReadFile(filepath.Join(s.dir, "out"))
			return fmt.Errorf("Synapse ended (%v): %s", err, b[max(0, len(b)-2000):])
		case <-time.After(100 * time.Millisecond):
		}
		res, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/_matrix/client/versions", s.port))
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
		}
	}
	s.stop()
	return errors.New("Synapse did not get ready in two minutes")
}

// stop ends Synapse as an operator would.
func (s *synapse) stop() {
	if s.cmd == nil || s.cmd.Process == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.exited:
	case <-time.After(20 * time.Second):
		s.cmd.Process.Kill()
		<-s.exited
	}
	s.cmd = nil
}

// user registers a Matrix user and returns their client, which is mautrix's and
// shares no code with the bridge. It talks to Synapse directly.
func (s *synapse) user(t testing.TB, name string) *mautrix.Client {
	t.Helper()
	base := fmt.Sprintf("http://127.0.0.1:%d", s.port)
	anon, err := mautrix.NewClient(base, "", "")
	if err != nil {
		t.Fatal(err)
	}
	admin := &synapseadmin.Client{Client: anon}
	name = fmt.Sprintf("%s%d", name, s.users.Add(1))
	res, err := admin.SharedSecretRegister(context.Background(), sharedSecret, synapseadmin.ReqSharedSecretRegister{Username: name, Password: "p"})
	if err != nil {
		t.Fatalf("register %s: %v", name, err)
	}
	c, err := mautrix.NewClient(base, id.UserID(res.UserID), res.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// interfere lets f handle what the bridge asks Synapse, until the test ends or
// the returned function is called. f returns true if it has answered.
func (s *synapse) interfere(t testing.TB, f func(*meddle) bool) (stop func()) {
	s.meddle.Store(&f)
	stop = func() { s.meddle.Store(nil) }
	t.Cleanup(stop)
	return stop
}

// cut ends the connection without an answer.
func (m *meddle) cut() bool { panic(http.ErrAbortHandler) }

// isSend reports whether the request sends a timeline event as a ghost.
func (m *meddle) isSend() bool {
	return m.r.Method == http.MethodPut && strings.Contains(m.r.URL.Path, "/send/") && m.r.URL.Query().Has("user_id")
}

// raw does a request to our handler as the homeserver would, and returns the
// status and the error code.
func raw(t testing.TB, method, url, token string, body []byte) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var a answer
	if ct := res.Header.Get("Content-Type"); ct != "application/json" {
		t.Errorf("%s %s: Content-Type %q", method, url, ct)
	}
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil && res.StatusCode != 200 {
		t.Errorf("%s %s: the answer is not JSON: %v", method, url, err)
	}
	return res.StatusCode, a.ErrCode
}
