package epoch

import (
	"crypto/sha256"
	"slices"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
)

// What was agreed cannot be taken back: an epoch whose commit too few homeservers
// approve can be entered by no device, and nothing can follow it. So before the
// leader appends a commit that brings devices in, it asks the voters whether they
// believe that the devices are who they say.

// hearTicks is how long other commits wait for one that is heard: without it a
// commit that needs a round more would lose against those that do not. Each epoch
// waits once, whatever is offered.
const hearTicks = 2

// hear reports whether enough voters would approve o; it asks those who have not
// said. An error says why they never will.
func (m *Machine) hear(r *room, o *offer) (enough bool, refusal error) {
	if o.home == m.cfg.Homeserver {
		o.say(o.home, nil) // it was judged when it was offered
	}
	need, yes, no := Quorum(len(r.auth.Voters), r.auth.Rule), 0, 0
	for _, d := range r.auth.Voters {
		if err, said := o.said[d]; said && err == nil {
			yes++
		} else if said {
			no, refusal = no+1, err
		}
	}
	if yes >= need {
		return true, nil
	}
	if no > len(r.auth.Voters)-need {
		return false, refusal
	}
	if r.heard == nil {
		r.heard, r.heldTo = o, m.ticks+hearTicks
	}
	if o.asked > 0 && m.ticks+1-o.asked < o.patience() {
		return false, nil
	}
	o.asked = m.ticks + 1
	for _, d := range r.auth.Voters {
		if _, said := o.said[d]; !said && d != m.cfg.Homeserver {
			m.send(r, d, core.PeerAsk, o.data)
		}
	}
	return false, nil
}

// say takes down what a voter thinks of o.
func (o *offer) say(voter string, opinion error) {
	if o.said == nil {
		o.said = map[string]error{}
	}
	o.said[voter] = opinion
}

// held reports whether o waits for a commit that is heard.
func (r *room) held(o *offer, tick uint64) bool {
	return o.commit && r.heard != nil && r.heard != o && tick < r.heldTo && slices.Contains(r.queue, r.heard)
}

// An opinion is what this homeserver said of the commit that it was last asked about.
type opinion struct {
	of    [sha256.Size]byte // the question
	epoch uint64
	at    uint64 // tick
	said  []byte // a refusal
}

// questioned says what this homeserver thinks of a commit that the leader heard of.
// What it cannot judge yet it does not answer; it is asked again. What it was just
// asked it says again: to judge a thousand devices takes longer than some leaders wait.
func (m *Machine) questioned(r *room, from string, body []byte) error {
	if !slices.Contains(r.auth.Voters, from) || m.homes.Take(r.key+"/"+from, 1, m.now) > 0 {
		m.stats.Ignored++
		return nil
	}
	of := sha256.Sum256(body)
	if o := &r.opinion; o.of == of && o.epoch == r.auth.Epoch && m.ticks-o.at < proposeTicks && len(o.said) > 0 {
		m.send(r, from, core.PeerOpinion, o.said)
		return nil
	}
	h, err := core.ParseHandshake(body)
	if err != nil || h.Room != r.id {
		m.stats.Ignored++
		return nil
	}
	id := h.ID()
	f := refusal{ID: id[:]}
	switch err := m.opinion(h); {
	case err == nil:
	case final(err):
		f.Code, f.Text = uint8(core.CodeOf(err)), bounded(core.TextOf(err))
	case core.CodeOf(err) == core.Internal:
		return err
	default:
		return nil
	}
	b, _ := cbor.Marshal(&f) // strings and numbers
	r.opinion = opinion{of, r.auth.Epoch, m.ticks, b}
	m.send(r, from, core.PeerOpinion, b)
	return nil
}

// opinion is what this homeserver thinks of h, and asks for what is missing to
// judge it.
func (m *Machine) opinion(h *core.Handshake) error {
	err := m.cfg.Rooms.CheckHandshake(m.tx, m.now, h)
	m.lackOf(err)
	return err
}

// final reports whether err is a judgement; others come of a state that is not the
// leader's, or may end.
func final(err error) bool {
	code := core.CodeOf(err)
	return code == core.Denied || code == core.Unauthenticated
}

// answered takes a voter's opinion.
func (m *Machine) answered(r *room, from string, body []byte) error {
	f, ok := parseRefusal(body)
	i := -1
	if ok {
		i = slices.IndexFunc(r.queue, func(o *offer) bool { return o.asked > 0 && o.id == core.HandshakeID(f.ID) })
	}
	if i < 0 || !slices.Contains(r.auth.Voters, from) {
		return nil // late
	}
	var opinion error
	if f.Code != 0 {
		opinion = core.Errorf(core.Code(f.Code), "%s", f.Text)
	}
	r.queue[i].say(from, opinion)
	return m.run(r)
}
