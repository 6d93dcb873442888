package native

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// sends has the agreement of the script say what a handshake asks for.
func (h *fedHome) sends(in core.Propose) (out []core.Send) {
	for _, to := range h.others {
		if to != h && len(in.Handshake.Welcome) == 0 {
			out = append(out, core.Send{To: to.domain, Message: core.PeerMessage{Room: in.Handshake.Room, Kind: core.PeerRaft, Body: in.Handshake.Message}})
		}
	}
	return out
}

// far queues a Welcome for the homeserver that a handshake names as its author.
func (h *fedHome) far(tx core.Tx, in core.Propose) []core.Welcome {
	if len(in.Handshake.Welcome) == 0 {
		return nil
	}
	w := core.Welcome{To: in.Handshake.By.Domain(), Room: in.Handshake.Room, Epoch: 7, Message: in.Handshake.Welcome, Tree: []byte("tree")}
	b, err := cbor.Marshal(w)
	if err != nil {
		h.Fatal(err)
	}
	if err := tx.PutValue("group welcome", fmt.Sprintf("%s/%s/%016x", w.To, core.RoomKey(w.Room), w.Epoch), b); err != nil {
		h.Fatal(err)
	}
	return []core.Welcome{w}
}

func spoken(what string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("%s %d %s", what, i, strings.Repeat("x", i%200))
	}
	return out
}

func (h *fedHome) has(room core.RoomID, home string, want []string) func() bool {
	return func() bool { return slices.Equal(h.log(room, home), want) }
}

func TestFederationCarriesMessagesBothWays(t *testing.T) {
	hs := newFed(t, "a.example", "b.example", "c.example")
	a, b, c := hs[0], hs[1], hs[2]
	var rooms []core.RoomID
	for i := range 20 {
		rooms = append(rooms, fedRoom(fmt.Sprint("room", i), a, b))
	}
	all := fedRoom("all", a, b, c)
	for _, r := range rooms {
		a.send(r, spoken("a "+string(r), 300)...)
		b.send(r, spoken("b "+string(r), 30)...)
	}
	a.send(all, "one")
	b.send(all, "two")
	c.send(all, "three")
	for _, r := range rooms {
		until(t, "messages of a at b", b.has(r, a.domain, spoken("a "+string(r), 300)))
		until(t, "messages of b at a", a.has(r, b.domain, spoken("b "+string(r), 30)))
	}
	for _, h := range hs {
		for _, o := range hs {
			if o != h {
				until(t, "everybody's message everywhere", h.has(all, o.domain, o.log(all, "")))
			}
		}
	}
	if n := a.gaps.get() + b.gaps.get() + c.gaps.get(); n > 0 {
		t.Errorf("%d gaps", n)
	}
	if len(c.log(rooms[0], a.domain)) > 0 {
		t.Error("a homeserver that is not in a room got its messages")
	}
}

func TestFederationLatency(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	room := fedRoom("r", hs...)
	hs[0].send(room, "first")
	until(t, "the first", hs[1].has(room, "a.example", []string{"first"}))
	began := time.Now()
	for i := range 20 {
		hs[0].send(room, fmt.Sprint(i))
		until(t, "the next", func() bool { return len(hs[1].log(room, "a.example")) == i+2 })
	}
	if took := time.Since(began) / 20; took > time.Second {
		t.Errorf("a lone message takes %v", took)
	}
}

func TestFederationPeerIsAway(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a, b := hs[0], hs[1]
	room := fedRoom("r", a, b)
	a.send(room, spoken("before", 10)...)
	until(t, "what was said before", b.has(room, a.domain, spoken("before", 10)))
	b.stop()
	want := append(spoken("before", 10), spoken("while", 3000)...)
	a.send(room, spoken("while", 3000)...)
	until(t, "the outage to show", func() bool { return a.bridge.Peers()[0].Failures > 0 })
	a.stop() // what waits survives
	a.start()
	b.start()
	if err := a.bridge.RetryPeer(b.domain); err != nil && core.CodeOf(err) != core.NotFound {
		t.Fatal(err)
	}
	until(t, "what was said meanwhile", b.has(room, a.domain, want))
	if b.gaps.get() > 0 {
		t.Errorf("%d gaps", b.gaps.get())
	}
	p := a.bridge.Peers()
	until(t, "the peer to be well", func() bool { p = a.bridge.Peers(); return p[0].Failures == 0 && p[0].Waiting == 0 })
	if len(p) != 1 || p[0].Domain != b.domain || p[0].Rooms != 1 || !p[0].Fixed || p[0].Last.IsZero() {
		t.Errorf("peers: %+v", p)
	}
}

