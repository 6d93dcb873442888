package secret

import (
	"github.com/isthmus-chat/isthmus/mls/internal/codec"
	"github.com/isthmus-chat/isthmus/mls/internal/suite"
)

// MaxPSKs is how many pre-shared keys one commit can inject: PSKLabel counts
// them with 16 bits, RFC 9420 §8.4.
const MaxPSKs = 1<<16 - 1

// zeros is the "0" of the diagrams of RFC 9420 §8; nothing writes to it.
var zeros [suite.MaxHash]byte

// Epoch holds what RFC 9420 §8 derives from an epoch secret, each Nh octets.
// AppExport is the application_export_secret of mls-extensions. The fields
// share one array; a field may be wiped as soon as it is used up.
type Epoch struct {
	SenderData, Encryption, Exporter, External, Confirmation []byte
	Membership, Resumption, Authenticator, Init, AppExport   []byte
}

// epochLabels are the labels of RFC 9420 §8, in the order of Epoch.fields.
var epochLabels = [...]string{
	"sender data", "encryption", "exporter", "external", "confirm",
	"membership", "resumption", "authentication", "init", "application_export",
}

func (e *Epoch) fields() [len(epochLabels)]*[]byte {
	return [...]*[]byte{
		&e.SenderData, &e.Encryption, &e.Exporter, &e.External, &e.Confirmation,
		&e.Membership, &e.Resumption, &e.Authenticator, &e.Init, &e.AppExport,
	}
}

// Wipe overwrites all secrets of the epoch; the fields become nil.
func (e *Epoch) Wipe() {
	for _, f := range e.fields() {
		Wipe(*f)
		*f = nil
	}
}

// orZero is b, or Nh zeros if b is empty.
func orZero(s *suite.Suite, b []byte) []byte {
	if len(b) == 0 {
		return zeros[:s.HashSize()]
	}
	return b
}

// Joiner returns the joiner_secret, Nh octets, RFC 9420 §8. An empty
// commitSecret stands for zeros: a commit without a path.
func Joiner(s *suite.Suite, initSecret, commitSecret, groupContext []byte) []byte {
	var buf [suite.MaxHash]byte
	mixed := s.Extract(buf[:0], initSecret, orZero(s, commitSecret))
	joiner := s.ExpandWithLabel(nil, mixed, "joiner", groupContext, s.HashSize())
	Wipe(mixed)
	return joiner
}

// Welcome returns the welcome_secret, Nh octets, RFC 9420 §8. An empty psk
// stands for zeros.
func Welcome(s *suite.Suite, joiner, psk []byte) []byte {
	var buf [suite.MaxHash]byte
	member := s.Extract(buf[:0], joiner, orZero(s, psk))
	welcome := s.DeriveSecret(nil, member, "welcome")
	Wipe(member)
	return welcome
}

// Derive returns the secrets of the epoch that groupContext describes, RFC
// 9420 §8. psk is what PSK returned; empty stands for zeros. The epoch secret
// itself is wiped before Derive returns.
func Derive(s *suite.Suite, joiner, psk, groupContext []byte) *Epoch {
	var memberBuf, epochBuf [suite.MaxHash]byte
	n := s.HashSize()
	member := s.Extract(memberBuf[:0], joiner, orZero(s, psk))
	epoch := s.ExpandWithLabel(epochBuf[:0], member, "epoch", groupContext, n)
	Wipe(member)
	e := new(Epoch)
	all := make([]byte, n*len(epochLabels))
	for i, f := range e.fields() {
		*f = s.DeriveSecret(all[i*n:i*n:i*n+n], epoch, epochLabels[i])
	}
	Wipe(epoch)
	return e
}

// WelcomeKey returns the AEAD key (Nk octets) and nonce (Nn octets) of the
// encrypted GroupInfo of a Welcome, RFC 9420 §12.4.3.1.
func WelcomeKey(s *suite.Suite, welcome []byte) (key, nonce []byte) {
	return s.ExpandWithLabel(nil, welcome, "key", nil, s.KeySize()),
		s.ExpandWithLabel(nil, welcome, "nonce", nil, s.NonceSize())
}

// PSK returns the psk_secret, Nh octets, RFC 9420 §8.4: ids are serialised
// PreSharedKeyID structs, values the keys in the same order. None gives
// zeros. It fails with ErrPSKs, and never returns a shorter chain.
func PSK(s *suite.Suite, ids, values [][]byte) ([]byte, error) {
	if len(ids) != len(values) || len(ids) > MaxPSKs {
		return nil, ErrPSKs
	}
	n := s.HashSize()
	psk := make([]byte, n)
	var extractBuf, inputBuf, nextBuf [suite.MaxHash]byte
	var label []byte
	for i, id := range ids {
		label = codec.Uint16(append(label[:0], id...), uint16(i))
		label = codec.Uint16(label, uint16(len(ids)))
		extracted := s.Extract(extractBuf[:0], zeros[:n], values[i])
		input := s.ExpandWithLabel(inputBuf[:0], extracted, "derived psk", label, n)
		next := s.Extract(nextBuf[:0], input, psk)
		copy(psk, next)
		Wipe(extracted, input, next)
	}
	return psk, nil
}

// Export returns n octets of MLS-Exporter(label, context), RFC 9420 §8.5. It
// fails with ErrLength if n is negative or more than the KDF can give.
func Export(s *suite.Suite, exporter []byte, label string, context []byte, n int) ([]byte, error) {
	if n < 0 || n > s.MaxExpand() {
		return nil, ErrLength
	}
	var secretBuf, hashBuf [suite.MaxHash]byte
	derived := s.DeriveSecret(secretBuf[:0], exporter, label)
	exported := s.ExpandWithLabel(nil, derived, "exported", s.Hash(hashBuf[:0], context), n)
	Wipe(derived)
	return exported, nil
}

// SenderDataKey returns the AEAD key (Nk octets) and nonce (Nn octets) of the
// encrypted sender data that goes with ciphertext, RFC 9420 §6.3.2. Both are
// appended to dst, so that a buffer with room for them costs no allocation.
func SenderDataKey(dst []byte, s *suite.Suite, senderData, ciphertext []byte) (key, nonce []byte) {
	sample := ciphertext[:min(len(ciphertext), s.HashSize())]
	from, middle := len(dst), len(dst)+s.KeySize()
	dst = s.ExpandWithLabel(dst, senderData, "key", sample, s.KeySize())
	dst = s.ExpandWithLabel(dst, senderData, "nonce", sample, s.NonceSize())
	return dst[from:middle:middle], dst[middle:]
}
