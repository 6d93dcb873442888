package main

import (
	"fmt"
	"slices"
	"syscall"
	"testing"
	"time"

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
