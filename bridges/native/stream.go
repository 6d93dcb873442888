package native

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"time"

	"github.com/coder/websocket"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of a stream.
const (
	heartbeat  = 30 * time.Second // between signs of life; the session is looked at again then
	writeTime  = 30 * time.Second // for one answer: who reads more slowly is let go
	maxWSInput = 1 << 20

	shortWSInput = 4 << 10 // octets that are read at once: most positions have fewer
)

// stream answers GET /v1/stream: over WebSocket if the request asks for one, else
// as server-sent events, or as lines for people.
func (a *api) stream(c *call) error {
	limit, err := c.number("limit")
	if err != nil {
		return err
	}
	in := &wire.GetSync{Since: c.r.URL.Query().Get("since"), Limit: int(min(limit, maxPage))}
	if last := c.r.Header.Get("Last-Event-ID"); last != "" {
		in.Since = last
	}
	rd, err := a.reader(c.ctx(), c.session, in)
	if err != nil {
		return err
	}
	defer rd.close()
	if c.r.Header.Get("Upgrade") != "" {
		return a.webSocket(c, rd)
	}
	form := accepted(c.r)
	if form != typeText {
		form = typeEvents
	}
	ctl := http.NewResponseController(c.w)
	ctl.SetReadDeadline(time.Time{}) // the server's bounds are for requests that end
	c.w.Header().Set("Content-Type", form+"; charset=utf-8")
	c.w.Header().Set("X-Accel-Buffering", "no") // a reverse proxy must not hold lines back
	c.w.WriteHeader(http.StatusOK)
	send := func(b []byte) error {
		ctl.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := c.w.Write(b); err != nil {
			return err
		}
		return ctl.Flush()
	}
	if send([]byte(signOfLife[form])) != nil { // it is open
		return nil
	}
	a.follow(c.ctx(), rd, func(s *wire.Sync) error {
		if s == nil {
			return send([]byte(signOfLife[form]))
		}
		return send(lines(form, s))
	})
	return nil // the status has been sent: that the stream ends says the rest
}

// signOfLife is what says nothing, in each form.
var signOfLife = map[string]string{typeEvents: ":\n\n", typeText: ""}

// lines says a sync as a server-sent event (https://html.spec.whatwg.org, §9.2),
// whose ID is the position, or as lines for people.
func lines(form string, s *wire.Sync) []byte {
	if form == typeText {
		b, _ := plainText(s)
		return b
	}
	_, body, err := encode(typeJSON, s)
	if err != nil {
		return []byte(":\n\n")
	}
	return bytes.Join([][]byte{[]byte("id: " + s.Next + "\nevent: sync\ndata: "), bytes.TrimRight(body, "\n"), []byte("\n\n")}, nil)
}

// follow hands every sync to send, and nil as a sign of life, until either side
// ends it.
func (a *api) follow(ctx context.Context, rd *reader, send func(*wire.Sync) error) error {
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	looked := a.cfg.Now()
	for {
		s, err := rd.next(ctx, beat.C)
		if err != nil {
			return err
		}
		if len(s.Events)+len(s.Letters)+len(s.Typing)+len(s.Joined)+len(s.Left) == 0 {
			s = nil
		}
		if now := a.cfg.Now(); s == nil || now.Sub(looked) >= heartbeat { // also where there is always something to say
			if err := a.stillOpen(ctx, rd.s); err != nil {
				return err
			}
			looked = now
		}
		if err := send(s); err != nil {
			return err
		}
	}
}

// stillOpen says why a stream must end: its session is over, or was closed by
// somebody that the hub has not heard of.
func (a *api) stillOpen(ctx context.Context, s core.Session) error {
	if !a.cfg.Now().Before(s.Expires) {
		return errNoSession
	}
	return a.gw().View(ctx, func(r core.Reader) error {
		if s.Hash == basicHash(s.User) {
			return nil
		}
		_, err := core.SessionOf(r, s.Hash)
		return err
	})
}

// webSocket sends syncs as messages: text with JSON, or binary with CBOR. What the
// device sends is a GetSync, of which Since counts: it acknowledges letters.
func (a *api) webSocket(c *call, rd *reader) error {
	ws, err := websocket.Accept(c.w, c.r, &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled}) // no secrets of two people in one compressed stream
	if err != nil {
		return nil // Accept has answered
	}
	defer ws.CloseNow()
	ws.SetReadLimit(maxWSInput)
	form, kind := typeJSON, websocket.MessageText
	if accepted(c.r) == typeCBOR {
		form, kind = typeCBOR, websocket.MessageBinary
	}
	ctx, stop := context.WithCancel(a.running.Load().ctx) // the request's ends with its handler's server
	defer stop()
	go func() {
		defer stop()
		a.hear(ctx, c.r, ws, rd)
	}()
	err = a.follow(ctx, rd, func(s *wire.Sync) error {
		ctx, cancel := context.WithTimeout(ctx, writeTime)
		defer cancel()
		if s == nil {
			return ws.Ping(ctx)
		}
		_, b, err := encode(form, s)
		if err != nil {
			return err
		}
		return ws.Write(ctx, kind, b)
	})
	status, why := websocket.StatusGoingAway, "the homeserver is stopping"
	if core.CodeOf(err) == core.Unauthenticated || core.CodeOf(err) == core.NotFound {
		status, why = websocket.StatusPolicyViolation, "the session has ended"
	}
	ws.Close(status, why)
	return nil
}

// hearOne reads one message, as serve reads a body: before more than a little of it
// there is room, and there is a time for it. Who sends slowly, on many streams, takes
// no more than a share.
func (a *api) hearOne(ctx context.Context, ws *websocket.Conn, who core.UserURI) (kind websocket.MessageType, b []byte, free func(), err error) {
	kind, r, err := ws.Reader(ctx)
	if err != nil {
		return kind, nil, nil, err
	}
	late := time.AfterFunc(writeTime, func() { ws.CloseNow() })
	defer late.Stop()
	free = func() {}
	if b, err = io.ReadAll(io.LimitReader(r, shortWSInput)); err != nil || len(b) < shortWSInput {
		return kind, b, free, err
	}
	free, ok := a.bodies.take(string(who), maxWSInput)
	if !ok {
		return kind, nil, nil, errBusy
	}
	rest, err := io.ReadAll(r)
	if err != nil {
		free()
	}
	return kind, append(b, rest...), free, err
}

// hear reads what the device sends until the connection ends.
func (a *api) hear(ctx context.Context, r *http.Request, ws *websocket.Conn, rd *reader) {
	for {
		kind, b, free, err := a.hearOne(ctx, ws, rd.s.User)
		if err != nil {
			ws.CloseNow()
			return
		}
		var in wire.GetSync
		if kind == websocket.MessageBinary {
			err = cborIn.Unmarshal(b, &in)
		} else {
			err = decode(&http.Request{Header: http.Header{"Content-Type": {typeJSON}}}, b, &in)
		}
		if err == nil {
			err = a.limits.request(&rd.s, a.cfg.Now())
		}
		var p position
		if err == nil {
			p, err = parsePosition(in.Since)
		}
		if err == nil {
			err = rd.acknowledge(ctx, p.letters)
		}
		free()
		if err != nil {
			ws.Close(websocket.StatusPolicyViolation, core.TextOf(err))
			return
		}
	}
}
