package irc

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-chat/isthmus/core"
)

func init() {
	addCommands(commandTable{
		"PING":     {early: true, run: cmdPing},
		"PONG":     {early: true, run: func(*session, *line) {}},
		"MOTD":     {cost: 2, run: func(s *session, _ *line) { s.motd() }},
		"LUSERS":   {run: func(s *session, _ *line) { s.lusers() }},
		"VERSION":  {run: cmdVersion},
		"TIME":     {run: cmdTime},
		"INFO":     {run: cmdInfo},
		"ADMIN":    {run: cmdAdmin},
		"SETNAME":  {min: 1, run: cmdSetname},
		"ISON":     {min: 1, run: cmdIson},
		"USERHOST": {min: 1, run: cmdUserhost},
		"ISUPPORT": {early: true, run: cmdISupport},
	})
	addISupport(coreISupport)
}

func cmdPing(s *session, l *line) {
	if len(l.params) == 0 {
		s.num("409", "No origin specified")
		return
	}
	s.say("PONG", s.srv.cfg.ServerName, l.params[0])
}

var isupportTables []func(*Server) []string

// addISupport puts a file's ISUPPORT tokens into the table.
func addISupport(f func(*Server) []string) { isupportTables = append(isupportTables, f) }

func coreISupport(srv *Server) []string {
	c := &srv.cfg
	n := strconv.Itoa
	t := []string{
		"AWAYLEN=" + n(c.AwayLen), "BOT=B", "CASEMAPPING=" + srv.world.fold.String(), "CHANLIMIT=#:" + n(c.Channels),
		"CHANMODES=" + chanModes, "CHANNELLEN=" + n(c.ChannelLen), "CHANTYPES=#", "ELIST=U", "EXCEPTS=e", "EXTBAN=$,a",
		"ACCOUNTEXTBAN=a", "INVEX=I", "KICKLEN=" + n(c.KickLen), "MAXLIST=beI:" + n(core.MaxBans), "MAXTARGETS=" + n(c.MaxTargets),
		"MODES=" + n(maxModes), "NAMELEN=" + n(c.RealLen), "NETWORK=" + c.Network, "NICKLEN=" + n(c.NickLen),
		"PREFIX=(" + prefixModes + ")" + prefixSigns, "SAFELIST", "TARGMAX=NAMES:" + n(c.MaxTargets) + ",LIST:,KICK:" + n(c.MaxTargets) +
			",PRIVMSG:" + n(c.MaxTargets) + ",NOTICE:" + n(c.MaxTargets) + ",JOIN:,PART:",
		"TOPICLEN=" + n(c.TopicLen), "USERLEN=" + n(maxIdent), "UTF8ONLY",
	}
	if c.Icon != "" {
		t = append(t, "draft/ICON="+c.Icon)
	}
	if !c.Guests {
		t = append(t, "draft/ACCOUNTREQUIRED")
	}
	return t
}

// perISupport is how many tokens stand on one line.
const perISupport = 12

// isupportLines are the parameters of the 005 lines. They do not change while
// the server runs.
func (srv *Server) isupportLines() [][]string {
	srv.tokens.once.Do(func() {
		var all []string
		for _, f := range isupportTables {
			all = append(all, f(srv)...)
		}
		for part := range slices.Chunk(all, perISupport) {
			srv.tokens.lines = append(srv.tokens.lines, append(slices.Clone(part), "are supported by this server"))
		}
	})
	return srv.tokens.lines
}

// isupportTokens keeps what isupportLines makes.
type isupportTokens struct {
	once  sync.Once
	lines [][]string
}

// isupport sends 005, as a batch to clients with draft/extended-isupport.
func (s *session) isupport() {
	if s.caps().has(capExtendedISupport) && s.caps().has(capBatch) {
		ref := s.srv.batchRef()
		s.out = append(s.out, ":"+s.srv.cfg.ServerName+" BATCH +"+ref+" draft/isupport\r\n"...)
		defer func() { s.out = append(s.out, ":"+s.srv.cfg.ServerName+" BATCH -"+ref+"\r\n"...) }()
		for _, params := range s.srv.isupportLines() {
			from := len(s.out)
			s.num("005", params...)
			line := append([]byte(nil), s.out[from:]...)
			s.out = addTag(s.out[:from], line, "batch", ref)
		}
		return
	}
	for _, params := range s.srv.isupportLines() {
		s.num("005", params...)
	}
}

