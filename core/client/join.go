package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/cloudflare/circl/hpke"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// Bounds and times of entering a room.
const (
	maxState    = mls.MaxMessage
	firstGrace  = 5 * time.Second // for a Welcome to come before the device enters by itself
	enterAgain  = 10 * time.Second
	enterLatest = time.Hour
	maxPages    = 20 // of history, to find where an epoch begins
	pageEvents  = 100
	soonTries   = 8               // for a lease that is to be had in a moment
	proofGrace  = 2 * time.Minute // for the certificate of the own commit, or of a Welcome: a homeserver that came late may never have it
)

// joining is a group that the homeserver has not accepted yet: of a room that is
// made, or of an external commit.
type joining struct {
	Handshake *wire.Handshake  `cbor:"1,keyasint,omitempty"`
	Create    *wire.CreateRoom `cbor:"2,keyasint,omitempty"`
	Since     int64            `cbor:"3,keyasint,omitempty"` // ms
}

// keepJoining writes the group down before anybody hears of it.
func (c *Client) keepJoining(r *room, g *group.Group, j joining) {
	r.Joining, r.JoinID, j.Since = true, nil, c.now()
	if j.Handshake != nil {
		hash := sha256.Sum256(j.Handshake.Message)
		r.JoinID = hash[:]
	}
	c.put(tableJoining+string(r.ID), 0, g.Snapshot())
	c.putCBOR(tableJoining+string(r.ID), 1, j)
	c.touch(r)
}

func (c *Client) dropJoining(r *room) {
	if r.Joining {
		r.Joining = false
		c.put(tableJoining+string(r.ID), 0, nil)
		c.put(tableJoining+string(r.ID), 1, nil)
		c.touch(r)
	}
}

// stillJoining is the room that this device is about to enter by a commit, nil if that
// was settled meanwhile.
func (c *Client) stillJoining(id core.RoomID, commit []byte) *room {
	if r := c.rooms[id]; r != nil && r.Joining && bytes.Equal(r.JoinID, commit) {
		return r
	}
	return nil
}

// loadJoining reads what keepJoining wrote.
func (c *Client) loadJoining(ctx context.Context, r *room) (g *group.Group, j joining, err error) {
	rows, err := c.cfg.Store.Rows(ctx, tableJoining+string(r.ID), 0, 2)
	if err != nil {
		return nil, j, err
	}
	if len(rows) != 2 {
		return nil, j, core.Errorf(core.Internal, "the group that a room is entered with is not stored")
	}
	if err := decode(rows[1].Data, &j); err != nil {
		return nil, j, err
	}
	if g, err = group.Restore(c.groups, rows[0].Data, nil, c.signers); err != nil {
		return nil, j, core.Errorf(core.Internal, "stored group: %w", err)
	}
	return g, j, nil
}

// begin offers what keepJoining wrote, until it is accepted or refused.
func (c *Client) begin(ctx context.Context, id core.RoomID) error {
	var failed error
	for n := range maxUnknown {
		if n > 0 {
			if err := c.pause(ctx, min(n, 6)); err != nil {
				return err
			}
		}
		if err := c.flush(ctx); err != nil {
			return err
		}
		r := c.rooms[id]
		if r == nil || !r.Joining {
			return nil // an event said so before
		}
		_, j, err := c.loadJoining(ctx, r)
		if err != nil {
			return err
		}
		var seq uint64
		what := r.JoinID
		if j.Create != nil {
			err = c.tryCreate(ctx, id, *j.Create, n > 0)
		} else {
			seq, err = c.tryEnter(ctx, id, *j.Handshake)
		}
		if r = c.stillJoining(id, what); r == nil {
			if r = c.rooms[id]; r != nil && r.Joined && !r.Joining {
				return nil
			}
			return core.Errorf(core.Conflict, "another attempt to enter that room came first")
		}
		switch {
		case err == nil && j.Create != nil:
			return c.entered(ctx, id, seq, "")
		case err == nil:
			return c.admitted(ctx, id, seq)
		}
		if failed = err; !core.Temporary(err) {
			c.dropJoining(r)
			if ferr := c.flush(ctx); ferr != nil {
				return ferr
			}
			return err
		}
	}
	return failed
}

func (c *Client) tryCreate(ctx context.Context, id core.RoomID, request wire.CreateRoom, again bool) error {
	_, err := ask(ctx, c, func(ctx context.Context) (wire.Room, error) { return c.cfg.Home.CreateRoom(ctx, request) })
	if core.CodeOf(err) != core.Conflict {
		return err
	}
	// The room is there: is it what an earlier attempt made?
	room, rerr := ask(ctx, c, func(ctx context.Context) (wire.Room, error) { return c.cfg.Home.Room(ctx, id) })
	if rerr != nil || !room.Joined || room.Epoch != 0 || !again {
		return err
	}
	return nil
}

func (c *Client) tryEnter(ctx context.Context, id core.RoomID, h wire.Handshake) (uint64, error) {
	d, err := ask(ctx, c, func(ctx context.Context) (wire.Decided, error) { return c.cfg.Home.Handshake(ctx, id, h) })
	if stale, ok := err.(*Stale); ok && bytes.Equal(stale.Winner, h.Message) {
		return 0, nil
	}
	return d.Seq, err
}

