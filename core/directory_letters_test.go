package core_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

func letter(d *device, body string) core.Letter {
	return core.Letter{Device: d.uri, Kind: core.LetterSealed, Body: []byte(body)}
}

func (h *house) letters(d *device, after uint64, limit int) (ls []core.Letter) {
	h.t.Helper()
	h.view(func(r core.Reader) { ls = must(core.LettersOf(r, d.uri, after, limit))(h.t) })
	return ls
}

func TestLettersWaitInOrderUntilTaken(t *testing.T) {
	h, ds := newPackageHouse(t, "phone", "laptop")
	out := h.do(core.PutLetters{From: string(bob), Letters: []core.Letter{letter(ds[0], "1"), letter(ds[1], "x"), letter(ds[0], "2")}})
	if len(out.Letters) != 3 || out.Letters[0].ID != 1 || out.Letters[1].ID != 1 || out.Letters[2].ID != 2 || !out.Letters[0].At.Equal(h.now) {
		t.Fatalf("%+v", out.Letters)
	}
	h.do(core.PutLetters{From: home, Letters: []core.Letter{{Device: ds[0].uri, Kind: core.LetterNotice, Body: []byte("3")}}})
	h.restart()
	ls := h.letters(ds[0], 1, 10)
	if len(ls) != 2 || string(ls[0].Body) != "2" || ls[1].Kind != core.LetterNotice || ls[1].ID != 3 || h.letters(ds[0], 0, 1)[0].ID != 1 {
		t.Fatalf("%+v", ls)
	}
	h.do(core.DropLetters{Device: ds[0].uri, UpTo: 2})
	h.do(core.DropLetters{Device: ds[0].uri, UpTo: 2})
	if ls := h.letters(ds[0], 0, 10); len(ls) != 1 || string(ls[0].Body) != "3" {
		t.Fatalf("%+v", ls)
	}
	h.do(core.DropLetters{Device: ds[0].uri, UpTo: 1 << 60})
	if out := h.do(core.PutLetters{From: string(bob), Letters: []core.Letter{letter(ds[0], "4")}}); out.Letters[0].ID != 4 {
		t.Fatal("an ID was given twice")
	}
	if len(h.letters(ds[1], 0, 10)) != 1 || h.rows("letter") != 2 || h.rows("letter queue") != 2 {
		t.Fatal("letters of another device, or rows that stay")
	}
}

func TestPutLettersHostile(t *testing.T) {
	h, ds := newPackageHouse(t, "phone")
	d := ds[0]
	for name, c := range map[string]struct {
		in   core.PutLetters
		code core.Code
	}{
		"from nobody":       {core.PutLetters{Letters: []core.Letter{letter(d, "x")}}, core.Invalid},
		"none":              {core.PutLetters{From: "x"}, core.Invalid},
		"too many":          {core.PutLetters{From: "x", Letters: make([]core.Letter, 2000)}, core.TooLarge},
		"empty":             {core.PutLetters{From: "x", Letters: []core.Letter{letter(d, "")}}, core.Invalid},
		"too large":         {core.PutLetters{From: "x", Letters: []core.Letter{letter(d, string(make([]byte, core.MaxLetter+1)))}}, core.TooLarge},
		"to nobody":         {core.PutLetters{From: "x", Letters: []core.Letter{letter(d, "x"), letter(newDevice(t, bob, "x"), "x")}}, core.NotFound},
		"a false Welcome":   {core.PutLetters{From: "x", Letters: []core.Letter{{Device: d.uri, Kind: core.LetterWelcome, Body: []byte("x")}}}, core.Invalid},
		"a false notice":    {core.PutLetters{From: domainB, Letters: []core.Letter{{Device: d.uri, Kind: core.LetterNotice, Body: []byte("x")}}}, core.Invalid},
		"a false low water": {core.PutLetters{From: home, Letters: []core.Letter{{Device: d.uri, Kind: core.LetterLowWater, Body: []byte("x")}}}, core.Invalid},
		"about a room":      {core.PutLetters{From: "x", Letters: []core.Letter{{Device: d.uri, Kind: core.LetterSealed, Body: []byte("x"), Room: club}}}, core.Invalid},
	} {
		_, errs := h.apply(c.in)
		if errs[0] == nil || core.CodeOf(errs[0]) != c.code {
			t.Errorf("%s: %v, want %v", name, errs[0], c.code)
		}
	}
	if len(h.letters(d, 0, 10)) != 0 {
		t.Fatal("a refusal left a letter")
	}
	// One sender writes so many to one device; a homeserver more, for all its users.
	var err error
	for n := 0; err == nil; n++ {
		_, errs := h.apply(core.PutLetters{From: string(bob), Letters: []core.Letter{letter(d, "x")}})
		if err = errs[0]; n > 200 {
			t.Fatal("one sender fills the queue")
		}
	}
	wantCode(t, err, core.Limited)
	h.do(core.PutLetters{From: string(carol), Letters: []core.Letter{letter(d, "x")}})
}

// full fills the part of a device's queue that is not for Welcomes.
func (h *house) fill(d *device) {
	h.t.Helper()
	for i := range 20 {
		ls := make([]core.Letter, core.MaxLetters/20)
		for j := range ls {
			ls[j] = letter(d, "spam")
		}
		h.do(core.PutLetters{From: fmt.Sprintf("%d.example", i), Letters: ls})
	}
	_, errs := h.apply(core.PutLetters{From: string(carol), Letters: []core.Letter{letter(d, "x")}})
	wantCode(h.t, errs[0], core.Limited)
}

