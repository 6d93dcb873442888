package bridges_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

const home = "a.example"

var (
	room  = core.NewRoomID(home, "chan")
	alice = core.NewUserURI(home, "alice")
)

// recorder is a bridge whose network is this test: it keeps what it was given.
type recorder struct {
	network core.Network
	fail    func(core.Event) error

	mu        sync.Mutex
	published []core.EventID
	delivered []core.EventID
}

func (b *recorder) Network() core.Network { return b.network }
func (b *recorder) Caps() core.Caps       { return core.Caps{} }
func (b *recorder) Signal(core.Signal)    {}

func (b *recorder) Run(ctx context.Context, _ bridges.Gateway) error {
	<-ctx.Done()
	return nil
}

func (b *recorder) Publish(batch bridges.Batch) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, e := range batch.Events {
		b.published = append(b.published, e.ID)
	}
}

func (b *recorder) Deliver(_ context.Context, d core.Delivery) (core.Report, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		if err := b.fail(d.Event); err != nil {
			return core.Report{}, err
		}
	}
	b.delivered = append(b.delivered, d.Event.ID)
	return core.Report{Placed: []string{"$" + d.Event.ID.String()}}, nil
}

func (b *recorder) has(id core.EventID) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Contains(b.published, id)
}

func (b *recorder) got() []core.EventID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.delivered)
}

// flaky is a store whose transactions fail when told to: a disk one can break.
type flaky struct {
	core.Store
	mu     sync.Mutex
	before error // fail before the commit
	poison string
	hold   chan struct{} // if set, an update waits for it first
	tries  int
}

func (f *flaky) Update(ctx context.Context, g func(core.Tx) error) error {
	f.mu.Lock()
	fail, poison, hold := f.before, f.poison, f.hold
	f.tries++
	f.mu.Unlock()
	if hold != nil {
		<-hold
	}
	return f.Store.Update(ctx, func(tx core.Tx) error {
		if err := g(&poisonTx{tx, poison}); err != nil {
			return err
		}
		return fail
	})
}

type poisonTx struct {
	core.Tx
	poison string
}

func (p *poisonTx) Append(e core.Event) error {
	if s, _ := e.Signed(); p.poison != "" && string(s.Content) == p.poison {
		return core.Errorf(core.Unavailable, "the store cannot take this one")
	}
	return p.Tx.Append(e)
}

type rig struct {
	*bridges.Runtime
	t     *testing.T
	store *flaky
	stop  func()
}

func start(t *testing.T, path string, bs ...bridges.Bridge) *rig {
	db, err := store.Open(context.Background(), store.Options{URL: "sqlite:" + path, Homeserver: home})
	if err != nil {
		t.Fatal(err)
	}
	f := &flaky{Store: db}
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	rt := bridges.NewRuntime(bridges.RuntimeConfig{Store: f, Bridges: bs, Holder: home,
		Engine: func() bridges.Decider { return core.NewEngine(core.Config{Homeserver: home, Key: key}) }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- rt.Run(ctx) }()
	r := &rig{Runtime: rt, t: t, store: f}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

func (r *rig) do(in core.Input) core.Output {
	r.t.Helper()
	out, err := r.Do(context.Background(), in)
	if err != nil {
		r.t.Fatalf("%T: %v", in, err)
	}
	return out
}

func say(text string) core.Envelope {
	return core.Envelope{Room: room, Sender: alice, Origin: core.Origin{Network: "irc"},
		Body: core.Signed{Name: "alice", ContentType: core.ContentMIMI, Content: []byte(text)}}
}

func (r *rig) open() {
	r.t.Helper()
	r.do(core.CreateRoom{Room: core.Room{ID: room, Name: "#chan", Founder: alice}})
	e := say("")
	e.Body = core.Control{Op: core.OpJoin, Profile: &core.Profile{Name: "alice", Account: "alice"}}.Body("alice")
	r.do(e)
}

func (r *rig) link(network core.Network, place string) {
	r.t.Helper()
	r.do(core.PutLink{Link: core.Link{ID: place, Room: room, Network: network, Place: place, Owner: "op"}})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("never: %s", what)
}

func TestReceiptsComeAfterPublish(t *testing.T) {
	b := &recorder{network: "x"}
	r := start(t, filepath.Join(t.TempDir(), "a.db"), b)
	r.open()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for i := range 50 {
				rs, err := r.Submit(context.Background(), say(fmt.Sprint(g, i, "a")), say(fmt.Sprint(g, i, "b")))
				if err != nil || rs[0].Err != nil || rs[1].Err != nil {
					t.Errorf("%v %+v", err, rs)
					return
				}
				if rs[1].Event.Seq != rs[0].Event.Seq+1 || !b.has(rs[1].Event.ID) {
					t.Error("two of one submission are not neighbours, or were answered before they were published")
				}
			}
		})
	}
	wg.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := 1; i < len(b.published); i++ {
		if b.published[i].Seq() != b.published[i-1].Seq()+1 {
			t.Fatal("published out of order")
		}
	}
}

