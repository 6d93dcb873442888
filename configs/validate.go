package configs

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

var (
	domainForm  = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*(:[0-9]{1,5})?$`)
	networkForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$`)
	nameForm    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
)

// checker collects problems, each beginning with the key it is about.
type checker struct{ problems []string }

func (k *checker) is(ok bool, key, format string, args ...any) {
	if !ok {
		k.problems = append(k.problems, key+": "+fmt.Sprintf(format, args...))
	}
}

func (k *checker) oneOf(key, value string, allowed ...string) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	k.is(false, key, "%q is not one of %s", value, strings.Join(allowed, ", "))
}

func (k *checker) address(key, value string) {
	_, port, err := net.SplitHostPort(value)
	n, perr := strconv.Atoi(port)
	k.is(err == nil && perr == nil && n >= 0 && n <= 65535, key, "%q is not host:port", value)
}

func (k *checker) networks(key string, list []string) {
	for _, p := range list {
		_, err := netip.ParsePrefix(p)
		k.is(err == nil, key, "%q is not a network such as 10.0.0.0/8", p)
	}
}

func (k *checker) httpURL(key, value string) {
	u, err := url.Parse(value)
	k.is(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "", key, "%q is not an http or https URL", value)
}

func (k *checker) names(list string, n int, name func(int) string) {
	seen := map[string]bool{}
	for i := range n {
		key := fmt.Sprintf("%s[%d].name", list, i)
		k.is(nameForm.MatchString(name(i)), key, "%q is not a name: lower-case letters, digits, '.', '_', '-'", name(i))
		k.is(!seen[name(i)], key, "%q is there twice", name(i))
		seen[name(i)] = true
	}
}

// Validate checks what the types cannot say. Its error is an *Error with one
// line per problem.
func (c *Config) Validate() error {
	k := new(checker)
	k.is(domainForm.MatchString(c.Domain) && len(c.Domain) <= 253, "domain", "%q is not a lower-case DNS name", c.Domain)
	k.is(networkForm.MatchString(c.Network), "network", "%q has characters that IRC clients do not take", c.Network)
	k.is(c.DataDir != "", "data_dir", "must be set")
	k.is(c.KeyFile != "", "key_file", "must be set")
	k.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	k.oneOf("log.format", c.Log.Format, "text", "json")
	u := string(c.Database.URL)
	k.is(u == "" || strings.HasPrefix(u, "postgres://") || strings.HasPrefix(u, "postgresql://") || strings.HasPrefix(u, "sqlite:"),
		"database.url", "must be empty for SQLite, or begin with postgres://")
	k.is(c.StopTimeout > 0, "stop_timeout", "must be more than 0s")
	k.is(c.ExpireAfter > 0, "expire_after", "must be more than 0s")
	c.checkHTTP(k)
	c.checkAPI(k)
	c.checkIRC(k)
	c.checkLimits(k)
	c.checkMatrix(k)
	c.checkFederation(k)
	if len(k.problems) > 0 {
		return &Error{Problems: k.problems}
	}
	return nil
}

func (c *Config) checkHTTP(k *checker) {
	h := c.HTTP
	if h.Address != "" {
		k.address("http.address", h.Address)
	}
	k.is((h.CertFile == "") == (h.KeyFile == ""), "http.cert_file", "needs http.key_file, and the other way round")
	k.is(h.HeaderTimeout > 0, "http.header_timeout", "must be more than 0s")
	k.is(h.RequestTimeout > 0, "http.request_timeout", "must be more than 0s")
	k.is(h.IdleTimeout > 0, "http.idle_timeout", "must be more than 0s")
	k.is(h.MaxConnections > 0, "http.max_connections", "must be more than 0")
}

