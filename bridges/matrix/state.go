package matrix

import (
	"context"
	"encoding/json"
	"strings"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/converter"
	"github.com/isthmus-chat/isthmus/core"
)

// deliverState carries membership, roles and profiles.
func (b *Bridge) deliverState(ctx context.Context, gw bridges.Gateway, l *core.Link, ev *core.Event) (core.Report, error) {
	c := ev.Control
	user := c.User
	if user == "" {
		user = ev.Sender
	}
	mxid := b.mxid(user)
	done, skipped := core.Report{}, core.Report{Skipped: true}
	by := ""
	if s, ok := ev.Signed(); ok {
		by = s.Name
	}
	matrixUser := b.isMatrix(user)
	switch c.Op {
	case core.OpJoin:
		if l.Mode != core.Mirror || matrixUser {
			return skipped, nil
		}
		return done, b.mirror(ctx, gw, l, user, c.Profile)
	case core.OpLeave, core.OpKick:
		if matrixUser {
			if c.Op == core.OpLeave {
				return skipped, nil // of a Matrix user it was said by Matrix
			}
			return b.asBot(ctx, l, "kick", mxid, reasonBy(by, c.Text))
		}
		return b.ghostLeaves(ctx, l, mxid, c, by)
	case core.OpRole:
		return b.deliverRole(ctx, l, mxid, c.Role, matrixUser, by)
	case core.OpInvite:
		if !matrixUser {
			return skipped, nil
		}
		return b.asBot(ctx, l, "invite", mxid, reasonBy(by, ""))
	case core.OpProfile:
		if matrixUser || c.Profile == nil {
			return skipped, nil
		}
		return b.deliverProfile(ctx, l, user, c.Profile)
	case core.OpBan, core.OpUnban:
		if target, ok := b.maskedUser(c.Mask); ok && (c.List == 'b' || c.List == 0) {
			verb := map[core.Op]string{core.OpBan: "ban", core.OpUnban: "unban"}[c.Op]
			return b.asBot(ctx, l, verb, target, reasonBy(by, c.Text))
		}
		return core.Report{Loss: []core.Loss{{Kind: converter.LossState, Text: "A ban mask means nothing on Matrix: ban the user there, or by account ($a:@user:server)."}}}, nil
	}
	return skipped, nil
}

func reasonBy(name, text string) string {
	switch {
	case name == "":
		return text
	case text == "":
		return "by " + name
	}
	return "by " + name + ": " + text
}

// maskedUser returns the one Matrix user whom a ban mask names, if it does.
func (b *Bridge) maskedUser(mask string) (string, bool) {
	for _, prefix := range []string{"$a:", "~account:"} {
		if id, ok := strings.CutPrefix(mask, prefix); ok && !strings.ContainsAny(id, "*?") {
			_, _, ok := splitMXID(id)
			return id, ok && !b.ours(id)
		}
	}
	return "", false
}

// asBot does something to a Matrix user as our bot. Where our bot may not, the
// one who asked is told.
func (b *Bridge) asBot(ctx context.Context, l *core.Link, verb, mxid, reason string) (core.Report, error) {
	err := b.client.member(ctx, "", l.Place, verb, mxid, reason)
	if core.CodeOf(err) == core.Denied && err != nil {
		if err = b.lostRoom(ctx, l, err); core.CodeOf(err) == core.Denied {
			return core.Report{Loss: []core.Loss{{Kind: converter.LossState, Text: "The gateway may not " + verb + " users in the linked Matrix room: it needs more power there."}}}, nil
		}
	}
	return core.Report{}, err
}

// mirror lets the ghost of somebody who joined enter at once, within the budget
// and only if they are still here when their turn comes.
func (b *Bridge) mirror(ctx context.Context, gw bridges.Gateway, l *core.Link, user core.UserURI, p *core.Profile) error {
	if b.ghosts.isJoined(l.Place, b.mxid(user)) {
		return nil
	}
	if err := b.budget.Wait(ctx); err != nil {
		return err
	}
	name, avatar := "", ""
	if p != nil {
		name, avatar = p.Name, mxcOnly(p.Avatar)
	}
	mxid, entered, err := b.ghost(ctx, l, user, name, avatar)
	if err == nil && entered {
		b.settleIn(ctx, gw, l, mxid)
	}
	return err
}

