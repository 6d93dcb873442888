package native

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

func TestAPIErrorCodes(t *testing.T) {
	for _, code := range core.Codes() {
		status := statusOf(code)
		if status < 400 || (status == http.StatusInternalServerError) != (code == core.Internal) {
			t.Errorf("%v is %d", code, status)
		}
		e := wireError(&core.Error{Code: code, Reason: core.Full, Text: "why", RetryAfter: 1500 * time.Millisecond, Err: errors.New("secret")})
		if e.Code != code.String() || e.RetryAfter != 1500 || strings.Contains(e.Text, "secret") || code == core.Internal && e.Text == "why" {
			t.Errorf("%v is said as %+v", code, e)
		}
	}
	e := wireError(&stale{core.Errorf(core.StaleEpoch, "too late"), 7, []byte("commit")})
	if e.Code != "stale epoch" || e.Epoch != 7 || string(e.Winner) != "commit" {
		t.Errorf("a lost race is said as %+v", e)
	}
}

func TestAPIRegistration(t *testing.T) {
	token := ""
	h := openAPI(t, func(c *APIConfig) { c.Registration, c.Token = RegistrationToken, "let me in" })
	alice := h.newDevice("alice", "1")
	register := func(c *apiClient) wire.RegisterDevice {
		return wire.RegisterDevice{Record: c.record.Encode(), Token: token}
	}
	alice.refused(core.Denied, "POST", "/v1/devices", register(alice))
	token = "let me in"
	var d wire.Device
	alice.must(200, "POST", "/v1/devices", register(alice), &d)
	if d.Device != alice.device || d.User != alice.user || d.Name != "laptop" {
		t.Errorf("registered as %+v", d)
	}
	att, err := identity.ParseAttestation(d.Proof.Attestation)
	if err != nil || att.User != string(alice.user) || time.Unix(att.NotAfter, 0).Before(time.Now().Add(90*24*time.Hour)) {
		t.Errorf("attested as %+v (%v)", att, err)
	}
	alice.open()

	// The name is taken: by no token does another come in.
	second := h.newDevice("alice", "2")
	second.refused(core.Conflict, "POST", "/v1/devices", register(second))
	approve := register(second)
	approve.Sponsor, approve.Approval = alice.device, approval(second, second)
	second.refused(core.Denied, "POST", "/v1/devices", approve)
	approve.Approval = approval(alice, second)
	second.must(200, "POST", "/v1/devices", approve, nil)

	// An account's password is as good, for its own user.
	carol := h.newDevice("carol", "3")
	in := register(carol)
	in.Password = "wrong"
	carol.refused(core.Unauthenticated, "POST", "/v1/devices", in)
	in.Password = "correct"
	carol.must(200, "POST", "/v1/devices", in, nil)
	dave := h.newDevice("dave", "4")
	in.Record = dave.record.Encode()
	dave.refused(core.Unauthenticated, "POST", "/v1/devices", in)

	upper := h.newDevice("Eve/x", "5")
	upper.refused(core.Denied, "POST", "/v1/devices", wire.RegisterDevice{Record: upper.record.Encode()})
	upper.refused(core.Invalid, "POST", "/v1/devices", wire.RegisterDevice{Record: []byte("no record")})

	var u wire.User
	alice.must(200, "GET", "/v1/devices", nil, &u)
	if len(u.Devices) != 2 {
		t.Errorf("alice has %d devices", len(u.Devices))
	}
	alice.must(200, "GET", "/v1/users/alice", nil, &u)
	if len(u.Devices) != 2 {
		t.Errorf("alice is shown with %d devices", len(u.Devices))
	}
	alice.refused(core.NotFound, "GET", "/v1/users/nobody", nil)
}

// approval is what one device signs for another.
func approval(by, of *apiClient) []byte {
	return identity.Sign(by.key, labelApproval, of.record.Encode())
}

func TestAPIRegistrationClosed(t *testing.T) {
	h := openAPI(t, func(c *APIConfig) { c.Registration = RegistrationClosed })
	alice := h.newDevice("alice", "1")
	alice.refused(core.Denied, "POST", "/v1/devices", wire.RegisterDevice{Record: alice.record.Encode(), Token: "any"})
}

