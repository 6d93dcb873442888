package identity

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
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

// What checkKey refuses deserves it: with a point of small order as key, the
// signature (neutral point, 0) is good for one message in eight at least.
func TestWeakKeysAreRefused(t *testing.T) {
	forged := make([]byte, ed25519.SignatureSize)
	forged[0] = 1
	minusOne := weakOrdinates[0]
	for i := range minusOne {
		minusOne[i] = 0xff
	}
	minusOne[0], minusOne[31] = 0xec, 0x7f
	for _, y := range append(weakOrdinates[:], [32]byte{}, [32]byte{1}, minusOne) {
		for _, sign := range []byte{0, 0x80} {
			k := y
			k[31] |= sign
			if err := checkKey(k[:]); !errors.Is(err, ErrMalformed) {
				t.Errorf("%x: %v", k, err)
			}
			anybody := false
			for n := range 256 {
				anybody = anybody || ed25519.Verify(k[:], []byte{byte(n)}, forged)
			}
			if sign == 0 && !anybody {
				t.Errorf("%x is not weak at all", k)
			}
		}
	}
	for y0 := byte(0xed); y0 != 0; y0++ { // the 19 values from p to 2^255-1
		k := minusOne
		k[0] = y0
		if err := checkKey(k[:]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x is not reduced: %v", k, err)
		}
	}
	for n := range 200 {
		if err := checkKey(pub(n)); err != nil {
			t.Errorf("key %d: %v", n, err)
		}
	}
	if err := checkKey(nil); !errors.Is(err, ErrMalformed) {
		t.Errorf("no key: %v", err)
	}
}

func TestDeviceID(t *testing.T) {
	id := DeviceID(make([]byte, 32))
	if id != "mzuhvlpymk6xo3epygfy5h4oea" { // as other implementations of SHA-256 and base32 compute it
		t.Errorf("the ID of the zero key is %q", id)
	}
	if !isDeviceID(id) || isDeviceID(id[1:]) || isDeviceID("M"+id[1:]) || isDeviceID("1"+id[1:]) {
		t.Error("isDeviceID does not know its own")
	}
	if got := DeviceURI("A.example", pub(1)); got != "mimi://a.example/d/"+DeviceID(pub(1)) {
		t.Errorf("URI %q", got)
	}
}

func TestValidity(t *testing.T) {
	for _, c := range []struct {
		now  int64
		want bool
	}{{1000 - Skew - 1, false}, {1000 - Skew, true}, {1000, true}, {1999, true}, {2000, false}} {
		if got := inForce(1000, 2000, c.now); got != c.want {
			t.Errorf("at %d: %v", c.now, got)
		}
	}
	for _, c := range [][2]int64{{5, 5}, {6, 5}, {-1, 5}, {0, 0}} {
		if err := checkValidity(c[0], c[1]); !errors.Is(err, ErrMalformed) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
