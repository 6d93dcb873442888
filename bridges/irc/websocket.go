package irc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// Subprotocols of IRC over WebSocket
// (https://ircv3.net/specs/extensions/websocket): one line without CR LF in
// each message, as text or binary frames.
const (
	wsText   = "text.ircv3.net"
	wsBinary = "binary.ircv3.net"
)

// Bounds of a WebSocket connection.
const (
	maxWSMessage  = 16384            // octets: past the longest line, which the session then refuses in IRC's words
	wsWriteMax    = 30 * time.Second // one write, if the session set no deadline
	maxWSPartLine = 16384            // octets of a line that is not complete yet
)

// upgrade makes a WebSocket of a request and returns it as a connection that
// carries lines. It has answered the request if it fails.
func upgrade(w http.ResponseWriter, r *http.Request, origins []string, hold *webConn) (net.Conn, error) {
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:    wsWanted(r),
		OriginPatterns:  origins,
		CompressionMode: websocket.CompressionDisabled, // no shared secrets in a compressed stream, and less memory
	})
	if err != nil {
		return nil, err
	}
	return newLineSocket(ws, hold), nil
}

// wsWanted returns the first subprotocol that the client names and we know: its
// order is its preference (RFC 6455 §4.1).
func wsWanted(r *http.Request) []string {
	for p := range strings.SplitSeq(strings.Join(r.Header.Values("Sec-WebSocket-Protocol"), ","), ",") {
		if p = strings.TrimSpace(p); p == wsText || p == wsBinary {
			return []string{p}
		}
	}
	return nil
}

// A lineSocket makes a WebSocket look like a stream of lines ending in CR LF. A
// read that reaches its deadline leaves it intact, which the library alone does
// not: that is why a goroutine reads ahead by one message.
type lineSocket struct {
	ws     *websocket.Conn
	kind   websocket.MessageType
	hold   *webConn // below ws, if it is ours: gathers frames; else nil
	ctx    context.Context
	cancel context.CancelFunc

	in    chan []byte // lines with CR LF
	rest  []byte      // unread part of the last one
	ended chan struct{}
	err   error // why, once ended is closed

	readBy deadline

	wmu  sync.Mutex // of writers
	part []byte     // start of a line whose end has not been written

	dmu     sync.Mutex // of the next two
	writeBy time.Time
	cut     *time.Timer // ends the write that is under way; nil without one
}

