package hpke

import (
	"bytes"
	"math/big"
	"testing"

	"github.com/cloudflare/circl/dh/x25519"
	"github.com/cloudflare/circl/dh/x448"
)

// TestSmallOrder: the check of a public key, which compares, and the
// multiplication agree on the values around 0, the prime and the longest, and
// on others (RFC 7748 §6, RFC 9180 §7.1.4).
func TestSmallOrder(t *testing.T) {
	p25519 := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(19))
	p448 := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 448), new(big.Int).Lsh(big.NewInt(1), 224))
	p448.Sub(p448, big.NewInt(1))
	agree(t, p25519, 32, checkX25519, func(u []byte) bool {
		var scalar, key, out x25519.Key
		scalar[0] = 8
		copy(key[:], u)
		return x25519.Shared(&out, &scalar, &key) && out != x25519.Key{}
	})
	agree(t, p448, 56, checkX448, func(u []byte) bool {
		var scalar, key, out x448.Key
		scalar[0] = 4
		copy(key[:], u)
		return x448.Shared(&out, &scalar, &key) && out != x448.Key{}
	})
}

func agree(t *testing.T, p *big.Int, size int, check func([]byte) error, multiply func([]byte) bool) {
	t.Helper()
	end := new(big.Int).Lsh(big.NewInt(1), uint(8*size))
	half := new(big.Int).Rsh(end, 1)
	small := 0
	for _, base := range []*big.Int{new(big.Int), p, half, end, new(big.Int).Mod(new(big.Int).Add(p, half), end)} {
		for d := int64(-40); d <= 40; d++ {
			v := new(big.Int).Add(base, big.NewInt(d))
			if v.Sign() < 0 || v.Cmp(end) >= 0 {
				continue
			}
			u := make([]byte, size)
			v.FillBytes(u)
			for i := range size / 2 {
				u[i], u[size-1-i] = u[size-1-i], u[i]
			}
			before := bytes.Clone(u)
			if got, want := check(u) == nil, multiply(u); got != want {
				t.Errorf("the check says %v and the multiplication %v of %x", got, want, u)
			} else if !got {
				small++
			}
			if !bytes.Equal(u, before) {
				t.Fatal("the check changed the key")
			}
		}
	}
	if small < 5 {
		t.Errorf("%d values of small order found", small)
	}
}
