package epoch

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/isthmus-chat/isthmus/core"
)

// A crash between any two steps, and one that takes any transaction with it, loses
// no decision and makes no second one.
func TestCrashAnywhere(t *testing.T) {
	for at := 0; ; at++ {
		c := grown(t, 9, three...)
		start, crashed := c.steps, false
		h := handshake(testRoom, three[1], 1, change{Nonce: "x"})
		step := func(n *node, in core.Input) {
			crash := c.steps-start == at
			crashed = crashed || crash
			n.do(in, crash)
			if c.steps-start == at+1 && !crash {
				crashed = true
				n.restart()
			}
		}
		step(c.nodes[h.Home], core.Propose{Handshake: h})
		for i := 0; i < 400 && (len(c.net) > 0 || c.epoch(three[0], testRoom) < 2); i++ {
			for len(c.net) > 0 {
				p := c.net[0]
				c.net = c.net[1:]
				step(c.nodes[p.to], core.PeerMessages{From: p.from, Messages: []core.PeerMessage{p.msg}})
			}
			if i%proposeTicks == proposeTicks-1 { // its device tries again
				step(c.nodes[h.Home], core.Propose{Handshake: h})
			}
			c.now = c.now.Add(core.TickEvery)
			for _, d := range c.order {
				if c.nodes[d].m.Awake() {
					step(c.nodes[d], core.Tick{})
				}
			}
		}
		c.quiet()
		c.agree(testRoom)
		for _, d := range three {
			if e := c.epoch(d, testRoom); e != 2 {
				t.Fatalf("crash at %d: %s is in epoch %d", at, d, e)
			}
			if _, err := CertificateOf(c.nodes[d].store, testRoom, 2); err != nil {
				t.Fatalf("crash at %d: %s: %v", at, d, err)
			}
		}
		if !crashed {
			if at < 10 {
				t.Errorf("only %d steps were tried", at)
			}
			return
		}
	}
}

