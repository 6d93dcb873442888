// Package secret derives and deletes the secrets of an epoch: the key schedule
// (RFC 9420 §8), the secret tree with its ratchets (§9), the keys of sender
// data (§6.3.2), and the exporter tree of mls-extensions. It knows neither
// members nor messages.
//
// Deleting: every secret that is replaced or used up is overwritten with
// zeros in place, and tables of secrets are never grown by a copy that is left
// behind. Go cannot promise more. The runtime copies a goroutine's stack when
// it grows and does not clear the old one, registers are spilled, the standard
// library keeps hash states on the heap until they are collected, and a page
// may have been swapped or dumped. So a deleted secret is gone from this
// package's own memory, and soon, but not provably at once, from the process.
package secret

import (
	"fmt"
	"runtime"
)

// The rules that this package sees broken, by their numbers in docs/MLS.md.
const (
	RuleReplay    = 25  // a generation that was used already, RFC 9420 §9.2
	RuleTooFar    = 26  // a generation further ahead than the limit, RFC 9420 §15.3
	RuleExhausted = 27  // no generation left in the epoch, RFC 9420 §9.1
	RulePSKs      = 111 // psk_secret over index and count, RFC 9420 §8.4
	RuleExport    = 113 // length of an exported secret, RFC 9420 §8.5
)

// Error is a refusal of this package; compare with errors.Is or ==.
type Error struct {
	Rule int // one of the constants above; 0 for a caller's mistake or a damaged record
	What string
}

func (e *Error) Error() string { return e.What }

// What the package refuses. None of these changes any state.
var (
	// ErrReplay: the key was used and deleted, or it was skipped so long ago
	// that Limits.Stored pushed it out.
	ErrReplay = &Error{RuleReplay, "generation already used or no longer kept"}
	// ErrTooFar: more than Limits.Skip generations ahead of the last one.
	ErrTooFar = &Error{RuleTooFar, "generation too far ahead"}
	// ErrExhausted: generation 2^32-1, which is never used.
	ErrExhausted = &Error{RuleExhausted, "no generation left in this epoch"}
	// ErrLeaf: a leaf outside the tree; every leaf is, after Wipe.
	ErrLeaf = &Error{0, "leaf outside the secret tree"}
	// ErrRetired: a handshake key after RetireHandshake, or a content that does not exist.
	ErrRetired = &Error{0, "no ratchet for this content"}
	// ErrConsumed: the exported secret of this component was taken before.
	ErrConsumed = &Error{0, "exported secret already taken"}
	// ErrPSKs: more than MaxPSKs, or not as many values as identifiers.
	ErrPSKs = &Error{RulePSKs, "wrong number of pre-shared keys"}
	// ErrLength: an exported secret must have 0 to 255·Nh octets.
	ErrLength = &Error{RuleExport, "exported secret too long"}
	// ErrRecord: a serialised state that this package did not write.
	ErrRecord = &Error{0, "malformed secret state"}
)

// Wipe overwrites each slice with zeros, see the package comment for what
// that cannot promise.
func Wipe(b ...[]byte) {
	for _, s := range b {
		clear(s)
		runtime.KeepAlive(s)
	}
}

// redact prints nothing of a value that holds secrets, whatever the verb.
func redact(f fmt.State, name string) {
	// A failing writer is the printing caller's affair.
	_, _ = f.Write([]byte(name + "(secret)"))
}

// Format keeps the secrets out of logs.
func (e Epoch) Format(f fmt.State, _ rune) { redact(f, "Epoch") }

// Format keeps the secrets out of logs.
func (k Key) Format(f fmt.State, _ rune) { redact(f, "Key") }

// Format keeps the secrets out of logs.
func (r *Ratchets) Format(f fmt.State, _ rune) { redact(f, "Ratchets") }

// Format keeps the secrets out of logs.
func (t *ExporterTree) Format(f fmt.State, _ rune) { redact(f, "ExporterTree") }
