package converter

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-chat/isthmus/core"
)

func str(m map[string]any, keys ...string) any {
	var v any = m
	for _, k := range keys {
		o, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = o[k]
	}
	return v
}

// CONVERSION.md, "Chat content": IRC to Matrix.
func TestMatrixFromIRC(t *testing.T) {
	n := newRoom()
	for _, x := range []struct {
		name string
		m    IRCMessage
		want map[string]any
	}{
		{"text", ircSays("hi <b> & @room"), map[string]any{"msgtype": "m.text", "body": "hi <b> & @room", "m.mentions": map[string]any{}}},
		{"emote", ircSays("\x01ACTION waves\x01"), map[string]any{"msgtype": "m.emote", "body": "waves", "m.mentions": map[string]any{}}},
		{"formatted", ircSays("a \x02b\x02 \x1dc\x1d"), map[string]any{"msgtype": "m.text", "body": "a b c",
			"format": "org.matrix.custom.html", "formatted_body": "a <strong>b</strong> <em>c</em>", "m.mentions": map[string]any{}}},
		{"colour", ircSays("\x0304,01red\x03 <x>"), map[string]any{"msgtype": "m.text", "body": "red <x>",
			"format":         "org.matrix.custom.html",
			"formatted_body": `<span data-mx-color="#ff0000" data-mx-bg-color="#000000">red</span> &lt;x&gt;`, "m.mentions": map[string]any{}}},
		{"mention", ircSays("bob: look"), map[string]any{"msgtype": "m.text", "body": "bob: look",
			"format": "org.matrix.custom.html", "formatted_body": `<a href="https://matrix.to/#/@bob:hs.org">bob</a>: look`,
			"m.mentions": map[string]any{"user_ids": []any{"@bob:hs.org"}}}},
		{"lines", ircSays("one", "", "two"), map[string]any{"msgtype": "m.text", "body": "one\n\ntwo", "m.mentions": map[string]any{}}},
	} {
		_, all := toMatrix(t, n.irc(t, x.m, ""), n)
		if len(all) != 1 {
			t.Fatalf("%s: %d events", x.name, len(all))
		}
		origin := all[0][keyOrigin].(map[string]any)
		if origin["network"] != "irc" || len(origin["id"].(string)) != 26 {
			t.Errorf("%s: origin %v", x.name, origin)
		}
		delete(all[0], keyOrigin)
		if d := cmp.Diff(x.want, all[0]); d != "" {
			t.Errorf("%s: %s", x.name, d)
		}
	}
}

