package wire

import "github.com/isthmus-chat/isthmus/core"

// Error is the body of every answer that refuses.
type Error struct {
	Code       string `json:"code"` // core.Code's name, "stale epoch" for instance
	Reason     string `json:"reason,omitempty"`
	Text       string `json:"text"`
	RetryAfter int64  `json:"retry_after_ms,omitempty"`
	Epoch      uint64 `json:"epoch,omitempty"`  // with a stale epoch: the one the room is in
	Winner     []byte `json:"winner,omitempty"` // and the commit that ended the other
}

// RegisterDevice is POST /v1/devices: a device proves that it holds its key by
// its signed record, and that it belongs to its user by one of the others.
type RegisterDevice struct {
	Record   []byte `json:"record"`             // identity.SignedRecord
	Token    string `json:"token,omitempty"`    // registration token, where the operator asks for one
	Password string `json:"password,omitempty"` // of the account with the user's name
	// Sponsor and Approval: another device of the user and its signature
	// "isthmus device approval" over SHA-256 of the record.
	Sponsor  core.DeviceURI `json:"sponsor,omitempty"`
	Approval []byte         `json:"approval,omitempty"`
}

// Device is a device as its homeserver shows it.
type Device struct {
	Device  core.DeviceURI `json:"device"`
	User    core.UserURI   `json:"user"`
	Name    string         `json:"name,omitempty"`
	Revoked bool           `json:"revoked,omitempty"`
	Refused bool           `json:"refused,omitempty"`
	Proof   core.Identity  `json:"proof"`
}

// PutRecord is PUT /v1/devices/self: a newer record of the calling device.
type PutRecord struct {
	Record []byte `json:"record"`
}

// OpenSession is POST /v1/sessions. A device asks twice: first with its URI
// alone, then with the challenge of the answer and its signature
// "isthmus session" over the challenge. A user without a device gives
// Account and Password, and may use Channels only.
type OpenSession struct {
	Device    core.DeviceURI `json:"device,omitempty"`
	Challenge []byte         `json:"challenge,omitempty"`
	Signature []byte         `json:"signature,omitempty"`
	Account   string         `json:"account,omitempty"`
	Password  string         `json:"password,omitempty"`
}

// Session answers OpenSession: a challenge, or a token for the header
// "Authorization: Bearer".
type Session struct {
	Challenge []byte       `json:"challenge,omitempty"`
	Token     string       `json:"token,omitempty"`
	User      core.UserURI `json:"user,omitempty"`
	Expires   int64        `json:"expires_ms,omitempty"`
}

// User is GET /v1/users/{user}: the devices of somebody, here or elsewhere.
type User struct {
	User    core.UserURI `json:"user"`
	Devices []Device     `json:"devices"`
}

// Homeserver is GET /v1/homeservers/{domain}: the chain of records, oldest first.
type Homeserver struct {
	Domain  string   `json:"domain"`
	Records [][]byte `json:"records"` // identity.HomeserverRecord, signed
}

// PutKeyPackages is PUT /v1/key-packages.
type PutKeyPackages struct {
	Packages [][]byte `json:"packages"` // MLSMessage
}

// KeyPackages answers PutKeyPackages and GET /v1/key-packages.
type KeyPackages struct {
	Left int `json:"left"` // one-time packages that nobody took yet
}

// Claim is POST /v1/key-packages/claim: a package for each device of each user.
type Claim struct {
	Room   core.RoomID    `json:"room,omitempty"`
	Users  []core.UserURI `json:"users"`
	Suites []uint16       `json:"suites"`
}

// Claims answers Claim.
type Claims struct {
	Claims []core.Claim `json:"claims"`
}

// Consent is what a user thinks of being added to rooms by one other, or, with User
// "", by everybody not named. Where nothing is said everybody may.
type Consent struct {
	User core.UserURI `json:"user,omitempty"`
	May  bool         `json:"may"`
}

// PutConsent is PUT /v1/consent. Nobody else is told.
type PutConsent struct {
	User   core.UserURI `json:"user,omitempty"` // "" = everybody not named
	May    bool         `json:"may,omitempty"`
	Forget bool         `json:"forget,omitempty"` // it is as if nothing had been said
}

// Consents answers PutConsent and GET /v1/consent.
type Consents struct {
	Consents []Consent `json:"consents"` // what is said of everybody not named first
}

// CreateRoom is POST /v1/rooms. A Group has Info, made by the device that
// creates it; a Channel has none.
type CreateRoom struct {
	Room core.RoomID `json:"room,omitempty"` // "" = chosen from the name
	Kind string      `json:"kind"`           // "group" or "channel"
	Name string      `json:"name"`
	// Direct is a conversation of two; with the other one in Channels.
	Direct bool         `json:"direct,omitempty"`
	With   core.UserURI `json:"with,omitempty"`
	Info   []byte       `json:"group_info,omitempty"` // MLSMessage with the ratchet tree
}

