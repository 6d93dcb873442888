package irc

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// talk sends a client's parameters and returns the last reply.
func talk(t testing.TB, x *saslExchange, a *authenticator, info connInfo, params ...string) (r saslReply) {
	t.Helper()
	for _, p := range params {
		r = x.handle(context.Background(), a, info, p)
	}
	return r
}

// chunks cuts a message as a client must.
func chunks(msg string) []string { return saslChunks(msg) }

func TestSASLPlain(t *testing.T) {
	a, _, _ := testAuth(t, aliceOnce())
	info := connInfo{addr: here}
	for name, c := range map[string]struct {
		params []string
		want   saslOutcome
	}{
		"right":             {[]string{"PLAIN", b64("\x00alice\x00" + goodPassword)}, saslDone},
		"lower case":        {[]string{"plain", b64("\x00alice\x00" + goodPassword)}, saslDone},
		"same authzid":      {[]string{"PLAIN", b64("Alice\x00alice\x00" + goodPassword)}, saslDone},
		"other authzid":     {[]string{"PLAIN", b64("root\x00alice\x00" + goodPassword)}, saslFailed},
		"wrong":             {[]string{"PLAIN", b64("\x00alice\x00wrong horse")}, saslFailed},
		"nul in password":   {[]string{"PLAIN", b64("\x00alice\x00" + goodPassword + "\x00x")}, saslFailed},
		"no nul":            {[]string{"PLAIN", b64("alice")}, saslFailed},
		"no password":       {[]string{"PLAIN", b64("\x00alice\x00")}, saslFailed},
		"empty":             {[]string{"PLAIN", "+"}, saslFailed},
		"not base64":        {[]string{"PLAIN", "a?b="}, saslFailed},
		"sloppy base64":     {[]string{"PLAIN", "AGFsaWNlAHg"}, saslFailed},
		"abort":             {[]string{"PLAIN", "*"}, saslAborted},
		"abort before":      {[]string{"*"}, saslAborted},
		"no such mechanism": {[]string{"DIGEST-MD5"}, saslNoMech},
		"external, no cert": {[]string{"EXTERNAL"}, saslNoMech},
		"long chunk":        {[]string{"PLAIN", strings.Repeat("A", 401)}, saslTooLong},
		"after a failure":   {[]string{"PLAIN", "*", "PLAIN", b64("\x00alice\x00" + goodPassword)}, saslDone},
		"long message":      {[]string{"PLAIN", strings.Repeat("A", 400), strings.Repeat("A", 400), strings.Repeat("A", 400), strings.Repeat("A", 400), strings.Repeat("A", 400), "AAAA"}, saslTooLong},
	} {
		var x saslExchange
		r := talk(t, &x, a, info, c.params...)
		if r.outcome != c.want {
			t.Errorf("%s: %d (%v), want %d", name, r.outcome, r.err, c.want)
		}
		if r.outcome == saslDone && r.account.Name != "Alice" {
			t.Errorf("%s: logged in as %q", name, r.account.Name)
		}
		if r.outcome != saslDone && r.outcome != saslMore && (x.mech != "" || x.text.Len() > 0) {
			t.Errorf("%s: the exchange goes on", name)
		}
	}
}

// A message of exactly 400 octets is followed by an empty one
// (https://ircv3.net/specs/extensions/sasl-3.1#the-authenticate-command).
func TestSASLChunks(t *testing.T) {
	a, _, _ := testAuth(t, aliceOnce())
	for _, n := range []int{1, 299, 300, 301, 600, 601, 900} {
		msg := strings.Repeat("x", n)
		var got strings.Builder
		cs := chunks(msg)
		for i, c := range cs {
			if len(c) > 400 || len(c) < 400 && i < len(cs)-1 {
				t.Fatalf("%d octets: chunk %d of %d has %d", n, i, len(cs), len(c))
			}
			if c != "+" {
				got.WriteString(c)
			}
		}
		if got.String() != b64(msg) || len(cs[len(cs)-1]) == 400 {
			t.Errorf("%d octets: %q", n, cs)
		}
	}
	// authzid pads the message so that base64 fills one chunk exactly
	acc := aliceOnce()
	var x saslExchange
	password := strings.Repeat("p", 300-len("\x00alice\x00"))
	r := talk(t, &x, a, connInfo{addr: here}, append([]string{"PLAIN"}, chunks("\x00alice\x00"+password)...)...)
	if r.outcome != saslFailed || r.err != errBadLogin || acc.Name == "" {
		t.Errorf("exactly 400: %d %v", r.outcome, r.err)
	}
}

