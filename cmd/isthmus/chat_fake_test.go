package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// A fakeChat is a chatter without a homeserver: a room remembers what is said.
type fakeChat struct {
	mu       sync.Mutex
	rooms    []chatRoom
	lines    map[core.RoomID][]chatLine
	verified map[core.DeviceURI]bool
	read     map[core.RoomID]uint64
	did      []string
	fail     error // of the next action
	most     int   // texts that one Send takes before it is limited; 0 = any
	enters   int   // calls of Sync until the device has entered the last room
	news     chan chatNews
}

const (
	chatAlice  core.UserURI   = "mimi://a.example/u/alice"
	chatBob    core.UserURI   = "mimi://b.example/u/bob"
	chatPhone  core.DeviceURI = "mimi://b.example/d/phonephonephonephonephonep"
	chatLaptop core.DeviceURI = "mimi://a.example/d/laptoplaptoplaptoplaptopla"
	chatTablet core.DeviceURI = "mimi://a.example/d/abcdef22abcdef22abcdef22ab"
	chatOld    core.DeviceURI = "mimi://a.example/d/abcdeg22abcdeg22abcdeg22ab"
	chatGone   core.DeviceURI = "mimi://a.example/d/abcdefzzabcdefzzabcdefzzab" // revoked
	chatGarden core.RoomID    = "mimi://a.example/r/garden"
	chatLobby  core.RoomID    = "mimi://a.example/r/lobby"
)

func newFakeChat() *fakeChat {
	f := &fakeChat{lines: map[core.RoomID][]chatLine{}, verified: map[core.DeviceURI]bool{}, read: map[core.RoomID]uint64{}, news: make(chan chatNews, 16)}
	f.rooms = []chatRoom{
		{Room: chatLobby, Name: "#lobby", Unread: 2, Last: 2},
		{Room: chatGarden, Name: "garden", Encrypted: true, Domain: "mimi://a.example/g/garden", Epoch: 5, Devices: 4, Unverified: 2, Authority: []string{"a.example", "b.example"}, Last: 3},
	}
	at := time.Date(2030, 1, 2, 15, 4, 0, 0, time.UTC)
	for i, text := range []string{"hello", "is anybody here?", "two\nlines"} {
		f.lines[chatGarden] = append(f.lines[chatGarden], chatLine{Room: chatGarden, Seq: uint64(i + 1), Sender: chatBob, Device: chatPhone, At: at.Add(time.Duration(i) * time.Minute), Kind: chatSaid, Text: text})
	}
	f.lines[chatLobby] = []chatLine{{Room: chatLobby, Seq: 1, Sender: chatAlice, At: at, Kind: chatSaid, Text: "one"}, {Room: chatLobby, Seq: 2, Sender: chatBob, At: at, Kind: chatEvent, Text: "bob joined"}}
	return f
}

func (f *fakeChat) act(format string, args ...any) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.did = append(f.did, fmt.Sprintf(format, args...))
	err := f.fail
	f.fail = nil
	return err
}

func (f *fakeChat) Self() chatSelf {
	return chatSelf{User: chatAlice, Device: chatLaptop, Name: "laptop", Server: "https://a.example"}
}
func (f *fakeChat) Rooms() ([]chatRoom, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.rooms), nil
}
func (f *fakeChat) Left() ([]chatRoom, error) {
	return []chatRoom{{Room: "mimi://a.example/r/old", Name: "attic"}, {Room: "mimi://a.example/r/older", Name: "garden"}}, nil
}
func (f *fakeChat) History(room core.RoomID, before uint64, limit int) ([]chatLine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := f.lines[room]
	if before > 0 {
		all = all[:slices.IndexFunc(all, func(l chatLine) bool { return l.Seq >= before })]
	}
	return slices.Clone(all[max(len(all)-limit, 0):]), nil
}
func (f *fakeChat) Read(room core.RoomID, upTo uint64) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.read[room] = upTo
	for i := range f.rooms {
		if f.rooms[i].Room == room {
			f.rooms[i].Unread = 0
		}
	}
	return nil
}

// Sync lets go out what waits.
func (f *fakeChat) Sync(context.Context) error {
	f.mu.Lock()
	for _, lines := range f.lines {
		for i := range lines {
			lines[i].Waiting = false
		}
	}
	if f.enters--; f.enters == 0 {
		r := &f.rooms[len(f.rooms)-1]
		r.Name, r.Entering = "cellar", false
	}
	f.mu.Unlock()
	return f.act("sync")
}
func (f *fakeChat) Listen(ctx context.Context, tell func(chatNews)) error {
	for {
		select {
		case n := <-f.news:
			tell(n)
		case <-ctx.Done():
			return nil
		}
	}
}
func (f *fakeChat) Create(_ context.Context, q chatCreate) (chatRoom, error) {
	if err := f.act("create %s channel=%v %v", q.Name, q.Channel, q.Users); err != nil {
		return chatRoom{}, err
	}
	r := chatRoom{Room: core.NewRoomID("a.example", q.Name), Name: q.Name, Encrypted: !q.Channel}
	if r.Encrypted {
		r.Domain = "mimi://a.example/g/" + q.Name
	}
	f.mu.Lock()
	f.rooms = append(f.rooms, r)
	f.mu.Unlock()
	for _, u := range q.Users {
		status := core.Claimed
		if u.Local() == "ghost" {
			status = core.UserUnknown
		}
		r.Claims = append(r.Claims, chatClaim{User: u, Status: string(status)})
	}
	return r, nil
}
func (f *fakeChat) Invite(_ context.Context, room core.RoomID, users []core.UserURI) (out []chatClaim, err error) {
	for i, u := range users {
		out = append(out, chatClaim{User: u, Status: []string{string(core.Claimed), string(core.Exhausted)}[i%2]})
	}
	return out, f.act("invite %s %v", room, users)
}
func (f *fakeChat) Consent(_ context.Context, change *wire.PutConsent) ([]wire.Consent, error) {
	if change == nil {
		return []wire.Consent{{}, {User: chatBob, May: true}}, nil
	}
	return []wire.Consent{}, f.act("consent %+v", *change)
}
func (f *fakeChat) Letters(_ context.Context, limit int) ([]client.Letter, error) {
	return []client.Letter{{Kind: client.LetterInvitation, From: chatBob, Room: chatGarden, Code: "sesame"}}[:min(limit, 1)], nil
}
func (f *fakeChat) Join(_ context.Context, room core.RoomID, code string) (chatRoom, error) {
	err := f.act("join %s %s", room, code)
	return chatRoom{Room: room, Name: room.Local()}, err
}

