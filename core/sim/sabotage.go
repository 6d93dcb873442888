package sim

import (
	"time"

	"github.com/fxamacker/cbor/v2"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A Sabotage is what is wrong with the first homeserver of a run, or with everybody's
// devices. It shows that a run is held to its promises: each is found.
type Sabotage uint8

// Every Sabotage but the last two breaks a promise. Those are what a room bears.
const (
	Honest   Sabotage = iota
	Forking           // it takes another commit than the one that was agreed on
	Losing            // it acknowledges messages that it does not keep
	Robbing           // it says that it has messages of another homeserver, and has not
	Doubling          // it keeps messages of another homeserver twice
	Mixing            // it exchanges two messages of another homeserver
	Reading           // it keeps what was said in a form that can be read
	Leaking           // a device says where homeservers can read it what is for the room only
	Lying             // it approves another commit towards some homeservers than towards others
	Boasting          // it says that it leads, and appends what nobody agrees on
)

// does reports whether this homeserver does s, each third time that it could.
func (h *home) does(s Sabotage) bool {
	return h.w.plan.Sabotage == s && h.n == 0 && h.memory != nil && h.memory.fault != nil && h.w.rng.IntN(3) == 0
}

// rival is the handshake that this homeserver decides in the place of hs.
func (h *home) rival(hs *core.Handshake) *core.Handshake {
	if len(hs.Info) == 0 || h.w.plan.Sabotage != Forking || h.n != 0 {
		return hs
	}
	if r := h.rivals[epochName{hs.Room, epochOf(hs.Message)}]; r != nil && r.ID() != hs.ID() {
		h.w.note(h.domain, "takes another commit")
		return r
	}
	return hs
}

// CheckHandshake is that of core.Engine; a homeserver that forks remembers what it saw.
func (r *rooms) CheckHandshake(tx core.Tx, now time.Time, hs *core.Handshake) error {
	err := r.Engine.CheckHandshake(tx, now, hs)
	if name := (epochName{hs.Room, epochOf(hs.Message)}); err == nil && len(hs.Info) > 0 && r.h.w.plan.Sabotage == Forking && r.h.rivals[name] == nil {
		if r.h.rivals == nil {
			r.h.rivals = map[epochName]*core.Handshake{}
		}
		r.h.rivals[name] = hs
	}
	return err
}

// pretend is an acknowledgement for nothing.
func (h *home) pretend(room core.RoomID, in wire.Send) (out wire.Sent) {
	head := uint64(0)
	if err := h.view(func(r core.Reader) (err error) { head, _, err = r.Head(room); return err }); err != nil {
		h.w.wrong("%s: log unreadable: %v", h.domain, err)
	}
	for i := range in.Messages {
		out.Results = append(out.Results, wire.SentResult{Seq: head + 1 + uint64(i), Event: "pretended", Accepted: h.clock().UnixMilli()})
	}
	return out
}

// tamper changes what another homeserver sent, before it is stored.
func (h *home) tamper(in []wire.RoomEvents) (out []wire.RoomEvents) {
	for _, r := range in {
		events := append([]core.PeerEvent{}, r.Events...)
		last := len(events) - 1
		switch {
		case h.does(Robbing) && last > 0:
			events[last].Prev = events[last-1].Prev
			events = append(events[:last-1], events[last])
		case h.does(Doubling):
			again := events[last]
			again.Seq, again.Prev = again.Seq+1, again.Seq
			events = append(events, again)
		case h.does(Mixing) && last > 0 && events[last].Sender == events[last-1].Sender:
			events[last].Message, events[last-1].Message = events[last-1].Message, events[last].Message
		}
		out = append(out, wire.RoomEvents{Room: r.Room, Log: r.Log, Events: events})
	}
	return out
}

// lie puts approvals of something else in the place of a few: towards every other
// voter, and only where two honest ones are enough.
func (h *home) lie(sends []core.Send) {
	to := map[core.RoomID]int{}
	for _, s := range sends {
		if s.Message.Kind == core.PeerApproval {
			to[s.Message.Room]++
		}
	}
	for i := range sends {
		m := &sends[i].Message
		if m.Kind != core.PeerApproval || to[m.Room] < 2 || i%2 == 0 {
			continue
		}
		var signed struct {
			_                struct{} `cbor:",toarray"`
			Bytes, Signature []byte
		}
		var a epoch.Approval
		if cbor.Unmarshal(m.Body, &signed) != nil || cbor.Unmarshal(signed.Bytes, &a) != nil {
			h.w.wrong("an approval cannot be read")
			return
		}
		a.Commit[0] ^= 1
		b, err := cbor.Marshal(&a)
		if err == nil {
			signed.Bytes, signed.Signature = b, identity.Sign(h.key, epoch.ApprovalLabel, b)
			m.Body, err = cbor.Marshal(&signed)
		}
		if err != nil {
			h.w.wrong("an approval cannot be written: %v", err)
		}
		h.w.facts.lies++
	}
}

// boast adds to appends what a leader that was never elected would append: what it
// says, everybody passes over. It takes the place of nothing that was agreed with this
// homeserver's voice, and its terms are none in which somebody is elected: of two
// leaders in one term raft cannot tell.
func (h *home) boast(sends []core.Send) {
	for i := range sends {
		msg := new(pb.Message)
		if m := &sends[i].Message; m.Kind != core.PeerRaft || proto.Unmarshal(m.Body, msg) != nil || msg.GetType() != pb.MsgApp {
			continue
		}
		term, rising, data := msg.GetTerm()+1000+h.w.rng.Uint64N(9000), h.w.rng.IntN(2), []byte{0xff}
		if rising == 1 {
			data = nil
		}
		last := msg.GetIndex() + uint64(len(msg.Entries))
		for n := range 1 + h.w.rng.Uint64N(2000) {
			msg.Entries = append(msg.Entries, &pb.Entry{Index: new(last + 1 + n), Term: new(term + n*uint64(rising)), Data: data})
		}
		msg.Commit = new(min(msg.GetCommit(), last)) // that it is agreed is a lie that raft does not bear
		msg.Term = new(msg.Entries[len(msg.Entries)-1].GetTerm())
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(msg)
		if err != nil {
			h.w.wrong("a raft message cannot be written: %v", err)
		}
		sends[i].Message.Body = b
		h.w.facts.lies++
	}
}

// proofs counts what honest homeservers can show of one that lied.
func (w *world) proofs(room core.RoomID) (n int) {
	for _, h := range w.homes[1:] {
		err := h.view(func(r core.Reader) error {
			list, err := epoch.ProofsOf(r, room, "", 1000)
			for _, v := range list {
				p, perr := epoch.ParseProof(v.Data)
				if perr == nil {
					perr = p.Verify(w.signedBy)
				}
				a, _ := p.Approvals()
				if perr != nil || a.Domain != w.homes[0].domain {
					w.wrong("%s keeps a proof that proves nothing: %v", h.domain, perr)
				}
				n++
			}
			return err
		})
		if err != nil {
			w.wrong("%s unreadable: %v", h.domain, err)
		}
	}
	return n
}
