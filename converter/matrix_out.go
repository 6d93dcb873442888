package converter

import (
	"strconv"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

// maxMatrixContent is how much of a text fits: a Matrix event has at most
// 65,536 octets with its envelope, and an edit carries its text twice.
const maxMatrixContent = 60000

// maxMentions bounds whom one message highlights: a mass mention is spam.
const maxMentions = 50

func appendInt(b []byte, n int64) []byte { return strconv.AppendInt(b, n, 10) }

// Outbound returns what to send for an event, in order, and what is lost by
// it. Membership (join, leave, kick, ban, role, invite, profile, policy)
// returns nothing: the bridge acts on the Control itself. Sealed events are
// Unsupported.
func (x Matrix) Outbound(e *core.Event, names Names) ([]MatrixOut, []core.Loss, error) {
	if e.Control != nil {
		return x.control(e, names)
	}
	if e.Deleted {
		return nil, nil, nil
	}
	c, err := ContentOf(e)
	if err != nil {
		return nil, nil, err
	}
	w := matrixWriter{x: x, e: e, c: &c, names: names}
	switch {
	case c.IsReaction():
		return w.reaction()
	case c.Part.Cardinality == NullPart:
		return redactionOf(c.Ref, "", names)
	}
	return w.message()
}

func (x Matrix) control(e *core.Event, names Names) ([]MatrixOut, []core.Loss, error) {
	c := e.Control
	state := func(t, field string) ([]MatrixOut, []core.Loss, error) {
		b := append(append(append(make([]byte, 0, len(c.Text)+160), `{"`...), field...), `":`...)
		b = appendJSON(b, oneLine(c.Text))
		return []MatrixOut{{Type: t, StateKey: new(string), Content: append(x.origin(b, e), '}')}}, nil, nil
	}
	switch c.Op {
	case core.OpTopic:
		return state("m.room.topic", "topic")
	case core.OpName:
		return state("m.room.name", "name")
	case core.OpDelete:
		return redactionOf(c.Event, oneLine(c.Text), names)
	}
	return nil, nil, nil
}

func redactionOf(id core.EventID, reason string, names Names) ([]MatrixOut, []core.Loss, error) {
	foreign, ok := names.Foreign(id)
	if !ok {
		return nil, []core.Loss{lossOf(LossRedaction, "what was removed here had not reached Matrix")}, nil
	}
	b := []byte(`{`)
	if reason != "" {
		b = appendJSON(append(b, `"reason":`...), reason)
	}
	return []MatrixOut{{Type: "m.room.redaction", Content: append(b, '}'), Redacts: foreign}}, nil, nil
}

// origin appends the mark by which gateways recognise each other's events.
func (x Matrix) origin(b []byte, e *core.Event) []byte {
	b = append(b, `,"`+keyOrigin+`":{"network":`...)
	b = appendJSON(b, string(e.Origin.Network))
	b = append(b, `,"id":"`...)
	b = append(e.ID.AppendText(b), '"')
	if x.Homeserver != "" {
		b = appendJSON(append(b, `,"homeserver":`...), x.Homeserver)
	}
	return append(b, '}')
}

type matrixWriter struct {
	x        Matrix
	e        *core.Event
	c        *Content
	names    Names
	loss     []core.Loss
	mentions []string
}

func (w *matrixWriter) lose(kind, text string) { w.loss = append(w.loss, lossOf(kind, text)) }

func (w *matrixWriter) reaction() ([]MatrixOut, []core.Loss, error) {
	if w.c.Part.Cardinality == NullPart {
		out, loss, err := redactionOf(w.c.Ref, "", w.names)
		if len(loss) > 0 {
			loss[0].Kind = LossReaction
		}
		return out, loss, err
	}
	target, ok := w.names.Foreign(w.c.Ref)
	if !ok {
		return nil, []core.Loss{lossOf(LossReaction, "a reaction's message had not reached Matrix")}, nil
	}
	var out []MatrixOut
	for _, key := range reactionTexts(&w.c.Part, nil) {
		b := appendJSON([]byte(`{"m.relates_to":{"rel_type":"m.annotation","event_id":`), target)
		b = append(appendJSON(append(b, `,"key":`...), key), '}')
		out = append(out, MatrixOut{Type: "m.reaction", Content: append(w.x.origin(b, w.e), '}')})
	}
	if len(out) == 0 {
		w.lose(LossReaction, "a reaction that is no text could not be shown on Matrix")
	}
	return out, w.loss, nil
}

func (w *matrixWriter) message() ([]MatrixOut, []core.Loss, error) {
	b := bodyOf(&w.c.Part)
	w.loss = b.loss
	for _, u := range b.doc.mentions(w.names) {
		if mxid, ok := w.names.Handle(u); ok {
			w.mentions = append(w.mentions, mxid)
		}
	}
	edited, edit := "", !w.c.Replaces.IsZero() && !w.c.Ref.IsZero()
	if edit {
		if edited, edit = w.names.Foreign(w.c.Ref); !edit {
			w.lose(LossEdit, "an edit was shown as a new message: the first version had not reached Matrix")
		}
	} else if !w.c.Ref.IsZero() {
		w.quote(&b)
	}
	rel := w.relation()
	var out []MatrixOut
	for i := range b.files {
		p := &b.files[i]
		if edit {
			break
		}
		if content, ok := w.file(p, rel); ok {
			out = append(out, MatrixOut{Type: "m.room.message", Content: content})
			continue
		}
		w.lose(LossMedia, "a file was sent to Matrix as a link")
		b.join(doc{{spans: []span{{text: fileText(p)}}}})
	}
	text := b.text()
	if strings.TrimSpace(text) == "" {
		if len(out) == 0 {
			w.lose(LossType, "a message without text could not be shown on Matrix")
		}
		return out, w.loss, nil
	}
	html := ""
	if b.doc != nil && !b.doc.plain() {
		html = b.doc.html(pills(w.names))
	}
	text, html = w.fit(text, html, edit)
	var content []byte
	if edit {
		content = w.edit(text, html, edited)
	} else {
		content = w.text(make([]byte, 0, 256+len(text)+len(html)+len(rel)), text, html, rel)
	}
	return append(out, MatrixOut{Type: "m.room.message", Content: append(w.x.origin(content, w.e), '}')}), w.loss, nil
}

// fit leaves out the formatted text, and then the end of the plain one, where
// the event would be larger than Matrix allows. Escaped text is up to six times
// as long, so what is escaped is counted.
func (w *matrixWriter) fit(text, html string, edit bool) (string, string) {
	limit := maxMatrixContent - 2048
	if edit {
		limit /= 2
	}
	if len(text)+len(html) < limit/6 {
		return text, html
	}
	n := len(appendJSON(nil, text))
	if html != "" && n+len(appendJSON(nil, html)) > limit {
		html = ""
		w.lose(LossFormatting, "the formatting of a long message was left out on Matrix")
	}
	if n > limit {
		for n > limit {
			text = cutOctets(text, len(text)-max(1, (n-limit)/6))
			n = len(appendJSON(nil, text)) + 4
		}
		text += "…"
		w.lose(LossLength, "a long message was cut on Matrix")
	}
	return text, html
}

// quote puts the first words of a reply's target before it where Matrix does
// not know the target.
func (w *matrixWriter) quote(b *body) {
	if _, ok := w.names.Foreign(w.c.Ref); ok {
		return
	}
	w.lose(LossReply, "a reply was shown with a quotation: its target had not reached Matrix")
	t, ok := w.names.Event(w.c.Ref)
	if !ok {
		return
	}
	quote := quoteOf(t, w.names)
	if quote == "" {
		return
	}
	d := b.doc
	if d == nil {
		d, b.plain = parsePlain(b.plain), ""
	}
	if len(d) > 0 {
		d[0].gap = true
	}
	b.doc = append(doc{{quote: 1, spans: []span{{text: "<" + nickOf(t, w.names) + "> " + quote}}}}, d...)
}

// relation returns the m.relates_to of a reply or of a message in a thread, ""
// for any other.
func (w *matrixWriter) relation() string {
	if !w.c.Replaces.IsZero() {
		return ""
	}
	to, reply := "", false
	if !w.c.Ref.IsZero() {
		to, reply = w.names.Foreign(w.c.Ref)
	}
	root := ""
	if len(w.c.Topic) > 0 {
		if id, err := core.ParseEventID(string(w.c.Topic)); err == nil {
			root, _ = w.names.Foreign(id)
		}
	}
	var b []byte
	switch {
	case root != "":
		b = appendJSON([]byte(`{"rel_type":"m.thread","event_id":`), root)
		if !reply { // for clients without threads (specification v1.19, §11.10.1.1)
			b, to = append(b, `,"is_falling_back":true`...), root
		}
		b = append(b, ',')
	case reply:
		b = []byte{'{'}
	default:
		return ""
	}
	b = appendJSON(append(b, `"m.in_reply_to":{"event_id":`...), to)
	return string(append(b, `}}`...))
}

func (w *matrixWriter) msgtype() string {
	switch w.c.Kind {
	case KindEmote:
		return "m.emote"
	case KindNotice:
		return "m.notice"
	}
	return "m.text"
}

// text appends a message's content without its closing brace. m.mentions is
// always there: without it, clients would look for names and @room in the text.
func (w *matrixWriter) text(b []byte, text, html, rel string) []byte {
	b = append(append(append(b, `{"msgtype":"`...), w.msgtype()...), `","body":`...)
	b = appendJSON(b, text)
	if html != "" {
		b = appendJSON(append(b, `,"format":"org.matrix.custom.html","formatted_body":`...), html)
	}
	b = append(b, `,"m.mentions":{`...)
	for i, mxid := range w.mentions {
		if i == 0 {
			b = append(b, `"user_ids":[`...)
		} else {
			b = append(b, ',')
		}
		b = appendJSON(b, mxid)
	}
	if len(w.mentions) > 0 {
		b = append(b, ']')
	}
	b = append(b, '}')
	if rel != "" {
		b = append(append(b, `,"m.relates_to":`...), rel...)
	}
	return b
}

// edit returns the content of an m.replace: a fallback with "* " before the
// text, which mentions nobody a second time, and the new content.
func (w *matrixWriter) edit(text, html, target string) []byte {
	rel := append(appendJSON([]byte(`{"rel_type":"m.replace","event_id":`), target), '}')
	fallback := html
	if html != "" {
		fallback = "* " + html
	}
	mentions := w.mentions
	w.mentions = nil
	b := w.text(nil, "* "+text, fallback, string(rel))
	w.mentions = mentions
	return append(w.text(append(b, `,"m.new_content":`...), text, html, ""), '}')
}

// pills turns mentions into pills; one of somebody without an address there
// keeps its text only.
func pills(names Names) func(string) string {
	return func(link string) string {
		if !isMention(link) {
			return link
		}
		mxid, ok := names.Handle(core.UserURI(link))
		if !ok {
			return ""
		}
		return "https://matrix.to/#/" + strings.NewReplacer("%", "%25", "/", "%2F", "?", "%3F", "#", "%23").Replace(mxid)
	}
}

// file returns the content of an attachment, if the far side has its bytes.
func (w *matrixWriter) file(p *Part, rel string) ([]byte, bool) {
	mxc, ok := p.File.URL, strings.HasPrefix(p.File.URL, "mxc://")
	if !ok {
		mxc, ok = w.names.MediaURL(p.File.URL)
	}
	if !ok || p.File.EncAlg != 0 || !strings.HasPrefix(mxc, "mxc://") {
		return nil, false
	}
	kind := "m.file"
	switch media, _, _ := strings.Cut(p.Type, "/"); media {
	case "image", "audio", "video":
		kind = "m." + media
	}
	name := firstOf(oneLine(p.File.Filename), oneLine(p.File.Description), "file")
	b := append([]byte(`{"msgtype":"`), kind...)
	b = appendJSON(append(b, `","body":`...), firstOf(oneLine(p.File.Description), name))
	b = appendJSON(append(b, `,"filename":`...), name)
	b = appendJSON(append(b, `,"url":`...), mxc)
	b = append(b, `,"info":{`...)
	if mime := oneLine(p.Type); mime != "" && !strings.HasSuffix(mime, "/*") {
		b = append(appendJSON(append(b, `"mimetype":`...), mime), ',')
	}
	b = append(appendInt(append(b, `"size":`...), int64(min(p.File.Size, 1<<53))), `},"m.mentions":{}`...)
	if rel != "" {
		b = append(append(b, `,"m.relates_to":`...), rel...)
	}
	return append(w.x.origin(b, w.e), '}'), true
}
