package irc

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of what a stored argon2id string may ask for.
const (
	maxArgonMemory = 256 << 10 // KiB
	maxArgonPasses = 16
	maxArgonLanes  = 4
	argonSalt      = 16 // octets of the salts and keys that we make
	argonKey       = 32
)

// Passwords is the policy for new passwords. A zero field takes the default. Its
// costs stand in every stored string, so they can be raised without touching
// older accounts.
type Passwords struct {
	MinLength int    // characters; default 8 (NIST SP 800-63B §3.1.1.2)
	Memory    uint32 // KiB of argon2id; default 19456: OWASP's choice with the least memory
	Passes    uint32 // of argon2id; default 2
}

func (p Passwords) withDefaults() Passwords {
	if p.MinLength <= 0 {
		p.MinLength = 8
	}
	if p.Memory == 0 {
		p.Memory = 19456
	}
	if p.Passes == 0 {
		p.Passes = 2
	}
	p.Memory, p.Passes = min(p.Memory, maxArgonMemory), min(p.Passes, maxArgonPasses)
	return p
}

// Bounds of what a person may choose.
const (
	maxPassword = 256 // octets: it has to fit one IRC line in REGISTER
	maxAccount  = 32  // octets, as long as a nick
)

// tokenPrefix marks login tokens, so a wrong one is refused without hashing.
const tokenPrefix = "isthmus_"

// AccountKey returns the key under which the account called name is stored. It
// folds as rfc1459 does whatever the listener's case mapping is: that is the
// coarser of the two, so two accounts never compete for one nick.
func AccountKey(name string) string { return foldRFC1459.fold(name) }

// NewAccount returns an account that can log in with password by PLAIN and
// SCRAM-SHA-256. It costs tens of milliseconds of
// processor time. User and Created are left to the caller, who knows the domain
// and the time. Errors are Invalid with a text for the person; salts come from
// rand.
func (p Passwords) NewAccount(name, password string, rand io.Reader) (core.Account, error) {
	if err := checkAccountName(name); err != nil {
		return core.Account{}, err
	}
	a := core.Account{Name: name, Fold: AccountKey(name)}
	if err := p.Set(&a, password, rand); err != nil {
		return core.Account{}, err
	}
	return a, nil
}

// Set replaces the password of a; tokens and certificates stay. Errors are as
// NewAccount's.
func (p Passwords) Set(a *core.Account, password string, rand io.Reader) error {
	p = p.withDefaults()
	prepared, err := p.check(a.Name, password)
	if err != nil {
		return err
	}
	var salts [2][argonSalt]byte
	for i := range salts {
		if _, err := io.ReadFull(rand, salts[i][:]); err != nil {
			return core.Errorf(core.Internal, "reading a salt: %w", err)
		}
	}
	keys, err := newSCRAMKeys(prepared, salts[1][:], scramIterations)
	if err != nil {
		return err
	}
	h := phc{memory: p.Memory, passes: p.Passes, lanes: 1, salt: salts[0][:]}
	h.key = h.hash(prepared, argonKey)
	a.Argon2id, a.SCRAM = h.String(), keys.String()
	return nil
}

// NewToken returns a random login token, to be used in place of a password in
// PLAIN, and what Account.Tokens keeps of it.
func NewToken(rand io.Reader) (token, stored string, err error) {
	var b [20]byte // 160 bits: beyond guessing, so one SHA-256 is hash enough
	if _, err := io.ReadFull(rand, b[:]); err != nil {
		return "", "", core.Errorf(core.Internal, "reading a token: %w", err)
	}
	token = tokenPrefix + base64.RawURLEncoding.EncodeToString(b[:])
	return token, hexSHA256([]byte(token)), nil
}

