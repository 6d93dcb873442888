package irc

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/bridges"
	"github.com/isthmus-chat/isthmus/core"
)

// book is a gateway that knows nothing but accounts.
type book struct {
	core.Reader
	mu    sync.Mutex
	m     map[string]core.Account
	views atomic.Int64
	down  error
}

func newBook(accounts ...core.Account) *book {
	b := &book{m: map[string]core.Account{}}
	for _, a := range accounts {
		b.m[a.Fold] = a
	}
	return b
}

func (b *book) Submit(context.Context, ...core.Envelope) ([]core.Receipt, error) {
	return nil, errors.New("accounts only")
}
func (b *book) Signal(core.Signal) {}
func (b *book) Do(_ context.Context, in core.Input) (core.Output, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := in.(core.PutAccount)
	if _, ok := b.m[p.Account.Fold]; ok && p.Create {
		return core.Output{}, core.Errorf(core.Conflict, "account exists")
	}
	b.m[p.Account.Fold] = p.Account
	return core.Output{}, nil
}
func (b *book) DoAll(ctx context.Context, ins ...core.Input) ([]core.Output, []error, error) {
	return doEach(ctx, b, ins)
}

// doEach is DoAll for gateways that decide nothing.
func doEach(ctx context.Context, gw bridges.Gateway, ins []core.Input) ([]core.Output, []error, error) {
	outs, errs := make([]core.Output, len(ins)), make([]error, len(ins))
	for i, in := range ins {
		outs[i], errs[i] = gw.Do(ctx, in)
	}
	return outs, errs, nil
}

func (b *book) View(_ context.Context, f func(core.Reader) error) error {
	b.views.Add(1)
	if b.down != nil {
		return b.down
	}
	return f(b)
}
func (b *book) Account(fold string) (core.Account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a, ok := b.m[fold]
	if !ok {
		return a, core.Errorf(core.NotFound, "no such account")
	}
	return a, nil
}
func (b *book) Accounts(after string, limit int) (out []core.Account, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(b.m)) {
		if k > after && len(out) < limit {
			out = append(out, b.m[k])
		}
	}
	return out, nil
}

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock { return &clock{t: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)} }
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	c.t = c.t.Add(d)
	c.mu.Unlock()
}

const goodPassword = "correct horse"

var aliceOnce = sync.OnceValue(func() core.Account {
	a, err := (Passwords{}).NewAccount("Alice", goodPassword, rand.Reader)
	if err != nil {
		panic(err)
	}
	return a
})

var (
	here      = netip.MustParseAddr("192.0.2.1")
	testKey   = []byte("sixteen octets!!")
	elsewhere = netip.MustParseAddr("198.51.100.7")
)

func testAuth(t testing.TB, accounts ...core.Account) (*authenticator, *book, *clock) {
	t.Helper()
	b, c := newBook(accounts...), newClock()
	return newAuthenticator(b, testKey, Passwords{}, 2, c.now), b, c
}

func wantCode(t testing.TB, err error, code core.Code) {
	t.Helper()
	if err == nil || core.CodeOf(err) != code {
		t.Fatalf("error %v, want code %v", err, code)
	}
}

