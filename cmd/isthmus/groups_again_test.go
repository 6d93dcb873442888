package main

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
)

// TestGroupsSaidAgain lets a homeserver accept messages while it is alone, and then the
// others go on without it for longer than the room takes late messages. What it accepted
// is heard by everybody in the end, once, by way of the devices that said it, also if
// homeservers are killed while that is under way.
func TestGroupsSaidAgain(t *testing.T) {
	for _, kills := range []int{0, 6} {
		t.Run(fmt.Sprintf("%d kills", kills), func(t *testing.T) { saidAgain(t, kills) })
	}
}

func saidAgain(t *testing.T, kills int) {
	c := newCluster(t, false, "a.example", "b.example", "c.example")
	c.start()
	all := newRegister()
	g := c.newCrowd(all, time.Hour, time.Hour)
	late, others := g.phones[0], g.phones[1:]
	ted := g.foreigner(c, kills == 0)
	begun := converge(t, g.room, g.phones...).Epoch
	for _, h := range c.homes[1:] {
		h.down(syscall.SIGKILL)
	}
	ctx := t.Context()
	for n := range 20 {
		text := fmt.Sprintf("said by %s %d", late.name, n)
		if m, err := late.say(ctx, g.room, text); err != nil || m.Seq == 0 {
			t.Fatalf("%q is not accepted: %+v, %v", text, m, err)
		}
		g.said[late] = append(g.said[late], text)
	}
	ted.tell(g.room)
	c.homes[0].down(syscall.SIGKILL)
	for _, h := range c.homes[1:] {
		h.up()
	}
	inTheEnd(t, "8 commits without the homeserver that is away", func() bool {
		for _, p := range others {
			p.Renew(ctx, g.room) // refused until the others have a leader
		}
		s, err := others[0].State(ctx, g.room)
		return err == nil && s.Epoch >= begun+8
	})
	c.homes[0].up()
	for n := range kills {
		time.Sleep(time.Duration(60+70*n) * time.Millisecond)
		h := c.homes[n%3]
		h.down(syscall.SIGKILL)
		h.up()
	}
	for _, p := range others {
		p.hear(g.room, by(late.name, g.of(late)))
	}
	if _, err := late.say(ctx, g.room, "said by alice 20"); err != nil {
		t.Fatal(err)
	}
	g.said[late] = append(g.said[late], "said by alice 20")
	ted.isHeard(g, by(late.name, g.of(late)))
	g.settle()
	history, err := late.History(ctx, g.room, 0, 500)
	if own := slices.DeleteFunc(history, func(m client.Message) bool { return !m.Own }); err != nil || len(own) != 21 {
		t.Errorf("alice sees %d messages of hers: %v", len(own), err)
	}
	for _, p := range g.phones {
		p.mu.Lock()
		for _, u := range p.news {
			if u.Kind == client.Unheard {
				t.Errorf("%s is warned: %s", p.name, u.Text)
			}
		}
		p.mu.Unlock()
		p.stop()
	}
}

// An again is a member that is not ours at the homeserver that is away; nil if there is
// none in this test, because it does not wait for a homeserver that was killed.
type again struct{ *foreign }

func (g *crowd) foreigner(c *cluster, there bool) *again {
	if !there {
		return nil
	}
	ted := &again{c.newForeign(c.homes[0], "ted")}
	if _, err := g.phones[0].Invite(c.t.Context(), g.room, c.homes[0].user("ted")); err != nil {
		c.t.Fatal(err)
	}
	inTheEnd(c.t, "ts-mls has joined", func() bool {
		ted.sync()
		return ted.ask("state", map[string]any{"room": g.room})["joined"] == true
	})
	return ted
}

func (a *again) tell(room core.RoomID) {
	if a != nil {
		a.ask("send", map[string]any{"room": room, "text": "said by ted 0"})
	}
}

// isHeard waits until everybody has heard it, and it these lines: each once.
func (a *again) isHeard(g *crowd, lines []string) {
	if a == nil {
		return
	}
	count := func(heard []string, line string) (n int) {
		for _, l := range heard {
			if l == line {
				n++
			}
		}
		return n
	}
	for _, p := range g.phones {
		inTheEnd(g.t, p.name+" hears ts-mls", func() bool { a.sync(); return count(p.lines(g.room), "ted: said by ted 0") > 0 })
	}
	for _, line := range lines {
		inTheEnd(g.t, "ts-mls hears "+line, func() bool { a.sync(); return count(a.said, line) > 0 })
		if n := count(a.said, line); n != 1 {
			g.t.Errorf("ts-mls has heard %q %d times", line, n)
		}
	}
	for _, p := range g.phones {
		if n := count(p.lines(g.room), "ted: said by ted 0"); n != 1 {
			g.t.Errorf("%s has heard ts-mls %d times", p.name, n)
		}
	}
}
