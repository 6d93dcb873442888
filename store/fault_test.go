package store

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

func TestOneProcess(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		_, err := Open(context.Background(), Options{URL: b.url, Homeserver: home})
		refused(t, core.Unavailable, err)
		u, uerr := url.Parse(b.url)
		if uerr != nil {
			t.Fatal(uerr)
		}
		where := strings.TrimPrefix(u.Path, "/") + " on " + u.Host
		if path, ok := strings.CutPrefix(b.url, "sqlite:"); ok {
			where = path
		}
		if err == nil || core.TextOf(err) != "another process has this database open: "+where {
			t.Errorf("unclear: %v", err)
		}
		b.room("still") // the holder is not disturbed
		b.reopen()
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		if err := b.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		refused(t, core.Unavailable, b.Update(context.Background(), func(core.Tx) error { return nil }))
		refused(t, core.Unavailable, b.View(context.Background(), func(core.Reader) error { return nil }))
	})
}

func TestHomeserverIsFixed(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		b.Close()
		_, err := Open(context.Background(), Options{URL: b.url, Homeserver: "other.test"})
		refused(t, core.Invalid, err)
		b.open() // and the refusal left no lock behind
	})
}

func TestURL(t *testing.T) {
	for _, u := range []string{"", "sqlite:", "sqlite::memory:", "mysql://x", "postgres://%zz"} {
		_, err := Open(context.Background(), Options{URL: u})
		refused(t, core.Invalid, err)
	}
	_, err := Open(context.Background(), Options{URL: "postgres://nobody:secret@127.0.0.1:1/x?sslmode=disable"})
	refused(t, core.Unavailable, err)
	if strings.Contains(core.TextOf(err), "secret") {
		t.Error("the text shows the password")
	}
	odd := filepath.Join(t.TempDir(), "a b?c#d%e", "x.db")
	db, err := Open(context.Background(), Options{URL: "sqlite:" + odd, Homeserver: home})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for name, mode := range map[string]os.FileMode{filepath.Dir(odd): 0o700 | os.ModeDir, odd: 0o600, odd + "-wal": 0o600, odd + ".lock": 0o600} {
		if fi, err := os.Stat(name); err != nil || fi.Mode() != mode {
			t.Errorf("%s: %v, %v", filepath.Base(name), fi, err)
		}
	}
	if v := db.Version(); v != "sqlite, schema 0002_large_values" {
		t.Errorf("version %q", v)
	}
}

// withSchema replaces the migrations for one test.
func withSchema(t *testing.T, change func(fstest.MapFS)) {
	t.Helper()
	files := fstest.MapFS{}
	names, err := filepath.Glob("schema/*.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		files[n] = &fstest.MapFile{Data: b}
	}
	change(files)
	was := schemas
	schemas = files
	t.Cleanup(func() { schemas = was })
}

func TestMigrations(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		b.room("kept")
		b.Close()
		try := func() ([]string, error) {
			return Migrate(context.Background(), Options{URL: b.url, Homeserver: home})
		}
		if applied, err := try(); err != nil || applied != nil {
			t.Errorf("nothing to do, yet %v, %v", applied, err)
		}
		next := &fstest.MapFile{Data: []byte("CREATE TABLE extra (n BIGINT); INSERT INTO extra (n) VALUES (7); -- a; b\n")}
		t.Run("broken", func(t *testing.T) {
			withSchema(t, func(f fstest.MapFS) {
				f["schema/0003_next.sql"] = next
				f["schema/0004_bad.sql"] = &fstest.MapFile{Data: []byte("CREATE TABLE broken (n BIGINT); NONSENSE;")}
			})
			if _, err := try(); err == nil || !strings.Contains(err.Error(), "0004_bad") {
				t.Errorf("got %v", err)
			}
		})
		t.Run("gap", func(t *testing.T) {
			withSchema(t, func(f fstest.MapFS) { f["schema/0004_next.sql"] = next })
			_, err := try()
			refused(t, core.Internal, err)
		})
		t.Run("forward", func(t *testing.T) { // all of the broken run was rolled back
			withSchema(t, func(f fstest.MapFS) { f["schema/0003_next.sql"] = next })
			if applied, err := try(); err != nil || !slices.Equal(applied, []string{"0003_next"}) {
				t.Errorf("applied %v, %v", applied, err)
			}
			b.open()
			see(b, plainRoom("kept"), func(r core.Reader) (core.Room, error) { return r.Room(roomID("kept")) })
			b.Close()
		})
		t.Run("newer", func(t *testing.T) {
			_, err := try()
			refused(t, core.Unsupported, err)
		})
		t.Run("changed", func(t *testing.T) {
			withSchema(t, func(f fstest.MapFS) {
				f["schema/0003_next.sql"] = &fstest.MapFile{Data: append(slices.Clone(next.Data), ' ')}
			})
			_, err := try()
			refused(t, core.Unsupported, err)
		})
	})
}