func TestOneBadEnvelopeDoesNotFailItsNeighbours(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "a.db"))
	r.open()
	stranger := say("x")
	stranger.Sender = core.NewUserURI(home, "nobody")
	rs, err := r.Submit(context.Background(), say("1"), stranger, say("2"))
	if err != nil || rs[0].Err != nil || core.ReasonOf(rs[1].Err) != core.NotJoined || rs[2].Event.Seq != rs[0].Event.Seq+1 {
		t.Fatalf("%v %+v", err, rs)
	}
}

func TestDatabaseGoneAndBack(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "a.db"))
	r.open()
	r.store.mu.Lock()
	r.store.before = errors.New("disk full")
	r.store.mu.Unlock()
	if _, err := r.Submit(context.Background(), say("lost")); core.CodeOf(err) != core.Unavailable {
		t.Fatalf("%v", err)
	}
	r.store.mu.Lock()
	r.store.before = nil
	r.store.mu.Unlock()
	rs, err := r.Submit(context.Background(), say("kept"))
	if err != nil || rs[0].Err != nil || rs[0].Event.Seq != 2 {
		t.Fatalf("after a failed commit the log must go on where the store is: %v %+v", err, rs)
	}
}

func TestWhatTheStoreCannotTakeFailsAlone(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "a.db"))
	r.open()
	r.store.mu.Lock()
	r.store.poison = "poison"
	r.store.mu.Unlock()
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			text := fmt.Sprint("m", i)
			if i == 7 {
				text = "poison"
			}
			rs, err := r.Submit(context.Background(), say(text))
			if (i == 7) != (core.CodeOf(err) == core.Unavailable && err != nil) || i != 7 && rs[0].Err != nil {
				t.Errorf("message %d: %v %+v", i, err, rs)
			}
		})
	}
	wg.Wait()
}

func TestLinkLosesNothingWhileTheFarSideIsAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.db")
	away := true
	b := &recorder{network: "x:1"}
	b.fail = func(e core.Event) error {
		if s, _ := e.Signed(); string(s.Content) == "bad" {
			return core.Errorf(core.Denied, "never")
		}
		if away {
			return &core.Error{Code: core.Unavailable, Text: "away", RetryAfter: 5 * time.Millisecond}
		}
		return nil
	}
	r := start(t, path, b)
	r.open()
	r.link("x:1", "place")
	var want []core.EventID
	submit := func(r *rig, text string) {
		rs, err := r.Submit(context.Background(), say(text))
		if err != nil || rs[0].Err != nil {
			t.Fatalf("%v %+v", err, rs)
		}
		if text != "bad" {
			want = append(want, rs[0].Event.ID)
		}
	}
	for i := range 100 {
		submit(r, fmt.Sprint(i))
	}
	submit(r, "bad")
	r.stop() // a restart in between loses nothing either
	r = start(t, path, b)
	submit(r, "last")
	b.mu.Lock()
	away = false
	b.mu.Unlock()
	eventually(t, "everything delivered", func() bool { return len(b.got()) == len(want) })
	if !slices.Equal(b.got(), want) {
		t.Fatal("delivered out of order, or not once each")
	}
	eventually(t, "the book balances", func() bool {
		var c core.Cursor
		err := r.View(context.Background(), func(rd core.Reader) (err error) {
			c, err = rd.Cursor("place", core.LaneMessage)
			return err
		})
		return err == nil && c.Delivered == 101 && c.Refused == 1 && c.Expired == 0
	})
}

