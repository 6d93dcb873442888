package main

import (
	"errors"
	"time"

	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
)

// A wireError is an error as JSON: on the control socket and with --json.
type wireError struct {
	Code       string        `json:"code"`
	Text       string        `json:"text"`
	RetryAfter time.Duration `json:"retry_after_ns,omitempty"`
}

func wireErrorOf(err error) wireError {
	w := wireError{Code: core.CodeOf(err).String(), Text: explain(err)}
	if e, ok := errors.AsType[*core.Error](err); ok {
		w.RetryAfter = e.RetryAfter
	}
	if _, ok := errors.AsType[*configs.Error](err); ok {
		w.Code = "config"
	}
	return w
}

// err is the way back: an error with the same code and text.
func (w wireError) err() error {
	return &core.Error{Code: core.CodeNamed(w.Code), Text: w.Text, RetryAfter: w.RetryAfter}
}
