package matrix

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

// A house is the bridge with the real runtime, engine and SQLite store, in a
// directory that outlives it.
type house struct {
	t       testing.TB
	dir     string
	b       *Bridge
	gw      *brokenGateway
	db      *store.DB
	stop    context.CancelFunc
	stopped chan error
	salt    atomic.Int64
}

// A brokenGateway is the runtime, until a test says that the store is away.
type brokenGateway struct {
	bridges.Gateway
	away   atomic.Bool
	signal atomic.Pointer[signals]
}

func (g *brokenGateway) Signal(s core.Signal) {
	if to := g.signal.Load(); to != nil {
		to.c <- s
		return
	}
	g.Gateway.Signal(s)
}

func (g *brokenGateway) Submit(ctx context.Context, es ...core.Envelope) ([]core.Receipt, error) {
	if g.away.Load() {
		return nil, core.Errorf(core.Unavailable, "the store is away")
	}
	return g.Gateway.Submit(ctx, es...)
}

type gated struct {
	*Bridge
	h *house
}

func (g gated) Run(ctx context.Context, gw bridges.Gateway) error {
	g.h.gw.Gateway = gw
	return g.Bridge.Run(ctx, g.h.gw)
}

func openHouse(t testing.TB, change func(*Config)) *house {
	t.Helper()
	return openHouseIn(t, t.TempDir(), change)
}

func openHouseIn(t testing.TB, dir string, change func(*Config)) *house {
	t.Helper()
	s := homeserver(t)
	cfg := s.config()
	if change != nil {
		change(&cfg)
	}
	db, err := store.Open(context.Background(), store.Options{URL: "sqlite:" + filepath.Join(dir, "isthmus.db"), Homeserver: ourDomain})
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	h := &house{t: t, dir: dir, db: db, gw: &brokenGateway{}, b: New(cfg, log, nil), stopped: make(chan error, 1)}
	seed := sha256.Sum256([]byte("test key"))
	rt := bridges.NewRuntime(bridges.RuntimeConfig{Store: db, Holder: "test", Log: log,
		Engine: func() bridges.Decider {
			return core.NewEngine(core.Config{Homeserver: ourDomain, Key: ed25519.NewKeyFromSeed(seed[:])})
		},
		Bridges: []bridges.Bridge{gated{h.b, h}}})
	ctx, stop := context.WithCancel(context.Background())
	h.stop = stop
	go func() { h.stopped <- rt.Run(ctx) }()
	handler := h.b.Handler()
	s.handler.Store(&handler)
	h.until("the bridge runs", func() bool { _, err := h.b.gateway(); return err == nil })
	t.Cleanup(h.close)
	return h
}

func (h *house) close() {
	if h.stop == nil {
		return
	}
	homeserver(h.t).handler.Store(nil)
	h.stop()
	h.stop = nil
	select {
	case err := <-h.stopped:
		if err != nil {
			h.t.Errorf("the runtime ended with %v", err)
		}
	case <-time.After(30 * time.Second):
		h.t.Error("the runtime did not stop")
	}
	h.db.Close()
}

// until waits for what must come true within 20 s.
func (h *house) until(what string, f func() bool) {
	h.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if f() {
			return
		}
	}
	h.t.Fatalf("never happened: %s", what)
}

const ircUser = core.UserURI("mimi://" + ourDomain + "/u/Ann")

// channel makes a Channel with the IRC user Ann as its owner.
func (h *house) channel(name string) core.RoomID {
	h.t.Helper()
	room := core.NewRoomID(ourDomain, strings.TrimPrefix(name, "#"))
	_, err := h.b.gw.Do(context.Background(), core.CreateRoom{Room: core.Room{ID: room, Name: name},
		Members: []core.Member{{User: ircUser, Via: core.NetworkIRC, Role: core.RoleOwner, Joined: true, Profile: core.Profile{Name: "Ann"}}}})
	if err != nil {
		h.t.Fatal(err)
	}
	return room
}

// linked makes a channel and a Matrix room, of which owner is the creator, and links them.
func (h *house) linked(owner *mautrix.Client, mode core.Mode) (core.RoomID, id.RoomID, core.Link) {
	h.t.Helper()
	room := h.channel(fmt.Sprintf("#room%d", homeserver(h.t).users.Add(1)))
	mx := createRoom(h.t, owner, h.b.bot)
	l, err := h.b.EnsureLink(context.Background(), core.Link{Room: room, Place: mx.String(), Owner: "test", Mode: mode}, LinkOptions{})
	if err != nil {
		h.t.Fatal(err)
	}
	return room, mx, l
}

