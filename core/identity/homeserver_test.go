package identity

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// home returns a homeserver record of a.example with the keys numbered keys.
func home(version uint64, previous Hash, keys ...int) HomeserverRecord {
	r := HomeserverRecord{Version: version, Domain: "a.example", Previous: previous}
	for _, n := range keys {
		r.Keys = append(r.Keys, HomeserverKey{Key: pub(n), NotBefore: now - day, NotAfter: now + day})
	}
	return r
}

// chain returns a chain of a.example whose n-th record (from 0) is signed by key
// 100+n-1 and has the keys 100+n and, until the next, 100+n-1.
func chain(length int) *Chain {
	c := must(Pin(must(SignHomeserver(key(100), home(1, Hash{}, 100)))))
	for n := 1; n < length; n++ {
		next := must(SignHomeserver(key(100+n-1), home(uint64(n+1), c.Head().Hash(), 100+n, 100+n-1)))
		if err := c.Extend(next); err != nil {
			panic(err)
		}
	}
	return c
}

func TestRotation(t *testing.T) {
	c := chain(1)
	sig := Sign(key(100), "approval", []byte("commit"))
	check := func(want error) {
		t.Helper()
		if err := c.Verify("approval", sig, now, []byte("commit")); !errors.Is(err, want) {
			t.Errorf("version %d: %v, not %v", c.Head().Version, err, want)
		}
	}
	check(nil)
	two := must(SignHomeserver(key(100), home(2, c.Head().Hash(), 101, 100)))
	if err := c.Extend(two); err != nil {
		t.Fatal(err)
	}
	check(nil) // the old key is still listed
	three := must(SignHomeserver(key(101), home(3, two.Hash(), 101)))
	if err := c.Extend(three); err != nil {
		t.Fatal(err)
	}
	check(ErrSignature) // and now dropped
	if err := c.Verify("approval", sig, now+day, []byte("commit")); !errors.Is(err, ErrUnknownKey) {
		t.Errorf("after the time of all keys: %v", err)
	}
	for _, r := range []SignedHomeserver{two, three} {
		if err := c.Extend(r); err != nil || len(c.Records()) != 3 {
			t.Errorf("version %d again: %v", r.Version, err)
		}
	}
}

func TestBrokenChains(t *testing.T) {
	c := chain(3)
	head := c.Head().Hash()
	records := c.Records()
	elsewhere := home(4, head, 103)
	elsewhere.Domain = "b.example"
	for _, x := range []struct {
		name string
		by   int
		r    HomeserverRecord
		want error
	}{
		{"signed by a stranger", 7, home(4, head, 7), ErrChain},
		{"signed by its own key only", 103, home(4, head, 103), ErrChain},
		{"signed by a key dropped before", 100, home(4, head, 100), ErrChain},
		{"after another record", 102, home(4, records[0].Hash(), 103), ErrChain},
		{"another head", 101, home(3, records[1].Hash(), 103, 101), ErrChain},
		{"another second", 100, home(2, records[0].Hash(), 7), ErrChain},
		{"another first", 100, home(1, Hash{}, 100, 7), ErrChain},
		{"a gap", 102, home(5, head, 103), ErrVersion},
		{"another domain", 102, elsewhere, ErrMismatch},
	} {
		before := c.Encode()
		if err := c.Extend(must(SignHomeserver(key(x.by), x.r))); !errors.Is(err, x.want) {
			t.Errorf("%s: %v, not %v", x.name, err, x.want)
		}
		if !bytes.Equal(before, c.Encode()) {
			t.Errorf("%s: refused, and the chain is changed", x.name)
		}
	}
	if err := c.Extend(SignedHomeserver{HomeserverRecord: HomeserverRecord{Domain: "a.example"}}); !errors.Is(err, ErrMalformed) {
		t.Errorf("a record put together by hand: %v", err)
	}
	if _, err := Pin(records[1]); !errors.Is(err, ErrChain) {
		t.Errorf("pinned in the middle: %v", err)
	}
	if _, err := Pin(SignedHomeserver{}); !errors.Is(err, ErrChain) {
		t.Errorf("pinned nothing: %v", err)
	}
}

// A homeserver that was away while its keys ran out can still rotate.
func TestRotationByAnExpiredKey(t *testing.T) {
	r := home(1, Hash{}, 100)
	r.Keys[0].NotBefore, r.Keys[0].NotAfter = 1, 2
	c := must(Pin(must(SignHomeserver(key(100), r))))
	if err := c.Extend(must(SignHomeserver(key(100), home(2, c.Head().Hash(), 101)))); err != nil {
		t.Error(err)
	}
}

func TestNilChain(t *testing.T) {
	var c *Chain
	if c.Domain() != "" || c.Records() != nil {
		t.Error("it is somebody's")
	}
	if err := c.Verify("l", nil, now); !errors.Is(err, ErrUnknownKey) {
		t.Error(err)
	}
	if err := c.Extend(chain(1).Head()); !errors.Is(err, ErrMismatch) {
		t.Error(err)
	}
	if _, err := ParseChain(c.Encode()); !errors.Is(err, ErrMalformed) {
		t.Errorf("an empty chain: %v", err)
	}
}

