package core

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"time"
)

// A homeserver that was restored from an old backup gives places in its log of a room
// to new messages, and others have those places already with what it said before. So
// that log has an incarnation: it begins a new one as soon as a peer shows that it has
// lost something, and the peers take its places anew from where it goes on.

const groupLogs = "group log" // room -> incarnation of our log; none = 0

// LogOf returns the incarnation of this homeserver's log of a room, 0 in the beginning.
func LogOf(r Reader, room RoomID) (uint64, error) { return position(r, groupLogs, RoomKey(room)) }

// MarkOf names the content of a sealed message: the first 8 octets of its SHA-256.
func MarkOf(message []byte) uint64 {
	h := sha256.Sum256(message)
	return binary.BigEndian.Uint64(h[:])
}

// HoldsMark reports whether this homeserver's users said at seq of its log of room what
// mark names.
func HoldsMark(r Reader, room RoomID, seq, mark uint64) (bool, error) {
	ev, err := r.Event(room, seq)
	if isAbsent(err) {
		return false, nil
	}
	s, sealed := ev.Body.(Sealed)
	return err == nil && sealed && ev.Home == "" && MarkOf(s.Message) == mark, err
}

// newLog begins an incarnation of our log of a room. Its number is the time, so that it
// is a new one even if the backup does not know of the last.
func (e *Engine) newLog(tx Tx, now time.Time, in NewLog) (out Output, err error) {
	if _, err = GroupOf(tx, in.Room); err != nil {
		return out, err
	}
	if out.Log, err = LogOf(tx, in.Room); err != nil || out.Log != in.Was {
		return out, asBroken(err)
	}
	out.Log = max(out.Log+1, uint64(max(now.UnixMilli(), 0)))
	if r := e.rooms[in.Room]; r != nil {
		r.begin(e.cfg.Homeserver, out.Log)
	}
	return out, putCBOR(tx, groupLogs, RoomKey(in.Room), out.Log)
}

// begin has what comes next stand in an incarnation of the log.
func (r *roomState) begin(homeserver string, log uint64) {
	r.log, r.key = log, logIDOf(r.ID, homeserver, log)
}

// follow returns l as a batch finds it: without what the other side knows of, and, in a
// new incarnation, without what does not count in that. Conflict: the batch does not
// belong behind what is stored here.
func (l peerLog) follow(in *PeerEvents) (peerLog, error) {
	if in.Log < l.Log {
		return l, Errorf(Conflict, "that log has begun anew meanwhile")
	}
	if len(in.Events) == 0 {
		return l, nil
	}
	prev := in.Events[0].Prev
	if in.Log == l.Log {
		return l.known(in.Events), l.agrees(prev, in.Events)
	}
	if prev > l.At && l.At > 0 {
		return l, errGap
	}
	if l.Log = in.Log; prev < l.At {
		l.At, l.Mark = prev, 0
	}
	l.Passed = slices.DeleteFunc(slices.Clone(l.Passed), func(seq uint64) bool { return seq > l.At })
	return l.known(in.Events), nil
}

var errGap = Errorf(Conflict, "something before these messages is missing")

// agrees holds a batch to the last message that is stored here: one that passes its
// place has that message there.
func (l *peerLog) agrees(prev uint64, events []PeerEvent) error {
	if l.Mark == 0 || prev >= l.At || events[len(events)-1].Seq < l.At {
		return nil
	}
	i := slices.IndexFunc(events, func(p PeerEvent) bool { return p.Seq == l.At })
	if i < 0 || MarkOf(events[i].Message) != l.Mark {
		return Errorf(Conflict, "that log says something else than it did")
	}
	return nil
}
