package native

import (
	"context"
	"encoding/hex"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// asked is a homeserver that takes down what it is asked, and refuses it.
type asked struct {
	bridges.Gateway
	codes  [][32]byte
	reason core.Reason
}

func (g *asked) Do(_ context.Context, in core.Input) (core.Output, error) {
	g.codes = append(g.codes, in.(core.LeaseGroupInfo).Code)
	return core.Output{}, core.Refuse(core.Denied, g.reason, "no")
}

const codeRoom = core.RoomID("mimi://a.example/r/club")

// The hash is slow, is what others that read PROTOCOL would make, and is another one
// in another room.
func TestJoinCodeHash(t *testing.T) {
	ctx, s := t.Context(), newCodes(time.Now)
	h, err := s.hash(ctx, "alice", codeRoom, "open sesame")
	if got := hex.EncodeToString(h[:]); err != nil || got != "e6dd67d1098499ae681d9db639118a321076e9c4f15cfa30cebc3a3c71b86598" {
		t.Fatal(got, err)
	}
	other, err := s.hash(ctx, "alice", codeRoom+"2", "open sesame")
	if err != nil || other == h {
		t.Fatal(other, err)
	}
	for _, code := range []string{"", string(make([]byte, maxCode+1))} {
		if _, err := s.hash(ctx, "alice", codeRoom, code); err == nil || core.CodeOf(err) != core.Invalid {
			t.Errorf("%d octets: %v", len(code), err)
		}
	}
}

// Who tries codes is counted before anything is computed, computes one at a time, and
// nothing where no code is needed.
func TestJoinCodesCostLittle(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := newCodes(func() time.Time { return now })
	if err := s.asked.take("eve", codeBurst, now); err != nil {
		t.Fatal(err)
	}
	s.turn <- struct{}{} // somebody's is being computed
	if _, err := s.hash(t.Context(), "eve", codeRoom, "x"); core.CodeOf(err) != core.Limited {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.hash(ctx, "alice", codeRoom, "x"); core.CodeOf(err) != core.Unavailable {
		t.Fatal(err)
	}
	<-s.turn
	for reason, want := range map[core.Reason]int{core.Banned: 1, core.InviteOnly: 2} {
		g := &asked{reason: reason}
		if _, err := s.lease(t.Context(), g, "alice", core.LeaseGroupInfo{Room: codeRoom}, "x"); core.ReasonOf(err) != reason {
			t.Error(err)
		}
		if len(g.codes) != want || g.codes[0] != [32]byte{} || g.codes[want-1] == [32]byte{} != (want == 1) {
			t.Errorf("%s: asked with %x", reason, g.codes)
		}
	}
}
