package main

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/isthmus-chat/isthmus/core"
)

// maxPasswordLine bounds what is read of a password; more cannot be one.
const maxPasswordLine = 4096

func (c *cli) accountCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "account", Short: "Add and list accounts, change how they log in", Args: cobra.NoArgs, RunE: needsSubcommand}
	cmd.AddCommand(
		c.passwordCommand("add NAME", "Add an account", "account.add", "Added account %s.\n"),
		c.passwordCommand("passwd NAME", "Change an account's password; its login tokens end", "account.passwd", "Changed the password of %s.\n"),
		c.tokenCommand(), c.certCommand(),
		c.enableCommand("disable NAME", "Let nobody log in to an account; who is connected stays", false),
		c.enableCommand("enable NAME", "Let its owner log in to an account again", true),
		&cobra.Command{
			Use: "list", Short: "List the accounts", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return do(c, cmd.Context(), "account.list", nothing{}, printAccounts)
			},
		})
	return cmd
}

func printAccounts(w io.Writer, l accountList) {
	if len(l.Accounts) == 0 {
		fmt.Fprintln(w, "No accounts yet: `isthmus account add` makes one.")
		return
	}
	fmt.Fprintln(w, "ACCOUNT\tUSER\tCREATED\tSTATE")
	for _, a := range l.Accounts {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.Name, a.User, a.Created.UTC().Format("2006-01-02"), accountState(a))
	}
	if l.More {
		fmt.Fprintf(w, "Only the first %d are listed.\n", len(l.Accounts))
	}
}

func accountState(a accountInfo) string {
	if a.Disabled {
		return "disabled"
	}
	return "enabled"
}

func (c *cli) tokenCommand() *cobra.Command {
	return &cobra.Command{
		Use: "token NAME", Short: "Make a login token: a password for one client, faster to check", Args: cobra.ExactArgs(1),
		Long: "token makes a login token and prints it, once. A client gives it as its password with SASL PLAIN.\n" +
			"A new password of the account (passwd) ends all its tokens.",
		RunE: func(cmd *cobra.Command, args []string) error {
			return do(c, cmd.Context(), "account.token", accountRef{args[0]}, func(w io.Writer, r newCredentials) {
				fmt.Fprintf(w, "Made a login token for %s.\nPassword: %s\n", r.Name, r.Password)
			})
		},
	}
}

func (c *cli) certCommand() *cobra.Command {
	var req accountCert
	cmd := &cobra.Command{
		Use: "cert NAME FINGERPRINT", Short: "Let a client certificate log in to an account", Args: cobra.ExactArgs(2),
		Long: "cert lets the client that shows a certificate log in with SASL EXTERNAL. FINGERPRINT is the\n" +
			"certificate's SHA-256 in hexadecimal: openssl x509 -in client.pem -noout -fingerprint -sha256",
		RunE: func(cmd *cobra.Command, args []string) error {
			req.Name, req.Fingerprint = args[0], args[1]
			said := "That certificate logs in to %s now.\n"
			if req.Remove {
				said = "That certificate does not log in to %s any more.\n"
			}
			return do(c, cmd.Context(), "account.cert", req, func(w io.Writer, r accountInfo) { fmt.Fprintf(w, said, r.Name) })
		},
	}
	cmd.Flags().BoolVar(&req.Remove, "remove", false, "let it log in no more")
	return cmd
}

func (c *cli) enableCommand(use, short string, enabled bool) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return do(c, cmd.Context(), "account.enable", accountEnable{args[0], enabled}, func(w io.Writer, r accountInfo) {
				fmt.Fprintf(w, "%s is %s.\n", r.Name, accountState(r))
			})
		},
	}
}

// newCredentials is the answer of account add, passwd and token: the password is
// in it only if it was made here.
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
