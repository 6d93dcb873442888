package client

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// Bounds of what a device keeps and does.
const (
	maxRooms     = 1 << 14
	maxKnown     = 1 << 18 // devices of others
	maxChains    = 1 << 14 // homeservers
	maxRecords   = 128     // change records of a group between two snapshots
	maxRows      = 512     // rows that wait before they are written
	maxUpdates   = 1 << 14 // updates that nobody has taken yet
	pageRows     = 512
	maxTries     = 100 // of one change
	maxCatchUp   = 200 // rounds until an accepted commit has come back
	maxOutbox    = 1024
	maxOffered   = 256     // messages of one request to the homeserver, which takes 1,000,
	offeredBytes = 4 << 20 // and their octets, or one message: it takes 16 MiB
	maxFuture    = 1024    // events of epochs to come, of one room
	maxHeld      = 1024
	maxContent   = 4 << 20
	pastEpochs   = 8 // whose messages are read: more than homeservers take (policy.DefaultEpochTolerance)
	firstBackoff = 10 * time.Millisecond
	lastBackoff  = 4 * time.Second
)

// Config is what a Client needs of the world.
type Config struct {
	Store KV
	Home  Home
	Rand  io.Reader
	Now   func() time.Time
	// Wait returns after d, or with ctx's error: before a change is tried again.
	Wait func(ctx context.Context, d time.Duration) error
	// Suite of new Groups and key packages: one that signs with Ed25519. 0 is
	// X25519AES128SHA256Ed25519.
	Suite mls.Suite
	// UpdateEvery is how often the device renews its keys in a Group; 0 is a
	// week, negative never.
	UpdateEvery time.Duration
	// Packages is how many one-time key packages the device keeps at its
	// homeserver, at most core.MaxKeyPackages; 0 is 100.
	Packages int
}

// A Client is one device of one user.
type Client struct {
	cfg    Config
	groups *group.Config

	mu       sync.Mutex
	loaded   bool
	self     *self // nil before Prepare
	at       position
	rooms    map[core.RoomID]*room
	order    []*room // by number
	known    map[core.DeviceURI]*knownDevice
	users    map[core.UserURI][]*knownDevice // in the order in which they were met
	chains   map[string]*pinned
	packages map[string]*storedPackage // by reference
	outbox   []*outgoing               // in order of N
	inbox    uint64                    // N of the next opened letter
	next     uint64                    // N of the next key package, outgoing message
	held     []*heldLetter
	tended   int64  // ms of the last look at what is seldom due
	low      bool   // few key packages are left
	recalled int    // rooms whose messages are in memory
	rounds   uint64 // answers to Sync that were read
	reading  bool   // one is being read

	rows    []Row
	dirty   []*room
	updates []Update
}

// Open continues with the device in cfg.Store, or begins with none: then Prepare
// and Register come first.
func Open(ctx context.Context, cfg Config) (*Client, error) {
	if cfg.Suite == 0 {
		cfg.Suite = mls.X25519AES128SHA256Ed25519
	}
	if cfg.UpdateEvery == 0 {
		cfg.UpdateEvery = 7 * 24 * time.Hour
	}
	if cfg.Packages <= 0 {
		cfg.Packages = 100
	}
	cfg.Packages = min(cfg.Packages, core.MaxKeyPackages)
	c := &Client{cfg: cfg}
	c.groups = &group.Config{
		Rand: cfg.Rand, SendWhilePending: true, Padding: 32, Limits: group.Limits{PastEpochs: pastEpochs},
		Policy: &mls.Policy{
			Authenticate: c.authenticate,
			Client:       func(l *mls.LeafNode) string { return string(l.Credential.Data) },
			Now:          func() uint64 { return uint64(cfg.Now().Unix()) },
			MaxMembers:   core.MaxGroupDevices,
			Components:   policy.Component,
		},
	}
	err := c.enter(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Unlock()
	return c, nil
}

// enter locks the client; what a failed write left uncertain is read again first.
// The caller unlocks if the error is nil.
func (c *Client) enter(ctx context.Context) error {
	c.mu.Lock()
	if err := c.ready(ctx); err != nil {
		c.mu.Unlock()
		return err
	}
	return nil
}

func (c *Client) ready(ctx context.Context) error {
	if c.loaded {
		return nil
	}
	return c.load(ctx)
}

// load reads everything but the groups, which are read when they are used.
func (c *Client) load(ctx context.Context) error {
	c.rooms, c.order, c.self = map[core.RoomID]*room{}, nil, nil
	c.known, c.users = map[core.DeviceURI]*knownDevice{}, map[core.UserURI][]*knownDevice{}
	c.chains, c.packages = map[string]*pinned{}, map[string]*storedPackage{}
	c.outbox, c.held, c.inbox, c.next, c.at = nil, nil, 0, 0, position{}
	c.recalled = 0
	for _, step := range []func(context.Context) error{c.loadSelf, c.loadPosition, c.loadChains, c.loadKnown, c.loadPackages, c.loadOutbox, c.loadLetters, c.loadRooms} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	c.loaded = true
	return nil
}

// forget drops what is in memory: a write may have failed or not.
func (c *Client) forget() {
	c.loaded, c.rows, c.dirty, c.updates = false, nil, nil, nil
}

// each reads a table page by page.
func (c *Client) each(ctx context.Context, table string, f func(Row) error) error {
	for from := uint64(0); ; {
		rows, err := c.cfg.Store.Rows(ctx, table, from, pageRows)
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := f(r); err != nil {
				return err
			}
		}
		if len(rows) < pageRows || rows[len(rows)-1].N == ^uint64(0) {
			return nil
		}
		from = rows[len(rows)-1].N + 1
	}
}

