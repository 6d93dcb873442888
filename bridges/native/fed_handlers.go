package native

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of single requests between homeservers.
const (
	maxRecordsUsers   = 64  // users, and domains, that one request asks about
	maxRecordsGiven   = 256 // records that one request hands over
	maxRecordsBody    = 4 << 20
	maxRecordsAnswer  = 8 << 20 // octets of an answer, and of one user more; who asks about fewer gets all
	maxStrangeRooms   = 64      // messages of one request of who shares no room with us
	maxCatchUp        = 1024    // events of one answer
	maxCatchUpScanned = 16 * maxCatchUp
	maxReply          = errorBody - smallReply // octets of the agreement's messages in an answer
	smallReply        = 1 << 10                // and of what is around them
)

// takeRaft answers POST raft. It answers when the messages are decided, so that a
// peer that sends faster than we can store is held back by its own requests. What the
// agreement says to them is on disk by then and goes back with the answer: as a request
// of its own it reached a waiting leader 0.1 to 0.2 ms later, and cost both sides as
// much as the message that it answers.
func (f *federation) takeRaft(ctx context.Context, from string, in *wire.Raft) (any, error) {
	if len(in.Messages) > maxAgree {
		return nil, core.Errorf(core.TooLarge, "more than %d messages at once", maxAgree)
	}
	who := from
	if !f.known(from) { // whoever has a certificate, with any number of ports: they get no series each
		who = "strangers"
	}
	if who != from && len(in.Messages) > maxStrangeRooms { // each looks for its room in the store
		return nil, &core.Error{Code: core.Limited, Text: "more messages at once than of who shares a room with this homeserver", RetryAfter: time.Second}
	}
	for i := range in.Messages {
		if _, err := core.ParseRoomID(string(in.Messages[i].Room)); err != nil {
			return nil, err
		}
	}
	f.metrics.received.WithLabelValues(who, "agreement").Add(float64(len(in.Messages)))
	out, err := f.gw.Do(ctx, core.PeerMessages{From: from, Messages: in.Messages, Answer: in.Answer})
	n := answerable(out.Replies)
	if n < len(out.Replies) {
		if p, err := f.peer(from); err == nil {
			for _, m := range out.Replies[n:] {
				p.agree.put(m, false)
			}
		}
	}
	if err != nil || n == 0 {
		return nil, err
	}
	f.metrics.sent.WithLabelValues(who, "agreement").Add(float64(n))
	return wire.Raft{Messages: out.Replies[:n]}, nil
}

// answerable is how many messages of the agreement an answer takes: those with the
// state of a room have a request of their own.
func answerable(ms []core.PeerMessage) (n int) {
	for octets := 0; n < len(ms); n++ {
		if octets += len(ms[n].Body) + len(ms[n].Room) + eventCost; octets > maxReply {
			break
		}
	}
	return n
}

// takeEvents answers POST events: all rooms share a transaction, and each has a
// result of its own.
func (f *federation) takeEvents(ctx context.Context, q *question) (any, error) {
	rooms, err := parseEvents(q.body)
	if err != nil {
		return nil, err
	}
	inputs := make([]core.Input, len(rooms))
	count := 0
	for i, r := range rooms {
		inputs[i] = core.PeerEvents{From: q.from, Room: r.Room, Log: r.Log, Events: r.Events}
		count += len(r.Events)
	}
	outs, errs, err := f.gw.DoAll(ctx, inputs...)
	if err != nil {
		return nil, err
	}
	answer := wire.Stored{Rooms: make([]wire.RoomStored, len(rooms))}
	for i, r := range rooms {
		answer.Rooms[i] = wire.RoomStored{Room: r.Room, Seq: outs[i].Stored, Passed: outs[i].Passed, Log: outs[i].Log, Mark: outs[i].Mark}
		switch {
		case errs[i] != nil:
			answer.Rooms[i].Code = core.CodeOf(errs[i]).String()
		case outs[i].Stopped != core.Internal:
			answer.Rooms[i].Code = outs[i].Stopped.String()
		}
	}
	f.metrics.received.WithLabelValues(q.from, "events").Add(float64(count))
	return answer, nil
}

