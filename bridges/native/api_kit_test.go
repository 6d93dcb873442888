package native

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/store"
)

const apiDomain = "a.example"

// An apiHouse is a homeserver with the device API on loopback: the real runtime,
// engine and SQLite store.
type apiHouse struct {
	t      testing.TB
	db     *store.DB
	rt     *bridges.Runtime
	bridge *Bridge
	web    *httptest.Server
}

func openAPI(t testing.TB, change func(*APIConfig)) *apiHouse {
	t.Helper()
	seed := sha256.Sum256([]byte("homeserver"))
	key := ed25519.NewKeyFromSeed(seed[:])
	cfg := Config{Domain: apiDomain, Key: key, API: APIConfig{Registration: RegistrationOpen, Requests: 10_000, Messages: 100_000, Login: apiLogin}}
	if change != nil {
		change(&cfg.API)
	}
	b, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	b.api.limits.strangers = newBuckets(10_000, 10_000)
	db, err := store.Open(context.Background(), store.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "isthmus.db"), Homeserver: apiDomain})
	if err != nil {
		t.Fatal(err)
	}
	h := &apiHouse{t: t, db: db, bridge: b}
	h.rt = bridges.NewRuntime(bridges.RuntimeConfig{Store: db, Holder: "test", Bridges: []bridges.Bridge{b},
		Engine: func() bridges.Decider {
			return epoch.New(epoch.Config{Homeserver: apiDomain, Key: key, Rooms: core.NewEngine(core.Config{Homeserver: apiDomain, Key: key})})
		}})
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- h.rt.Run(ctx) }()
	h.web = httptest.NewServer(b.Handler())
	t.Cleanup(func() {
		stop()
		if err := <-stopped; err != nil {
			t.Errorf("the runtime ended with %v", err)
		}
		h.web.Close()
		db.Close()
	})
	for b.api.running.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	return h
}

// apiLogin knows one account: carol, whose password is "correct".
func apiLogin(_ context.Context, _ netip.Addr, name, password string) (core.Account, error) {
	if name != "carol" || password != "correct" {
		return core.Account{}, core.Errorf(core.Unauthenticated, "wrong account name or password")
	}
	return core.Account{Name: name, Fold: name, User: core.NewUserURI(apiDomain, name)}, nil
}

// An apiClient is somebody with a session, or without.
type apiClient struct {
	h      *apiHouse
	key    ed25519.PrivateKey
	record identity.SignedRecord
	user   core.UserURI
	device core.DeviceURI
	auth   string // header
	accept string
}

func (h *apiHouse) stranger() *apiClient { return &apiClient{h: h} }

// carol is a user with an account and no device.
func (h *apiHouse) carol() *apiClient {
	r, _ := http.NewRequest("GET", "/", nil)
	r.SetBasicAuth("carol", "correct")
	return &apiClient{h: h, user: core.NewUserURI(apiDomain, "carol"), auth: r.Header.Get("Authorization")}
}

// newDevice makes a device of a user, which nobody knows yet.
func (h *apiHouse) newDevice(user, seed string) *apiClient {
	h.t.Helper()
	s := sha256.Sum256([]byte(seed))
	c := &apiClient{h: h, key: ed25519.NewKeyFromSeed(s[:]), user: core.NewUserURI(apiDomain, user)}
	c.device = core.DeviceURI(identity.DeviceURI(apiDomain, c.key.Public().(ed25519.PublicKey)))
	c.sign(1, identity.Hash{}, false)
	return c
}

func (c *apiClient) sign(version uint64, previous identity.Hash, revoked bool) {
	c.h.t.Helper()
	var err error
	c.record, err = identity.SignRecord(c.key, identity.Record{Version: version, User: string(c.user), Name: "laptop", Previous: previous, Revoked: revoked,
		Inbox: identity.InboxKey{KEM: identity.KEMX25519, Public: bytes.Repeat([]byte{9}, 32)}, NotBefore: 1, NotAfter: time.Now().Add(time.Hour).Unix()})
	if err != nil {
		c.h.t.Fatal(err)
	}
}