// What no honest homeserver sends is passed over and changes nothing.
func TestHostileMessages(t *testing.T) {
	c := grown(t, 10, three...)
	a := c.nodes[three[0]]
	r := a.m.rooms[testRoom]
	b, self := memberID(three[1]), memberID(three[0])
	term := r.row.Term
	entry := func(index, term uint64, typ pb.EntryType) *pb.Entry {
		return &pb.Entry{Index: &index, Term: &term, Type: &typ, Data: []byte{1}}
	}
	base := func(typ pb.MessageType) *pb.Message {
		return &pb.Message{Type: &typ, From: &b, To: &self, Term: new(term)}
	}
	var all []*pb.Message
	add := func(typ pb.MessageType, f func(m *pb.Message)) {
		m := base(typ)
		f(m)
		all = append(all, m)
	}
	add(pb.MsgHeartbeat, func(m *pb.Message) { m.Commit = new(uint64(1 << 40)); m.Term = new(term + 1) })
	add(pb.MsgHeartbeat, func(m *pb.Message) { m.Term = new(term + maxTermStep + 1) })
	add(pb.MsgHeartbeat, func(m *pb.Message) { m.From = new(memberID("evil.example")) })
	add(pb.MsgAppResp, func(m *pb.Message) { m.Index = new(uint64(1 << 50)) })
	add(pb.MsgAppResp, func(m *pb.Message) { m.Reject, m.RejectHint = new(true), new(uint64(1<<50)) })
	add(pb.MsgVote, func(m *pb.Message) { m.Context = []byte("CampaignTransfer"); m.Term = new(term + 1) })
	add(pb.MsgTimeoutNow, func(m *pb.Message) {})
	add(pb.MsgHup, func(m *pb.Message) {})
	add(pb.MsgStorageAppendResp, func(m *pb.Message) { m.Index = new(uint64(1)) })
	add(pb.MsgReadIndex, func(m *pb.Message) {})
	add(pb.MsgTransferLeader, func(m *pb.Message) {})
	add(pb.MsgProp, func(m *pb.Message) {})
	add(pb.MsgProp, func(m *pb.Message) { m.Entries = []*pb.Entry{entry(0, 0, pb.EntryConfChangeV2)} })
	add(pb.MsgProp, func(m *pb.Message) { m.Entries = []*pb.Entry{entry(0, 0, pb.EntryNormal)} })
	add(pb.MsgApp, func(m *pb.Message) { // a gap
		m.Index, m.LogTerm, m.Term = new(r.row.Last), new(term), new(term+1)
		m.Entries = []*pb.Entry{entry(r.row.Last+2, term+1, pb.EntryNormal)}
	})
	add(pb.MsgApp, func(m *pb.Message) { // over what is agreed
		m.Index, m.LogTerm, m.Term = new(r.row.Last-1), new(term), new(term+1)
		m.Entries = []*pb.Entry{entry(r.row.Last, term+1, pb.EntryNormal)}
	})
	add(pb.MsgApp, func(m *pb.Message) { // the old kind of configuration
		m.Index, m.LogTerm, m.Term = new(r.row.Last), new(term), new(term+1)
		m.Entries = []*pb.Entry{entry(r.row.Last+1, term+1, pb.EntryConfChange)}
	})
	for _, cs := range []*pb.ConfState{{}, {Voters: []uint64{b}}, {Voters: []uint64{b, b, self}}, {Voters: []uint64{self}},
		{Voters: []uint64{b, self}, Learners: []uint64{b}}, {Voters: []uint64{self, b}, AutoLeave: new(true)}} {
		add(pb.MsgSnap, func(m *pb.Message) {
			m.Term = new(term + 1)
			m.Snapshot = &pb.Snapshot{Data: []byte{1}, Metadata: &pb.SnapshotMetadata{ConfState: cs, Index: new(uint64(1000)), Term: new(term)}}
		})
	}
	before := a.m.Stats().Ignored
	for i, m := range all {
		if _, err := a.do(raftOf(t, three[1], testRoom, m), false); err != nil {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if n := a.m.Stats().Ignored - before; n != uint64(len(all)) {
		t.Errorf("%d of %d messages were passed over", n, len(all))
	}
	// A snapshot that fits raft and is of no group: the node goes on as it was.
	snap := base(pb.MsgSnap)
	snap.Term = new(term + 1)
	snap.Snapshot = &pb.Snapshot{Data: []byte{1}, Metadata: &pb.SnapshotMetadata{ConfState: &pb.ConfState{Voters: []uint64{self, b}}, Index: new(uint64(1000)), Term: new(term)}}
	body, _ := marshal.Marshal(snap)
	state := func() string {
		w := r.row
		return fmt.Sprint(w.Term, w.Vote, w.Commit, w.First, w.Last, w.Runs, w.Lead, w.Voters)
	}
	row := state()
	a.do(core.PeerMessages{From: three[1], Messages: []core.PeerMessage{{Room: testRoom, Kind: core.PeerRaft, Body: body},
		{Room: "mimi://b.example/r/none", Kind: core.PeerRaft, Body: body}, {Room: testRoom, Kind: 77}}}, false)
	if got := state(); got != row {
		t.Errorf("a refused snapshot changed the row:\n%s\n%s", got, row)
	}
	if len(a.m.rooms) != 1 {
		t.Error("a refused snapshot made a room")
	}
	for _, in := range []core.PeerMessages{{From: ""}, {From: three[0]}, {From: three[1], Messages: make([]core.PeerMessage, maxMessages+1)}} {
		if _, err := a.do(in, false); err == nil {
			t.Errorf("%q with %d messages is taken", in.From, len(in.Messages))
		}
	}
	if err := c.propose(handshake(testRoom, three[0], 1, change{})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	for _, d := range three {
		if e := c.epoch(d, testRoom); e != 2 {
			t.Errorf("%s is in epoch %d", d, e)
		}
	}
}

// Approvals: a forged one does not count, one of another commit is kept, and with
// one of ours by the same homeserver it is a proof.
func TestApprovalsAndProofs(t *testing.T) {
	c := grown(t, 11, three...)
	c.nodes[three[1]].rooms.judge = func(uint64) error { return core.Errorf(core.Denied, "no") }
	c.nodes[three[2]].rooms.judge = func(uint64) error { return core.Errorf(core.Unavailable, "later") }
	if err := c.propose(handshake(testRoom, three[0], 1, change{})); err != nil {
		t.Fatal(err)
	}
	c.run("three times epoch 2", 50, func() bool { return c.epoch(three[1], testRoom) == 2 && c.epoch(three[2], testRoom) == 2 })
	if _, err := CertificateOf(c.nodes[three[0]].store, testRoom, 2); core.CodeOf(err) != core.NotFound || err == nil {
		t.Fatalf("a certificate of one approval: %v", err)
	}
	a := c.nodes[three[0]]
	own, err := readCert(a.store, a.m.rooms[testRoom].numbered(2))
	if err != nil {
		t.Fatal(err)
	}
	give := func(s signed, from string) core.Output {
		out, err := a.do(core.PeerMessages{From: from, Messages: []core.PeerMessage{{Room: testRoom, Kind: core.PeerApproval, Body: s.encode()}}}, false)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	facts := own.Facts
	facts.Domain = three[1]
	forged := sign(homeKey("evil.example"), facts)
	other := facts
	other.Tree = bytes.Repeat([]byte{7}, 32)
	for _, s := range []signed{forged, sign(homeKey(three[1]), other)} {
		if out := give(s, three[1]); len(out.Certified) > 0 {
			t.Fatal("certified by a forged or contrary approval")
		}
	}
	if give(sign(homeKey(three[1]), facts), three[2]); a.m.Stats().Proofs != 0 {
		t.Fatal("an approval of another than its sender counts")
	}
	if out := give(sign(homeKey(three[1]), facts), three[1]); len(out.Certified) != 1 {
		t.Fatalf("%+v", out.Certified)
	}
	if s := a.m.Stats(); s.Forged != 1 || s.Proofs != 1 {
		t.Errorf("%+v", s)
	}
	proofs, err := ProofsOf(a.store, testRoom, "", 10)
	if err != nil || len(proofs) != 1 {
		t.Fatal(proofs, err)
	}
	p, err := ParseProof(proofs[0].Data)
	if err != nil {
		t.Fatal(err)
	}
	check := func(d string, signed, sig []byte) error { return checkKey(nil, c.now, d, signed, sig) }
	if err := p.Verify(check); err != nil {
		t.Error(err)
	}
	if x, y := p.Approvals(); x.Domain != three[1] || x.same(&y) || y.Epoch != 2 {
		t.Errorf("%+v %+v", x, y)
	}
	// The one that could not judge does so later; the one that said no never does.
	c.nodes[three[2]].rooms.judge = nil
	c.quiet()
	cert := c.certificate(three[0], testRoom, 2, three, 0)
	if d := cert.Domains(); !slices.Equal(d, []string{three[0], three[1], three[2]}) {
		t.Errorf("approvals by %v", d)
	}
	if err := cert.Verify(three, 1, check); err != nil {
		t.Error(err)
	}
	if err := cert.Verify([]string{"x", "y", three[0]}, 0, check); core.CodeOf(err) != core.Denied {
		t.Errorf("voters that did not approve: %v", err)
	}
	if err := cert.Verify(three, 0, func(string, []byte, []byte) error { return errors.New("no") }); core.CodeOf(err) != core.Denied {
		t.Errorf("signatures that are none: %v", err)
	}
}

func TestQuorum(t *testing.T) {
	for n, want := range [][2]int{1: {1, 1}, 2: {2, 2}, 3: {2, 3}, 4: {3, 3}, 5: {3, 4}, 6: {4, 5}, 7: {4, 5}} {
		if n > 0 && (Quorum(n, 0) != want[0] || Quorum(n, 1) != want[1]) {
			t.Errorf("of %d: %d and %d", n, Quorum(n, 0), Quorum(n, 1))
		}
	}
}

// Budgets: who is over waits behind others, then is refused with a time.
func TestFairness(t *testing.T) {
	c := newCluster(t, 12, "a.example")
	c.cfg.DeviceRate = core.Meter{Burst: 2, Every: time.Second / 10}
	c.nodes["a.example"].restart()
	c.create(testRoom, "a.example")
	var ids []core.HandshakeID
	var limited error
	for i := range 2 + maxLate + 1 {
		h := handshake(testRoom, "a.example", 0, change{Nonce: fmt.Sprint(i), Proposal: true})
		ids = append(ids, h.ID())
		if err := c.propose(h); err != nil {
			limited = err
		}
	}
	n := c.nodes["a.example"]
	if len(n.decisions) != 2 || core.CodeOf(limited) != core.Limited || retryAfter(limited) <= 0 {
		t.Fatalf("%d decisions at once, then %v", len(n.decisions), limited)
	}
	other := handshake(testRoom, "a.example", 0, change{Nonce: "other", Proposal: true})
	other.By = core.NewDeviceURI("a.example", "quiet")
	if err := c.propose(other); err != nil || n.decisions[other.ID()].Seq != 3 {
		t.Errorf("another device waits: %v %+v", err, n.decisions[other.ID()])
	}
	c.run("those who waited", 20, func() bool { return len(n.decisions) == 3+maxLate })
	for i, id := range ids[:2+maxLate] {
		if d := n.decisions[id]; d.Err != nil || i >= 2 && d.Seq < 4 {
			t.Errorf("%d: %+v", i, d)
		}
	}
	// The leader holds a homeserver to its budget: all land, the flood later.
	c = newCluster(t, 13, three...)
	c.cfg.HomeRate = core.Meter{Burst: 3, Every: time.Second / 10}
	for _, n := range c.nodes {
		n.restart()
	}
	c.create(testRoom, three[0])
	if err := c.propose(handshake(testRoom, three[0], 0, change{Voters: three})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	for i := range 10 {
		if err := c.propose(handshake(testRoom, three[1], 1, change{Nonce: fmt.Sprint(i), Proposal: true})); err != nil {
			t.Fatal(err)
		}
	}
	c.flush()
	if n := len(c.nodes[three[1]].decisions); n == 10 || n == 0 {
		t.Errorf("%d decisions at once", n)
	}
	h := handshake(testRoom, three[2], 1, change{Nonce: "third", Proposal: true})
	if err := c.propose(h); err != nil {
		t.Fatal(err)
	}
	c.flush()
	if c.nodes[three[2]].decisions[h.ID()].Seq == 0 {
		t.Error("a third homeserver waits for the flood")
	}
	c.run("the flood", 50, func() bool { return len(c.nodes[three[1]].decisions) == 10 })
}

// Refusals come back to the device that offered.
func TestRefusals(t *testing.T) {
	c := grown(t, 14, three...)
	lead := ""
	for _, d := range three {
		if c.nodes[d].m.rooms[testRoom].leads() {
			lead = d
		}
	}
	if err := c.propose(handshake(testRoom, three[1], 1, change{Bad: true})); core.CodeOf(err) != core.Invalid {
		t.Errorf("%v", err)
	}
	if err := c.propose(handshake("mimi://a.example/r/none", three[1], 1, change{})); core.CodeOf(err) != core.NotFound {
		t.Errorf("%v", err)
	}
	other := handshake(testRoom, three[2], 1, change{})
	if _, err := c.nodes[three[1]].do(core.Propose{Handshake: other}, false); core.CodeOf(err) != core.Invalid {
		t.Errorf("a handshake of another homeserver: %v", err)
	}
	out, err := c.nodes[three[1]].do(core.Propose{Handshake: handshake(testRoom, three[1], 1, change{Nonce: "unknown device"})}, false)
	if err != nil || len(out.Decisions) != 1 || core.CodeOf(out.Decisions[0].Err) != core.Unavailable {
		t.Errorf("what cannot be judged now: %+v %v", out, err)
	}
	// The leader refuses what a homeserver that does not check lets through.
	from := three[1]
	if lead == from {
		from = three[2]
	}
	bad := handshake(testRoom, from, 1, change{Bad: true})
	n := c.nodes[from]
	r := n.m.rooms[testRoom]
	o := newOffer(bad, bad.Encode(), n.m.ticks)
	o.epoch = 1
	r.queue = append(r.queue, o)
	n.m.wake(r)
	c.run("the leader's refusal", 20, func() bool { return n.decisions[bad.ID()].Err != nil })
	if d := n.decisions[bad.ID()]; core.CodeOf(d.Err) != core.Invalid {
		t.Errorf("%+v", d)
	}
}

// A homeserver that was away while others came and took over finds back: a voter
// that it knows says who they are.
func TestStrangerLeads(t *testing.T) {
	c := newCluster(t, 15, "a.example", "b.example", "c.example", "d.example")
	c.create(testRoom, "a.example")
	if err := c.propose(handshake(testRoom, "a.example", 0, change{Voters: []string{"a.example", "b.example"}, Followers: []string{"c.example"}})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	c.nodes["c.example"].down = true
	if err := c.propose(handshake(testRoom, "a.example", 1, change{Voters: []string{"a.example", "b.example", "d.example"}, Followers: []string{"c.example"}})); err != nil {
		t.Fatal(err)
	}
	c.run("d's vote", 300, func() bool {
		return c.epoch("d.example", testRoom) == 2 && len(c.nodes["d.example"].m.rooms[testRoom].row.Voters) == 3
	})
	d := c.nodes["d.example"]
	for range 20 { // d takes over
		r := d.m.rooms[testRoom]
		if r.leads() {
			break
		}
		d.m.stir(r)
		r.uneasy = true
		for _, x := range []string{"a.example", "b.example"} {
			c.nodes[x].m.forgetLeader(c.nodes[x].m.rooms[testRoom])
			if rx := c.nodes[x].m.rooms[testRoom]; rx.leads() {
				c.nodes[x].restart()
			}
		}
		for range 25 {
			d.do(core.Tick{}, false)
			c.flush()
		}
	}
	if !d.m.rooms[testRoom].leads() {
		t.Fatal("d does not lead")
	}
	c.nodes["c.example"].restart()
	if err := c.propose(handshake(testRoom, "d.example", 2, change{Rule: 0})); err != nil {
		t.Fatal(err)
	}
	c.run("c follows d", 2*napMost, func() bool { return c.epoch("c.example", testRoom) == 3 })
}

// Whoever speaks in a term that is higher each time deposes the leader a few times.
func TestUpstart(t *testing.T) {
	for name, voters := range map[string][]string{"a voter": three, "a follower": three[:2]} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 16, three...)
			c.create(testRoom, three[0])
			if err := c.propose(handshake(testRoom, three[0], 0, change{Voters: voters, Followers: three[len(voters):]})); err != nil {
				t.Fatal(err)
			}
			c.quiet()
			a := c.nodes[three[0]]
			before := a.m.rooms[testRoom].row.Term
			for i := range uint64(10 * termRate.Burst) {
				for _, kind := range []pb.MessageType{pb.MsgHeartbeat, pb.MsgApp, pb.MsgVote, pb.MsgAppResp, pb.MsgPreVoteResp} {
					c.lie(three[2], three[0], &pb.Message{Type: kind.Enum(), Term: new(before + 20*i + uint64(kind)), Reject: new(kind == pb.MsgPreVoteResp)})
				}
			}
			if n := a.m.rooms[testRoom].row.Term - before; n == 0 || n > 20*uint64(termRate.Burst) {
				t.Errorf("the term is %d higher", n)
			}
			if err := c.propose(handshake(testRoom, three[1], 1, change{})); err != nil {
				t.Fatal(err)
			}
			c.run("the commit", 300, func() bool { return c.epoch(three[2], testRoom) == 2 })
		})
	}
}

// A voter that is silent but for its claims to lead, in a higher term each time, has its
// followers believe it while they have something to do; the others agree all the same.
func TestUpstartGoesOn(t *testing.T) {
	c := grown(t, 21, three...)
	a, b := c.nodes[three[0]], c.nodes[three[1]]
	c.nodes[three[2]].down = true
	for epoch := range uint64(5) {
		for _, d := range three[:2] {
			if err := c.propose(handshake(testRoom, d, 1+epoch, change{Nonce: d})); err != nil {
				t.Fatal(err)
			}
		}
		for tick := 0; a.m.rooms[testRoom].auth.Epoch < 2+epoch || b.m.rooms[testRoom].auth.Epoch < 2+epoch; tick++ {
			if tick > 300 {
				t.Fatalf("epoch %d does not end", 1+epoch)
			}
			c.lie(three[2], three[0], &pb.Message{Type: pb.MsgHeartbeat.Enum(), Term: new(a.m.rooms[testRoom].row.Term + 64)})
			c.tick()
			c.flush()
		}
	}
}

// Somebody without a vote that goes on saying that it leads, in a term that is no higher,
// holds nobody.
func TestUpstartHoldsNobody(t *testing.T) {
	c := newCluster(t, 22, three...)
	c.create(testRoom, three[0])
	if err := c.propose(handshake(testRoom, three[0], 0, change{Voters: three[:2], Followers: three[2:]})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	c.nodes[three[2]].down = true
	for epoch := range uint64(5) {
		for _, d := range three[:2] {
			if err := c.propose(handshake(testRoom, d, 1+epoch, change{Nonce: d})); err != nil {
				t.Fatal(err)
			}
		}
		for tick := 0; c.epoch(three[0], testRoom) < 2+epoch || c.epoch(three[1], testRoom) < 2+epoch; tick++ {
			if tick > 100 {
				t.Fatalf("epoch %d does not end", 1+epoch)
			}
			for _, d := range three[:2] {
				w := c.nodes[d].m.rooms[testRoom].row
				for _, lie := range []*pb.Message{
					{Type: pb.MsgHeartbeat.Enum(), Term: new(w.Term + 64)},
					{Type: pb.MsgHeartbeat.Enum(), Term: &w.Term},
					{Type: pb.MsgApp.Enum(), Term: &w.Term, Index: &w.Last, LogTerm: new(w.term(w.Last)), Commit: &w.Commit},
					{Type: pb.MsgApp.Enum(), Term: &w.Term, Index: new(w.Last + 5), LogTerm: &w.Term, Commit: new(w.Commit + 5)},
				} {
					c.lie(three[2], d, lie)
				}
			}
			c.tick()
			c.flush()
		}
	}
}

// What a liar says in higher terms honest homeservers say on to each other, which must not
// be counted against them for long: who waits until they are of one term, and lies to one of
// them again, would have them refuse each other.
func TestUpstartWearsNobodyOut(t *testing.T) {
	for name, x := range map[string]struct{ voters, most int }{"a follower": {2, 2 * proposeTicks}, "a voter": {3, 8 * proposeTicks}} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, 103, three...)
			c.create(testRoom, three[0])
			if err := c.propose(handshake(testRoom, three[0], 0, change{Voters: three[:x.voters], Followers: three[x.voters:]})); err != nil {
				t.Fatal(err)
			}
			c.quiet()
			c.nodes[three[2]].down = true
			a, b := c.nodes[three[0]], c.nodes[three[1]]
			epoch, since := uint64(1), 0
			for tick := range 6_000 {
				if c.epoch(three[0], testRoom) > epoch && c.epoch(three[1], testRoom) > epoch {
					epoch, since = epoch+1, tick
				}
				if tick-since > x.most {
					t.Fatalf("epoch %d does not end", epoch)
				}
				for _, n := range []*node{a, b} {
					if tick%proposeTicks == 0 && c.epoch(n.domain, testRoom) == epoch {
						_ = c.propose(handshake(testRoom, n.domain, epoch, change{Nonce: n.domain})) // it may be busy with the last one
					}
					if a.m.rooms[testRoom].row.Term == b.m.rooms[testRoom].row.Term {
						c.lie(three[2], n.domain, &pb.Message{Type: pb.MsgAppResp.Enum(), Term: new(n.m.rooms[testRoom].row.Term + 64)})
					}
				}
				c.tick()
				c.flush()
			}
			t.Logf("%d epochs", epoch)
		})
	}
}

