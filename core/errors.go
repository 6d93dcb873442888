package core

import (
	"errors"
	"fmt"
	"slices"
	"strings"
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

// CodeNamed is the code whose String is name, as other homeservers and devices are
// told it; Internal if there is none.
func CodeNamed(name string) Code { return Code(max(slices.Index(codeNames[:], name), 0)) }

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
	Reason     Reason // which rule refused, where a protocol has a word of its own for it
	Text       string
	RetryAfter time.Duration // with Limited and Unavailable; 0 if unknown
	Epoch      uint64        // with StaleEpoch: the one that the room is in
	Missing    string        // with Unavailable: the homeserver whose record would help
	Err        error         // the cause, for the log
}

func (e *Error) Error() string {
	if e.Err != nil {
		return e.Code.String() + ": " + e.Text + ": " + e.Err.Error()
	}
	return e.Code.String() + ": " + e.Text
}

func (e *Error) Unwrap() error { return e.Err }

// A Reason says which rule of a room refused. Protocols that have a word for it
// (IRC's 471 to 477) look here; all others need only the Code.
type Reason string

// The reasons. A NotFound has one where it is not the room that is missing.
const (
	NotJoined     Reason = "not joined"     // the sender is not in the room
	AlreadyJoined Reason = "already joined" // the user invited is in the room
	NoSuchUser    Reason = "no such user"   // the user named is not in the room
	Muted         Reason = "moderated"      // the room is moderated, the sender has no voice
	Banned        Reason = "banned"
	InviteOnly    Reason = "invite only"
	BadKey        Reason = "bad key"
	Full          Reason = "full"
	NeedAccount   Reason = "need account"
	NotOperator   Reason = "not operator" // the sender's role is too low
	ListFull      Reason = "list full"
	// OutcomeUnknown: the store went away in the middle of a commit. It may have
	// taken effect: whoever tries again by itself could do it twice.
	OutcomeUnknown Reason = "outcome unknown"
	Unproven       Reason = "unproven" // what a homeserver shows has no valid certificate
	IsGroup        Reason = "is group" // end-to-end encrypted: not for networks that cannot carry it
)

// Refuse returns an *Error with its reason.
func Refuse(c Code, r Reason, text string) error { return &Error{Code: c, Reason: r, Text: text} }

// ReasonOf returns the reason of the first *Error that err wraps.
func ReasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

// Errorf returns an *Error. A %w in format keeps the cause; of a cause that is
// an *Error the text shows what may be shown, and not what caused it in turn.
func Errorf(c Code, format string, args ...any) error {
	e := &Error{Code: c, Err: errors.Unwrap(fmt.Errorf(format, args...))}
	shown := slices.Clone(args)
	for i, a := range shown {
		if err, ok := a.(error); ok {
			if inner, ok := errors.AsType[*Error](err); ok {
				shown[i] = inner.Text
			}
		}
	}
	e.Text = fmt.Sprintf(strings.ReplaceAll(format, "%w", "%v"), shown...)
	return e
}

// CodeOf returns the code of the first *Error that err wraps, else Internal: of nil
// too, so that any other code says that there is an error.
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
