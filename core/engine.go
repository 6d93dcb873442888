package core

import (
	"crypto/ed25519"
	"crypto/sha256"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/mls"
)

// Bounds of one homeserver. Each guards memory: a room's members and bans stay
// in memory while the room is in use.
const (
	DefaultMaxRooms = 4096    // rooms whose state the engine keeps in memory
	MaxMembers      = 100_000 // participants of one room, joined or not
	MaxBans         = 500     // masks of one room, all lists together
	MaxInvited      = 1000    // invitations of one room that nobody took up
	MaxLinks        = 10_000  // links of this homeserver
	MaxItems        = 200     // items that wait for one recipient; the oldest goes

	// maxSent is the last millisecond of the year 9999: a claim beyond it can be
	// shown nowhere, and one far beyond it cannot be stored.
	maxSent = 253_402_300_799_999
)

// Config names the homeserver and its signing key.
type Config struct {
	Homeserver string
	Key        ed25519.PrivateKey
	MaxRooms   int // 0 = DefaultMaxRooms

	Parallel mls.Parallel        // verifies many signatures at once; nil = one after the other
	Block    *identity.Blocklist // homeservers that are not believed; nil = none
}

// An Engine decides. It keeps the state of the rooms in use; what it keeps always
// equals what the store holds, so after a transaction that failed the engine is
// dropped and a new one loads what is there. It is not for concurrent
// use: one loop feeds it.
//
// The caller's obligations, per transaction:
//  1. call Apply for each input, in order;
//  2. call Seal once, after the last Apply and before the commit;
//  3. if Apply returned an error for which Broken is true, or Seal or the
//     commit failed, roll back and drop the Engine;
//  4. release outputs only after the commit.
type Engine struct {
	cfg    Config
	system UserURI
	rooms  map[RoomID]*roomState

	mlsPolicy *mls.Policy // of every Group

	staged  []*Event // accepted in this transaction, not yet written
	origins map[originKey]*Event
	arena   []byte // headers of the staged events

	directory directory // what is remembered of requesters
	looked    time.Time // for Groups that rest
}

type originKey struct {
	network Network
	id      string
}

// roomState is a room in use.
type roomState struct {
	Room
	key     logKey
	log     uint64 // its incarnation
	head    uint64
	last    time.Time // when head was accepted: acceptance never runs backwards
	members map[UserURI]*Member
	bans    []Ban
	joined  int
	invited int
	group   *groupState // nil: a Channel, or a Group that was not needed yet
	busy    bool        // in use since the last look for Groups that rest
	looks   int         // since it was
}

// NewEngine returns an engine without state.
func NewEngine(cfg Config) *Engine {
	if cfg.MaxRooms == 0 {
		cfg.MaxRooms = DefaultMaxRooms
	}
	return &Engine{cfg: cfg, system: SystemUser(cfg.Homeserver), rooms: map[RoomID]*roomState{},
		mlsPolicy: newMLSPolicy(cfg.Parallel), origins: map[originKey]*Event{}}
}

// SystemUser is the homeserver itself as an actor: the operator's commands and
// state that a linked network decides. It may do everything in every room.
func SystemUser(homeserver string) UserURI { return NewUserURI(homeserver, "system", "homeserver") }

// Broken reports whether an error of Apply means that the transaction cannot be
// trusted any more, rather than that one input was refused.
func Broken(err error) bool {
	c := CodeOf(err)
	return err != nil && (c == Internal || c == Unavailable)
}

// Apply decides one input inside tx. On a refusal (an error for which Broken is
// false) nothing was written. Output is released only after tx commits.
func (e *Engine) Apply(tx Tx, now time.Time, in Input) (Output, error) {
	switch in := in.(type) {
	case Envelope:
		return e.envelope(tx, now, in)
	case CreateRoom:
		return e.createRoom(tx, now, in)
	case PutLink:
		return e.putLink(tx, in)
	case DropLink:
		return Output{}, tx.DropLink(in.ID)
	case TakeLease:
		return e.takeLease(tx, now, in)
	case Settle:
		return e.settle(tx, now, in)
	case PutAccount:
		return e.putAccount(tx, in)
	case PutValue:
		return e.putValue(tx, in)
	case PutItem:
		in.Item.At = now
		item, err := putItem(tx, in.Item)
		return Output{Items: []Item{item}}, err
	case DropItems:
		return Output{}, tx.DropItems(in.To, in.UpTo)
	case PutDevice, PutHomeserver, PutSession, PutKeyPackages, ClaimKeyPackages, LeaseGroupInfo, PutJoinCode, PutConsent, PutLetters, DropLetters:
		return e.decideDirectory(tx, now, in)
	case Tick:
		e.rest(now)
		return Output{}, nil
	case CreateGroup:
		return e.createGroup(tx, now, in)
	case PeerEvents:
		return e.peerEvents(tx, now, in)
	case PeerStored:
		return e.peerStored(tx, now, in)
	case NewLog:
		return e.newLog(tx, now, in)
	case PutWelcome:
		return e.putWelcome(tx, now, in)
	case DropWelcome:
		return Output{}, asBroken(tx.DropValue(groupWelcomes, welcomeKey(&in.Welcome)))
	}
	return Output{}, Errorf(Unsupported, "unknown input")
}

