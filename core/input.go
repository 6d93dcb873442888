package core

import "time"

// Input is a closed sum: what Apply can be asked to decide. An Envelope is one.
type Input interface{ input() }

type (
	// CreateRoom makes a room; Conflict if it exists. Members are put in as
	// given, the founder as owner if not among them.
	CreateRoom struct {
		Room    Room
		Members []Member
	}
	// PutLink makes or changes a link. A Group is refused where the network
	// cannot carry sealed bodies; a place is linked once per network.
	PutLink struct {
		Link Link
		Caps Caps
	}
	// DropLink removes a link with its cursors.
	DropLink struct{ ID string }
	// TakeLease asks to carry a link's traffic until Until; Conflict while
	// somebody else's lease runs.
	TakeLease struct {
		Link, Holder string
		Until        time.Time
	}
	// Settle moves a link's cursor over events that were delivered, refused or
	// expired, with the IDs they got and what was lost, which is told to each
	// sender once per room and kind.
	Settle struct {
		Cursor Cursor // absolute: replaces the stored one
		Placed []Placed
		Losses []SenderLoss
	}
	// PutAccount makes an account (Create: Conflict if the name is taken) or
	// replaces one.
	PutAccount struct {
		Account Account
		Create  bool
	}
	// PutValue keeps a bridge's own state; nil Data drops it.
	PutValue struct {
		Bucket, Key string
		Data        []byte
	}
	// PutItem queues something for one recipient.
	PutItem struct{ Item Item }
	// DropItems takes a recipient's items up to and including UpTo.
	DropItems struct {
		To   UserURI
		UpTo uint64
	}
)

// A SenderLoss is a Loss and whom to tell.
type SenderLoss struct {
	Room   RoomID
	Sender UserURI
	Loss   Loss
}

func (Envelope) input()   {}
func (CreateRoom) input() {}
func (PutLink) input()    {}
func (DropLink) input()   {}
func (TakeLease) input()  {}
func (Settle) input()     {}
func (PutAccount) input() {}
func (PutValue) input()   {}
func (PutItem) input()    {}
func (DropItems) input()  {}

func (CreateGroup) input()      {}
func (PutWelcome) input()       {}
func (DropWelcome) input()      {}
func (Propose) input()          {}
func (PeerMessages) input()     {}
func (Tick) input()             {}
func (PeerEvents) input()       {}
func (PeerStored) input()       {}
func (NewLog) input()           {}
func (PutDevice) input()        {}
func (PutHomeserver) input()    {}
func (PutSession) input()       {}
func (PutKeyPackages) input()   {}
func (ClaimKeyPackages) input() {}
func (LeaseGroupInfo) input()   {}
func (PutJoinCode) input()      {}
func (PutLetters) input()       {}
func (DropLetters) input()      {}

// Output is what one input came to. It is released only after the commit.
type Output struct {
	Event     *Event   // the event an envelope became, or the one it repeats
	Duplicate bool     // the envelope was accepted before, or changes nothing
	Items     []Item   // queued for recipients
	Room      *Room    // created
	Members   []Member // whom Room begins with
	Link      *Link    // made, changed or leased

	Events    []*Event      // what else was accepted: agreed handshakes, messages of a peer
	Decisions []Decision    // of handshakes that were offered here
	Certified []Certified   // commits that devices may be given now
	Sends     []Send        // for the agreement of other homeservers
	Replies   []PeerMessage // of PeerMessages with Answer: for who sent them
	Letters   []Letter      // queued for devices
	Welcomes  []Welcome     // for homeservers that are not yet part of a room
	Missing   []string      // homeservers whose records an approval waits for
	Stored    uint64        // of PeerEvents
	Passed    []uint64      // of PeerEvents: places that came too late, not known there yet
	Log       uint64        // of PeerEvents: incarnation of what is stored; of NewLog: of our log from now on
	Mark      uint64        // of PeerEvents: MarkOf the message at Stored; 0 = not known
	Stopped   Code          // of PeerEvents: why it stopped at Stored; Internal = it did not
	Left      int           // of PutKeyPackages
	Claims    []Claim
	Lease     *GroupInfoLease
}

// A Welcome is on its way to a homeserver that becomes part of a room by the
// commit it belongs to: the agreement does not reach it yet. It must arrive.
type Welcome struct {
	To      string // domain
	Room    RoomID
	Epoch   uint64
	Message []byte // MLSMessage
	Tree    []byte // in the form of the ratchet_tree extension
}

// A Receipt is what one submitted envelope came to: the event (also for a
// duplicate, if it has one), or why it was refused.
type Receipt struct {
	Event     *Event
	Duplicate bool
	Err       error
}
