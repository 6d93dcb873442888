package core_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/mls"
	"github.com/isthmus-chat/isthmus/mls/group"
)

// A leftPackage is a key package as a test knows it.
type leftPackage struct {
	message []byte
	ref     []byte
	ends    int64
	last    bool
	kp      *group.KeyPackage
}

// leave makes a key package that ends at a time.
func (d *device) leave(ends time.Time, last bool) leftPackage {
	d.t.Helper()
	life := mls.Lifetime{NotBefore: uint64(ends.Add(-90 * 24 * time.Hour).Unix()), NotAfter: uint64(ends.Unix())}
	kp := must(group.NewKeyPackage(d.cfg, groupSuite, d.id, group.KeyPackageOptions{LeafExtensions: d.leaf(), Lifetime: life, LastResort: last}))(d.t)
	k := must(mls.Parse(kp.Message()))(d.t).KeyPackage
	return leftPackage{message: kp.Message(), ref: must(k.Ref())(d.t), ends: ends.Unix(), last: last, kp: kp}
}

func (d *device) leaveMany(n int, ends time.Time) (ps []leftPackage) {
	for i := range n {
		ps = append(ps, d.leave(ends.Add(time.Duration(i)*time.Second), false))
	}
	return ps
}

func upload(d *device, ps ...leftPackage) core.PutKeyPackages {
	in := core.PutKeyPackages{Device: d.uri}
	for _, p := range ps {
		in.Packages = append(in.Packages, p.message)
	}
	return in
}

func claims(by string, users ...core.UserURI) core.ClaimKeyPackages {
	return core.ClaimKeyPackages{By: by, Users: users, Suites: []uint16{uint16(groupSuite)}}
}

func (h *house) packagesLeft(d *device) (n int) {
	h.t.Helper()
	h.view(func(r core.Reader) { n = must(core.KeyPackagesLeft(r, d.uri))(h.t) })
	return n
}

// rows counts the rows of a bucket.
func (h *house) rows(bucket string) (n int) {
	h.t.Helper()
	h.view(func(r core.Reader) { n = len(must(r.Values(bucket, "", 100_000))(h.t)) })
	return n
}

func newPackageHouse(t testing.TB, names ...string) (*house, []*device) {
	h := newGroupHouse(t, domainA)
	var ds []*device
	for _, n := range names {
		d := newDevice(t, alice, n)
		h.do(core.PutDevice{Proof: d.proof, Register: true})
		ds = append(ds, d)
	}
	return h, ds
}

const month = 30 * 24 * time.Hour

func TestClaimAnswersForEachDevice(t *testing.T) {
	h, ds := newPackageHouse(t, "phone", "laptop", "old", "strange")
	h.do(upload(ds[0], ds[0].leaveMany(2, h.now.Add(month))...))
	laptop := ds[1].leave(h.now.Add(month), true)
	h.do(upload(ds[1], laptop))
	in := claims(string(bob), alice, bob, "mimi://b.example/u/bob", alice)
	out := h.do(in)
	status := map[core.DeviceURI]core.ClaimStatus{}
	users := map[core.UserURI]core.ClaimStatus{}
	for _, c := range out.Claims {
		if c.Device == "" {
			users[c.User] = c.Status
			continue
		}
		status[c.Device] = c.Status
		if c.Proof == nil || len(c.Proof.Record) == 0 || len(c.Proof.Attestation) == 0 || (c.Status == core.Claimed) != (len(c.Package) > 0) {
			t.Errorf("%+v", c)
		}
	}
	want := map[core.DeviceURI]core.ClaimStatus{ds[0].uri: core.Claimed, ds[1].uri: core.Claimed, ds[2].uri: core.Exhausted, ds[3].uri: core.Exhausted}
	if fmt.Sprint(status) != fmt.Sprint(want) || users[bob] != core.UserUnknown || users[bobB] != core.UserUnknown || len(out.Claims) != 6 {
		t.Fatalf("%v %v", status, users)
	}
	in.Suites, in.Except = []uint16{2}, ds[1].uri
	for _, c := range h.do(in).Claims {
		if c.Device == ds[1].uri || c.Device == ds[0].uri && c.Status != core.Incompatible {
			t.Errorf("%+v", c)
		}
	}
	if n := h.packagesLeft(ds[0]); n != 1 {
		t.Fatalf("%d left", n)
	}
	h.view(func(r core.Reader) {
		if d := must(core.DeviceByRef(r, laptop.ref))(t); d != ds[1].uri {
			t.Fatal("the reference leads to another device")
		}
		if _, err := core.DeviceByRef(r, []byte("x")); core.CodeOf(err) != core.NotFound {
			t.Fatal(err)
		}
	})
}

