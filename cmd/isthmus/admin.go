package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/bridges/irc"
	"github.com/isthmus-chat/isthmus/bridges/matrix"
	"github.com/isthmus-chat/isthmus/core"
)

// maxListed bounds every list that a command shows: what fits in one answer on
// the control socket. A list that was cut says so.
const maxListed = 10000

// An admin does what the operator's commands ask. It is the same whether the
// command runs inside the server, asked over the control socket, or has opened
// the store itself because no server runs.
type admin struct {
	gw        bridges.Gateway
	domain    string
	fold      func(channel string) string
	backup    func(ctx context.Context, file string) error
	names     map[string]core.Network // by their names in the configuration
	linkers   map[core.Network]linker // empty where no bridges run
	caps      map[core.Network]core.Caps
	peers     federator // nil where no bridges run
	passwords irc.Passwords
	key       ed25519.PrivateKey // of the homeserver
	started   time.Time
	now       func() time.Time
}

// A linker is a bridge that enters, makes and leaves places.
type linker interface {
	Unlink(ctx context.Context, id string) error
	EnsureLink(ctx context.Context, l core.Link, o matrix.LinkOptions) (core.Link, error)
}

// An operation is one method of admin behind JSON.
type operation func(ctx context.Context, a *admin, req []byte) (any, error)

func op[Req, Resp any](f func(*admin, context.Context, Req) (Resp, error)) operation {
	return func(ctx context.Context, a *admin, body []byte) (any, error) {
		var req Req
		if err := json.Unmarshal(body, &req); err != nil {
			return nil, core.Errorf(core.Invalid, "request: %w", err)
		}
		return f(a, ctx, req)
	}
}

// operations are what the control socket offers, by name.
var operations = map[string]operation{
	"room.list":      op((*admin).roomList),
	"room.create":    op((*admin).roomCreate),
	"room.show":      op((*admin).roomShow),
	"link.list":      op((*admin).linkList),
	"link.add":       op((*admin).linkAdd),
	"link.remove":    op((*admin).linkRemove),
	"link.resume":    op((*admin).linkResume),
	"device.list":    op((*admin).deviceList),
	"device.show":    op((*admin).deviceShow),
	"device.revoke":  op((*admin).deviceRevoke),
	"account.list":   op((*admin).accountList),
	"account.add":    op((*admin).accountAdd),
	"account.passwd": op((*admin).accountPassword),
	"account.token":  op((*admin).accountToken),
	"account.cert":   op((*admin).accountCert),
	"account.enable": op((*admin).accountEnable),
	"peer.list":      op((*admin).peerList),
	"peer.show":      op((*admin).peerShow),
	"peer.retry":     op((*admin).peerRetry),
	"peer.evidence":  op((*admin).peerEvidence),
	"backup":         op((*admin).backupTo),
	"status":         op((*admin).status),
}

type nothing struct{}

type statusInfo struct {
	Domain  string    `json:"domain"`
	Version string    `json:"version"`
	Started time.Time `json:"started"`
	Key     []byte    `json:"key,omitempty"` // the public one; none from an older server
}

func (a *admin) status(context.Context, nothing) (statusInfo, error) {
	return statusInfo{Domain: a.domain, Version: version().Version, Started: a.started, Key: a.key.Public().(ed25519.PublicKey)}, nil
}

// roomID reads what people type: a channel name, or a room's URI.
func (a *admin) roomID(s string) (core.RoomID, error) {
	if strings.HasPrefix(s, "mimi://") {
		return core.ParseRoomID(s)
	}
	if len(s) < 2 || s[0] != '#' || strings.ContainsAny(s, " ,\a\r\n\x00") {
		return "", core.Errorf(core.Invalid, "%q is not a room: write #name or mimi://…", s)
	}
	return core.NewRoomID(a.domain, a.fold(s[1:])), nil
}

type roomInfo struct {
	Room    core.RoomID `json:"room"`
	Name    string      `json:"name"`
	Kind    string      `json:"kind"`
	Topic   string      `json:"topic"`
	Events  uint64      `json:"events"`
	Joined  int         `json:"joined"`
	Created time.Time   `json:"created"`
	Links   []linkInfo  `json:"links"`
}

