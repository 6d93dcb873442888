package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/bridges/native"
	"github.com/isthmus-chat/isthmus/core"
)

// A metPeers is a federator that met some homeservers, and a gateway to a store in
// which others have an alarm.
type metPeers struct {
	bridges.Gateway
	core.Reader
	states  []native.PeerState
	alarms  []core.Value
	retried []string
}

func (m *metPeers) Peers() []native.PeerState { return m.states }

func (m *metPeers) RetryPeer(domain string) error {
	m.retried = append(m.retried, domain)
	return nil
}

func (m *metPeers) View(_ context.Context, f func(core.Reader) error) error { return f(m) }

func (m *metPeers) Values(string, string, int) ([]core.Value, error) { return m.alarms, nil }

func TestPeersAsTheOperatorSeesThem(t *testing.T) {
	now := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	m := &metPeers{alarms: []core.Value{{Key: "a.example"}, {Key: "d.example"}}, states: []native.PeerState{
		{Domain: "a.example", Last: now}, {Domain: "b.example", Blocked: true}, {Domain: "c.example", Failures: 2, Problem: "nobody answers", Since: now, Next: now},
		{Domain: "e.example", Last: now, Rooms: 3}, {Domain: "f.example"}}}
	a := &admin{peers: m, gw: m}
	got, err := a.peerList(t.Context(), nothing{})
	if err != nil {
		t.Fatal(err)
	}
	states := map[string]string{}
	for _, p := range got.Peers {
		states[p.Domain] = p.State
	}
	want := map[string]string{"a.example": "alarm", "b.example": "blocked", "c.example": "away", "d.example": "alarm", "e.example": "well", "f.example": "quiet"}
	if d := cmp.Diff(want, states); d != "" {
		t.Error(d)
	}
	for domain, says := range map[string]string{"d.example": "do not follow", "c.example": "2 in a row: nobody answers", "e.example": "Rooms shared\t3"} {
		p, err := a.peerRetry(t.Context(), peerRef{domain})
		var b strings.Builder
		if printPeer(&b, p); err != nil || !strings.Contains(b.String(), says) {
			t.Errorf("%s: %v, %s", domain, err, &b)
		}
	}
	if _, err := a.peerShow(t.Context(), peerRef{"z.example"}); core.CodeOf(err) != core.NotFound {
		t.Errorf("a homeserver that nobody knows: %v", err)
	}
	if _, err := new(admin).peerList(t.Context(), nothing{}); core.CodeOf(err) != core.Unavailable {
		t.Errorf("without a server: %v", err)
	}
	if len(m.retried) != 3 {
		t.Errorf("tried again: %v", m.retried)
	}
}
