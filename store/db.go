// Package store implements core.Store on SQLite and PostgreSQL, from one SQL
// text and one schema. It remembers and does not decide.
//
// A DB has one writer connection and a few reader connections; each keeps its
// prepared statements for as long as it lives. What differs between the two
// engines (how to connect, how to begin, which errors pass) stands in sqlite.go
// and postgres.go, everything else in read.go and write.go.
package store

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of the shell around the database.
const (
	// maxReaders bounds the views that run at once; more wait. Two cores are
	// busy with far fewer, and every reader holds a page cache.
	maxReaders = 8
	// maxKeys bounds the rooms whose numeric key is kept in memory, about
	// 150 octets each. When full the cache starts again.
	maxKeys = 1 << 16
)

// Options say where the database is and whose it is.
type Options struct {
	URL        string       // "sqlite:PATH" or "postgres://…"
	Homeserver string       // domain; event IDs depend on it, so it is fixed with the first Open
	Log        *slog.Logger // nil: slog.Default()
	Keep       bool         // leave the schema as it is: see Pending and DB.Migrate

	maxPages int // SQLite: size bound in pages, for tests of a full disk
}

// An engine is what SQLite and PostgreSQL do differently.
type engine interface {
	// open returns a new connection: set up, and for the writer with the lock
	// that keeps other processes out.
	open(ctx context.Context, writer bool) (*sql.Conn, error)
	// drop ends a connection for good, whatever state it is in.
	drop(c *sql.Conn)
	name() string
	// beginWrite and beginRead are the statements that start a transaction.
	beginWrite() string
	beginRead() string
	// bound returns the context that the statements of a transaction run under.
	bound(ctx context.Context, writer bool) (context.Context, context.CancelFunc)
	// code judges an error of the driver.
	code(err error) core.Code
	// migrated is called once, when the schema is up to date.
	migrated()
	// unknown reports whether a COMMIT that failed with err may have taken effect
	// all the same, because its answer was lost.
	unknown(err error) bool
	// committed is told of every commit on the writer's connection.
	committed(c *sql.Conn)
	// shrink has a connection that rests give back memory.
	shrink(c *sql.Conn)
	backup(ctx context.Context, file string) error
	close() error
}

// DB is an open database. It implements core.Store.
type DB struct {
	eng        engine
	log        *slog.Logger
	homeserver string
	schema     string   // name of the newest migration that it has, "" = none
	pending    []string // names of those that it lacks

	write   sync.Mutex // one Update at a time
	writer  *session   // under write; nil after a failure, until the next Update
	heads   map[int64]head
	readers chan *session // nil entries are opened when needed

	mu     sync.RWMutex
	keys   map[core.RoomID]int64 // committed rooms only
	closed bool
}

// A head is the end of a room's log.
type head struct {
	seq      uint64
	accepted int64 // µs
}

var _ core.Store = (*DB)(nil)

