package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/store"
)

// Times and bounds of a session.
const (
	tendEvery   = time.Second
	pollFor     = 25 * time.Second // shorter than what proxies let a request be silent for
	firstRetry  = 500 * time.Millisecond
	lastRetry   = 30 * time.Second
	maxChatText = core.MaxContent - 1024 // octets of one text; the rest is the content's frame
	tableMarks  = "chat/marks"           // + room number: where the user has read up to
	maxMarks    = 1 << 14
)

// A chatSession is a device at work: package client with a homeserver behind HTTP
// and a sealed store on disk. It implements chatter.
type chatSession struct {
	profile *chatProfile
	home    *httpHome
	db      *store.DB
	kv      client.KV
	device  *client.Client

	wait time.Duration // that what is due may take before a verb goes on

	mu    sync.Mutex
	marks map[core.RoomID]*chatMark
	dirty map[core.RoomID]bool
	trust map[core.RoomID]trusted // how many devices of a Group are not verified
	names map[core.RoomID]string  // of rooms that were listed once
	seen  int                     // counts verifications, which void trust
	lines uint64                  // of events that have no place of their own
}

// A chatMark is how far a room was read, and what came since.
type chatMark struct {
	N      uint64      `cbor:"1,keyasint"`
	Room   core.RoomID `cbor:"2,keyasint"`
	Read   uint64      `cbor:"3,keyasint"`
	Last   uint64      `cbor:"4,keyasint"`
	Unread int         `cbor:"5,keyasint"`
}

type trusted struct {
	epoch      uint64
	seen       int
	unverified int
}