// TestMigratedValues takes a database of the first schema along.
func TestMigratedValues(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		b.Close()
		old := *b
		if s, ok := strings.CutPrefix(b.url, "sqlite:"); ok {
			old.url = "sqlite:" + s + ".old"
		} else {
			s, err := postgres()
			if err != nil {
				t.Fatal(err)
			}
			old.url = s.database(t)
		}
		want := []core.Value{{Key: "a", Data: bytes.Repeat([]byte{7}, 1<<20)}, {Key: "b", Data: []byte{}}}
		t.Run("first", func(t *testing.T) {
			withSchema(t, func(f fstest.MapFS) { delete(f, "schema/0002_large_values.sql") })
			old.open()
			old.do(func(tx core.Tx) error {
				return errors.Join(tx.PutValue("bucket", "a", want[0].Data), tx.PutValue("bucket", "b", want[1].Data))
			})
			old.Close()
		})
		applied, err := Migrate(t.Context(), Options{URL: old.url, Homeserver: home})
		if err != nil || !slices.Equal(applied, []string{"0002_large_values"}) {
			t.Fatalf("applied %v, %v", applied, err)
		}
		old.open()
		see(&old, want, func(r core.Reader) ([]core.Value, error) { return r.Values("bucket", "", 10) })
	})
}

// TestKeep looks at a database of the first schema and leaves it so, until it is told
// to migrate.
func TestKeep(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		b.Close()
		old, ctx := &bed{t: t, url: b.url + ".old"}, t.Context()
		if !strings.HasPrefix(b.url, "sqlite:") {
			s, err := postgres()
			if err != nil {
				t.Fatal(err)
			}
			old.url = s.database(t)
		}
		keep := func(wantSchema string, wantPending ...string) {
			t.Helper()
			db, err := Open(ctx, Options{URL: old.url, Homeserver: home, Keep: true})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { db.Close() })
			if old.DB = db; db.Schema() != wantSchema || !slices.Equal(db.Pending(), wantPending) {
				t.Errorf("schema %q lacks %q", db.Schema(), db.Pending())
			}
		}
		for range 2 { // looking at an empty one makes nothing in it
			keep("", "0001_init", "0002_large_values")
			if v := old.Version(); !strings.HasSuffix(v, ", no schema yet") {
				t.Error(v)
			}
			old.Close()
		}
		t.Run("first", func(t *testing.T) {
			withSchema(t, func(f fstest.MapFS) { delete(f, "schema/0002_large_values.sql") })
			old.open()
			old.room("kept")
			old.do(func(tx core.Tx) error { return tx.PutValue("bucket", "a", []byte("b")) })
			old.Close()
		})
		value := func(r core.Reader) ([]byte, error) { return r.Value("bucket", "a") }
		for range 2 {
			keep("0001_init", "0002_large_values")
			see(old, []byte("b"), value)
			if s, ok := strings.CutPrefix(old.url, "sqlite:"); ok {
				file := filepath.Join(t.TempDir(), "backup.db")
				if err := old.Backup(ctx, file); err != nil {
					t.Fatal(err)
				}
				if err := Check(ctx, file); err != nil {
					t.Error(err)
				}
				t.Run("older", func(t *testing.T) { // the version before reads the copy and what was looked at
					withSchema(t, func(f fstest.MapFS) { delete(f, "schema/0002_large_values.sql") })
					for _, f := range []string{file, s} {
						was := &bed{t: t, url: "sqlite:" + f}
						if f == s {
							old.Close()
						}
						was.open()
						see(was, plainRoom("kept"), func(r core.Reader) (core.Room, error) { return r.Room(roomID("kept")) })
						was.Close()
					}
				})
			}
			old.Close()
		}
		_, err := Open(ctx, Options{URL: old.url, Homeserver: "other.test", Keep: true})
		refused(t, core.Invalid, err)
		keep("0001_init", "0002_large_values")
		see(old, []byte("b"), value) // and the reader goes on after the tables have changed
		if applied, err := old.Migrate(ctx); err != nil || !slices.Equal(applied, []string{"0002_large_values"}) {
			t.Errorf("applied %q, %v", applied, err)
		}
		see(old, []byte("b"), value)
		old.do(func(tx core.Tx) error { return tx.PutValue("bucket", "a", []byte("c")) })
		see(old, []byte("c"), value)
		old.Close()
		keep("0002_large_values")
	})
}