func hexSHA256(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// checkAccountName holds an account name to the rules of a nick, because the
// account's owner goes by it.
func checkAccountName(name string) error {
	if !validNick(name, maxAccount) {
		return core.Errorf(core.Invalid, "an account name has 1 to %d letters, digits and []\\^_`{|}-, and starts with no digit or dash", maxAccount)
	}
	return nil
}

// check prepares a new password and holds it to the policy.
func (p Passwords) check(name, password string) (string, error) {
	s, err := preparePassword(password)
	switch {
	case err != nil:
		return "", err
	case utf8.RuneCountInString(s) < p.MinLength:
		return "", core.Errorf(core.Invalid, "a password has at least %d characters", p.MinLength)
	case strings.HasPrefix(s, tokenPrefix):
		return "", core.Errorf(core.Invalid, "a password may not start with %q", tokenPrefix)
	case strings.EqualFold(s, name) || s == "" || strings.Trim(s, s[:1]) == "":
		return "", core.Errorf(core.Invalid, "that password is too easy to guess")
	}
	return s, nil
}

// preparePassword does what SASLprep (RFC 4013) does for text that people type:
// other spaces become a space, invisible joiners go, compatibility forms are
// unified, control characters are refused. ASCII stays as it is.
func preparePassword(s string) (string, error) {
	if len(s) > maxPassword {
		return "", core.Errorf(core.Invalid, "a password has at most %d octets", maxPassword)
	}
	ascii := true
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return "", core.Errorf(core.Invalid, "a password has no control characters")
		}
		ascii = ascii && s[i] < utf8.RuneSelf
	}
	if ascii {
		return s, nil
	}
	if !utf8.ValidString(s) {
		return "", core.Errorf(core.Invalid, "a password is UTF-8 text")
	}
	s = norm.NFKC.String(strings.Map(prepareRune, s))
	for _, r := range s {
		if unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Zl, unicode.Zp) || r&0xfffe == 0xfffe {
			return "", core.Errorf(core.Invalid, "a password has no control characters")
		}
	}
	if len(s) > maxPassword {
		return "", core.Errorf(core.Invalid, "a password has at most %d octets", maxPassword)
	}
	return s, nil
}

func prepareRune(r rune) rune {
	switch { // RFC 3454 tables B.1 (mapped to nothing) and C.1.2 (spaces)
	case r == 0xad, r == 0x34f, r == 0x1806, r >= 0x180b && r <= 0x180d, r >= 0x200b && r <= 0x200d,
		r == 0x2060, r >= 0xfe00 && r <= 0xfe0f, r == 0xfeff:
		return -1
	case unicode.Is(unicode.Zs, r):
		return ' '
	}
	return r
}

// A phc is an argon2id hash with its parameters, in the string format of the
// Password Hashing Competition.
type phc struct {
	memory, passes uint32
	lanes          uint8
	salt, key      []byte
}

func (p phc) String() string {
	e := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.memory, p.passes, p.lanes,
		e.EncodeToString(p.salt), e.EncodeToString(p.key))
}

// parsePHC reads what String wrote, within bounds; the error says nothing of s.
func parsePHC(s string) (p phc, err error) {
	bad := core.Errorf(core.Internal, "stored password hash is broken")
	f := strings.Split(s, "$")
	if len(f) != 6 || f[0] != "" || f[1] != "argon2id" || f[2] != "v="+strconv.Itoa(argon2.Version) {
		return p, bad
	}
	if n, err := fmt.Sscanf(f[3], "m=%d,t=%d,p=%d", &p.memory, &p.passes, &p.lanes); n != 3 || err != nil {
		return p, bad
	}
	var err1, err2 error
	p.salt, err1 = base64.RawStdEncoding.Strict().DecodeString(f[4])
	p.key, err2 = base64.RawStdEncoding.Strict().DecodeString(f[5])
	ok := err1 == nil && err2 == nil && len(p.salt) >= 8 && len(p.salt) <= 64 && len(p.key) >= 16 && len(p.key) <= 64 &&
		p.memory >= 8 && p.memory <= maxArgonMemory && p.passes >= 1 && p.passes <= maxArgonPasses &&
		p.lanes >= 1 && p.lanes <= maxArgonLanes
	if !ok {
		return phc{}, bad
	}
	return p, nil
}

func (p phc) hash(password string, octets int) []byte {
	return argon2.IDKey([]byte(password), p.salt, p.passes, p.memory, p.lanes, uint32(octets))
}

