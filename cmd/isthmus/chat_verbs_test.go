package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
)

// verbRig runs verbs of isthmus chat on a device without a homeserver.
type verbRig struct {
	t        *testing.T
	chat     *fakeChat
	out, err bytes.Buffer
	closed   int
}

func newVerbRig(t *testing.T) *verbRig { return &verbRig{t: t, chat: newFakeChat()} }

// run runs a verb and returns its exit code; it reads in.
func (r *verbRig) run(in string, args ...string) int {
	r.t.Helper()
	r.out.Reset()
	r.err.Reset()
	c := &cli{in: strings.NewReader(in), out: &r.out, err: &r.err, environ: []string{"HOME=" + r.t.TempDir()}}
	app := &chatApp{cli: c, open: func(context.Context) (chatter, func() error, error) {
		return r.chat, func() error { r.closed++; return nil }, nil
	}}
	root := c.root()
	if old, _, err := root.Find([]string{"chat"}); err == nil {
		root.RemoveCommand(old)
	}
	root.AddCommand(app.command())
	root.SetArgs(append([]string{"chat"}, args...))
	cmd, err := root.ExecuteContextC(r.t.Context())
	c.command = cmd
	if err != nil && err != errSaid {
		c.fail(err)
	}
	if !harmless(r.out.String()) || !harmless(r.err.String()) {
		r.t.Errorf("%v writes a control character: %q %q", args, r.out.String(), r.err.String())
	}
	return c.exitCode(err)
}

// says runs a verb that succeeds, and wants text in what it says.
func (r *verbRig) says(want string, args ...string) {
	r.t.Helper()
	if code := r.run("", args...); code != exitOK || !strings.Contains(r.out.String(), want) {
		r.t.Errorf("%v: code %d, no %q in\n%s%s", args, code, want, r.out.String(), r.err.String())
	}
}

// fails runs a verb that fails with a code, and wants text in what it says.
func (r *verbRig) fails(code int, want string, args ...string) {
	r.t.Helper()
	if got := r.run("", args...); got != code || !strings.Contains(r.err.String(), want) {
		r.t.Errorf("%v: code %d, want %d and %q in\n%s", args, got, code, want, r.err.String())
	}
}

