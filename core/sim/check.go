package sim

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
)

// A run is held to this:
//
//   - One commit per epoch: every homeserver has the same commit for each epoch of a
//     room, the same authority and the same homeservers in it; always.
//   - Every device of a participant is in the group, in the epoch of the room's
//     homeservers, with the same tree and epoch_authenticator; at the end. Excepted
//     are users who asked to leave: if everybody does, nobody is left to commit it.
//   - What a homeserver acknowledged is in its log at the end.
//   - What it accepted is in the log of each other homeserver that was in the room
//     from the message's epoch on, once. Excepted is what that homeserver had to
//     refuse when it came there: its epoch was over for longer than the room
//     tolerates, or its sender was out of the room or leaving it. What came too late is
//     named in the answer, and heard there in the end all the same, once, if it was said
//     by a device of somebody who was never out of the room since.
//   - What is in the log of its homeserver, a device of a participant has opened,
//     once, as it was said and by whom, if it is of an epoch since the device came
//     in. A device that entered anew came in then: it is excepted from what was said
//     before.
//   - Of each sender in the order in which it was said, but for what was said again late.
//   - What was said is not readable in anything that a homeserver stores or is sent.
//   - Every epoch has at the end, at each homeserver that has it, a certificate that
//     verifies with the keys of the epoch's homeservers.

// tolerance is the number of epochs for which late messages are taken.
const tolerance = policy.DefaultEpochTolerance

// facts are what is known of a run from outside.
type facts struct {
	steps, failed, crashes, messages, read, count, lies int

	register map[epochName]*ended
	acked    []acknowledged
	passed   map[string]bool // homeserver, origin and place of messages that had to be refused
	late     []late
	leaving  map[string]uint64 // room and user: since which epoch they are out, 0 if they are not yet
	out      map[string]uint64 // room and user: the last epoch in which they were out
	was      map[string]uint64 // and the last one before they asked to leave
	authors  map[string]*device
}

type epochName struct {
	room  core.RoomID
	epoch uint64
}

// ended is what is known of how an epoch began.
type ended struct {
	commit  core.HandshakeID
	head    core.GroupHead
	partial bool // only the commit is known
}

// An acknowledged message is one whose place was told to its device.
type acknowledged struct {
	h       *home
	room    core.RoomID
	seq     uint64
	sender  core.UserURI
	message []byte // nil: it had been taken before, perhaps sealed otherwise
}

// acknowledge takes down what a homeserver tells its device of messages.
func (w *world) acknowledge(h *home, room core.RoomID, sender core.UserURI, in wire.Send, out wire.Sent) {
	for i, r := range out.Results {
		if r.Error != nil {
			continue
		}
		a := acknowledged{h, room, r.Seq, sender, in.Messages[i].Sealed}
		if r.Duplicate {
			a.message = nil
		}
		w.facts.acked = append(w.facts.acked, a)
	}
}

func newFacts() facts {
	return facts{register: map[epochName]*ended{}, passed: map[string]bool{}, leaving: map[string]uint64{}, out: map[string]uint64{}, was: map[string]uint64{}, authors: map[string]*device{}}
}

func (f *facts) opened() int { return len(f.register) }

func (f *facts) said(d *device, text string) { f.authors[text] = d }

// accepted takes down that a homeserver has taken a message of its device.
func (w *world) accepted(h *home, ev *core.Event) {
	s, ok := ev.Body.(core.Sealed)
	if !ok {
		w.wrong("%s accepts what is readable", h.domain)
		return
	}
	w.facts.count++
	if h.does(Reading) {
		h.memory.values["kept"] = &table[string, []byte]{}
		h.memory.values["kept"].put("said", append([]byte("what was said: "), w.canaries...))
	}
	w.note(h.domain, "accepts %d of %s: %s of epoch %d", ev.Seq, ev.Sender, short(s.Message), epochOf(s.Message))
}