// matches hashes password and compares in constant time.
func (p phc) matches(password string) bool {
	return subtle.ConstantTimeCompare(p.hash(password, len(p.key)), p.key) == 1
}

// nobody is what the password of an account that does not exist is compared
// with, so that the answer takes as long.
func (p Passwords) nobody() phc {
	p = p.withDefaults()
	return phc{memory: p.Memory, passes: p.Passes, lanes: 1, salt: make([]byte, argonSalt), key: make([]byte, argonKey)}
}

// Bounds of hashing. By default half the processors hash, at least one, so that
// sessions that talk always find one free. The queue is as long as one worker
// can empty within the time a client is given to register.
const (
	hashQueue = 512
	hashRetry = 5 * time.Second
)

// A hasher runs expensive functions in its caller's goroutine, few at a time.
type hasher struct {
	queue, running chan struct{}
}

func newHasher(workers int) *hasher {
	return &hasher{queue: make(chan struct{}, hashQueue+workers), running: make(chan struct{}, workers)}
}

// run calls f when its turn comes. A full queue is Limited at once.
func (h *hasher) run(ctx context.Context, f func()) error {
	select {
	case h.queue <- struct{}{}:
		defer func() { <-h.queue }()
	default:
		return &core.Error{Code: core.Limited, Text: "too many logins at the moment", RetryAfter: hashRetry}
	}
	select {
	case h.running <- struct{}{}:
		defer func() { <-h.running }()
	case <-ctx.Done():
		return core.Errorf(core.Unavailable, "waiting for a login: %w", ctx.Err())
	}
	f()
	return nil
}

// Bounds of what the authenticator remembers.
const (
	loginMemory    = 10 * time.Minute // how long a verified password is taken again without hashing
	maxLogins      = 8192             // verified passwords kept, 48 octets each
	maxStrikes     = 16384            // accounts and addresses with failures
	knownFor       = 30 * 24 * time.Hour
	maxKnown       = 16384
	accountStrikes = 20 // failures per account, from all addresses, before waiting
	addressStrikes = 60 // failures per address, over all accounts
	strikeBase     = time.Second
	strikeMax      = 15 * time.Minute
	strikeForget   = time.Hour
)

// An authenticator answers who somebody is. It holds no password and no key of
// anybody, only hashes under a key that dies with the process.
type authenticator struct {
	gw     bridges.Gateway
	hashes *hasher
	policy Passwords
	key    [32]byte // of the login cache; random per process
	decoy  []byte   // of the salts shown for accounts that do not exist; lasting
	now    func() time.Time

	mu        sync.Mutex
	logins    table[[32]byte, struct{}] // verified (account, hash, password)
	known     table[string, struct{}]   // account and address that were right before
	accounts  strikes
	addresses strikes
	certs     certIndex
}

// newAuthenticator returns one that reads accounts through gw. secret is the
// operator's lasting secret: 16 octets or more; hashers is how many passwords
// are hashed at once, 0 = half the processors.
func newAuthenticator(gw bridges.Gateway, secret []byte, policy Passwords, hashers int, now func() time.Time) *authenticator {
	if hashers <= 0 {
		hashers = max(1, runtime.NumCPU()/2)
	}
	a := &authenticator{gw: gw, hashes: newHasher(hashers), policy: policy, now: now,
		logins:    table[[32]byte, struct{}]{max: maxLogins},
		known:     table[string, struct{}]{max: maxKnown},
		accounts:  newStrikes(accountStrikes),
		addresses: newStrikes(addressStrikes),
	}
	rand.Read(a.key[:]) // never fails (crypto/rand)
	a.decoy = mac(secret, "isthmus irc decoy salt")
	return a
}

func mac(key []byte, parts ...string) []byte {
	h := hmac.New(sha256.New, key)
	for _, p := range parts {
		var n [4]byte // length first: no two lists of parts run together
		n[0], n[1], n[2], n[3] = byte(len(p)>>24), byte(len(p)>>16), byte(len(p)>>8), byte(len(p))
		h.Write(n[:])
		io.WriteString(h, p)
	}
	return h.Sum(nil)
}