func TestAPISessions(t *testing.T) {
	h := openAPI(t, nil)
	alice, bob := h.member("alice"), h.member("bob")
	h.stranger().refused(core.Unauthenticated, "GET", "/v1/rooms", nil)
	for _, auth := range []string{"Bearer", "Bearer nonsense", "Basic ???", "Negotiate x", alice.auth + "x", "Bearer " + strings.Repeat("x", 1000)} {
		(&apiClient{h: h, auth: auth}).refused(core.Unauthenticated, "GET", "/v1/rooms", nil)
	}

	var s wire.Session
	alice.must(200, "POST", "/v1/sessions", wire.OpenSession{Device: alice.device}, &s)
	challenge := s.Challenge
	open := func(d core.DeviceURI, challenge []byte, signer *apiClient) {
		t.Helper()
		alice.refused(core.Unauthenticated, "POST", "/v1/sessions",
			wire.OpenSession{Device: d, Challenge: challenge, Signature: identity.Sign(signer.key, labelSession, challenge)})
	}
	open(alice.device, challenge, bob) // another's signature
	open(bob.device, challenge, bob)   // another's challenge
	forged := bytes.Clone(challenge)
	forged[0]++ // a later end
	open(alice.device, forged, alice)
	open(alice.device, challenge[1:], alice)
	unknown := h.newDevice("nobody", "x")
	alice.must(200, "POST", "/v1/sessions", wire.OpenSession{Device: unknown.device}, &s) // says nothing of who exists
	open(unknown.device, s.Challenge, unknown)

	now := time.Now()
	old := h.bridge.api.challenge(alice.device, now.Add(-time.Hour))
	open(alice.device, old, alice)

	alice.must(204, "DELETE", "/v1/sessions/self", nil, nil)
	alice.refused(core.Unauthenticated, "GET", "/v1/rooms", nil)
	alice.open()
	alice.must(200, "GET", "/v1/rooms", nil, nil)
	bob.must(200, "GET", "/v1/rooms", nil, nil)

	var acc wire.Session
	h.stranger().refused(core.Unauthenticated, "POST", "/v1/sessions", wire.OpenSession{Account: "carol", Password: "wrong"})
	h.stranger().must(200, "POST", "/v1/sessions", wire.OpenSession{Account: "carol", Password: "correct"}, &acc)
	carol := &apiClient{h: h, auth: "Bearer " + acc.Token}
	carol.must(200, "GET", "/v1/rooms", nil, nil)
	carol.refused(core.Denied, "GET", "/v1/key-packages", nil)
}

func TestAPIRevocation(t *testing.T) {
	h := openAPI(t, nil)
	alice, bob := h.member("alice"), h.member("bob")
	second := h.newDevice("alice", "2")
	second.must(200, "POST", "/v1/devices", wire.RegisterDevice{Record: second.record.Encode(), Sponsor: alice.device,
		Approval: approval(alice, second)}, nil)
	second.open()

	bob.refused(core.NotFound, "DELETE", "/v1/devices/"+second.device.ID(), nil)
	var d wire.Device
	alice.must(200, "DELETE", "/v1/devices/"+second.device.ID(), nil, &d)
	if !d.Revoked {
		t.Error("a revoked device is not shown as revoked")
	}
	second.refused(core.Unauthenticated, "GET", "/v1/rooms", nil)

	// A device's own revocation, and a record that goes back in time.
	first := alice.record
	alice.sign(2, first.Hash(), false)
	alice.must(200, "PUT", "/v1/devices/self", wire.PutRecord{Record: alice.record.Encode()}, nil)
	alice.refused(core.Conflict, "PUT", "/v1/devices/self", wire.PutRecord{Record: first.Encode()})
	alice.refused(core.Denied, "PUT", "/v1/devices/self", wire.PutRecord{Record: bob.record.Encode()})
	alice.sign(3, alice.record.Hash(), true)
	alice.must(200, "PUT", "/v1/devices/self", wire.PutRecord{Record: alice.record.Encode()}, &d)
	if !d.Revoked {
		t.Error("a device that revoked itself is in use")
	}
	alice.refused(core.Unauthenticated, "GET", "/v1/rooms", nil)
}

