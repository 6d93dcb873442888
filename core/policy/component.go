package policy

import (
	"errors"
	"fmt"

	"github.com/isthmus-chat/isthmus/mls"
)

// replaced are the components whose update is the new data, with what checks
// that it is well formed: draft-ietf-mimi-room-policy-04 has all but join_links
// so, draft-ietf-mimi-protocol-06 §7.6 the metadata.
var replaced = map[mls.ComponentID]func([]byte) error{
	ComponentMetadata:           check(ParseMetadata),
	ComponentOperational:        check(ParseOperational),
	ComponentRoles:              check(ParseRoles),
	ComponentPreauth:            check(ParsePreauth),
	ComponentBaseRoom:           check(ParseBaseRoom),
	ComponentStatusNotification: check(ParseStatusNotification),
	ComponentJoinLinkPolicy:     check(ParseJoinLinkPolicy),
	ComponentLinkPreview:        check(ParseLinkPreview),
	ComponentAsset:              check(ParseAsset),
	ComponentLogging:            check(ParseLogging),
	ComponentHistory:            check(ParseHistory),
	ComponentBots:               check(ParseBots),
	ComponentExpiration:         check(ParseExpiration),
	ComponentAuthority:          check(ParseAuthority),
}

func check[T any](parse func([]byte) (T, error)) func([]byte) error {
	return func(b []byte) error {
		_, err := parse(b)
		return err
	}
}

// ErrComponent is wrapped by errors about a component that is none of a room's.
var ErrComponent = errors.New("policy: unknown component")

// Component applies the updates that a commit has for one component to its data
// and returns the new data; it is what mls.Policy.Components asks for. Lists of
// participants and of join links are patched; an absent one counts as empty.
// All else is replaced, by one update in a commit. Whether the author may do it
// is for Check to say. Errors are ErrMalformed or ErrComponent.
func Component(c mls.ComponentID, current []byte, present bool, updates [][]byte) ([]byte, error) {
	if !present {
		current = []byte{0}
	}
	switch c {
	case ComponentParticipants:
		return updateParticipants(current, updates)
	case ComponentJoinLinks:
		return updateJoinLinks(current, updates)
	}
	check, ok := replaced[c]
	switch {
	case !ok:
		return nil, fmt.Errorf("%w %#04x", ErrComponent, uint16(c))
	case len(updates) != 1:
		return nil, fmt.Errorf("%w: a component is replaced once in a commit", ErrMalformed)
	}
	if err := check(updates[0]); err != nil {
		return nil, err
	}
	return updates[0], nil
}

// Components are those that a client of a room has to know, in order: what its
// leaf lists as supported.
func Components() []mls.ComponentID {
	out := []mls.ComponentID{}
	for c := ComponentParticipants; c <= ComponentExpiration; c++ {
		out = append(out, c)
	}
	return append(out, ComponentAuthority)
}
