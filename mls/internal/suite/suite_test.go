package suite

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"testing"
)

func TestRegister(t *testing.T) {
	p := Params{Name: "a suite of ours", KEM: KEMXWing, KDF: KDFSHA512, AEAD: AEADAES256GCM, Signature: Ed25519}
	const id = 0xF700
	if Lookup(id) != nil {
		t.Fatal("registered before")
	}
	for range 2 { // the second time it is there already
		if err := Register(id, p); err != nil {
			t.Fatal(err)
		}
	}
	s := Lookup(id)
	if s == nil || s.Params() != p || s.ID() != id || s.HashSize() != 64 || s.KeySize() != 32 {
		t.Fatalf("looked up %+v", s)
	}
	if all := All(); !slices.Contains(all, id) || !slices.IsSorted(all) {
		t.Errorf("All: %x", all)
	}
	other := p
	other.AEAD = AEADChaCha20
	if err := Register(id, other); err == nil {
		t.Error("other parameters accepted at a code point in use")
	}
	if Lookup(id) != s {
		t.Error("the suite in use was changed")
	}
	for _, id := range []uint16{0, 1, 7} {
		if err := Register(id, p); err == nil {
			t.Errorf("code point %d of RFC 9420 given to another suite", id)
		}
	}
}

func TestRegisterRefuses(t *testing.T) {
	good := Params{Name: "x", KEM: KEMX25519, KDF: KDFSHA256, AEAD: AEADAES128GCM, Signature: Ed25519}
	for name, spoil := range map[string]func(*Params){
		"KEM":       func(p *Params) { p.KEM = 0x40 },
		"KDF":       func(p *Params) { p.KDF = 0x11 },
		"AEAD":      func(p *Params) { p.AEAD = 0xffff },
		"signature": func(p *Params) { p.Signature = 0x0804 },
		"name":      func(p *Params) { p.Name = strings.Repeat("x", MaxName+1) },
	} {
		p := good
		spoil(&p)
		if err := Register(0xF7FF, p); !errors.Is(err, ErrParams) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if Lookup(0xF7FF) != nil {
		t.Error("registered after all")
	}
}

func TestDefaultSuites(t *testing.T) {
	all := All()
	for i := range defaults {
		id := uint16(i + 1)
		if i >= classical {
			id = FirstPostQuantum + uint16(i-classical)
		}
		s := Lookup(id)
		if s == nil || !slices.Contains(all, id) {
			t.Fatalf("suite %#04x is missing", id)
		}
		if s.TagSize() != 16 || s.NonceSize() != 12 || s.KEM() == 0 || s.Name() == "" {
			t.Errorf("%s: %+v", s.Name(), s)
		}
		want := map[string]int{"SHA256": 32, "SHA384": 48, "SHA512": 64}
		for name, size := range want {
			if strings.Contains(s.Name(), "_"+name+"_") && (s.HashSize() != size || s.MaxExpand() != 255*size) {
				t.Errorf("%s: hash of %d octets", s.Name(), s.HashSize())
			}
		}
	}
	if got := Lookup(0xF00B).Name(); got != "MLS_256_MLKEM1024_AES256GCM_SHA384_MLDSA87" {
		t.Errorf("TBD11 is %s", got)
	}
}

// TestKDFAgainstStandard compares with crypto/hmac and crypto/hkdf at the
// lengths where the stack buffer ends and where one block is not enough.
func TestKDFAgainstStandard(t *testing.T) {
	hashes := map[uint16]func() hash.Hash{KDFSHA256: sha256.New, KDFSHA384: sha512.New384, KDFSHA512: sha512.New}
	long := make([]byte, 1200)
	for i := range long {
		long[i] = byte(i * 7)
	}
	prefix := []byte("kept")
	for id, h := range hashes {
		k := LookupKDF(id)
		for _, keySize := range []int{0, 1, 7, 32, 48, 63, 64, 65, 127, 128, 129, 300} {
			key := long[:keySize]
			for _, n := range []int{0, 1, 55, 64, 200, short - 1, short, short + 1, 1200} {
				message := long[:n]
				m := hmac.New(h, key)
				m.Write(message)
				want := m.Sum([]byte("kept"))
				got := k.MAC(prefix[:4:4], key, message[:n/3], message[n/3:], nil)
				if !bytes.Equal(got, want) {
					t.Fatalf("HMAC %d, key %d, message %d: %x, want %x", id, keySize, n, got, want)
				}
				for _, size := range []int{0, 1, k.Size() - 1, k.Size(), k.Size() + 1, 3 * k.Size(), k.MaxExpand()} {
					want, err := hkdf.Expand(h, key, string(message), size)
					if err != nil {
						t.Fatal(err)
					}
					got := k.Expand(nil, key, size, message[:n/2], message[n/2:])
					if !bytes.Equal(got, want) {
						t.Fatalf("Expand %d, key %d, info %d, size %d", id, keySize, n, size)
					}
				}
			}
		}
		m := h()
		m.Write(long)
		if got := k.Hash(nil, long[:5], long[5:]); !bytes.Equal(got, m.Sum(nil)) {
			t.Errorf("Hash %d: %x", id, got)
		}
	}
}

// TestExpandWithLabelLengths checks the two ways through ExpandWithLabel
// against each other.
func TestExpandWithLabelLengths(t *testing.T) {
	for _, id := range []uint16{1, 7, 4} {
		s := Lookup(id)
		secret := bytes.Repeat([]byte{3}, s.HashSize())
		for _, labelSize := range []int{0, 5, 63, 100, 300} {
			label := strings.Repeat("l", labelSize)
			for _, n := range []int{0, 63, 64, 200, short - 40, short, 2000, 20000} {
				context := make([]byte, n)
				for _, size := range []int{0, 12, s.HashSize(), s.HashSize() + 1, 500} {
					info := append([]byte{byte(size >> 8), byte(size)}, s.SignContent(nil, label, context)...)
					want := s.Expand(nil, secret, info, size)
					got := s.ExpandWithLabel(nil, secret, label, context, size)
					if !bytes.Equal(got, want) {
						t.Fatalf("suite %d, label %d, context %d, size %d", id, labelSize, n, size)
					}
				}
			}
		}
		// A secret longer than a block is hashed first, in both ways.
		odd := make([]byte, 200)
		short, long := s.ExpandWithLabel(nil, odd, "x", nil, 16), s.Expand(nil, odd, append([]byte{0, 16}, s.SignContent(nil, "x", nil)...), 16)
		if !bytes.Equal(short, long) {
			t.Error("a long secret gives two results")
		}
	}
}

func TestExpandRefusesTooMuch(t *testing.T) {
	s := Lookup(1)
	for _, n := range []int{-1, s.MaxExpand() + 1} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("Expand of %d octets did not panic", n)
				}
			}()
			s.ExpandWithLabel(nil, nil, "x", nil, n)
		}()
	}
}