// put is written with the next flush; nil drops the row.
func (c *Client) put(table string, n uint64, data []byte) {
	c.rows = append(c.rows, Row{table, n, data})
}

func (c *Client) putCBOR(table string, n uint64, v any) { c.put(table, n, encode(v)) }

// encode is for values of ours, which can be encoded.
func encode(v any) []byte {
	b, err := cbor.Marshal(v)
	if err != nil {
		panic(err) // structs of octets, strings and numbers: cannot fail
	}
	return b
}

// decode reads a stored value.
func decode(b []byte, v any) error {
	if err := cbor.Unmarshal(b, v); err != nil {
		return core.Errorf(core.Internal, "stored value: %w", err)
	}
	return nil
}

// touch has the room's state, and what changed in its group, written with the
// next flush.
func (c *Client) touch(r *room) {
	if !r.dirty {
		r.dirty = true
		c.dirty = append(c.dirty, r)
	}
}

// flush writes all that changed since the last time, at once: what is on disk is
// always a state that the device was in between two steps.
func (c *Client) flush(ctx context.Context) error {
	for _, r := range c.dirty {
		r.dirty = false
		c.keep(r)
		c.putCBOR(tableRooms, r.N, r.roomState)
	}
	c.dirty = c.dirty[:0]
	rows := c.rows
	if c.rows = nil; len(rows) == 0 {
		return nil
	}
	if err := c.cfg.Store.Write(ctx, rows); err != nil {
		c.forget()
		return err
	}
	return nil
}

// ask sends a request, with everything written down before and the client
// unlocked meanwhile. A session that ran out is opened anew, once.
func ask[A any](ctx context.Context, c *Client, call func(context.Context) (A, error)) (a A, err error) {
	for again := true; ; again = false {
		if err = c.away(ctx, func() error { a, err = call(ctx); return err }); err == nil {
			return a, c.ready(ctx)
		}
		if !again || core.CodeOf(err) != core.Unauthenticated || c.self == nil || !c.self.Registered {
			break
		}
		if err := c.login(ctx); err != nil {
			return a, err
		}
	}
	if rerr := c.ready(ctx); rerr != nil {
		return a, rerr
	}
	return a, err
}

// away runs what takes time without the lock.
func (c *Client) away(ctx context.Context, call func() error) error {
	if err := c.flush(ctx); err != nil {
		return err
	}
	c.mu.Unlock()
	defer c.mu.Lock()
	return call()
}

// pause waits with jitter before try number n, counted from 1.
func (c *Client) pause(ctx context.Context, n int) error {
	d := lastBackoff
	if n < 12 {
		d = min(firstBackoff<<n, lastBackoff)
	}
	return c.wait(ctx, d/2+time.Duration(c.random())%(d/2+1))
}

func (c *Client) wait(ctx context.Context, d time.Duration) error {
	if err := c.away(ctx, func() error { return c.cfg.Wait(ctx, d) }); err != nil {
		return err
	}
	return c.ready(ctx)
}

// random is a number below 2^63, for times that nobody should guess or share.
func (c *Client) random() int64 {
	var b [8]byte
	if _, err := io.ReadFull(c.cfg.Rand, b[:]); err != nil {
		return 0 // without randomness nothing else works: what needs it says so
	}
	return int64(binary.BigEndian.Uint64(b[:]) >> 1)
}

func (c *Client) bytes(n int) ([]byte, error) {
	b := make([]byte, n)
	if _, err := io.ReadFull(c.cfg.Rand, b); err != nil {
		return nil, core.Errorf(core.Internal, "randomness: %w", err)
	}
	return b, nil
}

func (c *Client) now() int64 { return c.cfg.Now().UnixMilli() }

// errDone says that there is nothing to change any more.
var errDone = errors.New("nothing to do")

// of turns errors of identity and policy into refusals.
func refuse(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, identity.ErrUnknownKey), errors.Is(err, identity.ErrVersion):
		return core.Errorf(core.Unavailable, "identity: %w", err)
	}
	return core.Errorf(core.Denied, "not allowed: %w", err)
}
