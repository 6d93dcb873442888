package matrix

import (
	"bytes"
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/core"
)

// A transaction is the body of PUT /transactions/{txnId}, its events still as
// bytes: one that makes no sense must not take the others with it.
type transaction struct {
	events, ephemeral [][]byte
}

// splitTransaction cuts a body into its events without recursion and without
// looking into them, so that neither depth nor number of events costs more than
// the body itself. It accepts a little more than JSON between the events; each
// event is parsed strictly later. Invalid if body is not an object or "events"
// is not a list.
func splitTransaction(body []byte) (transaction, error) {
	var t transaction
	s := scanner{b: body}
	if !s.take('{') {
		return t, core.Errorf(core.Invalid, "the transaction is not a JSON object")
	}
	for first := true; !s.take('}'); first = false {
		if !first && !s.take(',') {
			return t, errNotJSON
		}
		raw, ok := s.value()
		if !ok || raw[0] != '"' || !s.take(':') {
			return t, errNotJSON
		}
		var key string
		if json.Unmarshal(raw, &key) != nil {
			return t, errNotJSON
		}
		var into *[][]byte
		switch key {
		case "events":
			into = &t.events
		case "ephemeral", "de.sorunome.msc2409.ephemeral":
			into = &t.ephemeral
		}
		if into == nil {
			if _, ok := s.value(); !ok {
				return t, errNotJSON
			}
			continue
		}
		list, ok := s.list()
		if !ok {
			return t, errNotJSON
		}
		*into = list
	}
	s.space()
	if len(s.b) > 0 {
		return t, errNotJSON
	}
	return t, nil
}

var errNotJSON = core.Errorf(core.Invalid, "the transaction is not valid JSON")

// A scanner cuts JSON into values.
type scanner struct{ b []byte }

func (s *scanner) space() {
	for len(s.b) > 0 && (s.b[0] == ' ' || s.b[0] == '\t' || s.b[0] == '\n' || s.b[0] == '\r') {
		s.b = s.b[1:]
	}
}

func (s *scanner) take(c byte) bool {
	s.space()
	if len(s.b) == 0 || s.b[0] != c {
		return false
	}
	s.b = s.b[1:]
	return true
}

// list cuts an array into its values.
func (s *scanner) list() (out [][]byte, ok bool) {
	if !s.take('[') {
		return nil, false
	}
	for !s.take(']') {
		if len(out) > 0 && !s.take(',') {
			return nil, false
		}
		v, ok := s.value()
		if !ok {
			return nil, false
		}
		out = append(out, v)
	}
	return out, true
}

// value cuts off one value: a string, or up to where its brackets close.
func (s *scanner) value() ([]byte, bool) {
	s.space()
	depth := 0
	for i := 0; i < len(s.b); i++ {
		switch c := s.b[i]; c {
		case '"':
			end := stringEnd(s.b[i:])
			if end < 0 {
				return nil, false
			}
			i += end
			if depth == 0 {
				return s.cut(i + 1)
			}
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return s.cut(i)
			}
			if depth--; depth == 0 {
				return s.cut(i + 1)
			}
		case ',', ':', ' ', '\t', '\n', '\r':
			if depth == 0 {
				return s.cut(i)
			}
		}
	}
	if depth > 0 {
		return nil, false
	}
	return s.cut(len(s.b))
}

func (s *scanner) cut(n int) ([]byte, bool) {
	v := s.b[:n]
	s.b = s.b[n:]
	return v, n > 0
}

// stringEnd returns where the string that b starts with closes.
func stringEnd(b []byte) int {
	for i := 1; i < len(b); i++ {
		q := bytes.IndexAny(b[i:], `"\`)
		if q < 0 {
			return -1
		}
		if i += q; b[i] == '"' {
			return i
		}
		i++ // what is escaped
	}
	return -1
}

// tooDeep reports whether raw nests deeper than max.
func tooDeep(raw []byte, max int) bool {
	depth := 0
	for i := 0; i < len(raw); i++ {
		switch raw[i] {
		case '"':
			end := stringEnd(raw[i:])
			if end < 0 {
				return true
			}
			i += end
		case '{', '[':
			if depth++; depth > max {
				return true
			}
		case '}', ']':
			depth--
		}
	}
	return false
}

// A roomEvent is a room event as the homeserver pushes it (client-server API
// v1.19, §room-event-format), or an ephemeral one.
type roomEvent struct {
	Type     string          `json:"type"`
	EventID  string          `json:"event_id"`
	RoomID   string          `json:"room_id"`
	Sender   string          `json:"sender"`
	SentMS   int64           `json:"origin_server_ts"`
	StateKey *string         `json:"state_key"`
	Content  json.RawMessage `json:"content"`
	Redacts  string          `json:"redacts"`
	Unsigned struct {
		PrevContent json.RawMessage `json:"prev_content"`
	} `json:"unsigned"`
}

// parseEvent reads one event within its bounds.
func parseEvent(raw []byte) (*roomEvent, error) {
	ev, err := parseShape(raw)
	if err != nil {
		return nil, err
	}
	// The origin gets a suffix where one event becomes several envelopes.
	if !strings.HasPrefix(ev.EventID, "$") || len(ev.EventID) > core.MaxOriginID-16 || !utf8.ValidString(ev.EventID) || strings.IndexByte(ev.EventID, 0) >= 0 {
		return nil, core.Errorf(core.Invalid, "an event without an event ID")
	}
	if _, _, ok := splitMXID(ev.Sender); !ok || ev.RoomID == "" || len(ev.Content) == 0 || ev.Content[0] != '{' {
		return nil, core.Errorf(core.Invalid, "an event without sender, room or content")
	}
	return ev, nil
}

func parseShape(raw []byte) (*roomEvent, error) {
	if len(raw) > maxEventBytes || tooDeep(raw, maxEventDepth) {
		return nil, core.Errorf(core.TooLarge, "an event over its bound")
	}
	var ev roomEvent
	if err := json.Unmarshal(raw, &ev); err != nil || ev.Type == "" {
		return nil, core.Errorf(core.Invalid, "an event that is not one")
	}
	return &ev, nil
}

// targets calls f with the event IDs that ev refers to.
func (ev *roomEvent) targets(f func(id string)) {
	var c struct {
		Redacts string `json:"redacts"`
		Relates struct {
			EventID string `json:"event_id"`
			Reply   struct {
				EventID string `json:"event_id"`
			} `json:"m.in_reply_to"`
		} `json:"m.relates_to"`
	}
	if ev.Redacts != "" {
		f(ev.Redacts)
	}
	if !bytes.Contains(ev.Content, []byte(`"m.relates_to"`)) && !bytes.Contains(ev.Content, []byte(`"redacts"`)) {
		return
	}
	if json.Unmarshal(ev.Content, &c) != nil {
		return // the converter will say what is wrong with it
	}
	for _, id := range [...]string{c.Redacts, c.Relates.EventID, c.Relates.Reply.EventID} {
		if id != "" {
			f(id)
		}
	}
}