// A person with curl and a password reads and writes a Channel.
func TestAPIChannelWithCurl(t *testing.T) {
	h := openAPI(t, nil)
	carol := h.carol()
	status, _, b := carol.raw("POST", "/v1/rooms", typeForm, []byte(`{"name": "Lobby"}`))
	if status != 200 || !strings.Contains(string(b), `"name":"#Lobby"`) || !strings.Contains(string(b), `"room":"mimi://a.example/r/lobby"`) {
		t.Fatalf("%d %s", status, b)
	}
	carol.accept = "text/plain"
	for _, m := range []struct{ kind, body string }{{typeForm, "hello, world"}, {"text/plain; charset=utf-8", "{two\nlines}\n"}} {
		status, header, b := carol.raw("POST", "/v1/rooms/lobby/messages", m.kind, []byte(m.body))
		if status != 200 || !strings.HasPrefix(header.Get("Content-Type"), "text/plain") {
			t.Fatalf("%d %s", status, b)
		}
	}
	status, _, b = carol.raw("POST", "/v1/rooms/lobby/messages", typeForm, []byte(`{"messages": [{"text": "as JSON\u001b[31m"}]}`))
	if status != 200 {
		t.Fatalf("%d %s", status, b)
	}
	status, _, b = carol.raw("GET", "/v1/rooms/%23Lobby/history", "", nil)
	var lines []string
	for line := range strings.Lines(string(b)) {
		lines = append(lines, line[len("2006-01-02 15:04:05 "):])
	}
	if want := "lobby carol: hello, world\nlobby carol: {two\nlobby carol: lines}\nlobby carol: as JSON[31m\n"; status != 200 || strings.Join(lines, "") != want {
		t.Errorf("%d %q, want %q", status, lines, want)
	}
	status, _, b = carol.raw("GET", "/v1/rooms/nowhere/history", "", nil)
	if status != 404 || !strings.HasPrefix(string(b), "not found: ") {
		t.Errorf("%d %s", status, b)
	}
}

func TestAPIRooms(t *testing.T) {
	h := openAPI(t, nil)
	alice, bob := h.member("alice"), h.member("bob")
	room := alice.channel("lobby")
	alice.refused(core.Conflict, "POST", "/v1/rooms", wire.CreateRoom{Name: "#LOBBY"})
	alice.refused(core.Invalid, "POST", "/v1/rooms", wire.CreateRoom{Name: "two words"})
	alice.refused(core.Invalid, "POST", "/v1/rooms", wire.CreateRoom{Kind: "space", Name: "x"})

	var r wire.Room
	bob.must(200, "GET", roomPath(room, ""), nil, &r)
	if r.Joined || r.Members != nil || r.Name != "#lobby" || r.Kind != "channel" || r.Encrypted {
		t.Errorf("a stranger is shown %+v", r)
	}
	bob.refused(core.NotFound, "GET", roomPath(room, "/history"), nil)
	if e := bob.refused(core.Denied, "POST", roomPath(room, "/messages"), wire.Send{Messages: []wire.Message{{Text: "x"}}}); e.Reason != string(core.NotJoined) {
		t.Errorf("refused with %+v", e)
	}
	bob.must(200, "POST", roomPath(room, "/join"), wire.JoinRoom{}, &r)
	if !r.Joined || len(r.Members) != 2 {
		t.Errorf("joined: %+v", r)
	}
	var list wire.Rooms
	bob.must(200, "GET", "/v1/rooms", nil, &list)
	if len(list.Rooms) != 1 || list.Rooms[0].Room != room || !list.Rooms[0].Joined {
		t.Errorf("bob's rooms: %+v", list)
	}
	bob.must(204, "POST", roomPath(room, "/leave"), nil, nil)
	bob.must(200, "GET", "/v1/rooms", nil, &list)
	if len(list.Rooms) != 0 {
		t.Errorf("bob's rooms after leaving: %+v", list)
	}

	// A conversation is one, whoever begins it, and shown to nobody else.
	var one, two wire.Room
	alice.must(200, "POST", "/v1/rooms", wire.CreateRoom{Direct: true, With: bob.user}, &one)
	bob.must(200, "POST", "/v1/rooms", wire.CreateRoom{Direct: true, With: alice.user}, &two)
	if one.Room != two.Room || !one.Direct || len(two.Members) != 2 {
		t.Errorf("conversations %+v and %+v", one, two)
	}
	h.carol().refused(core.NotFound, "GET", roomPath(one.Room, ""), nil)
	alice.refused(core.Invalid, "POST", "/v1/rooms", wire.CreateRoom{Direct: true, With: alice.user})

	alice.refused(core.NotFound, "GET", "/v1/nothing", nil)
	status, header, _ := alice.raw("PATCH", "/v1/rooms", "", nil)
	if status != 501 || header.Get("Allow") == "" {
		t.Errorf("PATCH is %d, Allow %q", status, header.Get("Allow"))
	}
}

