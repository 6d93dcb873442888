package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
)

// Exit codes, for scripts. exitCode is the one place that chooses among them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2 // the command line is wrong; nothing was tried
	exitConfig      = 3 // the configuration is wrong; nothing was tried
	exitUnavailable = 4 // try again later: stopping, too busy, or something it needs is away
)

// A cli is one invocation: where it reads and writes, and the global flags.
type cli struct {
	environ  []string
	in       io.Reader
	out, err io.Writer

	configFile, dataDir string
	json                bool
	started             bool           // the command line was understood
	command             *cobra.Command // that the command line names, nil until it has run
}

// run executes the command line args and returns the exit code.
func run(args, environ []string, in io.Reader, out, errOut io.Writer) int {
	c := &cli{environ: environ, in: in, out: out, err: errOut}
	root := c.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(context.Background())
	c.command = cmd
	if err != nil && !errors.Is(err, errSaid) {
		c.fail(err)
	}
	return c.exitCode(err)
}

// A usageError is a command line that cobra takes and a command does not.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// errSaid is returned by a command that failed and has told why already.
var errSaid = errors.New("said")

func (c *cli) exitCode(err error) int {
	_, badConfig := errors.AsType[*configs.Error](err)
	_, badUsage := errors.AsType[*usageError](err)
	switch {
	case err == nil:
		return exitOK
	case !c.started || badUsage:
		return exitUsage
	case badConfig:
		return exitConfig
	}
	switch core.CodeOf(err) {
	case core.Unavailable, core.Limited:
		return exitUnavailable
	}
	return exitFailed
}

// fail writes err to the error output: one line per problem, or a JSON object.
func (c *cli) fail(err error) {
	if c.json {
		var o struct {
			Error wireError `json:"error"`
		}
		o.Error = wireErrorOf(err)
		json.NewEncoder(c.err).Encode(o)
		return
	}
	text, meant, _ := strings.Cut(explain(err), "\n\nDid you mean this?\n") // cobra's words
	for line := range strings.Lines(text) {
		fmt.Fprintf(c.err, "isthmus: %s\n", screenLine(line)) // it may be in the words of a homeserver
	}
	if words := strings.Fields(meant); len(words) > 0 {
		fmt.Fprintf(c.err, "isthmus: did you mean %s?\n", screenLine(strings.Join(words, " or ")))
	}
	switch {
	case c.started:
	case c.command == nil || !c.command.HasParent():
		fmt.Fprintln(c.err, "isthmus: 'isthmus help' lists the commands")
	default:
		fmt.Fprintf(c.err, "isthmus: '%s --help' says how it is written\n", c.command.CommandPath())
	}
}

// explain says err to the operator: a refusal in its own words, a fault whole.
func explain(err error) string {
	if e, ok := errors.AsType[*core.Error](err); ok && e.Code != core.Internal {
		return e.Text
	}
	return err.Error()
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "isthmus",
		Short:         "Encrypted rooms across homeservers, and channels for IRC clients that link to Matrix rooms",
		SilenceErrors: true,
		SilenceUsage:  true,
		Version:       version().Version,
		PersistentPreRun: func(*cobra.Command, []string) {
			c.started = true
		},
	}
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	root.SetVersionTemplate(version().String() + "\n")
	f := root.PersistentFlags()
	f.StringVar(&c.configFile, "config", "", "configuration `file` (default isthmus.yaml if it exists, else the built-in default)")
	f.StringVar(&c.dataDir, "data", "", "data `directory`, instead of data_dir")
	f.BoolVar(&c.json, "json", false, "write JSON")
	root.AddCommand(c.initCommand(), c.serveCommand(), c.checkCommand(), c.roomCommand(), c.linkCommand(), c.accountCommand(), c.deviceCommand(), c.peerCommand(),
		c.registrationCommand(), c.backupCommand(), c.migrateCommand(), c.chatCommand(), c.devCommand(), c.versionCommand())
	return root
}

// defaultConfigFile is read if it exists and no other is named.
const defaultConfigFile = "isthmus.yaml"

// configPath returns the file to read: --config, ISTHMUS_CONFIG, isthmus.yaml
// if there is one, or "" for the built-in default.
func (c *cli) configPath() string {
	if c.configFile != "" {
		return c.configFile
	}
	for _, kv := range c.environ {
		if v, ok := strings.CutPrefix(kv, configs.EnvPrefix+"CONFIG="); ok && v != "" {
			return v
		}
	}
	if _, err := os.Stat(defaultConfigFile); err == nil {
		return defaultConfigFile
	}
	return ""
}

// config loads the configuration with the global flags applied, then set.
func (c *cli) config(set ...func(*configs.Config)) (*configs.Config, error) {
	if c.dataDir != "" {
		set = append([]func(*configs.Config){func(cfg *configs.Config) { cfg.DataDir = c.dataDir }}, set...)
	}
	return configs.Load(c.configPath(), c.environ, set...)
}

// show writes v as JSON, or what text writes, its tab-separated columns aligned.
func (c *cli) show(v any, text func(w io.Writer)) error {
	if c.json {
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	text(w)
	return w.Flush()
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := version()
			return c.show(v, func(w io.Writer) { fmt.Fprintln(w, v) })
		},
	}
}

type versionInfo struct {
	Version string `json:"version"`
	Go      string `json:"go"`
}

func (v versionInfo) String() string { return fmt.Sprintf("isthmus %s (%s)", v.Version, v.Go) }

// revision is what `make build` sets: git's tag or commit, with -dirty after it if the
// tree has changes. Go's own stamp is not enough: it is off where GOFLAGS says so.
var revision string

// version is revision, or else what Go recorded: a release's tag, or a pseudo-version.
func version() versionInfo {
	v := versionInfo{Version: cmp.Or(revision, "devel"), Go: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	v.Go = info.GoVersion
	if m := info.Main.Version; revision == "" && m != "" && m != "(devel)" {
		v.Version = m
	}
	return v
}
