package native

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

func TestPosition(t *testing.T) {
	p := position{letters: 300, rooms: map[core.RoomID]uint64{}}
	for i := range 50 {
		p.rooms[core.NewRoomID("a.example", fmt.Sprintf("room %d", i))] = uint64(i * 1000)
	}
	s := p.String()
	if len(s) > 1000 {
		t.Errorf("50 rooms take %d octets", len(s))
	}
	q, err := parsePosition(s)
	if err != nil || q.letters != 300 || !maps.Equal(q.rooms, p.rooms) {
		t.Errorf("%+v came back as %+v (%v)", p, q, err)
	}
	for _, bad := range []string{"", "A", "!", s[:len(s)-2] + "__", "Ag"} {
		if _, err := parsePosition(bad); core.CodeOf(err) != core.Invalid || err == nil {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzPosition(f *testing.F) {
	f.Add((&position{letters: 1, rooms: map[core.RoomID]uint64{"mimi://a.example/r/x": 5, "mimi://a.example/r/y": 1 << 40}}).String())
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePosition(s)
		if err != nil {
			return
		}
		q, err := parsePosition(p.String())
		if err != nil || q.letters != p.letters || !maps.Equal(p.rooms, q.rooms) {
			t.Errorf("%q is %+v, which becomes %+v (%v)", s, p, q, err)
		}
	})
}

func TestSyncFromPosition(t *testing.T) {
	h := openAPI(t, nil)
	alice, bob := h.member("alice"), h.member("bob")
	room := alice.channel("lobby")
	alice.say(room, "before")
	start := alice.sync(wire.GetSync{})
	if len(start.Events) != 0 || len(start.Joined) != 1 || start.Joined[0].Head != 1 || start.Next == "" {
		t.Fatalf("the first sync is %+v", start)
	}
	bobStart := bob.sync(wire.GetSync{})
	bob.must(200, "POST", roomPath(room, "/join"), nil, nil)
	alice.say(room, "one", "two", "three")

	page := alice.sync(wire.GetSync{Since: start.Next, Limit: 2})
	if len(page.Events) != 2 || !page.More || page.Events[0].Text != "bob joined" {
		t.Errorf("the first page is %+v", page)
	}
	rest := alice.sync(wire.GetSync{Since: page.Next})
	if texts(rest.Events) != "two three" || rest.More {
		t.Errorf("the rest is %+v", rest)
	}
	if again := alice.sync(wire.GetSync{Since: page.Next}); texts(again.Events) != "two three" {
		t.Errorf("the same position once more gives %q", texts(again.Events))
	}
	// Whoever joins is told of the room, and sees what came since, with the join.
	joined := bob.sync(wire.GetSync{Since: bobStart.Next})
	if len(joined.Joined) != 1 || joined.Joined[0].Room != room || texts(joined.Events) != "one two three" || len(joined.Events) != 4 {
		t.Errorf("after joining: %+v", joined)
	}
	own := bob.sync(wire.GetSync{Since: bobStart.Next, Rooms: map[core.RoomID]uint64{room: 3}})
	if texts(own.Events) != "two three" {
		t.Errorf("from a position of the device's own: %q", texts(own.Events))
	}
	future := bob.sync(wire.GetSync{Since: bobStart.Next, Rooms: map[core.RoomID]uint64{room: 1 << 40}})
	alice.say(room, "four")
	if got := bob.sync(wire.GetSync{Since: future.Next}); texts(got.Events) != "four" {
		t.Errorf("after a position beyond the log: %q", texts(got.Events))
	}
	bob.must(204, "POST", roomPath(room, "/leave"), nil, nil)
	alice.say(room, "behind his back")
	left := bob.sync(wire.GetSync{Since: joined.Next})
	if len(left.Left) != 1 || left.Left[0] != room || len(left.Events) != 0 {
		t.Errorf("after leaving: %+v", left)
	}
	if after := bob.sync(wire.GetSync{Since: left.Next}); len(after.Left) != 0 || len(after.Events) != 0 {
		t.Errorf("and then: %+v", after)
	}
	// A stranger's position opens no room.
	if peek := bob.sync(wire.GetSync{Since: start.Next, Rooms: map[core.RoomID]uint64{room: 0}}); len(peek.Events) != 0 {
		t.Errorf("bob reads %q in a room that he is not in", texts(peek.Events))
	}
	// One that is not here yet is not one that he has left.
	elsewhere := core.NewRoomID("b.example", "far")
	if far := bob.sync(wire.GetSync{Since: start.Next, Rooms: map[core.RoomID]uint64{elsewhere: 0}}); len(far.Left) != 1 || far.Left[0] == elsewhere {
		t.Errorf("left: %v", far.Left)
	}
	alice.refused(core.Invalid, "GET", "/v1/sync?since=nonsense", nil)

	// A conversation is given from its first word, whoever began it.
	at := bob.sync(wire.GetSync{}).Next
	var talk wire.Room
	alice.must(200, "POST", "/v1/rooms", wire.CreateRoom{Direct: true, With: bob.user}, &talk)
	alice.say(talk.Room, "psst")
	if got := bob.sync(wire.GetSync{Since: at}); len(got.Joined) != 1 || texts(got.Events) != "psst" {
		t.Errorf("a new conversation: %+v", got)
	}
}

func TestSyncLongPoll(t *testing.T) {
	h := openAPI(t, nil)
	alice, bob := h.member("alice"), h.member("bob")
	room := alice.channel("lobby")
	at := bob.sync(wire.GetSync{}).Next
	poll := func(since string) <-chan wire.Sync {
		out := make(chan wire.Sync, 1)
		go func() { out <- bob.sync(wire.GetSync{Since: since, Wait: 20_000}) }()
		return out
	}
	take := func(c <-chan wire.Sync) wire.Sync {
		t.Helper()
		select {
		case s := <-c:
			return s
		case <-time.After(10 * time.Second):
			t.Fatal("the poll does not end")
			return wire.Sync{}
		}
	}
	waiting := poll(at)
	h.waiters(1)
	bob.must(200, "POST", roomPath(room, "/join"), nil, nil) // by another session of his
	s := take(waiting)
	if len(s.Joined) != 1 {
		t.Fatalf("joining woke with %+v", s)
	}
	waiting = poll(s.Next)
	h.waiters(1)
	alice.say(room, "hello")
	if s = take(waiting); texts(s.Events) != "hello" {
		t.Fatalf("a message woke with %+v", s)
	}
	waiting = poll(s.Next)
	h.waiters(1)
	alice.must(204, "POST", roomPath(room, "/typing"), wire.Typing{Typing: true}, nil)
	if s = take(waiting); len(s.Typing) != 1 || s.Typing[0].User != alice.user || !s.Typing[0].Typing {
		t.Fatalf("typing woke with %+v", s)
	}
	h.carol().refused(core.NotFound, "POST", roomPath(room, "/typing"), wire.Typing{Typing: true})
	began := time.Now()
	if s = bob.sync(wire.GetSync{Since: s.Next, Wait: 50}); len(s.Events) != 0 || time.Since(began) > 20*time.Second {
		t.Errorf("a poll that is over gives %+v after %v", s, time.Since(began))
	}
	h.waiters(0)
}

// waiters waits until so many streams and polls wait.
func (h *apiHouse) waiters(n int) {
	h.t.Helper()
	hub := h.bridge.api.hub
	for range 5000 {
		hub.mu.Lock()
		waiting := hub.waiting
		hub.mu.Unlock()
		if waiting == n {
			time.Sleep(20 * time.Millisecond) // it is in line, and now it waits
			return
		}
		time.Sleep(time.Millisecond)
	}
	h.t.Fatalf("there are never %d waiters", n)
}

func TestSyncSharesAmongRooms(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	busy, quiet := alice.channel("a-busy"), alice.channel("b-quiet")
	at := alice.sync(wire.GetSync{}).Next
	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprint(i))
	}
	alice.say(busy, many...)
	alice.say(quiet, "here")
	s := alice.sync(wire.GetSync{Since: at, Limit: 10})
	if !strings.Contains(texts(s.Events), "here") || !s.More || len(s.Events) > 10 {
		t.Errorf("one busy room keeps the other away: %q", texts(s.Events))
	}
	got, rounds := len(s.Events), 0
	for ; s.More && rounds < 100; rounds++ {
		s = alice.sync(wire.GetSync{Since: s.Next, Limit: 10})
		got += len(s.Events)
	}
	if got != 101 {
		t.Errorf("%d events in %d rounds", got, rounds)
	}
}

