package client

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"io"
	"strings"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/crypto/argon2"

	"github.com/isthmus-chat/isthmus/core"
)

// sealBucket holds the rows of a sealed KV in a core.Store.
const sealBucket = "client"

// Argon2id (RFC 9106 §4, second recommended option), and what a header may ask
// for at most: who changes the file must not make us take all memory.
const (
	argonTime, argonMemory, argonLanes = 3, 64 << 10, 4 // KiB
	maxArgonTime, maxArgonMemory       = 16, 1 << 20
)

// A Secret opens a sealed store: a passphrase, or the 32 octets of a key file.
type Secret struct {
	Passphrase []byte
	Key        []byte
}

// sealHeader is kept in the clear: how the master key is wrapped.
type sealHeader struct {
	Salt    []byte `cbor:"1,keyasint"`
	Time    uint32 `cbor:"2,keyasint"` // 0: a key file
	Memory  uint32 `cbor:"3,keyasint"`
	Lanes   uint8  `cbor:"4,keyasint"`
	Wrapped []byte `cbor:"5,keyasint"` // nonce and AES-256-GCM of the master key
}

// sealed is a KV whose values are AES-256-GCM under a random master key, bound to
// their rows, and whose tables are named by HMAC-SHA-256. What can be seen is how
// many rows there are, their sizes, and their numbers.
type sealed struct {
	store core.Store
	rand  io.Reader
	aead  cipher.AEAD
	names []byte // HMAC key
}

// Seal opens the encrypted KV in store, or makes one if there is none. rand is the
// source of keys and nonces. A wrong secret is Denied.
func Seal(ctx context.Context, store core.Store, secret Secret, rand io.Reader) (KV, error) {
	var master []byte
	err := store.Update(ctx, func(tx core.Tx) error {
		b, err := tx.Value(sealBucket, "header")
		if err != nil && core.CodeOf(err) != core.NotFound {
			return err
		}
		if err == nil {
			master, err = openHeader(b, secret)
			return err
		}
		if b, master, err = newHeader(secret, rand); err != nil {
			return err
		}
		return tx.PutValue(sealBucket, "header", b)
	})
	if err != nil {
		return nil, err
	}
	aead, err := newAEAD(derive(master, "values"))
	return &sealed{store, rand, aead, derive(master, "names")}, err
}

func newHeader(secret Secret, rand io.Reader) (header, master []byte, err error) {
	seed := make([]byte, 32+32+12) // master key, salt, nonce
	if _, err := io.ReadFull(rand, seed); err != nil {
		return nil, nil, core.Errorf(core.Internal, "randomness: %w", err)
	}
	h := sealHeader{Salt: seed[32:64]}
	if len(secret.Key) == 0 {
		h.Time, h.Memory, h.Lanes = argonTime, argonMemory, argonLanes
	}
	aead, err := h.open(secret)
	if err != nil {
		return nil, nil, err
	}
	h.Wrapped = aead.Seal(seed[64:], seed[64:], seed[:32], nil)
	b, err := cbor.Marshal(h)
	return b, seed[:32:32], err
}

func openHeader(b []byte, secret Secret) ([]byte, error) {
	var h sealHeader
	if err := cbor.Unmarshal(b, &h); err != nil {
		return nil, core.Errorf(core.Internal, "the store's header: %w", err)
	}
	aead, err := h.open(secret)
	if err != nil {
		return nil, err
	}
	n := aead.NonceSize()
	if len(h.Wrapped) < n {
		return nil, core.Errorf(core.Internal, "the store's header is cut short")
	}
	master, err := aead.Open(nil, h.Wrapped[:n], h.Wrapped[n:], nil)
	if err != nil {
		return nil, core.Errorf(core.Denied, "the passphrase or key file is not that of the store")
	}
	return master, nil
}