// observe looks at a room whose log has grown.
func (w *world) observe(h *home, room core.RoomID) {
	err := h.view(func(r core.Reader) error {
		head, err := core.GroupOf(r, room)
		if err != nil {
			return err
		}
		e := head.Authority.Epoch
		if e == 0 {
			return nil
		}
		id, _, err := core.EpochEnd(r, room, e-1)
		if core.CodeOf(err) == core.NotFound && err != nil {
			return nil // it came by a snapshot
		}
		if err != nil {
			return err
		}
		w.began(h, room, e, id, &head)
		return nil
	})
	if err != nil {
		w.wrong("%s: %s unreadable: %v", h.domain, room, err)
	}
}

// began compares how an epoch began at a homeserver with what is known of it.
func (w *world) began(h *home, room core.RoomID, e uint64, commit core.HandshakeID, head *core.GroupHead) {
	name := epochName{room, e}
	known := w.facts.register[name]
	if known == nil {
		known = &ended{commit: commit, partial: true}
		w.facts.register[name] = known
		w.note(h.domain, "epoch %d of %s begins with %x", e, room, commit[:4])
	}
	if known.commit != commit {
		w.wrong("epoch %d of %s began with %x, and at %s with %x", e, room, known.commit[:4], h.domain, commit[:4])
	}
	if head == nil {
		return
	}
	if known.partial {
		w.settleLeaving(h, room, e)
		w.note(h.domain, "epoch %d is agreed on by %v, followed by %v, rule %d", e, head.Authority.Voters, head.Authority.Followers, head.Authority.Rule)
		known.head, known.partial = *head, false
	}
	a, b := &known.head, head
	if !slices.Equal(a.Authority.Voters, b.Authority.Voters) || !slices.Equal(a.Authority.Followers, b.Authority.Followers) ||
		a.Authority.Rule != b.Authority.Rule || !slices.Equal(a.Domains, b.Domains) {
		w.wrong("epoch %d of %s: %s has authority %v and homeservers %v, others %v and %v", e, room, h.domain, b.Authority, b.Domains, a.Authority, a.Domains)
	}
}

// settleLeaving takes down who is out in the newest epoch. Who asked for it and hears
// that it is so may come back, and the room owes them what it owes everybody; a device
// that enters anew before it has heard goes on leaving.
func (w *world) settleLeaving(h *home, room core.RoomID, e uint64) {
	if k := w.facts.register[epochName{room, e + 1}]; k != nil {
		return
	}
	err := h.view(func(r core.Reader) error {
		for _, d := range w.devices {
			if _, in, err := presence(r, room, d.user); err != nil || in {
				if err != nil {
					return err
				}
				continue
			}
			w.facts.out[string(room)+" "+string(d.user)] = e
		}
		return nil
	})
	if err != nil {
		w.wrong("%s unreadable: %v", h.domain, err)
	}
}

// left reports whether somebody asked to leave a room, and was not out before epoch e.
func (w *world) left(room core.RoomID, user core.UserURI, e uint64) bool {
	out, asked := w.facts.leaving[string(room)+" "+string(user)]
	return asked && (out == 0 || out > e)
}

func epochOf(message []byte) uint64 {
	m, err := mls.Parse(message)
	switch {
	case err != nil:
		return 0
	case m.Private != nil:
		return m.Private.Epoch
	case m.Public != nil:
		return m.Public.Content.Epoch
	}
	return 0
}

func passName(h *home, from string, room core.RoomID, message []byte) string {
	return h.domain + " " + from + " " + string(room) + " " + short(message)
}

