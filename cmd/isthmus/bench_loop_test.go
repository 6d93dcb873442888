//go:build bench

package main_test

import (
	"bytes"
	"fmt"
	"syscall"
	"time"
)

// The load generator shares two cores with the server it measures, so it is one
// goroutine over epoll and raw sockets: a buffered reader and a goroutine for
// each of a thousand clients would cost more than some of the servers do.

const (
	maxEvents  = 512      // sockets answered per wait
	maxRead    = 64 << 10 // octets per read: a window of lines fits
	maxPartial = 64 << 10 // octets of an unfinished line: tags and text fit many times
)

// A client is one socket of the generator.
type client struct {
	fd      int
	id      int
	open    bool   // the connect has succeeded
	out     []byte // what the kernel did not take yet
	partial []byte // start of a line whose end has not come, in line mode
	data    func(c *client, b []byte)
	line    func(c *client, line []byte)
}

// A loop waits for many clients at once. Its lines is how many line ends came
// in to clients that have no function of their own.
type loop struct {
	ep      int
	clients map[int32]*client
	lines   int
	err     error
	events  [maxEvents]syscall.EpollEvent
	scratch [maxRead]byte
}

func newLoop() (*loop, error) {
	ep, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	return &loop{ep: ep, clients: map[int32]*client{}}, nil
}

func (l *loop) close() {
	for _, c := range l.clients {
		l.drop(c)
	}
	syscall.Close(l.ep)
}

// drop resets the connection, which leaves no port waiting.
func (l *loop) drop(c *client) {
	if _, ok := l.clients[int32(c.fd)]; !ok {
		return
	}
	delete(l.clients, int32(c.fd))
	syscall.SetsockoptLinger(c.fd, syscall.SOL_SOCKET, syscall.SO_LINGER, &syscall.Linger{Onoff: 1})
	syscall.Close(c.fd)
}

// dial starts a connection to 127.0.0.1:port.
func (l *loop) dial(id, port int) (*client, error) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_NONBLOCK|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socket %d: %w", id, err)
	}
	c := &client{fd: fd, id: id}
	syscall.SetsockoptInt(fd, syscall.IPPROTO_TCP, syscall.TCP_NODELAY, 1)
	err = syscall.Connect(fd, &syscall.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}})
	if err != nil && err != syscall.EINPROGRESS {
		syscall.Close(fd)
		return nil, fmt.Errorf("connect %d: %w", id, err)
	}
	ev := syscall.EpollEvent{Events: syscall.EPOLLIN | syscall.EPOLLOUT, Fd: int32(fd)}
	if err := syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_ADD, fd, &ev); err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("epoll add: %w", err)
	}
	l.clients[int32(fd)] = c
	return c, nil
}

func (l *loop) want(c *client, events uint32) {
	ev := syscall.EpollEvent{Events: events, Fd: int32(c.fd)}
	if err := syscall.EpollCtl(l.ep, syscall.EPOLL_CTL_MOD, c.fd, &ev); err != nil {
		l.fail(c, err)
	}
}

func (l *loop) fail(c *client, err error) {
	if l.err == nil {
		l.err = fmt.Errorf("client %d: %w", c.id, err)
	}
}

// send writes s now, or as soon as the kernel takes it.
func (l *loop) send(c *client, s string) {
	if !c.open || len(c.out) > 0 {
		c.out = append(c.out, s...)
		return
	}
	n, err := syscall.Write(c.fd, []byte(s))
	if err == syscall.EAGAIN {
		n, err = 0, nil
	}
	if err != nil {
		l.fail(c, err)
		return
	}
	if n < len(s) {
		c.out = append(c.out, s[n:]...)
		l.want(c, syscall.EPOLLIN|syscall.EPOLLOUT)
	}
}

