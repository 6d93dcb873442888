package epoch

import (
	"bytes"
	"slices"

	"github.com/fxamacker/cbor/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-chat/isthmus/core"
)

// A groupSnapshot is what a room's leader sends to a homeserver that its log does
// not reach.
type groupSnapshot struct {
	_      struct{} `cbor:",toarray"`
	Names  []string
	Recent []decided // without their places, which are each homeserver's own
	Group  []byte    // as the engine has it
	Certs  []certRow // of the newest epochs, and of those that changed who decides; without their places
	Tail   [][]byte  // the entries up to the snapshot's, so that the new one can hand them on
}

// Bounds of a snapshot.
const (
	maxSnapshot      = 64 << 20 // octets; a tree of 50,000 post-quantum devices has 60 MB
	maxNames         = 1 << 12
	maxSnapshotCerts = maxNewest + maxTurns
	maxNewest        = 16
	maxTurns         = 48 // epochs that changed who decides, of which a room knows
	maxTail          = 4 * maxLag
	maxTailBytes     = 8 << 20
)

// snapshot makes one of the room as it is. While its newest epoch is not certified
// nobody else would take it (see believe), so raft asks again and commits wait.
func (m *Machine) snapshot(r *room) ([]byte, error) {
	newest, err := readCert(m.tx, r.numbered(r.auth.Epoch))
	switch {
	case err == nil && !newest.complete():
		r.wanted = m.ticks + 1
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	case err != nil && !absent(err):
		return nil, err
	}
	s := groupSnapshot{Names: r.row.Names}
	for _, d := range r.row.Recent {
		s.Recent = append(s.Recent, decided{ID: d.ID})
	}
	if s.Group, err = m.cfg.Rooms.SnapshotGroup(m.tx, r.id); err != nil {
		return nil, err
	}
	if s.Certs, err = m.certs(r); err != nil {
		return nil, err
	}
	for i, size := r.row.Applied, 0; i > r.row.First && len(s.Tail) < maxTail; i-- {
		b, err := m.tx.Value(bucketLog, r.numbered(i))
		if err != nil {
			return nil, err
		}
		if size += len(b); size > maxTailBytes {
			break
		}
		s.Tail = append(s.Tail, b)
	}
	slices.Reverse(s.Tail)
	return cbor.Marshal(&s)
}

