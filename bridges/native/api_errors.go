package native

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// statusOf says a refusal in the words of HTTP (the table in docs/ARCHITECTURE.md).
func statusOf(c core.Code) int {
	switch c {
	case core.Invalid:
		return http.StatusBadRequest
	case core.Unauthenticated:
		return http.StatusUnauthorized
	case core.Denied:
		return http.StatusForbidden
	case core.NotFound:
		return http.StatusNotFound
	case core.Conflict, core.StaleEpoch:
		return http.StatusConflict
	case core.TooLarge:
		return http.StatusRequestEntityTooLarge
	case core.Limited:
		return http.StatusTooManyRequests
	case core.Unavailable:
		return http.StatusServiceUnavailable
	case core.Unsupported:
		return http.StatusNotImplemented
	}
	return http.StatusInternalServerError
}

// A stale error is a StaleEpoch that knows which commit won.
type stale struct {
	error
	epoch  uint64 // that the room is in
	winner []byte // MLSMessage; nil if it is not known any more
}

func (s *stale) Unwrap() error { return s.error }

// wireError says err as the body of an answer does. A fault of ours is told
// without its cause.
func wireError(err error) *wire.Error {
	e := &wire.Error{Code: core.CodeOf(err).String(), Reason: string(core.ReasonOf(err)), Text: core.TextOf(err)}
	if ce, ok := errors.AsType[*core.Error](err); ok {
		e.RetryAfter, e.Epoch = ce.RetryAfter.Milliseconds(), ce.Epoch
	}
	if s, ok := errors.AsType[*stale](err); ok {
		e.Epoch, e.Winner = s.epoch, s.winner
	}
	return e
}

// writeError answers with err.
func writeError(w http.ResponseWriter, r *http.Request, err error) {
	e := wireError(err)
	if wait := time.Duration(e.RetryAfter) * time.Millisecond; wait > 0 {
		w.Header().Set("Retry-After", strconv.FormatInt(int64((wait+time.Second-1)/time.Second), 10))
	}
	write(w, accepted(r), statusOf(core.CodeOf(err)), e)
}
