package sim

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/mls"
)

// late is a message that a homeserver passed over because its epoch was over for too
// long: the device that said it owes it to that homeserver's.
type late struct {
	at, from string // domains
	room     core.RoomID
	seq      uint64 // in from's log
	epoch    uint64
}

// componentMessageID is where core/client says which message it is, and whether it is
// said again.
const componentMessageID mls.ComponentID = 0xF002

// repeated returns the ID of a message that is said again, nil of others.
func repeated(message []byte) []byte {
	m, err := mls.Parse(message)
	if err != nil || m.Private == nil {
		return nil
	}
	aad, err := mls.ParseSafeAAD(m.Private.AuthenticatedData)
	if err != nil {
		return nil
	}
	item, _ := aad.Find(componentMessageID)
	if len(item) < 2 || item[0] != 1 {
		return nil
	}
	return item[1:]
}

// hasKey reports whether a device has read a message with an ID.
func hasKey(read map[uint64]client.Message, key []byte) bool {
	if len(key) == 0 {
		return false
	}
	for _, m := range read {
		if bytes.Equal(m.Key, key) {
			return true
		}
	}
	return false
}

// unheard says whether a device in a room lacks something that its homeserver passed
// over and that somebody who is there could say again.
func (w *world) unheard(f *final, d *device, entered uint64) string {
	var mine []late
	for _, l := range w.facts.late {
		if l.at == d.home.domain && l.room == f.room && l.epoch >= entered {
			mine = append(mine, l)
		}
	}
	if len(mine) == 0 {
		return ""
	}
	read := w.history(f, d)
	for _, by := range w.devices {
		if !slices.ContainsFunc(mine, func(l late) bool { return l.from == by.home.domain }) || !f.users[by.user] || by.c == nil ||
			!by.c.Registered() || w.left(f.room, by.user, f.head.Authority.Epoch) {
			continue
		}
		said := w.history(f, by)
		for _, l := range mine {
			if w.facts.out[string(f.room)+" "+string(by.user)] > l.epoch {
				continue // who left says nothing again of what was before
			}
			if m := said[l.seq]; l.from == by.home.domain && m.Own && !hasKey(read, m.Key) {
				return fmt.Sprintf("it has not heard %d of %s (epoch %d), which %s passed over, again", l.seq, l.from, l.epoch, l.at)
			}
		}
	}
	return ""
}

// passedOver takes down that a homeserver passed a message over, and looks whether it
// says so.
func (w *world) passedOver(h *home, from string, room core.RoomID, p *core.PeerEvent, out *core.Output) {
	if !slices.Contains(out.Passed, p.Seq) {
		w.wrong("%s passed over %d of %s, and does not say so", h.domain, p.Seq, from)
	}
	w.facts.late = append(w.facts.late, late{at: h.domain, from: from, room: room, seq: p.Seq, epoch: epochOf(p.Message)})
}
