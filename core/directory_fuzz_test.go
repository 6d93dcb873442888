package core_test

import (
	"testing"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/mls"
)

// Whatever anybody brings is accepted or refused, and never breaks the engine.
func FuzzDirectory(f *testing.F) {
	h := newGroupHouse(f, domainA)
	d := newDevice(f, alice, "phone")
	h.enrol(d.proof)
	far := newDevice(f, bobB, "phone")
	for _, b := range [][]byte{nil, d.proof.Record, d.proof.Attestation, far.proof.Record, far.proof.Attestation, homeRecord(f, domainB),
		d.leave(h.now.Add(month), false).message, d.leave(h.now.Add(month), true).message,
		(&mls.Welcome{Suite: groupSuite}).AppendTo(mls.AppendHeader(nil, mls.WireWelcome))} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		h.t = t
		h.restart() // with all budgets anew
		s := string(b[:min(len(b), 64)])
		_, errs := h.apply(
			core.PutDevice{Proof: core.Identity{Record: b, Attestation: d.proof.Attestation}, Register: true},
			core.PutDevice{Proof: core.Identity{Record: d.proof.Record, Attestation: b}, Register: true},
			core.PutDevice{Proof: core.Identity{Record: far.proof.Record, Attestation: b}},
			core.PutDevice{Proof: core.Identity{Record: b, Attestation: far.proof.Attestation}},
			core.PutHomeserver{Record: b},
			core.PutKeyPackages{Device: d.uri, Packages: [][]byte{b}},
			core.ClaimKeyPackages{By: s, Users: []core.UserURI{core.UserURI(s), alice}, Suites: []uint16{1}},
			core.PutLetters{From: s, Letters: []core.Letter{{Device: core.DeviceURI(s), Kind: core.LetterSealed, Body: b}, letter(d, s)}},
			core.PutWelcome{From: s, Welcome: core.Welcome{Room: club, Message: b, Tree: b}},
			core.LeaseGroupInfo{Room: core.RoomID(s), User: alice, By: d.uri, Code: codeHash(core.RoomID(s), s)},
			core.PutJoinCode{Code: core.JoinCode{Room: core.RoomID(s), By: alice}},
			core.DropLetters{Device: core.DeviceURI(s), UpTo: 1},
		)
		for i, err := range errs {
			if core.Broken(err) {
				t.Fatalf("input %d: %v", i, err)
			}
		}
	})
}
