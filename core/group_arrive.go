package core

import "github.com/isthmus-chat/isthmus/core/identity"

// awaited says why a room that is not here is not taken up from another homeserver,
// since anybody may offer one: it is to have a device of this homeserver, and those
// with this homeserver's name begin here. So nobody fills the store with rooms of
// strangers, or takes a name of ours.
func (e *Engine) awaited(r Reader, room RoomID, g *groupState) error {
	if room.Domain() == e.cfg.Homeserver {
		return Errorf(Denied, "a room of this homeserver begins here")
	}
	for _, l := range g.public.Tree().All() {
		c, err := leafClient(l)
		if err != nil || DeviceURI(c.Device).Domain() != e.cfg.Homeserver {
			continue
		}
		d, err := getDevice(r, DeviceURI(c.Device))
		if err != nil && !isAbsent(err) {
			return asBroken(err)
		}
		if err != nil || !d.Local {
			continue
		}
		rec, err := identity.ParseRecord(d.Record)
		if err == nil && identity.LeafFits(rec, []byte(c.Device), l.SignatureKey, []byte(c.User)) == nil {
			return nil
		}
	}
	return Errorf(Denied, "nobody of this homeserver is in that room")
}
