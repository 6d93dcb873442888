package native

import (
	"context"
	"crypto/hpke"
	"crypto/rand"
	"errors"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Bounds of what is sealed.
const (
	aeadTag   = 16 // octets of AES-128-GCM
	maxKEM    = 2048
	minLetter = 256 // octets of the smallest size class
	maxAsked  = 16  // homeservers asked by one claim
)

func inboxKey(b []byte) (hpke.PublicKey, error) {
	kem, err := hpke.NewKEM(0x0020) // DHKEM(X25519, HKDF-SHA256)
	if err != nil {
		return nil, core.Errorf(core.Internal, "HPKE: %w", err)
	}
	key, err := kem.NewPublicKey(b)
	if err != nil {
		return nil, core.Errorf(core.Invalid, "key is not an X25519 public key")
	}
	return key, nil
}

// sealGroupInfo seals a lease to the key of who asked for it (wire.GroupInfo):
// those in between see neither who is in the room nor its state.
func sealGroupInfo(room core.RoomID, key []byte, l *core.GroupInfoLease) (*wire.GroupInfo, error) {
	pub, err := inboxKey(key)
	if err != nil {
		return nil, err
	}
	if l == nil {
		return nil, core.Errorf(core.Internal, "a lease without content")
	}
	plain, err := cborOut.Marshal(wire.GroupState{Epoch: l.Epoch, Info: l.Info, Tree: l.Tree, Pending: l.Pending, Certificates: l.Certificates})
	if err != nil {
		return nil, core.Errorf(core.Internal, "encoding a group's state: %w", err)
	}
	kem, sender, err := hpke.NewSender(pub, hpke.HKDFSHA256(), hpke.AES128GCM(), []byte("isthmus group info\x00"+string(room)))
	if err != nil {
		return nil, core.Errorf(core.Invalid, "nothing can be sealed to that key")
	}
	sealed, err := sender.Seal(nil, plain)
	if err != nil {
		return nil, core.Errorf(core.Internal, "sealing a group's state: %w", err)
	}
	return &wire.GroupInfo{KEM: kem, Ciphertext: sealed, Until: l.Until.UnixMilli()}, nil
}

// tree answers GET /v1/rooms/{room}/tree.
func (a *api) tree(c *call) (*wire.Tree, error) {
	room, err := a.room(c)
	if err != nil {
		return nil, err
	}
	out := new(wire.Tree)
	if out.Epoch, err = c.number("epoch"); err != nil {
		return nil, err
	}
	err = a.view(c.ctx(), func(v *view) error {
		if _, err := v.mustBeIn(room, c.session.User); err != nil {
			return err
		}
		out.Tree, err = core.GroupTree(v, room, out.Epoch)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// makeJoinCode answers POST /v1/rooms/{room}/join-codes.
func (a *api) makeJoinCode(c *call, in *wire.JoinCode) (*wire.JoinCode, error) {
	if in.Code == "" {
		var b [10]byte // 80 bits: nobody guesses it by asking
		rand.Read(b[:])
		in.Code = core.Base32.EncodeToString(b[:])
	}
	code, err := a.joinCode(c, in)
	if err != nil {
		return nil, err
	}
	if _, err := a.gw().Do(c.ctx(), core.PutJoinCode{Code: code}); err != nil {
		return nil, err
	}
	return in, nil
}

// dropJoinCode answers DELETE /v1/rooms/{room}/join-codes.
func (a *api) dropJoinCode(c *call, in *wire.JoinCode) (*nothing, error) {
	code, err := a.joinCode(c, in)
	if err == nil {
		_, err = a.gw().Do(c.ctx(), core.PutJoinCode{Code: code, Drop: true})
	}
	return nil, err
}

func (a *api) joinCode(c *call, in *wire.JoinCode) (core.JoinCode, error) {
	room, err := a.room(c)
	if err != nil {
		return core.JoinCode{}, err
	}
	code := core.JoinCode{Room: room, By: c.session.User, Uses: in.Uses}
	if code.Hash, err = a.codes.hash(c.ctx(), string(c.session.User), room, in.Code); err != nil {
		return core.JoinCode{}, err
	}
	if in.Expires > 0 {
		code.Expires = time.UnixMilli(in.Expires)
	}
	return code, nil
}

// putKeyPackages answers PUT /v1/key-packages.
func (a *api) putKeyPackages(c *call, in *wire.PutKeyPackages) (*wire.KeyPackages, error) {
	if len(in.Packages) > core.MaxKeyPackages {
		return nil, core.Errorf(core.TooLarge, "more than %d key packages", core.MaxKeyPackages)
	}
	out, err := a.gw().Do(c.ctx(), core.PutKeyPackages{Device: c.session.Device, Packages: in.Packages})
	if err != nil {
		return nil, err
	}
	return &wire.KeyPackages{Left: out.Left}, nil
}

// countKeyPackages answers GET /v1/key-packages.
func (a *api) countKeyPackages(c *call) (*wire.KeyPackages, error) {
	out := new(wire.KeyPackages)
	return out, a.gw().View(c.ctx(), func(r core.Reader) (err error) {
		out.Left, err = core.KeyPackagesLeft(r, c.session.Device)
		return err
	})
}

// claim answers POST /v1/key-packages/claim. The users' homeservers are asked at
// the same time; one that does not answer fails its own users only.
func (a *api) claim(c *call, in *wire.Claim) (*wire.Claims, error) {
	if len(in.Users) == 0 || len(in.Users) > core.MaxClaim {
		return nil, core.Errorf(core.Invalid, "a claim is for 1 to %d users", core.MaxClaim)
	}
	var domains []string // in the order of the users
	by := map[string][]core.UserURI{}
	for _, u := range in.Users {
		if _, err := core.ParseUserURI(string(u)); err != nil {
			return nil, err
		}
		if by[u.Domain()] == nil {
			domains = append(domains, u.Domain())
		}
		by[u.Domain()] = append(by[u.Domain()], u)
	}
	if len(domains) > maxAsked {
		return nil, core.Errorf(core.TooLarge, "a claim is for users of at most %d homeservers", maxAsked)
	}
	ctx, cancel := context.WithTimeout(c.ctx(), peerTimeout)
	defer cancel()
	results := make([][]core.Claim, len(domains))
	errs := make([]error, len(domains))
	var asking sync.WaitGroup
	for i, d := range domains {
		asking.Go(func() { results[i], errs[i] = a.claimAt(ctx, c, d, by[d], in) })
	}
	asking.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &wire.Claims{Claims: slices.Concat(results...)}, nil
}

func (a *api) claimAt(ctx context.Context, c *call, domain string, users []core.UserURI, in *wire.Claim) ([]core.Claim, error) {
	if a.home(domain) {
		out, err := a.gw().Do(ctx, core.ClaimKeyPackages{By: string(c.session.User), For: c.session.User, Users: users, Suites: in.Suites, Except: c.session.Device})
		return out.Claims, err
	}
	claims, err := a.peers.claim(ctx, domain, wire.PeerClaim{Room: in.Room, By: c.session.User, Except: c.session.Device, Users: users, Suites: in.Suites})
	if err != nil {
		claims = claims[:0:0]
		for _, u := range users {
			claims = append(claims, core.Claim{User: u, Status: core.Unreachable})
		}
	}
	return claims, nil
}

// listConsents answers GET /v1/consent: what the asking user has said.
func (a *api) listConsents(c *call) (*wire.Consents, error) {
	out := &wire.Consents{Consents: []wire.Consent{}}
	return out, a.gw().View(c.ctx(), func(r core.Reader) error {
		all, err := core.ConsentsOf(r, c.session.User)
		for _, one := range all {
			out.Consents = append(out.Consents, wire.Consent{User: one.To, May: one.May})
		}
		return err
	})
}

// putConsent answers PUT /v1/consent.
func (a *api) putConsent(c *call, in *wire.PutConsent) (*wire.Consents, error) {
	_, err := a.gw().Do(c.ctx(), core.PutConsent{User: c.session.User, Consent: core.Consent{To: in.User, May: in.May}, Drop: in.Forget})
	if err != nil {
		return nil, err
	}
	return a.listConsents(c)
}

// putInbox answers POST /v1/inbox/{user}.
func (a *api) putInbox(c *call, in *wire.PutInbox) (*nothing, error) {
	u, err := a.user(c)
	if err != nil {
		return nil, err
	}
	for _, l := range in.Letters {
		if l.Device.Domain() != u.Domain() {
			return nil, core.Errorf(core.Invalid, "a letter is for a device of that user")
		}
	}
	if !a.home(u.Domain()) {
		ctx, cancel := context.WithTimeout(c.ctx(), peerTimeout)
		defer cancel()
		return nil, a.peers.inbox(ctx, u.Domain(), wire.PeerInbox{From: c.session.User, Letters: in.Letters})
	}
	letters, err := lettersOf(in.Letters)
	if err != nil {
		return nil, err
	}
	err = a.gw().View(c.ctx(), func(r core.Reader) error {
		for _, l := range letters {
			d, err := core.DeviceOf(r, l.Device)
			if err != nil || d.User != u || !d.Local {
				return core.Refuse(core.NotFound, core.NoSuchUser, "that user has no such device")
			}
		}
		return nil
	})
	if err == nil {
		_, err = a.gw().Do(c.ctx(), core.PutLetters{From: string(c.session.User), Letters: letters})
	}
	return nil, err
}

// lettersOf checks sealed letters and returns them as they are kept: the body is
// the CBOR of a wire.SealedLetter, which its device opens.
func lettersOf(in []wire.SealedLetter) ([]core.Letter, error) {
	if len(in) == 0 || len(in) > core.MaxDevices {
		return nil, core.Errorf(core.Invalid, "letters are for 1 to %d devices", core.MaxDevices)
	}
	out := make([]core.Letter, 0, len(in))
	for _, l := range in {
		size := len(l.Ciphertext) - aeadTag
		switch {
		case len(l.KEM) == 0 || len(l.KEM) > maxKEM:
			return nil, core.Errorf(core.Invalid, "a letter without a key to open it")
		case size < minLetter || bits.OnesCount(uint(size)) != 1:
			return nil, core.Errorf(core.Invalid, "a letter is padded to a power of two, at least %d octets", minLetter)
		}
		body, err := cborOut.Marshal(l)
		if err != nil {
			return nil, core.Errorf(core.Internal, "encoding a letter: %w", err)
		}
		if len(body) > core.MaxLetter {
			return nil, core.Errorf(core.TooLarge, "a letter over %d octets", core.MaxLetter)
		}
		out = append(out, core.Letter{Device: l.Device, Kind: core.LetterSealed, Body: body})
	}
	return out, nil
}
