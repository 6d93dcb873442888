package epoch

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"github.com/fxamacker/cbor/v2"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-chat/isthmus/core"
)

// A homeserver that approves one commit to one of its peers and another to the other
// is found out as soon as those two speak to each other.
func TestTwoTruths(t *testing.T) {
	c := grown(t, 21, three...)
	if err := c.propose(handshake(testRoom, three[0], 1, change{})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	liar, b, misled := three[0], c.nodes[three[1]], c.nodes[three[2]]
	key := misled.m.rooms[testRoom].numbered(2)
	believe := func(n *node, change func(*Approval)) (own signed) {
		row, err := readCert(n.store, key)
		if err != nil {
			t.Fatal(err)
		}
		change(&row.Facts)
		row.Given = nil
		for _, d := range []string{liar, n.domain} {
			a := row.Facts
			a.Domain = d
			own = sign(homeKey(d), a)
			row.Given = append(row.Given, own)
		}
		data, err := cbor.Marshal(row)
		if err == nil {
			err = n.store.PutValue(bucketCerts, key, data)
		}
		if err != nil {
			t.Fatal(err)
		}
		return own
	}
	own := believe(b, func(*Approval) {})
	believe(misled, func(a *Approval) { a.Tree = bytes.Repeat([]byte{7}, 32) })
	c.nodes[liar].down = true
	misled.do(core.PeerMessages{From: three[1], Messages: []core.PeerMessage{{Room: testRoom, Kind: core.PeerApproval, Body: own.encode()}}}, false)
	c.quiet()
	for _, n := range []*node{b, misled} {
		proofs, err := ProofsOf(n.store, testRoom, "", 10)
		if err != nil || len(proofs) != 1 {
			t.Fatalf("%s has %d proofs, %v", n.domain, len(proofs), err)
		}
		p, err := ParseProof(proofs[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		if x, _ := p.Approvals(); x.Domain != liar {
			t.Errorf("%s convicts %s", n.domain, x.Domain)
		}
	}
}

// Handshakes that are refused cost their sender too: a look at one may take long.
func TestFloodOfRefusals(t *testing.T) {
	for name, by := range map[string]func(int) core.DeviceURI{
		"a device":             func(int) core.DeviceURI { return core.NewDeviceURI(three[0], "d") },
		"devices of elsewhere": func(i int) core.DeviceURI { return core.NewDeviceURI("evil.example", fmt.Sprint(i)) },
	} {
		c := grown(t, 23, three...)
		a, looked := c.nodes[three[0]], 0
		for i := range 1000 {
			h := handshake(testRoom, three[0], 1, change{Nonce: fmt.Sprint(i), Bad: true})
			h.By = by(i)
			if _, err := a.do(core.Propose{Handshake: h}, false); core.CodeOf(err) == core.Invalid {
				looked++
			} else if core.CodeOf(err) != core.Limited || retryAfter(err) <= 0 {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if looked == 0 || looked > 500 {
			t.Errorf("%s: %d handshakes were looked at", name, looked)
		}
		if err := c.propose(&core.Handshake{Room: testRoom, Home: three[0], By: core.NewDeviceURI(three[0], "other"), Message: handshake(testRoom, three[0], 1, change{}).Message, Info: []byte{1}}); err != nil {
			t.Errorf("%s: another device: %v", name, err)
		}
		if c.quiet(); c.epoch(three[1], testRoom) != 2 {
			t.Errorf("%s: the room stands still", name)
		}
	}
}

// append is what a homeserver sends that says it leads.
func (c *cluster) append(liar, to string, term, after, logTerm uint64, es []*pb.Entry) core.PeerMessages {
	for i, e := range es {
		e.Index = new(after + 1 + uint64(i))
		if e.Term == nil {
			e.Term = &term
		}
	}
	return raftOf(c.t, liar, testRoom, &pb.Message{Type: pb.MsgApp.Enum(), From: new(memberID(liar)), To: new(memberID(to)), Term: &term,
		Index: &after, LogTerm: &logTerm, Commit: new(uint64(0)), Entries: es})
}

// Who says that it leads makes nobody keep without end what is never agreed; and who
// was made to keep as much as it lets finds the others all the same, though they
// need its long log to elect anybody.
func TestEndlessAppends(t *testing.T) {
	for name, entry := range map[string]struct {
		size, each, rounds int
	}{
		"small entries":       {1, 2000, 5},
		"large ones":          {1 << 20, 16, 5},
		"of two large":        {8 << 20, 2, 5},
		"empty of one term":   {0, 3000, 5},
		"empty, rising terms": {-1, 300, 20},
	} {
		t.Run(name, func(t *testing.T) {
			c := grown(t, 24, three...)
			liar, victim, other := three[0], c.nodes[three[1]], c.nodes[three[2]]
			c.nodes[liar].down, other.down = true, true
			term := victim.m.rooms[testRoom].row.Term
			data := make([]byte, max(entry.size, 0))
			for range entry.rounds {
				w := victim.m.rooms[testRoom].row
				term++
				es := make([]*pb.Entry, entry.each)
				for i := range es {
					es[i] = &pb.Entry{Data: data}
					if entry.size < 0 {
						es[i].Term = new(term + uint64(i))
					}
				}
				if entry.size < 0 {
					term += uint64(entry.each)
				}
				if _, err := victim.do(c.append(liar, three[1], term, w.Last, w.term(w.Last), es), false); err != nil {
					t.Fatal(err)
				}
			}
			w := victim.m.rooms[testRoom].row
			n, size := w.Last-w.Commit, uint64(0)
			for i := w.Commit + 1; i <= w.Last; i++ {
				b, err := victim.store.Value(bucketLog, victim.m.rooms[testRoom].numbered(i))
				if err != nil {
					t.Fatal(err)
				}
				size += uint64(len(b))
			}
			t.Logf("%d entries of %d octets are kept", n, size)
			if n == 0 || n > maxUnagreed+2*uint64(blankRate.Burst) || size > maxUnagreedBytes+n*32 {
				t.Errorf("%d entries of %d octets are kept", n, size)
			}
			other.down = false
			c.run("the two of them", 3000, func() bool {
				if h := handshake(testRoom, three[2], 1, change{}); other.decisions[h.ID()].Seq == 0 {
					if err := c.propose(h); err != nil {
						t.Fatal(err)
					}
					return false
				}
				return true
			})
			c.run("both", 100, func() bool { return c.epoch(three[1], testRoom) == 2 && c.epoch(three[2], testRoom) == 2 })
		})
	}
}

// mislead has liar lead one homeserver to take for agreed on what the others know nothing
// of: commits, or octets that are none.
func (c *cluster) mislead(liar, victim string, lies ...[]byte) {
	c.t.Helper()
	n := c.nodes[victim]
	w := n.m.rooms[testRoom].row
	msg := &pb.Message{Type: pb.MsgApp.Enum(), Term: new(w.Term + 1), Index: &w.Last, LogTerm: new(w.term(w.Last)), Commit: new(w.Last + uint64(len(lies)))}
	for i, lie := range lies {
		msg.Entries = append(msg.Entries, &pb.Entry{Term: msg.Term, Index: new(w.Last + 1 + uint64(i)), Data: lie})
	}
	c.lie(liar, victim, msg)
	c.net = nil
	if e, r := c.epoch(victim, testRoom), n.m.rooms[testRoom]; e == 1 || r.row.Commit != *msg.Commit {
		c.t.Fatalf("nobody is misled: epoch %d, %d agreed", e, r.row.Commit)
	}
}

// falseCommit is one of which nobody else knows.
func falseCommit(by string, epoch uint64) []byte {
	return handshake(testRoom, by, epoch, change{Nonce: "a lie"}).Encode()
}

// Whom somebody who said that it leads had agree on what nobody else did finds back by
// the certificates of what those who decide agreed on, and has a vote again.
func TestMisledFindsBack(t *testing.T) {
	for _, many := range []int{1, 3000} { // that many are beyond what is true for long, and the older half is let go of
		c := grown(t, 51, three...)
		c.quiet()
		liar, misled := three[1], c.nodes[three[2]]
		was := misled.m.rooms[testRoom].row
		c.mislead(liar, three[2], append([][]byte{falseCommit(liar, 1)}, slices.Repeat([][]byte{{1}}, many-1)...)...)
		for e := uint64(1); e < 5; e++ {
			c.decide(handshake(testRoom, three[0], e, change{}))
			c.run("a certificate", proposeTicks, func() bool { _, err := CertificateOf(c.nodes[three[0]].store, testRoom, e+1); return err == nil })
		}
		c.run("finding back", 3*snapshotTicks, func() bool { return c.epoch(three[2], testRoom) == 5 })
		if r := misled.m.rooms[testRoom]; r.row.Commit > was.Last+100 {
			t.Errorf("%d entries agreed, of which it ought to know nothing", r.row.Commit)
		}
		c.nodes[liar].down = true
		c.decide(handshake(testRoom, three[0], 5, change{}))
		c.run("a vote", 3*napMost, func() bool { return c.epoch(three[0], testRoom) == 6 && c.epoch(three[2], testRoom) == 6 })
		misled.restart()
		c.decide(handshake(testRoom, three[2], 6, change{}))
		c.run("a restart", 3*napMost, func() bool { return c.epoch(three[0], testRoom) == 7 && c.epoch(three[2], testRoom) == 7 })
	}
}

// Who was misled learns in the end which commits took the places of the false ones, so
// that its devices need not wait for the certificates of those: also where that was long
// ago, and where a false one named who decides, and those signed what came after.
func TestMisledLearnsTheTruth(t *testing.T) {
	for name, x := range map[string]struct {
		lie  change
		more uint64 // commits of the others meanwhile
	}{
		"lately":            {change{Nonce: "a lie"}, 4},
		"long ago":          {change{Nonce: "a lie"}, 2 * maxNewest},
		"of who decides":    {change{Nonce: "a lie", Voters: three[1:2], Followers: []string{three[0], three[2], "d.example", "e.example"}}, 4},
		"of that, long ago": {change{Nonce: "a lie", Voters: three[1:2], Followers: []string{three[0], three[2], "d.example", "e.example"}}, 2 * maxNewest},
	} {
		t.Run(name, func(t *testing.T) {
			c := grown(t, 52, append(slices.Clone(three), "d.example", "e.example")...)
			c.quiet()
			liar, misled := three[1], c.nodes[three[2]]
			c.mislead(liar, three[2], handshake(testRoom, liar, 1, x.lie).Encode(), falseCommit(liar, 2))
			if x.lie.Voters != nil {
				row, err := readCert(misled.store, misled.m.rooms[testRoom].numbered(3))
				if err != nil {
					t.Fatal(err)
				}
				row.Facts.Domain = liar
				own := sign(homeKey(liar), row.Facts)
				misled.do(core.PeerMessages{From: liar, Messages: []core.PeerMessage{{Room: testRoom, Kind: core.PeerApproval, Body: own.encode()}}}, false)
				if _, err := CertificateOf(misled.store, testRoom, 3); err != nil {
					t.Fatal(err)
				}
			}
			c.nodes[liar].down = true // it signs nothing more
			for e := uint64(1); e <= x.more; e++ {
				c.decide(handshake(testRoom, three[0], e, change{}))
				c.run("a certificate", proposeTicks, func() bool { _, err := CertificateOf(c.nodes[three[0]].store, testRoom, e+1); return err == nil })
			}
			c.run("finding back", 3*snapshotTicks, func() bool { return c.epoch(three[2], testRoom) == 1+x.more })
			c.run("the truth", 3*napMost, func() bool {
				for e := uint64(2); e <= 3; e++ {
					b, err := CertificateOf(misled.store, testRoom, e)
					if absent(err) {
						return false
					}
					cert, err := ParseCertificate(b)
					if err != nil {
						t.Fatal(err)
					}
					if id := c.group(three[0], testRoom).History[e]; !bytes.Equal(cert.Facts().Commit, id[:]) {
						return false
					}
				}
				return true
			})
			if n := misled.certified[fmt.Sprintf("%s/2", testRoom)]; n != 1 {
				t.Errorf("devices are told %d times", n)
			}
			c.nodes[liar].down = false
			c.quiet()
			c.decide(handshake(testRoom, three[2], 1+x.more, change{}))
		})
	}
}

// Who was misled says of nothing that another leader sends that it is here because its own
// log is longer: that would count as a vote for what it does not have.
func TestMisledVouchesForNothing(t *testing.T) {
	c := grown(t, 53, three...)
	c.quiet()
	w := c.nodes[three[2]].m.rooms[testRoom].row
	c.mislead(three[1], three[2], falseCommit(three[1], 1), falseCommit(three[1], 2))
	empty, err := cbor.Marshal(&groupSnapshot{})
	if err != nil {
		t.Fatal(err)
	}
	for what, msg := range map[string]*pb.Message{
		"an append of nothing": {Type: pb.MsgApp.Enum(), Index: new(w.Last + 1), LogTerm: new(w.Term + 2), Commit: &w.Last},
		"a snapshot": {Type: pb.MsgSnap.Enum(), Snapshot: &pb.Snapshot{Data: empty, Metadata: &pb.SnapshotMetadata{
			Index: new(w.Last + 1), Term: new(w.Term + 2), ConfState: w.conf()}}},
	} {
		msg.Term = new(w.Term + 2)
		c.lie(three[0], three[2], msg)
		for _, p := range c.net {
			answer := new(pb.Message)
			if p.msg.Kind != core.PeerRaft || proto.Unmarshal(p.msg.Body, answer) != nil {
				continue
			}
			if answer.GetType() == pb.MsgAppResp && (!answer.GetReject() || answer.GetRejectHint() > 0) {
				t.Errorf("%s: it answers %v", what, answer)
			}
		}
		c.net = nil
	}
}

// A log whose end grew beyond all bounds, as it could once, is cut back.
func TestLongTailIsCutBack(t *testing.T) {
	c := grown(t, 25, three...)
	n := c.nodes[three[1]]
	r := n.m.rooms[testRoom]
	w := r.row
	for i := range uint64(maxTailEntries) {
		b, _ := marshal.Marshal(&pb.Entry{Index: new(w.Last + 1 + i), Term: new(w.Term + 1), Data: []byte{1}})
		n.store.rows[[2]string{bucketLog, r.numbered(w.Last + 1 + i)}] = b
		w.Size += uint64(len(b))
	}
	w.Term++
	w.Runs = append(slices.Clone(w.Runs), run{From: w.Last + 1, Term: w.Term})
	w.Last += maxTailEntries
	b, err := cbor.Marshal(&w)
	if err != nil {
		t.Fatal(err)
	}
	n.store.rows[[2]string{bucketRows, r.key}] = b
	n.restart()
	c.decide(handshake(testRoom, three[0], 1, change{}))
	c.quiet()
	c.reached(three[1], 2)
	if got := n.m.rooms[testRoom].row; got.Last > got.Commit+maxUnagreed || got.Size > 1<<20 {
		t.Errorf("%d entries, %d octets", got.Last-got.Commit, got.Size)
	}
}

// A stranger who knows the names of rooms has few of them fetched and their voters
// asked, from all its ports together; who is part of them is answered as ever.
func TestStrangerKnocks(t *testing.T) {
	const rooms = 200
	c := newFree(t)
	c.many(rooms)
	a := c.nodes[three[0]]
	c.create("mimi://a.example/r/alone", three[0])
	knock := func(from string, id core.RoomID) []core.Send {
		msg := &pb.Message{Type: pb.MsgHeartbeat.Enum(), From: new(memberID(from)), To: new(memberID(three[0])), Term: new(uint64(1)), Commit: new(uint64(1))}
		out, err := a.do(raftOf(t, from, id, msg), false)
		if err != nil {
			t.Fatal(err)
		}
		c.net = nil
		return out.Sends
	}
	for _, asleep := range []bool{true, false} {
		a.restart()
		a.do(core.Tick{}, false)
		if !asleep {
			for i := range rooms {
				knock(three[1], core.RoomID(fmt.Sprintf("mimi://a.example/r/%d", i)))
			}
		}
		resident, asked := a.m.Stats().Resident, 0
		for i := range 3 * rooms {
			asked += len(knock(fmt.Sprint("evil.example:", 1+i), core.RoomID(fmt.Sprintf("mimi://a.example/r/%d", i%rooms))))
			knock("evil.example", "mimi://a.example/r/alone")
		}
		if s := a.m.Stats(); asked == 0 || asked > 2*strayRate.Burst || s.Awake > strayRate.Burst || s.Resident > resident+strayRate.Burst {
			t.Errorf("%d questions, %d rooms awake, %d in memory", asked, s.Awake, s.Resident)
		}
	}
	c.decide(handshake("mimi://a.example/r/199", three[1], 1, change{}))
}
