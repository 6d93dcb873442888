package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/isthmus-chat/isthmus/core"
)

// A bed is an empty database of one engine, and the store opened on it.
type bed struct {
	*DB
	t   *testing.T
	url string
}

// onEach runs the test on a fresh database of each engine.
func onEach(t *testing.T, f func(t *testing.T, b *bed)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		b := &bed{t: t, url: "sqlite:" + filepath.Join(t.TempDir(), "data", "isthmus.db")}
		b.open()
		f(t, b)
	})
	t.Run("postgres", func(t *testing.T) {
		s, err := postgres()
		if err != nil {
			t.Fatal(err)
		}
		b := &bed{t: t, url: s.database(t)}
		b.open()
		f(t, b)
	})
}

func (b *bed) open() {
	b.t.Helper()
	db, err := Open(context.Background(), Options{URL: b.url, Homeserver: home})
	if err != nil {
		b.t.Fatal(err)
	}
	b.DB = db
	b.t.Cleanup(func() { db.Close() })
}

func (b *bed) reopen() {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.open()
}

func (b *bed) do(f func(core.Tx) error) {
	b.t.Helper()
	update(b.t, b.DB, f)
}

// read reads one thing; see checks the value and that there was no error.
func read[T any](b *bed, f func(core.Reader) (T, error)) (v T, err error) {
	b.t.Helper()
	verr := b.View(context.Background(), func(r core.Reader) error { v, err = f(r); return nil })
	if verr != nil {
		b.t.Fatal(verr)
	}
	return v, err
}

func see[T any](b *bed, want T, f func(core.Reader) (T, error)) {
	b.t.Helper()
	got, err := read(b, f)
	if err != nil {
		b.t.Errorf("unexpected error: %v", err)
	}
	if d := cmp.Diff(want, got); d != "" {
		b.t.Errorf("-want +got:\n%s", d)
	}
}

func refused(t *testing.T, want core.Code, err error) {
	t.Helper()
	if err == nil || core.CodeOf(err) != want {
		t.Errorf("got error %v, want code %v", err, want)
	}
}

var headerMode, _ = cbor.CoreDetEncOptions().EncMode()

var at = time.UnixMicro(1_800_000_000_123_456).UTC()

func plainRoom(name string) core.Room { return core.Room{ID: roomID(name), Created: at, TopicAt: at} }

func (b *bed) room(name string) core.RoomID {
	b.t.Helper()
	b.do(func(t core.Tx) error { return t.PutRoom(plainRoom(name)) })
	return roomID(name)
}

func TestRooms(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		full := core.Room{ID: roomID("größe"), Kind: core.Group, ContentType: "text/x", Direct: true, Name: "#Größe", Topic: "t 🦊", TopicBy: "a",
			TopicAt: at, Created: at.Add(time.Hour), Founder: core.NewUserURI(home, "a"), Policy: core.Policy{Moderated: true, Key: "key", Limit: 7, SinceJoin: true}}
		b.do(func(t core.Tx) error {
			if _, err := t.Room(full.ID); core.CodeOf(err) != core.NotFound {
				return fmt.Errorf("absent room: %v", err)
			}
			if err := t.PutRoom(core.Room{ID: full.ID}); err != nil {
				return err
			}
			return t.PutRoom(full) // replaces
		})
		see(b, full, func(r core.Reader) (core.Room, error) { return r.Room(full.ID) })
		_, err := read(b, func(r core.Reader) (core.Room, error) { return r.Room(roomID("none")) })
		refused(t, core.NotFound, err)
		zero := core.Room{ID: roomID("zero")} // zero times come back as zero times
		b.do(func(t core.Tx) error { return t.PutRoom(zero) })
		see(b, zero, func(r core.Reader) (core.Room, error) { return r.Room(zero.ID) })

		// Ordered by octets: 'B' < '_' < 'a', whatever the locale says.
		for _, n := range []string{"a", "B", "_", "b"} {
			b.room(n)
		}
		b.reopen()
		ids := func(after core.RoomID, limit int) []core.RoomID {
			rs, err := read(b, func(r core.Reader) ([]core.Room, error) { return r.Rooms(after, limit) })
			if err != nil {
				t.Error(err)
			}
			var out []core.RoomID
			for _, r := range rs {
				out = append(out, r.ID)
			}
			return out
		}
		want := []core.RoomID{full.ID, roomID("B"), roomID("_"), roomID("a"), roomID("b"), zero.ID}
		slices.Sort(want)
		if d := cmp.Diff(want, ids("", 100)); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(want[2:4], ids(want[1], 2)); d != "" {
			t.Error(d)
		}
		if got := ids("", 0); got != nil {
			t.Errorf("limit 0 gave %v", got)
		}
		if got := ids("", -1); got != nil {
			t.Errorf("limit -1 gave %v", got)
		}
	})
}

