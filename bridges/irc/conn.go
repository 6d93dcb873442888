package irc

import (
	"bytes"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// Sizes of read buffers. An idle TCP connection keeps none: it waits for its
// socket to be readable and takes a large one then. What is wrapped (TLS,
// WebSocket) cannot wait that way and keeps a small one.
const (
	smallRead = 512
	largeRead = maxLine
)

// A lineReader cuts what a connection sends into lines. Its buffer is bounded:
// what does not fit before a line end is dropped up to the next, once reported.
type lineReader struct {
	conn net.Conn
	raw  syscall.RawConn // nil if conn is not a TCP socket
	try  func(fd uintptr) bool
	n    int // what try read
	err  error

	buf  []byte // unread: buf[r:w]
	r, w int
	seen int  // buf[r:seen] has no line end
	skip bool // inside a line that is too long
}

func newLineReader(c net.Conn) *lineReader {
	lr := &lineReader{conn: c}
	if t, ok := c.(*net.TCPConn); ok {
		if raw, err := t.SyscallConn(); err == nil {
			lr.raw, lr.try = raw, lr.tryRead
		}
	}
	return lr
}

// tryRead reads if something is there; false lets the poller wait for more.
func (lr *lineReader) tryRead(fd uintptr) bool {
	if lr.buf == nil {
		lr.buf = *largeBuffers.Get().(*[]byte)
	}
	for {
		lr.n, lr.err = syscall.Read(int(fd), lr.buf[lr.w:])
		if lr.err != syscall.EINTR {
			break
		}
	}
	if lr.n >= 0 && lr.err == nil {
		return true
	}
	lr.n = 0
	if lr.err != syscall.EAGAIN {
		return true
	}
	if lr.w == 0 {
		lr.giveBack()
	}
	return false
}

func (lr *lineReader) giveBack() {
	if cap(lr.buf) == largeRead {
		b := lr.buf[:largeRead]
		largeBuffers.Put(&b)
	}
	lr.buf = nil
}

var largeBuffers = sync.Pool{New: func() any { b := make([]byte, largeRead); return &b }}

// next returns the next complete line that is in the buffer, without its line
// end; it is good until the next call of fill. errLongLine stands for a line
// that did not fit; ok is false when more must be read.
func (lr *lineReader) next() (line []byte, ok bool, err error) {
	for {
		i := bytes.IndexByte(lr.buf[lr.seen:lr.w], '\n')
		if i < 0 {
			lr.seen = lr.w
			if lr.w-lr.r < maxLine {
				return nil, false, nil
			}
			first := !lr.skip
			lr.r, lr.w, lr.seen, lr.skip = 0, 0, 0, true
			if first {
				return nil, true, errLongLine
			}
			return nil, false, nil
		}
		line, end := lr.buf[lr.r:lr.seen+i], lr.seen+i+1
		lr.r, lr.seen = end, end
		if lr.skip {
			lr.skip = false
			continue
		}
		return line, true, nil
	}
}

// buffered reports how many octets wait that next has not returned.
func (lr *lineReader) buffered() int { return lr.w - lr.r }

// fill reads once, into a buffer of at most limit octets.
func (lr *lineReader) fill(limit int) error {
	lr.makeRoom(limit)
	if lr.raw == nil {
		n, err := lr.conn.Read(lr.buf[lr.w:])
		lr.w += n
		if n > 0 {
			return nil
		}
		return err
	}
	if err := lr.raw.Read(lr.try); err != nil {
		return err
	}
	if lr.n == 0 && lr.err == nil {
		return io.EOF
	}
	lr.w += lr.n
	return lr.err
}

func (lr *lineReader) makeRoom(limit int) {
	if lr.r == lr.w {
		full := lr.w > 0 && lr.w == len(lr.buf)
		lr.r, lr.w, lr.seen = 0, 0, 0
		switch {
		case lr.raw != nil:
			if len(lr.buf) > largeRead {
				lr.buf = nil
			}
		case full && len(lr.buf) == smallRead: // there is probably more at once
			lr.buf = *largeBuffers.Get().(*[]byte)
		case len(lr.buf) != smallRead && !full:
			lr.giveBack()
			lr.buf = make([]byte, smallRead)
		}
		return
	}
	if lr.r > 0 {
		copy(lr.buf, lr.buf[lr.r:lr.w])
		lr.w, lr.seen, lr.r = lr.w-lr.r, lr.seen-lr.r, 0
	}
	if lr.w < len(lr.buf) {
		return
	}
	var b []byte
	if len(lr.buf) < largeRead {
		b = *largeBuffers.Get().(*[]byte)
	} else {
		b = make([]byte, min(2*len(lr.buf), max(limit, len(lr.buf)+1)))
	}
	copy(b, lr.buf[:lr.w])
	lr.buf = b
}

// A sendQueue holds the lines that one connection has not been sent yet: slices
// that several queues may share, so nobody changes them. It never blocks whoever
// puts something in.
type sendQueue struct {
	conn  net.Conn
	raw   syscall.RawConn // of a TCP socket: flush can write what the kernel takes at once
	flush *flusher        // nil = a goroutine of this queue's own writes
	max   int             // octets that may wait

	mu      sync.Mutex
	waiting []chunk
	spare   []chunk // the slice that waiting had before, to be used again
	size    int     // octets waiting or being written
	writing bool    // somebody is about to write: the flusher, or a goroutine
	ending  bool    // takes nothing more; closed once empty
	over    bool    // why it ends: more than max waited
}

// A chunk is some lines; own is the buffer behind b if nobody else uses it.
type chunk struct {
	b   []byte
	own *[]byte
}

// outSize is the capacity of the buffers that sessions write their replies to.
const outSize = 4 << 10

var outBuffers = sync.Pool{New: func() any { b := make([]byte, 0, outSize); return &b }}

// done gives the buffers of what was sent back.
func done(batch []chunk) {
	for i, c := range batch {
		if c.own != nil && cap(c.b) == outSize {
			*c.own = c.b[:0]
			outBuffers.Put(c.own)
		}
		batch[i] = chunk{}
	}
}

// push puts b, which nobody changes any more, in the queue. It reports false if
// the queue has ended, which a push over the bound makes it.
func (q *sendQueue) push(b []byte) bool { return q.pushChunk(chunk{b: b}) }

func (q *sendQueue) pushChunk(c chunk) bool {
	b := c.b
	q.mu.Lock()
	if q.ending {
		q.mu.Unlock()
		return false
	}
	if q.size+len(b) > q.max {
		q.overflow()
		q.mu.Unlock()
		return false
	}
	q.waiting = append(q.waiting, c)
	q.size += len(b)
	start := !q.writing
	q.writing = true
	q.mu.Unlock()
	if start && !q.flush.add(q) {
		go q.write(nil)
	}
	return true
}

// lastWords is how long a connection that is being closed has to take the
// reason.
const lastWords = time.Second

// overflow drops what waits and says why, as far as the client still listens.
func (q *sendQueue) overflow() {
	q.over = true
	q.waiting = append(q.waiting[:0], chunk{b: []byte("ERROR :Closing link: SendQ exceeded: you read too slowly\r\n")})
	q.finish()
}

// end closes the connection after what waits and last were written.
func (q *sendQueue) end(last []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ending {
		return
	}
	if len(last) > 0 {
		q.waiting = append(q.waiting, chunk{b: last})
		q.size += len(last)
	}
	q.finish()
}

func (q *sendQueue) finish() {
	q.ending = true
	start := !q.writing
	q.writing = true
	go func() {
		q.conn.SetWriteDeadline(time.Now().Add(lastWords))
		if start && !q.flush.add(q) {
			q.write(nil)
		}
	}()
}

// write sends rest, which is counted still, and then what waits until nothing
// does. One runs per queue at a time, and none for an idle connection.
func (q *sendQueue) write(rest []byte) {
	if len(rest) > 0 {
		q.mu.Lock()
		q.waiting = append([]chunk{{b: rest}}, q.waiting...)
		q.mu.Unlock()
	}
	for {
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.writing = false
			ending := q.ending
			q.mu.Unlock()
			if ending {
				q.conn.Close()
			}
			return
		}
		batch := q.waiting
		q.waiting, q.spare = q.spare, nil
		q.mu.Unlock()

		n, err := q.send(batch)
		done(batch)

		q.mu.Lock()
		q.size -= n
		if cap(batch) <= keepWaiting {
			q.spare = batch[:0]
		}
		if err != nil {
			q.waiting, q.size, q.ending, q.writing = nil, 0, true, false
			q.mu.Unlock()
			q.conn.Close()
			return
		}
		q.mu.Unlock()
	}
}

// keepWaiting bounds the slots a queue keeps while it is empty.
const keepWaiting = 16

// gatherSize is what one write call carries at most.
const gatherSize = 32 << 10

var gatherBuffers = sync.Pool{New: func() any { b := make([]byte, 0, gatherSize); return &b }}

// send writes batch in as few calls as possible and returns its size.
func (q *sendQueue) send(batch []chunk) (size int, err error) {
	if len(batch) == 1 {
		_, err = q.conn.Write(batch[0].b)
		return len(batch[0].b), err
	}
	p := gatherBuffers.Get().(*[]byte)
	buf := (*p)[:0]
	for _, c := range batch {
		b := c.b
		size += len(b)
		if err != nil {
			continue
		}
		if len(buf)+len(b) > gatherSize && len(buf) > 0 {
			_, err = q.conn.Write(buf)
			buf = buf[:0]
		}
		if len(b) > gatherSize && err == nil {
			_, err = q.conn.Write(b)
			continue
		}
		buf = append(buf, b...)
	}
	if err == nil && len(buf) > 0 {
		_, err = q.conn.Write(buf)
	}
	*p = buf[:0]
	gatherBuffers.Put(p)
	return size, err
}
