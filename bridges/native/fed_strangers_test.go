package native

import (
	"context"
	"fmt"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Strangers are answered, and take no room from those who share rooms with us.
func TestFederationHasRoomBesideStrangers(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	f := hs[0].bridge.fed
	fedRoom("club", hs...)
	until(t, "the shared room to be known", func() bool { return f.known("b.example") })
	f.mu.Lock()
	ctx := f.ctx
	gone, end := context.WithCancel(ctx)
	end()
	f.ctx = gone // their workers are not what is tried here
	for i := range maxPeers + 10 {
		if f.peerOf(fmt.Sprintf("evil.example:%d", i+1)) == nil {
			t.Errorf("stranger %d is not answered", i)
			break
		}
	}
	f.ctx = ctx
	if len(f.peers) > maxPeers {
		t.Errorf("%d peers", len(f.peers))
	}
	f.mu.Unlock()
	if _, err := f.peer("c.example"); err != nil {
		t.Errorf("a new homeserver, after strangers: %v", err)
	}
	if !f.known("b.example") {
		t.Error("strangers took the place of a homeserver that shares a room")
	}
}

// The ports of one host, which all show its certificate, share what a stranger may ask.
func TestFederationCountsHostsOfStrangers(t *testing.T) {
	h := newFed(t, "a.example")[0]
	admitted := 0
	for port := range 1000 {
		done, err := h.bridge.fed.guests.admit(fmt.Sprintf("evil.example:%d", port+1), false)
		if err == nil {
			done()
			admitted++
		}
	}
	if admitted > 100 {
		t.Errorf("%d requests of one host at once", admitted)
	}
	f := h.bridge.fed
	for port := range maxPeers + 1 {
		f.meet(fmt.Sprintf("evil.example:%d", port+1))
	}
	if f.meet("b.example"); !f.known("b.example") {
		t.Error("the ports of one host leave no room for another homeserver")
	}
}

// A stranger's messages of the agreement are few, and counted together.
func TestFederationAgreementOfStrangers(t *testing.T) {
	h := newFed(t, "a.example")[0]
	v := h.visitor(h.ca, "", "evil.example")
	many := wire.Raft{}
	for i := range maxStrangeRooms + 1 {
		many.Messages = append(many.Messages, core.PeerMessage{Room: core.NewRoomID("a.example", fmt.Sprint(i)), Kind: core.PeerRaft, Body: []byte("x")})
	}
	if _, code, _ := v.ask("POST", wire.PeerPath+"raft", many); code != core.Limited.String() {
		t.Errorf("%d messages of a stranger: %q", len(many.Messages), code)
	}
	many.Messages = many.Messages[:maxStrangeRooms]
	if status, code, _ := v.ask("POST", wire.PeerPath+"raft", many); status != 204 {
		t.Errorf("%d messages of a stranger: %d %q", len(many.Messages), status, code)
	}
}

// However many hosts strangers have, and hosts that somebody here has met, what they
// announce and do not send leaves room for the bodies of others.
func TestFederationHasRoomForBodiesBesideStrangers(t *testing.T) {
	hs := newFed(t, "a.example", "b.example")
	f := hs[0].bridge.fed
	fedRoom("club", hs...)
	until(t, "the shared room to be known", func() bool { return f.known("b.example") })
	for i := range 100 {
		host := fmt.Sprintf("evil%d.example", i)
		met := i%2 == 0
		if met {
			f.meet(host)
		}
		if f.known(host) != met {
			t.Fatal(host)
		}
		f.guests.bodies.take(f.payer(host, met), f.fc.Limits.Memory/8)
	}
	if _, ok := f.guests.bodies.take(f.payer("b.example", true), f.fc.Limits.Memory/2); !ok {
		t.Error("strangers leave no room")
	}
}
