package core

import (
	"bytes"
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
)

// createGroup takes up a Group that a device of this homeserver made.
func (e *Engine) createGroup(tx Tx, now time.Time, in CreateGroup) (Output, error) {
	room := in.Room
	if err := e.vacant(tx, room.ID); err != nil {
		return Output{}, err
	}
	if len(room.Name) > MaxName || !plainText(room.Name) {
		return Output{}, Errorf(Invalid, "room name out of bounds")
	}
	m, err := mls.Parse(in.Info)
	if err != nil || m.GroupInfo == nil || len(in.Info) > maxInfo {
		return Output{}, Errorf(Invalid, "a Group begins with the GroupInfo that its first device made")
	}
	g := &groupState{stored: map[string]peerLog{}}
	if g.public, err = mls.NewPublicGroup(m.GroupInfo, nil, e.mlsPolicy); err != nil {
		return Output{}, Errorf(Invalid, "group info: %w", err)
	}
	g.head.Info, g.head.InfoTree = append([]byte{infoFull}, in.Info[4:]...), true
	if err := e.checkCreation(tx, now, in, g); err != nil {
		return Output{}, err
	}
	room.Kind, room.ContentType, room.Created, room.Founder = Group, ContentMIMI, now, in.User
	return e.settleGroup(tx, room, g)
}

// checkCreation holds a new group to what it must be: of its room, with its
// creator alone, and decided by this homeserver.
func (e *Engine) checkCreation(tx Tx, now time.Time, in CreateGroup, g *groupState) error {
	if err := g.index(); err != nil {
		return err
	}
	creator, err := leafClient(g.public.Tree().Leaf(0))
	_, domains := g.authority()
	switch {
	case err != nil:
		return err
	case !bytes.Equal(g.public.GroupID(), GroupID(in.Room.ID)):
		return Errorf(Invalid, "the group_id of a room is %s", GroupID(in.Room.ID))
	case g.public.Tree().Members() != 1 || g.public.Epoch() != 0 || creator.Device != string(in.By) || creator.User != string(in.User):
		return Errorf(Invalid, "a Group begins in epoch 0 with the device that creates it")
	case !slices.Equal(g.policy.Authority().Domains, []string{e.cfg.Homeserver}) || !slices.Equal(domains, []string{e.cfg.Homeserver}):
		return Errorf(Invalid, "a Group begins at the homeserver that creates it")
	}
	if _, err := mustInfo(g.public, g.head.Info).ExternalPub(); err != nil {
		return Errorf(Invalid, "the GroupInfo has no key for external commits")
	}
	l := g.public.Tree().Leaf(0)
	return e.judgeAll(tx, now, []newcomer{{Device: creator.Device, User: creator.User, Key: l.SignatureKey, Proof: in.Record}})
}

// mustInfo reads the GroupInfo of the epoch, of an option that was checked; an empty
// one if it cannot be.
func mustInfo(g *mls.PublicGroup, option []byte) *mls.GroupInfo {
	var info *mls.GroupInfo
	var err error
	if option[0] == infoFull {
		info, err = mls.ParseGroupInfo(option[1:])
	} else if p, perr := mls.ParsePartialGroupInfo(option[1:]); perr == nil {
		info, err = g.RestoreGroupInfo(p, p.Presence.Before())
	}
	if err != nil || info == nil {
		return &mls.GroupInfo{}
	}
	return info
}

// settleGroup writes a Group that is new here.
func (e *Engine) settleGroup(tx Tx, room Room, g *groupState) (Output, error) {
	if err := tx.PutRoom(room); err != nil {
		return Output{}, asBroken(err)
	}
	r := e.rooms[room.ID]
	if r == nil {
		r = &roomState{Room: room, key: logID(room.ID, e.cfg.Homeserver), members: map[UserURI]*Member{}}
	}
	r.group = g
	e.rooms[room.ID] = r
	g.head.Authority, g.head.Domains = g.authority()
	if err := e.keepMembers(tx, r); err != nil {
		return Output{}, err
	}
	return Output{Room: &room}, e.snapshot(tx, r)
}

// A groupSnapshot is what a homeserver needs that becomes part of a room.
type groupSnapshot struct {
	_       struct{} `cbor:",toarray"`
	Name    string
	Direct  bool
	Created int64 // ms
	Founder UserURI
	Info    []byte
	Tree    bool // Info has the tree inside
	Public  []byte
}

// SnapshotGroup returns a Group as it is now, for a homeserver that the log does
// not reach.
func (e *Engine) SnapshotGroup(tx Tx, room RoomID) ([]byte, error) {
	r, err := e.group(tx, room)
	if err != nil {
		return nil, err
	}
	g := r.group
	b, err := cbor.Marshal(groupSnapshot{Name: r.Name, Direct: r.Direct, Created: r.Created.UnixMilli(), Founder: r.Founder,
		Info: g.head.Info, Tree: g.head.InfoTree, Public: g.public.AppendTo(nil)})
	return b, asBroken(err)
}

