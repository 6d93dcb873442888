package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/bridges/matrix"
	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
)

// matrixNetwork is the network of a Matrix homeserver.
func matrixNetwork(m configs.Matrix) core.Network { return core.Network("matrix:" + m.Server) }

// matrixConfig says m in the words of the Matrix bridge, with its tokens read.
func matrixConfig(cfg *configs.Config, m configs.Matrix) (matrix.Config, error) {
	as, err := cfg.ReadSecret(m.ASToken, m.ASTokenFile)
	if err != nil {
		return matrix.Config{}, err
	}
	hs, err := cfg.ReadSecret(m.HSToken, m.HSTokenFile)
	if err != nil {
		return matrix.Config{}, err
	}
	return matrix.Config{
		URL: m.URL, Server: m.Server, Domain: cfg.Domain, ListenURL: m.ListenURL, ASToken: as.Reveal(), HSToken: hs.Reveal(), ID: m.ID,
		Bot: m.Bot, UserPrefix: m.GhostPrefix, AliasPrefix: m.AliasPrefix, CreateRooms: m.CreateRooms, Fold: channelFold(cfg),
		MaxBody: int64(m.MaxBody), MaxEvents: m.MaxEvents, RequestTimeout: time.Duration(m.RequestTimeout), JoinsPerSecond: float64(m.JoinsPerSecond),
	}, nil
}

func (c *cli) registrationCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "registration", Short: "Write what another network's server needs to know of us", Args: cobra.NoArgs, RunE: needsSubcommand}
	cmd.AddCommand(&cobra.Command{
		Use: "matrix [NAME]", Short: "Print the application service registration for a Matrix homeserver", Args: cobra.MaximumNArgs(1),
		Long: "registration matrix prints the file that the Matrix homeserver's configuration names under\n" +
			"app_service_config_files. It holds secrets. Tokens that do not exist yet are made.",
		Example: "  isthmus registration matrix > /etc/matrix-synapse/isthmus.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.registration(cmd.Context(), strings.Join(args, ""))
		},
	})
	return cmd
}

func (c *cli) registration(ctx context.Context, name string) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	m, err := findMatrix(cfg, name)
	if err != nil {
		return err
	}
	if _, err := makeSecrets(ctx, cfg); err != nil {
		return err
	}
	mc, err := matrixConfig(cfg, m)
	if err != nil {
		return err
	}
	text, err := matrix.Registration(mc)
	if err != nil {
		return err
	}
	return c.show(struct {
		Name         string `json:"name"`
		Registration string `json:"registration"`
	}{m.Name, string(text)}, func(w io.Writer) { w.Write(text) })
}

// findMatrix returns the entry called name; one alone needs no name.
func findMatrix(cfg *configs.Config, name string) (configs.Matrix, error) {
	var names []string
	for _, m := range cfg.Matrix {
		if m.Name == name || name == "" && len(cfg.Matrix) == 1 {
			return m, nil
		}
		names = append(names, m.Name)
	}
	if len(names) == 0 {
		return configs.Matrix{}, core.Errorf(core.NotFound, "no Matrix homeserver is configured: see the matrix section of the configuration")
	}
	return configs.Matrix{}, core.Errorf(core.NotFound, "name one of: %s", strings.Join(names, ", "))
}

// checkMatrix asks each Matrix homeserver whether it is there and, as its
// application service, whether it reaches us (POST …/ping, Matrix v1.7).
func checkMatrix(ctx context.Context, cfg *configs.Config) (out []finding) {
	running := dialControl(cfg.DataDir)
	if running != nil {
		running.close()
	}
	for _, m := range cfg.Matrix {
		f := finding{What: string(matrixNetwork(m)), State: stateOK}
		mc, err := matrixConfig(cfg, m)
		if err != nil {
			f.State, f.Text, f.Advice = stateWarning, err.Error(), "`isthmus registration matrix` makes the tokens"
			out = append(out, f)
			continue
		}
		f.State, f.Text, f.Advice = askMatrix(ctx, mc, running != nil)
		out = append(out, f)
	}
	return out
}

