package native

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Rooms that somebody is not in are looked up, so they count as requests; and names
// that are none are refused before anything is looked up.
func TestSyncChargesForStrangeRooms(t *testing.T) {
	h := openAPI(t, func(c *APIConfig) { c.Requests = 8 })
	alice := h.member("alice")
	in := wire.GetSync{Since: alice.sync(wire.GetSync{}).Next, Rooms: map[core.RoomID]uint64{}}
	for i := range 16 * roomsPerRequest {
		in.Rooms[core.NewRoomID("b.example", fmt.Sprint(i))] = 0
	}
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	for range 10 {
		if status, _, _ := alice.raw("POST", "/v1/sync", typeJSON, body); status == http.StatusOK {
			answered++
		} else if status != http.StatusTooManyRequests {
			t.Fatal(status)
		}
	}
	if answered == 0 || answered > 4 {
		t.Errorf("%d requests for %d rooms each were answered", answered, len(in.Rooms))
	}
	bob := h.member("bob")
	for _, room := range []core.RoomID{"x", "mimi://a.example/r/\x00", "mimi://a.example/u/alice"} {
		bob.refused(core.Invalid, "POST", "/v1/sync", wire.GetSync{Rooms: map[core.RoomID]uint64{room: 1}})
		at := position{rooms: map[core.RoomID]uint64{room: 1}}
		bob.refused(core.Invalid, "POST", "/v1/sync", wire.GetSync{Since: at.String()})
	}
}

// Listing many rooms costs as much as many requests.
func TestListsOfRoomsAreCharged(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	for i := range 2 * roomsPerRequest {
		alice.channel(fmt.Sprint("#room", i))
	}
	for _, ask := range []string{"/v1/rooms", "/v1/sync"} {
		h.bridge.api.limits = newLimits(&APIConfig{Requests: 5, Messages: 5})
		answered := 0
		for range 20 {
			if status, _, _ := alice.raw("GET", ask, "", nil); status == http.StatusOK {
				answered++
			}
		}
		if answered < 6 || answered > 8 {
			t.Errorf("%s: %d answers of 128 rooms for the price of 20 requests", ask, answered)
		}
	}
}

// What a device sends over a WebSocket takes its share of the room for bodies.
func TestStreamInputIsCounted(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	bodies := h.bridge.api.bodies
	for _, busy := range []bool{true, false} {
		ws, _, err := websocket.Dial(ctx, h.web.URL+"/v1/stream", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {alice.auth}}})
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		free := func() {}
		if busy {
			free, _ = bodies.take("others", maxBodies)
		}
		w, err := ws.Writer(ctx, websocket.MessageText)
		if err == nil {
			_, err = w.Write(make([]byte, 4*shortWSInput))
		}
		if err != nil {
			t.Fatal(err)
		}
		if !busy {
			until(t, "the message to be counted", func() bool { return bodies.total() == maxWSInput })
			w.Close()
		}
		for err == nil {
			_, _, err = ws.Read(ctx)
		}
		if ctx.Err() != nil {
			t.Fatal("a message that cannot be read is waited for")
		}
		if free(); bodies.total() != 0 {
			t.Errorf("%d octets are still counted", bodies.total())
		}
	}
}
