package core

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core/identity"
	"github.com/isthmus-chat/isthmus/mls"
)

// Bounds of key packages.
const (
	maxLastResorts = 8 // of one device, one for each suite
	maxUpload      = MaxKeyPackages + maxLastResorts
	maxPackageLife = 100 * 24 * time.Hour // from its first to its last second
	maxRemembered  = 50_000               // of one device, those handed out among them
	packageMargin  = 5 * time.Minute      // one that ends sooner is not handed out: a commit takes its time
	welcomeGrace   = 7 * 24 * time.Hour   // so long after its end a Welcome still finds its device
)

// Buckets of key packages.
const (
	packageRows   = "key package"       // reference -> packageRow, until its end and welcomeGrace
	packageQueue  = "key package queue" // device + " " + suite + " " + numberKey of its last second + " " + reference
	lastResorts   = "key package last"  // device + " " + suite -> reference
	packageCounts = "key package count" // device -> packageCount
)

// packageRow is a key package that was taken up. Its reference is remembered after
// it was handed out, so that it is never taken up again (RFC 9420 §16.8) and its
// Welcome finds the device.
type packageRow struct {
	_          struct{} `cbor:",toarray"`
	Device     DeviceURI
	Suite      uint16
	NotAfter   int64 // Unix seconds, inclusive
	LastResort bool
	Welcomed   bool
	Data       []byte // MLSMessage; nil when it is not to be handed out any more
}

type packageCount struct {
	_          struct{} `cbor:",toarray"`
	Left       int      // one-time packages in the queue
	Remembered int      // rows
}

func suiteKey(device DeviceURI, suite uint16) string {
	return string(device) + " " + numberKey(uint64(suite))[12:]
}

func (p *packageRow) queueKey(ref string) string {
	return suiteKey(p.Device, p.Suite) + " " + numberKey(uint64(p.NotAfter)) + " " + ref
}

func getPackage(r Reader, ref string) (packageRow, error) {
	var p packageRow
	return p, getCBOR(r, packageRows, ref, &p)
}

func getCount(r Reader, device DeviceURI) (packageCount, error) {
	var c packageCount
	err := getCBOR(r, packageCounts, string(device), &c)
	if isAbsent(err) {
		err = nil
	}
	return c, asBroken(err)
}

// DeviceByRef returns the device whose key package has this reference (RFC 9420
// §5.2); NotFound if it is not one of this homeserver, or ended long ago.
func DeviceByRef(r Reader, ref []byte) (DeviceURI, error) {
	p, err := getPackage(r, hex.EncodeToString(ref))
	return p.Device, err
}

// KeyPackagesLeft returns how many one-time packages of a device nobody took yet.
func KeyPackagesLeft(r Reader, device DeviceURI) (int, error) {
	c, err := getCount(r, device)
	return c.Left, err
}

// putKeyPackages takes up what a device leaves behind for others to add it: all
// or none.
func (e *Engine) putKeyPackages(tx Tx, now time.Time, in PutKeyPackages) (Output, error) {
	d, err := getDevice(tx, in.Device)
	switch {
	case isAbsent(err):
		return Output{}, Errorf(NotFound, "no such device")
	case err != nil:
		return Output{}, asBroken(err)
	case !d.Local || d.Revoked || d.Refused:
		return Output{}, Errorf(Denied, "that device is not in use here")
	case len(in.Packages) == 0 || len(in.Packages) > maxUpload:
		return Output{}, Errorf(TooLarge, "one to %d key packages at once", maxUpload)
	}
	if wait := e.memory().uploads.Take(string(in.Device), len(in.Packages), now); wait > 0 {
		return Output{}, limited(wait, "too many key packages")
	}
	rec, err := identity.ParseRecord(d.Record)
	if err != nil {
		return Output{}, Errorf(Internal, "stored device record: %w", err)
	}
	fresh, err := e.readPackages(tx, now, in, &rec)
	if err != nil {
		return Output{}, err
	}
	c, err := getCount(tx, in.Device)
	if err != nil {
		return Output{}, err
	}
	oneTime := 0
	for i := range fresh {
		if !fresh[i].LastResort {
			oneTime++
		}
	}
	if c.Left+oneTime > MaxKeyPackages {
		return Output{}, Errorf(TooLarge, "a device leaves at most %d key packages; %d are there", MaxKeyPackages, c.Left)
	}
	if c.Remembered+len(fresh) > maxRemembered {
		return Output{}, Errorf(Limited, "too many key packages that have not ended yet")
	}
	if err := e.touch(tx, now, in.Device, &d); err != nil {
		return Output{}, err
	}
	for i := range fresh {
		if err := e.keepPackage(tx, &fresh[i]); err != nil {
			return Output{}, err
		}
	}
	c.Left, c.Remembered = c.Left+oneTime, c.Remembered+len(fresh)
	return Output{Left: c.Left, Duplicate: len(fresh) == 0}, putCBOR(tx, packageCounts, string(in.Device), c)
}

