package core

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core/identity"
)

// Bounds of what is remembered of devices and homeservers, and how long this
// homeserver's word for a device lasts: it is renewed when half of it is over.
const (
	maxKeptDevices  = 512     // of one user, those revoked among them: who revoked must stay revoked
	maxPeerDevices  = 1 << 20 // of the users of other homeservers with one host
	maxHomeservers  = 1 << 16
	maxPorts        = 64  // homeservers with one host
	maxReadChains   = 256 // that are kept verified: one more, and all are forgotten
	attestationLife = 180 * 24 * time.Hour
)

// Buckets of devices and homeservers.
const (
	deviceRows     = "device"           // device -> deviceRow
	userDevices    = "user device"      // user + " " + device -> {1} if out of use
	deviceCounts   = "device count"     // host -> devices known
	equivocations  = "equivocation"     // device -> identity.Equivocation
	homeserverRows = "homeserver"       // domain -> identity.Chain
	homeserverOdd  = "homeserver alarm" // domain -> the record that broke its chain
	homeserverSum  = "homeserver count" // all, or "port " + host -> homeservers known
	onlyKey        = "all"
)

// deviceRow is a Device as it is kept.
type deviceRow struct {
	_                       struct{} `cbor:",toarray"`
	User                    UserURI
	Name                    string
	Key                     []byte
	Revoked, Refused, Local bool
	Seen                    int64
	Until                   int64 // Unix seconds: when record or attestation ends
	Record, Attestation     []byte
}

func (d *deviceRow) usable(now time.Time) bool {
	return !d.Revoked && !d.Refused && now.Unix() < d.Until
}

// getDevice reads a row; what is no name of a device is one that is not known.
func getDevice(r Reader, uri DeviceURI) (deviceRow, error) {
	var d deviceRow
	if _, err := ParseDeviceURI(string(uri)); err != nil {
		return d, Errorf(NotFound, "no such device")
	}
	return d, getCBOR(r, deviceRows, string(uri), &d)
}

// DeviceOf reads what is known of a device, here or elsewhere; NotFound if nothing.
func DeviceOf(r Reader, uri DeviceURI) (Device, error) {
	d, err := getDevice(r, uri)
	if err != nil {
		return Device{}, err
	}
	return Device{URI: uri, User: d.User, Name: d.Name, Key: d.Key, Revoked: d.Revoked, Refused: d.Refused, Local: d.Local,
		Seen: d.Seen, Proof: Identity{Record: d.Record, Attestation: d.Attestation}}, nil
}

// DevicesOf lists the devices of a user, those revoked among them, in the order of
// their IDs; none is no error.
func DevicesOf(r Reader, user UserURI) ([]Device, error) {
	prefix := string(user) + " "
	rows, err := under(r, userDevices, prefix, "", maxKeptDevices)
	if err != nil {
		return nil, err
	}
	var out []Device
	for _, row := range rows {
		d, err := DeviceOf(r, DeviceURI(row.Key[len(prefix):]))
		if err != nil {
			return nil, asBroken(err)
		}
		out = append(out, d)
	}
	return out, nil
}

// EquivocationOf reads the proof that a device signed two records that contradict
// each other, for identity.ParseEquivocation; NotFound if there is none.
func EquivocationOf(r Reader, uri DeviceURI) ([]byte, error) {
	return r.Value(equivocations, string(uri))
}

// HomeserverOf reads the pinned chain of a homeserver's keys; NotFound if it has
// never been met.
func HomeserverOf(r Reader, domain string) (*identity.Chain, error) {
	b, err := r.Value(homeserverRows, domain)
	if err != nil {
		return nil, err
	}
	return parseChain(b)
}

func parseChain(row []byte) (*identity.Chain, error) {
	c, err := identity.ParseChain(row)
	if err != nil {
		return nil, Errorf(Internal, "stored homeserver: %w", err)
	}
	return c, nil
}

// AlarmsOf lists the domains after the one given whose homeservers served a
// record that their pinned keys do not lead to, each with the last such record.
func AlarmsOf(r Reader, after string, limit int) ([]Value, error) {
	return r.Values(homeserverOdd, after, limit)
}

