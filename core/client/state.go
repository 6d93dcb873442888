package client

import (
	"context"

	"github.com/isthmus-chat/isthmus/core"
)

// A State is where this device stands in a Group.
type State struct {
	Epoch         uint64
	Entered       uint64 // the epoch in which the device came in: what was said before cannot be read
	Authenticator []byte // epoch_authenticator (RFC 9420 §8.7): equal on all members of one epoch
	Tree          []byte // tree_hash
}

// State says where this device stands in a Group that it is in; NotFound or Denied
// if it is not.
func (c *Client) State(ctx context.Context, id core.RoomID) (State, error) {
	if err := c.enter(ctx); err != nil {
		return State{}, err
	}
	defer c.mu.Unlock()
	r, err := c.group(ctx, id)
	if err != nil {
		return State{}, err
	}
	return State{Epoch: r.g.Epoch(), Entered: r.Entered, Authenticator: r.g.EpochAuthenticator(), Tree: r.g.Public().Context().TreeHash}, nil
}
