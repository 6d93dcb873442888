package native

import (
	"context"
	"crypto/sha256"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// What the hash of a join code costs, which is a passphrase where people choose it:
// argon2id with the least memory of OWASP's password storage cheat sheet.
const (
	maxCode    = 255      // octets of a join code
	codeMemory = 19 << 10 // KiB
	codePasses = 2
	codeRate   = 1 // each second for one user, or one host of homeservers
	codeBurst  = 60
)

// codes hashes join codes: one at a time, counted before, and not in the engine, so
// that who guesses takes one processor and 19 MiB at most, and nobody waits for it
// who has no code.
type codes struct {
	asked *buckets
	turn  chan struct{}
	now   func() time.Time
}

func newCodes(now func() time.Time) *codes {
	return &codes{asked: newBuckets(codeRate, codeBurst), turn: make(chan struct{}, 1), now: now}
}

// hash is how a join code is kept (PROTOCOL §7); who asks pays for it. The salt is of
// the room, because a code is looked up among all of its room.
func (s *codes) hash(ctx context.Context, who string, room core.RoomID, code string) (out [32]byte, err error) {
	if code == "" || len(code) > maxCode {
		return out, core.Errorf(core.Invalid, "a join code has 1 to %d octets", maxCode)
	}
	if err := s.asked.take(who, 1, s.now()); err != nil {
		return out, err
	}
	select {
	case s.turn <- struct{}{}:
		defer func() { <-s.turn }()
	case <-ctx.Done():
		return out, &core.Error{Code: core.Unavailable, Text: "too many join codes are tried at the moment", RetryAfter: time.Second}
	}
	salt := sha256.Sum256([]byte("isthmus join code\x00" + string(room)))
	return [32]byte(argon2.IDKey([]byte(code), salt[:], codePasses, codeMemory, 1, uint32(len(out)))), nil
}

// lease takes a lease, with a join code only where none is given without.
func (s *codes) lease(ctx context.Context, gw bridges.Gateway, who string, in core.LeaseGroupInfo, code string) (*core.GroupInfoLease, error) {
	out, err := gw.Do(ctx, in)
	if code != "" && core.ReasonOf(err) == core.InviteOnly {
		if in.Code, err = s.hash(ctx, who, in.Room, code); err == nil {
			out, err = gw.Do(ctx, in)
		}
	}
	return out.Lease, err
}