// stored looks at what a homeserver made of another's messages: what it says it has
// is in its log, or it had to refuse it.
func (w *world) stored(h *home, from string, in wire.RoomEvents, out *core.Output, refused error) {
	if refused != nil {
		return
	}
	err := h.view(func(r core.Reader) error {
		for i := range in.Events {
			p := &in.Events[i]
			if p.Seq > out.Stored || slices.ContainsFunc(out.Events, func(e *core.Event) bool { return bytes.Equal(e.Body.(core.Sealed).Message, p.Message) }) {
				continue
			}
			name := passName(h, from, in.Room, p.Message)
			if n, err := countOf(r, in.Room, from, p.Message); err != nil || n > 0 || w.facts.passed[name] {
				continue
			}
			head, err := core.GroupOf(r, in.Room)
			if err != nil {
				return err
			}
			_, member, err := presence(r, in.Room, p.Sender)
			if err != nil {
				return err
			}
			late := head.Authority.Epoch > epochOf(p.Message)+tolerance
			f := final{room: in.Room, head: head}
			if !late && member && w.since(&f, h.domain, epochOf(p.Message)) && !w.left(in.Room, p.Sender, epochOf(p.Message)) {
				w.wrong("%s says that it has %d of %s, and has not", h.domain, p.Seq, from)
			}
			if late && w.since(&f, h.domain, epochOf(p.Message)) {
				w.passedOver(h, from, in.Room, p, out)
			}
			w.facts.passed[name] = true
			w.note(h.domain, "refuses %d of %s: late %v, sender in the room %v", p.Seq, from, late, member)
		}
		return nil
	})
	if err != nil {
		w.wrong("%s unreadable: %v", h.domain, err)
	}
}

// countOf counts a message of another homeserver in a log.
func countOf(r core.Reader, room core.RoomID, from string, message []byte) (n int, err error) {
	events, err := r.Events(room, core.Range{Limit: 1 << 20})
	for i := range events {
		if s, ok := events[i].Body.(core.Sealed); ok && events[i].Home == from && bytes.Equal(s.Message, message) {
			n++
		}
	}
	return n, err
}

// A final is a room as the homeserver with the newest epoch has it.
type final struct {
	room  core.RoomID
	head  core.GroupHead
	homes []*home // with participants
	users map[core.UserURI]bool
}

// finals reads every room at the end.
func (w *world) finals() []final {
	newest := map[core.RoomID]*final{}
	for _, h := range w.homes {
		err := h.view(func(r core.Reader) error {
			rooms, err := r.Rooms("", 1000)
			if err != nil {
				return err
			}
			for _, room := range rooms {
				head, err := core.GroupOf(r, room.ID)
				if err != nil {
					return err
				}
				if f := newest[room.ID]; f != nil && f.head.Authority.Epoch >= head.Authority.Epoch {
					continue
				}
				f := &final{room: room.ID, head: head, users: map[core.UserURI]bool{}}
				members, err := r.Members(room.ID)
				if err != nil {
					return err
				}
				for _, m := range members {
					if m.Joined {
						f.users[m.User] = true
					}
				}
				newest[room.ID] = f
			}
			return nil
		})
		if err != nil {
			w.wrong("%s unreadable: %v", h.domain, err)
		}
	}
	var out []final
	for _, id := range slices.Sorted(maps.Keys(newest)) {
		f := newest[id]
		for _, d := range f.head.Domains {
			f.homes = append(f.homes, w.homeOf(d))
		}
		out = append(out, *f)
	}
	return out
}

// restless says what has not come to rest yet, "" if everything has.
func (w *world) restless() string {
	for _, h := range w.homes {
		if !h.up {
			return h.domain + " is down"
		}
	}
	for _, d := range w.devices {
		if d.c == nil {
			return d.name + " is down"
		}
	}
	for _, f := range w.finals() {
		for _, h := range f.homes {
			if why := w.restlessHome(&f, h); why != "" {
				return why
			}
		}
		for _, d := range w.devices {
			if why := w.restlessDevice(&f, d); why != "" {
				return d.name + " in " + string(f.room) + ": " + why
			}
		}
	}
	return ""
}

