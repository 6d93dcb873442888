package native

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/core/wire"
)

// Labels of what devices sign for their homeserver (PROTOCOL §9).
const (
	labelSession  = "isthmus session"         // over a challenge
	labelApproval = "isthmus device approval" // over the record of another device
)

// Bounds of sessions.
const (
	challengeLife = 2 * time.Minute
	challengeSize = 8 + 16 + sha256.Size
	tokenSize     = 32 // octets of randomness: beyond guessing, so one SHA-256 is hash enough
	maxToken      = 128
	basicLife     = time.Hour // of the session that stands for a password in a header: a stream may last so long
)

var errNoSession = core.Errorf(core.Unauthenticated, "a session is needed: POST /v1/sessions opens one; for Channels an account's name and password do (curl -u NAME)")

// errProof is the one answer to every wrong device, challenge and signature.
var errProof = core.Errorf(core.Unauthenticated, "that device has not proven itself: ask for a challenge and sign it")

// openSession answers POST /v1/sessions.
func (a *api) openSession(c *call, in *wire.OpenSession) (*wire.Session, error) {
	now := a.cfg.Now()
	switch {
	case in.Account != "":
		acc, err := a.login(c, in.Account, in.Password)
		if err != nil {
			return nil, err
		}
		return a.newSession(c, core.Session{User: acc.User})
	case in.Device == "":
		return nil, core.Errorf(core.Invalid, "device, or account and password?")
	case len(in.Challenge) == 0:
		return &wire.Session{Challenge: a.challenge(in.Device, now)}, nil
	}
	if !a.challenged(in.Device, in.Challenge, now) {
		return nil, errProof
	}
	d, err := a.ownDevice(c, in.Device)
	if err != nil {
		return nil, err
	}
	if !identity.Verify(d.Key, labelSession, in.Signature, in.Challenge) {
		return nil, errProof
	}
	return a.newSession(c, core.Session{User: d.User, Device: d.URI})
}

// ownDevice finds a device that may have a session here.
func (a *api) ownDevice(c *call, uri core.DeviceURI) (d core.Device, err error) {
	err = a.gw().View(c.ctx(), func(r core.Reader) error {
		d, err = core.DeviceOf(r, uri)
		return err
	})
	switch {
	case err != nil && core.CodeOf(err) != core.NotFound:
		return d, err
	case err != nil || !d.Local:
		return d, errProof
	case d.Revoked || d.Refused:
		return d, core.Errorf(core.Denied, "that device is revoked")
	}
	return d, nil
}

// challenge returns what a device is to sign. Nothing of it is kept here: its
// authentication code says to whom it was given and until when it counts.
func (a *api) challenge(d core.DeviceURI, now time.Time) []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, challengeSize), uint64(now.Add(challengeLife).UnixMilli()))
	b = b[:8+16]
	rand.Read(b[8:])
	return append(b, a.authenticate(d, b)...)
}

func (a *api) challenged(d core.DeviceURI, b []byte, now time.Time) bool {
	if len(b) != challengeSize {
		return false
	}
	until := time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
	return hmac.Equal(a.authenticate(d, b[:8+16]), b[8+16:]) && now.Before(until)
}

func (a *api) authenticate(d core.DeviceURI, b []byte) []byte {
	m := hmac.New(sha256.New, a.secret[:])
	m.Write(b) // of fixed size
	m.Write([]byte(d))
	return m.Sum(nil)
}

// newSession stores a session under the hash of its token.
func (a *api) newSession(c *call, s core.Session) (*wire.Session, error) {
	var b [tokenSize]byte
	rand.Read(b[:])
	token := base64.RawURLEncoding.EncodeToString(b[:])
	s.Hash, s.Expires = sha256.Sum256([]byte(token)), a.cfg.Now().Add(a.cfg.API.SessionLifetime)
	if _, err := a.gw().Do(c.ctx(), core.PutSession{Session: s}); err != nil {
		return nil, err
	}
	return &wire.Session{Token: token, User: s.User, Expires: s.Expires.UnixMilli()}, nil
}

// closeSession answers DELETE /v1/sessions/self.
func (a *api) closeSession(c *call) (*nothing, error) {
	s := c.session
	s.Expires = a.cfg.Now().Add(-time.Second)
	_, err := a.gw().Do(c.ctx(), core.PutSession{Session: s})
	a.hub.closeSession(s.Hash)
	return nil, err
}

// sessionOf finds who asks: by the token of a session, or, for a person with
// nothing but curl, by an account's name and password.
func (a *api) sessionOf(c *call) (s core.Session, err error) {
	h := c.r.Header.Get("Authorization")
	scheme, token, _ := strings.Cut(h, " ")
	switch {
	case strings.EqualFold(scheme, "Basic"):
		return a.basic(c)
	case !strings.EqualFold(scheme, "Bearer") || token == "" || len(token) > maxToken:
		return s, errNoSession
	}
	return a.sessionBy(c, sha256.Sum256([]byte(strings.TrimSpace(token))))
}

func (a *api) sessionBy(c *call, hash [32]byte) (s core.Session, err error) {
	var d core.Device
	err = a.gw().View(c.ctx(), func(r core.Reader) error {
		if s, err = core.SessionOf(r, hash); err != nil || s.Device == "" {
			return err
		}
		d, err = core.DeviceOf(r, s.Device)
		return err
	})
	switch {
	case core.CodeOf(err) == core.NotFound:
		return s, errNoSession
	case err != nil:
		return s, err
	case !a.cfg.Now().Before(s.Expires):
		return s, core.Errorf(core.Unauthenticated, "the session has ended: POST /v1/sessions opens another")
	case d.Revoked || d.Refused:
		return s, core.Errorf(core.Unauthenticated, "that device is revoked")
	}
	return s, nil
}

// basic makes a session that lasts as long as the request.
func (a *api) basic(c *call) (s core.Session, err error) {
	name, password, ok := c.r.BasicAuth()
	if !ok {
		return s, errNoSession
	}
	if err := a.limits.stranger(c.from, a.cfg.Now()); err != nil {
		return s, err
	}
	acc, err := a.login(c, name, password)
	if err != nil {
		return s, err
	}
	return core.Session{Hash: basicHash(acc.User), User: acc.User, Expires: a.cfg.Now().Add(basicLife)}, nil
}

// basicHash names, for limits, the session of a user without a token; no token
// has that hash.
func basicHash(u core.UserURI) [32]byte { return sha256.Sum256([]byte("user\x00" + u)) }

func (a *api) login(c *call, name, password string) (core.Account, error) {
	if a.cfg.API.Login == nil {
		return core.Account{}, core.Errorf(core.Unauthenticated, "there are no accounts here")
	}
	return a.cfg.API.Login(c.ctx(), c.from, name, password)
}
