package native

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of the messages on their way to one peer.
const (
	maxBatch      = 4 << 20  // octets of a request
	maxBatchLanes = 1024     // rooms of a request
	maxLaneEvents = 4096     // messages of one room in a request: what the engine takes
	maxLanesQueue = 32 << 20 // octets that wait in memory; the rest waits in the store
	eventCost     = 160      // octets of a message beside its own, on the wire and in memory
	readChunk     = 256      // messages read from the store at a time
	hungryLanes   = 64       // rooms read from the store for one request

	firstRefusal = 20 * time.Millisecond // until a room that was refused is tried again; it doubles
	longestStale = time.Second           // its end, while the peer only waits for an epoch to open
	longestNo    = time.Minute           // its end otherwise
)

// A lane is the way of one room's messages to one peer: those that our own users
// sent, in the order of our log, one request at a time. A lane that could not hold
// everything in memory is behind, and reads the log.
type lane struct {
	room   core.RoomID
	log    uint64           // incarnation of our log
	stored uint64           // the peer has our log up to here
	saved  uint64           // stored, as the store has it
	sent   uint64           // the last message in a request
	seen   uint64           // the last place queued, or read from the log
	head   uint64           // the last place offered
	queue  []core.PeerEvent // Prev is set when they leave
	behind bool
	busy   bool // in a request
	lined  bool // in ready or later
	dirty  bool // in lanes.unsaved
	shut   bool // the peer has left the room
	vetted bool // our log has what the peer says it has
	wait   time.Duration
	due    time.Time
}

// lanes are all rooms shared with one peer.
type lanes struct {
	p    *peer
	wake chan struct{}

	mu      sync.Mutex
	byRoom  map[core.RoomID]*lane
	ready   []*lane // have something to send
	later   []*lane // were refused, and wait
	unsaved []*lane
	queued  int // octets in all queues
	refused patience
	until   time.Time // no batch before, because one was refused
}

func newLanes(p *peer) *lanes {
	return &lanes{p: p, wake: make(chan struct{}, 1), byRoom: map[core.RoomID]*lane{}}
}

// open begins a lane behind at: what the log has beyond it is read first. One that
// is open already stays as it is.
func (l *lanes) open(room core.RoomID, at, log uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.byRoom[room]
	if n == nil {
		n = &lane{room: room, stored: at, saved: at, sent: at, seen: at, behind: true}
		l.byRoom[room] = n
	}
	n.shut, n.log = false, max(n.log, log)
	l.lineUp(n)
}

// shut ends the lane of a room that the peer has left.
func (l *lanes) shut(room core.RoomID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := l.byRoom[room]; n != nil {
		l.clear(n)
		n.shut, n.behind = true, false
		delete(l.byRoom, room)
	}
}

// forget drops the lanes that have nothing to do.
func (l *lanes) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for room, n := range l.byRoom {
		if !n.busy && !n.lined && !n.dirty && !n.behind && len(n.queue) == 0 {
			delete(l.byRoom, room)
		}
	}
}

// shared reports whether a room is shared with the peer.
func (l *lanes) shared() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.byRoom) > 0
}

// offer hands over a message that was just committed; false if the room has no lane
// and must be looked up.
func (l *lanes) offer(e *core.Event, message []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.byRoom[e.Room]
	if n == nil {
		return false
	}
	n.head = max(n.head, e.Seq)
	if n.behind || e.Seq <= n.seen {
		return true
	}
	if cost := len(message) + eventCost; l.queued+cost <= maxLanesQueue {
		n.queue = append(n.queue, core.PeerEvent{Seq: e.Seq, Accepted: e.Accepted.UnixMilli(), Sender: e.Sender, Message: message})
		n.seen = e.Seq
		l.queued += cost
	} else {
		n.behind = true
	}
	l.lineUp(n)
	return true
}

// lineUp puts a lane where the worker finds it, if it has something to send.
func (l *lanes) lineUp(n *lane) {
	if n.busy || n.lined || n.shut || !n.behind && len(n.queue) == 0 {
		return
	}
	n.lined = true
	if n.due.After(l.p.f.cfg.Now()) {
		l.later = append(l.later, n)
	} else {
		l.ready = append(l.ready, n)
	}
	poke(l.wake)
}

// clear empties a lane's queue.
func (l *lanes) clear(n *lane) {
	for i := range n.queue {
		l.queued -= len(n.queue[i].Message) + eventCost
	}
	n.queue = nil
}

// A batch is one request: parts of lanes, in the order of its rooms.
type batch struct {
	lanes  []*lane
	rooms  []wire.RoomEvents
	octets int
	count  int
}