func (c *Config) checkAPI(k *checker) {
	a := c.API
	k.oneOf("api.registration", a.Registration, "open", "token", "closed")
	k.is(a.Registration != "token" || a.RegistrationToken != "" || a.RegistrationTokenFile != "", "api.registration_token", "must be set, or registration_token_file")
	k.networks("api.forwarded", a.Forwarded)
	k.is(a.SessionLifetime >= 60*Duration(second) && a.SessionLifetime <= 400*86400*Duration(second), "api.session_lifetime", "must be 1m to 9600h")
	k.is(a.RequestsPerSecond >= 1 && a.RequestsPerSecond <= 1<<20, "api.requests_per_second", "must be 1 to %d", 1<<20)
	k.is(a.MessagesPerSecond >= 1 && a.MessagesPerSecond <= 1<<24, "api.messages_per_second", "must be 1 to %d", 1<<24)
	k.is(a.Streams >= 1 && a.Streams <= 1<<20, "api.streams", "must be 1 to %d", 1<<20)
}

func (c *Config) checkIRC(k *checker) {
	k.oneOf("irc.case_mapping", c.IRC.CaseMapping, "ascii", "rfc1459")
	k.is(c.IRC.CloakSecretFile != "", "irc.cloak_secret_file", "must be set")
	k.is(c.IRC.Icon == "" || strings.HasPrefix(c.IRC.Icon, "https://"), "irc.icon", "must be an https URL")
	ls := c.IRC.Listeners
	k.names("irc.listeners", len(ls), func(i int) string { return ls[i].Name })
	tls := false
	for i, l := range ls {
		key := fmt.Sprintf("irc.listeners[%d]", i)
		k.address(key+".address", l.Address)
		k.is(!l.TLS || l.CertFile != "" && l.KeyFile != "", key+".cert_file", "a tls listener needs cert_file and key_file")
		k.is(l.TLS || l.CertFile == "" && l.KeyFile == "", key+".tls", "must be true where a certificate is given")
		k.networks(key+".proxy", l.Proxy)
		tls = tls || l.TLS
	}
	k.is(c.IRC.STS == 0 || tls, "irc.sts", "needs a listener with tls")
	a := c.IRC.Accounts
	k.is(a.MinPassword >= 1 && a.MinPassword <= 300, "irc.accounts.min_password", "must be 1 to 300")
	k.is(a.Argon2Memory >= 1<<20 && a.Argon2Memory <= 1<<30, "irc.accounts.argon2_memory", "must be 1MiB to 1GiB")
	k.is(a.Argon2Passes >= 1 && a.Argon2Passes <= 100, "irc.accounts.argon2_passes", "must be 1 to 100")
	k.is(a.Hashers >= 0 && a.Hashers <= 256, "irc.accounts.hashers", "must be 0 to 256")
	k.is(c.IRC.JoinHistory >= 0 && c.IRC.JoinHistory <= 1000, "irc.join_history", "must be 0 to 1000")
	k.networks("irc.forwarded", c.IRC.Forwarded)
	k.networks("irc.limits.exempt", c.IRC.Limits.Exempt)
	ws := c.IRC.WebIRC
	k.names("irc.webirc", len(ws), func(i int) string { return ws[i].Name })
	for i, w := range ws {
		key := fmt.Sprintf("irc.webirc[%d]", i)
		k.networks(key+".from", w.From)
		k.is(len(w.From) > 0, key+".from", "must name a network")
		k.is(w.Password != "" || w.PasswordFile != "", key+".password", "must be set, or password_file")
	}
}

func (c *Config) checkLimits(k *checker) {
	l := c.IRC.Limits
	for _, n := range []struct {
		key         string
		value, most int
	}{
		{"connections", l.Connections, 1 << 20}, {"per_address", l.PerAddress, 1 << 20}, {"connect_burst", l.ConnectBurst, 1 << 20},
		{"command_burst", l.CommandBurst, 1 << 20}, {"channels", l.Channels, 10000},
		{"nick_length", l.NickLength, 64}, {"channel_length", l.ChannelLength, 200}, {"topic_length", l.TopicLength, 400},
		{"kick_length", l.KickLength, 400}, {"away_length", l.AwayLength, 400},
		{"real_length", l.RealLength, 400}, {"targets", l.Targets, 100}, {"monitor", l.Monitor, 10000},
		{"history", l.History, 1000}, {"multiline_lines", l.MultilineLines, 1000}, {"multiline_bytes", int(l.MultilineBytes), 40 << 10},
	} {
		k.is(n.value >= 1 && n.value <= n.most, "irc.limits."+n.key, "must be 1 to %d", n.most)
	}
	k.is(l.RecvQueue >= 1<<10, "irc.limits.recv_queue", "must be at least 1KiB")
	k.is(l.SendQueue >= 16<<10, "irc.limits.send_queue", "must be at least 16KiB, which one answer may need")
	for _, d := range []struct {
		key   string
		value Duration
	}{
		{"connect_interval", l.ConnectInterval}, {"registration_timeout", l.RegistrationTimeout}, {"ping_interval", l.PingInterval},
		{"ping_timeout", l.PingTimeout}, {"command_interval", l.CommandInterval},
	} {
		k.is(d.value > 0, "irc.limits."+d.key, "must be more than 0s")
	}
}