func TestAPIMessages(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	room := alice.channel("lobby")
	path := roomPath(room, "/messages")
	bulk := wire.Send{Messages: make([]wire.Message, MaxSend)}
	for i := range bulk.Messages {
		bulk.Messages[i].Text = strings.Repeat("x", i%100+1)
	}
	bulk.Messages[7] = wire.Message{Text: "a", Content: []byte("b")}
	var first, second wire.Sent
	alice.must(200, "POST", path, bulk, &first, "Idempotency-Key", "once")
	alice.must(200, "POST", path, bulk, &second, "Idempotency-Key", "once")
	for i := range first.Results {
		a, b := first.Results[i], second.Results[i]
		if i == 7 {
			if a.Error == nil || a.Error.Code != "invalid" {
				t.Errorf("message 7: %+v", a)
			}
			continue
		}
		if a.Seq == 0 || a.Event != b.Event || a.Duplicate || !b.Duplicate {
			t.Fatalf("message %d: %+v, then %+v", i, a, b)
		}
	}
	var other wire.Sent
	alice.must(200, "POST", path, bulk, &other, "Idempotency-Key", "twice")
	if other.Results[0].Duplicate {
		t.Error("another key is another message")
	}
	bulk.Messages = append(bulk.Messages, wire.Message{Text: "x"})
	alice.refused(core.TooLarge, "POST", path, bulk)
	alice.refused(core.Invalid, "POST", path, wire.Send{})
	alice.refused(core.Invalid, "POST", path, wire.Send{Messages: []wire.Message{{}}})
	alice.refused(core.Invalid, "POST", path, wire.Send{Messages: []wire.Message{{Content: []byte("not MIMI")}}})
	alice.refused(core.Denied, "POST", path, wire.Send{Messages: []wire.Message{{Type: core.ContentControl, Content: []byte{0xa0}}}})
	alice.refused(core.Invalid, "POST", path, wire.Send{Messages: []wire.Message{{Sealed: []byte("sealed")}}})
	h.carol().refused(core.Denied, "POST", path, wire.Send{Messages: []wire.Message{{Sealed: []byte("sealed")}}})

	// Markdown, and the content of another as it is.
	md := wire.Send{Messages: []wire.Message{{Text: "**bold**", Type: "text/markdown;variant=GFM-MIMI"}}}
	alice.must(200, "POST", path, md, nil)
	var hist wire.History
	alice.must(200, "GET", roomPath(room, "/history?limit=1"), nil, &hist)
	if len(hist.Events) != 1 || hist.Events[0].Text != "bold" || !hist.More {
		t.Fatalf("history %+v", hist)
	}
	again := wire.Send{Messages: []wire.Message{{Type: core.ContentMIMI, Content: hist.Events[0].Content}}}
	alice.must(200, "POST", path, again, nil)
}

