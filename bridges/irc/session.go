package irc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// connInfo is what a listener knows of a connection it accepted.
type connInfo struct {
	addr      netip.Addr
	secure    bool   // TLS, or a trusted gateway says so
	certFP    string // lower-case hex SHA-256 of the client certificate, "" if none
	websocket bool
	place     *ticket // among the connections of its address
}

// Bounds of one session.
const (
	maxPending  = 64        // messages that share one Submit
	maxLabel    = 64        // octets (https://ircv3.net/specs/extensions/labeled-response)
	pushSize    = 8 << 10   // replies beyond this go to the queue before the command ends
	maxCaptured = 256 << 10 // a labelled answer beyond this is sent without its batch
)

// A session is one connection. Its goroutine runs the commands; what other
// goroutines touch is atomic, under mu, or under the world's lock.
type session struct {
	srv   *Server
	ctx   context.Context
	conn  net.Conn
	info  connInfo
	in    *lineReader
	queue sendQueue

	capBits atomic.Uint64
	active  atomic.Int64 // Unix seconds of the last line
	spoke   atomic.Int64 // of the last message: idle time
	pinged  atomic.Bool  // no line since our PING
	joined  int64        // Unix seconds of the connection

	reg     *registration // nil once registered
	user    *user         // set at the welcome, and by become, under the world's lock
	cap302  bool
	account *core.Account // logged in as; nil for guests
	sasl    *saslExchange // made by the first AUTHENTICATE

	out       []byte  // replies that are not in the queue yet
	own       *[]byte // the pooled buffer that out began with, nil if none
	label     string  // of the running command
	labelFrom int
	pending   []pending
	flood     bucket
	over      bool
	why       string // why the session ends
	seed      [16]byte

	batch    *openBatch          // of the client: lines of one message that still come
	watching map[string]string   // MONITOR: folded nick to nick; under the world's lock
	subs     map[string]struct{} // METADATA SUB; under the Server's metaMu
	preMeta  map[string]string   // METADATA SET before registration
	away     absence             // under the world's lock

	mu       sync.Mutex
	inflight []pending // being submitted
	captured []byte    // what Publish answered to the labelled command
}

// pending is a message on its way to the gateway.
type pending struct {
	env             core.Envelope
	command, target string
	label           string
	capture         bool // lines for this session are part of a labelled answer
}

func (s *session) caps() capSet     { return capSet(s.capBits.Load()) }
func (s *session) setCaps(c capSet) { s.capBits.Store(uint64(c)) }

// shownNick is what the client is called in replies.
func (s *session) shownNick() string {
	if s.user != nil {
		return s.user.shown()
	}
	if s.reg != nil && s.reg.nick != "" {
		return s.reg.nick
	}
	return "*"
}

// run reads and obeys until the connection or the session ends.
func (s *session) run() {
	var l line
	for !s.over {
		b, ok, err := s.in.next()
		if !ok {
			s.settle()
			if s.over {
				return
			}
			if err := s.in.fill(maxLine); err != nil {
				s.lost(err)
				return
			}
			continue
		}
		now := time.Now()
		s.active.Store(now.Unix())
		s.pinged.Store(false)
		if err == nil {
			err = l.parse(b)
		}
		cost := 1
		if err != nil {
			s.badLine(&l, err)
		} else {
			cost = s.handle(&l)
		}
		if !s.over {
			s.pace(now, cost)
		}
	}
}

// lost says why reading ended.
func (s *session) lost(err error) {
	s.queue.mu.Lock()
	over := s.queue.over
	s.queue.mu.Unlock()
	switch {
	case over:
		s.why = "SendQ exceeded"
	case s.why != "":
	case s.srv.transport.stopping.Load():
		s.why = "Server is stopping"
	case errors.Is(err, os.ErrDeadlineExceeded) && s.user == nil:
		s.why = "Registration timed out"
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.why = "Ping timeout"
	default:
		s.why = "Connection closed"
	}
}

func (s *session) badLine(l *line, err error) {
	if err == errEmptyLine {
		return
	}
	s.submitPending()
	name := l.command
	if name == "" {
		name = "*"
	}
	switch err {
	case errLongLine:
		s.num("417", "Input line was too long")
	case errUTF8: // https://ircv3.net/specs/extensions/utf8-only
		s.fail(name, "INVALID_UTF8", "Message rejected, your client must use UTF-8 encoding on this network")
	default:
		s.fail(name, "INVALID_LINE", err.Error())
	}
}

