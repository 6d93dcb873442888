package core

import (
	"crypto/sha256"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Bounds of one handshake, in octets. A commit that changes every path of a tree
// of 10,000 devices is 0.8 MB; a Welcome for 1,000 devices 0.2 MB.
const (
	MaxHandshake = 8 << 20
	MaxProposals = 256 // proposals of one handshake: those of a leave, of each device one
	MaxRecords   = 4096
)

// A DeviceURI names a device: mimi://a.example/d/<id>, where the ID is made of
// the device's key (PROTOCOL §1).
type DeviceURI string

// NewDeviceURI returns the URI of the device called id at domain.
func NewDeviceURI(domain, id string) DeviceURI { return DeviceURI("mimi://" + domain + "/d/" + id) }

// ParseDeviceURI checks s and returns it as a DeviceURI, or an Invalid error.
func ParseDeviceURI(s string) (DeviceURI, error) {
	if _, _, err := splitURI(s, "d"); err != nil {
		return "", err
	}
	return DeviceURI(s), nil
}

// Domain returns the homeserver's domain, "" if d is not a device URI.
func (d DeviceURI) Domain() string { domain, _, _ := splitURI(string(d), "d"); return domain }

// ID returns the device part.
func (d DeviceURI) ID() string { _, id, _ := splitURI(string(d), "d"); return id }

// GroupID returns the MLS group_id of a room: its URI of kind /g/
// (draft-ietf-mimi-protocol-06 §3.2).
func GroupID(room RoomID) []byte {
	domain, path, err := splitURI(string(room), "r")
	if err != nil {
		return nil
	}
	return []byte("mimi://" + domain + "/g/" + path)
}

// A Handshake is what changes a Group: proposals, or a commit with all that
// belongs to it (PROTOCOL §6). It is what the homeservers of a room agree on; the
// messages are kept and handed on as the device made them.
type Handshake struct {
	Room RoomID    `cbor:"1,keyasint"`
	By   DeviceURI `cbor:"2,keyasint,omitempty"` // whose session offered it; "" from an external sender
	Home string    `cbor:"3,keyasint"`           // the homeserver that offered it
	// Message is an MLSMessage: a commit or a proposal as PublicMessage.
	Message []byte `cbor:"4,keyasint"`
	// More are further proposals of the same sender: all or none are taken.
	More [][]byte `cbor:"5,keyasint,omitempty"`
	// Welcome is the MLSMessage for the devices that a commit adds, nil if none;
	// it does not contain the tree.
	Welcome []byte `cbor:"6,keyasint,omitempty"`
	// Info is the GroupInfoOption of the new epoch: full or partial
	// (draft-ietf-mimi-protocol-06 §5.3). A commit has it.
	Info []byte `cbor:"7,keyasint,omitempty"`
	// Records are device records with attestations of the devices that a commit
	// brings in, so that every homeserver can judge them: see Identity.
	Records []Identity `cbor:"8,keyasint,omitempty"`
	// Code says that the sender of an external commit has shown a join code to
	// Home, whose word counts for it: only Home knows the codes that it keeps.
	Code bool `cbor:"9,keyasint,omitempty"`
	// Newcomers is set by CheckHandshake: the commit brings devices in.
	Newcomers bool `cbor:"-"`
}

// An Identity is what a homeserver knows of a device: the signed record and the
// signed attestation, both as package identity encodes them.
type Identity struct {
	Record      []byte `cbor:"1,keyasint" json:"record"`
	Attestation []byte `cbor:"2,keyasint" json:"attestation"`
}

// ID names the handshake: SHA-256 of its messages. Offering one twice is one offer.
func (h *Handshake) ID() HandshakeID {
	d := sha256.New()
	d.Write(h.Message)
	for _, m := range h.More {
		d.Write(m)
	}
	return HandshakeID(d.Sum(nil))
}

// Encode returns the entry of the agreement's log.
func (h *Handshake) Encode() []byte {
	b, err := cbor.Marshal(h)
	if err != nil {
		panic(err) // strings and octets: cannot fail
	}
	return b
}

// ParseHandshake decodes an entry within its bounds.
func ParseHandshake(b []byte) (*Handshake, error) {
	if len(b) > MaxHandshake {
		return nil, Errorf(TooLarge, "a handshake over %d octets", MaxHandshake)
	}
	h := new(Handshake)
	if err := strictCBOR.Unmarshal(b, h); err != nil {
		return nil, Errorf(Invalid, "handshake: %w", err)
	}
	if len(h.More) > MaxProposals || len(h.Records) > MaxRecords {
		return nil, Errorf(TooLarge, "too many proposals or records in a handshake")
	}
	return h, nil
}

// StrictCBOR decodes what others wrote, and bounds what they make it build: so many
// levels, items of a list and pairs of a map; no key twice, no tags, no indefinite
// lengths. Bounds are constants: it panics if the library does not have such.
func StrictCBOR(levels, items, pairs int) cbor.DecMode {
	m, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden, TagsMd: cbor.TagsForbidden,
		MaxNestedLevels: levels, MaxArrayElements: items, MaxMapPairs: pairs}.DecMode()
	if err != nil {
		panic(err)
	}
	return m
}

