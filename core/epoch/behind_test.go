package epoch

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// decide offers a handshake and waits until it is accepted.
func (c *cluster) decide(h *core.Handshake) {
	c.t.Helper()
	if err := c.propose(h); err != nil {
		c.t.Fatal(err)
	}
	c.run("a decision", proposeTicks, func() bool { _, ok := c.nodes[h.Home].decisions[h.ID()]; return ok })
	if d := c.nodes[h.Home].decisions[h.ID()]; d.Err != nil {
		c.t.Fatal(d.Err)
	}
}

// reached waits until a homeserver is in an epoch without anybody doing anything.
func (c *cluster) reached(domain string, epoch uint64) {
	c.t.Helper()
	c.run(fmt.Sprintf("%s in epoch %d", domain, epoch), 3000, func() bool { return c.epoch(domain, testRoom) == epoch })
}

// A leader that loses everybody steps down; who was behind is brought up all the same.
func TestLeaderStepsDown(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		t.Run(fmt.Sprint(restarts), func(t *testing.T) { leaderStepsDown(t, restarts) })
	}
}

func leaderStepsDown(t *testing.T, restarts bool) {
	c := newCluster(t, 31, three...)
	c.create(testRoom, "a.example")
	c.decide(handshake(testRoom, "a.example", 0, change{Voters: three}))
	c.quiet()
	c.nodes["c.example"].down = true
	c.decide(handshake(testRoom, "a.example", 1, change{}))
	c.nodes["b.example"].down = true
	a := c.nodes["a.example"]
	c.run("the leader steps down", 100, func() bool { r, err := a.peek(testRoom); return err == nil && !r.leads() })
	if restarts { // it remembers
		a.restart()
	}
	c.nodes["b.example"].down, c.nodes["c.example"].down = false, false
	c.reached("c.example", 2)
	c.quiet()
}

// A leader that the room removes leaves nobody behind.
func TestLeaderRemoved(t *testing.T) {
	c := newCluster(t, 32, three...)
	c.create(testRoom, "a.example")
	c.decide(handshake(testRoom, "a.example", 0, change{Voters: three}))
	c.quiet()
	c.nodes["c.example"].down = true
	c.decide(handshake(testRoom, "a.example", 1, change{Voters: three[1:]}))
	a := c.nodes["a.example"]
	c.run("the leader is removed", 3*leaveTicks, func() bool {
		c.net = slices.DeleteFunc(c.net, func(p packet) bool { return p.msg.Kind == core.PeerMembers }) // nor can it say so
		r, err := a.peek(testRoom)
		return err == nil && !r.row.member(a.m.self)
	})
	c.net = slices.DeleteFunc(c.net, func(p packet) bool { return p.msg.Kind == core.PeerMembers })
	a.down = true
	c.nodes["c.example"].restart()
	c.reached("c.example", 2)
	c.quiet()
}

// Two homeservers exchange the vote again and again, while others' handshakes wait:
// nobody gets ahead of who has the vote next.
func TestVoteChangesHands(t *testing.T) {
	c := newCluster(t, 33, three[:2]...)
	c.create(testRoom, "a.example")
	c.decide(handshake(testRoom, "a.example", 0, change{Voters: []string{"a.example"}, Followers: []string{"b.example"}}))
	c.quiet()
	for e := uint64(1); e < 60; e++ {
		voter, follower := three[e%2], three[1-e%2]
		c.propose(handshake(testRoom, follower, e, change{Voters: []string{voter}, Followers: []string{follower}}))
		for n := range 4 {
			c.propose(handshake(testRoom, three[n%2], e+1, change{Proposal: true, Nonce: fmt.Sprint(n)}))
		}
		for range 40 {
			for len(c.net) > 0 {
				c.deliver(c.rng.IntN(len(c.net)))
			}
			c.tick()
		}
		c.run("the next epoch", 300, func() bool { return c.epoch(voter, testRoom) == e+1 && c.epoch(follower, testRoom) == e+1 })
	}
	c.quiet()
	c.agree(testRoom)
}

// A word of who led before comes late to a voter that sleeps: it leads all the same
// when somebody asks it.
func TestLateWord(t *testing.T) {
	c := newCluster(t, 34, three[:2]...)
	c.create(testRoom, "a.example")
	c.decide(handshake(testRoom, "a.example", 0, change{Voters: three[:2]}))
	c.quiet()
	if err := c.propose(handshake(testRoom, "a.example", 1, change{Voters: []string{"b.example"}, Followers: []string{"a.example"}})); err != nil {
		t.Fatal(err)
	}
	var old []packet
	for range 200 {
		for len(c.net) > 0 {
			if p := c.net[0]; p.from == "a.example" {
				old = append(old, p)
			}
			c.deliver(0)
		}
		c.tick()
	}
	c.quiet()
	c.net = slices.Clone(old)
	c.flush()
	c.decide(handshake(testRoom, "a.example", 2, change{}))
	c.quiet()
}

// Epochs that nobody can certify keep no other from its certificate, and whose
// records would help is said.
func TestOthersAreCertified(t *testing.T) {
	c := newCluster(t, 35, "a.example")
	c.create(testRoom, "a.example")
	n, last := c.nodes["a.example"], uint64(maxChase+2)
	known := false
	n.rooms.judge = func(epoch uint64) error {
		if known && epoch == last {
			return nil
		}
		return &core.Error{Code: core.Unavailable, Text: "a record is missing", Missing: "x.example"}
	}
	for e := range last {
		out, err := n.do(core.Propose{Handshake: handshake(testRoom, "a.example", e, change{})}, false)
		if err != nil || !slices.Equal(out.Missing, []string{"x.example"}) {
			t.Fatalf("epoch %d lacks %v: %v", e+1, out.Missing, err)
		}
	}
	known = true
	c.run("a certificate", 10*wantTicks, func() bool { _, err := CertificateOf(n.store, testRoom, last); return err == nil })
}

// An approval of a homeserver whose record is not here is not forged: the record is
// asked for.
func TestApprovalOfUnknown(t *testing.T) {
	c := newCluster(t, 36, three...)
	c.create(testRoom, "a.example")
	c.decide(handshake(testRoom, "a.example", 0, change{Voters: three}))
	c.quiet()
	b := c.nodes["b.example"]
	b.m.cfg.Check = func(r core.Reader, now time.Time, domain string, signed, sig []byte) error {
		if domain == "a.example" {
			return core.Errorf(core.NotFound, "no record")
		}
		return checkKey(r, now, domain, signed, sig)
	}
	if err := c.propose(handshake(testRoom, "a.example", 1, change{})); err != nil {
		t.Fatal(err)
	}
	var missing []string
	for range 50 {
		for len(c.net) > 0 {
			p := c.net[0]
			c.net = c.net[1:]
			out, err := c.nodes[p.to].do(core.PeerMessages{From: p.from, Messages: []core.PeerMessage{p.msg}}, false)
			if err != nil {
				t.Fatal(err)
			}
			missing = append(missing, out.Missing...)
		}
		c.tick()
	}
	if len(missing) == 0 || missing[0] != "a.example" || b.m.Stats().Forged > 0 {
		t.Errorf("missing %v, forged %d", missing, b.m.Stats().Forged)
	}
}