// handle runs one command and returns its cost.
func (s *session) handle(l *line) int {
	s.takeBuffer()
	s.label = ""
	if s.caps().has(capLabels) {
		if v := l.tag("label"); len(v) <= maxLabel {
			s.label = v
		}
	}
	if s.batch != nil && s.inBatch(l) {
		if s.batch != nil && s.batch.failed {
			return 1
		}
		return 0 // its opening and its end pay, and its lines are bounded
	}
	c, ok := commands[l.command]
	if ok && c.talk && s.reg == nil && len(l.params) >= c.min {
		c.run(s, l) // keeps order and labels by itself: its answer may come later
		return c.cost
	}
	s.submitPending()
	s.beginLabel()
	switch {
	case !ok && s.reg != nil:
		s.num("451", "You have not registered")
	case !ok:
		s.num("421", l.command, "Unknown command")
	case s.reg != nil && !c.early:
		s.num("451", "You have not registered")
	case len(l.params) < c.min:
		s.num("461", l.command, "Not enough parameters")
	default:
		c.run(s, l)
	}
	s.endLabel()
	if s.reg != nil {
		s.reg.lines++
		if s.reg.lines > maxUnregistered {
			s.close("Too many lines before registration")
		}
	}
	return max(c.cost, 1)
}

// beginLabel starts a labelled answer.
func (s *session) beginLabel() {
	if s.label != "" {
		s.pushOut()
	}
	s.labelFrom = len(s.out)
}

// endLabel turns what was said since beginLabel into the answer to the label:
// an ACK, one line, or a batch (https://ircv3.net/specs/extensions/labeled-response).
func (s *session) endLabel() {
	if s.label == "" {
		return
	}
	label := s.label
	s.label = ""
	answer := s.out[s.labelFrom:]
	var b []byte
	switch bytes.Count(answer, []byte{'\n'}) {
	case 0:
		b = appendTag(nil, 0, "label", label)
		b = append(b, " :"...)
		b = append(b, s.srv.cfg.ServerName...)
		b = append(b, " ACK\r\n"...)
	case 1:
		b = addTag(nil, answer, "label", label)
	default:
		ref := s.srv.batchRef()
		b = appendTag(nil, 0, "label", label)
		b = append(b, " :"+s.srv.cfg.ServerName+" BATCH +"+ref+" labeled-response\r\n"...)
		for len(answer) > 0 {
			i := bytes.IndexByte(answer, '\n') + 1
			if nested(answer[:i]) {
				b = append(b, answer[:i]...)
			} else {
				b = addTag(b, answer[:i], "batch", ref)
			}
			answer = answer[i:]
		}
		b = append(b, ":"+s.srv.cfg.ServerName+" BATCH -"+ref+"\r\n"...)
	}
	s.out = append(s.out[:s.labelFrom], b...)
}

// nested reports whether line is in a batch of its own already, or ends one.
func nested(line []byte) bool {
	if line[0] == '@' {
		tags, _, _ := bytes.Cut(line, []byte{' '})
		return bytes.HasPrefix(tags, []byte("@batch=")) || bytes.Contains(tags, []byte(";batch="))
	}
	_, rest, _ := bytes.Cut(line, []byte{' '})
	return bytes.HasPrefix(rest, []byte("BATCH -"))
}

// addTag appends line to b with one more tag.
func addTag(b, line []byte, key, value string) []byte {
	b = appendTag(b, len(b), key, value)
	if line[0] == '@' {
		b = append(b, ';')
		return append(b, line[1:]...)
	}
	b = append(b, ' ')
	return append(b, line...)
}

// ended is called after each line of an answer; it bounds what waits here.
func (s *session) ended(int) {
	if s.label == "" && len(s.out) > pushSize {
		s.pushOut()
	} else if len(s.out)-s.labelFrom > maxCaptured {
		s.endLabel()
		s.pushOut()
	}
}

// pushOut hands the replies to the queue.
func (s *session) pushOut() {
	if len(s.out) > 0 {
		s.queue.pushChunk(chunk{s.out, s.own})
		s.out, s.own = nil, nil
		s.labelFrom = 0
	}
}

// takeBuffer has a buffer ready for the replies of a command; rest gives it
// back if it was not used.
func (s *session) takeBuffer() {
	if s.out == nil {
		s.own = outBuffers.Get().(*[]byte)
		s.out = (*s.own)[:0]
	}
}

func (s *session) rest() {
	if s.own != nil {
		outBuffers.Put(s.own)
	}
	s.out, s.own = nil, nil
}

// settle leaves nothing behind before the session waits for input.
func (s *session) settle() {
	s.submitPending()
	s.pushOut()
	s.rest()
	if cap(s.pending) > 4 {
		s.pending = nil
	}
}