// certs are the certificates that lead somebody who was away to the newest epoch.
func (m *Machine) certs(r *room) (list []certRow, err error) {
	epochs, err := turns(m.tx, r.key)
	if err != nil {
		return nil, err
	}
	for i := range uint64(min(maxNewest, r.auth.Epoch)) {
		if e := r.auth.Epoch - i; !slices.Contains(epochs, e) {
			epochs = append(epochs, e)
		}
	}
	for _, e := range epochs {
		c, err := readCert(m.tx, r.numbered(e))
		if absent(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		c.Seq, c.Strays, c.Judged = 0, nil, judgedNever
		list = append(list, *c)
	}
	return list, nil
}

// turns lists the epochs of a room that changed who decides, rising.
func turns(r core.Reader, key string) (epochs []uint64, err error) {
	b, err := r.Value(bucketTurns, key)
	if absent(err) {
		return nil, nil
	}
	if err == nil {
		err = cbor.Unmarshal(b, &epochs)
	}
	return epochs, err
}

// turn remembers c if it changed who decides, and says so.
func (m *Machine) turn(r *room, c *certRow) error {
	if c.Facts.Rule == c.Rule && slices.Equal(c.Facts.Voters, c.Voters) {
		return nil
	}
	epochs, err := turns(m.tx, r.key)
	at, known := slices.BinarySearch(epochs, c.Facts.Epoch)
	if err != nil || known {
		return err
	}
	epochs = slices.Insert(epochs, at, c.Facts.Epoch)
	b, _ := cbor.Marshal(epochs[max(0, len(epochs)-maxTurns):]) // numbers
	return m.tx.PutValue(bucketTurns, r.key, b)
}

// tail reads the entries that come with a snapshot: they lead to its last one.
func (s *groupSnapshot) tail(meta *pb.SnapshotMetadata) ([]*pb.Entry, bool) {
	var out []*pb.Entry
	for i, b := range s.Tail {
		e := new(pb.Entry)
		if err := proto.Unmarshal(b, e); err != nil || e.GetIndex() != meta.GetIndex()-uint64(len(s.Tail)-1-i) ||
			i > 0 && e.GetTerm() < out[i-1].GetTerm() || len(e.GetData()) > maxOffer {
			return nil, false
		}
		out = append(out, e)
	}
	n := len(out)
	return out, len(s.Tail) <= maxTail && (n == 0 || out[n-1].GetTerm() == meta.GetTerm() && out[0].GetIndex() > 1)
}

// restore takes up a room from a snapshot. false: it was refused; the node is
// dropped, and is what it was before when it is next needed.
func (m *Machine) restore(r *room, snap *pb.Snapshot) (bool, error) {
	refuse := func() (bool, error) {
		m.stats.Ignored++
		r.node, r.leader = nil, false
		return false, nil
	}
	var s groupSnapshot
	if err := strict.Unmarshal(snap.GetData(), &s); err != nil || len(s.Names) > maxNames || len(s.Certs) > maxSnapshotCerts || len(s.Recent) > maxRecent {
		return refuse()
	}
	meta := snap.GetMetadata()
	tail, ok := s.tail(meta)
	if !ok {
		return refuse()
	}
	known := len(r.auth.Voters) > 0
	var certs []*certRow
	out, err := m.cfg.Rooms.RestoreGroup(m.tx, m.now, r.id, s.Group, func(after core.Authority, transcript, tree []byte) (err error) {
		if certs, err = m.believe(r, s.Certs); err != nil {
			return err
		}
		var f Approval
		if n := len(certs); n > 0 {
			f = certs[n-1].Facts
		}
		// The hashes do not cover who decides: a device could have signed another GroupInfo.
		if f.Epoch != after.Epoch || f.Rule != after.Rule || !slices.Equal(f.Voters, after.Voters) || !bytes.Equal(f.Transcript, transcript) || !bytes.Equal(f.Tree, tree) {
			return core.Errorf(core.Denied, "a state of the room that is not certified by those who decide")
		}
		return nil
	})
	if core.Broken(err) {
		return false, err
	}
	if err != nil {
		return refuse()
	}
	m.merge(out)
	if r.auth, err = m.cfg.Rooms.Authority(m.tx, r.id); err != nil {
		return false, core.Errorf(core.Internal, "restored room: %w", err)
	}
	if err := m.relocate(r, &s, meta, tail); err != nil {
		return false, err
	}
	if !known { // who decides says the sender, as it says the rest
		for i := range s.Certs {
			certs = append(certs, &s.Certs[i])
		}
	}
	for _, c := range certs {
		if err := m.adopt(r, c); err != nil {
			return false, err
		}
	}
	m.stale(r)
	return true, nil
}

// relocate begins r's log anew at a snapshot.
func (m *Machine) relocate(r *room, s *groupSnapshot, meta *pb.SnapshotMetadata, tail []*pb.Entry) error {
	w := &r.row
	if w.First > 0 {
		if err := m.drop(r, w.First+1, w.Last); err != nil {
			return err
		}
	}
	first, term := meta.GetIndex(), meta.GetTerm()
	if len(tail) > 0 { // of the oldest only the term is of use: entries follow it
		first, term, tail = tail[0].GetIndex(), tail[0].GetTerm(), tail[1:]
	}
	w.First, w.Last, w.Applied, w.Commit, w.Size = first, first, meta.GetIndex(), meta.GetIndex(), 0
	w.Runs, w.Names, w.Recent = []run{{From: first, Term: term}}, s.Names, s.Recent
	w.setConf(meta.GetConfState())
	if len(tail) > 0 {
		if err := m.append(r, tail); err != nil {
			return err
		}
	}
	r.nameAll()
	r.guests = nil
	m.touch(r)
	return nil
}
