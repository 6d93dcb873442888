package suite

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io"
	"testing"
)

// counter is a source of octets that repeats itself only after a while.
type counter struct{ n uint32 }

func (c *counter) Read(p []byte) (int, error) {
	for i := range p {
		c.n = c.n*1664525 + 1013904223
		p[i] = byte(c.n >> 24)
	}
	return len(p), nil
}

// everyScheme has one suite for each signature scheme.
var everyScheme = []uint16{1, 2, 4, 5, 7, 0xF009, 0xF00A, 0xF00B}

func TestSignatures(t *testing.T) {
	for _, id := range everyScheme {
		s := Lookup(id)
		t.Run(s.Name(), func(t *testing.T) {
			private, public, err := s.GenerateSignatureKey(&counter{uint32(id)})
			if err != nil {
				t.Fatal(err)
			}
			again, _, err := s.GenerateSignatureKey(&counter{uint32(id)})
			if err != nil || !bytes.Equal(again, private) {
				t.Errorf("the same randomness gave another key: %v", err)
			}
			derived, err := s.SignaturePublic(private)
			if err != nil || !bytes.Equal(derived, public) {
				t.Errorf("public key %x, %v, want %x", derived, err, public)
			}
			if err := s.CheckSignatureKey(public); err != nil {
				t.Error(err)
			}
			content := []byte("what is signed")
			signature, err := s.Sign(nil, private, "Label", content)
			if err != nil || len(signature) > MaxSignature {
				t.Fatalf("%d octets, %v", len(signature), err)
			}
			if !s.Verify(public, "Label", content, signature) {
				t.Fatal("not verified")
			}
			refusals(t, s, private, public, content, signature)
		})
	}
}

func refusals(t *testing.T, s *Suite, private, public, content, signature []byte) {
	if s.Verify(public, "Labem", content, signature) || s.Verify(public, "Label", content[1:], signature) {
		t.Error("another label or content verified")
	}
	_, other, err := s.GenerateSignatureKey(&counter{99})
	if err != nil {
		t.Fatal(err)
	}
	if s.Verify(other, "Label", content, signature) {
		t.Error("verified with another key")
	}
	for _, at := range []int{0, 1, len(signature) / 2, len(signature) - 1} {
		bad := bytes.Clone(signature)
		bad[at] ^= 0x10
		if s.Verify(public, "Label", content, bad) {
			t.Errorf("verified with octet %d changed", at)
		}
	}
	for _, bad := range [][]byte{nil, signature[:len(signature)-1], append(bytes.Clone(signature), 0), make([]byte, MaxSignature+1)} {
		if s.Verify(public, "Label", content, bad) {
			t.Errorf("verified with a signature of %d octets", len(bad))
		}
	}
	for _, bad := range [][]byte{nil, public[:len(public)-1], append(bytes.Clone(public), 0)} {
		if err := s.CheckSignatureKey(bad); !errors.Is(err, ErrKey) {
			t.Errorf("key of %d octets: %v", len(bad), err)
		}
		if s.Verify(bad, "Label", content, signature) {
			t.Errorf("verified with a key of %d octets", len(bad))
		}
	}
	shorter := private[1:]
	if c, _, _ := s.Signature().curve(); c != nil {
		shorter = nil // a scalar may be short
	}
	for _, bad := range [][]byte{nil, shorter, append(bytes.Clone(private), 0)} {
		if _, err := s.Sign(nil, bad, "Label", content); !errors.Is(err, ErrKey) {
			t.Errorf("signed with a private key of %d octets: %v", len(bad), err)
		}
		if _, err := s.SignaturePublic(bad); !errors.Is(err, ErrKey) {
			t.Errorf("public key of a private key of %d octets: %v", len(bad), err)
		}
	}
	if _, _, err := s.GenerateSignatureKey(bytes.NewReader(nil)); !errors.Is(err, io.EOF) {
		t.Errorf("key without randomness: %v", err)
	}
}

// TestSeedAndLongForm: the seed alone signs the same as seed || public key,
// and a public half of another key is found out.
func TestSeedAndLongForm(t *testing.T) {
	for _, id := range []uint16{1, 4} {
		s := Lookup(id)
		private, public, err := s.GenerateSignatureKey(&counter{5})
		if err != nil {
			t.Fatal(err)
		}
		seed := private[:len(private)-len(public)]
		long, err := s.Sign(nil, private, "X", nil)
		if err != nil {
			t.Fatal(err)
		}
		short, err := s.Sign(nil, seed, "X", nil)
		if err != nil || !bytes.Equal(short, long) {
			t.Errorf("%x, %v, want %x", short, err, long)
		}
		if got, err := s.SignaturePublic(seed); err != nil || !bytes.Equal(got, public) {
			t.Errorf("public key %x, %v, want %x", got, err, public)
		}
		private[len(private)-1] ^= 1
		if _, err := s.SignaturePublic(private); !errors.Is(err, ErrKey) {
			t.Errorf("another public half: %v", err)
		}
	}
}

