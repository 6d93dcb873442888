package irc

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/converter"
)

// Bounds of a client's batch.
const (
	maxBatchRef  = 64               // octets of a reference
	batchTimeout = 60 * time.Second // from its opening to its end
)

func init() {
	offer(capability{bit: capMultiline, name: "draft/multiline", value: func(srv *Server) string {
		return fmt.Sprintf("max-bytes=%d,max-lines=%d", srv.cfg.MultiBytes, srv.cfg.MultiLines)
	}})
	addCommands(commandTable{
		"BATCH": {min: 1, talk: true, cost: 2, run: cmdBatch},
	})
}

// An openBatch is a draft/multiline batch that the client has not ended yet
// (https://ircv3.net/specs/extensions/multiline). One that failed stays until its
// end, and everything in it is ignored.
type openBatch struct {
	ref, target, label string
	command            string // of its lines: PRIVMSG or NOTICE, "" before the first
	tags               []tag  // of the opening
	lines              []converter.IRCLine
	bytes              int
	text               bool // some line is not blank
	failed             bool
	since              time.Time
}

// cmdBatch answers BATCH from a client (https://ircv3.net/specs/extensions/client-batch).
func cmdBatch(s *session, l *line) {
	ref := l.params[0]
	switch {
	case !s.caps().has(capMultiline):
		s.batchAnswer(func() { s.num("421", "BATCH", "Unknown command") })
	case strings.HasPrefix(ref, "+"):
		s.openBatch(ref[1:], l)
	case strings.HasPrefix(ref, "-"):
		s.batchAnswer(func() { s.fail("BATCH", "MULTILINE_INVALID", "No such batch is open") })
	default:
		s.batchAnswer(func() { s.fail("BATCH", "INVALID_REFTAG", ref, "A batch begins with + and ends with -") })
	}
}

// batchAnswer says something with the label of the running command.
func (s *session) batchAnswer(f func()) {
	label := s.label
	s.label = ""
	s.answer(label, f)
}

func (s *session) openBatch(ref string, l *line) {
	if !validRef(ref) {
		s.batchAnswer(func() { s.fail("BATCH", "INVALID_REFTAG", orWord(ref, "*"), "Not a reference tag") })
		return
	}
	s.batch = &openBatch{ref: ref, target: l.param(2), label: s.label, since: time.Now(), tags: append([]tag(nil), l.tags...)}
	switch {
	case l.tag("batch") != "":
		s.failBatch("MULTILINE_INVALID", "Batches cannot be nested")
	case l.param(1) != "draft/multiline":
		s.failBatch("UNKNOWN_TYPE", ref, orWord(l.param(1), "*"), "This server does not know that type of batch")
	case len(l.params) != 3 || s.batch.target == "" || strings.Contains(s.batch.target, ","):
		s.failBatch("MULTILINE_INVALID", "A multiline batch has one target")
	}
	s.label = ""
}

// validRef holds a reference to the characters of a batch reference.
func validRef(ref string) bool {
	for i := 0; i < len(ref); i++ {
		c := ref[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return ref != "" && len(ref) <= maxBatchRef
}

// failBatch answers the open batch, with its label, and ignores it from now on.
func (s *session) failBatch(code string, rest ...string) {
	b := s.batch
	if b.failed {
		return
	}
	b.failed, b.lines = true, nil
	s.answer(b.label, func() { s.fail("BATCH", code, rest...) })
}

// inBatch takes a line while a batch is open; false if it is a command of its
// own. What a client's library sends by itself (PONG, CAP) does not disturb.
func (s *session) inBatch(l *line) bool {
	b := s.batch
	if time.Since(b.since) > batchTimeout {
		s.failBatch("TIMEOUT", b.ref, "The batch was open for too long")
	}
	if l.command == "BATCH" && l.param(0) == "-"+b.ref {
		s.endBatch()
		return true
	}
	if b.failed && l.tag("batch") == "" {
		s.batch = nil
		return false
	}
	if l.tag("batch") == b.ref {
		if l.command == "PRIVMSG" || l.command == "NOTICE" {
			s.addToBatch(l)
		} else {
			s.failBatch("MULTILINE_INVALID", "A multiline batch holds PRIVMSG or NOTICE")
		}
		return true
	}
	switch l.command {
	case "PRIVMSG", "NOTICE", "TAGMSG", "BATCH":
		s.failBatch("MULTILINE_INVALID", "Only lines of the batch may be sent while it is open")
		return true
	}
	return false
}

func (s *session) addToBatch(l *line) {
	b := s.batch
	if b.failed {
		return
	}
	text := l.param(1)
	_, concat := findTag(l.tags, "draft/multiline-concat")
	add := len(text)
	if len(b.lines) > 0 && !concat {
		add++
	}
	cfg := &s.srv.cfg
	switch {
	case len(l.params) != 2:
		s.failBatch("MULTILINE_INVALID", "A line of the batch has a target and a text")
	case l.params[0] != b.target:
		s.failBatch("MULTILINE_INVALID_TARGET", b.target, l.params[0], "The target is not that of the batch")
	case b.command != "" && b.command != l.command:
		s.failBatch("MULTILINE_INVALID", "PRIVMSG and NOTICE do not mix")
	case concat && (text == "" || len(b.lines) == 0):
		s.failBatch("MULTILINE_INVALID", "There is nothing to concatenate")
	case len(b.lines) >= cfg.MultiLines:
		s.failBatch("MULTILINE_MAX_LINES", strconv.Itoa(cfg.MultiLines), "Too many lines")
	case b.bytes+add > cfg.MultiBytes:
		s.failBatch("MULTILINE_MAX_BYTES", strconv.Itoa(cfg.MultiBytes), "Too much text")
	default:
		b.command = l.command
		b.bytes += add
		b.text = b.text || text != ""
		b.lines = append(b.lines, converter.IRCLine{Text: text, Concat: concat})
	}
}

// endBatch says what the batch holds as one message.
func (s *session) endBatch() {
	b := s.batch
	if !b.failed && !b.text {
		s.failBatch("MULTILINE_INVALID", "The batch has no text")
	}
	s.batch = nil
	if b.failed {
		return
	}
	l := line{tags: b.tags, command: b.command, params: []string{b.target, b.lines[0].Text}, lines: b.lines}
	s.spoke.Store(time.Now().Unix())
	s.talkTo(&l, b.target, b.label, false)
}

// findTag returns the value of the last tag called key, and whether there is one.
func findTag(tags []tag, key string) (string, bool) {
	for i := len(tags) - 1; i >= 0; i-- {
		if tags[i].key == key {
			return tags[i].value, true
		}
	}
	return "", false
}
