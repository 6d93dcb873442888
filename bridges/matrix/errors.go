package matrix

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// matrixError says a refusal in the words of Matrix (client-server API v1.19,
// §standard-error-response; the table in docs/ARCHITECTURE.md).
func matrixError(c core.Code) (status int, errcode string) {
	switch c {
	case core.Invalid:
		return http.StatusBadRequest, "M_BAD_JSON"
	case core.Unauthenticated:
		return http.StatusUnauthorized, "M_UNKNOWN_TOKEN"
	case core.Denied:
		return http.StatusForbidden, "M_FORBIDDEN"
	case core.NotFound:
		return http.StatusNotFound, "M_NOT_FOUND"
	case core.Conflict, core.StaleEpoch:
		return http.StatusConflict, "M_CONFLICT"
	case core.TooLarge:
		return http.StatusRequestEntityTooLarge, "M_TOO_LARGE"
	case core.Limited:
		return http.StatusTooManyRequests, "M_LIMIT_EXCEEDED"
	case core.Unavailable:
		return http.StatusServiceUnavailable, "M_UNKNOWN"
	case core.Unsupported:
		return http.StatusNotFound, "M_UNRECOGNIZED"
	}
	return http.StatusInternalServerError, "M_UNKNOWN"
}

// writeError answers with err.
func writeError(w http.ResponseWriter, err error) {
	status, errcode := matrixError(core.CodeOf(err))
	writeJSON(w, status, answer{ErrCode: errcode, Error: core.TextOf(err)})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) // a client that went away needs no answer
}

// An answer is a standard error of Matrix.
type answer struct {
	ErrCode      string  `json:"errcode"`
	Error        string  `json:"error"`
	RetryAfterMS float64 `json:"retry_after_ms,omitempty"`
}

// An apiError is what the homeserver answered, for the few places that must
// look closer than at the code.
type apiError struct {
	status int
	answer
}

func (e *apiError) Error() string {
	return "homeserver answered " + strconv.Itoa(e.status) + " " + e.ErrCode
}

// refusal turns an answer of the homeserver into a core error. What does not
// speak Matrix (a proxy before a homeserver that is down) is Unavailable: its
// 404 says nothing about rooms.
func refusal(status int, header http.Header, body []byte, now time.Time) error {
	e := &apiError{status: status}
	if json.Unmarshal(body, &e.answer) != nil || e.ErrCode == "" {
		return &core.Error{Code: core.Unavailable, Text: "the Matrix homeserver is not reachable", RetryAfter: retryAfter(header, 0, now), Err: e}
	}
	wait := retryAfter(header, e.RetryAfterMS, now)
	wrap := func(c core.Code, text string) error {
		return &core.Error{Code: c, Text: text, RetryAfter: wait, Err: e}
	}
	switch {
	case status == http.StatusTooManyRequests || e.ErrCode == "M_LIMIT_EXCEEDED":
		return wrap(core.Limited, "the Matrix homeserver asks to slow down")
	case status >= 500:
		return wrap(core.Unavailable, "the Matrix homeserver has a fault")
	case status == http.StatusUnauthorized:
		wait = tokenRefused
		return wrap(core.Unavailable, "the Matrix homeserver does not know our token")
	case status == http.StatusForbidden:
		return wrap(core.Denied, "the Matrix homeserver does not allow it")
	case e.ErrCode == "M_UNRECOGNIZED" || status == http.StatusMethodNotAllowed:
		return wrap(core.Unsupported, "the Matrix homeserver cannot do it")
	case status == http.StatusNotFound:
		return wrap(core.NotFound, "the Matrix homeserver does not know it")
	case status == http.StatusRequestEntityTooLarge || e.ErrCode == "M_TOO_LARGE":
		return wrap(core.TooLarge, "too large for the Matrix homeserver")
	case status == http.StatusConflict || e.ErrCode == "M_USER_IN_USE" || e.ErrCode == "M_ROOM_IN_USE":
		return wrap(core.Conflict, "taken at the Matrix homeserver")
	}
	return wrap(core.Invalid, "the Matrix homeserver refused it")
}

// retryAfter reads Retry-After (seconds or a date, RFC 9110 §10.2.3), which
// Matrix prefers since v1.10, or retry_after_ms. The wait is at most an hour:
// a broken clock must not silence a link.
func retryAfter(h http.Header, ms float64, now time.Time) time.Duration {
	d := time.Duration(min(max(ms, 0), 3_600_000) * float64(time.Millisecond))
	if v := h.Get("Retry-After"); v != "" {
		if s, err := strconv.ParseUint(v, 10, 31); err == nil {
			d = max(d, time.Duration(s)*time.Second) // the header is rounded, the field is not
		} else if at, err := http.ParseTime(v); err == nil {
			d = at.Sub(now)
		}
	}
	return min(max(d, 0), time.Hour)
}
