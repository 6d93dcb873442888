package suite

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"testing"

	circl "github.com/cloudflare/circl/sign/ed25519"
)

func BenchmarkDeriveSecret(b *testing.B) {
	for _, id := range []uint16{1, 7, 4} {
		s := Lookup(id)
		secret := bytes.Repeat([]byte{1}, s.HashSize())
		dst := make([]byte, 0, MaxHash)
		b.Run(fmt.Sprintf("SHA%d", s.HashSize()*8), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dst = s.DeriveSecret(dst[:0], secret, "confirm")
			}
		})
	}
}

func BenchmarkExpandWithLabelContext(b *testing.B) {
	s := Lookup(1)
	secret, dst := make([]byte, 32), make([]byte, 0, 32)
	for _, n := range []int{32, 150, 1000} {
		context := make([]byte, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dst = s.ExpandWithLabel(dst[:0], secret, "epoch", context, 32)
			}
		})
	}
}

func BenchmarkMAC(b *testing.B) {
	s := Lookup(1)
	key, dst := make([]byte, 32), make([]byte, 0, 32)
	for _, n := range []int{64, 300, 2000} {
		message := make([]byte, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				dst = s.MAC(dst[:0], key, message)
			}
		})
	}
}

func BenchmarkAEAD(b *testing.B) {
	for _, id := range []uint16{1, 3, 7} {
		s := Lookup(id)
		key, nonce, aad := make([]byte, s.KeySize()), make([]byte, 12), make([]byte, 40)
		for _, n := range []int{12, 1024} {
			plain := make([]byte, n)
			sealed := s.Seal(nil, key, nonce, aad, plain)
			dst := make([]byte, 0, len(sealed))
			b.Run(fmt.Sprintf("%d/%d/seal", s.AEAD(), n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					dst = s.Seal(dst[:0], key, nonce, aad, plain)
				}
			})
			b.Run(fmt.Sprintf("%d/%d/open", s.AEAD(), n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					dst, _ = s.Open(dst[:0], key, nonce, aad, sealed)
				}
			})
		}
	}
}

// BenchmarkSignature covers every scheme: the suites named have one each.
func BenchmarkSignature(b *testing.B) {
	content := make([]byte, 200)
	for _, id := range []uint16{1, 2, 5, 4, 7, 0xF009, 0xF00A, 0xF00B} {
		s := Lookup(id)
		private, public, err := s.GenerateSignatureKey(bytes.NewReader(bytes.Repeat([]byte{5}, 256)))
		if err != nil {
			b.Fatal(err)
		}
		signature, err := s.Sign(nil, private, "X", content)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%04x/sign", uint16(s.Signature())), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Sign(nil, private, "X", content); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%04x/verify", uint16(s.Signature())), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if !s.Verify(public, "X", content, signature) {
					b.Fatal("not verified")
				}
			}
		})
	}
}

// BenchmarkEd25519 compares the two libraries; the standard one is used.
func BenchmarkEd25519(b *testing.B) {
	seed, message := make([]byte, 32), make([]byte, 200)
	key, other := ed25519.NewKeyFromSeed(seed), circl.NewKeyFromSeed(seed)
	public := []byte(key[32:])
	signature := ed25519.Sign(key, message)
	b.Run("std/sign", func(b *testing.B) {
		for b.Loop() {
			ed25519.Sign(key, message)
		}
	})
	b.Run("circl/sign", func(b *testing.B) {
		for b.Loop() {
			circl.Sign(other, message)
		}
	})
	b.Run("std/verify", func(b *testing.B) {
		for b.Loop() {
			ed25519.Verify(public, message, signature)
		}
	})
	b.Run("circl/verify", func(b *testing.B) {
		for b.Loop() {
			circl.Verify(public, message, signature)
		}
	})
}

// BenchmarkMessage is the cryptography of one PrivateMessage of 1 KiB in suite
// 1, without framing: the floor under what a group can reach.
func BenchmarkMessage(b *testing.B) {
	s := Lookup(1)
	private, public, err := s.GenerateSignatureKey(bytes.NewReader(bytes.Repeat([]byte{5}, 32)))
	if err != nil {
		b.Fatal(err)
	}
	secret, content, aad := make([]byte, 32), make([]byte, 1024), make([]byte, 40)
	var key, nonce, next [MaxHash]byte
	out, small, signature := make([]byte, 0, 2048), make([]byte, 0, 64), make([]byte, 0, 64)
	ratchet := func() {
		s.DeriveTreeSecret(key[:0], secret, "key", 3, 16)
		s.DeriveTreeSecret(nonce[:0], secret, "nonce", 3, 12)
		s.DeriveTreeSecret(next[:0], secret, "secret", 3, 32)
	}
	sender := func() {
		s.ExpandWithLabel(key[:0], secret, "key", content[:32], 16)
		s.ExpandWithLabel(nonce[:0], secret, "nonce", content[:32], 12)
	}
	ratchet()
	signature, err = s.Sign(signature[:0], private, "FramedContentTBS", content[:900])
	if err != nil {
		b.Fatal(err)
	}
	sealed := s.Seal(nil, key[:16], nonce[:12], aad, content)
	sender()
	sealedSender := s.Seal(nil, key[:16], nonce[:12], aad, content[:12])
	b.Run("encrypt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			signature, _ = s.Sign(signature[:0], private, "FramedContentTBS", content[:900])
			ratchet()
			out = s.Seal(out[:0], key[:16], nonce[:12], aad, content)
			sender()
			small = s.Seal(small[:0], key[:16], nonce[:12], aad, content[:12])
		}
	})
	b.Run("decrypt", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sender()
			if small, err = s.Open(small[:0], key[:16], nonce[:12], aad, sealedSender); err != nil {
				b.Fatal(err)
			}
			ratchet()
			if out, err = s.Open(out[:0], key[:16], nonce[:12], aad, sealed); err != nil {
				b.Fatal(err)
			}
			if !s.Verify(public, "FramedContentTBS", content[:900], signature) {
				b.Fatal("not verified")
			}
		}
	})
}
