package identity

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/isthmus-chat/isthmus/mls"
	"pgregory.net/rapid"
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

func TestLinkedSet(t *testing.T) {
	a, b, c := listing(1, 2, 5), listing(2, 1, 3), listing(3, 2)
	one, alone := listing(4, 1), listing(5)
	older := first(3, nil)
	newer := after(3, older, func(r *Record) { r.Links = ids(2) })
	for _, x := range []struct {
		name string
		of   SignedRecord
		all  []SignedRecord
		want []int
	}{
		{"a chain of three", a, []SignedRecord{c, one, b, a, alone}, []int{1, 2, 3}},
		{"from its end", c, []SignedRecord{a, b, one, alone}, []int{3, 2, 1}},
		{"one-sided stays out", one, []SignedRecord{a, b, c}, []int{4}},
		{"nobody else", a, nil, []int{1}},
		{"a newer record that links", b, []SignedRecord{newer, older}, []int{2, 3}},
		{"the same, in another order", b, []SignedRecord{older, newer}, []int{2, 3}},
		{"twice the same", b, []SignedRecord{c, c, b, b}, []int{2, 3}},
	} {
		var got []string
		for _, r := range LinkedSet(x.of, x.all) {
			got = append(got, r.ID())
		}
		var want []string
		for _, n := range x.want {
			want = append(want, ids(n)...)
		}
		slices.Sort(got[1:])
		slices.Sort(want[1:])
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, not %v", x.name, got, want)
		}
	}
	if set := LinkedSet(first(1, func(r *Record) { r.Revoked = true }), []SignedRecord{b}); set != nil {
		t.Errorf("a revoked device has %d", len(set))
	}
}

// In any web of links, the set is an equivalence: whoever is in mine has me in theirs.
func TestLinkedSetRapid(t *testing.T) {
	const devices = 7
	rapid.Check(t, func(t *rapid.T) {
		var all []SignedRecord
		for n := range devices {
			links := rapid.SliceOfNDistinct(rapid.IntRange(0, devices-1), 0, devices, rapid.ID[int]).Draw(t, "links")
			links = slices.DeleteFunc(links, func(l int) bool { return l == n })
			all = append(all, listing(n, links...))
		}
		in := func(r SignedRecord, set []SignedRecord) bool {
			return slices.ContainsFunc(set, func(o SignedRecord) bool { return bytes.Equal(o.Key, r.Key) })
		}
		for _, a := range all {
			set := LinkedSet(a, all)
			for _, b := range all {
				if in(b, set) != in(a, LinkedSet(b, all)) || Linked(a, b) && !in(b, set) {
					t.Fatalf("%s and %s disagree", a.ID(), b.ID())
				}
			}
		}
	})
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
