package irc

import (
	"bytes"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// A fan encodes something once per set of capabilities that matter to it, and
// hands the same octets to every session with that set.
type fan struct {
	mask   capSet // the capabilities that change what is sent
	encode func(b []byte, caps capSet) []byte
	n      int
	memo   [8]struct {
		caps capSet
		b    []byte
	}
}

// bytes returns what a session with caps is sent; nil for nothing.
func (f *fan) bytes(caps capSet) []byte {
	caps &= f.mask
	for i := range f.memo[:f.n] {
		if f.memo[i].caps == caps {
			return f.memo[i].b
		}
	}
	b := f.encode(nil, caps)
	if f.n < len(f.memo) {
		f.memo[f.n].caps, f.memo[f.n].b = caps, b
		f.n++
	}
	return b
}

// send puts it into one queue.
func (f *fan) send(s *session) {
	if b := f.bytes(s.caps()); len(b) > 0 {
		s.queue.push(b)
	}
}

// tagCaps change the tags of a line, and whether there are any.
const tagCaps = capMessageTags | capServerTime | capAccountTag

// stamp is what tags say about an event's line.
type stamp struct {
	id      core.EventID
	at      time.Time
	account string
	bot     bool
}

// appendStamp writes the tags of a line that begins at from: those of st that
// caps allow. The caller ends the section with endTags.
func appendStamp(b []byte, from int, caps capSet, st *stamp) []byte {
	if caps.has(capServerTime) {
		b = appendTag(b, from, "time", "")
		b = append(b, '=')
		b = appendTime(b, st.at)
	}
	if caps.has(capMessageTags) && !st.id.IsZero() {
		b = appendTag(b, from, "msgid", "")
		b = append(b, '=')
		b = st.id.AppendText(b)
	}
	if caps.has(capAccountTag) && st.account != "" {
		b = appendTag(b, from, "account", st.account)
	}
	if caps.has(capMessageTags) && st.bot {
		b = appendTag(b, from, "bot", "")
	}
	return b
}

// endTags ends the tags of a line that begins at from, and writes its source.
func endTags(b []byte, from int, source string) ([]byte, int) {
	if len(b) > from {
		b = append(b, ' ')
	}
	body := len(b)
	b = append(b, ':')
	return append(b, source...), body
}

// appendTime writes t as server-time does: UTC with milliseconds.
func appendTime(b []byte, t time.Time) []byte {
	t = t.UTC()
	y, mo, d := t.Date()
	h, mi, s := t.Clock()
	ms := t.Nanosecond() / 1e6
	two := func(n int) { b = append(b, byte('0'+n/10%10), byte('0'+n%10)) }
	two(y / 100)
	two(y % 100)
	b = append(b, '-')
	two(int(mo))
	b = append(b, '-')
	two(d)
	b = append(b, 'T')
	two(h)
	b = append(b, ':')
	two(mi)
	b = append(b, ':')
	two(s)
	b = append(b, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z')
	return b
}

// A message is an event of chat content ready to be shown.
type message struct {
	stamp
	out    converter.IRCOut
	source string
	target string
	relay  string // who relayed it by RELAYMSG, "" for what users say themselves
	about  string // the channel that a private message belongs to (+channel-context)
}

// extra are tags that only one line of one session has: label, batch.
type extra struct{ label, batch string }

// messageCaps returns the capabilities that change how m looks.
func messageCaps(m *message) capSet {
	switch {
	case m.out.Kind == converter.IRCRedaction:
		return tagCaps | capRedaction
	case len(m.out.Lines) > 1:
		return tagCaps | capMultiline | capBatch
	}
	return tagCaps
}

// appendMessage writes m as a session with caps sees it.
func (srv *Server) appendMessage(b []byte, caps capSet, m *message, x extra) []byte {
	lines, command, action := m.out.Lines, "PRIVMSG", false
	if !caps.has(capMessageTags) {
		lines = m.out.Plain
	}
	switch m.out.Kind {
	case converter.IRCNone:
		return b
	case converter.IRCReaction, converter.IRCUnreaction:
		if caps.has(capMessageTags) {
			return appendReaction(b, caps, m, x)
		}
	case converter.IRCRedaction:
		if caps.has(capRedaction) {
			return appendRedaction(b, caps, m, x)
		}
		command = "NOTICE"
	case converter.IRCNotice:
		command = "NOTICE"
	case converter.IRCAction:
		action = true
	}
	pieces := srv.split(lines, len(m.source)+len(m.target)+len(command)+6, action)
	if len(pieces) > 1 && caps.has(capMultiline) && caps.has(capBatch) {
		return srv.appendMultiline(b, caps, m, x, command, pieces)
	}
	if len(pieces) > 1 && x.label != "" { // a labelled answer of several lines is a batch
		ref := srv.batchRef()
		b = appendBatchStart(b, x, ref, "labeled-response", "")
		b = appendPieces(b, caps, m, extra{batch: ref}, command, pieces)
		return append(b, "BATCH -"+ref+"\r\n"...)
	}
	return appendPieces(b, caps, m, x, command, pieces)
}

// A piece is what fits one line; more says that the next continues it.
type piece struct {
	text   string
	concat bool // continues the piece before it
}

const actionWrap = len("\x01ACTION \x01")

// split cuts lines so that each fits one IRC line after overhead octets.
func (srv *Server) split(lines []string, overhead int, action bool) []piece {
	room := maxBody - 2 - overhead
	if action {
		room -= actionWrap
	}
	out := make([]piece, 0, len(lines))
	for _, l := range lines {
		if len(l) <= room {
			if action {
				l = "\x01ACTION " + l + "\x01"
			}
			out = append(out, piece{text: l})
			continue
		}
		for i, p := range converter.SplitLine(l, room) {
			if action {
				p = "\x01ACTION " + p + "\x01"
			}
			out = append(out, piece{p, i > 0})
		}
	}
	return out
}

// appendPieces writes one line for each piece; the first has the event's ID.
func appendPieces(b []byte, caps capSet, m *message, x extra, command string, pieces []piece) []byte {
	st := m.stamp
	for _, p := range pieces {
		if p.text == "" {
			continue // a blank line says nothing without multiline
		}
		from := len(b)
		b = appendExtra(b, from, x)
		b = appendStamp(b, from, caps, &st)
		b = appendAbout(b, from, caps, m)
		b = m.appendBody(b, from, command, p.text)
		st.id, x.label = core.EventID{}, ""
	}
	return b
}

func (m *message) appendBody(b []byte, from int, command, text string) []byte {
	b, body := endTags(b, from, m.source)
	b = append(b, ' ')
	b = append(b, command...)
	b = appendMiddle(b, m.target)
	return endLine(appendTrailing(b, text), body)
}

// appendMultiline writes a draft/multiline batch
// (https://ircv3.net/specs/extensions/multiline).
func (srv *Server) appendMultiline(b []byte, caps capSet, m *message, x extra, command string, pieces []piece) []byte {
	ref := srv.batchRef()
	from := len(b)
	b = appendExtra(b, from, x)
	b = appendStamp(b, from, caps, &m.stamp)
	b = appendAbout(b, from, caps, m)
	b, body := endTags(b, from, m.source)
	b = append(b, " BATCH +"+ref+" draft/multiline"...)
	b = endLine(appendMiddle(b, m.target), body)
	for _, p := range pieces {
		from := len(b)
		b = appendTag(b, from, "batch", ref)
		if p.concat {
			b = appendTag(b, from, "draft/multiline-concat", "")
		}
		b = m.appendBody(b, from, command, p.text)
	}
	b = append(b, ':')
	b = append(b, m.source...)
	return append(b, " BATCH -"+ref+"\r\n"...)
}

func appendBatchStart(b []byte, x extra, ref, kind, param string) []byte {
	from := len(b)
	b = appendExtra(b, from, x)
	if len(b) > from {
		b = append(b, ' ')
	}
	b = append(b, "BATCH +"+ref+" "+kind...)
	if param != "" {
		b = appendMiddle(b, param)
	}
	return append(b, '\r', '\n')
}

func appendExtra(b []byte, from int, x extra) []byte {
	if x.label != "" {
		b = appendTag(b, from, "label", x.label)
	}
	if x.batch != "" {
		b = appendTag(b, from, "batch", x.batch)
	}
	return b
}

// appendReply names the message that this one answers, under the ratified and
// the draft name: clients of both ages are about.
func appendReply(b []byte, from int, to core.EventID) []byte {
	if to.IsZero() {
		return b
	}
	for _, key := range [...]string{"+reply", "+draft/reply"} {
		b = appendTag(b, from, key, "")
		b = append(b, '=')
		b = to.AppendText(b)
	}
	return b
}

func appendReaction(b []byte, caps capSet, m *message, x extra) []byte {
	from := len(b)
	b = appendExtra(b, from, x)
	b = appendStamp(b, from, caps, &m.stamp)
	b = appendReply(b, from, m.out.Target)
	key := "+draft/react"
	if m.out.Kind == converter.IRCUnreaction {
		key = "+draft/unreact"
	}
	b = appendTag(b, from, key, m.out.React)
	b, body := endTags(b, from, m.source)
	b = append(b, " TAGMSG"...)
	return endLine(appendMiddle(b, m.target), body)
}

func appendRedaction(b []byte, caps capSet, m *message, x extra) []byte {
	from := len(b)
	b = appendExtra(b, from, x)
	b = appendStamp(b, from, caps, &m.stamp)
	b, body := endTags(b, from, m.source)
	b = append(b, " REDACT"...)
	b = appendMiddle(b, m.target)
	b = append(b, ' ')
	b = m.out.Target.AppendText(b)
	if m.out.Reason != "" {
		b = appendTrailing(b, m.out.Reason)
	}
	return endLine(b, body)
}

// messageOf makes e ready to be shown in ch; false if there is nothing to show.
// The world's lock is held.
func (srv *Server) messageOf(ch *channel, e *core.Event, m *message) bool {
	var err error
	if m.out, _, err = srv.convert.Outbound(e, worldNames{srv: srv, ch: ch}); err != nil || m.out.Kind == converter.IRCNone {
		return false
	}
	m.id, m.at, m.target = e.ID, e.Accepted, ch.name()
	s, _ := e.Signed()
	if u := srv.world.users[e.Sender]; u != nil {
		m.source, m.account, m.bot = u.source(), u.profile.Account, u.profile.Bot
		if source, ok := relayedAs(u, s.Name, srv.cfg.NickLen); ok {
			m.source, m.relay = source, u.profile.Name
		}
	} else {
		p := srv.stranger(e.Sender, s.Name)
		m.source, m.account = sourceOf(p), p.Account
	}
	if ch.room.Direct {
		m.target, m.about = srv.nickOf(ch.other(e.Sender)), contextOf(s.Content)
	}
	return true
}

// other returns who of a direct conversation is not u.
func (ch *channel) other(u core.UserURI) core.UserURI {
	if ch.pair[0] == u {
		return ch.pair[1]
	}
	return ch.pair[0]
}

func (srv *Server) nickOf(u core.UserURI) string {
	if o := srv.world.users[u]; o != nil {
		return o.profile.Name
	}
	return nickFrom(u.Local(), srv.cfg.NickLen)
}

// fanMessages puts a run of one sender's messages into every queue of the room.
// The run is encoded once per set of capabilities, and each receiver gets it as
// one slice. The world's lock is held.
func (srv *Server) fanMessages(ch *channel, es []core.Event) {
	var room [16]message
	ms := room[:0]
	var mask capSet
	for i := range es {
		var m message
		if srv.messageOf(ch, &es[i], &m) {
			ms = append(ms, m)
			mask |= messageCaps(&m)
		}
		srv.recent.add(&es[i])
		if c := es[i].Control; c != nil { // a deletion: nobody quotes what is gone
			delete(srv.recent.by, c.Event)
		}
	}
	if len(ms) == 0 {
		return
	}
	f := fan{mask: mask, encode: func(b []byte, caps capSet) []byte {
		if b == nil {
			b = make([]byte, 0, 256*len(ms))
		}
		for i := range ms {
			b = srv.appendMessage(b, caps, &ms[i], extra{})
		}
		return b
	}}
	sender := srv.world.users[es[0].Sender]
	if ch.room.Direct {
		for _, uri := range ch.pair {
			if u := srv.world.users[uri]; u != nil && u != sender {
				for _, s := range u.sessions {
					f.send(s)
				}
			}
		}
	}
	for _, s := range ch.receivers {
		if s.user != sender {
			f.send(s)
		}
	}
	if sender != nil {
		for _, s := range sender.sessions {
			srv.echo(s, ms, es, &f)
		}
	}
}

// echo shows a run of messages to a session of their sender. The one that said
// them sees them if it has echo-message, with the labels it gave; the others see
// them as everybody does.
func (srv *Server) echo(s *session, ms []message, es []core.Event, f *fan) {
	s.mu.Lock()
	defer s.mu.Unlock()
	caps := s.caps()
	if len(s.inflight) == 0 || caps.has(capEchoMessage) && !s.labelled() {
		f.send(s)
		return
	}
	var b []byte
	at := 0
	for i := range ms {
		p, next := s.said(at, ms[i].id, es)
		if p == nil {
			b = srv.appendMessage(b, caps, &ms[i], extra{})
			continue
		}
		at = next
		if !caps.has(capEchoMessage) {
			continue
		}
		if p.capture {
			s.captured = srv.appendMessage(s.captured, caps, &ms[i], extra{})
			continue
		}
		b = srv.appendMessage(b, caps, &ms[i], extra{label: p.label})
	}
	if len(b) > 0 {
		s.queue.push(b)
	}
}

func (s *session) labelled() bool {
	for i := range s.inflight {
		if s.inflight[i].label != "" || s.inflight[i].capture {
			return true
		}
	}
	return false
}

// said finds the message in flight that became event id, from place at on: the
// octets are unlike every other's because of the salt.
func (s *session) said(at int, id core.EventID, es []core.Event) (*pending, int) {
	var e *core.Event
	for i := range es {
		if es[i].ID == id {
			e = &es[i]
		}
	}
	body, ok := e.Signed()
	if !ok {
		return nil, at
	}
	for i := at; i < len(s.inflight); i++ {
		p := &s.inflight[i]
		sent, ok := p.env.Body.(core.Signed)
		if !ok || p.env.Room != e.Room || sent.ContentType != body.ContentType {
			continue
		}
		same := bytes.Equal(sent.Content, body.Content)
		if body.ContentType == core.ContentControl { // the core writes those anew
			c, err := core.ParseControl(sent.Content)
			same = err == nil && e.Control != nil && c.Op == e.Control.Op
		}
		if same {
			return p, i + 1
		}
	}
	return nil, at
}

// A recentEvents remembers the last messages, so that a reply to one can name
// whom it answers without a look at the store. It is under the world's lock.
type recentEvents struct {
	ring [2048]core.EventID
	at   int
	by   map[core.EventID]*core.Event
}

func (r *recentEvents) add(e *core.Event) {
	if r.by == nil {
		r.by = make(map[core.EventID]*core.Event, len(r.ring))
	}
	delete(r.by, r.ring[r.at])
	r.ring[r.at] = e.ID
	r.by[e.ID] = e
	r.at = (r.at + 1) % len(r.ring)
}

// worldNames answers a converter from the world. Its lock is held.
type worldNames struct {
	converter.NoNames
	srv *Server
	ch  *channel
}

func (n worldNames) Event(id core.EventID) (*core.Event, bool) {
	e, ok := n.srv.recent.by[id]
	return e, ok
}

func (n worldNames) Foreign(id core.EventID) (string, bool) { return id.String(), true }

func (n worldNames) ByForeign(id string) (core.EventID, bool) {
	e, err := core.ParseEventID(id)
	return e, err == nil
}

func (n worldNames) Nick(u core.UserURI) (string, bool) {
	if o := n.srv.world.users[u]; o != nil {
		return o.profile.Name, true
	}
	return "", false
}

func (n worldNames) Handle(u core.UserURI) (string, bool) { return n.Nick(u) }

func (n worldNames) User(nick string) (core.UserURI, bool) {
	if u := n.srv.world.userByNick(nick); u != nil {
		return u.uri, true
	}
	return "", false
}

// lockedNames answers a converter that runs without the world's lock.
type lockedNames struct{ worldNames }

func (n lockedNames) locked() func() {
	n.srv.world.mu.RLock()
	return n.srv.world.mu.RUnlock
}

func (n lockedNames) Event(id core.EventID) (*core.Event, bool) {
	defer n.locked()()
	return n.worldNames.Event(id)
}

func (n lockedNames) Nick(u core.UserURI) (string, bool) {
	defer n.locked()()
	return n.worldNames.Nick(u)
}

func (n lockedNames) Handle(u core.UserURI) (string, bool) { return n.Nick(u) }

func (n lockedNames) User(nick string) (core.UserURI, bool) {
	defer n.locked()()
	return n.worldNames.User(nick)
}

// Signal implements bridges.Live: typing and other client-only tags, shown and
// forgotten.
func (srv *Server) Signal(sig core.Signal) {
	w := srv.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	ch := w.rooms[sig.Room]
	if ch == nil {
		return
	}
	tags := make([]tag, 0, len(sig.Tags)+1)
	for _, k := range sortedKeys(sig.Tags) {
		tags = append(tags, tag{k, sig.Tags[k]})
	}
	if sig.Typing != "" && sig.Tags["+typing"] == "" {
		tags = append(tags, tag{"+typing", sig.Typing})
	}
	sender := w.users[sig.Sender]
	p := srv.stranger(sig.Sender, sig.Name)
	source, account := sourceOf(p), p.Account
	if sender != nil {
		source, account = sender.source(), sender.profile.Account
	}
	target := ch.name()
	if ch.room.Direct {
		target = srv.nickOf(ch.other(sig.Sender))
	}
	st := stamp{at: time.Now(), account: account}
	f := fan{mask: tagCaps, encode: func(b []byte, caps capSet) []byte {
		if !caps.has(capMessageTags) {
			return nil
		}
		b = appendStamp(b, 0, caps, &st)
		for _, t := range tags {
			b = appendTag(b, 0, t.key, t.value)
		}
		b, body := endTags(b, 0, source)
		return endLine(appendMiddle(append(b, " TAGMSG"...), target), body)
	}}
	for _, s := range ch.receivers {
		if s.user != sender {
			f.send(s)
		}
	}
	if ch.room.Direct {
		if u := w.users[ch.other(sig.Sender)]; u != nil {
			for _, s := range u.sessions {
				f.send(s)
			}
		}
	}
}

// cut shortens s to max octets on a rune boundary.
func cut(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && s[max]&0xc0 == 0x80 {
		max--
	}
	return strings.ToValidUTF8(s[:max], "")
}