func TestSyncLetters(t *testing.T) {
	h := openAPI(t, nil)
	alice, bob := h.member("alice"), h.member("bob")
	start := bob.sync(wire.GetSync{})
	letter := wire.SealedLetter{Device: bob.device, KEM: make([]byte, 32), Ciphertext: make([]byte, 256+16)}
	alice.must(204, "POST", "/v1/inbox/bob", wire.PutInbox{Letters: []wire.SealedLetter{letter}}, nil)
	s := bob.sync(wire.GetSync{Since: start.Next, Wait: 5000})
	if len(s.Letters) != 1 || s.Letters[0].Kind != "sealed" {
		t.Fatalf("bob is given %+v", s.Letters)
	}
	var got wire.SealedLetter
	if err := cbor.Unmarshal(s.Letters[0].Body, &got); err != nil || len(got.Ciphertext) != 272 || got.Device != bob.device {
		t.Errorf("a letter came as %+v (%v)", got, err)
	}
	if s = bob.sync(wire.GetSync{Since: start.Next}); len(s.Letters) != 1 {
		t.Errorf("a letter that was not acknowledged: %+v", s.Letters)
	}
	bob.sync(wire.GetSync{Since: s.Next})
	if s = bob.sync(wire.GetSync{Since: start.Next}); len(s.Letters) != 0 {
		t.Errorf("a letter that was acknowledged: %+v", s.Letters)
	}

	put := func(code core.Code, path string, l wire.SealedLetter) {
		t.Helper()
		alice.refused(code, "POST", path, wire.PutInbox{Letters: []wire.SealedLetter{l}})
	}
	put(core.NotFound, "/v1/inbox/alice", letter) // not alice's device
	letter.Ciphertext = make([]byte, 300)
	put(core.Invalid, "/v1/inbox/bob", letter)
	letter.Ciphertext = make([]byte, core.MaxLetter*2+16)
	put(core.TooLarge, "/v1/inbox/bob", letter)
	letter.Device = core.NewDeviceURI(apiDomain, strings.Repeat("a", 26))
	letter.Ciphertext = make([]byte, 256+16)
	put(core.NotFound, "/v1/inbox/bob", letter)
	alice.refused(core.Invalid, "POST", "/v1/inbox/bob", wire.PutInbox{})
	put(core.Invalid, "/v1/inbox/mimi:%2F%2Fb.example%2Fu%2Fbob", letter) // a device of ours, a user of theirs
	letter.Device = core.NewDeviceURI("b.example", strings.Repeat("a", 26))
	put(core.Unavailable, "/v1/inbox/mimi:%2F%2Fb.example%2Fu%2Fbob", letter)
}