// member registers a device and opens its session.
func (h *apiHouse) member(user string) *apiClient {
	h.t.Helper()
	c := h.newDevice(user, user)
	c.must(http.StatusOK, "POST", "/v1/devices", wire.RegisterDevice{Record: c.record.Encode()}, nil)
	c.open()
	return c
}

// open proves the device's key and takes its session.
func (c *apiClient) open() {
	c.h.t.Helper()
	var s wire.Session
	c.must(http.StatusOK, "POST", "/v1/sessions", wire.OpenSession{Device: c.device}, &s)
	proof := wire.OpenSession{Device: c.device, Challenge: s.Challenge, Signature: identity.Sign(c.key, "isthmus session", s.Challenge)}
	c.must(http.StatusOK, "POST", "/v1/sessions", proof, &s)
	if s.Token == "" || s.User != c.user {
		c.h.t.Fatalf("session of %q with token of %d octets", s.User, len(s.Token))
	}
	c.auth = "Bearer " + s.Token
}

func (c *apiClient) request(method, path, contentType string, body []byte, header ...string) *http.Request {
	c.h.t.Helper()
	r, err := http.NewRequest(method, c.h.web.URL+path, bytes.NewReader(body))
	if err != nil {
		c.h.t.Fatal(err)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	if c.auth != "" {
		r.Header.Set("Authorization", c.auth)
	}
	if c.accept != "" {
		r.Header.Set("Accept", c.accept)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return r
}

func (c *apiClient) raw(method, path, contentType string, body []byte, header ...string) (int, http.Header, []byte) {
	c.h.t.Helper()
	resp, err := http.DefaultClient.Do(c.request(method, path, contentType, body, header...))
	if err != nil {
		c.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		c.h.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, b
}

// must makes a JSON request that answers with status, and reads the answer.
func (c *apiClient) must(status int, method, path string, in, out any, header ...string) {
	c.h.t.Helper()
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			c.h.t.Fatal(err)
		}
	}
	got, _, b := c.raw(method, path, "application/json", body, header...)
	if got != status {
		c.h.t.Fatalf("%s %s: %d %s, want %d", method, path, got, b, status)
	}
	if out != nil {
		if err := json.Unmarshal(b, out); err != nil {
			c.h.t.Fatalf("%s %s: %s: %v", method, path, b, err)
		}
	}
}

// refused makes a request that answers with this code.
func (c *apiClient) refused(code core.Code, method, path string, in any, header ...string) wire.Error {
	c.h.t.Helper()
	var e wire.Error
	c.must(statusOf(code), method, path, in, &e, header...)
	if e.Code != code.String() || e.Text == "" {
		c.h.t.Errorf("%s %s: %+v, want %v", method, path, e, code)
	}
	return e
}

func roomPath(room core.RoomID, rest string) string {
	return "/v1/rooms/" + url.PathEscape(string(room)) + rest
}

// channel makes a Channel.
func (c *apiClient) channel(name string) core.RoomID {
	c.h.t.Helper()
	var r wire.Room
	c.must(http.StatusOK, "POST", "/v1/rooms", wire.CreateRoom{Kind: "channel", Name: name}, &r)
	return r.Room
}

func (c *apiClient) say(room core.RoomID, texts ...string) wire.Sent {
	c.h.t.Helper()
	var in wire.Send
	for _, s := range texts {
		in.Messages = append(in.Messages, wire.Message{Text: s})
	}
	var out wire.Sent
	c.must(http.StatusOK, "POST", roomPath(room, "/messages"), in, &out)
	return out
}

func (c *apiClient) sync(in wire.GetSync) wire.Sync {
	c.h.t.Helper()
	var out wire.Sync
	c.must(http.StatusOK, "POST", "/v1/sync", in, &out)
	return out
}

// texts joins what the content of events says.
func texts(events []wire.Event) string {
	var out []string
	for _, e := range events {
		if e.Type != core.ContentControl {
			out = append(out, e.Text)
		}
	}
	return strings.Join(out, " ")
}
