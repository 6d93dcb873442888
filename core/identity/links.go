package identity

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/isthmus-chat/isthmus/mls"
)

// Linked reports whether a and b are two devices of one user (PROTOCOL §2): each
// record lists the other, both name the same user, and neither is revoked.
func Linked(a, b SignedRecord) bool {
	return a.User == b.User && !a.Revoked && !b.Revoked && lists(a, b) && lists(b, a)
}

func lists(a, b SignedRecord) bool {
	_, found := slices.BinarySearch(a.Links, b.ID())
	return found
}

// LeafFits says why an MLS leaf is not the device's (PROTOCOL §2), nil if it is:
// the identity of its basic credential is the device's URI, its application_id
// (RFC 9420 §5.3.3) the user's, and its signature key the device's or one that
// the record lists. Everybody asks this on every Add and on every join.
func LeafFits(r SignedRecord, credentialIdentity, signatureKey, applicationID []byte) error {
	switch {
	case string(credentialIdentity) != r.URI():
		return fmt.Errorf("%w: the leaf's credential names another device", ErrMismatch)
	case string(applicationID) != r.User:
		return fmt.Errorf("%w: the leaf's application_id names another user", ErrMismatch)
	case bytes.Equal(signatureKey, r.Key):
		return nil
	}
	for _, k := range r.MLSKeys {
		if bytes.Equal(signatureKey, k.Public) {
			return nil
		}
	}
	return fmt.Errorf("%w: the leaf's signature key is not in the device record", ErrUnknownKey)
}

// LeafNames returns what a leaf says of itself, the URIs of its device and user, so
// that a homeserver maps leaves to users without asking anybody. That both are
// of one domain is checked; that they are true is for LeafFits to say.
func LeafNames(l *mls.LeafNode) (device, user string, err error) {
	if l.Credential.Type != mls.CredentialBasic {
		return "", "", fmt.Errorf("%w: a leaf without a basic credential", ErrMismatch)
	}
	ext, ok := l.Extensions.Find(mls.ExtApplicationID)
	if !ok {
		return "", "", fmt.Errorf("%w: a leaf without an application_id", ErrMismatch)
	}
	id, err := mls.ParseApplicationID(ext)
	if err != nil {
		return "", "", fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	device, user = string(l.Credential.Data), string(id)
	if err := checkUser(user); err != nil {
		return "", "", err
	}
	domain, part, ok := SplitURI(device, "d")
	if !ok || !isDeviceID(part) || domain != Domain(user) {
		return "", "", fmt.Errorf("%w: a leaf whose credential is no device of its user's domain", ErrMismatch)
	}
	return device, user, nil
}
