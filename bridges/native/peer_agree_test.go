package native

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// heard returns what h heard from a homeserver's agreement, in order.
func (h *fedHome) heard(from string) (out []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.said {
		if s.from == from {
			out = append(out, string(s.Body))
		}
	}
	return out
}

// retorting makes h answer whatever its agreement hears. Where others are it does not
// know any more, so that it can say nothing but in answers.
func (h *fedHome) retorting(text string) {
	for _, o := range h.others {
		h.bridge.fed.addresses.fix(o.domain, "127.0.0.1:1")
	}
	h.mu.Lock()
	h.retort = []byte(text)
	h.mu.Unlock()
}

func TestAgreementAnswers(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a, b := hs[0], hs[1]
	room := fedRoom("club", a, b)
	b.retorting("yes")
	a.do(core.Propose{Handshake: &core.Handshake{Room: room, Message: []byte("one"), By: "mimi://a.example/d/x"}})
	until(t, "the answer", func() bool { return slices.Equal(a.heard("b.example"), []string{"re: yes"}) })
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.said) != 1 || b.said[0].from != "a.example" || string(b.said[0].Body) != "one" {
		t.Errorf("the other homeserver heard %v", b.said)
	}
}

// What is too large for an answer, and what was not asked for in one, has a request of
// its own: of and to a homeserver that knows nothing of answers as well.
func TestAgreementAnswersByRequest(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a, b := hs[0], hs[1]
	room := fedRoom("club", a, b)
	large := strings.Repeat("x", maxReply)
	b.mu.Lock()
	b.retort = []byte(large)
	b.mu.Unlock()
	a.do(core.Propose{Handshake: &core.Handshake{Room: room, Message: []byte("one"), By: "mimi://a.example/d/x"}})
	until(t, "the large answer", func() bool { return slices.Equal(a.heard("b.example"), []string{"re: " + large}) })

	b.mu.Lock()
	b.retort = []byte("no")
	b.mu.Unlock()
	v := b.visitor(a.ca, fromPrefix+"a.example", "a.example")
	raft := wire.Raft{Messages: []core.PeerMessage{{Room: room, Kind: core.PeerRaft, Body: []byte("two")}}}
	status, _, answer := v.ask("POST", wire.PeerPath+"raft", raft)
	if status != 204 || len(answer) > 0 {
		t.Errorf("%d %q", status, answer)
	}
	until(t, "the request", func() bool { return slices.Equal(a.heard("b.example"), []string{"re: " + large, "re: no"}) })
	raft.Answer = true
	var got wire.Raft
	if status, _, answer = v.ask("POST", wire.PeerPath+"raft", raft); status != 200 || cborIn.Unmarshal(answer, &got) != nil ||
		len(got.Messages) != 1 || string(got.Messages[0].Body) != "re: no" || got.Messages[0].Room != room {
		t.Errorf("%d %q", status, answer)
	}
}

// An answer is a stranger's word like a request: bounded, counted, and lost if it makes
// no sense.
func TestAgreementHostileAnswers(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	a := hs[0]
	room := fedRoom("club", hs...)
	p, err := a.bridge.fed.peer("b.example")
	if err != nil {
		t.Fatal(err)
	}
	said := func(n int, room core.RoomID) []byte {
		b, err := cborOut.Marshal(wire.Raft{Messages: slices.Repeat([]core.PeerMessage{{Room: room, Kind: core.PeerRaft, Body: []byte("x")}}, n)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, answer := range [][]byte{nil, {0xa0}, bytes.Repeat([]byte{0x9b}, 64), said(1, "no room"), said(maxAgree+1, room)} {
		p.agree.hear(context.Background(), answer)
	}
	if n := len(a.heard("b.example")); n > 0 {
		t.Errorf("%d messages were taken", n)
	}
	until(t, "the room to be shared", func() bool { return a.bridge.fed.known("b.example") })
	now := time.Now()
	a.bridge.fed.guests.now = func() time.Time { return now } // nothing is refilled
	limit := 2 * a.bridge.fed.fc.Limits.Requests
	for range 3 {
		p.agree.hear(context.Background(), said(1, room))
	}
	b := a.bridge.fed.guests.all["b.example"]
	left := b.rate.TokensAt(now)
	if n := len(a.heard("b.example")); n != 3 || left > float64(limit-3) {
		t.Errorf("%d messages, and %v of %d requests are left after three answers", n, left, limit)
	}
	b.rate.AllowN(now, int(left))
	p.agree.hear(context.Background(), said(1, room))
	if n := len(a.heard("b.example")); n != 3 {
		t.Errorf("%d messages were taken, more than may be asked", n)
	}
	a.bridge.fed.fc.Blocked = func(string) bool { return true }
	a.bridge.fed.guests.now = time.Now
	p.agree.hear(context.Background(), said(1, room))
	if n := len(a.heard("b.example")); n != 3 {
		t.Error("a homeserver that is blocked was heard")
	}
}

func TestAnswered(t *testing.T) {
	sends := []core.Send{{To: "b.example", Message: core.PeerMessage{Kind: 1}}, {To: "c.example"}, {To: "b.example", Message: core.PeerMessage{Kind: 2}}}
	out := core.Output{Sends: slices.Clone(sends)}
	core.PeerMessages{From: "b.example"}.Answered(&out)
	if len(out.Sends) != 3 || len(out.Replies) != 0 {
		t.Errorf("who asks for no answer: %+v", out)
	}
	core.PeerMessages{From: "b.example", Answer: true}.Answered(&out)
	if len(out.Sends) != 1 || out.Sends[0].To != "c.example" || len(out.Replies) != 2 || out.Replies[0].Kind != 1 || out.Replies[1].Kind != 2 {
		t.Errorf("%+v", out)
	}
}

// What follows a decision leaves a moment later, in its order, once, and with whatever
// is in a hurry.
func TestAgreementLater(t *testing.T) {
	p := &peer{f: &federation{metrics: newFedMetrics(nil)}, domain: "b.example"}
	a := newAgreement(p)
	say := func(n byte, later bool) { a.put(core.PeerMessage{Body: []byte{n}}, later) }
	settled := func() {
		until(t, "the moment to pass", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return !a.due && len(a.wake) == 1 })
		<-a.wake
	}
	for n := range byte(3) {
		say(n, true)
	}
	settled()
	if ms := a.take(); len(ms) != 3 || ms[0].Body[0] != 0 || ms[2].Body[0] != 2 {
		t.Errorf("%v", ms)
	}
	say(3, true)
	say(4, false)
	if ms := a.take(); len(a.wake) != 1 || len(ms) != 2 || ms[0].Body[0] != 3 {
		t.Errorf("%v", ms)
	}
	settled()
	say(5, false)
	if ms := a.take(); len(a.wake) != 1 || len(ms) != 1 || a.due {
		t.Errorf("%v", ms)
	}
}
