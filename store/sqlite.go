package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"modernc.org/sqlite"
)

// Bounds of the SQLite engine.
const (
	// checkpointPages is how much the write-ahead log grows before it is carried
	// into the database file: 16 MiB. More pages per checkpoint means fewer
	// repeated writes of a hot page, less means a shorter recovery.
	checkpointPages = 2048
	// walRoom is what the write-ahead log is filled up to before its first commit:
	// a checkpoint's worth of frames and a quarter more for what comes meanwhile.
	walRoom        = (checkpointPages + checkpointPages/4) * (pageSize + 24)
	checkpointRest = time.Second // between one that failed and the next
	// pageSize holds whole rows of events: of a table without rowids a page of n
	// octets takes in rows up to n/4, and gives a page of its own to the rest of a
	// longer one. With SQLite's default, 4096, each sealed message of 1 KiB cost 4.6 KiB
	// in the log and again in the file, and four fifths of the time of a homeserver
	// with messages in bulk went there. A database that exists keeps its size.
	pageSize = 8192
	// busyTimeout bounds waiting for a lock inside our own process: a checkpoint
	// and a commit meet for microseconds.
	busyTimeout = 5 * time.Second
)

// sqliteEngine keeps one file, with a lock file beside it.
type sqliteEngine struct {
	path     string
	log      *slog.Logger
	db       *sql.DB
	lock     *os.File
	maxPages int

	commits sync.Locker   // held by whoever commits
	pages   int           // written since the last checkpoint; under commits
	wake    chan struct{} // the checkpointer is wanted
	stop    context.CancelFunc
	done    sync.WaitGroup
}

func newSQLite(path string, maxPages int, log *slog.Logger, commits sync.Locker) (*sqliteEngine, error) {
	if path == "" || strings.HasPrefix(path, ":memory:") {
		return nil, core.Errorf(core.Invalid, "the database URL names no file")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, core.Errorf(core.Invalid, "database path: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, unavailable("the database directory cannot be made", err)
	}
	lock, err := lockFile(path)
	if err != nil {
		return nil, err
	}
	// Made here so that nobody else can read it; SQLite gives its side files the
	// mode of this one.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		lock.Close()
		return nil, unavailable("the database file cannot be opened", err)
	}
	f.Close()
	db, err := sql.Open("sqlite", fileURI(path, "rw"))
	if err != nil {
		lock.Close()
		return nil, unavailable("the database file cannot be opened", err)
	}
	db.SetMaxIdleConns(-1) // a connection given back is closed: sessions do the keeping
	ctx, stop := context.WithCancel(context.Background())
	e := &sqliteEngine{path: path, log: log, db: db, lock: lock, maxPages: maxPages,
		commits: commits, wake: make(chan struct{}, 1), stop: stop}
	e.done.Go(func() { e.checkpoints(ctx) })
	return e, nil
}

func unavailable(text string, err error) error {
	return &core.Error{Code: core.Unavailable, Text: text, Err: err}
}

// fileURI names a file to SQLite; mode is rw or ro.
func fileURI(path, mode string) string {
	return "file:" + (&url.URL{Path: path}).EscapedPath() + "?mode=" + mode
}

// lockFile takes the lock that says which process owns the database at path. The kernel
// frees it when the process ends, however it ends; the file, beside the database, stays.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, unavailable("the database's lock file cannot be opened", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, unavailable("another process has this database open: "+path, err)
	}
	return f, nil
}

func (e *sqliteEngine) name() string       { return "sqlite" }
func (e *sqliteEngine) beginWrite() string { return "BEGIN IMMEDIATE" }
func (e *sqliteEngine) beginRead() string  { return "BEGIN" }

// bound returns a context that never ends: the driver starts a goroutine for
// each statement under one that can, and no statement here is long.
func (e *sqliteEngine) bound(context.Context, bool) (context.Context, context.CancelFunc) {
	return context.Background(), func() {}
}

func (e *sqliteEngine) open(ctx context.Context, writer bool) (*sql.Conn, error) {
	c, err := e.connect(ctx, writer)
	if err == nil && writer {
		e.fillLog()
	}
	return c, err
}

func (e *sqliteEngine) connect(ctx context.Context, writer bool) (*sql.Conn, error) {
	pragmas := []string{
		fmt.Sprintf("busy_timeout = %d", busyTimeout.Milliseconds()),
		fmt.Sprintf("page_size = %d", pageSize), // of a new database, and before its log is made
		"journal_mode = WAL",
		"synchronous = FULL", // a commit is on disk when it returns
		"foreign_keys = ON",
		"trusted_schema = OFF",
		"temp_store = MEMORY",
		"mmap_size = 268435456", // reads of history come from the page cache, uncopied
		"cache_size = -16384",   // KiB
	}
	if writer {
		// Checkpoints run beside the commits, see checkpoints.
		pragmas = append(pragmas, "wal_autocheckpoint = 0")
		if e.maxPages > 0 {
			pragmas = append(pragmas, fmt.Sprintf("max_page_count = %d", e.maxPages))
		}
	} else {
		pragmas = append(pragmas, "query_only = ON")
	}
	c, err := e.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pragmas {
		if _, err := c.ExecContext(ctx, "PRAGMA "+p); err != nil {
			e.drop(c)
			return nil, err
		}
	}
	return c, nil
}

