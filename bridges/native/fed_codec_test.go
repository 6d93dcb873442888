package native

import (
	"bytes"
	"math"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

func drawEvents(t *rapid.T) []wire.RoomEvents {
	event := rapid.Custom(func(t *rapid.T) core.PeerEvent {
		return core.PeerEvent{Seq: rapid.Uint64().Draw(t, "seq"), Prev: rapid.Uint64().Draw(t, "prev"), Accepted: rapid.Int64().Draw(t, "accepted"),
			Sender:  core.UserURI(rapid.SampledFrom([]string{"", "mimi://a.example/u/alice", "mimi://a.example/u/é"}).Draw(t, "sender")),
			Message: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "message")}
	})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) wire.RoomEvents {
		return wire.RoomEvents{Log: rapid.Uint64().Draw(t, "log"), Room: core.NewRoomID("a.example", rapid.StringN(1, 30, 90).Draw(t, "room")), Events: rapid.SliceOfN(event, 0, 30).Draw(t, "events")}
	}), 0, 5).Draw(t, "rooms")
}

// What is written by hand is the library's CBOR of wire.Events, both ways.
func TestEventsAgainstLibrary(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rooms := drawEvents(t)
		want, err := cborOut.Marshal(wire.Events{Rooms: rooms})
		if err != nil {
			t.Fatal(err)
		}
		got := appendEvents(nil, rooms)
		if !bytes.Equal(got, want) {
			t.Fatalf("written\n%x, want\n%x", got, want)
		}
		back, err := parseEvents(got)
		if err != nil {
			for _, r := range rooms { // a room's name may be none: the library does not look
				if _, perr := core.ParseRoomID(string(r.Room)); perr != nil {
					return
				}
			}
			t.Fatal(err)
		}
		if d := cmp.Diff(rooms, back, cmp.AllowUnexported()); d != "" {
			t.Fatal(d)
		}
	})
}

func TestParseEventsRefuses(t *testing.T) {
	room := wire.RoomEvents{Room: "mimi://a.example/r/x", Events: []core.PeerEvent{{Seq: 1, Sender: "mimi://a.example/u/a", Message: []byte("m")}}}
	good := appendEvents(nil, []wire.RoomEvents{room})
	many := make([]wire.RoomEvents, maxBatchLanes+1)
	for i := range many {
		many[i] = room
	}
	full := room
	full.Events = make([]core.PeerEvent, maxLaneEvents+1)
	for name, b := range map[string][]byte{
		"nothing": nil, "the end is missing": good[:len(good)-1], "something follows": append(bytes.Clone(good), 0),
		"another map": {0xa0}, "another key": []byte("\xa1\x65roomz\x80"), "a long head": []byte("\xa1\x65rooms\x98\x01"),
		"endless":            []byte("\xa1\x65rooms\x9f\xff"),
		"many events":        append([]byte("\xa1\x65rooms\x81\x83\x74mimi://a.example/r/x\x00"), 0x99, 0x0f, 0xff),
		"no room":            appendEvents(nil, []wire.RoomEvents{{Room: "x"}}),
		"too many rooms":     appendEvents(nil, many),
		"too many events":    appendEvents(nil, []wire.RoomEvents{full}),
		"a huge message":     append(bytes.Clone(good[:len(good)-2]), 0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff),
		"a sender not UTF-8": appendEvents(nil, []wire.RoomEvents{{Room: room.Room, Events: []core.PeerEvent{{Sender: "\xff"}}}}),
	} {
		if _, err := parseEvents(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := parseEvents(good); err != nil {
		t.Error(err)
	}
}

func FuzzParseEvents(f *testing.F) {
	f.Add(appendEvents(nil, nil))
	f.Add(appendEvents(nil, []wire.RoomEvents{{Room: "mimi://a.example/r/x", Events: []core.PeerEvent{
		{Seq: 300, Prev: 70000, Accepted: -5, Sender: "mimi://a.example/u/a", Message: []byte("m")},
		{Seq: math.MaxUint64, Accepted: math.MinInt64, Sender: "mimi://a.example/u/a", Message: bytes.Repeat([]byte("x"), 300)}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		rooms, err := parseEvents(b)
		if err != nil {
			return
		}
		if again := appendEvents(nil, rooms); !bytes.Equal(again, b) {
			t.Errorf("%x was read as %x", b, again)
		}
		var lib wire.Events
		if err := cborIn.Unmarshal(b, &lib); err != nil {
			t.Errorf("the library refuses it: %v", err)
		}
	})
}
