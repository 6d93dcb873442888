package core_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

// What a device leaves behind for a month: checked and written.
func BenchmarkPutKeyPackages(b *testing.B) {
	h, ds := newPackageHouse(b, "phone")
	for b.Loop() {
		b.StopTimer()
		ds[0] = newDevice(b, core.NewUserURI(domainA, fmt.Sprint("user", h.now.UnixNano())), "phone")
		h.enrol(ds[0].proof)
		in := upload(ds[0], ds[0].leaveMany(100, h.now.Add(month))...)
		b.StartTimer()
		h.do(in)
	}
	b.ReportMetric(100*float64(b.N)/b.Elapsed().Seconds(), "packages/s")
}

// One request for the packages of as many users as it may name.
func BenchmarkClaimKeyPackages(b *testing.B) {
	h := newGroupHouse(b, domainA)
	var users []core.UserURI
	var ds []*device
	for i := range core.MaxClaim {
		d := newDevice(b, core.NewUserURI(domainA, fmt.Sprint("user", i)), "phone")
		users, ds = append(users, d.user), append(ds, d)
	}
	for b.Loop() {
		b.StopTimer()
		h.restart()
		var ins []core.Input
		for _, d := range ds {
			ins = append(ins, core.PutDevice{Proof: d.proof, Register: true}, upload(d, d.leaveMany(1, h.now.Add(month))...))
		}
		_, errs := h.apply(ins...)
		h.must(errors.Join(errs...))
		b.StartTimer()
		if out := h.do(claims(string(bob), users...)); len(out.Claims) != len(users) || out.Claims[0].Status != core.Claimed {
			b.Fatal("not handed out")
		}
	}
	b.ReportMetric(float64(core.MaxClaim)*float64(b.N)/b.Elapsed().Seconds(), "packages/s")
}
