//go:build bench

package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"time"

	"github.com/cloudflare/circl/dh/x25519"
)

// A mlsPrimitives is what the public-key operations of suite 1 take in this
// run, in milliseconds: the speed of the machine, which moves within a day.
type mlsPrimitives struct{ sign, verify, base, shared float64 }

func measurePrimitives() mlsPrimitives {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	content := make([]byte, 1200) // a message of 1 KiB with its frame
	signature := ed25519.Sign(private, content)
	var secret, key, out x25519.Key
	rand.Read(secret[:])
	x25519.KeyGen(&key, &secret)
	typical := func(f func()) float64 {
		times := make([]float64, 1001)
		for i := range times {
			start := time.Now()
			f()
			times[i] = float64(time.Since(start)) / 1e6
		}
		slices.Sort(times)
		return times[len(times)/2]
	}
	return mlsPrimitives{
		sign:   typical(func() { ed25519.Sign(private, content) }),
		verify: typical(func() { ed25519.Verify(public, content, signature) }),
		base:   typical(func() { x25519.KeyGen(&out, &secret) }),
		shared: typical(func() { x25519.Shared(&out, &secret, &key) }),
	}
}

// floor is the public-key work of an operation on two cores, perfectly shared,
// without any hashing, parsing and copying; NaN where there is none.
func (p mlsPrimitives) floor(op string, n int) float64 {
	members, levels := float64(n), float64(bits.Len(uint(n-1)))
	seal := p.base + p.shared
	const cores = 2
	switch op {
	case "create":
		return (members - 1) * (2*p.verify + seal) / cores
	case "join":
		return members * p.verify / cores
	case "update_create_warm":
		return (levels*(seal+p.base) + p.base + 2*p.sign) / cores
	case "update_create_cold":
		return ((members-1)*seal + (levels+1)*p.base + 2*p.sign) / cores
	case "update_process_warm", "update_process_cold", "remove_process_warm":
		return (2*p.verify + p.shared + levels*p.base) / cores
	case "add_create_warm", "add_beside_create_warm":
		return (2*p.verify + 2*p.sign + seal) / cores
	case "add_process_warm":
		return 3 * p.verify / cores
	case "update_follow_warm":
		return 2 * p.verify / cores
	case "encrypt_1k":
		return p.sign
	case "decrypt_1k":
		return p.verify
	}
	return math.NaN()
}

// The times of the primitives from which the goals were made.
var mlsAssumed = mlsPrimitives{sign: 0.0152, verify: 0.0352, base: 0.0133, shared: 0.0211}

func (p mlsPrimitives) String() string {
	show := func(x, assumed float64) string {
		return fmt.Sprintf("%.1f µs (goals: %.1f)", 1000*x, 1000*assumed)
	}
	return fmt.Sprintf("Ed25519 signs in %s and verifies in %s, X25519 makes a key in %s and agrees in %s",
		show(p.sign, mlsAssumed.sign), show(p.verify, mlsAssumed.verify), show(p.base, mlsAssumed.base), show(p.shared, mlsAssumed.shared))
}
