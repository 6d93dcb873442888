package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/store"
)

// The epoch register of a room: which commit ended each epoch. A commit is offered for
// an epoch; it wins, or is told the winner, or nobody knows.
type offerIn struct {
	room  core.RoomID
	epoch uint64
	id    string // of the commit, hexadecimal
}

type offerOut struct {
	won    bool
	lost   bool
	winner string // of a lost one; "" if it was not said
}

// A register is the history of all offers that devices made.
type register struct {
	mu    sync.Mutex
	begin time.Time
	ops   []porcupine.Operation
	next  int
}

func newRegister() *register { return &register{begin: time.Now()} }

// An offerer is a device's homeserver, whose answers to commits go into the register.
type offerer struct {
	*httpHome
	all    *register
	client int
	failed atomic.Pointer[error] // the last answer that left open what became of an offer
}

// wrap is for newPhone.
func (r *register) wrap(h *httpHome) client.Home {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	return &offerer{httpHome: h, all: r, client: r.next - 1}
}

func commitID(b []byte) string {
	id := sha256.Sum256(b)
	return hex.EncodeToString(id[:])
}

// Handshake implements client.Home.
func (o *offerer) Handshake(ctx context.Context, room core.RoomID, h wire.Handshake) (wire.Decided, error) {
	m, err := mls.Parse(h.Message)
	if err != nil || m.Public == nil || m.Public.Content.ContentType != mls.ContentCommit {
		return o.httpHome.Handshake(ctx, room, h)
	}
	op := porcupine.Operation{ClientId: o.client, Input: offerIn{room, m.Public.Content.Epoch, commitID(h.Message)}, Call: int64(time.Since(o.all.begin))}
	d, err := o.httpHome.Handshake(ctx, room, h)
	op.Return = int64(time.Since(o.all.begin))
	var out offerOut
	stale, isStale := err.(*client.Stale)
	switch {
	case err == nil:
		out.won = true
	case isStale:
		if out.lost = true; len(stale.Winner) > 0 {
			out.winner = commitID(stale.Winner)
		}
	case !core.Temporary(err):
		return d, err // refused for what it is
	case ctx.Err() == nil: // else it was not waited for
		o.failed.Store(&err)
	}
	op.Output = out
	o.all.mu.Lock()
	defer o.all.mu.Unlock()
	o.all.ops = append(o.all.ops, op)
	return d, err
}