// envelope decides one message: known before? allowed? then it is staged.
func (e *Engine) envelope(tx Tx, now time.Time, env Envelope) (Output, error) {
	if err := checkEnvelope(&env); err != nil {
		return Output{}, err
	}
	r, err := e.room(tx, env.Room)
	if err != nil {
		return Output{}, err
	}
	if env.Origin.ID != "" {
		if out, err := e.known(tx, env.Origin); err != nil || out.Duplicate {
			return out, err
		}
	}
	s, signed := env.Body.(Signed)
	switch {
	case r.Kind == Group && signed:
		return Output{}, Refuse(Denied, IsGroup, "that room is end-to-end encrypted: what is readable has no place in it")
	case r.Kind == Group:
		return e.sealed(tx, now, env, env.Body.(Sealed))
	case !signed:
		return Output{}, Errorf(Invalid, "that room is not end-to-end encrypted")
	}
	if s.ContentType == ContentControl {
		return e.control(tx, now, r, env, s)
	}
	if s.ContentType != r.ContentType {
		return Output{}, Errorf(Unsupported, "this room carries %s", r.ContentType)
	}
	if env.Sender != e.system {
		m := r.members[env.Sender]
		if m == nil || !m.Joined {
			return Output{}, Refuse(Denied, NotJoined, "you are not in that room")
		}
		if !r.Policy.Can(m.Role, CanSendMessage) {
			return Output{}, Refuse(Denied, Muted, "that room is moderated, and you have no voice")
		}
	}
	return Output{Event: e.stage(r, now, env, nil)}, nil
}

// checkEnvelope holds env to its bounds.
func checkEnvelope(env *Envelope) error {
	s, signed := env.Body.(Signed)
	size := len(s.Content)
	if sealed, ok := env.Body.(Sealed); ok {
		size = len(sealed.Message)
	} else if !signed {
		return Errorf(Invalid, "an envelope without a body")
	}
	switch {
	case size == 0:
		return Errorf(Invalid, "an empty message")
	case size > MaxContent:
		return Errorf(TooLarge, "a message over %d octets", MaxContent)
	case len(env.Origin.ID) > MaxOriginID || len(s.Name) > MaxName || len(env.Origin.Trail) > MaxTrail:
		return Errorf(TooLarge, "origin, name or trail of a message over its bound")
	case env.Origin.Network == "" || !plainText(string(env.Origin.Network)) || !plainText(env.Origin.ID) || !plainText(s.Name):
		return Errorf(Invalid, "origin or name of a message is not plain text")
	}
	return nil
}

// plainText reports whether s is UTF-8 without NUL, which PostgreSQL cannot keep.
func plainText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// known answers a repeated origin with the event it became.
func (e *Engine) known(tx Tx, o Origin) (Output, error) {
	if ev := e.origins[originKey{o.Network, o.ID}]; ev != nil {
		return Output{Event: ev, Duplicate: true}, nil
	}
	room, seq, err := tx.ByOrigin(o.Network, o.ID)
	if err != nil {
		if CodeOf(err) == NotFound {
			err = nil
		}
		return Output{}, err
	}
	ev, err := tx.Event(room, seq)
	if err != nil {
		return Output{}, Errorf(Internal, "event of a known origin: %w", err)
	}
	return Output{Event: &ev, Duplicate: true}, nil
}