// What is behind a commit without a certificate waits.
func TestSyncHoldsBackCommits(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	room := core.NewRoomID(apiDomain, "group")
	commit := []byte{0, 1, 0, 1, 1, 'g', 0, 0, 0, 0, 0, 0, 0, 7, 1, 0, 0, 0, 0, 0, 3, 9}
	private := []byte{0, 1, 0, 2, 1, 'g'}
	err := h.db.Update(context.Background(), func(tx core.Tx) error {
		errs := []error{tx.PutRoom(core.Room{ID: room, Kind: core.Group, ContentType: core.ContentMIMI}),
			tx.PutMember(room, core.Member{User: alice.user, Via: core.NetworkNative, Role: core.RoleOwner, Joined: true})}
		for i, m := range [][]byte{private, commit, private} {
			errs = append(errs, tx.Append(core.Event{Seq: uint64(i + 1), Accepted: time.Now(), Envelope: core.Envelope{Room: room, Sender: alice.user,
				Origin: core.Origin{Network: core.NetworkNative}, Body: core.Sealed{Message: m}}}))
		}
		return errors.Join(errs...)
	})
	if err != nil {
		t.Fatal(err)
	}
	var hist wire.History
	alice.must(200, "GET", roomPath(room, "/history?after=0"), nil, &hist)
	if len(hist.Events) != 1 || hist.Events[0].Seq != 1 {
		t.Errorf("before the certificate: %+v", hist.Events)
	}
}

