package converter

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/core"
)

const (
	testRoom  = core.RoomID("mimi://a.example/r/go")
	alice     = core.UserURI("mimi://a.example/u/alice")
	bob       = core.UserURI("mimi://a.example/u/matrix.hs.org/bob")
	testStart = 1_800_000_000_000 // ms
)

// A room is a Names that remembers what was said in it.
type room struct {
	NoNames
	events  map[core.EventID]*core.Event
	foreign map[core.EventID]string
	nicks   map[core.UserURI]string
	handles map[core.UserURI]string
	full    string
	seq     uint64
}

func newRoom() *room {
	return &room{events: map[core.EventID]*core.Event{}, foreign: map[core.EventID]string{},
		nicks:   map[core.UserURI]string{alice: "alice", bob: "bob"},
		handles: map[core.UserURI]string{alice: "@irc_alice:hs.org", bob: "@bob:hs.org"}}
}

func (r *room) Event(id core.EventID) (*core.Event, bool) { e, ok := r.events[id]; return e, ok }
func (r *room) Foreign(id core.EventID) (string, bool)    { s, ok := r.foreign[id]; return s, ok }
func (r *room) ByForeign(id string) (core.EventID, bool) {
	for k, v := range r.foreign {
		if v == id {
			return k, true
		}
	}
	return core.EventID{}, false
}
func (r *room) Reaction(target core.EventID, user core.UserURI, text string) (core.EventID, bool) {
	for id, e := range r.events {
		if c, err := ContentOf(e); err == nil && e.Sender == user && c.Ref == target && reactionText(&c.Part) == text {
			return id, true
		}
	}
	return core.EventID{}, false
}
func (r *room) Nick(u core.UserURI) (string, bool)   { s, ok := r.nicks[u]; return s, ok }
func (r *room) Handle(u core.UserURI) (string, bool) { s, ok := r.handles[u]; return s, ok }
func (r *room) User(handle string) (core.UserURI, bool) {
	for u, h := range r.handles {
		if h == handle || r.nicks[u] == handle {
			return u, true
		}
	}
	return "", false
}
func (r *room) MediaURL(url string) (string, bool) {
	if id, ok := strings.CutPrefix(url, "mxc://"); ok {
		return "https://a.example/media/" + id, true
	}
	if id, ok := strings.CutPrefix(url, "https://a.example/media/"); ok {
		return "mxc://" + id, true
	}
	return "", false
}
func (r *room) FullText(core.EventID) (string, bool) { return r.full, r.full != "" }

// accept makes an envelope the room's next event, after the last one by gap.
func (r *room) accept(t testing.TB, e core.Envelope, foreign string, gap time.Duration) *core.Event {
	t.Helper()
	r.seq++
	ev := &core.Event{Envelope: e, ID: core.NewEventID(e.Room, "a.example", r.seq), Seq: r.seq,
		Accepted: time.UnixMilli(testStart).Add(gap)}
	if s, ok := ev.Signed(); ok && s.ContentType == core.ContentControl {
		c, err := core.ParseControl(s.Content)
		if err != nil {
			t.Fatal(err)
		}
		ev.Control = c
	}
	r.events[ev.ID] = ev
	if foreign != "" {
		r.foreign[ev.ID] = foreign
	}
	return ev
}

func ircSays(lines ...string) IRCMessage {
	m := IRCMessage{Room: testRoom, Sender: alice, Name: "alice", Origin: core.Origin{Network: "irc"},
		Sent: time.UnixMilli(testStart), Seed: []byte("seed")}
	for _, l := range lines {
		m.Lines = append(m.Lines, IRCLine{Text: l})
	}
	return m
}

func matrixSays(kind, content string) MatrixEvent {
	return MatrixEvent{Room: testRoom, User: bob, Name: "bob", Network: "matrix:hs.org", Type: kind,
		EventID: "$e", Sender: "@bob:hs.org", SentMS: testStart, Content: json.RawMessage(content)}
}

func (r *room) irc(t testing.TB, m IRCMessage, foreign string) *core.Event {
	t.Helper()
	e, err := IRC{}.Inbound(m, r)
	if err != nil {
		t.Fatalf("Inbound: %v", err)
	}
	return r.accept(t, e, foreign, 0)
}

func (r *room) matrix(t testing.TB, m MatrixEvent, foreign string) *core.Event {
	t.Helper()
	es, err := Matrix{}.Inbound(m, r)
	if err != nil || len(es) != 1 {
		t.Fatalf("Inbound: %d envelopes, %v", len(es), err)
	}
	return r.accept(t, es[0], foreign, 0)
}

func toIRC(t testing.TB, e *core.Event, n Names) IRCOut {
	t.Helper()
	o, _, err := IRC{}.Outbound(e, n)
	if err != nil {
		t.Fatalf("Outbound: %v", err)
	}
	checkIRC(t, o)
	return o
}

// toMatrix returns the decoded contents of what is sent for e.
func toMatrix(t testing.TB, e *core.Event, n Names) ([]MatrixOut, []map[string]any) {
	t.Helper()
	out, _, err := Matrix{}.Outbound(e, n)
	if err != nil {
		t.Fatalf("Outbound: %v", err)
	}
	return out, checkMatrix(t, out)
}

// checkIRC holds what is promised of every IRCOut.
func checkIRC(t testing.TB, o IRCOut) {
	t.Helper()
	for _, lines := range [][]string{o.Lines, o.Plain, o.Text, {o.React}, {o.Reason}} {
		for _, l := range lines {
			if !utf8.ValidString(l) {
				t.Fatalf("line is not UTF-8: %q", l)
			}
			for i := 0; i < len(l); i++ {
				if l[i] < ' ' && !isCode(l[i]) || l[i] == 0x7f {
					t.Fatalf("control character in %q", l)
				}
			}
			if strings.ContainsAny(l, "\u202d\u202e\u0085") {
				t.Fatalf("override in %q", l)
			}
		}
	}
	if len(o.Lines) > MaxIRCLines || len(o.Plain) > MaxIRCLines {
		t.Fatalf("%d and %d lines", len(o.Lines), len(o.Plain))
	}
	for _, l := range o.Plain {
		if blank(l) {
			t.Fatalf("blank line for a plain client in %q", o.Plain)
		}
	}
}

func checkMatrix(t testing.TB, out []MatrixOut) []map[string]any {
	t.Helper()
	var all []map[string]any
	for _, o := range out {
		var m map[string]any
		if len(o.Content) > maxJSON || json.Unmarshal(o.Content, &m) != nil {
			t.Fatalf("content is no JSON object within bounds: %.300q", o.Content)
		}
		if _, err := parseJSON(o.Content); err != nil {
			t.Fatalf("our own parser refuses our own content: %v", err)
		}
		if o.Type == "m.room.message" {
			if _, ok := m["m.mentions"].(map[string]any); !ok {
				t.Fatalf("no m.mentions in %.300q", o.Content)
			}
		}
		all = append(all, m)
	}
	return all
}