func TestSASLSCRAM(t *testing.T) {
	a, _, _ := testAuth(t, aliceOnce())
	info := connInfo{addr: here}
	login := func(name, password string) saslReply {
		var x saslExchange
		var c scramClient
		r := talk(t, &x, a, info, append([]string{"SCRAM-SHA-256"}, chunks(c.first("n,,", name, "clientnonce"))...)...)
		if r.outcome != saslMore || len(r.challenge) == 0 {
			return r
		}
		first := string(unbase64(t, strings.Join(r.challenge, "")))
		c.derive(t, password, first)
		msg, want := c.final(first)
		r = talk(t, &x, a, info, chunks(msg)...)
		if r.outcome != saslMore {
			return r
		}
		if got := string(unbase64(t, strings.Join(r.challenge, ""))); got != want {
			t.Errorf("server proof %q, want %q", got, want)
		}
		return talk(t, &x, a, info, "+")
	}
	if r := login("alice", goodPassword); r.outcome != saslDone || r.account.Name != "Alice" {
		t.Errorf("right password: %d %v", r.outcome, r.err)
	}
	if r := login("alice", "wrong horse"); r.outcome != saslFailed || r.err != errBadLogin {
		t.Errorf("wrong password: %d %v", r.outcome, r.err)
	}
	if r := login("nobody", goodPassword); r.outcome != saslFailed || r.err != errBadLogin {
		t.Errorf("unknown account: %d %v", r.outcome, r.err)
	}
}

// Somebody who does not exist has a salt that stays, and as many iterations.
func TestSASLSCRAMHidesAccounts(t *testing.T) {
	first := func(name string) string {
		a, _, _ := testAuth(t, aliceOnce())
		var x saslExchange
		var c scramClient
		r := talk(t, &x, a, connInfo{addr: here}, append([]string{"SCRAM-SHA-256"}, chunks(c.first("n,,", name, "n"))...)...)
		if r.outcome != saslMore {
			t.Fatalf("%s: %d %v", name, r.outcome, r.err)
		}
		_, rest, _ := strings.Cut(string(unbase64(t, strings.Join(r.challenge, ""))), ",")
		return rest // salt and iterations
	}
	ghost, alice := first("nobody"), first("alice")
	if ghost != first("NOBODY") || ghost == first("somebody") {
		t.Error("the decoy salt of a name changes, or is everybody's")
	}
	if len(ghost) != len(alice) || ghost[strings.LastIndex(ghost, ","):] != alice[strings.LastIndex(alice, ","):] {
		t.Errorf("a decoy shows: %q, %q", ghost, alice)
	}
}

func TestSASLSCRAMRefuses(t *testing.T) {
	a, _, _ := testAuth(t, aliceOnce())
	info := connInfo{addr: here}
	for name, params := range map[string][]string{
		"other authzid":    append([]string{"SCRAM-SHA-256"}, chunks("n,a=root,n=alice,r=abc")...),
		"channel binding":  append([]string{"SCRAM-SHA-256"}, chunks("p=tls-exporter,,n=alice,r=abc")...),
		"empty":            {"SCRAM-SHA-256", "+"},
		"plain in scram":   {"SCRAM-SHA-256", b64("\x00alice\x00" + goodPassword)},
		"final malformed":  append(append([]string{"SCRAM-SHA-256"}, chunks("n,,n=alice,r=abc")...), b64("nonsense")),
		"final after none": append(append([]string{"SCRAM-SHA-256"}, chunks("n,,n=alice,r=abc")...), "+"),
	} {
		var x saslExchange
		if r := talk(t, &x, a, info, params...); r.outcome != saslFailed || x.mech != "" {
			t.Errorf("%s: %d %v", name, r.outcome, r.err)
		}
	}
}

