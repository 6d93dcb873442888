package core

import (
	"encoding/hex"
	"time"
)

// Bounds of sessions.
const (
	maxSessions    = 32                   // of one device, or of one user without; the one that ends first makes room
	maxSessionLife = 400 * 24 * time.Hour // from now
)

// Buckets of sessions.
const (
	sessionRows = "session"        // hash of the token -> sessionRow
	holders     = "session holder" // device or user + " " + hash of the token
)

type sessionRow struct {
	_       struct{} `cbor:",toarray"`
	Device  DeviceURI
	User    UserURI
	Expires int64 // ms
}

func (s *sessionRow) holder() string {
	if s.Device != "" {
		return string(s.Device)
	}
	return string(s.User)
}

// due is the second after which the session is over.
func (s *sessionRow) due() int64 { return s.Expires/1000 + 1 }

// SessionOf reads the session with this SHA-256 of its token; NotFound if there is
// none. A session that is over may still be there: look at Expires.
func SessionOf(r Reader, hash [32]byte) (Session, error) {
	var s sessionRow
	if err := getCBOR(r, sessionRows, hex.EncodeToString(hash[:]), &s); err != nil {
		return Session{}, err
	}
	return Session{Hash: hash, Device: s.Device, User: s.User, Expires: time.UnixMilli(s.Expires)}, nil
}

// putSession opens or closes a session.
func (e *Engine) putSession(tx Tx, now time.Time, in PutSession) (Output, error) {
	s, key := in.Session, hex.EncodeToString(in.Session.Hash[:])
	if !s.Expires.After(now) {
		return Output{}, asBroken(e.endSession(tx, key))
	}
	if s.Expires.After(now.Add(maxSessionLife)) {
		return Output{}, Errorf(Invalid, "a session lasts at most %d days", int(maxSessionLife.Hours()/24))
	}
	if u, err := ParseUserURI(string(s.User)); err != nil || u.Domain() != e.cfg.Homeserver {
		return Output{}, Errorf(Denied, "sessions are for users of this homeserver")
	}
	if s.Device != "" {
		d, err := getDevice(tx, s.Device)
		switch {
		case isAbsent(err):
			return Output{}, Errorf(NotFound, "no such device")
		case err != nil:
			return Output{}, asBroken(err)
		case !d.Local || d.User != s.User || d.Revoked || d.Refused:
			return Output{}, Errorf(Denied, "that device is not in use here")
		}
		if err := e.touch(tx, now, s.Device, &d); err != nil {
			return Output{}, err
		}
	}
	if err := e.endSession(tx, key); err != nil { // what had this hash before
		return Output{}, asBroken(err)
	}
	row := sessionRow{Device: s.Device, User: s.User, Expires: s.Expires.UnixMilli()}
	if err := e.roomForSession(tx, row.holder()); err != nil {
		return Output{}, err
	}
	if err := tx.PutValue(holders, row.holder()+" "+key, nil); err != nil {
		return Output{}, asBroken(err)
	}
	if err := e.remind(tx, row.due(), dueSession, key); err != nil {
		return Output{}, err
	}
	return Output{}, putCBOR(tx, sessionRows, key, row)
}

// endSession removes a session; one that is not there is no error.
func (e *Engine) endSession(tx Tx, key string) error {
	var s sessionRow
	if err := getCBOR(tx, sessionRows, key, &s); err != nil {
		if isAbsent(err) {
			return nil
		}
		return err
	}
	if err := forget(tx, s.due(), dueSession, key); err != nil {
		return err
	}
	if err := tx.DropValue(holders, s.holder()+" "+key); err != nil {
		return err
	}
	return tx.DropValue(sessionRows, key)
}

// roomForSession closes the session of a holder that ends first, if there are as
// many as there may be.
func (e *Engine) roomForSession(tx Tx, holder string) error {
	rows, err := under(tx, holders, holder+" ", "", maxSessions)
	if err != nil || len(rows) < maxSessions {
		return err
	}
	var first string
	var ends int64
	for _, row := range rows {
		var s sessionRow
		key := row.Key[len(holder)+1:]
		if err := getCBOR(tx, sessionRows, key, &s); err != nil {
			return asBroken(err)
		}
		if first == "" || s.Expires < ends {
			first, ends = key, s.Expires
		}
	}
	return asBroken(e.endSession(tx, first))
}

// closeSessions closes all sessions of a device.
func (e *Engine) closeSessions(tx Tx, holder string) error {
	rows, err := under(tx, holders, holder+" ", "", maxSessions)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := e.endSession(tx, row.Key[len(holder)+1:]); err != nil {
			return asBroken(err)
		}
	}
	return nil
}