// openSession opens a profile: its store, its device, its homeserver.
func openSession(ctx context.Context, p *chatProfile, secret client.Secret, wait time.Duration) (*chatSession, error) {
	home, err := newHTTPHome(p.Server, p.CA)
	if err != nil {
		return nil, err
	}
	db, kv, err := p.open(ctx, secret, wait)
	if err != nil {
		return nil, err
	}
	s := &chatSession{profile: p, home: home, db: db, kv: kv, wait: max(wait, chatWait), marks: map[core.RoomID]*chatMark{}, dirty: map[core.RoomID]bool{}, trust: map[core.RoomID]trusted{}, names: map[core.RoomID]string{}}
	if s.device, err = client.Open(ctx, client.Config{Store: kv, Home: home, Rand: rand.Reader, Now: time.Now, Wait: sleepFor}); err == nil {
		err = s.loadMarks(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return s, nil
}

// sleepFor returns after d, or with ctx's error.
func sleepFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close gives the device up to other processes.
func (s *chatSession) Close() error {
	s.home.http.CloseIdleConnections()
	return errors.Join(s.saveMarks(context.Background()), s.db.Close())
}

// Self implements chatter.
func (s *chatSession) Self() chatSelf {
	return chatSelf{User: s.profile.User, Device: s.device.Device(), Server: s.profile.Server}
}

func (s *chatSession) loadMarks(ctx context.Context) error {
	rows, err := s.kv.Rows(ctx, tableMarks, 0, maxMarks)
	if err != nil {
		return err
	}
	for _, row := range rows {
		m := new(chatMark)
		if err := cbor.Unmarshal(row.Data, m); err != nil {
			return core.Errorf(core.Internal, "stored mark: %w", err)
		}
		s.marks[m.Room] = m
	}
	return nil
}

// saveMarks writes the marks that changed.
func (s *chatSession) saveMarks(ctx context.Context) error {
	s.mu.Lock()
	var rows []client.Row
	for room := range s.dirty {
		m := s.marks[room]
		b, err := cbor.Marshal(m)
		if err != nil {
			s.mu.Unlock()
			return core.Errorf(core.Internal, "mark: %w", err)
		}
		rows = append(rows, client.Row{Table: tableMarks, N: m.N, Data: b})
	}
	clear(s.dirty)
	s.mu.Unlock()
	if len(rows) == 0 {
		return nil
	}
	return s.kv.Write(ctx, rows)
}

// mark returns a room's mark. The caller holds the lock.
func (s *chatSession) mark(room core.RoomID) *chatMark {
	m := s.marks[room]
	if m == nil {
		m = &chatMark{N: uint64(len(s.marks)), Room: room}
		if len(s.marks) < maxMarks {
			s.marks[room] = m
		}
	}
	if s.marks[room] != nil {
		s.dirty[room] = true
	}
	return m
}

// Read implements chatter.
func (s *chatSession) Read(room core.RoomID, upTo uint64) error {
	s.mu.Lock()
	m := s.mark(room)
	if m.Read = max(m.Read, upTo); m.Read >= m.Last {
		m.Unread = 0
	}
	s.mu.Unlock()
	return s.saveMarks(context.Background())
}

// Rooms implements chatter.
func (s *chatSession) Rooms() ([]chatRoom, error) {
	ctx := context.Background()
	infos, err := s.device.Rooms(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]chatRoom, 0, len(infos))
	for _, i := range infos {
		r := chatRoom{Room: i.Room, Name: cmp.Or(i.Name, i.Room.Local()), Encrypted: i.Encrypted, Direct: i.Direct,
			Entering: !i.Joined && i.Halted == "", Domain: domainName(i.Domain), Epoch: i.Epoch, Authority: i.Authority, TwoThirds: i.Rule == policy.TwoThirds, Devices: i.Devices}
		s.mu.Lock()
		if m := s.marks[i.Room]; m != nil {
			r.Last, r.Read, r.Unread = m.Last, m.Read, m.Unread
		}
		s.mu.Unlock()
		if i.Halted != "" {
			r.Warnings = append(r.Warnings, "this room goes no further here: "+i.Halted)
		}
		if !i.Joined {
			r.Warnings = append(r.Warnings, "this device is not in the room yet, and cannot read it: it enters by itself, which may take some seconds")
		} else if i.Encrypted {
			if r.Unverified, err = s.unverified(ctx, i); err != nil {
				return nil, err
			}
		}
		s.mu.Lock()
		s.names[i.Room] = r.Name
		s.mu.Unlock()
		out = append(out, r)
	}
	sortRooms(out)
	return out, nil
}

// Left implements chatter.
func (s *chatSession) Left() ([]chatRoom, error) {
	infos, err := s.device.Left(context.Background())
	out := make([]chatRoom, 0, len(infos))
	for _, i := range infos {
		out = append(out, chatRoom{Room: i.Room, Name: cmp.Or(i.Name, i.Room.Local()), Encrypted: i.Encrypted, Direct: i.Direct, Domain: domainName(i.Domain)})
	}
	sortRooms(out)
	return out, err
}

// unverified counts the devices of others in a Group whose words nobody compared.
func (s *chatSession) unverified(ctx context.Context, i client.RoomInfo) (int, error) {
	s.mu.Lock()
	t, seen := s.trust[i.Room], s.seen
	s.mu.Unlock()
	if t.epoch == i.Epoch && t.seen == seen && t.epoch > 0 {
		return t.unverified, nil
	}
	members, err := s.device.Members(ctx, i.Room)
	if err != nil {
		return 0, err
	}
	t = trusted{epoch: i.Epoch, seen: seen}
	for _, m := range members {
		for _, d := range m.Devices {
			if !d.Self && !d.Verified {
				t.unverified++
			}
		}
	}
	s.mu.Lock()
	s.trust[i.Room] = t
	s.mu.Unlock()
	return t.unverified, nil
}

// domainName is a security domain as it is shown: a URI, or hexadecimal.
func domainName(group []byte) string {
	if s := string(group); utf8.Valid(group) && strings.HasPrefix(s, "mimi://") {
		return s
	}
	return hex.EncodeToString(group)
}

// History implements chatter. What waits to be accepted stands at the end.
func (s *chatSession) History(room core.RoomID, before uint64, limit int) ([]chatLine, error) {
	ctx, cancel := context.WithTimeout(context.Background(), homeTimeout)
	defer cancel()
	all, err := s.device.History(ctx, room, before, limit)
	if err != nil {
		return nil, err
	}
	verified := s.verifier(ctx)
	out := make([]chatLine, 0, len(all))
	for i := range all {
		if l, ok := lineOf(&all[i], verified); ok {
			out = append(out, l)
		}
	}
	return out, nil
}

// verifier says whether a device was verified: it looks each up once.
func (s *chatSession) verifier(ctx context.Context) func(m *client.Message) bool {
	known := map[core.DeviceURI]bool{}
	return func(m *client.Message) bool {
		if m.Device == "" || m.Own {
			return false
		}
		v, ok := known[m.Device]
		if !ok {
			members, err := s.device.Members(ctx, m.Room)
			if err != nil {
				return false
			}
			known[m.Device] = false
			for _, one := range members {
				for _, d := range one.Devices {
					known[d.Device] = d.Verified
				}
			}
			v = known[m.Device]
		}
		return v
	}
}

// lineOf is a message as a line; false for one that says nothing.
func lineOf(m *client.Message, verified func(*client.Message) bool) (chatLine, bool) {
	at := cmp.Or(m.Accepted, m.Sent)
	l := chatLine{Room: m.Room, Seq: m.Seq, Event: m.ID, Sender: m.Sender, Name: m.Name, Device: m.Device, At: time.UnixMilli(at), Kind: chatSaid,
		Text: m.Text, Own: m.Own, Epoch: m.Epoch, Waiting: m.Waiting}
	switch {
	case m.Deleted:
		l.Kind, l.Text = chatEvent, "(deleted)"
	case m.Failed != "":
		l.Kind, l.Text = chatWarning, "a message of "+shownUser(m.Sender, m.Name, "")+" cannot be read on this device: "+m.Failed
	case m.Type == core.ContentMIMI:
		l.read(m.Content)
	case m.Type == core.ContentControl && l.Text != "":
		l.Kind = chatEvent
	case m.Type == core.ContentControl:
		return l, false
	case l.Text == "" && strings.HasPrefix(m.Type, "text/"):
		l.Text = string(m.Content)
	case l.Text == "":
		l.Text = "[" + m.Type + "]"
	}
	if m.Waiting {
		l.Seq = math.MaxUint64
	}
	l.Verified = l.Kind != chatWarning && verified(m)
	return l, true
}

// read takes what MIMI content says.
func (l *chatLine) read(content []byte) {
	c, err := converter.ParseContent(content)
	if err != nil {
		l.Kind, l.Text = chatWarning, "a message that cannot be understood: "+core.TextOf(err)
		return
	}
	l.Text = c.Text()
	switch {
	case c.IsReaction():
		l.Kind = chatReaction
	case c.Kind == converter.KindEmote:
		l.Kind = chatEmote
	case c.Kind == converter.KindNotice:
		l.Kind = chatNotice
	case !c.Replaces.IsZero() && c.Part.Cardinality == converter.NullPart:
		l.Kind, l.Text = chatEvent, shownUser(l.Sender, l.Name, "")+" deleted a message"
	case !c.Replaces.IsZero():
		l.Text = "(edited) " + l.Text
	}
}

// Sync implements chatter. What is due and takes too long goes on with the next one.
func (s *chatSession) Sync(ctx context.Context) error {
	if _, err := s.take(ctx, 0); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, s.wait)
	defer cancel()
	if err := s.device.Tend(ctx); err != nil && !core.Temporary(err) {
		return &untended{err}
	}
	return nil
}

