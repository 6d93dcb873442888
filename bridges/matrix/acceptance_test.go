package matrix

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"maunium.net/go/mautrix"
	"maunium.net/go/mautrix/event"
	"maunium.net/go/mautrix/id"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

var bg = context.Background()

func body(text string) func(*event.Event) bool {
	return func(ev *event.Event) bool {
		return ev.Type == event.EventMessage && ev.Content.AsMessage().Body == text
	}
}

func TestTextBothWays(t *testing.T) {
	h := openHouse(t, nil)
	bob := homeserver(t).user(t, "bob")
	room, mx, _ := h.linked(bob, core.Lazy)

	h.says(room, "hello from IRC")
	ev := h.seen(bob, mx, "Ann's line", body("hello from IRC"))
	if string(ev.Sender) != h.b.mxid(ircUser) {
		t.Errorf("sent by %s, want Ann's ghost %s", ev.Sender, h.b.mxid(ircUser))
	}
	p, err := bob.GetProfile(bg, ev.Sender)
	if err != nil || p.DisplayName != "Ann" {
		t.Errorf("ghost is shown as %q (%v), want Ann", p.DisplayName, err)
	}
	for _, m := range []*event.MessageEventContent{
		{MsgType: event.MsgText, Body: "hello from Matrix"},
		{MsgType: event.MsgNotice, Body: "beep"},
		{MsgType: event.MsgEmote, Body: "waves"},
		{MsgType: event.MsgText, Body: "bold move", Format: event.FormatHTML, FormattedBody: "<b>bold</b> move"},
	} {
		if _, err := bob.SendMessageEvent(bg, mx, event.EventMessage, m); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{"privmsg hello from Matrix", "notice beep", "action waves", "privmsg \x02bold\x02 move"}
	h.until("four lines on IRC", func() bool { return len(h.texts(room)) == 4 })
	if got := h.texts(room); !slices.Equal(got, want) {
		t.Errorf("IRC saw %q, want %q", got, want)
	}
	for _, kind := range []string{converter.KindEmote, converter.KindNotice} {
		h.says(room, kind+" text", func(c *converter.Content) { c.Kind = kind })
	}
	if m := h.seen(bob, mx, "emote", body("emote text")).Content.AsMessage(); m.MsgType != event.MsgEmote {
		t.Errorf("msgtype %s, want m.emote", m.MsgType)
	}
	if m := h.seen(bob, mx, "notice", body("notice text")).Content.AsMessage(); m.MsgType != event.MsgNotice {
		t.Errorf("msgtype %s, want m.notice", m.MsgType)
	}
	h.says(room, "**strong**", func(c *converter.Content) { c.Part.Type = converter.TypeMarkdown })
	m := h.seen(bob, mx, "formatted", func(ev *event.Event) bool {
		return ev.Type == event.EventMessage && strings.Contains(ev.Content.AsMessage().FormattedBody, "<strong>strong</strong>")
	})
	if m.Content.AsMessage().Format != event.FormatHTML {
		t.Errorf("format %q", m.Content.AsMessage().Format)
	}
}

func TestReplyEditRedactReact(t *testing.T) {
	h := openHouse(t, nil)
	bob := homeserver(t).user(t, "bob")
	room, mx, _ := h.linked(bob, core.Lazy)

	first := h.says(room, "question")
	q := h.seen(bob, mx, "question", body("question"))
	// Matrix replies to Ann, edits it, reacts, and takes both back.
	reply, err := bob.SendMessageEvent(bg, mx, event.EventMessage, &event.MessageEventContent{MsgType: event.MsgText, Body: "answer",
		RelatesTo: (&event.RelatesTo{}).SetReplyTo(q.ID)})
	if err != nil {
		t.Fatal(err)
	}
	in := h.find(room, "reply", func(e *core.Event) bool { return e.Origin.ID == reply.EventID.String() })
	if c, err := converter.ContentOf(in); err != nil || c.Ref != first.ID || c.InReplyTo.IsZero() {
		t.Errorf("reply refers to %s (%v), want %s", c.Ref, err, first.ID)
	}
	edit := &event.MessageEventContent{MsgType: event.MsgText, Body: "better answer"}
	edit.SetEdit(reply.EventID)
	edited, err := bob.SendMessageEvent(bg, mx, event.EventMessage, edit)
	if err != nil {
		t.Fatal(err)
	}
	in2 := h.find(room, "edit", func(e *core.Event) bool { return e.Origin.ID == edited.EventID.String() })
	if c, err := converter.ContentOf(in2); err != nil || c.Ref != in.ID || c.Replaces.IsZero() {
		t.Errorf("edit refers to %s (%v), want %s", c.Ref, err, in.ID)
	}
	react, err := bob.SendReaction(bg, mx, q.ID, "👍")
	if err != nil {
		t.Fatal(err)
	}
	in3 := h.find(room, "reaction", func(e *core.Event) bool { return e.Origin.ID == react.EventID.String() })
	if c, err := converter.ContentOf(in3); err != nil || !c.IsReaction() || c.Ref != first.ID {
		t.Errorf("reaction %+v (%v)", c, err)
	}
	if _, err := bob.RedactEvent(bg, mx, reply.EventID); err != nil {
		t.Fatal(err)
	}
	h.find(room, "tombstone", func(e *core.Event) bool { return e.ID == in.ID && e.Deleted })

}

// The same the other way: Ann answers, edits, reacts to and removes.
func TestReplyEditRedactReactOut(t *testing.T) {
	h := openHouse(t, nil)
	bob := homeserver(t).user(t, "bob")
	room, mx, _ := h.linked(bob, core.Lazy)
	first := h.says(room, "question")
	q := h.seen(bob, mx, "question", body("question"))
	said, err := bob.SendText(bg, mx, "statement")
	if err != nil {
		t.Fatal(err)
	}
	st := h.find(room, "statement", func(e *core.Event) bool { return e.Origin.ID == said.EventID.String() })
	mimi, _ := converter.MessageIDOf(st)
	h.says(room, "objection", func(c *converter.Content) { c.Ref, c.InReplyTo = st.ID, mimi })
	got := h.seen(bob, mx, "Ann's reply", func(ev *event.Event) bool {
		return ev.Type == event.EventMessage && strings.Contains(ev.Content.AsMessage().Body, "objection")
	})
	if to := got.Content.AsMessage().RelatesTo.GetReplyTo(); to != said.EventID {
		t.Errorf("reply to %s, want %s", to, said.EventID)
	}
	firstID, _ := converter.MessageIDOf(first)
	h.says(room, "question?", func(c *converter.Content) { c.Ref, c.Replaces = first.ID, firstID })
	ed := h.seen(bob, mx, "Ann's edit", func(ev *event.Event) bool {
		return ev.Type == event.EventMessage && ev.Content.AsMessage().NewContent != nil && ev.Content.AsMessage().NewContent.Body == "question?"
	})
	if id := ed.Content.AsMessage().RelatesTo.GetReplaceID(); id != q.ID {
		t.Errorf("edit of %s, want %s", id, q.ID)
	}
	h.says(room, "🎉", func(c *converter.Content) {
		c.Ref, c.InReplyTo, c.Part.Disposition = st.ID, mimi, converter.DispositionReaction
	})
	h.seen(bob, mx, "Ann's reaction", func(ev *event.Event) bool {
		return ev.Type == event.EventReaction && ev.Content.AsReaction().RelatesTo.EventID == said.EventID && ev.Content.AsReaction().RelatesTo.Key == "🎉"
	})
	h.control(room, ircUser, core.Control{Op: core.OpDelete, Event: first.ID})
	red := h.seen(bob, mx, "Ann's redaction", func(ev *event.Event) bool {
		return ev.Type == event.EventRedaction && string(ev.Sender) == h.b.mxid(ircUser)
	})
	if red.Redacts != q.ID && red.Content.AsRedaction().Redacts != q.ID {
		t.Errorf("redacted %s, want %s", red.Redacts, q.ID)
	}
}

func inRoom(t *testing.T, c *mautrix.Client, mx id.RoomID, user string) bool {
	t.Helper()
	res, err := c.JoinedMembers(bg, mx)
	if err != nil {
		t.Fatal(err)
	}
	_, ok := res.Joined[id.UserID(user)]
	return ok
}

func TestStateIn(t *testing.T) {
	h := openHouse(t, nil)
	s := homeserver(t)
	bob, eve := s.user(t, "bob"), s.user(t, "eve")
	room, mx, _ := h.linked(bob, core.Mirror)

	// Bob was in the room before the link, and has power there.
	h.until("Bob is a member with his role", func() bool {
		m, ok := h.member(room, h.uri(bob))
		return ok && m.Joined && m.Via == h.b.network && m.Role == core.RoleOwner
	})
	ghost := h.b.mxid(ircUser)
	joined := func(user string) bool { return inRoom(t, bob, mx, user) }
	h.until("Ann's ghost is mirrored", func() bool { return joined(ghost) })

	if _, err := eve.JoinRoomByID(bg, mx); err != nil {
		t.Fatal(err)
	}
	h.until("Eve joined", func() bool { m, ok := h.member(room, h.uri(eve)); return ok && m.Joined })
	if err := eve.SetDisplayName(bg, "Eve of Destruction"); err != nil {
		t.Fatal(err)
	}
	h.until("Eve's name", func() bool { m, _ := h.member(room, h.uri(eve)); return m.Profile.Name == "Eve of Destruction" })
	if _, err := bob.KickUser(bg, mx, &mautrix.ReqKickUser{UserID: eve.UserID, Reason: "enough"}); err != nil {
		t.Fatal(err)
	}
	h.find(room, "kick", func(e *core.Event) bool {
		return e.Control != nil && e.Control.Op == core.OpKick && e.Control.User == h.uri(eve) && e.Sender == h.uri(bob) && e.Control.Text == "enough"
	})
	if _, err := bob.BanUser(bg, mx, &mautrix.ReqBanUser{UserID: eve.UserID}); err != nil {
		t.Fatal(err)
	}
	h.until("Eve is banned", func() bool { m, _ := h.member(room, h.uri(eve)); return m.Role == core.RoleBanned })

}

func TestStateOut(t *testing.T) {
	h := openHouse(t, nil)
	s := homeserver(t)
	bob := s.user(t, "bob")
	room, mx, _ := h.linked(bob, core.Mirror)
	ghost := h.b.mxid(ircUser)
	joined := func(user string) bool { return inRoom(t, bob, mx, user) }
	h.until("Ann's ghost is mirrored", func() bool { return joined(ghost) })
	if _, err := bob.SendStateEvent(bg, mx, event.StateTopic, "", map[string]string{"topic": "from Matrix"}); err != nil {
		t.Fatal(err)
	}
	h.find(room, "topic", func(e *core.Event) bool {
		return e.Control != nil && e.Control.Op == core.OpTopic && e.Control.Text == "from Matrix"
	})
	h.control(room, ircUser, core.Control{Op: core.OpTopic, Text: "from IRC"})
	h.until("topic on Matrix", func() bool {
		var c event.TopicEventContent
		return bob.StateEvent(bg, mx, event.StateTopic, "", &c) == nil && c.Topic == "from IRC"
	})
	// A second user of ours comes, gets voice, is renamed and goes.
	cat := core.UserURI("mimi://" + ourDomain + "/u/guest/cat")
	h.control(room, cat, core.Control{Op: core.OpJoin, Profile: &core.Profile{Name: "cat"}})
	h.until("cat's ghost", func() bool { return joined(h.b.mxid(cat)) })
	h.control(room, ircUser, core.Control{Op: core.OpRole, User: cat, Role: core.RoleOperator})
	h.until("cat's power", func() bool {
		var c event.PowerLevelsEventContent
		return bob.StateEvent(bg, mx, event.StatePowerLevels, "", &c) == nil && c.GetUserLevel(id.UserID(h.b.mxid(cat))) == 50
	})
	h.control(room, cat, core.Control{Op: core.OpProfile, Profile: &core.Profile{Name: "tomcat", Avatar: "mxc://hs.test/cat"}})
	h.until("cat's name and avatar", func() bool {
		p, err := bob.GetProfile(bg, id.UserID(h.b.mxid(cat)))
		return err == nil && p.DisplayName == "tomcat" && p.AvatarURL.String() == "mxc://hs.test/cat"
	})
	h.control(room, cat, core.Control{Op: core.OpLeave, Text: "bye"})
	h.until("cat's ghost left", func() bool { return !joined(h.b.mxid(cat)) })
	// Matrix throws Ann's ghost out: Bob may, so Ann is kicked on IRC.
	if _, err := bob.KickUser(bg, mx, &mautrix.ReqKickUser{UserID: id.UserID(ghost)}); err != nil {
		t.Fatal(err)
	}
	h.until("Ann was kicked", func() bool { m, ok := h.member(room, ircUser); return !ok || !m.Joined })
	// IRC kicks and bans a Matrix user.
	dan := s.user(t, "dan")
	if _, err := dan.JoinRoomByID(bg, mx); err != nil {
		t.Fatal(err)
	}
	h.until("Dan joined", func() bool { m, ok := h.member(room, h.uri(dan)); return ok && m.Joined })
	system := core.SystemUser(ourDomain)
	h.control(room, system, core.Control{Op: core.OpKick, User: h.uri(dan), Text: "out"})
	h.until("Dan was kicked", func() bool { return !joined(string(dan.UserID)) })
	h.control(room, system, core.Control{Op: core.OpRole, User: h.uri(dan), Role: core.RoleBanned})
	h.until("Dan was banned", func() bool {
		var c event.MemberEventContent
		return bob.StateEvent(bg, mx, event.StateMember, string(dan.UserID), &c) == nil && c.Membership == event.MembershipBan
	})
}

// A lazy link shows only those who speak, and takes them out when they go, even
// if their leave overtakes their last words.
func TestLazyGhosts(t *testing.T) {
	h := openHouse(t, nil)
	bob := homeserver(t).user(t, "bob")
	room, mx, _ := h.linked(bob, core.Lazy)
	cat := core.UserURI("mimi://" + ourDomain + "/u/guest/lazycat")
	h.control(room, cat, core.Control{Op: core.OpJoin, Profile: &core.Profile{Name: "cat"}})
	h.says(room, "one")
	h.seen(bob, mx, "one", body("one"))
	res, err := bob.JoinedMembers(bg, mx)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := res.Joined[id.UserID(h.b.mxid(cat))]; ok {
		t.Error("somebody who never spoke has a ghost in the room")
	}
	c := converter.Content{Part: converter.Part{Disposition: converter.DispositionRender, Cardinality: converter.SinglePart, Type: converter.TypePlain, Body: []byte("last words")}}
	env := c.Envelope(core.Envelope{Room: room, Sender: cat, Origin: core.Origin{Network: core.NetworkIRC}}, "cat")
	leave := core.Envelope{Room: room, Sender: cat, Origin: core.Origin{Network: core.NetworkIRC}, Body: core.Control{Op: core.OpLeave}.Body("cat")}
	if _, err := h.gw.Submit(bg, env, leave); err != nil {
		t.Fatal(err)
	}
	h.seen(bob, mx, "last words", body("last words"))
	h.until("the ghost went", func() bool {
		res, err := bob.JoinedMembers(bg, mx)
		_, in := res.Joined[id.UserID(h.b.mxid(cat))]
		return err == nil && !in
	})
}

func TestEncryptedRoomRefused(t *testing.T) {
	h := openHouse(t, nil)
	bob := homeserver(t).user(t, "bob")
	room := h.channel("#plain")
	mx := createRoom(t, bob, h.b.bot)
	encrypt := func(mx id.RoomID) {
		if _, err := bob.SendStateEvent(bg, mx, event.StateEncryption, "", map[string]string{"algorithm": "m.megolm.v1.aes-sha2"}); err != nil {
			t.Fatal(err)
		}
	}
	encrypt(mx)
	_, err := h.b.EnsureLink(bg, core.Link{Room: room, Place: mx.String()}, LinkOptions{})
	if core.CodeOf(err) != core.Denied || !strings.Contains(core.TextOf(err), "encrypted") {
		t.Errorf("linking an encrypted room: %v", err)
	}
	h.seen(bob, mx, "notice", func(ev *event.Event) bool {
		return ev.Type == event.EventMessage && ev.Content.AsMessage().MsgType == event.MsgNotice && strings.Contains(ev.Content.AsMessage().Body, "encrypted")
	})
	// Encrypted later: the link is paused, and the room is told.
	room2, mx2, l := h.linked(bob, core.Lazy)
	encrypt(mx2)
	h.until("the link is paused", func() bool {
		var now core.Link
		h.gw.View(bg, func(r core.Reader) (err error) { now, err = r.Link(l.ID); return err })
		return strings.Contains(now.Paused, "encrypted")
	})
	h.seen(bob, mx2, "notice", func(ev *event.Event) bool {
		return ev.Type == event.EventMessage && string(ev.Sender) == h.b.bot && strings.Contains(ev.Content.AsMessage().Body, "no longer connected")
	})
	if _, err := bob.SendText(bg, mx2, "into the void"); err != nil {
		t.Fatal(err)
	}
	_ = room2
}

func TestLinkLifecycle(t *testing.T) {
	h := openHouse(t, func(c *Config) { c.InviteGrace = 500 * time.Millisecond })
	s := homeserver(t)
	bob := s.user(t, "bob")
	// A private room without an invitation is refused with advice.
	private, err := bob.CreateRoom(bg, &mautrix.ReqCreateRoom{Preset: "private_chat"})
	if err != nil {
		t.Fatal(err)
	}
	room := h.channel("#life")
	_, err = h.b.EnsureLink(bg, core.Link{Room: room, Place: private.RoomID.String()}, LinkOptions{})
	if core.CodeOf(err) != core.Denied || !strings.Contains(core.TextOf(err), "invite "+h.b.bot) {
		t.Errorf("linking a closed room: %v", err)
	}
	// An invitation without a link is declined politely.
	if _, err := bob.InviteUser(bg, private.RoomID, &mautrix.ReqInviteUser{UserID: id.UserID(h.b.bot)}); err != nil {
		t.Fatal(err)
	}
	h.seen(bob, private.RoomID, "polite refusal", func(ev *event.Event) bool {
		return ev.Type == event.EventMessage && strings.Contains(ev.Content.AsMessage().Body, "Thank you for the invitation")
	})
	h.seen(bob, private.RoomID, "the bot leaves", func(ev *event.Event) bool {
		return ev.Type == event.StateMember && ev.GetStateKey() == h.b.bot && ev.Content.AsMember().Membership == event.MembershipLeave
	})
	// Create: alias, m.bridge, then people can enter by alias.
	l, err := h.b.EnsureLink(bg, core.Link{Room: room, Owner: "test"}, LinkOptions{Create: true, Public: true})
	if err != nil {
		t.Fatal(err)
	}
	res, err := bob.JoinRoom(bg, "#_isthmus_life:"+hsName, nil)
	if err != nil || res.RoomID.String() != l.Place {
		t.Fatalf("join by alias: %v %v", res, err)
	}
	h.until("Bob is in", func() bool { m, ok := h.member(room, h.uri(bob)); return ok && m.Joined })
	h.says(room, "hi Bob")
	h.seen(bob, res.RoomID, "line", body("hi Bob"))
	// The same place is not linked twice; the same link again is no error.
	if _, err := h.b.EnsureLink(bg, l, LinkOptions{}); err != nil {
		t.Errorf("linking again: %v", err)
	}
	other := h.channel("#other")
	if _, err := h.b.EnsureLink(bg, core.Link{Room: other, Place: l.Place}, LinkOptions{}); core.CodeOf(err) != core.Conflict {
		t.Errorf("a second link of one place: %v", err)
	}
	// Unlinking sweeps.
	if err := h.b.Unlink(bg, l.ID); err != nil {
		t.Fatal(err)
	}
	members, err := bob.JoinedMembers(bg, res.RoomID)
	if err != nil || len(members.Joined) != 1 {
		t.Errorf("after unlinking the room holds %d members (%v), want Bob alone", len(members.Joined), err)
	}
	if m, ok := h.member(room, h.uri(bob)); ok && m.Joined {
		t.Error("Bob is still in the channel")
	}
	if err := h.gw.View(bg, func(r core.Reader) error { _, err := r.Link(l.ID); return err }); core.CodeOf(err) != core.NotFound {
		t.Errorf("the link is still there: %v", err)
	}
}

// A bot that is thrown out pauses its link; what was said meanwhile is
// delivered once it is let in and the link is started again.
func TestBotKickedPausesLink(t *testing.T) {
	h := openHouse(t, nil)
	bob := homeserver(t).user(t, "bob")
	room, mx, l := h.linked(bob, core.Lazy)
	if _, err := bob.KickUser(bg, mx, &mautrix.ReqKickUser{UserID: id.UserID(h.b.bot)}); err != nil {
		t.Fatal(err)
	}
	var now core.Link
	h.until("the link is paused", func() bool {
		h.gw.View(bg, func(r core.Reader) (err error) { now, err = r.Link(l.ID); return err })
		return now.Paused != ""
	})
	h.says(room, "kept")
	if _, err := bob.InviteUser(bg, mx, &mautrix.ReqInviteUser{UserID: id.UserID(h.b.bot)}); err != nil {
		t.Fatal(err)
	}
	now.Paused = ""
	if _, err := h.b.EnsureLink(bg, now, LinkOptions{}); err != nil {
		t.Fatal(err)
	}
	h.seen(bob, mx, "what was said meanwhile", body("kept"))
}

// A recorder of signals stands where the live bridges would.
type signals struct{ c chan core.Signal }

func TestTypingBothWays(t *testing.T) {
	h := openHouse(t, nil)
	bob := homeserver(t).user(t, "bob")
	room, mx, l := h.linked(bob, core.Lazy)
	h.says(room, "so my ghost is here")
	h.seen(bob, mx, "line", body("so my ghost is here"))

	got := signals{make(chan core.Signal, 10)}
	h.gw.signal.Store(&got)
	if _, err := bob.UserTyping(bg, mx, true, 10*time.Second); err != nil {
		t.Fatal(err)
	}
	select {
	case s := <-got.c:
		if s.Room != room || s.Sender != h.uri(bob) || s.Typing != "active" || s.Origin != h.b.network {
			t.Errorf("signal %+v", s)
		}
	case <-time.After(20 * time.Second):
		t.Error("Bob's typing never arrived")
	}
	// Ann types: Bob's client sees her ghost do so.
	done := make(chan struct{}, 1)
	syncer := bob.Syncer.(*mautrix.DefaultSyncer)
	syncer.OnEventType(event.EphemeralEventTyping, func(_ context.Context, ev *event.Event) {
		for _, u := range ev.Content.AsTyping().UserIDs {
			if string(u) == h.b.mxid(ircUser) {
				select {
				case done <- struct{}{}:
				default:
				}
			}
		}
	})
	ctx, stop := context.WithCancel(bg)
	defer stop()
	go bob.SyncWithContext(ctx)
	h.b.Signal(core.Signal{Room: room, Sender: ircUser, Origin: core.NetworkIRC, Typing: "active"})
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("Ann's typing never arrived")
	}
	_ = l
}
