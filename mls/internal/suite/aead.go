package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"sync"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	nonceSize = 12 // Nn of every AEAD of RFC 9180 §7.3
	tagSize   = 16 // Nt
)

// ErrOpen is what Open returns for a ciphertext that is not authentic, and
// for one that cannot be.
var ErrOpen = errors.New("suite: ciphertext does not open")

// keySize is Nk of an AEAD, 0 for one that is unknown.
func keySize(aead uint16) int {
	switch aead {
	case AEADAES128GCM:
		return 16
	case AEADAES256GCM, AEADChaCha20:
		return 32
	}
	return 0
}

// newAEAD returns the cipher with a key of KeySize octets. For AES-GCM the
// standard library makes two objects, of 512 and 768 octets, and offers no way
// to give either a new key or to keep it on the stack, so two allocations are
// the least there can be with a fresh key; ChaCha20-Poly1305 takes one of 32.
func (s *Suite) newAEAD(key []byte) cipher.AEAD {
	if s.params.AEAD == AEADChaCha20 {
		a, err := chacha20poly1305.New(key)
		if err != nil {
			panic(err) // the length was checked
		}
		return a
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	a, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return a
}

// maxKept is the longest additional data, in octets, for which a buffer is
// kept in the pool.
const maxKept = 1 << 12

// inputs are copies of nonce and additional data. The interface of the
// standard library lets its arguments escape; copying them here keeps the
// callers' buffers on their stacks. Neither is a key.
type inputs struct {
	nonce [nonceSize]byte
	aad   []byte
}

var pool = sync.Pool{New: func() any { return new(inputs) }}

// take checks the lengths, which are the caller's own: keys and nonces are
// derived and never come off the wire, so a wrong one panics.
func (s *Suite) take(key, nonce, aad []byte) *inputs {
	if len(key) != s.key || len(nonce) != nonceSize {
		panic("suite: AEAD key or nonce of a wrong length")
	}
	in := pool.Get().(*inputs)
	copy(in.nonce[:], nonce)
	in.aad = append(in.aad[:0], aad...)
	return in
}

func (in *inputs) release() {
	clear(in.nonce[:])
	clear(in.aad)
	if cap(in.aad) <= maxKept {
		pool.Put(in)
	}
}

// Seal appends the ciphertext and tag of plaintext. plaintext may be
// dst[len(dst):][:n] exactly, to encrypt in place, and may not overlap it
// otherwise. key is KeySize and nonce NonceSize octets. With AES-GCM it
// allocates the two objects of the standard library (1280 octets), with
// ChaCha20-Poly1305 one of 32 octets.
func (s *Suite) Seal(dst, key, nonce, aad, plaintext []byte) []byte {
	in := s.take(key, nonce, aad)
	dst = s.newAEAD(key).Seal(dst, in.nonce[:], plaintext, in.aad)
	in.release()
	return dst
}

// Open appends the plaintext of ciphertext, or returns ErrOpen and nothing.
// ciphertext may be dst[len(dst):][:n] exactly, to decrypt in place. It
// allocates as Seal does.
func (s *Suite) Open(dst, key, nonce, aad, ciphertext []byte) ([]byte, error) {
	if len(ciphertext) < tagSize {
		return nil, ErrOpen
	}
	in := s.take(key, nonce, aad)
	out, err := s.newAEAD(key).Open(dst, in.nonce[:], ciphertext, in.aad)
	in.release()
	if err != nil {
		return nil, ErrOpen
	}
	return out, nil
}
