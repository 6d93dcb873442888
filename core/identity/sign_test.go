package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"testing"
)

// key returns the n-th test key.
func key(n int) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte{byte(n), byte(n >> 8), 'k'})
	return ed25519.NewKeyFromSeed(seed[:])
}

func pub(n int) ed25519.PublicKey { return key(n).Public().(ed25519.PublicKey) }

func TestSignatureCoversAllItsParts(t *testing.T) {
	sig := Sign(key(1), "label", []byte("a"), []byte("b"))
	for _, c := range []struct {
		name string
		ok   bool
	}{
		{"as signed", Verify(pub(1), "label", sig, []byte("a"), []byte("b"))},
		{"another label", !Verify(pub(1), "labels", sig, []byte("a"), []byte("b"))},
		{"parts moved", !Verify(pub(1), "label", sig, []byte("ab"), nil)},
		{"parts swapped", !Verify(pub(1), "label", sig, []byte("b"), []byte("a"))},
		{"a part less", !Verify(pub(1), "label", sig, []byte("a"))},
		{"another key", !Verify(pub(2), "label", sig, []byte("a"), []byte("b"))},
		{"a short key", !Verify(pub(1)[:31], "label", sig, []byte("a"), []byte("b"))},
		{"a short signature", !Verify(pub(1), "label", sig[:63], []byte("a"), []byte("b"))},
		{"nothing", !Verify(nil, "label", nil)},
	} {
		if !c.ok {
			t.Errorf("%s: wrong verdict", c.name)
		}
	}
}
