package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/store"
)

func (c *cli) backupCommand() *cobra.Command {
	var checkOnly bool
	cmd := &cobra.Command{
		Use: "backup FILE", Short: "Copy the SQLite database while it is in use, and check the copy", Args: oneFile,
		Long: "backup writes a consistent copy of the database to FILE, which must not exist, and checks it:\n" +
			"every page, every room's log, every record. With --check it checks a copy that was made before.\n\n" +
			"To restore, stop the server, put the file in place of isthmus.db in the data directory\n" +
			"(without the -wal and -shm files beside it) and start again. Keep homeserver.key with it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if !checkOnly {
				err = c.writeBackup(cmd.Context(), file)
			}
			if err != nil {
				return err
			}
			if err := store.Check(cmd.Context(), file); err != nil {
				return err
			}
			return c.show(backupFile{file}, func(w io.Writer) {
				if !checkOnly {
					fmt.Fprintf(w, "Wrote %s.\n", file)
				}
				fmt.Fprintln(w, "Checked: it is whole.")
			})
		},
	}
	cmd.Flags().BoolVar(&checkOnly, "check", false, "write nothing; check FILE, a copy made before")
	return cmd
}

// oneFile is cobra.ExactArgs(1) in the words of backup.
func oneFile(_ *cobra.Command, args []string) error {
	if len(args) != 1 {
		return &usageError{"backup needs FILE, one: the copy that it writes, or with --check the one that it checks"}
	}
	return nil
}

// writeBackup asks the running server for a copy. If none runs, it copies the database
// as it is, in an older schema too: the copy is the way back to the version before.
func (c *cli) writeBackup(ctx context.Context, file string) error {
	cfg, err := c.config()
	if err != nil {
		return err
	}
	if r := dialControl(cfg.DataDir); r != nil {
		defer r.close()
		return r.call(ctx, "backup", backupFile{file}, new(backupFile))
	}
	if !hasDatabase(cfg) {
		return noHomeserver(cfg)
	}
	db, err := openStore(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Backup(ctx, file)
}
