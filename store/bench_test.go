package store

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

const home = "store.test"

func roomID(name string) core.RoomID { return core.NewRoomID(home, name) }

// message returns an event as the engine makes them: a header as the core
// writes it, 100 octets of content, a signature with a path of five hashes.
func message(tb testing.TB, room core.RoomID, seq uint64, origin string) core.Event {
	tb.Helper()
	e := core.Event{Seq: seq, Accepted: time.UnixMicro(1_800_000_000_000_000 + int64(seq)).UTC()}
	e.Room, e.Sender = room, core.NewUserURI(home, "alice")
	e.Origin = core.Origin{Network: "irc", ID: origin}
	e.Sent = time.UnixMilli(1_800_000_000_000 + int64(seq))
	s := core.Signed{Name: "alice", ContentType: core.ContentMIMI, Content: bytes.Repeat([]byte{'x'}, 100)}
	s.Header = header(tb, &e, &s)
	s.Vouch = core.Vouch{Sig: bytes.Repeat([]byte{1}, 64), Path: bytes.Repeat([]byte{2}, 160), Right: 5}
	e.Body = s
	e.ID = core.NewEventID(room, home, seq)
	return e
}

func openBench(b *testing.B, engine string) *DB {
	b.Helper()
	url := "sqlite:" + filepath.Join(b.TempDir(), "bench.db")
	if engine == "postgres" {
		s, err := postgres()
		if err != nil {
			b.Fatal(err)
		}
		url = s.database(b)
	}
	db, err := Open(context.Background(), Options{URL: url, Homeserver: home})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { db.Close() })
	return db
}

// fill appends n events to a new room, 512 to a transaction.
func fill(b *testing.B, db *DB, room core.RoomID, n int) {
	b.Helper()
	update(b, db, func(t core.Tx) error { return t.PutRoom(core.Room{ID: room}) })
	for at := 1; at <= n; at += 512 {
		update(b, db, func(t core.Tx) error {
			for i := at; i < at+512 && i <= n; i++ {
				if err := t.Append(message(b, room, uint64(i), "")); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func update(tb testing.TB, db *DB, f func(core.Tx) error) {
	tb.Helper()
	if err := db.Update(context.Background(), f); err != nil {
		tb.Fatal(err)
	}
}

func onEngines(b *testing.B, f func(b *testing.B, db *DB)) {
	for _, engine := range []string{"sqlite", "postgres"} {
		b.Run(engine, func(b *testing.B) { f(b, openBench(b, engine)) })
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, batch := range []int{1, 64, 512} {
		b.Run(fmt.Sprint(batch), func(b *testing.B) {
			onEngines(b, func(b *testing.B, db *DB) {
				room := roomID("bench")
				fill(b, db, room, 0)
				e := message(b, room, 1, "")
				seq := uint64(0)
				b.ReportAllocs()
				for b.Loop() {
					update(b, db, func(t core.Tx) error {
						for range batch {
							seq++
							e.Seq = seq
							if err := t.Append(e); err != nil {
								return err
							}
						}
						return nil
					})
				}
				b.ReportMetric(float64(seq)/b.Elapsed().Seconds(), "events/s")
			})
		})
	}
}

// BenchmarkLoneCommit is the latency of one durable message that has a
// transaction to itself.
func BenchmarkLoneCommit(b *testing.B) {
	onEngines(b, func(b *testing.B, db *DB) {
		room := roomID("bench")
		seq := uint64(10_000)
		fill(b, db, room, int(seq))
		var took []time.Duration
		e := message(b, room, 1, "")
		for b.Loop() {
			seq++
			e.Seq = seq
			start := time.Now()
			update(b, db, func(t core.Tx) error { return t.Append(e) })
			took = append(took, time.Since(start))
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
		b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		b.ReportMetric(float64(took[len(took)-1].Microseconds()), "max-µs")
	})
}

// BenchmarkEventsPage100 reads pages of history in parallel, from a log larger
// than a page cache.
func BenchmarkEventsPage100(b *testing.B) {
	const logged = 200_000
	onEngines(b, func(b *testing.B, db *DB) { pages(b, db, logged) })
}

func pages(b *testing.B, db *DB, logged int) {
	room := roomID("bench")
	fill(b, db, room, logged)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		before := uint64(logged)
		for pb.Next() {
			err := db.View(context.Background(), func(r core.Reader) error {
				es, err := r.Events(room, core.Range{Before: before, Limit: 100, Newest: true})
				if err == nil && len(es) != 100 {
					return fmt.Errorf("page of %d", len(es))
				}
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
			if before -= 100; before < 200 {
				before = uint64(logged)
			}
		}
	})
	b.ReportMetric(float64(b.N)*100/b.Elapsed().Seconds(), "events/s")
}

func header(tb testing.TB, e *core.Event, s *core.Signed) []byte {
	tb.Helper()
	b, err := headerMode.Marshal([]any{1, e.Room, e.Sender, s.Name, e.Sent.UnixMilli(), s.ContentType,
		e.Origin.Network, e.Origin.ID, append([]core.Network{}, e.Origin.Trail...), home})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// BenchmarkValue reads a small value of a store that has large ones beside it.
func BenchmarkValue(b *testing.B) {
	db := openBench(b, "sqlite")
	large := make([]byte, 1<<20)
	for n := range 64 {
		update(b, db, func(t core.Tx) error {
			for i := range 64 {
				if err := t.PutValue("small", fmt.Sprintf("%02d/%02d", n, i), []byte("x")); err != nil {
					return err
				}
			}
			return t.PutValue("small", fmt.Sprintf("%02d/large", n), large)
		})
	}
	i := 0
	for b.Loop() {
		i++
		err := db.View(context.Background(), func(r core.Reader) error {
			_, err := r.Value("small", fmt.Sprintf("%02d/%02d", i%64, i/64%64))
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
