package irc

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of one CHATHISTORY command.
const (
	// maxScan is how many events are read to fill a page: a room in which more
	// joins and leaves than that lie between two messages shows a short page.
	maxScan = 10_000
	// minScan is the least read after a first try did not fill the page.
	minScan = 64
	// maxTargetRooms is how many rooms of a user TARGETS looks at.
	maxTargetRooms = 1000
	// maxTargetScan is how many events of a room it reads to find the last message.
	maxTargetScan = 1024
)

func init() {
	offer(
		capability{bit: capChatHistory, name: "draft/chathistory"},
		capability{bit: capEventPlayback, name: "draft/event-playback"},
	)
	addCommands(commandTable{
		"CHATHISTORY": {cost: 4, run: cmdHistory},
	})
	addISupport(func(srv *Server) []string {
		n := strconv.Itoa(srv.cfg.History)
		return []string{"CHATHISTORY=" + n, "draft/CHATHISTORY=" + n, "MSGREFTYPES=msgid,timestamp"}
	})
}

// A msgRef is a message reference: an event, a time, or neither ("*").
type msgRef struct {
	id core.EventID
	at time.Time
}

// A historyQuery is a CHATHISTORY command
// (https://ircv3.net/specs/extensions/chathistory).
type historyQuery struct {
	sub, target string
	from, to    msgRef
	limit       int
}

// A historyFault is a FAIL CHATHISTORY: its code, then its parameters.
type historyFault struct {
	code string
	rest []string
}

func badHistory(sub, text string, context ...string) *historyFault {
	return &historyFault{"INVALID_PARAMS", append(append([]string{orWord(sub, "*")}, context...), text)}
}

// parseHistory reads the parameters of CHATHISTORY; max bounds the limit.
func parseHistory(params []string, max int) (q historyQuery, fault *historyFault) {
	if len(params) == 0 {
		return q, badHistory("", "Insufficient parameters")
	}
	q.sub = upper(params[0])
	refs := map[string]int{"LATEST": 1, "BEFORE": 1, "AFTER": 1, "AROUND": 1, "BETWEEN": 2, "TARGETS": 2}[q.sub]
	if refs == 0 {
		return q, badHistory(params[0], "Unknown command")
	}
	params = params[1:]
	want := refs + 2
	if q.sub == "TARGETS" {
		want--
	}
	switch {
	case len(params) < want:
		return q, badHistory(q.sub, "Insufficient parameters")
	case len(params) > want:
		return q, badHistory(q.sub, "Too many parameters")
	}
	if q.sub != "TARGETS" {
		q.target, params = params[0], params[1:]
	}
	for i, ref := range []*msgRef{&q.from, &q.to} {
		if i == refs {
			break
		}
		if fault := q.parseRef(ref, params[i]); fault != nil {
			return q, fault
		}
	}
	limit, err := strconv.Atoi(params[refs])
	if err != nil || limit <= 0 {
		return q, badHistory(q.sub, "Invalid limit", params[refs])
	}
	q.limit = min(limit, max)
	return q, nil
}

func (q *historyQuery) parseRef(ref *msgRef, text string) *historyFault {
	key, value, _ := strings.Cut(text, "=")
	switch key {
	case "*":
		if text != "*" || q.sub != "LATEST" {
			return badHistory(q.sub, "Invalid message reference", text)
		}
	case "timestamp":
		at, ok := parseTime(value)
		if !ok {
			return badHistory(q.sub, "Invalid timestamp", text)
		}
		ref.at = at
	case "msgid":
		if q.sub == "TARGETS" {
			return badHistory(q.sub, "Only timestamps select targets", text)
		}
		id, err := core.ParseEventID(value)
		if err != nil {
			return &historyFault{"MESSAGE_ERROR", []string{q.sub, q.target, "No such message"}}
		}
		ref.id = id
	default:
		return &historyFault{"INVALID_MSGREFTYPE", []string{q.sub, orWord(q.target, "*"), "Known reference types are msgid and timestamp"}}
	}
	return nil
}

// parseTime reads a server-time timestamp, down to its milliseconds.
func parseTime(s string) (time.Time, bool) {
	if len(s) > 40 || !strings.HasSuffix(s, "Z") {
		return time.Time{}, false
	}
	t, err := time.Parse("2006-01-02T15:04:05Z", s) // takes fractions as well
	return t.Truncate(time.Millisecond), err == nil
}

// errNoRef says that a msgid names no event of the room.
var errNoRef = errors.New("no such message")