// giveEvents answers GET events/{room}?origin&from&limit: what our users sent to a
// room after a place in our log, for who missed it.
func (f *federation) giveEvents(ctx context.Context, q *question) (any, error) {
	name, err := url.PathUnescape(strings.TrimPrefix(q.r.URL.EscapedPath(), wire.PeerPath+"events/"))
	if err != nil {
		return nil, core.Errorf(core.Invalid, "the path is not escaped well")
	}
	room, err := core.ParseRoomID(name)
	if err != nil {
		return nil, err
	}
	ask := q.r.URL.Query()
	if o := ask.Get("origin"); o != "" && o != f.cfg.Domain {
		return nil, core.Errorf(core.NotFound, "each homeserver gives out its own log")
	}
	from, err1 := strconv.ParseUint("0"+ask.Get("from"), 10, 63)
	limit, err2 := strconv.ParseUint("0"+ask.Get("limit"), 10, 31)
	if err1 != nil || err2 != nil {
		return nil, core.Errorf(core.Invalid, "from and limit are numbers")
	}
	if limit == 0 || limit > maxCatchUp {
		limit = maxCatchUp
	}
	out := wire.RoomEvents{Room: room, Events: []core.PeerEvent{}}
	err = f.gw.View(ctx, func(r core.Reader) error {
		if err := shares(r, room, q.from); err != nil {
			return err
		}
		if out.Log, err = core.LogOf(r, room); err != nil {
			return err
		}
		out.Events, err = ownEvents(r, room, from, int(limit))
		return err
	})
	return out, err
}

// shares says why a peer may not ask about a room: nil if it has participants there.
func shares(r core.Reader, room core.RoomID, peer string) error {
	head, err := core.GroupOf(r, room)
	if err == nil {
		for _, d := range head.Domains {
			if d == peer {
				return nil
			}
		}
	} else if core.CodeOf(err) != core.NotFound {
		return err
	}
	return core.Errorf(core.NotFound, "your homeserver has nobody in such a room here")
}

// ownEvents reads what our users sent after a place.
func ownEvents(r core.Reader, room core.RoomID, from uint64, limit int) ([]core.PeerEvent, error) {
	out, prev, octets := []core.PeerEvent{}, from, 0
	for scanned := 0; scanned < maxCatchUpScanned; {
		es, err := r.Events(room, core.Range{After: from, Limit: readChunk})
		if err != nil {
			return nil, err
		}
		for i := range es {
			from = es[i].Seq
			p, ok := ownMessage(&es[i])
			if !ok {
				continue
			}
			if octets += len(p.Message) + eventCost; len(out) == limit || octets > maxBatch && len(out) > 0 {
				return out, nil
			}
			p.Prev, prev = prev, p.Seq
			out = append(out, p)
		}
		if scanned += len(es); len(es) < readChunk {
			break
		}
	}
	return out, nil
}

// ownMessage returns an event as it is told to other homeservers, if it is an
// application message of one of our own users.
func ownMessage(e *core.Event) (core.PeerEvent, bool) {
	s, sealed := e.Body.(core.Sealed)
	if !sealed || e.Home != "" || e.Deleted || s.Handshake() {
		return core.PeerEvent{}, false
	}
	return core.PeerEvent{Seq: e.Seq, Accepted: e.Accepted.UnixMilli(), Sender: e.Sender, Message: s.Message}, true
}

// giveKeyPackages answers POST key-packages/claim. Who gets a package will want to
// bring its owner a Welcome, and then more.
func (f *federation) giveKeyPackages(ctx context.Context, from string, in *wire.PeerClaim) (any, error) {
	switch {
	case len(in.Users) == 0 || len(in.Users) > core.MaxClaim:
		return nil, core.Errorf(core.Invalid, "a claim is for 1 to %d users", core.MaxClaim)
	case in.By.Domain() != from:
		return nil, core.Errorf(core.Denied, "a homeserver asks for its own users")
	}
	for _, u := range in.Users {
		if u.Domain() != f.cfg.Domain {
			return nil, core.Errorf(core.NotFound, "that user belongs to another homeserver")
		}
	}
	out, err := f.gw.Do(ctx, core.ClaimKeyPackages{By: from, For: in.By, Users: in.Users, Suites: in.Suites, Except: in.Except})
	if err != nil {
		return nil, err
	}
	for _, c := range out.Claims {
		if c.Status == core.Claimed {
			f.meet(from)
			break
		}
	}
	return wire.Claims{Claims: out.Claims}, nil
}

// giveRecords answers POST records. What is handed over about users of others is
// taken from those who share rooms with us: records prove themselves, but they
// take room.
func (f *federation) giveRecords(ctx context.Context, from string, in *wire.PeerRecords) (any, error) {
	if len(in.Users) > maxRecordsUsers || len(in.Domains) > maxRecordsUsers || len(in.Records) > maxRecordsGiven {
		return nil, core.Errorf(core.TooLarge, "more users, domains or records than one request has")
	}
	if err := f.takeRecords(ctx, in.Records, func(domain string) bool { return domain == from || f.known(from) }); err != nil {
		return nil, err
	}
	var out wire.PeerRecordsAnswer
	err := f.gw.View(ctx, func(r core.Reader) error {
		out = wire.PeerRecordsAnswer{}
		octets := 0
		for _, u := range in.Users {
			if octets > maxRecordsAnswer {
				break
			}
			ds, err := core.DevicesOf(r, u)
			if err != nil && core.CodeOf(err) != core.NotFound {
				return err
			}
			for _, d := range ds {
				out.Records = append(out.Records, d.Proof)
				octets += len(d.Proof.Record) + len(d.Proof.Attestation)
			}
		}
		for _, d := range in.Domains {
			if octets > maxRecordsAnswer {
				break
			}
			h, err := core.HomeserverOf(r, d)
			if core.CodeOf(err) == core.NotFound && err != nil {
				continue
			}
			if err != nil {
				return err
			}
			w := wire.Homeserver{Domain: d}
			for _, rec := range h.Records() {
				w.Records = append(w.Records, rec.Encode())
				octets += len(rec.Bytes)
			}
			out.Homeservers = append(out.Homeservers, w)
		}
		return nil
	})
	return out, err
}

