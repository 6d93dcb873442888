package sim

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// A home is one homeserver: what is in memory is gone after a crash, what is in
// store stays.
type home struct {
	w      *world
	n      int
	domain string
	key    ed25519.PrivateKey
	store  core.Store
	memory *memory // what is behind store; nil on a real one

	skew    time.Duration // how wrong the clock is
	commits int           // since the beginning
	up      bool
	life    int // rises with each crash: what belonged to an earlier one does not happen
	machine *epoch.Machine
	ticking bool
	lanes   map[laneKey]*lane
	order   []*lane // as they were opened
	waiting map[core.HandshakeID][]*offer
	polls   []*poll
	posting map[string]bool               // peers that a Welcome is on its way to
	asking  map[string]bool               // peers whose record is being asked for
	rivals  map[epochName]*core.Handshake // of one that forks
}

// homeKey is the signing key of a homeserver.
func homeKey(domain string, seed uint64) ed25519.PrivateKey {
	h := sha256.Sum256([]byte(domain + string(rune(seed%0xd000))))
	return ed25519.NewKeyFromSeed(h[:])
}

// addHome makes a homeserver that knows itself.
func (w *world) addHome(domain string, store core.Store) *home {
	h := &home{w: w, n: len(w.homes), domain: domain, key: homeKey(domain, w.plan.Seed), store: store}
	if store == nil {
		h.memory = newMemory(domain)
		h.store = h.memory
	}
	w.homes = append(w.homes, h)
	h.boot()
	rec, err := identity.SignHomeserver(h.key, identity.HomeserverRecord{Version: 1, Domain: domain,
		Keys: []identity.HomeserverKey{{Key: h.key.Public().(ed25519.PublicKey), NotBefore: 0, NotAfter: 1 << 40}}})
	if err != nil {
		w.wrong("homeserver record: %v", err)
		return h
	}
	if _, err := h.do(core.PutHomeserver{Record: rec.Encode()}); err != nil {
		w.wrong("own homeserver record: %v", err)
	}
	if h.memory != nil {
		h.memory.fault = h.misfortune
	}
	return h
}

func (h *home) clock() time.Time { return began.Add(h.w.now + h.skew) }

// misfortune decides what happens to a commit.
func (h *home) misfortune() fault {
	if h.commits++; h.n == 0 && h.commits == h.w.plan.Fails {
		h.w.facts.failed++
		return failBefore + fault(h.w.plan.How)
	}
	if !h.w.chance(h.w.plan.Disk) {
		return sound
	}
	return []fault{failBefore, failAfter, crashBefore, crashAfter}[h.w.rng.IntN(4)]
}

// boot starts the process with what is stored.
func (h *home) boot() {
	h.up, h.ticking = true, false
	h.machine = h.newMachine()
	h.lanes, h.order, h.polls = map[laneKey]*lane{}, nil, nil
	h.waiting, h.posting, h.asking = map[core.HandshakeID][]*offer{}, map[string]bool{}, map[string]bool{}
	h.resume()
	h.wind()
}

func (h *home) newMachine() *epoch.Machine {
	return epoch.New(epoch.Config{Homeserver: h.domain, Key: h.key, MaxEntries: h.w.plan.MaxEntries,
		Rooms: &rooms{core.NewEngine(core.Config{Homeserver: h.domain, Key: h.key}), h}})
}

// rooms is the engine, with what it decides in the trace.
type rooms struct {
	*core.Engine
	h *home
}

// Decide is that of core.Engine.
func (r *rooms) Decide(tx core.Tx, now time.Time, hs *core.Handshake) (core.Output, *core.Opened, error) {
	id := hs.ID()
	out, opened, err := r.Engine.Decide(tx, now, r.h.rival(hs))
	r.h.w.note(r.h.domain, "agreed: %x for epoch %d: opens %v, %v", id[:4], epochOf(hs.Message), opened != nil, err)
	return out, opened, err
}