// fillLog writes zeros behind the end of the write-ahead log. A commit that
// overwrites written blocks changes no metadata of the file, and its fdatasync
// takes half the time of one that makes the file longer: 0.09 ms instead of
// 0.16 ms for two pages, interleaved in one run on ext4; fallocate alone wins
// nothing, as its blocks are still marked unwritten. SQLite stops reading the log
// at the first frame whose checksum does not fit, so zeros mean nothing to it.
// It is done when the writer has opened, and for a new database once its
// migration has made the log, before anybody else writes. It is about speed, so
// failing is only worth a line in the log.
func (e *sqliteEngine) fillLog() {
	f, err := os.OpenFile(e.path+"-wal", os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return // a new database has none before its migration
	}
	if err == nil {
		defer f.Close()
		var fi os.FileInfo
		if fi, err = f.Stat(); err == nil && fi.Size() < walRoom {
			if _, err = f.WriteAt(make([]byte, walRoom-fi.Size()), fi.Size()); err == nil {
				err = f.Sync()
			}
		}
	}
	if err != nil {
		e.log.Warn("store: the write-ahead log is not filled up", "err", err)
	}
}

func (e *sqliteEngine) drop(c *sql.Conn) {
	c.Raw(func(any) error { return driver.ErrBadConn })
	c.Close()
}

// code knows SQLite's primary result codes (https://www.sqlite.org/rescode.html).
func (e *sqliteEngine) code(err error) core.Code {
	if errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) {
		return core.Unavailable
	}
	se, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return core.Internal
	}
	switch se.Code() & 0xff {
	case 3, 5, 6, 7, 8, 10, 13, 14, 15, 22: // PERM BUSY LOCKED NOMEM READONLY IOERR FULL CANTOPEN PROTOCOL NOLFS
		return core.Unavailable
	}
	return core.Internal
}

// unknown: what SQLite did not commit, this process will not see.
func (e *sqliteEngine) unknown(error) bool { return false }

func (e *sqliteEngine) shrink(c *sql.Conn) {
	if _, err := c.ExecContext(context.Background(), "PRAGMA shrink_memory"); err != nil {
		e.log.Warn("store: memory is not given back", "err", err)
	}
}

// committed counts the pages that the writer wrote, and wakes the checkpointer.
func (e *sqliteEngine) committed(c *sql.Conn) {
	c.Raw(func(dc any) error {
		if st, ok := dc.(sqlite.DBStatus); ok {
			n, _, err := st.Status(sqlite.DBStatusCacheWrite, true)
			e.pages += n
			return err
		}
		return nil
	})
	if e.pages >= checkpointPages {
		select {
		case e.wake <- struct{}{}:
		default: // at it already
		}
	}
}

func (e *sqliteEngine) migrated() { e.fillLog() }

// checkpoints carries the write-ahead log into the database file, on a
// connection of its own, so that no commit pays for it. A first pass runs beside
// the commits and does the work; a second, with commits held, takes the few
// pages that came meanwhile: only when nothing is left does the next commit
// start again at the head of the log instead of making it longer. A reader that
// holds an old snapshot prevents that; then the next round does it. One that
// fails, on a full disk, is tried again after checkpointRest and said once: the
// log of the server may be on that disk.
func (e *sqliteEngine) checkpoints(ctx context.Context) {
	var c *sql.Conn
	defer func() {
		if c != nil {
			e.drop(c)
		}
	}()
	for failed := false; ; {
		select {
		case <-ctx.Done():
			return
		case <-e.wake:
		}
		var err error
		if c == nil {
			c, err = e.connect(ctx, true)
		}
		if err == nil {
			err = e.checkpoint(c)
		}
		if err == nil {
			failed = false
			continue
		}
		if !failed {
			e.log.Warn("store: checkpoint failed", "err", err)
		}
		failed = true
		if c != nil {
			e.drop(c)
			c = nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(checkpointRest):
		}
	}
}

func (e *sqliteEngine) checkpoint(c *sql.Conn) error {
	ctx := context.Background()
	const passive = "PRAGMA wal_checkpoint(PASSIVE)"
	if _, err := c.ExecContext(ctx, passive); err != nil {
		return err
	}
	e.commits.Lock()
	defer e.commits.Unlock()
	e.pages = 0
	_, err := c.ExecContext(ctx, passive)
	return err
}

func (e *sqliteEngine) close() error {
	e.stop()
	e.done.Wait()
	err := e.db.Close()
	if lerr := e.lock.Close(); err == nil {
		err = lerr
	}
	return err
}
