package suite

import (
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/binary"
)

// KDF is HKDF (RFC 5869) over one hash function, with the hash and HMAC that
// MLS takes from the same function (RFC 9420 §5.1). It has no state.
type KDF struct {
	id    uint16
	size  int // octets of a hash
	block int // octets of an input block of the hash
}

var kdfs = [...]KDF{
	{KDFSHA256, sha256.Size, sha256.BlockSize},
	{KDFSHA384, sha512.Size384, sha512.BlockSize},
	{KDFSHA512, sha512.Size, sha512.BlockSize},
}

// maxBlock is the longest input block of a hash function.
const maxBlock = sha512.BlockSize

// short is the longest message, in octets, that the HMAC in a stack buffer
// takes; it covers every derivation whose context is a hash or a
// GroupContext without large extensions. Longer messages are streamed.
const short = 384

// LookupKDF returns the KDF with an HPKE id, or nil.
func LookupKDF(id uint16) *KDF {
	for i := range kdfs {
		if kdfs[i].id == id {
			return &kdfs[i]
		}
	}
	return nil
}

// Digest is room for a hash, or a secret, of any suite.
type Digest [MaxHash]byte

// Size is Nh, octets of a hash and of an extracted key.
func (k *KDF) Size() int { return k.size }

// sum hashes one buffer.
func (k *KDF) sum(out *Digest, b []byte) {
	switch k.id {
	case KDFSHA256:
		h := sha256.Sum256(b)
		copy(out[:], h[:])
	case KDFSHA384:
		h := sha512.Sum384(b)
		copy(out[:], h[:])
	default:
		*out = sha512.Sum512(b)
	}
}

// stream hashes first and then parts. The three branches are spelled out
// because a hash.Hash chosen at run time would be allocated.
func (k *KDF) stream(out *Digest, first []byte, parts [][]byte) {
	switch k.id {
	case KDFSHA256:
		h := sha256.New()
		h.Write(first)
		for _, p := range parts {
			h.Write(p)
		}
		h.Sum(out[:0])
	case KDFSHA384:
		h := sha512.New384()
		h.Write(first)
		for _, p := range parts {
			h.Write(p)
		}
		h.Sum(out[:0])
	default:
		h := sha512.New()
		h.Write(first)
		for _, p := range parts {
			h.Write(p)
		}
		h.Sum(out[:0])
	}
}

const (
	innerPad = 0x36 // RFC 2104 §2
	outerPad = 0x5c
)

// pad writes key XOR value, filled up with value to the length of dst, the
// block of the hash. key is no longer than dst.
func pad(dst, key []byte, value byte) {
	word := uint64(value) * 0x0101010101010101
	for len(key) >= 8 {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(key)^word)
		dst, key = dst[8:], key[8:]
	}
	for i, c := range key {
		dst[i] = c ^ value
	}
	for i := len(key); i < len(dst); i++ {
		dst[i] = value
	}
}

// hmac computes HMAC (RFC 2104) of the concatenated parts, whose lengths add
// up to n.
func (k *KDF) hmac(out *Digest, key []byte, n int, parts [][]byte) {
	var long Digest
	if len(key) > k.block {
		k.sum(&long, key)
		key = long[:k.size]
	}
	var inner Digest
	var buf [maxBlock + short]byte
	pad(buf[:k.block], key, innerPad)
	if n <= short {
		at := k.block
		for _, p := range parts {
			at += copy(buf[at:], p)
		}
		k.sum(&inner, buf[:at])
	} else {
		k.stream(&inner, buf[:k.block], parts)
	}
	pad(buf[:k.block], key, outerPad)
	copy(buf[k.block:], inner[:k.size])
	k.sum(out, buf[:k.block+k.size])
	clear(buf[:k.block+k.size])
}

func total(parts [][]byte) int {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	return n
}

// Hash appends the hash of the concatenated parts.
func (k *KDF) Hash(dst []byte, parts ...[]byte) []byte {
	var out Digest
	if len(parts) == 1 {
		k.sum(&out, parts[0])
	} else {
		k.stream(&out, nil, parts)
	}
	return append(dst, out[:k.size]...)
}

// MAC appends the HMAC of the concatenated parts.
func (k *KDF) MAC(dst, key []byte, parts ...[]byte) []byte {
	var out Digest
	k.hmac(&out, key, total(parts), parts)
	dst = append(dst, out[:k.size]...)
	clear(out[:])
	return dst
}

// Extract appends HKDF-Extract(salt, ikm), where ikm is the concatenated
// parts: Nh octets.
func (k *KDF) Extract(dst, salt []byte, ikm ...[]byte) []byte {
	return k.MAC(dst, salt, ikm...)
}

// MaxExpand is the most octets that one Expand can give, RFC 5869 §2.3.
func (k *KDF) MaxExpand() int { return 255 * k.size }

// MaxParts is how many parts the info of Expand may have.
const MaxParts = 6

// Expand appends n octets of HKDF-Expand(prk, info), where info is the
// concatenated parts, MaxParts at most. n is the caller's own, never off the
// wire: one above MaxExpand panics.
func (k *KDF) Expand(dst, prk []byte, n int, info ...[]byte) []byte {
	if n < 0 || n > k.MaxExpand() || len(info) > MaxParts {
		panic("suite: Expand beyond its limits")
	}
	var room [MaxParts + 2][]byte
	var counter [1]byte
	var block Digest
	for i, p := range info { // not copy, which would move them to the heap
		room[1+i] = p
	}
	room[1+len(info)] = counter[:]
	parts := room[:2+len(info)]
	size := total(parts)
	for done := 0; done < n; {
		counter[0]++
		k.hmac(&block, prk, size+len(room[0]), parts)
		take := min(n-done, k.size)
		dst = append(dst, block[:take]...)
		done += take
		room[0] = block[:k.size]
	}
	clear(block[:])
	return dst
}

