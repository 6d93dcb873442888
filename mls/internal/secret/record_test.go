package secret

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// golden compares a record with the one in testdata: version 1 never changes.
func golden(t *testing.T, name string, record []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	want, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, name, record, want)
}

// sample is a state with every part of a record in it.
func sample(t testing.TB) *Ratchets {
	_, _, r := newTest(t, 1, 8)
	receive(t, r, 1, Application, 3)
	receive(t, r, 1, Application, 1)
	receive(t, r, 6, Handshake, 0)
	return r
}

func TestGolden(t *testing.T) {
	r := sample(t)
	golden(t, "ratchets-1.hex", r.AppendTo(nil))
	r.RetireHandshake()
	golden(t, "ratchets-1-retired.hex", r.AppendTo([]byte{}))
	tree := NewExporterTree(lookup(t, 1), some(32, 1))
	if _, err := tree.Export(nil, 0x1234); err != nil {
		t.Fatal(err)
	}
	golden(t, "exporter-1.hex", tree.AppendTo(nil))
}

func TestParseRefuses(t *testing.T) {
	r := sample(t)
	s, good := r.tree.suite, r.AppendTo(nil)
	if !bytes.Equal(r.AppendTo([]byte("before")), append([]byte("before"), good...)) {
		t.Error("AppendTo does not append")
	}
	refuse := func(what string, b []byte) {
		t.Helper()
		_, err := ParseRatchets(s, b)
		wantError(t, what, err, ErrRecord)
	}
	for n := range good {
		refuse("cut short", good[:n])
	}
	refuse("longer", append(slices.Clone(good), 0))
	patch := func(at int, b ...byte) []byte {
		c := slices.Clone(good)
		copy(c[at:], b)
		return c
	}
	refuse("version", patch(0, 2))
	refuse("kind", patch(1, 2))
	refuse("suite", patch(2, 0, 2))
	refuse("width zero", patch(4, 0, 0, 0, 0))
	refuse("width no power of two", patch(4, 0, 0, 0, 7))
	refuse("width twice", patch(4, 0, 0, 0, 16))
	refuse("width half", patch(4, 0, 0, 0, 4))
	refuse("skip", patch(8, 0, 1, 0, 1))
	refuse("stored", patch(12, 0, 1, 0, 1))
	refuse("fewer stored than there are", patch(12, 0, 0, 0, 1))
	refuse("flag", patch(16, 2))
	refuse("flag set", patch(16, 1))
	refuse("level not aligned", patch(17+33+1+40+40, 1)) // anything but a ratchet
	refuse("unknown item", patch(17, 0x70))
	refuse("consumed leaf", patch(17, itemConsumed))
	// Leaf 0 as a node, leaf 1 in use: handshake ratchet of 40 octets, then
	// application: generation, secret, count, entries of 4 + 28.
	application := 17 + 33 + 1 + 40
	if got := binary.BigEndian.Uint32(good[application+36:]); got != 2 {
		t.Fatalf("%d skipped keys where 2 were expected", got)
	}
	first, second := application+40, application+40+32
	refuse("same generation twice", patch(first, 0, 0, 0, 2))
	refuse("descending", patch(first, 0, 0, 0, 3))
	refuse("not below the ratchet", patch(second, 0, 0, 0, 4))
	refuse("last generation", patch(second, 255, 255, 255, 255))
	refuse("count beyond the input", patch(application+36, 0, 0, 0, 20))
	refuse("more than kept", patch(application+36, 0, 0, 0, 21))
	refuse("count of 32 bits", patch(application+36, 255, 255, 255, 255))
	wide := append(slices.Clone(good[:4]), 0x80, 0, 0, 1)
	refuse("too wide", append(wide, good[8:]...))
	if _, err := ParseRatchets(lookup(t, 2), good); err != ErrRecord {
		t.Errorf("other suite: %v", err)
	}
}

