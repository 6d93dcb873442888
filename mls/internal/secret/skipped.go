package secret

import "slices"

// skipped holds the keys of generations that were passed over, RFC 9420 §9.2:
// one entry of key and nonce for each generation, in ascending order. It
// holds no ratchet secret, so it gives nothing but the messages it is for.
type skipped struct {
	generations []uint32
	keys        []byte
}

func (k *skipped) len() int {
	if k == nil {
		return 0
	}
	return len(k.generations)
}

// find returns the position of a generation, or -1.
func (k *skipped) find(generation uint32) int {
	if k != nil {
		if i, ok := slices.BinarySearch(k.generations, generation); ok {
			return i
		}
	}
	return -1
}

// key is the entry at position i, size octets.
func (k *skipped) key(i, size int) []byte { return k.keys[i*size : (i+1)*size] }

// reserve makes room for n more entries, and for some to come. The old array
// is wiped, which append would not do.
func (k *skipped) reserve(n, size int) {
	have := len(k.generations)
	if have+n <= cap(k.generations) && (have+n)*size <= cap(k.keys) {
		return
	}
	room := have + max(n, have/2)
	generations := make([]uint32, have, room)
	keys := make([]byte, have*size, room*size)
	copy(generations, k.generations)
	copy(keys, k.keys)
	Wipe(k.keys)
	k.generations, k.keys = generations, keys
}

// add appends an entry of size octets and returns it to be filled. The
// generation is higher than all others, and reserve was called.
func (k *skipped) add(generation uint32, size int) []byte {
	n := len(k.keys)
	k.generations = append(k.generations, generation)
	k.keys = k.keys[:n+size]
	return k.keys[n : n+size : n+size]
}

// drop forgets the n oldest entries.
func (k *skipped) drop(n, size int) {
	Wipe(k.keys[:n*size])
	k.generations, k.keys = k.generations[n:], k.keys[n*size:]
}

// remove forgets the entry at position i.
func (k *skipped) remove(i, size int) {
	if i == 0 {
		k.drop(1, size)
		return
	}
	k.generations = slices.Delete(k.generations, i, i+1)
	copy(k.keys[i*size:], k.keys[(i+1)*size:])
	last := len(k.keys) - size
	Wipe(k.keys[last:])
	k.keys = k.keys[:last]
}

func (k *skipped) wipe() {
	if k != nil {
		Wipe(k.keys)
		*k = skipped{}
	}
}
