package core_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// twoHomes is a room of alice at a.example, who speaks, and bob at b.example.
type twoHomes struct {
	*testing.T
	a, b   *house
	al, bo *device
}

func newTwoHomes(t *testing.T) *twoHomes {
	w := &twoHomes{t, newGroupHouse(t, domainA), newGroupHouse(t, domainB), newDevice(t, alice, "phone"), newDevice(t, bobB, "phone")}
	w.al.create(w.a, club, policy.Default(string(alice), domainA))
	w.a.enrol(w.al.proof)
	w.b.enrol(w.bo.proof)
	hs := w.al.add(club, w.bo)
	out, _ := w.a.accept(hs)
	w.al.merge()
	w.bo.g = must(group.Join(w.bo.cfg, must(mls.Parse(out.Welcomes[0].Message))(t).Welcome, w.bo.kp, group.JoinOptions{RatchetTree: out.Welcomes[0].Tree}))(t)
	if err := w.b.restore(club, w.a.snapshot(club)); err != nil {
		t.Fatal(err)
	}
	return w
}

// say has alice say something at her homeserver, and returns it as others are told.
func (w *twoHomes) say(text string, prev uint64) core.PeerEvent {
	w.Helper()
	o, err := w.al.say(w.a, text)
	if err != nil {
		w.Fatal(err)
	}
	return core.PeerEvent{Seq: o.Event.Seq, Prev: prev, Accepted: 1_800_000_000_000, Sender: alice, Message: o.Event.Body.(core.Sealed).Message}
}

// ahead lets b.example go on without a.example, past the room's tolerance.
func (w *twoHomes) ahead() (commits []*core.Handshake) {
	w.Helper()
	for range policy.DefaultEpochTolerance + 1 {
		hs := w.bo.commit(club, nil)
		w.b.accept(hs)
		w.bo.merge()
		commits = append(commits, hs)
	}
	return commits
}

func (w *twoHomes) tell(events ...core.PeerEvent) core.Output {
	w.Helper()
	return w.b.do(core.PeerEvents{From: domainA, Room: club, Events: events})
}

func (w *twoHomes) stored(seq uint64, passed ...uint64) []core.Letter {
	w.Helper()
	return w.a.do(core.PeerStored{Peer: domainB, Room: club, Seq: seq, Passed: passed}).Letters
}

func want(t *testing.T, got []uint64, want ...uint64) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("passed over %v, not %v", got, want)
	}
}

// What came too late is named until the other side shows that it knows, whatever
// crashes in between; what is refused for other reasons is not.
func TestGroupPassedIsNamed(t *testing.T) {
	w := newTwoHomes(t)
	first := w.say("in time", 0)
	want(t, w.tell(first).Passed)
	late := []core.PeerEvent{w.say("1", first.Seq)}
	late = append(late, w.say("2", late[0].Seq))
	forged := late[0]
	forged.Sender, forged.Seq, forged.Prev = bobB, late[1].Seq+1, late[1].Seq
	w.ahead()
	o := w.tell(append(late, forged)...)
	if want(t, o.Passed, late[0].Seq, late[1].Seq); o.Stored != forged.Seq || len(o.Events) != 0 {
		t.Fatalf("%+v", o)
	}
	want(t, w.tell(append(late, forged)...).Passed, late[0].Seq, late[1].Seq) // the answer was lost
	w.b.restart()
	want(t, w.tell(late...).Passed, late[0].Seq, late[1].Seq) // it died before it answered
	next := core.PeerEvent{Seq: forged.Seq + 1, Prev: late[0].Seq, Sender: bobB, Message: late[0].Message}
	want(t, w.tell(late[1], forged, next).Passed, late[1].Seq) // the first of them is known
	next.Prev = forged.Seq
	want(t, w.tell(next).Passed)
	w.b.restart()
	want(t, w.tell(next).Passed)
}

// Beyond a bound nothing is passed over: it waits until what was is known.
func TestGroupPassedIsBounded(t *testing.T) {
	w := newTwoHomes(t)
	e := w.say("late", 0)
	w.ahead()
	events := make([]core.PeerEvent, core.MaxPassed+1)
	for i := range events {
		e.Prev, e.Seq = uint64(i), uint64(i+1)
		events[i] = e
	}
	o := w.tell(events...)
	if o.Stopped != core.Limited || o.Stored != core.MaxPassed || len(o.Passed) != core.MaxPassed {
		t.Fatalf("%d of %d, %v", len(o.Passed), o.Stored, o.Stopped)
	}
	o = w.tell(events[core.MaxPassed])
	if want(t, o.Passed, core.MaxPassed+1); o.Stopped != core.Internal {
		t.Fatalf("%+v", o)
	}
}

