package converter

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/core"
)

// Plain text passes IRC → event → IRC as it is.
func TestIRCRoundTripPlain(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := rapid.StringMatching(`[ -~äßñ漢字🎉]{1,80}`).Draw(rt, "text")
		if strings.TrimSpace(text) == "" {
			return
		}
		n := newRoom()
		o := toIRC(t, n.irc(t, ircSays(text), ""), n)
		if o.Kind != IRCPrivmsg || !slices.Equal(o.Lines, []string{text}) {
			rt.Fatalf("%q became %v %q", text, o.Kind, o.Lines)
		}
	})
}

// Formatted text passes IRC → event → IRC with its styles.
func TestIRCRoundTripFormatted(t *testing.T) {
	styles := []string{"\x02", "\x1d", "\x1f", "\x1e", "\x11", "\x0304", "\x0304,02", "\x0399,12", "\x0f", "\x03"}
	rapid.Check(t, func(rt *rapid.T) {
		var b strings.Builder
		for range rapid.IntRange(1, 6).Draw(rt, "n") {
			b.WriteString(rapid.SampledFrom(styles).Draw(rt, "code"))
			b.WriteString(rapid.StringMatching(`[a-z *_<>&~\[\]#é]{1,8}|x[0-9,]{1,3}`).Draw(rt, "text"))
		}
		text := b.String()
		if strings.TrimSpace(StripFormatting(text)) == "" {
			return
		}
		n := newRoom()
		o := toIRC(t, n.irc(t, ircSays(text), ""), n)
		if len(o.Lines) != 1 {
			rt.Fatalf("%q became %q", text, o.Lines)
		}
		if got, want := parseMIRC(o.Lines[0]), parseMIRC(text); !slices.Equal(got, want) {
			rt.Fatalf("%q became %q:\n%+v\n%+v", text, o.Lines[0], got, want)
		}
	})
}

// CONVERSION.md, "Chat content", IRC columns.
func TestIRCKinds(t *testing.T) {
	n := newRoom()
	act := toIRC(t, n.irc(t, ircSays("\x01ACTION waves\x01"), ""), n)
	if act.Kind != IRCAction || act.Lines[0] != "waves" {
		t.Errorf("action: %+v", act)
	}
	m := ircSays("the build is green")
	m.Notice = true
	if o := toIRC(t, n.irc(t, m, ""), n); o.Kind != IRCNotice {
		t.Errorf("notice: %+v", o)
	}
	m = ircSays("one", "two", "and a half", "", "three")
	m.Lines[2].Concat = true
	o := toIRC(t, n.irc(t, m, ""), n)
	if !slices.Equal(o.Lines, []string{"one", "twoand a half", "", "three"}) || !slices.Equal(o.Plain, []string{"one", "twoand a half", "three"}) {
		t.Errorf("multiline: %q, plain %q", o.Lines, o.Plain)
	}
}

func TestIRCReplyReactUnreact(t *testing.T) {
	n := newRoom()
	first := n.irc(t, ircSays("shall we meet at noon?"), "$1")
	m := ircSays("yes")
	m.Sender, m.Name, m.ReplyTo = bob, "bob", first.ID
	reply := n.irc(t, m, "$2")
	c, err := ContentOf(reply)
	if id, ok := MessageIDOf(first); err != nil || !ok || c.InReplyTo != id || c.Ref != first.ID {
		t.Errorf("reply refers to %x, %v, %v", c.InReplyTo, c.Ref, err)
	}
	if o := toIRC(t, reply, n); o.ReplyTo != first.ID || o.Lines[0] != "yes" || o.Plain[0] != "alice: yes" {
		t.Errorf("reply: %+v", o)
	}
	reply.Accepted = first.Accepted.Add(6 * time.Minute)
	if o := toIRC(t, reply, n); o.Plain[0] != `<alice> "shall we meet at noon?" <- yes` {
		t.Errorf("late reply: %q", o.Plain)
	}
	r := IRCMessage{Room: testRoom, Sender: bob, Name: "bob", React: "👍", ReplyTo: first.ID, Seed: []byte("r")}
	react := n.irc(t, r, "$3")
	if o := toIRC(t, react, n); o.Kind != IRCReaction || o.React != "👍" || o.Target != first.ID || o.Plain != nil {
		t.Errorf("reaction: %+v", o)
	}
	if o, _, err := (IRC{Reactions: true}).Outbound(react, n); err != nil || len(o.Plain) != 1 ||
		o.Plain[0] != "bob reacted 👍 to: shall we meet at noon?" {
		t.Errorf("reaction in a line: %+v %v", o, err)
	}
	r.React, r.Unreact, r.Seed = "", "👍", []byte("u")
	un := n.irc(t, r, "")
	if o := toIRC(t, un, n); o.Kind != IRCUnreaction || o.React != "👍" || o.Target != first.ID {
		t.Errorf("unreaction: %+v", o)
	}
	if out, _ := toMatrix(t, un, n); len(out) != 1 || out[0].Redacts != "$3" {
		t.Errorf("unreaction on Matrix: %+v", out)
	}
	r.Sender = alice
	if _, err := (IRC{}).Inbound(r, n); core.CodeOf(err) != core.NotFound {
		t.Errorf("somebody else's reaction was taken back: %v", err)
	}
}

