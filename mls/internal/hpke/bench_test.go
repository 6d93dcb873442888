package hpke

import (
	"bytes"
	"crypto/ecdh"
	"crypto/mlkem"
	"fmt"
	"testing"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/dh/x448"
	"github.com/cloudflare/circl/kem/mlkem/mlkem1024"
	"github.com/cloudflare/circl/kem/mlkem/mlkem768"
	"github.com/cloudflare/circl/kem/xwing"

	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// BenchmarkHPKE is one seal, open and key derivation of each KEM, with a
// secret of 32 octets and an info hashed before, as in a commit.
func BenchmarkHPKE(b *testing.B) {
	for _, id := range []uint16{1, 2, 3, 7, 5, 4, 0xF001, 0xF003, 0xF005, 0xF006, 0xF008} {
		s := suite.Lookup(id)
		seed := bytes.Repeat([]byte{3}, SeedSize(s))
		private, public, err := DeriveKeyPair(s, seed)
		if err != nil {
			b.Fatal(err)
		}
		info := NewInfo(s, make([]byte, 150))
		plain := make([]byte, 32)
		kem, sealed, err := Seal(s, seed, public, info, nil, plain)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%04x/seal", id), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Seal(s, seed, public, info, nil, plain); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%04x/open", id), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Open(s, private, public, kem, info, nil, sealed); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("%04x/derive", id), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := DeriveKeyPair(s, seed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkInfo(b *testing.B) {
	s := suite.Lookup(1)
	context := make([]byte, 150)
	b.ReportAllocs()
	for b.Loop() {
		InfoWithLabel(s, "UpdatePathNode", context)
	}
}

// BenchmarkPrimitive compares the libraries for what both offer.
func BenchmarkPrimitive(b *testing.B) {
	run := func(name string, f func()) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
		})
	}
	scalar := bytes.Repeat([]byte{9}, 32)
	key, err := ecdh.X25519().NewPrivateKey(scalar)
	if err != nil {
		b.Fatal(err)
	}
	var sk, pk, dh x25519.Key
	copy(sk[:], scalar)
	x25519.KeyGen(&pk, &sk)
	run("X25519/base/std", func() { k, _ := ecdh.X25519().NewPrivateKey(scalar); k.PublicKey() })
	run("X25519/base/circl", func() { x25519.KeyGen(&pk, &sk) })
	run("X25519/shared/std", func() { key.ECDH(key.PublicKey()) })
	run("X25519/shared/circl", func() { x25519.Shared(&dh, &sk, &pk) })

	var sk4, pk4, dh4 x448.Key
	copy(sk4[:], scalar)
	run("X448/base/circl", func() { x448.KeyGen(&pk4, &sk4) })
	run("X448/shared/circl", func() { x448.Shared(&dh4, &sk4, &pk4) })

	seed := bytes.Repeat([]byte{4}, 64)
	std, err := mlkem.NewDecapsulationKey768(seed)
	if err != nil {
		b.Fatal(err)
	}
	big, err := mlkem.NewDecapsulationKey1024(seed)
	if err != nil {
		b.Fatal(err)
	}
	pub, priv := mlkem768.NewKeyFromSeed(seed)
	_, privBig := mlkem1024.NewKeyFromSeed(seed)
	var ss [32]byte
	ct, ctBig := make([]byte, mlkem768.CiphertextSize), make([]byte, mlkem1024.CiphertextSize)
	run("MLKEM768/key/std", func() { mlkem.NewDecapsulationKey768(seed) })
	run("MLKEM768/key/circl", func() { mlkem768.NewKeyFromSeed(seed) })
	run("MLKEM768/encap/std", func() { std.EncapsulationKey().Encapsulate() })
	run("MLKEM768/encap/circl", func() { pub.EncapsulateTo(ct, ss[:], seed[:32]) })
	run("MLKEM768/decap/std", func() { std.Decapsulate(ct) })
	run("MLKEM768/decap/circl", func() { priv.DecapsulateTo(ss[:], ct) })
	run("MLKEM1024/key/std", func() { mlkem.NewDecapsulationKey1024(seed) })
	run("MLKEM1024/key/circl", func() { mlkem1024.NewKeyFromSeed(seed) })
	run("MLKEM1024/decap/std", func() { big.Decapsulate(ctBig) })
	run("MLKEM1024/decap/circl", func() { privBig.DecapsulateTo(ss[:], ctBig) })

	xsk, xpk := xwing.DeriveKeyPairPacked(scalar)
	_, xct, err := xwing.Encapsulate(xpk, seed)
	if err != nil {
		b.Fatal(err)
	}
	s := suite.Lookup(0xF001)
	var shared suite.Digest
	out := make([]byte, sizesOf(s.KEM()).output)
	run("XWing/encap/circl", func() { xwing.Encapsulate(xpk, seed) })
	run("XWing/encap/ours", func() { encapsulate(s.KEM(), &shared, out, seed, xpk) })
	run("XWing/decap/circl", func() { xwing.Decapsulate(xct, xsk) })
	run("XWing/decap/ours", func() { decapsulate(s.KEM(), &shared, xsk, nil, xct) })
}
