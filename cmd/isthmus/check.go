package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

// Bounds of a check: how long one finding may take, how little free space and
// how few days of a certificate are worth a warning.
const (
	checkTime    = 15 * time.Second
	checkFree    = 1 << 30
	checkExpires = 14 * 24 * time.Hour
)

// A finding is what one check came to. Advice is what to do about it.
type finding struct {
	What   string `json:"what"`
	State  string `json:"state"` // ok, warning, failed
	Text   string `json:"text"`
	Advice string `json:"advice,omitempty"`
}

const (
	stateOK      = "ok"
	stateWarning = "warning"
	stateFailed  = "failed"
)

func (c *cli) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use: "check", Short: "Check the configuration, the database, disk, certificates and Matrix homeservers", Args: cobra.NoArgs,
		Long: "check looks at everything the server needs and says what to do about what is wrong.\nIt may run beside a server. It fails if anything failed; a warning is no failure.",
		RunE: func(cmd *cobra.Command, _ []string) error { return c.check(cmd.Context()) },
	}
}

func (c *cli) check(ctx context.Context) error {
	cfg, err := c.config()
	if err != nil {
		return err // the loader's lines name file, line and key: better than a finding
	}
	name := c.configPath()
	if name == "" {
		name = "built-in default"
	}
	found := []finding{{What: "configuration", State: stateOK, Text: name}}
	database, key := checkDatabase(ctx, cfg)
	found = append(found, checkSecrets(cfg, key)...)
	found = append(found, database, checkDisk(cfg))
	found = append(found, checkCertificates(cfg, time.Now())...)
	found = append(found, checkMatrix(ctx, cfg)...)
	err = c.show(found, func(w io.Writer) {
		for _, f := range found {
			fmt.Fprintf(w, "%s\t%s\t%s\n", f.State, f.What, f.Text)
			if f.Advice != "" {
				fmt.Fprintf(w, "\t\t→ %s\n", f.Advice)
			}
		}
	})
	for _, f := range found {
		if f.State == stateFailed && err == nil {
			err = errSaid
		}
	}
	return err
}

// checkSecrets looks at the files; key is what the database says to the homeserver's.
func checkSecrets(cfg *configs.Config, key error) (out []finding) {
	for _, s := range secretFiles(cfg) {
		info, err := os.Stat(s.path)
		switch {
		case s.key == keyFileKey && key != nil:
			out = append(out, finding{s.key, stateFailed, explain(key), "it is in your backup; see Backup and restore in docs/OPERATING.md"})
		case os.IsNotExist(err):
			out = append(out, finding{s.key, stateWarning, s.path + " does not exist yet", "the first `isthmus serve` makes it"})
		case err != nil:
			out = append(out, finding{s.key, stateFailed, err.Error(), "let the user that runs isthmus read it"})
		case info.Mode().Perm()&0o077 != 0:
			out = append(out, finding{s.key, stateWarning, fmt.Sprintf("%s has mode %o", s.path, info.Mode().Perm()), "chmod 600 " + s.path})
		}
	}
	if len(out) == 0 {
		out = append(out, finding{What: "keys", State: stateOK, Text: "there, and private"})
	}
	return out
}