// entered makes the joining group the room's own: its homeservers have accepted it.
// seq is the place of its commit in the log, 0 if it is not known.
func (c *Client) entered(ctx context.Context, id core.RoomID, seq uint64, how string) error {
	r := c.rooms[id]
	if r == nil || !r.Joining {
		return nil
	}
	g, j, err := c.loadJoining(ctx, r)
	if err != nil {
		return err
	}
	p, err := stateOf(g.Public().Context().Extensions)
	if err != nil {
		return err
	}
	again := r.Joined || r.Kept != 0
	var before *mls.Tree
	if again {
		if err := c.open(ctx, r); err != nil {
			return err
		}
		before = r.g.Public().Tree()
	}
	c.dropJoining(r)
	c.enterGroup(r, g, p, how)
	if again {
		c.tell(Update{Kind: Resynced, Room: id, Text: "what was said in the meantime cannot be read on this device"})
		c.introduce(r, before)
	}
	if j.Handshake != nil {
		r.own = j.Handshake.Message
	}
	if seq > 0 {
		r.Cursor = seq
	}
	if err := c.flush(ctx); err != nil {
		return err
	}
	if seq == 0 && j.Create == nil {
		return c.locate(ctx, id)
	}
	return nil
}

// introduce tells which devices came in while this one did not follow.
func (c *Client) introduce(r *room, before *mls.Tree) {
	had := map[core.DeviceURI]bool{c.self.device: true}
	for _, l := range before.All() {
		d, _ := leafOwner(l)
		had[d] = true
	}
	told := 0
	for _, l := range r.g.Public().Tree().All() {
		if d, u := leafOwner(l); !had[d] && told < maxTold {
			told++
			c.tell(Update{Kind: DeviceIn, Room: r.ID, User: u, Device: d})
		}
	}
}

// locate finds the place in the log where the group's epoch begins, so that what
// was said in it is read and what was said before is not tried.
func (c *Client) locate(ctx context.Context, id core.RoomID) error {
	before, seq := uint64(0), uint64(0)
	for range maxPages {
		h, err := ask(ctx, c, func(ctx context.Context) (wire.History, error) {
			return c.cfg.Home.History(ctx, id, before, pageEvents)
		})
		if err != nil {
			return err
		}
		r, err := c.group(ctx, id)
		if err != nil {
			return err
		}
		found := false
		for _, ev := range h.Events {
			if epoch, commit, err := framing(ev.Sealed); err == nil && commit && epoch < r.g.Epoch() {
				seq, found = ev.Seq, true // the last one of these
			}
		}
		if found || len(h.Events) == 0 || !h.More {
			break
		}
		before = h.Events[0].Seq
		seq = before - min(before, 1)
	}
	r, err := c.group(ctx, id)
	if err != nil {
		return err
	}
	r.Cursor = max(r.Cursor, seq)
	c.touch(r)
	return c.flush(ctx)
}

// Join enters a room of which one is no participant yet, by an external commit: one
// that is open, or with a code. A participant's device enters with it too.
func (c *Client) Join(ctx context.Context, id core.RoomID, code string) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	if r := c.rooms[id]; r != nil {
		if r.Leaving = false; r.Joined && r.Lost == "" && r.Halted == "" {
			return nil
		}
	}
	return c.external(ctx, id, code)
}

// Resync enters a Group anew: what is said until then and was not read yet cannot
// be read on this device any more.
func (c *Client) Resync(ctx context.Context, id core.RoomID) error {
	if err := c.enter(ctx); err != nil {
		return err
	}
	defer c.mu.Unlock()
	return c.external(ctx, id, "")
}

// external enters by an external commit (RFC 9420 §12.4.3.2) on a leased state of
// the group (PROTOCOL §7). One that lost its race is made anew.
func (c *Client) external(ctx context.Context, id core.RoomID, code string) error {
	if c.self == nil {
		return core.Errorf(core.Invalid, "prepare the device first")
	}
	for n := range maxTries {
		if n > 0 {
			if err := c.pause(ctx, min(n, 9)); err != nil {
				return err
			}
		}
		if r := c.rooms[id]; r == nil || !r.Joining {
			err := c.makeExternal(ctx, id, code)
			if e, ok := errors.AsType[*core.Error](err); ok && e.Code == core.Limited && 0 < e.RetryAfter && e.RetryAfter < time.Second && n < soonTries {
				continue // the epoch is being signed
			}
			if err != nil {
				return err
			}
		}
		err := c.begin(ctx, id)
		if code := core.CodeOf(err); code != core.StaleEpoch && code != core.Conflict {
			return err
		}
	}
	return core.Errorf(core.Unavailable, "others' changes of that room came first %d times", maxTries)
}