// errBadLogin is the one answer to every wrong name, password or proof.
var errBadLogin = &core.Error{Code: core.Unauthenticated, Text: "wrong account name or password"}

// errDisabled is told only to those who proved that the account is theirs.
var errDisabled = &core.Error{Code: core.Denied, Text: "this account is disabled"}

// find returns the account called name; found is false if there is none, which
// callers must not let their client see.
func (a *authenticator) find(ctx context.Context, name string) (acc core.Account, found bool, err error) {
	if checkAccountName(name) != nil {
		return acc, false, nil
	}
	err = a.gw.View(ctx, func(r core.Reader) error {
		acc, err = r.Account(AccountKey(name))
		return err
	})
	if core.CodeOf(err) == core.NotFound && err != nil {
		return core.Account{}, false, nil
	}
	return acc, err == nil, err
}

// plain checks a name and a password or login token (RFC 4616). Errors are
// Unauthenticated, Denied (disabled), Limited with RetryAfter, or the store's.
func (a *authenticator) plain(ctx context.Context, from netip.Addr, name, password string) (core.Account, error) {
	try, err := a.begin(from, name)
	if err != nil {
		return core.Account{}, err
	}
	acc, found, err := a.find(ctx, name)
	if err != nil {
		try.cancel()
		return core.Account{}, err
	}
	ok, err := a.checkPlain(ctx, acc, found, password)
	if err != nil {
		try.cancel()
		return core.Account{}, err
	}
	return try.end(acc, ok)
}

func (a *authenticator) checkPlain(ctx context.Context, acc core.Account, found bool, password string) (bool, error) {
	if strings.HasPrefix(password, tokenPrefix) {
		return holds(acc.Tokens, hexSHA256([]byte(password))), nil
	}
	prepared, err := preparePassword(password)
	if err != nil {
		return false, nil // too long or with controls: nobody has that password
	}
	// The stored hash is part of the cache's key, so a new password, with its new
	// salt, leaves no old entry valid.
	entry := [32]byte(mac(a.key[:], acc.Fold, acc.Argon2id, prepared))
	if found && a.remembered(entry) {
		return true, nil
	}
	hash, have := a.policy.nobody(), false
	if found && acc.Argon2id != "" {
		if hash, err = parsePHC(acc.Argon2id); err != nil {
			return false, err
		}
		have = true
	}
	var match bool
	if err := a.hashes.run(ctx, func() { match = hash.matches(prepared) }); err != nil {
		return false, err
	}
	if match && have {
		a.mu.Lock()
		now := a.now()
		a.logins.put(entry, struct{}{}, now.Add(loginMemory), now)
		a.mu.Unlock()
	}
	return match && have, nil
}

func (a *authenticator) remembered(entry [32]byte) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, ok := a.logins.get(entry, a.now())
	return ok
}

// holds compares want with every element, in a time that depends on their
// number only.
func holds(list []string, want string) bool {
	found := 0
	for _, s := range list {
		found |= subtle.ConstantTimeCompare([]byte(s), []byte(want))
	}
	return found == 1
}

// certificate finds whose client certificate this is (SASL EXTERNAL, RFC 4422
// Appendix A). fingerprint is its lower-case hex SHA-256, name the account asked
// for, "" for whichever has it.
func (a *authenticator) certificate(ctx context.Context, from netip.Addr, fingerprint, name string) (core.Account, error) {
	if fingerprint == "" {
		return core.Account{}, errBadLogin
	}
	if name == "" {
		fold, err := a.certs.find(ctx, a.gw, fingerprint, a.now())
		if err != nil {
			return core.Account{}, err
		}
		name = fold
	}
	try, err := a.begin(from, name)
	if err != nil {
		return core.Account{}, err
	}
	acc, found, err := a.find(ctx, name)
	if err != nil {
		try.cancel()
		return core.Account{}, err
	}
	return try.end(acc, found && holds(acc.Certs, fingerprint))
}

// Bounds of the certificate index.
const (
	certRescan = 30 * time.Second // an unknown certificate causes at most one reading of the accounts in this time
	certPage   = 500
)