// checkDatabase also compares the homeserver's key with the one that the database, or
// the server that runs on it, knows.
func checkDatabase(ctx context.Context, cfg *configs.Config) (f finding, key error) {
	const what = "database"
	if r := dialControl(cfg.DataDir); r != nil {
		defer r.close()
		var s statusInfo
		if err := r.call(ctx, "status", nothing{}, &s); err != nil {
			return finding{what, stateFailed, "a server runs but does not answer: " + explain(err), "look at its log"}, nil
		}
		if s.Key != nil {
			key = compareKey(cfg, s.Key)
		}
		return finding{What: what, State: stateOK, Text: "in use by the running server, up since " + s.Started.UTC().Format("2006-01-02 15:04:05")}, key
	}
	if _, err := storeOptions(cfg, nil); err != nil {
		return finding{what, stateFailed, err.Error(), "see database in the configuration"}, nil
	}
	if !hasDatabase(cfg) {
		return finding{what, stateWarning, filepath.Join(cfg.DataDir, databaseFile) + " does not exist yet", "the first `isthmus serve` makes it"}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	db, err := openStore(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return finding{what, stateFailed, explain(err), databaseAdvice(err)}, nil
	}
	defer db.Close()
	f = finding{What: what, State: stateOK, Text: db.Version()}
	if len(db.Pending()) > 0 {
		f.State, f.Text = stateWarning, f.Text+"; serve or migrate brings it to "+newestOf(db)
		f.Advice = "back up before: the schema goes forward only"
	}
	return f, checkKey(ctx, cfg, db)
}

func databaseAdvice(err error) string {
	switch core.CodeOf(err) {
	case core.Unavailable:
		return "is the database up, and does no other isthmus hold it?"
	case core.Unsupported:
		return "run the isthmus version that made it, or a newer one"
	case core.Invalid:
		return "see database and domain in the configuration"
	}
	return "look at the database's own log"
}

func checkDisk(cfg *configs.Config) finding {
	dir := cfg.DataDir
	for { // the directory itself may not exist before the first start
		if _, err := os.Stat(dir); err == nil || dir == filepath.Dir(dir) {
			break
		}
		dir = filepath.Dir(dir)
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil {
		return finding{"disk", stateFailed, err.Error(), "can isthmus reach data_dir?"}
	}
	free := fs.Bavail * uint64(fs.Bsize)
	f := finding{What: "disk", State: stateOK, Text: fmt.Sprintf("%.1f GiB free under %s", float64(free)/(1<<30), cfg.DataDir)}
	if free < checkFree {
		f.State, f.Advice = stateWarning, "make room: a full disk stops all messages, though it loses none"
	}
	return f
}

func checkCertificates(cfg *configs.Config, now time.Time) (out []finding) {
	look := func(key, cert, private string) {
		if cert == "" {
			return
		}
		out = append(out, checkCertificate(key, cfg.Path(cert), cfg.Path(private), now))
	}
	look("http.cert_file", cfg.HTTP.CertFile, cfg.HTTP.KeyFile)
	look("federation.cert_file", cfg.Federation.CertFile, cfg.Federation.KeyFile)
	for i, l := range cfg.IRC.Listeners {
		look(fmt.Sprintf("irc.listeners[%d].cert_file", i), l.CertFile, l.KeyFile)
	}
	return out
}

func checkCertificate(key, cert, private string, now time.Time) finding {
	if _, err := newCertificate(cert, private); err != nil {
		return finding{key, stateFailed, err.Error(), "give a PEM certificate chain and its key"}
	}
	text, err := os.ReadFile(cert)
	if err != nil {
		return finding{key, stateFailed, err.Error(), "let the user that runs isthmus read it"}
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return finding{key, stateFailed, "no certificate in " + cert, "give a PEM certificate chain"}
	}
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return finding{key, stateFailed, err.Error(), "give a PEM certificate chain"}
	}
	f := finding{What: key, State: stateOK, Text: "valid until " + leaf.NotAfter.UTC().Format("2006-01-02")}
	switch left := leaf.NotAfter.Sub(now); {
	case left <= 0:
		f.State, f.Advice = stateFailed, "renew it, then `kill -HUP` the server"
	case left < checkExpires:
		f.State, f.Advice = stateWarning, "renew it soon, then `kill -HUP` the server"
	}
	return f
}

func (c *cli) migrateCommand() *cobra.Command {
	return &cobra.Command{
		Use: "migrate", Short: "Bring the database's schema up to date", Args: cobra.NoArgs,
		Long: "migrate applies the schema changes that this version brings. serve does the same when it starts;\nthis is for those who want it done, and seen, before.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := c.config()
			if err != nil {
				return err
			}
			if r := dialControl(cfg.DataDir); r != nil {
				r.close()
				return core.Errorf(core.Unavailable, "a server is running: stop it first")
			}
			o, err := storeOptions(cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
				return err
			}
			applied, err := store.Migrate(cmd.Context(), o)
			if err != nil {
				return err
			}
			return c.show(struct {
				Applied []string `json:"applied"`
			}{append([]string{}, applied...)}, func(w io.Writer) {
				if len(applied) == 0 {
					fmt.Fprintln(w, "The schema is up to date.")
				}
				for _, a := range applied {
					fmt.Fprintf(w, "Applied %s.\n", a)
				}
			})
		},
	}
}