func TestStreamEvents(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	room := alice.channel("lobby")
	alice.accept = "text/event-stream"
	resp, err := http.DefaultClient.Do(alice.request("GET", "/v1/stream", "", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	event := func() (id string, s wire.Sync) {
		t.Helper()
		for lines.Scan() {
			line := lines.Text()
			if v, ok := strings.CutPrefix(line, "id: "); ok {
				id = v
			}
			if v, ok := strings.CutPrefix(line, "data: "); ok {
				if err := json.Unmarshal([]byte(v), &s); err != nil {
					t.Fatal(err)
				}
				return id, s
			}
		}
		t.Fatal("the stream has ended")
		return
	}
	id, s := event()
	if len(s.Joined) != 1 || id != s.Next {
		t.Fatalf("a stream begins with %+v", s)
	}
	alice.accept = ""
	alice.say(room, "over the stream")
	last, s := event()
	if texts(s.Events) != "over the stream" {
		t.Fatalf("then %+v", s)
	}
	resp.Body.Close()
	h.waiters(0)
	alice.say(room, "meanwhile")
	alice.accept = "text/plain"
	resp, err = http.DefaultClient.Do(alice.request("GET", "/v1/stream", "", nil, "Last-Event-ID", last))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	lines = bufio.NewScanner(resp.Body)
	if !lines.Scan() || !strings.HasSuffix(lines.Text(), "lobby alice: meanwhile") {
		t.Errorf("for people: %q", lines.Text())
	}
	h.waiters(1)
	alice.must(204, "DELETE", "/v1/sessions/self", nil, nil)
	if rest, err := io.ReadAll(resp.Body); err != nil || len(rest) != 0 {
		t.Errorf("a stream whose session was closed ends with %q, %v", rest, err)
	}
}

func TestStreamWebSocket(t *testing.T) {
	h := openAPI(t, nil)
	alice, bob := h.member("alice"), h.member("bob")
	room := alice.channel("lobby")
	for _, form := range []string{typeJSON, typeCBOR} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		ws, _, err := websocket.Dial(ctx, h.web.URL+"/v1/stream", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {alice.auth}, "Accept": {form}}})
		if err != nil {
			t.Fatal(err)
		}
		defer ws.CloseNow()
		read := func() (s wire.Sync) {
			t.Helper()
			kind, b, err := ws.Read(ctx)
			if err == nil && form == typeCBOR {
				err = cbor.Unmarshal(b, &s)
			} else if err == nil {
				err = json.Unmarshal(b, &s)
			}
			if err != nil || (kind == websocket.MessageBinary) != (form == typeCBOR) {
				t.Fatalf("%s: %v of kind %v", form, err, kind)
			}
			return s
		}
		if s := read(); len(s.Joined) != 1 {
			t.Errorf("%s begins with %+v", form, s)
		}
		alice.say(room, "hello")
		if s := read(); texts(s.Events) != "hello" {
			t.Errorf("%s goes on with %+v", form, s)
		}
		letter := wire.SealedLetter{Device: alice.device, KEM: make([]byte, 32), Ciphertext: make([]byte, 256+16)}
		bob.must(204, "POST", "/v1/inbox/alice", wire.PutInbox{Letters: []wire.SealedLetter{letter}}, nil)
		s := read()
		if len(s.Letters) != 1 {
			t.Fatalf("%s: a letter came as %+v", form, s)
		}
		ack, kind := []byte(`{"since":"`+s.Next+`"}`), websocket.MessageText
		if err := ws.Write(ctx, kind, ack); err != nil {
			t.Fatal(err)
		}
		for i := 0; ; i++ {
			if got := h.letters(alice.device); got == 0 {
				break
			} else if i == 1000 {
				t.Fatalf("%s: %d letters wait after they were acknowledged", form, got)
			}
			time.Sleep(time.Millisecond)
		}
		if err := ws.Write(ctx, kind, []byte("nonsense")); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ws.Read(ctx); websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
			t.Errorf("%s: nonsense ends with %v", form, err)
		}
	}
	if status, _, _ := h.stranger().raw("GET", "/v1/stream", "", nil, "Upgrade", "websocket", "Connection", "Upgrade"); status != 401 {
		t.Errorf("a stream for a stranger is %d", status)
	}
}