// CONVERSION.md, "Chat content": Matrix to IRC, and the complaints about other
// bridges (facts on matrix-appservice-irc #1843, #1198).
func TestMatrixToIRC(t *testing.T) {
	html := func(s string) string {
		return `{"msgtype":"m.text","body":"fallback","format":"org.matrix.custom.html","formatted_body":` + string(appendJSON(nil, s)) + `}`
	}
	for _, x := range []struct {
		name, content string
		kind          IRCKind
		want          []string
	}{
		{"text", `{"msgtype":"m.text","body":"hi \ud83d\ude00 \"you\""}`, IRCPrivmsg, []string{`hi 😀 "you"`}},
		{"notice", `{"msgtype":"m.notice","body":"built"}`, IRCNotice, []string{"built"}},
		{"emote", `{"msgtype":"m.emote","body":"waves"}`, IRCAction, []string{"waves"}},
		{"bold", html("<b>a</b> <em>b</em> <u>c</u> <del>d</del> <code>e_f</code>"), IRCPrivmsg,
			[]string{"\x02a\x02 \x1db\x1d \x1fc\x1f \x1ed\x1e \x11e_f\x11"}},
		{"colour", html(`<font color="#ff0000">r</font><span data-mx-color="#00fc00" data-mx-bg-color="#000000">g</span>`), IRCPrivmsg,
			[]string{"\x0304r\x0309,01g\x03"}},
		{"image emoji", html(`a <img data-mx-emoticon src="mxc://x/y" alt=":cat:"> b`), IRCPrivmsg, []string{"a :cat: b"}},
		{"pill", html(`<a href="https://matrix.to/#/@irc_alice:hs.org">A. Lice</a>: hi`), IRCPrivmsg, []string{"alice: hi"}},
		{"unknown pill", html(`<a href="https://matrix.to/#/%40eve%3Ahs.org">Eve</a> hi`), IRCPrivmsg, []string{"Eve hi"}},
		{"link", html(`see <a href="https://x.example/a_b">this</a>`), IRCPrivmsg, []string{"see this (https://x.example/a_b)"}},
		{"bare link", html(`<a href="https://x.example/">https://x.example</a>`), IRCPrivmsg, []string{"https://x.example"}},
		{"script", html(`<script>alert(1)</script><a href="javascript:x()">ok</a><style>p{}</style>`), IRCPrivmsg, []string{"ok"}},
		{"list", html("<p>buy</p><ul><li>milk</li><li>eggs<ol><li>big</li><li>brown</li></ol></li></ul>"), IRCPrivmsg,
			[]string{"buy", "", "- milk", "- eggs", "  1. big", "  2. brown"}},
		{"quote", html("<blockquote>said<br>twice</blockquote>no"), IRCPrivmsg, []string{"> said", "> twice", "", "no"}},
		{"code", html("<pre><code class=\"language-go\">if x {\n\ty()\n}\n</code></pre>"), IRCPrivmsg,
			[]string{"\x11if x {\x11", "\x11    y()\x11", "\x11}\x11"}},
		{"heading", html("<h1>Big</h1>small"), IRCPrivmsg, []string{"\x02Big\x02", "", "small"}},
		{"spoiler", html("it is <span data-mx-spoiler>him</span>!"), IRCPrivmsg, []string{"it is \x0301,01him\x03!"}},
		{"image", `{"msgtype":"m.image","body":"cat.png","url":"mxc://hs/abc","info":{"mimetype":"image/png","size":34816}}`, IRCPrivmsg,
			[]string{"cat.png (image/png, 34.0 KiB) https://a.example/media/hs/abc"}},
		{"caption", `{"msgtype":"m.image","body":"my cat","filename":"cat.png","url":"mxc://hs/abc"}`, IRCPrivmsg,
			[]string{"my cat", "cat.png (image/*) https://a.example/media/hs/abc"}},
		{"location", `{"msgtype":"m.location","body":"here","geo_uri":"geo:1,2"}`, IRCPrivmsg, []string{"here geo:1,2"}},
		{"unknown msgtype", `{"msgtype":"org.x.new","body":"text"}`, IRCPrivmsg, []string{"text"}},
	} {
		n := newRoom()
		o := toIRC(t, n.matrix(t, matrixSays("m.room.message", x.content), ""), n)
		if o.Kind != x.kind || !slices.Equal(o.Lines, x.want) {
			t.Errorf("%s: %v %q, want %q", x.name, o.Kind, o.Lines, x.want)
		}
	}
}

func TestMatrixReply(t *testing.T) {
	n := newRoom()
	first := n.irc(t, ircSays("shall we?"), "$1")
	// matrix-appservice-irc#1198: all lines of a reply arrive.
	e := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":"> <@irc_alice:hs.org> shall we?\n> more\n\nyes\nat ten\n\n> quoted\nok","m.relates_to":{"m.in_reply_to":{"event_id":"$1"}}}`), "$2")
	o := toIRC(t, e, n)
	if o.ReplyTo != first.ID || !slices.Equal(o.Lines, []string{"yes", "at ten", "", "> quoted", "ok"}) || o.Plain[0] != "alice: yes" {
		t.Errorf("%+v", o)
	}
	e = n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":"x","format":"org.matrix.custom.html","formatted_body":"<mx-reply><blockquote>In reply to <b>x</b></blockquote></mx-reply>a<br>b","m.relates_to":{"m.in_reply_to":{"event_id":"$1"}}}`), "$3")
	if o := toIRC(t, e, n); o.ReplyTo != first.ID || !slices.Equal(o.Lines, []string{"a", "b"}) {
		t.Errorf("%+v", o)
	}
	m := ircSays("and then")
	m.ReplyTo = e.ID
	_, all := toMatrix(t, n.irc(t, m, ""), n)
	if str(all[0], "m.relates_to", "m.in_reply_to", "event_id") != "$3" || all[0]["body"] != "and then" {
		t.Errorf("%v", all[0])
	}
	delete(n.foreign, e.ID) // the target never reached Matrix
	r := n.irc(t, m, "")
	out, loss, err := Matrix{}.Outbound(r, n)
	if all = checkMatrix(t, out); err != nil || len(loss) != 1 || loss[0].Kind != LossReply || all[0]["m.relates_to"] != nil ||
		all[0]["body"] != "> <bob> a\n\nand then" {
		t.Errorf("%v %v %v", all, loss, err)
	}
}