func (l *loop) flush(c *client) {
	if !c.open {
		if e, err := syscall.GetsockoptInt(c.fd, syscall.SOL_SOCKET, syscall.SO_ERROR); err != nil || e != 0 {
			l.fail(c, fmt.Errorf("connect: %w", syscall.Errno(e)))
			return
		}
		c.open = true
	}
	if len(c.out) > 0 {
		n, err := syscall.Write(c.fd, c.out)
		if err != nil && err != syscall.EAGAIN {
			l.fail(c, err)
			return
		}
		c.out = c.out[:copy(c.out, c.out[max(n, 0):])]
	}
	if len(c.out) == 0 {
		l.want(c, syscall.EPOLLIN)
	}
}

// poll answers what came within wait, and returns the first failure so far.
func (l *loop) poll(wait time.Duration) error {
	n, err := syscall.EpollWait(l.ep, l.events[:], int(wait.Milliseconds()))
	if err != nil && err != syscall.EINTR {
		return fmt.Errorf("epoll wait: %w", err)
	}
	for _, ev := range l.events[:max(n, 0)] {
		c := l.clients[ev.Fd]
		if c == nil {
			continue
		}
		if ev.Events&syscall.EPOLLOUT != 0 {
			l.flush(c)
		}
		if ev.Events&(syscall.EPOLLIN|syscall.EPOLLHUP|syscall.EPOLLERR) != 0 {
			l.read(c)
		}
	}
	return l.err
}

func (l *loop) read(c *client) {
	n, err := syscall.Read(c.fd, l.scratch[:])
	switch {
	case err == syscall.EAGAIN:
		return
	case err != nil:
		l.fail(c, err)
		l.drop(c)
		return
	case n == 0:
		l.fail(c, fmt.Errorf("closed by the server, last said %.200q", c.partial))
		l.drop(c)
		return
	}
	b := l.scratch[:n]
	switch {
	case c.data != nil:
		c.data(c, b)
	case c.line != nil:
		l.split(c, b)
	default:
		l.lines += bytes.Count(b, newline)
	}
}

var newline = []byte{'\n'}

// split gives whole lines to c.line, without their CR LF. PING is answered here.
func (l *loop) split(c *client, b []byte) {
	if len(c.partial) > 0 {
		b = append(c.partial, b...)
	}
	for c.line != nil {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			break
		}
		line := bytes.TrimSuffix(b[:i], []byte{'\r'})
		b = b[i+1:]
		if rest, ok := bytes.CutPrefix(line, []byte("PING ")); ok {
			l.send(c, "PONG "+string(rest)+"\r\n")
			continue
		}
		c.line(c, line)
	}
	if len(b) > maxPartial {
		l.fail(c, fmt.Errorf("a line of over %d octets", maxPartial))
	}
	c.partial = append(c.partial[:0], b...)
}

// until polls until done says so, for at most limit.
func (l *loop) until(limit time.Duration, what string, done func() bool) error {
	for end := time.Now().Add(limit); !done(); {
		if err := l.poll(50 * time.Millisecond); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %v", what, limit)
		}
	}
	return nil
}

// drain polls until nothing has come for quiet, for at most limit.
func (l *loop) drain(quiet, limit time.Duration) error {
	end := time.Now().Add(limit)
	for seen, since := l.lines, time.Now(); time.Since(since) < quiet; {
		if err := l.poll(quiet / 4); err != nil {
			return fmt.Errorf("drain: %w", err)
		}
		if l.lines != seen {
			seen, since = l.lines, time.Now()
		}
		if time.Now().After(end) {
			return fmt.Errorf("drain: still lines after %v", limit)
		}
	}
	return nil
}

// writeAll writes s to a socket whose loop has nothing queued; a full socket is
// waited for.
func writeAll(fd int, s string) {
	for len(s) > 0 {
		n, err := syscall.Write(fd, []byte(s))
		switch {
		case err == syscall.EAGAIN:
			time.Sleep(100 * time.Microsecond)
		case err != nil:
			return // the reading side reports what happened to the socket
		}
		s = s[max(n, 0):]
	}
}
