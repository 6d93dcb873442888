package native

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Who wants to be asked is not put into rooms, but can be written to: an invitation
// with a join code lets them in when they like to come.
func TestAPIConsent(t *testing.T) {
	h := openAPI(t, nil)
	ctx := context.Background()
	alice, bob := h.phone("alice", "laptop", client.Registration{}), h.phone("bob", "phone", client.Registration{})
	alice.sync(0)
	bob.sync(0)
	said, err := ask[wire.Consents](ctx, bob.home, "PUT", "/v1/consent", wire.PutConsent{})
	must(t, err)
	if d := cmp.Diff([]wire.Consent{{}}, said.Consents); d != "" {
		t.Fatal(d)
	}
	room, err := alice.Create(ctx, client.NewRoom{Name: "Kitchen", Options: []policy.Option{policy.JoinCodes()}})
	must(t, err)
	invited, err := alice.Invite(ctx, room, bob.User())
	must(t, err)
	if len(invited) != 1 || invited[0].Status != core.NoConsent || invited[0].Devices != 0 {
		t.Fatalf("invited %+v", invited)
	}
	code, err := alice.JoinCode(ctx, room, "", 1, 0)
	must(t, err)
	must(t, alice.WriteLetter(ctx, bob.User(), client.Letter{Kind: client.LetterInvitation, Room: room, Code: code.Code}))
	bob.sync(5 * time.Second)
	for _, u := range bob.news {
		if u.Kind == client.NewLetter && u.Letter.Kind == client.LetterInvitation && u.Letter.From == alice.User() {
			must(t, bob.Join(ctx, u.Letter.Room, u.Letter.Code))
		}
	}
	alice.sync(0)
	_, err = alice.Send(ctx, room, "text/plain", []byte("you came"))
	must(t, err)
	bob.sync(5 * time.Second)
	if got := bob.heard(room); got != "you came" {
		t.Errorf("bob hears %q", got)
	}

	said, err = ask[wire.Consents](ctx, bob.home, "PUT", "/v1/consent", wire.PutConsent{User: alice.User(), May: true})
	must(t, err)
	listed, err := ask[wire.Consents](ctx, bob.home, "GET", "/v1/consent", nil)
	must(t, err)
	want := []wire.Consent{{}, {User: alice.User(), May: true}}
	if d := cmp.Diff(want, said.Consents) + cmp.Diff(want, listed.Consents); d != "" {
		t.Error(d)
	}
	other, err := alice.Create(ctx, client.NewRoom{Name: "Garden"})
	must(t, err)
	if invited, err = alice.Invite(ctx, other, bob.User()); err != nil || invited[0].Status != core.Claimed {
		t.Errorf("with bob's consent: %+v, %v", invited, err)
	}
	if _, err := ask[wire.Consents](ctx, bob.home, "PUT", "/v1/consent", wire.PutConsent{User: "nobody"}); core.CodeOf(err) != core.Invalid {
		t.Errorf("consent to nobody: %v", err)
	}
	said, err = ask[wire.Consents](ctx, bob.home, "PUT", "/v1/consent", wire.PutConsent{Forget: true})
	must(t, err)
	if d := cmp.Diff(want[1:], said.Consents); d != "" {
		t.Error(d)
	}
}
