package core

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/fxamacker/cbor/v2"
)

// Rows of state of the directory are CBOR in the store's key-value rows; the file
// that a bucket is named in is the only one that writes it. What ends by time has
// a second row in dueRows, so that what is over is found without a search.
const (
	dueRows   = "due" // when (numberKey of Unix seconds) + " " + what + " " + key
	sweepRows = 256   // at most so many are worked off by one input
)

// getCBOR reads a row into v; NotFound if there is none.
func getCBOR(r Reader, bucket, key string, v any) error {
	b, err := r.Value(bucket, key)
	if err != nil {
		return err
	}
	return cborInto(b, v)
}

// putCBOR writes v to a row.
func putCBOR(tx Tx, bucket, key string, v any) error {
	b, err := cbor.Marshal(v)
	if err != nil {
		return Errorf(Internal, "%s: %w", bucket, err)
	}
	return asBroken(tx.PutValue(bucket, key, b))
}

func cborInto(b []byte, v any) error {
	if err := cbor.Unmarshal(b, v); err != nil {
		return Errorf(Internal, "stored row: %w", err)
	}
	return nil
}

// parseNumberKey reads what numberKey wrote.
func parseNumberKey(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 {
		return 0, Errorf(Internal, "stored number")
	}
	return n, nil
}

// isAbsent tells a row that is not there from one that cannot be read.
func isAbsent(err error) bool { return CodeOf(err) == NotFound }

// under lists the rows whose key begins with prefix and is after prefix+after. Most
// prefixes have few rows, so it begins with few: those behind them are read in vain.
func under(r Reader, bucket, prefix, after string, limit int) (found []Value, err error) {
	for from, page := prefix+after, min(limit, 16); page > 0; page = min(4*page, limit-len(found)) {
		rows, err := r.Values(bucket, from, page)
		if err != nil {
			return nil, asBroken(err)
		}
		for i := range rows {
			if !strings.HasPrefix(rows[i].Key, prefix) {
				return append(found, rows[:i]...), nil
			}
		}
		if found = append(found, rows...); len(rows) < page {
			break
		}
		from = rows[len(rows)-1].Key
	}
	return found, nil
}

// decideDirectory decides the inputs about devices and what they leave. What has
// ended is cleaned up first, also for an input that is then refused: so that nobody
// is refused for what is over.
func (e *Engine) decideDirectory(tx Tx, now time.Time, in Input) (Output, error) {
	var ended Output
	if err := e.sweep(tx, now, &ended); err != nil {
		return Output{}, err
	}
	out, err := e.decideDirect(tx, now, in)
	out.Letters = append(ended.Letters, out.Letters...)
	return out, err
}

func (e *Engine) decideDirect(tx Tx, now time.Time, in Input) (Output, error) {
	switch in := in.(type) {
	case PutDevice:
		return e.putDevice(tx, now, in)
	case PutHomeserver:
		return e.putHomeserver(tx, in)
	case PutSession:
		return e.putSession(tx, now, in)
	case PutKeyPackages:
		return e.putKeyPackages(tx, now, in)
	case ClaimKeyPackages:
		return e.claimKeyPackages(tx, now, in)
	case LeaseGroupInfo:
		return e.leaseGroupInfo(tx, now, in)
	case PutJoinCode:
		return e.putJoinCode(tx, now, in)
	case PutConsent:
		return e.putConsent(tx, in)
	case PutLetters:
		return e.putLetters(tx, now, in)
	case DropLetters:
		if _, err := ParseDeviceURI(string(in.Device)); err != nil {
			return Output{}, err
		}
		return Output{}, dropLetters(tx, in.Device, in.UpTo)
	}
	return Output{}, Errorf(Unsupported, "unknown input")
}

// directory is what the engine remembers of requesters between transactions. It
// is gone after a restart or a transaction that failed, which costs nothing but
// that everybody is trusted anew; what must last is in the store.
type directory struct {
	nextDue int64                // nothing is due before; Unix seconds
	chains  map[string]readChain // of homeservers, as last read

	arrivals Meter // new devices, by their homeserver
	uploads  Meter // key packages, by device
	claims   Meter // users asked for, by requester
	takes    Meter // one-time packages, by requester and device
	drains   Meter // one-time packages, by device
	letters  Meter // by sender
	pairs    Meter // letters, by sender and device
	userTry  Meter // wrong join codes, by room and user
	houseTry Meter // wrong join codes, by room and homeserver
	trees    Meter // KiB of those that come with Welcomes, by sender
	leases   recent[turn]
	lessees  recent[lessee]
	crowds   recent[crowd]
	prepared bool
}

