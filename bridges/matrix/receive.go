package matrix

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
)

// Handler answers the homeserver: transactions, queries for users and rooms,
// ping, third-party lookups (application service API v1.19), under
// /_matrix/app/v1/ and, for old homeservers, without that prefix.
func (b *Bridge) Handler() http.Handler { return http.HandlerFunc(b.serve) }

// A route is one endpoint: what follows its name in the path is arg, unescaped.
type route struct {
	method string
	handle func(b *Bridge, w http.ResponseWriter, r *http.Request, arg string)
}

var routes = map[string]route{
	"transactions":        {http.MethodPut, (*Bridge).serveTransaction},
	"users":               {http.MethodGet, (*Bridge).serveUser},
	"rooms":               {http.MethodGet, (*Bridge).serveAlias},
	"ping":                {http.MethodPost, (*Bridge).servePing},
	"thirdparty/protocol": {http.MethodGet, (*Bridge).serveProtocol},
	"thirdparty/user":     {http.MethodGet, (*Bridge).serveThirdUser},
	"thirdparty/location": {http.MethodGet, (*Bridge).serveLocation},
}

// noArg are the routes that may stand without an argument.
var noArg = map[string]bool{"ping": true, "thirdparty/user": true, "thirdparty/location": true}

func (b *Bridge) serve(w http.ResponseWriter, r *http.Request) {
	rt, arg, ok := findRoute(r.URL.EscapedPath())
	switch {
	case !ok:
		writeJSON(w, http.StatusNotFound, answer{ErrCode: "M_UNRECOGNIZED", Error: "unknown path"})
	case r.Method != rt.method:
		w.Header().Set("Allow", rt.method)
		writeJSON(w, http.StatusMethodNotAllowed, answer{ErrCode: "M_UNRECOGNIZED", Error: "unknown method"})
	default:
		if status, a := b.authorise(r); status != http.StatusOK {
			b.metrics.requests.WithLabelValues("unauthenticated").Inc()
			writeJSON(w, status, a)
			return
		}
		rt.handle(b, w, r, arg)
	}
}

func findRoute(escaped string) (route, string, bool) {
	p := strings.TrimPrefix(escaped, "/_matrix/app/unstable")
	p = strings.TrimPrefix(strings.TrimPrefix(p, "/_matrix/app/v1"), "/")
	name, arg, _ := strings.Cut(p, "/")
	if name == "thirdparty" {
		sub, rest, _ := strings.Cut(arg, "/")
		name, arg = name+"/"+sub, rest
	}
	rt, ok := routes[name]
	arg, err := url.PathUnescape(arg)
	return rt, arg, ok && err == nil && (arg != "" || noArg[name])
}

// authorise checks the homeserver's token (§authorization): in the header, or,
// from homeservers before v1.4, in the query; if both are there they must agree.
func (b *Bridge) authorise(r *http.Request) (int, answer) {
	header, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	query := r.URL.Query().Get("access_token")
	if !bearer && query == "" {
		return http.StatusUnauthorized, answer{ErrCode: "M_MISSING_TOKEN", Error: "missing token"}
	}
	if bearer && !b.isToken(header) || query != "" && !b.isToken(query) {
		return http.StatusForbidden, answer{ErrCode: "M_FORBIDDEN", Error: "wrong token"}
	}
	return http.StatusOK, answer{}
}

// isToken compares in constant time, also for tokens of another length.
func (b *Bridge) isToken(s string) bool {
	x, y := sha256.Sum256([]byte(s)), sha256.Sum256([]byte(b.cfg.HSToken))
	return subtle.ConstantTimeCompare(x[:], y[:]) == 1
}

// serveTransaction takes in one transaction (§put_matrixappv1transactionstxnid).
// The transaction ID is not looked at: homeservers send it again with more
// events in it. Only 200 makes them go on, so it is said after the commit.
func (b *Bridge) serveTransaction(w http.ResponseWriter, r *http.Request, _ string) {
	err := b.takeTransaction(w, r)
	if err != nil {
		b.metrics.requests.WithLabelValues(core.CodeOf(err).String()).Inc()
		if r.Context().Err() == nil {
			b.log.Warn("transaction not accepted", "code", core.CodeOf(err), "err", err)
		}
		writeError(w, err)
		return
	}
	b.metrics.requests.WithLabelValues("ok").Inc()
	writeJSON(w, http.StatusOK, struct{}{})
}

func (b *Bridge) takeTransaction(w http.ResponseWriter, r *http.Request) error {
	gw, err := b.gateway()
	if err != nil {
		return err
	}
	if r.ContentLength > b.cfg.MaxBody {
		return core.Errorf(core.TooLarge, "a transaction over %d octets", b.cfg.MaxBody)
	}
	select {
	case b.bodies <- struct{}{}:
		defer func() { <-b.bodies }()
	case <-r.Context().Done():
		return core.Errorf(core.Unavailable, "too many transactions at once")
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, b.cfg.MaxBody))
	if _, over := errors.AsType[*http.MaxBytesError](err); over {
		return core.Errorf(core.TooLarge, "a transaction over %d octets", b.cfg.MaxBody)
	} else if err != nil {
		return core.Errorf(core.Unavailable, "the transaction broke off: %w", err)
	}
	t, err := splitTransaction(body)
	if err != nil {
		return err
	}
	b.inbound.Lock()
	defer b.inbound.Unlock()
	if err := b.takeEvents(r.Context(), gw, t.events); err != nil {
		if !core.Temporary(err) || core.CodeOf(err) == core.Internal {
			err = core.Errorf(core.Unavailable, "not accepted: %w", err) // the homeserver shall try again
		}
		return err
	}
	b.takeEphemeral(gw, t.ephemeral)
	return nil
}

func (b *Bridge) servePing(w http.ResponseWriter, r *http.Request, _ string) {
	io.Copy(io.Discard, io.LimitReader(r.Body, 64<<10)) // its transaction_id says nothing to us
	writeJSON(w, http.StatusOK, struct{}{})
}