func TestChainEncoding(t *testing.T) {
	full := chain(MaxChain)
	c, err := ParseChain(full.Encode())
	if err != nil || len(c.Records()) != MaxChain || !bytes.Equal(c.Encode(), full.Encode()) {
		t.Fatalf("a full chain: %v", err)
	}
	next := must(SignHomeserver(key(100+MaxChain-1), home(MaxChain+1, c.Head().Hash(), 1)))
	if err := c.Extend(next); !errors.Is(err, ErrMalformed) {
		t.Errorf("more than MaxChain: %v", err)
	}
	var all [][]byte
	for _, r := range chain(4).Records() {
		all = append(all, r.Encode())
	}
	for name, list := range map[string][][]byte{
		"without the first":  all[1:],
		"with a gap":         {all[0], all[2]},
		"with one twice":     {all[0], all[1], all[1]},
		"in the wrong order": {all[0], all[2], all[1]},
		"with garbage":       {all[0], {1}},
		"empty":              {},
	} {
		if _, err := ParseChain(marshal(list)); err == nil {
			t.Errorf("a chain %s is accepted", name)
		}
	}
}

func TestHomeserverRefusals(t *testing.T) {
	for name, change := range map[string]func(*HomeserverRecord){
		"version 0":             func(r *HomeserverRecord) { r.Version = 0 },
		"1 with previous":       func(r *HomeserverRecord) { r.Previous = Hash{1} },
		"2 without previous":    func(r *HomeserverRecord) { r.Version = 2 },
		"no domain":             func(r *HomeserverRecord) { r.Domain = "" },
		"upper case":            func(r *HomeserverRecord) { r.Domain = "A.example" },
		"no keys":               func(r *HomeserverRecord) { r.Keys = nil },
		"too many keys":         func(r *HomeserverRecord) { r.Keys = home(1, Hash{}, 1, 2, 3, 4, 5, 6, 7, 8, 9).Keys },
		"a key twice":           func(r *HomeserverRecord) { r.Keys = home(1, Hash{}, 100, 100).Keys },
		"a weak key":            func(r *HomeserverRecord) { r.Keys[0].Key = make([]byte, 32) },
		"a key never in force":  func(r *HomeserverRecord) { r.Keys[0].NotAfter = 0 },
		"another key than ours": nil,
	} {
		r, by, want := home(1, Hash{}, 100), 100, ErrMalformed
		if change != nil {
			change(&r)
		} else {
			by, want = 1, ErrSignature
		}
		if _, err := SignHomeserver(key(by), r); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := SignHomeserver(nil, home(1, Hash{}, 100)); !errors.Is(err, ErrMalformed) {
		t.Errorf("no private key: %v", err)
	}
	if _, err := SignHomeserver(key(101), home(1, Hash{}, 100, 101)); !errors.Is(err, ErrSignature) {
		t.Errorf("version 1 by its second key: %v", err)
	}
}

// However a homeserver rotates, everybody who follows along has its head, and
// nobody who follows takes a forged one.
func TestChainRapid(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := chain(1)
		follower := chain(1)
		keys := []int{100}
		for range rapid.IntRange(1, 10).Draw(t, "steps") {
			by := rapid.SampledFrom(keys).Draw(t, "by")
			next := rapid.SliceOfNDistinct(rapid.IntRange(100, 120), 1, 4, rapid.ID[int]).Draw(t, "keys")
			v, h := c.Head().Version+1, c.Head().Hash()
			stranger := rapid.IntRange(200, 210).Draw(t, "stranger")
			if err := c.Extend(must(SignHomeserver(key(stranger), home(v, h, stranger)))); !errors.Is(err, ErrChain) {
				t.Fatalf("a stranger rotates: %v", err)
			}
			if err := c.Extend(must(SignHomeserver(key(by), home(v, h, next...)))); err != nil {
				t.Fatal(err)
			}
			keys = next
			if rapid.Bool().Draw(t, "follows") {
				for _, r := range must(ParseChain(c.Encode())).Records() {
					if err := follower.Extend(r); err != nil {
						t.Fatalf("following: %v", err)
					}
				}
				if follower.Head().Hash() != c.Head().Hash() {
					t.Fatal("following leads elsewhere")
				}
			}
		}
	})
}

func FuzzParseHomeserver(f *testing.F) {
	for _, r := range chain(3).Records() {
		f.Add(r.Encode())
		f.Add(r.Bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, e := range [][]byte{b, seal(b, Sign(key(100), labelHomeserver, b))} {
			s, err := ParseHomeserver(e)
			if err != nil {
				if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSignature) {
					t.Fatalf("an error of its own: %v", err)
				}
				continue
			}
			if !bytes.Equal(s.Encode(), e) || len(s.Keys) == 0 || len(s.Keys) > MaxHomeserverKeys || s.Domain == "" {
				t.Fatalf("%x is read as %+v", e, s)
			}
			if _, err := Pin(s); (err == nil) != (s.Version == 1) {
				t.Fatalf("pinned version %d: %v", s.Version, err)
			}
		}
	})
}

func FuzzParseChain(f *testing.F) {
	f.Add(chain(1).Encode())
	f.Add(chain(3).Encode())
	f.Add((*Chain)(nil).Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseChain(b)
		if err != nil {
			return
		}
		if !bytes.Equal(c.Encode(), b) || c.Head().Version != uint64(len(c.Records())) || c.Domain() == "" {
			t.Fatalf("%x is a chain that ends with %+v", b, c.Head())
		}
	})
}