// RestoreGroup takes up a Group at a state that another homeserver of its authority
// handed over. certified is asked of a newer epoch of a room that is here, by who
// decides after it and hashes, whether the homeservers that decide vouch for it.
func (e *Engine) RestoreGroup(tx Tx, now time.Time, room RoomID, snapshot []byte, certified func(after Authority, transcript, tree []byte) error) (Output, error) {
	var s groupSnapshot
	if err := strictCBOR.Unmarshal(snapshot, &s); err != nil {
		return Output{}, Errorf(Invalid, "group snapshot: %w", err)
	}
	if _, err := ParseRoomID(string(room)); err != nil {
		return Output{}, err
	}
	if _, err := ParseUserURI(string(s.Founder)); err != nil {
		return Output{}, err
	}
	g := &groupState{stored: map[string]peerLog{}}
	var err error
	if g.public, err = mls.ParsePublicGroup(s.Public, e.mlsPolicy); err != nil {
		return Output{}, Errorf(Invalid, "group snapshot: %w", err)
	}
	if !bytes.Equal(g.public.GroupID(), GroupID(room)) || len(s.Info) < 2 || len(s.Info) > maxInfo || len(s.Name) > MaxName || !plainText(s.Name) {
		return Output{}, Errorf(Invalid, "a snapshot of another group")
	}
	if err := g.index(); err != nil {
		return Output{}, err
	}
	g.head.Info, g.head.InfoTree = s.Info, s.Tree
	if err := g.public.CheckGroupInfo(mustInfo(g.public, s.Info)); err != nil { // what the hashes do not cover a device has signed
		return Output{}, Errorf(Invalid, "group snapshot: %w", err)
	}
	var before []string
	old, err := e.group(tx, room)
	switch {
	case err != nil && CodeOf(err) != NotFound:
		return Output{}, err
	case err != nil:
		if err := e.awaited(tx, room, g); err != nil {
			return Output{}, err
		}
	case old.group.public.Epoch() > g.public.Epoch():
		return Output{}, Errorf(Conflict, "a snapshot of an epoch that is over")
	case old.group.public.Epoch() == g.public.Epoch() && !bytes.Equal(old.group.public.ContextBytes(), g.public.ContextBytes()):
		return Output{}, Errorf(Invalid, "a snapshot of another epoch than the one agreed")
	case old.group.public.Epoch() < g.public.Epoch():
		ctx := g.public.Context()
		after, _ := g.authority()
		if err := certified(after, ctx.ConfirmedTranscriptHash, ctx.TreeHash); err != nil {
			return Output{}, err
		}
		fallthrough
	default:
		g.head.Trees, g.stored, before = old.group.head.Trees, old.group.stored, old.group.head.Domains
	}
	if err := g.public.Tree().Validate(g.public.GroupID(), e.cfg.Parallel); err != nil { // last: it is what costs
		return Output{}, Errorf(Invalid, "group snapshot: %w", err)
	}
	out, err := e.settleGroup(tx, Room{ID: room, Kind: Group, ContentType: ContentMIMI, Name: s.Name, Direct: s.Direct,
		Created: time.UnixMilli(s.Created), Founder: s.Founder}, g)
	if err == nil && before != nil { // somebody may have come meanwhile
		err = e.startAt(tx, e.rooms[room], before)
	}
	return out, err
}

// awaited says why a room that is not here is not taken up from another homeserver,
// since anybody may offer one: it is to have a device of this homeserver, and those
// with this homeserver's name begin here. So nobody fills the store with rooms of
// strangers, or takes a name of ours.
func (e *Engine) awaited(r Reader, room RoomID, g *groupState) error {
	if room.Domain() == e.cfg.Homeserver {
		return Errorf(Denied, "a room of this homeserver begins here")
	}
	for _, l := range g.public.Tree().All() {
		c, err := leafClient(l)
		if err != nil || DeviceURI(c.Device).Domain() != e.cfg.Homeserver {
			continue
		}
		d, err := getDevice(r, DeviceURI(c.Device))
		if err != nil && !isAbsent(err) {
			return asBroken(err)
		}
		if err != nil || !d.Local {
			continue
		}
		rec, err := identity.ParseRecord(d.Record)
		if err == nil && identity.LeafFits(rec, []byte(c.Device), l.SignatureKey, []byte(c.User)) == nil {
			return nil
		}
	}
	return Errorf(Denied, "nobody of this homeserver is in that room")
}

