package hpke

import (
	"bytes"
	"crypto/hpke"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// everyKEM has one suite for each KEM that is a default.
var everyKEM = []uint16{1, 2, 4, 5, 7, 0xF001, 0xF003, 0xF005, 0xF006, 0xF008}

// counter is a source of octets that repeats itself only after a while.
type counter struct{ n uint32 }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		c.n = c.n*1664525 + 1013904223
		p[i] = byte(c.n >> 24)
	}
	return len(p), nil
}

func draw(c *counter, n int) []byte {
	b := make([]byte, n)
	c.Read(b)
	return b
}

// pair generates a key pair or ends the test.
func pair(t testing.TB, s *suite.Suite, c *counter) (private, public []byte) {
	t.Helper()
	private, public, err := GenerateKeyPair(s, c)
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func TestRoundTrip(t *testing.T) {
	for _, id := range suite.All() {
		s := suite.Lookup(id)
		t.Run(s.Name(), func(t *testing.T) {
			c := &counter{uint32(id)}
			private, public := pair(t, s, c)
			if len(private) != sizesOf(s.KEM()).private || len(public) != sizesOf(s.KEM()).public {
				t.Errorf("keys of %d and %d octets", len(private), len(public))
			}
			if err := CheckPublicKey(s, public); err != nil {
				t.Error(err)
			}
			got, err := PublicKey(s, private)
			if err != nil || !bytes.Equal(got, public) {
				t.Errorf("PublicKey: %x, %v", got, err)
			}
			plain, aad := []byte("a path secret"), []byte("aad")
			info := NewInfo(s, []byte("info"))
			kem, sealed, err := Seal(s, draw(c, SeedSize(s)), public, info, aad, plain)
			if err != nil || len(kem) != sizesOf(s.KEM()).output || len(sealed) != len(plain)+s.TagSize() {
				t.Fatalf("%d, %d octets, %v", len(kem), len(sealed), err)
			}
			_ = append(kem, 1) // must not run into the ciphertext
			for _, public := range [][]byte{public, nil} {
				got, err = Open(s, private, public, kem, info, aad, sealed)
				if err != nil || !bytes.Equal(got, plain) {
					t.Errorf("opened %q, %v", got, err)
				}
			}
			kem, secret, err := SendExport(s, draw(c, SeedSize(s)), public, nil, []byte("context"), 3*s.HashSize())
			if err != nil {
				t.Fatal(err)
			}
			got, err = ReceiveExport(s, private, public, kem, nil, []byte("context"), 3*s.HashSize())
			if err != nil || !bytes.Equal(got, secret) {
				t.Errorf("exported %x, %v, want %x", got, err, secret)
			}
			got, err = ReceiveExport(s, private, public, kem, nil, []byte("contexu"), 3*s.HashSize())
			if err != nil || bytes.Equal(got, secret) {
				t.Errorf("another context exports %x, %v", got, err)
			}
		})
	}
}

func TestDeriveKeyPairAnyLength(t *testing.T) {
	for _, id := range everyKEM {
		s := suite.Lookup(id)
		seen := map[string]int{}
		for _, n := range []int{0, 1, 31, 32, 33, 48, 64, 200, 1000} {
			private, public, err := DeriveKeyPair(s, draw(&counter{1}, n))
			if err != nil {
				t.Fatalf("%s, ikm of %d octets: %v", s.Name(), n, err)
			}
			if other, twice := seen[string(public)]; twice {
				t.Errorf("%s: ikm of %d and of %d octets give one key", s.Name(), n, other)
			}
			seen[string(public)] = n
			again, err := PublicKey(s, private)
			if err != nil || !bytes.Equal(again, public) {
				t.Errorf("%s: public key %x, %v", s.Name(), again, err)
			}
		}
	}
}

// TestOpenRefuses changes every part of a message.
func TestOpenRefuses(t *testing.T) {
	for _, id := range everyKEM {
		s := suite.Lookup(id)
		t.Run(s.Name(), func(t *testing.T) {
			c := &counter{77}
			private, public := pair(t, s, c)
			other, otherPublic := pair(t, s, c)
			kem, sealed, err := SealWithLabel(s, draw(c, SeedSize(s)), public, "Welcome", []byte("context"), []byte("plain"))
			if err != nil {
				t.Fatal(err)
			}
			open := func(what string, private, public []byte, label, context string, kem, sealed []byte) {
				t.Helper()
				got, err := OpenWithLabel(s, private, public, label, []byte(context), kem, sealed)
				if err == nil || got != nil {
					t.Errorf("%s: opened to %q, %v", what, got, err)
				}
			}
			open("another label", private, public, "welcome", "context", kem, sealed)
			open("another context", private, public, "Welcome", "contexu", kem, sealed)
			open("another key", other, otherPublic, "Welcome", "context", kem, sealed)
			open("no ciphertext", private, public, "Welcome", "context", kem, nil)
			open("no kem", private, public, "Welcome", "context", nil, sealed)
			open("short kem", private, public, "Welcome", "context", kem[1:], sealed)
			open("long kem", private, public, "Welcome", "context", append(bytes.Clone(kem), 0), sealed)
			open("zero kem", private, public, "Welcome", "context", make([]byte, len(kem)), sealed)
			open("full kem", private, public, "Welcome", "context", bytes.Repeat([]byte{0xff}, len(kem)), sealed)
			if private[0] != 0 { // a NIST scalar may lack zeros, and only zeros
				open("short private key", private[1:], public, "Welcome", "context", kem, sealed)
			}
			open("long private key", append([]byte{0}, private...), public, "Welcome", "context", kem, sealed)
			open("no private key", nil, public, "Welcome", "context", kem, sealed)
			open("short public key", private, public[1:], "Welcome", "context", kem, sealed)
			for _, at := range []int{0, len(sealed) / 2, len(sealed) - 1} {
				bad := bytes.Clone(sealed)
				bad[at] ^= 4
				open("ciphertext changed", private, public, "Welcome", "context", kem, bad)
			}
			for _, at := range []int{0, len(kem) / 2, len(kem) - 1} {
				bad := bytes.Clone(kem)
				bad[at] ^= 4
				open("kem changed", private, public, "Welcome", "context", bad, sealed)
			}
		})
	}
}

func TestSealRefuses(t *testing.T) {
	for _, id := range everyKEM {
		s := suite.Lookup(id)
		_, public := pair(t, s, &counter{3})
		seed := draw(&counter{4}, SeedSize(s))
		info := NewInfo(s, nil)
		for _, bad := range [][]byte{nil, seed[1:], append(bytes.Clone(seed), 0)} {
			if _, _, err := Seal(s, bad, public, info, nil, nil); !errors.Is(err, ErrSeed) {
				t.Errorf("%s: seed of %d octets: %v", s.Name(), len(bad), err)
			}
			if _, _, err := SendExport(s, bad, public, nil, nil, 32); !errors.Is(err, ErrSeed) {
				t.Errorf("%s: seed of %d octets: %v", s.Name(), len(bad), err)
			}
		}
		zero, full := make([]byte, len(public)), bytes.Repeat([]byte{0xff}, len(public))
		for _, bad := range [][]byte{nil, public[1:], append(bytes.Clone(public), 0), zero, full} {
			check := CheckPublicKey(s, bad)
			_, _, err := Seal(s, seed, bad, info, nil, nil)
			// Zeros are a key of ML-KEM, and the octets 0xff, which are not
			// reduced, are a point of X25519 and of X448 to RFC 7748.
			valid := bytes.Equal(bad, zero) && (s.KEM() == suite.KEMMLKEM768 || s.KEM() == suite.KEMMLKEM1024) ||
				bytes.Equal(bad, full) && (s.KEM() == suite.KEMX25519 || s.KEM() == suite.KEMX448)
			if valid != (check == nil) || valid != (err == nil) {
				t.Errorf("%s: key %.8x of %d octets: checked %v, sealed %v", s.Name(), bad, len(bad), check, err)
			}
		}
		for _, bad := range [][]byte{nil, make([]byte, sizesOf(s.KEM()).private+1)} {
			if _, err := PublicKey(s, bad); !errors.Is(err, ErrKey) {
				t.Errorf("%s: private key of %d octets: %v", s.Name(), len(bad), err)
			}
		}
		if _, _, err := GenerateKeyPair(s, bytes.NewReader(nil)); !errors.Is(err, io.EOF) {
			t.Errorf("%s: key without randomness: %v", s.Name(), err)
		}
	}
}

// TestZeroSecret: points of small order, in every encoding, are refused as
// public keys, by the sender and by the receiver (RFC 9180 §7.1.4).
func TestZeroSecret(t *testing.T) {
	small := [][]byte{
		make([]byte, 32),
		append([]byte{1}, make([]byte, 31)...),
		{0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a,
			0xda, 0x09, 0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00},
		{0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b,
			0x04, 0x44, 0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57},
		append(append([]byte{0xec}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f), // p-1
		append(append([]byte{0xed}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f), // p
		append(append([]byte{0xee}, bytes.Repeat([]byte{0xff}, 30)...), 0x7f), // p+1
	}
	for _, point := range small {
		for _, top := range []byte{0, 0x80} { // the top bit is ignored
			point = bytes.Clone(point)
			point[31] |= top
			refuseZero(t, suite.Lookup(1), point, point)
			s := suite.Lookup(0xF001)
			_, public := pair(t, s, &counter{8})
			kem := make([]byte, sizesOf(s.KEM()).output)
			copy(public[len(public)-32:], point)
			copy(kem[len(kem)-32:], point)
			refuseZero(t, s, public, kem)
		}
	}
	p := bytes.Repeat([]byte{0xff}, 56) // 2^448 - 2^224 - 1
	p[28] = 0xfe
	minus := bytes.Clone(p)
	minus[0] = 0xfe
	for _, point := range [][]byte{make([]byte, 56), append([]byte{1}, make([]byte, 55)...), p, minus} {
		refuseZero(t, suite.Lookup(4), point, point)
	}
}

func refuseZero(t *testing.T, s *suite.Suite, public, kem []byte) {
	t.Helper()
	if err := CheckPublicKey(s, public); !errors.Is(err, ErrKey) {
		t.Errorf("%s: key of small order: %v", s.Name(), err)
	}
	if _, _, err := SealWithLabel(s, draw(&counter{1}, SeedSize(s)), public, "x", nil, nil); !errors.Is(err, ErrKey) {
		t.Errorf("%s: sealed to a key of small order: %v", s.Name(), err)
	}
	private, own := pair(t, s, &counter{2})
	if _, err := OpenWithLabel(s, private, own, "x", nil, kem, make([]byte, 32)); !errors.Is(err, ErrOpen) {
		t.Errorf("%s: encapsulation of small order: %v", s.Name(), err)
	}
}

// TestOffCurve: the NIST points are checked, alone and in the hybrids.
func TestOffCurve(t *testing.T) {
	for _, id := range []uint16{2, 5, 7, 0xF003, 0xF005} {
		s := suite.Lookup(id)
		private, public := pair(t, s, &counter{9})
		kem, sealed, err := SealWithLabel(s, draw(&counter{1}, SeedSize(s)), public, "x", nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		public[len(public)-1] ^= 1
		kem[len(kem)-1] ^= 1
		if err := CheckPublicKey(s, public); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", s.Name(), err)
		}
		if _, _, err := SealWithLabel(s, draw(&counter{1}, SeedSize(s)), public, "x", nil, nil); !errors.Is(err, ErrKey) {
			t.Errorf("%s: %v", s.Name(), err)
		}
		if _, err := OpenWithLabel(s, private, nil, "x", nil, kem, sealed); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %v", s.Name(), err)
		}
	}
	for _, id := range []uint16{2, 5, 7} { // the scalars 0 and above the order
		s := suite.Lookup(id)
		for _, private := range [][]byte{make([]byte, sizesOf(s.KEM()).private), bytes.Repeat([]byte{0xff}, sizesOf(s.KEM()).private)} {
			if _, err := PublicKey(s, private); !errors.Is(err, ErrKey) {
				t.Errorf("%s: scalar %x: %v", s.Name(), private, err)
			}
		}
	}
}

// TestShortScalar: a NIST scalar without its leading zeros is the same key.
func TestShortScalar(t *testing.T) {
	for _, id := range []uint16{2, 5, 7} {
		s := suite.Lookup(id)
		whole := make([]byte, sizesOf(s.KEM()).private)
		copy(whole[2:], bytes.Repeat([]byte{7}, len(whole)-2))
		public, err := PublicKey(s, whole)
		if err != nil {
			t.Fatal(err)
		}
		kem, sealed, err := SealWithLabel(s, draw(&counter{1}, SeedSize(s)), public, "x", nil, []byte("plain"))
		if err != nil {
			t.Fatal(err)
		}
		for _, short := range [][]byte{whole[1:], whole[2:]} {
			got, err := PublicKey(s, short)
			if err != nil || !bytes.Equal(got, public) {
				t.Errorf("%s: public key %x, %v", s.Name(), got, err)
			}
			got, err = OpenWithLabel(s, short, public, "x", nil, kem, sealed)
			if err != nil || string(got) != "plain" {
				t.Errorf("%s: opened %q, %v", s.Name(), got, err)
			}
		}
	}
}

// TestInfoIsShared: one Info serves many seals and is that of the label.
func TestInfoIsShared(t *testing.T) {
	s := suite.Lookup(1)
	private, public := pair(t, s, &counter{10})
	context := bytes.Repeat([]byte("group context"), 40)
	info := InfoWithLabel(s, "UpdatePathNode", context)
	for i := range 3 {
		plain := fmt.Appendf(nil, "secret %d", i)
		kem, sealed, err := Seal(s, draw(&counter{uint32(i)}, SeedSize(s)), public, info, nil, plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := OpenWithLabel(s, private, public, "UpdatePathNode", context, kem, sealed)
		if err != nil || !bytes.Equal(got, plain) {
			t.Errorf("opened %q, %v", got, err)
		}
	}
}

// TestAgainstStandard exchanges messages with crypto/hpke, both ways, for
// every KEM that it has.
func TestAgainstStandard(t *testing.T) {
	for _, id := range []uint16{1, 2, 3, 5, 7, 0xF001, 0xF002, 0xF003, 0xF004, 0xF005, 0xF006, 0xF007, 0xF008, 0xF009} {
		s := suite.Lookup(id)
		t.Run(s.Name(), func(t *testing.T) {
			k, err := hpke.NewKEM(s.KEM())
			if err != nil {
				t.Fatal(err)
			}
			kdf, err := hpke.NewKDF(s.KDF())
			if err != nil {
				t.Fatal(err)
			}
			aead, err := hpke.NewAEAD(s.AEAD())
			if err != nil {
				t.Fatal(err)
			}
			ikm := draw(&counter{uint32(id)}, s.HashSize())
			private, public, err := DeriveKeyPair(s, ikm)
			if err != nil {
				t.Fatal(err)
			}
			theirs, err := k.DeriveKeyPair(ikm)
			if err != nil || !bytes.Equal(theirs.PublicKey().Bytes(), public) {
				t.Fatalf("another key pair: %v", err)
			}
			info, plain, aad := []byte("info"), []byte("plain"), []byte("aad")
			kem, sealed, err := Seal(s, draw(&counter{1}, SeedSize(s)), public, NewInfo(s, info), aad, plain)
			if err != nil {
				t.Fatal(err)
			}
			receiver, err := hpke.NewRecipient(kem, theirs, kdf, aead, info)
			if err != nil {
				t.Fatal(err)
			}
			got, err := receiver.Open(aad, sealed)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("they opened %q, %v", got, err)
			}
			kem, sender, err := hpke.NewSender(theirs.PublicKey(), kdf, aead, info)
			if err != nil {
				t.Fatal(err)
			}
			if sealed, err = sender.Seal(aad, plain); err != nil {
				t.Fatal(err)
			}
			got, err = Open(s, private, public, kem, NewInfo(s, info), aad, sealed)
			if err != nil || !bytes.Equal(got, plain) {
				t.Errorf("opened %q, %v", got, err)
			}
			want, err := sender.Export("context", 77)
			if err != nil {
				t.Fatal(err)
			}
			got, err = ReceiveExport(s, private, public, kem, info, []byte("context"), 77)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("exported %x, %v, want %x", got, err, want)
			}
		})
	}
}

func TestAllocations(t *testing.T) {
	s := suite.Lookup(1)
	private, public := pair(t, s, &counter{11})
	seed, plain := draw(&counter{12}, SeedSize(s)), make([]byte, 32)
	info := NewInfo(s, make([]byte, 150))
	kem, sealed, err := Seal(s, seed, public, info, nil, plain)
	if err != nil {
		t.Fatal(err)
	}
	if got := testing.AllocsPerRun(50, func() { Seal(s, seed, public, info, nil, plain) }); got > 3 {
		t.Errorf("Seal: %v allocations, at most 3", got)
	}
	if got := testing.AllocsPerRun(50, func() { Open(s, private, public, kem, info, nil, sealed) }); got > 3 {
		t.Errorf("Open: %v allocations, at most 3", got)
	}
	if got := testing.AllocsPerRun(50, func() { DeriveKeyPair(s, plain) }); got > 2 {
		t.Errorf("DeriveKeyPair: %v allocations, at most 2", got)
	}
}

// FuzzOpen gives every KEM hostile keys, encapsulations and ciphertexts.
func FuzzOpen(f *testing.F) {
	for i, id := range everyKEM {
		s := suite.Lookup(id)
		f.Add(uint8(i), []byte(nil), []byte(nil), []byte(nil))
		if sizesOf(s.KEM()).public < 200 { // small seeds
			f.Add(uint8(i), make([]byte, sizesOf(s.KEM()).public), make([]byte, sizesOf(s.KEM()).output), make([]byte, 20))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, public, kem, sealed []byte) {
		s := suite.Lookup(everyKEM[int(which)%len(everyKEM)])
		private, own := pair(t, s, &counter{1})
		if got, err := OpenWithLabel(s, private, own, "x", nil, kem, sealed); err == nil {
			t.Errorf("opened to %x", got)
		}
		check := CheckPublicKey(s, public)
		_, _, err := SealWithLabel(s, draw(&counter{2}, SeedSize(s)), public, "x", nil, sealed)
		if (check == nil) != (err == nil) {
			t.Errorf("checked %v, sealed %v", check, err)
		}
	})
}