func TestMatrixThread(t *testing.T) {
	n := newRoom()
	root := n.irc(t, ircSays("topic"), "$1")
	e := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":"in it","m.relates_to":{"rel_type":"m.thread","event_id":"$1","is_falling_back":true,"m.in_reply_to":{"event_id":"$0"}}}`), "$2")
	if o := toIRC(t, e, n); o.ReplyTo != root.ID || o.Plain[0] != "in it" {
		t.Errorf("%+v", o)
	}
	m := ircSays("me too")
	m.ReplyTo = e.ID // a reply to a message in a thread is in the thread
	_, all := toMatrix(t, n.irc(t, m, ""), n)
	rel := all[0]["m.relates_to"]
	if str(all[0], "m.relates_to", "event_id") != "$1" || str(all[0], "m.relates_to", "m.in_reply_to", "event_id") != "$2" {
		t.Errorf("%v", rel)
	}
}

func TestMatrixEditReactRedact(t *testing.T) {
	n := newRoom()
	first := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":"one"}`), "$1")
	edit := `{"msgtype":"m.text","body":"* two","m.new_content":{"msgtype":"m.text","body":"two"},"m.relates_to":{"rel_type":"m.replace","event_id":"$1"}}`
	ed := n.matrix(t, matrixSays("m.room.message", edit), "$2")
	c, err := ContentOf(ed)
	if id, _ := MessageIDOf(first); err != nil || c.Replaces != id || c.Ref != first.ID {
		t.Errorf("edit: %+v %v", c, err)
	}
	_, all := toMatrix(t, ed, n)
	if all[0]["body"] != "* two" || str(all[0], "m.new_content", "body") != "two" || str(all[0], "m.relates_to", "event_id") != "$1" ||
		str(all[0], "m.relates_to", "rel_type") != "m.replace" {
		t.Errorf("%v", all)
	}
	again := matrixSays("m.room.message", strings.Replace(edit, `"event_id":"$1"`, `"event_id":"$2"`, 1))
	if c, err := ContentOf(n.matrix(t, again, "$3")); err != nil || c.Ref != first.ID {
		t.Errorf("an edit of an edit names %v, %v", c.Ref, err)
	}
	forged := matrixSays("m.room.message", edit)
	forged.User = alice
	if _, err := (Matrix{}).Inbound(forged, n); core.CodeOf(err) != core.Denied {
		t.Errorf("somebody else's edit: %v", err)
	}
	like := n.matrix(t, matrixSays("m.reaction", `{"m.relates_to":{"rel_type":"m.annotation","event_id":"$1","key":"👍"}}`), "$4")
	if o := toIRC(t, like, n); o.Kind != IRCReaction || o.React != "👍" || o.Target != first.ID {
		t.Errorf("%+v", o)
	}
	if _, all := toMatrix(t, like, n); str(all[0], "m.relates_to", "key") != "👍" || str(all[0], "m.relates_to", "event_id") != "$1" {
		t.Errorf("%v", all)
	}
	red := matrixSays("m.room.redaction", `{"redacts":"$4"}`)
	if o := toIRC(t, n.matrix(t, red, ""), n); o.Kind != IRCUnreaction || o.React != "👍" || o.Target != first.ID {
		t.Errorf("%+v", o)
	}
	red = matrixSays("m.room.redaction", `{"reason":"x"}`)
	red.Redacts = "$1"
	e := n.matrix(t, red, "")
	if e.Control == nil || e.Control.Op != core.OpDelete || e.Control.Event != first.ID {
		t.Errorf("%+v", e.Control)
	}
	red.Redacts = "$unknown"
	if _, err := (Matrix{}).Inbound(red, n); core.CodeOf(err) != core.NotFound {
		t.Errorf("%v", err)
	}
}

