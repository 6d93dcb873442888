package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Create implements chatter.
func (s *chatSession) Create(ctx context.Context, q chatCreate) (chatRoom, error) {
	if q.Channel && len(q.Users) > 0 {
		return chatRoom{}, core.Errorf(core.Invalid, "nobody is invited to a channel: people join it by its name")
	}
	n := client.NewRoom{Room: q.Room, Name: q.Name, Channel: q.Channel, Options: []policy.Option{policy.JoinCodes()}}
	room, err := s.device.Create(ctx, n)
	if err != nil {
		return chatRoom{}, err
	}
	var claims []chatClaim
	if len(q.Users) > 0 {
		if claims, err = s.Invite(ctx, room, q.Users); err != nil {
			return chatRoom{}, &core.Error{Code: core.CodeOf(err), Err: err, Text: fmt.Sprintf("%s is made, but nobody is invited yet: %s", room, explain(err))}
		}
	}
	r, err := s.room(room)
	r.Claims = claims
	return r, err
}

// room shows one room.
func (s *chatSession) room(id core.RoomID) (chatRoom, error) {
	rooms, err := s.Rooms()
	if err != nil {
		return chatRoom{}, err
	}
	for _, r := range rooms {
		if r.Room == id {
			return r, nil
		}
	}
	return chatRoom{Room: id, Name: id.Local()}, nil
}

// encrypted reports whether a room that the device knows is a Group.
func (s *chatSession) encrypted(ctx context.Context, id core.RoomID) (known, encrypted bool, err error) {
	rooms, err := s.device.Rooms(ctx)
	for _, r := range rooms {
		if r.Room == id {
			return true, r.Encrypted, err
		}
	}
	return false, false, err
}

// Invite implements chatter. Who wants to be asked first gets a letter; who is in
// the room already is left alone.
func (s *chatSession) Invite(ctx context.Context, room core.RoomID, users []core.UserURI) ([]chatClaim, error) {
	members, err := s.device.Members(ctx, room)
	if err != nil {
		return nil, err
	}
	out := []chatClaim{}
	asked := slices.DeleteFunc(slices.Clone(users), func(u core.UserURI) bool {
		in := slices.ContainsFunc(members, func(m client.Member) bool { return m.User == u && len(m.Devices) > 0 })
		if in {
			out = append(out, chatClaim{User: u, Status: claimPresent})
		}
		return in
	})
	if len(asked) == 0 {
		return out, nil
	}
	invited, err := s.device.Invite(ctx, room, asked...)
	if err != nil {
		return nil, saidToMember(err)
	}
	for _, one := range invited {
		claim := chatClaim{User: one.User, Devices: one.Devices, Status: string(one.Status)}
		if one.Status == core.NoConsent {
			if err := s.inviteByLetter(ctx, room, one.User); err != nil {
				return append(out, claim), err
			}
			claim.Letter = true
		}
		out = append(out, claim)
	}
	return out, nil
}

// Join implements chatter. A room that we do not know is asked for: its homeserver
// says what it is.
func (s *chatSession) Join(ctx context.Context, room core.RoomID, code string) (chatRoom, error) {
	known, encrypted, err := s.encrypted(ctx, room)
	if err != nil {
		return chatRoom{}, err
	}
	if !known && code == "" {
		w, err := s.home.Room(ctx, room)
		if err != nil && core.CodeOf(err) != core.NotFound && core.CodeOf(err) != core.Denied {
			return chatRoom{}, err
		}
		encrypted = err != nil || w.Encrypted // who may not look joins a Group, or nothing
	} else if !known {
		encrypted = true
	}
	if encrypted {
		err = s.device.Join(ctx, room, code)
	} else {
		err = s.home.call(ctx, post(roomPath(room, "/join"), wire.JoinRoom{Key: code}), nil)
	}
	if err == nil {
		err = goesOn(s.Sync(ctx))
	}
	if err != nil {
		return chatRoom{}, err
	}
	return s.room(room)
}

