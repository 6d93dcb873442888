package client

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/epoch"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/policy"
	"github.com/isthmus-chat/isthmus/core/wire"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// Bounds of what proves a state.
const (
	maxChain = 64 // certificates; a homeserver remembers 48 that changed who decides
	maxTold  = 64 // devices that one reads of after a room was entered anew
)

// prove says why it is not proven that a room's homeservers agreed on a state that one
// of them shows. A device that was in the room begins with who decided as far as it
// knows, and follows the certificates from there; what it has seen itself needs none.
// One that comes for the first time knows nobody: it demands those whom the state names
// once they have signed its own commit, see admitted. For a Welcome see proveWelcome.
func (c *Client) prove(ctx context.Context, id core.RoomID, encoded [][]byte, shown *mls.GroupContext) error {
	p, err := stateOf(shown.Extensions)
	if err != nil {
		return err
	}
	by, from, err := c.ground(ctx, id)
	if err != nil {
		return err
	}
	if own := c.rooms[id]; by != nil && shown.Epoch <= from {
		if own == nil || own.g == nil || !bytes.Equal(own.g.Public().ContextBytes(), shown.AppendTo(nil)) {
			return core.Errorf(core.Denied, "this device has seen a newer state of the room, or another of that epoch")
		}
		return nil
	}
	who := p.Authority()
	if shown.Epoch == 0 {
		if d := who.Domains; len(d) != 1 || d[0] != id.Domain() {
			return core.Errorf(core.Denied, "a room begins at the homeserver that it is named after")
		}
		return nil
	}
	certs, err := leading(id, encoded, shown, who)
	if err != nil {
		return err
	}
	last := certs[len(certs)-1]
	if by == nil {
		if len(last.Domains()) > policy.MaxAuthority {
			return core.Errorf(core.Denied, "more homeservers have signed than may decide")
		}
		return c.signedBy(ctx, last, policy.Authority{Domains: last.Domains()})
	}
	return c.trace(ctx, id, certs, *by, from)
}

// leading reads certificates that lead to a state: the last is of the commit that opened
// its epoch.
func leading(id core.RoomID, encoded [][]byte, shown *mls.GroupContext, who policy.Authority) ([]*epoch.Certificate, error) {
	certs, err := parseChain(encoded)
	if err == nil {
		last := certs[len(certs)-1].Facts()
		err = cmp.Or(names(last, id, nil, shown), decides(last, who))
	}
	if err != nil {
		return nil, core.Errorf(core.Denied, "%w", err)
	}
	return certs, nil
}

// trace follows certificates to the last of them, beginning with who decided at an epoch.
func (c *Client) trace(ctx context.Context, id core.RoomID, certs []*epoch.Certificate, by policy.Authority, from uint64) error {
	last := certs[len(certs)-1]
	for _, cert := range certs[:len(certs)-1] {
		f := cert.Facts()
		if f.Room != id || f.Epoch <= from || f.Epoch >= last.Facts().Epoch {
			continue
		}
		if err := c.signedBy(ctx, cert, by); err == nil {
			by, from = policy.Authority{Domains: f.Voters, Rule: policy.Rule(f.Rule)}, f.Epoch
		} else if core.Temporary(err) {
			return err
		}
	}
	return c.signedBy(ctx, last, by)
}

// proveWelcome says why it is not proven that a room's homeservers agreed on the state
// that a Welcome leads to. To a room that is new to this device the certificates lead from
// the homeserver that it is named after, which decides alone in the beginning. Where they
// do not reach so far back, those whom the state names have to have signed it themselves:
// vouched says who did. If they have not, the error is errUntraced, and Temporary if that
// homeserver may have been away.
func (c *Client) proveWelcome(ctx context.Context, id core.RoomID, encoded [][]byte, shown *mls.GroupContext) (vouched string, err error) {
	by, _, err := c.ground(ctx, id)
	if err != nil || by != nil {
		return "", cmp.Or(err, c.prove(ctx, id, encoded, shown))
	}
	p, err := stateOf(shown.Extensions)
	if err != nil {
		return "", err
	}
	certs, err := leading(id, encoded, shown, p.Authority())
	if err != nil {
		return "", err
	}
	untraced := c.trace(ctx, id, certs, policy.Authority{Domains: []string{id.Domain()}}, 0)
	if untraced == nil {
		return "", nil
	}
	last := certs[len(certs)-1]
	switch err = c.signedBy(ctx, last, p.Authority()); {
	case err == nil:
		return vouchedBy(c.vouchers(last, p.Authority())), nil
	case core.Temporary(err):
		return "", err
	}
	return "", fmt.Errorf("%w: %w", errUntraced, untraced)
}

