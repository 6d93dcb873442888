package converter

import (
	"net/url"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// maxRoles bounds the roles that one change of power levels may set.
const maxRoles = 256

// Inbound returns the envelopes of an event: one, or several where one event
// changes several things (power levels, a ban), each with its own origin ID.
// Encrypted events and unknown types without a text are Unsupported, wrong
// shapes Invalid, more than a bound TooLarge; a redaction of what is not known
// is NotFound. No envelopes and no error mean that nothing changes here.
func (x Matrix) Inbound(m MatrixEvent, names Names) ([]core.Envelope, error) {
	if m.EventID == "" || len(m.EventID) > core.MaxOriginID {
		return nil, core.Errorf(core.Invalid, "event without an ID within bounds")
	}
	v, err := parseJSON(m.Content)
	if err != nil {
		return nil, err
	}
	if !v.isObject() {
		return nil, core.Errorf(core.Invalid, "content is not an object")
	}
	in := matrixReader{m: &m, v: v, names: names}
	in.env = core.Envelope{Room: m.Room, Sender: m.User, Sent: time.UnixMilli(m.SentMS),
		Origin: core.Origin{Network: m.Network, ID: m.EventID, Trail: m.Trail}}
	if m.StateKey != nil {
		return in.state()
	}
	return in.timeline()
}

type matrixReader struct {
	m     *MatrixEvent
	v     value
	names Names
	env   core.Envelope
}

func (r *matrixReader) unsupported() error {
	return core.Errorf(core.Unsupported, "event of type %q", cutRunes(oneLine(r.m.Type), 64))
}

// control returns one envelope for each control message.
func (r *matrixReader) control(cs ...core.Control) ([]core.Envelope, error) {
	out := make([]core.Envelope, len(cs))
	for i, c := range cs {
		c.Text = cutOctets(c.Text, core.MaxControlText)
		out[i] = r.env
		if i > 0 {
			out[i].Origin.ID += "/" + string(appendInt(nil, int64(i)))
		}
		out[i].Body = c.Body(r.m.Name)
	}
	return out, nil
}

// cutOctets returns the start of s that fits in n octets.
func cutOctets(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}

func (r *matrixReader) timeline() ([]core.Envelope, error) {
	c := Content{}
	var err error
	switch r.m.Type {
	case "m.room.message", "m.sticker":
		err = r.message(&c)
	case "m.reaction":
		rel := r.v.get("m.relates_to")
		if !rel.get("rel_type").is("m.annotation") {
			return nil, core.Errorf(core.Invalid, "a reaction without its annotation")
		}
		target, ok := r.names.ByForeign(rel.get("event_id").str())
		if !ok {
			return nil, core.Errorf(core.NotFound, "no message to react to")
		}
		err = c.react(target, rel.get("key").str(), r.names)
	case "m.room.redaction":
		return r.redaction()
	case "m.room.encrypted":
		return nil, core.Errorf(core.Unsupported, "encrypted event")
	default:
		err = r.extensible(&c)
	}
	if err != nil {
		return nil, err
	}
	return r.content(&c)
}

// content returns c as the only envelope.
func (r *matrixReader) content(c *Content) ([]core.Envelope, error) {
	var seed [512]byte
	c.Salt = NewSalt(append(append(append(seed[:0], r.m.Network...), 0), r.m.EventID...))
	c.External = ExternalID{ID: []byte(r.m.EventID), Domain: domainOf(r.m.Network)}
	if _, network, _, ok := originOf(r.v); ok && strings.IndexByte(string(network), ':') >= 0 &&
		!r.env.Origin.Passed(network) && len(r.env.Origin.Trail) < core.MaxTrail {
		trail := append(make([]core.Network, 0, len(r.m.Trail)+1), r.m.Trail...)
		r.env.Origin.Trail = append(trail, network)
	}
	e := c.Envelope(r.env, r.m.Name)
	if s, _ := e.Body.(core.Signed); len(s.Content) > core.MaxContent {
		return nil, core.Errorf(core.TooLarge, "message over %d octets", core.MaxContent)
	}
	return []core.Envelope{e}, nil
}

// domainOf returns the second half of a network's name, "matrix:example.org".
func domainOf(n core.Network) string {
	_, domain, ok := strings.Cut(string(n), ":")
	if !ok {
		return string(n)
	}
	return domain
}

func (r *matrixReader) redaction() ([]core.Envelope, error) {
	id, ok := r.names.ByForeign(firstOf(r.m.Redacts, r.v.get("redacts").str()))
	if !ok {
		return nil, core.Errorf(core.NotFound, "no event to remove")
	}
	if e, ok := r.names.Event(id); ok {
		if old, err := ContentOf(e); err == nil && old.IsReaction() && e.Sender == r.m.User {
			var c Content
			if err := c.unreact(e); err != nil {
				return nil, err
			}
			return r.content(&c)
		}
	}
	return r.control(core.Control{Op: core.OpDelete, Event: id, Text: oneLine(r.v.get("reason").str())})
}

// message reads m.room.message and m.sticker.
func (r *matrixReader) message(c *Content) error {
	rel := r.v.get("m.relates_to")
	v := r.v
	if rel.get("rel_type").is("m.replace") {
		if v = r.v.get("m.new_content"); !v.isObject() {
			return core.Errorf(core.Invalid, "an edit without m.new_content")
		}
		target, ok := r.names.ByForeign(rel.get("event_id").str())
		if ok {
			if err := c.edit(target, r.m.User, r.names); err != nil && core.CodeOf(err) == core.Denied {
				return err
			}
		}
	} else if rel.isObject() {
		r.relate(c, rel)
	}
	reply := rel.get("m.in_reply_to").isObject()
	switch t := v.get("msgtype"); {
	case r.m.Type == "m.sticker":
		return r.file(c, v)
	case t.is("m.text"):
	case t.is("m.notice"):
		c.Kind = KindNotice
	case t.is("m.emote"):
		c.Kind = KindEmote
	case t.is("m.image"), t.is("m.file"), t.is("m.audio"), t.is("m.video"):
		return r.file(c, v)
	case strings.HasPrefix(t.str(), "m.key.verification"):
		return r.unsupported()
	}
	c.Part = r.text(v, reply)
	if geo := v.get("geo_uri").str(); geo != "" && c.Part.Cardinality == SinglePart && !strings.Contains(string(c.Part.Body), geo) {
		c.Part.Body = append(append(c.Part.Body, ' '), oneLine(geo)...)
	}
	if c.Part.Cardinality == NullPart {
		return core.Errorf(core.Invalid, "message without a body")
	}
	return nil
}

// relate reads a reply and a thread.
func (r *matrixReader) relate(c *Content, rel value) {
	thread := rel.get("rel_type").is("m.thread")
	if thread {
		root := rel.get("event_id").str()
		if id, ok := r.names.ByForeign(root); ok {
			c.Topic = id.AppendText(nil)
		} else {
			c.Topic = []byte(cutOctets(root, core.MaxOriginID))
		}
	}
	fallback := thread && string(rel.get("is_falling_back")) == "true"
	if to := rel.get("m.in_reply_to").get("event_id").str(); to != "" && !fallback {
		if id, ok := r.names.ByForeign(to); ok {
			c.refer(id, r.names)
		}
	}
}

// text reads body and formatted_body; a NullPart if there is no text.
func (r *matrixReader) text(v value, reply bool) Part {
	if formatted := v.get("formatted_body").str(); formatted != "" && v.get("format").is("org.matrix.custom.html") {
		if d := parseHTML(formatted, userLinks(r.names)); len(d) > 0 {
			return docPart(d)
		}
	}
	return plainPart(v.get("body").str(), reply)
}

func plainPart(body string, reply bool) Part {
	text := clean(body, false)
	if reply {
		text = stripReply(text)
	}
	if strings.TrimSpace(text) == "" {
		return Part{}
	}
	return Part{Disposition: DispositionRender, Cardinality: SinglePart, Type: TypePlain, Body: []byte(text)}
}

// stripReply takes away the quotation of the target that older clients put
// before a reply: lines with "> ", the first of which names a sender, and a
// blank line (specification v1.12 and before, "Fallbacks for rich replies").
func stripReply(s string) string {
	if !strings.HasPrefix(s, "> <") && !strings.HasPrefix(s, "> * <") {
		return s
	}
	rest := s
	for strings.HasPrefix(rest, "> ") || strings.HasPrefix(rest, ">\n") {
		_, after, ok := strings.Cut(rest, "\n")
		if !ok {
			return s // nothing but quotation: it was meant
		}
		rest = after
	}
	return strings.TrimPrefix(rest, "\n")
}

// userLinks turns matrix.to and matrix: links to users into mentions; one to a
// user that is not known keeps its text only.
func userLinks(names Names) func(string) string {
	return func(href string) string {
		id, ok := strings.CutPrefix(href, "https://matrix.to/#/")
		if !ok {
			if id, ok = strings.CutPrefix(href, "matrix:u/"); !ok {
				return href
			}
			id = "@" + id
		}
		id, _, _ = strings.Cut(id, "?")
		if dec, err := url.PathUnescape(id); err == nil {
			id = dec
		}
		if !strings.HasPrefix(id, "@") {
			return href
		}
		user, _ := names.User(id)
		return string(user)
	}
}

// file reads an attachment, with its caption if it has one.
func (r *matrixReader) file(c *Content, v value) error {
	info := v.get("info")
	src := firstOf(v.get("url").str(), v.get("file").get("url").str())
	f := &File{URL: src, Description: cutOctets(oneLine(v.get("body").str()), maxText/4),
		Filename: cutOctets(oneLine(v.get("filename").str()), maxText/4), Size: uint64(max(info.get("size").num(0), 0))}
	if https, ok := r.names.MediaURL(src); ok {
		f.URL = https
	}
	if safeLink(f.URL) == "" && !strings.HasPrefix(f.URL, "mxc://") || len(f.URL) > maxText || clean(f.URL, false) != f.URL {
		return core.Errorf(core.Invalid, "a file without a usable address")
	}
	if v.get("file").isObject() { // encrypted for Matrix devices only: we have no word for its key
		return core.Errorf(core.Unsupported, "encrypted file")
	}
	caption := Part{}
	if f.Filename == "" {
		f.Filename = f.Description
	} else if f.Filename != f.Description {
		f.Description = ""
		caption = r.text(v, false)
	}
	kind := cutOctets(oneLine(info.get("mimetype").str()), 255)
	if t := v.get("msgtype").str(); kind == "" && r.m.Type != "m.sticker" && t != "m.file" && len(t) > 2 {
		kind = t[2:] + "/*"
	}
	disposition := DispositionAttachment
	if r.m.Type == "m.sticker" {
		disposition = DispositionInline
	}
	c.Part = Part{Disposition: disposition, Cardinality: ExternalPart, Type: kind, File: f}
	if caption.Cardinality != NullPart {
		c.Part = Part{Disposition: DispositionRender, Cardinality: MultiPart, Semantics: ProcessAll, Parts: []Part{c.Part, caption}}
	}
	return nil
}

// extensible reads what it can of a type that it does not know: a poll's
// question, the text blocks of MSC1767, a body.
func (r *matrixReader) extensible(c *Content) error {
	if strings.HasPrefix(r.m.Type, "m.key.") || strings.HasPrefix(r.m.Type, "m.call.") {
		return r.unsupported()
	}
	var text string
	for _, key := range [...]string{"m.poll", "org.matrix.msc3381.poll.start", "org.matrix.msc3381.v2.poll"} {
		if poll := r.v.get(key); poll.isObject() {
			text = pollText(poll)
		}
	}
	if text == "" {
		text = firstOf(blockText(r.v), r.v.get("body").str())
	}
	if c.Part = plainPart(text, false); c.Part.Cardinality == NullPart {
		return r.unsupported()
	}
	if rel := r.v.get("m.relates_to"); rel.isObject() {
		r.relate(c, rel)
	}
	return nil
}

// blockText returns the plain text of MSC1767 blocks in v.
func blockText(v value) (text string) {
	for _, key := range [...]string{"m.text", "org.matrix.msc1767.text", "org.matrix.msc1767.message"} {
		b := v.get(key)
		if s := b.str(); s != "" {
			return s
		}
		if b.isObject() {
			return b.get("body").str()
		}
		b.each(func(_ []byte, alt value) bool {
			if mime := alt.get("mimetype").str(); mime == "" || mime == "text/plain" {
				text = alt.get("body").str()
			}
			return text == ""
		})
		if text != "" {
			return text
		}
	}
	return ""
}

func pollText(poll value) string {
	const maxAnswers = 20 // MSC3381
	question := poll.get("question")
	lines := []string{"[poll] " + oneLine(firstOf(blockText(question), question.get("body").str()))}
	poll.get("answers").each(func(_ []byte, a value) bool {
		if t := oneLine(blockText(a)); t != "" {
			lines = append(lines, "- "+t)
		}
		return len(lines) <= maxAnswers
	})
	return strings.Join(lines, "\n")
}

// state reads the state events that have a counterpart.
func (r *matrixReader) state() ([]core.Envelope, error) {
	switch r.m.Type {
	case "m.room.topic":
		return r.control(core.Control{Op: core.OpTopic, Text: oneLine(r.v.get("topic").str())})
	case "m.room.name":
		return r.control(core.Control{Op: core.OpName, Text: oneLine(r.v.get("name").str())})
	case "m.room.member":
		return r.member()
	case "m.room.power_levels":
		return r.levels()
	}
	return nil, r.unsupported()
}

// member turns a change of membership into a control message
// (specification v1.19, m.room.member).
func (r *matrixReader) member() ([]core.Envelope, error) {
	user, ok := r.m.User, true
	own := *r.m.StateKey == r.m.Sender
	if !own {
		user, ok = r.names.User(*r.m.StateKey)
	}
	if !ok {
		return nil, core.Errorf(core.NotFound, "membership of a user that is not known here")
	}
	var prev value
	if len(r.m.PrevContent) > 0 {
		p, err := parseJSON(r.m.PrevContent)
		if err != nil {
			return nil, err
		}
		prev = p
	}
	was := prev.get("membership")
	reason := oneLine(r.v.get("reason").str())
	switch now := r.v.get("membership"); {
	case now.is("join"):
		p := &core.Profile{Name: cutOctets(oneLine(r.v.get("displayname").str()), core.MaxName)}
		if a := r.v.get("avatar_url").str(); strings.HasPrefix(a, "mxc://") && oneLine(a) == a {
			p.Avatar = cutOctets(a, maxText)
		}
		if was.is("join") {
			return r.control(core.Control{Op: core.OpProfile, User: user, Profile: p})
		}
		return r.control(core.Control{Op: core.OpJoin, User: user, Profile: p})
	case now.is("invite"):
		return r.control(core.Control{Op: core.OpInvite, User: user})
	case now.is("ban"):
		banned := core.Control{Op: core.OpRole, User: user, Role: core.RoleBanned, Text: reason}
		if was.is("join") {
			return r.control(core.Control{Op: core.OpKick, User: user, Text: reason}, banned)
		}
		return r.control(banned)
	case now.is("leave") && own:
		return r.control(core.Control{Op: core.OpLeave, User: user, Text: reason})
	case now.is("leave") && was.is("ban"):
		return r.control(core.Control{Op: core.OpRole, User: user, Role: core.RoleNone})
	case now.is("leave") && was.is("invite"):
		return nil, nil // an invitation taken back: nobody was told more than that
	case now.is("leave"):
		return r.control(core.Control{Op: core.OpKick, User: user, Text: reason})
	case now.is("knock"):
		return nil, core.Errorf(core.Unsupported, "knocking")
	}
	return nil, core.Errorf(core.Invalid, "membership of no known kind")
}

// levels turns the difference between two power level events into roles. What
// their users were is read from the previous content; without it, all are set.
func (r *matrixReader) levels() ([]core.Envelope, error) {
	var prev value
	if len(r.m.PrevContent) > 0 {
		p, err := parseJSON(r.m.PrevContent)
		if err != nil {
			return nil, err
		}
		prev = p
	}
	users, before := r.v.get("users"), prev.get("users")
	usual, wasUsual := r.v.get("users_default").num(0), prev.get("users_default").num(0)
	old := make(map[string]int64)
	before.each(func(k []byte, v value) bool {
		old[unquote(k)] = v.num(wasUsual)
		return len(old) < maxRoles
	})
	var cs []core.Control
	set := func(mxid string, now, was int64) {
		if RoleOfLevel(now) == RoleOfLevel(was) && prev != nil {
			return
		}
		if user, ok := r.names.User(mxid); ok {
			cs = append(cs, core.Control{Op: core.OpRole, User: user, Role: RoleOfLevel(now)})
		}
	}
	users.each(func(k []byte, v value) bool {
		mxid := unquote(k)
		was, listed := old[mxid]
		if !listed {
			was = wasUsual
		}
		delete(old, mxid)
		set(mxid, v.num(usual), was)
		return len(cs) < maxRoles
	})
	before.each(func(k []byte, _ value) bool { // in the order of the event, not of the map
		mxid := unquote(k)
		if was, gone := old[mxid]; gone {
			delete(old, mxid)
			set(mxid, usual, was)
		}
		return len(cs) < maxRoles
	})
	return r.control(cs...)
}
