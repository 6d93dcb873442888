//go:build bench

package main_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

const (
	bulkLanes   = 4    // Groups, each with a sender of its own that has one request open
	bulkBatch   = 1000 // messages of a request
	bulkText    = 1024 // octets that are sealed
	bulkWarm    = 5 * time.Second
	bulkTime    = time.Minute
	bulkArrival = time.Minute // for what is under way when the senders stop
	bulkMark    = 8           // octets
)

// A bulkLane sends into one Group as fast as its homeserver takes it. Homeservers
// cannot open what they carry, so sealing once is enough: the last octets of the
// ciphertext, which nobody here checks, number the messages.
type bulkLane struct {
	from, to *member
	sealed   []byte
	body     []byte
	marks    []int // where they stand in body
	sent     uint64
}

func newBulkLane(hs []*homeserver, i int) (*bulkLane, error) {
	l := &bulkLane{}
	var err error
	for k, m := range []**member{&l.from, &l.to} {
		if *m, err = hs[k].enrol(fmt.Sprint("bulk", i), nil); err == nil {
			err = (*m).login()
		}
		if err != nil {
			return nil, err
		}
	}
	if err := l.from.found(fmt.Sprint("bulk", i), l.to); err != nil {
		return nil, err
	}
	if l.sealed, err = l.from.g.Seal(nil, make([]byte, bulkText), nil); err != nil {
		return nil, err
	}
	copy(l.sealed[len(l.sealed)-2*bulkMark:], "numbered") // found again below
	all := wire.Send{}
	for range bulkBatch {
		all.Messages = append(all.Messages, wire.Message{Sealed: l.sealed})
	}
	if l.body, err = cbor.Marshal(all); err != nil {
		return nil, err
	}
	for at := 0; ; {
		next := bytes.Index(l.body[at:], []byte("numbered"))
		if next < 0 {
			break
		}
		at += next + bulkMark
		l.marks = append(l.marks, at)
	}
	if len(l.marks) != bulkBatch {
		return nil, fmt.Errorf("%d marks in a body of %d messages", len(l.marks), bulkBatch)
	}
	return l, nil
}

// run sends until stop.
func (l *bulkLane) run(stop *atomic.Bool) error {
	for !stop.Load() {
		for i, at := range l.marks {
			binary.BigEndian.PutUint64(l.body[at:], l.sent+uint64(i))
		}
		q, err := http.NewRequest(http.MethodPost, l.from.hs.url("/v1/rooms/"+pathEscape(l.from.room)+"/messages"), bytes.NewReader(l.body))
		if err != nil {
			return err
		}
		q.Header.Set("Content-Type", "application/cbor")
		q.Header.Set("Accept", "application/cbor")
		q.Header.Set("Authorization", "Bearer "+l.from.token)
		a, err := l.from.hs.http.Do(q)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(a.Body)
		a.Body.Close()
		if err == nil && (a.StatusCode != http.StatusOK || bytes.Contains(b, []byte("error"))) {
			err = fmt.Errorf("sending in bulk: %s: %.300q", a.Status, b)
		}
		if err != nil {
			return err
		}
		l.sent += bulkBatch
	}
	return nil
}

// stored is how many events the second homeserver has on disk.
func (l *bulkLane) stored() (uint64, error) {
	r, err := l.to.home.Room(context.Background(), l.to.room)
	return r.Head, err
}

// check reads what the second homeserver has, and counts it: every message, in the
// order in which it was sent.
func (l *bulkLane) check() (n uint64, err error) {
	at := map[core.RoomID]uint64{l.to.room: 0}
	next := ""
	for {
		s, err := l.to.home.Sync(context.Background(), wire.GetSync{Since: next, Rooms: at, Limit: 1000})
		if err != nil {
			return n, err
		}
		for i := range s.Events {
			b := s.Events[i].Sealed
			if len(b) != len(l.sealed) {
				continue // a commit
			}
			if mark := binary.BigEndian.Uint64(b[len(b)-bulkMark:]); mark != n {
				return n, fmt.Errorf("%s: message %d stands where %d belongs", l.to.room, mark, n)
			}
			n++
		}
		if next, at = s.Next, nil; !s.More && len(s.Events) == 0 {
			return n, nil
		}
	}
}

// benchBulk: messages of 1 KiB from devices of one homeserver until they are on disk
// at another.
func benchBulk(t *testing.T, ps []peer, r *report) {
	hs := homeservers(t, ours(t, ps), 2)
	lanes := make([]*bulkLane, bulkLanes)
	each(t, bulkLanes, func(i int) (err error) {
		lanes[i], err = newBulkLane(hs, i)
		return err
	})
	count := func() (sum uint64) {
		for _, l := range lanes {
			n, err := l.stored()
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
		return sum
	}
	var stop atomic.Bool
	var senders sync.WaitGroup
	errs := make([]error, bulkLanes)
	for i, l := range lanes {
		senders.Go(func() { errs[i] = l.run(&stop) })
	}
	time.Sleep(bulkWarm)
	began, first := time.Now(), count()
	cpu := [...]time.Duration{hs[0].cpu(), hs[1].cpu(), ownCPU()}
	time.Sleep(bulkTime)
	stored, took := count()-first, time.Since(began)
	cpu = [...]time.Duration{hs[0].cpu() - cpu[0], hs[1].cpu() - cpu[1], ownCPU() - cpu[2]}
	stop.Store(true)
	senders.Wait()
	var sent, found uint64
	for i, l := range lanes {
		if errs[i] != nil {
			t.Fatalf("%v\n%s", errs[i], hs[0].lastWords())
		}
		sent += l.sent
		for until := time.Now().Add(bulkArrival); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
			if n, err := l.stored(); err != nil || n >= l.sent {
				break
			}
		}
		n, err := l.check()
		if err != nil {
			t.Fatal(err)
		}
		if found += n; n != l.sent {
			t.Fatalf("%d messages of %d have arrived\n%s", n, l.sent, hs[1].lastWords())
		}
	}
	t.Logf("%d stored in %v, %d behind at its end; in all %d sent and found in order; CPU of sender %v, receiver %v, generator %v",
		stored, took, sent-uint64(first)-stored, found, cpu[0], cpu[1], cpu[2])
	r.group("sealed messages of 1 KiB to another homeserver, durable at both, for a minute", "messages/min",
		float64(stored)/took.Minutes(), atLeast(1_500_000), none)
	r.group("the same, CPU of both homeservers a message", "µs", (cpu[0]+cpu[1]).Seconds()*1e6/float64(stored), goal{}, none)
}
