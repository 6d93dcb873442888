package main

import (
	"context"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A lossyHome loses one answer to a message when it is told to: what the homeserver
// has committed, the device does not hear of.
type lossyHome struct {
	client.Home
	mu      sync.Mutex
	lose    func() // is done in place of the next answer
	answers map[string][]wire.SentResult
}

func (h *lossyHome) Send(ctx context.Context, room core.RoomID, r wire.Send) (wire.Sent, error) {
	out, err := h.Home.Send(ctx, room, r)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err != nil {
		return out, err
	}
	for i, m := range r.Messages {
		h.answers[m.ID] = append(h.answers[m.ID], out.Results[i])
	}
	if h.lose != nil {
		h.lose()
		h.lose = nil
		return wire.Sent{}, core.Errorf(core.Unavailable, "the connection broke before the answer")
	}
	return out, nil
}

// A message whose answer was lost, with the connection or with the homeserver that
// kill -9 ended after its commit, is sent again under its ID: it is one event, and
// the answer is the first one.
func TestGroupsSendTwice(t *testing.T) {
	c := newCluster(t, false, "a.example")
	c.start()
	home := c.homes[0]
	lossy := &lossyHome{answers: map[string][]wire.SentResult{}}
	alice := c.newPhone(home, "alice", func(h *httpHome) client.Home { lossy.Home = h; return lossy })
	bob := c.newPhone(home, "bob", nil)
	ctx := t.Context()
	room, err := alice.Create(ctx, client.NewRoom{Name: "once"})
	if err == nil {
		_, err = alice.Invite(ctx, room, home.user("bob"))
	}
	if err != nil {
		t.Fatal(err)
	}
	converge(t, room, alice, bob)
	alice.stop() // an echo would tell it too
	for _, loss := range []struct {
		text string
		lose func()
	}{{"the connection broke", func() {}}, {"the server died", func() { home.down(syscall.SIGKILL) }}} {
		text := loss.text
		lossy.mu.Lock()
		lossy.lose = loss.lose
		clear(lossy.answers)
		lossy.mu.Unlock()
		m, err := alice.say(ctx, room, text)
		if home.process == nil {
			home.up()
		}
		if err != nil && core.CodeOf(err) != core.Unavailable {
			t.Fatalf("%s: %v", text, err)
		}
		inTheEnd(t, text+", and the message is sent again", func() bool { return alice.Tend(ctx) == nil })
		lossy.mu.Lock()
		if len(lossy.answers) != 1 {
			t.Fatalf("%s: sent under %d IDs, %+v", text, len(lossy.answers), m)
		}
		for _, got := range lossy.answers {
			if len(got) < 2 || got[0].Duplicate || got[0].Seq == 0 {
				t.Fatalf("%s: answers %+v", text, got)
			}
			want := got[0]
			want.Duplicate = true
			if i := slices.IndexFunc(got[1:], func(r wire.SentResult) bool { return r != want }); i >= 0 {
				t.Errorf("%s: answered %+v, then %+v", text, got[0], got[i+1])
			}
		}
		lossy.mu.Unlock()
		bob.hear(room, []string{"alice: " + text})
	}
	h, err := alice.api.History(ctx, room, 0, 100)
	said := 0
	for _, e := range h.Events {
		if e.Sender == home.user("alice") && e.Certificate == nil {
			said++
		}
	}
	if err != nil || said != 2 {
		t.Errorf("%d messages in the log: %v", said, err)
	}
}
