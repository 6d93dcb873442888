package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A smallDisk is a file system in memory, which can be filled up.
type smallDisk struct {
	t    *testing.T
	dir  string
	fill string
}

// newSmallDisk puts one where a homeserver keeps its data. It needs root.
func (h *homeserver) newSmallDisk(octets int) *smallDisk {
	h.t.Helper()
	d := &smallDisk{t: h.t, dir: filepath.Join(h.dir, "data")}
	d.fill = filepath.Join(d.dir, "fill")
	if err := os.Mkdir(d.dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", d.dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", octets)); err != nil {
		h.t.Fatalf("mounting a small disk (it needs root): %v", err)
	}
	h.t.Cleanup(func() { h.down(syscall.SIGKILL); syscall.Unmount(d.dir, syscall.MNT_DETACH) })
	return d
}

// full takes all the room that is left.
func (d *smallDisk) full() {
	d.t.Helper()
	f, err := os.OpenFile(d.fill, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 4096); ; {
		if _, err := f.Write(block); errors.Is(err, syscall.ENOSPC) {
			return
		} else if err != nil {
			d.t.Fatal(err)
		}
	}
}

// TestGroupsDiskFull fills the disk of one of three homeservers. Its devices are told so,
// with a code that means that it is a matter of waiting; the others go on; nothing that
// was acknowledged is lost, also if the process is killed meanwhile; and when there is
// room again it goes on by itself.
func TestGroupsDiskFull(t *testing.T) {
	c := newCluster(t, false, "a.example", "b.example", "c.example")
	disk := c.homes[1].newSmallDisk(40 << 20)
	c.homes[1].settings = "api: {messages_per_second: 10000, requests_per_second: 10000}\n"
	c.start()
	all := newRegister()
	g := c.newCrowd(all, 50*time.Millisecond, time.Second)
	bob := g.phones[1]
	stop := g.talk()
	time.Sleep(time.Second)
	disk.full()
	var err error
	var void []string
	for err == nil && len(void) < 3000 { // the database has room of its own, at first
		void = append(void, fmt.Sprintf("%s %d", strings.Repeat("long ", 6000), len(void)))
		_, err = bob.say(t.Context(), g.room, void[len(void)-1]) // accepted, or kept by the device
	}
	if core.CodeOf(err) != core.Unavailable || !core.Temporary(err) {
		t.Errorf("with a full disk bob is told: %v", err)
	}
	t.Logf("with a full disk and %d long sentences bob is told: %v", len(void), err)
	if took, err := renews(g.phones[0], g.room, groupPatience); err != nil {
		t.Errorf("with the disk of another full alice cannot commit: %v", err)
	} else {
		t.Logf("with the disk of another full alice commits in %v", took.Round(time.Millisecond))
	}
	c.homes[1].down(syscall.SIGKILL)
	if err := os.Remove(disk.fill); err != nil {
		t.Fatal(err)
	}
	c.homes[1].up()
	time.Sleep(time.Second)
	disk.full() // and now without a kill
	time.Sleep(2 * time.Second)
	if err := os.Remove(disk.fill); err != nil {
		t.Fatal(err)
	}
	if _, err := renews(bob, g.room, groupPatience); err != nil {
		t.Errorf("with room again bob cannot commit: %v", err)
	}
	stop()
	g.settle()
	for _, p := range []*phone{g.phones[0], g.phones[2]} {
		p.hear(g.room, by("bob", void))
	}
	ended := c.end(g, nil)
	all.check(t, map[core.RoomID][]string{g.room: ended})
}
