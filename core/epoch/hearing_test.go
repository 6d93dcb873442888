package epoch

import (
	"fmt"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
)

var (
	errLiar = core.Errorf(core.Denied, "a device is not who it says")
	errWait = core.Errorf(core.Unavailable, "the record of a homeserver is not here yet")
)

// A commit that brings devices in is agreed only when enough homeservers would
// approve it: one that nobody can enter would end the room.
func TestHearing(t *testing.T) {
	for _, test := range []struct {
		name    string
		think   [3]error
		by      int // who offers it; three[0] leads
		want    core.Code
		refused bool
	}{
		{"everybody believes it", [3]error{}, 0, 0, false},
		{"one of the others does not", [3]error{2: errLiar}, 0, 0, false},
		{"one cannot say", [3]error{1: errWait}, 0, 0, false},
		{"the leader alone believes it", [3]error{1: errLiar, 2: errLiar}, 0, core.Denied, true},
		{"the leader alone does not", [3]error{0: errLiar}, 1, 0, false},
		{"the leader cannot say", [3]error{0: errWait}, 1, 0, false},
		{"who offers it alone believes it", [3]error{0: errLiar, 2: errLiar}, 1, core.Denied, true},
		{"the others cannot say", [3]error{1: errWait, 2: errWait}, 0, core.Unavailable, true},
		{"the others cannot say what one of them offers", [3]error{0: errWait, 2: errWait}, 1, core.Unavailable, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := grown(t, 40, three...)
			for i, err := range test.think {
				c.nodes[three[i]].rooms.think = err
			}
			h := handshake(testRoom, three[test.by], 1, change{Nonce: "newcomer", Newcomers: true})
			if err := c.propose(h); err != nil {
				t.Fatal(err)
			}
			// Others are not kept waiting.
			other := handshake(testRoom, three[2], 1, change{Nonce: "other"})
			if test.refused {
				c.run("an answer", proposeTicks+retryTicks, func() bool { return c.nodes[h.Home].decisions[h.ID()].Err != nil })
				if err := c.nodes[h.Home].decisions[h.ID()].Err; core.CodeOf(err) != test.want {
					t.Fatalf("refused with %v, want %v", err, test.want)
				}
				if e := c.epoch(three[0], testRoom); e != 1 {
					t.Fatalf("it is epoch %d", e)
				}
				if err := c.propose(other); err != nil {
					t.Fatal(err)
				}
				h = other
			}
			c.run("a decision", 3*retryTicks, func() bool { return c.nodes[h.Home].decisions[h.ID()].Seq > 0 })
			c.quiet()
			c.agree(testRoom)
			c.certificate(three[1], testRoom, 2, three, 0)
		})
	}
}

// While voters are heard others wait for a moment, and not for longer.
func TestHearingHolds(t *testing.T) {
	c := grown(t, 41, three...)
	c.nodes[three[1]].rooms.think, c.nodes[three[2]].rooms.think = errWait, errWait
	h := handshake(testRoom, three[0], 1, change{Nonce: "newcomer", Newcomers: true})
	other := handshake(testRoom, three[0], 1, change{Nonce: "other"})
	for _, h := range []*core.Handshake{h, other} {
		if err := c.propose(h); err != nil {
			t.Fatal(err)
		}
	}
	c.flush()
	if d := c.nodes[three[0]].decisions[other.ID()]; d.Seq > 0 {
		t.Fatal("the other went first at once")
	}
	c.run("the other", hearTicks+1, func() bool { return c.nodes[three[0]].decisions[other.ID()].Seq > 0 })
	if err := c.nodes[three[0]].decisions[h.ID()].Err; core.CodeOf(err) != core.StaleEpoch {
		t.Fatalf("what was heard came to %v", err)
	}
	c.quiet()

	// It needs a round more than those that race against it, and yet wins.
	c.nodes[three[1]].rooms.think, c.nodes[three[2]].rooms.think = nil, nil
	h = handshake(testRoom, three[0], 2, change{Nonce: "another", Newcomers: true})
	if err := c.propose(h); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := c.propose(handshake(testRoom, three[i%2], 2, change{Nonce: fmt.Sprint("race", i)})); err != nil {
			t.Fatal(err)
		}
	}
	c.quiet()
	c.agree(testRoom)
	if d := c.nodes[three[0]].decisions[h.ID()]; d.Seq == 0 {
		t.Fatalf("who came in lost the race: %v", d.Err)
	}
	for _, d := range three {
		if e := c.epoch(d, testRoom); e != 3 {
			t.Fatalf("%s is in epoch %d", d, e)
		}
	}
}