func TestCheckMAC(t *testing.T) {
	for _, id := range []uint16{1, 7, 4} {
		s := Lookup(id)
		key, message := []byte("key"), []byte("a message")
		tag := s.MAC(nil, key, message)
		if !s.CheckMAC(key, tag, message[:3], message[3:]) {
			t.Error("right tag refused")
		}
		if s.CheckMAC(key, tag, message[:3]) || s.CheckMAC([]byte("kez"), tag, message) ||
			s.CheckMAC(key, tag[:len(tag)-1], message) || s.CheckMAC(key, nil, message) ||
			s.CheckMAC(key, append(tag, 0), message) {
			t.Error("wrong tag accepted")
		}
	}
}

func TestAEAD(t *testing.T) {
	for _, id := range []uint16{1, 3, 7} {
		s := Lookup(id)
		key, nonce := bytes.Repeat([]byte{1}, s.KeySize()), bytes.Repeat([]byte{2}, 12)
		plain, aad := []byte("what is said"), []byte("to whom")
		sealed := s.Seal([]byte("head"), key, nonce, aad, plain)
		if !bytes.HasPrefix(sealed, []byte("head")) || len(sealed) != 4+len(plain)+s.TagSize() {
			t.Fatalf("sealed %x", sealed)
		}
		sealed = sealed[4:]
		got, err := s.Open([]byte("head"), key, nonce, aad, sealed)
		if err != nil || string(got) != "head"+string(plain) {
			t.Fatalf("opened %q, %v", got, err)
		}
		if _, err := s.Open(nil, key, nonce, aad[:3], sealed); !errors.Is(err, ErrOpen) {
			t.Errorf("other additional data: %v", err)
		}
		for n := range len(sealed) {
			if _, err := s.Open(nil, key, nonce, aad, sealed[:n]); !errors.Is(err, ErrOpen) {
				t.Errorf("cut to %d: %v", n, err)
			}
			sealed[n] ^= 0x20
			if _, err := s.Open(nil, key, nonce, aad, sealed); !errors.Is(err, ErrOpen) {
				t.Errorf("octet %d changed: %v", n, err)
			}
			sealed[n] ^= 0x20
		}
		inPlace := append(make([]byte, 0, 100), plain...)
		inPlace = s.Seal(inPlace[:0], key, nonce, aad, inPlace)
		if !bytes.Equal(inPlace, sealed) {
			t.Error("encryption in place differs")
		}
		if got, err = s.Open(inPlace[:0], key, nonce, aad, inPlace); err != nil || !bytes.Equal(got, plain) {
			t.Errorf("decryption in place: %q, %v", got, err)
		}
	}
}