func TestChatVerbs(t *testing.T) {
	r := newVerbRig(t)
	r.says("Made party (mimi://a.example/r/party): end-to-end encrypted.", "create", "party", "bob@b.example")
	r.says("Invited bob@b.example.", "create", "party", "bob@b.example")
	if code := r.run("", "create", "shed", "ghost"); code != exitFailed || !strings.Contains(r.out.String(), "Made shed") || !strings.Contains(r.out.String(), "Not let in: ghost (no such user") {
		t.Errorf("code %d: %s", code, r.out.String())
	}
	if code := r.run("", "create", "hut", "ghost", "--json"); code != exitFailed || !strings.Contains(r.out.String(), `"status": "unknown"`) {
		t.Errorf("code %d: %s", code, r.out.String())
	}
	r.says("Made plaza (mimi://a.example/r/plaza): NOT encrypted.", "create", "--channel", "plaza")
	r.says(`"encrypted": true`, "create", "third", "--json")
	r.says("Invited bob@b.example.", "invite", "garden", "bob@b.example")
	r.fails(exitFailed, "", "invite", "garden", "bob@b.example", "carol")
	r.says("You are in x: NOT encrypted.", "join", "mimi://b.example/r/x", "--code", "sesame")
	r.says("You are in market", "join", "#Market")
	r.says("You asked to leave garden: another", "leave", "garden", "--wait", "1ms")
	r.says(`"done": "leaving"`, "leave", "garden", "--wait", "0", "--json")
	r.says("Removed carol.", "remove", "garden", "carol")
	r.says("garden  end-to-end encrypted  0       5      mimi://a.example/r/garden  mimi://a.example/g/garden", "rooms")
	r.says("#lobby  NOT encrypted         2       0      mimi://a.example/r/lobby   none", "rooms")
	r.says(`"room": "mimi://a.example/r/garden"`, "rooms", "--json")
	r.says("alice@a.example", "members", "garden")
	r.says("[NOT verified] phone[31m phonephone", "members", "garden")
	r.says("laptoplaptoplaptoplaptopla  laptop  this device", "devices")
	r.says("phone[31m  NOT verified", "devices", "bob@b.example")
	r.says("isthmus chat login alice@a.example --approval laptoplaptoplaptoplaptopla.a.example/YXBwcm92ZWQ", "devices", "approve", "cmVjb3Jk")
	r.says("opensesame", "code", "garden", "--uses", "3", "--for", "1h")
	r.says("bob@b.example   yes\neverybody else  no", "consent")
	r.says("everybody else  yes", "consent", "carol", "no")
	r.says(`[]`, "consent", "everybody", "yes", "--json")
	r.fails(exitUsage, "say yes, no or forget", "consent", "bob@b.example")
	r.fails(exitFailed, "say yes, no or forget", "consent", "bob@b.example", "perhaps")
	for _, want := range []string{"consent {User:mimi://a.example/u/carol May:false Forget:false}", "consent {User: May:true Forget:false}"} {
		if !slices.Contains(r.chat.did, want) {
			t.Errorf("never did %q; did %q", want, r.chat.did)
		}
	}
	r.says("bob@b.example invites you: isthmus chat join mimi://a.example/r/garden --code sesame", "letters")
	r.says(`"code": "sesame"`, "letters", "--json")
	r.says("You left #lobby.", "leave", "#lobby")
	r.says("opens the room no more", "code", "garden", "--drop", "opensesame")
	for _, want := range []string{"create party channel=false [mimi://b.example/u/bob]", "create plaza channel=true []", "join mimi://b.example/r/x sesame",
		"join mimi://a.example/r/market ", "leave mimi://a.example/r/garden", "remove mimi://a.example/r/garden [mimi://a.example/u/carol]",
		"approve", "code mimi://a.example/r/garden 3"} {
		if !slices.Contains(r.chat.did, want) {
			t.Errorf("never did %q; did %q", want, r.chat.did)
		}
	}
	r.fails(exitFailed, "you are in no room nowhere", "leave", "nowhere")
	r.fails(exitFailed, "is not a user", "invite", "garden", "a@b@c")
	r.fails(exitUsage, "'isthmus chat invite --help' says how", "invite", "garden")
	r.fails(exitUsage, "needs a terminal")
	r.fails(exitFailed, "not what `isthmus chat login --with` prints", "devices", "approve", "?")
	if r.closed == 0 {
		t.Error("a device is left open")
	}
	for _, code := range []core.Code{core.Unavailable, core.Limited} {
		r.chat.fail = &core.Error{Code: code, Text: "later"}
		r.fails(exitUnavailable, "later", "create", "x")
	}
}