// ofIdentity says a refusal of package identity in our words.
func ofIdentity(what string, err error) error {
	code := Invalid
	switch {
	case err == nil:
		return nil
	case errors.Is(err, identity.ErrVersion):
		code = Conflict
	case errors.Is(err, identity.ErrMalformed), errors.Is(err, identity.ErrSignature), errors.Is(err, identity.ErrExpired),
		errors.Is(err, identity.ErrMismatch):
	default:
		code = Denied
	}
	return Errorf(code, what+": %w", err)
}

// putDevice takes up a device's record and its homeserver's word for it.
func (e *Engine) putDevice(tx Tx, now time.Time, in PutDevice) (Output, error) {
	rec, err := identity.ParseRecord(in.Proof.Record)
	if err != nil {
		return Output{}, ofIdentity("device record", err)
	}
	if _, err := ParseUserURI(rec.User); err != nil {
		return Output{}, err
	}
	uri, local := DeviceURI(rec.URI()), rec.Domain() == e.cfg.Homeserver
	old, err := getDevice(tx, uri)
	known := err == nil
	switch {
	case !known && !isAbsent(err):
		return Output{}, asBroken(err)
	case e.cfg.Block.Blocked(rec.Domain()):
		return Output{}, Errorf(Denied, "that homeserver is blocked here")
	case in.Register && !local:
		return Output{}, Errorf(Denied, "that user belongs to another homeserver")
	case local && !known && !in.Register:
		return Output{}, Errorf(NotFound, "no such device")
	case known && old.User != UserURI(rec.User):
		return Output{}, Errorf(Denied, "a device stays with its user")
	case old.Refused:
		return Output{}, Errorf(Denied, "that device signed two records that contradict each other")
	}
	if err := e.advance(tx, uri, &old, rec); err != nil {
		return Output{}, err
	}
	att, err := e.attestation(tx, now, rec, &old, in.Proof.Attestation)
	if err != nil {
		return Output{}, err
	}
	if !known {
		if err := e.arrive(tx, now, rec, att); err != nil {
			return Output{}, err
		}
	}
	d := deviceRow{User: UserURI(rec.User), Name: rec.Name, Key: rec.Key, Revoked: rec.Revoked || att.Revoked, Local: local,
		Seen: old.Seen, Until: min(rec.NotAfter, att.NotAfter), Record: rec.Encode(), Attestation: att.Encode()}
	if err := e.keepDevice(tx, uri, &d); err != nil || !d.Revoked || old.Revoked {
		return Output{Duplicate: known && bytes.Equal(old.Record, d.Record) && bytes.Equal(old.Attestation, d.Attestation)}, err
	}
	return Output{}, e.retire(tx, uri)
}

// advance holds a record to the one that is known. A contradiction is kept as the
// proof that it is, and the device is refused from then on.
func (e *Engine) advance(tx Tx, uri DeviceURI, old *deviceRow, rec identity.SignedRecord) error {
	if old.Record == nil {
		return nil
	}
	before, err := identity.ParseRecord(old.Record)
	if err != nil {
		return Errorf(Internal, "stored device record: %w", err)
	}
	stands, proof, err := identity.Advance(before, rec)
	if proof != nil {
		old.Refused = true
		if err := tx.PutValue(equivocations, string(uri), proof.Encode()); err != nil {
			return asBroken(err)
		}
		if err := e.keepDevice(tx, uri, old); err != nil {
			return err
		}
		if err := e.retire(tx, uri); err != nil {
			return err
		}
	}
	if err != nil {
		return ofIdentity("device record", err)
	}
	if !bytes.Equal(stands.Bytes, rec.Bytes) {
		return Errorf(Conflict, "a newer record of that device is known")
	}
	return nil
}

