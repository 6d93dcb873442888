package epoch

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/fxamacker/cbor/v2"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/isthmus-chat/isthmus/core"
)

// liarsSnapshot is what one voter makes up: the room in another epoch, where it
// decides alone, with what it can sign.
func (c *cluster) liarsSnapshot(liar, to string, epoch uint64, certs ...certRow) core.PeerMessages {
	c.t.Helper()
	g := c.group(to, testRoom)
	id := core.HandshakeID{66}
	g.Auth = core.Authority{Epoch: epoch, Voters: []string{liar}, Followers: []string{to}}
	g.Hash, g.History = bytes.Repeat([]byte{66}, 32), map[uint64]core.HandshakeID{epoch: id}
	group, err := canonical.Marshal(g)
	if err != nil {
		c.t.Fatal(err)
	}
	facts := Approval{Room: testRoom, Epoch: epoch, Commit: id[:], Transcript: g.Hash, Tree: id[:], Index: 40, Voters: []string{liar}}
	by := facts
	by.Domain = liar
	certs = append(certs, certRow{Facts: facts, Voters: []string{liar}, Given: []signed{sign(homeKey(liar), by)}})
	data, err := cbor.Marshal(&groupSnapshot{Names: []string{liar, to}, Group: group, Certs: certs})
	if err != nil {
		c.t.Fatal(err)
	}
	w := c.nodes[to].m.rooms[testRoom].row
	msg := &pb.Message{Type: pb.MsgSnap.Enum(), From: new(memberID(liar)), To: new(memberID(to)), Term: new(w.Term + 1),
		Snapshot: &pb.Snapshot{Data: data, Metadata: &pb.SnapshotMetadata{Index: new(w.Last + 50), Term: new(w.Term),
			ConfState: &pb.ConfState{Voters: []uint64{memberID(liar)}, Learners: []uint64{memberID(to)}}}}}
	return raftOf(c.t, liar, testRoom, msg)
}

// What one voter says of a room does not take the place of what is here: those who
// decide have to have signed it.
func TestSnapshotOfOneVoter(t *testing.T) {
	c := grown(t, 31, three...)
	a, liar := c.nodes[three[0]], three[1]
	real, err := readCert(a.store, a.m.rooms[testRoom].numbered(1))
	if err != nil {
		t.Fatal(err)
	}
	turned := *real // the last true certificate, told as if it made the liar decide alone
	turned.Facts.Epoch, turned.Facts.Voters = 2, []string{liar}
	others := Approval{Room: testRoom, Epoch: 2, Commit: bytes.Repeat([]byte{1}, 32), Transcript: bytes.Repeat([]byte{66}, 32), Tree: append([]byte{66}, make([]byte, 31)...), Index: 40, Voters: three}
	agreed := certRow{Facts: others}
	for _, others.Domain = range three[1:] {
		agreed.Given = append(agreed.Given, sign(homeKey(others.Domain), others))
	}
	for name, in := range map[string]core.PeerMessages{
		"one that makes the liar decide, with hashes that others have signed": c.liarsSnapshot(liar, three[0], 2, agreed),

		"the next epoch":               c.liarsSnapshot(liar, three[0], 2),
		"an epoch far ahead":           c.liarsSnapshot(liar, three[0], 90),
		"with a certificate of others": c.liarsSnapshot(liar, three[0], 3, *real, turned),
		"this epoch":                   c.liarsSnapshot(liar, three[0], 0),
	} {
		before := fmt.Sprint(a.m.rooms[testRoom].row.Voters, a.m.rooms[testRoom].row.Last)
		if _, err := a.do(in, false); err != nil {
			t.Fatal(err)
		}
		if after := fmt.Sprint(a.m.rooms[testRoom].row.Voters, a.m.rooms[testRoom].row.Last); after != before || c.epoch(three[0], testRoom) != 1 {
			t.Fatalf("%s: epoch %d, %s, before %s", name, c.epoch(three[0], testRoom), after, before)
		}
	}
	c.decide(handshake(testRoom, three[0], 1, change{}))
	c.quiet()
	c.agree(testRoom)
}