// TestAllocations holds the hot paths to what they were built for.
func TestAllocations(t *testing.T) {
	s := Lookup(1)
	secret, dst := make([]byte, 32), make([]byte, 0, 2048)
	context, content := make([]byte, 200), make([]byte, 300)
	private, public, err := s.GenerateSignatureKey(bytes.NewReader(make([]byte, 32)))
	if err != nil {
		t.Fatal(err)
	}
	signature, err := s.Sign(nil, private, "X", content)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		most float64
		f    func()
	}{
		"ExpandWithLabel":  {0, func() { s.ExpandWithLabel(dst, secret, "epoch", context, 32) }},
		"long context":     {0, func() { s.ExpandWithLabel(dst, secret, "epoch", dst[:1000], 32) }},
		"DeriveSecret":     {0, func() { s.DeriveSecret(dst, secret, "confirm") }},
		"DeriveTreeSecret": {0, func() { s.DeriveTreeSecret(dst, secret, "key", 7, 16) }},
		"Extract":          {0, func() { s.Extract(dst, secret, secret) }},
		"MAC":              {0, func() { s.MAC(dst, secret, context, content) }},
		"CheckMAC":         {0, func() { s.CheckMAC(secret, secret, context, content) }},
		"Hash":             {0, func() { s.Hash(dst, context, content) }},
		"RefHash":          {0, func() { s.RefHash(dst, "MLS 1.0 KeyPackage Reference", content) }},
		"Verify":           {0, func() { s.Verify(public, "X", content, signature) }},
		"Sign":             {0, func() { s.Sign(dst, private, "X", content) }},
		"Seal":             {2, func() { s.Seal(dst, secret[:16], secret[:12], context, content) }},
	} {
		if got := testing.AllocsPerRun(50, c.f); got > c.most {
			t.Errorf("%s: %v allocations, at most %v", name, got, c.most)
		}
	}
}

func ExampleLookup() {
	s := Lookup(1)
	fmt.Println(s.Name(), s.HashSize(), s.KeySize())
	// Output: MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519 32 16
}
