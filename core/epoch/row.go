package epoch

import (
	"cmp"
	"slices"

	"github.com/fxamacker/cbor/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-chat/isthmus/core"
)

// The buckets of this package; nobody else writes them.
const (
	bucketRows   = "epoch"              // room -> row
	bucketLog    = "epoch log"          // room/index -> raft entry
	bucketAwake  = "epoch awake"        // rooms with something in flight -> room ID
	bucketCerts  = "epoch certificates" // room/epoch -> certRow
	bucketTurns  = "epoch turns"        // room -> epochs that changed who decides
	bucketProofs = "proofs"             // room/epoch/member -> Proof
)

// maxRecent is how many decided handshakes a room remembers, so that a second
// entry with one is passed over: those that can be on their way at a time.
const maxRecent = 64

// A row is what one room's agreement remembers besides its log.
type row struct {
	_                     struct{} `cbor:",toarray"`
	Room                  core.RoomID
	Term, Vote, Commit    uint64 // raft's hard state
	Applied               uint64
	First, Last           uint64 // the log holds the entries after First; 0 = there is no raft
	Runs                  []run  // terms of First..Last, rising
	Size                  uint64 // octets of the log
	Voters, Learners      []uint64
	Outgoing, NextLearner []uint64 // of a joint configuration
	AutoLeave             bool
	Names                 []string // domains of everybody who is or was in the configuration
	Lead                  uint64   // who led last
	Recent                []decided
	Open                  []opening // epochs whose certificate is not complete
	Awake                 bool      // this room is in bucketAwake
	Todo                  bool      // there was something left to do for a leader
}

// A run is a stretch of entries of one term.
type run struct {
	_          struct{} `cbor:",toarray"`
	From, Term uint64
}

// An opening is an epoch that was opened by entry Index, and is not certified.
type opening struct {
	_            struct{} `cbor:",toarray"`
	Epoch, Index uint64
}

// decided remembers an accepted handshake.
type decided struct {
	_   struct{} `cbor:",toarray"`
	ID  [16]byte // of the Handshake.ID
	Seq uint64   // of its event here; 0 = decided before this homeserver came
}

func (w *row) find(id core.HandshakeID) (decided, bool) {
	for _, d := range w.Recent {
		if d.ID == [16]byte(id[:16]) {
			return d, true
		}
	}
	return decided{}, false
}

func (w *row) remember(id core.HandshakeID, seq uint64) {
	if len(w.Recent) >= maxRecent {
		w.Recent = slices.Delete(w.Recent, 0, len(w.Recent)-maxRecent+1)
	}
	w.Recent = append(w.Recent, decided{ID: [16]byte(id[:16]), Seq: seq})
}

// term returns the term of entry i, First <= i <= Last.
func (w *row) term(i uint64) uint64 {
	n, exact := slices.BinarySearchFunc(w.Runs, i, func(r run, i uint64) int { return cmp.Compare(r.From, i) })
	switch {
	case exact:
		return w.Runs[n].Term
	case n > 0:
		return w.Runs[n-1].Term
	}
	return 0
}

func (w *row) conf() *pb.ConfState {
	return &pb.ConfState{Voters: w.Voters, Learners: w.Learners, VotersOutgoing: w.Outgoing, LearnersNext: w.NextLearner, AutoLeave: &w.AutoLeave}
}

func (w *row) setConf(c *pb.ConfState) {
	w.Voters, w.Learners, w.Outgoing, w.NextLearner, w.AutoLeave =
		c.GetVoters(), c.GetLearners(), c.GetVotersOutgoing(), c.GetLearnersNext(), c.GetAutoLeave()
}

// member reports whether id is in the configuration.
func (w *row) member(id uint64) bool {
	return w.votes(id) || slices.Contains(w.Learners, id)
}

// votes reports whether id has a vote in the configuration.
func (w *row) votes(id uint64) bool {
	return slices.Contains(w.Voters, id) || slices.Contains(w.Outgoing, id)
}

// A storage is a room's log as raft reads it: from the transaction that runs.
type storage struct {
	m *Machine
	r *room
}

var _ raft.Storage = storage{}

func (s storage) InitialState() (*pb.HardState, *pb.ConfState, error) {
	w := &s.r.row
	return &pb.HardState{Term: new(w.Term), Vote: new(w.Vote), Commit: new(w.Commit)}, w.conf(), nil
}

func (s storage) FirstIndex() (uint64, error) { return s.r.row.First + 1, nil }
func (s storage) LastIndex() (uint64, error)  { return s.r.row.Last, nil }

func (s storage) Term(i uint64) (uint64, error) {
	switch w := &s.r.row; {
	case i < w.First:
		return 0, raft.ErrCompacted
	case i > w.Last:
		return 0, raft.ErrUnavailable
	default:
		return w.term(i), nil
	}
}

func (s storage) Entries(lo, hi, maxSize uint64) ([]*pb.Entry, error) {
	if lo <= s.r.row.First {
		return nil, raft.ErrCompacted
	}
	if hi > s.r.row.Last+1 {
		return nil, raft.ErrUnavailable
	}
	var out []*pb.Entry
	for i, size := lo, uint64(0); i < hi; i++ {
		e, n, err := s.m.entry(s.r, i)
		if err != nil {
			return nil, s.fail(err)
		}
		if size += uint64(n); len(out) > 0 && size > maxSize {
			break
		}
		out = append(out, e)
	}
	return out, nil
}