// Room is a room as its homeserver shows it.
type Room struct {
	Room        core.RoomID   `json:"room"`
	Kind        string        `json:"kind"`
	Name        string        `json:"name"`
	Topic       string        `json:"topic,omitempty"`
	ContentType string        `json:"content_type"`
	Direct      bool          `json:"direct,omitempty"`
	Encrypted   bool          `json:"encrypted"`
	Domain      []byte        `json:"security_domain,omitempty"` // MLS group_id (PROTOCOL §13)
	Epoch       uint64        `json:"epoch,omitempty"`
	Authority   []string      `json:"authority,omitempty"` // homeservers that agree on epochs
	Head        uint64        `json:"head"`                // place of the newest event
	Joined      bool          `json:"joined"`
	Members     []Participant `json:"members,omitempty"` // of one room asked for, at most 1,000
}

// Participant is a user in a room.
type Participant struct {
	User core.UserURI `json:"user"`
	Role string       `json:"role"`
	Name string       `json:"name,omitempty"`
}

// Rooms is GET /v1/rooms: those that the user is in.
type Rooms struct {
	Rooms []Room `json:"rooms"`
}

// JoinRoom is POST /v1/rooms/{room}/join, of a Channel: a Group is joined by a
// handshake.
type JoinRoom struct {
	Key string `json:"key,omitempty"` // where the Channel asks for one
}

// Send is POST /v1/rooms/{room}/messages: one or many, in order. The header
// Idempotency-Key or each message's ID makes a repeat harmless.
type Send struct {
	Messages []Message `json:"messages"`
}

// Message is one message offered: sealed for a Group; for a Channel text, or
// content with its type.
type Message struct {
	ID      string `json:"id,omitempty"` // idempotency key: the same again is the same message
	Sealed  []byte `json:"sealed,omitempty"`
	Text    string `json:"text,omitempty"`
	Type    string `json:"content_type,omitempty"`
	Content []byte `json:"content,omitempty"`
	Sent    int64  `json:"sent_ms,omitempty"`
}

// Sent answers Send, a result per message.
type Sent struct {
	Results []SentResult `json:"results"`
}

// SentResult is what one message came to: its place, or why not.
type SentResult struct {
	Seq       uint64 `json:"seq,omitempty"`
	Event     string `json:"event,omitempty"`
	Accepted  int64  `json:"accepted_ms,omitempty"`
	Duplicate bool   `json:"duplicate,omitempty"`
	Error     *Error `json:"error,omitempty"`
}

// Handshake is POST /v1/rooms/{room}/handshakes: proposals, or a commit with all
// that belongs to it.
type Handshake struct {
	Message []byte          `json:"message"`           // MLSMessage
	More    [][]byte        `json:"more,omitempty"`    // further proposals
	Welcome []byte          `json:"welcome,omitempty"` // MLSMessage without the tree
	Info    []byte          `json:"info,omitempty"`    // GroupInfoOption of the new epoch
	Records []core.Identity `json:"records,omitempty"` // of devices that come in
}

// Decided answers Handshake when it was accepted; otherwise the answer is 409
// with the epoch and the winner.
type Decided struct {
	Epoch uint64 `json:"epoch"`
	Seq   uint64 `json:"seq"` // place in the log; 0: not known yet, because another homeserver decided it
}

// GetGroupInfo is POST /v1/rooms/{room}/group-info: a lease on the state of a
// room, for an external commit. The answer is sealed to Key.
type GetGroupInfo struct {
	Key  []byte `json:"key"` // X25519 public key, for HPKE base mode
	Code string `json:"code,omitempty"`
}

// GroupInfo answers GetGroupInfo: HPKE (DHKEM(X25519), HKDF-SHA256, AES-128-GCM)
// with info "isthmus group info" 0x00 room; inside is a GroupState in CBOR.
type GroupInfo struct {
	KEM        []byte `json:"kem"`
	Ciphertext []byte `json:"ciphertext"`
	Until      int64  `json:"until_ms"`
}

// GroupState is what GroupInfo holds, sealed.
type GroupState struct {
	Epoch   uint64   `json:"epoch"`
	Info    []byte   `json:"info"`              // MLSMessage with the GroupInfo, without the tree
	Tree    []byte   `json:"tree"`              // in the form of the extension
	Pending [][]byte `json:"pending,omitempty"` // SelfRemoves that wait, each an AuthenticatedContent (RFC 9420 §6)
	// Certificates are of the commits that changed who decides, as far as they are
	// known, rising, and, last, of the one that opened the epoch; none of epoch 0.
	Certificates [][]byte `json:"certificates,omitempty"`
}

// Certificates answers GET /v1/rooms/{room}/certificates?epoch=N: those that lead to
// an epoch, as in GroupState. Unavailable while too few homeservers have signed.
type Certificates struct {
	Epoch        uint64   `json:"epoch"`
	Certificates [][]byte `json:"certificates"`
}

// Tree answers GET /v1/rooms/{room}/tree?epoch=N: the ratchet tree in the form of
// the extension, for who has a Welcome to that epoch.
type Tree struct {
	Epoch uint64 `json:"epoch"`
	Tree  []byte `json:"tree"`
}

