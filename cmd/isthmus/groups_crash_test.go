package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
)

const (
	groupKills    = 18
	groupKillSeed = 4 // of the moments of the kills
)

// A crowd is devices that talk and renew their keys in one room, and all that each of
// them has said.
type crowd struct {
	t      *testing.T
	room   core.RoomID
	phones []*phone
	every  time.Duration // one sentence of each
	commit time.Duration // one commit of each, about

	mu   sync.Mutex
	said map[*phone][]string
}

// newCrowd makes a room with one user of each homeserver.
func (c *cluster) newCrowd(all *register, every, commit time.Duration) *crowd {
	c.t.Helper()
	g := &crowd{t: c.t, every: every, commit: commit, said: map[*phone][]string{}}
	var users []core.UserURI
	for i, h := range c.homes {
		p := c.newPhone(h, []string{"alice", "bob", "carol", "dave"}[i], all.wrap)
		g.phones = append(g.phones, p)
		users = append(users, h.user(p.name))
	}
	ctx := c.t.Context()
	room, err := g.phones[0].Create(ctx, client.NewRoom{Name: "crowd"})
	if err == nil {
		_, err = g.phones[0].Invite(ctx, room, users[1:]...)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	g.room = room
	converge(c.t, room, g.phones...)
	return g
}

// talk lets everybody talk until the function that it returns is called.
func (g *crowd) talk() (stop func()) {
	ctx, cancel := context.WithCancel(g.t.Context())
	var work sync.WaitGroup
	for _, p := range g.phones {
		work.Go(func() {
			for n := len(g.of(p)); ctx.Err() == nil; n++ {
				text := fmt.Sprintf("said by %s %d", p.name, n)
				switch _, err := p.say(g.t.Context(), g.room, text); {
				case err == nil, core.CodeOf(err) == core.Unavailable:
					g.mu.Lock()
					g.said[p] = append(g.said[p], text) // accepted, or kept until it is
					g.mu.Unlock()
				case !core.Temporary(err):
					g.t.Errorf("%s: %v", p.name, err)
				}
				sleepFor(ctx, g.every)
			}
		})
		work.Go(func() {
			for ctx.Err() == nil {
				sleepFor(ctx, g.commit/2+rand.N(g.commit))
				if ctx.Err() != nil {
					return
				}
				bounded, done := context.WithTimeout(g.t.Context(), 20*time.Second)
				if err := p.Renew(bounded, g.room); err != nil && !core.Temporary(err) && bounded.Err() == nil {
					g.t.Errorf("%s renews: %v", p.name, err)
				}
				done()
			}
		})
	}
	return func() { cancel(); work.Wait() }
}

func (g *crowd) of(p *phone) []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string(nil), g.said[p]...)
}

// settle waits until everybody is in one epoch and has heard everything, once and in order, but
// for what was said again.
func (g *crowd) settle() {
	g.t.Helper()
	defer func() {
		if g.t.Failed() {
			g.show()
		}
	}()
	total, late := 0, 0
	for _, p := range g.phones {
		total += len(g.of(p))
		for _, o := range g.phones {
			if o != p {
				p.hear(g.room, by(o.name, g.of(o)))
			}
		}
		late += p.inOrder(g.room)
	}
	s := converge(g.t, g.room, g.phones...)
	g.t.Logf("%d sentences, each heard once by everybody, %d times late; epoch %d", total, late, s.Epoch)
}

// show says where everybody stands, when something went wrong.
func (g *crowd) show() {
	for _, p := range g.phones {
		s, err := p.State(context.Background(), g.room)
		g.t.Logf("%s: epoch %d (entered %d), %v, said %d, heard %d, %+v", p.name, s.Epoch, s.Entered, err, len(g.of(p)), len(p.lines(g.room)), p.info(g.room))
		p.mu.Lock()
		for _, u := range p.news {
			if u.Warning() {
				g.t.Logf("%s is warned: %s", p.name, u.Text)
			}
		}
		p.mu.Unlock()
		for i, l := range p.lines(g.room) {
			if strings.HasPrefix(l, "unreadable") {
				g.t.Logf("%s at line %d: %s", p.name, i, l)
			}
		}
		if p.home.process != nil {
			g.t.Logf("%s: %s", p.home.domain, p.home.run("peer", "list"))
		}
	}
}

// end stops everything, and holds the homeservers to one history of the room, which it
// returns. urls has those that keep it in PostgreSQL.
func (c *cluster) end(g *crowd, urls map[string]string) []string {
	c.t.Helper()
	for _, p := range g.phones {
		p.stop()
	}
	for _, h := range c.homes {
		h.down(syscall.SIGTERM)
	}
	return c.agreed(g.room, urls)
}

// TestGroupsKillNine kills the three homeservers again and again, one at a time and at
// random moments, while devices talk and commit. Everything that was accepted, and all
// that the devices kept for later, is heard by everybody once and in order, but for what
// was said again; no epoch has two commits.
func TestGroupsKillNine(t *testing.T) {
	c := newCluster(t, false, "a.example", "b.example", "c.example")
	pg := newPostgres(t)
	c.homes[2].settings = fmt.Sprintf("database: {url: %q}\n", pg.url)
	c.start()
	all := newRegister()
	g := c.newCrowd(all, 30*time.Millisecond, 400*time.Millisecond)
	chance := rand.New(rand.NewPCG(groupKillSeed, groupKillSeed))
	stop := g.talk()
	for range groupKills {
		time.Sleep(time.Duration(chance.IntN(700)) * time.Millisecond)
		h := c.homes[chance.IntN(len(c.homes))]
		h.down(syscall.SIGKILL)
		time.Sleep(time.Duration(chance.IntN(300)) * time.Millisecond)
		h.up()
	}
	pg.stop() // the database goes too, once
	time.Sleep(300 * time.Millisecond)
	pg.start()
	c.homes[2].down(syscall.SIGKILL) // it may have ended by itself
	c.homes[2].up()
	time.Sleep(time.Second)
	stop()
	g.settle()
	ended := c.end(g, map[string]string{"c.example": pg.url})
	all.check(t, map[core.RoomID][]string{g.room: ended})
}