// One's own devices are named by as many letters as tell them apart.
func TestChatDeviceVerbs(t *testing.T) {
	r := newVerbRig(t)
	r.says(chatTablet.ID()+"  tablet  NOT verified", "devices")
	r.says("This device says now that "+chatTablet.ID()+" is yours", "devices", "link", "abcdef")
	r.says("Revoked "+chatOld.ID()+".", "devices", "revoke", "ABCDEG")
	r.says("Revoked "+chatGone.ID()+".", "devices", "revoke", "abcdefz")
	r.says(`"device": "`+string(chatLaptop)+`"`, "devices", "revoke", string(chatLaptop), "--json")
	r.says("Revoked zzzz", "devices", "revoke", strings.Repeat("z", 26)) // what is not listed any more
	for _, want := range []string{"link " + string(chatTablet), "revoke " + string(chatOld), "revoke " + string(chatGone), "revoke " + string(chatLaptop)} {
		if !slices.Contains(r.chat.did, want) {
			t.Errorf("never did %q; did %q", want, r.chat.did)
		}
	}
	done := len(r.chat.did)
	r.fails(exitFailed, "2 devices of yours begin with abcde: abcdef (tablet), abcdeg (old[2J)", "devices", "revoke", "abcde")
	r.fails(exitFailed, "write at least 4 letters", "devices", "revoke", "abc")
	r.fails(exitFailed, "you have no device nosuch", "devices", "revoke", "nosuch")
	r.fails(exitFailed, "is no device of yours", "devices", "revoke", string(chatPhone))
	for _, did := range r.chat.did[done:] {
		if did != "sync" {
			t.Errorf("a word that names no device came to %q", did)
		}
	}
	if got := candidates([]chatDevice{{Device: chatPhone, Name: "a"}, {Device: chatPhone[:len(chatPhone)-1] + "q", Name: "b"}}); got != chatPhone.ID()+" (a), phonephonephonephonephoneq (b)" {
		t.Errorf("devices that differ at the end: %s", got)
	}
}

// Who decides a room is shown, and set; what is not said stays.
func TestChatAuthorityVerb(t *testing.T) {
	r := newVerbRig(t)
	r.says("a.example\nb.example\n2 of 2 have to agree to a change.\n", "authority", "garden")
	r.says("3 of 4 have to agree", "authority", "garden", "b.example", "D.example", "a.example", "c.example", "a.example")
	r.says("a.example\nb.example\nc.example\nd.example\n3 of 4", "authority", "garden", "--two-thirds")
	r.says("3 of 3", "authority", "garden", "a.example", "b.example", "c.example") // two thirds still
	r.says(`"two_thirds": true`, "authority", "garden", "--json")
	r.says("2 of 3", "authority", "garden", "--two-thirds=false")
	set := slices.DeleteFunc(slices.Clone(r.chat.did), func(s string) bool { return !strings.HasPrefix(s, "authority") })
	garden := "authority " + string(chatGarden)
	if want := []string{garden + " [a.example b.example c.example d.example] 0", garden + " [a.example b.example c.example d.example] 1",
		garden + " [a.example b.example c.example] 1", garden + " [a.example b.example c.example] 0"}; !slices.Equal(set, want) {
		t.Errorf("it does %q", set)
	}
	r.fails(exitFailed, "a channel is decided by its own homeserver", "authority", "#lobby", "a.example")
	r.fails(exitFailed, "you are in no", "authority", "mimi://a.example/r/nowhere")
	r.fails(exitUsage, "", "authority")
}

// What a device knows it shows without its homeserver, and says so.
func TestChatVerbsOffline(t *testing.T) {
	r := newVerbRig(t)
	r.chat.fail = core.Errorf(core.Unavailable, "the homeserver does not answer")
	r.says("garden", "rooms")
	if !strings.Contains(r.err.String(), "does not answer; what follows is what this device knows") {
		t.Errorf("it says %q", r.err.String())
	}
	r.chat.fail = core.Errorf(core.Denied, "no")
	r.fails(exitFailed, "no", "rooms")
	for _, verb := range [][]string{{"rooms"}, {"invite", "garden", "bob@b.example"}, {"tail", "--for", "1ms"}} { // one room does not hold up all
		r.chat.fail = &untended{core.Errorf(core.Denied, "that room is not proven")}
		r.says("", verb...)
		if !strings.Contains(r.err.String(), "WARNING: that room is not proven") {
			t.Errorf("%v says %q", verb, r.err.String())
		}
	}
	r.says("bob@b.example: two\n    lines\n", "history", "garden")
	r.says("2030-01-02 15:04 bob@b.example: hello\n", "history", "garden", "--before", "2")
	r.fails(exitFailed, "you are in no room cellar", "history", "cellar")
	r.chat.lines["mimi://a.example/r/old"] = []chatLine{{Seq: 1, Kind: chatSaid, Text: "dust", Sender: chatBob}}
	r.says("bob@b.example: dust", "history", "attic")
	r.says(`"text":"two\nlines"`, "history", "garden", "--limit", "1", "--json")
	if n := strings.Count(r.out.String(), "\n"); n != 1 {
		t.Errorf("%d lines of JSON", n)
	}
}

