package store

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

func TestBackup(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		ctx, dir := context.Background(), t.TempDir()
		file := filepath.Join(dir, "backup.db")
		if strings.HasPrefix(b.url, "postgres") {
			err := b.Backup(ctx, file)
			refused(t, core.Unsupported, err)
			if err == nil || !strings.Contains(core.TextOf(err), "pg_dump") {
				t.Errorf("no advice: %v", err)
			}
			return
		}
		room := b.room("log")
		b.log(room, 1, 500)
		b.do(func(tx core.Tx) error { return tx.Append(message(t, room, 501, "$x")) })
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() { // it is online
			defer close(stopped)
			for seq := uint64(502); ; seq++ {
				select {
				case <-stop:
					return
				default:
					b.log(room, seq, seq)
				}
			}
		}()
		err := b.Backup(ctx, file)
		close(stop)
		<-stopped
		if err != nil {
			t.Fatal(err)
		}
		refused(t, core.Conflict, b.Backup(ctx, file))
		if fi, err := os.Stat(file); err != nil || fi.Mode() != 0o600 {
			t.Errorf("%v, %v", fi, err)
		}
		if err := Check(ctx, file); err != nil {
			t.Errorf("check of a good backup: %v", err)
		}
		refused(t, core.NotFound, Check(ctx, filepath.Join(dir, "none")))
		for name, q := range map[string]string{
			"gap":       `DELETE FROM events WHERE seq = 7`,
			"start":     `DELETE FROM events WHERE seq = 1`,
			"record":    `UPDATE events SET record = x'01' WHERE seq = 9`,
			"origin":    `UPDATE origins SET seq = 99999999`,
			"room":      `UPDATE events SET room = 77`,
			"migration": `UPDATE migrations SET checksum = 'x'`,
			"newer":     `INSERT INTO migrations VALUES (3, '0003_future', 'x', 0)`,
			"schema":    `DROP TABLE kv; DROP TABLE events`,
		} {
			bad := filepath.Join(dir, name)
			damage(t, file, bad, q)
			if err := Check(ctx, bad); err == nil {
				t.Errorf("%s: the damage went unseen", name)
			}
		}
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4096 {
			whole[len(whole)/2+i] ^= 0x5a
		}
		for name, data := range map[string][]byte{"flipped": whole, "cut": whole[:len(whole)/3], "empty": nil, "text": []byte("hello, world: not a database at all")} {
			bad := filepath.Join(dir, name)
			if err := os.WriteFile(bad, data, 0o600); err != nil {
				t.Fatal(err)
			}
			refused(t, core.Invalid, Check(ctx, bad))
		}
		// Restored, it works.
		b.Close()
		b.url = "sqlite:" + file
		b.open()
		head, err := read(b, func(r core.Reader) (uint64, error) { s, _, err := r.Head(room); return s, err })
		if err != nil || head < 501 {
			t.Errorf("head %d, %v", head, err)
		}
		b.log(room, head+1, head+1)
	})
}

func damage(t *testing.T, from, to, q string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", to)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(q); err != nil {
		t.Fatal(err)
	}
}

// A backup into a directory that others may write to follows no link they laid.
func TestBackupFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	db, err := Open(context.Background(), Options{URL: "sqlite:" + filepath.Join(dir, "a.db"), Homeserver: home})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	victim, file := filepath.Join(dir, "victim"), filepath.Join(dir, "backup.db")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, file+".partial"); err != nil {
		t.Fatal(err)
	}
	if err := db.Backup(context.Background(), file); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
		t.Errorf("the link was followed: %q %v", b, err)
	}
	if err := Check(context.Background(), file); err != nil {
		t.Error(err)
	}
}