type freshPackage struct {
	packageRow
	ref string
}

// readPackages checks an upload. What waits here already is left out, so that an
// upload may be repeated; what was handed out is refused.
func (e *Engine) readPackages(tx Tx, now time.Time, in PutKeyPackages, rec *identity.SignedRecord) ([]freshPackage, error) {
	var fresh []freshPackage
	seen, suites := map[string]bool{}, map[uint16]bool{}
	for i, b := range in.Packages {
		p, err := readPackage(b, now, rec)
		if err != nil {
			return nil, Errorf(CodeOf(err), "key package %d: %w", i, err)
		}
		if p.Device = in.Device; seen[p.ref] || p.LastResort && suites[p.Suite] {
			return nil, Errorf(Invalid, "key package %d: a second one of the kind", i)
		}
		seen[p.ref] = true
		suites[p.Suite] = suites[p.Suite] || p.LastResort
		switch old, err := getPackage(tx, p.ref); {
		case isAbsent(err):
			fresh = append(fresh, p)
		case err != nil:
			return nil, asBroken(err)
		case old.Device != in.Device || old.Data == nil:
			return nil, Errorf(Conflict, "key package %d: it was used already", i)
		}
	}
	return fresh, e.roomForLastResorts(tx, in.Device, suites)
}

// readPackage holds one key package to RFC 9420 §10.1 and to the record of its
// device.
func readPackage(b []byte, now time.Time, rec *identity.SignedRecord) (p freshPackage, err error) {
	if len(b) > MaxKeyPackage {
		return p, Errorf(TooLarge, "over %d octets", MaxKeyPackage)
	}
	m, err := mls.Parse(b)
	if err != nil || m.KeyPackage == nil {
		return p, Errorf(Invalid, "not an MLSMessage with a key package")
	}
	k := m.KeyPackage
	if err := k.Verify(mls.Version10, k.Suite, &mls.Policy{Now: func() uint64 { return uint64(now.Unix()) },
		MaxLifetime: uint64(maxPackageLife / time.Second)}); err != nil {
		return p, Errorf(Invalid, "%w", err)
	}
	device, user, err := identity.LeafNames(k.Leaf)
	if err == nil {
		err = identity.LeafFits(*rec, []byte(device), k.Leaf.SignatureKey, []byte(user))
	}
	if err != nil {
		return p, Errorf(Denied, "%w", err)
	}
	ref, err := k.Ref()
	if err != nil {
		return p, Errorf(Invalid, "%w", err)
	}
	// Verify has bounded the last second by now and the longest life.
	p.packageRow = packageRow{Suite: uint16(k.Suite), NotAfter: int64(k.Leaf.Lifetime.NotAfter), LastResort: k.LastResort(), Data: b}
	p.ref = hex.EncodeToString(ref)
	return p, nil
}

// roomForLastResorts bounds the suites for which a device has a last resort.
func (e *Engine) roomForLastResorts(tx Tx, device DeviceURI, more map[uint16]bool) error {
	rows, err := under(tx, lastResorts, string(device)+" ", "", maxLastResorts)
	if err != nil {
		return err
	}
	n := len(rows)
	for suite, isLast := range more { // counted: the order is not seen
		if _, err := tx.Value(lastResorts, suiteKey(device, suite)); isLast && isAbsent(err) {
			n++
		}
	}
	if n > maxLastResorts {
		return Errorf(TooLarge, "a device has at most %d key packages of last resort", maxLastResorts)
	}
	return nil
}

