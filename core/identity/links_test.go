package identity

import (
	"bytes"
	"errors"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
)

func listing(n int, links ...int) SignedRecord {
	return first(n, func(r *Record) { r.Links = ids(links...) })
}

func TestLinked(t *testing.T) {
	bob := func(r *Record) { r.User, r.Links = "mimi://a.example/u/bob", ids(1) }
	gone := func(r *Record) { r.Revoked, r.Links = true, ids(1) }
	for _, c := range []struct {
		name string
		a, b SignedRecord
		want bool
	}{
		{"each lists the other", listing(1, 2), listing(2, 1), true},
		{"one-sided", listing(1, 2), listing(2), false},
		{"neither", listing(1), listing(2), false},
		{"of two users", listing(1, 2), first(2, bob), false},
		{"one revoked", listing(1, 2), first(2, gone), false},
		{"itself", listing(1, 2), listing(1, 2), false},
	} {
		if Linked(c.a, c.b) != c.want || Linked(c.b, c.a) != c.want {
			t.Errorf("%s: linked is not %v both ways", c.name, c.want)
		}
	}
}

func TestLeafFits(t *testing.T) {
	p256 := bytes.Repeat([]byte{4}, 65)
	r := first(1, func(r *Record) { r.MLSKeys = []MLSKey{{0x0403, p256}} })
	uri, user := []byte(r.URI()), []byte(alice)
	for _, c := range []struct {
		name                    string
		identity, key, applying []byte
		want                    error
	}{
		{"its own key", uri, r.Key, user, nil},
		{"a listed key", uri, p256, user, nil},
		{"a stranger's key", uri, pub(2), user, ErrUnknownKey},
		{"no key", uri, nil, user, ErrUnknownKey},
		{"the inbox key", uri, r.Inbox.Public, user, ErrUnknownKey},
		{"another device", []byte(DeviceURI("a.example", pub(2))), r.Key, user, ErrMismatch},
		{"at another domain", []byte(DeviceURI("b.example", pub(1))), r.Key, user, ErrMismatch},
		{"the user as device", user, r.Key, user, ErrMismatch},
		{"another user", uri, r.Key, []byte("mimi://a.example/u/bob"), ErrMismatch},
		{"nobody", nil, r.Key, nil, ErrMismatch},
	} {
		if err := LeafFits(r, c.identity, c.key, c.applying); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, not %v", c.name, err, c.want)
		}
	}
}

func TestLeafNames(t *testing.T) {
	device := DeviceURI("a.example", pub(1))
	leaf := func(identity, user string) *mls.LeafNode {
		l := &mls.LeafNode{Credential: mls.BasicCredential([]byte(identity))}
		l.Extensions = l.Extensions.With(mls.ExtApplicationID, mls.AppendApplicationID(nil, []byte(user)))
		return l
	}
	d, u, err := LeafNames(leaf(device, alice))
	if d != device || u != alice || err != nil {
		t.Errorf("%q %q %v", d, u, err)
	}
	x509 := leaf(device, alice)
	x509.Credential = mls.X509Credential([]byte("certificate"))
	bare := &mls.LeafNode{Credential: mls.BasicCredential([]byte(device))}
	torn := leaf(device, alice)
	torn.Extensions = mls.Extensions{{Type: mls.ExtApplicationID, Data: []byte{9, 1}}}
	for name, l := range map[string]*mls.LeafNode{
		"an X.509 credential":    x509,
		"no application_id":      bare,
		"a torn application_id":  torn,
		"a device of elsewhere":  leaf(DeviceURI("b.example", pub(1)), alice),
		"a user for a device":    leaf(alice, alice),
		"a device without an ID": leaf("mimi://a.example/d/phone", alice),
		"a device for a user":    leaf(device, device),
		"no user":                leaf(device, ""),
	} {
		if d, u, err := LeafNames(l); err == nil || d != "" || u != "" {
			t.Errorf("%s: %q %q", name, d, u)
		} else if !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrMismatch) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
