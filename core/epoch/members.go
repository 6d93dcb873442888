package epoch

import (
	"slices"

	"github.com/fxamacker/cbor/v2"
	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-chat/isthmus/core"
)

// maxMembers bounds a room's configuration.
const maxMembers = 1024

// maxLag is by how many entries a homeserver may be behind when it gets its vote:
// one that has to be fetched first would count for the quorum and not answer.
const maxLag = 16

// mismatch reports whether raft's configuration is not what the group says.
func (r *room) mismatch() bool {
	w := &r.row
	if len(w.Outgoing) > 0 || len(w.Voters) != len(r.auth.Voters) || len(w.Learners) != len(r.auth.Followers) {
		return true
	}
	for _, d := range r.auth.Voters {
		if !slices.Contains(w.Voters, memberID(d)) {
			return true
		}
	}
	for _, d := range r.auth.Followers {
		if !slices.Contains(w.Learners, memberID(d)) {
			return true
		}
	}
	return false
}

// reconcile lets the leader take one step that brings raft's configuration to
// what the group says, and reports whether it took one: who is new follows first,
// and gets its vote when it has the log; who leaves is kept until it has the entry
// that says so, for it could not be told later.
func (m *Machine) reconcile(r *room) bool {
	w := &r.row
	if !r.leads() || len(w.Outgoing) > 0 || w.Applied != w.Last || !r.mismatch() {
		return false
	}
	cc := &pb.ConfChangeV2{}
	add := func(t pb.ConfChangeType, id uint64) {
		cc.Changes = append(cc.Changes, &pb.ConfChangeSingle{Type: &t, NodeId: &id})
	}
	var names []string
	for _, d := range slices.Concat(r.auth.Voters, r.auth.Followers) {
		if id := memberID(d); !w.member(id) {
			add(pb.ConfChangeAddLearnerNode, id)
			names = append(names, d)
		}
	}
	if len(cc.Changes) == 0 && m.promote(r, add) && len(w.Open) == 0 { // who leaves may have to approve first
		m.dismiss(r, add)
	}
	if len(cc.Changes) == 0 || len(w.Voters)+len(w.Learners)+len(cc.Changes) > maxMembers {
		return false
	}
	cc.Context, _ = cbor.Marshal(names) // strings
	r.confIndex = w.Last + 1
	return m.guard(r, func() error { return r.node.ProposeConfChange(cc) }) == nil
}

// promote gives new voters their vote, and reports whether all have it then.
func (m *Machine) promote(r *room, add func(pb.ConfChangeType, uint64)) bool {
	near := map[uint64]bool{}
	r.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		near[id] = id == m.self || p.State == tracker.StateReplicate && p.Match+maxLag >= r.row.Last
	})
	all := true
	for _, d := range r.auth.Voters {
		id := memberID(d)
		if slices.Contains(r.row.Voters, id) {
			continue
		}
		if near[id] {
			add(pb.ConfChangeAddNode, id)
		} else {
			all = false
		}
	}
	return all
}

// enough reports whether so many of the group's voters have the log that their
// approvals make a certificate. Otherwise a commit waits: a voter that it reached
// by snapshot only could not approve it. And it waits for the certificate of this
// epoch while a peer needs a snapshot of it.
func (m *Machine) enough(r *room) bool {
	has := 0
	voters := make(map[uint64]bool, len(r.auth.Voters))
	for _, d := range r.auth.Voters {
		voters[memberID(d)] = true
	}
	r.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		if voters[id] && (id == m.self || p.Match+maxLag >= r.row.Last && p.Match >= r.row.First) {
			has++
		}
	})
	if r.wanted > 0 && m.ticks+1-r.wanted <= retryTicks {
		return false
	}
	return has >= Quorum(len(voters), r.auth.Rule) && len(r.row.Open) < maxOpen
}

