package matrix

import (
	"net/url"
	"regexp"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"maunium.net/go/mautrix/appservice"

	"github.com/isthmus-chat/isthmus/core"
)

// Bounds that no operator needs to change, each with its reason.
const (
	maxEventBytes  = 256 << 10              // one event: the specification allows 64 KiB, escapes may blow it up
	maxEventDepth  = 64                     // nesting of one event: known types need fewer than 10
	maxBodies      = 4                      // transactions read at a time: a homeserver sends one
	maxDead        = 16                     // dead letters kept of one transaction; the others are counted
	deadRing       = 1000                   // dead letters kept altogether
	maxKnown       = 100_000                // members whose names are kept in memory
	maxRecent      = 8192                   // placed IDs kept in memory until the runtime has stored them
	maxNotices     = 64                     // notices and typing waiting to be sent; more are dropped, and counted
	maxGuest       = 1024                   // rooms our bot was invited to and that are not linked; more are not noted
	maxAnswer      = 64 << 20               // answer of the homeserver; a room of 100,000 members has 20 MiB
	maxIdle        = 64                     // idle connections to the homeserver
	maxUserID      = 255                    // octets of a Matrix user ID (specification v1.19, appendix 4.2.1)
	syncPage       = 500                    // members that are synchronised in one transaction of ours
	linkCache      = time.Second            // how long links are kept before they are read again
	noticeInterval = 10 * time.Minute       // the same notice is not said again sooner in one room
	tokenRefused   = 5 * time.Minute        // the homeserver does not know our token: a person must act
	nameTimeout    = 2 * time.Second        // for a speaker's name: a transaction is to be answered within 5 s
	firstRetry     = 500 * time.Millisecond // of work in the background; doubles up to lastRetry
	lastRetry      = time.Minute
)

// A Config says which homeserver this is an application service of, and how.
type Config struct {
	URL       string // where its client-server API answers, such as http://127.0.0.1:8008
	Server    string // the part after the colon in its user IDs
	Domain    string // our own homeserver's domain
	ListenURL string // where the homeserver reaches Handler; only for the registration

	ASToken string // what we show to it
	HSToken string // what it shows to us
	ID      string // of the registration; default "isthmus"

	Bot         string // localpart of our own user; default "isthmus"
	UserPrefix  string // localparts of ghosts begin with it; default "isthmus_"
	AliasPrefix string // aliases of our rooms begin with it; default UserPrefix

	// CreateRooms lets GET /rooms/{alias} make the Matrix room of an existing
	// Channel. Off, a link needs an operator.
	CreateRooms bool
	// Fold maps a channel name to the one its room ID is made of; nil = ASCII.
	Fold func(string) string

	MaxBody        int64         // octets of one transaction; default 16 MiB
	MaxEvents      int           // events that share one commit; default 1000
	RequestTimeout time.Duration // of one request to the homeserver; default 30 s
	InviteGrace    time.Duration // how long our bot stays in a room that is not linked; default 10 min
	JoinsPerSecond float64       // ghosts that join or leave unasked (mirror, sweep); default 10
}

func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	c.URL = strings.TrimRight(c.URL, "/")
	def(&c.ID, "isthmus")
	def(&c.Bot, "isthmus")
	def(&c.UserPrefix, "isthmus_")
	def(&c.AliasPrefix, c.UserPrefix)
	if c.MaxBody <= 0 {
		c.MaxBody = 16 << 20 // Synapse sends at most 100 events of 64 KiB
	}
	if c.MaxEvents <= 0 {
		c.MaxEvents = 1000
	}
	c.MaxEvents = min(c.MaxEvents, 2000) // the runtime takes 4096 at once; each may need a join before it
	if c.RequestTimeout <= 0 {
		c.RequestTimeout = 30 * time.Second
	}
	if c.InviteGrace <= 0 {
		c.InviteGrace = 10 * time.Minute
	}
	if c.JoinsPerSecond <= 0 {
		c.JoinsPerSecond = 10
	}
	if c.Fold == nil {
		c.Fold = foldASCII
	}
	return c
}

// check reports what makes cfg unusable.
func (c Config) check() error {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		return core.Errorf(core.Invalid, "the URL of the Matrix homeserver is not http or https")
	case c.Server == "" || c.Domain == "":
		return core.Errorf(core.Invalid, "the Matrix homeserver's name or our domain is missing")
	case len(c.ASToken) < 16 || len(c.HSToken) < 16:
		return core.Errorf(core.Invalid, "as_token and hs_token need at least 16 characters")
	case c.ASToken == c.HSToken:
		return core.Errorf(core.Invalid, "as_token and hs_token must differ")
	}
	return nil
}

// Registration returns the file that the homeserver needs (application service
// API v1.19, §registration), as YAML.
func Registration(cfg Config) ([]byte, error) {
	cfg = cfg.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.ListenURL == "" {
		return nil, core.Errorf(core.Invalid, "the URL under which the Matrix homeserver reaches this one is missing")
	}
	limited := false
	server := regexp.QuoteMeta(":" + cfg.Server)
	return yaml.Marshal(&appservice.Registration{
		ID: cfg.ID, URL: cfg.ListenURL, AppToken: cfg.ASToken, ServerToken: cfg.HSToken, SenderLocalpart: cfg.Bot,
		RateLimited: &limited, Protocols: []string{protocolIRC},
		SoruEphemeralEvents: true, EphemeralEvents: true, // the first name is for homeservers before v1.13
		Namespaces: appservice.Namespaces{
			UserIDs: appservice.NamespaceList{
				{Regex: "^@" + regexp.QuoteMeta(cfg.UserPrefix) + ".*" + server + "$", Exclusive: true},
				{Regex: "^@" + regexp.QuoteMeta(cfg.Bot) + server + "$", Exclusive: true},
			},
			RoomAliases: appservice.NamespaceList{{Regex: "^#" + regexp.QuoteMeta(cfg.AliasPrefix) + ".*" + server + "$", Exclusive: true}},
		},
	})
}

// foldASCII is the case mapping that IRC calls ascii.
func foldASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if 'A' <= r && r <= 'Z' {
			r += 'a' - 'A'
		}
		return r
	}, s)
}
