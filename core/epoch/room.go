package epoch

import (
	"container/list"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/tracker"

	"github.com/isthmus-chat/isthmus/core"
)

// Times, in ticks of core.TickEvery.
const (
	electionTicks  = 10      // without a word from the leader, before an election; raft adds up to as many
	heartbeatTicks = 2       // between two words of a leader
	lingerTicks    = 5       // that a room stays awake after its work: the last commit index may get lost
	retryTicks     = 5       // before a handshake is sent again, to the leader or for an opinion,
	retryOctets    = 1 << 16 // and a tick more for so many octets: what is large takes time
	wantTicks      = 10      // between two questions for approvals
	snapshotTicks  = 50      // before a snapshot counts as lost
	leaveTicks     = 100     // that a homeserver which leaves is waited for, so that it learns why
	napAfter       = 300     // of work without progress: then the room rests,
	napFirst       = 50      // for this long at first, doubled each time
	napMost        = 600
	maxNaps        = 20  // before one that has left gives up
	proposeTicks   = 100 // before a handshake without outcome is given up (10 s)
)

// Times of rooms in which nothing happens.
const (
	idleTime  = 30 * time.Second // until a room that sleeps is let go of: the store has it
	sweepTime = 10 * time.Second // between two looks for such rooms
)

// A room is what a Machine holds of one room.
type room struct {
	id   core.RoomID
	key  string // core.RoomKey
	row  row
	auth core.Authority
	used *list.Element
	at   time.Time     // of its last use
	node *raft.RawNode // nil until it is needed

	dirty    bool
	leader   bool   // as raft last said
	linger   int    // ticks for which raft's clock still runs
	stuck    int    // ticks awake with something to do and no progress
	naps     int    // rests since there was progress
	napUntil uint64 // tick
	sign     uint64 // of progress
	gone     bool   // after this homeserver had left, nobody needed it or answered for long
	led      uint64 // 1 + tick of the last word of who leads, or claims to
	uneasy   bool   // somebody may have been left behind, and no leader was met since

	tail       tail                      // what the last entries hold,
	pushed     []int                     // leader: and those that raft was given since
	queue      []*offer                  // handshakes that wait for the log
	inLog      map[core.HandshakeID]bool // leader: appended and not applied yet
	commit     *core.HandshakeID         // leader: the commit among them
	heard      *offer                    // leader: the first of this epoch that needs the voters' opinion,
	heldTo     uint64                    // and until which tick other commits wait for it
	opinion    opinion                   // voter: the last that was asked for
	early      []signed                  // approvals of epochs that have not opened here
	guests     map[uint64]string         // members that a voter vouched for
	dismissed  map[string]bool           // those that decide and say that raft has let go of this homeserver
	chased     int                       // questions for approvals: whose turn it is
	asked      uint64                    // tick of the last question who the members are
	snapshots  map[uint64]uint64         // leader: when a peer was sent a snapshot
	wanted     uint64                    // leader: 1 + tick when one was wanted and its epoch not certified
	leaving    map[uint64]uint64         // leader: since when a peer waits for its removal
	confIndex  uint64                    // leader: of the configuration on its way
	redirects  int                       // since the last tick
	campaigned uint64                    // 1 + tick
	names      map[uint64]string         // of row.Names
}

// numbered is the key of the room's n-th entry or epoch.
func (r *room) numbered(n uint64) string { return numbered(r.key, n) }

func numbered(key string, n uint64) string { return fmt.Sprintf("%s/%016x", key, n) }

// room returns the room called id, loading it on first use; NotFound if the
// engine does not have it.
func (m *Machine) room(id core.RoomID) (*room, error) {
	if r := m.rooms[id]; r != nil {
		m.used.MoveToFront(r.used)
		r.at = m.now
		return r, nil
	}
	auth, err := m.cfg.Rooms.Authority(m.tx, id)
	if err != nil {
		return nil, err
	}
	r := &room{id: id, key: core.RoomKey(id), auth: auth}
	if err := m.load(r); err != nil {
		return nil, err
	}
	r.nameAll()
	m.hold(r)
	return r, nil
}

func (m *Machine) hold(r *room) {
	m.rooms[r.id], r.at = r, m.now
	r.used = m.used.PushFront(r)
}

// nameAll makes r.names from the row and the authority.
func (r *room) nameAll() {
	r.names = map[uint64]string{}
	for _, list := range [][]string{r.row.Names, r.auth.Voters, r.auth.Followers} {
		for _, d := range list {
			r.names[memberID(d)] = d
		}
	}
}

// evict lets go of rooms that are idle while there are too many in memory, and of
// those that have been idle for idleTime.
func (m *Machine) evict() {
	sweep := m.now.Sub(m.swept) >= sweepTime || m.now.Before(m.swept)
	if sweep {
		m.swept = m.now
	}
	for e := m.used.Back(); e != nil; {
		r, before := e.Value.(*room), e.Prev()
		if len(m.rooms) <= m.cfg.MaxResident && (!sweep || m.now.Sub(r.at) < idleTime) {
			return // those before it were used later
		}
		if m.awake[r.id] == nil {
			m.used.Remove(e)
			delete(m.rooms, r.id)
		}
		e = before
	}
}