// Judge is that of core.Engine.
func (r *rooms) Judge(tx core.Tx, now time.Time, room core.RoomID, number uint64) error {
	err := r.Engine.Judge(tx, now, room, number)
	if err != nil {
		r.h.w.note(r.h.domain, "does not approve epoch %d of %s: %v", number, room, err)
	}
	return err
}

// crash ends the process, and begins it again after a while.
func (h *home) crash(down time.Duration) {
	if !h.up {
		return
	}
	h.w.note(h.domain, "crashes for %v", down)
	h.w.facts.crashes++
	h.up, h.machine = false, nil
	h.life++
	h.w.after(down, func() {
		h.w.note(h.domain, "starts")
		h.boot()
	})
}

// later has f happen in this process, if it lives then.
func (h *home) later(d time.Duration, f func()) {
	life := h.life
	h.w.after(d, func() {
		if h.up && h.life == life {
			f()
		}
	})
}

// do decides one input.
func (h *home) do(in core.Input) (core.Output, error) {
	outs, errs, err := h.commit(in)
	if err != nil {
		return core.Output{}, err
	}
	return outs[0], errs[0]
}

var errCrashed = core.Refuse(core.Unavailable, core.OutcomeUnknown, "the homeserver went away")

// commit decides inputs in one transaction, on the terms of core.Engine, and hands
// on what came of it.
func (h *home) commit(ins ...core.Input) (outs []core.Output, errs []error, err error) {
	now := h.clock()
	ctx := context.Background()
	life := h.life
	err = h.store.Update(ctx, func(tx core.Tx) error {
		outs, errs = make([]core.Output, len(ins)), make([]error, len(ins))
		for i, in := range ins {
			out, err := h.machine.Apply(tx, now, in)
			if core.Broken(err) {
				return err
			}
			outs[i], errs[i] = out, err
		}
		return h.machine.Seal(tx)
	})
	if h.life != life {
		return nil, nil, errCrashed
	}
	if err != nil {
		return nil, nil, h.failed(ins, err)
	}
	h.publish(outs)
	h.wind()
	return outs, errs, nil
}

// failed goes on after a transaction that failed: with nothing that was in memory.
func (h *home) failed(ins []core.Input, err error) error {
	last := sound
	if h.memory != nil {
		last = h.memory.last
	}
	h.w.note(h.domain, "commit of %T fails: %v", ins[0], core.CodeOf(err))
	switch last {
	case sound:
		h.w.wrong("%s: a transaction with %T fails without a fault of the disk: %v", h.domain, ins[0], err)
	case crashBefore, crashAfter:
		h.crash(h.w.between(10*time.Millisecond, 5*time.Second))
		return errCrashed
	}
	h.machine = h.newMachine()
	h.lanes, h.order = map[laneKey]*lane{}, nil // what was published of it may be missing: read anew
	h.resume()
	h.wind()
	h.poke()
	return &core.Error{Code: core.Unavailable, Reason: core.ReasonOf(err), Text: "not stored", Err: err}
}

func (h *home) view(f func(core.Reader) error) error { return h.store.View(context.Background(), f) }

// publish hands on what a transaction came to.
func (h *home) publish(outs []core.Output) {
	var sends []core.Send
	var touched []core.RoomID
	touch := func(id core.RoomID) {
		if !slices.Contains(touched, id) {
			touched = append(touched, id)
		}
	}
	for i := range outs {
		o := &outs[i]
		for _, d := range o.Decisions {
			h.w.note(h.domain, "decides %x: epoch %d, seq %d, %v", d.ID[:4], d.Epoch, d.Seq, d.Err)
			h.decided(d)
		}
		if o.Event != nil && !o.Duplicate {
			touch(o.Event.Room)
			h.w.accepted(h, o.Event)
		}
		for _, ev := range o.Events {
			touch(ev.Room)
		}
		for _, c := range o.Certified {
			h.w.note(h.domain, "certified: epoch %d", c.Epoch)
		}
		if o.Room != nil {
			touch(o.Room.ID)
		}
		sends = append(sends, o.Sends...)
		for _, welcome := range o.Welcomes {
			h.post(welcome.To)
		}
		for _, d := range o.Missing {
			h.acquaint(d)
		}
	}
	h.sendAll(sends)
	for _, id := range touched {
		h.w.observe(h, id)
		h.open(id)
	}
	h.poke()
}

