package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
)

// Bounds of the PostgreSQL engine.
const (
	// transactionTimeout bounds an Update or a View: a server that does not
	// answer must not stop the house for longer.
	transactionTimeout = 30 * time.Second
	// lockWait is how long a new writer waits for the lock that its own dead
	// connection may still hold until the server notices.
	lockWait  = 2 * time.Second
	lockPause = 50 * time.Millisecond
)

// postgresEngine keeps a schema of a PostgreSQL 15+ database.
type postgresEngine struct {
	pool *pgxpool.Pool
	db   *sql.DB
}

func newPostgres(ctx context.Context, dsn string) (*postgresEngine, error) {
	c, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, core.Errorf(core.Invalid, "the database URL cannot be read") // the cause would show the password
	}
	c.MaxConns = maxReaders + 2 // the writer, and one more while it is replaced
	c.ConnConfig.ConnectTimeout = 5 * time.Second
	// Every query here follows an index. Before its first ANALYZE the planner
	// takes a busy table for a small one and sorts all of it for one page of
	// history: 90 ms instead of 0.3.
	for _, plan := range []string{"enable_bitmapscan", "enable_seqscan", "enable_sort"} {
		c.ConnConfig.RuntimeParams[plan] = "off"
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, unavailable("the database cannot be reached", err)
	}
	return &postgresEngine{pool: pool, db: stdlib.OpenDBFromPool(pool)}, nil
}

func (e *postgresEngine) name() string       { return "postgres" }
func (e *postgresEngine) beginWrite() string { return "BEGIN" }
func (e *postgresEngine) beginRead() string {
	return "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
}

// bound keeps a caller that gives up from cancelling a statement of the writer:
// that would end the connection and, with it, the lock.
func (e *postgresEngine) bound(ctx context.Context, writer bool) (context.Context, context.CancelFunc) {
	if writer {
		ctx = context.WithoutCancel(ctx)
	}
	return context.WithTimeout(ctx, transactionTimeout)
}

// lockKey is one number per schema: two homeservers may share a database.
const lockKey = `hashtextextended('isthmus store ' || current_schema(), 0)`

// open returns a connection. The writer's holds the advisory lock itself: if it
// dies, the lock is free, and nothing can be written any more without taking it
// again. A lock on another connection could be lost while this one still writes.
func (e *postgresEngine) open(ctx context.Context, writer bool) (*sql.Conn, error) {
	c, err := e.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if !writer {
		return c, nil
	}
	for end := time.Now().Add(lockWait); ; {
		var mine bool
		if err := c.QueryRowContext(ctx, `SELECT pg_try_advisory_lock(`+lockKey+`)`).Scan(&mine); err != nil {
			e.drop(c)
			return nil, err
		}
		if mine {
			return c, nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			e.drop(c)
			return nil, core.Errorf(core.Unavailable, "another process has this database open: %s", e.place())
		}
		time.Sleep(lockPause)
	}
}

// place names the database, for people: without the password.
func (e *postgresEngine) place() string {
	c := e.pool.Config().ConnConfig
	return c.Database + " on " + net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port)))
}

func (e *postgresEngine) drop(c *sql.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	c.Raw(func(dc any) error {
		if pc, ok := dc.(*stdlib.Conn); ok {
			pc.Conn().Close(ctx)
		}
		return driver.ErrBadConn
	})
	c.Close()
}

// code knows the classes of SQLSTATE that pass
// (https://www.postgresql.org/docs/15/errcodes-appendix.html).
func (e *postgresEngine) code(err error) core.Code {
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		for _, class := range []string{"08", "40", "53", "55", "57", "58", "25006", "3D000"} {
			if strings.HasPrefix(pe.Code, class) {
				return core.Unavailable
			}
		}
		return core.Internal
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return core.Unavailable
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok || pgconn.SafeToRetry(err) {
		return core.Unavailable
	}
	for _, gone := range []error{driver.ErrBadConn, sql.ErrConnDone, io.EOF, io.ErrUnexpectedEOF, net.ErrClosed} {
		if errors.Is(err, gone) {
			return core.Unavailable
		}
	}
	if strings.Contains(err.Error(), "conn closed") { // pgx has no value for it
		return core.Unavailable
	}
	return core.Internal
}

func (e *postgresEngine) migrated() {}

// unknown: the server has the last word, if it could say it. 57 is the class of
// a server that is being stopped.
func (e *postgresEngine) unknown(err error) bool {
	pe, ok := errors.AsType[*pgconn.PgError](err)
	return !ok || strings.HasPrefix(pe.Code, "57")
}

func (e *postgresEngine) committed(*sql.Conn) {}
func (e *postgresEngine) shrink(*sql.Conn)    {} // the database's memory is its own

func (e *postgresEngine) backup(context.Context, string) error {
	return core.Errorf(core.Unsupported, "back up a PostgreSQL database with its own tool: pg_dump --format=custom")
}

func (e *postgresEngine) close() error {
	err := e.db.Close()
	e.pool.Close()
	return err
}
