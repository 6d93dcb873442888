package core_test

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A conversation of two stays one: neither can let a third person in, who would
// read what was said before.
func TestConversationOfTwoAdmitsNobodyElse(t *testing.T) {
	h := newHouse(t)
	in := core.CreateRoom{Room: core.Room{ID: room, Direct: true, Founder: alice}, Members: []core.Member{
		{User: alice, Via: core.NetworkIRC, Role: core.RoleMember, Joined: true},
		{User: bob, Via: core.NetworkIRC, Role: core.RoleMember, Joined: true}}}
	h.do(in)
	h.refused(join(carol), core.Denied, core.InviteOnly)
	h.refused(control(alice, core.Control{Op: core.OpInvite, User: carol}), core.Denied, core.InviteOnly)
	h.refused(join(carol), core.Denied, core.InviteOnly)
	h.do(say(bob, "between us"))
}

// Only who may keep people out may let them in past a ban or a key: else two
// connections of one banned person would be enough.
func TestMembersInvitationOpensNoGate(t *testing.T) {
	h := newHouse(t)
	h.open()
	h.do(control(alice, core.Control{Op: core.OpBan, Mask: "*!*@h"}))
	if out := h.do(control(bob, core.Control{Op: core.OpInvite, User: carol})); out.Event == nil {
		t.Fatal("a member may tell somebody about the room")
	}
	h.refused(join(carol), core.Denied, core.Banned)
	h.do(control(alice, core.Control{Op: core.OpInvite, User: carol}))
	h.do(join(carol))
}

// Who is invited again and again is told again, but what waits for them does
// not grow.
func TestInvitationsWaitOnce(t *testing.T) {
	h := newHouse(t)
	h.open()
	for range 20 {
		if out := h.do(control(alice, core.Control{Op: core.OpInvite, User: carol})); out.Event == nil {
			t.Fatal("a repeated invitation was not told")
		}
		h.do(control(bob, core.Control{Op: core.OpInvite, User: carol}))
	}
	h.view(func(r core.Reader) {
		items, err := r.Items(carol, 0, 100)
		h.must(err)
		if len(items) != 1 {
			t.Fatalf("%d invitations to one room wait", len(items))
		}
	})
}

// The time a sender claims comes from anywhere: whatever it is, the event can
// be read again, and shown with a year of four digits.
func TestSentOutsideTheCalendar(t *testing.T) {
	h := newHouse(t)
	h.open()
	ms := []int64{math.MaxInt64, math.MinInt64, 1<<62 + 1, -1, 253402300800000, 0, 1_700_000_000_000}
	for _, v := range ms {
		e := say(bob, "x")
		e.Sent = time.UnixMilli(v)
		h.do(e)
	}
	events := h.events()
	events = events[len(events)-len(ms):]
	for i, e := range events {
		if y := e.Sent.UTC().Year(); y < 1970 || y > 9999 {
			t.Errorf("sent at %d ms is shown in the year %d", ms[i], y)
		}
	}
	if !events[len(ms)-1].Sent.Equal(time.UnixMilli(1_700_000_000_000)) {
		t.Error("a possible time was changed")
	}
}

// What comes from the other side of a link goes into the book or is cut to
// what the book holds; a delivery that cannot be settled would be repeated for
// ever.
func TestSettleTakesWhateverTheFarSideSays(t *testing.T) {
	h := newHouse(t)
	h.open()
	h.do(core.PutLink{Link: core.Link{ID: "l", Room: room, Network: "x", Place: "p"}})
	id := core.NewEventID(room, home, 1)
	for _, foreign := range []string{"$a\x00b", "$\xff", string(make([]byte, 5000)), ""} {
		out := h.do(core.Settle{Cursor: core.Cursor{Link: "l", Seq: 1},
			Placed: []core.Placed{{Link: "l", Event: id, Foreign: foreign}},
			Losses: []core.SenderLoss{{Room: room, Sender: bob, Loss: core.Loss{Kind: "k" + foreign, Text: "t" + foreign}}}})
		if len(out.Items) > 1 {
			t.Fatalf("%d items", len(out.Items))
		}
	}
	h.view(func(r core.Reader) {
		c, err := r.Cursor("l", core.LaneMessage)
		h.must(err)
		if c.Seq != 1 {
			t.Fatal("the cursor stands still")
		}
	})
}

// A link stays with its room and network: its cursors count that room's log.
func TestLinkDoesNotMoveToAnotherRoom(t *testing.T) {
	h := newHouse(t)
	h.open()
	other := core.NewRoomID(home, "other")
	h.do(core.CreateRoom{Room: core.Room{ID: other, Name: "#other", Founder: alice}})
	h.do(core.PutLink{Link: core.Link{ID: "l", Room: room, Network: "x", Place: "p"}})
	h.refused(core.PutLink{Link: core.Link{ID: "l", Room: other, Network: "x", Place: "p"}}, core.Conflict, "")
	h.refused(core.PutLink{Link: core.Link{ID: "l", Room: room, Network: "y", Place: "p"}}, core.Conflict, "")
}

// Bans of users nobody has seen fill a room's list up to its bound, and then
// they are refused.
func TestStrangersFillNoRoom(t *testing.T) {
	h := newHouse(t)
	h.open()
	h.must(h.store.Update(context.Background(), func(tx core.Tx) error {
		for i := range core.MaxMembers - 2 {
			m := core.Member{User: core.NewUserURI(home, "x", string(rune('a'+i%26))+time.Duration(i).String()), Via: "x", Role: core.RoleBanned}
			if err := tx.PutMember(room, m); err != nil {
				return err
			}
		}
		return nil
	}))
	h.restart()
	h.refused(control(alice, core.Control{Op: core.OpInvite, User: carol}), core.TooLarge, core.ListFull)
	if _, errs := h.apply(control(core.SystemUser(home), core.Control{Op: core.OpRole, User: carol, Role: core.RoleBanned})); core.ReasonOf(errs[0]) != core.ListFull {
		t.Fatalf("the list of members has no bound: %v", errs[0])
	}
}