// A store that fails while raft reads breaks the transaction, not the machine.
func TestStoreFails(t *testing.T) {
	c := grown(t, 16, three...)
	c.faulty = true
	for _, d := range three {
		n := c.nodes[d]
		n.restart()
		n.store.fail = core.Errorf(core.Internal, "disk")
	}
	if err := c.propose(handshake(testRoom, three[0], 1, change{})); err != nil && !core.Broken(err) {
		t.Fatal(err)
	}
	for range 40 {
		c.tick()
		for len(c.net) > 0 {
			c.deliver(0)
		}
	}
	for _, d := range three {
		c.nodes[d].store.fail = nil
	}
	c.quiet()
	if err := c.propose(handshake(testRoom, three[0], c.epoch(three[0], testRoom), change{Nonce: "2"})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	c.agree(testRoom)
	if e := c.epoch(three[2], testRoom); e < 2 {
		t.Errorf("epoch %d", e)
	}
}

// Other inputs are the engine's.
func TestOtherInputs(t *testing.T) {
	c := newCluster(t, 17, "a.example")
	n := c.nodes["a.example"]
	out, err := n.do(core.DropLink{}, false)
	if err != nil || out.Left != 7 || n.rooms.sealed != 1 {
		t.Errorf("%+v %v, sealed %d times", out, err, n.rooms.sealed)
	}
}

func FuzzApprovals(f *testing.F) {
	s := sign(homeKey("a.example"), Approval{Room: testRoom, Epoch: 3, Commit: bytes.Repeat([]byte{1}, 32), Tree: []byte{2}, Domain: "a.example"})
	t := sign(homeKey("a.example"), Approval{Room: testRoom, Epoch: 3, Commit: bytes.Repeat([]byte{2}, 32), Tree: []byte{2}, Domain: "a.example"})
	f.Add(s.encode())
	f.Add((&Certificate{given: []signed{s}}).Encode())
	f.Add((&Proof{A: s, B: t}).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := parseSigned(b); err == nil {
			again, err := parseSigned(s.encode())
			if err != nil || !again.a.same(&s.a) || again.a.Domain != s.a.Domain {
				t.Error("an approval changes when it is written again")
			}
		}
		if c, err := ParseCertificate(b); err == nil {
			if _, err := ParseCertificate(c.Encode()); err != nil || len(c.Domains()) == 0 || c.Facts().Domain != "" {
				t.Error("a certificate changes when it is written again")
			}
		}
		if p, err := ParseProof(b); err == nil {
			if x, y := p.Approvals(); x.same(&y) || x.Domain != y.Domain {
				t.Error("a proof of nothing")
			}
			if _, err := ParseProof(p.Encode()); err != nil {
				t.Error("a proof changes when it is written again")
			}
		}
	})
}