func TestMembersAndBans(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		one, two := b.room("one"), b.room("two")
		m := core.Member{User: core.NewUserURI(home, "zoe"), Via: "irc", Role: core.RoleOwner, Joined: true, Invited: true, Since: math.MaxInt64,
			Profile: core.Profile{Name: "Zoë", Ident: "z", Host: "h", Account: "zoe", Real: "\x02R", Avatar: "mxc://x/y", Bot: true}}
		away := core.Member{User: core.NewUserURI(home, "amy"), Via: "matrix:x", Role: core.RoleBanned}
		b.do(func(t core.Tx) error {
			return errors.Join(t.PutMember(one, core.Member{User: m.User}), t.PutMember(one, m), t.PutMember(one, away),
				t.PutMember(two, core.Member{User: m.User, Via: "irc", Joined: true}),
				t.PutMember(two, core.Member{User: away.User, Via: "irc", Joined: true}))
		})
		see(b, []core.Member{away, m}, func(r core.Reader) ([]core.Member, error) { return r.Members(one) })
		see(b, nil, func(r core.Reader) ([]core.Member, error) { return r.Members(roomID("none")) })
		see(b, []core.RoomID{one, two}, func(r core.Reader) ([]core.RoomID, error) { return r.RoomsOf(m.User, "", 9) })
		see(b, []core.RoomID{two}, func(r core.Reader) ([]core.RoomID, error) { return r.RoomsOf(away.User, one, 9) })
		all := []core.Presence{{Room: one, User: m.User}, {Room: two, User: away.User}, {Room: two, User: m.User}}
		see(b, all, func(r core.Reader) ([]core.Presence, error) { return r.JoinedVia("irc", core.Presence{}, 9) })
		see(b, all[1:2], func(r core.Reader) ([]core.Presence, error) { return r.JoinedVia("irc", all[0], 1) })
		see(b, all[2:], func(r core.Reader) ([]core.Presence, error) { return r.JoinedVia("irc", all[1], 9) })
		see(b, nil, func(r core.Reader) ([]core.Presence, error) { return r.JoinedVia("matrix:x", core.Presence{}, 9) })

		bans := []core.Ban{{Mask: "*!*@a", List: 'I', By: "b", At: at}, {Mask: "$a:x", List: 'b', At: at}, {Mask: "z!*@*", List: 'b', At: at}}
		b.do(func(t core.Tx) error {
			return errors.Join(t.PutBan(one, bans[2]), t.PutBan(one, bans[0]), t.PutBan(one, core.Ban{Mask: "$a:x", List: 'b', By: "old"}), t.PutBan(one, bans[1]))
		})
		see(b, bans, func(r core.Reader) ([]core.Ban, error) { return r.Bans(one) })

		b.do(func(t core.Tx) error {
			return errors.Join(t.DropMember(one, m.User), t.DropMember(one, "mimi://x/u/none"), t.DropMember(roomID("none"), m.User),
				t.DropBan(one, 'b', "$a:x"), t.DropBan(one, 'e', "$a:x"), t.DropBan(roomID("none"), 'b', "x"))
		})
		see(b, []core.Member{away}, func(r core.Reader) ([]core.Member, error) { return r.Members(one) })
		see(b, []core.Ban{bans[0], bans[2]}, func(r core.Reader) ([]core.Ban, error) { return r.Bans(one) })
		b.do(func(tx core.Tx) error {
			refused(t, core.NotFound, tx.PutMember(roomID("none"), m))
			refused(t, core.NotFound, tx.PutBan(roomID("none"), bans[0]))
			return nil
		})
	})
}