// CONVERSION.md, "Rooms and people".
func TestMatrixState(t *testing.T) {
	n, key, other := newRoom(), "", "@irc_alice:hs.org"
	own := "@bob:hs.org"
	for _, x := range []struct {
		kind, content, prev string
		key                 *string
		want                []core.Control
	}{
		{"m.room.topic", `{"topic":"a\nb"}`, "", &key, []core.Control{{Op: core.OpTopic, Text: "a b"}}},
		{"m.room.name", `{"name":"Go"}`, "", &key, []core.Control{{Op: core.OpName, Text: "Go"}}},
		{"m.room.member", `{"membership":"join","displayname":"Bob\u202e"}`, "", &own,
			[]core.Control{{Op: core.OpJoin, User: bob, Profile: &core.Profile{Name: "Bob"}}}},
		{"m.room.member", `{"membership":"join","displayname":"B"}`, `{"membership":"join"}`, &own,
			[]core.Control{{Op: core.OpProfile, User: bob, Profile: &core.Profile{Name: "B"}}}},
		{"m.room.member", `{"membership":"leave","reason":"bye"}`, `{"membership":"join"}`, &own, []core.Control{{Op: core.OpLeave, User: bob, Text: "bye"}}},
		{"m.room.member", `{"membership":"leave"}`, `{"membership":"join"}`, &other, []core.Control{{Op: core.OpKick, User: alice}}},
		{"m.room.member", `{"membership":"leave"}`, `{"membership":"ban"}`, &other, []core.Control{{Op: core.OpRole, User: alice}}},
		{"m.room.member", `{"membership":"leave"}`, `{"membership":"invite"}`, &other, nil},
		{"m.room.member", `{"membership":"ban","reason":"spam"}`, `{"membership":"join"}`, &other,
			[]core.Control{{Op: core.OpKick, User: alice, Text: "spam"}, {Op: core.OpRole, User: alice, Role: core.RoleBanned, Text: "spam"}}},
		{"m.room.member", `{"membership":"invite"}`, "", &other, []core.Control{{Op: core.OpInvite, User: alice}}},
		{"m.room.power_levels", `{"users":{"@irc_alice:hs.org":50,"@x:y":100}}`, `{"users":{"@bob:hs.org":100}}`, &key,
			[]core.Control{{Op: core.OpRole, User: alice, Role: core.RoleOperator}, {Op: core.OpRole, User: bob, Role: core.RoleMember}}},
	} {
		m := matrixSays(x.kind, x.content)
		m.StateKey, m.PrevContent = x.key, []byte(x.prev)
		es, err := Matrix{}.Inbound(m, n)
		var got []core.Control
		ids := map[string]bool{}
		for _, e := range es {
			got = append(got, *n.accept(t, e, "", 0).Control)
			ids[e.Origin.ID] = true
		}
		if err != nil || len(ids) != len(es) || !cmp.Equal(got, x.want) {
			t.Errorf("%s %s: %v %s", x.kind, x.content, err, cmp.Diff(x.want, got))
		}
	}
	e := n.accept(t, core.Envelope{Room: testRoom, Sender: alice, Body: core.Control{Op: core.OpTopic, Text: "new"}.Body("alice")}, "", 0)
	if out, all := toMatrix(t, e, n); len(out) != 1 || out[0].Type != "m.room.topic" || *out[0].StateKey != "" || all[0]["topic"] != "new" {
		t.Errorf("%+v", out)
	}
	e = n.accept(t, core.Envelope{Room: testRoom, Sender: alice, Body: core.Control{Op: core.OpJoin, User: alice}.Body("alice")}, "", 0)
	if out, _ := toMatrix(t, e, n); len(out) != 0 {
		t.Errorf("membership is the bridge's: %+v", out)
	}
}

func TestMatrixFile(t *testing.T) {
	n := newRoom()
	e := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.image","body":"cat.png","url":"mxc://hs/abc","info":{"mimetype":"image/png","size":5}}`), "")
	out, all := toMatrix(t, e, n)
	if len(out) != 1 || all[0]["msgtype"] != "m.image" || all[0]["url"] != "mxc://hs/abc" || str(all[0], "info", "mimetype") != "image/png" {
		t.Errorf("%v", all)
	}
	c := Content{Part: Part{Disposition: DispositionAttachment, Cardinality: ExternalPart, Type: "video/mp4",
		File: &File{URL: "https://elsewhere.example/v.mp4", Description: "film"}}}
	e = n.accept(t, c.Envelope(core.Envelope{Room: testRoom, Sender: alice}, "alice"), "", 0)
	out, loss, err := Matrix{}.Outbound(e, n)
	if all = checkMatrix(t, out); err != nil || len(loss) != 1 || loss[0].Kind != LossMedia || all[0]["body"] != "film (video/mp4) https://elsewhere.example/v.mp4" {
		t.Errorf("%v %v %v", all, loss, err)
	}
}