// To judge a commit may take longer than the leader's patience: nobody judges it twice.
func TestHearingJudgesOnce(t *testing.T) {
	c := grown(t, 43, three...)
	ask := func(to string, h *core.Handshake) (answers int) {
		out, err := c.nodes[to].do(core.PeerMessages{From: three[0], Messages: []core.PeerMessage{{Room: testRoom, Kind: core.PeerAsk, Body: h.Encode()}}}, false)
		if err != nil {
			t.Fatal(err)
		}
		return len(out.Sends)
	}
	voter := c.nodes[three[1]]
	h := handshake(testRoom, three[0], 1, change{Nonce: "newcomer", Newcomers: true})
	before := voter.rooms.checks
	for range 5 {
		if ask(three[1], h) != 1 {
			t.Fatal("no answer")
		}
	}
	if n := voter.rooms.checks - before; n != 1 {
		t.Fatalf("judged %d times", n)
	}
	voter.rooms.think = errLiar
	other := handshake(testRoom, three[0], 1, change{Nonce: "other", Newcomers: true})
	ask(three[1], other)
	if n := voter.rooms.checks - before; n != 2 {
		t.Fatalf("another commit: judged %d times", n)
	}
	voter.rooms.think = errWait // who cannot say yet is asked again
	third := handshake(testRoom, three[0], 1, change{Nonce: "third", Newcomers: true})
	for range 2 {
		if ask(three[1], third) != 0 {
			t.Fatal("an answer")
		}
	}
	if n := voter.rooms.checks - before; n != 4 {
		t.Fatalf("what could not be judged: judged %d times", n)
	}

	// Nor does the leader judge at every tick what another homeserver offers.
	lead := c.nodes[three[0]]
	before, voter.rooms.think = lead.rooms.checks, nil
	if err := c.propose(handshake(testRoom, three[1], 1, change{Nonce: "offered", Newcomers: true})); err != nil {
		t.Fatal(err)
	}
	voter.rooms.think, c.nodes[three[2]].rooms.think = errWait, errWait
	for range proposeTicks / 2 {
		c.tick()
		c.flush()
	}
	if n := lead.rooms.checks - before; n != 1 {
		t.Fatalf("the leader judged %d times", n)
	}
}

// What is as large as may be has time for another try when a message is lost, to the
// leader or to those that it hears.
func TestHearingLargeAndLost(t *testing.T) {
	for _, lost := range []core.PeerKind{core.PeerRaft, core.PeerAsk} {
		c := grown(t, 44, three...)
		h := handshake(testRoom, three[1], 1, change{Newcomers: true})
		h.Welcome = make([]byte, core.MaxHandshake-1<<12)
		if err := c.propose(h); err != nil {
			t.Fatal(err)
		}
		large := func(p packet) bool { return p.msg.Kind == lost && len(p.msg.Body) > len(h.Welcome) }
		for !slices.ContainsFunc(c.net, large) {
			if len(c.net) == 0 {
				c.tick()
			} else {
				c.deliver(0)
			}
		}
		c.net = slices.DeleteFunc(c.net, large)
		c.run("a decision", proposeTicks, func() bool { d, ok := c.nodes[three[1]].decisions[h.ID()]; return ok && d.Err == nil })
	}
}

// Opinions count only from voters, once, and about what is heard.
func TestHearingHostile(t *testing.T) {
	c := grown(t, 42, three...)
	evil := c.add("evil.example")
	c.nodes[three[1]].rooms.think, c.nodes[three[2]].rooms.think = errWait, errWait
	h := handshake(testRoom, three[0], 1, change{Nonce: "newcomer", Newcomers: true})
	if err := c.propose(h); err != nil {
		t.Fatal(err)
	}
	c.flush()
	id := h.ID()
	yes, _ := cbor.Marshal(&refusal{ID: id[:]})
	other, _ := cbor.Marshal(&refusal{ID: make([]byte, 32)})
	short, _ := cbor.Marshal(&refusal{ID: id[:5]})
	odd, _ := cbor.Marshal(&refusal{ID: id[:], Code: 200})
	tell := func(from string, kind core.PeerKind, body []byte) core.Output {
		out, err := c.nodes[three[0]].do(core.PeerMessages{From: from, Messages: []core.PeerMessage{{Room: testRoom, Kind: kind, Body: body}}}, false)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, body := range [][]byte{other, short, odd, nil, {0xff}} {
		tell(three[1], core.PeerOpinion, body)
	}
	for range 3 {
		tell(evil.domain, core.PeerOpinion, yes)
	}
	if e := c.epoch(three[0], testRoom); e != 1 {
		t.Fatal("a stranger's opinion was heard")
	}
	if out := tell(evil.domain, core.PeerAsk, h.Encode()); len(out.Sends) > 0 {
		t.Fatal("a stranger was answered")
	}
	for _, body := range [][]byte{nil, {0xff}, handshake("mimi://a.example/r/else", three[1], 1, change{}).Encode()} {
		if out := tell(three[1], core.PeerAsk, body); len(out.Sends) > 0 {
			t.Fatal("nonsense was answered")
		}
	}
	tell(three[1], core.PeerOpinion, yes)
	c.run("a decision", 1, func() bool { return c.nodes[three[0]].decisions[id].Seq > 0 })

	// Who asks all the time is not answered all the time.
	h = handshake(testRoom, three[1], 2, change{Nonce: "again", Newcomers: true})
	answers := 0
	for range 2000 {
		answers += len(tell(three[1], core.PeerAsk, h.Encode()).Sends)
	}
	if answers == 0 || answers > 300 {
		t.Fatalf("%d of 2000 questions in a moment were answered", answers)
	}
}