// entry reads an entry of r's log, and how many octets it takes there.
func (m *Machine) entry(r *room, i uint64) (e *pb.Entry, octets int, err error) {
	b, err := m.tx.Value(bucketLog, r.numbered(i))
	if err != nil {
		return nil, 0, err
	}
	e = new(pb.Entry)
	return e, len(b), proto.Unmarshal(b, e)
}

// Snapshot makes one of the room as it is: raft asks for one only when a peer is
// too far behind.
func (s storage) Snapshot() (*pb.Snapshot, error) {
	w := &s.r.row
	data, err := s.m.snapshot(s.r)
	if err == raft.ErrSnapshotTemporarilyUnavailable {
		return nil, err
	}
	if err != nil {
		return nil, s.fail(err)
	}
	return &pb.Snapshot{Data: data, Metadata: &pb.SnapshotMetadata{
		ConfState: proto.Clone(w.conf()).(*pb.ConfState), Index: new(w.Applied), Term: new(w.term(w.Applied))}}, nil
}

// fail keeps an error of the store: raft answers it with a panic.
func (s storage) fail(err error) error {
	s.m.broken = core.Errorf(core.Internal, "log of the agreement: %w", err)
	return err
}

// append writes entries that follow entry es[0].Index-1, in place of what was there.
func (m *Machine) append(r *room, es []*pb.Entry) error {
	w := &r.row
	from := es[0].GetIndex()
	if from <= w.First || from > w.Last+1 {
		return core.Errorf(core.Internal, "the log of the agreement has a gap")
	}
	if err := m.drop(r, from, w.Last); err != nil {
		return err
	}
	w.Runs = slices.DeleteFunc(w.Runs, func(t run) bool { return t.From >= from })
	for _, e := range es {
		if e.GetTerm() != w.Runs[len(w.Runs)-1].Term {
			w.Runs = append(w.Runs, run{From: e.GetIndex(), Term: e.GetTerm()})
		}
		b, err := marshal.Marshal(e)
		if err != nil {
			return core.Errorf(core.Internal, "entry: %w", err)
		}
		if err := m.tx.PutValue(bucketLog, r.numbered(e.GetIndex()), b); err != nil {
			return err
		}
		w.Size += uint64(len(b))
	}
	w.Last = es[len(es)-1].GetIndex()
	r.tail.add(es)
	r.pushed = nil
	m.touch(r)
	return nil
}

// drop removes the entries from..to from the store.
func (m *Machine) drop(r *room, from, to uint64) error {
	for i := from; i <= to; i++ {
		b, err := m.tx.Value(bucketLog, r.numbered(i))
		if err != nil {
			return err
		}
		r.row.Size -= uint64(len(b))
		if err := m.tx.DropValue(bucketLog, r.numbered(i)); err != nil {
			return err
		}
	}
	return nil
}

// compact forgets the older half of the log when it is longer than its bounds.
// While an epoch is not certified it waits, to four times these: a peer that skips
// the epoch by a snapshot could not approve it.
func (m *Machine) compact(r *room) error {
	w := &r.row
	n := w.Applied - w.First
	if n <= uint64(m.cfg.MaxEntries) && (w.Size <= uint64(m.cfg.MaxLog) || n < 2) {
		return nil
	}
	if len(w.Open) > 0 && n < 4*uint64(m.cfg.MaxEntries) && w.Size < 4*uint64(m.cfg.MaxLog) {
		return nil
	}
	return m.cut(r, w.First+n/2)
}

// cut forgets the entries up to and including to.
func (m *Machine) cut(r *room, to uint64) error {
	w := &r.row
	if err := m.drop(r, w.First+1, to); err != nil {
		return err
	}
	term := w.term(to)
	w.Runs = slices.DeleteFunc(w.Runs, func(t run) bool { return t.From <= to })
	w.Runs = slices.Insert(w.Runs, 0, run{From: to, Term: term})
	w.First = to
	m.touch(r)
	return nil
}

// marshal makes the same octets of the same message.
var marshal = proto.MarshalOptions{Deterministic: true}

// save writes r's row, and keeps the list of rooms that are awake.
func (m *Machine) save(r *room) error {
	if busy := m.unfinished(r); busy != r.row.Awake {
		r.row.Awake = busy
		var err error
		if busy {
			err = m.tx.PutValue(bucketAwake, r.key, []byte(r.id))
		} else {
			err = m.tx.DropValue(bucketAwake, r.key)
		}
		if err != nil {
			return err
		}
	}
	b, err := cbor.Marshal(&r.row)
	if err != nil {
		return core.Errorf(core.Internal, "agreement: %w", err)
	}
	return m.tx.PutValue(bucketRows, r.key, b)
}

// load reads r's row; a room without one has no raft.
func (m *Machine) load(r *room) error {
	b, err := m.tx.Value(bucketRows, r.key)
	if absent(err) {
		r.row.Room = r.id
		return nil
	}
	if err != nil {
		return err
	}
	err = cbor.Unmarshal(b, &r.row)
	if w := &r.row; err == nil && (w.Room != r.id || w.First > 0 && (len(w.Runs) == 0 || w.Runs[0].From != w.First ||
		w.Applied < w.First || w.Commit < w.Applied || w.Last < w.Commit)) {
		err = errDamaged
	}
	if err != nil {
		m.stats.Faults++
		return errDamaged
	}
	return m.shorten(r)
}

// errDamaged refuses what is for a room whose stored state does not fit together:
// the other rooms go on.
var errDamaged = core.Errorf(core.Conflict, "the agreement of that room cannot go on here")

func absent(err error) bool { return core.CodeOf(err) == core.NotFound }