func TestClaimRefusesWhatIsOutOfBounds(t *testing.T) {
	h, _ := newPackageHouse(t, "phone")
	many := make([]core.UserURI, core.MaxClaim+1)
	for i := range many {
		many[i] = core.NewUserURI(domainA, fmt.Sprint(i))
	}
	for code, ins := range map[core.Code][]core.ClaimKeyPackages{
		core.Invalid:  {claims("", alice), claims("x"), claims("x", "alice"), {By: "x", Users: many[:1]}},
		core.TooLarge: {claims("x", many...), {By: "x", Users: many[:1], Suites: make([]uint16, 17)}},
	} {
		for _, in := range ins {
			_, errs := h.apply(in)
			wantCode(t, errs[0], code)
		}
	}
	if out := h.do(claims(string(bob), many[1:]...)); len(out.Claims) != core.MaxClaim || out.Claims[0].Status != core.UserUnknown {
		t.Fatalf("%d claims", len(out.Claims))
	}
	var last error
	for range 20 {
		_, errs := h.apply(claims(string(bob), many[1:]...))
		last = errs[0]
	}
	wantCode(t, last, core.Limited)
	h.do(claims(string(carol), many[1:]...)) // others do not wait for bob
}

// A package that is about to end is of no use: a commit takes its time.
func TestClaimLeavesWhatIsAboutToEnd(t *testing.T) {
	h, ds := newPackageHouse(t, "phone")
	d := ds[0]
	h.do(upload(d, d.leave(h.now.Add(time.Minute), false), d.leave(h.now.Add(2*time.Minute), true)))
	in := claims(string(bob), alice)
	if c := h.do(in).Claims[0]; c.Status != core.Exhausted {
		t.Fatalf("%+v", c)
	}
	in.Suites = []uint16{77}
	if c := h.do(in).Claims[0]; c.Status != core.Exhausted {
		t.Fatalf("%+v", c)
	}
	h.do(upload(d, d.leave(h.now.Add(month), true)))
	if c := h.do(in).Claims[0]; c.Status != core.Incompatible {
		t.Fatalf("%+v", c)
	}
}

// An answer has a bound, and says where it was reached.
func TestClaimOfMuchIsAnsweredInPart(t *testing.T) {
	h := newHouseAt(t, domainA)
	var users []core.UserURI
	for i := range 36 {
		u := core.NewUserURI(domainA, fmt.Sprint("user", i))
		users = append(users, u)
		var ins []core.Input
		for j := range core.MaxDevices {
			ins = append(ins, core.PutDevice{Proof: core.Identity{Record: newSigner(t, u, fmt.Sprint(j)).next(nil).Encode()}, Register: true})
		}
		_, errs := h.apply(ins...)
		h.must(errors.Join(errs...))
	}
	out := h.do(claims(string(bob), users...))
	if n := len(out.Claims); n != 2048+4 || out.Claims[n-1].Status != core.AskAgain || out.Claims[n-5].Status != core.Exhausted {
		t.Fatalf("%d claims", n)
	}
}