// stage gives env its place in the room's log. It is written by Seal.
func (e *Engine) stage(r *roomState, now time.Time, env Envelope, c *Control) *Event {
	r.head++
	if now.After(r.last) {
		r.last = now
	}
	ev := &Event{Envelope: env, Seq: r.head, ID: r.key.at(r.head), Log: r.log, Accepted: r.last, Control: c}
	if ms := ev.Sent.UnixMilli(); ev.Sent.IsZero() || ms < 0 || ms > maxSent {
		ev.Sent = now
	}
	e.staged = append(e.staged, ev)
	if env.Origin.ID != "" {
		e.origins[originKey{env.Origin.Network, env.Origin.ID}] = ev
	}
	return ev
}

// Seal signs what was accepted since the last Seal and writes it to the log.
// Signing costs 25 µs, hashing 0.5 µs: so MaxBatch messages share a signature.
func (e *Engine) Seal(tx Tx) error {
	if err := e.write(tx); err != nil {
		return err
	}
	for id := range e.rooms { // over the bound, rooms are forgotten and loaded again when needed
		if len(e.rooms) <= e.cfg.MaxRooms {
			break
		}
		delete(e.rooms, id)
	}
	return nil
}

func (e *Engine) write(tx Tx) error {
	for todo := e.staged; len(todo) > 0; {
		n := min(len(todo), MaxBatch)
		e.vouch(todo[:n])
		for _, ev := range todo[:n] {
			if err := tx.Append(*ev); err != nil {
				return err
			}
		}
		todo = todo[n:]
	}
	e.staged = e.staged[:0:0] // the events belong to the outputs now
	clear(e.origins)
	return nil
}

// vouch signs what is readable in a batch; what is sealed is signed inside, by its
// device (RFC 9420 §6.3).
func (e *Engine) vouch(batch []*Event) {
	var leaves [MaxBatch][32]byte
	var which [MaxBatch]int
	n := 0
	for i, ev := range batch {
		s, signed := ev.Body.(Signed)
		if !signed {
			continue
		}
		if cap(e.arena)-len(e.arena) < 512 {
			e.arena = make([]byte, 0, 16<<10)
		}
		from := len(e.arena)
		e.arena = appendHeader(e.arena, ev, &s, e.cfg.Homeserver)
		s.Header = e.arena[from:len(e.arena):len(e.arena)]
		ev.Body = s
		leaves[n], which[n] = leafHash(s.Header, sha256.Sum256(s.Content)), i
		n++
	}
	if n == 0 {
		return
	}
	for i, v := range vouchFor(e.cfg.Key, leaves[:n]) {
		s := batch[which[i]].Body.(Signed)
		s.Vouch = v
		batch[which[i]].Body = s
	}
}

// room returns the state of a room, loading it on first use.
func (e *Engine) room(tx Tx, id RoomID) (*roomState, error) {
	if r := e.rooms[id]; r != nil {
		r.busy = true
		return r, nil
	}
	if _, err := ParseRoomID(string(id)); err != nil {
		return nil, err
	}
	room, err := tx.Room(id)
	if err != nil {
		return nil, err
	}
	r := &roomState{Room: room, key: logID(id, e.cfg.Homeserver), members: map[UserURI]*Member{}}
	if r.head, r.last, err = tx.Head(id); err != nil {
		return nil, asBroken(err)
	}
	members, err := tx.Members(id)
	if err != nil {
		return nil, asBroken(err)
	}
	for _, m := range members {
		r.put(m)
	}
	if r.bans, err = tx.Bans(id); err != nil {
		return nil, asBroken(err)
	}
	e.rooms[id] = r
	return r, nil
}

// asBroken turns a refusal of the store, where the engine knows better, into
// the fault it is.
func asBroken(err error) error {
	if err == nil || Broken(err) {
		return err
	}
	return Errorf(Internal, "store disagrees with the engine: %w", err)
}

// put keeps the counts in step with the member list.
func (r *roomState) put(m Member) {
	r.drop(m.User)
	r.members[m.User] = &m
	if m.Joined {
		r.joined++
	}
	if m.Invited {
		r.invited++
	}
}

func (r *roomState) drop(u UserURI) {
	old := r.members[u]
	if old == nil {
		return
	}
	if old.Joined {
		r.joined--
	}
	if old.Invited {
		r.invited--
	}
	delete(r.members, u)
}

// role returns what u is in the room, RoleNone for strangers.
func (e *Engine) role(r *roomState, u UserURI) Role {
	if u == e.system {
		return RoleOwner
	}
	if m := r.members[u]; m != nil {
		return m.Role
	}
	return RoleNone
}