func TestTenThousandMembers(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room, want := b.room("crowd"), make([]core.UserURI, 10_000)
		b.do(func(t core.Tx) error {
			for i := range want {
				want[i] = core.NewUserURI(home, fmt.Sprintf("u%05d", i))
				if err := t.PutMember(room, core.Member{User: want[i], Via: "irc", Joined: true, Since: uint64(i)}); err != nil {
					return err
				}
			}
			return nil
		})
		ms, err := read(b, func(r core.Reader) ([]core.Member, error) { return r.Members(room) })
		if err != nil || len(ms) != len(want) {
			t.Fatalf("%d members, %v", len(ms), err)
		}
		for i, m := range ms {
			if m.User != want[i] || m.Since != uint64(i) {
				t.Fatalf("member %d is %v", i, m.User)
			}
		}
	})
}

func (b *bed) log(room core.RoomID, from, to uint64) {
	b.t.Helper()
	b.do(func(t core.Tx) error {
		for seq := from; seq <= to; seq++ {
			if err := t.Append(message(b.t, room, seq, "")); err != nil {
				return err
			}
		}
		return nil
	})
}

func seqs(es []core.Event, err error) ([]uint64, error) {
	var out []uint64
	for _, e := range es {
		out = append(out, e.Seq)
	}
	return out, err
}

func TestLog(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room, other := b.room("log"), b.room("other")
		type end struct {
			Seq uint64
			At  time.Time
		}
		head := func(r core.Reader) (end, error) { s, a, err := r.Head(room); return end{s, a}, err }
		see(b, end{}, head)
		b.log(room, 1, 10)
		b.log(other, 1, 3)
		b.do(func(tx core.Tx) error {
			refused(t, core.Internal, tx.Append(message(t, room, 12, ""))) // would leave a gap
			refused(t, core.Internal, tx.Append(message(t, room, 10, ""))) // there already
			refused(t, core.NotFound, tx.Append(message(t, roomID("none"), 1, "")))
			return nil
		})
		last := message(t, room, 10, "")
		see(b, end{10, last.Accepted}, head)
		see(b, last, func(r core.Reader) (core.Event, error) { return r.Event(room, 10) })
		for _, seq := range []uint64{0, 11, math.MaxUint64} {
			_, err := read(b, func(r core.Reader) (core.Event, error) { return r.Event(room, seq) })
			refused(t, core.NotFound, err)
		}
		_, err := read(b, func(r core.Reader) (core.Event, error) { return r.Event(roomID("none"), 1) })
		refused(t, core.NotFound, err)
		b.reopen()
		see(b, end{10, last.Accepted}, head)
		b.log(room, 11, 11) // goes on where it was
		for _, c := range []struct {
			r    core.Range
			want []uint64
		}{
			{core.Range{Limit: 3}, []uint64{1, 2, 3}},
			{core.Range{Limit: 3, Newest: true}, []uint64{9, 10, 11}},
			{core.Range{After: 4, Before: 8, Limit: 100}, []uint64{5, 6, 7}},
			{core.Range{After: 4, Before: 8, Limit: 2}, []uint64{5, 6}},
			{core.Range{After: 4, Before: 8, Limit: 2, Newest: true}, []uint64{6, 7}},
			{core.Range{After: 4, Before: 5, Limit: 9}, nil},
			{core.Range{After: 9, Before: 3, Limit: 9}, nil},
			{core.Range{After: 10, Limit: 9}, []uint64{11}},
			{core.Range{After: math.MaxUint64, Limit: 9}, nil},
			{core.Range{Before: math.MaxUint64, Limit: 1, Newest: true}, []uint64{11}},
			{core.Range{Limit: 0}, nil},
			{core.Range{Limit: -1}, nil},
		} {
			see(b, c.want, func(r core.Reader) ([]uint64, error) { return seqs(r.Events(room, c.r)) })
		}
		see(b, nil, func(r core.Reader) ([]uint64, error) { return seqs(r.Events(roomID("none"), core.Range{Limit: 5})) })
	})
}

