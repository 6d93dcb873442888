package client

import "context"

// A Row is one value in a KV: the Nth of a table.
type Row struct {
	Table string
	N     uint64
	Data  []byte // nil drops the row
}

// A KV is where a device keeps its state. Names of tables hold names of rooms and
// users, and values hold private keys: see Seal.
type KV interface {
	// Get returns a row's data, nil if there is none.
	Get(ctx context.Context, table string, n uint64) ([]byte, error)
	// Rows lists rows of a table from N = from on, rising, at most limit.
	Rows(ctx context.Context, table string, from uint64, limit int) ([]Row, error)
	// Write puts and drops rows: all of them on disk when it returns nil. After
	// an error either all or none may be there.
	Write(ctx context.Context, rows []Row) error
}

// The tables. A room's own begin with a word and a slash and end with the room.
const (
	tableSelf       = "self"         // 0: who this device is
	tablePosition   = "position"     // 0: where Sync goes on
	tableRooms      = "rooms"        // number of the room: roomState
	tablePackages   = "key packages" // rising: storedPackage
	tableHeld       = "letters"      // letter ID: letters that wait to be handled
	tableInbox      = "inbox"        // rising: Letter, opened
	tableOutbox     = "outbox"       // rising: messages that were sealed and are not accepted yet
	tableDevices    = "device/"      // + device: knownDevice
	tableHomeserver = "homeserver/"  // + domain: the pinned chain
	tableGroup      = "group/"       // + room: 0 the snapshot, then its change records
	tableOffer      = "offer/"       // + room: 0 the handshake that was offered
	tableJoining    = "joining/"     // + room: 0 the group of an external commit, 1 its offer
	tableMessages   = "messages/"    // + room: ^place: Message, the newest first
	tableAgain      = "again/"       // + room: place: said
	tableFuture     = "future/"      // + room: place: events of epochs to come
)