// dismiss takes the vote from those who only follow, and removes those who are
// not part of the room any more.
func (m *Machine) dismiss(r *room, add func(pb.ConfChangeType, uint64)) {
	match := map[uint64]uint64{}
	r.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) { match[id] = p.Match })
	stay := map[uint64]bool{}
	for _, d := range r.auth.Followers {
		stay[memberID(d)] = true
		if slices.Contains(r.row.Voters, memberID(d)) {
			add(pb.ConfChangeAddLearnerNode, memberID(d))
		}
	}
	for _, d := range r.auth.Voters {
		stay[memberID(d)] = true
	}
	for _, id := range slices.Concat(r.row.Voters, r.row.Learners) {
		if stay[id] {
			continue
		}
		if r.leaving == nil {
			r.leaving = map[uint64]uint64{}
		}
		if r.leaving[id] == 0 {
			r.leaving[id] = m.ticks + 1
		}
		waited := m.ticks + 1 - r.leaving[id]
		if id == m.self || match[id] >= r.row.Last && waited > heartbeatTicks || waited > leaveTicks {
			add(pb.ConfChangeRemoveNode, id)
			delete(r.leaving, id)
		}
	}
}

// applyConf takes up an agreed configuration. One that does not fit is passed
// over by everybody alike; raft would panic.
func (m *Machine) applyConf(r *room, e *pb.Entry) error {
	cc := new(pb.ConfChangeV2)
	var names []string
	next, err := tryConf(&r.row, e, cc)
	if err == nil && len(cc.GetContext()) > 0 {
		err = strict.Unmarshal(cc.GetContext(), &names)
	}
	r.row.Applied = e.GetIndex()
	if err != nil || len(names) > maxMembers {
		return nil
	}
	r.row.setConf(next)
	if len(r.row.Names)+len(names) > maxNames { // those who left longest ago are not known any more
		r.row.Names = slices.DeleteFunc(r.row.Names, func(d string) bool { return !r.row.member(memberID(d)) })
	}
	for _, d := range names {
		if !slices.Contains(r.row.Names, d) {
			r.row.Names = append(r.row.Names, d)
		}
	}
	r.nameAll()
	// Who led until it lost its vote may have left others behind.
	r.uneasy = r.uneasy || slices.Contains(r.row.Voters, m.self) && !slices.Contains(r.row.Voters, r.row.Lead)
	return m.guard(r, func() error { r.node.ApplyConfChange(cc); return nil })
}

// tryConf works out the configuration after e.
func tryConf(w *row, e *pb.Entry, cc *pb.ConfChangeV2) (*pb.ConfState, error) {
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return nil, core.Errorf(core.Invalid, "configuration: %w", err)
	}
	if t := cc.GetTransition(); t < pb.ConfChangeTransitionAuto || t > pb.ConfChangeTransitionJointExplicit || len(cc.GetChanges()) > maxMembers {
		return nil, core.Errorf(core.Invalid, "configuration")
	}
	c := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: w.Last}
	cfg, peers, err := confchange.Restore(c, w.conf())
	if err != nil {
		return nil, err
	}
	c.Tracker.Config, c.Tracker.Progress = cfg, peers
	if cc.LeaveJoint() {
		cfg, _, err = c.LeaveJoint()
	} else if auto, ok := cc.EnterJoint(); ok {
		cfg, _, err = c.EnterJoint(auto, cc.GetChanges()...)
	} else {
		cfg, _, err = c.Simple(cc.GetChanges()...)
	}
	if err != nil {
		return nil, err
	}
	c.Tracker.Config = cfg
	return c.Tracker.ConfState(), nil
}

// checkConf says whether raft can take up a configuration that a peer sent.
func checkConf(cs *pb.ConfState) bool {
	if cs == nil || len(cs.GetVoters()) == 0 || len(cs.GetVoters())+len(cs.GetLearners())+len(cs.GetVotersOutgoing())+len(cs.GetLearnersNext()) > 2*maxMembers {
		return false
	}
	c := confchange.Changer{Tracker: tracker.MakeProgressTracker(1, 0), LastIndex: 1}
	cfg, _, err := confchange.Restore(c, cs)
	if err != nil {
		return false
	}
	c.Tracker.Config = cfg
	return cs.Equivalent(c.Tracker.ConfState()) == nil
}