// TestDatabaseGone ends the writer's and the readers' connections, then the
// whole server, and expects the same store to work again each time.
func TestDatabaseGone(t *testing.T) {
	s, err := postgres()
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, url: s.database(t)}
	b.open()
	room := b.room("log")
	b.log(room, 1, 3)
	head := func(r core.Reader) (uint64, error) { s, _, err := r.Head(room); return s, err }
	see(b, 3, head)

	terminate := `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'isthmus_test_%'`
	s.exec(t, terminate)
	b.log(room, 4, 4) // between transactions nothing is noticed
	see(b, 4, head)
	err = b.Update(context.Background(), func(tx core.Tx) error {
		s.exec(t, terminate)
		return tx.Append(message(t, room, 5, ""))
	})
	refused(t, core.Unavailable, err)
	b.log(room, 5, 5)
	_, err = Open(context.Background(), Options{URL: b.url, Homeserver: home})
	refused(t, core.Unavailable, err) // the lock was taken again

	if s.dir == "" {
		return // not our server to stop
	}
	s.kill()
	refused(t, core.Unavailable, b.Update(context.Background(), func(tx core.Tx) error { return nil }))
	refused(t, core.Unavailable, b.View(context.Background(), func(core.Reader) error { return nil }))
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	b.log(room, 6, 6)
	see(b, 6, head)
}