// groupInfo is what an external commit by user needs, if the room's policy lets
// user in by one: with a device of their own, because the room is open, or by a
// join code.
func (e *Engine) groupInfo(tx Tx, room RoomID, user UserURI, joinCode bool) (*GroupInfoLease, error) {
	r, err := e.group(tx, room)
	if err != nil {
		return nil, err
	}
	g := r.group
	u := string(user)
	_, in := g.policy.Role(u)
	switch {
	case g.policy.Banned(u):
		return nil, Refuse(Denied, Banned, "you are banned from that room")
	case in && g.policy.Can(u, policy.CanAddOwnClient):
	case !in && g.policy.Can(u, policy.CanOpenJoin):
	case !in && joinCode && g.policy.Can(u, policy.CanUseJoinCode):
	default:
		return nil, Refuse(Denied, InviteOnly, "that room is by invitation")
	}
	lease := &GroupInfoLease{Epoch: g.public.Epoch(), Tree: g.public.Tree().AppendTo(nil)}
	lease.Info = mustInfo(g.public, g.head.Info).AppendTo(mls.AppendHeader(nil, mls.WireGroupInfo))
	for _, p := range g.public.Pending() {
		if len(lease.Pending) < maxGroupPending && p.Sender.Type == mls.SenderMember && p.Proposal.Type == mls.ProposalSelfRemove {
			lease.Pending = append(lease.Pending, p.Content.Raw())
		}
	}
	return lease, nil
}

// A newcomer is a device that a commit brought in, with what is known of it.
type newcomer struct {
	_            struct{} `cbor:",toarray"`
	Device, User string
	Key          []byte // the leaf's signature key
	Proof        Identity
}

// newcomers pairs the devices that a commit brings in with their records.
func (g *groupState) newcomers(x *examined, records []Identity) []newcomer {
	if len(x.added) == 0 {
		return nil
	}
	proofs := map[string]Identity{}
	for _, p := range records {
		if rec, err := identity.ParseRecord(p.Record); err == nil {
			proofs[identity.DeviceURI(UserURI(rec.User).Domain(), rec.Key)] = p
		}
	}
	out := make([]newcomer, 0, len(x.added))
	for _, c := range x.added {
		l := x.staged.Tree.Leaf(c.Leaf)
		out = append(out, newcomer{Device: c.Device, User: c.User, Key: l.SignatureKey, Proof: proofs[c.Device]})
	}
	return out
}

// judgeAll says whether this homeserver believes that devices are who their leaves
// say. Unavailable: something is missing that may come.
func (e *Engine) judgeAll(tx Tx, now time.Time, who []newcomer) error {
	for i := range who {
		if err := e.judge(tx, now, &who[i]); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) judge(tx Tx, now time.Time, n *newcomer) error {
	d, err := DeviceOf(tx, DeviceURI(n.Device))
	if err != nil && CodeOf(err) != NotFound {
		return err
	}
	if err != nil {
		if len(n.Proof.Record) == 0 {
			return Errorf(Unavailable, "the record of a device is not here yet")
		}
		d.Proof = n.Proof
	}
	if d.Revoked || d.Refused {
		return Errorf(Denied, "a device that was revoked or contradicts itself")
	}
	domain := DeviceURI(n.Device).Domain()
	chain, err := e.homeserver(tx, domain)
	if isAbsent(err) {
		return &Error{Code: Unavailable, Text: "the record of a homeserver is not here yet", Missing: domain}
	} else if err != nil {
		return err
	}
	rec, err := identity.ParseRecord(d.Proof.Record)
	if err == nil {
		var att identity.SignedAttestation
		if att, err = identity.ParseAttestation(d.Proof.Attestation); err == nil {
			err = identity.Usable(rec, att, chain, e.cfg.Block, now.Unix())
		}
	}
	if err == nil {
		err = identity.LeafFits(rec, []byte(n.Device), n.Key, []byte(n.User))
	}
	if err != nil {
		return Errorf(Denied, "a device is not who it says: %w", err)
	}
	return nil
}

// Judge says whether this homeserver may approve the commit that opened epoch:
// nil, Denied (it never will), or Unavailable with what is missing.
func (e *Engine) Judge(tx Tx, now time.Time, room RoomID, epoch uint64) error {
	var who []newcomer
	err := getCBOR(tx, groupJudgements, epochKey(room, epoch), &who)
	if isAbsent(err) {
		return nil
	} else if err != nil {
		return err
	}
	err = e.judgeAll(tx, now, who)
	if CodeOf(err) == Unavailable {
		return err
	}
	if derr := tx.DropValue(groupJudgements, epochKey(room, epoch)); derr != nil {
		return asBroken(derr)
	}
	if err == nil {
		return e.meet(tx, now, who)
	}
	return err
}

// meet takes up the records of devices that came in: those here can be told then who
// they are, though their own homeserver may be away. What does not fit is left out.
func (e *Engine) meet(tx Tx, now time.Time, who []newcomer) error {
	for i := range who {
		_, err := DeviceOf(tx, DeviceURI(who[i].Device))
		if isAbsent(err) {
			_, err = e.putDevice(tx, now, PutDevice{Proof: who[i].Proof})
		}
		if Broken(err) {
			return err
		}
	}
	return nil
}