// Lines of the input are messages, each with a result; a text is one message.
func TestChatSendVerb(t *testing.T) {
	r := newVerbRig(t)
	var in strings.Builder
	for i := range 3 * sendBatch {
		fmt.Fprintf(&in, "line %d\n", i+1)
	}
	in.WriteString("refused\nlast without an end")
	if code := r.run(in.String(), "send", "garden", "--json"); code != exitFailed {
		t.Errorf("exit code %d: %s", code, r.err.String())
	}
	results := strings.Split(strings.TrimSpace(r.out.String()), "\n")
	if len(results) != 3*sendBatch+2 {
		t.Fatalf("%d results", len(results))
	}
	for i, text := range results {
		var s chatSent
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.Line != i+1 || (s.Error != nil) != (i == 3*sendBatch) {
			t.Errorf("result %d: %s, %v", i+1, text, err)
		}
	}
	lines := r.chat.lines[chatGarden]
	if got := lines[len(lines)-1].Text; got != "last without an end" {
		t.Errorf("the last is %q", got)
	}
	// What is more than the homeserver wants at once goes out by and by, each line once.
	r.chat.most = 30
	before := len(r.chat.lines[chatGarden])
	if code := r.run(strings.Repeat("much\n", sendBatch-2), "send", "garden", "--json"); code != exitOK || len(r.chat.lines[chatGarden]) != before+sendBatch-2 {
		t.Errorf("code %d, %d lines: %s", code, len(r.chat.lines[chatGarden])-before, r.err.String())
	}
	for i, text := range strings.Split(strings.TrimSpace(r.out.String()), "\n") {
		var s chatSent
		if err := json.Unmarshal([]byte(text), &s); err != nil || s.Line != i+1 || s.Seq != uint64(before+i+1) || s.Waiting {
			t.Errorf("result %d: %s, %v", i+1, text, err)
		}
	}
	r.chat.most = 0
	r.says("Sent 1.", "send", "garden", "one\ntwo", "three")
	lines = r.chat.lines[chatGarden]
	if got := lines[len(lines)-1].Text; got != "one\ntwo three" {
		t.Errorf("a text is %q", got)
	}
	r.fails(exitFailed, "isthmus: not that", "send", "garden", "refused")
	if r.out.Len() > 0 {
		t.Errorf("a text that is refused: %s", r.out.String())
	}
	if code := r.run("fine\nrefused\n", "send", "garden"); code != exitFailed || !strings.Contains(r.out.String(), "Sent 1.") || !strings.Contains(r.err.String(), "line 2: not that") {
		t.Errorf("code %d: %s%s", code, r.out.String(), r.err.String())
	}
	if code := r.run("refused\n", "send", "garden"); code != exitFailed || !strings.Contains(r.err.String(), "line 1: not that") {
		t.Errorf("code %d: %s", code, r.err.String())
	}
	if code := r.run("fine\n"+strings.Repeat("x", maxChatText+3), "send", "garden"); code != exitFailed || !strings.Contains(r.err.String(), "line 2 is over") {
		t.Errorf("code %d: %s", code, r.err.String())
	}
}

// Who was just invited may say something at once: the room's name comes with entering it.
func TestChatSendVerbEntering(t *testing.T) {
	r := newVerbRig(t)
	const room = "mimi://b.example/r/xyz"
	r.chat.rooms = append(r.chat.rooms, chatRoom{Room: room, Name: "xyz", Encrypted: true, Entering: true})
	r.says("Sent 1.", "send", "garden", "this one is entered already")
	r.chat.enters = 3
	r.says("Sent 1.", "send", "cellar", "hello")
	r.chat.rooms[len(r.chat.rooms)-1].Entering = true
	r.chat.enters = 3
	r.says("Sent 1.", "send", room, "hello again")
	if n := len(r.chat.lines[room]); n != 2 {
		t.Errorf("%d lines", n)
	}
	r.chat.rooms[len(r.chat.rooms)-1].Entering = true
	r.fails(exitFailed, "you are in no room attic", "send", "attic", "hello")
}

