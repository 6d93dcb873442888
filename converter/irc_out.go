package converter

import (
	"slices"
	"strconv"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

// maxPlainLines is how many lines a plain client is sent where there is no
// link that could take their place.
const maxPlainLines = 32

// Outbound returns what an event is on IRC and what is lost by it. State events
// (membership, topic, modes: the listener reads the Control) and tombstones are
// IRCNone; sealed events are Unsupported, unreadable content is Invalid.
func (x IRC) Outbound(e *core.Event, names Names) (IRCOut, []core.Loss, error) {
	if e.Control != nil {
		return x.control(e, names)
	}
	if e.Deleted {
		return IRCOut{}, nil, nil
	}
	c, err := ContentOf(e)
	if err != nil {
		return IRCOut{}, nil, err
	}
	switch {
	case c.IsReaction():
		return x.reaction(&c, e, names)
	case c.Part.Cardinality == NullPart:
		if c.Replaces.IsZero() || c.Ref.IsZero() {
			return IRCOut{}, nil, nil
		}
		return IRCOut{Kind: IRCRedaction, Target: c.Ref}, nil, nil
	}
	return x.message(&c, e, names)
}

func (x IRC) control(e *core.Event, names Names) (IRCOut, []core.Loss, error) {
	if e.Control.Op != core.OpDelete {
		return IRCOut{}, nil, nil
	}
	o := IRCOut{Kind: IRCRedaction, Target: e.Control.Event, Reason: oneLine(e.Control.Text)}
	if t, ok := names.Event(o.Target); ok && t.Sender != e.Sender && e.Accepted.Sub(t.Accepted) <= recentReply {
		nick := firstOf(nickOf(t, names), "somebody")
		o.Plain = []string{"a message of " + nick + " was removed"}
	}
	return o, nil, nil
}

// nickOf returns what the sender of e is called there, on one line.
func nickOf(e *core.Event, names Names) string {
	if nick, ok := names.Nick(e.Sender); ok {
		return oneLine(nick)
	}
	s, _ := e.Signed()
	return cutRunes(oneLine(s.Name), 64)
}

func (x IRC) reaction(c *Content, e *core.Event, names Names) (IRCOut, []core.Loss, error) {
	lost := []core.Loss{lossOf(LossReaction, "a reaction could not be shown on IRC")}
	if c.Part.Cardinality == NullPart {
		r, ok := names.Event(c.Ref)
		if !ok {
			return IRCOut{}, lost, nil
		}
		old, err := ContentOf(r)
		if err != nil || !old.IsReaction() || old.Ref.IsZero() {
			return IRCOut{}, lost, nil
		}
		return IRCOut{Kind: IRCUnreaction, Target: old.Ref, React: reactionText(&old.Part)}, nil, nil
	}
	o := IRCOut{Kind: IRCReaction, Target: c.Ref, React: reactionText(&c.Part)}
	if o.React == "" || c.Ref.IsZero() {
		return IRCOut{}, lost, nil
	}
	if x.Reactions {
		if t, ok := names.Event(c.Ref); ok {
			if quote := quoteOf(t, names); quote != "" {
				o.Plain = []string{nickOf(e, names) + " reacted " + o.React + " to: " + quote}
			}
		}
	}
	return o, nil, nil
}

// quoteOf returns the first words of an event, "" if it has none.
func quoteOf(e *core.Event, names Names) string {
	c, err := ContentOf(e)
	if err != nil {
		return ""
	}
	b := bodyOf(&c.Part)
	b.doc.mentions(names)
	text := b.text()
	if text == "" && len(b.files) > 0 {
		text = fileText(&b.files[0])
	}
	first, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return cutRunes(oneLine(first), maxQuote)
}

// mentions puts the names that users have on the far side into mentions, and
// returns the users.
func (d doc) mentions(names Names) (users []core.UserURI) {
	for i := range d {
		for j := range d[i].spans {
			s := &d[i].spans[j]
			if !isMention(s.link) {
				continue
			}
			user := core.UserURI(s.link)
			if len(users) < maxMentions && !slices.Contains(users, user) {
				users = append(users, user)
			}
			if nick, ok := names.Nick(user); ok && oneLine(nick) != "" {
				s.text = oneLine(nick)
			}
		}
	}
	return users
}

func (x IRC) message(c *Content, e *core.Event, names Names) (IRCOut, []core.Loss, error) {
	b := bodyOf(&c.Part)
	o := IRCOut{Kind: IRCPrivmsg}
	o.Lines = x.lines(&b, names)
	if len(o.Lines) == 0 {
		return IRCOut{}, append(b.loss, lossOf(LossType, "a message without text could not be shown on IRC")), nil
	}
	switch c.Kind {
	case KindEmote:
		o.Kind = IRCAction
	case KindNotice:
		o.Kind = IRCNotice
	}
	if !c.Replaces.IsZero() && !c.Ref.IsZero() {
		return x.edit(&o, c, e, names, b.loss)
	}
	o.Plain = visible(o.Lines)
	if !c.Ref.IsZero() {
		o.ReplyTo = c.Ref
		o.Plain = replyLines(o.Plain, c.Ref, e, names)
	} else if len(c.Topic) > 0 {
		if root, err := core.ParseEventID(string(c.Topic)); err == nil {
			o.ReplyTo = root
		}
	}
	return x.bounded(o, e, names, b.loss)
}

// lines returns the logical lines of a body, none if there is nothing to say.
func (x IRC) lines(b *body, names Names) []string {
	var lines []string
	stripped := false
	switch {
	case b.doc == nil && strings.IndexByte(b.plain, '\n') < 0:
		if strings.TrimSpace(b.plain) != "" {
			lines = []string{b.plain}
		}
	case b.doc == nil:
		lines = strings.Split(strings.Trim(b.plain, "\n"), "\n")
	default:
		b.doc.mentions(names)
		for i := range b.doc {
			if b.doc[i].gap && i > 0 {
				lines = append(lines, "")
			}
			l := b.doc[i].mirc()
			if x.StripFormatting && hasCodes(l) {
				l, stripped = StripFormatting(l), true
			}
			lines = append(lines, l)
		}
		if stripped {
			b.loss = append(b.loss, lossOf(LossFormatting, "formatting is not shown on IRC"))
		}
	}
	for i := range b.files {
		lines = append(lines, fileText(&b.files[i]))
	}
	if len(visible(lines)) == 0 {
		return nil
	}
	for i, l := range lines {
		if strings.IndexByte(l, '\t') >= 0 { // clients show it as a control character
			lines[i] = strings.ReplaceAll(l, "\t", "    ")
		}
	}
	return lines
}

// visible returns the lines that have text; lines itself if all do.
func visible(lines []string) []string {
	for i, l := range lines {
		if !blank(l) {
			continue
		}
		out := append(make([]string, 0, len(lines)), lines[:i]...)
		for _, l := range lines[i:] {
			if !blank(l) {
				out = append(out, l)
			}
		}
		return out
	}
	return lines
}

// blank reports whether a line has nothing to see.
func blank(l string) bool {
	return l == "" || strings.TrimSpace(l) == "" || hasCodes(l) && strings.TrimSpace(StripFormatting(l)) == ""
}

// replyLines puts "nick: " before the first line, or, if the target is not
// recent, `<nick> "first words…" <- `.
func replyLines(lines []string, target core.EventID, e *core.Event, names Names) []string {
	t, ok := names.Event(target)
	if !ok {
		return lines
	}
	nick, prefix := nickOf(t, names), ""
	if quote := quoteOf(t, names); e.Accepted.Sub(t.Accepted) > recentReply && quote != "" {
		prefix = "<" + nick + "> \"" + quote + "\" <- "
	} else if nick != "" && t.Sender != e.Sender && !strings.HasPrefix(lines[0], nick+":") {
		prefix = nick + ": "
	}
	if prefix == "" {
		return lines
	}
	out := append(make([]string, 0, len(lines)), lines...)
	out[0] = prefix + out[0]
	return out
}

func (x IRC) edit(o *IRCOut, c *Content, e *core.Event, names Names, loss []core.Loss) (IRCOut, []core.Loss, error) {
	out := IRCOut{Kind: IRCEdit, Target: c.Ref, ReplyTo: c.Ref, Text: o.Lines}
	out.Lines = append(make([]string, 0, len(o.Lines)), o.Lines...)
	out.Lines[0] = "* " + out.Lines[0]
	out.Plain = visible(out.Lines)
	if t, ok := names.Event(c.Ref); ok && len(o.Lines) == 1 {
		if old, err := ContentOf(t); err == nil {
			was := bodyOf(&old.Part)
			if diff := shortDiff(oneLine(was.text()), oneLine(StripFormatting(o.Lines[0]))); diff != "" {
				out.Plain = []string{diff}
			}
		}
	}
	return x.bounded(out, e, names, loss)
}

// shortDiff returns s/old/new/ for a small change of words, "" for any other:
// for one that is most of the text, that has a slash, or that would fit in more
// than one place.
func shortDiff(old, now string) string {
	a, b := strings.Fields(old), strings.Fields(now)
	if len(a) > 500 || len(b) > 500 {
		return ""
	}
	head := 0
	for head < len(a) && head < len(b) && a[head] == b[head] {
		head++
	}
	tail := 0
	for tail < len(a)-head && tail < len(b)-head && a[len(a)-1-tail] == b[len(b)-1-tail] {
		tail++
	}
	if head > 0 && head == len(a)-tail { // only added: show the word before it
		head--
	}
	from, to := strings.Join(a[head:len(a)-tail], " "), strings.Join(b[head:len(b)-tail], " ")
	if from == "" || from == to || len(from)+len(to) > 2*maxQuote || strings.Contains(from+to, "/") ||
		len(from)*2 > len(old) || strings.Count(old, from) > 1 {
		return ""
	}
	return "s/" + from + "/" + to + "/"
}

// bounded cuts what is more than a plain client is sent for one message, and
// what is more than any client is.
func (x IRC) bounded(o IRCOut, e *core.Event, names Names, loss []core.Loss) (IRCOut, []core.Loss, error) {
	plain, cutPlain := atMostOctets(o.Plain, maxPlainOctets)
	lines, cutLines := atMostOctets(o.Lines, maxIRCOctets)
	if o.Plain, o.Lines = plain, lines; cutPlain || cutLines {
		loss = append(loss, lossOf(LossLength, "a long message was cut on IRC"))
	}
	if len(o.Lines) > MaxIRCLines {
		rest := len(o.Lines) - MaxIRCLines + 1
		o.Lines = append(o.Lines[:MaxIRCLines-1:MaxIRCLines-1], moreLines(rest, "not shown here"))
		loss = append(loss, lossOf(LossLength, "a long message was cut on IRC"))
	}
	limit := x.MaxLines
	if limit <= 0 {
		limit = defaultLines
	}
	if len(o.Plain) <= limit {
		return o, loss, nil
	}
	if url, ok := names.FullText(e.ID); ok && safeLink(url) != "" {
		o.Plain = append(o.Plain[:limit-1:limit-1], moreLines(len(o.Plain)-limit+1, safeLink(url)))
		return o, loss, nil
	}
	if limit = max(limit, maxPlainLines); len(o.Plain) > limit {
		o.Plain = append(o.Plain[:limit-1:limit-1], moreLines(len(o.Plain)-limit+1, "not shown here"))
		loss = append(loss, lossOf(LossLength, "a long message was cut for plain IRC clients"))
	}
	return o, loss, nil
}

// atMostOctets cuts lines where they come to more than max octets together: one
// line of a Matrix message can be as long as a hundred of IRC, and tabs and
// quotes make it longer still.
func atMostOctets(lines []string, max int) (kept []string, cut bool) {
	for i, l := range lines {
		if len(l) > max {
			return append(lines[:i:i], cutOctets(l, max)+" … the rest is not shown here"), true
		}
		max -= len(l)
	}
	return lines, false
}

func moreLines(n int, where string) string {
	if n == 1 {
		return "… 1 more line: " + where
	}
	return "… " + strconv.Itoa(n) + " more lines: " + where
}
