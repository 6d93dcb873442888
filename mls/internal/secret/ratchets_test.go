package secret

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

var testLimits = Limits{Skip: 40, Stored: 20}

// some returns n octets that differ from call to call with seed.
func some(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i)*7 + seed
	}
	return b
}

func newTest(t testing.TB, id uint16, leaves uint32) (*suite.Suite, []byte, *Ratchets) {
	s := lookup(t, id)
	root := some(s.HashSize(), 1)
	return s, root, NewRatchets(s, root, leaves, testLimits)
}

// nodeSecret is tree_node_[leaf]_secret straight from RFC 9420 §9, from the
// root of a tree with that many leaves.
func nodeSecret(s *suite.Suite, secret []byte, leaves, leaf uint32) []byte {
	for leaves > 1 {
		leaves /= 2
		side := "left"
		if leaf >= leaves {
			side, leaf = "right", leaf-leaves
		}
		secret = s.ExpandWithLabel(nil, secret, "tree", []byte(side), s.HashSize())
	}
	return secret
}

// plainKey is key and nonce of a generation straight from RFC 9420 §9 and §9.1.
func plainKey(s *suite.Suite, root []byte, leaves, leaf uint32, c Content, generation uint32) []byte {
	label := map[Content]string{Handshake: "handshake", Application: "application"}[c]
	secret := s.ExpandWithLabel(nil, nodeSecret(s, root, leaves, leaf), label, nil, s.HashSize())
	for g := range generation {
		secret = s.DeriveTreeSecret(nil, secret, "secret", g, s.HashSize())
	}
	key := s.DeriveTreeSecret(nil, secret, "key", generation, s.KeySize())
	return s.DeriveTreeSecret(key, secret, "nonce", generation, s.NonceSize())
}

// receive takes and consumes, and returns key and nonce.
func receive(t testing.TB, r *Ratchets, leaf uint32, c Content, generation uint32) []byte {
	t.Helper()
	k, err := r.Take(leaf, c, generation)
	if err != nil {
		t.Fatalf("take %d/%d/%d: %v", leaf, c, generation, err)
	}
	got := slices.Concat(k.Key, k.Nonce)
	if err := r.Consume(k); err != nil {
		t.Fatalf("consume %d/%d/%d: %v", leaf, c, generation, err)
	}
	return got
}

// reporter is what testing and rapid have in common here.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
}

