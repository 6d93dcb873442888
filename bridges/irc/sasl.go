package irc

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"net/netip"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds of the AUTHENTICATE exchange
// (https://ircv3.net/specs/extensions/sasl-3.1).
const (
	saslChunk    = 400  // octets of base64 in one line; a full one means that more comes
	maxSASL      = 2000 // octets of base64 in one message: a SCRAM message with the longest names and nonces
	maxSASLTries = 10   // exchanges of one connection
)

// A saslOutcome is what one AUTHENTICATE line led to.
type saslOutcome uint8

const (
	saslMore    saslOutcome = iota // challenge goes out, or nothing: more is to come
	saslDone                       // logged in as account
	saslFailed                     // err says why: 904
	saslAborted                    // by the client: 906
	saslTooLong                    // 905
	saslNoMech                     // 908, then 904
	saslTooMany                    // 904, then the connection is closed
)

// A saslReply is the outcome of one AUTHENTICATE line with what belongs to it.
type saslReply struct {
	outcome   saslOutcome
	challenge []string // parameters of the AUTHENTICATE lines to send
	account   core.Account
	err       error
}

// A saslExchange is the SASL state of one connection. Its zero value is ready.
// One goroutine uses it.
type saslExchange struct {
	mech  string
	text  strings.Builder // base64 so far
	tries int
	scram scramExchange
	step  int     // of SCRAM: 0 client-first, 1 client-final, 2 the empty end
	try   attempt // of SCRAM, open from step 1 on
	open  bool
	acc   core.Account
}

// saslMechanisms returns the value of the sasl capability, and of 908.
func saslMechanisms(p connInfo) string {
	if p.certFP != "" {
		return "PLAIN,SCRAM-SHA-256,EXTERNAL"
	}
	return "PLAIN,SCRAM-SHA-256"
}

// handle takes the parameter of one AUTHENTICATE line of a client at p.
func (x *saslExchange) handle(ctx context.Context, a *authenticator, p connInfo, param string) saslReply {
	switch {
	case len(param) > saslChunk:
		x.reset()
		return saslReply{outcome: saslTooLong}
	case param == "*":
		x.reset()
		return saslReply{outcome: saslAborted}
	case x.mech == "":
		return x.start(p, strings.ToUpper(param))
	}
	if param != "+" {
		if x.text.Len()+len(param) > maxSASL {
			x.reset()
			return saslReply{outcome: saslTooLong}
		}
		x.text.WriteString(param)
	}
	if len(param) == saslChunk {
		return saslReply{outcome: saslMore}
	}
	msg, err := base64.StdEncoding.Strict().DecodeString(x.text.String())
	x.text.Reset()
	if err != nil {
		return x.fail(core.Errorf(core.Invalid, "that is not base64"))
	}
	switch x.mech {
	case "PLAIN":
		return x.plain(ctx, a, p.addr, string(msg))
	case "EXTERNAL":
		acc, err := a.certificate(ctx, p.addr, p.certFP, string(msg))
		return x.end(acc, err)
	}
	return x.scramStep(ctx, a, p.addr, string(msg))
}

func (x *saslExchange) start(p connInfo, mech string) saslReply {
	if x.tries++; x.tries > maxSASLTries {
		return saslReply{outcome: saslTooMany, err: core.Errorf(core.Limited, "too many failed logins")}
	}
	for m := range strings.SplitSeq(saslMechanisms(p), ",") {
		if m == mech {
			x.mech = mech
			return saslReply{outcome: saslMore, challenge: []string{"+"}}
		}
	}
	return saslReply{outcome: saslNoMech, err: core.Errorf(core.Unsupported, "no such SASL mechanism")}
}

// reset ends the exchange. A SCRAM login that was begun stays counted as failed.
func (x *saslExchange) reset() {
	*x = saslExchange{tries: x.tries}
}

func (x *saslExchange) fail(err error) saslReply {
	x.reset()
	return saslReply{outcome: saslFailed, err: err}
}

func (x *saslExchange) end(acc core.Account, err error) saslReply {
	x.reset()
	if err != nil {
		return saslReply{outcome: saslFailed, err: err}
	}
	x.tries = 0
	return saslReply{outcome: saslDone, account: acc}
}

// plain reads [authzid] NUL authcid NUL passwd (RFC 4616 §2). Acting as
// somebody else is not supported.
func (x *saslExchange) plain(ctx context.Context, a *authenticator, from netip.Addr, msg string) saslReply {
	f := strings.Split(msg, "\x00")
	if len(f) != 3 || f[1] == "" || f[2] == "" {
		return x.fail(core.Errorf(core.Invalid, "malformed PLAIN message"))
	}
	if f[0] != "" && AccountKey(f[0]) != AccountKey(f[1]) {
		return x.fail(errBadLogin)
	}
	return x.end(a.plain(ctx, from, f[1], f[2]))
}

func (x *saslExchange) scramStep(ctx context.Context, a *authenticator, from netip.Addr, msg string) saslReply {
	switch x.step {
	case 0:
		return x.scramFirst(ctx, a, from, msg)
	case 1:
		final, ok, err := x.scram.clientFinal(msg)
		if err != nil {
			return x.fail(err)
		}
		if x.acc, err = x.try.end(x.acc, ok && x.open); err != nil {
			return x.fail(err)
		}
		x.step = 2
		return saslReply{outcome: saslMore, challenge: saslChunks(final)}
	}
	if msg != "" {
		return x.fail(errSCRAM)
	}
	return x.end(x.acc, nil)
}

// scramFirst answers the client's first message. Somebody who does not exist
// gets a salt as well, always the same one.
func (x *saslExchange) scramFirst(ctx context.Context, a *authenticator, from netip.Addr, msg string) saslReply {
	if err := x.scram.clientFirst(msg); err != nil {
		return x.fail(err)
	}
	name := x.scram.name
	if x.scram.authzid != "" && AccountKey(x.scram.authzid) != AccountKey(name) {
		return x.fail(errBadLogin)
	}
	try, err := a.begin(from, name)
	if err != nil {
		return x.fail(err)
	}
	acc, found, err := a.find(ctx, name)
	if err != nil {
		try.cancel()
		return x.fail(err)
	}
	salt := mac(a.decoy, AccountKey(name))[:argonSalt]
	keys := scramKeys{iterations: scramIterations, salt: salt, stored: make([]byte, 32), serverKey: make([]byte, 32)}
	if found && acc.SCRAM != "" {
		if keys, err = parseSCRAMKeys(acc.SCRAM); err != nil {
			try.cancel()
			return x.fail(err)
		}
		x.open = true
	}
	x.try, x.acc, x.step = try, acc, 1
	return saslReply{outcome: saslMore, challenge: saslChunks(x.scram.serverFirst(keys, rand.Text()))}
}

// saslChunks splits a message for AUTHENTICATE: full chunks, then a shorter one,
// which is "+" if nothing is left.
func saslChunks(msg string) []string {
	s := base64.StdEncoding.EncodeToString([]byte(msg))
	var out []string
	for len(s) >= saslChunk {
		out = append(out, s[:saslChunk])
		s = s[saslChunk:]
	}
	if s == "" {
		s = "+"
	}
	return append(out, s)
}

// loginText returns the sentence for a refused login.
func loginText(err error) string {
	if e, ok := err.(*core.Error); ok && e.Code == core.Limited && e.RetryAfter > 0 {
		return "SASL authentication failed: " + e.Text + "; try again in " + e.RetryAfter.Round(time.Second).String()
	}
	return "SASL authentication failed: " + core.TextOf(err)
}
