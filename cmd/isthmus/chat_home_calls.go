package main

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
)

var _ client.Home = (*httpHome)(nil)

func get(path string) homeCall { return homeCall{method: http.MethodGet, path: path} }
func post(path string, body any) homeCall {
	return homeCall{method: http.MethodPost, path: path, body: body}
}
func put(path string, body any) homeCall {
	return homeCall{method: http.MethodPut, path: path, body: body}
}

// ask makes a request whose answer is a T.
func ask[T any](ctx context.Context, h *httpHome, c homeCall) (answer T, err error) {
	err = h.call(ctx, c, &answer)
	return answer, err
}

// OpenSession implements client.Home, as do all that follow: each is one request
// of the device API, named in package wire.
func (h *httpHome) OpenSession(ctx context.Context, r wire.OpenSession) (wire.Session, error) {
	return ask[wire.Session](ctx, h, post("/v1/sessions", r))
}

func (h *httpHome) Register(ctx context.Context, r wire.RegisterDevice) (wire.Device, error) {
	return ask[wire.Device](ctx, h, post("/v1/devices", r))
}

func (h *httpHome) PutRecord(ctx context.Context, r wire.PutRecord) (wire.Device, error) {
	return ask[wire.Device](ctx, h, put("/v1/devices/self", r))
}

func (h *httpHome) User(ctx context.Context, user core.UserURI) (wire.User, error) {
	return ask[wire.User](ctx, h, get("/v1/users/"+url.PathEscape(string(user))))
}

func (h *httpHome) Homeserver(ctx context.Context, domain string) (wire.Homeserver, error) {
	return ask[wire.Homeserver](ctx, h, get("/v1/homeservers/"+url.PathEscape(domain)))
}

func (h *httpHome) PutKeyPackages(ctx context.Context, r wire.PutKeyPackages) (wire.KeyPackages, error) {
	return ask[wire.KeyPackages](ctx, h, put("/v1/key-packages", r))
}

func (h *httpHome) KeyPackages(ctx context.Context) (wire.KeyPackages, error) {
	return ask[wire.KeyPackages](ctx, h, get("/v1/key-packages"))
}

func (h *httpHome) Claim(ctx context.Context, r wire.Claim) (wire.Claims, error) {
	return ask[wire.Claims](ctx, h, post("/v1/key-packages/claim", r))
}

func (h *httpHome) CreateRoom(ctx context.Context, r wire.CreateRoom) (wire.Room, error) {
	return ask[wire.Room](ctx, h, post("/v1/rooms", r))
}

func (h *httpHome) Rooms(ctx context.Context) (wire.Rooms, error) {
	return ask[wire.Rooms](ctx, h, get("/v1/rooms"))
}

func (h *httpHome) Room(ctx context.Context, room core.RoomID) (wire.Room, error) {
	return ask[wire.Room](ctx, h, get(roomPath(room, "")))
}

func (h *httpHome) Send(ctx context.Context, room core.RoomID, r wire.Send) (wire.Sent, error) {
	return ask[wire.Sent](ctx, h, post(roomPath(room, "/messages"), r))
}

func (h *httpHome) Handshake(ctx context.Context, room core.RoomID, r wire.Handshake) (wire.Decided, error) {
	return ask[wire.Decided](ctx, h, post(roomPath(room, "/handshakes"), r))
}

func (h *httpHome) GroupInfo(ctx context.Context, room core.RoomID, r wire.GetGroupInfo) (wire.GroupInfo, error) {
	return ask[wire.GroupInfo](ctx, h, post(roomPath(room, "/group-info"), r))
}

func (h *httpHome) Tree(ctx context.Context, room core.RoomID, epoch uint64) (wire.Tree, error) {
	c := get(roomPath(room, "/tree"))
	c.query = url.Values{"epoch": {strconv.FormatUint(epoch, 10)}}
	return ask[wire.Tree](ctx, h, c)
}

func (h *httpHome) Certificates(ctx context.Context, room core.RoomID, epoch uint64) (wire.Certificates, error) {
	c := get(roomPath(room, "/certificates"))
	c.query = url.Values{"epoch": {strconv.FormatUint(epoch, 10)}}
	return ask[wire.Certificates](ctx, h, c)
}

func (h *httpHome) PutJoinCode(ctx context.Context, room core.RoomID, r wire.JoinCode) (wire.JoinCode, error) {
	return ask[wire.JoinCode](ctx, h, post(roomPath(room, "/join-codes"), r))
}

func (h *httpHome) DropJoinCode(ctx context.Context, room core.RoomID, r wire.JoinCode) error {
	return h.call(ctx, homeCall{method: http.MethodDelete, path: roomPath(room, "/join-codes"), body: r}, nil)
}

// Sync is the long poll: the homeserver answers when there is something, or when
// what was asked for has passed, 50 s at most.
func (h *httpHome) Sync(ctx context.Context, r wire.GetSync) (wire.Sync, error) {
	r.Wait = min(max(r.Wait, 0), homePoll.Milliseconds())
	c := post("/v1/sync", r)
	c.wait = time.Duration(r.Wait) * time.Millisecond
	return ask[wire.Sync](ctx, h, c)
}

func (h *httpHome) History(ctx context.Context, room core.RoomID, before uint64, limit int) (wire.History, error) {
	c := get(roomPath(room, "/history"))
	c.query = url.Values{"limit": {strconv.Itoa(limit)}}
	if before > 0 {
		c.query.Set("before", strconv.FormatUint(before, 10))
	}
	return ask[wire.History](ctx, h, c)
}

func (h *httpHome) PutInbox(ctx context.Context, user core.UserURI, r wire.PutInbox) error {
	return h.call(ctx, post("/v1/inbox/"+url.PathEscape(string(user)), r), nil)
}

func (h *httpHome) Typing(ctx context.Context, r wire.Typing) error {
	return h.call(ctx, post(roomPath(r.Room, "/typing"), r), nil)
}