func wantError(t reporter, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func takeError(r *Ratchets, leaf uint32, c Content, generation uint32) error {
	_, err := r.Take(leaf, c, generation)
	return err
}

func TestKeysOfEverySuite(t *testing.T) {
	for _, id := range suite.All() {
		s, root, r := newTest(t, id, 5) // a tree of 8 leaves
		for _, leaf := range []uint32{3, 0, 7, 4} {
			for _, c := range []Content{Application, Handshake} {
				for _, g := range []uint32{2, 0, 3, 1} {
					name := fmt.Sprintf("%s: leaf %d content %d generation %d", s.Name(), leaf, c, g)
					equal(t, name, receive(t, r, leaf, c, g), plainKey(s, root, 8, leaf, c, g))
				}
			}
		}
	}
}

func TestWidths(t *testing.T) {
	s := lookup(t, 1)
	for leaves, width := range map[uint32]uint32{
		0: 1, 1: 1, 2: 2, 3: 4, 8: 8, 9: 16, 100_000: 1 << 17, MaxLeaves: MaxLeaves, 1<<32 - 1: MaxLeaves,
	} {
		root := some(s.HashSize(), 3)
		r := NewRatchets(s, root, leaves, testLimits)
		if r.Leaves() != width {
			t.Errorf("%d leaves: width %d, want %d", leaves, r.Leaves(), width)
		}
		for i, leaf := range []uint32{0, width - 1, width / 2} {
			g := uint32(i) // in narrow trees they are the same leaf
			equal(t, "key", receive(t, r, leaf, Application, g), plainKey(s, root, width, leaf, Application, g))
		}
		wantError(t, "leaf outside", takeError(r, width, Application, 0), ErrLeaf)
		wantError(t, "leaf outside", takeError(r, 1<<32-1, Application, 0), ErrLeaf)
		parsed, err := ParseRatchets(s, r.AppendTo(nil))
		if err != nil {
			t.Fatalf("width %d: %v", width, err)
		}
		equal(t, "record", parsed.AppendTo(nil), r.AppendTo(nil))
	}
}

// Rules 25, 26 and 27: RFC 9420 §9.1, §9.2, §15.3.
func TestRefusals(t *testing.T) {
	_, _, r := newTest(t, 1, 4)
	wantError(t, "too far on a fresh leaf", takeError(r, 1, Handshake, 41), ErrTooFar)
	wantError(t, "last generation", takeError(r, 1, Handshake, lastGeneration), ErrExhausted)
	wantError(t, "a content that does not exist", takeError(r, 1, 2, 0), ErrRetired)
	receive(t, r, 1, Handshake, 40)
	wantError(t, "replay", takeError(r, 1, Handshake, 40), ErrReplay)
	wantError(t, "pushed out", takeError(r, 1, Handshake, 19), ErrReplay)
	receive(t, r, 1, Handshake, 20)
	wantError(t, "replay of a skipped one", takeError(r, 1, Handshake, 20), ErrReplay)
	wantError(t, "too far", takeError(r, 1, Handshake, 82), ErrTooFar)
	receive(t, r, 1, Handshake, 81)
	for _, kept := range []uint32{80, 61} {
		receive(t, r, 1, Handshake, kept)
	}
	wantError(t, "pushed out later", takeError(r, 1, Handshake, 39), ErrReplay)
	for _, e := range []struct {
		err  *Error
		rule int
	}{{ErrReplay, 25}, {ErrTooFar, 26}, {ErrExhausted, 27}} {
		if e.err.Rule != e.rule || e.err.Error() == "" {
			t.Errorf("%v has rule %d, want %d", e.err, e.err.Rule, e.rule)
		}
	}
}

// A consumption that comes too late is refused like its Take, and changes nothing.
func TestConsumeTwice(t *testing.T) {
	_, _, r := newTest(t, 1, 4)
	k, err := r.Take(2, Application, 3)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Consume(k); err != nil {
		t.Fatal(err)
	}
	before := r.AppendTo(nil)
	wantError(t, "second consumption", r.Consume(k), ErrReplay)
	wantError(t, "wrong leaf", r.Consume(Key{Leaf: 4}), ErrLeaf)
	equal(t, "state", r.AppendTo(nil), before)
}

func TestExhaustion(t *testing.T) {
	_, _, r := newTest(t, 1, 2)
	receive(t, r, 0, Application, 0)
	r.senders[0][Application].generation = lastGeneration - 1
	generation, _, _, err := r.Next(0, Application)
	if err != nil || generation != lastGeneration-1 {
		t.Fatalf("last usable generation: %d, %v", generation, err)
	}
	before := r.AppendTo(nil)
	_, _, _, err = r.Next(0, Application)
	wantError(t, "next", err, ErrExhausted)
	wantError(t, "take", takeError(r, 0, Application, lastGeneration), ErrExhausted)
	equal(t, "state", r.AppendTo(nil), before)
	if _, err := ParseRatchets(r.tree.suite, before); err != nil {
		t.Errorf("exhausted state: %v", err)
	}
}

func TestNext(t *testing.T) {
	s, root, r := newTest(t, 3, 4)
	for want := range uint32(5) {
		g, key, nonce, err := r.Next(1, Application)
		if err != nil || g != want {
			t.Fatalf("generation %d, %v; want %d", g, err, want)
		}
		equal(t, "key", slices.Concat(key, nonce), plainKey(s, root, 4, 1, Application, want))
	}
	if g := r.Generation(1, Application); g != 5 {
		t.Errorf("next generation %d, want 5", g)
	}
	if g := r.Generation(2, Application); g != 0 {
		t.Errorf("next generation of a fresh leaf %d, want 0", g)
	}
	wantError(t, "a key that was sent with", takeError(r, 1, Application, 4), ErrReplay)
	_, _, _, err := r.Next(4, Application)
	wantError(t, "leaf outside", err, ErrLeaf)
}

// After a crash the own ratchet starts behind what may have been used.
func TestSkip(t *testing.T) {
	s, root, r := newTest(t, 1, 4)
	if err := r.Skip(0, Application, 32); err != nil {
		t.Fatal(err)
	}
	wantError(t, "a key passed over", takeError(r, 0, Application, 31), ErrReplay)
	g, key, nonce, err := r.Next(0, Application)
	if err != nil || g != 32 {
		t.Fatalf("generation %d, %v; want 32", g, err)
	}
	equal(t, "key", slices.Concat(key, nonce), plainKey(s, root, 4, 0, Application, 32))
	before := r.AppendTo(nil)
	if err := r.Skip(0, Application, 10); err != nil {
		t.Fatal(err)
	}
	wantError(t, "too far", r.Skip(0, Application, 33+MaxForward+1), ErrTooFar)
	wantError(t, "too far, fresh", r.Skip(1, Application, MaxForward+1), ErrTooFar)
	wantError(t, "leaf outside", r.Skip(9, Application, 1), ErrLeaf)
	r.Forget()
	equal(t, "state", r.AppendTo(nil), before)
}

func TestReplay(t *testing.T) {
	s, _, r := newTest(t, 2, 8)
	receive(t, r, 1, Application, 2)
	old := r.AppendTo(nil)
	type use struct {
		leaf, generation uint32
		c                Content
	}
	uses := []use{{1, 0, Application}, {6, 9, Handshake}, {6, 3, Handshake}, {1, 30, Application}, {1, 25, Application}}
	for _, u := range uses {
		receive(t, r, u.leaf, u.c, u.generation)
	}
	if err := r.Skip(0, Handshake, 7); err != nil {
		t.Fatal(err)
	}
	restored, err := ParseRatchets(s, old)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second round changes nothing
		for _, u := range uses {
			if err := restored.Replay(u.leaf, u.c, u.generation); err != nil {
				t.Fatal(err)
			}
		}
		if err := restored.Skip(0, Handshake, 7); err != nil {
			t.Fatal(err)
		}
		equal(t, "state", restored.AppendTo(nil), r.AppendTo(nil))
	}
	wantError(t, "replay too far", restored.Replay(2, Handshake, 1000), ErrTooFar)
}