func TestAPIHistoryPages(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	room := alice.channel("lobby")
	alice.say(room, "1", "2", "3", "4", "5")
	page := func(query string) wire.History {
		t.Helper()
		var out wire.History
		alice.must(200, "GET", roomPath(room, "/history?"+query), nil, &out)
		return out
	}
	newest := page("limit=2")
	if texts(newest.Events) != "4 5" || !newest.More {
		t.Errorf("newest: %q, more %v", texts(newest.Events), newest.More)
	}
	older := page("limit=10&before=4")
	if texts(older.Events) != "1 2 3" || older.More {
		t.Errorf("older: %q, more %v", texts(older.Events), older.More)
	}
	if later := page("limit=2&after=1"); texts(later.Events) != "2 3" || !later.More {
		t.Errorf("later: %q, more %v", texts(later.Events), later.More)
	}
	alice.refused(core.Invalid, "GET", roomPath(room, "/history?limit=many"), nil)
}

func TestAPIForms(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	room := alice.channel("lobby")
	body, err := cbor.Marshal(wire.Send{Messages: []wire.Message{{Text: "in CBOR"}}})
	if err != nil {
		t.Fatal(err)
	}
	alice.accept = "application/cbor"
	status, header, b := alice.raw("POST", roomPath(room, "/messages"), "application/cbor", body)
	var sent wire.Sent
	if err := cbor.Unmarshal(b, &sent); status != 200 || err != nil || header.Get("Content-Type") != "application/cbor" || sent.Results[0].Seq != 1 {
		t.Fatalf("%d %x %v", status, b, err)
	}
	status, _, b = alice.raw("POST", roomPath(room, "/messages"), "application/cbor", []byte{0xff})
	var e wire.Error
	if err := cbor.Unmarshal(b, &e); status != 400 || err != nil || e.Code != "invalid" {
		t.Errorf("%d %x %v", status, b, err)
	}
}

func TestAPIHostileBodies(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	room := alice.channel("lobby")
	path := roomPath(room, "/messages")
	for name, c := range map[string]struct {
		body string
		code core.Code
	}{
		"items":     {`{"messages":[` + strings.Repeat("{},", maxItems+1) + `{}]}`, core.TooLarge},
		"depth":     {strings.Repeat(`[`, 100_000), core.TooLarge},
		"no JSON":   {`{"messages`, core.Invalid},
		"two":       {`{} {}`, core.Invalid},
		"type":      {`{"messages":{}}`, core.Invalid},
		"not UTF-8": {`{"messages":[{"text":"` + "\xff" + `","content_type":"text/html"}],"x":"` + `"}`, core.Code(255)},
	} {
		status, _, b := alice.raw("POST", path, typeJSON, []byte(c.body))
		if c.code == core.Code(255) {
			if status != 200 { // encoding/json puts U+FFFD in its place
				t.Errorf("%s: %d %s", name, status, b)
			}
			continue
		}
		if status != statusOf(c.code) {
			t.Errorf("%s: %d %s", name, status, b)
		}
	}
	status, _, _ := alice.raw("POST", "/v1/sync", typeJSON, make([]byte, 2<<20))
	if status != 413 {
		t.Errorf("a body that is too large is %d", status)
	}
	status, _, _ = alice.raw("POST", path, "text/plain", []byte("\xff\xfe"))
	if status != 400 {
		t.Errorf("text that is not UTF-8 is %d", status)
	}
	if n := h.bridge.api.bodies.total(); n != 0 {
		t.Errorf("%d octets of bodies are still counted", n)
	}
	free, _ := h.bridge.api.bodies.take("others", maxBodies)
	defer free()
	alice.refused(core.Unavailable, "POST", path, wire.Send{Messages: []wire.Message{{Text: "x"}}})
}

func TestAPIRateLimits(t *testing.T) {
	h := openAPI(t, func(c *APIConfig) { c.Requests, c.Messages = 5, 10 })
	alice, bob := h.member("alice"), h.member("bob")
	room := alice.channel("lobby")
	limited := 0
	for range 5 * maxBurst {
		if status, header, _ := alice.raw("GET", "/v1/rooms", "", nil); status == 429 {
			limited++
			if header.Get("Retry-After") == "" {
				t.Error("429 without Retry-After")
			}
		}
	}
	if limited == 0 || limited > 5 {
		t.Errorf("%d of %d requests were refused", limited, 5*maxBurst)
	}
	bob.must(200, "POST", roomPath(room, "/join"), nil, nil) // another session is not held up
	h.bridge.api.limits.strangers = newBuckets(1, 3)
	codes := map[int]int{}
	for range 6 {
		status, _, _ := h.stranger().raw("GET", "/.well-known/isthmus", "", nil)
		codes[status]++
	}
	if codes[429] < 2 {
		t.Errorf("strangers were answered %v", codes)
	}
}