// A page is one answer while it is made.
type page struct {
	srv      *Server
	caps     capSet
	room     core.RoomID
	name     string // as the client calls it
	direct   bool
	floor    uint64 // nothing up to this Seq is shown
	me       core.UserURI
	mine     string // nicks of a direct conversation
	theirs   string
	playback bool

	r       core.Reader
	chunk   []core.Event // being converted: dense, rising
	sources []speaker
	lines   []historyLine
	n       int // of lines that count
}

// A historyLine is one event of a page; an edit that was merged into its target
// is not shown.
type historyLine struct {
	message
	sender core.UserURI
	state  *core.Event // shown by event-playback; nil for messages
	merged bool
}

// A speaker is how a sender is shown in a page.
type speaker struct {
	uri             core.UserURI
	name            string // the Signed.Name this was made for
	source, account string
	relay           string
	bot             bool
}

var pages = sync.Pool{New: func() any { return new(page) }}

// free gives the page's memory back, without what it refers to.
func (p *page) free() {
	clear(p.lines)
	clear(p.sources)
	*p = page{lines: p.lines[:0], sources: p.sources[:0]}
	pages.Put(p)
}

func cmdHistory(s *session, l *line) {
	q, fault := parseHistory(l.params, s.srv.cfg.History)
	if fault != nil {
		s.fail("CHATHISTORY", fault.code, fault.rest...)
		return
	}
	if q.sub == "TARGETS" {
		s.historyTargets(&q)
		return
	}
	p := pages.Get().(*page)
	defer p.free()
	if !s.openPage(p, q.target) {
		s.fail("CHATHISTORY", "INVALID_TARGET", q.sub, q.target, "Messages could not be retrieved")
		return
	}
	if err := s.srv.gw.View(s.ctx, func(r core.Reader) error { p.r = r; return p.read(&q) }); err != nil {
		text := "Messages could not be retrieved"
		if err == errNoRef {
			text = "No such message"
		}
		s.fail("CHATHISTORY", "MESSAGE_ERROR", q.sub, q.target, text)
		return
	}
	s.sendPage(p)
}

// openPage finds target and what s may see of it.
func (s *session) openPage(p *page, target string) bool {
	srv, w := s.srv, s.srv.world
	*p = page{srv: srv, caps: s.caps(), me: s.user.uri, lines: p.lines, sources: p.sources}
	p.playback = p.caps.has(capEventPlayback)
	if !strings.HasPrefix(target, "#") {
		other, name, ok := s.partner(target)
		p.mine, p.theirs = s.user.shown(), name
		p.room, p.name, p.direct = srv.directRoom(p.me, other), name, true
		return ok
	}
	w.mu.RLock()
	defer w.mu.RUnlock()
	ch := w.channelByName(target)
	if ch == nil || ch.index[s.user] == nil {
		return false
	}
	p.room, p.name = ch.room.ID, ch.name()
	if m := ch.index[s.user]; ch.room.Policy.SinceJoin && m.since > 0 {
		p.floor = m.since - 1
	}
	return true
}

// read fills the page from one snapshot.
func (p *page) read(q *historyQuery) error {
	from, err := p.locate(q.from)
	if err != nil {
		return err
	}
	to, err := p.locate(q.to)
	if err != nil {
		return err
	}
	switch q.sub {
	case "BEFORE":
		return p.back(p.floor, from.first, q.limit)
	case "AFTER":
		return p.forth(from.last, 0, q.limit)
	case "LATEST":
		return p.back(from.last, 0, q.limit)
	case "AROUND":
		if err := p.back(p.floor, from.first, q.limit/2); err != nil {
			return err
		}
		return p.forth(from.first-1, 0, q.limit)
	}
	if from.first <= to.first { // BETWEEN counts from its first reference
		return p.forth(from.last, to.first, q.limit)
	}
	return p.back(to.last, from.first, q.limit)
}

// A position is where a reference lies in the log: the events before first are
// before it, those after last are after it.
type position struct{ first, last uint64 }

// locate finds a reference in the room's log. A time means the whole of its
// millisecond, because that is all a client was told.
func (p *page) locate(ref msgRef) (position, error) {
	switch {
	case !ref.id.IsZero():
		seq := ref.id.Seq()
		if core.NewEventID(p.room, p.srv.cfg.Domain, seq) != ref.id || seq == 0 || seq <= p.floor {
			return position{}, errNoRef
		}
		return position{seq, seq}, nil
	case ref.at.IsZero():
		return position{}, nil
	}
	first, err := p.r.SeqAt(p.room, ref.at)
	if err != nil {
		return position{}, err
	}
	next, err := p.r.SeqAt(p.room, ref.at.Add(time.Millisecond))
	return position{first, max(next, 1) - 1}, err
}