// checkScratch fails if a slot that is free, or a scratch buffer, is not zeros.
func checkScratch(t *testing.T, r *Ratchets) {
	t.Helper()
	for _, slot := range r.tree.slots.free {
		equal(t, "free slot", r.tree.slots.at(slot), make([]byte, r.tree.slots.size))
	}
	equal(t, "scratch", slices.Concat(r.walk, r.next, r.tree.next), make([]byte, 3*len(r.walk)))
}

func TestNothingIsLeftBehind(t *testing.T) {
	_, _, r := newTest(t, 1, 16)
	for leaf := range r.Leaves() {
		for _, generation := range []uint32{3, 4} {
			if _, err := r.Take(leaf, Handshake, generation); err != nil {
				t.Fatal(err)
			}
			checkScratch(t, r)
			receive(t, r, leaf, Handshake, generation)
			checkScratch(t, r)
		}
		if _, _, _, err := r.Next(leaf, Application); err != nil {
			t.Fatal(err)
		}
		if err := r.Skip(leaf, Application, 9); err != nil {
			t.Fatal(err)
		}
		checkScratch(t, r)
	}
	r.RetireHandshake()
	checkScratch(t, r)
	if len(r.tree.slots.free) < int(r.Leaves()) || len(r.tree.nodes) != 0 {
		t.Errorf("%d slots free, %d nodes left", len(r.tree.slots.free), len(r.tree.nodes))
	}
}

