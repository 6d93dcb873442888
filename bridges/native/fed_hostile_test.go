package native

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A visitor is somebody who connects to a homeserver with a certificate of their own.
type visitor struct {
	testing.TB
	*http.Client
	at, from string
}

func (h *fedHome) visitor(ca *authority, from string, names ...string) *visitor {
	cert, key := ca.issue(fmt.Sprint("visitor", time.Now().UnixNano()), names...)
	k, err := newKeyring(cert, key, h.ca.file())
	if err != nil {
		h.Fatal(err)
	}
	t := &http.Transport{TLSClientConfig: k.client(h.domain), Protocols: new(http.Protocols)}
	t.Protocols.SetHTTP2(true)
	if names == nil {
		t.TLSClientConfig.GetClientCertificate = nil
	}
	h.Cleanup(t.CloseIdleConnections)
	return &visitor{h, &http.Client{Transport: t}, h.config.Address, from}
}

// ask sends a body, or a value as CBOR, and returns the answer's status and the code
// of its refusal.
func (v *visitor) ask(method, path string, body any) (status int, code string, answer []byte) {
	v.Helper()
	text, ok := body.([]byte)
	if !ok && body != nil {
		text, _ = cborOut.Marshal(body)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	q, err := http.NewRequestWithContext(ctx, method, "https://"+v.at+path, bytes.NewReader(text))
	if err != nil {
		v.Fatal(err)
	}
	if v.from != "" {
		q.Header.Set("From", v.from)
	}
	a, err := v.Do(q)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer a.Body.Close()
	if answer, err = io.ReadAll(a.Body); err != nil {
		v.Fatal(err)
	}
	var e wire.Error
	if a.StatusCode/100 != 2 {
		if err := cborIn.Unmarshal(answer, &e); err != nil && path != DirectoryPath {
			v.Fatalf("%s %s: %d without an error: %q", method, path, a.StatusCode, answer)
		}
	}
	return a.StatusCode, e.Code, answer
}

func TestFederationKnowsWhoAsks(t *testing.T) {
	h := newFed(t, "a.example")[0]
	h.bridge.fed.fc.Blocked = func(d string) bool { return d == "blocked.example" }
	other := newAuthority(t)
	for _, c := range []struct {
		name string
		v    *visitor
		want string
	}{
		{"a homeserver", h.visitor(h.ca, "mimi@b.example", "b.example"), ""},
		{"a certificate alone", h.visitor(h.ca, "", "b.example"), ""},
		{"one of two names", h.visitor(h.ca, "mimi@c.example", "b.example", "c.example"), ""},
		{"with a port", h.visitor(h.ca, "mimi@b.example:7001", "b.example"), ""},
		{"no certificate", h.visitor(h.ca, "mimi@b.example"), "unauthenticated"},
		{"somebody else's name", h.visitor(h.ca, "mimi@c.example", "b.example"), "unauthenticated"},
		{"two names and no word", h.visitor(h.ca, "", "b.example", "c.example"), "unauthenticated"},
		{"a wildcard", h.visitor(h.ca, "mimi@b.example", "*.example"), "unauthenticated"},
		{"a person", h.visitor(h.ca, "alice@b.example", "b.example"), "unauthenticated"},
		{"in capitals", h.visitor(h.ca, "mimi@B.example", "b.example"), "unauthenticated"},
		{"ourselves", h.visitor(h.ca, "mimi@a.example", "a.example"), "invalid"},
		{"blocked", h.visitor(h.ca, "mimi@blocked.example", "blocked.example"), "denied"},
	} {
		status, code, _ := c.v.ask("POST", wire.PeerPath+"records", wire.PeerRecords{})
		if code != c.want || status == 0 {
			t.Errorf("%s: %d %q, want %q", c.name, status, code, c.want)
		}
	}
	stranger := h.visitor(other, "mimi@b.example", "b.example")
	if status, _, _ := stranger.ask("POST", wire.PeerPath+"records", wire.PeerRecords{}); status != 0 {
		t.Errorf("a certificate of nobody we believe: %d", status)
	}
}

func TestFederationRefuses(t *testing.T) {
	h := newFed(t, "a.example")[0]
	room := fedRoom("r", h)
	v := h.visitor(h.ca, "mimi@b.example", "b.example")
	bob, alice := core.UserURI("mimi://b.example/u/bob"), core.UserURI("mimi://a.example/u/alice")
	for _, c := range []struct {
		name, method, path string
		body               any
		status             int
		code               string
	}{
		{"a path that is none", "POST", "xyz", nil, 404, "not found"},
		{"another method", "GET", "raft", nil, 501, "unsupported"},
		{"no CBOR", "POST", "raft", []byte("{}"), 400, "invalid"},
		{"a room that is none", "POST", "raft", wire.Raft{Messages: []core.PeerMessage{{Room: "x"}}}, 400, "invalid"},
		{"too many messages", "POST", "raft", wire.Raft{Messages: make([]core.PeerMessage, maxAgree+1)}, 413, "too large"},
		{"events of a stranger", "POST", "events", wire.Events{}, 403, "denied"},
		{"catch-up of a stranger", "GET", "events/" + url.PathEscape(string(room)), nil, 403, "denied"},
		{"a claim for nobody", "POST", "key-packages/claim", wire.PeerClaim{By: bob}, 400, "invalid"},
		{"a claim in another's name", "POST", "key-packages/claim", wire.PeerClaim{By: "mimi://c.example/u/x", Users: []core.UserURI{alice}}, 403, "denied"},
		{"a claim of another's user", "POST", "key-packages/claim", wire.PeerClaim{By: bob, Users: []core.UserURI{bob}}, 404, "not found"},
		{"too many records", "POST", "records", wire.PeerRecords{Users: make([]core.UserURI, maxRecordsUsers+1)}, 413, "too large"},
		{"a letter in another's name", "POST", "inbox", wire.PeerInbox{From: alice}, 403, "denied"},
		{"no letters", "POST", "inbox", wire.PeerInbox{From: bob}, 400, "invalid"},
		{"a letter for another's device", "POST", "inbox", wire.PeerInbox{From: bob, Letters: []wire.SealedLetter{
			{Device: "mimi://c.example/d/x", KEM: []byte("k"), Ciphertext: make([]byte, 256+aeadTag)}}}, 404, "not found"},
		{"group info for another", "POST", "group-info", wire.PeerGroupInfo{Room: room, User: alice}, 403, "denied"},
		{"group info without a key", "POST", "group-info", wire.PeerGroupInfo{Room: room, User: bob, By: "mimi://b.example/d/x"}, 400, "invalid"},
		{"another's handshake", "POST", "handshakes", wire.PeerHandshake{Room: room, By: "mimi://c.example/d/x"}, 403, "denied"},
		{"too large for a stranger", "POST", "welcome", make([]byte, strangersBody+1), 413, "too large"},
	} {
		status, code, _ := v.ask(c.method, wire.PeerPath+c.path, c.body)
		if status != c.status || code != c.code {
			t.Errorf("%s: %d %q, want %d %q", c.name, status, code, c.status, c.code)
		}
		h.bridge.fed.guests.mu.Lock()
		if used := h.bridge.fed.guests.bodies.total(); used != 0 {
			t.Errorf("%s: %d octets are still counted", c.name, used)
		}
		delete(h.bridge.fed.guests.all, "b.example") // each case has a rate of its own
		h.bridge.fed.guests.mu.Unlock()
	}
}

func TestFederationCatchUp(t *testing.T) {
	h := newFed(t, "a.example", "b.example")
	a := h[0]
	room := fedRoom("r", h...)
	a.send(room, spoken("said", 10)...)
	h[1].send(room, "not ours")
	until(t, "the other's", a.has(room, "b.example", []string{"not ours"}))
	a.send(room, "last")
	v := a.visitor(a.ca, "mimi@b.example", "b.example")
	get := func(query string) (r wire.RoomEvents) {
		status, code, b := v.ask("GET", wire.PeerPath+"events/"+url.PathEscape(string(room))+query, nil)
		if status != 200 {
			t.Fatalf("%d %s", status, code)
		}
		if err := cborIn.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		return r
	}
	all := get("?origin=a.example")
	if len(all.Events) != 11 || all.Events[0].Prev != 0 || string(all.Events[10].Message) != "last" || all.Events[10].Prev != 10 || all.Room != room {
		t.Errorf("%d events: %+v", len(all.Events), all)
	}
	part := get("?from=3&limit=2")
	if len(part.Events) != 2 || part.Events[0].Seq != 4 || part.Events[0].Prev != 3 || part.Events[1].Seq != 5 {
		t.Errorf("a part: %+v", part)
	}
	for query, want := range map[string]string{"?origin=c.example": "not found", "?from=x": "invalid"} {
		if _, code, _ := v.ask("GET", wire.PeerPath+"events/"+url.PathEscape(string(room))+query, nil); code != want {
			t.Errorf("%s: %q, want %q", query, code, want)
		}
	}
	alone := fedRoom("alone", a)
	if _, code, _ := v.ask("GET", wire.PeerPath+"events/"+url.PathEscape(string(alone)), nil); code != "not found" {
		t.Errorf("a room that the peer is not in: %q", code)
	}
}

func TestFederationLimits(t *testing.T) {
	now := time.Unix(1e9, 0)
	g := newGuests(FederationLimits{Requests: 100, Parallel: 3, Memory: 100}, func() time.Time { return now })
	var done []func()
	for range 3 {
		d, err := g.admit("b.example", true)
		if err != nil {
			t.Fatal(err)
		}
		done = append(done, d)
	}
	if _, err := g.admit("b.example", true); core.CodeOf(err) != core.Limited {
		t.Errorf("the fourth at a time: %v", err)
	}
	for _, d := range done {
		d()
	}
	admitted := 0
	for range 500 {
		if d, err := g.admit("c.example", false); err == nil {
			admitted++
			d()
		}
	}
	if admitted != 4 { // twice a fiftieth of 100
		t.Errorf("a stranger was admitted %d times", admitted)
	}
	for i := range maxGuests {
		if d, err := g.admit(fmt.Sprint("x", i), false); err == nil {
			d()
		}
	}
	if _, err := g.admit("one.more", true); core.CodeOf(err) != core.Limited || len(g.all) > maxGuests {
		t.Errorf("one more guest than fits: %v", err)
	}
	now = now.Add(time.Minute)
	if _, err := g.admit("one.more", true); err != nil || len(g.all) > 2 {
		t.Errorf("after a while: %v, %d are remembered", err, len(g.all))
	}
	_, free, err := g.read(nil, &http.Request{ContentLength: 150, Body: io.NopCloser(strings.NewReader(strings.Repeat("x", 150)))}, "b.example", 200)
	if err != nil {
		t.Fatal(err) // a lone request is read even if it alone is over the budget
	}
	if _, _, err := g.read(nil, &http.Request{ContentLength: 10}, "c.example", 200); core.CodeOf(err) != core.Unavailable {
		t.Errorf("over the budget: %v", err)
	}
	free()
	if n := g.bodies.total(); n != 0 {
		t.Errorf("%d octets are still counted", n)
	}
}

// liar serves as domain what its handler says.
func liar(t *testing.T, ca *authority, domain string, handler http.HandlerFunc) (address string) {
	cert, key := ca.issue("liar", domain)
	k, err := newKeyring(cert, key, ca.file())
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", k.server())
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: handler}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return l.Addr().String()
}

