package store

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// TestMigrationFullDisk leaves the first schema as it was where there is no room for the
// second, and goes on when there is.
func TestMigrationFullDisk(t *testing.T) {
	path, ctx := filepath.Join(t.TempDir(), "isthmus.db"), t.Context()
	b := &bed{t: t, url: "sqlite:" + path}
	first := func(f func()) {
		t.Run("first", func(t *testing.T) {
			withSchema(t, func(f fstest.MapFS) { delete(f, "schema/0002_large_values.sql") })
			b.open()
			f()
			b.Close()
		})
	}
	values := func(r core.Reader) (int, error) {
		list, err := r.Values("bucket", "", 100)
		return len(list), err
	}
	first(func() {
		for i := range 32 {
			b.do(func(tx core.Tx) error { return tx.PutValue("bucket", fmt.Sprint(i), make([]byte, 1<<20)) })
		}
	})
	fi, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Migrate(ctx, Options{URL: b.url, Homeserver: home, maxPages: int(fi.Size()/pageSize) + 100}); err == nil {
		t.Fatal("migrated without room")
	}
	first(func() { see(b, 32, values) })
	b.open()
	see(b, 32, values)
}

// Lines are what was logged.
type lines struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(b)
}

func (l *lines) count(word string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.all.String(), word)
}

// TestDeviceFull fills a real file system, small enough for that. Mounting one
// takes root; anybody else gets SQLite's own bound of pages instead.
func TestDeviceFull(t *testing.T) {
	dir, bound := t.TempDir(), 0
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=32m"); err != nil {
		t.Logf("no file system of our own: %v", err)
		bound = 2000
	} else {
		t.Cleanup(func() {
			if err := syscall.Unmount(dir, 0); err != nil {
				t.Error(err)
			}
		})
	}
	var said lines
	db, err := Open(context.Background(), Options{URL: "sqlite:" + filepath.Join(dir, "x.db"), Homeserver: home,
		Log: slog.New(slog.NewTextHandler(&said, nil)), maxPages: bound})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, DB: db}
	t.Cleanup(func() { db.Close() })
	room, seq := b.room("log"), uint64(0)
	put := func(n uint64) error {
		err := db.Update(context.Background(), func(tx core.Tx) error {
			for i := range n {
				if err := tx.Append(message(t, room, seq+1+i, "")); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			seq += n
		}
		return err
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 6<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for err = nil; err == nil && seq < 200_000; {
		err = put(100)
	}
	refused(t, core.Unavailable, err)
	for range 100 {
		put(1) // some may fit in yet
	}
	time.Sleep(2 * checkpointRest)
	if n := said.count("checkpoint failed"); n > 1 {
		t.Errorf("said %d times that a checkpoint failed: the log may be on that disk", n)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	db.eng.(*sqliteEngine).maxPages = 0
	if err := put(10); err != nil {
		t.Errorf("space again, yet %v", err)
	}
	es, err := read(b, func(r core.Reader) ([]core.Event, error) { return r.Events(room, core.Range{Limit: 1 << 20}) })
	if err != nil || uint64(len(es)) != seq {
		t.Errorf("%d events of %d, %v", len(es), seq, err)
	}
}

func TestDiskFull(t *testing.T) {
	path := "sqlite:" + filepath.Join(t.TempDir(), "full.db")
	open := func(pages int) *bed {
		db, err := Open(context.Background(), Options{URL: path, Homeserver: home, maxPages: pages})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return &bed{t: t, DB: db, url: path}
	}
	b := open(200)
	room, seq := b.room("log"), uint64(0)
	var err error
	for err == nil && seq < 100_000 {
		if err = b.Update(context.Background(), func(tx core.Tx) error { return tx.Append(message(t, room, seq+1, "")) }); err == nil {
			seq++
		}
	}
	refused(t, core.Unavailable, err)
	whole := func() {
		t.Helper()
		es, err := read(b, func(r core.Reader) ([]core.Event, error) { return r.Events(room, core.Range{Limit: 1 << 20}) })
		if err != nil || uint64(len(es)) != seq {
			t.Errorf("%d events of %d, %v", len(es), seq, err)
		}
	}
	whole() // reading goes on
	refused(t, core.Unavailable, b.Update(context.Background(), func(tx core.Tx) error {
		tx.Append(message(t, room, seq+1, "")) // a failure that is swallowed must not commit
		for i := range 100 {
			tx.PutValue("b", fmt.Sprint(i), make([]byte, 4096))
		}
		return nil
	}))
	b.eng.(*sqliteEngine).maxPages = 10_000 // space again: the same store goes on
	b.writer = nil
	seq++
	b.log(room, seq, seq)
	whole()
}
