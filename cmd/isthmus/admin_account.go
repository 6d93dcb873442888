package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/bridges/irc"
	"github.com/isthmus-chat/isthmus/core"
)

// maxCredentials bounds an account's login tokens, and its certificates: a few
// for each client that somebody may have, and each login looks at all of them.
const maxCredentials = 32

type accountInfo struct {
	Name     string       `json:"name"`
	User     core.UserURI `json:"user"`
	Created  time.Time    `json:"created"`
	Disabled bool         `json:"disabled,omitempty"`
}

func describeAccount(a core.Account) accountInfo {
	return accountInfo{a.Name, a.User, a.Created, a.Disabled}
}

type accountList struct {
	Accounts []accountInfo `json:"accounts"`
	More     bool          `json:"more,omitempty"`
}

func (a *admin) accountList(ctx context.Context, _ nothing) (out accountList, err error) {
	err = a.gw.View(ctx, func(r core.Reader) error {
		as, err := r.Accounts("", maxListed+1)
		if len(as) > maxListed {
			as, out.More = as[:maxListed], true
		}
		out.Accounts = make([]accountInfo, len(as))
		for i, x := range as {
			out.Accounts[i] = describeAccount(x)
		}
		return err
	})
	return out, err
}

func (a *admin) account(ctx context.Context, name string) (out core.Account, err error) {
	err = a.gw.View(ctx, func(r core.Reader) error {
		out, err = r.Account(irc.AccountKey(name))
		return err
	})
	if core.CodeOf(err) == core.NotFound {
		err = core.Errorf(core.NotFound, "there is no account %s", name)
	}
	return out, err
}

type credentials struct {
	Name     string `json:"name"`
	Password string `json:"password"`
}

func (a *admin) accountAdd(ctx context.Context, req credentials) (accountInfo, error) {
	acc, err := a.passwords.NewAccount(req.Name, req.Password, rand.Reader)
	if err != nil {
		return accountInfo{}, err
	}
	acc.User, acc.Created = core.NewUserURI(a.domain, acc.Fold), a.now()
	if _, err := a.gw.Do(ctx, core.PutAccount{Account: acc, Create: true}); err != nil {
		return accountInfo{}, err
	}
	return describeAccount(acc), nil
}

// changeAccount stores what change makes of an account.
func (a *admin) changeAccount(ctx context.Context, name string, change func(*core.Account) error) (accountInfo, error) {
	acc, err := a.account(ctx, name)
	if err != nil {
		return accountInfo{}, err
	}
	if err := change(&acc); err != nil {
		return accountInfo{}, err
	}
	if _, err := a.gw.Do(ctx, core.PutAccount{Account: acc}); err != nil {
		return accountInfo{}, err
	}
	return describeAccount(acc), nil
}

func (a *admin) accountPassword(ctx context.Context, req credentials) (accountInfo, error) {
	return a.changeAccount(ctx, req.Name, func(acc *core.Account) error {
		acc.Tokens = nil // whoever knew the old password may hold one
		return a.passwords.Set(acc, req.Password, rand.Reader)
	})
}

type accountRef struct {
	Name string `json:"name"`
}

// accountToken makes a login token. Only its hash is kept, so the answer is the
// one time that it is shown: as the password, which it stands for.
func (a *admin) accountToken(ctx context.Context, req accountRef) (out newCredentials, err error) {
	out.accountInfo, err = a.changeAccount(ctx, req.Name, func(acc *core.Account) error {
		if len(acc.Tokens) >= maxCredentials {
			return core.Errorf(core.TooLarge, "%s has %d login tokens; a new password ends them", acc.Name, maxCredentials)
		}
		token, stored, err := irc.NewToken(rand.Reader)
		out.Password, acc.Tokens = token, append(acc.Tokens, stored)
		return err
	})
	return out, err
}

type accountCert struct {
	Name        string `json:"name"`
	Fingerprint string `json:"fingerprint"` // SHA-256 of the certificate in hex, colons allowed
	Remove      bool   `json:"remove"`
}

// accountCert lets a client certificate log in (SASL EXTERNAL), or not any more.
func (a *admin) accountCert(ctx context.Context, req accountCert) (accountInfo, error) {
	fingerprint := strings.ToLower(strings.ReplaceAll(req.Fingerprint, ":", ""))
	if b, err := hex.DecodeString(fingerprint); err != nil || len(b) != sha256.Size {
		return accountInfo{}, core.Errorf(core.Invalid, "not a SHA-256 fingerprint: it has %d hexadecimal digits", 2*sha256.Size)
	}
	return a.changeAccount(ctx, req.Name, func(acc *core.Account) error {
		i := slices.Index(acc.Certs, fingerprint)
		switch {
		case req.Remove && i < 0:
			return core.Errorf(core.NotFound, "%s has no such certificate", acc.Name)
		case req.Remove:
			acc.Certs = slices.Delete(acc.Certs, i, i+1)
		case i < 0 && len(acc.Certs) >= maxCredentials:
			return core.Errorf(core.TooLarge, "%s has %d certificates already", acc.Name, maxCredentials)
		case i < 0:
			acc.Certs = append(acc.Certs, fingerprint)
		}
		return nil
	})
}

type accountEnable struct {
	Name    string `json:"name"`
	Enabled bool   `json:"enabled"`
}

// accountEnable says whether somebody may log in. Who is connected stays.
func (a *admin) accountEnable(ctx context.Context, req accountEnable) (accountInfo, error) {
	return a.changeAccount(ctx, req.Name, func(acc *core.Account) error {
		acc.Disabled = !req.Enabled
		return nil
	})
}
