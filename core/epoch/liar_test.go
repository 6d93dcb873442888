package epoch

import (
	"bytes"
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