// The example of RFC 9420 §9.2: D sends generation 1, and 0 did not arrive.
func TestDeletionSchedule(t *testing.T) {
	s, root, r := newTest(t, 1, 4)
	receive(t, r, 3, Application, 1)
	kept := slices.Sorted(maps.Keys(r.tree.nodes))
	if !slices.Equal(kept, []uint32{1, 4}) { // E and C
		t.Errorf("nodes kept: %v", kept)
	}
	record := r.AppendTo(nil)
	leaf := nodeSecret(s, root, 4, 3)
	ar0 := s.DeriveSecret(nil, leaf, "application")
	ar1 := s.DeriveTreeSecret(nil, ar0, "secret", 0, s.HashSize())
	ar2 := s.DeriveTreeSecret(nil, ar1, "secret", 1, s.HashSize())
	f := s.ExpandWithLabel(nil, root, "tree", []byte("right"), s.HashSize())
	k0, k1 := plainKey(s, root, 4, 3, Application, 0), plainKey(s, root, 4, 3, Application, 1)
	gone := map[string][]byte{"G": root, "F": f, "D": leaf, "AR0": ar0, "AR1": ar1, "K1": k1[:16], "N1": k1[16:]}
	memory := slices.Concat(slices.Concat(r.tree.slots.pages...), r.out, r.walk, r.next, r.tree.next, record)
	for name, secret := range gone {
		if bytes.Contains(memory, secret) {
			t.Errorf("%s is still there", name)
		}
	}
	for name, secret := range map[string][]byte{"AR2": ar2, "HR0": s.DeriveSecret(nil, leaf, "handshake"), "K0 and N0": k0} {
		if !bytes.Contains(record, secret) {
			t.Errorf("%s is lost", name)
		}
	}
}

func TestWipe(t *testing.T) {
	_, _, r := newTest(t, 7, 16)
	receive(t, r, 3, Application, 10)
	if _, err := r.Take(3, Application, 4); err != nil {
		t.Fatal(err)
	}
	memory := append(slices.Clone(r.tree.slots.pages), r.senders[3][Application].skipped.keys, r.out, r.walk, r.next, r.tree.next)
	r.Wipe()
	for i, b := range memory {
		if len(b) == 0 || !bytes.Equal(b, make([]byte, len(b))) {
			t.Errorf("memory %d is not zeros: %x", i, b)
		}
	}
	wantError(t, "take", takeError(r, 3, Application, 4), ErrLeaf)
	_, _, _, err := r.Next(3, Application)
	wantError(t, "next", err, ErrLeaf)
	wantError(t, "consume", r.Consume(Key{}), ErrLeaf)
	wantError(t, "skip", r.Skip(0, Application, 1), ErrLeaf)
	r.RetireHandshake()
	r.Wipe()
	if r.Leaves() != 0 {
		t.Errorf("%d leaves after Wipe", r.Leaves())
	}
}