func TestReplace(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room := b.room("log")
		b.log(room, 1, 3)
		e := message(t, room, 2, "")
		s, _ := e.Signed()
		hash := e.ContentHash()
		s.Content, e.Body, e.Deleted = hash[:], nil, true
		e.Body = s
		b.do(func(tx core.Tx) error {
			gone := e
			gone.Seq = 9
			refused(t, core.NotFound, tx.Replace(gone))
			return tx.Replace(e)
		})
		see(b, e, func(r core.Reader) (core.Event, error) { return r.Event(room, 2) })
		see(b, []uint64{1, 2, 3}, func(r core.Reader) ([]uint64, error) { return seqs(r.Events(room, core.Range{Limit: 9})) })
	})
}

func TestSeqAt(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room, us := b.room("log"), time.Microsecond
		check := func(want uint64, when time.Time) {
			t.Helper()
			see(b, want, func(r core.Reader) (uint64, error) { return r.SeqAt(room, when) })
		}
		check(1, at) // empty
		see(b, 1, func(r core.Reader) (uint64, error) { return r.SeqAt(roomID("none"), at) })
		for i, d := range []time.Duration{0, 10 * us, 10 * us, 5 * us, 30 * us} { // the clock stepped back once
			b.do(func(tx core.Tx) error {
				e := message(t, room, uint64(i+1), "")
				e.Accepted = at.Add(d)
				return tx.Append(e)
			})
		}
		check(1, time.Time{})
		check(1, at)
		check(2, at.Add(us))
		check(2, at.Add(10*us))
		check(5, at.Add(11*us))
		check(5, at.Add(30*us))
		check(6, at.Add(31*us))
		check(6, time.Unix(1<<40, 0))
		see(b, at.Add(10*us), func(r core.Reader) (time.Time, error) { e, err := r.Event(room, 4); return e.Accepted, err })
	})
}

func TestOrigins(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room := b.room("log")
		type place struct {
			Room core.RoomID
			Seq  uint64
		}
		by := func(n core.Network, id string) func(core.Reader) (place, error) {
			return func(r core.Reader) (place, error) { room, seq, err := r.ByOrigin(n, id); return place{room, seq}, err }
		}
		b.do(func(tx core.Tx) error {
			if err := tx.Append(message(t, room, 1, "$abc")); err != nil {
				return err
			}
			refused(t, core.Conflict, tx.Append(message(t, room, 2, "$abc")))
			return tx.Append(message(t, room, 2, "$def")) // a conflict leaves the transaction usable
		})
		see(b, place{room, 1}, by("irc", "$abc"))
		see(b, place{room, 2}, by("irc", "$def"))
		_, err := read(b, by("matrix:x", "$abc"))
		refused(t, core.NotFound, err)
		b.reopen()
		refused(t, core.Conflict, b.Update(context.Background(), func(tx core.Tx) error { return tx.Append(message(t, room, 3, "$def")) }))
		see(b, []uint64{1, 2}, func(r core.Reader) ([]uint64, error) { return seqs(r.Events(room, core.Range{Limit: 9})) })
	})
}

