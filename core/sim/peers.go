package sim

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Times between homeservers; those of package native.
const (
	quickTime   = 10 * time.Second
	firstWait   = 100 * time.Millisecond
	longestWait = 10 * time.Second
	laneChunk   = 64 // messages of one request
)

// encoding is what everything is sent in: the same value is the same octets.
var encoding = func() cbor.EncMode {
	m, err := cbor.CoreDetEncOptions().EncMode()
	if err != nil {
		panic(err) // constants
	}
	return m
}()

// overWire is v as the other side gets it.
func overWire[T any](w *world, what string, v T) (out T) {
	b, err := encoding.Marshal(v)
	if err == nil {
		err = cbor.Unmarshal(b, &out)
	}
	if err != nil {
		w.wrong("%s cannot be sent: %v", what, err)
	}
	w.seen(what, b)
	return out
}

// seen looks at octets that a homeserver has.
func (w *world) seen(what string, b []byte) {
	if bytes.Contains(b, w.canaries) {
		w.wrong("what a device said in an encrypted room is readable in %s", what)
	}
}

// overWireError is err as the other side gets it.
func overWireError(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := asStale(err); ok {
		return s
	}
	e := &core.Error{Code: core.CodeOf(err), Reason: core.ReasonOf(err), Text: core.TextOf(err), RetryAfter: retryAfter(err)}
	return e
}

var errAway = core.Errorf(core.Unavailable, "that homeserver does not answer")

func (w *world) homeOf(domain string) *home {
	for _, h := range w.homes {
		if h.domain == domain {
			return h
		}
	}
	return nil
}

// ask is a request from one homeserver to another. done is called once, if the one
// that asks lives so long.
func ask[In, Out any](from *home, domain, what string, in In, serve func(*home, string, In, func(Out, error)), done func(Out, error)) {
	w, settled := from.w, false
	var none Out
	end := func(out Out, err error) {
		if !settled {
			settled = true
			done(out, err)
		}
	}
	to := w.homeOf(domain)
	if to == nil {
		from.later(time.Millisecond, func() { end(none, core.Errorf(core.NotFound, "there is no such homeserver")) })
		return
	}
	in = overWire(w, what, in)
	from.later(quickTime, func() { end(none, errAway) })
	if w.cut[from.n][to.n] {
		return
	}
	for _, d := range w.flight() {
		w.after(d, func() {
			if w.cut[from.n][to.n] {
				return
			}
			if !to.up { // nobody listens there, which is heard at once
				from.later(d, func() { end(none, errAway) })
				return
			}
			life := to.life
			serve(to, from.domain, in, func(out Out, err error) {
				if !to.up || to.life != life || w.cut[to.n][from.n] {
					return
				}
				out, err = overWire(w, what, out), overWireError(err)
				for _, d := range w.flight() {
					from.later(d, func() { end(out, err) })
				}
			})
		})
	}
}

// nothing is an answer without content.
type nothing struct{}

// agree sends messages of the agreement, once.
func (h *home) agree(domain string, ms []core.PeerMessage) {
	h.w.facts.messages += len(ms)
	h.w.note(h.domain, "tells %s: %s", domain, saying(ms))
	ask(h, domain, "raft", wire.Raft{Messages: ms}, func(to *home, from string, in wire.Raft, reply func(nothing, error)) {
		_, err := to.do(core.PeerMessages{From: from, Messages: in.Messages})
		reply(nothing{}, err)
	}, func(nothing, error) {})
}

// saying is the agreement's messages in words.
func saying(ms []core.PeerMessage) string {
	var out []string
	for _, m := range ms {
		text := fmt.Sprintf("kind %d (%d)", m.Kind, len(m.Body))
		r := new(raftpb.Message)
		if m.Kind == core.PeerRaft && proto.Unmarshal(m.Body, r) == nil {
			text = fmt.Sprintf("%v term %d index %d/%d +%d commit %d %v", r.GetType(), r.GetTerm(), r.GetIndex(), r.GetLogTerm(), len(r.GetEntries()), r.GetCommit(), r.GetReject())
			for _, e := range r.GetEntries() {
				if cc := new(raftpb.ConfChangeV2); e.GetType() == raftpb.EntryConfChangeV2 && proto.Unmarshal(e.GetData(), cc) == nil {
					text += fmt.Sprintf(" %d: %v", e.GetIndex(), raftpb.ConfChangesToString(cc.GetChanges()))
				}
			}
		}
		out = append(out, m.Room.Local()+" "+text)
	}
	return strings.Join(out, "; ")
}

// A lane is the way of one room's messages to another homeserver: those of our own
// users, in the order of our log.
type lane struct {
	laneKey
	h      *home
	stored uint64 // the peer has our log up to here
	seen   uint64 // nothing of ours is between stored and here
	busy   bool
	shut   bool
	wait   time.Duration
}

