package native

import (
	"context"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// peers is what the device API asks of other homeservers on behalf of its users;
// *federation answers. Every call is bounded by its context; a homeserver that
// does not answer is Unavailable, one that is blocked or not known Denied or NotFound.
type peers interface {
	// claim takes key packages of users who are all at domain.
	claim(ctx context.Context, domain string, c wire.PeerClaim) ([]core.Claim, error)
	// records asks domain for what q names, and takes up what it says
	// (PutHomeserver, PutDevice): afterwards the store knows what there is to know.
	records(ctx context.Context, domain string, q wire.PeerRecords) error
	// inbox hands over letters for devices at domain.
	inbox(ctx context.Context, domain string, in wire.PeerInbox) error
	// groupInfo asks a homeserver of the room for a lease; the answer is sealed
	// to the device's key.
	groupInfo(ctx context.Context, domain string, in wire.PeerGroupInfo) (wire.GroupInfo, error)
	// handshake offers an external commit through a homeserver of the room. A
	// refusal is an error; with StaleEpoch it wraps a *stale.
	handshake(ctx context.Context, domain string, in wire.PeerHandshake) (wire.Decided, error)
}
