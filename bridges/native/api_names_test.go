package native

import (
	"bytes"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Devices and people with curl are told what a relayed user is called; the name of a
// user of the homeserver is no bridge's to say.
func TestAPINamesOfRelayed(t *testing.T) {
	room, guest := core.NewRoomID("a.example", "plaza"), core.NewUserURI("a.example", "guest", "abcd2345")
	said := func(sender core.UserURI, name, text string) core.Event {
		return core.Event{Envelope: core.Envelope{Room: room, Sender: sender, Body: core.Signed{Name: name, ContentType: "text/plain", Content: []byte(text)}}}
	}
	events := []wire.Event{}
	for _, e := range []core.Event{said(guest, "dave\x1b", "hi"), said(core.NewUserURI("a.example", "alice"), "bob", "yes"), said(core.NewUserURI("a.example", "alice"), "alice", "no")} {
		events = append(events, wireEvent(&e))
	}
	if events[0].Name != "dave\x1b" || events[1].Name != "bob" || events[2].Name != "" {
		t.Errorf("devices are told %q, %q, %q", events[0].Name, events[1].Name, events[2].Name)
	}
	var b bytes.Buffer
	textLines(&b, events)
	for _, want := range []string{" plaza [irc guest] dave: ", " plaza alice: ", " plaza alice: "} {
		line, rest, _ := strings.Cut(b.String(), "\n")
		if !strings.Contains(line, want) {
			t.Errorf("people are told %q, want %q", line, want)
		}
		b = *bytes.NewBufferString(rest)
	}
	for want, c := range map[string]core.Control{
		"[irc guest] dave joined":                   {Op: core.OpJoin, User: guest, Profile: &core.Profile{Name: "dave"}},
		"[irc guest] dave left: bye":                {Op: core.OpLeave, User: guest, Text: "bye"},
		"[irc guest] dave is [irc guest] david now": {Op: core.OpProfile, User: guest, Profile: &core.Profile{Name: "david"}},
		"[irc guest] dave is shown differently":     {Op: core.OpProfile, User: guest, Profile: &core.Profile{Name: "dave"}},
		"alice joined":                              {Op: core.OpJoin, User: core.NewUserURI("a.example", "alice"), Profile: &core.Profile{Name: "bob@b.example"}},
	} {
		e := core.Event{Envelope: core.Envelope{Room: room, Sender: guest, Body: core.Signed{Name: "dave", ContentType: core.ContentControl}}, Control: &c}
		if got := wireEvent(&e).Text; got != want {
			t.Errorf("people are told %q, want %q", got, want)
		}
	}
}