func TestLinks(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room, other := b.room("log"), b.room("other")
		l := core.Link{ID: "m1", Room: room, Network: "matrix:x", Place: "!a:x", Owner: "op", Mode: core.Mirror, Created: at, Paused: "why", Holder: "p", Until: at}
		l2 := core.Link{ID: "m2", Room: other, Network: "irc:y", Place: "#a", Created: at}
		cursor := core.Cursor{Link: "m1", Lane: core.LaneState, Seq: 9, Delivered: 5, Refused: 1, Expired: 2, Skipped: 3}
		id, id2 := core.NewEventID(room, home, 1), core.NewEventID(room, home, 2)
		b.do(func(tx core.Tx) error {
			refused(t, core.NotFound, tx.PutCursor(cursor))
			refused(t, core.NotFound, tx.PutPlaced(core.Placed{Link: "m1", Event: id}))
			refused(t, core.NotFound, tx.PutLink(core.Link{ID: "x", Room: roomID("none")}))
			moved := l
			moved.Room, moved.Holder = other, ""
			return errors.Join(tx.PutLink(moved), tx.PutLink(l), tx.PutLink(l2), tx.PutCursor(core.Cursor{Link: "m1", Lane: core.LaneState}), tx.PutCursor(cursor),
				tx.PutPlaced(core.Placed{Link: "m1", Event: id, Part: 1, Foreign: "$b"}), tx.PutPlaced(core.Placed{Link: "m1", Event: id, Part: 0, Foreign: "$a"}))
		})
		b.reopen()
		see(b, l, func(r core.Reader) (core.Link, error) { return r.Link("m1") })
		see(b, []core.Link{l, l2}, func(r core.Reader) ([]core.Link, error) { return r.Links("", 9) })
		see(b, []core.Link{l2}, func(r core.Reader) ([]core.Link, error) { return r.Links("m1", 1) })
		see(b, cursor, func(r core.Reader) (core.Cursor, error) { return r.Cursor("m1", core.LaneState) })
		see(b, core.Cursor{Link: "m1"}, func(r core.Reader) (core.Cursor, error) { return r.Cursor("m1", core.LaneMessage) })
		placed := func(e core.EventID) func(core.Reader) ([]core.Placed, error) {
			return func(r core.Reader) ([]core.Placed, error) { return r.Placed("m1", e) }
		}
		see(b, []core.Placed{{Link: "m1", Event: id, Part: 0, Foreign: "$a"}, {Link: "m1", Event: id, Part: 1, Foreign: "$b"}}, placed(id))
		see(b, core.Placed{Link: "m1", Event: id, Part: 1, Foreign: "$b"}, func(r core.Reader) (core.Placed, error) { return r.PlacedAs("m1", "$b") })
		// Unique both ways: $b moves to another event, part 0 gets another ID.
		b.do(func(tx core.Tx) error {
			return errors.Join(tx.PutPlaced(core.Placed{Link: "m1", Event: id2, Foreign: "$b"}), tx.PutPlaced(core.Placed{Link: "m1", Event: id, Foreign: "$c"}))
		})
		see(b, []core.Placed{{Link: "m1", Event: id, Foreign: "$c"}}, placed(id))
		see(b, []core.Placed{{Link: "m1", Event: id2, Foreign: "$b"}}, placed(id2))
		_, err := read(b, func(r core.Reader) (core.Placed, error) { return r.PlacedAs("m1", "$a") })
		refused(t, core.NotFound, err)

		b.do(func(tx core.Tx) error { return errors.Join(tx.DropLink("m1"), tx.DropLink("none")) })
		_, err = read(b, func(r core.Reader) (core.Link, error) { return r.Link("m1") })
		refused(t, core.NotFound, err)
		see(b, nil, placed(id2))
		see(b, core.Cursor{Link: "m1", Lane: core.LaneState}, func(r core.Reader) (core.Cursor, error) { return r.Cursor("m1", core.LaneState) })
	})
}

func TestItems(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		amy, bob := core.NewUserURI(home, "amy"), core.NewUserURI(home, "bob")
		put := func(to core.UserURI, text string) (it core.Item) {
			b.do(func(tx core.Tx) (err error) {
				it, err = tx.PutItem(core.Item{ID: 99, To: to, From: bob, Room: roomID("not yet"), Kind: "invite", Text: text, At: at})
				return err
			})
			return it
		}
		i1, i2, i3 := put(amy, "1"), put(bob, "2"), put(amy, "3")
		if i1.ID == 0 || i1.ID >= i2.ID || i2.ID >= i3.ID {
			t.Errorf("IDs %d %d %d do not rise", i1.ID, i2.ID, i3.ID)
		}
		see(b, []core.Item{i1, i3}, func(r core.Reader) ([]core.Item, error) { return r.Items(amy, 0, 9) })
		see(b, []core.Item{i3}, func(r core.Reader) ([]core.Item, error) { return r.Items(amy, i1.ID, 9) })
		see(b, []core.Item{i1}, func(r core.Reader) ([]core.Item, error) { return r.Items(amy, 0, 1) })
		b.do(func(tx core.Tx) error { return tx.DropItems(amy, i3.ID) })
		see(b, nil, func(r core.Reader) ([]core.Item, error) { return r.Items(amy, 0, 9) })
		see(b, []core.Item{i2}, func(r core.Reader) ([]core.Item, error) { return r.Items(bob, 0, 9) })
		b.reopen()
		if i4 := put(amy, "4"); i4.ID <= i3.ID {
			t.Errorf("item number %d was given again", i4.ID)
		}
	})
}