// takeRecords takes up device records of domains that may be taken. One that is
// refused is its sender's loss alone.
func (f *federation) takeRecords(ctx context.Context, records []core.Identity, may func(domain string) bool) error {
	var ins []core.Input
	for _, id := range records {
		rec, err := identity.ParseRecord(id.Record)
		if err != nil || rec.Domain() == f.cfg.Domain || f.fc.Blocked(rec.Domain()) || !may(rec.Domain()) {
			continue
		}
		ins = append(ins, core.PutDevice{Proof: id})
	}
	if len(ins) == 0 {
		return nil
	}
	_, _, err := f.gw.DoAll(ctx, ins...)
	return err
}

// takeWelcome answers POST welcome: it is kept when it is answered.
func (f *federation) takeWelcome(ctx context.Context, from string, in *wire.PeerWelcome) (any, error) {
	_, err := f.gw.Do(ctx, core.PutWelcome{From: from, Welcome: core.Welcome{To: f.cfg.Domain, Room: in.Room, Epoch: in.Epoch,
		Message: in.Message, Tree: in.Tree}})
	if err == nil {
		f.meet(from) // the agreement of the room comes next
		if d := in.Room.Domain(); d != f.cfg.Domain {
			f.meet(d)
		}
	}
	return nil, err
}

// takeLetters answers POST inbox.
func (f *federation) takeLetters(ctx context.Context, from string, in *wire.PeerInbox) (any, error) {
	if in.From.Domain() != from {
		return nil, core.Errorf(core.Denied, "a homeserver brings the letters of its own users")
	}
	letters, err := lettersOf(in.Letters)
	if err != nil {
		return nil, err
	}
	for _, l := range letters {
		if l.Device.Domain() != f.cfg.Domain {
			return nil, core.Errorf(core.NotFound, "that device belongs to another homeserver")
		}
	}
	_, err = f.gw.Do(ctx, core.PutLetters{From: from, Letters: letters})
	return nil, err
}

// giveGroupInfo answers POST group-info. The device's record comes along, so that
// its external commit can be judged.
func (f *federation) giveGroupInfo(ctx context.Context, from string, in *wire.PeerGroupInfo) (any, error) {
	if in.User.Domain() != from || in.By.Domain() != from {
		return nil, core.Errorf(core.Denied, "a homeserver asks for its own users")
	}
	if _, err := inboxKey(in.Key); err != nil { // before a lease is spent on it
		return nil, err
	}
	f.acquaint(ctx, from) // who joins may be the first of its homeserver that comes here
	if err := f.takeRecords(ctx, []core.Identity{in.Proof}, func(domain string) bool { return domain == from }); err != nil {
		return nil, err
	}
	lease, err := f.codes.lease(ctx, f.gw, core.HostOf(from), core.LeaseGroupInfo{Room: in.Room, User: in.User, By: in.By}, in.Code)
	if err != nil {
		return nil, err
	}
	return sealGroupInfo(in.Room, in.Key, lease)
}

// takeHandshake answers POST handshakes: we offer it to the agreement, and answer
// what it came to.
func (f *federation) takeHandshake(ctx context.Context, from string, in *wire.PeerHandshake) (any, error) {
	if in.By.Domain() != from {
		return nil, core.Errorf(core.Denied, "a homeserver brings the handshakes of its own users")
	}
	w := &in.Handshake
	if len(w.More) > core.MaxProposals || len(w.Records) > core.MaxRecords {
		return nil, core.Errorf(core.TooLarge, "more proposals or records than one handshake has")
	}
	f.acquaint(ctx, from) // so that the commit can be judged
	d, err := f.offers.offer(ctx, f.gw, &core.Handshake{Room: in.Room, By: in.By, Home: f.cfg.Domain, Message: w.Message, More: w.More,
		Welcome: w.Welcome, Info: w.Info, Records: w.Records})
	if err != nil {
		return nil, err
	}
	f.meet(from)
	return wire.Decided{Epoch: d.Epoch, Seq: d.Seq}, nil
}
