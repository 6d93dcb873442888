package epoch

import (
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of what waits for one room's log.
const (
	maxQueue      = 128      // handshakes
	maxQueueBytes = 32 << 20 // octets
	maxForeign    = 32       // handshakes of one other homeserver, at the leader
	maxLate       = 8        // of one device, over its budget
	maxRedirects  = 4        // in one tick, from homeservers that do not lead
	checksEach    = 8        // looks at handshakes for each that a device may offer: those refused among them
)

// An offer is a handshake that waits for the room's log.
type offer struct {
	id     core.HandshakeID
	data   []byte // core.Handshake.Encode
	home   string // homeserver that offered it
	device string // whose budget it is
	commit bool   // it opens an epoch if it is accepted
	epoch  uint64 // that it is made for
	since  uint64 // tick
	sent   uint64 // 1 + tick when it was sent to the leader; 0 = not yet
	to     string // whom it was sent to
	tries  int
	late   bool // over its device's budget: it waits for a token
	paid   bool // a token of its homeserver's budget was taken
	passed bool // the leader says that its epoch is over: only the log is waited for

	newcomers bool             // it brings devices in, so the leader hears the voters
	said      map[string]error // by voter: nil = it would approve
	asked     uint64           // 1 + tick of the last question; 0 = none
}

func newOffer(h *core.Handshake, data []byte, tick uint64) *offer {
	device := string(h.By)
	if device == "" {
		device = h.Home
	}
	epoch, _ := core.EpochOf(h.Message)
	return &offer{id: h.ID(), data: data, home: h.Home, device: device, commit: len(h.Info) > 0, epoch: epoch, since: tick, newcomers: h.Newcomers}
}

// patience is how many ticks a homeserver gets that was sent the offer: there is time for
// another try before it is given up.
func (o *offer) patience() uint64 {
	return min(retryTicks+uint64(len(o.data)/retryOctets), proposeTicks/3)
}

// propose takes a handshake that was offered to this homeserver.
func (m *Machine) propose(h *core.Handshake) error {
	if h == nil || h.Home != m.cfg.Homeserver {
		return core.Errorf(core.Invalid, "a handshake is offered at its own homeserver")
	}
	r, err := m.room(h.Room)
	if err != nil {
		return err
	}
	if !m.part(r) {
		return core.Errorf(core.Denied, "this homeserver is not part of that room any more")
	}
	id := h.ID()
	if d, ok := r.row.find(id); ok {
		m.accepted(r, id, d.Seq)
		return nil
	}
	if r.own(m.cfg.Homeserver, id) != nil {
		return nil
	}
	if wait := m.checks.Take(m.asker(h), 1, m.now); wait > 0 {
		return &core.Error{Code: core.Limited, Text: "too many handshakes to look at", RetryAfter: wait}
	}
	if err := m.cfg.Rooms.CheckHandshake(m.tx, m.now, h); err != nil {
		return m.unfit(r, h, err)
	}
	o := newOffer(h, h.Encode(), m.ticks)
	if err := m.admit(r, o); err != nil {
		return err
	}
	if m.wake(r); r.hasRaft() {
		m.stir(r) // the last commit index may get lost
	}
	return m.run(r)
}

// asker is who is charged for a look at h, which costs more than to make it where a
// group is large: a device here, or another homeserver, which names any device it likes.
func (m *Machine) asker(h *core.Handshake) string {
	if d := h.By.Domain(); d != "" && d != m.cfg.Homeserver {
		return d
	}
	return string(h.By)
}

// run starts the room's raft if it has one, and does what can be done.
func (m *Machine) run(r *room) error {
	if r.hasRaft() {
		if err := m.start(r); err != nil {
			return err
		}
	}
	return m.pump(r)
}

// unfit answers a handshake that may not be offered. One that came too late is
// told the winner; one that could not be judged may come again. Neither is an
// error of Apply: what is Unavailable there breaks the transaction.
func (m *Machine) unfit(r *room, h *core.Handshake, err error) error {
	switch core.CodeOf(err) {
	case core.StaleEpoch:
		epoch, _ := core.EpochOf(h.Message)
		m.decision(r, h.ID(), epoch, err)
	case core.Unavailable:
		m.decision(r, h.ID(), 0, err)
	default:
		return err
	}
	return nil
}

// decision tells that a handshake was refused, with StaleEpoch by whom.
func (m *Machine) decision(r *room, id core.HandshakeID, epoch uint64, err error) {
	d := core.Decision{ID: id, Room: r.id, Epoch: r.auth.Epoch, Err: err}
	if core.CodeOf(err) == core.StaleEpoch && epoch < r.auth.Epoch {
		if _, winner, _, werr := m.cfg.Rooms.Winner(m.tx, r.id, epoch); werr == nil {
			d.Winner = winner
		}
	}
	m.out.Decisions = append(m.out.Decisions, d)
}

// accepted tells that a handshake was accepted.
func (m *Machine) accepted(r *room, id core.HandshakeID, seq uint64) {
	m.out.Decisions = append(m.out.Decisions, core.Decision{ID: id, Room: r.id, Epoch: r.auth.Epoch, Seq: seq})
}

// admit puts an offer in line within the room's bounds and its device's budget:
// who is over budget waits until there is a token, with few others.
func (m *Machine) admit(r *room, o *offer) error {
	if len(o.data) > core.MaxHandshake {
		return core.Errorf(core.TooLarge, "a handshake over %d octets", core.MaxHandshake)
	}
	size, late, same := len(o.data), 0, 0
	for _, q := range r.queue {
		size += len(q.data)
		if q.late && q.device == o.device {
			late++
		}
		if q.home == o.home && q.home != m.cfg.Homeserver {
			same++
		}
	}
	if len(r.queue) >= maxQueue || size > maxQueueBytes || same >= maxForeign || m.awake[r.id] == nil && len(m.awake) >= m.cfg.MaxAwake {
		return &core.Error{Code: core.Limited, Text: "too many handshakes wait", RetryAfter: time.Second}
	}
	if o.home == m.cfg.Homeserver {
		wait := m.devices.Take(o.device, 1, m.now)
		if o.late = wait > 0; o.late && late >= maxLate {
			return &core.Error{Code: core.Limited, Text: "too many handshakes of one device", RetryAfter: wait}
		}
	}
	r.queue = append(r.queue, o)
	return nil
}

// own returns the offer called id that was made here, nil if none waits.
func (r *room) own(home string, id core.HandshakeID) *offer {
	for _, o := range r.queue {
		if o.id == id && o.home == home {
			return o
		}
	}
	return nil
}

// take removes every offer called id from the line, and returns the one that was
// made here.
func (r *room) take(home string, id core.HandshakeID) *offer {
	o := r.own(home, id)
	r.queue = slices.DeleteFunc(r.queue, func(q *offer) bool { return q.id == id })
	return o
}

// landed notes that an entry was applied.
func (r *room) landed(id core.HandshakeID) {
	delete(r.inLog, id)
	if r.commit != nil && *r.commit == id {
		r.commit, r.heard = nil, nil
	}
}

// stale answers the offers for epochs that are over, and those that a snapshot
// says were accepted.
func (m *Machine) stale(r *room) {
	r.queue = slices.DeleteFunc(r.queue, func(o *offer) bool {
		d, taken := r.row.find(o.id)
		if o.epoch >= r.auth.Epoch && !taken {
			return false
		}
		switch {
		case o.home != m.cfg.Homeserver:
		case taken:
			m.accepted(r, o.id, d.Seq)
		default:
			m.decision(r, o.id, o.epoch, core.Errorf(core.StaleEpoch, "another commit ended that epoch"))
		}
		return true
	})
}

// giveUp ends the waiting of offers that came to nothing for too long.
func (m *Machine) giveUp(r *room) {
	r.queue = slices.DeleteFunc(r.queue, func(o *offer) bool {
		if m.ticks-o.since < proposeTicks {
			return false
		}
		if o.home == m.cfg.Homeserver {
			m.decision(r, o.id, 0, core.Errorf(core.Unavailable, "the room's homeservers did not agree in time"))
		}
		return true
	})
}

// release starts over after a change of leader: what was sent or appended may be
// lost. Offers of others are theirs to send again; they are told where.
func (m *Machine) release(r *room, lead uint64) {
	r.inLog, r.commit, r.confIndex, r.heard, r.pushed = nil, nil, 0, nil, nil
	for _, o := range r.queue {
		o.sent, o.passed, o.said, o.asked = 0, false, nil, 0
		if o.home != m.cfg.Homeserver && lead != 0 && lead != m.self {
			m.redirect(r, o.home, o.id, lead)
		}
	}
	if lead != 0 && lead != m.self {
		r.queue = slices.DeleteFunc(r.queue, func(o *offer) bool { return o.home != m.cfg.Homeserver })
	}
}

// dispatch moves the offers that wait: it decides them, appends them as the
// leader, or sends them there. more means that raft or the queue has changed.
func (m *Machine) dispatch(r *room) (more bool, err error) {
	for _, o := range slices.Clone(r.queue) {
		if o.late && m.devices.Take(o.device, 1, m.now) > 0 {
			continue
		}
		o.late = false
		switch {
		case !r.hasRaft():
			h, err := core.ParseHandshake(o.data)
			if err != nil {
				return false, core.Errorf(core.Internal, "own handshake: %w", err)
			}
			return true, m.decide(r, h, 0)
		case r.leads():
			done, err := m.appendOffer(r, o)
			if more = more || done; err != nil {
				return more, err
			}
		case o.home == m.cfg.Homeserver:
			if err := m.forward(r, o); err != nil {
				return more, err
			}
		}
	}
	if len(r.queue) > 0 && r.hasRaft() && !r.leads() && r.row.Lead == m.self {
		return m.campaign(r) || more, nil
	}
	return more, nil
}

// campaign asks for the lead that this homeserver had before the room fell asleep.
func (m *Machine) campaign(r *room) bool {
	if r.node == nil || r.node.BasicStatus().RaftState != raft.StateFollower || r.campaigned == m.ticks+1 {
		return false
	}
	r.campaigned = m.ticks + 1
	return m.guard(r, r.node.Campaign) == nil
}

// appendOffer lets the leader append an offer. While a commit is on its way all
// others wait: most of them it will make stale.
func (m *Machine) appendOffer(r *room, o *offer) (bool, error) {
	if r.node == nil || r.inLog[o.id] || r.commit != nil {
		return false, nil
	}
	// Nothing follows a configuration that is not applied, nor the one that raft lets
	// follow a joint one: a leader that it removes would be ahead of the others, and
	// they could not elect one of theirs.
	if r.confIndex > r.row.Applied || len(r.row.Outgoing) > 0 {
		return false, nil
	}
	// A new leader may be behind the offer's epoch for a moment.
	if o.epoch > r.auth.Epoch || o.commit && !m.enough(r) || r.held(o, m.ticks) {
		return false, nil
	}
	if !o.paid && m.homes.Take(r.key+"/"+o.home, 1, m.now) > 0 {
		return false, nil
	}
	o.paid = true
	if ready, gone, err := m.acceptable(r, o); err != nil || !ready {
		if gone {
			r.queue = slices.DeleteFunc(r.queue, func(q *offer) bool { return q == o })
		}
		return gone, err
	}
	if ok, err := m.fits(r, len(o.data)); err != nil || !ok {
		return false, err
	}
	if err := m.guard(r, func() error { return r.node.Propose(o.data) }); err != nil {
		return false, nil // raft's bound of what is not agreed yet: at the next tick
	}
	r.pushed = append(r.pushed, len(o.data))
	if r.inLog == nil {
		r.inLog = map[core.HandshakeID]bool{}
	}
	r.inLog[o.id] = true
	if o.commit {
		r.commit = &o.id
	}
	if o.home != m.cfg.Homeserver {
		r.queue = slices.DeleteFunc(r.queue, func(q *offer) bool { return q == o })
	}
	return true, nil
}

// acceptable lets the leader refuse what nobody would take, and hear the voters of
// what is a matter of judgement. gone: it need not wait any longer.
func (m *Machine) acceptable(r *room, o *offer) (ready, gone bool, err error) {
	if _, again := r.row.find(o.id); again && o.home != m.cfg.Homeserver {
		return false, true, nil
	}
	if _, judged := o.said[m.cfg.Homeserver]; !judged && o.home != m.cfg.Homeserver {
		h, err := core.ParseHandshake(o.data)
		if err == nil {
			err = m.opinion(h)
			o.newcomers = h.Newcomers
		}
		switch {
		case err == nil || o.newcomers && final(err):
			o.say(m.cfg.Homeserver, err)
		case core.CodeOf(err) == core.Internal:
			return false, false, err
		case core.CodeOf(err) != core.Unavailable:
			m.sendRefusal(r, o.home, o.id, err)
			return false, true, nil
		}
	}
	if !o.newcomers {
		return true, false, nil
	}
	if ready, err = m.hear(r, o); err == nil {
		return ready, false, nil
	}
	if o.home == m.cfg.Homeserver {
		m.decision(r, o.id, 0, err)
	} else {
		m.sendRefusal(r, o.home, o.id, err)
	}
	return false, true, nil
}

// forward sends an offer to the leader, again while there is no answer. Of the
// commits that wait here only the first is sent.
func (m *Machine) forward(r *room, o *offer) error {
	if o.passed || o.sent > 0 && m.ticks+1-o.sent < o.patience() {
		return nil
	}
	for _, q := range r.queue {
		if q == o || !o.commit {
			break
		}
		if q.commit && !q.late && !q.passed && q.home == m.cfg.Homeserver {
			return nil
		}
	}
	lead := r.row.Lead
	if others := slices.DeleteFunc(slices.Clone(r.row.Voters), func(id uint64) bool { return id == m.self }); len(others) > 0 &&
		(lead == 0 || (o.tries > 0 || lead == m.self) && !slices.Contains(r.row.Voters, m.self)) {
		lead = others[o.tries%len(others)] // who only follows cannot have a new leader elected: it asks around
	}
	if lead == 0 || lead == m.self {
		return nil
	}
	o.sent, o.to = m.ticks+1, r.names[lead]
	o.tries++
	return m.sendRaft(r, &pb.Message{Type: pb.MsgProp.Enum(), From: new(m.self), To: new(lead), Entries: []*pb.Entry{{Data: o.data}}})
}

// offered takes a handshake that another homeserver sent to the leader.
func (m *Machine) offered(r *room, from string, msg *pb.Message) error {
	data := msg.GetEntries()[0].GetData()
	h, err := core.ParseHandshake(data)
	if err != nil || h.Home != from || h.Room != r.id {
		m.stats.Ignored++
		return nil
	}
	id := h.ID()
	if r.inLog[id] || r.own(from, id) != nil {
		return nil
	}
	if r.lead() == memberID(from) {
		m.forgetLeader(r) // who leads sends this to nobody
	}
	if lead := r.lead(); lead != 0 && lead != m.self {
		m.redirect(r, from, id, lead)
		return nil
	} else if !r.leads() && r.row.Lead != 0 && r.row.Lead != m.self {
		m.redirect(r, from, id, r.row.Lead) // who may be asleep, or away: it is kept here too
	}
	if err := m.admit(r, newOffer(h, data, m.ticks)); err != nil {
		m.sendRefusal(r, from, id, err)
		return nil
	}
	m.stir(r)
	return nil
}

// lead is whom raft follows now; 0 if nobody.
func (r *room) lead() uint64 {
	if r.node == nil {
		return 0
	}
	return r.node.BasicStatus().Lead
}

// A refusal is the body of core.PeerRefused, and of core.PeerOpinion, where Code 0 is
// none.
type refusal struct {
	_    struct{} `cbor:",toarray"`
	ID   []byte
	Code uint8
	Text string
	Wait uint32 // ms, with Limited
	Lead string // not refused, but here: who leads
}

const maxText = 512 // octets of a refusal's text

func bounded(text string) string { return strings.ToValidUTF8(text[:min(len(text), maxText)], "") }

// parseRefusal decodes one within its bounds.
func parseRefusal(body []byte) (f refusal, ok bool) {
	err := strict.Unmarshal(body, &f)
	return f, err == nil && len(f.ID) == len(core.HandshakeID{}) && len(f.Text) <= maxText && slices.Contains(core.Codes(), core.Code(f.Code))
}

func (m *Machine) sendRefusal(r *room, to string, id core.HandshakeID, err error) {
	f := refusal{ID: id[:], Code: uint8(core.CodeOf(err)), Text: bounded(core.TextOf(err)), Wait: uint32(min(retryAfter(err), time.Hour).Milliseconds())}
	b, _ := cbor.Marshal(&f) // strings and numbers
	m.send(r, to, core.PeerRefused, b)
}

// redirect says that another homeserver leads.
func (m *Machine) redirect(r *room, to string, id core.HandshakeID, lead uint64) {
	if name := r.names[lead]; name != "" && name != to {
		b, _ := cbor.Marshal(&refusal{ID: id[:], Lead: name}) // strings and numbers
		m.send(r, to, core.PeerRefused, b)
	}
}

// refused takes the leader's word that an offer of this homeserver is not taken.
func (m *Machine) refused(r *room, from string, body []byte) error {
	f, ok := parseRefusal(body)
	if !ok {
		m.stats.Ignored++
		return nil
	}
	id := core.HandshakeID(f.ID)
	o := r.own(m.cfg.Homeserver, id)
	if o == nil || o.to != from {
		return nil
	}
	switch code := core.Code(f.Code); {
	case f.Lead != "":
		lead := memberID(f.Lead)
		if r.redirects++; r.redirects > maxRedirects || !r.row.member(lead) || r.lead() != 0 {
			return nil
		}
		r.row.Lead, o.sent = lead, 0
		m.touch(r)
	case code == core.StaleEpoch:
		o.passed = true // the log will say so, with the winner
	default:
		r.take(m.cfg.Homeserver, id)
		m.decision(r, id, 0, &core.Error{Code: code, Text: f.Text, RetryAfter: time.Duration(f.Wait) * time.Millisecond})
	}
	return m.run(r)
}

// retryAfter is how long a refusal asks to wait.
func retryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*core.Error](err); ok {
		return e.RetryAfter
	}
	return 0
}