func TestNewAccount(t *testing.T) {
	a := aliceOnce()
	if a.Fold != "alice" || a.Name != "Alice" {
		t.Errorf("name %q, fold %q", a.Name, a.Fold)
	}
	if !strings.HasPrefix(a.Argon2id, "$argon2id$v=19$m=19456,t=2,p=1$") {
		t.Errorf("PHC string %q", a.Argon2id)
	}
	p, err := parsePHC(a.Argon2id)
	if err != nil || !p.matches(goodPassword) || p.matches("wrong horse!") {
		t.Errorf("hash does not tell the password from another: %v", err)
	}
	k, err := parseSCRAMKeys(a.SCRAM)
	if err != nil || k.iterations < 4096 { // RFC 7677 §4
		t.Errorf("SCRAM keys %+v, %v", k, err)
	}
	if bytes.Equal(k.salt, p.salt) {
		t.Error("both hashes have one salt")
	}
	for name, c := range map[string][2]string{
		"empty name": {"", goodPassword}, "digit first": {"1x", goodPassword}, "blank": {"a b", goodPassword},
		"long name": {strings.Repeat("a", 33), goodPassword}, "utf-8 name": {"ålice", goodPassword},
		"short": {"bob", "seven77"}, "control": {"bob", "with\x01control"}, "nul": {"bob", "with\x00nul..."},
		"long": {"bob", strings.Repeat("ab", 129)}, "name as password": {"bobbobbob", "BobBobBob"},
		"one letter": {"bob", "aaaaaaaaaa"}, "token": {"bob", tokenPrefix + "xyz"}, "bad utf-8": {"bob", "\xff\xfe\xfd12345678"},
		"bidi control": {"bob", "abcdefgh\u202e"},
	} {
		_, err := (Passwords{}).NewAccount(c[0], c[1], rand.Reader)
		if core.CodeOf(err) != core.Invalid || err == nil {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if _, err := (Passwords{}).NewAccount("bob", goodPassword, bytes.NewReader(nil)); core.CodeOf(err) != core.Internal || err == nil {
		t.Errorf("without randomness: %v", err)
	}
}

func TestPreparePassword(t *testing.T) {
	for in, want := range map[string]string{ // RFC 4013 §3 has the first four
		"I\u00adX": "IX", "user": "user", "USER": "USER", "\u00aa": "a", "\u2168": "IX",
		"a\u00a0b": "a b", "e\u0301": "é", "": "",
	} {
		if got, err := preparePassword(in); err != nil || got != want {
			t.Errorf("prepare %q = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestParsePHCRefuses(t *testing.T) {
	good := aliceOnce().Argon2id
	for _, s := range []string{"", "$argon2i$" + good[10:], strings.Replace(good, "m=19456", "m=99999999", 1),
		strings.Replace(good, "t=2", "t=0", 1), strings.Replace(good, "v=19", "v=16", 1), good + "$x", good[:60]} {
		if _, err := parsePHC(s); err == nil || strings.Contains(err.Error(), "$") {
			t.Errorf("parsePHC(%q): %v", s, err)
		}
	}
}

func TestPlain(t *testing.T) {
	a, b, _ := testAuth(t, aliceOnce())
	ctx := context.Background()
	for _, name := range []string{"Alice", "alice", "ALICE"} {
		if acc, err := a.plain(ctx, here, name, goodPassword); err != nil || acc.Name != "Alice" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range [][2]string{{"alice", "wrong horse"}, {"nobody", goodPassword}, {"alice", ""}, {"", goodPassword},
		{"al\x00ice", goodPassword}, {"alice", strings.Repeat("x", 5000)}, {"alice", tokenPrefix + "AAAA"}} {
		_, err := a.plain(ctx, here, c[0], c[1])
		if err != errBadLogin {
			t.Errorf("%q: %v", c, err)
		}
	}
	b.down = core.Errorf(core.Unavailable, "no database")
	_, err := a.plain(ctx, here, "alice", goodPassword)
	wantCode(t, err, core.Unavailable)
}

func TestPlainToken(t *testing.T) {
	token, stored, err := NewToken(rand.Reader)
	if err != nil || len(stored) != 64 {
		t.Fatal(stored, err)
	}
	acc := core.Account{Name: "bot", Fold: "bot", Tokens: []string{strings.Repeat("0", 64), stored}}
	a, _, _ := testAuth(t, acc)
	if _, err := a.plain(context.Background(), here, "bot", token); err != nil {
		t.Error(err)
	}
	if _, err := a.plain(context.Background(), here, "bot", token+"x"); err != errBadLogin {
		t.Error(err)
	}
	if _, err := a.plain(context.Background(), here, "bot", "no password set"); err != errBadLogin {
		t.Error(err)
	}
}

// A remembered password is not hashed again, until it is changed, the account is
// disabled, or ten minutes have gone.
func TestPlainRemembers(t *testing.T) {
	acc := aliceOnce()
	a, b, clock := testAuth(t, acc)
	ctx := context.Background()
	hashing := func() bool {
		before := a.hashes
		a.hashes = newHasher(0) // nobody hashes: a cold login waits for ever
		defer func() { a.hashes = before }()
		short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
		defer cancel()
		_, err := a.plain(short, here, "alice", goodPassword)
		return core.CodeOf(err) == core.Unavailable && err != nil || core.CodeOf(err) == core.Limited && err != nil
	}
	if !hashing() {
		t.Fatal("the first login was not hashed")
	}
	if _, err := a.plain(ctx, here, "alice", goodPassword); err != nil {
		t.Fatal(err)
	}
	if hashing() {
		t.Error("the second login was hashed")
	}
	clock.add(loginMemory + time.Second)
	if !hashing() {
		t.Error("remembered for longer than loginMemory")
	}
	if _, err := a.plain(ctx, here, "alice", goodPassword); err != nil {
		t.Fatal(err)
	}
	changed := acc
	if err := (Passwords{}).Set(&changed, "battery staple", rand.Reader); err != nil {
		t.Fatal(err)
	}
	b.Do(ctx, core.PutAccount{Account: changed})
	if _, err := a.plain(ctx, here, "alice", goodPassword); err != errBadLogin {
		t.Errorf("old password after a change: %v", err)
	}
	acc.Disabled = true
	b.Do(ctx, core.PutAccount{Account: acc})
	if _, err := a.plain(ctx, here, "alice", goodPassword); err != errDisabled {
		t.Errorf("disabled account: %v", err)
	}
}

func TestHasherRefusesWhenFull(t *testing.T) {
	h := newHasher(1)
	hold, held := make(chan struct{}), make(chan struct{})
	var done sync.WaitGroup
	done.Go(func() { h.run(context.Background(), func() { close(held); <-hold }) })
	<-held
	ctx, cancel := context.WithCancel(context.Background())
	for range hashQueue {
		done.Go(func() { h.run(ctx, func() {}) })
	}
	for len(h.queue) < cap(h.queue) {
		time.Sleep(time.Millisecond)
	}
	err := h.run(context.Background(), func() { t.Error("ran although the queue was full") })
	wantCode(t, err, core.Limited)
	if e := err.(*core.Error); e.RetryAfter <= 0 {
		t.Error("no RetryAfter")
	}
	cancel()
	close(hold)
	done.Wait()
	if err := h.run(context.Background(), func() {}); err != nil {
		t.Errorf("after the storm: %v", err)
	}
}

func TestFailuresPerAccount(t *testing.T) {
	token, stored, _ := NewToken(rand.Reader)
	acc := core.Account{Name: "bot", Fold: "bot", Tokens: []string{stored}}
	a, _, clock := testAuth(t, acc)
	ctx := context.Background()
	if _, err := a.plain(ctx, here, "bot", token); err != nil { // an address that was right once
		t.Fatal(err)
	}
	for i := range accountStrikes {
		from := netip.AddrFrom4([4]byte{203, 0, 113, byte(i)})
		for _, name := range []string{"bot", "nobody"} {
			if _, err := a.plain(ctx, from, name, tokenPrefix+"guess"); err != errBadLogin {
				t.Fatalf("guess %d at %s: %v", i, name, err)
			}
		}
	}
	for _, name := range []string{"bot", "nobody"} { // one that does not exist behaves the same
		_, err := a.plain(ctx, elsewhere, name, token)
		wantCode(t, err, core.Limited)
		if e := err.(*core.Error); e.RetryAfter <= 0 || e.RetryAfter > strikeMax {
			t.Errorf("RetryAfter %v", e.RetryAfter)
		}
	}
	if _, err := a.plain(ctx, here, "bot", token); err != nil {
		t.Errorf("the owner is locked out by others' guesses: %v", err)
	}
	clock.add(strikeForget + time.Second)
	if _, err := a.plain(ctx, elsewhere, "bot", token); err != nil {
		t.Errorf("after a while: %v", err)
	}
}

func TestFailuresPerAddress(t *testing.T) {
	token, stored, _ := NewToken(rand.Reader)
	a, _, clock := testAuth(t, core.Account{Name: "bot", Fold: "bot", Tokens: []string{stored}})
	ctx := context.Background()
	near := netip.MustParseAddr("2001:db8::1")
	neighbour := netip.MustParseAddr("2001:db8::2:3:4:5")
	for i := range addressStrikes {
		if _, err := a.plain(ctx, near, "n"+itoa(i), tokenPrefix+"guess"); err != errBadLogin {
			t.Fatalf("guess %d: %v", i, err)
		}
	}
	_, err := a.plain(ctx, neighbour, "bot", token) // same /64
	wantCode(t, err, core.Limited)
	if _, err := a.plain(ctx, elsewhere, "bot", token); err != nil {
		t.Error(err)
	}
	first := err.(*core.Error).RetryAfter
	clock.add(first + time.Millisecond)
	if _, err := a.plain(ctx, near, "bot", tokenPrefix+"guess"); err != errBadLogin {
		t.Errorf("after waiting: %v", err)
	}
	_, err = a.plain(ctx, near, "bot", token)
	wantCode(t, err, core.Limited)
	if again := err.(*core.Error).RetryAfter; again <= first {
		t.Errorf("waits %v after %v: no backoff", again, first)
	}
}

func TestManyLoginsOfOneAccountAtOnce(t *testing.T) {
	token, stored, _ := NewToken(rand.Reader)
	a, _, _ := testAuth(t, core.Account{Name: "bot", Fold: "bot", Tokens: []string{stored}})
	var failed atomic.Int64
	var all sync.WaitGroup
	for range 10 {
		all.Go(func() {
			for range 50 {
				if _, err := a.plain(context.Background(), here, "bot", token); err != nil {
					failed.Add(1)
				}
			}
		})
	}
	all.Wait()
	if failed.Load() != 0 || len(a.accounts.t.m)+len(a.addresses.t.m) != 0 {
		t.Errorf("%d of 500 right logins refused, %d strikes left", failed.Load(), len(a.accounts.t.m)+len(a.addresses.t.m))
	}
}

func TestCertificateIndex(t *testing.T) {
	fp := strings.Repeat("ab", 32)
	acc := core.Account{Name: "bot", Fold: "bot", Certs: []string{fp}}
	a, b, clock := testAuth(t)
	for i := range certPage + 3 {
		b.m["n"+itoa(i)] = core.Account{Fold: "n" + itoa(i)}
	}
	ctx := context.Background()
	if _, err := a.certificate(ctx, here, fp, ""); err != errBadLogin {
		t.Errorf("unknown certificate: %v", err)
	}
	b.Do(ctx, core.PutAccount{Account: acc})
	views := b.views.Load()
	for range 10 {
		if _, err := a.certificate(ctx, here, fp, ""); err != errBadLogin {
			t.Errorf("before the index is read again: %v", err)
		}
	}
	if n := b.views.Load() - views; n > 10 {
		t.Errorf("10 unknown certificates cost %d readings", n)
	}
	if got, err := a.certificate(ctx, here, fp, "bot"); err != nil || got.Name != "bot" {
		t.Errorf("by name: %v", err)
	}
	clock.add(certRescan)
	if got, err := a.certificate(ctx, here, fp, ""); err != nil || got.Name != "bot" {
		t.Errorf("by certificate alone: %v", err)
	}
	acc.Certs = nil
	b.Do(ctx, core.PutAccount{Account: acc})
	if _, err := a.certificate(ctx, here, fp, ""); err != errBadLogin {
		t.Errorf("after the certificate was removed: %v", err)
	}
	if _, err := a.certificate(ctx, here, "", "bot"); err != errBadLogin {
		t.Errorf("without certificate: %v", err)
	}
}

// A name that does not exist costs as much as a wrong password: one hash with
// the same parameters.
func TestUnknownAccountTakesAsLong(t *testing.T) {
	a, _, _ := testAuth(t, aliceOnce(), core.Account{Name: "bot", Fold: "bot"})
	known, err := parsePHC(aliceOnce().Argon2id)
	if err != nil {
		t.Fatal(err)
	}
	if n := a.policy.nobody(); n.memory != known.memory || n.passes != known.passes || n.lanes != known.lanes || len(n.key) != len(known.key) {
		t.Errorf("a decoy with other costs: %+v", n)
	}
	a.hashes = newHasher(1)
	a.hashes.running <- struct{}{} // nobody's turn ever comes
	for _, name := range []string{"alice", "nobody", "bot", "", "not a name"} {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		_, err := a.plain(ctx, here, name, "wrong password")
		cancel()
		if err == nil || core.CodeOf(err) != core.Unavailable {
			t.Errorf("%q is refused without hashing: %v", name, err)
		}
	}
}

func benchLogin(b *testing.B, password string, warm bool) {
	acc := aliceOnce()
	token, stored, _ := NewToken(rand.Reader)
	acc.Tokens = []string{stored}
	a, _, _ := testAuth(b, acc)
	if password == "" {
		password = token
	}
	ctx := context.Background()
	if warm {
		a.plain(ctx, here, "alice", password)
	}
	for b.Loop() {
		if !warm {
			clear(a.logins.m)
		}
		if _, err := a.plain(ctx, here, "alice", password); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "logins/s")
}

func BenchmarkLoginPlainToken(b *testing.B)  { benchLogin(b, "", true) }
func BenchmarkLoginPlainCached(b *testing.B) { benchLogin(b, goodPassword, true) }
func BenchmarkLoginPlainCold(b *testing.B)   { benchLogin(b, goodPassword, false) }
