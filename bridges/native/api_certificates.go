package native

import (
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// certificates answers GET /v1/rooms/{room}/certificates: a device that came in by a
// commit of its own, or that a Welcome lets in, asks for what proves that this is the
// room, not a copy of it, and the commit not one that lost.
func (a *api) certificates(c *call) (*wire.Certificates, error) {
	room, err := a.room(c)
	if err != nil {
		return nil, err
	}
	out := new(wire.Certificates)
	if out.Epoch, err = c.number("epoch"); err != nil {
		return nil, err
	}
	return out, a.view(c.ctx(), func(v *view) error {
		if _, err := v.mustBeIn(room, c.session.User); err != nil {
			return err
		}
		if out.Certificates, err = epoch.Chain(v, room, out.Epoch); core.CodeOf(err) == core.NotFound {
			err = core.Errorf(core.Unavailable, "too few homeservers have signed that epoch so far")
		}
		return err
	})
}