func TestParseExporterTreeRefuses(t *testing.T) {
	s := lookup(t, 1)
	tree := NewExporterTree(s, some(32, 1))
	if _, err := tree.Export(nil, 5); err != nil {
		t.Fatal(err)
	}
	good := tree.AppendTo(nil)
	for n := range good {
		_, err := ParseExporterTree(s, good[:n])
		wantError(t, "cut short", err, ErrRecord)
	}
	for what, b := range map[string][]byte{
		"longer":     append(slices.Clone(good), itemConsumed),
		"version":    append([]byte{2}, good[1:]...),
		"kind":       append([]byte{1, 1}, good[2:]...),
		"suite":      append([]byte{1, 2, 0, 3}, good[4:]...),
		"level":      append([]byte{1, 2, 0, 1, 3}, good[5:]...),
		"sender":     append([]byte{1, 2, 0, 1, itemSender}, good[5:]...),
		"wide level": append([]byte{1, 2, 0, 1, 17}, good[5:]...),
	} {
		_, err := ParseExporterTree(s, b)
		wantError(t, what, err, ErrRecord)
	}
}

// FuzzParseRatchets: what parses is written back to the same octets, and then
// works without panic.
func FuzzParseRatchets(f *testing.F) {
	r := sample(f)
	f.Add(r.AppendTo(nil))
	r.RetireHandshake()
	f.Add(r.AppendTo(nil))
	s := r.tree.suite
	f.Add(NewRatchets(s, some(32, 2), 1, Limits{}).AppendTo(nil))
	f.Add(NewRatchets(s, some(32, 2), MaxLeaves, Limits{MaxSkip, MaxStored}).AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := ParseRatchets(s, b)
		if err != nil {
			if err != ErrRecord || r != nil {
				t.Fatalf("%v with %v", r, err)
			}
			return
		}
		equal(t, "record", r.AppendTo(nil), b)
		for _, leaf := range []uint32{0, 1, r.Leaves() - 1, r.Leaves()} {
			for c := range contents + 1 {
				g := r.Generation(leaf, c)
				for _, generation := range []uint32{g, g + 2, g - 1, 0} {
					before := r.AppendTo(nil)
					k, err := r.Take(leaf, c, generation)
					equal(t, "state after Take", r.AppendTo(nil), before)
					if err == nil {
						wantError(t, "Consume", r.Consume(k), nil)
						wantError(t, "second Take", takeError(r, leaf, c, generation), ErrReplay)
					}
				}
			}
		}
		if _, err := ParseRatchets(s, r.AppendTo(nil)); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzParseExporterTree: the same for the exporter tree.
func FuzzParseExporterTree(f *testing.F) {
	s := suite.Lookup(1)
	tree := NewExporterTree(s, some(32, 1))
	f.Add(tree.AppendTo(nil), uint16(0))
	if _, err := tree.Export(nil, 77); err != nil {
		f.Fatal(err)
	}
	f.Add(tree.AppendTo(nil), uint16(77))
	f.Fuzz(func(t *testing.T, b []byte, component uint16) {
		tree, err := ParseExporterTree(s, b)
		if err != nil {
			if err != ErrRecord || tree != nil {
				t.Fatalf("%v with %v", tree, err)
			}
			return
		}
		equal(t, "record", tree.AppendTo(nil), b)
		was := tree.Consumed(component)
		if _, err := tree.Export(nil, component); (err != nil) != was || !tree.Consumed(component) {
			t.Fatalf("consumed before %v, error %v", was, err)
		}
	})
}

// model is what Ratchets must do, the simplest way: every key is derived from
// the root, and sets say which were used or lost.
type model struct {
	suite  *suite.Suite
	root   []byte
	leaves uint32
	limits Limits
	state  map[place]*modelRatchet
	keys   map[place][]string // cache of plainKey, by generation
}

type place struct {
	leaf uint32
	c    Content
}

type modelRatchet struct {
	next uint32
	kept []uint32 // skipped, ascending
}

func (m *model) at(p place) *modelRatchet {
	if m.state[p] == nil {
		m.state[p] = new(modelRatchet)
	}
	return m.state[p]
}

func (m *model) key(p place, generation uint32) string {
	for g := uint32(len(m.keys[p])); g <= generation; g++ {
		m.keys[p] = append(m.keys[p], string(plainKey(m.suite, m.root, m.leaves, p.leaf, p.c, g)))
	}
	return m.keys[p][generation]
}

func (m *model) refuses(p place, generation uint32) error {
	r := m.at(p)
	switch {
	case p.leaf >= m.leaves:
		return ErrLeaf
	case generation == lastGeneration:
		return ErrExhausted
	case generation < r.next && !slices.Contains(r.kept, generation):
		return ErrReplay
	case generation >= r.next && generation-r.next > m.limits.Skip:
		return ErrTooFar
	}
	return nil
}

func (m *model) consume(p place, generation uint32) {
	r := m.at(p)
	if generation < r.next {
		r.kept = slices.DeleteFunc(r.kept, func(g uint32) bool { return g == generation })
		return
	}
	for g := r.next; g < generation; g++ {
		r.kept = append(r.kept, g)
	}
	r.kept = r.kept[max(0, len(r.kept)-int(m.limits.Stored)):]
	r.next = generation + 1
}

// machine drives Ratchets and the model by the same steps.
type machine struct {
	r *Ratchets
	m model
}

func (x *machine) place(t *rapid.T) place {
	return place{
		rapid.Uint32Range(0, x.m.leaves).Draw(t, "leaf"), // the last is outside
		rapid.SampledFrom([]Content{Handshake, Application}).Draw(t, "content"),
	}
}

// generation is mostly near the next one, and sometimes anything.
func (x *machine) generation(t *rapid.T, p place) uint32 {
	if rapid.IntRange(0, 9).Draw(t, "wild") == 0 {
		return rapid.Uint32().Draw(t, "any")
	}
	return x.m.at(p).next + uint32(rapid.IntRange(-6, 12).Draw(t, "distance"))
}

func (x *machine) receive(t *rapid.T) {
	p := x.place(t)
	generation := x.generation(t, p)
	want := x.m.refuses(p, generation)
	k, err := x.r.Take(p.leaf, p.c, generation)
	wantError(t, "Take", err, want)
	if want != nil {
		return
	}
	if got := string(k.Key) + string(k.Nonce); got != x.m.key(p, generation) {
		t.Fatalf("%v generation %d: wrong key", p, generation)
	}
	wantError(t, "Consume", x.r.Consume(k), nil)
	x.m.consume(p, generation)
}

// forge takes keys and never consumes them: the message did not open.
func (x *machine) forge(t *rapid.T) {
	before := x.r.AppendTo(nil)
	p := x.place(t)
	generation := x.generation(t, p)
	wantError(t, "forged Take", takeError(x.r, p.leaf, p.c, generation), x.m.refuses(p, generation))
	if !bytes.Equal(x.r.AppendTo(nil), before) {
		t.Fatalf("a forged message to %v, generation %d, changed the state", p, generation)
	}
}

func (x *machine) reload(t *rapid.T) {
	b := x.r.AppendTo(nil)
	r, err := ParseRatchets(x.m.suite, b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.AppendTo(nil), b) {
		t.Fatal("a record changed by reading it")
	}
	x.r = r
}

func (x *machine) send(t *rapid.T) {
	p := x.place(t)
	if p.leaf >= x.m.leaves {
		return
	}
	generation, key, nonce, err := x.r.Next(p.leaf, p.c)
	if err != nil || generation != x.m.at(p).next || string(key)+string(nonce) != x.m.key(p, generation) {
		t.Fatalf("%v: generation %d, %v", p, generation, err)
	}
	x.m.consume(p, generation)
}

func (x *machine) skip(t *rapid.T) {
	p := x.place(t)
	to := rapid.Uint32Range(0, x.m.at(p).next+8).Draw(t, "to")
	if p.leaf >= x.m.leaves {
		return
	}
	wantError(t, "Skip", x.r.Skip(p.leaf, p.c, to), nil)
	x.m.at(p).next = max(x.m.at(p).next, to)
}

// Any order of delivery, forgery, sending and restarting gives the keys of the
// plain derivation, each once.
func TestRatchetsAgreeWithModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := suite.Lookup(rapid.SampledFrom([]uint16{1, 3, 7}).Draw(t, "suite"))
		limits := Limits{rapid.Uint32Range(0, 10).Draw(t, "skip"), rapid.Uint32Range(0, 6).Draw(t, "stored")}
		leaves := uint32(1) << rapid.IntRange(0, 4).Draw(t, "log leaves")
		root := some(s.HashSize(), byte(leaves))
		x := &machine{
			r: NewRatchets(s, root, leaves, limits),
			m: model{s, root, leaves, limits, map[place]*modelRatchet{}, map[place][]string{}},
		}
		t.Repeat(map[string]func(*rapid.T){
			"receive": x.receive, "receive more": x.receive, "forge": x.forge,
			"reload": x.reload, "send": x.send, "skip": x.skip,
		})
	})
}
