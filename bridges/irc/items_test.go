package irc

import (
	"context"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// itemsOf returns what the store still keeps for an account.
func (h *house) itemsOf(name string) (items []core.Item) {
	h.t.Helper()
	err := h.rt.View(context.Background(), func(r core.Reader) (err error) {
		items, err = r.Items(core.NewUserURI(testDomain, name), 0, 10)
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
	return items
}

func (h *house) noItems(name string) {
	h.t.Helper()
	for range 500 {
		if len(h.itemsOf(name)) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	h.t.Fatalf("items that were shown stay in the store: %+v", h.itemsOf(name))
}

// What the homeserver has to say to somebody is shown at once if they are here,
// else at their next login, and once.
func TestItemsAreShownOnce(t *testing.T) {
	h := openHouse(t, nil)
	pass := h.tokenFor("erin")
	tell := func(text string) {
		t.Helper()
		it := core.Item{To: core.NewUserURI(testDomain, "erin"), Kind: "loss", Text: text}
		if _, err := h.rt.Do(context.Background(), core.PutItem{Item: it}); err != nil {
			t.Fatal(err)
		}
	}
	tell("while you were away")
	c := h.dial()
	c.send("PASS "+pass, "NICK erin", "USER erin 0 * :Erin")
	c.until("NOTICE erin :while you were away")
	h.noItems("erin")
	tell("while you were here")
	c.until("NOTICE erin :while you were here")
	h.noItems("erin")
	c.send("QUIT")
	again := h.login(pass)
	for _, l := range again.sync() {
		if has(l, "while you were") {
			t.Errorf("shown twice: %q", l)
		}
	}
}
