package core

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
)

// Bounds of one Group.
const (
	MaxGroupDevices  = 50_000 // leaves of its tree
	maxGroupPending  = 512    // proposals that wait for a commit
	maxDevicePending = 64     // of those, from one device
	maxReplay        = 64     // handshakes since the last snapshot: 0.3 ms each at a load
	maxTrees         = 8      // trees kept for Welcomes: those who take longer join by a commit of their own
	maxInfo          = 4 << 20
	groupHeads       = "group"
	groupSnapshots   = "group snapshot"
	groupEpochs      = "group epoch"   // room/epoch that ended -> what ended it
	groupTrees       = "group tree"    // room/epoch -> ratchet tree
	groupJudgements  = "group judge"   // room/epoch -> identities of who came in
	groupStored      = "group stored"  // room/domain -> peerLog: of that homeserver
	groupPositions   = "group sent"    // domain/room -> place in our log
	groupWelcomes    = "group welcome" // domain/room/epoch -> a Welcome on its way
)

// A GroupHead is what a store keeps of a Group beside its log and its snapshot.
type GroupHead struct {
	Authority Authority `cbor:"1,keyasint"`
	Domains   []string  `cbor:"2,keyasint"` // homeservers with participants, sorted
	Info      []byte    `cbor:"3,keyasint"` // GroupInfoOption of the epoch
	InfoTree  bool      `cbor:"4,keyasint"` // that GroupInfo has the ratchet tree inside: of a group just created
	Replay    []uint64  `cbor:"5,keyasint"` // places of the handshakes since the snapshot
	Since     int       `cbor:"6,keyasint"` // their octets
	Snapshot  int       `cbor:"7,keyasint"` // octets of the snapshot
	Trees     []uint64  `cbor:"8,keyasint"` // epochs whose trees are kept
}

// groupState is a Group in use: what everybody may know of it, and nothing secret.
type groupState struct {
	head   GroupHead
	public *mls.PublicGroup
	policy *policy.State
	leaves map[string][]uint32 // of each user, rising
	gone   map[string]bool     // users whose removal is proposed: it counts at once
	stored map[string]peerLog  // of the logs of other homeservers, as far as loaded

	checked   HandshakeID // the last handshake examined, so that it is not examined twice
	checkedOn *mls.PublicGroup
	result    *examined
}

// RoomKey is how a room is named in rows of state: 26 characters.
func RoomKey(room RoomID) string {
	h := sha256.Sum256([]byte(room))
	return Base32.EncodeToString(h[:16])
}

// numberKey sorts as the number does.
func numberKey(n uint64) string {
	const digits = "0123456789abcdef"
	var b [16]byte
	for i := range b {
		b[15-i] = digits[n&15]
		n >>= 4
	}
	return string(b[:])
}

func epochKey(room RoomID, epoch uint64) string { return RoomKey(room) + "/" + numberKey(epoch) }

// GroupOf reads the head of a Group; NotFound if there is none.
func GroupOf(r Reader, room RoomID) (GroupHead, error) {
	var h GroupHead
	err := getCBOR(r, groupHeads, RoomKey(room), &h)
	return h, err
}

// GroupTree reads the ratchet tree of an epoch that devices were welcomed to, in
// the form of the extension; NotFound if it is not kept any more.
func GroupTree(r Reader, room RoomID, epoch uint64) ([]byte, error) {
	return r.Value(groupTrees, epochKey(room, epoch))
}

// GroupPeers lists the other homeservers with participants in a Group.
func GroupPeers(r Reader, room RoomID, self string) ([]string, error) {
	h, err := GroupOf(r, room)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(h.Domains, func(d string) bool { return d == self }), nil
}

// PeerPosition returns the last place of our log of room that peer has stored.
func PeerPosition(r Reader, peer string, room RoomID) (uint64, error) {
	return position(r, groupPositions, peer+"/"+RoomKey(room))
}

// position reads a place in a log; 0 if none is kept.
func position(r Reader, bucket, key string) (n uint64, err error) {
	if err = getCBOR(r, bucket, key, &n); isAbsent(err) {
		return 0, nil
	}
	return n, err
}

// group returns a Group that is in use here, loading it on first use.
func (e *Engine) group(tx Tx, id RoomID) (*roomState, error) {
	r, err := e.room(tx, id)
	if err != nil {
		return nil, err
	}
	if r.Kind != Group {
		return nil, Errorf(Invalid, "that room is not end-to-end encrypted")
	}
	if r.group == nil {
		g, err := e.loadGroup(tx, id)
		if isAbsent(err) {
			return nil, err // named, but no device has begun it
		} else if err != nil {
			return nil, asBroken(err)
		}
		log, err := LogOf(tx, id)
		if err != nil {
			return nil, asBroken(err)
		}
		r.group = g
		r.begin(e.cfg.Homeserver, log)
	}
	return r, nil
}