// TestLockLost lets another process take the database while our connection is
// dead: we must not write until it lets go, and then know what it wrote.
func TestLockLost(t *testing.T) {
	s, err := postgres()
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, url: s.database(t)}
	b.open()
	room := b.room("log")
	b.log(room, 1, 3)
	s.exec(t, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'isthmus_test_%'`)
	thief := &bed{t: t, url: b.url}
	thief.open()
	refused(t, core.Unavailable, b.Update(context.Background(), func(tx core.Tx) error { return tx.Append(message(t, room, 4, "")) }))
	thief.log(room, 4, 6)
	thief.Close()
	b.log(room, 7, 7)
	see(b, []uint64{1, 2, 3, 4, 5, 6, 7}, func(r core.Reader) ([]uint64, error) { return seqs(r.Events(room, core.Range{Limit: 9})) })
}

const crashRoom = "crash"

// child writes without end and says each Seq after its commit. It runs in a
// process of its own, which the test kills.
func child(url string) int {
	db, err := Open(context.Background(), Options{URL: url, Homeserver: home})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	room := roomID(crashRoom)
	out := bufio.NewWriter(os.Stdout)
	for {
		var upTo uint64
		err := db.Update(context.Background(), func(tx core.Tx) error {
			if err := tx.PutRoom(plainRoom(crashRoom)); err != nil {
				return err
			}
			head, _, err := tx.Head(room)
			for upTo = head; err == nil && upTo < head+7; {
				upTo++
				err = tx.Append(message(&testing.B{}, room, upTo, fmt.Sprint("$", upTo)))
			}
			return err
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		fmt.Fprintln(out, upTo)
		out.Flush()
	}
}

func TestKilled(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room, acked := roomID(crashRoom), uint64(0)
		for round := range 5 {
			b.Close()
			c := exec.Command(os.Args[0])
			c.Env = append(os.Environ(), "ISTHMUS_STORE_CHILD="+b.url)
			c.Stderr = os.Stderr
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewScanner(out)
			for n := 0; lines.Scan(); n++ { // until the pipe ends: what was said before the kill counts
				if acked, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
					t.Fatal(err)
				}
				if n == 40+round*17 {
					c.Process.Kill()
				}
			}
			c.Wait()
			if acked == 0 {
				t.Fatal("the child wrote nothing")
			}
			b.open()
			es, err := read(b, func(r core.Reader) ([]core.Event, error) { return r.Events(room, core.Range{Limit: 1 << 20}) })
			if err != nil || uint64(len(es)) < acked || len(es)%7 != 0 {
				t.Fatalf("round %d: %d events, %d were acknowledged: %v", round, len(es), acked, err)
			}
			for i, e := range es {
				if e.Seq != uint64(i+1) || e.Origin.ID != fmt.Sprint("$", i+1) {
					t.Fatalf("event %d has Seq %d", i+1, e.Seq)
				}
			}
		}
	})
}

// TestTogether reads while it writes, past several checkpoints, and expects every
// view to see a dense log; run it with -race.
func TestTogether(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room := b.room("log")
		var stop atomic.Bool
		var wg sync.WaitGroup
		for range maxReaders + 2 {
			wg.Go(func() {
				for !stop.Load() {
					err := b.View(context.Background(), func(r core.Reader) error {
						head, _, err := r.Head(room)
						if err != nil {
							return err
						}
						es, err := r.Events(room, core.Range{Limit: 20, Newest: true})
						if err == nil && head > 0 && (len(es) != int(min(head, 20)) || es[len(es)-1].Seq != head) {
							err = errors.New("a view saw half a transaction")
						}
						return err
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		start, seq := time.Now(), uint64(0)
		for range 30 {
			b.log(room, seq+1, seq+200)
			seq += 200
		}
		stop.Store(true)
		wg.Wait()
		t.Logf("%d events in %v", seq, time.Since(start))
		see(b, seq, func(r core.Reader) (uint64, error) { s, _, err := r.Head(room); return s, err })
	})
}

// TestWALIsReused holds the checkpointer to its purpose: a long run of commits
// must not make the write-ahead log longer and longer.
func TestWALIsReused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wal.db")
	db, err := Open(context.Background(), Options{URL: "sqlite:" + path, Homeserver: home})
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, DB: db}
	t.Cleanup(func() { db.Close() })
	for n := range 110 { // 60 MB, above the bound below
		b.do(func(tx core.Tx) (err error) {
			for i := 0; i < 34 && err == nil; i++ {
				err = tx.PutValue("large", fmt.Sprintf("%d %d", n, i), bytes.Repeat([]byte{byte(i)}, 16<<10))
			}
			return err
		})
	}
	fi, err := os.Stat(path + "-wal")
	if err != nil || fi.Size() > 3*checkpointPages*pageSize {
		t.Errorf("the write-ahead log has %d octets, %v", fi.Size(), err)
	}
}

func TestStatements(t *testing.T) {
	got := map[string]string{}
	for _, e := range []string{"sqlite", "postgres"} {
		got[e] = strings.Join(statements("-- c; d\nA /*sqlite: B*/ C /*postgres: D*/;\n\nE;", e), "|")
	}
	if want := map[string]string{"sqlite": "A B C|E", "postgres": "A  C D|E"}; !maps.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// A lossy wire stands between the store and PostgreSQL. Armed, it cuts the
// connection around what is sent next: before the server has it, or after the
// server has answered.
type lossyWire struct {
	t      *testing.T
	l      net.Listener
	server string
	armed  atomic.Int32 // 0 no, 1 cut before, 2 cut after
}

func (w *lossyWire) run() {
	for {
		c, err := w.l.Accept()
		if err != nil {
			return
		}
		s, err := net.Dial("tcp", w.server)
		if err != nil {
			c.Close()
			continue
		}
		var cut atomic.Bool
		go func() {
			defer c.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := s.Read(buf)
				if err != nil || cut.Load() {
					return
				}
				c.Write(buf[:n])
			}
		}()
		go func() {
			defer s.Close()
			buf := make([]byte, 64<<10)
			for {
				n, err := c.Read(buf)
				if err != nil {
					return
				}
				switch w.armed.Swap(0) {
				case 1:
					c.Close()
					return
				case 2:
					cut.Store(true)
				}
				s.Write(buf[:n])
			}
		}()
	}
}

// TestCommitOutcome loses the question or the answer of a COMMIT: Update says
// what really happened, because whoever hears of a failure says it once more.
func TestCommitOutcome(t *testing.T) {
	s, err := postgres()
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(s.database(t))
	if err != nil {
		t.Fatal(err)
	}
	w := &lossyWire{t: t, server: u.Host}
	if w.l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	defer w.l.Close()
	go w.run()
	u.Host = w.l.Addr().String()
	b := &bed{t: t, url: u.String()}
	b.open()
	room := b.room("log")
	b.log(room, 1, 3)
	head := func(r core.Reader) (uint64, error) { s, _, err := r.Head(room); return s, err }
	say := func(seq uint64, how int32) error {
		return b.Update(context.Background(), func(tx core.Tx) error {
			err := tx.Append(message(t, room, seq, fmt.Sprint("$", seq, how)))
			w.armed.Store(how)
			return err
		})
	}
	if err := say(4, 2); err != nil {
		t.Errorf("committed, and told otherwise: %v", err)
	}
	see(b, 4, head)
	err = say(5, 1)
	refused(t, core.Unavailable, err)
	if core.ReasonOf(err) == core.OutcomeUnknown {
		t.Error("the database is back: it can say what happened")
	}
	see(b, 4, head)
	b.log(room, 5, 6)
	see(b, 6, head)
}