func TestSASLExternal(t *testing.T) {
	fp := strings.Repeat("ab", 32)
	a, _, _ := testAuth(t, core.Account{Name: "bot", Fold: "bot", Certs: []string{fp}}, aliceOnce())
	info := connInfo{addr: here, secure: true, certFP: fp}
	for name, c := range map[string]struct {
		msg  string
		want saslOutcome
	}{"whoever": {"+", saslDone}, "by name": {b64("bot"), saslDone}, "somebody else": {b64("alice"), saslFailed}} {
		var x saslExchange
		if r := talk(t, &x, a, info, "EXTERNAL", c.msg); r.outcome != c.want {
			t.Errorf("%s: %d %v", name, r.outcome, r.err)
		}
	}
}

func TestSASLTries(t *testing.T) {
	a, _, _ := testAuth(t)
	var x saslExchange
	for range maxSASLTries {
		if r := talk(t, &x, a, connInfo{addr: here}, "PLAIN", b64("\x00x\x00"+tokenPrefix)); r.outcome != saslFailed {
			t.Fatalf("outcome %d", r.outcome)
		}
	}
	if r := talk(t, &x, a, connInfo{addr: here}, "PLAIN"); r.outcome != saslTooMany {
		t.Errorf("outcome %d after %d tries", r.outcome, maxSASLTries)
	}
}

func FuzzSASL(f *testing.F) {
	f.Add("PLAIN", []byte("\x00alice\x00"+tokenPrefix+"x"), []byte(""))
	f.Add("SCRAM-SHA-256", []byte("n,,n=alice,r=abc"), []byte("c=biws,r=abc,p=AAAA"))
	f.Add("SCRAM-SHA-256", []byte("y,a=al=2Cice,n=al=2Cice,r=abc,x=y"), []byte(",p="))
	f.Add("EXTERNAL", []byte("alice"), []byte{})
	token := core.Account{Name: "alice", Fold: "alice", Tokens: []string{strings.Repeat("0", 64)}, SCRAM: aliceOnce().SCRAM,
		Certs: []string{"other"}}
	f.Fuzz(func(t *testing.T, mech string, one, two []byte) {
		a, _, _ := testAuth(t, token)
		a.hashes = newHasher(0) // no hashing in a fuzz target
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		var x saslExchange
		info := connInfo{addr: here, certFP: "mine"}
		x.handle(ctx, a, info, mech)
		for _, msg := range [][]byte{one, two} {
			for _, c := range chunks(string(msg)) {
				r := x.handle(ctx, a, info, c)
				if r.outcome == saslDone {
					t.Fatalf("logged in with %q %q %q", mech, one, two)
				}
				if r.outcome != saslMore && r.outcome != saslAborted && r.outcome != saslTooLong && r.err == nil {
					t.Fatalf("outcome %d without reason", r.outcome)
				}
			}
		}
	})
}

func BenchmarkLoginSCRAM(b *testing.B) {
	a, _, _ := testAuth(b, aliceOnce())
	info := connInfo{addr: here}
	var c scramClient
	salted := false
	for b.Loop() {
		var x saslExchange
		r := talk(b, &x, a, info, append([]string{"SCRAM-SHA-256"}, chunks(c.first("n,,", "alice", "clientnonce"))...)...)
		first := string(unbase64(b, strings.Join(r.challenge, "")))
		if !salted { // a client derives once per password
			c.derive(b, goodPassword, first)
			salted = true
		}
		msg, _ := c.final(first)
		talk(b, &x, a, info, chunks(msg)...)
		if r := talk(b, &x, a, info, "+"); r.outcome != saslDone {
			b.Fatal(r.err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "logins/s")
}
