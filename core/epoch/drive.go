package epoch

import (
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/isthmus-chat/isthmus/core"
)

// maxRounds bounds how often one input goes round through raft: an entry that is
// proposed, agreed and applied at once takes three rounds.
const maxRounds = 10_000

// pump does what can be done in a room now: what raft has ready, then what waits
// for raft.
func (m *Machine) pump(r *room) error {
	for range maxRounds {
		if err := m.drain(r); err != nil {
			return err
		}
		more, err := m.dispatch(r)
		if err != nil {
			return err
		}
		if !more && !m.reconcile(r) {
			m.rouse(r)
			return nil
		}
	}
	return core.Errorf(core.Internal, "the agreement of a room does not come to rest")
}

// rouse wakes a room that has work now.
func (m *Machine) rouse(r *room) {
	if m.awake[r.id] == nil && (m.working(r) || len(r.row.Open) > 0) {
		m.wake(r)
	}
}

// drain handles what raft has ready until there is no more.
func (m *Machine) drain(r *room) error {
	for range maxRounds {
		if r.node == nil || !r.node.HasReady() {
			return nil
		}
		var rd raft.Ready
		err := m.guard(r, func() error { rd = r.node.Ready(); return nil })
		if err == nil {
			err = m.ready(r, rd)
		}
		if err == nil && r.node != nil {
			err = m.guard(r, func() error { r.node.Advance(rd); return nil })
		}
		if err != nil && err != errFault {
			return err
		}
	}
	return core.Errorf(core.Internal, "raft does not come to rest")
}

// ready does what raft asks for, all in the transaction that runs (see the
// documentation of package raft, Usage).
func (m *Machine) ready(r *room, rd raft.Ready) error {
	if !raft.IsEmptySnap(rd.Snapshot) {
		if ok, err := m.restore(r, rd.Snapshot); err != nil || !ok {
			return err
		}
	}
	if rd.SoftState != nil {
		m.follow(r, rd.SoftState)
	}
	if !raft.IsEmptyHardState(rd.HardState) {
		h := rd.HardState
		r.row.Term, r.row.Vote, r.row.Commit = h.GetTerm(), h.GetVote(), h.GetCommit()
		m.touch(r)
	}
	if len(rd.Entries) > 0 {
		if err := m.append(r, rd.Entries); err != nil {
			return err
		}
	}
	for _, msg := range rd.Messages {
		if err := m.sendRaft(r, msg); err != nil {
			return err
		}
	}
	for _, e := range rd.CommittedEntries {
		if err := m.apply(r, e); err != nil || r.node == nil {
			return err
		}
	}
	if len(rd.CommittedEntries) > 0 {
		return m.compact(r)
	}
	return nil
}

// follow takes note of who leads. What others offered to a leader that is none
// any more they will offer again; so does this homeserver.
func (m *Machine) follow(r *room, s *raft.SoftState) {
	leads := s.RaftState == raft.StateLeader
	if leads && !r.leader {
		m.stats.Elections++
	}
	if leads != r.leader || s.Lead != 0 && s.Lead != r.row.Lead {
		m.release(r, s.Lead)
	}
	if leads && !r.leader { // there may be a configuration in what is not applied yet
		r.confIndex = r.row.Last
	}
	if r.leader && !leads && !r.row.member(m.self) {
		m.inquire(r) // so that somebody else takes over
	}
	if uneasy := s.Lead == 0 && (r.uneasy || r.leader); uneasy != r.uneasy { // who led may have left others behind
		r.uneasy = uneasy
		m.touch(r)
	}
	r.leader = leads
	if s.Lead != 0 && s.Lead != r.row.Lead {
		r.row.Lead = s.Lead
		m.touch(r)
	}
}

func (m *Machine) sendRaft(r *room, msg *pb.Message) error {
	to := r.names[msg.GetTo()]
	if to == "" {
		to = r.guests[msg.GetTo()]
	}
	if to == "" {
		return nil
	}
	b, err := marshal.Marshal(msg)
	if err != nil {
		return core.Errorf(core.Internal, "raft message: %w", err)
	}
	if msg.GetType() == pb.MsgSnap {
		if r.snapshots == nil {
			r.snapshots = map[uint64]uint64{}
		}
		r.snapshots[msg.GetTo()] = m.ticks
	}
	m.send(r, to, core.PeerRaft, b)
	return nil
}

// apply takes one entry that is agreed.
func (m *Machine) apply(r *room, e *pb.Entry) error {
	m.touch(r)
	switch {
	case e.GetType() == pb.EntryConfChangeV2:
		return m.applyConf(r, e)
	case e.GetType() != pb.EntryNormal || len(e.GetData()) == 0: // a new leader's first entry is empty
		r.row.Applied = e.GetIndex()
		return nil
	}
	m.stats.Decided++
	h, err := core.ParseHandshake(e.GetData())
	if err != nil || h.Room != r.id {
		r.row.Applied = e.GetIndex() // everybody passes over it alike
		return nil
	}
	err = m.decide(r, h, e.GetIndex())
	r.row.Applied = e.GetIndex()
	return err
}

// decide lets the engine apply a handshake that is agreed, at place index of the
// room's log (0: this homeserver decides alone), and answers who offered it here.
func (m *Machine) decide(r *room, h *core.Handshake, index uint64) error {
	id := h.ID()
	r.landed(id)
	if d, again := r.row.find(id); again {
		if r.take(m.cfg.Homeserver, id) != nil {
			m.accepted(r, id, d.Seq)
		}
		return nil
	}
	out, opened, err := m.cfg.Rooms.Decide(m.tx, m.now, h)
	if core.Broken(err) {
		return err
	}
	if err != nil {
		if o := r.take(m.cfg.Homeserver, id); o != nil {
			m.decision(r, id, o.epoch, err)
		}
		return nil
	}
	m.merge(out)
	var seq uint64
	switch {
	case opened != nil:
		seq = opened.Seq
		r.auth = opened.After
	case len(out.Events) > 0:
		seq = out.Events[0].Seq
	case out.Event != nil:
		seq = out.Event.Seq
	}
	r.row.remember(id, seq)
	m.touch(r)
	if r.take(m.cfg.Homeserver, id) != nil {
		m.accepted(r, id, seq)
	}
	if opened == nil {
		return nil
	}
	m.stats.Opened++
	r.nameAll()
	if err := m.opened(r, opened, index); err != nil {
		return err
	}
	m.stale(r)
	return m.begin(r)
}

// begin starts raft in a room that has got a second homeserver. Its log begins
// with the room as it is; the leader brings the others in (see reconcile).
func (m *Machine) begin(r *room) error {
	if r.hasRaft() || len(r.auth.Voters)+len(r.auth.Followers) < 2 {
		return nil
	}
	w := &r.row
	w.Term, w.Commit, w.Applied, w.First, w.Last = 1, 1, 1, 1, 1
	w.Runs, w.Voters, w.Names, w.Lead = []run{{From: 1, Term: 1}}, []uint64{m.self}, []string{m.cfg.Homeserver}, m.self
	m.touch(r)
	m.stir(r)
	if err := m.start(r); err != nil {
		return err
	}
	if err := m.guard(r, r.node.Campaign); err != nil {
		return err
	}
	return m.drain(r)
}
