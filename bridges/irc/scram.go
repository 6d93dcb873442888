package irc

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/isthmus-chat/isthmus/core"
)

// scramIterations is paid by the client at a login and by us when a password is
// set. RFC 7677 §4 asks for 4096 at least; this is 16 times that, so that a
// stolen database does not offer a cheap way around argon2id, and still under a
// tenth of a second on a telephone.
const scramIterations = 65536

// Bounds of what a SCRAM client sends, and of what a stored string may say.
const (
	maxSCRAMMessage    = 1024
	maxSCRAMNonce      = 256
	maxSCRAMIterations = 10_000_000
)

// scramKeys is what is stored for SCRAM-SHA-256: enough to check a proof, not
// enough to make one (RFC 5802 §3).
type scramKeys struct {
	iterations        int
	salt              []byte
	stored, serverKey []byte // 32 octets each
}

// newSCRAMKeys derives the keys of a prepared password (RFC 5802 §3).
func newSCRAMKeys(password string, salt []byte, iterations int) (scramKeys, error) {
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return scramKeys{}, core.Errorf(core.Internal, "deriving SCRAM keys: %w", err)
	}
	stored := sha256.Sum256(hmac256(salted, "Client Key"))
	return scramKeys{iterations, salt, stored[:], hmac256(salted, "Server Key")}, nil
}

func hmac256(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// String returns "SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey", the form
// of RFC 5803 §2.
func (k scramKeys) String() string {
	e := base64.StdEncoding
	return "SCRAM-SHA-256$" + strconv.Itoa(k.iterations) + ":" + e.EncodeToString(k.salt) + "$" +
		e.EncodeToString(k.stored) + ":" + e.EncodeToString(k.serverKey)
}

// parseSCRAMKeys reads what String wrote; the error says nothing of s.
func parseSCRAMKeys(s string) (k scramKeys, err error) {
	bad := core.Errorf(core.Internal, "stored SCRAM keys are broken")
	f := strings.Split(s, "$")
	if len(f) != 3 || f[0] != "SCRAM-SHA-256" {
		return k, bad
	}
	iterations, salt, ok1 := strings.Cut(f[1], ":")
	stored, server, ok2 := strings.Cut(f[2], ":")
	e := base64.StdEncoding.Strict()
	n, err0 := strconv.Atoi(iterations)
	var err1, err2, err3 error
	k.iterations = n
	k.salt, err1 = e.DecodeString(salt)
	k.stored, err2 = e.DecodeString(stored)
	k.serverKey, err3 = e.DecodeString(server)
	if !ok1 || !ok2 || err0 != nil || err1 != nil || err2 != nil || err3 != nil || n < 1 || n > maxSCRAMIterations ||
		len(k.salt) == 0 || len(k.salt) > 64 || len(k.stored) != sha256.Size || len(k.serverKey) != sha256.Size {
		return scramKeys{}, bad
	}
	return k, nil
}

// A scramExchange is the server's side of one SCRAM-SHA-256 exchange without
// channel binding (RFC 5802 §5). It is pure: nonces and keys come from outside.
type scramExchange struct {
	gs2       string // header as received, what c= must repeat
	name      string // account asked for, unescaped
	authzid   string // "" or the account to act as
	firstBare string
	nonce     string // client's and ours together
	first     string // our first message
	keys      scramKeys
}

var errSCRAM = &core.Error{Code: core.Invalid, Text: "malformed SCRAM message"}

// clientFirst parses the client's first message. Errors are Invalid, and
// Unsupported for channel binding and mandatory extensions.
func (x *scramExchange) clientFirst(msg string) error {
	if len(msg) > maxSCRAMMessage || hasControls(msg) {
		return errSCRAM
	}
	parts := strings.SplitN(msg, ",", 3)
	if len(parts) != 3 {
		return errSCRAM
	}
	switch flag, authzid := parts[0], parts[1]; {
	case strings.HasPrefix(flag, "p="): // RFC 5802 §6: we offered no -PLUS mechanism
		return core.Errorf(core.Unsupported, "channel binding is not supported")
	case flag != "n" && flag != "y": // y: "I could, you cannot", and indeed we cannot
		return errSCRAM
	case authzid == "":
	case !strings.HasPrefix(authzid, "a="):
		return errSCRAM
	default:
		name, ok := unescapeSASLName(authzid[2:])
		if !ok {
			return errSCRAM
		}
		x.authzid = name
	}
	x.gs2 = parts[0] + "," + parts[1] + ","
	x.firstBare = parts[2]
	attrs := strings.Split(x.firstBare, ",")
	if strings.HasPrefix(attrs[0], "m=") { // RFC 5802 §5.1: mandatory extension
		return core.Errorf(core.Unsupported, "SCRAM extensions are not supported")
	}
	if len(attrs) < 2 || !strings.HasPrefix(attrs[0], "n=") || !strings.HasPrefix(attrs[1], "r=") {
		return errSCRAM
	}
	name, ok := unescapeSASLName(attrs[0][2:])
	x.name, x.nonce = name, attrs[1][2:]
	if !ok || x.nonce == "" || len(x.nonce) > maxSCRAMNonce || strings.IndexFunc(x.nonce, notASCII) >= 0 {
		return errSCRAM
	}
	return nil
}

func notASCII(r rune) bool { return r >= utf8.RuneSelf }

// hasControls reports whether a SCRAM message has control characters. Its
// nonces must be printable ASCII (RFC 5802 §7), its names may be UTF-8.
func hasControls(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] == 0x7f {
			return true
		}
	}
	return false
}