// A queue full of letters keeps no Welcome out; one key package brings one Welcome.
func TestWelcomesHaveTheirOwnRoom(t *testing.T) {
	h := newGroupHouse(t, domainA)
	al, bo := newDevice(t, alice, "phone"), newDevice(t, bob, "phone")
	h.enrol(al.proof, bo.proof)
	p := bo.leave(h.now.Add(month), false)
	h.do(upload(bo, p))
	h.fill(bo)
	al.create(h, club, policy.Default(string(alice), domainA))
	bo.kp = p.kp
	hs := al.addWith(club, bo, must(mls.Parse(p.message))(t).KeyPackage)
	out, _ := h.accept(hs)
	if len(out.Letters) != 1 || out.Letters[0].Kind != core.LetterWelcome || out.Letters[0].Device != bo.uri {
		t.Fatalf("%+v", out.Letters)
	}
	bo.join(h, club, out.Letters[0])
	tree := []byte("tree")
	again := core.PutWelcome{From: domainB, Welcome: core.Welcome{To: domainA, Room: core.NewRoomID(domainB, "spam"), Epoch: 1, Message: hs.Welcome, Tree: tree}}
	_, errs := h.apply(again)
	wantCode(t, errs[0], core.Denied)
	if ls := h.letters(bo, uint64(core.MaxLetters), 10); len(ls) != 1 || !bytes.Equal(ls[0].Body, out.Letters[0].Body) || ls[0].Room != club || ls[0].Epoch != 1 {
		t.Fatalf("%d letters", len(ls))
	}
	h.do(core.DropLetters{Device: bo.uri, UpTo: 1})
	h.do(core.PutLetters{From: string(carol), Letters: []core.Letter{letter(bo, "there is room again")}})
}

// Large letters fill a queue before many do, and a reader gets them in pages.
func TestLettersAreBoundedInOctets(t *testing.T) {
	h, ds := newPackageHouse(t, "phone")
	body := string(bytes.Repeat([]byte{1}, core.MaxLetter))
	n, err := 0, error(nil)
	for ; err == nil; n++ {
		_, errs := h.apply(core.PutLetters{From: domainB, Letters: []core.Letter{letter(ds[0], body)}})
		err = errs[0]
	}
	wantCode(t, err, core.Limited)
	if n != 65 {
		t.Fatalf("after %d letters", n)
	}
	page := h.letters(ds[0], 0, 1000)
	if len(page) == 0 || len(page) > 40 {
		t.Fatalf("a page of %d", len(page))
	}
	if rest := h.letters(ds[0], page[len(page)-1].ID, 1000); rest[0].ID != page[len(page)-1].ID+1 {
		t.Fatal("a gap between pages")
	}
	h.do(core.DropLetters{Device: ds[0].uri, UpTo: 1 << 60})
	h.do(core.PutLetters{From: domainB, Letters: []core.Letter{letter(ds[0], body)}})
}

// The queue does what a list does.
func TestLettersAgainstOracle(t *testing.T) {
	h, ds := newPackageHouse(t, "phone", "laptop")
	rapid.Check(t, func(rt *rapid.T) {
		h.now = h.now.Add(24 * time.Hour)
		next := map[*device]uint64{}
		want := map[*device][]core.Letter{}
		for _, d := range ds {
			h.do(core.DropLetters{Device: d.uri, UpTo: 1 << 62})
			out := h.do(core.PutLetters{From: home, Letters: []core.Letter{letter(d, "first")}})
			next[d], want[d] = out.Letters[0].ID+1, out.Letters
		}
		for range rapid.IntRange(1, 15).Draw(rt, "steps") {
			d := rapid.SampledFrom(ds).Draw(rt, "device")
			if rapid.Bool().Draw(rt, "put") {
				var in core.PutLetters
				for range rapid.IntRange(1, 4).Draw(rt, "letters") {
					in.Letters = append(in.Letters, letter(d, rapid.StringN(1, 8, -1).Draw(rt, "body")))
				}
				in.From = home
				out := h.do(in)
				for i, l := range out.Letters {
					if l.ID != next[d] || string(l.Body) != string(in.Letters[i].Body) {
						rt.Fatalf("%+v", l)
					}
					next[d]++
					want[d] = append(want[d], l)
				}
			} else {
				upTo := next[d] - uint64(rapid.IntRange(0, 6).Draw(rt, "back"))
				h.do(core.DropLetters{Device: d.uri, UpTo: upTo})
				for len(want[d]) > 0 && want[d][0].ID <= upTo {
					want[d] = want[d][1:]
				}
			}
			got := h.letters(d, 0, 1000)
			if len(got) != len(want[d]) {
				rt.Fatalf("%d letters, the oracle has %d", len(got), len(want[d]))
			}
			for i, l := range got {
				if l.ID != want[d][i].ID || !bytes.Equal(l.Body, want[d][i].Body) {
					rt.Fatalf("%+v, the oracle has %+v", l, want[d][i])
				}
			}
		}
	})
}

// addWith makes a commit that brings in a user's device by a package of its own.
func (d *device) addWith(room core.RoomID, who *device, k *mls.KeyPackage) *core.Handshake {
	d.t.Helper()
	in := update(policy.ComponentParticipants, policy.Invite(d.state(), []string{string(who.user)}, policy.RoleMember))
	return d.commit(room, []core.Identity{who.proof}, group.Add(k), in)
}
