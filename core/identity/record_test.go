package identity

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const (
	alice = "mimi://a.example/u/alice"
	now   = int64(1_800_000_000)
	day   = int64(86_400)
)

// record returns a valid first record of device n; change, if not nil, spoils it.
func record(n int, change func(*Record)) Record {
	r := Record{Version: 1, Key: pub(n), Inbox: InboxKey{KEM: KEMX25519, Public: bytes.Repeat([]byte{9}, 32)},
		User: alice, Name: "Alice's phone", NotBefore: now - day, NotAfter: now + day}
	if change != nil {
		change(&r)
	}
	return r
}

// first signs record(n, change), which must be valid.
func first(n int, change func(*Record)) SignedRecord {
	return must(SignRecord(key(n), record(n, change)))
}

// after returns the valid successor of r by device n.
func after(n int, r SignedRecord, change func(*Record)) SignedRecord {
	return first(n, func(s *Record) {
		s.Version, s.Previous = r.Version+1, r.Hash()
		if change != nil {
			change(s)
		}
	})
}

func ids(ns ...int) (links []string) {
	for _, n := range ns {
		links = append(links, DeviceID(pub(n)))
	}
	return links
}

func TestRecordRoundTrip(t *testing.T) {
	r := first(1, func(r *Record) {
		r.MLSKeys = []MLSKey{{Scheme: 0x0403, Public: bytes.Repeat([]byte{4}, 65)}}
		r.Links = ids(4, 3, 2)
	})
	if !slices.IsSorted(r.Links) || len(r.Links) != 3 {
		t.Errorf("links %v", r.Links)
	}
	got, err := ParseRecord(r.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Encode(), r.Encode()) || got.User != alice || got.Name != "Alice's phone" || got.Hash() != r.Hash() ||
		got.NotAfter != now+day || !bytes.Equal(got.Key, pub(1)) || len(got.MLSKeys) != 1 || got.MLSKeys[0].Scheme != 0x0403 {
		t.Errorf("%+v", got)
	}
	if got.URI() != "mimi://a.example/d/"+got.ID() || got.Domain() != "a.example" {
		t.Errorf("URI %q", got.URI())
	}
	b := r.Encode()
	got, _ = ParseRecord(b)
	clear(b)
	if got.Hash() != r.Hash() || !bytes.Equal(got.Key, pub(1)) {
		t.Error("a parsed record shares memory with what it was read from")
	}
}

func TestSignRecordLeavesTheCallersLinks(t *testing.T) {
	links := ids(4, 3, 2)
	before := slices.Clone(links)
	first(1, func(r *Record) { r.Links = links })
	if !slices.Equal(links, before) {
		t.Error("SignRecord sorted the caller's slice")
	}
}