// JoinCode is POST and DELETE /v1/rooms/{room}/join-codes.
type JoinCode struct {
	Code    string `json:"code,omitempty"` // POST: "" = make one; a passphrase otherwise
	Uses    uint32 `json:"uses,omitempty"` // 0 = without limit
	Expires int64  `json:"expires_ms,omitempty"`
}

// Event is one event of a room as a device is given it.
type Event struct {
	Room     core.RoomID  `json:"room"`
	Seq      uint64       `json:"seq"`
	Event    string       `json:"event"`
	Sender   core.UserURI `json:"sender"`
	Sent     int64        `json:"sent_ms,omitempty"`
	Accepted int64        `json:"accepted_ms"`
	Home     string       `json:"home,omitempty"` // homeserver that accepted it, if another

	Sealed      []byte `json:"sealed,omitempty"`      // MLSMessage, verbatim
	Certificate []byte `json:"certificate,omitempty"` // of a commit, see package epoch

	Type    string `json:"content_type,omitempty"`
	Content []byte `json:"content,omitempty"`
	Text    string `json:"text,omitempty"` // of a Channel: the content as text, for people
	// Name is what the sender of a Channel's message was called when it was said, if it
	// is not the name in Sender: a bridge's claim, which proves nothing.
	Name    string `json:"name,omitempty"`
	Deleted bool   `json:"deleted,omitempty"`
}

// Letter is one letter as a device is given it.
type Letter struct {
	ID    uint64      `json:"id"`
	Kind  string      `json:"kind"` // "welcome", "sealed", "low water", "notice", "again"
	Room  core.RoomID `json:"room,omitempty"`
	Epoch uint64      `json:"epoch,omitempty"`
	Body  []byte      `json:"body,omitempty"`
	At    int64       `json:"at_ms"`
	// Unheard are, with "again", messages of the user in Room that a homeserver of
	// others came too late for: the device that said one says it again when its epoch
	// has ended here for as long. Without any there are more than can be listed.
	Unheard []core.Unheard `json:"unheard,omitempty"`
}

// letterKinds are the names of the kinds of letters.
var letterKinds = map[core.LetterKind]string{core.LetterWelcome: "welcome", core.LetterSealed: "sealed",
	core.LetterLowWater: "low water", core.LetterNotice: "notice", core.LetterAgain: "again"}

// LetterOf is a letter of the queue as its device is given it. Internal: what is
// stored of a LetterAgain cannot be read.
func LetterOf(l *core.Letter) (w Letter, err error) {
	w = Letter{ID: l.ID, Kind: letterKinds[l.Kind], Room: l.Room, Epoch: l.Epoch, Body: l.Body, At: l.At.UnixMilli()}
	if l.Kind == core.LetterAgain {
		w.Body = nil
		w.Unheard, err = l.Unheard()
	}
	return w, err
}

// GetSync is GET or POST /v1/sync: what is new since a position, waiting up to
// Wait for something to be. Letters up to the position are dropped by it: asking
// with a position acknowledges what led to it.
type GetSync struct {
	Since string `json:"since,omitempty"` // Sync.Next of before; "" = from now on
	Wait  int64  `json:"wait_ms,omitempty"`
	Limit int    `json:"limit,omitempty"` // events at most
	// Rooms are positions that the device knows itself: events after them.
	Rooms map[core.RoomID]uint64 `json:"rooms,omitempty"`
}

// Sync answers GetSync.
type Sync struct {
	Events  []Event       `json:"events,omitempty"`
	Letters []Letter      `json:"letters,omitempty"`
	Typing  []Typing      `json:"typing,omitempty"`
	Joined  []Room        `json:"joined,omitempty"` // rooms that the position did not know, with where it begins in them
	Left    []core.RoomID `json:"left,omitempty"`
	Next    string        `json:"next"`
	More    bool          `json:"more,omitempty"` // ask again at once
}

// Typing is POST /v1/rooms/{room}/typing and a part of Sync.
type Typing struct {
	Room   core.RoomID  `json:"room,omitempty"`
	User   core.UserURI `json:"user,omitempty"`
	Typing bool         `json:"typing"`
}

// History answers GET /v1/rooms/{room}/history?before=&limit=: rising order.
type History struct {
	Events []Event `json:"events"`
	More   bool    `json:"more,omitempty"` // there are older ones
}

// PutInbox is POST /v1/inbox/{user}: sealed letters, one for each device
// (PROTOCOL §10).
type PutInbox struct {
	Letters []SealedLetter `json:"letters"`
}

// SealedLetter is HPKE base mode to the inbox key of a device's record, with info
// "isthmus letter" 0x00 device; the plaintext is padded to a power of two.
type SealedLetter struct {
	Device     core.DeviceURI `json:"device"`
	KEM        []byte         `json:"kem"`
	Ciphertext []byte         `json:"ciphertext"`
}