// makeExternal prepares the commit and writes it down.
func (c *Client) makeExternal(ctx context.Context, id core.RoomID, code string) error {
	if err := c.meet(ctx, c.self.user); err != nil { // the attestation in force
		return err
	}
	if k := c.known[c.self.device]; k != nil {
		c.self.Attestation = k.Attestation
	}
	state, err := c.lease(ctx, id, code)
	if err != nil {
		return err
	}
	m, err := mls.Parse(state.Info)
	if err != nil || m.GroupInfo == nil || !bytes.Equal(m.GroupInfo.Context.GroupID, core.GroupID(id)) {
		return core.Errorf(core.Invalid, "not a GroupInfo of that room")
	}
	if err := c.prove(ctx, id, state.Certificates, &m.GroupInfo.Context); err != nil {
		return c.unproven(id, "the state of the room that the homeserver shows", err)
	}
	p, err := stateOf(m.GroupInfo.Context.Extensions)
	if err != nil {
		return err
	}
	if err := c.meetTree(ctx, m.GroupInfo.Context.Suite, state.Tree); err != nil {
		return err
	}
	o := group.ExternalOptions{RatchetTree: state.Tree, Resync: true, LeafExtensions: c.self.leafExtensions()}
	for _, b := range state.Pending[:min(len(state.Pending), mls.MaxPending)] {
		a, err := mls.ParseAuthenticatedContent(b) // homeservers keep no membership tags
		if err == nil && a.Content.Proposal != nil && a.Content.Proposal.Type == mls.ProposalSelfRemove {
			o.Pending = append(o.Pending, a)
		}
	}
	if _, in := p.Role(string(c.self.user)); !in {
		o.Proposals = append(o.Proposals, update(policy.ComponentParticipants, policy.Invite(p, []string{string(c.self.user)}, policy.RoleMember)))
	}
	g, commit, err := group.JoinExternal(c.groups, c.self.groupIdentity(), m.GroupInfo, o)
	if err != nil {
		return core.Errorf(core.Invalid, "external commit: %w", err)
	}
	b, err := g.GroupInfo(false, nil)
	if err != nil {
		return core.Errorf(core.Internal, "group info: %w", err)
	}
	if m, err = mls.Parse(b); err != nil {
		return core.Errorf(core.Internal, "group info: %w", err)
	}
	r, err := c.room(id)
	if err != nil || r.Joining { // another attempt is under way: the group of that one is the one to keep
		return err
	}
	r.Kind = core.Group
	c.keepJoining(r, g, joining{Handshake: &wire.Handshake{Message: commit,
		Info: mls.NewPartialGroupInfo(m.GroupInfo, false).AppendTo([]byte{infoPartial}), Records: []core.Identity{c.self.proof()}}})
	return nil
}

// lease asks for the state of a group, sealed to a key made for this.
func (c *Client) lease(ctx context.Context, id core.RoomID, code string) (s wire.GroupState, err error) {
	seed, err := c.bytes(32)
	if err != nil {
		return s, err
	}
	private, err := inboxKEM.Scheme().UnmarshalBinaryPrivateKey(seed)
	if err != nil {
		return s, core.Errorf(core.Internal, "lease: %w", err)
	}
	public, err := private.Public().MarshalBinary()
	if err != nil {
		return s, core.Errorf(core.Internal, "lease: %w", err)
	}
	a, err := ask(ctx, c, func(ctx context.Context) (wire.GroupInfo, error) {
		return c.cfg.Home.GroupInfo(ctx, id, wire.GetGroupInfo{Key: public, Code: code})
	})
	if err != nil {
		return s, err
	}
	receiver, err := letterSuite.NewReceiver(private, []byte("isthmus group info\x00"+string(id)))
	if err != nil {
		return s, core.Errorf(core.Internal, "lease: %w", err)
	}
	opener, err := receiver.Setup(a.KEM)
	if err != nil || len(a.Ciphertext) > maxState {
		return s, core.Errorf(core.Invalid, "a lease that does not open")
	}
	plain, err := opener.Open(a.Ciphertext, nil)
	if err != nil {
		return s, core.Errorf(core.Invalid, "a lease that does not open")
	}
	if err := stateCBOR.Unmarshal(plain, &s); err != nil {
		return s, core.Errorf(core.Invalid, "a lease that cannot be read")
	}
	return s, nil
}

// letterSuite seals letters and leases: DHKEM(X25519), HKDF-SHA256, AES-128-GCM
// (RFC 9180 §7).
var letterSuite = hpke.NewSuite(inboxKEM, hpke.KDF_HKDF_SHA256, hpke.AEAD_AES128GCM)

// stateCBOR bounds what a homeserver or a stranger may make the decoder build.
var stateCBOR = core.StrictCBOR(6, mls.MaxPending, 64)

// meetTree learns whose the leaves of a tree are.
func (c *Client) meetTree(ctx context.Context, suite mls.Suite, b []byte) error {
	params, err := suite.Params()
	if err != nil {
		return core.Errorf(core.Unsupported, "cipher suite: %w", err)
	}
	tree, err := mls.ParseTree(params, b)
	if err != nil {
		return core.Errorf(core.Invalid, "ratchet tree: %w", err)
	}
	var leaves []*mls.LeafNode
	for _, l := range tree.All() {
		leaves = append(leaves, l)
	}
	return c.meetLeaves(ctx, leaves)
}
