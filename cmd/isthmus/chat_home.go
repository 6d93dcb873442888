package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/client"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of what is asked of a homeserver and of what it may answer.
const (
	homeTimeout = 30 * time.Second // of a request, beyond what it waits for on purpose
	homeDial    = 10 * time.Second
	homeAnswer  = 64 << 20 // octets: the tree of a Group of 10,000 devices has 10 MiB
	homeHeader  = 64 << 10
	homeRefusal = 10 << 20         // octets of a refusal: the winner may be a large commit
	homePoll    = 50 * time.Second // the longest that a homeserver is asked to wait for news
	mediaCBOR   = "application/cbor"
)

// An httpHome is a homeserver as a device reaches it: the device API (PROTOCOL §9)
// over HTTP. Its methods may be called at the same time. Every error is a
// *core.Error; Unavailable if the homeserver does not answer.
type httpHome struct {
	base string // https://a.example, without a slash at its end
	http *http.Client

	mu    sync.Mutex
	token string
}

// newHTTPHome returns the homeserver at base; caFile has further roots to trust,
// "" for those of the system alone. Plain HTTP is for this machine only: a token
// that crosses a network in the clear is everybody's.
func newHTTPHome(base, caFile string) (*httpHome, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, core.Errorf(core.Invalid, "%q is not the address of a homeserver: https://a.example", base)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return nil, core.Errorf(core.Invalid, "%s is not on this machine: use https", base)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, core.Errorf(core.Invalid, "a homeserver's address begins with https, not %s", u.Scheme)
	}
	roots, err := rootsWith(caFile)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: homeDial}).DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13},
		TLSHandshakeTimeout:    homeDial,
		MaxResponseHeaderBytes: homeHeader,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
	}
	return &httpHome{base: strings.TrimRight(u.String(), "/"), http: &http.Client{
		Transport: t,
		// The API does not redirect, and a token follows no stranger.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func isLoopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// rootsWith returns the system's certificate authorities and those of file; nil
// (the system's) if file is "".
func rootsWith(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, core.Errorf(core.NotFound, "certificate authority: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, core.Errorf(core.Invalid, "%s has no certificate", file)
	}
	return pool, nil
}

// Authorize implements client.Home.
func (h *httpHome) Authorize(token string) {
	h.mu.Lock()
	h.token = token
	h.mu.Unlock()
}

// A homeCall is one request of the device API.
type homeCall struct {
	method, path string
	query        url.Values
	body         any           // nil: none
	wait         time.Duration // that the homeserver may take on purpose
	key          string        // Idempotency-Key
}

// roomPath is a path below a room: its URI is one escaped segment.
func roomPath(room core.RoomID, rest string) string {
	return "/v1/rooms/" + url.PathEscape(string(room)) + rest
}

// call makes a request and reads its answer into out, unless that is nil.
func (h *httpHome) call(ctx context.Context, c homeCall, out any) error {
	ctx, cancel := context.WithTimeout(ctx, homeTimeout+c.wait)
	defer cancel()
	q, err := h.request(ctx, c)
	if err != nil {
		return err
	}
	a, err := h.http.Do(q)
	if err != nil {
		return unreachable(err)
	}
	defer a.Body.Close()
	limit := int64(homeAnswer)
	if a.StatusCode >= 300 {
		limit = homeRefusal
	}
	text, err := io.ReadAll(io.LimitReader(a.Body, limit+1))
	switch {
	case err != nil:
		return unreachable(err)
	case int64(len(text)) > limit:
		return core.Errorf(core.TooLarge, "the homeserver's answer is over %d octets", limit)
	case a.StatusCode >= 300:
		return refusal(a, text)
	case out == nil || len(text) == 0:
		return nil
	}
	if err := decodeAnswer(a, text, out); err != nil {
		return core.Errorf(core.Internal, "the homeserver's answer cannot be read: %v", err)
	}
	return nil
}

func (h *httpHome) request(ctx context.Context, c homeCall) (*http.Request, error) {
	to := h.base + c.path
	if len(c.query) > 0 {
		to += "?" + c.query.Encode()
	}
	var body io.Reader
	if c.body != nil {
		b, err := cbor.Marshal(c.body)
		if err != nil {
			return nil, core.Errorf(core.Internal, "request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	q, err := http.NewRequestWithContext(ctx, c.method, to, body)
	if err != nil {
		return nil, core.Errorf(core.Invalid, "request: %w", err)
	}
	q.Header.Set("Accept", mediaCBOR)
	if c.body != nil {
		q.Header.Set("Content-Type", mediaCBOR)
	}
	if c.key != "" {
		q.Header.Set("Idempotency-Key", c.key)
	}
	h.mu.Lock()
	if h.token != "" {
		q.Header.Set("Authorization", "Bearer "+h.token)
	}
	h.mu.Unlock()
	return q, nil
}

func decodeAnswer(a *http.Response, text []byte, out any) error {
	if strings.HasPrefix(a.Header.Get("Content-Type"), mediaCBOR) {
		return homeCBOR.Unmarshal(text, out)
	}
	return json.Unmarshal(text, out)
}

// homeCBOR bounds what a homeserver may make us build; fields that a newer one
// adds are no error.
var homeCBOR = func() cbor.DecMode {
	m, err := cbor.DecOptions{DupMapKey: cbor.DupMapKeyEnforcedAPF, IndefLength: cbor.IndefLengthForbidden,
		MaxNestedLevels: 16, MaxArrayElements: 1 << 17, MaxMapPairs: 1 << 14}.DecMode()
	if err != nil {
		panic(err) // constants
	}
	return m
}()

// unreachable says why there is no answer. A certificate that does not fit is
// said as what it is: it is no matter of waiting.
func unreachable(err error) error {
	var bad *tls.CertificateVerificationError
	if errors.As(err, &bad) {
		return &core.Error{Code: core.Denied, Text: "the homeserver's certificate is not to be trusted: " + bad.Err.Error(), Err: err}
	}
	text := "the homeserver does not answer"
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
		text += " in time"
	}
	return &core.Error{Code: core.Unavailable, Text: text, Err: err}
}

// statusCodes are what a status means when the body does not say, for instance
// because a proxy answered.
var statusCodes = map[int]core.Code{
	http.StatusBadRequest: core.Invalid, http.StatusUnauthorized: core.Unauthenticated, http.StatusForbidden: core.Denied,
	http.StatusNotFound: core.NotFound, http.StatusConflict: core.Conflict, http.StatusRequestEntityTooLarge: core.TooLarge,
	http.StatusTooManyRequests: core.Limited, http.StatusNotImplemented: core.Unsupported, http.StatusMethodNotAllowed: core.Unsupported,
	http.StatusBadGateway: core.Unavailable, http.StatusServiceUnavailable: core.Unavailable, http.StatusGatewayTimeout: core.Unavailable,
}

// refusal reads why the homeserver refused.
func refusal(a *http.Response, text []byte) error {
	var w wire.Error
	if decodeAnswer(a, text, &w) != nil || w.Code == "" {
		w = wire.Error{Code: statusCodes[a.StatusCode].String(), Text: "the homeserver answers " + a.Status}
	}
	if after, err := strconv.Atoi(a.Header.Get("Retry-After")); err == nil && w.RetryAfter == 0 && after > 0 {
		w.RetryAfter = int64(min(after, 3600)) * 1000
	}
	if w.Code == core.StaleEpoch.String() {
		return &client.Stale{Epoch: w.Epoch, Winner: w.Winner}
	}
	return &core.Error{Code: core.CodeNamed(w.Code), Reason: core.Reason(w.Reason), Text: w.Text,
		RetryAfter: time.Duration(min(max(w.RetryAfter, 0), 3_600_000)) * time.Millisecond}
}
