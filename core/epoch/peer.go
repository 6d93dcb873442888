package epoch

import (
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of what a peer may send.
const (
	maxMessages = 4096                // of one input
	maxRaft     = maxSnapshot + 1<<20 // octets of one raft message
	maxOffer    = core.MaxHandshake + 1<<10
	maxEntries  = 4096    // of one append
	maxTermStep = 1 << 20 // by which a term may be ahead of ours
	maxJump     = 1 << 32 // by which an index may be: no log grows by so much while a homeserver is away
	maxIndex    = 1 << 60
)

// strayRate is for how many rooms a homeserver that was never part of them may have
// us look, and ask the others whether it has come.
var strayRate = core.Meter{Burst: 50, Every: time.Second / 5}

// termRate is for messages of higher terms from a homeserver that votes: each deposes the
// leader, and has this one wait for somebody who may not lead at all. An honest one is
// elected in few terms, but says on whatever term a liar said to it, and the election after
// that: it needs a few for each that others get who have no vote, see upstartRate.
var termRate = core.Meter{Burst: 16, Every: 5 * time.Second}

// upstartRate is the same for who has no vote as far as is known here. Who came to a vote
// while this homeserver was away needs one for each term in which it leads.
var upstartRate = core.Meter{Burst: 8, Every: time.Minute}

// claimRate is for appends and snapshots of who has no vote as far as is known here: while
// they come nobody else is elected. An honest one has it soon, by what they say.
var claimRate = core.Meter{Burst: 64, Every: 5 * time.Second}

// strict bounds what a peer may make the decoder build.
var strict = core.StrictCBOR(8, 1<<13, 16)

// receive takes what another homeserver's agreement says. What no honest one says
// is passed over; only a failure of ours is an error.
func (m *Machine) receive(in core.PeerMessages) error {
	if in.From == "" || in.From == m.cfg.Homeserver {
		return core.Errorf(core.Invalid, "messages of another homeserver come from one")
	}
	if len(in.Messages) > maxMessages {
		return core.Errorf(core.TooLarge, "more than %d messages at once", maxMessages)
	}
	from := memberID(in.From)
	for id, r := range m.naps { // it is there again: rooms that wait for it go on
		if r.row.member(from) {
			r.napUntil = 0
			delete(m.naps, id)
		}
	}
	for _, msg := range in.Messages {
		if err := m.message(in.From, msg); err != nil && err != errFault {
			return err
		}
	}
	return nil
}

func (m *Machine) message(from string, msg core.PeerMessage) error {
	if stray, err := m.stray(from, msg.Room); err != nil {
		return err
	} else if stray && m.strays.Take(core.HostOf(from), 1, m.now) > 0 {
		m.stats.Ignored++
		return nil
	}
	r, err := m.room(msg.Room)
	switch {
	case absent(err) || err == nil && !r.hasRaft() && !m.alone(r):
		if msg.Kind == core.PeerRaft {
			return m.stranger(from, msg)
		}
		return nil
	case core.Broken(err):
		return err
	case err != nil:
		m.stats.Ignored++
		return nil
	case !r.hasRaft():
		m.stats.Ignored++
		return nil
	}
	member := m.member(r, memberID(from))
	if member || slices.Contains(r.row.Names, from) { // who left may still ask for approvals, and give them
		switch msg.Kind {
		case core.PeerApproval:
			return m.approved(r, from, msg.Body)
		case core.PeerWant:
			return m.wanted(r, from, msg.Body)
		case core.PeerCertificate:
			return m.certified(r, msg.Body)
		case core.PeerMembers:
			return m.members(r, from, msg.Body)
		}
	}
	if !member {
		m.unknown(r, from, msg)
		return nil
	}
	switch msg.Kind {
	case core.PeerRaft:
		return m.raftMessage(r, from, msg.Body)
	case core.PeerRefused:
		return m.refused(r, from, msg.Body)
	case core.PeerAsk:
		return m.questioned(r, from, msg.Body)
	case core.PeerOpinion:
		return m.answered(r, from, msg.Body)
	}
	m.stats.Ignored++
	return nil
}

// alone reports whether this homeserver decides in r and nobody follows.
func (m *Machine) alone(r *room) bool {
	return len(r.auth.Followers) == 0 && len(r.auth.Voters) == 1 && r.auth.Voters[0] == m.cfg.Homeserver
}

// member reports whether the homeserver called id may speak in r's agreement.
func (m *Machine) member(r *room, id uint64) bool {
	if r.row.member(id) || r.guests[id] != "" {
		return true
	}
	is := func(d string) bool { return memberID(d) == id }
	return slices.ContainsFunc(r.auth.Voters, is) || slices.ContainsFunc(r.auth.Followers, is)
}

// unknown passes over what somebody says who is not part of r as far as is known
// here. It may be one who came while this homeserver was away: a voter can tell.
func (m *Machine) unknown(r *room, from string, msg core.PeerMessage) {
	m.stats.Ignored++
	if msg.Kind != core.PeerRaft {
		return
	}
	due := r.asked == 0 || m.ticks+1-r.asked >= wantTicks
	if !due && m.awake[r.id] != nil || m.strays.Take(core.HostOf(from), 1, m.now) > 0 {
		return
	}
	m.wake(r) // so that time passes, and it can be asked again
	if due {
		m.inquire(r)
	}
}

// stray reports whether a message is for a room that has to be fetched from the store,
// from somebody who was never part of its agreement: anybody may know its name.
func (m *Machine) stray(from string, id core.RoomID) (bool, error) {
	if m.rooms[id] != nil {
		return false, nil
	}
	b, err := m.tx.Value(bucketRows, core.RoomKey(id))
	if absent(err) { // one that is decided here alone hears nobody
		if _, err = m.tx.Room(id); absent(err) {
			return false, nil
		}
		return err == nil, err
	}
	var w row
	return err == nil && cbor.Unmarshal(b, &w) == nil && !slices.Contains(w.Names, from), err
}

// inquire asks the voters who takes part, and those that decide now.
func (m *Machine) inquire(r *room) {
	r.asked = m.ticks + 1
	for _, id := range r.row.Voters {
		if id != m.self {
			m.send(r, r.names[id], core.PeerMembers, nil)
		}
	}
	for _, d := range r.auth.Voters {
		if d != m.cfg.Homeserver && !slices.Contains(r.row.Voters, memberID(d)) {
			m.send(r, d, core.PeerMembers, nil)
		}
	}
}

// A membership is the body of core.PeerMembers: who takes part in a room's raft, as far as
// the entries up to an epoch say.
type membership struct {
	_     struct{} `cbor:",toarray"`
	Epoch uint64
	Names []string
}

// members tells who takes part, or learns it: a homeserver that was away may not
// know who leads now, but it knows a voter that does.
func (m *Machine) members(r *room, from string, body []byte) error {
	if len(body) == 0 {
		now := membership{Epoch: r.auth.Epoch}
		for _, id := range slices.Concat(r.row.Voters, r.row.Learners, r.row.Outgoing) {
			if d := r.names[id]; !slices.Contains(now.Names, d) {
				now.Names = append(now.Names, d)
			}
		}
		b, err := cbor.Marshal(&now)
		if err != nil {
			return core.Errorf(core.Internal, "members: %w", err)
		}
		m.send(r, from, core.PeerMembers, b)
		return m.takeOver(r, memberID(from))
	}
	var now membership
	decides := slices.Contains(r.auth.Voters, from)
	if err := strict.Unmarshal(body, &now); err != nil || len(now.Names) > maxMembers || r.asked == 0 || !decides && !slices.Contains(r.row.Voters, memberID(from)) {
		m.stats.Ignored++
		return nil
	}
	if decides && !m.part(r) && now.Epoch >= r.auth.Epoch && !slices.Contains(now.Names, m.cfg.Homeserver) {
		m.letGo(r, from)
	}
	r.guests = map[uint64]string{}
	for _, d := range now.Names {
		r.guests[memberID(d)] = d
	}
	m.wake(r)
	return nil
}

// letGo notes that by, which knows that this homeserver has left, has a configuration
// without it. If those who decide say so, nobody needs its vote any more.
func (m *Machine) letGo(r *room, by string) {
	if r.dismissed == nil {
		r.dismissed = map[string]bool{}
	}
	r.dismissed[by] = true
	if len(r.dismissed) >= Quorum(len(r.auth.Voters), r.auth.Rule) {
		r.gone = true
		m.touch(r)
	}
}

// takeOver makes sure that somebody brings raft's configuration to what the group
// says when from, who led or should take part, asks why nobody does, and that a
// follower hears how far the log is agreed.
func (m *Machine) takeOver(r *room, from uint64) error {
	switch {
	case !slices.Contains(r.row.Voters, m.self), !r.row.member(from) && from != r.row.Lead && !r.mismatch():
		m.rouse(r)
		return nil
	case r.leads(): // its next heartbeats say how far the log is agreed
		m.stir(r)
		return nil
	}
	if err := m.start(r); err != nil {
		return err
	}
	if r.lead() == from {
		m.forgetLeader(r)
	}
	r.uneasy = r.lead() == 0
	m.stir(r)
	return m.pump(r)
}

// raftMessage gives a peer's raft message to the room's node.
func (m *Machine) raftMessage(r *room, from string, body []byte) error {
	msg := m.parse(from, body)
	sound := msg != nil && plausible(&r.row, msg)
	if sound && vain(&r.row, msg) {
		return m.alive(r, from, msg)
	}
	if !sound || m.deposes(r, from, msg) {
		m.stats.Ignored++
		if msg != nil && misled(&r.row, msg) {
			return m.reject(r, from, msg)
		}
		return nil
	}
	if done, err := m.astray(r, from, msg); err != nil || done {
		return err
	}
	if err := m.start(r); err != nil {
		return err
	}
	switch msg.GetType() {
	case pb.MsgProp:
		if err := m.offered(r, from, msg); err != nil {
			return err
		}
		return m.pump(r)
	case pb.MsgApp, pb.MsgHeartbeat, pb.MsgSnap:
		r.led = m.ticks + 1
	case pb.MsgVote, pb.MsgPreVote:
		m.stir(r) // who asks for votes does not hear a leader: if that is us, it will
		if done, err := m.yields(r, msg); err != nil || done {
			return err
		}
	}
	if msg.GetType() == pb.MsgApp {
		if err := m.fit(r, from, msg); err != nil {
			return err
		}
	}
	err := m.step(r, msg)
	if m.awake[r.id] == nil {
		m.forgetLeader(r) // it came late
	}
	return err
}

// deposes reports whether msg would depose the leader, or claim to be one, more often than
// its sender may. Pre-votes depose nobody, nor do the answers to them that grant one.
func (m *Machine) deposes(r *room, from string, msg *pb.Message) bool {
	key, kind, rate := r.key+"/"+core.HostOf(from), msg.GetType(), &m.terms
	if !r.row.votes(msg.GetFrom()) {
		rate = &m.upstarts
		if (kind == pb.MsgApp || kind == pb.MsgSnap) && msg.GetTerm() >= r.row.Term && m.claims.Take(key, 1, m.now) > 0 {
			return true
		}
	}
	if msg.GetTerm() <= r.row.Term || kind == pb.MsgPreVote || kind == pb.MsgPreVoteResp && !msg.GetReject() {
		return false
	}
	return rate.Take(key, 1, m.now) > 0
}

// vain reports whether msg says only that somebody leads who has no vote as far as is known
// here: who believed it would elect nobody. Should it be true, appends come too.
func vain(w *row, msg *pb.Message) bool {
	return msg.GetType() == pb.MsgHeartbeat && msg.GetTerm() >= w.Term && msg.GetCommit() <= w.Commit && !w.votes(msg.GetFrom())
}

// alive answers a heartbeat as who is behind does: the leader sends an append.
func (m *Machine) alive(r *room, from string, msg *pb.Message) error {
	return m.answer(r, from, &pb.Message{Type: pb.MsgHeartbeatResp.Enum(), From: new(m.self), To: msg.From, Term: msg.Term})
}

// answer says msg in raft's place.
func (m *Machine) answer(r *room, to string, msg *pb.Message) error {
	b, err := marshal.Marshal(msg)
	if err != nil {
		return core.Errorf(core.Internal, "raft message: %w", err)
	}
	m.send(r, to, core.PeerRaft, b)
	return nil
}

func (m *Machine) step(r *room, msg *pb.Message) error {
	err := m.guard(r, func() error {
		_ = r.node.Step(msg) // what raft refuses it passes over
		return nil
	})
	if err != nil {
		return err
	}
	return m.pump(r)
}

// stranger answers raft messages for a room that is not here. A leader that asks
// how far the log got hears that there is none, and sends a snapshot; that makes
// the room. Nothing else is said or kept.
func (m *Machine) stranger(from string, in core.PeerMessage) error {
	msg := m.parse(from, in.Body)
	none := room{id: in.Room, key: core.RoomKey(in.Room)}
	if msg == nil || !plausible(&none.row, msg) {
		m.stats.Ignored++
		return nil
	}
	switch msg.GetType() {
	case pb.MsgApp:
		return m.reject(&none, from, msg)
	case pb.MsgHeartbeat:
		return m.alive(&none, from, msg)
	case pb.MsgSnap:
		return m.arrive(from, in.Room, msg)
	}
	return nil
}

// arrive makes a room from the snapshot that a leader sent.
func (m *Machine) arrive(from string, id core.RoomID, msg *pb.Message) error {
	if old := m.rooms[id]; old != nil {
		m.forget(old)
	}
	r := &room{id: id, key: core.RoomKey(id)}
	r.row.Room, r.row.Names = id, []string{from}
	r.nameAll()
	m.hold(r)
	err := m.start(r)
	if err == nil {
		err = m.step(r, msg)
	}
	if !r.hasRaft() {
		m.forget(r)
	}
	return err
}

// forget removes a room that did not come to be.
func (m *Machine) forget(r *room) {
	m.used.Remove(r.used)
	delete(m.rooms, r.id)
	delete(m.awake, r.id)
	delete(m.naps, r.id)
	m.dirty = slices.DeleteFunc(m.dirty, func(d *room) bool { return d == r })
}

// parse reads a raft message from a peer: one of the types that homeservers send
// each other, in its own name; nil otherwise.
func (m *Machine) parse(from string, body []byte) *pb.Message {
	if len(body) > maxRaft {
		return nil
	}
	msg := new(pb.Message)
	if err := proto.Unmarshal(body, msg); err != nil {
		return nil
	}
	if msg.GetFrom() != memberID(from) || msg.GetTo() != m.self || len(msg.GetContext()) > 0 || len(msg.GetResponses()) > 0 ||
		msg.GetIndex() > maxIndex || msg.GetCommit() > maxIndex || msg.GetRejectHint() > maxIndex {
		return nil
	}
	if msg.GetType() != pb.MsgSnap && msg.Snapshot != nil || msg.GetType() != pb.MsgProp && msg.GetTerm() == 0 {
		return nil
	}
	return msg
}

// plausible holds a message to what raft takes for granted of an honest peer: it
// panics otherwise, or would go where no log leads.
func plausible(w *row, msg *pb.Message) bool {
	if w.First > 0 && msg.GetTerm() > w.Term+maxTermStep || msg.GetTerm() > maxIndex {
		return false
	}
	if n := max(msg.GetIndex(), msg.GetSnapshot().GetMetadata().GetIndex()); n > w.Last+maxJump {
		return false
	}
	if n := len(msg.GetEntries()); n > 0 && msg.GetType() != pb.MsgApp && msg.GetType() != pb.MsgProp {
		return false
	}
	switch msg.GetType() {
	case pb.MsgVote, pb.MsgPreVote, pb.MsgVoteResp, pb.MsgPreVoteResp, pb.MsgHeartbeatResp:
		return true
	case pb.MsgHeartbeat:
		return msg.GetCommit() <= w.Last || w.First == 0
	case pb.MsgAppResp:
		// Nobody has stored nothing. Raft tells an old leader so that its term is over; the new
		// one, if it is that of the same term, would think that the whole log is to be sent.
		stored := msg.GetIndex() > 0 || msg.GetReject()
		return msg.GetTerm() > w.Term || stored && msg.GetIndex() <= w.Last && msg.GetRejectHint() <= w.Last
	case pb.MsgApp:
		return plausibleEntries(w, msg)
	case pb.MsgSnap:
		meta := msg.GetSnapshot().GetMetadata()
		cs := meta.GetConfState()
		// One that is not newer than what is here is answered: the first answer got lost.
		return meta.GetIndex() > 0 && meta.GetIndex() <= maxIndex && meta.GetTerm() > 0 && meta.GetTerm() <= msg.GetTerm() &&
			checkConf(cs) && slices.Contains(slices.Concat(cs.GetVoters(), cs.GetVotersOutgoing()), msg.GetFrom()) &&
			slices.Contains(slices.Concat(cs.GetVoters(), cs.GetLearners(), cs.GetVotersOutgoing()), msg.GetTo())
	case pb.MsgProp:
		es := msg.GetEntries()
		return len(es) == 1 && es[0].GetType() == pb.EntryNormal && len(es[0].GetData()) <= maxOffer
	}
	return false
}

// plausibleEntries checks that entries follow each other, in terms that do not
// fall, and contradict nothing that is agreed here.
func plausibleEntries(w *row, msg *pb.Message) bool {
	es := msg.GetEntries()
	if len(es) > maxEntries || msg.GetLogTerm() > msg.GetTerm() || contradicts(w, before(msg)) {
		return false
	}
	term := msg.GetLogTerm()
	for i, e := range es {
		if e.GetIndex() != msg.GetIndex()+1+uint64(i) || e.GetTerm() < term || e.GetTerm() > msg.GetTerm() ||
			e.GetType() != pb.EntryNormal && e.GetType() != pb.EntryConfChangeV2 || len(e.GetData()) > maxOffer {
			return false
		}
		if contradicts(w, e) {
			return false
		}
		term = e.GetTerm()
	}
	return true
}
