package epoch

import (
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

// A lease comes with the certificates that lead to its epoch, and there is none of an
// epoch that too few have approved: no device enters it.
func TestLease(t *testing.T) {
	c := newCluster(t, 35, three...)
	c.create(testRoom, three[0])
	a := c.nodes[three[0]]
	lease := func() (core.Output, error) { return a.do(core.LeaseGroupInfo{Room: testRoom}, false) }
	if out, err := lease(); err != nil || len(out.Lease.Certificates) != 0 {
		t.Fatalf("epoch 0: %+v, %v", out.Lease, err)
	}
	c.decide(handshake(testRoom, three[0], 0, change{Voters: three[:2], Followers: three[2:]}))
	c.quiet()
	c.decide(handshake(testRoom, three[0], 1, change{}))
	c.quiet()
	c.decide(handshake(testRoom, three[0], 2, change{Voters: three}))
	c.quiet()
	later := core.Errorf(core.Unavailable, "later")
	for _, d := range three[1:] {
		c.nodes[d].rooms.judge = func(uint64) error { return later }
	}
	c.decide(handshake(testRoom, three[0], 3, change{}))
	out, err := lease()
	if core.CodeOf(err) != core.Limited || out.Lease != nil {
		t.Fatalf("an epoch that nobody approved is lent: %+v, %v", out.Lease, err)
	}
	for _, d := range three[1:] {
		c.nodes[d].rooms.judge = nil
	}
	c.quiet()
	if out, err = lease(); err != nil {
		t.Fatal(err)
	}
	var epochs []uint64
	for _, b := range out.Lease.Certificates {
		cert, err := ParseCertificate(b)
		if err != nil {
			t.Fatal(err)
		}
		epochs = append(epochs, cert.Facts().Epoch)
	}
	if !slices.Equal(epochs, []uint64{1, 3, 4}) {
		t.Errorf("certificates of the epochs %d lead to 4", epochs)
	}
	if _, err := a.do(core.LeaseGroupInfo{Room: "mimi://a.example/r/none"}, false); err != nil {
		t.Errorf("what is not here is for the engine to say: %v", err)
	}
}