func TestAPIMetrics(t *testing.T) {
	h := openAPI(t, nil)
	reg := prometheus.NewRegistry()
	h.bridge.api.counts = newAPIMetrics(reg, h.bridge.api.hub.open)
	h.member("alice").refused(core.NotFound, "GET", "/v1/rooms/x", nil)
	got, err := reg.Gather()
	if err != nil || len(got) != 3 {
		t.Fatalf("%d metrics (%v)", len(got), err)
	}
	text := fmt.Sprint(got)
	for _, want := range []string{"isthmus_api_streams", "POST /v1/sessions", "GET /v1/rooms/{room}", "not found"} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics do not have %q", want)
		}
	}
	if strings.Contains(text, "alice") {
		t.Error("a metric names a user")
	}
}

func TestAPIHomeserver(t *testing.T) {
	h := openAPI(t, nil)
	var hs wire.Homeserver
	h.stranger().must(200, "GET", "/.well-known/isthmus", nil, &hs)
	if len(hs.Records) != 1 || hs.Domain != apiDomain {
		t.Fatalf("the homeserver says %+v", hs)
	}
	rec, err := identity.ParseHomeserver(hs.Records[0])
	if err != nil {
		t.Fatal(err)
	}
	chain, err := identity.Pin(rec)
	if err != nil {
		t.Fatal(err)
	}
	alice := h.member("alice")
	var d wire.User
	alice.must(200, "GET", "/v1/devices", nil, &d)
	att, err := identity.ParseAttestation(d.Devices[0].Proof.Attestation)
	if err == nil {
		err = identity.Usable(alice.record, att, chain, nil, time.Now().Unix())
	}
	if err != nil {
		t.Errorf("a device that is registered is not usable by the homeserver's record: %v", err)
	}
	alice.must(200, "GET", "/v1/homeservers/"+apiDomain, nil, &hs)
	alice.refused(core.Unavailable, "GET", "/v1/homeservers/b.example", nil) // federation is off
}

func TestBuckets(t *testing.T) {
	b := newBuckets(1, 2)
	now := time.Unix(1000, 0)
	if b.take("x", 2, now) != nil || core.CodeOf(b.take("x", 1, now)) != core.Limited || b.take("x", 1, now.Add(time.Second)) != nil {
		t.Error("a bucket of two does not behave as one")
	}
	if b.take("y", 2, now) != nil {
		t.Error("the buckets of two are one")
	}
}

func TestAPIAddress(t *testing.T) {
	l := newLimits(&APIConfig{Requests: 1, Messages: 1, Forwarded: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	for _, c := range []struct{ remote, forwarded, want string }{
		{"192.0.2.1:5", "203.0.113.9", "192.0.2.1"},
		{"10.0.0.1:5", "203.0.113.9", "203.0.113.9"},
		{"10.0.0.1:5", "198.51.100.1, 203.0.113.9, 10.2.3.4", "203.0.113.9"},
		{"10.0.0.1:5", "nonsense", "10.0.0.1"},
	} {
		r, _ := http.NewRequest("GET", "/", nil)
		r.RemoteAddr = c.remote
		r.Header.Set("X-Forwarded-For", c.forwarded)
		if got := l.address(r).String(); got != c.want {
			t.Errorf("%s for %q is %s, want %s", c.remote, c.forwarded, got, c.want)
		}
	}
}

func FuzzSmallJSON(f *testing.F) {
	f.Add([]byte(`{"a":"\\\"","b":[1,2]}`))
	f.Add([]byte(`"\`))
	f.Fuzz(func(t *testing.T, b []byte) {
		small := smallJSON(b)
		if !small && bytes.Count(b, []byte(",")) <= maxItems && bytes.Count(b, []byte("["))+bytes.Count(b, []byte("{")) <= maxDepth {
			t.Errorf("%q is not small", b)
		}
	})
}
