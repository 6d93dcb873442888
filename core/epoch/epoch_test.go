package epoch

import (
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
)

const testRoom core.RoomID = "mimi://a.example/r/x"

var three = []string{"a.example", "b.example", "c.example"}

// grown returns a cluster whose room a.example made and everybody votes in.
func grown(t testing.TB, seed uint64, domains ...string) *cluster {
	c := newCluster(t, seed, domains...)
	c.grow(domains)
	return c
}

func (c *cluster) grow(domains []string) {
	c.t.Helper()
	c.create(testRoom, domains[0])
	if err := c.propose(handshake(testRoom, domains[0], 0, change{Nonce: "grow", Voters: domains})); err != nil {
		c.t.Fatal(err)
	}
	c.quiet()
	for _, d := range domains {
		if e := c.epoch(d, testRoom); e != 1 {
			c.t.Fatalf("%s is in epoch %d", d, e)
		}
		if got := len(c.nodes[d].m.rooms[testRoom].row.Voters); got != len(domains) {
			c.t.Fatalf("%s counts %d voters", d, got)
		}
	}
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

// What cannot be judged yet is approved when it can be, also after a restart.
func TestAloneJudgesLater(t *testing.T) {
	c := newCluster(t, 1, "a.example")
	c.create(testRoom, "a.example")
	n := c.nodes["a.example"]
	n.rooms.judge = func(uint64) error { return core.Errorf(core.Unavailable, "a record is missing") }
	if err := c.propose(handshake(testRoom, "a.example", 0, change{})); err != nil {
		t.Fatal(err)
	}
	for range 3 * napMost {
		c.tick()
	}
	if _, err := CertificateOf(n.store, testRoom, 1); err == nil || !n.m.Awake() {
		t.Fatal("certified without a judgement, or asleep before")
	}
	n.restart()
	n.rooms.judge = nil
	c.quiet()
	c.certificate("a.example", testRoom, 1, []string{"a.example"}, 0)
}

// A room whose stored state is damaged is refused; the others go on.
func TestDamagedRow(t *testing.T) {
	c := newFree(t)
	c.many(2)
	a := c.nodes[three[0]]
	rooms := []core.RoomID{"mimi://a.example/r/0", "mimi://a.example/r/1"}
	good := a.m.rooms[rooms[0]].row
	for i, bad := range []func(w *row){func(w *row) { w.Commit = w.Last + 9 }, func(w *row) { w.Runs = nil }, func(w *row) { w.Voters = []uint64{1, 1} }} {
		w := good
		bad(&w)
		b, err := cbor.Marshal(&w)
		if err != nil {
			t.Fatal(err)
		}
		a.store.rows[[2]string{bucketRows, core.RoomKey(rooms[0])}] = b
		a.store.rows[[2]string{bucketAwake, core.RoomKey(rooms[0])}] = []byte(rooms[0])
		a.restart()
		c.faulty = true
		if err := c.propose(handshake(rooms[0], three[0], 1, change{})); core.CodeOf(err) != core.Conflict {
			t.Errorf("%d: %v", i, err)
		}
		if err := c.propose(handshake(rooms[1], three[0], uint64(1+i), change{})); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		c.run("the other room", 100, func() bool { return c.epoch(three[2], rooms[1]) == uint64(2+i) })
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

// An idle room is silent, costs nothing per tick, and its next commit still goes
// through: with the leader in memory, and with everybody dropped from memory.
func TestIdleRoomsAreSilent(t *testing.T) {
	for _, resident := range []int{4096, 1} {
		c := newCluster(t, 3, three...)
		c.cfg.MaxResident = resident
		for _, n := range c.nodes {
			n.restart()
		}
		c.create(testRoom, three[0])
		c.create(otherRoom, three[0])
		for _, room := range []core.RoomID{testRoom, otherRoom} {
			if err := c.propose(handshake(room, three[0], 0, change{Voters: three})); err != nil {
				t.Fatal(err)
			}
			c.quiet()
		}
		for i := range uint64(3) {
			sends := 0
			for _, n := range c.nodes {
				sends -= n.sends
				n.do(core.Tick{}, false)
				sends += n.sends
				if n.m.Awake() || len(n.m.rooms) > max(resident, 1) && resident == 1 {
					t.Fatal("awake while idle, or too many rooms in memory")
				}
			}
			if sends != 0 {
				t.Fatalf("%d messages while idle", sends)
			}
			for _, room := range []core.RoomID{testRoom, otherRoom} {
				h := handshake(room, three[1+i%2], 1+i, change{Nonce: "wake"})
				if err := c.propose(h); err != nil {
					t.Fatal(err)
				}
				c.flush()
				if d, ok := c.nodes[h.Home].decisions[h.ID()]; !ok || d.Err != nil {
					t.Fatalf("no decision without a tick, %d rooms in memory: %+v", resident, d)
				}
				c.quiet()
			}
		}
		c.agree(testRoom)
		for _, n := range c.nodes {
			if _, ok := n.store.rows[[2]string{bucketAwake, core.RoomKey(testRoom)}]; ok {
				t.Errorf("%s would wake an idle room after a restart", n.domain)
			}
		}
	}
}

// What has slept for long is let go of by time, however much room there is: rooms that
// are awake are not, and the next commit finds them as they were.
func TestRoomsAreLetGoOf(t *testing.T) {
	c := newCluster(t, 3, three...)
	c.create(testRoom, three[0])
	if err := c.propose(handshake(testRoom, three[0], 0, change{Voters: three})); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(2) {
		c.quiet()
		for _, n := range c.nodes {
			n.do(core.Tick{}, false)
			if len(n.m.rooms) != 1 {
				t.Fatalf("%s has let go of a room that was in use", n.domain)
			}
		}
		c.now = c.now.Add(idleTime)
		for _, n := range c.nodes {
			n.do(core.Tick{}, false)
			if len(n.m.rooms) != 0 || n.m.used.Len() != 0 {
				t.Fatalf("%s has still %d rooms in memory", n.domain, len(n.m.rooms))
			}
		}
		if err := c.propose(handshake(testRoom, three[1+i], 1+i, change{Nonce: "wake"})); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes {
			if len(n.m.awake) > 0 {
				c.now = c.now.Add(idleTime)
				n.do(core.Tick{}, false)
				if len(n.m.rooms) != 1 {
					t.Errorf("%s has let go of a room that is awake", n.domain)
				}
			}
		}
	}
	c.quiet()
	c.agree(testRoom)
}

const otherRoom core.RoomID = "mimi://a.example/r/y"

// The loss of any minority stops nobody, awake or asleep; without a majority the
// proposer is told, and what was lost is made up for.
func TestLosses(t *testing.T) {
	for _, lost := range three {
		c := grown(t, 4, three...)
		c.nodes[lost].down = true
		for i, home := range three {
			if home == lost {
				continue
			}
			h := handshake(testRoom, home, c.epoch(home, testRoom), change{Nonce: home})
			if err := c.propose(h); err != nil {
				t.Fatal(err)
			}
			c.run("a decision without "+lost, proposeTicks, func() bool {
				_, err := CertificateOf(c.nodes[home].store, testRoom, c.epoch(three[(i+1)%3], testRoom))
				return c.nodes[home].decisions[h.ID()].Seq > 0 && err == nil
			})
		}
		c.nodes[lost].restart()
		c.quiet()
		c.run("the one that was lost is back", 2*napMost, func() bool { return c.epoch(lost, testRoom) == 3 })
		c.agree(testRoom)

		// Two are gone.
		for _, d := range three {
			c.nodes[d].down = d != lost
		}
		h := handshake(testRoom, lost, 3, change{Nonce: "alone"})
		if err := c.propose(h); err != nil {
			t.Fatal(err)
		}
		c.run("an answer", proposeTicks+1, func() bool { return c.nodes[lost].decisions[h.ID()].Err != nil })
		if d := c.nodes[lost].decisions[h.ID()]; core.CodeOf(d.Err) != core.Unavailable {
			t.Fatalf("%+v", d)
		}
		for _, d := range three {
			c.nodes[d].restart()
		}
		c.quiet()
		if err := c.propose(handshake(testRoom, lost, c.epoch(lost, testRoom), change{Nonce: "again"})); err != nil {
			t.Fatal(err)
		}
		c.quiet()
		c.agree(testRoom)
		if a, b := c.epoch(three[0], testRoom), c.epoch(three[2], testRoom); a != b || a < 4 {
			t.Fatalf("epochs %d and %d", a, b)
		}
	}
}

// Commits for one epoch: one wins, the others are told which.
func TestRace(t *testing.T) {
	c := grown(t, 5, three...)
	var all []*core.Handshake
	for i := range 30 {
		h := handshake(testRoom, three[i%3], 1, change{Nonce: string(rune('A' + i))})
		all = append(all, h)
		if err := c.propose(h); err != nil {
			t.Fatal(err)
		}
	}
	c.run("30 decisions", 50, func() bool {
		n := 0
		for _, d := range three {
			n += len(c.nodes[d].decisions)
		}
		return n == 31
	})
	winner := c.group(three[0], testRoom).History[2]
	won := 0
	for _, h := range all {
		switch d := c.nodes[h.Home].decisions[h.ID()]; {
		case d.Err == nil && h.ID() == winner:
			won++
		case core.CodeOf(d.Err) != core.StaleEpoch || string(d.Winner) != string(winner[:]) || d.Epoch != 2:
			t.Errorf("%+v", d)
		}
	}
	if won != 1 {
		t.Errorf("%d winners", won)
	}
	c.quiet()
	r := c.nodes[three[0]].m.rooms[testRoom]
	if n := r.row.Last; n > 20 {
		t.Errorf("the log has %d entries: every commit of the race went through it", n)
	}
}

// A homeserver that follows has no vote; it gets the log and the certificates, and
// its devices' handshakes go through, even after the leader it knew is gone.
func TestFollower(t *testing.T) {
	c := newCluster(t, 6, "a.example", "b.example", "c.example", "f.example")
	c.create(testRoom, "a.example")
	if err := c.propose(handshake(testRoom, "a.example", 0, change{Voters: three, Followers: []string{"f.example"}})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	f := c.nodes["f.example"]
	if r := f.m.rooms[testRoom]; r == nil || len(r.row.Learners) != 1 || len(r.row.Voters) != 3 {
		t.Fatalf("%+v", r)
	}
	for i := range uint64(3) {
		h := handshake(testRoom, "f.example", 1+i, change{Nonce: "f"})
		if err := c.propose(h); err != nil {
			t.Fatal(err)
		}
		c.run("the follower's commit", proposeTicks, func() bool { return f.decisions[h.ID()].Seq > 0 })
		c.run("its certificate", proposeTicks, func() bool { _, err := CertificateOf(f.store, testRoom, 2+i); return err == nil })
		if i == 1 {
			for _, d := range three {
				if r := c.nodes[d].m.rooms[testRoom]; r.leads() {
					c.nodes[d].down = true // it is away from now on: those behind are not waited for
				}
			}
		} else if i == 0 {
			c.quiet()
		}
	}
	if n := len(c.certificate("f.example", testRoom, 4, three, 0).Domains()); n != 2 {
		t.Errorf("%d approvals", n)
	}
}

// Homeservers come and go; one that left knows why, and may come again.
func TestMembership(t *testing.T) {
	c := newCluster(t, 7, "a.example", "b.example", "c.example", "d.example")
	c.create(testRoom, "a.example")
	sets := [][]string{{"a.example", "b.example"}, {"a.example", "b.example", "c.example"}, {"b.example", "c.example", "d.example"},
		{"d.example"}, {"a.example", "d.example"}, {"a.example"}, {"b.example", "c.example"}}
	at := "a.example"
	for i, set := range sets {
		h := handshake(testRoom, at, uint64(i), change{Voters: set})
		if err := c.propose(h); err != nil {
			t.Fatalf("step %d: %v", i, err)
		}
		c.run("the step", proposeTicks, func() bool { return c.nodes[at].decisions[h.ID()].Seq > 0 })
		if d := c.nodes[at].decisions[h.ID()]; d.Err != nil {
			t.Fatalf("step %d: %v", i, d.Err)
		}
		before := c.group(at, testRoom)
		c.quiet()
		for _, d := range c.order {
			r, err := c.nodes[d].peek(testRoom)
			in := err == nil && c.nodes[d].m.part(r)
			should := false
			for _, s := range set {
				should = should || s == d
			}
			if in != should {
				t.Errorf("step %d: %s is part of the room: %v", i, d, in)
			}
			if should && (c.epoch(d, testRoom) != uint64(i)+1 || r.mismatch()) {
				t.Errorf("step %d: %s is in epoch %d", i, d, c.epoch(d, testRoom))
			}
		}
		for _, d := range before.Auth.Voters { // who decided has the certificate, also who left
			if c.epoch(d, testRoom) == uint64(i)+1 {
				if _, err := CertificateOf(c.nodes[d].store, testRoom, uint64(i)+1); err != nil {
					t.Errorf("step %d at %s: %v", i, d, err)
				}
			}
		}
		at = set[len(set)-1]
	}
	if err := c.propose(handshake(testRoom, "d.example", 5, change{})); core.CodeOf(err) != core.Denied {
		t.Errorf("one that left may propose: %v", err)
	}
	c.agree(testRoom)
}

// A homeserver that the log does not reach any more gets a snapshot, with the
// certificates of what it missed last.
func TestSnapshot(t *testing.T) {
	c := newCluster(t, 8, three...)
	c.cfg.MaxEntries = 4
	for _, n := range c.nodes {
		n.restart()
	}
	c.create(testRoom, three[0])
	if err := c.propose(handshake(testRoom, three[0], 0, change{Voters: three})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	c.nodes[three[2]].down = true
	for i := range uint64(20) {
		h := handshake(testRoom, three[i%2], i+1, change{})
		if err := c.propose(h); err != nil {
			t.Fatal(err)
		}
		c.run("a decision", proposeTicks, func() bool { return c.nodes[h.Home].decisions[h.ID()].Seq > 0 })
		c.run("a certificate", proposeTicks, func() bool { _, err := CertificateOf(c.nodes[three[0]].store, testRoom, i+2); return err == nil })
	}
	for k := range c.nodes[three[0]].store.rows {
		if k[0] == bucketLog && k[1] == c.nodes[three[0]].m.rooms[testRoom].numbered(5) {
			t.Error("the log is not cut")
		}
	}
	c.nodes[three[2]].restart()
	c.quiet()
	c.run("catching up", 2*napMost, func() bool { return c.epoch(three[2], testRoom) == 21 })
	c.certificate(three[2], testRoom, 21, three, 0)
	c.certificate(three[2], testRoom, 10, three, 0)
	h := handshake(testRoom, three[2], 21, change{})
	if err := c.propose(h); err != nil {
		t.Fatal(err)
	}
	c.run("its own commit", proposeTicks, func() bool { return c.nodes[three[2]].decisions[h.ID()].Seq > 0 })
}

// A hundred devices want a commit each, and offer it again for the next epoch when
// they lose: within 30 s each has landed, and the log holds hardly more.
func TestHundredDevices(t *testing.T) {
	c := grown(t, 20, three...)
	waiting := map[int]core.HandshakeID{}
	landed := 0
	for ticks := 0; landed < 100; ticks++ {
		if ticks > 300 {
			t.Fatalf("%d of 100 landed in 30 s", landed)
		}
		for i := range 100 {
			n := c.nodes[three[i%3]]
			id, out := waiting[i]
			if d, decided := n.decisions[id]; out && decided {
				if out = false; d.Err == nil {
					landed++
					waiting[i] = core.HandshakeID{1}
					continue
				}
			}
			if out || id == (core.HandshakeID{1}) {
				continue
			}
			h := handshake(testRoom, n.domain, c.epoch(n.domain, testRoom), change{Nonce: string(rune(i))})
			h.By = core.NewDeviceURI(n.domain, string(rune('a'+i)))
			delete(waiting, i)
			if err := c.propose(h); err == nil {
				waiting[i] = h.ID()
			} else if core.CodeOf(err) != core.Limited {
				t.Fatal(err)
			}
		}
		c.tick()
		c.flush()
	}
	c.quiet()
	c.agree(testRoom)
	if r := c.nodes[three[0]].m.rooms[testRoom]; r.auth.Epoch != 101 || r.row.Last > 200 {
		t.Errorf("epoch %d, %d entries", r.auth.Epoch, r.row.Last)
	}
}