// errUntraced says that certificates begin with nobody whom this device could know. Who
// enters by a commit of its own needs no such beginning.
var errUntraced = errors.New("who decided before the Welcome is not known here")

// vouchedBy says who signed that this device is in a room.
func vouchedBy(signers []string) string { return "vouched for by " + strings.Join(signers, ", ") }

func parseChain(encoded [][]byte) (certs []*epoch.Certificate, err error) {
	if len(encoded) == 0 || len(encoded) > maxChain {
		return nil, errors.New("no certificate of its homeservers comes with it")
	}
	for _, b := range encoded {
		cert, err := epoch.ParseCertificate(b)
		if err != nil {
			return nil, err
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// decides says whether those are who decides from a commit on as was signed.
func decides(a epoch.Approval, who policy.Authority) error {
	if slices.Equal(slices.Sorted(slices.Values(a.Voters)), slices.Sorted(slices.Values(who.Domains))) && a.Rule == uint8(who.Rule) {
		return nil
	}
	return errors.New("the homeservers signed that others decide than it names")
}

// ground is who decides in a room as far as this device knows, and since when; nil if
// it was not in it, or no longer remembers.
func (c *Client) ground(ctx context.Context, id core.RoomID) (*policy.Authority, uint64, error) {
	r := c.rooms[id]
	if r == nil || r.Kind != core.Group || !r.Joined && r.Kept == 0 {
		return nil, 0, nil
	}
	if err := c.open(ctx, r); err != nil {
		return nil, 0, err
	}
	a := r.p.Authority()
	return &a, r.g.Epoch(), nil
}

// signedBy verifies a certificate by the pinned keys of those who decide, which are
// fetched where there are none, or others by now. A Temporary error may pass.
func (c *Client) signedBy(ctx context.Context, cert *epoch.Certificate, by policy.Authority) (err error) {
	for _, again := range []bool{false, true} {
		var away error
		for _, d := range cert.Domains() {
			if !by.Has(d) {
				continue
			}
			_, err := c.chain(ctx, d, func(*identity.Chain) bool { return !again })
			if err != nil && core.Temporary(err) {
				away = err
			}
			if ctx.Err() != nil || !c.loaded { // it was not looked at
				return core.Errorf(core.Unavailable, "interrupted before a certificate was looked at")
			}
		}
		if err = c.signed(cert, by, c.cfg.Now().Unix()); err == nil {
			return nil
		}
		if away != nil {
			return away
		}
		if !errors.Is(err, identity.ErrUnknownKey) {
			break
		}
	}
	return core.Errorf(core.Denied, "%w", err)
}

// signed verifies that enough of those who decide have signed, by keys that are pinned
// and were in force at one of these times.
func (c *Client) signed(cert *epoch.Certificate, by policy.Authority, times ...int64) error {
	return cert.Verify(by.Domains, uint8(by.Rule), func(domain string, signed, sig []byte) (err error) {
		p := c.chains[domain]
		if p == nil {
			return identity.ErrUnknownKey
		}
		for _, at := range times {
			if err = p.chain.Verify(epoch.ApprovalLabel, sig, at, signed); err == nil {
				return nil
			}
		}
		return err
	})
}

// vouchers are those who decide and have signed a certificate that is valid. Others may
// stand in it as well, with whatever signature: it is no less valid for that.
func (c *Client) vouchers(cert *epoch.Certificate, by policy.Authority) []string {
	return slices.DeleteFunc(cert.Domains(), func(d string) bool {
		return !by.Has(d) || c.signed(cert, policy.Authority{Domains: []string{d}}, c.cfg.Now().Unix()) != nil
	})
}

// unproven refuses what the homeserver shows and cannot prove, and tells people. What
// may pass stays what it is.
func (c *Client) unproven(id core.RoomID, what string, why error) error {
	if core.Temporary(why) {
		return why
	}
	text := what + " is not proven: " + core.TextOf(why)
	c.tell(Update{Kind: Alarm, Room: id, Text: text})
	return core.Refuse(core.Invalid, core.Unproven, text)
}

// admit enters a room by the certificate of this device's own commit; the place of that
// commit in the log is 0 if it is not known. Without proof the group is dropped.
func (c *Client) admit(ctx context.Context, r *room, encoded []byte, seq uint64) error {
	g, j, err := c.loadJoining(ctx, r)
	if err != nil {
		return err
	}
	id, what := r.ID, r.JoinID
	signers, err := c.attested(ctx, id, encoded, g, j)
	if r = c.stillJoining(id, what); r == nil {
		return nil // meanwhile
	}
	if err == nil {
		return c.entered(ctx, id, seq, vouchedBy(signers))
	}
	if err = c.unproven(id, "that this device came into the room", err); core.CodeOf(err) == core.Invalid {
		c.dropJoining(r)
	}
	return err
}

// attested verifies that those who decide have signed the commit that a device enters
// by, and what became of the group by it; it returns who did.
func (c *Client) attested(ctx context.Context, id core.RoomID, encoded []byte, g *group.Group, j joining) ([]string, error) {
	if j.Handshake == nil {
		return nil, core.Errorf(core.Internal, "a room that this device made is entered by no commit")
	}
	p, err := stateOf(g.Public().Context().Extensions)
	if err != nil {
		return nil, err
	}
	cert, err := epoch.ParseCertificate(encoded)
	if err != nil {
		return nil, err
	}
	if err := cmp.Or(names(cert.Facts(), id, j.Handshake.Message, g.Public().Context()), decides(cert.Facts(), p.Authority())); err != nil {
		return nil, core.Errorf(core.Denied, "%w", err)
	}
	if err := c.signedBy(ctx, cert, p.Authority()); err != nil {
		return nil, err
	}
	return c.vouchers(cert, p.Authority()), nil
}

// admitted enters a room that the homeserver says this device was let into, once the
// homeservers that decide there have signed its commit: so it is in the room, and not
// in a copy that its own homeserver made.
func (c *Client) admitted(ctx context.Context, id core.RoomID, seq uint64) error {
	var last error
	for n := range maxUnknown {
		if n > 0 {
			if err := c.pause(ctx, min(n+2, 9)); err != nil {
				return err
			}
		}
		r := c.rooms[id]
		if r == nil || !r.Joining {
			return nil // an event said so before
		}
		g, j, err := c.loadJoining(ctx, r)
		if err != nil {
			return err
		}
		what := r.JoinID
		a, err := ask(ctx, c, func(ctx context.Context) (wire.Certificates, error) {
			return c.cfg.Home.Certificates(ctx, id, g.Epoch())
		})
		if r = c.stillJoining(id, what); r == nil {
			return nil
		}
		if err == nil && len(a.Certificates) > 0 {
			return c.admit(ctx, r, a.Certificates[len(a.Certificates)-1], seq)
		}
		if code := core.CodeOf(err); err != nil && !core.Temporary(err) && code != core.NotFound {
			return err
		}
		if last = cmp.Or(err, core.Errorf(core.Unavailable, "no certificate")); c.now()-j.Since > proofGrace.Milliseconds() {
			c.dropJoining(r) // and enters anew
			break
		}
	}
	return core.Errorf(core.Unavailable, "the room's homeservers have not signed yet that this device came in: %w", last)
}