func cmdISupport(s *session, _ *line) {
	if !s.caps().has(capExtendedISupport) {
		s.num("421", "ISUPPORT", "Unknown command")
		return
	}
	s.isupport()
}

func (s *session) motd() {
	text := strings.TrimRight(s.srv.live.Load().MOTD, "\n")
	if text == "" {
		s.num("422", "MOTD File is missing")
		return
	}
	s.num("375", "- "+s.srv.cfg.ServerName+" Message of the day - ")
	for line := range strings.SplitSeq(text, "\n") {
		s.num("372", "- "+line)
	}
	s.num("376", "End of /MOTD command.")
}

func (s *session) lusers() {
	w := s.srv.world
	w.mu.RLock()
	users, channels, waiting, peak := len(w.users), len(w.channels), 0, s.srv.peak
	for o := range w.sessions {
		if o.user == nil {
			waiting++
		}
	}
	w.mu.RUnlock()
	n := strconv.Itoa
	s.num("251", "There are "+n(users)+" users and 0 invisible on 1 servers")
	s.num("252", "0", "IRC Operators online")
	s.num("253", n(waiting), "unregistered connections")
	s.num("254", n(channels), "channels formed")
	s.num("255", "I have "+n(users)+" clients and 0 servers")
	s.num("265", n(users), n(peak), "Current local users "+n(users)+", max "+n(peak))
	s.num("266", n(users), n(peak), "Current global users "+n(users)+", max "+n(peak))
}

func cmdVersion(s *session, _ *line) {
	s.num("351", s.srv.cfg.Version, s.srv.cfg.ServerName, "a gateway between networks")
	s.isupport()
}

func cmdTime(s *session, _ *line) {
	now := time.Now().UTC()
	s.num("391", s.srv.cfg.ServerName, strconv.FormatInt(now.Unix(), 10), "0", now.Format(time.RFC1123))
}

func cmdInfo(s *session, _ *line) {
	s.num("371", s.srv.cfg.Version+": rooms that IRC and Matrix share")
	s.num("371", "Up since "+s.srv.started.UTC().Format(time.RFC1123))
	s.num("374", "End of /INFO list.")
}

func cmdAdmin(s *session, _ *line) {
	who := s.srv.live.Load().Admin
	if who == "" {
		s.num("423", s.srv.cfg.ServerName, "No administrative info available")
		return
	}
	s.num("256", s.srv.cfg.ServerName, "Administrative info")
	s.num("257", who)
}

func cmdSetname(s *session, l *line) {
	if len(l.params[0]) > s.srv.cfg.RealLen || strings.TrimSpace(l.params[0]) == "" {
		s.fail("SETNAME", "INVALID_REALNAME", "Realname is not valid")
		return
	}
	s.srv.world.mu.RLock()
	p := s.user.profile
	s.srv.world.mu.RUnlock()
	p.Real = l.params[0]
	s.changeProfile("SETNAME", p)
}

func cmdIson(s *session, l *line) {
	var here []string
	w := s.srv.world
	w.mu.RLock()
	for _, p := range l.params {
		for _, nick := range strings.Fields(p) {
			if u := w.userByNick(nick); u != nil {
				here = append(here, u.shown())
			}
		}
	}
	w.mu.RUnlock()
	s.num("303", strings.Join(here, " "))
}

// maxUserhost bounds the nicks in one USERHOST (RFC 2812 §4.8).
const maxUserhost = 5

func cmdUserhost(s *session, l *line) {
	var out []string
	w := s.srv.world
	w.mu.RLock()
	for _, nick := range l.params[:min(len(l.params), maxUserhost)] {
		if u := w.userByNick(nick); u != nil {
			sign := "+"
			if u.away != "" {
				sign = "-"
			}
			_, host, _ := strings.Cut(u.source(), "!")
			out = append(out, u.shown()+"="+sign+host)
		}
	}
	w.mu.RUnlock()
	s.num("302", strings.Join(out, " "))
}