// take takes what is new, waiting up to wait, as news.
func (s *chatSession) take(ctx context.Context, wait time.Duration) (chatNews, error) {
	updates, err := s.device.Sync(ctx, wait)
	if err != nil {
		return chatNews{}, err
	}
	var n chatNews
	verified := s.verifier(ctx)
	for i := range updates {
		s.tell(&n, &updates[i], verified)
	}
	if n.Changed {
		if n.Rooms, err = s.Rooms(); err != nil {
			return n, err
		}
	}
	return n, s.saveMarks(ctx)
}

// tell adds an update to the news.
func (s *chatSession) tell(n *chatNews, u *client.Update, verified func(*client.Message) bool) {
	if u.Kind == client.Typing {
		return
	}
	n.Changed = true
	if u.Kind == client.NewMessage && u.Message != nil {
		s.mu.Lock()
		m := s.mark(u.Room)
		m.Last = max(m.Last, u.Message.Seq)
		if !u.Message.Own && u.Message.Seq > m.Read {
			m.Unread++
		}
		s.mu.Unlock()
		if l, ok := lineOf(u.Message, verified); ok {
			n.Lines = append(n.Lines, l)
		}
		return
	}
	text := updateText(u, s.profile.User.Domain())
	if text == "" {
		return
	}
	kind := chatEvent
	if u.Warning() {
		kind = chatWarning
		n.Warnings = append(n.Warnings, text)
	}
	if u.Kind == client.RoomLeft { // nobody looks into a room that is not in the list
		n.Warnings = append(n.Warnings, s.name(u.Room)+": "+text)
	}
	if u.Kind == client.NewLetter { // of no room, or of one that is not in the list yet
		n.Warnings = append(n.Warnings, text)
		return
	}
	if u.Room == "" {
		return
	}
	s.mu.Lock()
	s.lines++
	l := chatLine{Room: u.Room, Sender: u.User, Device: u.Device, At: time.Now(), Kind: kind, Text: text, Event: fmt.Sprintf("~%08d", s.lines)}
	if m := s.marks[u.Room]; m != nil {
		l.Seq = m.Last
	}
	if u.Seq > 0 { // else it stands after what was heard last
		l.Seq = u.Seq
	}
	s.mu.Unlock()
	n.Lines = append(n.Lines, l)
}

