package core

import (
	"crypto/ed25519"
	"crypto/sha256"
)

// MaxBatch is how many messages share one signature of the homeserver: 2^5
// leaves cost five hashes beside each message and a thirty-second of a signing.
const MaxBatch = 32

// A Vouch is a homeserver's signature over one message of a batch: the root of
// a Merkle tree over the batch is signed, and Path leads from the message to the
// root (PROTOCOL §4, "signatures: batch"). A batch of one has an empty path.
type Vouch struct {
	Sig   []byte // Ed25519 over "isthmus relay batch" 0x00 root, 64 octets
	Path  []byte // sibling hashes from leaf to root, 32 octets each
	Right uint8  // bit i: this side is the right child at step i
}

const vouchLabel = "isthmus relay batch\x00"

// leafHash binds header and content. A deleted message keeps the hash of its
// content, so its signature can still be checked.
func leafHash(header []byte, content [32]byte) [32]byte {
	h := sha256.Sum256(header)
	var b [65]byte // b[0] = 0x00: a leaf
	copy(b[1:], h[:])
	copy(b[33:], content[:])
	return sha256.Sum256(b[:])
}

func nodeHash(l, r [32]byte) [32]byte {
	var b [65]byte
	b[0] = 0x01
	copy(b[1:], l[:])
	copy(b[33:], r[:])
	return sha256.Sum256(b[:])
}

// vouchFor signs leaves, at most MaxBatch, and returns a Vouch for each.
func vouchFor(key ed25519.PrivateKey, leaves [][32]byte) []Vouch {
	out := make([]Vouch, len(leaves))
	level := append([][32]byte(nil), leaves...)
	at := make([]int, len(leaves)) // where each leaf's subtree stands in level
	for i := range at {
		at[i] = i
	}
	for len(level) > 1 {
		for i, p := range at {
			if sib := p ^ 1; sib < len(level) { // a last one without sibling rises as it is
				out[i].Right |= uint8(p&1) << (len(out[i].Path) / 32)
				out[i].Path = append(out[i].Path, level[sib][:]...)
			}
			at[i] = p / 2
		}
		next := level[:0:0]
		for i := 0; i < len(level); i += 2 {
			if i+1 == len(level) {
				next = append(next, level[i])
			} else {
				next = append(next, nodeHash(level[i], level[i+1]))
			}
		}
		level = next
	}
	if len(level) == 1 {
		sig := ed25519.Sign(key, append([]byte(vouchLabel), level[0][:]...))
		for i := range out {
			out[i].Sig = sig
		}
	}
	return out
}

// Verify reports whether key vouched for a message with this header and the
// SHA-256 of this content.
func (v Vouch) Verify(key ed25519.PublicKey, header []byte, content [32]byte) bool {
	if len(v.Sig) != ed25519.SignatureSize || len(v.Path)%32 != 0 || len(v.Path)/32 > 5 {
		return false
	}
	h := leafHash(header, content)
	for i := 0; i*32 < len(v.Path); i++ {
		sib := [32]byte(v.Path[i*32:])
		if v.Right>>i&1 == 1 {
			h = nodeHash(sib, h)
		} else {
			h = nodeHash(h, sib)
		}
	}
	return ed25519.Verify(key, append([]byte(vouchLabel), h[:]...), v.Sig)
}