type laneKey struct {
	peer string
	room core.RoomID
}

// resume opens the lanes of all rooms, and goes on with Welcomes.
func (h *home) resume() {
	var rooms []core.Room
	var welcomes []core.Welcome
	err := h.view(func(r core.Reader) (err error) {
		if rooms, err = r.Rooms("", 1000); err != nil {
			return err
		}
		welcomes, err = core.WelcomesOf(r, "", 1000)
		return err
	})
	if err != nil {
		h.w.wrong("%s: unreadable: %v", h.domain, err)
	}
	for _, r := range rooms {
		h.open(r.ID)
	}
	for _, m := range welcomes {
		h.post(m.To)
	}
}

// open brings the lanes of a room in step with who is in it, and sends what waits.
func (h *home) open(room core.RoomID) {
	var peers []string
	at := map[string]uint64{}
	err := h.view(func(r core.Reader) (err error) {
		peers, err = core.GroupPeers(r, room, h.domain)
		for _, p := range peers {
			if at[p], err = core.PeerPosition(r, p, room); err != nil {
				return err
			}
		}
		return err
	})
	if err != nil {
		if core.CodeOf(err) != core.NotFound {
			h.w.wrong("%s: peers of a room: %v", h.domain, err)
		}
		return
	}
	for _, l := range h.order {
		if l.room == room && !l.shut && !slices.Contains(peers, l.peer) {
			l.shut = true
			delete(h.lanes, l.laneKey)
		}
	}
	for _, p := range peers {
		k := laneKey{p, room}
		if h.lanes[k] == nil {
			h.acquaint(p)
			l := &lane{laneKey: k, h: h, stored: at[p], seen: at[p]}
			h.lanes[k] = l
			h.order = append(h.order, l)
		}
		h.lanes[k].kick()
	}
}

// kick sends the next messages, if none are on their way.
func (l *lane) kick() {
	if l.busy || l.shut {
		return
	}
	events := l.read()
	if len(events) == 0 {
		return
	}
	l.busy = true
	h := l.h
	last := events[len(events)-1].Seq
	in := wire.Events{Rooms: []wire.RoomEvents{{Room: l.room, Events: events}}}
	ask(h, l.peer, "events", in, (*home).takeEvents, func(a wire.Stored, err error) {
		l.busy = false
		before := l.stored
		if err == nil && len(a.Rooms) == 1 && (a.Rooms[0].Code == "" || a.Rooms[0].Code == core.Conflict.String() || a.Rooms[0].Seq > before) {
			l.stored = min(a.Rooms[0].Seq, last)
			l.seen = l.stored
		}
		if l.stored > before {
			l.wait = 0
			if _, err := h.do(core.PeerStored{Peer: l.peer, Room: l.room, Seq: l.stored, Passed: a.Rooms[0].Passed}); err != nil {
				return // the lanes were opened anew
			}
		}
		if l.stored >= last {
			l.kick()
			return
		}
		l.wait = min(max(2*l.wait, firstWait), longestWait)
		h.later(l.wait, l.kick)
	})
}

// read returns what our users sent after what the peer has.
func (l *lane) read() (out []core.PeerEvent) {
	prev := l.stored
	err := l.h.view(func(r core.Reader) error {
		for len(out) < laneChunk {
			events, err := r.Events(l.room, core.Range{After: max(l.seen, prev), Limit: laneChunk})
			if err != nil || len(events) == 0 {
				return err
			}
			for i := range events {
				e := &events[i]
				s, ok := e.Body.(core.Sealed)
				if ok && e.Home == "" && !s.Handshake() && len(out) < laneChunk {
					out = append(out, core.PeerEvent{Seq: e.Seq, Prev: prev, Accepted: e.Accepted.UnixMilli(), Sender: e.Sender, Message: s.Message})
					prev = e.Seq
				} else if len(out) == 0 {
					l.seen = e.Seq
				}
			}
			if len(events) < laneChunk || len(out) > 0 {
				return nil
			}
		}
		return nil
	})
	if err != nil {
		l.h.w.wrong("%s: log unreadable: %v", l.h.domain, err)
	}
	return out
}

