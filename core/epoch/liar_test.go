package epoch

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
)

// A homeserver that approves one commit to one of its peers and another to the other
// is found out as soon as those two speak to each other.
func TestTwoTruths(t *testing.T) {
	c := grown(t, 21, three...)
	if err := c.propose(handshake(testRoom, three[0], 1, change{})); err != nil {
		t.Fatal(err)
	}
	c.quiet()
	liar, b, misled := three[0], c.nodes[three[1]], c.nodes[three[2]]
	key := misled.m.rooms[testRoom].numbered(2)
	believe := func(n *node, change func(*Approval)) (own signed) {
		row, err := readCert(n.store, key)
		if err != nil {
			t.Fatal(err)
		}
		change(&row.Facts)
		row.Given = nil
		for _, d := range []string{liar, n.domain} {
			a := row.Facts
			a.Domain = d
			own = sign(homeKey(d), a)
			row.Given = append(row.Given, own)
		}
		data, err := cbor.Marshal(row)
		if err == nil {
			err = n.store.PutValue(bucketCerts, key, data)
		}
		if err != nil {
			t.Fatal(err)
		}
		return own
	}
	own := believe(b, func(*Approval) {})
	believe(misled, func(a *Approval) { a.Tree = bytes.Repeat([]byte{7}, 32) })
	c.nodes[liar].down = true
	misled.do(core.PeerMessages{From: three[1], Messages: []core.PeerMessage{{Room: testRoom, Kind: core.PeerApproval, Body: own.encode()}}}, false)
	c.quiet()
	for _, n := range []*node{b, misled} {
		proofs, err := ProofsOf(n.store, testRoom, "", 10)
		if err != nil || len(proofs) != 1 {
			t.Fatalf("%s has %d proofs, %v", n.domain, len(proofs), err)
		}
		p, err := ParseProof(proofs[0].Data)
		if err != nil {
			t.Fatal(err)
		}
		if x, _ := p.Approvals(); x.Domain != liar {
			t.Errorf("%s convicts %s", n.domain, x.Domain)
		}
	}
}

// Handshakes that are refused cost their sender too: a look at one may take long.
func TestFloodOfRefusals(t *testing.T) {
	for name, by := range map[string]func(int) core.DeviceURI{
		"a device":             func(int) core.DeviceURI { return core.NewDeviceURI(three[0], "d") },
		"devices of elsewhere": func(i int) core.DeviceURI { return core.NewDeviceURI("evil.example", fmt.Sprint(i)) },
	} {
		c := grown(t, 23, three...)
		a, looked := c.nodes[three[0]], 0
		for i := range 1000 {
			h := handshake(testRoom, three[0], 1, change{Nonce: fmt.Sprint(i), Bad: true})
			h.By = by(i)
			if _, err := a.do(core.Propose{Handshake: h}, false); core.CodeOf(err) == core.Invalid {
				looked++
			} else if core.CodeOf(err) != core.Limited || retryAfter(err) <= 0 {
				t.Fatalf("%s: %v", name, err)
			}
		}
		if looked == 0 || looked > 500 {
			t.Errorf("%s: %d handshakes were looked at", name, looked)
		}
		if err := c.propose(&core.Handshake{Room: testRoom, Home: three[0], By: core.NewDeviceURI(three[0], "other"), Message: handshake(testRoom, three[0], 1, change{}).Message, Info: []byte{1}}); err != nil {
			t.Errorf("%s: another device: %v", name, err)
		}
		if c.quiet(); c.epoch(three[1], testRoom) != 2 {
			t.Errorf("%s: the room stands still", name)
		}
	}
}
