package client

import (
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// A member that encrypts two messages with one generation, and a message that comes
// again, cost nobody anything: the first counts and is shown once, the others are
// refused by the rule that they break, and everybody talks on.
func TestReusedGeneration(t *testing.T) {
	w := newWorld(t, 12)
	alice, bob, carol := w.phone(user("alice"), nil), w.phone(user("bob"), nil), w.phone(user("carol"), nil)
	all := []*phone{alice, bob, carol}
	room := alice.create("tea")
	alice.invite(room, user("bob"), user("carol"))
	agree(room, all...)
	send := func(id string, sealed []byte) {
		t.Helper()
		_, err := alice.cfg.Home.Send(ctx, room, wire.Send{Messages: []wire.Message{{ID: id, Sealed: sealed}}})
		alice.must(err)
	}
	r := alice.rooms[room]
	alice.must(alice.Client.open(ctx, r))
	twin, err := group.Restore(alice.groups, r.g.Snapshot(), nil, alice.signers)
	alice.must(err)
	framed, err := twin.Public().Context().AppendApplication(nil, mls.MediaType{Type: []byte("text/plain")}, []byte("the other one"))
	alice.must(err)
	other, err := twin.Seal(nil, framed, nil)
	alice.must(err)
	alice.say(room, "one")
	one := w.rooms[room].log[w.last(room)-1].Sealed
	send("of the same generation", other)
	send("again", one)
	alice.say(room, "two")
	bob.sync() // carol is away, and has all at once with what follows
	bob.open()
	send("again, after a restart", one)
	alice.must(alice.Renew(ctx, room))
	send("again, in the next epoch", one)
	bob.sync()
	bob.say(room, "three")
	agree(room, all...)
	for _, p := range []*phone{bob, carol} {
		var heard, refused []string
		for _, text := range p.read(room) {
			if strings.HasPrefix(text, "! ") {
				refused = append(refused, text)
			} else {
				heard = append(heard, text)
			}
		}
		if !slices.Equal(heard, []string{"alice: one", "alice: two", "bob: three"}) {
			t.Errorf("%s reads %q", p.name, heard)
		}
		// What was read already need not be shown again; the other one has to be.
		if len(refused) < 1 || len(refused) > 4 || slices.ContainsFunc(refused, func(text string) bool { return !strings.Contains(text, "replay") }) {
			t.Errorf("%s is shown as refused: %q", p.name, refused)
		}
		var told []uint64
		for _, u := range p.saw(NewMessage) {
			told = append(told, u.Message.Seq)
		}
		if !slices.IsSorted(told) || len(slices.Compact(slices.Clone(told))) != len(told) {
			t.Errorf("%s is told of the places %d", p.name, told)
		}
	}
	if got := alice.read(room); !slices.Equal(got, []string{"alice: one", "alice: two", "bob: three"}) {
		t.Errorf("alice reads %q", got)
	}
	if rooms, err := bob.Rooms(ctx); err != nil || rooms[0].Halted != "" || rooms[0].Kind != core.Group {
		t.Errorf("bob's room: %v %+v", err, rooms)
	}
	calm(all...)
}
