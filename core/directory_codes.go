package core

import (
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"time"

	"github.com/isthmus-chat/isthmus/core/policy"
)

// Bounds of join codes and leases.
const (
	admissionLife = 10 * time.Minute // within it, one use of a code counts once
	leaseLife     = 10 * time.Second // PROTOCOL §7
	freeLeases    = 3                // without a commit, before a requester is slowed down
	maxLeases     = 10               // without a commit, before it is refused
	crowdLeases   = 8                // without a commit, of all who are counted together
	crowdPauses   = 5                // how often their wait doubles: not for ever, for many may be honest
	leaseMemory   = time.Hour        // after which all is forgiven
)

// Buckets of join codes.
const (
	joinCodes  = "join code" // room key + " " + hash -> codeRow
	admissions = "admitted"  // room key + " " + user -> Unix seconds: who has given a code
)

type codeRow struct {
	_       struct{} `cbor:",toarray"`
	By      UserURI
	Uses    uint32
	Expires int64 // Unix seconds; 0 = never
}

// JoinCodesOf lists the join codes of a room. Some may have expired.
func JoinCodesOf(r Reader, room RoomID) ([]JoinCode, error) {
	prefix := RoomKey(room) + " "
	rows, err := under(r, joinCodes, prefix, "", MaxJoinCodes)
	if err != nil {
		return nil, err
	}
	var out []JoinCode
	for _, row := range rows {
		var c codeRow
		if err := cborInto(row.Data, &c); err != nil {
			return nil, err
		}
		j := JoinCode{Room: room, By: c.By, Uses: c.Uses}
		if n, err := hex.Decode(j.Hash[:], []byte(row.Key[len(prefix):])); err != nil || n != len(j.Hash) {
			return nil, Errorf(Internal, "stored join code")
		}
		if c.Expires != 0 {
			j.Expires = time.Unix(c.Expires, 0)
		}
		out = append(out, j)
	}
	return out, nil
}

// putJoinCode makes or removes a join code of a Group, as its policy lets By.
func (e *Engine) putJoinCode(tx Tx, now time.Time, in PutJoinCode) (Output, error) {
	r, err := e.group(tx, in.Code.Room)
	if err != nil {
		return Output{}, err
	}
	return Output{}, e.keepCode(tx, now, in, func(c policy.Capability) bool {
		return in.Code.By == e.system || r.group.policy.Can(string(in.Code.By), c)
	})
}

// keepCode is putJoinCode with what By may do. Who made a code may remove it.
func (e *Engine) keepCode(tx Tx, now time.Time, in PutJoinCode, can func(policy.Capability) bool) error {
	c := in.Code
	codes, err := JoinCodesOf(tx, c.Room)
	if err != nil {
		return err
	}
	var old *JoinCode
	for i := range codes {
		if subtle.ConstantTimeCompare(codes[i].Hash[:], c.Hash[:]) == 1 {
			old = &codes[i]
		}
	}
	if in.Drop {
		switch {
		case old == nil:
			return Errorf(NotFound, "no such join code")
		case old.By != c.By && !can(policy.CanDeleteJoinCode):
			return Errorf(Denied, "you may not remove that join code")
		}
		return dropCode(tx, old)
	}
	switch {
	case !can(policy.CanCreateJoinCode):
		return Errorf(Denied, "you may not make join codes in that room")
	case old != nil:
		return Errorf(Conflict, "that join code is there already")
	case !c.Expires.IsZero() && !c.Expires.After(now):
		return Errorf(Invalid, "that join code is over already")
	case len(codes) >= MaxJoinCodes:
		return Errorf(TooLarge, "a room has at most %d join codes", MaxJoinCodes)
	}
	row := codeRow{By: c.By, Uses: c.Uses}
	if !c.Expires.IsZero() {
		row.Expires = c.Expires.Unix()
		if err := e.remind(tx, row.Expires, dueCode, codeKey(&c)); err != nil {
			return err
		}
	}
	return putCBOR(tx, joinCodes, codeKey(&c), &row)
}

func codeKey(c *JoinCode) string { return RoomKey(c.Room) + " " + hex.EncodeToString(c.Hash[:]) }

func dropCode(tx Tx, c *JoinCode) error {
	if !c.Expires.IsZero() {
		if err := forget(tx, c.Expires.Unix(), dueCode, codeKey(c)); err != nil {
			return err
		}
	}
	return asBroken(tx.DropValue(joinCodes, codeKey(c)))
}

// strangerTries is how many times more a wrong code costs a homeserver that has
// nobody in the room.
const strangerTries = 10