// memory returns what is remembered, with its limits set.
func (e *Engine) memory() *directory {
	d := &e.directory
	if !d.prepared {
		*d = directory{prepared: true,
			arrivals: Meter{Burst: 20_000, Every: 100 * time.Millisecond},
			uploads:  Meter{Burst: 3 * MaxKeyPackages, Every: 5 * time.Second},
			claims:   Meter{Burst: 16 * MaxClaim * userWeight, Every: 20 * time.Millisecond / userWeight},
			takes:    Meter{Burst: 20 * pairWeight, Every: 10 * time.Second / pairWeight},
			drains:   Meter{Burst: 60, Every: 10 * time.Second},
			letters:  Meter{Burst: 1000 * userWeight, Every: 100 * time.Millisecond / userWeight},
			pairs:    Meter{Burst: 100 * pairWeight, Every: 10 * time.Second / pairWeight},
			userTry:  Meter{Burst: 5, Every: time.Hour},
			houseTry: Meter{Burst: 100, Every: 10 * time.Minute},
			trees:    Meter{Burst: 4 * maxTree >> 10, Every: 10 * time.Millisecond},
		}
	}
	return d
}

// remind has what is done to key when it is time; forget takes it back.
func (e *Engine) remind(tx Tx, at int64, what dueKind, key string) error {
	d := e.memory()
	d.nextDue = min(d.nextDue, at)
	return asBroken(tx.PutValue(dueRows, dueKey(at, what, key), nil))
}

func forget(tx Tx, at int64, what dueKind, key string) error {
	return asBroken(tx.DropValue(dueRows, dueKey(at, what, key)))
}

// A dueKind says what is to be done at the time of a row in dueRows.
type dueKind string

const (
	dueSession   dueKind = "session"
	duePackage   dueKind = "package"
	dueCode      dueKind = "code"
	dueAdmission dueKind = "admission"
	dueTree      dueKind = "tree"
)

func dueKey(at int64, what dueKind, key string) string {
	return numberKey(uint64(max(at, 0))) + " " + string(what) + " " + key
}

// sweep works off what is due, with a bound; the rest waits for the next input.
func (e *Engine) sweep(tx Tx, now time.Time, out *Output) error {
	d := e.memory()
	if now.Unix() < d.nextDue {
		return nil
	}
	rows, err := tx.Values(dueRows, "", sweepRows)
	if err != nil {
		return asBroken(err)
	}
	d.nextDue = math.MaxInt64
	if len(rows) == sweepRows {
		d.nextDue = 0 // look again
	}
	for _, row := range rows {
		when, what, _ := strings.Cut(row.Key, " ")
		at, err := parseNumberKey(when)
		if err != nil {
			return err
		}
		if int64(at) > now.Unix() {
			d.nextDue = min(d.nextDue, int64(at))
			return nil
		}
		if err := tx.DropValue(dueRows, row.Key); err != nil {
			return asBroken(err)
		}
		if err := e.end(tx, now, int64(at), what, out); err != nil {
			return asBroken(err)
		}
	}
	return nil
}

// end does what was to be done at a time that has come.
func (e *Engine) end(tx Tx, now time.Time, at int64, due string, out *Output) error {
	what, key, _ := strings.Cut(due, " ")
	switch dueKind(what) {
	case dueSession:
		return e.endSession(tx, key)
	case duePackage:
		return e.endPackage(tx, now, at, key, out)
	case dueCode:
		return tx.DropValue(joinCodes, key)
	case dueAdmission:
		return tx.DropValue(admissions, key)
	case dueTree:
		return endTree(tx, key)
	}
	return Errorf(Internal, "nobody knows what to do with a due %q", what)
}

// A homeserver asks for all of its users, so it is charged less than one user is:
// by so much in all, and by so much for what it wants of one device.
const (
	userWeight = 64
	pairWeight = 4
)

// payer is as whom a requester is counted: a user, or the host of a homeserver.
func payer(by string) string {
	if strings.HasPrefix(by, "mimi://") {
		return by
	}
	return HostOf(by)
}

// weigh is what n of something costs the requester by, a user or a domain.
func weigh(by string, n, weight int) int {
	if strings.HasPrefix(by, "mimi://") {
		return n * weight
	}
	return n
}

// limited is the refusal of who has to wait.
func limited(wait time.Duration, text string) error {
	return &Error{Code: Limited, Text: text, RetryAfter: wait}
}