// Whoever wants all of a device's packages gets a few, then that of last resort;
// others still get one each. The device is told that few are left.
func TestClaimOfAllKeyPackages(t *testing.T) {
	h, ds := newPackageHouse(t, "phone")
	d := ds[0]
	last := d.leave(h.now.Add(month), true)
	ps := append(d.leaveMany(30, h.now.Add(month)), last)
	if out := h.do(upload(d, ps...)); out.Left != 30 {
		t.Fatalf("%d left", out.Left)
	}
	got := map[string]int{}
	var letters []core.Letter
	take := func(by core.UserURI) []byte {
		out := h.do(claims(string(by), alice))
		if len(out.Claims) != 1 || out.Claims[0].Status != core.Claimed {
			t.Fatalf("%+v", out.Claims)
		}
		got[string(out.Claims[0].Package)]++
		letters = append(letters, out.Letters...)
		return out.Claims[0].Package
	}
	for range 100 {
		take(bob)
	}
	if n := h.packagesLeft(d); n != 10 || got[string(last.message)] != 80 {
		t.Fatalf("one requester left %d, and took that of last resort %d times", n, got[string(last.message)])
	}
	if len(letters) != 1 || letters[0].Kind != core.LetterLowWater || letters[0].Epoch != core.LowKeyPackages-1 || letters[0].Device != d.uri {
		t.Fatalf("%+v", letters)
	}
	for i := range 12 {
		take(core.NewUserURI(domainA, fmt.Sprint(i)))
	}
	for _, p := range ps[:30] {
		if got[string(p.message)] != 1 {
			t.Fatalf("a one-time package was handed out %d times", got[string(p.message)])
		}
	}
	if got[string(last.message)] != 82 || h.packagesLeft(d) != 0 || len(letters) != 2 || letters[1].Epoch != 0 {
		t.Fatalf("%d, %d letters", got[string(last.message)], len(letters))
	}
	// Many requesters together are slowed down as well.
	h.do(upload(d, d.leaveMany(60, h.now.Add(month))...))
	for i := range 60 {
		take(core.NewUserURI(domainA, fmt.Sprint("sybil", i)))
	}
	if n := h.packagesLeft(d); n < 20 {
		t.Fatalf("%d left", n)
	}
}

func TestPutKeyPackagesHostile(t *testing.T) {
	h, ds := newPackageHouse(t, "phone", "laptop")
	phone, laptop := ds[0], ds[1]
	good := phone.leave(h.now.Add(month), false)
	liar := newDevice(t, alice, "phone")
	liar.user = bob
	bad := bytes.Clone(good.message)
	bad[len(bad)-1] ^= 1
	welcome := (&mls.Welcome{Suite: groupSuite}).AppendTo(mls.AppendHeader(nil, mls.WireWelcome))
	for name, c := range map[string]struct {
		in   core.PutKeyPackages
		code core.Code
	}{
		"none":                        {upload(phone), core.TooLarge},
		"too many":                    {upload(phone, make([]leftPackage, 1000)...), core.TooLarge},
		"too large":                   {core.PutKeyPackages{Device: phone.uri, Packages: [][]byte{make([]byte, core.MaxKeyPackage+1)}}, core.TooLarge},
		"no message":                  {core.PutKeyPackages{Device: phone.uri, Packages: [][]byte{{1}}}, core.Invalid},
		"another message":             {core.PutKeyPackages{Device: phone.uri, Packages: [][]byte{welcome}}, core.Invalid},
		"a bad signature":             {core.PutKeyPackages{Device: phone.uri, Packages: [][]byte{bad}}, core.Invalid},
		"over":                        {upload(phone, phone.leave(h.now.Add(-time.Minute), false)), core.Invalid},
		"not yet":                     {upload(phone, phone.leave(h.now.Add(4*month), false)), core.Invalid},
		"another device's":            {upload(phone, laptop.leave(h.now.Add(month), false)), core.Denied},
		"another user's":              {upload(phone, liar.leave(h.now.Add(month), false)), core.Denied},
		"twice in one":                {upload(phone, good, good), core.Invalid},
		"two of last resort":          {upload(phone, phone.leave(h.now.Add(month), true), phone.leave(h.now.Add(month), true)), core.Invalid},
		"good and bad":                {core.PutKeyPackages{Device: phone.uri, Packages: [][]byte{good.message, bad}}, core.Invalid},
		"of a device nobody knows":    {upload(newDevice(t, bob, "x"), good), core.NotFound},
		"with a life of many months":  {upload(phone, phone.long(h.now)), core.Invalid},
		"of another homeserver's one": {upload(newDevice(t, bobB, "x"), good), core.NotFound},
	} {
		_, errs := h.apply(c.in)
		if errs[0] == nil || core.CodeOf(errs[0]) != c.code {
			t.Errorf("%s: %v, want %v", name, errs[0], c.code)
		}
	}
	if n := h.packagesLeft(phone) + h.rows("key package") + h.rows("due"); n != 0 {
		t.Fatalf("refusals left %d rows", n)
	}
	h.do(upload(phone, good))
	if out := h.do(upload(phone, good)); out.Left != 1 || !out.Duplicate {
		t.Fatalf("a repeated upload: %+v", out)
	}
	if out := h.do(claims(string(bob), alice)); !slices.ContainsFunc(out.Claims, func(c core.Claim) bool { return bytes.Equal(c.Package, good.message) }) {
		t.Fatal("not handed out")
	}
	_, errs := h.apply(upload(phone, good)) // RFC 9420 §16.8
	wantCode(t, errs[0], core.Conflict)
	_, errs = h.apply(upload(phone, phone.leaveMany(core.MaxKeyPackages+1, h.now.Add(month))...))
	wantCode(t, errs[0], core.TooLarge)
	h.do(upload(phone, phone.leaveMany(core.MaxKeyPackages, h.now.Add(month))...))
	h.now = h.now.Add(time.Hour)
	_, errs = h.apply(upload(phone, phone.leave(h.now.Add(month), false)))
	wantCode(t, errs[0], core.TooLarge)
}