// tries are what one wrong join code is charged to, since people choose codes that
// can be guessed: the user, their homeserver, for it may make up users, and, as
// anybody may make up homeservers, all of those together that have nobody in the
// room. So who guesses keeps out nobody of this homeserver, nor of one in the room.
func (e *Engine) tries(r Reader, room RoomID, user UserURI) ([]charge, error) {
	m, key, house := e.memory(), RoomKey(room)+" ", HostOf(user.Domain())
	head, err := GroupOf(r, room)
	if err != nil {
		return nil, err
	}
	if slices.Contains(head.Domains, user.Domain()) || user.Domain() == e.cfg.Homeserver {
		return []charge{{&m.houseTry, key + house, 1}, {&m.userTry, key + string(user), 1}}, nil
	}
	return []charge{{&m.houseTry, key, 1}, {&m.houseTry, key + house, strangerTries}, {&m.userTry, key + string(user), 1}}, nil
}

// tryCode looks for a join code by its hash. Wrong ones are limited; all codes of the
// room are compared, each in constant time.
func (e *Engine) tryCode(tx Tx, now time.Time, room RoomID, user UserURI, hash [32]byte) (*JoinCode, error) {
	tries, err := e.tries(tx, room, user)
	if err != nil {
		return nil, err
	}
	if wait := takeAll(tries, now); wait > 0 {
		return nil, limited(wait, "too many join codes tried")
	}
	codes, err := JoinCodesOf(tx, room)
	if err != nil {
		return nil, err
	}
	found := -1
	for i := range codes {
		over := !codes[i].Expires.IsZero() && !codes[i].Expires.After(now)
		if subtle.ConstantTimeCompare(codes[i].Hash[:], hash[:]) == 1 && !over {
			found = i
		}
	}
	if found < 0 {
		return nil, Refuse(Denied, BadKey, "that is no join code of that room")
	}
	giveBack(tries)
	return &codes[found], nil
}

// useCode counts a use of a join code, and remembers that user has given one.
func (e *Engine) useCode(tx Tx, now time.Time, user UserURI, c *JoinCode) error {
	switch {
	case c.Uses == 1:
		if err := dropCode(tx, c); err != nil {
			return err
		}
	case c.Uses > 1:
		row := codeRow{By: c.By, Uses: c.Uses - 1}
		if !c.Expires.IsZero() {
			row.Expires = c.Expires.Unix()
		}
		if err := putCBOR(tx, joinCodes, codeKey(c), &row); err != nil {
			return err
		}
	}
	key, until := RoomKey(c.Room)+" "+string(user), now.Add(admissionLife).Unix()
	if err := e.remind(tx, until, dueAdmission, key); err != nil {
		return err
	}
	return putCBOR(tx, admissions, key, until)
}

// admitted reports whether user has lately given a join code of room.
func (e *Engine) admitted(r Reader, now time.Time, room RoomID, user UserURI) (bool, error) {
	var until int64
	err := getCBOR(r, admissions, RoomKey(room)+" "+string(user), &until)
	if isAbsent(err) {
		return false, nil
	}
	return now.Unix() < until, asBroken(err)
}

// A turn is that of one device to change a room by an external commit. The one after
// it is kept a while for who asked first of those with another homeserver: one that
// has many devices does not keep the others out.
type turn struct {
	device DeviceURI
	until  time.Time
	next   string // host of homeservers; "" = nobody asked
}

// wait is how long a device has to wait for its turn.
func (t *turn) wait(device DeviceURI, now time.Time) time.Duration {
	end := t.until
	if t.next != "" && t.next != HostOf(device.Domain()) {
		end = end.Add(leaseLife)
	}
	if t.device == device && now.Before(t.until) {
		return 0
	}
	return end.Sub(now)
}

// A lessee is a device that took leases of a room and did not commit since.
type lessee struct {
	taken int
	last  time.Time
	code  bool   // its user has given a join code
	crowd string // as whose it is counted too
}

// wait is how long a lessee has to wait for its next lease. Its patience is asked
// for twice as long each time.
func (l *lessee) wait(now time.Time) time.Duration {
	if now.Sub(l.last) >= leaseMemory {
		l.taken = 0
	}
	if l.taken < freeLeases {
		return 0
	}
	pause := leaseMemory
	if l.taken < maxLeases {
		pause = leaseLife << (l.taken - freeLeases)
	}
	return max(0, l.last.Add(pause).Sub(now))
}

// A crowd is devices that somebody can make more of, counted together.
type crowd struct {
	taken int // leases without a commit
	last  time.Time
}

func (c *crowd) wait(now time.Time) time.Duration {
	if now.Sub(c.last) >= leaseMemory {
		c.taken = 0
	}
	if c.taken < crowdLeases {
		return 0
	}
	return max(0, c.last.Add(leaseLife<<min(c.taken-crowdLeases, crowdPauses)).Sub(now))
}