// sendAll hands the agreement's messages to the network: those of one transaction
// to one homeserver together.
func (h *home) sendAll(sends []core.Send) {
	if h.does(Lying) {
		h.lie(sends)
	}
	if !h.w.calm && h.does(Boasting) {
		h.boast(sends)
	}
	var to []string
	by := map[string][]core.PeerMessage{}
	for _, s := range sends {
		if by[s.To] == nil {
			to = append(to, s.To)
		}
		by[s.To] = append(by[s.To], s.Message)
	}
	for _, d := range to {
		h.agree(d, by[d])
	}
}

// wind keeps the agreement's clock going while it is wanted.
func (h *home) wind() {
	if h.ticking || h.machine == nil || !h.machine.Awake() {
		return
	}
	h.ticking = true
	h.later(core.TickEvery, func() {
		h.ticking = false
		if h.machine.Awake() {
			h.commit(core.Tick{}) // a failure is told by failed
		}
	})
}

// An offer is somebody who waits for a decision.
type offer struct {
	done  bool
	reply func(core.Decision, error)
}

func (o *offer) end(d core.Decision, err error) {
	if !o.done {
		o.done = true
		o.reply(d, err)
	}
}

// decideTime is how long a decision is waited for.
const decideTime = 15 * time.Second

// propose offers a handshake to the room's agreement, and answers what it came to.
func (h *home) propose(hs *core.Handshake, reply func(core.Decision, error)) {
	id := hs.ID()
	o := &offer{reply: reply}
	h.waiting[id] = append(h.waiting[id], o)
	_, errs, err := h.commit(core.Propose{Handshake: hs})
	if err == nil {
		err = errs[0]
	}
	if err != nil {
		h.forget(id, o)
		o.end(core.Decision{}, err)
		return
	}
	h.later(decideTime, func() {
		h.forget(id, o)
		o.end(core.Decision{}, core.Refuse(core.Unavailable, core.OutcomeUnknown, "the homeservers of the room have not decided in time"))
	})
}

func (h *home) forget(id core.HandshakeID, o *offer) {
	rest := slices.DeleteFunc(h.waiting[id], func(x *offer) bool { return x == o })
	if h.waiting[id] = rest; len(rest) == 0 {
		delete(h.waiting, id)
	}
}

func (h *home) decided(d core.Decision) {
	for _, o := range h.waiting[d.ID] {
		o.end(d, d.Err)
	}
	delete(h.waiting, d.ID)
}

// A poll is a device that waits for something new.
type poll struct {
	done bool
	look func() bool // whether there was something
}

// poke has everybody who waits look again.
func (h *home) poke() {
	if len(h.polls) == 0 {
		return
	}
	h.later(time.Millisecond, func() {
		waiting := h.polls
		h.polls = nil
		for _, p := range waiting {
			if !p.done && !p.look() {
				h.polls = append(h.polls, p)
			}
		}
	})
}

// holds reports whether octets are anywhere in what the homeserver keeps.
func (m *memory) holds(b []byte) string {
	for name, t := range m.values {
		for k, v := range t.rows {
			if bytes.Contains(v, b) || bytes.Contains([]byte(k), b) {
				return "bucket " + name
			}
		}
	}
	for _, l := range m.logs {
		for _, r := range l {
			if bytes.Contains(r.data, b) {
				return "the log of a room"
			}
		}
	}
	for _, r := range m.rooms.rows {
		if bytes.Contains([]byte(r.Name+r.Topic), b) {
			return "the name of a room"
		}
	}
	return ""
}
