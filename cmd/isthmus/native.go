package main

import (
	"crypto/ed25519"
	"time"

	"github.com/isthmus-chat/isthmus/bridges/irc"
	"github.com/isthmus-chat/isthmus/bridges/native"
	"github.com/isthmus-chat/isthmus/configs"
	"github.com/isthmus-chat/isthmus/core/identity"
)

// nativeParts is what the native bridge shares with the engine.
type nativeParts struct {
	key   ed25519.PrivateKey
	block *identity.Blocklist
	awake func() bool // whether the agreement wants Ticks
}

// nativeConfig says cfg in the words of the device API and of federation.
// Accounts are those of IRC: one name, one password, whichever the door.
func nativeConfig(cfg *configs.Config, own nativeParts, accounts *irc.Server) (native.Config, error) {
	f, a := cfg.Federation, cfg.API
	c := native.Config{Domain: cfg.Domain, Key: own.key,
		API: native.APIConfig{
			Registration: a.Registration, SessionLifetime: time.Duration(a.SessionLifetime), Requests: a.RequestsPerSecond,
			Messages: a.MessagesPerSecond, Streams: a.Streams, Forwarded: prefixes(a.Forwarded),
			Login: accounts.Login, Account: irc.NameOnly, Profile: accounts.AbsentProfile, Fold: channelFold(cfg),
		},
		Federation: native.FederationConfig{
			Address: f.Address, CertFile: cfg.Path(f.CertFile), KeyFile: cfg.Path(f.KeyFile), CAFile: cfg.Path(f.CAFile), Base: f.Base,
			Blocked: own.block.Blocked, Awake: own.awake,
			Limits: native.FederationLimits{Requests: f.Limits.Requests, Parallel: f.Limits.Parallel, InFlight: f.Limits.InFlight,
				Memory: int64(f.Limits.Memory)},
		}}
	for _, p := range f.Peers {
		if p.Name != cfg.Domain { // one list may serve several homeservers
			c.Federation.Peers = append(c.Federation.Peers, native.Peer{Domain: p.Name, Address: p.Address})
		}
	}
	if a.Registration == native.RegistrationToken {
		token, err := cfg.ReadSecret(a.RegistrationToken, a.RegistrationTokenFile)
		if err != nil {
			return c, err
		}
		c.API.Token = token.Reveal()
	}
	return c, nil
}