type roomList struct {
	Rooms []roomInfo `json:"rooms"`
	More  bool       `json:"more,omitempty"` // the list was cut
}

func (a *admin) roomList(ctx context.Context, _ nothing) (out roomList, err error) {
	err = a.gw.View(ctx, func(r core.Reader) error {
		rooms, err := r.Rooms("", maxListed+1)
		if err != nil {
			return err
		}
		if len(rooms) > maxListed {
			rooms, out.More = rooms[:maxListed], true
		}
		links, err := r.Links("", core.MaxLinks)
		if err != nil {
			return err
		}
		out.Rooms = make([]roomInfo, len(rooms))
		for i, room := range rooms {
			if out.Rooms[i], err = describeRoom(r, room, links); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

func describeRoom(r core.Reader, room core.Room, links []core.Link) (roomInfo, error) {
	i := roomInfo{Room: room.ID, Name: room.Name, Kind: room.Kind.String(), Topic: room.Topic, Created: room.Created, Links: []linkInfo{}}
	members, err := r.Members(room.ID)
	if err != nil {
		return i, err
	}
	for _, m := range members {
		if m.Joined {
			i.Joined++
		}
	}
	if i.Events, _, err = r.Head(room.ID); err != nil {
		return i, err
	}
	for _, l := range links {
		if l.Room == room.ID {
			li, err := describeLink(r, l, i.Events)
			if err != nil {
				return i, err
			}
			i.Links = append(i.Links, li)
		}
	}
	return i, nil
}

type roomRef struct {
	Room string `json:"room"`
}

func (a *admin) roomShow(ctx context.Context, req roomRef) (out roomInfo, err error) {
	id, err := a.roomID(req.Room)
	if err != nil {
		return out, err
	}
	err = a.gw.View(ctx, func(r core.Reader) error {
		room, err := r.Room(id)
		if core.CodeOf(err) == core.NotFound {
			return core.Errorf(core.NotFound, "there is no room %s", req.Room)
		}
		if err != nil {
			return err
		}
		links, err := r.Links("", core.MaxLinks)
		if err != nil {
			return err
		}
		out, err = describeRoom(r, room, links)
		return err
	})
	return out, err
}

type roomCreate struct {
	Room   string      `json:"room"`
	Topic  string      `json:"topic"`
	Owner  string      `json:"owner"` // account name; "" = nobody but the operator
	Policy core.Policy `json:"policy"`
}

func (a *admin) roomCreate(ctx context.Context, req roomCreate) (roomInfo, error) {
	id, err := a.roomID(req.Room)
	if err != nil {
		return roomInfo{}, err
	}
	in := core.CreateRoom{Room: core.Room{ID: id, Kind: core.Channel, Name: req.Room, Topic: req.Topic, Policy: req.Policy}}
	if strings.HasPrefix(req.Room, "mimi://") {
		in.Room.Name = "#" + id.Local()
	}
	if req.Topic != "" {
		in.Room.TopicBy = a.domain
	}
	if req.Owner != "" {
		owner, err := a.account(ctx, req.Owner)
		if err != nil {
			return roomInfo{}, err
		}
		in.Room.Founder = owner.User
		in.Members = []core.Member{{User: owner.User, Via: core.NetworkIRC, Role: core.RoleOwner,
			Profile: core.Profile{Name: owner.Name, Account: owner.Name}}}
	}
	if _, err := a.gw.Do(ctx, in); err != nil {
		return roomInfo{}, err
	}
	return a.roomShow(ctx, roomRef{string(id)})
}

type backupFile struct {
	File string `json:"file"` // absolute
}

// backupTo copies the database; the command checks the copy, so that the server
// does not spend its time on it.
func (a *admin) backupTo(ctx context.Context, req backupFile) (backupFile, error) {
	return req, a.backup(ctx, req.File)
}

// newLinkID returns 16 characters: 80 bits, so two never meet.
func newLinkID() string {
	b := make([]byte, 10)
	rand.Read(b) // never fails: it ends the program if the system has no randomness
	return core.Base32.EncodeToString(b)
}
