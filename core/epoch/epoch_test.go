package epoch

import (
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

const testRoom core.RoomID = "mimi://a.example/r/x"

var three = []string{"a.example", "b.example", "c.example"}

// grown returns a cluster whose room a.example made and everybody votes in.
func grown(t testing.TB, seed uint64, domains ...string) *cluster {
	c := newCluster(t, seed, domains...)
	c.create(testRoom, domains[0])
	if err := c.propose(handshake(testRoom, domains[0], 0, change{Nonce: "grow", Voters: domains})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	for _, d := range domains {
		if e := c.epoch(d, testRoom); e != 1 {
			t.Fatalf("%s is in epoch %d", d, e)
		}
		if got := len(c.nodes[d].m.rooms[testRoom].row.Voters); got != len(domains) {
			t.Fatalf("%s counts %d voters", d, got)
		}
	}
	return c
}

func TestAloneDecidesAtOnce(t *testing.T) {
	c := newCluster(t, 1, "a.example")
	c.create(testRoom, "a.example")
	h := handshake(testRoom, "a.example", 0, change{Nonce: "1"})
	out, err := c.nodes["a.example"].do(core.Propose{Handshake: h}, false)
	if err != nil || len(out.Decisions) != 1 || out.Decisions[0].Err != nil || out.Decisions[0].Epoch != 1 || out.Decisions[0].Seq != 1 {
		t.Fatalf("%+v %v", out.Decisions, err)
	}
	if len(out.Certified) != 1 || out.Certified[0].Epoch != 1 || len(out.Sends) != 0 || len(out.Events) != 1 {
		t.Fatalf("%+v", out)
	}
	cert := c.certificate("a.example", testRoom, 1, []string{"a.example"}, 0)
	if f := cert.Facts(); f.Epoch != 1 || f.Index != 0 || string(f.Commit) != string(c.group("a.example", testRoom).Hash) && len(f.Commit) != 32 {
		t.Fatalf("%+v", f)
	}
	// The same again is the same decision; another one for the epoch lost.
	out, err = c.nodes["a.example"].do(core.Propose{Handshake: h}, false)
	if err != nil || len(out.Decisions) != 1 || out.Decisions[0].Err != nil || out.Decisions[0].Seq != 1 || len(out.Events) != 0 {
		t.Fatalf("%+v %v", out, err)
	}
	out, err = c.nodes["a.example"].do(core.Propose{Handshake: handshake(testRoom, "a.example", 0, change{Nonce: "2"})}, false)
	id := h.ID()
	if err != nil || core.CodeOf(out.Decisions[0].Err) != core.StaleEpoch || string(out.Decisions[0].Winner) != string(id[:]) {
		t.Fatalf("%+v %v", out, err)
	}
	c.quiet()
	if _, ok := c.nodes["a.example"].store.rows[[2]string{bucketLog, "x"}]; ok || c.nodes["a.example"].m.rooms[testRoom].hasRaft() {
		t.Error("a room of one has a log")
	}
}

func TestThreeAgree(t *testing.T) {
	c := grown(t, 2, three...)
	for i := range uint64(12) {
		h := handshake(testRoom, three[i%3], i+1, change{Nonce: "n"})
		if err := c.propose(h); err != nil {
			t.Fatal(err)
		}
		c.run("a decision and certificates", 50, func() bool {
			for _, d := range three {
				if _, err := CertificateOf(c.nodes[d].store, testRoom, i+2); err != nil {
					return false
				}
			}
			return true
		})
		if d := c.nodes[three[i%3]].decisions[h.ID()]; d.Err != nil || d.Epoch != i+2 {
			t.Fatalf("decision %d: %+v", i, d)
		}
	}
	c.quiet()
	c.agree(testRoom)
	for _, d := range three {
		cert := c.certificate(d, testRoom, 13, three, 0)
		if len(cert.Domains()) != 3 {
			t.Errorf("%s has %d approvals in the end", d, len(cert.Domains()))
		}
	}
}