// TestShortScalar: a scalar without its leading zeros is the same key.
func TestShortScalar(t *testing.T) {
	for _, id := range []uint16{2, 5, 7} {
		s := Lookup(id)
		_, size, _ := s.Signature().curve()
		whole := make([]byte, size)
		copy(whole[2:], bytes.Repeat([]byte{7}, size-2))
		want, err := s.SignaturePublic(whole)
		if err != nil {
			t.Fatal(err)
		}
		for _, short := range [][]byte{whole[1:], whole[2:]} {
			got, err := s.SignaturePublic(short)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("suite %d, %d octets: %x, %v", id, len(short), got, err)
			}
			signature, err := s.Sign(nil, short, "X", nil)
			if err != nil || !s.Verify(want, "X", nil, signature) {
				t.Errorf("suite %d, %d octets: %v", id, len(short), err)
			}
		}
	}
}

func TestBadPoints(t *testing.T) {
	for _, id := range []uint16{2, 5, 7} {
		s := Lookup(id)
		_, public, err := s.GenerateSignatureKey(&counter{6})
		if err != nil {
			t.Fatal(err)
		}
		off := bytes.Clone(public)
		off[len(off)-1] ^= 1
		compressed := append([]byte{2 + off[len(off)-1]&1}, public[1:1+len(public)/2]...)
		form := bytes.Clone(public)
		form[0] = 6 // the hybrid form, which nobody uses
		for _, bad := range [][]byte{off, compressed, form, make([]byte, len(public)), {0}} {
			if err := s.CheckSignatureKey(bad); !errors.Is(err, ErrKey) {
				t.Errorf("suite %d accepts the key %x", id, bad)
			}
			if s.Verify(bad, "X", nil, []byte{0x30, 0}) {
				t.Errorf("suite %d verifies with the key %x", id, bad)
			}
		}
		scalar := bytes.Repeat([]byte{0xff}, len(public)/2) // above the order
		if _, err := s.Sign(nil, scalar, "X", nil); !errors.Is(err, ErrKey) {
			t.Errorf("suite %d signs with a scalar above the order: %v", id, err)
		}
		if _, err := s.Sign(nil, make([]byte, len(public)/2), "X", nil); !errors.Is(err, ErrKey) {
			t.Errorf("suite %d signs with the scalar 0: %v", id, err)
		}
	}
	ed448 := bytes.Repeat([]byte{0xff}, 57)
	if err := Lookup(4).CheckSignatureKey(ed448); !errors.Is(err, ErrKey) {
		t.Errorf("Ed448 key that is no point: %v", err)
	}
}

// TestSchemeHash: in the suites of draft-ietf-mls-pq-ciphersuites the ECDSA
// hash is that of the scheme, although the suite's is SHA-384.
func TestSchemeHash(t *testing.T) {
	a, b := Lookup(2), Lookup(0xF004)
	if a.HashSize() == b.HashSize() {
		t.Fatal("the suites have one hash")
	}
	private, public, err := a.GenerateSignatureKey(&counter{7})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := b.Sign(nil, private, "X", []byte("content"))
	if err != nil || !a.Verify(public, "X", []byte("content"), signature) {
		t.Errorf("signature over another hash: %v", err)
	}
}

func TestSignContent(t *testing.T) {
	got := Lookup(1).SignContent([]byte{0xaa}, "FramedContentTBS", make([]byte, 70))
	want, err := hex.DecodeString("aa18" + hex.EncodeToString([]byte("MLS 1.0 FramedContentTBS")) + "4046")
	if err != nil {
		t.Fatal(err)
	}
	if want = append(want, make([]byte, 70)...); !bytes.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
	}
}

// FuzzVerify gives every scheme hostile keys and signatures.
func FuzzVerify(f *testing.F) {
	for i := range everyScheme {
		f.Add(uint8(i), []byte("key"), []byte("signature"))
		f.Add(uint8(i), make([]byte, 32), make([]byte, 64))
		f.Add(uint8(i), make([]byte, 57), make([]byte, 114))
		f.Add(uint8(i), append([]byte{4}, make([]byte, 64)...), []byte{0x30, 6, 2, 1, 1, 2, 1, 1})
	}
	f.Fuzz(func(t *testing.T, scheme uint8, public, signature []byte) {
		s := Lookup(everyScheme[int(scheme)%len(everyScheme)])
		_ = s.CheckSignatureKey(public)
		// A key of small order verifies some signatures of some contents;
		// what must not happen is a panic, or that the content is ignored.
		if s.Verify(public, "X", []byte("one"), signature) && s.Verify(public, "X", []byte("two"), signature) &&
			s.Verify(public, "X", []byte("three"), signature) && s.Signature() != Ed25519 && s.Signature() != Ed448 {
			t.Errorf("one signature verifies three contents")
		}
	})
}
