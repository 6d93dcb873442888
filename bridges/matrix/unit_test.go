package matrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"maunium.net/go/mautrix/appservice"

	"github.com/isthmus-chat/isthmus/core"
)

func testBridge() *Bridge {
	return New(Config{URL: "http://127.0.0.1:1", Server: hsName, Domain: ourDomain, ListenURL: "http://127.0.0.1:2",
		ASToken: asToken, HSToken: hsToken, Bot: "isthmusbot", UserPrefix: "_isthmus_"}, nil, nil)
}

// Every code has words in Matrix; only 200 would make the homeserver go on.
func TestEveryCodeHasAnAnswer(t *testing.T) {
	seen := map[string]core.Code{}
	for _, c := range core.Codes() {
		status, errcode := matrixError(c)
		if status < 400 || status > 599 || !strings.HasPrefix(errcode, "M_") {
			t.Errorf("%v: %d %s", c, status, errcode)
		}
		if c == core.Unavailable && status != 503 || c == core.TooLarge && errcode != "M_TOO_LARGE" || c == core.Denied && errcode != "M_FORBIDDEN" {
			t.Errorf("%v: %d %s", c, status, errcode)
		}
		if c != core.Internal && status == 500 {
			t.Errorf("%v has no row", c)
		}
		seen[errcode] = c
	}
	if len(seen) < 8 {
		t.Errorf("only %d different answers", len(seen))
	}
}

func TestRefusals(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		status int
		header string
		body   string
		code   core.Code
		wait   time.Duration
	}{
		{429, "3", `{"errcode":"M_LIMIT_EXCEEDED"}`, core.Limited, 3 * time.Second},
		{429, "", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, core.Limited, 1500 * time.Millisecond},
		{429, "1", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":1500}`, core.Limited, 1500 * time.Millisecond},
		{429, "Fri, 02 Jan 2026 03:04:15 GMT", `{"errcode":"M_LIMIT_EXCEEDED"}`, core.Limited, 10 * time.Second},
		{429, "99999999", `{"errcode":"M_LIMIT_EXCEEDED"}`, core.Limited, time.Hour},
		{429, "-5", `{"errcode":"M_LIMIT_EXCEEDED","retry_after_ms":-1}`, core.Limited, 0},
		{503, "7", `<html>`, core.Unavailable, 7 * time.Second},
		{404, "", `<html>not found</html>`, core.Unavailable, 0},
		{500, "", `{"errcode":"M_UNKNOWN"}`, core.Unavailable, 0},
		{401, "", `{"errcode":"M_UNKNOWN_TOKEN"}`, core.Unavailable, tokenRefused},
		{403, "", `{"errcode":"M_FORBIDDEN"}`, core.Denied, 0},
		{404, "", `{"errcode":"M_NOT_FOUND"}`, core.NotFound, 0},
		{404, "", `{"errcode":"M_UNRECOGNIZED"}`, core.Unsupported, 0},
		{413, "", `{"errcode":"M_TOO_LARGE"}`, core.TooLarge, 0},
		{400, "", `{"errcode":"M_USER_IN_USE"}`, core.Conflict, 0},
		{400, "", `{"errcode":"M_BAD_JSON"}`, core.Invalid, 0},
	} {
		h := http.Header{}
		if c.header != "" {
			h.Set("Retry-After", c.header)
		}
		err := refusal(c.status, h, []byte(c.body), now)
		if e := asCore(err); e.Code != c.code || e.RetryAfter != c.wait {
			t.Errorf("%d %q %s: %v after %v, want %v after %v", c.status, c.header, c.body, e.Code, e.RetryAfter, c.code, c.wait)
		}
	}
}

