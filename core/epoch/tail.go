package epoch

import (
	"slices"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/isthmus-chat/isthmus/core"
)

// Anybody with a vote may say that it leads, and have others keep entries that are
// never agreed on. So what may lie at the end of a log is bounded. Who was filled up to
// the bound may be elected for its long log; it then has to hand that to the others, and
// one entry more, the empty one of its term. Therefore the beginning of what is allowed
// is allowed too, and empty entries are bounded by themselves: so many of a term, and
// how fast one homeserver may bring them.
const (
	maxUnagreed      = 1024     // entries that say something,
	maxUnagreedBytes = 16 << 20 // and their octets; two handshakes
	maxBlanks        = 4        // empty entries of one term; raft makes one, or two for a configuration
	maxTailEntries   = 1 << 16  // in all
)

// blankRate is how fast one homeserver may bring empty entries into a room: leaders
// that come to nothing.
var blankRate = core.Meter{Burst: 64, Every: time.Second}

// A tail is how many octets the entries at the end of a log hold.
type tail struct {
	from  uint64 // they follow this one
	sizes []int
}

// last is the index of the last entry that is counted.
func (t *tail) last() uint64 { return t.from + uint64(len(t.sizes)) }

// add notes that entries took the place of all from the first of them on.
func (t *tail) add(es []*pb.Entry) {
	if before := es[0].GetIndex() - 1; before >= t.from && before <= t.last() {
		t.sizes = t.sizes[:before-t.from]
	} else {
		*t = tail{from: before}
	}
	for _, e := range es {
		t.sizes = append(t.sizes, len(e.GetData()))
	}
}

// tail returns the sizes of the entries after commit, which is not before what is
// agreed here.
func (m *Machine) tail(r *room, commit uint64) ([]int, error) {
	w, t := &r.row, &r.tail
	if t.from > w.Commit || t.last() != w.Last {
		*t = tail{from: w.Commit}
		for i := w.Commit + 1; i <= w.Last; i++ {
			e, _, err := m.entry(r, i)
			if err != nil {
				return nil, err
			}
			t.sizes = append(t.sizes, len(e.GetData()))
		}
	}
	t.sizes, t.from = t.sizes[w.Commit-t.from:], w.Commit
	return t.sizes[min(commit, w.Last)-w.Commit:], nil
}

func sum(list []int) (n int) {
	for _, v := range list {
		n += v
	}
	return n
}

// A load is what lies at the end of a log.
type load struct{ said, octets, all, blanks int }

// bears counts one more entry, and reports whether it may lie there. same says whether
// its term is that of the entry before.
func (l *load) bears(size int, same bool) bool {
	if l.all++; !same {
		l.blanks = 0
	}
	if size == 0 {
		l.blanks++
	} else {
		l.said, l.octets = l.said+1, l.octets+size
	}
	return l.said <= maxUnagreed && l.octets <= maxUnagreedBytes && l.blanks <= maxBlanks && l.all <= maxTailEntries
}

// loadTo counts what is not agreed, after commit and up to the entry at last.
func (m *Machine) loadTo(r *room, commit, last uint64) (l load, term uint64, err error) {
	sizes, err := m.tail(r, commit)
	for i, size := range sizes {
		n := commit + 1 + uint64(i)
		if n > last {
			break
		}
		t := r.row.term(n)
		l.bears(size, t == term)
		term = t
	}
	return l, term, err
}

// fit takes of an append as much as may lie at the end of r's log.
func (m *Machine) fit(r *room, from string, msg *pb.Message) error {
	w := &r.row
	agreed := max(w.Commit, msg.GetCommit())
	l, term, err := m.loadTo(r, agreed, msg.GetIndex())
	if err != nil {
		return err
	}
	for i, e := range msg.GetEntries() {
		if e.GetIndex() <= agreed {
			continue
		}
		here := e.GetIndex() <= w.Last && w.term(e.GetIndex()) == e.GetTerm()
		if !l.bears(len(e.GetData()), e.GetTerm() == term) || len(e.GetData()) == 0 && !here && m.blanks.Take(r.key+"/"+from, 1, m.now) > 0 {
			m.stats.Ignored++
			msg.Entries = msg.Entries[:i]
			break
		}
		term = e.GetTerm()
	}
	return nil
}

// fits reports whether the leader may append so many octets: what others would take.
func (m *Machine) fits(r *room, size int) (bool, error) {
	l, term, err := m.loadTo(r, r.row.Commit, r.row.Last)
	l.said, l.octets = l.said+len(r.pushed), l.octets+sum(r.pushed)
	return err == nil && l.bears(size, term == r.row.Term), err
}

// shorten lets go of the end of a log that no honest homeserver can have agreed on.
func (m *Machine) shorten(r *room) error {
	w := &r.row
	if w.Last-w.Commit <= maxTailEntries/2 {
		return nil
	}
	err := m.truncate(r, w.Commit+maxUnagreed)
	if absent(err) {
		m.stats.Faults++
		return errDamaged
	}
	return err
}

// yields lets a candidate go on whose log is shorter, if this homeserver does not know
// yet that it has a vote: it cannot be elected itself, so nobody would be. done: the
// message is answered.
//
// Who asks for a vote knows of the configuration that gives it. If it lies in the part
// of the log that both have (it does, too, if it is of the term of the candidate's last
// entry), it is agreed, and this one can be elected. If there is
// none at the end of the log, that end was never vouched for to anybody (who gave this
// one its vote may be elected without it): it goes when the vote is asked for in earnest.
func (m *Machine) yields(r *room, msg *pb.Message) (done bool, err error) {
	w := &r.row
	last, term := msg.GetIndex(), msg.GetLogTerm()
	if w.Last == w.Commit || w.Applied < w.Commit || slices.Contains(w.Voters, m.self) || slices.Contains(w.Outgoing, m.self) || r.led > 0 && m.ticks+1-r.led < electionTicks ||
		msg.GetTerm() <= w.Term || last < w.Commit || term > w.term(w.Last) || term == w.term(w.Last) && last >= w.Last {
		return false, nil
	}
	for i := w.Commit + 1; i <= w.Last; i++ {
		e, _, err := m.entry(r, i)
		switch {
		case err != nil:
			return false, err
		case e.GetType() == pb.EntryNormal:
			continue
		case i > last || e.GetTerm() != term && (last > w.Last || w.term(last) != term):
			return false, nil
		}
		err = m.step(r, &pb.Message{Type: pb.MsgHeartbeat.Enum(), From: msg.From, To: msg.To, Term: new(w.Term), Commit: new(i)})
		m.forgetLeader(r)
		return true, err
	}
	if msg.GetType() == pb.MsgVote {
		r.node, r.leader = nil, false
		if err := m.truncate(r, w.Commit); err != nil {
			return false, err
		}
		return false, m.start(r)
	}
	return true, m.sendRaft(r, &pb.Message{Type: pb.MsgPreVoteResp.Enum(), From: new(m.self), To: msg.From, Term: msg.Term})
}

// truncate lets go of the entries after last.
func (m *Machine) truncate(r *room, last uint64) error {
	w := &r.row
	if err := m.drop(r, last+1, w.Last); err != nil {
		return err
	}
	for len(w.Runs) > 1 && w.Runs[len(w.Runs)-1].From > last {
		w.Runs = w.Runs[:len(w.Runs)-1]
	}
	w.Last, r.tail = last, tail{}
	m.touch(r)
	return nil
}