// However a device reads, in whatever form, and wherever it is cut off: what it is
// given from its last position on is everything, once, in order.
func TestStreamsLoseNothing(t *testing.T) {
	h := openAPI(t, nil)
	alice := h.member("alice")
	room := alice.channel("lobby")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	web := func(form string) func(string) wire.Sync {
		return func(since string) (s wire.Sync) {
			ws, _, err := websocket.Dial(ctx, h.web.URL+"/v1/stream?limit=1&since="+since, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {alice.auth}, "Accept": {form}}})
			if err != nil {
				t.Fatal(err)
			}
			defer ws.CloseNow()
			_, b, err := ws.Read(ctx)
			if err == nil && form == typeCBOR {
				err = cbor.Unmarshal(b, &s)
			} else if err == nil {
				err = json.Unmarshal(b, &s)
			}
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}
	events := func(since string) (s wire.Sync) {
		resp, err := http.DefaultClient.Do(alice.request("GET", "/v1/stream?limit=1", "", nil, "Last-Event-ID", since, "Accept", "text/event-stream"))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				if err := json.Unmarshal([]byte(v), &s); err != nil {
					t.Fatal(err)
				}
				return s
			}
		}
		t.Fatal("the stream has ended")
		return s
	}
	poll := func(since string) wire.Sync { return alice.sync(wire.GetSync{Since: since, Wait: 5000, Limit: 1}) }
	for name, read := range map[string]func(string) wire.Sync{"SSE": events, "WebSocket": web(typeJSON), "WebSocket, CBOR": web(typeCBOR), "poll": poll} {
		at := alice.sync(wire.GetSync{}).Next
		var said, heard []string
		for i := range 6 {
			for _, half := range []string{"a", "b"} {
				said = append(said, name+half+strconv.Itoa(i))
				alice.say(room, said[len(said)-1])
			}
			s := read(at)
			at, heard = s.Next, append(heard, texts(s.Events))
		}
		for len(heard) < len(said) {
			s := read(at)
			at, heard = s.Next, append(heard, texts(s.Events))
		}
		if d := cmp.Diff(said, heard); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

func (h *apiHouse) letters(d core.DeviceURI) (n int) {
	h.t.Helper()
	if err := h.db.View(context.Background(), func(r core.Reader) error {
		letters, err := core.LettersOf(r, d, 0, 10)
		n = len(letters)
		return err
	}); err != nil {
		h.t.Fatal(err)
	}
	return n
}

func TestStreamLimits(t *testing.T) {
	h := openAPI(t, func(c *APIConfig) { c.Streams = 2 })
	hub, s := h.bridge.api.hub, core.Session{User: "mimi://a.example/u/x"}
	a, err1 := hub.enter(s)
	_, err2 := hub.enter(s)
	_, err3 := hub.enter(s)
	if err1 != nil || err2 != nil || core.CodeOf(err3) != core.Limited {
		t.Errorf("three streams of two: %v, %v, %v", err1, err2, err3)
	}
	hub.leave(a)
	if _, err := hub.enter(s); err != nil {
		t.Errorf("a place that is free again: %v", err)
	}
}

// A batch is published in a time that does not depend on who reads, and marks a
// reader once however much there is.
func TestHubPublishNeverWaits(t *testing.T) {
	hub := newHub(10_000)
	room := core.RoomID("mimi://a.example/r/x")
	var ws []*waiter
	for i := range 1000 {
		w, err := hub.enter(core.Session{User: core.UserURI(fmt.Sprintf("mimi://a.example/u/%d", i))})
		if err != nil {
			t.Fatal(err)
		}
		hub.watch(w, map[core.RoomID]bool{room: true})
		ws = append(ws, w)
	}
	began := time.Now()
	for range 100 {
		hub.publish(bridges.Batch{Events: []core.Event{{Envelope: core.Envelope{Room: room, Body: core.Sealed{Message: []byte{0, 1, 0, 2, 0}}}}}})
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("100 batches for 1,000 readers who do not read took %v", took)
	}
	for _, w := range ws {
		if n := hub.take(w); !n.rooms[room] || len(n.rooms) != 1 || len(w.poke) != 1 {
			t.Fatalf("marked: %+v", n)
		}
		hub.leave(w)
	}
	if hub.waiting != 0 || len(hub.rooms) != 0 || len(hub.users) != 0 || len(hub.devices) != 0 {
		t.Errorf("left behind: %d waiting, %d rooms, %d users", hub.waiting, len(hub.rooms), len(hub.users))
	}
}

// Who joined a room elsewhere is woken by all that comes of it, until they are in.
func TestHubAwaits(t *testing.T) {
	hub := newHub(10)
	u, room, now := core.UserURI("mimi://a.example/u/x"), core.RoomID("mimi://b.example/r/x"), time.Unix(1000, 0)
	w, err := hub.enter(core.Session{User: u})
	if err != nil {
		t.Fatal(err)
	}
	woken := func() bool { return hub.take(w).list }
	woken()
	hub.await(room, u, now)
	if !woken() {
		t.Error("the room may be here already")
	}
	hub.publish(bridges.Batch{Rooms: []core.Room{{ID: room}}})
	if !woken() {
		t.Error("the room's state does not wake")
	}
	hub.publish(bridges.Batch{Events: []core.Event{{Envelope: core.Envelope{Room: room}}}})
	if !woken() {
		t.Error("the commit does not wake")
	}
	if !hub.awaits(room, u) || hub.awaits(room, "mimi://a.example/u/y") {
		t.Error("who awaits the room is not known")
	}
	hub.found(room, u)
	hub.publish(bridges.Batch{Events: []core.Event{{Envelope: core.Envelope{Room: room}}}})
	if woken() || len(hub.awaited) != 0 {
		t.Error("a room that was found is still awaited")
	}
	for i := range 2 * maxAwaited {
		hub.await(core.RoomID(fmt.Sprint(i)), u, now)
	}
	if len(hub.awaited) != maxAwaited {
		t.Errorf("%d rooms are awaited", len(hub.awaited))
	}
	hub.await(room, u, now.Add(time.Hour))
	if len(hub.awaited) != 1 {
		t.Errorf("after an hour %d rooms are awaited", len(hub.awaited))
	}
}

func TestRecent(t *testing.T) {
	hub := newHub(1)
	m := hub.recent
	many := map[core.UserURI]presence{}
	for i := range maxMembers / 2 {
		many[core.UserURI(fmt.Sprint(i))] = presence{in: true}
	}
	one := map[core.UserURI]presence{"x": {in: true}}
	m.keepMembers("a", many, 0)
	m.keepMembers("b", many, 0)
	m.keepMembers("c", one, 0)
	if _, ok := m.presence("c", "x"); m.known > maxMembers || len(m.members) != 2 || !ok {
		t.Errorf("%d members of %d rooms are remembered", m.known, len(m.members))
	}
	p := page{after: 3, events: []wire.Event{{Seq: 4}, {Seq: 5}}}
	m.keepPage("c", p, 0)
	if got, ok := m.page("c", 3, 2); !ok || len(got.events) != 2 {
		t.Error("a page is not remembered")
	}
	if _, ok := m.page("c", 4, 2); ok {
		t.Error("a page is given after another place")
	}
	if _, ok := m.page("c", 3, 1); ok {
		t.Error("a page is given to who wants less")
	}
	before := m.clock.Load()
	hub.changed(bridges.Batch{Events: []core.Event{{Envelope: core.Envelope{Room: "c"}, Control: &core.Control{Op: core.OpLeave}}}})
	_, known := m.presence("c", "x")
	if _, ok := m.page("c", 3, 2); ok || known {
		t.Error("what changed is remembered")
	}
	m.keepMembers("c", one, before) // of a snapshot before the change
	m.keepPage("c", p, before)
	_, known = m.presence("c", "x")
	if _, ok := m.page("c", 3, 2); ok || known {
		t.Error("an old snapshot is remembered")
	}
	m.keepPage("c", p, m.clock.Load())
	if _, ok := m.page("c", 3, 2); !ok {
		t.Error("a new snapshot is not remembered")
	}
	for i := range 2 * maxPages {
		m.keepPage(core.RoomID(fmt.Sprint(i)), p, m.clock.Load())
	}
	if len(m.pages) > maxPages {
		t.Errorf("%d pages are remembered", len(m.pages))
	}
	for i := range maxChanges + 1 {
		m.changed(core.RoomID(fmt.Sprint("room", i)), false)
	}
	if len(m.said.at) > maxChanges || !m.said.after("c", before) || m.said.after("c", m.clock.Load()) {
		t.Errorf("%d changes are remembered, none before %d", len(m.said.at), m.said.floor)
	}
}