// long is a package that lives longer than any may.
func (d *device) long(now time.Time) leftPackage {
	kp := must(group.NewKeyPackage(d.cfg, groupSuite, d.id, group.KeyPackageOptions{LeafExtensions: d.leaf(),
		Lifetime: mls.Lifetime{NotAfter: uint64(now.Add(month).Unix())}}))(d.t)
	return leftPackage{message: kp.Message()}
}

func TestUploadsOfOneDeviceAreLimited(t *testing.T) {
	h, ds := newPackageHouse(t, "phone", "laptop")
	bad := make([]leftPackage, core.MaxKeyPackages)
	var last error
	for range 5 {
		_, errs := h.apply(upload(ds[0], bad...))
		last = errs[0]
	}
	wantCode(t, last, core.Limited)
	h.do(upload(ds[1], ds[1].leave(h.now.Add(month), false)))
}

// A device that was revoked has its packages taken out of use at once; references
// go when a Welcome can no longer come.
func TestPackagesOfRevokedDevicesAndTheirRows(t *testing.T) {
	h, _ := newPackageHouse(t)
	s := newSigner(t, alice, "phone")
	d := newDevice(t, alice, "phone")
	h.must(h.put(s.next(nil), nil, true))
	h.do(upload(d, append(d.leaveMany(3, h.now.Add(month)), d.leave(h.now.Add(month), true))...))
	h.must(h.put(s.next(nil), nil, false))
	if n := h.packagesLeft(d); n != 3 {
		t.Fatalf("a newer record leaves %d packages", n)
	}
	h.do(core.PutSession{Session: core.Session{User: bob, Expires: h.now.Add(300 * 24 * time.Hour)}}) // due long after all else
	h.must(h.put(s.next(func(r *identity.Record) { r.Revoked = true }), nil, false))
	if n := h.packagesLeft(d) + h.rows("key package queue") + h.rows("key package last"); n != 0 {
		t.Fatalf("a revoked device leaves %d packages", n)
	}
	if n := h.rows("key package"); n != 4 {
		t.Fatalf("%d references", n)
	}
	h.now = h.now.Add(month + 8*24*time.Hour)
	h.do(core.DropLetters{Device: d.uri, UpTo: 1})
	h.do(core.DropLetters{Device: d.uri, UpTo: 1})
	if n := h.rows("key package") + h.rows("key package count") + h.rows("due"); n != 1 {
		t.Fatalf("%d rows stay", n)
	}
}

// model is the naive oracle of key packages: a list that is searched.
type model struct {
	packages []*modelPackage
}

type modelPackage struct {
	leftPackage
	device core.DeviceURI
	state  string // "waits", "out" (handed out or replaced)
}

func (m *model) find(ref []byte) *modelPackage {
	for _, p := range m.packages {
		if bytes.Equal(p.ref, ref) {
			return p
		}
	}
	return nil
}

// left counts the one-time packages of a device that are not over.
func (m *model) left(d core.DeviceURI, now int64) (n int) {
	for _, p := range m.packages {
		if p.device == d && !p.last && p.state == "waits" && p.ends >= now {
			n++
		}
	}
	return n
}