// A snapshot of an index where no log leads would be the end of the log.
func TestSnapshotFarAway(t *testing.T) {
	c := grown(t, 32, three...)
	a := c.nodes[three[0]]
	in := c.liarsSnapshot(three[1], three[0], 1)
	msg := a.m.parse(three[1], in.Messages[0].Body)
	for _, index := range []uint64{maxIndex, a.m.rooms[testRoom].row.Last + maxJump + 1} {
		msg.Snapshot.Metadata.Index = &index
		if plausible(&a.m.rooms[testRoom].row, msg) {
			t.Errorf("index %d", index)
		}
		vote := &pb.Message{Type: pb.MsgVote.Enum(), Index: &index, Term: msg.Term}
		if plausible(&a.m.rooms[testRoom].row, vote) {
			t.Errorf("a candidate with index %d", index)
		}
	}
}

// Who was away while others came to decide, and the log was cut, follows by the
// certificates of the epochs that changed who decides.
func TestSnapshotAfterOthersDecide(t *testing.T) {
	all := []string{"a.example", "b.example", "c.example", "d.example", "e.example", "f.example"}
	c := newCluster(t, 33, all...)
	c.cfg.MaxEntries = 4
	for _, n := range c.nodes {
		n.restart()
	}
	c.create(testRoom, all[0])
	c.decide(handshake(testRoom, all[0], 0, change{Voters: all[:3], Followers: all[3:]}))
	c.quiet()
	away := c.nodes[all[5]]
	away.down = true
	epoch := uint64(1)
	for i, voters := range [][]string{{all[0], all[1], all[3]}, {all[1], all[3], all[4]}, {all[3], all[4]}} {
		c.decide(handshake(testRoom, voters[0], epoch, change{Voters: voters, Followers: all[5:]}))
		for j := range 20 {
			epoch++
			c.run("a certificate", proposeTicks, func() bool { _, err := CertificateOf(c.nodes[voters[0]].store, testRoom, epoch); return err == nil })
			c.decide(handshake(testRoom, voters[j%2], epoch, change{Nonce: fmt.Sprint(i, j)}))
		}
		epoch++
	}
	away.restart()
	c.run("catching up", 3*napMost, func() bool { return c.epoch(all[5], testRoom) == epoch })
	c.certificate(all[5], testRoom, epoch, all[3:5], 0)
	c.quiet()
	c.agree(testRoom)
}

// While the newest epoch is not certified nobody is sent it, and the next commit
// waits until who needs it has it.
func TestSnapshotOfUncertified(t *testing.T) {
	c := newCluster(t, 34, three...)
	c.cfg.MaxEntries = 4
	for _, n := range c.nodes {
		n.restart()
	}
	c.grow(three)
	c.nodes[three[2]].down = true
	for i := range uint64(20) {
		c.decide(handshake(testRoom, three[0], i+1, change{}))
		c.run("a certificate", proposeTicks, func() bool { _, err := CertificateOf(c.nodes[three[0]].store, testRoom, i+2); return err == nil })
	}
	later := core.Errorf(core.Unavailable, "later")
	c.nodes[three[1]].rooms.judge = func(uint64) error { return later }
	c.decide(handshake(testRoom, three[0], 21, change{}))
	c.nodes[three[2]].restart()
	c.run("it is asked for", napMost, func() bool { return c.nodes[three[0]].m.rooms[testRoom].wanted > 0 })
	next := handshake(testRoom, three[0], 22, change{})
	if err := c.propose(next); err != nil {
		t.Fatal(err)
	}
	for range 3 * retryTicks {
		c.tick()
		c.flush()
	}
	if e := c.epoch(three[2], testRoom); e != 1 || c.epoch(three[0], testRoom) != 22 {
		t.Fatalf("epoch %d and %d", e, c.epoch(three[0], testRoom))
	}
	c.nodes[three[1]].rooms.judge = nil
	c.run("the next", proposeTicks, func() bool { return c.nodes[three[0]].decisions[next.ID()].Seq > 0 })
	c.run("catching up", 2*napMost, func() bool { return c.epoch(three[2], testRoom) == 23 })
	c.quiet()
	c.agree(testRoom)
}
