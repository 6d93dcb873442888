package matrix

import (
	"context"
	"net/url"

	"github.com/isthmus-chat/isthmus/core"
)

// Check asks the homeserver whether we can work together, and says what to do
// if not: is it there, does it know our token, are we who we think, and, with
// back, does it reach Handler at ListenURL. It needs no Run.
func (b *Bridge) Check(ctx context.Context, back bool) error {
	if err := b.cfg.check(); err != nil {
		return err
	}
	var me struct {
		UserID string `json:"user_id"`
	}
	err := b.client.call(ctx, "GET", "v3/account/whoami", "", nil, &me)
	switch {
	case hasCode(err, "M_UNKNOWN_TOKEN") || hasCode(err, "M_MISSING_TOKEN"):
		return core.Errorf(core.Unauthenticated, "the Matrix homeserver does not know our as_token: install the file that 'isthmus registration matrix' writes, and restart it")
	case err != nil:
		return core.Errorf(core.Unavailable, "no Matrix homeserver answers at its url: is it running? %w", err)
	case me.UserID != b.bot:
		return core.Errorf(core.Invalid, "the Matrix homeserver calls us %s, the configuration %s: server or bot differ from the registration file", me.UserID, b.bot)
	case !back:
		return nil
	}
	err = b.client.call(ctx, "POST", "v1/appservice/"+url.PathEscape(b.cfg.ID)+"/ping", "", struct{}{}, nil)
	switch {
	case core.CodeOf(err) == core.Unsupported && err != nil:
		return nil // a homeserver before v1.7 of the specification
	case hasCode(err, "M_BAD_STATUS"):
		return core.Errorf(core.Unauthenticated, "the Matrix homeserver reaches us with another hs_token: install the registration file again")
	case err != nil:
		return core.Errorf(core.Unavailable, "the Matrix homeserver does not reach us at listen_url: %w", err)
	}
	return nil
}