func (e *Engine) keepPackage(tx Tx, p *freshPackage) error {
	if p.LastResort {
		key := suiteKey(p.Device, p.Suite)
		switch old, err := tx.Value(lastResorts, key); {
		case err == nil:
			if err := e.spend(tx, hex.EncodeToString(old)); err != nil {
				return err
			}
		case !isAbsent(err):
			return asBroken(err)
		}
		ref, err := hex.DecodeString(p.ref)
		if err != nil {
			return Errorf(Internal, "reference: %w", err)
		}
		if err := tx.PutValue(lastResorts, key, ref); err != nil {
			return asBroken(err)
		}
	} else if err := tx.PutValue(packageQueue, p.queueKey(p.ref), nil); err != nil {
		return asBroken(err)
	}
	if err := e.remind(tx, p.NotAfter+1, duePackage, p.ref); err != nil {
		return err
	}
	return putCBOR(tx, packageRows, p.ref, &p.packageRow)
}

// spend takes a package out of use. Its reference stays.
func (e *Engine) spend(tx Tx, ref string) error {
	p, err := getPackage(tx, ref)
	if err != nil {
		return asBroken(err)
	}
	p.Data = nil
	return putCBOR(tx, packageRows, ref, &p)
}

// endPackage is called at a package's end, and again when its grace is over.
func (e *Engine) endPackage(tx Tx, now time.Time, at int64, ref string, out *Output) error {
	p, err := getPackage(tx, ref)
	if err != nil {
		return err
	}
	if grace := p.NotAfter + int64(welcomeGrace/time.Second); at < grace {
		if err := e.remind(tx, grace, duePackage, ref); err != nil || p.Data == nil {
			return err
		}
		if err := e.spend(tx, ref); err != nil {
			return err
		}
		if p.LastResort {
			return tx.DropValue(lastResorts, suiteKey(p.Device, p.Suite))
		}
		if err := tx.DropValue(packageQueue, p.queueKey(ref)); err != nil {
			return err
		}
		return e.fewer(tx, now, p.Device, out)
	}
	if err := tx.DropValue(packageRows, ref); err != nil {
		return err
	}
	c, err := getCount(tx, p.Device)
	if err != nil {
		return err
	}
	if c.Remembered--; c.Remembered <= 0 {
		return tx.DropValue(packageCounts, string(p.Device))
	}
	return putCBOR(tx, packageCounts, string(p.Device), c)
}

// fewer counts a one-time package that is gone, and tells its device when few are
// left and when none is.
func (e *Engine) fewer(tx Tx, now time.Time, device DeviceURI, out *Output) error {
	c, err := getCount(tx, device)
	if err != nil {
		return err
	}
	c.Left--
	if err := putCBOR(tx, packageCounts, string(device), c); err != nil {
		return err
	}
	if c.Left != LowKeyPackages-1 && c.Left != 0 {
		return nil
	}
	l, err := e.putLetter(tx, now, Letter{Device: device, Kind: LetterLowWater, Epoch: uint64(c.Left)})
	if err == nil {
		out.Letters = append(out.Letters, l)
	} else if !Broken(err) {
		err = nil // a device that does not take its letters learns it when it does
	}
	return err
}

// dropPackages takes all packages of a device out of use; their references stay.
func (e *Engine) dropPackages(tx Tx, device DeviceURI) error {
	for _, bucket := range []string{packageQueue, lastResorts} {
		rows, err := under(tx, bucket, string(device)+" ", "", maxUpload)
		if err != nil {
			return err
		}
		for _, row := range rows {
			ref := hex.EncodeToString(row.Data)
			if bucket == packageQueue {
				ref = row.Key[strings.LastIndexByte(row.Key, ' ')+1:]
			}
			if err := e.spend(tx, ref); err != nil {
				return err
			}
			if err := tx.DropValue(bucket, row.Key); err != nil {
				return asBroken(err)
			}
		}
	}
	c, err := getCount(tx, device)
	if err != nil || c.Remembered == 0 {
		return err
	}
	c.Left = 0
	return putCBOR(tx, packageCounts, string(device), c)
}