// Leave is done at once where nobody has to commit it.
func (f *fakeChat) Leave(_ context.Context, room core.RoomID) error {
	f.mu.Lock()
	f.rooms = slices.DeleteFunc(f.rooms, func(r chatRoom) bool { return r.Room == room && !r.Encrypted })
	f.mu.Unlock()
	return f.act("leave %s", room)
}

func (f *fakeChat) Remove(_ context.Context, room core.RoomID, users []core.UserURI) error {
	return f.act("remove %s %v", room, users)
}
func (f *fakeChat) SetAuthority(_ context.Context, room core.RoomID, a policy.Authority) error {
	i := slices.IndexFunc(f.rooms, func(r chatRoom) bool { return r.Room == room })
	f.rooms[i].Authority, f.rooms[i].TwoThirds = a.Domains, a.Rule == policy.TwoThirds
	return f.act("authority %s %v %d", room, a.Domains, a.Rule)
}
func (f *fakeChat) Send(_ context.Context, room core.RoomID, texts []string, kind string) (out []chatSent, err error) {
	if err := f.act("send %s %s%q", room, kind, texts); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, text := range texts {
		if text == "refused" {
			out = append(out, chatSent{Line: i + 1, Error: &wireError{Code: core.Denied.String(), Text: "not that"}})
			continue
		}
		seq := uint64(len(f.lines[room]) + 1)
		f.lines[room] = append(f.lines[room], chatLine{Room: room, Seq: seq, Sender: chatAlice, Device: chatLaptop, Kind: chatSaid, Text: text, Own: true, At: time.Date(2030, 1, 2, 16, 0, 0, 0, time.UTC)})
		if f.most > 0 && i == f.most {
			f.lines[room][seq-1].Waiting = true
			return append(out, chatSent{Line: i + 1, Waiting: true}), core.Errorf(core.Limited, "too much at once")
		}
		out = append(out, chatSent{Line: i + 1, Seq: seq, Event: fmt.Sprint("event", seq)})
	}
	return out, nil
}
func (f *fakeChat) Keep(room core.RoomID, texts []string) (out []chatSent, err error) {
	if err := f.act("keep %s %q", room, texts); err != nil {
		return append(out, chatSent{Line: 1, Error: &wireError{Code: core.CodeOf(err).String()}}), err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, text := range texts {
		f.lines[room] = append(f.lines[room], chatLine{Room: room, Seq: math.MaxUint64, Sender: chatAlice, Device: chatLaptop, Kind: chatSaid, Text: text, Own: true, Waiting: true})
		out = append(out, chatSent{Line: i + 1, Waiting: true})
	}
	return out, nil
}
func (f *fakeChat) Code(_ context.Context, room core.RoomID, q chatCode) (chatCode, error) {
	q.Room, q.Code = room, "opensesame"
	return q, f.act("code %s %d", room, q.Uses)
}
func (f *fakeChat) Members(_ context.Context, room core.RoomID) ([]chatMember, error) {
	own, _ := f.Devices(context.Background(), chatAlice)
	others, _ := f.Devices(context.Background(), chatBob)
	return []chatMember{{User: chatAlice, Role: "owner", Devices: own[:1]}, {User: chatBob, Role: "member", Devices: others}}, nil
}
func (f *fakeChat) Devices(_ context.Context, user core.UserURI) ([]chatDevice, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if user == chatAlice {
		return []chatDevice{{Device: chatLaptop, User: chatAlice, Name: "laptop", Self: true}, {Device: chatTablet, User: chatAlice, Name: "tablet"},
			{Device: chatOld, User: chatAlice, Name: "old\x1b[2J"}, {Device: chatGone, User: chatAlice, Name: "gone", Revoked: true}}, nil
	}
	return []chatDevice{{Device: chatPhone, User: chatBob, Name: "phone\x1b[31m", Linked: true, Verified: f.verified[chatPhone]}}, nil
}
func (f *fakeChat) Words(context.Context, core.DeviceURI) ([]string, error) {
	return strings.Fields("apple river stone lamp cloud paper night glove"), f.act("words")
}
func (f *fakeChat) Verify(_ context.Context, d core.DeviceURI) error {
	f.mu.Lock()
	f.verified[d] = true
	f.mu.Unlock()
	return f.act("verify %s", d)
}
func (f *fakeChat) Link(_ context.Context, d core.DeviceURI) error { return f.act("link %s", d) }
func (f *fakeChat) Approve(context.Context, []byte) ([]byte, error) {
	return []byte("approved"), f.act("approve")
}
func (f *fakeChat) Revoke(_ context.Context, d core.DeviceURI) error { return f.act("revoke %s", d) }