// strictCBOR is for what a peer wrote.
var strictCBOR = StrictCBOR(8, 1<<16, 1<<10)

// A HandshakeID names a handshake, see Handshake.ID.
type HandshakeID [32]byte

// Inputs of end-to-end encrypted rooms.
type (
	// CreateGroup makes a Group at this homeserver from the GroupInfo that its
	// first device made, with the ratchet tree inside. The answer is in
	// Output.Room; Conflict if the room exists.
	CreateGroup struct {
		Room   Room // ID, Name, Direct
		By     DeviceURI
		User   UserURI
		Info   []byte // MLSMessage
		Record Identity
	}
	// Propose offers a handshake to the agreement of its room. A refusal is an
	// error at once; what was not refused comes back as a Decision, in this
	// output or a later one (Output.Decisions, by Handshake.ID).
	Propose struct{ Handshake *Handshake }
	// PeerMessages are what another homeserver's agreement says, as its Sends
	// had it. The transport has checked that they come from From. With Answer what
	// is said to From goes back with the answer to its request, see Answered.
	PeerMessages struct {
		From     string
		Messages []PeerMessage
		Answer   bool
	}
	// Tick moves the agreement's clock: the shell offers one each TickEvery
	// while Machine.Awake.
	Tick struct{}
	// PeerEvents are application messages that From accepted for one room,
	// in the order of its log. The answer's Event is nil; Output.Stored is the
	// highest place of From's log that is stored here now. StaleEpoch: the
	// messages are of an epoch that has not begun here; try again soon.
	// Output.Passed are places whose messages were passed over because their
	// epoch ended too long ago: until a batch begins behind them they are named
	// in every answer. Log is the incarnation of From's log: a higher one than
	// before takes the place of what is behind the first Prev. Conflict: a lower one,
	// a gap, or another message at Stored than Output.Mark names.
	PeerEvents struct {
		From   string
		Room   RoomID
		Log    uint64
		Events []PeerEvent
	}
	// PutWelcome takes a Welcome that another homeserver has for devices here: a
	// letter for each device whose key package it names. Denied: for nobody here.
	PutWelcome struct {
		From    string
		Welcome Welcome
	}
	// DropWelcome takes a Welcome off the queue of Welcomes: it has arrived.
	DropWelcome struct{ Welcome Welcome }
	// PeerStored says how far the log of Room is stored at a peer, and which of
	// its places, rising, the peer passed over: a letter for the devices of each
	// sender says so. No batch may begin behind those before this is committed.
	PeerStored struct {
		Peer   string
		Room   RoomID
		Seq    uint64
		Passed []uint64
	}
	// NewLog begins a new incarnation of this homeserver's log of Room, because it
	// has lost something of incarnation Was that it said to others. If another has
	// begun meanwhile, that one stays. Output.Log is the one that counts.
	NewLog struct {
		Room RoomID
		Was  uint64
	}
)

// TickEvery is the time between two Ticks.
const TickEvery = 100 * time.Millisecond

// A PeerEvent is one sealed message in the log of the homeserver that accepted it
// from its device.
type PeerEvent struct {
	_        struct{} `cbor:",toarray"`
	Seq      uint64   // place in that log; rising, not dense: only what was born there is sent
	Prev     uint64   // place of the one sent before; 0 = the first
	Accepted int64    // ms
	Sender   UserURI
	Message  []byte // MLSMessage, verbatim
}

