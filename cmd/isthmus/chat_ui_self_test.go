package main

import (
	"slices"
	"testing"

	tea "github.com/charmbracelet/bubbletea"

	"github.com/isthmus-chat/isthmus/core/client"
)

// Everything about oneself that verbs do is done here too.
func TestChatUISelf(t *testing.T) {
	r := newUIRig(t)
	r.types("/approve cmVj " + "b3Jk")
	r.did("approve")
	r.sees("isthmus chat login alice@a.example --approval \\", "'laptoplaptoplaptoplaptopla.a.example/YXBwcm92ZWQ'")
	r.key(tea.KeyEsc)
	r.types("/approve ?")
	r.sees("! that is not what `isthmus chat login --with` prints")
	r.types("/link abcdef")
	r.did("link " + string(chatTablet))
	r.types("/revoke abcde")
	r.sees("! 2 devices of yours begin with abcde: abcdef (tablet), abcdeg (old[2J)")
	r.types("/revoke abcdeg")
	r.sees("End a device for ever?", chatOld.ID())
	r.key(tea.KeyEnter)
	r.sees("Nothing was changed.")
	r.types("/revoke lapt")
	r.sees("WARNING: it is THIS device.")
	r.update(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("y")})
	r.did("revoke " + string(chatLaptop))
	if slices.Contains(r.chat.did, "revoke "+string(chatOld)) {
		t.Error("a device is ended without a yes")
	}
	r.types("/consent")
	r.sees("Who may add you", "bob@b.example   yes", "everybody else  no")
	r.key(tea.KeyEsc)
	r.types("/consent carol no")
	r.did("consent {User:mimi://a.example/u/carol May:false Forget:false}")
	r.key(tea.KeyEsc)
	r.types("/consent carol")
	r.sees("! say yes, no or forget of \"carol\"")
	r.types("/letters")
	r.sees("Letters: 1", "bob@b.example invites you: /join mimi://a.example/r/garden", "    sesame")
	r.key(tea.KeyEsc)
	r.types("/accept carol")
	r.sees("! there is no such invitation")
	r.update(uiNews{Warnings: []string{updateText(&client.Update{Kind: client.NewLetter, Letter: &client.Letter{Kind: client.LetterInvitation, From: chatBob}}, "a.example")}})
	r.sees("! bob@b.example invites you to a room: /accept bob@b.example")
	r.types("/accept bob@b.example")
	r.seesNot("invites you")
	r.did("join mimi://a.example/r/garden sesame")
	r.types("/rooms")
	r.sees("Your rooms: 2", "garden  end-to-end encrypted", "mimi://a.example/r/garden", "#lobby  NOT encrypted")
	r.key(tea.KeyEsc)
	r.types("/room garden")
	r.types("/authority")
	r.sees("a.example", "2 of 2 have to agree")
	r.key(tea.KeyEsc)
	r.types("/authority C.example")
	r.did("authority mimi://a.example/r/garden [c.example] 0")
}