// createRoom makes a room in which the bot may do everything but touch its owner.
func createRoom(t testing.TB, owner *mautrix.Client, bot string) id.RoomID {
	t.Helper()
	res, err := owner.CreateRoom(context.Background(), &mautrix.ReqCreateRoom{Preset: "public_chat", Name: "room", RoomVersion: "11",
		Invite:             []id.UserID{id.UserID(bot)},
		PowerLevelOverride: &event.PowerLevelsEventContent{Users: map[id.UserID]int{owner.UserID: 150, id.UserID(bot): 100}}})
	if err != nil {
		t.Fatal(err)
	}
	return res.RoomID
}

// do submits and wants success.
func (h *house) do(env core.Envelope) *core.Event {
	h.t.Helper()
	rs, err := h.b.gw.Submit(context.Background(), env)
	if err == nil {
		err = rs[0].Err
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return rs[0].Event
}

// says is Ann's line in the channel; change may make it anything else.
func (h *house) says(room core.RoomID, text string, change ...func(*converter.Content)) *core.Event {
	h.t.Helper()
	c := converter.Content{Salt: converter.NewSalt(fmt.Append(nil, h.t.Name(), h.salt.Add(1))),
		Part: converter.Part{Disposition: converter.DispositionRender, Cardinality: converter.SinglePart, Type: converter.TypePlain, Body: []byte(text)}}
	for _, f := range change {
		f(&c)
	}
	return h.do(c.Envelope(core.Envelope{Room: room, Sender: ircUser, Origin: core.Origin{Network: core.NetworkIRC}}, "Ann"))
}

func (h *house) control(room core.RoomID, by core.UserURI, c core.Control) *core.Event {
	h.t.Helper()
	return h.do(core.Envelope{Room: room, Sender: by, Origin: core.Origin{Network: core.NetworkIRC}, Body: c.Body(by.Local())})
}

// log returns the room's whole log.
func (h *house) log(room core.RoomID) (events []core.Event) {
	h.t.Helper()
	err := h.gw.View(context.Background(), func(r core.Reader) (err error) {
		events, err = r.Events(room, core.Range{Limit: 20000})
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return events
}

// texts returns what IRC would show of the messages that came from Matrix.
func (h *house) texts(room core.RoomID) (lines []string) {
	for _, ev := range h.log(room) {
		if ev.Control != nil || ev.Deleted || ev.Origin.Network != h.b.network {
			continue
		}
		out, _, err := converter.IRC{}.Outbound(&ev, converter.NoNames{})
		if err != nil {
			h.t.Fatal(err)
		}
		lines = append(lines, out.Kind.String()+" "+strings.Join(out.Lines, "\n"))
	}
	return lines
}

// find waits for an event of the log.
func (h *house) find(room core.RoomID, what string, f func(*core.Event) bool) *core.Event {
	h.t.Helper()
	var found *core.Event
	h.until(what, func() bool {
		for _, ev := range h.log(room) {
			if f(&ev) {
				found = &ev
				return true
			}
		}
		return false
	})
	return found
}

func (h *house) member(room core.RoomID, user core.UserURI) (m core.Member, ok bool) {
	h.gw.View(context.Background(), func(r core.Reader) error {
		ms, err := r.Members(room)
		for _, x := range ms {
			if x.User == user {
				m, ok = x, true
			}
		}
		return err
	})
	return m, ok
}

// timeline returns a room's events as a Matrix client sees them, oldest first.
func timeline(t testing.TB, c *mautrix.Client, room id.RoomID) (events []*event.Event) {
	t.Helper()
	res, err := c.Messages(context.Background(), room, "", "", mautrix.DirectionBackward, nil, 500)
	if err != nil {
		t.Fatal(err)
	}
	for i := len(res.Chunk) - 1; i >= 0; i-- {
		res.Chunk[i].Content.ParseRaw(res.Chunk[i].Type)
		events = append(events, res.Chunk[i])
	}
	return events
}

// bodies returns the messages that ghosts sent.
func (h *house) bodies(c *mautrix.Client, room id.RoomID) (lines []string) {
	for _, ev := range timeline(h.t, c, room) {
		if ev.Type == event.EventMessage && h.b.ours(string(ev.Sender)) && string(ev.Sender) != h.b.bot {
			lines = append(lines, ev.Content.AsMessage().Body)
		}
	}
	return lines
}

// seen waits for an event in the Matrix room.
func (h *house) seen(c *mautrix.Client, room id.RoomID, what string, f func(*event.Event) bool) *event.Event {
	h.t.Helper()
	var found *event.Event
	h.until(what, func() bool {
		for _, ev := range timeline(h.t, c, room) {
			if f(ev) {
				found = ev
				return true
			}
		}
		return false
	})
	return found
}

func (h *house) uri(c *mautrix.Client) core.UserURI {
	u, ok := h.b.userURI(string(c.UserID))
	if !ok {
		h.t.Fatalf("no URI for %s", c.UserID)
	}
	return u
}