func TestForgetAndShrinkingKeysAreWiped(t *testing.T) {
	_, _, r := newTest(t, 1, 4)
	k, err := r.Take(0, Application, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Forget()
	equal(t, "key", slices.Concat(k.Key, k.Nonce), make([]byte, len(r.out)))
	receive(t, r, 0, Application, 4)
	keys := r.senders[0][Application].skipped.keys
	for i, g := range []uint32{2, 0, 1, 3} {
		receive(t, r, 0, Application, g)
		if left := r.senders[0][Application].skipped.len(); left != 3-i {
			t.Errorf("%d skipped keys left, want %d", left, 3-i)
		}
	}
	equal(t, "skipped keys", keys, make([]byte, len(keys)))
}

func TestRetireHandshake(t *testing.T) {
	s, root, r := newTest(t, 1, 8)
	receive(t, r, 2, Handshake, 5)
	receive(t, r, 2, Application, 5)
	r.RetireHandshake()
	for range 2 {
		for _, leaf := range []uint32{2, 3} {
			wantError(t, "take", takeError(r, leaf, Handshake, 6), ErrRetired)
			_, _, _, err := r.Next(leaf, Handshake)
			wantError(t, "next", err, ErrRetired)
			wantError(t, "skip", r.Skip(leaf, Handshake, 1), ErrRetired)
		}
		var err error
		if r, err = ParseRatchets(s, r.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
	}
	equal(t, "skipped", receive(t, r, 2, Application, 1), plainKey(s, root, 8, 2, Application, 1))
	equal(t, "fresh leaf", receive(t, r, 3, Application, 1), plainKey(s, root, 8, 3, Application, 1))
	if r.senders[3][Handshake].slot != noSlot {
		t.Error("a handshake ratchet was started")
	}
}

func TestNothingIsPrinted(t *testing.T) {
	s, root, r := newTest(t, 1, 2)
	k, err := r.Take(0, Application, 0)
	if err != nil {
		t.Fatal(err)
	}
	e := Derive(s, root, nil, []byte("context"))
	for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%s", "%d", "%q"} {
		got := fmt.Sprintf(verb+verb+verb+verb+verb, r, k, e, *e, NewExporterTree(s, e.AppExport))
		if want := "Ratchets(secret)Key(secret)Epoch(secret)Epoch(secret)ExporterTree(secret)"; got != want {
			t.Errorf("%s prints %q", verb, got)
		}
	}
}

func TestEpochWipe(t *testing.T) {
	s, root, _ := newTest(t, 1, 2)
	e := Derive(s, root, nil, []byte("context"))
	seen := map[string]bool{}
	for i, f := range e.fields() {
		if len(*f) != s.HashSize() || cap(*f) != s.HashSize() || seen[string(*f)] {
			t.Errorf("field %d has %d octets, or repeats another", i, len(*f))
		}
		seen[string(*f)] = true
	}
	zero := make([]byte, s.HashSize())
	equal(t, "empty psk is zeros", Derive(s, root, zero, []byte("context")).Init, e.Init)
	equal(t, "empty psk is zeros", Welcome(s, root, zero), Welcome(s, root, nil))
	equal(t, "empty commit secret is zeros", Joiner(s, root, zero, nil), Joiner(s, root, nil, nil))
	exporter := e.Exporter
	e.Wipe()
	equal(t, "wiped", exporter, zero)
	if e.Init != nil || e.AppExport != nil {
		t.Error("fields are left after Wipe")
	}
}

func TestScheduleBounds(t *testing.T) {
	s, root, _ := newTest(t, 1, 2)
	for _, n := range []int{-1, 255*s.HashSize() + 1, 1 << 30} {
		_, err := Export(s, root, "label", nil, n)
		wantError(t, fmt.Sprint(n), err, ErrLength)
	}
	for _, n := range []int{0, 1, 255 * s.HashSize()} {
		if b, err := Export(s, root, "label", nil, n); err != nil || len(b) != n {
			t.Errorf("%d octets: got %d, %v", n, len(b), err)
		}
	}
	_, err := PSK(s, make([][]byte, 1), nil)
	wantError(t, "lengths differ", err, ErrPSKs)
	_, err = PSK(s, make([][]byte, MaxPSKs+1), make([][]byte, MaxPSKs+1))
	wantError(t, "too many", err, ErrPSKs)
	key, nonce := WelcomeKey(s, root)
	equal(t, "welcome key", key, s.ExpandWithLabel(nil, root, "key", nil, 16))
	equal(t, "welcome nonce", nonce, s.ExpandWithLabel(nil, root, "nonce", nil, 12))
	// A sample shorter than Nh is the whole ciphertext; octets after Nh do not matter.
	long, short := some(100, 9), some(5, 9)
	key, nonce = SenderDataKey([]byte("x"), s, root, long)
	equal(t, "key", key, s.ExpandWithLabel(nil, root, "key", long[:32], 16))
	equal(t, "nonce", nonce, s.ExpandWithLabel(nil, root, "nonce", long[:32], 12))
	key, _ = SenderDataKey(nil, s, root, short)
	equal(t, "short", key, s.ExpandWithLabel(nil, root, "key", short, 16))
}

// The hot paths allocate nothing: encrypt and decrypt have a budget of one
// allocation, which is the message.
func TestAllocations(t *testing.T) {
	for _, id := range []uint16{1, 2, 3, 7} {
		s, root, r := newTest(t, id, 1000)
		receive(t, r, 7, Application, 0)
		generation := uint32(1)
		buf := make([]byte, 0, 64)
		sample := some(200, 5)
		for name, f := range map[string]func(){
			"Take and Consume": func() {
				k, err := r.Take(7, Application, generation)
				if err == nil {
					err = r.Consume(k)
				}
				if err != nil {
					t.Fatal(err)
				}
				generation++
			},
			"Next": func() {
				if _, _, _, err := r.Next(8, Application); err != nil {
					t.Fatal(err)
				}
			},
			"a forged Take": func() {
				if _, err := r.Take(9, Application, 30); err != nil {
					t.Fatal(err)
				}
			},
			"SenderDataKey": func() { SenderDataKey(buf, s, root, sample) },
		} {
			if got := testing.AllocsPerRun(50, f); got != 0 {
				t.Errorf("%s: %s allocates %v times", s.Name(), name, got)
			}
		}
	}
}

// Memory grows with the leaves in use and log n, not with n.
func TestLazy(t *testing.T) {
	_, _, r := newTest(t, 1, 100_000)
	for i := range uint32(10) {
		receive(t, r, i*9973, Application, 0)
	}
	if n := len(r.tree.nodes); n > 10*17 {
		t.Errorf("%d nodes for 10 leaves of 100,000", n)
	}
	if n := len(r.AppendTo(nil)); n > 10*(17*33+81)+17 {
		t.Errorf("%d octets for 10 leaves of 100,000", n)
	}
}

func TestExporterTree(t *testing.T) {
	for _, id := range []uint16{1, 2, 7} {
		s := lookup(t, id)
		root := some(s.HashSize(), 8)
		tree := NewExporterTree(s, root)
		ids := []uint16{0, 1, 0x8000, 65535, 300, 301, 2}
		for i, component := range ids {
			if tree.Consumed(component) {
				t.Errorf("component %d is consumed", component)
			}
			got, err := tree.Export([]byte("before"), component)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "secret", got, append([]byte("before"), nodeSecret(s, root, Components, uint32(component))...))
			record := tree.AppendTo(nil)
			if bytes.Contains(record, root) || bytes.Contains(record, got[6:]) {
				t.Errorf("component %d: a consumed secret is still there", component)
			}
			if tree, err = ParseExporterTree(s, record); err != nil {
				t.Fatal(err)
			}
			equal(t, "record", tree.AppendTo(nil), record)
			for _, again := range ids[:i+1] {
				_, err := tree.Export(nil, again)
				wantError(t, "second export", err, ErrConsumed)
			}
		}
		pages := slices.Clone(tree.tree.slots.pages)
		tree.Wipe()
		equal(t, "wiped", slices.Concat(pages...), make([]byte, len(pages)*len(pages[0])))
		_, err := tree.Export(nil, 5)
		wantError(t, "after Wipe", err, ErrConsumed)
	}
}

func TestExporterTreeAllConsumed(t *testing.T) {
	s := lookup(t, 1)
	tree := NewExporterTree(s, some(s.HashSize(), 8))
	for component := range Components {
		if _, err := tree.Export(nil, uint16(component)); err != nil {
			t.Fatal(err)
		}
	}
	record := tree.AppendTo(nil)
	if len(record) != 4+Components || tree.tree.size() != 0 {
		t.Errorf("record of %d octets", len(record))
	}
	if _, err := ParseExporterTree(s, record); err != nil {
		t.Error(err)
	}
}
