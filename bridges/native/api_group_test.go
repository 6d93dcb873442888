package native

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/store"
)

// A cborHome is the homeserver as a device sees it: over HTTP, in CBOR.
type cborHome struct {
	h     *apiHouse
	mu    sync.Mutex
	token string
}

// ask makes one request of the device API.
func ask[Out any](ctx context.Context, home *cborHome, method, path string, in any) (out Out, err error) {
	var body []byte
	if in != nil {
		if body, err = cbor.Marshal(in); err != nil {
			return out, err
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, home.h.web.URL+path, bytes.NewReader(body))
	if err != nil {
		return out, err
	}
	r.Header.Set("Content-Type", typeCBOR)
	r.Header.Set("Accept", typeCBOR)
	home.mu.Lock()
	r.Header.Set("Authorization", "Bearer "+home.token)
	home.mu.Unlock()
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return out, core.Errorf(core.Unavailable, "%v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 300 {
		if resp.StatusCode != http.StatusNoContent {
			err = cbor.NewDecoder(resp.Body).Decode(&out)
		}
		return out, err
	}
	var e wire.Error
	if err := cbor.NewDecoder(resp.Body).Decode(&e); err != nil {
		return out, err
	}
	if e.Code == core.StaleEpoch.String() {
		return out, &client.Stale{Epoch: e.Epoch, Winner: e.Winner}
	}
	for _, c := range core.Codes() {
		if c.String() == e.Code {
			return out, &core.Error{Code: c, Reason: core.Reason(e.Reason), Text: e.Text, RetryAfter: time.Duration(e.RetryAfter) * time.Millisecond}
		}
	}
	return out, fmt.Errorf("an answer of code %q", e.Code)
}

func (h *cborHome) Authorize(token string) { h.mu.Lock(); h.token = token; h.mu.Unlock() }
func (h *cborHome) OpenSession(ctx context.Context, r wire.OpenSession) (wire.Session, error) {
	return ask[wire.Session](ctx, h, "POST", "/v1/sessions", r)
}
func (h *cborHome) Register(ctx context.Context, r wire.RegisterDevice) (wire.Device, error) {
	return ask[wire.Device](ctx, h, "POST", "/v1/devices", r)
}
func (h *cborHome) PutRecord(ctx context.Context, r wire.PutRecord) (wire.Device, error) {
	return ask[wire.Device](ctx, h, "PUT", "/v1/devices/self", r)
}
func (h *cborHome) User(ctx context.Context, u core.UserURI) (wire.User, error) {
	return ask[wire.User](ctx, h, "GET", "/v1/users/"+url.PathEscape(string(u)), nil)
}
func (h *cborHome) Homeserver(ctx context.Context, domain string) (wire.Homeserver, error) {
	return ask[wire.Homeserver](ctx, h, "GET", "/v1/homeservers/"+domain, nil)
}
func (h *cborHome) PutKeyPackages(ctx context.Context, r wire.PutKeyPackages) (wire.KeyPackages, error) {
	return ask[wire.KeyPackages](ctx, h, "PUT", "/v1/key-packages", r)
}
func (h *cborHome) KeyPackages(ctx context.Context) (wire.KeyPackages, error) {
	return ask[wire.KeyPackages](ctx, h, "GET", "/v1/key-packages", nil)
}
func (h *cborHome) Claim(ctx context.Context, r wire.Claim) (wire.Claims, error) {
	return ask[wire.Claims](ctx, h, "POST", "/v1/key-packages/claim", r)
}
func (h *cborHome) CreateRoom(ctx context.Context, r wire.CreateRoom) (wire.Room, error) {
	return ask[wire.Room](ctx, h, "POST", "/v1/rooms", r)
}
func (h *cborHome) Rooms(ctx context.Context) (wire.Rooms, error) {
	return ask[wire.Rooms](ctx, h, "GET", "/v1/rooms", nil)
}
func (h *cborHome) Room(ctx context.Context, room core.RoomID) (wire.Room, error) {
	return ask[wire.Room](ctx, h, "GET", roomPath(room, ""), nil)
}
func (h *cborHome) Send(ctx context.Context, room core.RoomID, r wire.Send) (wire.Sent, error) {
	return ask[wire.Sent](ctx, h, "POST", roomPath(room, "/messages"), r)
}
func (h *cborHome) Handshake(ctx context.Context, room core.RoomID, r wire.Handshake) (wire.Decided, error) {
	return ask[wire.Decided](ctx, h, "POST", roomPath(room, "/handshakes"), r)
}
func (h *cborHome) GroupInfo(ctx context.Context, room core.RoomID, r wire.GetGroupInfo) (wire.GroupInfo, error) {
	return ask[wire.GroupInfo](ctx, h, "POST", roomPath(room, "/group-info"), r)
}
func (h *cborHome) Tree(ctx context.Context, room core.RoomID, epoch uint64) (wire.Tree, error) {
	return ask[wire.Tree](ctx, h, "GET", roomPath(room, "/tree?epoch="+strconv.FormatUint(epoch, 10)), nil)
}
func (h *cborHome) Certificates(ctx context.Context, room core.RoomID, epoch uint64) (wire.Certificates, error) {
	return ask[wire.Certificates](ctx, h, "GET", roomPath(room, "/certificates?epoch="+strconv.FormatUint(epoch, 10)), nil)
}
func (h *cborHome) PutJoinCode(ctx context.Context, room core.RoomID, r wire.JoinCode) (wire.JoinCode, error) {
	return ask[wire.JoinCode](ctx, h, "POST", roomPath(room, "/join-codes"), r)
}
func (h *cborHome) DropJoinCode(ctx context.Context, room core.RoomID, r wire.JoinCode) error {
	_, err := ask[nothing](ctx, h, "DELETE", roomPath(room, "/join-codes"), r)
	return err
}
func (h *cborHome) Sync(ctx context.Context, r wire.GetSync) (wire.Sync, error) {
	return ask[wire.Sync](ctx, h, "POST", "/v1/sync", r)
}
func (h *cborHome) History(ctx context.Context, room core.RoomID, before uint64, limit int) (wire.History, error) {
	return ask[wire.History](ctx, h, "GET", roomPath(room, fmt.Sprintf("/history?before=%d&limit=%d", before, limit)), nil)
}
func (h *cborHome) PutInbox(ctx context.Context, u core.UserURI, r wire.PutInbox) error {
	_, err := ask[nothing](ctx, h, "POST", "/v1/inbox/"+url.PathEscape(string(u)), r)
	return err
}
func (h *cborHome) Typing(ctx context.Context, r wire.Typing) error {
	_, err := ask[nothing](ctx, h, "POST", roomPath(r.Room, "/typing"), r)
	return err
}

// A phone is a real device: its half of the protocol, with a store of its own.
type phone struct {
	*client.Client
	t    testing.TB
	home *cborHome
	news []client.Update
}

func (h *apiHouse) phone(user, name string, how client.Registration) *phone {
	h.t.Helper()
	ctx := context.Background()
	db, err := store.Open(ctx, store.Options{URL: "sqlite:" + filepath.Join(h.t.TempDir(), "chat.db"), Homeserver: apiDomain})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { db.Close() })
	key := sha256.Sum256([]byte(user + name))
	kv, err := client.Seal(ctx, db, client.Secret{Key: key[:]}, rand.Reader)
	if err != nil {
		h.t.Fatal(err)
	}
	p := &phone{t: h.t, home: &cborHome{h: h}}
	p.Client, err = client.Open(ctx, client.Config{Store: kv, Home: p.home, Rand: rand.Reader, Now: time.Now, Packages: 8,
		Wait: func(ctx context.Context, d time.Duration) error {
			time.Sleep(min(d, 50*time.Millisecond))
			return ctx.Err()
		}})
	if err == nil {
		_, err = p.Prepare(ctx, core.NewUserURI(apiDomain, user), name)
	}
	if err == nil && how.Sponsor == "" {
		err = p.Register(ctx, how)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// sync takes what is new, waiting for it if asked to.
func (p *phone) sync(wait time.Duration) {
	p.t.Helper()
	for range 20 {
		news, err := p.Sync(context.Background(), wait)
		if err != nil {
			p.t.Fatal(err)
		}
		p.news = append(p.news, news...)
		if len(news) == 0 {
			return
		}
		wait = 0
	}
}

func (p *phone) heard(room core.RoomID) string {
	p.t.Helper()
	p.sync(0)
	var out []string
	for _, u := range p.news {
		if u.Message != nil && u.Room == room && u.Message.Failed == "" {
			out = append(out, string(u.Message.Content))
		}
	}
	return strings.Join(out, " ")
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Devices talk in a Group over the device API: Welcomes, messages, commits with
// their certificates, removal.
func TestAPIGroup(t *testing.T) {
	h := openAPI(t, nil)
	ctx := context.Background()
	alice, bob := h.phone("alice", "laptop", client.Registration{}), h.phone("bob", "phone", client.Registration{})
	alice.sync(0)
	bob.sync(0)
	room, err := alice.Create(ctx, client.NewRoom{Name: "Kitchen"})
	must(t, err)
	invited, err := alice.Invite(ctx, room, bob.User())
	must(t, err)
	if len(invited) != 1 || invited[0].Status != core.Claimed || invited[0].Devices != 1 {
		t.Fatalf("invited %+v", invited)
	}
	_, err = alice.Send(ctx, room, "text/plain", []byte("hello"))
	must(t, err)
	bob.sync(5 * time.Second)
	if got := bob.heard(room); got != "hello" {
		t.Fatalf("bob hears %q; news %+v", got, bob.news)
	}
	_, err = bob.Send(ctx, room, "text/plain", []byte("hi"))
	must(t, err)
	alice.sync(5 * time.Second)
	if got := alice.heard(room); !strings.Contains(got, "hi") {
		t.Errorf("alice hears %q", got)
	}
	var shown wire.Room
	shown, err = bob.home.Room(ctx, room)
	must(t, err)
	if !shown.Encrypted || !shown.Joined || len(shown.Members) != 2 || shown.Epoch == 0 || len(shown.Authority) != 1 || shown.Domain == nil {
		t.Errorf("bob is shown %+v", shown)
	}
	hist, err := bob.home.History(ctx, room, 0, 100)
	must(t, err)
	certified := 0
	for _, e := range hist.Events {
		if e.Certificate != nil {
			certified++
		}
		if e.Sealed == nil || e.Text != "" || e.Content != nil {
			t.Errorf("an event of a Group is shown as %+v", e)
		}
	}
	if certified == 0 {
		t.Error("no commit has a certificate")
	}

	// Removal counts at once, for the log as for the keys.
	must(t, alice.Remove(ctx, room, bob.User()))
	bob.sync(0)
	if _, err := bob.home.History(ctx, room, 0, 10); core.CodeOf(err) != core.NotFound {
		t.Errorf("who was removed reads: %v", err)
	}
	if _, err := bob.home.Tree(ctx, room, shown.Epoch); core.CodeOf(err) != core.NotFound {
		t.Errorf("who was removed is given the tree: %v", err)
	}
}

// A second device joins by an external commit, with a lease on the GroupInfo.
func TestAPIGroupExternalJoin(t *testing.T) {
	h := openAPI(t, nil)
	ctx := context.Background()
	alice := h.phone("alice", "laptop", client.Registration{})
	room, err := alice.Create(ctx, client.NewRoom{Name: "Mine"})
	must(t, err)
	second := h.phone("alice", "phone", client.Registration{Sponsor: alice.Device()})
	record, err := second.Prepare(ctx, alice.User(), "phone", alice.Device().ID())
	must(t, err)
	approval, err := alice.Approve(ctx, record)
	must(t, err)
	must(t, second.Register(ctx, client.Registration{Sponsor: alice.Device(), Approval: approval}))
	second.sync(0)
	must(t, second.Tend(ctx))
	alice.sync(0)
	must(t, alice.Tend(ctx))
	if err := second.Join(ctx, room, ""); err != nil && core.CodeOf(err) != core.Conflict {
		t.Fatal(err)
	}
	alice.sync(0)
	_, err = alice.Send(ctx, room, "text/plain", []byte("to both"))
	must(t, err)
	second.sync(5 * time.Second)
	if got := second.heard(room); got != "to both" {
		t.Errorf("the second device hears %q; news %+v", got, second.news)
	}
}

// Devices that change a room at the same moment all get their change in, by the
// answer of the race that they lost.
func TestAPIGroupRace(t *testing.T) {
	h := openAPI(t, nil)
	ctx := context.Background()
	const n = 4
	phones := make([]*phone, n)
	for i := range phones {
		phones[i] = h.phone(fmt.Sprintf("user%d", i), "phone", client.Registration{})
		phones[i].sync(0)
	}
	room, err := phones[0].Create(ctx, client.NewRoom{Name: "Race"})
	must(t, err)
	for _, p := range phones[1:] {
		_, err := phones[0].Invite(ctx, room, p.User())
		must(t, err)
		p.sync(5 * time.Second)
	}
	for _, p := range phones {
		p.sync(0)
	}
	errs := make(chan error, n)
	for _, p := range phones {
		go func() { errs <- p.Renew(ctx, room) }()
	}
	for range phones {
		must(t, <-errs)
	}
	shown, err := phones[0].home.Room(ctx, room)
	must(t, err)
	for _, p := range phones {
		p.sync(0)
		s, err := p.State(ctx, room)
		must(t, err)
		if s.Epoch != shown.Epoch {
			t.Errorf("a device is in epoch %d of %d", s.Epoch, shown.Epoch)
		}
	}
}

func TestJoins(t *testing.T) {
	var j joins
	who, now := joining{"mimi://b.example/r/x", "mimi://a.example/d/y"}, time.Unix(1000, 0)
	j.lent(who, "b.example", now)
	if got := j.lender(who, now); got != "b.example" {
		t.Errorf("lent by %q", got)
	}
	if got := j.lender(who, now.Add(2*leaseKept)); got != "" {
		t.Errorf("lent long ago by %q", got)
	}
	j.done(who)
	if got := j.lender(who, now); got != "" {
		t.Errorf("lent, and used, by %q", got)
	}
	for i := range 2 * maxJoins {
		j.lent(joining{core.RoomID(fmt.Sprint(i)), ""}, "b.example", now)
	}
	if len(j.by) != maxJoins {
		t.Errorf("%d leases are remembered", len(j.by))
	}
}

// Whom a device's homeserver asks about a room: itself only while it is part of it.
func TestAPIHomes(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.phone("alice", "laptop", client.Registration{})
	room, err := alice.Create(context.Background(), client.NewRoom{Name: "Mine"})
	must(t, err)
	for _, c := range []struct {
		room core.RoomID
		want string
	}{{room, "a.example"}, {core.NewRoomID("b.example", "x"), "b.example"}, {core.NewRoomID(apiDomain, "none"), ""}} {
		homes, err := h.bridge.api.homes(context.Background(), c.room)
		if got := strings.Join(homes, " "); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v", c.room, got, err)
		}
	}
}

func TestAPIGroupRefusals(t *testing.T) {
	h := openAPI(t, nil)
	ctx := context.Background()
	alice := h.phone("alice", "laptop", client.Registration{})
	room, err := alice.Create(ctx, client.NewRoom{Name: "Closed"})
	must(t, err)
	mallory := h.member("mallory")
	mallory.refused(core.NotFound, "GET", roomPath(room, ""), nil)
	mallory.refused(core.NotFound, "GET", roomPath(room, "/tree?epoch=0"), nil)
	mallory.refused(core.Unsupported, "POST", roomPath(room, "/join"), nil)
	mallory.refused(core.Invalid, "POST", roomPath(room, "/group-info"), wire.GetGroupInfo{Key: []byte("short")})
	mallory.refused(core.Invalid, "POST", roomPath(room, "/handshakes"), wire.Handshake{Message: []byte("noise")})
	mallory.refused(core.NotFound, "POST", roomPath(core.NewRoomID(apiDomain, "none"), "/handshakes"), wire.Handshake{Message: []byte("noise")})
	mallory.refused(core.Unavailable, "POST", roomPath(core.NewRoomID("b.example", "far"), "/handshakes"), wire.Handshake{Message: []byte("noise")})
	mallory.refused(core.Unavailable, "POST", roomPath(core.NewRoomID("b.example", "far"), "/group-info"), wire.GetGroupInfo{Key: make([]byte, 32)})
	mallory.refused(core.Invalid, "PUT", "/v1/key-packages", wire.PutKeyPackages{Packages: [][]byte{[]byte("noise")}})
	mallory.refused(core.Invalid, "POST", "/v1/key-packages/claim", wire.Claim{})
	var claims wire.Claims
	far := core.NewUserURI("b.example", "bob")
	mallory.must(200, "POST", "/v1/key-packages/claim", wire.Claim{Users: []core.UserURI{alice.User(), far}, Suites: []uint16{1}}, &claims)
	if len(claims.Claims) != 2 || claims.Claims[0].Status != core.Claimed || claims.Claims[1].Status != core.Unreachable {
		t.Errorf("claimed %+v", claims.Claims)
	}
	mallory.refused(core.Invalid, "POST", roomPath(room, "/messages"), wire.Send{Messages: []wire.Message{{Sealed: []byte("noise")}}})
	h.carol().refused(core.Denied, "POST", "/v1/rooms", wire.CreateRoom{Kind: "group", Name: "x"})
}