func TestAccountsAndValues(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		a := core.Account{Name: "Amy", Fold: "amy", User: core.NewUserURI(home, "amy"), Created: at, Argon2id: "$argon2id$x", SCRAM: "SCRAM-SHA-256$1:a$b:c",
			Certs: []string{"aa", "bb"}, Tokens: []string{"cc"}, Disabled: true}
		bare := core.Account{Name: "bob", Fold: "bob", Created: at}
		b.do(func(tx core.Tx) error {
			return errors.Join(tx.PutAccount(core.Account{Fold: "amy"}), tx.PutAccount(a), tx.PutAccount(bare),
				tx.PutValue("b", "k", []byte("old")), tx.PutValue("b", "k", []byte{0, 255}), tx.PutValue("b", "nil", nil), tx.PutValue("c", "k", []byte("c")))
		})
		b.reopen()
		see(b, a, func(r core.Reader) (core.Account, error) { return r.Account("amy") })
		see(b, []core.Account{a, bare}, func(r core.Reader) ([]core.Account, error) { return r.Accounts("", 9) })
		see(b, []core.Account{bare}, func(r core.Reader) ([]core.Account, error) { return r.Accounts("amy", 9) })
		see(b, []byte{0, 255}, func(r core.Reader) ([]byte, error) { return r.Value("b", "k") })
		see(b, []core.Value{{Key: "k", Data: []byte{0, 255}}, {Key: "nil", Data: []byte{}}},
			func(r core.Reader) ([]core.Value, error) { return r.Values("b", "", 9) })
		see(b, []core.Value{{Key: "nil", Data: []byte{}}}, func(r core.Reader) ([]core.Value, error) { return r.Values("b", "k", 1) })
		b.do(func(tx core.Tx) error {
			return errors.Join(tx.DropValue("b", "k"), tx.DropValue("b", "none"))
		})
		_, err := read(b, func(r core.Reader) (core.Account, error) { return r.Account("none") })
		refused(t, core.NotFound, err)
		_, err = read(b, func(r core.Reader) ([]byte, error) { return r.Value("b", "k") })
		refused(t, core.NotFound, err)
		see(b, []byte("c"), func(r core.Reader) ([]byte, error) { return r.Value("c", "k") })
	})
}

var errNo = errors.New("no")

func TestRollback(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		ctx, room, fresh := context.Background(), b.room("log"), roomID("fresh")
		b.log(room, 1, 2)
		all := func(tx core.Tx) error {
			err := errors.Join(tx.PutRoom(plainRoom("fresh")), tx.PutMember(fresh, core.Member{User: "mimi://x/u/a"}), tx.PutBan(fresh, core.Ban{Mask: "x"}),
				tx.Append(message(t, fresh, 1, "$o")), tx.Append(message(t, room, 3, "")), tx.PutLink(core.Link{ID: "l", Room: fresh}),
				tx.PutCursor(core.Cursor{Link: "l"}), tx.PutAccount(core.Account{Fold: "a"}), tx.PutValue("b", "k", nil))
			if err != nil {
				return err
			}
			// The transaction sees what it wrote; nobody else does.
			if e, err := tx.Event(fresh, 1); err != nil || e.Room != fresh {
				return fmt.Errorf("own write unseen: %w", err)
			}
			if seq, _, err := tx.Head(room); seq != 3 || err != nil {
				return fmt.Errorf("head %d: %w", seq, err)
			}
			if ms, err := tx.Members(fresh); len(ms) != 1 || err != nil {
				return fmt.Errorf("members %d: %w", len(ms), err)
			}
			if _, _, err := tx.ByOrigin("irc", "$o"); err != nil {
				return err
			}
			_, err = read(b, func(r core.Reader) (core.Room, error) { return r.Room(fresh) })
			refused(t, core.NotFound, err)
			return nil
		}
		untouched := func() {
			t.Helper()
			see(b, []core.Room{plainRoom("log")}, func(r core.Reader) ([]core.Room, error) { return r.Rooms("", 9) })
			see(b, nil, func(r core.Reader) ([]core.Member, error) { return r.Members(fresh) })
			see(b, uint64(2), func(r core.Reader) (uint64, error) { s, _, err := r.Head(room); return s, err })
			see(b, nil, func(r core.Reader) ([]core.Link, error) { return r.Links("", 9) })
			see(b, nil, func(r core.Reader) ([]core.Account, error) { return r.Accounts("", 9) })
			see(b, nil, func(r core.Reader) ([]core.Value, error) { return r.Values("b", "", 9) })
		}
		err := b.Update(ctx, func(tx core.Tx) error { return errors.Join(all(tx), errNo) })
		if !errors.Is(err, errNo) {
			t.Errorf("got %v", err)
		}
		untouched()
		func() {
			defer func() {
				if recover() != errNo {
					t.Error("the panic was lost")
				}
			}()
			b.Update(ctx, func(tx core.Tx) error { all(tx); panic(errNo) })
		}()
		untouched()
		ctx2, cancel := context.WithCancel(ctx)
		err = b.Update(ctx2, func(tx core.Tx) error { err := all(tx); cancel(); return err })
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		untouched()
		if err := b.Update(ctx2, all); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if err := b.View(ctx2, func(core.Reader) error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		// What was rolled back can be done: no cache remembers it.
		b.do(all)
		see(b, uint64(3), func(r core.Reader) (uint64, error) { s, _, err := r.Head(room); return s, err })
	})
}

