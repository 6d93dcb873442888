package epoch

import (
	"cmp"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
)

// A follower takes the leader's word for what is agreed, so a leader can lie to it. That
// deceives no device, for a lie has no certificate; and the homeserver finds back. What an
// honest leader appends contradicts what is called agreed here: that is answered as by who
// has no log, so that a snapshot comes. If those who decide have signed for a later epoch,
// the log begins anew there. At last the certificates of the epochs that were left behind
// say which commits took the places of the false ones.

// misled reports whether msg contradicts what is agreed here, and is no old one: somebody
// lied to this homeserver, or does now. The certificates of a snapshot can say who.
func misled(w *row, msg *pb.Message) bool {
	if msg.GetType() != pb.MsgApp || msg.GetTerm() < w.Term {
		return false
	}
	return contradicts(w, before(msg)) || slices.ContainsFunc(msg.GetEntries(), func(e *pb.Entry) bool { return contradicts(w, e) })
}

// before is what the sender of an append has before its entries.
func before(msg *pb.Message) *pb.Entry { return &pb.Entry{Index: msg.Index, Term: msg.LogTerm} }

// contradicts reports whether e cannot be in the log of which the agreed part is here.
func contradicts(w *row, e *pb.Entry) bool {
	if n := e.GetIndex(); n > w.First {
		return n <= w.Commit && w.term(n) != e.GetTerm()
	}
	return e.GetTerm() > w.term(w.First)
}

// reject answers a leader's append as who has no log does: the leader sends a snapshot.
func (m *Machine) reject(r *room, from string, msg *pb.Message) error {
	return m.answer(r, from, &pb.Message{Type: pb.MsgAppResp.Enum(), From: new(m.self), To: msg.From, Term: msg.Term,
		Index: msg.Index, Reject: new(true), RejectHint: new(uint64(0))})
}

// astray begins the log anew at a snapshot of a later epoch than what was applied here
// came to, at an index that this came to: raft would say that it is old, but those who
// decide have signed for it, so what was called agreed here was not. One of another log
// that leads no further is not answered: raft would say that what is agreed here is what
// was sent. done: msg is dealt with.
func (m *Machine) astray(r *room, from string, msg *pb.Message) (done bool, err error) {
	w, snap := &r.row, msg.GetSnapshot()
	meta := snap.GetMetadata()
	if msg.GetType() != pb.MsgSnap || msg.GetTerm() < w.Term || meta.GetIndex() > w.Applied {
		return false, nil
	}
	var s groupSnapshot
	if strict.Unmarshal(snap.GetData(), &s) != nil || len(s.Certs) > maxSnapshotCerts {
		return false, nil
	}
	certs, err := m.believe(r, s.Certs)
	if n := len(certs); err != nil || n == 0 || certs[n-1].Facts.Epoch <= r.auth.Epoch {
		return contradicts(w, &pb.Entry{Index: meta.Index, Term: meta.Term}), err
	}
	if done, err = m.restore(r, snap); err != nil || !done {
		return done, err
	}
	if r.node, r.leader = nil, false; msg.GetTerm() > w.Term {
		w.Term, w.Vote = msg.GetTerm(), 0
	}
	return true, m.answer(r, from, &pb.Message{Type: pb.MsgAppResp.Enum(), From: new(m.self), To: msg.From, Term: msg.Term, Index: &w.Commit})
}

// trusted is who decides after the newest epoch that is certified here: devices
// follow it, so what one homeserver says cannot have led here.
func (m *Machine) trusted(r *room) (voters []string, rule uint8, epoch uint64, err error) {
	voters, rule, epoch = r.auth.Voters, r.auth.Rule, r.auth.Epoch
	for ; epoch > 0; epoch-- {
		c, err := readCert(m.tx, r.numbered(epoch))
		if absent(err) || err == nil && c.complete() {
			break
		}
		if err != nil {
			return nil, 0, 0, err
		}
		voters, rule = c.Voters, c.Rule
	}
	return voters, rule, epoch, nil
}

// believe picks the certificates of a snapshot that bind somebody who knows the
// room: each is signed by enough of those who decide as far as is known here, and
// says who decides from then on. They are as they can be kept, rising.
func (m *Machine) believe(r *room, certs []certRow) ([]*certRow, error) {
	voters, rule, epoch, err := m.trusted(r)
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(certs, func(a, b certRow) int { return cmp.Compare(a.Facts.Epoch, b.Facts.Epoch) })
	var out []*certRow
	for i := range certs {
		if certs[i].open() != nil || certs[i].Facts.Room != r.id || certs[i].Facts.Epoch <= epoch {
			continue
		}
		c, err := m.tally(r, certs[i].Facts, certs[i].Given, voters, rule)
		if err != nil {
			return nil, err
		}
		if !c.complete() {
			continue
		}
		out, epoch = append(out, c), c.Facts.Epoch
		voters, rule = c.Facts.Voters, c.Facts.Rule
	}
	return out, nil
}

// tally is the row of an epoch with those approvals of its facts that voters have signed.
func (m *Machine) tally(r *room, facts Approval, list []signed, voters []string, rule uint8) (*certRow, error) {
	c := &certRow{Facts: facts, Voters: voters, Rule: rule, Judged: judgedNever}
	for _, s := range list {
		if !s.a.same(&facts) {
			continue
		}
		if err := m.add(r, c, s); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// correct takes up the certificate of another commit than the one that was applied here:
// somebody lied to this homeserver, which has left that epoch behind since. Devices are
// given what was applied with that certificate, and know by it that it does not count.
// done: c's row is another one now, and is written.
func (m *Machine) correct(r *room, c *certRow, list []signed) (done bool, err error) {
	i := slices.IndexFunc(list, func(s signed) bool {
		return s.a.Room == r.id && s.a.Epoch == c.Facts.Epoch && !s.a.same(&c.Facts)
	})
	if i < 0 {
		return false, nil
	}
	facts := list[i].a
	facts.Domain = ""
	won, err := m.tally(r, facts, list, c.Voters, c.Rule)
	if err != nil || !won.complete() {
		return false, err
	}
	won.Seq, won.Strays = c.Seq, c.Given
	if err := m.turn(r, won); err != nil {
		return true, err
	}
	next, err := readCert(m.tx, r.numbered(facts.Epoch+1))
	if err == nil && (next.Rule != facts.Rule || !slices.Equal(next.Voters, facts.Voters)) { // whom the lie named does not decide
		next = &certRow{Facts: next.Facts, Seq: next.Seq, Voters: facts.Voters, Rule: facts.Rule, Judged: judgedNever}
		m.reopen(r, &next.Facts)
		err = m.writeCert(r, next)
	}
	if err != nil && !absent(err) {
		return true, err
	}
	return true, m.settle(r, won, false)
}

// reopen has the certificate of an epoch asked for, if it is not.
func (m *Machine) reopen(r *room, facts *Approval) {
	known := slices.ContainsFunc(r.row.Open, func(o opening) bool { return o.Epoch == facts.Epoch })
	if !known && len(r.row.Open) < 2*maxOpen {
		r.row.Open = append(r.row.Open, opening{Epoch: facts.Epoch, Index: facts.Index})
		m.touch(r)
	}
}
