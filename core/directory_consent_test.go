package core_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/mls"
)

// A user's word decides who takes key packages: first that about the one who asks,
// then that about everybody else; and nobody else's claims are touched by it.
func TestClaimsNeedConsent(t *testing.T) {
	h := newGroupHouse(t, domainA)
	for _, u := range []core.UserURI{alice, bob} {
		d := newDevice(t, u, "phone")
		h.enrol(d.proof)
		h.do(core.PutKeyPackages{Device: d.uri, Packages: [][]byte{d.keyPackage().AppendTo(mls.AppendHeader(nil, mls.WireKeyPackage))}})
	}
	say := func(to core.UserURI, may bool) core.PutConsent {
		return core.PutConsent{User: bob, Consent: core.Consent{To: to, May: may}}
	}
	statuses := func(by core.UserURI, users ...core.UserURI) (out []core.ClaimStatus) {
		t.Helper()
		for _, c := range h.do(core.ClaimKeyPackages{By: domainB, For: by, Users: users, Suites: []uint16{99}}).Claims {
			out = append(out, c.Status)
		}
		return out
	}
	const there = core.Incompatible // no package is used up by asking for another suite
	for i, step := range []struct {
		in               core.PutConsent
		carol, dave, bob core.ClaimStatus
	}{
		{say("", true), there, there, there},
		{say(carol, false), core.NoConsent, there, there},
		{say("", false), core.NoConsent, core.NoConsent, there},
		{say(carol, true), there, core.NoConsent, there},
		{core.PutConsent{User: bob, Consent: core.Consent{}, Drop: true}, there, there, there},
	} {
		h.do(step.in)
		h.restart()
		got := []core.ClaimStatus{statuses(carol, bob)[0], statuses("mimi://b.example/u/dave", bob)[0], statuses(bob, bob)[0]}
		if d := cmp.Diff([]core.ClaimStatus{step.carol, step.dave, step.bob}, got); d != "" {
			t.Errorf("step %d: %s", i, d)
		}
	}
	h.do(say("", false))
	if d := cmp.Diff([]core.ClaimStatus{core.NoConsent, there, core.UserUnknown}, statuses("", bob, alice, "mimi://a.example/u/nobody")); d != "" {
		t.Error(d)
	}
	h.view(func(r core.Reader) {
		if d := cmp.Diff([]core.Consent{{}, {To: carol, May: true}}, must(core.ConsentsOf(r, bob))(t)); d != "" {
			t.Error(d)
		}
	})
}

func TestConsentIsBounded(t *testing.T) {
	h := newGroupHouse(t, domainA)
	put := func(user, to core.UserURI) error {
		_, errs := h.apply(core.PutConsent{User: user, Consent: core.Consent{To: to}})
		return errs[0]
	}
	var all []core.Input
	for i := range core.MaxConsents {
		all = append(all, core.PutConsent{User: alice, Consent: core.Consent{To: core.NewUserURI(domainB, fmt.Sprint("u", i))}})
	}
	_, errs := h.apply(all...)
	for _, err := range errs {
		h.must(err)
	}
	wantCode(t, put(alice, carol), core.TooLarge)
	h.must(put(alice, core.NewUserURI(domainB, "u7"))) // who is on the list already
	wantCode(t, put(bobB, alice), core.Denied)
	wantCode(t, put(alice, "x"), core.Invalid)
	wantCode(t, put("x", alice), core.Invalid)
}