// A Send is something for another homeserver's agreement. It may be lost; what
// must arrive is said again by the agreement itself.
type Send struct {
	To      string
	Message PeerMessage
}

// A PeerMessage is one message of the agreement of one room.
type PeerMessage struct {
	_    struct{} `cbor:",toarray"`
	Room RoomID
	Kind PeerKind
	Body []byte
}

// A PeerKind says what a PeerMessage holds.
type PeerKind uint8

const (
	PeerRaft        PeerKind = 1 // a raft message (go.etcd.io/raft/v3 raftpb)
	PeerApproval    PeerKind = 2 // an approval, see package epoch
	PeerWant        PeerKind = 3 // asks for approvals of an epoch: 8 octets
	PeerRefused     PeerKind = 4 // a forwarded handshake was refused by the leader: Handshake.ID, code, text, ms to wait; or who leads
	PeerCertificate PeerKind = 5 // a certificate, see package epoch
	PeerMembers     PeerKind = 6 // the epoch, and the domains that take part in the agreement, in CBOR; empty asks a voter
	PeerAsk         PeerKind = 7 // asks a voter whether it would approve a commit that brings devices in: Handshake.Encode
	PeerOpinion     PeerKind = 8 // the answer: Handshake.ID, code (0: it would), text
)

// A Decision is what a handshake offered here came to.
type Decision struct {
	ID     HandshakeID
	Room   RoomID
	Epoch  uint64 // the epoch that the room is in now
	Seq    uint64 // of the event it became; 0 if refused
	Err    error  // nil: accepted. StaleEpoch: another commit ended that epoch
	Winner []byte // with StaleEpoch: the commit that did, an MLSMessage, if it is still known
}

// Certified says that enough homeservers signed the commit that opened Epoch: it
// may be given to devices now.
type Certified struct {
	Room  RoomID
	Epoch uint64
	Seq   uint64 // of the commit's event
}

// A Letter is something for one device: a Welcome, a sealed letter. It is kept
// until the device takes it.
type Letter struct {
	Device DeviceURI
	ID     uint64 // rising per device; set by the core
	Kind   LetterKind
	Room   RoomID // "" for letters of the inbox
	Epoch  uint64 // of a Welcome: the epoch that it enters
	Body   []byte // a Welcome as MLSMessage, or what the sender sealed
	At     time.Time
}

// A LetterKind says what a letter holds.
type LetterKind uint8

const (
	LetterWelcome  LetterKind = 1 // MLSMessage Welcome; the tree is asked for by room and epoch
	LetterSealed   LetterKind = 2 // HPKE to the device's inbox key (PROTOCOL §10)
	LetterLowWater LetterKind = 3 // few key packages are left: Epoch is how many
	LetterNotice   LetterKind = 4 // from the homeserver: plain text
	LetterAgain    LetterKind = 5 // the device is to say messages in Room again, see Unheard
)

// An Authority is who agrees on the epochs of a Group, and who else keeps it.
type Authority struct {
	Epoch     uint64
	Voters    []string // domains, sorted; one decides alone
	Followers []string // further domains with participants: they keep the log and do not vote
	Rule      uint8    // approvals that a certificate needs: 0 a majority, 1 more than two thirds
}

// Opened is what a homeserver vouches for when a commit opened an epoch
// (PROTOCOL §6).
type Opened struct {
	Room       RoomID
	Epoch      uint64 // the new one
	Seq        uint64 // of the commit's event in the log here
	Commit     HandshakeID
	Transcript []byte    // confirmed_transcript_hash
	Tree       []byte    // tree_hash
	Before     Authority // who decided: they approve
	After      Authority
}

// Answered takes what out says to who sent in, if an answer can carry that, out of
// out.Sends into out.Replies. It is the shell's to do, after the commit.
func (in PeerMessages) Answered(out *Output) {
	if !in.Answer {
		return
	}
	out.Sends = slices.DeleteFunc(out.Sends, func(s Send) bool {
		if s.To == in.From {
			out.Replies = append(out.Replies, s.Message)
		}
		return s.To == in.From
	})
}