func newLineSocket(ws *websocket.Conn, hold *webConn) *lineSocket {
	s := &lineSocket{ws: ws, hold: hold, kind: websocket.MessageText, in: make(chan []byte), ended: make(chan struct{})}
	if ws.Subprotocol() == wsBinary {
		s.kind = websocket.MessageBinary
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.readBy.ch = make(chan struct{})
	ws.SetReadLimit(maxWSMessage)
	go s.pump()
	return s
}

// pump reads messages until the connection ends.
func (s *lineSocket) pump() {
	defer close(s.ended)
	for {
		_, msg, err := s.ws.Read(s.ctx)
		if err != nil {
			s.err = io.EOF
			if websocket.CloseStatus(err) == -1 && s.ctx.Err() == nil {
				s.err = err
			}
			return
		}
		line, ok := oneLine(msg)
		if !ok {
			s.err = errors.New("several lines in one WebSocket message")
			s.ws.Close(websocket.StatusPolicyViolation, "one line in each message")
			return
		}
		if len(line) == 0 {
			continue
		}
		select {
		case s.in <- line:
		case <-s.ctx.Done():
			s.err = net.ErrClosed
			return
		}
	}
}

// oneLine returns msg with CR LF. A line end that a client left on is taken; a
// second line is not.
func oneLine(msg []byte) ([]byte, bool) {
	msg = bytes.TrimSuffix(msg, []byte("\n"))
	msg = bytes.TrimSuffix(msg, []byte("\r"))
	if bytes.IndexByte(msg, '\n') >= 0 {
		return nil, false
	}
	if len(msg) == 0 {
		return nil, true
	}
	return append(msg, '\r', '\n'), true
}

func (s *lineSocket) Read(b []byte) (int, error) {
	if len(s.rest) == 0 {
		select {
		case s.rest = <-s.in:
		case <-s.ended:
			return 0, s.err
		case <-s.readBy.passed():
			return 0, os.ErrDeadlineExceeded
		}
	}
	n := copy(b, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// Write sends each complete line as one message; the rest waits for its end.
func (s *lineSocket) Write(b []byte) (int, error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.startWrite(cancel)
	defer s.endWrite()
	if s.hold == nil {
		return s.writeLines(ctx, b)
	}
	s.hold.hold()
	n, err := s.writeLines(ctx, b)
	if ferr := s.hold.flush(); err == nil {
		err = ferr
	}
	return n, err
}

// startWrite arranges that the write ends at its deadline, which may be moved
// meanwhile. A connection whose write was cut off is of no more use.
func (s *lineSocket) startWrite(cancel func()) {
	s.dmu.Lock()
	defer s.dmu.Unlock()
	by := s.writeBy
	if by.IsZero() {
		by = time.Now().Add(wsWriteMax)
	}
	s.cut = time.AfterFunc(time.Until(by), func() {
		cancel()
		if s.hold != nil {
			s.hold.SetWriteDeadline(time.Unix(1, 0))
		}
	})
}

func (s *lineSocket) endWrite() {
	s.dmu.Lock()
	defer s.dmu.Unlock()
	s.cut.Stop()
	s.cut = nil
}

func (s *lineSocket) writeLines(ctx context.Context, b []byte) (int, error) {
	done := 0
	for done < len(b) {
		end := bytes.IndexByte(b[done:], '\n')
		if end < 0 {
			if len(s.part)+len(b)-done > maxWSPartLine {
				return done, errors.New("line without end")
			}
			s.part = append(s.part, b[done:]...)
			return len(b), nil
		}
		line := b[done : done+end]
		if len(s.part) > 0 {
			line = append(s.part, line...)
			s.part = nil
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		if s.kind == websocket.MessageText {
			line = bytes.ToValidUTF8(line, []byte("\uFFFD")) // RFC 6455 §5.6; the same slice if valid
		}
		if err := s.ws.Write(ctx, s.kind, line); err != nil {
			return done, err
		}
		done += end + 1
	}
	return done, nil
}

// Close ends the connection, with a closing handshake if the other side answers
// within the library's five seconds; nobody waits for that.
func (s *lineSocket) Close() error {
	go func() {
		s.ws.Close(websocket.StatusNormalClosure, "")
		s.cancel()
	}()
	return nil
}

// LocalAddr and RemoteAddr say nothing: who is there stands in the peer.
func (s *lineSocket) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (s *lineSocket) RemoteAddr() net.Addr { return &net.TCPAddr{} }

func (s *lineSocket) SetDeadline(t time.Time) error {
	s.readBy.set(t)
	return s.SetWriteDeadline(t)
}

func (s *lineSocket) SetReadDeadline(t time.Time) error { s.readBy.set(t); return nil }

// SetWriteDeadline also moves the end of a write that is under way: that is how
// the server gets rid of somebody who does not read.
func (s *lineSocket) SetWriteDeadline(t time.Time) error {
	s.dmu.Lock()
	defer s.dmu.Unlock()
	s.writeBy = t
	if s.cut != nil && !t.IsZero() {
		s.cut.Reset(time.Until(t))
	}
	return nil
}

// A deadline is a channel that closes at a time which can be moved.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	turn  int // of set: a timer of an earlier turn does nothing
	ch    chan struct{}
}

func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.ch
}

// set moves the deadline; whoever waits already waits for the new one, unless
// the old one had passed.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	d.turn++
	select {
	case <-d.ch:
		d.ch = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		close(d.ch)
		return
	}
	turn := d.turn
	d.timer = time.AfterFunc(wait, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if turn == d.turn {
			close(d.ch)
		}
	})
}
