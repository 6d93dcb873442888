package epoch

import (
	"cmp"
	"container/list"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Rooms is the engine as a Machine sees it: core.Engine.
type Rooms interface {
	// Apply and Seal are those of core.Engine.
	Apply(tx core.Tx, now time.Time, in core.Input) (core.Output, error)
	Seal(tx core.Tx) error
	// Authority says who decides a room's epochs; NotFound if it is not here.
	Authority(tx core.Tx, room core.RoomID) (core.Authority, error)
	// CheckHandshake says at the homeserver where h is offered whether it may be
	// offered now.
	CheckHandshake(tx core.Tx, now time.Time, h *core.Handshake) error
	// Decide applies one agreed entry; the same state and entry come to the same
	// end on every homeserver. An error that is not Broken refuses the entry.
	Decide(tx core.Tx, now time.Time, h *core.Handshake) (core.Output, *core.Opened, error)
	// Judge says whether this homeserver may approve the commit that opened epoch:
	// nil, Unavailable (ask later), or Denied (never).
	Judge(tx core.Tx, now time.Time, room core.RoomID, epoch uint64) error
	// Winner returns the commit that ended epoch.
	Winner(tx core.Reader, room core.RoomID, epoch uint64) (id core.HandshakeID, message []byte, seq uint64, err error)
	// SnapshotGroup and RestoreGroup carry a room's state to a homeserver that
	// the log does not reach. For a state of a room that is here, in a newer epoch,
	// certified is asked whether those who decide vouch for it.
	SnapshotGroup(tx core.Tx, room core.RoomID) ([]byte, error)
	RestoreGroup(tx core.Tx, now time.Time, room core.RoomID, snapshot []byte, certified func(after core.Authority, transcript, tree []byte) error) (core.Output, error)
}

// Config is what a Machine is made of. Limits that are 0 have their defaults.
type Config struct {
	Homeserver string             // the domain
	Key        ed25519.PrivateKey // of the homeserver: signs approvals
	Rooms      Rooms
	// Check says whether sig is domain's signature, with label ApprovalLabel,
	// over signed; nil = by the keys pinned for it (core.HomeserverOf).
	Check func(r core.Reader, now time.Time, domain string, signed, sig []byte) error

	MaxAwake    int        // rooms with something in flight; 4096
	MaxResident int        // rooms in memory, those awake included; 4096
	MaxEntries  int        // entries of one room's log that are kept for peers; 512
	MaxLog      int        // and their octets; 64 MiB
	DeviceRate  core.Meter // handshakes that one device may offer; 5 a second, 50 at once
	HomeRate    core.Meter // that one homeserver may bring into one room's log; 50 a second, 200 at once
}

// Stats is what a Machine counts since it was made, and what it holds.
type Stats struct {
	Resident  int    // rooms in memory
	Awake     int    // rooms with something in flight
	Decided   uint64 // entries applied
	Opened    uint64 // epochs
	Certified uint64 // epochs with enough approvals
	Elections uint64 // that this homeserver won
	Ignored   uint64 // messages of peers that no honest one sends, or of strangers
	Forged    uint64 // approvals with a wrong signature
	Proofs    uint64 // of homeservers that approved two commits for one epoch
	Faults    uint64 // messages that raft refused with a panic; the room was loaded anew
}

// A Machine decides inputs with the agreement of the room's other homeservers. It
// implements bridges.Decider on the terms of core.Engine: one loop feeds it; after
// a transaction that failed it is dropped, and a new one continues from the store.
type Machine struct {
	cfg   Config
	self  uint64
	rooms map[core.RoomID]*room
	used  *list.List // of *room: the most recently used first
	awake map[core.RoomID]*room
	naps  map[core.RoomID]*room // those awake that rest
	dirty []*room               // to be written by Seal, in order of change
	ticks uint64
	swept time.Time // when idle rooms were last looked for
	woken bool      // the rooms that were awake when the last process ended are awake again,
	upTo  string    // up to this key

	stats Stats

	// Budgets:
	devices  core.Meter // handshakes, by the device that offers them
	checks   core.Meter // looks at handshakes that are offered here, by asker
	homes    core.Meter // handshakes and questions about them that reach one room, by homeserver
	blanks   core.Meter // empty entries of one room, by homeserver
	strays   core.Meter // messages for rooms of which the sender is no part, by host
	terms    core.Meter // messages of higher terms in one room, by host,
	upstarts core.Meter // and those of who has no vote there
	claims   core.Meter // appends and snapshots of who has no vote in one room, by host

	// Of the Apply that runs:
	tx     core.Tx
	now    time.Time
	out    *core.Output
	broken error // a failure of the store inside raft
}

// New returns a Machine without state; it loads what it needs.
func New(cfg Config) *Machine {
	setDefault(&cfg.MaxAwake, 4096)
	setDefault(&cfg.MaxResident, 4096)
	setDefault(&cfg.MaxEntries, 512)
	setDefault(&cfg.MaxLog, 64<<20)
	if cfg.DeviceRate.Burst == 0 {
		cfg.DeviceRate = core.Meter{Burst: 50, Every: time.Second / 5}
	}
	if cfg.HomeRate.Burst == 0 {
		cfg.HomeRate = core.Meter{Burst: 200, Every: time.Second / 50}
	}
	if cfg.Check == nil {
		cfg.Check = checkPinned
	}
	return &Machine{cfg: cfg, self: memberID(cfg.Homeserver), rooms: map[core.RoomID]*room{}, used: list.New(),
		awake: map[core.RoomID]*room{}, naps: map[core.RoomID]*room{}, devices: cfg.DeviceRate,
		checks: core.Meter{Burst: checksEach * cfg.DeviceRate.Burst, Every: cfg.DeviceRate.Every / checksEach},
		homes:  cfg.HomeRate, blanks: blankRate, strays: strayRate,
		terms: termRate, upstarts: upstartRate, claims: claimRate}
}

func setDefault(n *int, to int) {
	if *n == 0 {
		*n = to
	}
}

// memberID is a homeserver's name in raft: the first 8 octets of SHA-256(domain).
// 0 and the largest number mean something else to raft.
func memberID(domain string) uint64 {
	h := sha256.Sum256([]byte(domain))
	return min(max(binary.BigEndian.Uint64(h[:8]), 1), 1<<64-3)
}

// Awake reports whether Ticks are wanted.
func (m *Machine) Awake() bool { return len(m.awake) > 0 || !m.woken }

// Stats returns the counters.
func (m *Machine) Stats() Stats {
	s := m.stats
	s.Resident, s.Awake = len(m.rooms), len(m.awake)
	return s
}

// Apply decides one input: handshakes, peers' messages and Ticks itself, all
// others by the engine.
func (m *Machine) Apply(tx core.Tx, now time.Time, in core.Input) (core.Output, error) {
	var out core.Output
	m.tx, m.now, m.out, m.broken = tx, now, &out, nil
	defer func() { m.tx, m.out = nil, nil }()
	if !m.woken {
		if err := m.wakeAll(); err != nil {
			return core.Output{}, err
		}
	}
	var err error
	switch in := in.(type) {
	case core.Propose:
		err = m.propose(in.Handshake)
	case core.PeerMessages:
		err = m.receive(in)
	case core.Tick:
		err = m.tick()
	case core.LeaseGroupInfo:
		return m.lend(in)
	default:
		return m.cfg.Rooms.Apply(tx, now, in)
	}
	if err == errFault {
		err = errDamaged
	}
	if err != nil {
		return core.Output{}, err
	}
	return out, nil
}

// Seal writes what changed in this transaction, and lets go of rooms that have
// been idle longest.
func (m *Machine) Seal(tx core.Tx) error {
	m.tx = tx
	defer func() { m.tx = nil }()
	for _, r := range m.dirty {
		r.dirty = false
		if err := m.save(r); err != nil {
			return err
		}
	}
	m.dirty = m.dirty[:0]
	m.evict()
	return m.cfg.Rooms.Seal(tx)
}

// tick gives every room that is awake its turn, in the order of their names.
func (m *Machine) tick() error {
	m.ticks++
	turn := make([]*room, 0, len(m.awake))
	for _, r := range m.awake {
		if m.ticks >= r.napUntil {
			turn = append(turn, r)
		}
	}
	slices.SortFunc(turn, func(a, b *room) int { return cmp.Compare(a.id, b.id) })
	for _, r := range turn {
		switch err := m.tickRoom(r); err {
		case nil:
		case errFault:
			m.sleep(r)
		default:
			return err
		}
	}
	_, err := m.cfg.Rooms.Apply(m.tx, m.now, core.Tick{}) // the engine lets go of what is idle, too
	return err
}

// merge adds what the engine said to the output of the Apply that runs.
func (m *Machine) merge(o core.Output) {
	if o.Event != nil && !o.Duplicate {
		m.out.Events = append(m.out.Events, o.Event)
	}
	if o.Room != nil {
		m.out.Room = o.Room
	}
	m.out.Events = append(m.out.Events, o.Events...)
	m.out.Items = append(m.out.Items, o.Items...)
	m.out.Letters = append(m.out.Letters, o.Letters...)
	m.out.Welcomes = append(m.out.Welcomes, o.Welcomes...)
	m.out.Sends = append(m.out.Sends, o.Sends...)
}

// send puts a message for another homeserver into the output.
func (m *Machine) send(r *room, to string, kind core.PeerKind, body []byte) {
	m.out.Sends = append(m.out.Sends, core.Send{To: to, Message: core.PeerMessage{Room: r.id, Kind: kind, Body: body}})
}