// FuzzPeerMessages gives a homeserver whatever a member may send, of every kind,
// and asks that it goes on as before.
func FuzzPeerMessages(f *testing.F) {
	c := grown(f, 18, three...)
	if err := c.propose(handshake(testRoom, three[1], 1, change{})); err != nil {
		f.Fatal(err)
	}
	for len(c.net) > 0 && len(c.net) < 200 {
		p := c.net[0]
		if p.to == three[0] {
			f.Add(uint8(p.msg.Kind), p.msg.Body)
		}
		c.deliver(0)
	}
	refused, _ := cbor.Marshal(refusal{ID: make([]byte, 32), Code: uint8(core.Limited), Text: "x"})
	f.Add(uint8(core.PeerRefused), refused)
	f.Add(uint8(core.PeerWant), make([]byte, 8))
	f.Add(uint8(core.PeerMembers), []byte{0x82, 1, 0x81, 0x61, 'x'})
	f.Fuzz(func(t *testing.T, kind uint8, body []byte) {
		n := c.nodes[three[0]]
		n.store.undo = nil
		msg := core.PeerMessage{Room: testRoom, Kind: core.PeerKind(kind), Body: body}
		for _, from := range []string{three[1], "evil.example"} {
			if _, err := n.m.Apply(n.store, c.now, core.PeerMessages{From: from, Messages: []core.PeerMessage{msg, {Room: "mimi://b.example/r/z", Kind: msg.Kind, Body: body}}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := n.m.Seal(n.store); err != nil {
			t.Fatal(err)
		}
		if n.m.Stats().Faults > 0 {
			t.Fatal("raft panicked")
		}
		n.store.rollback()
		n.restart()
	})
}