// epochRegister is what must look as if each offer was decided at one moment between its
// question and its answer.
var epochRegister = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		rooms := map[core.RoomID]int{}
		var parts [][]porcupine.Operation
		for _, op := range history {
			room := op.Input.(offerIn).room
			if _, ok := rooms[room]; !ok {
				rooms[room] = len(parts)
				parts = append(parts, nil)
			}
			parts[rooms[room]] = append(parts[rooms[room]], op)
		}
		return parts
	},
	Init: func() any { return "" }, // the winners so far, each with a space after it
	Step: func(state, input, output any) (bool, any) {
		s, in, out := state.(string), input.(offerIn), output.(offerOut)
		winners := strings.Fields(s)
		ended := uint64(len(winners)) > in.epoch
		switch {
		case out.won && ended: // offered once more
			return winners[in.epoch] == in.id, s
		case out.won:
			return uint64(len(winners)) == in.epoch, s + in.id + " "
		case out.lost:
			return ended && (out.winner == "" || winners[in.epoch] == out.winner), s
		}
		return true, s
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// check looks for an order of the history that explains all answers. ended has, for each
// room, the winners that the homeservers hold at the end: of an offer without an answer
// they tell whether it took effect.
func (r *register) check(t *testing.T, ended map[core.RoomID][]string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	won, lost, unknown := 0, 0, 0
	var history []porcupine.Operation
	for _, op := range r.ops {
		in, out := op.Input.(offerIn), op.Output.(offerOut)
		list := ended[in.room]
		took := in.epoch < uint64(len(list)) && list[in.epoch] == in.id
		switch {
		case out.won:
			won++
		case out.lost:
			lost++
		default:
			if unknown++; !took {
				continue
			}
			op.Output, op.Return = offerOut{won: true}, math.MaxInt64
		}
		if out.won && !took {
			t.Errorf("an offer won epoch %d, and its homeservers hold another commit, or none", in.epoch)
		}
		history = append(history, op)
	}
	if result := porcupine.CheckOperationsTimeout(epochRegister, history, 20*time.Second); result != porcupine.Ok {
		t.Errorf("the history of the epochs is not linearizable: %s", result)
	}
	t.Logf("%d offers won, %d lost, %d without an answer: linearizable", won, lost, unknown)
	if won == 0 {
		t.Error("no offer won")
	}
}

// The model is only worth something if it refuses what must not be.
func TestEpochRegisterModel(t *testing.T) {
	op := func(call, ret int64, epoch uint64, id string, out offerOut) porcupine.Operation {
		return porcupine.Operation{Input: offerIn{"r", epoch, id}, Call: call, Output: out, Return: ret}
	}
	for name, c := range map[string]struct {
		ops []porcupine.Operation
		ok  bool
	}{
		"one after the other":        {[]porcupine.Operation{op(0, 1, 0, "x", offerOut{won: true}), op(2, 3, 1, "y", offerOut{won: true})}, true},
		"a race and its loser":       {[]porcupine.Operation{op(0, 5, 0, "x", offerOut{won: true}), op(0, 9, 0, "y", offerOut{lost: true, winner: "x"})}, true},
		"two winners":                {[]porcupine.Operation{op(0, 5, 0, "x", offerOut{won: true}), op(0, 9, 0, "y", offerOut{won: true})}, false},
		"a loser without a winner":   {[]porcupine.Operation{op(0, 5, 0, "x", offerOut{lost: true, winner: "y"})}, false},
		"told a winner that lost":    {[]porcupine.Operation{op(0, 5, 0, "x", offerOut{won: true}), op(6, 9, 0, "y", offerOut{lost: true, winner: "z"})}, false},
		"told before it was decided": {[]porcupine.Operation{op(0, 1, 0, "y", offerOut{lost: true, winner: "x"}), op(2, 3, 0, "x", offerOut{won: true})}, false},
		"an epoch left out":          {[]porcupine.Operation{op(0, 1, 1, "x", offerOut{won: true})}, false},
	} {
		if got := porcupine.CheckOperations(epochRegister, c.ops); got != c.ok {
			t.Errorf("%s: %v, want %v", name, got, c.ok)
		}
	}
}

// winners reads which commits ended a room's epochs, from the store of a homeserver that
// is down.
func (h *homeserver) winners(room core.RoomID, url string) (list []string) {
	h.t.Helper()
	if url == "" {
		url = "sqlite:" + h.database()
	}
	db, err := store.Open(context.Background(), store.Options{URL: url, Homeserver: h.domain})
	if err != nil {
		h.t.Fatalf("%s: %v", h.domain, err)
	}
	defer db.Close()
	err = db.View(context.Background(), func(r core.Reader) error {
		g, err := core.GroupOf(r, room)
		if err != nil {
			return err
		}
		for epoch := range g.Authority.Epoch {
			id, _, err := core.EpochEnd(r, room, epoch)
			if core.CodeOf(err) == core.NotFound && err != nil {
				list = append(list, "") // from before this homeserver came, or in a snapshot
				continue
			}
			if err != nil {
				return err
			}
			list = append(list, hex.EncodeToString(id[:]))
		}
		return nil
	})
	if err != nil {
		h.t.Fatalf("%s: %v", h.domain, err)
	}
	return list
}

// agreed holds the stores of all homeservers, which are down, to one history of a room.
func (c *cluster) agreed(room core.RoomID, urls map[string]string) (all []string) {
	c.t.Helper()
	for _, h := range c.homes {
		list := h.winners(room, urls[h.domain])
		for epoch, id := range list {
			if epoch == len(all) {
				all = append(all, "")
			}
			if id != "" && all[epoch] != "" && all[epoch] != id {
				c.t.Errorf("epoch %d was ended by two commits: %s has %s, others %s", epoch, h.domain, id, all[epoch])
			}
			if all[epoch] == "" {
				all[epoch] = id
			}
		}
	}
	return all
}