// matrix-appservice-irc#1026: edits are short where the change is small.
func TestIRCEdits(t *testing.T) {
	for _, x := range []struct{ old, now, plain string }{
		{"I will come at nine o'clock", "I will come at ten o'clock", "s/nine/ten/"},
		{"see you at the river tomorrow", "see you at the big river tomorrow", "s/the/the big/"},
		{"yes", "no", "* no"},
		{"one two three four five six", "all is different now", "* all is different now"},
		{"the path is a b c d", "the path is a/x b c d", "* the path is a/x b c d"},
		{"a a a a a b a a", "a a a c a b a a", "* a a a c a b a a"},
	} {
		n := newRoom()
		n.irc(t, func() IRCMessage { m := ircSays("before"); m.Sender = bob; return m }(), "$0")
		first := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":"`+x.old+`"}`), "$e")
		ed := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":"* `+x.now+`","m.new_content":{"msgtype":"m.text","body":"`+x.now+
			`"},"m.relates_to":{"rel_type":"m.replace","event_id":"$e"}}`), "$f")
		o := toIRC(t, ed, n)
		if o.Kind != IRCEdit || o.Target != first.ID || o.Plain[0] != x.plain || o.Lines[0] != "* "+x.now || o.Text[0] != x.now {
			t.Errorf("%+v: %+v", x, o)
		}
	}
}

func TestIRCDelete(t *testing.T) {
	n := newRoom()
	first := n.irc(t, ircSays("oops"), "$1")
	e := n.accept(t, core.Envelope{Room: testRoom, Sender: bob, Body: core.Control{Op: core.OpDelete, Event: first.ID, Text: "spam\r\nQUIT"}.Body("bob")}, "", 0)
	if o := toIRC(t, e, n); o.Kind != IRCRedaction || o.Target != first.ID || o.Reason != "spam QUIT" || o.Plain[0] != "a message of alice was removed" {
		t.Errorf("%+v", o)
	}
	if out, all := toMatrix(t, e, n); len(out) != 1 || out[0].Redacts != "$1" || all[0]["reason"] != "spam QUIT" {
		t.Errorf("%+v", out)
	}
}

// matrix-appservice-irc#701: a link takes the place of the rest of many lines,
// and without one the lines are shown.
func TestIRCManyLines(t *testing.T) {
	n := newRoom()
	lines := strings.Repeat("line\n", 39) + "last"
	e := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":`+string(appendJSON(nil, lines))+`}`), "")
	o, loss, err := IRC{}.Outbound(e, n)
	if err != nil || len(o.Lines) != 40 || len(o.Plain) != maxPlainLines || len(loss) != 1 || loss[0].Kind != LossLength ||
		o.Plain[31] != "… 9 more lines: not shown here" {
		t.Errorf("without a link: %q %v %v", o.Plain, loss, err)
	}
	n.full = "https://a.example/t/1"
	o, loss, err = IRC{}.Outbound(e, n)
	if err != nil || len(o.Plain) != 5 || o.Plain[4] != "… 36 more lines: https://a.example/t/1" || len(loss) != 0 {
		t.Errorf("with a link: %q %v %v", o.Plain, loss, err)
	}
}

func TestInjectionCTCP(t *testing.T) {
	for _, s := range []string{"\x01VERSION\x01", "\x01DCC SEND x 1 2 3\x01", "\x01", "\x01action waves\x01"} {
		if _, err := (IRC{}).Inbound(ircSays(s), newRoom()); core.CodeOf(err) != core.Unsupported {
			t.Errorf("%q: %v", s, err)
		}
	}
	n := newRoom()
	for _, body := range []string{"\x01VERSION\x01", "\x01ACTION x\x01", "a\x01b"} {
		e := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":`+string(appendJSON(nil, body))+`}`), "")
		o := toIRC(t, e, n)
		if o.Kind != IRCPrivmsg || strings.Contains(strings.Join(o.Lines, ""), "\x01") {
			t.Errorf("%q became %v %q", body, o.Kind, o.Lines)
		}
	}
}

