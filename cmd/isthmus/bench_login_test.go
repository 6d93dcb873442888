//go:build bench

package main_test

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-chat/isthmus/bridges/irc"
	"github.com/isthmus-chat/isthmus/core"
	"github.com/isthmus-chat/isthmus/store"
)

const (
	loginAccounts = 16
	loginParallel = 64
	loginCount    = 3000
	loginPassword = "correct horse battery"
)

// benchLogin: a reconnect storm. Each login is a new connection, from the
// connect to the end of the MOTD.
func benchLogin(t *testing.T, ps []peer, r *report) {
	p := ours(t, ps)
	var names []string
	tokens := map[string]string{}
	s := start(t, p, setup{before: func(dir string) { names = makeAccounts(t, dir, tokens) }})
	keys := &clientKeys{}
	for _, k := range []struct {
		measure string
		sasl    func(account string) exchange
	}{
		{"logins by SCRAM-SHA-256", func(a string) exchange { return &scramClient{account: a, keys: keys} }},
		{"logins by PLAIN, password checked before (cache)", func(a string) exchange { return plainClient{a, loginPassword} }},
		{"logins by PLAIN with a token", func(a string) exchange { return plainClient{a, tokens[a]} }},
	} {
		logins(t, s, names, len(names), k.sasl) // keys derived, caches filled
		m := medians{}
		for range rounds() {
			v := logins(t, s, names, loginCount, k.sasl)
			t.Logf("%s: %s", k.measure, said(v))
			m.add(p.name, v)
		}
		r.compare(k.measure, "logins/s", m, "rate", atLeast(500))
	}
}

