package core

import (
	"errors"
	"fmt"
	"time"
)

// A Code is why something was refused. There is one set; every protocol has one
// function that says it in its own words, and a test that ranges over Codes.
type Code uint8

// The codes, in the order of the table in docs/ARCHITECTURE.md.
const (
	Internal        Code = iota // a fault of ours
	Invalid                     // malformed, or not allowed by a specification
	Unauthenticated             // who are you?
	Denied                      // known, and not allowed
	NotFound                    // no such room, user, event, account
	Conflict                    // the name is taken, or the state has moved on
	StaleEpoch                  // another commit ended that epoch (RFC 9420 §14)
	TooLarge                    // over a named bound
	Limited                     // too often; Error.RetryAfter says when
	Unavailable                 // no quorum, no disk, stopping: try later
	Unsupported                 // we know what it is and do not do it
	codeEnd
)

var codeNames = [...]string{"internal", "invalid", "unauthenticated", "denied", "not found", "conflict",
	"stale epoch", "too large", "limited", "unavailable", "unsupported"}

func (c Code) String() string {
	if int(c) < len(codeNames) {
		return codeNames[c]
	}
	return "internal"
}

// Codes returns every code, for tests that range over the set.
func Codes() []Code {
	cs := make([]Code, 0, codeEnd)
	for c := Internal; c < codeEnd; c++ {
		cs = append(cs, c)
	}
	return cs
}

// An Error is a refusal with its code. Its text is safe to show to the person
// refused: it never holds a body, a key or a name of somebody else.
type Error struct {
	Code       Code
	Text       string
	RetryAfter time.Duration // with Limited and Unavailable; 0 if unknown
	Err        error         // the cause, for the log
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Code.String() + ": " + e.Text + ": " + e.Err.Error()
	}
	return e.Code.String() + ": " + e.Text
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf returns an *Error. A %w in format keeps the cause.
func Errorf(c Code, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: c, Text: err.Error(), Err: errors.Unwrap(err)}
}

// CodeOf returns the code of the first *Error that err wraps, else Internal.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return Internal
}

// TextOf returns what may be shown to the person refused.
func TextOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok && e.Code != Internal {
		return e.Text
	}
	return "internal error"
}

// Temporary reports whether the same input may succeed later: Limited and
// Unavailable, and Internal, which nobody has judged yet.
func Temporary(err error) bool {
	switch CodeOf(err) {
	case Limited, Unavailable, Internal:
		return true
	}
	return false
}