func TestViewIsOneSnapshot(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room := b.room("log")
		b.log(room, 1, 1)
		err := b.View(context.Background(), func(r core.Reader) error {
			before, _, err := r.Head(room)
			if err != nil {
				return err
			}
			b.log(room, 2, 5)
			after, _, err := r.Head(room)
			if before != 1 || after != 1 {
				t.Errorf("head moved from %d to %d inside a view", before, after)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
		if err := b.View(context.Background(), func(core.Reader) error { return errNo }); !errors.Is(err, errNo) {
			t.Errorf("got %v", err)
		}
		for range 3 * maxReaders { // errors and nesting lose no connection
			b.View(context.Background(), func(core.Reader) error { return errNo })
		}
		see(b, uint64(5), func(r core.Reader) (uint64, error) { s, _, err := r.Head(room); return s, err })
	})
}

// Text with a NUL or broken UTF-8 is Invalid on both engines, and the
// transaction goes on; octets are kept as they are.
func TestHostileText(t *testing.T) {
	onEach(t, func(t *testing.T, b *bed) {
		room := b.room("log")
		b.do(func(tx core.Tx) error { return tx.PutLink(core.Link{ID: "l", Room: room}) })
		for _, bad := range []string{"a\x00b", "\xff\xfe", "\xed\xa0\x80"} {
			b.do(func(tx core.Tx) error {
				topic, key := plainRoom("log"), plainRoom("log")
				key.Policy.Key = bad
				topic.Topic = bad
				foreign := message(t, room, 1, "")
				foreign.Origin.ID = bad
				_, _, byOrigin := tx.ByOrigin("irc", bad)
				_, item := tx.PutItem(core.Item{To: "mimi://x/u/a", Text: bad})
				_, account := tx.Account(bad)
				_, rooms := tx.Rooms(core.RoomID(bad), 9)
				for i, err := range []error{tx.PutRoom(topic), tx.PutRoom(key), tx.Append(foreign), byOrigin, item, account, rooms,
					tx.PutMember(room, core.Member{User: core.UserURI(bad)}), tx.PutMember(room, core.Member{Profile: core.Profile{Real: bad}}), tx.PutBan(room, core.Ban{Mask: bad}),
					tx.PutPlaced(core.Placed{Link: "l", Foreign: bad}), tx.PutValue("b", bad, nil), tx.DropValue("b", bad)} {
					if core.CodeOf(err) != core.Invalid {
						t.Errorf("%q, case %d: got %v", bad, i, err)
					}
				}
				return tx.PutValue("hostile", "x", []byte(bad))
			})
			see(b, []byte(bad), func(r core.Reader) ([]byte, error) { return r.Value("hostile", "x") })
		}
		see(b, plainRoom("log"), func(r core.Reader) (core.Room, error) { return r.Room(room) })
		tricky := `'; DROP TABLE rooms; -- $1 %s "` + "\u202e\uffff"
		zeros := make([]byte, 1<<20)
		b.do(func(tx core.Tx) error { return tx.PutValue(tricky, tricky, zeros) })
		see(b, true, func(r core.Reader) (bool, error) {
			v, err := r.Value(tricky, tricky)
			return bytes.Equal(v, zeros), err
		})
	})
}
