package matrix

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

// Any member may send an event of any type that is not state: it must not do
// what the state event of that type does.
func TestOnlyStateStopsALink(t *testing.T) {
	h := openHouse(t, nil)
	bob := homeserver(t).user(t, "bob")
	room, mx, l := h.linked(bob, core.Lazy)
	for i, typ := range []string{"m.room.encryption", "m.room.tombstone", "m.room.power_levels", "m.room.topic", "m.room.member"} {
		ev := fmt.Sprintf(`{"type":%q,"event_id":"$f%d","room_id":%q,"sender":%q,"origin_server_ts":1,"content":{"topic":"x","membership":"ban","users":{%q:100},"algorithm":"x"}}`,
			typ, i, mx, bob.UserID, bob.UserID)
		other := fmt.Sprintf(`{"type":%q,"event_id":"$g%d","room_id":%q,"sender":%q,"state_key":"elsewhere","origin_server_ts":1,"content":{"topic":"x","membership":"ban","users":{%q:100},"algorithm":"x"}}`,
			typ, i, mx, bob.UserID, bob.UserID)
		if status, code := h.put(fmt.Sprint("forged", i), transactionOf(ev, other)); status != http.StatusOK {
			t.Fatalf("%s answered %d %s", typ, status, code)
		}
	}
	if status, code := h.put("after", transactionOf(said("$after", mx, string(bob.UserID), "still here"))); status != http.StatusOK {
		t.Fatalf("answered %d %s", status, code)
	}
	if got := h.texts(room); !slices.Contains(got, "privmsg still here") {
		t.Errorf("the link was stopped by an event that is not state: %q", got)
	}
	if got, _ := h.b.link(l.Place); got.Paused != "" {
		t.Errorf("paused: %s", got.Paused)
	}
	for _, e := range h.log(room) {
		if e.Control != nil && e.Control.Op == core.OpTopic {
			t.Error("a topic from elsewhere than the state")
		}
	}
}

// A homeserver of an old room version may pass on any integer as the time.
func TestTimesOutsideTheCalendar(t *testing.T) {
	h := openHouse(t, nil)
	bob := homeserver(t).user(t, "bob")
	room, mx, _ := h.linked(bob, core.Lazy)
	for i, ts := range []string{"9223372036854775807", "-9223372036854775808", "0"} {
		ev := fmt.Sprintf(`{"type":"m.room.message","event_id":"$t%d","room_id":%q,"sender":%q,"origin_server_ts":%s,"content":{"msgtype":"m.text","body":"%d"}}`, i, mx, bob.UserID, ts, i)
		for range 2 { // again: a duplicate is read back
			if status, code := h.put("times", transactionOf(ev)); status != http.StatusOK {
				t.Fatalf("%s answered %d %s", ts, status, code)
			}
		}
	}
	if got := h.texts(room); !slices.Equal(got, []string{"privmsg 0", "privmsg 1", "privmsg 2"}) {
		t.Errorf("log holds %q", got)
	}
}

// An alias query comes from anybody on Matrix: it makes public only what is.
func TestAliasMakesNoClosedRoomPublic(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.CreateRooms = true })
	for name, r := range map[string]core.Room{
		"closedinvite": {Policy: core.Policy{InviteOnly: true}},
		"closedkey":    {Policy: core.Policy{Key: "sesame"}},
		"closedsecret": {Policy: core.Policy{Secret: true}},
		"closedreg":    {Policy: core.Policy{Registered: true}},
		"closedpair":   {Direct: true},
	} {
		r.ID, r.Name = core.NewRoomID(h.b.domain, name), "#"+name
		in := core.CreateRoom{Room: r}
		if r.Direct {
			in.Members = []core.Member{{User: core.NewUserURI(h.b.domain, "p1")}, {User: core.NewUserURI(h.b.domain, "p2")}}
		}
		if _, err := h.gw.Do(bg, in); err != nil {
			t.Fatal(err)
		}
		status, _ := raw(t, "GET", homeserver(t).front.url+"/_matrix/app/v1/rooms/%23"+h.b.alias(r.ID)+":"+h.b.cfg.Server, hsToken, nil)
		if status != http.StatusNotFound {
			t.Errorf("%s: answered %d, want 404", name, status)
		}
	}
}