// unescapeSASLName undoes =2C and =3D (RFC 5802 §5.1, attribute n).
func unescapeSASLName(s string) (string, bool) {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(s, "=")
		b.WriteString(before)
		if !found {
			return b.String(), b.Len() > 0
		}
		switch {
		case strings.HasPrefix(after, "2C"):
			b.WriteByte(',')
		case strings.HasPrefix(after, "3D"):
			b.WriteByte('=')
		default:
			return "", false
		}
		s = after[2:]
	}
}

// serverFirst returns the first message of the server; ours is its half of the
// nonce, fresh and printable, without comma.
func (x *scramExchange) serverFirst(keys scramKeys, ours string) string {
	x.keys = keys
	x.nonce += ours
	x.first = "r=" + x.nonce + ",s=" + base64.StdEncoding.EncodeToString(keys.salt) + ",i=" + strconv.Itoa(keys.iterations)
	return x.first
}

// clientFinal checks the client's proof. It returns the server's final message
// if the proof is right; ok is false if it is wrong or is for another exchange.
func (x *scramExchange) clientFinal(msg string) (final string, ok bool, err error) {
	if len(msg) > maxSCRAMMessage || hasControls(msg) {
		return "", false, errSCRAM
	}
	i := strings.LastIndex(msg, ",p=")
	if i < 0 {
		return "", false, errSCRAM
	}
	withoutProof := msg[:i]
	proof, err := base64.StdEncoding.Strict().DecodeString(msg[i+3:])
	attrs := strings.Split(withoutProof, ",")
	if err != nil || len(proof) != sha256.Size || len(attrs) < 2 {
		return "", false, errSCRAM
	}
	if attrs[0] != "c="+base64.StdEncoding.EncodeToString([]byte(x.gs2)) || attrs[1] != "r="+x.nonce {
		return "", false, nil // RFC 5802 §5.1: the server MUST verify both
	}
	auth := x.firstBare + "," + x.first + "," + withoutProof
	key := hmac256(x.keys.stored, auth)
	for i := range key {
		key[i] ^= proof[i]
	}
	stored := sha256.Sum256(key)
	if subtle.ConstantTimeCompare(stored[:], x.keys.stored) != 1 {
		return "", false, nil
	}
	return "v=" + base64.StdEncoding.EncodeToString(hmac256(x.keys.serverKey, auth)), true, nil
}
