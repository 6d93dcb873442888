package store

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

//go:embed schema/*.sql
var schemaFiles embed.FS

// schemas is where migrations are read from; tests put others there.
var schemas fs.FS = schemaFiles

// A migration is one numbered file of schema/. Once released, a file never
// changes: the next change is the next file.
type migration struct {
	number   int64
	name     string // file name without .sql
	text     string
	checksum string // SHA-256 of text, hex
}

// migrations returns the files in order; they are numbered from 1 without gaps.
func migrations() ([]migration, error) {
	files, err := fs.Glob(schemas, "schema/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var ms []migration
	for i, f := range files {
		b, err := fs.ReadFile(schemas, f)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(strings.TrimPrefix(f, "schema/"), ".sql")
		digits, _, _ := strings.Cut(name, "_")
		n, err := strconv.ParseInt(digits, 10, 64)
		if err != nil || n != int64(i+1) {
			return nil, core.Errorf(core.Internal, "migration %s is not number %d", name, i+1)
		}
		sum := sha256.Sum256(b)
		ms = append(ms, migration{n, name, string(b), hex.EncodeToString(sum[:])})
	}
	return ms, nil
}

const migrationsTable = `CREATE TABLE IF NOT EXISTS migrations (
	number   BIGINT NOT NULL PRIMARY KEY,
	name     TEXT NOT NULL,
	checksum TEXT NOT NULL,
	applied  BIGINT NOT NULL
)`

// migrate returns the name of the newest migration that the database has, "" if none,
// and the names of those that it lacks. If apply, it applies these, in one transaction.
// The writer's lock is held, so nobody else migrates at the same time.
func migrate(ctx context.Context, s *session, apply bool) (had string, missing []string, err error) {
	inner, cancel := s.eng.bound(ctx, true)
	defer cancel()
	s.ctx, s.fault = inner, nil
	if _, err := s.exec(s.eng.beginWrite()); err != nil {
		return "", nil, err
	}
	end := "ROLLBACK" // also of the table, where it was only to be looked at
	defer func() {
		if _, eerr := s.exec(end); err == nil { // else the caller drops the connection
			err = eerr
		}
	}()
	if _, err := s.exec(migrationsTable); err != nil {
		return "", nil, err
	}
	known, err := migrations()
	if err != nil {
		return "", nil, err
	}
	done, err := checkMigrations(s, known)
	if err != nil {
		return "", nil, err
	}
	if done > 0 {
		had = known[done-1].name
	}
	for _, m := range known[done:] {
		missing = append(missing, m.name)
		if !apply {
			continue
		}
		for _, q := range statements(m.text, s.eng.name()) {
			if _, err := s.exec(q); err != nil {
				return "", nil, fmt.Errorf("migration %s: %w", m.name, err)
			}
		}
		if _, err := s.exec(`INSERT INTO migrations (number, name, checksum, applied) VALUES ($1, $2, $3, $4)`,
			m.number, m.name, m.checksum, micros(time.Now())); err != nil {
			return "", nil, err
		}
	}
	if apply {
		end = "COMMIT"
	}
	return had, missing, nil
}

// checkMigrations compares what the database had with the files we know and
// returns how many of them it has; anything unknown or changed is Unsupported.
func checkMigrations(s *session, known []migration) (int, error) {
	type row struct {
		number         int64
		name, checksum string
	}
	had, err := list(s, func(r scanner) (m row, err error) {
		return m, r.Scan(&m.number, &m.name, &m.checksum)
	}, `SELECT number, name, checksum FROM migrations ORDER BY number`)
	if err != nil {
		return 0, err
	}
	for i, m := range had {
		if i >= len(known) {
			return 0, core.Errorf(core.Unsupported,
				"the database has migration %s, which this version does not know: a newer version made it", m.name)
		}
		if m.number != known[i].number || m.checksum != known[i].checksum {
			return 0, core.Errorf(core.Unsupported,
				"migration %s of the database differs from the one in this version (%s): a different build made it", m.name, known[i].name)
		}
	}
	return len(had), nil
}

var (
	engineClause = regexp.MustCompile(`(?s)/\*(\w+):\s(.*?)\*/`)
	lineComment  = regexp.MustCompile(`(?m)--.*$`)
)

// statements splits a migration, keeping the clauses meant for engine.
func statements(text, engine string) []string {
	text = lineComment.ReplaceAllString(text, "")
	text = engineClause.ReplaceAllStringFunc(text, func(c string) string {
		m := engineClause.FindStringSubmatch(c)
		if m[1] == engine {
			return m[2]
		}
		return ""
	})
	var out []string
	for q := range strings.SplitSeq(text, ";") {
		if q = strings.TrimSpace(q); q != "" {
			out = append(out, q)
		}
	}
	return out
}