// A user has one ghost and a ghost one user.
func TestGhostNames(t *testing.T) {
	b := testBridge()
	for _, u := range []core.UserURI{
		core.NewUserURI(ourDomain, "ann"), core.NewUserURI(ourDomain, "Ann"), core.NewUserURI(ourDomain, "a_b-c.d"),
		core.NewUserURI(ourDomain, "guest", "[x]{y}|z^`\\"), core.NewUserURI(ourDomain, "irc.libera", "nick"),
		core.NewUserURI(ourDomain, "a/b"), core.NewUserURI(ourDomain, "Zoë 🦊"), core.NewUserURI("b.example", "ann"),
		core.NewUserURI("b.example", "irc.x", "ann"),
	} {
		mxid := b.mxid(u)
		if !regexp.MustCompile(`^@_isthmus_[a-z0-9._=/+-]+:hs\.test$`).MatchString(mxid) {
			t.Errorf("%s: %s is not a user ID", u, mxid)
		}
		if back, ok := b.userURI(mxid); !ok || back != u {
			t.Errorf("%s → %s → %s", u, mxid, back)
		}
		if b.isMatrix(u) {
			t.Errorf("%s counts as a Matrix user", u)
		}
	}
	for mxid, want := range map[string]core.UserURI{
		"@bob:hs.test":       core.NewUserURI(ourDomain, "matrix.hs.test", "bob"),
		"@Bob/x:other:8448":  core.NewUserURI(ourDomain, "matrix.other:8448", "Bob/x"),
		"@_isthmus_x:other":  core.NewUserURI(ourDomain, "matrix.other", "_isthmus_x"),
		"@isthmusbot:b.test": core.NewUserURI(ourDomain, "matrix.b.test", "isthmusbot"),
	} {
		u, ok := b.userURI(mxid)
		if !ok || u != want || b.mxid(u) != mxid || !b.isMatrix(u) {
			t.Errorf("%s → %s (%t) → %s", mxid, u, ok, b.mxid(u))
		}
	}
	for _, bad := range []string{"", "@", "@:x", "@x", "bob:hs.test", "@_isthmus_:hs.test", "@_isthmus_A:hs.test", "@_isthmus_a=2:hs.test",
		"@_isthmus_a//b:hs.test", "@isthmusbot:hs.test", "@" + strings.Repeat("x", 260) + ":hs.test"} {
		if u, ok := b.userURI(bad); ok {
			t.Errorf("%q is %s", bad, u)
		}
	}
	long := b.mxid(core.NewUserURI(ourDomain, "guest", strings.Repeat("é", 120)))
	if len(long) > maxUserID || !b.ours(long) {
		t.Errorf("a long name became %q", long)
	}
}

func TestRegistration(t *testing.T) {
	y, err := Registration(testBridge().cfg)
	if err != nil {
		t.Fatal(err)
	}
	var r appservice.Registration
	if err := yaml.Unmarshal(y, &r); err != nil {
		t.Fatal(err)
	}
	if r.AppToken != asToken || r.ServerToken != hsToken || r.RateLimited == nil || *r.RateLimited || !r.EphemeralEvents || r.SenderLocalpart != "isthmusbot" {
		t.Errorf("registration: %s", y)
	}
	matches := func(l appservice.NamespaceList, s string) (n int) {
		for _, ns := range l {
			if ns.Exclusive && regexp.MustCompile(ns.Regex).MatchString(s) {
				n++
			}
		}
		return n
	}
	for id, want := range map[string]int{"@_isthmus_ann:hs.test": 1, "@isthmusbot:hs.test": 1, "@bob:hs.test": 0, "@_isthmus_ann:hsxtest": 0} {
		if got := matches(r.Namespaces.UserIDs, id); got != want {
			t.Errorf("%s matches %d namespaces, want %d", id, got, want)
		}
	}
	if matches(r.Namespaces.RoomAliases, "#_isthmus_lobby:hs.test") != 1 {
		t.Error("our alias is not in the namespace")
	}
	for _, spoil := range []func(*Config){func(c *Config) { c.URL = "ftp://x" }, func(c *Config) { c.ASToken = "short" },
		func(c *Config) { c.HSToken = c.ASToken }, func(c *Config) { c.Server = "" }, func(c *Config) { c.ListenURL = "" }} {
		c := testBridge().cfg
		spoil(&c)
		if _, err := Registration(c); core.CodeOf(err) != core.Invalid || err == nil {
			t.Errorf("a broken config gave %v", err)
		}
	}
}

// Before and after Run the homeserver is told to come again.
func TestNotRunning(t *testing.T) {
	b := testBridge()
	if _, err := b.Deliver(t.Context(), core.Delivery{}); !core.Temporary(err) || err == nil {
		t.Errorf("Deliver: %v", err)
	}
	if _, err := b.EnsureLink(t.Context(), core.Link{}, LinkOptions{}); core.CodeOf(err) != core.Unavailable {
		t.Errorf("EnsureLink: %v", err)
	}
	if err := New(Config{}, nil, nil).Run(t.Context(), nil); core.CodeOf(err) != core.Invalid {
		t.Errorf("Run without a config: %v", err)
	}
}

func TestTransactionIDs(t *testing.T) {
	if transactionID("l", "ab", "c") == transactionID("l", "a", "bc") || transactionID("l", "x") != transactionID("l", "x") {
		t.Error("transaction IDs do not name their parts")
	}
}

func TestGenerationsForget(t *testing.T) {
	g := newGenerations[int, int](10)
	for i := range 1000 {
		g.put(i, i)
		if n := len(g.new) + len(g.old); n > 10 {
			t.Fatalf("%d entries", n)
		}
		for j := max(0, i-4); j <= i; j++ {
			if v, ok := g.new[j]; !ok {
				if v, ok = g.old[j]; !ok || v != j {
					t.Fatalf("after %d, %d is gone", i, j)
				}
			}
		}
	}
}