// Leave implements chatter. Who leaves a Group asks to be taken out: another
// member's device does it when it is online.
func (s *chatSession) Leave(ctx context.Context, room core.RoomID) error {
	_, encrypted, err := s.encrypted(ctx, room)
	if err != nil {
		return err
	}
	if encrypted {
		return s.device.Leave(ctx, room)
	}
	return s.home.call(ctx, post(roomPath(room, "/leave"), nil), nil)
}

// Remove implements chatter. NotFound: one of them is not in the room; then nobody
// is removed.
func (s *chatSession) Remove(ctx context.Context, room core.RoomID, users []core.UserURI) error {
	members, err := s.device.Members(ctx, room)
	if err != nil {
		return err
	}
	for _, u := range users {
		if !slices.ContainsFunc(members, func(m client.Member) bool { return m.User == u && m.Role != core.RoleBanned }) {
			return core.Errorf(core.NotFound, "%s is not in the room", shortUser(u, s.Self().User.Domain()))
		}
	}
	return saidToMember(s.device.Remove(ctx, room, users...))
}

// saidToMember says in a member's words what a room's policy refused.
func saidToMember(err error) error {
	v, ok := errors.AsType[*policy.Violation](err)
	if !ok {
		return err
	}
	what := v.Text
	switch v.Capability {
	case policy.CanAddParticipant:
		what = "you may not invite to this room: ask one of its operators"
	case policy.CanRemoveParticipant:
		what = "only operators of this room may remove others, and nobody whose role is above their own: `isthmus chat members` shows the roles"
	case policy.CanChangePolicy:
		what = "you may not change which homeservers decide in this room: " + v.Text
	}
	return &core.Error{Code: core.CodeOf(err), Err: err, Text: what}
}

// SetAuthority implements chatter.
func (s *chatSession) SetAuthority(ctx context.Context, room core.RoomID, a policy.Authority) error {
	return saidToMember(s.device.SetAuthority(ctx, room, a))
}

// Send implements chatter.
func (s *chatSession) Send(ctx context.Context, room core.RoomID, texts []string, kind string) ([]chatSent, error) {
	out := make([]chatSent, 0, len(texts))
	for i, text := range texts {
		sent := chatSent{Line: i + 1}
		m, err := say(ctx, s.device.Send, room, text, kind)
		if err != nil {
			w := wireErrorOf(err)
			sent.Error, sent.Waiting = &w, m.Waiting && core.Temporary(err)
		} else {
			sent.Seq, sent.Event = m.Seq, m.ID
		}
		out = append(out, sent)
		if err != nil && (ctx.Err() != nil || core.Temporary(err)) {
			return out, err
		}
	}
	return out, nil
}

// Keep implements chatter.
func (s *chatSession) Keep(room core.RoomID, texts []string) ([]chatSent, error) {
	out := make([]chatSent, 0, len(texts))
	for i, text := range texts {
		sent := chatSent{Line: i + 1}
		m, err := say(context.Background(), s.device.Keep, room, text, "")
		if sent.Waiting = err == nil; err != nil {
			w := wireErrorOf(err)
			sent.Error = &w
		} else {
			sent.Event = m.ID
		}
		if out = append(out, sent); err != nil && core.Temporary(err) {
			return out, err
		}
	}
	return out, nil
}

// say makes a message of a text, and says it.
func say(ctx context.Context, send func(context.Context, core.RoomID, string, []byte) (client.Message, error), room core.RoomID, text, kind string) (client.Message, error) {
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) > maxChatText {
		return client.Message{}, core.Errorf(core.TooLarge, "a message over %d octets", maxChatText)
	}
	seed := make([]byte, 16)
	rand.Read(seed) // never fails: it ends the program if the system has no randomness
	c := converter.Text(text, converter.TypePlain, seed)
	if kind == chatEmote {
		c.Kind = converter.KindEmote
	}
	return send(ctx, room, core.ContentMIMI, c.Append(nil))
}