// The devices of who said it are told once, whoever passed it over and however often.
func TestGroupPassedIsTold(t *testing.T) {
	w := newTwoHomes(t)
	first := w.say("1", 0)
	second := w.say("2", first.Seq)
	third := w.say("3", second.Seq)
	w.stored(first.Seq)
	if ls := w.stored(second.Seq, first.Seq); len(ls) != 0 {
		t.Fatal("a peer unsays what it had stored")
	}
	ls := w.stored(third.Seq, first.Seq-1, third.Seq, third.Seq+1)
	if len(ls) != 1 || ls[0].Device != w.al.uri || ls[0].Kind != core.LetterAgain || ls[0].Room != club {
		t.Fatalf("letters %+v", ls)
	}
	if u := must(ls[0].Unheard())(t); len(u) != 1 || u[0] != (core.Unheard{Seq: third.Seq, Epoch: 1}) {
		t.Fatalf("unheard %v", u)
	}
	w.a.restart()
	w.a.do(core.PeerStored{Peer: "c.example", Room: club, Seq: third.Seq - 1})
	if ls := w.a.do(core.PeerStored{Peer: "c.example", Room: club, Seq: third.Seq, Passed: []uint64{third.Seq}}).Letters; len(ls) != 1 {
		t.Fatal("the mark outlived the last peer that may name it") // c.example is not in the room
	}
	w.a.view(func(r core.Reader) {
		if ls := must(core.LettersOf(r, w.al.uri, 0, 10))(t); len(ls) != 2 {
			t.Fatalf("%d letters wait", len(ls))
		}
	})
}

// Two peers pass the same message over: it is told once. Marks go when both are past.
func TestGroupPassedByMany(t *testing.T) {
	w := newTwoHomes(t)
	carol := newDevice(t, core.UserURI("mimi://c.example/u/carol"), "phone")
	w.a.do(core.PutHomeserver{Record: homeRecord(t, "c.example")})
	w.a.accept(w.al.add(club, carol))
	w.al.merge()
	first := w.say("1", 0)
	told := 0
	for range 2 {
		for _, peer := range []string{domainB, "c.example", domainB} {
			told += len(w.a.do(core.PeerStored{Peer: peer, Room: club, Seq: first.Seq, Passed: []uint64{first.Seq}}).Letters)
		}
	}
	if told != 1 {
		t.Fatalf("told %d times", told)
	}
	w.a.view(func(r core.Reader) {
		if marks := must(r.Values("group again", "", 10))(t); len(marks) != 0 {
			t.Fatalf("%d marks are left", len(marks))
		}
	})
}

// Homeservers that come later have nothing said again of what was before them, also
// if they came while this one was away.
func TestGroupPassedBeforeSomebodyCame(t *testing.T) {
	w := newTwoHomes(t)
	before := w.say("before", 0)
	carol := newDevice(t, core.UserURI("mimi://c.example/u/carol"), "phone")
	w.b.do(core.PutHomeserver{Record: homeRecord(t, "c.example")})
	w.b.accept(w.bo.add(club, carol))
	if err := w.a.restore(club, w.b.snapshot(club)); err != nil {
		t.Fatal(err)
	}
	w.a.do(core.PeerStored{Peer: "c.example", Room: club, Seq: 0}) // as if it had lost its log
	if ls := w.a.do(core.PeerStored{Peer: "c.example", Room: club, Seq: before.Seq, Passed: []uint64{before.Seq}}).Letters; len(ls) != 0 {
		t.Fatal("what was said before c.example came is said again for it")
	}
	if ls := w.stored(before.Seq, before.Seq); len(ls) != 1 {
		t.Fatal("what was said when b.example was there is not")
	}
}

// A device that never takes its letters is told at the end that there were more.
func TestGroupPassedOverflows(t *testing.T) {
	w := newTwoHomes(t)
	var prev uint64
	for i := range 1030 {
		e := w.say(fmt.Sprint(i), prev)
		prev = e.Seq
		w.stored(e.Seq, e.Seq)
	}
	w.a.view(func(r core.Reader) {
		ls := must(core.LettersOf(r, w.al.uri, 0, 2000))(t)
		if len(ls) != 1024 || len(must(ls[1022].Unheard())(t)) != 1 || len(must(ls[1023].Unheard())(t)) != 0 {
			t.Fatalf("%d letters", len(ls))
		}
	})
	w.a.do(core.DropLetters{Device: w.al.uri, UpTo: 1 << 40})
	e := w.say("again", prev)
	if ls := w.stored(e.Seq, e.Seq); len(ls) != 1 || len(must(ls[0].Unheard())(t)) != 1 {
		t.Fatalf("%+v", ls)
	}
}
