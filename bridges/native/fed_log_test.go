package native

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

func (h *fedHome) incarnation(room core.RoomID) (log uint64) {
	h.Helper()
	if err := h.View(context.Background(), func(r core.Reader) (err error) { log, err = core.LogOf(r, room); return err }); err != nil {
		h.Fatal(err)
	}
	return log
}

func (h *fedHome) position(peer string, room core.RoomID) (at uint64) {
	h.Helper()
	if err := h.View(context.Background(), func(r core.Reader) (err error) { at, err = core.PeerPosition(r, peer, room); return err }); err != nil {
		h.Fatal(err)
	}
	return at
}

// What a homeserver says after it was restored from an old backup arrives, however it
// lies to what others have of it already; those who have nothing more hear it too.
func TestFederationRestoredFromBackup(t *testing.T) {
	for _, said := range []int{1, 3, 5} {
		t.Run(fmt.Sprintf("%d messages", said), func(t *testing.T) {
			hs := newFed(t, "a.example", "b.example", "c.example")
			a, b, c := hs[0], hs[1], hs[2]
			room := fedRoom("club", hs...)
			a.send(room, "1", "2")
			until(t, "two to arrive", func() bool { return b.stored.get() == 2 && c.stored.get() == 2 })
			until(t, "that to be written down", func() bool { return a.position("b.example", room) == 2 && a.position("c.example", room) == 2 })
			a.stop()
			backup, err := os.ReadFile(a.path)
			if err != nil {
				t.Fatal(err)
			}
			c.stop()
			a.start()
			a.send(room, "3", "4", "5")
			until(t, "three to arrive", func() bool { return b.stored.get() == 5 })
			a.stop()
			for _, end := range []string{"-wal", "-shm"} {
				os.Remove(a.path + end)
			}
			if err := os.WriteFile(a.path, backup, 0o600); err != nil {
				t.Fatal(err)
			}
			c.start()
			a.start()
			var news []string
			for i := range said {
				news = append(news, fmt.Sprint("new ", i))
			}
			a.send(room, news...)
			heard := func(h *fedHome, want ...string) {
				t.Helper()
				until(t, h.domain+" to hear everything", func() bool { return slices.Equal(h.log(room, "a.example"), want) })
			}
			heard(b, append([]string{"1", "2", "3", "4", "5"}, news...)...)
			heard(c, append([]string{"1", "2"}, news...)...)
			log := a.incarnation(room)
			a.send(room, "last")
			heard(b, append([]string{"1", "2", "3", "4", "5"}, append(news, "last")...)...)
			if log == 0 || a.incarnation(room) != log {
				t.Errorf("incarnation %d, then %d", log, a.incarnation(room))
			}
		})
	}
}

// A peer that says again and again that it has something else makes a homeserver begin
// one incarnation, and no more.
func TestFederationLiesAboutLog(t *testing.T) {
	h := newFed(t, "a.example")[0]
	room := core.NewRoomID("a.example", "r")
	asked := make(chan uint64, 100)
	at := liar(t, h.ca, "liar.example", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if !strings.HasSuffix(r.URL.Path, "/events") {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		rooms, err := parseEvents(body)
		if err != nil || len(rooms) != 1 {
			t.Errorf("%v, %v", rooms, err)
			return
		}
		asked <- rooms[0].Log
		write(w, typeCBOR, 200, wire.Stored{Rooms: []wire.RoomStored{{Room: room, Seq: 1, Mark: 1, Log: rooms[0].Log + 1}}})
	})
	h.bridge.fed.addresses.fix("liar.example", at)
	head, err := cborOut.Marshal(core.GroupHead{Domains: []string{"a.example", "liar.example"}})
	if err != nil {
		t.Fatal(err)
	}
	h.do(core.PutValue{Bucket: "group", Key: core.RoomKey(room), Data: head})
	h.do(core.CreateRoom{Room: core.Room{ID: room, Kind: core.Group}})
	h.send(room, "one", "two")
	if log := <-asked; log != 0 {
		t.Errorf("it begins with incarnation %d", log)
	}
	log := <-asked
	for range 3 {
		if now := <-asked; now != log || log == 0 || h.incarnation(room) != log {
			t.Errorf("incarnation %d, then %d", log, now)
		}
	}
}