func TestFederationSurvivesALiar(t *testing.T) {
	h := newFed(t, "a.example")[0]
	answers := make(chan []byte, 8)
	asked := make(chan struct{}, 100)
	at := liar(t, h.ca, "liar.example", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if !strings.HasSuffix(r.URL.Path, "/events") {
			w.Write([]byte("nonsense"))
			return
		}
		asked <- struct{}{}
		w.Write(<-answers)
	})
	h.bridge.fed.addresses.fix("liar.example", at)
	room := core.NewRoomID("a.example", "r")
	stored := func(rs ...wire.RoomStored) []byte {
		b, err := cborOut.Marshal(wire.Stored{Rooms: rs})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, a := range [][]byte{[]byte("nonsense"), stored(), stored(wire.RoomStored{Room: "mimi://x.example/r/y"}), stored(wire.RoomStored{Room: room, Code: "no such code"})} {
		answers <- a
	}
	head, err := cborOut.Marshal(core.GroupHead{Domains: []string{"a.example", "liar.example"}})
	if err != nil {
		t.Fatal(err)
	}
	h.do(core.PutValue{Bucket: "group", Key: core.RoomKey(room), Data: head})
	h.do(core.CreateRoom{Room: core.Room{ID: room, Kind: core.Group}})
	h.send(room, "one", "two")
	for range 4 {
		<-asked
		if err := h.bridge.RetryPeer("liar.example"); err != nil {
			t.Fatal(err)
		}
	}
	answers <- stored(wire.RoomStored{Room: room, Seq: 1 << 60})
	until(t, "the liar to be taken at its word", func() bool { p := h.bridge.Peers(); return p[0].Waiting == 0 && p[0].Rooms == 1 })
	until(t, "a position within our log", func() bool {
		var at uint64
		if err := h.View(context.Background(), func(r core.Reader) (err error) {
			at, err = core.PeerPosition(r, "liar.example", room)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return at == 2
	})
	if _, err := h.bridge.fed.claim(context.Background(), "liar.example", wire.PeerClaim{}); core.CodeOf(err) != core.Unavailable {
		t.Errorf("nonsense for key packages: %v", err)
	}
}

// What a homeserver says of itself is believed once. Keys that do not follow from
// those are refused, and kept for the operator; of a third they are not believed.
func TestFederationPinsKeys(t *testing.T) {
	h := newFed(t, "a.example")[0]
	record := func(domain, owner string) []byte {
		seed := sha256.Sum256([]byte(owner))
		key := ed25519.NewKeyFromSeed(seed[:])
		rec, err := identity.SignHomeserver(key, identity.HomeserverRecord{Version: 1, Domain: domain,
			Keys: []identity.HomeserverKey{{Key: key.Public().(ed25519.PublicKey), NotAfter: 1 << 40}}})
		if err != nil {
			t.Fatal(err)
		}
		return rec.Encode()
	}
	var answer wire.PeerRecordsAnswer
	h.bridge.fed.addresses.fix("b.example", liar(t, h.ca, "b.example", func(w http.ResponseWriter, _ *http.Request) {
		write(w, typeCBOR, 200, answer)
	}))
	serve := func(hs ...wire.Homeserver) error {
		answer.Homeservers = hs
		return h.bridge.fed.fetch(context.Background(), "b.example")
	}
	b := wire.Homeserver{Domain: "b.example", Records: [][]byte{record("b.example", "b")}}
	if err := serve(b, wire.Homeserver{Domain: "c.example", Records: [][]byte{record("c.example", "b")}}); err != nil {
		t.Fatal(err)
	}
	for _, again := range []wire.Homeserver{{Domain: "b.example", Records: [][]byte{record("b.example", "thief")}}, b} {
		if err := serve(again); (core.CodeOf(err) == core.Denied) != (string(again.Records[0]) != string(b.Records[0])) {
			t.Errorf("keys served anew: %v", err)
		}
	}
	err := h.View(context.Background(), func(r core.Reader) error {
		pinned, err := core.HomeserverOf(r, "b.example")
		if err != nil || !bytes.Equal(pinned.Head().Encode(), b.Records[0]) {
			t.Errorf("pinned %v, %v", pinned.Head(), err)
		}
		if _, err := core.HomeserverOf(r, "c.example"); core.CodeOf(err) != core.NotFound {
			t.Errorf("keys of a third: %v", err)
		}
		alarms, err := core.AlarmsOf(r, "", 10)
		if len(alarms) != 1 || alarms[0].Key != "b.example" {
			t.Errorf("alarms: %v", alarms)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestFederationObeysRetryAfter(t *testing.T) {
	h := newFed(t, "a.example")[0]
	h.bridge.fed.addresses.fix("b.example", liar(t, h.ca, "b.example", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "77")
		write(w, typeCBOR, 429, wire.Error{Code: "limited"})
	}))
	err := h.bridge.fed.inbox(context.Background(), "b.example", wire.PeerInbox{})
	if core.CodeOf(err) != core.Limited {
		t.Fatal(err)
	}
	p := h.bridge.Peers()
	if len(p) != 1 || p[0].Failures == 0 || time.Until(p[0].Next) < 70*time.Second || time.Until(p[0].Next) > 80*time.Second {
		t.Errorf("%+v", p)
	}
}

func TestFederationFindsHomeservers(t *testing.T) {
	ca := newAuthority(t)
	hs := newFed(t, "a.example")
	h := hs[0]
	documents := map[string]string{}
	at := liar(t, h.ca, "localhost", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, documents[r.URL.Path]) })
	_, port, _ := net.SplitHostPort(at)
	domain := "localhost:" + port
	for text, want := range map[string]core.Code{
		`{}`: core.NotFound, `x`: core.NotFound, `{"isthmus": {"version": 2, "base": "https://h"}}`: core.Unsupported,
		`{"isthmus": {"version": 1, "base": "http://h"}}`: core.NotFound,
	} {
		documents[DirectoryPath] = text
		if at := h.bridge.fed.addresses.look(context.Background(), domain); core.CodeOf(at.err) != want {
			t.Errorf("%s: %v", text, at.err)
		}
	}
	documents[DirectoryPath] = `{"keyMaterial": "https://h/{x}", "isthmus": {"version": 1, "base": "https://fed.example:8448/a/"}}`
	got, err := h.bridge.fed.addresses.of(context.Background(), domain)
	if err != nil || got.host != "fed.example:8448" || got.path != "/a" {
		t.Errorf("%+v %v", got, err)
	}
	documents[DirectoryPath] = "x" // the first answer is kept
	if again, err := h.bridge.fed.addresses.of(context.Background(), domain); err != nil || again.host != got.host {
		t.Errorf("%+v %v", again, err)
	}
	if _, err := h.bridge.fed.addresses.of(context.Background(), "localhost:1"); core.CodeOf(err) != core.Unavailable {
		t.Errorf("nobody there: %v", err)
	}
	v := h.visitor(ca, "") // without a certificate
	if status, _, b := v.ask("GET", DirectoryPath, nil); status != 200 || !bytes.Contains(b, []byte(h.bridge.fed.fc.Base)) {
		t.Errorf("our directory: %d %s", status, b)
	}
	if status, _, _ := v.ask("POST", DirectoryPath, nil); status != 405 {
		t.Errorf("POST to our directory: %d", status)
	}
}

func TestFederationCertificates(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue("a", "a.example")
	if _, err := newKeyring(cert, key, key); core.CodeOf(err) != core.Invalid {
		t.Errorf("a key for an authority: %v", err)
	}
	if _, err := newKeyring(cert, cert, ca.file()); core.CodeOf(err) != core.Invalid {
		t.Errorf("a certificate for a key: %v", err)
	}
	k, err := newKeyring(cert, key, ca.file())
	if err != nil {
		t.Fatal(err)
	}
	before := k.now.Load()
	if err := os.WriteFile(cert, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := k.load(); err == nil || k.now.Load() != before {
		t.Errorf("a broken file took the place of a good one: %v", err)
	}
	if _, err := New(Config{Domain: "a.example", Federation: FederationConfig{Address: "127.0.0.1:0"}}); core.CodeOf(err) != core.Invalid {
		t.Errorf("no certificate: %v", err)
	}
}

func TestCheckDomain(t *testing.T) {
	got := map[string]bool{}
	for _, d := range []string{"a.example", "localhost", "localhost:8448", "xn--a.b-c.example", "127.0.0.1", "[::1]", "::1", "", ".", "a..b", "-a.b", "a-.b", "A.b", "a_b.c",
		"a.b:", "a.b:0x1", "a.b:99999", "a.b:080", "a.b/c", "a b", strings.Repeat("a", 64) + ".b", strings.Repeat("a.", 200) + "b"} {
		if checkDomain(d) == nil {
			got[d] = true
		}
	}
	want := map[string]bool{"a.example": true, "localhost": true, "localhost:8448": true, "xn--a.b-c.example": true}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func FuzzParseDirectory(f *testing.F) {
	f.Add([]byte(`{"isthmus": {"version": 1, "base": "https://fed.example:8448/a/"}}`))
	f.Add([]byte(`{"isthmus": {"version": 1, "base": "https://u:p@[::1]/%2f?x#y"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		host, path, err := parseDirectory(b)
		if err != nil {
			return
		}
		if _, _, err := net.SplitHostPort(host); err != nil {
			t.Errorf("%q: %v", host, err)
		}
		if _, err := http.NewRequest("POST", "https://a.example"+path+wire.PeerPath+"raft", nil); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	})
}
