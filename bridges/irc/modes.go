package irc

import (
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

// The channel modes, as ISUPPORT CHANMODES has them: lists, always a parameter,
// a parameter when set, none. +n is always on.
const (
	chanModes     = "Ibe,k,l,HRimnst"
	userChanModes = "HIRabehiklmnoqstv"
	prefixModes   = "qaohv"
	prefixSigns   = "~&@%+"
)

// roleLetter is the mode letter of a role, 0 for plain members.
func roleLetter(r core.Role) byte {
	switch r {
	case core.RoleOwner:
		return 'q'
	case core.RoleAdmin:
		return 'a'
	case core.RoleOperator:
		return 'o'
	case core.RoleHalfop:
		return 'h'
	case core.RoleVoice:
		return 'v'
	}
	return 0
}

// roleOf is its inverse.
func roleOf(letter byte) core.Role {
	switch letter {
	case 'q':
		return core.RoleOwner
	case 'a':
		return core.RoleAdmin
	case 'o':
		return core.RoleOperator
	case 'h':
		return core.RoleHalfop
	case 'v':
		return core.RoleVoice
	}
	return core.RoleNone
}

// roleSign is what stands before a nick in NAMES, "" for plain members.
func roleSign(r core.Role) string {
	if i := strings.IndexByte(prefixModes, roleLetter(r)); i >= 0 && roleLetter(r) != 0 {
		return prefixSigns[i : i+1]
	}
	return ""
}

// roleChange is a change of role as mode words: a member has one role, so the
// old letter goes when the new one comes.
func roleChange(from, to core.Role, nick string) []string {
	var modes string
	var nicks []string
	if l := roleLetter(from); l != 0 {
		modes, nicks = modes+"-"+string(l), append(nicks, nick)
	}
	if l := roleLetter(to); l != 0 {
		modes, nicks = modes+"+"+string(l), append(nicks, nick)
	}
	if nicks == nil {
		return nil
	}
	return append([]string{modes}, nicks...)
}

// A policyFlag is a mode without a parameter.
type policyFlag struct {
	letter byte
	at     func(*core.Policy) *bool
}

var policyFlags = []policyFlag{
	{'H', func(p *core.Policy) *bool { return &p.SinceJoin }},
	{'R', func(p *core.Policy) *bool { return &p.Registered }},
	{'i', func(p *core.Policy) *bool { return &p.InviteOnly }},
	{'m', func(p *core.Policy) *bool { return &p.Moderated }},
	{'s', func(p *core.Policy) *bool { return &p.Secret }},
	{'t', func(p *core.Policy) *bool { return &p.TopicLock }},
}

// policyModes is a policy as the answer to MODE: "+nst". The key is shown to
// members only.
func policyModes(p core.Policy, member bool) []string {
	modes := "+n"
	for _, f := range policyFlags {
		if *f.at(&p) {
			modes += string(f.letter)
		}
	}
	words := []string{""}
	if p.Key != "" {
		modes += "k"
		if member {
			words = append(words, p.Key)
		} else {
			words = append(words, "*")
		}
	}
	if p.Limit > 0 {
		modes += "l"
		words = append(words, strconv.FormatUint(uint64(p.Limit), 10))
	}
	words[0] = modes
	return words
}

// policyChange is what leads from one policy to another, as mode words joined
// by blanks; "" if nothing that IRC shows changed.
func policyChange(from, to core.Policy) string {
	var plus, minus string
	var args []string
	for _, f := range policyFlags {
		switch a, b := *f.at(&from), *f.at(&to); {
		case !a && b:
			plus += string(f.letter)
		case a && !b:
			minus += string(f.letter)
		}
	}
	if from.Key != "" && to.Key == "" {
		minus += "k"
		args = append(args, "*")
	}
	if from.Limit > 0 && to.Limit == 0 {
		minus += "l"
	}
	if to.Key != from.Key && to.Key != "" {
		plus += "k"
		args = append(args, to.Key)
	}
	if to.Limit != from.Limit && to.Limit > 0 {
		plus += "l"
		args = append(args, strconv.FormatUint(uint64(to.Limit), 10))
	}
	out := ""
	if minus != "" {
		out += "-" + minus
	}
	if plus != "" {
		out += "+" + plus
	}
	return strings.TrimSpace(out + " " + strings.Join(args, " "))
}

// maxModes bounds the changes with a parameter in one MODE.
const maxModes = 12

func init() {
	addCommands(commandTable{
		"MODE": {min: 1, cost: 1, run: cmdMode},
	})
}

func cmdMode(s *session, l *line) {
	if !strings.HasPrefix(l.params[0], "#") {
		s.userMode(l)
		return
	}
	w := s.srv.world
	w.mu.RLock()
	ch := w.channelByName(l.params[0])
	if ch == nil || ch.room.Policy.Secret && ch.index[s.user] == nil {
		w.mu.RUnlock()
		s.num("403", l.params[0], "No such channel")
		return
	}
	m := ch.index[s.user]
	if len(l.params) == 1 {
		words := append([]string{ch.name()}, policyModes(ch.room.Policy, m != nil)...)
		name, created := ch.name(), ch.room.Created.Unix()
		w.mu.RUnlock()
		s.num("324", words...)
		s.num("329", name, strconv.FormatInt(created, 10))
		return
	}
	var list byte
	plan := modePlan{s: s, ch: ch, was: ch.room.Policy, policy: ch.room.Policy}
	list = plan.read(l.params[1], l.params[2:])
	bans := append([]core.Ban(nil), ch.bans...)
	see := m != nil && ch.room.Policy.Can(m.role, core.CanBan)
	name := ch.name()
	w.mu.RUnlock()
	for _, c := range plan.unknown {
		s.num("472", string(c), "is unknown mode char to me")
	}
	for _, nick := range plan.missing {
		s.num("441", nick, name, "They aren't on that channel")
	}
	if list != 0 {
		s.banList(name, list, bans, see)
	}
	plan.submit(name)
}

// userMode answers MODE for oneself: users have no modes that they could change
// but +B, which only says that they are a bot.
func (s *session) userMode(l *line) {
	w := s.srv.world
	w.mu.RLock()
	u := w.userByNick(l.params[0])
	p := s.user.profile
	w.mu.RUnlock()
	switch {
	case u == nil:
		s.num("401", l.params[0], "No such nick/channel")
		return
	case u != s.user:
		s.num("502", "Can't change mode for other users")
		return
	}
	was := p.Bot
	for i, sign := 0, byte('+'); i < len(l.param(1)); i++ {
		switch c := l.params[1][i]; c {
		case '+', '-':
			sign = c
		case 'B':
			p.Bot = sign == '+'
		case 'i', 'w', 's', 'x': // set by many clients at connect: no meaning here
		default:
			s.num("501", "Unknown MODE flag")
		}
	}
	if p.Bot != was && s.changeProfile("MODE", p) {
		sign := "-B"
		if p.Bot {
			sign = "+B"
		}
		s.out = append(s.out, ":"+u.source()+" MODE "+u.shown()+" "+sign+"\r\n"...)
	} else if len(l.params) == 1 {
		if p.Bot {
			s.num("221", "+B")
		} else {
			s.num("221", "+")
		}
	}
}

// A modePlan is what a MODE command asks for, as control messages.
type modePlan struct {
	s       *session
	ch      *channel
	was     core.Policy
	policy  core.Policy
	es      []core.Envelope
	unknown []byte
	missing []string
}

// read turns modes into the plan; it returns the list that was asked for, 0 if
// none. The world's lock is held for reading.
func (p *modePlan) read(modes string, args []string) (list byte) {
	sign, with := byte('+'), 0
	next := func() (string, bool) {
		if len(args) == 0 || with >= maxModes {
			return "", false
		}
		with++
		a := args[0]
		args = args[1:]
		return a, true
	}
	for i := 0; i < len(modes); i++ {
		switch c := modes[i]; c {
		case '+', '-':
			sign = c
		case 'b', 'e', 'I':
			if mask, ok := next(); ok {
				p.ban(sign, c, cleanMask(mask))
			} else {
				list = c
			}
		case 'q', 'a', 'o', 'h', 'v':
			if nick, ok := next(); ok {
				p.role(sign, c, nick)
			}
		case 'k':
			key, ok := next()
			if sign == '-' {
				p.policy.Key = ""
			} else if ok && key != "" && len(key) <= 64 && !strings.ContainsAny(key, ", ") {
				p.policy.Key = key
			}
		case 'l':
			if sign == '-' {
				p.policy.Limit = 0
			} else if a, ok := next(); ok {
				if n, err := strconv.ParseUint(a, 10, 31); err == nil && n > 0 {
					p.policy.Limit = uint32(n)
				}
			}
		case 'n': // always on
		default:
			p.flag(sign, c)
		}
	}
	return list
}

func (p *modePlan) flag(sign, letter byte) {
	for _, f := range policyFlags {
		if f.letter == letter {
			*f.at(&p.policy) = sign == '+'
			return
		}
	}
	p.unknown = append(p.unknown, letter)
}

func (p *modePlan) add(c core.Control) {
	p.es = append(p.es, core.Envelope{Room: p.ch.room.ID, Sender: p.s.user.uri, Origin: core.Origin{Network: core.NetworkIRC},
		Sent: time.Now(), Body: c.Body(p.s.user.shown())})
}

func (p *modePlan) ban(sign, list byte, mask string) {
	op := core.OpBan
	if sign == '-' {
		op = core.OpUnban
	}
	p.add(core.Control{Op: op, List: list, Mask: mask})
}

// role plans a change of role. A member has one: a letter below the one they
// have changes nothing, and taking a letter they do not have neither.
func (p *modePlan) role(sign, letter byte, nick string) {
	u := p.s.srv.world.userByNick(nick)
	if u == nil || p.ch.index[u] == nil {
		p.missing = append(p.missing, nick)
		return
	}
	has, role := p.ch.index[u].role, roleOf(letter)
	switch {
	case sign == '+' && role > has:
		p.add(core.Control{Op: core.OpRole, User: u.uri, Role: role})
	case sign == '-' && role == has:
		p.add(core.Control{Op: core.OpRole, User: u.uri, Role: core.RoleMember})
	}
}

// submit offers the plan as one transaction and tells what was refused, each
// reason once.
func (p *modePlan) submit(name string) {
	if p.policy != p.was {
		policy := p.policy
		p.add(core.Control{Op: core.OpPolicy, Policy: &policy})
	}
	receipts, err := p.s.submit("MODE", p.es...)
	if err != nil {
		p.s.refuse("MODE", name, err)
		return
	}
	told := map[core.Reason]bool{}
	for _, r := range receipts {
		if reason := core.ReasonOf(r.Err); r.Err != nil && !told[reason] {
			told[reason] = true
			p.s.refuse("MODE", name, r.Err)
		}
	}
}

// banList answers MODE +b, +e, +I. Bans are for all to see; exceptions for those
// who may set them.
func (s *session) banList(name string, list byte, bans []core.Ban, see bool) {
	reply, end, text := "367", "368", "End of channel ban list"
	switch list {
	case 'e':
		reply, end, text = "348", "349", "End of channel exception list"
	case 'I':
		reply, end, text = "346", "347", "End of channel invite exception list"
	}
	if list != 'b' && !see {
		s.num("482", name, "You're not channel operator")
		return
	}
	for _, b := range bans {
		if b.List == list {
			s.num(reply, name, b.Mask, nickFrom(b.By, s.srv.cfg.NickLen), strconv.FormatInt(b.At.Unix(), 10))
		}
	}
	s.num(end, name, text)
}
