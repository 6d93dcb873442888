package epoch

import (
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/isthmus-chat/isthmus/core"
)

// A homeserver that does not know of a vote lets go of the end of its log only where it
// has applied all that is agreed: the configuration that gives it the vote may be there.
func TestYieldsWhatIsApplied(t *testing.T) {
	for _, applied := range []bool{true, false} {
		c := grown(t, 48, three...)
		c.quiet()
		n := c.nodes[three[1]]
		r, w := n.m.rooms[testRoom], &n.m.rooms[testRoom].row
		n.m.tx, n.m.out = n.store, new(core.Output)
		if err := n.m.append(r, []*pb.Entry{{Index: new(w.Last + 1), Term: new(w.Term), Data: []byte{1}}}); err != nil {
			t.Fatal(err)
		}
		last := w.Last
		w.Voters, w.Learners, r.led = []uint64{memberID(three[0]), memberID(three[2])}, []uint64{n.m.self}, 0
		if !applied {
			w.Applied--
		}
		msg := &pb.Message{Type: pb.MsgVote.Enum(), From: new(memberID(three[2])), To: new(n.m.self), Term: new(w.Term + 1), Index: new(w.Commit), LogTerm: new(w.term(w.Commit))}
		if done, err := n.m.yields(r, msg); done || err != nil {
			t.Fatal(done, err)
		}
		if kept := w.Last == last; kept == applied {
			t.Errorf("all applied %v, the end of the log is kept %v", applied, kept)
		}
	}
}
