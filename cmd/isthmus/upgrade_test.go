package main

import (
	"bytes"
	"crypto/ed25519"
	"database/sql"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// Looking at a PostgreSQL database changes neither its schema nor the key, as
// testdata/script/upgrade.txt and key.txt show with SQLite.
func TestPostgresIsOnlyLookedAt(t *testing.T) {
	p, dir := newPostgres(t), t.TempDir()
	data, file := filepath.Join(dir, "data"), filepath.Join(dir, "isthmus.yaml")
	env := []string{configs.EnvPrefix + "DATABASE_URL=" + p.url}
	try := func(code int, want string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		got := run(append([]string{"--config", file, "--data", data}, args...), env, strings.NewReader(""), &out, &out)
		if got != code || !strings.Contains(out.String(), want) {
			t.Errorf("%s: code %d, without %q: %s", args, got, want, &out)
		}
	}
	key := filepath.Join(data, "homeserver.key")
	p.stop()
	try(exitOK, "Wrote", "init") // it has no key yet: whether there was one is not known
	if _, err := os.Stat(key); !os.IsNotExist(err) {
		t.Errorf("a key was made: %v", err)
	}
	p.start()
	try(exitOK, "postgres, no schema yet; serve or migrate brings it to 0002_large_values", "check")
	try(exitFailed, "there is no homeserver", "room", "list")
	file = filepath.Join(dir, "again.yaml")
	try(exitOK, key, "init")
	try(exitOK, "Created", "room", "create", "#kept")
	record(t, &cli{environ: env, configFile: file, dataDir: data})

	db, err := sql.Open("pgx", p.url)
	if err == nil {
		_, err = db.Exec(`DELETE FROM migrations WHERE number = 2`)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	try(exitOK, "schema 0001_init; serve or migrate", "check")
	try(exitFailed, "the database has an older schema, 0001_init", "room", "list")
	try(exitFailed, "pg_dump", "backup", filepath.Join(dir, "copy"))
	if err := os.Remove(key); err != nil {
		t.Fatal(err)
	}
	try(exitFailed, key+" is missing", "check")
	try(exitFailed, key+" is missing", "serve")
	try(exitFailed, key+" is missing", "room", "list")
	if _, err := os.Stat(key); !os.IsNotExist(err) {
		t.Errorf("a key was made: %v", err)
	}
	var n int
	if err := db.QueryRow(`SELECT MAX(number) FROM migrations`).Scan(&n); err != nil || n != 1 {
		t.Errorf("schema %d, %v", n, err)
	}
}

// record has the homeserver make the record of its key, as its first start does.
func record(t *testing.T, c *cli) {
	t.Helper()
	conn, err := c.open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a := conn.(*local).admin
	rec, err := identity.SignHomeserver(a.key, identity.HomeserverRecord{Version: 1, Domain: a.domain,
		Keys: []identity.HomeserverKey{{Key: a.key.Public().(ed25519.PublicKey), NotAfter: math.MaxInt64}}})
	if err == nil {
		_, err = a.gw.Do(t.Context(), core.PutHomeserver{Record: rec.Encode()})
	}
	if cerr := conn.close(); err != nil || cerr != nil {
		t.Fatal(err, cerr)
	}
}