// take returns what a claim must hand out.
func (m *model) take(d core.DeviceURI, now int64) *modelPackage {
	var best *modelPackage
	for _, p := range m.packages {
		if p.device != d || p.state != "waits" || p.ends < now+300 {
			continue
		}
		if best == nil || best.last && !p.last || best.last == p.last && (p.ends < best.ends || p.ends == best.ends && hex.EncodeToString(p.ref) < hex.EncodeToString(best.ref)) {
			best = p
		}
	}
	if best != nil && !best.last {
		best.state = "out"
	}
	return best
}

// put is an upload: it reports whether it must be accepted.
func (m *model) put(d core.DeviceURI, now int64, ps []leftPackage) bool {
	var fresh []*modelPackage
	for i, p := range ps {
		if p.ends < now || slices.ContainsFunc(ps[:i], func(o leftPackage) bool { return bytes.Equal(o.ref, p.ref) || o.last && p.last }) {
			return false
		}
		switch old := m.find(p.ref); {
		case old == nil:
			fresh = append(fresh, &modelPackage{p, d, "waits"})
		case old.state != "waits":
			return false
		}
	}
	for _, p := range fresh {
		for _, o := range m.packages {
			if p.last && o.last && o.device == d {
				o.state = "out"
			}
		}
		m.packages = append(m.packages, p)
	}
	return true
}

// The directory of key packages does what a list that is searched does, whatever
// the order of uploads, claims, repeats, restarts and the passing of time.
func TestKeyPackagesAgainstOracle(t *testing.T) {
	h := newGroupHouse(t, domainA)
	devs := []*device{newDevice(t, alice, "phone"), newDevice(t, alice, "laptop"), newDevice(t, bob, "phone")}
	for _, d := range devs {
		h.do(core.PutDevice{Proof: d.proof, Register: true})
	}
	rapid.Check(t, func(rt *rapid.T) {
		h.endAll(devs[0])
		pool := map[core.DeviceURI][]leftPackage{}
		for _, d := range devs {
			for i := range 18 {
				pool[d.uri] = append(pool[d.uri], d.leave(h.now.Add(time.Duration(1+i%9*5)*24*time.Hour), i%6 == 5))
			}
		}
		m := &model{}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			// An hour at least passes, so that no budget is used up.
			h.now = h.now.Add(time.Duration(rapid.SampledFrom([]int{1, 1, 1, 24, 100, 400}).Draw(rt, "hours")) * time.Hour).Truncate(time.Second)
			d := rapid.SampledFrom(devs).Draw(rt, "device")
			now := h.now.Unix() // apply adds a millisecond
			switch rapid.IntRange(0, 5).Draw(rt, "op") {
			case 0, 1:
				var ps []leftPackage
				for range rapid.IntRange(1, 8).Draw(rt, "packages") {
					ps = append(ps, rapid.SampledFrom(pool[d.uri]).Draw(rt, "package"))
				}
				outs, errs := h.apply(upload(d, ps...))
				if ok := m.put(d.uri, now, ps); ok != (errs[0] == nil) {
					rt.Fatalf("upload: %v, the oracle says %v", errs[0], ok)
				} else if ok && outs[0].Left != m.left(d.uri, now) {
					rt.Fatalf("%d left, the oracle says %d", outs[0].Left, m.left(d.uri, now))
				}
			case 2, 3, 4:
				for _, c := range h.do(claims(string(carol), alice, bob)).Claims {
					want := m.take(c.Device, now)
					if (want == nil) != (c.Status == core.Exhausted) || want != nil && !bytes.Equal(c.Package, want.message) {
						rt.Fatalf("claim: %v, the oracle says %+v", c.Status, want)
					}
				}
			case 5:
				h.restart()
			}
			for _, p := range m.packages {
				h.view(func(r core.Reader) {
					by, err := core.DeviceByRef(r, p.ref)
					if now <= p.ends && (err != nil || by != p.device) {
						rt.Fatalf("a reference is lost: %v", err)
					}
				})
			}
		}
		h.endAll(devs[0])
		if n := h.rows("key package") + h.rows("key package queue") + h.rows("key package last") + h.rows("key package count") + h.rows("due"); n != 0 {
			rt.Fatalf("%d rows stay for ever", n)
		}
	})
}

// endAll lets so much time pass that everything has ended and is cleaned up.
func (h *house) endAll(d *device) {
	h.now = h.now.Add(365 * 24 * time.Hour)
	for range 3 {
		h.do(core.DropLetters{Device: d.uri, UpTo: 1 << 60})
	}
}