func TestInjectionSecondLine(t *testing.T) {
	for _, s := range []string{"a\rQUIT", "a\nQUIT", "a\x00b", "a\r\nPRIVMSG #x :y"} {
		if _, err := (IRC{}).Inbound(ircSays(s), newRoom()); core.CodeOf(err) != core.Invalid {
			t.Errorf("%q: %v", s, err)
		}
	}
	n := newRoom()
	n.nicks[bob] = "b\r\nQUIT :x"
	first := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":"x\r\nKILL\u0000 y\u0085z\u2028w"}`), "$1")
	if o := toIRC(t, first, n); !slices.Equal(o.Lines, []string{"x", "KILL y", "z", "w"}) {
		t.Errorf("%q", o.Lines)
	}
	m := ircSays("re")
	m.ReplyTo = first.ID
	if o := toIRC(t, n.irc(t, m, ""), n); len(o.Plain) != 1 || o.Plain[0] != "b QUIT :x: re" {
		t.Errorf("%q", o.Plain)
	}
	r := IRCMessage{Room: testRoom, Sender: bob, React: "a\r\nQUIT", ReplyTo: first.ID}
	if o := toIRC(t, n.irc(t, r, ""), n); o.React != "a QUIT" {
		t.Errorf("%q", o.React)
	}
}

func TestInjectionControlCharacters(t *testing.T) {
	n := newRoom()
	e := n.irc(t, ircSays("a\x07b\x1bc\x7fd\u0080e\u202ef\u2066g"), "")
	if o := toIRC(t, e, n); o.Lines[0] != "abcdef\u2066g\u2069" {
		t.Errorf("%q", o.Lines)
	}
	e = n.irc(t, ircSays("می‌خواهم 👩‍💻"), "") // zero-width characters that are text
	if o := toIRC(t, e, n); o.Lines[0] != "می‌خواهم 👩‍💻" {
		t.Errorf("%q", o.Lines)
	}
	e = n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":"\u0002not bold\u0003,04"}`), "")
	if o := toIRC(t, e, n); o.Lines[0] != "not bold,04" {
		t.Errorf("Matrix text became formatting: %q", o.Lines)
	}
}

func TestIRCHostile(t *testing.T) {
	n := newRoom()
	for name, m := range map[string]IRCMessage{
		"nothing":      {},
		"blank":        ircSays("   "),
		"only codes":   ircSays("\x02\x0304\x0f"),
		"not UTF-8":    ircSays("caf\xe9"),
		"huge":         ircSays(strings.Repeat("x", maxIRCText+1)),
		"many lines":   ircSays(make([]string, MaxIRCLines+1)...),
		"big reaction": {React: strings.Repeat("x", 65)},
	} {
		if _, err := (IRC{}).Inbound(m, n); core.CodeOf(err) != core.Invalid && core.CodeOf(err) != core.TooLarge {
			t.Errorf("%s: %v", name, err)
		}
	}
	big := ircSays(strings.Repeat("\x02a\x1d", 8000))
	e := n.irc(t, big, "")
	if s, _ := e.Signed(); len(s.Content) > core.MaxContent {
		t.Errorf("content of %d octets", len(s.Content))
	}
	sealed := &core.Event{Envelope: core.Envelope{Body: core.Sealed{Message: []byte("x")}}}
	if _, _, err := (IRC{}).Outbound(sealed, n); core.CodeOf(err) != core.Unsupported {
		t.Errorf("sealed: %v", err)
	}
	if _, _, err := (Matrix{}).Outbound(sealed, n); core.CodeOf(err) != core.Unsupported {
		t.Errorf("sealed: %v", err)
	}
}

// Every loss has a kind of the fixed set and a sentence.
func TestLosses(t *testing.T) {
	n := newRoom()
	kinds := LossKinds()
	if len(kinds) != len(slices.Compact(slices.Sorted(slices.Values(kinds)))) {
		t.Errorf("a kind twice: %q", kinds)
	}
	first := n.irc(t, ircSays("x"), "")
	e := n.irc(t, ircSays("\x02bold\x02"), "")
	_, strip, err := IRC{StripFormatting: true}.Outbound(e, n)
	if err != nil || len(strip) != 1 || strip[0].Kind != LossFormatting {
		t.Errorf("stripped: %v %v", strip, err)
	}
	react := n.irc(t, IRCMessage{Room: testRoom, Sender: bob, React: "👍", ReplyTo: first.ID}, "")
	_, lost, err := Matrix{}.Outbound(react, n)
	if err != nil || len(lost) != 1 || lost[0].Kind != LossReaction {
		t.Errorf("a reaction to what Matrix never had: %v %v", lost, err)
	}
	long := ircSays(strings.Repeat("\"", maxIRCText-10))
	out, cut, err := Matrix{}.Outbound(n.irc(t, long, ""), n)
	if checkMatrix(t, out); err != nil || len(out) != 1 {
		t.Errorf("long: %v %v", cut, err)
	}
	for _, l := range slices.Concat(strip, lost, cut) {
		if !slices.Contains(kinds, l.Kind) || l.Text == "" {
			t.Errorf("%+v", l)
		}
	}
}

