package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A lan joins the homeservers of a cluster, each in a network namespace of its own, by a
// bridge. The test is at the bridge: devices always reach their homeservers, while
// homeservers reach each other only as long as no cut is between them.
type lan struct {
	t     *testing.T
	homes []*homeserver
	net   string // its first three numbers
}

// nowhere is the link address of nobody. Whatever a homeserver sends to a neighbour that
// it believes there is lost without a word, as in a network that is cut; what comes from
// that neighbour still arrives.
const nowhere = "02:00:00:00:00:fe"

// newLan moves homeservers that have not started yet. It needs root.
func (c *cluster) newLan() *lan {
	c.t.Helper()
	pid := os.Getpid()
	l := &lan{t: c.t, homes: c.homes, net: fmt.Sprintf("10.%d.%d", 100+pid%100, pid/100%256)}
	bridge := fmt.Sprintf("ist%d", pid)
	c.t.Cleanup(func() { runQuietly("ip", "link", "del", bridge) })
	l.ip("link add", bridge, "type bridge")
	l.ip("addr add", l.net+".254/24", "dev", bridge)
	l.ip("link set", bridge, "up")
	for i, h := range c.homes {
		h.netns = fmt.Sprintf("ist%d-%d", pid, i)
		c.t.Cleanup(func() { runQuietly("ip", "link", "del", h.netns); runQuietly("ip", "netns", "del", h.netns) })
		l.ip("netns add", h.netns)
		l.ip("link add", h.netns, "type veth peer name eth0 netns", h.netns)
		l.ip("link set", h.netns, "master", bridge, "up")
		l.ip("-n", h.netns, "addr add", l.address(i)+"/24 dev eth0")
		l.ip("-n", h.netns, "link set lo up")
		l.ip("-n", h.netns, "link set eth0 up")
		h.http, h.fed = l.address(i)+":8480", l.address(i)+":8443"
	}
	return l
}

func (l *lan) address(i int) string { return fmt.Sprintf("%s.%d", l.net, i+1) }

// ip runs iproute2; each argument may be several words.
func (l *lan) ip(args ...string) {
	l.t.Helper()
	words := strings.Fields(strings.Join(args, " "))
	if out, err := exec.Command("ip", words...).CombinedOutput(); err != nil {
		l.t.Fatalf("ip %s (network namespaces need root): %v\n%s", strings.Join(words, " "), err, out)
	}
}

// cut loses what homeserver from sends to homeserver to, and nothing else.
func (l *lan) cut(from, to int) {
	l.t.Helper()
	l.ip("-n", l.homes[from].netns, "neigh replace", l.address(to), "lladdr", nowhere, "dev eth0 nud permanent")
}

// part cuts the network between the homeservers of one side and all others, both ways.
func (l *lan) part(side ...int) {
	l.t.Helper()
	for i := range l.homes {
		for j := range l.homes {
			if slices.Contains(side, i) != slices.Contains(side, j) {
				l.cut(i, j)
			}
		}
	}
}

// heal mends all cuts.
func (l *lan) heal() {
	l.t.Helper()
	for i := range l.homes {
		l.ip("-n", l.homes[i].netns, "neigh flush nud permanent dev eth0")
	}
}

// renews asks for a commit of a phone, and says how it ended.
func renews(p *phone, room core.RoomID, bound time.Duration) (took time.Duration, err error) {
	ctx, done := context.WithTimeout(p.t.Context(), bound)
	defer done()
	begin := time.Now()
	err = p.Renew(ctx, room)
	return time.Since(begin), err
}

// refused offers commits until the homeserver says that it does not know what became of
// one, and returns its words.
func (p *phone) refused(room core.RoomID, bound time.Duration) (took time.Duration, err error) {
	ctx, done := context.WithTimeout(p.t.Context(), bound)
	defer done()
	o := p.api.(*offerer)
	o.failed.Store(nil)
	begin := time.Now()
	var renewing sync.WaitGroup
	renewing.Go(func() { err = p.Renew(ctx, room) })
	for ctx.Err() == nil && o.failed.Load() == nil {
		sleepFor(ctx, 20*time.Millisecond)
	}
	took = time.Since(begin)
	done()
	if renewing.Wait(); o.failed.Load() != nil {
		err = *o.failed.Load()
	}
	return took, err
}

// goesOn holds a homeserver's device to being able to commit.
func (l *lan) goesOn(what string, p *phone, room core.RoomID) {
	l.t.Helper()
	took, err := renews(p, room, 30*time.Second)
	if err != nil {
		l.t.Errorf("%s: %s cannot commit: %v", what, p.name, err)
	}
	l.t.Logf("%s: %s commits in %v", what, p.name, took.Round(time.Millisecond))
}

// waits holds a homeserver's device to being told clearly that its commit has to wait.
func (l *lan) waits(what string, p *phone, room core.RoomID) {
	l.t.Helper()
	took, err := p.refused(room, 20*time.Second)
	if core.CodeOf(err) != core.Unavailable {
		l.t.Errorf("%s: %s commits, and hears %v", what, p.name, err)
	}
	l.t.Logf("%s: %s hears after %v: %v", what, p.name, took.Round(time.Millisecond), err)
}

// TestGroupsPartition talks and commits in a room of three homeservers, one of them on
// PostgreSQL, while the network between them is cut in every way. Who reaches a majority
// goes on; who does not is told so; in the end everybody has heard everything once and in
// order, but for what was said again, and the history of the room's epochs is linearizable.
func TestGroupsPartition(t *testing.T) {
	c := newCluster(t, false, "a.example", "b.example", "c.example")
	pg := newPostgres(t)
	c.homes[2].settings = fmt.Sprintf("database: {url: %q}\n", pg.socket())
	l := c.newLan()
	c.start()
	all := newRegister()
	g := c.newCrowd(all, 100*time.Millisecond, time.Second)
	l.part(2) // before anybody commits: a commit that was agreed just before would only wait to be signed
	stop := g.talk()
	l.goesOn("majority without c", g.phones[0], g.room)
	l.waits("minority of c", g.phones[2], g.room)
	l.goesOn("majority without c", g.phones[1], g.room)
	l.heal()
	l.goesOn("healed", g.phones[2], g.room)

	// One way: the homeserver that is not heard, then the one that does not hear.
	l.cut(0, 1)
	l.cut(0, 2)
	l.goesOn("majority without a, which is not heard", g.phones[1], g.room)
	l.heal()
	l.goesOn("healed", g.phones[0], g.room)
	l.cut(0, 1)
	l.cut(2, 1)
	l.goesOn("majority without b, which does not hear", g.phones[2], g.room)
	l.heal()
	l.goesOn("healed", g.phones[1], g.room)

	for i := range 12 { // flapping: now this one is away, now that one
		l.part(i % 3)
		time.Sleep(250 * time.Millisecond)
		l.heal()
		time.Sleep(time.Duration(i%3) * 100 * time.Millisecond)
	}
	l.goesOn("after flapping", g.phones[0], g.room)

	stop()
	g.commit = time.Hour
	stop = g.talk()
	l.part(0)
	l.part(1)
	l.waits("nobody has a majority", g.phones[0], g.room)
	l.waits("nobody has a majority", g.phones[1], g.room)
	l.heal()
	l.goesOn("healed", g.phones[2], g.room)
	stop()
	g.settle()
	ended := c.end(g, map[string]string{"c.example": pg.socket()})
	all.check(t, map[core.RoomID][]string{g.room: ended})
}