// Everything that a record must not say is refused, both by who signs and by who reads.
func TestRecordRefusals(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"version 0":                  func(r *Record) { r.Version = 0 },
		"version 2 without previous": func(r *Record) { r.Version = 2 },
		"version 1 with previous":    func(r *Record) { r.Previous = Hash{1} },
		"short key":                  func(r *Record) { r.Key = r.Key[:31] },
		"weak key":                   func(r *Record) { r.Key = make([]byte, 32) },
		"no inbox":                   func(r *Record) { r.Inbox = InboxKey{} },
		"inbox of wrong length":      func(r *Record) { r.Inbox.Public = r.Inbox.Public[1:] },
		"X-Wing inbox of 32":         func(r *Record) { r.Inbox.KEM = KEMXWing },
		"unknown KEM, no key":        func(r *Record) { r.Inbox = InboxKey{KEM: 0x7777} },
		"no user":                    func(r *Record) { r.User = "" },
		"a device as user":           func(r *Record) { r.User = "mimi://a.example/d/x" },
		"upper case domain":          func(r *Record) { r.User = "mimi://A.example/u/alice" },
		"long user":                  func(r *Record) { r.User = alice + strings.Repeat("a", MaxURI) },
		"long name":                  func(r *Record) { r.Name = strings.Repeat("a", MaxName+1) },
		"name with a control":        func(r *Record) { r.Name = "a\nb" },
		"name that turns around":     func(r *Record) { r.Name = "a\u202eb" },
		"name not UTF-8":             func(r *Record) { r.Name = "a\xff" },
		"empty validity":             func(r *Record) { r.NotAfter = r.NotBefore },
		"before 1970":                func(r *Record) { r.NotBefore = math.MinInt64 },
		"no device ID":               func(r *Record) { r.Links = []string{"phone"} },
		"a link twice":               func(r *Record) { r.Links = ids(2, 2) },
		"itself":                     func(r *Record) { r.Links = ids(1) },
		"too many links":             func(r *Record) { r.Links = ids(make([]int, MaxLinks+1)...) },
		"empty MLS key":              func(r *Record) { r.MLSKeys = []MLSKey{{Scheme: 1}} },
		"long MLS key":               func(r *Record) { r.MLSKeys = []MLSKey{{1, make([]byte, maxMLSKey+1)}} },
		"an MLS key twice":           func(r *Record) { r.MLSKeys = []MLSKey{{1, []byte{1}}, {2, []byte{1}}} },
		"the device key again":       func(r *Record) { r.MLSKeys = []MLSKey{{0x0807, r.Key}} },
		"too many MLS keys":          func(r *Record) { r.MLSKeys = make([]MLSKey, MaxMLSKeys+1) },
	} {
		r := record(1, change)
		if s, err := SignRecord(key(1), r); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s is signed: %+v, %v", name, s.Record, err)
		}
		b := marshalLoose(r)
		if s, err := ParseRecord(seal(b, Sign(key(1), labelRecord, b))); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s is read: %+v, %v", name, s.Record, err)
		}
	}
	if _, err := SignRecord(key(2), record(1, nil)); !errors.Is(err, ErrSignature) {
		t.Errorf("signed by another key: %v", err)
	}
	if _, err := SignRecord(key(1)[:5], record(1, nil)); !errors.Is(err, ErrMalformed) {
		t.Errorf("signed by a short key: %v", err)
	}
}

// marshalLoose encodes what marshal encodes, and text that is not UTF-8 too.
func marshalLoose(v any) []byte { return must(encoding.Marshal(v)) }

func TestRecordBounds(t *testing.T) {
	full := first(1, func(r *Record) {
		r.Inbox = InboxKey{KEM: KEMXWing, Public: make([]byte, 1216)}
		r.MLSKeys = []MLSKey{{0x0905, make([]byte, 1952)}}
		r.Name = strings.Repeat("n", MaxName)
	})
	if n := len(full.Encode()); n > MaxRecord {
		t.Errorf("%d octets", n)
	}
	var many []int
	for n := range MaxLinks {
		many = append(many, n+2)
	}
	if r := first(1, func(r *Record) { r.Links = ids(many...) }); len(r.Links) != MaxLinks {
		t.Errorf("%d links", len(r.Links))
	}
	_, err := SignRecord(key(1), record(1, func(r *Record) { r.MLSKeys = []MLSKey{{1, make([]byte, 2592)}, {2, make([]byte, 2500)}} }))
	if !errors.Is(err, ErrMalformed) {
		t.Errorf("a record of more than MaxRecord: %v", err)
	}
	unknown := first(1, func(r *Record) { r.Inbox = InboxKey{KEM: 0x7777, Public: []byte{1}} })
	if unknown.Inbox.KEM != 0x7777 {
		t.Error("a record with a KEM of the future is unreadable")
	}
}

// A later version of the protocol may add keys: we keep them with the octets.
func TestUnknownKeysAreKept(t *testing.T) {
	type future struct {
		Record
		Mood  string         `cbor:"99,keyasint"`
		Extra map[int]string `cbor:"-7,keyasint"`
	}
	b := marshal(future{Record: record(1, nil), Mood: "sunny", Extra: map[int]string{1: "x"}})
	env := seal(b, Sign(key(1), labelRecord, b))
	s, err := ParseRecord(env)
	if err != nil || s.User != alice || !bytes.Equal(s.Encode(), env) {
		t.Errorf("%+v, %v", s.Record, err)
	}
}