func TestFederationRestartRepeatsLittle(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a, b := hs[0], hs[1]
	room := fedRoom("r", a, b)
	a.send(room, spoken("said", 1000)...)
	until(t, "all", b.has(room, a.domain, spoken("said", 1000)))
	until(t, "the position to be stored", func() bool {
		var at uint64
		if err := a.View(context.Background(), func(r core.Reader) (err error) {
			at, err = core.PeerPosition(r, b.domain, room)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return at == 1000
	})
	a.stop()
	a.start()
	a.send(room, "more")
	until(t, "more", b.has(room, a.domain, append(spoken("said", 1000), "more")))
	if b.repeats.get() > 0 {
		t.Errorf("%d messages came again", b.repeats.get())
	}
}

func TestFederationWaitsForAnEpoch(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a, b := hs[0], hs[1]
	room, other := fedRoom("r", a, b), fedRoom("other", a, b)
	b.mu.Lock()
	b.opened = 5
	b.mu.Unlock()
	a.send(room, spoken("said", 10)...)
	a.send(other, "not held up")
	until(t, "the first five", b.has(room, a.domain, spoken("said", 10)[:5]))
	until(t, "the other room", b.has(other, a.domain, []string{"not held up"}))
	b.mu.Lock()
	b.opened = 100
	b.mu.Unlock()
	until(t, "the rest", b.has(room, a.domain, spoken("said", 10)))
}

func TestFederationPeerForgets(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a, b := hs[0], hs[1]
	room := fedRoom("r", a, b)
	a.send(room, spoken("said", 10)...)
	until(t, "all", b.has(room, a.domain, spoken("said", 10)))
	b.do(core.PutValue{Bucket: "script stored", Key: core.RoomKey(room) + "/" + a.domain, Data: []byte("\xa1\x66Stored\x03")}) // a backup was restored
	a.send(room, "more")
	want := append(spoken("said", 10), spoken("said", 10)[3:]...)
	until(t, "what was forgotten", b.has(room, a.domain, append(want, "more")))
}

func TestFederationCarriesTheAgreement(t *testing.T) {
	hs := newFed(t, "a.example", "b.example", "c.example")
	room := fedRoom("r", hs...)
	for _, h := range hs[1:] {
		until(t, "the room to be known", func() bool { return h.bridge.fed.known("a.example") })
	}
	big := []byte(strings.Repeat("snapshot", 1<<20))
	for i := range 100 {
		hs[0].do(core.Propose{Handshake: &core.Handshake{Room: room, Message: []byte{byte(i)}}})
	}
	hs[0].do(core.Propose{Handshake: &core.Handshake{Room: room, Message: big}})
	for _, h := range hs[1:] {
		until(t, "all messages", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.said) == 101
		})
		largest := 0
		for _, s := range h.said {
			if s.from != "a.example" || s.Room != room || s.Kind != core.PeerRaft {
				t.Fatalf("%+v", s)
			}
			largest = max(largest, len(s.Body))
		}
		if largest != len(big) {
			t.Errorf("the largest has %d octets", largest)
		}
	}
}

func TestFederationAgreementDropsTheOldest(t *testing.T) {
	p := &peer{f: &federation{metrics: newFedMetrics(nil)}, domain: "b.example"}
	a := newAgreement(p)
	for i := range maxAgree + 10 {
		a.put(core.PeerMessage{Body: []byte{byte(i), byte(i >> 8)}}, i%2 == 0)
	}
	ms := a.take()
	if len(ms) != maxAgree || ms[0].Body[0] != 10 || a.octets != 0 {
		t.Errorf("%d messages, the first is %d, %d octets are left", len(ms), ms[0].Body[0], a.octets)
	}
	a.put(core.PeerMessage{Body: make([]byte, maxAgreeBytes-10)}, false)
	a.put(core.PeerMessage{Body: make([]byte, 20)}, false)
	if ms := a.take(); len(ms) != 1 || len(ms[0].Body) != 20 {
		t.Errorf("%d messages after octets ran out", len(ms))
	}
}

func TestFederationWelcomesSurvive(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a, b := hs[0], hs[1]
	room := core.NewRoomID("a.example", "r")
	b.stop()
	a.do(core.Propose{Handshake: &core.Handshake{Room: room, By: "mimi://b.example/d/x", Welcome: []byte("welcome")}})
	a.stop()
	a.start()
	b.start()
	until(t, "the Welcome", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return len(b.welcomes) > 0 })
	w := b.welcomes[0]
	if w.Room != room || w.Epoch != 7 || string(w.Message) != "welcome" || string(w.Tree) != "tree" {
		t.Errorf("%+v", w)
	}
	waiting := func() (n int) {
		if err := a.View(context.Background(), func(r core.Reader) error {
			ws, err := core.WelcomesOf(r, "b.example", 10)
			n = len(ws)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	until(t, "the queue to be empty", func() bool { return waiting() == 0 })
	b.mu.Lock()
	b.refuse = core.Errorf(core.Denied, "for nobody here")
	b.mu.Unlock()
	a.do(core.Propose{Handshake: &core.Handshake{Room: room, By: "mimi://b.example/d/y", Welcome: []byte("second")}})
	until(t, "the refused one to leave the queue", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.welcomes) == 2 && waiting() == 0
	})
}

func TestFederationTicks(t *testing.T) {
	ca := newAuthority(t)
	h := &fedHome{TB: t, domain: "a.example", ca: ca, path: t.TempDir() + "/db"}
	var awake counter
	h.config = FederationConfig{Awake: func() bool { return awake.get() > 0 }} // no address: off
	ticks := func() int { h.mu.Lock(); defer h.mu.Unlock(); return h.ticks }
	h.start()
	time.Sleep(3 * core.TickEvery)
	if ticks() > 0 {
		t.Error("the clock moves while everybody sleeps")
	}
	awake.Add(1)
	until(t, "ticks", func() bool { return ticks() >= 2 })
	if _, err := h.bridge.fed.claim(context.Background(), "b.example", wire.PeerClaim{By: "mimi://a.example/u/alice", Users: []core.UserURI{"mimi://b.example/u/bob"}}); core.CodeOf(err) != core.Unavailable {
		t.Errorf("without federation: %v", err)
	}
}