// touch notes that r's row has changed.
func (m *Machine) touch(r *room) {
	if !r.dirty {
		r.dirty = true
		m.dirty = append(m.dirty, r)
	}
}

// hasRaft reports whether the room has a log: it had two homeservers once.
func (r *room) hasRaft() bool { return r.row.First > 0 }

// leads reports whether this homeserver is the room's leader.
func (r *room) leads() bool {
	return r.node != nil && r.leader
}

// start makes the raft node of a room from its row.
func (m *Machine) start(r *room) error {
	if r.node != nil {
		return nil
	}
	return m.guard(r, func() (err error) {
		r.node, err = raft.NewRawNode(&raft.Config{
			ID: m.self, Storage: storage{m, r}, Applied: r.row.Applied,
			ElectionTick: electionTicks, HeartbeatTick: heartbeatTicks, CheckQuorum: true, PreVote: true, StepDownOnRemoval: true,
			MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 16 << 20, MaxUncommittedEntriesSize: maxUnagreedBytes,
			MaxInflightMsgs: 64, MaxInflightBytes: 32 << 20, Logger: silent{}})
		return err
	})
}

// guard calls into raft. What a peer sends is checked before; should raft panic
// all the same, the node is dropped and continues from what is stored, as after a
// crash, and nobody else notices.
func (m *Machine) guard(r *room, f func() error) (err error) {
	defer func() {
		p := recover()
		if p == nil {
			return
		}
		r.node, r.leader, err = nil, false, errFault
		m.stats.Faults++
		if m.broken != nil {
			err = m.broken
		}
	}()
	return f()
}

// errFault says that raft panicked and the room's node was dropped.
var errFault = errors.New("epoch: raft fault")

// wake makes r take part in ticks.
func (m *Machine) wake(r *room) {
	r.napUntil = 0
	delete(m.naps, r.id)
	m.awake[r.id] = r
}

// stir wakes r and lets raft's clock run for a while.
func (m *Machine) stir(r *room) {
	m.wake(r)
	r.linger = lingerTicks
}

// wakeAll wakes the rooms that had something in flight when the last process
// ended, as many as may be awake; the others when there is room.
func (m *Machine) wakeAll() error {
	const page = 256
	for len(m.awake) < m.cfg.MaxAwake {
		list, err := m.tx.Values(bucketAwake, m.upTo, page)
		if err != nil {
			return err
		}
		for _, v := range list {
			m.upTo = v.Key
			r, err := m.room(core.RoomID(v.Data))
			if err == nil && r.hasRaft() {
				err = m.start(r)
			}
			switch {
			case err == errFault, err != nil && !core.Broken(err): // it is not here, or damaged
				continue
			case err != nil:
				return err
			}
			r.uneasy = r.row.Todo || r.row.Last > r.row.Commit
			m.wake(r)
		}
		if m.woken = len(list) < page; m.woken {
			return nil
		}
	}
	return nil
}

// tickRoom gives one room its turn: raft's clock, what is asked again, and rest.
func (m *Machine) tickRoom(r *room) error {
	delete(m.naps, r.id)
	m.giveUp(r)
	r.redirects = 0
	if m.working(r) {
		r.linger = lingerTicks
	} else {
		r.linger = max(r.linger-1, 0)
	}
	if r.linger > 0 && r.hasRaft() {
		if err := m.start(r); err != nil {
			return err
		}
		if err := m.guard(r, func() error { r.node.Tick(); return nil }); err != nil && err != errFault {
			return err
		}
		m.retrySnapshots(r)
	}
	if m.part(r) { // again, perhaps
		r.gone, r.dismissed = false, nil
	}
	if m.owes(r) && m.ticks%wantTicks == 0 && m.lost(r) {
		m.inquire(r)
	}
	if len(r.row.Open) > 0 && m.ticks%wantTicks == 0 {
		if err := m.chase(r); err != nil {
			return err
		}
	}
	if err := m.pump(r); err != nil {
		return err
	}
	m.rest(r)
	return nil
}

// rest puts r to sleep when there is nothing to do, and lets it nap when nothing
// helps: a peer that is away for a week is not spoken to ten times a second.
func (m *Machine) rest(r *room) {
	if r.linger == 0 && len(r.row.Open) == 0 && !m.working(r) {
		m.sleep(r)
		return
	}
	if s := r.progress(); s != r.sign {
		r.sign, r.stuck, r.naps = s, 0, 0
		return
	}
	if r.stuck++; r.stuck < napAfter || len(r.queue) > 0 {
		return
	}
	r.stuck = napAfter - electionTicks*2 - 1 // it tries that long between two naps
	m.naps[r.id] = r
	r.napUntil = m.ticks + uint64(min(napFirst<<min(r.naps, 8), napMost))
	if r.naps++; r.naps > maxNaps && !m.part(r) { // nobody there knows this homeserver any more
		r.row.Open, r.gone = nil, true
		m.touch(r)
	}
	m.forgetLeader(r)
}