// makeAccounts puts accounts with a password and a token into the database of a
// server that does not run yet.
func makeAccounts(t *testing.T, dir string, tokens map[string]string) (names []string) {
	t.Helper()
	db, err := store.Open(t.Context(), store.Options{URL: "sqlite:" + filepath.Join(dir, "bench.db"), Homeserver: "bench.local"})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.Update(t.Context(), func(tx core.Tx) error {
		for i := range loginAccounts {
			name := fmt.Sprintf("login%d", i)
			a, err := irc.Passwords{}.NewAccount(name, loginPassword, rand.Reader)
			if err != nil {
				return err
			}
			token, stored, err := irc.NewToken(rand.Reader)
			if err != nil {
				return err
			}
			a.User, a.Created, a.Tokens = core.NewUserURI("bench.local", name), time.Now(), []string{stored}
			if err := tx.PutAccount(a); err != nil {
				return err
			}
			names, tokens[name] = append(names, name), token
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// An exchange is the client's side of one SASL exchange: what to answer to a
// challenge, decoded. The first challenge is empty.
type exchange interface {
	mechanism() string
	answer(challenge string) (string, error)
}

func logins(t *testing.T, s *server, names []string, n int, sasl func(string) exchange) map[string]float64 {
	t.Helper()
	l, err := newLoop()
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	var started, done int
	var failed error
	cpu, began := s.cpu(), time.Now()
	begin := func() error {
		c, err := l.dial(started, s.port)
		if err != nil {
			return err
		}
		x := sasl(names[started%len(names)])
		c.line = func(c *client, line []byte) {
			over, err := loginStep(l, c, x, string(line))
			if err != nil {
				failed = err
			}
			if over {
				c.line, done = nil, done+1
				l.drop(c)
			}
		}
		l.send(c, fmt.Sprintf("CAP REQ :sasl\r\nNICK l%d\r\nUSER l%d 0 * :bench\r\n", started, started))
		started++
		return nil
	}
	err = l.until(2*time.Minute, "logins", func() bool {
		for failed == nil && started < n && started-done < loginParallel {
			failed = begin()
		}
		return failed != nil || done == n
	})
	if failed != nil || err != nil {
		t.Fatalf("after %d logins: %v %v", done, failed, err)
	}
	took, used := time.Since(began), s.cpu()-cpu
	return map[string]float64{"rate": float64(n) / took.Seconds(), "cpu ms": used.Seconds() * 1e3 / float64(n)}
}

// loginStep answers one line; over says that the client is in, as itself.
func loginStep(l *loop, c *client, x exchange, line string) (over bool, err error) {
	_, last, _ := strings.Cut(line, "AUTHENTICATE ")
	switch string(word([]byte(line))) {
	case "CAP":
		l.send(c, "AUTHENTICATE "+x.mechanism()+"\r\n")
	case "AUTHENTICATE":
		challenge := ""
		if last != "+" {
			b, err := base64.StdEncoding.DecodeString(last)
			if err != nil {
				return false, fmt.Errorf("challenge: %w", err)
			}
			challenge = string(b)
		}
		text, err := x.answer(challenge)
		if err != nil {
			return false, err
		}
		reply := "+"
		if text != "" {
			reply = base64.StdEncoding.EncodeToString([]byte(text))
		}
		l.send(c, "AUTHENTICATE "+reply+"\r\n")
	case "903":
		l.send(c, "CAP END\r\n")
	case "376", "422":
		return true, nil
	case "902", "904", "905", "ERROR", "433", "FAIL":
		return false, fmt.Errorf("login refused: %.200q", line)
	}
	return false, nil
}

// plainClient is RFC 4616.
type plainClient struct{ account, password string }

func (plainClient) mechanism() string { return "PLAIN" }
func (p plainClient) answer(string) (string, error) {
	return "\x00" + p.account + "\x00" + p.password, nil
}

// clientKeys remembers derived keys, as clients do (RFC 5802 §3): deriving one
// costs the client more than the login costs the server.
type clientKeys struct{ salted map[string][]byte }

func (k *clientKeys) get(salt string, iterations int) ([]byte, error) {
	if b, ok := k.salted[salt]; ok {
		return b, nil
	}
	raw, err := base64.StdEncoding.DecodeString(salt)
	if err != nil {
		return nil, err
	}
	b, err := pbkdf2.Key(sha256.New, loginPassword, raw, iterations, sha256.Size)
	if err != nil {
		return nil, err
	}
	if k.salted == nil {
		k.salted = map[string][]byte{}
	}
	k.salted[salt] = b
	return b, nil
}

// scramClient is RFC 5802 with SHA-256 and no channel binding.
type scramClient struct {
	account string
	keys    *clientKeys
	step    int
	verify  string // the server's final message, if it knows the account
}

const clientNonce = "fyko+d2lbbFgONRv9qkxdawL" // need not be fresh for measuring

func (*scramClient) mechanism() string { return "SCRAM-SHA-256" }

func (x *scramClient) answer(challenge string) (string, error) {
	bare := "n=" + x.account + ",r=" + clientNonce
	x.step++
	switch x.step {
	case 1:
		return "n,," + bare, nil
	case 3:
		if challenge != x.verify {
			return "", fmt.Errorf("the server's signature is wrong")
		}
		return "", nil
	}
	f := strings.SplitN(challenge, ",", 3)
	if len(f) != 3 {
		return "", fmt.Errorf("server-first of %d parts", len(f))
	}
	iterations, err := strconv.Atoi(strings.TrimPrefix(f[2], "i="))
	if err != nil {
		return "", err
	}
	salted, err := x.keys.get(strings.TrimPrefix(f[1], "s="), iterations)
	if err != nil {
		return "", err
	}
	mac := func(key []byte, s string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(s))
		return h.Sum(nil)
	}
	final := "c=biws," + f[0]
	auth := bare + "," + challenge + "," + final
	key := mac(salted, "Client Key")
	stored := sha256.Sum256(key)
	for i, b := range mac(stored[:], auth) {
		key[i] ^= b
	}
	x.verify = "v=" + base64.StdEncoding.EncodeToString(mac(mac(salted, "Server Key"), auth))
	return final + ",p=" + base64.StdEncoding.EncodeToString(key), nil
}
