package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
)

// initOptions are what init asks of the operator; all else keeps its default.
type initOptions struct {
	domain, network           string
	matrixServer, matrixURL   string
	listenURL, irc, http, url string
}

type initResult struct {
	Config string   `json:"config"`
	Made   []string `json:"made"`
}

func (c *cli) initCommand() *cobra.Command {
	var o initOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Write a configuration with comments, and make the keys",
		Long: "init writes isthmus.yaml (or the file that --config names), a copy of the default with your\n" +
			"answers in it, and makes the homeserver's key and other secrets in the data directory.\n" +
			"It refuses to overwrite a configuration, and keeps keys that exist.",
		Example: "  isthmus init --domain chat.example.org\n" +
			"  isthmus init --domain chat.example.org --matrix-server example.org --matrix-url http://127.0.0.1:8008",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.init(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.domain, "domain", "", "the homeserver's DNS `name`")
	f.StringVar(&o.network, "network", "", "the `name` that IRC clients show for the network")
	f.StringVar(&o.url, "database", "", "PostgreSQL `URL`; none is SQLite")
	f.StringVar(&o.irc, "irc", "", "IRC `address`, host:port")
	f.StringVar(&o.http, "http", "", "HTTP `address`, host:port")
	f.StringVar(&o.matrixServer, "matrix-server", "", "Matrix server `name` to be an application service of")
	f.StringVar(&o.matrixURL, "matrix-url", "", "`URL` of that server's client API (default http://127.0.0.1:8008)")
	f.StringVar(&o.listenURL, "matrix-listen-url", "", "`URL` at which that server reaches our HTTP address")
	return cmd
}

func (c *cli) init(ctx context.Context, o initOptions) error {
	file := c.configFile
	if file == "" {
		file = defaultConfigFile
	}
	text, err := configText(o, c.dataDir)
	if err != nil {
		return err
	}
	cfg, err := configs.Parse(file, text, c.environ)
	if err != nil {
		return err
	}
	if err := writeNew(file, text, 0o600); errors.Is(err, fs.ErrExist) {
		return core.Errorf(core.Conflict, "%s exists already; init does not overwrite", file)
	} else if err != nil {
		return err
	}
	made, err := makeSecrets(ctx, cfg)
	if err != nil {
		return err
	}
	r := initResult{Config: file, Made: made}
	return c.show(r, func(w io.Writer) {
		fmt.Fprintf(w, "Wrote %s: read it, it explains every key.\n", file)
		for _, m := range r.Made {
			fmt.Fprintf(w, "Made %s\n", m)
		}
		next := "isthmus serve"
		if file != defaultConfigFile {
			next += " --config " + file
		}
		fmt.Fprintf(w, "Next: %s\n", next)
	})
}

// configText is the default file with o's answers in the place of its values.
func configText(o initOptions, dataDir string) ([]byte, error) {
	text := string(configs.Default)
	for _, s := range []struct{ line, value string }{
		{"domain: localhost", o.domain}, {"network: Isthmus", o.network}, {"data_dir: isthmus-data", dataDir},
		{"  url: \"\"", o.url}, {"  address: 127.0.0.1:8480", o.http}, {"      address: 127.0.0.1:6667", o.irc},
	} {
		if s.value == "" {
			continue
		}
		key, _, _ := strings.Cut(s.line, ":")
		quoted, err := yaml.Marshal(s.value)
		if err != nil {
			return nil, err
		}
		if strings.Count(text, "\n"+s.line+"\n") != 1 {
			return nil, core.Errorf(core.Internal, "the default has no single line %q", s.line)
		}
		text = strings.Replace(text, "\n"+s.line+"\n", "\n"+key+": "+string(quoted), 1)
	}
	if o.matrixServer == "" {
		return []byte(text), nil
	}
	entry, err := matrixEntry(o)
	if err != nil {
		return nil, err
	}
	return []byte(strings.Replace(text, "\nmatrix: []\n", "\nmatrix:\n"+entry, 1)), nil
}

var notName = regexp.MustCompile(`[^a-z0-9._-]`)

func matrixEntry(o initOptions) (string, error) {
	listen := o.listenURL
	if listen == "" {
		listen = "http://127.0.0.1:8480"
		if o.http != "" {
			listen = "http://" + o.http
		}
	}
	url := o.matrixURL
	if url == "" {
		url = "http://127.0.0.1:8008"
	}
	entry, err := yaml.Marshal([]struct {
		Name, Server, URL string
		ListenURL         string `yaml:"listen_url"`
	}{{notName.ReplaceAllString(o.matrixServer, "-"), o.matrixServer, url, listen}})
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for line := range strings.Lines(string(entry)) {
		b.WriteString("  " + line)
	}
	return b.String(), nil
}

// absolute returns path as an absolute one for people, or as it is.
func absolute(path string) string {
	if a, err := filepath.Abs(path); err == nil {
		return a
	}
	return path
}
