package client

import (
	"context"
	"fmt"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A Home is the device API of the device's homeserver (PROTOCOL §9): package
// native serves it over HTTP, a simulator in memory. Refusals are *core.Error; a
// handshake that lost is a *Stale. What cannot be reached is Unavailable: whether
// it took effect is then unknown.
type Home interface {
	// Authorize sets the session's token for all that follows.
	Authorize(token string)
	OpenSession(ctx context.Context, r wire.OpenSession) (wire.Session, error)
	Register(ctx context.Context, r wire.RegisterDevice) (wire.Device, error)
	PutRecord(ctx context.Context, r wire.PutRecord) (wire.Device, error)

	// User and Homeserver are about anybody, here or elsewhere.
	User(ctx context.Context, user core.UserURI) (wire.User, error)
	Homeserver(ctx context.Context, domain string) (wire.Homeserver, error)

	PutKeyPackages(ctx context.Context, r wire.PutKeyPackages) (wire.KeyPackages, error)
	KeyPackages(ctx context.Context) (wire.KeyPackages, error)
	Claim(ctx context.Context, r wire.Claim) (wire.Claims, error)

	CreateRoom(ctx context.Context, r wire.CreateRoom) (wire.Room, error)
	Rooms(ctx context.Context) (wire.Rooms, error)
	Room(ctx context.Context, room core.RoomID) (wire.Room, error)
	Send(ctx context.Context, room core.RoomID, r wire.Send) (wire.Sent, error)
	Handshake(ctx context.Context, room core.RoomID, r wire.Handshake) (wire.Decided, error)
	GroupInfo(ctx context.Context, room core.RoomID, r wire.GetGroupInfo) (wire.GroupInfo, error)
	Tree(ctx context.Context, room core.RoomID, epoch uint64) (wire.Tree, error)
	Certificates(ctx context.Context, room core.RoomID, epoch uint64) (wire.Certificates, error)
	PutJoinCode(ctx context.Context, room core.RoomID, r wire.JoinCode) (wire.JoinCode, error)
	DropJoinCode(ctx context.Context, room core.RoomID, r wire.JoinCode) error

	Sync(ctx context.Context, r wire.GetSync) (wire.Sync, error)
	History(ctx context.Context, room core.RoomID, before uint64, limit int) (wire.History, error)
	PutInbox(ctx context.Context, user core.UserURI, r wire.PutInbox) error
	Typing(ctx context.Context, r wire.Typing) error
}

// A Stale says that another commit ended the epoch that a handshake was for. It
// wraps a *core.Error with core.StaleEpoch.
type Stale struct {
	Epoch  uint64 // the one that the room is in
	Winner []byte // the commit that ended the other, an MLSMessage; nil if unknown
}

func (s *Stale) Error() string {
	return fmt.Sprintf("stale epoch: the room is in epoch %d", s.Epoch)
}

// Unwrap is what core.CodeOf looks for.
func (s *Stale) Unwrap() error {
	return &core.Error{Code: core.StaleEpoch, Text: "another commit ended that epoch"}
}
