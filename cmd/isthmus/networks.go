package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/bridges/irc"
	"github.com/isthmus-chat/isthmus/bridges/matrix"
	"github.com/isthmus-chat/isthmus/bridges/native"
	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core"
)

// networks are the bridges of a server, made from its configuration.
type networks struct {
	cfg    *configs.Config
	irc    *irc.Server
	matrix []*matrix.Bridge
	tokens map[[32]byte]http.Handler // of matrix, by the SHA-256 of hs_token
	native *native.Bridge
}

// openNetworks makes the bridges and opens the IRC listeners, so that a port
// that is taken stops the start.
func openNetworks(ctx context.Context, cfg *configs.Config, own nativeParts, reg prometheus.Registerer, log *slog.Logger) (*networks, error) {
	ic, err := ircConfig(cfg)
	if err != nil {
		return nil, err
	}
	n := &networks{cfg: cfg, irc: irc.New(ic, log), tokens: map[[32]byte]http.Handler{}}
	for _, m := range cfg.Matrix {
		mc, err := matrixConfig(cfg, m)
		if err != nil {
			return nil, err
		}
		b := matrix.New(mc, log, reg)
		n.matrix = append(n.matrix, b)
		n.tokens[sha256.Sum256([]byte(mc.HSToken))] = b.Handler()
	}
	nc, err := nativeConfig(cfg, own, n.irc)
	if err != nil {
		return nil, err
	}
	nc.Log, nc.Registerer = log, reg
	if n.native, err = native.New(nc); err != nil {
		return nil, err
	}
	if err := n.irc.Listen(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// bridges lists them for the runtime.
func (n *networks) bridges() []bridges.Bridge {
	out := []bridges.Bridge{n.irc, n.native}
	for _, b := range n.matrix {
		out = append(out, b)
	}
	return out
}

// linkers are the bridges that can enter or make a place for a room.
func (n *networks) linkers() map[core.Network]linker {
	out := map[core.Network]linker{}
	for _, b := range n.matrix {
		out[b.Network()] = b
	}
	return out
}

// ircConfig says cfg in the words of the IRC listener.
func ircConfig(cfg *configs.Config) (irc.Config, error) {
	i, l := cfg.IRC, cfg.IRC.Limits
	secret, err := cfg.ReadSecret("", i.CloakSecretFile)
	if err != nil {
		return irc.Config{}, err
	}
	if len(secret) < 16 {
		return irc.Config{}, &configs.Error{Problems: []string{"irc.cloak_secret_file: holds fewer than 16 octets"}}
	}
	motd, err := motdText(cfg)
	if err != nil {
		return irc.Config{}, err
	}
	access, err := ircAccess(cfg)
	if err != nil {
		return irc.Config{}, err
	}
	return irc.Config{
		Version: "isthmus-" + version().Version, Domain: cfg.Domain, Network: cfg.Network, ServerName: i.ServerName, MOTD: motd, Admin: i.Admin, Icon: i.Icon,
		CaseMapping: i.CaseMapping, Secret: []byte(secret.Reveal()), Suffix: i.RemoteSuffix,
		Guests: i.Guests, CreateChannels: i.CreateChannels, ReserveNicks: i.ReserveNicks, JoinHistory: i.JoinHistory,
		Access:              access,
		Accounts:            irc.Accounts{Registration: i.Accounts.Registration, Passwords: passwords(cfg), Hashers: i.Accounts.Hashers},
		RegistrationTimeout: time.Duration(l.RegistrationTimeout), PingInterval: time.Duration(l.PingInterval), PingTimeout: time.Duration(l.PingTimeout),
		CommandBurst: l.CommandBurst, CommandInterval: time.Duration(l.CommandInterval), SendQueue: int(l.SendQueue), RecvQueue: int(l.RecvQueue),
		Channels: l.Channels, NickLen: l.NickLength, ChannelLen: l.ChannelLength, TopicLen: l.TopicLength, KickLen: l.KickLength,
		AwayLen: l.AwayLength, RealLen: l.RealLength, MaxTargets: l.Targets, Monitor: l.Monitor, History: l.History,
		MultiBytes: int(l.MultilineBytes), MultiLines: l.MultilineLines,
	}, nil
}

func ircAccess(cfg *configs.Config) (irc.Access, error) {
	i := cfg.IRC
	a := irc.Access{
		Origins: i.Origins, Forwarded: prefixes(i.Forwarded), STS: time.Duration(i.STS),
		Limits: irc.ConnLimits{Total: i.Limits.Connections, PerAddress: i.Limits.PerAddress, Burst: i.Limits.ConnectBurst,
			Interval: time.Duration(i.Limits.ConnectInterval), Exempt: prefixes(i.Limits.Exempt)},
	}
	for _, l := range i.Listeners {
		a.Listeners = append(a.Listeners, irc.Listener{Name: l.Name, Address: l.Address, TLS: l.TLS, CertFile: cfg.Path(l.CertFile),
			KeyFile: cfg.Path(l.KeyFile), WebSocket: l.WebSocket, Origins: l.Origins, Proxy: prefixes(l.Proxy)})
	}
	for _, w := range i.WebIRC {
		password, err := cfg.ReadSecret(w.Password, w.PasswordFile)
		if err != nil {
			return a, err
		}
		a.WebIRC = append(a.WebIRC, irc.WebIRC{From: prefixes(w.From), Password: password.Reveal()})
	}
	return a, nil
}

// prefixes parses networks that the configuration has been checked for.
func prefixes(list []string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func passwords(cfg *configs.Config) irc.Passwords {
	a := cfg.IRC.Accounts
	return irc.Passwords{MinLength: a.MinPassword, Memory: uint32(a.Argon2Memory >> 10), Passes: uint32(a.Argon2Passes)}
}

// motdText is the message of the day: the file's text if there is a file.
func motdText(cfg *configs.Config) (string, error) {
	if cfg.IRC.MOTDFile == "" {
		return strings.TrimRight(cfg.IRC.MOTD, "\n"), nil
	}
	text, err := cfg.ReadSecret("", cfg.IRC.MOTDFile)
	return text.Reveal(), err
}

// route puts the bridges' handlers where the HTTP address serves them.
func (n *networks) route(mux *http.ServeMux) {
	if n.cfg.API.Enabled {
		mux.Handle("/v1/", n.native.Handler())
		mux.Handle("/.well-known/isthmus", n.native.Handler())
	}
	mux.Handle(native.DirectoryPath, n.native.Directory())
	if n.cfg.IRC.WebSocket {
		mux.Handle("/irc", n.irc.WebSocket())
	}
	if len(n.matrix) > 0 {
		h := matrixHandler(n.tokens, n.matrix[0].Handler())
		for _, path := range matrixPaths {
			mux.Handle(path, h)
		}
	}
}

// listening reports whether all listeners are open.
func (n *networks) listening() error {
	if open, want := len(n.irc.Addrs()), len(n.cfg.IRC.Listeners); open != want {
		return core.Errorf(core.Unavailable, "%d of %d listeners are open", open, want)
	}
	if !n.native.Ready() {
		return core.Errorf(core.Unavailable, "the device API has not started")
	}
	return nil
}

// reload applies what of cfg can change while the bridges run, and reads
// certificates again.
func (n *networks) reload(cfg *configs.Config) error {
	ic, err := ircConfig(cfg)
	if err != nil {
		return err
	}
	return errors.Join(n.irc.Reload(ic), n.native.Reload())
}

// channelFold returns how the names of channels compare.
func channelFold(cfg *configs.Config) func(string) string {
	return func(name string) string { return irc.Fold(cfg.IRC.CaseMapping, name) }
}

// capsOf says what each network that can be linked carries.
func capsOf(cfg *configs.Config) map[core.Network]core.Caps {
	out := map[core.Network]core.Caps{}
	for _, m := range cfg.Matrix {
		out[matrixNetwork(m)] = (*matrix.Bridge)(nil).Caps() // the same for all, and a constant
	}
	return out
}
