// Package identity says who a device, a user and a homeserver are (PROTOCOL §2):
// device records, the homeservers' attestations for them, homeserver records
// with pinned key rotation, links between the devices of one user, proofs of
// equivocation, the operator's block list, and words to compare by voice.
//
// What is signed is CBOR, kept as it was received, with a detached signature; a
// document that travels is the CBOR array [bytes, signature]. Nothing is encoded
// anew to be verified. A Signed… value comes from Sign… or Parse…, which have
// checked it; one that is put together by hand has been checked by nobody.
//
// The package is pure: times are Unix seconds that the caller passes in, and
// every refusal wraps one of the errors below.
package identity

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"slices"
)

// The reasons for a refusal; errors.Is finds them in whatever is returned.
var (
	ErrMalformed    = errors.New("identity: malformed")                       // not what the format allows
	ErrSignature    = errors.New("identity: bad signature")                   // not signed by whom it says
	ErrExpired      = errors.New("identity: not in force at this time")       // too early or too late
	ErrVersion      = errors.New("identity: versions are missing in between") // fetch them, then try again
	ErrEquivocation = errors.New("identity: two truths told")                 // a proof against a device
	ErrChain        = errors.New("identity: homeserver's chain is broken")    // an alarm, never accepted
	ErrUnknownKey   = errors.New("identity: unknown key")                     // nobody we know holds it
	ErrRevoked      = errors.New("identity: revoked")                         // by the device or its homeserver
	ErrBlocked      = errors.New("identity: blocked domain")                  // by our operator
	ErrMismatch     = errors.New("identity: documents do not belong together")
)

// Labels of what is signed here. No label holds a zero octet, and none begins
// like an MLS signature (RFC 9420 §5.1.2), so that a device may use one key for both.
const (
	labelRecord      = "isthmus device record 1"
	labelAttestation = "isthmus attestation 1"
	labelHomeserver  = "isthmus homeserver record 1"
)

// Skew is how many seconds before its NotBefore something counts as in force:
// what one homeserver signs now, another with a slower clock must not refuse.
const Skew = 300

// Sign returns Ed25519(key, label || 0x00 || SHA-256(part)…), PROTOCOL's form of
// every signature. The number of parts is fixed by the label.
func Sign(key ed25519.PrivateKey, label string, parts ...[]byte) []byte {
	return ed25519.Sign(key, signedForm(label, parts))
}

// Verify reports whether sig is what Sign made for the same label and parts.
// A key or signature of a wrong length is a bad signature, not a panic.
func Verify(pub ed25519.PublicKey, label string, sig []byte, parts ...[]byte) bool {
	return len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, signedForm(label, parts), sig)
}

func signedForm(label string, parts [][]byte) []byte {
	m := append(make([]byte, 0, len(label)+1+len(parts)*sha256.Size), label...)
	m = append(m, 0)
	for _, p := range parts {
		h := sha256.Sum256(p)
		m = append(m, h[:]...)
	}
	return m
}

// base32lower is RFC 4648 §6 in lower case without padding: safe in URIs,
// host names and file names.
var base32lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// idLength is that of a device ID: 130 bits, so that nobody finds a second key
// for one.
const idLength = 26

// DeviceID returns base32lower(SHA-256(key))[:26], the device's name everywhere
// (PROTOCOL §1). A device that changes its key is another device.
func DeviceID(key ed25519.PublicKey) string {
	h := sha256.Sum256(key)
	return base32lower.EncodeToString(h[:])[:idLength]
}

func isDeviceID(s string) bool {
	if len(s) != idLength {
		return false
	}
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '2' || c > '7') {
			return false
		}
	}
	return true
}

// weakOrdinates are the y coordinates, little endian and without the sign bit,
// of the points of order 8.
var weakOrdinates = [...][32]byte{
	{0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0,
		0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05},
	{0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f,
		0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a},
}

// checkKey refuses public keys that are not 32 octets; those of small order, for
// which anybody can sign; and those whose y coordinate is not reduced, because a
// second spelling of one point would be a second device.
func checkKey(key ed25519.PublicKey) error {
	if len(key) != ed25519.PublicKeySize {
		return fmt.Errorf("%w: a key of %d octets", ErrMalformed, len(key))
	}
	y := [32]byte(key)
	y[31] &= 0x7f
	zeroOrOne := y[0] <= 1 && bytes.Count(y[1:], []byte{0}) == 31
	minusOneOrMore := y[0] >= 0xec && bytes.Count(y[1:31], []byte{0xff}) == 30 && y[31] == 0x7f
	if zeroOrOne || minusOneOrMore || slices.Contains(weakOrdinates[:], y) {
		return fmt.Errorf("%w: a key of small order, or not reduced", ErrMalformed)
	}
	return nil
}

// publicOf returns the public half of key, or ErrMalformed where Sign would panic.
func publicOf(key ed25519.PrivateKey) (ed25519.PublicKey, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("%w: a private key of %d octets", ErrMalformed, len(key))
	}
	return key.Public().(ed25519.PublicKey), nil
}

// checkValidity refuses a period that is empty or before 1970.
func checkValidity(notBefore, notAfter int64) error {
	if notBefore < 0 || notAfter <= notBefore {
		return fmt.Errorf("%w: valid from %d to %d", ErrMalformed, notBefore, notAfter)
	}
	return nil
}

// inForce reports whether now lies in [notBefore-Skew, notAfter).
func inForce(notBefore, notAfter, now int64) bool {
	return now >= notBefore-Skew && now < notAfter
}
