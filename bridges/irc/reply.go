package irc

import (
	"errors"
	"strconv"

	"github.com/isthmus-chat/isthmus/core"
)

// num sends a numeric: the client's nick follows the number, the last of params
// is the text.
func (s *session) num(number string, params ...string) {
	b := append(s.out, ':')
	from := len(b) - 1
	b = append(b, s.srv.cfg.ServerName...)
	b = append(b, ' ')
	b = append(b, number...)
	b = appendMiddle(b, s.shownNick())
	s.out = endLine(appendParams(b, params), from)
	s.ended(from)
}

// reply sends a command of the server's that is addressed like a numeric: CAP.
func (s *session) reply(command string, params ...string) { s.num(command, params...) }

// say sends a command of the server's with nothing but params.
func (s *session) say(command string, params ...string) {
	from := len(s.out)
	b := append(s.out, ':')
	b = append(b, s.srv.cfg.ServerName...)
	b = append(b, ' ')
	b = append(b, command...)
	s.out = endLine(appendParams(b, params), from)
	s.ended(from)
}

func appendParams(b []byte, params []string) []byte {
	for i, p := range params {
		if i == len(params)-1 {
			return appendTrailing(b, p)
		}
		b = appendMiddle(b, p)
	}
	return b
}

// fail sends a standard reply (https://ircv3.net/specs/extensions/standard-replies),
// or a NOTICE with its text to a client that does not know them.
func (s *session) fail(command, code string, rest ...string) { s.standard("FAIL", command, code, rest) }

func (s *session) warn(command, code string, rest ...string) { s.standard("WARN", command, code, rest) }

func (s *session) standard(kind, command, code string, rest []string) {
	from := len(s.out)
	b := append(s.out, ':')
	b = append(b, s.srv.cfg.ServerName...)
	if !s.caps().has(capStandardReplies) {
		b = append(b, " NOTICE"...)
		b = appendMiddle(b, s.shownNick())
		b = appendTrailing(b, kind+" "+command+" "+code+": "+rest[len(rest)-1])
	} else {
		b = append(b, ' ')
		b = append(b, kind...)
		b = appendMiddle(b, command)
		b = appendMiddle(b, code)
		b = appendParams(b, rest)
	}
	s.out = endLine(b, from)
	s.ended(from)
}

// A refusal is how IRC says a core.Code: a numeric, or a standard reply's code.
type refusal struct{ number, fail string }

// refusalOf maps every code and reason to IRC's words. It is the only place that
// does.
func refusalOf(err error) refusal {
	switch core.ReasonOf(err) {
	case core.NotJoined, core.Muted:
		return refusal{"404", ""}
	case core.AlreadyJoined:
		return refusal{"443", ""}
	case core.NoSuchUser:
		return refusal{"441", ""}
	case core.Banned:
		return refusal{"474", ""}
	case core.InviteOnly:
		return refusal{"473", ""}
	case core.BadKey:
		return refusal{"475", ""}
	case core.Full:
		return refusal{"471", ""}
	case core.NeedAccount:
		return refusal{"477", ""}
	case core.NotOperator:
		return refusal{"482", ""}
	case core.ListFull:
		return refusal{"478", ""}
	case core.IsGroup:
		return refusal{"403", "UNSUPPORTED_ROOM"}
	}
	switch core.CodeOf(err) {
	case core.Invalid:
		return refusal{"461", "INVALID_PARAMS"}
	case core.Unauthenticated:
		return refusal{"451", "ACCOUNT_REQUIRED"}
	case core.Denied:
		return refusal{"404", ""}
	case core.NotFound:
		return refusal{"403", ""}
	case core.Conflict, core.StaleEpoch:
		return refusal{"", "CONFLICT"}
	case core.TooLarge:
		return refusal{"417", ""}
	case core.Limited:
		return refusal{"263", "RATE_LIMITED"}
	case core.Unavailable:
		return refusal{"", "TEMPORARILY_UNAVAILABLE"}
	case core.Unsupported:
		return refusal{"", "UNSUPPORTED"}
	}
	return refusal{"400", "INTERNAL_ERROR"}
}

// refuse tells the client why command was refused for target.
func (s *session) refuse(command, target string, err error) {
	var e *core.Error
	if !errors.As(err, &e) { // a context that ended: the server is stopping
		err = core.Errorf(core.Unavailable, "the server is stopping")
	}
	r, text := refusalOf(err), core.TextOf(err)
	if r.number != "" {
		switch {
		case core.ReasonOf(err) == core.NotJoined && command != "PRIVMSG" && command != "NOTICE" && command != "TAGMSG":
			s.num("442", target, text)
		case r.number == "461" || r.number == "263" || r.number == "400":
			s.num(r.number, command, text)
		default:
			s.num(r.number, target, text)
		}
		if s.caps().has(capStandardReplies) && r.fail != "" {
			s.fail(command, r.fail, target, text)
		}
		return
	}
	if e != nil && e.RetryAfter > 0 {
		text += "; try again in " + strconv.Itoa(int(e.RetryAfter.Seconds())+1) + " s"
	}
	s.fail(command, r.fail, target, text)
}
