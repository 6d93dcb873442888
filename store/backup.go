package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	_ "modernc.org/sqlite" // the driver that Check opens a file with
)

// backup copies the database as one moment saw it, while commits go on. It is
// written beside the file and then named, so a file of that name is whole.
func (e *sqliteEngine) backup(ctx context.Context, file string) error {
	if _, err := os.Lstat(file); err == nil {
		return core.Errorf(core.Conflict, "the backup file exists already")
	}
	part := file + ".partial"
	os.Remove(part) // of a backup that broke off; a link that somebody laid there is not followed
	f, err := os.OpenFile(part, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return unavailable("the backup file cannot be made", err)
	}
	defer f.Close()
	defer os.Remove(part) // gone already when all went well
	c, err := e.open(ctx, false)
	if err != nil {
		return judge(e, err)
	}
	defer e.drop(c)
	// query_only forbids the copy's own writes.
	if _, err := c.ExecContext(ctx, "PRAGMA query_only = OFF"); err != nil {
		return judge(e, err)
	}
	if _, err := c.ExecContext(ctx, "VACUUM INTO $1", part); err != nil {
		return judge(e, err)
	}
	if err := f.Sync(); err != nil {
		return unavailable("the backup file cannot be written", err)
	}
	if err := os.Link(part, file); err != nil { // unlike a rename, refuses to replace
		return unavailable("the backup file cannot be named", err)
	}
	return syncDir(filepath.Dir(file))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return unavailable("the backup directory cannot be opened", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return unavailable("the backup directory cannot be written", err)
	}
	return nil
}

// Check reads a backup, or a database that nobody has open, and reports the
// first thing that is wrong with it: damaged pages, migrations this version does
// not know, a log with a gap, a record that cannot be read, an origin or a
// cursor that leads nowhere. A damaged or foreign file is Invalid.
func Check(ctx context.Context, file string) error {
	if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
		return core.Errorf(core.NotFound, "there is no such file")
	}
	path, err := filepath.Abs(file)
	if err != nil {
		return core.Errorf(core.Invalid, "path of the backup: %w", err)
	}
	db, err := sql.Open("sqlite", fileURI(path, "ro"))
	if err != nil {
		return unavailable("the file cannot be opened", err)
	}
	defer db.Close()
	c, err := db.Conn(ctx)
	if err != nil {
		return unavailable("the file cannot be opened", err)
	}
	s := &session{eng: &sqliteEngine{}, conn: c, ctx: ctx, stmts: map[string]*sql.Stmt{}}
	defer s.drop()
	err = checkFile(s)
	if err != nil && core.CodeOf(err) == core.Internal {
		return &core.Error{Code: core.Invalid, Text: "the file is damaged or not a database of Isthmus", Err: err}
	}
	return err
}

func checkFile(s *session) error {
	if _, err := s.exec("BEGIN"); err != nil {
		return err
	}
	var verdict string
	if err := s.row(`PRAGMA integrity_check(1)`, nil, &verdict); err != nil {
		return err
	}
	if verdict != "ok" {
		return core.Errorf(core.Invalid, "the file is damaged: %s", verdict)
	}
	known, err := migrations()
	if err != nil {
		return err
	}
	done, err := checkMigrations(s, known)
	if err != nil {
		return err
	}
	if done == 0 {
		return core.Errorf(core.Invalid, "the file has no schema")
	}
	if err := checkRelations(s); err != nil {
		return err
	}
	return checkLogs(s)
}

// checkRelations counts what leads nowhere; every count must be zero.
func checkRelations(s *session) error {
	for _, q := range []struct{ what, query string }{
		{"rows without their room or link", `SELECT COUNT(*) FROM pragma_foreign_key_check`},
		{"events without a room", `SELECT COUNT(*) FROM events WHERE room NOT IN (SELECT room FROM rooms)`},
		{"origins without an event", `SELECT COUNT(*) FROM origins o WHERE NOT EXISTS
			(SELECT 1 FROM events e WHERE e.room = o.room AND e.seq = o.seq)`},
		{"rooms whose log has a gap", `SELECT COUNT(*) FROM (SELECT room FROM events GROUP BY room
			HAVING MIN(seq) <> 1 OR MAX(seq) <> COUNT(*))`},
		{"cursors beyond their log", `SELECT COUNT(*) FROM cursors c JOIN links l ON l.id = c.link
			WHERE c.seq > (SELECT COALESCE(MAX(e.seq), 0) FROM events e WHERE e.room = l.room)`},
		{"items numbered beyond the counter", `SELECT COUNT(*) FROM items WHERE id > (SELECT value FROM counters WHERE name = 'item')`},
	} {
		var n int64
		if err := s.row(q.query, nil, &n); err != nil {
			return err
		}
		if n != 0 {
			return core.Errorf(core.Invalid, "%d %s", n, q.what)
		}
	}
	return nil
}

// checkLogs reads every record once, and that it says the room it lies in.
func checkLogs(s *session) error {
	rows, err := s.conn.QueryContext(s.ctx, `SELECT r.uri, e.seq, e.accepted, e.record
		FROM events e JOIN rooms r ON r.room = e.room ORDER BY e.room, e.seq`)
	if err != nil {
		return judge(s.eng, err)
	}
	defer rows.Close()
	for rows.Next() {
		var uri core.RoomID
		var seq uint64
		var accepted int64
		var record sql.RawBytes
		if err := rows.Scan(&uri, &seq, &accepted, &record); err != nil {
			return judge(s.eng, err)
		}
		e, err := core.ReadRecord(record, seq, time.UnixMicro(accepted), "")
		if err != nil || e.Room != uri {
			return core.Errorf(core.Invalid, "event %d of a room cannot be read", seq)
		}
	}
	if err := rows.Err(); err != nil {
		return judge(s.eng, err)
	}
	return nil
}