func (w *world) restlessHome(f *final, h *home) (why string) {
	err := h.view(func(r core.Reader) error {
		head, err := core.GroupOf(r, f.room)
		if err != nil {
			return err
		}
		if e := head.Authority.Epoch; e != f.head.Authority.Epoch {
			why = fmt.Sprintf("%s is in epoch %d of %s, others in %d", h.domain, e, f.room, f.head.Authority.Epoch)
			return nil
		}
		if e := head.Authority.Epoch; e > 0 {
			if _, err := epoch.CertificateOf(r, f.room, e); err != nil {
				why = fmt.Sprintf("%s has no certificate of epoch %d of %s: %v", h.domain, e, f.room, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Sprintf("%s: %s: %v", h.domain, f.room, err)
	}
	for _, l := range h.order {
		if why == "" && !l.shut && l.room == f.room && len(l.read()) > 0 {
			why = fmt.Sprintf("%s has messages of %s for %s after %d", h.domain, f.room, l.peer, l.stored)
		}
	}
	return why
}

// settledState is what equals on all devices of a room.
func (w *world) restlessDevice(f *final, d *device) string {
	if !f.users[d.user] || !d.c.Registered() || w.left(f.room, d.user, f.head.Authority.Epoch) {
		return ""
	}
	ctx := context.Background()
	s, err := d.c.State(ctx, f.room)
	if err != nil {
		return err.Error()
	}
	if s.Epoch != f.head.Authority.Epoch {
		return fmt.Sprintf("it is in epoch %d of %d", s.Epoch, f.head.Authority.Epoch)
	}
	if why := w.unheard(f, d, s.Entered); why != "" {
		return why
	}
	rooms, err := d.c.Rooms(ctx)
	if err != nil {
		return err.Error()
	}
	for _, r := range rooms {
		if r.Room == f.room && (r.Waiting || r.Halted != "") {
			return fmt.Sprintf("waiting %v, halted %q", r.Waiting, r.Halted)
		}
	}
	return ""
}

// check looks at everything once all has come to rest.
func (w *world) check() {
	if len(w.broken) > 0 {
		return
	}
	for _, h := range w.homes {
		if h.memory != nil {
			if where := h.memory.holds(w.canaries); where != "" {
				w.wrong("%s: what was said is readable in %s", h.domain, where)
			}
		}
	}
	for _, a := range w.facts.acked {
		w.checkKept(&a)
	}
	for _, f := range w.finals() {
		w.checkEpochs(&f)
		w.checkDevices(&f)
		for _, h := range f.homes {
			w.checkCarried(&f, h)
		}
	}
}

// checkKept looks whether what was acknowledged is in the log.
func (w *world) checkKept(a *acknowledged) {
	err := a.h.view(func(r core.Reader) error {
		ev, err := r.Event(a.room, a.seq)
		if err != nil {
			return err
		}
		if s, ok := ev.Body.(core.Sealed); !ok || ev.Sender != a.sender || a.message != nil && !bytes.Equal(s.Message, a.message) {
			w.wrong("%s: %d of %s is not what was acknowledged", a.h.domain, a.seq, a.room)
		}
		return nil
	})
	if err != nil {
		w.wrong("%s: %d of %s was acknowledged: %v", a.h.domain, a.seq, a.room, err)
	}
}

// since reports whether a homeserver was in the room in every epoch from e on.
func (w *world) since(f *final, domain string, e uint64) bool {
	if e == 0 && domain != f.room.Domain() {
		return false
	}
	for ; e <= f.head.Authority.Epoch; e++ {
		if known := w.facts.register[epochName{f.room, e}]; e > 0 && (known == nil || known.partial || !slices.Contains(known.head.Domains, domain)) {
			return false
		}
	}
	return true
}

// checkCarried looks for the messages of a homeserver's users in the logs of others.
func (w *world) checkCarried(f *final, h *home) {
	var events []core.Event
	err := h.view(func(r core.Reader) (err error) {
		events, err = r.Events(f.room, core.Range{Limit: 1 << 20})
		return err
	})
	if err != nil {
		w.wrong("%s unreadable: %v", h.domain, err)
	}
	for i := range events {
		s, ok := events[i].Body.(core.Sealed)
		if !ok || s.Handshake() || events[i].Home != "" {
			continue
		}
		e := epochOf(s.Message)
		for _, to := range f.homes {
			if to == h || !w.since(f, to.domain, e) || !w.since(f, h.domain, e) {
				continue
			}
			n := 0
			if err := to.view(func(r core.Reader) (err error) { n, err = countOf(r, f.room, h.domain, s.Message); return err }); err != nil {
				w.wrong("%s unreadable: %v", to.domain, err)
			}
			if n > 1 || n == 0 && !w.facts.passed[passName(to, h.domain, f.room, s.Message)] {
				w.wrong("%d of %s in %s, of epoch %d, is in the log of %s %d times", events[i].Seq, h.domain, f.room, e, to.domain, n)
			}
		}
	}
}

// checkDevices compares the devices of a room, and looks at what they have read.
func (w *world) checkDevices(f *final) {
	ctx := context.Background()
	var first *client.State
	for _, d := range w.devices {
		if d.c == nil || !d.c.Registered() {
			continue
		}
		read := w.history(f, d)
		w.checkOrder(f, d, read)
		if !f.users[d.user] || w.left(f.room, d.user, f.head.Authority.Epoch) {
			continue
		}
		s, err := d.c.State(ctx, f.room)
		if err != nil {
			w.wrong("%s in %s: %v", d.name, f.room, err)
			continue
		}
		if first == nil {
			first = &s
		}
		if s.Epoch != first.Epoch || !bytes.Equal(s.Authenticator, first.Authenticator) || !bytes.Equal(s.Tree, first.Tree) {
			w.wrong("%s is in another epoch %d of %s than others", d.name, s.Epoch, f.room)
		}
		w.checkRead(f, d, s.Entered, read)
	}
}

// history is what a device has read of a room, in which it may be no more.
func (w *world) history(f *final, d *device) map[uint64]client.Message {
	read := map[uint64]client.Message{}
	for before := uint64(0); ; {
		page, err := d.c.History(context.Background(), f.room, before, 500)
		if err != nil && core.CodeOf(err) == core.NotFound {
			return nil
		}
		if err != nil {
			w.wrong("%s in %s: %v", d.name, f.room, err)
			return nil
		}
		placed := 0
		for _, m := range page {
			if m.Seq > 0 {
				read[m.Seq] = m
				placed++
			}
		}
		if placed < 500 {
			return read
		}
		before = page[0].Seq
	}
}

// checkRead holds what a device has read to the log of its homeserver.
func (w *world) checkRead(f *final, d *device, entered uint64, read map[uint64]client.Message) {
	var events []core.Event
	err := d.home.view(func(r core.Reader) (err error) {
		events, err = r.Events(f.room, core.Range{Limit: 1 << 20})
		return err
	})
	if err != nil {
		w.wrong("%s unreadable: %v", d.home.domain, err)
	}
	for i := range events {
		s, ok := events[i].Body.(core.Sealed)
		if !ok || s.Handshake() || epochOf(s.Message) < entered {
			continue
		}
		m, there := read[events[i].Seq]
		switch {
		case !there && hasKey(read, repeated(s.Message)): // it had the first
		case !there:
			w.wrong("%s has not read %d of %s (%s, epoch %d, %s)", d.name, events[i].Seq, f.room, events[i].Sender, epochOf(s.Message), short(s.Message))
		case m.Failed != "":
			w.wrong("%s cannot read %d of %s (epoch %d): %s", d.name, events[i].Seq, f.room, epochOf(s.Message), m.Failed)
		case m.Sender != events[i].Sender:
			w.wrong("%s reads %d of %s as by %s, which was by %s", d.name, events[i].Seq, f.room, m.Sender, events[i].Sender)
		}
	}
}

// checkOrder holds what a device has read to what was said: by whom, once, and in
// the order of each sender.
func (w *world) checkOrder(f *final, d *device, read map[uint64]client.Message) {
	seen := map[string]bool{}
	last := map[string]int{}
	for _, seq := range slices.Sorted(maps.Keys(read)) {
		m := read[seq]
		if m.Failed != "" {
			continue
		}
		text := string(m.Content)
		author := w.facts.authors[text]
		if author == nil || author.user != m.Sender || author.c != nil && author.c.Device() != m.Device {
			w.wrong("%s reads what %s did not say in %s", d.name, m.Sender, f.room)
			continue
		}
		if seen[text] {
			w.wrong("%s reads a message of %s in %s twice", d.name, m.Sender, f.room)
		}
		seen[text] = true
		fields := strings.Fields(text)
		n := 0
		fmt.Sscan(fields[len(fields)-1], &n)
		if m.Late {
			continue
		}
		if n < last[author.name] {
			w.wrong("%s reads %d of %s in %s after %d", d.name, n, author.name, f.room, last[author.name])
		}
		if last[author.name] = n; author != d {
			w.facts.read++
		}
	}
}
