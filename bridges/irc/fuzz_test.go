package irc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

func FuzzParseLine(f *testing.F) {
	for _, s := range []string{"PING x", "@a ", "@a=b;c :src CMD a b :c d", "@+a=\\s\\:\\r\\n\\\\ X", ":x", " ", "\x00", "é \xff",
		"A 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16", "PRIVMSG #c :\x01ACTION x\x01"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var l line
		if err := l.parse(b); err != nil {
			return
		}
		if l.command == "" || strings.ContainsAny(l.command, " \r\n\x00") || len(l.params) > maxParams {
			t.Fatalf("parsed %q as %+v", b, l)
		}
		// What is written again is one line that says the same.
		out := []byte(l.command)
		for i, p := range l.params {
			if strings.ContainsAny(p, "\r\n\x00") {
				t.Fatalf("parameter %q", p)
			}
			if i == len(l.params)-1 {
				out = appendTrailing(out, p)
			} else {
				out = appendMiddle(out, p)
			}
		}
		for _, tg := range l.tags {
			v := appendTag(nil, 0, "k", tg.value)
			if bytes.ContainsAny(v, "\r\n\x00; ") {
				t.Fatalf("tag value %q is written as %q", tg.value, v)
			}
		}
		var again line
		if err := again.parse(out); err != nil && err != errLongLine {
			t.Fatalf("%q is written as %q: %v", b, out, err)
		} else if err == nil && (again.command != l.command || len(again.params) != len(l.params)) {
			t.Fatalf("%q is written as %q", b, out)
		}
	})
}

// openGateway accepts everything and publishes it: what the real engine would
// refuse is tried too.
type openGateway struct {
	srv *Server
	mu  sync.Mutex
	seq map[core.RoomID]uint64
}

func (g *openGateway) Submit(_ context.Context, es ...core.Envelope) ([]core.Receipt, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var b bridges.Batch
	rs := make([]core.Receipt, len(es))
	for i, env := range es {
		g.seq[env.Room]++
		e := core.Event{Envelope: env, Seq: g.seq[env.Room], ID: core.NewEventID(env.Room, testDomain, g.seq[env.Room]), Accepted: time.Now()}
		if s, ok := env.Body.(core.Signed); ok && s.ContentType == core.ContentControl {
			c, err := core.ParseControl(s.Content)
			if err != nil {
				rs[i].Err = err
				continue
			}
			if c.User == "" {
				c.User = env.Sender
			}
			if c.Op == core.OpJoin {
				c.Role = core.RoleMember
			}
			e.Control = c
		}
		b.Events = append(b.Events, e)
		rs[i].Event = &e
	}
	g.srv.Publish(b)
	return rs, nil
}

func (g *openGateway) Do(_ context.Context, in core.Input) (core.Output, error) {
	if c, ok := in.(core.CreateRoom); ok {
		g.srv.Publish(bridges.Batch{Rooms: []core.Room{c.Room}, Members: [][]core.Member{c.Members}})
		return core.Output{Room: &c.Room}, nil
	}
	return core.Output{}, nil
}

func (g *openGateway) DoAll(ctx context.Context, ins ...core.Input) ([]core.Output, []error, error) {
	return doEach(ctx, g, ins)
}

func (g *openGateway) View(_ context.Context, f func(core.Reader) error) error {
	return f(emptyReader{})
}

func (g *openGateway) Signal(s core.Signal) { g.srv.Signal(s) }

// emptyReader is a store with nothing in it.
type emptyReader struct{}

var errAbsent = core.Errorf(core.NotFound, "absent")

func (emptyReader) Room(core.RoomID) (core.Room, error)                  { return core.Room{}, errAbsent }
func (emptyReader) Rooms(core.RoomID, int) ([]core.Room, error)          { return nil, nil }
func (emptyReader) Members(core.RoomID) ([]core.Member, error)           { return nil, nil }
func (emptyReader) Bans(core.RoomID) ([]core.Ban, error)                 { return nil, nil }
func (emptyReader) Head(core.RoomID) (uint64, time.Time, error)          { return 0, time.Time{}, nil }
func (emptyReader) Event(core.RoomID, uint64) (core.Event, error)        { return core.Event{}, errAbsent }
func (emptyReader) Events(core.RoomID, core.Range) ([]core.Event, error) { return nil, nil }
func (emptyReader) SeqAt(core.RoomID, time.Time) (uint64, error)         { return 1, nil }
func (emptyReader) Link(string) (core.Link, error)                       { return core.Link{}, errAbsent }
func (emptyReader) Links(string, int) ([]core.Link, error)               { return nil, nil }
func (emptyReader) Cursor(string, core.Lane) (core.Cursor, error)        { return core.Cursor{}, nil }
func (emptyReader) Placed(string, core.EventID) ([]core.Placed, error)   { return nil, nil }
func (emptyReader) PlacedAs(string, string) (core.Placed, error)         { return core.Placed{}, errAbsent }
func (emptyReader) Items(core.UserURI, uint64, int) ([]core.Item, error) { return nil, nil }
func (emptyReader) Account(string) (core.Account, error)                 { return core.Account{}, errAbsent }
func (emptyReader) Accounts(string, int) ([]core.Account, error)         { return nil, nil }
func (emptyReader) Value(string, string) ([]byte, error)                 { return nil, errAbsent }
func (emptyReader) Values(string, string, int) ([]core.Value, error)     { return nil, nil }
func (emptyReader) ByOrigin(core.Network, string) (core.RoomID, uint64, error) {
	return "", 0, errAbsent
}
func (emptyReader) RoomsOf(core.UserURI, core.RoomID, int) ([]core.RoomID, error) { return nil, nil }
func (emptyReader) JoinedVia(core.Network, core.Presence, int) ([]core.Presence, error) {
	return nil, nil
}