// attestation judges the attestation that came with rec, or makes the one of a
// device of this homeserver.
func (e *Engine) attestation(tx Tx, now time.Time, rec identity.SignedRecord, old *deviceRow, given []byte) (identity.SignedAttestation, error) {
	var none, before identity.SignedAttestation
	var err error
	if old.Attestation != nil {
		if before, err = identity.ParseAttestation(old.Attestation); err != nil {
			return none, Errorf(Internal, "stored attestation: %w", err)
		}
	}
	local := rec.Domain() == e.cfg.Homeserver
	if len(given) == 0 {
		switch {
		case local && !before.Revoked && !rec.Revoked && before.NotAfter < now.Add(attestationLife/2).Unix():
			return e.attest(now, rec)
		case old.Attestation == nil:
			return none, Errorf(Invalid, "a device comes with its attestation")
		}
		return before, nil
	}
	att, err := identity.ParseAttestation(given)
	if err != nil {
		return none, ofIdentity("attestation", err)
	}
	home, err := e.chainOf(tx, rec.Domain())
	if err != nil {
		return none, err
	}
	if bytes.Equal(att.Device, rec.Key) && att.User == rec.User && (rec.Revoked || att.Revoked) {
		if err = att.Verify(home, now.Unix()); errors.Is(err, identity.ErrRevoked) {
			err = nil
		}
	} else {
		err = identity.Usable(rec, att, home, e.cfg.Block, now.Unix())
	}
	if err == nil {
		att, err = identity.Renew(before, att)
	}
	return att, ofIdentity("device", err)
}

// attest is this homeserver's word that a device belongs to its user.
func (e *Engine) attest(now time.Time, rec identity.SignedRecord) (identity.SignedAttestation, error) {
	a, err := identity.SignAttestation(e.cfg.Key, identity.Attestation{Device: rec.Key, User: rec.User, Sponsor: e.cfg.Homeserver,
		NotBefore: now.Unix(), NotAfter: now.Add(attestationLife).Unix()})
	if err != nil {
		return a, Errorf(Internal, "attestation: %w", err)
	}
	return a, nil
}

// A readChain is a chain that was verified, and the row it was read from.
type readChain struct {
	row   []byte
	chain *identity.Chain
}

// homeserver is HomeserverOf for who does not change the chain. It keeps what it verified:
// a commit may bring a thousand devices of one homeserver.
func (e *Engine) homeserver(r Reader, domain string) (*identity.Chain, error) {
	b, err := r.Value(homeserverRows, domain)
	if err != nil {
		return nil, err
	}
	mem := e.memory()
	if k := mem.chains[domain]; bytes.Equal(k.row, b) {
		return k.chain, nil
	}
	c, err := parseChain(b)
	if err != nil {
		return nil, err
	}
	if mem.chains == nil || len(mem.chains) >= maxReadChains {
		mem.chains = map[string]readChain{}
	}
	mem.chains[domain] = readChain{b, c}
	return c, nil
}

// chainOf is the pinned chain of a domain. This homeserver believes its own key
// before anybody has given it its record.
func (e *Engine) chainOf(r Reader, domain string) (*identity.Chain, error) {
	c, err := e.homeserver(r, domain)
	if !isAbsent(err) {
		return c, asBroken(err)
	}
	if domain != e.cfg.Homeserver {
		return nil, Errorf(NotFound, "the record of that device's homeserver is not known here")
	}
	own, err := identity.SignHomeserver(e.cfg.Key, identity.HomeserverRecord{Version: 1, Domain: domain,
		Keys: []identity.HomeserverKey{{Key: e.public(), NotAfter: math.MaxInt64}}})
	if err != nil {
		return nil, Errorf(Internal, "own record: %w", err)
	}
	return identity.Pin(own)
}

func (e *Engine) public() ed25519.PublicKey { return e.cfg.Key.Public().(ed25519.PublicKey) }

// arrive holds a new device to the bounds of its user and homeserver.
func (e *Engine) arrive(tx Tx, now time.Time, rec identity.SignedRecord, att identity.SignedAttestation) error {
	rows, err := under(tx, userDevices, rec.User+" ", "", maxKeptDevices)
	if err != nil {
		return err
	}
	inUse := 0
	for _, row := range rows {
		if len(row.Data) == 0 {
			inUse++
		}
	}
	if inUse >= MaxDevices && !rec.Revoked || len(rows) >= maxKeptDevices {
		return Errorf(TooLarge, "a user has at most %d devices", MaxDevices)
	}
	if rec.Domain() == e.cfg.Homeserver {
		home, err := e.chainOf(tx, e.cfg.Homeserver)
		if err != nil {
			return err
		}
		return ofIdentity("device", identity.Usable(rec, att, home, e.cfg.Block, now.Unix()))
	}
	if wait := e.memory().arrivals.Take(HostOf(rec.Domain()), 1, now); wait > 0 {
		return limited(wait, "too many new devices of one homeserver")
	}
	return count(tx, deviceCounts, bound{HostOf(rec.Domain()), maxPeerDevices})
}

