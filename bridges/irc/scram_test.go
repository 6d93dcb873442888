package irc

import (
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/isthmus-chat/isthmus/core"
)

func unbase64(t testing.TB, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 7677 §3
func TestSCRAMExample(t *testing.T) {
	keys, err := newSCRAMKeys("pencil", unbase64(t, "W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
	if err != nil {
		t.Fatal(err)
	}
	keys, err = parseSCRAMKeys(keys.String())
	if err != nil {
		t.Fatal(err)
	}
	var x scramExchange
	if err := x.clientFirst("n,,n=user,r=rOprNGfwEbeRWgbNEkqO"); err != nil {
		t.Fatal(err)
	}
	const first = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
	if got := x.serverFirst(keys, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"); got != first {
		t.Errorf("server-first %q", got)
	}
	final, ok, err := x.clientFinal("c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
	if err != nil || !ok || final != "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" {
		t.Errorf("server-final %q, %v, %v", final, ok, err)
	}
}

// scramClient is the client's side, as RFC 5802 §3 computes it.
type scramClient struct {
	salted []byte
	gs2    string
	bare   string
}

func (c *scramClient) first(gs2, name, nonce string) string {
	c.gs2, c.bare = gs2, "n="+name+",r="+nonce
	return gs2 + c.bare
}

func (c *scramClient) derive(t testing.TB, password, serverFirst string) {
	t.Helper()
	f := strings.Split(serverFirst, ",")
	n := 0
	for _, d := range strings.TrimPrefix(f[2], "i=") {
		n = 10*n + int(d-'0')
	}
	salted, err := pbkdf2.Key(sha256.New, password, unbase64(t, strings.TrimPrefix(f[1], "s=")), n, 32)
	if err != nil {
		t.Fatal(err)
	}
	c.salted = salted
}

func (c *scramClient) final(serverFirst string) (msg, wantServer string) {
	nonce := strings.Split(serverFirst, ",")[0]
	withoutProof := "c=" + base64.StdEncoding.EncodeToString([]byte(c.gs2)) + "," + nonce
	auth := c.bare + "," + serverFirst + "," + withoutProof
	key := hmac256(c.salted, "Client Key")
	stored := sha256.Sum256(key)
	sig := hmac256(stored[:], auth)
	for i := range key {
		key[i] ^= sig[i]
	}
	return withoutProof + ",p=" + base64.StdEncoding.EncodeToString(key),
		"v=" + base64.StdEncoding.EncodeToString(hmac256(hmac256(c.salted, "Server Key"), auth))
}

func TestSCRAMExchange(t *testing.T) {
	keys, _ := newSCRAMKeys("pencil", []byte("salt salt salt s"), 4096)
	for _, gs2 := range []string{"n,,", "y,,", "n,a=us=3Der=2C1,"} {
		var x scramExchange
		var c scramClient
		if err := x.clientFirst(c.first(gs2, "us=3Der=2C1", "abc")); err != nil {
			t.Fatal(gs2, err)
		}
		if x.name != "us=er,1" || gs2[0] == 'n' && len(gs2) > 3 && x.authzid != x.name {
			t.Errorf("%s: name %q, authzid %q", gs2, x.name, x.authzid)
		}
		first := x.serverFirst(keys, "def")
		c.derive(t, "pencil", first)
		msg, want := c.final(first)
		final, ok, err := x.clientFinal(msg)
		if err != nil || !ok || final != want {
			t.Errorf("%s: %q %v %v, want %q", gs2, final, ok, err, want)
		}
	}
}

func TestSCRAMClientFirstRefuses(t *testing.T) {
	for msg, code := range map[string]core.Code{
		"":                          core.Invalid,
		"n,,":                       core.Invalid,
		"n,,n=user":                 core.Invalid,
		"n,,r=abc,n=user":           core.Invalid,
		"n,,n=,r=abc":               core.Invalid,
		"n,,n=us=er,r=abc":          core.Invalid, // RFC 5802 §5.1: only =2C and =3D
		"n,,n=user,r=":              core.Invalid,
		"n,,n=user,r=nönce":         core.Invalid,
		"n,b=x,n=user,r=abc":        core.Invalid,
		"x,,n=user,r=abc":           core.Invalid,
		"p=tls-unique,,n=user,r=ab": core.Unsupported, // RFC 5802 §6
		"n,,m=ext,n=user,r=abc":     core.Unsupported, // RFC 5802 §5.1
		"n,,n=us\x00er,r=abc":       core.Invalid,
		"n,,n=user,r=" + strings.Repeat("a", maxSCRAMNonce+1): core.Invalid,
		"n,,n=" + strings.Repeat("a", maxSCRAMMessage):        core.Invalid,
	} {
		var x scramExchange
		err := x.clientFirst(msg)
		if err == nil || core.CodeOf(err) != code {
			t.Errorf("%q: %v, want %v", msg, err, code)
		}
	}
}

func TestSCRAMClientFinalRefuses(t *testing.T) {
	keys, _ := newSCRAMKeys("pencil", []byte("salt salt salt s"), 4096)
	start := func() (*scramExchange, string, string) {
		x, c := &scramExchange{}, &scramClient{}
		if err := x.clientFirst(c.first("n,,", "user", "abc")); err != nil {
			t.Fatal(err)
		}
		first := x.serverFirst(keys, "def")
		c.derive(t, "pencil", first)
		msg, _ := c.final(first)
		return x, msg, first
	}
	x, msg, _ := start()
	bad := map[string]string{
		"other nonce":     strings.Replace(msg, "r=abcdef", "r=abcxyz", 1),
		"client nonce":    strings.Replace(msg, "r=abcdef", "r=abc", 1),
		"channel binding": strings.Replace(msg, "c=biws", "c=eSws", 1), // "y,,": a downgrade (RFC 5802 §6)
		"no binding":      msg[len("c=biws,"):],
		"short proof":     "c=biws,r=abcdef,p=AAAA",
		"bad base64":      "c=biws,r=abcdef,p=!!!!",
		"no proof":        "c=biws,r=abcdef",
		"zero proof":      "c=biws,r=abcdef,p=" + base64.StdEncoding.EncodeToString(make([]byte, 32)),
		"trailing":        msg + ",x=1",
		"long":            msg + strings.Repeat("x", maxSCRAMMessage),
	}
	for name, m := range bad {
		x, _, _ := start()
		if final, ok, _ := x.clientFinal(m); ok || final != "" {
			t.Errorf("%s accepted", name)
		}
	}
	if _, ok, err := x.clientFinal(msg); !ok || err != nil {
		t.Errorf("the right one: %v %v", ok, err)
	}
	// The same message against a fresh server nonce: a replay.
	y, c := &scramExchange{}, &scramClient{}
	y.clientFirst(c.first("n,,", "user", "abc"))
	y.serverFirst(keys, "xyz")
	if _, ok, _ := y.clientFinal(msg); ok {
		t.Error("replayed proof accepted")
	}
}

func TestParseSCRAMKeysRefuses(t *testing.T) {
	keys, _ := newSCRAMKeys("pencil", []byte("salt salt salt s"), 4096)
	good := keys.String()
	for _, s := range []string{"", "SCRAM-SHA-1" + good[13:], strings.Replace(good, "4096", "0", 1), strings.Replace(good, "4096", "x", 1),
		strings.Replace(good, "4096", "99999999999", 1), good + "$", good[:len(good)-4], good + "AAAA"} {
		if _, err := parseSCRAMKeys(s); err == nil || strings.Contains(err.Error(), "4096") {
			t.Errorf("parseSCRAMKeys(%q): %v", s, err)
		}
	}
}