// add puts a message into the last room; false if the batch or the room is full.
func (b *batch) add(e core.PeerEvent, prev uint64) bool {
	r := &b.rooms[len(b.rooms)-1]
	cost := len(e.Message) + eventCost
	if b.count > 0 && b.octets+cost > maxBatch || len(r.Events) >= maxLaneEvents {
		return false
	}
	e.Prev = prev
	r.Events = append(r.Events, e)
	b.octets += cost
	b.count++
	return true
}

func (b *batch) full() bool { return b.octets >= maxBatch-eventCost || len(b.rooms) >= maxBatchLanes }

func (b *batch) begin(n *lane) {
	b.lanes = append(b.lanes, n)
	b.rooms = append(b.rooms, wire.RoomEvents{Room: n.room, Log: n.log})
}

// take fills a batch from the queues in memory. hungry lanes, which are busy from
// now on, are to be read from the store; wait is how long the next one has to.
func (l *lanes) take() (b batch, hungry []*lane, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	wait = time.Hour
	now := l.p.f.cfg.Now()
	later := l.later[:0]
	for _, n := range l.later {
		if d := n.due.Sub(now); d > 0 {
			later, wait = append(later, n), min(wait, d)
		} else {
			l.ready = append(l.ready, n)
		}
	}
	clear(l.later[len(later):])
	l.later = later
	for len(l.ready) > 0 && !b.full() && len(hungry) < hungryLanes {
		n := l.ready[0]
		l.ready, n.lined = l.ready[1:], false
		if n.shut {
			continue
		}
		if len(n.queue) == 0 && !n.behind {
			continue
		}
		n.busy = true
		if len(n.queue) == 0 {
			hungry = append(hungry, n)
			continue
		}
		l.takeQueue(&b, n)
	}
	if len(l.ready) == 0 {
		l.ready = nil
	}
	return b, hungry, wait
}

func (l *lanes) takeQueue(b *batch, n *lane) {
	b.begin(n)
	i := 0
	for ; i < len(n.queue) && b.add(n.queue[i], n.sent); i++ {
		n.sent = n.queue[i].Seq
		l.queued -= len(n.queue[i].Message) + eventCost
		n.queue[i] = core.PeerEvent{}
	}
	if n.queue = n.queue[i:]; len(n.queue) == 0 {
		n.queue = nil
	}
}

// read adds what the log has for the hungry lanes, as far as the batch goes.
func (l *lanes) read(ctx context.Context, b *batch, hungry []*lane) error {
	return l.p.f.gw.View(ctx, func(r core.Reader) error {
		for _, n := range hungry {
			if b.full() {
				l.release(n)
				continue
			}
			if err := l.readLane(r, b, n); err != nil {
				return err
			}
		}
		return nil
	})
}

// readLane reads one lane's part. Nobody else touches sent and seen of a lane that
// is busy and behind.
func (l *lanes) readLane(r core.Reader, b *batch, n *lane) error {
	l.mu.Lock()
	b.begin(n)
	l.mu.Unlock()
	room := &b.rooms[len(b.rooms)-1]
	seen, sent, end := n.seen, n.sent, false
	for full := false; !full && !end; {
		es, err := r.Events(n.room, core.Range{After: seen, Limit: readChunk})
		if err != nil {
			return err
		}
		for i := range es {
			if e, ok := ownMessage(&es[i]); ok {
				if full = !b.add(e, sent); full {
					break
				}
				sent = e.Seq
			}
			seen = es[i].Seq
		}
		end = !full && len(es) < readChunk
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n.seen, n.sent = seen, sent
	if end && n.head <= seen {
		n.behind = false
	}
	if len(room.Events) == 0 { // nothing of ours: it needs no request
		b.lanes, b.rooms = b.lanes[:len(b.lanes)-1], b.rooms[:len(b.rooms)-1]
		n.busy = false
		l.lineUp(n)
	}
	return nil
}

// release gives a lane back that nothing was taken from.
func (l *lanes) release(n *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n.busy = false
	l.lineUp(n)
}

// rewind has everything after stored read again.
func (l *lanes) rewind(n *lane) {
	l.clear(n)
	n.sent, n.seen, n.behind = n.stored, n.stored, !n.shut
}

// fail takes back a batch that had no answer.
func (l *lanes) fail(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range b.lanes {
		l.rewind(n)
		n.busy = false
		l.lineUp(n)
	}
}

// settle takes an answer: how far each room is stored.
func (l *lanes) settle(b *batch, answer []wire.RoomStored) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, n := range b.lanes {
		a, before := answer[i], n.stored
		n.stored = min(a.Seq, n.sent) // what the peer has beyond it was sent before, see vet
		if c := core.CodeNamed(a.Code); a.Code != "" && c != core.Conflict {
			n.stored = max(n.stored, before) // refused: that says nothing of what it has
		}
		if n.stored > before {
			n.wait = 0
		}
		if n.stored < n.sent {
			longest := longestNo
			switch core.CodeNamed(a.Code) {
			case core.StaleEpoch, core.Conflict:
				longest = longestStale
			}
			n.wait = min(max(2*n.wait, firstRefusal), longest)
			n.due = l.p.f.cfg.Now().Add(n.wait)
			l.rewind(n)
		}
		if n.stored != n.saved && !n.dirty && !n.shut {
			n.dirty = true
			l.unsaved = append(l.unsaved, n)
			poke(l.p.f.dirty)
		}
		n.busy = false
		l.lineUp(n)
	}
}

