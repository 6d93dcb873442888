package core

import (
	"encoding/hex"
	"time"

	"github.com/isthmus-chat/isthmus/mls"
)

// Bounds of the queue of one device. Welcomes have a part of their own, so that
// nobody keeps a device out of rooms by writing letters to it; so has what is to be
// said again.
const (
	maxPutLetters    = 1024     // of one input
	maxLetterOctets  = 16 << 20 // of all but Welcomes
	maxWelcomes      = 1000
	maxWelcome       = 4 << 20 // octets; that of a room of 10,000 has half a megabyte
	maxWelcomeOctets = 64 << 20
	maxQueued        = MaxLetters + maxWelcomes + maxAgain
	maxLetterPage    = 8 << 20 // octets of what LettersOf returns
)

// Buckets of letters.
const (
	letterHeads  = "letter head"  // device -> letterHead
	letterQueue  = "letter queue" // device + " " + numberKey of the ID -> letterMark
	letterBodies = "letter"       // the same -> letterRow
)

// letterHead counts what waits for a device.
type letterHead struct {
	_       struct{} `cbor:",toarray"`
	Last    uint64   // ID
	Letters letterPart
	Welcome letterPart
	Again   letterPart
}

type letterPart struct {
	_      struct{} `cbor:",toarray"`
	Count  int
	Octets int
}

// letterMark is what must be known of a letter to take it off the queue.
type letterMark struct {
	_      struct{} `cbor:",toarray"`
	Kind   LetterKind
	Octets int
}

type letterRow struct {
	_     struct{} `cbor:",toarray"`
	Kind  LetterKind
	Room  RoomID
	Epoch uint64
	Body  []byte
	At    int64 // ms
}

func (h *letterHead) part(k LetterKind) (part *letterPart, count, octets int) {
	if k == LetterWelcome {
		return &h.Welcome, maxWelcomes, maxWelcomeOctets
	}
	if k == LetterAgain {
		return &h.Again, maxAgain, maxAgainOctets
	}
	return &h.Letters, MaxLetters, maxLetterOctets
}

// add counts a letter, or refuses it because the queue is full.
func (h *letterHead) add(m letterMark) error {
	part, count, octets := h.part(m.Kind)
	if part.Count >= count || part.Octets+m.Octets > octets {
		return Errorf(Limited, "the queue of that device is full")
	}
	part.Count++
	part.Octets += m.Octets
	return nil
}

func letterKey(device DeviceURI, id uint64) string { return string(device) + " " + numberKey(id) }

func getHead(r Reader, device DeviceURI) (letterHead, error) {
	var h letterHead
	err := getCBOR(r, letterHeads, string(device), &h)
	if isAbsent(err) {
		err = nil
	}
	return h, asBroken(err)
}

// LettersOf lists what waits for a device after a letter that it has, in order: at
// most limit letters, and fewer if they are large, but one if there is one.
func LettersOf(r Reader, device DeviceURI, after uint64, limit int) ([]Letter, error) {
	prefix := string(device) + " "
	marks, err := under(r, letterQueue, prefix, numberKey(after), limit)
	if err != nil {
		return nil, err
	}
	var out []Letter
	octets := 0
	for _, m := range marks {
		id, err := parseNumberKey(m.Key[len(prefix):])
		if err != nil {
			return nil, err
		}
		var l letterRow
		if err := getCBOR(r, letterBodies, m.Key, &l); err != nil {
			return nil, asBroken(err)
		}
		if octets += len(l.Body); octets > maxLetterPage && len(out) > 0 {
			break
		}
		out = append(out, Letter{Device: device, ID: id, Kind: l.Kind, Room: l.Room, Epoch: l.Epoch, Body: l.Body, At: time.UnixMilli(l.At)})
	}
	return out, nil
}

// putLetters queues what a user or another homeserver wrote to devices here.
func (e *Engine) putLetters(tx Tx, now time.Time, in PutLetters) (Output, error) {
	if in.From == "" || len(in.From) > MaxURI || len(in.Letters) == 0 {
		return Output{}, Errorf(Invalid, "letters have a sender")
	}
	if len(in.Letters) > maxPutLetters {
		return Output{}, Errorf(TooLarge, "at most %d letters at once", maxPutLetters)
	}
	heads := map[DeviceURI]*letterHead{}
	for i := range in.Letters {
		if err := e.checkLetter(tx, in.From, &in.Letters[i], heads); err != nil {
			return Output{}, err
		}
	}
	if in.From != e.cfg.Homeserver {
		if err := e.chargeLetters(now, &in); err != nil {
			return Output{}, err
		}
	}
	var out Output
	for _, l := range in.Letters {
		l, err := e.putLetter(tx, now, l)
		if err != nil {
			return Output{}, asBroken(err) // checkLetter has said that there is room
		}
		out.Letters = append(out.Letters, l)
	}
	return out, nil
}