// A certIndex finds accounts by certificate. It is a hint: whoever uses it looks
// at the account itself.
type certIndex struct {
	mu   sync.Mutex
	read time.Time
	fold map[string]string
}

func (x *certIndex) find(ctx context.Context, gw bridges.Gateway, fingerprint string, now time.Time) (string, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if fold, ok := x.fold[fingerprint]; ok || (x.fold != nil && now.Sub(x.read) < certRescan) {
		return fold, nil
	}
	index := make(map[string]string)
	for after := ""; ; {
		var page []core.Account
		err := gw.View(ctx, func(r core.Reader) (err error) {
			page, err = r.Accounts(after, certPage)
			return err
		})
		if err != nil {
			return "", err
		}
		for _, acc := range page {
			for _, c := range acc.Certs {
				index[c] = acc.Fold
			}
		}
		if len(page) < certPage {
			break
		}
		after = page[len(page)-1].Fold
	}
	x.fold, x.read = index, now
	return index[fingerprint], nil
}

// An attempt is one login. For the account it counts as failed until its end
// says otherwise, so that many at once do not slip under the limit; for the
// address, where a gateway may have many users log in at once, when it has failed.
type attempt struct {
	a                *authenticator
	account, address string
	exempt           bool // this address was right about this account before
}

// begin counts an attempt, or refuses it as Limited. Whether the account exists
// plays no part.
func (a *authenticator) begin(from netip.Addr, name string) (attempt, error) {
	t := attempt{a: a, account: AccountKey(name[:min(len(name), maxAccount)]), address: addressBlock(from).String()}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	_, t.exempt = a.known.get(t.account+" "+t.address, now)
	wait := a.addresses.wait(t.address, now)
	if !t.exempt {
		wait = max(wait, a.accounts.wait(t.account, now))
	}
	if wait > 0 {
		return t, &core.Error{Code: core.Limited, Text: "too many failed logins", RetryAfter: wait}
	}
	if !t.exempt {
		a.accounts.add(t.account, now)
	}
	return t, nil
}

// cancel takes the attempt back: it failed for a reason of ours.
func (t attempt) cancel() {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	if !t.exempt {
		t.a.accounts.remove(t.account, t.a.now())
	}
}

// end closes the attempt and returns the account or the one error for all
// failures.
func (t attempt) end(acc core.Account, ok bool) (core.Account, error) {
	t.a.mu.Lock()
	defer t.a.mu.Unlock()
	now := t.a.now()
	if !ok {
		t.a.addresses.add(t.address, now)
		return core.Account{}, errBadLogin
	}
	if !t.exempt {
		t.a.accounts.remove(t.account, now)
	}
	t.a.known.put(t.account+" "+t.address, struct{}{}, now.Add(knownFor), now)
	if acc.Disabled {
		return core.Account{}, errDisabled
	}
	return acc, nil
}

// strikes counts failures and says how long to wait after too many.
type strikes struct {
	free int
	t    table[string, strike]
}

type strike struct {
	n     int
	until time.Time // no attempt before
}

func newStrikes(free int) strikes {
	return strikes{free: free, t: table[string, strike]{max: maxStrikes}}
}

func (s *strikes) wait(key string, now time.Time) time.Duration {
	k, _ := s.t.get(key, now)
	return k.until.Sub(now) // negative without an entry
}

func (s *strikes) add(key string, now time.Time) {
	k, _ := s.t.get(key, now)
	k.n++
	if over := k.n - s.free; over >= 0 {
		k.until = now.Add(min(strikeMax, strikeBase<<min(over, 20)))
	}
	s.t.put(key, k, now.Add(strikeForget), now)
}

func (s *strikes) remove(key string, now time.Time) {
	k, ok := s.t.get(key, now)
	if !ok {
		return
	}
	if k.n--; k.n <= 0 {
		s.t.drop(key)
		return
	}
	if k.n < s.free {
		k.until = time.Time{}
	}
	s.t.put(key, k, now.Add(strikeForget), now)
}
