package core

import (
	"context"
	"time"
)

// A Store remembers. It has two implementations, SQLite and PostgreSQL, and one
// conformance suite. One process writes at a time: opening a store that another
// process holds is Unavailable.
type Store interface {
	// Update runs f in one transaction: committed, and on disk, when Update
	// returns nil; without any effect otherwise, unless the reason of the error is
	// OutcomeUnknown. Updates do not overlap.
	Update(ctx context.Context, f func(Tx) error) error
	// View runs f on one consistent snapshot. Views overlap with everything.
	View(ctx context.Context, f func(Reader) error) error
}

// A Range selects events of one room: After < Seq < Before, at most Limit of
// them, the newest of the selection if Newest, always returned in rising order.
// Before 0 means no upper bound. Limit 0 means none are returned.
type Range struct {
	After, Before uint64
	Limit         int
	Newest        bool
}

// A Presence is one joined membership, as JoinedVia lists it.
type Presence struct {
	Room RoomID
	User UserURI
}

// Reader reads. Lookups of one thing answer a NotFound error if it is absent;
// lists are in the order of their keys and bounded by their limit.
type Reader interface {
	Room(id RoomID) (Room, error)
	Rooms(after RoomID, limit int) ([]Room, error)
	Members(room RoomID) ([]Member, error)
	Bans(room RoomID) ([]Ban, error)
	// RoomsOf lists the rooms in which user has a row, joined or not.
	RoomsOf(user UserURI, after RoomID, limit int) ([]RoomID, error)
	// JoinedVia lists joined members that network relays.
	JoinedVia(network Network, after Presence, limit int) ([]Presence, error)

	// Head returns the room's last Seq and when it was accepted; 0 if none.
	Head(room RoomID) (uint64, time.Time, error)
	Event(room RoomID, seq uint64) (Event, error)
	Events(room RoomID, r Range) ([]Event, error)
	// SeqAt returns the lowest Seq accepted at or after t, Head+1 if there is none.
	SeqAt(room RoomID, t time.Time) (uint64, error)
	ByOrigin(network Network, id string) (RoomID, uint64, error)

	Link(id string) (Link, error)
	Links(after string, limit int) ([]Link, error)
	Cursor(link string, lane Lane) (Cursor, error) // zero cursor if none yet
	Placed(link string, event EventID) ([]Placed, error)
	PlacedAs(link, foreign string) (Placed, error)

	Items(to UserURI, after uint64, limit int) ([]Item, error)
	Account(fold string) (Account, error)
	Accounts(after string, limit int) ([]Account, error)
	Value(bucket, key string) ([]byte, error)
	Values(bucket, after string, limit int) ([]Value, error)
}

// A Value is a bridge's own small state: read markers, metadata.
type Value struct {
	Key  string
	Data []byte
}

// Tx reads what it wrote. Put means insert or replace; Drop of what is absent
// is no error.
type Tx interface {
	Reader
	PutRoom(r Room) error
	PutMember(room RoomID, m Member) error
	DropMember(room RoomID, user UserURI) error
	PutBan(room RoomID, b Ban) error
	DropBan(room RoomID, list byte, mask string) error

	// Append adds e at Seq = head+1 and, if e.Origin.ID is set, its origin. An
	// origin that exists already is a Conflict: the engine looked before.
	Append(e Event) error
	// Replace writes e over the event with its Seq: for tombstones.
	Replace(e Event) error

	PutLink(l Link) error
	DropLink(id string) error // with its cursors and placed IDs
	PutCursor(c Cursor) error
	PutPlaced(p Placed) error

	PutItem(i Item) (Item, error) // sets ID
	DropItems(to UserURI, upTo uint64) error
	PutAccount(a Account) error
	PutValue(bucket, key string, data []byte) error
	DropValue(bucket, key string) error
}