// checkLetter says whether a letter from somebody may be queued behind those that
// heads has counted.
func (e *Engine) checkLetter(tx Tx, from string, l *Letter, heads map[DeviceURI]*letterHead) error {
	switch {
	case l.Kind != LetterSealed && (l.Kind != LetterNotice || from != e.cfg.Homeserver):
		return Errorf(Invalid, "nobody sends letters of that kind")
	case len(l.Body) == 0:
		return Errorf(Invalid, "an empty letter")
	case len(l.Body) > MaxLetter:
		return Errorf(TooLarge, "a letter over %d octets", MaxLetter)
	case l.Room != "" || l.Epoch != 0:
		return Errorf(Invalid, "a letter of the inbox belongs to no room")
	}
	h := heads[l.Device]
	if h == nil {
		if err := e.mayReceive(tx, l.Device); err != nil {
			return err
		}
		head, err := getHead(tx, l.Device)
		if err != nil {
			return err
		}
		h = &head
		heads[l.Device] = h
	}
	return h.add(letterMark{Kind: l.Kind, Octets: len(l.Body)})
}

// chargeLetters holds a sender to its budget: of letters, and for each device.
func (e *Engine) chargeLetters(now time.Time, in *PutLetters) error {
	m := e.memory()
	if wait := m.letters.Take(payer(in.From), weigh(in.From, len(in.Letters), userWeight), now); wait > 0 {
		return limited(wait, "too many letters")
	}
	for _, l := range in.Letters {
		if wait := m.pairs.Take(payer(in.From)+" "+string(l.Device), weigh(in.From, 1, pairWeight), now); wait > 0 {
			return limited(wait, "too many letters to one device")
		}
	}
	return nil
}

// mayReceive says whether a device is one that letters are kept for here.
func (e *Engine) mayReceive(tx Tx, device DeviceURI) error {
	d, err := getDevice(tx, device)
	switch {
	case isAbsent(err) || err == nil && !d.Local:
		return Errorf(NotFound, "no such device")
	case err == nil && (d.Revoked || d.Refused):
		return Errorf(Denied, "that device is not in use any more")
	}
	return asBroken(err)
}

// putLetter queues one letter of this homeserver's own: a Welcome, a notice. It is
// Limited if the queue is full, and NotFound or Denied if there is no such device
// in use; nothing is written then. A Welcome to a key package that had one is a
// Conflict: so one package, taken once, cannot fill the queue.
func (e *Engine) putLetter(tx Tx, now time.Time, l Letter) (Letter, error) {
	if err := e.mayReceive(tx, l.Device); err != nil {
		return l, err
	}
	head, err := getHead(tx, l.Device)
	if err != nil {
		return l, err
	}
	mark := letterMark{Kind: l.Kind, Octets: len(l.Body)}
	if err := head.add(mark); err != nil {
		return l, err
	}
	if l.Kind == LetterWelcome {
		if err := useRefs(tx, &l); err != nil {
			return l, err
		}
	}
	head.Last++
	l.ID, l.At = head.Last, now
	key := letterKey(l.Device, l.ID)
	if err := putCBOR(tx, letterHeads, string(l.Device), &head); err != nil {
		return l, err
	}
	if err := putCBOR(tx, letterQueue, key, &mark); err != nil {
		return l, err
	}
	return l, putCBOR(tx, letterBodies, key, &letterRow{Kind: l.Kind, Room: l.Room, Epoch: l.Epoch, Body: l.Body, At: now.UnixMilli()})
}

// useRefs notes that the key package which a device's part of a Welcome is for has
// been used. One that this homeserver never had is the device's own affair.
func useRefs(tx Tx, l *Letter) error {
	if len(l.Body) > maxWelcome {
		return Errorf(TooLarge, "a Welcome over %d octets", maxWelcome)
	}
	m, err := mls.Parse(l.Body)
	if err != nil || m.Welcome == nil || len(m.Welcome.Secrets) != 1 {
		return Errorf(Invalid, "not a Welcome for one device")
	}
	ref := hex.EncodeToString(m.Welcome.Secrets[0].NewMember)
	p, err := getPackage(tx, ref)
	switch {
	case isAbsent(err):
		return nil
	case err != nil:
		return asBroken(err)
	case p.Device != l.Device:
		return Errorf(Denied, "a Welcome for the key package of another device")
	case p.Welcomed && !p.LastResort:
		return Errorf(Conflict, "that key package was used already")
	}
	p.Welcomed = true
	return putCBOR(tx, packageRows, ref, &p)
}

// dropLetters takes a device's letters up to and including upTo off its queue.
func dropLetters(tx Tx, device DeviceURI, upTo uint64) error {
	prefix := string(device) + " "
	marks, err := under(tx, letterQueue, prefix, "", maxQueued)
	if err != nil || len(marks) == 0 {
		return err
	}
	head, err := getHead(tx, device)
	if err != nil {
		return err
	}
	for _, m := range marks {
		id, err := parseNumberKey(m.Key[len(prefix):])
		if err != nil {
			return err
		}
		if id > upTo {
			break
		}
		var mark letterMark
		if err := cborInto(m.Data, &mark); err != nil {
			return err
		}
		part, _, _ := head.part(mark.Kind)
		part.Count--
		part.Octets -= mark.Octets
		for _, bucket := range []string{letterQueue, letterBodies} {
			if err := tx.DropValue(bucket, m.Key); err != nil {
				return asBroken(err)
			}
		}
	}
	return putCBOR(tx, letterHeads, string(device), &head)
}
