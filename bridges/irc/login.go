package irc

import (
	"context"
	"net/netip"

	"github.com/isthmus-chat/isthmus/core"
)

// Login checks a name and a password or login token for another door of this
// homeserver, with the memory of failures that IRC logins have: whoever guesses
// here is slowed down there. Errors are Unauthenticated, Denied (disabled),
// Limited with RetryAfter, Unavailable before Run, or the store's.
func (srv *Server) Login(ctx context.Context, from netip.Addr, name, password string) (core.Account, error) {
	auth := srv.door.Load()
	if auth == nil {
		return core.Account{}, core.Errorf(core.Unavailable, "the homeserver is starting")
	}
	return auth.plain(ctx, from, name, password)
}

// NameOnly returns an account that nobody can log in to: it keeps its name for a
// user who has devices and no password. User and Created are left to the caller. Invalid
// if nobody can be called that.
func NameOnly(name string) (core.Account, error) {
	if err := checkAccountName(name); err != nil {
		return core.Account{}, err
	}
	return core.Account{Name: name, Fold: AccountKey(name)}, nil
}