// Open opens the database, creates or migrates it unless o.Keep, and locks it for
// this process. Errors: Invalid for a URL or homeserver that does not fit,
// Unavailable if another process holds it or it cannot be reached, Unsupported
// if a newer or a different Isthmus made it.
func Open(ctx context.Context, o Options) (*DB, error) {
	db, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	if !o.Keep {
		_, err = db.Migrate(ctx)
	} else if db.schema != "" {
		err = db.claim(ctx)
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Migrate brings the schema up to date without keeping the database open, and
// returns the names of the migrations it applied. It fails as Open does.
func Migrate(ctx context.Context, o Options) ([]string, error) {
	db, err := open(ctx, o)
	if err != nil {
		return nil, err
	}
	applied, err := db.Migrate(ctx)
	if cerr := db.Close(); err == nil {
		err = cerr
	}
	return applied, err
}

// open opens the database and looks at its schema.
func open(ctx context.Context, o Options) (*DB, error) {
	db := &DB{log: o.Log, homeserver: o.Homeserver,
		heads: map[int64]head{}, keys: map[core.RoomID]int64{}, readers: make(chan *session, maxReaders)}
	if db.log == nil {
		db.log = slog.Default()
	}
	for range maxReaders {
		db.readers <- nil
	}
	var err error
	if db.eng, err = newEngine(ctx, o, db.log, &db.write); err != nil {
		return nil, err
	}
	db.writer, err = db.session(ctx, true)
	if err == nil {
		db.schema, db.pending, err = migrate(ctx, db.writer, false)
	}
	if err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// Migrate brings the schema up to date, binds the database to its homeserver and
// returns the names of the migrations it applied. It fails as Open does.
func (db *DB) Migrate(ctx context.Context) ([]string, error) {
	had, applied := db.schema, db.pending
	if len(applied) > 0 {
		if err := db.migrate(ctx); err != nil {
			return nil, err
		}
	}
	for _, name := range applied {
		if had == "" {
			break // a new database is nothing that an operator needs to know was changed
		}
		db.log.Info("store: schema migrated", "migration", name)
	}
	return applied, db.claim(ctx)
}

func (db *DB) migrate(ctx context.Context) (err error) {
	db.write.Lock()
	defer db.write.Unlock()
	for range maxReaders { // what they prepared is of the old schema
		if s := <-db.readers; s != nil {
			s.drop()
		}
		defer func() { db.readers <- nil }()
	}
	if db.writer == nil {
		if db.writer, err = db.session(ctx, true); err != nil {
			return err
		}
	}
	if _, _, err = migrate(ctx, db.writer, true); err != nil {
		db.writer.drop()
		db.writer = nil
		return err
	}
	db.eng.migrated()
	db.schema, db.pending = db.pending[len(db.pending)-1], nil
	return nil
}

func newEngine(ctx context.Context, o Options, log *slog.Logger, commits sync.Locker) (engine, error) {
	if path, ok := strings.CutPrefix(o.URL, "sqlite:"); ok {
		return newSQLite(path, o.maxPages, log, commits)
	}
	if strings.HasPrefix(o.URL, "postgres://") || strings.HasPrefix(o.URL, "postgresql://") {
		return newPostgres(ctx, o.URL)
	}
	return nil, core.Errorf(core.Invalid, `database URL must start with "sqlite:" or "postgres://"`)
}

// claim binds the database to the homeserver: with another name every event ID
// would change, and nothing would fit any more.
func (db *DB) claim(ctx context.Context) error {
	if db.homeserver == "" {
		return nil
	}
	return db.Update(ctx, func(t core.Tx) error {
		s := t.(*tx).s
		if _, err := s.exec(`INSERT INTO settings (name, value) VALUES ('homeserver', $1) ON CONFLICT (name) DO NOTHING`, db.homeserver); err != nil {
			return err
		}
		var owner string
		if err := s.row(`SELECT value FROM settings WHERE name = 'homeserver'`, nil, &owner); err != nil {
			return err
		}
		if owner != db.homeserver {
			return core.Errorf(core.Invalid, "the database belongs to homeserver %s, not %s", owner, db.homeserver)
		}
		return nil
	})
}

// Version names the engine and the newest migration that the database has, for people.
func (db *DB) Version() string {
	if db.schema == "" {
		return db.eng.name() + ", no schema yet"
	}
	return db.eng.name() + ", schema " + db.schema
}

// Schema is the name of the newest migration that the database has, "" before the first.
// Pending names those of this version that it lacks: then Backup works, and reading
// what this version's statements find.
func (db *DB) Schema() string    { return db.schema }
func (db *DB) Pending() []string { return slices.Clone(db.pending) }

// Backup writes a consistent copy to file while everything goes on. The file
// must not exist. PostgreSQL answers Unsupported: its own tool does that.
func (db *DB) Backup(ctx context.Context, file string) error {
	return db.eng.backup(ctx, file)
}

// Close waits for what runs, closes every connection and gives up the lock.
func (db *DB) Close() error {
	db.mu.Lock()
	was := db.closed
	db.closed = true
	db.mu.Unlock()
	if was {
		return nil
	}
	for range maxReaders {
		if s := <-db.readers; s != nil {
			s.drop()
		}
		defer func() { db.readers <- nil }() // for a View that waits to hear that it is too late
	}
	db.write.Lock()
	if db.writer != nil {
		db.writer.drop()
		db.writer = nil
	}
	db.write.Unlock()
	return db.eng.close()
}

// Shrink has the connections that rest give back what they remember of the database.
// It is for when nothing happens: the next to use one reads it again from the kernel's
// memory. With SQLite that is up to 16 MiB of each connection: 25 MiB of the 28 by which
// a homeserver with a thousand idle Groups was larger than one without.
func (db *DB) Shrink() {
	if db.write.TryLock() {
		if db.writer != nil {
			db.eng.shrink(db.writer.conn)
		}
		db.write.Unlock()
	}
	for range maxReaders {
		select {
		case s := <-db.readers:
			if s != nil {
				db.eng.shrink(s.conn)
			}
			db.readers <- s
		default:
			return // the rest is in use
		}
	}
}

func (db *DB) usable(ctx context.Context) error {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return core.Errorf(core.Unavailable, "the database is closed")
	}
	return ctx.Err()
}

// Update implements core.Store.
func (db *DB) Update(ctx context.Context, f func(core.Tx) error) error {
	db.write.Lock()
	defer db.write.Unlock()
	if err := db.usable(ctx); err != nil {
		return err
	}
	inner, cancel := db.eng.bound(ctx, true)
	defer cancel()
	s, err := db.begin(inner, db.writer, true)
	db.writer = s
	if err != nil {
		return err
	}
	t := &tx{reader: reader{db: db, s: s}, heads: map[int64]head{}}
	t.tx = t
	committed := false
	defer func() {
		if !committed {
			db.abandon(t)
		}
	}()
	if err := f(t); err != nil {
		return err
	}
	if err := s.broken(); err != nil {
		return err // f swallowed it, but the transaction cannot be trusted
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if _, err := s.exec("COMMIT"); err != nil {
		committed = true // or not: abandon is done here
		db.abandon(t)
		if t.proof.seq == 0 || !db.eng.unknown(err) {
			return err
		}
		return db.landed(t, err)
	}
	committed = true
	db.remember(t)
	db.eng.committed(s.conn)
	return nil
}

// remember takes over what a committed transaction learned.
func (db *DB) remember(t *tx) {
	if len(db.heads) > maxKeys {
		clear(db.heads)
	}
	for k, h := range t.heads {
		db.heads[k] = h
	}
	if len(t.created) == 0 {
		return
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	for uri, k := range t.created {
		db.keys[uri] = k
	}
}

// How long a COMMIT whose answer was lost is asked after, and how often.
const (
	landedTime  = 10 * time.Second
	landedPause = 100 * time.Millisecond
)

// landed finds out whether a COMMIT that failed with cause took effect: then it
// returns nil. Nobody else writes meanwhile, so the last event that t appended
// tells. If the database stays away, the reason of the error is OutcomeUnknown.
func (db *DB) landed(t *tx, cause error) error {
	for end := time.Now().Add(landedTime); time.Now().Before(end); time.Sleep(landedPause) {
		ctx, cancel := db.eng.bound(context.Background(), true)
		s, err := db.begin(ctx, nil, true)
		if err != nil {
			cancel()
			continue
		}
		var record []byte
		err = s.row(`SELECT record FROM events WHERE room = $1 AND seq = $2`, []any{t.proof.room, int64(t.proof.seq)}, &record)
		_, rerr := s.exec("ROLLBACK")
		cancel()
		if rerr != nil || err != nil && core.CodeOf(err) != core.NotFound {
			s.drop()
			continue
		}
		db.writer = s
		if err == nil && bytes.Equal(record, t.proof.record) {
			return nil
		}
		return cause
	}
	return &core.Error{Code: core.Unavailable, Reason: core.OutcomeUnknown, Text: "the database went away in the middle of a commit", Err: cause}
}

// abandon rolls back. What the transaction learned goes with it; a connection
// that cannot even roll back is given up, and the next Update takes a new one.
func (db *DB) abandon(t *tx) {
	for k := range t.heads {
		delete(db.heads, k)
	}
	failed := t.s.broken() != nil
	_, err := t.s.exec("ROLLBACK")
	if err != nil || failed {
		t.s.drop()
		db.writer = nil
		clear(db.heads) // whether a failed COMMIT took effect is not known
	}
}

// View implements core.Store.
func (db *DB) View(ctx context.Context, f func(core.Reader) error) error {
	if err := db.usable(ctx); err != nil {
		return err
	}
	var s *session
	select {
	case s = <-db.readers:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { db.readers <- s }() // s as it is then
	if err := db.usable(ctx); err != nil {
		return err
	}
	inner, cancel := db.eng.bound(ctx, false)
	defer cancel()
	var err error
	if s, err = db.begin(inner, s, false); err != nil {
		return err
	}
	done := false
	defer func() {
		if _, err := s.exec("COMMIT"); err != nil || !done || s.broken() != nil {
			s.drop()
			s = nil
		}
	}()
	err = f(&reader{db: db, s: s})
	done = true
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // the driver has other words for it
	}
	return err
}

// begin starts a transaction on s, or on a new connection if s is nil or turns
// out to be dead: the one retry that brings a store back after its database was
// away. It returns nil with every error.
func (db *DB) begin(ctx context.Context, s *session, writer bool) (*session, error) {
	stmt := db.eng.beginRead()
	if writer {
		stmt = db.eng.beginWrite()
	}
	if s != nil {
		s.ctx, s.fault = ctx, nil
		if _, err := s.exec(stmt); err == nil {
			return s, nil
		}
		s.drop()
	}
	if writer {
		clear(db.heads) // without the lock, another process may have written
	}
	s, err := db.session(ctx, writer)
	if err != nil {
		return nil, err
	}
	if _, err := s.exec(stmt); err != nil {
		s.drop()
		return nil, err
	}
	return s, nil
}

func (db *DB) session(ctx context.Context, writer bool) (*session, error) {
	c, err := db.eng.open(ctx, writer)
	if err != nil {
		return nil, judge(db.eng, err)
	}
	return &session{eng: db.eng, conn: c, ctx: ctx, stmts: map[string]*sql.Stmt{}}, nil
}

// key returns the numeric key of a committed room from memory.
func (db *DB) key(room core.RoomID) (int64, bool) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	k, ok := db.keys[room]
	return k, ok
}

func (db *DB) learn(room core.RoomID, k int64) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if len(db.keys) >= maxKeys {
		clear(db.keys)
	}
	db.keys[room] = k
}

// A session is one connection with its prepared statements. One goroutine uses
// it at a time.
type session struct {
	eng   engine
	conn  *sql.Conn
	ctx   context.Context // of the running transaction
	stmts map[string]*sql.Stmt
	fault error // the first failed statement of the transaction
}

// broken returns why the transaction on s must not commit, nil if it may: a
// failed statement ends a transaction in PostgreSQL, so it does here as well.
func (s *session) broken() error { return s.fault }

func (s *session) stmt(q string) (*sql.Stmt, error) {
	if st := s.stmts[q]; st != nil {
		return st, nil
	}
	st, err := s.conn.PrepareContext(s.ctx, q)
	if err != nil {
		return nil, err
	}
	s.stmts[q] = st
	return st, nil
}

// drop ends the session's connection, whatever state it is in. A statement
// prepared on one connection is not closed with it, and one that stays keeps
// SQLite's connection alive with its locks.
func (s *session) drop() {
	for _, st := range s.stmts {
		st.Close()
	}
	s.eng.drop(s.conn)
}

func (s *session) fail(err error) error {
	err = judge(s.eng, err)
	if s.fault == nil {
		s.fault = err
	}
	return err
}

// exec runs q and returns how many rows it changed.
func (s *session) exec(q string, args ...any) (int64, error) {
	if err := storable(args); err != nil {
		return 0, err
	}
	st, err := s.stmt(q)
	if err != nil {
		return 0, s.fail(err)
	}
	r, err := st.ExecContext(s.ctx, args...)
	if err != nil {
		return 0, s.fail(err)
	}
	n, err := r.RowsAffected()
	if err != nil {
		return 0, s.fail(err)
	}
	return n, nil
}

var errNoRow = core.Errorf(core.NotFound, "no such thing")

// row scans the one row that q selects; NotFound if there is none.
func (s *session) row(q string, args []any, dest ...any) error {
	if err := storable(args); err != nil {
		return err
	}
	st, err := s.stmt(q)
	if err != nil {
		return s.fail(err)
	}
	err = st.QueryRowContext(s.ctx, args...).Scan(dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return errNoRow
	}
	if err != nil {
		return s.fail(err)
	}
	return nil
}

// A scanner is a row to be scanned: *sql.Row and *sql.Rows.
type scanner interface{ Scan(dest ...any) error }

// list collects the rows that q selects, each read by scan.
func list[T any](s *session, scan func(scanner) (T, error), q string, args ...any) ([]T, error) {
	if err := storable(args); err != nil {
		return nil, err
	}
	st, err := s.stmt(q)
	if err != nil {
		return nil, s.fail(err)
	}
	rows, err := st.QueryContext(s.ctx, args...)
	if err != nil {
		return nil, s.fail(err)
	}
	defer rows.Close()
	var out []T
	for rows.Next() {
		v, err := scan(rows)
		if err != nil {
			return nil, s.fail(err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, s.fail(err)
	}
	return out, nil
}

// storable refuses text that PostgreSQL cannot keep (NUL, invalid UTF-8), on
// both engines and before the statement runs, so a hostile name can neither
// abort a transaction nor make the two behave differently.
func storable(args []any) error {
	for _, a := range args {
		if s, ok := a.(string); ok && (!utf8.ValidString(s) || strings.IndexByte(s, 0) >= 0) {
			return core.Errorf(core.Invalid, "text with a NUL or invalid UTF-8 cannot be stored")
		}
	}
	return nil
}

// judge turns a driver's error into one of ours. The driver's words may name
// files and hosts, so they stay in the cause, out of the text.
func judge(e engine, err error) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	if _, ok := errors.AsType[*core.Error](err); ok {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &core.Error{Code: core.Unavailable, Text: "the database does not answer in time", Err: err}
	}
	if c := e.code(err); c != core.Internal {
		return &core.Error{Code: c, Text: "the database is not available now", Err: err}
	}
	return &core.Error{Code: core.Internal, Text: "the database failed", Err: err}
}

func micros(t time.Time) int64  { return t.UnixMicro() }
func moment(us int64) time.Time { return time.UnixMicro(us).UTC() }
func flag(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