// name is what a room is called, or was when the user was in it.
func (s *chatSession) name(room core.RoomID) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return screenLine(cmp.Or(s.names[room], room.Local()))
}

// updateText says what happened, "" if nobody need know.
func updateText(u *client.Update, home string) string {
	who, text := shortUser(u.User, home), screenLine(u.Text)
	switch u.Kind {
	case client.RoomJoined:
		if text != "" {
			return "you are in this room now, " + text
		}
		return "you are in this room now"
	case client.RoomLeft:
		return "you are in this room no more"
	case client.RoomChanged:
		return "the room was changed: it is called " + text
	case client.MemberIn:
		return who + " came in"
	case client.MemberOut:
		return who + " is gone"
	case client.RoleChanged:
		return who + " is " + text + " now"
	case client.DeviceIn:
		return "device " + u.Device.ID() + " of " + who + " can read now"
	case client.DeviceOut:
		return "device " + u.Device.ID() + " of " + who + " can read no more"
	case client.NewLetter:
		if l := u.Letter; l != nil && l.Kind == client.LetterInvitation {
			from := shortUser(l.From, home)
			return from + " invites you to a room: /accept " + from + toEnter
		}
		return letterText(u.Letter, home, false)
	case client.UnlinkedDevice, client.Equivocation:
		return who + ", device " + u.Device.ID() + ": " + text
	case client.Alarm, client.Halted, client.Resynced, client.Unheard:
		return text
	}
	return ""
}

// toEnter is how one that tells of an invitation ends in the terminal client.
const toEnter = " enters it, /letters shows what came"

// letterText is a letter in one line, with what to do in a shell or in the
// terminal client.
func letterText(l *client.Letter, home string, shell bool) string {
	if l == nil {
		return ""
	}
	from := shortUser(l.From, home)
	switch l.Kind {
	case client.LetterInvitation:
		join := "/join " + string(l.Room) + " " + l.Code
		if shell {
			join = "isthmus chat join " + shellWord(string(l.Room)) + " --code " + shellWord(l.Code)
		}
		return from + " invites you: " + screenLine(join)
	case client.LetterConsent:
		allow := "/consent " + screenLine(string(l.From)) + " yes"
		if shell {
			allow = "isthmus chat consent " + shellWord(screenLine(string(l.From))) + " yes"
		}
		if l.Text == "request" {
			return from + " asks to be let add you to rooms: " + allow
		}
	case client.LetterKnock:
		return from + " asks to be let into " + screenLine(string(l.Room))
	}
	return from + ": " + screenLine(l.Text)
}

// shellWord quotes s for a shell if it has to be: who wrote it may be anybody.
func shellWord(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._:/@%", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// Listen implements chatter.
func (s *chatSession) Listen(ctx context.Context, tell func(chatNews)) error {
	ctx, stop := context.WithCancel(ctx)
	tended := make(chan struct{})
	go func() { defer close(tended); s.tend(ctx, tell) }()
	defer func() { stop(); <-tended }() // the store is closed after Listen
	delay := firstRetry
	for first := true; ctx.Err() == nil; first = false {
		wait := pollFor
		if first {
			wait = 0 // to know at once whether the homeserver is there
		}
		n, err := s.take(ctx, wait)
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			tell(n)
			delay = firstRetry
			continue
		case !core.Temporary(err):
			return err
		}
		tell(chatNews{Status: "reconnecting: " + core.TextOf(err)})
		if e, ok := errors.AsType[*core.Error](err); ok {
			delay = max(delay, min(e.RetryAfter, lastRetry))
		}
		if sleepFor(ctx, delay) != nil {
			return nil
		}
		delay = min(2*delay, lastRetry)
	}
	return nil
}

// tend does what is due every second. What fails is due again, and said once.
func (s *chatSession) tend(ctx context.Context, tell func(chatNews)) {
	said := ""
	for sleepFor(ctx, tendEvery) == nil {
		err := s.device.Tend(ctx)
		if err == nil || core.Temporary(err) || ctx.Err() != nil {
			continue
		}
		if text := core.TextOf(err); text != said {
			said = text
			tell(chatNews{Warnings: []string{text}})
		}
	}
}
