package main

import (
	"bytes"

	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// A peerStore is what a client would have on disk of one group: the snapshot
// that begins an epoch, and the change records since.
type peerStore struct {
	snapshot []byte
	changes  [][]byte
}

// store keeps what an operation changed, once the client was restarted for the
// first time: who does not ask for it does not pay for it.
func (c *peerClient) store(g *group.Group) {
	s := c.stored[string(g.ID())]
	if s == nil {
		return
	}
	changes, ok := g.Changes()
	switch {
	case !ok:
		*s = peerStore{snapshot: g.Snapshot()}
	case len(changes) > 0:
		s.changes = append(s.changes, changes)
	}
}

// restart forgets a group and reads it back from what was stored of it, as
// after a crash.
func (c *peerClient) restart(g *group.Group, _ *peerRequest, a *peerAnswer) error {
	id := string(g.ID())
	if c.stored[id] == nil {
		c.stored[id] = &peerStore{snapshot: g.Snapshot()}
	}
	s := c.stored[id]
	back, err := group.Restore(&c.config, s.snapshot, s.changes, c.signer)
	if err != nil {
		return err
	}
	*s = peerStore{snapshot: back.Snapshot()}
	c.groups[id] = back
	a.State = stateOf(back)
	return nil
}

// signer finds a signature key of this client's by its public key.
func (c *peerClient) signer(public []byte) (mls.Signer, bool) {
	for _, s := range c.signers {
		if bytes.Equal(s.PublicKey(), public) {
			return s, true
		}
	}
	return nil, false
}