// A bound is the most that the number of a key may be.
type bound struct {
	key  string
	most int
}

// count adds one to each of some numbers, or to none where one is at its bound.
func count(tx Tx, bucket string, bounds ...bound) error {
	ns := make([]int, len(bounds))
	for i, b := range bounds {
		if err := getCBOR(tx, bucket, b.key, &ns[i]); err != nil && !isAbsent(err) {
			return asBroken(err)
		}
		if ns[i] >= b.most {
			return Errorf(TooLarge, "more than %d of that kind", b.most)
		}
	}
	for i, b := range bounds {
		if err := putCBOR(tx, bucket, b.key, ns[i]+1); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) keepDevice(tx Tx, uri DeviceURI, d *deviceRow) error {
	var mark []byte
	if d.Revoked || d.Refused {
		mark = []byte{1}
	}
	if err := tx.PutValue(userDevices, string(d.User)+" "+string(uri), mark); err != nil {
		return asBroken(err)
	}
	return putCBOR(tx, deviceRows, string(uri), d)
}

// touch notes that a device of this homeserver is in use, and renews this
// homeserver's word for it in time.
func (e *Engine) touch(tx Tx, now time.Time, uri DeviceURI, d *deviceRow) error {
	rec, err := identity.ParseRecord(d.Record)
	if err != nil {
		return Errorf(Internal, "stored device record: %w", err)
	}
	att, err := e.attestation(tx, now, rec, d, nil)
	if err != nil {
		return err
	}
	day := now.Truncate(24 * time.Hour).UnixMilli()
	if b := att.Encode(); day != d.Seen || !bytes.Equal(b, d.Attestation) {
		d.Seen, d.Attestation, d.Until = day, b, min(rec.NotAfter, att.NotAfter)
		return e.keepDevice(tx, uri, d)
	}
	return nil
}

// retire takes from a device that is out of use what it had here.
func (e *Engine) retire(tx Tx, uri DeviceURI) error {
	if err := e.closeSessions(tx, string(uri)); err != nil {
		return err
	}
	if err := e.dropPackages(tx, uri); err != nil {
		return err
	}
	return dropLetters(tx, uri, math.MaxUint64)
}

// putHomeserver pins a homeserver that is met for the first time, and follows its
// keys from then on.
func (e *Engine) putHomeserver(tx Tx, in PutHomeserver) (Output, error) {
	rec, err := identity.ParseHomeserver(in.Record)
	if err != nil {
		return Output{}, ofIdentity("homeserver record", err)
	}
	if e.cfg.Block.Blocked(rec.Domain) {
		return Output{}, Errorf(Denied, "that homeserver is blocked here")
	}
	chain, err := HomeserverOf(tx, rec.Domain)
	if isAbsent(err) {
		return Output{}, e.pin(tx, rec)
	} else if err != nil {
		return Output{}, asBroken(err)
	}
	before := chain.Head().Version
	if err := chain.Extend(rec); err != nil {
		if errors.Is(err, identity.ErrChain) {
			if err := tx.PutValue(homeserverOdd, rec.Domain, in.Record); err != nil {
				return Output{}, asBroken(err)
			}
		}
		return Output{}, ofIdentity("homeserver record", err)
	}
	if chain.Head().Version == before {
		return Output{Duplicate: true}, nil
	}
	return Output{}, asBroken(tx.PutValue(homeserverRows, rec.Domain, chain.Encode()))
}

// pin believes the first record of a homeserver. That of this one has its key.
func (e *Engine) pin(tx Tx, rec identity.SignedHomeserver) error {
	own := func(k identity.HomeserverKey) bool { return bytes.Equal(k.Key, e.public()) }
	if rec.Domain == e.cfg.Homeserver && !slices.ContainsFunc(rec.Keys, own) {
		return Errorf(Denied, "that record of this homeserver is not its own")
	}
	chain, err := identity.Pin(rec)
	if err != nil {
		return ofIdentity("homeserver record", err)
	}
	if err := count(tx, homeserverSum, bound{onlyKey, maxHomeservers}, bound{"port " + HostOf(rec.Domain), maxPorts}); err != nil {
		return err
	}
	return asBroken(tx.PutValue(homeserverRows, rec.Domain, chain.Encode()))
}
