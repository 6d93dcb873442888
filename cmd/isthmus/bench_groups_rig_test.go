//go:build bench

package main_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	isthmus "github.com/isthmus-chat/isthmus/cmd/isthmus"
	"github.com/isthmus-chat/isthmus/core"
	device "github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// homeDomains are the homeservers of the measures of Groups: processes of their own
// that meet over TLS on loopback, each with a database on disk.
var homeDomains = []string{"a.bench", "b.bench", "c.bench"}

const (
	setupParallel = 16               // requests at once while a measure is prepared
	appearance    = 30 * time.Second // for a room to come to the other homeservers
)

// A homeserver is one of them.
type homeserver struct {
	*server
	domain string
	http   *http.Client // of all its devices
}

// homeservers starts the first n of homeDomains, and has them know each other.
func homeservers(t *testing.T, p peer, n int, env ...string) []*homeserver {
	t.Helper()
	p.config = "isthmus-groups.yaml"
	domains, ca := homeDomains[:n], t.TempDir()
	if out, err := exec.Command(p.binary, append([]string{"dev", "ca", "--dir", ca}, domains...)...).CombinedOutput(); err != nil {
		t.Fatalf("isthmus dev ca: %v\n%s", err, out)
	}
	type address struct{ Name, Address string }
	ports, all := make([]int, n), make([]address, n)
	for i, d := range domains {
		ports[i] = freePort(t)
		all[i] = address{d, fmt.Sprintf("127.0.0.1:%d", ports[i])}
	}
	var hs []*homeserver
	for i, d := range domains {
		others := slices.Delete(slices.Clone(all), i, i+1)
		s := start(t, p, setup{env: env, vars: map[string]any{"Domain": d, "Federation": ports[i], "CA": ca, "Peers": others}})
		hs = append(hs, &homeserver{server: s, domain: d, http: &http.Client{Transport: &strangers{
			&http.Transport{MaxIdleConnsPerHost: 256, ResponseHeaderTimeout: time.Minute}}}})
	}
	for _, h := range hs {
		m, err := h.enrol("herald", nil)
		if err == nil {
			err = m.login()
		}
		for _, d := range domains {
			if err == nil && d != h.domain {
				_, err = m.home.Homeserver(t.Context(), d)
			}
		}
		if err != nil {
			t.Fatalf("%s: %v\n%s", h.domain, err, h.lastWords())
		}
	}
	return hs
}

// strangers makes every request come from an address of its own, as a reverse proxy
// would say it: who registers thousands of devices is no single stranger.
type strangers struct{ *http.Transport }

var strangerCount atomic.Uint32

func (s *strangers) RoundTrip(q *http.Request) (*http.Response, error) {
	n := strangerCount.Add(1)
	q.Header.Set("X-Forwarded-For", fmt.Sprintf("10.%d.%d.%d", byte(n>>16), byte(n>>8), byte(n)))
	return s.Transport.RoundTrip(q)
}

func (h *homeserver) url(path string) string {
	return fmt.Sprintf("http://127.0.0.1:%d%s", h.server.http, path)
}

func pathEscape(room core.RoomID) string { return url.PathEscape(string(room)) }

// metric is the sum of all series of a metric whose labels contain each of with.
func (h *homeserver) metric(t testing.TB, name string, with ...string) (sum float64) {
	t.Helper()
	a, err := http.Get(h.url("/metrics"))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		bare, labels, _ := strings.Cut(series, "{")
		if !ok || bare != name || slices.ContainsFunc(with, func(w string) bool { return !strings.Contains(labels, w) }) {
			continue
		}
		if x, err := strconv.ParseFloat(value, 64); err == nil {
			sum += x
		}
	}
	return sum
}

const memberSuite = mls.X25519AES128SHA256Ed25519

// A member is a device that holds its half of one Group in memory. What it does
// itself is not part of any figure.
type member struct {
	hs    *homeserver
	home  device.Home
	user  core.UserURI
	uri   core.DeviceURI
	key   ed25519.PrivateKey
	token string
	proof core.Identity
	id    group.Identity
	kp    *group.KeyPackage

	room core.RoomID
	g    *group.Group
	next string // where its Sync goes on
}

// enrol registers a device of a user: the first of a new one, or with the sponsor's
// approval a further one.
func (h *homeserver) enrol(name string, sponsor *member) (*member, error) {
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	m := &member{hs: h, home: isthmus.BenchHome(h.url(""), h.http), key: key, user: core.NewUserURI(h.domain, name)}
	if sponsor != nil {
		m.user = sponsor.user
	}
	now := time.Now()
	rec, err := identity.SignRecord(key, identity.Record{Version: 1, Key: pub, User: string(m.user), Name: "bench",
		Inbox: identity.InboxKey{KEM: identity.KEMX25519, Public: pub}, NotBefore: now.Add(-time.Hour).Unix(), NotAfter: now.Add(90 * 24 * time.Hour).Unix()})
	if err != nil {
		return nil, err
	}
	request := wire.RegisterDevice{Record: rec.Encode()}
	if sponsor != nil {
		request.Sponsor, request.Approval = sponsor.uri, identity.Sign(sponsor.key, "isthmus device approval", request.Record)
	}
	d, err := m.home.Register(context.Background(), request)
	if err != nil {
		return nil, err
	}
	m.uri, m.proof = d.Device, d.Proof
	m.id.Credential = mls.BasicCredential([]byte(m.uri))
	m.id.Signer, err = group.NewSigner(memberSuite, key.Seed())
	return m, err
}

// login opens a session.
func (m *member) login() error {
	r := wire.OpenSession{Device: m.uri}
	s, err := m.home.OpenSession(context.Background(), r)
	if err != nil {
		return err
	}
	r.Challenge, r.Signature = s.Challenge, identity.Sign(m.key, "isthmus session", s.Challenge)
	if s, err = m.home.OpenSession(context.Background(), r); err == nil {
		m.token = s.Token
		m.home.Authorize(s.Token)
	}
	return err
}

// crowd registers n devices at each of the homeservers in turn, perUser to a user,
// and has the first of them per homeserver log in.
func crowd(t *testing.T, hs []*homeserver, name string, n, perUser, online int) []*member {
	t.Helper()
	all := make([]*member, n)
	each(t, (n+perUser-1)/perUser, func(u int) (err error) {
		var sponsor *member
		for i := u * perUser; i < min((u+1)*perUser, n) && err == nil; i++ {
			if all[i], err = hs[u%len(hs)].enrol(fmt.Sprint(name, u), sponsor); err == nil && i < online {
				err = all[i].login()
			}
			if sponsor == nil {
				sponsor = all[i]
			}
		}
		return err
	})
	return all
}

// each does n things, several at once, and fails with the first that fails.
func each(t *testing.T, n int, do func(i int) error) {
	t.Helper()
	errs, next := make([]error, setupParallel), atomic.Int64{}
	var all sync.WaitGroup
	for w := range setupParallel {
		all.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && errs[w] == nil; i = int(next.Add(1)) - 1 {
				errs[w] = do(i)
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// patient repeats what is refused as too much at once.
func patient(do func() error) error {
	for {
		err := do()
		e, ok := errors.AsType[*core.Error](err)
		if !ok || e.Code != core.Limited {
			return err
		}
		time.Sleep(max(e.RetryAfter, 10*time.Millisecond))
	}
}