// Any bit that changes makes the record another one, or none.
func TestRecordTampering(t *testing.T) {
	env := first(1, func(r *Record) { r.Links = ids(2) }).Encode()
	for i := range env {
		for bit := range 8 {
			b := bytes.Clone(env)
			b[i] ^= 1 << bit
			if _, err := ParseRecord(b); err == nil {
				t.Fatalf("octet %d, bit %d: accepted", i, bit)
			}
		}
		if _, err := ParseRecord(env[:i]); !errors.Is(err, ErrMalformed) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

func TestAdvance(t *testing.T) {
	one := first(1, nil)
	two := after(1, one, nil)
	three := after(1, two, nil)
	gone := after(1, three, func(r *Record) { r.Revoked = true })
	back := after(1, gone, nil)
	otherOne := first(1, func(r *Record) { r.Name = "Alice's twin" })
	otherTwo := after(1, otherOne, nil)
	for _, c := range []struct {
		name           string
		old, new, want SignedRecord
		proof          bool
		err            error
	}{
		{"a new device", SignedRecord{}, one, one, false, nil},
		{"the next", one, two, two, false, nil},
		{"beyond the next", one, three, three, false, nil},
		{"the same", two, two, two, false, nil},
		{"an older one", three, one, three, false, nil},
		{"the one before", two, one, two, false, nil},
		{"revoked", one, gone, gone, false, nil},
		{"revoked, and an older one", gone, one, gone, false, nil},
		{"revoked later than known", back, gone, gone, false, nil},
		{"taken back", gone, back, gone, false, ErrRevoked},
		{"two with one version", one, otherOne, one, true, ErrEquivocation},
		{"a successor of another", one, otherTwo, one, true, ErrEquivocation},
		{"a predecessor of another", otherTwo, one, otherTwo, true, ErrEquivocation},
		{"another device", one, first(2, nil), one, false, ErrMismatch},
	} {
		got, proof, err := Advance(c.old, c.new)
		if !bytes.Equal(got.Bytes, c.want.Bytes) || !errors.Is(err, c.err) || (proof != nil) != c.proof {
			t.Errorf("%s: version %d, %v, %v", c.name, got.Version, proof != nil, err)
		}
		if proof == nil {
			continue
		}
		again, err := ParseEquivocation(proof.Encode())
		if err != nil {
			t.Errorf("%s: the proof proves nothing: %v", c.name, err)
			continue
		}
		if k, err := again.Device(); err != nil || !bytes.Equal(k, pub(1)) || len(proof.Encode()) > maxEquivocation {
			t.Errorf("%s: the proof is against %x, %v", c.name, k, err)
		}
		_, mirrored, _ := Advance(c.new, c.old)
		if !bytes.Equal(mirrored.Encode(), proof.Encode()) {
			t.Errorf("%s: the proof depends on who came first", c.name)
		}
	}
}

// Two signatures of one text are no contradiction: the text is what counts.
func TestSecondSignatureIsNoEquivocation(t *testing.T) {
	one := first(1, nil)
	again := one
	again.Signature = bytes.Repeat([]byte{1}, 64)
	if got, proof, err := Advance(one, again); err != nil || proof != nil || got.Hash() != one.Hash() {
		t.Errorf("%v, %v", proof, err)
	}
}

func TestFalseProofs(t *testing.T) {
	one := first(1, nil)
	two := after(1, one, nil)
	four := after(1, after(1, two, nil), nil)
	twin := first(1, func(r *Record) { r.Name = "twin" })
	other := first(2, nil)
	good := newEquivocation(one, twin)
	for name, e := range map[string]*Equivocation{
		"the same record":          {one.Encode(), one.Encode()},
		"a record and the next":    newEquivocation(one, two),
		"far apart":                newEquivocation(one, four),
		"two devices":              newEquivocation(one, other),
		"nothing":                  {},
		"a record and garbage":     {one.Encode(), []byte{0}},
		"the larger octets first":  {good.B, good.A},
		"with a changed signature": {good.A, append(bytes.Clone(good.B[:len(good.B)-1]), good.B[len(good.B)-1]^1)},
	} {
		if _, err := ParseEquivocation(e.Encode()); err == nil {
			t.Errorf("%s convicts a device", name)
		}
	}
	if _, err := ParseEquivocation(marshal([][]byte{good.A})); !errors.Is(err, ErrMalformed) {
		t.Errorf("half a proof: %v", err)
	}
}

// Whatever the order in which an honest device's records arrive, and how often,
// everybody ends up with the same one.
func TestAdvanceConverges(t *testing.T) {
	var history []SignedRecord
	last := first(1, nil)
	for n := range 12 {
		history = append(history, last)
		last = after(1, last, func(r *Record) { r.Revoked = n >= 9 })
	}
	rapid.Check(t, func(t *rapid.T) {
		some := rapid.SliceOfN(rapid.SampledFrom(history), 1, 30).Draw(t, "arrived")
		var stand SignedRecord
		want := slices.MaxFunc(some, func(a, b SignedRecord) int { return int(a.Version) - int(b.Version) })
		for _, r := range some {
			next, proof, err := Advance(stand, r)
			if err != nil || proof != nil {
				t.Fatalf("version %d after %d: %v", r.Version, stand.Version, err)
			}
			stand = next
		}
		if stand.Version != want.Version {
			t.Fatalf("version %d stands, %d is the highest", stand.Version, want.Version)
		}
	})
}

// Any record that SignRecord makes is read back as the same record.
func TestRecordRoundTripRapid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := record(1, func(r *Record) {
			r.Version = rapid.Uint64Range(1, math.MaxUint64).Draw(t, "version")
			if r.Version > 1 {
				r.Previous = Hash(rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "previous"))
				r.Previous[0] |= 1
			}
			r.Name = rapid.StringMatching(`[a-zà-ž0-9 ]{0,20}`).Draw(t, "name")
			r.User = "mimi://a.example/u/" + url.PathEscape(rapid.StringMatching(`[a-zà-ž0-9.]{1,20}`).Draw(t, "user"))
			for _, l := range rapid.SliceOfNDistinct(rapid.IntRange(2, 100), 0, 8, rapid.ID[int]).Draw(t, "links") {
				r.Links = append(r.Links, DeviceID(pub(l)))
			}
			r.NotBefore = rapid.Int64Range(0, math.MaxInt64-1).Draw(t, "from")
			r.NotAfter = rapid.Int64Range(r.NotBefore+1, math.MaxInt64).Draw(t, "to")
			r.Revoked = rapid.Bool().Draw(t, "revoked")
		})
		s, err := SignRecord(key(1), r)
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(r.Links)
		if !bytes.Equal(marshal(s.Record), marshal(r)) || !bytes.Equal(s.Bytes, marshal(r)) {
			t.Fatalf("%+v became %+v", r, s.Record)
		}
		if inForce(r.NotBefore, r.NotAfter, r.NotAfter) || !inForce(r.NotBefore, r.NotAfter, r.NotBefore) {
			t.Fatal("validity is not [from, to)")
		}
	})
}