// FuzzTransaction holds the splitter to the standard library: what is JSON with
// a list of events splits into the same events, and nothing panics.
func FuzzTransaction(f *testing.F) {
	for _, s := range []string{
		`{}`, `{"events":[]}`, `{"events":[{"type":"m.room.message","event_id":"$a","room_id":"!r:x","sender":"@a:x","content":{"msgtype":"m.text","body":"x"}}]}`,
		`{"events":[1,"a\"]",{"b":"}"},[[]],null,true],"ephemeral":[{"type":"m.typing","room_id":"!r","content":{"user_ids":["@a:x"]}}]}`,
		` { "events" : [ { "a" : [ 1 , 2 ] } , { } ] , "de.sorunome.msc2409.ephemeral" : [ ] } `, `{"events":{}}`, `{"events":[}`, `{"events":[1,]}`, `[`, `{"a":`,
		`{"events":[{"content":{"m.relates_to":{"event_id":"$x","m.in_reply_to":{"event_id":"$y"}}},"redacts":"$z"}]}`, "{\"\\u0065vents\":[7]}", `{"events":[1],"events":[2]}`,
		`{"x":"\\","events":["\\\""]}`, `{"events":[1 2]}`, `{"events":[1:2]}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := splitTransaction(body)
		var want struct{ Events []json.RawMessage }
		var fields map[string]json.RawMessage
		valid := json.Unmarshal(body, &fields) == nil && fields != nil
		if valid {
			valid = fields["events"] == nil || json.Unmarshal(fields["events"], &want.Events) == nil && want.Events != nil
		}
		// A list under another key of ours, a key given twice, or null for a list
		// is where the two may differ.
		for _, k := range []string{"ephemeral", "de.sorunome.msc2409.ephemeral"} {
			var l []json.RawMessage
			valid = valid && (fields[k] == nil || json.Unmarshal(fields[k], &l) == nil && l != nil)
		}
		if valid && bytes.Count(body, []byte(`events"`)) <= 1 && bytes.Count(body, []byte(`ephemeral"`)) <= 1 && !bytes.Contains(body, []byte(`\u`)) {
			if err != nil || len(got.events) != len(want.Events) {
				t.Fatalf("split into %d events (%v), want %d", len(got.events), err, len(want.Events))
			}
			for i := range want.Events {
				if !bytes.Equal(bytes.TrimSpace(got.events[i]), bytes.TrimSpace(want.Events[i])) {
					t.Fatalf("event %d is %q, want %q", i, got.events[i], want.Events[i])
				}
			}
		}
		for _, raw := range append(got.events, got.ephemeral...) {
			ev, err := parseEvent(raw)
			if err != nil {
				if c := core.CodeOf(err); c != core.Invalid && c != core.TooLarge {
					t.Fatalf("parseEvent: %v", err)
				}
				continue
			}
			if len(ev.EventID) > core.MaxOriginID-16 || len(ev.Sender) > maxUserID {
				t.Fatal("an event over its bounds")
			}
			ev.targets(func(id string) {
				if id == "" {
					t.Fatal("an empty target")
				}
			})
		}
	})
}

func FuzzLocalpart(f *testing.F) {
	for _, s := range []string{"ann", "A_b", "=zz", "_", "a/b", "é", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		e := encodeLocal(s)
		if back, ok := decodeLocal(e); !ok || back != s {
			t.Fatalf("%q → %q → %q", s, e, back)
		}
		if d, ok := decodeLocal(s); ok && encodeLocal(d) != s {
			t.Fatalf("%q and %q are one user", s, encodeLocal(d))
		}
	})
}

func TestUnreachableSaysNoNames(t *testing.T) {
	b := testBridge()
	_, err := b.client.send(t.Context(), "@secret:hs.test", "!secret:hs.test", "m.room.message", "t", []byte("{}"))
	if core.CodeOf(err) != core.Unavailable || strings.Contains(err.Error(), "secret") {
		t.Errorf("unreachable: %v", err)
	}
	if errors.Unwrap(err) == nil {
		t.Error("the cause is lost")
	}
}

// A homeserver that takes connections and says nothing, as after its machine
// went away, holds a delivery for the time of one request.
func TestHomeserverHalfOpen(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cfg := testBridge().cfg
	cfg.URL, cfg.RequestTimeout = "http://"+l.Addr().String(), 200*time.Millisecond
	began := time.Now()
	_, err = New(cfg, nil, nil).client.send(t.Context(), "", "!r:hs.test", "m.room.message", "t", []byte("{}"))
	if core.CodeOf(err) != core.Unavailable || !core.Temporary(err) {
		t.Errorf("half-open: %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %v", took)
	}
}