// open derives what wraps the master key.
func (h *sealHeader) open(secret Secret) (cipher.AEAD, error) {
	switch {
	case (h.Time == 0) != (len(secret.Passphrase) == 0) || (h.Time == 0) != (len(secret.Key) == 32):
		return nil, core.Errorf(core.Denied, "the store is opened by %s", map[bool]string{true: "a key file of 32 octets", false: "a passphrase"}[h.Time == 0])
	case h.Time == 0:
		return newAEAD(derive(secret.Key, string(h.Salt)))
	case h.Time > maxArgonTime || h.Memory > maxArgonMemory || h.Lanes == 0:
		return nil, core.Errorf(core.TooLarge, "the store's header asks for too much work")
	}
	return newAEAD(argon2.IDKey(secret.Passphrase, h.Salt, h.Time, h.Memory, h.Lanes, 32))
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

func derive(key []byte, label string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("isthmus client\x00" + label))
	return m.Sum(nil)
}

// table is the prefix of a table's keys.
func (s *sealed) table(name string) string {
	m := hmac.New(sha256.New, s.names)
	m.Write([]byte(name))
	return core.Base32.EncodeToString(m.Sum(nil)[:20]) + "/"
}

// number sorts as n does.
func number(n uint64) string {
	const digits = "0123456789abcdef"
	var b [16]byte
	for i := range b {
		b[15-i] = digits[n>>(4*i)&15]
	}
	return string(b[:])
}

func parseNumber(s string) (n uint64) {
	for i := range len(s) {
		n = n<<4 | uint64(strings.IndexByte("0123456789abcdef", s[i])&15)
	}
	return n
}

func (s *sealed) Get(ctx context.Context, table string, n uint64) (data []byte, err error) {
	key := s.table(table) + number(n)
	err = s.store.View(ctx, func(r core.Reader) error {
		b, err := r.Value(sealBucket, key)
		if err != nil {
			if core.CodeOf(err) == core.NotFound {
				return nil
			}
			return err
		}
		data, err = s.open(key, b)
		return err
	})
	return data, err
}

func (s *sealed) Rows(ctx context.Context, table string, from uint64, limit int) (rows []Row, err error) {
	prefix := s.table(table)
	after := prefix
	if from > 0 {
		after += number(from - 1)
	}
	err = s.store.View(ctx, func(r core.Reader) error {
		values, err := r.Values(sealBucket, after, limit)
		if err != nil {
			return err
		}
		for _, v := range values {
			n, ok := strings.CutPrefix(v.Key, prefix)
			if !ok {
				break
			}
			data, err := s.open(v.Key, v.Data)
			if err != nil {
				return err
			}
			rows = append(rows, Row{table, parseNumber(n), data})
		}
		return nil
	})
	return rows, err
}

func (s *sealed) Write(ctx context.Context, rows []Row) error {
	sealed := make([]core.Value, len(rows))
	for i, row := range rows {
		sealed[i].Key = s.table(row.Table) + number(row.N)
		if row.Data == nil {
			continue
		}
		nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(row.Data)+s.aead.Overhead())
		if _, err := io.ReadFull(s.rand, nonce); err != nil {
			return core.Errorf(core.Internal, "randomness: %w", err)
		}
		sealed[i].Data = s.aead.Seal(nonce, nonce, row.Data, []byte(sealed[i].Key))
	}
	return s.store.Update(ctx, func(tx core.Tx) error {
		for _, v := range sealed {
			var err error
			if v.Data == nil {
				err = tx.DropValue(sealBucket, v.Key)
			} else {
				err = tx.PutValue(sealBucket, v.Key, v.Data)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *sealed) open(key string, b []byte) ([]byte, error) {
	n := s.aead.NonceSize()
	if len(b) < n {
		return nil, core.Errorf(core.Internal, "a stored row is cut short")
	}
	data, err := s.aead.Open([]byte{}, b[:n], b[n:], []byte(key)) // not nil: an empty row is a row
	if err != nil {
		return nil, core.Errorf(core.Internal, "a stored row was changed")
	}
	return data, nil
}