// takeEvents answers what another homeserver's users sent.
func (h *home) takeEvents(from string, in wire.Events, reply func(wire.Stored, error)) {
	var ins []core.Input
	for _, r := range h.tamper(in.Rooms) {
		ins = append(ins, core.PeerEvents{From: from, Room: r.Room, Log: r.Log, Events: r.Events})
	}
	outs, errs, err := h.commit(ins...)
	if err != nil {
		reply(wire.Stored{}, err)
		return
	}
	var a wire.Stored
	for i, r := range in.Rooms {
		s := wire.RoomStored{Room: r.Room, Seq: outs[i].Stored, Passed: outs[i].Passed, Log: outs[i].Log, Mark: outs[i].Mark}
		if errs[i] != nil {
			s.Code = core.CodeOf(errs[i]).String()
		}
		h.w.note(h.domain, "has %d of %d messages of %s: up to %d, %v %s", len(outs[i].Events), len(r.Events), from, s.Seq, outs[i].Stopped, s.Code) // stores say in words of their own what they have not
		h.w.stored(h, from, r, &outs[i], errs[i])
		a.Rooms = append(a.Rooms, s)
	}
	reply(a, nil)
}

// post brings the Welcomes that wait for a homeserver, one after the other.
func (h *home) post(domain string) { h.postAfter(domain, 0, 0) }

func (h *home) postAfter(domain string, delay, wait time.Duration) {
	if h.posting[domain] {
		return
	}
	h.posting[domain] = true
	h.later(delay, func() {
		h.posting[domain] = false
		var ws []core.Welcome
		if err := h.view(func(r core.Reader) (err error) { ws, err = core.WelcomesOf(r, domain, 1); return err }); err != nil {
			h.w.wrong("%s: Welcomes unreadable: %v", h.domain, err)
		}
		if len(ws) == 0 {
			return
		}
		h.posting[domain] = true
		m := ws[0]
		in := wire.PeerWelcome{Room: m.Room, Epoch: m.Epoch, Message: m.Message, Tree: m.Tree}
		ask(h, domain, "welcome", in, (*home).takeWelcome, func(_ nothing, err error) {
			h.posting[domain] = false
			if err != nil && core.Temporary(err) {
				wait = min(max(2*wait, firstWait), longestWait)
				h.postAfter(domain, wait, wait)
				return
			}
			h.w.note(h.domain, "brought a Welcome to %s: %v", domain, err)
			if _, err := h.do(core.DropWelcome{Welcome: m}); err != nil {
				h.postAfter(domain, time.Second, 0)
				return
			}
			h.post(domain)
		})
	})
}

func (h *home) takeWelcome(from string, in wire.PeerWelcome, reply func(nothing, error)) {
	_, err := h.do(core.PutWelcome{From: from, Welcome: core.Welcome{To: h.domain, Room: in.Room, Epoch: in.Epoch, Message: in.Message, Tree: in.Tree}})
	if err == nil {
		h.acquaint(from)
		h.acquaint(in.Room.Domain())
	}
	reply(nothing{}, err)
}

// acquaint asks a homeserver for its record, until it answers, if none is here.
func (h *home) acquaint(domain string) {
	if domain == h.domain || h.asking[domain] {
		return
	}
	known := false
	if err := h.view(func(r core.Reader) error {
		_, err := core.HomeserverOf(r, domain)
		known = err == nil
		return nil
	}); err != nil || known {
		return
	}
	h.asking[domain] = true
	h.fetch(domain, wire.PeerRecords{Domains: []string{domain}}, func(err error) {
		h.later(time.Second, func() {
			h.asking[domain] = false
			if err != nil {
				h.acquaint(domain)
			}
		})
	})
}

// fetch asks a homeserver for what q names, and takes up what it says of its own.
func (h *home) fetch(domain string, q wire.PeerRecords, done func(error)) {
	ask(h, domain, "records", q, (*home).giveRecords, func(a wire.PeerRecordsAnswer, err error) {
		var ins []core.Input
		for _, d := range a.Homeservers {
			for _, b := range d.Records {
				if d.Domain == domain {
					ins = append(ins, core.PutHomeserver{Record: b})
				}
			}
		}
		for _, p := range a.Records {
			ins = append(ins, core.PutDevice{Proof: p})
		}
		if err == nil && len(ins) > 0 {
			_, _, err = h.commit(ins...) // each may be refused; what is known then counts
		}
		done(err)
	})
}

func (h *home) giveRecords(_ string, in wire.PeerRecords, reply func(wire.PeerRecordsAnswer, error)) {
	var out wire.PeerRecordsAnswer
	err := h.view(func(r core.Reader) error {
		for _, u := range in.Users {
			ds, err := core.DevicesOf(r, u)
			if err != nil {
				return err
			}
			for _, d := range ds {
				out.Records = append(out.Records, d.Proof)
			}
		}
		for _, d := range in.Domains {
			chain, err := core.HomeserverOf(r, d)
			if err != nil {
				continue
			}
			served := wire.Homeserver{Domain: d}
			for _, rec := range chain.Records() {
				served.Records = append(served.Records, rec.Encode())
			}
			out.Homeservers = append(out.Homeservers, served)
		}
		return nil
	})
	reply(out, err)
}