// run carries messages until ctx ends.
func (l *lanes) run(ctx context.Context) {
	slots := make(chan struct{}, l.p.f.fc.Limits.InFlight)
	var flying sync.WaitGroup
	defer flying.Wait()
	for l.p.ready(ctx) && l.pause(ctx) {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		b, hungry, wait := l.take()
		if len(hungry) > 0 {
			if err := l.read(ctx, &b, hungry); err != nil {
				l.giveBack(ctx, &b, hungry, err)
				<-slots
				continue
			}
		}
		if len(b.rooms) == 0 {
			<-slots
			if len(hungry) == 0 {
				rest(ctx, l.wake, wait)
			}
			continue
		}
		flying.Go(func() {
			defer func() { <-slots }()
			l.ship(ctx, &b)
		})
	}
}

// pause waits while batches are refused; false when ctx has ended.
func (l *lanes) pause(ctx context.Context) bool {
	for ctx.Err() == nil {
		l.mu.Lock()
		wait := l.until.Sub(l.p.f.cfg.Now())
		l.mu.Unlock()
		if wait <= 0 {
			return true
		}
		rest(ctx, l.wake, wait)
	}
	return false
}

// giveBack undoes a take whose reading failed.
func (l *lanes) giveBack(ctx context.Context, b *batch, hungry []*lane, err error) {
	l.fail(&batch{lanes: append(b.lanes, hungry...)})
	if ctx.Err() == nil {
		l.p.f.log.Error("log unreadable", "err", err)
		rest(ctx, nil, time.Second)
	}
}

// ship sends one batch.
func (l *lanes) ship(ctx context.Context, b *batch) {
	ctx, cancel := context.WithTimeout(ctx, bulkTime)
	defer cancel()
	text, err := l.p.post(ctx, l.p.bulk, "events", appendEvents(make([]byte, 0, b.octets+len(b.rooms)*64+64), b.rooms), maxAnswer)
	var answer wire.Stored
	if err == nil {
		if err = cborIn.Unmarshal(text, &answer); err == nil && !fits(answer.Rooms, b.rooms) {
			err = core.Errorf(core.Unavailable, "that homeserver's answer is about other rooms")
		}
		if err != nil {
			l.p.tell(away(err))
		}
	} else if !core.Temporary(err) {
		l.p.tell(core.Errorf(core.Unavailable, "refused: %w", err)) // for the operator to see
	}
	l.mu.Lock()
	l.until = l.p.f.cfg.Now().Add(l.refused.after(err))
	l.mu.Unlock()
	if err == nil {
		err = l.vet(ctx, b, answer.Rooms)
	}
	if err == nil {
		err = l.keepPassed(ctx, b, answer.Rooms)
	}
	if err != nil {
		l.fail(b)
		return
	}
	l.settle(b, answer.Rooms)
	l.p.f.metrics.sent.WithLabelValues(l.p.domain, "events").Add(float64(b.count))
}

// keepPassed writes down what the peer passed over, with how far it is, before
// anything else is sent: a batch that begins behind it tells the peer that it is known
// here. A failure is no matter of the peer's: it names them again.
func (l *lanes) keepPassed(ctx context.Context, b *batch, answer []wire.RoomStored) error {
	var ins []core.Input
	for i := range answer {
		a, asked := &answer[i], b.rooms[i].Events
		if len(a.Passed) > 0 && len(asked) > 0 {
			seq := min(a.Seq, asked[len(asked)-1].Seq)
			ins = append(ins, core.PeerStored{Peer: l.p.domain, Room: a.Room, Seq: seq, Passed: a.Passed[:min(len(a.Passed), core.MaxPassed)]})
		}
	}
	if len(ins) == 0 {
		return nil
	}
	_, errs, err := l.p.f.gw.DoAll(context.WithoutCancel(ctx), ins...)
	for _, e := range errs {
		err = cmp.Or(err, e)
	}
	if err != nil && ctx.Err() == nil {
		l.p.f.log.Error("what a peer passed over is not stored", "peer", l.p.domain, "err", err)
		rest(ctx, nil, time.Second)
	}
	return err
}

func fits(answer []wire.RoomStored, asked []wire.RoomEvents) bool {
	if len(answer) != len(asked) {
		return false
	}
	for i := range asked {
		if answer[i].Room != asked[i].Room {
			return false
		}
	}
	return true
}
