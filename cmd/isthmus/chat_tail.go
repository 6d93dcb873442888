package main

import (
	"context"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// A tailer shows lines once each, in order.
type tailer struct {
	limit int // of what was said; what happened beside is shown and not counted
	lasts time.Duration
	since uint64
	all   bool // since was given

	mu    sync.Mutex // Listen tells from several goroutines
	app   *chatApp
	chat  chatter
	room  core.RoomID // "" = all
	names map[core.RoomID]string
	shown map[core.RoomID]uint64
	err   error
	stop  func()
}

// tail shows what is unread, then follows.
func (a *chatApp) tail(ctx context.Context, chat chatter, args []string, t *tailer) error {
	if err := a.sync(ctx, chat); err != nil && !core.Temporary(err) {
		return err
	}
	ctx, t.stop = context.WithCancel(ctx)
	defer t.stop()
	if t.lasts > 0 {
		var cancel func()
		ctx, cancel = context.WithTimeout(ctx, t.lasts)
		defer cancel()
	}
	t.app, t.chat, t.names, t.shown = a, chat, map[core.RoomID]string{}, map[core.RoomID]uint64{}
	rooms, err := chat.Rooms()
	if err != nil {
		return err
	}
	if len(args) > 0 {
		if t.room, err = findRoom(args[0], rooms); err != nil {
			return err
		}
	}
	for _, r := range rooms {
		t.names[r.Room] = r.Name
		if t.room != "" && t.room != r.Room {
			continue
		}
		if err := t.begin(r); err != nil {
			return err
		}
	}
	if t.limit <= 0 {
		return nil
	}
	if err := chat.Listen(ctx, t.news); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// begin shows what is unread in a room, or what came after --since.
func (t *tailer) begin(r chatRoom) error {
	from := r.Read
	if t.all {
		from = t.since
	}
	t.shown[r.Room] = max(r.Last, from)
	if r.Last <= from {
		return nil
	}
	var all []chatLine
	for before := uint64(0); len(all) < maxTailStart; {
		page, err := t.chat.History(r.Room, before, historyPage)
		if err != nil {
			return err
		}
		all = append(page, all...)
		if len(page) == 0 || page[0].Seq <= from {
			break
		}
		before = page[0].Seq
	}
	for _, l := range all {
		if l.Seq > from && !l.Waiting && (t.all || !l.Own) {
			t.show(l)
		}
	}
	if t.err != nil {
		return t.err
	}
	return t.chat.Read(r.Room, r.Last)
}

// show writes a line, unless enough was written.
func (t *tailer) show(l chatLine) {
	if t.limit <= 0 || t.err != nil {
		return
	}
	name := ""
	if t.room == "" {
		if name = t.names[l.Room]; name == "" {
			name = l.Room.Local()
		}
	}
	t.err = t.app.writeLine(l, t.chat.Self().User.Domain(), name)
	if l.placed() {
		t.limit--
	}
	if t.limit <= 0 || t.err != nil {
		t.stop()
	}
}

// news shows what came.
func (t *tailer) news(n chatNews) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, r := range n.Rooms {
		t.names[r.Room] = r.Name
	}
	read := map[core.RoomID]uint64{}
	for _, l := range n.Lines {
		if t.room != "" && l.Room != t.room {
			continue
		}
		if l.placed() && l.Seq <= t.shown[l.Room] || t.limit <= 0 {
			continue
		}
		t.show(l)
		t.shown[l.Room] = max(t.shown[l.Room], l.Seq)
		read[l.Room] = t.shown[l.Room]
	}
	for room, seq := range read {
		if err := t.chat.Read(room, seq); err != nil && t.err == nil {
			t.err = err
			t.stop()
		}
	}
}
