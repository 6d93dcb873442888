package core

import (
	"encoding/hex"
	"slices"
	"strings"
	"time"
)

// Bounds of one claim: what is beyond them is answered with AskAgain.
const (
	maxClaimSuites  = 16
	maxClaimDevices = 2048
	maxClaimOctets  = 8 << 20
)

// claim is a ClaimKeyPackages at work.
type claim struct {
	*ClaimKeyPackages
	now     time.Time
	devices int
	octets  int
	out     Output
}

func (c *claim) full() bool { return c.devices >= maxClaimDevices || c.octets >= maxClaimOctets }

// claimKeyPackages hands out a key package for each device of each user. Whoever
// asks for the same device again and again, and everybody together when many do,
// is given its package of last resort instead: nobody can leave a device without
// one-time packages for others.
func (e *Engine) claimKeyPackages(tx Tx, now time.Time, in ClaimKeyPackages) (Output, error) {
	if in.By == "" || len(in.By) > MaxURI || len(in.Users) == 0 || len(in.Suites) == 0 {
		return Output{}, Errorf(Invalid, "a claim names who asks, users and suites")
	}
	if len(in.Users) > MaxClaim || len(in.Suites) > maxClaimSuites {
		return Output{}, Errorf(TooLarge, "a claim is for at most %d users and %d suites", MaxClaim, maxClaimSuites)
	}
	for _, u := range in.Users {
		if _, err := ParseUserURI(string(u)); err != nil {
			return Output{}, err
		}
	}
	if wait := e.memory().claims.Take(payer(in.By), weigh(in.By, len(in.Users), userWeight), now); wait > 0 {
		return Output{}, limited(wait, "too many claims of key packages")
	}
	c := claim{ClaimKeyPackages: &in, now: now}
	asked := make(map[UserURI]bool, len(in.Users))
	for _, u := range in.Users {
		if asked[u] {
			continue
		}
		asked[u] = true
		if err := e.claimUser(tx, &c, u); err != nil {
			return Output{}, err
		}
	}
	return c.out, nil
}

// claimUser answers for all devices of one user, or for the user as a whole.
func (e *Engine) claimUser(tx Tx, c *claim, user UserURI) error {
	if c.full() {
		c.out.Claims = append(c.out.Claims, Claim{User: user, Status: AskAgain})
		return nil
	}
	if user.Domain() != e.cfg.Homeserver {
		c.out.Claims = append(c.out.Claims, Claim{User: user, Status: UserUnknown})
		return nil
	}
	prefix := string(user) + " "
	rows, err := under(tx, userDevices, prefix, "", maxKeptDevices)
	if err != nil {
		return err
	}
	may, err := consented(tx, user, c.For)
	if err != nil {
		return err
	}
	if !may && len(rows) > 0 {
		c.out.Claims = append(c.out.Claims, Claim{User: user, Status: NoConsent})
		return nil
	}
	status := UserUnknown
	for _, row := range rows {
		if len(row.Data) > 0 { // out of use
			if status == UserUnknown {
				status = UserDeleted
			}
			continue
		}
		status = Claimed
		if uri := DeviceURI(row.Key[len(prefix):]); uri != c.Except {
			if err := e.claimDevice(tx, c, user, uri); err != nil {
				return err
			}
		}
	}
	if status != Claimed {
		c.out.Claims = append(c.out.Claims, Claim{User: user, Status: status})
	}
	return nil
}

// claimDevice answers for one device.
func (e *Engine) claimDevice(tx Tx, c *claim, user UserURI, uri DeviceURI) error {
	a := Claim{User: user, Device: uri, Status: Exhausted}
	d, err := getDevice(tx, uri)
	if err != nil {
		return asBroken(err)
	}
	if c.devices++; c.octets >= maxClaimOctets {
		a.Status = AskAgain
	} else if d.usable(c.now) {
		a.Proof = &Identity{Record: d.Record, Attestation: d.Attestation}
		if a.Package, err = e.takeOneTime(tx, c, uri); err == nil && a.Package == nil {
			a.Package, err = takeLastResort(tx, c, uri)
		}
		if err == nil && a.Package == nil {
			a.Status, err = noneLeft(tx, c, uri)
		} else {
			a.Status = Claimed
		}
		c.octets += len(a.Package) + len(d.Record) + len(d.Attestation)
	}
	c.out.Claims = append(c.out.Claims, a)
	return err
}

// takeOneTime takes the one-time package that ends first, of the suite wanted most;
// nil if there is none or this requester has had enough of them.
func (e *Engine) takeOneTime(tx Tx, c *claim, uri DeviceURI) ([]byte, error) {
	for _, suite := range c.Suites {
		prefix := suiteKey(uri, suite) + " "
		rows, err := under(tx, packageQueue, prefix, numberKey(uint64(c.now.Add(packageMargin).Unix()-1))+"~", 1)
		if err != nil {
			return nil, err
		}
		if len(rows) == 0 {
			continue
		}
		m := e.memory()
		if m.takes.Take(payer(c.By)+" "+string(uri), weigh(c.By, 1, pairWeight), c.now) > 0 || m.drains.Take(string(uri), 1, c.now) > 0 {
			return nil, nil
		}
		ref := rows[0].Key[strings.LastIndexByte(rows[0].Key, ' ')+1:]
		p, err := getPackage(tx, ref)
		if err != nil {
			return nil, asBroken(err)
		}
		if err := tx.DropValue(packageQueue, rows[0].Key); err != nil {
			return nil, asBroken(err)
		}
		if err := e.spend(tx, ref); err != nil {
			return nil, err
		}
		return p.Data, e.fewer(tx, c.now, uri, &c.out)
	}
	return nil, nil
}

// takeLastResort returns the package of last resort, which stays.
func takeLastResort(tx Tx, c *claim, uri DeviceURI) ([]byte, error) {
	for _, suite := range c.Suites {
		ref, err := tx.Value(lastResorts, suiteKey(uri, suite))
		if isAbsent(err) {
			continue
		} else if err != nil {
			return nil, asBroken(err)
		}
		p, err := getPackage(tx, hex.EncodeToString(ref))
		if err != nil {
			return nil, asBroken(err)
		}
		if p.NotAfter >= c.now.Add(packageMargin).Unix() {
			return p.Data, nil
		}
	}
	return nil, nil
}

// noneLeft says whether a device has no package at all that could be handed out, or
// none of a suite asked for.
func noneLeft(tx Tx, c *claim, uri DeviceURI) (ClaimStatus, error) {
	soon := c.now.Add(packageMargin).Unix()
	prefix := string(uri) + " "
	rows, err := under(tx, packageQueue, prefix, "", maxUpload)
	if err != nil {
		return "", err
	}
	for _, row := range rows {
		suite, rest, _ := strings.Cut(row.Key[len(prefix):], " ")
		wanted := slices.ContainsFunc(c.Suites, func(s uint16) bool { return suiteKey(uri, s) == prefix+suite })
		if !wanted && rest >= numberKey(uint64(soon)) {
			return Incompatible, nil
		}
	}
	if rows, err = under(tx, lastResorts, prefix, "", maxLastResorts); err != nil {
		return "", err
	}
	for _, row := range rows {
		p, err := getPackage(tx, hex.EncodeToString(row.Data))
		if err != nil {
			return "", asBroken(err)
		}
		if p.NotAfter >= soon && !slices.Contains(c.Suites, p.Suite) {
			return Incompatible, nil
		}
	}
	return Exhausted, nil
}
