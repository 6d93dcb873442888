// Package policy says who may do what in a room: the components of
// draft-ietf-mimi-room-policy-04 and draft-ietf-mimi-protocol-06 §7.5 and §7.6
// in a group's application data dictionary, the state they make up in one
// epoch, and whether a commit is allowed in it.
//
// What is read is checked as it is read: a State that exists is one in which
// every participant has a role of the room, once, and every count is within
// the room's bounds. A State never changes; Next makes the next one and shares
// with it what stayed.
package policy

import (
	"errors"

	"github.com/isthmus-chat/isthmus/mls"
)

// The components of a room, draft-ietf-mimi-protocol-06 §9 and
// draft-ietf-mimi-room-policy-04 §10.1 (the values suggested there), and one of
// our own from the range for private use.
const (
	ComponentParticipants       mls.ComponentID = 0x0022
	ComponentMetadata           mls.ComponentID = 0x0023
	ComponentOperational        mls.ComponentID = 0x0024
	ComponentRoles              mls.ComponentID = 0x0025
	ComponentPreauth            mls.ComponentID = 0x0026
	ComponentBaseRoom           mls.ComponentID = 0x0027
	ComponentStatusNotification mls.ComponentID = 0x0028
	ComponentJoinLinkPolicy     mls.ComponentID = 0x0029
	ComponentJoinLinks          mls.ComponentID = 0x002a
	ComponentLinkPreview        mls.ComponentID = 0x002b
	ComponentAsset              mls.ComponentID = 0x002c
	ComponentLogging            mls.ComponentID = 0x002d
	ComponentHistory            mls.ComponentID = 0x002e
	ComponentBots               mls.ComponentID = 0x002f
	ComponentExpiration         mls.ComponentID = 0x0030
	ComponentAuthority          mls.ComponentID = 0xf001
)

// A Capability is a thing that a role may let its holders do,
// draft-ietf-mimi-room-policy-04 §8 and §10.2.
type Capability uint16

// The capabilities that this package or the engine asks for; those about the
// content of messages are judged by the clients that show it.
const (
	CanAddParticipant          Capability = 0x0000
	CanRemoveParticipant       Capability = 0x0001
	CanAddOwnClient            Capability = 0x0002
	CanRemoveOwnClient         Capability = 0x0003
	CanOpenJoin                Capability = 0x0004
	CanJoinIfPreauthorized     Capability = 0x0005
	CanRemoveSelf              Capability = 0x0006
	CanCreateJoinCode          Capability = 0x0007
	CanDeleteJoinCode          Capability = 0x0008
	CanUseJoinCode             Capability = 0x0009
	CanBan                     Capability = 0x000a
	CanUnban                   Capability = 0x000b
	CanKick                    Capability = 0x000c
	CanKnock                   Capability = 0x000d
	CanAcceptKnock             Capability = 0x000e
	CanChangeUserRole          Capability = 0x000f
	CanChangeOwnRole           Capability = 0x0010
	CanSendMessage             Capability = 0x0100
	CanReceiveMessage          Capability = 0x0101
	CanReportAbuse             Capability = 0x0103
	CanReplyToMessage          Capability = 0x0104
	CanReactToMessage          Capability = 0x0105
	CanDeleteOtherMessage      Capability = 0x010b
	CanEditOtherTopic          Capability = 0x010f
	CanChangeRoomName          Capability = 0x0300
	CanChangeRoomDescription   Capability = 0x0301
	CanChangeRoomAvatar        Capability = 0x0302
	CanChangeRoomSubject       Capability = 0x0303
	CanChangeRoomMood          Capability = 0x0304
	CanDestroyRoom             Capability = 0x0501
	CanChangeMembershipStyle   Capability = 0x0502
	CanChangeRoleDefinitions   Capability = 0x0503
	CanChangePreauthorizedList Capability = 0x0504
	CanChangePolicy            Capability = 0x0505
	CanChangeOperational       Capability = 0x0600
	CanReinit                  Capability = 0x0601
)

// The roles that every room has whose roles are those of Default; RoleNone and
// RoleBanned are fixed by draft-ietf-mimi-room-policy-04 §3 and §8.1.3.
const (
	RoleNone     uint32 = 0 // of who is not in the list
	RoleBanned   uint32 = 1
	RoleMember   uint32 = 2
	RoleVoice    uint32 = 3
	RoleHalfop   uint32 = 4
	RoleOperator uint32 = 5
	RoleAdmin    uint32 = 6
	RoleOwner    uint32 = 7
)

// Bounds of what is read. Text is in octets, the others in entries.
const (
	MaxParticipants = 1 << 17 // as many as a group has leaves
	MaxURI          = 1024
	MaxText         = 4096
	MaxRoles        = 256
	MaxCapabilities = 1024 // of one role, or of one list of code points
	MaxRoleChanges  = 256  // of one role, and targets of each
	MaxPreauth      = 256
	MaxClaims       = 32
	MaxJoinLinks    = 1024
	MaxDescriptions = 64
	MaxEntries      = 256 // of lists that have no bound of their own
	MaxAuthority    = 7   // homeservers that agree on a room's epochs
)

// DefaultEpochTolerance is how many epochs a message may be late where a room
// has no operational policy, PROTOCOL §6.
const DefaultEpochTolerance = 5

// ErrMalformed is wrapped by errors about data that does not have the form of
// its component, or does not fit the other components.
var ErrMalformed = errors.New("policy: malformed")

// ErrUnsupported is wrapped by errors about a rule that a room asks for and that
// nobody here would enforce: such a room is refused, so that nobody relies on it.
var ErrUnsupported = errors.New("policy: not supported")
