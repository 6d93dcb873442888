package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A token goes over TLS, or nowhere beyond this machine.
func TestChatHomeAddress(t *testing.T) {
	for base, ok := range map[string]bool{
		"https://a.example": true, "https://a.example/": true, "http://127.0.0.1:8480": true, "http://localhost:1": true, "http://[::1]:1": true,
		"http://a.example": false, "http://127.0.0.1.a.example": false, "a.example": false, "ftp://a.example": false,
		"https://user:pw@a.example": false, "https://a.example?x=1": false, "": false, "https://": false,
	} {
		if h, err := newHTTPHome(base, ""); (err == nil) != ok {
			t.Errorf("%q: %v", base, err)
		} else if ok && strings.HasSuffix(h.base, "/") {
			t.Errorf("%q became %q", base, h.base)
		}
	}
	if _, err := newHTTPHome("https://a.example", t.TempDir()+"/none.pem"); err == nil {
		t.Error("an authority that is not there")
	}
}

// What a homeserver refuses arrives as it was: in CBOR, in JSON, from a proxy.
func TestChatHomeRefusals(t *testing.T) {
	var status int
	var media string
	var body []byte
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		w.Header().Set("Content-Type", media)
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		w.Write(body)
	}))
	defer s.Close()
	h, err := newHTTPHome(s.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range core.Codes() {
		w := wire.Error{Code: code.String(), Reason: string(core.Banned), Text: "because", RetryAfter: 1500, Epoch: 7, Winner: []byte("winner")}
		for _, media = range []string{mediaCBOR, "application/json"} {
			status, body = 409, sure(cbor.Marshal(w))
			if media != mediaCBOR {
				body = sure(json.Marshal(w))
			}
			err := h.call(t.Context(), homeCall{method: "GET", path: "/v1/rooms"}, nil)
			if stale, ok := errors.AsType[*client.Stale](err); ok && code == core.StaleEpoch {
				if stale.Epoch != 7 || string(stale.Winner) != "winner" || core.CodeOf(err) != code {
					t.Errorf("stale as %s: %+v", media, stale)
				}
				continue
			}
			e, ok := err.(*core.Error)
			if !ok || e.Code != code || e.Reason != core.Banned || e.Text != "because" || e.RetryAfter != 1500*time.Millisecond {
				t.Errorf("%s as %s: %#v", code, media, err)
			}
		}
	}
	media, body = "text/html", []byte("<h1>Bad gateway</h1>")
	for st, want := range map[int]core.Code{502: core.Unavailable, 404: core.NotFound, 302: core.Internal, 418: core.Internal, 429: core.Limited} {
		status = st
		if err := h.call(t.Context(), homeCall{method: "GET", path: "/"}, nil); core.CodeOf(err) != want {
			t.Errorf("%d: %v, want %v", st, err, want)
		}
	}
	status, media, body = 200, mediaCBOR, []byte{0xff}
	if err := h.call(t.Context(), homeCall{method: "GET", path: "/"}, new(wire.Rooms)); core.CodeOf(err) != core.Internal {
		t.Errorf("garbage: %v", err)
	}
}

func sure[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A homeserver that hangs, is gone, or shows a certificate of somebody else.
func TestChatHomeUnreachable(t *testing.T) {
	release := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	h := sure(newHTTPHome(s.URL, ""))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := h.call(ctx, homeCall{method: "GET", path: "/"}, nil); core.CodeOf(err) != core.Unavailable || !strings.Contains(err.Error(), "in time") {
		t.Errorf("one that hangs: %v", err)
	}
	close(release)
	s.Close()
	if err := h.call(t.Context(), homeCall{method: "GET", path: "/"}, nil); core.CodeOf(err) != core.Unavailable {
		t.Errorf("one that is gone: %v", err)
	}
	tls := httptest.NewTLSServer(http.NotFoundHandler())
	defer tls.Close()
	h = sure(newHTTPHome(tls.URL, ""))
	if err := h.call(t.Context(), homeCall{method: "GET", path: "/"}, nil); core.CodeOf(err) != core.Denied || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("a strange certificate: %v", err)
	}
}

// What is asked arrives: the room as one segment, the session, the key, the body.
func TestChatHomeRequest(t *testing.T) {
	room := core.NewRoomID("a.example", "tea & cake/5%")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		var in wire.Send
		if err := cbor.NewDecoder(q.Body).Decode(&in); err != nil {
			t.Error(err)
		}
		if q.Header.Get("Authorization") != "Bearer secret" || q.Header.Get("Idempotency-Key") != "k" || in.Messages[0].Text != "hello" {
			t.Errorf("it got %v %+v", q.Header, in)
		}
		mux := http.NewServeMux()
		mux.HandleFunc("POST /v1/rooms/{room}/messages", func(w http.ResponseWriter, q *http.Request) {
			w.Header().Set("Content-Type", mediaCBOR)
			w.Write(sure(cbor.Marshal(wire.Sent{Results: []wire.SentResult{{Seq: 7, Event: q.PathValue("room")}}})))
		})
		mux.ServeHTTP(w, q)
	}))
	defer s.Close()
	h := sure(newHTTPHome(s.URL, ""))
	h.Authorize("secret")
	var out wire.Sent
	err := h.call(t.Context(), homeCall{method: "POST", path: roomPath(room, "/messages"), key: "k",
		body: wire.Send{Messages: []wire.Message{{Text: "hello"}}}}, &out)
	if err != nil || len(out.Results) != 1 || out.Results[0].Event != string(room) {
		t.Errorf("%+v, %v", out, err)
	}
}
