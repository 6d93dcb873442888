package client

import (
	"bytes"
	"crypto/rand"
	"maps"
	"path/filepath"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

func openStore(t testing.TB) *store.DB {
	t.Helper()
	db, err := store.Open(ctx, store.Options{URL: "sqlite:" + filepath.Join(t.TempDir(), "device.db"), Homeserver: "a.example"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// A sealed store is a KV like any other, and opens with its secret only.
func TestSeal(t *testing.T) {
	db := openStore(t)
	key := Secret{Key: bytes.Repeat([]byte{7}, 32)}
	kv, err := Seal(ctx, db, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	model := newMemory()
	rapid.Check(t, func(rt *rapid.T) {
		tables := []string{"self", "group/mimi://a.example/r/secret garden", "messages/x"}
		numbers := rapid.SampledFrom([]uint64{0, 1, 2, 255, 256, 1 << 40, ^uint64(0) - 1, ^uint64(0)})
		var rows []Row
		for range rapid.IntRange(1, 8).Draw(rt, "rows") {
			data := rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(rt, "data")
			if rapid.Bool().Draw(rt, "drop") {
				data = nil
			}
			rows = append(rows, Row{rapid.SampledFrom(tables).Draw(rt, "table"), numbers.Draw(rt, "n"), data})
		}
		if err := kv.Write(ctx, rows); err != nil {
			rt.Fatal(err)
		}
		if err := model.Write(ctx, rows); err != nil {
			rt.Fatal(err)
		}
		table, from, limit := rapid.SampledFrom(tables).Draw(rt, "list"), numbers.Draw(rt, "from"), rapid.IntRange(1, 9).Draw(rt, "limit")
		got, err := kv.Rows(ctx, table, from, limit)
		want, _ := model.Rows(ctx, table, from, limit)
		if err != nil || !slices.EqualFunc(got, want, func(a, b Row) bool {
			return a.Table == b.Table && a.N == b.N && bytes.Equal(a.Data, b.Data)
		}) {
			rt.Fatalf("rows of %s from %d: %v %v, not %v", table, from, err, got, want)
		}
		one, err := kv.Get(ctx, table, from)
		if two, _ := model.Get(ctx, table, from); err != nil || !bytes.Equal(one, two) || (one == nil) != (two == nil) {
			rt.Fatalf("row %d of %s: %v %v, not %v", from, table, err, one, two)
		}
	})
	again, err := Seal(ctx, db, key, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a, err := again.Rows(ctx, "self", 0, 10); err != nil || len(a) == 0 {
		t.Errorf("opened again: %v %v", err, a)
	}
	for _, wrong := range []Secret{{Key: bytes.Repeat([]byte{8}, 32)}, {Passphrase: []byte("x")}, {Key: []byte("short")}, {}} {
		if _, err := Seal(ctx, db, wrong, rand.Reader); core.CodeOf(err) != core.Denied {
			t.Errorf("%+v opens it: %v", wrong, err)
		}
	}
}

// What lies in the store names nobody and says nothing, and cannot be moved about.
func TestSealHides(t *testing.T) {
	db := openStore(t)
	kv, err := Seal(ctx, db, Secret{Passphrase: []byte("correct horse")}, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := kv.Write(ctx, []Row{{"messages/garden", 1, []byte("canary")}, {"messages/garden", 2, []byte("another")}}); err != nil {
		t.Fatal(err)
	}
	var all []core.Value
	view := func(f func(r core.Reader) error) {
		if err := db.View(ctx, f); err != nil {
			t.Fatal(err)
		}
	}
	view(func(r core.Reader) (err error) { all, err = r.Values(sealBucket, "", 100); return err })
	var moved []core.Value
	for _, v := range all {
		if bytes.Contains(v.Data, []byte("canary")) || bytes.Contains([]byte(v.Key), []byte("garden")) {
			t.Errorf("row %q shows itself", v.Key)
		}
		if v.Key != "header" {
			moved = append(moved, v)
		}
	}
	if len(moved) != 2 {
		t.Fatalf("%d rows", len(moved))
	}
	if err := db.Update(ctx, func(tx core.Tx) error { return tx.PutValue(sealBucket, moved[0].Key, moved[1].Data) }); err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Get(ctx, "messages/garden", 1); core.CodeOf(err) != core.Internal {
		t.Errorf("a row in another's place is read: %v", err)
	}
	if _, err := Seal(ctx, db, Secret{Passphrase: []byte("wrong horse")}, rand.Reader); core.CodeOf(err) != core.Denied {
		t.Errorf("a wrong passphrase: %v", err)
	}
}

// A whole device lives in a sealed store.
func TestSealedDevice(t *testing.T) {
	w := newWorld(t, 20)
	alice, p := w.phone(user("alice"), nil), w.bare(user("bob"))
	db := openStore(t)
	open := func() {
		kv, err := Seal(ctx, db, Secret{Key: make([]byte, 32)}, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		p.cfg.Store = kv
		p.open()
	}
	open()
	if _, err := p.Prepare(ctx, user("bob"), "phone"); err != nil {
		t.Fatal(err)
	}
	p.must(p.Register(ctx, Registration{}))
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, p)
	alice.say(room, "one")
	p.sync()
	open()
	p.say(room, "two")
	agree(room, alice, p)
	if got := p.read(room); !slices.Equal(got, []string{"alice: one", "bob: two"}) {
		t.Errorf("bob reads %q", got)
	}
	calm(alice, p)
}

// Nobody can make a device stumble with what is sealed in a letter.
func FuzzLetter(f *testing.F) {
	me := core.NewDeviceURI("b.example", "x")
	good := encode(signedLetter{Letter: encode(Letter{Kind: LetterText, From: user("alice"), Device: core.NewDeviceURI("a.example", "y"), To: me, Text: "hello"}), Signature: make([]byte, 64)})
	f.Add(append([]byte{0, 0, 0, byte(len(good))}, good...))
	f.Add([]byte{0, 0, 0, 1, 0x80})
	f.Add([]byte{255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		s, l, err := readLetter(b, me)
		if err == nil && (l.To != me || len(s.Letter) == 0 || l.From.Domain() != l.Device.Domain()) {
			t.Errorf("%+v passes", l)
		}
	})
}

// Nobody can make a device stumble with events: what cannot be read is kept as that.
func FuzzEvent(f *testing.F) {
	w := newWorld(f, 21)
	alice, bob := w.phone(user("alice"), nil), w.phone(user("bob"), nil)
	room := alice.create("tea")
	alice.invite(room, user("bob"))
	agree(room, alice, bob)
	alice.say(room, "one")
	alice.must(alice.Renew(ctx, room))
	for _, e := range w.rooms[room].log {
		f.Add(e.Sealed, e.Certificate)
	}
	bob.sync()
	base, before := bob.kv.tables, bob.secret(room)
	f.Fuzz(func(t *testing.T, sealed, certificate []byte) {
		if len(sealed) == 0 {
			return
		}
		w.TB, bob.kv.tables = t, map[string]map[uint64][]byte{}
		for name, rows := range base {
			bob.kv.tables[name] = maps.Clone(rows)
		}
		bob.open()
		fuzzed := fakeEvent{for_: map[core.UserURI]bool{bob.User(): true}}
		fuzzed.Room, fuzzed.Seq, fuzzed.Sealed, fuzzed.Certificate = room, 1000, sealed, certificate
		old := w.log
		w.log = append(slices.Clone(old), &fuzzed)
		_, err := bob.Sync(ctx, 0)
		w.log = old
		if err != nil {
			t.Fatalf("bob stumbles: %v", err)
		}
		if bob.secret(room) != before {
			t.Fatal("a fuzzed event opened an epoch")
		}
	})
}
