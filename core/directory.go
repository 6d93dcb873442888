package core

import "time"

// Bounds of what one device or user may keep at its homeserver.
const (
	MaxDevices     = 64        // of one user, those revoked not counted
	MaxKeyPackages = 200       // one-time packages of one device
	MaxKeyPackage  = 32 << 10  // octets of one; a post-quantum one has 5 KiB
	LowKeyPackages = 20        // below this the device is told
	MaxLetters     = 1000      // that wait for one device
	MaxLetter      = 256 << 10 // octets of one sealed letter
	MaxClaim       = 256       // users of one claim
	MaxJoinCodes   = 100       // of one room
)

// A Device is a device that this homeserver knows: one of its own users, or of
// somebody it has met.
type Device struct {
	URI     DeviceURI
	User    UserURI
	Name    string // what its owner calls it
	Key     []byte // Ed25519
	Revoked bool
	Refused bool     // it signed two records of one version (PROTOCOL §2)
	Local   bool     // registered here
	Seen    int64    // ms of the last session, days exact; 0 = never
	Proof   Identity // record and attestation as they came
}

// A Session is a device, or a user with a password, that has proven who it is.
type Session struct {
	Hash    [32]byte  // SHA-256 of the token
	Device  DeviceURI // "" for a user without a device: Channels only
	User    UserURI
	Expires time.Time
}

// A JoinCode opens a room to those who know it. Only its hash is kept.
type JoinCode struct {
	Room    RoomID
	Hash    [32]byte // of the code and room; people choose codes, so it should be slow
	By      UserURI
	Uses    uint32    // how often it may still be used; 0 = without limit
	Expires time.Time // zero = never
}

// Inputs about devices and what they leave at their homeserver.
type (
	// PutDevice takes up a device: one that registers here (Register: the caller
	// has seen that the user is theirs), or a newer record of one that is known,
	// or one of another homeserver. This homeserver attests its own devices
	// itself, and anew before that ends; the caller may bring an attestation that
	// revokes one. Conflict: an older version. Denied: a proof of equivocation is
	// known or was just made; it is kept. NotFound: the device's homeserver has
	// not been met. Duplicate: nothing new. A device that goes out of use loses
	// its sessions, key packages and letters.
	PutDevice struct {
		Proof    Identity
		Register bool
	}
	// PutHomeserver takes up a homeserver's record: pinned when first seen, then
	// only what the chain of keys leads to (PROTOCOL §2). The caller has a first
	// record from the domain itself. Denied: a break in the chain, which is kept
	// for the operator (AlarmsOf). Conflict: records in between are missing.
	PutHomeserver struct{ Record []byte }
	// PutSession opens a session; an expired time closes it. Of one device, or one
	// user without, so many are open (32); the one that ends first makes room.
	PutSession struct{ Session Session }

	// PutKeyPackages takes a device's key packages (RFC 9420 §10): checked,
	// bound to the device, none handed out twice: all or none. One of last resort
	// replaces that of its suite. What waits already is passed over, so that an
	// upload may be repeated; what was used is a Conflict (RFC 9420 §16.8).
	// Output.Left says how many one-time packages there are now.
	PutKeyPackages struct {
		Device   DeviceURI
		Packages [][]byte // MLSMessage
	}
	// ClaimKeyPackages takes one package for each device of each user
	// (PROTOCOL §7), in one transaction. Output.Claims has a result per device.
	// Whoever takes too many of one device's is given that of last resort.
	// Limited: By asked for too many users.
	ClaimKeyPackages struct {
		By     string  // who is counted: a user, or a peer's domain
		For    UserURI // who asks, and needs the users' consent; "" = somebody unknown
		Users  []UserURI
		Suites []uint16  // acceptable, in order of preference
		Except DeviceURI // the asking device
	}
	// LeaseGroupInfo hands out what an external commit to a Group needs, to one
	// requester at a time for a short while (PROTOCOL §7). Output.Lease has it.
	// The device is one that PutDevice has taken up. Limited: it is somebody
	// else's turn, or By took leases before and did not commit, or too many wrong codes
	// were tried. A code's use counts once for all leases of a user within ten
	// minutes.
	LeaseGroupInfo struct {
		Room RoomID
		User UserURI
		By   DeviceURI
		Code [32]byte // the hash of a join code, as in JoinCode; zero if none
	}
	// PutJoinCode makes a join code, or with Drop removes it.
	PutJoinCode struct {
		Code JoinCode
		Drop bool
	}
	// PutLetters queues sealed letters for devices of this homeserver, and, from
	// this homeserver itself, notices; all or none. Limited: a queue is full, or
	// From has sent too many. Welcomes come by PutWelcome and have room of their own.
	PutLetters struct {
		From    string // who is counted: a user, or a peer's domain
		Letters []Letter
	}
	// DropLetters takes a device's letters up to and including UpTo.
	DropLetters struct {
		Device DeviceURI
		UpTo   uint64
	}
)

// A ClaimStatus is the result of a claim for one user or one device
// (draft-ietf-mimi-protocol-06 §5.2).
type ClaimStatus string

// The results of a claim.
const (
	Claimed      ClaimStatus = "ok"
	Exhausted    ClaimStatus = "exhausted"
	Incompatible ClaimStatus = "incompatible"
	NoConsent    ClaimStatus = "no consent"
	UserUnknown  ClaimStatus = "unknown"
	UserDeleted  ClaimStatus = "deleted"
	Unreachable  ClaimStatus = "unreachable" // the user's homeserver does not answer
	AskAgain     ClaimStatus = "ask again"   // the answer is full
)

// A Claim is what a claim came to for one device; Device is "" when it is about
// the user as a whole.
type Claim struct {
	User    UserURI     `json:"user"`
	Device  DeviceURI   `json:"device,omitempty"`
	Status  ClaimStatus `json:"status"`
	Package []byte      `json:"package,omitempty"` // MLSMessage
	Proof   *Identity   `json:"proof,omitempty"`
}

// A GroupInfoLease is what an external commit needs.
type GroupInfoLease struct {
	Epoch   uint64
	Info    []byte   // GroupInfo of the epoch without the tree, as an MLSMessage
	Tree    []byte   // the ratchet tree, in the form of the extension
	Pending [][]byte // those who leave: SelfRemove proposals of the epoch, each an AuthenticatedContent (RFC 9420 §6)
	Until   time.Time

	Certificates [][]byte // that lead to the epoch, from whoever certifies: epoch.Chain
}