// A homeserver that does not answer has send keep what it can, and say so.
func TestChatSendVerbAway(t *testing.T) {
	r := newVerbRig(t)
	away := core.Errorf(core.Unavailable, "the homeserver does not answer")
	r.chat.fail = away
	r.fails(exitUnavailable, "isthmus: the homeserver does not answer; it is kept and goes out with the next command\n", "send", "garden", "hi")
	r.chat.fail = away
	if code := r.run("one\ntwo\n", "send", "garden", "--json"); code != exitUnavailable || strings.Count(r.out.String(), `"waiting":true`) != 2 || !strings.Contains(r.err.String(), "2 lines are kept") {
		t.Errorf("code %d: %s%s", code, r.out.String(), r.err.String())
	}
	r.chat.fail = away
	r.fails(exitFailed, "you are in no room cellar, as far as this device knows; it was not kept", "send", "cellar", "hi")
	r.chat.fail = core.Errorf(core.Denied, "no")
	r.fails(exitFailed, "isthmus: no", "send", "garden", "hi")
}

// tail shows each line once: what is unread, then what comes.
func TestChatTailVerb(t *testing.T) {
	r := newVerbRig(t)
	r.chat.rooms[0].Read = 1
	r.chat.news <- chatNews{Lines: []chatLine{{Room: chatLobby, Seq: 2, Kind: chatSaid, Text: "again", Sender: chatBob},
		{Room: chatLobby, Seq: 2, Kind: chatEvent, Text: "carol came in", Event: "~1"}, {Room: chatGarden, Seq: 4, Kind: chatSaid, Text: "news\x1b[2J", Sender: chatBob}}}
	r.chat.rooms[1].Read = 1
	r.says("garden bob@b.example: is anybody here?\n", "tail", "--limit", "3")
	want := []string{"#lobby -- bob joined", "garden bob@b.example: is anybody here?", "garden bob@b.example: two", "    lines", "#lobby -- carol came in", "garden bob@b.example: news[2J", ""}
	got := strings.Split(r.out.String(), "\n")
	for i := range got {
		if len(got[i]) > 17 && got[i][0] != ' ' {
			got[i] = got[i][17:]
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("tail shows %q\nwant %q", got, want)
	}
	if r.chat.read[chatGarden] != 4 || r.chat.read[chatLobby] != 2 {
		t.Errorf("read: %v", r.chat.read)
	}
	r.says(`"text":"hello"`, "tail", "garden", "--since", "0", "--for", "10ms", "--json", "--limit", "1")
	r.fails(exitFailed, "you are in no room", "tail", "nowhere")
	start := time.Now()
	r.says("", "tail", "--for", "20ms")
	if time.Since(start) > 30*time.Second {
		t.Error("--for does not end it")
	}
}

func TestChatVerifyVerb(t *testing.T) {
	r := newVerbRig(t)
	r.says("apple river stone lamp\n", "verify", "bob@b.example")
	if r.chat.verified[chatPhone] || !strings.Contains(r.out.String(), "Not verified.") {
		t.Errorf("showing the words verifies: %s", r.out.String())
	}
	r.says("Verified phone", "verify", "bob@b.example/phone", "--yes")
	if !r.chat.verified[chatPhone] {
		t.Error("not verified")
	}
	r.fails(exitFailed, "has no device that waits", "verify", "bob@b.example")
	r.says(`"words": [`, "verify", string(chatPhone), "--json")
}

// Profiles are found by their user, and a store is opened by what closed it.
func TestChatProfiles(t *testing.T) {
	dir := t.TempDir()
	c := &cli{in: strings.NewReader(""), out: new(bytes.Buffer), err: new(bytes.Buffer)}
	f := &chatFlags{dir: dir}
	if _, err := c.chatProfile(f); core.CodeOf(err) != core.NotFound {
		t.Errorf("no profile: %v", err)
	}
	for _, u := range []core.UserURI{chatAlice, chatBob} {
		p := &chatProfile{User: u, Server: "https://x", dir: profileDir(dir, u)}
		if err := p.write(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.chatProfile(f); core.CodeOf(err) != core.Conflict || !strings.Contains(err.Error(), "alice@a.example, bob@b.example") {
		t.Errorf("two profiles: %v", err)
	}
	for as, want := range map[string]core.UserURI{"alice": chatAlice, "bob@b.example": chatBob, string(chatBob): chatBob, "carol": ""} {
		p, err := c.chatProfile(&chatFlags{dir: dir, as: as})
		if (err == nil) != (want != "") || err == nil && p.User != want {
			t.Errorf("--as %s: %+v, %v", as, p, err)
		}
	}
	info, err := os.Stat(filepath.Join(profileDir(dir, chatAlice), profileName))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the profile: %v, %v", info, err)
	}
	for env, want := range map[string]string{"XDG_DATA_HOME=/x": "/x/isthmus-chat", "HOME=/h": "/h/.local/share/isthmus-chat", "XDG_DATA_HOME=relative": ""} {
		c.environ = []string{env}
		if got, err := c.chatBase(&chatFlags{}); got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", env, got, err)
		}
	}
}

func TestChatSecrets(t *testing.T) {
	dir := t.TempDir()
	c := &cli{in: strings.NewReader(""), out: new(bytes.Buffer), err: new(bytes.Buffer)}
	p := &chatProfile{User: chatAlice, dir: dir}
	if _, err := c.chatSecret(&chatFlags{}, p, true); core.CodeOf(err) != core.Invalid || !strings.Contains(err.Error(), chatPassphrase) {
		t.Errorf("nothing given: %v", err)
	}
	c.environ = []string{chatPassphrase + "=sesame"}
	s, err := c.chatSecret(&chatFlags{}, p, true)
	if err != nil || string(s.Passphrase) != "sesame" {
		t.Errorf("from the environment: %+v, %v", s, err)
	}
	file := filepath.Join(dir, "key")
	if _, err := c.chatSecret(&chatFlags{keyFile: file}, p, false); core.CodeOf(err) != core.NotFound {
		t.Errorf("a key file that is not there: %v", err)
	}
	key, err := c.chatSecret(&chatFlags{keyFile: file}, p, true)
	again, aerr := c.chatSecret(&chatFlags{}, p, false) // the profile knows it now
	if err != nil || aerr != nil || len(key.Key) != chatKeySize || !bytes.Equal(key.Key, again.Key) {
		t.Errorf("a key file: %v, %v", err, aerr)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the key file: %v, %v", info, err)
	}
	db, _, err := p.open(t.Context(), key, 0)
	if err != nil {
		t.Fatal(err)
	}
	busy := func(want string) {
		t.Helper()
		if _, _, err := p.open(t.Context(), key, 100*time.Millisecond); core.CodeOf(err) != core.Unavailable || !strings.Contains(err.Error(), want) {
			t.Errorf("two processes: %v", err)
		}
	}
	busy("another isthmus chat uses this device")
	release, err := p.hold(holdScreen)
	if err != nil {
		t.Fatal(err)
	}
	busy(fmt.Sprintf("the full-screen client of this device is running (process %d)", os.Getpid()))
	start := time.Now()
	if _, _, err := p.open(t.Context(), key, chatWait); core.CodeOf(err) != core.Unavailable || time.Since(start) > chatWait/2 {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	release()
	busy("another isthmus chat uses this device")
	for _, stale := range []string{"{", `{"pid": 0, "what": "tail"}`, `{"pid": 1073741824, "what": "tail"}`, `{"pid": -1, "what": "tail"}`} {
		if err := os.WriteFile(filepath.Join(dir, profileHolder), []byte(stale), 0o600); err != nil {
			t.Fatal(err)
		}
		busy("another isthmus chat uses this device")
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := p.open(t.Context(), client.Secret{Passphrase: []byte("wrong")}, 0); core.CodeOf(err) != core.Denied {
		t.Errorf("a wrong secret: %v", err)
	}
	if err := os.WriteFile(file, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyFile(file, true); core.CodeOf(err) != core.Invalid {
		t.Errorf("a short key: %v", err)
	}
}

func TestChatWithDevice(t *testing.T) {
	id := strings.Repeat("a2", 13)
	for with, want := range map[string]int{"": 0, id: 1, "mimi://a.example/d/" + id: 1, id[:6]: -1, "nosuchdevice": -1, id + "a": -1, "mimi://b.example/d/" + id: -1, "a/b\x1b": -1} {
		links, err := withDevice(chatAlice, with)
		if len(links) != max(want, 0) || (core.CodeOf(err) == core.Invalid) != (want < 0) || want == 1 && links[0] != id {
			t.Errorf("--with %q: %q, %v", with, links, err)
		}
	}
}

// A login that comes to nothing says where it was tried and why, or what to add.
func TestChatLoginRefused(t *testing.T) {
	closed := freeAddress(t)
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	strange := httptest.NewTLSServer(http.NotFoundHandler())
	defer strange.Close()
	for server, want := range map[string]string{
		"http://" + closed: "does not answer: the connection is refused",
		"https://" + strings.TrimPrefix(plain.URL, "http://"): "does not answer: http: server gave HTTP response to HTTPS client",
		strange.URL:                       "certificate is not to be trusted",
		"https://nowhere.isthmus.invalid": "its name cannot be found (DNS): nowhere.isthmus.invalid",
	} {
		if _, err := askDomain(t.Context(), server, ""); err == nil || !strings.HasPrefix(explain(err), server+": the homeserver") || !strings.Contains(explain(err), want) {
			t.Errorf("%s: %v, want %q", server, err, want)
		}
	}
	taken := core.Errorf(core.Conflict, "that name is taken: give the account's password, or let another device approve this one")
	if got := explain(refusedLogin("https://a.example", client.Registration{}, taken)); !strings.Contains(got, "--password") || !strings.Contains(got, "--with DEVICE") {
		t.Errorf("a name that is taken: %s", got)
	}
	if err := refusedLogin("https://a.example", client.Registration{Password: "x"}, taken); err != taken {
		t.Errorf("with a password: %v", err)
	}
}

func TestChatApprovals(t *testing.T) {
	whole := formatApproval(chatPhone, bytes.Repeat([]byte("s"), 64))
	by, sig, err := parseApproval(whole[:40] + "\n " + whole[40:])
	if by != chatPhone || len(sig) != 64 || err != nil {
		t.Errorf("an approval came back as %q %q %v", by, sig, err)
	}
	for _, s := range []string{whole[1:], whole[30:], whole[:len(whole)-2], whole[:len(whole)-4]} {
		if _, _, err := parseApproval(s); !strings.HasSuffix(core.TextOf(err), "copy all of it, from DEVICE to the end") {
			t.Errorf("the part %q: %v", s, err)
		}
	}
	for _, s := range []string{"", "/", ".", "a/b", "a.b", "a.b/?", "./", "a.B/YQ"} {
		if _, _, err := parseApproval(s); core.CodeOf(err) != core.Invalid {
			t.Errorf("%q: %v", s, err)
		}
	}
	if got := cutName(strings.Repeat("ä", 40)); len(got) != 64 {
		t.Errorf("a long name has %d octets", len(got))
	}
}
