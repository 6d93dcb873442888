package irc

import (
	"context"
	"sync"
	"syscall"
	"time"
)

// A flusher writes for many queues from one goroutine, in passes: what arrives
// for a queue while the others of a pass are written goes out in one call in the
// next. On two cores that costs a third less than a goroutine for each queue,
// because almost all of the cost is the number of calls. It never waits for a
// socket: one that is full gets a goroutine of its own until it has caught up.
type flusher struct {
	mu      sync.Mutex
	dirty   []*sendQueue
	stopped bool
	wake    chan struct{}

	pass []*sendQueue // the flusher's own, as all below
	buf  []byte
	n    int
	err  error
	try  func(fd uintptr) bool
}

func newFlusher() *flusher {
	f := &flusher{wake: make(chan struct{}, 1)}
	f.try = f.tryWrite
	return f
}

// add puts q, which has something waiting, in line; false if it has to write
// for itself.
func (f *flusher) add(q *sendQueue) bool {
	if f == nil || q.raw == nil {
		return false
	}
	f.mu.Lock()
	if f.stopped {
		f.mu.Unlock()
		return false
	}
	f.dirty = append(f.dirty, q)
	first := len(f.dirty) == 1
	f.mu.Unlock()
	if first {
		select {
		case f.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// run writes until ctx ends; queues write for themselves afterwards.
func (f *flusher) run(ctx context.Context) {
	for {
		select {
		case <-f.wake:
			f.flushAll()
		case <-ctx.Done():
			f.mu.Lock()
			f.stopped = true
			f.mu.Unlock()
			f.flushAll()
			return
		}
	}
}

// After a pass over many queues the flusher waits for a part of the time that
// the pass took. Whoever is at its end has waited four times as long already, and
// what arrives meanwhile makes the next pass carry more lines per call.
const (
	longPass = 128 // queues
	maxPause = time.Millisecond
)

func (f *flusher) flushAll() {
	began := time.Now()
	for {
		f.mu.Lock()
		f.pass, f.dirty = f.dirty, f.pass[:0]
		f.mu.Unlock()
		if len(f.pass) == 0 {
			return
		}
		for i, q := range f.pass {
			f.flush(q)
			f.pass[i] = nil
		}
		if len(f.pass) >= longPass {
			time.Sleep(min(time.Since(began)/4, maxPause))
			began = time.Now()
		}
	}
}

// flush writes what waits in q, as far as its socket takes it now.
func (f *flusher) flush(q *sendQueue) {
	q.mu.Lock()
	batch := q.waiting
	q.waiting, q.spare = q.spare, nil
	q.mu.Unlock()
	f.buf = f.buf[:0]
	for _, c := range batch {
		f.buf = append(f.buf, c.b...)
	}
	done(batch)
	err := q.raw.Write(f.try)
	if err == nil {
		err = f.err
	}
	q.mu.Lock()
	if cap(batch) <= keepWaiting {
		q.spare = batch[:0]
	}
	switch {
	case err != nil && err != syscall.EAGAIN:
		q.waiting, q.size, q.ending, q.writing = nil, 0, true, false
		q.mu.Unlock()
		q.conn.Close()
	case f.n < len(f.buf): // a slow reader: it must not hold up the others
		q.size -= f.n
		q.mu.Unlock()
		go q.write(append([]byte(nil), f.buf[f.n:]...))
	case len(q.waiting) > 0:
		q.size -= f.n
		q.mu.Unlock()
		if !f.add(q) {
			go q.write(nil)
		}
	default:
		q.size -= f.n
		q.writing = false
		ending := q.ending
		q.mu.Unlock()
		if ending {
			q.conn.Close()
		}
	}
	if cap(f.buf) > maxFlushBuffer {
		f.buf = nil
	}
}

// maxFlushBuffer bounds what the flusher keeps between writes.
const maxFlushBuffer = 1 << 20

// tryWrite writes once without waiting. A call always counts as done: the poller
// is never asked to wait for this socket.
func (f *flusher) tryWrite(fd uintptr) bool {
	f.n, f.err = 0, nil
	for f.n < len(f.buf) {
		n, err := syscall.Write(int(fd), f.buf[f.n:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			f.err = err
			return true
		}
		f.n += n
	}
	return true
}