// mxcOnly: an avatar at any other address would have to be fetched by us, for
// whoever names it.
func mxcOnly(u string) string {
	if strings.HasPrefix(u, "mxc://") {
		return u
	}
	return ""
}

// ghostLeaves takes out a ghost; one that never came is not looked for.
func (b *Bridge) ghostLeaves(ctx context.Context, l *core.Link, mxid string, c *core.Control, by string) (core.Report, error) {
	if err := b.loadRoom(ctx, l.Place); err != nil {
		return core.Report{}, b.lostRoom(ctx, l, err)
	}
	if !b.ghosts.isJoined(l.Place, mxid) {
		return core.Report{Skipped: true}, nil
	}
	reason := c.Text
	if c.Op == core.OpKick {
		reason = reasonBy(by, reason)
	}
	return core.Report{}, b.leave(ctx, l.Place, mxid, reason)
}

func (b *Bridge) deliverProfile(ctx context.Context, l *core.Link, user core.UserURI, p *core.Profile) (core.Report, error) {
	mxid := b.mxid(user)
	if err := b.loadRoom(ctx, l.Place); err != nil {
		return core.Report{}, b.lostRoom(ctx, l, err)
	}
	if !b.ghosts.isJoined(l.Place, mxid) {
		return core.Report{Skipped: true}, nil // its first words will bring the name
	}
	var loss []core.Loss
	if p.Avatar != "" && mxcOnly(p.Avatar) == "" {
		loss = []core.Loss{{Kind: converter.LossMedia, Text: "Your avatar is not shown on Matrix: it is not an mxc address."}}
	}
	_, _, err := b.ghost(ctx, l, user, p.Name, mxcOnly(p.Avatar))
	return core.Report{Loss: loss}, err
}

// deliverRole sets a power level, bans or lifts a ban.
func (b *Bridge) deliverRole(ctx context.Context, l *core.Link, mxid string, role core.Role, matrixUser bool, by string) (core.Report, error) {
	if role == core.RoleBanned {
		if !matrixUser {
			return b.ghostLeaves(ctx, l, mxid, &core.Control{Op: core.OpKick}, by)
		}
		return b.asBot(ctx, l, "ban", mxid, reasonBy(by, ""))
	}
	if matrixUser && role <= core.RoleMember {
		var m memberContent
		err := b.client.state(ctx, l.Place, "m.room.member", mxid, &m)
		if err == nil && m.Membership == "ban" {
			return b.asBot(ctx, l, "unban", mxid, reasonBy(by, ""))
		} else if err != nil && core.Temporary(err) {
			return core.Report{}, err
		}
	}
	return b.setLevel(ctx, l, mxid, converter.LevelOfRole(role))
}

// setLevel changes one user's power level and nothing else in that event.
func (b *Bridge) setLevel(ctx context.Context, l *core.Link, mxid string, level int64) (core.Report, error) {
	var content map[string]json.RawMessage
	if err := b.client.state(ctx, l.Place, "m.room.power_levels", "", &content); err != nil && core.CodeOf(err) != core.NotFound {
		return core.Report{}, b.lostRoom(ctx, l, err)
	}
	if content == nil {
		content = map[string]json.RawMessage{}
	}
	levels := map[string]json.RawMessage{}
	json.Unmarshal(content["users"], &levels) // absent: nobody has a level
	var now, usual int64
	json.Unmarshal(content["users_default"], &usual)
	if now = usual; levels[mxid] != nil {
		json.Unmarshal(levels[mxid], &now)
	}
	if converter.RoleOfLevel(now) == converter.RoleOfLevel(level) {
		return core.Report{Skipped: true}, nil
	}
	levels[mxid], _ = json.Marshal(level)
	if level == usual {
		delete(levels, mxid)
	}
	content["users"], _ = json.Marshal(levels)
	_, err := b.client.setState(ctx, "", l.Place, "m.room.power_levels", "", content)
	if core.CodeOf(err) == core.Denied && err != nil {
		return core.Report{Loss: []core.Loss{{Kind: converter.LossState, Text: "The gateway may not change roles in the linked Matrix room: it needs more power there."}}}, nil
	}
	return core.Report{}, err
}
