package core

import "cmp"

// MaxConsents bounds whom one user has decided about.
const MaxConsents = 1000

// consents is the bucket of what users said: user + " " + whom -> whether that one
// may; whom is everybodyElse in one row, which stands before all users.
const (
	consents      = "consent"
	everybodyElse = "*"
)

func consentKey(user, to UserURI) string {
	return string(user) + " " + cmp.Or(string(to), everybodyElse)
}

// A Consent says whether To may take key packages of a user's devices, and so add
// them to rooms; To "" is everybody about whom nothing else is said. Without any,
// everybody may.
type Consent struct {
	To  UserURI
	May bool
}

// PutConsent takes down what User thinks of one Consent.To, or with Drop that it is
// as for everybody else again. Nobody is told (draft-ietf-mimi-protocol-06 §5.7).
type PutConsent struct {
	User    UserURI
	Consent Consent
	Drop    bool
}

func (PutConsent) input() {}

// ConsentsOf lists what a user has said, what is for everybody else first.
func ConsentsOf(r Reader, user UserURI) ([]Consent, error) {
	prefix := string(user) + " "
	rows, err := under(r, consents, prefix, "", MaxConsents+1)
	if err != nil {
		return nil, err
	}
	out := []Consent{}
	for _, row := range rows {
		c := Consent{}
		if to := row.Key[len(prefix):]; to != everybodyElse {
			c.To = UserURI(to)
		}
		if err := cborInto(row.Data, &c.May); err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}

func (e *Engine) putConsent(tx Tx, in PutConsent) (Output, error) {
	c := in.Consent
	if _, err := ParseUserURI(string(in.User)); err != nil {
		return Output{}, err
	}
	if in.User.Domain() != e.cfg.Homeserver {
		return Output{}, Errorf(Denied, "that user belongs to another homeserver")
	}
	if _, err := ParseUserURI(string(c.To)); err != nil && c.To != "" {
		return Output{}, err
	}
	key := consentKey(in.User, c.To)
	if in.Drop {
		return Output{}, asBroken(tx.DropValue(consents, key))
	}
	have, err := ConsentsOf(tx, in.User)
	if err != nil {
		return Output{}, asBroken(err)
	}
	if _, err := tx.Value(consents, key); isAbsent(err) && len(have) >= MaxConsents {
		return Output{}, Errorf(TooLarge, "a user decides about at most %d others", MaxConsents)
	} else if err != nil && !isAbsent(err) {
		return Output{}, asBroken(err)
	}
	return Output{}, putCBOR(tx, consents, key, c.May)
}

// consented reports whether user lets by take key packages; "" is somebody whom the
// asking homeserver did not name.
func consented(r Reader, user, by UserURI) (may bool, err error) {
	if by == user {
		return true, nil
	}
	for _, to := range []UserURI{by, ""} {
		err := getCBOR(r, consents, consentKey(user, to), &may)
		if err == nil || !isAbsent(err) {
			return may, asBroken(err)
		}
	}
	return true, nil
}
