package core

import (
	"slices"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/mls"
)

// A homeserver that was away accepts messages of an epoch that ended elsewhere long
// ago. The others pass them over, because nobody there could tell that they were not
// made later by somebody removed meanwhile. What was acknowledged must not be lost:
// each of the others names them until their homeserver has written down that it
// knows, and that one has the devices that said them say them again (PROTOCOL §7).

// MaxPassed bounds the messages of one room and homeserver that were passed over and
// are not known there yet. Beyond it, what comes too late is not passed over but waits.
const MaxPassed = 1024

// maxAgain bounds the letters of kind LetterAgain that wait for one device. The last
// one says that there were more.
const (
	maxAgain       = 1024
	maxAgainOctets = 32 << 20
)

// Buckets of what is said again.
const (
	groupSince = "group since" // domain/room -> place in our log from which on that homeserver is given it
	groupAgain = "group again" // room/place -> there: its sender's devices were told
)

// A peerLog is how far another homeserver's log of a room is stored here, and what
// of it was passed over.
type peerLog struct {
	_      struct{} `cbor:",toarray"`
	At     uint64
	Passed []uint64 // places, rising: too late for the room, and not known there yet
	Log    uint64   // incarnation of that log
	Mark   uint64   // MarkOf what it has at At; 0 = not known
}

// known returns l without what the other side knows of: its request goes on behind it.
func (l peerLog) known(events []PeerEvent) peerLog {
	n := 0
	for len(events) > 0 && n < len(l.Passed) && l.Passed[n] <= events[0].Prev {
		n++
	}
	l.Passed = slices.Clone(l.Passed[n:])
	return l
}

// heardOf returns what is stored here of from's log.
func (g *groupState) heardOf(tx Tx, room RoomID, from string) (peerLog, error) {
	l, there := g.stored[from]
	if !there {
		if err := getCBOR(tx, groupStored, RoomKey(room)+"/"+from, &l); err != nil && !isAbsent(err) {
			return l, asBroken(err)
		}
		g.stored[from] = l
	}
	return l, nil
}

// An Unheard is a message of a user here that another homeserver passed over.
type Unheard struct {
	Seq   uint64 `json:"seq"`   // its place in the log of its room
	Epoch uint64 `json:"epoch"` // that it was sealed in
}

// Unheard reads the body of a LetterAgain; none: they were too many to be listed.
func (l *Letter) Unheard() (out []Unheard, err error) {
	err = cborInto(l.Body, &out)
	return out, err
}

// peerStored remembers how far a peer has our log of a room, and tells the devices
// of those whose messages it passed over, once for each message. It never runs back
// unless the peer lost what it had.
func (e *Engine) peerStored(tx Tx, now time.Time, in PeerStored) (out Output, err error) {
	key := in.Peer + "/" + RoomKey(in.Room)
	if len(in.Passed) > 0 {
		after, err := position(tx, groupPositions, key)
		if err != nil {
			return out, asBroken(err)
		}
		since, err := position(tx, groupSince, key)
		if err != nil {
			return out, asBroken(err)
		}
		passed := slices.DeleteFunc(slices.Clone(in.Passed), func(seq uint64) bool { return seq <= max(after, since) || seq > in.Seq })
		if err := e.unheard(tx, now, in.Room, passed[:min(len(passed), MaxPassed)], &out); err != nil {
			return out, err
		}
	}
	if err := putCBOR(tx, groupPositions, key, in.Seq); err != nil {
		return out, err
	}
	return out, e.forgetAgain(tx, in)
}

// unheard tells the senders' devices of messages that were passed over.
func (e *Engine) unheard(tx Tx, now time.Time, room RoomID, places []uint64, out *Output) error {
	of := map[UserURI][]Unheard{}
	var users []UserURI
	for _, seq := range places {
		mark := RoomKey(room) + "/" + numberKey(seq)
		if _, err := tx.Value(groupAgain, mark); err == nil {
			continue
		} else if !isAbsent(err) {
			return asBroken(err)
		}
		ev, err := tx.Event(room, seq)
		if isAbsent(err) {
			continue
		} else if err != nil {
			return asBroken(err)
		}
		s, sealed := ev.Body.(Sealed)
		if !sealed || ev.Home != "" || s.Handshake() {
			continue // nothing that we told
		}
		m, err := mls.Parse(s.Message)
		if err != nil || m.Private == nil {
			continue
		}
		if err := putCBOR(tx, groupAgain, mark, true); err != nil {
			return err
		}
		if len(of[ev.Sender]) == 0 {
			users = append(users, ev.Sender)
		}
		of[ev.Sender] = append(of[ev.Sender], Unheard{Seq: seq, Epoch: m.Private.Epoch})
	}
	for _, u := range users {
		if err := e.putAgain(tx, now, room, u, of[u], out); err != nil {
			return err
		}
	}
	return nil
}

// putAgain writes to all devices of a user: the one that said it knows.
func (e *Engine) putAgain(tx Tx, now time.Time, room RoomID, user UserURI, list []Unheard, out *Output) error {
	devices, err := DevicesOf(tx, user)
	if err != nil {
		return asBroken(err)
	}
	for i := range devices {
		d := &devices[i]
		if !d.Local || d.Revoked || d.Refused {
			continue
		}
		head, err := getHead(tx, d.URI)
		if err != nil {
			return err
		}
		listed := list
		if head.Again.Count == maxAgain-1 {
			listed = nil
		}
		body, err := cbor.Marshal(listed)
		if err != nil {
			return Errorf(Internal, "letter: %w", err)
		}
		l, err := e.putLetter(tx, now, Letter{Device: d.URI, Kind: LetterAgain, Room: room, Body: body})
		switch {
		case err == nil:
			out.Letters = append(out.Letters, l)
		case CodeOf(err) != Limited: // the queue's last letter has said it
			return asBroken(err)
		}
	}
	return nil
}

// forgetAgain drops the marks of messages that every peer has dealt with.
func (e *Engine) forgetAgain(tx Tx, in PeerStored) error {
	prefix := RoomKey(in.Room) + "/"
	marks, err := under(tx, groupAgain, prefix, "", MaxPassed)
	if err != nil {
		return asBroken(err)
	}
	if len(marks) == 0 || marks[0].Key > prefix+numberKey(in.Seq) {
		return nil
	}
	peers, err := GroupPeers(tx, in.Room, e.cfg.Homeserver)
	if err != nil && !isAbsent(err) {
		return asBroken(err)
	}
	least := in.Seq
	for _, d := range peers {
		at, err := position(tx, groupPositions, d+"/"+RoomKey(in.Room))
		if err != nil {
			return asBroken(err)
		}
		least = min(least, at)
	}
	for _, m := range marks {
		if m.Key > prefix+numberKey(least) {
			break
		}
		if err := tx.DropValue(groupAgain, m.Key); err != nil {
			return asBroken(err)
		}
	}
	return nil
}

// startAt has homeservers that are new in a room given what is said there from now on.
func (e *Engine) startAt(tx Tx, r *roomState, before []string) error {
	for _, d := range r.group.head.Domains {
		if d == e.cfg.Homeserver || slices.Contains(before, d) {
			continue
		}
		for _, bucket := range []string{groupPositions, groupSince} {
			if err := putCBOR(tx, bucket, d+"/"+RoomKey(r.ID), r.head); err != nil {
				return err
			}
		}
	}
	return nil
}