// appendLength appends the header of a vector of n octets, RFC 9420 §2.1.2.
func appendLength(dst []byte, n int) []byte {
	switch {
	case n < 1<<6:
		return append(dst, byte(n))
	case n < 1<<14:
		return binary.BigEndian.AppendUint16(dst, uint16(n)|1<<14)
	case n < 1<<30:
		return binary.BigEndian.AppendUint32(dst, uint32(n)|2<<30)
	}
	panic("suite: vector longer than 2^30-1 octets")
}

// version is what RFC 9420 puts before every label.
const version = "MLS 1.0 "

// appendLabel appends opaque label<V> = "MLS 1.0 " + label.
func appendLabel(dst []byte, label string) []byte {
	dst = appendLength(dst, len(version)+len(label))
	dst = append(dst, version...)
	return append(dst, label...)
}

// Hash appends the hash of the concatenated parts: Nh octets.
func (s *Suite) Hash(dst []byte, parts ...[]byte) []byte { return s.kdf.Hash(dst, parts...) }

// Extract appends KDF.Extract(salt, ikm): Nh octets.
func (s *Suite) Extract(dst, salt, ikm []byte) []byte { return s.kdf.MAC(dst, salt, ikm) }

// Expand appends n octets of KDF.Expand(prk, info); n above MaxExpand panics.
func (s *Suite) Expand(dst, prk, info []byte, n int) []byte {
	return s.kdf.Expand(dst, prk, n, info)
}

// MaxExpand is the greatest n of Expand, ExpandWithLabel and DeriveTreeSecret:
// 255 hashes, the bound of HKDF (it is below the 2^16-1 of KDFLabel.length).
func (s *Suite) MaxExpand() int { return s.kdf.MaxExpand() }

// ExpandWithLabel appends n octets of KDF.Expand(secret, KDFLabel), RFC 9420
// §8. It allocates nothing beyond dst for contexts up to about 300 octets.
func (s *Suite) ExpandWithLabel(dst, secret []byte, label string, context []byte, n int) []byte {
	k := s.kdf
	var room [128]byte
	head := binary.BigEndian.AppendUint16(room[:0], uint16(n))
	head = appendLabel(head, label)
	head = appendLength(head, len(context))
	if n > k.size || n < 0 || len(head)+len(context) >= short {
		return k.Expand(dst, secret, n, head, context)
	}
	// One hash is enough, as nearly always: the message goes straight into
	// the buffer that is hashed.
	var out Digest
	var buf [maxBlock + short]byte
	at := k.block + copy(buf[k.block:], head)
	at += copy(buf[at:], context)
	buf[at] = 1
	k.finish(&out, secret, &buf, at+1)
	dst = append(dst, out[:n]...)
	clear(out[:])
	return dst
}

// finish is HMAC of the message that stands in buf from the block length of
// the hash up to end.
func (k *KDF) finish(out *Digest, key []byte, buf *[maxBlock + short]byte, end int) {
	var inner Digest
	if len(key) > k.block {
		k.sum(&inner, key)
		key = append([]byte(nil), inner[:k.size]...)
	}
	pad(buf[:k.block], key, innerPad)
	k.sum(&inner, buf[:end])
	pad(buf[:k.block], key, outerPad)
	copy(buf[k.block:], inner[:k.size])
	k.sum(out, buf[:k.block+k.size])
	clear(buf[:k.block+k.size])
}

// DeriveSecret appends ExpandWithLabel(secret, label, "", Nh), RFC 9420 §8.
func (s *Suite) DeriveSecret(dst, secret []byte, label string) []byte {
	return s.ExpandWithLabel(dst, secret, label, nil, s.kdf.size)
}

// DeriveTreeSecret appends ExpandWithLabel(secret, label, generation, n),
// RFC 9420 §9.1.
func (s *Suite) DeriveTreeSecret(dst, secret []byte, label string, generation uint32, n int) []byte {
	var context [4]byte
	binary.BigEndian.PutUint32(context[:], generation)
	return s.ExpandWithLabel(dst, secret, label, context[:], n)
}

// MAC appends HMAC(key, the concatenated parts): Nh octets.
func (s *Suite) MAC(dst, key []byte, parts ...[]byte) []byte { return s.kdf.MAC(dst, key, parts...) }

// CheckMAC tells in constant time whether tag is the MAC of the parts.
func (s *Suite) CheckMAC(key, tag []byte, parts ...[]byte) bool {
	var out Digest
	s.kdf.hmac(&out, key, total(parts), parts)
	ok := subtle.ConstantTimeCompare(out[:s.kdf.size], tag) == 1
	clear(out[:])
	return ok
}

// RefHash appends the hash of RefHashInput, RFC 9420 §5.2: label is complete,
// such as "MLS 1.0 KeyPackage Reference".
func (s *Suite) RefHash(dst []byte, label string, value []byte) []byte {
	var room [128]byte
	head := appendLength(room[:0], len(label))
	head = append(head, label...)
	head = appendLength(head, len(value))
	return s.kdf.Hash(dst, head, value)
}
