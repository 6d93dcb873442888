//go:build bench

package main_test

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

const (
	engineTime    = 30 * time.Second
	engineRooms   = 32
	engineSenders = 128 // sessions that submit at the same time
	engineBatch   = 16  // messages of one pipelining session
	loneMessages  = 2000
	loneGap       = 2 * time.Millisecond
)

// benchEngine: what runtime, engine and SQLite accept, without any network, and
// how long one message takes when nothing else happens. Once, not in rounds:
// thirty seconds even out.
func benchEngine(t *testing.T, _ []peer, r *report) {
	rt := engineRuntime(t)
	lone := loneDelays(t, rt)
	var accepted atomic.Int64
	var senders sync.WaitGroup
	began, cpu := time.Now(), ownCPU()
	for i := range engineSenders {
		senders.Go(func() {
			for n := 0; time.Since(began) < engineTime; n++ {
				es := make([]core.Envelope, engineBatch)
				for j := range es {
					es[j] = engineEnvelope(i%engineRooms, fmt.Sprintf("chatter %d %d %d chatter chatter chatter", i, n, j))
				}
				receipts, err := rt.Submit(context.Background(), es...)
				if err != nil {
					t.Errorf("submit: %v", err)
					return
				}
				for _, rc := range receipts {
					if rc.Err != nil {
						t.Errorf("refused: %v", rc.Err)
						return
					}
				}
				accepted.Add(int64(len(receipts)))
			}
		})
	}
	senders.Wait()
	took, n := time.Since(began), float64(accepted.Load())
	t.Logf("%.0f messages in %v, %.1f µs of CPU each; one alone: p50 %v", n, took, float64((ownCPU()-cpu).Microseconds())/n, quantile(lone, 0.5))
	r.alone("engine with SQLite, synced, sustained 30 s", "messages/s", n/took.Seconds(), atLeast(40_000))
	r.alone("one lone message, p99", "ms", quantile(lone, 0.99).Seconds()*1e3, atMost(5))
}

// engineRuntime starts a runtime with one sender in each of engineRooms rooms.
func engineRuntime(t *testing.T) *bridges.Runtime {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	db, err := store.Open(ctx, store.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "bench.db"), Homeserver: "bench.local"})
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	rt := bridges.NewRuntime(bridges.RuntimeConfig{Store: db, Holder: "bench",
		Engine: func() bridges.Decider { return core.NewEngine(core.Config{Homeserver: "bench.local", Key: key}) }})
	ended := make(chan error, 1)
	go func() { ended <- rt.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("runtime: %v", err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	for i := range engineRooms {
		e := engineEnvelope(i, "x")
		room := core.CreateRoom{Room: core.Room{ID: e.Room, Kind: core.Channel, Name: fmt.Sprintf("#bench%d", i), Founder: e.Sender},
			Members: []core.Member{{User: e.Sender, Via: "irc", Role: core.RoleOwner, Joined: true}}}
		if _, err := rt.Do(ctx, room); err != nil {
			t.Fatal(err)
		}
	}
	return rt
}

// engineEnvelope is text said in room number i.
func engineEnvelope(i int, text string) core.Envelope {
	c := converter.Content{Salt: converter.NewSalt([]byte(text)),
		Part: converter.Part{Disposition: converter.DispositionRender, Cardinality: converter.SinglePart,
			Type: "text/plain;charset=utf-8", Body: []byte(text)}}
	return c.Envelope(core.Envelope{Room: core.NewRoomID("bench.local", fmt.Sprintf("bench%d", i)),
		Sender: core.NewUserURI("bench.local", fmt.Sprintf("speaker%d", i)), Origin: core.Origin{Network: "irc"}}, "speaker")
}

func loneDelays(t *testing.T, rt *bridges.Runtime) []time.Duration {
	t.Helper()
	delays := make([]time.Duration, loneMessages)
	for i := range delays {
		e := engineEnvelope(i%engineRooms, fmt.Sprintf("alone %d", i))
		began := time.Now()
		receipts, err := rt.Submit(context.Background(), e)
		if err != nil || receipts[0].Err != nil {
			t.Fatalf("submit: %v %v", err, receipts)
		}
		delays[i] = time.Since(began)
		time.Sleep(loneGap)
	}
	slices.Sort(delays)
	return delays
}