// submitPending offers the messages that have gathered, in one transaction, and
// says what came of each. Their lines are in every receiver's queue afterwards.
func (s *session) submitPending() {
	if len(s.pending) == 0 {
		return
	}
	ps, label := s.pending, s.label
	s.pending, s.label = s.pending[:0], ""
	receipts, err := s.offer(ps)
	for i := range ps {
		p := &ps[i]
		s.label = p.label
		s.beginLabel()
		switch {
		case err != nil:
			s.refuse(p.command, p.target, err)
		case receipts[i].Err != nil:
			if p.command != "NOTICE" && p.command != "TAGMSG" || s.label != "" {
				s.refuse(p.command, p.target, receipts[i].Err)
			}
		case p.capture || s.caps().has(capEchoMessage) && receipts[i].Event != nil && !receipts[i].Duplicate:
			s.label = "" // the echo was the answer
		}
		s.endLabel()
	}
	clear(ps)
	s.label = label
	s.labelFrom = len(s.out)
}

// submit offers envelopes that a command waits for. Lines that Publish has for
// this session become part of the command's labelled answer.
func (s *session) submit(command string, es ...core.Envelope) ([]core.Receipt, error) {
	if len(es) == 0 {
		return nil, nil
	}
	ps := make([]pending, len(es))
	for i := range es {
		ps[i] = pending{env: es[i], command: command, capture: s.label != ""}
	}
	return s.offer(ps)
}

func (s *session) offer(ps []pending) ([]core.Receipt, error) {
	if s.label == "" {
		s.pushOut()
	}
	var room [8]core.Envelope
	es := room[:0]
	for i := range ps {
		es = append(es, ps[i].env)
	}
	s.mu.Lock()
	s.inflight = ps
	s.mu.Unlock()
	receipts, err := s.srv.gw.Submit(s.ctx, es...)
	s.landed()
	return receipts, err
}

// landed ends what offer began.
func (s *session) landed() {
	s.mu.Lock()
	s.inflight = nil
	s.out = append(s.out, s.captured...)
	s.captured = nil
	s.mu.Unlock()
}

// close ends the session after what was said so far.
func (s *session) close(why string) {
	if s.why == "" {
		s.why = why
	}
	s.over = true
}

// A bucket lets a client have a burst of commands, then one per interval.
type bucket struct{ full time.Time } // when it will be full again

// take spends cost and returns how long to wait before the next command.
func (b *bucket) take(now time.Time, cost int, burst int, interval time.Duration) time.Duration {
	if b.full.Before(now) {
		b.full = now
	}
	b.full = b.full.Add(time.Duration(cost) * interval)
	return b.full.Sub(now) - time.Duration(burst)*interval
}

// pace holds a session back that sends too fast. What it sends meanwhile waits
// here up to RecvQueue, then it is closed: others never notice.
func (s *session) pace(now time.Time, cost int) {
	cfg := s.srv.live.Load()
	if cfg.CommandInterval <= 0 {
		return
	}
	wait := s.flood.take(now, cost, cfg.CommandBurst, cfg.CommandInterval)
	if wait <= 0 {
		return
	}
	s.settle()
	until := now.Add(wait)
	s.conn.SetReadDeadline(until)
	defer s.conn.SetReadDeadline(time.Time{})
	for time.Now().Before(until) {
		if s.in.buffered() > cfg.RecvQueue {
			s.close("Excess Flood")
			return
		}
		err := s.in.fill(cfg.RecvQueue + maxLine)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			s.lost(err)
			s.over = true
			return
		}
	}
}

// newSeed returns what makes a message of this session unlike every other.
func (s *session) newSeed() []byte {
	n := binary.BigEndian.Uint64(s.seed[8:]) + 1
	if n == math.MaxUint64 {
		n = 0
	}
	binary.BigEndian.PutUint64(s.seed[8:], n)
	return append([]byte(nil), s.seed[:]...)
}

// A command is one entry of the command table.
type command struct {
	min   int  // parameters without which it is refused (461)
	early bool // also before registration
	talk  bool // keeps order and labels by itself: PRIVMSG and its kin
	cost  int  // in units of the flood limit; 0 = 1
	run   func(*session, *line)
}

type commandTable map[string]command

var commands = commandTable{}

// addCommands puts a file's commands into the table.
func addCommands(t commandTable) {
	for name, c := range t {
		if _, twice := commands[name]; twice {
			panic("command twice: " + name)
		}
		commands[name] = c
	}
}

// list splits a parameter at commas, with a bound.
func list(s string, max int) []string {
	parts := strings.SplitN(s, ",", max+1)
	if len(parts) > max {
		parts = parts[:max]
	}
	return parts
}