// Code implements chatter.
func (s *chatSession) Code(ctx context.Context, room core.RoomID, q chatCode) (chatCode, error) {
	q.Room = room
	if q.Drop {
		return q, s.home.DropJoinCode(ctx, room, wire.JoinCode{Code: q.Code})
	}
	expires := int64(0)
	if q.Expires != nil {
		expires = q.Expires.UnixMilli()
	}
	c, err := s.device.JoinCode(ctx, room, q.Code, q.Uses, expires)
	if c.Code != "" {
		q.Code = c.Code
	}
	return q, err
}

// Members implements chatter.
func (s *chatSession) Members(ctx context.Context, room core.RoomID) ([]chatMember, error) {
	_, encrypted, err := s.encrypted(ctx, room)
	if err != nil {
		return nil, err
	}
	var out []chatMember
	if !encrypted {
		w, err := s.home.Room(ctx, room)
		for _, p := range w.Members {
			out = append(out, chatMember{User: p.User, Name: p.Name, Role: p.Role})
		}
		return out, err
	}
	members, err := s.device.Members(ctx, room)
	for _, m := range members {
		out = append(out, chatMember{User: m.User, Role: m.Role.String(), Devices: shownDevices(m.Devices)})
	}
	return out, err
}

func shownDevices(all []client.DeviceInfo) []chatDevice {
	var out []chatDevice
	for _, d := range all {
		one := chatDevice{Device: d.Device, User: d.User, Name: d.Name, Self: d.Self, Verified: d.Verified, Linked: d.Linked, Revoked: d.Revoked}
		if d.Refused {
			one.Problem = "it has signed two different records: do not trust it"
		}
		out = append(out, one)
	}
	return out
}

// Devices implements chatter.
func (s *chatSession) Devices(ctx context.Context, user core.UserURI) ([]chatDevice, error) {
	all, err := s.device.Devices(ctx, user)
	if err != nil {
		return nil, err
	}
	// A homeserver that attests a device no more says so: its word is enough for
	// that, and the device's own record does not have it.
	w, err := s.home.User(ctx, user)
	if err != nil {
		return nil, err
	}
	out := shownDevices(all)
	for i := range out {
		out[i].Revoked = out[i].Revoked || slices.ContainsFunc(w.Devices, func(d wire.Device) bool { return d.Device == out[i].Device && d.Revoked })
	}
	return out, nil
}

// Words implements chatter.
func (s *chatSession) Words(ctx context.Context, device core.DeviceURI) ([]string, error) {
	return s.device.Words(ctx, device)
}

// Verify implements chatter.
func (s *chatSession) Verify(ctx context.Context, device core.DeviceURI) error {
	err := s.device.Verify(ctx, device, true)
	s.mu.Lock()
	s.seen++
	s.mu.Unlock()
	return err
}

// Link implements chatter: it approves another device of the user, and says here
// that it is one.
func (s *chatSession) Link(ctx context.Context, device core.DeviceURI) error {
	w, err := s.home.User(ctx, s.profile.User)
	if err != nil {
		return err
	}
	for _, d := range w.Devices {
		if d.Device == device {
			_, err := s.device.Approve(ctx, d.Proof.Record)
			return err
		}
	}
	return core.Errorf(core.NotFound, "you have no device %s", device.ID())
}

// Approve implements chatter.
func (s *chatSession) Approve(ctx context.Context, record []byte) ([]byte, error) {
	return s.device.Approve(ctx, record)
}

// Revoke implements chatter: this device ends itself; another of the user's is
// taken out of all Groups, and the homeserver attests it no more.
func (s *chatSession) Revoke(ctx context.Context, device core.DeviceURI) error {
	if device == s.device.Device() {
		return s.device.Revoke(ctx)
	}
	if err := s.device.RemoveDevice(ctx, device); err != nil {
		return err
	}
	return s.home.call(ctx, homeCall{method: "DELETE", path: "/v1/devices/" + url.PathEscape(string(device))}, nil)
}

// until is the time that a code lives to, nil for ever.
func until(d time.Duration) *time.Time {
	if d <= 0 {
		return nil
	}
	t := time.Now().Add(d).UTC().Truncate(time.Second)
	return &t
}
