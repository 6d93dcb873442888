package main

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/bridges/irc"
	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
)

// networks are the bridges of a server, made from its configuration.
type networks struct {
	cfg *configs.Config
	irc *irc.Server
}

func newNetworks(cfg *configs.Config) (*networks, error) {
	return &networks{cfg: cfg}, nil
}

func (n *networks) open(reg prometheus.Registerer, log *slog.Logger) ([]bridges.Bridge, error) {
	n.irc = irc.New(irc.Defaults(n.cfg.Domain), log)
	return []bridges.Bridge{n.irc}, nil
}
func (n *networks) route(mux *http.ServeMux) {}
func (n *networks) place(ctx context.Context, l core.Link, r core.Room) (string, error) {
	return l.Place, nil
}
func (n *networks) caps() map[core.Network]core.Caps                 { return capsOf(n.cfg) }
func (n *networks) reload(cfg *configs.Config) error                 { return nil }
func (n *networks) listening() error                                 { return nil }
func capsOf(cfg *configs.Config) map[core.Network]core.Caps          { return nil }
func checkMatrix(ctx context.Context, cfg *configs.Config) []finding { return nil }
func (c *cli) registrationCommand() *cobra.Command                   { return &cobra.Command{Use: "registration"} }

// channelFold returns how channel names are compared.
func channelFold(cfg *configs.Config) func(string) string { return strings.ToLower }

func passwords(cfg *configs.Config) irc.Passwords {
	a := cfg.IRC.Accounts
	return irc.Passwords{MinLength: a.MinPassword, Memory: uint32(a.Argon2Memory >> 10), Passes: uint32(a.Argon2Passes)}
}
