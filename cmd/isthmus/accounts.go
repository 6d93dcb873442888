package main

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/isthmus-chat/isthmus/core"
)

// maxPasswordLine bounds what is read of a password; more cannot be one.
const maxPasswordLine = 4096

func (c *cli) accountCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "account", Short: "add and list accounts, change passwords", Args: cobra.NoArgs, RunE: needsSubcommand}
	cmd.AddCommand(
		c.passwordCommand("add NAME", "add an account", "account.add", "Added account %s.\n"),
		c.passwordCommand("passwd NAME", "change an account's password; its login tokens end", "account.passwd", "Changed the password of %s.\n"),
		&cobra.Command{
			Use: "list", Short: "list the accounts", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return do(c, cmd.Context(), "account.list", nothing{}, func(w io.Writer, l accountList) {
					if len(l.Accounts) == 0 {
						fmt.Fprintln(w, "No accounts yet.")
						return
					}
					fmt.Fprintln(w, "ACCOUNT\tUSER\tCREATED")
					for _, a := range l.Accounts {
						fmt.Fprintf(w, "%s\t%s\t%s\n", a.Name, a.User, a.Created.UTC().Format("2006-01-02"))
					}
				})
			},
		})
	return cmd
}

// newCredentials is the answer of account add and passwd: the password is in it
// only if it was made here.
type newCredentials struct {
	accountInfo
	Password string `json:"password,omitempty"`
}

func (c *cli) passwordCommand(use, short, operation, said string) *cobra.Command {
	var generate bool
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		Long: short + ".\n\nThe password is asked for, or read from the first line of standard input,\nor made with --generate. It is never an argument, which others could see.",
		RunE: func(cmd *cobra.Command, args []string) error {
			password, err := c.password(generate)
			if err != nil {
				return err
			}
			conn, err := c.open(cmd.Context())
			if err != nil {
				return err
			}
			defer conn.close()
			var r newCredentials
			if err := conn.call(cmd.Context(), operation, credentials{args[0], password}, &r.accountInfo); err != nil {
				return err
			}
			if generate {
				r.Password = password
			}
			return c.show(r, func(w io.Writer) {
				fmt.Fprintf(w, said, r.Name)
				if generate {
					fmt.Fprintf(w, "Password: %s\n", password)
				}
			})
		},
	}
	cmd.Flags().BoolVar(&generate, "generate", false, "make a password and print it")
	return cmd
}

func (c *cli) password(generate bool) (string, error) {
	if generate {
		b := make([]byte, 15) // 120 bits, 20 characters
		rand.Read(b)          // never fails: it ends the program if the system has no randomness
		return base64.RawURLEncoding.EncodeToString(b), nil
	}
	if f, ok := c.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		return c.askPassword(f)
	}
	line, err := bufio.NewReader(io.LimitReader(c.in, maxPasswordLine)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", err
	}
	line = strings.TrimRight(line, "\r\n")
	if line == "" {
		return "", core.Errorf(core.Invalid, "no password on standard input (or use --generate)")
	}
	return line, nil
}

func (c *cli) askPassword(f *os.File) (string, error) {
	ask := func(prompt string) (string, error) {
		fmt.Fprint(c.err, prompt)
		b, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(c.err)
		return string(b), err
	}
	first, err := ask("Password: ")
	if err != nil {
		return "", err
	}
	again, err := ask("Again: ")
	if err != nil {
		return "", err
	}
	if first != again {
		return "", core.Errorf(core.Invalid, "the two passwords differ")
	}
	return first, nil
}

func (c *cli) backupCommand() *cobra.Command {
	return &cobra.Command{
		Use: "backup FILE", Short: "copy the SQLite database while it is in use", Args: cobra.ExactArgs(1),
		Long: "backup writes a consistent copy of the database to FILE, which must not exist, and checks it.\n" +
			"To restore, stop the server, put the file in place of isthmus.db in the data directory\n" +
			"(without the -wal and -shm files beside it) and start again. Keep homeserver.key with it.",
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			return do(c, cmd.Context(), "backup", backupFile{file}, func(w io.Writer, b backupFile) {
				fmt.Fprintf(w, "Wrote %s.\n", b.File)
			})
		},
	}
}
