package core_test

import (
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A homeserver that lost the end of its log begins another incarnation of it, once; what
// it says from then on has other IDs, which last.
func TestGroupLogBeginsAnew(t *testing.T) {
	w := newTwoHomes(t)
	before := w.say("before", 0)
	o := w.a.do(core.NewLog{Room: club})
	if o.Log != uint64(w.a.now.UnixMilli()) {
		t.Fatalf("incarnation %d", o.Log)
	}
	if again := w.a.do(core.NewLog{Room: club}); again.Log != o.Log {
		t.Errorf("who has not heard of it begins another: %d", again.Log)
	}
	w.a.now = w.a.now.Add(-time.Hour)
	next := w.a.do(core.NewLog{Room: club, Was: o.Log})
	if next.Log != o.Log+1 {
		t.Errorf("incarnation %d after %d", next.Log, o.Log)
	}
	_, errs := w.a.apply(core.NewLog{Room: "mimi://a.example/r/none"})
	wantCode(t, errs[0], core.NotFound)
	for range 2 {
		said, err := w.al.say(w.a, "after")
		if err != nil {
			t.Fatal(err)
		}
		seq := said.Event.Seq
		w.a.view(func(r core.Reader) {
			ev := must(r.Event(club, seq))(t)
			first := must(r.Event(club, before.Seq))(t)
			if ev.Log != next.Log || ev.ID != said.Event.ID || ev.ID == core.NewEventID(club, domainA, seq) || first.Log != 0 || first.ID != core.NewEventID(club, domainA, before.Seq) {
				t.Errorf("%+v after %+v", ev, first)
			}
			mark := core.MarkOf(before.Message)
			if !must(core.HoldsMark(r, club, before.Seq, mark))(t) || must(core.HoldsMark(r, club, seq, mark))(t) || must(core.HoldsMark(r, club, seq+9, mark))(t) {
				t.Error("the log has what it has not, or has not what it has")
			}
		})
		w.a.restart()
	}
}

// A peer notices that a log says something else than it did, takes nothing of that, and
// takes it in the next incarnation, from where that goes on.
func TestGroupPeerTakesNewLog(t *testing.T) {
	w := newTwoHomes(t)
	kept := w.say("kept", 0)
	lost := w.say("lost", kept.Seq)
	if o := w.tell(kept, lost); o.Mark != core.MarkOf(lost.Message) || o.Log != 0 {
		t.Fatalf("%+v", o)
	}
	said := []core.PeerEvent{w.say("1", 0), w.say("2", 0), w.say("3", 0)}
	for i := range said {
		said[i].Seq, said[i].Prev = lost.Seq+uint64(i), kept.Seq+uint64(i)
	}
	said[0].Prev = kept.Seq
	passing := said[1]
	passing.Prev = kept.Seq
	in := func(log uint64, events ...core.PeerEvent) core.PeerEvents {
		return core.PeerEvents{From: domainA, Room: club, Log: log, Events: events}
	}
	refused := func(in core.PeerEvents, log uint64) {
		t.Helper()
		outs, errs := w.b.apply(in)
		wantCode(t, errs[0], core.Conflict)
		if o := outs[0]; o.Stored != lost.Seq || o.Mark != core.MarkOf(lost.Message) || o.Log != log {
			t.Errorf("%+v", o)
		}
	}
	refused(in(0, said...), 0)
	refused(in(0, passing, said[2]), 0) // that place is somebody else's now
	w.b.restart()
	refused(in(0, said...), 0)
	refused(in(7, said[2]), 0) // a gap
	o := w.b.do(in(7, said...))
	if len(o.Events) != 3 || o.Stored != said[2].Seq || o.Log != 7 || o.Mark != core.MarkOf(said[2].Message) {
		t.Fatalf("%+v", o)
	}
	if id := o.Events[0].ID; id == core.NewEventID(club, domainA, lost.Seq) || id.Seq() != lost.Seq || o.Events[0].Log != 7 {
		t.Errorf("%+v has the ID of what was there before", o.Events[0])
	}
	w.b.restart()
	if o := w.b.do(in(7, said...)); len(o.Events) != 0 || o.Stored != said[2].Seq || o.Log != 7 {
		t.Errorf("a repetition: %+v", o)
	}
	outs, errs := w.b.apply(in(6, said...))
	wantCode(t, errs[0], core.Conflict)
	if outs[0].Log != 7 || outs[0].Stored != said[2].Seq {
		t.Errorf("an old incarnation: %+v", outs[0])
	}
}

// What came too late is named in a new incarnation as far as it is part of that.
func TestGroupPassedInNewLog(t *testing.T) {
	w := newTwoHomes(t)
	first := w.say("first", 0)
	second := w.say("second", first.Seq)
	third := w.say("third", second.Seq)
	w.ahead()
	want(t, w.tell(first, second, third).Passed, first.Seq, second.Seq, third.Seq)
	third.Message = second.Message
	third.Prev = second.Seq
	o := w.b.do(core.PeerEvents{From: domainA, Room: club, Log: 1, Events: []core.PeerEvent{third}})
	want(t, o.Passed, third.Seq)
}
