package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestGroupsRestoredFromBackup restores a homeserver from a backup that is older than
// what it last said to another. In places that the other has already it says something
// new, more than was lost: all at once when the two meet again, or bit by bit.
func TestGroupsRestoredFromBackup(t *testing.T) {
	for _, apart := range []bool{false, true} {
		t.Run(fmt.Sprintf("apart %v", apart), func(t *testing.T) { restoredFromBackup(t, apart) })
	}
}

func restoredFromBackup(t *testing.T, apart bool) {
	c := newCluster(t, false, "a.example", "b.example")
	c.start()
	a, b := c.homes[0], c.homes[1]
	g := c.newCrowd(newRegister(), time.Hour, time.Hour)
	alice, bob := g.phones[0], g.phones[1]
	var want []string
	say := func(stem string, n int) {
		t.Helper()
		for _, text := range numbered(stem, n) {
			if m, err := alice.say(t.Context(), g.room, text); err != nil || m.Seq == 0 {
				t.Fatalf("%q is not accepted: %+v, %v", text, m, err)
			}
			want = append(want, "alice: "+text)
		}
	}
	say("before", 3)
	bob.hear(g.room, want)
	backup := filepath.Join(c.dir, "backup.db") // it does not know yet, perhaps, how much b.example has
	if out, err := exec.Command(c.binary, "backup", backup, "--config", a.config).CombinedOutput(); err != nil {
		t.Fatalf("isthmus backup: %v\n%s", err, out)
	}
	say("lost", 3)
	bob.hear(g.room, want)
	a.down(syscall.SIGTERM)
	for _, end := range []string{"-wal", "-shm"} {
		os.Remove(a.database() + end)
	}
	if err := os.Rename(backup, a.database()); err != nil {
		t.Fatal(err)
	}
	if apart {
		b.down(syscall.SIGTERM)
	}
	a.up()
	say("after", 5)
	if apart {
		b.up()
	}
	bob.hear(g.room, want)
	say("later", 1)
	bob.hear(g.room, want)
	if heard := bob.lines(g.room); !slices.Equal(heard, want) {
		t.Errorf("bob heard %q, not %q", heard, want)
	}
	log, err := os.ReadFile(a.logFile())
	if n := strings.Count(string(log), "restored from an old backup"); err != nil || n != 1 {
		t.Errorf("the operator is told %d times, %v", n, err)
	}
	for _, p := range g.phones {
		p.stop()
	}
}