// loadGroup continues from the snapshot and the few handshakes after it.
func (e *Engine) loadGroup(tx Tx, id RoomID) (*groupState, error) {
	head, err := GroupOf(tx, id)
	if err != nil {
		return nil, err
	}
	b, err := tx.Value(groupSnapshots, RoomKey(id))
	if err != nil {
		return nil, asBroken(err)
	}
	g := &groupState{head: head, stored: map[string]peerLog{}}
	if g.public, err = mls.ParsePublicGroup(b, e.mlsPolicy); err != nil {
		return nil, Errorf(Internal, "group snapshot: %w", err)
	}
	for _, seq := range head.Replay {
		ev, err := tx.Event(id, seq)
		if err != nil {
			return nil, asBroken(err)
		}
		m, err := mls.Parse(ev.Body.(Sealed).Message)
		if err != nil {
			return nil, err
		}
		change, err := g.public.Handle(m)
		if err != nil {
			return nil, Errorf(Internal, "handshake %d of a stored group: %w", seq, err)
		}
		if change.Commit != nil {
			g.public = change.Commit.Next(m.Public.ConfirmationTag)
		}
	}
	return g, g.index()
}

// index reads from the public group what the engine asks for all the time.
func (g *groupState) index() error {
	dict, err := g.public.Context().Extensions.AppData()
	if err == nil {
		g.policy, err = policy.ParseState(dict)
	}
	if err != nil {
		return ofPolicy(err)
	}
	g.leaves = map[string][]uint32{}
	for i, l := range g.public.Tree().All() {
		c, err := leafClient(l)
		if err != nil {
			return err
		}
		g.leaves[c.User] = append(g.leaves[c.User], i)
	}
	g.markGone()
	return nil
}

// ofPolicy says a refusal of package policy to read a room's state in our words.
func ofPolicy(err error) error {
	code := Invalid
	if errors.Is(err, policy.ErrUnsupported) {
		code = Unsupported
	}
	return Errorf(code, "room policy: %w", err)
}

// leafClient reads from a leaf whose device it is (PROTOCOL §2). It is a claim that
// every homeserver and device judges by the device's record.
func leafClient(l *mls.LeafNode) (policy.Client, error) {
	c, err := policy.ClientOf(l, 0)
	if err != nil {
		return c, Errorf(Invalid, "%w", err)
	}
	return c, nil
}

// newMLSPolicy is what every homeserver asks of every commit alike: nothing in it
// depends on when and where it runs.
func newMLSPolicy(parallel mls.Parallel) *mls.Policy {
	return &mls.Policy{
		Authenticate: func(c mls.LeafChange) error {
			now, err := leafClient(c.New)
			if err != nil || c.Old == nil {
				return err
			}
			if old, err := leafClient(c.Old); err != nil || old.Device != now.Device || old.User != now.User {
				return Errorf(Invalid, "a leaf stays with its device and user")
			}
			return nil
		},
		AuthenticateSender: func(s mls.ExternalSender) error {
			if s.Credential.Type != mls.CredentialBasic || !bytes.HasPrefix(s.Credential.Data, []byte("mimi://")) {
				return Errorf(Invalid, "an external sender is a homeserver")
			}
			return nil
		},
		Client:     func(l *mls.LeafNode) string { return string(l.Credential.Data) },
		MaxMembers: MaxGroupDevices,
		Components: policy.Component,
		Parallel:   parallel,
	}
}

// markGone finds the users whose last device's removal waits for a commit: from the
// moment it is proposed they neither speak nor commit
// (draft-ietf-mimi-protocol-06 §5.3).
func (g *groupState) markGone() {
	g.gone = nil
	going := map[string]int{}
	for _, p := range g.public.Pending() {
		leaf := mls.NoLeaf
		switch {
		case p.Proposal.Type == mls.ProposalSelfRemove && p.Sender.Type == mls.SenderMember:
			leaf = p.Sender.Index
		case p.Proposal.Type == mls.ProposalRemove:
			leaf = p.Proposal.Removed
		}
		l := g.public.Tree().Leaf(leaf)
		if l == nil {
			continue
		}
		c, err := leafClient(l)
		if going[c.User]++; err == nil && going[c.User] >= len(g.leaves[c.User]) {
			if g.gone == nil {
				g.gone = map[string]bool{}
			}
			g.gone[c.User] = true
		}
	}
}

// authority reads from the policy who decides and who follows.
func (g *groupState) authority() (Authority, []string) {
	a, domains := g.policy.Authority(), g.policy.Domains()
	out := Authority{Epoch: g.public.Epoch(), Voters: slices.Clone(a.Domains), Rule: uint8(a.Rule)}
	slices.Sort(out.Voters)
	for _, d := range domains {
		if !slices.Contains(out.Voters, d) {
			out.Followers = append(out.Followers, d)
		}
	}
	return out, domains
}

// Authority returns who decides the epochs of a Group, and who follows.
func (e *Engine) Authority(tx Tx, room RoomID) (Authority, error) {
	r, err := e.group(tx, room)
	if err != nil {
		return Authority{}, err
	}
	return r.group.head.Authority, nil
}