func TestNothingGoesBackWhereItCameFrom(t *testing.T) {
	x, y := &recorder{network: "x:1"}, &recorder{network: "y:1"}
	r := start(t, filepath.Join(t.TempDir(), "a.db"), x, y)
	r.open()
	r.link("x:1", "px")
	r.link("y:1", "py")
	e := say("from x")
	e.Origin = core.Origin{Network: "x:1", ID: "1"}
	r.do(e)
	e.Origin = core.Origin{Network: "z:1", ID: "1", Trail: []core.Network{"x:1"}}
	r.do(e)
	last := r.do(say("local")).Event.ID
	eventually(t, "local message at x", func() bool { return slices.Contains(x.got(), last) })
	eventually(t, "all three at y", func() bool { return len(y.got()) == 3 })
	if len(x.got()) != 1 {
		t.Fatalf("x got its own back: %d", len(x.got()))
	}
	e.Origin = core.Origin{Network: "x:1", ID: "2"}
	skipped := r.do(e).Event.Seq
	eventually(t, "nothing waits for x once it is quiet", func() bool {
		var c core.Cursor
		err := r.View(context.Background(), func(rd core.Reader) (err error) {
			c, err = rd.Cursor("px", core.LaneMessage)
			return err
		})
		return err == nil && c.Seq == skipped && c.Skipped == 3
	})
}

func TestDroppedLinkStopsAndPausedLinkWaits(t *testing.T) {
	b := &recorder{network: "x:1"}
	r := start(t, filepath.Join(t.TempDir(), "a.db"), b)
	r.open()
	r.link("x:1", "place")
	first := r.do(say("1")).Event.ID
	eventually(t, "first", func() bool { return slices.Contains(b.got(), first) })
	r.do(core.PutLink{Link: core.Link{ID: "place", Room: room, Network: "x:1", Place: "place", Owner: "op", Paused: "asked"}})
	time.Sleep(50 * time.Millisecond)
	second := r.do(say("2")).Event.ID
	time.Sleep(50 * time.Millisecond)
	if slices.Contains(b.got(), second) {
		t.Fatal("a paused link carried a message")
	}
	r.link("x:1", "place")
	eventually(t, "second, after the pause", func() bool { return slices.Contains(b.got(), second) })
	r.do(core.DropLink{ID: "place"})
	time.Sleep(50 * time.Millisecond)
	third := r.do(say("3")).Event.ID
	time.Sleep(50 * time.Millisecond)
	if slices.Contains(b.got(), third) {
		t.Fatal("a dropped link carried a message")
	}
}

// Whoever stops waiting before a commit must not be told that nothing was
// accepted: what is born here has no dedupe key, and a second try doubles it.
func TestAnswerIsFinalThoughTheCallerGoesAway(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "a.db"))
	r.open()
	hold := make(chan struct{})
	r.store.mu.Lock()
	r.store.hold = hold
	r.store.mu.Unlock()
	ctx, cancel := context.WithCancel(context.Background())
	type answer struct {
		rs  []core.Receipt
		err error
	}
	got := make(chan answer, 1)
	go func() {
		rs, err := r.Submit(ctx, say("once"))
		got <- answer{rs, err}
	}()
	time.Sleep(50 * time.Millisecond) // it is in line
	cancel()
	time.Sleep(50 * time.Millisecond)
	close(hold)
	if a := <-got; a.err != nil || a.rs[0].Event == nil {
		t.Fatalf("accepted, but told otherwise: %v", a.err)
	}
	if _, err := r.Submit(ctx, say("never")); !errors.Is(err, context.Canceled) {
		t.Fatalf("a caller that is gone before it is in line: %v", err)
	}
}