func checkSplit(t testing.TB, text string, room int) {
	t.Helper()
	parts := SplitLine(text, room)
	room = max(room, minRoom)
	joined := strings.Join(parts, "")
	if StripFormatting(joined) != StripFormatting(text) {
		t.Fatalf("lost text: %q from %q", parts, text)
	}
	if !hasCodes(text) && joined != text {
		t.Fatalf("%q from %q", parts, text)
	}
	for _, p := range parts {
		if len(p) > room || utf8.ValidString(text) && !utf8.ValidString(p) {
			t.Fatalf("part of %d octets, room %d: %q", len(p), room, p)
		}
	}
}

func TestSplitLine(t *testing.T) {
	text := strings.Repeat("seven78 ", 10)
	if got := SplitLine(text, 34); got[0] != strings.Repeat("seven78 ", 4) {
		t.Errorf("no cut at a blank: %q", got)
	}
	family := strings.Repeat("👩‍👩‍👧‍👦", 4) // 25 octets each
	for _, p := range SplitLine(family, 60) {
		if strings.HasPrefix(p, "\u200d") || strings.HasSuffix(p, "\u200d") {
			t.Errorf("family broken: %q", p)
		}
	}
	got := SplitLine("\x02\x0304"+strings.Repeat("x", 40)+",5", 32)
	if !strings.HasPrefix(got[1], "\x02\x0304x") {
		t.Errorf("formatting not opened again: %q", got)
	}
	for _, room := range []int{0, 32, 33, 40, 400} {
		checkSplit(t, strings.Repeat("ä", 300), room)
		checkSplit(t, strings.Repeat("e\u0301", 300), room)
		checkSplit(t, "e"+strings.Repeat("\u0301", 300), room)
		checkSplit(t, strings.Repeat("🇩🇪", 60), room)
		checkSplit(t, strings.Repeat("\x0304,05123,4\x04ff00ff,00ff00a,b", 20), room)
	}
}

func FuzzSplitLine(f *testing.F) {
	f.Add("plain words that go on and on until they are longer than any room", 40)
	f.Add("\x02bold \x0304,12colour 1,2,3 \x04aabbccdd\x0f e\u0301 👩‍👧 🇩🇪🇫🇷", 33)
	f.Add("\xff\xfe\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", 0)
	f.Fuzz(func(t *testing.T, s string, room int) {
		if len(s) < 1<<16 {
			checkSplit(t, s, room%600)
		}
	})
}

func FuzzIRCInbound(f *testing.F) {
	for _, s := range []string{"hello", "\x01ACTION waves\x01", "\x02a\x0304,02b\x0fc\x16d", "bob: hi @room", "a\tb\u202ec", "** __ ~~ ` <b>"} {
		f.Add(s, "second line", true)
	}
	f.Fuzz(func(t *testing.T, a, b string, concat bool) {
		n := newRoom()
		m := ircSays(a, b)
		m.Lines[1].Concat = concat
		for _, m := range []IRCMessage{m, ircSays(a), {Room: testRoom, Sender: alice, React: a, ReplyTo: n.irc(t, ircSays("x"), "$1").ID}} {
			e, err := IRC{}.Inbound(m, n)
			if err != nil {
				if c := core.CodeOf(err); c == core.Internal {
					t.Fatalf("code %v", c)
				}
				continue
			}
			ev := n.accept(t, e, "$x", 0)
			o := toIRC(t, ev, n)
			if o.Kind != IRCReaction && len(o.Lines) == 0 {
				t.Fatalf("nothing left of %q", a)
			}
			toMatrix(t, ev, n)
		}
	})
}

// One line of a Matrix message can be as long as all its lines together may be.
func TestIRCOneLongLineIsBounded(t *testing.T) {
	body, err := json.Marshal(map[string]string{"msgtype": "m.text", "body": strings.Repeat("é x\t", 6000)})
	if err != nil {
		t.Fatal(err)
	}
	n := newRoom()
	out, loss, err := IRC{}.Outbound(n.matrix(t, matrixSays("m.room.message", string(body)), "$e"), n)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		lines []string
		max   int
	}{{out.Lines, maxIRCOctets}, {out.Plain, maxPlainOctets}} {
		total := 0
		for _, l := range c.lines {
			total += len(l)
			if !utf8.ValidString(l) {
				t.Error("cut inside a character")
			}
		}
		if total > c.max+64 || total < c.max/2 || !strings.HasSuffix(c.lines[len(c.lines)-1], "not shown here") {
			t.Errorf("%d octets in %d lines, the last ends %q", total, len(c.lines), c.lines[len(c.lines)-1][len(c.lines[len(c.lines)-1])-40:])
		}
	}
	if len(loss) == 0 || loss[0].Kind != LossLength {
		t.Errorf("the sender is not told: %v", loss)
	}
}
