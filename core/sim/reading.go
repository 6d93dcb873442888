package sim

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
)

// A position is how far a device has read.
type position struct {
	Rooms   map[core.RoomID]uint64
	Letters uint64
}

// sync answers POST /v1/sync: what is new, as soon as something is.
func (h *home) sync(in wire.GetSync, s core.Session, reply func(wire.Sync, error)) {
	pos, fresh := position{Rooms: map[core.RoomID]uint64{}}, in.Since == ""
	if !fresh {
		if err := json.Unmarshal([]byte(in.Since), &pos); err != nil {
			reply(wire.Sync{}, core.Errorf(core.Invalid, "not a position"))
			return
		}
	}
	maps.Copy(pos.Rooms, in.Rooms)
	if err := h.acknowledge(s.Device, pos.Letters); err != nil {
		reply(wire.Sync{}, err)
		return
	}
	limit := in.Limit
	if limit <= 0 || limit > 200 {
		limit = 200
	}
	look := func(empty bool) bool {
		out, err := h.read(&pos, s, fresh, limit)
		fresh = false
		if err == nil && len(out.Events)+len(out.Letters)+len(out.Joined)+len(out.Left) == 0 && !empty {
			return false
		}
		h.w.note(h.domain, "gives %s %d events, %d letters, %d rooms in and %d out, from %s to %s: %v", s.Device.ID()[:6], len(out.Events), len(out.Letters),
			len(out.Joined), len(out.Left), in.Since, out.Next, err)
		reply(out, err)
		return true
	}
	if look(in.Wait <= 0) {
		return
	}
	p := &poll{}
	p.look = func() bool { p.done = look(false); return p.done }
	h.polls = append(h.polls, p)
	h.later(time.Duration(in.Wait)*time.Millisecond, func() {
		if !p.done {
			p.done = true
			h.polls = slices.DeleteFunc(h.polls, func(x *poll) bool { return x == p })
			look(true)
		}
	})
}

// acknowledge drops the letters that a device has read.
func (h *home) acknowledge(device core.DeviceURI, upTo uint64) error {
	old := false
	err := h.view(func(r core.Reader) error {
		first, err := core.LettersOf(r, device, 0, 1)
		old = len(first) > 0 && first[0].ID <= upTo
		return err
	})
	if err == nil && old {
		_, err = h.do(core.DropLetters{Device: device, UpTo: upTo})
	}
	return err
}

// read looks at everything in one snapshot, and moves the position over it.
func (h *home) read(pos *position, s core.Session, fresh bool, limit int) (out wire.Sync, err error) {
	err = h.view(func(r core.Reader) error {
		in := map[core.RoomID]bool{}
		err := eachRoom(r, s.User, func(id core.RoomID, since uint64) error {
			in[id] = true
			w, err := describe(r, id)
			if err != nil {
				return err
			}
			at, known := pos.Rooms[id]
			switch {
			case known:
				pos.Rooms[id] = min(at, w.Head)
				return nil
			case fresh || since == 0:
				at = w.Head
			default:
				at = min(since-1, w.Head)
			}
			pos.Rooms[id], w.Head, w.Joined = at, at, true
			out.Joined = append(out.Joined, w)
			return nil
		})
		if err != nil {
			return err
		}
		for _, id := range slices.Sorted(maps.Keys(pos.Rooms)) {
			if !in[id] {
				delete(pos.Rooms, id)
				out.Left = append(out.Left, id)
				continue
			}
			if err := readRoom(r, id, pos, limit, &out); err != nil {
				return err
			}
		}
		letters, err := core.LettersOf(r, s.Device, pos.Letters, 100)
		for _, l := range letters {
			w, err := wire.LetterOf(&l)
			if err != nil {
				return err
			}
			out.Letters = append(out.Letters, w)
			pos.Letters = l.ID
		}
		return err
	})
	if err != nil {
		return out, err
	}
	b, err := json.Marshal(pos)
	out.Next = string(b)
	return out, err
}

func readRoom(r core.Reader, id core.RoomID, pos *position, limit int, out *wire.Sync) error {
	left := limit - len(out.Events)
	if left <= 0 {
		out.More = true
		return nil
	}
	events, err := r.Events(id, core.Range{After: pos.Rooms[id], Limit: left})
	if err != nil {
		return err
	}
	for i := range events {
		w, held, err := given(r, &events[i])
		if err != nil || held {
			return err
		}
		out.Events = append(out.Events, w)
		pos.Rooms[id] = w.Seq
	}
	out.More = out.More || len(events) == left
	return nil
}

// history answers GET /v1/rooms/{room}/history.
func (h *home) history(room core.RoomID, before uint64, limit int, s core.Session) (out wire.History, err error) {
	limit = min(max(limit, 1), 1000)
	err = h.view(func(r core.Reader) error {
		if _, in, err := presence(r, room, s.User); err != nil || !in {
			return errNoRoom
		}
		events, err := r.Events(room, core.Range{Before: before, Limit: limit, Newest: true})
		if err != nil {
			return err
		}
		out.More = len(events) == limit && events[0].Seq > 1
		for i := range events {
			w, held, err := given(r, &events[i])
			if err != nil || held {
				return err
			}
			out.Events = append(out.Events, w)
		}
		return nil
	})
	return out, err
}

// given is an event as devices are given it: a commit waits for its certificate, and
// everything behind it too (PROTOCOL §6).
func given(r core.Reader, e *core.Event) (w wire.Event, held bool, err error) {
	w = wire.Event{Room: e.Room, Seq: e.Seq, Event: e.ID.String(), Sender: e.Sender, Sent: e.Sent.UnixMilli(), Accepted: e.Accepted.UnixMilli(), Home: e.Home}
	s, ok := e.Body.(core.Sealed)
	if !ok {
		return w, false, nil
	}
	w.Sealed = s.Message
	from, ok := endsEpoch(s.Message)
	if !ok {
		return w, false, nil
	}
	w.Certificate, err = epoch.CertificateOf(r, e.Room, from+1)
	if err != nil && core.CodeOf(err) == core.NotFound {
		return w, true, nil
	}
	return w, false, err
}

// endsEpoch reads the epoch that a commit ends; false if the message is none.
func endsEpoch(b []byte) (uint64, bool) {
	m, err := mls.Parse(b)
	if err != nil || m.Public == nil || m.Public.Content.ContentType != mls.ContentCommit {
		return 0, false
	}
	return m.Public.Content.Epoch, true
}
