package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/net/netutil"

	"github.com/isthmus-chat/isthmus/core"
)

// The control socket is a small JSON API over HTTP on a Unix socket in the data
// directory: POST /v1/OPERATION with the request as JSON. Its file mode is the
// authentication: who may read the database may also use it.
const (
	controlName    = "control.sock"
	controlBody    = 64 << 10        // octets of a request: a name, a topic, a password
	controlAnswer  = 64 << 20        // octets of an answer: maxListed rooms with long topics
	controlClients = 16              // at a time; more wait
	controlTime    = 5 * time.Minute // a backup of a large database takes this long
)

// listenControl opens the socket. The caller holds the store's lock, so a socket
// file that is there was left behind by a crash.
func listenControl(dataDir string) (net.Listener, error) {
	path := filepath.Join(dataDir, controlName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	old := syscall.Umask(0o177) // the mode must be right from the first moment
	l, err := net.Listen("unix", path)
	syscall.Umask(old)
	if err != nil {
		return nil, err
	}
	return netutil.LimitListener(l, controlClients), nil
}

// controlHandler answers operations of a.
func controlHandler(a *admin) http.Handler {
	mux := http.NewServeMux()
	for name, do := range operations {
		mux.HandleFunc("POST /v1/"+name, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), controlTime)
			defer cancel()
			body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, controlBody))
			if err != nil {
				err = core.Errorf(core.TooLarge, "request over %d octets", controlBody)
			}
			var resp any
			if err == nil {
				resp, err = do(ctx, a, body)
			}
			w.Header().Set("Content-Type", "application/json")
			if err != nil {
				w.WriteHeader(http.StatusUnprocessableEntity) // the code is in the body
				resp = wireErrorOf(err)
			}
			json.NewEncoder(w).Encode(resp)
		})
	}
	return mux
}

// A caller performs an operation by name: in the running server, or here.
type caller interface {
	call(ctx context.Context, name string, req, resp any) error
	close() error
}

// dialControl returns a caller to the server that runs on dataDir, or nil if
// none does.
func dialControl(dataDir string) caller {
	path := filepath.Join(dataDir, controlName)
	c, err := net.Dial("unix", path)
	if err != nil { // no file, or nobody behind it
		return nil
	}
	c.Close()
	return &remote{&http.Client{Timeout: controlTime, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}}
}

type remote struct{ http *http.Client }

func (r *remote) call(ctx context.Context, name string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://control/v1/"+name, bytes.NewReader(body))
	if err != nil {
		return err
	}
	a, err := r.http.Do(q)
	if err != nil {
		return &core.Error{Code: core.Unavailable, Text: "the server went away", Err: err}
	}
	defer a.Body.Close()
	text, err := io.ReadAll(io.LimitReader(a.Body, controlAnswer))
	switch {
	case err != nil:
		return &core.Error{Code: core.Unavailable, Text: "the server went away", Err: err}
	case a.StatusCode == http.StatusOK:
		return json.Unmarshal(text, resp)
	case a.StatusCode == http.StatusNotFound:
		return core.Errorf(core.Unsupported, "the running server is another version and does not know %s", name)
	}
	var w wireError
	if err := json.Unmarshal(text, &w); err != nil {
		return core.Errorf(core.Internal, "the running server answered %s", a.Status)
	}
	return w.err()
}

func (r *remote) close() error { r.http.CloseIdleConnections(); return nil }

// local performs operations here, through the same JSON.
type local struct {
	admin *admin
	stop  func() error
}

func (l *local) call(ctx context.Context, name string, req, resp any) error {
	body, err := json.Marshal(req)
	if err != nil {
		return err
	}
	got, err := operations[name](ctx, l.admin, body)
	if err != nil {
		return err
	}
	text, err := json.Marshal(got)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, resp)
}

func (l *local) close() error { return l.stop() }