// back adds up to limit messages in (after, before), the newest of them.
func (p *page) back(after, before uint64, limit int) error {
	after = max(after, p.floor)
	start := len(p.lines)
	limit += p.n
	for scanned, size := 0, limit-p.n; p.n < limit && scanned < maxScan; size = max(2*(limit-p.n), minScan) {
		if before != 0 && before <= after+1 {
			break
		}
		es, err := p.r.Events(p.room, core.Range{After: after, Before: before, Limit: size, Newest: true})
		if err != nil {
			return err
		}
		p.chunk = es
		for i := len(es) - 1; i >= 0 && p.n < limit; i-- {
			p.add(&es[i], true)
		}
		if scanned += len(es); len(es) < size {
			break
		}
		before = es[0].Seq
	}
	slices.Reverse(p.lines[start:])
	return nil
}

// forth adds messages in (after, before), the oldest of them, until the page has
// limit.
func (p *page) forth(after, before uint64, limit int) error {
	after = max(after, p.floor)
	for scanned, size := 0, limit-p.n; p.n < limit && scanned < maxScan; size = max(2*(limit-p.n), minScan) {
		if before != 0 && before <= after+1 {
			break
		}
		es, err := p.r.Events(p.room, core.Range{After: after, Before: before, Limit: size})
		if err != nil {
			return err
		}
		p.chunk = es
		for i := 0; i < len(es) && p.n < limit; i++ {
			p.add(&es[i], false)
		}
		if scanned += len(es); len(es) < size {
			break
		}
		after = es[len(es)-1].Seq
	}
	return nil
}

// add puts e on the page if it shows there. backward says that events come the
// newest first.
func (p *page) add(e *core.Event, backward bool) {
	if e.Deleted || e.Control != nil && (!p.playback || !played(e)) {
		return
	}
	p.lines = append(p.lines, historyLine{})
	h := &p.lines[len(p.lines)-1]
	h.id, h.at, h.sender = e.ID, e.Accepted, e.Sender
	if e.Control != nil {
		h.state = e
		p.n++
		return
	}
	var err error
	h.out, _, err = p.srv.convert.Outbound(e, pageNames{p})
	if err != nil || !p.shows(h.out.Kind) {
		p.lines = p.lines[:len(p.lines)-1]
		return
	}
	p.attribute(h, e)
	p.n++
	if h.out.Kind == converter.IRCEdit && !backward {
		if t := p.find(h.out.Target, h.sender); t != nil {
			t.rewrite(h.out.Text)
			p.lines = p.lines[:len(p.lines)-1]
			p.n--
		}
	} else if backward {
		p.mergeLater(h)
	}
}

// shows reports whether a message of this kind stands in history. Without
// event-playback only PRIVMSG and NOTICE do; what was removed is left out, and so
// is the removal.
func (p *page) shows(k converter.IRCKind) bool {
	switch k {
	case converter.IRCNone, converter.IRCRedaction:
		return false
	case converter.IRCReaction, converter.IRCUnreaction:
		return p.playback && p.caps.has(capMessageTags)
	}
	return true
}

// find returns the line of the page that shows event id by sender.
func (p *page) find(id core.EventID, sender core.UserURI) *historyLine {
	for i := len(p.lines) - 1; i >= 0; i-- {
		if h := &p.lines[i]; h.id == id && h.sender == sender && h.state == nil {
			return h
		}
	}
	return nil
}

// mergeLater puts the text of the newest edit on the page into its target h,
// which is found after it when the page is made backwards.
func (p *page) mergeLater(h *historyLine) {
	done := false
	for i := range p.lines[:len(p.lines)-1] {
		e := &p.lines[i]
		if e.out.Kind != converter.IRCEdit || e.merged || e.out.Target != h.id || e.sender != h.sender {
			continue
		}
		if !done {
			h.rewrite(e.out.Text)
			done = true
		}
		e.merged = true
		p.n--
	}
}

// rewrite shows the text of an edit under the ID of what it edits.
func (h *historyLine) rewrite(text []string) {
	h.out.Lines, h.out.Plain = text, text
}

// attribute says whose line it is, and to whom it goes.
func (p *page) attribute(h *historyLine, e *core.Event) {
	s, _ := e.Signed()
	who := p.speakerOf(e.Sender, s.Name)
	h.source, h.account, h.relay, h.bot = who.source, who.account, who.relay, who.bot
	switch {
	case !p.direct:
		h.target = p.name
	case e.Sender == p.me:
		h.target = p.theirs
	default:
		h.target = p.mine
	}
	if p.direct {
		h.about = contextOf(s.Content)
	}
}