func TestMatrixExtensible(t *testing.T) {
	n := newRoom()
	for kind, x := range map[string][2]string{
		"m.poll.start":  {`{"m.poll":{"question":{"m.text":[{"body":"tea?"}]},"answers":[{"m.text":[{"body":"yes"}]},{"m.text":[{"body":"no"}]}]}}`, "[poll] tea?|- yes|- no"},
		"org.x.weather": {`{"m.text":[{"mimetype":"text/html","body":"<b>x</b>"},{"body":"rain"}]}`, "rain"},
		"org.y.old":     {`{"org.matrix.msc1767.text":"snow"}`, "snow"},
	} {
		if o := toIRC(t, n.matrix(t, matrixSays(kind, x[0]), ""), n); strings.Join(o.Lines, "|") != x[1] {
			t.Errorf("%s: %q", kind, o.Lines)
		}
	}
	for _, kind := range []string{"m.room.encrypted", "org.x.nothing", "m.call.invite", "m.poll.response"} {
		if _, err := (Matrix{}).Inbound(matrixSays(kind, `{"algorithm":"m.megolm"}`), n); core.CodeOf(err) != core.Unsupported {
			t.Errorf("%s: %v", kind, err)
		}
	}
	key := ""
	m := matrixSays("org.x.state", `{"body":"x"}`)
	m.StateKey = &key
	if _, err := (Matrix{}).Inbound(m, n); core.CodeOf(err) != core.Unsupported {
		t.Errorf("%v", err)
	}
}

func TestMatrixHostile(t *testing.T) {
	n := newRoom()
	for _, content := range []string{"", "null", "[]", "{", `{"body":1}`, `{"body":"x"`, `{"msgtype":"m.text","body":["x"]}`, `{"msgtype":"m.text","body":"\ud800"`,
		"{\"msgtype\":\"m.text\",\"body\":\"\xff\"}", `{"a":` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + `}`,
		`{"msgtype":"m.text","body":"` + strings.Repeat("x", maxJSON) + `"}`, `{"msgtype":"m.text","body":" \u0007 "}`,
		`{"msgtype":"m.text","body":"x","m.relates_to":{"rel_type":"m.replace","event_id":"$1"}}`,
		`{"msgtype":"m.image","body":"x","url":"file:///etc/passwd"}`, `{"msgtype":"m.image","body":"x"}`,
		`{"msgtype":"m.text","body":"` + strings.Repeat("x", core.MaxContent) + `"}`} {
		if _, err := (Matrix{}).Inbound(matrixSays("m.room.message", content), n); core.CodeOf(err) != core.Invalid && core.CodeOf(err) != core.TooLarge {
			t.Errorf("%.60q: %v", content, err)
		}
	}
	deep := `{"msgtype":"m.text","body":"x","format":"org.matrix.custom.html","formatted_body":"` + strings.Repeat("<b><blockquote><ul><li>", 2000) + `deep"}`
	if o := toIRC(t, n.matrix(t, matrixSays("m.room.message", deep), ""), n); !strings.Contains(strings.Join(o.Lines, ""), "deep") {
		t.Errorf("%q", o.Lines)
	}
}

func TestInjectionRoomHighlight(t *testing.T) {
	n := newRoom()
	for _, s := range []string{"@room wake up", "\x02@room\x02", "<b>@room</b>", "[x](mimi://a.example/u/room) @room"} {
		out, all := toMatrix(t, n.irc(t, ircSays(s), ""), n)
		if d := cmp.Diff(map[string]any{}, all[0]["m.mentions"]); d != "" {
			t.Errorf("%q: %s", out[0].Content, d)
		}
	}
	e := n.matrix(t, matrixSays("m.room.message", `{"msgtype":"m.text","body":"@room","m.mentions":{"room":true}}`), "$1")
	if _, all := toMatrix(t, e, n); len(all[0]["m.mentions"].(map[string]any)) != 0 {
		t.Errorf("%v", all)
	}
}