func FuzzParseRecord(f *testing.F) {
	f.Add(first(1, nil).Encode())
	f.Add(first(1, func(r *Record) { r.Links, r.Revoked = ids(2, 3), true }).Encode())
	f.Add(after(1, first(1, nil), nil).Encode())
	f.Add([]byte{0x82, 0x40, 0x40})
	f.Add(first(1, func(r *Record) { r.Links = ids(2, 3) }).Bytes)
	f.Fuzz(func(t *testing.T, b []byte) {
		checkParsed(t, b)
		// Signed by the device itself, the same octets get past the signature.
		checkParsed(t, seal(b, Sign(key(1), labelRecord, b)))
	})
}

func checkParsed(t *testing.T, b []byte) {
	s, err := ParseRecord(b)
	if err != nil {
		if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSignature) {
			t.Fatalf("an error of its own: %v", err)
		}
		return
	}
	if !bytes.Equal(s.Encode(), b) || len(b) > MaxRecord || len(s.Links) > MaxLinks || s.Domain() == "" || s.Version == 0 ||
		len(s.Key) != ed25519.PublicKeySize || s.NotAfter <= s.NotBefore {
		t.Fatalf("%x is read as %+v", b, s)
	}
}

func FuzzParseEquivocation(f *testing.F) {
	one := first(1, nil)
	f.Add(newEquivocation(one, first(1, func(r *Record) { r.Name = "twin" })).Encode())
	f.Add(newEquivocation(one, after(1, one, nil)).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := ParseEquivocation(b)
		if err != nil {
			return
		}
		if k, err := e.Device(); err != nil || len(k) != 32 || !bytes.Equal(e.Encode(), b) {
			t.Fatalf("%x convicts %x, %v", b, k, err)
		}
	})
}