// speakerOf returns how uri, called name then, is shown.
func (p *page) speakerOf(uri core.UserURI, name string) *speaker {
	for i := range p.sources {
		if c := &p.sources[i]; c.uri == uri && c.name == name {
			return c
		}
	}
	w := p.srv.world
	w.mu.RLock()
	defer w.mu.RUnlock()
	c := speaker{uri: uri, name: name}
	u := w.users[uri]
	switch {
	case u == nil:
		was := p.srv.stranger(uri, name)
		c.source, c.account = sourceOf(was), was.Account
	case !u.local || u.profile.Name == name || name == "":
		c.source, c.account, c.bot = u.source(), u.profile.Account, u.profile.Bot
	default:
		was := u.profile
		was.Name = speakerNick(name, p.srv.cfg.NickLen)
		c.source, c.account, c.bot = sourceOf(was), u.profile.Account, u.profile.Bot
		if strings.IndexByte(name, '/') >= 0 {
			c.relay = u.profile.Name
		}
	}
	if len(p.sources) >= maxSpeakers {
		p.sources = p.sources[:0]
	}
	p.sources = append(p.sources, c)
	return &p.sources[len(p.sources)-1]
}

// maxSpeakers bounds the linear search in a page's senders.
const maxSpeakers = 128

// sendPage writes the page as a batch, into one buffer.
func (s *session) sendPage(p *page) {
	s.pushOut()
	label := s.label
	s.label = "" // the batch is the answer
	size := 64
	for i := range p.lines {
		size += p.lines[i].size()
	}
	b := make([]byte, 0, size)
	var x extra
	if p.caps.has(capBatch) {
		x.batch = s.srv.batchRef()
		b = s.appendBatch(b, label, x.batch, "chathistory", p.name)
	}
	for i := range p.lines {
		h := &p.lines[i]
		switch {
		case h.merged:
		case h.state != nil:
			b = p.appendState(b, h, x)
		default:
			b = s.srv.appendMessage(b, p.caps, &h.message, x)
		}
	}
	if x.batch != "" {
		b = s.appendBatchEnd(b, x.batch)
	}
	s.out = b
	s.pushOut()
}

// size estimates how many octets a line takes.
func (h *historyLine) size() int {
	n := 0
	for _, l := range h.out.Lines {
		n += len(l) + 160
	}
	return n + len(h.source) + len(h.target) + len(h.account)
}

func (s *session) appendBatch(b []byte, label, ref, kind, param string) []byte {
	if label != "" {
		b = append(appendTag(b, len(b), "label", label), ' ')
	}
	b = append(append(append(b, ':'), s.srv.cfg.ServerName...), " BATCH +"...)
	b = append(append(append(b, ref...), ' '), kind...)
	if param != "" {
		b = appendMiddle(b, param)
	}
	return append(b, '\r', '\n')
}

func (s *session) appendBatchEnd(b []byte, ref string) []byte {
	b = append(append(append(b, ':'), s.srv.cfg.ServerName...), " BATCH -"...)
	return append(append(b, ref...), '\r', '\n')
}

// pageNames answers a converter from the snapshot the page is read from.
type pageNames struct{ p *page }

func (n pageNames) locked() lockedNames { return lockedNames{worldNames{srv: n.p.srv}} }

func (n pageNames) Event(id core.EventID) (*core.Event, bool) {
	p, seq := n.p, id.Seq()
	if len(p.chunk) > 0 && seq >= p.chunk[0].Seq {
		if i := seq - p.chunk[0].Seq; i < uint64(len(p.chunk)) && p.chunk[i].ID == id {
			return &p.chunk[i], true
		}
	}
	if seq <= p.floor || core.NewEventID(p.room, p.srv.cfg.Domain, seq) != id {
		return nil, false
	}
	e, err := p.r.Event(p.room, seq)
	return &e, err == nil
}

func (n pageNames) Reaction(core.EventID, core.UserURI, string) (core.EventID, bool) {
	return core.EventID{}, false // asked on the way in only
}
func (n pageNames) Foreign(id core.EventID) (string, bool)   { return id.String(), true }
func (n pageNames) ByForeign(id string) (core.EventID, bool) { return n.locked().ByForeign(id) }
func (n pageNames) Nick(u core.UserURI) (string, bool)       { return n.locked().Nick(u) }
func (n pageNames) Handle(u core.UserURI) (string, bool)     { return n.locked().Handle(u) }
func (n pageNames) User(nick string) (core.UserURI, bool)    { return n.locked().User(nick) }
func (n pageNames) MediaURL(url string) (string, bool)       { return n.locked().MediaURL(url) }
func (n pageNames) FullText(id core.EventID) (string, bool)  { return n.locked().FullText(id) }