// A store that is away is asked a few times, not once for each of the thousand
// submissions in line: each may wait for a timeout.
func TestStoreAwayIsNotAskedForEverySubmission(t *testing.T) {
	r := start(t, filepath.Join(t.TempDir(), "a.db"))
	r.open()
	hold := make(chan struct{})
	r.store.mu.Lock()
	r.store.hold, r.store.before, r.store.tries = hold, core.Errorf(core.Unavailable, "no connection"), 0
	r.store.mu.Unlock()
	var wg sync.WaitGroup
	for i := range 500 {
		wg.Go(func() {
			if _, err := r.Submit(context.Background(), say(fmt.Sprint(i))); core.CodeOf(err) != core.Unavailable {
				t.Errorf("%v", err)
			}
		})
	}
	time.Sleep(200 * time.Millisecond) // they are in line
	close(hold)
	wg.Wait()
	r.store.mu.Lock()
	tries := r.store.tries
	r.store.before, r.store.hold = nil, nil
	r.store.mu.Unlock()
	if tries > 20 {
		t.Fatalf("the store was asked %d times", tries)
	}
	r.do(say("back"))
}

// A link that was dropped and made again under its ID starts at the present.
func TestRemadeLinkStartsAtThePresent(t *testing.T) {
	b := &recorder{network: "x:1"}
	away := true
	b.fail = func(core.Event) error {
		if away {
			return &core.Error{Code: core.Unavailable, Text: "away", RetryAfter: 5 * time.Millisecond}
		}
		return nil
	}
	r := start(t, filepath.Join(t.TempDir(), "a.db"), b)
	r.open()
	at := time.Unix(1000, 0)
	put := func() {
		at = at.Add(time.Second)
		r.do(core.PutLink{Link: core.Link{ID: "l", Room: room, Network: "x:1", Place: "p", Created: at}})
	}
	put()
	old := r.do(say("before")).Event.ID
	time.Sleep(50 * time.Millisecond)
	// Both in one transaction: the supervisor sees only the second.
	r.store.mu.Lock()
	hold := make(chan struct{})
	r.store.hold = hold
	r.store.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { r.do(say("filler")) })
	time.Sleep(20 * time.Millisecond)
	wg.Go(func() { r.do(core.DropLink{ID: "l"}) })
	time.Sleep(20 * time.Millisecond)
	wg.Go(put)
	time.Sleep(20 * time.Millisecond)
	close(hold)
	r.store.mu.Lock()
	r.store.hold = nil
	r.store.mu.Unlock()
	wg.Wait()
	time.Sleep(100 * time.Millisecond) // until the old worker is ended: it may deliver what it has in hand
	b.mu.Lock()
	away = false
	b.mu.Unlock()
	fresh := r.do(say("after")).Event.ID
	eventually(t, "what came after", func() bool { return slices.Contains(b.got(), fresh) })
	if slices.Contains(b.got(), old) {
		t.Fatal("what was said before the link was carried over")
	}
}

// A bridge that panics over one event must not take the server down, and again
// after every restart; the event is refused.
func TestDeliveryThatPanicsIsRefused(t *testing.T) {
	b := &recorder{network: "x:1"}
	b.fail = func(e core.Event) error {
		if s, _ := e.Signed(); string(s.Content) == "bad" {
			panic("a fault of ours")
		}
		return nil
	}
	r := start(t, filepath.Join(t.TempDir(), "a.db"), b)
	r.open()
	r.link("x:1", "place")
	r.do(say("bad"))
	good := r.do(say("good")).Event.ID
	eventually(t, "the event behind it", func() bool { return slices.Contains(b.got(), good) })
}