func TestInjectionHTML(t *testing.T) {
	n := newRoom()
	for _, s := range []string{`<img src=x onerror=alert(1)>`, "\x02<script>alert(1)</script>", "\x02a\" onclick=\"x", "\x1d</em><b>", "bob: <a href='javascript:x'>"} {
		_, all := toMatrix(t, n.irc(t, ircSays(s), ""), n)
		html, _ := all[0]["formatted_body"].(string)
		for _, bad := range []string{"<script", "<img", "<b>", "onclick=\"x", "<a href='"} {
			if strings.Contains(html, bad) {
				t.Errorf("%q became %q", s, html)
			}
		}
	}
	c := Content{Part: Part{Cardinality: SinglePart, Type: TypeHTML,
		Body: []byte(`<a href="javascript:alert(1)">x</a><img src=y onerror=z><a href="https://ok.example/?a=&quot;><script>">y</a>`)}}
	e := n.accept(t, c.Envelope(core.Envelope{Room: testRoom, Sender: alice}, "alice"), "", 0)
	if _, all := toMatrix(t, e, n); all[0]["formatted_body"] != `x<a href="https://ok.example/?a=%22%3E%3Cscript%3E">y</a>` {
		t.Errorf("%v", all[0]["formatted_body"])
	}
}

// PROTOCOL §14: our own mark and another gateway's.
func TestMatrixOriginTrail(t *testing.T) {
	n := newRoom()
	m := matrixSays("m.room.message", `{"msgtype":"m.text","body":"x","chat.isthmus.origin":{"network":"irc:libera","id":"abc","homeserver":"b.example"}}`)
	e := n.matrix(t, m, "")
	if !e.Origin.Passed("irc:libera") || !e.Origin.Passed("matrix:hs.org") || e.Origin.Passed("irc") {
		t.Errorf("%+v", e.Origin)
	}
	hs, network, id, ok := MatrixOrigin(m.Content)
	if !ok || hs != "b.example" || network != "irc:libera" || id != "abc" {
		t.Errorf("%q %q %q %v", hs, network, id, ok)
	}
	for _, forged := range []string{`{}`, `{"chat.isthmus.origin":7}`, `{"chat.isthmus.origin":{"network":"a\nb","id":"x"}}`, `{"chat.isthmus.origin":{"network":"` + strings.Repeat("x", 300) + `","id":"x"}}`} {
		if _, _, _, ok := MatrixOrigin([]byte(forged)); ok {
			t.Errorf("%s was taken", forged)
		}
	}
	c, err := ContentOf(e)
	if err != nil || string(c.External.ID) != "$e" || c.External.Domain != "hs.org" || !e.Sent.Equal(time.UnixMilli(testStart)) {
		t.Errorf("%+v %v", c.External, err)
	}
}

func FuzzMatrixInbound(f *testing.F) {
	for _, s := range []string{`{"msgtype":"m.text","body":"hi"}`, `{"msgtype":"m.image","url":"mxc://a/b","body":"x","filename":"y"}`,
		`{"msgtype":"m.text","body":"x","format":"org.matrix.custom.html","formatted_body":"<b>x</b><ul><li>y"}`,
		`{"body":"* x","m.new_content":{"body":"y"},"m.relates_to":{"rel_type":"m.replace","event_id":"$1"}}`,
		`{"m.relates_to":{"rel_type":"m.annotation","event_id":"$1","key":"x"}}`, `{"redacts":"$1"}`, `{"membership":"ban"}`,
		`{"users":{"@bob:hs.org":"50"}}`, `{"topic":"\ud83d\ude00\u0000"}`, `{"m.poll":{"question":{"body":"q"},"answers":[{"m.text":"a"}]}}`} {
		for i := range 8 {
			f.Add(s, i)
		}
	}
	kinds := []string{"m.room.message", "m.reaction", "m.room.redaction", "m.sticker", "m.poll.start", "m.room.topic", "m.room.member", "m.room.power_levels"}
	f.Fuzz(func(t *testing.T, content string, kind int) {
		n := newRoom()
		n.irc(t, ircSays("target"), "$1")
		m := matrixSays(kinds[(kind%8+8)%8], content)
		if strings.HasPrefix(m.Type, "m.room.") && m.Type != "m.room.message" && m.Type != "m.room.redaction" {
			key := "@irc_alice:hs.org"
			m.StateKey, m.PrevContent = &key, m.Content
		}
		es, err := Matrix{}.Inbound(m, n)
		if err != nil {
			if core.CodeOf(err) == core.Internal {
				t.Fatalf("%v", err)
			}
			return
		}
		for _, e := range es {
			ev := n.accept(t, e, "$2", 0)
			toIRC(t, ev, n)
			toMatrix(t, ev, n)
		}
	})
}