// crowdOf is the crowd of a user's devices in a room: the user, if registered here or
// in the room, else all of a homeserver that are not, for it may make up users.
func (e *Engine) crowdOf(tx Tx, room RoomID, user UserURI) (string, error) {
	r, err := e.group(tx, room)
	if err != nil {
		return "", err
	}
	if _, in := r.group.policy.Role(string(user)); in || user.Domain() == e.cfg.Homeserver {
		return string(room) + " " + string(user), nil
	}
	return string(room) + " " + HostOf(user.Domain()), nil
}

// leaseUsed says that a device has committed: its leases were taken in earnest.
func (e *Engine) leaseUsed(room RoomID, device DeviceURI) {
	m := e.memory()
	l := m.lessees.get(leaseKey(room, device))
	m.lessees.drop(leaseKey(room, device))
	if c := m.crowds.get(l.crowd); c.taken > 0 {
		c.taken = max(0, c.taken-l.taken)
		m.crowds.put(l.crowd, c)
	}
	if m.leases.get(string(room)).device == device {
		m.leases.drop(string(room))
	}
}

// leasedByCode reports whether a device's user gave a join code for its last lease of
// a room, and the device has not committed since. It counts no longer than the code
// itself does.
func (e *Engine) leasedByCode(now time.Time, room RoomID, device DeviceURI) bool {
	l := e.memory().lessees.get(leaseKey(room, device))
	return l.code && now.Sub(l.last) < admissionLife
}

func leaseKey(room RoomID, device DeviceURI) string { return string(room) + " " + string(device) }

// leaseGroupInfo hands out what an external commit needs, if the room's policy lets
// the user in by one.
func (e *Engine) leaseGroupInfo(tx Tx, now time.Time, in LeaseGroupInfo) (Output, error) {
	return e.lend(tx, now, in, func(code bool) (*GroupInfoLease, error) { return e.groupInfo(tx, in.Room, in.User, code) })
}

// lend is leaseGroupInfo with what the policy says, without and with a join code.
func (e *Engine) lend(tx Tx, now time.Time, in LeaseGroupInfo, info func(code bool) (*GroupInfoLease, error)) (Output, error) {
	d, err := getDevice(tx, in.By)
	switch {
	case isAbsent(err):
		return Output{}, Errorf(NotFound, "no such device")
	case err != nil:
		return Output{}, asBroken(err)
	case d.User != in.User || !d.usable(now):
		return Output{}, Errorf(Denied, "that device is not in use")
	}
	m := e.memory()
	who := m.lessees.get(leaseKey(in.Room, in.By))
	if wait := who.wait(now); wait > 0 {
		if who.taken >= maxLeases {
			return Output{}, &Error{Code: Denied, Text: "that device keeps others from joining and does not join", RetryAfter: wait}
		}
		return Output{}, limited(wait, "that device asked before and did not join")
	}
	name, err := e.crowdOf(tx, in.Room, in.User)
	if err != nil {
		return Output{}, err
	}
	all := m.crowds.get(name)
	if wait := all.wait(now); wait > 0 {
		return Output{}, limited(wait, "others of your homeserver, or your own devices, asked before and did not join")
	}
	t := m.leases.get(string(in.Room))
	if wait := t.wait(in.By, now); wait > 0 {
		if host := HostOf(in.By.Domain()); t.next == "" && host != HostOf(t.device.Domain()) {
			t.next = host
			m.leases.put(string(in.Room), t)
		}
		return Output{}, limited(wait, "somebody else is joining")
	}
	lease, err := info(false)
	needCode := CodeOf(err) == Denied && ReasonOf(err) == InviteOnly
	if needCode {
		lease, err = e.lendByCode(tx, now, &in, info)
	}
	if err != nil {
		return Output{}, err
	}
	mine := turn{device: in.By, until: now.Add(leaseLife)}
	if t.next != "" && t.device == in.By && now.Before(t.until) {
		mine = t // to ask twice does not make it longer
	}
	lease.Until = mine.until
	m.lessees.put(leaseKey(in.Room, in.By), lessee{taken: who.taken + 1, last: now, code: needCode, crowd: name})
	m.crowds.put(name, crowd{taken: all.taken + 1, last: now})
	m.leases.put(string(in.Room), mine)
	return Output{Lease: lease}, nil
}

// lendByCode is for who needs a join code, and has given one before or gives it now.
func (e *Engine) lendByCode(tx Tx, now time.Time, in *LeaseGroupInfo, info func(code bool) (*GroupInfoLease, error)) (*GroupInfoLease, error) {
	before, err := e.admitted(tx, now, in.Room, in.User)
	if err != nil {
		return nil, err
	}
	if before {
		return info(true)
	}
	if in.Code == [32]byte{} {
		return info(false)
	}
	code, err := e.tryCode(tx, now, in.Room, in.User, in.Code)
	if err != nil {
		return nil, err
	}
	lease, err := info(true)
	if err != nil {
		return nil, err
	}
	return lease, e.useCode(tx, now, in.User, code)
}
