package suite

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha512"
	"math/big"
	"slices"
	"testing"
)

// little reads a number of little-endian octets.
func little(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

// littleBytes writes 32 little-endian octets.
func littleBytes(n *big.Int) []byte {
	b := n.FillBytes(make([]byte, 32))
	slices.Reverse(b)
	return b
}

// The table is all the points that vanish when multiplied by 8. On
// -x²+y² = 1+d·x²y² twice a point has y = 0 if x² = -y², thus d·y⁴+2y²-1 = 0:
// those have order 8; y = 0 has order 4, y = -1 order 2, y = 1 order 1.
func TestSmallOrder25519(t *testing.T) {
	one := big.NewInt(1)
	p := new(big.Int).Sub(new(big.Int).Lsh(one, 255), big.NewInt(19))
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d.Mul(d, big.NewInt(-121665)).Mod(d, p)
	want := []*big.Int{big.NewInt(0), one, new(big.Int).Sub(p, one), p, new(big.Int).Add(p, one)}
	root := new(big.Int).ModSqrt(new(big.Int).Add(d, one), p)
	for _, r := range []*big.Int{root, new(big.Int).Sub(p, root)} {
		square := new(big.Int).Sub(r, one)
		square.Mul(square, new(big.Int).ModInverse(d, p)).Mod(square, p)
		if y := new(big.Int).ModSqrt(square, p); y != nil {
			want = append(want, y, new(big.Int).Sub(p, y))
		}
	}
	if len(want) != len(smallOrder25519) {
		t.Fatalf("%d coordinates, not %d", len(want), len(smallOrder25519))
	}
	s := Lookup(1)
	for _, y := range want {
		key := littleBytes(y)
		for _, sign := range []byte{0, 0x80} {
			key[31] = key[31]&0x7f | sign
			if err := s.CheckSignatureKey(key); err == nil {
				t.Errorf("%x is taken as a key", key)
			}
		}
	}
}

// One signature verifies for every content under the neutral element; and with
// the neutral element as R, the signature tells nothing of the content's hash
// but the private key times it.
func TestSmallOrderSignatures(t *testing.T) {
	s := Lookup(1)
	key := make([]byte, 32)
	key[0] = 1
	// R is the base point and S is 1.
	signature := bytes.Repeat([]byte{0x66}, 64)
	signature[0] = 0x58
	clear(signature[32:])
	signature[32] = 1
	content := []byte("any")
	if !ed25519.Verify(key, s.SignContent(nil, "Label", content), signature) {
		t.Fatal("this is no such signature")
	}
	if s.Verify(key, "Label", content, signature) {
		t.Error("verified under a key of small order")
	}

	private := ed25519.NewKeyFromSeed(make([]byte, 32))
	public := private.Public().(ed25519.PublicKey)
	digest := sha512.Sum512(private.Seed())
	digest[0] &= 248
	digest[31] = digest[31]&63 | 64
	message := s.SignContent(nil, "Label", content)
	hash := sha512.Sum512(slices.Concat(key, public, message))
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	scalar := new(big.Int).Mul(little(hash[:]), little(digest[:32]))
	signature = append(slices.Clone(key), littleBytes(scalar.Mod(scalar, order))...)
	if !ed25519.Verify(public, message, signature) {
		t.Fatal("this is no such signature")
	}
	if s.Verify(public, "Label", content, signature) {
		t.Error("verified with R of small order")
	}
}

// Ed448 has a cofactor of 4: y is 0, 1 or -1.
func TestSmallOrder448(t *testing.T) {
	one := big.NewInt(1)
	p := new(big.Int).Sub(new(big.Int).Lsh(one, 448), new(big.Int).Lsh(one, 224))
	p.Sub(p, one)
	s := Lookup(4)
	if s.Signature() != Ed448 {
		t.Fatal("another scheme")
	}
	for i, y := range []*big.Int{big.NewInt(0), one, new(big.Int).Sub(p, one), p, new(big.Int).Add(p, one)} {
		key := y.FillBytes(make([]byte, 57))
		slices.Reverse(key)
		if !bytes.Equal(key[:size448], smallOrder448[i][:]) {
			t.Errorf("entry %d is %x", i, smallOrder448[i])
		}
		for _, sign := range []byte{0, 0x80} {
			key[56] = sign
			if err := s.CheckSignatureKey(key); err == nil {
				t.Errorf("%x is taken as a key", key)
			}
		}
	}
	private, public, err := s.GenerateSignatureKey(&counter{1})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := s.Sign(nil, private, "Label", nil)
	if err != nil || !s.Verify(public, "Label", nil, signature) {
		t.Fatal(err)
	}
	// With S = 0 and R neutral, k·A vanishes for a key that does.
	neutral, zero := make([]byte, 57), make([]byte, 114)
	neutral[0], zero[0] = 1, 1
	if s.Verify(neutral, "Label", nil, zero) || s.Verify(public, "Label", nil, append(neutral, signature[57:]...)) {
		t.Error("verified with points of small order")
	}
}