func (m *Machine) sleep(r *room) {
	delete(m.awake, r.id)
	delete(m.naps, r.id)
	r.naps, r.stuck, r.early = 0, 0, nil
	if r.row.Awake { // peers may have caught up without a change of the row
		m.touch(r)
	}
	m.forgetLeader(r)
}

// forgetLeader makes a follower that sleeps ready to vote: a leader that nobody
// hears has no lease. Who it was is remembered in row.Lead.
func (m *Machine) forgetLeader(r *room) {
	if r.node != nil && !r.leads() {
		_ = m.guard(r, r.node.ForgetLeader) // a fault drops the node: that forgets too
	}
}

// progress changes when something moves in the room.
func (r *room) progress() uint64 {
	s := r.row.Term + r.row.Commit<<8 + r.row.Last<<16 + uint64(len(r.row.Open))<<48
	if r.leads() {
		r.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) { s = s*31 + p.Match })
	}
	return s
}

// working reports whether raft has something to do: entries that are not agreed
// yet, peers that lack some, a configuration that is not the room's.
func (m *Machine) working(r *room) bool {
	if len(r.queue) > 0 {
		return true
	}
	if r.leads() {
		return r.row.Last > r.row.Commit || m.leftToDo(r)
	}
	return m.owes(r) && (r.uneasy || r.row.Last > r.row.Commit || !r.row.member(m.self))
}

// owes reports whether the room's agreement is this homeserver's business: it is
// part of the room, or has still a vote that the others may need.
func (m *Machine) owes(r *room) bool {
	return r.hasRaft() && (m.part(r) || !r.gone && (slices.Contains(r.row.Voters, m.self) || slices.Contains(r.row.Outgoing, m.self)))
}

// leftToDo reports whether the leader waits for peers.
func (m *Machine) leftToDo(r *room) bool {
	behind := r.mismatch()
	r.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		behind = behind || id != m.self && p.Match < r.row.Last
	})
	return behind
}

// lost reports whether this homeserver may not know those that could tell it more: it has
// no vote to find a leader with, or raft may have let go of it while it was away.
func (m *Machine) lost(r *room) bool {
	return !r.row.member(m.self) || (r.uneasy || r.row.Last > r.row.Commit) && !(m.part(r) && slices.Contains(r.row.Voters, m.self))
}

// unfinished is what must be gone on with after a crash.
func (m *Machine) unfinished(r *room) bool {
	if r.leads() {
		r.row.Todo = m.leftToDo(r)
	} else if r.uneasy || r.row.Lead != m.self {
		r.row.Todo = r.uneasy
	}
	return len(r.row.Open) > 0 || r.row.Todo || m.owes(r) && (r.row.Last > r.row.Commit || !r.row.member(m.self))
}

// part reports whether this homeserver is part of the room's agreement.
func (m *Machine) part(r *room) bool {
	return slices.Contains(r.auth.Voters, m.cfg.Homeserver) || slices.Contains(r.auth.Followers, m.cfg.Homeserver)
}

// retrySnapshots tells raft of snapshots that have not been answered.
func (m *Machine) retrySnapshots(r *room) {
	if !r.leads() {
		r.snapshots = nil
		return
	}
	var lost []uint64
	r.node.WithProgress(func(id uint64, _ raft.ProgressType, p tracker.Progress) {
		if sent, ok := r.snapshots[id]; ok && p.State != tracker.StateSnapshot {
			delete(r.snapshots, id)
		} else if ok && m.ticks-sent >= snapshotTicks {
			lost = append(lost, id)
		}
	})
	for _, id := range lost {
		delete(r.snapshots, id)
		_ = m.guard(r, func() error { r.node.ReportSnapshot(id, raft.SnapshotFailure); return nil })
	}
}

// silent is raft's log: nobody reads it. A panic stays a panic, see guard.
type silent struct{}

var _ raft.Logger = silent{}

func (silent) Debug(...any)              {}
func (silent) Debugf(string, ...any)     {}
func (silent) Error(...any)              {}
func (silent) Errorf(string, ...any)     {}
func (silent) Info(...any)               {}
func (silent) Infof(string, ...any)      {}
func (silent) Warning(...any)            {}
func (silent) Warningf(string, ...any)   {}
func (silent) Fatal(v ...any)            { panic(fmt.Sprint(v...)) }
func (silent) Fatalf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
func (silent) Panic(v ...any)            { panic(fmt.Sprint(v...)) }
func (silent) Panicf(f string, v ...any) { panic(fmt.Sprintf(f, v...)) }