func askMatrix(ctx context.Context, mc matrix.Config, running bool) (state, text, advice string) {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	if _, code, err := matrixRequest(ctx, mc, http.MethodGet, "/_matrix/client/versions", nil); err != nil || code != http.StatusOK {
		return stateFailed, said(code, "", err), "is url right, and does the homeserver run?"
	}
	path := "/_matrix/client/v1/appservice/" + url.PathEscape(mc.ID) + "/ping"
	errcode, code, err := matrixRequest(ctx, mc, http.MethodPost, path, map[string]string{"transaction_id": newLinkID()})
	switch {
	case err != nil:
		return stateFailed, said(code, errcode, err), "look at the homeserver's log"
	case code == http.StatusOK:
		return stateOK, "there, and it reaches us", ""
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return stateFailed, said(code, errcode, nil), "it does not know us: give it the output of `isthmus registration matrix` and restart it"
	case code == http.StatusNotFound && errcode == "M_UNRECOGNIZED":
		return stateWarning, "there, but too old to say whether it reaches us", "update the homeserver to one that speaks Matrix v1.7 or newer"
	case !running:
		return stateWarning, "there; whether it reaches us shows only while the server runs", "start `isthmus serve` and check again"
	}
	return stateFailed, said(code, errcode, nil), "it does not reach us: is listen_url right, from where it runs?"
}

func said(code int, errcode string, err error) string {
	if err != nil {
		if u, ok := err.(*url.Error); ok {
			err = u.Err // without the URL, which the configuration has
		}
		return "no answer: " + err.Error()
	}
	return strings.TrimSpace(fmt.Sprintf("answers %d %s", code, errcode))
}

// matrixRequest makes one request, with a body as the application service, and
// returns the Matrix error code, if any, and the status.
func matrixRequest(ctx context.Context, mc matrix.Config, method, path string, body any) (errcode string, status int, err error) {
	const most = 64 << 10 // octets of an answer: lists of versions are short
	text, err := json.Marshal(body)
	if err != nil {
		return "", 0, err
	}
	if body == nil {
		text = nil
	}
	q, err := http.NewRequestWithContext(ctx, method, strings.TrimRight(mc.URL, "/")+path, bytes.NewReader(text))
	if err != nil {
		return "", 0, err
	}
	if body != nil { // a GET is for what everybody may see: a token that is wrong would hide it
		q.Header.Set("Authorization", "Bearer "+mc.ASToken)
	}
	q.Header.Set("Content-Type", "application/json")
	a, err := http.DefaultClient.Do(q)
	if err != nil {
		return "", 0, err
	}
	defer a.Body.Close()
	var e struct {
		ErrCode string `json:"errcode"`
	}
	answer, err := io.ReadAll(io.LimitReader(a.Body, most))
	if err != nil {
		return "", a.StatusCode, err
	}
	if json.Unmarshal(answer, &e) != nil && a.StatusCode == http.StatusOK {
		return "", a.StatusCode, core.Errorf(core.Invalid, "not a Matrix homeserver")
	}
	return e.ErrCode, a.StatusCode, nil
}

// matrixPaths are what a Matrix homeserver asks for: those of the specification,
// and those from before it had a prefix, which it falls back to (§legacy routes).
var matrixPaths = []string{"/_matrix/app/", "/transactions/", "/users/", "/rooms/"}

// matrixHandler hands a request to the bridge whose token it carries. One that
// carries no known token goes to any bridge, which refuses it.
func matrixHandler(tokens map[[32]byte]http.Handler, other http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		token, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
		if !ok {
			token = q.URL.Query().Get("access_token")
		}
		if h := tokens[sha256.Sum256([]byte(token))]; h != nil { // hashed: its timing says nothing of a token
			h.ServeHTTP(w, q)
			return
		}
		other.ServeHTTP(w, q)
	})
}