func (c *Config) checkMatrix(k *checker) {
	k.names("matrix", len(c.Matrix), func(i int) string { return c.Matrix[i].Name })
	servers := map[string]bool{}
	for i, m := range c.Matrix {
		key := fmt.Sprintf("matrix[%d]", i)
		k.is(domainForm.MatchString(m.Server), key+".server", "%q is not a Matrix server name", m.Server)
		k.is(!servers[m.Server], key+".server", "%q is there twice", m.Server)
		servers[m.Server] = true
		k.httpURL(key+".url", m.URL)
		k.httpURL(key+".listen_url", m.ListenURL)
		k.is(nameForm.MatchString(m.Bot), key+".bot", "%q is not a Matrix localpart", m.Bot)
		k.is(nameForm.MatchString(m.AliasPrefix), key+".alias_prefix", "%q is not the beginning of an alias", m.AliasPrefix)
		k.is(m.MaxEvents >= 1 && m.MaxEvents <= 2000, key+".max_events", "must be 1 to 2000: each may need a join before it, and 4096 share a commit at most")
		k.is(m.JoinsPerSecond >= 1, key+".joins_per_second", "must be at least 1")
		k.is(nameForm.MatchString(m.GhostPrefix), key+".ghost_prefix", "%q is not the beginning of a Matrix localpart", m.GhostPrefix)
		k.is(m.MaxBody >= 1<<20, key+".max_body", "must be at least 1MiB: a transaction may hold that much")
		k.is(m.RequestTimeout > 0, key+".request_timeout", "must be more than 0s")
	}
}

// blockForm is an entry of the block list; a typing error must not leave a domain open.
var blockForm = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

func (c *Config) checkFederation(k *checker) {
	f := c.Federation
	if f.Address != "" {
		k.address("federation.address", f.Address)
		k.is(f.CertFile != "" && f.KeyFile != "", "federation.cert_file", "federation needs cert_file and key_file")
	}
	k.is(f.Base == "" || strings.HasPrefix(f.Base, "https://"), "federation.base", "must be an https URL")
	seen := map[string]bool{}
	for i, p := range f.Peers {
		key := fmt.Sprintf("federation.peers[%d]", i)
		k.is(domainForm.MatchString(p.Name) && len(p.Name) <= 253, key+".name", "%q is not the domain of a homeserver", p.Name)
		k.is(!seen[p.Name], key+".name", "%q is there twice", p.Name)
		k.address(key+".address", p.Address)
		seen[p.Name] = true
	}
	for i, b := range f.Block {
		k.is(blockForm.MatchString(b), fmt.Sprintf("federation.block[%d]", i), "%q is neither a domain nor *.suffix", b)
	}
	l := f.Limits
	k.is(l.Requests >= 1 && l.Requests <= 1<<20, "federation.limits.requests_per_second", "must be 1 to %d", 1<<20)
	k.is(l.Parallel >= 1 && l.Parallel <= 1024, "federation.limits.parallel", "must be 1 to 1024")
	k.is(l.InFlight >= 1 && l.InFlight <= 64, "federation.limits.in_flight", "must be 1 to 64")
	k.is(l.Memory >= 80<<20, "federation.limits.memory", "must be at least 80MiB, which one request may need")
}