// A panicWatch is a log that remembers a session's panic.
type panicWatch struct {
	slog.Handler
	said chan string
}

func (w panicWatch) Enabled(context.Context, slog.Level) bool { return true }
func (w panicWatch) Handle(_ context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "panic") {
		r.Attrs(func(a slog.Attr) bool { r.Message += " " + a.Value.String(); return true })
		select {
		case w.said <- r.Message:
		default:
		}
	}
	return nil
}

// Whatever a client sends, the server neither fails nor sends a broken line.
func FuzzSession(f *testing.F) {
	caps := "CAP REQ :message-tags server-time batch labeled-response echo-message account-tag extended-join multi-prefix setname\r\n"
	reg := "NICK a\r\nUSER a 0 * :a\r\nCAP END\r\n"
	for _, s := range []string{
		reg + "JOIN #c\r\nPRIVMSG #c :hi\r\nTOPIC #c :t\r\nMODE #c +mb-o+k x!*@* a key\r\nNAMES #c\r\nPART #c\r\nQUIT\r\n",
		caps + reg + "@label=1 JOIN #c,#d,&e\r\n@label=2;+reply=x PRIVMSG #c,a :hi\r\n@label=3 WHO #c\r\n@+typing=active TAGMSG #c\r\n",
		"CAP LS 302\r\nCAP REQ :-x sasl\r\nAUTHENTICATE PLAIN\r\nAUTHENTICATE +\r\nAUTHENTICATE *\r\nCAP END\r\n",
		reg + "KICK #c a\r\nINVITE a #c\r\nLIST >0,#*\r\nAWAY :x\r\nNICK b\r\nSETNAME :\x02b\r\nISON a b\r\nUSERHOST a b c d e f\r\nWHOIS a\r\n",
		caps + reg + "JOIN #c\r\nCHATHISTORY LATEST #c * 10\r\nMONITOR + a,b\r\nMARKREAD #c\r\nMETADATA * SET avatar :x\r\nBATCH +1 draft/multiline #c\r\n@batch=1 PRIVMSG #c :x\r\nBATCH -1\r\n",
		"@a \r\n\x00\r\n\xff\r\n" + reg + strings.Repeat("x", 600),
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 32<<10 {
			return
		}
		cfg := Defaults(testDomain)
		cfg.CommandInterval = 0
		watch := panicWatch{slog.DiscardHandler, make(chan string, 1)}
		srv := New(cfg, slog.New(watch))
		g := &openGateway{srv: srv, seq: map[core.RoomID]uint64{}}
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		if err := srv.start(ctx, g); err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		var out []byte
		read := make(chan struct{})
		go func() {
			defer close(read)
			out, _ = io.ReadAll(io.LimitReader(ours, 64<<20))
		}()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			srv.serve(ctx, theirs, connInfo{addr: netip.MustParseAddr("192.0.2.1")})
		}()
		ours.SetWriteDeadline(time.Now().Add(10 * time.Second))
		if _, err := ours.Write(append(in, "\r\nQUIT\r\n"...)); err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Fatalf("the session hangs: %v", err)
		}
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			t.Fatal("the session does not end")
		}
		ours.SetReadDeadline(time.Now().Add(time.Second))
		<-read
		select {
		case said := <-watch.said:
			t.Fatal(said)
		default:
		}
		checkLines(t, out)
	})
}

func checkLines(t *testing.T, out []byte) {
	for len(out) > 0 {
		i := bytes.Index(out, []byte("\r\n"))
		if i < 0 {
			return // cut off by the end
		}
		l := out[:i]
		out = out[i+2:]
		body := l
		if len(l) > 0 && l[0] == '@' {
			_, body, _ = bytes.Cut(l, []byte(" "))
		}
		if bytes.ContainsAny(l, "\r\n\x00") || len(body) > maxBody-2 || len(l)-len(body) > maxTags {
			t.Fatalf("bad line (%d octets) %.200q", len(l), l)
		}
	}
}
